"""What has to be measured in a process of its own: `startup`, `memory` and `count`; the last line printed is JSON."""

import copy
import ctypes
import gc
import itertools
import json
import sys
import time

import torch
import triton

started = time.perf_counter()
import lowlat  # noqa: E402  (timed)

imported = time.perf_counter() - started

from benchmarks.common import Lacking, case_named, checkout_bench, device, needs  # noqa: E402

loop = checkout_bench().loop


def startup(path):
    """Seconds that the import and the first launch take."""
    case = case_named("19 params")
    tensors = device().tensors(case.tensors)
    kernel = {"lowlat": lowlat, "triton": triton}[path].jit(case.kernel)
    run = loop(case.call, k=kernel, grid=(1, ), **{f"p{i}": tensor for i, tensor in enumerate(tensors)})
    started = time.perf_counter()
    run([None])
    return {"import": imported, "first launch": time.perf_counter() - started}


def memory():
    """Bytes per plan, over 500 copies of a kernel, which share Triton's caches and have plans of their own.

    To be run with PYTHONMALLOC=malloc, so that the C library knows of every byte.
    """
    case = case_named("19 params")
    tensors = device().tensors(case.tensors)
    names = {"grid": (1, ), **{f"p{i}": tensor for i, tensor in enumerate(tensors)}}
    kernel = lowlat.jit(case.kernel)
    calls = {"first plan": case.call, "further plan": case.call.replace("32)", "64)")}
    for call in calls.values():
        loop(call, k=kernel, **names)(itertools.repeat(None, 2))
    copies = [copy.copy(kernel) for _ in range(500)]
    if copies[0].plans:
        raise RuntimeError("a copy has plans from the start")
    result = {}
    for plan, call in calls.items():
        runs = [loop(call, k=duplicate, **names) for duplicate in copies]
        before = allocated()
        for run in runs:
            run([None])
        result[plan] = (allocated() - before) / len(copies)
    if any(len(duplicate.plans) != 2 for duplicate in copies):
        raise RuntimeError("a copy has not got its two plans")
    return result


def allocated():
    gc.collect()
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = Mallinfo
    now = libc.mallinfo2()
    return now.uordblks + now.hblkhd


class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks",
                                                     "fsmblks", "uordblks", "fordblks", "keepcost")]


def count(requests, *cases):
    """Under valgrind: a dump for each case on each path at two numbers of launches.  Returns {case: what it lacks}."""
    from lowlat import null

    null.activate(force=True)
    requests, lacking = ctypes.CDLL(requests), {}
    for name in cases:
        case = case_named(name)
        try:
            if name in ("tuned", "heuristics"):
                needs("autotune")
        except Lacking as missing:
            lacking[name] = str(missing)
            continue
        tensors = [torch.zeros(64, dtype=torch.int32) for _ in range(case.tensors)]
        names = {"grid": (lambda meta: (1, )) if case.callable_grid else (1, ),
                 **{f"p{i}": tensor for i, tensor in enumerate(tensors)}}
        for path, library, numbers in (("lowlat", lowlat, (100, 600)), ("triton", triton, (20, 60))):
            run = loop(case.call, k=case.around(library, library.jit(case.kernel)), **names)
            run(itertools.repeat(None, 10))
            gc.collect()
            gc.disable()
            requests.start()
            run(itertools.repeat(None, 10))
            for launches in numbers:
                times = itertools.repeat(None, launches)
                requests.dump(b"before")
                run(times)
                requests.dump(f"{path}/{name}/{launches}".encode())
            requests.stop()
            gc.enable()
    return lacking


print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
