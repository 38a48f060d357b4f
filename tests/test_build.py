"""The build: what is declared is what is there, and a missing extension says what to type."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import mutants
import pytest

import lowlat

ROOT = Path(__file__).parent.parent


def test_every_pyx_is_declared():
    declared = set(re.findall(r'"(lowlat/[^"]+\.(?:pyx|c))"', (ROOT / "setup.py").read_text()))
    present = {str(path.relative_to(ROOT)) for path in (ROOT / "lowlat").rglob("*.pyx")} | {"lowlat/null/driver.c"}
    assert declared == present


def test_nothing_generated_is_tracked():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    if not tracked:
        pytest.skip("not a checkout")
    assert not [name for name in tracked if name.endswith((".so", ".o", ".pyc", "_fast.c", "_fast.html", ".so.1"))]


def test_every_mutant_is_of_this_source():
    lost = [(mutant.name, find) for mutant in mutants.MUTANTS for find, _ in mutant.edits
            if (ROOT / "lowlat" / mutant.file).read_text().count(find) != 1]
    assert not lost, "tests/mutants.py looks for what is no longer there"
    named = {test.partition("[")[0] for mutant in mutants.MUTANTS for test in mutant.tests}
    there = {f"{path.name}::{name}" for path in (ROOT / "tests").glob("test_*.py")
             for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.M)}
    assert not named - there, "tests/mutants.py names tests that are no longer there"


def test_missing_extension_says_what_to_type(tmp_path):
    compiled = shutil.ignore_patterns("*.so", "*.so.1", "__pycache__")
    shutil.copytree(ROOT / "lowlat", tmp_path / "lowlat", ignore=compiled)
    # In front of the editable install's import hook, which would find the built one.
    code = f"import sys; sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in repr(f)]; " \
           f"sys.path.insert(0, {str(tmp_path)!r}); import lowlat"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert "ImportError" in result.stderr and "pip install -e ." in result.stderr
    assert "there is no slow mode" in result.stderr


def test_version():
    assert f'version = "{lowlat.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_asv_measures_what_requirements_pin():
    pins = dict(re.findall(r"^([\w-]+)==(.+)$", (ROOT / "requirements.txt").read_text(), re.MULTILINE))
    required = re.search(r'"req": \{(.*?)\}', (ROOT / "asv_bench" / "asv.conf.json").read_text(), re.DOTALL)[1]
    installed = dict(re.findall(r'"([\w-]+)": \["(.+?)"\]', required))
    assert {"torch", "triton", "Cython"} <= set(installed)
    assert installed == {name: pins[name] for name in installed}


def test_stub_matches_the_module():
    pytest.importorskip("mypy")
    result = subprocess.run([sys.executable, "-m", "mypy.stubtest", "lowlat._fast", "--ignore-disjoint-bases",
                             "--mypy-config-file", "pyproject.toml", "--allowlist",
                             str(ROOT / "tests" / "stubtest_allowlist.txt")],
                            capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_no_function_swallows_errors():
    """No `noexcept` of ours, and no exception cleared to get past it."""
    for path in (ROOT / "lowlat").glob("*.p*x*"):
        text = path.read_text()
        assert "noexcept" not in text and "PyErr_Clear" not in text, path
