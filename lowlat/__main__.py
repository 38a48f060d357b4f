"""`python -m lowlat bench` and `python -m lowlat doctor`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m lowlat", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    bench = commands.add_parser("bench", help="measure triton against lowlat, on the GPU or on the null driver")
    bench.add_argument("--batches", type=int, default=40, help="batches per case and path, at least 30 (default: 40)")
    bench.add_argument("--json", type=Path, metavar="FILE", help="also write every figure to FILE")
    bench.add_argument("--plot", type=Path, metavar="FILE.png", help="also draw the cases to FILE.png (or .svg)")
    bench.add_argument("--quick", action="store_true", help="two batches: shows that it works, measures nothing")
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
    from . import bench as measuring
    from .bench import show as showing

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=len(measuring.CASES) + len(measuring.SLOPES))

        def started(name: str) -> None:
            progress.update(task, advance=1, description=name)

        report = measuring.run(batches=2 if options.quick else options.batches, progress=started)
    showing.tables(report, console)
    if options.json:
        showing.save_json(report, options.json)
    if options.plot:
        showing.save_plot(report, options.plot)
        console.print(f"Plot: {options.plot}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
