"""Launch latency, measured: triton against lowlat, with the floor and the launchers between them in the same run.

Host time per launch (see `timing.py`), medians over the batches.  After each case the kernels' own counters (on the
null driver: the driver's) say whether every launch happened.  `graphs.py` has launches by graph, `peers.py` other ways
to launch a kernel, `seed.py` the two tables that the project began with.
"""

from __future__ import annotations

import itertools
import platform
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import triton

import lowlat
from lowlat import _fast, _torch

from . import kernels, timing
from .timing import Device, Measurement, Timed, loop

PATHS = ("noop", "floor", "lowlat", "wrapper", "CompiledKernel.run", "triton")
"""What is timed, by name.

noop: a Python function taking the same arguments.  floor: cuLaunchKernelEx in a C loop.  wrapper: lowlat by way of
Triton's compiled launcher.  CompiledKernel.run: Triton's launcher called with the kernel in hand."""

PARTS = ("cases", "graphs", "peers", "seed")


def _same_every_time(device: Device, count: int) -> Iterable[Any]:
    return timing.nothing(count)


@dataclass(frozen=True)
class Case:
    """One way to launch one kernel.  `call` and `bound` are Python source over p0.. (tensors), k and grid, what `names`
    makes, and `item`, of which `items` makes one per launch; `around` puts a library's autotune or heuristics around
    the kernel.  A case that is not `native` may go to Triton; the report then says so."""

    name: str
    kernel: Callable[..., Any]
    tensors: int
    call: str
    bound: str = ""
    callable_grid: bool = False
    paths: tuple[str, ...] = PATHS
    around: Callable[[Any, Any], Any] = lambda library, kernel: kernel
    items: Callable[[Device, int], Iterable[Any]] = _same_every_time
    names: Callable[[Device], dict[str, Any]] = lambda device: {}
    threads: int = 1
    native: bool = True


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
def _ones(kernel: Callable[..., Any], tensors: int, ints: int, constexprs: int, value: int) -> dict[str, Any]:
    arguments = ", ".join([f"p{i}" for i in range(tensors)] + ["1"] * ints + [str(value)] * constexprs)
    return {"kernel": kernel, "tensors": tensors, "call": f"k[1,]({arguments})", "bound": arguments}


def _descriptor(device: Device) -> dict[str, Any]:
    from triton.tools.tensor_descriptor import TensorDescriptor

    torch = device.torch
    read = torch.zeros((24, 128), dtype=torch.float16, device=device.where)
    return {"block": TensorDescriptor(read, shape=read.shape, strides=read.stride(), block_shape=[8, 32])}


TRITONBENCH = (
    Case("tritonbench 0", **_ones(kernels.no_parameters, 0, 0, 0, 0)),
    Case("tritonbench 19", **_ones(kernels.parameters_19, 5, 9, 5, 32)),
    Case("tritonbench 58", **_ones(kernels.parameters_58, 14, 26, 18, 1)),
    # No floor: the kernel would read its block through a descriptor that the C loop does not make.
    Case("tritonbench 6 (descriptor)", kernels.descriptor, 1, "k[(1,)](p0, block, 24, 128, 8, 32)",
         "p0, block, 24, 128, 8, 32", paths=tuple(path for path in PATHS if path != "floor"), names=_descriptor),
)
"""The inputs of tritonbench's launch_latency: every int is 1, which Triton makes a constant, the tensors are the same
at each launch, the grid is a tuple."""


def _fresh_tensors(device: Device, count: int) -> Iterable[Any]:
    # Rows of one allocation: filling each would leave the GPU with that work when the clock starts.
    return device.torch.empty((count, 512), dtype=device.torch.int32, device=device.where).unbind()


def _fresh_ints(device: Device, count: int) -> Iterable[Any]:
    return [2**40 + 2 * i + 1 for i in range(count)]


def _two_ints(device: Device, count: int) -> Iterable[Any]:
    return itertools.islice(itertools.cycle((96, 77)), count)


_SPELLINGS = itertools.cycle(itertools.product((1, True, 1.0), repeat=12))  # 531,441


def _new_spellings(device: Device, count: int) -> Iterable[Any]:
    # Constexprs that are equal for Triton's cache and not for lowlat; none comes twice before long.
    return list(itertools.islice(_SPELLINGS, count))


_ANY_ORDER = ", ".join(reversed(("p0=p0, p1=p1, p2=p2, p3=p3, p4=p4, n0=77, n1=96, s0=1024, s1=5, A=64, B=32, C=True, "
                                 "D=None, E='x', F=128, num_warps=4, num_stages=2").split(", ")))
_REST = "10, 17, 80, 31, 38, 128, 52, 1, 32, 32, 32, 32, 32"
_19 = f"p0, p1, p2, p3, p4, 32, {_REST}"
_WITHOUT_COMPILED = tuple(path for path in PATHS if path != "CompiledKernel.run")

VARIANTS = (
    Case("keywords, any order", kernels.median_call, 5, f"k[grid]({_ANY_ORDER})", _MEDIAN_BOUND),
    Case("defaults, ** splat", kernels.with_defaults, 5, "k[grid](p0, p1, p2, p3, p4, 77, 96, 1024, 5, **options)",
         _MEDIAN_BOUND, names=lambda device: {"options": {"B": 32, "num_warps": 4, "num_stages": 2}}),
    Case("fresh tensors", kernels.parameters_19, 5, f"k[grid](p0, item, item, item, item, 32, {_REST})",
         f"p0, item, item, item, item, 32, {_REST}", items=_fresh_tensors),
    Case("fresh ints over 2^32", kernels.parameters_19, 5, f"k[grid](p0, p1, p2, p3, p4, item, {_REST})",
         f"p0, p1, p2, p3, p4, item, {_REST}", items=_fresh_ints),
    Case("two specialisations in turn", kernels.parameters_19, 5, f"k[grid](p0, p1, p2, p3, p4, item, {_REST})",
         paths=_WITHOUT_COMPILED, items=_two_ints),
    Case("reads two globals", kernels.reads_globals, 2, "k[grid](p0, p1, 77, 32)", "p0, p1, 77, 32"),
    Case("two threads", kernels.parameters_19, 5, f"k[grid]({_19})", paths=("noop", "lowlat", "wrapper", "triton"),
         threads=2),
    Case("missed, Triton has it", kernels.constexprs_16, 1, "k[grid](p0, *item, 1, 1, 1, 1)",
         paths=("noop", "lowlat", "triton"), items=_new_spellings, native=False),
)
"""What tritonbench's inputs leave out.  Those named for tensors, ints, specialisations and threads have the 19
parameters; what is missed has a tensor and 16 constexprs."""

SLOPES = (
    _positional("1 tensor", kernels.tensors_1, 1, 0, 0),
    _positional("17 tensors", kernels.tensors_17, 17, 0, 0),
    _positional("16 scalars", kernels.scalars_16, 1, 16, 0),
    _positional("16 constexprs", kernels.constexprs_16, 1, 0, 16),
)


@dataclass
class Report:
    """Everything one run measured.

    `results[case][path]` is a Measurement; `slopes[path][kind]` is nanoseconds per further argument, for tensors,
    scalars and constexprs; `graphs[row][path]` is a Measurement of `graphs.py`;
    `batches` batches of `batch` launches were timed for each; `checked[case]` says how the
    launches were counted; `peers` are by name, `seed[table]` in microseconds.  What is in `failures` has no figures: a
    launch did not happen, or lowlat left one to Triton.
    """

    environment: dict[str, Any]
    batches: int
    batch: int
    results: dict[str, dict[str, Measurement]] = field(default_factory=dict)
    slopes: dict[str, dict[str, float]] = field(default_factory=dict)
    checked: dict[str, str] = field(default_factory=dict)
    graphs: dict[str, dict[str, Measurement]] = field(default_factory=dict)
    peers: dict[str, Any] = field(default_factory=dict)
    seed: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


GROUPS = (CASES, TRITONBENCH, VARIANTS, SLOPES)


def run(*, parts: Iterable[str] = PARTS, batches: int = 40, steps: int = 5000, runs: int = 10,
        fbtriton: Path | None = None, progress: Callable[[str], None] = lambda name: None) -> Report:
    """Measure every case on every path, the peers and the seed tables (`parts` of them); on the GPU, or on the null
    driver where there is none.  `fbtriton` is the python of an environment that has Meta's Triton.
    """
    from . import graphs, peers, seed

    device = Device()
    _torch.attach()
    report = Report(environment(device), batches, timing.BATCH)
    if "cases" in parts:
        for cases in (*((case, ) for group in GROUPS[:-1] for case in group), SLOPES):
            progress(cases[0].name)
            try:
                for name, (results, checked) in measure_together(cases, device, batches).items():
                    report.results[name] = results
                    report.checked[name] = checked
            except RuntimeError as error:
                report.failures.append(str(error))
        for path in PATHS if SLOPES[0].name in report.results else ():
            at = {case.name: report.results[case.name][path].median for case in SLOPES}
            report.slopes[path] = {
                "tensor": (at["17 tensors"] - at["1 tensor"]) / 16,
                "scalar": (at["16 scalars"] - at["1 tensor"]) / 16,
                "constexpr": (at["16 constexprs"] - at["1 tensor"]) / 16,
            }
    if "graphs" in parts:
        report.graphs, failures = graphs.measure(device, batches, progress)
        report.failures += failures
    if "peers" in parts:
        report.peers, failures = peers.measure(device, batches, fbtriton, progress)
        report.failures += failures
    if "seed" in parts:
        report.seed, failures = seed.measure(device, steps, runs, progress)
        report.failures += failures
    return report


def stages(parts: Iterable[str]) -> int:
    """How often `run` tells of its progress."""
    from . import graphs, peers, seed

    counts = {"cases": sum(map(len, GROUPS[:-1])) + 1, "graphs": graphs.STAGES, "peers": peers.STAGES,
              "seed": seed.STAGES}
    return sum(counts[part] for part in parts)


def measure(case: Case, device: Device, batches: int) -> tuple[dict[str, Measurement], str]:
    """(measurement per path, how the launches were checked)

    Raises RuntimeError if a launch did not happen or a lowlat path did not launch natively.
    """
    return measure_together((case, ), device, batches)[case.name]


def measure_together(cases: Iterable[Case], device: Device,
                     batches: int) -> dict[str, tuple[dict[str, Measurement], str]]:
    """As `measure`, by name; the cases' batches interleaved, too, so that their differences come from one time."""
    prepared = {case.name: _prepare(case, device) for case in cases}
    count = timing.Count(device, {name: ready.counter for name, ready in prepared.items()})
    exits = {name: ready.exits() for name, ready in prepared.items()}

    def after(at: tuple[str, str], timed: Timed) -> None:
        name, path = at
        count.add(name, 0 if path == "noop" else timed.launches)

    timers = {(name, path): timer for name, ready in prepared.items() for path, timer in ready.timers.items()}
    measured = timing.interleaved(timers, device, batches, after)
    results = {}
    for name, ready in prepared.items():
        launches, made = count.finish(name), count.made[name]
        if launches is not None and launches != made:
            raise RuntimeError(f"{name}: {launches} launches where {made} were made")
        checked = "nothing to count in on the GPU" if launches is None else f"{launches} launches counted"
        for path, counted in ready.exits().items():
            if counted != exits[name][path]:
                if ready.case.native:
                    raise RuntimeError(f"{name}: {path} went to Triton: {counted}")
                checked += f"; {path} went to Triton: {counted}"
        results[name] = {path: measured[name, path] for path in ready.timers}, checked
    return results


@dataclass
class _Prepared:
    case: Case
    timers: dict[str, timing.Timer]
    counter: Any
    own: dict[str, Any]

    def exits(self) -> dict[str, list[dict[str, int]]]:
        return {path: _exits(kernel) for path, kernel in self.own.items()}


def _prepare(case: Case, device: Device) -> _Prepared:
    """Compiled, learnt, launched natively; a timer per path."""
    tensors = device.tensors(case.tensors)
    grid: Any = (lambda meta: (1, )) if case.callable_grid else (1, )
    kernel = lowlat.jit(case.kernel)
    kernel.route = "wrapper"
    fast, wrapper = case.around(lowlat, lowlat.jit(case.kernel)), case.around(lowlat, kernel)
    plain = case.around(triton, triton.jit(case.kernel))
    names = {"grid": grid, **{f"p{i}": tensor for i, tensor in enumerate(tensors)}, **case.names(device)}

    def items(count: int) -> Iterable[Any]:
        return case.items(device, count)

    loops: dict[str, timing.Loop] = {}
    for path, kernel in (("lowlat", fast), ("wrapper", wrapper), ("triton", plain)):
        loops[path] = loop(case.call, k=kernel, **names)
        if path in case.paths:
            loops[path](items(4))
    compiled = eval(case.call, {"k": plain, "item": next(iter(items(1))), **names})
    compiled.run  # noqa: B018  (a property: loads the kernel)
    loops["noop"] = loop(re.sub(r"^k(\[.*?\]|\.run)\(", "k(", case.call), k=_noop, **names)
    loops["CompiledKernel.run"] = loop(f"k.run(1, 1, 1, stream, function, packed, None, None, None, {case.bound})",
                                       k=compiled, stream=device.stream(), function=compiled.function,
                                       packed=compiled.packed_metadata, **names)
    timer = timing.timer if case.threads == 1 else timing.timer_of_threads
    timers = {path: floor(compiled, tensors, device) if path == "floor" else timer(loops[path], device, items)
              for path in case.paths}
    return _Prepared(case, timers, tensors[0] if tensors else None, {"lowlat": fast, "wrapper": wrapper})


def _exits(kernel: Any) -> list[dict[str, int]]:
    """Of the kernel, and of the tuner and heuristics around it."""
    exits = []
    while hasattr(kernel, "exits"):
        exits.append(kernel.exits)
        kernel = kernel.fn
    return exits


def _noop(*args: Any, **kwargs: Any) -> None:
    pass


def floor(compiled: Any, tensors: list[Any], device: Device, nodes: int = 0, changes: int = 0) -> timing.Timer:
    """The C loop over `compiled`, with `tensors` as its first parameters and zeros as the others; with `nodes`, by a
    graph of so many, each of which gets so many other ints each time."""
    zeros = 40  # more than any kernel here reads
    count = timing.BATCH // max(nodes, 1)
    by_graph = (nodes, changes) if nodes else ()  # a lowlat from before there were graphs does not take it

    def timed() -> Timed:
        pointers = [tensor.data_ptr() for tensor in tensors]
        start = time.perf_counter_ns()
        nanoseconds = _fast.floor(compiled.function, pointers, zeros, 32 * compiled.packed_metadata[0],
                                  compiled.packed_metadata[2], device.stream(), count, *by_graph)
        launches = count * max(nodes, 1)
        return Timed(start, nanoseconds * launches, launches, nodes)

    return timed


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
        "clock": "CPU time of the thread" if device.null else "wall clock",
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
