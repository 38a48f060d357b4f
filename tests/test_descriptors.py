"""Host tensor descriptors on the null driver, whose tensor maps say everything that they were made of."""

import gc
import struct
import threading
import weakref

import pytest
import triton
import triton.language as tl
from test_autotune import Both
from triton import knobs
from triton.runtime import _allocation, driver
from triton.tools.tensor_descriptor import TensorDescriptor

import lowlat
from lowlat import null
from oracle import Pair, changed, observe, outcome

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.null
VERSION = tuple(int(part) for part in triton.__version__.split(".")[:2])
ENCODE = "cuTensorMapEncodeTiled"
INVALID_VALUE = 1
GRID = (2, )


def copy1(d):
    d.store([0], d.load([0]))


def copy2(d):
    d.store([0, 0], d.load([0, 0]))


def copy3(d):
    d.store([0, 0, 0], d.load([0, 0, 0]))


def copy4(d):
    d.store([0, 0, 0, 0], d.load([0, 0, 0, 0]))


def copy5(d):
    d.store([0, 0, 0, 0, 0], d.load([0, 0, 0, 0, 0]))


def between(d, n, e):
    e.store([0, 0], d.load([0, 0]) + n)


def first_of(t, n):
    t[0].store([0, 0], t[0].load([0, 0]) + n)


def both_of(n, t, d):
    d.store([0, 0], t[1][0].load([0, 0]) + t[0].load([0, 0]) + n + t[1][1])


def unused(d, n):
    pass


COPIES = {1: (copy1, [64]), 2: (copy2, [16, 32]), 3: (copy3, [1, 16, 32]), 4: (copy4, [1, 2, 8, 16]),
          5: (copy5, [1, 1, 2, 8, 16])}


def describe(rows=64, columns=64, block=(16, 32), dtype="float32", **options):
    return TensorDescriptor.from_tensor(torch.zeros(rows, columns).to(getattr(torch, dtype)), list(block), **options)


def routes(pair):
    return {plan.route for plan in pair.lowlat.plans}


# ---- what a descriptor says -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", COPIES)
def test_ranks(rank):
    function, block = COPIES[rank]
    pair = Pair(function)
    for extent in (1, 2, 3):
        tensor = torch.zeros([extent * size for size in block])
        pair.fast(GRID, TensorDescriptor.from_tensor(tensor, block))
        pair.fast(GRID, TensorDescriptor(tensor, list(tensor.shape), list(tensor.stride()), tuple(block)))
    assert routes(pair) == {"driver"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8", "uint8", "int16", "int32",
                                   "int64", "float8_e5m2", "float8_e4m3fn"])
def test_dtypes(dtype):
    pair = Pair(copy2)
    pair.fast(GRID, describe(dtype=dtype))
    pair.fast(GRID, describe(dtype="float32"))
    assert len(pair.lowlat.plans) == (1 if dtype == "float32" else 2) and routes(pair) == {"driver"}


def test_everything_about_one_descriptor_changes():
    pair, descriptor, tensor = Pair(copy2), describe(), torch.zeros(1024, 1024)

    def look():
        pair.fast(GRID, descriptor)

    look()
    descriptor.base = torch.zeros(64, 64)
    look()
    descriptor.base = tensor  # large enough for Triton to leave the tensor map as the driver encoded it
    look()
    for shape in ([64, 32], (32, 64), torch.Size((1, 64)), [1024, 1024]):
        descriptor.shape = shape
        look()
    for strides in ([128, 1], (1024, 1), [2**31, 1], [2**33, 1]):
        descriptor.strides = strides
        look()
    descriptor.strides = [1024, 1]
    for padding in ("nan", "zero", "other", "na" + "n"[:1], "".join(["n", "an"])):
        descriptor.padding = padding
        look()
    for block in ([16, 16], (16, 16), [32, 32], [16, 32]):
        descriptor.block_shape = block
        look()
    if VERSION >= (3, 7):
        for rounded in (True, False):
            descriptor.round_f32_to_tf32 = rounded
            look()
    descriptor.base = torch.zeros(1024, 1024, dtype=torch.float16)
    look()
    descriptor.base = torch.nn.Parameter(tensor)
    look()
    assert routes(pair) == {"driver"}


def test_contents_change_in_place():
    pair = Pair(copy2)
    tensor = torch.zeros(64, 64)
    descriptor = TensorDescriptor(tensor, [64, 64], [64, 1], [16, 32])
    pair.fast(GRID, descriptor)
    descriptor.block_shape[:] = [32, 16]
    pair.fast(GRID, descriptor)
    descriptor.block_shape[0] = 16
    pair.fast(GRID, descriptor)
    descriptor.shape[0] = 32
    pair.fast(GRID, descriptor)
    descriptor.strides[0] = 128
    pair.fast(GRID, descriptor)
    tensor.set_(torch.zeros(64, 64))
    pair.fast(GRID, descriptor)
    before = pair.lowlat.exits
    for block in ([32, 16], [16, 16], [32, 16]):
        descriptor.block_shape[:] = block
        pair.call(GRID, descriptor)
    assert pair.lowlat.exits == before


def test_what_a_launch_takes_is_not_in_the_key():
    pair = Pair(copy2)
    for descriptor in (describe(), describe(32), describe(padding="nan"), describe(128, 128)):
        pair.fast(GRID, descriptor)
    assert len(pair.lowlat.plans) == 1 and pair.lowlat.exits == {"first call": 1}


@pytest.mark.parametrize("options", [{}, {"do_not_specialize": ["d", "n"]}, {"do_not_specialize_on_alignment": ["d"]}],
                         ids=["default", "do_not_specialize", "on_alignment"])
def test_among_other_arguments(options):
    pair = Pair(between, **options)
    for n in (1, 2, 16, 0.5, True):
        pair.fast(GRID, describe(), n, describe(32))
        pair.fast(GRID, d=describe(), e=describe(64, 128), n=n)
        pair.run(describe(), n, describe(32), grid=GRID, warmup=False)
    assert routes(pair) == {"driver"}


def test_other_routes_and_doors():
    pair, descriptor = Pair(copy2), describe()
    pair.run(descriptor, grid=GRID, warmup=True)
    pair.fast(GRID, descriptor)
    pair.run(descriptor, grid=GRID, warmup=True)
    pair.fast((0, ), describe())
    pair.fast(lambda meta: (meta["d"].shape[0] // meta["d"].block_shape[0], ), descriptor)
    pair.lowlat.route = "wrapper"
    pair.fast(GRID, descriptor)
    pair.fast(GRID, describe(32))
    assert routes(pair) == {"wrapper"}


def test_with_scratch_memory_and_half_precision():
    """Kernels that Triton's launcher launches, or its launch function."""
    def through_memory(d, x, n):
        made = tl.make_tensor_descriptor(x, [16, 32], [32, 1], [16, 32])
        made.store([0, 0], d.load([0, 0]) + n)

    def scaled(d, h: tl.float16):
        d.store([0, 0], d.load([0, 0]) * h)

    allocated = torch.zeros(4096, dtype=torch.int8)
    triton.set_allocator(lambda size, alignment, stream: allocated)
    for function, rest, route in ((through_memory, (torch.zeros(512), 3), "wrapper"), (scaled, (0.5, ), "wrapper")):
        pair = Pair(function)
        for descriptor in (describe(), describe(32), describe(padding="nan")):
            pair.fast(GRID, descriptor, *rest)
        assert routes(pair) == {route} and pair.lowlat.exits == {"first call": 1}
    triton.set_allocator(_allocation.NullAllocator())


def test_an_unused_descriptor():
    pair = Pair(unused)
    for n in (2, 17):
        pair.fast(GRID, describe(), n)
        pair.fast(GRID, describe(block=(16, 16)), n)


def test_a_thread_without_a_context():
    pair, descriptor = Pair(copy2), describe()
    pair.fast(GRID, descriptor)
    for descriptor.shape in ([64, 64], [32, 64]):
        result = pair.lockstep(lambda kernel: kernel[GRID](descriptor), before=null.drop_context)
        assert len(result.launches) == 1
    assert pair.lowlat.exits == {"first call": 1, "no context": 2}


@pytest.fixture
def ampere():
    """A GPU without tensor maps: Triton passes descriptors as pointers and numbers."""
    from triton.backends.compiler import GPUTarget

    class Ampere(type(driver.active)):

        def get_current_target(self):
            return GPUTarget("cuda", 80, 32)

    driver.set_active(Ampere())


@pytest.mark.parametrize("rank", COPIES)
def test_without_tensor_maps(rank, ampere):
    function, block = COPIES[rank]
    pair = Pair(function)
    tensor = torch.zeros([2 * size for size in block])
    descriptor = TensorDescriptor.from_tensor(tensor, block)
    pair.fast(GRID, descriptor)
    descriptor.padding = "nan"
    pair.fast(GRID, descriptor)
    descriptor.shape = [size - 1 for size in tensor.shape]
    pair.fast(GRID, descriptor)
    if rank > 1:
        descriptor.strides = [2**35 + 16, *tensor.stride()[1:]]
        pair.fast(GRID, descriptor)
    if VERSION >= (3, 7):
        descriptor.round_f32_to_tf32 = True
        pair.fast(GRID, descriptor)
    assert routes(pair) == {"driver"} and pair.lowlat.exits == {"first call": 1}


# ---- the tensor maps that are kept ----------------------------------------------------------------------------------


def encodes(pair, descriptor):
    """Whether lowlat encodes a tensor map for this call: with an encoder that fails, it cannot."""
    null.fail(ENCODE, INVALID_VALUE)
    result = outcome(lambda: pair.lowlat[GRID](descriptor))
    null.fail("", 0, 0)
    assert (result.error is None) == (len(result.launches) == 1)
    return result.error is not None


def test_an_unchanged_descriptor_is_encoded_once():
    pair, tensor = Pair(copy2), torch.zeros(64, 64)
    pair.fast(GRID, TensorDescriptor.from_tensor(tensor, [16, 32]))
    assert not encodes(pair, TensorDescriptor.from_tensor(tensor, [16, 32]))  # by value: this is another object
    others = [TensorDescriptor.from_tensor(torch.zeros(64, 64), [16, 32]),
              TensorDescriptor.from_tensor(tensor, [16, 32], padding="nan"),
              TensorDescriptor(tensor, [32, 64], [64, 1], [16, 32]),
              TensorDescriptor(tensor, [64, 64], [128, 1], [16, 32])]
    for other in others:
        assert encodes(pair, other)
        pair.fast(GRID, other)
    for other in others:
        assert not encodes(pair, other)


def test_many_descriptors_and_no_more():
    """Those in use are kept, and no more than a thousand for each parameter."""
    pair, tensor = Pair(copy2), torch.zeros(64, 64)
    descriptors = [TensorDescriptor(tensor, [n, 64], [64, 1], [16, 32]) for n in range(1, 2001)]
    for descriptor in [descriptors[0], *descriptors[:1000]]:  # the first is launched by Triton
        pair.call(GRID, descriptor)
    for _ in range(2):
        for descriptor in descriptors[:1000:7]:
            assert not encodes(pair, descriptor)
            pair.fast(GRID, descriptor)
    for descriptor in descriptors:
        pair.lowlat[GRID](descriptor)
    assert encodes(pair, descriptors[0])
    for descriptor in (descriptors[0], descriptors[-1], descriptors[1000]):
        pair.fast(GRID, descriptor)
    assert pair.lowlat.exits == {"first call": 1}


def test_descriptors_are_let_go():
    kernel = lowlat.jit(copy2)
    tensor = torch.zeros(64, 64)
    descriptor = TensorDescriptor.from_tensor(tensor, [16, 32])
    dead = weakref.ref(tensor), weakref.ref(descriptor)
    for _ in range(3):
        kernel[GRID](descriptor)
    kernel[lambda meta: GRID](descriptor)
    del tensor, descriptor
    gc.collect()
    assert [reference() for reference in dead] == [None, None]


def test_encoding_fails():
    pair, descriptor = Pair(copy2), describe()
    pair.fast(GRID, descriptor)
    for rows, grid in ((1, GRID), (2, (0, )), (3, lambda meta: GRID)):
        descriptor.shape = [rows, 64]
        result = pair.lockstep(lambda kernel: kernel[grid](descriptor),  # noqa: B023
                               before=lambda: null.fail(ENCODE, INVALID_VALUE))
        assert "Failed to create tensor map descriptor" in result.error[1]
        pair.fast(GRID, descriptor)
    assert pair.lowlat.exits == {"first call": 1}


def test_what_the_driver_refuses():
    pair, descriptor = Pair(copy2), describe()
    pair.fast(GRID, descriptor)
    good = dict(vars(descriptor))
    bad = [("base", torch.zeros(64 * 64 + 1)[1:].view(64, 64)), ("shape", [0, 64]), ("shape", [-1, 64]),
           ("strides", [63, 1])]
    for name, value in bad:
        setattr(descriptor, name, value)
        result = pair.call(GRID, descriptor)
        assert result.error and "Failed to create tensor map descriptor" in result.error[1], name
        pair.call(GRID, descriptor)
        setattr(descriptor, name, good[name])
        pair.fast(GRID, descriptor)
    assert pair.lowlat.exits == {"first call": 1}


def test_errors_leave_no_kernel_behind():
    kernel, descriptor = lowlat.jit(copy2), describe()
    dead = weakref.ref(kernel[GRID](descriptor))
    kernel[GRID](descriptor)
    descriptor.strides = [63, 1]
    for grid in (GRID, lambda meta: GRID):
        with pytest.raises(RuntimeError):
            kernel[grid](descriptor)
    kernel.device_caches.clear()
    gc.collect()
    assert dead() is None


def test_threads():
    """Each launch has the tensor map of its own descriptor, also while plans are dropped and tables grow."""
    kernel, tensor = lowlat.jit(between), torch.zeros(64, 64)

    def describe_for(number):
        return TensorDescriptor(tensor, [number + 1, 64], [64, 1], [16, 32])

    kernel[GRID](describe_for(0), 2, describe_for(0))
    failures = []

    def work(thread):
        null.set_device(0)
        try:
            for i in range(300):
                number = 2 + 300 * thread + i
                kernel[GRID](describe_for(number), number, describe_for(number + 1))
                if i % 50 == thread:
                    kernel.forget()
        except Exception as error:
            failures.append(error)

    with null.record() as launches:
        threads = [threading.Thread(target=work, args=(thread, )) for thread in range(6)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
    assert not failures
    seen = []
    for launch in launches:
        sizes = [rows_of(parameter) for parameter in launch.parameters if len(parameter) == 128]
        number = next((struct.unpack("<i", parameter)[0] for parameter in launch.parameters[5:6]), None)
        assert sizes == [number + 1, number + 2]
        seen.append(number)
    assert sorted(seen) == list(range(2, 2 + 6 * 300))


def rows_of(tensor_map):
    """The second dimension in a tensor map of the null driver's."""
    return struct.unpack_from("<Q", tensor_map, 16 + 8)[0]


# ---- descriptors that are not plain ---------------------------------------------------------------------------------


class Derived(TensorDescriptor):
    pass


class Named(torch.Tensor):
    pass


def test_subclasses():
    pair = Pair(copy2)
    descriptor = Derived(torch.zeros(64, 64), [64, 64], [64, 1], [16, 32])
    for _ in range(2):
        pair.leaves("argument", GRID, descriptor)
        pair.fast(GRID, describe())


class Computed(TensorDescriptor):

    @property
    def block_shape(self):
        observe("block_shape")
        return [16, 32]

    @block_shape.setter
    def block_shape(self, value):
        self.__dict__["block_shape"] = value


def test_a_subclass_that_computes():
    pair = Pair(copy2)
    descriptor = Computed(torch.zeros(64, 64), [64, 64], [64, 1], [1, 1])
    for _ in range(3):
        pair.leaves("argument", GRID, descriptor)


@pytest.mark.parametrize("name, value", [
    ("shape", range(32, 96, 32)), ("shape", [True, 64]),
    ("strides", type("Strides", (tuple, ), {})((64, 1))), ("strides", [2**70, 1]), ("shape", [2**31, 64]),
    ("shape", [2**40, 64]), ("strides", [64, 2]), ("strides", [64]), ("shape", [64, 64, 64]), ("shape", [64, 64.0]),
    ("shape", None), ("block_shape", [16]), ("block_shape", [True, 32]), ("block_shape", ["16", 32]),
    ("block_shape", []), ("block_shape", [1, 1, 1, 1, 1, 1]), ("block_shape", None),
    ("padding", None), ("padding", type("Text", (str, ), {})("nan")), ("base", None), ("base", 16)], ids=str)
def test_attributes_of_other_kinds(name, value):
    pair, descriptor = Pair(copy2), describe()
    pair.fast(GRID, descriptor)
    setattr(descriptor, name, value)
    for _ in range(2):
        pair.leaves("argument", GRID, descriptor)
        pair.leaves("argument", lambda meta: GRID, descriptor)
    pair.fast(GRID, describe())


def test_bases_of_subclasses():
    class Overriding(torch.Tensor):

        def data_ptr(self):
            observe("data_ptr")
            return super().data_ptr()

    pair, descriptor = Pair(copy2), describe()
    descriptor.base = torch.zeros(64, 64).as_subclass(Named)
    pair.fast(GRID, descriptor)
    descriptor.base = torch.zeros(64, 64).as_subclass(Overriding)
    pair.leaves("argument", GRID, descriptor)
    pair.leaves("argument", GRID, descriptor)


@pytest.mark.skipif(VERSION < (3, 7), reason="new in Triton 3.7")
@pytest.mark.parametrize("value", [1, 0, None, "yes"], ids=str)
def test_rounding_of_another_kind(value):
    pair, descriptor = Pair(copy2), describe()
    descriptor.round_f32_to_tf32 = value
    for _ in range(2):
        pair.leaves("argument", GRID, descriptor)


def test_attributes_in_another_order_and_further_ones():
    pair, descriptor = Pair(copy2), describe()
    base, descriptor.note = descriptor.base, "mine"
    pair.fast(GRID, descriptor)
    del descriptor.base
    result = pair.call(GRID, descriptor)
    assert result.error
    descriptor.base = base
    pair.fast(GRID, descriptor)
    descriptor.padding = "nan"
    pair.fast(GRID, descriptor)
    del descriptor.padding  # then it is the class's
    pair.leaves("argument", GRID, descriptor)


def test_a_class_that_is_changed(monkeypatch):
    pair, descriptor = Pair(copy2), describe()
    pair.fast(GRID, descriptor)
    monkeypatch.setattr(TensorDescriptor, "shape", property(lambda self: (32, 64), lambda self, value: None),
                        raising=False)
    pair.leaves("argument", GRID, descriptor)
    monkeypatch.undo()
    pair.fast(GRID, descriptor)
    monkeypatch.setattr(TensorDescriptor, "__getattribute__", lambda self, name: (
        [32, 32] if name == "block_shape" else object.__getattribute__(self, name)), raising=False)
    pair.leaves("argument", GRID, descriptor)
    monkeypatch.undo()
    pair.fast(GRID, descriptor)


def test_bases_elsewhere():
    pair = Pair(copy2)
    pair.fast(GRID, describe())
    descriptor = describe()
    descriptor.base = torch.zeros(64, 64, device="meta")
    pair.leaves("not on device", GRID, descriptor)


def test_torch_function_mode():

    class Mode(torch.overrides.TorchFunctionMode):

        def __torch_function__(self, function, types, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    pair, descriptor = Pair(copy2), describe()
    pair.fast(GRID, descriptor)
    with Mode():
        pair.leaves("torch function mode", GRID, descriptor)


def test_gluon_descriptors_are_for_gluon_kernels():
    hopper = pytest.importorskip("triton.experimental.gluon.nvidia.hopper")
    from triton.experimental.gluon import language as gluon

    layout = gluon.NVMMASharedLayout(swizzle_byte_width=64, element_bitwidth=32, rank=2)
    pair = Pair(unused)
    pair.leaves("argument", GRID, hopper.TensorDescriptor.from_tensor(torch.zeros(64, 64), [16, 16], layout), 3)


# ---- in tuples ------------------------------------------------------------------------------------------------------


def test_in_tuples():
    """Triton 3.8 and later; before, its launcher does not know them."""
    pair = Pair(first_of)
    for descriptor in (describe(), describe(32), describe(block=(32, 32))):
        for n in (3, 16):
            result = pair.call(GRID, (descriptor, ), n)
            assert (result.error is None) == (VERSION >= (3, 8))
            if VERSION >= (3, 8):
                pair.fast(GRID, (descriptor, ), n)


@pytest.mark.skipif(VERSION < (3, 8), reason="new in Triton 3.8")
def test_in_tuples_in_tuples():
    pair = Pair(both_of)
    blocks = [[16, 32], [16, 32], [16, 32]]
    for extents in ((64, 32, 128), (32, 64, 96), (64, 64, 64)):
        first, second, third = (describe(extent, block=block) for extent, block in zip(extents, blocks))
        for n in (1, 2):
            pair.fast(GRID, n, (first, (second, n + 5)), third)
            pair.fast(lambda meta: GRID, 17, (first, (second, 1)), third)
    assert routes(pair) == {"driver"}


@pytest.mark.skipif(VERSION < (3, 8), reason="new in Triton 3.8")
def test_in_tuples_without_tensor_maps(ampere):
    pair = Pair(both_of)
    for extent in (32, 64):
        pair.fast(GRID, 2, (describe(extent), (describe(), 3)), describe(16))
    assert routes(pair) == {"driver"}


# ---- what a grid callable does --------------------------------------------------------------------------------------


def once(descriptor, name, *values):
    """A grid callable that gives the attribute the next value each time."""
    remaining = list(values)

    def grid(meta):
        value = remaining.pop(0)
        if callable(value):
            value(descriptor)
        else:
            setattr(descriptor, name, value)
        return GRID

    return grid


@pytest.mark.parametrize("name, values", [
    ("base", [torch.zeros(64, 64) for _ in range(6)]),
    ("base", [torch.zeros(64, 64, dtype=dtype) for dtype in [torch.float16, torch.int32, torch.int64] * 2]),
    ("shape", [[n, 64] for n in (1, 2, 3, 4, 5, 6)]),
    ("shape", [lambda d: d.shape.__setitem__(0, d.shape[0] - 1)] * 6),
    ("strides", [[n, 1] for n in (64, 128, 256, 512, 1024, 2048)]),
    ("strides", [[64, 2]] * 6),
    ("padding", ["nan", "zero"] * 3),
    ("block_shape", [[16, 16], [32, 16]] * 3),
])
def test_a_grid_that_changes_the_descriptor(name, values):
    pair, base = Pair(copy2), torch.zeros(64, 64)
    calls = {}
    for kernel in (pair.triton, pair.lowlat):
        descriptor = TensorDescriptor(base, [64, 64], [64, 1], [16, 32])
        calls[kernel] = once(descriptor, name, *values), descriptor
    for _ in range(len(values)):
        pair.lockstep(lambda kernel: kernel[calls[kernel][0]](calls[kernel][1]))


def test_a_grid_that_moves_the_memory_of_a_descriptor():
    kernel, descriptor = lowlat.jit(copy2), describe()
    for _ in range(3):
        with null.record() as launches:
            kernel[lambda meta: (descriptor.base.set_(torch.zeros(64, 64)), GRID)[1]](descriptor)
        assert struct.unpack_from("<Q", launches[0].parameters[0])[0] == descriptor.base.data_ptr()
    assert kernel.exits == {"first call": 1}


def test_a_grid_that_moves_what_is_in_a_tuple():
    def store(t, n):
        tl.store(t[0], n)

    kernel, tensor = lowlat.jit(store), torch.zeros(64)
    for _ in range(3):
        with null.record() as launches:
            kernel[lambda meta: (tensor.set_(torch.zeros(64)), GRID)[1]]((tensor, ), 3)
        assert struct.unpack("<Q", launches[0].parameters[0])[0] == tensor.data_ptr()
    assert kernel.exits == {"first call": 1}


# ---- tuners ---------------------------------------------------------------------------------------------------------


def matmul(a, b, c, M, N, K, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr):
    row, column = tl.program_id(0) * BLOCK_M, tl.program_id(1) * BLOCK_N
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        total = tl.dot(a.load([row, start]), b.load([start, column]), total)
    c.store([row, column], total.to(tl.float16))


def set_block_shapes(nargs):
    nargs["a"].block_shape = [nargs["BLOCK_M"], nargs["BLOCK_K"]]
    nargs["b"].block_shape = [nargs["BLOCK_K"], nargs["BLOCK_N"]]
    nargs["c"].block_shape[:] = [nargs["BLOCK_M"], nargs["BLOCK_N"]]


def matmul_configs():
    return [triton.Config({"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": 16}, num_warps=4, pre_hook=set_block_shapes)
            for m, n in ((64, 16), (64, 32), (128, 16))]


def test_pre_hooks_that_set_block_shapes():
    """As in Triton's tutorial of persistent matmuls: made with a dummy block, set by the configuration."""
    tuned = Both.tuned(matmul, matmul_configs, key=("M", "N", "K"))
    tensors = [torch.zeros(128, 128, dtype=torch.float16) for _ in range(3)]
    for sizes in ((128, 128, 128), (64, 128, 128), (128, 64, 128), (128, 128, 128), (64, 128, 128)):
        dummies = [TensorDescriptor.from_tensor(tensor, [1, 1]) for tensor in tensors]
        tuned.call(lambda meta: (128 // meta["BLOCK_M"], 128 // meta["BLOCK_N"]), *dummies, *sizes)
        for _ in range(2):
            before = tuned.lowlat.fn.exits
            tuned.call(lambda meta: (128 // meta["BLOCK_M"], 128 // meta["BLOCK_N"]), *dummies, *sizes)
            assert changed(before, tuned.lowlat.fn.exits) == {}  # the tuner's part is Triton's, the kernel's is not


def test_tuned_without_hooks():
    def scaled(d, key, BLOCK: tl.constexpr):
        d.store([0, 0], d.load([0, 0]) * BLOCK)

    tuned = Both.tuned(scaled, lambda: [triton.Config({"BLOCK": n}) for n in (1, 2, 3)], key=("key", ))
    for key in (1, 2, 1):
        tuned.fast(GRID, describe(), key)
    odd = describe()
    odd.dtype = "mine"
    tuned.call(GRID, odd, 1)
    tuned.leaves("argument", GRID, odd, 1)
    tuned.fast(GRID, describe(), 1)


def test_hooks_see_the_call():
    pair, descriptor = Pair(copy2), describe()
    pair.fast(GRID, descriptor)

    def hook(metadata):
        observe(metadata.get()["name"])

    knobs.runtime.launch_enter_hook.add(hook)
    try:
        pair.leaves("launch hook", GRID, descriptor)
    finally:
        knobs.runtime.launch_enter_hook.remove(hook)
    pair.fast(GRID, descriptor)
