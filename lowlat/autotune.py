"""`autotune` and `heuristics`, whose calls find their configuration and launch in the native path."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from triton import knobs
from triton.runtime.autotuner import Autotuner as TritonAutotuner
from triton.runtime.autotuner import Config
from triton.runtime.autotuner import Heuristics as TritonHeuristics
from triton.runtime.autotuner import autotune as triton_autotune
from triton.runtime.autotuner import heuristics as triton_heuristics

from . import _fast, _triton
from .jit import DISABLED

__all__ = ["Autotuner", "Config", "Heuristics", "autotune", "heuristics"]


class _OfOneCall:
    """An attribute that Triton sets on the tuner while it tunes: each thread sees its own until its call is over."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, tuner: Any, owner: Any = None) -> Any:
        if tuner is None:
            return self
        for attributes in (tuner._own_attributes() or {}, vars(tuner)):
            if self.name in attributes:
                return attributes[self.name]
        raise AttributeError(f"{type(tuner).__name__!r} object has no attribute {self.name!r}")

    def __set__(self, tuner: Any, value: Any) -> None:
        vars(tuner)[self.name] = value
        own = tuner._own_attributes()
        if own is not None:
            own[self.name] = value


class Autotuner(_fast.Tuner, TritonAutotuner):
    """A Triton autotuner whose tuned calls take lowlat's native path where they can, and Triton's everywhere else.

    Everything `triton.runtime.autotuner.Autotuner` has is here unchanged; tuning is Triton's own.  In addition:
    `exits`.  `cache`, `configs` and `keys` may be changed at any time: the next call sees it.
    """

    bench_time = _OfOneCall()
    configs_timings = _OfOneCall()
    restore_copies = _OfOneCall()

    def warmup(self, *args: Any, **kwargs: Any) -> Any:
        """Compile what pruning leaves of the configurations, without a launch; returns the list of CompiledKernels."""
        return self._in_own_call(super().warmup, args, kwargs)

    def __copy__(self) -> Autotuner:
        """As a copy of Triton's own, it shares the cache."""
        return _copy(self, ("fn", "arg_names", "configs", "keys", "cache", "nargs", "best_config"))


class Heuristics(_fast.Heuristic, TritonHeuristics):
    """Triton's heuristics, called natively, each with a dict of all arguments, as in Triton.

    Everything `triton.runtime.autotuner.Heuristics` has is here unchanged.  In addition: `exits`.
    """

    def __copy__(self) -> Heuristics:
        return _copy(self, ("fn", "arg_names", "values"))


def _copy(outer: Any, fields: tuple[str, ...]) -> Any:
    cls: Any = type(outer)
    duplicate = cls.__new__(cls)
    for name, value in list(outer.__dict__.items()):
        setattr(duplicate, name, value)
    for name in fields:
        if hasattr(outer, name):
            setattr(duplicate, name, getattr(outer, name))
    return duplicate


_fast.configure_outer(
    tuner_type=Autotuner,
    heuristics_type=Heuristics,
    config_type=Config,
    read_outer=partial(_triton.read_outer, (Autotuner, Heuristics)),
    run_with_triton=_triton.run_outer_with_triton,
    getitem=_triton.outer_getitem,
)


def autotune(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """`triton.autotune`, with tuned calls that cost little more than the kernel's own.

    Takes what `triton.autotune` of the installed Triton takes and means the same by it.  The decorator gives a
    `lowlat.Autotuner`; with `TRITON_INTERPRET=1`, and with `LOWLAT=0` in the environment at import, Triton's own.
    Raises TypeError, in Triton's words, for an option that Triton's does not have.
    """
    decorator = triton_autotune(*args, **kwargs)  # raises TypeError, in Triton's words
    if DISABLED or knobs.runtime.interpret:
        return decorator
    options = _parameters(triton_autotune, args, kwargs)
    return lambda fn: Autotuner(fn, fn.arg_names, **options)


def heuristics(*args: Any, **kwargs: Any) -> Callable[[Any], Any]:
    """`triton.heuristics`, without Triton's own Python: only your functions are called.

    Takes what `triton.heuristics` takes.  The decorator gives a `lowlat.Heuristics`, where `autotune` would give a
    `lowlat.Autotuner`.
    """
    decorator = triton_heuristics(*args, **kwargs)
    if DISABLED or knobs.runtime.interpret:
        return decorator
    options = _parameters(triton_heuristics, args, kwargs)
    return lambda fn: Heuristics(fn, fn.arg_names, **options)


def _parameters(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """By name: Triton's decorators and classes call them alike."""
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


autotune.__signature__ = inspect.signature(triton_autotune)  # type: ignore[attr-defined]
heuristics.__signature__ = inspect.signature(triton_heuristics)  # type: ignore[attr-defined]
