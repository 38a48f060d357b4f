"""The only file that knows Triton's private names.

It says whether this Triton is one lowlat knows, reads the live state a launch depends on, classifies a kernel's
parameters as Triton's binder does, and reads a `CompiledKernel` into a `Plan`.  A changed Triton fails here first, by
name, and then everything is handed to Triton (see `unknown`).

"The semantics page" below means Triton 3.6.0, 3.7.1, 3.8.0 and 3.9.0 as released.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable
from types import BuiltinFunctionType
from typing import Any
from weakref import WeakKeyDictionary

import triton
from triton import knobs
from triton.compiler.compiler import CompiledKernel
from triton.knobs import HookChain
from triton.language.core import constexpr, dtype
from triton.runtime import _allocation
from triton.runtime import jit as triton_jit
from triton.runtime.autotuner import Autotuner, Config, Heuristics
from triton.tools.tensor_descriptor import TensorDescriptor

from . import _fast

# Captured at import: a launch function replaced later is called instead of bypassed.
TritonJITFunction = triton_jit.JITFunction
KernelInterface = triton_jit.KernelInterface
TensorWrapper = triton_jit.TensorWrapper
MockTensor = triton_jit.MockTensor
_ORIGINALS: list[tuple[type, str, Any]] = [
    (TritonJITFunction, "run", inspect.getattr_static(TritonJITFunction, "run")),
    (KernelInterface, "__getitem__", inspect.getattr_static(KernelInterface, "__getitem__")),
    (CompiledKernel, "run", inspect.getattr_static(CompiledKernel, "run", None)),
    (CompiledKernel, "launch_metadata", inspect.getattr_static(CompiledKernel, "launch_metadata", None)),
    (CompiledKernel, "_init_handles", inspect.getattr_static(CompiledKernel, "_init_handles", None)),
    (HookChain, "__call__", inspect.getattr_static(HookChain, "__call__", None)),
    (TensorWrapper, "data_ptr", inspect.getattr_static(TensorWrapper, "data_ptr", None)),
    (TritonJITFunction, "warmup", inspect.getattr_static(TritonJITFunction, "warmup", None)),
    (MockTensor, "data_ptr", inspect.getattr_static(MockTensor, "data_ptr", None)),
    (MockTensor, "ptr_range", inspect.getattr_static(MockTensor, "ptr_range", None)),
    (MockTensor, "wrap_dtype", inspect.getattr_static(MockTensor, "wrap_dtype", None)),
]
_driver_config = triton_jit.driver

VERSION = tuple(int(part) for part in triton.__version__.split("+")[0].split(".")[:2] if part.isdigit())
KNOWN_VERSIONS = ((3, 6), (3, 9))
DESCRIPTOR_FIELDS = ("base", "shape", "strides", "block_shape", "padding",
                     *["round_f32_to_tf32"] * (VERSION >= (3, 7)))

# Read at every launch straight from the environment: by Triton 3.9, and for AMD by all.
_FPSAN_VARIABLE = "TRITON_FPSAN_HOMOMORPHIC_CASTS"
_BUFFER_OPS_VARIABLE = "AMDGCN_USE_BUFFER_OPS"

# Parameters of these names change what Triton's generated binder does (it has globals and arguments of its own).
_RESERVED_NAMES = {
    "backend", "specialize_impl", "JITCallable", "options", "debug", "instrumentation_mode", "fpsan_homomorphic_casts"
}

_IMMUTABLE = (int, float, bool, str, bytes, complex, type(None), type, dtype)


def unknown() -> str | None:
    """What about this Triton lowlat does not know, or None."""
    if not KNOWN_VERSIONS[0] <= VERSION <= KNOWN_VERSIONS[1]:
        first, last = (".".join(map(str, version)) for version in KNOWN_VERSIONS)
        return f"Triton {triton.__version__} is not between {first} and {last}"
    for owner, name, original in _ORIGINALS:
        if original is None:
            return f"Triton {triton.__version__} has no {owner.__name__}.{name}"
    if tuple(getattr(TensorDescriptor, "__dataclass_fields__", ())) != DESCRIPTOR_FIELDS:
        return f"Triton {triton.__version__} has another TensorDescriptor"
    for holder, name in ((_driver_config, "_active"), (knobs.compilation, "instrumentation_mode"),
                         (knobs.runtime, "debug"), (knobs.runtime, "launch_enter_hook"),
                         (knobs.runtime, "launch_exit_hook")):
        if not hasattr(holder, name):
            return f"Triton {triton.__version__} has no {type(holder).__name__}.{name}"
    return None


UNKNOWN = unknown()


# ---- live state ----------------------------------------------------------------------------------------------------


def _backend_class(backend: str, name: str, module: str = "driver") -> Any:
    """A class of one of Triton's two backends, or None; its module exists once a driver was looked for."""
    return getattr(sys.modules.get(f"triton.backends.{backend}.{module}"), name, None)


def _launcher_classes() -> list[Any]:
    known = (_backend_class("nvidia", "CudaLauncher"), _backend_class("amd", "HIPLauncher"))
    return [launcher for launcher in known if launcher is not None]


def _is_driver(active: Any, backend: str, name: str) -> bool:
    known = _backend_class(backend, name)
    return known is not None and isinstance(active, known)


def _is_cuda(active: Any) -> bool:
    return _is_driver(active, "nvidia", "CudaDriver")


def _is_hip(active: Any) -> bool:
    return _is_driver(active, "amd", "HIPDriver")


def _tensor_classes() -> list[Any]:
    """The classes whose instances lowlat takes for tensors, as far as torch has been imported."""
    torch = sys.modules.get("torch")
    classes = (getattr(torch, "Tensor", None), getattr(getattr(torch, "nn", None), "Parameter", None))
    return [known for known in classes if known is not None]


_with_own_dict: list[Any] = []


def _own_dict(holder: Any) -> dict[str, Any]:
    """The attributes of `holder` as a dict whose every change a dict watcher sees.

    CPython 3.13 keeps an instance's attributes in the instance and tells no watcher when they are assigned, unless
    its __dict__ is a dict of its own; the same attributes are then read and written as before.
    """
    if sys.version_info >= (3, 13) and not any(known is holder for known in _with_own_dict):
        holder.__dict__ = dict(vars(holder))
        _with_own_dict.append(holder)
    return vars(holder)


for _holder in (knobs.runtime, knobs.compilation, knobs.amd, knobs.runtime.launch_enter_hook,
                knobs.runtime.launch_exit_hook, _driver_config):
    if type(_holder).__module__.startswith("triton."):
        _own_dict(_holder)  # at import, while hardly anybody else can be writing to them


def watch_state(
        kernel_type: type) -> tuple[tuple[dict[str, Any], ...], list[type], list[list[Any]], tuple[bytes, ...]]:
    """The dicts, types, hook lists and environment variables whose change can change what `read_state` says."""
    runtime, compilation = knobs.runtime, knobs.compilation
    active = _driver_config._active
    dicts = [vars(knobs), _own_dict(runtime), _own_dict(compilation), _own_dict(_driver_config)]
    types: list[type] = [kernel_type, CompiledKernel, type(runtime), type(compilation), HookChain,
                         TensorWrapper, MockTensor]
    lists = []
    for hook in (runtime.launch_enter_hook, runtime.launch_exit_hook):
        if type(hook) is HookChain:
            dicts.append(_own_dict(hook))
            if type(hook.calls) is list:
                lists.append(hook.calls)
    if _is_cuda(active) or _is_hip(active):
        dicts.append(_own_dict(active))
        types.append(type(active))
    types.extend(_tensor_classes())
    types.extend(_launcher_classes())
    variables = [_FPSAN_VARIABLE.encode()] if _has_fpsan(compilation) else []
    if _is_hip(active):
        dicts.append(_own_dict(knobs.amd))
        types.extend((type(knobs.amd), *_amd_specializers()))
        variables.append(_BUFFER_OPS_VARIABLE.encode())
    return tuple(dicts), types, lists, tuple(variables)


def read_state() -> tuple[str, tuple[Any, ...], Any, Any, bool, bool]:
    """(reason or "ok", the knobs in Triton's key, device getter, stream getter, whether C functions replace them,
    whether the size of a tensor's storage is in the key)."""
    active = _driver_config._active
    reason, environment = "ok", _environment(_is_hip(active))
    get_device = get_stream = None
    c_getters = False
    if UNKNOWN is not None:
        reason = "unknown triton"
    elif patched():
        reason = "patched"
    elif any(_has_hooks(hook) for hook in (knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook)):
        reason = "launch hook"
    elif getattr(knobs.runtime, "add_stages_inspection_hook", None) is not None:
        # Part of the key from 3.7 on; 3.6 asks it while compiling only, and is treated alike.
        reason = "stages hook"
    elif not all(value is None or type(value) in (bool, int, str) for _, value in environment):
        reason, environment = "knob", ()
    elif active is None:
        reason = "no driver"
    elif not (_is_cuda(active) or _is_hip(active)):
        reason = "backend"
    elif not (hasattr(active, "get_current_device") and hasattr(active, "get_current_stream")):
        reason = "backend"  # Triton says what is missing
    else:
        from . import _torch

        get_device, get_stream = active.get_current_device, active.get_current_stream
        c_getters = _torch.readers_of(get_device, get_stream)
    return reason, environment, get_device, get_stream, c_getters, _is_hip(active)


def _environment(hip: bool) -> tuple[tuple[type, Any], ...]:
    """The knobs that Triton puts into every launch's options, or into a tensor's key, by type and value."""
    values = [knobs.runtime.debug, knobs.compilation.instrumentation_mode]
    if _has_fpsan(knobs.compilation):
        values.append(knobs.compilation.fpsan_homomorphic_casts)
    if hip:
        values += ["hip", knobs.amd.use_buffer_ops]
    return tuple((type(value), value) for value in values)


def _has_fpsan(compilation: Any) -> bool:
    # Looked up without the descriptor, which wants an instance.
    return VERSION >= (3, 9) and "fpsan_homomorphic_casts" in vars(type(compilation))


def _has_hooks(hook: Any) -> bool:
    return hook is not None and not (type(hook) is HookChain and type(hook.calls) is list and not hook.calls)


def patched() -> bool:
    """Whether somebody replaced one of Triton's launch functions, or lowlat's door to them."""
    from .jit import JITFunction

    _see_late_classes()
    return (any(inspect.getattr_static(owner, name, None) is not original for owner, name, original in _ORIGINALS)
            or inspect.getattr_static(JITFunction, "run") is not inspect.getattr_static(_fast.Kernel, "run")
            or inspect.getattr_static(JITFunction, "run") is not _NATIVE_RUN
            or inspect.getattr_static(JITFunction, "__getitem__") is not _NATIVE_GETITEM)


def _see_late_classes() -> None:
    """Classes that may be imported later than lowlat: as they are when first seen."""
    names = [(owner, name) for owner in _tensor_classes() for name in ("data_ptr", "dtype")]
    names += [(owner, "__call__") for owner in _launcher_classes()]
    if _is_hip(_driver_config._active):
        names += [(owner, name) for owner in _tensor_classes() for name in ("untyped_storage", "ptr_range")]
        names += [(owner, name) for owner in _amd_specializers() for name in _SPECIALIZERS]
    for owner, name in names:
        if not any(known is owner and at == name for known, at, _ in _ORIGINALS):
            _ORIGINALS.append((owner, name, inspect.getattr_static(owner, name, None)))


_SPECIALIZERS = ("get_tensor_specialization", "is_within_2gb")


def _amd_specializers() -> list[Any]:
    """The classes that Triton asks, in Python, what is in the key about a tensor on AMD."""
    backend = _backend_class("amd", "HIPBackend", "compiler")
    return [owner for owner in getattr(backend, "__mro__", ()) if any(name in vars(owner) for name in _SPECIALIZERS)]


_NATIVE_RUN = inspect.getattr_static(_fast.Kernel, "run")
_NATIVE_GETITEM = inspect.getattr_static(_fast.Kernel, "__getitem__")


def patched_getitem(kernel: Any, grid: Any) -> Any:
    """`kernel[grid]` by a replaced KernelInterface.__getitem__, or None where it is Triton's own."""
    if inspect.getattr_static(KernelInterface, "__getitem__") is _ORIGINALS[1][2]:
        return None
    return KernelInterface.__getitem__(kernel, grid)


# ---- Triton's own way ----------------------------------------------------------------------------------------------


def run_with_triton(kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`kernel.run(...)` by Triton, whose class attribute is looked up now: a replaced one is the one called.  One set
    on the object is not: who calls lowlat's `run` has passed by it, or is it."""
    return TritonJITFunction.run.__get__(kernel)(*args, **kwargs)


def launch_with_triton(kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`kernel[grid](...)` by Triton, as its own closure calls run(): one set on the object or a subclass is the one
    called, and a doubled `grid=` is the same error."""
    return run_of(kernel)(grid=grid, warmup=False, *args, **kwargs)  # noqa: B026  (Triton's own form)


def warmup_with_triton(kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """`kernel.warmup(...)` by Triton, which calls kernel.run(..., warmup=True) with stand-ins for tensors."""
    if "grid" in kwargs and "warmup" in kwargs:
        return run_of(kernel)(warmup=True, *args, **kwargs)  # noqa: B026  (TypeError, naming what Triton names)
    return TritonJITFunction.warmup.__get__(kernel)(*args, **kwargs)


def run_of(kernel: Any) -> Any:
    """`kernel.run`, with Triton's in place of lowlat's: errors of the call itself name the function."""
    if type(kernel).run is not _NATIVE_RUN or "run" in kernel.__dict__:
        return kernel.run
    return TritonJITFunction.run.__get__(kernel)


def finish_with_triton(kernel: Any, compiled: Any, grid: Any, stream: int, bound: dict[str, Any]) -> None:
    """The last steps of Triton's run(), for a grid callable that already ran and whose result or dict lowlat does
    not take: canonicalise the grid, then metadata, hooks and launcher as Triton has them at this moment."""
    grid_size = len(grid)
    grid_0 = grid[0]
    grid_1 = grid[1] if grid_size > 1 else 1
    grid_2 = grid[2] if grid_size > 2 else 1
    launch_metadata = compiled.launch_metadata(grid, stream, *bound.values())
    compiled.run(grid_0, grid_1, grid_2, stream, compiled.function, compiled.packed_metadata, launch_metadata,
                 knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook, *bound.values())


# ---- around a kernel -----------------------------------------------------------------------------------------------


def read_outer(classes: tuple[type, ...]) -> str:
    """Why no tuner or heuristics may be followed natively, or "ok": whether somebody replaced what Triton does there,
    or lowlat's door to it."""
    if UNKNOWN is not None:
        return "unknown triton"
    _see_late_classes()
    originals = _OUTER_ORIGINALS + [entry for entry in _ORIGINALS if entry[0] in _tensor_classes()]
    if (any(inspect.getattr_static(owner, name, None) is not original for owner, name, original in originals)
            or any(inspect.getattr_static(owner, name) is not native for owner in classes
                   for name, native in _NATIVE_OUTER.items())):
        return "patched"
    return "ok"


_OUTER_ORIGINALS: list[tuple[type, str, Any]] = [
    (owner, name, inspect.getattr_static(owner, name))
    for owner, name in ((Autotuner, "run"), (Autotuner, "__getitem__"), (Heuristics, "run"),
                        (Heuristics, "__getitem__"), (Config, "all_kwargs"))
]
_NATIVE_OUTER = {name: inspect.getattr_static(_fast.Outer, name) for name in ("run", "__getitem__")}


def outer_getitem(outer: Any, grid: Any) -> Any:
    """`outer[grid]` by Triton's own, possibly replaced, __getitem__."""
    return _triton_class(outer).__getitem__(outer, grid)


def _triton_class(outer: Any) -> Any:
    return Autotuner if isinstance(outer, Autotuner) else Heuristics


def run_outer_with_triton(outer: Any, through_getitem: bool, grid: Any, args: tuple[Any, ...],
                          kwargs: dict[str, Any]) -> Any:
    """A call of a tuner or of heuristics by Triton's own `run`; `outer[grid](...)` also by one that was put in its
    place on the object or in a subclass, which who calls lowlat's `run` has passed by, or is."""
    if through_getitem and ("run" in outer.__dict__ or type(outer).run is not _NATIVE_OUTER["run"]):
        run = outer.run
    else:
        run = _triton_class(outer).run.__get__(outer)
    try:
        if through_getitem:
            return run(grid=grid, warmup=False, *args, **kwargs)  # noqa: B026  (Triton's own form)
        return run(*args, **kwargs)
    except TypeError as error:
        _name_class(error)
        raise


def _name_class(error: TypeError) -> None:
    """Triton's `self.fn.run(*args, **kwargs, **config.all_kwargs())` with a name given twice: Python says whose `run`
    that is, but not the module where `run` is a C function."""
    text = error.args[0] if error.args else None
    for owner in (TritonJITFunction, Autotuner, Heuristics):
        if isinstance(text, str) and text.startswith(f"{owner.__name__}.run() got multiple values for keyword"):
            error.args = (f"{owner.__module__}.{text}", )


# ---- a kernel's parameters -----------------------------------------------------------------------------------------


def parameters_of(kernel: Any) -> tuple[list[tuple[Any, ...]], str, int, int]:
    """What `Kernel._describe_parameters` takes: Triton's create_function_from_signature, decided once.

    An annotation that Triton maps to a dtype forces the type; fp*, bf* and u1 are then not specialised at all, other
    types by value and alignment (the semantics page, §2.4).
    """
    described = []
    refusal, positional, variadic = "ok", len(kernel.params), -1
    for i, (parameter, declared) in enumerate(zip(kernel.params, kernel.signature.parameters.values())):
        if declared.kind in (declared.VAR_POSITIONAL, declared.KEYWORD_ONLY):
            positional = min(positional, i)
            if declared.kind == declared.VAR_POSITIONAL:
                variadic = i
            # Bound as Python does from these versions on; before, they could be bound but not compiled.
            if VERSION < ((3, 8) if variadic >= 0 else (3, 9)):
                refusal = "parameters"
        elif declared.kind == declared.VAR_KEYWORD:
            refusal = "parameters"
        if parameter.name in _RESERVED_NAMES:
            refusal = "parameters"
        kind, bits, signed = _kind_of(parameter)
        specialize = not parameter.do_not_specialize
        described.append((
            parameter.name,
            kind,
            specialize,
            specialize and not parameter.do_not_specialize_on_alignment,
            bits,
            signed,
            declared.default is not inspect.Parameter.empty,
            None if declared.default is inspect.Parameter.empty else declared.default,
        ))
    if UNKNOWN is not None:
        refusal = "unknown triton"
    return described, refusal, positional, variadic


def _kind_of(parameter: Any) -> tuple[str, int, bool]:
    """(handler, bits, signed)"""
    if parameter.is_constexpr:
        return "constexpr", 0, False
    annotation = parameter.annotation_type
    if not annotation:
        return "plain", 0, False
    if annotation.startswith("*"):
        return "pointer", 64, False
    if annotation in ("fp32", "fp64", "fp16", "bf16"):
        # fp16 is packed by Triton's launcher (wrapper route): the payload is not used.
        return "float", {"fp32": 32, "fp64": 64, "fp16": 32, "bf16": 16}[annotation], True
    if annotation[0] in "iu" and annotation[1:] in ("8", "16", "32", "64"):
        return "int", int(annotation[1:]), annotation[0] == "i"
    return "other", 0, False


# ---- a compiled kernel as a plan -----------------------------------------------------------------------------------

# Types whose parameter bytes are the low bytes of lowlat's payload word; the i1 is a descriptor's.
_PACKED_TYPES = {"i1", "i8", "i16", "i32", "i64", "u1", "u8", "u16", "u32", "u64", "fp32", "fp64", "bf16"}
_OVERSIZED_SHARED = 228 * 1024


def plan_of(kernel: Any, compiled: Any, device: int, warmup: bool) -> Any:
    """The plan of what Triton just launched; a plan that says "Triton" where it has no other, None to ask again.

    `warmup`: Triton only had to compile, and may not have loaded the kernel yet, or in vain.
    """
    if type(compiled) is not CompiledKernel or not (warmup or _is_loaded(compiled)):
        return None
    key = _key_of(kernel, compiled, device)
    launcher = compiled._run
    if key is None:
        return None
    # The key was made by the backend that was active when the kernel was first used on this device.
    backend = kernel.device_caches[device][3]
    if not getattr(backend, "supports_native_tensor_specialization", True) and not _is_hip(_driver_config._active):
        return _fast.Plan("triton", reason="backend")
    hip = type(launcher) is _backend_class("amd", "HIPLauncher")
    known = hip or type(launcher) is _backend_class("nvidia", "CudaLauncher")
    if warmup and not (known and _is_loaded(compiled)):
        return _fast.Plan("compiled", compiled=compiled, key=key, device=device,
                          why="it was only compiled; the first launch is Triton's, which loads it")
    if not known:
        return _fast.Plan("triton", reason="launcher")
    if list(compiled.src.signature) != [parameter.name for parameter in kernel.params]:
        return _fast.Plan("triton", reason="launcher")
    if hip and "tensordesc" in str(compiled.src.signature):
        return _fast.Plan("triton", reason="launcher")
    encodings = [] if hip else _encodings_of(getattr(compiled.metadata, "tensordesc_meta", None))
    slots, types, maps = _slots_of(compiled.src.signature.values(), encodings)
    encode, map_offset = _encoder() if maps else (None, 0)
    scratch = getattr(launcher, "global_scratch_size", 0)  # (up to Triton 3.7 AMD's launcher has none)
    unpacked = sorted({type_ for type_ in types if not type_.startswith("*") and type_ not in _PACKED_TYPES})
    if len(maps) != len(encodings) or (maps and encode is None):
        unpacked.append("descriptors of this kind")
    route = "wrapper"
    if getattr(launcher, "gsan_enabled", False):
        route, why = "launcher", "it is instrumented by gsan"
    elif launcher.profile_scratch_size > 0:
        route, why = "launcher", f"it needs {launcher.profile_scratch_size} bytes of profile scratch memory per block"
    elif hip:
        why = "it is a kernel for AMD"
    elif scratch > 0:
        why = f"it needs {scratch} bytes of scratch memory per block, which triton.set_allocator provides"
    elif unpacked:
        why = f"Triton packs {', '.join(unpacked)}"
    elif kernel.route == "wrapper":
        why = "kernel.route is 'wrapper'"
    else:
        route, why = "driver", ""
    threads, clusters, shared = compiled.packed_metadata
    function_object, (before, after, after_hooks) = launcher.launch, _launch_call(compiled, launcher, hip)
    if route == "launcher":
        function_object, (before, after, after_hooks) = launcher, ((), (compiled.packed_metadata, *_NO_HOOKS), ())
    hooks_end = len(after)
    after += after_hooks
    flat = route == "launcher" or VERSION < (3, 7)
    allocates: dict[str, Any] = {}
    if route == "wrapper" and scratch > 0:
        place = 0 if hip else 2 if VERSION < (3, 7) else hooks_end
        allocates = {"scratch_size": scratch if hip else launcher.num_ctas * scratch,
                     "scratch_align": launcher.global_scratch_align, "scratch": place}
    return _fast.Plan(
        route,
        compiled=compiled,
        key=key,
        device=device,
        function=compiled.function,
        threads=32 * threads,
        clusters=clusters,
        shared=shared,
        slots=slots,
        pdl=not hip and bool(launcher.launch_pdl),
        cooperative=bool(launcher.launch_cooperative_grid),
        oversized_shared=VERSION >= (3, 8) and shared > _OVERSIZED_SHARED,
        function_object=function_object,
        before=before,
        after=after,
        flat_arguments=flat,
        exit_hook=hooks_end - 1 if hip else -1,
        why=why,
        maps=maps,
        encode=encode,
        map_offset=map_offset,
        **allocates,
    )


def _is_loaded(compiled: Any) -> bool:
    return compiled._run is not None and compiled.module is not None


_NO_HOOKS = (None, None, None)  # the launch's metadata, enter hook, exit hook


def exit_hook() -> Any:
    return knobs.runtime.launch_exit_hook


def allocate(size: int, alignment: int, stream: int) -> Any:
    """Scratch memory for a launch, from the allocator of the calling thread or context."""
    return _allocation._allocator.get()(size, alignment, stream)


def _launch_call(compiled: Any, launcher: Any, hip: bool) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
    """What the launcher's compiled launch function gets before the grid, the stream and the handle; after them, up to
    the hooks; and then.  Where scratch memory belongs there is None."""
    layout = () if VERSION < (3, 7) else (launcher.arg_annotations, launcher.kernel_signature)
    if hip:
        scratch: tuple[None, ...] = (None, None) if VERSION >= (3, 8) else (None, )
        warp_size = () if VERSION < (3, 7) else (launcher.warp_size, )
        return ((launcher.launch_cooperative_grid, ), (*scratch, compiled.packed_metadata, *_NO_HOOKS),
                (*warp_size, *layout))
    modes = (launcher.launch_cooperative_grid, launcher.launch_pdl)
    if VERSION < (3, 7):
        return (), (*modes, None, None, compiled.packed_metadata, *_NO_HOOKS), ()
    return (), (*modes, compiled.packed_metadata, *_NO_HOOKS), (None, None, *layout)


def _slots_of(signature: Iterable[Any],
              encodings: list[Any]) -> tuple[tuple[int, ...], list[str], tuple[tuple[int, int, int, Any], ...]]:
    """Where `specialize` puts what is passed to the kernel, the types of that, and which of it are tensor maps: an
    argument at its own place, and behind all arguments, one after the other, the items of tuples and what is in
    descriptors (three words, shape, strides)."""
    slots: list[int] = []
    types: list[str] = []
    maps: list[tuple[int, int, int, Any]] = []
    arguments = list(signature)
    behind = len(arguments)

    def add(type_: str, *places: int) -> None:
        slots.extend(places)
        types.extend(len(places) * [type_])

    def visit(type_: Any, place: int) -> None:
        nonlocal behind
        if isinstance(type_, tuple):
            for item in type_:
                here = behind
                if not isinstance(item, tuple):
                    behind += 1
                visit(item, here)
        elif descriptor := _DESCRIPTOR.fullmatch(type_):
            rank, here = descriptor[2].count(",") + 1, behind
            behind += 3 + 2 * rank
            shape, strides = range(here + 3, here + 3 + rank), range(here + 3 + rank, here + 3 + 2 * rank)
            if encodings:
                encoding = encodings[len(maps)] if len(maps) < len(encodings) else None
                maps.append((len(slots), here, rank, encoding))
                add("nvTmaDesc" if encoding is None else "i64", here)
            else:
                add("*" + descriptor[1], here)
                add("i64", *shape, *strides)
                add("i1", here + 1, *[here + 2] * (VERSION >= (3, 7)))
            add("i32", *shape)
            add("i64", *strides)
        elif type_ != "constexpr":
            add(type_, place)

    for i, type_ in enumerate(arguments):
        visit(type_, i)
    return tuple(slots), types, tuple(maps)


# ---- tensor descriptors --------------------------------------------------------------------------------------------

_DESCRIPTOR = re.compile(r"tensordesc<([^[>]*)\[([^]]*)\]>")


def _encodings_of(metadata: Any) -> list[Any]:
    """What goes into each tensor map besides the descriptor's contents (make_tensordesc_arg in Triton's driver.py):
    swizzle, element size, element type, that for rounded float32, block size, whether two fp4 are one element; None
    where lowlat does not know the kind."""
    driver = sys.modules["triton.backends.nvidia.driver"]
    host_types = driver.TMA_DTYPE_DEVICE_TO_HOST
    rounded = host_types.get(getattr(driver, "TMA_TF32", None))
    # Triton 3.6 also passes the kernel another shape then.
    return [None if entry.get("is_im2col") or (entry["fp4_padded"] and VERSION < (3, 7))
            else (entry["swizzle"], entry["elem_size"], host_types[entry["elem_type"]], rounded, entry["block_size"],
                  entry["fp4_padded"])
            for entry in metadata or ()]


def _encoder() -> tuple[Any, int]:
    """Triton's function that encodes a tensor map, and where the 128 bytes are in the object it returns: at its end.
    None where it is not the one that lowlat knows."""
    utils = _driver_config.active.utils
    encode = getattr(utils, "fill_tma_descriptor" if VERSION < (3, 7) else "fill_tma_descriptor_tiled", None)
    size = getattr(sys.modules["triton.backends.nvidia.driver"].PyCUtensorMap, "__basicsize__", 0)
    if type(encode) is not BuiltinFunctionType or size not in (192, 256):
        return None, 0
    return encode, size - 128


def _key_of(kernel: Any, compiled: Any, device: int) -> str | None:
    """The key under which Triton's cache holds this very object, newest entries first.  It is noted for the next time:
    of thousands of specialisations used by turns, most have made room for others in lowlat's own table."""
    entry = kernel.device_caches.get(device)
    if entry is None:
        return None
    key = _keys.get(compiled)
    if key is not None and entry[0].get(key) is compiled:
        return key
    try:
        key = next((key for key, value in reversed(entry[0].items()) if value is compiled), None)
    except RuntimeError:  # another thread's kernel was put there at this moment
        key = next((key for key, value in list(entry[0].items()) if value is compiled), None)
    if key is not None:
        _keys[compiled] = key
    return key


_keys: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


constexpr_type, dtype_type, immutable_types = constexpr, dtype, _IMMUTABLE
outer_module = Autotuner.__module__
kernel_types = tuple(getattr(triton_jit, name) for name in ("JITFunction", "ConstexprFunction")
                     if hasattr(triton_jit, name))
