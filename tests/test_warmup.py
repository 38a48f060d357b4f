"""Compiling without a launch: `kernel.warmup(...)`, `kernel.run(..., warmup=True)`, `preload`, asynchronous
compilation, and what is launched afterwards."""

import concurrent.futures
import contextlib
import gc
import inspect
import itertools
import json
import sys

import pytest
import triton
import triton.language as tl
from triton import knobs
from triton.runtime._async_compile import AsyncCompileMode, active_mode
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction as TritonJITFunction
from triton.runtime.jit import KernelInterface, MockTensor

import lowlat
from lowlat import _triton, null
from oracle import Pair, aligned, changed, observe, outcome, torch, unaligned

pytestmark = [pytest.mark.null, pytest.mark.torch]

GRID = (3, )
SIZE = tl.constexpr(8)


def one(x, n):
    tl.store(x, n)


def pointers(a, b, c=None):
    pass


def value(x, V: tl.constexpr):
    tl.store(x, 1.0)


def annotated(p: "*fp32", q: "const *fp16", n: int, f: float):
    pass


def reads(x):
    tl.store(x, SIZE)


def warm(pair, *args, grid=GRID, **kwargs):
    """Twice, the second time natively; nothing is launched or loaded."""
    result = pair.lockstep(lambda kernel: kernel.warmup(*args, grid=grid, **kwargs))
    before = pair.lowlat.exits
    again = pair.lockstep(lambda kernel: kernel.warmup(*args, grid=grid, **kwargs))
    assert pair.lowlat.exits == before, f"went to Triton: {changed(before, pair.lowlat.exits)}"
    assert again.result is result.result
    for made in (result, again):
        assert not made.launches and not made.launches.loads
    assert python_of(lambda: pair.lowlat.warmup(*args, grid=grid, **kwargs)) <= {"get_current_device",
                                                                                "get_current_stream"}
    return again.result


def python_of(call):
    """The Python functions that a call calls."""
    called = set()
    sys.setprofile(lambda frame, event, argument: event == "call" and called.add(frame.f_code.co_name))
    try:
        call()
    finally:
        sys.setprofile(None)
    return called - {"<lambda>"}


def keys(pair):
    """The keys of Triton's cache, the same in both kernels."""
    caches = [list(kernel.device_caches[0][0]) if kernel.device_caches else []
              for kernel in (pair.triton, pair.lowlat)]
    assert caches[0] == caches[1]
    return caches[0]


# ---- what is compiled -----------------------------------------------------------------------------------------------


def test_tensors_dtypes_and_mocks_have_one_kernel():
    pair = Pair(one)
    compiled = warm(pair, aligned(), 5)
    for x in (torch.float32, MockTensor(torch.float32), MockTensor(torch.float32, [4, 4]), torch.empty(0)):
        assert warm(pair, x, 5) is compiled
        assert warm(pair, x, n=7, grid=None) is compiled
    assert warm(pair, unaligned(), 5) is not compiled
    assert warm(pair, torch.float16, 5) is not compiled
    assert warm(pair, torch.float32, 1) is not compiled
    assert warm(pair, torch.float32, 5, num_warps=8) is not compiled
    assert compiled.module is None and len(keys(pair)) == 5
    assert pair.lowlat.exits == {"warmup": 5}
    assert {plan.route for plan in pair.lowlat.plans} == {"compiled"}


DTYPES = [getattr(torch, name) for name in (
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
    "uint64", "bool", "float8_e4m3fn", "float8_e5m2")] if torch else []


@pytest.mark.parametrize("options", [{}, {"do_not_specialize": ["a"], "do_not_specialize_on_alignment": ["b"]}],
                         ids=["", "do_not_specialize"])
def test_every_dtype(options):
    pair = Pair(pointers, **options)
    for dtype in DTYPES:
        compiled = warm(pair, dtype, dtype, MockTensor(dtype))
        assert warm(pair, *(aligned(dtype=dtype) for _ in range(3))) is compiled
    assert len(keys(pair)) == len(DTYPES)
    for _ in range(2):
        for dtype in (torch.complex64, torch.quint8, torch.float8_e4m3fnuz):
            for argument, other in itertools.product((dtype, MockTensor(dtype)), (None, torch.float32)):
                pair.lockstep(lambda kernel: kernel.warmup(argument, other, other, grid=GRID))


def test_annotated_parameters():
    pair = Pair(annotated)
    compiled = warm(pair, torch.float32, torch.float16, 5, 0.5)
    assert warm(pair, MockTensor(torch.int8), aligned(), 5, 0.5) is compiled  # (the annotation decides)
    assert warm(pair, unaligned(), torch.float16, 5, 0.5) is not compiled
    for _ in range(2):
        pair.lockstep(lambda kernel: kernel.warmup(torch.float32, torch.float16, torch.int32, 0.5, grid=GRID))
        pair.lockstep(lambda kernel: kernel.warmup(aligned(), aligned(), 5, MockTensor(torch.float32), grid=GRID))
    keys(pair)


def test_dtypes_where_no_tensor_goes():
    """By position a dtype is a tensor even where the parameter is a constexpr: another key each time.  By name it is
    none."""
    pair = Pair(value)
    warm(pair, torch.float32, V=torch.float16)
    for kernel in (pair.triton, pair.lowlat):
        assert len({kernel.warmup(torch.float32, torch.float16, grid=GRID) for _ in range(3)}) == 3
    assert [len(kernel.device_caches[0][0]) for kernel in (pair.triton, pair.lowlat)] == [4, 4]
    warm(pair, torch.float32, V=torch.float16), warm(pair, torch.float32, 1)
    for _ in range(2):
        by_name = pair.lockstep(lambda kernel: kernel.warmup(x=torch.float32, V=1, grid=GRID))
        assert by_name.error[0] is TypeError
        run = pair.run(torch.float32, 1, grid=GRID, warmup=True)
        assert run.error[0] is TypeError
    pair.lockstep(lambda kernel: kernel.run(MockTensor(torch.float32), torch.float16, grid=GRID, warmup=True))


def test_mocks_that_are_not_as_made():
    class Other(MockTensor):

        @staticmethod
        def data_ptr():
            return 8

    pair = Pair(pointers)
    compiled = warm(pair, torch.float32, torch.float32)
    moved = MockTensor(torch.float32)
    moved.data_ptr = lambda: 8
    named, nameless = MockTensor(torch.float32), MockTensor(torch.float32)
    named.name = "x"
    del nameless.dtype
    for _ in range(2):
        for mock in (moved, Other(torch.float32), named, nameless, MockTensor("float32"), MockTensor(tl.float32)):
            pair.lockstep(lambda kernel: kernel.warmup(mock, torch.float32, grid=GRID))
    mock = MockTensor(torch.float32)
    assert warm(pair, mock, mock) is compiled
    mock.dtype = torch.float16
    assert warm(pair, mock, torch.float32) is not compiled
    assert sum("('*fp32', '')" in key for key in keys(pair)) == 1


@pytest.mark.parametrize("owner, name", [(MockTensor, "data_ptr"), (MockTensor, "wrap_dtype"),
                                         (KernelInterface, "warmup"), (TritonJITFunction, "warmup"),
                                         (TritonJITFunction, "run")], ids=lambda it: getattr(it, "__name__", it))
def test_replaced_functions(owner, name, monkeypatch):
    pair = Pair(pointers)
    warm(pair, torch.float32, aligned())
    original = getattr(owner, name)
    replacement = lambda *args, **kwargs: observe(name) or original(*args, **kwargs)
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, staticmethod(replacement) if owner is MockTensor else replacement)
        for _ in range(2):
            result = pair.lockstep(lambda kernel: kernel.warmup(torch.float32, aligned(), grid=GRID))
            assert result.observed
    warm(pair, torch.float32, aligned())


def test_warmup_or_run_replaced_on_the_kernel():
    pair = Pair(one)
    warm(pair, torch.float32, 5)
    for kernel in (pair.triton, pair.lowlat):
        kernel.run = lambda *args, **kwargs: observe("run", len(args), kwargs)
    result = pair.lockstep(lambda kernel: kernel.warmup(torch.float32, 5, grid=GRID))
    assert result.observed == [("run", 2, {"grid": GRID, "warmup": True})]
    for kernel in (pair.triton, pair.lowlat):
        del kernel.run
        kernel.warmup = lambda *args, **kwargs: observe("warmup", kwargs)
    result = pair.lockstep(lambda kernel: kernel.warmup(torch.float32, 5, grid=GRID))
    assert result.observed == [("warmup", {"grid": GRID})]


def test_a_subclass():
    class Mine(lowlat.JITFunction):

        def run(self, *args, **kwargs):
            seen.append(kwargs)
            return super().run(*args, **kwargs)

    seen, mine = [], Mine(one)
    assert hasattr(mine.warmup(torch.float32, 5, grid=GRID), "asm")
    assert seen == [{"grid": GRID, "warmup": True}] and mine.exits == {"subclass": 1}


def test_signature():
    for kernel in (lowlat.jit(one), triton.jit(one)):
        assert str(inspect.signature(kernel.warmup)) == "(*args, grid, **kwargs)"


# ---- the call -------------------------------------------------------------------------------------------------------


def test_the_grid_is_not_looked_at():
    pair, x = Pair(one), aligned()
    for grid in (None, GRID, [], "text", 7, lambda meta: 1 / 0, (2**40, )):
        warm(pair, x, 5, grid=grid)
        before = pair.lowlat.exits
        assert pair.run(x, 5, grid=grid, warmup=True).error is None
        assert pair.lowlat.exits == before
    assert len(keys(pair)) == 1


@pytest.mark.parametrize("call", [
    lambda kernel, x: kernel.warmup(x, 5), lambda kernel, x: kernel.warmup(x, grid=GRID),
    lambda kernel, x: kernel.warmup(x, 5, 6, grid=GRID), lambda kernel, x: kernel.warmup(x, 5, grid=GRID, n=6),
    lambda kernel, x: kernel.warmup(x, 5, grid=GRID, warmup=False), lambda kernel, x: kernel.warmup(x, 5, warmup=True),
    lambda kernel, x: kernel.warmup(x, 5, grid=GRID, unknown=1), lambda kernel, x: kernel.warmup(x, "text", grid=GRID),
    lambda kernel, x: kernel.warmup(x, 2**64, grid=GRID), lambda kernel, x: kernel.run(x, 5, warmup=True),
])
def test_wrong_calls(call):
    pair, x = Pair(one), aligned()
    for _ in range(2):
        assert pair.lockstep(lambda kernel: call(kernel, x)).error is not None
        warm(pair, x, 5)


def test_truth_values():
    pair, x = Pair(one), aligned()
    for warmup in (1, 0, None, "yes", True, False):
        pair.run(x, 5, grid=GRID, warmup=warmup)
        pair.run(x, 5, grid=GRID, warmup=warmup)
    assert pair.lowlat.exits["binding"] == 8


def test_options_keywords_and_doors():
    pair, x = Pair(one), aligned()
    compiled = warm(pair, x, 5, num_warps=8, num_stages=2)
    before = pair.lowlat.exits
    for _ in range(2):
        for call in (lambda kernel: kernel.warmup(grid=GRID, x=x, n=5, num_warps=8, num_stages=2),
                     lambda kernel: kernel.warmup(x, num_warps=8, grid=None, n=5, num_stages=2),
                     lambda kernel: kernel.run(x, 5, grid=GRID, warmup=True, num_warps=8, num_stages=2),
                     lambda kernel: kernel.run(MockTensor(torch.float32), 5, warmup=True, num_warps=8, grid=GRID,
                                               num_stages=2)):
            assert pair.lockstep(call).result is compiled
    assert pair.lowlat.exits == before
    assert warm(pair, x, 5, num_stages=2, num_warps=8) is not compiled


def test_getters_are_asked_once(monkeypatch):
    """Device and stream by the driver's Python getters, though nothing is launched."""
    pair, active = Pair(one), driver.active
    monkeypatch.setattr(active, "get_current_device", lambda: observe("device") or 0)
    monkeypatch.setattr(active, "get_current_stream", lambda device: observe("stream", device) or 0)
    for kernel in (pair.triton, pair.lowlat):
        kernel.warmup(torch.float32, 5, grid=GRID)
    for _ in range(3):
        result = pair.lockstep(lambda kernel: kernel.warmup(torch.float32, 5, grid=GRID))
        assert result.observed == [("device", ), ("stream", 0)]
    assert pair.lowlat.exits == {"warmup": 1}


def test_devices():
    pair = Pair(one)
    for device in (0, 1, 0, 1):
        null.set_device(device)
        warm(pair, torch.float32, 5)
    assert [len(kernel.device_caches) for kernel in (pair.triton, pair.lowlat)] == [2, 2]
    assert pair.lowlat.exits == {"warmup": 2}


def test_live_state(monkeypatch):
    pair, x = Pair(one), aligned()
    warm(pair, x, 5)
    knobs.runtime.debug = True
    warm(pair, x, 5)
    knobs.runtime.debug = False
    warm(pair, x, 5)
    assert len(keys(pair)) == 2
    for kernel in (pair.triton, pair.lowlat):
        kernel.add_pre_run_hook(lambda *args, **kwargs: observe("pre-run", len(args), sorted(kwargs)))
    assert pair.lockstep(lambda kernel: kernel.warmup(x, 5, grid=GRID)).observed
    for kernel in (pair.triton, pair.lowlat):
        kernel.pre_run_hooks.clear()
        kernel.device_caches.clear()
    warm(pair, x, 5)
    assert pair.lowlat.exits["forgotten"] == 1


def test_globals(monkeypatch):
    pair, x = Pair(reads), aligned()
    warm(pair, x)
    monkeypatch.setitem(globals(), "SIZE", tl.constexpr(9))
    for _ in range(2):
        assert pair.lockstep(lambda kernel: kernel.warmup(x, grid=GRID)).error[0] is RuntimeError
    monkeypatch.undo()
    warm(pair, x)


def test_a_hook_that_declines():
    pair, x = Pair(one), aligned()
    knobs.runtime.jit_cache_hook = lambda **details: observe(details["repr"]) or True
    for _ in range(2):
        result = pair.lockstep(lambda kernel: kernel.warmup(x, 5, grid=GRID))
        assert result.result is None and result.observed
    knobs.runtime.jit_cache_hook = None
    warm(pair, x, 5)


def test_nothing_leaks():
    kernel, x, mock = lowlat.jit(one), aligned(), MockTensor(torch.float32)

    def work():
        for _ in range(100):
            kernel.warmup(x, 500, grid=GRID)
            kernel.warmup(torch.float32, 500, grid=None)
            kernel.run(mock, 500, grid=GRID, warmup=True)
            with pytest.raises(TypeError):
                kernel.warmup(x, grid=GRID)

    work()
    gc.collect()
    before = len(gc.get_objects()), *map(sys.getrefcount, (x, mock, kernel, kernel.warmup(x, 500, grid=None), None))
    work()
    gc.collect()
    after = len(gc.get_objects()), *map(sys.getrefcount, (x, mock, kernel, kernel.warmup(x, 500, grid=None), None))
    assert after[0] - before[0] < 20 and after[1:5] == before[1:5] and abs(after[5] - before[5]) < 60


def test_a_kernel_dropped_by_triton_is_not_kept():
    import weakref

    kernel = lowlat.jit(one)
    known = weakref.ref(kernel.warmup(torch.float32, 5, grid=GRID))
    kernel.warmup(torch.float32, 5, grid=GRID)
    kernel.device_caches.clear()
    gc.collect()
    assert known() is None


# ---- launched afterwards --------------------------------------------------------------------------------------------


def test_the_first_launch_is_tritons():
    """It loads the kernel; from then on launches are native, and so is warming up, with the same object."""
    pair, x = Pair(one), aligned()
    compiled = warm(pair, torch.float32, 5)
    result = pair.leaves("first call", GRID, x, 5)
    assert result.result is compiled and len(result.launches) == len(result.launches.loads) == 1
    assert pair.fast(GRID, x, 5).result is warm(pair, torch.float32, 7) is compiled
    assert [plan.route for plan in pair.lowlat.plans] == ["driver"]
    other = warm(pair, torch.float32, 5, num_warps=8)  # in between, of another kernel
    pair.fast(lambda meta: GRID, x, 5)
    before = pair.lowlat.exits
    assert pair.call(GRID, x, 5).result is compiled and warm(pair, x, 5, num_warps=8) is other
    assert pair.lowlat.exits == before


def test_warmed_up_in_turn():
    """Several kernels, warmed up, launched and dropped in every order."""
    pair, x = Pair(one), aligned()
    for order in itertools.permutations(("warm", "launch", "launch callable", "run", "drop", "forget"), 4):
        for what, n in itertools.product(order, (1, 5, 16)):
            if what == "warm":
                warm(pair, torch.float32, n)
            elif what == "launch":
                pair.call(GRID, x, n)
            elif what == "launch callable":
                pair.call(lambda meta: (meta["n"], ), x, n)
            elif what == "run":
                pair.run(x, n, grid=GRID, warmup=n == 1)
            elif what == "forget":
                pair.lowlat.forget()
            elif n == 16:
                for kernel in (pair.triton, pair.lowlat):
                    kernel.device_caches[0][0].clear()
    for n in (1, 5, 16):
        pair.fast(GRID, x, n)


def test_mocks_are_launched_as_tritons():
    """Null pointers, to both; never by what a warmup has learnt."""
    pair = Pair(one)
    warm(pair, MockTensor(torch.float32), 5)
    pair.fast(GRID, aligned(), 5)
    for _ in range(2):
        launch = pair.call(GRID, MockTensor(torch.float32), 5).launches[0]
        assert launch.parameters[0] == bytes(8)
        assert pair.call(GRID, torch.float32, 5).error[0] is TypeError


def test_out_of_resources():
    """Compiled, but too large to be loaded: warming up stays fast and launching fails each time."""
    pair, x = Pair(pipelined), aligned(dtype="float16")
    for options in ({"BLOCK": 64, "num_stages": 20}, {"BLOCK": 32, "num_warps": 64}):
        warm(pair, torch.float16, 16, **options)
        for grid in (GRID, lambda meta: GRID, GRID):
            result = pair.call(grid, x, 16, **options)
            assert result.error[0].__name__ == "OutOfResources" and not result.launches
            warm(pair, torch.float16, 16, **options)
            pair.lowlat.forget()
        warm(pair, torch.float16, 16, **options)
        assert {plan.route for plan in pair.lowlat.plans} == {"compiled"}


def pipelined(x, n, BLOCK: tl.constexpr):
    rows = tl.arange(0, BLOCK)
    at = x + rows[:, None] * BLOCK + rows[None, :]
    total = tl.zeros((BLOCK, BLOCK), tl.float32)
    for i in range(n):
        total += tl.dot(tl.load(at + i * 4096), tl.load(at + i * 8192))
    tl.store(at, total.to(tl.float16))


@pytest.mark.parametrize("name", ["cuModuleLoadData", "cuModuleGetFunction"])
def test_a_load_that_fails(name):
    pair, x = Pair(one), aligned()
    warm(pair, torch.float32, 5)
    result = pair.lockstep(lambda kernel: kernel[GRID](x, 5), before=lambda: null.fail(name, 700))
    assert result.error is not None
    null.fail("", 0, 0)
    warm(pair, torch.float32, 5)
    pair.fast(GRID, x, 5)


def test_the_compiled_kernel_itself():
    """`compiled[grid](...)` is Triton's; it takes three numbers, every argument, and gives nothing back."""
    pair, x = Pair(one), aligned()
    compiled = warm(pair, torch.float32, 5)
    result = pair.lockstep(lambda kernel: kernel.warmup(torch.float32, 5, grid=GRID)[(2, 3, 4)](x, 9))
    assert result.result is None and result.launches[0].grid == (2, 3, 4) and len(result.launches.loads) == 1
    assert pair.lockstep(lambda kernel: kernel.warmup(torch.float32, 5, grid=GRID)[GRID](x, 9)).error[0] is IndexError
    assert pair.call(GRID, x, 5).result is compiled  # Triton's: lowlat has not seen it launched
    pair.fast(GRID, x, 5)


def test_scratch_and_clusters():
    pair, x = Pair(makes_a_descriptor), aligned(4096)
    warm(pair, torch.float32, 64, 64, BLOCK=16)
    assert "no allocator was set" in pair.call(GRID, x, 64, 64, BLOCK=16).error[1]
    triton.set_allocator(lambda size, alignment, stream: 4096)
    try:
        pair.fast(GRID, x, 64, 64, BLOCK=16)
        warm(pair, torch.float32, 64, 64, BLOCK=16)
    finally:
        triton.set_allocator(triton.runtime._allocation.NullAllocator())
    pair = Pair(one)
    warm(pair, torch.float32, 5, num_ctas=2, launch_pdl=True)
    pair.fast(GRID, x, 5, num_ctas=2, launch_pdl=True)


def makes_a_descriptor(x, M, N, BLOCK: tl.constexpr):
    descriptor = tl.make_tensor_descriptor(x, [M, N], [N, 1], [BLOCK, BLOCK])
    descriptor.store([0, 0], descriptor.load([0, 0]) + 1.0)


# ---- around a kernel ------------------------------------------------------------------------------------------------


def tunable(x, n, C: tl.constexpr, D: tl.constexpr = 1):
    tl.store(x, n + C + D)


def test_tuners_and_heuristics():
    results = []
    for library in (triton, lowlat):
        configs = [library.Config({"C": 16}), library.Config({"C": 32}, num_warps=8)]
        kernel = library.jit(tunable)
        inner = library.heuristics({"D": lambda args: args["n"] + 1})(kernel)
        outer = library.autotune(configs, key=["n"])(library.jit(tunable))
        for _ in range(3):
            before = kernel.exits if library is lowlat else None
            results.append([outcome(lambda: inner.warmup(torch.float32, 5, C=16, grid=GRID)),
                            outcome(lambda: outer.warmup(torch.float32, 5, grid=GRID))])
        assert library is triton or kernel.exits == before
    for expected, actual in zip(results[:3], results[3:]):
        Pair.compare(expected[0], actual[0])
        assert expected[1].error == actual[1].error and len(actual[1].result) == 2
        for theirs, ours in zip(expected[1].result, actual[1].result):
            assert theirs.asm["cubin"] == ours.asm["cubin"]
    assert results[4][0].result is results[5][0].result and results[4][1].result == results[5][1].result


# ---- asynchronously -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def compiling_later(**options):
    try:
        with concurrent.futures.ThreadPoolExecutor(1) as executor, AsyncCompileMode(executor, **options):
            yield
    finally:
        active_mode.set(None)  # (Triton leaves a mode in which something failed in force)


def separately(pair, calls):
    """`calls(kernel)` yields outcomes in a mode of the kernel's own; compared one by one."""
    outcomes = [list(calls(kernel)) for kernel in (pair.triton, pair.lowlat)]
    for expected, actual in zip(*outcomes, strict=True):
        assert (expected.error, list(expected.launches), type(expected.result)) == (
            actual.error, list(actual.launches), type(actual.result))
    return outcomes[1]


def test_asynchronous_compilation():
    pair, x = Pair(one), aligned()

    def calls(kernel):
        with compiling_later():
            yield outcome(lambda: kernel.warmup(torch.float32, 5, grid=GRID))
            yield outcome(lambda: kernel.warmup(x, 5, grid=GRID))
            yield outcome(lambda: kernel.run(x, 16, grid=GRID, warmup=True))
            yield outcome(lambda: kernel[GRID](x, 5))
            yield outcome(lambda: kernel.warmup(torch.float32, 5, grid=GRID))
        for _ in range(2):
            yield outcome(lambda: kernel.warmup(torch.float32, 5, grid=GRID))
            yield outcome(lambda: kernel.warmup(torch.float32, 16, grid=GRID))

    results = separately(pair, calls)
    assert type(results[0].result).__name__ == "FutureKernel" and len(results[3].launches) == 1
    assert [type(result.result).__name__ for result in results[-4:]] == ["CompiledKernel"] * 4
    warm(pair, torch.float32, 5), warm(pair, torch.float32, 16)
    for n in (5, 16):
        pair.fast(GRID, x, n)
    keys(pair)


def test_asynchronous_mode_around_known_kernels():
    """What is compiled already comes from the cache, mode or not."""
    pair, x = Pair(one), aligned()
    compiled = warm(pair, torch.float32, 5)
    before = pair.lowlat.exits
    with compiling_later():
        assert pair.lockstep(lambda kernel: kernel.warmup(torch.float32, 5, grid=GRID)).result is compiled
    assert pair.lowlat.exits == before
    pair.fast(GRID, x, 5)


def does_not_compile(x, n):
    tl.store(x, n + not_there)  # noqa: F821


@pytest.mark.parametrize("ignore_errors", [False, True])
def test_asynchronous_compilation_that_fails(ignore_errors):
    pair = Pair(does_not_compile)

    def calls(kernel):
        with contextlib.suppress(Exception), compiling_later(ignore_errors=ignore_errors):
            yield outcome(lambda: kernel.warmup(torch.float32, 5, grid=GRID))
        for _ in range(2):
            yield outcome(lambda: type(kernel.warmup(torch.float32, 5, grid=GRID)))

    separately(pair, calls)


# ---- preloaded ------------------------------------------------------------------------------------------------------


def specialization_data(function, *args, **kwargs):
    """As a jit hook of a user's gets it, to be kept in a file."""
    data = []
    knobs.runtime.jit_cache_hook = lambda **details: data.append(
        details["compile"]["specialization_data"] if "specialization_data" in details["compile"]
        else details["fn"].jit_function) and False
    try:
        triton.jit(function).warmup(*args, grid=GRID, **kwargs)
    finally:
        knobs.runtime.jit_cache_hook = None
    assert len(data) == 1
    return data[0]


def test_preload():
    pair, x = Pair(value), aligned()
    data = specialization_data(value, torch.float32, 16, num_warps=8)
    compiled = pair.lockstep(lambda kernel: kernel.preload(data)).result
    # (The key it was compiled under has the options of that call.)
    assert warm(pair, torch.float32, 16, num_warps=8) is compiled and len(keys(pair)) == 1
    knobs.runtime.jit_cache_hook = lambda **details: observe("compiled", details["repr"]) or False
    result = pair.call(GRID, x, 16, num_warps=8)
    assert result.result is compiled and not result.observed and len(result.launches) == 1
    pair.fast(GRID, x, 16, num_warps=8)
    assert pair.call(GRID, x, 16).observed


def test_preload_of_something_else():
    pair = Pair(value)
    data = specialization_data(one, torch.float32, 5)
    assert "trying to preload for" in pair.lockstep(lambda kernel: kernel.preload(data)).error[1]
    details = json.loads(specialization_data(value, torch.float32, 16))
    if _triton.VERSION >= (3, 7):
        details["target"]["arch"] = 70
        assert "trying to preload for" in pair.lockstep(lambda kernel: kernel.preload(json.dumps(details))).error[1]
    warm(pair, torch.float32, 16)


# ---- on AMD ---------------------------------------------------------------------------------------------------------


def test_mocks_on_amd():
    """A mock has its 32 bits, a tensor may not."""
    import hip
    from test_generated import storages

    pair = hip.HipPair(pointers)
    driver.set_active(hip.make_driver())
    large, small = storages()[1], storages()[5]
    compiled = warm(pair, torch.int8, MockTensor(torch.int8))
    assert warm(pair, small, torch.int8) is compiled and warm(pair, torch.int8, large) is not compiled
    with knobs.amd.scope():
        knobs.amd.use_buffer_ops = False
        assert warm(pair, torch.int8, small) is not compiled
    assert [key.count("'DS'") for key in keys(pair)] == [2, 1, 0]
    pair.fast(GRID, small, small)
    for kernel in (pair.triton, pair.lowlat):
        for compiled in kernel.device_caches[0][0].values():
            compiled.module = None  # or it would be unloaded from CUDA's driver
