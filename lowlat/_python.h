/* What Cython cannot say about CPython, per version (3.10 to 3.14).
 *
 * - reading a small int without a call;
 * - noticing that a dict, a type or a list has changed without reading it;
 * - giving an extension type a vectorcall slot, and a type a fast method.
 */
#ifndef LOWLAT_PYTHON_H
#define LOWLAT_PYTHON_H

#include <Python.h>
#include <alloca.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* ---- ints ---------------------------------------------------------------- */

/* Whether exact int `number` fits one digit; then `*value` is it. */
static inline int lowlat_compact_int(PyObject *number, int64_t *value)
{
#if PY_VERSION_HEX >= 0x030C0000
    if (!PyUnstable_Long_IsCompact((PyLongObject *)number))
        return 0;
    *value = PyUnstable_Long_CompactValue((PyLongObject *)number);
    return 1;
#else
    Py_ssize_t size = Py_SIZE(number);
    if (size < -1 || size > 1)
        return 0;
    *value = (int64_t)size * (int64_t)((PyLongObject *)number)->ob_digit[0];
    return 1;
#endif
}

/* ---- noticing change ------------------------------------------------------- */

/* Triton reads about ten knobs, hooks and getters on every launch.  They live
 * in a handful of dicts, types and lists that hardly ever change, so lowlat
 * reads them once and then asks only whether one of those has been written to:
 *
 *   a dict  by its version tag up to CPython 3.11; from 3.12 on, where the tag
 *           is deprecated, by a dict watcher that counts changes.  If no
 *           watcher can be had (CPython has eight), the answer is always
 *           "changed", which is slow and still right;
 *   a type  by its version tag, which goes when it or a base is written to
 *           (a patched method, say), or by a type watcher in the same way;
 *   a list  by its length.
 *
 * All of these are words in memory, so the question is one loop of loads. */
#define LOWLAT_WORDS_MAX 32

typedef struct {
    const uint64_t *place;
    uint64_t value;
} lowlat_word;

static struct {
    int count;
    lowlat_word words[LOWLAT_WORDS_MAX];
    PyObject *held; /* a tuple that keeps the places alive */
} lowlat_watched __attribute__((aligned(64)));

static inline int lowlat_watched_current(void)
{
    uint64_t difference = 0;
    for (int i = 0; i < lowlat_watched.count; ++i)
        difference |= *lowlat_watched.words[i].place ^ lowlat_watched.words[i].value;
    return difference == 0 && lowlat_watched.count > 0;
}

#if PY_VERSION_HEX >= 0x030C0000

static uint64_t lowlat_state_changes, lowlat_cache_changes, lowlat_copy_changes;
static int lowlat_state_watcher = -1, lowlat_cache_watcher = -1, lowlat_copy_watcher = -1, lowlat_type_watcher = -1;

static int lowlat_type_changed(PyTypeObject *type)
{
    (void)type;
    ++lowlat_state_changes;
    return 0;
}

static int lowlat_state_changed(PyDict_WatchEvent event, PyObject *dict, PyObject *key, PyObject *value)
{
    (void)event, (void)dict, (void)key, (void)value;
    ++lowlat_state_changes;
    return 0;
}

static int lowlat_cache_changed(PyDict_WatchEvent event, PyObject *dict, PyObject *key, PyObject *value)
{
    (void)event, (void)dict, (void)key, (void)value;
    ++lowlat_cache_changes;
    return 0;
}

static int lowlat_copy_changed(PyDict_WatchEvent event, PyObject *dict, PyObject *key, PyObject *value)
{
    (void)dict, (void)key, (void)value;
    lowlat_copy_changes += event != PyDict_EVENT_DEALLOCATED;
    return 0;
}

/* The watcher's number, or -1 with an exception set when there is none left. */
static int lowlat_watcher(int *watcher, PyDict_WatchCallback callback)
{
    if (*watcher < 0)
        *watcher = PyDict_AddWatcher(callback);
    return *watcher;
}

#else

static inline const uint64_t *lowlat_dict_version(PyObject *dict)
{
    return &((PyDictObject *)dict)->ma_version_tag;
}

#endif

/* The words to watch, gathered without being in force yet: reading the state
 * comes between, and a change in that time must be seen. */
typedef struct {
    lowlat_word words[LOWLAT_WORDS_MAX];
    int count;
    int always_changed;
} lowlat_words;

static int lowlat_add_word(lowlat_words *words, const uint64_t *place)
{
    if (words->count == LOWLAT_WORDS_MAX) {
        PyErr_Format(PyExc_ValueError, "more than %d dicts, types and lists to watch", LOWLAT_WORDS_MAX);
        return -1;
    }
    words->words[words->count].place = place;
    words->words[words->count++].value = *place;
    return 0;
}

#if PY_VERSION_HEX >= 0x030C0000

/* Dicts and types share the word that their watchers count in. */
static int lowlat_add_counter(lowlat_words *words)
{
    for (int i = 0; i < words->count; ++i)
        if (words->words[i].place == &lowlat_state_changes)
            return 0;
    return lowlat_add_word(words, &lowlat_state_changes);
}

/* No watcher is left: the exception says so, and nothing counts as current. */
static int lowlat_cannot_watch(lowlat_words *words)
{
    PyErr_WriteUnraisable(NULL);
    words->always_changed = 1;
    return 0;
}

#endif

static int lowlat_watch_dict(lowlat_words *words, PyObject *dict)
{
    if (!PyDict_Check(dict)) {
        PyErr_Format(PyExc_TypeError, "watched %R is not a dict", dict);
        return -1;
    }
#if PY_VERSION_HEX >= 0x030C0000
    if (lowlat_watcher(&lowlat_state_watcher, lowlat_state_changed) < 0)
        return lowlat_cannot_watch(words);
    if (PyDict_Watch(lowlat_state_watcher, dict) < 0)
        return -1;
    return lowlat_add_counter(words);
#else
    return lowlat_add_word(words, lowlat_dict_version(dict));
#endif
}

static int lowlat_watch_type(lowlat_words *words, PyTypeObject *type)
{
    /* A look-up gives the type a version tag, and arms its watcher. */
    if (PyObject_HasAttrString((PyObject *)type, "run") < 0)
        return -1;
#if PY_VERSION_HEX >= 0x030C0000
    if (lowlat_type_watcher < 0)
        lowlat_type_watcher = PyType_AddWatcher(lowlat_type_changed);
    if (lowlat_type_watcher < 0)
        return lowlat_cannot_watch(words);
    if (PyType_Watch(lowlat_type_watcher, (PyObject *)type) < 0)
        return -1;
    return lowlat_add_counter(words);
#else
    /* The tag is 32 bits of a word whose other half is padding before a
     * pointer.  Types that have none read as changed each time. */
    _Static_assert(offsetof(PyTypeObject, tp_finalize) == offsetof(PyTypeObject, tp_version_tag) + 8,
                   "tp_version_tag has a word of its own");
    if (type->tp_version_tag == 0)
        words->always_changed = 1;
    return lowlat_add_word(words, (const uint64_t *)(const void *)&type->tp_version_tag);
#endif
}

static int lowlat_watch_list(lowlat_words *words, PyObject *list)
{
    if (!PyList_Check(list)) {
        PyErr_Format(PyExc_TypeError, "watched %R is not a list", list);
        return -1;
    }
    return lowlat_add_word(words, (const uint64_t *)(const void *)&((PyVarObject *)list)->ob_size);
}

#if PY_VERSION_HEX >= 0x030C0000

static int lowlat_is_in(PyObject *sequence, PyObject *item)
{
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(sequence); ++i)
        if (PySequence_Fast_GET_ITEM(sequence, i) == item)
            return 1;
    return 0;
}

/* What is no longer part of the state may change, or be collected, unseen. */
static int lowlat_unwatch(PyObject *old, PyObject *held)
{
    PyObject *dicts = PyTuple_GET_ITEM(old, 0), *types = PyTuple_GET_ITEM(old, 1);
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(dicts); ++i) {
        PyObject *dict = PySequence_Fast_GET_ITEM(dicts, i);
        if (!lowlat_is_in(PyTuple_GET_ITEM(held, 0), dict) && PyDict_Unwatch(lowlat_state_watcher, dict) < 0)
            return -1;
    }
    for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(types); ++i) {
        PyObject *type = PySequence_Fast_GET_ITEM(types, i);
        if (!lowlat_is_in(PyTuple_GET_ITEM(held, 1), type) && PyType_Unwatch(lowlat_type_watcher, type) < 0)
            return -1;
    }
    return 0;
}

#endif

/* Puts the gathered words in force; `held`, the dicts, types and lists that they are part of, is kept alive. */
static int lowlat_watch(const lowlat_words *words, PyObject *held)
{
    PyObject *old = lowlat_watched.held;
    int result = 0;
#if PY_VERSION_HEX >= 0x030C0000
    if (old != NULL && !words->always_changed)
        result = lowlat_unwatch(old, held);
#endif
    memcpy(lowlat_watched.words, words->words, sizeof words->words);
    lowlat_watched.count = words->always_changed ? 0 : words->count;
    lowlat_watched.held = Py_NewRef(held);
    Py_XDECREF(old);
    return result;
}

/* Whether a kernel cache (`inner`, found in `outer`) has been written to since
 * it was stamped.  `outer` is held by who asks; as long as it is unchanged it
 * holds `inner`. */
typedef struct {
    PyObject *outer;
    uint64_t outer_version;
    const uint64_t *inner;
    uint64_t inner_version;
} lowlat_stamp;

static inline int lowlat_stamp_current(const lowlat_stamp *stamp, PyObject *outer)
{
#if PY_VERSION_HEX >= 0x030C0000
    return stamp->outer == outer && stamp->outer_version == lowlat_cache_changes;
#else
    return stamp->outer == outer && stamp->outer_version == *lowlat_dict_version(outer) &&
           stamp->inner_version == *stamp->inner;
#endif
}

static int lowlat_set_stamp(lowlat_stamp *stamp, PyObject *outer, PyObject *inner)
{
    stamp->outer = NULL;
#if PY_VERSION_HEX >= 0x030C0000
    if (lowlat_watcher(&lowlat_cache_watcher, lowlat_cache_changed) < 0) {
        PyErr_WriteUnraisable(NULL); /* no stamp: the caches are looked into every time */
        return 0;
    }
    if (PyDict_Watch(lowlat_cache_watcher, outer) < 0 || PyDict_Watch(lowlat_cache_watcher, inner) < 0)
        return -1;
    stamp->outer_version = lowlat_cache_changes;
#else
    stamp->outer_version = *lowlat_dict_version(outer);
    stamp->inner = lowlat_dict_version(inner);
    stamp->inner_version = *stamp->inner;
#endif
    stamp->outer = outer;
    return 0;
}

/* Whether a write to an instance's attribute is a write to its __dict__, once
 * somebody asked for that: from CPython 3.13 on it goes past the dict. */
enum { LOWLAT_ATTRIBUTES_ARE_IN_DICTS = PY_VERSION_HEX < 0x030D0000 };

/* ---- dicts that are filled again and again ---------------------------------- */

/* A copy of `dict` whose writes, by anybody but lowlat_put, are noticed. */
static PyObject *lowlat_noticed_copy(PyObject *dict)
{
    PyObject *copy = PyDict_Copy(dict);
#if PY_VERSION_HEX >= 0x030C0000
    if (copy != NULL && lowlat_copy_watcher >= 0 && PyDict_Watch(lowlat_copy_watcher, copy) < 0)
        Py_CLEAR(copy);
#endif
    return copy;
}

/* A number that differs after any write to such a copy, or 0 where that cannot be noticed. */
static inline uint64_t lowlat_dict_tag(PyObject *copy)
{
#if PY_VERSION_HEX >= 0x030C0000
    (void)copy;
    return lowlat_copy_watcher < 0 ? 0 : lowlat_copy_changes + 1;
#else
    return *lowlat_dict_version(copy);
#endif
}

/* A copy of a dict has each value at the same place behind `ma_keys` as the
 * original, since PyDict_Copy clones the block, and keeps it there until it is
 * written to.  So a value can be put into it without a look-up, a twentieth of
 * what PyDict_SetItem takes.  Where the values are is not public, so it is
 * found out, in the very dict to be copied; if that does not work out, the
 * answer is no and PyDict_SetItem does.
 *
 * 1 and the places of all values in order, 0, or -1 with an exception. */
static int lowlat_value_places(PyObject *dict, int32_t *places)
{
#if PY_VERSION_HEX >= 0x030C0000
    if (lowlat_watcher(&lowlat_copy_watcher, lowlat_copy_changed) < 0)
        PyErr_WriteUnraisable(NULL); /* no copy is then known to be unwritten */
#endif
    int found = 1;
    PyObject *copy = NULL, *marker = NULL, *keys = PyDict_Keys(dict);
    PyObject *size = PyObject_CallMethod(dict, "__sizeof__", NULL), *copied_size = NULL;
    if (keys == NULL || size == NULL)
        goto failed;
    Py_ssize_t words = (PyLong_AsSsize_t(size) - (Py_ssize_t)sizeof(PyDictObject)) / (Py_ssize_t)sizeof(PyObject *);
    for (Py_ssize_t i = 0; found && i < PyList_GET_SIZE(keys); ++i) {
        PyObject *key = PyList_GET_ITEM(keys, i), *value = Py_NewRef(PyDict_GetItemWithError(dict, key));
        marker = PyObject_CallNoArgs((PyObject *)&PyBaseObject_Type);
        int failed = marker == NULL || PyDict_SetItem(dict, key, marker) < 0;
        PyObject **block = (PyObject **)((PyDictObject *)dict)->ma_keys;
        found = 0;
        for (Py_ssize_t word = 0; !failed && word < words; ++word)
            if (block[word] == marker) {
                places[i] = (int32_t)(word * (Py_ssize_t)sizeof(PyObject *));
                ++found;
            }
        found = found == 1 && ((PyDictObject *)dict)->ma_values == NULL;
        failed = failed || (copy = PyDict_Copy(dict)) == NULL ||
                 (copied_size = PyObject_CallMethod(copy, "__sizeof__", NULL)) == NULL;
        /* The copy's block is as large, and has the marker at the same place. */
        found = found && !failed && PyLong_AsSsize_t(copied_size) == PyLong_AsSsize_t(size) &&
                *(PyObject **)((char *)((PyDictObject *)copy)->ma_keys + places[i]) == marker;
        failed = PyDict_SetItem(dict, key, value) < 0 || failed;
        Py_DECREF(value);
        Py_CLEAR(marker);
        Py_CLEAR(copy);
        Py_CLEAR(copied_size);
        if (failed)
            goto failed;
    }
    Py_DECREF(keys);
    Py_DECREF(size);
    return found;
failed:
    Py_XDECREF(keys);
    Py_XDECREF(size);
    return -1;
}

/* The value at `place` of a copy that nobody else has, and nobody has written to. */
static inline PyObject *lowlat_value_at(PyObject *copy, int32_t place)
{
    return *(PyObject **)((char *)((PyDictObject *)copy)->ma_keys + place);
}

/* Puts `count` values at as many places. */
static inline void lowlat_put(PyObject *copy, const int32_t *places, PyObject *const *values, Py_ssize_t count)
{
    char *block = (char *)((PyDictObject *)copy)->ma_keys;
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject **slot = (PyObject **)(block + places[i]), *old = *slot;
        if (old != values[i]) {
            *slot = Py_NewRef(values[i]);
            Py_DECREF(old);
        }
    }
}

/* Puts None there. */
static inline void lowlat_take_out(PyObject *copy, int32_t place)
{
    PyObject *none = Py_None;
    lowlat_put(copy, &place, &none, 1);
}

/* The garbage collector has to see a dict once a container is in it. */
static inline void lowlat_track(PyObject *copy)
{
    if (!PyObject_GC_IsTracked(copy))
        PyObject_GC_Track(copy);
}

/* ---- grids ------------------------------------------------------------------ */

/* Whether len() and [] of `object` are tuple's own, as a named tuple's are. */
static inline int lowlat_reads_as_tuple(PyObject *object)
{
    PyTypeObject *type = Py_TYPE(object);
    return PyTuple_Check(object) &&
           type->tp_as_mapping->mp_subscript == PyTuple_Type.tp_as_mapping->mp_subscript &&
           type->tp_as_sequence->sq_length == PyTuple_Type.tp_as_sequence->sq_length;
}

/* ---- calls ----------------------------------------------------------------- */

/* Cython gives an extension type no vectorcall slot: its __call__ builds a
 * tuple and a dict.  The type is still private when this runs, at import. */
static inline void lowlat_give_vectorcall(PyTypeObject *type, Py_ssize_t offset)
{
    type->tp_vectorcall_offset = offset;
    type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
    type->tp_call = PyVectorcall_Call; /* for f(*args, **kwargs): holds what the dict holds */
    PyType_Modified(type);
}

/* The subscript slot of a class whose __getitem__ is inherited; CPython sets it
 * anew if somebody assigns the class another __getitem__. */
static inline void lowlat_give_subscript(PyTypeObject *type, binaryfunc subscript)
{
    type->tp_as_mapping->mp_subscript = subscript;
}

/* type() without the call: tp_new of an extension type that takes no arguments. */
static inline PyObject *lowlat_new(PyTypeObject *type, PyObject *empty)
{
    return type->tp_new(type, empty, NULL);
}

/* Adds `name` to `type` as a method called with a C array of arguments. */
static int lowlat_add_method(PyTypeObject *type, PyMethodDef *method, const char *name, PyObject *function_pointer)
{
    method->ml_name = name;
    method->ml_meth = (PyCFunction)(void (*)(void))PyCapsule_GetPointer(function_pointer, NULL);
    method->ml_flags = METH_FASTCALL | METH_KEYWORDS;
    if (method->ml_meth == NULL)
        return -1;
    PyObject *descriptor = PyDescr_NewMethod(type, method);
    if (descriptor == NULL)
        return -1;
    int failed = PyDict_SetItemString(type->tp_dict, name, descriptor);
    Py_DECREF(descriptor);
    PyType_Modified(type);
    return failed;
}

#endif
