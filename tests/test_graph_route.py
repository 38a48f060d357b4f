"""The graph route: the same launches as by the driver route, each by a one-node graph of its plan and stream, or the
plain way and under a name."""

import collections
import ctypes
import gc
import itertools
import os
import random
import threading

import pytest
import triton.language as tl
from test_jit import run_python

import lowlat
from lowlat import _fast, null
from oracle import Pair, aligned, changed

pytestmark = [pytest.mark.null, pytest.mark.torch]

GRID = (3, )
AFTER = 1  # conftest.py says so
OWN = 9  # launches with other parameters than the last ones', after which these have a graph


def one(x, n):
    tl.store(x, n)


def two(x, y, n, BLOCK: tl.constexpr):
    tl.store(x, n)
    tl.store(y, BLOCK)


def copied(d, n):
    d.store([0, 0], d.load([0, 0]) + n)


@pytest.fixture(autouse=True)
def sound():
    """No rule of the driver's is broken, no capture spoilt, and what is made is destroyed."""
    _fast.drop_graphs()
    gc.collect()
    of_others.append(null.graphs())
    before, spoils = (null.violations(), null.spoilt_captures()), set()
    yield spoils
    gc.collect()
    assert (null.violations(), null.spoilt_captures() - sum(spoils)) == before
    _fast.set_route("driver", AFTER, 256, False)
    _fast.drop_graphs()
    assert graphs() == _fast.graph_count() == 0


of_others = []  # sequences that tests on other pages keep


def graphs():
    return null.graphs() - of_others[-1]


def by_graph(function, *args, grid=GRID, **kwargs):
    """(a pair whose kernel takes the graph route, x) with the call learnt and hot."""
    pair = Pair(function)
    pair.lowlat.route = "graph"
    for _ in range(2 + AFTER):
        pair.call(grid, *args, **kwargs)
    assert pair.lowlat.plans and pair.lowlat.plans[-1].submitted.get("graph") == 1, (pair.lowlat.exits, counts(pair))
    return pair


def submitted(pair, call):
    """What the call adds to what the plans' launches came to."""
    before = counts(pair)
    result = call()
    return result, changed(before, counts(pair))


def counts(pair):
    total = {}
    for plan in pair.lowlat.plans:
        for name, count in plan.submitted.items():
            total[name] = total.get(name, 0) + count
    return total


def test_the_same_launches():
    x, y = aligned(), aligned()
    pair = by_graph(two, x, y, 5, 16)
    numbers = (5, 7, 2**31 - 1, -5)
    grids = ((1, ), (2, 3, 4), [7], (2**31 - 1, ), lambda meta: (meta["n"] % 5 + 1, ))
    for grid, n in itertools.product(grids, numbers):
        result, how = submitted(pair, lambda grid=grid, n=n: pair.fast(grid, x, y[:], n, 16))
        assert how.get("graph", 0) + how.get("not hot", 0) == 2 and [launch.call for launch in result.launches] == [
            "cuGraphLaunch"]
    assert graphs() == sum(plan.graphs for plan in pair.lowlat.plans) > 0


def test_a_launch_like_the_last():
    """The driver is not told the same parameters twice in turn; any other launch is what it should be."""
    x, y = aligned(), aligned()
    pair = by_graph(two, x, y, 5, 16)
    for args, grid in (((x, y, 7), GRID), ((y, x, 7), GRID), ((y, x, 7), (3, 2)), ((y, x, 7), (3, 2, 2)),
                       ((y, x, 7), (2, 2, 2)), ((y, x, 5), (2, 2, 2)), ((x, y, 5), (2, 2, 2)), ((x, y, 5), GRID)):
        for told in (True, False):
            null.fail("cuGraphExecKernelNodeSetParams_v2", 1, times=0 if told else 1)
            how = submitted(pair, lambda args=args, grid=grid: pair.call(grid, *args, 16))[1]
            assert how == {"graph": 1}, (args, grid, told)
    null.fail("cuGraphExecKernelNodeSetParams_v2", 1)
    assert submitted(pair, lambda: pair.call(GRID, x, y, 7, 16))[1] == {"refused": 1}


def test_nothing_to_launch():
    x = aligned()
    pair = by_graph(one, x, 5)
    for grid in ((0, ), (-1, ), (3, 0), lambda meta: (0, )):
        assert submitted(pair, lambda grid=grid: pair.fast(grid, x, 5))[1] == {}


def test_descriptors():
    from triton.tools.tensor_descriptor import TensorDescriptor

    d = TensorDescriptor(aligned(4096), [64, 64], [64, 1], [16, 32])
    pair = by_graph(copied, d, 5)
    for base in (aligned(4096), aligned(8192), d.base):
        d.base = base
        assert submitted(pair, lambda: pair.call(GRID, d, 7))[1] == {"graph": 1}


def test_after_so_many_launches():
    pair, x = Pair(one), aligned()
    pair.lowlat.route = "graph"
    _fast.set_route("driver", 5, 256, False)
    for _ in range(10):
        pair.call(GRID, x, 5)
    plan, = pair.lowlat.plans
    assert plan.submitted == {"not hot": 5, "graph": 4}  # the first call was Triton's


def test_a_graph_per_stream():
    x, others = aligned(), itertools.count(7, 2)
    pair = by_graph(one, x, 5)
    for stream in (0x1000, 0x2000, 0x1000, 0, 0x2000):
        null.set_stream(stream)
        numbers = next(others), next(others)
        result = [pair.call(GRID, x, n) for n in numbers for _ in range(5)][-1]
        assert [(launch.stream, launch.call) for launch in result.launches] == [(stream, "cuGraphLaunch")]
    assert graphs() == 3


def test_devices():
    x, others = aligned(), itertools.count(7, 2)
    pair = by_graph(one, x, 5)
    for device in (1, 0, 1, 0):
        null.set_device(device)
        numbers = next(others), next(others)
        result = [pair.call(GRID, x, n) for n in numbers for _ in range(4)][-1]
        assert [(launch.device, launch.call) for launch in result.launches] == [(device, "cuGraphLaunch")]
    assert graphs() == 2


# ---- parameters that come again -------------------------------------------------------------------------------------


def nothing_is_patched(pair, calls):
    """... in these launches by graph, each of which is as Triton's."""
    null.fail("cuGraphExecKernelNodeSetParams_v2", 1, times=len(calls))
    how = submitted(pair, lambda: [pair.call(*call) for call in calls])[1]
    null.fail("", 0, 0)
    return how == {"graph": len(calls)}


def test_parameters_by_turns():
    """Once each is hot it has a graph of its own, the grid and the stream being part of it; others take the plan's."""
    tensors = [aligned() for _ in range(4)]
    pair = by_graph(two, tensors[0], tensors[1], 5, 16)
    calls = [(grid, x, tensors[1], n, 16) for grid in (GRID, (3, 2)) for x in tensors for n in (5, 7)]
    for _ in range(2 + OWN):
        for call in calls:
            pair.call(*call)
    assert nothing_is_patched(pair, 3 * calls) and pair.lowlat.plans[-1].graphs == len(calls)  # one has the plan's
    for stream in (0x1000, 0):
        null.set_stream(stream)
        for _ in range(4 + OWN):
            for call in calls[:3]:
                pair.call(*call)
        assert nothing_is_patched(pair, calls[:3])
    assert graphs() == pair.lowlat.plans[-1].graphs > len(calls) + 2
    assert not nothing_is_patched(pair, [((2, ), *calls[0][1:])])


def test_parameters_that_are_not_launched_again():
    """They get no graph, and leave those that are theirs."""
    x, y = aligned(), aligned()
    pair = by_graph(two, x, y, 5, 16)
    for n in range(5, 905, 2):
        for again in (x, y):
            pair.call(GRID, again, again, 5, 16)
        pair.call(GRID, x, y, n, 16)
    assert nothing_is_patched(pair, [(GRID, x, x, 5, 16), (GRID, y, y, 5, 16)]) and pair.lowlat.plans[-1].graphs == 3


def test_parameters_that_are_never_launched_again():
    """... where a plan gets its graph at once."""
    x = aligned()
    _fast.set_route("driver", 0, 256, False)
    pair = Pair(one)
    pair.lowlat.route = "graph"
    for n in range(5, 605, 2):
        for stream in (0, 0x1000):
            null.set_stream(stream)
            pair.call(GRID, x, n)
    assert [plan.graphs for plan in pair.lowlat.plans] == [2]


def test_parameters_that_take_the_places_of_others():
    """As many as there are places for, more than that, and a few others."""
    x, y = aligned(), aligned()
    pair = by_graph(two, x, y, 5, 16)
    for first, count, rounds in ((5, 120, 16), (1005, 200, 12), (2005, 60, 60), (3005, 3, 200)):
        calls = [(GRID, x, y, n, 16) for n in range(first, first + 2 * count, 2) if n % 16]
        for _ in range(rounds):
            for call in calls:
                pair.call(*call)
        assert 20 < pair.lowlat.plans[-1].graphs <= 129
    assert nothing_is_patched(pair, calls)


def test_parameters_get_no_graph_for_which_another_would_go():
    x, y = aligned(), aligned()
    others = by_graph(one, y, 5)
    _fast.set_route("driver", AFTER, 4, False)
    pair = by_graph(one, x, 5)
    for _ in range(2 * OWN):
        for n in range(5, 25, 2):
            pair.call(GRID, x, n)
    assert graphs() == 4 and others.lowlat.plans[-1].graphs == 1 and pair.lowlat.plans[-1].graphs == 3
    assert nothing_is_patched(pair, [(GRID, x, 7), (GRID, x, 9)])  # which were hot first
    # One for a plan that has none is made at any rate.  It takes the place of the one that waits longest, whose
    # parameters are launched by the plan's then, until there is room.
    others.call(GRID, y, 5)
    another = by_graph(one, x, 5)
    assert graphs() == 4 and another.lowlat.plans[-1].graphs == others.lowlat.plans[-1].graphs == 1
    for _ in range(2):
        for n in range(5, 25, 2):
            assert submitted(pair, lambda n=n: pair.call(GRID, x, n))[1] == {"graph": 1}
    assert graphs() == 4
    another.lowlat.forget()
    for _ in range(2 * OWN):
        for n in range(5, 25, 2):
            pair.call(GRID, x, n)
    assert graphs() == 4 and pair.lowlat.plans[-1].graphs == 3


@pytest.mark.parametrize("name", ["cuGraphCreate", "cuGraphAddKernelNode_v2", "cuGraphInstantiateWithFlags",
                                  "cuGraphExecKernelNodeSetParams_v2", "cuGraphLaunch"])
def test_a_graph_of_their_own_is_refused(name):
    """The launch is made by the plan's graph if there is none, and the plain way if it has failed; the next as ever."""
    x = aligned()
    pair = by_graph(one, x, 5)
    for _ in range(OWN - 1):
        for n in (7, 5):
            pair.call(GRID, x, n)
    assert graphs() == 1
    for n in (7, 5):
        null.fail(name, 2)
        assert submitted(pair, lambda n=n: pair.call(GRID, x, n))[1] in ({"graph": 1}, {"refused": 1}, {"not hot": 1})
        null.fail("", 0, 0)
    for _ in range(200):
        for n in (5, 7):
            pair.call(GRID, x, n)
    assert nothing_is_patched(pair, [(GRID, x, 5), (GRID, x, 7)])


def test_refused_graphs_of_parameters_are_tried_less_often():
    """... and the plan's is none the worse."""
    x = aligned()
    pair = by_graph(one, x, 5)
    null.fail("cuGraphInstantiateWithFlags", 2, times=3)
    for _ in range(100):
        for n in (5, 7):
            assert submitted(pair, lambda n=n: pair.call(GRID, x, n))[1] == {"graph": 1}
    assert graphs() == 1
    null.fail("", 0, 0)
    for _ in range(600):
        for n in (5, 7):
            pair.call(GRID, x, n)
    assert nothing_is_patched(pair, [(GRID, x, 5), (GRID, x, 7)])


def test_a_plan_keeps_the_graph_for_any_parameters():
    """If one is to go, it is one of those for some, and were it the one that was launched last."""
    x, y = aligned(), aligned()
    _fast.set_route("driver", AFTER, 3, False)
    pair, other = by_graph(one, x, 5), by_graph(one, y, 5)
    for _ in range(2 + OWN):
        for n in (7, 5):
            pair.call(GRID, x, n)
    pair.call(GRID, x, 7)
    other.call(GRID, y, 5)
    assert graphs() == 3 and pair.lowlat.plans[-1].graphs == 2
    by_graph(two, x, y, 5, 16)
    assert graphs() == 3 and pair.lowlat.plans[-1].graphs == 1 and other.lowlat.plans[-1].graphs == 1
    for n in (5, 7, 9, 11):
        assert submitted(pair, lambda n=n: pair.call(GRID, x, n))[1] == {"graph": 1}


def test_parameters_that_are_not_launched_any_more_make_room():
    x = aligned()
    _fast.set_route("driver", AFTER, 3, False)
    pair = by_graph(one, x, 5)
    for _ in range(2 + OWN):
        for n in (5, 7, 9):
            pair.call(GRID, x, n)
    assert graphs() == 3
    for _ in range(400):
        for n in (11, 13, 15):
            pair.call(GRID, x, n)
    assert graphs() == 3 and nothing_is_patched(pair, [(GRID, x, 11), (GRID, x, 13), (GRID, x, 15)])


def test_a_graph_of_their_own_goes():
    """... in whichever order, and the plan's own stays; in a forked child none is used."""
    x = aligned()
    pair = by_graph(one, x, 5)
    for _ in range(2 + OWN):
        for n in (5, 7, 9):
            pair.call(GRID, x, n)
    assert graphs() == pair.lowlat.plans[-1].graphs == 3  # one of the three has the plan's
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            before = null.violations()
            for n in 8 * (5, 7, 9):
                pair.call(GRID, x, n)
            status = 0 if null.violations() == before and counts(pair)["graph"] > 12 else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    pair.call(GRID, x, 7)
    _fast.set_route("driver", AFTER, 2, False)  # of two the plan's is one, and that of 7
    assert pair.lowlat.plans[-1].graphs == 2 and nothing_is_patched(pair, [(GRID, x, 7)])
    for n in (5, 7, 9, 5, 7, 9):
        assert submitted(pair, lambda n=n: pair.call(GRID, x, n))[1] == {"graph": 1}
    pair.lowlat.forget()
    assert graphs() == 0


def test_whatever_comes_again():
    """By chance: parameters, grids, streams and devices from a few, few graphs, plans dropped now and then."""
    chance = random.Random(5)
    tensors = [aligned() for _ in range(2)]
    pair = by_graph(two, *tensors, 5, 16)
    how = {}
    for turn in range(3000):
        if turn % 500 == 250:
            null.set_device(chance.randrange(2))
        if turn % 40 == 0:
            null.set_stream(chance.choice((0, 0, 0x1000)), chance.randrange(2))
            _fast.set_route("driver", chance.randrange(3), chance.choice((2, 5, 256)), False)
        if turn % 700 == 0:
            pair.lowlat.forget()
        call = (chance.choice((GRID, GRID, (2, 2))), chance.choice(tensors), chance.choice(tensors),
                chance.choice((5, 7, 9, chance.randrange(1000))), 16)
        for name, count in submitted(pair, lambda call=call: pair.call(*call))[1].items():
            how[name] = how.get(name, 0) + max(count, 0)
    assert how["graph"] > 2000, how


# ---- not taken ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"launch_pdl": True}, {"launch_cooperative_grid": True}, {"num_ctas": 2}], ids=str)
def test_attributes(options):
    pair, x = Pair(one), aligned()
    pair.lowlat.route = "graph"
    for _ in range(5):
        pair.call(GRID, x, 5, **options)
    assert counts(pair) == {"attributes": 4} and graphs() == 0


def test_graphs_that_go_while_a_stream_is_captured():
    """Neither one that makes room for another, nor one that goes with its plan, spoils the capture."""
    x = aligned()
    _fast.set_route("driver", AFTER, 1, False)
    by_graph(one, x, 5)
    pair = by_graph(one, x, 5)
    null.set_capturing(0x4000)
    null.set_stream(0x2000)
    for _ in range(8):
        pair.fast(GRID, x, 5)
    assert graphs() == 1
    pair.lowlat.forget()
    assert graphs() == 0
    null.clear_capturing()


def test_captured_streams():
    x = aligned()
    pair = by_graph(one, x, 5)
    null.set_stream(0x1000)
    for _ in range(3):
        pair.call(GRID, x, 5)
    null.set_capturing(0x1000)
    assert submitted(pair, lambda: pair.fast(GRID, x, 5))[1] == {"capturing": 2}
    null.set_stream(0x2000)  # another one: a graph for it is made and launched while the first is captured
    assert submitted(pair, lambda: [pair.fast(GRID, x, 5) for _ in range(4)])[1]["graph"] > 0
    mode = ctypes.c_int(0)
    assert ctypes.CDLL("libcuda.so.1").cuThreadExchangeStreamCaptureMode(ctypes.byref(mode)) == 0
    assert mode.value == 0  # as the thread had it
    null.set_capturing(0x1000, False)
    null.set_stream(0x1000)
    assert submitted(pair, lambda: pair.call(GRID, x, 5))[1] == {"graph": 1}


def test_the_legacy_stream_while_another_is_captured(sound):
    """The launch fails, as the plain one, and spoils the capture as often."""
    x = aligned()
    pair = by_graph(one, x, 5)
    null.set_capturing(0x1000)
    before = null.spoilt_captures()
    (outcome, how) = submitted(pair, lambda: pair.call(GRID, x, 5))
    assert "capturing blocking stream" in outcome.error[1] and how == {"capturing": 1}
    assert null.spoilt_captures() == before + 2  # Triton's launch and lowlat's
    sound.add(2)
    null.clear_capturing()
    assert submitted(pair, lambda: pair.call(GRID, x, 5))[1] == {"graph": 1}


def test_the_per_thread_stream():
    x = aligned()
    pair = by_graph(one, x, 5)
    null.set_stream(2)
    assert submitted(pair, lambda: pair.fast(GRID, x, 5))[1] == {"per-thread stream": 2}


def test_a_stream_of_a_green_context():
    """A graph would not keep to the few multiprocessors that its stream has."""
    x = aligned()
    pair = by_graph(one, x, 5)
    null.set_stream(0x1000)
    null.set_green_stream(0x1000)
    try:
        for how in ("not hot", "other context", "other context"):
            assert submitted(pair, lambda: pair.call(GRID, x, 5))[1] == {how: 1}
        null.set_stream(0x2000)
        assert submitted(pair, lambda: pair.call(GRID, x, 5))[1] == {"graph": 1}
        null.set_green_stream(0x2000)  # it has the handle of the one before
        assert submitted(pair, lambda: pair.call(GRID, x, 5))[1] == {"other context": 1}
        null.set_green_stream(0)
        assert submitted(pair, lambda: pair.call(GRID, x, 5))[1] == {"graph": 1}
    finally:
        null.set_green_stream(0)


def test_launch_blocking():
    x = aligned()
    pair = by_graph(one, x, 5)
    _fast.set_route("driver", AFTER, 256, True)
    assert submitted(pair, lambda: pair.fast(GRID, x, 5))[1] == {"blocking": 2}


def test_another_context():
    """The thread's context is none, or the other device's while torch says this one: as Triton."""
    x = aligned()
    pair = by_graph(one, x, 5)
    _, how = submitted(pair, lambda: pair.lockstep(lambda kernel: kernel[GRID](x, 5), before=null.drop_context))
    assert how == {"other context": 1} and pair.lowlat.exits["no context"] == 1
    null.set_device(0)
    assert submitted(pair, lambda: pair.call(GRID, x, 5))[1] == {"graph": 1}


def test_hooks_are_called():
    from triton import knobs

    x, seen = aligned(), []
    pair = by_graph(one, x, 5)
    knobs.runtime.launch_enter_hook.add(seen.append)
    pair.leaves("launch hook", GRID, x, 5)
    knobs.runtime.launch_enter_hook.remove(seen.append)
    assert len(seen) == 2
    assert submitted(pair, lambda: pair.call(GRID, x, 5))[1] == {"graph": 1}


# ---- what fails -----------------------------------------------------------------------------------------------------

CALLS = ("cuGraphCreate", "cuGraphAddKernelNode_v2", "cuGraphInstantiateWithFlags")


@pytest.mark.parametrize("result", [1, 2, 700])
@pytest.mark.parametrize("name", CALLS)
def test_no_graph_can_be_made(name, result):
    pair, x = Pair(one), aligned()
    pair.lowlat.route = "graph"
    null.fail(name, result)
    for _ in range(3 + 5 * AFTER):
        pair.call(GRID, x, 5)
    assert counts(pair) == {"not hot": 5 * AFTER, "no room": 1, "graph": 1}  # again, after four times as many launches
    assert graphs() == 1


@pytest.mark.parametrize("result", [1, 700, 719])
@pytest.mark.parametrize("name", ["cuGraphExecKernelNodeSetParams_v2", "cuGraphLaunch"])
def test_a_graph_is_refused(name, result):
    """The launch is made all the same, and the graph, which may be half patched, is not used again."""
    x = aligned()
    pair = by_graph(one, x, 5)
    null.fail(name, result)
    outcome, how = submitted(pair, lambda: pair.call(GRID, x, 6))
    assert how == {"refused": 1} and [launch.call for launch in outcome.launches] == ["cuLaunchKernelEx"]
    assert graphs() == 0
    for _ in range(4 * 4 * AFTER + 1):
        how = submitted(pair, lambda: pair.call(GRID, x, 6))[1]
    assert how == {"graph": 1} and graphs() == 1


@pytest.mark.parametrize("result", [1, 2, 201, 400, 700, 701, 719, 12345])
def test_errors_are_tritons(result):
    x = aligned()
    pair = by_graph(one, x, 5)
    outcome = pair.lockstep(lambda kernel: kernel[GRID](x, 5), before=lambda: null.fail("cuLaunchKernelEx", result))
    assert outcome.error is not None and outcome.error[0] is RuntimeError
    null.fail("", 0, 0)
    pair.fast(GRID, x, 5)


def test_a_grid_that_the_driver_refuses():
    x = aligned()
    pair = by_graph(one, x, 5)
    assert submitted(pair, lambda: pair.call((1, 70000), x, 5))[1] == {"refused": 1}


@pytest.mark.parametrize("name", ["cuStreamIsCapturing", "cuCtxGetCurrent"])
def test_a_question_fails(name):
    x = aligned()
    pair = by_graph(one, x, 5)
    null.fail(name, 719)
    how = submitted(pair, lambda: pair.lowlat[GRID](x, 5))[1]
    assert how in ({"capturing": 1}, {"other context": 1})


# ---- how many, and how long -----------------------------------------------------------------------------------------


def test_they_go_with_their_plans():
    x, y = aligned(), aligned()
    for end in ("forget", "route"):  # (kernels never go: Triton keeps a list of them)
        pair = by_graph(two, x, y, 5, 16)
        assert graphs() == 1
        if end == "forget":
            pair.lowlat.forget()
        else:
            pair.lowlat.route = "driver"
        assert (end, graphs()) == (end, 0) and _fast.graph_count() == 0


def test_a_kernel_that_left_the_cache():
    x = aligned()
    pair = by_graph(one, x, 5)
    for kernel in (pair.triton, pair.lowlat):
        kernel.device_caches[0][0].clear()
    for _ in range(3 + AFTER):
        outcome = pair.call(GRID, x, 6)
    assert [launch.call for launch in outcome.launches] == ["cuGraphLaunch"] and graphs() == 1


def test_there_are_no_more_than_may_be():
    """The one that was launched longest ago goes, and its plan gets another after four times as many launches."""
    x, y = aligned(), aligned()
    _fast.set_route("driver", AFTER, 4, False)
    pair = Pair(two)
    pair.lowlat.route = "graph"
    for block in (16, 32, 64, 128):
        for _ in range(3):
            pair.call(GRID, x, y, 5, block)
    assert graphs() == 4
    pair.call(GRID, x, y, 5, 16)  # so 32 is the oldest
    for _ in range(3):
        pair.call(GRID, x, y, 5, 256)
    assert graphs() == 4
    assert submitted(pair, lambda: pair.call(GRID, x, y, 5, 16))[1] == {"graph": 1}
    assert submitted(pair, lambda: [pair.call(GRID, x, y, 5, 32) for _ in range(5 * AFTER)])[1] == {
        "not hot": 4 * AFTER, "graph": 1}
    _fast.set_route("driver", AFTER, 1, False)
    assert graphs() == 1
    _fast.set_route("driver", AFTER, 0, False)
    assert graphs() == 0
    assert submitted(pair, lambda: [pair.call(GRID, x, y, 5, 512) for _ in range(5)])[1] == {"not hot": 3, "no room": 1}


def test_ten_thousand_plans():
    """... by turns: each has a graph for a while, none forever, and the launches are right."""
    kernels = [lowlat.jit(one, route="graph") for _ in range(100)]
    x = aligned()
    _fast.set_route("driver", AFTER, 16, False)
    streams = [0x1000 * i for i in range(1, 101)]
    with null.record() as launches:
        for i in range(3):
            for kernel in kernels:
                for stream in streams if i else streams[:1]:
                    null.set_stream(stream)
                    kernel[GRID](x, 5)
    assert len(launches) == 20100 and graphs() <= 16
    assert {(launch.grid, launch.parameters[1]) for launch in launches} == {((3, 1, 1), (5).to_bytes(4, "little"))}


def test_memory_is_given_back():
    x, y = aligned(), aligned()
    sizes = []
    for _ in range(6):
        for _ in range(50):
            pair = by_graph(two, x, y, 5, 16)
            null.fail("cuGraphInstantiateWithFlags", 2)
            pair.lowlat.forget()
            for _ in range(3 + AFTER):
                pair.call(GRID, x, y, 5, 16)
            null.fail("", 0, 0)
            del pair
        gc.collect()
        with open("/proc/self/statm") as text:
            sizes.append(int(text.read().split()[1]))
    assert sizes[-1] - sizes[2] < 500  # pages; the null driver keeps a few words of each


def test_at_the_end_of_the_process():
    code = ("import lowlat, torch, triton.language as tl\nfrom lowlat import null, _fast\nnull.activate()\n"
            "import test_graph_route\nk = lowlat.jit(test_graph_route.one, route='graph')\nx = torch.zeros(16)\n"
            "for _ in range(4): k[(1,)](x, 5)\n"
            "import atexit\nprint(null.graphs(), flush=True)\n"
            "import threading\nthreading._register_atexit(lambda: print(null.graphs(), flush=True))\n")
    done = run_python(code, LOWLAT_GRAPH_AFTER="1")
    assert done.returncode == 0 and done.stdout.split()[0] == "1", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_in_a_forked_child():
    x = aligned()
    pair = by_graph(one, x, 5)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            before = null.violations()
            for _ in range(6):
                pair.call(GRID, x, 5)
            left = counts(pair)
            pair.lowlat.forget()
            gc.collect()
            status = 0 if null.violations() == before and left.get("graph", 0) >= 2 else 2
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert submitted(pair, lambda: pair.call(GRID, x, 5))[1] == {"graph": 1}


# ---- threads --------------------------------------------------------------------------------------------------------


def test_threads_on_one_stream():
    """Sixteen threads, one kernel, one stream, device switches: each launch as alone, no graph used twice at once."""
    x = aligned()
    pair = by_graph(one, x, 5)
    for n in range(1000, 1016):
        pair.call(GRID, x, n)
    null.linger(3)
    started, count = threading.Barrier(16), 60

    def work(number):
        started.wait()
        for i in range(count):
            null.set_device(i % 7 == 3)
            pair.lowlat[(number + 1, )](x, 1000 + i)

    with null.record() as launches:
        threads = [threading.Thread(target=work, args=(number, )) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seen = sorted((launch.grid[0], int.from_bytes(launch.parameters[1], "little"), launch.device)
                  for launch in launches)
    assert seen == sorted((number + 1, 1000 + i, i % 7 == 3) for number in range(16) for i in range(count))
    assert counts(pair)["graph"] > count


def test_threads_with_parameters_by_turns():
    """Each set of parameters has a graph of its own; no thread launches one that another is launching."""
    tensors = [aligned() for _ in range(3)]
    pair = by_graph(one, tensors[0], 5)
    for _ in range(2 + OWN):
        for x in tensors:
            pair.call(GRID, x, 5)
    assert pair.lowlat.plans[-1].graphs == 3
    null.linger(3)
    started = threading.Barrier(8)

    def work():
        started.wait()
        for i in range(120):
            pair.lowlat[GRID](tensors[i % 3], 5)

    with null.record() as launches:
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert collections.Counter(int.from_bytes(launch.parameters[0], "little") for launch in launches) == {
        x.data_ptr(): 320 for x in tensors}
    how = counts(pair)
    assert how["in use"] > 0 and how["graph"] > 50


def test_plans_dropped_while_they_launch():
    x = aligned()
    pair = by_graph(one, x, 5)
    null.linger(5)
    done = threading.Event()

    def forget():
        while not done.is_set():
            pair.lowlat.forget()
            _fast.drop_graphs()

    thread = threading.Thread(target=forget)
    thread.start()
    try:
        with null.record() as launches:
            for i in range(400):
                pair.lowlat[GRID](x, 100 + i)
    finally:
        done.set()
        thread.join()
    assert [int.from_bytes(launch.parameters[1], "little") for launch in launches] == list(range(100, 500))


# ---- which way ------------------------------------------------------------------------------------------------------


def test_auto_measures_both_and_decides():
    """Both ways take turns until there are enough samples; then all launches go one way, and `race` says why."""
    pair, x = Pair(one), aligned()
    pair.lowlat.route = "auto"
    null.set_device(1)
    for i in range(200):
        pair.call(GRID, x, 5 + i % 3)
    driver, graph = _fast.race(1)
    assert driver > 0 and graph > 0
    how = counts(pair)
    assert how["measured"] == 72 and how["graph"] >= 72
    last = submitted(pair, lambda: pair.call(GRID, x, 5))[1]
    assert last == ({"graph": 1} if 10 * graph < 9 * driver else {"slower": 1})
    assert _fast.race(7) is None and _fast.race(-1) is None and _fast.race(1000) is None


def test_auto_decides():
    """... for the plain way, where launching graphs takes much longer."""
    code = ("import lowlat, torch\nfrom lowlat import null, _fast\nnull.activate()\nimport test_graph_route\n"
            "k = lowlat.jit(test_graph_route.one, route='auto')\nx = torch.zeros(16)\nnull.linger(300)\n"
            "for _ in range(200): k[(1,)](x, 5)\nprint(k.plans[0].submitted, _fast.race(0))\n")
    done = run_python(code, LOWLAT_GRAPH_AFTER="1")
    how, (driver, graph) = eval(done.stdout.replace("} (", "}, ("))
    assert how == {"not hot": 1, "graph": 72, "measured": 72, "slower": 54} and graph > driver


def test_auto_measures_one_graph():
    """... and not the first launches of graphs that parameters get for themselves."""
    code = ("import lowlat, torch\nfrom lowlat import null, _fast\nnull.activate()\nimport test_graph_route\n"
            "k = lowlat.jit(test_graph_route.one, route='auto')\nx = torch.zeros(16)\n"
            "for i in range(100): k[(1,)](x, 5 + i % 3 // 2 * 2)\nprint(k.plans[0].graphs, _fast.race(0))\n")
    assert run_python(code, LOWLAT_GRAPH_AFTER="1").stdout.split() == ["1", "None"]


def test_auto_measures_launches_with_other_parameters():
    """... also where all are alike, and a graph would have nothing to be given."""
    code = ("import lowlat, torch\nfrom lowlat import null, _fast\nnull.activate()\nimport test_graph_route\n"
            "k = lowlat.jit(test_graph_route.one, route='auto')\nx = torch.zeros(16)\n"
            "for _ in range(20): k[(1,)](x, 5)\nnull.fail('cuGraphExecKernelNodeSetParams_v2', 1)\n"
            "for _ in range(4): k[(1,)](x, 5)\nprint(k.plans[0].submitted.get('refused'), _fast.race(0))\n")
    assert run_python(code, LOWLAT_GRAPH_AFTER="1").stdout.split() == ["1", "None"]


def test_where_it_is_asked_for():
    pair, x = Pair(one), aligned()
    for _ in range(4):
        pair.call(GRID, x, 5)
    assert counts(pair) == {}
    with lowlat.route("graph"):
        pair.call(GRID, x, 5)
        with lowlat.route("driver"):
            pair.call(GRID, x, 5)
        assert submitted(pair, lambda: pair.call(GRID, x, 5))[1] == {"graph": 1}
        thread = threading.Thread(target=lambda: pair.lowlat[GRID](x, 5))  # a context of its own
        assert submitted(pair, lambda: (thread.start(), thread.join()))[1] == {}
        pair.lowlat.route = "driver"
        assert [submitted(pair, lambda: pair.call(GRID, x, 5))[1] for _ in range(3)] == [{}] * 3
    pair.lowlat.route = None
    assert [submitted(pair, lambda: pair.call(GRID, x, 5))[1] for _ in range(3)] == [{}] * 3
    _fast.set_route("graph", AFTER, 256, False)
    assert submitted(pair, lambda: [pair.call(GRID, x, 5) for _ in range(3)])[1]["graph"] == 2
    with lowlat.route("driver"):
        assert submitted(pair, lambda: pair.call(GRID, x, 5))[1] == {}
        pair.lowlat.route = "graph"
        assert submitted(pair, lambda: [pair.call(GRID, x, 5) for _ in range(3)])[1] == {"not hot": 1, "graph": 1}


def test_route_of_a_kernel():
    assert lowlat.jit(one).route is None and lowlat.jit(route="graph")(one).route == "graph"
    assert lowlat.jit(one, route="auto").route == "auto" and lowlat.jit(route=None)(one).route is None
    for make in (lambda: lowlat.jit(route="fast"), lambda: lowlat.jit(one, route="fast")):
        with pytest.raises(ValueError, match="route is 'fast', must be 'auto', 'driver', 'graph' or 'wrapper'"):
            make()
    with pytest.raises(ValueError, match="route is 'wrapper', must be 'driver', 'graph' or 'auto'"):
        with lowlat.route("wrapper"):
            pass


@pytest.mark.parametrize("variable, value, message", [
    ("LOWLAT_ROUTE", "quick", "LOWLAT_ROUTE is 'quick', must be 'driver', 'graph' or 'auto'"),
    ("LOWLAT_GRAPH_AFTER", "-1", "LOWLAT_GRAPH_AFTER is '-1', must be a number from 0 to 1073741824"),
    ("LOWLAT_GRAPHS", "many", "LOWLAT_GRAPHS is 'many', must be a number from 0 to 1048576"),
])
def test_wrong_environment(variable, value, message):
    done = run_python("import lowlat", **{variable: value})
    assert done.returncode != 0 and message in done.stderr


def test_environment():
    code = ("import lowlat, torch\nfrom lowlat import null\nnull.activate()\nimport test_graph_route\n"
            "k = lowlat.jit(test_graph_route.one)\nx = torch.zeros(16)\n"
            "for _ in range(6): k[(1,)](x, 5)\nprint(k.plans[0].submitted)\n")
    for environment, expected in (({"LOWLAT_ROUTE": "graph", "LOWLAT_GRAPH_AFTER": "2"}, {"not hot": 2, "graph": 3}),
                                  ({"LOWLAT_ROUTE": "graph", "LOWLAT_GRAPHS": "0", "LOWLAT_GRAPH_AFTER": "0"},
                                   {"no room": 1, "not hot": 4}),
                                  ({"LOWLAT_ROUTE": "graph", "CUDA_LAUNCH_BLOCKING": "1"}, {"blocking": 5}),
                                  ({"LOWLAT_ROUTE": "driver", "LOWLAT_GRAPH_AFTER": "0"}, {})):
        done = run_python(code, **environment)
        assert done.returncode == 0 and eval(done.stdout) == expected, (environment, done.stdout, done.stderr)


def test_launch_blocking_set_after_the_import():
    """... and before CUDA starts, which is when the driver reads it."""
    code = ("import lowlat, os, torch\nfrom lowlat import null\nos.environ['CUDA_LAUNCH_BLOCKING'] = '1'\n"
            "null.activate()\nimport test_graph_route\nk = lowlat.jit(test_graph_route.one, route='graph')\n"
            "x = torch.zeros(16)\nfor _ in range(4): k[(1,)](x, 5)\nprint(k.plans[0].submitted)\n")
    done = run_python(code, LOWLAT_GRAPH_AFTER="0", CUDA_LAUNCH_BLOCKING="0")
    assert done.returncode == 0 and eval(done.stdout) == {"blocking": 3}, done.stderr


def test_reasons_are_explained():
    assert all(text for text in lowlat.SUBMISSIONS.values()) and len(lowlat.SUBMISSIONS) == 13
