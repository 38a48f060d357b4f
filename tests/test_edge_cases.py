"""One test for each edge case that a naive fast launch path gets wrong, under the number it has in the list of Triton's
launch semantics that lowlat is built on.  Each compares with triton.jit itself, call by call, and where lowlat launches
natively it insists on that; tests/mutants.py breaks lowlat in the ways they warn of, and each must be noticed."""

import collections
import concurrent.futures
import contextlib
import ctypes
import enum
import functools
import gc
import importlib.util
import itertools
import operator
import os
import random
import struct
import subprocess
import sys
import threading
import weakref

import numpy
import pytest
import triton
import triton.language as tl
from triton import knobs
from triton.backends.nvidia.driver import CudaLauncher
from triton.compiler.compiler import CompiledKernel
from triton.knobs import HookChain
from triton.runtime import _allocation, driver
from triton.runtime.jit import JITFunction as TritonJITFunction
from triton.runtime.jit import KernelInterface

import lowlat
from lowlat import _fast, _torch, _triton, null
from oracle import Pair, address_of, aligned, changed, observe, outcome, torch, unaligned

pytestmark = pytest.mark.null

GRID = (3, )
THIS_MODULE = sys.modules[__name__]


def pointers(a, b):
    pass


def scalars(x, n, m):
    pass


def one(x, n):
    pass


def stores(x, n):
    """Clusters are planned around the stores of a kernel, so one is needed."""
    tl.store(x, n)


def value(x, V: tl.constexpr):
    pass


def defaults(x, n=5, m=7, BLOCK: tl.constexpr = 16):
    pass


# ---- several calls of one kernel -------------------------------------------------------------------------------------


def call(*args, **kwargs):
    return args, kwargs


def follow(pair, *calls):
    """Make the calls one after the other, and again, when each must be launched natively; and the same calls must have
    the same kernel object to return as in Triton.  Gives the launches of the second round."""
    launches = []
    for args, kwargs in calls:
        pair.call(GRID, *args, **kwargs)
    with natively(pair):
        for args, kwargs in calls:
            launches += pair.call(GRID, *args, **kwargs).launches
        assert objects(pair.lowlat, calls) == objects(pair.triton, calls)
    assert len(launches) == len(calls)
    return launches


@contextlib.contextmanager
def natively(pair):
    """Inside, no call may leave for Triton."""
    before = pair.lowlat.exits
    yield
    assert pair.lowlat.exits == before, f"went to Triton: {changed(before, pair.lowlat.exits)}"


@contextlib.contextmanager
def leaving(pair, reason, times):
    """So many calls inside must leave for Triton, all of them for `reason`; said last, after what they launched."""
    before = pair.lowlat.exits
    yield
    assert changed(before, pair.lowlat.exits) == {reason: times}


def objects(kernel, calls):
    """Per call, the number of the first call that returns the same object."""
    return pattern([kernel[GRID](*args, **kwargs) for args, kwargs in calls])


def pattern(results):
    return [next(i for i, other in enumerate(results) if other is result) for result in results]


def same_keys(pair):
    """Triton's own caches hold the same keys in the same order."""
    caches = [{device: list(entry[0]) for device, entry in kernel.device_caches.items()}
              for kernel in (pair.triton, pair.lowlat)]
    return caches[0] == caches[1]


def separately(pair, launch):
    """For calls with a state of their own: `launch(kernel)` on either kernel, compared."""
    outcomes = [outcome(lambda kernel=kernel: launch(kernel)) for kernel in (pair.triton, pair.lowlat)]
    pair.compare(*outcomes)
    return outcomes[1]


# ---- keying ----------------------------------------------------------------------------------------------------------


def test_01_int_one_then_two():
    """1 is compiled in and not passed: with its plan, every later parameter would be shifted."""
    x = aligned()
    for order in itertools.permutations((1, 2, 3)):
        launches = follow(Pair(scalars), *(call(x, n, 7) for n in order), *(call(x, 5, n) for n in order))
        of_one, of_two = launches[order.index(1)], launches[order.index(2)]
        assert len(of_one.parameters) == len(of_two.parameters) - 1


def test_02_lost_divisibility():
    x = aligned()
    for order in ((16, 17, 0, 8), (17, 16, 8, 0), (0, 8, 16, 17)):
        follow(Pair(scalars), *(call(x, n, 7) for n in order), *(call(x, 7, n) for n in order))


def test_03_negative_ints():
    x, numbers = aligned(), (-16, -1, -17, -32, -15, -8, 16, 15)
    for order in (numbers, numbers[::-1]):
        follow(Pair(scalars), *(call(x, n, 7) for n in order))


def test_04_int32_to_int64():
    x, numbers = aligned(), (2**31 - 1, 2**31, 2**31 - 16, 2**31 + 1, -2**31, -2**31 - 1, -2**31 - 16)
    for order in (numbers, numbers[::-1]):
        launches = follow(Pair(scalars), *(call(x, n, 7) for n in order))
        assert [len(launch.parameters[1]) for launch in launches] == [4 if -2**31 <= n < 2**31 else 8 for n in order]


def test_05_uint64_and_beyond():
    x, numbers = aligned(), (2**63, 2**63 - 1, 2**64 - 1, 2**63 - 16, 2**64 - 16, -2**63)
    for order in (numbers, numbers[::-1]):
        pair = Pair(scalars)
        follow(pair, *(call(x, n, 7) for n in order))
        with leaving(pair, "argument", 6):
            for n in (2**64, -2**63 - 1, 10**40) * 2:
                result = pair.call(GRID, x, n, 7)
                assert result.error[0] is OverflowError and not result.launches


def test_06_bool_and_int():
    """True is passed as a byte and 1 is not passed, though they are equal and have one hash."""
    x = aligned()
    for order in itertools.permutations((True, 1, False, 0)):
        follow(Pair(scalars), *(call(x, n, 7) for n in order))


def test_07_constexpr_one_true_and_float_one():
    """Triton shares one kernel among them, whichever came first: a later one must not get a kernel of its own."""
    x = aligned()
    for order in itertools.permutations((1, True, 1.0, 2)):
        pair = Pair(value)
        follow(pair, *(call(x, v) for v in order), *(call(x, v) for v in order[::-1]))
        assert len(pair.lowlat.device_caches[0][0]) == 2 and same_keys(pair)
    follow(Pair(value), call(x, True), call(x, False), call(x, 3), call(x, None))


def test_08_constexpr_zero_and_minus_zero():
    x = aligned()
    for order in itertools.permutations((0.0, -0.0, 0, False)):
        pair = Pair(value)
        follow(pair, *(call(x, v) for v in order))
        assert len(pair.lowlat.device_caches[0][0]) == 1 and same_keys(pair)
    # Told apart to the last bit, all the same.
    follow(Pair(value), call(x, 0.1), call(x, 0.1 + 2**-56), call(x, 0.1 - 2**-56), call(x, 1e-320), call(x, 0.0))


def test_09_nan_constexpr():
    """Unequal to itself, and yet the same kernel each time; and lowlat's own cache must not grow."""
    pair, x = Pair(value), aligned()
    follow(pair, call(x, float("nan")), call(x, 0.5))
    with natively(pair):
        for _ in range(50):
            pair.call(GRID, x, float("nan"))
    assert len(pair.lowlat.plans) == 2 and len(pair.lowlat.device_caches[0][0]) == 2


class Size(enum.IntEnum):
    ONE = 1
    SIXTEEN = 16
    SEVENTEEN = 17


class Count(int):
    pass


def test_10_int_subclasses():
    """As arguments they follow the rule of ints, as constexprs they share the kernel of the equal int."""
    x = aligned()
    for kind, numbers in ((Size, (1, 16, 17)), (Count, (1, 16, 17, 2**31, 2**63))):
        pair = Pair(scalars)
        follow(pair, *(call(x, subclass(n), 7) for n in numbers for subclass in (kind, int)))
        assert same_keys(pair)
        for order in itertools.permutations((1, kind(1), True)):
            pair = Pair(value)
            for v in (*order, *order):
                pair.call(GRID, x, v)
            calls = [call(x, v) for v in order]
            assert objects(pair.lowlat, calls) == objects(pair.triton, calls) == [0, 0, 0]
            assert same_keys(pair)


def test_11_numpy_scalars():
    """np.float64 is a float to Triton; the others are refused, also once a float was launched."""
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 2.5)
    with leaving(pair, "argument", 8):
        for _ in range(2):
            pair.fast(GRID, x, numpy.float64(2.5))
            for scalar in (numpy.float32(2.5), numpy.int64(3), numpy.int32(16), numpy.bool_(True)):
                result = pair.call(GRID, x, scalar)
                assert result.error[0] is TypeError and not result.launches
    pair.fast(GRID, x, 2.5)


class Named:
    """A constexpr that shows whatever name it has, and can be made unhashable."""

    def __init__(self, name):
        self.name = name

    def __repr__(self):
        return self.name

    def __hash__(self):
        if self.name == "unhashable":
            raise TypeError("unhashable today")
        return id(self)


def test_12_unhashable_constexprs():
    pair, x, shown_alike, turns = Pair(value), aligned(), Named("[1]"), Named("hashable")
    with leaving(pair, "constexpr", 14):
        for v in (shown_alike, turns) * 2:
            assert pair.call(GRID, x, v).error is None
        turns.name = "unhashable"
        for v in (turns, [1], {}, {1}, (1, [2])) * 2:
            result = pair.call(GRID, x, v)
            assert result.error[0] is TypeError and not result.launches


def test_13_constexprs_that_change_in_place():
    """Hashed by identity: Triton goes on with the kernel of what the object was; another object of the same look is
    another constexpr."""
    pair, x = Pair(value), aligned()
    first, second = Named("red"), Named("blue")
    results = []

    def go(v):
        pair.call(GRID, x, v)
        results.append([kernel[GRID](x, v) for kernel in (pair.triton, pair.lowlat)])

    with leaving(pair, "constexpr", 12):
        go(first)
        first.name = "blue"
        go(first)
        go(second)
        go(first)
        second.name = "red"
        go(second)
        go(Named("blue"))
    expected, actual = (pattern(column) for column in zip(*results))
    assert actual == expected and expected[:3] == [0, 0, 2]
    assert same_keys(pair)


def test_14_explicit_constexpr():
    """tl.constexpr(1) is another key than 1, and the same as tl.constexpr(True) and, by its text, tl.constexpr("1")."""
    x = aligned()
    wrapped = (tl.constexpr(1), tl.constexpr(True), tl.constexpr("1"))
    for order in ((*wrapped, 1, "1"), (1, *wrapped, "1"), ("1", 1, *wrapped[::-1])):
        pair = Pair(value)
        follow(pair, *(call(x, v) for v in order))
        assert same_keys(pair)


def doubled(n):
    return n * 2


def with_a_kernel(x, OPERATION: tl.constexpr):
    pass


@pytest.mark.parametrize("function", [with_a_kernel, one], ids=["constexpr", "plain"])
@pytest.mark.parametrize("jit", [triton.jit, lowlat.jit], ids=["triton.jit", "lowlat.jit"])
def test_15_updated_source_of_a_kernel_argument(jit, function):
    pair, x, operation = Pair(function), aligned(), jit(doubled)
    results = []
    for text in ("n * 2", "n * 2", "n * 3", "n * 2"):
        operation._unsafe_update_src(f"def doubled(n):\n    return {text}\n")
        pair.call(GRID, x, operation)
        with natively(pair):
            results.append([kernel[GRID](x, operation) for kernel in (pair.triton, pair.lowlat)])
    expected, actual = (pattern(column) for column in zip(*results))
    assert actual == expected == [0, 0, 2, 0]
    assert same_keys(pair)


def test_16_none_and_tensor():
    """None is compiled in: with the other's plan the arguments would be shifted."""
    x, y = aligned(), unaligned()
    for order in itertools.permutations((None, x, y)):
        follow(Pair(pointers), *(call(x, b) for b in order), *(call(b, x) for b in order))
    follow(Pair(one), call(x, None), call(x, 0), call(x, False), call(x, 1))


def test_17_float_and_int():
    """Both four bytes: with the other's plan the bits would be taken for what they are not."""
    x = aligned()
    for order in itertools.permutations((3.0, 3, 1.0, 16)):
        follow(Pair(scalars), *(call(x, n, 7) for n in order))


DTYPES = [
    "float16", "bfloat16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
    "uint64", "bool", "float8_e4m3fn", "float8_e5m2"
]


@pytest.mark.torch
def test_18_dtype_at_the_same_address():
    x, other = aligned(), aligned()
    views = [x.view(getattr(torch, dtype)) for dtype in DTYPES]
    assert {view.data_ptr() for view in views} == {x.data_ptr()}
    follow(Pair(pointers), *(call(other, view) for view in views))
    pair = Pair(pointers)
    for view in views[::-1]:
        pair.call(GRID, view, other)
        for dtype in (tl.float8e5, tl.int8, tl.float32):  # the wrapper's dtype counts, the base's does not
            pair.fast(GRID, triton.reinterpret(view, dtype), other)
            pair.fast(GRID, view, triton.reinterpret(other, dtype))
    assert same_keys(pair)


@pytest.mark.torch
def test_19_alignment():
    """An unaligned view after an aligned tensor; and one tensor object that moves."""
    pair, x, y = Pair(pointers), aligned(), unaligned()
    combinations = list(itertools.product((x, y, x[4:], x[1:]), repeat=2))
    follow(pair, *(call(a, b) for a, b in combinations))
    follow(Pair(pointers), *(call(a, b) for a, b in combinations[::-1]))
    with natively(pair):
        for storage in (unaligned(), aligned(), unaligned()):
            x.set_(storage)
            assert pair.call(GRID, x, y).error is None
        x.resize_(100000)
        pair.call(GRID, x, y)


@pytest.mark.torch
def test_20_reused_ids():
    """A tensor, or a constexpr, that has the id of one that died is another one."""
    pair, x = Pair(pointers), aligned()
    follow(pair, call(x, aligned()))
    kept, seen = [], {}
    with natively(pair):
        for _ in range(20):
            tensor = aligned()
            address = tensor.data_ptr()
            launch = pair.call(GRID, x, tensor).launches[0]
            assert int.from_bytes(launch.parameters[1], "little") == address
            seen.setdefault(id(tensor), set()).add(address)
            kept.append(tensor.untyped_storage())  # the next one gets other memory, and the same id
            del tensor
    assert any(len(addresses) > 1 for addresses in seen.values())
    for new in (lambda i: i + 0.5, lambda i: f"mode-{i}", lambda i: 2**40 + i):
        pair, seen = Pair(value), {}
        for i in (1, 2, 3, 4, *random.Random(0).choices((1, 2, 3, 4), k=60)):
            v = new(i)
            seen.setdefault(id(v), set()).add(i)
            assert pair.call(GRID, x, v).error is None
            del v
        assert pair.lowlat.exits == {"first call": 4}
        assert any(len(values) > 1 for values in seen.values())


@pytest.mark.torch
def test_21_empty_tensors():
    """They read as null, though their storage is somewhere, and null is a multiple of 16."""
    x, base = aligned(), aligned()
    empties = (torch.empty(0), base[10:10], base[1:1])
    for order in ((*empties, unaligned(), x), (unaligned(), *empties, x), (x, *empties, unaligned())):
        launches = follow(Pair(pointers), *(call(x, b) for b in order))
        assert all(launch.parameters[1] == bytes(8) for launch, b in zip(launches, order) if b.numel() == 0)


class HipDriver:
    """Triton's AMD compiler with no AMD driver behind it: nothing is loaded, and launches are written down."""

    def __init__(self, cuda):
        self.launched = []
        self.utils = self
        self.unload_module = getattr(cuda.utils, "unload_module", None)  # of CUDA's kernels that die meanwhile
        self.get_current_device = lambda: 0
        self.get_current_stream = lambda device: 0

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("hip", "gfx942", 64)

    def get_device_properties(self, device):
        return {"max_shared_mem": 65536}

    def load_binary(self, name, binary, shared, device):
        return "module", 2, 0, 0, 1024

    def launcher_cls(self, source, metadata):
        return lambda *args: self.launched.append((args[:3], args[9:]))


class Ranged:
    """A tensor that says how much memory can be reached from it."""

    def __init__(self, tensor, size):
        self.tensor, self.size, self.dtype = tensor, size, tensor.dtype

    def data_ptr(self):
        return self.tensor.data_ptr()

    def ptr_range(self):
        return self.size


@pytest.mark.torch
def test_22_amd_storage_size(monkeypatch):
    """On AMD the key also says whether 32 bits can address the storage.  lowlat leaves every call on a driver of its
    own to Triton; test_hip.py has Triton's HIP driver."""
    from triton._C.libtriton import native_specialize_impl
    from triton.backends.amd.compiler import HIPBackend

    x = aligned()
    small, large = Ranged(x, 2**31 - 1), Ranged(x, 2**31)
    keys = [native_specialize_impl(HIPBackend, tensor, False, True, True) for tensor in (small, large, x)]
    assert keys == [("*fp32", "DS"), ("*fp32", "D"), ("*fp32", "DS")]
    pair, hip, results = Pair(one), HipDriver(driver.active), []
    driver.set_active(hip)
    try:
        for setting, tensor in itertools.product(("1", "0", "1"), (x, small, large)):
            monkeypatch.setenv("AMDGCN_USE_BUFFER_OPS", setting)
            before = pair.lowlat.exits
            compiled = [kernel[GRID](tensor, 5) for kernel in (pair.triton, pair.lowlat)]
            results.append(compiled)
            assert changed(before, pair.lowlat.exits) == {"backend": 1}
            assert compiled[0].hash == compiled[1].hash and compiled[0].src.attrs == compiled[1].src.attrs
            assert hip.launched[-1] == hip.launched[-2] == (GRID + (1, 1), (tensor, 5))
    finally:
        for compiled in itertools.chain(*results):
            compiled.module = None  # or it would be unloaded from CUDA's driver
    expected, actual = (pattern(column) for column in zip(*results))
    assert actual == expected == [0, 0, 2, 2, 2, 2, 0, 0, 2]
    assert same_keys(pair)


Point = collections.namedtuple("Point", "x y")


@pytest.mark.parametrize("options", [{}, {"do_not_specialize": ["n"]}], ids=["", "do_not_specialize"])
def test_23_tuples(options):
    """Specialised item by item, whatever the parameter says; a namedtuple is equal to the tuple of its items."""
    x, items = aligned(), [(3, 16), Point(3, 16), (3, 17), (1, 16), Point(1, 17), (True, 16), (3, None), (3.0, 16),
                           (3, (4, 5)), (), (aligned(), unaligned()), (3, 2**31)]
    for order in (items, items[::-1]):
        pair = Pair(one, **options)
        follow(pair, *(call(x, item) for item in order))
        assert same_keys(pair)


def test_24_do_not_specialize():
    """1 is passed and divisibility ignored; the width is still that of the number."""
    x, y, numbers = aligned(), unaligned(), (1, 2, 16, 17, 0, -16)
    pair = Pair(scalars, do_not_specialize=["n"])
    launches = follow(pair, *(call(x, n, 7) for n in numbers))
    assert {len(launch.parameters) for launch in launches} == {len(launches[0].parameters)}
    assert pair.lowlat.exits == {"first call": 1}
    for order in ((3, 2**31, 2**63, True), (2**63, 2**31, 1, True), (2**31, 1, 2**31 + 16, 16)):
        follow(Pair(scalars, do_not_specialize=["n"]), *(call(x, n, 7) for n in order))
    pair = Pair(scalars, do_not_specialize=["x"], do_not_specialize_on_alignment=["n"])
    follow(pair, *(call(a, n, m) for a, n, m in itertools.product((x, y), (1, 2, 16), (7, 16))))
    assert pair.lowlat.exits == {"first call": 4}


def annotated_int(x, n: int):
    pass


def annotated_unsigned(x, n: tl.uint32):
    pass


def test_25_annotated_int():
    """1 is passed, and still has a kernel of its own; what does not fit is refused or cut by Triton."""
    x = aligned()
    for function, order in itertools.product((annotated_int, annotated_unsigned), ((1, 3, 16, 17), (17, 16, 1, 3))):
        pair = Pair(function)
        launches = follow(pair, *(call(x, n) for n in order))
        assert {len(launch.parameters) for launch in launches} == {len(launches[0].parameters)}
        for _ in range(2):
            for n in (2**31, 2**32 + 5, -2**31 - 1, -5, 2**63, 2**64, True, 0.5, None, "x"):
                pair.call(GRID, x, n)


def annotated_pointer(x, p: "*fp32"):
    pass


def annotated_const(x, p: tl.const):
    pass


def test_26_annotated_pointers():
    """The tensor's own dtype does not count; a number is an address and None is null."""
    x, pair = aligned(), Pair(annotated_pointer)
    follow(pair, call(x, aligned()), call(x, aligned(dtype="int8")), call(x, aligned(dtype="float64")))
    assert pair.lowlat.exits == {"first call": 1}
    accepted = (unaligned(), aligned(), 4096, 4097, 1, 0, None, 2**63 + 16)
    for order in (accepted, accepted[::-1]):
        pair = Pair(annotated_pointer)
        follow(pair, *(call(x, p) for p in order))
        for p in (True, -16, 2**64, 1.5, "x"):
            pair.call(GRID, x, p)
    follow(Pair(annotated_const), call(x, aligned()), call(x, unaligned()), call(x, aligned(dtype="int8")))


@pytest.mark.parametrize("route", ["driver", "wrapper"])
def test_27_launch_options(route):
    """Values, names and their order are all part of the key, as they stand in the call."""
    x = aligned()
    calls = [call(x, 5, **options) for options in (
        {}, {"num_warps": 8}, {"num_warps": 4}, {"num_warps": 2}, {"num_stages": 2}, {"num_warps": 2, "num_stages": 2},
        {"num_stages": 2, "num_warps": 2}, {"num_warps": 2, "num_stages": 4}, {"num_stages": 2, "num_warps": 4},
        {"num_warps": None}, {"maxnreg": 64}, {"debug": True}, {"debug": False}, {"debug": 1},
        {"num_warps": 2, "debug": False}, {"debug": False, "num_warps": 2}, {"enable_fp_fusion": False},
        {"num_ctas": 2}, {"launch_pdl": True}, {"launch_pdl": 1}, {"launch_cooperative_grid": True},
        {"launch_cooperative_grid": True, "launch_pdl": True, "num_ctas": 2})]
    for order in (calls, calls[::-1]):
        pair = Pair(stores)
        pair.lowlat.route = route
        follow(pair, *order)
        assert {plan.route for plan in pair.lowlat.plans} == {route}
        assert same_keys(pair)


def test_28_keywords_and_defaults():
    """In any order, left out or given: the same kernel."""
    def many(x, y, n, m, f, flag, BLOCK: tl.constexpr, MODE: tl.constexpr = "plain", SCALE: tl.constexpr = 1.0):
        pass

    arguments = {"x": aligned(), "y": unaligned(), "n": 3, "m": 32, "f": 0.5, "flag": True, "BLOCK": 64,
                 "MODE": "other", "SCALE": 2.0}
    names, calls = list(arguments), []
    for count in range(len(names) + 1):
        positional, rest = [arguments[name] for name in names[:count]], names[count:]
        for order in (rest, rest[::-1], rest[1:] + rest[:1]):
            calls.append(call(*positional, **{name: arguments[name] for name in order}))
    pair = Pair(many)
    follow(pair, *calls)
    assert pair.lowlat.exits == {"first call": 1}
    follow(pair, *(call(*args, **{"num_warps": 2, **kwargs}) for args, kwargs in calls[:6]),
           *(call(*args, **kwargs, num_warps=2) for args, kwargs in calls))
    assert pair.lowlat.exits == {"first call": 2}

    pair, x = Pair(defaults), aligned()
    follow(pair, call(x), call(x, 5), call(x, m=7), call(x, 5, 7, 16), call(x, BLOCK=16), call(m=7, x=x, n=5))
    assert pair.lowlat.exits == {"first call": 1}
    follow(pair, call(x, 6, 7), call(x, 7, 6), call(x, m=6), call(x, n=6), call(x, m=2, n=9), call(x, n=2, m=9),
           call(x, 1), call(x, m=1), call(x, BLOCK=7), call(x, 3, BLOCK=7), call(x))


def named_like_options(x, num_warps: tl.constexpr, launch_pdl: tl.constexpr = False):
    pass


def test_29_parameter_named_like_an_option():
    """By keyword it is both, by position only a parameter; the key is the same, so the first call decides."""
    x = aligned()
    calls = [call(x, 8), call(x, num_warps=8), call(num_warps=8, x=x), call(x, 8, launch_pdl=True), call(x, 8, True)]
    threads = set()
    for order in (calls, calls[::-1], calls[1:] + calls[:1]):
        pair = Pair(named_like_options)
        launches = follow(pair, *order, call(x, 2), call(x, num_warps=2))
        threads.add(launches[order.index(calls[0])].block[0])
        assert same_keys(pair)
    assert threads == {128, 256}


def test_30_unknown_keywords():
    """Refused at every call, before and after a launch of the same arguments."""
    pair, x = Pair(one), aligned()
    for _ in range(2):
        for keyword, error in (("foo", KeyError), ("device", AssertionError), ("stream", AssertionError),
                               ("device_type", AssertionError), ("grid", TypeError), ("warmup", TypeError),
                               ("self", TypeError), ("N", KeyError)):
            result = pair.call(GRID, x, 5, **{keyword: 1})
            assert result.error[0] is error and not result.launches
        for args, kwargs in (((), {}), ((x, ), {}), ((x, 5, 5), {}), ((x, 5), {"n": 5}), ((), {"n": 5})):
            result = pair.call(GRID, *args, **kwargs)
            assert result.error[0] is TypeError and not result.launches
        pair.leaves("option", GRID, x, 5, extern_libs={"one": object()})
        pair.fast(GRID, x, 5)
    # run() takes grid and warmup by name, and misses them; kernel[grid]() has its own.
    pair = Pair(one)
    for _ in range(2):
        assert pair.run(False, 5, grid=GRID, warmup=False).error is None
        for missing in ({"grid": GRID}, {"warmup": False}, {}):
            result = pair.run(False, 5, **missing)
            assert result.error[0] is TypeError and not result.launches
        assert pair.call(GRID, False, 5, grid=GRID, warmup=False).error[0] is TypeError

    # Ever new ones are forgotten at some point, and then no known one may be taken for another.
    pair = Pair(one)
    for options in ({"num_stages": 2}, {"num_warps": 2}):
        pair.fast(GRID, x, 5, **options)
    for i in range(400):
        with pytest.raises(KeyError):
            pair.lowlat[GRID](x, 5, **{f"option_{i}": 2})
        for options in ({"num_stages": 2}, {"num_warps": 2}):
            pair.call(GRID, x, 5, **options)


# ---- environment -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("holder, name, values", [("runtime", "debug", [True, 1, False]),
                                                  ("compilation", "instrumentation_mode", ["x", "", "consan"])])
def test_31_knobs(holder, name, values):
    """Set and unset, by assignment and by scope: part of the key."""
    pair, x, knob = Pair(one), aligned(), getattr(knobs, holder)
    pair.fast(GRID, x, 5)
    original = getattr(knob, name)
    for _ in range(2):
        for setting in values:
            setattr(knob, name, setting)
            if pair.call(GRID, x, 5).error is None:
                pair.fast(GRID, x, 5)
    setattr(knob, name, original)
    pair.fast(GRID, x, 5)
    with knob.scope():
        setattr(knob, name, values[0])
        pair.call(GRID, x, 5)
    pair.fast(GRID, x, 5)
    replaced = knobs.runtime if holder == "runtime" else knobs.compilation
    changed_copy = replaced.copy()
    setattr(changed_copy, name, values[0])
    setattr(knobs, holder, changed_copy)  # as a whole, as Triton's own test fixture does
    try:
        pair.call(GRID, x, 5)
    finally:
        setattr(knobs, holder, replaced)
    pair.fast(GRID, x, 5)
    assert same_keys(pair)


def test_32_stages_hook():
    """Part of the key from Triton 3.7 on."""
    pair, x = Pair(one), aligned()
    for text in (None, "'a'", "'b'", None, "'a'"):
        knobs.runtime.add_stages_inspection_hook = None if text is None else lambda *args: ("", text)
        if text is None:
            pair.fast(GRID, x, 5)
        else:
            for _ in range(2):
                pair.leaves("stages hook", GRID, x, 5)
        assert same_keys(pair)


def test_33_environment_variable_in_the_key(monkeypatch):
    """Read by Triton 3.9 at every launch, and by the earlier ones not at all."""
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    for text in ("1", "0", "1", None, "1", None):
        if text is None:
            monkeypatch.delenv("TRITON_FPSAN_HOMOMORPHIC_CASTS")
        else:
            monkeypatch.setenv("TRITON_FPSAN_HOMOMORPHIC_CASTS", text)
        pair.fast(GRID, x, 5)
        assert same_keys(pair)


def halves_agree(seen):
    """What was seen of Triton's kernel, and then of lowlat's."""
    return len(seen) > 0 and seen[:len(seen) // 2] == seen[len(seen) // 2:]


@pytest.mark.parametrize("name", ["launch_enter_hook", "launch_exit_hook"])
def test_34_launch_hooks(name):
    """Added and removed, put in place of the chain, the chain's list replaced, None."""
    pair, x, seen = Pair(one), aligned(), []
    hook = lambda metadata: seen.append(metadata and metadata.get()["name"])
    chain = getattr(knobs.runtime, name)
    pair.fast(GRID, x, 5)
    chain.add(hook)
    try:
        pair.leaves("launch hook", GRID, x, 5)
    finally:
        chain.remove(hook)
    assert seen == ["one", "one"]
    pair.fast(GRID, x, 5)
    setattr(knobs.runtime, name, hook)
    pair.leaves("launch hook", GRID, x, 5)
    assert seen == ["one"] * 4
    setattr(knobs.runtime, name, None)
    pair.fast(GRID, x, 5)
    delattr(knobs.runtime, name)
    chain.calls = [hook]
    try:
        pair.leaves("launch hook", GRID, x, 5)
    finally:
        chain.calls = []
    assert seen == ["one"] * 6
    pair.fast(GRID, x, 5)
    knobs.runtime.launch_enter_hook = None  # and then there are no metadata
    knobs.runtime.launch_exit_hook = hook
    pair.leaves("launch hook", GRID, x, 5)
    assert seen[6:] == [None, None]


def test_35_hooks_and_launches_that_do_not_happen():
    """Hooks run for an empty grid; the enter hook before the arguments are looked at, the exit hook not after a
    failure."""
    pair, x, seen = Pair(annotated_pointer), aligned(), []
    pair.fast(GRID, x, x)
    pair.fast((0, ), x, x)
    knobs.runtime.launch_enter_hook = lambda metadata: seen.append("enter")
    knobs.runtime.launch_exit_hook = lambda metadata: seen.append("exit")
    for grid in ((0, ), (4, 0), (-1, ), (65536, 65536), lambda meta: (0, )):
        assert not pair.leaves("launch hook", grid, x, x).launches
    assert seen == ["enter", "exit"] * 10
    seen.clear()
    for p in (1.5, x):
        null.fail("cuLaunchKernelEx", 1, times=2 if p is x else 0)
        assert pair.leaves("launch hook", GRID, x, p).error is not None
        assert halves_agree(seen) and "exit" not in seen
        seen.clear()
    pair.leaves("launch hook", GRID, x, x)
    assert seen == ["enter", "exit"] * 2


def test_36_enter_hook_that_raises_and_launch_metadata():
    """A refusal is no launch; and the hook is given what the kernel's own launch_metadata says, also when a grid
    callable installed it a moment ago."""
    def describe(grid, metadata, args):
        return {"grid": grid, "warps": metadata.num_warps, "arguments": list(args.items())}

    pair, x, seen = Pair(scalars, launch_metadata=describe), aligned(), []
    pair.fast(GRID, x, 5, 7)
    hook = lambda metadata: seen.append({k: v for k, v in metadata.get().items() if k != "function"})

    def installs(meta):
        knobs.runtime.launch_enter_hook.add(hook)
        return GRID

    knobs.runtime.launch_enter_hook.add(hook)
    pair.leaves("launch hook", GRID, x, 5, 7)
    for kernel in (pair.triton, pair.lowlat):
        knobs.runtime.launch_enter_hook.remove(hook)
        kernel[installs](x, 5, 7)
    knobs.runtime.launch_enter_hook.remove(hook)
    assert len(seen) == 4 and seen[0] == seen[1] == seen[2] == seen[3]
    assert seen[0]["grid"] == GRID and seen[0]["arguments"][1:] == [("n", 5), ("m", 7)]

    def refuse(metadata):
        raise PermissionError("not today")

    knobs.runtime.launch_enter_hook = refuse
    for grid in (GRID, lambda meta: GRID):
        result = pair.leaves("launch hook", grid, x, 5, 7)
        assert result.error == (PermissionError, "not today") and not result.launches
    knobs.runtime.launch_enter_hook = None
    pair.fast(GRID, x, 5, 7)


def test_37_pre_run_hooks():
    """Called with the options that Triton puts in; and by then the stream of this launch is read."""
    pair, x, seen = Pair(one), aligned(), []
    pair.fast(GRID, x, 5)

    def hook(*args, **kwargs):
        seen.append((args, list(kwargs.items())))
        null.set_stream(9)

    for kernel in (pair.triton, pair.lowlat):
        kernel.add_pre_run_hook(hook)
    before, launches = pair.lowlat.exits, []
    for stream in (0, 5):
        def launch(kernel):
            null.set_stream(stream)
            return kernel[GRID](x, 5, num_warps=2)

        launches += separately(pair, launch).launches
        assert halves_agree(seen)
    assert changed(before, pair.lowlat.exits) == {"pre-run hook": 2}
    assert [launch.stream for launch in launches] == [0, 5]
    assert [name for name, _ in seen[0][1]][:3] == ["num_warps", "debug", "instrumentation_mode"]
    for kernel in (pair.triton, pair.lowlat):
        kernel.pre_run_hooks.clear()
    pair.fast(GRID, x, 5)
    for kernel in (pair.triton, pair.lowlat):
        kernel.pre_run_hooks = [hook]
    pair.leaves("pre-run hook", GRID, x, 5)


FACTOR = tl.constexpr(3)
OTHER = tl.constexpr(4)
LIMIT = 7.0


def reads_globals(x):
    tl.store(x, FACTOR + OTHER)


def reads_a_plain_global(x):
    tl.store(x, LIMIT)


class Moody:
    """A global that is its own copy, and may be unequal to itself."""

    unequal = False

    def __deepcopy__(self, memo):
        return self

    def __ne__(self, other):
        return self.unequal

    __hash__ = None


MOODY = Moody()


def reads_a_closure():
    SCALE = tl.constexpr(3)

    def rebind(to):
        nonlocal SCALE
        SCALE = to

    def kernel(x):
        tl.store(x, SCALE)

    return kernel, rebind


OTHER_MODULE = """
import triton
import triton.language as tl

SCALE = tl.constexpr(2)

@triton.jit
def scaled(n):
    return n * SCALE
"""


def test_38_globals(monkeypatch, tmp_path):
    pair, x = Pair(reads_globals), aligned()
    pair.fast(GRID, x)
    monkeypatch.setattr(THIS_MODULE, "FACTOR", tl.constexpr(3))  # another object, equal
    pair.fast(GRID, x)
    monkeypatch.setattr(THIS_MODULE, "FACTOR", tl.constexpr(5))
    asked = []
    for _ in range(2):
        error, text = pair.leaves("global", lambda meta: asked.append(1) or GRID, x).error
        assert error is RuntimeError and "FACTOR has changed" in text
    assert not asked  # the check comes before the grid callable
    monkeypatch.delattr(THIS_MODULE, "FACTOR")
    assert pair.leaves("global", GRID, x).error[0] is RuntimeError
    monkeypatch.undo()
    pair.fast(GRID, x)
    FACTOR.value = 9  # in place
    try:
        assert pair.leaves("global", GRID, x).error[0] is RuntimeError
    finally:
        FACTOR.value = 3
    pair.fast(GRID, x)

    # Any value can be one, if the knob allows it; a NaN is never equal.
    monkeypatch.setattr(knobs.compilation, "allow_non_constexpr_globals", True)
    pair = Pair(reads_a_plain_global)
    pair.fast(GRID, x)
    monkeypatch.setattr(THIS_MODULE, "LIMIT", 7)
    pair.fast(GRID, x)
    monkeypatch.setattr(THIS_MODULE, "LIMIT", 8.0)
    pair.leaves("global", GRID, x)
    monkeypatch.setattr(THIS_MODULE, "LIMIT", numpy.array([7.0, 8.0]))  # neither equal nor unequal
    with leaving(pair, "global", 2):
        assert pair.call(GRID).error[0] is TypeError  # found before
        assert pair.call(GRID, x).error[0] is ValueError
    monkeypatch.setattr(THIS_MODULE, "LIMIT", float("nan"))
    pair = Pair(reads_a_plain_global)
    for _ in range(3):
        assert pair.call(GRID, x).error[0] is RuntimeError
    monkeypatch.undo()

    # The comparison is the value's own, also with itself.
    pair, namespace = Pair(pointers), vars(THIS_MODULE)
    pair.fast(GRID, x, x)
    for kernel in (pair.triton, pair.lowlat):
        kernel.used_global_vals = {("MOODY", id(namespace)): (MOODY, namespace)}
    pair.fast(GRID, x, x)
    monkeypatch.setattr(Moody, "unequal", True)
    assert pair.leaves("global", GRID, x, x).error[0] is RuntimeError
    monkeypatch.undo()
    pair.fast(GRID, x, x)

    # Not the variables of a closure.
    function, rebind = reads_a_closure()
    pair = Pair(function)
    pair.fast(GRID, x)
    rebind(tl.constexpr(4))
    pair.fast(GRID, x)

    # But those of a callee's module.
    path = tmp_path / "other_module.py"
    path.write_text(OTHER_MODULE)
    spec = importlib.util.spec_from_file_location("other_module", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scaled = module.scaled
    assert scaled.cache_key  # only then does Triton know of a callee's globals

    def calls_it(x):
        tl.store(x, scaled(3))

    pair = Pair(calls_it)
    pair.fast(GRID, x)
    module.SCALE = tl.constexpr(5)
    for _ in range(2):
        assert pair.leaves("global", GRID, x).error[0] is RuntimeError


@pytest.mark.parametrize("forget", [
    lambda kernel: kernel.device_caches.clear(), lambda kernel: kernel.device_caches.pop(0),
    lambda kernel: kernel.device_caches[0][0].clear(), lambda kernel: kernel.device_caches[0][0].popitem(),
    lambda kernel: setattr(kernel, "device_caches", type(kernel.device_caches)(kernel.create_binder))
], ids=["all", "of the device", "kernels", "one kernel", "replaced"])
def test_39_emptied_caches(forget):
    """Compiled anew, with the hooks of a compilation, into a new object."""
    pair, x, seen = Pair(one), aligned(), []
    pair.fast(GRID, x, 5)
    knobs.runtime.jit_post_compile_hook = lambda **kwargs: seen.append(kwargs["repr"])
    old = [kernel[GRID](x, 5) for kernel in (pair.triton, pair.lowlat)]
    for kernel in (pair.triton, pair.lowlat):
        forget(kernel)
    pair.leaves("forgotten", GRID, x, 5)
    assert len(seen) == 2 and halves_agree(seen)
    new = [kernel[GRID](x, 5) for kernel in (pair.triton, pair.lowlat)]
    assert new[0] is not old[0] and new[1] is not old[1]
    pair.fast(GRID, x, 5)
    assert len(seen) == 2

    # One kernel put in the place of another, as a finished compilation takes the place of its future.
    for kernel in (pair.triton, pair.lowlat):
        cache = kernel.device_caches[0][0]
        first, other = kernel[GRID](x, 5), kernel[GRID](x, 5, num_warps=8)
        cache[next(key for key, held in cache.items() if held is first)] = other
        assert kernel[GRID](x, 5) is other
    assert pair.call(GRID, x, 5).launches[0].block == (256, 1, 1)


def test_40_asynchronous_compilation():
    """A kernel that is still being compiled is Triton's future, for as long as Triton says so."""
    from triton.runtime._async_compile import AsyncCompileMode

    pair, x, types = Pair(one), aligned(), []
    launched = []
    for kernel in (pair.triton, pair.lowlat):
        seen = []
        with concurrent.futures.ThreadPoolExecutor(1) as executor, null.record() as launches:
            with AsyncCompileMode(executor):
                seen.append(kernel.warmup(x, 5, grid=GRID))
                seen.append(kernel[GRID](x, 5))
                seen.append(kernel[GRID](x, 16))
                seen.append(kernel[GRID](x, 5))
            seen.append(kernel[GRID](x, 5))
        types.append([type(result) for result in seen])
        launched.append(launches)
    assert types[0] == types[1] and launched[0] == launched[1] and len(launches) == 4
    for n in (5, 16):
        pair.fast(GRID, x, n)
    assert same_keys(pair)


def test_41_compile_hook_that_declines():
    """None, no launch, and nothing learnt."""
    pair, x = Pair(one), aligned()
    knobs.runtime.jit_cache_hook = lambda **kwargs: True
    for _ in range(2):
        result = pair.call(GRID, x, 5)
        assert result.result is None and result.error is None and not result.launches
    assert not pair.lowlat.plans
    knobs.runtime.jit_cache_hook = None
    pair.fast(GRID, x, 5)


def test_42_current_device():
    """Each device has its own cache and its own function, whose handle no other device takes."""
    pair, x = Pair(one), aligned()
    null.set_stream(6, 1)
    for device in (0, 1, 0, 1):
        null.set_device(device)
        launch = pair.call(GRID, x, 5).launches[0]
        assert (launch.device, launch.stream) == (device, 6 * device)
    assert pair.lowlat.exits == {"first call": 2}

    def moves(meta):
        null.set_device(1)
        return GRID

    def launch(kernel):
        null.set_device(0)
        return kernel[moves](x, 5)

    assert separately(pair, launch).error[0] is RuntimeError  # the function of device 0, in the context of device 1


@pytest.mark.parametrize("route", ["driver", "wrapper"])
def test_43_current_stream(route):
    """Read anew by each launch, before the grid callable runs.  (Capture into a graph takes a GPU: test_gpu.py.)"""
    pair, x = Pair(one), aligned()
    pair.lowlat.route = route
    pair.fast(GRID, x, 5)
    with natively(pair):
        for stream in (7, 0, 2**40, 7):
            null.set_stream(stream)
            for grid in (GRID, lambda meta: GRID):
                assert pair.call(grid, x, 5).launches[0].stream == stream

        def switches(meta):
            null.set_stream(8)
            return GRID

        def launch(kernel):
            null.set_stream(3)
            return kernel[switches](x, 5)

        assert separately(pair, launch).launches[0].stream == 3


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

    def make(address, device=0):
        managed = DLTensor(address, 2, device, 1, 2, 32, 1, ctypes.addressof(shape), None, 0, None, None)
        tensor = torch._C._from_dlpack(new(ctypes.addressof(managed), b"dltensor", None))
        tensor.memory = managed, shape
        assert tensor.is_cuda and tensor.device.index == device
        return tensor

    return make


@contextlib.contextmanager
def only_cuda_tensors():
    """CPU tensors do not stand in for device tensors."""
    devices = _fast.get_devices()
    _fast.set_devices(1 << 1)
    try:
        yield
    finally:
        _fast.set_devices(devices)


@pytest.mark.torch
@pytest.mark.parametrize("rung", ["shim", "dlpack", "python"])
def test_44_tensor_of_another_device(cuda_tensor, rung):
    """Triton asks the driver for the address that the current device reaches it by, and raises where there is none."""
    first, second = cuda_tensor(0x7F0000001000), cuda_tensor(0x7F0000002000, device=1)
    before = _torch.rung
    _torch.choose(rung)
    try:
        with only_cuda_tensors():
            pair = Pair(pointers)
            launches = pair.fast(GRID, first, first).launches
            assert int.from_bytes(launches[0].parameters[0], "little") == 0x7F0000001000
            launches = pair.leaves("other device", GRID, first, second).launches  # a peer
            assert int.from_bytes(launches[0].parameters[1], "little") == 0x7F0000002000
            null.set_memory(0x7F0000002000, 4096)  # out of reach
            assert pair.leaves("other device", GRID, first, second).error[0] is ValueError
            null.set_device(1)
            pair.call(GRID, first, first)
            pair.leaves("other device", GRID, second, first)
            null.clear_memory()
            _fast.set_devices(1 << 1)
            pair.fast(GRID, second, second)
    finally:
        _torch.choose(before)


@pytest.mark.torch
def test_45_cpu_tensors():
    """Triton's to refuse, or (pinned memory) to launch with the address the driver gives."""
    pair, x = Pair(pointers), aligned()
    pair.fast(GRID, x, x)
    with only_cuda_tensors():
        for _ in range(2):
            def launch(kernel):
                null.fail("cuPointerGetAttribute", 1)
                return kernel[GRID](x, x)

            result = separately(pair, launch)
            assert result.error[0] is ValueError and "cpu tensor?" in result.error[1] and not result.launches
        with leaving(pair, "not on device", 1):
            pair.call(GRID, x, x)
    pair.fast(GRID, x, x)


def test_46_driver_swapped():
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
    assert pair.fast(GRID, x, 5).launches[0].stream == 78

    class Foreign:
        get_current_device, get_current_stream = original.get_current_device, original.get_current_stream
        get_current_target, utils, launcher_cls = original.get_current_target, original.utils, original.launcher_cls

    driver.set_active(Foreign())
    for _ in range(2):
        pair.leaves("backend", GRID, x, 5)
    driver.set_active(original)
    pair.fast(GRID, x, 5)


def test_46_a_driver_that_is_gone():
    """What was watched once may be collected during a first launch: that is no change, and the launch is learnt."""
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    original = driver.active

    def swap():
        class Other(type(original)):
            pass

        driver.set_active(Other())
        pair.lowlat[GRID](x, 5)
        driver.set_active(original)
        pair.lowlat[GRID](x, 5)

    def collects(meta):
        gc.collect()
        return GRID

    swap()
    kernel = lowlat.jit(one)
    for _ in range(3):
        kernel[collects](x, 5)
    assert kernel.exits == {"first call": 1}


def pipelined(x, count, BLOCK: tl.constexpr):
    rows = tl.arange(0, BLOCK)
    at = x + rows[:, None] * BLOCK + rows[None, :]
    total = tl.zeros((BLOCK, BLOCK), dtype=tl.float32)
    for i in range(count):
        total += tl.dot(tl.load(at + i * 4096), tl.load(at + i * 8192))
    tl.store(at, total.to(tl.float16))


def test_47_out_of_resources():
    """Refused at every launch: by shared memory before, by threads after the binary is loaded."""
    pair, x = Pair(pipelined), aligned(dtype="float16")
    pair.fast(GRID, x, 16, BLOCK=32)
    for _ in range(3):
        for grid, (resource, options) in itertools.product((GRID, lambda meta: GRID), (
                ("shared memory", {"BLOCK": 64, "num_stages": 20}), ("threads", {"BLOCK": 32, "num_warps": 64}))):
            result = pair.call(grid, x, 16, **options)
            assert result.error[0].__name__ == "OutOfResources" and resource in result.error[1]
            assert not result.launches
    assert len(pair.lowlat.plans) == 1
    pair.fast(GRID, x, 16, BLOCK=32)


def test_48_thread_without_a_context():
    """Triton makes one current; a context, once there, is all a native launch needs."""
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    for grid in (GRID, lambda meta: GRID):
        def launch(kernel):
            null.drop_context()
            return kernel[grid](x, 5)

        before = pair.lowlat.exits
        assert separately(pair, launch).error is None
        assert len(changed(before, pair.lowlat.exits)) == 1
    assert pair.lowlat.exits["no context"] == 2
    pair.fast(GRID, x, 5)
    before, outcomes = pair.lowlat.exits, []
    for kernel in (pair.triton, pair.lowlat):
        thread = threading.Thread(target=lambda: outcomes.extend(outcome(lambda: kernel[GRID](x, 5)) for _ in range(3)))
        thread.start()
        thread.join()
    for expected, actual in zip(outcomes[:3], outcomes[3:]):
        pair.compare(expected, actual)
    assert [len(result.launches) for result in outcomes] == [1] * 6
    assert changed(before, pair.lowlat.exits) == {"no context": 1}


def needs_scratch(x, M, N, BLOCK: tl.constexpr):
    descriptor = tl.make_tensor_descriptor(x, [M, N], [N, 1], [BLOCK, BLOCK])
    descriptor.store([0, 0], descriptor.load([0, 0]))


@pytest.mark.torch
def test_49_allocator_of_the_thread():
    """Scratch memory comes from the allocator of the calling thread, or there is none."""
    pair, x, asked, memory = Pair(needs_scratch), aligned(4096), [], aligned(4096)

    def allocate(size, alignment, stream):
        asked.append((size, alignment, stream))
        return memory

    in_thread = []
    triton.set_allocator(allocate)
    try:
        for grid in (GRID, lambda meta: (2, )):
            launch = pair.fast(grid, x, 64, 64, BLOCK=16).launches[0]
            assert memory.data_ptr() in [int.from_bytes(parameter, "little") for parameter in launch.parameters]
        assert len(asked) == 8 and set(asked[:4]) == {asked[0]} and set(asked[4:]) == {asked[4]}
        thread = threading.Thread(target=lambda: in_thread.append(pair.call(GRID, x, 64, 64, BLOCK=16)))
        thread.start()
        thread.join()
    finally:
        triton.set_allocator(_allocation.NullAllocator())
    assert "no allocator was set" in in_thread[0].error[1] and not in_thread[0].launches and len(asked) == 8
    assert pair.call(GRID, x, 64, 64, BLOCK=16).error == in_thread[0].error


def test_50_fork():
    """In a child nothing is launched natively before Triton has launched; what CUDA says of forks takes a GPU."""
    code = ("import os, sys, lowlat\nfrom lowlat import null\nfrom test_edge_cases import one\n"
            "from oracle import aligned, pointers\nnull.activate()\nk, x = lowlat.jit(pointers(one)), aligned()\n"
            "for _ in range(3): k[(1,)](x, 5)\nchild = os.fork()\n"
            "if child == 0:\n    for _ in range(3): k[(1,)](x, 5)\n"
            "    os._exit(0 if k.exits == {'first call': 1, 'forked': 1} else 1)\n"
            "status = os.waitpid(child, 0)[1]\nk[(1,)](x, 5)\nassert k.exits == {'first call': 1}\n"
            "sys.exit(os.waitstatus_to_exitcode(status))")
    folder = os.path.dirname(__file__)
    package = os.path.dirname(os.path.dirname(lowlat.__file__))
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder,
                            env={**os.environ, "PYTHONPATH": path})
    assert result.returncode == 0, result.stderr


def test_51_threads():
    """Launches of one kernel from many threads, and from its own grid callable, never mix their arguments."""
    pair, tensors = Pair(scalars), [aligned() for _ in range(8)]
    kernel = pair.lowlat
    pair.fast(GRID, tensors[0], 1001, 7)

    def launch(kernel):
        def reenters(meta):
            kernel[(meta["m"], )](tensors[1], 3003, 9)
            return (2, )

        return kernel[reenters](tensors[0], 1001, 7)

    with natively(pair):
        assert [record.grid[0] for record in separately(pair, launch).launches] == [7, 2]

    def work(number):
        for i in range(300):
            kernel[(number + 1, )](tensors[number], 1000 + 2 * number + 1, 2 * i + 3)

    before = pair.lowlat.exits
    with null.record() as launches:
        threads = [threading.Thread(target=work, args=(number, )) for number in range(8)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert len(launches) == 8 * 300 and changed(before, pair.lowlat.exits) == {"no context": 8}
    for record in launches:
        number = record.grid[0] - 1
        assert int.from_bytes(record.parameters[0], "little") == address_of(tensors[number])
        assert int.from_bytes(record.parameters[1], "little") == 1000 + 2 * number + 1


def test_51_another_thread_compiles_while_a_plan_is_made():
    """Triton's cache grows while lowlat looks a new kernel up in it; the trace function stands for the other thread."""
    kernel, x, added = lowlat.jit(scalars), aligned(), []
    kernel[GRID](x, 1001, 7)
    cache = kernel.device_caches[driver.active.get_current_device()][0]

    def trace(frame, event, argument):
        if frame.f_code.co_filename != _triton.__file__:
            return None
        if event == "line" and any(value is cache for value in outer_locals(frame)) and len(added) < 20:
            added.append(f"another {len(added)}")
            cache[added[-1]] = None
        return trace

    def outer_locals(frame):
        while frame.f_code.co_name != "_key_of" and frame.f_back is not None:
            frame = frame.f_back
        return [entry[0] for entry in frame.f_locals.values() if isinstance(entry, tuple) and entry]

    with null.record() as launches:
        sys.settrace(trace)
        try:
            kernel[GRID](x, 1008, 7)
        finally:
            sys.settrace(None)
    assert added and len(launches) == 1
    for key in added:
        del cache[key]
    before = kernel.exits
    kernel[GRID](x, 1008, 7)
    assert changed(before, kernel.exits) == {}


@pytest.mark.torch
def test_52_nothing_is_kept_alive():
    """Neither the tensors of a call nor a kernel that Triton dropped; but a kernel lives as long as its launch."""
    kernel, x = lowlat.jit(defaults), aligned()
    counts = []
    for _ in range(3):
        kernel[lambda meta: GRID](x, 300, 16, BLOCK=64)
        kernel[GRID](x, n=300, m=17, BLOCK=64)
        kernel.run(x, 300, 16, BLOCK=64, grid=GRID, warmup=False)
        counts.append(sys.getrefcount(x))
    assert counts[0] == counts[1] == counts[2] == sys.getrefcount(x)
    reference = weakref.ref(x)
    del x
    assert reference() is None

    for route in ("driver", "wrapper"):  # the dict of a grid callable is used again
        kernel.route = route
        tensors = [aligned(), torch.nn.Parameter(aligned()), unaligned()]
        for tensor in tensors * 2:
            kernel[lambda meta: GRID](tensor, 300, m=16)
            kernel[lambda meta: KEPT.clear() or GRID](tensor, int("123456789012345"), BLOCK=64)
        references = [weakref.ref(tensor) for tensor in tensors]
        del tensors, tensor
        assert [reference() for reference in references] == [None] * 3
    kernel.route = "auto"

    x = aligned()
    references = [weakref.ref(kernel[GRID](x, 300, num_warps=warps)) for warps in (1, 2, 4)]
    kernel[GRID](x, 300, num_warps=1)
    kernel.device_caches.clear()
    gc.collect()
    assert [reference() for reference in references] == [None] * 3

    pair = Pair(one)

    def launch(kernel):
        def empties(meta):
            kernel.device_caches.clear()
            gc.collect()
            return GRID

        return kernel[empties](x, 5)

    for _ in range(3):
        pair.fast(GRID, x, 5)
        assert len(separately(pair, launch).launches) == 1


class Subclass(torch.Tensor if torch else object):
    seen = []

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        cls.seen.append(getattr(func, "__name__", func))
        return super().__torch_function__(func, types, args, kwargs or {})


class Mode(torch.overrides.TorchFunctionMode if torch else object):
    seen = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.seen.append(getattr(func, "__name__", func))
        return func(*args, **(kwargs or {}))


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor")
def test_53_tensors_whose_address_is_not_theirs():
    """A TorchFunctionMode, a subclass, a fake tensor: Triton asks them as it does.  A copy-on-write tensor gets its
    copy, natively."""
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    with leaving(pair, "torch function mode", 1):
        with Mode():
            pair.call(GRID, x, 5)
        assert halves_agree(Mode.seen)
    pair.fast(GRID, x, 5)

    def launch(kernel):
        def enters(meta):
            mode.__enter__()
            return GRID

        mode = Mode()
        try:
            return kernel[enters](x, 5)
        finally:
            mode.__exit__(None, None, None)

    Mode.seen.clear()
    separately(pair, launch)
    assert halves_agree(Mode.seen)
    pair.fast(GRID, x, 5)

    special = x.as_subclass(Subclass)
    Subclass.seen.clear()
    with leaving(pair, "argument", 1):
        pair.call(GRID, special, 5)
        assert halves_agree(Subclass.seen)

    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        fake = torch.empty(64)
    with leaving(pair, "argument", 1):
        pair.call(GRID, fake, 5)

    for kernel in (pair.triton, pair.lowlat):
        original = aligned()
        lazy, before = torch._lazy_clone(original), pair.lowlat.exits
        with null.record() as launches:
            kernel[GRID](lazy, 5)
        assert not torch._C._is_cow_tensor(lazy) and lazy.data_ptr() != original.data_ptr()
        assert int.from_bytes(launches[0].parameters[0], "little") == lazy.data_ptr()
        assert pair.lowlat.exits == before


# ---- grid ------------------------------------------------------------------------------------------------------------


class Sequence:

    def __len__(self):
        return 2

    def __getitem__(self, i):
        return (6, 7)[i]


class Upside(tuple):
    """Items and length are not where a tuple has them, and it is called first of all."""

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return 10 - i


class Called(tuple):

    def __call__(self, meta):
        return (7, len(self))


class Index:

    def __index__(self):
        return 6


class Odd(numpy.int64):

    def __index__(self):
        return 9


class Doubled(int):
    """To Triton's launcher the int that it is."""

    def __index__(self):
        return 2 * int(self)

    __int__ = __index__


@pytest.mark.parametrize("grid", [
    numpy.array([2, 3]), Sequence(), {0: 3, 1: 4}, {0: 3}, collections.UserList([5]), range(4, 7), b"ab",
    Upside((1, 2)), (Index(), ), (Odd(3), 2), (tl.constexpr(True), ), (tl.constexpr(numpy.int64(2)), ),
    (numpy.array(3), ), (numpy.array(3)[()].view(numpy.uint64), numpy.array([4])[0:1][0], numpy.array(2)),
    *([(torch.tensor(3), ), torch.tensor([2, 3])] if torch else [])
], ids=repr)
def test_54_grid_containers(grid):
    """Anything with a length and items will do, and any item that is an index: Triton's to read."""
    pair, x = Pair(one), aligned()
    pair.fast((2, 3), x, 5)
    pair.fast([2, 3, 4], x, 5)
    with leaving(pair, "grid", 2):
        pair.call(grid, x, 5)
        pair.call(lambda meta: grid, x, 5)
    pair.fast((5, ), x, 5)


@pytest.mark.parametrize("grid", [
    Point(2, 3), (Size.SIXTEEN, ), (True, 2), [2, False], (Doubled(3), 2), [2**20, Doubled(2**14)],
    (tl.constexpr(3), 2), [4, tl.constexpr(-1)], [2, 3, tl.constexpr(2**31 - 1)],
    *[(kind(3), 2, kind(4)) for kind in (
        numpy.int8, numpy.int16, numpy.int32, numpy.int64, numpy.uint8, numpy.uint16, numpy.uint32, numpy.uint64,
        numpy.longlong, numpy.ulonglong, numpy.intc)],
    (numpy.int64(-3), 2), (numpy.int64(2**31 - 1), ),
    *([torch.Size([4]), torch.Size([2, 3, 4, 5]), torch.Size([2, 3, 4])[:2], (torch.Size([6])[0], )] if torch else [])
], ids=repr)
def test_54_grids_that_are_as_good(grid):
    """Read as Triton's launcher reads them, where that runs no line of Python."""
    pair, x = Pair(stores), aligned()
    pair.fast(grid, x, 5)
    pair.fast(lambda meta: grid, x, 5)
    pair.fast(grid, x, 5, num_ctas=2)
    pair.run(x, 5, grid=grid, warmup=False)
    pair.lowlat.route = "wrapper"
    pair.fast(grid, x, 5)
    pair.fast(lambda meta: grid, x, 5)


@pytest.mark.parametrize("grid", [(tl.constexpr(2.0), ), (tl.constexpr("2"), ), (tl.constexpr(2**31), ),
                                  (numpy.int64(2**31), 1), (numpy.uint64(2**64 - 1), ), (numpy.float32(2), ),
                                  (numpy.bool_(True), ), (numpy.timedelta64(3), ), Point("x", 1), (Doubled(2**31), ),
                                  *([torch.Size([]), torch.Size([2**31])] if torch else [])], ids=repr)
def test_54_grids_that_are_not_as_good(grid):
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    with leaving(pair, "grid", 2):
        for way in (grid, lambda meta: grid):
            assert pair.call(way, x, 5).error is not None


def test_54_a_tuple_that_can_be_called():
    pair, x = Pair(one), aligned()
    for _ in range(2):
        assert pair.call(Called((3, 4)), x, 5).launches[0].grid == (7, 2, 1)
    with leaving(pair, "grid", 1):
        assert pair.call(lambda meta: Upside((1, 2)), x, 5).launches[0].grid == (10, 9, 8)
    pair.fast(lambda meta: Called((3, 4)), x, 5)


def test_54_constexpr_items_whose_index_is_patched(monkeypatch):
    pair, x, grid = Pair(one), aligned(), (tl.constexpr(3), 2)
    pair.fast(grid, x, 5)
    monkeypatch.setattr(tl.constexpr, "__index__", lambda self: self.value + 5)
    with leaving(pair, "grid", 2):
        assert pair.call(grid, x, 5).launches[0].grid == (8, 2, 1)
        assert pair.call(lambda meta: grid, x, 5).launches[0].grid == (8, 2, 1)
    monkeypatch.undo()
    pair.fast(grid, x, 5)


def test_54_items_that_scratch_memory_is_counted_by():
    """Triton multiplies them as they are, and what numpy's product is depends on the type."""
    from triton.runtime import _allocation

    asked, memory = [], aligned(4096)
    pair = Pair(needs_scratch)
    triton.set_allocator(lambda size, alignment, stream: asked.append(size) or memory)
    try:
        for grid in ((2, 3), (numpy.int64(2), 3), (True, 2), (tl.constexpr(2), )):
            for _ in range(2):
                asked.clear()
                pair.call(grid, memory, 64, 64, BLOCK=16)
                assert len(asked) == 2 and asked[0] == asked[1]
    finally:
        triton.set_allocator(_allocation.NullAllocator())


def reads(meta):
    return [meta["n"], meta["BLOCK"]]


def replaces(meta):
    meta["x"] = REPLACEMENT
    return GRID


def replaces_numbers(meta):
    meta["n"], meta["BLOCK"] = meta["n"] + 2, 1
    return GRID


def reorders(meta):
    meta["n"] = meta.pop("n")
    return [2]


def adds(meta):
    meta["extra"] = 1
    return GRID


def puts_back(meta):
    meta["n"], n = None, meta["n"]
    meta["n"] = n
    return GRID


def keeps(meta):
    KEPT.append(meta)
    return (len(KEPT[0]) + len(meta), )


class Sized:

    def __init__(self, extra):
        self.extra = extra

    def grid(self, meta):
        return [meta["n"] + self.extra, meta["m"]]

    __call__ = grid


class Grid(tuple):
    """A class is a callable."""

    def __new__(cls, meta):
        return super().__new__(cls, (meta["n"], meta["m"]))


REPLACEMENT = aligned()
KEPT = []


@pytest.mark.parametrize("grid", [reads, replaces, replaces_numbers, reorders, adds, puts_back, keeps],
                         ids=lambda grid: grid.__name__)
def test_55_callable_grids(grid):
    """Called once, with the live arguments, defaults and constexprs and no options; what it changes is launched.  (One
    that removes an entry makes Triton 3.7 and later read past the end of a tuple.)"""
    seen = []

    def watched(meta):
        seen.append((type(meta), list(meta.items())))
        return grid(meta)

    pair, x = Pair(defaults), aligned()
    pair.fast(GRID, x, 3)
    with natively(pair) if grid in (reads, puts_back, keeps) else contextlib.nullcontext():
        for function in (grid, watched):
            for _ in range(2):
                KEPT.clear()
                pair.call(function, x, 3)
    assert len(seen) == 4 and seen[0] == seen[1] == seen[2] == seen[3]
    assert seen[0] == (dict, [("x", x), ("n", 3), ("m", 7), ("BLOCK", 16)])
    pair.call(watched, x, m=5, num_warps=2)
    assert seen[-1] == seen[-2] == (dict, [("x", x), ("n", 5), ("m", 5), ("BLOCK", 16)])
    for meta in KEPT:
        meta["n"] = 1000  # after the launch it is the callable's
    pair.fast(GRID, x, 3)
    assert pair.call(reads, x, 3).launches[0].grid == (3, 16, 1)


def takes_out(meta):
    del meta["n"]
    raise LookupError("no grid today")


def empties(meta):
    meta.clear()
    raise LookupError("no grid today")


def fills_again(meta):
    """The same names and values, in a table of another size."""
    items = dict(meta)
    meta.clear()
    meta.update({f"other {i}": i for i in range(100)})
    meta.clear()
    meta.update(items)
    return GRID


def adds_for_a_while(meta):
    meta["extra"] = 1
    del meta["extra"]
    return GRID


def keeps_a_view(meta):
    KEPT.append(meta.items())
    return GRID


def keeps_an_iterator(meta):
    KEPT.append(iter(meta.values()))
    return GRID


def keeps_a_frame(meta):
    KEPT.append(sys._getframe())
    return GRID


def gives_itself(meta):
    return meta


ABUSES = [reads, replaces, replaces_numbers, reorders, adds, puts_back, keeps, takes_out, empties, fills_again,
          adds_for_a_while, keeps_a_view, keeps_an_iterator, keeps_a_frame, gives_itself]


@pytest.mark.parametrize("abuse", ABUSES, ids=lambda grid: grid.__name__)
def test_55_what_was_done_to_the_dict_before(abuse):
    """Whatever a callable did to its dict, the next one's is whole and has the arguments of its own call."""
    pair, x, y = Pair(defaults), aligned(), aligned()
    pair.fast(GRID, x, 3)

    def watches(meta):
        observe(type(meta), list(meta.items()), gc.is_tracked(meta) or torch is None)
        return (meta["n"], )

    before = []
    for _ in range(2):
        for args in ((x, 3), (y, 5, 9), (x, 2**40, 7, 32)):
            KEPT.clear()
            pair.call(abuse, *args)
            kept = [meta for meta in KEPT if type(meta) is dict]
            before += [(meta, list(meta.items())) for meta in kept]
            pair.call(watches, x, 3)
            pair.call(watches, y, m=17)
    assert all(list(meta.items()) == items for meta, items in before)
    with natively(pair):
        pair.call(watches, y, 5)


def test_55_a_dict_with_an_entry_more_is_used_up():
    """A namespace for eval(), which adds to it."""
    pair, x = Pair(defaults), aligned()
    pair.fast(GRID, x, 3)
    for _ in range(3):
        pair.call(lambda meta: (eval("n + m", {}, meta), ), x, 3)
        pair.call(lambda meta: (eval("n + m", {**meta}), ), x, 3)


def test_55_a_callable_within_a_callable():
    """A launch of the same kernel from its own grid callable has a dict of its own, and its own arguments."""
    pair, x, y = Pair(defaults), aligned(), aligned()

    def launch(kernel):
        def inner(meta):
            observe("inner", list(meta.items()))
            return (meta["m"], )

        def outer(meta):
            observe("outer", list(meta.items()))
            kernel[inner](y, 9, 11)
            kernel[inner](y, 10, 12)
            observe("outer", list(meta.items()))
            return (meta["n"], )

        return [kernel[outer](x, 3), kernel[inner](x, 4, 5), kernel[outer](y, 6)]

    for _ in range(2):
        separately(pair, launch)
    with natively(pair):
        assert [record.grid[0] for record in separately(pair, launch).launches] == [11, 12, 3, 5, 11, 12, 6]


def test_55_threads_in_a_callable():
    """Each has its own dict, as long as it is in there."""
    pair, tensors = Pair(defaults), [aligned() for _ in range(4)]
    kernel = pair.lowlat
    for number in range(4):
        kernel[GRID](tensors[number], 100 + 2 * number + 1)
    together = threading.Barrier(4)
    seen = [[] for _ in range(4)]

    def work(number):
        def grid(meta):
            together.wait(60)
            seen[number].append(list(meta.items()))
            together.wait(60)
            seen[number].append(list(meta.items()))
            return (number + 1, )

        for i in range(25):
            kernel[grid](tensors[number], 100 + 2 * number + 1, 2 * i + 1001)

    threads = [threading.Thread(target=work, args=(number, )) for number in range(4)]
    with null.record() as launches:
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert len(launches) == 100
    for number in range(4):
        expected = [[("x", tensors[number]), ("n", 100 + 2 * number + 1), ("m", 2 * i + 1001), ("BLOCK", 16)]
                    for i in range(25)]
        assert seen[number] == [items for items in expected for _ in range(2)]
    for record in launches:
        assert int.from_bytes(record.parameters[0], "little") == address_of(tensors[record.grid[0] - 1])


@pytest.mark.parametrize("grid", [
    operator.itemgetter("n", "m"), functools.partial(lambda extra, meta: (meta["n"] + extra, ), 2), Sized(4).grid,
    Sized(5), Grid
], ids=repr)
def test_55_callables_of_all_kinds(grid):
    pair, x = Pair(defaults), aligned()
    pair.fast(grid, x, 3)
    pair.fast(grid, x, 5, m=2)


@pytest.mark.parametrize("grid", [(), [], 5, None, (1.5, ), (2.0, 1), "a", "", ("x", ), (None, 1), [[]], (2**31, ),
                                  (-2**31 - 1, ), (2**70, ), object(), {}, {1: 2},
                                  *([(torch.tensor([2, 3]), )] if torch else [])], ids=repr)
def test_56_grids_that_are_none(grid):
    """Triton's own exceptions, through a callable as well."""
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    with leaving(pair, "grid", 4):
        for _ in range(2):
            for way in (grid, lambda meta: grid):
                result = pair.call(way, x, 5)
                assert result.error is not None and not result.launches
    pair.fast((2, 3, 4, 5), x, 5)  # the tail is not looked at
    pair.fast((2, 3, 4, "x"), x, 5)
    pair.fast(lambda meta: [2, 3, 4, None], x, 5)


@pytest.mark.parametrize("grid", [(1, ), (2, 3), (2, 3, 4), [1, 2, 3], (2**31 - 1, ), (0, ), (4, 0), (0, 5, 6), (-1, ),
                                  (-1, -1), (-1, -1, 1), (-1, 3, -2), (-2**31, ), (65536, 65536), (2**31 - 1, 2),
                                  (2**16, 2**15), (2**16, 2**15, 3), (2**20, 2**20, 2**20), (3, 2**31 - 1)], ids=repr)
def test_57_grid_products(grid):
    """Multiplied in 32 bits; nothing is launched unless that is positive."""
    pair, x = Pair(stores), aligned()
    pair.fast(grid, x, 5)
    pair.fast(lambda meta: grid, x, 5)
    pair.fast(grid, x, 5, num_ctas=2)


def test_58_grid_is_read_late():
    """The list is the caller's: what it holds when the launcher is called counts, not when it was made."""
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    grid = [2]
    launchers = [kernel[grid] for kernel in (pair.triton, pair.lowlat)]
    with natively(pair):
        for size in (2, 9, 4):
            grid[:] = [size]
            expected, actual = (outcome(lambda launcher=launcher: launcher(x, 5)) for launcher in launchers)
            pair.compare(expected, actual)
            assert actual.launches[0].grid == (size, 1, 1)


# ---- launcher --------------------------------------------------------------------------------------------------------


def annotated_bool(x, n: tl.int1):
    pass


def test_59_bool_bytes():
    """True is one clean byte; 2 stays 2 where a bool is declared."""
    x, pair = aligned(), Pair(one)
    launches = follow(pair, call(x, True), call(x, False))
    assert [launch.parameters[1] for launch in launches] == [b"\x01", b"\x00"]
    for route in ("auto", "wrapper"):
        pair = Pair(annotated_bool)
        pair.lowlat.route = route
        for n in (True, 2, 255, 0, False, 256, -1, 2**32, 2**63, "x", None, 0.5):
            for _ in range(2):
                pair.call(GRID, x, n)
    assert pair.call(GRID, x, 2).launches[0].parameters[1] == b"\x02"


def annotated_fp16(x, n: tl.float16):
    pass


def annotated_bf16(x, n: tl.bfloat16):
    pass


def annotated_fp32(x, n: tl.float32):
    pass


def annotated_fp64(x, n: tl.float64):
    pass


def nan(bits):
    return struct.unpack("<d", struct.pack("<Q", bits))[0]


@pytest.mark.parametrize("function", [annotated_fp16, annotated_bf16, annotated_fp32, annotated_fp64, one],
                         ids=lambda function: function.__name__)
def test_60_float_bytes(function):
    """fp16 is rounded and may overflow, bf16 cut off, fp32 may become inf; zeros and NaNs keep their bits."""
    x, pair = aligned(), Pair(function)
    pair.fast(GRID, x, 0.5)
    floats = (0.1, 1 / 3, 1 + 2**-8 + 2**-9, -1 - 2**-8, 3.3895e38, 1e300, -1e300, 0.0, -0.0, 1e-45, 1e-310, 65504.0,
              65519.9, 65520.0, -65520.0, 70000.0, float("inf"), -float("inf"), nan(0x7FF8000000000000),
              nan(0xFFF8000000000000), nan(0x7FFC123450000001), nan(0x7FF0000020000000))
    with natively(pair):
        for f in floats:
            for grid in (GRID, lambda meta: GRID):
                pair.call(grid, x, f)
    for n in (3, -1, 2**30, 2**53 + 1, 10**40, True, None, "x", numpy.float64(0.1), numpy.float32(0.1)):
        for _ in range(2):
            pair.call(GRID, x, n)
    assert {plan.route for plan in pair.lowlat.plans} >= {"wrapper" if function is annotated_fp16 else "driver"}
    if function is annotated_fp16:
        assert pair.call(GRID, x, 70000.0).error[0] is OverflowError


class Address:
    """Something with data_ptr(), which it answers differently each time, and refuses the `failing`th time."""

    dtype = torch and torch.float32

    def __init__(self, failing=None):
        self.asked, self.failing = 0, failing

    def data_ptr(self):
        self.asked += 1
        if self.asked == self.failing:
            raise LookupError(f"no address today ({self.asked})")
        return 0x7F0000000000 + 16 * self.asked


@pytest.mark.torch
@pytest.mark.parametrize("failing", [1, 2])
def test_61_data_ptr_that_raises(failing):
    """While specialising its own exception, while launching the launcher's."""
    pair, x = Pair(pointers), aligned()
    pair.fast(GRID, x, x)
    for _ in range(2):
        result = separately(pair, lambda kernel: kernel[GRID](x, Address(failing)))
        assert result.error[0] is (LookupError if failing == 1 else TypeError) and not result.launches
    # A torch.Tensor without an address is Triton's to refuse as well, whatever was launched before.
    dense = [aligned(), unaligned()]
    follow(pair, *(call(x, tensor) for tensor in dense))
    with leaving(pair, "unreadable", 2):
        for _ in range(2):
            result = pair.call(GRID, x, torch.zeros(4, 4).to_sparse())
            assert result.error[0] is RuntimeError and not result.launches


@pytest.mark.torch
@pytest.mark.parametrize("route", ["driver", "wrapper"])
def test_62_data_ptr_is_asked_as_often(route):
    """Triton asks once to specialise and once, after the grid callable, to launch, and passes what it is told then."""
    pair, x, asked = Pair(pointers), aligned(), []
    pair.fast(GRID, x, x)

    def launch(kernel):
        asked.append(Address())
        return kernel[GRID](x, asked[-1])

    for _ in range(3):
        parameters = separately(pair, launch).launches[0].parameters
        assert int.from_bytes(parameters[1], "little") == 0x7F0000000000 + 32
    assert [address.asked for address in asked] == [2] * 6

    # A tensor that the grid callable moves: the kernel of where it was, the address of where it is.
    pair, memory = Pair(pointers), []
    pair.lowlat.route = route
    pair.fast(GRID, x, x)
    for move in (lambda tensor: tensor.set_(aligned()), lambda tensor: tensor.set_(unaligned()),
                 lambda tensor: tensor.resize_(100000), lambda tensor: tensor.resize_(0),
                 lambda tensor: setattr(tensor, "data", aligned(dtype="float16"))):
        def launch(kernel):
            def grid(meta):
                memory.append(tensor.untyped_storage())  # so that no address comes twice
                move(tensor)
                return GRID

            tensor = aligned()
            before = tensor.data_ptr()
            kernel[grid](x, tensor)
            return before, tensor.data_ptr()

        with natively(pair):
            for kernel in (pair.triton, pair.lowlat):
                result = outcome(lambda: launch(kernel))
                before, after = result.result
                assert int.from_bytes(result.launches[0].parameters[1], "little") == after != before


def test_63_returned_object():
    """Triton's CompiledKernel, the same one each time, which can be looked at and launched."""
    pair, x = Pair(one), aligned()
    pair.fast(GRID, x, 5)
    for kernel in (pair.triton, pair.lowlat):
        compiled = kernel[GRID](x, 5)
        for again in (kernel[GRID](x, 5), kernel[lambda meta: GRID](x, n=7), kernel[(0, )](x, 5),
                      kernel.run(x, 5, grid=GRID, warmup=False), kernel.warmup(x, 5, grid=GRID)):
            assert again is compiled
        assert compiled is list(kernel.device_caches[0][0].values())[0]
        assert "cubin" in compiled.asm and compiled.n_regs > 0 and compiled.metadata.num_warps == 4
    with natively(pair):
        result = separately(pair, lambda kernel: kernel[GRID](x, 5)[(2, 3, 4)](x, 9))
        assert result.result is None and [record.grid for record in result.launches] == [(3, 1, 1), (2, 3, 4)]
        for grid in ((2, ), (2, 3)):
            assert separately(pair, lambda kernel: kernel[GRID](x, 5)[grid](x, 9)).error[0] is IndexError


@pytest.mark.torch
def test_64_warmup_and_direct_calls():
    """warmup() compiles and launches nothing; dtypes stand for tensors by position only; a kernel is not called."""
    pair, x = Pair(one), aligned()
    launched = null.launches()
    for _ in range(2):
        separately(pair, lambda kernel: kernel.warmup(x, 5, grid=GRID))
        separately(pair, lambda kernel: kernel.warmup(torch.float32, 5, grid=GRID))
        separately(pair, lambda kernel: kernel.warmup(torch.float16, 16, grid=None))
        by_name = separately(pair, lambda kernel: kernel.warmup(x=torch.float32, n=5, grid=GRID))
        assert by_name.error[0] is TypeError
    assert null.launches() == launched and same_keys(pair)
    pair.fast(GRID, x, 5)
    launched = null.launches()
    with natively(pair):
        for grid in (GRID, None, lambda meta: 1 / 0):
            separately(pair, lambda kernel: kernel.warmup(x, 5, grid=grid))
            assert pair.run(x, 5, grid=grid, warmup=True).error is None
        assert pair.lowlat.warmup(x, 5, grid=GRID) is pair.lowlat[GRID](x, 5)
    assert null.launches() == launched + 1
    assert separately(pair, lambda kernel: kernel(x, 5)).error[0] is RuntimeError


@pytest.mark.parametrize("owner, name", [(TritonJITFunction, "run"), (lowlat.JITFunction, "run"),
                                         (KernelInterface, "__getitem__")], ids=["run", "lowlat's run", "__getitem__"])
def test_65_replaced_launch_functions(owner, name, monkeypatch):
    """Recorders, tracers and tuners put their own function on the class: it is the one called."""
    pair, x, seen = Pair(one), aligned(), []
    pair.fast(GRID, x, 5)
    launched = null.launches()

    def recorder(self, *args, **kwargs):
        seen.append((self, args, kwargs))
        return "recorded" if name == "run" else lambda *args, **kwargs: ("recorded", args, kwargs)

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, recorder)
            result = pair.lowlat[GRID](x, 5, num_warps=2)
            if name == "run":
                assert result == "recorded"
                assert pair.lowlat.run(x, 5, grid=GRID, warmup=False) == "recorded"
                assert seen == [(pair.lowlat, (x, 5), {"grid": GRID, "warmup": False, "num_warps": 2}),
                                (pair.lowlat, (x, 5), {"grid": GRID, "warmup": False})]
            else:
                assert result == ("recorded", (x, 5), {"num_warps": 2}) and seen == [(pair.lowlat, (GRID, ), {})]
        seen.clear()
        assert null.launches() == launched
        pair.fast(GRID, x, 5)
        launched = null.launches()


# ---- beyond the list -------------------------------------------------------------------------------------------------


def test_keywords_are_held_while_python_code_runs():
    """PyObject_Call from C may pass a dict that somebody else empties, in a driver's own stream getter, say."""
    pair, x, kept = Pair(one), aligned(), []
    number = 10**15 + 7
    pair.fast(GRID, x, number)
    apply = ctypes.pythonapi.PyObject_Call
    apply.restype, apply.argtypes = ctypes.py_object, [ctypes.py_object] * 3

    class Empties(type(driver.active)):

        def __init__(self):
            super().__init__()
            self.get_current_stream = self.empties

        def empties(self, device):
            named.clear()
            gc.collect()
            kept.append([number - 1 - i for i in range(50)])  # where the argument was, if nobody held it
            return 0

    driver.set_active(Empties())
    for _ in range(5):
        def launch(kernel):
            named.update(x=x, n=int(str(number)))
            return apply(kernel[GRID], (), named)

        named = {}
        parameters = separately(pair, launch).launches[0].parameters
        assert int.from_bytes(parameters[1], "little") == number and not named
    assert pair.lowlat.exits == {"first call": 1}


@pytest.mark.parametrize("owner, name", [
    (CompiledKernel, "launch_metadata"), (CompiledKernel, "_init_handles"), (CudaLauncher, "__call__"),
    (HookChain, "__call__"), *([(torch.Tensor, "data_ptr"), (torch.nn.Parameter, "data_ptr")] if torch else [])
], ids=lambda part: getattr(part, "__name__", part))
def test_whoever_wraps_a_function_of_the_launch_sees_every_launch(owner, name, monkeypatch):
    pair, x, seen = Pair(pointers), aligned(), []
    parameter = torch.nn.Parameter(aligned()) if torch else aligned()
    pair.fast(GRID, x, parameter)
    original = getattr(owner, name)

    def wrapper(self, *args, **kwargs):
        seen.append(type(self))
        return original(self, *args, **kwargs)

    for _ in range(2):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, wrapper, raising=False)
            with leaving(pair, "patched", 2):
                for grid in (GRID, lambda meta: GRID):
                    pair.call(grid, x, parameter)
                    assert halves_agree(seen)
                    seen.clear()
        pair.fast(GRID, x, parameter)
    assert not seen
