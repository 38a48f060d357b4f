"""On a GPU: a tuned matmul and fused attention, forward and backward, as people write them, under triton's decorators
and under lowlat's.  Results are compared with PyTorch and, given the same configurations, bit by bit with triton's."""

import math

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

import triton
import triton.language as tl

import lowlat

pytestmark = pytest.mark.gpu

# ---- matmul ---------------------------------------------------------------------------------------------------------


def matmul(a, b, c, M, N, K, stride_am, stride_ak, stride_bk, stride_bn, stride_cm, stride_cn, BLOCK_M: tl.constexpr,
           BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr, EVEN_K: tl.constexpr,
           ACTIVATION: tl.constexpr):
    # Neighbouring programs share rows of a and columns of b: GROUP blocks of rows are walked column by column.
    program = tl.program_id(0)
    row_blocks, column_blocks = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    group = program // (GROUP * column_blocks)
    height = min(row_blocks - group * GROUP, GROUP)
    row_block = group * GROUP + (program % (GROUP * column_blocks)) % height
    column_block = (program % (GROUP * column_blocks)) // height

    rows = row_block * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = column_block * BLOCK_N + tl.arange(0, BLOCK_N)
    inner = tl.arange(0, BLOCK_K)
    left = a + (rows % M)[:, None] * stride_am + inner[None, :] * stride_ak
    right = b + inner[:, None] * stride_bk + (columns % N)[None, :] * stride_bn
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for k in range(0, tl.cdiv(K, BLOCK_K)):
        if EVEN_K:
            total = tl.dot(tl.load(left), tl.load(right), total)
        else:
            present = inner < K - k * BLOCK_K
            total = tl.dot(tl.load(left, mask=present[None, :], other=0.0),
                           tl.load(right, mask=present[:, None], other=0.0), total)
        left += BLOCK_K * stride_ak
        right += BLOCK_K * stride_bk
    if ACTIVATION == "leaky_relu":
        total = tl.where(total >= 0, total, 0.01 * total)
    tl.store(c + rows[:, None] * stride_cm + columns[None, :] * stride_cn, total.to(c.dtype.element_ty),
             mask=(rows[:, None] < M) & (columns[None, :] < N))


MATMUL_CONFIGS = [({"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 32, "GROUP": 8}, 4, 3),
                  ({"BLOCK_M": 128, "BLOCK_N": 64, "BLOCK_K": 64, "GROUP": 4}, 4, 3),
                  ({"BLOCK_M": 64, "BLOCK_N": 128, "BLOCK_K": 32, "GROUP": 8}, 8, 2)]


def tuned_matmul(library):
    configs = [library.Config(dict(blocks), num_warps=warps, num_stages=stages)
               for blocks, warps, stages in MATMUL_CONFIGS]
    kernel = library.jit(matmul)
    kernel = library.heuristics({"EVEN_K": lambda args: args["K"] % args["BLOCK_K"] == 0})(kernel)
    return library.autotune(configs=configs, key=["M", "N", "K"])(kernel)


def multiply(kernel, a, b, activation):
    (M, K), N = a.shape, b.shape[1]
    c = torch.empty((M, N), device="cuda", dtype=a.dtype)
    kernel[lambda meta: (triton.cdiv(M, meta["BLOCK_M"]) * triton.cdiv(N, meta["BLOCK_N"]), )](
        a, b, c, M, N, K, *a.stride(), *b.stride(), *c.stride(), ACTIVATION=activation)
    return c


def take_configurations(ours, theirs):
    """Into lowlat's tuner, what triton's found best: timings differ, and then so do the sums' last bits."""
    position = {id(config): i for i, config in enumerate(theirs.configs)}
    ours.cache = {key: ours.configs[position[id(config)]] for key, config in theirs.cache.items()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_tuned_matmul(dtype):
    ours, theirs = tuned_matmul(lowlat), tuned_matmul(triton)
    sizes = [(512, 512, 512), (1024, 256, 512), (300, 500, 200), (512, 512, 512), (64, 64, 1)]
    for turn in range(3):
        if turn == 2:
            take_configurations(ours, theirs)
        for M, N, K in sizes:
            torch.manual_seed(M + turn)
            a = torch.randn(M, K, device="cuda", dtype=dtype)
            b = torch.randn(N, K, device="cuda", dtype=dtype).t() if turn else torch.randn(K, N, device="cuda",
                                                                                           dtype=dtype)
            for activation in ("leaky_relu", ""):
                result, expected = (multiply(kernel, a, b, activation) for kernel in (ours, theirs))
                exact = a.double() @ b.double()
                exact = torch.nn.functional.leaky_relu(exact) if activation else exact
                torch.testing.assert_close(result.double(), exact, rtol=2e-2, atol=2e-2 * math.sqrt(K))
                if turn == 2:
                    assert torch.equal(result, expected)
    for _ in range(2):
        exits = ours.exits, ours.fn.exits, ours.fn.fn.exits
        for M, N, K in sizes:
            a = torch.randn(M, K, device="cuda", dtype=dtype)
            multiply(ours, a, torch.randn(N, K, device="cuda", dtype=dtype).t(), "")
    assert (ours.exits, ours.fn.exits, ours.fn.fn.exits) == exits, "went to Triton"


# ---- attention ------------------------------------------------------------------------------------------------------


def attend(q, k, v, out, logsumexp, scale, stride_b, stride_h, stride_m, heads, length, DIM: tl.constexpr,
           CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """One block of queries against all keys it may see, softmax rescaled as it goes; exponents are of 2."""
    block, row = tl.program_id(0), tl.program_id(1)
    base = (row // heads).to(tl.int64) * stride_b + (row % heads).to(tl.int64) * stride_h
    queries = block * BLOCK_M + tl.arange(0, BLOCK_M)
    dims = tl.arange(0, DIM)
    query = tl.load(q + base + queries[:, None] * stride_m + dims[None, :], mask=queries[:, None] < length, other=0.0)
    highest = tl.full((BLOCK_M, ), -float("inf"), tl.float32)
    weight = tl.zeros((BLOCK_M, ), tl.float32)
    total = tl.zeros((BLOCK_M, DIM), tl.float32)
    end = min((block + 1) * BLOCK_M, length) if CAUSAL else length
    for start in range(0, end, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        inside = keys < length
        key = tl.load(k + base + keys[None, :] * stride_m + dims[:, None], mask=inside[None, :], other=0.0)
        scores = tl.dot(query, key) * (scale * 1.4426950408889634)
        seen = inside[None, :] & (queries[:, None] >= keys[None, :]) if CAUSAL else inside[None, :]
        scores = tl.where(seen, scores, -float("inf"))
        higher = tl.maximum(highest, tl.max(scores, 1))
        shrink = tl.exp2(highest - higher)
        scores = tl.exp2(scores - higher[:, None])
        weight = weight * shrink + tl.sum(scores, 1)
        value = tl.load(v + base + keys[:, None] * stride_m + dims[None, :], mask=inside[:, None], other=0.0)
        total = tl.dot(scores.to(value.dtype), value, total * shrink[:, None])
        highest = higher
    tl.store(logsumexp + row * length + queries, highest + tl.log2(weight), mask=queries < length)
    places = base + queries[:, None] * stride_m + dims[None, :]
    tl.store(out + places, (total / weight[:, None]).to(out.dtype.element_ty), mask=queries[:, None] < length)


def sum_products(out, grad_out, delta, stride_b, stride_h, stride_m, heads, length, DIM: tl.constexpr,
                 BLOCK_M: tl.constexpr):
    row = tl.program_id(1)
    base = (row // heads).to(tl.int64) * stride_b + (row % heads).to(tl.int64) * stride_h
    queries = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    places = base + queries[:, None] * stride_m + tl.arange(0, DIM)[None, :]
    inside = queries[:, None] < length
    products = (tl.load(out + places, mask=inside, other=0.0).to(tl.float32) *
                tl.load(grad_out + places, mask=inside, other=0.0).to(tl.float32))
    tl.store(delta + row * length + queries, tl.sum(products, 1), mask=queries < length)


def grad_of_keys(q, k, v, grad_out, grad_k, grad_v, logsumexp, delta, scale, stride_b, stride_h, stride_m, heads,
                 length, DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """One block of keys and values, over all queries that see it."""
    block, row = tl.program_id(0), tl.program_id(1)
    base = (row // heads).to(tl.int64) * stride_b + (row % heads).to(tl.int64) * stride_h
    keys = block * BLOCK_N + tl.arange(0, BLOCK_N)
    dims = tl.arange(0, DIM)
    places = base + keys[:, None] * stride_m + dims[None, :]
    inside = keys[:, None] < length
    key, value = tl.load(k + places, mask=inside, other=0.0), tl.load(v + places, mask=inside, other=0.0)
    total_k = tl.zeros((BLOCK_N, DIM), tl.float32)
    total_v = tl.zeros((BLOCK_N, DIM), tl.float32)
    first = (block * BLOCK_N // BLOCK_M) * BLOCK_M if CAUSAL else 0
    for start in range(first, length, BLOCK_M):
        queries = start + tl.arange(0, BLOCK_M)
        there = queries < length
        rows = base + queries[:, None] * stride_m + dims[None, :]
        query = tl.load(q + rows, mask=there[:, None], other=0.0)
        grad = tl.load(grad_out + rows, mask=there[:, None], other=0.0)
        shift = tl.load(logsumexp + row * length + queries, mask=there, other=0.0)
        scores = tl.dot(key, tl.trans(query)) * (scale * 1.4426950408889634)
        seen = there[None, :] & (keys[:, None] < length)
        if CAUSAL:
            seen = seen & (queries[None, :] >= keys[:, None])
        weights = tl.where(seen, tl.exp2(scores - shift[None, :]), 0.0)
        total_v = tl.dot(weights.to(grad.dtype), grad, total_v)
        products = tl.dot(value, tl.trans(grad))
        products = weights * (products - tl.load(delta + row * length + queries, mask=there, other=0.0)[None, :])
        total_k = tl.dot(products.to(query.dtype), query, total_k)
    tl.store(grad_v + places, total_v.to(grad_v.dtype.element_ty), mask=inside)
    tl.store(grad_k + places, (total_k * scale).to(grad_k.dtype.element_ty), mask=inside)


def grad_of_queries(q, k, v, grad_out, grad_q, logsumexp, delta, scale, stride_b, stride_h, stride_m, heads, length,
                    DIM: tl.constexpr, CAUSAL: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """One block of queries, over all keys it sees."""
    block, row = tl.program_id(0), tl.program_id(1)
    base = (row // heads).to(tl.int64) * stride_b + (row % heads).to(tl.int64) * stride_h
    queries = block * BLOCK_M + tl.arange(0, BLOCK_M)
    there = queries < length
    dims = tl.arange(0, DIM)
    places = base + queries[:, None] * stride_m + dims[None, :]
    query = tl.load(q + places, mask=there[:, None], other=0.0)
    grad = tl.load(grad_out + places, mask=there[:, None], other=0.0)
    shift = tl.load(logsumexp + row * length + queries, mask=there, other=0.0)
    mean = tl.load(delta + row * length + queries, mask=there, other=0.0)
    total = tl.zeros((BLOCK_M, DIM), tl.float32)
    end = min((block + 1) * BLOCK_M, length) if CAUSAL else length
    for start in range(0, end, BLOCK_N):
        keys = start + tl.arange(0, BLOCK_N)
        inside = keys < length
        rows = base + keys[:, None] * stride_m + dims[None, :]
        key = tl.load(k + rows, mask=inside[:, None], other=0.0)
        value = tl.load(v + rows, mask=inside[:, None], other=0.0)
        scores = tl.dot(query, tl.trans(key)) * (scale * 1.4426950408889634)
        seen = inside[None, :] & there[:, None]
        if CAUSAL:
            seen = seen & (queries[:, None] >= keys[None, :])
        weights = tl.where(seen, tl.exp2(scores - shift[:, None]), 0.0)
        products = weights * (tl.dot(grad, tl.trans(value)) - mean[:, None])
        total = tl.dot(products.to(key.dtype), key, total)
    tl.store(grad_q + places, (total * scale).to(grad_q.dtype.element_ty), mask=there[:, None])


class Kernels:
    """The kernels of attention under one library's decorators."""

    def __init__(self, library):
        configs = [library.Config({"BLOCK_M": m, "BLOCK_N": n}, num_warps=4, num_stages=stages)
                   for m, n, stages in ((64, 32, 2), (64, 64, 2), (128, 32, 3))]
        self.attend = library.autotune(configs, key=["length", "DIM", "CAUSAL"])(library.jit(attend))
        self.sum_products = library.jit(sum_products)
        blocks = {"BLOCK_M": lambda args: 32 if args["DIM"] > 64 else 64, "BLOCK_N": lambda args: 64}
        self.grad_of_keys = library.heuristics(blocks)(library.jit(grad_of_keys))
        self.grad_of_queries = library.heuristics(blocks)(library.jit(grad_of_queries))

    def all(self):
        return [self.attend, self.attend.fn, self.sum_products, self.grad_of_keys, self.grad_of_keys.fn,
                self.grad_of_queries, self.grad_of_queries.fn]


class Attention(torch.autograd.Function):

    @staticmethod
    def forward(context, q, k, v, causal, kernels):
        batch, heads, length, dim = q.shape
        out = torch.empty_like(q)
        logsumexp = torch.empty((batch, heads, length), device=q.device, dtype=torch.float32)
        kernels.attend[lambda meta: (triton.cdiv(length, meta["BLOCK_M"]), batch * heads)](
            q, k, v, out, logsumexp, dim**-0.5, q.stride(0), q.stride(1), q.stride(2), heads, length, DIM=dim,
            CAUSAL=causal)
        context.save_for_backward(q, k, v, out, logsumexp)
        context.causal, context.kernels = causal, kernels
        return out

    @staticmethod
    def backward(context, grad_out):
        q, k, v, out, logsumexp = context.saved_tensors
        batch, heads, length, dim = q.shape
        kernels, grad_out = context.kernels, grad_out.contiguous()
        delta = torch.empty_like(logsumexp)
        grads = [torch.empty_like(tensor) for tensor in (q, k, v)]
        strides = q.stride(0), q.stride(1), q.stride(2)
        kernels.sum_products[(triton.cdiv(length, 64), batch * heads)](out, grad_out, delta, *strides, heads, length,
                                                                       DIM=dim, BLOCK_M=64)
        kernels.grad_of_keys[lambda meta: (triton.cdiv(length, meta["BLOCK_N"]), batch * heads)](
            q, k, v, grad_out, grads[1], grads[2], logsumexp, delta, dim**-0.5, *strides, heads, length, DIM=dim,
            CAUSAL=context.causal)
        kernels.grad_of_queries[lambda meta: (triton.cdiv(length, meta["BLOCK_M"]), batch * heads)](
            q, k, v, grad_out, grads[0], logsumexp, delta, dim**-0.5, *strides, heads, length, DIM=dim,
            CAUSAL=context.causal)
        return *grads, None, None


def attention_and_gradients(kernels, tensors, causal, grad):
    tensors = [tensor.detach().requires_grad_() for tensor in tensors]
    if kernels is None:
        attention = torch.nn.functional.scaled_dot_product_attention
        out = attention(*(tensor.float() for tensor in tensors), is_causal=causal)
        out.backward(grad.float())
    else:
        out = Attention.apply(*tensors, causal, kernels)
        out.backward(grad)
    return [out.detach(), *(tensor.grad for tensor in tensors)]


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
def test_fused_attention_forward_and_backward(causal, dim):
    ours, theirs = Kernels(lowlat), Kernels(triton)
    for turn in range(3):
        if turn == 1:
            take_configurations(ours.attend, theirs.attend)
        if turn == 2:
            exits = [kernel.exits for kernel in ours.all()]
        for length in (256, 192, 97):
            torch.manual_seed(length)
            tensors = [torch.randn(2, 3, length, dim, device="cuda", dtype=torch.float16) for _ in range(3)]
            grad = torch.randn_like(tensors[0])
            results, others, expected = (attention_and_gradients(kernels, tensors, causal, grad)
                                         for kernels in (ours, theirs, None))
            for result, other, reference in zip(results, others, expected):
                torch.testing.assert_close(result.float(), reference.float(), rtol=2e-2, atol=2e-2)
                if turn:
                    assert torch.equal(result, other)
    assert [kernel.exits for kernel in ours.all()] == exits, "went to Triton"
