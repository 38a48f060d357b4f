"""Shapes of the hot path: what a kernel, a launcher, a plan and the live state hold."""

cimport cython
from cpython.object cimport PyObject, PyTypeObject
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t


cdef extern from "_driver.h":
    ctypedef int CUresult
    ctypedef void* CUfunction
    ctypedef void* CUstream

    ctypedef union lowlat_attribute_value:
        int32_t integer
        uint32_t cluster[3]

    ctypedef struct CUlaunchAttribute:
        uint32_t id
        lowlat_attribute_value value

    ctypedef struct CUlaunchConfig:
        uint32_t grid[3]
        uint32_t block[3]
        uint32_t shared
        CUstream stream
        CUlaunchAttribute* attributes
        uint32_t attribute_count

    ctypedef struct lowlat_driver_api:
        CUresult (*launch)(const CUlaunchConfig*, CUfunction, void**, void**) nogil
        CUresult (*error_string)(CUresult, const char**)
        CUresult (*set_function_attribute)(CUfunction, int, int) nogil
        CUresult (*current_context)(void **) nogil


cdef extern from "_python.h":
    ctypedef struct lowlat_stamp:
        pass


cdef enum:
    MAX_REASONS = 40


cdef struct Parameter:
    uint8_t kind        # which handler: KIND_*
    uint8_t specialize  # whether the value 1 and alignment are specialised on
    uint8_t align       # whether divisibility by 16 is
    uint8_t bits        # of an annotated number
    uint8_t signed
    PyObject* default   # borrowed from Kernel.defaults; NULL: the argument is required


# The last constexpr or option seen in one place: an exact immutable object, held, with its part of the fingerprint.
# The same object again has the same value; another one is looked at.
cdef struct Value:
    PyObject* object
    uint64_t word
    uint8_t tag


cdef extern from "Python.h":
    ctypedef PyObject* (*vectorcallfunc)(PyObject*, PyObject* const*, size_t, PyObject*)


@cython.final
cdef class Launcher:
    cdef vectorcallfunc vectorcall
    cdef Kernel kernel
    cdef object grid


@cython.final
cdef class Binding:
    """How one shape of call (so many positional arguments, these keyword names) meets the parameters."""

    cdef Py_ssize_t positional
    cdef Py_ssize_t keywords
    cdef tuple names              # the keyword names, held so that their pointers stay theirs
    cdef PyObject** name_items    # names' own array
    cdef int16_t* sources         # per parameter: index into the call's arguments, -1 for the default
    cdef bint straight            # sources are 0, 1, 2, ...: the call's array can be read as it is
    cdef Py_ssize_t options
    cdef Value* option_values
    cdef int16_t* option_sources  # per launch option: index into the call's arguments
    cdef uint64_t option_names    # which names, in which order: part of the fingerprint
    cdef int grid_source          # through `run`: where the grid is, else -1
    cdef int warmup_source
    cdef Py_ssize_t words         # 64-bit words of a fingerprint of such a call


@cython.final
cdef class Global:
    """A module global the kernel was compiled with, as it was when last compared."""

    cdef dict namespace
    cdef object name
    cdef object recorded    # Triton's deep copy
    cdef PyObject* seen     # the object found equal to it; only compared, never followed
    cdef object attributes  # a constexpr's __dict__, else None
    cdef PyObject* value    # the constexpr's value when it was found equal
    cdef bint immutable     # whether identity proves equality


@cython.final
cdef class Plan:
    """How to launch one CompiledKernel: everything about it that Triton would look up again."""

    cdef const uint64_t* words  # the fingerprint, as held below
    cdef Py_ssize_t size      # in bytes
    cdef PyObject* compiled   # the CompiledKernel, borrowed from Triton's cache while `stamp` is current
    cdef lowlat_stamp stamp
    cdef CUfunction function
    cdef int route_
    cdef uint32_t threads, clusters, shared
    cdef uint32_t attribute_count
    cdef Py_ssize_t slot_count
    cdef uint16_t* slots      # per kernel parameter: index of the argument it is
    cdef CUlaunchAttribute attributes[4]
    cdef int reason           # of a plan that says "Triton": why
    cdef bytes fingerprint
    cdef tuple keepalive      # objects whose addresses the fingerprint holds
    cdef object reference     # weak, to the CompiledKernel: Triton decides how long it lives
    cdef object key           # its key in Triton's kernel cache
    cdef object device
    cdef object launcher      # Triton's launcher object
    cdef object launch        # its compiled launch function
    cdef bint flat_arguments  # Triton 3.6: arguments follow one by one
    cdef object packed_metadata
    cdef object annotations
    cdef object signature
    cdef object cooperative, pdl

    cdef int add_attribute(self, uint32_t number, int32_t value) except -1


cdef class Kernel:
    # What every launch reads comes first, so that it shares few cache lines.
    cdef int refusal            # a reason for which this kernel always goes to Triton, or 0
    cdef bint run_replaced      # somebody set `run` on the instance
    cdef bint has_globals       # the kernel was compiled with module globals
    cdef Parameter* parameters
    cdef Value* values          # per constexpr parameter
    cdef Py_ssize_t parameter_count
    cdef Py_ssize_t constexpr_count
    cdef Binding binding        # of the last call through __getitem__
    cdef Binding run_binding    # of the last call through run
    cdef Plan last
    cdef tuple globals          # of Global; None: to be made from used_global_vals
    cdef public object device_caches
    cdef public object pre_run_hooks
    cdef Plan second
    cdef dict plans_            # fingerprint -> Plan
    cdef dict strings           # constexpr strings, each equal one mapped to the same object
    cdef tuple names
    cdef tuple defaults
    cdef dict positions         # parameter name -> index
    cdef dict template          # parameter name -> None, for grid callables
    cdef dict bindings
    cdef dict option_names
    cdef object route_
    cdef object debug_
    cdef object used_global_vals_
    cdef uint64_t exits_[MAX_REASONS]


@cython.final
cdef class State:
    """What all kernels share: read by lowlat/_triton.py, valid until one of the watched things changes."""

    # What every launch reads comes first, in two cache lines.
    cdef int reason
    cdef bint stale
    cdef bint c_getters          # device and stream are read by C functions, not by Python getters
    cdef unsigned int kernel_type_version
    cdef PyTypeObject* kernel_type
    cdef uint64_t environment    # number of the current combination of knobs that Triton keys on
    cdef bytes variable          # an environment variable that Triton 3.9 reads at every launch
    cdef PyTypeObject* tensor_type
    cdef PyTypeObject* parameter_type
    cdef bint forked
    cdef uint64_t generation     # counts refreshes
    cdef uint64_t tickets        # and those begun
    cdef object get_device, get_stream
    cdef bytes variable_value
    cdef dict environments
    # Set once by configure().
    cdef object watch_state, read_state, patched_getitem
    cdef object describe, run_with_triton, launch_with_triton, finish_with_triton
    cdef object constexpr_type
    cdef frozenset immutable_types
    cdef PyTypeObject* triton_dtype_type
    # Set once by configure_torch().
    cdef PyTypeObject* torch_dtype_type
    cdef object function_mode_depth
    cdef dict torch_dtypes, torch_devices
    cdef list classes            # keeps the classes above alive
