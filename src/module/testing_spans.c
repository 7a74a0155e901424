/* testing_spans.c -- the hooks of _core._testing through which tests handle single spans.

   A span's id is one int here: generation << 32 | index.  No logic. */

#include "module/testing_spans.h"

#include "core/family/family.h"
#include "core/ring/ring.h"
#include "core/span/span_table.h"

static PyObject *
raise_span_status(ph_status status)
{
    PyObject *type = status == PH_NOMEM ? PyExc_MemoryError
                     : status == PH_BAD_HANDLE ? PyExc_ValueError : PyExc_OSError;
    PyErr_SetString(type, ph_error_text());
    return NULL;
}

static ph_span_id
span_id_of(unsigned long long name)
{
    return (ph_span_id){(uint32_t)name, (uint32_t)(name >> 32)};
}

static unsigned long long
span_name_of(ph_span_id id)
{
    return (unsigned long long)id.generation << 32 | id.index;
}

PyObject *
ph_testing_span_new(PyObject *Py_UNUSED(type), PyObject *args)
{
    unsigned long long size;
    int zeroed, kind;
    if (!PyArg_ParseTuple(args, "Kpi:span_new", &size, &zeroed, &kind)) {
        return NULL;
    }
    ph_span_id id;
    ph_status status = ph_heap_ready();
    if (status == PH_OK) {
        Py_BEGIN_ALLOW_THREADS
        status = ph_span_new((ph_span_kind)kind, size, zeroed, &id);
        Py_END_ALLOW_THREADS
    }
    return status == PH_OK ? PyLong_FromUnsignedLongLong(span_name_of(id))
                           : raise_span_status(status);
}

PyObject *
ph_testing_span_hold(PyObject *Py_UNUSED(type), PyObject *args)
{
    unsigned long long name;
    int kind;
    if (!PyArg_ParseTuple(args, "Ki:span_hold", &name, &kind)) {
        return NULL;
    }
    ph_status status = ph_span_hold(span_id_of(name), (ph_span_kind)kind);
    return status == PH_OK ? Py_NewRef(Py_None) : raise_span_status(status);
}

PyObject *
ph_testing_span_drop(PyObject *Py_UNUSED(type), PyObject *arg)
{
    unsigned long long name = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred()) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS
    ph_span_drop(span_id_of(name));
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

/* (address, size, is it ours alone); None when this process does not hold it. */
PyObject *
ph_testing_span_view(PyObject *Py_UNUSED(type), PyObject *arg)
{
    unsigned long long name = PyLong_AsUnsignedLongLong(arg);
    if (PyErr_Occurred()) {
        return NULL;
    }
    char *address = ph_span_address(span_id_of(name));
    if (address == NULL) {
        Py_RETURN_NONE;
    }
    return Py_BuildValue("(KKN)", (unsigned long long)(uintptr_t)address,
                         (unsigned long long)ph_span_size(span_id_of(name)),
                         PyBool_FromLong(ph_span_is_ours(span_id_of(name))));
}

/* Publish (or take) a message that holds these, at the word at this address. */
PyObject *
ph_testing_span_message(PyObject *Py_UNUSED(type), PyObject *args)
{
    int take;
    PyObject *names;
    unsigned long long position, value;
    if (!PyArg_ParseTuple(args, "pO!KK:span_message", &take, &PyTuple_Type, &names,
                          &position, &value)) {
        return NULL;
    }
    ph_span_id ids[PH_MESSAGE_SPANS + 1];
    Py_ssize_t n = PyTuple_GET_SIZE(names);
    for (Py_ssize_t i = 0; i < n && i <= (Py_ssize_t)PH_MESSAGE_SPANS; i++) {
        ids[i] = span_id_of(PyLong_AsUnsignedLongLong(PyTuple_GET_ITEM(names, i)));
        if (PyErr_Occurred()) {
            return NULL;
        }
    }
    _Atomic uint64_t *word = (_Atomic uint64_t *)(uintptr_t)position;
    ph_status status = (take ? ph_spans_take : ph_spans_publish)(ids, (uint32_t)n, word,
                                                                 value);
    return status == PH_OK ? Py_NewRef(Py_None) : raise_span_status(status);
}

/* Make a ring of a channel's span if there is none, and send a message with these. */
PyObject *
ph_testing_span_send(PyObject *Py_UNUSED(type), PyObject *args)
{
    unsigned long long channel, name;
    if (!PyArg_ParseTuple(args, "KK:span_send", &channel, &name)) {
        return NULL;
    }
    ph_ring *ring = ph_span_address(span_id_of(channel));
    if (ring == NULL) {
        PyErr_SetString(PyExc_ValueError, "not held");
        return NULL;
    }
    ph_status status = PH_OK;
    if (ph_ring_capacity(ring) == 0) {
        status = ph_ring_init(ring, PH_PAGE);
    }
    ph_span_id id = span_id_of(name);
    ph_outgoing message = {.n_spans = 1, .spans = &id, .bytes = "", .size = 0};
    if (status == PH_OK) {
        status = ph_ring_send(ring, &message, PH_FOREVER);
    }
    return status == PH_OK ? Py_NewRef(Py_None) : raise_span_status(status);
}

PyObject *
ph_testing_span_sweep(PyObject *Py_UNUSED(type), PyObject *give_back)
{
    uint64_t bytes = ph_spans_sweep();
    if (PyObject_IsTrue(give_back)) {
        (void)ph_spans_give_back();
    }
    return PyLong_FromUnsignedLongLong(bytes);
}

/* A span to publish, and one whose first word is the position. */
static ph_status
time_span_messages(ph_span_id id, uint64_t rounds, uint64_t *p_time)
{
    ph_span_id place;
    ph_status status = ph_span_new(PH_SPAN_BUFFER, PH_PAGE, true, &place);
    if (status != PH_OK) {
        return status;
    }
    _Atomic uint64_t *position = ph_span_address(place);
    uint64_t start = ph_os_now();
    for (uint64_t i = 0; i < rounds && status == PH_OK; i++) {
        status = ph_spans_publish(&id, 1, position, 2 * i + 1);
        if (status == PH_OK) {
            status = ph_spans_take(&id, 1, position, 2 * i + 2);
            ph_span_drop(id);
        }
    }
    *p_time = ph_os_now() - start;
    ph_span_drop(place);
    return status;
}

static ph_status
time_spans(uint64_t size, uint64_t rounds, uint64_t *p_time)
{
    ph_status status = PH_OK;
    uint64_t start = ph_os_now();
    for (uint64_t i = 0; i < rounds && status == PH_OK; i++) {
        ph_span_id id;
        status = ph_span_new(PH_SPAN_BUFFER, size, false, &id);
        if (status == PH_OK) {
            ph_span_drop(id);
        }
    }
    *p_time = ph_os_now() - start;
    return status;
}

/* Nanoseconds of: new and drop; publish, take and drop. */
PyObject *
ph_testing_span_times(PyObject *Py_UNUSED(type), PyObject *args)
{
    unsigned long long size, rounds;
    if (!PyArg_ParseTuple(args, "KK:span_times", &size, &rounds)) {
        return NULL;
    }
    uint64_t new_time, message_time;
    ph_span_id id;
    ph_status status = time_spans(size, rounds, &new_time);
    if (status == PH_OK) {
        status = ph_span_new(PH_SPAN_BUFFER, size, false, &id);
    }
    if (status == PH_OK) {
        status = time_span_messages(id, rounds, &message_time);
        ph_span_drop(id);
    }
    return status == PH_OK
           ? Py_BuildValue("(dd)", (double)new_time / (double)rounds,
                           (double)message_time / (double)rounds)
           : raise_span_status(status);
}
