"""The commands: they run, check their launches and write what they say."""

import json
import subprocess
import sys

import pytest

import lowlat
from lowlat import bench, doctor
from lowlat.__main__ import main
from oracle import torch


@pytest.mark.torch
def test_bench(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["bench", "--quick", "--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b.png")]) == 0
    printed = capsys.readouterr().out
    for path in bench.PATHS:
        assert path in printed
    report = json.loads((tmp_path / "b.json").read_text())
    assert list(report["results"])[:len(bench.CASES)] == [case.name for case in bench.CASES]
    for results in report["results"].values():
        assert set(results) == set(bench.PATHS) and all(value["median"] > 0 for value in results.values())
    assert set(report["slopes"]["lowlat"]) == {"tensor", "scalar", "constexpr"}
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


def test_bench_wants_enough_batches(capsys):
    with pytest.raises(SystemExit):
        main(["bench", "--batches", "3"])
    assert "must be at least 30" in capsys.readouterr().err


@pytest.mark.torch
@pytest.mark.null
def test_bench_notices_missing_launches(monkeypatch):
    """The check must be able to fail: a `triton` that launches nothing."""
    import triton

    original = triton.jit

    def lazy(function):
        kernel = original(function)
        run, seen = kernel.run, []

        def sometimes(*args, **kwargs):
            seen.append(1)
            return run(*args, **kwargs) if len(seen) < 6 else None

        kernel.run = sometimes
        return kernel

    monkeypatch.setattr(bench.triton, "jit", lazy)
    with pytest.raises(RuntimeError, match="launches where"):
        bench.measure(bench.CASES[2], bench.Device(), 2)


@pytest.mark.torch
@pytest.mark.null
def test_bench_notices_the_slow_path(monkeypatch):
    monkeypatch.setattr(bench, "BATCH", 5)
    monkeypatch.setattr(bench.lowlat, "jit", lambda function: lowlat.JITFunction(function, debug=None))
    original = bench._loop

    def hooked(call, k, grid, tensors, **names):
        if isinstance(k, lowlat.JITFunction) and not k.pre_run_hooks:
            k.add_pre_run_hook(lambda *args, **kwargs: None)
        return original(call, k, grid, tensors, **names)

    monkeypatch.setattr(bench, "_loop", hooked)
    with pytest.raises(RuntimeError, match="went to Triton"):
        bench.measure(bench.CASES[2], bench.Device(), 2)


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "native launches" in printed and "first call" in printed
    assert dict(doctor.findings())["tensors read by"] == ("shim" if torch else "none")


def test_module():
    result = subprocess.run([sys.executable, "-m", "lowlat", "doctor"], capture_output=True, text=True)
    assert result.returncode == 0 and "lowlat" in result.stdout, result.stderr
