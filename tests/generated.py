"""Generated kernels and generated sequences of almost equal calls, in lock step under triton.jit and lowlat.jit.

`Kernels` is hypothesis' stateful machine: it makes a kernel (parameters, annotations, defaults, do_not_specialize),
then mixes bursts of calls, each a small change to an earlier one, with changes of everything a launch depends on:
hooks, knobs, globals, caches, devices, streams, contexts, the driver, threads, injected failures.  `totals` counts.
"""

import collections
import enum
import importlib.util
import itertools
import math
import random
import tempfile
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import hypothesis.strategies as st
import triton
import triton.language as tl
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from triton import knobs
from triton.runtime import driver
from triton.runtime.jit import JITFunction as TritonJITFunction
from triton.tools.tensor_descriptor import TensorDescriptor

import lowlat
from lowlat import null
from oracle import Pair, aligned, changed, observe, torch, unaligned

totals = collections.Counter()
exits = collections.Counter()
trail = collections.deque(maxlen=8)  # the last calls, for a debugger


# ---- values ---------------------------------------------------------------------------------------------------------


class Whole(int):
    pass


class Colour(enum.IntEnum):
    RED = 1
    BLUE = 16


class Text(str):
    pass


class Shade(enum.Enum):
    DARK = 1
    LIGHT = 2


class Plain:
    """Hashed and compared by identity."""

    def __repr__(self):
        return "plain"


Point = collections.namedtuple("Point", "x y")


class Address:
    """An object with data_ptr() that is no tensor."""

    dtype = "float32"

    def data_ptr(self):
        return 4096


@triton.jit
def helper(x):
    return x


@triton.jit
def other_helper(x):
    return x + 1


def fresh(value):
    """An equal object that is a new one where the type has such."""
    if type(value) is int:
        return int(str(value)) if abs(value) > 256 else value
    if type(value) is float:
        return float.fromhex(value.hex()) if math.isfinite(value) else float(str(value))
    if type(value) is str:
        return "".join(list(value))
    if type(value) is tuple:
        return tuple([fresh(item) for item in value])
    if type(value) is tl.constexpr:
        return tl.constexpr(fresh(value.value))
    if torch is not None and type(value) is torch.Tensor and value.layout is torch.strided and value.dim():
        return value[:]
    return value


INTS = [5, 1, 16, 17, 0, 2, -1, -16, 15, 2**31 - 1, 2**31, -2**31, -2**31 - 1, 2**32, 2**62, 2**63 - 1, 2**63,
        2**64 - 16, 2**64 - 1, 2**30, -2**63]
NUMBERS = [*INTS, True, False, 0.5, 1.0, 0.0, -0.0, math.nan, math.inf, 1e300, 3e38, None]
ODD = [2**64, -2**63 - 1, Whole(1), Whole(16), Colour.RED, Colour.BLUE, tl.constexpr(1), tl.constexpr(16), (1, 2),
       (1, ), (), ((1, 16), 2), "text", b"bytes", [1], {}, 1j, object, Address(), helper, tl.float32, range(3)]
CONSTEXPRS = [3, 1, True, 1.0, 0, False, 0.0, -0.0, math.nan, None, "relu", "D", "", 4, 5, -1, 2**31, 2**40, 2**63,
              2**64 - 1, 0.5, -1.5, 1e300, math.inf, tl.float32, tl.int8, 10**6 + 7, "a longer text, not interned"]
ODD_CONSTEXPRS = [2**64, -2**70, (1, 2), ((1, ), "x"), [1], {}, {1}, tl.constexpr(3), tl.constexpr(True), Colour.RED,
                  Whole(3), b"bytes", 1j, helper, tl, Address, (1, [2])]
# What has contents: each is close to another one, so that a key which misses a part of it is found out.
CONTENTS = [(1, 2), (1, 3), (2, 3), (16, 3), (True, 2), (1.0, 2), (None, 2), ((1, 2), 3), (1, (2, 3)), (2, (3, (16, ))),
            (), ((), ), ((), ()), Point(1, 2), Point(2, 3), Point(2, (3, 4)), (2**31, 3), (2**63, -1), (Whole(1), 2),
            (Colour.RED, Colour.BLUE), Whole(1), Whole(2), Whole(16), Colour.RED, Colour.BLUE, tl.constexpr(1),
            tl.constexpr(True), tl.constexpr(2), tl.constexpr("text"), tl.constexpr((1, 2)), (tl.constexpr(1), 2),
            (tl.constexpr(2), 2), helper, other_helper, (helper, 2), (other_helper, 2), (-0.0, 0.0), (math.nan, 2)]
CONSTANTS = [(1, 2), (1, True), (True, 1), (1.0, 2), ((1, 2), ), ((1, ), 2), (), ("a", "b"), ("ab", ), Point(1, 2),
             Point(1, 3), (Point(1, 2), 3), tl.constexpr(3), tl.constexpr(True), tl.constexpr((1, 2)),
             (tl.constexpr(1), 2), Colour.RED, Colour.BLUE, Shade.DARK, Shade.LIGHT, (Shade.DARK, 1), Whole(3),
             Text("a"), b"bytes", 1j, 2**64, -2**70, range(3), helper, other_helper, (helper, 1), len, Plain, Plain(),
             Plain(), tl,
             (0.0, ), (-0.0, ), (None, ), (tl.float32, ), (tl.int8, )]
TENSORS = []
if torch is not None:
    import numpy as np

    ODD += [np.float64(0.5), np.float32(0.5), np.int64(3), np.array([1]), torch.float32, torch.Size((1, 2))]
    CONSTEXPRS += [torch.float16, torch.float32]
    ODD += [aligned(dtype=torch.complex64), torch.zeros(4).to_sparse()]
    ODD_CONSTEXPRS += [np.int64(3), np.float64(0.5), torch.Size((1, 2))]
    TENSORS = [
        aligned(), aligned(), unaligned(), aligned(dtype=torch.int64), unaligned(dtype=torch.float16),
        aligned(dtype=torch.bfloat16), aligned(dtype=torch.bool), aligned(dtype=torch.uint8)[3:], torch.empty(0),
        aligned()[10:10], torch.nn.Parameter(aligned()), aligned().requires_grad_(), aligned(dtype=torch.float8_e5m2),
        aligned(dtype=torch.uint32), torch.zeros(8, 8).t(), torch.zeros(8, 8)[2:, 1:],
        torch.zeros((), dtype=torch.float32), torch.empty(4, device="meta"), None,
    ]
    class Tensor(torch.Tensor):
        pass

    CONTENTS += [
        (aligned(), 2), (unaligned(), 2), (aligned(dtype=torch.int8), 2), (2, (unaligned(), )), Point(aligned(), 2),
        torch.Size((1, 2)), torch.Size((2, 3)), np.float64(0.5), (np.float64(2), 2),
        triton.reinterpret(aligned(), tl.int8), triton.reinterpret(unaligned(), tl.int8),
        triton.reinterpret(aligned(), tl.float8e5), (triton.reinterpret(aligned(), tl.int16), 2),
        aligned().as_subclass(Tensor), unaligned().as_subclass(Tensor), aligned(dtype=torch.int8).as_subclass(Tensor),
        (unaligned().as_subclass(Tensor), 2), (torch.nn.Parameter(unaligned()), 2),
    ]
    square = torch.zeros(64, 64)
    DESCRIPTORS = [TensorDescriptor(base, shape, strides, block, padding)
                   for base, shape, strides, block, padding in (
                       (square, [64, 64], [64, 1], [16, 16], "zero"), (square, [64, 64], [64, 1], [16, 32], "zero"),
                       (square, [32, 64], [64, 1], [16, 16], "zero"), (square, [64, 64], [128, 1], [16, 16], "zero"),
                       (square, [64, 64], [64, 1], (16, 16), "nan"), (square, [64], [1], [16], "zero"),
                       (torch.zeros(64, 64), [64, 64], [64, 1], [16, 16], "zero"),
                       (square.half(), [64, 64], [64, 1], [16, 16], "zero"),
                       (square, [1, 1], [64, 1], [16, 16], "zero"))]
    CONTENTS += [*DESCRIPTORS, *DESCRIPTORS, (DESCRIPTORS[0], 2), (DESCRIPTORS[1], 2)]
    CONSTANTS += [np.int64(3), np.int32(3), np.float64(0.5), torch.Size((1, 2)), torch.Size((2, 1)),
                  (torch.float16, )]
ANNOTATED = {
    "int": INTS, "tl.int8": [1, 0, 127, 128, 255, 256, -1, -128, 16], "'u8'": [1, 0, 255, 256, -1, 16],
    "tl.int16": [1, 5, 32767, 32768, -32768, -32769, 16], "'uint16'": [1, 5, 65535, 65536, -1], "tl.int64": INTS,
    "tl.uint32": INTS, "tl.uint64": INTS, "float": NUMBERS, "tl.float32": NUMBERS, "tl.float64": NUMBERS,
    "tl.float16": [0.5, 1, 65504.0, 65520.0, 1e-8, -0.0, math.nan, True], "tl.bfloat16": [0.5, 1, 3e38, -0.0, math.nan],
    "tl.const": [*TENSORS, *NUMBERS], "'*fp32'": [*TENSORS, None, 0, 16, 4096, 2**40 + 8],
    "'*i64'": [*TENSORS, None, 64],
    "tl.pointer_type(tl.float16)": [*TENSORS, None], "'const *fp32'": [*TENSORS, None, 32], "tl.tensor": [*TENSORS, 5],
    "'str'": NUMBERS, "'tl.constexpr'": CONSTEXPRS, "'int'": INTS,
}
OPTIONS = [
    {}, {"num_warps": 8}, {"num_warps": 4}, {"num_warps": 8, "num_stages": 2}, {"num_stages": 2, "num_warps": 8},
    {"debug": True}, {"debug": False}, {"num_stages": 1}, {"num_warps": 2, "num_ctas": 2}, {"num_ctas": 16},
    {"launch_pdl": True}, {"launch_cooperative_grid": True}, {"launch_cooperative_grid": True, "launch_pdl": True},
    {"maxnreg": 64}, {"maxnreg": None}, {"enable_fp_fusion": False}, {"enable_fp_fusion": 0}, {"num_warps": True},
    {"num_warps": 1}, {"unknown": 1}, {"device": 0}, {"stream": 0}, {"grid": (1, )}, {"warmup": False}, {"self": 1},
    {"instrumentation_mode": ""}, {"debug": None}, {"ir_override": None}, {"supported_fp8_dtypes": ()},
    {"num_warps": [4]}, {"supported_fp8_dtypes": ("fp8e5", )}, {"supported_fp8_dtypes": ("fp8e5", "fp8e4nv")},
    {"extern_libs": {}}, {"extern_libs": {"a": "b"}},
]
SPECIAL_NAMES = ["num_warps", "num_stages", "launch_pdl", "debug", "backend", "grid", "warmup", "options", "kwargs",
                 "device", "specialize_impl", "instrumentation_mode", "kernel", "self"]


class Rows:
    """A grid that is neither tuple nor list."""

    def __init__(self, *blocks):
        self.blocks = blocks

    def __len__(self):
        return len(self.blocks)

    def __getitem__(self, i):
        return self.blocks[i]


class CallableRows(Rows):

    def __call__(self, bound):
        return self.blocks


def shown(value):
    """What of a value can be compared between the two sides."""
    if torch is not None and isinstance(value, torch.Tensor):
        return "tensor", value.dtype, tuple(value.shape), id(value)
    return type(value), repr(value)


def seeing(bound):
    observe("grid", [(name, shown(value)) for name, value in bound.items()])
    return len(bound) + 1, 2


def refusing(bound):
    raise LookupError("no grid today")


def changing(bound):
    """Writes another parameter's value over the first one that has the same type."""
    values = list(bound.items())
    for (first, one), (_, other) in itertools.combinations(values, 2):
        if type(one) is type(other) and one is not other:
            bound[first] = other
            break
    return [2, 1, 3]


def rewriting(bound):
    for name in list(bound):
        bound[name] = bound[name]
    return (4, )


GRIDS = [
    (1, ), (2, 3), (2, 3, 4), seeing, [5], (0, ), (1, 0), lambda bound: (len(bound), ), (-1, -1, 1), (-1, ),
    (65536, 65536), (2**31 - 1, 2), (2**31, ), (1, 2, 3, 4), (), 7, None, (1.0, ), (True, 2), "ab", (Whole(3), ),
    [1, 2, 3], changing, rewriting, refusing, Rows(2, 3), CallableRows(3, 2), {0: 4, 1: 2}, (tl.constexpr(2), ),
    lambda bound: None, lambda bound: [3], lambda bound: (2**31, ), lambda bound: (0, 1), lambda bound: Rows(1, 2),
    (2**64, ), (1, "x"), range(1, 4),
]
COMPILING_DOORS = ["kernel.warmup(...)", "kernel.run(..., warmup=True)", "kernel(...)"]
DOORS = ["kernel[grid](...)", "kernel[grid](*args, **kwargs)", "kernel.run(...)", "kernel.run(*args, **kwargs)",
         "kept launcher", "kernel[grid](...)", "kernel.run(...)", *COMPILING_DOORS]


# ---- kernels --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    name: str
    annotation: str | None
    values: tuple
    literal: str | None  # the default's source text

    def _repr_pretty_(self, printer, cycle):
        printer.text(f"({self}; values {[shown(value) for value in self.values]})")

    def __str__(self):
        return (self.name + (f": {self.annotation}" if self.annotation else "")
                + (f" = {self.literal}" if self.literal else ""))


@dataclass(frozen=True)
class Spec:
    parameters: tuple[Parameter, ...]
    options: tuple[tuple[str, tuple], ...]
    reads_global: bool
    stores: bool  # to its first parameter; what clusters (num_ctas) need to compile

    @property
    def source(self):
        body = "    size = SIZE\n" if self.reads_global else "    pass\n"
        if self.stores:
            body += f"    tl.store({self.parameters[0].name}, 1.0)\n"
        return ("import triton.language as tl\n\nSIZE = tl.constexpr(8)\n\n\n"
                f"def generated({', '.join(map(str, self.parameters))}):\n{body}")


def literal_of(value):
    """Source text that gives the value back, or None."""
    if value is None or type(value) in (int, bool, str) or (type(value) is float and math.isfinite(value)):
        return repr(value)
    return None


@st.composite
def specs(draw, most=12):
    """`most` is how many parameters a kernel usually has at most; one in ten has up to 70."""
    count = draw(st.integers(0, most))
    if draw(st.integers(0, 9)) == 9:
        count = draw(st.sampled_from([0, 1, 16, 31, 32, 33, 58, 63, 64, 65, 70]))
    special = draw(st.integers(0, 12 * len(SPECIAL_NAMES)))
    stores = count > 0 and bool(TENSORS) and draw(st.booleans())
    defaults_from = draw(st.integers(0, 2 * count))
    parameters = []
    for i in range(count):
        kind = draw(st.integers(0, 18))
        annotation = None
        if kind < 6:
            menu = TENSORS or NUMBERS
        elif kind < 9:
            menu = NUMBERS
        elif kind < 13:
            annotation, menu = "tl.constexpr", CONSTEXPRS
        elif kind < 15:
            annotation = draw(st.sampled_from(list(ANNOTATED)))
            menu = ANNOTATED[annotation]
        elif kind < 16:
            menu = [*TENSORS, *NUMBERS]
        elif kind < 18:
            menu = CONTENTS
        else:
            annotation, menu = "tl.constexpr", CONSTANTS
        values = draw(st.lists(st.integers(0, len(menu) - 1), min_size=1, max_size=3, unique=True))
        values = [menu[j if annotation in (None, "tl.constexpr") or k else 0] for k, j in enumerate(values)]
        if stores and i == 0:
            annotation, values = None, TENSORS[:3]
        if draw(st.integers(0, 11)) == 11 and not (stores and i == 0):
            values.append(draw(st.sampled_from(ODD_CONSTEXPRS if annotation == "tl.constexpr" else ODD)))
        literal = None
        if i >= defaults_from or (parameters and parameters[-1].literal):
            literal = literal_of(values[0]) or "None"
        name = SPECIAL_NAMES[special] if special < len(SPECIAL_NAMES) and i == count // 2 else f"p{i}"
        parameters.append(Parameter(name, annotation, tuple(values), literal))
    options = []
    for name in ("do_not_specialize", "do_not_specialize_on_alignment"):
        if draw(st.integers(0, 3)) == 3:
            by_index = draw(st.booleans())
            # Triton compiles no kernel whose constexprs are named here: one such kernel in ten is enough.
            any_kind = draw(st.integers(0, 9)) == 9
            chosen = [i for i in range(count)
                      if draw(st.booleans()) and (any_kind or "constexpr" not in str(parameters[i].annotation))]
            options.append((name, tuple(i if by_index else parameters[i].name for i in chosen)))
    return Spec(tuple(parameters), tuple(options), draw(st.integers(0, 3)) == 3, stores)


_folder = tempfile.TemporaryDirectory(prefix="generated-kernels-")
_numbers = itertools.count()


def module_of(spec):
    """The kernel in a module of its own: Triton reads its source, and the global belongs to nobody else."""
    name = f"generated_{next(_numbers)}"
    path = Path(_folder.name) / f"{name}.py"
    path.write_text(spec.source)
    module_spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    return module


# ---- calls ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """Indices into what the kernel's parameters, OPTIONS, GRIDS and DOORS offer."""

    values: tuple[int, ...]
    positional: int
    order: int = 0
    omitted: bool = False
    options: int = 0
    grid: int = 0
    door: int = 0


_sites = {}


def site(shape):
    """A function whose body is the call, written out: what a user's own line compiles to."""
    if shape not in _sites:
        positional, names, through_run = shape
        arguments = [f"a[{i}]" for i in range(positional)]
        arguments += [f"{name}=a[{positional + i}]" for i, name in enumerate(names)]
        if through_run:
            text = f"lambda kernel, grid, a: kernel.run({', '.join([*arguments, 'grid=grid', 'warmup=False'])})"
        else:
            text = f"lambda kernel, grid, a: kernel[grid]({', '.join(arguments)})"
        if len(_sites) > 5000:
            _sites.clear()
        _sites[shape] = eval(text)  # noqa: S307
    return _sites[shape]


def prepared(spec, call, launchers):
    """`call` as a function of a kernel."""
    parameters = spec.parameters
    values = [fresh(parameter.values[call.values[i]]) for i, parameter in enumerate(parameters)]
    positional = min(call.positional, len(parameters))
    named = {parameters[i].name: values[i] for i in range(positional, len(parameters))
             if not (call.omitted and parameters[i].literal is not None)}
    if spec.stores or "num_ctas" not in OPTIONS[call.options]:
        named.update({name: fresh(value) for name, value in OPTIONS[call.options].items()})
    names = list(named)
    if call.order == 1:
        names.reverse()
    elif call.order:
        names = names[call.order % (len(names) + 1):] + names[:call.order % (len(names) + 1)]
    named = {name: named[name] for name in names}
    args, grid, door = values[:positional], GRIDS[call.grid], DOORS[call.door]
    flat = [*args, *named.values()]
    if door == "kernel.run(...)" and {"grid", "warmup"} & set(names):
        door = "kernel.run(*args, **kwargs)"  # a doubled keyword cannot be written out
    if door == "kernel[grid](...)":
        return lambda kernel: site((positional, tuple(names), False))(kernel, grid, flat)
    if door == "kernel[grid](*args, **kwargs)":
        return lambda kernel: kernel[grid](*args, **named)
    if door == "kernel.run(...)":
        return lambda kernel: site((positional, tuple(names), True))(kernel, grid, flat)
    if door == "kernel.run(*args, **kwargs)":
        return lambda kernel: kernel.run(*args, **{"grid": grid, "warmup": False, **named})
    if door == "kept launcher":
        return lambda kernel: launchers.setdefault((id(kernel), call.grid), kernel[grid])(*args, **named)
    if door == "kernel.warmup(...)" and (torch is None or not any(type(arg) is torch.dtype for arg in args)):
        # (it makes a MockTensor, of another address each time, of a positional dtype)
        return lambda kernel: kernel.warmup(*args, **{"grid": grid, **named})
    if door == "kernel(...)":
        return lambda kernel: kernel(*args, **named)
    return lambda kernel: kernel.run(*args, **{"grid": grid, "warmup": True, **named})


# ---- the machine ----------------------------------------------------------------------------------------------------

STREAMS = [0, 7, 0x7F00DEADBEE0, 2**63]
GLOBALS = [tl.constexpr(8), tl.constexpr(8.0), 8, tl.constexpr(9), 9, "gone", None, math.nan]
KNOBS = [("runtime", "debug", True), ("runtime", "debug", False), ("runtime", "debug", 1),
         ("compilation", "instrumentation_mode", ""), ("compilation", "instrumentation_mode", "x"),
         ("compilation", "fpsan_homomorphic_casts", True)]
HOOKS = {name: getattr(knobs.runtime, name) for name in ("launch_enter_hook", "launch_exit_hook")}
CHANGES = ["set_device", "set_stream", "set_knob", "reset_knobs", "set_debug", "set_global", "restore_global",
           "drop_compiled", "swap_compiled", "set_route", "forget"]
INSTALLED = ["launch_hook", "cache_hook", "stages_hook", "pre_run_hook", "run_of_the_kernel", "run_of_the_class",
             "other_driver", "function_mode", "host_memory"]
FAILURES = ["cuLaunchKernelEx", "cuLaunchKernelEx", "cuLaunchKernelEx", "cuModuleLoadData", "cuModuleGetFunction"]
RESULTS = [1, 2, 201, 400, 700, 701, 719, 999]


class Kernels(RuleBasedStateMachine):
    """One kernel and its calls.  Once `compilations` plans were learnt, no call asks for another binary."""

    compilations = 6
    most = 12
    burst = 60

    @initialize(data=st.data())
    def kernel(self, data):
        self.spec = data.draw(specs(self.most), label="kernel")
        self.module = module_of(self.spec)
        self.pair = Pair(self.module.generated, **dict(self.spec.options))
        self.history = [Call((0, ) * len(self.spec.parameters), len(self.spec.parameters))]
        self.known = set(self.history)
        self.in_vain = set()
        self.compiled = 0
        self.launchers = {}
        self.cleanups = []
        self.device = 0
        totals["kernels"] += 1

    # ---- calls

    def make(self, call, before=None):
        before_exits = self.pair.lowlat.exits
        result = self.pair.lockstep(prepared(self.spec, call, self.launchers), before)
        totals["calls"] += 1
        totals["launches"] += len(result.launches)
        totals["errors"] += result.error is not None
        trail.append((call, OPTIONS[call.options], GRIDS[call.grid], DOORS[call.door], result.error))
        left = changed(before_exits, self.pair.lowlat.exits)
        totals["native"] += not left
        self.compiled += bool(result.error is None and {"first call", "warmup", "forgotten"} & set(left))
        return result

    def varied(self, call, what, which, value):
        """`call` with one thing changed, or as it is."""
        count = len(self.spec.parameters)
        what %= 24
        if what < 7 and count:
            values = list(call.values)
            values[which % count] = value % len(self.spec.parameters[which % count].values)
            return replace(call, values=tuple(values))
        if what < 9:
            return replace(call, positional=which % (count + 1))
        if what == 9:
            return replace(call, order=which % 8)
        if what == 10:
            return replace(call, omitted=not call.omitted)
        if what == 11:
            return replace(call, options=which % len(OPTIONS))
        if what < 14:
            return replace(call, grid=which % len(GRIDS))
        if what < 16:
            return replace(call, door=which % len(DOORS))
        return call

    def steps(self, data):
        """Four bytes each: a call made before, and what to change about it; all zero is the first call again."""
        for base, what, which, value in zip(*[iter(data)] * 4):
            if self.compiled < self.compilations:
                call = self.history[base % len(self.history)]
            else:
                # Other values may ask for another binary, and so may an old call in a new state: a few calls, then,
                # in every form.
                call = self.history[-1 - base % min(len(self.history), 5)]
                what = max(what, 7) if what < 16 else what
                what = 7 if what == 11 else what
            yield self.varied(call, what, which, value)

    def calls(self, data):
        for call in self.steps(data):
            if (call.values, call.options) in self.in_vain:
                continue  # the compiler refuses these, anew at every call: slow
            result = self.make(call)
            if result.error is not None and result.error[0].__module__.startswith("triton"):
                self.in_vain.add((call.values, call.options))
            elif result.launches and call not in self.known and len(self.history) < 256:
                self.known.add(call)
                self.history.append(call)

    @rule(data=st.binary(min_size=4, max_size=60))
    def few_calls(self, data):
        self.calls(data)

    @rule(seed=st.integers(0, 2**32 - 1), share=st.integers(0, 100))
    def many_calls(self, seed, share):
        """Up to `burst` of them, chosen by one number: hypothesis keeps count of what it draws."""
        self.calls(random.Random(seed).randbytes(4 * (self.burst * share // 100)))

    @rule(which=st.integers(0, 255), workers=st.integers(2, 6))
    def calls_from_threads(self, which, workers):
        """Calls that have plans, from several threads at once: each launch comes out as alone."""
        if self.cleanups:
            return  # hooks and modes belong to a thread, or report to one
        made = []
        expected = []
        for i in range(min(4, len(self.history))):
            call = self.history[(which + i) % len(self.history)]
            made.append(prepared(self.spec, call, self.launchers))
            expected += self.make(call).launches
        device, streams = self.device, [current_stream(device) for device in (0, 1)]

        def work(offset):
            null.set_device(device)
            for number in (0, 1):
                null.set_stream(streams[number], number)
            for i in range(len(made)):
                try:
                    made[(offset + i) % len(made)](self.pair.lowlat)
                except Exception:  # the launches are what is compared
                    pass

        with null.record() as launches:
            threads = [threading.Thread(target=work, args=(i, )) for i in range(workers)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        totals["calls"] += workers * len(made)
        totals["calls from threads"] += workers * len(made)
        assert texts_of(launches) == texts_of(expected * workers)

    @rule(which=st.integers(0, 255), name=st.sampled_from(FAILURES), result=st.sampled_from(RESULTS))
    def failing_call(self, which, name, result):
        """The driver refuses once, on each side; the call after it is as if nothing had been."""
        call = self.history[which % len(self.history)]
        self.make(call, before=lambda: null.fail(name, result))
        null.fail(name, 0, 0)
        self.make(call)

    @rule(which=st.integers(0, 255))
    def call_without_context(self, which):
        self.make(self.history[which % len(self.history)], before=null.drop_context)
        null.set_device(self.device)

    @rule(how=st.sampled_from(CHANGES), which=st.integers(0, 255), data=st.binary(max_size=60))
    def change(self, how, which, data):
        """Something a launch depends on, for good; and calls."""
        getattr(self, how)(which)
        self.calls(data)

    @rule(what=st.sampled_from(INSTALLED), which=st.integers(0, 255), data=st.binary(max_size=60),
          keep=st.integers(0, 3))
    def install(self, what, which, data, keep):
        """Something that looks on or interferes, until it is taken away again; and calls."""
        getattr(self, what)(which)
        self.calls(data)
        if keep < 3:
            self.clean_up()

    @rule()
    def clean_up(self):
        while self.cleanups:
            self.cleanups.pop()()

    def teardown(self):
        if not hasattr(self, "pair"):
            return
        self.clean_up()
        self.reset_knobs(0)
        null.fail("", 0, 0)
        null.set_device(0)
        for device in (0, 1):
            null.set_stream(0, device)
        exits.update(self.pair.lowlat.exits)
        # What torch.compile's export and users read: the same entries under the same keys, in the same order.
        caches = [{device: list(entry[0]) for device, entry in kernel.device_caches.items()}
                  for kernel in (self.pair.triton, self.pair.lowlat)]
        for device in {**caches[0], **caches[1]}:
            keys = [caches[i].get(device, []) for i in (0, 1)]
            assert keys[0] == keys[1], [key for key in keys[0] + keys[1] if key not in keys[0] or key not in keys[1]]

    # ---- changes

    def set_device(self, which):
        self.device = which % 2
        null.set_device(self.device)

    def set_stream(self, which):
        null.set_stream(STREAMS[which // 2 % len(STREAMS)], which % 2)

    def set_knob(self, which):
        holder, name, value = KNOBS[which % len(KNOBS)]
        if self.compiled < self.compilations and hasattr(getattr(knobs, holder), name):
            setattr(getattr(knobs, holder), name, value)

    def reset_knobs(self, which):
        for holder, name, _ in KNOBS:
            vars(getattr(knobs, holder)).pop(name, None)

    def set_debug(self, which):
        if self.compiled < self.compilations:
            self.pair.triton.debug = self.pair.lowlat.debug = (None, True, False)[which % 3]

    def set_global(self, which):
        self.module.SIZE = GLOBALS[which % len(GLOBALS)]
        if self.module.SIZE == "gone":
            del self.module.SIZE

    def restore_global(self, which):
        self.module.SIZE = tl.constexpr(8)

    def drop_compiled(self, which):
        how = which % 6
        for kernel in (self.pair.triton, self.pair.lowlat):
            caches = kernel.device_caches
            if how == 0:
                caches.clear()
            elif how == 1:
                kernel.device_caches = type(caches)(caches.default_factory, caches)
            elif how == 2:
                caches.pop(self.device, None)
            elif how == 3:
                caches.pop(1 - self.device, None)
            elif self.device in caches and how == 4:
                caches[self.device][0].clear()
            elif self.device in caches and caches[self.device][0]:
                caches[self.device][0].popitem()

    def swap_compiled(self, which):
        """Triton's cache gives what it holds: two kernels of one signature change places under their keys."""
        swaps = []
        for kernel in (self.pair.triton, self.pair.lowlat):
            cache = kernel.device_caches[self.device][0] if self.device in kernel.device_caches else {}
            swaps.append([(a, b) for a, b in itertools.combinations(cache, 2)
                          if cache[a].src.signature == cache[b].src.signature])
        assert swaps[0] == swaps[1]
        if swaps[0]:
            a, b = swaps[0][which % len(swaps[0])]
            for kernel in (self.pair.triton, self.pair.lowlat):
                cache = kernel.device_caches[self.device][0]
                cache[a], cache[b] = cache[b], cache[a]

    def set_route(self, which):
        self.pair.lowlat.route = (None, "driver", "wrapper", "graph", "auto")[which % 5]

    def forget(self, which):
        self.pair.lowlat.forget()

    # ---- what is installed

    def launch_hook(self, which):
        name = ("launch_enter_hook", "launch_exit_hook")[which % 2]
        kind = which // 2 % 4

        def hook(metadata):
            observe(name, metadata and (metadata.get()["name"], metadata.get()["stream"]))
            if kind == 3:
                raise PermissionError("not today")

        if kind == 0:
            setattr(knobs.runtime, name, None)
        elif kind == 1:
            setattr(knobs.runtime, name, hook)
        elif hasattr(getattr(knobs.runtime, name), "add"):
            chain = getattr(knobs.runtime, name)
            chain.add(hook)
            self.cleanups.append(lambda: chain.remove(hook))
            return
        self.cleanups.append(lambda: vars(knobs.runtime).__setitem__(name, HOOKS[name]))

    def cache_hook(self, which):
        knobs.runtime.jit_cache_hook = lambda **details: observe("cache hook", details["repr"]) or which % 2 == 1
        self.cleanups.append(lambda: vars(knobs.runtime).pop("jit_cache_hook", None))

    def stages_hook(self, which):
        if self.compiled < self.compilations:
            knobs.runtime.add_stages_inspection_hook = lambda *args, **kwargs: ("key", "hash")
            self.cleanups.append(lambda: vars(knobs.runtime).pop("add_stages_inspection_hook", None))

    def pre_run_hook(self, which):

        def hook(*args, **kwargs):
            observe("pre-run", [shown(arg) for arg in args], [(name, shown(value)) for name, value in kwargs.items()])

        for kernel in (self.pair.triton, self.pair.lowlat):
            kernel.add_pre_run_hook(hook)
            self.cleanups.append(lambda kernel=kernel: kernel.pre_run_hooks.remove(hook))

    def run_of_the_kernel(self, which):
        """The class's own is looked up late: a bound `run` kept from before a patch of the class is not told apart."""
        for kernel in (self.pair.triton, self.pair.lowlat):
            if "run" not in vars(kernel):

                def run(*args, kernel=kernel, **kwargs):
                    observe("run", len(args), list(kwargs))
                    return type(kernel).run(kernel, *args, **kwargs)

                kernel.run = run
                self.cleanups.append(lambda kernel=kernel: delattr(kernel, "run"))

    def run_of_the_class(self, which):
        """As recorders do."""
        original = TritonJITFunction.run

        def run(kernel, *args, **kwargs):
            observe("class run", len(args), list(kwargs))
            return original(kernel, *args, **kwargs)

        TritonJITFunction.run = run
        self.cleanups.append(lambda: setattr(TritonJITFunction, "run", original))

    def other_driver(self, which):
        """Another driver object, with a Python getter for its stream."""
        original = driver.active
        other = type(original)()
        other.get_current_stream = lambda device: STREAMS[which % len(STREAMS)]
        driver.set_active(other)
        self.cleanups.append(lambda: driver.set_active(original))

    def function_mode(self, which):
        if torch is None:
            return
        from torch.overrides import TorchFunctionMode

        class Watching(TorchFunctionMode):

            def __torch_function__(self, function, types, args=(), kwargs=None):
                observe("torch", function.__name__)
                return function(*args, **(kwargs or {}))

        mode = Watching()
        mode.__enter__()
        self.cleanups.append(lambda: mode.__exit__(None, None, None))

    def host_memory(self, which):
        """One of the tensors is host memory, or mapped at another address."""
        tensors = [value for value in TENSORS if value is not None and value.numel() and not value.is_meta]
        if tensors:
            tensor = tensors[which % len(tensors)]
            null.set_memory(tensor.data_ptr(), tensor.nbytes, device_address=2**33 if which & 128 else None)
            self.cleanups.append(null.clear_memory)


def current_stream(device):
    return lowlat._fast.current_stream(device)


def texts_of(launches):
    """Sorted, and less the entry point, which a comparison leaves out, too."""
    return sorted(repr(replace(launch, call="")) for launch in launches)
