"""A step of decoding through eight small blocks, 32 launches for each token, and what it costs the host: launched one
by one by triton.jit and by lowlat.jit either way, as a recorded sequence, and as a torch.cuda.graph.

    python docs/decode.py

A token is another tensor each time, and its position another number: one launch gets the former, sixteen the latter.
torch.cuda.graph repeats what it captured, so there the kernels read the position from the device, and both are copied
to where they read them.  On a GPU the caches and results of all five ways are compared first, bit by bit.
"""

from __future__ import annotations

import argparse
import functools
import itertools
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import triton
import triton.language as tl
from rich.console import Console
from rich.table import Table

import lowlat
from lowlat.bench import timing

BLOCKS, HEADS, HEAD, POSITIONS = 8, 8, 64, 2048
HIDDEN = HEADS * HEAD
LAUNCHES = 4 * BLOCKS


def rms_norm(x, weight, out, eps, N: tl.constexpr):
    i = tl.arange(0, N)
    values = tl.load(x + i)
    scale = 1 / tl.sqrt(tl.sum(values * values) / N + eps)
    tl.store(out + i, values * scale * tl.load(weight + i))


def rope(q, frequencies, position, HALF: tl.constexpr, ON_DEVICE: tl.constexpr = False):
    if ON_DEVICE:
        position = tl.load(position)
    i = tl.arange(0, HALF)
    head = q + 2 * HALF * tl.program_id(0)
    angle = tl.load(frequencies + i) * position
    a, b = tl.load(head + i), tl.load(head + HALF + i)
    tl.store(head + i, a * tl.cos(angle) - b * tl.sin(angle))
    tl.store(head + HALF + i, a * tl.sin(angle) + b * tl.cos(angle))


def write_cache(cache, q, position, N: tl.constexpr, ON_DEVICE: tl.constexpr = False):
    if ON_DEVICE:
        position = tl.load(position)
    i = tl.arange(0, N)
    tl.store(cache + position * N + i, tl.load(q + i))


def silu(q, out, N: tl.constexpr):
    i = tl.arange(0, N)
    values = tl.load(q + i)
    tl.store(out + i, values * tl.sigmoid(values))


def compiled_by(jit):
    """The kernels; a position is no other specialisation where it is 1 or a multiple of 16."""
    at_position = functools.partial(jit, do_not_specialize=["position"])
    return SimpleNamespace(rms_norm=jit(rms_norm), rope=at_position(rope), write_cache=at_position(write_cache),
                           silu=jit(silu))


@dataclass
class Block:
    weight: torch.Tensor
    q: torch.Tensor
    cache: torch.Tensor
    out: torch.Tensor


class Model:

    def __init__(self, device: str) -> None:
        def random(*shape):
            return torch.rand(shape, generator=chance).to(device)

        chance = torch.Generator().manual_seed(1)
        self.frequencies = random(HEAD // 2)
        self.blocks = [Block(random(HIDDEN), random(HIDDEN), torch.zeros(POSITIONS, HIDDEN, device=device),
                             random(HIDDEN)) for _ in range(BLOCKS)]
        self.tokens = [random(HIDDEN) for _ in range(16)]

    def step(self, kernels, x, position, **on_device):
        for block in self.blocks:
            kernels.rms_norm[(1, )](x, block.weight, block.q, 1e-6, N=HIDDEN)
            kernels.rope[(HEADS, )](block.q, self.frequencies, position, HALF=HEAD // 2, **on_device)
            kernels.write_cache[(1, )](block.cache, block.q, position, N=HIDDEN, **on_device)
            kernels.silu[(1, )](block.q, block.out, N=HIDDEN)
            x = block.out


def ways(model, device):
    """{name: what makes a step of (token, position)}, and the sequence."""
    jits = {"triton": triton.jit, "lowlat": functools.partial(lowlat.jit, route="driver"),
            "lowlat by graph": functools.partial(lowlat.jit, route="graph")}
    kernels = {name: compiled_by(jit) for name, jit in jits.items()}
    steps = {name: functools.partial(model.step, kernels[name]) for name in jits}
    for step in steps.values():
        for position in range(40):  # compiled, learnt, hot
            step(model.tokens[position % 16], position)
    with lowlat.record("0.x", "position") as sequence:
        model.step(kernels["lowlat"], model.tokens[0], 0)
    steps["replay"] = sequence.replay
    if not device.null:
        steps["torch.cuda.graph"] = captured(model, kernels["lowlat"])
    return steps, sequence


def captured(model, kernels):
    token, at = torch.zeros_like(model.tokens[0]), torch.zeros((), dtype=torch.int32, device="cuda")
    model.step(kernels, token, at, ON_DEVICE=True)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model.step(kernels, token, at, ON_DEVICE=True)

    def step(x, position):
        token.copy_(x)
        at.fill_(position)
        graph.replay()

    return step


def compare(model, steps, count=200):
    """SystemExit unless each way leaves the same caches and results."""
    expected = None
    for name, step in steps.items():
        for block in model.blocks:
            block.cache.zero_()
        results = []
        for position in range(count):
            step(model.tokens[position * 7 % 16], position)
            results.append(model.blocks[-1].out.clone())
        left = torch.stack(results), *(block.cache.clone() for block in model.blocks)
        expected = expected or left
        if not all(map(torch.equal, left, expected)) or not left[1].any():
            raise SystemExit(f"{name}: other results than triton's")


def measure(model, steps, device, batches):
    positions = itertools.cycle(range(POSITIONS))

    def timer(step):
        loop = timing.loop("step(*item)", step=step)
        return timing.timer(loop, device, lambda count: list(zip(itertools.cycle(model.tokens),
                                                                 itertools.islice(positions, count))),
                            timing.BATCH // LAUNCHES)

    return timing.interleaved({name: timer(step) for name, step in steps.items()}, device, batches)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--batches", type=int, default=60)
    batches = parser.parse_args().batches
    device, console = timing.Device(), Console(width=110)
    model = Model(device.where)
    steps, sequence = ways(model, device)
    if not device.null:
        compare(model, steps)
    measured = measure(model, steps, device, batches)
    if set(sequence.replays) != {"graph"} or sequence.patched != 2 * BLOCKS + 1:
        raise SystemExit(f"not replayed as graphs: {sequence.replays}, {sequence.patched} patched")
    console.print(f"{device.name} · torch {torch.__version__} · Triton {triton.__version__} · a step of {LAUNCHES} "
                  f"launches, µs, median of {batches} batches of {timing.BATCH // LAUNCHES}" +
                  ("" if device.null else "; the same results, bit by bit"))
    table = Table("", "host, a step", "host, a launch", "until the GPU had finished, a step")
    for name, row in measured.items():
        table.add_row(name, f"{row.median / 1000:.1f}", f"{row.median / 1000 / LAUNCHES:.3f}",
                      "–" if device.null else f"{row.wall / 1000:.1f}")
    console.print(table)


if __name__ == "__main__":
    main()
