"""The oracle: one call through triton.jit and through lowlat.jit must be the same launches or the same error.

Every test of behaviour goes through `Pair`.  What is compared: each launch record by record (grid, block, shared
memory, attributes, stream, the bytes of every parameter), each module loaded (its image), which of the loaded
modules a launch belongs to, the CompiledKernel returned (also that it is the same object again where Triton's is), the
type and text of an exception, and whatever hooks and grid callables report with `observe`.

Without torch an int stands in for a tensor: `aligned` gives an address, and `pointers` annotates the kernel's
parameters so that Triton takes it for one.
"""

import inspect
import itertools
import re
from weakref import WeakKeyDictionary, ref

try:
    import torch
except ImportError:
    torch = None

import triton
from triton.compiler.compiler import CompiledKernel

import lowlat
from lowlat import null

observed = []
_addresses = itertools.count(0x7F0000000000, 0x1000)
_POINTERS = re.compile("[xyabc]|p[0-9]+")  # the parameters of the tests' kernels that are called with tensors


def pointers(function):
    """Without torch: annotate the parameters of a kernel that are called with tensors as pointers, in place."""
    if torch is None:
        for name in inspect.signature(function).parameters:
            if _POINTERS.fullmatch(name):
                function.__annotations__.setdefault(name, "*fp32")
    return function


def observe(*what):
    """Called by hooks and grid callables: `what` they saw is compared between the two sides."""
    observed.append(what)


class Pair:
    """One function under both decorators.  `call` compares, and `fast` also insists on the native path."""

    record = null.record  # of launches

    def __init__(self, function, **options):
        pointers(function)
        self.triton = triton.jit(function, **options)
        self.lowlat = lowlat.jit(function, **options)
        # Which of lowlat's compiled kernels and modules stands for which of Triton's, and the other way round.  No
        # kernel is kept alive: what Triton frees, lowlat must not miss.
        self.kernels = (WeakKeyDictionary(), WeakKeyDictionary())
        self.modules = ({}, {})

    def call(self, grid, /, *args, **kwargs):
        return self.lockstep(lambda kernel: kernel[grid](*args, **kwargs))

    def run(self, *args, **kwargs):
        return self.lockstep(lambda kernel: kernel.run(*args, **kwargs))

    def fast(self, grid, /, *args, **kwargs):
        """Call twice; the second must have left the exits alone."""
        self.call(grid, *args, **kwargs)
        before = self.lowlat.exits
        result = self.call(grid, *args, **kwargs)
        assert self.lowlat.exits == before, f"went to Triton: {changed(before, self.lowlat.exits)}"
        return result

    def leaves(self, reason, grid, /, *args, **kwargs):
        """The call must go to Triton for `reason`, and still be the same."""
        before = self.lowlat.exits
        result = self.call(grid, *args, **kwargs)
        assert changed(before, self.lowlat.exits) == {reason: 1}
        return result

    def lockstep(self, call, before=None):
        """`call(kernel)` on either side, each after `before()`; returns lowlat's outcome."""
        expected = outcome(lambda: call(self.triton), before, self.record)
        actual = outcome(lambda: call(self.lowlat), before, self.record)
        self.compare(expected, actual, known=self.kernels[0])
        # (Unloads come whenever a CompiledKernel is collected.)
        for theirs, ours in zip(*([event for event in side.launches.events if not isinstance(event, null.Unload)]
                                  for side in (expected, actual))):
            assert self.modules[0].setdefault(theirs.module, ours.module) == ours.module, "another kernel's module"
            assert self.modules[1].setdefault(ours.module, theirs.module) == theirs.module, "a shared module"
        if isinstance(expected.result, CompiledKernel):
            twin = ref(actual.result), ref(expected.result)
            assert self.kernels[0].setdefault(expected.result, twin[0]) == twin[0], "another CompiledKernel"
            assert self.kernels[1].setdefault(actual.result, twin[1]) == twin[1], "a shared CompiledKernel"
        return actual

    @staticmethod
    def compare(expected, actual, known=()):
        assert actual.error == expected.error, (actual.error, expected.error)
        assert actual.observed == expected.observed
        if triton.__version__.startswith("3.6.") and expected.error and "pack with e format" in expected.error[1]:
            # Triton 3.6 launches all the same, with a half that nobody wrote.
            assert len(actual.launches) == len(expected.launches)
            return
        assert actual.launches == expected.launches
        assert actual.launches.loads == expected.launches.loads
        assert type(actual.result) is type(expected.result)
        if hasattr(actual.result, "asm") and expected.result not in known:
            binary = "cubin" if "cubin" in expected.result.asm else "hsaco"
            assert actual.result.asm[binary] == expected.result.asm[binary]
            metadata = actual.result.metadata._asdict(), expected.result.metadata._asdict()
            assert metadata[0] == metadata[1], {name: (metadata[0][name], metadata[1][name]) for name in metadata[0]
                                                if metadata[0][name] != metadata[1][name]}


class Outcome:

    def __init__(self, result, error, launches, observed):
        self.result, self.error, self.launches, self.observed = result, error, launches, observed


def outcome(call, before=None, record=null.record):
    result = error = None
    observed.clear()
    if before is not None:
        before()
    with record() as launches:
        try:
            result = call()
        except Exception as raised:
            error = (type(raised), re.sub(r"0x[0-9a-f]+", "0x", str(raised)))
    return Outcome(result, error, launches, list(observed))


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


def address_of(pointer):
    return pointer if torch is None else pointer.data_ptr()
