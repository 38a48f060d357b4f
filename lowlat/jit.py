"""The decorator and the `JITFunction` subclass."""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar, overload

from triton import knobs
from triton.runtime.jit import JITFunction as TritonJITFunction
from triton.runtime.jit import jit as triton_jit

from . import _fast, _torch, _triton

T = TypeVar("T")

DISABLED = os.environ.get("LOWLAT", "1") == "0"
"""LOWLAT=0 in the environment at import: `lowlat.jit` is `triton.jit`."""


class JITFunction(_fast.Kernel, TritonJITFunction):
    """A Triton kernel whose launches take lowlat's native path where they can, and Triton's everywhere else.

    Everything `triton.runtime.jit.JITFunction` has is here unchanged.  In addition: `route`, `exits`, `plans` and
    `forget()`.  The class has Triton's class name because Triton 3.7 and later serialise a kernel passed as a
    constexpr by that name.  An instance of a subclass of it launches by Triton.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        version: Any = None,
        do_not_specialize: Iterable[int | str] | None = None,
        do_not_specialize_on_alignment: Iterable[int | str] | None = None,
        debug: bool | None = None,
        noinline: bool | None = None,
        repr: Callable[..., Any] | None = None,
        launch_metadata: Callable[..., Any] | None = None,
    ) -> None:
        TritonJITFunction.__init__(self, fn, version=version, do_not_specialize=do_not_specialize,
                                   do_not_specialize_on_alignment=do_not_specialize_on_alignment, debug=debug,
                                   noinline=noinline, repr=repr, launch_metadata=launch_metadata)
        self._describe_parameters(*_triton.parameters_of(self))

    def __copy__(self) -> JITFunction:
        """A shallow copy shares Triton's caches and hooks, as a copy of Triton's own class does; not the plans."""
        duplicate = type(self).__new__(type(self))
        duplicate.__dict__.update(self.__dict__)
        for name in ("pre_run_hooks", "device_caches", "used_global_vals", "debug", "route"):
            setattr(duplicate, name, getattr(self, name))
        duplicate._describe_parameters(*_triton.parameters_of(duplicate))
        return duplicate


def _run_with_triton(kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _prepare()
    return _triton.run_with_triton(kernel, args, kwargs)


def _launch_with_triton(kernel: Any, grid: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _prepare()
    return _triton.launch_with_triton(kernel, grid, args, kwargs)


def _warmup_with_triton(kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    _prepare()
    return _triton.warmup_with_triton(kernel, args, kwargs)


def _prepare() -> None:
    """On the way to Triton: torch may have been imported since the last time."""
    if not _torch.attached:
        _torch.attach()


def _plan_of(kernel: Any, compiled: Any, device: int, warmup: bool) -> Any:
    """A plan of what Triton launched, once the driver's entry points are known."""
    global _driver_found
    plan = _triton.plan_of(kernel, compiled, device, warmup)
    if plan is not None and plan.route == "driver":
        if not _driver_found:
            _fast.find_driver()
            _fast.find_graphs()
            _driver_found = True
        _fast.place_parameters(plan)
    return plan


def forget_driver() -> None:
    """Look the driver up again: the null driver was activated."""
    global _driver_found
    _driver_found = False


_driver_found = False

_fast.configure(
    watch_state=partial(_triton.watch_state, JITFunction),
    read_state=_triton.read_state,
    patched_getitem=_triton.patched_getitem,
    describe=_plan_of,
    run_with_triton=_run_with_triton,
    launch_with_triton=_launch_with_triton,
    warmup_with_triton=_warmup_with_triton,
    finish_with_triton=_triton.finish_with_triton,
    exit_hook=_triton.exit_hook,
    allocate=_triton.allocate,
    kernel_type=JITFunction,
    constexpr_type=_triton.constexpr_type,
    immutable_types=_triton.immutable_types,
    triton_dtype_type=_triton.dtype_type,
    wrapper_type=_triton.TensorWrapper,
    mock_type=_triton.MockTensor,
    kernel_types=(JITFunction, *_triton.kernel_types),
    descriptor_type=_triton.TensorDescriptor,
    descriptor_fields=_triton.DESCRIPTOR_FIELDS,
)
_torch.attach()
os.register_at_fork(after_in_child=_fast.after_fork)

if _triton.UNKNOWN is not None:
    warnings.warn(
        f"lowlat hands every launch to Triton: {_triton.UNKNOWN}. `python -m lowlat doctor` says more.",
        RuntimeWarning,
        stacklevel=3,
    )


@overload
def jit(fn: T, *, route: str | None = None) -> JITFunction: ...


@overload
def jit(
    *,
    version: Any = None,
    repr: Callable[..., Any] | None = None,
    launch_metadata: Callable[..., Any] | None = None,
    do_not_specialize: Iterable[int | str] | None = None,
    do_not_specialize_on_alignment: Iterable[int | str] | None = None,
    debug: bool | None = None,
    noinline: bool | None = None,
    route: str | None = None,
) -> Callable[[T], JITFunction]: ...


def jit(fn: Any = None, **options: Any) -> Any:
    """`triton.jit`, with launches that cost little more than the driver's own.

    Takes what `triton.jit` takes, bare or with options, and means the same by it; in addition `route`, which becomes
    the kernel's `route`.  Returns a `lowlat.JITFunction`; with `TRITON_INTERPRET=1` Triton's `InterpretedFunction`, and
    with `LOWLAT=0` in the environment at import whatever `triton.jit` returns.  Raises TypeError for an option
    `triton.jit` does not have, ValueError for a route there is not.
    """
    own = {"route": options.pop("route")} if "route" in options else {}
    if own and own["route"] not in (*ROUTES, None):
        raise ValueError(_wrong_route("route", own["route"]))
    if DISABLED or knobs.runtime.interpret:
        return triton_jit(fn, **options)
    if fn is None:
        _check_options(options)
        return partial(jit, **options, **own)
    if not callable(fn):
        return triton_jit(fn, **options)  # Triton's own complaint
    _check_options(options)
    kernel = JITFunction(fn, **options)
    kernel.route = own.get("route")
    return kernel


_OPTIONS = ("version", "repr", "launch_metadata", "do_not_specialize", "do_not_specialize_on_alignment", "debug",
            "noinline")


def _check_options(options: dict[str, Any]) -> None:
    for name in options:
        if name not in _OPTIONS:
            triton_jit(**{name: options[name]})  # raises TypeError, in Triton's words
            raise TypeError(f"jit() got an unexpected keyword argument {name!r}")


# ---- how launches are submitted -----------------------------------------------------------------------------------

ROUTES = ("auto", "driver", "graph", "wrapper")

_route: ContextVar[int] = ContextVar("lowlat.route")


@contextmanager
def route(name: str) -> Iterator[None]:
    """`with lowlat.route("graph"):` launches inside, of kernels whose `route` is None, take this route: "driver",
    "graph" or "auto", as described at `JITFunction.route`.

    Of this thread or task alone, as other context variables; over LOWLAT_ROUTE.  Raises ValueError for another name.
    """
    if name not in _fast.WAY_NAMES.values():
        raise ValueError(_wrong_route("route", name, tuple(_fast.WAY_NAMES.values())))
    _fast.routes_in_contexts(_route)
    token = _route.set(_fast.way_named(name))
    try:
        yield
    finally:
        _route.reset(token)


def _wrong_route(what: str, value: Any, routes: tuple[str, ...] = ROUTES) -> str:
    return f"{what} is {value!r}, must be {', '.join(map(repr, routes[:-1]))} or {routes[-1]!r}"


def _read_environment() -> None:
    """LOWLAT_ROUTE, LOWLAT_GRAPH_AFTER (launches of a plan until it gets a graph) and LOWLAT_GRAPHS (how many there may
    be in the process), and what the driver reads for itself."""
    name = os.environ.get("LOWLAT_ROUTE", "driver")
    if name not in _fast.WAY_NAMES.values():
        raise ValueError(_wrong_route("LOWLAT_ROUTE", name, tuple(_fast.WAY_NAMES.values())))
    after = _number("LOWLAT_GRAPH_AFTER", "32", 2**30)
    budget = _number("LOWLAT_GRAPHS", "256", 2**20)
    _fast.set_route(name, after, budget, os.environ.get("CUDA_LAUNCH_BLOCKING", "0") not in ("", "0"))


def _number(variable: str, default: str, most: int) -> int:
    value = os.environ.get(variable, default)
    if not value.isdecimal() or int(value) > most:
        raise ValueError(f"{variable} is {value!r}, must be a number from 0 to {most}")
    return int(value)


_read_environment()
atexit.register(_fast.drop_graphs)
