"""Arguments beyond tensors and numbers, on the null driver: tuples, constants, kernels, wrappers, objects with addresses."""

import collections
import dataclasses
import enum
import types

import numpy
import pytest
import triton
import triton.language as tl
from triton.runtime.jit import JITFunction as TritonJITFunction

import lowlat
from oracle import Pair, aligned, observe, torch, unaligned

pytestmark = pytest.mark.null

GRID = (2, )


def plain(x, t, c):
    tl.store(x, 1)


def constant(x, V: tl.constexpr):
    tl.store(x, 1)


def items(x, t, n):
    tl.store(t[0], tl.load(x) + t[1] + t[2][0] + n)


def fresh(*values):
    """A tuple that is not a constant of this module."""
    return tuple(list(values))


Point = collections.namedtuple("Point", "x y")


class Pairs(tuple):
    __slots__ = ()


class Backwards(tuple):
    __slots__ = ()

    def __iter__(self):
        return iter(tuple(self)[::-1])


class Color(enum.Enum):
    RED = 1
    GREEN = 2


class Level(enum.IntEnum):
    ONE = 1
    SIXTEEN = 16
    LARGE = 2**40


class Odd(enum.Enum):
    A = 1
    B = 2

    def __hash__(self):
        return 7

    def __eq__(self, other):
        return isinstance(other, Odd)


class Int(int):
    pass


class Contrary(int):
    __hash__ = int.__hash__

    def __eq__(self, other):
        return False


@dataclasses.dataclass(frozen=True)
class Layout:
    size: int
    order: tuple = (1, 0)


@dataclasses.dataclass(unsafe_hash=True)
class Mutable:
    size: int


def helper(a):
    return a


# ---- tuples ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"do_not_specialize": ["t"]}, {"do_not_specialize_on_alignment": ["t"]}],
                         ids=["default", "do_not_specialize", "on_alignment"])
def test_tuples(options):
    pair = Pair(plain, **options)
    x = aligned()
    sizes = [torch.Size([1, 16])] if torch else []
    for t in [(), (1, ), (2, ), (16, ), (17, ), (True, ), (False, ), (None, ), (1.5, ), (-0.0, ), (2**31, ), (2**63, ),
              (1, 2), (2, 1), ((1, 2), ), ((1, ), 2), (1, (2, )), ((), ), ((), ()), (((), ), ), (2**31 - 1, -16, 0),
              (2, (3, (4, (5, 16)))), *sizes, Point(1, 2), Point(2, 17), Point(x=Point(3, 4), y=None), Pairs((1, 2)), [1, 2]]:
        if type(t) is list:
            pair.leaves("argument", GRID, x, t, 5)
        else:
            pair.fast(GRID, x, t, 5)
            pair.fast(GRID, x, fresh(*t) if type(t) is tuple else t, 17)


@pytest.mark.torch
def test_tuples_of_tensors():
    pair = Pair(items)
    x, dtypes = aligned(), ["float32", "float16", "int64"]
    for dtype in dtypes:
        for pointer in (aligned(dtype=dtype), unaligned(dtype=dtype)):
            for n in (1, 2, 16):
                pair.fast(GRID, x, (pointer, n, (3, )), 5)
                pair.fast(GRID, x, (pointer, 7, (n, )), 1)
    pair.fast(GRID, x, Point(aligned(), 2) + ((4, ), ), 5)


@pytest.mark.torch
def test_tuple_elements_alternate_on_the_fast_path():
    pair = Pair(plain)
    calls = [(aligned(), (aligned(), n), m) for n in (1, 2, 16) for m in (1, 5)]
    for call in calls:
        pair.call(GRID, *call)
    before = pair.lowlat.exits
    for _ in range(3):
        for call in calls:
            pair.call(GRID, *call)
    assert pair.lowlat.exits == before


def test_items_that_triton_refuses_or_that_iterate_otherwise():
    pair = Pair(plain)
    x = aligned()
    for item in ("text", tl.float32, 2**64, -2**63 - 1, object(), [1]):
        pair.leaves("argument", GRID, x, (2, item), 5)
        pair.leaves("argument", GRID, x, (2, (item, )), 5)
    pair.leaves("argument", GRID, x, Backwards((2, 3)), 5)


def test_a_tuple_larger_than_the_tail():
    pair = Pair(plain)
    pair.fast(GRID, aligned(), tuple(range(2, 102)), 5)
    pair.leaves("argument", GRID, aligned(), tuple(range(2, 402)), 5)
    pair.fast(GRID, aligned(), (3, ), 5)


@pytest.mark.torch
def test_tensors_in_tuples_as_elsewhere():
    pair = Pair(plain)
    pair.leaves("not on device", GRID, aligned(), (torch.zeros(4, device="meta"), ), 5)

    class Mode(torch.overrides.TorchFunctionMode):

        def __torch_function__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    pair.fast(GRID, aligned(), (aligned(), ), 5)
    with Mode():
        pair.leaves("torch function mode", GRID, 2, (aligned(), ), 5)


@pytest.mark.torch
def test_tuples_hold_nothing():
    import gc
    import weakref

    kernel = lowlat.jit(plain)
    tensor = aligned()
    dead = weakref.ref(tensor)
    for _ in range(3):
        kernel[GRID](tensor, (tensor, 3), 5)
    del tensor
    gc.collect()
    assert dead() is None


def test_the_wrapper_route_takes_tuples():
    pair = Pair(plain)
    pair.lowlat.route = "wrapper"
    for t in ((2, 3), (1, (None, 17)), Point(3, 1.5)):
        pair.fast(GRID, aligned(), t, 5)
    assert {plan.route for plan in pair.lowlat.plans} == {"wrapper"}


@pytest.mark.torch
def test_half_precision_in_a_tuple_is_packed_by_triton():
    def halves(x, f: tl.float16, t):
        tl.store(x, f + t[0])

    pair = Pair(halves)
    pair.fast(GRID, aligned(), 1.5, (2, 3))
    assert [plan.route for plan in pair.lowlat.plans] == ["wrapper"]


# ---- numbers of other classes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"do_not_specialize": ["t"]}], ids=["default", "do_not_specialize"])
def test_numbers_of_subclasses(options):
    pair = Pair(plain, **options)
    x = aligned()
    for number in (1, Level.ONE, Int(1), Int(2), Level.SIXTEEN, 17, Int(16), Level.LARGE, Int(2**63), 1, Level.ONE,
                   numpy.float64(2.5), 2.5, numpy.float64("nan"), numpy.float64(1e300)):
        pair.fast(GRID, x, number, 5)
        pair.fast(GRID, x, (number, ), 5)
    for number in (Contrary(1), numpy.int64(2), numpy.float32(2), numpy.bool_(True), Int(2**64)):
        if options and type(number) is Contrary:
            continue
        pair.leaves("argument", GRID, x, number, 5)
    pair.fast(GRID, x, Contrary(3), 5)


# ---- constexpr objects ----------------------------------------------------------------------------------------------


def test_constexpr_objects_where_a_value_could_be():
    pair = Pair(plain)
    x = aligned()
    for value in (1, True, 1.0, "1", "text", 16, None, 0.0, -0.0, 2**70, tl.float32, (1, 2), (1, True), helper):
        pair.fast(GRID, x, tl.constexpr(value), 5)
        pair.fast(GRID, x, (tl.constexpr(value), 3), 5)
    pair.leaves("argument", GRID, x, tl.constexpr([1]), 5)


def test_a_constexpr_whose_value_is_assigned():
    for function, reason in ((plain, "argument"), (constant, "constexpr")):
        pair = Pair(function)
        x, value = aligned(), tl.constexpr(3)
        rest = (5, ) if function is plain else ()
        pair.fast(GRID, x, value, *rest)
        for changed in (4, 3, True, 4.0):
            value.value = changed
            pair.call(GRID, x, value, *rest)
            pair.fast(GRID, x, value, *rest)
        value.value = {}
        pair.leaves(reason, GRID, x, value, *rest)


def test_contents_of_constexprs():
    pair = Pair(constant)
    x = aligned()
    values = [
        (), (1, ), (True, ), (1.0, ), (0.0, ), (-0.0, ), (1, 2), (2, 1), ((1, ), 2), (1, (2, )), ("a", "b"), ("ab", ),
        (None, ), (tl.float32, ), (2**70, ), ((), ()), Point(1, 2), Pairs((1, 2)), frozenset((1, 2)), range(3), b"bytes",
        1j, 2**70, tl.constexpr(1), tl.constexpr(True), tl.constexpr("1"), (tl.constexpr(3), 1), Color.RED, Color.GREEN,
        Level.ONE, Level.SIXTEEN, (Color.RED, 1), int, str, (int, ), helper, len, types, Layout(3), Layout(4),
        Layout(3, (0, 1)), numpy.float64(2.0), numpy.int64(2), Int(1), object(), lambda: 1, Odd.A,
    ]
    for value in values:
        pair.fast(GRID, x, value)
        if type(value) is tuple:
            pair.fast(GRID, x, fresh(*value))
    for value in (Layout(3), Layout(4), Point(1, 2), Color.RED, Odd.B, tl.constexpr(1), numpy.float64(2.0)):
        pair.fast(GRID, x, value)
    for value in ([1], {}, ([1], ), Layout(3, [1]), (1, {}), slice(1)):
        pair.call(GRID, x, value)
        if value != slice(1):
            pair.leaves("constexpr", GRID, x, value)


def test_a_constexpr_that_changes_its_hash():
    pair = Pair(constant)
    x, value = aligned(), Mutable(3)
    pair.fast(GRID, x, value)
    value.size = 4
    pair.call(GRID, x, value)
    pair.fast(GRID, x, value)
    value.size = 3
    pair.fast(GRID, x, value)


def test_constexprs_whose_hash_raises():
    class Broken:

        def __hash__(self):
            raise ValueError("no hash today")

    Pair(constant).leaves("constexpr", GRID, aligned(), Broken())


def test_a_class_that_gets_another_equality():
    class Plain:
        pass

    pair = Pair(constant)
    x, values = aligned(), [Plain(), Plain()]
    for value in values:
        pair.fast(GRID, x, value)
    Plain.__eq__ = lambda self, other: True
    Plain.__hash__ = lambda self: 5
    for value in values:
        pair.call(GRID, x, value)
        pair.fast(GRID, x, value)


def test_hash_and_equality_see_what_triton_shows_them_or_more():
    """They are the user's: lowlat may ask more often, and launches what Triton launches."""
    class Counted:

        def __init__(self, size):
            self.size = size

        def __hash__(self):
            return hash(self.size)

        def __eq__(self, other):
            return isinstance(other, Counted) and self.size == other.size

    pair = Pair(constant)
    for size in (1, 2, 1, 2):
        pair.fast(GRID, aligned(), Counted(size))


def test_objects_in_constexprs_are_let_go():
    import gc
    import weakref

    class Plain:
        pass

    kernel = lowlat.jit(constant)
    value = Plain()
    dead = weakref.ref(value)
    for _ in range(3):
        kernel[GRID](aligned(), value)
    kernel.device_caches.clear()
    kernel.forget()
    del value
    gc.collect()
    assert dead() is None


def test_contents_longer_than_the_text():
    pair = Pair(constant)
    for count in (100, 500):
        pair.fast(GRID, aligned(), tuple(range(count)))
        pair.fast(GRID, aligned(), tuple(range(1, count + 1)))


# ---- kernels as arguments -------------------------------------------------------------------------------------------


@triton.jit
def add_one(v):
    return v + 1


@triton.jit
def add_two(v):
    return v + 2


@triton.constexpr_function
def triple(v):
    return 3 * v


def with_a_kernel(x, F: tl.constexpr):
    tl.store(x, F(3))


def with_any_kernel(x, f):
    tl.store(x, f(3))


@pytest.mark.parametrize("function", [with_a_kernel, with_any_kernel])
def test_kernels_as_arguments(function):
    pair = Pair(function)
    x = aligned()
    lowlats = lowlat.jit(add_one.fn)
    assert isinstance(lowlats, TritonJITFunction)
    for argument in (add_one, add_two, triple, add_one, lowlats):
        pair.fast(GRID, x, argument)


@pytest.mark.parametrize("function", [with_a_kernel, with_any_kernel])
def test_a_kernel_argument_whose_source_changes(function):
    pair = Pair(function)
    x = aligned()
    argument = triton.jit(add_one.fn)
    pair.fast(GRID, x, argument)
    argument._unsafe_update_src(argument.src.replace("+ 1", "+ 5"))
    argument.hash = None
    pair.call(GRID, x, argument)
    pair.fast(GRID, x, argument)


# ---- options --------------------------------------------------------------------------------------------------------


def test_options_with_contents():
    pair = Pair(constant)
    x = aligned()
    for value in ((), ("fp8e4nv", ), ("fp8e5", ), ("fp8e5", "fp8e4nv")):
        pair.fast(GRID, x, 1, supported_fp8_dtypes=value)
    pair.call(GRID, x, 1, supported_fp8_dtypes=["fp8e5"])  # unhashable, says Triton
    for libraries in ({}, {}, {"one": "a.bc"}, {"one": "b.bc"}, {1: 2}):
        pair.call(GRID, x, 1, extern_libs=libraries)
    pair.fast(GRID, x, 1, extern_libs={})
    pair.leaves("option", GRID, x, 1, supported_fp8_dtypes=("fp8e5", Color.RED))


# ---- objects with an address ----------------------------------------------------------------------------------------


@pytest.mark.torch
@pytest.mark.parametrize("options", [{}, {"do_not_specialize": ["t"]}, {"do_not_specialize_on_alignment": ["t"]}],
                         ids=["default", "do_not_specialize", "on_alignment"])
def test_reinterpreted_tensors(options):
    pair = Pair(plain, **options)
    for base in (aligned(), unaligned(), aligned(dtype="int8")):
        for dtype in (tl.int8, tl.float8e4nv, tl.float32, torch.int8, tl.dtype("int8"), tl.dtype("fp8e5")):
            pair.fast(GRID, aligned(), triton.reinterpret(base, dtype), 5)
            pair.fast(GRID, aligned(), (triton.reinterpret(base, dtype), 1), 5)
    wrapper = triton.reinterpret(aligned(), tl.int8)
    pair.fast(GRID, aligned(), wrapper, 5)
    wrapper.base = unaligned()
    pair.fast(GRID, aligned(), wrapper, 5)
    wrapper.dtype = tl.int16
    pair.fast(GRID, aligned(), wrapper, 5)
    wrapper.dtype = "no dtype"
    pair.leaves("argument", GRID, aligned(), wrapper, 5)
    assert {plan.route for plan in pair.lowlat.plans} == {"driver"}


@pytest.mark.torch
def test_reinterpreted_tensors_not_on_the_device():
    pair = Pair(plain)
    pair.leaves("not on device", GRID, 2, triton.reinterpret(torch.zeros(4, device="meta"), tl.int8), 5)


@pytest.mark.torch
def test_data_ptr_of_the_wrapper_replaced(monkeypatch):
    pair = Pair(plain)
    wrapper = triton.reinterpret(aligned(), tl.int8)
    pair.fast(GRID, aligned(), wrapper, 5)
    other = aligned()
    monkeypatch.setattr(type(wrapper), "data_ptr", lambda self: other.data_ptr())
    pair.leaves("patched", GRID, aligned(), wrapper, 5)
    monkeypatch.undo()
    pair.fast(GRID, aligned(), wrapper, 5)


class Array:
    """Any library's array: an address and a dtype."""

    def __init__(self, base, dtype=None, address=None):
        self.base, self.dtype = base, dtype or base.dtype
        self.address = base.data_ptr() if address is None else address

    warm = False

    def data_ptr(self):
        if Array.warm:
            observe("data_ptr")
        return self.address


@pytest.mark.torch
@pytest.mark.parametrize("options", [{}, {"do_not_specialize": ["t"]}, {"do_not_specialize_on_alignment": ["t"]}],
                         ids=["default", "do_not_specialize", "on_alignment"])
def test_objects_with_an_address(options, monkeypatch):
    pair = Pair(plain, **options)
    for base in (aligned(), unaligned()):
        for dtype in (None, torch.float16, tl.float16, tl.dtype("int8")):
            for argument in (Array(base, dtype), (Array(base, dtype), 16)):
                pair.call(GRID, aligned(), argument, 5)
                monkeypatch.setattr(Array, "warm", True)  # lowlat asks more often than Triton where it has no plan
                pair.fast(GRID, aligned(), argument, 5)
                monkeypatch.setattr(Array, "warm", False)
    assert {plan.route for plan in pair.lowlat.plans} == {"wrapper"}
    for address in (-1, 1.5, "text", None, 2**64):
        pair.call(GRID, aligned(), Array(aligned(), address=address), 5)
    pair.leaves("argument", GRID, aligned(), Array(aligned(), "float32"), 5)


@pytest.mark.torch
def test_objects_whose_address_raises():
    class Broken(Array):

        def data_ptr(self):
            raise ValueError("gone")

    pair = Pair(plain)
    pair.leaves("argument", GRID, aligned(), Broken(aligned(), address=0), 5)
    pair.fast(GRID, aligned(), Array(aligned()), 5)


@pytest.mark.torch
def test_an_object_that_launches_the_kernel_it_is_an_argument_of():
    kernels = []

    class Launching(Array):

        def data_ptr(self):
            if kernels and kernels[-1] is not None:
                kernel = kernels.pop()
                kernels.append(None)
                kernel.forget() if isinstance(kernel, lowlat.JITFunction) else None
                kernel[GRID](x, 7, num_warps=2, t=3, c=3) if False else kernel[GRID](x, 3, 3, num_warps=2)
            return self.address

    pair, x = Pair(plain), aligned()
    argument = Launching(aligned())

    def call(kernel):
        kernels[:] = [kernel]
        return kernel[GRID](x, argument, 5)

    for _ in range(4):
        pair.lockstep(call)


@pytest.mark.torch
def test_an_object_that_sets_hooks_when_it_is_asked():
    pair, x = Pair(plain), aligned()

    class Hooking(Array):

        def data_ptr(self):
            triton.knobs.runtime.launch_enter_hook.add(hook)
            return self.address

    def hook(metadata):
        observe(metadata.get()["name"])

    def call(kernel):
        try:
            return kernel[GRID](x, Hooking(aligned_base), 5)
        finally:
            triton.knobs.runtime.launch_enter_hook.remove(hook)

    aligned_base = aligned()
    for _ in range(3):
        pair.lockstep(call)


@pytest.mark.torch
def test_tensor_subclasses():
    class Named(torch.Tensor):
        pass

    pair = Pair(plain)
    for base in (aligned(), unaligned(), aligned(dtype="float16")):
        pair.fast(GRID, aligned(), base.as_subclass(Named), 5)


def test_annotated_and_const_parameters():
    def annotated(x, n: tl.int64, f: tl.float32, c: tl.const, m: "u8"):  # noqa: F821
        tl.store(x, n + f + tl.load(c) + m)

    pair = Pair(annotated)
    if torch is None:
        return
    for n in (1, 2, 16, 17, 2**40, True):
        for f in (1.5, 2):
            pair.fast(GRID, aligned(), n, f, unaligned(), 200)
    for n in (Level.ONE, 1.5, numpy.float64(2), (1, )):
        pair.call(GRID, aligned(), n, 1.5, aligned(), 3)
