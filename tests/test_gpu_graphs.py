"""On a GPU: the graph route and recorded sequences.  Launches that are many, concurrent, ordered by events and by the
legacy stream, captured, queued, printed from, asserted in and destroyed while they run; each as by the plain call."""

import ctypes
import gc
import os
import re
import subprocess
import sys
import threading
import time

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

import lowlat
from lowlat import _fast

pytestmark = pytest.mark.gpu

ROUTES = ("driver", "graph")


@triton.jit
def clock():
    """Nanoseconds."""
    return tl.inline_asm_elementwise("mov.u64 $0, %globaltimer;", "=l", [], dtype=tl.int64, is_pure=False, pack=1)


def put(out, i, value):
    tl.store(out + i, value)


@triton.jit
def multiprocessor():
    return tl.inline_asm_elementwise("mov.u32 $0, %smid;", "=r", [], dtype=tl.int32, is_pure=False, pack=1)


def where(out, nanoseconds):
    start = clock()
    now = start
    while now - start < nanoseconds:
        now = clock()
    tl.atomic_add(out + multiprocessor(), 1)


def append(out, length, value):
    """The next place of `out`: the order of the launches can be read off it."""
    i = tl.load(length)
    tl.store(out + i, value)
    tl.store(length, i + 1)


def spin(out, i, nanoseconds):
    start = clock()
    now = start
    while now - start < nanoseconds:
        now = clock()
    tl.store(out + i, tl.load(out + i) + 1)


def meet(arrived, met, i, others, nanoseconds):
    """Says that it runs, and waits until all others do."""
    tl.atomic_add(arrived, 1)
    start = clock()
    now = start
    here = tl.atomic_add(arrived, 0)
    while (here < others) & (now - start < nanoseconds):
        here = tl.atomic_add(arrived, 0)
        now = clock()
    tl.store(met + i, here)


def add(out, i, value):
    tl.atomic_add(out + i, value)


def by_graph(function, **options):
    kernel = lowlat.jit(function, **options)
    kernel.route = "graph"
    return kernel


def submitted(kernel):
    total = {}
    for plan in kernel.plans:
        for name, count in plan.submitted.items():
            total[name] = total.get(name, 0) + count
    return total


class Streams:
    """Streams of the driver's own, blocking ones if asked for; `destroy` may come while they run."""

    def __init__(self):
        self.driver = ctypes.CDLL("libcuda.so.1")
        torch.zeros(1, device="cuda")
        self.made = []

    def make(self, blocking=False):
        handle = ctypes.c_void_p()
        assert self.driver.cuStreamCreate(ctypes.byref(handle), 0 if blocking else 1) == 0
        self.made.append(handle.value)
        return torch.cuda.ExternalStream(handle.value)

    def destroy(self, stream):
        assert self.driver.cuStreamDestroy_v2(ctypes.c_void_p(stream.cuda_stream)) == 0
        self.made.remove(stream.cuda_stream)


@pytest.fixture
def streams():
    own = Streams()
    yield own
    torch.cuda.synchronize()
    _fast.drop_graphs()
    for handle in own.made:
        own.driver.cuStreamDestroy_v2(ctypes.c_void_p(handle))


@pytest.fixture(autouse=True)
def as_found():
    yield
    torch.cuda.synchronize()
    _fast.set_route("driver", 1, 256, False)
    _fast.drop_graphs()


def script(tmp_path, text, **environment):
    """Runs it in a process of its own, from a file, where Triton finds its kernels' source."""
    path = tmp_path / "script.py"
    path.write_text("import sys, torch, triton, triton.language as tl, lowlat, test_gpu_graphs as t\n" + text)
    here = os.path.dirname(__file__)
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=120, env={
        **os.environ, "PYTHONPATH": os.pathsep.join([here, *filter(None, sys.path)]), "LOWLAT_GRAPH_AFTER": "1",
        **environment})


@pytest.mark.parametrize("side", [False, True])
def test_a_million_launches(side):
    """Each with other parameters, none of them lost, repeated or seen by another."""
    count = 1 << 20
    kernel = by_graph(put, do_not_specialize=["i", "value"])
    out = torch.full((count, ), -1, dtype=torch.int32, device="cuda")
    expected = torch.arange(count, dtype=torch.int64)
    expected = ((expected * 2654435761) & 0x7fffffff).to(torch.int32)
    values = expected.tolist()
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream() if side else torch.cuda.current_stream()):
        launch = kernel[(1, )]
        for i, value in enumerate(values):
            launch(out, i, value)
        torch.cuda.synchronize()
    assert torch.equal(out.cpu(), expected)
    assert submitted(kernel)["graph"] >= count - 5


@pytest.mark.parametrize("side", [False, True])
def test_parameters_by_turns(side):
    """Some in graphs of their own and some not, on two streams: each launch once, in order."""
    kernel, streams = by_graph(append, do_not_specialize=["value"]), [torch.cuda.current_stream(), torch.cuda.Stream()]
    outs = [torch.zeros(60000, dtype=torch.int32, device="cuda") for _ in streams]
    lengths = [torch.zeros(1, dtype=torch.int32, device="cuda") for _ in streams]
    torch.cuda.synchronize()
    expected = []
    for turn in range(1000):
        values = [*range(20), 100 + turn, *range(20, 48)]
        for stream, out, length in zip(streams[:1 + side], outs, lengths):
            with torch.cuda.stream(stream):
                for value in values:
                    kernel[(1, )](out, length, value)
        expected += values
    for out in outs[:1 + side]:
        assert out[:len(expected)].tolist() == expected
    plan, = kernel.plans
    assert plan.submitted["graph"] > 48000 and plan.graphs > 30 * (1 + side)


@pytest.mark.parametrize("count", [2, 8])
def test_streams_run_at_the_same_time(count):
    """One plan on several streams, and each of its launches waits until all run."""
    kernel = by_graph(meet, do_not_specialize=["i", "others", "nanoseconds"])
    arrived, met = (torch.zeros(count, dtype=torch.int32, device="cuda") for _ in range(2))
    side = [torch.cuda.Stream() for _ in range(count)]
    for _ in range(3):
        arrived.zero_(), met.zero_()
        for i, stream in enumerate(side * 2):
            with torch.cuda.stream(stream):
                kernel[(1, )](arrived, met, i % count, 1, 0)  # hot everywhere
        torch.cuda.synchronize()
    before = submitted(kernel).get("graph", 0)
    arrived.zero_(), met.zero_()
    torch.cuda.synchronize()
    for i, stream in enumerate(side):
        with torch.cuda.stream(stream):
            kernel[(1, )](arrived, met, i, count, 2_000_000_000)
    torch.cuda.synchronize()
    assert met.tolist() == [count] * count
    assert submitted(kernel)["graph"] == before + count


def test_order_in_a_stream():
    """Plans by graph, plain launches and torch's own work follow each other."""
    kernels = [by_graph(append, do_not_specialize=["value"]), lowlat.jit(append, do_not_specialize=["value"]),
               by_graph(append, do_not_specialize=["value"])]
    out, length = torch.zeros(40000, dtype=torch.int32, device="cuda"), torch.zeros(1, dtype=torch.int32, device="cuda")
    for value in range(30000):
        kernels[value * 7919 % 3][(1, )](out, length, value)
        if value % 1000 == 999:
            length += 1
            length -= 1
    assert torch.equal(out[:30000].cpu(), torch.arange(30000, dtype=torch.int32)) and length.item() == 30000
    assert submitted(kernels[0])["graph"] > 9000 and "graph" not in submitted(kernels[1])


def test_events_and_waits():
    """An event recorded behind a launch by graph is that launch's, and a stream that waits for it waits."""
    kernel, read = by_graph(spin, do_not_specialize=["i", "nanoseconds"]), by_graph(append, do_not_specialize=["value"])
    out, length = torch.zeros(1024, dtype=torch.int32, device="cuda"), torch.zeros(1, dtype=torch.int32, device="cuda")
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    for turn in range(20):
        started, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.stream(first):
            started.record()
            kernel[(1, )](length, 0, 2_000_000)  # counts `length` up, late
            done.record()
        with torch.cuda.stream(second):
            second.wait_event(done)
            read[(1, )](out, length, turn + 1)  # as well
        first.wait_stream(second)
        assert not done.query() or turn < 3  # compiled by then
        done.synchronize()
        assert started.elapsed_time(done) >= 2.0
    torch.cuda.synchronize()
    assert out[1:40:2].tolist() == list(range(1, 21)) and length.item() == 40
    assert submitted(kernel)["graph"] >= 17 and submitted(read)["graph"] >= 17


def test_the_legacy_stream_and_blocking_streams_wait_for_each_other(streams):
    kernel = by_graph(spin, do_not_specialize=["i", "nanoseconds"])
    read = by_graph(append, do_not_specialize=["value"])
    out, length = torch.zeros(1024, dtype=torch.int32, device="cuda"), torch.zeros(1, dtype=torch.int32, device="cuda")
    side = streams.make(blocking=True)
    torch.cuda.synchronize()
    for turn in range(20):
        late, early = (side, torch.cuda.default_stream())[::1 if turn % 2 else -1]
        with torch.cuda.stream(late):
            kernel[(1, )](length, 0, 1_000_000)
        with torch.cuda.stream(early):
            read[(1, )](out, length, turn + 1)
    torch.cuda.synchronize()
    assert out[1:40:2].tolist() == list(range(1, 21)) and length.item() == 40
    assert submitted(kernel)["graph"] >= 15 and submitted(read)["graph"] >= 15


@pytest.mark.parametrize("mode", ["global", "thread_local", "relaxed"])
def test_captures_around_and_between(mode):
    """A launch that is captured is a plain one, which belongs into the capture; those around it are by graph."""
    kernel, other, new = (by_graph(add, do_not_specialize=["i", "value"]) for _ in range(3))
    out = torch.zeros(4, dtype=torch.int32, device="cuda")
    for _ in range(6):
        kernel[(1, )](out, 0, 3)
    seen = submitted(kernel)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode=mode):
        for _ in range(7):
            kernel[(1, )](out, 1, 5)
    assert submitted(kernel)["capturing"] == 6 and submitted(kernel)["not hot"] == seen["not hot"] + 1
    assert submitted(kernel)["graph"] == seen["graph"] and out.tolist() == [18, 0, 0, 0]
    for _ in range(5):
        graph.replay()
        kernel[(1, )](out, 0, 3)
        other[(1, )](out, 2, 1)
    assert out.tolist() == [33, 175, 5, 0] and submitted(kernel)["graph"] == seen["graph"] + 5
    # A graph is made and launched for the first time while another stream is captured.
    side = torch.cuda.Stream()
    new[(1, )](out, 3, 1)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode=mode):
        kernel[(1, )](out, 1, 5)
        with torch.cuda.stream(side):
            for _ in range(4):
                new[(1, )](out, 3, 1)
    graph.replay()
    torch.cuda.synchronize()
    assert out.tolist() == [33, 180, 5, 5] and submitted(new)["graph"] >= 2


def test_a_full_launch_queue():
    """Thousands of launches behind a long one: the driver makes the host wait, in the graph's launch, too."""
    late, kernel = by_graph(spin, do_not_specialize=["i", "nanoseconds"]), by_graph(append, do_not_specialize=["value"])
    out, length = torch.zeros(40000, dtype=torch.int32, device="cuda"), torch.zeros(1, dtype=torch.int32, device="cuda")
    scratch, ticks = torch.zeros(8, dtype=torch.int32, device="cuda"), []
    for _ in range(4):
        late[(1, )](scratch, 0, 10)
        kernel[(1, )](scratch, scratch, 0)
    torch.cuda.synchronize()
    done = threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(time.monotonic())
            time.sleep(0.005)

    thread = threading.Thread(target=tick)
    thread.start()
    for turn in range(3):
        late[(1, )](scratch, 0, 300_000_000)
        for value in range(10000):
            kernel[(1, )](out, length, 10000 * turn + value)
    done.set()
    thread.join()
    torch.cuda.synchronize()
    assert torch.equal(out[:30000].cpu(), torch.arange(30000, dtype=torch.int32))
    assert submitted(kernel)["graph"] >= 30000 and submitted(late)["graph"] >= 3
    assert max(after - before for before, after in zip(ticks, ticks[1:])) < 0.25  # the GIL was not held


def test_long_launches_queued_behind_each_other():
    kernel = by_graph(spin, do_not_specialize=["i", "nanoseconds"])
    out = torch.zeros(8, dtype=torch.int32, device="cuda")
    for _ in range(3):
        kernel[(1, )](out, 0, 0)
    torch.cuda.synchronize()
    start = time.monotonic()
    for i in range(50):
        kernel[(1, )](out, i % 8, 10_000_000)
    launched = time.monotonic() - start
    torch.cuda.synchronize()
    assert time.monotonic() - start >= 0.5 > launched
    assert out.sum().item() == 53 and submitted(kernel)["graph"] >= 50


def test_many_streams(streams):
    kernel = by_graph(add, do_not_specialize=["i"])
    out = torch.zeros(300, dtype=torch.int32, device="cuda")
    torch.cuda.synchronize()
    side = [streams.make() for _ in range(300)]
    for _ in range(20):
        for i, stream in enumerate(side):
            with torch.cuda.stream(stream):
                kernel[(1, )](out, i, 3)
    torch.cuda.synchronize()
    assert out.tolist() == [60] * 300 and _fast.graph_count() <= 256


def test_streams_that_are_destroyed(streams):
    """Their handles come again; also while the launch still runs."""
    kernel = by_graph(spin, do_not_specialize=["i", "nanoseconds"])
    out, handles = torch.zeros(8, dtype=torch.int32, device="cuda"), []
    torch.cuda.synchronize()
    for turn in range(40):
        stream = streams.make()
        handles.append(stream.cuda_stream)
        with torch.cuda.stream(stream):
            for i in range(4):
                kernel[(1, )](out, i, 200_000)
        streams.destroy(stream)
        if turn % 2:
            torch.cuda.synchronize()
            assert out.tolist()[:4] == [turn + 1] * 4
    assert len(set(handles)) < 40  # or this has shown nothing
    assert submitted(kernel)["graph"] >= 80


def test_graphs_that_go_while_they_run():
    """Because the kernel goes, forgets, or other plans need the room."""
    out = torch.zeros(64, dtype=torch.int32, device="cuda")
    for turn in range(3):
        kernel = by_graph(spin, do_not_specialize=["i", "nanoseconds"])
        for i in range(8):
            kernel[(1, )](out, i, 20_000_000)
        if turn == 0:
            kernel.forget()
        elif turn == 1:
            _fast.set_route("driver", 1, 2, False)
            others = [by_graph(add) for _ in range(4)]
            for other in others * 3:
                other[(1, )](out, 32, 1)
        del kernel
    torch.cuda.synchronize()
    assert out.tolist()[:8] == [3] * 8 and out[32].item() == 12


def test_threads_on_one_stream():
    kernel = by_graph(add, do_not_specialize=["i", "value"])
    out = torch.zeros(16, dtype=torch.int32, device="cuda")
    kernel[(1, )](out, 0, 0)
    torch.cuda.synchronize()

    def work(number):
        torch.zeros(1, device="cuda")
        for value in range(2000):
            kernel[(1, )](out, number, value)

    threads = [threading.Thread(target=work, args=(number, )) for number in range(16)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert out.tolist() == [sum(range(2000))] * 16
    counts = submitted(kernel)
    assert sum(counts.values()) == 32000 and counts["graph"] > 1000


def test_descriptors():
    def copy(source, out, TILE: tl.constexpr):
        i = tl.program_id(0) * TILE
        out.store([i, 0], source.load([i, 0]))

    kernel = by_graph(copy)
    for _ in range(10):
        x, y = torch.randn(64, 64, device="cuda"), torch.zeros(64, 64, device="cuda")
        kernel[(4, )](*(TensorDescriptor(of, [64, 64], [64, 1], [16, 64]) for of in (x, y)), TILE=16)
        assert torch.equal(x, y)
    assert submitted(kernel)["graph"] == 8


def test_local_memory_that_grows():
    """Kernels that spill: the driver makes more room for the greater one while the lesser has its graph."""

    def mixed(x, out, N: tl.constexpr):
        i = tl.arange(0, N)
        values = tl.load(x + i)
        turned = tl.reshape(tl.trans(tl.reshape(values, (N // 64, 64))), (N, ))
        tl.store(out + i, values * 3 + turned + tl.sum(turned))

    kernel, plain = by_graph(mixed), triton.jit(mixed)
    data = torch.randint(0, 1000, (1 << 14, ), dtype=torch.int32, device="cuda")
    seen = []
    for n in (1 << 10, 1 << 13, 1 << 10, 1 << 14, 1 << 13, 1 << 10):
        for _ in range(4):
            out, expected = torch.zeros_like(data), torch.zeros_like(data)
            compiled = kernel[(1, )](data, out, N=n, num_warps=1)
            plain[(1, )](data, expected, N=n, num_warps=1)
            assert torch.equal(out, expected)
        seen.append(compiled.n_spills)
    assert max(seen) > 0 and submitted(kernel)["graph"] >= 15


def test_prints(tmp_path):
    """device_print comes out, in order, whichever way."""
    text = """
@lowlat.jit(do_not_specialize=["n"])
def prints(n):
    tl.device_print("value", n)
for i in range(20):
    prints[(1,)](i, num_warps=1)
torch.cuda.synchronize()
print(sorted({name for plan in prints.plans for name in plan.submitted}), file=sys.stderr)
"""
    outputs = [script(tmp_path, text, LOWLAT_ROUTE=route) for route in ROUTES]
    assert outputs[0].returncode == outputs[1].returncode == 0, outputs
    assert outputs[0].stdout == outputs[1].stdout != "" and "graph" in outputs[1].stderr


@pytest.mark.parametrize("fault", ["assert", "address"])
def test_device_errors(tmp_path, fault):
    """Asynchronous, sticky, and with the same texts: of the synchronise and of the launches after it."""
    faults = {"assert": 'tl.device_assert(n == 1, "not one")', "address": "tl.store(x + (n - 1) * 1000000000, n)"}
    text = """
@lowlat.jit(do_not_specialize=["n"])
def fails(x, n):
    FAULT
def error(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__ + str(error)
x = torch.zeros(16, dtype=torch.int32, device="cuda")
for i in range(6):
    fails[(1,)](x, 1)
torch.cuda.synchronize()
fails[(1,)](x, 0)
print(error(torch.cuda.synchronize))
print(error(lambda: fails[(1,)](x, 1)))
print(error(lambda: fails[(1,)](x, 1)))
print(dict(fails.plans[0].submitted), file=sys.stderr)
""".replace("FAULT", faults[fault])
    outputs = [script(tmp_path, text, LOWLAT_ROUTE=route, TRITON_DEBUG="1") for route in ROUTES]
    shown = [re.sub(r"(0x)?[0-9a-f]{12,}", "0x", output.stdout) for output in outputs]
    assert shown[0] == shown[1] and "rror" in shown[0], outputs
    assert outputs[0].returncode == outputs[1].returncode and "graph" in outputs[1].stderr, outputs


def test_the_process_ends_while_a_graph_runs(tmp_path):
    text = """
out = torch.zeros(8, dtype=torch.int32, device="cuda")
kernel = t.by_graph(t.spin, do_not_specialize=["i", "nanoseconds"])
for i in range(8):
    kernel[(1,)](out, i, 100_000_000)
assert t.submitted(kernel)["graph"] >= 5
print("end")
"""
    done = script(tmp_path, text)
    assert (done.returncode, done.stdout) == (0, "end\n"), done


def test_cuda_malloc_async(tmp_path):
    """Memory of the stream-ordered allocator, freed and given out again while launches by graph are on their way."""
    text = """
assert torch.cuda.get_allocator_backend() == "cudaMallocAsync"
kernel = t.by_graph(t.add, do_not_specialize=["i", "value"])
side, sums = torch.cuda.Stream(), []
with torch.cuda.stream(side):
    for turn in range(400):
        x = torch.zeros(1 + turn * 997 % 65536, dtype=torch.int32, device="cuda")
        for value in range(5):
            kernel[(1,)](x, 0, value + turn)
        sums.append(x[0].clone())
        del x
    print(torch.stack(sums).tolist() == [10 + 5 * turn for turn in range(400)], t.submitted(kernel)["graph"] > 1900)
"""
    done = script(tmp_path, text, PYTORCH_CUDA_ALLOC_CONF="backend:cudaMallocAsync")
    assert (done.returncode, done.stdout) == (0, "True True\n"), done


def test_blocking_launches(tmp_path):
    text = """
kernel = t.by_graph(t.add, do_not_specialize=["i", "value"])
x = torch.zeros(1, dtype=torch.int32, device="cuda")
for i in range(10):
    kernel[(1,)](x, 0, 1)
print(x.item(), *t.submitted(kernel))
"""
    done = script(tmp_path, text, CUDA_LAUNCH_BLOCKING="1")
    assert (done.returncode, done.stdout) == (0, "10 blocking\n"), done


def test_priorities_of_streams():
    """A graph takes the priority of the stream it is launched into."""
    least, greatest = torch.cuda.Stream.priority_range()
    kernel = by_graph(add)
    out = torch.zeros(1, dtype=torch.int32, device="cuda")
    torch.cuda.synchronize()
    for priority in range(greatest, least + 1):
        with torch.cuda.stream(torch.cuda.Stream(priority=priority)):
            for _ in range(5):
                kernel[(1, )](out, 0, 1)
    torch.cuda.synchronize()
    assert out.item() == 5 * (least - greatest + 1)


def test_a_stream_of_a_green_context(streams):
    """It has a few of the device's multiprocessors, and a graph would take them all; also where it has the handle of a
    stream that had a graph, as streams that are made later mostly do."""
    driver = streams.driver
    kernel = by_graph(where, do_not_specialize=["nanoseconds"])
    out = torch.zeros(1024, dtype=torch.int32, device="cuda")
    gone = ctypes.c_void_p()
    assert driver.cuStreamCreate(ctypes.byref(gone), 1) == 0
    torch.cuda.synchronize()

    def launch(handle):
        with torch.cuda.stream(torch.cuda.ExternalStream(handle.value)):
            for _ in range(10):
                kernel[(264, )](out, 20_000)
        torch.cuda.synchronize()

    launch(gone)
    assert driver.cuStreamDestroy_v2(gone) == 0 and (out != 0).sum().item() > 8
    by_graphs = submitted(kernel)["graph"]
    out.zero_()
    torch.cuda.synchronize()
    whole, part, rest = (ctypes.create_string_buffer(4096) for _ in range(3))
    description, green, handle = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    try:
        results = [driver.cuDeviceGetDevResource(0, whole, 1),
                   driver.cuDevSmResourceSplitByCount(part, ctypes.byref(ctypes.c_uint(1)), whole, rest, 0, 8),
                   driver.cuDevResourceGenerateDesc(ctypes.byref(description), part, 1),
                   driver.cuGreenCtxCreate(ctypes.byref(green), description, 0, 1),
                   driver.cuGreenCtxStreamCreate(ctypes.byref(handle), green, 1, 0)]
    except AttributeError as error:
        pytest.skip(f"this driver has no green contexts: {error}")
    assert not any(results)
    print("a green stream's handle is that of the one that is gone:", handle.value == gone.value)
    launch(handle)
    assert (out != 0).sum().item() == 8 and submitted(kernel)["graph"] == by_graphs
    assert submitted(kernel)["other context"] >= 7


@pytest.mark.parametrize("mode", ["global", "thread_local", "relaxed"])
def test_graphs_that_go_in_a_capture(mode):
    """A plan's and a sequence's: they do not spoil it, and what is captured is replayed."""
    x, out = (torch.zeros(1, dtype=torch.int32, device="cuda") for _ in range(2))
    length = torch.zeros(1, dtype=torch.int32, device="cuda")
    kernel, captured = by_graph(append), torch.cuda.CUDAGraph()
    many = torch.zeros(64, dtype=torch.int32, device="cuda")
    for value in range(3):
        kernel[(1, )](many, length, value + 2)
    with lowlat.record() as sequence:
        kernel[(1, )](many, length, 7)
    sequence.replay()
    assert submitted(kernel)["graph"] >= 1 and sequence.replays == {"graph": 1}
    torch.cuda.synchronize()
    before = _fast.graph_count()
    with torch.cuda.graph(captured, capture_error_mode=mode):
        out.add_(x + 1)
        del sequence
        kernel.forget()
        gc.collect()
        out.add_(x + 1)
    assert _fast.graph_count() < before
    out.zero_()
    captured.replay()
    assert out.item() == 2 and length.item() == 5


def test_a_green_context_that_is_current():
    """As torch's own green contexts are: its launches keep to its multiprocessors, by graph, too."""
    driver = ctypes.CDLL("libcuda.so.1")
    kernel = by_graph(where, do_not_specialize=["nanoseconds"])
    out = torch.zeros(1024, dtype=torch.int32, device="cuda")
    torch.cuda.synchronize()
    whole, part, rest = (ctypes.create_string_buffer(4096) for _ in range(3))
    description, green, context, popped = (ctypes.c_void_p() for _ in range(4))
    try:
        results = [driver.cuDeviceGetDevResource(0, whole, 1),
                   driver.cuDevSmResourceSplitByCount(part, ctypes.byref(ctypes.c_uint(1)), whole, rest, 0, 8),
                   driver.cuDevResourceGenerateDesc(ctypes.byref(description), part, 1),
                   driver.cuGreenCtxCreate(ctypes.byref(green), description, 0, 1),
                   driver.cuCtxFromGreenCtx(ctypes.byref(context), green)]
    except AttributeError as error:
        pytest.skip(f"this driver has no green contexts: {error}")
    assert not any(results) and driver.cuCtxPushCurrent_v2(context) == 0
    try:
        for _ in range(10):
            kernel[(264, )](out, 20_000)
        with lowlat.record() as sequence:
            kernel[(264, )](out, 20_000)
        for _ in range(3):
            sequence.replay()
        assert driver.cuCtxSynchronize() == 0
    finally:
        driver.cuCtxPopCurrent_v2(ctypes.byref(popped))
    torch.cuda.synchronize()
    print("in a green context", submitted(kernel), sequence.replays)
    assert (out != 0).sum().item() == 8


def test_ten_thousand_plans():
    """Each call has constexprs that are spelled like no other's and are the same kernel to Triton."""
    def spelled(out, A: tl.constexpr, B: tl.constexpr, C: tl.constexpr, D: tl.constexpr, E: tl.constexpr,
                F: tl.constexpr, G: tl.constexpr, H: tl.constexpr, J: tl.constexpr):
        tl.atomic_add(out, 1)

    kernel, out = by_graph(spelled), torch.zeros(1, dtype=torch.int32, device="cuda")
    ones = (1, True, 1.0)
    calls = [[ones[number // 3 ** place % 3] for place in range(9)] for number in range(10_000)]
    for call in calls:
        for _ in range(3):
            kernel[(1, )](out, *call)
    assert out.item() == 30_000 and 0 < _fast.graph_count() <= 256


def test_sequences():
    """Against the same calls one by one, bit by bit, with new tensors, numbers and grids."""
    @triton.jit
    def scale(x, out, factor, n, BLOCK: tl.constexpr):
        i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
        tl.store(out + i, tl.load(x + i, mask=i < n) * factor, mask=i < n)

    kernels = {jit: jit(scale.fn, do_not_specialize=["factor"]) for jit in (triton.jit, lowlat.jit)}

    def step(kernel, x, out, factor):
        middle = step.middle
        kernel[(8, )](x, middle, factor, 1024, BLOCK=128)
        for _ in range(14):
            kernel[lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]), )](middle, middle, 1.01, 1024, BLOCK=128)
        kernel[(8, )](middle, out, factor, 1024, BLOCK=128)

    step.middle = torch.zeros(1024, device="cuda")
    x, out = torch.randn(1024, device="cuda"), torch.zeros(1024, device="cuda")
    step(kernels[lowlat.jit], x, out, 1.5)
    with lowlat.record("0.x", "15.out", "0.factor", "15.factor") as sequence:
        step(kernels[lowlat.jit], x, out, 1.5)
    for turn in range(200):
        x, out, expected = torch.randn(1024, device="cuda"), *(torch.zeros(1024, device="cuda") for _ in range(2))
        sequence.replay(x, out, 1.5 + turn, 1.5 + turn)
        step(kernels[triton.jit], x, expected, 1.5 + turn)
        assert torch.equal(out, expected)
    assert sequence.replays == {"graph": 200}


def test_sequences_on_streams_and_in_captures():
    kernel = lowlat.jit(append, do_not_specialize=["value"])
    out, length = torch.zeros(40000, dtype=torch.int32, device="cuda"), torch.zeros(1, dtype=torch.int32, device="cuda")
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        kernel[(1, )](out, length, 0)
        with lowlat.record("0.value", "1.value", "2.value") as sequence:
            for value in (1, 2, 3):
                kernel[(1, )](out, length, value)
        for value in range(4, 3004, 3):
            sequence.replay(value, value + 1, value + 2)
    torch.cuda.synchronize()
    assert torch.equal(out[:3004].cpu(), torch.arange(3004, dtype=torch.int32)) and set(sequence.replays) == {"graph"}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        sequence.replay(7, 8, 9)
    length.zero_()
    graph.replay(), graph.replay()
    assert out[:6].tolist() == [7, 8, 9] * 2 and length.item() == 6


def test_kernels_of_a_sequence_that_leave_the_cache():
    """Triton 3.8 and later unload a kernel that goes, and what is loaded next may get its handle and its place."""
    first, second = (lowlat.jit(append, do_not_specialize=["value"]) for _ in range(2))
    out, length = torch.zeros(400, dtype=torch.int32, device="cuda"), torch.zeros(1, dtype=torch.int32, device="cuda")
    scratch = torch.zeros(64, dtype=torch.int32, device="cuda")
    expected, meanwhile = [], False

    def leave():
        first.device_caches[torch.cuda.current_device()][0].clear()
        gc.collect()
        for i in range(8):
            triton.jit(put)[(1, )](scratch, i, 7)

    def grid(meta):
        if meanwhile:
            leave()
        return (1, )

    def step(value):
        first[(1, )](out, length, value)
        second[grid](out, length, value + 1)

    for value in (1, 3):
        step(value)
    with lowlat.record("0.value", "1.value") as sequence:
        step(5)
    for turn in range(30):
        meanwhile = turn % 3 == 1
        if turn % 3 == 2:
            leave()
            for value in (100, 101):  # loaded, learnt
                first[(1, )](out, length, value)
                expected.append(value)
        sequence.replay(7, 8) if turn % 2 else sequence.replay(7 + turn, 8)
        expected += [7 if turn % 2 else 7 + turn, 8]
    assert out[6:length.item()].tolist() == expected and sequence.replays["graph"] >= 10


# ---- two devices ----------------------------------------------------------------------------------------------------

two_devices = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@pytest.fixture
def counters():
    yield [torch.zeros(16, dtype=torch.int32, device=f"cuda:{device}") for device in (0, 1)]
    for device in (0, 1):
        torch.cuda.synchronize(device)


@two_devices
def test_two_devices_take_turns(counters):
    """A graph for each, whichever way the current device is chosen; tensors of the other device stay Triton's."""
    kernel, sides = by_graph(add, do_not_specialize=["i", "value"]), [torch.cuda.Stream(device=i) for i in (0, 1)]
    for turn in range(1000):
        for device in (0, 1):
            with torch.cuda.device(device):
                kernel[(1, )](counters[device], 0, turn)
            with torch.cuda.stream(sides[device]):
                kernel[(1, )](counters[device], 1, turn)
            torch.cuda.set_device(device)
            kernel[(1, )](counters[device], 2, 1 + turn)
    torch.cuda.set_device(0)
    assert [counter.tolist()[:3] for counter in counters] == 2 * [[499500, 499500, 500500]]
    assert kernel.exits == {"first call": 2} and _fast.graph_count() == 4
    assert submitted(kernel) == {"not hot": 4, "graph": 5994}


@two_devices
def test_threads_that_change_the_device(counters):
    """16 threads, one kernel, one stream of each device."""
    kernel = by_graph(add, do_not_specialize=["i", "value"])
    for device in (0, 1):
        with torch.cuda.device(device):
            kernel[(1, )](counters[device], 0, 0)

    def work(number):
        for value in range(1000):
            torch.cuda.set_device((number + value) % 2)
            kernel[(1, )](counters[(number + value) % 2], number, value)

    threads = [threading.Thread(target=work, args=(number, )) for number in range(16)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    even, odd = sum(range(0, 1000, 2)), sum(range(1, 1000, 2))
    assert counters[0].tolist() == [even, odd] * 8 and counters[1].tolist() == [odd, even] * 8
    assert set(kernel.exits) == {"first call"} and submitted(kernel)["graph"] > 1000


@two_devices
def test_graphs_of_the_other_device_make_room(counters):
    """With room for one, each device's graph is destroyed for the other's while it runs."""
    kernel = by_graph(spin, do_not_specialize=["i", "nanoseconds"])
    _fast.set_route("driver", 0, 1, False)
    for turn in range(20):
        kernel.forget()
        for device in (0, 1):
            with torch.cuda.device(device):
                for _ in range(2):
                    kernel[(1, )](counters[device], turn % 16, 100_000)
                assert submitted(kernel) == {"graph": device + 1} and _fast.graph_count() == 1
    assert [counter.tolist() for counter in counters] == 2 * [[4] * 4 + [2] * 12]


@two_devices
@pytest.mark.parametrize("on_change", ["record", "raise"])
def test_a_sequence_goes_to_the_other_device(on_change, counters):
    """Recorded on one device, replayed with the other one current and its tensors."""
    kernel = lowlat.jit(add, do_not_specialize=["i", "value"])
    for device in (0, 1):
        with torch.cuda.device(device):
            kernel[(1, )](counters[device], 0, 0)
    with lowlat.record("out", "0.value", "1.value", on_change=on_change) as sequence:
        for i in (0, 1):
            kernel[(1, )](counters[0], i, 1)
    for turn in range(100):
        sequence.replay(counters[0], turn, 2 * turn)
    with torch.cuda.device(1):
        for turn in range(100):
            if on_change == "raise":
                with pytest.raises(lowlat.NotRecordable, match="device|stream|context|specialisation"):
                    sequence.replay(counters[1], turn, 3 * turn)
            else:
                sequence.replay(counters[1], turn, 3 * turn)
    sequence.replay(counters[0], 5, 5)
    again = 0 if on_change == "raise" else 1
    assert counters[0].tolist()[:2] == [1 + 4950 + 5, 1 + 9900 + 5]
    assert counters[1].tolist()[:2] == [4950 * again, 14850 * again]
    assert sequence.replays["graph"] == (101 if on_change == "raise" else 199), sequence.replays


@two_devices
def test_a_capture_on_the_other_device(counters):
    """Graphs are made, launched and destroyed on one device while a stream of the other one is captured."""
    kernels = [by_graph(add, do_not_specialize=["i", "value"]) for _ in range(4)]
    for kernel in kernels:
        for device in (0, 1):
            with torch.cuda.device(device):
                kernel[(1, )](counters[device], 15, 0)
    sides, graph = [torch.cuda.Stream(device=0) for _ in range(2)], torch.cuda.CUDAGraph()
    torch.cuda.set_device(1)
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(1)):
        for kernel in kernels:
            for _ in range(2):
                kernel[(1, )](counters[1], 0, 1)
            with torch.cuda.stream(sides[0]):
                for _ in range(4):
                    kernel[(1, )](counters[0], 0, 1)
        assert _fast.graph_count() == 4
        _fast.set_route("driver", 1, 1, False)
        with torch.cuda.stream(sides[1]):
            for _ in range(4):
                kernels[3][(1, )](counters[0], 1, 1)
        assert _fast.graph_count() == 1
    graph.replay(), graph.replay()
    torch.cuda.set_device(0)
    for device in (0, 1):
        torch.cuda.synchronize(device)
    assert counters[0].tolist()[:2] == [16, 4] and counters[1].tolist()[:2] == [16, 0]
    assert submitted(kernels[0]) == {"not hot": 2, "capturing": 1, "graph": 3}


@two_devices
def test_each_device_is_measured_for_itself(counters):
    kernel = lowlat.jit(add, do_not_specialize=["i", "value"])
    kernel.route = "auto"
    for device in (0, 1):
        with torch.cuda.device(device):
            for value in range(400):
                kernel[(1, )](counters[device], 0, value)
    assert [counter[0].item() for counter in counters] == 2 * [79800]
    for device in (0, 1):
        assert _fast.race(device) is not None
