"""lowlat broken on purpose, once in each way that the tests must notice: `python tests/mutants.py`, or `make mutants`.

Every mutant is one wrong idea of a fast launch path, applied to a copy of the package; the tests named with it must
fail there.  The numbers are those of tests/test_edge_cases.py.  A mutant that survives means a missing test.  What
nobody can observe does not belong here: a constexpr 1 taken for True, say, since Triton has one kernel for both.

    python tests/mutants.py                 all of them, one after the other: some twenty minutes
    python tests/mutants.py --jobs 4
    python tests/mutants.py --only stream   those with the word in their name, or of an edge case: --only 43
    python tests/mutants.py --list
"""

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
TESTS = ROOT / "tests"
TIMEOUT = 180  # seconds for the tests of one mutant; the slowest take ten

CONDITIONS = {
    "": lambda triton: True,
    "Triton 3.6": lambda triton: triton < (3, 7),
    "Triton 3.7": lambda triton: triton >= (3, 7),
    "Triton 3.8": lambda triton: triton >= (3, 8),
    "Triton 3.9": lambda triton: triton >= (3, 9),
    "CPython 3.11 or older": lambda triton: sys.version_info < (3, 12),
    "CPython 3.12": lambda triton: sys.version_info >= (3, 12),
}


@dataclass(frozen=True)
class Mutant:
    name: str
    file: str  # under lowlat/
    find: str  # must be there exactly once
    replacement: str
    tests: tuple[str, ...]  # pytest node ids, relative to tests/
    also: tuple[tuple[str, str], ...] = ()  # further pairs of find and replacement in the same file
    needs: str = ""  # what must be so for anybody to observe it

    @property
    def edits(self):
        return ((self.find, self.replacement), *self.also)

    @property
    def cases(self):
        """The edge cases that its tests stand for."""
        return sorted({int(number) for test in self.tests for number in re.findall(r"::test_(\d\d)_", test)})


def edge(*numbers):
    """The node ids of edge cases."""
    return tuple(f"test_edge_cases.py::{name}" for number in numbers
                 for name in re.findall(rf"^def (test_{number:02}_\w+)", EDGE_CASES, re.MULTILINE))


def fast(*names):
    """The node ids of tests of the native path."""
    return tuple(f"test_fast.py::test_{name}" for name in names)


def tuned(*names):
    """The node ids of tests of tuners and heuristics."""
    return tuple(f"test_autotune.py::test_{name}" for name in names)


def arguments(*names):
    """The node ids of tests of arguments with contents."""
    return tuple(f"test_arguments.py::test_{name}" for name in names)


def described(*names):
    """The node ids of tests of descriptors."""
    return tuple(f"test_descriptors.py::test_{name}" for name in names)


def hip(*names):
    """The node ids of tests of AMD's backend."""
    return tuple(f"test_hip.py::test_{name}" for name in names)


def warmup(*names):
    """The node ids of tests of warming up."""
    return tuple(f"test_warmup.py::test_{name}" for name in names)


def graphs(*names):
    return tuple(f"test_graph_route.py::test_{name}" for name in names)


def sequences(*names):
    return tuple(f"test_sequence.py::test_{name}" for name in names)


def routes(*names):
    """The node ids of tests of routes."""
    return tuple(f"test_routes.py::test_{name}" for name in names)


EDGE_CASES = (TESTS / "test_edge_cases.py").read_text()
FAST, TRITON, PYTHON_H = "_fast.pyx", "_triton.py", "_python.h"
GRAPH_H, SEQUENCE = "_graph.h", "sequence.py"

MUTANTS = [
    # ---- what the key says about arguments --------------------------------------------------------------------------
    Mutant("int 1 is like any other", FAST,
           "        if number == 1 and parameter.specialize:\n            tag", "        if False:\n            tag",
           edge(1)),
    Mutant("parameters are not moved up where one is compiled in", FAST,
           "parameters[i] = &payload[plan.slots[i]]", "parameters[i] = &payload[i]", edge(1)),
    Mutant("divisibility of ints is not in the key", FAST,
           "tag[0] = TAG_I32 + divisible(parameter, <uint64_t>number)", "tag[0] = TAG_I32", edge(2)),
    Mutant("divisibility is not looked at where specialised", TRITON,
           "specialize and not parameter.do_not_specialize_on_alignment", "False", edge(2, 19)),
    Mutant("negative ints are never divisible", FAST,
           "tag[0] = TAG_I32 + divisible(parameter, <uint64_t>number)",
           "tag[0] = TAG_I32 + (divisible(parameter, <uint64_t>number) if number >= 0 else 0)", edge(3)),
    Mutant("int64 is taken for int32", FAST,
           "TAG_I32 if INT32_MIN <= number <= INT32_MAX else TAG_I64", "TAG_I32", edge(4)),
    Mutant("uint64 is taken for int64", FAST, "        tag[0] = TAG_U64\n", "        tag[0] = TAG_I64\n", edge(5)),
    Mutant("ints beyond 64 bits wrap around", FAST,
           "    elif overflow > 0 and <object>argument < TWO_TO_64:\n"
           "        payload[0] = PyLong_AsUnsignedLongLong(<object>argument)\n",
           "    elif overflow != 0:\n"
           "        payload[0] = PyLong_AsUnsignedLongLong(<object>argument & (TWO_TO_64 - 1))\n", edge(5)),
    Mutant("True has the key of 1", FAST,
           "    elif kind == &PyBool_Type:\n        tag[0] = TAG_BOOL\n",
           "    elif kind == &PyBool_Type:\n        tag[0] = TAG_ONE if argument == Py_True else TAG_I32 | 1\n",
           edge(6)),
    Mutant("subclasses of int are ints, and so are bools", FAST,
           "    if kind == &PyLong_Type:\n        if not lowlat_compact_int",
           "    if isinstance(<object>argument, int):\n        if not lowlat_compact_int", edge(6, 10)),
    Mutant("whatever has __float__ is a float", FAST,
           "    if is_any_float(argument):\n        tag[0] = TAG_FLOAT\n"
           "        payload[0] = float_bits(PyFloat_AS_DOUBLE(argument), 32)\n",
           "    if hasattr(<object>argument, '__float__'):\n        tag[0] = TAG_FLOAT\n"
           "        payload[0] = float_bits(float(<object>argument), 32)\n", edge(11)),
    Mutant("None has the key of an aligned tensor", FAST,
           "    elif argument == Py_None:\n        tag[0] = TAG_NONE\n",
           "    elif argument == Py_None:\n        tag[0] = TAG_TENSOR + (6 << 1) + 1\n", edge(16)),
    Mutant("floats have the key of ints", FAST, "    elif kind == &PyFloat_Type:\n        tag[0] = TAG_FLOAT\n",
           "    elif kind == &PyFloat_Type:\n        tag[0] = TAG_I32\n", edge(17)),
    Mutant("dtype is not in the key", FAST, "<uint8_t>(TAG_TENSOR + (tensor.dtype << 1))", "<uint8_t>TAG_TENSOR",
           edge(18)),
    Mutant("bool tensors are taken for bytes", FAST,
           "<uint8_t>(TAG_TENSOR + (tensor.dtype << 1))",
           "<uint8_t>(TAG_TENSOR + ((0 if tensor.dtype == 11 else tensor.dtype) << 1))", edge(18)),
    Mutant("alignment of tensors is not in the key", FAST, " + divisible(parameter, tensor.pointer)\n", "\n", edge(19)),
    Mutant("a tensor is known by its id", FAST,
           "    if lowlat_torch.rung == LOWLAT_RUNG_SHIM:\n        if lowlat_shim_read(argument, &tensor):\n"
           "            return UNREADABLE\n",
           "    if argument == seen_argument:\n        tensor = seen_tensor\n"
           "    elif lowlat_torch.rung == LOWLAT_RUNG_SHIM:\n        if lowlat_shim_read(argument, &tensor):\n"
           "            return UNREADABLE\n        globals_seen(argument, tensor)\n", edge(19, 20),
           also=(("cdef inline uint8_t divisible(",
                  "cdef PyObject* seen_argument = NULL\ncdef lowlat_tensor seen_tensor\n\n\n"
                  "cdef void globals_seen(PyObject* argument, lowlat_tensor tensor):\n"
                  "    global seen_argument, seen_tensor\n    seen_argument = argument\n    seen_tensor = tensor\n\n\n"
                  "cdef inline uint8_t divisible("), )),
    Mutant("null is not a multiple of 16", FAST,
           " + divisible(parameter, tensor.pointer)\n",
           " + (divisible(parameter, tensor.pointer) if tensor.pointer else 0)\n", edge(21)),
    Mutant("namedtuples are handed over as tuples", TRITON,
           "    return run_of(kernel)(grid=grid, warmup=False, *args, **kwargs)",
           "    args = tuple(tuple(a) if isinstance(a, tuple) else a for a in args)\n"
           "    return run_of(kernel)(grid=grid, warmup=False, *args, **kwargs)", edge(23)),
    Mutant("do_not_specialize is for every parameter", TRITON,
           "specialize = not parameter.do_not_specialize\n", "specialize = False\n", edge(1, 2)),
    Mutant("do_not_specialize also hides the width", FAST,
           "TAG_I32 if INT32_MIN <= number <= INT32_MAX else TAG_I64",
           "TAG_I32 if INT32_MIN <= number <= INT32_MAX or not parameter.specialize else TAG_I64", edge(24)),
    Mutant("an annotated 1 is like any other int", FAST,
           "    if number == 1 and parameter.specialize:\n        tag[0] = TAG_ONE\n    return OK\n", "    return OK\n",
           edge(25)),
    Mutant("annotated unsigned ints take negative numbers", FAST,
           "    elif number < 0 or (parameter.bits < 64", "    elif (parameter.bits < 64", edge(25),
           needs="Triton 3.7"),
    Mutant("alignment of annotated pointers is not in the key", FAST,
           "tag[0] = TAG_TENSOR | (tag[0] & (TAG_SMALL | 1))", "tag[0] = TAG_TENSOR", edge(26)),
    Mutant("None is address 0 for an annotated pointer", FAST,
           "            tag[0] = TAG_NONE\n", "            tag[0] = TAG_I32 | 1\n", edge(26)),

    # ---- constexprs and options -------------------------------------------------------------------------------------
    Mutant("constexprs are looked at once", FAST,
           "            if argument != value.object and not specialize_value(kernel.strings, argument, value):\n"
           "                if not specialize",
           "            if value.object == NULL and not specialize_value(kernel.strings, argument, value):\n"
           "                if not specialize", edge(7)),
    Mutant("constexpr True and False are one", FAST,
           "TAG_VALUE_TRUE if argument == Py_True else TAG_VALUE_FALSE", "TAG_VALUE_TRUE", edge(7)),
    Mutant("constexpr floats are compared in single precision", FAST,
           "value.word = float_bits(PyFloat_AS_DOUBLE(argument), 64)",
           "value.word = float_bits(PyFloat_AS_DOUBLE(argument), 32)", edge(8)),
    Mutant("constexpr floats are known by their id", FAST,
           "value.word = float_bits(PyFloat_AS_DOUBLE(argument), 64)", "value.word = <uint64_t>argument", edge(9, 20)),
    Mutant("the last constexpr is not held", FAST,
           "    Py_INCREF(<object>argument)\n    value.object = argument\n", "    value.object = argument\n", edge(20),
           also=(("    value.object = NULL\n    Py_XDECREF(old)\n    if kind", "    value.object = NULL\n    if kind"),
                 ("        values[i].object = NULL\n        Py_XDECREF(old)\n", "        values[i].object = NULL\n"))),
    Mutant("strings are known by their id", FAST,
           "value.word = number_of(strings, argument)", "value.word = <uint64_t>argument", edge(20)),
    Mutant("numbers of strings are given again", FAST,
           "        strings.count += 1\n        strings.recent", "        strings.count = len(strings.recent) + 1\n"
           "        strings.recent",
           fast("strings_are_told_apart_for_ever")),
    Mutant("strings are forgotten, met again or not", FAST,
           "    known = PyDict_GetItemWithError(strings.older, <object>text)\n", "    known = NULL\n",
           fast("strings_are_told_apart_for_ever")),
    Mutant("constexpr objects are known by their id", FAST,
           "    else:\n        return False\n    Py_INCREF(<object>argument)\n",
           "    else:\n        value.tag = TAG_VALUE_OBJECT\n        value.word = <uint64_t>argument\n"
           "    Py_INCREF(<object>argument)\n", edge(12, 15)),
    Mutant("constexpr objects are known by their text", FAST,
           "    else:\n        return False\n    Py_INCREF(<object>argument)\n",
           "    else:\n        text = repr(<object>argument)\n"
           "        value.tag = TAG_VALUE_OBJECT\n        value.word = number_of(strings, <PyObject*>text)\n"
           "    Py_INCREF(<object>argument)\n", edge(13)),
    Mutant("tl.constexpr is unwrapped", FAST,
           "    else:\n        return False\n    Py_INCREF(<object>argument)\n",
           "    elif type(<object>argument) is state.constexpr_type and type((<object>argument).value) is int:\n"
           "        value.tag = TAG_VALUE_INT\n        value.word = <uint64_t><int64_t>(<object>argument).value\n"
           "    else:\n        return False\n    Py_INCREF(<object>argument)\n", edge(14)),
    Mutant("options are not in the key", FAST,
           "            binding.option_sources[len(options)] = <int16_t>(positional + i)\n"
           "            options.append(name)\n", "            pass\n", edge(27, 30)),
    Mutant("values of options are not in the key", FAST,
           "        words[i] = value.word\n", "        words[i] = 0\n", edge(27)),
    Mutant("options are looked at once", FAST,
           "        if argument != value.object and not specialize_value(kernel.strings, argument, value):\n"
           "            if not specialize",
           "        if value.object == NULL and not specialize_value(kernel.strings, argument, value):\n"
           "            if not specialize", edge(27)),
    Mutant("names of options are not in the key", FAST,
           "fingerprint[1] = (<Binding>binding).option_names", "fingerprint[1] = 0", edge(27)),
    Mutant("order of options is not in the key", FAST,
           "kernel.option_names.setdefault(tuple(options),", "kernel.option_names.setdefault(tuple(sorted(options)),",
           edge(27)),
    Mutant("options are numbered anew while plans know the old numbers", FAST,
           "        forget(kernel)\n        kernel.binding = kernel.run_binding =",
           "        kernel.binding = kernel.run_binding =", edge(30)),
    Mutant("the kernel's debug option is not in the key", FAST,
           "        self.debug_ = value\n        forget(self)\n", "        self.debug_ = value\n",
           ("test_fast.py::test_debug_of_the_kernel", )),

    # ---- binding ----------------------------------------------------------------------------------------------------
    Mutant("names of keywords are not compared", FAST,
           "\n            and same_objects(names, binding.name_items, keywords))", ")", edge(28)),
    Mutant("defaults are those of the last parameter", FAST,
           "else kernel.parameters[i].default\n", "else kernel.parameters[count - 1].default\n", edge(28)),
    Mutant("parameters given by keyword are handed over by position", TRITON,
           "    return run_of(kernel)(grid=grid, warmup=False, *args, **kwargs)",
           "    for name in kernel.arg_names[len(args):]:\n        if name not in kwargs:\n            break\n"
           "        args += (kwargs.pop(name), )\n    return run_of(kernel)(grid=grid, warmup=False, *args, **kwargs)",
           edge(29)),
    Mutant("kernel[grid]() takes what run() takes", FAST,
           "cdef object shape = (through, positional, name_tuple)", "cdef object shape = (positional, name_tuple)",
           edge(30)),
    Mutant("run() needs no grid and no warmup", FAST,
           "    if through != THROUGH_GETITEM and binding.grid_source < 0:\n        return None\n"
           "    if through == THROUGH_RUN and binding.warmup_source == NO_WARMUP:\n        return None\n",
           "    binding.grid_source = max(binding.grid_source, 0)\n"
           "    if through == THROUGH_RUN:\n        binding.warmup_source = max(binding.warmup_source, 0)\n", edge(30)),
    Mutant("run() takes warmup=1 for False", FAST,
           "        if not warmup and args[(<Binding>binding).warmup_source] != Py_False:\n", "        if False:\n",
           ("test_fast.py::test_run", )),

    # ---- what may change between two launches -----------------------------------------------------------------------
    Mutant("knobs are not in the key", FAST, "state.environment << 32 | <uint64_t><uint32_t>device",
           "<uint64_t><uint32_t>device", edge(31)),
    Mutant("knobs are compared by equality", TRITON,
           "    return tuple((type(value), value) for value in values)", "    return tuple(values)", edge(31)),
    Mutant("the runtime knobs are not watched", TRITON,
           "vars(knobs), _own_dict(runtime), ", "vars(knobs), ", edge(31, 34)),
    Mutant("the compilation knobs are not watched", TRITON,
           "_own_dict(runtime), _own_dict(compilation), ", "_own_dict(runtime), ", edge(31)),
    Mutant("knob objects replaced as a whole are not noticed", TRITON,
           "dicts = [vars(knobs), ", "dicts = [", edge(31)),
    Mutant("the stages hook is ignored", TRITON,
           'elif getattr(knobs.runtime, "add_stages_inspection_hook", None) is not None:', "elif False:", edge(32),
           needs="Triton 3.7"),
    Mutant("the environment variable is read once", TRITON,
           "variables = [_FPSAN_VARIABLE.encode()] if _has_fpsan(compilation) else []", "variables = []", edge(33),
           needs="Triton 3.9"),
    Mutant("hooks added to the chains are not noticed", FAST,
           "        for watched in lists:\n", "        for watched in ():\n", edge(34)),
    Mutant("the list of a hook chain is the one seen first", TRITON,
           "            dicts.append(_own_dict(hook))\n", "", edge(34)),
    Mutant("the exit hook is ignored", TRITON,
           "for hook in (knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook)):\n        reason",
           "for hook in (knobs.runtime.launch_enter_hook, )):\n        reason", edge(34, 35)),
    Mutant("no hooks run for an empty grid", FAST,
           "    cdef int reason = live_reason(kernel)\n",
           "    cdef int reason = live_reason(kernel)\n"
           "    if reason == LAUNCH_HOOK and grid != NULL and is_tuple(grid) and 0 in <object>grid:\n"
           "        return lowlat_new_reference((<Plan>kernel.plans_.last).reference())\n", edge(35)),
    Mutant("a hook that the grid callable installs has no metadata", TRITON,
           "    launch_metadata = compiled.launch_metadata(grid, stream, *bound.values())\n",
           "    launch_metadata = None\n", edge(36)),
    Mutant("a hook that the grid callable installs is not called", FAST,
           "\n            or live_reason(kernel) != OK):", "):", edge(36)),
    Mutant("pre-run hooks are not called", FAST, "        return PRE_RUN_HOOK\n", "        return OK\n", edge(37)),
    Mutant("globals are not compared", FAST,
           "    if kernel.has_globals and not globals_unchanged(kernel):\n        return leave",
           "    if False:\n        return leave", edge(38)),
    Mutant("a global that is the same object is equal", FAST,
           "    if value != item.recorded:", "    if value is not item.recorded and value != item.recorded:", edge(38)),
    Mutant("a global that cannot be compared is the first error", FAST,
           "    except Exception:\n        return False  # Triton",
           "    except LookupError:\n        return False  # Triton", edge(38)),
    Mutant("constexpr globals do not change in place", FAST,
           '                or (item.attributes is not None\n'
           '                    and PyDict_GetItemWithError(item.attributes, "value") != item.value)):\n',
           "                or False):\n", edge(38),
           also=(("lowlat_set_stamp(&item.stamp, item.namespace, item.attributes)",
                  "lowlat_set_stamp(&item.stamp, item.namespace, item.namespace)"), )),
    Mutant("a stamped constexpr global does not change in place", FAST,
           "lowlat_set_stamp(&item.stamp, item.namespace, item.attributes)",
           "lowlat_set_stamp(&item.stamp, item.namespace, item.namespace)", edge(38), needs="CPython 3.11 or older"),
    Mutant("a module's globals are looked at once", FAST,
           "        if lowlat_stamp_current(&item.stamp, <PyObject*>item.namespace):\n",
           "        if item.seen != NULL:\n", edge(38)),
    Mutant("Triton's cache is not asked", FAST,
           "    if not lowlat_stamp_current(&(<Plan>plan).stamp, <PyObject*>kernel.device_caches):\n",
           "    if (<Plan>plan).compiled == NULL:\n", edge(39)),
    Mutant("any kernel under the key will do", FAST,
           "    if found == NULL or found != PyWeakref_GET_OBJECT(plan.reference):\n", "    if found == NULL:\n",
           edge(39)),
    Mutant("writes to the kernel cache are not noticed", PYTHON_H,
           " &&\n           stamp->inner_version == *stamp->inner;", ";", edge(39), needs="CPython 3.11 or older"),
    Mutant("writes to the caches are not noticed", PYTHON_H,
           "stamp->outer == outer && stamp->outer_version == lowlat_cache_changes", "stamp->outer == outer", edge(39),
           needs="CPython 3.12"),
    Mutant("futures are waited for", "jit.py",
           "    return _triton.launch_with_triton(kernel, grid, args, kwargs)",
           "    result = _triton.launch_with_triton(kernel, grid, args, kwargs)\n"
           '    return result.result() if hasattr(result, "result") else result', edge(40), needs="Triton 3.7"),
    Mutant("a declined compilation is remembered", TRITON,
           "(warmup or _is_loaded(compiled)):\n        return None\n",
           '(warmup or _is_loaded(compiled)):\n        return _fast.Plan("triton", reason="no kernel")\n', edge(41)),
    Mutant("device is not in the key", FAST, "state.environment << 32 | <uint64_t><uint32_t>device",
           "state.environment << 32", edge(42)),
    Mutant("launches go to the default stream", FAST,
           "        if lowlat_current_stream(device, &stream) != 0:\n            return leave",
           "        if False:\n            return leave", edge(43)),
    Mutant("tensors of another device are refused", FAST,
           "    if not lowlat_on_device(tensor.device):\n        return NOT_ON_DEVICE\n",
           "    if not lowlat_on_device(tensor.device):\n        return NOT_ON_DEVICE\n"
           "    if (<object>argument).get_device() not in (-1, lowlat_current_device()):\n"
           "        raise ValueError('the tensor is on another device')\n", edge(44)),
    Mutant("CPU tensors are launched", FAST,
           "    if not lowlat_on_device(tensor.device):\n        return NOT_ON_DEVICE\n", "", edge(45)),
    Mutant("another active driver is not noticed", TRITON,
           "_own_dict(compilation), _own_dict(_driver_config)]", "_own_dict(compilation)]", edge(46)),
    Mutant("a getter put on the driver is not noticed", TRITON,
           "        dicts.append(_own_dict(active))\n", "", edge(46)),
    Mutant("any driver is CUDA's", TRITON,
           "elif not (_is_cuda(active) or _is_hip(active)):", "elif False:",
           edge(22, 46)),
    Mutant("patched launch functions are not noticed", TRITON, "    return (any(", "    return False and (any(",
           edge(65)),
    Mutant("classes are not watched", FAST, "        for watched in types:\n", "        for watched in ():\n",
           ("test_edge_cases.py::test_whoever_wraps_a_function_of_the_launch_sees_every_launch", )),
    Mutant("run on the instance is not called", FAST,
           "    if reason == OK and kernel.run_replaced and through != THROUGH_RUN:\n", "    if False:\n",
           ("test_jit.py::test_run_set_on_the_instance", )),
    Mutant("the run that was replaced goes to Triton", FAST,
           "    if reason == OK and kernel.run_replaced and through != THROUGH_RUN:\n",
           "    if reason == OK and kernel.run_replaced:\n",
           ("test_jit.py::test_run_set_on_the_instance_calls_the_one_before", )),
    Mutant("a doubled keyword is refused in lowlat's name", TRITON,
           "    if \"grid\" in kwargs and \"warmup\" in kwargs:\n", "    if False:\n",
           ("test_jit.py::test_doubled_keywords", )),
    Mutant("a doubled keyword is refused in lowlat's name where Triton is patched", TRITON,
           "    if inspect.getattr_static(KernelInterface, \"__getitem__\") is _ORIGINALS[1][2]:\n", "    if False:\n",
           ("test_jit.py::test_doubled_keywords", )),
    Mutant("run of a subclass is not called", FAST,
           "        return SUBCLASS\n    if not", "        return OK\n    if not", ("test_jit.py::test_subclass", )),
    Mutant("a fork is not noticed", FAST,
           "    state.forked = True\n    state.stale = True\n", "    state.stale = True\n", edge(50)),

    # ---- threads, lifetimes, tensors of other kinds -----------------------------------------------------------------
    Mutant("a thread without a context is an error", FAST,
           "        if result == CUDA_ERROR_INVALID_CONTEXT and no_context():\n            # Nothing",
           "        if False:\n            # Nothing", edge(48)),
    Mutant("a context that is gone is no context", FAST,
           "        if result == CUDA_ERROR_INVALID_CONTEXT and no_context():\n            # Nothing",
           "        if result == CUDA_ERROR_INVALID_CONTEXT:\n            # Nothing",
           ("test_fast.py::test_a_context_that_is_gone", )),
    Mutant("a thread without a context is an error over a callable grid", FAST,
           "        if result == CUDA_ERROR_INVALID_CONTEXT and no_context():\n"
           "            reason = NO_CONTEXT\n        elif",
           "        if False:\n            pass\n        elif", edge(48)),
    Mutant("tensors of another device are launched", FAST,
           "    if lowlat_elsewhere(&tensor, device):\n", "    if False:\n", edge(44)),
    Mutant("the size of a storage is not in the key", FAST,
           "    if lowlat_torch.ranged and tensor.small:\n", "    if False:\n",
           ("test_generated.py::test_storage_size_is_in_the_fingerprint", )),
    Mutant("scratch memory is not allocated", FAST,
           "    if plan.scratch_size is not None:\n", "    if False:\n", edge(49)),
    Mutant("parameters are in a static buffer", FAST,
           "cdef uint64_t* payload = <uint64_t*>alloca((count + TAIL_ROOM) * sizeof(uint64_t))\n    fingerprint[0] = h",
           "cdef uint64_t* payload = static_payload\n    fingerprint[0] = h", edge(51),
           also=(("cdef lowlat_driver_api driver\n",
                  "cdef lowlat_driver_api driver\ncdef uint64_t[4096] static_payload\n"), )),
    Mutant("arguments of the first call are kept alive", FAST,
           "        hold_named(arguments[i], keepalive)\n", "        keepalive.append(<object>arguments[i])\n",
           edge(52)),
    Mutant("kernels are kept alive", FAST,
           "        plan.keepalive = tuple(keepalive)\n", "        plan.keepalive = (*keepalive, result)\n", edge(52)),
    Mutant("a kernel is not held during its launch", FAST,
           "    cdef object compiled = borrowed_kernel\n", "    cdef PyObject* compiled = <PyObject*>borrowed_kernel\n",
           edge(52),
           also=(("        state.finish_with_triton(kernel, compiled,",
                  "        state.finish_with_triton(kernel, <object>compiled,"),
                 ("    return lowlat_new_reference(compiled)\n\n\ncdef bint read_addresses",
                  "    return lowlat_new_reference(<object>compiled)\n\n\ncdef bint read_addresses"))),
    Mutant("a torch function mode is ignored", FAST,
           "                if function_mode_enabled():\n                    return TORCH_FUNCTION_MODE\n"
           "                modes_checked = True\n            if parameter",
           "                modes_checked = True\n            if parameter", edge(53)),
    Mutant("subclasses of Tensor are tensors", FAST,
           "        if kind == tensor_type or kind == state.parameter_type:\n            if not modes_checked:",
           "        if isinstance(<object>argument, <object>tensor_type):\n            if not modes_checked:",
           edge(53)),
    Mutant("a tensor without an address is launched", FAST,
           "        if lowlat_shim_read(argument, &tensor):\n            return UNREADABLE\n",
           "        lowlat_shim_read(argument, &tensor)\n", edge(61)),
    Mutant("data_ptr() is asked to make the key", FAST,
           "        return specialize_tensor(parameter, argument, device, tag, payload)\n    return ARGUMENT\n",
           "        return specialize_tensor(parameter, argument, device, tag, payload)\n"
           "    if hasattr(<object>argument, 'data_ptr') and (<object>argument).data_ptr() < 0:\n"
           "        return UNREADABLE\n    return ARGUMENT\n", edge(62)),

    # ---- arguments with contents ------------------------------------------------------------------------------------
    Mutant("the length of a tuple is not in the key", FAST,
           "    if add_word(tail, <uint64_t>kind) != OK or add_word(tail, <uint64_t>size) != OK:\n",
           "    if add_word(tail, <uint64_t>kind) != OK:\n", arguments("tuples")),
    Mutant("items of tuples are not in the key", FAST,
           "        place[0] = item_tag\n", "        place[0] = 0\n", arguments("tuples")),
    Mutant("the tail is not in the key", FAST,
           "    cdef Py_ssize_t size = ((<Binding>binding).words + tail.words_used) * sizeof(uint64_t)\n",
           "    cdef Py_ssize_t size = (<Binding>binding).words * sizeof(uint64_t)\n", arguments("tuples")),
    Mutant("1 in a tuple is like any other", FAST,
           "            if reason == OK and tail.payload[leaf] == 1:\n                item_tag = TAG_ONE\n", "",
           arguments("tuples")),
    Mutant("1 in a tuple takes part in the launch", TRITON,
           '        elif type_ != "constexpr":\n            add(type_, place)',
           '        elif type_ != "constexpr" or place >= len(arguments):\n'
           '            add("i32" if type_ == "constexpr" else type_, place)',
           arguments("tuples")),
    Mutant("items that are compiled in have no place", TRITON,
           "                if not isinstance(item, tuple):\n",
           '                if not isinstance(item, tuple) and item != "constexpr":\n', arguments("tuples")),
    Mutant("a parameter's do_not_specialize is for the items of tuples, too", FAST,
           "specialize_int(&TUPLE_ITEM, item,", "specialize_int(NOT_SPECIALIZED, item,", arguments("tuples"),
           also=(("cdef Parameter TUPLE_ITEM\n",
                  "cdef Parameter UNSPECIALIZED\ncdef Parameter* NOT_SPECIALIZED = &UNSPECIALIZED\n"
                  "cdef Parameter TUPLE_ITEM\n"), )),
    Mutant("tuples that iterate otherwise are tuples", FAST,
           "    if not is_tuple(items) and not iterates_as_tuple(kind):\n        return ARGUMENT\n", "",
           arguments("items_that_triton_refuses_or_that_iterate_otherwise")),
    Mutant("the tail has no end", FAST,
           "    if tail.words_used == TAIL_ROOM:\n        return ARGUMENT\n", "",
           arguments("a_tuple_larger_than_the_tail")),
    Mutant("a constexpr object is looked at once", FAST,
           "    if kind == state.constexpr_class:\n        text.fixed = False\n",
           "    if kind == state.constexpr_class:\n", arguments("a_constexpr_whose_value_is_assigned")),
    Mutant("the value of a constexpr object is not in the key", FAST,
           "    if add_word(tail, value.tag) != OK:\n        return ARGUMENT\n    return add_word(tail, value.word)\n",
           "    return add_word(tail, value.tag)\n", arguments("constexpr_objects_where_a_value_could_be")),
    Mutant("constexpr tuples are told by their size", FAST,
           "            if not write_value(text, strings, tuple_items(argument)[i], named, is_option):\n"
           "                return False\n", "            pass\n", arguments("contents_of_constexprs")),
    Mutant("whatever has a hash is compared by identity", FAST,
           "    if hashes_as(kind, &PyBaseObject_Type) or is_plain_enum(<object>argument):\n",
           "    if True:\n", arguments("contents_of_constexprs", "constexprs_are_asked_for_their_hash_as_often")),
    Mutant("what is compared by identity is not held", FAST,
           "        named.append(<object>argument)\n        return write_word(text, TEXT_IDENTITY",
           "        return write_word(text, TEXT_IDENTITY", arguments("identities_are_held")),
    Mutant("a kernel argument is known by its class", FAST,
           "    return add_word(tail, number_of(strings, <PyObject*>hashed))\n", "    return OK\n",
           arguments("kernels_as_arguments", "a_kernel_argument_whose_source_changes")),
    Mutant("a kernel constexpr is looked at once", FAST,
           "    if <object><PyObject*>kind in state.kernel_types:\n        text.fixed = False\n",
           "    if <object><PyObject*>kind in state.kernel_types:\n",
           arguments("a_kernel_argument_whose_source_changes")),
    Mutant("dicts in options are looked at once", FAST,
           "            return False\n        text.fixed = False\n        for name, item in",
           "            return False\n        for name, item in", arguments("options_that_change_in_place")),
    Mutant("the dtype of a wrapper is its tensor's", FAST,
           "    return add_dtype(strings, dtype, tail)\n\n\ncdef int specialize_constant",
           "    return OK\n\n\ncdef int specialize_constant", arguments("reinterpreted_tensors")),
    Mutant("the alignment of a wrapped tensor is not in the key", FAST,
           "    tag[0] = TAG_WRAPPED + (tag[0] & 1)\n", "    tag[0] = TAG_WRAPPED\n",
           arguments("reinterpreted_tensors")),
    Mutant("a subclass of Tensor is looked at once", FAST,
           "kind == state.plain_tensor and version == state.plain_tensor_version and version != 0",
           "kind == state.plain_tensor", arguments("a_tensor_subclass_patched_later")),
    Mutant("only the class itself makes a tensor special", FAST,
           "    for owner in (<object><PyObject*>kind).__mro__:\n", "    for owner in (<object><PyObject*>kind, ):\n",
           arguments("tensor_subclasses_that_answer_for_themselves")),
    Mutant("an int subclass of 1 has the key of 1", FAST,
           "            tag[0] = TAG_ONE_OF_CLASS\n            return add_word(tail, <uint64_t>kind)\n",
           "            tag[0] = TAG_I32\n", arguments("numbers_of_subclasses")),
    Mutant("*args has the place of the parameter", FAST,
           "return values_of(args + kernel.variadic,", "return values_of(args,", arguments("variadic_parameters"),
           needs="Triton 3.8"),
    Mutant("a keyword named as *args is it", FAST,
           "            if kernel.positions[name] == kernel.variadic:\n                return None",
           "            if False:\n"
           "                return None", arguments("variadic_parameters"), needs="Triton 3.8"),
    Mutant("keyword-only parameters can be given by position", TRITON,
           "            positional = min(positional, i)\n", "",
           arguments("keyword_only_parameters"), needs="Triton 3.9"),

    # ---- grid -------------------------------------------------------------------------------------------------------
    Mutant("a missing grid dimension is 0", FAST, "    blocks[1] = 1\n", "    blocks[1] = 0\n", edge(54)),
    Mutant("grid elements are converted", FAST,
           "            if not is_numpy_integer(type_of(item)):\n                return False\n"
           "            index = PyNumber_Index(index)\n", "            index = int(index)\n", edge(56)),
    Mutant("no grid is one block", FAST,
           "    if size < 1:\n        return False\n",
           "    if size < 1:\n        blocks[0] = blocks[1] = blocks[2] = 1\n        return True\n", edge(56)),
    Mutant("the product of the grid is taken in 64 bits", FAST,
           "return <int32_t>(<uint32_t>blocks[0] * <uint32_t>blocks[1] * <uint32_t>blocks[2]) <= 0",
           "return <int64_t>blocks[0] * blocks[1] * blocks[2] <= 0", edge(57)),
    Mutant("a negative product launches", FAST,
           "<uint32_t>blocks[2]) <= 0", "<uint32_t>blocks[2]) == 0", edge(57)),
    Mutant("the grid is copied", FAST,
           "    (<Launcher>launcher).grid = <object>grid\n",
           "    (<Launcher>launcher).grid = tuple(<object>grid) if is_list(grid) else <object>grid\n", edge(58)),
    Mutant("what a grid callable changes is ignored", FAST,
           "not unwritten(bound, tag) and not still_bound(kernel, bound, arguments)", "False",
           edge(55)),
    Mutant("a tensor that a grid callable moves is passed as it was", FAST,
           "    elif not read_addresses(kernel, plan.device, arguments, tags, payload, tail):\n", "    elif False:\n",
           edge(62)),
    Mutant("all grid callables get one dict", FAST,
           "    cdef dict bound = named.spare\n    if bound is None:\n        bound = lowlat_noticed_copy(",
           "    cdef dict bound = named.template\n    if False:\n        bound = lowlat_noticed_copy(", edge(55)),
    Mutant("a dict that was kept is used again", FAST,
           "    return Py_REFCNT(<PyObject*>bound) == 1 and named", "    return named",
           (*edge(55), *tuned("each_heuristic_gets_its_own_dict"))),
    Mutant("a dict that was written to is used again", FAST,
           "named.places_known and unwritten(bound, tag)\n", "named.places_known\n",
           (*edge(55), *tuned("each_heuristic_gets_its_own_dict"))),
    Mutant("a dict in use is used again", FAST,
           "    else:\n        named.spare = None\n    set_arguments", "    set_arguments", edge(55),
           also=(("    return Py_REFCNT(<PyObject*>bound) == 1 and named", "    return named"), )),
    Mutant("a dict keeps the tensors of the call before", FAST,
           "            if not is_scalar(arguments[i]):\n", "            if False:\n", edge(52)),
    Mutant("numpy's subclasses are integers of numpy's", FAST,
           "        if kind == <PyTypeObject*>known:\n", "        if issubclass(<object>kind, known):\n", edge(54)),
    Mutant("a constexpr is the number it holds", FAST,
           "            if type(index) is not int or state.constexpr_type.__index__ is not state.constexpr_index:\n",
           "            if type(index) is not int:\n", edge(54)),
    Mutant("bools and the like are multiplied for Triton", FAST,
           "        if route == ROUTE_LAUNCHER:\n            return False  # Triton's", "        if False:\n"
           "            return False  # Triton's", routes("sizes_as_they_are_multiplied")),
    Mutant("every subclass of tuple is a tuple", PYTHON_H,
           "    return PyTuple_Check(object) &&\n           type->tp_as_mapping->mp_subscript == "
           "PyTuple_Type.tp_as_mapping->mp_subscript &&\n           type->tp_as_sequence->sq_length == "
           "PyTuple_Type.tp_as_sequence->sq_length;\n", "    (void)type;\n    return PyTuple_Check(object);\n",
           edge(54)),
    Mutant("a tuple is never called", FAST,
           "    return not is_tuple(grid) and not is_list(grid) and PyCallable_Check",
           "    return not isinstance(<object>grid, (tuple, list)) and PyCallable_Check", edge(54)),

    # ---- the launch -------------------------------------------------------------------------------------------------
    Mutant("True is all ones", FAST,
           "    elif kind == &PyBool_Type:\n        tag[0] = TAG_BOOL\n        payload[0] = argument == Py_True\n",
           "    elif kind == &PyBool_Type:\n        tag[0] = TAG_BOOL\n        "
           "payload[0] = 255 if argument == Py_True else 0\n", edge(59)),
    Mutant("declared bools are 0 or 1", FAST,
           "    if kind != &PyLong_Type or parameter.kind == KIND_OTHER:\n        return ANNOTATION\n",
           "    if parameter.kind == KIND_OTHER and kind == &PyLong_Type:\n        tag[0] = TAG_BOOL\n"
           "        payload[0] = 1 if <object>argument else 0\n        return OK\n"
           "    if kind != &PyLong_Type:\n        return ANNOTATION\n", edge(59)),
    Mutant("bf16 is rounded", FAST, "return half >> 16 if bits == 16 else half",
           "return (half + 0x8000) >> 16 if bits == 16 else half", edge(60)),
    Mutant("fp16 is passed as fp32", TRITON, '_PACKED_TYPES = {"i1", ', '_PACKED_TYPES = {"fp16", "i1", ', edge(60)),
    Mutant("-0.0 is 0.0", FAST, "    single = <float>number\n", "    single = <float>(number + 0.0)\n", edge(60)),
    Mutant("infinity stops at the largest float", FAST, "    single = <float>number\n",
           "    single = <float>max(min(number, 3.4028234663852886e38), -3.4028234663852886e38)\n", edge(60)),
    Mutant("the wrapper route over a callable grid launches nothing", FAST,
           "        call_wrapper(plan, blocks, stream, arguments, kernel.parameter_count)\n", "        pass\n",
           edge(60)),
    Mutant("the wrapper route confuses cooperative and PDL", TRITON,
           "modes = (launcher.launch_cooperative_grid, launcher.launch_pdl)",
           "modes = (launcher.launch_pdl, launcher.launch_cooperative_grid)", edge(27)),
    Mutant("the wrapper route launches on the default stream", FAST,
           "    put(values, before + 3, <uint64_t>stream)\n", "    put(values, before + 3, 0)\n", edge(43)),
    Mutant("launch attributes are in another order", FAST,
           "        if pdl:\n"
           "            self.add_attribute(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, 1)\n"
           "        if cooperative:\n            self.add_attribute(CU_LAUNCH_ATTRIBUTE_COOPERATIVE, 1)\n",
           "        if cooperative:\n            self.add_attribute(CU_LAUNCH_ATTRIBUTE_COOPERATIVE, 1)\n"
           "        if pdl:\n"
           "            self.add_attribute(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, 1)\n", edge(27)),
    Mutant("clusters are not asked for", FAST, "        if clusters != 1:\n", "        if False:\n", edge(27, 57)),
    Mutant("the grid is not counted in clusters", FAST,
           "<uint32_t>blocks[0] * plan.clusters", "<uint32_t>blocks[0]", edge(27, 57)),
    Mutant("clusters of 16 are not allowed first", FAST, "    if plan.clusters == 16:\n", "    if False:\n",
           ("test_fast.py::test_failed_cluster_attribute", )),
    Mutant("no dynamic shared memory", FAST, "config.shared = plan.shared", "config.shared = 0",
           ("test_fast.py::test_shared_memory", )),
    Mutant("the driver's errors are swallowed", FAST,
           "        raise_driver_error(result)\n    return compiled\n", "        pass\n    return compiled\n",
           ("test_fast.py::test_failed_launches", )),
    Mutant("the driver's errors are swallowed over a callable grid", FAST,
           "        elif result != 0:\n            raise_driver_error(result)\n", "", edge(42)),
    Mutant("Triton's errors are swallowed", FAST,
           "        result = state.launch_with_triton(kernel, <object>grid, values, named)\n",
           "        try:\n            result = state.launch_with_triton(kernel, <object>grid, values, named)\n"
           "        except Exception:\n            result = None\n", edge(47)),
    Mutant("a native launch returns nothing", FAST,
           "        raise_driver_error(result)\n    return compiled\n",
           "        raise_driver_error(result)\n    lowlat_release(compiled)\n    lowlat_hold(Py_None)\n"
           "    return Py_None\n", edge(63)),
    Mutant("warmup launches", FAST,
           "    if warmup:\n        lowlat_hold(compiled)\n        return compiled\n", "", edge(64)),
    Mutant("the last but one plan is taken unseen", FAST,
           "    if not matches(found, fingerprint, size):\n        slot =",
           "    if found == NULL:\n        slot =", edge(2)),

    # ---- the table of plans -----------------------------------------------------------------------------------------
    Mutant("plans are found by hash alone", FAST,
           "(slot.hash == hash\n                                and matches(entry_at(table, slot.number - 1), "
           "fingerprint, size))", "slot.hash == hash", fast("fingerprints_with_one_hash")),
    Mutant("plans grow without bound", FAST,
           "        if len(table.entries) < MAX_PLANS:\n", "        if True:\n",
           (*fast("plans_are_bounded"), *tuned("keys_are_bounded"))),
    Mutant("an evicted plan hides others", FAST,
           "        if ((place - table.slots[place].hash) & table.mask) >= ((place - hole) & table.mask):\n",
           "        if False:\n", fast("plans_are_bounded")),
    Mutant("a plan that moves up is hidden", FAST,
           "        if ((place - table.slots[place].hash) & table.mask) >= ((place - hole) & table.mask):\n",
           "        if True:\n", fast("plans_are_bounded")),
    Mutant("plans in use are evicted in their turn", FAST,
           "    (<Entry>found).used = True\n", "    pass\n", fast("plans_are_bounded")),
    Mutant("when the table grows, nothing moves", FAST,
           "            place = table.slots[i].hash & (2 * count - 1)\n", "            place = i\n",
           fast("plans_are_bounded")),
    Mutant("a forgotten kernel's plan is kept beside the new one", FAST,
           "    if slot.number == 0:\n        if len(table.entries)", "    if True:\n        if len(table.entries)",
           fast("a_forgotten_plan_is_replaced")),

    # ---- calls that are the same for Triton -------------------------------------------------------------------------
    Mutant("a kernel is described once, whatever Triton's cache has by now", FAST,
           "    if caches is None or caches[0].get(plan.key) is not compiled:\n        return None\n", "",
           routes("alike_under_another_key")),
    Mutant("forgetting keeps what was described", FAST,
           "    clear_table(kernel.plans_)\n    kernel.described.clear()\n", "    clear_table(kernel.plans_)\n",
           routes("alike_but_compiled_anew")),
    Mutant("each kind of call describes the kernel", FAST,
           "            kernel.described[<size_t><void*>result] = described\n", "            pass\n",
           routes("alike_for_triton")),
    Mutant("a copied plan has no attributes", FAST,
           "    copy.attribute_count = plan.attribute_count\n", "", routes("alike_for_triton")),
    Mutant("a copied plan has no clusters", FAST, "    copy.clusters = plan.clusters\n", "    copy.clusters = 1\n",
           routes("alike_for_triton")),
    Mutant("a copied plan asks for no scratch memory", FAST, "    copy.scratch_size = plan.scratch_size\n", "",
           routes("alike_for_triton")),
    # ---- the graph route --------------------------------------------------------------------------------------------
    Mutant("a graph is launched with what it was made with", FAST, "NULL if as_it_is else &launch", "NULL",
           graphs("the_same_launches")),
    Mutant("a graph with the same parameters has the same grid", GRAPH_H,
           "launch->extra != NULL && memcmp(graph->grid, launch->grid, sizeof graph->grid) == 0 &&",
           "launch->extra != NULL &&", graphs("a_launch_like_the_last")),
    Mutant("a graph over the same grid has the same parameters", GRAPH_H,
           " &&\n           memcmp(graph->bytes, launch->extra[1], graph->size) == 0;\n", ";\n",
           graphs("a_launch_like_the_last")),
    Mutant("a graph forgets what it was given", GRAPH_H,
           "        memcpy(graph->bytes, launch->extra[1], graph->size);\n    }\n", "    }\n",
           graphs("a_launch_like_the_last")),
    Mutant("a graph is given what it has", FAST, "        as_it_is[0] = True\n", "        pass\n",
           graphs("a_launch_like_the_last")),
    Mutant("parameters are by turns given to one graph", FAST, "        if repeat != NULL:\n            own",
           "        if False:\n            own", graphs("parameters_by_turns")),
    Mutant("a graph of their own is given the parameters that it has", FAST,
           "        as_it_is[0] = lowlat_graph_has(own, launch)\n", "", graphs("parameters_by_turns")),
    Mutant("a graph of their own has the parameters", FAST,
           "        as_it_is[0] = lowlat_graph_has(own, launch)\n", "        as_it_is[0] = True\n",
           graphs("parameters_that_take_the_places_of_others", "whatever_comes_again")),
    Mutant("parameters have a graph in whichever stream", GRAPH_H,
           "hash = (uintptr_t)stream ^ launch->grid[0]", "hash = launch->grid[0]",
           graphs("parameters_by_turns", "whatever_comes_again"),
           also=(("if (graph != NULL && graph->stream == stream && graph->context == context && lowlat",
                  "if (graph != NULL && lowlat"),
                 ("    if (graph != NULL && (graph->stream != stream || graph->context != context)) {",
                  "    if (0) {"))),
    Mutant("any parameters get a graph of their own", GRAPH_H,
           "    if (repeat->heat <= repeats->hot)\n", "    if (0)\n",
           graphs("parameters_that_are_not_launched_again", "a_graph_per_stream")),
    Mutant("others go for a graph of parameters' own", GRAPH_H,
           "    if (lowlat_graph_count < lowlat_graph_budget)\n        return 1;\n    if (repeat",
           "    return 1;\n    if (repeat",
           graphs("parameters_get_no_graph_for_which_another_would_go")),
    Mutant("parameters keep a graph that is gone", GRAPH_H,
           "    if (graph->repeat != NULL)\n        graph->repeat->graph = NULL;\n", "",
           graphs("a_graph_of_their_own_goes", "whatever_comes_again")),
    Mutant("graphs of parameters outlive their plans", FAST,
           "        while self.repeats != NULL and self.repeats.graphs != NULL:\n"
           "            lowlat_graph_destroy(self.repeats.graphs)\n", "", graphs("a_graph_of_their_own_goes")),
    Mutant("parameters keep their place for ever", GRAPH_H,
           "        places[repeats->hand++ % LOWLAT_WAYS].heat--;\n", "",
           graphs("parameters_that_take_the_places_of_others")),
    Mutant("the plan's graph waits while those of its parameters are launched", FAST,
           "    lowlat_graph_used(graph)  # last", "    if own == NULL: lowlat_graph_used(graph)  # last",
           graphs("a_graph_of_their_own_goes")),
    Mutant("the plan's graph goes before those of its parameters", FAST,
           "    lowlat_graph_used(graph)  # last", "    if own == NULL: lowlat_graph_used(graph)  # last",
           graphs("a_plan_keeps_the_graph_for_any_parameters"),
           also=(("        lowlat_graph_used(own)\n",
                  "        lowlat_graph_used(graph)\n        lowlat_graph_used(own)\n"), )),
    Mutant("graphs of parameters that are not launched any more stay", GRAPH_H,
           "lowlat_graph_clock - oldest->used < LOWLAT_STALE * (uint64_t)lowlat_graph_budget)", "1)",
           graphs("parameters_that_are_not_launched_any_more_make_room")),
    Mutant("any graph of parameters makes room for another", GRAPH_H,
           "lowlat_graph_clock - oldest->used < LOWLAT_STALE * (uint64_t)lowlat_graph_budget)", "0)",
           graphs("parameters_get_no_graph_for_which_another_would_go")),
    Mutant("a graph of their own that was refused is tried again as soon", GRAPH_H,
           "            lowlat_cool_down(&repeats->hot);\n", "",
           graphs("refused_graphs_of_parameters_are_tried_less_often")),
    Mutant("parameters get a graph at once", GRAPH_H,
           "hot < LOWLAT_LEAST_HEAT ? LOWLAT_LEAST_HEAT : hot;", "hot;",
           graphs("parameters_that_are_never_launched_again")),
    Mutant("what is measured of graphs is the first launch of each", FAST,
           "    elif race != NULL and not race.known:\n        if graph.busy:\n            return IN_USE\n", "",
           graphs("auto_measures_one_graph")),
    Mutant("a graph of parameters' own is used by two threads at once", GRAPH_H,
           "    if (graph != NULL && graph->busy)\n        return NULL;\n", "",
           graphs("threads_with_parameters_by_turns")),
    Mutant("all parameters are words", FAST, "        plan.offsets[i] = <uint16_t>offset\n",
           "        plan.offsets[i] = <uint16_t>(8 * i)\n", ("test_routes.py::test_parameters_of_all_sizes", )),
    Mutant("all streams share a graph", GRAPH_H, "    while (first != NULL && first->stream != stream)\n        first",
           "    (void)stream;\n    while (0)\n        first", graphs("a_graph_per_stream")),
    Mutant("launches with attributes take the graph route", FAST,
           "    if plan.attribute_count != 0:\n        return PLAIN_ONLY\n", "", graphs("attributes")),
    Mutant("captured streams take the graph route", FAST,
           "    if lowlat_graphs.is_capturing(stream, &capturing) != 0 or capturing:\n        return "
           "CAPTURING\n", "", graphs("captured_streams")),
    Mutant("an answer that a stream cannot be asked is none", FAST,
           "    if lowlat_graphs.is_capturing(stream, &capturing) != 0 or capturing:\n        return "
           "CAPTURING\n",
           "    lowlat_graphs.is_capturing(stream, &capturing)\n    if capturing:\n        return "
           "CAPTURING\n", graphs("the_legacy_stream_while_another_is_captured")),
    Mutant("graphs are made while another stream is captured, as ever", GRAPH_H,
           "    mode = lowlat_relax_capture(CU_STREAM_CAPTURE_MODE_RELAXED);\n    result = lowlat_graphs.create",
           "    mode = 0;\n    result = lowlat_graphs.create", graphs("captured_streams")),
    Mutant("graphs are launched for the first time while another stream is captured, as ever", GRAPH_H,
           "first = !graph->launched;", "first = 0;", graphs("captured_streams")),
    Mutant("a thread stays in relaxed mode", GRAPH_H,
           "        result = lowlat_graphs.instantiate(&graph->exec, graph->graph, 0);\n    "
           "lowlat_relax_capture(mode);\n",
           "        result = lowlat_graphs.instantiate(&graph->exec, graph->graph, 0);\n",
           graphs("captured_streams")),
    Mutant("the per-thread stream is one stream", FAST,
           "    if stream == <CUstream>CU_STREAM_PER_THREAD:\n        return PER_THREAD\n", "",
           graphs("the_per_thread_stream")),
    Mutant("CUDA_LAUNCH_BLOCKING does not matter", FAST, "    if state.launch_blocking:\n        return BLOCKING\n", "",
           graphs("launch_blocking", "environment")),
    Mutant("a graph is launched in any context", FAST,
           "    if driver.current_context(&context) != 0 or context == NULL or (graph != NULL and context != "
           "graph.context):\n        return OTHER_CONTEXT\n", "    driver.current_context(&context)\n",
           graphs("another_context")),
    Mutant("a graph is used by two threads at once", FAST,
           "        if own == NULL and graph.busy:\n            return IN_USE\n", "", graphs("threads_on_one_stream")),
    Mutant("a graph in use may be evicted or dropped", FAST,
           "        if not graph.busy:\n            lowlat_graph_destroy",
           "        if True:\n            lowlat_graph_destroy", graphs("plans_dropped_while_they_launch")),
    Mutant("a refused graph is an error", FAST,
           "            lowlat_graph_destroy(graph)\n            lowlat_cool_down(&plan.hot)\n            "
           "submission = REFUSED\n", "            return result\n",
           graphs("a_graph_is_refused", "a_grid_that_the_driver_refuses")),
    Mutant("a refused graph is used again", FAST,
           "            lowlat_graph_destroy(graph)\n            lowlat_cool_down(&plan.hot)\n            "
           "submission = REFUSED\n", "            submission = REFUSED\n", graphs("a_graph_is_refused")),
    Mutant("a launch that a graph made is made again", FAST,
           "            if result == 0:\n                plan.submitted_[BY_GRAPH] += 1\n",
           "            if False:\n                plan.submitted_[BY_GRAPH] += 1\n", graphs("the_same_launches")),
    Mutant("graphs outlive their plans", FAST,
           "        while self.graphs_ != NULL:\n            lowlat_graph_destroy(self.graphs_)\n", "",
           graphs("they_go_with_their_plans")),
    Mutant("there may be any number of graphs", GRAPH_H,
           "    while (lowlat_graph_count > most) {", "    (void)most;\n    while (0) {",
           graphs("there_are_no_more_than_may_be")),
    Mutant("the graph used last goes", GRAPH_H,
           "if (!graph->busy && (oldest == NULL || graph->used < oldest->used))",
           "if (!graph->busy && (oldest == NULL || graph->used > oldest->used))",
           graphs("there_are_no_more_than_may_be")),
    Mutant("an evicted plan's next graph comes as soon", GRAPH_H, "            lowlat_cool_down(oldest->hot);\n",
           "            ;\n",
           graphs("there_are_no_more_than_may_be")),
    Mutant("every plan gets a graph at once", FAST,
           "        if plan.heat < plan.hot:\n            plan.heat += 1\n            return NOT_HOT\n",
           "        pass\n", graphs("after_so_many_launches")),
    Mutant("a child destroys its parent's graphs", FAST,
           "    lowlat_graphs_forked()\n    state.forked", "    state.forked", graphs("in_a_forked_child")),
    Mutant("a kernel's own route yields to the context", FAST, "    cdef int way = plan.way or way_of_context()\n",
           "    cdef int way = way_of_context()\n", graphs("where_it_is_asked_for")),
    Mutant("the context yields to the environment", FAST,
           "        if value != NULL:\n            way = <object>value\n",
           "        if value != NULL and False:\n            way = <object>value\n", graphs("where_it_is_asked_for")),
    Mutant("auto takes the graph route whatever was measured", FAST,
           "10 * race.median[LOWLAT_BY_GRAPH] >= 9 * race.median[LOWLAT_BY_DRIVER]:\n        return SLOWER\n",
           "False:\n        return SLOWER\n", graphs("auto_decides")),
    Mutant("what is measured of graphs is the launch that changes nothing", FAST,
           "                as_it_is = False  # what is measured", "                pass  # what is measured",
           graphs("auto_measures_launches_with_other_parameters")),

    # ---- sequences --------------------------------------------------------------------------------------------------
    Mutant("a replay patches nothing", FAST,
           "            if step.stale and not step.empty:\n", "            if False:\n", sequences("new_values")),
    Mutant("a replay patches every launch", FAST,
           "            if step.stale and not step.empty:\n", "            if not step.empty:\n",
           sequences("it_is_launched_once_and_replayed", "new_values")),
    Mutant("only parameters are compared with the last time's", FAST,
           "    if memcmp(&launch, &step.given, sizeof(launch)) != 0:\n        step.given = launch\n        "
           "step.stale = True\n", "    step.given = launch\n", sequences("new_values", "generated_replays")),
    Mutant("a node takes another kernel", FAST,
           "    elif function != step.given.function:\n", "    elif False:\n",
           sequences("or_refused", "what_is_another_specialisation_is_recorded_again")),
    Mutant("a launch that became empty is launched as it was", FAST,
           "                        if self.exec_ != NULL and step.node != NULL:\n",
           "                        if False:\n", sequences("empty_grids")),
    Mutant("the launches of a graph have no order", FAST, "graph.graph, &graph.last, graph.last != NULL, &launch",
           "graph.graph, &graph.last, 0, &launch", sequences("it_is_launched_once_and_replayed")),
    Mutant("launches with attributes are recorded", FAST,
           "    if plan.attribute_count != 0:\n        raise "
           "state.not_recordable(SUBMISSIONS_TEXT[\"attributes\"])\n", "", sequences("refused_when_recorded")),
    Mutant("a call on its way to a step launches in Triton", FAST,
           "    cdef Py_ssize_t i\n    if state.recorders != 0:\n        refuse_step(reason)\n",
           "    cdef Py_ssize_t i\n", sequences("what_is_another_specialisation_is_recorded_again", "or_refused")),
    Mutant("a call on its way to a step launches by the wrapper route", FAST,
           "    if state.recorders != 0 and lowlat_get_step() != NULL:\n        raise state.not_recordable(f\"it "
           "takes", "    if False:\n        raise state.not_recordable(f\"it takes",
           sequences("live_state_is_observed", "refused_when_recorded")),
    Mutant("what a callable launches by the way is launched", FAST,
           "    if step != NULL and not (through == THROUGH_RUN and is_warmup(args + positional, names, keywords)):",
           "    if False:", sequences("launches_by_the_way")),
    Mutant("what a callable replays by the way is launched", FAST,
           "        if lowlat_get_step() != NULL:\n            return \"a grid",
           "        if False:\n            return \"a grid",
           sequences("replays_by_the_way")),
    Mutant("what a callable has compiled is taken for the step", FAST,
           "    lowlat_set_step(NULL)  # a grid callable of a sequence", "    pass  # a grid callable of a sequence",
           sequences("warmups_by_the_way")),
    Mutant("a call on its way to a step launches by what is not lowlat's", FAST,
           "    if state.recorders != 0 and lowlat_get_step() != NULL:\n        raise state.not_recordable(f\"it goes",
           "    if False:\n        raise state.not_recordable(f\"it goes",
           sequences("what_stands_between_and_is_not_lowlats")),
    Mutant("a replay does not look at a run that was set on the object", FAST,
           "        if call.through == THROUGH_RUN and ((<Kernel>", "        if False and ((<Kernel>",
           sequences("a_run_that_is_set_after_the_recording")),
    Mutant("a refused step holds its kernel", FAST,
           "            result = launch_or_step(<Plan>plan, compiled, blocks, stream, payload)\n",
           "            result = launch_with_driver(<Plan>plan, blocks, stream, payload, NULL)\n",
           sequences("a_refused_step_holds_no_kernel")),
    Mutant("a recording ends in the thread that ends it", FAST,
           "    if (<Recording>recording).calls is None:\n", "    if False:\n",
           sequences("a_block_that_ends_in_another_thread", "it_is_launched_once_and_replayed")),
    Mutant("graphs are destroyed while another stream is captured, as ever", GRAPH_H,
           "    mode = lowlat_relax_capture(CU_STREAM_CAPTURE_MODE_RELAXED);\n    if (exec != NULL)",
           "    mode = 0;\n    if (exec != NULL)", graphs("graphs_that_go_while_a_stream_is_captured")),
    Mutant("inner calls are recorded, too", FAST,
           "    if recording is None or recording.calls is None or depth != 0:\n",
           "    if recording is None or recording.calls is None:\n",
           sequences("launches_by_the_way")),
    Mutant("another stream does not matter to a sequence", FAST,
           "        if self.exec_ != NULL and stream != self.stream_ and not first:\n", "        if False:\n",
           sequences("streams_and_captures")),
    Mutant("a sequence is replayed into a capture", FAST,
           "        if lowlat_graphs.is_capturing(<CUstream>stream, &capturing) != 0 or capturing:\n            "
           "return SUBMISSIONS", "        if False:\n            return SUBMISSIONS",
           sequences("streams_and_captures")),
    Mutant("a failed replay keeps its values", FAST,
           "            for places, value in reversed(before):\n                (<Places>places).set(value)\n", "",
           sequences("or_refused", "errors_of_the_calls")),
    Mutant("a name that stood for one value always does", FAST,
           "            self._one_value -= overlaps\n", "            pass\n",
           sequences("names_that_overlap")),
    Mutant("a name may stand for several values", SEQUENCE,
           "            if not all(_same(value, first) for value in others):\n", "            if False:\n",
           sequences("wrong_use")),
    Mutant("a changed sequence is never recorded again", FAST, "        if changed:\n", "        if False:\n",
           sequences("what_is_another_specialisation_is_recorded_again")),
    Mutant("one sequence is replayed by two threads at once", FAST,
           "        self.acquire()\n        try:\n            self.replay_alone(values, named)\n        finally:\n"
           "            self.release()\n", "        self.replay_alone(values, named)\n",
           sequences("one_sequence_in_many_threads")),
    Mutant("a sequence does not hold its kernels", FAST,
           "        graph.compiled[step - graph.steps] = <object>PyWeakref_GET_OBJECT(plan.reference)\n",
           "        pass\n",
           sequences("a_kernel_that_left_the_cache", "a_kernel_that_leaves_the_cache_meanwhile")),
    Mutant("a call whose arguments are another specialisation goes on as before", FAST,
           "            if reason != OK or tag != watched.tag:\n", "            if reason != OK:\n",
           sequences("what_is_another_specialisation_is_recorded_again", "in_place", "generated_replays")),
    Mutant("tensors of a replay stay where they were", FAST,
           "        for i in range(call.tensor_count + call.other_count):\n",
           "        for i in range(call.tensor_count, call.tensor_count + call.other_count):\n",
           sequences("in_place")),
    Mutant("a new number of a replay is not looked at", FAST,
           "                        (<Call>call).other_count += 1\n", "                        pass\n",
           sequences("new_values")),
    Mutant("an argument that changed is not given to its node", FAST,
           "                words[watched.word] = word\n                step.stale = True\n",
           "                words[watched.word] = word\n", sequences("new_values", "in_place")),
    Mutant("a grid that changed is not given to its node", FAST,
           "                    step.given.grid[i] = <uint32_t>blocks[i]\n                    step.stale = True\n",
           "                    step.given.grid[i] = <uint32_t>blocks[i]\n", sequences("in_place")),
    Mutant("a grid of a replay is read once", FAST, "            call.grid_is_known = holds_ints(grid)\n",
           "            call.grid_is_known = True\n", sequences("in_place", "between_calls")),
    Mutant("a tuple holds numbers and nothing else", FAST,
           "        if type_of(tuple_items(grid)[i]) != &PyLong_Type:\n            return False\n", "        pass\n",
           sequences("between_calls")),
    Mutant("a new grid of a replay is not looked at", FAST,
           "                (<Call>call).grid_is_known = False\n", "",
           sequences("new_values")),
    Mutant("tensors that were read are not read again", FAST,
           "            if seen.tensor == argument and seen.look == self.look and",
           "            if seen.tensor == argument and",
           sequences("in_place", "between_calls")),
    Mutant("a replay begins with what the last one saw", FAST,
           "        state.recorders += 1\n        self.looked = False\n", "        state.recorders += 1\n",
           sequences("in_place")),
    Mutant("calls see what was there before another one's grid callable", FAST,
           "            lowlat_set_step(NULL)\n            self.looked = False\n",
           "            lowlat_set_step(NULL)\n",
           sequences("between_calls")),
    Mutant("a new constexpr of a replay is not looked at", FAST,
           "                    (<Call>call).plan = None  # it is part of the kernel\n", "                    pass\n",
           sequences("options_and_constexprs")),
    Mutant("replays use plans that are to be forgotten", FAST,
           "\n                or call.cleared != kernel.plans_.cleared):\n", "):\n",
           sequences("live_state_is_observed")),
    Mutant("replays use kernels that Triton has dropped", FAST,
           "                or not lowlat_stamp_current(&plan.stamp, <PyObject*>kernel.device_caches)\n", "",
           sequences("live_state_is_observed")),
    Mutant("replays do not look at hooks", FAST,
           "        if (not self.look_around() or kernel_reason(kernel) != OK or kernel.run_replaced",
           "        if (not self.look_around() or kernel.run_replaced", sequences("live_state_is_observed")),
    Mutant("replays do not look at what is the process's", FAST,
           "        if state.reason != OK or not state.c_getters:\n            return False\n", "",
           sequences("live_state_is_observed")),
    Mutant("replays do not ask for function modes", FAST,
           "                if not modes_checked and function_mode_enabled():\n                    return False\n", "",
           sequences("in_place")),
    Mutant("replays do not look at the knobs of the key, nor at the device", FAST,
           "        if (plan.words[0] != header_of(device)\n                or not", "        if (not",
           sequences("in_place", "knobs_and_globals")),
    Mutant("replays do not compare globals", FAST,
           "            if not globals_unchanged(kernel):\n                return False\n            self.look += 1\n",
           "            self.look += 1\n", sequences("knobs_and_globals")),
    Mutant("tensors are where they were before globals were compared", FAST,
           "                return False\n            self.look += 1\n", "                return False\n",
           sequences("what_comparing_globals_does")),
    Mutant("what could not be watched is noted without end", FAST,
           "        call.watched_count = call.tensor_count = call.other_count = 0\n",
           "        call.watched_count = 0\n",
           sequences("arguments_that_are_not_looked_at_one_by_one"),
           also=(("            if <PyObject*>(<Call>call).plan != Py_None:  # else all of it is looked at\n",
                  "            if True:\n"), )),
    Mutant("a value that a replay replaced is held for ever", FAST,
           "        lowlat_release(before)  # last, since it may run other code\n", "        pass\n",
           sequences("what_a_replay_holds")),
    Mutant("a value that a replay is given is not held", FAST,
           "        item[0] = lowlat_new_reference(value)\n", "        item[0] = <PyObject*>value\n",
           sequences("what_a_replay_holds")),
    Mutant("a plan that a grid callable drops is used again", FAST,
           "        if calls_for_grid(<PyObject*>call.grid):\n            return 0\n", "",
           sequences("a_grid_callable_that_drops_the_plan"),
           also=(("                call.cleared = (<Kernel>call.target).plans_.cleared  # before a grid callable can "
                  "drop the plan\n", ""),
                 ("        call.graph = <void*>self\n        call.plan = plan\n",
                  "        call.graph = <void*>self\n        call.cleared = kernel.plans_.cleared\n        "
                  "call.plan = plan\n"))),
    Mutant("a graph takes what another one has looked at", FAST, " or call.graph != <void*>self", "",
           sequences("a_graph_that_could_not_be_made")),
    Mutant("a stream of a green context is like any other", FAST,
           "    return lowlat_graphs.stream_context(stream, &own) == 0 and own == context\n", "    return True\n",
           graphs("a_stream_of_a_green_context"), ),
    Mutant("a stream is looked at only when its graph is made", FAST,
           "(graph == NULL or <size_t>stream > CU_STREAM_LEGACY)", "graph == NULL",
           graphs("a_stream_of_a_green_context")),
    Mutant("no other thread compiles while a kernel is looked up", TRITON,
           "    except RuntimeError:  # another thread's kernel was put there at this moment\n        key = next",
           "    except ZeroDivisionError:\n        key = next",
           ("test_edge_cases.py::test_51_another_thread_compiles_while_a_plan_is_made", )),

    # ---- warmup -----------------------------------------------------------------------------------------------------
    Mutant("a kernel that was only compiled is launched", FAST,
           "    if (<Plan>plan).route_ >= ROUTE_TRITON:\n        if (<Plan>plan).route_ == ROUTE_TRITON:\n",
           "    if (<Plan>plan).route_ == ROUTE_TRITON:\n        if True:\n",
           warmup("the_first_launch_is_tritons")),
    Mutant("a mock is never aligned", FAST, "            tags[i] |= divisible(parameter, 0)\n", "",
           warmup("tensors_dtypes_and_mocks_have_one_kernel")),
    Mutant("a mock's dtype is not in the key", FAST,
           "    return 0 if code is None else TAG_TENSOR + (<int>code << 1)\n", "    return TAG_TENSOR\n",
           warmup("every_dtype")),
    Mutant("a mock's dtype is known to be what it was", FAST,
           "    return 0 if code is None else", "    return TAG_TENSOR + (6 << 1) if code is None else",
           warmup("every_dtype")),
    Mutant("mocks have the address they are born with", FAST,
           "if len(attributes) == 2 and \"dtype\" in attributes", "if \"dtype\" in attributes",
           warmup("mocks_that_are_not_as_made")),
    Mutant("a dtype is a tensor by name, too", FAST,
           "                and 0 <= binding.sources[i] < binding.positional):", "                and True):",
           warmup("dtypes_where_no_tensor_goes")),
    Mutant("a dtype by position is a constexpr's value", FAST,
           "            if mocks[i] == 0 or (parameter.kind != KIND_PLAIN and parameter.kind != KIND_POINTER):\n"
           "                return ARGUMENT\n",
           "            if parameter.kind == KIND_CONSTEXPR:\n                mocks[i] = 0\n",
           warmup("dtypes_where_no_tensor_goes")),
    Mutant("mocks on AMD have storage of any size", FAST,
           "            if lowlat_torch.ranged:\n                tags[i] |= TAG_SMALL\n", "",
           warmup("mocks_on_amd")),
    Mutant("warming up is counted twice", FAST, "    if through != THROUGH_WARMUP:\n        kernel.exits_",
           "    if True:\n        kernel.exits_", warmup("tensors_dtypes_and_mocks_have_one_kernel")),
    Mutant("a run that was replaced is not what warms up", FAST,
           "kernel.run_replaced and through != THROUGH_RUN:", "kernel.run_replaced and through == THROUGH_GETITEM:",
           warmup("warmup_or_run_replaced_on_the_kernel")),
    Mutant("a replaced warmup is not called", TRITON,
           '    (TritonJITFunction, "warmup", inspect.getattr_static(TritonJITFunction, "warmup", None)),\n', "",
           warmup("replaced_functions")),
    Mutant("a kernel that could not be loaded is Triton's for good", TRITON,
           "    if warmup and not (known and _is_loaded(compiled)):", "    if warmup and not _is_loaded(compiled):",
           warmup("out_of_resources")),

    # ---- scratch memory ---------------------------------------------------------------------------------------------
    Mutant("nobody asks the allocator for an empty grid", FAST,
           "    if plan.scratch_size is not None:\n",
           "    if plan.scratch_size is not None and blocks[0] * blocks[1] * blocks[2] > 0:\n", routes("sizes")),
    Mutant("the size of scratch memory is a 32-bit number", FAST,
           "<object>blocks[0] * blocks[1] * blocks[2] * plan.scratch_size",
           "<int32_t>(blocks[0] * blocks[1] * blocks[2]) * plan.scratch_size", routes("sizes")),
    Mutant("blocks of a cluster share their scratch memory", TRITON,
           "scratch if hip else launcher.num_ctas * scratch", "scratch", routes("sizes_with_options")),
    Mutant("one allocator serves all threads", TRITON,
           "    return _allocation._allocator.get()(size, alignment, stream)\n",
           "    global _first\n    _first = globals().get('_first') or _allocation._allocator.get()\n"
           "    return _first(size, alignment, stream)\n", routes("allocators_of_threads_and_contexts")),
    Mutant("scratch memory is not passed on", FAST,
           "            put(values, place + i, memory)\n", "            put(values, place + i, None)\n",
           routes("what_an_allocator_may_return", "tensors_as_memory")),
    Mutant("profile scratch memory is forgotten", TRITON, "    elif launcher.profile_scratch_size > 0:\n",
           "    elif False:\n", routes("profile_scratch_memory")),
    Mutant("gsan is not noticed", TRITON, 'getattr(launcher, "gsan_enabled", False)', "False",
           routes("a_launcher_with_gsan"), needs="Triton 3.8"),

    # ---- AMD --------------------------------------------------------------------------------------------------------
    Mutant("storage size is not in AMD's key", TRITON,
           "return reason, environment, get_device, get_stream, c_getters, _is_hip(active)",
           "return reason, environment, get_device, get_stream, c_getters, False", hip("storage_size")),
    Mutant("buffer ops are read from the environment once", TRITON,
           "        variables.append(_BUFFER_OPS_VARIABLE.encode())\n", "", hip("buffer_ops")),
    Mutant("buffer ops assigned are not noticed", TRITON,
           "        dicts.append(_own_dict(knobs.amd))\n", "", hip("buffer_ops")),
    Mutant("AMD's replaced specialisers are not noticed", TRITON,
           "for owner in _amd_specializers() for name in _SPECIALIZERS]", "for owner in () for name in _SPECIALIZERS]",
           hip("replaced_specialisers")),
    Mutant("a kernel keyed by AMD's backend has a plan under CUDA's driver", TRITON,
           "and not _is_hip(_driver_config._active):", "and False:", hip("drivers_change")),
    Mutant("HIP's launcher gets no exit hook", TRITON,
           "exit_hook=hooks_end - 1 if hip else -1", "exit_hook=-1", hip("failures")),
    Mutant("cooperative launches are ordinary ones on AMD", TRITON,
           "return ((launcher.launch_cooperative_grid, ), (*scratch", "return ((False, ), (*scratch", hip("options")),

    # ---- tuners and heuristics --------------------------------------------------------------------------------------
    Mutant("a tuner's cache is looked into once", FAST,
           "        if choice == NULL or not lowlat_stamp_current(&(<Choice>choice).stamp, <PyObject*>tuner.cache):\n",
           "        if choice == NULL or (<Choice>choice).config == NULL:\n",
           tuned("cache_cleared_replaced_and_seeded", "a_cache_of_another_class")),
    Mutant("a Config is read once", FAST,
           "    if not additions_current(<Additions>additions, config[0]) or (<Additions>additions).refusal != OK:\n",
           "    if additions == Py_None or (<Additions>additions).refusal != OK:\n",
           tuned("a_config_changed_after_tuning", "configs_reassigned")),
    Mutant("a Config's kwargs are read once", FAST,
           "            and same_flat_items(additions.kwargs, additions.kwargs_seen)):\n        return False\n",
           "            and True):\n        return False\n", tuned("a_config_changed_after_tuning")),
    Mutant("a Config's __dict__ is the one seen first", FAST,
           "    if attributes != <PyObject*>additions.attributes:\n        return False\n", "",
           tuned("a_config_changed_after_tuning", "cache_cleared_replaced_and_seeded")),
    Mutant("dtypes are not in the tuning key", FAST,
           "            tags[i] = <uint8_t>(dtype + 1)\n", "            tags[i] = 1\n",
           tuned("dtypes_are_part_of_the_key_in_the_order_of_the_call")),
    Mutant("types are not in the tuning key", FAST,
           "            tags[i] = value.tag\n            fingerprint[i] = value.word\n",
           "            tags[i] = TAG_VALUE_INT\n            fingerprint[i] = value.word\n", tuned("key_values")),
    Mutant("every NaN is the same key", FAST,
           "                return KEY  # to Triton each NaN", "                pass  #",
           tuned("nan_is_a_new_key_each_time")),
    Mutant("a key of any type is compared by address", FAST,
           "            if argument != value.object and not specialize_value(tuner.strings, argument, value):\n"
           "                return KEY\n",
           "            if argument != value.object and not specialize_value(tuner.strings, argument, value):\n"
           "                value.tag = TAG_VALUE_OBJECT\n                value.word = <uint64_t>argument\n",
           tuned("unhashable_keys", "keys_of_other_types_are_tritons_to_compare")),
    Mutant("whatever is no tensor has no dtype", FAST,
           "has_no_dtype(argument):\n            tags[i] = 0\n        else:\n            return ARGUMENT\n",
           "has_no_dtype(argument):\n            tags[i] = 0\n        else:\n            tags[i] = 0\n",
           tuned("other_arguments_with_a_dtype")),
    Mutant("a torch function mode is ignored by tuners", FAST,
           "                    return TORCH_FUNCTION_MODE\n                modes_checked = True\n"
           "            if lowlat_torch.rung",
           "                    pass\n                modes_checked = True\n            if lowlat_torch.rung",
           tuned("torch_function_mode")),
    Mutant("keys are read once", FAST,
           "            or not same_items(<PyObject*>tuner.keys, <PyObject*>tuner.keys_seen)\n            or not fits",
           "            or not fits", tuned("keys_changed")),
    Mutant("arg_names are read once", FAST,
           "            or not same_items(<PyObject*>tuner.arg_names, <PyObject*>tuner.arg_names_seen)\n"
           "            or not same", "            or not same", tuned("arg_names_changed")),
    Mutant("best_config is set where it was looked for", FAST,
           "            tuner.best_config_ = <object>config\n", "            pass\n", tuned("keys_alternate")),
    Mutant("nargs stays after a native call", FAST,
           "    if <PyObject*>tuner.nargs_ != Py_None:\n        tuner.nargs_ = None\n", "",
           tuned("failed_launches", "arguments_given_twice")),
    Mutant("nargs is None after a failed call", FAST,
           "        tuner.nargs_ = dict(zip(tuner.arg_names, values_of(args, positional)))  # Triton",
           "        tuner.nargs_ = None  # Triton", tuned("failed_launches")),
    Mutant("nargs during a native call are not there", FAST,
           "    cdef TunedCall* call = begin_call(tuner, positional)\n"
           "    memcpy(call.args, args, positional * sizeof(PyObject*))\n",
           "    cdef TunedCall* call = begin_call(tuner, 0)\n", tuned("callable_grid", "launch_hooks")),
    Mutant("nargs are those of any thread", FAST,
           "    while call != NULL and call.thread != PyThreadState_Get():\n", "    while False:\n",
           tuned("another_threads_call_does_not_show", "threads")),
    Mutant("what Triton sets while it tunes is everybody's", FAST,
           "        return None if call == NULL or call.attributes == NULL else <dict>call.attributes\n",
           "        return None\n", tuned("threads_restoring_values")),
    Mutant("the pre_hook of a Config is not called", FAST,
           "        additions.refusal = PRE_HOOK\n        return additions\n", "        pass\n",
           tuned("pre_hook_of_a_config")),
    Mutant("arguments that the Config has too are the Config's", FAST,
           "        additions.refusal = BINDING  # given twice\n        return additions\n", "        pass\n",
           tuned("arguments_given_twice")),
    Mutant("grid= given twice is not noticed", FAST,
           "or (through == THROUGH_GETITEM and name in RUN_NAMES):\n", "or False:\n", tuned("arguments_given_twice")),
    Mutant("Triton's Autotuner is the one seen first", FAST,
           "    if not outer_types_current():\n        refresh_outer()\n    if state.outer_reason != OK:\n"
           "        return state.outer_reason\n",
           "    if state.tuner_type_version == NO_VERSION:\n        refresh_outer()\n",
           tuned("run_swapped_on_the_class")),
    Mutant("Tensor.dtype is the one seen first", FAST,
           "== state.tensor_type_version\n", "!= 1\n", tuned("dtype_patched"),
           also=(("== state.parameter_type_version))\n", "!= 1))\n"), )),  # a subclass: its version changes, too
    Mutant("JITFunction.run replaced on its class is not called by tuners", FAST,
           "        if kernel_type_current() and not (<Kernel>fn).run_replaced:\n",
           "        if not (<Kernel>fn).run_replaced:\n", tuned("run_of_the_kernel_swapped_on_the_class")),
    Mutant("run replaced on a kernel is not called by tuners", FAST,
           "        if kernel_type_current() and not (<Kernel>fn).run_replaced:\n",
           "        if kernel_type_current():\n",
           tuned("run_set_on_the_kernel", "run_captured_before_it_was_replaced")),
    Mutant("run replaced on a tuner is not called", FAST,
           "        return RUN_REPLACED  # as in `launch`\n", "        return OK\n", tuned("run_set_on_the_instance")),
    Mutant("run replaced on a tuner is called by itself", FAST,
           "    if outer.run_replaced and through == THROUGH_GETITEM:\n", "    if outer.run_replaced:\n",
           tuned("run_captured_before_it_was_replaced")),
    Mutant("a heuristic does not see what those before it returned", FAST,
           "(*positional_names, *given, *after)", "(*positional_names, *given, *names)", tuned("heuristics")),
    Mutant("heuristics' dicts keep what they were given", FAST,
           "                keep_scalars(named, bound)\n", "",
           tuned("scalars_are_remembered_and_nothing_else", "arguments_are_not_kept_alive",
                 "what_heuristics_get_is_not_kept")),
    Mutant("heuristics are read once", FAST,
           "    return lowlat_stamp_current(&shape.stamp, <PyObject*>values) or read_heuristics(shape, values)\n",
           "    return shape.functions[0] != NULL or read_heuristics(shape, values)\n", tuned("values_changed")),
    Mutant("heuristics that add a heuristic are not noticed", FAST,
           "        check_heuristics(shape, values)\n        fn = outer.fn\n",
           "        fn = outer.fn\n", tuned("heuristics_that_add_a_heuristic")),
    Mutant("a heuristic's value does not replace the caller's", FAST,
           "            extended[positional + shape.places[i]] = results[i]\n",
           "            if shape.places[i] >= keywords:\n"
           "                extended[positional + shape.places[i]] = results[i]\n",
           tuned("heuristics_override_and_take_their_place")),
    Mutant("heuristics leak what they return", FAST,
           "        for i in range(computed):\n            lowlat_release(results[i])\n", "        pass\n",
           tuned("nothing_leaks")),
    Mutant("configurations are kept after the cache was cleared", FAST,
           "        drop_shapes(tuner)  # the cache", "        pass  # the cache", tuned("configs_are_not_kept_alive")),
    # ---- tensor descriptors -----------------------------------------------------------------------------------------
    Mutant("a tensor map is known by its address", FAST,
           "memcmp(maps.entries[maps.last].key, key, maps.size)", "memcmp(maps.entries[maps.last].key, key, 8)",
           described("everything_about_one_descriptor_changes")),
    Mutant("older tensor maps are known by their address", FAST,
           "memcmp(maps.entries[i].key, key, maps.size)", "memcmp(maps.entries[i].key, key, 8)",
           described("everything_about_one_descriptor_changes")),
    Mutant("the last tensor map is the one", FAST,
           "    if maps.count != 0 and memcmp(maps.entries[maps.last].key, key, maps.size) == 0:\n",
           "    if maps.count != 0:\n", described("contents_change_in_place")),
    Mutant("tensor maps are not kept", FAST,
           "    maps.count += not maps.entries[i].known\n", "    maps.count = 0\n",
           described("an_unchanged_descriptor_is_encoded_once")),
    Mutant("tensor maps are kept without end", FAST,
           "    if larger.capacity > 2 * MAX_TENSOR_MAPS:\n", "    if False:\n",
           described("many_descriptors_and_no_more")),
    Mutant("tensor maps are lost when there are more", FAST,
           "        if maps.entries[i].known:\n            larger.entries",
           "        if False:\n            larger.entries",
           described("many_descriptors_and_no_more")),
    Mutant("block shape is not in the key", FAST,
           "read_ints(fields[3], rank, words + 1)", "read_ints(fields[3], rank, payload + 3)",
           described("contents_change_in_place"),
           also=(("    words[0] = (base_tag & ~(TAG_SMALL | 1)) | rank << 8\n",
                  "    words[0] = (base_tag & ~(TAG_SMALL | 1)) | rank << 8\n    memset(words + 1, 0, rank * 8)\n"), )),
    Mutant("dtype of a descriptor is not in the key", FAST,
           "    words[0] = (base_tag & ~(TAG_SMALL | 1)) | rank << 8\n", "    words[0] = rank << 8\n",
           described("everything_about_one_descriptor_changes")),
    Mutant("alignment of a descriptor is in the key", FAST, "(base_tag & ~(TAG_SMALL | 1))", "base_tag",
           described("what_the_driver_refuses")),
    Mutant("padding is that of the first call", FAST,
           '    payload[1] = fields[4] != <PyObject*>ZERO_PADDING and compare_text(fields[4], "nan") == 0\n',
           "    payload[1] = 0\n", described("everything_about_one_descriptor_changes")),
    Mutant("padding is known by its id", FAST,
           '    payload[1] = fields[4] != <PyObject*>ZERO_PADDING and compare_text(fields[4], "nan") == 0\n',
           "    payload[1] = fields[4] != <PyObject*>ZERO_PADDING\n",
           described("everything_about_one_descriptor_changes")),
    Mutant("float32 is never rounded", FAST, "rounded_type if key[2] else element_type", "element_type",
           described("everything_about_one_descriptor_changes"), needs="Triton 3.7"),
    Mutant("shape is taken for strides", FAST,
           "read_ints(fields[2], rank, payload + 3 + rank)", "read_ints(fields[1], rank, payload + 3 + rank)",
           described("everything_about_one_descriptor_changes")),
    Mutant("the last stride may be any", FAST,
           "if <int64_t>payload[2 + 2 * rank] != 1 or not all_in_32_bits", "if not all_in_32_bits",
           described("attributes_of_other_kinds")),
    Mutant("shapes are cut to 32 bits", FAST,
           "if <int64_t>payload[2 + 2 * rank] != 1 or not all_in_32_bits(payload + 3, rank):",
           "if <int64_t>payload[2 + 2 * rank] != 1:", described("attributes_of_other_kinds")),
    Mutant("subclasses of descriptors are descriptors", FAST,
           "    if kind == state.descriptor_type:\n        return specialize_descriptor",
           "    if isinstance(<object>argument, <object><PyObject*>state.descriptor_type):\n"
           "        return specialize_descriptor", described("subclasses", "a_subclass_that_computes")),
    Mutant("the class of descriptors stays as it is", FAST,
           "    if not descriptors_are_plain() or not read_fields(argument, fields):\n",
           "    if not read_fields(argument, fields):\n", described("a_class_that_is_changed")),
    Mutant("attributes are in the order of __init__", FAST,
           "                or name != tuple_items(<PyObject*>state.descriptor_fields)[i]):\n", "):\n",
           described("attributes_in_another_order_and_further_ones")),
    Mutant("an empty grid encodes nothing", FAST,
           "    if plan.map_count != 0:\n        maps =",
           "    if plan.map_count != 0 and blocks[0] > 0:\n        maps =", described("encoding_fails")),
    Mutant("a kernel stays held when encoding fails", FAST,
           "        return launch_with_tensor_maps(plan, blocks, stream, payload)\n"
           "    except BaseException:\n        lowlat_release(compiled)\n",
           "        return launch_with_tensor_maps(plan, blocks, stream, payload)\n    except BaseException:\n",
           described("errors_leave_no_kernel_behind")),
    Mutant("tensor maps are not aligned", FAST,
           "~<uint64_t>(TENSOR_MAP_BYTES - 1))", "~<uint64_t>(TENSOR_MAP_BYTES - 1)) + 8",
           described("ranks")),
    Mutant("what a grid callable does to a descriptor comes too late", FAST,
           "        elif tags[i] & TAG_TENSOR or tags[i] == TAG_ONE_OF_CLASS or", "        elif False and",
           described("a_grid_that_changes_the_descriptor", "a_grid_that_moves_what_is_in_a_tuple"),
           also=(("    return now.words_used == tail.words_used and memcmp(words, tail.words, now.words_used * "
                  "sizeof(uint64_t)) == 0\n", "    return True\n"), )),
    Mutant("strides come before shapes", TRITON,
           'add("i64", *shape, *strides)', 'add("i64", *strides, *shape)', described("without_tensor_maps")),
    Mutant("rounding is passed in all versions", TRITON,
           "*[here + 2] * (VERSION >= (3, 7))", "here + 2", described("without_tensor_maps"),
           needs="Triton 3.6"),
    Mutant("tensor maps of Triton's device types", TRITON, "host_types[entry[\"elem_type\"]]", 'entry["elem_type"]',
           described("dtypes")),
    Mutant("a descriptor with a dtype of its own has none for the tuner", FAST,
           '    return PyDict_GetItemWithError(<object>attributes, "dtype") == NULL\n', "    return True\n",
           described("tuned_without_hooks")),
]


# ---- running them ---------------------------------------------------------------------------------------------------


@dataclass
class Result:
    mutant: Mutant
    verdict: str  # killed, survived, did not build, did not run, not here
    by: str = ""
    seconds: float = 0.0
    output: str = ""


def copy_package(folder):
    """The sources, without anything built."""
    built = shutil.ignore_patterns("*.so", "*.so.1", "*.pyc", "__pycache__", "_fast.c", "_fast.html", ".hypothesis")
    for name in ("lowlat", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=built)
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy2(ROOT / name, folder / name)


def environment(folder):
    """Without a GPU, and with the copy in front of every other lowlat."""
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "CUDA_VISIBLE_DEVICES": "",
            "LOWLAT_CFLAGS": "-O0 -g0"}


def run(command, folder, within=".", timeout=None):
    """(exit status, output); the status is None for a command that had to be stopped, with all it had started."""
    process = subprocess.Popen([sys.executable, *command], cwd=folder / within, env=environment(folder),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                               start_new_session=True)
    try:
        output = process.communicate(timeout=timeout)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return None, process.communicate()[0]
    return process.returncode, output


def build(folder):
    status, output = run(["setup.py", "-q", "build_ext", "--inplace"], folder)
    return status == 0, output


def run_tests(folder, tests, *options, timeout=TIMEOUT):
    return run(["-m", "pytest", "-v", "-p", "no:cacheprovider", *options, *tests], folder, "tests", timeout)


def apply(mutant, folder):
    """Edits the file; what is wrong with the mutant, or None."""
    path = folder / "lowlat" / mutant.file
    text = path.read_text()
    for find, replacement in mutant.edits:
        if text.count(find) != 1:
            return f"{mutant.name}: found {text.count(find)} times in {mutant.file}, must be once:\n{find}"
        text = text.replace(find, replacement)
    path.write_text(text)
    return None


def try_mutant(mutant, base, folder):
    started = time.monotonic()
    shutil.copytree(base, folder)
    try:
        wrong = apply(mutant, folder)
        assert wrong is None, wrong
        if not mutant.file.endswith(".py"):
            built, output = build(folder)
            if not built:
                return Result(mutant, "did not build", output=output, seconds=time.monotonic() - started)
        status, output = run_tests(folder, mutant.tests, "-x")
        verdict, by = judge(status, output)
        return Result(mutant, verdict, by, time.monotonic() - started, output)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def judge(status, output):
    """pytest's exit status: 0 all passed, 1 some failed, from 2 on it could not run them."""
    started = re.findall(r"^(\S+::\w+(?:\[.*?\])?)(?= |$)", output, re.MULTILINE)
    last = started[-1] if started else "?"
    if status is None:
        return "killed", f"{last} (hangs)"
    if status < 0:
        return "killed", f"{last} (crashes: {signal.Signals(-status).name})"
    if status == 0:
        return "survived", ""
    if status == 1:
        failed = re.search(r"^FAILED (\S+::.*?)(?: - |$)", output, re.MULTILINE)
        line = re.findall(r"^> +(\S.*)$", output, re.MULTILINE)[-1:]  # the innermost one
        return "killed", "\n".join([failed[1] if failed else last, *line])
    return "did not run", ""


def triton_version(folder):
    """Of the copy's interpreter, which must import the copy."""
    code = "import lowlat, triton; print(lowlat._fast.__file__); print(triton.__version__)"
    status, output = run(["-c", code], folder)
    lines = output.splitlines()
    if status != 0 or not lines[-2].startswith(str(folder)):
        sys.exit(f"the copy in {folder} is not what is imported there:\n{output}")
    return tuple(int(part) for part in lines[-1].split("+")[0].split(".")[:2])


def selected(words):
    return [mutant for mutant in MUTANTS
            if all(int(word) in mutant.cases if word.isdigit() else word.lower() in mutant.name.lower()
                   for word in words)]


def table(mutants):
    result = Table("mutant", "file", "edge cases", "tests")
    for mutant in mutants:
        result.add_row(escape(mutant.name), mutant.file, ", ".join(map(str, mutant.cases)), "\n".join(mutant.tests))
    return result


def results_table(results):
    colours = {"killed": "green", "not here": "dim"}
    result = Table("mutant", "edge cases", "verdict", "by", "s")
    for entry in results:
        colour = colours.get(entry.verdict, "bold red")
        result.add_row(escape(entry.mutant.name), ", ".join(map(str, entry.mutant.cases)),
                       f"[{colour}]{entry.verdict}[/{colour}]", escape(entry.by), f"{entry.seconds:.0f}")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD",
                        help="mutants with all these words in their names; a number: of that edge case")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many at a time (1)")
    parser.add_argument("--list", action="store_true", help="show them and stop")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 160)
    if arguments.jobs < 1:
        parser.error(f"--jobs is {arguments.jobs}, must be 1 or more")
    mutants = selected(arguments.only)
    if not mutants:
        parser.error(f"no mutant is called {' '.join(arguments.only)!r}; see --list")
    if arguments.list:
        console.print(table(mutants))
        return 0
    with tempfile.TemporaryDirectory(prefix="lowlat-mutants-") as name:
        results = run_all(mutants, Path(name).resolve(), arguments.jobs, console)
    return report(results, console)


def run_all(mutants, folder, jobs, console):
    base = folder / "base"
    base.mkdir()
    copy_package(base)
    for i, mutant in enumerate(mutants):
        trial = folder / f"trial{i}"
        (trial / "lowlat").mkdir(parents=True)
        shutil.copy2(base / "lowlat" / mutant.file, trial / "lowlat")
        if wrong := apply(mutant, trial):
            sys.exit(wrong)
        shutil.rmtree(trial)
    built, output = build(base)
    if not built:
        sys.exit(f"lowlat itself does not build:\n{output}")
    version = triton_version(base)
    here = [mutant for mutant in mutants if CONDITIONS[mutant.needs](version)]
    tests = sorted({test for mutant in here for test in mutant.tests})
    console.print(f"{len(mutants)} mutants, {len(tests)} tests, Triton {'.'.join(map(str, version))}")
    status, output = run_tests(base, tests, timeout=20 * TIMEOUT)
    if status != 0:
        sys.exit(f"the tests do not pass on lowlat as it is:\n{output}")
    console.print("the tests pass on lowlat as it is")

    def work(numbered):
        i, mutant = numbered
        if mutant not in here:
            return Result(mutant, "not here", f"needs {mutant.needs}")
        result = try_mutant(mutant, base, folder / f"mutant{i}")
        console.print(f"{i + 1:3}  {result.verdict:13}  {mutant.name}", highlight=False, markup=False)
        return result

    with ThreadPoolExecutor(jobs) as executor:
        return list(executor.map(work, enumerate(mutants)))


def report(results, console):
    console.print(results_table(results))
    bad = [result for result in results if result.verdict not in ("killed", "not here")]
    for result in bad:
        if result.verdict != "survived":
            console.print(f"{result.mutant.name}: {result.verdict}\n{result.output[-3000:]}", markup=False)
    counts = {}
    for result in results:
        counts[result.verdict] = counts.get(result.verdict, 0) + 1
    console.print(f"{len(results)} mutants: " + ", ".join(f"{count} {verdict}" for verdict, count in counts.items()))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
