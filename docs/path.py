"""Draws docs/path.svg, the path of a launch and what each step of it costs, from the tables in docs/results/README.md.

    python docs/path.py            draw it
    python docs/path.py --check    exit 1 where docs/path.svg is not what would be drawn
"""

import re
import sys
from pathlib import Path
from xml.sax.saxutils import escape

FIGURE = Path(__file__).with_suffix(".svg")
RESULTS = Path(__file__).parent / "results" / "README.md"

# In call order: title, what it does, how its row in the table of instructions begins ("" where another row has it in),
# how far it is indented, and what sends the call to Triton there.
STEPS = (
    ("Launcher", "entry by vectorcall; comparing fingerprints", "the rest", 0, ""),
    ("launch", "the five steps marked below", "`launch`", 0, ""),
    ("• live state", "what Triton reads at each launch", "", 1, "launch hook, patched, …"),
    ("• binding", "this shape of call, resolved once", "", 1, "binding"),
    ("specialize", "a tag or value per argument", "`specialize`", 1, "argument, constexpr, …"),
    ("libtorch", "address, device, dtype of 5 tensors", "libtorch", 2, "not on device, …"),
    ("• plan", "found by the fingerprint", "", 1, "first call"),
    ("• Triton's cache", "does it still hold this kernel?", "", 1, "forgotten"),
    ("• grid", "a tuple, a list or a callable", "", 1, "grid"),
    ("launch_with_driver", "15 pointers into the arguments", "`launch_with_driver`", 1, ""),
    ("the GIL", "released, and taken again", "releasing", 1, ""),
    ("cuLaunchKernelEx", "here: the null driver's", "the null driver", 1, ""),
)
PATHS = (("floor", "the driver's call in a C loop"), ("lowlat", "kernel[grid](...)"),
         ("triton", "kernel[grid](...)"))

WIDTH, LEFT, INDENT, BOX, BARS, EXITS, STEP = 820, 20, 22, 330, 372, 632, 42
STYLE = """
  text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--text) }
  .name { font: 600 13px ui-monospace, "DejaVu Sans Mono", monospace }
  .small { font-size: 11.5px; fill: var(--muted) }
  .figure { font-weight: 600 }
  .box { fill: var(--box); stroke: var(--line) }
  .bar { fill: var(--bar) }
  .other { fill: var(--muted) }
  .line { stroke: var(--line); fill: none }
  svg { --text: #1b1f24; --muted: #656d76; --box: #f6f8fa; --line: #afb8c1; --bar: #1a73e8 }
  @media (prefers-color-scheme: dark) {
    svg { --text: #e6edf3; --muted: #9aa4ae; --box: #1f242b; --line: #57606a; --bar: #6ea8ff }
  }
"""


def section(text, heading):
    """What stands below a heading, up to the next one of any level."""
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    if not found:
        raise SystemExit(f"{RESULTS} has no heading {heading!r}: docs/path.py draws what stands below it")
    return found[1]


def rows(table):
    return [[cell.strip(" *") for cell in line.strip("|").split("|")]
            for line in table.splitlines() if line.startswith("|")]


def instructions(text):
    """(instructions per row of the table, in the order of STEPS; all of them together)"""
    figures = {name: int(figure.replace(",", ""))
               for name, figure in rows(section(text, "Instructions of one launch with 19 parameters"))[2:]}
    total = figures.pop("together")
    used = {name: start for name in figures for _, _, start, *_ in STEPS if start and name.startswith(start)}
    if set(figures) - set(used) or len(used) != sum(bool(start) for _, _, start, *_ in STEPS):
        raise SystemExit(f"{RESULTS} has other rows of instructions than docs/path.py draws: {sorted(figures)}")
    if sum(figures.values()) != total:
        raise SystemExit(f"{RESULTS}: the instructions add up to {sum(figures.values())}, not to {total}")
    return {used[name]: figure for name, figure in figures.items()}, total


def microseconds(text):
    """By path, of the launch with 19 parameters on the H100."""
    head, _, *table = rows(section(text, "H100"))
    row = next(row for row in table if row[0] == "19 params")
    return {path: float(row[head.index(path)]) for path, _ in PATHS}


def svg():
    text = RESULTS.read_text()
    cost, total = instructions(text)
    times = microseconds(text)
    scale = 170 / max(cost.values())
    parts = []

    def write(x, y, what, kind="", anchor="start"):
        parts.append(f'<text x="{x}" y="{y}" class="{kind}" text-anchor="{anchor}">{escape(what)}</text>')

    y = 34
    write(LEFT, y, "kernel[grid](...), 19 parameters", "name")
    write(BARS, y, "instructions", "small")
    write(EXITS, y, "or unlaunched to Triton:", "small")
    y += 14
    for title, what, start, indent, leaves in STEPS:
        x = LEFT + indent * INDENT
        middle = y + STEP / 2 - 3
        parts.append(f'<rect x="{x}" y="{y}" width="{LEFT + BOX - x}" height="{STEP - 6}" rx="5" class="box"/>')
        write(x + 10, middle - 1, title, "name")
        write(x + 10, middle + 13, what, "small")
        if indent:
            parent = LEFT + (indent - 1) * INDENT + 11
            above = 0 if indent == 1 else STEP / 2 + 3
            parts.append(f'<path d="M{parent} {middle - above} V{middle} H{x}" class="line"/>')
        if start:
            width = round(cost[start] * scale, 1)
            parts.append(f'<rect x="{BARS}" y="{middle - 8}" width="{width}" height="16" rx="2" class="bar"/>')
            write(BARS + width + 7, middle + 5, f"{cost[start]:,}", "figure")
        if leaves:
            first = BARS + (cost[start] * scale + 44 if start else 0)
            parts.append(f'<path d="M{first:.1f} {middle} H{EXITS - 12}" class="line" stroke-dasharray="2 4"/>')
            parts.append(f'<path d="M{EXITS - 17} {middle - 4} l6 4 l-6 4" class="line"/>')
            write(EXITS, middle + 4, leaves, "small")
        y += STEP
    tree = 48 + 2 * STEP - 6  # below the box of `launch`, which is the second
    parts.append(f'<path d="M{LEFT + 11} {tree} V{y - STEP / 2 - 3}" class="line"/>')
    y += 16
    write(LEFT, y, f"{total:,} instructions together.  On an H100 the same launch takes, in µs:", "figure")
    y += 14
    scale = 400 / max(times.values())
    for path, what in PATHS:
        width = round(times[path] * scale, 1)
        write(LEFT, y + 14, path, "name")
        write(LEFT + 58, y + 14, what, "small")
        kind = "bar" if path == "lowlat" else "other"
        parts.append(f'<rect x="{LEFT + 230}" y="{y + 2}" width="{width}" height="16" rx="2" class="{kind}"/>')
        write(LEFT + 237 + width, y + 15, f"{times[path]:.1f}", "figure")
        y += 24
    label = f"The path of a launch: {total:,} instructions, by step"
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y + 10}" width="{WIDTH}" role="img" '
        f'aria-label="{label}">', f"<style>{STYLE}</style>", *parts, "</svg>", ""])


def main():
    drawn = svg()
    if "--check" not in sys.argv[1:]:
        FIGURE.write_text(drawn)
        return 0
    if drawn != FIGURE.read_text():
        print(f"{FIGURE} is not what docs/results/README.md says: type `python docs/path.py`")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
