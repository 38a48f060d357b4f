"""The null driver: Triton's real compiler and real launch path on a machine with no GPU.

`activate()` makes a `libcuda.so.1` with no GPU behind it the process's CUDA driver and CPU tensors stand in for device
tensors.  Kernels compile to real cubins (compute capability 9.0) and every launch ends in `cuLaunchKernelEx`, which
counts it, on request records it, and returns.  It runs Triton 3.6 to 3.9; tests, benchmarks and the first look at
lowlat stand on it where there is no GPU.
"""

from __future__ import annotations

import ctypes
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LIBRARY = Path(__file__).with_name("libcuda.so.1")
_lib: Any = None


class NullDriverError(RuntimeError):
    """The null driver cannot be made the driver of this process."""


def activate(*, force: bool = False) -> None:
    """Make the null driver this process's CUDA driver and Triton's active driver, for good.

    Raises NullDriverError in a process that has initialised CUDA or loaded another libcuda.so.1, and, unless `force`,
    on a machine with a usable GPU.  Calling it again makes the null driver active again.
    """
    global _lib
    if _lib is None:
        _refuse_if_taken()
        if not force and _gpu_count() > 0:
            raise NullDriverError(
                f"this machine has {_gpu_count()} usable GPU(s); say activate(force=True) to launch into nothing here")
        _lib = _load()
    from triton import knobs
    from triton.runtime import driver

    # Where Triton's C parts find libcuda.so.1 to link against.  Not for child processes: without torch, Triton 3.8 and
    # later would take it for a GPU's driver there.
    propagate, knobs.propagate_env = knobs.propagate_env, False
    try:
        knobs.nvidia.libcuda_path = str(_LIBRARY.parent)
    finally:
        knobs.propagate_env = propagate

    from .. import _fast, _torch
    from ..jit import forget_driver

    _fast.set_devices(1 << _torch.CPU | 1 << _torch.CUDA)
    getters = (_fast.current_device, _fast.current_stream)
    _torch.use_null_readers(_address("lowlat_null_get_device"), _address("lowlat_null_get_stream"), getters)
    forget_driver()
    _torch.attach()
    driver.set_active(_make_driver())


def active() -> bool:
    """Whether the null driver is this process's CUDA driver."""
    return _lib is not None


# ---- what it is asked -----------------------------------------------------------------------------------------------


def launches() -> int:
    """Launches that reached the driver since the process began."""
    return _library().lowlat_null_launches()


def set_device(device: int) -> None:
    """Make `device` (0 or 1) and its context current in this thread."""
    if _library().lowlat_null_set_device(device) != 0:
        raise ValueError(f"device {device!r}: the null driver has devices 0 and 1")


def set_stream(stream: int, device: int = 0) -> None:
    """Make `stream` (any number; 0 is the default stream) this thread's current stream on `device`."""
    if _library().lowlat_null_set_stream(device, stream) != 0:
        raise ValueError(f"device {device!r}: the null driver has devices 0 and 1")


def drop_context() -> None:
    """Leave this thread without a current context, as a new thread has none."""
    _library().lowlat_null_drop_context()


def fail(name: str, result: int, times: int = 1) -> None:
    """Make the next `times` calls of entry point `name` (such as "cuLaunchKernelEx") return `result` unserved."""
    _library().lowlat_null_fail(name.encode(), result, times)


@dataclass(frozen=True)
class Launch:
    """One recorded launch.  `parameters` has the bytes of each parameter as the kernel would read them; `attributes`
    are (id, first twelve bytes of the value)."""

    kernel: str
    device: int
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    stream: int
    attributes: tuple[tuple[int, bytes], ...]
    parameters: tuple[bytes, ...]


class record:
    """`with record() as launches:` the launches inside, in order, are in the list when the block ends."""

    def __enter__(self) -> list[Launch]:
        self.launches: list[Launch] = []
        _take()
        _library().lowlat_null_record(1)
        return self.launches

    def __exit__(self, *_: object) -> None:
        _library().lowlat_null_record(0)
        self.launches.extend(_take())


# ---- inside ---------------------------------------------------------------------------------------------------------


class _Config(ctypes.Structure):
    _fields_ = [("grid", ctypes.c_uint32 * 3), ("block", ctypes.c_uint32 * 3), ("shared", ctypes.c_uint32),
                ("stream", ctypes.c_void_p), ("attributes", ctypes.c_void_p), ("attribute_count", ctypes.c_uint32)]


class _Attribute(ctypes.Structure):
    _fields_ = [("id", ctypes.c_uint32), ("padding", ctypes.c_uint32), ("value", ctypes.c_char * 64)]


class _Record(ctypes.Structure):
    _fields_ = [("next", ctypes.c_void_p), ("function", ctypes.c_void_p), ("device", ctypes.c_int),
                ("config", _Config), ("attributes", _Attribute * 8), ("parameter_bytes", ctypes.c_size_t)]


def _take() -> list[Launch]:
    lib, taken = _library(), []
    while address := lib.lowlat_null_take():
        record_ = _Record.from_address(address)
        data = ctypes.string_at(address + ctypes.sizeof(_Record), record_.parameter_bytes)
        parameters = []
        for i in range(lib.lowlat_null_parameter_count(record_.function)):
            offset, size = ctypes.c_int(), ctypes.c_int()
            lib.lowlat_null_parameter(record_.function, i, ctypes.byref(offset), ctypes.byref(size))
            parameters.append(data[offset.value:offset.value + size.value])
        attributes = tuple((attribute.id, ctypes.string_at(ctypes.addressof(attribute) + 8, 12))
                           for attribute in record_.attributes[:record_.config.attribute_count])
        taken.append(
            Launch(kernel=lib.lowlat_null_function_name(record_.function).decode(), device=record_.device,
                   grid=tuple(record_.config.grid), block=tuple(record_.config.block), shared=record_.config.shared,
                   stream=record_.config.stream or 0, attributes=attributes, parameters=tuple(parameters)))
        lib.lowlat_null_free(address)
    return taken


def _library() -> Any:
    if _lib is None:
        raise NullDriverError("the null driver is not active: call lowlat.null.activate() first")
    return _lib


def _load() -> Any:
    if not _LIBRARY.exists():
        raise NullDriverError("the null driver is not built: type `pip install -e .` in the checkout")
    # Loaded under the soname libcuda.so.1: whoever asks for that library from now on gets this one.
    lib = ctypes.CDLL(str(_LIBRARY), mode=ctypes.RTLD_GLOBAL)
    lib.lowlat_null_launches.restype = ctypes.c_uint64
    lib.lowlat_null_set_stream.argtypes = [ctypes.c_int, ctypes.c_void_p]
    lib.lowlat_null_take.restype = ctypes.c_void_p
    lib.lowlat_null_free.argtypes = [ctypes.c_void_p]
    lib.lowlat_null_function_name.argtypes = [ctypes.c_void_p]
    lib.lowlat_null_function_name.restype = ctypes.c_char_p
    lib.lowlat_null_parameter_count.argtypes = [ctypes.c_void_p]
    lib.lowlat_null_parameter.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    return lib


def _address(name: str) -> int:
    return ctypes.cast(getattr(_lib, name), ctypes.c_void_p).value or 0


def _make_driver() -> Any:
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.driver import CudaDriver

    from .. import _fast

    class NullDriver(CudaDriver):
        """Triton's CUDA driver, with the null driver's device and stream instead of torch's."""

        def __init__(self) -> None:
            try:
                super().__init__()
            except ModuleNotFoundError as error:  # Triton 3.6 and 3.7 ask torch for the four functions set here
                if error.name != "torch":
                    raise
            self.get_current_device = _fast.current_device
            self.get_current_stream = _fast.current_stream
            self.set_current_device = set_device
            self.get_device_capability = lambda device=None: (9, 0)

        def get_current_target(self) -> GPUTarget:
            return GPUTarget("cuda", 90, 32)

        def get_benchmarker(self) -> Any:
            """Every configuration takes as long as any other: each is launched once."""

            def benchmark(call: Any, quantiles: Any = None, **_: Any) -> Any:
                call()
                return [1.0] * len(quantiles) if quantiles else 1.0

            return benchmark

        def get_active_torch_device(self) -> Any:
            import torch

            return torch.device("cpu")

    return NullDriver()


def _refuse_if_taken() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        raise NullDriverError("this process has initialised CUDA; activate the null driver in a new process")
    with open("/proc/self/maps") as maps:
        for line in maps:
            path = line.split()[-1]
            if os.path.basename(path).startswith("libcuda.so") and not os.path.samefile(path, _LIBRARY):
                raise NullDriverError(f"this process has loaded {path}; activate the null driver in a new process")


def _gpu_count() -> int:
    """GPUs that NVML can see; NVML does not initialise CUDA."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 0
    count = ctypes.c_uint(0)
    if nvml.nvmlInit_v2() != 0:
        return 0
    found = count.value if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0 else count.value
    nvml.nvmlShutdown()
    return found
