"""How tensors, the current device and the current stream are read, decided by self-checks against torch itself.

Tensors have three rungs (see _torch.h): "shim", "dlpack", "python".  A rung is used only if on every probe tensor it
gives what `data_ptr()`, `dtype` and `device` give.  LOWLAT_TENSORS=shim|dlpack|python asks for one (and fails loudly
if its check fails); otherwise the best that passes is taken.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from typing import Any

from . import _fast

CPU, CUDA = 0, 1
RUNGS = ("shim", "dlpack", "python")

attached = False
rung = "none"
"""The rung in use."""
refused: dict[str, str] = {}
"""Why each better rung is not in use."""
readers = "none"
"""Who gives the current device and stream: "torch", "null" or "python"."""

_only_device = False  # one GPU is visible, so that no tensor need be asked which it is on
_null_getters: tuple[Any, Any] | None = None
_torch_readers: tuple[int, int] | None = None


def attach() -> None:
    """Look at torch, once it has been imported; without torch there are no tensors to read."""
    global attached
    if attached or "torch" not in sys.modules:
        return
    torch = sys.modules["torch"]
    if not hasattr(torch, "nn"):
        return  # still being imported
    attached = True
    names = ("uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64")
    codes = dict(enumerate(names)) | {
        11: "bool", 15: "bfloat16", 23: "float8_e5m2", 24: "float8_e4m3fn", 25: "float8_e5m2fnuz",
        26: "float8_e4m3fnuz", 27: "uint16", 28: "uint32", 29: "uint64",
    }  # c10::ScalarType
    _fast.configure_torch(
        tensor_type=torch.Tensor,
        parameter_type=torch.nn.Parameter,
        dtype_type=torch.dtype,
        size_type=torch.Size,
        function_mode_depth=torch._C._len_torch_function_stack,
        function_mode_enabled=_symbol("libtorch_cpu.so", "_ZN2at4impl27torch_function_mode_enabledEv"),
        dtypes={getattr(torch, name): code for code, name in codes.items() if hasattr(torch, name)},
        devices={"cpu": CPU, "cuda": CUDA},
    )
    if not _function_mode_is_seen(torch):
        _fast.configure_torch(
            tensor_type=torch.Tensor, parameter_type=torch.nn.Parameter, dtype_type=torch.dtype, size_type=torch.Size,
            function_mode_depth=torch._C._len_torch_function_stack,
            dtypes={getattr(torch, name): code for code, name in codes.items() if hasattr(torch, name)},
            devices={"cpu": CPU, "cuda": CUDA},
        )
    choose(os.environ.get("LOWLAT_TENSORS"))


def choose(wanted: str | None = None) -> str:
    """Use the rung `wanted`, or the best that passes its check; returns its name.

    Raises ValueError for a name that is no rung, RuntimeError if the wanted rung fails its check.
    """
    global rung
    if wanted and wanted not in RUNGS:
        raise ValueError(f"tensor access {wanted!r} is unknown, must be one of {', '.join(RUNGS)}")
    refused.clear()
    for name in (wanted,) if wanted else RUNGS:
        try:
            _SETTERS[name]()
            _check()
        except (RuntimeError, ValueError, OSError, AttributeError) as error:
            refused[name] = str(error)
            _fast.set_rung("none")
            rung = "none"
            if wanted:
                raise RuntimeError(f"tensor access {wanted!r} cannot be used: {error}") from error
        else:
            rung = name
            break
    return rung


def readers_of(get_device: Any, get_stream: Any) -> bool:
    """Whether C functions can stand for these two getters of the active driver; sets them up."""
    global readers, _torch_readers, _only_device
    if _null_getters is not None and (get_device, get_stream) == _null_getters:
        readers = "null"
        return True
    torch = sys.modules.get("torch")
    raw_stream = getattr(getattr(torch, "_C", None), "_cuda_getCurrentRawStream", None)
    if torch is None or raw_stream is None or get_stream is not raw_stream or (
            get_device is not torch.cuda.current_device) or not torch.cuda.is_initialized():
        readers = "python"
        return False
    if _torch_readers is None:
        device = _symbol("libc10_cuda.so", "_ZN3c104cuda14current_deviceEv")
        stream = _symbol("libtorch_cuda.so", "aoti_torch_get_current_cuda_stream")
        _torch_readers = (device, stream)
    if not all(_torch_readers):
        readers = "python"
        return False
    # With one visible device the current one is device 0, and asking (70 ns) can be spared.
    _only_device = only_device = torch.cuda.device_count() == 1
    _fast.set_current_readers(torch_device=_torch_readers[0], torch_stream=_torch_readers[1], only_device=only_device)
    device_now = torch.cuda.current_device()
    if _fast.current_device() != device_now or _fast.current_stream(device_now) != raw_stream(device_now):
        _torch_readers = (0, 0)
        readers = "python"
        return False
    readers = "torch"
    return True


def use_null_readers(device: int, stream: int, getters: tuple[Any, Any] | None) -> None:
    """Read device and stream by the null driver's C functions when the driver's getters are `getters`."""
    global _null_getters
    _null_getters = getters
    if getters is not None:
        _fast.set_current_readers(null_device=device, null_stream=stream)
    else:
        _fast.set_current_readers()


# ---- the rungs -----------------------------------------------------------------------------------------------------


def _symbol(library: str, name: str) -> int:
    """Address of `name` in a library of torch's that is already loaded, or 0."""
    try:
        handle = ctypes.CDLL(library, mode=os.RTLD_NOLOAD | os.RTLD_LAZY)
        return ctypes.cast(getattr(handle, name), ctypes.c_void_p).value or 0
    except (OSError, AttributeError):
        return 0


def _set_shim() -> None:
    torch = sys.modules["torch"]
    symbols = {
        name: _symbol("libtorch_cpu.so", f"aoti_torch_get_{name}")
        for name in ("data_ptr", "dtype", "device_type", "device_index", "storage_size")
    }
    missing = [name for name, address in symbols.items() if not address]
    if missing:
        raise RuntimeError(f"libtorch_cpu.so has no aoti_torch_get_{missing[0]}")
    # The at::Tensor holds one pointer, to the TensorImpl, which is what `_cdata` is.  It follows the object header,
    # or the flag of a c10::MaybeOwned; nothing is followed until it was found there in every probe.
    header = object.__basicsize__
    probes = _probes()
    for offset, maybe_borrowed in ((header, False), (header + 8, True)):
        if offset + 8 <= torch.Tensor.__basicsize__ and all(
                _fast.word_at(probe, offset) == probe._cdata for probe in probes):
            _fast.set_rung("shim", offset=offset, maybe_borrowed=maybe_borrowed, **symbols)
            return
    raise RuntimeError("the at::Tensor was not found inside torch.Tensor objects")


def _set_dlpack() -> None:
    torch = sys.modules["torch"]
    capsule = getattr(torch.Tensor, "__dlpack_c_exchange_api__", None)
    if capsule is None:
        raise RuntimeError("torch.Tensor has no DLPack C exchange API (torch 2.10 and later do)")
    _fast.set_rung("dlpack", dlpack=capsule)


def _set_python() -> None:
    _fast.set_rung("python")


_SETTERS: dict[str, Callable[[], None]] = {"shim": _set_shim, "dlpack": _set_dlpack, "python": _set_python}


def _probes() -> list[Any]:
    """Tensors on which a wrong way of reading shows: views, offsets, empties, several dtypes, a Parameter."""
    torch = sys.modules["torch"]
    base = torch.arange(64, dtype=torch.float32)
    probes = [
        base, base[1:], base[5::3], base.view(8, 8).t(), base[10:10], torch.empty(0), torch.tensor(1.0),
        torch.zeros(3, dtype=torch.float16), torch.zeros(3, dtype=torch.bfloat16), torch.zeros(3, dtype=torch.bool),
        torch.zeros(3, dtype=torch.int8), torch.zeros(3, dtype=torch.uint8), torch.zeros(3, dtype=torch.int32),
        torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.float64), base.view(torch.int32),
        torch.nn.Parameter(torch.ones(4)), torch.ones(4, requires_grad=True),
    ]
    if torch.cuda.is_initialized():  # (is_available() would ask the driver, and warn where it is the null driver)
        on_device = torch.zeros(64, device="cuda")
        probes += [on_device, on_device[3:], on_device[4:4]]
    return probes


def _check() -> None:
    """Compare the rung in use with torch's own methods on every probe; RuntimeError names the first difference."""
    torch = sys.modules["torch"]
    before = _fast.get_devices()
    _fast.set_devices(1 << CPU | 1 << CUDA)
    try:
        for probe in _probes():
            device = {"cpu": CPU, "cuda": CUDA}[probe.device.type]
            index = probe.device.index if device == CUDA and not _only_device else 0
            expected = (probe.data_ptr(), _scalar_type(torch, probe.dtype), device, index)
            if _fast.read(probe) != expected:
                raise RuntimeError(f"reads {_fast.read(probe)} where torch says {expected}, of a {probe.dtype} tensor")
        # A copy-on-write tensor must be materialised by the reading, as by data_ptr().
        if hasattr(torch, "_lazy_clone") and hasattr(torch._C, "_is_cow_tensor"):
            lazy = torch._lazy_clone(torch.ones(4))
            _fast.read(lazy)
            if torch._C._is_cow_tensor(lazy):
                raise RuntimeError("leaves a copy-on-write tensor unmaterialised")
    finally:
        _fast.set_devices(before)


def _scalar_type(torch: Any, dtype: Any) -> int:
    """torch's number of a dtype, from torch itself where it tells."""
    return {
        torch.uint8: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.int64: 4, torch.float16: 5,
        torch.float32: 6, torch.float64: 7, torch.bool: 11, torch.bfloat16: 15
    }[dtype]


def _function_mode_is_seen(torch: Any) -> bool:
    """Whether the C function sees a mode that is entered and left."""

    class Probe(torch.overrides.TorchFunctionMode):

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    before = _fast.function_mode_active()
    with Probe():
        inside = _fast.function_mode_active()
    return inside and (before or not _fast.function_mode_active())
