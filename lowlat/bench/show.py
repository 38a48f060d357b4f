"""The benchmark's report as tables on the terminal, as JSON and as a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from . import CASES, PATHS, Report


def tables(report: Report, console: Any) -> None:
    """Print the report with rich."""
    from rich.table import Table

    facts = report.environment
    console.print(
        f"[bold]{facts['device']}[/]" + (f", driver {facts['driver']}" if facts["driver"] else "") +
        f" · {facts['cpu']} · Python {facts['python']} · torch {facts['torch']} · Triton {facts['triton']} · "
        f"lowlat {facts['lowlat']} · tensors by {facts['tensors']}")
    console.print(f"Host time per launch in µs: median of {report.batches} batches of {report.batch} launches, "
                  "quartiles in brackets.")
    times = Table(show_lines=False)
    times.add_column("")
    for case in CASES:
        times.add_column(case.name, justify="right")
    for path in PATHS:
        times.add_row(path, *(_time(report.results[case.name][path]) for case in CASES))
    console.print(times)

    ratios = Table(title="lowlat in proportion", title_justify="left")
    ratios.add_column("")
    for case in CASES:
        ratios.add_column(case.name, justify="right")
    ratios.add_row("triton / lowlat", *(f"{_ratio(report, case.name, 'triton', 'lowlat'):.1f} ×" for case in CASES))
    ratios.add_row("lowlat / floor", *(f"{_ratio(report, case.name, 'lowlat', 'floor'):.2f} ×" for case in CASES))
    ratios.add_row("lowlat − floor, µs", *(f"{_over(report, case.name, 'floor'):.3f}" for case in CASES))
    ratios.add_row("lowlat − noop, µs", *(f"{_over(report, case.name, 'noop'):.3f}" for case in CASES))
    console.print(ratios)

    slopes = Table(title="each further argument, ns", title_justify="left")
    for column in ("", "tensor", "scalar", "constexpr"):
        slopes.add_column(column, justify="right" if column else "left")
    for path in PATHS:
        slopes.add_row(path, *(f"{report.slopes[path][kind]:.1f}" for kind in ("tensor", "scalar", "constexpr")))
    console.print(slopes)
    counted = [case.name for case in CASES if "counted" in report.checked[case.name]]
    console.print(f"Launches counted: {', '.join(counted)}." +
                  ("" if len(counted) == len(CASES) else " A kernel without parameters has nothing to count in."))


def _time(measurement: Any) -> str:
    low, high = measurement.low / 1000, measurement.high / 1000
    return f"{measurement.median / 1000:.3f}\n[dim]{low:.3f}–{high:.3f}[/]"


def _ratio(report: Report, case: str, above: str, below: str) -> float:
    return report.results[case][above].median / report.results[case][below].median


def _over(report: Report, case: str, below: str) -> float:
    return (report.results[case]["lowlat"].median - report.results[case][below].median) / 1000


def save_json(report: Report, path: Path) -> None:
    path.write_text(json.dumps(report.to_json(), indent=1) + "\n")


def save_plot(report: Report, path: Path) -> None:
    """Bars per case, logarithmic: the floor, lowlat, and what came before."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = ("floor", "lowlat", "wrapper", "CompiledKernel.run", "triton")
    colours = ("#9aa0a6", "#1a73e8", "#7baaf7", "#fbbc04", "#ea4335")
    figure, axes = plt.subplots(figsize=(11, 4.5), layout="constrained")
    width = 0.8 / len(shown)
    for i, (name, colour) in enumerate(zip(shown, colours)):
        heights = [report.results[case.name][name].median / 1000 for case in CASES]
        places = [position + (i - len(shown) / 2 + 0.5) * width for position in range(len(CASES))]
        bars = axes.bar(places, heights, width, label=name, color=colour)
        axes.bar_label(bars, labels=[f"{height:.2g}" for height in heights], fontsize=6, padding=1)
    axes.set_xticks(range(len(CASES)), [case.name for case in CASES])
    axes.set_yscale("log")
    axes.set_ylabel("host time per launch, µs")
    facts = report.environment
    axes.set_title(f"Kernel launch on {facts['device']} (Triton {facts['triton']}, {facts['date']})", fontsize=10)
    axes.legend(fontsize=8, ncols=len(shown), loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
