"""What is paid once or rarely: import, first launch, calls that Triton serves, memory."""

import gc
import statistics
import time

from .common import BATCHES, ONCE, case_named, device, outcome, process, sample, value

MISSES = ["learnt from", "left to Triton"]


def setup_cache():
    return {
        **{name: outcome(miss, name) for name in MISSES},
        **{path: outcome(startup, path) for path in ("lowlat", "triton")},
        "memory": outcome(memory),
    }


def miss(name):
    import triton

    import lowlat

    case = case_named("19 params")
    tensors = device().tensors(case.tensors)
    samples, kernels = {}, {}
    for library in (lowlat, triton):
        kernel = kernels[library.__name__] = library.jit(case.kernel)
        samples[library.__name__] = []
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
                samples[path].append(time.perf_counter_ns() - start)
            device().synchronize()
    finally:
        gc.enable()
    if (left := sum(kernels["lowlat"].exits.values()) - before) != BATCHES * 10:
        raise RuntimeError(f"{left} calls went to Triton where {BATCHES * 10} should have: {kernels['lowlat'].exits}")
    return {path: statistics.median(values) for path, values in samples.items()}


def startup(path):
    device()  # the right one
    process("startup", path)  # compiles the kernel and writes what is missing of the .pyc files
    runs = [process("startup", path) for _ in range(1 if ONCE else 3)]
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


def memory():
    import lowlat

    device()
    if "__copy__" not in vars(lowlat.JITFunction):
        raise NotImplementedError("copies of a kernel share their plans in this lowlat")
    return process("memory")


class Miss:
    """A call that lowlat leaves to Triton, which finds the kernel in its own cache."""

    params = [["lowlat", "triton"], MISSES]
    param_names = ["path", "call"]
    version = "1"

    def track_miss(self, measured, path, call):
        return sample(measured[call], path, 1e-3)

    track_miss.unit = "us"
    track_miss.rounds = 6


class Startup:
    version = "1"

    def track_import(self, measured):
        """`import lowlat` once torch and Triton are imported."""
        return sample(measured["lowlat"], "import", 1e3)

    track_import.unit = "ms"
    track_import.rounds = 3

    def track_first_launch(self, measured, path):
        """The first launch of a process, the kernel in Triton's disk cache."""
        return sample(measured[path], "first launch", 1e3)

    track_first_launch.params = [["lowlat", "triton"]]
    track_first_launch.param_names = ["path"]
    track_first_launch.unit = "ms"
    track_first_launch.rounds = 3


class Memory:
    version = "1"
    params = [["first plan", "further plan"]]
    param_names = ["plan"]

    def track_plan(self, measured, plan):
        """Bytes that stay allocated once a 19-parameter kernel has learnt its first plan, or a further one."""
        return value(measured["memory"], plan)

    track_plan.unit = "bytes"
