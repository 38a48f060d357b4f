"""Property tests: generated kernels and calls, in lock step.  See generated.py.

As part of the suite it is a small, fixed selection.  `pytest tests/test_generated.py --long 1000000 --seed 0 -s` goes
on until so many calls were made, and prints seeds and counts; a failure prints the shrunk sequence of calls.
"""

import collections
import functools
import random
import time

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.stateful import run_state_machine_as_test

import lowlat
from generated import OPTIONS, Kernels, exits, fresh, module_of, specs, totals
from lowlat import _fast, _triton
from oracle import torch

pytestmark = pytest.mark.null

PHASES = (Phase.generate, Phase.shrink)
common = dict(deadline=None, suppress_health_check=list(HealthCheck), database=None, print_blob=False)


def test_generated_calls(request):
    if request.config.getoption("--long"):
        pytest.skip("the long run stands for it")
    small = settings(max_examples=40, stateful_step_count=25, derandomize=True, **common)
    run_state_machine_as_test(Kernels, settings=small)
    print(summary(), dict(exits))
    # The native path is what is tested; without torch what stands in for tensors is Triton's.
    assert totals["native"] > totals["calls"] / (8 if torch else 16)


def test_many_generated_calls(request):
    wanted = request.config.getoption("--long")
    if not wanted:
        pytest.skip("asked for with --long CALLS")
    Kernels.burst = 6000
    Kernels.most = 16
    number = request.config.getoption("--seed")
    long = settings(max_examples=50, stateful_step_count=40, phases=PHASES, **common)
    started = time.monotonic()
    while totals["calls"] < wanted:
        run_state_machine_as_test(seed(number)(Kernels), settings=long)
        print(f"seed {number}: {summary()}, {time.monotonic() - started:.0f} s", flush=True)
        number += 1
    print("exits:", dict(exits.most_common()))


# ---- the refinement theorem ---------------------------------------------------------------------------------------


def backends():
    """Triton's own, on the targets it would have for an H100 and an MI300."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend

    return {"cuda": make_backend(GPUTarget("cuda", 90, 32)), "hip": make_backend(GPUTarget("hip", "gfx942", 64))}


@functools.cache
def storages():
    """Tensors alike but for their storage: AMD's backend asks whether 32-bit offsets reach all of it."""
    large = torch.empty(2**31, dtype=torch.int8)  # (never written: it takes no memory)
    least_large, most_small = large[:], torch.empty(2**31 - 1, dtype=torch.int8)
    return [large, large[:64], large[1:], large.view(torch.float32), most_small, most_small[:64], least_large,
            torch.empty(64, dtype=torch.int8), torch.empty(16, dtype=torch.float32)]


@pytest.mark.parametrize("target", ["cuda", "hip"])
def test_equal_fingerprints_have_equal_keys(target, request):
    """Key refinement: two calls of one fingerprint have one key, as Triton's own binder for this backend makes it."""
    from triton.runtime.jit import create_function_from_signature

    backend = backends()[target]
    counts = collections.Counter()

    @settings(max_examples=request.config.getoption("--long") // 500 or 60, derandomize=True, **common)
    @given(spec=specs(8), numbers=st.integers(0, 2**32 - 1), tries=st.integers(2, 60))
    def refines(spec, numbers, tries):
        if any(parameter.name in _triton._RESERVED_NAMES for parameter in spec.parameters):
            return  # Triton's: such a name changes what its binder does
        kernel = lowlat.jit(module_of(spec).generated, **dict(spec.options))
        binder = create_function_from_signature(kernel.signature, kernel.params, backend)
        chooser = random.Random(numbers)
        keys = {}
        for _ in range(tries):
            args, kwargs = [], {}
            positional = chooser.randrange(len(spec.parameters) + 1)
            for i, parameter in enumerate(spec.parameters):
                value = fresh(chooser.choice(parameter.values))
                if torch is not None and isinstance(value, torch.Tensor) and chooser.random() < 0.5:
                    value = chooser.choice(storages())
                if i < positional:
                    args.append(value)
                elif parameter.literal is None or chooser.random() < 0.7:
                    kwargs[parameter.name] = value
            kwargs.update(OPTIONS[chooser.randrange(len(OPTIONS)) if chooser.random() < 0.3 else 0])
            counts["calls"] += 1
            try:
                fingerprint = _fast.fingerprint_of(kernel, tuple(args), kwargs)
            except KeyError:
                continue  # Triton's
            try:
                _, specialization, options = binder(*args, **kwargs)
            except KeyError as error:
                assert error.args == ("complex64", )
                continue  # which Triton refuses at each call
            counts["fingerprints"] += 1
            first, their_options = keys.setdefault(fingerprint, (specialization, options))
            counts["shared"] += first is not specialization
            # The text decides; the tuples decide before it, but for a NaN, which no tuple finds again.
            assert (str(specialization), str(options)) == (str(first), str(their_options))
            assert (specialization, options) == (first, their_options) or "nan" in str(first)

    _fast.set_ranged(target == "hip")
    try:
        refines()
    finally:
        _fast.set_ranged(False)
    print(dict(counts))
    assert counts["shared"] > counts["calls"] / 20


def test_storage_size_is_in_the_fingerprint():
    """... on AMD, where Triton compiles another kernel for it, and not elsewhere."""
    if torch is None:
        pytest.skip("needs torch")
    kernel = lowlat.jit(pointer)
    fingerprints = [_fast.fingerprint_of(kernel, (storage, ), {}) for storage in storages()]
    _fast.set_ranged(True)
    try:
        ranged = [_fast.fingerprint_of(kernel, (storage, ), {}) for storage in storages()]
    finally:
        _fast.set_ranged(False)
    assert fingerprints[1] == fingerprints[5] == fingerprints[7]
    assert ranged[1] != ranged[5] == ranged[7] and ranged[0] == ranged[6]


def pointer(x):
    pass


def summary():
    return ", ".join(f"{count:,} {name}" for name, count in sorted(totals.items()))
