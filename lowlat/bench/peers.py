"""Other ways to launch a kernel from Python, in one interleaved run with lowlat, triton and the floor.

Each peer is an adapter: a function from the `Bench` to its cells, one per column, and a note.  It raises `Missing`, or
puts the reason in the cell, where it has no figure to give; whatever else goes wrong in an adapter becomes the reason
of its row.  All but the eager and compiled operators launch Triton's very binary of the column's kernel.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.metadata
import json
import os
import subprocess
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import triton

import lowlat

from . import kernels, timing
from .timing import Device, Measurement, Timed, Timer, loop

COLUMNS = ("x * 2", "0 params", "19 params")
"""x * 2: one out-of-place operation on a tensor of 1,024 elements, what it allocates included.  The kernels of the
others do nothing, and count their launches.  Of the 19 parameters are 5 tensors, 9 ints (one of them 1) and 5
constexprs; who launches the binary passes the 13 that it reads."""

INTS = (32, 10, 17, 80, 31, 38, 128, 52, 1)  # Triton makes a constant of the 1
CONSTEXPRS = (32, ) * 5
ELEMENTS = 1024

_TENSORS = "p0, p1, p2, p3, p4"
_NUMBERS = ", ".join(map(str, INTS + CONSTEXPRS))
CALLS = {
    "x * 2": f"y = empty_like(x); k[(1,)](x, y, {ELEMENTS}, BLOCK={ELEMENTS})",
    "0 params": "k[(1,)]()",
    "19 params": f"k[(1,)]({_TENSORS}, {_NUMBERS})",
}
KERNELS = {"x * 2": kernels.double, "0 params": kernels.no_parameters, "19 params": kernels.parameters_19}


CU_STREAM_LEGACY = 1  # stream 0 by a name that is not "no stream"


class Missing(Exception):
    """Why a peer has no figures here."""


@dataclass
class Cell:
    """One peer in one column.  `counter` counts its launches on the GPU; on the null driver each of the timer's
    launches is one of the driver's, unless it `computes` on the CPU there.  `kernel` is lowlat's, which must not leave
    a launch to Triton."""

    timer: Timer
    counter: Any = None
    computes: bool = False
    kernel: Any = None


@dataclass
class Row:
    """A peer's result: nanoseconds per launch, or why there are none, per column or (in `missing`) at all."""

    figures: dict[str, Measurement] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    note: str = ""
    missing: str = ""


class Bench:
    """What the adapters share: the device, Triton's compiled kernels, and what to close at the end."""

    def __init__(self, device: Device, fbtriton: Path | None, stack: ExitStack) -> None:
        self.device, self.torch, self.fbtriton, self.stack = device, device.torch, fbtriton, stack
        self.x = device.torch.arange(ELEMENTS, dtype=device.torch.float32, device=device.where)
        self.compiled = {column: self.launch_once(column) for column in COLUMNS}

    def names(self) -> dict[str, Any]:
        """What the calls read; p0 is a new counter."""
        return {"x": self.x, "empty_like": self.torch.empty_like,
                **{f"p{i}": tensor for i, tensor in enumerate(self.device.tensors(5))}}

    def launch_once(self, column: str) -> Any:
        compiled = eval(CALLS[column].rpartition("; ")[2],
                        {"k": triton.jit(KERNELS[column]), "y": self.torch.empty_like(self.x), **self.names()})
        compiled.run  # noqa: B018  (a property: loads the kernel)
        return compiled

    def cell(self, call: str, names: dict[str, Any], *, computes: bool = False) -> Cell:
        """The call as `timing.loop` has it; made three times beforehand."""
        repeated = loop(call, **names)
        repeated(timing.nothing(3))
        counter = names.get("p0")
        counts = counter is not None and "p0" in call or "counted" in names
        kernel = names.get("k")
        return Cell(timing.timer(repeated, self.device), counter if counts else None, computes,
                    kernel if isinstance(kernel, lowlat.JITFunction) else None)

    def block(self, column: str) -> tuple[int, int]:
        """(threads, bytes of shared memory)"""
        metadata = self.compiled[column].packed_metadata
        return 32 * metadata[0], metadata[2]


Cells = dict[str, "Cell | str"]
NULL = "the null driver has none"
CPU_ONLY = "computes on the CPU: not a launch, not to be compared"


# ---- Triton and lowlat ----------------------------------------------------------------------------------------------


def floor(bench: Bench) -> tuple[Cells, str]:
    from . import floor as c_loop

    cells: Cells = {"x * 2": "allocates nothing"}
    for column, count in (("0 params", 0), ("19 params", 5)):
        tensors = bench.device.tensors(count)
        cells[column] = Cell(c_loop(bench.compiled[column], tensors, bench.device), tensors[0] if tensors else None)
    return cells, "cuLaunchKernelEx in a C loop"


def _jit(bench: Bench, library: Any) -> Cells:
    return {column: bench.cell(call, {"k": library.jit(KERNELS[column]), **bench.names()})
            for column, call in CALLS.items()}


def with_lowlat(bench: Bench) -> tuple[Cells, str]:
    return _jit(bench, lowlat), f"{lowlat.__version__}"


def with_triton(bench: Bench) -> tuple[Cells, str]:
    return _jit(bench, triton), f"{triton.__version__}"


def compiled_kernel(bench: Bench) -> tuple[Cells, str]:
    bound = {"x * 2": f", x, y, {ELEMENTS}, {ELEMENTS}", "0 params": "", "19 params": f", {_TENSORS}, {_NUMBERS}"}
    cells: Cells = {}
    for column, compiled in bench.compiled.items():
        call = f"k.run(1, 1, 1, stream, function, packed, None, None, None{bound[column]})"
        cells[column] = bench.cell(
            CALLS[column].replace(CALLS[column].rpartition("; ")[2], call),
            {"k": compiled, "stream": bench.device.stream(), "function": compiled.function,
             "packed": compiled.packed_metadata, **bench.names()})
    return cells, "Triton's launcher with the kernel in hand"


# ---- PyTorch --------------------------------------------------------------------------------------------------------


def eager(bench: Bench) -> tuple[Cells, str]:
    note = CPU_ONLY if bench.device.null else ""
    return {"x * 2": bench.cell("x * 2", {"x": bench.x}, computes=True)}, f"{bench.torch.__version__} {note}".rstrip()


def torch_compile(bench: Bench) -> tuple[Cells, str]:
    if bench.device.null:
        raise Missing("compiles for the CPU where there is no GPU: not a launch")
    torch, counter = bench.torch, bench.device.tensors(5)
    names = {f"p{i}": tensor for i, tensor in enumerate(counter)}

    def nothing() -> None:
        lonely.add_(1)

    def of_19(p0: Any, p1: Any, p2: Any, p3: Any, p4: Any, n0: int, n1: int, n2: int, n3: int, n4: int, n5: int,
              n6: int, n7: int, n8: int, c0: int, c1: int, c2: int, c3: int, c4: int) -> None:
        p0.add_(1)

    lonely = bench.device.tensors(1)[0]
    cells: Cells = {"x * 2": bench.cell("k(x)", {"k": torch.compile(lambda x: x * 2), "x": bench.x})}
    cells["0 params"] = bench.cell("k()", {"k": torch.compile(nothing), "p0": lonely, "counted": True})
    cells["19 params"] = bench.cell(f"k({_TENSORS}, {_NUMBERS})", {"k": torch.compile(of_19), **names})
    return cells, "a compiled function of as many arguments, one kernel in it"


def _replay(bench: Bench, launches: int) -> tuple[Cells, str]:
    if bench.device.null:
        raise Missing(NULL)
    torch = bench.torch
    cells: Cells = {}
    for column, call in CALLS.items():
        names = {"k": lowlat.jit(KERNELS[column]), **bench.names()}
        repeated = loop(call, **names)
        repeated(timing.nothing(3))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            repeated(timing.nothing(launches))
        replay = loop("replay()", replay=graph.replay)
        replay(timing.nothing(3))
        replays = timing.BATCH if launches == 1 else 1
        timer = timing.timer(replay, bench.device, lambda count: timing.nothing(count // launches), replays * launches)
        cells[column] = Cell(timer, names["p0"] if "p0" in call else None)
    return cells, "of one launch each" if launches == 1 else f"of {launches} launches, per launch"


def graph_of_many(bench: Bench) -> tuple[Cells, str]:
    return _replay(bench, timing.BATCH)


def graph_of_one(bench: Bench) -> tuple[Cells, str]:
    return _replay(bench, 1)


# ---- the driver's call from other libraries -------------------------------------------------------------------------


def ctypes_prepared(bench: Bench) -> tuple[Cells, str]:
    cells: Cells = {}
    for column in COLUMNS[1:]:
        names = bench.names()
        values = _values(column, names)
        pointers = (ctypes.c_void_p * len(values))(*(ctypes.addressof(value) for value in values))
        threads, shared = bench.block(column)
        names |= {"one": ctypes.c_uint(1), "threads": ctypes.c_uint(threads), "shared": ctypes.c_uint(shared),
                  "stream": ctypes.c_void_p(bench.device.stream()), "none": ctypes.c_void_p(), "values": values,
                  "function": ctypes.c_void_p(bench.compiled[column].function), "pointers": pointers,
                  "launch": ctypes.CDLL("libcuda.so.1").cuLaunchKernel}
        if column == "19 params":
            names["counted"] = True
        cells[column] = bench.cell(
            "launch(function, one, one, one, threads, one, one, shared, stream, pointers, none)", names)
    return cells, "cuLaunchKernel, every argument made beforehand"


def ctypes_plain(bench: Bench) -> tuple[Cells, str]:
    def launch(function: Any, threads: int, shared: int, stream: int, *arguments: Any) -> None:
        values = [ctypes.c_uint64(argument.data_ptr()) if isinstance(argument, tensor) else ctypes.c_int32(argument)
                  for argument in arguments]
        values += [ctypes.c_uint64(0)] * 2
        pointers = (ctypes.c_void_p * len(values))(*[ctypes.addressof(value) for value in values])
        result = call(function, 1, 1, 1, threads, 1, 1, shared, stream, pointers, None)
        if result != 0:
            raise RuntimeError(f"cuLaunchKernel: {result}")

    tensor = bench.torch.Tensor
    cells: Cells = {}
    call = ctypes.CDLL("libcuda.so.1").cuLaunchKernel
    call.argtypes = [ctypes.c_void_p, *[ctypes.c_uint] * 7, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    for column in COLUMNS[1:]:
        threads, shared = bench.block(column)
        names = {"launch": launch, "threads": threads, "shared": shared, "stream": bench.device.stream(),
                 "function": bench.compiled[column].function, **bench.names()}
        arguments = f", {_TENSORS}, {', '.join(map(str, INTS[:-1]))}" if column == "19 params" else ""
        cells[column] = bench.cell(f"launch(function, threads, shared, stream{arguments})", names)
    return cells, "cuLaunchKernel, arguments converted at each call"


def _values(column: str, names: dict[str, Any]) -> list[Any]:
    """The binary's parameters: pointers, ints, and the two addresses of scratch memory that Triton adds."""
    values: list[Any] = []
    if column == "19 params":
        values = [ctypes.c_uint64(names[f"p{i}"].data_ptr()) for i in range(5)]
        values += [ctypes.c_int32(number) for number in INTS[:-1]]
    return [*values, ctypes.c_uint64(0), ctypes.c_uint64(0)]


def cuda_core(bench: Bench) -> tuple[Cells, str]:
    try:
        core = importlib.import_module("cuda.core")
        if not hasattr(core, "launch"):  # before 0.5
            core = importlib.import_module("cuda.core.experimental")
    except ImportError as error:
        raise Missing(f"not installed ({error})") from None
    import numpy

    # The context is current already.  A core.Device made here would release it when the process ends, after Python.
    stream = core.Stream.from_handle(bench.device.stream() or CU_STREAM_LEGACY)
    cells: Cells = {}
    for column in COLUMNS[1:]:
        threads, shared = bench.block(column)
        kernel, names = _core_kernel(core, bench.compiled[column]), bench.names()
        names |= {"launch": core.launch, "stream": stream, "kernel": kernel, "int32": numpy.int32,
                  "config": core.LaunchConfig(grid=1, block=threads, shmem_size=shared)}
        arguments = ", 0, 0"
        if column == "19 params":
            pointers = ", ".join(f"p{i}.data_ptr()" for i in range(5))
            arguments = f", {pointers}, {', '.join(f'int32({number})' for number in INTS[:-1])}, 0, 0"
        cells[column] = bench.cell(f"launch(stream, config, kernel{arguments})", names)
    return cells, f"{_version('cuda-core')}, data_ptr() and numpy.int32 at each call"


def _core_kernel(core: Any, compiled: Any) -> Any:
    try:
        return core.ObjectCode.from_cubin(compiled.asm["cubin"]).get_kernel(compiled.metadata.name)
    except Exception:
        return core.Kernel.from_handle(compiled.function)  # a driver without libraries: the null driver


def cupy(bench: Bench) -> tuple[Cells, str]:
    try:
        import cupy
    except ImportError as error:
        raise Missing(f"not installed ({error})") from None
    if bench.device.null:
        raise Missing(f"{cupy.__version__}: its CUDA runtime refuses the null driver")
    cells: Cells = {}
    folder = bench.stack.enter_context(tempfile.TemporaryDirectory())
    for column in COLUMNS[1:]:
        threads, shared = bench.block(column)
        compiled = bench.compiled[column]
        path = Path(folder, f"{compiled.metadata.name}.cubin")
        path.write_bytes(compiled.asm["cubin"])
        counter = bench.device.tensors(1)[0]
        names = {f"a{i}": cupy.zeros(512, dtype=cupy.int32) for i in range(1, 5)}
        names |= {"a0": cupy.from_dlpack(counter), "p0": counter, "int32": cupy.int32, "one": (1, ),
                  "block": (threads, ), "shared": shared,
                  "k": cupy.RawModule(path=str(path)).get_function(compiled.metadata.name)}
        arguments = "0, 0"
        if column == "19 params":
            arguments = f"a0, a1, a2, a3, a4, {', '.join(f'int32({number})' for number in INTS[:-1])}, 0, 0"
            names["counted"] = True
        with cupy.cuda.ExternalStream(bench.device.stream()):
            cell = bench.cell(f"k(one, block, ({arguments}), shared_mem=shared)", names)
        cells[column] = Cell(_on_stream(cupy, bench.device.stream(), cell.timer), cell.counter)
    return cells, f"{cupy.__version__}, CuPy arrays, int32 at each call"


def _on_stream(cupy: Any, stream: int, timer: Timer) -> Timer:
    def timed() -> Timed:
        with cupy.cuda.ExternalStream(stream):
            return timer()

    return timed


_TVM_FFI = r"""
#include <dlfcn.h>
#include <stdint.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/c_env_api.h>
#include <tvm/ffi/function.h>

using tvm::ffi::TensorView;
typedef int (*cu_launch_kernel)(void *, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, void *,
                                void **, void **);
struct kernel { void *function; unsigned threads, shared; };
static cu_launch_kernel cuLaunchKernel;
static kernel kernel_0, kernel_19;

void set_kernels(int64_t function_0, int64_t threads_0, int64_t shared_0, int64_t function_19, int64_t threads_19,
                 int64_t shared_19)
{
    cuLaunchKernel = (cu_launch_kernel)dlsym(dlopen("libcuda.so.1", RTLD_NOW), "cuLaunchKernel");
    kernel_0 = {(void *)function_0, (unsigned)threads_0, (unsigned)shared_0};
    kernel_19 = {(void *)function_19, (unsigned)threads_19, (unsigned)shared_19};
}

static void launch(const kernel &k, void **parameters)
{
    void *stream = TVMFFIEnvGetStream(kDLCUDA, 0);
    if (cuLaunchKernel(k.function, 1, 1, 1, k.threads, 1, 1, k.shared, stream, parameters, nullptr) != 0)
        TVM_FFI_THROW(RuntimeError) << "cuLaunchKernel failed";
}

void launch_0()
{
    void *scratch = nullptr;
    void *parameters[] = {&scratch, &scratch};
    launch(kernel_0, parameters);
}

void launch_19(TensorView p0, TensorView p1, TensorView p2, TensorView p3, TensorView p4, int32_t n0, int32_t n1,
               int32_t n2, int32_t n3, int32_t n4, int32_t n5, int32_t n6, int32_t n7, int32_t, int32_t, int32_t,
               int32_t, int32_t, int32_t)
{
    void *scratch = nullptr;
    void *data[] = {p0.data_ptr(), p1.data_ptr(), p2.data_ptr(), p3.data_ptr(), p4.data_ptr()};
    void *parameters[] = {&data[0], &data[1], &data[2], &data[3], &data[4], &n0, &n1, &n2, &n3, &n4, &n5, &n6, &n7,
                          &scratch, &scratch};
    launch(kernel_19, parameters);
}
"""


def tvm_ffi(bench: Bench) -> tuple[Cells, str]:
    try:
        from tvm_ffi import cpp
    except ImportError as error:
        raise Missing(f"not installed ({error})") from None
    module = cpp.load_inline(name="lowlat_bench", cpp_sources=_TVM_FFI,
                             functions=["set_kernels", "launch_0", "launch_19"])
    module.set_kernels(*(value for column in COLUMNS[1:]
                         for value in (bench.compiled[column].function, *bench.block(column))))
    cells: Cells = {"0 params": bench.cell("launch()", {"launch": module.launch_0})}
    cells["19 params"] = bench.cell(f"launch({_TENSORS}, {_NUMBERS})", {"launch": module.launch_19, **bench.names()})
    return cells, f"{_version('apache-tvm-ffi')}, a C++ function that calls cuLaunchKernel"


def _version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "unknown version"


# ---- Meta's Triton, in an environment of its own --------------------------------------------------------------------


def fbtriton(bench: Bench) -> tuple[Cells, str]:
    if bench.fbtriton is None:
        raise Missing("no environment given: --fbtriton PYTHON")
    command = [str(bench.fbtriton), str(Path(__file__).with_name("fbtriton.py"))]
    if bench.device.null:
        command.append(str(Path(lowlat.__file__).parent / "null" / "libcuda.so.1"))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    try:
        other = bench.stack.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment))
    except OSError as error:
        raise Missing(f"{bench.fbtriton}: {error.strerror}") from None
    assert other.stdin is not None and other.stdout is not None
    bench.stack.callback(other.stdin.close)  # which ends it

    to, answers = other.stdin, other.stdout

    def ask(question: Any) -> Any:
        print(json.dumps(question), file=to, flush=True)
        return hear()

    def hear() -> Any:
        line = answers.readline()
        if not line:
            raise Missing(f"{bench.fbtriton} ended: its errors are above")
        answer = json.loads(line)
        if "error" in answer:
            raise Missing(answer["error"])
        return answer

    def timer(column: str) -> Timer:
        def timed() -> Timed:
            start = time.perf_counter_ns()
            answer = ask([CALLS[column], column, timing.BATCH])
            return Timed(start, answer["nanoseconds"], timing.BATCH)

        return timed

    ready = hear()
    cells: Cells = {}
    for column in COLUMNS:
        ask([CALLS[column], column, 3])
        cells[column] = Cell(timer(column), _Asked(ask, column))
    return cells, ready["note"]


class _Asked:
    """A counter in another process: counter[0] asks for its value."""

    def __init__(self, ask: Callable[[Any], Any], column: str) -> None:
        self.ask, self.column = ask, column

    def __getitem__(self, index: int) -> int:
        return self.ask([None, self.column, 0])["launches"]


# ---- all of them ----------------------------------------------------------------------------------------------------

PEERS: dict[str, Callable[[Bench], tuple[Cells, str]]] = {
    "floor": floor,
    "lowlat": with_lowlat,
    "CompiledKernel.run": compiled_kernel,
    "triton": with_triton,
    "PyTorch eager": eager,
    "torch.compile": torch_compile,
    "CUDA graph replay": graph_of_many,
    "CUDA graph replay, one": graph_of_one,
    "ctypes, prepared": ctypes_prepared,
    "ctypes": ctypes_plain,
    "cuda.core.launch": cuda_core,
    "CuPy RawKernel": cupy,
    "apache-tvm-ffi": tvm_ffi,
    "fbtriton": fbtriton,
}
STAGES = len(PEERS) + 1


def measure(device: Device, batches: int, fbtriton: Path | None = None,
            progress: Callable[[str], None] = lambda name: None,
            only: Iterable[str] = PEERS) -> tuple[dict[str, Row], list[str]]:
    """(every peer's row, what went wrong: launches that did not happen, lowlat's that were left to Triton)"""
    rows: dict[str, Row] = {}
    cells: dict[tuple[str, str], Cell] = {}
    with ExitStack() as stack:
        bench = Bench(device, fbtriton, stack)
        for name in only:
            progress(f"preparing {name}")
            rows[name] = row = Row()
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    own, row.note = PEERS[name](bench)
            except Missing as reason:
                row.missing = str(reason)
                continue
            except Exception as error:
                row.missing = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:160]}"
                continue
            for column, cell in own.items():
                if isinstance(cell, Cell):
                    cells[name, column] = cell
                else:
                    row.reasons[column] = cell
        progress("peers, interleaved")
        return rows, _measure_cells(device, batches, cells, rows)


def _measure_cells(device: Device, batches: int, cells: dict[tuple[str, str], Cell],
                   rows: dict[str, Row]) -> list[str]:
    count = timing.Count(device, {at: cell.counter for at, cell in cells.items()})
    exits = {at: cell.kernel.exits for at, cell in cells.items() if cell.kernel is not None}
    measured = timing.interleaved({at: cell.timer for at, cell in cells.items()}, device, batches,
                                  lambda at, timed: count.add(at, timed.launches))
    failures = []
    for at, cell in cells.items():
        (name, column), launches, wrong = at, count.finish(at), ""
        if not cell.computes and launches is not None and launches != count.made[at]:
            wrong = f"{launches} launches where {count.made[at]} were made"
        if at in exits and cell.kernel.exits != exits[at]:
            wrong = f"went to Triton: {cell.kernel.exits}"
        if wrong:
            rows[name].reasons[column] = wrong
            failures.append(f"{name}, {column}: {wrong}")
        else:
            rows[name].figures[column] = measured[at]
    return failures
