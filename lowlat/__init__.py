"""lowlat: `from lowlat import jit` instead of `from triton import jit`, and a kernel launch costs little more than
the CUDA driver's own call."""

try:
    from . import _fast
except ImportError as error:
    raise ImportError(
        "lowlat's compiled part (lowlat._fast) could not be imported, and there is no slow mode without it.\n"
        f"  Reason: {error}\n"
        "  From a checkout, build it:   pip install -e .\n"
        "  From a package, reinstall:   pip install --force-reinstall --no-cache-dir lowlat"
    ) from error

from .autotune import Autotuner, Config, Heuristics, autotune, heuristics
from .jit import JITFunction, jit, route
from .sequence import NotRecordable, Sequence, record

REASONS: dict[str, str] = _fast.REASONS_TEXT
"""Why a call went to Triton instead of the native path, by the names in `exits` of kernels and tuners."""

SUBMISSIONS: dict[str, str] = _fast.SUBMISSIONS_TEXT
"""What became of launches that were to take the graph route, by the names in `submitted` of plans."""

__version__ = "0.1.0"

__all__ = ["Autotuner", "Config", "Heuristics", "JITFunction", "NotRecordable", "REASONS", "SUBMISSIONS",
           "Sequence", "autotune", "heuristics", "jit", "record", "route", "__version__"]
