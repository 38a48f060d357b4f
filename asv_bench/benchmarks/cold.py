"""What is paid once or rarely: import, first launch, calls that Triton serves, memory."""

import functools
import gc
import statistics
import time

from .common import BATCHES, Lacking, case_named, device, passes, process, samples, value

MISSES = ["learnt from", "left to Triton"]


def setup_cache():
    return passes({
        **{name: functools.partial(miss, name) for name in MISSES},
        "lowlat": functools.partial(startup, "lowlat"),
        "triton": functools.partial(startup, "triton"),
        "memory": memory,
    })


def miss(name):
    import triton

    import lowlat

    case = case_named("19 params")
    tensors = device().tensors(case.tensors)
    times, kernels = {}, {}
    for library in (lowlat, triton):
        kernel = kernels[library.__name__] = library.jit(case.kernel)
        times[library.__name__] = []
        if name == "left to Triton":
            kernel.add_pre_run_hook(lambda *args, **kwargs: None)
    forget = kernels["lowlat"].forget if name == "learnt from" else lambda: None
    names = {f"p{i}": tensor for i, tensor in enumerate(tensors)}
    calls = {path: eval(f"lambda k, grid, {', '.join(names)}: lambda: {case.call}")(kernel, (1, ), **names)
             for path, kernel in kernels.items()}
    for call in calls.values():
        call()
    before = sum(kernels["lowlat"].exits.values())
    gc.collect()
    gc.disable()
    try:
        for _ in range(BATCHES * 10):
            for path, call in calls.items():
                forget()
                start = time.perf_counter_ns()
                call()
                times[path].append(time.perf_counter_ns() - start)
            device().synchronize()
    finally:
        gc.enable()
    if (left := sum(kernels["lowlat"].exits.values()) - before) != BATCHES * 10:
        raise RuntimeError(f"{left} calls went to Triton where {BATCHES * 10} should have: {kernels['lowlat'].exits}")
    return {path: statistics.median(values) for path, values in times.items()}


@functools.cache
def warmed():
    """What the first process after an installation writes is there: compiled kernels and .pyc files."""
    device()  # the right one
    process("startup", "lowlat")


def startup(path):
    warmed()
    return process("startup", path)


@functools.cache
def memory():
    import lowlat

    device()
    if "__copy__" not in vars(lowlat.JITFunction):
        raise Lacking("copies of a kernel share their plans in this lowlat")
    return process("memory", PYTHONMALLOC="malloc")  # so that the C library knows of every byte


class Miss:
    """A call that lowlat leaves to Triton, which finds the kernel in its own cache."""

    params = [["lowlat", "triton"], MISSES]
    param_names = ["path", "call"]
    version = "1"

    def track_miss(self, measured, path, call):
        return samples(measured, call, path, 1e-3)

    track_miss.unit = "us"
    track_miss.rounds = 4


class Startup:
    version = "1"

    def track_import(self, measured):
        """`import lowlat` once torch and Triton are imported."""
        return samples(measured, "lowlat", "import", 1e3)

    track_import.unit = "ms"
    track_import.rounds = 4

    def track_first_launch(self, measured, path):
        """The first launch of a process, the kernel in Triton's disk cache."""
        return samples(measured, path, "first launch", 1e3)

    track_first_launch.params = [["lowlat", "triton"]]
    track_first_launch.param_names = ["path"]
    track_first_launch.unit = "ms"
    track_first_launch.rounds = 4


class Memory:
    params = [["first plan", "further plan"]]
    param_names = ["plan"]
    version = "1"

    def track_plan(self, measured, plan):
        """What stays allocated once a 19-parameter kernel has learnt its first plan, or a further one."""
        return value(measured, "memory", plan)

    track_plan.unit = "bytes"
