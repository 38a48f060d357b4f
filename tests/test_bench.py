"""The commands: they run, check their launches and write what they say."""

import itertools
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

import lowlat
from lowlat import bench, doctor
from lowlat.__main__ import main
from lowlat.bench import peers, seed, timing
from oracle import torch


@pytest.mark.torch
def test_bench(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    assert main(["bench", "--quick", "--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b")]) == 0
    printed = capsys.readouterr().out
    report = json.loads((tmp_path / "b.json").read_text())
    cases = {case.name: case for case in itertools.chain(*bench.GROUPS)}
    assert len(cases) == sum(map(len, bench.GROUPS)) and list(report["results"]) == list(cases)
    for name, results in report["results"].items():
        assert set(results) == set(cases[name].paths)
        assert all(0 < value["low"] <= value["median"] <= value["high"] for value in results.values())
        assert "counted" in report["checked"][name] or not cases[name].tensors
    assert set(report["slopes"]["lowlat"]) == {"tensor", "scalar", "constexpr"}
    assert list(report["peers"]) == list(peers.PEERS)
    assert list(report["seed"]["forward + backward"]["mean"]) == list(seed.AUTOGRAD)
    assert list(report["seed"]["forward kernel alone"]["mean"]) == list(seed.FORWARD)
    for name in (*bench.PATHS, *peers.PEERS, *(name for name in cases if cases[name] not in bench.SLOPES)):
        assert name in printed
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "b.svg").read_text()


@pytest.mark.torch
@pytest.mark.null
def test_bench_measures_parts(tmp_path, capsys):
    """One part alone, and a plot of one kind."""
    pytest.importorskip("matplotlib")
    assert main(["bench", "--quick", "--only", "seed", "--json", str(tmp_path / "b.json"), "--plot",
                 str(tmp_path / "b.svg")]) == 0
    report = json.loads((tmp_path / "b.json").read_text())
    assert report["seed"] and not report["peers"] and not report["results"]
    assert "computes on the CPU" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.json", "b.svg"]


@pytest.mark.parametrize("option", ["--steps", "--runs"])
def test_bench_wants_steps_and_runs(option, capsys):
    with pytest.raises(SystemExit):
        main(["bench", option, "0"])
    assert f"{option} is 0, must be at least 1" in capsys.readouterr().err


@pytest.mark.torch
@pytest.mark.null
def test_every_peer_has_figures_or_a_reason(monkeypatch):
    monkeypatch.setattr(timing, "BATCH", 5)
    rows, failures = peers.measure(bench.Device(), 2)
    assert not failures
    assert list(rows) == list(peers.PEERS)
    for name, row in rows.items():
        assert bool(row.missing) != bool(row.figures), name
        assert all(figure.median > 0 for figure in row.figures.values()) and set(row.figures) <= set(peers.COLUMNS)
        assert not set(row.figures) & set(row.reasons)
    for name in ("lowlat", "triton", "CompiledKernel.run"):
        assert set(rows[name].figures) == set(peers.COLUMNS)
    for name in ("floor", "ctypes, prepared", "ctypes"):
        assert set(rows[name].figures) == {"0 params", "19 params"}
    assert "computes on the CPU" in rows["PyTorch eager"].note
    assert "GPU" in rows["torch.compile"].missing and "null driver" in rows["CUDA graph replay"].missing
    assert "--fbtriton" in rows["fbtriton"].missing


@pytest.mark.torch
@pytest.mark.null
@pytest.mark.parametrize("name", ["lowlat", "CompiledKernel.run", "ctypes, prepared", "ctypes", "cuda.core.launch",
                                  "apache-tvm-ffi"])
def test_peers_launch_what_triton_launches(name, monkeypatch):
    """The same grid, block and ints, whoever packs them; the 5 pointers are each one's own."""
    def recorded(name):
        with null_driver().record() as events:
            device = bench.Device()
            with peers.ExitStack() as stack:
                cells, _ = peers.PEERS[name](peers.Bench(device, None, stack))
        launch = [event for event in events if getattr(event, "kernel", None) == "parameters_19"][-1]
        return launch.grid, launch.block, launch.shared, launch.parameters[5:13], len(launch.parameters)

    try:
        own = recorded(name)
    except peers.Missing as reason:
        pytest.skip(str(reason))
    assert own == recorded("triton")


def null_driver():
    from lowlat import null

    return null


@pytest.mark.torch
@pytest.mark.null
def test_peers_notice_missing_launches(monkeypatch):
    def lazy(here):
        return {"0 params": here.cell("None", {})}, ""

    monkeypatch.setitem(peers.PEERS, "lazy", lazy)
    rows, failures = peers.measure(bench.Device(), 2, only=("lowlat", "lazy"))
    assert failures == [f"lazy, 0 params: 0 launches where {2 * timing.BATCH} were made"]
    assert not rows["lazy"].figures and "0 launches" in rows["lazy"].reasons["0 params"] and rows["lowlat"].figures


@pytest.mark.torch
@pytest.mark.null
def test_peers_notice_the_slow_path(monkeypatch):
    monkeypatch.setattr(peers.lowlat, "jit", hooked)
    rows, failures = peers.measure(bench.Device(), 2, only=("lowlat", ))
    assert len(failures) == 3 and all("went to Triton: {'pre-run hook'" in failure for failure in failures)
    assert not rows["lowlat"].figures


@pytest.mark.torch
@pytest.mark.null
def test_a_broken_peer_is_a_row(monkeypatch):
    def broken(here):
        raise AttributeError("module 'peer' has no attribute 'launch'\nand more")

    monkeypatch.setitem(peers.PEERS, "broken", broken)
    rows, _ = peers.measure(bench.Device(), 2, only=("lowlat", "broken"))
    assert rows["broken"].missing == "AttributeError: module 'peer' has no attribute 'launch'"


@pytest.mark.torch
@pytest.mark.null
def test_fbtriton_is_asked_over_a_pipe(tmp_path, monkeypatch):
    """The worker, with this environment's Triton, which says that it is not Meta's."""
    monkeypatch.setattr(timing, "BATCH", 5)
    other = tmp_path / "python"
    path = shlex.quote(os.pathsep.join(filter(None, sys.path)))
    other.write_text(f"#!/bin/sh\nPYTHONPATH={path} exec {shlex.quote(sys.executable)} \"$@\"\n")
    other.chmod(0o755)
    rows, failures = peers.measure(bench.Device(), 2, other, only=("fbtriton", ))
    row = rows["fbtriton"]
    assert not failures
    assert set(row.figures) == set(peers.COLUMNS), row.missing
    assert "has no C cache: not fbtriton" in row.note


@pytest.mark.torch
@pytest.mark.null
@pytest.mark.parametrize("script, reason", [("exit 3", "ended: its errors are above"),
                                            ("echo '{\"error\": \"no torch\"}'", "no torch"), (None, "No such file")])
def test_an_fbtriton_that_fails_is_a_row(script, reason, tmp_path):
    other = tmp_path / "python"
    if script is not None:
        other.write_text(f"#!/bin/sh\n{script}\n")
        other.chmod(0o755)
    rows, _ = peers.measure(bench.Device(), 2, other, only=("fbtriton", ))
    assert reason in rows["fbtriton"].missing


@pytest.mark.torch
@pytest.mark.null
def test_seed_notices_the_slow_path(monkeypatch):
    monkeypatch.setattr(seed.lowlat, "jit", hooked)
    tables, failures = seed.measure(bench.Device(), 2, 1)
    assert len(failures) == 4 and all("went to Triton: {'pre-run hook'" in failure for failure in failures)
    assert "long, low-latency" not in tables["forward + backward"].mean


@pytest.mark.torch
@pytest.mark.null
def test_seed_counts_launches(monkeypatch):
    class Lazy(seed.triton.JITFunction):
        def run(self, *args, **kwargs):
            return None

    monkeypatch.setattr(seed.lowlat, "jit", Lazy)
    _, failures = seed.measure(bench.Device(), 2, 1)
    assert failures == [f"{name}: 0 launches in 2 steps of {launches}" for name, launches in
                        (("short, low-latency", 2), ("long, low-latency", 2), ("short low-latency", 1),
                         ("long low-latency", 1))]


def hooked(function):
    kernel = lowlat.JITFunction(function)
    kernel.add_pre_run_hook(lambda *args, **kwargs: None)
    return kernel


@pytest.mark.torch
@pytest.mark.null
def test_a_failure_is_told_and_leaves_the_rest(monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(lowlat, "jit", hooked)
    assert main(["bench", "--quick", "--json", str(tmp_path / "b.json"), "--plot", str(tmp_path / "b")]) == 1
    report = json.loads((tmp_path / "b.json").read_text())
    assert "failed: 19 params: lowlat went to Triton" in capsys.readouterr().out
    assert list(report["results"]) == ["missed, Triton has it"]
    assert not report["slopes"] and report["peers"]["triton"]["figures"] and report["seed"]
    assert len(report["failures"]) > len(bench.CASES)


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
    monkeypatch.setattr(timing, "BATCH", 5)
    monkeypatch.setattr(bench.lowlat, "jit", lambda function: lowlat.JITFunction(function, debug=None))
    original = bench.loop

    def hooked(call, k, **names):
        if isinstance(k, lowlat.JITFunction) and not k.pre_run_hooks:
            k.add_pre_run_hook(lambda *args, **kwargs: None)
        return original(call, k=k, **names)

    monkeypatch.setattr(bench, "loop", hooked)
    with pytest.raises(RuntimeError, match="went to Triton"):
        bench.measure(bench.CASES[2], bench.Device(), 2)


def test_doctor(capsys):
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "native launches" in printed and "first call" in printed
    found = dict(doctor.findings())
    assert found["tensors read by"] == ("shim" if torch else "none")
    assert re.fullmatch(r"[\d.]+ us, the plain way [\d.]+: route 'auto' would (not )?take the graph route here",
                        found["launches by graph"])


def test_module():
    result = subprocess.run([sys.executable, "-m", "lowlat", "doctor"], capture_output=True, text=True)
    assert result.returncode == 0 and "lowlat" in result.stdout, result.stderr
