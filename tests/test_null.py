"""The null driver: counts, records, keeps the driver's rules, fails on request."""

import os
import subprocess
import sys

import pytest
import triton
import triton.language as tl

from lowlat import null
from oracle import address, aligned, pointers, torch

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
    assert int.from_bytes(pointer, "little") == address(x)
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
