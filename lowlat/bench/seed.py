"""The two tables that the project began with: x * a, as an autograd function and as its forward kernel alone.

The kernels' parameters are those of the proof of concept's: 6 (short) and 13 (long), of which two are tensors and one
is a constexpr.  Means of `runs` runs of `steps` steps each, the columns in turn within each run; as there, a run is so
long that the driver's queue may fill up.
"""

from __future__ import annotations

import gc
import itertools
import statistics
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import triton

import lowlat
from lowlat import _fast

from . import kernels
from .timing import Device, Loop, loop

ELEMENTS = 1024
ARGUMENTS = {
    "short": f"x, 2.0, y, {ELEMENTS}, 1, BLOCK={ELEMENTS}",
    "long": f"x, 2.0, 3.0, 4, 5, 6.0, 7, 8, 9, y, {ELEMENTS}, 1, BLOCK={ELEMENTS}",
}
KERNELS = {"short": kernels.double_short, "long": kernels.double_long}

AUTOGRAD = ("noop", "PyTorch", "PyTorch in a Function", "launch from C in a Function", "short, triton",
            "long, triton", "short, low-latency", "long, low-latency")
FORWARD = ("noop", "compiled kernel called directly", "short warmup", "long warmup", "short low-latency warmup",
           "long low-latency warmup", "short", "long", "short low-latency", "long low-latency")
STAGES = 2


@dataclass
class Table:
    """Microseconds per step: each column's mean over the runs, and the runs' own.  `notes` say what a figure is not, or
    why there is none."""

    clock: str
    steps: int
    mean: dict[str, float] = field(default_factory=dict)
    runs: dict[str, list[float]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


@dataclass
class Column:
    """`launches` is how many each step makes on the null driver, `lowlat` the kernel that must not leave any to Triton;
    `right` says after a step, on the GPU, whether it computed what it should."""

    step: Loop
    launches: int = 0
    lowlat: Any = None
    right: Callable[[], bool] = lambda: True
    note: str = ""


def measure(device: Device, steps: int, runs: int,
            progress: Callable[[str], None] = lambda name: None) -> tuple[dict[str, Table], list[str]]:
    """(both tables, what went wrong: launches that did not happen or not do their work, lowlat's left to Triton)"""
    failures: list[str] = []
    progress("forward + backward")
    forward_backward = _run(device, _autograd(device), steps, runs, _by_clock, failures)
    progress("forward kernel alone")
    forward = _run(device, _forward(device), steps, runs, _by_clock if device.null else _by_events, failures)
    return {"forward + backward": forward_backward, "forward kernel alone": forward}, failures


def _autograd(device: Device) -> dict[str, Column]:
    torch = device.torch
    x = torch.ones(ELEMENTS, device=device.where, requires_grad=True)
    gradient = torch.full((ELEMENTS, ), 3.0, device=device.where)

    def column(function: Any, launches: int, kernel: Any = None, note: str = "") -> Column:
        step = loop("y = f(x); y.backward(gradient); x.grad = None", f=function, x=x, gradient=gradient)
        step(range(3))

        def right() -> bool:
            y = function(x)
            y.backward(gradient)
            computed, x.grad = x.grad, None
            return bool((y == 2).all()) and bool((computed == 6).all())

        return Column(step, launches, kernel, right, note)

    on_cpu = "computes on the CPU: not to be compared" if device.null else ""
    columns = {
        "noop": Column(loop("y = f(x); f(gradient)", f=lambda x: x, x=x, gradient=gradient)),
        "PyTorch": column(lambda x: x * 2, 0, note=on_cpu),
        # What a Function of the user's costs whatever is in it: torch differentiates its own x * 2 without Python.
        "PyTorch in a Function": column(_function(torch, "y = x * 2"), 0, note=on_cpu),
    }
    for library, name in ((triton, "triton"), (lowlat, "low-latency")):
        for length in ("short", "long"):
            kernel = library.jit(KERNELS[length])
            launch = f"y = empty_like(x); kernel[(1,)]({ARGUMENTS[length]})"
            columns[f"{length}, {name}"] = column(_function(torch, launch, kernel), 2, _lowlat(kernel))
    # The floor of the short columns.  Made last: the launches before made a context current in autograd's thread.
    columns["launch from C in a Function"] = column(_function(torch, *_launch_from_c(x)), 2)
    return {name: columns[name] for name in AUTOGRAD}


def _launch_from_c(x: Any) -> tuple[str, Any]:
    """y = 2 x by the short kernel's binary, with no more around cuLaunchKernelEx than it takes to call it; and what
    must live as long."""
    names = {"k": triton.jit(KERNELS["short"]), "x": x, "y": x.detach().clone()}
    compiled = eval(f"k[(1,)]({ARGUMENTS['short']})", names)
    zeros = 2  # Triton's own two parameters, behind the kernel's
    threads, shared = 32 * compiled.packed_metadata[0], compiled.packed_metadata[2]
    two = int.from_bytes(struct.pack("<f", 2.0), "little")
    parameters = f"[x.data_ptr(), {two}, y.data_ptr(), {ELEMENTS}]"
    launch = f"y = empty_like(x); floor({compiled.function}, {parameters}, {zeros}, {threads}, {shared}, 0, 1)"
    return launch, compiled


def _lowlat(kernel: Any) -> Any:
    return kernel if isinstance(kernel, lowlat.JITFunction) else None


def _function(torch: Any, body: str, kernel: Any = None) -> Callable[[Any], Any]:
    """y = 2 x, both ways by `body`, as a user writes it."""
    names = {"torch": torch, "kernel": kernel, "empty_like": torch.empty_like, "floor": _fast.floor}
    exec(f"""
class Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        {body}
        return y

    @staticmethod
    def backward(ctx, x):
        {body}
        return y
""", names)
    return names["Double"].apply


def _forward(device: Device) -> dict[str, Column]:
    torch = device.torch
    x, y = torch.ones(ELEMENTS, device=device.where), torch.empty(ELEMENTS, device=device.where)
    names = {"x": x, "y": y, "grid": (1, 1, 1)}
    columns = {"noop": Column(loop("k()", k=lambda: None))}

    def right() -> bool:
        computed = bool((y == 2).all())
        y.zero_()
        return computed

    def column(step: Loop, kernel: Any) -> Column:
        step(range(3))
        return Column(step, 1, _lowlat(kernel), right)

    kernel = triton.jit(KERNELS["short"])
    compiled = eval(f"k[grid]({ARGUMENTS['short']})", {"k": kernel, **names})
    bound = ARGUMENTS["short"].replace("BLOCK=", "")
    columns["compiled kernel called directly"] = column(
        loop(f"k[grid]({bound})", k=compiled, **names), kernel)
    for library, suffix in ((triton, ""), (lowlat, " low-latency")):
        for length in ("short", "long"):
            kernel = library.jit(KERNELS[length])
            eval(f"k[grid]({ARGUMENTS[length]})", {"k": kernel, **names})
            columns[f"{length}{suffix} warmup"] = Column(
                loop(f"k.warmup({ARGUMENTS[length]}, grid=grid)", k=kernel, **names))
            columns[f"{length}{suffix}"] = column(loop(f"k[grid]({ARGUMENTS[length]})", k=kernel, **names), kernel)
    return {name: columns[name] for name in FORWARD}


def _by_clock(device: Device, step: Loop, times: Iterable[Any]) -> float:
    start = device.clock()
    step(times)
    device.synchronize()
    return (device.clock() - start) / 1000


def _by_events(device: Device, step: Loop, times: Iterable[Any]) -> float:
    start, stop = (device.torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    step(times)
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) * 1000


def _run(device: Device, columns: dict[str, Column], steps: int, runs: int,
         clock: Callable[[Device, Loop, Iterable[Any]], float], failures: list[str]) -> Table:
    wall = "CPU time of the thread" if device.null else "wall clock, up to the GPU's having finished"
    table = Table("CUDA events" if clock is _by_events else wall, steps)
    exits = {name: column.lowlat.exits for name, column in columns.items() if column.lowlat is not None}
    wrong: dict[str, str] = {}
    for name in columns:
        table.runs[name] = []
    gc_was_enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(runs):
            for name, column in columns.items():
                device.synchronize()
                before = device.launches()
                table.runs[name].append(clock(device, column.step, itertools.repeat(None, steps)) / steps)
                after = device.launches()
                if before is not None and after is not None and after - before != steps * column.launches:
                    wrong[name] = f"{after - before} launches in {steps} steps of {column.launches}"
    finally:
        if gc_was_enabled:
            gc.enable()
    for name, column in columns.items():
        if not device.null and not _computes(column):
            wrong[name] = "did not compute x * 2"
        if name in exits and column.lowlat.exits != exits[name]:
            wrong[name] = f"went to Triton: {column.lowlat.exits}"
        if name in wrong:
            table.notes[name] = wrong[name]
            failures.append(f"{name}: {wrong[name]}")
            continue
        if column.note:
            table.notes[name] = column.note
        table.mean[name] = statistics.fmean(table.runs[name])
    return table


def _computes(column: Column) -> bool:
    column.right()
    column.step(range(1))
    return column.right()
