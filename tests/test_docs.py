"""The documentation says what the code does: its code runs, and what is generated is what would be generated."""

import doctest
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser

import lowlat
from oracle import torch

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(path for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts)]

# Commands that stand on a page and are not run here, and why.  Each must stand on some page.
COUNT = "valgrind --tool=callgrind --collect-atstart=no --toggle-collect='*launcher_vectorcall' python launches.py "
NOT_RUN = {
    COUNT + "2000": "valgrind is not on every machine, and takes minutes",
    COUNT + "12000": "as the one before it",
    "pip install .": "installs; the matrix installs the package before it runs these tests",
    "make bench": "installs into .venv and measures for minutes; tests/test_bench.py runs the command inside it",
    "make asv": "builds and measures two commits",
    "make asv BASE=main": "as the one before it",
    "make asv-publish": "measures for half an hour",
    "make asv-check": "runs for minutes",
    "python asv_bench/run.py run --python=same --set-commit-hash $(git rev-parse HEAD)": "measures, on a GPU",
    "make test": "installs into .venv and runs these tests",
    "LOWLAT_ROUTE=graph LOWLAT_GRAPH_AFTER=0 make test": "as the one before it",
}
# Fences that are no code: pictures of text, and what is Sphinx's to read (it fails where it cannot).
NO_CODE = {"text", "{toctree}", "{eval-rst}", "{figure}"}


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks_of(page):
    """(language, text) of everything that Markdown takes for code; indented blocks have no language."""
    tokens = MarkdownIt("commonmark").parse(page.read_text())
    return [(token.info.partition(" ")[0].strip(), token.content)
            for token in tokens if token.type in ("fence", "code_block")]


def examples_of(page):
    """What of it is run, in order; the examples of a page share their variables."""
    parsers = [CodeBlockParser(language, run) for language, run in RUN.items()]
    return list(Sybil(parsers).parse(page).examples())


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_code_block_is_run_or_is_no_code(page):
    code = [(language, text) for language, text in blocks_of(page) if language not in NO_CODE]
    assert [(language, text) for language, text in code if language not in RUN] == []
    assert [str(example.parsed) for example in examples_of(page)] == [text for _, text in code]


@pytest.mark.torch
@pytest.mark.parametrize("page", [page for page in PAGES if {language for language, _ in blocks_of(page)} - NO_CODE],
                         ids=name_of)
def test_code_blocks(page, tmp_path, monkeypatch):
    if torch.cuda.is_available() and "null.activate()" in page.read_text():
        pytest.skip("activates the null driver")
    from triton.runtime import driver

    driver.active  # made on a process's first launch, which would be one more among the exits
    monkeypatch.chdir(tmp_path)
    for example in examples_of(page):
        example.evaluate()


def test_each_command_that_is_not_run_stands_on_a_page():
    consoles = [text for page in PAGES for language, text in blocks_of(page) if language == "console"]
    assert set(NOT_RUN) - {command for text in consoles for command, _ in transcript(text)} == set()


def here(source):
    """Without a GPU CPU tensors stand in for the device's."""
    return source if torch.cuda.is_available() else source.replace('device="cuda"', 'device="cpu"')


def run_python(example):
    # Triton reads a kernel's source where the code object says it is: on its line of the page.
    lines = "\n" * (example.line + example.parsed.line_offset)
    exec(compile(lines + here(example.parsed), example.path, "exec", dont_inherit=True), example.namespace)


def run_session(example):
    test = doctest.DocTestParser().get_doctest(here(example.parsed), example.namespace, "session", example.path,
                                               example.line + example.parsed.line_offset)
    test.globs = example.namespace  # (a DocTest copies it)
    runner = doctest.DebugRunner(optionflags=doctest.ELLIPSIS)
    try:
        runner.run(test, clear_globs=False)
    except doctest.DocTestFailure as failure:
        pytest.fail(f"{example.path}: {failure.example.source}gave {failure.got}and not {failure.example.want}")
    except doctest.UnexpectedException as failure:
        raise failure.exc_info[1] from None


def run_commands(example):
    """Each command, whose output, where the page shows any, is compared; `...` stands for anything."""
    for command, expected in transcript(example.parsed):
        if command in NOT_RUN:
            continue
        path = os.pathsep.join(filter(None, (str(Path(lowlat.__file__).parents[1]), os.environ.get("PYTHONPATH"))))
        result = subprocess.run(
            ["bash", "-euc", f'python() {{ "{sys.executable}" "$@"; }}\n{command}'], capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": path, "COLUMNS": "80"}, timeout=300)
        assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert not expected or doctest.OutputChecker().check_output(expected, result.stdout, flags), (
            f"{command}\nsays\n{result.stdout}\nand not\n{expected}")


def transcript(text):
    """(command, what it is shown to print) of a console block, in which each command follows a `$`."""
    assert text.startswith("$ "), f"a console block begins with `$ `, this one with {text[:40]!r}"
    for part in ("\n" + text).split("\n$ ")[1:]:
        command, _, expected = part.partition("\n")
        yield command.partition("  #")[0].strip(), expected


RUN = {"python": run_python, "pycon": run_session, "console": run_commands}


@pytest.mark.null
@pytest.mark.torch
def test_the_compatibility_page_is_what_the_code_does():
    import triton

    if f"(Triton\n{triton.__version__})" not in (ROOT / "docs" / "compatibility.md").read_text():
        pytest.skip("the page is written with another Triton")
    result = subprocess.run([sys.executable, "-W", "ignore", str(ROOT / "docs" / "compatibility.py"), "--check"],
                            capture_output=True, text=True, cwd=ROOT / "docs")
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_figure_of_the_path_shows_the_measured_figures():
    drawn = runpy.run_path(str(ROOT / "docs" / "path.py"))["svg"]()
    assert drawn == (ROOT / "docs" / "path.svg").read_text(), "type `python docs/path.py`"


@pytest.mark.torch
def test_the_step_of_decoding():
    """On a GPU it compares the results of all ways itself."""
    done = subprocess.run([sys.executable, "docs/decode.py", "--batches", "2"], cwd=ROOT, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    assert done.returncode == 0 and "replay" in done.stdout, done.stdout + done.stderr
