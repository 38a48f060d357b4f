/* What Cython cannot say about CPython, per version (3.10 to 3.14).
 *
 * - reading a small int without a call;
 * - noticing that a dict or a type has changed without reading it;
 * - giving an extension type a vectorcall slot, and a type a fast method.
 */
#ifndef LOWLAT_PYTHON_H
#define LOWLAT_PYTHON_H

#include <Python.h>
#include <alloca.h>
#include <stdint.h>

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

/* ---- dicts that are watched ---------------------------------------------- */

/* Triton reads about ten knobs, hooks and getters on every launch.  They live
 * in a handful of dicts that hardly ever change, so lowlat reads them once and
 * then asks only whether any of those dicts has been written to: by version
 * tag up to CPython 3.11, by dict watcher from 3.12 on, where the tag is
 * deprecated.  If no watcher can be had (CPython has eight), every question is
 * answered "changed", which is slow and still right. */
#define LOWLAT_WATCHED_MAX 8

typedef struct {
    PyObject *dicts[LOWLAT_WATCHED_MAX]; /* strong */
#if PY_VERSION_HEX < 0x030C0000
    uint64_t versions[LOWLAT_WATCHED_MAX];
#endif
    int count;
    int current; /* cleared by the watcher */
} lowlat_watched;

static lowlat_watched lowlat_watched_dicts;

#if PY_VERSION_HEX >= 0x030C0000
static int lowlat_watcher = -1;

static int lowlat_dict_changed(PyDict_WatchEvent event, PyObject *dict, PyObject *key, PyObject *value)
{
    (void)event;
    (void)dict;
    (void)key;
    (void)value;
    lowlat_watched_dicts.current = 0;
    return 0;
}
#endif

static inline int lowlat_watched_current(void)
{
#if PY_VERSION_HEX >= 0x030C0000
    return lowlat_watched_dicts.current;
#else
    const lowlat_watched *watched = &lowlat_watched_dicts;
    for (int i = 0; i < watched->count; ++i)
        if (((PyDictObject *)watched->dicts[i])->ma_version_tag != watched->versions[i])
            return 0;
    return watched->current;
#endif
}

/* Watches exactly the dicts of `dicts`, a tuple.  -1 with an exception set if
 * it holds something else or too many.  To be called *before* the values are
 * read, so that no change falls between. */
static int lowlat_watch(PyObject *dicts)
{
    lowlat_watched *watched = &lowlat_watched_dicts;
    Py_ssize_t count = PyTuple_GET_SIZE(dicts);
    if (count > LOWLAT_WATCHED_MAX) {
        PyErr_Format(PyExc_ValueError, "%zd dicts to watch, at most %d", count, LOWLAT_WATCHED_MAX);
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; ++i)
        if (!PyDict_Check(PyTuple_GET_ITEM(dicts, i))) {
            PyErr_Format(PyExc_TypeError, "watched %R is not a dict", PyTuple_GET_ITEM(dicts, i));
            return -1;
        }
    int watching = 1;
#if PY_VERSION_HEX >= 0x030C0000
    if (lowlat_watcher < 0) {
        lowlat_watcher = PyDict_AddWatcher(lowlat_dict_changed);
        if (lowlat_watcher < 0) {
            /* All eight in use: stay in the slow, right state described above. */
            PyErr_WriteUnraisable(NULL);
            watching = 0;
        }
    }
#endif
    PyObject *old[LOWLAT_WATCHED_MAX];
    int old_count = watched->count;
    memcpy(old, watched->dicts, sizeof old);
    for (Py_ssize_t i = 0; i < count; ++i) {
        PyObject *dict = PyTuple_GET_ITEM(dicts, i);
        Py_INCREF(dict);
        watched->dicts[i] = dict;
#if PY_VERSION_HEX >= 0x030C0000
        if (watching && PyDict_Watch(lowlat_watcher, dict) < 0)
            return -1;
#else
        watched->versions[i] = ((PyDictObject *)dict)->ma_version_tag;
#endif
    }
    watched->count = (int)count;
    watched->current = watching;
    for (int i = 0; i < old_count; ++i)
        Py_DECREF(old[i]); /* left watched: harmless, and another entry may be the same dict */
    return 0;
}

/* ---- types that are watched ---------------------------------------------- */

/* A type's version tag changes when it or a base is written to (a patched
 * method, say).  0 means that CPython has no tag for it. */
static inline unsigned int lowlat_type_version(PyTypeObject *type)
{
    return type->tp_version_tag;
}

/* ---- calls ----------------------------------------------------------------- */

/* Cython gives an extension type no vectorcall slot: its __call__ builds a
 * tuple and a dict.  The type is still private when this runs, at import. */
static inline void lowlat_give_vectorcall(PyTypeObject *type, Py_ssize_t offset, ternaryfunc call)
{
    type->tp_vectorcall_offset = offset;
    type->tp_flags |= Py_TPFLAGS_HAVE_VECTORCALL;
    type->tp_call = call;
    PyType_Modified(type);
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
