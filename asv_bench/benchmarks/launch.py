"""Host time of a launch, in microseconds or nanoseconds, learnt and compiled kernels only.

`track_*` with loops of its own: with any set-up, asv_runner 0.3 and later time every call by itself.  All values come
from one process, with the paths of a case interleaved batch by batch, so that a ratio can be read; it passes twice over
everything and gives two samples of each, since batches that follow each other have more in common than is true.
"""

import importlib
from functools import partial

from .common import Lacking, case_named, checkout_bench, device, needs, passes, samples, timed, timers

PATHS = ["lowlat", "wrapper", "floor", "triton"]
CASES = ["19 params", "median call", "0 params", "4 params", "32 params", "58 params", "callable grid", "run door",
         "tuned", "heuristics"]

_INTS = [3 + 7 * i if i % 3 else 16 * (i + 2) for i in range(16)]  # none is 1, some are multiples of 16
KINDS = {  # 16 arguments after p0
    "tensor": ("tensors_17", [f"p{i + 1}" for i in range(16)]),
    "int": ("scalars_16", _INTS),
    "int by keyword": ("scalars_16", [f"n{i}={value}" for i, value in enumerate(_INTS)]),
    "int of 64 bits": ("scalars_16", [2**40 + value for value in _INTS]),
    "float": ("scalars_16", [value + 0.5 for value in _INTS]),
    "bool": ("scalars_16", [value % 2 == 0 for value in _INTS]),
    "None": ("scalars_16", [None] * 16),
    "constexpr int": ("constexprs_16", _INTS),
    "constexpr str": ("constexprs_16", [repr(f"c{value}") for value in _INTS]),
    "constexpr dtype": ("constexprs_16", ["dtype"] * 16),
}

SITES = {  # the calls that follow each other at one place
    "same call": ["p0, p1, 77, 32"],
    "2 specialisations": ["p0, p1, 77, 32", "p0, p1, 80, 32"],
    "8 specialisations": [f"p0, p1, {n}, {constant}" for constant in (32, 64, 96, 128) for n in (77, 80)],
    "fresh tensor": ["item, p1, 77, 32"],
    "fresh big int": ["p0, p1, item, 32"],
}


ROUTES = ["lowlat by graph", "lowlat", "floor by graph", "floor"]
BY_GRAPH = ["19 params", "19 params, new values", "19 params, 32 values by turns", "0 params", "58 params"]
SEQUENCE = "sequence of 32"
REPLAYS = ["replay, all patched", "replay, a quarter patched", "replay, none patched", "lowlat", "floor by graph"]


def setup_cache():
    return passes({
        **{name: partial(latency, name) for name in CASES},
        **{name: partial(argument, name) for name in KINDS},
        **{name: partial(site, name) for name in SITES},
        **{f"{name} by graph": partial(by_graph, name) for name in (*BY_GRAPH, SEQUENCE)},
    })


def latency(name):
    import triton

    import lowlat

    if name in ("tuned", "heuristics"):
        needs("autotune")
    case = case_named(name)
    tensors = device().tensors(case.tensors)
    names = {"grid": (lambda meta: (1, )) if case.callable_grid else (1, ),
             **{f"p{i}": tensor for i, tensor in enumerate(tensors)}}
    slower = lowlat.jit(case.kernel)
    slower.route = "wrapper"
    fast, slower = case.around(lowlat, lowlat.jit(case.kernel)), case.around(lowlat, slower)
    plain = case.around(triton, triton.jit(case.kernel))
    bench = checkout_bench()
    paths = timers({path: bench.loop(case.call, k=kernel, **names)
                    for path, kernel in (("lowlat", fast), ("wrapper", slower), ("triton", plain))})
    compiled = eval(case.call, {"k": plain, **names})
    compiled.run  # noqa: B018  (a property: loads the kernel)
    paths["floor"] = bench.floor(compiled, tensors, device())
    return timed(paths, [fast, slower], tensors[0] if tensors else None)


def argument(kind):
    """Of 16 arguments of this kind, what one adds."""
    import triton
    import triton.language as tl

    import lowlat

    bench = checkout_bench()
    kernels = bench.kernels
    function, arguments = KINDS[kind]
    tensors = device().tensors(17)
    names = {"grid": (1, ), "dtype": tl.float32, **{f"p{i}": tensor for i, tensor in enumerate(tensors)}}
    loops, lowlats = {}, []
    for library in (lowlat, triton):
        few, many = library.jit(kernels.tensors_1), library.jit(getattr(kernels, function))
        loops[library, 1] = bench.loop("k[grid](p0)", k=few, **names)
        loops[library, 17] = bench.loop(f"k[grid](p0, {', '.join(map(str, arguments))})", k=many, **names)
        if library is lowlat:
            lowlats = [few, many]
    times = timed(timers(loops), lowlats, tensors[0])
    return {library.__name__: (times[library, 17] - times[library, 1]) / 16 for library in (lowlat, triton)}


def site(name):
    import triton

    import lowlat

    p0, p1 = device().tensors(2)
    items = {"fresh tensor": lambda times: iter([p0[:] for _ in range(times)]),
             "fresh big int": lambda times: iter(range(2**40, 2**40 + 16 * times, 16))}.get(name)
    bench, calls = checkout_bench(), SITES[name]
    function = bench.kernels.parameters_4
    kernels = {"lowlat": lowlat.jit(function), "triton": triton.jit(function)}
    source = "; ".join(f"k[grid]({arguments})" for arguments in calls)
    loops = {path: bench.loop(source, k=kernel, grid=(1, ), p0=p0, p1=p1) for path, kernel in kernels.items()}
    return timed(timers(loops, items, bench.timing.BATCH // len(calls)), [kernels["lowlat"]], p0, len(calls))


def by_graph(name):
    needs("record")
    if not hasattr(importlib.import_module("lowlat._fast"), "place_parameters"):
        raise Lacking("a graph in this lowlat's C loop gets one new int, and not those of the row")
    checkout_bench()
    graphs = importlib.import_module("checkout_bench.graphs")
    cases = {case.name: case for case in graphs.ROUTES}
    paths, counter, check = graphs.sequence(device()) if name == SEQUENCE else graphs.routes(cases[name], device())
    measured = timed(paths, [], counter)
    check()
    return measured


class Latency:
    """One launch; floor: cuLaunchKernelEx in a C loop, wrapper: lowlat by way of Triton's compiled launcher."""

    params = [PATHS, CASES]
    param_names = ["path", "case"]
    version = "2"  # raised by hand when what is measured changes; asv does not see that

    def track_launch(self, measured, path, case):
        return samples(measured, case, path, 1e-3)

    track_launch.unit = "us"
    track_launch.rounds = 4


class Argument:
    """One more argument of a kind."""

    params = [["lowlat", "triton"], list(KINDS)]
    param_names = ["path", "kind"]
    version = "2"

    def track_argument(self, measured, path, kind):
        return samples(measured, kind, path)

    track_argument.unit = "ns"
    track_argument.rounds = 4


class Site:
    """One launch of a 4-parameter kernel where what is launched changes from call to call."""

    params = [["lowlat", "triton"], list(SITES)]
    param_names = ["path", "calls"]
    version = "2"

    def track_site(self, measured, path, calls):
        return samples(measured, calls, path, 1e-3)

    track_site.unit = "us"
    track_site.rounds = 4


class Routes:
    """One launch by the plain call and by a one-node graph, of lowlat's and in C loops."""

    params = [ROUTES, BY_GRAPH]
    param_names = ["path", "case"]
    version = "3"

    def track_route(self, measured, path, case):
        return samples(measured, f"{case} by graph", path, 1e-3)

    track_route.unit = "us"


class Sequences:
    """One launch of a recorded sequence of 32: all, a quarter or none with other arguments than the last time; the same
    one by one; and a graph of 32 patched nodes in a C loop."""

    params = [REPLAYS]
    param_names = ["path"]
    version = "2"

    def track_replay(self, measured, path):
        return samples(measured, f"{SEQUENCE} by graph", path, 1e-3)

    track_replay.unit = "us"
