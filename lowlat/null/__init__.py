"""The null driver: Triton's real compiler and real launch path on a machine with no GPU.

`activate()` makes a `libcuda.so.1` with no GPU behind it the process's CUDA driver and CPU tensors stand in for device
tensors.  Kernels compile to real cubins (compute capability 9.0) and every launch ends in `cuLaunchKernelEx` (or
`cuLaunchKernel`, or `cuGraphLaunch`), which counts it, on request records it, and returns.  It runs Triton 3.6 to 3.9;
tests, benchmarks and the first look at lowlat stand on it where there is no GPU.  What needs the null driver raises
NullDriverError before `activate()`.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from dataclasses import dataclass, field
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

    _take_cpu_tensors(True)
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
    """Launches that reached the driver since the process began; a graph's launch counts once per kernel node."""
    return _library().lowlat_null_launches()


def set_device(device: int) -> None:
    """Make `device` (0 or 1) and its context current in this thread; ValueError for any other."""
    if _library().lowlat_null_set_device(device) != 0:
        raise ValueError(f"device {device!r}: the null driver has devices 0 and 1")


def set_stream(stream: int, device: int = 0) -> None:
    """Make `stream` (any number; 0 is the default stream) this thread's current stream on `device`.

    Raises ValueError for a device other than 0 and 1.
    """
    if _library().lowlat_null_set_stream(device, stream) != 0:
        raise ValueError(f"device {device!r}: the null driver has devices 0 and 1")


def drop_context() -> None:
    """Leave this thread without a current context, as a new thread has none."""
    _library().lowlat_null_drop_context()


def fail(name: str, result: int, times: int = 1, *, after: int = 0) -> None:
    """Make `times` calls of entry point `name` (see `entry_points`) return `result` (a CUresult) unserved, once
    `after` calls of it have been served.  One entry point fails at a time; `times=0` ends it.  Raises ValueError for
    an entry point that is not there."""
    if times and name not in entry_points():
        raise ValueError(f"entry point {name!r}: the null driver has {', '.join(entry_points())}")
    _library().lowlat_null_fail(name.encode(), result, times, after)


def entry_points() -> tuple[str, ...]:
    """The driver's entry points that are there, by symbol and by cuGetProcAddress."""
    names: list[str] = []
    while name := _library().lowlat_null_entry(len(names)):
        names.append(name.decode())
    return tuple(names)


def set_memory(address: int, size: int, *, device_address: int | None = None) -> None:
    """Say what the `size` bytes at `address` are: host memory, which cuPointerGetAttribute refuses as it does a CPU
    tensor's, or, with `device_address`, mapped memory, which the device reads at that other address.

    From now until `clear_memory` lowlat no longer takes CPU tensors for device tensors.  64 ranges at most; ValueError
    for the next.
    """
    if _library().lowlat_null_add_memory(address, size, device_address is not None, device_address or 0) != 0:
        raise ValueError("the null driver keeps 64 ranges of memory at most")
    _take_cpu_tensors(False)


def clear_memory() -> None:
    """All memory is plain device memory again, CPU tensors' included."""
    _library().lowlat_null_clear_memory()
    _take_cpu_tensors(True)


def graphs() -> int:
    """Executable graphs that are alive: instantiated and not yet destroyed."""
    return _library().lowlat_null_graphs()


def violations() -> int:
    """Uses of graphs since the process began that are bugs on real hardware: a call on a graph or an executable graph
    while another thread is inside a call on it, or on a graph, executable graph or node that is destroyed; the launch
    of an executable graph one of whose kernels is unloaded."""
    return _library().lowlat_null_violations()


def linger(yields: int) -> None:
    """Make each call on a graph or an executable graph yield the processor `yields` times while it is inside, so that
    threads which do not exclude each other meet there; 0 ends it."""
    _library().lowlat_null_linger(yields)


def set_capturing(stream: int, capturing: bool = True, device: int = 0) -> None:
    """Say whether `stream`, a blocking stream of `device`, is being captured, for all threads.

    cuStreamIsCapturing then answers so, and what would depend on it fails on that device's legacy stream (0):
    cuStreamIsCapturing and launches, with CUDA_ERROR_STREAM_CAPTURE_IMPLICIT.  Kernels launched into `stream` itself
    are served and recorded; a graph is not (CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED).  Raises ValueError for the legacy
    stream, which cannot be captured, for a device other than 0 and 1, and for a 65th stream.
    """
    if stream in (0, 1):
        raise ValueError(f"stream {stream!r}: the legacy stream cannot be captured")
    if device not in (0, 1):
        raise ValueError(f"device {device!r}: the null driver has devices 0 and 1")
    if _library().lowlat_null_set_capturing(stream, capturing, device) != 0:
        raise ValueError("the null driver captures 64 streams at most")


def set_green_stream(stream: int) -> None:
    """Say that `stream` is of a green context: cuStreamGetCtx tells another context than the current one. 0 ends it."""
    _library().lowlat_null_set_green_stream(stream)


def clear_capturing() -> None:
    """No stream is being captured any more."""
    _library().lowlat_null_clear_capturing()


def spoilt_captures() -> int:
    """Launches since the process began that failed for a capture and would have ended it: of a graph into a capturing
    stream, or of anything into the legacy stream beside one."""
    return _library().lowlat_null_spoilt_captures()


@dataclass(frozen=True)
class Launch:
    """One recorded launch.

    `call` is the entry point, which does not take part in comparison: a kernel launched by a graph equals the same
    kernel launched alone.  (Each kernel node of a graph is a launch of its own.)  `grid` counts blocks and `block`
    threads, along x, y and z; `shared` is dynamic shared memory in bytes; `parameters` has the bytes of each parameter
    as the kernel would read them; `attributes` are (id, first twelve bytes of the value); `stream` is its handle, 0 the
    default stream.
    """

    kernel: str
    call: str = field(compare=False)
    device: int
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    shared: int
    stream: int
    attributes: tuple[tuple[int, bytes], ...]
    parameters: tuple[bytes, ...]
    module: int = field(compare=False)


@dataclass(frozen=True)
class Load:
    """One recorded module load.  `kernels` has, by name, the (offset, size) in bytes of each parameter, as the image's
    own .nv.info records say; `module` is the number by which launches and unloads name it."""

    device: int
    kernels: dict[str, tuple[tuple[int, int], ...]]
    image: bytes = field(repr=False)
    module: int = field(compare=False)


@dataclass(frozen=True)
class Unload:
    """One recorded module unload."""

    device: int
    module: int = field(compare=False)


class Recording(list[Launch]):
    """The launches in order; `loads` and `unloads` are what else happened meanwhile, `events` all of it in order."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[Load] = []
        self.unloads: list[Unload] = []
        self.events: list[Launch | Load | Unload] = []


class record:
    """`with record() as launches:` what happened inside is in the `Recording` when the block ends."""

    def __enter__(self) -> Recording:
        self.recording = Recording()
        _take()
        _library().lowlat_null_record(1)
        return self.recording

    def __exit__(self, *_: object) -> None:
        _library().lowlat_null_record(0)
        for event in _take():
            self.recording.events.append(event)
            if isinstance(event, Launch):
                self.recording.append(event)
            elif isinstance(event, Load):
                self.recording.loads.append(event)
            else:
                self.recording.unloads.append(event)


# ---- inside ---------------------------------------------------------------------------------------------------------


_LAUNCH = struct.Struct("<I3I3IIQI")
_CALLS = ("cuLaunchKernelEx", "cuLaunchKernel", "cuGraphLaunch")


class _Reader:
    """The bytes of one event, in the order in which driver.c puts them."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def word(self) -> int:
        self.at += 4
        return int.from_bytes(self.data[self.at - 4:self.at], "little")

    def bytes(self, size: int) -> bytes:
        self.at += size
        return self.data[self.at - size:self.at]

    def text(self) -> str:
        return self.bytes(self.word()).decode()

    def event(self) -> Launch | Load | Unload:
        kind, device, module = self.word(), self.word(), int.from_bytes(self.bytes(8), "little")
        if kind == 3:
            return Unload(device=device, module=module)
        if kind == 2:
            kernels = {}
            for _ in range(self.word()):
                name = self.text()
                kernels[name] = tuple((self.word(), self.word()) for _ in range(self.word()))
            return Load(device=device, kernels=kernels, image=self.bytes(self.word()), module=module)
        name = self.text()
        call, *config, shared, stream, attributes = _LAUNCH.unpack(self.bytes(_LAUNCH.size))
        return Launch(
            kernel=name, call=_CALLS[call], device=device, grid=tuple(config[:3]), block=tuple(config[3:]),
            shared=shared, stream=stream, module=module,
            attributes=tuple((self.word(), self.bytes(12)) for _ in range(attributes)),
            parameters=tuple(self.bytes(self.word()) for _ in range(self.word())))


def _take() -> list[Launch | Load | Unload]:
    lib, taken = _library(), []
    address, size = ctypes.c_void_p(), ctypes.c_size_t()
    while event := lib.lowlat_null_take(ctypes.byref(address), ctypes.byref(size)):
        taken.append(_Reader(ctypes.string_at(address, size.value)).event())
        lib.lowlat_null_free(event)
    return taken


def _take_cpu_tensors(taken: bool) -> None:
    from .. import _fast, _torch

    _fast.set_devices(taken << _torch.CPU | 1 << _torch.CUDA)


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
    lib.lowlat_null_set_green_stream.argtypes = [ctypes.c_uint64]
    lib.lowlat_null_set_green_stream.restype = None
    lib.lowlat_null_set_stream.argtypes = [ctypes.c_int, ctypes.c_void_p]
    lib.lowlat_null_take.restype = ctypes.c_void_p
    lib.lowlat_null_free.argtypes = [ctypes.c_void_p]
    lib.lowlat_null_entry.argtypes = [ctypes.c_size_t]
    lib.lowlat_null_entry.restype = ctypes.c_char_p
    for counter in (lib.lowlat_null_graphs, lib.lowlat_null_violations, lib.lowlat_null_spoilt_captures):
        counter.restype = ctypes.c_uint64
    lib.lowlat_null_set_capturing.argtypes = [ctypes.c_uint64, ctypes.c_int, ctypes.c_int]
    lib.lowlat_null_add_memory.argtypes = [ctypes.c_uint64, ctypes.c_uint64, ctypes.c_int, ctypes.c_uint64]
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
