"""`lowlat.record()`: what is recorded is launched as always; what is replayed are the launches that the same calls
would be, made as one graph or, where that is not the same, one by one."""

import ctypes
import enum
import gc
import itertools
import random
import threading
import weakref

import numpy
import pytest
import triton
import triton.language as tl
from triton import knobs

import lowlat
from lowlat import _fast, null
from oracle import aligned, outcome, torch, unaligned

pytestmark = [pytest.mark.null, pytest.mark.torch]

GRID = (3, )


def norm(x, w, out, n, eps, BLOCK: tl.constexpr):
    tl.store(out, n)


def rope(out, pos, BLOCK: tl.constexpr = 16):
    tl.store(out, pos)


def read(x):
    return tl.load(x)


def many(x, t, flag, name: tl.constexpr):
    tl.store(x, t[0])


def copied(d, n):
    d.store([0, 0], d.load([0, 0]) + n)


@pytest.fixture(autouse=True)
def sound():
    gc.collect()  # what other tests have left
    before = null.violations(), null.spoilt_captures(), null.graphs()
    yield
    gc.collect()
    assert (null.violations(), null.spoilt_captures(), null.graphs()) == before


class Both:
    """The same calls by Triton and by lowlat; `step(norm, rope)` makes them."""

    def __init__(self, step, functions=(norm, rope), make=lambda library, function: library.jit(function)):
        self.step = step
        self.triton = [make(triton, function) for function in functions]
        self.lowlat = [make(lowlat, function) for function in functions]

    def record(self, *names, step=None, **options):
        step = step or self.step
        with lowlat.record(*names, **options) as sequence:
            step(*self.lowlat)
        return sequence

    def check(self, replay, step=None, by="cuGraphLaunch"):
        """The replay's launches are those of `step` by Triton, and how they are made."""
        step = step or self.step
        expected = outcome(lambda: step(*self.triton))
        actual = outcome(replay)
        assert actual.error == expected.error and actual.launches == expected.launches
        if by is not None:
            assert {launch.call for launch in actual.launches} == {by}
        return actual


def decode(x, w, out, n, pos):
    def step(norm, rope):
        norm[GRID](x, w, out, n, 1e-5, BLOCK=32)
        rope[(2, 2)](out, pos)
        norm[(7, )](out, w, x, n, 1e-6, 64)

    return step


def test_it_is_launched_once_and_replayed():
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    for _ in range(2):  # not learnt yet, and learnt
        with null.record() as launches:
            sequence = both.record()
        assert len(launches) == 3 and "cuGraphLaunch" not in {launch.call for launch in launches}
        for _ in range(3):
            both.check(sequence.replay)
            assert sequence.patched == 0
        assert len(sequence) == 3 and sequence.replays == {"graph": 3}
        assert repr(sequence) == "<lowlat sequence of 3 launches>"


def test_new_values():
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    sequence = both.record("pos", "n", "0.x")
    other = aligned(128)

    def step(x0, n, pos, grid=(2, 2)):
        def calls(norm, rope):
            norm[GRID](x0, w, out, n, 1e-5, BLOCK=32)
            rope[grid](out, pos)
            norm[(7, )](out, w, x, n, 1e-6, 64)

        return calls

    both.check(lambda: sequence.replay(101), step(x, 7, 101))
    assert sequence.patched == 1
    both.check(lambda: sequence.replay(102, 9), step(x, 9, 102))
    assert sequence.patched == 3
    both.check(lambda: sequence.replay(pos=103), step(x, 9, 103))  # n has stayed
    both.check(lambda: sequence.replay(103, 9, other), step(other, 9, 103))
    assert sequence.patched == 1
    both.check(lambda: sequence.replay(**{"rope.pos": 5, "1.grid": (4, 5, 6)}), step(other, 9, 5, (4, 5, 6)))
    both.check(lambda: sequence.replay(**{"1.grid": lambda meta: (meta["pos"], )}), step(other, 9, 5, (5, )))
    both.check(lambda: sequence.replay(pos=6), step(other, 9, 6, (6, )))  # the callable is asked each time
    assert sequence.replays == {"graph": 7}


def test_names_that_overlap():
    """A name stands for one value in all its launches, or for none: also once replays have given some a value."""
    x, w, out = aligned(), aligned(), aligned()
    both = Both(lambda norm, rope: (norm[GRID](x, w, out, 7, 0.5, 16), norm[GRID](x, w, out, 7, 0.5, 16)))
    sequence = both.record("n", "0.n")

    def step(first, second):
        return lambda norm, rope: (norm[GRID](x, w, out, first, 0.5, 16), norm[GRID](x, w, out, second, 0.5, 16))

    both.check(lambda: sequence.replay(9), step(9, 9))
    both.check(lambda: sequence.replay(**{"0.n": 11}), step(11, 9))
    with pytest.raises(ValueError, match="'n' stands for different values; say one of 0.n, 1.n"):
        sequence.replay(5)
    both.check(lambda: sequence.replay(**{"1.n": 11}), step(11, 11))
    both.check(lambda: sequence.replay(13), step(13, 13))
    both.check(lambda: sequence.replay(15, 17), step(17, 15))


def test_what_is_another_specialisation_is_recorded_again():
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    sequence = both.record("pos")
    for pos in (16, 1, 2**40, 3, True, 1.5):
        both.check(lambda pos=pos: sequence.replay(pos), decode(x, w, out, 7, pos), by=None)
        both.check(lambda pos=pos: sequence.replay(pos), decode(x, w, out, 7, pos))
    shifted = unaligned()
    both.check(lambda: sequence.replay(3, **{"0.x": shifted}), by=None, step=lambda norm, rope: (
        norm[GRID](shifted, w, out, 7, 1e-5, BLOCK=32), rope[(2, 2)](out, 3), norm[(7, )](out, w, x, 7, 1e-6, 64)))
    assert sequence.replays["graph"] >= 6 and any("launch 1 (rope)" in reason for reason in sequence.replays)


def generated(x, y, n, f, flag, none, c: tl.constexpr, d: tl.constexpr = 3):
    tl.store(x, n)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("on_change", ["record", "raise"])
def test_generated_replays(seed, on_change):
    """Replays with any argument another one, or the same one moved, against Triton's calls."""
    random_ = random.Random(seed)
    tensors = [aligned(), unaligned(), aligned().to(torch.float64), aligned().view(8, 8), aligned()[16:],
               torch.nn.Parameter(aligned())]
    pools = {"x": tensors, "y": tensors, "n": [7, 9, 10, 16, 32, 1, 2**40, 2**64 - 1, True, 0.5],
             "f": [0.5, -0.0, 2.5, 3, 16, False], "flag": [True, False, 5], "none": [None, 4], "c": [1, 2, "a", None],
             "d": [3, True], "grid": [(1, ), (2, 3), [4], (5, 6, 7), (0, ), lambda meta: (2, )]}
    start = [dict(x=tensors[0], y=tensors[3], n=7 + 2 * i, f=0.5, flag=True, none=None, c=1, grid=(i + 1, ))
             for i in range(3)]
    both = Both(None, (generated, ))

    def calls(arguments):
        def step(kernel):
            for call in arguments:
                named = {name: value for name, value in call.items() if name not in ("grid", "x", "y")}
                kernel[call["grid"]](call["x"], call["y"], **named)

        return step

    sequence = both.record(step=calls(start), on_change=on_change)
    fast = 0
    for _ in range(100):
        changed = [dict(call) for call in start]
        given = {}
        for _ in range(random_.choice([0, 0, 1, 1, 2, 5])):
            number, name = random_.randrange(3), random_.choice(list(start[0]))
            few = random_.random() < 0.7 and len(pools[name]) > 2  # mostly such as are the same kernel's
            value = random_.choice(pools[name][:3] if few else pools[name])
            changed[number][name] = given[f"{number}.{name}"] = value
        if random_.random() < 0.3:  # what is another kernel's now would be refused from now on
            make = aligned if on_change == "raise" or random_.random() < 0.8 else unaligned
            tensors[0].set_(make())
        if random_.random() < 0.1 and on_change == "record":
            both.lowlat[0].forget()
        graphs = sequence.replays.get("graph", 0)
        try:
            both.check(lambda given=given: sequence.replay(**given), calls(changed), by=None)
        except AssertionError:
            if on_change == "record":
                raise
            actual = outcome(lambda given=given: sequence.replay(**given))
            assert actual.error[0] is lowlat.NotRecordable and actual.launches == [], actual.error
            continue  # and the values are as they were
        start = changed
        fast += sequence.replays.get("graph", 0) - graphs
    assert fast > 20


def test_in_place():
    """What a launch would notice, a replay notices, though no argument is another object."""
    x, w, out = aligned(), aligned(), aligned()
    grid = [3]
    both = Both(lambda norm, rope: (norm[grid](x, w, out, 7, 1e-5, BLOCK=32), rope[(2, )](out, 5)))
    sequence = both.record()
    both.check(sequence.replay)
    for change in (lambda: x.set_(aligned()), lambda: x.resize_(1 << 20), lambda: grid.__setitem__(0, 5),
                   lambda: grid.append(2), lambda: out.set_(aligned(128))):
        change()
        both.check(sequence.replay)
        assert sequence.patched in (1, 2)
        both.check(sequence.replay)
        assert sequence.patched == 0
    for change in (lambda: x.set_(unaligned()), lambda: setattr(w, "data", aligned().double()),
                   lambda: grid.__setitem__(0, 0)):
        change()
        both.check(sequence.replay, by=None)
        assert sequence.replays["graph"] == 11
    grid[0] = 2
    both.check(sequence.replay, by=None)
    both.check(sequence.replay)
    null.set_device(1)
    both.check(sequence.replay, by=None)
    null.set_device(0)
    both.check(sequence.replay, by=None)
    both.check(sequence.replay, by=None)
    both.check(sequence.replay)

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    with Mode():
        both.check(sequence.replay, by="cuLaunchKernelEx")
    both.check(sequence.replay)


def test_between_calls():
    """What a grid callable does to tensors and grids, the calls after it notice, and not those before."""
    x, out, a, b, blocks = aligned(), aligned(), aligned(), aligned(), tl.constexpr(3)

    def does(tensor, number):
        def grid(meta):
            x.set_(tensor)
            blocks.value = number
            return GRID

        return grid

    def step(norm, rope):
        for end in (does(a, 2), does(b, 4), does(a, 5)):
            norm[blocks, ](x, out, x, 7, 1e-5, BLOCK=32)
            norm[GRID](x, x, out, 7, 1e-5, BLOCK=32)
            rope[end](out, 5)
        norm[(blocks, 2)](x, out, x, 7, 1e-5, BLOCK=32)

    does(a, 3)(None)
    both = Both(step)
    sequence = both.record()
    for tensor, number in ((a, 3), (b, 6), (b, 3), (a, 7)):
        for _ in range(3):
            expected = []
            for run in (lambda: both.step(*both.triton), sequence.replay):
                does(tensor, number)(None)
                expected.append(outcome(run))
            assert expected[0].error is expected[1].error is None
            assert expected[0].launches == expected[1].launches and len(expected[0].launches) == 10
    assert sequence.replays == {"graph": 12}


class Whole(enum.IntEnum):
    THREE = 3


@pytest.mark.parametrize("kind", ["float64", "enum", "subclass", "tuple"])
def test_arguments_that_are_not_looked_at_one_by_one(kind):
    """A call with one of these goes the whole way each time, as often as it is replayed."""
    class Subclass(torch.Tensor):
        pass

    x, others = aligned(), [aligned() for _ in range(2)]
    f, c = 0.5, 4
    if kind == "tuple":
        c = (1, 2)
    else:
        f = {"float64": numpy.float64(0.5), "enum": Whole.THREE, "subclass": aligned().as_subclass(Subclass)}[kind]
    both = Both(lambda kernel: kernel[GRID](x, x, 7, f, True, None, c), (generated, ))
    sequence = both.record("x", "n")
    for i in range(3000):
        sequence.replay(others[i % 2], 9 + 2 * (i % 2))
    both.check(sequence.replay, lambda kernel: kernel[GRID](others[1], x, 11, f, True, None, c))
    assert sequence.replays == {"graph": 3001}


def test_a_grid_callable_that_drops_the_plan():
    x = aligned()
    both = Both(lambda kernel: kernel[GRID](x, 7), (scaled, ))
    both.step(*both.lowlat), both.step(*both.triton)
    sequence = both.record("grid")

    def grids(kernel):
        def grid(meta):
            kernel.debug = True
            return GRID

        return grid

    both.check(lambda: sequence.replay(grids(both.lowlat[0])),
               lambda kernel: kernel[grids(both.triton[0])](x, 7))
    for _ in range(3):
        expected, actual = outcome(lambda: both.step(*both.triton)), outcome(lambda: sequence.replay(GRID))
        assert expected.launches == actual.launches
    assert both.lowlat[0].plans


FACTOR = tl.constexpr(3)


def scaled(x, n):
    tl.store(x, n * FACTOR)


def test_knobs_and_globals(monkeypatch):
    """What is part of the key without being an argument: as Triton has it, also where that is an error."""
    x = aligned()
    both = Both(lambda kernel: kernel[GRID](x, 5), (scaled, ))
    sequence = both.record()
    both.check(sequence.replay)
    with knobs.runtime.scope():
        knobs.runtime.debug = True
        both.check(sequence.replay, by="cuLaunchKernelEx")
        both.check(sequence.replay)
    both.check(sequence.replay, by="cuLaunchKernelEx")
    both.check(sequence.replay)
    monkeypatch.setitem(globals(), "FACTOR", tl.constexpr(4))
    both.check(sequence.replay, by=None)
    monkeypatch.undo()
    both.check(sequence.replay, by=None)
    both.check(sequence.replay)


class Asked(int):
    """Does something when it is compared, once."""

    does = None

    def __ne__(self, other):
        if (does := Asked.does) is not None:
            Asked.does = None
            does()
        return int(self) != int(other)

    __hash__ = int.__hash__


def test_what_comparing_globals_does(monkeypatch):
    """Device and stream are read before it, tensors after it, as in a launch."""
    monkeypatch.setitem(globals(), "FACTOR", tl.constexpr(Asked(3)))
    x, a, b = aligned(), aligned(), aligned()

    def step(plain, kernel):
        plain[GRID](x, x, x, 5, 0.5, 16)
        kernel[GRID](x, 5)

    for does, undo, after in ((lambda: x.set_(b), lambda: x.set_(a), True),
                              (lambda: null.set_stream(7), lambda: null.set_stream(0), False)):
        undo()
        both = Both(lambda plain, kernel, after=after: (step(plain, kernel), step(plain, kernel) if after else None),
                    (norm, scaled))
        both.step(*both.triton), both.step(*both.lowlat)
        sequence = both.record()
        for _ in range(2):
            both.check(sequence.replay)
        outcomes = []
        for run in (lambda both=both: both.step(*both.triton), sequence.replay):
            Asked.does = does
            outcomes.append(outcome(run))
            undo()
        expected, actual = outcomes
        assert expected.error is actual.error is None and expected.launches == actual.launches
        both.check(sequence.replay)
        assert sequence.replays == {"graph": 4}


def test_a_graph_that_could_not_be_made():
    """The one before it stays, and is not given less for what the failed one has looked at."""
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    sequence = both.record("n", "pos")
    both.check(sequence.replay)
    null.fail("cuGraphInstantiateWithFlags", 700)
    both.check(lambda: sequence.replay(9, 16), decode(x, w, out, 9, 16), by="cuLaunchKernelEx")
    null.fail("", 0, 0)
    both.check(lambda: sequence.replay(pos=103), decode(x, w, out, 9, 103))


def unload_when_it_goes(kernel):
    """What Triton 3.8 and later do with a CompiledKernel.  Returns its cache."""
    cache = kernel.device_caches[0][0]
    if not hasattr(triton.runtime.driver.active.utils, "unload_module"):
        for compiled in cache.values():
            weakref.finalize(compiled, ctypes.CDLL("libcuda.so.1").cuModuleUnload, ctypes.c_void_p(compiled.module))
    return cache


def test_a_kernel_that_left_the_cache():
    """Were it unloaded, another could have its handle, and the node would be taken for that one's."""
    x = aligned()
    both = Both(lambda kernel: kernel[GRID](x, 5), (rope, ))
    sequence = both.record()
    both.check(sequence.replay)
    [kernel] = both.lowlat
    for graphs in (1, 2):
        unload_when_it_goes(kernel).clear()
        for _ in range(2):  # compiled, learnt
            kernel[GRID](x, 5)
        both.check(sequence.replay, by="cuLaunchKernelEx")
        assert sequence.replays["graph"] == graphs
        both.check(sequence.replay)


def test_a_kernel_that_leaves_the_cache_meanwhile():
    """After its call has come to its launch, which by Triton has been made by then."""
    x = aligned()
    caches = []

    def grid(meta):
        while caches:
            caches.pop().clear()
        return GRID

    both = Both(lambda norm, rope: (norm[GRID](x, x, x, 5, 0.5, 16), rope[grid](x, 5)))
    sequence = both.record()
    for _ in range(2):
        both.check(sequence.replay)
        caches.append(unload_when_it_goes(both.lowlat[0]))
        with null.record() as launches:
            sequence.replay()
        assert not caches and [launch.call for launch in launches] == 2 * ["cuGraphLaunch"]
        both.check(sequence.replay, by="cuLaunchKernelEx")


def test_options_and_constexprs():
    """They are part of the kernel: another one is another kernel, or the same one launched otherwise."""
    x = aligned()
    both = Both(lambda kernel: kernel[GRID](x, 5, BLOCK=16, num_warps=2), (rope, ))
    sequence = both.record("BLOCK", "num_warps")

    def step(block, warps):
        return lambda kernel: kernel[GRID](x, 5, BLOCK=block, num_warps=warps)

    for block, warps in ((16, 2), (32, 2), (32, 4), (16, 2)):
        both.check(lambda values=(block, warps): sequence.replay(*values), step(block, warps), by=None)
        both.check(sequence.replay, step(block, warps))


def test_a_replay_that_fails_in_its_middle():
    """The nodes before it get what they should have at the next replay."""
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    sequence = both.record("n", "pos", on_change="raise")
    both.check(sequence.replay)
    for _ in range(2):
        with pytest.raises(lowlat.NotRecordable, match="launch 1"):
            sequence.replay(9, 16)
        both.check(sequence.replay)
        both.check(lambda: sequence.replay(9, 101), decode(x, w, out, 9, 101))
        both.check(lambda: sequence.replay(7, 100))
    for name in ("cuGraphExecKernelNodeSetParams_v2", "cuGraphLaunch"):
        null.fail(name, 700)
        with pytest.raises(lowlat.NotRecordable):
            sequence.replay(11, 103)
        null.fail("", 0, 0)
        both.check(sequence.replay)
        both.check(lambda: sequence.replay(11, 103), decode(x, w, out, 11, 103))
        both.check(lambda: sequence.replay(7, 100))


def test_a_stream_of_a_green_context():
    """A graph would not keep to the context's multiprocessors."""
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    null.set_stream(0x1000)
    null.set_green_stream(0x1000)
    try:
        sequence = both.record()
        for _ in range(3):
            both.check(sequence.replay, by="cuLaunchKernelEx")
        null.set_green_stream(0)
        both.check(sequence.replay)
    finally:
        null.set_green_stream(0)


def test_or_refused():
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    for kernel in (both.triton[1], both.lowlat[1]):
        kernel[(2, 2)](out, 16)  # known, and another kernel's all the same
    sequence = both.record("pos", on_change="raise")
    both.check(lambda: sequence.replay(101), decode(x, w, out, 7, 101))
    for pos in (16, 1, 2**40):
        reason = "its arguments are another specialisation now" if pos == 16 else "it would go to Triton"
        with null.record() as launches:
            with pytest.raises(lowlat.NotRecordable, match=rf"launch 1 \(rope\): {reason}"):
                sequence.replay(pos)
        assert not launches
        both.check(sequence.replay, decode(x, w, out, 7, 101))  # the value of before
    knobs.runtime.launch_enter_hook.add(id)
    with pytest.raises(lowlat.NotRecordable, match="launch hook"):
        sequence.replay(102)
    knobs.runtime.launch_enter_hook.remove(id)
    both.check(lambda: sequence.replay(103), decode(x, w, out, 7, 103))


def test_live_state_is_observed():
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    sequence = both.record()
    seen = []
    knobs.runtime.launch_enter_hook.add(seen.append)
    both.check(sequence.replay, by="cuLaunchKernelEx")
    assert len(seen) == 6
    knobs.runtime.launch_enter_hook.remove(seen.append)
    both.check(sequence.replay)
    for kernels in (both.triton, both.lowlat):
        kernels[1].add_pre_run_hook(lambda *args, **kwargs: seen.append(args))
    both.check(sequence.replay, by="cuLaunchKernelEx")
    assert len(seen) == 8
    for kernels in (both.triton, both.lowlat):
        kernels[1].pre_run_hooks.clear()
    both.check(sequence.replay)
    for kernels in (both.triton, both.lowlat):
        kernels[1].device_caches[0][0].clear()
    both.check(sequence.replay, by="cuLaunchKernelEx")
    both.check(sequence.replay)
    both.lowlat[0].route = "wrapper"
    both.check(sequence.replay, by="cuLaunchKernelEx")
    both.lowlat[0].route = None
    both.check(sequence.replay, by="cuLaunchKernelEx")
    both.check(sequence.replay)


def test_streams_and_captures():
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    null.set_stream(0x1000)
    sequence = both.record()
    both.check(sequence.replay)
    null.set_stream(0x2000)
    both.check(sequence.replay, by="cuLaunchKernelEx")
    both.check(sequence.replay)
    null.set_capturing(0x1000)
    both.check(sequence.replay)
    null.set_capturing(0x1000, False)
    null.set_capturing(0x2000)
    both.check(sequence.replay, by="cuLaunchKernelEx")  # into the capture
    null.clear_capturing()
    both.check(sequence.replay)
    null.set_stream(2)
    both.check(sequence.replay, by="cuLaunchKernelEx")
    both.check(sequence.replay, by="cuLaunchKernelEx")  # another stream in each thread
    null.set_device(1)
    both.check(sequence.replay, by="cuLaunchKernelEx")
    both.check(sequence.replay)


def test_empty_grids():
    out = aligned()
    both = Both(lambda norm, rope: (rope[(0, )](out, 5), rope[(3, )](out, 6), rope[(0, 1)](out, 5)))
    sequence = both.record("0.grid", "1.grid")
    both.check(sequence.replay)
    for first, second in itertools.product(((0, ), (2, ), (0, ), (3, )), ((1, ), (0, 0), (-1, ), (4, ))):
        step = lambda norm, rope: (rope[first](out, 5), rope[second](out, 6), rope[(0, 1)](out, 5))  # noqa: B023, E731
        for _ in range(2):
            both.check(lambda: sequence.replay(first, second), step, by=None)  # noqa: B023
    nothing = both.record(step=lambda norm, rope: None)
    both.check(nothing.replay, lambda norm, rope: None, by=None)
    assert len(nothing) == 0 and nothing.replays == {"graph": 1}


def test_other_arguments():
    from triton.tools.tensor_descriptor import TensorDescriptor

    x, d = aligned(4096), TensorDescriptor(aligned(4096), [64, 64], [64, 1], [16, 32])
    both = Both(lambda many, copied: (many[GRID](x, (5, (x, 7.5)), True, "a"), copied[GRID](d, 5)), (many, copied))
    sequence = both.record("t", "d")
    both.check(sequence.replay)
    other, tensor = TensorDescriptor(aligned(8192), [64, 64], [64, 1], [16, 32]), aligned()
    both.check(lambda: sequence.replay((6, (tensor, 1.5)), other),
               lambda many, copied: (many[GRID](x, (6, (tensor, 1.5)), True, "a"), copied[GRID](other, 5)))
    assert sequence.patched == 2
    other.base = d.base  # what is inside is looked at again
    both.check(sequence.replay, lambda many, copied: (many[GRID](x, (6, (tensor, 1.5)), True, "a"),
                                                      copied[GRID](other, 5)))
    assert sequence.patched == 1


def test_tuners_and_heuristics():
    x, out = aligned(), aligned()
    asked = []

    def make(library, function):
        if function is rope:
            return library.autotune([triton.Config({"BLOCK": 32}), triton.Config({"BLOCK": 64})], key=["pos"])(
                library.jit(function))
        return library.heuristics({"BLOCK": lambda args: asked.append(args["n"]) or 16 * (args["n"] % 2 + 1)})(
            library.jit(function))

    def step(n):
        return lambda norm, rope: (norm[GRID](x, x, out, n, 0.5), rope[(2, )](out, 5),
                                   rope.run(out, 5, grid=(4, ), warmup=False))

    both = Both(step(6), make=make)
    both.step(*both.triton)
    both.step(*both.lowlat)
    sequence = both.record("n")
    asked.clear()
    both.check(sequence.replay)
    assert asked == [6, 6]
    both.check(lambda: sequence.replay(8), step(8))
    both.check(lambda: sequence.replay(7), step(7), by=None)
    assert list(sequence._calls[2].arguments()) == ["out", "pos", "grid", "warmup"]
    for kernel in (both.triton[1], both.lowlat[1]):  # a tuner's choice is looked up again
        for key in kernel.cache:
            kernel.cache[key] = kernel.configs[1]
    both.check(sequence.replay, step(7), by=None)


def test_launches_by_the_way():
    """What a grid callable launches comes before the launches of a graph, and after those that Triton made before its
    call: it is refused, and launched in its place where the launches are made one by one."""
    x, out = aligned(), aligned()

    def step(norm, rope):
        def grid(meta):
            if launches_itself:
                rope[(9, )](out, 5)
            return (2, )

        rope[GRID](out, 7)
        norm[grid](x, x, out, 6, 0.5, 16)

    both = Both(step)
    launches_itself = True
    step(*both.triton), step(*both.lowlat)
    launches_itself = False
    sequence, raising = both.record(), both.record(on_change="raise")
    both.check(sequence.replay)
    launches_itself = True
    both.check(sequence.replay, by="cuLaunchKernelEx")
    with null.record() as launches, pytest.raises(lowlat.NotRecordable, match="1 .norm.: .* launches kernels itself"):
        raising.replay()
    assert not launches
    with null.record() as launches, pytest.raises(lowlat.NotRecordable, match="1 .norm.: .* launches kernels itself"):
        both.record()
    assert [(launch.kernel, launch.grid[0]) for launch in launches] == [("rope", 3), ("rope", 9), ("norm", 2)]
    launches_itself = False
    both.check(sequence.replay), both.check(raising.replay)


def test_replays_by_the_way():
    """A grid callable may replay another sequence, likewise, and not the one that asks it."""
    x, out = aligned(), aligned()
    both = Both(None)
    inner = both.record(step=lambda norm, rope: rope[(9, )](out, 5))
    outer = both.record("grid", step=lambda norm, rope: norm[GRID](x, x, out, 6, 0.5, 16))
    with null.record() as launches:
        outer.replay(lambda meta: inner.replay() or (2, ))
    assert [(launch.call, launch.kernel, launch.grid[0]) for launch in launches] == [
        ("cuGraphLaunch", "rope", 9), ("cuLaunchKernelEx", "norm", 2)]
    with pytest.raises(RuntimeError, match="this sequence is being replayed"):
        outer.replay(lambda meta: outer.replay() or (2, ))
    with null.record() as launches:
        outer.replay(GRID)
    assert [launch.call for launch in launches] == ["cuGraphLaunch"]


def test_warmups_by_the_way():
    """A grid callable may have another kernel compiled."""
    x, out = aligned(), aligned()

    def step(norm, rope):
        def grid(meta):
            if warms_up:
                rope.warmup(out, 5 + len(asked), BLOCK=32 << len(asked), grid=GRID)
                rope.run(out, 5, BLOCK=64 << len(asked), grid=GRID, warmup=True)
                asked.append(meta["n"])
            return (2, )

        norm[grid](x, x, out, 6, 0.5, 16)

    asked, warms_up = [], False
    both = Both(step)
    sequence = both.record(on_change="raise")
    warms_up = True
    both.check(sequence.replay)
    assert len(asked) == 2  # Triton's and lowlat's


class Counted:
    """A decorator of a user's own."""

    def __init__(self, fn):
        self.fn, self.arg_names, self.calls = fn, fn.arg_names, 0

    def run(self, *args, **kwargs):
        self.calls += 1
        return self.fn.run(*args, **kwargs)


@pytest.mark.parametrize("between", [Counted, triton.heuristics({"BLOCK": lambda args: 16})])
@pytest.mark.parametrize("on_change", ["record", "raise"])
def test_what_stands_between_and_is_not_lowlats(between, on_change):
    out = aligned()
    make = lambda library, function: library.heuristics({"pos": lambda args: 5})(between(library.jit(function)))  # noqa: E731
    both = Both(lambda rope: rope[GRID](out), functions=(rope, ), make=make)
    both.step(*both.triton), both.step(*both.lowlat)
    with null.record() as launches, pytest.raises(lowlat.NotRecordable, match="it goes through .*not lowlat's"):
        both.record(on_change=on_change)
    assert len(launches) == 1


@pytest.mark.parametrize("through_run", [False, True])
@pytest.mark.parametrize("outer", [False, True])
def test_a_run_that_is_set_after_the_recording(outer, through_run):
    """On the object itself, on the kernel within heuristics, or on a class, with `__getitem__`: whoever replaces it
    sees the launches of replays, each once."""
    out, seen = aligned(), []

    def make(library, function):
        kernel = library.jit(function)
        return library.heuristics({"BLOCK": lambda args: 16})(kernel) if outer else kernel

    def step(rope):
        rope.run(out, 5, grid=GRID, warmup=False) if through_run else rope[GRID](out, 5)

    both = Both(step, functions=(rope, ), make=make)
    both.step(*both.triton), both.step(*both.lowlat)
    sequence, raising = both.record(), both.record(on_change="raise")
    kernel = both.lowlat[0]
    places = [(kernel, "run"), (type(kernel), "run"), (type(kernel), "__getitem__"), (triton.JITFunction, "run")]
    if outer:
        places += [(kernel.fn, "run"), (type(kernel.fn), "run")]
    for owner, name in places:
        own, original = name in vars(owner), getattr(owner, name)
        setattr(owner, name, lambda *args, original=original, **kwargs: seen.append(1) or original(*args, **kwargs))
        try:
            plain = outcome(lambda: step(kernel))
            times = len(seen)
            replayed = outcome(sequence.replay)
            assert replayed.launches == plain.launches and len(seen) == 2 * times and len(plain.launches) == 1
            if times != 0:
                refused = outcome(raising.replay)
                assert refused.error[0] is lowlat.NotRecordable and not refused.launches and len(seen) == 2 * times
        finally:
            if own:
                setattr(owner, name, original)
            else:
                delattr(owner, name)
        seen.clear()
        both.check(sequence.replay), both.check(raising.replay)
    assert sequence.replays["graph"] >= len(places)


def test_a_refused_step_holds_no_kernel():
    out = aligned()
    kernel = lowlat.jit(rope)
    with lowlat.record("pos", on_change="raise") as sequence:
        kernel[GRID](out, 17)
    kernel[GRID](out, 32)
    compiled = [weakref.ref(kernel) for kernel in kernel.device_caches[0][0].values()]
    for _ in range(3):
        with pytest.raises(lowlat.NotRecordable, match="another specialisation"):
            sequence.replay(32)
    del sequence
    kernel.device_caches.clear()
    del kernel
    gc.collect()
    assert len(compiled) == 2 and [kernel() for kernel in compiled] == [None, None]


def test_nothing_is_replayed_of_what_was_refused():
    kernel, out = lowlat.jit(rope), aligned()
    with pytest.raises(KeyError), lowlat.record("nope") as sequence:
        kernel[GRID](out, 17)
    with null.record() as launches, pytest.raises(RuntimeError, match="nothing has been recorded"):
        sequence.replay()
    assert not launches and len(sequence) == 0


def test_positive_and_negative_zero_are_two_values():
    kernel, first, second = lowlat.jit(rope), aligned(), aligned()

    def step():
        kernel[GRID](first, 0.0), kernel[GRID](second, -0.0)

    with pytest.raises(ValueError, match="stands for different values"), lowlat.record("pos"):
        step()
    with lowlat.record("0.pos", "1.pos") as sequence:
        step()
    with null.record() as launches:
        sequence.replay(-0.0, 0.0)
    assert [launch.parameters[1].hex() for launch in launches] == ["00000080", "00000000"]


def variadic(out, *args, N: tl.constexpr):
    tl.store(out, args[0] + N)


@pytest.mark.skipif(triton.__version__ < "3.9", reason="from Triton 3.9 on")
def test_a_kernel_with_args():
    """Of `*args` none has a name; what comes before and after does."""
    out, other = aligned(), aligned()
    step = lambda out, n: lambda variadic: variadic[GRID](out, 5, 6, 7, N=n)  # noqa: E731
    both = Both(step(out, 9), functions=(variadic, ))
    both.step(*both.triton), both.step(*both.lowlat)
    sequence = both.record("out", "N")
    assert sequence._calls[0].arguments() == {"out": 0, "N": 4}
    both.check(lambda: sequence.replay(other), step(other, 9))
    both.check(lambda: sequence.replay(out, 11), step(out, 11), by=None)


def test_a_block_that_ends_in_another_thread():
    """The thread that began it records no more, and can begin another one."""
    kernel, out = lowlat.jit(rope), aligned()

    def records():
        with lowlat.record() as sequence:
            yield sequence

    recording = records()
    sequence = next(recording)
    kernel[GRID](out, 5)
    thread = threading.Thread(target=recording.close)
    thread.start()
    thread.join()
    assert len(sequence) == 0  # it left by an exception, GeneratorExit
    with lowlat.record() as second:
        kernel[GRID](out, 5)
    assert len(second) == 1 and len(sequence) == 0


def test_a_sequence_that_goes_during_a_capture():
    kernel, out = lowlat.jit(rope), aligned()
    with lowlat.record() as sequence:
        kernel[GRID](out, 5)
    graphs = null.graphs()
    null.set_capturing(0x4000)
    del sequence
    gc.collect()
    null.clear_capturing()
    assert null.graphs() == graphs - 1  # and no capture is spoilt, says the fixture


def test_replays_are_recorded():
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    first = both.record("pos")
    with lowlat.record("pos") as second:
        first.replay(101)
        both.lowlat[1][(9, )](out, 101)
    assert len(second) == 4 and "graph" not in first.replays
    both.check(lambda: second.replay(102), lambda norm, rope: (decode(x, w, out, 7, 102)(norm, rope),
                                                               rope[(9, )](out, 102)))


# ---- what cannot be recorded ----------------------------------------------------------------------------------------


def wrapped(kernel):
    kernel.route = "wrapper"
    return kernel


@pytest.mark.parametrize("spoil, reason", [
    (lambda kernel, out: kernel[GRID](out, 5, launch_pdl=True), "launch 1 .rope.: the launch is cooperative"),
    (lambda kernel, out: kernel[GRID](out, 5, num_ctas=2), "clusters"),
    (lambda kernel, out: wrapped(kernel)[GRID](out, 5), "the wrapper route: kernel.route is 'wrapper'"),
    (lambda kernel, out: null.set_stream(0x3000) or kernel[GRID](out, 5), "another stream or device than those before"),
    (lambda kernel, out: kernel.add_pre_run_hook(lambda *args, **kwargs: None) or kernel[GRID](out, 5), "pre-run hook"),
])
def test_refused_when_recorded(spoil, reason):
    x, w, out = aligned(), aligned(), aligned()
    both = Both(None)
    with null.record() as launches:
        with pytest.raises(lowlat.NotRecordable, match=reason):
            with lowlat.record() as sequence:
                both.lowlat[0][GRID](x, w, out, 5, 0.5, 16)
                spoil(both.lowlat[1], out)
    assert len(launches) == 2 and len(sequence) == 0  # and they have been launched
    with pytest.raises(RuntimeError, match="nothing has been recorded"):
        sequence.replay()


def test_tritons_own_autotuner():
    """It may have hooks to call before the launch, which a replay would not."""
    out = aligned()
    kernel = triton.autotune([triton.Config({"BLOCK": 32})], key=["pos"])(lowlat.jit(rope))
    kernel[GRID](out, 5)
    with pytest.raises(lowlat.NotRecordable, match=r"launch 0 \(rope\): it came from Triton's own Autotuner"):
        with lowlat.record():
            kernel[GRID](out, 5)
    with lowlat.record() as sequence:
        kernel.fn[GRID](out, 5)
        kernel.fn.run(out, 5, grid=GRID, warmup=False)
    assert len(sequence) == 2


@pytest.mark.parametrize("name", ["cuGraphCreate", "cuGraphAddKernelNode_v2", "cuGraphInstantiateWithFlags"])
def test_the_driver_refuses_to_make_one(name):
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    null.fail(name, 2)
    with pytest.raises(lowlat.NotRecordable, match="the driver refused a graph: out of memory"):
        both.record()
    sequence = both.record()
    both.check(sequence.replay)


@pytest.mark.parametrize("name", ["cuGraphExecKernelNodeSetParams_v2", "cuGraphLaunch"])
def test_the_driver_refuses_a_replay(name):
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    sequence = both.record("pos")
    null.fail(name, 1)
    both.check(lambda: sequence.replay(101), decode(x, w, out, 7, 101), by="cuLaunchKernelEx")
    both.check(sequence.replay, decode(x, w, out, 7, 101))
    both.check(lambda: sequence.replay(102), decode(x, w, out, 7, 102))


def test_a_device_that_fails():
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    sequence = both.record()
    expected = outcome(lambda: both.step(*both.triton), before=lambda: null.fail("cuLaunchKernelEx", 700))
    actual = outcome(sequence.replay, before=lambda: null.fail("cuLaunchKernelEx", 700))
    assert actual.error == expected.error is not None
    null.fail("", 0, 0)
    both.check(sequence.replay)


def test_errors_of_the_calls():
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    sequence = both.record("0.grid")

    def refuses(meta):
        raise PermissionError("not today")

    with null.record() as launches, pytest.raises(PermissionError, match="not today"):
        sequence.replay(refuses)
    assert not launches
    both.check(sequence.replay)  # over the grid of before
    with lowlat.record() as failed:
        both.lowlat[0][GRID](x, w, out, 7, 1e-5, 32)
        with pytest.raises(TypeError):
            both.lowlat[1][GRID]()  # launches nothing, so is not in it
    assert len(failed) == 1
    with pytest.raises(ZeroDivisionError), lowlat.record() as aborted:
        both.lowlat[0][GRID](x, w, out, 7, 1e-5, 32)
        raise ZeroDivisionError
    assert len(aborted) == 0
    both.check(both.record().replay)  # the next recording is as if nothing had been


def test_wrong_use():
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    with pytest.raises(ValueError, match="on_change is 'ask', must be 'record' or 'raise'"):
        lowlat.record(on_change="ask")
    with pytest.raises(KeyError, match="'position': no launch of this sequence has such an argument; they have"):
        both.record("position")
    with pytest.raises(ValueError, match="'x' stands for different values; say one of 0.x, 2.x"):
        both.record("x")
    sequence = both.record("pos")
    with pytest.raises(TypeError, match="takes 1 values by position, as many as record"):
        sequence.replay(1, 2)
    with pytest.raises(KeyError, match="'y'"):
        sequence.replay(5, y=3)
    both.check(sequence.replay)  # 5 is not there
    with pytest.raises(RuntimeError, match="has been recorded"):
        with sequence:
            pass
    with lowlat.record(), pytest.raises(RuntimeError, match="recording already"):
        with lowlat.record():
            pass


def test_warmups_are_not_launches():
    x, out = aligned(), aligned()
    kernel = lowlat.jit(rope)
    with lowlat.record() as sequence:
        kernel.warmup(x, 5, grid=GRID)
        kernel.run(x, 5, grid=GRID, warmup=True)
        kernel[GRID](out, 5)
    assert len(sequence) == 1


# ---- threads and lifetimes ------------------------------------------------------------------------------------------


def test_threads():
    """A recording is one thread's; what other threads launch meanwhile is theirs, and so while one replays."""
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    both.step(*both.lowlat)
    inside, go_on, done = threading.Event(), threading.Event(), threading.Event()

    def launch():
        inside.wait()
        both.step(*both.lowlat)
        go_on.set()
        while not done.is_set():
            both.lowlat[1][(5, )](out, 77)

    thread = threading.Thread(target=launch)
    thread.start()
    with lowlat.record("pos") as sequence:
        both.lowlat[0][GRID](x, w, out, 7, 1e-5, 32)
        inside.set()
        go_on.wait()
        both.lowlat[1][GRID](out, 9)
    assert len(sequence) == 2
    with null.record() as launches:
        for pos in range(100, 300):
            sequence.replay(pos + (pos % 16 == 0))
        done.set()
        thread.join()
    mine = [launch for launch in launches if launch.call == "cuGraphLaunch"]
    assert [int.from_bytes(launch.parameters[1], "little") for launch in mine[1::2]] == [
        pos + (pos % 16 == 0) for pos in range(100, 300)]
    assert all(launch.grid == (5, 1, 1) for launch in launches if launch.call != "cuGraphLaunch")


def test_one_sequence_in_many_threads():
    x, w, out = aligned(), aligned(), aligned()
    both = Both(decode(x, w, out, 7, 100))
    sequence = both.record("pos")
    null.linger(3)

    def work():
        null.set_device(0)
        for pos in (3, 5, 7, 9) * 10:
            sequence.replay(pos)

    with null.record() as launches:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(launches) == 3 * 8 * 40 and sequence.replays == {"graph": 320}


def test_what_a_replay_holds():
    """The arguments of its calls, each once for every place, and no more of those that were replaced."""
    import sys

    kernel = lowlat.jit(norm)
    x, w, out = (torch.ones(64) for _ in range(3))
    for n in (7, 33):
        kernel[GRID](x, w, out, n, 2.0, BLOCK=32)
    with lowlat.record("w") as sequence:
        for _ in range(8):
            kernel[GRID](x, w, out, 33, 2.0, BLOCK=32)
    values = [torch.ones(64) for _ in range(3)]

    def counts():
        return [sys.getrefcount(values[i]) for i in range(3)]

    before = held, *_ = counts()
    for i in range(3):
        sequence.replay(values[i])
    sequence.replay(w)
    after = counts()
    assert sequence.replays == {"graph": 4} and after == before
    sequence.replay(values[0])
    after = counts()
    assert after == [held + 8, held, held]
    with pytest.raises(TypeError):
        sequence.replay(values[1], values[2])
    after = counts()
    assert after == [held + 8, held, held]


def test_arguments_go_with_the_sequence():
    import weakref

    both = Both(None)
    x, out = aligned(), aligned()
    sequence = both.record("out", step=lambda norm, rope: rope[GRID](out, 5))
    gone = weakref.ref(out)
    del out
    assert gone() is not None
    sequence.replay(x)
    gc.collect()
    assert gone() is None
    before = null.graphs()
    out = [sequence]  # a cycle
    sequence.replay(**{"0.grid": lambda meta, held=out: (3, )})
    del sequence, out
    gc.collect()
    assert null.graphs() == before - 1


def test_module_globals():
    assert _fast.SUBMISSION_NAMES and lowlat.Sequence.__doc__ and lowlat.record.__doc__
