"""Which way a launch goes and what a plan says about it: scratch memory and who allocates it, cooperative launches,
PDL, clusters, shared memory, on each route the launches that Triton makes."""

import concurrent.futures
import contextlib
import contextvars
import itertools
import threading

import numpy
import pytest
import triton
import triton.language as tl
from triton import knobs
from triton.runtime import _allocation

from lowlat import _triton, null
from oracle import Pair, aligned, changed, observe, torch

pytestmark = [pytest.mark.null, pytest.mark.torch]

GRID = (3, )


def one(x, n):
    tl.store(x, n)


def half(x, h: tl.float16):
    tl.store(x, h)


def of_all_sizes(x, a: tl.int8, b: tl.float64, c: tl.int16, d, e: tl.bfloat16, f: tl.uint8, y, g: tl.int64, h: tl.uint8,
                 BLOCK: tl.constexpr):
    tl.store(x, a + b + c + d + e + f + g + h + BLOCK)
    tl.store(y, h)


def describes(x, M, N, BLOCK: tl.constexpr):
    """Makes a descriptor on the device, for which it needs global memory."""
    descriptor = tl.make_tensor_descriptor(x, [M, N], [N, 1], [BLOCK, BLOCK])
    descriptor.store([0, 0], descriptor.load([0, 0]) + 1.0)


@contextlib.contextmanager
def allocator(allocate, profile=None):
    triton.set_allocator(allocate)
    _allocation.set_profile_allocator(profile)
    try:
        yield
    finally:
        triton.set_allocator(_allocation.NullAllocator())
        _allocation.set_profile_allocator(None)


@pytest.fixture
def scratch():
    """(a pair, its call over a grid) of a kernel that needs scratch memory, learnt."""
    pair, x = Pair(describes), aligned(4096)
    with allocator(lambda size, alignment, stream: 4096):
        pair.call(GRID, x, 64, 64, BLOCK=16)
    return pair, (x, 64, 64), {"BLOCK": 16}


@contextlib.contextmanager
def natively(pair):
    before = pair.lowlat.exits
    yield
    assert pair.lowlat.exits == before, f"went to Triton: {changed(before, pair.lowlat.exits)}"


# ---- global scratch memory ------------------------------------------------------------------------------------------


def needed(pair):
    """Bytes per block, as Triton's own launcher says."""
    return next(iter(pair.triton.device_caches[0][0].values())).run.global_scratch_size


@pytest.mark.parametrize("memory", [0, 4096, 2**64 - 16, None, 2**64, -1, "text", 1.5, True, object()], ids=repr)
@pytest.mark.parametrize("route", ["auto", "wrapper"])
def test_what_an_allocator_may_return(scratch, memory, route):
    pair, args, kwargs = scratch
    pair.lowlat.route = route
    with allocator(lambda *asked: 4096):
        pair.call(GRID, *args, **kwargs)
    with allocator(lambda *asked: observe(asked) or memory):
        with natively(pair):
            for grid in (GRID, lambda meta: (2, 2)):
                result = pair.call(grid, *args, **kwargs)
                assert len(result.observed) == 1
    assert pair.lowlat.plans[0].route == "wrapper"


def test_tensors_as_memory(scratch):
    class Buffer:

        def data_ptr(self):
            observe("data_ptr")
            return memory.data_ptr()

    pair, args, kwargs = scratch
    memory = aligned(4096)
    for returned in (memory, memory[1:], memory[:0], torch.nn.Parameter(memory), Buffer()):
        with allocator(lambda *asked: returned), natively(pair):
            launch = pair.call(GRID, *args, **kwargs).launches[0]
            assert int.from_bytes(launch.parameters[-2], "little") == returned.data_ptr()


def test_host_memory_as_memory(scratch):
    pair, args, kwargs = scratch
    memory = aligned(4096)
    pair.lowlat.forget()
    null.set_memory(memory.data_ptr(), memory.nbytes)
    with allocator(lambda *asked: memory):
        for _ in range(2):
            assert pair.call(GRID, *args, **kwargs).error[0] is ValueError


@pytest.mark.parametrize("grid", [(0, ), (3, 0), (-1, ), (-1, -1), (65536, 65536), (2**31 - 1, 2**31 - 1, 2**31 - 1),
                                  (2, 3, 4), [5], lambda meta: (0, 4), lambda meta: [7], (), (1.5, ), (2**31, )],
                         ids=repr)
def test_sizes(scratch, grid):
    """The allocator is asked for blocks times bytes, where nothing will be launched and where that overflows, too."""
    pair, args, kwargs = scratch
    with allocator(lambda *asked: observe(asked) or 4096):
        for _ in range(2):
            pair.call(grid, *args, **kwargs)


@pytest.mark.parametrize("options, times", [({"num_ctas": 2}, 2), ({"num_warps": 8}, 1), ({"num_ctas": 4}, 4),
                                            ({"launch_pdl": True, "launch_cooperative_grid": True}, 1)], ids=repr)
def test_sizes_with_options(options, times):
    pair, x = Pair(describes), aligned(4096)
    with allocator(lambda *asked: observe(asked) or 4096):
        null.set_stream(0x5000)
        result = pair.fast((2, 3), x, 64, 64, BLOCK=16, **options)
    (size, alignment, stream), = result.observed[0]
    assert (size, alignment, stream) == (6 * times * needed(pair), 128, 0x5000)
    assert (result.launches[0].stream, result.launches[0].grid) == (0x5000, (2 * times, 3, 1))


def test_an_allocator_that_raises(scratch):
    pair, args, kwargs = scratch

    def allocate(*asked):
        raise MemoryError("no more")

    for _ in range(2):
        for grid in (GRID, lambda meta: GRID):
            with natively(pair):
                with allocator(allocate):
                    assert pair.call(grid, *args, **kwargs).error == (MemoryError, "no more")
                assert "no allocator was set" in pair.call(grid, *args, **kwargs).error[1]
    with allocator(lambda *asked: 4096), natively(pair):
        assert pair.call(GRID, *args, **kwargs).launches


def test_allocators_of_threads_and_contexts(scratch):
    """Set for the calling context alone: another one, and a new thread, have theirs or none."""
    pair, args, kwargs = scratch
    call = lambda: pair.call(GRID, *args, **kwargs)

    def in_a_context(number):
        triton.set_allocator(lambda *asked: observe(number) or 4096 * number)
        return call()

    with natively(pair):
        contexts = [contextvars.copy_context() for _ in range(3)]
        for _ in range(2):
            for number, context in enumerate(contexts):
                result = context.run(in_a_context, number)
                assert result.observed == [(number, )]
                assert int.from_bytes(result.launches[0].parameters[-2], "little") == 4096 * number
            assert "no allocator was set" in call().error[1]
        with allocator(lambda *asked: observe("main") or 4096):
            in_thread = []
            thread = threading.Thread(target=lambda: in_thread.append(call()))
            thread.start()
            thread.join()
            assert "no allocator was set" in in_thread[0].error[1]
            with concurrent.futures.ThreadPoolExecutor(1) as executor:
                context = contextvars.copy_context()
                assert executor.submit(lambda: context.run(call)).result().observed == [("main", )]


def test_an_allocator_that_does_more(scratch):
    """It may launch, move the kernel's tensor, forget the plan, and clear the cache."""
    pair, (x, *args), kwargs = scratch
    inner = Pair(one)
    moved = [aligned(4096)]

    def launches(*asked):
        inner.call(GRID, x, 5)
        return 4096

    def moves(*asked):
        moved.append(aligned(4096))
        x.set_(moved[-1])
        return 4096

    def forgets(*asked):
        kernel.device_caches.clear()
        if kernel is pair.lowlat:
            kernel.forget()
        return 4096

    with allocator(lambda *asked: 4096):
        inner.fast(GRID, x, 5)
    for grid in (GRID, lambda meta: GRID):
        with allocator(lambda *asked: 4096):
            pair.call(GRID, x, *args, **kwargs)
        with allocator(moves), natively(pair):
            for kernel in (pair.triton, pair.lowlat):
                with null.record() as recorded:
                    kernel[grid](x, *args, **kwargs)
                assert recorded[0].parameters[0] == moved[-1].data_ptr().to_bytes(8, "little")
        with allocator(forgets):
            for kernel in (pair.triton, pair.lowlat):
                for _ in range(3):
                    with null.record() as recorded:
                        kernel[grid](x, *args, **kwargs)
                    assert len(recorded) == 1
    with allocator(launches):
        for kernel in (pair.triton, pair.lowlat):
            kernel[GRID](x, *args, **kwargs)


def test_an_allocator_that_is_replaced_during_the_launch(scratch):
    pair, args, kwargs = scratch

    def first(*asked):
        triton.set_allocator(lambda *asked: observe("second") or 8192)
        return observe("first") or 4096

    for kernel in (pair.triton, pair.lowlat):
        with allocator(first):
            for address in (4096, 8192):
                with null.record() as recorded:
                    kernel[GRID](*args, **kwargs)
                assert int.from_bytes(recorded[0].parameters[-2], "little") == address


# ---- profile scratch memory, gsan -----------------------------------------------------------------------------------


def tell(pair, function, *args, **kwargs):
    """Change the launchers of both sides in the same way, before lowlat looks at its own."""
    pair.call(*args, **kwargs)
    for kernel in (pair.triton, pair.lowlat):
        for compiled in kernel.device_caches[0][0].values():
            function(compiled)
    pair.lowlat.forget()
    pair.call(*args, **kwargs)


@pytest.mark.parametrize("profile", [48, 0])
@pytest.mark.parametrize("size", [64, 0])
def test_profile_scratch_memory(profile, size):
    """What Proton's instrumentation asks for: of an allocator of the whole process, or from 3.8 on of the driver."""
    pair, x = Pair(one), aligned()

    def instrument(compiled):
        compiled.run.profile_scratch_size, compiled.run.profile_scratch_align = profile, 32
        compiled.run.global_scratch_size, compiled.run.global_scratch_align = size, 16

    with allocator(lambda *asked: observe("global", asked) or 4096, lambda *asked: observe("profile", asked) or 8192):
        tell(pair, instrument, GRID, x, 5)
        for grid in (GRID, (0, ), lambda meta: (2, 2)):
            result = pair.fast(grid, x, 5)
            assert [what for what, _ in result.observed] == ["global"] * (size > 0) + ["profile"] * (profile > 0)
    route = "launcher" if profile else "wrapper" if size else "driver"
    assert [plan.route for plan in pair.lowlat.plans] == [route]
    with natively(pair), allocator(lambda *asked: 4096):
        default = pair.call(GRID, x, 5)  # before 3.8 there is none
        assert (default.error is None) == (profile == 0)


@pytest.mark.parametrize("block", [3, True, tl.constexpr(2), numpy.int32(3), numpy.int64(2**20)], ids=repr)
def test_sizes_as_they_are_multiplied(block):
    """Triton's launcher object multiplies what the grid has with what it knows itself, and its allocator gets that."""
    pair, x = Pair(one), aligned()

    def instrument(compiled):
        compiled.run.profile_scratch_size, compiled.run.profile_scratch_align = 48, 32

    with allocator(None, lambda *asked: observe((type(asked[0]).__name__, int(asked[0]))) or 8192):
        tell(pair, instrument, GRID, x, 5)
        for grid in ((block, ), (2, block), lambda meta: (block, 1, 2)):
            for _ in range(2):
                assert len(pair.call(grid, x, 5).observed) == 1


@pytest.mark.skipif(_triton.VERSION < (3, 8), reason="from Triton 3.8 on")
def test_gsan():
    """Its shadow memory takes a GPU: as far as it gets, it is Triton's."""
    pair, x = Pair(one), aligned()
    knobs.compilation.instrumentation_mode = "gsan"
    results = [pair.call(GRID, x, 5) for _ in range(2)]
    assert results[0].error == results[1].error and results[0].error is not None and not results[1].launches
    knobs.compilation.instrumentation_mode = ""
    pair.fast(GRID, x, 5)


@pytest.mark.skipif(_triton.VERSION < (3, 8), reason="from Triton 3.8 on")
def test_a_launcher_with_gsan():
    pair, x = Pair(one), aligned()
    with contextlib.suppress(AssertionError):
        tell(pair, lambda compiled: setattr(compiled.run, "gsan_enabled", True), GRID, x, 5)
    for _ in range(2):
        assert pair.call(GRID, x, 5).error is not None


# ---- parameters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("known", [None, 0, 1, 6, 11])
def test_parameters_of_all_sizes(known, graph):
    """In one buffer where the driver says where they lie in it, else (from the call after `known` on) as pointers."""
    x, y = aligned(), aligned()
    pair = Pair(of_all_sizes)
    pair.lowlat.route = "graph" if graph else "driver"
    for flag, n in itertools.product((True, False), (5, 2**31, 0.5, 0)):
        for _ in range(3):
            null.fail("cuFuncGetParamInfo", 1, times=0 if known is None else 99, after=known or 0)
            pair.call(GRID, x, 100, 1 / 3, -2, n, 0.25, 200, y, -2**40, flag + 7, BLOCK=4)
            null.fail("", 0, 0)
    assert {(plan.route, "graph" in plan.submitted) for plan in pair.lowlat.plans} == {("driver", graph)}


# ---- launch attributes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["driver", "wrapper"])
@pytest.mark.parametrize("ctas", [1, 2, 4, 8, 16])
def test_cooperative_pdl_and_clusters(route, ctas):
    pair, x = Pair(one), aligned()
    pair.lowlat.route = route
    for cooperative, pdl in itertools.product((None, False, True), repeat=2):
        options = {name: given for name, given in (("launch_cooperative_grid", cooperative), ("launch_pdl", pdl))
                   if given is not None}
        launch = pair.fast((3, 2), x, 5, num_ctas=ctas, **options).launches[0]
        expected = [6] * bool(pdl) + [2] * bool(cooperative) + [4, 5] * (ctas > 1)
        assert [number for number, _ in launch.attributes] == expected and launch.grid == (3 * ctas, 2, 1)
        for grid in ((0, ), (-1, -1), lambda meta: (2, ), (65536, 65536)):
            pair.fast(grid, x, 5, num_ctas=ctas, **options)
    assert {plan.route for plan in pair.lowlat.plans} == {route}


@pytest.mark.parametrize("shared", [0, 48 * 1024, 227 * 1024, 228 * 1024, 228 * 1024 + 1, 256 * 1024])
@pytest.mark.parametrize("route", ["driver", "wrapper"])
def test_shared_memory(shared, route):
    """From 3.8 on beyond 228 KiB in a mode of its own; no target of this compiler has so much, so both are told."""
    pair, x = Pair(one), aligned()
    pair.lowlat.route = route

    def enlarge(compiled):
        compiled.packed_metadata = (*compiled.packed_metadata[:2], shared)

    tell(pair, enlarge, GRID, x, 5)
    launch = pair.fast(GRID, x, 5).launches[0]
    oversized = shared > 228 * 1024 and _triton.VERSION >= (3, 8)
    assert launch.shared == shared and [number for number, _ in launch.attributes] == [18] * oversized
    pair.fast(GRID, x, 5, num_ctas=2, launch_pdl=True)


# ---- calls that are the same for Triton --------------------------------------------------------------------------


def one_like(x, n, LIKE: tl.constexpr):
    tl.store(x, n)


def half_like(x, h: tl.float16, LIKE: tl.constexpr):
    tl.store(x, h)


def describes_like(x, M, N, BLOCK: tl.constexpr, LIKE: tl.constexpr):
    descriptor = tl.make_tensor_descriptor(x, [M, N], [N, 1], [BLOCK, BLOCK])
    descriptor.store([0, 0], descriptor.load([0, 0]) + 1.0)


def descriptor_like(d, n, LIKE: tl.constexpr):
    d.store([0, 0], d.load([0, 0]) + n)


LIKE = (1, True, 1.0)  # equal for Triton's cache and not for lowlat, whose key has the type


@pytest.fixture
def described(monkeypatch):
    """The CompiledKernels that lowlat made a plan of from the ground up."""
    made = []
    plan_of = _triton.plan_of
    monkeypatch.setattr(_triton, "plan_of", lambda kernel, compiled, *rest: made.append(id(compiled)) or plan_of(
        kernel, compiled, *rest))
    return made


@pytest.mark.parametrize("options", [{}, {"launch_pdl": True}, {"launch_cooperative_grid": True}, {"num_warps": 8},
                                     {"num_ctas": 2, "launch_pdl": True}], ids=str)
@pytest.mark.parametrize("kind", ["driver", "wrapper", "half", "scratch", "profile", "descriptor"])
def test_alike_for_triton(kind, options, described):
    """A CompiledKernel is described once; what else comes to it launches in the same way."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    if kind == "descriptor" and "num_ctas" in options:
        pytest.skip("Triton does not compile this")
    x = aligned(4096)
    function, args = {
        "half": (half_like, (x, 0.5)),
        "scratch": (describes_like, (x, 64, 64, 16)),
        "descriptor": (descriptor_like, (TensorDescriptor(x, [64, 64], [64, 1], [16, 32]), 5)),
    }.get(kind, (one_like, (x, 5)))
    pair = Pair(function)
    with allocator(lambda *asked: observe(asked) or 4096, lambda *asked: observe(asked) or 8192):
        if kind == "wrapper":
            pair.lowlat.route = "wrapper"
        if kind == "profile":
            tell(pair, lambda compiled: setattr(compiled.run, "profile_scratch_size", 48), GRID, *args, LIKE[0],
                 **options)
            described.clear()
            pair.lowlat.forget()
        for like in LIKE:
            for grid in (GRID, (2, 3, 4), lambda meta: (2, int(meta["LIKE"]) + 1)):
                pair.fast(grid, *args, like, **options)
    assert len(described) == 1 and len(pair.lowlat.plans) == len(LIKE)
    assert len({(plan.route, plan.why, repr(plan)) for plan in pair.lowlat.plans}) == 1


def test_alike_but_compiled_anew(described):
    """Where Triton's cache has another kernel by now, that one is described."""
    pair, x = Pair(one_like), aligned()
    pair.fast(GRID, x, 5, LIKE[0])
    for kernel in (pair.triton, pair.lowlat):
        kernel.device_caches[0][0].clear()
        kernel.device_caches[0][1].clear()
    pair.fast(GRID, x, 5, LIKE[1])
    pair.fast(GRID, x, 5, LIKE[2])
    assert len(described) == 2 and described[0] != described[1]
    pair.lowlat.route = "wrapper"
    for like in LIKE:
        pair.fast(GRID, x, 5, like)
    assert len(described) == 3 and {plan.route for plan in pair.lowlat.plans} == {"wrapper"}
    pair.lowlat.forget()
    pair.fast(GRID, x, 5, LIKE[0])
    assert len(described) == 4


def test_alike_under_another_key(described):
    """What Triton finds the kernel by is part of the plan: under another key it is described again."""
    pair, x = Pair(one_like), aligned()
    pair.fast(GRID, x, 5, LIKE[0])
    pair.fast(GRID, x, 6, 7)
    for kernel in (pair.triton, pair.lowlat):
        cache = kernel.device_caches[0][0]
        key, other = cache
        cache[other] = cache.pop(key)
    pair.fast(GRID, x, 5, 7)
    pair.fast(GRID, x, 5, LIKE[1])


# ---- what a plan says -----------------------------------------------------------------------------------------------


def test_why():
    """Each plan gives its route, and the reason where that is not lowlat's own."""
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    plan, = pair.lowlat.plans
    assert (plan.route, plan.why) == ("driver", "")
    assert repr(plan) == "<lowlat plan: driver route, device 0, 2 parameters>"
    pair.lowlat.route = "wrapper"
    pair.fast(GRID, x, 5)
    plan, = pair.lowlat.plans
    assert (plan.route, plan.why) == ("wrapper", "kernel.route is 'wrapper'")
    assert repr(plan) == "<lowlat plan: wrapper route (kernel.route is 'wrapper'), device 0, 2 parameters>"
    halves = Pair(half)
    halves.fast(GRID, x, 0.5)
    assert [plan.why for plan in halves.lowlat.plans] == ["Triton packs fp16"]
    pair.lowlat.warmup(x, 16, grid=GRID)
    plan = pair.lowlat.plans[-1]
    assert plan.route == "compiled" and "the first launch is Triton's" in plan.why and "compiled" in repr(plan)


def test_why_of_scratch_memory(scratch):
    pair = scratch[0]
    plan, = pair.lowlat.plans
    assert plan.why == (f"it needs {needed(pair)} bytes of scratch memory per block, "
                        "which triton.set_allocator provides")


def test_why_of_profile_scratch_memory():
    pair, x = Pair(one), aligned()
    with allocator(None, lambda *asked: 4096):
        tell(pair, lambda compiled: setattr(compiled.run, "profile_scratch_size", 7), GRID, x, 5)
    plan, = pair.lowlat.plans
    assert (plan.route, plan.why) == ("launcher", "it needs 7 bytes of profile scratch memory per block")
