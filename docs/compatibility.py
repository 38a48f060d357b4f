"""Writes docs/compatibility.md: each row of its tables is a call that is made here, on the null driver, and the route
in it is the one that the call took; the reasons are the code's own.

    python docs/compatibility.py            write the page
    python docs/compatibility.py --check    exit 1 and show the difference where the page is not what would be written
"""

import collections
import difflib
import enum
import sys
from pathlib import Path

import lowlat
from lowlat import null

null.activate(force=True)

import numpy as np  # noqa: E402
import torch  # noqa: E402
import triton  # noqa: E402
import triton.language as tl  # noqa: E402
from triton import knobs  # noqa: E402
from triton.tools.tensor_descriptor import TensorDescriptor  # noqa: E402

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import hip  # noqa: E402

PAGE = Path(__file__).with_suffix(".md")


def plain(x, n):
    tl.store(x, 1.0)


def constant(x, C: tl.constexpr):
    tl.store(x, 1.0)


def half(x, h: tl.float16):
    tl.store(x, 1.0)


def typed(x, i: tl.int64, f: tl.float32, p: "*fp32"):  # noqa: F722
    tl.store(x, 1.0)


def described(d):
    d.store([0, 0], tl.zeros((16, 16), tl.float32))


def scratch(x):
    d = tl.make_tensor_descriptor(x, [16, 16], [16, 1], [16, 16])
    d.store([0, 0], tl.zeros((16, 16), tl.float32))


SIZE = tl.constexpr(8)


def reads(x):
    tl.store(x, SIZE)


def reserved(x, backend):
    tl.store(x, 1.0)


def tunable(x, n, C: tl.constexpr, D: tl.constexpr = 1):
    tl.store(x, 1.0)


class Colour(enum.IntEnum):
    RED = 1


class Pointer:
    dtype = torch.float32

    def data_ptr(self):
        return 4096


class Derived(TensorDescriptor):
    pass


class Rows:

    def __len__(self):
        return 1

    def __getitem__(self, i):
        return 1


class Mode(torch.overrides.TorchFunctionMode):

    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@triton.jit
def other():
    pass


Pixel = collections.namedtuple("Pixel", "x y")
x = torch.zeros(256)
x1 = torch.zeros(257)[1:]
grid = (1, )


def calls():
    """(group, what, kernel function, call of a kernel, what to do around it)"""
    group = "Arguments"
    yield group, "tensor: `torch.Tensor`, `nn.Parameter`, views, any alignment, with `requires_grad`", plain, (x1, 5)
    yield group, "int of up to 64 bits, signed or unsigned", plain, (x, 2**63)
    yield group, "float", plain, (x, 0.5)
    yield group, "bool", plain, (x, True)
    yield group, "`None`", plain, (x, None)
    yield group, "annotated: integers, floats but fp16, pointers", typed, (x, 5, 0.5, x)
    yield group, "annotated fp16", half, (x, 0.5)
    yield group, "annotated number given a value of another kind, or out of its range", typed, (x, 0.5, 0.5, x)
    yield group, "int subclass, enum", plain, (x, Colour.RED)
    yield group, "`np.float64` (Triton refuses the other numpy scalars)", plain, (x, np.float64(0.5))
    yield group, "tuple, named tuple, `torch.Size`, nested ones", plain, (x, (1, (2, x)))
    yield group, "`tl.constexpr(...)` passed as an argument", plain, (x, tl.constexpr(2))
    yield group, "kernel, `constexpr_function`", plain, (x, other)
    yield group, "`triton.reinterpret(tensor, dtype)`", plain, (triton.reinterpret(x, tl.int8), 5)
    yield group, "tensor subclass", plain, (torch.Tensor._make_subclass(type("Mine", (torch.Tensor, ), {}), x), 5)
    yield group, "tensor subclass with a `__torch_function__` or `data_ptr` of its own", plain, (
        torch.Tensor._make_subclass(type("Mine", (torch.Tensor, ), {"data_ptr": torch.Tensor.data_ptr}), x), 5)
    yield group, "any other object with `data_ptr()`: how often it is asked is Triton's business", plain, (Pointer(), 5)
    yield group, "tensor that is not on the device (pinned ones included)", plain, (torch.empty(4, device="meta"), 5)
    yield group, "tensor whose address torch refuses (sparse)", plain, (torch.zeros(4).to_sparse(), 5)
    yield group, "host `TensorDescriptor`, with tensor maps (sm_90 on) or without; from Triton 3.8 on also in tuples", (
        described), (TensorDescriptor(x, [16, 16], [16, 1], [16, 16]), )
    yield group, "subclass of `TensorDescriptor`, or one with attributes that are not tensor, ints, str", (
        described), (Derived(x, [16, 16], [16, 1], [16, 16]), )
    group = "Constexprs and options"
    yield group, "constexpr: int of 64 bits, float, bool, str, `None`, `tl` and `torch` dtypes", constant, (x, "relu")
    yield group, "constexpr: wider int, int or str subclass, enum, bytes, numpy number", constant, (x, 2**70)
    yield group, "constexpr: tuple or named tuple of such, nested ones", constant, (x, Pixel(1, (2, "relu")))
    yield group, "constexpr: kernel, function, class, object compared by identity", constant, (x, other)
    yield group, "constexpr: object with a `__hash__` of its own, frozenset", constant, (x, frozenset((1, 2)))
    yield group, "options: `num_warps=8, num_stages=2`, any order", plain, (x, 5), {"num_warps": 8, "num_stages": 2}
    yield group, "`num_ctas`, `launch_cooperative_grid`, `launch_pdl`, `maxnreg`", plain, (x, 5), {"launch_pdl": True}
    yield group, "option: tuple or dict of such", plain, (x, 5), {"supported_fp8_dtypes": ("fp8e5", )}
    yield group, "option of another type", plain, (x, 5), {"extern_libs": object()}
    group = "Forms of the call"
    yield group, "keywords in any order, defaults, `**`", plain, (), {"n": 5, "x": x}
    yield group, "missing, unknown or doubled arguments", plain, (x, 5, 6)
    yield group, "`kernel.run(*args, grid=..., warmup=False)`", plain, (x, 5), {}, lambda k: k.run(
        x, 5, grid=grid, warmup=False)
    yield group, "`kernel.warmup(...)` of a known kernel", plain, (x, 5), {}, lambda k: k[grid](x, 5) and k.warmup(
        x, 5, grid=grid)
    yield group, ("`kernel.warmup(...)` again, of a kernel never launched: with tensors, torch dtypes by position, "
                  "`MockTensor`"), plain, (x, 5), {}, lambda k: k.warmup(torch.float32, 5, grid=None)
    yield group, "grid: tuple or list of one to three ints", plain, (x, 5), {}, lambda k: k[[1, 2]](x, 5)
    yield group, "grid: named tuple, `torch.Size`; bools, other subclasses of int, numpy's integers, `tl.constexpr`", \
        plain, (x, 5), {}, lambda k: k[(True, tl.constexpr(2))](x, 5)
    yield group, "grid: callable, given the live dict of bound arguments", plain, (x, 5), {}, lambda k: k[
        lambda meta: (1, )](x, 5)
    yield group, "grid: anything else Triton takes", plain, (x, 5), {}, lambda k: k[Rows()](x, 5)
    group = "Kernels"
    yield group, "reads module globals", reads, (x, )
    yield group, "needs scratch memory (device-side descriptors)", scratch, (x, )
    yield group, "a parameter whose name Triton's binder uses itself", reserved, (x, 5)


def on_amd():
    """(what, kernel function, call, what to do around it), as `calls`, with Triton's HIP driver active"""
    yield "tensors and numbers as above; the size of a tensor's storage is in the key", plain, (x1, 5)
    yield "`launch_cooperative_grid`", plain, (x, 5), {"launch_cooperative_grid": True}
    yield "grid: callable", plain, (x, 5), {}, lambda k: k[lambda meta: (1, )](x, 5)
    yield "another value of `knobs.amd.use_buffer_ops`, or of its environment variable", plain, (x, 5), {}, buffer_ops
    yield "tuple", plain, (x, (1, 2))
    yield "launch hooks (profilers)", plain, (x, 5), {}, hooked


def buffer_ops(kernel):
    with knobs.amd.scope():
        knobs.amd.use_buffer_ops = False
        kernel[grid](x, 5)


def hooked(kernel):
    with knobs.runtime.scope():
        knobs.runtime.launch_enter_hook = print_nothing
        kernel[grid](x, 5)


class MyConfig(lowlat.Config):
    pass


class MyDict(dict):
    pass


def around():
    """(what, what to put around a kernel, call)"""
    configs = [lowlat.Config({"C": 16}), lowlat.Config({"C": 32}, num_warps=8)]
    hooked = lowlat.Config({"C": 16}, pre_hook=lambda arguments: None)

    def tune(library, configs=configs):
        return library.autotune(configs, key=["n"])

    def compute(library):
        return library.heuristics({"D": lambda arguments: 2})

    def another_cache(kernel):
        tuner = tune(lowlat)(kernel)
        tuner.cache = MyDict()
        return tuner

    def plainly(outer, n=5):
        return outer[grid](x, n)

    tuned, one = tune(lowlat), tune(lowlat, configs[:1])
    yield "`autotune`: a call whose key was tuned for (before that: *not tuned yet*)", tuned, plainly
    yield "`autotune` with a single configuration", one, plainly
    yield "`autotune(heuristics(jit))`", lambda kernel: tuned(compute(lowlat)(kernel)), plainly
    yield "`heuristics(autotune(jit))`", lambda kernel: compute(lowlat)(tuned(kernel)), plainly
    yield "`tuner.run(*args, grid=..., warmup=False)`", tuned, lambda tuner: tuner.run(x, 5, grid=grid, warmup=False)
    yield ("`triton.autotune` or `triton.heuristics` around `lowlat.jit` (the kernel's part)",
           lambda kernel: tune(triton)(compute(triton)(kernel)), plainly)
    yield ("key value: int of 64 bits, float, bool, str, `None`, `tl` and `torch` dtypes", tuned,
           lambda tuner: plainly(tuner, 0.5))
    yield "key value: any other, or a NaN", tuned, lambda tuner: plainly(tuner, float("nan"))
    yield ("an argument of another type than those above, which may have a `dtype`", tuned,
           lambda tuner: tuner[grid](Pointer(), 5))
    yield "a configuration with a `pre_hook`", tune(lowlat, [hooked]), plainly
    yield "a subclass of `Config`", tune(lowlat, [MyConfig({"C": 16})]), plainly
    yield "`cache`, `configs`, `keys` or `values` replaced by another type", another_cache, plainly
    yield "a keyword that the configuration has, too", one, lambda tuner: tuner[grid](x, 5, num_warps=2)


def taken_around(decorate, call):
    kernel = lowlat.jit(tunable)
    outer = decorate(kernel)
    outers = [outer, outer.fn, kernel]
    for _ in range(3):
        before = [layer.exits for layer in outers if hasattr(layer, "exits")]
        try:
            call(outer)
        except Exception:
            pass
    exits = [layer.exits for layer in outers if hasattr(layer, "exits")]
    left = [reason for now, then in zip(exits, before) for reason in now if now[reason] != then.get(reason, 0)]
    return f"Triton: *{left[0]}*" if left else f"**{kernel.plans[-1].route}**"


def taken(function, args=(), kwargs=None, call=None):
    """The route of such a call once its like was made, or the reason it went to Triton for."""
    triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8))
    kernel = lowlat.jit(function)
    for _ in range(3):  # (what the very first launch of a process loads makes lowlat look again)
        before = kernel.exits
        try:
            call(kernel) if call else kernel[grid](*args, **(kwargs or {}))
        except Exception:
            pass  # Triton's own error, from Triton
    left = [reason for reason, count in kernel.exits.items() if count != before.get(reason, 0)]
    if left:
        return f"Triton: *{left[0]}*"
    plan = kernel.plans[-1]
    return f"**{plan.route}**" + (f": {plan.why}" if plan.why and plan.route != "compiled" else "")


def installed():
    """What somebody may have set up around a call: (what, a function that sets it up and returns its undoing)."""

    def hook(kernel):
        knobs.runtime.launch_enter_hook.add(print_nothing)
        return lambda: knobs.runtime.launch_enter_hook.remove(print_nothing)

    def stages(kernel):
        knobs.runtime.add_stages_inspection_hook = lambda *args, **kwargs: ("key", "hash")
        return lambda: setattr(knobs.runtime, "add_stages_inspection_hook", None)

    def before_run(kernel):
        kernel.add_pre_run_hook(print_nothing)
        return kernel.pre_run_hooks.clear

    def mode(kernel):
        entered = Mode()
        entered.__enter__()
        return lambda: entered.__exit__(None, None, None)

    def run(kernel):
        kernel.run = lambda *args, **kwargs: None
        return lambda: delattr(kernel, "run")

    def run_of_the_class(kernel):
        original = triton.JITFunction.run
        triton.JITFunction.run = lambda *args, **kwargs: original(*args, **kwargs)
        return lambda: setattr(triton.JITFunction, "run", original)

    def debug(kernel):
        knobs.runtime.debug = True
        return lambda: setattr(knobs.runtime, "debug", False)

    def device(kernel):
        null.set_device(1)
        return lambda: null.set_device(0)

    yield "another device or stream, a graph that captures the stream", device
    yield "another value of a knob in Triton's key (`runtime.debug`, `instrumentation_mode`)", debug
    yield "launch hooks (profilers)", hook
    yield "a stages-inspection hook", stages
    yield "`kernel.add_pre_run_hook(...)`", before_run
    yield "a `TorchFunctionMode`", mode
    yield "`kernel.run` replaced", run
    yield "`JITFunction.run` or another launch function replaced on its class", run_of_the_class


def print_nothing(*args, **kwargs):
    pass


def taken_with(set_up):
    kernel = lowlat.jit(plain)
    kernel[grid](x, 5)
    undo = set_up(kernel)
    try:
        for _ in range(2):
            before = kernel.exits
            kernel[grid](x, 5)
        left = [reason for reason, count in kernel.exits.items() if count != before.get(reason, 0)]
        return f"Triton: *{left[0]}*" if left else f"**{kernel.plans[-1].route}**"
    finally:
        undo()


def page():
    lines = [
        "# What is on the fast path", "",
        "This page is written by `docs/compatibility.py`, which makes each of these calls on the null driver (Triton",
        f"{triton.__version__}) and writes down what lowlat did once it knew the call; the tests compare it with this",
        "file.", "",
        "| route | what happens |", "| --- | --- |",
        "| **driver** | lowlat calls `cuLaunchKernelEx` itself, with parameters it packed |",
        "| **wrapper** | lowlat finds the kernel, Triton's compiled launch function packs and launches |",
        "| **launcher** | lowlat finds the kernel, Triton's launcher object allocates for its instrumentation |",
        "| **compiled** | not launched: lowlat returns the kernel; the first launch, which loads it, is Triton's |",
        "| Triton: *reason* | the call goes to Triton unchanged; `kernel.exits[reason]` counts it |",
    ]
    group = None
    for heading, what, *call in calls():
        if heading != group:
            group = heading
            lines += ["", f"## {group}", "", "| | route |", "| --- | --- |"]
        lines.append(f"| {what} | {taken(*call)} |")
    lines += ["", "## Tuners and heuristics", "",
              "`lowlat.autotune` and `lowlat.heuristics`; `tuner.exits` counts what is left to Triton's own.", "",
              "| | route |", "| --- | --- |"]
    lines += [f"| {what} | {taken_around(*how)} |" for what, *how in around()]
    lines += ["", "## With this around the call", "", "| | route |", "| --- | --- |"]
    lines += [f"| {what} | {taken_with(set_up)} |" for what, set_up in installed()]
    lines += ["", "## AMD", "", *AMD, "", "| | route |", "| --- | --- |"]
    with_cuda = triton.runtime.driver.active
    triton.runtime.driver.set_active(hip.make_driver())
    lines += [f"| {what} | {taken(*call)} |" for what, *call in on_amd()]
    triton.runtime.driver.set_active(with_cuda)
    lines += ["", "## The reasons", "", "`lowlat.REASONS`, and `python -m lowlat doctor`.", "", "| reason | meaning |",
              "| --- | --- |"]
    lines += [f"| {reason} | {meaning} |" for reason, meaning in lowlat.REASONS.items()]
    lines += ["", "## Deliberate differences", "", *DIFFERENCES, ""]
    return "\n".join(lines)


AMD = """\
With Triton's HIP driver active, lowlat finds the kernel, and Triton's compiled HIP launch function packs and launches.
No AMD GPU has run any of it: for this page, and in the tests, Triton's HIP backend compiles for gfx942, and its driver
class and its C code launch into a stand-in for AMD's runtime library (`tests/hip.py`), which writes down what it is
given. Reading tensors, device and stream of a torch built for ROCm has not been run at all.
""".splitlines()

DIFFERENCES = """\
Each of these takes some doing; if one matters to you, `LOWLAT=0` or `triton.jit` for that kernel is the way.

- Triton asks the driver about the address of every tensor (`cuPointerGetAttribute`) at every launch. lowlat has it
  asked only about what may not be plain memory of the current device. A tensor on the current device whose memory is
  not there (unmapped behind torch's back, or a DLPack capsule that says what is not so) is launched, where Triton
  raises.
- `data_ptr` (on AMD also `ptr_range`) assigned on one tensor *object* is not called; replaced on the class it is.
- A bound `kernel.run` that was kept from before somebody replaced `JITFunction.run` on the class calls the
  replacement.
- `fn`, `arg_names`, `configs`, `keys`, `cache`, `nargs`, `best_config` and `values` of a tuner or heuristics are not in
  its `__dict__`. What Triton sets on a tuner while it tunes, and `nargs`, each thread sees as of its own call.
- A keyword given twice in the user's own line, `kernel.run(..., grid=g, **{"grid": g})`, is refused by Python, which
  says `JITFunction.run()` where it says `triton.runtime.jit.JITFunction.run()` of Triton's.
""".splitlines()


def main():
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
        return 0
    old = PAGE.read_text()
    sys.stdout.writelines(difflib.unified_diff(old.splitlines(True), text.splitlines(True), "the page", "the code"))
    return int(old != text)


if __name__ == "__main__":
    sys.exit(main())
