"""How tensors are read: each rung against torch itself."""

import os
import subprocess
import sys

import pytest
import triton.language as tl

from lowlat import _fast, _torch
from oracle import Pair, aligned, unaligned

torch = pytest.importorskip("torch", reason="needs torch")


def touch(x, n):
    tl.store(x, n)


@pytest.fixture(params=_torch.RUNGS)
def rung(request):
    _torch.attach()
    before = _torch.rung
    assert _torch.choose(request.param) == request.param
    yield request.param
    _torch.choose(before)


def test_the_best_rung_is_chosen():
    _torch.attach()
    assert _torch.rung == "shim" and not _torch.refused


@pytest.mark.null
def test_launches_are_the_same_on_every_rung(rung):
    pair = Pair(touch)
    for x in (aligned(), unaligned(), aligned(dtype=torch.float16), aligned(dtype=torch.bool), torch.empty(0),
              torch.nn.Parameter(torch.ones(8)), torch.ones(8, 8).t(), torch.ones(8)[2:]):
        pair.fast((2, ), x, 5)
    assert pair.call((1, ), torch.zeros(4, dtype=torch.complex64), 5).error[0] is KeyError


def test_reading(rung):
    devices = _fast.get_devices()
    _fast.set_devices(1)
    try:
        codes = {torch.float32: 6, torch.bfloat16: 15, torch.uint8: 0, torch.int64: 4, torch.bool: 11}
        for dtype, code in codes.items():
            tensor = torch.zeros(10, dtype=dtype)[3:]
            assert _fast.read(tensor) == (tensor.data_ptr(), code, 0, 0)
        assert _fast.read(torch.zeros(4)[4:])[0] == 0
        lazy = torch._lazy_clone(torch.zeros(4))
        assert _fast.read(lazy)[0] == lazy.data_ptr() and not torch._C._is_cow_tensor(lazy)
        sparse = torch.zeros(4, 4).to_sparse()
        assert _fast.read(sparse) is None or _fast.read(sparse)[1] == 6
    finally:
        _fast.set_devices(devices)


def test_meta_tensors_are_not_on_the_device(rung):
    read = _fast.read(torch.empty(4, device="meta"))
    assert read is None or read[2] not in (0, 1)


@pytest.mark.null
def test_conjugate_views(rung):
    pair = Pair(touch)
    for _ in range(2):
        assert pair.call((1, ), torch.ones(4, dtype=torch.complex64).conj(), 5).error[0] is KeyError


def test_an_unknown_rung():
    with pytest.raises(ValueError, match="'telepathy' is unknown, must be one of shim, dlpack, python"):
        _torch.choose("telepathy")


def test_a_rung_that_reads_wrongly_is_refused(monkeypatch):
    """The self-check must be able to fail: another tensor field read as the address."""
    _torch.attach()
    before = _torch.rung
    wrong = _torch._symbol("libtorch_cpu.so", "aoti_torch_get_storage_offset")
    original = _torch._symbol
    monkeypatch.setattr(_torch, "_symbol", lambda *names: wrong if "data_ptr" in names[1] else original(*names))
    try:
        assert _torch.choose() == "dlpack"
        assert "torch says" in _torch.refused["shim"]
        with pytest.raises(RuntimeError, match="'shim' cannot be used"):
            _torch.choose("shim")
    finally:
        monkeypatch.undo()
        _torch.choose(before)


def test_missing_symbols_are_refused(monkeypatch):
    before = _torch.rung
    monkeypatch.setattr(_torch, "_symbol", lambda library, name: 0)
    try:
        assert _torch.choose() == "dlpack" and "has no aoti_torch_get" in _torch.refused["shim"]
    finally:
        monkeypatch.undo()
        _torch.choose(before)


@pytest.mark.parametrize("name", _torch.RUNGS)
def test_environment_variable(name):
    code = "import torch, lowlat\nfrom lowlat import _torch\nassert _torch.rung == " + repr(name)
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "LOWLAT_TENSORS": name}).returncode == 0


def test_function_mode_is_seen():
    class Mode(torch.overrides.TorchFunctionMode):

        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {}))

    assert not _fast.function_mode_active()
    with Mode():
        assert _fast.function_mode_active()
    assert not _fast.function_mode_active()
