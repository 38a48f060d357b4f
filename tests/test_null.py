"""The null driver: counts, records, keeps the driver's rules, fails on request."""

import ctypes
import gc
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, nullcontext

import pytest
import triton
import triton.language as tl
from triton.runtime import driver

from lowlat import null
from oracle import address_of, aligned, pointers, torch

pytestmark = pytest.mark.null


@triton.jit
@pointers
def kernel(x, n, f, flag, BLOCK: tl.constexpr):
    if flag:
        tl.store(x, n + f)


def launch(*args, grid=(2, 3), **options):
    return kernel[grid](*args, **options)


def test_counting():
    before = null.launches()
    for _ in range(3):
        launch(aligned(), 5, 0.5, True, BLOCK=4)
    assert null.launches() == before + 3


def test_recording():
    x = aligned()
    with null.record() as launches:
        launch(x, 2**31, 0.5, True, BLOCK=4, num_warps=2)
    launch(x, 5, 0.5, True, BLOCK=4)
    assert len(launches) == 1
    record = launches[0]
    assert (record.kernel, record.device, record.grid, record.block) == ("kernel", 0, (2, 3, 1), (64, 1, 1))
    assert record.stream == 0 and record.attributes == ()
    pointer, n, f, flag, *scratch = record.parameters
    assert int.from_bytes(pointer, "little") == address_of(x)
    assert n == (2**31).to_bytes(8, "little") and f == bytes.fromhex("0000003f") and flag == b"\x01"
    assert scratch == [bytes(8), bytes(8)]


def test_context_and_devices():
    x = aligned()
    launch(x, 5, 0.5, True, BLOCK=4)
    null.set_device(1)
    with null.record() as launches:
        compiled = launch(x, 5, 0.5, True, BLOCK=4)
    assert launches[0].device == 1
    null.set_device(0)
    with pytest.raises(RuntimeError, match="invalid resource handle"):
        compiled[(1, 1, 1)](x, 5, 0.5, True, 4)  # a function of the other device's context
    with pytest.raises(ValueError, match="devices 0 and 1"):
        null.set_device(2)


def test_failures():
    x = aligned()
    launch(x, 5, 0.5, True, BLOCK=4)
    null.fail("cuLaunchKernelEx", 701, times=2)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="too many resources requested for launch"):
            launch(x, 5, 0.5, True, BLOCK=4)
    launch(x, 5, 0.5, True, BLOCK=4)
    null.fail("cuModuleLoadData", 2)
    with pytest.raises(RuntimeError, match="out of memory"):
        launch(x, 16, 0.5, True, BLOCK=8)


def test_failures_of_any_entry_point():
    x = aligned()
    launch(x, 5, 0.5, True, BLOCK=4)
    null.fail("cuLaunchKernelEx", 719, after=1)
    launch(x, 5, 0.5, True, BLOCK=4)
    with pytest.raises(RuntimeError, match="unspecified launch failure"):
        launch(x, 5, 0.5, True, BLOCK=4)
    launch(x, 5, 0.5, True, BLOCK=4)
    with pytest.raises(ValueError, match="'cuLaunch': the null driver has cuInit, "):
        null.fail("cuLaunch", 1)
    driver_ = ctypes.CDLL("libcuda.so.1")
    for name in null.entry_points():
        if name == "cuGetErrorString":
            continue  # Triton asks it for the text of the others' failures
        null.fail(name, 999)
        function = getattr(driver_, name)
        assert function(*[ctypes.c_void_p()] * 12) == 999, name
    null.fail("", 0, 0)


def test_loads_and_unloads():
    """A load lists the kernels of the image and the place of each parameter, as the cubin itself says."""
    x = aligned()
    gc.collect()  # kernels of other tests, whose modules Triton 3.8 and later unload when they go
    with null.record() as launches:
        compiled = launch(x, 7, 0.5, True, BLOCK=32)
        launch(x, 9, 0.5, True, BLOCK=32)
    [load] = launches.loads
    assert load.device == 0 and load.image == compiled.asm["cubin"]
    # pointer, i32, fp32, u1; then the two scratch pointers of every kernel
    assert load.kernels == {"kernel": ((0, 8), (8, 4), (12, 4), (16, 1), (24, 8), (32, 8))}
    assert [event.module for event in launches.events] == [load.module] * 3
    utils = driver.active.utils
    if hasattr(utils, "unload_module"):  # Triton 3.8 and later
        module = utils.load_binary("kernel", compiled.asm["cubin"], 0, 0)[0]
        with null.record() as launches:
            utils.unload_module(module)
        assert launches.unloads == [null.Unload(device=0, module=0)]


def test_launching_what_was_unloaded_is_an_error():
    driver_ = ctypes.CDLL("libcuda.so.1")
    image = launch(aligned(), 5, 0.5, True, BLOCK=4).asm["cubin"]
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    assert driver_.cuModuleLoadData(ctypes.byref(module), image) == 0
    assert driver_.cuModuleGetFunction(ctypes.byref(function), module, b"kernel") == 0
    assert driver_.cuModuleGetFunction(ctypes.byref(ctypes.c_void_p()), module, b"other") == 500
    assert driver_.cuModuleUnload(module) == 0
    assert driver_.cuLaunchKernel(function, 1, 1, 1, 32, 1, 1, 0, None, None, None) == 400
    assert driver_.cuModuleUnload(module) == 400


def test_the_other_launch_call_and_lookup():
    """cuLaunchKernel, found by cuGetProcAddress, with its parameters one by one or in one buffer."""
    driver_ = ctypes.CDLL("libcuda.so.1")
    found = ctypes.c_void_p()
    assert driver_.cuGetProcAddress_v2(b"cuLaunchKernel", ctypes.byref(found), 13000, ctypes.c_uint64(0), None) == 0
    assert found.value == ctypes.cast(driver_.cuLaunchKernel, ctypes.c_void_p).value
    assert driver_.cuGetProcAddress(b"cuNothing", ctypes.byref(found), 13000, ctypes.c_uint64(0)) == 500
    assert found.value is None

    compiled = launch(aligned(), 5, 0.5, True, BLOCK=4)
    function = ctypes.c_void_p(compiled.function)
    values = [ctypes.c_uint64(4096), ctypes.c_int32(7), ctypes.c_float(0.5), ctypes.c_uint8(1), ctypes.c_uint64(0),
              ctypes.c_uint64(0)]
    pointers = (ctypes.c_void_p * 6)(*[ctypes.addressof(value) for value in values])
    buffer = b"".join(bytes(value) for value in values[:4]) + bytes(7) + bytes(16)
    extra, longer = in_one_buffer(buffer), in_one_buffer(buffer, len(buffer) + 8)
    shape = [1, 2, 3, 128, 1, 1, 16, ctypes.c_void_p(77)]
    with null.record() as launches:
        assert driver_.cuLaunchKernel(function, *shape, pointers, None) == 0
        assert driver_.cuLaunchKernel(function, *shape, None, extra) == 0
        assert driver_.cuLaunchKernel(function, *shape, pointers, extra) == 1
        assert driver_.cuLaunchKernel(function, *shape, None, longer) == 1
        assert driver_.cuLaunchKernel(function, *shape, None, in_one_buffer(None, 40)) == 1
    assert launches[0] == launches[1] and len(launches) == 2
    assert (launches[0].call, launches[0].grid, launches[0].block) == ("cuLaunchKernel", (1, 2, 3), (128, 1, 1))
    assert (launches[0].shared, launches[0].stream) == (16, 77)
    assert launches[0].parameters == tuple(bytes(value) for value in values)


def in_one_buffer(buffer, size=None):
    """What `extra` is to be for parameters that are all in `buffer`; it keeps the buffer."""
    size = ctypes.c_size_t(len(buffer) if size is None else size)
    extra = (ctypes.c_void_p * 5)(1, ctypes.cast(buffer, ctypes.c_void_p), 2, ctypes.addressof(size), 0)
    extra.keeps = buffer, size
    return extra


def test_where_parameters_are():
    """cuFuncGetParamInfo: the places and sizes that the cubin says."""
    function = compiled_function()
    offset, size = ctypes.c_size_t(), ctypes.c_size_t()
    places = []
    while cu("FuncGetParamInfo", function, len(places), ctypes.byref(offset), ctypes.byref(size)) == 0:
        places.append((offset.value, size.value))
    assert places == [(0, 8), (8, 4), (12, 4), (16, 1), (24, 8), (32, 8)]
    assert cu("FuncGetParamInfo", function, 6, ctypes.byref(offset), ctypes.byref(size)) == 1
    assert cu("FuncGetParamInfo", function, 1, ctypes.byref(offset), None) == 0 and offset.value == 8
    assert cu("FuncGetParamInfo", None, 0, ctypes.byref(offset), None) == 1


class NodeParams(ctypes.Structure):
    """CUDA_KERNEL_NODE_PARAMS_v2."""

    _fields_ = [("function", ctypes.c_void_p), ("grid", ctypes.c_uint * 3), ("block", ctypes.c_uint * 3),
                ("shared", ctypes.c_uint), ("parameters", ctypes.c_void_p), ("extra", ctypes.c_void_p),
                ("kernel", ctypes.c_void_p), ("context", ctypes.c_void_p)]


class Call:
    """Arguments of `kernel` in memory that can be written again, and the structure that points to them."""

    def __init__(self, function, n=5, grid=(1, 2, 3), block=(128, 1, 1), shared=16):
        self.function, self.grid, self.block, self.shared = function, grid, block, shared
        self.values = [ctypes.c_uint64(4096), ctypes.c_int32(n), ctypes.c_float(0.5), ctypes.c_uint8(1),
                       ctypes.c_uint64(0), ctypes.c_uint64(0)]
        self.pointers = (ctypes.c_void_p * 6)(*[ctypes.addressof(value) for value in self.values])
        self.params = NodeParams(function, grid, block, shared, ctypes.addressof(self.pointers), None, None, None)

    def launch(self, stream=0):
        return cu("LaunchKernel", self.function, *self.grid, *self.block, self.shared, stream, self.pointers, None)


def cu(name, *arguments):
    """The driver's answer; a Python int is a handle or a count."""
    function = getattr(ctypes.CDLL("libcuda.so.1"), f"cu{name}")
    return function(*[ctypes.c_void_p(argument) if isinstance(argument, int) else argument for argument in arguments])


def made(name, *arguments):
    """The handle that a call makes, which must succeed."""
    handle = ctypes.c_void_p()
    assert cu(name, ctypes.byref(handle), *arguments) == 0
    return handle.value


def add_node(graph, call, *dependencies):
    handles = (ctypes.c_void_p * len(dependencies))(*dependencies)
    return made("GraphAddKernelNode_v2", graph, handles, len(dependencies), ctypes.byref(call.params))


def adding(graph, params, *dependencies, count=None):
    """What adding a node answers."""
    handles, node = (ctypes.c_void_p * len(dependencies))(*dependencies), ctypes.c_void_p()
    count = len(dependencies) if count is None else count
    return cu("GraphAddKernelNode_v2", ctypes.byref(node), graph, handles, count, ctypes.byref(params))


def set_params(exec_, node, call):
    return cu("GraphExecKernelNodeSetParams_v2", exec_, node, ctypes.byref(call.params))


def compiled_function(block=4):
    return launch(aligned(), 5, 0.5, True, BLOCK=block).function


@contextmanager
def loaded_function():
    """A function of a module of this test's own, and the module."""
    image = launch(aligned(), 5, 0.5, True, BLOCK=4).asm["cubin"]
    module = made("ModuleLoadData", image)
    yield made("ModuleGetFunction", module, b"kernel"), module


class Graph:
    """A graph whose nodes are `calls`, each after the one before, and its executable graph."""

    def __init__(self, *calls):
        self.graph = made("GraphCreate", 0)
        self.nodes = []
        for call in calls:
            self.nodes.append(add_node(self.graph, call, *self.nodes[-1:]))
        self.exec = made("GraphInstantiateWithFlags", self.graph, 0)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        assert cu("GraphExecDestroy", self.exec) == 0
        assert cu("GraphDestroy", self.graph) == 0

    def launch(self, stream=0):
        return cu("GraphLaunch", self.exec, stream)


def second_parameters(launches):
    return [int.from_bytes(record.parameters[1], "little") for record in launches]


@pytest.fixture
def no_violations():
    before = null.graphs(), null.violations(), null.spoilt_captures()
    yield
    assert (null.graphs(), null.violations(), null.spoilt_captures()) == before


@pytest.mark.usefixtures("no_violations")
def test_a_graph_launch_equals_a_plain_one():
    calls = [Call(compiled_function(), 5), Call(compiled_function(8), 7, grid=(9, 1, 1), shared=0), Call(
        compiled_function(), 9, block=(32, 2, 1))]
    for count in (0, 1, 3):
        with null.record() as plain:
            assert [call.launch(77) for call in calls[:count]] == [0] * count
        with Graph(*calls[:count]) as graph:
            before = null.launches()
            with null.record() as launches:
                assert graph.launch(77) == 0
            assert null.launches() == before + count
        assert launches == plain and len(plain) == count
        assert [event.module for event in launches] == [event.module for event in plain]
        assert [event.call for event in launches] == ["cuGraphLaunch"] * count
        assert [event.call for event in plain] == ["cuLaunchKernel"] * count


@pytest.mark.usefixtures("no_violations")
def test_a_graph_has_copies():
    """Of everything, when the node is added, at instantiation, and when its parameters are set."""
    first, second, other = Call(compiled_function(), 1), Call(compiled_function(), 2), Call(compiled_function(8), 3)
    with Graph(first, second) as graph:
        first.values[1].value = 100  # too late for this graph
        first.params.grid[0] = 100
        with null.record() as launches:
            graph.launch()
        assert second_parameters(launches) == [1, 2] and launches[0].grid == (1, 2, 3)

        assert set_params(graph.exec, graph.nodes[0], first) == 0
        first.values[1].value = 200
        first.params.grid[0] = 200
        first.params.shared = 200
        with null.record() as launches:
            graph.launch()
        assert second_parameters(launches) == [100, 2]
        assert (launches[0].grid, launches[0].shared) == ((100, 2, 3), 16)

        # What is set in one executable graph is not in the graph, nor in another of its.
        twin = made("GraphInstantiateWithFlags", graph.graph, 0)
        assert set_params(twin, graph.nodes[1], other) == 0
        with null.record() as launches:
            assert cu("GraphLaunch", twin, 0) == 0
            graph.launch()
        assert second_parameters(launches) == [1, 3, 100, 2]
        assert launches[1].module != launches[3].module
        assert cu("GraphExecDestroy", twin) == 0


@pytest.mark.usefixtures("no_violations")
def test_a_node_with_its_parameters_in_one_buffer():
    call = Call(compiled_function(), 7)
    with null.record() as plain:
        call.launch()
    buffer = b"".join(bytes(value) for value in call.values[:4]) + bytes(7 + 16)
    extra = in_one_buffer(buffer)
    call.params.parameters, call.params.extra = None, ctypes.addressof(extra)
    with Graph(call) as graph, Graph(Call(compiled_function(), 1)) as other:
        assert set_params(other.exec, other.nodes[0], call) == 0
        ctypes.memset(extra.keeps[0], 255, 16)  # copied by now
        with null.record() as launches:
            assert graph.launch() == other.launch() == 0
        assert launches == plain[:] * 2
        call.params.parameters = ctypes.addressof(call.pointers)
        assert set_params(other.exec, other.nodes[0], call) == 1


@pytest.mark.usefixtures("no_violations")
def test_an_executable_graph_outlives_its_graph():
    graph = Graph(Call(compiled_function(), 1))
    assert cu("GraphDestroy", graph.graph) == 0
    with null.record() as launches:
        assert graph.launch() == 0
    assert second_parameters(launches) == [1]
    assert cu("GraphExecDestroy", graph.exec) == 0


@pytest.mark.usefixtures("no_violations")
def test_what_a_graph_refuses():
    function = compiled_function()
    call, graph, other = Call(function, 1), Graph(Call(function, 2)), Graph(Call(function, 3))
    assert cu("GraphCreate", ctypes.byref(ctypes.c_void_p()), 1) == 1
    assert cu("GraphInstantiateWithFlags", ctypes.byref(ctypes.c_void_p()), graph.graph, 1) == 1
    for name in ("GraphLaunch", "GraphDestroy", "GraphExecDestroy"):
        assert cu(name, None, None) == 1
    assert adding(None, call.params) == 1
    assert adding(graph.graph, call.params, other.nodes[0]) == 1
    assert adding(graph.graph, call.params, graph.nodes[0], graph.nodes[0]) == 1
    assert adding(graph.graph, call.params, None, count=1) == 1
    for field, value in (("parameters", None), ("extra", 1), ("kernel", 1), ("function", None)):
        wrong = Call(function, 4)
        setattr(wrong.params, field, value)
        assert adding(graph.graph, wrong.params) == 1
        assert set_params(graph.exec, graph.nodes[0], wrong) == 1
    for shape in ({"grid": (0, 1, 1)}, {"grid": (1, 0, 1)}, {"grid": (1, 1, 0)}, {"grid": (2**31, 1, 1)},
                  {"grid": (1, 65536, 1)}, {"grid": (1, 1, 65536)}, {"block": (0, 1, 1)}, {"block": (1025, 1, 1)},
                  {"block": (1, 1, 65)}, {"block": (512, 4, 1)}, {"block": (2**16, 2**16, 1)}):
        assert adding(graph.graph, Call(function, 5, **shape).params) == 1
        assert set_params(graph.exec, graph.nodes[0], Call(function, 5, **shape)) == 1
    late = add_node(graph.graph, call)
    assert set_params(graph.exec, late, call) == 1  # it came after the instantiation
    assert set_params(graph.exec, other.nodes[0], call) == 1
    with null.record() as launches:
        assert graph.launch() == 0
    assert second_parameters(launches) == [2]  # nothing of all that has changed it
    largest = Call(function, 6, grid=(2**31 - 1, 65535, 65535), block=(4, 4, 64))
    assert set_params(graph.exec, graph.nodes[0], largest) == 0
    for each in (graph, other):
        with each:
            pass


@pytest.mark.usefixtures("no_violations")
def test_contexts_of_graphs():
    with loaded_function() as (function, module), Graph(Call(function, 1)) as graph:
        null.set_device(1)
        other = Call(compiled_function(), 2)
        assert graph.launch() == 400
        assert adding(graph.graph, Call(function).params) == 400
        assert set_params(graph.exec, graph.nodes[0], other) == 1  # a function of the other context
        null.drop_context()
        assert graph.launch() == 201
        assert adding(graph.graph, Call(function).params) == 201
        null.set_device(0)
        assert set_params(graph.exec, graph.nodes[0], Call(function, 3)) == 0
        with null.record() as launches:
            assert graph.launch() == 0
        assert second_parameters(launches) == [3]

        assert cu("ModuleUnload", module) == 0
        before = null.launches()
        assert adding(graph.graph, Call(function).params) == 400
        assert set_params(graph.exec, graph.nodes[0], Call(function, 4)) == 400
        assert cu("GraphInstantiateWithFlags", ctypes.byref(ctypes.c_void_p()), graph.graph, 0) == 400
        assert null.launches() == before
        # A loaded function takes the place of the unloaded one.
        assert set_params(graph.exec, graph.nodes[0], Call(compiled_function(), 5)) == 0
        assert graph.launch() == 0


@triton.jit
@pointers
def with_descriptor(desc, x):
    tl.store(x, tl.sum(desc.load([0, 0])))


@pytest.mark.torch
def test_a_graph_node_keeps_tensor_maps_aligned():
    from triton.tools.tensor_descriptor import TensorDescriptor

    descriptor = TensorDescriptor.from_tensor(torch.zeros(16, 16), [16, 16])
    with null.record() as compiled:
        function = with_descriptor[(1, )](descriptor, torch.zeros(1)).function
    sizes = [len(parameter) for parameter in compiled[0].parameters]
    memory = ctypes.create_string_buffer(256 * len(sizes) + 64)
    start = -ctypes.addressof(memory) % 64
    for i, parameter in enumerate(compiled[0].parameters):
        ctypes.memmove(ctypes.addressof(memory) + start + 256 * i, parameter, len(parameter))
    pointers = (ctypes.c_void_p * len(sizes))(*[ctypes.addressof(memory) + start + 256 * i for i in range(len(sizes))])
    call = Call(function, grid=(1, 1, 1), block=compiled[0].block, shared=compiled[0].shared)
    call.params.parameters = ctypes.addressof(pointers)
    with Graph(call) as graph:
        assert set_params(graph.exec, graph.nodes[0], call) == 0
        with null.record() as launches:
            assert graph.launch() == 0
        assert launches == compiled and 128 in sizes
        pointers[sizes.index(128)] += 32
        assert set_params(graph.exec, graph.nodes[0], call) == 1
        assert adding(graph.graph, call.params) == 1


def capturing(stream):
    """What cuStreamIsCapturing answers, and its result."""
    status = ctypes.c_int(-1)
    return cu("StreamIsCapturing", stream, ctypes.byref(status)), status.value


def test_capture():
    assert capturing(77) == capturing(0) == (0, 0)
    call, spoilt = Call(compiled_function()), null.spoilt_captures()
    with Graph(call) as graph:
        graph.launch()
        null.set_capturing(77)
        null.set_capturing(77)  # again: the same stream
        answers = []
        thread = threading.Thread(target=lambda: answers.append(capturing(77)))
        thread.start()
        thread.join()
        assert capturing(77) == answers[0] == (0, 1) and capturing(78) == (0, 0)
        assert capturing(0)[0] == capturing(1)[0] == 906
        before = null.launches()
        assert null.spoilt_captures() == spoilt  # by asking
        assert graph.launch(77) == 900 and null.spoilt_captures() == spoilt + 1
        assert graph.launch(0) == 906 and null.spoilt_captures() == spoilt + 2
        assert call.launch(0) == 906 and null.spoilt_captures() == spoilt + 3
        with pytest.raises(RuntimeError, match="operation would make the legacy stream depend on a capturing blocking"):
            launch(aligned(), 5, 0.5, True, BLOCK=4)
        spoilt = null.spoilt_captures()
        assert null.launches() == before
        with null.record() as launches:
            assert call.launch(77) == call.launch(78) == graph.launch(78) == 0
        assert [event.stream for event in launches] == [77, 78, 78]
        null.set_stream(77)
        null.fail("cuLaunchKernelEx", 900)
        with pytest.raises(RuntimeError, match="operation not permitted when stream is capturing"):
            launch(aligned(), 5, 0.5, True, BLOCK=4)
        null.set_capturing(77, False)
        null.set_capturing(77, False)  # again: harmless
        assert capturing(77) == capturing(0) == (0, 0)
        assert graph.launch(77) == graph.launch(0) == 0
    assert null.spoilt_captures() == spoilt


def test_what_may_allocate_during_a_capture():
    """A graph is not made or destroyed, nor launched for the first time, but in relaxed mode, the thread's own."""
    call, spoilt = Call(compiled_function()), null.spoilt_captures()

    def exchange(mode):
        value = ctypes.c_int(mode)
        return cu("ThreadExchangeStreamCaptureMode", ctypes.byref(value)), value.value

    with Graph(call) as graph:
        null.set_capturing(77)
        made, other = ctypes.c_void_p(), ctypes.c_void_p()
        assert graph.launch(78) == 900 and null.spoilt_captures() == spoilt + 1
        assert cu("GraphInstantiateWithFlags", ctypes.byref(made), graph.graph, 0) == 900
        assert null.spoilt_captures() == spoilt + 2
        assert exchange(2) == (0, 0) and exchange(2) == (0, 2) and exchange(3) == (1, 3)
        modes = []
        thread = threading.Thread(target=lambda: modes.append(exchange(0)))
        thread.start()
        thread.join()
        assert modes == [(0, 0)]
        assert cu("GraphInstantiateWithFlags", ctypes.byref(made), graph.graph, 0) == 0
        assert cu("GraphInstantiateWithFlags", ctypes.byref(other), graph.graph, 0) == 0
        assert cu("GraphExecDestroy", made) == 0 and graph.launch(78) == 0
        assert exchange(0) == (0, 2)
        assert graph.launch(78) == 0 and null.spoilt_captures() == spoilt + 2
        assert cu("GraphExecDestroy", other) == 900 and null.spoilt_captures() == spoilt + 3
        null.clear_capturing()
        assert cu("GraphExecDestroy", other) == 0


def test_a_device_that_fails_launches_fails_them_by_graph_too():
    call = Call(compiled_function())
    with Graph(call) as graph:
        null.fail("cuLaunchKernelEx", 700)
        assert graph.launch() == graph.launch() == 700
        with pytest.raises(RuntimeError, match="illegal memory access"):
            launch(aligned(), 5, 0.5, True, BLOCK=4)
        assert graph.launch() == 0


def test_capture_on_the_other_device():
    """Only its own device's legacy stream waits for a stream."""
    compiled_function()
    null.set_capturing(77, device=1)
    assert capturing(77) == (0, 1) and capturing(0) == (0, 0)
    null.set_device(1)
    assert capturing(77) == (0, 1) and capturing(0)[0] == 906
    null.drop_context()
    assert capturing(77) == (0, 1) and capturing(0)[0] == 201
    null.clear_capturing()
    assert capturing(77) == (0, 0)
    for stream in (0, 1):
        with pytest.raises(ValueError, match=f"stream {stream}: the legacy stream"):
            null.set_capturing(stream)
    with pytest.raises(ValueError, match="device 2: the null driver has devices 0 and 1"):
        null.set_capturing(77, device=2)
    for stream in range(2, 66):
        null.set_capturing(stream)
    with pytest.raises(ValueError, match="64 streams"):
        null.set_capturing(66)


def test_a_graph_of_an_unloaded_kernel():
    """To launch it is a violation, also once another function has got the handle; until it has that one's."""
    violations = null.violations()
    with loaded_function() as (function, module), Graph(Call(function, 5)) as graph:
        assert graph.launch() == 0
        assert cu("ModuleUnload", module) == 0
        assert graph.launch() == 1 and null.violations() == violations + 1
        with loaded_function() as (other, _):
            assert other == function
            assert Call(other, 6).launch() == 0
            assert graph.launch() == 1 and null.violations() == violations + 2
            assert cu("GraphInstantiateWithFlags", ctypes.byref(ctypes.c_void_p()), graph.graph, 0) == 400
            assert set_params(graph.exec, graph.nodes[0], Call(other, 7)) == 0
            with null.record() as launches:
                assert graph.launch() == 0
            assert second_parameters(launches) == [7]
    assert null.violations() == violations + 2


def test_uses_after_destruction_are_counted():
    call = Call(compiled_function())
    graph, alive, violations = Graph(call), null.graphs(), null.violations()
    twin = made("GraphInstantiateWithFlags", graph.graph, 0)
    assert null.graphs() == alive + 1
    assert cu("GraphExecDestroy", graph.exec) == 0
    assert null.graphs() == alive and null.violations() == violations
    for i, result in enumerate([graph.launch(), set_params(graph.exec, graph.nodes[0], call),
                                cu("GraphExecDestroy", graph.exec)]):
        assert result == 1, i
    assert null.violations() == violations + 3 and null.graphs() == alive

    assert cu("GraphDestroy", graph.graph) == 0
    assert null.violations() == violations + 3
    other = Graph()
    for i, result in enumerate([adding(graph.graph, call.params),
                                cu("GraphInstantiateWithFlags", ctypes.byref(ctypes.c_void_p()), graph.graph, 0),
                                cu("GraphDestroy", graph.graph),
                                set_params(twin, graph.nodes[0], call),
                                adding(other.graph, call.params, graph.nodes[0])]):
        assert result == 1, i
    assert null.violations() == violations + 8
    assert cu("GraphLaunch", twin, 0) == 0
    assert cu("GraphExecDestroy", twin) == 0
    with other:
        pass
    assert null.graphs() == alive - 1 and null.violations() == violations + 8


def meetings(calls, lock=None, seconds=0.5):
    """Violations while one thread per element of `calls` makes that call again and again: until the first of them, or
    for so long under `lock`."""
    before, failures = null.violations(), []
    end = time.monotonic() + (60 if lock is None else seconds)

    def run(call):
        while time.monotonic() < end and (lock is not None or null.violations() == before):
            if lock is None:
                result = call()
            else:
                with lock:
                    result = call()
            if result != 0:
                failures.append(result)

    threads = [threading.Thread(target=run, args=(call, )) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    return null.violations() - before


def in_context(call):
    """`call` with device 0 current in whichever thread."""

    def run():
        null.set_device(0)
        return call()

    return run


def test_two_threads_in_one_graph_are_counted():
    call = Call(compiled_function())
    null.linger(50)
    with Graph(call) as graph, Graph(call) as other:
        setting = in_context(lambda: set_params(graph.exec, graph.nodes[0], call))
        launching = in_context(lambda: graph.launch())
        adding_ = in_context(lambda: adding(graph.graph, call.params))
        assert meetings([setting, launching]) > 0
        assert meetings([launching, launching]) > 0
        assert meetings([adding_, adding_]) > 0
        assert meetings([setting, launching, launching], threading.Lock()) == 0
        # Two executable graphs do not disturb each other.
        apart = in_context(lambda: other.launch())
        assert meetings([launching, apart], nullcontext()) == 0


@pytest.mark.usefixtures("no_violations")
def test_graphs_of_several_threads():
    """Each launch is counted and recorded once, whole, and in its thread's order."""
    function, threads, rounds, failures = compiled_function(), 4, 200, []

    def run(number):
        null.set_device(0)
        call = Call(function)
        for i in range(rounds):
            with Graph(call, call) as graph:
                call.values[1].value = 2 * (number * rounds + i)
                failures.append(set_params(graph.exec, graph.nodes[0], call))
                call.values[1].value += 1
                failures.append(set_params(graph.exec, graph.nodes[1], call))
                failures.append(graph.launch(number + 2))

    workers = [threading.Thread(target=run, args=(number, )) for number in range(threads)]
    before = null.launches()
    with null.record() as launches:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert not any(failures) and len(failures) == 3 * threads * rounds
    assert null.launches() - before == len(launches) == 2 * threads * rounds
    for number in range(threads):
        mine = [record for record in launches if record.stream == number + 2]
        assert second_parameters(mine) == list(range(2 * number * rounds, 2 * (number + 1) * rounds))


@pytest.mark.usefixtures("no_violations")
def test_failures_of_graph_calls():
    """Each call once served and then failing: what fails changes nothing."""
    call = Call(compiled_function())
    before = null.launches()
    with Graph(call) as graph:
        alive = null.graphs()
        for name, again in (
            ("cuGraphCreate", lambda: cu("GraphCreate", ctypes.byref(ctypes.c_void_p()), 0)),
            ("cuGraphAddKernelNode_v2", lambda: adding(graph.graph, call.params)),
            ("cuGraphInstantiateWithFlags",
             lambda: cu("GraphInstantiateWithFlags", ctypes.byref(ctypes.c_void_p()), graph.graph, 0)),
            ("cuGraphExecKernelNodeSetParams_v2", lambda: set_params(graph.exec, graph.nodes[0], call)),
            ("cuGraphLaunch", lambda: graph.launch()),
            ("cuStreamIsCapturing", lambda: capturing(77)[0]),
            ("cuGraphDestroy", lambda: cu("GraphDestroy", graph.graph)),
            ("cuGraphExecDestroy", lambda: cu("GraphExecDestroy", graph.exec)),
        ):
            assert name in null.entry_points()
            null.fail(name, 719)
            call.values[1].value = 999
            assert again() == 719, name
            call.values[1].value = 5
        assert null.graphs() == alive and null.launches() == before
        with null.record() as launches:
            assert graph.launch() == 0
        assert second_parameters(launches) == [5]
        null.fail("cuGraphLaunch", 719, after=1)
        assert [graph.launch(), graph.launch(), graph.launch()] == [0, 719, 0]


@triton.jit
@pointers
def wide(x, values):
    tl.store(x, values[0] + values[499])


@pytest.mark.usefixtures("no_violations")
def test_memory_of_destroyed_graphs():
    """Of a destroyed graph only a few words stay; of parameters that are set again, nothing."""

    class Mallinfo2(ctypes.Structure):
        _fields_ = [(name, ctypes.c_size_t) for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

    mallinfo2 = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if mallinfo2 is None:
        pytest.skip("needs glibc 2.33 or later")
    mallinfo2.restype = Mallinfo2
    with null.record() as launches:
        function = wide[(1, )](aligned(), tuple(range(2, 502))).function
    buffers = [ctypes.create_string_buffer(parameter, len(parameter)) for parameter in launches[0].parameters]
    assert len(buffers) == 503
    call = Call(function)
    call.pointers = (ctypes.c_void_p * 503)(*[ctypes.addressof(buffer) for buffer in buffers])
    call.params.parameters = ctypes.addressof(call.pointers)

    def grown(work):
        work()
        gc.collect()
        before = mallinfo2().uordblks
        for _ in range(100):
            work()
        gc.collect()
        return (mallinfo2().uordblks - before) / 100

    def live_and_die():
        with Graph(call, call) as graph:
            assert graph.launch() == 0

    with Graph(call) as graph:
        assert grown(lambda: set_params(graph.exec, graph.nodes[0], call)) < 100  # a copy has 6000 bytes
    assert grown(live_and_die) < 500


@pytest.mark.torch
def test_host_and_mapped_memory():
    x = aligned()
    null.set_memory(x.data_ptr(), 64)
    with pytest.raises(ValueError, match="cpu tensor"):
        launch(x, 5, 0.5, True, BLOCK=4)
    launch(aligned(), 5, 0.5, True, BLOCK=4)
    null.clear_memory()
    null.set_memory(x.data_ptr(), 64, device_address=2**40)
    with null.record() as launches:
        launch(x, 5, 0.5, True, BLOCK=4)
        launch(x[4:], 5, 0.5, True, BLOCK=4)
    assert [int.from_bytes(launch_.parameters[0], "little") for launch_ in launches] == [2**40, 2**40 + 16]
    for i in range(63):
        null.set_memory(4096 * i, 1)
    with pytest.raises(ValueError, match="64 ranges"):
        null.set_memory(2**20, 1)
    null.clear_memory()
    launch(x, 5, 0.5, True, BLOCK=4)


def test_driver():
    from triton.runtime import driver

    assert null.active() and driver.active.get_current_target().arch == 90
    null.activate()  # again: harmless
    assert torch is None or torch.zeros(1).device == driver.active.get_active_torch_device()


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_child_processes_do_not_inherit_it():
    assert os.environ.get("TRITON_LIBCUDA_PATH") != os.path.dirname(null.__file__)


def test_needs_activation():
    result = python("from lowlat import null\nassert not null.active()\nnull.launches()")
    assert "call lowlat.null.activate() first" in result.stderr


def test_refuses_where_a_driver_is_loaded(tmp_path):
    other = tmp_path / "libcuda.so.1"
    source = tmp_path / "other.c"
    source.write_text("int cuInit(unsigned flags) { return 0; }")
    subprocess.run(["cc", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1", "-o", other, source], check=True)
    result = python(f"import ctypes; ctypes.CDLL({str(other)!r})\nfrom lowlat import null\nnull.activate()")
    assert f"has loaded {other}" in result.stderr


@pytest.mark.torch
def test_refuses_where_cuda_is_initialised():
    result = python("import torch\ntorch.cuda.is_initialized = lambda: True\nfrom lowlat import null\nnull.activate()")
    assert "has initialised CUDA" in result.stderr


@pytest.mark.torch
def test_does_not_ask_cuda_through_torch():
    """A torch built for CUDA would ask the null driver, and warn of its answer."""
    result = python("import lowlat, torch\nfrom lowlat import null\ntorch.cuda.is_available = None\nnull.activate()")
    assert result.returncode == 0, result.stderr


def test_wants_force_where_a_gpu_is_usable():
    code = "from lowlat import null\nnull._gpu_count = lambda: 2\nnull.activate({})\nprint(null.active())"
    assert "say activate(force=True)" in python(code.format("")).stderr
    assert python(code.format("force=True")).stdout == "True\n"
