"""The benchmark's report as tables on the terminal, as JSON and as plots."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import CASES, PATHS, SLOPES, TRITONBENCH, VARIANTS, Report, peers

KINDS = ("tensor", "scalar", "constexpr")
COLOURS = {"floor": "#9aa0a6", "lowlat": "#1a73e8", "wrapper": "#7baaf7", "CompiledKernel.run": "#fbbc04",
           "triton": "#ea4335"}


# ---- tables ---------------------------------------------------------------------------------------------------------


def tables(report: Report, console: Any) -> None:
    """Print the report with rich."""
    facts = report.environment
    console.print(
        f"[bold]{facts['device']}[/]" + (f", driver {facts['driver']}" if facts["driver"] else "") +
        f" · {facts['cpu']} · Python {facts['python']} · torch {facts['torch']} · Triton {facts['triton']} · "
        f"lowlat {facts['lowlat']} · tensors by {facts['tensors']}")
    if report.results:
        _cases(report, console)
        _slopes(report, console)
    if report.graphs:
        _graphs(report, console)
    if report.peers:
        _peers(report, console)
    for name, table in report.seed.items():
        _seed(name, table, console)
    for failure in report.failures:
        console.print(f"[bold red]failed:[/] {failure}", highlight=False)


def _table(*columns: str, **options: Any) -> Any:
    from rich.table import Table

    table = Table(title_justify="left", **options)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=not i)
    return table


def _cases(report: Report, console: Any) -> None:
    table = _table("", *PATHS, "triton / lowlat", "lowlat − floor", "lowlat − noop",
                   title=f"Host time per launch, µs, by {report.environment['clock']}: median of {report.batches} "
                         f"batches of {report.batch} launches (quartiles)")
    for group in (CASES, TRITONBENCH, VARIANTS):
        for case in _measured(report, group):
            results = report.results[case.name]
            own = results["lowlat"].median
            table.add_row(
                case.name, *(_time(results.get(path)) for path in PATHS), f"{results['triton'].median / own:.1f} ×",
                *(f"{(own - results[path].median) / 1000:.3f}" if path in results else "–"
                  for path in ("floor", "noop")))
        table.add_section()
    console.print(table)
    for name, checked in report.checked.items():
        if "went to" in checked:
            console.print(f"{name}: {checked.partition('; ')[2]}")
    uncounted = [name for name, checked in report.checked.items() if "counted" not in checked]
    console.print("Every launch was counted" +
                  (f", but for {', '.join(uncounted)}: nothing to count in." if uncounted else "."))
    if report.environment["device"] != "null driver":
        wall = _table("", *PATHS, title="Wall time per launch, µs: the same batches up to the GPU's having finished")
        for case in _measured(report, (*CASES, *TRITONBENCH, *VARIANTS)):
            wall.add_row(case.name, *(f"{results[path].wall / 1000:.3f}" if path in results else "–"
                                      for results in (report.results[case.name], ) for path in PATHS))
        console.print(wall)


def _measured(report: Report, cases: Iterable[Any]) -> list[Any]:
    return [case for case in cases if case.name in report.results]


def _time(measurement: Any) -> str:
    if measurement is None:
        return "–"
    return f"{_us(measurement.median)} [dim]({_us(measurement.low)}–{_us(measurement.high)})[/]"


def _us(nanoseconds: float) -> str:
    return f"{nanoseconds / 1000:.{3 if nanoseconds < 10_000 else 1}f}"


def _slopes(report: Report, console: Any) -> None:
    table = _table("", *KINDS, title="Each further argument, ns")
    for path in report.slopes:
        table.add_row(path, *(f"{report.slopes[path][kind]:.1f}" for kind in KINDS))
    console.print(table)


def _graphs(report: Report, console: Any) -> None:
    paths = list(dict.fromkeys(path for row in report.graphs.values() for path in row))
    table = _table("", *paths, title="By graph, host time per launch, µs: median (quartiles); each row interleaved")
    for name, row in report.graphs.items():
        table.add_row(name, *(_time(row.get(path)) for path in paths))
    console.print(table)
    if report.environment["device"] != "null driver":
        wall = _table("", *paths, title="... and wall time up to the GPU's having finished")
        for name, row in report.graphs.items():
            wall.add_row(name, *(f"{row[path].wall / 1000:.3f}" if path in row else "–" for path in paths))
        console.print(wall)


def _peers(report: Report, console: Any) -> None:
    table = _table("", *peers.COLUMNS, "ns a parameter", "of lowlat's", "", title=(
        f"Peers, host time per launch, µs: median of {report.batches} batches (quartiles); interleaved with lowlat"))
    table.columns[-1].justify = "left"
    own = report.peers["lowlat"].figures.get("19 params") if "lowlat" in report.peers else None
    for name, row in report.peers.items():
        if row.missing:
            table.add_row(name, *["–"] * 5, f"[dim]none: {row.missing}[/]")
            continue
        slope, many = peer_slope(row), row.figures.get("19 params")
        note = "; ".join((row.note, *(f"{column}: {reason}" for column, reason in row.reasons.items())))
        table.add_row(name, *(_time(row.figures.get(column)) for column in peers.COLUMNS),
                      "–" if slope is None else f"{round(slope)}",
                      "–" if many is None or own is None else f"{many.median / own.median:.2f} ×", f"[dim]{note}[/]")
    console.print(table)


def peer_slope(row: Any) -> float | None:
    """Nanoseconds for each of the 19 parameters."""
    none, many = row.figures.get("0 params"), row.figures.get("19 params")
    return None if none is None or many is None else (many.median - none.median) / 19


def _seed(name: str, measured: Any, console: Any) -> None:
    runs = len(next(iter(measured.runs.values())))
    table = _table("", *measured.runs, title=(
        f"{name}, µs: mean of {runs} runs of {measured.steps} steps, {measured.clock}"))
    for row, figure in (("mean", statistics.fmean), ("slowest run", max), ("fastest run", min)):
        table.add_row(row, *(f"{figure(own):.2f}" if column in measured.mean else "–"
                             for column, own in measured.runs.items()))
    console.print(table)
    for column, note in measured.notes.items():
        console.print(f"{column}: {note}")


def save_json(report: Report, path: Path) -> None:
    path.write_text(json.dumps(report.to_json(), indent=1) + "\n")


# ---- plots ----------------------------------------------------------------------------------------------------------


def plot_files(path: Path) -> list[Path]:
    """FILE.png or FILE.svg is that file; a name without either ending is both."""
    if path.suffix in (".png", ".svg"):
        return [path]
    return [path.with_name(path.name + ending) for ending in (".png", ".svg")]


def save_plot(report: Report, path: Path) -> list[Path]:
    """Bars per case, slopes and peers, as far as the report has them."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    cases, variants = _measured(report, CASES), _measured(report, (*TRITONBENCH, *VARIANTS))
    rows = [["cases", "cases"]] if cases else []
    if variants:
        rows.append(["variants", "slopes" if report.slopes else "variants"])
    if report.peers:
        rows.append(["peers", "peers"])
    if report.seed:
        rows.append(list(report.seed))
    figure, places = plt.subplot_mosaic(rows, figsize=(12, 4.5 * len(rows)), layout="constrained",
                                        width_ratios=(3, 2))
    if cases:
        _bars(report, places["cases"], cases, True)
    if variants:
        _bars(report, places["variants"], variants, False)
    if "slopes" in places:
        _slope_lines(report, places["slopes"])
    if report.peers:
        _peer_bars(report, places["peers"])
    for name, table in report.seed.items():
        _seed_bars(name, table, places[name])
    facts = report.environment
    figure.suptitle(f"Kernel launch on {facts['device']} (Triton {facts['triton']}, torch {facts['torch']}, "
                    f"{facts['date']})", fontsize=11)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    files = plot_files(path)
    for file in files:
        figure.savefig(file, dpi=150)
    plt.close(figure)
    return files


def _bars(report: Report, axes: Any, cases: list[Any], labelled: bool) -> None:
    width = 0.8 / len(COLOURS)
    for i, (path, colour) in enumerate(COLOURS.items()):
        at = [(place + (i - len(COLOURS) / 2 + 0.5) * width, report.results[case.name][path].median / 1000)
              for place, case in enumerate(cases) if path in report.results[case.name]]
        bars = axes.bar([x for x, _ in at], [height for _, height in at], width, label=path, color=colour)
        if labelled:
            axes.bar_label(bars, labels=[f"{height:.2g}" for _, height in at], fontsize=6, padding=1)
    names = [case.name for case in cases]
    axes.set_xticks(range(len(cases)), names, rotation=0 if labelled else 30, ha="center" if labelled else "right",
                    fontsize=8)
    axes.set_yscale("log")
    axes.set_ylabel("host time per launch, µs")
    if labelled:
        axes.legend(fontsize=8, ncols=len(COLOURS), loc="lower center", bbox_to_anchor=(0.5, 1), frameon=False)


def _slope_lines(report: Report, axes: Any) -> None:
    """From one tensor to sixteen further arguments of each kind."""
    styles = dict(zip(KINDS, ("-", "--", ":")))
    start, *ends = SLOPES
    for path in ("lowlat", "CompiledKernel.run", "triton"):
        first = report.results[start.name][path].median / 1000
        for kind, end in zip(KINDS, ends):
            last = report.results[end.name][path].median / 1000
            axes.plot((1, 17), (first, last), styles[kind], color=COLOURS[path], marker="o", markersize=3,
                      label=f"{path}, {kind}: {report.slopes[path][kind]:.0f} ns each")
    axes.set_yscale("log")
    axes.set_xlabel("parameters")
    axes.set_ylabel("host time per launch, µs")
    axes.legend(fontsize=6, frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))


def _peer_bars(report: Report, axes: Any) -> None:
    shown = [(name, row) for name, row in report.peers.items() if row.figures][::-1]
    colours = dict(zip(peers.COLUMNS, ("#9aa0a6", "#7baaf7", "#1a73e8")))
    height = 0.8 / len(peers.COLUMNS)
    for i, column in enumerate(peers.COLUMNS):
        at = [(place + (1 - i) * height, row.figures[column].median / 1000)
              for place, (_, row) in enumerate(shown) if column in row.figures]
        bars = axes.barh([y for y, _ in at], [width for _, width in at], height, label=column, color=colours[column])
        axes.bar_label(bars, labels=[f"{width:.3g}" for _, width in at], fontsize=6, padding=2)
    slopes = [peer_slope(row) for _, row in shown]
    on_cpu = "\n(on the CPU)" if report.environment["device"] == "null driver" else ""
    axes.set_yticks(range(len(shown)), [
        name + (on_cpu if name == "PyTorch eager" else "" if slope is None else f"\n{round(slope)} ns a parameter")
        for (name, _), slope in zip(shown, slopes)
    ], fontsize=8)
    axes.set_xscale("log")
    axes.set_xlabel("host time per launch, µs")
    axes.legend(fontsize=8, frameon=False, loc="lower right")


def _seed_bars(name: str, table: Any, axes: Any) -> None:
    columns = list(table.mean)
    means = [table.mean[column] for column in columns]
    bars = axes.barh([f"{column} *" if column in table.notes else column for column in columns][::-1], means[::-1],
                     color=[COLOURS["lowlat" if "low-latency" in column else "triton"] if column != "PyTorch" else
                            COLOURS["CompiledKernel.run"] for column in columns[::-1]])
    axes.bar_label(bars, labels=[f"{mean:.2f}" for mean in means[::-1]], fontsize=7, padding=2)
    axes.tick_params("y", labelsize=8)
    notes = "".join(f"\n* {note}" for note in table.notes.values())
    axes.set_xlabel(f"{name}, µs a step ({table.clock}){notes}", fontsize=8)
