/* stats.c -- stats(): the figures of the whole family's heap, as one dict. */

#include "module/stats.h"

#include "core/block/release.h"
#include "core/family/family.h"
#include "core/heap/extents.h"
#include "core/span/spans.h"
#include "state/interpreter.h"

/* In the order of ph_kind; the words of stats(). */
static const char *const kind_names[PH_KINDS] = {
    "int", "float", "complex", "str", "bytes", "tuple", "mapping", "frozenset",
    "range", "slice", "date", "time", "datetime", "timedelta", "timezone",
    "shared keys",
};

static PyObject *
counts_of(const _Atomic uint64_t *counts)
{
    PyObject *dict = PyDict_New();
    for (int kind = 0; dict != NULL && kind < PH_KINDS; kind++) {
        uint64_t count = atomic_load(&counts[kind]);
        if (count == 0) {
            continue;
        }
        PyObject *number = PyLong_FromUnsignedLongLong(count);
        if (number == NULL
            || PyDict_SetItemString(dict, kind_names[kind], number) < 0) {
            Py_CLEAR(dict);
        }
        Py_XDECREF(number);
    }
    return dict;
}

static PyObject *
hex_of(const uint8_t *bytes, size_t n)
{
    char text[64];
    assert(2 * n < sizeof(text));
    for (size_t i = 0; i < n; i++) {
        PyOS_snprintf(text + 2 * i, 3, "%02x", bytes[i]);
    }
    return PyUnicode_FromString(text);
}

PyDoc_STRVAR(stats_doc,
"stats($module, /)\n--\n\n"
"A dict of the heap's figures, of the whole family: see permaheap.Stats.");

static PyObject *
core_stats(PyObject *module, PyObject *Py_UNUSED(ignored))
{
    if (ph_heap_ready() != PH_OK) {
        ph_raise(&ph_interpreter_of(module)->exceptions);
        return NULL;
    }
    ph_reclaim();
    ph_header *header = ph_heap.header;
    ph_spans_figures spans = ph_spans_count();
    return Py_BuildValue(
        "{s:K, s:K, s:K, s:s, s:N, s:N, s:N, s:K, s:K, s:K, s:K, s:K, s:K, s:K,"
        " s:K, s:K, s:K}",
        "reserved", (unsigned long long)header->size,
        "used", (unsigned long long)ph_heap_used(),
        "blocks", (unsigned long long)atomic_load(&header->blocks),
        "mapping", ph_heap.mapping_reason,
        "family", hex_of(header->family, sizeof(header->family)),
        "objects", counts_of(header->objects_of),
        "bytes", counts_of(header->bytes_of),
        "saved", (unsigned long long)atomic_load(&header->saved),
        "released", (unsigned long long)atomic_load(&header->released),
        "released_blocks",
        (unsigned long long)atomic_load(&header->released_blocks),
        "waiting", (unsigned long long)ph_releases_pending(),
        "reused", (unsigned long long)atomic_load(&header->reused),
        "returned", (unsigned long long)atomic_load(&header->returned),
        "unlisted", (unsigned long long)atomic_load(&header->unlisted),
        "spans", (unsigned long long)spans.spans,
        "span_bytes", (unsigned long long)spans.bytes,
        "span_kept", (unsigned long long)spans.kept);
}

static PyMethodDef stats_functions[] = {
    {"stats", core_stats, METH_NOARGS, stats_doc},
    {NULL, NULL, 0, NULL},
};

int
ph_stats_add(PyObject *module)
{
    return PyModule_AddFunctions(module, stats_functions);
}
