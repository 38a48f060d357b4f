"""Triton's AMD backend on a machine without AMD's HIP: the real compiler, driver class, launcher and C code of Triton,
on a stand-in for the runtime library below them, which counts nothing, computes nothing and writes every launch down.
"""

import ctypes
import hashlib
import re
import subprocess
from ctypes import CFUNCTYPE, POINTER, Structure, c_int, c_uint, c_uint64, c_void_p
from pathlib import Path

from triton import knobs
from triton.backends.amd import driver as amd

from lowlat.null import Launch, Load, Recording
from oracle import Pair

SOURCE = Path(__file__).with_name("libamdhip64.c")

device = 0
streams = {0: 0, 1: 0}
host_memory = []  # (address, size) of what hipPointerGetAttribute refuses
failures = {}  # entry point -> the hipError_t that its next call returns
asked = []  # device and stream getters, as they were called

_recording = None
_modules = {}  # handle -> (device, image)
_functions = {}  # handle -> (module, name, the sizes of its parameters)
_handles = iter(range(0x1000, 1 << 30, 16))


class record:
    """`with record() as launches:`, as lowlat.null.record."""

    def __enter__(self):
        global _recording
        _recording = Recording()
        return _recording

    def __exit__(self, *_):
        global _recording
        _recording = None


class HipPair(Pair):
    record = record

    @staticmethod
    def compare(expected, actual, known=()):
        Pair.compare(expected, actual, known)
        # Records compare without the entry point, in which alone a cooperative launch differs.
        calls = [[launch.call for launch in side.launches] for side in (expected, actual)]
        assert calls[0] == calls[1]


def make_driver():
    """Triton's HIPDriver, with a device and streams of this module."""
    library = _build()
    knobs.amd.libhip_path = str(library)  # (for child processes, too: they look for no other)
    find = ctypes.CDLL(str(library))
    c_void_p.in_dll(find, "lowlat_find").value = ctypes.cast(_find, c_void_p).value
    return Driver()


class Driver(amd.HIPDriver):

    def __init__(self):
        super().__init__()
        self.get_current_device = get_current_device
        self.get_current_stream = get_current_stream


def get_current_device():
    asked.append("device")
    return device


def get_current_stream(of):
    asked.append("stream")
    return streams[of]


def _build():
    """Under a path that stays the same: Triton compiles its own C code anew for another."""
    include = Path(amd.__file__).with_name("include")
    version = hashlib.sha256(SOURCE.read_bytes() + str(include).encode()).hexdigest()[:16]
    library = Path(knobs.cache.dir) / f"lowlat-tests-{version}" / "libamdhip64.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-shared", "-fPIC", f"-I{include}", str(SOURCE), "-o", str(library)], check=True)
    return library


# ---- the runtime's functions ----------------------------------------------------------------------------------------


class Config(Structure):
    """HIP_LAUNCH_CONFIG"""
    _fields_ = [("grid", c_uint * 3), ("block", c_uint * 3), ("shared", c_uint), ("stream", c_uint64),
                ("attributes", c_void_p), ("count", c_uint)]


def _served(name, served):
    """`served`, unless the call is to fail."""

    def serve(*arguments):
        return failures.pop(name) if name in failures else served(*arguments) or 0

    return serve


def load(module, image, *_):
    # The section headers are at the end of the file.
    header = ctypes.string_at(image, 64)
    size = int.from_bytes(header[40:48], "little") + int.from_bytes(header[58:60], "little") * int.from_bytes(
        header[60:62], "little")
    module[0] = next(_handles)
    _modules[module[0]] = device, ctypes.string_at(image, size)
    if _recording is not None:
        loaded = Load(device=device, kernels={}, image=_modules[module[0]][1], module=module[0])
        _recording.loads.append(loaded)
        _recording.events.append(loaded)


def unload(module):
    _modules.pop(module, None)  # (a kernel of another driver may die while this one is active)


def get_function(function, module, name):
    """How many bytes each parameter has, the image's own notes say."""
    image = _modules[module][1]
    number = rb"([\x00-\x7f]|\xcc.|\xcd..)"
    sizes = re.findall(rb"\xa7\.offset" + number + rb"\xa5\.size" + number, image, re.DOTALL)
    function[0] = next(_handles)
    _functions[function[0]] = module, ctypes.string_at(name).decode(), [
        int.from_bytes(size if len(size) == 1 else size[1:], "big") for _, size in sizes]


def get_attribute(value, attribute, function):
    value[0] = 1024 if attribute == 0 else 8  # threads per block; registers


def get_pointer_attribute(value, attribute, pointer):
    value[0] = pointer
    return 1 if any(address <= pointer < address + size for address, size in host_memory) else 0


def launched(call, function, grid, block, shared, stream, parameters, attributes=()):
    module, name, sizes = _functions[function]
    assert _modules[module][0] == device, "a function of another device"
    event = Launch(kernel=name, call=call, device=device, grid=tuple(grid), block=tuple(block), shared=shared,
                   stream=stream or 0, attributes=attributes, module=module,
                   parameters=tuple(ctypes.string_at(parameters[i], size) for i, size in enumerate(sizes)))
    if _recording is not None:
        _recording.append(event)
        _recording.events.append(event)


def launch(function, x, y, z, bx, by, bz, shared, stream, parameters, extra):
    launched("hipModuleLaunchKernel", function, (x, y, z), (bx, by, bz), shared, stream, parameters)


def launch_cooperatively(function, x, y, z, bx, by, bz, shared, stream, parameters, extra):
    launched("hipModuleLaunchCooperativeKernel", function, (x, y, z), (bx, by, bz), shared, stream, parameters)


def launch_with_attributes(config, function, parameters, extra):
    config = config[0]
    attributes = []
    for i in range(config.count):
        raw = ctypes.string_at(config.attributes + 72 * i, 20)
        number = int.from_bytes(raw[:4], "little")
        attributes.append((number, raw[8:20] if number == 4 else raw[8:12]))  # dimensions, or one int
    launched("hipDrvLaunchKernelEx", function, config.grid, config.block, config.shared, config.stream, parameters,
             tuple(attributes))


_launch_arguments = (c_uint64, *[c_uint] * 7, c_void_p, POINTER(c_void_p), c_void_p)
_entries = {
    name: CFUNCTYPE(result, *arguments)(_served(name, served))
    for name, served, result, arguments in (
        ("hipModuleLoadDataEx", load, c_int, (POINTER(c_uint64), c_void_p, c_uint, c_void_p, c_void_p)),
        ("hipModuleUnload", unload, c_int, (c_uint64, )),
        ("hipModuleGetFunction", get_function, c_int, (POINTER(c_uint64), c_uint64, c_void_p)),
        ("hipFuncGetAttribute", get_attribute, c_int, (POINTER(c_int), c_int, c_uint64)),
        ("hipDrvLaunchKernelEx", launch_with_attributes, c_int, (POINTER(Config), c_uint64, POINTER(c_void_p),
                                                                 c_void_p)),
        ("hipModuleLaunchKernel", launch, c_int, _launch_arguments),
        ("hipModuleLaunchCooperativeKernel", launch_cooperatively, c_int, _launch_arguments),
        ("hipPointerGetAttribute", get_pointer_attribute, c_int, (POINTER(c_uint64), c_int, c_uint64)),
    )
}


@CFUNCTYPE(c_void_p, ctypes.c_char_p)
def _find(name):
    entry = _entries.get(name.decode())
    return ctypes.cast(entry, c_void_p).value if entry else None
