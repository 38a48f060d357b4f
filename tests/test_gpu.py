"""On a GPU: results of ordinary Triton kernels under lowlat.jit, compared with PyTorch and, bit by bit, with
triton.jit; streams, graphs, threads, the device's errors."""

import os
import subprocess
import sys
import threading

import pytest
import torch
import triton
import triton.language as tl

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


@pytest.fixture
def natively():
    """Runs a call three times and insists that the last two were launched natively."""

    def call(kernel, launch):
        launch()
        exits = kernel.exits
        launch()
        launch()
        assert kernel.exits == exits, "went to Triton"

    return call


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


def test_side_streams(natively):
    kernel, counter = lowlat.jit(count), torch.zeros(1, dtype=torch.int32, device="cuda")
    kernel[(1, )](counter)
    busy = lowlat.jit(spin)
    scratch = torch.zeros(1, device="cuda")
    side = torch.cuda.Stream()
    busy[(1, )](scratch, 10)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        busy[(1, )](scratch, 20_000_000)
        kernel[(1, )](counter)  # behind the spinning kernel
        done = torch.cuda.Event()
        done.record()
    kernel[(1, )](counter)  # on the default stream... which waits for nothing here
    torch.cuda.current_stream().synchronize()
    assert not done.query(), "the launch inside the stream context did not go to the side stream"
    torch.cuda.synchronize()
    assert counter.item() == 3
    assert kernel.exits == {"first call": 1}


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


def test_cpu_and_pinned_tensors():
    kernels = [jit(vector_add) for jit in (triton.jit, lowlat.jit)]
    x = torch.ones(64, device="cuda")
    texts = []
    for kernel in kernels:
        kernel[(1, )](x, x, x.clone(), 64, BLOCK=64)
        with pytest.raises(ValueError) as raised:
            kernel[(1, )](x, torch.ones(64), x, 64, BLOCK=64)
        texts.append(str(raised.value))
    assert texts[0] == texts[1] and "cpu tensor?" in texts[0]
    pinned, out = torch.ones(64).pin_memory(), torch.empty(64, device="cuda")
    kernels[1][(1, )](x, pinned, out, 64, BLOCK=64)
    assert torch.equal(out, torch.full_like(out, 2.0))
    assert kernels[1].exits["not on device"] == 2


def test_subclass_fake_mode_and_cow():
    class Subclass(torch.Tensor):
        pass

    kernel = lowlat.jit(vector_add)
    x, out = torch.ones(64, device="cuda"), torch.empty(64, device="cuda")
    kernel[(1, )](x, x, out, 64, BLOCK=64)
    kernel[(1, )](x.as_subclass(Subclass), x, out, 64, BLOCK=64)
    assert kernel.exits["argument"] == 1

    class Mode(torch.overrides.TorchFunctionMode):
        seen = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            Mode.seen += 1
            return func(*args, **(kwargs or {}))

    with Mode():
        kernel[(1, )](x, x, out, 64, BLOCK=64)
    assert kernel.exits["torch function mode"] == 1 and Mode.seen > 0

    lazy = torch._lazy_clone(x)
    kernel[(1, )](x, x, lazy, 64, BLOCK=64)  # writes to the clone: must not reach x
    assert torch.equal(x, torch.ones_like(x)) and torch.equal(lazy, torch.full_like(x, 2.0))

    conjugate = torch.ones(64, dtype=torch.complex64, device="cuda").conj()
    with pytest.raises(KeyError):
        kernel[(1, )](conjugate, x, out, 64, BLOCK=64)
    negative = torch._neg_view(x)  # data_ptr() is x's own: Triton, and so lowlat, reads x
    assert negative.is_neg()
    both(vector_add, lambda k: k[(1, )](negative, x, out, 64, BLOCK=64), out)


def test_launch_errors_have_tritons_text():
    """A grid the device refuses: the same error from both, and the next launch works."""
    x = torch.ones(64, device="cuda")
    texts = []
    for jit in (triton.jit, lowlat.jit):
        kernel = jit(count)
        counter = torch.zeros(1, dtype=torch.int32, device="cuda")
        kernel[(1, )](counter)
        with pytest.raises(RuntimeError) as raised:
            kernel[(1, 70000)](counter)  # gridDim.y is at most 65,535
        texts.append(str(raised.value))
        kernel[(1, )](counter)
        assert counter.item() == 2
    assert texts[0] == texts[1] and texts[0].startswith("Triton Error [CUDA]: ")
    del x


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


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_devices():
    kernel = lowlat.jit(count)
    counters = [torch.zeros(1, dtype=torch.int32, device=f"cuda:{i}") for i in range(2)]
    for _ in range(10):
        for device in range(2):
            with torch.cuda.device(device):
                kernel[(1, )](counters[device])
    assert [counter.item() for counter in counters] == [10, 10]
    assert kernel.exits == {"first call": 2}
