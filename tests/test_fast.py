"""The native path on the null driver: every launch it makes is Triton's launch, byte for byte."""

import ctypes
import gc
import itertools
import struct
import sys
from collections import Counter

import pytest
import triton
import triton.language as tl
from triton import knobs

import lowlat
from lowlat import _fast, null
from oracle import Pair, aligned, changed, observe, outcome, torch, unaligned

pytestmark = pytest.mark.null


def one(x, n):
    tl.store(x, n)


def mixed(x, y, n, m, f, flag, BLOCK: tl.constexpr, MODE: tl.constexpr = "plain", SCALE: tl.constexpr = 1.0):
    if flag:
        tl.store(x, tl.load(y) * f + n + m + BLOCK)


def two_scalars(x, n, m):
    tl.store(x, n + m)


def nothing():
    pass


def value(x, V: tl.constexpr):
    tl.store(x, 1)


def defaults(x, n=5, m=7, BLOCK: tl.constexpr = 16):
    tl.store(x, n + m + BLOCK)


def pointers(a, b, c):
    tl.store(a, 1)


GRID = (3, )

# ---- specialisation -------------------------------------------------------------------------------------------------

INTS = [
    0, 1, 2, 3, 8, 15, 16, 17, 32, -1, -15, -16, -17, 2**30 - 1, 2**30, 2**31 - 16, 2**31 - 1, 2**31, 2**31 + 16,
    -2**31, -2**31 - 1, 2**32, 2**62, 2**63 - 1, 2**63 - 16, 2**63, 2**63 + 16, 2**64 - 16, 2**64 - 1, -2**63
]


@pytest.mark.parametrize("n", INTS)
def test_int(n):
    Pair(one).fast(GRID, aligned(dtype="int64"), n)


def test_ints_in_sequence():
    """One kernel object, every class of int after every other: 1 is not passed, 2**31 is twice as long, ..."""
    pair, x = Pair(two_scalars), aligned(dtype="int64")
    for n, m in itertools.islice(itertools.product(INTS[:12], INTS[::3]), None):
        pair.call(GRID, x, n, m)
    for n, m in itertools.product(INTS[:12], INTS[::3]):
        before = pair.lowlat.exits
        pair.call(GRID, x, n, m)
        assert pair.lowlat.exits == before


@pytest.mark.parametrize("f", [0.0, -0.0, 1.0, 1.5, 1e300, -1e-300, float("inf"), float("nan"), 1e-45])
def test_float(f):
    Pair(one).fast(GRID, aligned(), f)


@pytest.mark.parametrize("flag", [True, False])
def test_bool(flag):
    Pair(one).fast(GRID, aligned(dtype="bool"), flag)


def test_one_true_and_float_one_are_three_kernels():
    # 1 | True, False | 1.0, 0.0 | 2 | 0
    pair, x = Pair(one), aligned()
    for n in (1, True, 1.0, 2, False, 0, 0.0, 1, True, 1.0):
        pair.call(GRID, x, n)
    assert pair.lowlat.exits == {"first call": 5}


DTYPES = [
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
    "uint64", "bool", "float8_e4m3fn", "float8_e5m2"
]


@pytest.mark.torch
@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    pair = Pair(pointers)
    pair.fast(GRID, aligned(), aligned(dtype=dtype), unaligned(dtype=dtype))


@pytest.mark.torch
def test_unsupported_dtype_is_tritons_key_error():
    pair = Pair(pointers)
    for _ in range(2):
        assert pair.call(GRID, aligned(dtype=torch.complex64), aligned(), aligned()).error[0] is KeyError


@pytest.mark.torch
def test_parameter_and_requires_grad():
    pair = Pair(pointers)
    pair.fast(GRID, torch.nn.Parameter(torch.ones(64)), torch.ones(64, requires_grad=True), torch.ones(64))


@pytest.mark.parametrize("options", [
    {"do_not_specialize": ["n"]}, {"do_not_specialize": [1, "m"]}, {"do_not_specialize_on_alignment": ["n", "x"]},
    {"do_not_specialize": ["x"], "do_not_specialize_on_alignment": ["m"]}
], ids=str)
def test_do_not_specialize(options):
    pair = Pair(two_scalars, **options)
    tensors = (aligned(dtype="int64"), unaligned(dtype="int64"))
    for _ in range(2):
        for x, n, m in itertools.product(tensors, (1, 2, 16, 2**31), (1, 3, 32)):
            before = pair.lowlat.exits
            pair.call(GRID, x, n, m)
    assert pair.lowlat.exits == before


# ---- constexprs and options -----------------------------------------------------------------------------------------

VALUES = [0, 1, True, 1.0, 0.0, -0.0, False, None, "x", "y", "", "ab" * 40, 2**40, -5, 2**63, float("inf"), tl.float16,
          tl.float32, *([torch.float16] if torch else [])]


@pytest.mark.parametrize("v", VALUES, ids=repr)
def test_constexpr(v):
    Pair(value).fast(GRID, aligned(), v)


@pytest.mark.parametrize("order", [VALUES, VALUES[::-1]], ids=["forwards", "backwards"])
def test_constexprs_in_sequence(order):
    """1, True and 1.0 share one kernel in Triton, whichever came first: the returned kernels must agree."""
    pair, x = Pair(value), aligned()
    for _ in range(2):
        for v in order:
            pair.call(GRID, x, v)
    caches = pair.triton.device_caches[0][0], pair.lowlat.device_caches[0][0]
    assert list(caches[0]) == list(caches[1])


def test_equal_strings_that_are_different_objects():
    pair, x = Pair(value), aligned()
    pair.fast(GRID, x, "mode-a")
    before = pair.lowlat.exits
    for _ in range(3):
        pair.call(GRID, x, "".join(["mode", "-", "a"]))
    assert pair.lowlat.exits == before
    pair.call(GRID, x, "".join(["mode", "-", "b"]))
    assert changed(before, pair.lowlat.exits) == {"first call": 1}


class Hashed:

    def __hash__(self):
        return 5


@pytest.mark.parametrize("v", [Hashed(), frozenset((1, 2)), [1]], ids=repr)
def test_constexprs_left_to_triton(v):
    pair, x = Pair(value), aligned()
    pair.call(GRID, x, 1)
    pair.leaves("constexpr", GRID, x, v)


@pytest.mark.parametrize("options, attributes", [({"num_ctas": 2}, [4, 5]), ({"launch_pdl": True}, [6]),
                                                 ({"launch_cooperative_grid": True}, [2]),
                                                 ({"launch_pdl": True, "num_ctas": 4}, [6, 4, 5]),
                                                 ({"num_ctas": 16}, [4, 5])], ids=repr)
def test_launch_attributes(options, attributes):
    pair = Pair(one)
    launches = pair.fast(GRID, aligned(), 5, **options).launches
    assert [number for number, _ in launches[0].attributes] == attributes
    assert pair.lowlat.plans[0].route == "driver"


def big_shared(x, BLOCK: tl.constexpr):
    rows = tl.arange(0, BLOCK)
    a = tl.load(x + rows[:, None] * BLOCK + rows[None, :])
    for _ in range(4):
        a = tl.dot(a, a).to(tl.float16)
    tl.store(x + rows[:, None] * BLOCK + rows[None, :], a)


@pytest.mark.torch
def test_shared_memory():
    launches = Pair(big_shared).fast(GRID, aligned(dtype=torch.float16), BLOCK=128).launches
    assert launches[0].shared > 48 * 1024 // 2


# ---- binding --------------------------------------------------------------------------------------------------------


def test_dynamic_keyword_names():
    """Keyword names that are not interned strings bind by value."""
    pair, x = Pair(defaults), aligned()
    pair.fast(GRID, x, n=3)
    before = pair.lowlat.exits
    pair.call(GRID, x, **{"".join(["", "n"]): 3, "".join(["BLO", "CK"]): 16})
    assert pair.lowlat.exits == before


@pytest.mark.parametrize("args, kwargs", [((), {}), ((1, ), {}), ((1, 2, 3), {}), ((1, 2), {"n": 3}), ((), {"n": 3}),
                                          ((1, 2), {"grid": (1, )}), ((1, 2), {"warmup": True}), ((1, 2), {"self": 1}),
                                          ((1, ), {"N": 2})], ids=repr)
def test_arguments_that_do_not_bind(args, kwargs):
    pair = Pair(one)
    pair.fast(GRID, aligned(), 5)
    launched = null.launches()
    args = (aligned(), *args[1:]) if args else ()
    for _ in range(2):
        assert pair.call(GRID, *args, **kwargs).error is not None
    assert null.launches() == launched
    pair.fast(GRID, aligned(), 5)


@pytest.mark.parametrize("argument", ["text", b"x", 1j, [1], {}, (1, "text"), object(), tl.float32, int,
                                      *([torch.float32] if torch else [])], ids=repr)
def test_arguments_of_other_types(argument):
    pair = Pair(one)
    pair.fast(GRID, aligned(), 5)
    pair.leaves("argument", GRID, aligned(), argument)
    pair.fast(GRID, aligned(), 5)


class Wrapped:
    """Anything with data_ptr and dtype is a pointer to Triton."""

    def __init__(self, tensor):
        self.tensor, self.dtype = tensor, tensor.dtype

    def data_ptr(self):
        return self.tensor.data_ptr()


@pytest.mark.torch
def test_objects_with_data_ptr_are_left_to_triton():
    Pair(pointers).leaves("argument", GRID, Wrapped(aligned()), aligned(), aligned())


def many(count):
    """A kernel of `count` parameters: pointers, ints and constexprs in turn."""
    names = [f"p{i}" if i % 3 == 0 else f"n{i}" if i % 3 == 1 else f"C{i}: tl.constexpr" for i in range(count)]
    return f"def kernel_{count}({', '.join(names)}):\n    pass\n"


@pytest.mark.parametrize("count", [0, 1, 31, 64, 65, 129, 300])
def test_no_cap_on_parameters(count, tmp_path):
    path = tmp_path / "many.py"
    path.write_text("import triton.language as tl\n" + many(count))
    namespace = {}
    exec(compile(path.read_text(), str(path), "exec"), namespace)
    arguments = [aligned() if i % 3 == 0 else i if i % 3 == 1 else 7 for i in range(count)]
    pair = Pair(namespace[f"kernel_{count}"])
    pair.fast(GRID, *arguments)
    half = count // 2
    names = pair.lowlat.arg_names
    pair.fast(GRID, *arguments[:half], **dict(zip(names[half:], arguments[half:])))

    def grid(meta):
        observe([(name, number) for name, number in meta.items() if type(number) is int])
        return (len(meta) + 1, )

    for i in range(3):
        pair.fast(grid, *[number + 16 * i if type(number) is int and number > 1 else number for number in arguments])
        pair.fast(grid, *arguments)


# ---- annotations ----------------------------------------------------------------------------------------------------


def annotated_i32(x, n: int):
    tl.store(x, n)


def annotated_i8(x, n: tl.int8):
    tl.store(x, n)


def annotated_u8(x, n: "uint8"):  # noqa: F821
    tl.store(x, n)


def annotated_i16(x, n: tl.int16):
    tl.store(x, n)


def annotated_i64(x, n: tl.int64):
    tl.store(x, n)


def annotated_u32(x, n: tl.uint32):
    tl.store(x, n)


def annotated_u64(x, n: tl.uint64):
    tl.store(x, n)


def annotated_fp32(x, n: float):
    tl.store(x, n)


def annotated_fp64(x, n: tl.float64):
    tl.store(x, n)


def annotated_fp16(x, n: tl.float16):
    tl.store(x, n)


def annotated_bf16(x, n: tl.bfloat16):
    tl.store(x, n)


@pytest.mark.parametrize("function", [
    annotated_i8, annotated_u8, annotated_i16, annotated_i32, annotated_i64, annotated_u32, annotated_u64,
    annotated_fp16, annotated_bf16, annotated_fp32, annotated_fp64
], ids=lambda f: f.__name__)
@pytest.mark.parametrize("dns", [(), ("n", )], ids=["", "do_not_specialize"])
def test_annotated_numbers(function, dns):
    """Every value, in one sequence: same bytes or same error; the wide ones are Triton's to refuse or truncate."""
    pair, x = Pair(function, do_not_specialize=dns), aligned()
    for n in [*INTS, 127, 128, 255, 256, -128, -129, 65535, 65536, 2**64, True, False, 0.5, -0.0, 70000.0, 1e300,
              float("nan"), None, "x"]:
        pair.call(GRID, x, n)
        pair.call(GRID, x, n)
    pair.fast(GRID, x, 5 if "fp" not in function.__name__ and "bf" not in function.__name__ else 0.5)


# ---- grids ----------------------------------------------------------------------------------------------------------


def test_callable_grid_that_raises_or_installs_a_hook():
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)

    def broken(meta):
        raise LookupError("no grid today")

    assert pair.call(broken, x, 5).error == (LookupError, "no grid today")
    seen = []

    def installs(meta):
        knobs.runtime.launch_enter_hook.add(seen.append)
        return GRID

    try:
        pair.call(installs, x, 5)
        assert len(seen) == 2  # one launch of each
    finally:
        knobs.runtime.launch_enter_hook.remove(seen.append)


def test_launchers_are_values():
    """Two launchers of one kernel coexist, compare and die like Triton's closures."""
    kernel = lowlat.jit(one)
    first, second = kernel[(1, )], kernel[(2, )]
    first(aligned(), 5)
    with null.record() as launches:
        second(aligned(), 5)
        first(aligned(), 5)
    assert [launch.grid[0] for launch in launches] == [2, 1]
    assert callable(first) and first != second and "launcher" in repr(first)


# ---- the run door ---------------------------------------------------------------------------------------------------


def test_run():
    pair, x = Pair(defaults), aligned()
    pair.run(x, 3, grid=GRID, warmup=False)
    before = pair.lowlat.exits
    pair.run(x, 3, grid=GRID, warmup=False)
    pair.run(x, grid=lambda meta: (meta["n"], ), warmup=False, n=3)
    pair.run(warmup=False, grid=[4], x=x, n=3)
    assert pair.lowlat.exits == before
    pair.run(x, 3, grid=GRID, warmup=False, num_warps=8, num_stages=2)
    assert pair.run(x, 3, warmup=False).error[0] is TypeError
    assert pair.run(x, 3, grid=GRID).error[0] is TypeError
    pair.run(x, 3, grid=GRID, warmup=0)
    pair.run(x, 3, grid=GRID, warmup=1)
    assert pair.run(grid=GRID, warmup=False).error[0] is TypeError


def test_both_doors_share_plans():
    kernel, x = lowlat.jit(one), aligned()
    assert kernel[GRID](x, 5) is kernel.run(x, 5, grid=GRID, warmup=False)
    assert kernel.exits == {"first call": 1}


def test_autotune_and_heuristics():
    def build(jit):
        kernel = jit(defaults)
        kernel = triton.heuristics({"m": lambda args: args["n"] + 1})(kernel)
        configs = [triton.Config({"BLOCK": 16}), triton.Config({"BLOCK": 32}, num_warps=8)]
        return triton.autotune(configs, key=["n"])(kernel)

    kernels = [build(triton.jit), build(lowlat.jit)]
    x = aligned()
    results = []
    for kernel in kernels:
        kernel[GRID](x, n=3)
        results.append(outcome(lambda kernel=kernel: kernel[GRID](x, n=3)))
    Pair.compare(*results)
    inner = kernels[1].fn.fn
    assert isinstance(inner, lowlat.JITFunction)
    before = inner.exits
    kernels[1][lambda meta: (meta["BLOCK"], )](x, n=3)
    assert inner.exits == before


# ---- globals --------------------------------------------------------------------------------------------------------


class Forgetful:
    """A global whose comparison drops everything the kernel has learnt."""

    kernel = None

    def __deepcopy__(self, memo):
        return self

    def __ne__(self, other):
        if self.kernel is not None:
            self.kernel.forget()
            self.kernel.device_caches.clear()
        return False

    __hash__ = None


FORGETFUL = Forgetful()


def test_a_global_whose_comparison_forgets_the_plan():
    """Nothing borrowed may be in use while Python code runs."""
    kernel, x = lowlat.jit(reads_a_plain_global), aligned()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knobs.compilation, "allow_non_constexpr_globals", True)
        for _ in range(2):
            kernel[GRID](x)
        namespace = vars(sys.modules[__name__])
        kernel.used_global_vals = {("FORGETFUL", id(namespace)): (FORGETFUL, namespace)}
        FORGETFUL.kernel = kernel
        try:
            for _ in range(20):
                with null.record() as launches:
                    kernel[GRID](x)
                assert len(launches) == 1
        finally:
            FORGETFUL.kernel = None


def test_a_keyword_dict_that_changes_during_the_launch():
    """PyObject_Call from C may pass a dict that somebody else changes."""

    call = ctypes.pythonapi.PyObject_Call
    call.restype, call.argtypes = ctypes.py_object, [ctypes.py_object] * 3
    kernel = lowlat.jit(two_scalars)
    kernel[GRID](aligned(), 10**15 + 1, 3)

    def grid(meta):
        named.clear()
        gc.collect()
        return GRID

    for _ in range(20):
        named = {"x": aligned(), "n": int("1000000000000007"), "m": 3}
        with null.record() as launches:
            call(kernel[grid], (), named)
        assert int.from_bytes(launches[0].parameters[1], "little") == 10**15 + 7
        assert not named


LIMITS = 7.0


def reads_a_plain_global(x):
    tl.store(x, LIMITS)


# ---- live state -----------------------------------------------------------------------------------------------------


def test_debug_of_the_kernel():
    pair, x = Pair(one, debug=True), aligned()
    pair.fast(GRID, x, 5)
    pair.triton.debug = pair.lowlat.debug = False
    pair.fast(GRID, x, 5)
    assert list(pair.triton.device_caches[0][0]) == list(pair.lowlat.device_caches[0][0])


def test_nothing_leaks():
    """Objects per launch: none, on either route, also where the launch leaves or fails."""
    kernel, x = lowlat.jit(one), aligned()
    wrapper = lowlat.jit(one)
    wrapper.route = "wrapper"

    def work():
        for _ in range(50):
            kernel[GRID](x, 500)
            kernel[lambda meta: GRID](x, n=500)
            wrapper[GRID](x, 500)
            kernel.run(x, 500, grid=GRID, warmup=False)
            with pytest.raises(TypeError):
                kernel[GRID](x)

    work()
    gc.collect()
    before = len(gc.get_objects()), sys.getrefcount(x), sys.getrefcount(None), sys.getrefcount(kernel)
    work()
    gc.collect()
    after = len(gc.get_objects()), sys.getrefcount(x), sys.getrefcount(None), sys.getrefcount(kernel)
    assert after[0] - before[0] < 20
    assert after[1] == before[1] and after[3] == before[3]
    assert abs(after[2] - before[2]) < 60


def test_failed_launches():
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    for code in (1, 400, 700, 701, 719):
        for kernel in (pair.triton, pair.lowlat):
            null.fail("cuLaunchKernelEx", code)
            result = outcome(lambda kernel=kernel: kernel[GRID](x, 5))
            assert result.error == (RuntimeError, f"Triton Error [CUDA]: {_text(code)}") and not result.launches
        before = pair.lowlat.exits
        pair.fast(GRID, x, 5)
        assert pair.lowlat.exits == before


def _text(code):
    return {1: "invalid argument", 400: "invalid resource handle", 700: "an illegal memory access was encountered",
            701: "too many resources requested for launch", 719: "unspecified launch failure"}[code]


def test_failed_cluster_attribute():
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5, num_ctas=16)
    for kernel in (pair.triton, pair.lowlat):
        null.fail("cuFuncSetAttribute", 1)
        result = outcome(lambda kernel=kernel: kernel[GRID](x, 5, num_ctas=16))
        assert result.error == (RuntimeError, "Triton Error [CUDA]: invalid argument")


def test_a_context_that_is_gone():
    """Found by the generated calls: the driver's code for it is the one for having none, which Triton mends."""
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    for grid in (GRID, lambda meta: GRID):
        result = pair.lockstep(lambda kernel: kernel[grid](x, 5), before=lambda: null.fail("cuLaunchKernelEx", 201))
        assert result.error == (RuntimeError, "Triton Error [CUDA]: invalid device context")
    pair.fast(GRID, x, 5)


# ---- routes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["driver", "wrapper", "auto"])
def test_routes(route):
    pair, x, y = Pair(mixed), aligned(), unaligned()
    pair.lowlat.route = route
    for arguments in ((3, 32, 0.5, True), (1, 2**31, float("nan"), False), (-5, 2**63, -0.0, True)):
        pair.fast((2, 3, 4), x, y, *arguments, BLOCK=64)
    pair.fast(GRID, x, y, 3, 4, 0.5, True, BLOCK=64, num_ctas=2)
    expected = "wrapper" if route == "wrapper" else "driver"
    assert {plan.route for plan in pair.lowlat.plans} == {expected}


def test_route_is_checked():
    with pytest.raises(ValueError, match="'fastest', must be 'auto', 'driver', 'graph', 'wrapper' or None"):
        lowlat.jit(one).route = "fastest"


PLANS = 4096  # how many a kernel keeps


def nan(payload):
    """Different for lowlat, which goes by the bits, and one kernel for Triton, which goes by the text."""
    return struct.unpack("d", struct.pack("Q", 0x7FF8 << 48 | payload))[0]


def test_a_forgotten_plan_is_replaced():
    """By what Triton makes next; nothing is left of it."""
    pair, x = Pair(value), aligned()
    for _ in range(3):
        pair.fast(GRID, x, 5)
        for kernel in (pair.triton, pair.lowlat):
            kernel.device_caches[0][0].clear()
    pair.fast(GRID, x, 6)
    pair.fast(GRID, x, 5)
    assert len(pair.lowlat.plans) == 2 and pair.lowlat.exits == {"first call": 2, "forgotten": 3}


def count_plans():
    return sum(type(item) is _fast.Plan for item in gc.get_objects())


def test_plans_are_bounded():
    """Ever new specialisations: the least used make room, one at a time; those in use stay."""
    pair, x = Pair(value), aligned()
    kernel = pair.lowlat
    pair.fast(GRID, x, 5)
    compiled = kernel[GRID](x, nan(0))
    elsewhere = count_plans()
    for i in range(1, 2 * PLANS + 1000):
        assert kernel[GRID](x, nan(i)) is compiled
        before = kernel.exits
        if i % 5 == 0:
            assert kernel[GRID](x, nan(i - min(i, 500))) is compiled  # not long ago
        if i % 1000 == 0:
            pair.call(GRID, x, 5)  # again and again
        assert kernel.exits == before, i
    assert len(kernel.plans) == len(set(kernel.plans)) == PLANS
    assert count_plans() <= elsewhere + PLANS
    kernel[GRID](x, nan(1))
    assert kernel.exits == {"first call": 2 * PLANS + 1002}
    kernel.forget()
    assert kernel.plans == []
    pair.fast(GRID, x, 5)
    pair.fast(GRID, x, 6)
    assert len(kernel.plans) == 2


def test_fingerprints_with_one_hash():
    """Two specialisations that a table looks for in the same place are two."""
    pair, x = Pair(value), aligned()
    pair.fast(GRID, x, 5)
    parts = _fast.fingerprint_of(pair.lowlat, (x, 0x0123456789), {}).split((0x0123456789).to_bytes(8, "little"))
    known = {}
    for v in itertools.count():
        other = known.setdefault(_fast.hash_of_fingerprint(v.to_bytes(8, "little").join(parts)), v)
        if other != v:
            break
    hashes = [_fast.hash_of_fingerprint(_fast.fingerprint_of(pair.lowlat, (x, n), {})) for n in (v, other)]
    assert hashes[0] == hashes[1]
    for _ in range(3):
        for n in (v, 5, 6, other, 7, 8):
            pair.call(GRID, x, n)
    assert pair.lowlat.exits == {"first call": 6}


def test_strings_are_told_apart_for_ever():
    """By numbers.  One that has been forgotten gets a new number, and no number goes to another string."""
    kernel, x = lowlat.jit(value), aligned()

    def fingerprint(text):
        return _fast.fingerprint_of(kernel, (x, text), {})

    often = fingerprint("often")
    texts = [f"string {i}" for i in range(3 * PLANS)]
    seen = {often}
    for text in texts:
        seen.add(fingerprint(text))
        assert fingerprint("often") == often
    assert len(seen) == 1 + len(texts)
    again = [fingerprint(text) for text in texts]
    assert again[0] not in seen and len({*again, often}) == 1 + len(texts)
    held = Counter(sys.getrefcount(text) for text in texts)
    assert held[min(held)] >= len(texts) - 2 * PLANS


def test_strings_of_a_kernel_are_launched_right():
    pair, x = Pair(value), aligned()
    for text in ("a", "b"):
        pair.fast(GRID, x, text)
    for i in range(3 * PLANS):
        _fast.fingerprint_of(pair.lowlat, (x, f"string {i}"), {})
    for text in ("b", "a", "c", "a", "b"):
        pair.fast(GRID, x, "".join([text, ""]))


def test_shapes_of_calls_by_turns():
    """More shapes of call than are compared one by one."""
    pair, x = Pair(defaults), aligned()
    calls = [((x, 3, 5), {}), ((x, 3), {"m": 5}), ((x, ), {"m": 5, "n": 3}), ((x, ), {"n": 3, "m": 5}),
             ((), {"x": x, "n": 3, "m": 5}), ((), {"n": 3, "x": x, "m": 5}), ((x, 3, 5, 32), {}),
             ((x, 3, 5), {"BLOCK": 32}), ((x, 3), {"BLOCK": 32, "m": 5}), ((x, 3, 5), {"num_warps": 2}),
             ((x, 3), {"num_warps": 2}), ((x, 3), {})]
    for _ in range(3):
        before = pair.lowlat.exits
        for args, kwargs in calls:
            pair.call(GRID, *args, **kwargs)
            pair.run(*args, grid=GRID, warmup=False, **kwargs)
    assert pair.lowlat.exits == before


def test_shapes_of_calls_are_bounded():
    """Ever new keyword names: refused each time in Triton's words, and nothing mixed up afterwards."""
    pair, x = Pair(one), aligned()
    for i in range(600):
        with pytest.raises(KeyError):
            pair.lowlat[GRID](x, 5, **{f"option_{i}": i})
    for options in ({"num_warps": 8}, {"num_stages": 2}, {}, {"num_warps": 2, "num_stages": 3}):
        pair.fast(GRID, x, 5, **options)


def test_knobs_of_unknown_types(monkeypatch):
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    monkeypatch.setattr(knobs.compilation, "instrumentation_mode", [])
    pair.leaves("knob", GRID, x, 5)
    monkeypatch.undo()
    pair.fast(GRID, x, 5)
