"""What the benchmarks share.  Nothing heavy is imported at the top: asv starts a process for every value."""

import functools
import gc
import importlib.util
import json
import math
import os
import subprocess
import sys
import traceback
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
PROCESS = CHECKOUT / "asv_bench" / "process.py"

ONCE = os.environ.get("LOWLAT_ASV") == "once"
"""Every benchmark runs, briefly, and lowlat must have all that is measured: what CI wants to know."""

PASSES, BATCHES = (1, 2) if ONCE else (2, 15)


@functools.cache
def checkout_bench():
    """lowlat.bench of the checkout on top of the lowlat that is installed: every commit launches the same kernels by
    the same calls."""
    name = "checkout_bench"
    spec = importlib.util.spec_from_file_location(name, CHECKOUT / "lowlat" / "bench" / "__init__.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def case_named(name):
    return next(case for case in checkout_bench().CASES if case.name == name)


@functools.cache
def device():
    """The GPU, or the null driver: whichever is in the machine's name."""
    found, named = checkout_bench().Device(), os.environ.get("LOWLAT_ASV_DEVICE")
    if found.name != named:
        raise RuntimeError(f"the machine is named for {named!r}, torch finds {found.name!r} here: "
                           "start asv by asv_bench/run.py")
    return found


class Lacking(Exception):
    """The lowlat that is measured is older than what is measured of it."""


def needs(name):
    """n/a for a lowlat that is older than `name`."""
    import lowlat

    if not hasattr(lowlat, name):
        raise Lacking(f"this lowlat has no {name}")


def timers(loops, items=None, count=None):
    """{name: timer}, as lowlat.bench has them, of loops as it makes them."""
    timing = checkout_bench().timing
    return {name: timing.timer(run, device(), items or timing.nothing, count) for name, run in loops.items()}


def timed(timers, kernels, counter, per_item=1):
    """{name: nanoseconds per launch} of the fastest batch; the timers take turns, batch by batch.  Noise only adds: on
    a busy machine the fastest batches of two processes are four times closer than their medians.

    RuntimeError if a launch did not happen, or if one of lowlat's `kernels` did not launch natively.
    """
    timing = checkout_bench().timing
    fastest = dict.fromkeys(timers, math.inf)
    for timer in timers.values():
        timer()  # compile, learn, launch natively
    exits, count = [exits_of(kernel) for kernel in kernels], timing.Count(device(), {"launches": counter})

    def after(name, batch):
        launches = batch.launches * per_item
        count.add("launches", batch.made * per_item)
        fastest[name] = min(fastest[name], batch.nanoseconds / launches)

    gc.collect()
    timing.interleaved(timers, device(), BATCHES, after)
    if (happened := count.finish("launches")) not in (None, made := count.made["launches"]):
        raise RuntimeError(f"{happened} launches where {made} were made")
    if exits != (now := [exits_of(kernel) for kernel in kernels]):
        raise RuntimeError(f"went to Triton: {exits} before, {now} after")
    return fastest


def exits_of(kernel):
    """Also those of the kernel within a tuner or heuristics."""
    return [kernel.exits, *exits_of(kernel.fn)] if hasattr(kernel, "exits") else []


def passes(measures):
    """{name: what its measure gave on each pass over all of them, or what went wrong}: one failure does not take the
    others of its process with it."""
    measured = {name: [] for name in measures}
    for _ in range(PASSES):
        for name, measure in measures.items():
            if isinstance(measured[name], list):
                try:
                    measured[name].append(measure())
                except Lacking as missing:
                    measured[name] = missing
                except Exception:
                    measured[name] = RuntimeError(traceback.format_exc())
    return measured


def samples(measured, name, path, scale=1):
    """What a `track_*` returns: asv adds the samples of several rounds up and compares commits by a test on them."""
    if isinstance(measured[name], Lacking) and not ONCE:
        not_available(str(measured[name]))
    if isinstance(measured[name], Exception):
        raise measured[name]
    return {"samples": [float(f"{values[path] * scale:.5g}") for values in measured[name]], "number": 1}


def value(measured, name, path):
    """The same where a second look would see the same."""
    return samples(measured, name, path)["samples"][0]


def not_available(why):
    from asv_runner.benchmarks.mark import SkipNotImplemented

    raise SkipNotImplemented(why)


def process(*arguments, before=(), **environment):
    """What `process.py` prints, in a process of its own."""
    done = subprocess.run([*before, sys.executable, PROCESS, *map(str, arguments)], capture_output=True, text=True,
                          env={**os.environ, "PYTHONHASHSEED": "0", **environment})
    if done.returncode != 0:
        raise RuntimeError(done.stdout + done.stderr)
    return json.loads(done.stdout.splitlines()[-1])
