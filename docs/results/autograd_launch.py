"""What a launch costs inside an autograd function, beside the driver's call in C at the same place.

    python docs/results/autograd_launch.py

Nanoseconds, median and mean: `torch.empty_like` and then one launch, in the forward, which the main thread runs, and in
the backward, which a thread of autograd's runs unless there is to be but one; then the launch alone, so many
microseconds after the one before it.  Needs a GPU.
"""

import gc
import statistics
import time

import torch
import triton.language as tl

import lowlat
from lowlat import _fast

ELEMENTS = 1024
PLACES = ("empty_like, forward", "launch, forward", "empty_like, backward", "launch, backward")


def double(x, factor, y, elements, stride, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    tl.store(y + at, tl.load(x + at) * factor)


def launcher(route):
    kernel = lowlat.jit(double, route=route)

    def launch(x, y):
        start = time.perf_counter_ns()
        kernel[(1, )](x, 2.0, y, ELEMENTS, 1, BLOCK=ELEMENTS)
        return time.perf_counter_ns() - start

    return launch


def nothing(x, y):
    start = time.perf_counter_ns()
    return time.perf_counter_ns() - start


def torch_mul(x, y):
    start = time.perf_counter_ns()
    with torch.no_grad():
        torch.mul(x, 2.0, out=y)
    return time.perf_counter_ns() - start


def function_with(launch, times):

    class Double(torch.autograd.Function):

        @staticmethod
        def forward(ctx, x):
            return timed(x, times[:2])

        @staticmethod
        def backward(ctx, x):
            return timed(x, times[2:])

    def timed(x, times):
        start = time.perf_counter_ns()
        y = torch.empty_like(x)
        times[0].append(time.perf_counter_ns() - start)
        times[1].append(launch(x, y))
        return y

    return Double.apply


def middle(values):
    return f"{statistics.median(values):6.0f} {statistics.fmean(values):6.0f}"


def main():
    x = torch.ones(ELEMENTS, device="cuda", requires_grad=True)
    gradient, y = torch.ones_like(x), torch.empty_like(x)
    compiled = lowlat.jit(double)[(1, )](x, 2.0, y, ELEMENTS, 1, BLOCK=ELEMENTS)

    def floor(x, y):
        return _fast.floor(compiled.function, [x.data_ptr(), 0, y.data_ptr()], 4, 32 * compiled.packed_metadata[0],
                           compiled.packed_metadata[2], 0, 1)

    # lowlat first: in autograd's thread it makes the context current that the C loop needs.
    ways = {"lowlat": launcher("driver"), "lowlat by graph": launcher("graph"), "cuLaunchKernelEx in C": floor,
            "torch.mul": torch_mul, "nothing": nothing}
    gc.disable()
    print(torch.cuda.get_device_name(), "torch", torch.__version__)
    for threads in (True, False):
        times = {name: ([], [], [], []) for name in ways}
        functions = {name: function_with(launch, times[name]) for name, launch in ways.items()}
        with torch.autograd.set_multithreading_enabled(threads):
            for i in range(21):
                for function in functions.values():
                    for _ in range(100):
                        function(x).backward(gradient)
                        x.grad = None
                    torch.cuda.synchronize()
                if i == 0:
                    for lists in times.values():
                        for values in lists:
                            values.clear()
        for name, lists in times.items():
            print(f"backward in a thread of its own: {threads}, {name:22s}",
                  *(f"{place}: {middle(values)};" for place, values in zip(PLACES, lists)))
    for gap in (0, 20, 60, 200):
        for name, launch in ways.items():
            values = []
            for i in range(1500):
                until = time.perf_counter_ns() + 1000 * gap
                while time.perf_counter_ns() < until:
                    pass
                values.append(launch(gradient, y))
                if i % 300 == 0:
                    torch.cuda.synchronize()
            print(f"alone, {gap} us after the one before, {name:22s} {middle(values)}")


main()
