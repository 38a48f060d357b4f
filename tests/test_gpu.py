"""On a GPU: results of ordinary Triton kernels under lowlat.jit, compared with PyTorch and, bit by bit, with
triton.jit; kinds of tensors, streams, graphs, threads, devices, the device's errors."""

import os
import re
import subprocess
import sys
import threading

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

import triton
import triton.language as tl
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import lowlat
from lowlat import _fast, _torch

pytestmark = pytest.mark.gpu


def vector_add(x, y, out, n, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    tl.store(out + offsets, tl.load(x + offsets, mask=mask) + tl.load(y + offsets, mask=mask), mask=mask)


def softmax(out, x, out_stride, x_stride, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    mask = offsets < columns
    values = tl.load(x + row * x_stride + offsets, mask=mask, other=-float("inf"))
    values = tl.exp(values - tl.max(values, axis=0))
    tl.store(out + row * out_stride + offsets, values / tl.sum(values, axis=0), mask=mask)


def matmul(a, b, c, M, N, K, stride_am, stride_ak, stride_bk, stride_bn, stride_cm, stride_cn, BLOCK_M: tl.constexpr,
           BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    rows = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        left = tl.load(a + rows[:, None] * stride_am + (start + inner)[None, :] * stride_ak,
                       mask=(rows[:, None] < M) & ((start + inner)[None, :] < K), other=0.0)
        right = tl.load(b + (start + inner)[:, None] * stride_bk + columns[None, :] * stride_bn,
                        mask=((start + inner)[:, None] < K) & (columns[None, :] < N), other=0.0)
        total += tl.dot(left, right)
    tl.store(c + rows[:, None] * stride_cm + columns[None, :] * stride_cn, total.to(tl.float16),
             mask=(rows[:, None] < M) & (columns[None, :] < N))


def layer_norm_forward(x, out, weight, bias, mean, rstd, stride, columns, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    mask = offsets < columns
    values = tl.load(x + row * stride + offsets, mask=mask, other=0.0).to(tl.float32)
    average = tl.sum(values, axis=0) / columns
    centred = tl.where(mask, values - average, 0.0)
    inverse = 1 / tl.sqrt(tl.sum(centred * centred, axis=0) / columns + eps)
    tl.store(mean + row, average)
    tl.store(rstd + row, inverse)
    scaled = centred * inverse * tl.load(weight + offsets, mask=mask) + tl.load(bias + offsets, mask=mask)
    tl.store(out + row * stride + offsets, scaled, mask=mask)


def layer_norm_backward(dx, dy, dw, db, x, weight, mean, rstd, stride, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    offsets = tl.arange(0, BLOCK)
    mask = offsets < columns
    inverse = tl.load(rstd + row)
    normalised = (tl.load(x + row * stride + offsets, mask=mask, other=0.0) - tl.load(mean + row)) * inverse
    normalised = tl.where(mask, normalised, 0.0)
    gradient = tl.load(dy + row * stride + offsets, mask=mask, other=0.0)
    scaled = gradient * tl.load(weight + offsets, mask=mask, other=0.0)
    first = tl.sum(normalised * scaled, axis=0) / columns
    second = tl.sum(scaled, axis=0) / columns
    tl.store(dx + row * stride + offsets, (scaled - (normalised * first + second)) * inverse, mask=mask)
    tl.atomic_add(dw + offsets, gradient * normalised, mask=mask)
    tl.atomic_add(db + offsets, gradient, mask=mask)


def count(counter):
    tl.atomic_add(counter, 1)


def spin(out, cycles):
    """Keeps a stream busy: a chain of dependent arithmetic that cannot be shortened."""
    value = 1.0
    for _ in range(cycles):
        value = value * 1.0000001 + 1e-9
    tl.store(out, value)


def step(x, out, BLOCK: tl.constexpr):
    """Hands out what x holds, and counts x up."""
    offsets = tl.arange(0, BLOCK)
    values = tl.load(x + offsets)
    tl.store(out + offsets, values)
    tl.store(x + offsets, values + 1)


def address(x, out):
    tl.store(out, x.to(tl.int64))


def cluster_size(out):
    size = tl.inline_asm_elementwise("mov.u32 $0, %cluster_nctarank;", "=r", [], dtype=tl.int32, is_pure=True, pack=1)
    tl.store(out, size)


def count_at(ADDRESS: tl.constexpr):
    tl.atomic_add(tl.full((), ADDRESS, tl.int64).to(tl.pointer_type(tl.int32)), 1)


COUNTER = tl.constexpr(0)


def count_without_parameters():
    tl.atomic_add(tl.full((), COUNTER, tl.int64).to(tl.pointer_type(tl.int32)), 1)


JITS = {"triton": triton.jit, "lowlat": lowlat.jit}


def both(function, launch, *outputs):
    """Launch under triton.jit and lowlat.jit (several times) and compare the outputs bit by bit."""
    results = []
    for jit in (triton.jit, lowlat.jit):
        kernel = jit(function)
        for _ in range(3):
            for output in outputs:
                output.zero_()
            launch(kernel)
        results.append([output.clone() for output in outputs])
        if jit is lowlat.jit:
            assert kernel.exits == {"first call": 1}
    for expected, actual in zip(*results):
        assert torch.equal(expected, actual)


def storage(tensor):
    """A copy of all the bytes behind a tensor, whatever the tensor makes of them."""
    holder = getattr(tensor, "base", tensor)  # of triton.reinterpret()
    whole = torch.empty(0, dtype=torch.uint8, device=holder.device)
    return whole.set_(torch.Tensor.untyped_storage(holder)).clone()


def error_of(call):
    """The type and text of what `call` raises, or None."""
    try:
        call()
    except Exception as error:
        return type(error), re.sub(r"0x[0-9a-f]+", "0x", str(error))
    return None


def alike(function, prepare, launch, exits, memory=True):
    """What `prepare` makes anew goes to `launch(kernel, *prepared)` three times, under triton.jit and under lowlat.jit:
    the same errors, the same bytes behind everything prepared (without `memory`, behind the last only), and lowlat's
    `exits`.  Returns the three errors."""
    errors, memories = [], []
    for jit in JITS.values():
        prepared, kernel = prepare(), jit(function)
        torch.cuda.synchronize()
        errors.append([error_of(lambda: launch(kernel, *prepared)) for _ in range(3)])
        torch.cuda.synchronize()
        memories.append([storage(tensor) for tensor in (prepared if memory else prepared[-1:])])
    assert errors[0] == errors[1]
    for expected, actual in zip(*memories):
        assert torch.equal(expected, actual)
    assert kernel.exits == exits
    return errors[1]


@pytest.mark.parametrize("n", [1, 1000, 1 << 20])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.int32, torch.int64])
def test_vector_add(n, dtype):
    x = (torch.randn(n, device="cuda") * 100).to(dtype)
    y = (torch.randn(n, device="cuda") * 100).to(dtype)
    out = torch.empty_like(x)
    both(vector_add, lambda k: k[(triton.cdiv(n, 1024), )](x, y, out, n, BLOCK=1024), out)
    assert torch.equal(out, x + y)


def test_views_and_alignment():
    """Aligned and unaligned views alternate: each must get the kernel compiled for it."""
    kernel = lowlat.jit(vector_add)
    base_x, base_y = torch.randn(4099, device="cuda"), torch.randn(4099, device="cuda")
    for offset in (0, 1, 2, 3, 4, 0, 1):
        x, y = base_x[offset:offset + 4000], base_y[offset:offset + 4000]
        out = torch.full((4000, ), -1.0, device="cuda")
        kernel[lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]), )](x, y, out, n=4000, BLOCK=256)
        assert torch.equal(out, x + y)
    assert kernel.exits == {"first call": 2}


def test_softmax():
    x = torch.randn(183, 781, device="cuda")
    out = torch.empty_like(x)
    both(softmax, lambda k: k[(183, )](out, x, out.stride(0), x.stride(0), 781, BLOCK=1024, num_warps=8), out)
    torch.testing.assert_close(out, torch.softmax(x, dim=1))


def test_matmul():
    a = torch.randn(300, 260, device="cuda", dtype=torch.float16)
    b = torch.randn(260, 500, device="cuda", dtype=torch.float16)
    c = torch.empty(300, 500, device="cuda", dtype=torch.float16)

    def launch(k):
        grid = lambda meta: (triton.cdiv(300, meta["BLOCK_M"]), triton.cdiv(500, meta["BLOCK_N"]))  # noqa: E731
        k[grid](a, b, c, 300, 500, 260, *a.stride(), *b.stride(), *c.stride(), BLOCK_M=64, BLOCK_N=64, BLOCK_K=32,
                num_stages=3)

    both(matmul, launch, c)
    torch.testing.assert_close(c, a @ b, atol=1e-2, rtol=1e-2)


def test_layer_norm_forward_and_backward():
    rows, columns = 151, 777
    x = torch.randn(rows, columns, device="cuda")
    weight = torch.nn.Parameter(torch.randn(columns, device="cuda"))
    bias = torch.nn.Parameter(torch.randn(columns, device="cuda"))
    out, dx = torch.empty_like(x), torch.empty_like(x)
    mean, rstd = torch.empty(rows, device="cuda"), torch.empty(rows, device="cuda")
    dw, db = torch.zeros(columns, device="cuda"), torch.zeros(columns, device="cuda")
    dy = torch.randn_like(x)
    both(layer_norm_forward,
         lambda k: k[(rows, )](x, out, weight, bias, mean, rstd, x.stride(0), columns, 1e-5, BLOCK=1024), out)
    backward = lowlat.jit(layer_norm_backward)
    for _ in range(3):
        dw.zero_(), db.zero_()
        backward[(rows, )](dx, dy, dw, db, x, weight, mean, rstd, stride=x.stride(0), columns=columns, BLOCK=1024)
    assert backward.exits == {"first call": 1}
    leaf = x.clone().requires_grad_()
    expected = torch.nn.functional.layer_norm(leaf, (columns, ), weight, bias)
    expected.backward(dy)
    torch.testing.assert_close(out, expected.detach())
    torch.testing.assert_close(dx, leaf.grad, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(dw, weight.grad, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(db, bias.grad, atol=1e-3, rtol=1e-3)


def test_the_best_rungs_are_used():
    torch.zeros(1, device="cuda")
    lowlat.jit(count)[(1, )](torch.zeros(1, dtype=torch.int32, device="cuda"))
    assert _torch.rung == "shim", _torch.refused
    assert _fast.current_reason() == "ok"
    assert _torch.readers == "torch"


@pytest.mark.parametrize("route", ["driver", "wrapper"])
def test_every_launch_happens(route):
    kernel = lowlat.jit(count)
    kernel.route = route
    counter = torch.zeros(1, dtype=torch.int32, device="cuda")
    for _ in range(5000):
        kernel[(1, )](counter)
    assert counter.item() == 5000
    assert kernel.exits == {"first call": 1}


@pytest.mark.parametrize("rung", _torch.RUNGS)
def test_rungs(rung):
    before = _torch.rung
    try:
        assert _torch.choose(rung) == rung
        test_views_and_alignment()
    finally:
        _torch.choose(before)


STREAMS = {
    "new": torch.cuda.Stream,
    "of high priority": lambda: torch.cuda.Stream(priority=-1),
    "external": lambda: torch.cuda.ExternalStream(torch.cuda.Stream().cuda_stream),
}


@pytest.mark.parametrize("make", STREAMS.values(), ids=STREAMS)
def test_side_streams(make):
    kernel, counter = lowlat.jit(count), torch.zeros(1, dtype=torch.int32, device="cuda")
    kernel[(1, )](counter)
    check_stream(kernel, counter, make(), 0)
    assert counter.item() == 3
    assert kernel.exits == {"first call": 1}


def check_stream(kernel, counter, side, device):
    """A launch inside the stream context must be behind the kernel that keeps the stream busy."""
    busy, scratch = lowlat.jit(spin), torch.zeros(1, device=f"cuda:{device}")
    with torch.cuda.device(device):
        busy[(1, )](scratch, 11)
        torch.cuda.synchronize()
        with torch.cuda.stream(side):
            busy[(1, )](scratch, 20_000_001)
            kernel[(1, )](counter)
            done = torch.cuda.Event()
            done.record()
        kernel[(1, )](counter)  # on the default stream, which waits for nothing here
        torch.cuda.current_stream().synchronize()
        assert counter.item() == 2, "the launch inside the stream context did not go to the side stream"
        assert not done.query()
        torch.cuda.synchronize()


def test_python_getters(monkeypatch):
    """Where torch's C++ functions are not to be had, its Python functions are asked, with the same launches."""
    torch.zeros(1, device="cuda")
    monkeypatch.setattr(_torch, "_torch_readers", (0, 0))
    _fast.state_changed()
    try:
        for make in STREAMS.values():
            test_side_streams(make)
        assert _torch.readers == "python"
        if torch.cuda.device_count() > 1:
            test_two_devices()
            test_two_devices_streams()
    finally:
        monkeypatch.undo()
        _fast.state_changed()
    assert _fast.current_reason() == "ok" and _torch.readers == "torch"


PER_THREAD = 2  # CU_STREAM_PER_THREAD: one handle, which is another stream in each thread


def test_per_thread_default_streams():
    """A launch goes to its own thread's stream: behind what that is busy with, beside what another's is."""
    for jit in JITS.values():
        kernel, busy = jit(count), jit(spin)
        counters, scratch = torch.zeros(2, dtype=torch.int32, device="cuda"), torch.zeros(1, device="cuda")
        kernel[(1, )](counters[0]), kernel[(1, )](counters[1]), busy[(1, )](scratch, 11), busy[(1, )](scratch, 21)
        torch.cuda.synchronize()
        started, finish, seen = threading.Event(), threading.Event(), []

        def work():
            with torch.cuda.stream(torch.cuda.ExternalStream(PER_THREAD)):
                busy[(1, )](scratch, 20_000_001)
                kernel[(1, )](counters[0])
                done = torch.cuda.Event()
                done.record()
                started.set()
                finish.wait()
                seen.append(done.query())
                done.synchronize()

        thread = threading.Thread(target=work)
        thread.start()
        started.wait()
        with torch.cuda.stream(torch.cuda.ExternalStream(PER_THREAD)):
            kernel[(1, )](counters[1])
            torch.cuda.current_stream().synchronize()  # does not wait for the other thread's
        finish.set()
        thread.join()
        torch.cuda.synchronize()
        assert seen == [False], "both launches went to one stream"
        assert counters.tolist() == [2, 2]
    assert set(kernel.exits) <= {"first call", "no driver"}


def test_threads_with_streams_of_their_own():
    """Eight threads, each in a stream context; each sees its launches in order, whoever's come between."""
    kernel, wrong = lowlat.jit(step), []
    launch_step(kernel, torch.zeros(64, device="cuda"), torch.zeros(64, device="cuda"))
    torch.cuda.synchronize()

    def work():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            x, out = torch.zeros(64, device="cuda"), torch.zeros(64, device="cuda")
            for i in range(200):
                launch_step(kernel, x, out)
                if i % 20 == 19 and out.tolist() != [float(i)] * 64:
                    wrong.append(i)

    threads = [threading.Thread(target=work) for _ in range(8)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong
    assert sum(kernel.exits.values()) == 1


def test_the_stream_is_read_before_the_grid_is_called():
    """A grid callable that changes the current stream does so for the next launch."""
    for jit in JITS.values():
        kernel, busy = jit(count), jit(spin)
        counter, scratch = torch.zeros(1, dtype=torch.int32, device="cuda"), torch.zeros(1, device="cuda")
        kernel[(1, )](counter), busy[(1, )](scratch, 11)
        side, other = torch.cuda.Stream(), torch.cuda.Stream()
        torch.cuda.synchronize()

        def grid(meta):
            torch.cuda.set_stream(other)
            return (1, )

        with torch.cuda.stream(side):
            busy[(1, )](scratch, 20_000_001)
            kernel[grid](counter)
            assert torch.cuda.current_stream() == other
            other.synchronize()
            with torch.cuda.stream(other):
                assert counter.item() == 1, "the launch went to the stream that the grid callable chose"
        torch.cuda.synchronize()
        assert counter.item() == 2


# ---- CUDA graphs ----------------------------------------------------------------------------------------------------


def test_graph_capture_and_replay():
    kernel, counter = lowlat.jit(count), torch.zeros(1, dtype=torch.int32, device="cuda")
    kernel[(1, )](counter)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(10):
            kernel[(1, )](counter)
    assert counter.item() == 1
    for _ in range(3):
        graph.replay()
    assert counter.item() == 31
    assert kernel.exits == {"first call": 1}


def scaled_add(x, y, out, n, factor, EVEN: tl.constexpr, BLOCK: tl.constexpr):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    total = tl.load(x + offsets, mask=mask) + tl.load(y + offsets, mask=mask) * factor
    tl.store(out + offsets, total + 1.0 if EVEN else total, mask=mask)


def test_autotune_and_heuristics():
    """Tuned by Triton's own benchmarks on the device, then native; also in a captured graph."""
    configs = [triton.Config({"BLOCK": 64 << i}, num_warps=1 << i) for i in range(4)]
    tuner = lowlat.autotune(configs, key=["n"])(lowlat.heuristics({"EVEN": lambda args: args["n"] % 2 == 0})(
        lowlat.jit(scaled_add)))
    grid = lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]), )
    for n in (1000, 4097, 1000, 4097):
        x, y, out = (torch.randn(n, device="cuda") for _ in range(3))
        before = None if n not in {key[0] for key in tuner.cache} else (tuner.exits, tuner.fn.exits, tuner.fn.fn.exits)
        tuner[grid](x, y, out, n, 2.0)
        assert torch.allclose(out, x + y * 2.0 + (n % 2 == 0))
        assert before is None or before == (tuner.exits, tuner.fn.exits, tuner.fn.fn.exits)
    assert tuner.exits == {"not tuned yet": 2} and tuner.best_config in configs
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        tuner[grid](x, y, out, n, 2.0)
    x.normal_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.allclose(out, x + y * 2.0)


def test_graph_of_several_kernels_with_new_contents():
    """What a graph holds is the launch as captured: its pointers, whatever they then hold, and its scalars."""
    contents = [(torch.randn(64, 781), torch.randn(64, 781)) for _ in range(3)]
    results = []
    for jit in JITS.values():
        adder, normaliser, counter = jit(vector_add), jit(softmax), jit(count)
        x, y, total, out = (torch.zeros(64, 781, device="cuda") for _ in range(4))
        counts = torch.zeros(1, dtype=torch.int32, device="cuda")

        def launch(n, columns):
            adder[lambda meta: (triton.cdiv(meta["n"], meta["BLOCK"]), )](x, y, total, n, BLOCK=1024)
            normaliser[(64, )](out, total, out.stride(0), total.stride(0), columns, BLOCK=1024)
            counter[(1, )](counts)

        launch(64 * 781, 781)
        exits = getattr(adder, "exits", None), getattr(normaliser, "exits", None)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            launch(64 * 781, 781)
            launch(64 * 771, 779)
        results.append([])
        for first, second in contents:
            launch(320, 555)
            x.copy_(first), y.copy_(second)
            graph.replay()
            results[-1] += [total.clone(), out.clone(), counts.clone()]
            torch.testing.assert_close(total, x + y)
        if jit is lowlat.jit:
            assert (adder.exits, normaliser.exits) == exits == ({"first call": 1}, {"first call": 1})
    for expected, actual in zip(*results):
        assert torch.equal(expected, actual)


@pytest.mark.parametrize("raw", [False, True], ids=["torch.cuda.graph", "capture_begin"])
def test_graph_captured_on_a_side_stream(raw):
    """Only the capturing stream's launches are captured, and another stream's launch meanwhile is made at once."""
    kernel, counters = lowlat.jit(count), torch.zeros(2, 4, dtype=torch.int32, device="cuda")
    kernel[(1, )](counters[0]), kernel[(1, )](counters[1])
    torch.cuda.synchronize()
    graph, side, other = torch.cuda.CUDAGraph(), torch.cuda.Stream(), torch.cuda.Stream()

    def launch():
        kernel[(1, )](counters[0])
        with torch.cuda.stream(other):
            kernel[(1, )](counters[1])
        kernel[(1, )](counters[0])

    if raw:
        with torch.cuda.stream(side):
            graph.capture_begin(capture_error_mode="thread_local")
            launch()
            graph.capture_end()
    else:
        with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
            launch()
    torch.cuda.synchronize()
    assert counters[:, 0].tolist() == [1, 2]
    graph.replay(), graph.replay()
    torch.cuda.synchronize()
    assert counters[:, 0].tolist() == [5, 2]
    assert kernel.exits == {"first call": 1}


def test_graph_captured_while_a_plan_is_learnt():
    kernel, counter = lowlat.jit(count), torch.zeros(1, dtype=torch.int32, device="cuda")
    kernel[(1, )](counter)
    kernel.forget()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kernel[(1, )](counter)  # by Triton
        kernel[(1, )](counter)
    assert kernel.exits == {"first call": 2}
    graph.replay()
    assert counter.item() == 3


COLD_GRAPHS = """
import sys
sys.path.insert(0, sys.argv[2])
from test_gpu import JITS, count, error_of, torch

for prepared in ("launched", "compiled", "cold"):
    kernel, counter = JITS[sys.argv[1]](count), torch.zeros(1, dtype=torch.int32, device="cuda")
    if prepared == "launched":
        kernel[(1, )](counter)
    elif prepared == "compiled":
        kernel.warmup(counter, grid=(1, ))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()

    def capture():
        with torch.cuda.graph(graph):
            for _ in range(3):
                kernel[(1, )](counter)

    print(prepared, "captured:", error_of(capture))
    print(prepared, "replayed:", error_of(graph.replay), error_of(torch.cuda.synchronize))
    print(prepared, "counted:", error_of(lambda: print(counter.item())))
"""


def test_graph_captured_from_a_cold_kernel():
    """Capturing what was never launched does what it does under Triton, be that a graph or an error."""
    expected, actual = in_processes(COLD_GRAPHS)
    assert actual == expected
    assert "launched captured: None\nlaunched replayed: None None\n4\n" in expected


def in_processes(code, *arguments):
    """What `code` prints when run with the name of a jit, this folder and `arguments`, for triton and for lowlat; in
    processes of their own, which errors may leave without a usable device."""
    here = os.path.dirname(__file__)
    processes = [subprocess.Popen([sys.executable, "-c", code, name, here, *arguments], stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True) for name in JITS]
    printed = []
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert out, err
        printed.append(out)
    return printed


@pytest.mark.parametrize("route", ["driver", "wrapper"])
@pytest.mark.parametrize("options", [{}, {"num_ctas": 2}, {"launch_pdl": True}, {"num_ctas": 16}], ids=repr)
def test_graph_on_every_route(route, options):
    """Options and callable grids are captured as they are launched."""
    replayed = []
    for name, jit in JITS.items():
        kernel = jit(step)
        if name == "lowlat":
            kernel.route = route
        x, out = torch.arange(1024., device="cuda"), torch.zeros(1024, device="cuda")
        kernel[(1, )](x, out, BLOCK=1024, **options)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kernel[(1, )](x, out, BLOCK=1024, **options)
            kernel[lambda meta: (meta["BLOCK"] // 1024, )](x, out, BLOCK=1024, **options)
        for _ in range(3):
            graph.replay()
        replayed.append((x.clone(), out.clone()))
    assert torch.equal(replayed[0][0], replayed[1][0]) and torch.equal(replayed[0][1], replayed[1][1])
    assert replayed[1][0].tolist() == [i + 7.0 for i in range(1024)]
    assert [plan.route for plan in kernel.plans] == [route] and sum(kernel.exits.values()) == 1


# ---- scratch memory, warmup -----------------------------------------------------------------------------------------


def add_by_descriptor(x, M, N, BLOCK: tl.constexpr):
    """The descriptor is made on the device, in scratch memory."""
    descriptor = tl.make_tensor_descriptor(x, [M, N], [N, 1], [BLOCK, BLOCK])
    at = [tl.program_id(0) * BLOCK, tl.program_id(1) * BLOCK]
    descriptor.store(at, descriptor.load(at) + 1.0)


def test_scratch_memory():
    """From the caller's allocator, on the current stream, also while a graph is captured."""
    asked, results = [], []

    def allocate(size, alignment, stream):
        asked.append((size, alignment, stream == torch.cuda.current_stream().cuda_stream))
        return torch.empty(size, dtype=torch.int8, device="cuda")

    for jit in JITS.values():
        kernel, x = jit(add_by_descriptor), torch.zeros(128, 128, device="cuda")
        with pytest.raises(RuntimeError, match="no allocator was set"):
            kernel[(4, 4)](x, 128, 128, BLOCK=32)
        triton.set_allocator(allocate)
        try:
            side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
            kernel[(4, 4)](x, 128, 128, BLOCK=32)
            torch.cuda.synchronize()
            with torch.cuda.stream(side):
                for _ in range(20):
                    kernel[(4, 4)](x, 128, 128, BLOCK=32)
                    kernel[lambda meta: (4, 4)](x, 128, 128, BLOCK=32)
            side.synchronize()
            with torch.cuda.graph(graph):
                kernel[(4, 4)](x, 128, 128, BLOCK=32)
            graph.replay(), graph.replay()
        finally:
            triton.set_allocator(triton.runtime._allocation.NullAllocator())
        results.append((x.clone(), list(asked)))
        asked.clear()
    assert torch.equal(results[0][0], results[1][0]) and results[1][0].eq(43).all()
    assert results[0][1] == results[1][1] and all(right for _, _, right in results[1][1]) and len(results[1][1]) == 42
    assert [plan.route for plan in kernel.plans] == ["wrapper"]


def test_warmup_then_launch():
    """Warming up loads nothing; the first launch does, and gives the same kernel."""
    kernel, x, out = lowlat.jit(step), torch.arange(64., device="cuda"), torch.zeros(64, device="cuda")
    compiled = kernel.warmup(torch.float32, torch.float32, BLOCK=64, grid=(1, ))
    for _ in range(3):
        assert kernel.warmup(x, out, BLOCK=64, grid=None) is compiled and compiled.module is None
    assert [plan.route for plan in kernel.plans] == ["compiled"]
    for _ in range(3):
        assert kernel[(1, )](x, out, BLOCK=64) is compiled
    assert kernel.warmup(x, torch.float32, BLOCK=64, grid=(1, )) is compiled
    torch.cuda.synchronize()
    assert out.tolist() == [i + 2.0 for i in range(64)]
    assert [plan.route for plan in kernel.plans] == ["driver"]
    assert kernel.exits["warmup"] == kernel.exits["first call"] == 1


# ---- threads --------------------------------------------------------------------------------------------------------


def test_threads():
    """Sixteen threads, one kernel, different arguments: none may see another's parameters."""
    kernel = lowlat.jit(vector_add)
    kernel[(4, )](*(torch.ones(1000, device="cuda") for _ in range(3)), 1000, BLOCK=256)
    wrong = []

    def work(number):
        x, out = torch.full((1000, ), float(number), device="cuda"), torch.empty(1000, device="cuda")
        for n in range(200, 1000, 7):
            out.zero_()
            kernel[(4, )](x, x, out, n, BLOCK=256)
            if out.sum().item() != 2.0 * number * n:
                wrong.append((number, n))

    threads = [threading.Thread(target=work, args=(number, )) for number in range(16)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong


def test_new_thread_without_context():
    kernel, counter = lowlat.jit(count), torch.zeros(1, dtype=torch.int32, device="cuda")
    kernel[(1, )](counter)
    thread = threading.Thread(target=lambda: [kernel[(1, )](counter) for _ in range(3)])
    thread.start()
    thread.join()
    assert counter.item() == 4


class Twice(torch.autograd.Function):
    """x + x and its gradient, both by a kernel."""

    @staticmethod
    def forward(ctx, x, kernel, threads):
        ctx.kernel, ctx.threads = kernel, threads
        return Twice.add(x, kernel, threads)

    @staticmethod
    def backward(ctx, gradient):
        return Twice.add(gradient, ctx.kernel, ctx.threads), None, None

    @staticmethod
    def add(x, kernel, threads):
        threads.add(threading.get_ident())
        out = torch.empty_like(x)
        kernel[(triton.cdiv(x.numel(), 256), )](x, x, out, x.numel(), BLOCK=256)
        return out


def test_autograd():
    """The backward pass launches from autograd's own thread for the device."""
    results = []
    for jit in JITS.values():
        kernel, threads = jit(vector_add), set()
        leaf = torch.arange(1000., device="cuda", requires_grad=True)
        for _ in range(3):
            out = Twice.apply(Twice.apply(leaf, kernel, threads), kernel, threads)
            out.backward(torch.arange(1000., device="cuda"))
        results.append((out.detach(), leaf.grad))
        assert len(threads) == 2
    assert kernel.exits == {"first call": 1}
    for expected, actual in zip(*results):
        assert torch.equal(expected, actual)
    assert torch.equal(leaf.grad, 12 * torch.arange(1000., device="cuda"))


# ---- kinds of tensors -----------------------------------------------------------------------------------------------


class Subclass(torch.Tensor):
    pass


class SubclassOfParameter(torch.nn.Parameter):
    pass


class Observed(torch.Tensor):
    """Counts what is asked of its instances by way of __torch_function__."""
    seen = 0

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen += 1
        return super().__torch_function__(func, types, args, kwargs or {})


class Wrapper(torch.Tensor):
    """Without storage of its own."""

    @staticmethod
    def __new__(cls, x):
        return torch.Tensor._make_wrapper_subclass(cls, x.shape, dtype=x.dtype, device=x.device)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f"{func} of a tensor that has no storage")


def inference(x):
    with torch.inference_mode():
        return x.clone()


def as_fake(x):
    return FakeTensorMode().from_tensor(x)


def without_storage(x):
    x = x.clone()
    x.untyped_storage().resize_(0)
    return x


# What each makes of 256 floats on the device is launched natively.
NATIVE = {
    "plain": lambda x: x,
    "requires grad": lambda x: x.requires_grad_(),
    "result with a grad_fn": lambda x: x.requires_grad_() * 2,
    "detached": lambda x: x.requires_grad_().detach(),
    "Parameter": torch.nn.Parameter,
    "Parameter without grad": lambda x: torch.nn.Parameter(x, requires_grad=False),
    "view of a Parameter": lambda x: torch.nn.Parameter(x)[16:],
    "Buffer": torch.nn.Buffer,
    "inference tensor": inference,
    "aligned view": lambda x: x[16:80],
    "unaligned view": lambda x: x[1:],
    "strided view": lambda x: x[3::2],
    "transposed": lambda x: x.view(16, 16).t(),
    "expanded": lambda x: x[:1].expand(64),
    "as_strided": lambda x: x.as_strided((8, 8), (0, 1), 5),
    "one element": lambda x: x[5],
    "view as another dtype": lambda x: x.view(torch.int32),
    "negative view": torch._neg_view,
    "imaginary part of a conjugate": lambda x: torch.view_as_complex(x.view(-1, 2)).conj().imag,
    "lazy clone": torch._lazy_clone,
    "by DLPack": torch.from_dlpack,
    "subclass": lambda x: x.as_subclass(Subclass),
    "subclass of Parameter": SubclassOfParameter,
    "reinterpreted": lambda x: triton.reinterpret(x, tl.int32),
}

# ... and these by Triton, for the reason given.
TRITONS = {
    "observed": (lambda x: x.as_subclass(Observed), "argument"),
    "pinned": (lambda x: x.cpu().pin_memory(), "not on device"),
    "view of pinned": (lambda x: x.cpu().pin_memory()[3:], "not on device"),
}

# These Triton refuses; a call that raises is never learnt.
REFUSED = {
    "cpu": (lambda x: x.cpu(), "not on device", ValueError),
    "complex": (lambda x: x.to(torch.complex64), "first call", KeyError),
    "conjugate view": (lambda x: x.to(torch.complex64).conj(), "first call", KeyError),
    "dtype unknown to Triton": (lambda x: x.view(torch.float8_e8m0fnu), "unreadable", KeyError),
    "sparse": (lambda x: x.to_sparse(), "unreadable", RuntimeError),
    "batched by vmap": (lambda x: torch._C._functorch._add_batch_dim(x.view(4, 64), 0, 1), "unreadable", RuntimeError),
    "uninitialised Parameter": (lambda x: torch.nn.UninitializedParameter(device="cuda"), "argument", ValueError),
}

# To Triton these are null pointers.
NULL = {
    "empty": (lambda x: torch.empty(0, device="cuda"), "first call", 1),
    "empty view": (lambda x: x[10:10], "first call", 1),
    "storage resized to nothing": (without_storage, "first call", 1),
    "functional": (torch._to_functional_tensor, "first call", 1),
    "meta": (lambda x: x.to("meta"), "not on device", 3),
    "fake": (as_fake, "argument", 3),
    "wrapper subclass": (Wrapper, "argument", 3),
}


def launch_step(kernel, x, out):
    kernel[(1, )](x, out, BLOCK=64)


@pytest.mark.parametrize("make", NATIVE.values(), ids=NATIVE)
def test_native_kinds_of_tensors(make):
    prepare = lambda: (make(torch.arange(256., device="cuda")), torch.zeros(64, device="cuda"))
    assert alike(step, prepare, launch_step, {"first call": 1}) == [None] * 3


@pytest.mark.parametrize("make, reason", TRITONS.values(), ids=TRITONS)
def test_kinds_of_tensors_left_to_triton(make, reason):
    prepare = lambda: (make(torch.arange(256., device="cuda")), torch.zeros(64, device="cuda"))
    seen = []

    def launch(*args):
        before = Observed.seen
        launch_step(*args)
        seen.append(Observed.seen - before)

    assert alike(step, prepare, launch, {reason: 3}) == [None] * 3
    assert seen[1:3] == seen[4:6]


@pytest.mark.parametrize("make, reason, error", REFUSED.values(), ids=REFUSED)
def test_kinds_of_tensors_that_triton_refuses(make, reason, error):
    prepare = lambda: (make(torch.arange(256., device="cuda")), torch.zeros(64, device="cuda"))
    errors = alike(step, prepare, launch_step, {reason: 3}, memory=False)
    assert [type_ for type_, _ in errors] == [error] * 3


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("make, reason, times", NULL.values(), ids=NULL)
def test_kinds_of_tensors_that_are_null(make, reason, times):
    out = torch.full((1, ), -1, device="cuda")
    prepare = lambda: (make(torch.arange(256., device="cuda")), out.fill_(-1))
    assert alike(address, prepare, lambda k, *args: k[(1, )](*args), {reason: times}, memory=False) == [None] * 3
    assert out.item() == 0


@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
@pytest.mark.parametrize("kinds", [NATIVE, TRITONS, REFUSED, NULL], ids=["native", "triton", "refused", "null"])
def test_kinds_of_tensors_after_a_plain_one(kinds):
    """A plan learnt from a plain tensor must not be taken for another kind than it was learnt from."""
    results = []
    for jit in JITS.values():
        kernel, out = jit(address), torch.zeros(1, dtype=torch.int64, device="cuda")
        x = torch.arange(256., device="cuda")
        results.append([])
        for name, make in kinds.items():
            made = (make if callable(make) else make[0])(x.clone())
            kernel[(1, )](x, out), kernel[(1, )](x[1:], out)
            results[-1].append((name, error_of(lambda: kernel[(1, )](made, out)), out.item() % 16, out.item() == 0))
    assert results[0] == results[1]


def test_copy_on_write_tensors_are_not_shared_after_a_launch():
    kernel, x = lowlat.jit(step), torch.arange(64., device="cuda")
    out = torch.empty_like(x)
    kernel[(1, )](x.clone(), out, BLOCK=64)
    lazy, expected = torch._lazy_clone(x), x.clone()
    assert torch._C._is_cow_tensor(x) and torch._C._is_cow_tensor(lazy)
    kernel[(1, )](lazy, out, BLOCK=64)  # writes to the clone: must not reach x
    assert torch.equal(x, expected) and torch.equal(lazy, expected + 1)
    assert not torch._C._is_cow_tensor(lazy)
    other = torch._lazy_clone(x)
    kernel[(1, )](x, out, BLOCK=64)  # writes to the original: must not reach the clone
    assert torch.equal(other, expected) and torch.equal(x, expected + 1)
    assert kernel.exits == {"first call": 1}


# ---- modes ----------------------------------------------------------------------------------------------------------


class Redirect(TorchFunctionMode):
    """Gives one tensor the address of another."""

    def __init__(self, source, target):
        super().__init__()
        self.source, self.target, self.seen = source, target, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(getattr(func, "__name__", str(func)))
        if self.seen[-1] == "data_ptr" and args[0] is self.source:
            args = (self.target, )
        return func(*args, **(kwargs or {}))


def test_torch_function_mode():
    results = []
    for jit in JITS.values():
        kernel, x, out = jit(step), torch.zeros(64, device="cuda"), torch.zeros(64, device="cuda")
        other = torch.full((64, ), 5.0, device="cuda")
        launch_step(kernel, x, out)
        with Redirect(x, other) as mode:
            launch_step(kernel, x, out)
            launch_step(kernel, x, out)
        inside = out.clone()
        launch_step(kernel, x, out)
        results.append((mode.seen, x.tolist(), other.tolist(), inside.tolist(), out.tolist()))
    assert results[0] == results[1]
    assert inside.tolist() == [6.0] * 64 and out.tolist() == [1.0] * 64
    assert kernel.exits == {"first call": 1, "torch function mode": 2}


def test_default_device_is_a_torch_function_mode():
    prepare = lambda: (torch.arange(256., device="cuda"), torch.zeros(64, device="cuda"))
    with torch.device("cuda"):
        alike(step, prepare, launch_step, {"torch function mode": 3})


def test_dispatch_mode_is_not_in_the_way():
    class Count(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            Count.seen += 1
            return func(*args, **(kwargs or {}))

    def launch(*args):
        with Count():
            launch_step(*args)

    prepare = lambda: (torch.arange(256., device="cuda"), torch.zeros(64, device="cuda"))
    alike(step, prepare, launch, {"first call": 1})
    assert Count.seen == 0


def test_real_tensors_under_a_fake_mode():
    def launch(*args):
        with FakeTensorMode():
            launch_step(*args)

    prepare = lambda: (torch.arange(256., device="cuda"), torch.zeros(64, device="cuda"))
    assert alike(step, prepare, launch, {"first call": 1}) == [None] * 3


def test_inside_vmap_and_grad():
    """What a kernel gets there is an exact torch.Tensor that has no memory, or not of its own."""
    def vmapped(kernel, x, out):
        torch.vmap(lambda row: (launch_step(kernel, row, out), row)[1])(x.view(4, 64))

    def differentiated(kernel, x, out):
        torch.func.grad(lambda x: (launch_step(kernel, x, out), x.sum())[1])(x)

    prepare = lambda: (torch.arange(256., device="cuda"), torch.zeros(64, device="cuda"))
    assert alike(step, prepare, vmapped, {"unreadable": 3})[0][0] is RuntimeError
    assert alike(step, prepare, differentiated, {"unreadable": 3})[0][0] is RuntimeError


# ---- launches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [
    {"num_warps": 1}, {"num_warps": 8, "num_stages": 2}, {"num_stages": 2, "num_warps": 8}, {"maxnreg": 32},
    {"num_ctas": 2}, {"num_ctas": 4, "launch_pdl": True}, {"num_ctas": 16}, {"launch_pdl": True},
    {"launch_cooperative_grid": True}, {"debug": True}
], ids=repr)
def test_launch_options(options):
    def prepare():
        torch.manual_seed(0)
        return *(torch.randn(10_000, device="cuda") for _ in range(2)), torch.zeros(10_000, device="cuda")

    launch = lambda k, x, y, out: k[(triton.cdiv(9_999, 1024), )](x, y, out, 9_999, BLOCK=1024, **options)
    assert alike(vector_add, prepare, launch, {"first call": 1}) == [None] * 3


@pytest.mark.parametrize("size", [1, 2, 8, 16])
def test_clusters(size):
    out = torch.zeros(1, dtype=torch.int32, device="cuda")
    launch = lambda kernel, out: kernel[(3, )](out, num_ctas=size)
    assert alike(cluster_size, lambda: (out.zero_(), ), launch, {"first call": 1}) == [None] * 3
    assert out.item() == size


def test_kernels_without_runtime_parameters(monkeypatch):
    counter = torch.zeros(1, dtype=torch.int32, device="cuda")
    prepare = lambda: (counter.zero_(), )
    launch = lambda kernel, counter: kernel[(5, )](counter.data_ptr())
    alike(count_at, prepare, launch, {"first call": 1})
    assert counter.item() == 15
    monkeypatch.setitem(globals(), "COUNTER", tl.constexpr(counter.data_ptr()))
    alike(count_without_parameters, prepare, lambda kernel, counter: kernel[(5, )](), {"first call": 1})
    assert counter.item() == 15
    kernels = [jit(count_without_parameters) for jit in JITS.values()]
    for kernel in kernels:
        kernel[(5, )]()
    monkeypatch.setitem(globals(), "COUNTER", tl.constexpr(counter.data_ptr() + 4))
    errors = [error_of(kernel[(5, )]) for kernel in kernels]
    assert errors[0] == errors[1] and errors[0][0] is RuntimeError and kernels[1].exits["global"] == 1
    assert counter.item() == 25


@pytest.mark.parametrize("grid, options", [((1, 70000), {}), ((1, 1, 65536), {}),
                                           ((10**6, ), {"launch_cooperative_grid": True})], ids=repr)
def test_launch_errors_have_tritons_text(grid, options):
    """A grid the device refuses: the same error from both, and the next launch works."""
    texts = []
    for jit in JITS.values():
        kernel = jit(count)
        counter = torch.zeros(1, dtype=torch.int32, device="cuda")
        kernel[(1, )](counter, **options)
        with pytest.raises(RuntimeError) as raised:
            kernel[grid](counter, **options)
        texts.append(str(raised.value))
        kernel[(1, )](counter, **options)
        assert counter.item() == 2
    assert texts[0] == texts[1] and texts[0].startswith("Triton Error [CUDA]: ")
    assert kernel.exits == {"first call": 1}


def test_zero_grid_launches_nothing():
    kernel, counter = lowlat.jit(count), torch.zeros(1, dtype=torch.int32, device="cuda")
    kernel[(1, )](counter)
    for grid in ((0, ), (5, 0), (65536, 65536), (-1, )):
        kernel[grid](counter)
    assert counter.item() == 1


def test_forked_child_gets_torchs_error():
    code = f"""
import os, torch, triton, triton.language as tl, sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
import lowlat
from test_gpu import count
kernel, counter = lowlat.jit(count), torch.zeros(1, dtype=torch.int32, device="cuda")
kernel[(1,)](counter); kernel[(1,)](counter)
child = os.fork()
if child == 0:
    try:
        kernel[(1,)](counter)
    except RuntimeError as error:
        os._exit(7 if "forked subprocess" in str(error) else 8)
    os._exit(9)
status = os.waitpid(child, 0)[1]
kernel[(1,)](counter)
assert counter.item() == 3
sys.exit(os.waitstatus_to_exitcode(status))
"""
    assert subprocess.run([sys.executable, "-c", code]).returncode == 7


# ---- two devices ----------------------------------------------------------------------------------------------------

two_devices = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")


@two_devices
def test_two_devices():
    kernel = lowlat.jit(count)
    counters = [torch.zeros(1, dtype=torch.int32, device=f"cuda:{i}") for i in range(2)]
    for _ in range(10):
        for device in range(2):
            with torch.cuda.device(device):
                kernel[(1, )](counters[device])
    assert [counter.item() for counter in counters] == [10, 10]
    assert kernel.exits == {"first call": 2}


@two_devices
def test_two_devices_by_every_way_of_choosing_one():
    """One kernel alternates between the devices: set_device, a device guard, a stream of the other device."""
    results = []
    for jit in JITS.values():
        kernel = jit(step)
        tensors = [[torch.arange(64., device=f"cuda:{i}") * (i + 1) for i in range(2)] for _ in range(2)]
        streams = [torch.cuda.Stream(device=i) for i in range(2)]
        torch.cuda.synchronize(0), torch.cuda.synchronize(1)
        for _ in range(5):
            for device in (0, 1):
                arguments = tensors[0][device], tensors[1][device]
                torch.cuda.set_device(device)
                launch_step(kernel, *arguments)
                with torch.cuda.device(1 - device):
                    launch_step(kernel, tensors[0][1 - device], tensors[1][1 - device])
                torch.cuda.synchronize(0), torch.cuda.synchronize(1)
                torch.cuda.set_device(1 - device)
                with torch.cuda.stream(streams[device]):  # makes its device the current one
                    launch_step(kernel, *arguments)
                torch.cuda.set_device(0)
                torch.cuda.synchronize(0), torch.cuda.synchronize(1)
        results.append([storage(tensor).cpu() for pair in tensors for tensor in pair])
    for expected, actual in zip(*results):
        assert torch.equal(expected, actual)
    assert tensors[0][1].tolist() == [2.0 * i + 15 for i in range(64)]
    assert kernel.exits == {"first call": 2}


@two_devices
def test_two_devices_guards():
    """The guards that torch itself uses: device_of, a guard inside a guard, one left by an exception."""
    kernel = lowlat.jit(count)
    counters = [torch.zeros(1, dtype=torch.int32, device=f"cuda:{i}") for i in range(2)]
    for _ in range(5):
        for counter in counters:
            with torch.cuda.device_of(counter):
                kernel[(1, )](counter)
        with torch.cuda.device(0):
            with torch.cuda.device(1):
                kernel[(1, )](counters[1])
            kernel[(1, )](counters[0])
        with pytest.raises(KeyError), torch.cuda.device(1):
            kernel[lambda meta: meta["no such argument"]](counters[1])
        kernel[(1, )](counters[0])
    assert [counter.item() for counter in counters] == [15, 10]
    assert sum(kernel.exits.values()) == 2


@two_devices
def test_two_devices_warmup():
    """Compiled for the current device, be the tensors where they are dtypes."""
    kernel = lowlat.jit(step)
    for device in (0, 1, 0, 1):
        with torch.cuda.device(device):
            x = torch.zeros(64, device="cuda")
            compiled = kernel.warmup(torch.float32, x, BLOCK=64, grid=(1, ))
            assert compiled is next(iter(kernel.device_caches[device][0].values()))
    assert len(kernel.plans) == 2


@two_devices
def test_two_devices_streams():
    kernel, counters = lowlat.jit(count), []
    for device in (0, 1):
        counters.append(torch.zeros(1, dtype=torch.int32, device=f"cuda:{device}"))
        with torch.cuda.device(device):
            kernel[(1, )](counters[device])
    for device in (1, 0):
        check_stream(kernel, counters[device], torch.cuda.Stream(device=device), device)
        assert counters[device].item() == 3
    assert kernel.exits == {"first call": 2}


@two_devices
def test_two_devices_threads():
    """Two threads for each device: the current device is a thread's own."""
    kernel, wrong = lowlat.jit(vector_add), []
    for device in (0, 1):
        with torch.cuda.device(device):
            kernel[(4, )](*(torch.ones(1000, device="cuda") for _ in range(3)), 1000, BLOCK=256)

    def work(number):
        torch.cuda.set_device(number % 2)
        x, out = torch.full((1000, ), float(number), device="cuda"), torch.empty(1000, device="cuda")
        for n in range(200, 1000, 7):
            out.zero_()
            kernel[(4, )](x, x, out, n, BLOCK=256)
            if out.device.index != number % 2 or out.sum().item() != 2.0 * number * n:
                wrong.append((number, n))

    threads = [threading.Thread(target=work, args=(number, )) for number in range(4)]
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
    assert not wrong and torch.cuda.current_device() == 0
    assert set(kernel.exits) == {"first call"}


@two_devices
def test_two_devices_graph():
    kernel, counter = lowlat.jit(count), torch.zeros(1, dtype=torch.int32, device="cuda:1")
    with torch.cuda.device(1):
        kernel[(1, )](counter)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(1)):  # (torch's own for captures is of one device)
            kernel[(1, )](counter), kernel[(1, )](counter)
    graph.replay()
    torch.cuda.synchronize(1)
    assert counter.item() == 3
    assert kernel.exits == {"first call": 1}


OTHER_DEVICES = """
import sys
sys.path.insert(0, sys.argv[2])
from test_gpu import JITS, error_of, launch_step, step, torch

kernel = JITS[sys.argv[1]](step)
x, out = ([torch.arange(64., device=f"cuda:{i}") for i in range(2)] for _ in range(2))
if sys.argv[3] == "peers":
    x[0].to("cuda:1"), x[1].to("cuda:0")  # makes torch enable peer access where the machine has it
for device in range(2):
    with torch.cuda.device(device):
        launch_step(kernel, x[device], out[device])

def launch(current, read, written):
    with torch.cuda.device(current):
        launch_step(kernel, x[read], out[written])

def finish():
    for device in range(2):  # the one that launched, and the one whose memory it wrote
        torch.cuda.synchronize(device)

def sums():
    print([tensor.sum().item() for tensor in (*x, *out)])

errors = []
for call in ((0, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (1, 0, 0), (1, 1, 0), (1, 1, 1)):
    errors += error_of(lambda: launch(*call)), error_of(finish), error_of(sums)
    print(call, *errors[-3:])
if sys.argv[1] == "lowlat" and not any(errors) and kernel.exits.get("other device") != 5:
    print("five of these were to be Triton's:", kernel.exits)
"""


@two_devices
@pytest.mark.parametrize("peers", ["peers", "strangers"])
def test_tensors_of_the_other_device(peers):
    """Triton asks the driver whether the current device can reach a tensor: with peer access the launch works."""
    expected, actual = in_processes(OTHER_DEVICES, peers)
    print(expected)
    assert actual == expected
