"""`python -m lowlat bench` and `python -m lowlat doctor`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lowlat", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    bench = commands.add_parser("bench", help="measure triton against lowlat, on the GPU or on the null driver")
    bench.add_argument("--only", action="append", choices=("cases", "graphs", "peers", "seed"), metavar="PART",
                       help="cases (lowlat's paths), graphs (launches by graph), peers (other launchers) or seed (the "
                            "two tables that the project began with); may be given again (default: all)")
    bench.add_argument("--batches", type=int, default=40, help="batches per case and path, at least 30 (default: 40)")
    bench.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to FILE")
    bench.add_argument("--plot", type=Path, metavar="FILE", help="also draw it to FILE.png and FILE.svg (to FILE alone "
                       "if it ends in .png or .svg)")
    bench.add_argument("--steps", type=int, default=5000, help="steps of a seed table's run (default: 5000)")
    bench.add_argument("--runs", type=int, default=10, help="runs per column of a seed table (default: 10)")
    bench.add_argument("--fbtriton", type=Path, metavar="PYTHON",
                       help="the python of an environment with Meta's fork of Triton (and torch), as a peer")
    bench.add_argument("--quick", action="store_true",
                       help="two batches, ten steps: shows that it works, measures nothing")
    commands.add_parser("doctor", help="say what lowlat found here and what it will do")
    options = parser.parse_args(arguments)

    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        print("this command needs `rich` (and `matplotlib` to plot): pip install 'lowlat[bench]'", file=sys.stderr)
        return 2
    console = Console()
    if not console.is_terminal:
        console = Console(width=190)
    if options.command == "doctor":
        from .doctor import show

        show(console)
        return 0

    if options.batches < 30 and not options.quick:
        parser.error(f"--batches is {options.batches}, must be at least 30 for a median worth reading")
    for name in ("steps", "runs"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}, must be at least 1")
    from . import bench as measuring
    from .bench import show as showing

    parts = options.only or measuring.PARTS
    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=measuring.stages(parts))

        def started(name: str) -> None:
            progress.update(task, advance=1, description=name)

        amounts = {"batches": options.batches, "steps": options.steps, "runs": options.runs}
        if options.quick:
            amounts = {"batches": 2, "steps": 10, "runs": 2}
        report = measuring.run(parts=parts, fbtriton=options.fbtriton, progress=started, **amounts)
    showing.tables(report, console)
    if options.json:
        showing.save_json(report, options.json)
    if options.plot:
        files = showing.save_plot(report, options.plot)
        console.print(f"Plots: {', '.join(map(str, files))}")
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
