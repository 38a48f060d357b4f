"""How a launch is timed: batches well below the driver's queue depth, the clock stopped before the synchronise, the
paths interleaved batch by batch.  On the null driver, where nothing waits, the clock is the thread's CPU time, so that
other processes do not count."""

from __future__ import annotations

import gc
import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

BATCH = 300  # the driver's launch queue holds about 1,000


class Timed(NamedTuple):
    """When a batch began (perf_counter_ns), how long it took until its last launch had returned, how many they were;
    and how many were made before the clock was started."""

    start: int
    nanoseconds: float
    launches: int
    before: int = 0

    @property
    def made(self) -> int:
        return self.launches + self.before


Timer = Callable[[], Timed]
Items = Callable[[int], Iterable[Any]]
Loop = Callable[[Iterable[Any]], None]


@dataclass
class Measurement:
    """Nanoseconds per launch: median and quartiles over the batches.  `wall` is the median up to the GPU's having
    finished, which is as much the GPU's speed as the host's."""

    median: float
    low: float
    high: float
    wall: float

    @classmethod
    def of(cls, samples: list[float], walls: list[float]) -> Measurement:
        low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
        return cls(median, low, high, statistics.median(walls))


class Device:
    """The GPU, or the null driver with CPU tensors standing in."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.null = not torch.cuda.is_available()
        if self.null:
            from lowlat import null

            null.activate()
            self.name = "null driver"
        else:
            self.name = torch.cuda.get_device_name()
        self.where = "cpu" if self.null else "cuda"
        self.clock = time.thread_time_ns if self.null else time.perf_counter_ns

    def tensors(self, count: int) -> list[Any]:
        return [self.torch.zeros(512, dtype=self.torch.int32, device=self.where) for _ in range(count)]

    def synchronize(self) -> None:
        if not self.null:
            self.torch.cuda.synchronize()

    def stream(self) -> int:
        return 0 if self.null else self.torch.cuda.current_stream().cuda_stream

    def enter_thread(self) -> None:
        """Give the calling thread a current context, as any work of torch's on the GPU does."""
        if self.null:
            from lowlat import null

            null.set_device(0)
        else:
            self.torch.zeros(1, device="cuda")

    def launches(self) -> int | None:
        """Launches so far, where the driver counts them."""
        if self.null:
            from lowlat import null

            return null.launches()
        return None


class Count:
    """Whether as many launches happened as were made, group by group: by the group's counter (its [0]) or by the null
    driver's."""

    def __init__(self, device: Device, counters: dict[Any, Any]) -> None:
        # On the null driver tensors count nothing; what else there is asks another process.
        stand_ins = device.torch.Tensor if device.null else ()
        self.device = device
        self.counters = {group: None if isinstance(counter, stand_ins) else counter
                         for group, counter in counters.items()}
        self.made = dict.fromkeys(counters, 0)
        self.seen: dict[Any, int] = {}
        self.before = {group: self._read(group) for group in counters}
        self.position = device.launches()

    def _read(self, group: Any) -> int | None:
        counter = self.counters[group]
        if counter is None:
            return None
        self.device.synchronize()
        return int(counter[0])

    def add(self, group: Any, made: int) -> None:
        """To be called after each batch."""
        self.made[group] += made
        if self.position is not None:
            before, self.position = self.position, self.device.launches()
            self.seen[group] = self.seen.get(group, 0) + (self.position or 0) - before

    def finish(self, group: Any) -> int | None:
        """The group's launches, where anything counted them."""
        before = self.before[group]
        return self.seen.get(group) if before is None else (self._read(group) or 0) - before


def nothing(count: int) -> Iterable[Any]:
    return itertools.repeat(None, count)


def loop(call: str, **names: Any) -> Loop:
    """A function that makes the call once per item of its argument, which the call may use as `item`: literals are
    constants, the rest local variables, as in the body of a user's function."""
    parameters = ", ".join(f"{name}={name}" for name in names)
    source = f"def loop(times, {parameters}):\n    for item in times:\n        {call}\n"
    namespace = dict(names)
    exec(source, namespace)
    return namespace["loop"]


def timer(loop: Loop, device: Device, items: Items = nothing, count: int | None = None) -> Timer:
    clock = device.clock

    def timed() -> Timed:
        launches = BATCH if count is None else count
        times = items(launches)
        began = time.perf_counter_ns()
        start = clock()
        loop(times)
        return Timed(began, clock() - start, launches)

    return timed


def timer_of_threads(loop: Loop, device: Device, items: Items = nothing) -> Timer:
    """Two threads launching at once, each half of the batch; by the wall clock."""

    def timed() -> Timed:
        half = BATCH // 2
        together, edges, errors = threading.Barrier(2), [], []

        def work(times: Iterable[Any]) -> None:
            try:
                device.enter_thread()
                together.wait()
                start = time.perf_counter_ns()
                loop(times)
                edges.append((start, time.perf_counter_ns()))
            except BaseException as error:
                errors.append(error)
                together.abort()

        threads = [threading.Thread(target=work, args=(items(half), )) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for error in errors:
            raise error
        first = min(start for start, _ in edges)
        return Timed(first, max(stop for _, stop in edges) - first, 2 * half)

    return timed


def interleaved(timers: dict[Any, Timer], device: Device, batches: int,
                after: Callable[[Any, Timed], None] = lambda name, timed: None) -> dict[Any, Measurement]:
    """Each timer in turn, `batches` times, with the garbage collector off; `after` is told of each batch."""
    samples: dict[Any, list[float]] = {name: [] for name in timers}
    walls: dict[Any, list[float]] = {name: [] for name in timers}
    gc_was_enabled = gc.isenabled()
    gc.disable()
    try:
        for _ in range(batches):
            for name, measure in timers.items():
                device.synchronize()
                timed = measure()
                device.synchronize()
                walls[name].append((time.perf_counter_ns() - timed.start) / timed.launches)
                samples[name].append(timed.nanoseconds / timed.launches)
                after(name, timed)
    finally:
        if gc_was_enabled:
            gc.enable()
    return {name: Measurement.of(samples[name], walls[name]) for name in timers}
