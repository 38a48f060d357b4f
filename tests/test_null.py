"""The null driver: counts, records, keeps the driver's rules, fails on request."""

import ctypes
import gc
import os
import subprocess
import sys

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
    extra = (ctypes.c_void_p * 5)(1, ctypes.cast(buffer, ctypes.c_void_p), 2, 0, 0)
    shape = [1, 2, 3, 128, 1, 1, 16, ctypes.c_void_p(77)]
    with null.record() as launches:
        assert driver_.cuLaunchKernel(function, *shape, pointers, None) == 0
        assert driver_.cuLaunchKernel(function, *shape, None, extra) == 0
        assert driver_.cuLaunchKernel(function, *shape, pointers, extra) == 1
    assert launches[0] == launches[1] and len(launches) == 2
    assert (launches[0].call, launches[0].grid, launches[0].block) == ("cuLaunchKernel", (1, 2, 3), (128, 1, 1))
    assert (launches[0].shared, launches[0].stream) == (16, 77)
    assert launches[0].parameters == tuple(bytes(value) for value in values)


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
