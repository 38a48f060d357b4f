"""The native path on the null driver: every launch it makes is Triton's launch, byte for byte."""

import ctypes
import enum
import gc
import itertools
import sys
import threading
import weakref

import pytest
import triton
import triton.language as tl
from triton import knobs
from triton.runtime import driver

import lowlat
from lowlat import _fast, _torch, null
from oracle import Pair, address, aligned, changed, outcome, torch, unaligned

pytestmark = pytest.mark.null


def one(x, n):
    tl.store(x, n)


def mixed(x, y, n, m, f, flag, BLOCK: tl.constexpr, MODE: tl.constexpr = "plain", SCALE: tl.constexpr = 1.0):
    if flag:
        tl.store(x, tl.load(y) * f + n + m + BLOCK)


def two_scalars(x, n, m):
    tl.store(x, n + m)


def optional(x, y, n):
    if y is not None:
        tl.store(x, tl.load(y) + n)
    else:
        tl.store(x, n)


def only_constexpr(A: tl.constexpr):
    pass


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


@pytest.mark.parametrize("n", [2**64, -2**63 - 1, 10**40])
def test_int_beyond_64_bits(n):
    pair = Pair(one)
    pair.fast(GRID, aligned(), 5)
    assert pair.leaves("argument", GRID, aligned(), n).error[0] is OverflowError
    pair.fast(GRID, aligned(), 5)


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


def test_none_and_tensor_alternate():
    pair, x, y = Pair(optional), aligned(), aligned()
    for other in (None, y, None, y):
        pair.call(GRID, x, other, 3)
    assert pair.lowlat.exits == {"first call": 2}


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
def test_dtypes_alternate():
    pair = Pair(pointers)
    for _ in range(2):
        for dtype in DTYPES[:8]:
            pair.call(GRID, aligned(), aligned(dtype=dtype), aligned())
    assert pair.lowlat.exits == {"first call": 8}


@pytest.mark.torch
def test_unsupported_dtype_is_tritons_key_error():
    pair = Pair(pointers)
    for _ in range(2):
        assert pair.call(GRID, aligned(dtype=torch.complex64), aligned(), aligned()).error[0] is KeyError


def test_alignment_alternates():
    pair = Pair(pointers)
    x, y = aligned(), unaligned()
    for a, b, c in itertools.product((x, y), repeat=3):
        pair.call(GRID, a, b, c)
    assert pair.lowlat.exits == {"first call": 8}
    for a, b, c in itertools.product((x, y), repeat=3):
        pair.call(GRID, a, b, c)
    assert pair.lowlat.exits == {"first call": 8}


@pytest.mark.torch
def test_the_same_tensor_with_other_storage():
    pair, x = Pair(pointers), aligned()
    pair.fast(GRID, x, aligned(), aligned())
    x.set_(unaligned())
    pair.call(GRID, x, aligned(), aligned())
    x.resize_(100000)
    pair.call(GRID, x, aligned(), aligned())


@pytest.mark.torch
def test_empty_tensors_are_null():
    pair, base = Pair(pointers), aligned()
    for empty in (torch.empty(0), base[10:10], base[1:1]):
        launches = pair.fast(GRID, aligned(), empty, aligned()).launches
        assert launches[0].parameters[1] == bytes(8)


@pytest.mark.torch
def test_parameter_and_requires_grad():
    pair = Pair(pointers)
    pair.fast(GRID, torch.nn.Parameter(torch.ones(64)), torch.ones(64, requires_grad=True), torch.ones(64))


@pytest.mark.torch
def test_copy_on_write_is_materialised():
    original = torch.ones(64)
    lazy = torch._lazy_clone(original)
    kernel = lowlat.jit(pointers)
    kernel[GRID](aligned(), aligned(), aligned())
    kernel[GRID](lazy, aligned(), aligned())
    assert not torch._C._is_cow_tensor(lazy)
    assert lazy.data_ptr() != original.data_ptr()


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


def test_do_not_specialize_shares_a_plan():
    pair = Pair(two_scalars, do_not_specialize=["n"])
    for n in (1, 2, 16, 17):
        pair.call(GRID, aligned(), n, 3)
    assert pair.lowlat.exits == {"first call": 1}


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


def test_nan_constexpr_hits():
    pair, x = Pair(value), aligned()
    pair.fast(GRID, x, float("nan"))
    before = pair.lowlat.exits
    pair.call(GRID, x, float("nan"))
    assert pair.lowlat.exits == before


def test_equal_strings_that_are_different_objects():
    pair, x = Pair(value), aligned()
    pair.fast(GRID, x, "mode-a")
    before = pair.lowlat.exits
    for _ in range(3):
        pair.call(GRID, x, "".join(["mode", "-", "a"]))
    assert pair.lowlat.exits == before
    pair.call(GRID, x, "".join(["mode", "-", "b"]))
    assert changed(before, pair.lowlat.exits) == {"first call": 1}


@pytest.mark.parametrize("v", [[1], {}, [[]], (1, [2])], ids=repr)
def test_unhashable_constexpr(v):
    pair, x = Pair(value), aligned()
    pair.fast(GRID, x, 1)
    for _ in range(2):
        assert pair.leaves("constexpr", GRID, x, v).error[0] is TypeError


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize("v", [(1, 2), tl.constexpr(4), Colour.RED, 2**64, -2**70], ids=repr)
def test_constexprs_left_to_triton(v):
    pair, x = Pair(value), aligned()
    pair.call(GRID, x, 1)
    pair.leaves("constexpr", GRID, x, v)


def test_options():
    pair, x = Pair(one), aligned()
    for options in ({}, {"num_warps": 8}, {"num_warps": 4}, {"num_warps": 2}, {"num_stages": 2},
                    {"num_warps": 8, "num_stages": 2}, {"num_stages": 2, "num_warps": 8}, {"num_warps": None},
                    {"maxnreg": 64}, {"debug": True}, {"num_warps": 2, "debug": False}, {"enable_fp_fusion": False}):
        pair.call(GRID, x, 5, **options)
        before = pair.lowlat.exits
        pair.call(GRID, x, 5, **options)
        assert pair.lowlat.exits == before, options
    assert len(pair.lowlat.device_caches[0][0]) == len(pair.triton.device_caches[0][0])


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


def parameter_named_like_an_option(x, num_warps: tl.constexpr, launch_pdl: tl.constexpr = False):
    tl.store(x, num_warps)


def test_parameter_named_like_an_option():
    """By keyword it is both parameter and option, and the first call decides; by position only a parameter."""
    for first in (lambda k, x: k[GRID](x, 8), lambda k, x: k[GRID](x, num_warps=8)):
        pair, x = Pair(parameter_named_like_an_option), aligned()
        for kernel in (pair.triton, pair.lowlat):
            first(kernel, x)
        pair.fast(GRID, x, num_warps=8)
        pair.fast(GRID, x, 8)
        pair.fast(GRID, x, 2, launch_pdl=False)


def test_unknown_option():
    pair = Pair(one)
    pair.fast(GRID, aligned(), 5)
    for _ in range(2):
        assert pair.call(GRID, aligned(), 5, foo=1).error[0] is KeyError
        assert pair.call(GRID, aligned(), 5, device=0).error[0] is AssertionError
    pair.leaves("option", GRID, aligned(), 5, extern_libs={})


# ---- binding --------------------------------------------------------------------------------------------------------


def test_keywords_in_any_order():
    pair, x, y = Pair(mixed), aligned(), aligned()
    arguments = {"x": x, "y": y, "n": 3, "m": 32, "f": 0.5, "flag": True, "BLOCK": 64, "MODE": "other", "SCALE": 2.0}
    names = list(arguments)
    pair.fast(GRID, *arguments.values())
    for count in range(len(names)):
        positional, rest = [arguments[name] for name in names[:count]], names[count:]
        for order in (rest, rest[::-1], rest[1:] + rest[:1]):
            pair.fast(GRID, *positional, **{name: arguments[name] for name in order})
    pair.fast(GRID, *list(arguments.values())[:5], **{name: arguments[name] for name in names[5:]}, num_warps=2)
    assert len(pair.lowlat.plans) == 2


def test_defaults():
    pair, x = Pair(defaults), aligned()
    for args, kwargs in (((), {}), ((5, ), {}), ((), {"m": 7}), ((5, 7, 16), {}), ((), {"BLOCK": 16}), ((1, ), {}),
                         ((), {"m": 1, "n": 16})):
        pair.fast(GRID, x, *args, **kwargs)
    assert pair.lowlat.exits == {"first call": 3}


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


@pytest.mark.parametrize("argument", ["text", b"x", 1j, [1], {}, (1, 2), object(), tl.float32, int,
                                      *([torch.float32] if torch else [])], ids=repr)
def test_arguments_of_other_types(argument):
    pair = Pair(one)
    pair.fast(GRID, aligned(), 5)
    pair.leaves("argument", GRID, aligned(), argument)
    pair.fast(GRID, aligned(), 5)


def test_numpy_scalars():
    numpy = pytest.importorskip("numpy")
    pair = Pair(one)
    for scalar in (numpy.float64(2.5), numpy.float32(2.5), numpy.int64(3), numpy.bool_(True)):
        pair.leaves("argument", GRID, aligned(), scalar)


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
    pair.fast(lambda meta: (len(meta) + 1, ), *arguments)


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


def annotated_pointer(x, n: "*fp32"):  # noqa: F722
    tl.store(x, tl.load(n))


def annotated_const(x, n: tl.const):
    tl.store(x, tl.load(n))


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


def test_annotated_fp16_takes_the_wrapper_route():
    pair = Pair(annotated_fp16)
    pair.fast(GRID, aligned(), 0.5)
    assert pair.lowlat.plans[0].route == "wrapper"
    assert pair.call(GRID, aligned(), 70000.0).error[0] is OverflowError


def test_annotated_pointers():
    pair = Pair(annotated_pointer)
    x = aligned()
    for pointer in (aligned(), unaligned(), aligned(dtype="int64"), 4096, 4097, 1, 0, None, 2**63 + 16):
        pair.call(GRID, x, pointer)
        before = pair.lowlat.exits
        pair.call(GRID, x, pointer)
        assert pair.lowlat.exits == before, pointer
    for pointer in (True, -16, 2**64, 1.5):
        pair.call(GRID, x, pointer)
    if torch:
        Pair(annotated_const).fast(GRID, aligned(), aligned())


# ---- grids ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", [(1, ), (2, 3), (2, 3, 4), [5], [1, 2, 3], (7, 1, 1, 9), (2**31 - 1, ), (0, ), (4, 0),
                                  (-1, ), (-1, -1, 1), (65536, 65536), (2**31 - 1, 2), (2**16, 2**15, 3)], ids=repr)
def test_grids(grid):
    pair = Pair(one)
    pair.fast(grid, aligned(), 5)
    pair.fast(lambda meta: grid, aligned(), 5)


class Sequence:

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return (6, 7)[i]


@pytest.mark.parametrize("grid", [(), 5, None, (1.5, ), "a", (2**31, ), (True, 2), Sequence(), {0: 3},
                                  (tl.constexpr(3), ), [[]], ("x", ), (None, 1),
                                  *([torch.Size([4]), torch.tensor([2, 3])] if torch else [])], ids=repr)
def test_other_grids_are_tritons(grid):
    pair = Pair(one)
    pair.fast(GRID, aligned(), 5)
    pair.leaves("grid", grid, aligned(), 5)
    pair.leaves("grid", lambda meta: grid, aligned(), 5)
    pair.fast(GRID, aligned(), 5)


def test_callable_grid_gets_the_bound_arguments():
    seen = []
    pair, x = Pair(defaults), aligned()

    def grid(meta):
        seen.append((type(meta), list(meta.items())))
        return (meta["n"], meta["BLOCK"])

    pair.fast(grid, x, m=3, num_warps=2)
    assert len(seen) == 4
    assert seen[0] == seen[1] == seen[2] == seen[3]
    assert seen[0] == (dict, [("x", x), ("n", 5), ("m", 3), ("BLOCK", 16)])


def test_callable_grid_may_change_the_arguments():
    other = aligned()

    def replace(meta):
        meta["x"] = other
        return GRID

    def reorder(meta):
        meta["n"] = meta.pop("n")
        return [2]

    def add(meta):
        meta["extra"] = 1
        return GRID

    # (One that removes an entry makes Triton 3.7 and later read past the end of a tuple.)
    for grid in (replace, reorder, add):
        pair, x = Pair(two_scalars), aligned()
        pair.fast(GRID, x, 3, 5)
        pair.call(grid, x, 3, 5)
        pair.call(grid, x, 3, 5)


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


def test_grid_is_read_late():
    kernel, grid = lowlat.jit(one), [2]
    launcher = kernel[grid]
    launcher(aligned(), 5)
    grid[0] = 9
    with null.record() as launches:
        launcher(aligned(), 5)
    assert launches[0].grid == (9, 1, 1)


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


def test_warmup():
    pair, x = Pair(one), aligned()
    launched = null.launches()
    for kernel in (pair.triton, pair.lowlat):
        assert hasattr(kernel.warmup(x, 5, grid=GRID), "asm")
        if torch:
            assert hasattr(kernel.warmup(torch.float32, 5, grid=GRID), "asm")
    assert null.launches() == launched
    pair.fast(GRID, x, 5)
    launched, before = null.launches(), pair.lowlat.exits
    assert pair.lowlat.warmup(x, 5, grid=None) is pair.lowlat[GRID](x, 5)
    assert null.launches() == launched + 1 and pair.lowlat.exits == before


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

FACTOR = tl.constexpr(3)
OTHER = tl.constexpr(4)


def reads_globals(x):
    tl.store(x, FACTOR + OTHER)


def test_globals(monkeypatch):
    pair, x = Pair(reads_globals), aligned()
    pair.fast(GRID, x)
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "FACTOR", tl.constexpr(3))  # another object, equal
    pair.fast(GRID, x)
    monkeypatch.setattr(module, "FACTOR", tl.constexpr(5))
    for _ in range(2):
        error, text = pair.leaves("global", GRID, x).error
        assert error is RuntimeError and "FACTOR has changed" in text
    calls = []
    pair.call(lambda meta: calls.append(1) or GRID, x)
    assert not calls  # the check comes before the grid callable
    monkeypatch.delattr(module, "FACTOR")
    pair.leaves("global", GRID, x)
    monkeypatch.undo()
    pair.fast(GRID, x)
    FACTOR.value = 9  # in place
    try:
        pair.leaves("global", GRID, x)
    finally:
        FACTOR.value = 3
    pair.fast(GRID, x)


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
    import ctypes

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


def test_plain_globals(monkeypatch):
    """With allow_non_constexpr_globals any value can be one; equality decides, in place changes count."""
    monkeypatch.setattr(knobs.compilation, "allow_non_constexpr_globals", True)
    pair, x = Pair(reads_a_plain_global), aligned()
    pair.fast(GRID, x)
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "LIMITS", 7)  # equal
    pair.fast(GRID, x)
    monkeypatch.setattr(module, "LIMITS", 8.0)
    pair.leaves("global", GRID, x)


# ---- live state -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["launch_enter_hook", "launch_exit_hook"])
def test_launch_hooks(name):
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    seen = []
    hook = lambda metadata: seen.append(metadata and metadata.get()["name"])  # noqa: E731
    chain = getattr(knobs.runtime, name)
    chain.add(hook)
    try:
        pair.leaves("launch hook", GRID, x, 5)
    finally:
        chain.remove(hook)
    assert seen == ["one", "one"]
    pair.fast(GRID, x, 5)
    setattr(knobs.runtime, name, hook)
    pair.leaves("launch hook", GRID, x, 5)
    assert len(seen) == 4
    setattr(knobs.runtime, name, None)
    pair.fast(GRID, x, 5)
    delattr(knobs.runtime, name)
    chain.calls = [hook]  # the list itself replaced
    try:
        pair.leaves("launch hook", GRID, x, 5)
    finally:
        chain.calls = []
    pair.fast(GRID, x, 5)


def test_enter_hook_that_raises():
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)

    def refuse(metadata):
        raise PermissionError("not today")

    knobs.runtime.launch_enter_hook = refuse
    launched = null.launches()
    assert pair.call(GRID, x, 5).error == (PermissionError, "not today")
    assert null.launches() == launched


@pytest.mark.parametrize("holder, name, values", [("runtime", "debug", [True, False]),
                                                  ("compilation", "instrumentation_mode", ["", "x"])])
def test_knobs_in_the_key(holder, name, values):
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    knob = getattr(knobs, holder)
    original = getattr(knob, name)
    for _ in range(2):
        for value_ in values:
            setattr(knob, name, value_)
            outcome_ = pair.call(GRID, x, 5)
            if outcome_.error is None:
                before = pair.lowlat.exits
                pair.call(GRID, x, 5)
                assert pair.lowlat.exits == before
    with knob.scope():
        setattr(knob, name, values[0])
        pair.call(GRID, x, 5)
    setattr(knob, name, original)
    pair.fast(GRID, x, 5)
    assert list(pair.triton.device_caches[0][0]) == list(pair.lowlat.device_caches[0][0])


def test_knobs_replaced_as_a_whole():
    """Triton's own test fixture puts copies in place of the knob objects."""
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    original = knobs.runtime
    knobs.runtime = knobs.runtime.copy()
    try:
        knobs.runtime.debug = True
        before = pair.lowlat.exits
        pair.call(GRID, x, 5)
        assert changed(before, pair.lowlat.exits) == {"first call": 1}
    finally:
        knobs.runtime = original
    pair.fast(GRID, x, 5)


def test_debug_of_the_kernel():
    pair, x = Pair(one, debug=True), aligned()
    pair.fast(GRID, x, 5)
    pair.triton.debug = pair.lowlat.debug = False
    pair.fast(GRID, x, 5)
    assert list(pair.triton.device_caches[0][0]) == list(pair.lowlat.device_caches[0][0])


def test_stages_hook():
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    knobs.runtime.add_stages_inspection_hook = lambda *args, **kwargs: ("key", "hash")
    pair.leaves("stages hook", GRID, x, 5)
    knobs.runtime.add_stages_inspection_hook = None
    pair.fast(GRID, x, 5)


def test_fpsan_variable(monkeypatch):
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    for text in ("1", "0", "1"):
        monkeypatch.setenv("TRITON_FPSAN_HOMOMORPHIC_CASTS", text)
        pair.call(GRID, x, 5)
        before = pair.lowlat.exits
        pair.call(GRID, x, 5)
        assert pair.lowlat.exits == before
    monkeypatch.delenv("TRITON_FPSAN_HOMOMORPHIC_CASTS")
    pair.fast(GRID, x, 5)
    assert list(pair.triton.device_caches[0][0]) == list(pair.lowlat.device_caches[0][0])


def test_pre_run_hooks():
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    seen = []
    for kernel in (pair.triton, pair.lowlat):
        kernel.add_pre_run_hook(lambda *args, **kwargs: seen.append((args, sorted(kwargs))))
    pair.leaves("pre-run hook", GRID, x, 5, num_warps=2)
    assert len(seen) == 2 and seen[0] == seen[1]
    for kernel in (pair.triton, pair.lowlat):
        kernel.pre_run_hooks.clear()
    pair.fast(GRID, x, 5)


def test_device_caches_cleared():
    kernel, x = lowlat.jit(one), aligned()
    first = kernel[GRID](x, 5)
    assert kernel[GRID](x, 5) is first
    for forget in (kernel.device_caches.clear, lambda: kernel.device_caches[0][0].clear(),
                   lambda: kernel.device_caches.pop(0)):
        before = kernel.exits
        old = kernel[GRID](x, 5)
        forget()
        new = kernel[GRID](x, 5)
        assert new is not old
        assert kernel[GRID](x, 5) is new
        assert changed(before, kernel.exits) == {"forgotten": 1}


def test_kernel_replaced_in_tritons_cache():
    kernel, x = lowlat.jit(one), aligned()
    first = kernel[GRID](x, 5)
    other = kernel[GRID](x, 5, num_warps=8)
    cache = kernel.device_caches[0][0]
    key = next(key for key, held in cache.items() if held is first)
    cache[key] = other
    assert kernel[GRID](x, 5) is other


def test_compiled_kernels_are_not_kept_alive():
    kernel, x = lowlat.jit(one), aligned()
    reference = weakref.ref(kernel[GRID](x, 5))
    kernel[GRID](x, 5)
    kernel.device_caches.clear()
    gc.collect()
    assert reference() is None


def test_arguments_are_not_kept_alive():
    kernel, x = lowlat.jit(mixed), aligned()
    counts = []
    for _ in range(3):
        kernel[lambda meta: GRID](x, x, 300, 16, 0.5, True, BLOCK=64)
        counts.append(sys.getrefcount(x))
    assert counts[0] == counts[1] == counts[2] == sys.getrefcount(x)
    if torch:
        reference = weakref.ref(x)
        del x
        assert reference() is None


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
    assert abs(after[0] - before[0]) < 20
    assert after[1] == before[1] and after[3] == before[3]
    assert abs(after[2] - before[2]) < 60


def test_driver_swapped():
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    original = driver.active

    class Other(type(original)):

        def __init__(self):
            super().__init__()
            self.get_current_stream = lambda device: 77

    driver.set_active(Other())
    assert pair.fast(GRID, x, 5).launches[0].stream == 77  # Python getters, still native
    driver.active.get_current_stream = lambda device: 78
    assert pair.call(GRID, x, 5).launches[0].stream == 78

    class Foreign:
        get_current_device, get_current_stream = original.get_current_device, original.get_current_stream
        get_current_target, utils, launcher_cls = original.get_current_target, original.utils, original.launcher_cls

    driver.set_active(Foreign())
    pair.leaves("backend", GRID, x, 5)
    driver.set_active(original)
    pair.fast(GRID, x, 5)


def test_devices_and_streams():
    pair, x = Pair(one), aligned()
    for device, stream in ((0, 0), (1, 0), (0, 5), (1, 6), (0, 0), (1, 2**40)):
        null.set_device(device)
        null.set_stream(stream, device)
        launches = pair.call(GRID, x, 5).launches
        assert (launches[0].device, launches[0].stream) == (device, stream)
    assert pair.lowlat.exits == {"first call": 2}


def test_thread_without_a_context():
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    for call in (lambda kernel: kernel[GRID](x, 5), lambda kernel: kernel[lambda meta: GRID](x, 5)):
        before, outcomes = pair.lowlat.exits, []
        for kernel in (pair.triton, pair.lowlat):
            null.drop_context()
            outcomes.append(outcome(lambda kernel=kernel: call(kernel)))
        pair.compare(*outcomes)
        assert len(changed(before, pair.lowlat.exits)) == 1
    assert pair.lowlat.exits["no context"] == 2
    pair.fast(GRID, x, 5)
    outcomes = []
    thread = threading.Thread(target=lambda: outcomes.append(outcome(lambda: pair.lowlat[GRID](x, 5))))
    thread.start()
    thread.join()
    assert outcomes[0].error is None and len(outcomes[0].launches) == 1


def test_threads():
    """Threads launching one kernel with different arguments never mix them."""
    kernel = lowlat.jit(two_scalars)
    tensors = [aligned() for _ in range(8)]
    kernel[GRID](tensors[0], 2, 3)

    def work(number):
        for i in range(300):
            kernel[(number + 1, )](tensors[number], 1000 + 2 * number + 1, i if i > 1 else 5)

    with null.record() as launches:
        threads = [threading.Thread(target=work, args=(number, )) for number in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert len(launches) == 8 * 300
    for launch in launches:
        number = launch.grid[0] - 1
        assert int.from_bytes(launch.parameters[0], "little") == address(tensors[number])
        assert int.from_bytes(launch.parameters[1], "little") == 1000 + 2 * number + 1


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


@pytest.mark.torch
def test_cpu_tensors():
    """With only CUDA tensors taken for device tensors, a CPU tensor is Triton's to refuse."""
    pair, x = Pair(pointers), aligned()
    pair.fast(GRID, x, x, x)
    devices = _fast.get_devices()
    _fast.set_devices(1 << 1)
    try:
        for kernel in (pair.triton, pair.lowlat):
            null.fail("cuPointerGetAttribute", 1, times=1)
            result = outcome(lambda kernel=kernel: kernel[GRID](x, x, x))
            assert result.error[0] is ValueError and "cpu tensor?" in result.error[1] and not result.launches
        pair.leaves("not on device", GRID, x, x, x)  # as pinned memory would
    finally:
        _fast.set_devices(devices)
    pair.fast(GRID, x, x, x)


class DLTensor(ctypes.Structure):
    _fields_ = [("data", ctypes.c_void_p), ("device_type", ctypes.c_int32), ("device_id", ctypes.c_int32),
                ("ndim", ctypes.c_int32), ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8),
                ("lanes", ctypes.c_uint16), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
                ("byte_offset", ctypes.c_uint64), ("manager", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


@pytest.fixture
def cuda_tensor(monkeypatch):
    """Makes tensors that say they are on a CUDA device: CPU-only torch takes a DLPack capsule that claims such memory.
    It is the very branch that CUDA tensors take."""
    new = ctypes.pythonapi.PyCapsule_New
    new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
    monkeypatch.setattr(torch.cuda._tls, "is_initializing", True, raising=False)  # or torch would look for a GPU
    shape = (ctypes.c_int64 * 1)(64)
    kept = []

    def make(address, device=0):
        kept.append(DLTensor(address, 2, device, 1, 2, 32, 1, ctypes.addressof(shape), None, 0, None, None))
        tensor = torch._C._from_dlpack(new(ctypes.addressof(kept[-1]), b"dltensor", None))
        assert tensor.is_cuda and tensor.device.index == device
        return tensor

    devices = _fast.get_devices()
    _fast.set_devices(1 << 1)
    yield make
    _fast.set_devices(devices)


@pytest.mark.torch
def test_tensors_that_say_cuda(cuda_tensor):
    tensor = cuda_tensor(0x7F0000001000)
    launches = Pair(pointers).fast(GRID, tensor, tensor, tensor).launches
    assert int.from_bytes(launches[0].parameters[0], "little") == 0x7F0000001000


@pytest.mark.torch
@pytest.mark.parametrize("rung", ["shim", "dlpack", "python"])
def test_tensors_of_the_other_device(cuda_tensor, rung):
    """Whether the current device can reach them is the driver's to say, and Triton asks it."""
    first, second = cuda_tensor(0x7F0000001000), cuda_tensor(0x7F0000002000, device=1)
    before = _torch.rung
    _torch.choose(rung)
    try:
        pair = Pair(pointers)
        pair.fast(GRID, first, first, first)
        pair.leaves("other device", GRID, first, second, first)
        null.set_memory(0x7F0000002000, 4096)  # out of reach
        _fast.set_devices(1 << 1)
        assert pair.leaves("other device", GRID, first, second, first).error[0] is ValueError
        null.set_device(1)
        pair.call(GRID, first, first, first)
        pair.leaves("other device", GRID, second, first, second)
    finally:
        null.clear_memory()
        _torch.choose(before)


@pytest.mark.torch
def test_torch_function_mode():
    class Mode(torch.overrides.TorchFunctionMode):
        seen = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            Mode.seen += 1
            return func(*args, **(kwargs or {}))

    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    with Mode():
        pair.leaves("torch function mode", GRID, x, 5)
    assert Mode.seen > 0
    pair.fast(GRID, x, 5)


@pytest.mark.torch
def test_tensor_subclass():
    class Subclass(torch.Tensor):
        pass

    Pair(one).leaves("argument", GRID, aligned().as_subclass(Subclass), 5)


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
    with pytest.raises(ValueError, match="'fastest', must be 'auto', 'driver' or 'wrapper'"):
        lowlat.jit(one).route = "fastest"


def test_plans_are_bounded():
    """A generator of constexprs neither grows nor breaks a kernel."""
    kernel, x = lowlat.jit(value), aligned()
    compiled = kernel[GRID](x, 0)
    cache = kernel.device_caches[0][0]
    entry = kernel.device_caches[0]

    class Anything(dict):
        """Stands in for a compiled kernel under every key, to spare 5,000 compilations."""

        def get(self, key, default=None):
            return compiled

    del cache
    kernel.device_caches[0] = (Anything(entry[0]), *entry[1:])
    for i in range(5000):
        kernel[GRID](x, f"value {i}")
    assert len(kernel.plans) <= 4096


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
