"""The matrix: the same tests on every Triton that lowlat knows and every CPython it supports.

    make matrix                             all of it; writes docs/matrix.md
    nox -s tests-3.12 -- 3.8.0 3.9.0        one CPython, two Tritons
    nox -s "tests-3.12(no torch)"           ... without torch
    nox -s table                            docs/matrix.md again, from what matrix/ holds

There is one environment per CPython, with torch, and a small one without.  lowlat is built and installed into it once:
one build has to do for every Triton.  The Tritons are unpacked beside each other (they are wheels without
dependencies), and each in its turn is put before site-packages, where torch may have brought another.  An environment
per Triton would cost up to 5 GB of torch each.  torch differs by CPython instead: the four that these Tritons were
released with, each beside all four Tritons.

The tests run against the installed package, away from the checkout; both are checked.
"""

import datetime
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree
from pathlib import Path

import nox
from nox.command import CommandFailed

ROOT = Path(__file__).parent
RESULTS = ROOT / "matrix"
TABLE = ROOT / "docs" / "matrix.md"

TRITONS = ("3.6.0", "3.7.1", "3.8.0", "3.9.0")
TORCHES = {"3.10": "2.11.*", "3.11": "2.13.*", "3.12": "2.14.*", "3.13": "2.15.*"}
TOOLS = ("Cython", "setuptools", "numpy", "pytest", "hypothesis", "rich", "matplotlib", "sybil")

nox.options.sessions = ["tests", "table"]
nox.options.reuse_existing_virtualenvs = True

if shutil.which("pyenv"):  # its shims hide every CPython but the one selected
    pyenv = Path(subprocess.run(["pyenv", "root"], capture_output=True, text=True, check=True).stdout.strip())
    os.environ["PATH"] = os.pathsep.join([os.environ["PATH"], *map(str, sorted(pyenv.glob("versions/3.*/bin")))])

FACTS = """
import json, sys, triton, lowlat
try:
    import torch
except ImportError:
    torch = None
gpu = torch is not None and torch.cuda.is_available()
print(json.dumps({
    "python": sys.version.split()[0], "triton": triton.__version__, "torch": torch.__version__ if torch else None,
    "device": torch.cuda.get_device_name() if gpu else "null driver",
    "files": {"lowlat": lowlat.__file__, "triton": triton.__file__},
}))
"""


@nox.session(python=list(TORCHES))
@nox.parametrize("torch", [True, False], ids=["torch", "no torch"])
def tests(session: nox.Session, torch: bool) -> None:
    """The tests on this CPython and the Tritons named after `--`, or all."""
    tritons = session.posargs or TRITONS
    if unknown := set(tritons) - set(TRITONS):
        session.error(f"Triton {', '.join(unknown)} is not in the matrix, which has {', '.join(TRITONS)}")
    RESULTS.mkdir(exist_ok=True)
    session.install(*tools(session.python))
    if torch and not install(session, "torch", f"torch=={TORCHES[session.python]}") and not install(
            session, "torch", "torch"):
        for triton in tritons:
            record(session, triton, torch, {"status": "pip finds no torch"})
        session.skip("pip finds no torch")
    source = copy_of_checkout(session)
    session.install("--no-build-isolation", "--no-deps", "--force-reinstall", str(source))
    failed = [triton for triton in tritons if not run(session, triton, torch, source / "tests")]
    if failed:
        session.error(f"failed on Triton {', '.join(failed)}")


def tools(python: str) -> list[str]:
    """What requirements.txt pins; some of it has no release for CPython 3.10."""
    pinned = dict(re.findall(r"^([\w-]+)==(.+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    return [name if python == "3.10" else f"{name}=={pinned[name]}" for name in TOOLS]


def install(session: nox.Session, package: str, *arguments: str, target: Path | None = None) -> bool:
    """Install wheels, also into a folder; False where pip finds none for this CPython."""
    into = ("--upgrade", "--target", str(target)) if target else ()
    output = session.run("python", "-m", "pip", "install", "-q", "--only-binary=:all:", *into, *arguments, silent=True,
                         success_codes=[0, 1])
    if "No matching distribution found" in output:
        return False
    folder = target or next(Path(session.virtualenv.location).glob("lib/python3*/site-packages"))
    if not (folder / package / "__init__.py").exists():
        session.error(output)
    return True


def copy_of_checkout(session: nox.Session) -> Path:
    """The files git knows or would take: nothing built for another CPython, and what is built here stays here."""
    source = Path(session.virtualenv.location) / "source"
    shutil.rmtree(source, ignore_errors=True)
    for name in git("ls-files", "--cached", "--others", "--exclude-standard").splitlines():
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    return source


def run(session: nox.Session, triton: str, torch: bool, folder: Path) -> bool:
    """The tests on one Triton; whether none failed."""
    where = ROOT / ".nox" / f"triton-{triton}-cp{session.python.replace('.', '')}"
    if not where.exists() and not install(session, "triton", "--no-deps", f"triton=={triton}", target=where):
        record(session, triton, torch, {"status": "no wheel"})
        return True
    report = RESULTS / f"{cell(session.python, triton, torch)}.xml"
    report.unlink(missing_ok=True)
    environment = {"PYTHONPATH": str(where)}
    with session.chdir(folder):
        facts = json.loads(session.run("python", "-c", FACTS, env=environment, silent=True).splitlines()[-1])
        files = facts.pop("files")
        if facts["triton"] != triton or not files["triton"].startswith(str(where)) or (
                facts["torch"] is not None) != torch or "site-packages" not in files["lowlat"]:
            session.error(f"not the environment that was asked for: {facts}, {files}")
        try:
            session.run("pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", env=environment)
            passed = True
        except CommandFailed:
            passed = False
    record(session, triton, torch, {"status": "ran", **facts, **counts(report)})
    return passed


def counts(report: Path) -> dict[str, object]:
    """The numbers of a JUnit report and the names of what failed; pytest writes none where it crashes."""
    if not report.exists():
        return {"passed": 0, "skipped": 0, "failed": ["the test process died"], "seconds": 0}
    suite = xml.etree.ElementTree.parse(report).getroot()[0]
    failed = [f"{case.get('classname')}.{case.get('name')}" for case in suite.iter("testcase")
              if case.find("failure") is not None or case.find("error") is not None]
    skipped = int(suite.get("skipped", 0))
    return {"passed": int(suite.get("tests", 0)) - skipped - len(failed), "skipped": skipped, "failed": failed,
            "seconds": round(float(suite.get("time", 0)))}


def record(session: nox.Session, triton: str, torch: bool, result: dict[str, object]) -> None:
    commit = git("rev-parse", "--short", "HEAD") + ("" if git("status", "--porcelain") == "" else " with changes")
    result |= {"date": datetime.date.today().isoformat(), "commit": commit}
    (RESULTS / f"{cell(session.python, triton, torch)}.json").write_text(json.dumps(result, indent=1) + "\n")


def cell(python: str, triton: str, torch: bool) -> str:
    return f"{python}-{triton}-{'torch' if torch else 'no-torch'}"


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


@nox.session(venv_backend="none")
def table(session: nox.Session) -> None:
    """docs/matrix.md from the results in matrix/."""
    results = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("*.json")}
    if not results:
        session.error("matrix/ holds no results: run `make matrix` first")
    rows, failures = [], []
    for python in TORCHES:
        for triton in TRITONS:
            row = []
            for torch in (True, False):
                result = results.get(cell(python, triton, torch), {"status": "not run"})
                row.append(text(result))
                failures += [f"- CPython {python}, Triton {triton}, {'with' if torch else 'without'} torch: `{name}`"
                             for name in result.get("failed", ())]
                if torch:
                    row.insert(0, result.get("torch") or "")
            rows.append(f"| {results_python(results, python)} | {triton} | {' | '.join(row)} |")
    ran = [result for result in results.values() if result["status"] == "ran"]
    TABLE.write_text(PAGE.format(
        date=" and ".join(sorted({result["date"] for result in ran})),
        commit=" and ".join(sorted({result["commit"] for result in ran})),
        device=" and ".join(sorted({result["device"] for result in ran})),
        rows="\n".join(rows),
        failures="\n".join(["", "What failed:", "", *failures, ""]) if failures else "",
    ))
    session.log(f"wrote {TABLE.relative_to(ROOT)}")


def text(result: dict[str, object]) -> str:
    if result["status"] != "ran":
        return str(result["status"])
    failed = f", **{len(result['failed'])} failed**" if result["failed"] else ""
    return f"{result['passed']} passed, {result['skipped']} skipped{failed}, {result['seconds']} s"


def results_python(results: dict[str, dict[str, object]], python: str) -> str:
    """The full version that ran, or the one asked for."""
    return next((str(result["python"]) for name, result in results.items()
                 if name.startswith(python + "-") and "python" in result), python)


PAGE = """\
# The matrix

The same tests on every Triton that lowlat knows and every CPython it supports. To run it again, and write this page:

```text
make matrix
```

It takes every CPython from 3.10 to 3.13 that it finds (on PATH or in pyenv) and installs the rest by pip into `.nox/`:
some 6 GB for each CPython where pip finds torch built for CUDA only, and 3 GB of Tritons. `noxfile.py` says how to run
a part of it. CI runs the oldest and the newest Triton on CPython 3.11.

Last run: {date}, commit {commit}, {device}.

| CPython | Triton | torch | with torch | without torch |
| --- | --- | --- | --- | --- |
{rows}
{failures}
Skipped are the tests that need a GPU or mypy and, without torch, those that need a tensor; the others then pass
addresses for tensors. *no wheel*: there is no wheel of that Triton for that CPython.
"""

if sys.version_info < (3, 11):
    sys.exit(f"the matrix is run from Python 3.11 or later, this is {sys.version}")
