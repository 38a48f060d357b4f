"""`python -m lowlat doctor`: what lowlat found in this process, and what that means for a launch."""

from __future__ import annotations

import os
import sys
from typing import Any


def findings() -> list[tuple[str, str]]:
    """(what, finding) pairs; imports torch if it is installed.  Where there is a GPU, an empty kernel is launched a few
    hundred times, to compare the driver route with the graph route."""
    try:
        import torch
    except ImportError:
        torch = None
    import triton

    import lowlat

    from . import _fast, _torch, _triton
    from .jit import DISABLED

    _torch.attach()
    known = "–".join(".".join(map(str, version)) for version in _triton.KNOWN_VERSIONS)
    rows = [
        ("lowlat", f"{lowlat.__version__}, Python {sys.version.split()[0]}"),
        ("switched off", "yes: LOWLAT=0, lowlat.jit is triton.jit" if DISABLED else "no"),
        ("Triton", f"{triton.__version__} " + (f"(known: {known})" if _triton.UNKNOWN is None else
                                               f"— every launch goes to Triton: {_triton.UNKNOWN}")),
        ("torch", "not installed" if torch is None else str(torch.__version__)),
        ("tensors read by", _torch.rung + "".join(f"; not {name}: {why}" for name, why in _torch.refused.items())),
    ]
    if torch is not None and torch.cuda.is_available():
        torch.cuda.init()
        rows.append(("GPU", f"{torch.cuda.get_device_name()} ({torch.cuda.device_count()} visible)"))
        triton.runtime.driver.active  # noqa: B018  (Triton creates its driver when first asked)
    else:
        rows.append(("GPU", "none; lowlat.null.activate() launches without one"))
    reason = _driver_reason(_fast)
    rows.append(("native launches", "possible" if reason == "ok" else f"no: {reason} ({lowlat.REASONS[reason]})"))
    rows.append(("device and stream", {
        "torch": "read from torch's C++ libraries",
        "null": "read from the null driver",
        "python": "asked of Triton's driver, in Python",
        "none": "not asked yet",
    }[_torch.readers]))
    rows.append(("route", f"{os.environ.get('LOWLAT_ROUTE', 'driver')}, for kernels that have none of their own"))
    rows.append(("launches by graph", _compare_routes() if reason == "ok" else "not looked at: nothing is native here"))
    return rows


def _empty() -> None:
    pass


def _compare_routes() -> str:
    import triton

    import lowlat

    from . import _fast

    device = triton.runtime.driver.active.get_current_device()
    kernel = lowlat.jit(_empty, route="auto")
    for _ in range(400):  # the driver's queue holds more
        kernel[(1, )]()
    medians = _fast.race(device)
    if medians is None:
        return f"not measured: {kernel.plans[-1].submitted if kernel.plans else kernel.exits}"
    driver, graph = medians
    taken = "would take" if 10 * graph < 9 * driver else "would not take"
    return f"{graph / 1000:.2f} us, the plain way {driver / 1000:.2f}: route 'auto' {taken} the graph route here"


def _driver_reason(fast: Any) -> str:
    fast.state_changed()
    return fast.current_reason()


def show(console: Any) -> None:
    from rich.table import Table

    import lowlat

    table = Table(show_header=False, box=None)
    for what, finding in findings():
        table.add_row(f"[bold]{what}[/]", finding)
    console.print(table)
    reasons = Table(title="Why a call may go to Triton (kernel.exits counts them)", title_justify="left")
    reasons.add_column("reason")
    reasons.add_column("meaning")
    for name, meaning in lowlat.REASONS.items():
        reasons.add_row(name, meaning)
    console.print(reasons)
