"""One place in the code whose calls cycle among 1, 2, 8 and 64 specialisations: nanoseconds of CPU time a launch on the
null driver, the fastest of 300 rounds of 320 launches each, the four taking turns.

    python docs/results/polymorphic.py
"""

import gc
import time

import torch

import lowlat
from lowlat import null
from lowlat.bench import kernels

null.activate()
x, y = (torch.ones(64, dtype=torch.int32) for _ in range(2))
specialisations = [(n, constant) for constant in range(32, 64) for n in (77, 80)]  # 80 is a multiple of 16


def site(kernel, calls):
    def run():
        for _ in range(5):
            for n, constant in calls:
                kernel[(1, )](x, y, n, constant)

    return run


sites = {}
for count in (1, 2, 8, 64):
    own = lowlat.jit(kernels.parameters_4)
    sites[count] = own, site(own, (specialisations[:count] * 64)[:64])
    sites[count][1]()
best = dict.fromkeys(sites, float("inf"))
gc.disable()
for _ in range(300):
    for count, (_own, run) in sites.items():
        started = time.thread_time_ns()
        run()
        best[count] = min(best[count], (time.thread_time_ns() - started) / 320)
for count, (own, _run) in sites.items():
    assert own.exits == {"first call": count}, own.exits
    print(f"{count:2} specialisations: {best[count]:.0f} ns, {best[count] - best[1]:+.0f}")
