"""The seam: every private name of Triton's that lowlat uses exists and means what lowlat takes it for."""

import inspect

import pytest
import triton
import triton.language as tl

import lowlat
from lowlat import _triton
from oracle import aligned, torch

NAMES = {
    "JITFunction": ("run", "create_binder", "_pack_args", "_do_compile", "warmup"),
    "KernelInterface": ("__getitem__", "warmup"),
}


def kernel(x, n, f: float, p: "*fp32", B: tl.constexpr, i: tl.int64 = 3, c: tl.const = None):  # noqa: F722
    tl.store(x, n)


def test_this_triton_is_known():
    assert _triton.UNKNOWN is None


def test_versions():
    assert _triton.KNOWN_VERSIONS[0] <= _triton.VERSION <= _triton.KNOWN_VERSIONS[1]


def test_names_exist():
    for owner, names in NAMES.items():
        for name in names:
            assert hasattr(getattr(triton.runtime.jit, owner), name), f"{owner}.{name}"
    assert hasattr(_triton._driver_config, "_active")


def test_parameters():
    described, refusal, positional, variadic = _triton.parameters_of(lowlat.jit(kernel))
    assert (refusal, positional, variadic) == ("ok", 7, -1)
    assert [entry[:2] for entry in described] == [("x", "plain" if torch else "pointer"), ("n", "plain"),
                                                  ("f", "float"), ("p", "pointer"), ("B", "constexpr"), ("i", "int"),
                                                  ("c", "plain")]
    assert [entry[4:6] for entry in described if entry[1] in ("int", "float")] == [(32, True), (64, True)]


def reserved(x, options_: tl.constexpr, debug: tl.constexpr):
    tl.store(x, 1)


def variadic(x, *rest):
    tl.store(x, 1)


def keyword_only(x, *, n):
    tl.store(x, n)


@pytest.mark.parametrize("function, known_from, ending", [(reserved, (9, 9), (3, -1)), (variadic, (3, 8), (1, 1)),
                                                          (keyword_only, (3, 9), (1, -1))],
                         ids=["reserved", "variadic", "keyword_only"])
def test_parameters_left_to_triton(function, known_from, ending):
    refusal, *rest = _triton.parameters_of(lowlat.jit(function))[1:]
    assert refusal == ("ok" if _triton.VERSION >= known_from else "parameters") and tuple(rest) == ending


@pytest.mark.null
def test_a_compiled_kernel_has_what_a_plan_reads():
    ours, x = lowlat.jit(kernel), aligned()
    compiled = ours[(1, )](x, 5, 0.5, x, 16)
    assert list(compiled.src.signature) == ours.arg_names
    assert len(compiled.packed_metadata) == 3 and isinstance(compiled.function, int)
    launcher = compiled._run
    for name in ("launch", "num_ctas", "global_scratch_size", "profile_scratch_size", "launch_cooperative_grid",
                 "launch_pdl"):
        assert hasattr(launcher, name), name
    assert hasattr(launcher, "arg_annotations") == hasattr(launcher, "kernel_signature") == (_triton.VERSION >= (3, 7))


def test_originals_are_tritons():
    for owner, name, original in _triton._ORIGINALS:
        assert inspect.getattr_static(owner, name, None) is original
    assert not _triton.patched()


@pytest.mark.null
def test_live_state():
    reason, environment, get_device, get_stream, c_getters, ranged = _triton.read_state()
    assert (reason, c_getters, ranged) == ("ok", True, False)
    assert (get_device(), get_stream(0)) == (0, 0)
    assert (bool, False) in environment
    dicts, types, lists, _ = _triton.watch_state(lowlat.JITFunction)
    assert vars(triton.knobs.runtime) in dicts and lowlat.JITFunction in types and len(lists) == 2


def test_reasons_are_explained():
    assert set(lowlat.REASONS) == set(lowlat._fast.REASON_NAMES) - {"ok"}
    assert all(lowlat.REASONS.values())
