"""On a GPU: generated kernels that write down what their parameters are, called in generated sequences of almost equal
calls; under triton.jit and lowlat.jit the buffers must be the same bit by bit, and all but the first call of a kind
must have been launched natively."""

import importlib.util
import math
import random
import re
import string
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="needs torch")

import triton
import triton.language as tl

import lowlat
from lowlat import _torch
from oracle import changed

pytestmark = pytest.mark.gpu

DEVICE = "cuda"

# ---- buffers ----------------------------------------------------------------------------------------------------

FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2]
INTS = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64]
DTYPES = [*FLOATS, *INTS, torch.bool]
UNWRITTEN = -77
STREAMS = 3


class Buffers:
    """What one run of a sequence of calls reads and writes; every instance begins with the same contents."""

    def __init__(self, calls, width):
        generator = torch.Generator().manual_seed(1)
        self.inputs = {}
        for dtype in DTYPES:
            values = torch.randint(-100, 100, (512, ), generator=generator)
            self.inputs[dtype] = (values > 0 if dtype is torch.bool else values.to(dtype)).to(DEVICE)
        self.pinned = torch.arange(64, dtype=torch.float32).pin_memory()
        self.out = torch.full((calls, width), UNWRITTEN, dtype=torch.int64, device=DEVICE)
        self.rows = self.out.unbind()
        self.order = torch.zeros(STREAMS, 32, dtype=torch.int32, device=DEVICE)
        self.tickets = self.order.unbind()

    def tensor(self, dtype, offset):
        """Four elements and more, 16-byte aligned where `offset` is a multiple of 16."""
        return self.inputs[dtype][offset:offset + 64]


class Subclass(torch.Tensor):
    pass


class Int(int):
    pass


class Float(float):
    pass


# ---- values: choices that Triton specialises alike --------------------------------------------------------------


@dataclass(frozen=True)
class Choice:
    """Values of which Triton makes one specialisation, and why lowlat leaves a call with them to Triton, if it does.
    `values` are values, or functions of (random, buffers)."""

    name: str
    values: list
    reason: str | None = None

    def value(self, random, buffers):
        value = random.choice(self.values)
        return value.make(random, buffers) if isinstance(value, Made) else value


@dataclass(frozen=True)
class Made:
    """A value made from the buffers."""

    make: Any


def tensor(dtype, aligned=True):
    offsets = (0, 16, 64) if aligned else (1, 17, 65)

    def make(random, buffers):
        value = buffers.tensor(dtype, random.choice(offsets))
        if dtype in FLOATS[:4]:
            kind = random.randrange(4)
            value = (torch.nn.Parameter(value), value.detach().requires_grad_(), torch._neg_view(value), value)[kind]
        return value

    return Choice(f"{dtype} {'aligned' if aligned else 'unaligned'}", [Made(make)])


def made(name, make, reason=None):
    return Choice(name, [Made(make)], reason)


NONE = Choice("None", [None])
ONE = Choice("1", [1])
ODD = Choice("i32", [2, 3, 5, 15, 17, 1000, -1, -15, -17, 2**30 - 1, 2**30 + 1, 2**31 - 1, -2**31 + 1])
SIXTEENS = Choice("i32, times 16", [0, 16, 32, -16, 2**30, 2**31 - 16, -2**31])
LONG = Choice("i64", [2**31 + 1, -2**31 - 1, 2**40 + 1, 2**63 - 1, -2**63 + 1])
LONG_SIXTEENS = Choice("i64, times 16", [2**31, 2**40, -2**40, 2**63 - 16, -2**63])
UNSIGNED = Choice("u64", [2**63 + 1, 2**64 - 1])
UNSIGNED_SIXTEENS = Choice("u64, times 16", [2**63, 2**64 - 16])
BOOL = Choice("bool", [True, False])
FLOAT = Choice("float", [0.0, -0.0, 1.0, 1.5, -0.1, 1e300, 1e-45, 1e-300, math.inf, -math.inf, math.nan])
TOO_LARGE = Choice("too large", [2**64, -2**63 - 1], "argument")
SUBCLASSES = Choice("int subclass", [Int(3), Int(5)]), Choice("float subclass", [Float(0.1)])
TEXT = Choice("text", ["text"], "argument")

PLAIN = [ODD, SIXTEENS, ONE, LONG, LONG_SIXTEENS, UNSIGNED, UNSIGNED_SIXTEENS, BOOL, FLOAT, NONE, TOO_LARGE,
         *SUBCLASSES, TEXT]


def within(low, high):
    """The choices of an annotated int, kept inside its range."""
    ints = [Choice(choice.name, [n for n in choice.values if low <= n <= high])
            for choice in (ODD, SIXTEENS, LONG, LONG_SIXTEENS, UNSIGNED, UNSIGNED_SIXTEENS)]
    return [*(choice for choice in ints if choice.values), ONE, BOOL, Choice("float for an int", [0.5], "annotation")]


HALF = Choice("half", [0.0, -0.0, 1.0, 0.1, 65504.0, 1e-7, math.inf, math.nan, 3, -5])
WIDE = Choice("float", [*FLOAT.values, 3, -5, 2**20])
# Triton 3.6 launches with whatever the failed conversion left in memory, and then raises.
OVERFLOW = Choice("too large for fp16", [70000.0])
AS_FLOAT = [Choice("bool for a float", [True], "annotation"), Choice("long for a float", [2**40], "annotation")]

ANNOTATED = {
    "int": within(-2**31, 2**31 - 1),
    "tl.int64": within(-2**63, 2**63 - 1),
    "tl.int16": within(-2**15, 2**15 - 1),
    "tl.int8": within(0, 127),
    '"uint8"': within(0, 255),
    "tl.uint32": within(0, 2**32 - 1),
    "tl.uint64": within(0, 2**64 - 1),
    "float": [WIDE, *AS_FLOAT],
    "tl.float64": [WIDE, *AS_FLOAT],
    "tl.bfloat16": [WIDE, *AS_FLOAT],
    '"fp16"': [HALF, AS_FLOAT[0], OVERFLOW],
}

NUMBERS = [Choice(repr(n), [n]) for n in (0, 1, True, 1.0, 2, -5, 0.0, -0.0, 0.1, 2**40, 2**63, 1e300, math.nan)]
NUMBERS += [Choice("tl.constexpr", [tl.constexpr(4)]), Choice("large", [2**64])]
TEXTS = [Choice(repr(text), [text]) for text in ("x", "y", "", None, "x" * 40)]
TYPES = [Choice(str(dtype), [dtype]) for dtype in (tl.float16, tl.float32, tl.bfloat16, tl.float64)]

# ---- kernels --------------------------------------------------------------------------------------------------------

HEAD = '''\
import triton
import triton.language as tl

GLOBAL = tl.constexpr(1000)


@triton.jit
def bits(value):
    """Exactly what a number is, as an integer."""
    if value.dtype == tl.float64:
        return value.to(tl.int64, bitcast=True)
    elif value.dtype.is_floating():
        return value.to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64)
    else:
        return value.to(tl.int64)


@triton.jit
def put(out, value):
    """Which type the value has, and its bits."""
    if value is None:
        tl.store(out, -1)
    elif isinstance(value, tl.tensor):
        dtype: tl.constexpr = value.dtype
        tl.store(out, dtype.primitive_bitwidth + 100 * dtype.is_floating() + 200 * dtype.is_int_unsigned())
        tl.store(out + 1, bits(value))
    else:
        tl.store(out, -2)
        tl.store(out + 1, bits(tl.full((), value, tl.float64)))


@triton.jit
def put_elements(out, pointer):
    """The element type and the first four elements; one 16-byte load where the pointer is known to be aligned."""
    if pointer is None:
        tl.store(out, -1)
    elif pointer.to(tl.int64) == 0:
        tl.store(out, -3)
    else:
        values = tl.load(pointer + tl.arange(0, 4))
        dtype: tl.constexpr = values.dtype
        tl.store(out, dtype.primitive_bitwidth + 100 * dtype.is_floating() + 200 * dtype.is_int_unsigned())
        tl.store(out + 1 + tl.arange(0, 4), bits(values))


@triton.jit
def put_type(out, dtype: tl.constexpr):
    put(out, tl.full((), 257.3, dtype))


@triton.jit
def put_text(out, text: tl.constexpr):
    if text is None:
        tl.store(out, 1)
    elif text == "x":
        tl.store(out, 2)
    elif text == "y":
        tl.store(out, 3)
    elif text == "":
        tl.store(out, 4)
    else:
        tl.store(out, 5)


@triton.jit
def put_launch(out, ticket):
    """The grid, the threads, which program came how often, and the place in the order of the stream."""
    tl.atomic_add(out, 1)
    tl.store(out + 1, tl.num_programs(0))
    tl.store(out + 2, tl.num_programs(1))
    tl.store(out + 3, tl.num_programs(2))
    tl.store(out + 4, tl.extra.cuda.num_threads())
    if tl.program_id(0) + tl.program_id(1) + tl.program_id(2) == 0:
        tl.store(out + 5, tl.atomic_add(ticket, 1))


'''
LAUNCH_SLOTS, SLOTS = 8, 6


@dataclass
class Parameter:
    name: str
    choices: list
    """The first is what the parameter usually gets."""
    annotation: str = ""
    put: str = "put"
    default: bool = False
    """Whether the first choice, then of one value, is its default."""

    @property
    def declaration(self):
        text = self.name + (f": {self.annotation}" if self.annotation else "")
        return text + (f" = {self.choices[0].values[0]!r}" if self.default else "")


@dataclass
class Variant:
    """Which choice each parameter gets, and the launch options."""

    choices: list
    options: dict
    reasons: set = field(init=False)

    def __post_init__(self):
        self.reasons = {choice.reason for choice in self.choices if choice.reason}


OPTIONS = [{"num_warps": 1}, {"num_warps": 8}, {"num_warps": 2, "num_stages": 2}, {"num_stages": 2, "num_warps": 2},
           {"maxnreg": 64}, {"launch_cooperative_grid": True}, {"enable_fp_fusion": False}, {"num_warps": None},
           {"debug": True}, {"no_such_option": 1}]


KINDS = ["tensor"] * 6 + ["plain"] * 6 + ["number"] * 2 + ["text", "type", "pointer", "const", *ANNOTATED]


def parameter(draw, number, kind):
    name = draw.choice(string.ascii_lowercase) + str(number)
    if kind == "tensor":
        dtype, other = draw.sample(DTYPES, 2)
        subclass = lambda random, buffers: buffers.tensor(dtype, 16).as_subclass(Subclass)  # noqa: E731
        choices = [tensor(dtype), tensor(dtype, aligned=False), tensor(other), NONE,
                   made("subclass", subclass),
                   made("pinned", lambda random, buffers: buffers.pinned, "not on device")]
        if draw.random() < 0.3:
            choices = [choices[1], choices[0], *choices[2:]]
        return Parameter(name, choices, put="put_elements")
    if kind == "pointer":
        return Parameter(name, [
            tensor(torch.float32), tensor(torch.float32, aligned=False), tensor(torch.int64), NONE,
            made("address", lambda random, buffers: buffers.tensor(torch.float32, 64).data_ptr()),
        ], '"*fp32"', "put_elements")
    if kind == "const":
        return Parameter(name, [tensor(torch.float32), tensor(torch.int32)], "tl.const", "put_elements")
    if kind == "plain":
        first = draw.choice(PLAIN[:10])
        choices = [first, *(choice for choice in PLAIN if choice is not first)]
        if draw.random() < 0.4:
            default = draw.choice(first.values[:4])
            return Parameter(name, [Choice(f"default {default}", [default]), *choices], default=True)
        return Parameter(name, choices)
    if kind in ANNOTATED:
        return Parameter(name, ANNOTATED[kind], kind)
    put, choices = {"number": ("put", NUMBERS), "text": ("put_text", TEXTS), "type": ("put_type", TYPES)}[kind]
    first = draw.choice(choices[:4])
    choices = [first, *(choice for choice in choices if choice is not first)]
    if put != "put_type" and draw.random() < 0.4:
        return Parameter(name, choices, "tl.constexpr", put, default=True)
    return Parameter(name, choices, draw.choice(["tl.constexpr", '"tl.constexpr"']), put)


# What the first parameter of one kernel after the other is.
SWEPT = ["plain", "number", "tensor", "plain", "text", "pointer", "plain", "tensor", "type", "number", "const"]


class Generated:
    """A kernel's source, what its parameters can get, and the variants of calls: the usual one, and others that
    differ from it in one argument or two or in the options.  The first two parameters get everything they can."""

    def __init__(self, seed, count):
        draw = random.Random(seed)
        kinds = [SWEPT[seed % len(SWEPT)], list(ANNOTATED)[seed % len(ANNOTATED)], *draw.choices(KINDS, k=count)]
        self.parameters = [parameter(draw, i, kind) for i, kind in enumerate(kinds[:count])]
        swept = self.parameters[:2]
        self.slots = {p.name: LAUNCH_SLOTS + SLOTS * i for i, p in enumerate(self.parameters)}
        self.width = LAUNCH_SLOTS + SLOTS * count
        body = ["put_launch(out, ticket)", *(["tl.store(out + 6, GLOBAL)"] if draw.random() < 0.5 else [])]
        for p in self.parameters:
            body.append(f"{p.put}(out + {self.slots[p.name]}, {p.name})")
        self.parameters += [Parameter("out", [made("row", None)]), Parameter("ticket", [made("ticket", None)])]
        draw.shuffle(self.parameters)
        self.parameters.sort(key=lambda p: p.default)
        self.source = (f"{HEAD}def kernel({', '.join(p.declaration for p in self.parameters)}):\n"
                       + "".join(f"    {line}\n" for line in body))
        plain = [p for p in self.parameters if p.name not in ("out", "ticket")]
        runtime = [p for p in plain if "constexpr" not in p.annotation]
        some = lambda: [p.name for p in draw.sample(runtime, min(len(runtime), draw.randrange(4)))]  # noqa: E731
        self.options = {}
        if draw.random() < 0.5:
            self.options["do_not_specialize"] = some()
        if draw.random() < 0.3:
            self.options["do_not_specialize_on_alignment"] = some()
        usual = [p.choices[0] for p in self.parameters]
        self.variants = [Variant(usual, {})]
        self.variants += [self.variant({p.name: choice}) for p in swept for choice in p.choices[1:]]
        for _ in range(5 if count else 0):
            changed = draw.sample(plain, min(count, draw.choice([1, 1, 2])))
            self.variants.append(self.variant({p.name: draw.choice(p.choices) for p in changed}))
        self.variants += [Variant(usual, options) for options in draw.sample(OPTIONS, 3 if count else len(OPTIONS))]
        self.shapes = [self.shape(draw) for _ in range(8)]
        self.rung = _torch.RUNGS[0] if seed % 4 else _torch.RUNGS[1 + seed // 4 % 2]
        self.route = "wrapper" if seed % 5 == 2 else "auto"

    def variant(self, changes):
        return Variant([changes.get(p.name, p.choices[0]) for p in self.parameters], {})

    def __repr__(self):
        return f"jit(**{self.options}), route {self.route}, tensors by {self.rung}"

    def shape(self, draw):
        """One way to write a call: how many arguments by position, the order of the keywords, whether defaults are
        left out, whether the arguments are splatted."""
        names = [p.name for p in self.parameters]
        positional = draw.choice([0, len(names), draw.randint(0, len(names))])
        keywords = names[positional:]
        if draw.random() < 0.7:
            draw.shuffle(keywords)
        return positional, tuple(keywords), draw.random() < 0.4, draw.random() < 0.3


@cache
def written(door, positional, keywords):
    """A function that makes the call as it would be written out, without splatting."""
    arguments = [f"values[{i}]" for i in range(positional)] + [f"{name}=named[{name!r}]" for name in keywords]
    if door == "getitem":
        return eval(f"lambda kernel, grid, values, named: kernel[grid]({', '.join(arguments)})")
    arguments.insert(max(positional, len(arguments) - 2), f"grid=grid, warmup={door == 'warmup'}")
    return eval(f"lambda kernel, grid, values, named: kernel.run({', '.join(arguments)})")


def splatted(door, kernel, grid, values, named):
    if door == "getitem":
        return kernel[grid](*values, **named)
    return kernel.run(*values, grid=grid, warmup=door == "warmup", **named)


GRIDS = [(1, ), (3, ), (2, 3), (2, 1, 2), [4], [1, 2], (2, 1, 1, 9), (0, ), (1, 0), lambda meta: (len(meta), ),
         lambda meta: [1, 2, 3], lambda meta: (2, )]
TRITONS_GRIDS = [{0: 3}, range(2, 4), lambda meta: range(2, 3), (1.5, ), ()]
GRIDS += [torch.Size([3]), (True, 2), lambda meta: torch.Size([2])]

# ---- calls ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Call:
    """Everything about a call but the buffers."""

    variant: Variant
    door: str
    shape: tuple
    grid: Any
    stream: int
    seed: int


class Sequence:
    """Almost equal calls.  `run` makes them all; what it returns and its buffers are compared."""

    def __init__(self, generated, seed, count):
        self.generated, self.seed = generated, seed
        draw = random.Random(seed)
        self.calls = [
            Call(draw.choice([draw.choice(generated.variants), generated.variants[0]]),
                 draw.choice(["getitem"] * 10 + ["run"] * 6 + ["warmup"]), draw.choice(generated.shapes),
                 draw.choice(draw.choice([GRIDS] * 15 + [TRITONS_GRIDS])), draw.choice([0, 0, 0, 1, 2]),
                 draw.getrandbits(32)) for _ in range(count)
        ]

    def arguments(self, number, buffers):
        call = self.calls[number]
        positional, keywords, omit, _ = call.shape
        draw, named, defaulted = random.Random(call.seed), {}, set()
        for p, choice in zip(self.generated.parameters, call.variant.choices):
            if p.name == "out":
                named[p.name] = buffers.rows[number]
            elif p.name == "ticket":
                named[p.name] = buffers.tickets[call.stream]
            else:
                named[p.name] = choice.value(draw, buffers)
            if omit and p.default and choice is p.choices[0]:
                defaulted.add(p.name)
        values = list(named.values())[:positional]
        return values, {name: named[name] for name in keywords if name not in defaulted} | call.variant.options

    def about(self, number):
        """Call `number` for people."""
        call = self.calls[number]
        positional, keywords, omit, splat = call.shape
        choices = {p.name: choice.name for p, choice in zip(self.generated.parameters, call.variant.choices)}
        return (f"{self.generated.source[len(HEAD):]}\n{self.generated}\nsequence {self.seed}, call {number}: "
                f"{call.door}, grid {call.grid}, stream {call.stream}, {positional} by position, then {keywords}, "
                f"{omit=}, {splat=}, {choices}, {call.variant.options}")

    def run(self, kernel, buffers, streams, check=None):
        """Make the calls; the error (type and text) or CompiledKernel of each."""
        results = []
        for number, call in enumerate(self.calls):
            values, named = self.arguments(number, buffers)
            splat = call.shape[-1]
            launch = partial(splatted, call.door) if splat else written(call.door, len(values), tuple(named))
            before = kernel.exits if check else None
            with torch.cuda.stream(streams[call.stream]):
                try:
                    results.append(launch(kernel, call.grid, values, named))
                except Exception as error:
                    results.append((type(error), re.sub(r"0x[0-9a-f]+", "0x", str(error))))
            if check:
                check(number, changed(before, kernel.exits), isinstance(results[-1], tuple))
        torch.cuda.synchronize()
        return results


class Exits:
    """Says for each call why lowlat may have left it to Triton, and insists."""

    def __init__(self, sequence):
        self.sequence, self.known, self.native, self.left = sequence, set(), 0, {}

    def __call__(self, number, left, failed):
        call = self.sequence.calls[number]
        variant, warmup = call.variant, call.door == "warmup"
        tritons_grid = not warmup and any(call.grid is grid for grid in TRITONS_GRIDS)
        choices = tuple(map(id, variant.choices)), tuple(variant.options.items())
        expected = [{"grid": 1} if tritons_grid else {}]
        if variant.reasons:
            expected = [{reason: 1} for reason in variant.reasons]
        elif choices not in self.known:  # or unknown only here: Triton may specialise two choices alike
            expected.append({"warmup": 1} if warmup else {"first call": 1})
        assert left in expected, f"{self.sequence.about(number)}\nleft for {left} instead of {expected}"
        if not variant.reasons and not warmup and not failed:
            self.known.add(choices)
        self.native += not left
        for reason in left:
            self.left[reason] = self.left.get(reason, 0) + 1


@pytest.fixture(scope="module")
def tally():
    """What this file has done, printed at its end (pytest -s shows it); it tests the native path or nothing."""
    tally = {"calls": 0, "launched": 0, "native": 0, "raised": 0, "compiled": set(), "left": {}}
    yield tally
    print(f"\n{tally['calls']} calls under each of triton.jit and lowlat.jit: {tally['launched']} launches, "
          f"{tally['raised']} errors; {len(tally['compiled'])} kernels compiled; {tally['native']} of lowlat's calls "
          f"native, the others left for {tally['left']}")
    assert tally["native"] > 0.6 * tally["calls"]


COUNTS = [0, 1, 1, 2, 3, 4, 5, 6, 8, 8, 10, 12, 12, 15, 15, 18, 20, 24, 28, 32, 36, 40]


@pytest.mark.parametrize("seed, count", list(enumerate(COUNTS)))
def test_generated_calls(seed, count, tally, tmp_path):
    generated = Generated(seed, count)
    path = tmp_path / "generated.py"  # Triton reads the source
    path.write_text(generated.source)
    spec = importlib.util.spec_from_file_location(f"generated_{seed}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    before = _torch.rung
    _torch.choose(generated.rung)
    try:
        for number in range(5):
            compare(module.kernel, Sequence(generated, number, count=200), tally)
    finally:
        _torch.choose(before)


def compare(function, sequence, tally):
    generated, exits = sequence.generated, Exits(sequence)
    streams = [torch.cuda.default_stream(), torch.cuda.Stream(), torch.cuda.Stream()]
    buffers = [Buffers(len(sequence.calls), generated.width) for _ in range(2)]
    torch.cuda.synchronize()
    expected = sequence.run(triton.jit(function, **generated.options), buffers[0], streams)
    kernel = lowlat.jit(function, **generated.options)
    kernel.route = generated.route
    actual = sequence.run(kernel, buffers[1], streams, check=exits)
    same, outs = {}, [buffer.out.cpu() for buffer in buffers]
    for number, (theirs, ours) in enumerate(zip(expected, actual)):
        assert type(theirs) is type(ours), f"{sequence.about(number)}\nTriton: {theirs}\nlowlat: {ours}"
        if isinstance(theirs, tuple):
            assert ours == theirs and theirs[0] is not triton.CompilationError, f"{sequence.about(number)}\n{theirs}"
        else:
            assert same.setdefault(id(theirs), ours) is ours and ours.hash == theirs.hash, sequence.about(number)
        rows = [out[number] for out in outs]
        for p, choice in zip(generated.parameters, sequence.calls[number].variant.choices):
            if choice is OVERFLOW:
                rows[0][generated.slots[p.name] + 1] = rows[1][generated.slots[p.name] + 1]
        assert torch.equal(*rows), f"{sequence.about(number)}\n{rows[0].tolist()}\n{rows[1].tolist()}"
    assert len(same) == len({id(ours) for ours in same.values()})
    assert torch.equal(buffers[0].order, buffers[1].order)
    for dtype in DTYPES:  # which nobody writes to
        assert torch.equal(*(buffer.inputs[dtype].view(torch.uint8) for buffer in buffers)), dtype
    launched = (outs[0][:, 0] != UNWRITTEN).sum().item()
    assert launched > len(expected) // 3, "these calls launch too little"
    tally["calls"] += len(expected)
    tally["launched"] += launched
    tally["native"] += exits.native
    tally["raised"] += sum(isinstance(result, tuple) for result in expected)
    tally["compiled"].update((generated.source, ours.hash) for ours in same.values())
    for reason, count in exits.left.items():
        tally["left"][reason] = tally["left"].get(reason, 0) + count
