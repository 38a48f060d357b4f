"""What can be seen of the graph route besides its results (tests/test_gpu_graphs.py): in a profiler, under the
sanitizer, in memory, in the launch queue.  Prints both routes side by side; needs a GPU.

    python docs/results/graphs_observed.py
"""

import collections
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import torch
import triton
import triton.language as tl

import lowlat
from lowlat import _fast

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "tests"))
from test_gpu_graphs import ROUTES, add, clock, where  # noqa: E402  (its kernels)


def spin(out, nanoseconds):
    start = clock()
    now = start
    while now - start < nanoseconds:
        now = clock()
    tl.store(out, 1)


def spelled(out, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, D: tl.constexpr, E: tl.constexpr, F: tl.constexpr,
            G: tl.constexpr, H: tl.constexpr, J: tl.constexpr):
    tl.atomic_add(out, 1)


def kernel_of(function, route):
    kernel = lowlat.jit(function, do_not_specialize=["i", "value", "nanoseconds"])
    kernel.route = route
    return kernel


def profiler():
    from torch.profiler import ProfilerActivity, profile

    out = torch.zeros(4, dtype=torch.int32, device="cuda")
    for route in ROUTES:
        kernel = kernel_of(add, route)
        for _ in range(50):
            kernel[(3, )](out, 0, 1)
        torch.cuda.synchronize()
        with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
            for _ in range(10):
                kernel[(3, )](out, 0, 1)
            torch.cuda.synchronize()
        with tempfile.NamedTemporaryFile(suffix=".json") as file:
            seen.export_chrome_trace(file.name)
            events = json.load(open(file.name))["traceEvents"]
        counts = collections.Counter((event.get("cat"), event["name"]) for event in events
                                     if event.get("cat") in ("kernel", "cuda_runtime", "cuda_driver", "gpu_memcpy"))
        one = next((event for event in events if event.get("cat") == "kernel"), {"args": {}})
        print(f"  {route}: {dict(counts)}")
        print("    one kernel's event:", {name: value for name, value in one["args"].items()
                                           if name in ("grid", "block", "stream", "graph node id", "correlation")})


def memory():
    kernels = [kernel_of(add, "graph") for _ in range(10)]
    _fast.set_route("driver", 0, 4096, False)
    out = torch.zeros(4, dtype=torch.int32, device="cuda")
    streams = raw_streams(100)
    for kernel in kernels:
        kernel.route = "driver"
        for stream in streams:
            with torch.cuda.stream(stream):
                kernel[(1, )](out, 0, 1)
                kernel[(1, )](out, 0, 1)
        kernel.route = "graph"
    torch.cuda.synchronize()
    free, resident, before = torch.cuda.mem_get_info()[0], rss(), _fast.graph_count()
    start = time.perf_counter()
    for kernel in kernels:
        for stream in streams:
            with torch.cuda.stream(stream):
                kernel[(1, )](out, 0, 1)
    took = time.perf_counter() - start
    torch.cuda.synchronize()
    made = _fast.graph_count() - before
    taken = free - torch.cuda.mem_get_info()[0]
    print(f"  {made} graphs made and launched: device {taken / made / 1e3:.0f} KB each, "
          f"host {(rss() - resident) / made:.1f} KB each, {took / made * 1e6:.1f} us each")
    start = time.perf_counter()
    _fast.drop_graphs()
    took = time.perf_counter() - start
    torch.cuda.synchronize()
    print(f"  dropped: {took / made * 1e6:.1f} us each; of the device's memory "
          f"{(free - torch.cuda.mem_get_info()[0]) / made / 1e3:.0f} KB each is kept by the driver")
    _fast.set_route("driver", 32, 256, False)


def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e3


def raw_streams(count):
    driver = ctypes.CDLL("libcuda.so.1")
    made = []
    for _ in range(count):
        handle = ctypes.c_void_p()
        assert driver.cuStreamCreate(ctypes.byref(handle), 1) == 0
        made.append(torch.cuda.ExternalStream(handle.value))
    return made


def queue():
    """After how many launches behind a long one the host has to wait."""
    out = torch.zeros(4, dtype=torch.int32, device="cuda")
    for route in ROUTES:
        late, kernel = kernel_of(spin, route), kernel_of(add, route)
        for _ in range(50):
            late[(1, )](out, 10)
            kernel[(1, )](out, 1, 1)
        torch.cuda.synchronize()
        late[(1, )](out, 500_000_000)
        times = []
        for _ in range(3000):
            start = time.perf_counter_ns()
            kernel[(1, )](out, 1, 1)
            times.append(time.perf_counter_ns() - start)
        first = next((i for i, took in enumerate(times) if took > 20_000_000), None)
        torch.cuda.synchronize()
        print(f"  {route}: waits at launch {first}; median of those before {statistics.median(times[:first]):.0f} ns")


def latency():
    """A launch and its end, in turns."""
    out = torch.zeros(4, dtype=torch.int32, device="cuda")
    kernels = {route: kernel_of(add, route) for route in ROUTES}
    samples = {route: [] for route in ROUTES}
    for turn in range(2050):
        for route, kernel in kernels.items():
            start = time.perf_counter_ns()
            kernel[(1, )](out, 0, 1)
            torch.cuda.current_stream().synchronize()
            if turn >= 50:
                samples[route].append(time.perf_counter_ns() - start)
    print("  launch and synchronise:", {route: f"{statistics.median(taken) / 1e3:.2f} us"
                                        for route, taken in samples.items()})
    for nanoseconds in (5000, 20000):
        gaps = {}
        kernels = {route: kernel_of(spin, route) for route in ROUTES}
        for kernel in kernels.values():
            for _ in range(50):
                kernel[(1, )](out, nanoseconds)
        for _ in range(10):
            for route, kernel in kernels.items():
                started, done = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                torch.cuda.synchronize()
                started.record()
                for _ in range(300):
                    kernel[(1, )](out, nanoseconds)
                done.record()
                torch.cuda.synchronize()
                gaps.setdefault(route, []).append(started.elapsed_time(done) / 300 * 1e3)
        print(f"  kernels of {nanoseconds / 1000:.0f} us back to back, by events:",
              {route: f"{statistics.median(taken):.2f} us" for route, taken in gaps.items()})


def plans():
    ones = (1, True, 1.0)
    calls = [[ones[number // 3 ** place % 3] for place in range(9)] for number in range(10_000)]
    out = torch.zeros(4, dtype=torch.int32, device="cuda")
    kernels = {route: kernel_of(spelled, route) for route in ROUTES}
    for budget in (256, 20_000):
        _fast.set_route("driver", 2, budget, False)
        taken = {route: [] for route in ROUTES}
        for _ in range(6):
            for route, kernel in kernels.items():
                torch.cuda.synchronize()
                start = time.perf_counter_ns()
                for i, call in enumerate(calls):
                    kernel[(1, )](out, *call)
                    if i % 500 == 499:
                        torch.cuda.synchronize()
                taken[route].append((time.perf_counter_ns() - start) / len(calls) / 1e3)
        free = torch.cuda.mem_get_info()[0]
        print(f"  10,000 plans in a cycle, at most {budget} graphs: us a launch, six rounds:",
              {route: " ".join(f"{one:.2f}" for one in rounds) for route, rounds in taken.items()},
              f"{_fast.graph_count()} graphs")
        _fast.drop_graphs()
        torch.cuda.synchronize()
        print(f"    those took {(torch.cuda.mem_get_info()[0] - free) / 1e6:.0f} MB")
    _fast.set_route("driver", 32, 256, False)


def partition():
    """A stream of a green context, which has eight multiprocessors, in a thread whose context is the usual one."""
    driver = ctypes.CDLL("libcuda.so.1")
    if not hasattr(driver, "cuGreenCtxStreamCreate"):
        print("  none in this driver")
        return
    whole, part, rest = (ctypes.create_string_buffer(4096) for _ in range(3))
    device, groups = ctypes.c_int(0), ctypes.c_uint(1)
    description, green, handle = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    for result in (driver.cuDeviceGetDevResource(device, whole, 1),
                   driver.cuDevSmResourceSplitByCount(part, ctypes.byref(groups), whole, rest, 0, 8),
                   driver.cuDevResourceGenerateDesc(ctypes.byref(description), part, 1),
                   driver.cuGreenCtxCreate(ctypes.byref(green), description, device, 1),
                   driver.cuGreenCtxStreamCreate(ctypes.byref(handle), green, 1, 0)):
        if result:
            print(f"  the driver said {result}")
            return
    own, current = ctypes.c_void_p(), ctypes.c_void_p()
    driver.cuStreamGetCtx(handle, ctypes.byref(own))
    driver.cuCtxGetCurrent(ctypes.byref(current))
    print(f"  the stream's context is the thread's: {own.value == current.value}")
    for route in ROUTES:
        kernel, used = kernel_of(where, route), []
        out = torch.zeros(1024, dtype=torch.int32, device="cuda")
        torch.cuda.synchronize()
        for _ in range(40):
            kernel[(264, )](out, 1)
        for stream in (torch.cuda.current_stream(), torch.cuda.ExternalStream(handle.value)):
            with torch.cuda.stream(stream):
                out.zero_()
                for _ in range(40):
                    kernel[(264, )](out, 20_000)
            torch.cuda.synchronize()
            used.append((out != 0).sum().item())
        print(f"  {route}: multiprocessors used by the usual stream, by the green context's: {used}, "
              f"{kernel.plans[-1].submitted}")


FAULTY = """
import sys, torch, lowlat
import triton.language as tl
@lowlat.jit(do_not_specialize=["i"])
def store(x, i):
    tl.store(x + i, 1)
x = torch.zeros(64, dtype=torch.int32, device="cuda")
for i in range(50):
    store[(1,)](x, i)
torch.cuda.synchronize()
if len(sys.argv) > 1:
    store[(1,)](x, 1 << 28)
    torch.cuda.synchronize()
print(x.sum().item(), store.plans[0].submitted)
"""


WORTH_A_LOOK = ("Invalid", "ERROR", "    at ", "store", "grid_size", "{")


def tools():
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "faulty.py")
        with open(path, "w") as file:
            file.write(FAULTY)
        for tool, options in (("compute-sanitizer", ["--tool", "memcheck"]),
                              ("ncu", ["--kernel-name", "store", "--launch-skip", "45", "--launch-count", "2",
                                       "--metrics", "launch__grid_size"])):
            found = shutil.which(tool)
            if found is None:
                print(f"  {tool}: not installed")
                continue
            for route in ROUTES:
                for fault in ([], ["fault"]) if tool == "compute-sanitizer" else ([], ):
                    try:
                        done = subprocess.run([found, *options, sys.executable, path, *fault], capture_output=True,
                                              text=True, timeout=50, env={**os.environ, "LOWLAT_ROUTE": route,
                                              "PYTORCH_NO_CUDA_MEMORY_CACHING": "1",
                                              "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
                    except subprocess.TimeoutExpired:
                        print(f"  {tool}, {route}{', with a fault' if fault else ''}: not done after 50 s")
                        continue
                    lines = [line for line in (done.stdout + done.stderr).splitlines()
                             if any(word in line for word in WORTH_A_LOOK)]
                    print(f"  {tool}, {route}{', with a fault' if fault else ''}: rc {done.returncode}")
                    for line in lines[:7]:
                        print(f"    {line.strip()[:150]}")


if __name__ == "__main__":
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "triton", triton.__version__)
    chosen = sys.argv[1:] or ["profiler", "memory", "queue", "latency", "plans", "partition", "tools"]
    for name in chosen:
        print(f"{name}:", flush=True)
        try:
            globals()[name]()
        except Exception as error:
            print(f"  {type(error).__name__}: {error}")
        sys.stdout.flush()
