"""Arguments beyond tensors and numbers, on the null driver: tuples, constants, kernels, wrappers and objects."""

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


class Text(str):
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
              (2, (3, (4, (5, 16)))), *sizes, Point(1, 2), Point(2, 17), Point(x=Point(3, 4), y=None), Pairs((1, 2)),
              [1, 2]]:
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
        (None, ), (tl.float32, ), ((), ()), Point(1, 2), Point(1, 3), Pairs((1, 2)), (Point(1, 2), ), range(3),
        b"bytes", 1j, 2**70, tl.constexpr(1), tl.constexpr(True), tl.constexpr("1"), (tl.constexpr(3), 1), Color.RED,
        Color.GREEN,
        Level.ONE, Level.SIXTEEN, (Color.RED, 1), int, str, (int, ), helper, len, types, numpy.float64(2.0),
        numpy.int64(2), numpy.bool_(True), Int(1), Text("a"), object(), lambda: 1,
    ]
    for value in values:
        pair.fast(GRID, x, value)
        if type(value) is tuple:
            pair.fast(GRID, x, fresh(*value))
    for value in (Color.RED, tl.constexpr(1), numpy.float64(2.0)):
        pair.fast(GRID, x, value)
    for value in ([1], {}, ([1], ), (1, {}), slice(1), Layout(3), Layout(4), Layout(3, (0, 1)), Odd.A, Odd.B,
                  Point(1, Layout(3)), frozenset((1, 2)), Contrary(1), Mutable(3), (Layout(3), 1)):
        for _ in range(2):
            pair.leaves("constexpr", GRID, x, value)


def test_constexprs_are_asked_for_their_hash_as_often():
    """What counts, or changes its mind, is Triton's to ask."""
    class Counting:

        def __init__(self):
            self.asked = 0

        def __repr__(self):
            return "counting"

        def __hash__(self):
            self.asked += 1
            observe(self.asked)
            return self.asked

    pair, x = Pair(constant), aligned()
    values = [Counting(), Counting()]
    for _ in range(3):
        pair.lockstep(lambda kernel: kernel[GRID](x, values[kernel is pair.lowlat]))

    class Broken:

        def __hash__(self):
            raise ValueError("no hash today")

    pair.leaves("constexpr", GRID, x, Broken())


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
        pair.leaves("constexpr", GRID, x, value)


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
    for first in (0, 1):
        pair.fast(GRID, aligned(), tuple(range(first, 100)))
        pair.leaves("constexpr", GRID, aligned(), tuple(range(first, 500)))


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


# ---- keyword-only parameters and *args ------------------------------------------------------------------------------

VERSION = tuple(map(int, triton.__version__.split(".")[:2]))


@pytest.mark.skipif(VERSION < (3, 8), reason="cannot be compiled")
def test_variadic_parameters():
    def variadic(x, n, *rest):
        tl.store(x, n)

    pair, x = Pair(variadic), aligned()
    for rest in ((), (1, ), (2, ), (2, 16), (2, 17), (True, ), (None, 3.5), ((1, 2), 3), (tl.constexpr(4), )):
        pair.fast(GRID, x, 5, *rest)
        pair.fast(lambda meta: observe(meta["rest"]) or GRID, x, 5, *rest)
    for n in (1, 16):
        pair.fast(GRID, x, n=n)
        pair.fast(GRID, x=x, n=n, num_warps=2)
    pair.run(x, 5, 6, 7, grid=GRID, warmup=False)
    exits = pair.lowlat.exits
    pair.run(x, 5, 6, 7, grid=GRID, warmup=False)
    assert pair.lowlat.exits == exits
    for kwargs in ({"rest": (1, 2)}, {"rest": 1}):
        pair.leaves("binding", GRID, x, 5, 6, **kwargs)
    pair.leaves("binding", GRID, x)
    pair.leaves("binding", GRID, x, 5, 6, n=5)


@pytest.mark.torch
@pytest.mark.skipif(VERSION < (3, 8), reason="cannot be compiled")
def test_variadic_tensors():
    def variadic(x, *rest):
        tl.store(x, tl.load(rest[0]) + rest[1])

    pair = Pair(variadic)
    for y in (aligned(), unaligned(), aligned(dtype="float16")):
        for n in (1, 2, 16):
            pair.fast(GRID, aligned(), y, n)


@pytest.mark.skipif(VERSION < (3, 9), reason="cannot be compiled")
@pytest.mark.parametrize("variadic", [False, True])
def test_keyword_only_parameters(variadic):
    def bare(x, n=3, *, m, BLOCK: tl.constexpr = 16, k=7):
        tl.store(x, n + m + BLOCK + k)

    def after(x, n=3, *rest, m, BLOCK: tl.constexpr = 16, k=7):
        tl.store(x, n + m + BLOCK + k)

    pair, x = Pair(after if variadic else bare), aligned()
    for m in (1, 2, 16, 2**31):
        pair.fast(GRID, x, m=m)
        pair.fast(GRID, x, 5, m=m, BLOCK=32)
        pair.fast(GRID, x, k=17, BLOCK=32, m=m, n=1, num_warps=2)
    pair.leaves("binding", GRID, x, 5)
    if variadic:
        pair.fast(GRID, x, 5, 6, m=2)
    else:
        pair.leaves("binding", GRID, x, 5, 6, m=2)
        pair.leaves("binding", GRID, x, 5, 6)


@pytest.mark.skipif(VERSION >= (3, 8), reason="can be compiled")
def test_variadic_parameters_of_older_tritons():
    def variadic(x, *rest):
        tl.store(x, 1)

    pair = Pair(variadic)
    for args in ((5, ), (), (5, 6)):
        pair.leaves("parameters", GRID, aligned(), *args)


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

    def __init__(self, base):
        self.base, self.dtype = base, base.dtype

    def data_ptr(self):
        observe("data_ptr")
        return self.base.data_ptr()


@pytest.mark.torch
def test_objects_with_an_address_are_tritons_to_ask():
    pair = Pair(plain)
    for base in (aligned(), unaligned()):
        for _ in range(2):
            pair.leaves("argument", GRID, aligned(), Array(base), 5)
            pair.leaves("argument", GRID, aligned(), (2, Array(base)), 5)


@pytest.mark.torch
@pytest.mark.parametrize("options", [{}, {"do_not_specialize": ["t"]}, {"do_not_specialize_on_alignment": ["t"]}],
                         ids=["default", "do_not_specialize", "on_alignment"])
def test_tensor_subclasses(options):
    class Named(torch.Tensor):
        pass

    class Weight(torch.nn.Parameter):
        pass

    pair = Pair(plain, **options)
    for base in (aligned(), unaligned(), aligned(dtype="float16")):
        for special in (base.as_subclass(Named), Weight(base, requires_grad=False), torch.nn.Buffer(base)):
            pair.fast(GRID, aligned(), special, 5)
            pair.fast(GRID, aligned(), (special, 16), 5)
    assert {plan.route for plan in pair.lowlat.plans} == {"driver"}
    pair.leaves("not on device", GRID, 2, torch.zeros(4, device="meta").as_subclass(Named), 5)


@pytest.mark.torch
def test_tensor_subclasses_that_answer_for_themselves():
    class Function(torch.Tensor):

        @classmethod
        def __torch_function__(cls, function, types, args=(), kwargs=None):
            observe(function.__name__)
            return super().__torch_function__(function, types, args, kwargs or {})

    class Address(torch.Tensor):

        def data_ptr(self):
            observe("data_ptr")
            return super().data_ptr()

    class Derived(Address):
        pass

    class Mixin:
        dtype = torch.float16

    class Mixed(Mixin, torch.Tensor):
        pass

    pair = Pair(plain)
    for special in (Function, Address, Derived, Mixed):
        for _ in range(2):
            pair.leaves("argument", GRID, aligned(), aligned().as_subclass(special), 5)


@pytest.mark.torch
def test_a_tensor_subclass_patched_later():
    class Base(torch.Tensor):
        pass

    class Named(Base):
        pass

    pair, special, other = Pair(plain), aligned().as_subclass(Named), unaligned()
    pair.fast(GRID, aligned(), special, 5)
    Base.data_ptr = lambda self: other.data_ptr()
    pair.leaves("argument", GRID, aligned(), special, 5)
    del Base.data_ptr
    pair.fast(GRID, aligned(), special, 5)
    Named.dtype = torch.int8
    pair.leaves("argument", GRID, aligned(), special, 5)


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
