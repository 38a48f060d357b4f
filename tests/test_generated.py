"""Property tests: generated kernels and calls, in lock step.  See generated.py.

As part of the suite it is a small, fixed selection.  `pytest tests/test_generated.py --long 1000000 --seed 0 -s` goes
on until so many calls were made, and prints seeds and counts; a failure prints the shrunk sequence of calls.
"""

import time

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from generated import Kernels, exits, totals

pytestmark = pytest.mark.null

PHASES = (Phase.generate, Phase.shrink)
common = dict(deadline=None, suppress_health_check=list(HealthCheck), database=None, print_blob=False)


def test_generated_calls(request):
    if request.config.getoption("--long"):
        pytest.skip("the long run stands for it")
    small = settings(max_examples=40, stateful_step_count=25, derandomize=True, **common)
    run_state_machine_as_test(Kernels, settings=small)
    print(summary(), dict(exits))
    assert totals["native"] > totals["calls"] / 8  # the native path is what is tested


def test_many_generated_calls(request):
    wanted = request.config.getoption("--long")
    if not wanted:
        pytest.skip("asked for with --long CALLS")
    Kernels.burst = 600
    Kernels.most = 16
    number = request.config.getoption("--seed")
    long = settings(max_examples=50, stateful_step_count=40, phases=PHASES, **common)
    started = time.monotonic()
    while totals["calls"] < wanted:
        run_state_machine_as_test(seed(number)(Kernels), settings=long)
        print(f"seed {number}: {summary()}, {time.monotonic() - started:.0f} s", flush=True)
        number += 1
    print("exits:", dict(exits.most_common()))


def summary():
    return ", ".join(f"{count:,} {name}" for name, count in sorted(totals.items()))
