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

    ctypedef void* CUgraph
    ctypedef void* CUgraphNode
    ctypedef void* CUgraphExec

    ctypedef struct CUkernelNodeParams:
        CUfunction function
        uint32_t grid[3]
        uint32_t block[3]
        uint32_t shared
        void** parameters
        void** extra

    ctypedef struct lowlat_driver_api:
        CUresult (*launch)(const CUlaunchConfig*, CUfunction, void**, void**) nogil
        CUresult (*error_string)(CUresult, const char**)
        CUresult (*set_function_attribute)(CUfunction, int, int) nogil
        CUresult (*current_context)(void **) nogil
        CUresult (*parameter_info)(CUfunction, size_t, size_t*, size_t*)


cdef extern from "_graph.h":
    ctypedef struct lowlat_graph:
        lowlat_graph* next
        lowlat_graph* older
        void* context
        int busy

    ctypedef struct lowlat_repeat:
        pass

    ctypedef struct lowlat_repeats:
        lowlat_graph* graphs

    ctypedef struct lowlat_step:
        void* owner
        CUgraphNode node
        CUkernelNodeParams given
        bint stale
        CUstream stream
        bint reached, empty
        uint8_t* bytes
        void** parameters
        uint16_t* offsets
        size_t size


cdef extern from "_python.h":
    ctypedef struct lowlat_stamp:
        pass


cdef enum:
    MAX_REASONS = 40
    SUBMISSIONS = 13
    DESCRIPTOR_WORDS = 13
    TENSOR_MAP_BYTES = 128


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


# What does not fit into a byte and a word per argument, behind the fixed parts of a fingerprint and of a payload.
cdef struct Tail:
    uint64_t* words
    uint64_t* payload
    Py_ssize_t words_used
    Py_ssize_t payload_used, payload_room


# A tensor map (CUtensorMap) and what of a descriptor it was encoded from, as the payload has it.
cdef struct TensorMap:
    bint known
    uint64_t key[DESCRIPTOR_WORDS]
    uint8_t bytes[TENSOR_MAP_BYTES]


# The tensor maps of one descriptor parameter of a plan: a hash table by value, which holds no tensor.
cdef struct TensorMaps:
    Py_ssize_t parameter      # of the kernel
    Py_ssize_t place          # in the payload
    Py_ssize_t size           # of a key, in bytes
    Py_ssize_t last           # the entry used last
    Py_ssize_t count, capacity
    TensorMap* entries


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

    cdef int through              # which door
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
    cdef lowlat_stamp stamp  # of the namespace and of the constexpr in it, when both were as they were seen
    cdef PyObject* seen     # the object found equal to it; only compared, never followed
    cdef object attributes  # a constexpr's __dict__, else None
    cdef PyObject* value    # the constexpr's value when it was found equal
    cdef bint immutable     # whether identity proves equality


cdef class Entry:
    """What a Table has under one fingerprint: a Plan or a Choice."""

    cdef const uint64_t* words  # the fingerprint, as held below
    cdef int size               # in bytes
    cdef bint used              # found again since it was learnt, or since it was last passed over for eviction
    cdef bytes fingerprint


cdef struct Slot:
    uint32_t hash
    uint32_t number  # index into `entries`, plus 1; 0: empty


@cython.final
cdef class Table:
    """At most MAX_PLANS entries by fingerprint, open addressing.  When it is full, one that was not found again for
    longest, or nearly so, makes room (second chance)."""

    cdef PyObject* last         # found last; borrowed from `entries`
    cdef PyObject* second       # and before that
    cdef list entries           # as they were learnt, later ones in the places of evicted ones
    cdef Slot* slots
    cdef uint32_t mask          # number of slots, a power of two, minus 1
    cdef Py_ssize_t hand        # where in `entries` the next eviction begins
    cdef uint64_t cleared       # so often; what was in it then is not to be used any more


@cython.final
cdef class Strings:
    """Numbers for the strings in fingerprints: equal strings have equal numbers, and none is given twice.  Strings not
    seen for long are forgotten, and have another number then."""

    cdef dict recent, older
    cdef uint64_t count


@cython.final
cdef class Plan(Entry):
    """How to launch one CompiledKernel: everything about it that Triton would look up again."""

    cdef PyObject* compiled   # the CompiledKernel, borrowed from Triton's cache while `stamp` is current
    cdef lowlat_stamp stamp
    cdef CUfunction function
    cdef int route_
    cdef uint32_t threads, clusters, shared
    cdef uint32_t attribute_count
    cdef Py_ssize_t slot_count
    cdef uint16_t* slots      # per kernel parameter: index of the argument it is
    cdef uint16_t* offsets    # per kernel parameter, the two scratch pointers last: where the kernel reads it
    cdef size_t buffer_size   # of all that; 0: not known, or tensor maps are among them
    cdef CUlaunchAttribute attributes[4]
    cdef Py_ssize_t map_count
    cdef TensorMaps* maps
    cdef tuple encodings      # per tensor map: what Triton's encoder takes besides the descriptor's contents
    cdef object encode        # that encoder
    cdef Py_ssize_t map_offset  # of the bytes in the object it returns
    cdef int way              # in which its launches are to be submitted, WAY_*
    cdef uint32_t heat        # launches since it last had, or lost, a graph
    cdef uint32_t hot         # and how many it takes to get one
    cdef lowlat_graph* graphs_  # one per stream, for any parameters
    cdef lowlat_repeats* repeats  # and more, for parameters that come again and again; NULL: none were others yet
    cdef uint64_t submitted_[SUBMISSIONS]
    cdef int reason           # of a plan that says "Triton": why
    cdef str why_             # it does not take the driver route
    cdef tuple keepalive      # objects whose addresses the fingerprint holds
    cdef object reference     # weak, to the CompiledKernel: Triton decides how long it lives
    cdef object key           # its key in Triton's kernel cache
    cdef object device
    cdef uint64_t generation  # of the live state it was made in, while it is in `described`
    # How Triton launches it: function(*before, grid, stream, handle, *after, arguments).
    cdef object function_object
    cdef tuple before, after
    cdef bint flat_arguments  # the arguments follow one by one, not as a tuple
    cdef object scratch_size  # bytes of scratch memory per block of the grid, an int; None: it needs none
    cdef object scratch_align
    cdef Py_ssize_t scratch   # where among `after` that memory belongs
    cdef Py_ssize_t exit_hook  # where among `after` the exit hook belongs, which HIP calls at any rate; or -1

    cdef int add_attribute(self, uint32_t number, int32_t value) except -1


cdef struct Watched:
    int source                # in the call's values; -1: the parameter's default
    int parameter
    int word                  # of the step; -1: it is part of the kernel
    uint8_t tag               # of the fingerprint
    bint noted                # among the others
    int other                 # of the n-th: the n-th of the others


@cython.final
cdef class Call:
    cdef object target, grid
    cdef list values
    cdef tuple names  # of the last of `values`
    cdef int through
    cdef object place  # (device, stream) where it was recorded
    cdef bint by_triton  # Triton's Autotuner or Heuristics made it, and may have more to do before
    # What it came to in `graph`, while its arguments can be looked at one by one from there; or None.
    cdef Plan plan
    cdef void* graph          # borrowed, never followed
    cdef uint64_t cleared     # the kernel's table of plans, by then
    cdef Watched* watched     # arguments that are not part of the kernel, tensors first
    cdef Py_ssize_t watched_count, tensor_count
    cdef Py_ssize_t other_count  # no tensors, and not what they were the last time
    cdef bint grid_is_known   # nothing but the numbers that the node has: a tuple of ints, as when it came to them
    cdef uint16_t* places     # of each of `values`: where it is watched, from 1; 0: it is part of the kernel


cdef struct Place:
    PyObject* call            # borrowed from `held`
    Py_ssize_t index


@cython.final
cdef class Places:
    cdef list held
    cdef Place* places
    cdef Py_ssize_t count

    cpdef object get(self)
    cpdef int set(self, value) except -1


cdef struct Seen:
    PyObject* tensor          # one of a call's values, borrowed
    uint64_t look             # at which it was read
    uint64_t word
    uint8_t tag               # that of a tensor that is not aligned


cdef enum:
    SEEN_BITS = 6


@cython.final
cdef class Recording:
    cdef list calls  # of the sequence; None once it has ended


cdef class Replayer:
    """What lowlat.Sequence is at a replay; what it is while it records is in lowlat/sequence.py."""

    cdef readonly tuple _names         # that record() was given
    cdef public dict _places           # by name: Places
    cdef public set _one_value         # names that are known to stand for one
    cdef public dict _overlaps         # by name: those that may stand for several once it has got another value
    cdef readonly list _calls
    cdef public SequenceGraph _graph   # None: nothing has been recorded
    cdef object acquire, release       # of the lock that a replay holds
    cdef bint replaying
    cdef uint64_t as_graph             # so many replays
    cdef dict one_by_one               # and so many, by the reason

    cdef int replay_alone(self, tuple values, dict named) except -1
    cdef int give(self, name, value, list before) except -1
    cdef int launch(self, SequenceGraph graph) except -1


@cython.final
cdef class SequenceGraph:
    cdef list calls
    cdef Py_ssize_t count
    cdef lowlat_step* steps  # one per call
    cdef list compiled       # of each: its node's CompiledKernel, which Triton 3.8 and later unload when it goes
    cdef void* context
    cdef void* stream_
    cdef CUgraph graph       # kept: the steps' nodes are its
    cdef CUgraphExec exec_
    cdef CUgraphNode last
    cdef Plan reached        # by the call that came to its launch last
    cdef Py_ssize_t patched
    cdef bint launched       # at least once: the driver has made room for it on the device
    cdef int forks           # lowlat_forks of the process that made it
    # What is looked at once for all calls, until other code runs; with it a new look begins.
    cdef uint64_t look
    cdef bint looked         # all but the tensors
    cdef int device
    cdef void* current_stream
    cdef Seen seen[1 << SEEN_BITS]

    cdef object replay(self)
    cdef object obstacle(self, void* stream, bint to_launch)
    cdef int go(self) except -1
    cdef int come_to_launch(self, Call call, lowlat_step* step) except -1
    cdef int watch(self, Call call, lowlat_step* step, Plan plan) except -1
    cdef bint resume(self, Call call, lowlat_step* step) except -1
    cdef bint look_around(self) except -1


@cython.final
cdef class NamedArguments:
    """Dicts that name the arguments of a call, for those who get one with each call: grid callables, heuristics."""

    cdef tuple names
    cdef Py_ssize_t count
    cdef dict template       # of these names
    cdef bint places_known   # where in a copy of `template` its values are, see lowlat_value_places
    cdef int32_t* places
    cdef dict spare          # such a copy, used before and since then nobody's, with the numbers and strings it had


cdef class Kernel:
    # What every launch reads comes first, so that it shares few cache lines.
    cdef int refusal            # a reason for which this kernel always goes to Triton, or 0
    cdef bint run_replaced      # somebody set `run` on the instance
    cdef bint has_globals       # the kernel was compiled with module globals
    cdef Parameter* parameters
    cdef Value* values          # per constexpr parameter
    cdef Py_ssize_t parameter_count
    cdef Py_ssize_t constexpr_count
    cdef Py_ssize_t variadic    # index of the parameter `*args`, or -1
    cdef Binding binding        # of the last call through __getitem__
    cdef Binding run_binding    # of the last call through run
    cdef Binding warmup_binding
    cdef Table plans_
    cdef tuple globals          # of Global; None: to be made from used_global_vals
    cdef public object device_caches
    cdef public object pre_run_hooks
    cdef Strings strings        # of constexprs and options
    cdef dict described         # address of a CompiledKernel -> a plan of it, which knows whether it still is that one
    cdef tuple names
    cdef tuple defaults
    cdef Py_ssize_t positional  # how many parameters can be given by position
    cdef dict positions         # parameter name -> index
    cdef NamedArguments bound   # for grid callables; None before the first
    cdef dict bindings
    cdef dict option_names
    cdef object route_
    cdef int way                # WAY_*, as `route` says
    cdef object debug_
    cdef object used_global_vals_
    cdef uint64_t exits_[MAX_REASONS]


cdef class Outer:
    """What stands around a kernel, or around another of its kind: a tuner or heuristics."""

    cdef bint run_replaced       # somebody set `run` on the instance
    cdef public object fn        # Triton's attributes, kept here so that a launch reads them as fields
    cdef public object arg_names
    cdef tuple arg_names_seen    # as of the last call: what everything below was resolved with
    cdef Shape shape             # of the last call
    cdef dict shapes
    cdef uint64_t exits_[MAX_REASONS]

    cdef PyObject* call(self, PyObject* grid, PyObject* const* args, Py_ssize_t positional, PyObject* const* names,
                        Py_ssize_t keywords, int through) except NULL
    cdef Shape resolve(self, Py_ssize_t positional, tuple names, int through)


cdef class Shape:
    """One shape of call (so many positional arguments, these keyword names, this door), resolved once."""

    cdef int through
    cdef int refusal              # why such calls go to Triton, or OK
    cdef Py_ssize_t positional
    cdef Py_ssize_t keywords
    cdef tuple names
    cdef PyObject** name_items


@cython.final
cdef class OuterLauncher:
    cdef vectorcallfunc vectorcall
    cdef Outer outer
    cdef object grid


# A call in flight of a tuner.  Triton keeps its arguments on the tuner, where hooks look for them.  Not on the C stack,
# which a greenlet takes away with it; what it points to is the caller's, who lasts as long as the call.
cdef struct TunedCall:
    TunedCall* previous          # of this or another thread
    void* thread
    PyObject* attributes         # of a call in Triton's hands, a dict: what Triton has set on the tuner during it
    Py_ssize_t capacity
    Py_ssize_t positional        # of a native call
    PyObject* args[1]


cdef class Tuner(Outer):
    cdef public object configs
    cdef public object keys
    cdef public object cache
    cdef tuple keys_seen
    cdef object best_config_     # UNSET before the first call, as nargs_
    cdef object nargs_
    cdef Strings strings         # of keys
    cdef TunedCall* calls        # in flight, the latest first
    cdef TunedCall* spare

    cdef object if_set(self, value, name)


@cython.final
cdef class TunerShape(Shape):
    cdef Py_ssize_t key_count
    cdef Value* key_values
    cdef int16_t* key_sources     # per name in the tuner's `keys` that such a call has: index into its arguments
    cdef Py_ssize_t typed_count
    cdef int16_t* typed_sources   # the arguments whose dtype is part of the key if they have one, in Triton's order
    cdef PyTypeObject** untyped   # per such argument: the type without dtype it had last, to be told by at a glance
    cdef Py_ssize_t words         # 64-bit words of the fingerprint of a key
    cdef Choice only
    cdef Table choices


@cython.final
cdef class Choice(Entry):
    """What the tuner's cache says for one key, and what that Config adds to a call of one shape."""

    cdef lowlat_stamp stamp       # of the tuner's cache
    cdef PyObject* config         # borrowed from that cache while `stamp` is current
    cdef Additions additions
    cdef tuple key                # as Triton makes it


@cython.final
cdef class Additions:
    """What one Config adds to calls of one shape, as of when it was last looked at."""

    cdef int refusal
    cdef Py_ssize_t count
    cdef PyObject** value_items
    cdef PyObject** name_items    # of `names`
    cdef lowlat_stamp stamp       # of the two dicts
    cdef tuple values
    cdef tuple names              # those of the call and then those of the Config
    cdef dict attributes          # the Config's __dict__
    cdef dict kwargs              # and its `kwargs`
    cdef tuple attributes_seen, kwargs_seen  # name, value, name, value, ...


cdef class Heuristic(Outer):
    cdef public object values


@cython.final
cdef class HeuristicShape(Shape):
    cdef Py_ssize_t count         # of heuristics
    cdef tuple heuristics         # their names
    cdef PyObject** functions     # borrowed from `values` while `stamp` is current
    cdef lowlat_stamp stamp
    cdef int16_t* places          # where each one's value goes among the keyword arguments
    cdef Py_ssize_t keywords_after
    cdef tuple names_after        # names of the keyword arguments, then of the heuristics that are not among them
    cdef tuple bound              # NamedArguments for each heuristic: the call's, and the values of those before it


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
    cdef tuple variables         # environment variables that Triton reads at every launch, or None
    cdef PyTypeObject* tensor_type
    cdef PyTypeObject* parameter_type
    cdef PyTypeObject* size_type
    cdef int way                 # WAY_* of kernels that have none of their own
    cdef int recorders           # threads that record or replay a sequence
    cdef bint ways_in_contexts   # whether lowlat.route() has ever been used
    cdef bint forked
    cdef bint launch_blocking    # CUDA_LAUNCH_BLOCKING, as the driver read it
    cdef uint32_t graph_after    # launches until a plan gets a graph
    cdef object way_variable
    cdef object not_recordable, changed, outer_module
    cdef uint64_t generation     # counts refreshes
    cdef uint64_t tickets        # and those begun
    cdef object get_device, get_stream
    cdef tuple variable_values
    cdef dict environments
    # Set once by configure().
    cdef object watch_state, read_state, patched_getitem
    cdef object describe, run_with_triton, launch_with_triton, warmup_with_triton, finish_with_triton
    cdef object exit_hook, allocate
    cdef object constexpr_type, constexpr_index
    cdef frozenset immutable_types
    cdef tuple numpy_integers    # types; None before numpy is seen
    cdef PyTypeObject* triton_dtype_type
    cdef PyTypeObject* constexpr_class
    cdef PyTypeObject* wrapper_type
    cdef PyTypeObject* mock_type
    cdef PyTypeObject* plain_tensor
    cdef unsigned int plain_tensor_version
    cdef frozenset kernel_types
    cdef object enum_type, enum_hash, object_eq
    cdef PyTypeObject* descriptor_type
    cdef unsigned int plain_descriptor_version  # of that class when it was last found to be as Triton made it
    cdef tuple descriptor_fields
    # Set once by configure_torch().
    cdef PyTypeObject* torch_dtype_type
    cdef object function_mode_depth
    cdef dict torch_dtypes, torch_devices
    cdef list classes            # keeps the classes above alive
    # Of tuners and heuristics, set once by configure_outer().
    cdef int outer_reason
    cdef PyTypeObject* tuner_type
    cdef PyTypeObject* heuristics_type
    cdef PyTypeObject* config_type
    cdef unsigned int tuner_type_version, heuristics_type_version, config_type_version, tensor_type_version
    cdef unsigned int parameter_type_version
    cdef object read_outer, outer_with_triton, outer_getitem
