"""The oracle: one call through triton.jit and through lowlat.jit must be the same launches or the same error.

Without torch an int stands in for a tensor: `aligned` gives an address, and `pointers` annotates the kernel's
parameters so that Triton takes it for one.
"""

import inspect
import itertools
import re

try:
    import torch
except ImportError:
    torch = None

import triton

import lowlat
from lowlat import null

_addresses = itertools.count(0x7F0000000000, 0x1000)
_POINTERS = re.compile("[xyabc]|p[0-9]+")  # the parameters of the tests' kernels that are called with tensors


def pointers(function):
    """Without torch: annotate the parameters of a kernel that are called with tensors as pointers, in place."""
    if torch is None:
        for name in inspect.signature(function).parameters:
            if _POINTERS.fullmatch(name):
                function.__annotations__.setdefault(name, "*fp32")
    return function


class Pair:
    """One function under both decorators.  `call` compares, and `fast` also insists on the native path."""

    def __init__(self, function, **options):
        pointers(function)
        self.triton = triton.jit(function, **options)
        self.lowlat = lowlat.jit(function, **options)

    def call(self, grid, /, *args, **kwargs):
        expected = outcome(lambda: self.triton[grid](*args, **kwargs))
        actual = outcome(lambda: self.lowlat[grid](*args, **kwargs))
        self.compare(expected, actual)
        return actual

    def run(self, *args, **kwargs):
        expected = outcome(lambda: self.triton.run(*args, **kwargs))
        actual = outcome(lambda: self.lowlat.run(*args, **kwargs))
        self.compare(expected, actual)
        return actual

    def fast(self, grid, /, *args, **kwargs):
        """Call twice; the second must have left the exits alone."""
        self.call(grid, *args, **kwargs)
        before = self.lowlat.exits
        launched = null.launches()
        result = self.call(grid, *args, **kwargs)
        assert self.lowlat.exits == before, f"went to Triton: {changed(before, self.lowlat.exits)}"
        assert null.launches() >= launched
        return result

    def leaves(self, reason, grid, /, *args, **kwargs):
        """The call must go to Triton for `reason`, and still be the same."""
        before = self.lowlat.exits
        result = self.call(grid, *args, **kwargs)
        assert changed(before, self.lowlat.exits) == {reason: 1}
        return result

    @staticmethod
    def compare(expected, actual):
        assert actual.error == expected.error, (actual.error, expected.error)
        if triton.__version__.startswith("3.6.") and expected.error and "pack with e format" in expected.error[1]:
            # Triton 3.6 launches all the same, with a half that nobody wrote.
            assert len(actual.launches) == len(expected.launches)
            return
        assert actual.launches == expected.launches
        assert type(actual.result) is type(expected.result)
        if hasattr(actual.result, "asm"):
            assert actual.result.asm["cubin"] == expected.result.asm["cubin"]
            assert actual.result.metadata == expected.result.metadata


class Outcome:

    def __init__(self, result, error, launches):
        self.result, self.error, self.launches = result, error, launches


def outcome(call):
    result = error = None
    with null.record() as launches:
        try:
            result = call()
        except Exception as raised:
            error = (type(raised), re.sub(r"0x[0-9a-f]+", "0x", str(raised)))
    return Outcome(result, error, launches)


def changed(before, after):
    return {name: count - before.get(name, 0) for name, count in after.items() if count != before.get(name, 0)}


def aligned(count=64, dtype="float32"):
    """A tensor whose address is a multiple of 16, or such an address."""
    if torch is None:
        return next(_addresses)
    tensor = torch.zeros(count, dtype=getattr(torch, dtype) if isinstance(dtype, str) else dtype)
    assert tensor.data_ptr() % 16 == 0
    return tensor


def unaligned(count=64, dtype="float32"):
    if torch is None:
        return next(_addresses) + 4
    return aligned(count + 1, dtype)[1:]


def address(pointer):
    return pointer if torch is None else pointer.data_ptr()
