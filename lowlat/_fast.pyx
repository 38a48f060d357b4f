# cython: boundscheck=False, wraparound=False, initializedcheck=False
"""The hot path: one kernel launch, from `kernel[grid](...)` to the driver, in call order.

`Kernel` is the C-level base of lowlat.JITFunction.  A call is bound to the parameters (`Binding`), its arguments
are specialised into a *fingerprint* on the C stack, the fingerprint finds a `Plan`, and the plan launches.  The
fingerprint is at least as fine as Triton's own key, so a plan can only stand for one of Triton's kernels; whatever
has no plan, or is not understood, leaves through `leave`, unlaunched, to Triton itself.

This module imports neither Triton nor torch: lowlat/_triton.py and lowlat/_torch.py hand it what it needs.
"""

cimport cython
from cpython.dict cimport PyDict_GetItemWithError, PyDict_Next, PyDict_SetItem
from cpython.long cimport PyLong_AsLongLongAndOverflow, PyLong_AsUnsignedLongLong
from cpython.number cimport PyNumber_Index
from cpython.object cimport PyCallable_Check, PyObject, PyObject_Call, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport INT32_MAX, INT32_MIN, UINT16_MAX
from libc.stdlib cimport calloc, free, getenv, malloc, realloc
from libc.string cimport memcmp, memcpy, memset, strcmp

import enum
import sys


cdef extern from "_driver.h":
    enum: CUDA_ERROR_INVALID_CONTEXT
    enum: CU_LAUNCH_ATTRIBUTE_COOPERATIVE
    enum: CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
    enum: CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE
    enum: CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
    enum: CU_LAUNCH_ATTRIBUTE_SHARED_MEMORY_MODE
    enum: CU_CLUSTER_SCHEDULING_POLICY_SPREAD
    enum: CU_SHARED_MEMORY_MODE_ALLOW_OVERSIZED_SHARED_MEMORY
    enum: CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
    enum: CU_STREAM_LEGACY
    enum: CU_STREAM_PER_THREAD
    const char* lowlat_driver_find(lowlat_driver_api*)
    ctypedef struct lowlat_buffer:
        pass
    void** lowlat_pack(lowlat_buffer*, void*, size_t, const uint16_t*, const uint64_t*, const uint16_t*, size_t)

    ctypedef struct lowlat_graph_api:
        CUresult (*create)(CUgraph*, unsigned int)
        CUresult (*add_kernel)(CUgraphNode*, CUgraph, const CUgraphNode*, size_t, const CUkernelNodeParams*)
        CUresult (*instantiate)(CUgraphExec*, CUgraph, unsigned long long)
        CUresult (*set_parameters)(CUgraphExec, CUgraphNode, const CUkernelNodeParams*) nogil
        CUresult (*launch)(CUgraphExec, CUstream) nogil
        CUresult (*destroy)(CUgraph)
        CUresult (*destroy_exec)(CUgraphExec)
        CUresult (*is_capturing)(CUstream, int*)
        CUresult (*stream_context)(CUstream, void**)
    enum: CU_STREAM_CAPTURE_MODE_RELAXED
    const char* lowlat_graph_find(lowlat_graph_api*)


cdef extern from "_graph.h":
    enum: LOWLAT_BY_DRIVER
    enum: LOWLAT_BY_GRAPH
    enum: LOWLAT_DEVICES
    lowlat_graph_api lowlat_graphs
    const char* lowlat_graphs_missing
    lowlat_graph* lowlat_newest_graph
    int lowlat_graph_count
    int lowlat_graph_budget
    void lowlat_graph_used(lowlat_graph*)
    void lowlat_cool_down(uint32_t*)
    lowlat_graph* lowlat_graph_of(lowlat_graph*, CUstream)
    lowlat_graph* lowlat_graph_make(lowlat_graph**, uint32_t*, CUstream, void*, const CUkernelNodeParams*)
    void lowlat_graph_destroy(lowlat_graph*)
    bint lowlat_graph_trim(int)
    bint lowlat_graph_has(const lowlat_graph*, const CUkernelNodeParams*)
    CUresult lowlat_graph_launch(lowlat_graph*, const CUkernelNodeParams*) nogil
    lowlat_repeat* lowlat_repeat_of(lowlat_repeats**, uint32_t, CUstream, const CUkernelNodeParams*)
    lowlat_graph* lowlat_graph_for(lowlat_repeat*, lowlat_repeats*, uint32_t*, CUstream, void*,
                                   const CUkernelNodeParams*)
    void lowlat_graphs_forked()
    int lowlat_forks

    int lowlat_relax_capture(int) nogil
    void lowlat_graph_free(CUgraphExec, CUgraph)
    void* lowlat_get_recorder()
    void lowlat_set_recorder(void*)
    int lowlat_deeper(int)
    lowlat_step* lowlat_get_step()
    void lowlat_set_step(lowlat_step*)
    int lowlat_step_room(lowlat_step*, size_t, size_t)
    uint64_t* lowlat_step_words(lowlat_step*)
    void lowlat_step_free(lowlat_step*)
    CUresult lowlat_step_patch(CUgraphExec, const lowlat_step*)

    ctypedef struct lowlat_race:
        int count[2]
        int64_t median[2]
        bint known
    lowlat_race* lowlat_races
    void lowlat_race_note(lowlat_race*, int, int64_t)
    int64_t lowlat_now() nogil


cdef extern from "_python.h":
    void* alloca(size_t)
    bint lowlat_compact_int(PyObject*, int64_t*)
    ctypedef struct lowlat_words:
        pass
    bint lowlat_watched_current()
    int lowlat_watch_dict(lowlat_words*, object) except -1
    int lowlat_watch_type(lowlat_words*, PyTypeObject*) except -1
    int lowlat_watch_list(lowlat_words*, object) except -1
    int lowlat_watch(const lowlat_words*, object) except -1
    bint lowlat_stamp_current(const lowlat_stamp*, PyObject*)
    int lowlat_set_stamp(lowlat_stamp*, object, object) except -1
    enum: LOWLAT_ATTRIBUTES_ARE_IN_DICTS
    object lowlat_noticed_copy(object)
    uint64_t lowlat_dict_tag(object)
    int lowlat_value_places(object, int32_t*) except -1
    PyObject* lowlat_value_at(object, int32_t)
    void lowlat_put(object, const int32_t*, PyObject* const*, Py_ssize_t)
    void lowlat_take_out(object, int32_t)
    void lowlat_track(object)
    bint lowlat_reads_as_tuple(PyObject*)
    PyObject* lowlat_new(PyTypeObject*, PyObject*) except NULL
    void lowlat_give_vectorcall(PyTypeObject*, Py_ssize_t)
    void lowlat_give_subscript(PyTypeObject*, void*)
    ctypedef struct PyMethodDef:
        const char* ml_doc
    int lowlat_add_method(PyTypeObject*, PyMethodDef*, const char*, object) except -1


cdef extern from "_torch.h":
    enum: LOWLAT_RUNG_NONE
    enum: LOWLAT_RUNG_SHIM
    enum: LOWLAT_RUNG_DLPACK
    enum: LOWLAT_RUNG_PYTHON

    ctypedef struct lowlat_tensor:
        uint64_t pointer
        int32_t dtype
        int32_t device
        int32_t index
        int32_t small

    ctypedef struct lowlat_dlpack_header:
        uint32_t major

    ctypedef struct lowlat_dlpack_api:
        lowlat_dlpack_header header
        void* dltensor_from_py_object

    struct lowlat_torch_state "":
        int rung
        Py_ssize_t offset
        int maybe_borrowed
        void* data_ptr
        void* dtype
        void* device_type
        void* device_index
        void* storage_size
        const lowlat_dlpack_api* dlpack
        void* function_mode_enabled
        uint32_t devices
        int ranged

    struct lowlat_current_state "":
        void* torch_device
        void* torch_stream
        void* null_device
        void* null_stream
        bint only_device

    lowlat_torch_state lowlat_torch
    lowlat_current_state lowlat_current
    bint lowlat_on_device(int32_t)
    bint lowlat_elsewhere(const lowlat_tensor*, int)
    bint lowlat_function_mode_enabled()
    bint lowlat_shim_read(PyObject*, lowlat_tensor*)
    bint lowlat_shim_pointer(PyObject*, uint64_t*)
    bint lowlat_shim_dtype(PyObject*, int32_t*)
    int lowlat_dlpack_read(PyObject*, lowlat_tensor*) except -1
    int lowlat_current_device()
    int lowlat_current_stream(int, void**)


cdef extern from "Python.h":
    ctypedef struct PyTupleObject:
        PyObject* ob_item[1]
    ctypedef struct PyListObject:
        PyObject** ob_item
    PyTypeObject* type_of "Py_TYPE"(PyObject*)
    bint is_tuple "PyTuple_CheckExact"(PyObject*)
    bint is_list "PyList_CheckExact"(PyObject*)
    Py_ssize_t tuple_size "PyTuple_GET_SIZE"(PyObject*)
    Py_ssize_t list_size "PyList_GET_SIZE"(PyObject*)
    void lowlat_hold "Py_INCREF"(PyObject*)
    void lowlat_release "Py_DECREF"(PyObject*)
    PyObject* lowlat_new_reference "Py_NewRef"(object)
    Py_ssize_t Py_REFCNT(PyObject*)
    int PyObject_GenericSetAttr(object, object, PyObject*) except -1
    PyObject* PyObject_GenericGetDict(PyObject*, void*) except NULL
    PyObject* lowlat_call_one "PyObject_CallOneArg"(object, object) except NULL
    void* PyThreadState_Get()
    int PyContextVar_Get(PyObject*, PyObject*, PyObject**) except -1
    bint PyType_IsSubtype(PyTypeObject*, PyTypeObject*)
    bint is_any_tuple "PyTuple_Check"(PyObject*)
    bint is_any_int "PyLong_Check"(PyObject*)
    bint is_any_float "PyFloat_Check"(PyObject*)
    int compare_text "PyUnicode_CompareWithASCIIString"(PyObject*, const char*)
    unsigned long Py_TPFLAGS_HEAPTYPE
    PyTypeObject PyTuple_Type
    PyTypeObject PyBaseObject_Type
    PyTypeObject PyLong_Type
    PyTypeObject PyBool_Type
    PyTypeObject PyFloat_Type
    PyTypeObject PyUnicode_Type
    PyObject* Py_None
    PyObject* Py_True
    PyObject* Py_False
    Py_ssize_t PyVectorcall_NARGS(size_t)
    double PyFloat_AS_DOUBLE(PyObject*)
    double PyLong_AsDouble(PyObject*)
    PyObject* PyWeakref_GET_OBJECT(object)
    ctypedef struct PyTypeObjectFields "PyTypeObject":
        unsigned int tp_version_tag
        void* tp_hash
        void* tp_richcompare
        void* tp_iter
        unsigned long tp_flags
    object PyCapsule_New(void*, const char*, void*)
    void* PyCapsule_GetPointer(object, const char*) except NULL
    object PyBytes_FromStringAndSize(const char*, Py_ssize_t)
    const char* PyBytes_AS_STRING(object)
    Py_ssize_t PyBytes_GET_SIZE(object)
    object PyLong_FromVoidPtr(void*)


# ---- why a call leaves ------------------------------------------------------------------------------------------

# Each exit to Triton has one of these reasons; `JITFunction.exits` counts them per kernel.
cdef enum:
    OK = 0
    FIRST_CALL
    FORGOTTEN
    LAUNCH_HOOK
    STAGES_HOOK
    PRE_RUN_HOOK
    PATCHED
    RUN_REPLACED
    SUBCLASS
    NO_DRIVER
    BACKEND
    FORKED
    UNKNOWN_TRITON
    KNOB
    BINDING
    OPTION
    ARGUMENT
    CONSTEXPR
    ANNOTATION
    NOT_ON_DEVICE
    OTHER_DEVICE
    UNREADABLE
    TORCH_FUNCTION_MODE
    GRID
    GLOBAL
    NO_CONTEXT
    PARAMETERS
    LAUNCHER
    NO_KERNEL
    WARMUP
    NOT_TUNED
    KEY
    CONFIG
    PRE_HOOK
    TUNER
    REASONS

REASONS_TEXT = {
    "first call": "no plan yet: Triton compiled or found the kernel and launched it, and lowlat learnt from that",
    "forgotten": "the kernel left Triton's cache (device_caches cleared, say): Triton made a new one",
    "launch hook": "knobs.runtime.launch_enter_hook or launch_exit_hook is set",
    "stages hook": "knobs.runtime.add_stages_inspection_hook is set",
    "pre-run hook": "the kernel has pre_run_hooks",
    "patched": "a launch function of Triton's, or Tensor.data_ptr, has been replaced: the new one is called",
    "run replaced": "`run` was set on this object; it is called",
    "subclass": "the kernel, tuner or heuristics is of a subclass of lowlat's class",
    "no driver": "Triton has no active driver yet",
    "backend": "the active driver is neither Triton's CUDA driver nor its HIP driver, nor a subclass of one",
    "forked": "the process was forked, and Triton has not launched in the child yet",
    "unknown triton": "this version of Triton is not known to lowlat",
    "knob": "a knob that is part of the key has a value that lowlat does not know how to key on",
    "binding": "the arguments do not bind to the parameters, or an option name is not one lowlat can pass",
    "option": "a launch option is neither int, float, bool, str nor None, nor a tuple or dict of such",
    "argument": "an argument that Triton refuses, or that only code of its class can tell (`data_ptr`, `__iter__`, "
                "`__torch_function__`), or a tuple of hundreds of items",
    "constexpr": "a constexpr that cannot be hashed, or only by code of its class, or a tuple of more than a hundred "
                 "items",
    "annotation": "an annotated parameter got a value that only Triton converts or refuses",
    "not on device": "a tensor is not on a CUDA device",
    "other device": "a tensor is on another CUDA device than the current one: the driver is asked if it can be reached",
    "unreadable": "a tensor's address can only be had, or refused, by torch's own data_ptr()",
    "torch function mode": "a TorchFunctionMode is active, which data_ptr() must go through",
    "grid": "the grid, or what a callable returned, is not a tuple or list of one to three ints; or the callable "
            "changed its arguments",
    "global": "a module global is not what the kernel was compiled with",
    "no context": "the thread has no CUDA context; Triton makes one current",
    "parameters": "the kernel has a parameter with a name that Triton's binder uses, or *args or a keyword-only one in "
                  "a version of Triton that cannot compile it",
    "launcher": "the compiled kernel's launcher or signature is not one lowlat knows",
    "no kernel": "Triton returned no loaded CompiledKernel (a hook declined, or it compiles asynchronously)",
    "warmup": "warmup() or warmup=True, and no kernel known yet: Triton compiled or found it, and lowlat learnt of it",
    "not tuned yet": "the tuner's cache has no entry for the call's key: Triton tunes (or asks its disk cache)",
    "key": "a value of the tuner's key is neither int (64 bits), float, bool, str, None nor a dtype, or is a NaN",
    "config": "the configuration is not a plain triton.Config with a dict of names",
    "pre-hook": "the configuration has a pre_hook, which Triton calls with all arguments before each launch",
    "tuner": "`configs`, `keys`, `arg_names`, `cache` or `values` is not the list or dict that Triton makes of it",
}
REASON_NAMES = ("ok", *REASONS_TEXT)
assert len(REASON_NAMES) == REASONS

# Plans per kernel, and strings whose number a kernel knows: beyond, the ones not met again make room.
cdef enum:
    MAX_PLANS = 4096
    MAX_BINDINGS = 256
    FEW_BINDINGS = 8  # so many shapes of call are compared one by one, before a key is made to look them up

# Tensor maps per descriptor parameter of a plan, before all are dropped and encoded again.
cdef enum:
    MAX_TENSOR_MAPS = 1024

# Words, in a fingerprint as in a payload, that the contents of arguments may take; a call with more is Triton's.
cdef enum:
    TAIL_ROOM = 256

cdef enum:
    THROUGH_GETITEM = 0
    THROUGH_RUN = 1
    THROUGH_WARMUP = 2

cdef enum:
    ROUTE_DRIVER = 1     # cuLaunchKernelEx, parameters packed here
    ROUTE_WRAPPER = 2    # Triton's compiled launch function
    ROUTE_LAUNCHER = 3   # Triton's launcher object, which provides for instrumented kernels
    ROUTE_TRITON = 4     # not at all
    ROUTE_COMPILED = 5   # not yet: Triton loads a kernel when it first launches it

# How a launch by the driver route is submitted.
cdef enum:
    WAY_DEFAULT = 0      # as lowlat.route() or else LOWLAT_ROUTE says
    WAY_DRIVER = 1       # cuLaunchKernelEx
    WAY_GRAPH = 2        # as a one-node graph, where that is the same
    WAY_AUTO = 3         # by graph where that is also faster

WAY_NAMES = {WAY_DRIVER: "driver", WAY_GRAPH: "graph", WAY_AUTO: "auto"}

cdef enum:
    BY_GRAPH = 0
    NOT_HOT
    PLAIN_ONLY
    CAPTURING
    IN_USE
    PER_THREAD
    BLOCKING
    OTHER_CONTEXT
    NO_ROOM
    REFUSED
    SLOWER
    MEASURED
    NO_GRAPHS

SUBMISSIONS_TEXT = {
    "graph": "by the graph route",
    "not hot": "the plan has not been launched often enough to get a graph",
    "attributes": "the launch is cooperative, or has PDL or clusters or the larger shared memory",
    "capturing": "the stream is being captured (or another is, in whose way the legacy stream would be)",
    "in use": "another thread was launching this graph at this moment",
    "per-thread stream": "the stream is another one in each thread",
    "blocking": "CUDA_LAUNCH_BLOCKING is set",
    "other context": "the thread's CUDA context is not the stream's own (a green context's, say), or not the graph's",
    "no room": "no graph could be made: the driver refused, or all are in use",
    "refused": "the driver refused the graph; it is dropped and the launch made the plain way",
    "slower": "route 'auto' measured the driver route to be as fast on this device",
    "measured": "route 'auto' was comparing the two",
    "no graphs": "the driver has no calls for it",
}
SUBMISSION_NAMES = tuple(SUBMISSIONS_TEXT)
assert len(SUBMISSION_NAMES) == SUBMISSIONS

ROUTE_NAMES = {ROUTE_DRIVER: "driver", ROUTE_WRAPPER: "wrapper", ROUTE_LAUNCHER: "launcher", ROUTE_TRITON: "triton",
               ROUTE_COMPILED: "compiled"}

cdef enum:
    KIND_PLAIN = 0
    KIND_CONSTEXPR = 1
    KIND_INT = 2
    KIND_FLOAT = 3
    KIND_POINTER = 4
    KIND_OTHER = 5

# What one byte of a fingerprint says about an argument.  Tensors are 0x80 | small storage << 6 | dtype << 1 | aligned.
cdef enum:
    TAG_NONE = 1
    TAG_BOOL = 2
    TAG_FLOAT = 3
    TAG_ONE = 4
    TAG_ONE_OF_CLASS = 5
    TAG_I32 = 6          # | 1 when a multiple of 16
    TAG_I64 = 8
    TAG_U64 = 10
    TAG_WRAPPED = 12     # | 1 when aligned; from here on there is more in the tail
    TAG_TUPLE = 14
    TAG_CONSTANT = 15    # a tl.constexpr
    TAG_KERNEL = 16
    TAG_DESCRIPTOR = 17
    TAG_VALUE_INT = 32
    TAG_VALUE_UINT = 33
    TAG_VALUE_FLOAT = 34
    TAG_VALUE_TRUE = 35
    TAG_VALUE_FALSE = 36
    TAG_VALUE_NONE = 37
    TAG_VALUE_STRING = 38
    TAG_VALUE_OBJECT = 39
    TAG_VALUE_CONTENTS = 40
    TAG_SMALL = 0x40     # with TAG_TENSOR, on backends that ask
    TAG_TENSOR = 0x80


# ---- kernel[grid] -------------------------------------------------------------------------------------------------

@cython.final
@cython.freelist(32)
cdef class Launcher:
    """`kernel[grid]`: called with the kernel's arguments and launch options, launches, returns Triton's CompiledKernel.

    The grid is held as given, neither copied nor checked, as Triton's closure does; it may be stored and reused.
    Raises what Triton raises for the same call.
    """

    def __repr__(self):
        return f"<lowlat launcher of {self.kernel!r} over grid {self.grid!r}>"


cdef PyObject* kernel_subscript(PyObject* self, PyObject* grid) except NULL:
    """mp_subscript of lowlat.JITFunction: `Kernel.__getitem__` without a reference count to spare.

    A note on references, here and below: from CPython 3.12 on an increment is a 32-bit store and a decrement a 64-bit
    load, and a load that meets such a store in flight waits for it, some five nanoseconds each time.  So the path of
    a launch works on borrowed pointers; what they stand on is said where it is not the caller's own reference.
    """
    cdef PyObject* launcher
    if (<PyTypeObjectFields*>state.kernel_type).tp_version_tag != state.kernel_type_version or state.reason == PATCHED:
        return lowlat_new_reference((<Kernel>self).__getitem__(<object>grid))
    launcher = lowlat_new(<PyTypeObject*>Launcher, <PyObject*>EMPTY)
    (<Launcher>launcher).vectorcall = <vectorcallfunc>launcher_vectorcall
    (<Launcher>launcher).kernel = <Kernel>self
    (<Launcher>launcher).grid = <object>grid
    return launcher


cdef PyObject* launcher_vectorcall(PyObject* self, PyObject* const* args, size_t nargs, PyObject* names) except NULL:
    cdef PyObject* const* name_items = NULL
    cdef Py_ssize_t keywords = 0
    if names != NULL:
        name_items = tuple_items(names)
        keywords = tuple_size(names)
    if state.recorders != 0:
        return launch_recorded(<PyObject*>(<Launcher>self).kernel, True, <PyObject*>(<Launcher>self).grid, args,
                               PyVectorcall_NARGS(nargs), name_items, keywords, THROUGH_GETITEM)
    return launch(<Kernel><PyObject*>(<Launcher>self).kernel, <PyObject*>(<Launcher>self).grid, args,
                  PyVectorcall_NARGS(nargs), name_items, keywords, THROUGH_GETITEM)


cdef PyObject* kernel_run(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) except NULL:
    """`kernel.run(*args, grid=..., warmup=..., **kwargs)`, the door of autotuners, heuristics and libraries."""
    cdef PyObject* const* name_items = NULL
    cdef Py_ssize_t keywords = 0
    if names != NULL:
        name_items = tuple_items(names)
        keywords = tuple_size(names)
    if state.recorders != 0:
        return launch_recorded(self, True, NULL, args, count, name_items, keywords, THROUGH_RUN)
    return launch(<Kernel>self, NULL, args, count, name_items, keywords, THROUGH_RUN)


cdef PyObject* kernel_warmup(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) except NULL:
    """`kernel.warmup(*args, grid=..., **kwargs)`: compile without a launch.  torch dtypes may stand for tensors."""
    cdef PyObject* const* name_items = NULL
    cdef Py_ssize_t keywords = 0
    if names != NULL:
        name_items = tuple_items(names)
        keywords = tuple_size(names)
    cdef lowlat_step* step = lowlat_get_step() if state.recorders != 0 else NULL
    if step == NULL:
        return launch(<Kernel>self, NULL, args, count, name_items, keywords, THROUGH_WARMUP)
    lowlat_set_step(NULL)  # a grid callable of a sequence asks: it may go to Triton, since it launches nothing
    try:
        return launch(<Kernel>self, NULL, args, count, name_items, keywords, THROUGH_WARMUP)
    finally:
        lowlat_set_step(step)


# ---- the launch ---------------------------------------------------------------------------------------------------

cdef PyObject* launch(Kernel kernel, PyObject* grid, PyObject* const* args, Py_ssize_t positional,
                      PyObject* const* names, Py_ssize_t keywords, int through) except NULL:
    """One launch.  Nothing a user can observe happens before the driver is called, but for the grid callable and
    the materialisation of copy-on-write tensors; up to there every doubt ends in `leave`.

    Device and stream are read first and the grid last, as Triton does.
    """
    cdef int reason = live_reason(kernel)
    if reason == OK and kernel.run_replaced and through != THROUGH_RUN:
        reason = RUN_REPLACED  # kernel[grid](...) is a call of kernel.run; the caller of kernel.run has looked it up
    if reason != OK:
        return leave(kernel, reason, grid, args, positional, names, keywords, through)

    cdef int device
    cdef void* stream = NULL
    if state.c_getters:
        device = lowlat_current_device()
        if lowlat_current_stream(device, &stream) != 0:
            return leave(kernel, NO_DRIVER, grid, args, positional, names, keywords, through)
    else:
        python_getters(&device, &stream)

    # Comparing globals may run Python code, so it comes before anything is borrowed.  Triton does it later; a call
    # that leaves here gets whatever error Triton finds first.
    if kernel.has_globals and not globals_unchanged(kernel):
        return leave(kernel, GLOBAL, grid, args, positional, names, keywords, through)

    # Borrowed from the kernel, as is the plan below.  Both may go when other Python code runs, so whoever lets it
    # run (a grid callable, the wrapper route, learning) holds what it needs afterwards.
    cdef PyObject* binding = <PyObject*>kernel.binding
    if through != THROUGH_GETITEM:
        binding = <PyObject*>kernel.run_binding if through == THROUGH_RUN else <PyObject*>kernel.warmup_binding
    if not fits(<Binding>binding, positional, names, keywords):
        binding = find_binding(kernel, positional, names, keywords, through)
        if binding == NULL:
            return leave(kernel, BINDING, grid, args, positional, names, keywords, through)

    cdef Py_ssize_t count = kernel.parameter_count
    cdef PyObject* const* arguments = args
    cdef PyObject** gathered
    cdef tuple variadic = None
    if not (<Binding>binding).straight:
        gathered = <PyObject**>alloca((count + 1) * sizeof(PyObject*))
        gather(kernel, <Binding>binding, args, gathered)
        if kernel.variadic >= 0:
            variadic = variadic_of(kernel, args, positional)
            gathered[kernel.variadic] = <PyObject*>variadic
        arguments = gathered

    cdef bint warmup = False
    if through != THROUGH_GETITEM:
        grid = args[(<Binding>binding).grid_source]
        warmup = warms_up(<Binding>binding, args)
        if not warmup and args[(<Binding>binding).warmup_source] != Py_False:
            return leave(kernel, BINDING, grid, args, positional, names, keywords, through)

    # The fingerprint: a header, one tag byte per parameter and option, the values of constexprs and options, and a tail
    # for what arguments with contents (tuples, say) are made of.
    cdef Tail tail
    cdef uint64_t* fingerprint = <uint64_t*>alloca(((<Binding>binding).words + TAIL_ROOM) * sizeof(uint64_t))
    cdef uint64_t* payload = <uint64_t*>alloca((count + TAIL_ROOM) * sizeof(uint64_t))
    fingerprint[0] = header_of(device)
    fingerprint[1] = (<Binding>binding).option_names
    reason = specialize_call(kernel, <Binding>binding, args, arguments, fingerprint, payload, &tail)
    if reason != OK:
        return leave(kernel, reason, grid, args, positional, names, keywords, through)
    cdef Py_ssize_t size = ((<Binding>binding).words + tail.words_used) * sizeof(uint64_t)

    cdef PyObject* plan = kernel.plans_.last
    if not matches(plan, fingerprint, size):
        plan = find_entry(kernel.plans_, fingerprint, size)
        if plan == NULL:
            return learn(kernel, WARMUP if warmup else FIRST_CALL, <Binding>binding, grid, args, arguments, positional,
                         names, keywords, through, fingerprint, payload, &tail)
    if (<Plan>plan).route_ >= ROUTE_TRITON:
        if (<Plan>plan).route_ == ROUTE_TRITON:
            return leave(kernel, (<Plan>plan).reason, grid, args, positional, names, keywords, through)
        if not warmup:
            return learn(kernel, FIRST_CALL, <Binding>binding, grid, args, arguments, positional, names, keywords,
                         through, fingerprint, payload, &tail)

    # The kernel is Triton's: it must still be what Triton would find under the key, or the call is learnt anew.
    cdef PyObject* compiled = (<Plan>plan).compiled
    if not lowlat_stamp_current(&(<Plan>plan).stamp, <PyObject*>kernel.device_caches):
        compiled = cached_kernel(kernel, <Plan>plan)
    if compiled == NULL:
        return learn(kernel, FORGOTTEN, <Binding>binding, grid, args, arguments, positional, names, keywords, through,
                     fingerprint, payload, &tail)

    cdef int32_t blocks[3]
    cdef CUresult result = 0
    if warmup:
        lowlat_hold(compiled)
        return compiled
    if calls_for_grid(grid):
        return launch_over_callable(kernel, <Plan>plan, <object>compiled, grid, stream, arguments,
                                    <const uint8_t*>(fingerprint + 2), payload, &tail)
    if not parse_grid(grid, (<Plan>plan).route_, blocks):
        return leave(kernel, GRID, grid, args, positional, names, keywords, through)
    # Held from here on: with the GIL released, another thread may clear Triton's cache.
    lowlat_hold(compiled)
    if (<Plan>plan).route_ != ROUTE_DRIVER:
        launch_with_wrapper(<Plan>plan, compiled, blocks, stream, arguments, count)
    elif (<Plan>plan).map_count == 0:
        if state.recorders == 0:
            result = launch_with_driver(<Plan>plan, blocks, stream, payload, NULL)
        else:
            result = launch_or_step(<Plan>plan, compiled, blocks, stream, payload)
    else:
        result = launch_with_descriptors(<Plan>plan, compiled, blocks, stream, payload)
    if result != 0:
        lowlat_release(compiled)
        if result == CUDA_ERROR_INVALID_CONTEXT and no_context():
            # Nothing was launched.  Triton makes a context current in such a thread and then launches or raises.
            return leave(kernel, NO_CONTEXT, grid, args, positional, names, keywords, through)
        raise_driver_error(result)
    return compiled


cdef inline uint64_t header_of(int device):
    """A fingerprint's first word: the knobs that are part of the key, by number, and the device."""
    return state.environment << 32 | <uint64_t><uint32_t>device


cdef inline bint calls_for_grid(PyObject* grid):
    return not is_tuple(grid) and not is_list(grid) and PyCallable_Check(<object>grid)


cdef inline bint launches_nothing(const int32_t* blocks):
    """Triton multiplies in 32 bits and launches nothing unless the product is positive."""
    return <int32_t>(<uint32_t>blocks[0] * <uint32_t>blocks[1] * <uint32_t>blocks[2]) <= 0


cdef inline int live_reason(Kernel kernel) except -1:
    """Why this kernel may not be launched natively right now, or OK."""
    if not state_current():
        refresh_state()
    if state.reason != OK:
        return state.reason
    return kernel_reason(kernel)


cdef inline int kernel_reason(Kernel kernel) except -1:
    """The part of it that is the kernel's own."""
    if kernel.refusal != OK:
        return kernel.refusal
    if type_of(<PyObject*>kernel) != state.kernel_type:
        return SUBCLASS
    if not is_list(<PyObject*>kernel.pre_run_hooks) or list_size(<PyObject*>kernel.pre_run_hooks) != 0:
        return PRE_RUN_HOOK
    return OK


cdef inline bint fits(Binding binding, Py_ssize_t positional, PyObject* const* names, Py_ssize_t keywords):
    return (binding is not None and binding.positional == positional and binding.keywords == keywords
            and same_objects(names, binding.name_items, keywords))


cdef inline bint same_objects(PyObject* const* left, PyObject* const* right, Py_ssize_t count):
    """Of none, memcmp is not asked: where it loads under a mask (AVX-512), 0 bytes at NULL take it 40 to 120 ns."""
    return left == right or count == 0 or memcmp(left, right, count * sizeof(PyObject*)) == 0


cdef inline bint matches(PyObject* entry, const uint64_t* fingerprint, Py_ssize_t size):
    return (entry != NULL and (<Entry>entry).size == size
            and memcmp((<Entry>entry).words, fingerprint, size) == 0)


cdef PyObject* launch_over_callable(Kernel kernel, Plan borrowed, object borrowed_kernel, PyObject* grid, void* stream,
                                    PyObject* const* arguments, const uint8_t* tags, uint64_t* payload,
                                    const Tail* tail) except NULL:
    """A callable grid: Triton hands it the live dict of bound arguments and launches with whatever is in it then.

    The callable has been called once, so from here on nothing may go to Triton's run(): what is not plain is finished
    with Triton's own last steps.
    """
    cdef Plan plan = borrowed  # held, both: the callable may drop them
    cdef object compiled = borrowed_kernel
    cdef int32_t blocks[3]
    cdef CUresult result
    cdef Py_ssize_t i
    if kernel.bound is None:
        kernel.bound = named_arguments(dict.fromkeys(kernel.names))
    cdef dict bound = name_arguments(kernel.bound, arguments, kernel.parameter_count, NULL)
    cdef uint64_t tag = lowlat_dict_tag(bound)
    cdef object evaluated = <object>lowlat_call_one(<object>grid, bound)
    lowlat_release(<PyObject*>evaluated)  # the call's own reference; `evaluated` holds one
    cdef int reason = OK
    if (not parse_grid(<PyObject*>evaluated, plan.route_, blocks)
            or not unwritten(bound, tag) and not still_bound(kernel, bound, arguments)
            or live_reason(kernel) != OK):
        reason = GRID
    elif plan.route_ != ROUTE_DRIVER:
        call_wrapper(plan, blocks, stream, arguments, kernel.parameter_count)
    elif not read_addresses(kernel, plan.device, arguments, tags, payload, tail):
        reason = UNREADABLE
    else:
        result = launch_with_tensor_maps(plan, blocks, stream, payload)
        if result == CUDA_ERROR_INVALID_CONTEXT and no_context():
            reason = NO_CONTEXT
        elif result != 0:
            raise_driver_error(result)
    if reason != OK:
        if state.recorders != 0:
            refuse_step(reason)
        kernel.exits_[reason] += 1
        state.finish_with_triton(kernel, compiled, evaluated, <uint64_t>stream, bound)
    elif nobody_has(kernel.bound, bound, tag):
        for i in range(kernel.parameter_count):
            if not is_scalar(arguments[i]):
                lowlat_take_out(bound, kernel.bound.places[i])
        kernel.bound.spare = bound
    return lowlat_new_reference(compiled)


cdef bint read_addresses(Kernel kernel, int device, PyObject* const* arguments, const uint8_t* tags,
                         uint64_t* payload, const Tail* tail) except -1:
    """Into the payload, where the tensors are now: a grid callable may move one (resize_, set_), and Triton asks for
    the addresses after it, in tuples and descriptors, too.  False where that takes Triton's launcher."""
    cdef Py_ssize_t i
    cdef PyTypeObject* kind
    cdef uint8_t tag
    cdef uint64_t pointer
    cdef bint modes_checked = False
    cdef uint64_t words[TAIL_ROOM]
    cdef Tail now = tail[0]
    now.words = words
    now.words_used = 0
    now.payload_used = kernel.parameter_count
    for i in range(kernel.parameter_count):
        kind = type_of(arguments[i])
        if kind == state.tensor_type or kind == state.parameter_type:
            if not tags[i] & TAG_TENSOR:
                continue  # a constexpr
            if not modes_checked:
                if function_mode_enabled():
                    return False
                modes_checked = True
            if (lowlat_torch.rung == LOWLAT_RUNG_SHIM and not lowlat_shim_pointer(arguments[i], &pointer)
                    and pointer == payload[i]):
                continue  # where it was, it is on the device that it was on
            if specialize_tensor(&kernel.parameters[i], arguments[i], device, &tag, &payload[i]) != OK:
                return False
        elif tags[i] & TAG_TENSOR or tags[i] == TAG_ONE_OF_CLASS or TAG_WRAPPED <= tags[i] < TAG_VALUE_INT:
            if specialize_other(kernel, &kernel.parameters[i], arguments[i], kind, device, &tag, &payload[i],
                                &now) != OK:
                return False
    # Otherwise what was the key is no longer: the kernel stays, but it may find other things in other places.
    return now.words_used == tail.words_used and memcmp(words, tail.words, now.words_used * sizeof(uint64_t)) == 0


cdef inline int gather(Kernel kernel, Binding binding, PyObject* const* args, PyObject** gathered):
    cdef const int16_t* sources = binding.sources
    cdef Py_ssize_t i
    for i in range(kernel.parameter_count):
        gathered[i] = args[sources[i]] if sources[i] >= 0 else kernel.parameters[i].default
    return 0


cdef tuple variadic_of(Kernel kernel, PyObject* const* args, Py_ssize_t positional):
    """What `*args` of a kernel is in this call."""
    return values_of(args + kernel.variadic, max(positional - kernel.variadic, 0))


cdef inline PyObject* const* tuple_items(PyObject* items):
    return (<PyTupleObject*>items).ob_item


# ---- warmup -------------------------------------------------------------------------------------------------------

cdef enum:
    NO_WARMUP = -1      # a binding's warmup_source: kernel[grid] never is one,
    ALWAYS_WARMUP = -2  # kernel.warmup always


cdef inline bint warms_up(Binding binding, PyObject* const* args):
    return binding.warmup_source != NO_WARMUP and (binding.warmup_source == ALWAYS_WARMUP
                                                   or args[binding.warmup_source] == Py_True)


cdef inline int specialize_call(Kernel kernel, Binding binding, PyObject* const* args, PyObject* const* arguments,
                                uint64_t* fingerprint, uint64_t* payload, Tail* tail) except -1:
    if warms_up(binding, args):
        return specialize_warmup(kernel, binding, args, arguments, fingerprint, payload, tail)
    return specialize(kernel, binding, args, arguments, fingerprint, payload, tail)


cdef int specialize_warmup(Kernel kernel, Binding binding, PyObject* const* args, PyObject* const* arguments,
                           uint64_t* fingerprint, uint64_t* payload, Tail* tail) except -1:
    """`specialize`, of a call that will not be launched.  Triton's MockTensor and, by position in `warmup()`, a torch
    dtype have the key of a tensor at address 0, all of whose storage is within reach of 32-bit offsets."""
    cdef Py_ssize_t i, count = kernel.parameter_count
    cdef const Parameter* parameter
    cdef uint8_t* tags = <uint8_t*>(fingerprint + 2)
    cdef uint8_t* mocks = <uint8_t*>alloca(count + 1)
    cdef PyObject** others = <PyObject**>alloca((count + 1) * sizeof(PyObject*))
    cdef int reason
    for i in range(count):
        parameter = &kernel.parameters[i]
        others[i] = arguments[i]
        mocks[i] = 0
        if (type_of(arguments[i]) == state.torch_dtype_type and binding.warmup_source == ALWAYS_WARMUP
                and 0 <= binding.sources[i] < binding.positional):
            mocks[i] = mock_tag(arguments[i])
            if mocks[i] == 0 or (parameter.kind != KIND_PLAIN and parameter.kind != KIND_POINTER):
                return ARGUMENT
        elif type_of(arguments[i]) == state.mock_type and (parameter.kind == KIND_PLAIN
                                                           or parameter.kind == KIND_POINTER):
            attributes = (<object>arguments[i]).__dict__
            if len(attributes) == 2 and "dtype" in attributes and "shape" in attributes:
                dtype = attributes["dtype"]
                mocks[i] = mock_tag(<PyObject*>dtype)
        if mocks[i] != 0:
            others[i] = Py_None
    reason = specialize(kernel, binding, args, others, fingerprint, payload, tail)
    if reason != OK:
        return reason
    for i in range(count):
        if mocks[i] != 0:
            parameter = &kernel.parameters[i]
            tags[i] = TAG_TENSOR if parameter.kind == KIND_POINTER else mocks[i]
            tags[i] |= divisible(parameter, 0)
            if lowlat_torch.ranged:
                tags[i] |= TAG_SMALL
    return OK


cdef int mock_tag(PyObject* dtype) except -1:
    """The tag of an unaligned tensor of this dtype; 0 where lowlat has none."""
    if type_of(dtype) != state.torch_dtype_type:
        return 0
    code = state.torch_dtypes.get(<object>dtype)
    return 0 if code is None else TAG_TENSOR + (<int>code << 1)


# ---- arguments ----------------------------------------------------------------------------------------------------

cdef int specialize(Kernel kernel, Binding binding, PyObject* const* args, PyObject* const* arguments,
                    uint64_t* fingerprint, uint64_t* payload, Tail* tail) except -1:
    """Fill the fingerprint behind its header and the payload (each argument as the kernel will read it, little
    endian).  Returns OK, or the reason why this call is Triton's.

    No code of the user's runs here: it could drop what is borrowed, and Triton asks an object with `__hash__` or
    `data_ptr` of its own so many times and no more, which the object could count.
    """
    cdef Py_ssize_t i, count = kernel.parameter_count
    cdef uint8_t* tags = <uint8_t*>(fingerprint + 2)
    cdef uint64_t* words = fingerprint + binding.words - kernel.constexpr_count - binding.options
    cdef const Parameter* parameter = kernel.parameters
    cdef Value* value = kernel.values
    cdef PyObject* argument
    cdef PyTypeObject* kind
    cdef PyTypeObject* tensor_type = state.tensor_type
    cdef int reason
    cdef int device = <int>fingerprint[0]
    cdef bint modes_checked = False
    (words - 1)[0] = 0  # the padding behind the tags
    tail.words = fingerprint + binding.words
    tail.payload = payload
    tail.words_used = 0
    tail.payload_used = count
    tail.payload_room = count + TAIL_ROOM
    for i in range(count):
        argument = arguments[i]
        if parameter.kind == KIND_CONSTEXPR:
            if argument != value.object and not specialize_value(kernel.strings, argument, value):
                if not specialize_contents(kernel.strings, argument, value, False):
                    return CONSTEXPR
            tags[i] = value.tag
            words[0] = value.word
            value += 1
            words += 1
            parameter += 1
            continue
        kind = type_of(argument)
        if kind == tensor_type or kind == state.parameter_type:
            if not modes_checked:
                if function_mode_enabled():
                    return TORCH_FUNCTION_MODE
                modes_checked = True
            if parameter.kind == KIND_PLAIN:
                reason = specialize_tensor(parameter, argument, device, &tags[i], &payload[i])
            else:
                reason = specialize_annotated(parameter, argument, kind, device, &tags[i], &payload[i])
            if reason != OK:
                return reason
        elif parameter.kind != KIND_PLAIN:
            reason = specialize_annotated(parameter, argument, kind, device, &tags[i], &payload[i])
            if reason != OK:
                return reason
        elif specialize_scalar(parameter, argument, kind, &tags[i], &payload[i]) != OK:
            reason = specialize_other(kernel, parameter, argument, kind, device, &tags[i], &payload[i], tail)
            if reason != OK:
                return reason
        parameter += 1
    value = binding.option_values
    for i in range(binding.options):
        argument = args[binding.option_sources[i]]
        if argument != value.object and not specialize_value(kernel.strings, argument, value):
            if not specialize_contents(kernel.strings, argument, value, True):
                return OPTION
        tags[count + i] = value.tag
        words[i] = value.word
        value += 1
    return OK


cdef inline int specialize_scalar(const Parameter* parameter, PyObject* argument, PyTypeObject* kind, uint8_t* tag,
                                  uint64_t* payload) except -1:
    """An unannotated int, float, bool or None; ARGUMENT for anything else."""
    cdef int64_t number
    if kind == &PyLong_Type:
        if not lowlat_compact_int(argument, &number):
            return specialize_int(parameter, argument, tag, payload)
        payload[0] = <uint64_t>number
        tag[0] = TAG_I32 + divisible(parameter, <uint64_t>number)
        if number == 1 and parameter.specialize:
            tag[0] = TAG_ONE
    elif kind == &PyFloat_Type:
        tag[0] = TAG_FLOAT
        payload[0] = float_bits(PyFloat_AS_DOUBLE(argument), 32)
    elif kind == &PyBool_Type:
        tag[0] = TAG_BOOL
        payload[0] = argument == Py_True
    elif argument == Py_None:
        tag[0] = TAG_NONE
        payload[0] = 0
    else:
        return ARGUMENT
    return OK


cdef inline uint8_t divisible(const Parameter* parameter, uint64_t word):
    """1 where Triton specialises on a multiple of 16 and this is one; two's complement, so also for negatives."""
    return <uint8_t>((word & 15) == 0) & parameter.align


cdef inline int specialize_tensor(const Parameter* parameter, PyObject* argument, int device, uint8_t* tag,
                                  uint64_t* payload) except -1:
    cdef lowlat_tensor tensor
    if lowlat_torch.rung == LOWLAT_RUNG_SHIM:
        if lowlat_shim_read(argument, &tensor):
            return UNREADABLE
    elif not read_tensor(argument, &tensor):
        return UNREADABLE
    if not lowlat_on_device(tensor.device):
        return NOT_ON_DEVICE
    if lowlat_elsewhere(&tensor, device):
        return OTHER_DEVICE
    if <uint32_t>tensor.dtype >= 32:
        return UNREADABLE  # Triton has no type for the dtypes from there on, but for an odd one
    payload[0] = tensor.pointer
    tag[0] = <uint8_t>(TAG_TENSOR + (tensor.dtype << 1)) + divisible(parameter, tensor.pointer)
    if lowlat_torch.ranged and tensor.small:
        tag[0] |= TAG_SMALL
    return OK


cdef int specialize_int(const Parameter* parameter, PyObject* argument, uint8_t* tag, uint64_t* payload) except -1:
    """An int of more than one digit: i32, i64 or u64, as Triton's native specialiser decides."""
    cdef int overflow = 0
    cdef int64_t number = PyLong_AsLongLongAndOverflow(<object>argument, &overflow)
    if overflow == 0:
        payload[0] = <uint64_t>number
        tag[0] = TAG_I32 if INT32_MIN <= number <= INT32_MAX else TAG_I64
    elif overflow > 0 and <object>argument < TWO_TO_64:
        payload[0] = PyLong_AsUnsignedLongLong(<object>argument)
        tag[0] = TAG_U64
    else:
        return ARGUMENT
    tag[0] += divisible(parameter, payload[0])
    return OK


cdef int specialize_annotated(const Parameter* parameter, PyObject* argument, PyTypeObject* kind, int device,
                              uint8_t* tag, uint64_t* payload) except -1:
    """A parameter whose annotation forces its type: the argument's own type is not in Triton's key, but what the
    compiled launcher accepts and how it converts is Triton's business, so only plain cases are taken here."""
    cdef int64_t number
    cdef int reason
    if parameter.kind == KIND_FLOAT:
        tag[0] = TAG_FLOAT
        if kind == &PyFloat_Type:
            payload[0] = float_bits(PyFloat_AS_DOUBLE(argument), parameter.bits)
            return OK
        if kind == &PyLong_Type and lowlat_compact_int(argument, &number):
            payload[0] = float_bits(<double>number, parameter.bits)
            return OK
        return ANNOTATION
    if parameter.kind == KIND_POINTER:
        if kind == state.tensor_type or kind == state.parameter_type:
            reason = specialize_tensor(parameter, argument, device, tag, payload)
            tag[0] = TAG_TENSOR | (tag[0] & (TAG_SMALL | 1))  # the dtype is the annotation's
            return reason
        if argument == Py_None:
            tag[0] = TAG_NONE
            payload[0] = 0
            return OK
    elif parameter.kind == KIND_INT and kind == &PyBool_Type:
        tag[0] = TAG_BOOL
        payload[0] = argument == Py_True
        return OK
    if kind != &PyLong_Type or parameter.kind == KIND_OTHER:
        return ANNOTATION
    if specialize_int(parameter, argument, tag, payload) != OK:
        return ANNOTATION
    # Triton 3.6 refuses what does not fit the annotated type and later versions truncate it: theirs to do.
    number = <int64_t>payload[0]
    if (tag[0] & ~1) == TAG_U64:
        if parameter.signed or parameter.bits < 64:
            return ANNOTATION
    elif parameter.signed:
        if number >> (parameter.bits - 1) not in (0, -1):
            return ANNOTATION
        # The i8 of Triton 3.6 takes 0 to 255 and no negative number, and 3.7's takes any.
        if parameter.bits == 8 and number < 0:
            return ANNOTATION
    elif number < 0 or (parameter.bits < 64 and number >= <int64_t>1 << parameter.bits):
        return ANNOTATION
    if number == 1 and parameter.specialize:
        tag[0] = TAG_ONE
    return OK


cdef bint specialize_value(Strings strings, PyObject* argument, Value* value) except -1:
    """A constexpr or launch option: type and value, both exact.  False when lowlat has no key for it."""
    cdef PyTypeObject* kind = type_of(argument)
    cdef PyObject* old = value.object
    cdef int overflow = 0
    cdef int64_t number
    value.object = NULL
    Py_XDECREF(old)
    if kind == &PyLong_Type:
        number = PyLong_AsLongLongAndOverflow(<object>argument, &overflow)
        if overflow == 0:
            value.tag = TAG_VALUE_INT
            value.word = <uint64_t>number
        elif overflow > 0 and <object>argument < TWO_TO_64:
            value.tag = TAG_VALUE_UINT
            value.word = PyLong_AsUnsignedLongLong(<object>argument)
        else:
            return False
    elif kind == &PyBool_Type:
        value.tag = TAG_VALUE_TRUE if argument == Py_True else TAG_VALUE_FALSE
        value.word = 0
    elif argument == Py_None:
        value.tag = TAG_VALUE_NONE
        value.word = 0
    elif kind == &PyUnicode_Type:
        value.tag = TAG_VALUE_STRING
        value.word = number_of(strings, argument)
    elif kind == &PyFloat_Type:
        # By bits: 0.0 and -0.0 differ, a NaN equals itself; Triton's text key agrees or is coarser.
        value.tag = TAG_VALUE_FLOAT
        value.word = float_bits(PyFloat_AS_DOUBLE(argument), 64)
    elif kind == state.triton_dtype_type or kind == state.torch_dtype_type:
        # By identity: immutable, and held by the plan whose fingerprint has the address.
        value.tag = TAG_VALUE_OBJECT
        value.word = <uint64_t>argument
    else:
        return False
    Py_INCREF(<object>argument)
    value.object = argument
    return True


cdef uint64_t number_of(Strings strings, PyObject* text) except 0:
    cdef PyObject* known = PyDict_GetItemWithError(strings.recent, <object>text)
    if known != NULL:
        return PyLong_AsUnsignedLongLong(<object>known)
    if len(strings.recent) >= MAX_PLANS:
        strings.older.clear()
        strings.older, strings.recent = strings.recent, strings.older
    known = PyDict_GetItemWithError(strings.older, <object>text)
    if known == NULL:
        strings.count += 1
        strings.recent[<object>text] = strings.count
        return strings.count
    strings.recent[<object>text] = <object>known
    return PyLong_AsUnsignedLongLong(<object>known)


cdef int drop_values(Value* values, Py_ssize_t count) except -1:
    cdef Py_ssize_t i
    cdef PyObject* old
    for i in range(count):
        old = values[i].object
        values[i].object = NULL
        Py_XDECREF(old)
    return 0


cdef inline uint64_t float_bits(double number, int bits):
    """The parameter bytes of a float, as Triton's launcher converts: a C cast to fp32 (which overflows to inf),
    bf16 by truncation of that."""
    cdef float single
    cdef uint32_t half
    cdef uint64_t word
    if bits == 64:
        memcpy(&word, &number, 8)
        return word
    single = <float>number
    memcpy(&half, &single, 4)
    return half >> 16 if bits == 16 else half


cdef enum:
    CUDA_DEVICE = 1  # c10::DeviceType

cdef object TWO_TO_64 = 1 << 64
cdef tuple EMPTY = ()


# ---- arguments of other kinds -------------------------------------------------------------------------------------

cdef int specialize_other(Kernel kernel, const Parameter* parameter, PyObject* argument, PyTypeObject* kind,
                          int device, uint8_t* tag, uint64_t* payload, Tail* tail) except -1:
    """An unannotated argument that is none of tensor, int, float, bool and None."""
    if kind == state.descriptor_type:
        return specialize_descriptor(argument, device, tag, tail)
    if is_any_tuple(argument):
        return specialize_tuple(kernel, argument, kind, device, tag, tail)
    if kind == state.wrapper_type:
        return specialize_wrapper(kernel.strings, parameter, argument, device, tag, payload, tail)
    if kind == state.constexpr_class:
        return specialize_constant(kernel.strings, argument, tag, tail)
    if is_any_int(argument):
        if specialize_int(parameter, argument, tag, payload) != OK:
            return ARGUMENT
        if payload[0] == 1 and (tag[0] & ~1) == TAG_I32 and parameter.specialize:
            # Folded into the kernel as the object it is.
            if not hashes_as(kind, &PyLong_Type):
                return ARGUMENT
            tag[0] = TAG_ONE_OF_CLASS
            return add_word(tail, <uint64_t>kind)
        return OK
    if is_any_float(argument):
        tag[0] = TAG_FLOAT
        payload[0] = float_bits(PyFloat_AS_DOUBLE(argument), 32)
        return OK
    if <object><PyObject*>kind in state.kernel_types:
        return specialize_kernel(kernel.strings, argument, kind, tag, tail)
    if is_plain_tensor(kind):
        if function_mode_enabled():
            return TORCH_FUNCTION_MODE
        return specialize_tensor(parameter, argument, device, tag, payload)
    return ARGUMENT


cdef int specialize_tuple(Kernel kernel, PyObject* items, PyTypeObject* kind, int device, uint8_t* tag,
                          Tail* tail) except -1:
    """In the tail: class and length, then each item's tag, and what that wants.  Items are specialised whatever the
    parameter says; each has a word of its own in the payload, behind the arguments'."""
    cdef Py_ssize_t i, leaf, size = tuple_size(items)
    cdef PyTypeObject* item_kind
    cdef PyObject* item
    cdef uint64_t* place
    cdef uint8_t item_tag
    cdef int reason
    if not is_tuple(items) and not iterates_as_tuple(kind):
        return ARGUMENT
    tag[0] = TAG_TUPLE
    if add_word(tail, <uint64_t>kind) != OK or add_word(tail, <uint64_t>size) != OK:
        return ARGUMENT
    for i in range(size):
        item = tuple_items(items)[i]
        item_kind = type_of(item)
        place = tail.words + tail.words_used
        leaf = tail.payload_used
        if add_word(tail, 0) != OK:
            return ARGUMENT
        if not is_any_tuple(item):
            if leaf >= tail.payload_room:
                return ARGUMENT
            tail.payload_used += 1
        if item_kind == state.tensor_type or item_kind == state.parameter_type:
            if function_mode_enabled():
                return TORCH_FUNCTION_MODE
            reason = specialize_tensor(&TUPLE_ITEM, item, device, &item_tag, &tail.payload[leaf])
        elif item_kind == &PyLong_Type:
            reason = specialize_int(&TUPLE_ITEM, item, &item_tag, &tail.payload[leaf])
            if reason == OK and tail.payload[leaf] == 1:
                item_tag = TAG_ONE
        elif item_kind == &PyFloat_Type:
            item_tag = TAG_FLOAT
            tail.payload[leaf] = float_bits(PyFloat_AS_DOUBLE(item), 32)
            reason = OK
        elif item_kind == &PyBool_Type:
            item_tag = TAG_BOOL
            tail.payload[leaf] = item == Py_True
            reason = OK
        elif item == Py_None:
            item_tag = TAG_NONE
            reason = OK
        else:
            reason = specialize_other(kernel, &TUPLE_ITEM, item, item_kind, device, &item_tag, &tail.payload[leaf],
                                      tail)
        if reason != OK:
            return reason
        place[0] = item_tag
    return OK


cdef int specialize_descriptor(PyObject* argument, int device, uint8_t* tag, Tail* tail) except -1:
    """A host TensorDescriptor.  In the tail is what Triton keys on: dtype and block shape, which may change in place.
    In the payload is what else a launch takes from it: the address, whether it is padded with NaNs, whether float32 is
    rounded, shape, strides.  Attributes of other types than these are Triton's to understand."""
    cdef PyObject* fields[6]
    cdef uint64_t* words = tail.words + tail.words_used
    cdef uint64_t* payload = tail.payload + tail.payload_used
    cdef Py_ssize_t rank
    cdef PyTypeObject* kind
    cdef uint8_t base_tag
    cdef int reason
    if not descriptors_are_plain() or not read_fields(argument, fields):
        return ARGUMENT
    rank = count_of(fields[3])
    if not 1 <= rank <= (DESCRIPTOR_WORDS - 3) // 2:
        return ARGUMENT
    if tail.words_used + 1 + rank > TAIL_ROOM or tail.payload_used + 3 + 2 * rank > tail.payload_room:
        return ARGUMENT
    if not (read_ints(fields[3], rank, words + 1) and read_ints(fields[1], rank, payload + 3)
            and read_ints(fields[2], rank, payload + 3 + rank)):
        return ARGUMENT
    if <int64_t>payload[2 + 2 * rank] != 1 or not all_in_32_bits(payload + 3, rank):
        return ARGUMENT  # an assertion of Triton's launcher; and Triton 3.6 refuses what later ones truncate
    if type_of(fields[4]) != &PyUnicode_Type or (fields[5] != Py_True and fields[5] != Py_False):
        return ARGUMENT
    payload[1] = fields[4] != <PyObject*>ZERO_PADDING and compare_text(fields[4], "nan") == 0
    payload[2] = fields[5] == Py_True
    kind = type_of(fields[0])
    if kind != state.tensor_type and kind != state.parameter_type and not is_plain_tensor(kind):
        return ARGUMENT
    if function_mode_enabled():
        return TORCH_FUNCTION_MODE
    base = <object>fields[0]  # held: reading it may take Python code
    reason = specialize_tensor(&TUPLE_ITEM, <PyObject*>base, device, &base_tag, payload)
    if reason != OK:
        return reason
    words[0] = (base_tag & ~(TAG_SMALL | 1)) | rank << 8
    tag[0] = TAG_DESCRIPTOR
    tail.words_used += 1 + rank
    tail.payload_used += 3 + 2 * rank
    return OK


cdef inline bint descriptors_are_plain() except -1:
    """Whether attributes of a TensorDescriptor are what is in its __dict__: its class is as Triton made it, as far as
    that goes."""
    cdef unsigned int version = (<PyTypeObjectFields*>state.descriptor_type).tp_version_tag
    return (version == state.plain_descriptor_version and version != 0) or look_at_descriptors(version)


cdef bint look_at_descriptors(unsigned int version) except -1:
    kind = <object><PyObject*>state.descriptor_type
    attributes = kind.__dict__
    if kind.__mro__ != (kind, object) or not ASKED_OF_DESCRIPTORS.isdisjoint(attributes):
        return False
    for name in state.descriptor_fields:
        if type(attributes.get(name, "")) not in (str, bool):  # a default, and nothing that computes
            return False
    state.plain_descriptor_version = version
    return True


cdef frozenset ASKED_OF_DESCRIPTORS = frozenset(("__getattribute__", "__getattr__", "dtype"))


cdef inline bint read_fields(PyObject* descriptor, PyObject** fields) except -1:
    """The attributes, borrowed, most often in the order in which __init__ sets them."""
    cdef PyObject* attributes = PyObject_GenericGetDict(descriptor, NULL)
    cdef Py_ssize_t i, position = 0, count = tuple_size(<PyObject*>state.descriptor_fields)
    cdef PyObject* name
    cdef bint found = True
    lowlat_release(attributes)  # the descriptor keeps it
    fields[5] = Py_False
    for i in range(count):
        if (not PyDict_Next(<object>attributes, &position, &name, &fields[i])
                or name != tuple_items(<PyObject*>state.descriptor_fields)[i]):
            found = False
            break
    if not found:
        for i in range(count):
            fields[i] = PyDict_GetItemWithError(<object>attributes, <object>tuple_items(
                <PyObject*>state.descriptor_fields)[i])
            if fields[i] == NULL:
                return False
    return True


cdef inline Py_ssize_t count_of(PyObject* sequence):
    """How many items a tuple (torch.Size included) or list has; -1 of anything else."""
    if is_list(sequence):
        return list_size(sequence)
    if is_tuple(sequence) or (is_any_tuple(sequence) and is_plain_tuple(type_of(sequence))):
        return tuple_size(sequence)
    return -1


cdef inline bint is_plain_tuple(PyTypeObject* kind):
    """Whether a class derived from tuple is torch.Size or the like: written in C, iterated as a tuple."""
    return ((<PyTypeObjectFields*>kind).tp_iter == (<PyTypeObjectFields*>&PyTuple_Type).tp_iter
            and not (<PyTypeObjectFields*>kind).tp_flags & Py_TPFLAGS_HEAPTYPE)


cdef inline bint read_ints(PyObject* sequence, Py_ssize_t rank, uint64_t* words) except -1:
    cdef PyObject* const* items
    cdef Py_ssize_t i
    cdef int64_t number
    cdef int overflow = 0
    if count_of(sequence) != rank:
        return False
    items = tuple_items(sequence)
    if is_list(sequence):
        items = <PyObject* const*>(<PyListObject*>sequence).ob_item
    for i in range(rank):
        if type_of(items[i]) != &PyLong_Type:
            return False  # Triton knows what to do with a bool, say
        if not lowlat_compact_int(items[i], &number):
            number = PyLong_AsLongLongAndOverflow(<object>items[i], &overflow)
            if overflow != 0:
                return False
        words[i] = <uint64_t>number
    return True


cdef inline bint all_in_32_bits(const uint64_t* words, Py_ssize_t count):
    cdef Py_ssize_t i
    for i in range(count):
        if not INT32_MIN <= <int64_t>words[i] <= INT32_MAX:
            return False
    return True


cdef str ZERO_PADDING = sys.intern("zero")


cdef int specialize_wrapper(Strings strings, const Parameter* parameter, PyObject* argument, int device, uint8_t* tag,
                            uint64_t* payload, Tail* tail) except -1:
    """triton.reinterpret(tensor, dtype): the tensor's address and the wrapper's dtype."""
    cdef object base = getattr(<object>argument, "base", None)
    cdef object dtype = getattr(<object>argument, "dtype", None)
    cdef int reason
    if type_of(<PyObject*>base) != state.tensor_type and type_of(<PyObject*>base) != state.parameter_type:
        return ARGUMENT
    if function_mode_enabled():
        return TORCH_FUNCTION_MODE
    reason = specialize_tensor(parameter, <PyObject*>base, device, tag, payload)
    if reason != OK:
        return reason
    tag[0] = TAG_WRAPPED + (tag[0] & 1)
    return add_dtype(strings, dtype, tail)


cdef int specialize_constant(Strings strings, PyObject* argument, uint8_t* tag, Tail* tail) except -1:
    """A tl.constexpr where a run-time value could be: its value is part of the key.  It can be assigned, so it is
    looked at each time."""
    cdef Value value
    cdef bint known
    value.object = NULL
    inner = getattr(<object>argument, "value", UNSET)
    if inner is UNSET:
        return ARGUMENT
    known = specialize_value(strings, <PyObject*>inner, &value)
    if not known or value.tag == TAG_VALUE_OBJECT:
        known = specialize_contents(strings, <PyObject*>inner, &value, False)
    drop_values(&value, 1)
    if not known:
        return ARGUMENT
    tag[0] = TAG_CONSTANT
    if add_word(tail, value.tag) != OK:
        return ARGUMENT
    return add_word(tail, value.word)


cdef int specialize_kernel(Strings strings, PyObject* argument, PyTypeObject* kind, uint8_t* tag, Tail* tail) except -1:
    """A kernel as an argument: Triton keys on its `cache_key`, which is `hash` once that has been computed."""
    hashed = (<object>argument).hash
    if type(hashed) is not str:
        return ARGUMENT
    tag[0] = TAG_KERNEL
    if add_word(tail, <uint64_t>kind) != OK:
        return ARGUMENT
    return add_word(tail, number_of(strings, <PyObject*>hashed))


cdef int add_dtype(Strings strings, object dtype, Tail* tail) except -1:
    """torch's dtypes live for ever; Triton's can be made by anyone, and are their names."""
    if type_of(<PyObject*>dtype) == state.torch_dtype_type:
        return add_word(tail, <uint64_t><PyObject*>dtype)
    if type_of(<PyObject*>dtype) != state.triton_dtype_type or type(dtype.name) is not str:
        return ARGUMENT
    name = dtype.name
    return add_word(tail, number_of(strings, <PyObject*>name))


cdef inline int add_word(Tail* tail, uint64_t word):
    if tail.words_used == TAIL_ROOM:
        return ARGUMENT
    tail.words[tail.words_used] = word
    tail.words_used += 1
    return OK


cdef inline bint hashes_as(PyTypeObject* kind, PyTypeObject* base):
    """Whether instances compare and hash as those of `base`, so that Triton's dict takes them for what they equal."""
    return ((<PyTypeObjectFields*>kind).tp_hash == (<PyTypeObjectFields*>base).tp_hash
            and (<PyTypeObjectFields*>kind).tp_richcompare == (<PyTypeObjectFields*>base).tp_richcompare)


cdef bint is_plain_tensor(PyTypeObject* kind) except -1:
    """Whether a subclass of torch.Tensor left everything as it was that Triton asks a tensor: its instances are read
    as tensors are.  The class looked at last is told by its version, which goes when it or a base is written to."""
    cdef unsigned int version = (<PyTypeObjectFields*>kind).tp_version_tag
    if kind == state.plain_tensor and version == state.plain_tensor_version and version != 0:
        return True
    if state.tensor_type == NULL or not PyType_IsSubtype(kind, state.tensor_type):
        return False
    for owner in (<object><PyObject*>kind).__mro__:
        if <PyTypeObject*>owner == state.tensor_type:
            break
        if <PyTypeObject*>owner != state.parameter_type and not ASKED_OF_TENSORS.isdisjoint(owner.__dict__):
            return False
    state.plain_tensor = kind
    state.plain_tensor_version = version
    return True


cdef frozenset ASKED_OF_TENSORS = frozenset((
    "data_ptr", "dtype", "device", "untyped_storage", "ptr_range", "__torch_function__", "__torch_dispatch__",
    "__getattribute__", "__getattr__"))


cdef bint iterates_as_tuple(PyTypeObject* kind) except -1:
    """Whether Triton's launch functions, which iterate (3.7 on) or ask for items (3.6), find the items of the tuple."""
    cdef PyTypeObjectFields* fields = <PyTypeObjectFields*>kind
    if fields.tp_iter != (<PyTypeObjectFields*>&PyTuple_Type).tp_iter:
        return False
    cls = <object><PyObject*>kind
    return (not fields.tp_flags & Py_TPFLAGS_HEAPTYPE
            or cls.__getitem__ is TUPLE_GETITEM and cls.__len__ is TUPLE_LEN)


cdef object TUPLE_GETITEM = tuple.__getitem__
cdef object TUPLE_LEN = tuple.__len__


cdef int hold_named(PyObject* borrowed, list keepalive) except -1:
    """Add to `keepalive` what of an argument stands in a fingerprint by its address: dtypes, and classes."""
    argument = <object>borrowed
    kind = type(argument)
    if kind is type(None) or kind in (int, float, bool, str) or type_of(borrowed) == state.tensor_type:
        return 0
    keepalive.append(kind)
    if type_of(borrowed) == state.triton_dtype_type or type_of(borrowed) == state.torch_dtype_type:
        keepalive.append(argument)
    elif isinstance(argument, tuple):
        for item in argument:
            hold_named(<PyObject*>item, keepalive)
    return 0


cdef Parameter TUPLE_ITEM
TUPLE_ITEM.kind = KIND_PLAIN
TUPLE_ITEM.specialize = TUPLE_ITEM.align = 1


# Constexprs and options with contents

cdef enum:
    TEXT_ROOM = 1024
    TEXT_TUPLE = 128
    TEXT_CLASS
    TEXT_DICT
    TEXT_CONSTEXPR
    TEXT_KERNEL
    TEXT_IDENTITY


# Such a value is written out as bytes, type-strictly, and known by their number.  What is named in the bytes by its
# address is held with them, for as long as they have that number.
class _Contents(bytes):
    """The bytes, with `named`."""


cdef struct Text:
    Py_ssize_t size
    bint fixed      # whether the same object will always give the same bytes
    char bytes[TEXT_ROOM]


cdef bint specialize_contents(Strings strings, PyObject* argument, Value* value, bint is_option) except -1:
    """A constexpr or launch option that `specialize_value` has no word for; False where lowlat has none either.
    Triton looks constexprs up by hash and equality, options by their text."""
    cdef Text text
    cdef PyObject* known
    cdef PyObject* old
    named = []
    text.size = 0
    text.fixed = True
    if write_value(&text, strings, argument, named, is_option):
        key = PyBytes_FromStringAndSize(text.bytes, text.size)
    elif not is_option and compares_in_c(<object>argument):
        key = (type(<object>argument), <object>argument)
    else:
        return False
    value.tag = TAG_VALUE_CONTENTS
    known = PyDict_GetItemWithError(strings.recent, key)
    if known != NULL:
        value.word = PyLong_AsUnsignedLongLong(<object>known)
    else:
        if type(key) is bytes:
            key = _Contents(key)
            key.named = named
        value.word = number_of(strings, <PyObject*>key)
    old = value.object
    value.object = NULL
    if text.fixed:
        Py_INCREF(<object>argument)
        value.object = argument
    Py_XDECREF(old)
    return True


cdef bint compares_in_c(object argument) except -1:
    """Whether it takes no code of the user's to hash it and to compare it to another of its class."""
    cdef PyTypeObject* kind = type_of(<PyObject*>argument)
    if type(argument) in VALUE_TYPES:
        return True
    if isinstance(argument, int) and hashes_as(kind, &PyLong_Type):
        return True
    if isinstance(argument, str) and hashes_as(kind, &PyUnicode_Type):
        return True
    if isinstance(argument, float) and hashes_as(kind, &PyFloat_Type):
        return True
    global numpy_types
    if numpy_types is None and "numpy" in sys.modules:
        numpy = sys.modules["numpy"]
        numpy_types = frozenset([scalar for scalar in numpy.sctypeDict.values()
                                 if issubclass(scalar, (numpy.number, numpy.bool_))])
    return numpy_types is not None and type(argument) in numpy_types


cdef frozenset VALUE_TYPES = frozenset((int, bytes, complex, range, type(len)))
cdef frozenset numpy_types = None


cdef bint write_value(Text* text, Strings strings, PyObject* argument, list named, bint is_option) except -1:
    """Append what the value is; False where it takes Python code to tell, or there is no room."""
    cdef PyTypeObject* kind = type_of(argument)
    cdef Py_ssize_t i
    cdef Value value
    value.object = NULL
    if specialize_value(strings, argument, &value):
        drop_values(&value, 1)
        if value.tag == TAG_VALUE_OBJECT:
            named.append(<object>argument)
        return write_word(text, value.tag, value.word)
    if is_any_tuple(argument) and hashes_as(kind, &PyTuple_Type):
        if not is_tuple(argument):
            named.append(<object><PyObject*>kind)
            if is_option or not write_word(text, TEXT_CLASS, <uint64_t>kind):
                return False
        if not write_word(text, TEXT_TUPLE, <uint64_t>tuple_size(argument)):
            return False
        for i in range(tuple_size(argument)):
            if not write_value(text, strings, tuple_items(argument)[i], named, is_option):
                return False
        return True
    if is_option:
        if type(<object>argument) is not dict or not write_word(text, TEXT_DICT, <uint64_t>len(<dict>argument)):
            return False
        text.fixed = False
        for name, item in list((<dict>argument).items()):
            if not (write_value(text, strings, <PyObject*>name, named, is_option)
                    and write_value(text, strings, <PyObject*>item, named, is_option)):
                return False
        return True
    if kind == state.constexpr_class:
        text.fixed = False
        inner = getattr(<object>argument, "value", UNSET)
        return (inner is not UNSET and write_word(text, TEXT_CONSTEXPR, 0)
                and write_value(text, strings, <PyObject*>inner, named, is_option))
    if <object><PyObject*>kind in state.kernel_types:
        text.fixed = False
        hashed = (<object>argument).hash
        return (type(hashed) is str and write_word(text, TEXT_KERNEL, <uint64_t>kind)
                and write_word(text, TEXT_KERNEL, number_of(strings, <PyObject*>hashed)))
    if hashes_as(kind, &PyBaseObject_Type) or is_plain_enum(<object>argument):
        # Equal to itself and nothing else, so an identity.
        text.fixed = False
        named.append(<object>argument)
        return write_word(text, TEXT_IDENTITY, <uint64_t>argument)
    return False


cdef bint is_plain_enum(object member) except -1:
    """Whether a member of an Enum class that left hashing and equality as they are."""
    kind = type(member)
    return (isinstance(kind, state.enum_type) and kind.__eq__ is state.object_eq and kind.__hash__ is state.enum_hash)


cdef bint write_word(Text* text, uint8_t tag, uint64_t word):
    if text.size + 9 > TEXT_ROOM:
        return False
    text.bytes[text.size] = <char>tag
    memcpy(&text.bytes[text.size + 1], &word, 8)
    text.size += 9
    return True


# ---- tensors on the lower rungs -----------------------------------------------------------------------------------

cdef inline bint function_mode_enabled() except -1:
    if lowlat_torch.function_mode_enabled != NULL:
        return lowlat_function_mode_enabled()
    return state.function_mode_depth() > 0


cdef bint read_tensor(PyObject* argument, lowlat_tensor* tensor) except -1:
    """By DLPack or by Python.  False: torch refuses, and Triton must say so in its own words."""
    if lowlat_torch.ranged and not read_range(argument, tensor):
        return False
    if lowlat_torch.rung == LOWLAT_RUNG_DLPACK:
        try:
            lowlat_dlpack_read(argument, tensor)
        except (BufferError, RuntimeError, ValueError, TypeError):
            return False
        return True
    if lowlat_torch.rung == LOWLAT_RUNG_PYTHON:
        return read_tensor_with_python(<object>argument, tensor)
    return False


cdef bint read_range(PyObject* argument, lowlat_tensor* tensor) except -1:
    try:
        tensor.small = (<object>argument).untyped_storage().size() <= INT32_MAX
    except RuntimeError:
        return False  # it has no storage
    return True


cdef bint read_tensor_with_python(object argument, lowlat_tensor* tensor) except -1:
    cdef object code = state.torch_dtypes.get(argument.dtype)
    if code is None:
        return False
    tensor.dtype = code
    tensor.device = state.torch_devices.get(argument.device.type, -1)
    tensor.index = -1 if argument.device.index is None else argument.device.index
    if not lowlat_on_device(tensor.device):
        return True
    try:
        tensor.pointer = argument.data_ptr()
    except RuntimeError:
        return False
    return True


# ---- binding ------------------------------------------------------------------------------------------------------

cdef PyObject* find_binding(Kernel kernel, Py_ssize_t positional, PyObject* const* names, Py_ssize_t keywords,
                            int through) except? NULL:
    """The binding of this shape of call, resolved once, borrowed from the kernel; NULL where Triton's binder would
    raise."""
    cdef Py_ssize_t i = 0, position = 0
    cdef PyObject* key
    cdef PyObject* known
    while i < FEW_BINDINGS and PyDict_Next(kernel.bindings, &position, &key, &known):
        if (<Binding>known).through == through and fits(<Binding>known, positional, names, keywords):
            return use_binding(kernel, <Binding>known)
        i += 1
    cdef tuple name_tuple = values_of(names, keywords)
    cdef object shape = (through, positional, name_tuple)
    cdef Binding binding = kernel.bindings.get(shape)
    if binding is None and max(len(kernel.bindings), len(kernel.option_names)) >= MAX_BINDINGS:
        # Option names are numbered, and the numbers stand in fingerprints: all or nothing.
        forget(kernel)
        kernel.binding = kernel.run_binding = kernel.warmup_binding = None
        kernel.bindings.clear()
        kernel.option_names.clear()
    if binding is None:
        binding = resolve_binding(kernel, positional, name_tuple, through)
        if binding is None:
            return NULL
        kernel.bindings[shape] = binding
    return use_binding(kernel, binding)


cdef inline PyObject* use_binding(Kernel kernel, Binding binding):
    if binding.through == THROUGH_RUN:
        kernel.run_binding = binding
    elif binding.through == THROUGH_WARMUP:
        kernel.warmup_binding = binding
    else:
        kernel.binding = binding
    return <PyObject*>binding


cdef Binding resolve_binding(Kernel kernel, Py_ssize_t positional, tuple names, int through):
    cdef Py_ssize_t count = kernel.parameter_count
    cdef Py_ssize_t i
    cdef Binding binding = Binding.__new__(Binding)
    if (positional > kernel.positional and kernel.variadic < 0) or positional + len(names) > 32000:
        return None
    binding.through = through
    binding.positional = positional
    binding.keywords = len(names)
    binding.names = names
    binding.name_items = <PyObject**>tuple_items(<PyObject*>names)
    binding.grid_source = -1
    binding.warmup_source = ALWAYS_WARMUP if through == THROUGH_WARMUP else NO_WARMUP
    binding.sources = <int16_t*>malloc((count + 1) * sizeof(int16_t))
    binding.option_sources = <int16_t*>malloc((len(names) + 1) * sizeof(int16_t))
    binding.option_values = <Value*>calloc(len(names) + 1, sizeof(Value))
    if binding.sources == NULL or binding.option_sources == NULL or binding.option_values == NULL:
        raise MemoryError()
    for i in range(count):
        binding.sources[i] = <int16_t>i if i < positional and i < kernel.positional else -1
    options = []
    for i, name in enumerate(names):
        if (name == "self" or (through == THROUGH_GETITEM and name == "grid")
                or (through != THROUGH_RUN and name == "warmup")):
            return None  # taken by Triton's own run()
        elif through != THROUGH_GETITEM and name == "grid":
            binding.grid_source = <int>(positional + i)
        elif through == THROUGH_RUN and name == "warmup":
            binding.warmup_source = <int>(positional + i)
        elif name in kernel.positions:
            if kernel.positions[name] == kernel.variadic:
                return None  # an option of that name, for which there is Triton's own error
            if binding.sources[<Py_ssize_t>kernel.positions[name]] >= 0:
                return None  # given twice
            binding.sources[<Py_ssize_t>kernel.positions[name]] = <int16_t>(positional + i)
        else:
            binding.option_sources[len(options)] = <int16_t>(positional + i)
            options.append(name)
    if through != THROUGH_GETITEM and binding.grid_source < 0:
        return None
    if through == THROUGH_RUN and binding.warmup_source == NO_WARMUP:
        return None
    for i in range(count):
        if binding.sources[i] < 0 and kernel.parameters[i].default == NULL and i != kernel.variadic:
            return None  # missing
    binding.straight = positional == count and kernel.positional == count
    binding.options = len(options)
    binding.option_names = kernel.option_names.setdefault(tuple(options), len(kernel.option_names))
    # header | tags, padded | constexpr values | option values
    binding.words = 2 + (count + binding.options + 8) // 8 + kernel.constexpr_count + binding.options
    return binding


cdef bint still_bound(Kernel kernel, dict bound, PyObject* const* arguments) except -1:
    """Whether the grid callable left its dict as it was.  Triton passes on the values, in their order; no names."""
    cdef Py_ssize_t position = 0, i = 0
    cdef PyObject* name
    cdef PyObject* value
    if len(bound) != kernel.parameter_count:
        return False
    while PyDict_Next(bound, &position, &name, &value):
        if value != arguments[i]:
            return False
        i += 1
    return True


# ---- what fingerprints stand for ------------------------------------------------------------------------------------

cdef PyObject* find_entry(Table table, const uint64_t* fingerprint, Py_ssize_t size):
    """The entry of a fingerprint that is not the last one's, borrowed from the table, or NULL.  No Python code runs."""
    cdef PyObject* found = table.second
    cdef Slot* slot
    if not matches(found, fingerprint, size):
        slot = find_slot(table, fingerprint, size, hash_of(fingerprint, size))
        if slot.number == 0:
            return NULL
        found = entry_at(table, slot.number - 1)
    (<Entry>found).used = True
    table.second = table.last
    table.last = found
    return found


cdef inline Slot* find_slot(Table table, const uint64_t* fingerprint, Py_ssize_t size, uint32_t hash):
    """Where the entry of a fingerprint is, or the empty slot where it would go.  The hash only says where to look:
    entries are told apart by the fingerprint itself."""
    cdef uint32_t place = hash
    cdef Slot* slot
    while True:
        slot = &table.slots[place & table.mask]
        if slot.number == 0 or (slot.hash == hash
                                and matches(entry_at(table, slot.number - 1), fingerprint, size)):
            return slot
        place += 1


cdef inline PyObject* entry_at(Table table, Py_ssize_t index):
    return (<PyListObject*><PyObject*>table.entries).ob_item[index]


cdef inline uint32_t hash_of(const uint64_t* words, Py_ssize_t size):
    # The factors are odd numbers without pattern: the fractions of the golden ratio and of the square root of 2.
    cdef uint64_t hash = <uint64_t>size
    cdef const uint64_t* end = words + size // <Py_ssize_t>sizeof(uint64_t)
    if size & <Py_ssize_t>sizeof(uint64_t):
        end -= 1
        hash += end[0]
    while words != end:
        hash = (hash ^ words[0]) * <uint64_t>0x9E3779B97F4A7C15 + words[1] * <uint64_t>0x6A09E667F3BCC909
        hash ^= hash >> 32
        words += 2
    hash *= <uint64_t>0x9E3779B97F4A7C15
    return <uint32_t>(hash >> 32)


cdef int add_entry(Table table, Entry entry, bytes fingerprint) except -1:
    """Under its fingerprint, in place of the one that is there: what that stood for is gone."""
    cdef Py_ssize_t index, size = len(fingerprint)
    cdef uint32_t hash
    cdef Slot* slot
    entry.fingerprint = fingerprint
    entry.words = <const uint64_t*>PyBytes_AS_STRING(fingerprint)
    entry.size = <int>size
    hash = hash_of(entry.words, size)
    slot = find_slot(table, entry.words, size, hash)
    if slot.number == 0:
        if len(table.entries) < MAX_PLANS:
            if 2 * len(table.entries) > <Py_ssize_t>table.mask:
                grow(table)
            index = len(table.entries)
            table.entries.append(None)
        else:
            index = evict(table)
        slot = find_slot(table, entry.words, size, hash)  # not where it was
        slot.hash = hash
        slot.number = <uint32_t>(index + 1)
    index = slot.number - 1
    cdef object replaced = table.entries[index]  # goes at the end, since that may run Python code
    table.entries[index] = entry
    table.second = NULL if table.last == <PyObject*>replaced else table.last
    table.last = <PyObject*>entry
    return 0


cdef int grow(Table table) except -1:
    cdef uint32_t i, place, count = table.mask + 1
    cdef Slot* slots = <Slot*>calloc(2 * count, sizeof(Slot))
    if slots == NULL:
        raise MemoryError()
    for i in range(count):
        if table.slots[i].number != 0:
            place = table.slots[i].hash & (2 * count - 1)
            while slots[place].number != 0:
                place = (place + 1) & (2 * count - 1)
            slots[place] = table.slots[i]
    free(table.slots)
    table.slots = slots
    table.mask = 2 * count - 1
    return 0


cdef Py_ssize_t evict(Table table):
    """The index of an entry that has not been found again since the hand last came by; its slot is free."""
    cdef PyObject* entry
    while True:
        table.hand = table.hand + 1 if table.hand + 1 < MAX_PLANS else 0
        entry = entry_at(table, table.hand)
        if not (<Entry>entry).used and entry != table.last and entry != table.second:
            break
        (<Entry>entry).used = False
    free_slot(table, find_slot(table, (<Entry>entry).words, (<Entry>entry).size,
                               hash_of((<Entry>entry).words, (<Entry>entry).size)))
    return table.hand


cdef int free_slot(Table table, Slot* slot):
    """Those that had gone further because slots were taken move up, so that no look-up ends at the hole."""
    cdef uint32_t hole = <uint32_t>(slot - table.slots)
    cdef uint32_t place = hole
    while True:
        place = (place + 1) & table.mask
        if table.slots[place].number == 0:
            break
        if ((place - table.slots[place].hash) & table.mask) >= ((place - hole) & table.mask):
            table.slots[hole] = table.slots[place]
            hole = place
    table.slots[hole].number = 0
    return 0


cdef int clear_table(Table table) except -1:
    cdef list none = [], entries = table.entries
    table.entries = none
    table.last = table.second = NULL
    table.hand = 0
    table.cleared += 1
    memset(table.slots, 0, (<size_t>table.mask + 1) * sizeof(Slot))
    entries.clear()  # may run Python code
    return 0


# ---- plans --------------------------------------------------------------------------------------------------------

cdef PyObject* cached_kernel(Kernel kernel, Plan plan) except? NULL:
    """The plan's CompiledKernel if Triton's cache still holds just that object under its key; borrowed."""
    cdef PyObject* entry
    cdef PyObject* found
    if not isinstance(kernel.device_caches, dict):
        return NULL
    entry = PyDict_GetItemWithError(kernel.device_caches, plan.device)
    if entry == NULL or not PyTuple_CheckExact(<object>entry) or PyTuple_GET_SIZE(<object>entry) == 0:
        return NULL
    cache = <object>PyTuple_GET_ITEM(<object>entry, 0)
    if type(cache) is not dict:
        return NULL
    found = PyDict_GetItemWithError(cache, plan.key)
    # A weak reference, so that a kernel Triton has dropped and another at the same address are told apart.
    if found == NULL or found != PyWeakref_GET_OBJECT(plan.reference):
        return NULL
    plan.compiled = found
    lowlat_set_stamp(&plan.stamp, kernel.device_caches, cache)
    return found


cdef PyObject* learn(Kernel kernel, int reason, Binding borrowed, PyObject* grid, PyObject* const* args,
                     PyObject* const* arguments, Py_ssize_t positional, PyObject* const* names, Py_ssize_t keywords,
                     int through, uint64_t* fingerprint, uint64_t* payload, Tail* tail) except NULL:
    """Let Triton launch this call, or compile it, and keep a plan of what came of that."""
    if through == THROUGH_WARMUP:
        # Triton's warmup() comes back through `run`, with stand-ins for tensors, and learns there.
        return leave(kernel, reason, grid, args, positional, names, keywords, through)
    cdef Binding binding = borrowed  # held: Triton's launch runs Python code
    cdef Py_ssize_t i, count = kernel.parameter_count
    cdef Py_ssize_t size = (binding.words + tail.words_used) * sizeof(uint64_t)
    cdef bytes before = PyBytes_FromStringAndSize(<const char*>fingerprint, size)
    cdef uint32_t device = <uint32_t>fingerprint[0]
    cdef uint64_t generation = state.generation
    # Hold what the fingerprint names by address before other code runs.
    keepalive = []
    for i in range(count):
        hold_named(arguments[i], keepalive)
    for i in range(binding.options):
        keepalive.append(<object>args[binding.option_sources[i]])

    cdef object result = <object>leave(kernel, reason, grid, args, positional, names, keywords, through)
    Py_DECREF(result)  # leave's own reference; `result` holds one

    # Triton may have run hooks and user code: learn only if the call still is the one it was, in the same state.
    if (live_reason(kernel) != OK or state.generation != generation
            or specialize_call(kernel, binding, args, arguments, fingerprint, payload, tail) != OK
            or (binding.words + tail.words_used) * sizeof(uint64_t) != <size_t>size
            or memcmp(fingerprint, PyBytes_AS_STRING(before), size) != 0):
        Py_INCREF(result)
        return <PyObject*>result
    cdef Plan described, plan = plan_of_another_call(kernel, result, device)
    if plan is None:
        plan = state.describe(kernel, result, device, warms_up(binding, args))
        if plan is not None and plan.reference is not None and plan.route_ != ROUTE_COMPILED:
            if len(kernel.described) >= MAX_PLANS:
                kernel.described.clear()
            described = copy_of_plan(plan)
            described.generation = generation
            kernel.described[<size_t><void*>result] = described
    if plan is not None:
        plan.way = kernel.way
        plan.keepalive = tuple(keepalive)
        add_entry(kernel.plans_, plan, before)
    Py_INCREF(result)
    return <PyObject*>result


cdef Plan plan_of_another_call(Kernel kernel, object compiled, int device):
    """A copy of the plan made when another call came to this CompiledKernel (calls that differ for lowlat and not for
    Triton), which costs a hundredth of making one; None if there is none, or it may not hold any more."""
    known = kernel.described.get(<size_t><void*>compiled)
    if known is None:
        return None
    cdef Plan plan = known
    if plan.reference() is not compiled or plan.device != device or plan.generation != state.generation:
        return None
    caches = kernel.device_caches.get(device)
    if caches is None or caches[0].get(plan.key) is not compiled:
        return None
    return copy_of_plan(plan)


cdef int forget(Kernel kernel) except -1:
    """Drop every plan of this kernel, and what their fingerprints name."""
    clear_table(kernel.plans_)
    kernel.described.clear()
    kernel.strings.recent.clear()
    kernel.strings.older.clear()
    drop_values(kernel.values, kernel.constexpr_count)
    for binding in list(kernel.bindings.values()):  # a value that goes may let another thread run, and bind
        drop_values((<Binding>binding).option_values, (<Binding>binding).options)
    return 0


# ---- globals ------------------------------------------------------------------------------------------------------

cdef bint globals_unchanged(Kernel kernel) except -1:
    """Triton compares every global a kernel was compiled with, by value, on every call.  Identity proves equality
    where the value cannot change in place; for a constexpr, identity of the constexpr and of its value.  As long as
    the module and the constexpr have not been written to, there is nothing to look at."""
    cdef Global item
    cdef PyObject* current
    if kernel.globals is None:
        kernel.globals = tuple([
            new_global(namespace, name, recorded)
            for (name, _), (recorded, namespace) in list(kernel.used_global_vals_.items())  # a compile may add to it
        ])
    for entry in kernel.globals:
        item = <Global>entry
        if lowlat_stamp_current(&item.stamp, <PyObject*>item.namespace):
            continue
        current = PyDict_GetItemWithError(item.namespace, item.name)
        if (current == NULL or current != item.seen or not item.immutable
                or (item.attributes is not None
                    and PyDict_GetItemWithError(item.attributes, "value") != item.value)):
            if not compare_global(item, current):
                return False
        elif item.attributes is None:
            lowlat_set_stamp(&item.stamp, item.namespace, item.namespace)
        elif LOWLAT_ATTRIBUTES_ARE_IN_DICTS:
            lowlat_set_stamp(&item.stamp, item.namespace, item.attributes)
    return True


cdef Global new_global(dict namespace, object name, object recorded):
    cdef Global item = Global.__new__(Global)
    item.namespace = namespace
    item.name = name
    item.recorded = recorded
    return item


cdef bint compare_global(Global item, PyObject* current) except -1:
    cdef object value
    item.seen = NULL
    if current == NULL:
        return False
    value = <object>current
    try:
        if value != item.recorded:  # Triton's own comparison, without the identity short cut: a NaN differs
            return False
    except Exception:
        return False  # Triton raises it, unless it finds something else wrong before it compares
    item.attributes = None
    item.immutable = type(value) in state.immutable_types
    if type(value) is state.constexpr_type:
        item.attributes = value.__dict__
        item.value = PyDict_GetItemWithError(item.attributes, "value")
        item.immutable = item.value != NULL and type(<object>item.value) in state.immutable_types
    item.seen = current
    return True


# ---- dicts of arguments -------------------------------------------------------------------------------------------

# Who gets a dict with each call may keep it or write to it.  If he did neither, which is the rule, it is filled again
# for the next call: two dozen stores, and mostly not even those, since numbers and strings stay in it.  Nothing else
# does: a tensor is not kept alive.  A call within the call, or in another thread, finds no spare dict and makes one.

cdef NamedArguments named_arguments(dict template):
    cdef NamedArguments named = NamedArguments.__new__(NamedArguments)
    named.names = tuple(template)
    named.count = len(template)
    named.template = template
    named.places = <int32_t*>malloc((named.count + 1) * sizeof(int32_t))
    if named.places == NULL:
        raise MemoryError()
    named.places_known = lowlat_value_places(template, named.places)
    return named


cdef inline dict name_arguments(NamedArguments named, PyObject* const* args, Py_ssize_t positional, PyObject* grid):
    """A dict of `args` under the names.  With a grid, that and `warmup`, which is in the template, come between the
    positional arguments and the others."""
    cdef Py_ssize_t given = 0 if grid == NULL else 2
    cdef dict bound = named.spare
    if bound is None:
        bound = lowlat_noticed_copy(named.template)
    else:
        named.spare = None
    set_arguments(named, bound, 0, args, positional)
    if grid != NULL:
        set_arguments(named, bound, positional, &grid, 1)
    set_arguments(named, bound, positional + given, args + positional, named.count - positional - given)
    lowlat_track(bound)
    return bound


cdef inline int set_arguments(NamedArguments named, dict bound, Py_ssize_t first, PyObject* const* args,
                              Py_ssize_t count) except -1:
    cdef Py_ssize_t i
    if named.places_known:
        lowlat_put(bound, named.places + first, args, count)
    else:
        for i in range(count):
            PyDict_SetItem(bound, <object>PyTuple_GET_ITEM(named.names, first + i), <object>args[i])
    return 0


cdef inline bint is_scalar(PyObject* argument):
    cdef PyTypeObject* kind = type_of(argument)
    return (kind == &PyLong_Type or kind == &PyUnicode_Type or kind == &PyBool_Type or kind == &PyFloat_Type
            or argument == Py_None)


cdef inline bint unwritten(dict bound, uint64_t tag):
    """Whether a dict is as it was when it had this tag; False where CPython cannot tell."""
    return tag != 0 and tag == lowlat_dict_tag(bound)


cdef inline bint nobody_has(NamedArguments named, dict bound, uint64_t tag):
    """After the call: whether the dict can be used for the next, once what it must not keep alive is taken out."""
    return Py_REFCNT(<PyObject*>bound) == 1 and named.places_known and unwritten(bound, tag)


# ---- grid ---------------------------------------------------------------------------------------------------------

cdef inline bint parse_grid(PyObject* grid, int route, int32_t* blocks) except -1:
    """One to three ints (more are ignored, as Triton does), or what is one to Triton's launcher without a line of
    Python; False for everything else, which is Triton's."""
    cdef Py_ssize_t size, i
    cdef PyObject** items
    if is_list(grid):
        size = list_size(grid)
        items = (<PyListObject*>grid).ob_item
    elif is_tuple(grid) or type_of(grid) == state.size_type or lowlat_reads_as_tuple(grid):
        size = tuple_size(grid)
        items = <PyObject**>tuple_items(grid)
    else:
        return False
    if size < 1:
        return False
    blocks[1] = 1
    blocks[2] = 1
    cdef int64_t number
    for i in range(size if size < 3 else 3):
        if type_of(items[i]) != &PyLong_Type or not lowlat_compact_int(items[i], &number):
            if not other_block(items[i], route, &number):
                return False
        blocks[i] = <int32_t>number
    return True


cdef bint holds_ints(PyObject* grid):
    """Nothing that could become another number: a tuple, and ints in it."""
    cdef Py_ssize_t i
    if not is_tuple(grid):
        return False
    for i in range(tuple_size(grid)):
        if type_of(tuple_items(grid)[i]) != &PyLong_Type:
            return False
    return True


cdef bint other_block(PyObject* item, int route, int64_t* number) except -1:
    """A big int, a bool or another subclass of int, numpy's integers, and tl.constexpr, which is what arithmetic with
    a constexpr gives."""
    cdef int overflow = 0
    cdef object index = <object>item
    if type_of(item) != &PyLong_Type:
        if route == ROUTE_LAUNCHER:
            return False  # Triton's launcher object multiplies the items as they are
        if type_of(item) == <PyTypeObject*>state.constexpr_type:
            index = index.value
            if type(index) is not int or state.constexpr_type.__index__ is not state.constexpr_index:
                return False
        elif not isinstance(index, int):
            if not is_numpy_integer(type_of(item)):
                return False
            index = PyNumber_Index(index)
    number[0] = PyLong_AsLongLongAndOverflow(index, &overflow)
    return overflow == 0 and INT32_MIN <= number[0] <= INT32_MAX


cdef bint is_numpy_integer(PyTypeObject* kind) except -1:
    """Not a subclass of one, whose __index__ may be in Python."""
    if state.numpy_integers is None:
        numpy = sys.modules.get("numpy")
        if not hasattr(numpy, "sctypeDict"):
            return False
        state.numpy_integers = tuple([known for known in set(numpy.sctypeDict.values())
                                      if issubclass(known, numpy.integer) and known is not numpy.timedelta64])
    for known in state.numpy_integers:
        if kind == <PyTypeObject*>known:
            return True
    return False


# ---- tensor maps --------------------------------------------------------------------------------------------------

cdef CUresult launch_with_descriptors(Plan borrowed, PyObject* compiled, const int32_t* blocks, void* stream,
                                      uint64_t* payload) except? -1:
    """The driver route of a kernel with tensor maps.  `compiled` is the caller's reference, given up if this raises."""
    cdef Plan plan = borrowed  # held: encoding may let other code run
    try:
        return launch_with_tensor_maps(plan, blocks, stream, payload)
    except BaseException:
        lowlat_release(compiled)
        raise


cdef CUresult launch_with_tensor_maps(Plan plan, const int32_t* blocks, void* stream,
                                      uint64_t* payload) except? -1:
    """Tensor maps are copied to this thread's stack, aligned as the driver asks: to 64 bytes, or 128 in CUDA 13.  They
    are encoded first of all, and for an empty grid, too, as Triton does."""
    cdef uint8_t* maps = NULL
    cdef Py_ssize_t i
    if plan.map_count != 0:
        maps = <uint8_t*>alloca((plan.map_count + 1) * TENSOR_MAP_BYTES)
        maps = <uint8_t*>((<uint64_t>maps + TENSOR_MAP_BYTES - 1) & ~<uint64_t>(TENSOR_MAP_BYTES - 1))
        for i in range(plan.map_count):
            memcpy(maps + i * TENSOR_MAP_BYTES, tensor_map(plan, i, payload + plan.maps[i].place), TENSOR_MAP_BYTES)
    return launch_with_driver(plan, blocks, stream, payload, maps)


cdef inline const uint8_t* tensor_map(Plan plan, Py_ssize_t which, const uint64_t* key) except NULL:
    """The encoded descriptor, the plan's until other code runs.  By value: whatever goes into it is in `key`, but for
    the block shape and dtype, of which the plan is."""
    cdef TensorMaps* maps = &plan.maps[which]
    cdef Py_ssize_t index
    if maps.count != 0 and memcmp(maps.entries[maps.last].key, key, maps.size) == 0:
        return maps.entries[maps.last].bytes
    if maps.count != 0:
        index = place_of(maps, key)
        if maps.entries[index].known:
            maps.last = index
            return maps.entries[index].bytes
    return encode(plan, which, key)


cdef Py_ssize_t place_of(const TensorMaps* maps, const uint64_t* key):
    """Where the tensor map of `key` is, or could be put."""
    cdef uint64_t mixed = 0
    cdef Py_ssize_t i
    for i in range(maps.size // <Py_ssize_t>sizeof(uint64_t)):
        mixed = (mixed ^ key[i]) * <uint64_t>0x9E3779B97F4A7C15
        mixed ^= mixed >> 32
    i = <Py_ssize_t>(mixed & (maps.capacity - 1))
    while maps.entries[i].known and memcmp(maps.entries[i].key, key, maps.size) != 0:
        i = (i + 1) & (maps.capacity - 1)
    return i


cdef const uint8_t* encode(Plan plan, Py_ssize_t which, const uint64_t* key) except NULL:
    """By Triton's own encoder, which raises Triton's own errors."""
    cdef TensorMaps* maps = &plan.maps[which]
    cdef Py_ssize_t i, rank = (maps.size // <Py_ssize_t>sizeof(uint64_t) - 3) // 2
    swizzle, element_size, element_type, rounded_type, block_size, fp4_padded = plan.encodings[which]
    shape = [<int64_t>key[3 + i] for i in range(rank)]
    strides = [<int64_t>key[3 + rank + i] for i in range(rank)]
    if fp4_padded:
        shape[rank - 1] *= 2
    encoded = plan.encode(key[0], swizzle, element_size, rounded_type if key[2] else element_type, block_size, shape,
                          strides, <int>key[1])
    if 2 * (maps.count + 1) > maps.capacity:
        make_room(maps)
    i = place_of(maps, key)
    memcpy(maps.entries[i].key, key, maps.size)
    memcpy(maps.entries[i].bytes, <char*><PyObject*>encoded + plan.map_offset, TENSOR_MAP_BYTES)
    maps.count += not maps.entries[i].known
    maps.entries[i].known = True
    maps.last = i
    return maps.entries[i].bytes


cdef int make_room(TensorMaps* maps) except -1:
    cdef TensorMaps larger = maps[0]
    cdef Py_ssize_t i
    larger.capacity = max(2 * maps.capacity, 4)
    if larger.capacity > 2 * MAX_TENSOR_MAPS:
        memset(maps.entries, 0, maps.capacity * sizeof(TensorMap))
        maps.count = 0
        return 0
    larger.entries = <TensorMap*>calloc(larger.capacity, sizeof(TensorMap))
    if larger.entries == NULL:
        raise MemoryError()
    for i in range(maps.capacity):
        if maps.entries[i].known:
            larger.entries[place_of(&larger, maps.entries[i].key)] = maps.entries[i]
    free(maps.entries)
    maps[0] = larger
    return 0


# ---- routes -------------------------------------------------------------------------------------------------------

cdef CUresult launch_with_driver(Plan plan, const int32_t* blocks, void* stream, uint64_t* payload,
                                 uint8_t* maps) except? -1:
    """The driver route: Triton's own launch configuration, the parameters where `payload` and `maps` have them.

    Everything the driver reads while the GIL is released is on this thread's stack, or never written: another thread
    may drop the plan.  The two scratch pointers are part of every kernel's signature; this route is for kernels that
    use none.
    """
    cdef CUlaunchConfig config
    cdef CUlaunchAttribute attributes[4]
    cdef CUfunction function = plan.function
    cdef lowlat_step* step = lowlat_get_step() if state.recorders != 0 else NULL
    cdef void** parameters
    cdef CUresult result
    if launches_nothing(blocks):
        if step != NULL:
            step.empty = step.reached = True
        return 0
    if plan.clusters == 16:
        # Not portable, so to be allowed; Triton sets it at every launch.
        result = driver.set_function_attribute(function, CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1)
        if result != 0:
            return result
    if step != NULL:
        take_step(step, plan, blocks, stream, function, payload, maps)
        return 0
    if plan.way != WAY_DRIVER and (plan.way != WAY_DEFAULT or state.way != WAY_DRIVER or state.ways_in_contexts):
        return launch_some_way(plan, blocks, stream, function, payload, maps)
    lay_out(&config, attributes, plan, blocks, stream)
    parameters = <void**>alloca((plan.slot_count + 2) * sizeof(void*))
    point_at(parameters, plan, payload, maps)
    with nogil:
        result = driver.launch(&config, function, parameters, NULL)
    return result


cdef inline int lay_out(CUlaunchConfig* config, CUlaunchAttribute* attributes, Plan plan, const int32_t* blocks,
                        void* stream):
    config.grid[0] = <uint32_t>blocks[0] * plan.clusters
    config.grid[1] = <uint32_t>blocks[1]
    config.grid[2] = <uint32_t>blocks[2]
    config.block[0] = plan.threads
    config.block[1] = 1
    config.block[2] = 1
    config.shared = plan.shared
    config.stream = stream
    config.attributes = attributes
    config.attribute_count = plan.attribute_count
    if plan.attribute_count != 0:
        memcpy(attributes, plan.attributes, plan.attribute_count * sizeof(CUlaunchAttribute))
    return 0


cdef inline int lay_out_node(CUkernelNodeParams* launch, Plan plan, CUfunction function, const int32_t* blocks):
    """All but its parameters.  It has no attributes, so no clusters."""
    memset(launch, 0, sizeof(launch[0]))
    launch.function = function
    launch.grid[0] = <uint32_t>blocks[0]
    launch.grid[1] = <uint32_t>blocks[1]
    launch.grid[2] = <uint32_t>blocks[2]
    launch.block[0] = plan.threads
    launch.block[1] = 1
    launch.block[2] = 1
    launch.shared = plan.shared
    return 0


cdef uint64_t NO_SCRATCH = 0  # read only, so by whichever threads


cdef inline int point_at(void** parameters, Plan plan, uint64_t* payload, uint8_t* maps):
    """Where each of the kernel's parameters is, the two scratch pointers last."""
    cdef Py_ssize_t i, count = plan.slot_count
    for i in range(count):
        parameters[i] = &payload[plan.slots[i]]
    if maps != NULL:
        for i in range(plan.map_count):
            parameters[plan.maps[i].parameter] = maps + i * TENSOR_MAP_BYTES
    parameters[count] = &NO_SCRATCH
    parameters[count + 1] = &NO_SCRATCH
    return 0


cdef CUresult launch_some_way(Plan borrowed, const int32_t* blocks, void* stream, CUfunction function,
                              uint64_t* payload, uint8_t* maps) except? -1:
    """By graph where `way` asks for it and nothing but the speed will differ.  A graph that the driver refuses has
    launched nothing, so the launch is made the plain way, and any error is that of the plain way."""
    cdef Plan plan = borrowed  # held: with the GIL released, another thread may drop it
    cdef int way = plan.way or way_of_context()
    cdef lowlat_race* race = NULL
    cdef lowlat_graph* graph = NULL
    cdef CUlaunchConfig config
    cdef CUlaunchAttribute attributes[4]
    cdef CUkernelNodeParams launch
    cdef bint as_it_is = False
    cdef lowlat_buffer buffer
    cdef void** parameters = NULL
    cdef CUresult result
    cdef int64_t taken = 0
    if way == WAY_AUTO and 0 <= <int>plan.device < LOWLAT_DEVICES:
        race = &lowlat_races[<int>plan.device]
    cdef int submission = BY_GRAPH
    if way == WAY_DRIVER or plan.buffer_size == 0:
        parameters = <void**>alloca((plan.slot_count + 2) * sizeof(void*))
        point_at(parameters, plan, payload, maps)
    if way != WAY_DRIVER:
        lay_out_node(&launch, plan, function, blocks)
        if plan.buffer_size != 0:
            launch.extra = lowlat_pack(&buffer, alloca(plan.buffer_size + sizeof(uint64_t)), plan.buffer_size,
                                       plan.offsets, payload, plan.slots, plan.slot_count)
        else:
            launch.parameters = parameters
        submission = find_graph(plan, race, stream, &launch, &graph, &as_it_is)
        if race != NULL and race.known:
            race = NULL
        if submission == BY_GRAPH:
            if race != NULL:
                as_it_is = False  # what is measured is a launch with other parameters than the last
            graph.busy = 1
            with nogil:
                taken = lowlat_now() if race != NULL else 0
                result = lowlat_graph_launch(graph, NULL if as_it_is else &launch)
                taken = lowlat_now() - taken if race != NULL else 0
            graph.busy = 0
            if result == 0:
                plan.submitted_[BY_GRAPH] += 1
                if race != NULL:
                    lowlat_race_note(race, LOWLAT_BY_GRAPH, taken)
                return 0
            lowlat_graph_destroy(graph)
            lowlat_cool_down(&plan.hot)
            submission = REFUSED
        plan.submitted_[submission] += 1
        if parameters == NULL:
            parameters = <void**>alloca((plan.slot_count + 2) * sizeof(void*))
            point_at(parameters, plan, payload, maps)
    lay_out(&config, attributes, plan, blocks, stream)
    with nogil:
        taken = lowlat_now() if race != NULL else 0
        result = driver.launch(&config, function, parameters, NULL)
        taken = lowlat_now() - taken if race != NULL else 0
    if submission == MEASURED and race != NULL and result == 0:
        lowlat_race_note(race, LOWLAT_BY_DRIVER, taken)
    return result


cdef int find_graph(Plan plan, const lowlat_race* race, CUstream stream, const CUkernelNodeParams* launch,
                    lowlat_graph** found, bint* as_it_is):
    """BY_GRAPH and a graph of the plan's for this stream, made now if need be, and whether it has the launch's
    parameters; or why the launch is a plain one."""
    cdef lowlat_graph* graph
    cdef lowlat_graph* own = NULL
    cdef lowlat_repeat* repeat
    cdef void* context = NULL
    cdef int capturing = 0
    if plan.attribute_count != 0:
        return PLAIN_ONLY
    if state.launch_blocking:
        return BLOCKING
    if stream == <CUstream>CU_STREAM_PER_THREAD:
        return PER_THREAD
    if lowlat_graphs_missing != NULL:
        return NO_GRAPHS
    if race != NULL and race.known and 10 * race.median[LOWLAT_BY_GRAPH] >= 9 * race.median[LOWLAT_BY_DRIVER]:
        return SLOWER
    graph = lowlat_graph_of(plan.graphs_, stream)
    if graph == NULL:
        if plan.heat < plan.hot:
            plan.heat += 1
            return NOT_HOT
    elif graph.busy and plan.repeats == NULL:
        return IN_USE
    if driver.current_context(&context) != 0 or context == NULL or (graph != NULL and context != graph.context):
        return OTHER_CONTEXT
    if lowlat_graphs.is_capturing(stream, &capturing) != 0 or capturing:
        return CAPTURING
    # Looked at each time: a stream may have the handle of one that is gone.  A legacy stream is the context's own.
    if (graph == NULL or <size_t>stream > CU_STREAM_LEGACY) and not stream_is_of(stream, context):
        return OTHER_CONTEXT
    if graph == NULL:
        plan.heat = 0
        graph = lowlat_graph_make(&plan.graphs_, &plan.hot, stream, context, launch)
        if graph == NULL:
            lowlat_cool_down(&plan.hot)
            return NO_ROOM
    elif not graph.busy and lowlat_graph_has(graph, launch):
        as_it_is[0] = True
    elif race != NULL and not race.known:
        if graph.busy:
            return IN_USE
    else:
        repeat = lowlat_repeat_of(&plan.repeats, plan.hot, stream, launch)
        if repeat != NULL:
            own = lowlat_graph_for(repeat, plan.repeats, &plan.hot, stream, context, launch)
        if own == NULL and graph.busy:
            return IN_USE
    if race != NULL and not race.known and race.count[LOWLAT_BY_GRAPH] > race.count[LOWLAT_BY_DRIVER]:
        return MEASURED
    found[0] = graph
    if own != NULL:
        lowlat_graph_used(own)
        found[0] = own
        as_it_is[0] = lowlat_graph_has(own, launch)
    lowlat_graph_used(graph)  # last: without it the others would wait until the plan is hot again
    return BY_GRAPH


cdef bint stream_is_of(CUstream stream, void* context):
    """Whether the stream is of this very context.  One of a green context is not: a graph in it would take all of the
    device's multiprocessors, and not its own few."""
    cdef void* own = NULL
    return lowlat_graphs.stream_context(stream, &own) == 0 and own == context


cdef int way_of_context() except -1:
    cdef PyObject* value = NULL
    if state.ways_in_contexts:
        PyContextVar_Get(<PyObject*>state.way_variable, NULL, &value)
        if value != NULL:
            way = <object>value
            lowlat_release(value)
            return way
    return state.way


# ---- sequences ----------------------------------------------------------------------------------------------------

# A sequence holds calls and, as one graph, the launches that they come to.  To replay it each call goes its usual way
# up to its launch, where a *step* takes the launch's place: it patches the sequence's node where the launch is another
# than the last time.  So nothing that a launch observes is observed any less, and what would be another kernel, or
# Triton's, is found before anything is launched.

cdef PyObject* launch_recorded(PyObject* target, bint is_kernel, PyObject* grid, PyObject* const* args,
                               Py_ssize_t positional, PyObject* const* names, Py_ssize_t keywords,
                               int through) except NULL:
    """A user's call while some thread records or replays.  In a thread that records, its outermost calls are noted once
    they have launched."""
    cdef lowlat_step* step = lowlat_get_step()
    cdef Recording recording = current_recording()  # held: the call may end it
    cdef PyObject* result
    if step != NULL and not (through == THROUGH_RUN and is_warmup(args + positional, names, keywords)):
        # It would come before the launches that it was to come after.
        raise state.not_recordable("a grid callable or heuristic of it launches kernels itself")
    place = current_place() if recording is not None and lowlat_deeper(0) == 0 else None
    lowlat_set_step(NULL)
    lowlat_deeper(1)
    try:
        if is_kernel:
            result = launch(<Kernel>target, grid, args, positional, names, keywords, through)
        else:
            result = (<Outer>target).call(grid, args, positional, names, keywords, through)
    finally:
        lowlat_set_step(step)
        depth = lowlat_deeper(-1)
    if recording is None or recording.calls is None or depth != 0:
        return result
    try:
        call = Call(<object>target, None if grid == NULL else <object>grid,
                    list(values_of(args, positional + keywords)),
                    tuple([<object>names[i] for i in range(keywords)]), through == THROUGH_RUN, place,
                    sys._getframe().f_globals.get("__name__") == state.outer_module)
        if not call.warmup():
            recording.calls.append(call)
    except BaseException:
        lowlat_release(result)
        raise
    return result


cdef bint is_warmup(PyObject* const* values, PyObject* const* names, Py_ssize_t keywords) except -1:
    cdef Py_ssize_t i
    for i in range(keywords):
        if <object>names[i] == "warmup":
            return <object>values[i]
    return False


cdef CUresult launch_or_step(Plan borrowed, PyObject* compiled, const int32_t* blocks, void* stream,
                             uint64_t* payload) except? -1:
    """`launch_with_driver`, which a step's refusal may leave.  `compiled` is the caller's reference, given up if this
    raises."""
    try:
        return launch_with_driver(borrowed, blocks, stream, payload, NULL)
    except BaseException:
        lowlat_release(compiled)
        raise


@cython.final
@cython.auto_pickle(False)
cdef class Recording:
    """Of one thread, which holds it until it is seen to have ended: another thread may end it (a generator's `with`,
    say)."""


cdef Recording current_recording():
    cdef PyObject* recording = <PyObject*>lowlat_get_recorder()
    if recording == NULL:
        return None
    if (<Recording>recording).calls is None:
        lowlat_set_recorder(NULL)
        lowlat_release(recording)
        return None
    return <Recording>recording


cdef inline bint is_known_tensor(PyTypeObject* kind):
    return kind == state.tensor_type or kind == state.parameter_type


cdef object current_place():
    """(device, stream) of this thread, None where Triton has no driver yet."""
    cdef int device
    cdef void* stream = NULL
    if not state_current():
        refresh_state()
    if state.reason != OK:
        return None
    if state.c_getters:
        device = lowlat_current_device()
        if lowlat_current_stream(device, &stream) != 0:
            return None
    else:
        python_getters(&device, &stream)
    return device, <uint64_t>stream


cdef int refuse_step(int reason) except -1:
    """No step can be taken in Triton."""
    if lowlat_get_step() != NULL:
        name = REASON_NAMES[reason]
        # Of these Triton makes something that the next time can be recorded.
        error = state.changed if reason in (FIRST_CALL, FORGOTTEN, NOT_TUNED, GLOBAL) else state.not_recordable
        raise error(f"it would go to Triton ({name}: {REASONS_TEXT[name]})")
    return 0


cdef int take_step(lowlat_step* step, Plan plan, const int32_t* blocks, void* stream, CUfunction function,
                   const uint64_t* payload, const uint8_t* maps) except -1:
    """In the place of a launch: the step gets what the launch would have been given, and the node gets it when all
    calls of the replay have come that far."""
    cdef SequenceGraph graph = <SequenceGraph>step.owner
    cdef CUkernelNodeParams launch
    cdef uint64_t* words
    cdef Py_ssize_t i, count = plan.slot_count
    cdef size_t map_bytes = plan.map_count * TENSOR_MAP_BYTES
    if plan.attribute_count != 0:
        raise state.not_recordable(SUBMISSIONS_TEXT["attributes"])
    if graph.exec_ == NULL:
        graph.compiled[step - graph.steps] = <object>PyWeakref_GET_OBJECT(plan.reference)
    elif step.node == NULL:
        raise state.changed("its grid was empty")
    elif function != step.given.function:
        raise state.changed("its arguments are another specialisation now, or its kernel was compiled again")
    if lowlat_step_room(step, count, plan.map_count) != 0:
        raise MemoryError()
    words = lowlat_step_words(step)
    for i in range(count):
        if words[i] != payload[plan.slots[i]]:
            words[i] = payload[plan.slots[i]]
            step.stale = True
    if map_bytes != 0 and memcmp(step.bytes, maps, map_bytes) != 0:
        memcpy(step.bytes, maps, map_bytes)
        step.stale = True
    for i in range(plan.map_count):
        step.parameters[plan.maps[i].parameter] = step.bytes + i * TENSOR_MAP_BYTES
    step.size = plan.buffer_size
    if step.size != 0:
        memcpy(step.offsets, plan.offsets, (count + 2) * sizeof(uint16_t))
    lay_out_node(&launch, plan, function, blocks)
    launch.parameters = step.parameters
    if memcmp(&launch, &step.given, sizeof(launch)) != 0:
        step.given = launch
        step.stale = True
    step.stream = stream
    step.reached = True
    if graph.exec_ == NULL:
        check_graph_call(lowlat_graphs.add_kernel(&step.node, graph.graph, &graph.last, graph.last != NULL, &launch))
        graph.last = step.node
        step.stale = False
    graph.reached = plan
    return 0


cdef int check_graph_call(CUresult result) except -1:
    cdef const char* text = NULL
    if result != 0:
        driver.error_string(result, &text)
        raise state.not_recordable("the driver refused a graph: " + (f"error {result}" if text == NULL else
                                                                     (<bytes>text).decode()))
    return 0


cdef int refuse_patch(Py_ssize_t number, Call call, CUresult result) except -1:
    try:
        check_graph_call(result)
    except state.not_recordable as error:
        raise_of_call(number, call, error)
    return 0


cdef int raise_of_call(Py_ssize_t number, Call call, error) except -1:
    raise type(error)(f"launch {number} ({call.name()}): {error}") from None


@cython.final
@cython.auto_pickle(False)
cdef class Call:
    """A call as it came: `target[grid](...)`, or `target.run(...)`."""

    def __init__(self, target, grid, list values, tuple names, bint through_run, place=None, bint by_triton=False):
        self.target, self.grid, self.values, self.names, self.place = target, grid, values, names, place
        self.by_triton = by_triton
        self.through = THROUGH_RUN if through_run else THROUGH_GETITEM
        self.places = <uint16_t*>calloc(len(values) + 1, sizeof(uint16_t))
        if self.places == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.places)
        free(self.watched)

    def name(self):
        """str: the kernel's."""
        target = self.target
        while isinstance(target, Outer):
            target = target.fn
        return getattr(target, "__name__", repr(target))

    def arguments(self):
        """dict[str, int]: where in `values` the call's arguments are, by name; one can be given a new value there.
        Those of `*args` have no names."""
        cdef Py_ssize_t i, positional = len(self.values) - len(self.names)
        target = self.target
        while isinstance(target, Outer):
            target = target.fn
        order = list(self.target.arg_names)
        if isinstance(target, Kernel) and (<Kernel>target).variadic >= 0:
            order = order[:(<Kernel>target).variadic]
        return ({name: i for i, name in enumerate(order[:positional])}
                | {name: positional + i for i, name in enumerate(self.names)})

    def has_grid(self):
        """bool: whether the grid is beside the arguments, and not one of them."""
        return self.through == THROUGH_GETITEM

    def warmup(self):
        """bool: whether the call was one that launches nothing."""
        return bool(dict(zip(self.names, self.values[len(self.values) - len(self.names):])).get("warmup", False))

    def launch(self):
        """Make the call, in the ordinary way."""
        positional = len(self.values) - len(self.names)
        named = dict(zip(self.names, self.values[positional:]))
        if self.through == THROUGH_RUN:
            return self.target.run(*self.values[:positional], **named)
        return self.target[self.grid](*self.values[:positional], **named)

    def get(self, index):
        """The argument there, or for -1 the grid."""
        return self.grid if index < 0 else self.values[index]


@cython.final
cdef class SequenceGraph:
    """The launches of `calls`, one after the other, as an executable graph of one context."""

    def __cinit__(self, list calls):
        self.calls = list(calls)
        self.steps = <lowlat_step*>calloc(len(calls) + 1, sizeof(lowlat_step))
        if self.steps == NULL:
            raise MemoryError()
        self.count = len(calls)
        self.compiled = [None] * self.count
        for i in range(self.count):
            self.steps[i].owner = <void*>self
        self.forks = lowlat_forks

    def __init__(self, list calls):
        cdef int mode
        cdef CUresult result
        reason = self.obstacle(NULL, False)
        if reason is not None:
            raise state.not_recordable(reason)
        places = [(<Call>call).place for call in self.calls if (<Call>call).place is not None]
        for i, call in enumerate(self.calls):
            if (<Call>call).by_triton:
                raise_of_call(i, call, state.not_recordable(
                    "it came from Triton's own Autotuner or Heuristics; those of lowlat's can be recorded"))
            if (<Call>call).place is not None and (<Call>call).place != places[0]:
                raise_of_call(i, call, state.not_recordable(
                    "it was on another stream or device than those before it"))
        driver.current_context(&self.context)
        check_graph_call(lowlat_graphs.create(&self.graph, 0))
        self.go()
        mode = lowlat_relax_capture(CU_STREAM_CAPTURE_MODE_RELAXED)
        result = lowlat_graphs.instantiate(&self.exec_, self.graph, 0)
        lowlat_relax_capture(mode)
        check_graph_call(result)

    def __dealloc__(self):
        cdef Py_ssize_t i
        if self.forks == lowlat_forks:
            lowlat_graph_free(self.exec_, self.graph)
        if self.steps != NULL:
            for i in range(self.count):
                lowlat_step_free(&self.steps[i])
        free(self.steps)

    @property
    def stream(self):
        """int: the stream whose launches these are."""
        return <uint64_t>self.stream_

    cdef object replay(self):
        """None: the calls' launches were made, as one graph; or why not, and then none was.

        Raises NotRecordable or Changed for a call that does not come to the launch of its node, and
        whatever making the call would have raised; nothing was launched then."""
        cdef CUresult result
        cdef int mode = CU_STREAM_CAPTURE_MODE_RELAXED
        cdef CUgraphExec executable = self.exec_
        cdef lowlat_step* step
        cdef Py_ssize_t i
        cdef void* stream
        self.patched = 0
        place = current_place()
        if place is not None:  # a look ahead, so that callables are not called in vain
            reason = self.obstacle(<void*><uint64_t>place[1], False)
            if reason is not None:
                return reason
        self.go()
        stream = self.stream_
        reason = self.obstacle(stream, True)
        if reason is not None:
            return reason
        for i in range(self.count):
            step = &self.steps[i]
            if step.stale and not step.empty:
                # One after the other: between calls, each found the caches cold.
                result = lowlat_step_patch(executable, step)
                if result != 0:
                    refuse_patch(i, self.calls[i], result)
                step.stale = False
                self.patched += 1
        with nogil:
            if not self.launched:
                mode = lowlat_relax_capture(mode)
            result = lowlat_graphs.launch(executable, stream)
            if not self.launched:
                lowlat_relax_capture(mode)
        self.launched = True
        if result != 0:
            return SUBMISSIONS_TEXT["refused"]
        return None

    cdef object obstacle(self, void* stream, bint to_launch):
        """Why there can be no graph for this stream, or this one cannot be launched into it now; or None."""
        cdef int capturing = 0
        cdef void* context = NULL
        if lowlat_graphs_missing != NULL:
            return SUBMISSIONS_TEXT["no graphs"]
        if lowlat_get_step() != NULL:
            return "a grid callable or heuristic of another sequence asks for it"
        if self.forks != lowlat_forks:
            return REASONS_TEXT["forked"]
        if state.launch_blocking:
            return SUBMISSIONS_TEXT["blocking"]
        if driver.current_context(&context) != 0 or context == NULL:
            return "the thread has no CUDA context"
        if self.exec_ == NULL:
            return None
        if current_recording() is not None:
            return "this thread is recording: the launches are to be collected"
        if stream == <void*>CU_STREAM_PER_THREAD:
            return SUBMISSIONS_TEXT["per-thread stream"]
        if lowlat_graphs.is_capturing(<CUstream>stream, &capturing) != 0 or capturing:
            return SUBMISSIONS_TEXT["capturing"]
        if to_launch and (context != self.context or not stream_is_of(<CUstream>stream, context)):
            return SUBMISSIONS_TEXT["other context"]
        return None

    cdef int go(self) except -1:
        """Each call up to its launch."""
        cdef Call call
        cdef lowlat_step* step
        cdef Py_ssize_t i
        cdef void* stream = NULL
        cdef bint first = True
        state.recorders += 1
        self.looked = False
        try:
            for i in range(self.count):
                call = self.calls[i]
                step = &self.steps[i]
                try:
                    if not self.resume(call, step):
                        self.come_to_launch(call, step)
                    if step.empty:
                        if self.exec_ != NULL and step.node != NULL:
                            raise state.changed("its grid is empty now")
                    elif first:
                        stream, first = step.stream, False
                    elif stream != step.stream:
                        raise state.changed("it is on another stream than those before it")
                except state.not_recordable as error:
                    raise_of_call(i, call, error)
        finally:
            state.recorders -= 1
        if self.exec_ != NULL and stream != self.stream_ and not first:
            raise state.changed("the stream is another one")
        self.stream_ = stream
        return 0

    cdef int come_to_launch(self, Call call, lowlat_step* step) except -1:
        cdef list values = call.values
        cdef PyObject** items = (<PyListObject*>values).ob_item
        cdef Py_ssize_t keywords = PyTuple_GET_SIZE(call.names), positional = len(values) - keywords
        cdef PyObject* grid = NULL if call.through == THROUGH_RUN else <PyObject*>call.grid
        cdef PyObject* const* names = tuple_items(<PyObject*>call.names)
        cdef PyObject* result
        step.reached = step.empty = False
        self.reached = call.plan = None
        if call.through == THROUGH_RUN and ((<Kernel>call.target).run_replaced if isinstance(call.target, Kernel)
                                            else (<Outer>call.target).run_replaced):
            raise state.not_recordable(REASONS_TEXT["run replaced"])  # (a launch leaves that to its caller)
        lowlat_set_step(step)
        try:
            if isinstance(call.target, Kernel):
                call.cleared = (<Kernel>call.target).plans_.cleared  # before a grid callable can drop the plan
                result = launch(<Kernel>call.target, grid, items, positional, names, keywords, call.through)
            else:
                result = (<Outer>call.target).call(grid, items, positional, names, keywords, call.through)
        finally:
            lowlat_set_step(NULL)
            self.looked = False
        lowlat_release(result)
        if not step.reached:
            raise state.not_recordable("it launches nothing of lowlat's")
        if self.reached is not None:
            self.watch(call, step, self.reached)
            self.reached = None
        return 0

    cdef int watch(self, Call call, lowlat_step* step, Plan plan) except -1:
        """Note what `resume` needs, where the call's launch depends on nothing but the live state, its grid, tensors,
        numbers and constexprs that are known by value."""
        cdef Kernel kernel
        cdef Binding binding
        cdef Watched* watched
        cdef bint tensors
        cdef int source
        cdef Py_ssize_t i, j, keywords = PyTuple_GET_SIZE(call.names), positional = len(call.values) - keywords
        cdef PyObject* argument
        cdef const uint8_t* tags = <const uint8_t*>(plan.words + 2)
        if not isinstance(call.target, Kernel) or call.through != THROUGH_GETITEM or plan.map_count != 0:
            return 0
        if calls_for_grid(<PyObject*>call.grid):
            return 0
        kernel = <Kernel>call.target
        binding = kernel.binding
        if kernel.variadic >= 0 or not fits(binding, positional, tuple_items(<PyObject*>call.names), keywords):
            return 0
        if plan.size != <Py_ssize_t>(binding.words * sizeof(uint64_t)) or plan.clusters != 1:
            return 0  # there are arguments with contents
        for i in range(kernel.parameter_count, kernel.parameter_count + binding.options):
            if not TAG_VALUE_INT <= tags[i] <= TAG_VALUE_OBJECT:
                return 0
        watched = <Watched*>realloc(call.watched, (kernel.parameter_count + 1) * sizeof(Watched))
        if watched == NULL:
            raise MemoryError()
        call.watched = watched
        call.watched_count = call.tensor_count = call.other_count = 0
        memset(call.places, 0, len(call.values) * sizeof(uint16_t))
        for tensors in (True, False):
            for i in range(kernel.parameter_count):
                if kernel.parameters[i].kind == KIND_CONSTEXPR:
                    if not TAG_VALUE_INT <= tags[i] <= TAG_VALUE_OBJECT:
                        return 0
                    continue
                source = binding.sources[i]
                argument = kernel.parameters[i].default if source < 0 else <PyObject*>call.values[source]
                if is_known_tensor(type_of(argument)) != tensors:
                    continue
                if not tensors and not is_scalar(argument):
                    return 0
                watched = &call.watched[call.watched_count]
                watched.source = source
                watched.parameter = <int>i
                watched.tag = tags[i]
                watched.word = -1
                for j in range(plan.slot_count):
                    if plan.slots[j] == i:
                        watched.word = <int>j
                watched.noted = False
                call.watched_count += 1
                if source >= 0:
                    call.places[source] = <uint16_t>call.watched_count
            if tensors:
                call.tensor_count = call.watched_count
        call.graph = <void*>self
        call.plan = plan
        call.grid_is_known = holds_ints(<PyObject*>call.grid)
        return 0

    cdef bint look_around(self) except -1:
        """At what is the same for all calls until other code runs, the tensors included: no code does between calls
        that are resumed.  False: nothing can be resumed now."""
        if self.looked:
            return True
        if not state_current():
            refresh_state()
        if state.reason != OK or not state.c_getters:
            return False
        self.look += 1
        self.device = lowlat_current_device()
        if lowlat_current_stream(self.device, &self.current_stream) != 0:
            return False
        self.looked = True
        return True

    cdef bint resume(self, Call call, lowlat_step* step) except -1:
        """Come to the launch from where the call came to it the last time: whatever a launch looks at is looked at,
        but of the arguments only the tensors, which may have moved, and those that got another value.  False where
        that does not do, or anything is another than it was."""
        cdef Plan plan = call.plan
        cdef Kernel kernel
        cdef const Parameter* parameter
        cdef Watched* watched
        cdef Seen* seen
        cdef int device
        cdef void* stream
        cdef uint64_t* words
        cdef int32_t blocks[3]
        cdef PyObject* argument
        cdef PyObject* grid = <PyObject*>call.grid
        cdef PyTypeObject* kind
        cdef uint64_t word = 0
        cdef uint8_t tag = 0
        cdef bint modes_checked = False
        cdef Py_ssize_t i
        cdef int reason
        if plan is None or call.graph != <void*>self or self.exec_ == NULL or step.node == NULL:
            return False
        kernel = <Kernel>call.target
        if (not self.look_around() or kernel_reason(kernel) != OK or kernel.run_replaced
                or call.cleared != kernel.plans_.cleared):
            return False
        device = self.device
        stream = self.current_stream
        if kernel.has_globals:
            # Comparing them may run other code.  As in a launch, device and stream are those of before.
            self.looked = False
            if not globals_unchanged(kernel):
                return False
            self.look += 1
        if (plan.words[0] != header_of(device)
                or not lowlat_stamp_current(&plan.stamp, <PyObject*>kernel.device_caches)
                or plan.function != step.given.function or plan.route_ != ROUTE_DRIVER):
            return False
        if not call.grid_is_known and (calls_for_grid(grid) or not parse_grid(grid, ROUTE_DRIVER, blocks)
                                       or launches_nothing(blocks)):
            return False
        words = lowlat_step_words(step)
        for i in range(call.tensor_count + call.other_count):
            watched = &call.watched[i if i < call.tensor_count else call.watched[i - call.tensor_count].other]
            parameter = &kernel.parameters[watched.parameter]
            argument = (parameter.default if watched.source < 0
                        else (<PyListObject*><PyObject*>call.values).ob_item[watched.source])
            kind = type_of(argument)
            seen = &self.seen[(<uint64_t>argument >> 4 ^ <uint64_t>argument >> 10) & ((1 << SEEN_BITS) - 1)]
            if seen.tensor == argument and seen.look == self.look and parameter.kind == KIND_PLAIN:
                # Several calls have this tensor, and it has been read.
                word = seen.word
                tag = seen.tag + divisible(parameter, word)
                reason = OK
            elif is_known_tensor(kind):
                if not modes_checked and function_mode_enabled():
                    return False
                modes_checked = True
                if parameter.kind == KIND_PLAIN:
                    reason = specialize_tensor(parameter, argument, device, &tag, &word)
                    if reason == OK:
                        seen.tensor = argument
                        seen.look = self.look
                        seen.word = word
                        seen.tag = tag - divisible(parameter, word)
                else:
                    reason = specialize_annotated(parameter, argument, kind, device, &tag, &word)
            elif parameter.kind != KIND_PLAIN:
                reason = specialize_annotated(parameter, argument, kind, device, &tag, &word)
            else:
                reason = specialize_scalar(parameter, argument, kind, &tag, &word)
            if reason != OK or tag != watched.tag:
                return False
            if watched.word >= 0 and words[watched.word] != word:
                words[watched.word] = word
                step.stale = True
        for i in range(call.other_count):
            call.watched[call.watched[i].other].noted = False
        call.other_count = 0
        if not call.grid_is_known:
            for i in range(3):
                if step.given.grid[i] != <uint32_t>blocks[i]:
                    step.given.grid[i] = <uint32_t>blocks[i]
                    step.stale = True
            call.grid_is_known = holds_ints(grid)
        step.stream = <CUstream>stream
        step.reached = True
        step.empty = False
        if lowlat_torch.rung != LOWLAT_RUNG_SHIM:
            self.looked = False  # tensors were asked in Python
        return True


@cython.auto_pickle(False)
cdef class Replayer:
    """The base of lowlat.Sequence: a replay, before and after the calls of its graph come to their launches."""

    def __init__(self, tuple names):
        import threading

        self._names = names
        self._calls = []
        self._places = {}
        self._one_value = set()
        self._overlaps = {}
        lock = threading.RLock()
        self.acquire, self.release = lock.acquire, lock.release
        self.one_by_one = {}

    @property
    def replays(self):
        """dict[str, int]: how many replays were launched as a graph ("graph"), and how many one by one, by the
        reason."""
        return ({"graph": self.as_graph} if self.as_graph != 0 else {}) | self.one_by_one

    @property
    def patched(self):
        """int: launches that the last replay as a graph had to change."""
        return 0 if self._graph is None else self._graph.patched

    def replay(self, *values, **named):
        """replay(*values, **named)

        Make all the launches again, on the current stream, without waiting for the GPU; an argument that is given no
        new value has the one it had in the replay before.

        Raises TypeError for more values than `record` was given names, KeyError for a name that no launch has,
        ValueError for one that stands for different values in different launches, NotRecordable as said at `record`,
        and what a launch itself raises.
        """
        self.acquire()
        try:
            self.replay_alone(values, named)
        finally:
            self.release()

    cdef int replay_alone(self, tuple values, dict named) except -1:
        cdef Py_ssize_t i, given = PyTuple_GET_SIZE(values)
        cdef list before = []
        if self._graph is None:
            raise RuntimeError("nothing has been recorded")
        if self.replaying:
            raise RuntimeError("this sequence is being replayed, by the caller of what replays it")
        if given > len(self._names):
            raise TypeError(f"replay() takes {len(self._names)} values by position, as many as record() got names; "
                            f"{given} were given")
        self.replaying = True
        try:
            for i in range(given):
                self.give(self._names[i], values[i], before)
            for name, value in named.items():
                self.give(name, value, before)
            self.launch(self._graph)
        except BaseException:
            for places, value in reversed(before):
                (<Places>places).set(value)
            raise
        finally:
            self.replaying = False
        return 0

    cdef int give(self, name, value, list before) except -1:
        cdef Places places
        cdef set overlaps
        if name not in self._one_value:
            self._one_value_each((name, ))
        places = self._places[name]
        before.append((places, places.get()))
        places.set(value)
        overlaps = self._overlaps.get(name)
        if overlaps is None:
            overlaps = self._several_after(name)
        if overlaps:
            self._one_value -= overlaps
        return 0

    cdef int launch(self, SequenceGraph graph) except -1:
        changed = False
        try:
            reason = graph.replay()
        except state.not_recordable as error:
            reason, changed = str(error), isinstance(error, state.changed)
        if reason is None:
            self.as_graph += 1
            return 0
        if self.on_change == "raise":
            raise state.not_recordable(reason)
        for call in self._calls:
            (<Call>call).launch()
        self.one_by_one[reason] = self.one_by_one.get(reason, 0) + 1
        if changed:
            try:
                self._graph = SequenceGraph(self._calls)
            except state.not_recordable:
                pass  # until it can be: the next replay finds out
        return 0


@cython.final
@cython.auto_pickle(False)
@cython.no_gc_clear  # the calls are borrowed from `held`
cdef class Places:
    """Where a name of a sequence stands: (call, index) of each place, -1 being the grid.  Iterates over them."""

    def __cinit__(self, list places):
        cdef Py_ssize_t i
        self.held = list(places)
        self.count = len(places)
        self.places = <Place*>malloc((self.count + 1) * sizeof(Place))
        if self.places == NULL:
            raise MemoryError()
        for i, (call, index) in enumerate(places):
            self.places[i].call = <PyObject*>(<Call?>call)
            self.places[i].index = index

    def __dealloc__(self):
        free(self.places)

    def __iter__(self):
        return iter(self.held)

    cpdef object get(self):
        """The argument at the first of them."""
        return (<Call>self.places[0].call).get(self.places[0].index)

    cpdef int set(self, value) except -1:
        """Give the argument at each of them this value."""
        cdef Place* place
        cdef PyObject* call
        cdef PyObject** item
        cdef PyObject* before
        cdef Watched* watched
        cdef int number
        for place in self.places[:self.count]:
            call = place.call
            if place.index < 0:
                (<Call>call).grid = value
                (<Call>call).grid_is_known = False
                continue
            item = (<PyListObject*><PyObject*>(<Call>call).values).ob_item + place.index
            before = item[0]
            item[0] = lowlat_new_reference(value)
            if <PyObject*>(<Call>call).plan != Py_None:  # else all of it is looked at
                number = (<Call>call).places[place.index]
                if number == 0:
                    (<Call>call).plan = None  # it is part of the kernel
                elif number > (<Call>call).tensor_count:
                    watched = &(<Call>call).watched[number - 1]
                    if not watched.noted:
                        watched.noted = True
                        (<Call>call).watched[(<Call>call).other_count].other = number - 1
                        (<Call>call).other_count += 1
            lowlat_release(before)  # last, since it may run other code
        return 0


def start_recording(list calls):
    """Append to `calls` what this thread calls from now on, until `stop_recording` gets what this returns."""
    if current_recording() is not None:
        raise RuntimeError("this thread is recording already")
    cdef Recording recording = Recording.__new__(Recording)
    recording.calls = calls
    lowlat_set_recorder(<void*>lowlat_new_reference(recording))
    state.recorders += 1
    return recording


def stop_recording(Recording recording):
    """From any thread."""
    recording.calls = None
    state.recorders -= 1
    current_recording()  # this thread gives it up


def configure_sequences(*, not_recordable, changed, outer_module):
    """The classes of errors; the module of Triton's that has Autotuner and Heuristics."""
    state.not_recordable = not_recordable
    state.changed = changed
    state.outer_module = outer_module


# ---- the wrapper route --------------------------------------------------------------------------------------------

cdef int launch_with_wrapper(Plan borrowed, PyObject* compiled, const int32_t* blocks, void* stream,
                             PyObject* const* arguments, Py_ssize_t count) except -1:
    """The wrapper route.  `compiled` is the caller's reference, given up if this raises."""
    cdef Plan plan = borrowed  # held: data_ptr() and allocators are Python
    try:
        call_wrapper(plan, blocks, stream, arguments, count)
    except BaseException:
        lowlat_release(compiled)
        raise
    return 0


cdef int call_wrapper(Plan plan, const int32_t* blocks, void* stream, PyObject* const* arguments,
                      Py_ssize_t count) except -1:
    """Triton's compiled launch function packs and launches; no hooks are set, so none is passed."""
    # (HIP's launchers call the exit hook with the error of a failed launch set, which even an empty one does not bear.)
    if state.recorders != 0 and lowlat_get_step() != NULL:
        raise state.not_recordable(f"it takes the {ROUTE_NAMES[plan.route_]} route: {plan.why_}")
    cdef Py_ssize_t i, place
    cdef Py_ssize_t before = PyTuple_GET_SIZE(plan.before), after = PyTuple_GET_SIZE(plan.after)
    cdef tuple held = values_of(arguments, count)
    cdef object memory = None
    if plan.scratch_size is not None:
        # Also where nothing will be launched; of the user's allocator, which may do anything.
        memory = state.allocate(<object>blocks[0] * blocks[1] * blocks[2] * plan.scratch_size, plan.scratch_align,
                                <uint64_t>stream)
    cdef tuple values = PyTuple_New(before + 5 + after + (count if plan.flat_arguments else 1))
    for i in range(before):
        put(values, i, <object>PyTuple_GET_ITEM(plan.before, i))
    for i in range(3):
        put(values, before + i, blocks[i])
    put(values, before + 3, <uint64_t>stream)
    put(values, before + 4, PyLong_FromVoidPtr(plan.function))
    place = before + 5
    for i in range(after):
        if i == plan.scratch:
            put(values, place + i, memory)
        elif i == plan.exit_hook:
            put(values, place + i, state.exit_hook())
        else:
            put(values, place + i, <object>PyTuple_GET_ITEM(plan.after, i))
    place += after
    if plan.flat_arguments:
        for i in range(count):
            put(values, place + i, <object>PyTuple_GET_ITEM(held, i))
    else:
        put(values, place, held)
    PyObject_Call(plan.function_object, values, None)
    return 0


cdef inline int put(tuple values, Py_ssize_t i, object value) except -1:
    """Into a tuple that nobody else has seen."""
    Py_INCREF(value)
    PyTuple_SET_ITEM(values, i, value)
    return 0


cdef bint no_context() except -1:
    """Whether this thread has no current context (a launch of a context that is gone fails with the same code)."""
    cdef void* context = NULL
    return driver.current_context(&context) == 0 and context == NULL


cdef int raise_driver_error(CUresult result) except -1:
    """Triton's error, word for word (gpuAssert in its driver.c, 3.6 to 3.9)."""
    cdef const char* text = NULL
    driver.error_string(result, &text)
    raise RuntimeError("Triton Error [CUDA]: " + ((<bytes>text).decode() if text != NULL else ""))


# ---- the way out --------------------------------------------------------------------------------------------------

cdef PyObject* leave(Kernel kernel, int reason, PyObject* grid, PyObject* const* args, Py_ssize_t positional,
                     PyObject* const* names, Py_ssize_t keywords, int through) except NULL:
    """Hand the unlaunched call to Triton, as it came, and count why.  Returns a new reference."""
    cdef Py_ssize_t i
    if state.recorders != 0:
        refuse_step(reason)
    if through != THROUGH_WARMUP:
        kernel.exits_[reason] += 1  # (Triton's warmup() is a call of `run`, which counts it)
    cdef tuple values = PyTuple_New(positional)
    for i in range(positional):
        Py_INCREF(<object>args[i])
        PyTuple_SET_ITEM(values, i, <object>args[i])
    cdef dict named = {}
    for i in range(keywords):
        named[<object>names[i]] = <object>args[positional + i]
    cdef object result
    if through == THROUGH_RUN:
        result = state.run_with_triton(kernel, values, named)
    elif through == THROUGH_WARMUP:
        result = state.warmup_with_triton(kernel, values, named)
    else:
        result = state.launch_with_triton(kernel, <object>grid, values, named)
    if state.forked:
        # Triton has launched in this process since the fork.
        state.forked = False
        state.stale = True
    Py_INCREF(result)
    return <PyObject*>result


# ---- autotune and heuristics --------------------------------------------------------------------------------------

# A tuner or heuristics hands its call on with more keyword arguments.  They are laid behind the call's own on the C
# stack, so that the kernel's part is an ordinary `launch` of a longer call: no tuple, no dict, no frame.  What is
# looked up on the way is borrowed as long as no user code can run (`known_additions`), and held from there on.

@cython.final
@cython.freelist(32)
cdef class OuterLauncher:
    """`tuner[grid]`: see Launcher."""

    def __repr__(self):
        return f"<lowlat launcher of {self.outer!r} over grid {self.grid!r}>"


cdef PyObject* outer_subscript(PyObject* self, PyObject* grid) except NULL:
    """mp_subscript of lowlat.Autotuner and lowlat.Heuristics; see kernel_subscript."""
    cdef PyObject* launcher
    if not outer_types_current() or state.outer_reason != OK:
        return lowlat_new_reference((<Outer>self).__getitem__(<object>grid))
    launcher = lowlat_new(<PyTypeObject*>OuterLauncher, <PyObject*>EMPTY)
    (<OuterLauncher>launcher).vectorcall = <vectorcallfunc>outer_launcher_vectorcall
    (<OuterLauncher>launcher).outer = <Outer>self
    (<OuterLauncher>launcher).grid = <object>grid
    return launcher


cdef PyObject* outer_launcher_vectorcall(PyObject* self, PyObject* const* args, size_t nargs,
                                         PyObject* names) except NULL:
    cdef PyObject* const* name_items = NULL
    cdef Py_ssize_t keywords = 0
    if names != NULL:
        name_items = tuple_items(names)
        keywords = tuple_size(names)
    if state.recorders != 0:
        return launch_recorded(<PyObject*>(<OuterLauncher>self).outer, False, <PyObject*>(<OuterLauncher>self).grid,
                               args, PyVectorcall_NARGS(nargs), name_items, keywords, THROUGH_GETITEM)
    return (<OuterLauncher>self).outer.call(<PyObject*>(<OuterLauncher>self).grid, args, PyVectorcall_NARGS(nargs),
                                            name_items, keywords, THROUGH_GETITEM)


cdef PyObject* outer_run(PyObject* self, PyObject* const* args, Py_ssize_t count, PyObject* names) except NULL:
    """`tuner.run(*args, grid=..., warmup=..., **kwargs)`."""
    cdef PyObject* const* name_items = NULL
    cdef Py_ssize_t keywords = 0
    if names != NULL:
        name_items = tuple_items(names)
        keywords = tuple_size(names)
    if state.recorders != 0:
        return launch_recorded(self, False, NULL, args, count, name_items, keywords, THROUGH_RUN)
    return (<Outer>self).call(NULL, args, count, name_items, keywords, THROUGH_RUN)


cdef PyObject* hand_on(PyObject* fn, PyObject* grid, PyObject* const* args, Py_ssize_t positional,
                       PyObject* const* names, Py_ssize_t keywords, int through) except NULL:
    """`fn.run(...)`, where fn is a kernel, a tuner, heuristics, or anything else that has a `run`; held by the
    caller."""
    cdef PyTypeObject* kind = type_of(fn)
    if kind == state.kernel_type:
        if kernel_type_current() and not (<Kernel>fn).run_replaced:
            return launch(<Kernel>fn, grid, args, positional, names, keywords, through)
    elif kind == state.tuner_type or kind == state.heuristics_type:
        if not outer_types_current():
            refresh_outer()
        if state.outer_reason == OK and not (<Outer>fn).run_replaced:
            return (<Outer>fn).call(grid, args, positional, names, keywords, through)
    if state.recorders != 0 and lowlat_get_step() != NULL:
        raise state.not_recordable(f"it goes through {<object>fn!r}, whose `run` is not lowlat's")
    cdef tuple values = values_of(args, positional)
    cdef dict named = {}
    if through == THROUGH_GETITEM:
        named["grid"] = <object>grid
        named["warmup"] = False
    add_named(named, args + positional, names, keywords)
    return lowlat_new_reference((<object>fn).run(*values, **named))


cdef inline bint kernel_type_current():
    """Whether lowlat.JITFunction.run is lowlat's own."""
    return ((<PyTypeObjectFields*>state.kernel_type).tp_version_tag == state.kernel_type_version
            and state.reason != PATCHED)


cdef inline bint outer_types_current():
    """Whether the classes of tuners, heuristics, Configs and tensors are as they were when last looked at."""
    return ((<PyTypeObjectFields*>state.tuner_type).tp_version_tag == state.tuner_type_version
            and (<PyTypeObjectFields*>state.heuristics_type).tp_version_tag == state.heuristics_type_version
            and (<PyTypeObjectFields*>state.config_type).tp_version_tag == state.config_type_version
            and (state.tensor_type == NULL
                 or (<PyTypeObjectFields*>state.tensor_type).tp_version_tag == state.tensor_type_version
                 and (<PyTypeObjectFields*>state.parameter_type).tp_version_tag == state.parameter_type_version))


cdef int refresh_outer() except -1:
    cdef unsigned int versions[5]
    state.tuner_type_version = NO_VERSION
    versions[0] = version_of(state.tuner_type)
    versions[1] = version_of(state.heuristics_type)
    versions[2] = version_of(state.config_type)
    versions[3] = version_of(state.tensor_type) if state.tensor_type != NULL else NO_VERSION
    versions[4] = version_of(state.parameter_type) if state.parameter_type != NULL else NO_VERSION
    state.outer_reason = REASON_NAMES.index(state.read_outer())
    # Taken before reading: a change meanwhile is seen by the next call.
    state.tuner_type_version = versions[0]
    state.heuristics_type_version = versions[1]
    state.config_type_version = versions[2]
    state.tensor_type_version = versions[3]
    state.parameter_type_version = versions[4]
    return 0


cdef unsigned int NO_VERSION = 0xFFFFFFFF  # a version that no type has


cdef unsigned int version_of(PyTypeObject* kind) except? 0:
    """A type's version tag, which goes when the type or a base is written to; NO_VERSION where CPython gives none."""
    hasattr(<object>kind, "run")  # a look-up gives it one
    return (<PyTypeObjectFields*>kind).tp_version_tag or NO_VERSION


cdef inline int outer_reason(Outer outer, PyTypeObject* kind, int through) except -1:
    """Why this tuner or these heuristics may not be followed natively right now, or OK.  What keeps a kernel from a
    native launch is the kernel's to see."""
    if not outer_types_current():
        refresh_outer()
    if state.outer_reason != OK:
        return state.outer_reason
    if outer.run_replaced and through == THROUGH_GETITEM:
        return RUN_REPLACED  # as in `launch`
    if type_of(<PyObject*>outer) != kind:
        return SUBCLASS
    return OK


cdef PyObject* leave_outer(Outer outer, int reason, PyObject* grid, PyObject* const* args, Py_ssize_t positional,
                           PyObject* const* names, Py_ssize_t keywords, int through) except NULL:
    """Hand the call to Triton's Autotuner.run or Heuristics.run, as it came, and count why.  Returns a new
    reference."""
    if state.recorders != 0:
        refuse_step(reason)
    outer.exits_[reason] += 1
    cdef tuple values = values_of(args, positional)
    cdef dict named = {}
    add_named(named, args + positional, names, keywords)
    return lowlat_new_reference(state.outer_with_triton(outer, through == THROUGH_GETITEM,
                                                        None if grid == NULL else <object>grid, values, named))


cdef tuple values_of(PyObject* const* args, Py_ssize_t count):
    cdef tuple values = PyTuple_New(count)
    cdef Py_ssize_t i
    for i in range(count):
        Py_INCREF(<object>args[i])
        PyTuple_SET_ITEM(values, i, <object>args[i])
    return values


cdef int add_named(dict named, PyObject* const* args, PyObject* const* names, Py_ssize_t count) except -1:
    cdef Py_ssize_t i
    for i in range(count):
        named[<object>names[i]] = <object>args[i]
    return 0


# The shape of a call

cdef inline bint fits_shape(Shape shape, Py_ssize_t positional, PyObject* const* names, Py_ssize_t keywords,
                            int through):
    return (shape is not None and shape.positional == positional and shape.keywords == keywords
            and shape.through == through
            and same_objects(names, shape.name_items, keywords))


cdef Shape shape_of_call(Outer outer, Py_ssize_t positional, PyObject* const* names, Py_ssize_t keywords, int through):
    cdef Shape shape = outer.shape
    if fits_shape(shape, positional, names, keywords, through):
        return shape
    cdef tuple name_tuple = values_of(names, keywords)
    key = (through, positional, name_tuple)
    shape = outer.shapes.get(key)
    if shape is None:
        if len(outer.shapes) >= MAX_BINDINGS:
            outer.shapes.clear()
        shape = outer.resolve(positional, name_tuple, through)
        shape.through = through
        shape.positional = positional
        shape.keywords = keywords
        shape.names = name_tuple
        shape.name_items = <PyObject**>tuple_items(<PyObject*>name_tuple)
        outer.shapes[key] = shape
    outer.shape = shape
    return shape


cdef inline bint same_items(PyObject* sequence, PyObject* seen):
    """Whether a list has the items it had when it was last looked at (a tuple is what it is)."""
    return is_tuple(seen) and (sequence == seen or (
        is_list(sequence) and list_size(sequence) == tuple_size(seen)
        and same_objects((<PyListObject*>sequence).ob_item, tuple_items(seen), list_size(sequence))))


cdef tuple seen_items(object sequence):
    """The strings in a list or tuple; None where it is anything else."""
    if type(sequence) is not list and type(sequence) is not tuple:
        return None
    return tuple(sequence) if all([type(item) is str for item in sequence]) else None


cdef int drop_shapes(Outer outer) except -1:
    outer.shape = None
    outer.shapes = {}
    return 0


cdef tuple place_arguments(Outer outer, Py_ssize_t positional, tuple names, int through):
    """(reason, index of each argument that has a parameter's name, in the order of Triton's merged dict)"""
    cdef Py_ssize_t i
    places = dict(zip(outer.arg_names_seen[:positional], range(positional)))
    if positional > len(outer.arg_names_seen) or not RUN_NAMES.isdisjoint(outer.arg_names_seen):
        return BINDING, places
    for i, name in enumerate(names):
        if name == "self" or name in places or (through == THROUGH_GETITEM and name in RUN_NAMES):
            return BINDING, places  # given twice
        if name in outer.arg_names_seen:
            places[name] = positional + i
    return OK, places


cdef frozenset RUN_NAMES = frozenset(("self", "grid", "warmup"))


# Tuners

cdef PyObject* launch_tuned(Tuner tuner, PyObject* grid, PyObject* const* args, Py_ssize_t positional,
                            PyObject* const* names, Py_ssize_t keywords, int through) except NULL:
    """A tuned call, as Triton's Autotuner.run makes it once its cache has the key; anything else is left to that."""
    cdef int reason
    cdef PyObject* config
    cdef PyObject* known = known_additions(tuner, args, positional, names, keywords, through, &config)
    cdef Additions additions
    if known != NULL:
        additions = <Additions>known
        if <PyObject*>tuner.best_config_ != config:
            tuner.best_config_ = <object>config
    else:
        additions = find_additions(tuner, args, positional, names, keywords, through, &reason)
        if reason != OK:
            return leave_tuned(tuner, reason, grid, args, positional, names, keywords, through)

    cdef Py_ssize_t own = positional + keywords
    cdef PyObject** extended = <PyObject**>alloca((own + additions.count + 1) * sizeof(PyObject*))
    memcpy(extended, args, own * sizeof(PyObject*))
    memcpy(extended + own, additions.value_items, additions.count * sizeof(PyObject*))
    cdef object fn = tuner.fn
    cdef PyObject* result
    cdef TunedCall* call = begin_call(tuner, positional)
    memcpy(call.args, args, positional * sizeof(PyObject*))
    try:
        result = hand_on(<PyObject*>fn, grid, extended, positional, additions.name_items, keywords + additions.count,
                         through)
    except BaseException:
        end_call(tuner, call)
        tuner.nargs_ = dict(zip(tuner.arg_names, values_of(args, positional)))  # Triton leaves it standing
        raise
    end_call(tuner, call)
    if <PyObject*>tuner.nargs_ != Py_None:
        tuner.nargs_ = None
    return result


cdef PyObject* leave_tuned(Tuner tuner, int reason, PyObject* grid, PyObject* const* args, Py_ssize_t positional,
                           PyObject* const* names, Py_ssize_t keywords, int through) except NULL:
    if reason == NOT_TUNED:
        drop_shapes(tuner)  # the cache was cleared, or will have a new entry: nothing is kept that it has dropped
    cdef TunedCall* call = begin_call(tuner, 0)
    try:
        call.attributes = lowlat_new_reference({})
        return leave_outer(tuner, reason, grid, args, positional, names, keywords, through)
    finally:
        end_call(tuner, call)


cdef inline TunedCall* begin_call(Tuner tuner, Py_ssize_t positional) except NULL:
    """Until `end_call`, this thread sees `nargs` (and, in a call handed to Triton, what Triton sets on the tuner) as of
    this call, whatever other threads do with the tuner."""
    cdef TunedCall* call = tuner.spare
    if call == NULL or call.capacity < positional:
        call = <TunedCall*>malloc(sizeof(TunedCall) + positional * sizeof(PyObject*))
        if call == NULL:
            raise MemoryError()
        call.capacity = positional
    else:
        tuner.spare = NULL
    call.attributes = NULL
    call.thread = PyThreadState_Get()
    call.positional = positional
    call.previous = tuner.calls
    tuner.calls = call
    return call


cdef inline int end_call(Tuner tuner, TunedCall* call) except -1:
    cdef TunedCall** place = &tuner.calls
    cdef PyObject* attributes = call.attributes
    while place[0] != call:  # later ones of other threads come first
        place = &place[0].previous
    place[0] = call.previous
    if tuner.spare == NULL or tuner.spare.capacity < call.capacity:
        free(tuner.spare)
        tuner.spare = call
    else:
        free(call)
    Py_XDECREF(attributes)
    return 0


cdef TunedCall* current_call(Tuner tuner):
    """This thread's innermost call in flight, or NULL."""
    cdef TunedCall* call = tuner.calls
    while call != NULL and call.thread != PyThreadState_Get():
        call = call.previous
    return call


cdef PyObject* known_additions(Tuner tuner, PyObject* const* args, Py_ssize_t positional, PyObject* const* names,
                               Py_ssize_t keywords, int through, PyObject** config) except? NULL:
    """What the chosen Config adds to this call, and that Config, both borrowed; NULL if anything that decides it may
    have changed.  No user code runs in here."""
    cdef PyObject* configs = <PyObject*>tuner.configs
    cdef PyObject* shape = <PyObject*>tuner.shape
    cdef PyObject* choice
    cdef PyObject* additions
    cdef uint64_t* fingerprint
    cdef Py_ssize_t size
    if (outer_reason(tuner, state.tuner_type, through) != OK
            or not same_items(<PyObject*>tuner.arg_names, <PyObject*>tuner.arg_names_seen)
            or not same_items(<PyObject*>tuner.keys, <PyObject*>tuner.keys_seen)
            or not fits_shape(<Shape>shape, positional, names, keywords, through) or (<Shape>shape).refusal != OK
            or not is_list(configs)):
        return NULL
    if list_size(configs) == 1:
        choice = <PyObject*>(<TunerShape>shape).only
        config[0] = (<PyListObject*>configs).ob_item[0]
    else:
        size = (<TunerShape>shape).words * sizeof(uint64_t)
        fingerprint = <uint64_t*>alloca(size)
        if key_fingerprint(tuner, <TunerShape>shape, args, fingerprint) != OK or list_size(configs) == 0:
            return NULL
        choice = find_choice(<TunerShape>shape, fingerprint, size)
        if choice == NULL or not lowlat_stamp_current(&(<Choice>choice).stamp, <PyObject*>tuner.cache):
            return NULL
        config[0] = (<Choice>choice).config
    additions = <PyObject*>(<Choice>choice).additions
    if not additions_current(<Additions>additions, config[0]) or (<Additions>additions).refusal != OK:
        return NULL
    return additions


cdef Additions find_additions(Tuner tuner, PyObject* const* args, Py_ssize_t positional, PyObject* const* names,
                              Py_ssize_t keywords, int through, int* reason):
    """The same with everything looked at anew, and `best_config` set; or why the call is Triton's."""
    cdef TunerShape shape
    cdef Choice choice
    cdef Additions additions
    cdef object config
    reason[0] = outer_reason(tuner, state.tuner_type, through)
    if reason[0] == OK and not (same_items(<PyObject*>tuner.arg_names, <PyObject*>tuner.arg_names_seen)
                                and same_items(<PyObject*>tuner.keys, <PyObject*>tuner.keys_seen)):
        reason[0] = read_tuner(tuner)
    if reason[0] != OK:
        return None
    shape = <TunerShape>shape_of_call(tuner, positional, names, keywords, through)
    reason[0] = shape.refusal
    if type(tuner.configs) is not list or len(<list>tuner.configs) == 0:
        reason[0] = TUNER
    if reason[0] != OK:
        return None
    if len(<list>tuner.configs) == 1:
        choice = shape.only
        config = (<list>tuner.configs)[0]
    else:
        choice = choose(tuner, shape, args, reason)
        if reason[0] != OK:
            return None
        config = <object>choice.config
    additions = choice.additions
    if additions is None or not additions_current(additions, <PyObject*>config):
        additions = choice.additions = additions_of(shape, config)
    reason[0] = additions.refusal
    if reason[0] == OK:
        tuner.best_config_ = config
    return additions


cdef int read_tuner(Tuner tuner) except -1:
    """The names a tuner goes by have changed, or this is the first call."""
    drop_shapes(tuner)
    tuner.arg_names_seen = seen_items(tuner.arg_names)
    tuner.keys_seen = seen_items(tuner.keys)
    return TUNER if tuner.arg_names_seen is None or tuner.keys_seen is None else OK


cdef TunerShape resolve_tuner_shape(Tuner tuner, Py_ssize_t positional, tuple names, int through):
    """See _fast.pxd for what it is made of."""
    cdef TunerShape shape = TunerShape.__new__(TunerShape)
    cdef Py_ssize_t i
    shape.refusal, places = place_arguments(tuner, positional, names, through)
    keys = [places[name] for name in tuner.keys_seen if name in places]
    typed = list(places.values())
    shape.key_count = len(keys)
    shape.typed_count = len(typed)
    shape.key_values = <Value*>calloc(len(keys) + 1, sizeof(Value))
    shape.key_sources = <int16_t*>malloc((len(keys) + 1) * sizeof(int16_t))
    shape.typed_sources = <int16_t*>malloc((len(typed) + 1) * sizeof(int16_t))
    shape.untyped = <PyTypeObject**>calloc(len(typed) + 1, sizeof(PyTypeObject*))
    if (shape.key_values == NULL or shape.key_sources == NULL or shape.typed_sources == NULL
            or shape.untyped == NULL):
        raise MemoryError()
    if positional + len(names) > 32000:
        shape.refusal = BINDING
        return shape
    for i, place in enumerate(keys):
        shape.key_sources[i] = place
    for i, place in enumerate(typed):
        shape.typed_sources[i] = place
    # a word per value in the key | a tag each, and one per argument that may have a dtype, padded
    shape.words = len(keys) + (len(keys) + len(typed) + 8) // 8
    shape.choices = Table.__new__(Table)
    shape.only = Choice.__new__(Choice)
    return shape


cdef Choice choose(Tuner tuner, TunerShape shape, PyObject* const* args, int* reason):
    """The Choice for these arguments, its `config` just found in the tuner's cache; or why the call is Triton's."""
    cdef Py_ssize_t size = shape.words * sizeof(uint64_t)
    cdef uint64_t* fingerprint = <uint64_t*>alloca(size)
    cdef PyObject* known
    cdef Choice choice
    reason[0] = key_fingerprint(tuner, shape, args, fingerprint)
    if reason[0] != OK:
        return None
    known = find_choice(shape, fingerprint, size)
    choice = new_choice(shape, args, fingerprint, size) if known == NULL else <Choice>known
    reason[0] = look_into_cache(tuner, choice)
    return choice


cdef int key_fingerprint(Tuner tuner, TunerShape shape, PyObject* const* args, uint64_t* fingerprint) except -1:
    """What Triton's tuning key is made of: the values of `keys` and the dtypes, here by value and exact type."""
    cdef uint8_t* tags = <uint8_t*>(fingerprint + shape.key_count)
    cdef Value* value = shape.key_values
    cdef PyObject* argument
    cdef PyTypeObject* kind
    cdef int64_t number
    cdef int32_t dtype
    cdef Py_ssize_t i
    cdef bint modes_checked = False
    fingerprint[shape.words - 1] = 0  # the padding
    for i in range(shape.key_count):
        argument = args[shape.key_sources[i]]
        if type_of(argument) == &PyLong_Type and lowlat_compact_int(argument, &number):
            tags[i] = TAG_VALUE_INT
            fingerprint[i] = <uint64_t>number
        else:
            if argument != value.object and not specialize_value(tuner.strings, argument, value):
                return KEY
            if value.tag == TAG_VALUE_FLOAT and PyFloat_AS_DOUBLE(argument) != PyFloat_AS_DOUBLE(argument):
                return KEY  # to Triton each NaN is a key of its own
            tags[i] = value.tag
            fingerprint[i] = value.word
        value += 1
    tags += shape.key_count
    for i in range(shape.typed_count):
        argument = args[shape.typed_sources[i]]
        kind = type_of(argument)
        if kind == shape.untyped[i]:
            tags[i] = 0
        elif kind == state.tensor_type or kind == state.parameter_type:
            if not modes_checked:
                if function_mode_enabled():
                    return TORCH_FUNCTION_MODE
                modes_checked = True
            if lowlat_torch.rung == LOWLAT_RUNG_SHIM:
                if lowlat_shim_dtype(argument, &dtype):
                    return UNREADABLE
            elif not dtype_with_python(<object>argument, &dtype):
                return UNREADABLE
            if <uint32_t>dtype >= 255:
                return UNREADABLE
            tags[i] = <uint8_t>(dtype + 1)
        elif (kind == &PyLong_Type or kind == &PyFloat_Type or kind == &PyBool_Type or kind == &PyUnicode_Type
                or argument == Py_None or kind == state.torch_dtype_type or kind == state.triton_dtype_type):
            tags[i] = 0  # these have no `dtype`
            shape.untyped[i] = kind
        elif kind == state.descriptor_type and has_no_dtype(argument):
            tags[i] = 0
        else:
            return ARGUMENT
    return OK


cdef bint has_no_dtype(PyObject* descriptor) except -1:
    """A TensorDescriptor has none, unless somebody gave it one."""
    if not descriptors_are_plain():
        return False
    cdef PyObject* attributes = PyObject_GenericGetDict(descriptor, NULL)
    lowlat_release(attributes)  # the descriptor keeps it
    return PyDict_GetItemWithError(<object>attributes, "dtype") == NULL


cdef bint dtype_with_python(object argument, int32_t* dtype) except -1:
    cdef object code = state.torch_dtypes.get(argument.dtype)
    if code is None:
        return False
    dtype[0] = code
    return True


cdef inline PyObject* find_choice(TunerShape shape, const uint64_t* fingerprint, Py_ssize_t size):
    """The Choice of a fingerprint, borrowed from the shape, or NULL."""
    cdef PyObject* last = shape.choices.last
    return last if matches(last, fingerprint, size) else find_entry(shape.choices, fingerprint, size)


cdef Choice new_choice(TunerShape shape, PyObject* const* args, const uint64_t* fingerprint, Py_ssize_t size):
    cdef Choice choice = Choice.__new__(Choice)
    choice.key = tuning_key(shape, args)
    add_entry(shape.choices, choice, PyBytes_FromStringAndSize(<const char*>fingerprint, size))
    return choice


cdef tuple tuning_key(TunerShape shape, PyObject* const* args):
    """The key as Triton makes it."""
    cdef Py_ssize_t i
    key = [<object>args[shape.key_sources[i]] for i in range(shape.key_count)]
    for i in range(shape.typed_count):
        argument = <object>args[shape.typed_sources[i]]
        if hasattr(argument, "dtype"):
            key.append(str(argument.dtype))
    return tuple(key)


cdef int look_into_cache(Tuner tuner, Choice choice) except -1:
    """Read `choice.config` from the tuner's cache as it is now."""
    cdef object cache = tuner.cache
    cdef PyObject* found
    if type(cache) is not dict:
        return TUNER
    found = PyDict_GetItemWithError(cache, choice.key)
    if found == NULL:
        return NOT_TUNED
    choice.config = found
    lowlat_set_stamp(&choice.stamp, cache, cache)
    return OK


# What a Config adds

cdef Additions additions_of(TunerShape shape, object config):
    """Config.all_kwargs() for calls of one shape; with a refusal where it takes Triton to say what that is."""
    cdef Additions additions = Additions.__new__(Additions)
    additions.refusal = CONFIG
    if type_of(<PyObject*>config) != state.config_type:
        return additions
    attributes = config.__dict__
    kwargs = attributes.get("kwargs")
    if type(attributes) is not dict or type(kwargs) is not dict:
        return additions
    # As they are now; Triton's all_kwargs() runs no code but its own.
    additions.attributes = attributes
    additions.kwargs = kwargs
    additions.attributes_seen = flat_items(attributes)
    additions.kwargs_seen = flat_items(kwargs)
    if not all([type(name) is str for name in kwargs]):
        return additions
    added = config.all_kwargs()
    if config.pre_hook is not None:
        additions.refusal = PRE_HOOK
        return additions
    # Names are interned, as those in calls are, so that the kernel knows equal ones by their address.
    names = tuple([sys.intern(name) for name in added])
    if not (same_flat_items(attributes, additions.attributes_seen)
            and same_flat_items(kwargs, additions.kwargs_seen)):
        additions.attributes = None  # another thread changed it meanwhile: right for this call, not for the next
    if not set(names).isdisjoint(shape.names) or not RUN_NAMES.isdisjoint(names):
        additions.refusal = BINDING  # given twice
        return additions
    additions.names = shape.names + names
    additions.name_items = <PyObject**>tuple_items(<PyObject*>additions.names)
    additions.values = tuple(added.values())
    additions.value_items = <PyObject**>tuple_items(<PyObject*>additions.values)
    additions.count = len(names)
    additions.refusal = OK
    return additions


cdef tuple flat_items(dict items):
    return tuple([part for item in items.items() for part in item])


cdef inline bint additions_current(Additions additions, PyObject* config) except -1:
    """Whether this is what `config` adds now.  A Config may be changed at any time, and so may its `kwargs`."""
    if additions is None or additions.attributes is None or type_of(config) != state.config_type:
        return False
    cdef PyObject* attributes = PyObject_GenericGetDict(config, NULL)
    lowlat_release(attributes)  # the config keeps it
    if attributes != <PyObject*>additions.attributes:
        return False
    return (LOWLAT_ATTRIBUTES_ARE_IN_DICTS and lowlat_stamp_current(&additions.stamp, attributes)
            or same_attributes(additions))


cdef bint same_attributes(Additions additions) except -1:
    if not (same_flat_items(additions.attributes, additions.attributes_seen)
            and same_flat_items(additions.kwargs, additions.kwargs_seen)):
        return False
    if LOWLAT_ATTRIBUTES_ARE_IN_DICTS:
        lowlat_set_stamp(&additions.stamp, additions.attributes, additions.kwargs)
    return True


cdef bint same_flat_items(dict items, tuple seen):
    cdef Py_ssize_t position = 0, i = 0
    cdef PyObject* name
    cdef PyObject* value
    if 2 * len(items) != len(seen):
        return False
    while PyDict_Next(items, &position, &name, &value):
        if name != <PyObject*>PyTuple_GET_ITEM(seen, i) or value != <PyObject*>PyTuple_GET_ITEM(seen, i + 1):
            return False
        i += 2
    return True


# Heuristics

cdef PyObject* launch_with_heuristics(Heuristic outer, PyObject* grid, PyObject* const* args, Py_ssize_t positional,
                                      PyObject* const* names, Py_ssize_t keywords, int through) except NULL:
    """Each heuristic gets a dict of all arguments, the values of those before it included, and gives one more."""
    cdef int reason = outer_reason(outer, state.heuristics_type, through)
    cdef HeuristicShape shape = None
    if reason == OK and not same_items(<PyObject*>outer.arg_names, <PyObject*>outer.arg_names_seen):
        drop_shapes(outer)
        outer.arg_names_seen = seen_items(outer.arg_names)
        if outer.arg_names_seen is None:
            reason = TUNER
    if reason == OK and type(outer.values) is not dict:
        reason = TUNER
    if reason == OK:
        shape = <HeuristicShape>shape_of_call(outer, positional, names, keywords, through)
        if not heuristics_current(shape, outer.values):
            drop_shapes(outer)
            shape = <HeuristicShape>shape_of_call(outer, positional, names, keywords, through)
            heuristics_current(shape, outer.values)
        reason = shape.refusal
    if reason != OK:
        return leave_outer(outer, reason, grid, args, positional, names, keywords, through)

    cdef dict values = outer.values, bound
    cdef NamedArguments named
    cdef uint64_t tag
    cdef Py_ssize_t i, computed = 0, own = positional + keywords
    cdef PyObject** extended = <PyObject**>alloca((positional + shape.keywords_after + 1) * sizeof(PyObject*))
    cdef PyObject** results = <PyObject**>alloca((shape.count + 1) * sizeof(PyObject*))
    memcpy(extended, args, own * sizeof(PyObject*))
    try:
        for i in range(shape.count):
            check_heuristics(shape, values)
            function = <object>shape.functions[i]
            named = <NamedArguments>PyTuple_GET_ITEM(shape.bound, i)
            bound = name_arguments(named, extended, positional, grid if through == THROUGH_GETITEM else NULL)
            tag = lowlat_dict_tag(bound)
            results[i] = lowlat_call_one(function, bound)
            computed += 1
            extended[positional + shape.places[i]] = results[i]
            if nobody_has(named, bound, tag):
                keep_scalars(named, bound)
                named.spare = bound
            bound = None
        check_heuristics(shape, values)
        fn = outer.fn
        return hand_on(<PyObject*>fn, grid, extended, positional, tuple_items(<PyObject*>shape.names_after),
                       shape.keywords_after, through)
    finally:
        for i in range(computed):
            lowlat_release(results[i])


cdef int keep_scalars(NamedArguments named, dict bound) except -1:
    cdef Py_ssize_t i
    cdef PyObject* value
    cdef PyTypeObject* kind
    for i in range(named.count):
        value = lowlat_value_at(bound, named.places[i])
        kind = type_of(value)
        if not (kind == &PyLong_Type or value == Py_None or kind == &PyFloat_Type or kind == &PyBool_Type
                or kind == &PyUnicode_Type):
            lowlat_take_out(bound, named.places[i])
    return 0


cdef inline int check_heuristics(HeuristicShape shape, dict values) except -1:
    if not heuristics_current(shape, values):
        raise RuntimeError("dictionary changed size during iteration")  # as Triton's loop over them does
    return 0


cdef inline bint heuristics_current(HeuristicShape shape, dict values) except -1:
    """Whether `values` has the names this shape was resolved with, and `functions` are its functions."""
    return lowlat_stamp_current(&shape.stamp, <PyObject*>values) or read_heuristics(shape, values)


cdef bint read_heuristics(HeuristicShape shape, dict values) except -1:
    cdef Py_ssize_t position = 0, i = 0
    cdef PyObject* name
    if len(values) != shape.count:
        return False
    while PyDict_Next(values, &position, &name, &shape.functions[i]):
        if name != <PyObject*>PyTuple_GET_ITEM(shape.heuristics, i):
            return False
        i += 1
    lowlat_set_stamp(&shape.stamp, values, values)
    return True


cdef HeuristicShape resolve_heuristic_shape(Heuristic outer, Py_ssize_t positional, tuple names, int through):
    cdef HeuristicShape shape = HeuristicShape.__new__(HeuristicShape)
    cdef Py_ssize_t i
    cdef dict values = outer.values
    shape.refusal = place_arguments(outer, positional, names, through)[0]
    shape.heuristics = tuple(values)
    shape.count = len(values)
    positional_names = outer.arg_names_seen[:positional]
    given = ("grid", "warmup") if through == THROUGH_GETITEM else ()
    warmup = {"warmup": False} if given else {}
    after = list(names)
    bound = []
    shape.functions = <PyObject**>calloc(len(values) + 1, sizeof(PyObject*))
    shape.places = <int16_t*>malloc((len(values) + 1) * sizeof(int16_t))
    if shape.functions == NULL or shape.places == NULL:
        raise MemoryError()
    if positional + len(names) + len(values) > 32000:
        shape.refusal = BINDING
        return shape
    for i, name in enumerate(shape.heuristics):
        if type(name) is not str or name in RUN_NAMES or name in positional_names:
            shape.refusal = BINDING
            return shape
        if shape.refusal == OK:
            bound.append(named_arguments({**dict.fromkeys((*positional_names, *given, *after)), **warmup}))
        if name not in after:
            after.append(sys.intern(name))
        shape.places[i] = after.index(name)
    shape.names_after = tuple(after)
    shape.keywords_after = len(after)
    shape.bound = tuple(bound)
    return shape


# ---- live state ---------------------------------------------------------------------------------------------------

@cython.final
cdef class State:
    def __cinit__(self):
        self.stale = True
        self.environments = {}
        self.classes = []
        self.way = WAY_DRIVER
        self.graph_after = 32


cdef State state = State()
cdef lowlat_driver_api driver


cdef inline bint state_current() except -1:
    """Whether the live state is as it was last read: a few loads and compares, no dict is looked into."""
    if state.stale or not lowlat_watched_current():
        return False
    return state.variables is None or variables_current()


cdef bint variables_current() except -1:
    cdef const char* value
    cdef Py_ssize_t i
    for i in range(PyTuple_GET_SIZE(state.variables)):
        value = getenv(<bytes>PyTuple_GET_ITEM(state.variables, i))
        seen = <object>PyTuple_GET_ITEM(state.variable_values, i)
        if (seen is not None) if value == NULL else (seen is None or strcmp(value, <bytes>seen) != 0):
            return False
    return True


cdef object variable_value(bytes name):
    cdef const char* value = getenv(name)
    return None if value == NULL else <bytes>value


cdef int refresh_state() except -1:
    """Read the live state again.  Watch first, read after, store last and only if no other thread has begun to read
    meanwhile: a change at any moment is then seen by every launch that follows it."""
    cdef lowlat_words words
    cdef uint64_t ticket
    while True:
        state.stale = True
        state.tickets += 1
        ticket = state.tickets
        memset(&words, 0, sizeof(words))
        dicts, types, lists, variables = state.watch_state()
        for watched in dicts:
            lowlat_watch_dict(&words, watched)
        for watched in types:
            lowlat_watch_type(&words, <PyTypeObject*>watched)
        for watched in lists:
            lowlat_watch_list(&words, watched)
        variable_values = tuple([variable_value(name) for name in variables])
        reason, environment, get_device, get_stream, c_getters, ranged = state.read_state()
        if ticket == state.tickets:
            break
    lowlat_watch(&words, (dicts, types, lists))
    state.kernel_type_version = (<PyTypeObjectFields*>state.kernel_type).tp_version_tag
    state.variables = variables or None
    state.variable_values = variable_values
    lowlat_torch.ranged = ranged
    state.get_device = get_device
    state.get_stream = get_stream
    state.c_getters = c_getters
    state.reason = FORKED if state.forked and reason == "ok" else REASON_NAMES.index(reason)
    state.environment = state.environments.setdefault(environment, len(state.environments))
    state.generation += 1
    state.stale = False
    return 0


cdef int python_getters(int* device, void** stream) except -1:
    """The driver's own getters, where they are not torch's or the null driver's."""
    current = state.get_device()
    device[0] = current
    stream[0] = <void*><uint64_t>state.get_stream(current)
    return 0


# ---- the Python surface -------------------------------------------------------------------------------------------

@cython.final
cdef class Binding:
    def __dealloc__(self):
        if self.option_values != NULL:
            drop_values(self.option_values, self.options)
        free(self.option_values)
        free(self.sources)
        free(self.option_sources)


@cython.final
cdef class Global:
    """See _fast.pxd."""


cdef class Entry:
    """See _fast.pxd."""


@cython.final
@cython.no_gc_clear  # the slots go with the entries or not at all
cdef class Table:
    def __cinit__(self):
        self.entries = []
        self.mask = 15
        self.slots = <Slot*>calloc(self.mask + 1, sizeof(Slot))
        if self.slots == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.slots)


@cython.final
cdef class Strings:
    def __cinit__(self):
        self.recent = {}
        self.older = {}


@cython.final
cdef class Plan(Entry):
    """How one CompiledKernel is launched.  Made by lowlat/_triton.py; `launch` reads it."""

    def __init__(self, str route, *, str reason="ok", object compiled=None, object key=None, int device=0,
                 uint64_t function=0, uint32_t threads=0, uint32_t clusters=1, uint32_t shared=0, tuple slots=(),
                 bint pdl=False, bint cooperative=False, bint oversized_shared=False, object function_object=None,
                 tuple before=(), tuple after=(), bint flat_arguments=False, Py_ssize_t exit_hook=-1,
                 object scratch_size=None, object scratch_align=None, Py_ssize_t scratch=-1, str why="",
                 tuple maps=(), object encode=None, Py_ssize_t map_offset=0):
        import weakref

        self.route_ = {name: number for number, name in ROUTE_NAMES.items()}[route]
        self.hot = state.graph_after
        self.reason = REASON_NAMES.index(reason)
        self.reference = None if compiled is None else weakref.ref(compiled)
        self.key = key
        self.device = device
        self.function = <CUfunction>function
        self.threads = threads
        self.clusters = clusters
        self.shared = shared
        self.function_object = function_object
        self.before = before
        self.after = after
        self.flat_arguments = flat_arguments
        self.exit_hook = exit_hook
        self.scratch_size = scratch_size
        self.scratch_align = scratch_align
        self.scratch = scratch
        self.why_ = why
        self.slot_count = len(slots)
        self.slots = <uint16_t*>malloc((len(slots) + 1) * sizeof(uint16_t))
        if self.slots == NULL:
            raise MemoryError()
        for i, slot in enumerate(slots):
            self.slots[i] = slot
        # Per tensor map: which parameter it is, where its descriptor is in the payload, the rank, and what to encode.
        self.maps = <TensorMaps*>calloc(len(maps) + 1, sizeof(TensorMaps))
        if self.maps == NULL:
            raise MemoryError()
        self.map_count = len(maps)
        self.encodings = tuple([encoding for _, _, _, encoding in maps])
        self.encode = encode
        self.map_offset = map_offset
        for i, (parameter, place, rank, _) in enumerate(maps):
            self.maps[i].parameter = parameter
            self.maps[i].place = place
            self.maps[i].size = (3 + 2 * <Py_ssize_t>rank) * <Py_ssize_t>sizeof(uint64_t)
        # In Triton's order (launch in its driver.c): shared-memory mode (3.8+), PDL, cooperative, cluster.
        if oversized_shared:
            self.add_attribute(CU_LAUNCH_ATTRIBUTE_SHARED_MEMORY_MODE,
                               CU_SHARED_MEMORY_MODE_ALLOW_OVERSIZED_SHARED_MEMORY)
        if pdl:
            self.add_attribute(CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, 1)
        if cooperative:
            self.add_attribute(CU_LAUNCH_ATTRIBUTE_COOPERATIVE, 1)
        if clusters != 1:
            self.add_attribute(CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, 0)
            self.attributes[self.attribute_count - 1].value.cluster[0] = clusters
            self.attributes[self.attribute_count - 1].value.cluster[1] = 1
            self.attributes[self.attribute_count - 1].value.cluster[2] = 1
            self.add_attribute(CU_LAUNCH_ATTRIBUTE_CLUSTER_SCHEDULING_POLICY_PREFERENCE,
                               CU_CLUSTER_SCHEDULING_POLICY_SPREAD)

    cdef int add_attribute(self, uint32_t number, int32_t value) except -1:
        cdef CUlaunchAttribute* attribute = &self.attributes[self.attribute_count]
        memset(attribute, 0, sizeof(CUlaunchAttribute))
        attribute.id = number
        attribute.value.integer = value
        self.attribute_count += 1
        return 0

    def __dealloc__(self):
        cdef Py_ssize_t i
        while self.graphs_ != NULL:
            lowlat_graph_destroy(self.graphs_)
        while self.repeats != NULL and self.repeats.graphs != NULL:
            lowlat_graph_destroy(self.repeats.graphs)
        free(self.repeats)
        free(self.slots)
        free(self.offsets)
        if self.maps != NULL:
            for i in range(self.map_count):
                free(self.maps[i].entries)
            free(self.maps)

    @property
    def route(self):
        """str: "driver", "wrapper", "launcher" (Triton's launcher object, for instrumented kernels), "triton", or
        "compiled" (by a warmup; the first launch is Triton's, which loads the kernel)."""
        return ROUTE_NAMES[self.route_]

    @property
    def why(self):
        """str: why the plan does not take the driver route; "" where it does."""
        if self.route_ == ROUTE_TRITON:
            return REASONS_TEXT[REASON_NAMES[self.reason]]
        return self.why_

    @property
    def submitted(self):
        """dict[str, int]: how often a launch that was to take the graph route took it ("graph"), and how often and why
        it did not (see lowlat.SUBMISSIONS).  Empty for a plan that was never to take it."""
        return {SUBMISSION_NAMES[i]: self.submitted_[i] for i in range(SUBMISSIONS) if self.submitted_[i]}

    @property
    def graphs(self):
        """int: graphs that the plan has: one for each stream in which it is hot, for any parameters, and one for each
        set of parameters that it is hot with."""
        cdef lowlat_graph* graph
        count = 0
        for repeated in (False, True):
            graph = self.graphs_
            if repeated:
                graph = NULL if self.repeats == NULL else self.repeats.graphs
            while graph != NULL:
                count += 1
                graph = graph.next
        return count

    def __repr__(self):
        why = f" ({self.why})" if self.why else ""
        if self.route_ == ROUTE_TRITON:
            return f"<lowlat plan: Triton's run{why}>"
        return (f"<lowlat plan: {ROUTE_NAMES[self.route_]} route{why}, device {self.device}, "
                f"{self.slot_count} parameters>")


def place_parameters(Plan plan):
    """Note where the kernel of a plan of the driver route reads its parameters, as the driver says (cuFuncGetParamInfo,
    CUDA 12.4), so that a graph can be given them in one buffer.  It gets pointers where the driver does not say, where
    tensor maps are among them, or where a whole word for each, one after the other, would not come to the same."""
    cdef size_t i, count = plan.slot_count + 2, end = 0, covered = 0, offset = 0, size = 0
    if plan.offsets != NULL or driver.parameter_info == NULL:
        return
    plan.offsets = <uint16_t*>malloc(count * sizeof(uint16_t))
    if plan.offsets == NULL:
        raise MemoryError()
    for i in range(count):
        if driver.parameter_info(plan.function, i, &offset, &size) != 0:
            return
        if not end <= offset <= covered or not 0 < size <= sizeof(uint64_t) or offset > UINT16_MAX:
            return
        plan.offsets[i] = <uint16_t>offset
        end = offset + size
        covered = offset + sizeof(uint64_t)
    plan.buffer_size = end


cdef Plan copy_of_plan(Plan plan):
    """The same launch for another fingerprint: everything but what a Table and the launches themselves set."""
    cdef Plan copy = Plan.__new__(Plan)
    cdef Py_ssize_t i
    copy.slots = <uint16_t*>malloc((plan.slot_count + 1) * sizeof(uint16_t))
    copy.maps = <TensorMaps*>calloc(plan.map_count + 1, sizeof(TensorMaps))
    if copy.slots == NULL or copy.maps == NULL:
        raise MemoryError()
    copy.slot_count = plan.slot_count
    memcpy(copy.slots, plan.slots, plan.slot_count * sizeof(uint16_t))
    if plan.buffer_size != 0:
        copy.offsets = <uint16_t*>malloc((plan.slot_count + 2) * sizeof(uint16_t))
        if copy.offsets == NULL:
            raise MemoryError()
        memcpy(copy.offsets, plan.offsets, (plan.slot_count + 2) * sizeof(uint16_t))
        copy.buffer_size = plan.buffer_size
    copy.map_count = plan.map_count
    for i in range(plan.map_count):  # without what was encoded
        copy.maps[i].parameter = plan.maps[i].parameter
        copy.maps[i].place = plan.maps[i].place
        copy.maps[i].size = plan.maps[i].size
    copy.encodings = plan.encodings
    copy.encode = plan.encode
    copy.map_offset = plan.map_offset
    copy.function = plan.function
    copy.hot = state.graph_after
    copy.route_ = plan.route_
    copy.threads = plan.threads
    copy.clusters = plan.clusters
    copy.shared = plan.shared
    copy.attribute_count = plan.attribute_count
    memcpy(copy.attributes, plan.attributes, sizeof(plan.attributes))
    copy.reason = plan.reason
    copy.why_ = plan.why_
    copy.reference = plan.reference
    copy.key = plan.key
    copy.device = plan.device
    copy.function_object = plan.function_object
    copy.before = plan.before
    copy.after = plan.after
    copy.flat_arguments = plan.flat_arguments
    copy.scratch_size = plan.scratch_size
    copy.scratch_align = plan.scratch_align
    copy.scratch = plan.scratch
    copy.exit_hook = plan.exit_hook
    return copy


@cython.final
cdef class NamedArguments:
    def __dealloc__(self):
        free(self.places)


cdef class Kernel:
    """C-level base of lowlat.JITFunction: `kernel[grid]`, `kernel.run`, and the attributes every launch looks at.

    `pre_run_hooks`, `device_caches`, `debug` and `used_global_vals` are Triton's own attributes, kept here so that a
    launch reads them as fields; Triton assigns and reads them as before.
    """

    def __cinit__(self):
        self.used_global_vals_ = {}
        self.globals = ()
        self.bindings = {}
        self.option_names = {}
        self.plans_ = Table.__new__(Table)
        self.strings = Strings.__new__(Strings)
        self.positions = {}
        self.names = ()
        self.described = {}
        self.refusal = PARAMETERS  # until describe_parameters

    def __dealloc__(self):
        if self.values != NULL:
            drop_values(self.values, self.constexpr_count)
        free(self.values)
        free(self.parameters)

    def __getitem__(self, grid):
        """A Launcher; `kernel[grid](*args, **kwargs)` launches, without waiting for the GPU.

        `grid` is a tuple or list of one to three ints, the number of blocks along x, y and z, or a callable that gets
        the bound arguments as a dict and returns one.  It is looked at when the Launcher is called.
        """
        cdef Launcher launcher
        if (<PyTypeObjectFields*>state.kernel_type).tp_version_tag != state.kernel_type_version:
            refresh_state()
        if state.reason == PATCHED:
            patched = state.patched_getitem(self, grid)
            if patched is not None:
                return patched
        launcher = Launcher.__new__(Launcher)
        launcher.vectorcall = <vectorcallfunc>launcher_vectorcall
        launcher.kernel = self
        launcher.grid = grid
        return launcher

    def __setattr__(self, name, value):
        if name == "run":
            self.run_replaced = True
        PyObject_GenericSetAttr(self, name, <PyObject*>value)

    def __delattr__(self, name):
        PyObject_GenericSetAttr(self, name, NULL)
        if name == "run":
            self.run_replaced = False

    @property
    def used_global_vals(self):
        """Triton's record of the module globals the kernel was compiled with."""
        return self.used_global_vals_

    @used_global_vals.setter
    def used_global_vals(self, value):
        self.used_global_vals_ = value
        self.globals = None
        self.has_globals = not isinstance(value, dict) or len(value) > 0

    @property
    def debug(self):
        """Triton's `debug` option of the kernel; part of Triton's key, so a new value starts from nothing."""
        return self.debug_

    @debug.setter
    def debug(self, value):
        self.debug_ = value
        forget(self)

    @property
    def route(self):
        """str or None: how this kernel is launched.

        "driver": by cuLaunchKernelEx where lowlat can pack the parameters, by the wrapper route elsewhere.  "graph":
        the same, but hot plans launch as one-node CUDA graphs wherever nothing but the speed differs.  "auto": by graph
        where that was measured to be faster on the device.  "wrapper": always by Triton's compiled launcher.  None
        (the default): as lowlat.route() or the environment's LOWLAT_ROUTE says, "driver" where neither does.  Setting
        it forgets all plans, and raises ValueError for any other value.
        """
        return self.route_

    @route.setter
    def route(self, value):
        if value not in (None, "auto", "driver", "graph", "wrapper"):
            raise ValueError(f"route is {value!r}, must be 'auto', 'driver', 'graph', 'wrapper' or None")
        self.route_ = value
        self.way = WAY_DRIVER if value == "wrapper" else way_named(value)
        forget(self)

    @property
    def exits(self):
        """dict[str, int]: how often a call went to Triton since the kernel was made, by reason (see lowlat.REASONS).

        A new dict each time, so that two of them can be compared; a reason that never occurred is not in it.
        """
        return {REASON_NAMES[i]: self.exits_[i] for i in range(REASONS) if self.exits_[i]}

    @property
    def plans(self):
        """list[Plan]: the plans learnt so far, one for each kind of call; for people and tests."""
        return list(self.plans_.entries)

    def forget(self):
        """Drop every plan: the next call of each kind goes to Triton and is learnt again.  Triton's own caches stay."""
        forget(self)

    def _describe_parameters(self, list parameters, str refusal, Py_ssize_t positional, Py_ssize_t variadic):
        """Called once, by lowlat.JITFunction: (name, kind, specialize, align, bits, signed, has_default, default) per
        parameter, the reason why the kernel always goes to Triton, or "ok", how many parameters can be given by
        position, and the index of `*args` or -1."""
        cdef Py_ssize_t i
        cdef Parameter* parameter
        kinds = {"plain": KIND_PLAIN, "constexpr": KIND_CONSTEXPR, "int": KIND_INT, "float": KIND_FLOAT,
                 "pointer": KIND_POINTER, "other": KIND_OTHER}
        if self.parameters != NULL:
            raise RuntimeError("a kernel's parameters are described once")
        self.parameters = <Parameter*>calloc(len(parameters) + 1, sizeof(Parameter))
        self.values = <Value*>calloc(len(parameters) + 1, sizeof(Value))
        if self.parameters == NULL or self.values == NULL:
            raise MemoryError()
        self.parameter_count = len(parameters)
        self.names = tuple([entry[0] for entry in parameters])
        self.defaults = tuple([entry[7] for entry in parameters])
        self.positions = {name: i for i, name in enumerate(self.names)}
        self.constexpr_count = 0
        for i, (_, kind, specialize_it, align, bits, signed, has_default, _) in enumerate(parameters):
            parameter = &self.parameters[i]
            parameter.kind = kinds[kind]
            parameter.specialize = specialize_it
            parameter.align = align
            parameter.bits = bits
            parameter.signed = signed
            parameter.default = <PyObject*>PyTuple_GET_ITEM(self.defaults, i) if has_default else NULL
            self.constexpr_count += parameter.kind == KIND_CONSTEXPR
        self.positional = positional
        self.variadic = variadic
        self.refusal = REASON_NAMES.index(refusal)


cdef class Shape:
    """See _fast.pxd."""


@cython.final
cdef class TunerShape(Shape):
    def __dealloc__(self):
        if self.key_values != NULL:
            drop_values(self.key_values, self.key_count)
        free(self.key_values)
        free(self.key_sources)
        free(self.typed_sources)
        free(self.untyped)


@cython.final
cdef class HeuristicShape(Shape):
    def __dealloc__(self):
        free(self.functions)
        free(self.places)


@cython.final
cdef class Choice(Entry):
    """See _fast.pxd."""


@cython.final
cdef class Additions:
    """See _fast.pxd."""


cdef class Outer:
    """C-level base of lowlat.Autotuner and lowlat.Heuristics: `outer[grid]`, `outer.run`, and Triton's attributes that
    every call looks at."""

    def __cinit__(self):
        self.shapes = {}

    cdef PyObject* call(self, PyObject* grid, PyObject* const* args, Py_ssize_t positional, PyObject* const* names,
                        Py_ssize_t keywords, int through) except NULL:
        return leave_outer(self, SUBCLASS, grid, args, positional, names, keywords, through)

    cdef Shape resolve(self, Py_ssize_t positional, tuple names, int through):
        return None

    def __getitem__(self, grid):
        """As `kernel[grid]`; a callable grid gets the arguments that tuner or heuristics add, too."""
        cdef OuterLauncher launcher
        if not outer_types_current():
            refresh_outer()
        if state.outer_reason != OK:
            return state.outer_getitem(self, grid)
        launcher = OuterLauncher.__new__(OuterLauncher)
        launcher.vectorcall = <vectorcallfunc>outer_launcher_vectorcall
        launcher.outer = self
        launcher.grid = grid
        return launcher

    def __setattr__(self, name, value):
        if name == "run":
            self.run_replaced = True
        PyObject_GenericSetAttr(self, name, <PyObject*>value)

    def __delattr__(self, name):
        PyObject_GenericSetAttr(self, name, NULL)
        if name == "run":
            self.run_replaced = False

    @property
    def exits(self):
        """dict[str, int]: how often a call went to Triton, by reason (see lowlat.REASONS).

        What the kernel inside leaves to Triton, it counts itself: `tuner.fn.exits`.
        """
        return {REASON_NAMES[i]: self.exits_[i] for i in range(REASONS) if self.exits_[i]}


cdef object UNSET = object()


cdef class Tuner(Outer):
    """C-level base of lowlat.Autotuner."""

    def __cinit__(self):
        self.best_config_ = UNSET
        self.nargs_ = UNSET
        self.strings = Strings.__new__(Strings)

    def __dealloc__(self):
        free(self.spare)

    cdef PyObject* call(self, PyObject* grid, PyObject* const* args, Py_ssize_t positional, PyObject* const* names,
                        Py_ssize_t keywords, int through) except NULL:
        return launch_tuned(self, grid, args, positional, names, keywords, through)

    cdef Shape resolve(self, Py_ssize_t positional, tuple names, int through):
        return resolve_tuner_shape(self, positional, names, through)

    @property
    def best_config(self):
        """Config: that of the last call.  AttributeError before the first, as in Triton."""
        return self.if_set(self.best_config_, "best_config")

    @best_config.setter
    def best_config(self, value):
        self.best_config_ = value

    @property
    def nargs(self):
        """dict[str, Any] | None: the positional arguments by name while a call lasts, None after one that succeeded.

        Each thread sees its own.  AttributeError before the first call, as in Triton.
        """
        cdef TunedCall* call = current_call(self)
        if call != NULL and call.attributes == NULL:
            return dict(zip(self.arg_names, values_of(call.args, call.positional)))
        if call != NULL and "nargs" in <dict>call.attributes:
            return (<dict>call.attributes)["nargs"]
        return self.if_set(self.nargs_, "nargs")

    @nargs.setter
    def nargs(self, value):
        own = self._own_attributes()
        if own is not None:
            own["nargs"] = value
        self.nargs_ = value

    cdef object if_set(self, value, name):
        if value is UNSET:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return value

    def _own_attributes(self):
        """The attributes that Triton has set during this thread's call, if one is in Triton's hands, else None."""
        cdef TunedCall* call = current_call(self)
        return None if call == NULL or call.attributes == NULL else <dict>call.attributes

    def _in_own_call(self, function, tuple args, dict kwargs):
        """function(*args, **kwargs), during which what Triton sets on the tuner is this thread's own."""
        cdef TunedCall* call = begin_call(self, 0)
        try:
            call.attributes = lowlat_new_reference({})
            return function(*args, **kwargs)
        finally:
            end_call(self, call)


cdef class Heuristic(Outer):
    """C-level base of lowlat.Heuristics."""

    cdef PyObject* call(self, PyObject* grid, PyObject* const* args, Py_ssize_t positional, PyObject* const* names,
                        Py_ssize_t keywords, int through) except NULL:
        return launch_with_heuristics(self, grid, args, positional, names, keywords, through)

    cdef Shape resolve(self, Py_ssize_t positional, tuple names, int through):
        return resolve_heuristic_shape(self, positional, names, through)


def configure(*, watch_state, read_state, patched_getitem, describe, run_with_triton, launch_with_triton,
              warmup_with_triton, finish_with_triton, exit_hook, allocate, kernel_type, constexpr_type, immutable_types,
              triton_dtype_type, wrapper_type, mock_type, kernel_types, descriptor_type, descriptor_fields):
    """Called once by lowlat.jit with everything of Triton's that the hot path needs."""
    state.watch_state = watch_state
    state.read_state = read_state
    state.patched_getitem = patched_getitem
    state.describe = describe
    state.run_with_triton = run_with_triton
    state.launch_with_triton = launch_with_triton
    state.warmup_with_triton = warmup_with_triton
    state.finish_with_triton = finish_with_triton
    state.exit_hook = exit_hook
    state.allocate = allocate
    state.kernel_type = <PyTypeObject*>kernel_type
    lowlat_give_subscript(state.kernel_type, <void*>kernel_subscript)
    state.constexpr_type = constexpr_type
    state.constexpr_class = <PyTypeObject*>constexpr_type
    state.constexpr_index = constexpr_type.__index__
    state.immutable_types = frozenset(immutable_types)
    state.triton_dtype_type = <PyTypeObject*>triton_dtype_type
    state.wrapper_type = <PyTypeObject*>wrapper_type
    state.mock_type = <PyTypeObject*>mock_type
    state.kernel_types = frozenset(kernel_types)
    state.enum_type = type(enum.Enum)
    state.enum_hash = enum.Enum.__hash__
    state.object_eq = object.__eq__
    state.descriptor_type = <PyTypeObject*>descriptor_type
    state.descriptor_fields = descriptor_fields
    state.classes += [kernel_type, triton_dtype_type, wrapper_type, mock_type, descriptor_type]
    state.stale = True


def configure_outer(*, tuner_type, heuristics_type, config_type, read_outer, run_with_triton, getitem):
    """Called once by lowlat.autotune, as `configure`."""
    state.tuner_type = <PyTypeObject*>tuner_type
    state.heuristics_type = <PyTypeObject*>heuristics_type
    state.config_type = <PyTypeObject*>config_type
    state.classes += [tuner_type, heuristics_type, config_type]
    state.read_outer = read_outer
    state.outer_with_triton = run_with_triton
    state.outer_getitem = getitem
    for kind in (tuner_type, heuristics_type):
        lowlat_give_subscript(<PyTypeObject*>kind, <void*>outer_subscript)


def find_driver():
    """Look up the driver's entry points in the process's libcuda.so.1.  Raises OSError naming what is missing."""
    cdef const char* missing = lowlat_driver_find(&driver)
    if missing != NULL:
        raise OSError(f"lowlat cannot launch: there is no {(<bytes>missing).decode()}")


def find_graphs():
    """Look up the driver's graph calls; without them nothing takes the graph route.

    CUDA has started by now, and may have read a CUDA_LAUNCH_BLOCKING that was set after lowlat's import."""
    cdef const char* blocking = getenv(b"CUDA_LAUNCH_BLOCKING")
    if blocking != NULL and strcmp(blocking, b"") != 0 and strcmp(blocking, b"0") != 0:
        state.launch_blocking = True
    global lowlat_graphs_missing
    lowlat_graphs_missing = lowlat_graph_find(&lowlat_graphs)


def set_route(route, after, budget, launch_blocking):
    """The process's own: the route of kernels that have none, launches until a plan gets a graph, graphs in all."""
    state.way = way_named(route)
    state.graph_after = after
    state.launch_blocking = launch_blocking
    global lowlat_graph_budget
    lowlat_graph_budget = budget
    lowlat_graph_trim(budget)


def routes_in_contexts(variable):
    """From now on look up this contextvars.ContextVar, which has WAY_* of `ways`."""
    state.way_variable = variable
    state.ways_in_contexts = True


def way_named(route):
    """WAY_* of a route's name."""
    return WAY_DEFAULT if route is None else {name: number for number, name in WAY_NAMES.items()}[route]


def graph_count():
    """int: graphs alive in this process."""
    return lowlat_graph_count


def drop_graphs():
    """Destroy all graphs that are not being launched at this moment; plans get new ones when they are hot again."""
    cdef lowlat_graph* graph = lowlat_newest_graph
    cdef lowlat_graph* older
    while graph != NULL:
        older = graph.older
        if not graph.busy:
            lowlat_graph_destroy(graph)
        graph = older


def race(device):
    """(nanoseconds by driver, by graph): the medians that route "auto" measured on `device`; None before."""
    if not 0 <= device < LOWLAT_DEVICES or not lowlat_races[device].known:
        return None
    return lowlat_races[device].median[LOWLAT_BY_DRIVER], lowlat_races[device].median[LOWLAT_BY_GRAPH]


def state_changed():
    """Make the next launch read the live state again."""
    state.stale = True


def after_fork():
    """In a forked child: nothing may be launched natively before Triton has launched."""
    lowlat_graphs_forked()
    state.forked = True
    state.stale = True


def current_reason():
    """Why no kernel can be launched natively right now, or "ok"."""
    if not state_current():
        refresh_state()
    return REASON_NAMES[state.reason]


def current_device() -> int:
    """The current device as the hot path reads it."""
    return lowlat_current_device()


def current_stream(int device) -> int:
    """The current stream's handle on `device` as the hot path reads it."""
    cdef void* stream = NULL
    if lowlat_current_stream(device, &stream) != 0:
        raise RuntimeError(f"no current stream on device {device}")
    return <uint64_t>stream


def set_current_readers(*, uint64_t torch_device=0, uint64_t torch_stream=0, uint64_t null_device=0,
                        uint64_t null_stream=0, bint only_device=False):
    """Addresses of the C functions that give the current device and stream: torch's or the null driver's; and whether
    there is but one device to be current."""
    lowlat_current.torch_device = <void*>torch_device
    lowlat_current.torch_stream = <void*>torch_stream
    lowlat_current.null_device = <void*>null_device
    lowlat_current.null_stream = <void*>null_stream
    lowlat_current.only_device = only_device
    state.stale = True


def configure_torch(*, tensor_type, parameter_type, dtype_type, size_type, function_mode_depth, dict dtypes,
                    dict devices, uint64_t function_mode_enabled=0):
    """The classes taken for tensors and for their shapes, and whether a TorchFunctionMode is active."""
    state.classes += [tensor_type, parameter_type, dtype_type, size_type]
    state.torch_dtype_type = <PyTypeObject*>dtype_type
    state.function_mode_depth = function_mode_depth
    state.torch_dtypes = dtypes
    state.torch_devices = devices
    lowlat_torch.function_mode_enabled = <void*>function_mode_enabled
    state.tuner_type_version = NO_VERSION
    state.tensor_type = <PyTypeObject*>tensor_type
    state.parameter_type = <PyTypeObject*>parameter_type
    state.size_type = <PyTypeObject*>size_type


def set_rung(str name, *, Py_ssize_t offset=0, bint maybe_borrowed=False, uint64_t data_ptr=0, uint64_t dtype=0,
             uint64_t device_type=0, uint64_t device_index=0, uint64_t storage_size=0,
             object dlpack=None):
    """How tensors are read: "shim", "dlpack", "python" or "none"."""
    if name == "shim":
        lowlat_torch.offset = offset
        lowlat_torch.maybe_borrowed = maybe_borrowed
        lowlat_torch.data_ptr = <void*>data_ptr
        lowlat_torch.dtype = <void*>dtype
        lowlat_torch.device_type = <void*>device_type
        lowlat_torch.device_index = <void*>device_index
        lowlat_torch.storage_size = <void*>storage_size
        lowlat_torch.rung = LOWLAT_RUNG_SHIM
    elif name == "dlpack":
        lowlat_torch.dlpack = <const lowlat_dlpack_api*>PyCapsule_GetPointer(dlpack, "dlpack_exchange_api")
        if lowlat_torch.dlpack.header.major != 1 or lowlat_torch.dlpack.dltensor_from_py_object == NULL:
            lowlat_torch.rung = LOWLAT_RUNG_NONE
            raise ValueError("this DLPack exchange API cannot describe a tensor without taking hold of it")
        lowlat_torch.rung = LOWLAT_RUNG_DLPACK
    elif name == "python":
        lowlat_torch.rung = LOWLAT_RUNG_PYTHON
    else:
        lowlat_torch.rung = LOWLAT_RUNG_NONE


def set_devices(uint32_t devices):
    """The device types whose tensors are taken, as a mask of 1 << c10::DeviceType."""
    lowlat_torch.devices = devices


def get_devices():
    return lowlat_torch.devices


def set_ranged(bint ranged):
    """Whether fingerprints say if a tensor's storage is within reach of 32-bit offsets, which AMD's backend asks."""
    lowlat_torch.ranged = ranged


def word_at(object holder, Py_ssize_t offset):
    """The pointer-sized word at `offset` in an object, for the self-check of the shim."""
    return (<uint64_t*>(<char*><PyObject*>holder + offset))[0]


def read(tensor):
    """(pointer, dtype code, device type, device index where there are several) of a tensor by the rung in use, or
    None where it cannot be read."""
    cdef lowlat_tensor result
    result.pointer = 0
    result.index = 0
    if lowlat_torch.rung == LOWLAT_RUNG_SHIM:
        if lowlat_shim_read(<PyObject*>tensor, &result):
            return None
    elif not read_tensor(<PyObject*>tensor, &result):
        return None
    return result.pointer, result.dtype, result.device, result.index if result.device == CUDA_DEVICE else 0


def fingerprint_of(Kernel kernel, tuple args, dict kwargs):
    """What the hot path makes of a call `kernel[grid](*args, **kwargs)`, as bytes; for tests of the key.

    Raises KeyError with the reason where the call is Triton's.
    """
    cdef tuple names = tuple(kwargs)
    cdef list values = [*args, *kwargs.values()]
    cdef Py_ssize_t i, positional = len(args), count = kernel.parameter_count
    cdef Binding binding
    cdef int reason
    cdef PyObject* found = find_binding(kernel, positional, tuple_items(<PyObject*>names), len(names),
                                        THROUGH_GETITEM)
    if found == NULL:
        raise KeyError(REASON_NAMES[BINDING])
    binding = <Binding>found
    cdef PyObject** given = <PyObject**>alloca((len(values) + 1) * sizeof(PyObject*))
    cdef PyObject** arguments = <PyObject**>alloca((count + 1) * sizeof(PyObject*))
    cdef uint64_t* fingerprint = <uint64_t*>alloca((binding.words + TAIL_ROOM) * sizeof(uint64_t))
    cdef uint64_t* payload = <uint64_t*>alloca((count + TAIL_ROOM) * sizeof(uint64_t))
    cdef Tail tail
    for i in range(len(values)):
        given[i] = <PyObject*>values[i]
    gather(kernel, binding, given, arguments)
    cdef tuple variadic = None
    if kernel.variadic >= 0:
        variadic = variadic_of(kernel, given, positional)
        arguments[kernel.variadic] = <PyObject*>variadic
    fingerprint[0] = header_of(lowlat_current_device() if state.c_getters else 0)
    fingerprint[1] = binding.option_names
    reason = specialize(kernel, binding, given, arguments, fingerprint, payload, &tail)
    if reason != OK:
        raise KeyError(REASON_NAMES[reason])
    return PyBytes_FromStringAndSize(<const char*>fingerprint, (binding.words + tail.words_used) * sizeof(uint64_t))


def hash_of_fingerprint(bytes fingerprint) -> int:
    """Where a table begins to look for it; for tests of what happens when that is the same for two."""
    return hash_of(<const uint64_t*>PyBytes_AS_STRING(fingerprint), len(fingerprint))


def function_mode_active():
    """Whether the hot path sees a TorchFunctionMode."""
    return function_mode_enabled()


def floor(uint64_t function, list pointers, int zeros, int threads, int shared, uint64_t stream, int count,
          int nodes=0, int changes=0):
    """Nanoseconds per launch of a plain C loop of `count` calls of cuLaunchKernelEx over one block, with `pointers` as
    the first parameters and `zeros` further words of zero: what no launcher can beat with that call.  With `nodes`: of
    a graph of so many, one after the other, each of which is given so many other words behind the pointers every time,
    six words apart.  (On an H100, driver 580, a graph is the dearer to launch the further apart what has changed in a
    node is: not within 16 bytes, by 0.4 us a node from 28 bytes on.)

    Raises RuntimeError, as Triton does, if the driver refuses a launch or the graph, OSError if there is no driver,
    ValueError if there are no words for so many changes.
    """
    if 6 * changes > zeros + 5:
        raise ValueError(f"{changes} changes in {zeros} words; they are six words apart")
    cdef CUlaunchConfig config
    cdef CUkernelNodeParams node
    cdef CUgraph graph = NULL
    cdef CUgraphExec executable = NULL
    cdef int64_t started
    cdef int i, j, k
    cdef CUresult result = 0
    cdef int words = <int>len(pointers) + zeros
    cdef uint64_t* storage = <uint64_t*>calloc(words + 1, sizeof(uint64_t))
    cdef void** parameters = <void**>malloc((words + 1) * sizeof(void*))
    cdef CUgraphNode* places = <CUgraphNode*>calloc(nodes + 1, sizeof(CUgraphNode))
    try:
        if driver.launch == NULL:
            find_driver()
        if storage == NULL or parameters == NULL or places == NULL:
            raise MemoryError()
        for i in range(words):
            parameters[i] = &storage[i]
            if i < len(pointers):
                storage[i] = pointers[i]
        memset(&config, 0, sizeof(config))
        config.grid[0] = config.grid[1] = config.grid[2] = 1
        config.block[0] = threads
        config.block[1] = config.block[2] = 1
        config.shared = shared
        config.stream = <void*>stream
        memset(&node, 0, sizeof(node))
        node.function = <CUfunction>function
        memcpy(node.grid, config.grid, sizeof(node.grid))
        memcpy(node.block, config.block, sizeof(node.block))
        node.shared = shared
        node.parameters = parameters
        if nodes != 0:
            if lowlat_graphs_missing != NULL:
                find_graphs()
            if lowlat_graphs_missing != NULL:
                raise RuntimeError("the driver has no graphs")
            result = lowlat_graphs.create(&graph, 0)
            for j in range(nodes):
                if result == 0:
                    result = lowlat_graphs.add_kernel(&places[j], graph, &places[j - (j > 0)], j > 0, &node)
            if result == 0:
                result = lowlat_graphs.instantiate(&executable, graph, 0)
            if result == 0:
                result = lowlat_graphs.launch(executable, config.stream)  # makes room for it on the device
        with nogil:
            started = lowlat_now()
            for i in range(count if result == 0 else 0):
                for j in range(nodes if changes != 0 else 0):
                    for k in range(changes):
                        storage[words - zeros + 6 * k] = i + j
                    result = lowlat_graphs.set_parameters(executable, places[j], &node)
                    if result != 0:
                        break
                if result == 0:
                    if nodes != 0:
                        result = lowlat_graphs.launch(executable, config.stream)
                    else:
                        result = driver.launch(&config, <CUfunction>function, parameters, NULL)
                if result != 0:
                    break
            started = lowlat_now() - started
        if result != 0:
            raise_driver_error(result)
    finally:
        lowlat_graph_free(executable, graph)
        free(storage)
        free(parameters)
        free(places)
    return <double>started / count / max(nodes, 1)


# ---- C slots ------------------------------------------------------------------------------------------------------

cdef extern from *:
    """
    #define LOWLAT_VECTORCALL_OFFSET offsetof(struct __pyx_obj_6lowlat_5_fast_Launcher, vectorcall)
    #define LOWLAT_OUTER_VECTORCALL_OFFSET offsetof(struct __pyx_obj_6lowlat_5_fast_OuterLauncher, vectorcall)
    """
    Py_ssize_t LOWLAT_VECTORCALL_OFFSET
    Py_ssize_t LOWLAT_OUTER_VECTORCALL_OFFSET

cdef PyMethodDef run_method, warmup_method, outer_run_method
run_method.ml_doc = (b"run($self, /, *args, grid, warmup, **kwargs)\n--\n\n"
                     b"Launch over `grid`, as `kernel[grid](*args, **kwargs)` does; `warmup=True` only compiles.\n\n"
                     b"Returns Triton's CompiledKernel; raises what Triton raises for the same call.")
warmup_method.ml_doc = (b"warmup($self, /, *args, grid, **kwargs)\n--\n\n"
                        b"Compile without a launch.  Instead of tensors, by position, their dtypes will do.\n\n"
                        b"Returns Triton's CompiledKernel; raises what Triton raises for the same call.")
outer_run_method.ml_doc = (b"run($self, /, *args, **kwargs)\n--\n\n"
                           b"Launch, as `outer[grid](*args, **kwargs)` does; wants `grid=` and `warmup=`.\n\n"
                           b"Returns what the kernel inside returns; raises what Triton raises for the same call.")

lowlat_give_vectorcall(<PyTypeObject*>Launcher, LOWLAT_VECTORCALL_OFFSET)
lowlat_give_vectorcall(<PyTypeObject*>OuterLauncher, LOWLAT_OUTER_VECTORCALL_OFFSET)
lowlat_add_method(<PyTypeObject*>Kernel, &run_method, "run", PyCapsule_New(<void*>kernel_run, NULL, NULL))
lowlat_add_method(<PyTypeObject*>Kernel, &warmup_method, "warmup", PyCapsule_New(<void*>kernel_warmup, NULL, NULL))
lowlat_add_method(<PyTypeObject*>Outer, &outer_run_method, "run", PyCapsule_New(<void*>outer_run, NULL, NULL))
