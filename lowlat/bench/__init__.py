"""Launch latency, measured: triton against lowlat, with the floor and the launchers between them in the same run.

Host time per launch: batches of launches well below the driver's queue depth, the clock stopped before the
synchronise, the paths interleaved batch by batch, medians over the batches.  After each case the kernels' own
counters (on the null driver: the driver's) say whether every launch happened.
"""

from __future__ import annotations

import gc
import itertools
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from typing import Any

import triton

import lowlat
from lowlat import _fast, _torch

from . import kernels

PATHS = ("noop", "floor", "lowlat", "wrapper", "CompiledKernel.run", "triton")
"""What is timed, by name.

noop: a Python function taking the same arguments.  floor: cuLaunchKernelEx in a C loop.  wrapper: lowlat by way of
Triton's compiled launcher.  CompiledKernel.run: Triton's launcher called with the kernel in hand."""

BATCH = 300  # the driver's launch queue holds about 1,000


@dataclass(frozen=True)
class Case:
    """One way to launch one kernel.  `call` and `bound` are Python source over p0.. (tensors), k and grid; `around`
    puts a library's autotune or heuristics around the kernel."""

    name: str
    kernel: Callable[..., Any]
    tensors: int
    call: str
    bound: str
    callable_grid: bool = False
    paths: tuple[str, ...] = PATHS
    around: Callable[[Any, Any], Any] = lambda library, kernel: kernel


def _parameters(tensors: int, scalars: int, constexprs: int) -> str:
    # One int is 1 (Triton makes it a constant), some are multiples of 16, none of the others repeats.
    numbers = [3 + 7 * i if i % 3 else 16 * (i + 2) for i in range(scalars)]
    if scalars > 4:
        numbers[-1] = 1
    return ", ".join([f"p{i}" for i in range(tensors)] + [str(n) for n in numbers] + ["32"] * constexprs)


def _positional(name: str, kernel: Callable[..., Any], tensors: int, scalars: int, constexprs: int) -> Case:
    arguments = _parameters(tensors, scalars, constexprs)
    return Case(name, kernel, tensors, f"k[grid]({arguments})", arguments)


_MEDIAN = "p0, p1, p2, p3, p4, 77, 96, 1024, 5, A=64, B=32, C=True, D=None, E='x', F=128, num_warps=4, num_stages=2"
_MEDIAN_BOUND = "p0, p1, p2, p3, p4, 77, 96, 1024, 5, 64, 32, True, None, 'x', 128"

_FEWER = "p0, p1, p2, p3, p4, 77, 96, 1024, 5, B=32, C=True, D=None, E='x'"


def _tuned(library: Any, kernel: Any) -> Any:
    configs = [triton.Config({"A": 64 + i}, num_warps=4, num_stages=2) for i in range(8)]
    return library.autotune(configs=configs, key=["n0", "n1", "s0"])(kernel)


def _with_heuristics(library: Any, kernel: Any) -> Any:
    return library.heuristics({"A": lambda args: 64, "F": lambda args: 128})(kernel)


CASES = (
    Case("median call", kernels.median_call, 5, f"k[grid]({_MEDIAN})", _MEDIAN_BOUND),
    _positional("0 params", kernels.no_parameters, 0, 0, 0),
    _positional("4 params", kernels.parameters_4, 2, 1, 1),
    _positional("19 params", kernels.parameters_19, 5, 9, 5),
    _positional("32 params", kernels.parameters_32, 8, 14, 10),
    _positional("58 params", kernels.parameters_58, 14, 26, 18),
    Case("callable grid", kernels.median_call, 5, f"k[grid]({_MEDIAN})", _MEDIAN_BOUND, callable_grid=True),
    Case("run door", kernels.median_call, 5, f"k.run({_MEDIAN}, grid=grid, warmup=False)", _MEDIAN_BOUND),
    Case("tuned", kernels.median_call, 5, f"k[grid]({_FEWER}, F=128)", _MEDIAN_BOUND, around=_tuned),
    Case("heuristics", kernels.median_call, 5, f"k[grid]({_FEWER}, num_warps=4, num_stages=2)", _MEDIAN_BOUND,
         around=_with_heuristics),
)
SLOPES = (
    _positional("1 tensor", kernels.tensors_1, 1, 0, 0),
    _positional("17 tensors", kernels.tensors_17, 17, 0, 0),
    _positional("16 scalars", kernels.scalars_16, 1, 16, 0),
    _positional("16 constexprs", kernels.constexprs_16, 1, 0, 16),
)


@dataclass
class Measurement:
    """Nanoseconds per launch: median and quartiles over the batches."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, samples: list[float]) -> Measurement:
        low, median, high = statistics.quantiles(samples, n=4)
        return cls(median, low, high)


@dataclass
class Report:
    """Everything one run measured.

    `results[case][path]` is a Measurement; `slopes[path][kind]` is nanoseconds per further argument, for tensors,
    scalars and constexprs; `batches` batches of `batch` launches were timed for each; `checked[case]` says how the
    launches were counted.
    """

    environment: dict[str, Any]
    batches: int
    batch: int
    results: dict[str, dict[str, Measurement]] = field(default_factory=dict)
    slopes: dict[str, dict[str, float]] = field(default_factory=dict)
    checked: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def run(*, batches: int = 40, progress: Callable[[str], None] = lambda name: None) -> Report:
    """Measure every case on every path; on the GPU, or on the null driver where there is none.

    `batches` batches of 300 launches for each, 30 or more for a median worth reading; `progress` is called with each
    case's name before it is measured.  Raises RuntimeError if a launch did not happen or a lowlat path did not launch
    natively.
    """
    device = Device()
    _torch.attach()
    report = Report(environment(device), batches, BATCH)
    for case in (*CASES, *SLOPES):
        progress(case.name)
        results, checked = measure(case, device, batches)
        report.results[case.name] = results
        report.checked[case.name] = checked
    for path in PATHS:
        at = {case.name: report.results[case.name][path].median for case in SLOPES}
        report.slopes[path] = {
            "tensor": (at["17 tensors"] - at["1 tensor"]) / 16,
            "scalar": (at["16 scalars"] - at["1 tensor"]) / 16,
            "constexpr": (at["16 constexprs"] - at["1 tensor"]) / 16,
        }
    return report


class Device:
    """The GPU, or the null driver with CPU tensors standing in."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.null = not torch.cuda.is_available()
        if self.null:
            from lowlat import null

            null.activate()
            self.name = "null driver"
        else:
            self.name = torch.cuda.get_device_name()

    def tensors(self, count: int) -> list[Any]:
        where = "cpu" if self.null else "cuda"
        return [self.torch.zeros(64, dtype=self.torch.int32, device=where) for _ in range(count)]

    def synchronize(self) -> None:
        if not self.null:
            self.torch.cuda.synchronize()

    def stream(self) -> int:
        return 0 if self.null else self.torch.cuda.current_stream().cuda_stream

    def launches(self, counter: Any) -> int | None:
        """Launches so far, or None where nothing counts them."""
        if self.null:
            from lowlat import null

            return null.launches()
        self.synchronize()
        return None if counter is None else int(counter[0])


def measure(case: Case, device: Device, batches: int) -> tuple[dict[str, Measurement], str]:
    """(measurement per path, how the launches were checked)"""
    tensors = device.tensors(case.tensors)
    counter = tensors[0] if tensors else None
    grid: Any = (lambda meta: (1, )) if case.callable_grid else (1, )
    kernel = lowlat.jit(case.kernel)
    kernel.route = "wrapper"
    fast, wrapper = case.around(lowlat, lowlat.jit(case.kernel)), case.around(lowlat, kernel)
    plain = case.around(triton, triton.jit(case.kernel))

    loops: dict[str, Callable[[Iterator[None]], None]] = {}
    for path, kernel in (("lowlat", fast), ("wrapper", wrapper), ("triton", plain)):
        loops[path] = _loop(case.call, kernel, grid, tensors)
        loops[path](itertools.repeat(None, 3))  # compile, learn, launch natively once
    compiled = _compiled(case, plain, grid, tensors)
    loops["noop"] = _loop(f"k({case.call.partition('(')[2]}", _noop, grid, tensors)
    loops["CompiledKernel.run"] = _loop(f"k.run(1, 1, 1, stream, function, packed, None, None, None, {case.bound})",
                                        compiled, grid, tensors, stream=device.stream(), function=compiled.function,
                                        packed=compiled.packed_metadata)

    samples: dict[str, list[float]] = {path: [] for path in PATHS}
    exits = {"lowlat": _exits(fast), "wrapper": _exits(wrapper)}
    before = device.launches(counter)
    parameters = case.tensors + 30  # more than any kernel here reads
    gc_was_enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(batches):
            for path in PATHS:
                device.synchronize()
                if path == "floor":
                    nanoseconds = _floor(compiled, case, tensors, device, parameters)
                else:
                    times = itertools.repeat(None, BATCH)
                    loop = loops[path]
                    start = time.perf_counter_ns()
                    loop(times)
                    nanoseconds = (time.perf_counter_ns() - start) / BATCH
                samples[path].append(nanoseconds)
            device.synchronize()
    finally:
        if gc_was_enabled:
            gc.enable()
    after = device.launches(counter)
    counted = len(PATHS) - 1  # all but noop launch
    checked = "nothing to count in on the GPU"
    if before is not None and after is not None:
        if after - before != counted * batches * BATCH:
            raise RuntimeError(f"{case.name}: {after - before} launches where {counted * batches * BATCH} were made")
        checked = f"{after - before} launches counted"
    for path, kernel in (("lowlat", fast), ("wrapper", wrapper)):
        if _exits(kernel) != exits[path]:
            raise RuntimeError(f"{case.name}: {path} went to Triton: {_exits(kernel)}")
    return {path: Measurement.of(samples[path]) for path in PATHS}, checked


def _exits(kernel: Any) -> list[dict[str, int]]:
    """Of the kernel, and of the tuner and heuristics around it."""
    exits = []
    while hasattr(kernel, "exits"):
        exits.append(kernel.exits)
        kernel = kernel.fn
    return exits


def _loop(call: str, k: Any, grid: Any, tensors: list[Any], **names: Any) -> Callable[[Iterator[None]], None]:
    """A function that makes the call once per item: literals are constants, the rest local variables, as in the body
    of a user's function."""
    arguments = {"k": k, "grid": grid, **{f"p{i}": tensor for i, tensor in enumerate(tensors)}, **names}
    parameters = ", ".join(f"{name}={name}" for name in arguments)
    source = f"def loop(times, {parameters}):\n    for _ in times:\n        {call}\n"
    exec(source, arguments)
    return arguments["loop"]


def _noop(*args: Any, **kwargs: Any) -> None:
    pass


def _compiled(case: Case, kernel: Any, grid: Any, tensors: list[Any]) -> Any:
    names = {"k": kernel, "grid": grid, **{f"p{i}": tensor for i, tensor in enumerate(tensors)}}
    compiled = eval(case.call, names)
    compiled.run  # noqa: B018  (a property: loads the kernel)
    return compiled


def _floor(compiled: Any, case: Case, tensors: list[Any], device: Device, parameters: int) -> float:
    pointers = [tensor.data_ptr() for tensor in tensors]
    return _fast.floor(compiled.function, pointers, parameters, 32 * compiled.packed_metadata[0],
                       compiled.packed_metadata[2], device.stream(), BATCH)


def environment(device: Device) -> dict[str, Any]:
    """What a reader needs to place the figures."""
    import torch

    cpu = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as lines:
            cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    driver = None
    if not device.null:
        try:
            with open("/proc/driver/nvidia/version") as text:
                driver = next((word for word in text.readline().split() if word[0].isdigit() and "." in word), None)
        except OSError:
            pass
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "device": device.name,
        "driver": driver,
        "cpu": cpu,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
        "lowlat": lowlat.__version__,
        "tensors": _torch.rung,
        "command": " ".join(["python", "-m", "lowlat", *sys.argv[1:]]),
    }
