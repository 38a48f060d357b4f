"""Launches by graph: the graph route beside the driver route, each with its floor in C, and a recorded sequence of 32
launches beside the same launches one by one."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from typing import Any

import triton

import lowlat

from . import CASES, Case, floor, kernels, timing
from .timing import Device, Measurement, Timed, loop

LAUNCHES = 32  # of the sequence
REST = "10, 17, 80, 31, 38, 128, 52, 1, 32, 32, 32, 32, 32"  # of the 19 parameters, behind five tensors and an int


TURNS = 32  # as many layers, say
_numbers = itertools.count(35 + 2 * TURNS, 2)


def _new_values(device: Device, count: int) -> Iterable[Any]:
    """For each launch another tensor than for the one before it, and an int that there never was: a graph has to be
    given both."""
    return list(zip(itertools.islice(itertools.cycle(device.tensors(2)), count), _numbers))


@functools.cache
def _turns(device: Device) -> list[Any]:
    return [(tensor, 33 + 2 * i) for i, tensor in enumerate(device.tensors(TURNS))]


def _by_turns(device: Device, count: int) -> Iterable[Any]:
    """Other tensors and ints than for the launch before it, and the same ones again after a few: of a hot plan each has
    a graph of its own."""
    return itertools.islice(itertools.cycle(_turns(device)), count)


MEDIAN_CALL = next(case for case in CASES if case.name == "median call")
ROUTES = [case for case in CASES if case.name in ("0 params", "19 params", "58 params")]
for name, items in (("new values", _new_values), (f"{TURNS} values by turns", _by_turns)):
    ROUTES.append(Case(f"19 params, {name}", kernels.parameters_19, 5,
                       f"k[grid](p0, item[0], p2, p3, p4, item[1], {REST})", items=items))
SEQUENCE = f"sequence of {LAUNCHES}"
# Kernel, call, and in how many places of a node's parameters a new p1 and a new n0 are, as the driver counts (see
# `_fast.floor`): one, where they are next to each other.
SEQUENCES = {
    SEQUENCE: (kernels.parameters_19, f"k[1, ](p0, p1, p2, p3, p4, n0, {REST})", 2),
    f"{SEQUENCE}, 4 params": (kernels.parameters_4, "k[1, ](p0, p1, n0, 32)", 1),
}
STAGES = len(ROUTES) + len(SEQUENCES)


def measure(device: Device, batches: int, progress: Callable[[str], None]) -> tuple[
        dict[str, dict[str, Measurement]], list[str]]:
    """({row: {path: measurement per launch}}, what failed)"""
    rows: dict[str, dict[str, Measurement]] = {}
    failures = []
    for name, row in (*((case.name, lambda case=case: routes(case, device)) for case in ROUTES),
                      *((name, lambda name=name: sequence(device, name)) for name in SEQUENCES)):
        progress(f"by graph: {name}")
        try:
            rows[name] = _interleaved(*row(), device, batches)
        except RuntimeError as error:
            failures.append(f"by graph, {name}: {error}")
    return rows, failures


Row = tuple[dict[str, timing.Timer], Any, Callable[[], None]]
"""Timers, the tensor in which launches are counted, and what raises RuntimeError if a path was not the one named."""


def routes(case: Any, device: Device) -> Row:
    """One launch of the case: cuLaunchKernelEx and a one-node graph in C loops, lowlat either way, triton.  Where the
    case has other values each time, two of them, the graph gets two in C as well."""
    tensors = device.tensors(case.tensors)
    items, changes = functools.partial(case.items, device), 2 if case.items in (_new_values, _by_turns) else 0
    names = {"grid": (1, ), **{f"p{i}": tensor for i, tensor in enumerate(tensors)}}
    plain, by_graph = lowlat.jit(case.kernel), lowlat.jit(case.kernel)
    plain.route, by_graph.route = "driver", "graph"
    loops = {path: loop(case.call, k=kernel, **names) for path, kernel in (
        ("lowlat", plain), ("lowlat by graph", by_graph), ("triton", triton.jit(case.kernel)))}
    for run in loops.values():
        run(items(50 * TURNS))  # learnt, and hot
    compiled = eval(case.call, {"k": plain, "item": next(iter(items(1))), **names})
    timers = {"floor": floor(compiled, tensors, device), "floor by graph": floor(compiled, tensors, device, 1, changes),
              **{path: timing.timer(run, device, items) for path, run in loops.items()}}
    seen = by_graph.plans[-1].submitted if by_graph.plans else {}
    exits = plain.exits

    def check() -> None:
        now = by_graph.plans[-1].submitted if by_graph.plans else {}
        if not now.get("graph") or plain.exits != exits or {**now, "graph": 0} != {**seen, "graph": 0}:
            raise RuntimeError(f"not by graph: {now}, {by_graph.exits}; or not native: {plain.exits}")

    return timers, tensors[0] if tensors else None, check


def sequence(device: Device, name: str = SEQUENCE) -> Row:
    """A sequence in which each launch gets another tensor and another int, or none does; per launch.  Its floor: a
    graph of as many nodes in a C loop, each of them given other ints in as many places.  And one in which the launches
    of the kernel get new ones, a quarter of all, and the median calls in between stay as they are."""
    function, call, changes = SEQUENCES[name]
    tensors = device.tensors(7)
    names = {f"p{i}": tensor for i, tensor in enumerate(tensors[:5])}
    kernel = lowlat.jit(function)
    many = loop(call, k=kernel, n0=7, **names)
    many(itertools.repeat(None, 3))
    with lowlat.record("p1", "n0") as recorded:
        many(itertools.repeat(None, LAUNCHES))

    between = 3 * f"; {MEDIAN_CALL.call.replace('k[grid]', 'other[1, ]')}"
    mixed = loop(call + between, k=kernel, other=lowlat.jit(MEDIAN_CALL.kernel), n0=7, **names)
    mixed(itertools.repeat(None, 3))
    with lowlat.record(f"{function.__name__}.p1", f"{function.__name__}.n0") as quarter:
        mixed(itertools.repeat(None, LAUNCHES // 4))

    def items(count: int) -> Iterable[Any]:
        return [(tensors[5 + i % 2], 33 + 2 * i) for i in range(count)]

    body = f"for p1, n0 in [item] * {LAUNCHES}: {call}"
    loops = {
        "lowlat": loop(body, k=kernel, **names),
        "replay, all patched": loop("replay(*item)", replay=recorded.replay),
        "replay, a quarter patched": loop("replay(*item)", replay=quarter.replay),
        "replay, none patched": loop("replay()", replay=recorded.replay),
        "triton": loop(body, k=triton.jit(function), **names),
    }
    if not device.null:
        graph = device.torch.cuda.CUDAGraph()
        with device.torch.cuda.graph(graph):
            many(itertools.repeat(None, LAUNCHES))
        loops["torch.cuda.graph"] = loop("replay()", replay=graph.replay)
    for run in loops.values():
        run(items(2))
    count = timing.BATCH // LAUNCHES
    timers = {path: _each(timing.timer(run, device, items, count)) for path, run in loops.items()}
    compiled = eval(call, {"k": kernel, "n0": 7, **names})
    pointers = tensors[:sum(name.startswith("p") for name in kernel.arg_names)]
    timers = {"floor by graph": floor(compiled, pointers, device, LAUNCHES, changes), **timers}

    def check() -> None:
        if {*recorded.replays, *quarter.replays} != {"graph"} or quarter.patched != LAUNCHES // 4:
            raise RuntimeError(f"not by graph: {recorded.replays}, {quarter.replays}")

    return timers, tensors[0], check


def _each(timer: timing.Timer) -> timing.Timer:
    """By launch, where each of the timer's is a whole sequence."""

    def timed() -> Timed:
        start, nanoseconds, count, _ = timer()
        return Timed(start, nanoseconds, count * LAUNCHES)

    return timed


def _interleaved(timers: dict[str, timing.Timer], counter: Any, check: Callable[[], None], device: Device,
                 batches: int) -> dict[str, Measurement]:
    count = timing.Count(device, {"": counter})
    measured = timing.interleaved(timers, device, batches, lambda path, timed: count.add("", timed.made))
    launches, made = count.finish(""), count.made[""]
    if launches is not None and launches != made:
        raise RuntimeError(f"{launches} launches where {made} were made")
    check()
    return measured
