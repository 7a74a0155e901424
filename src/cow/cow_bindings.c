/* cow_bindings.c -- the functions that the copy-on-write profiler (permaheap.cow) is made
   of, for Python: the arguments, and no logic. */

#include "cow/cow_bindings.h"

#include "core/os/page_faults.h"
#include "cow/object_map.h"
#include "cow/trace.h"
#include "state/interpreter.h"

PyDoc_STRVAR(object_map_doc,
"_object_map($module, roots, /)\n--\n\n"
"Write a map of all objects that the items of a list reach into an anonymous\n"
"file, and return its descriptor.  Raises MemoryError or OSError.\n"
"O(objects reached).");

static PyObject *
core_object_map(PyObject *module, PyObject *roots)
{
    if (!PyList_Check(roots)) {
        PyErr_SetString(PyExc_TypeError, "_object_map(): a list is needed");
        return NULL;
    }
    int fd = ph_object_map(&ph_interpreter_of(module)->exceptions, roots);
    return fd < 0 ? NULL : PyLong_FromLong(fd);
}

PyDoc_STRVAR(layout_doc,
"_layout($module, /)\n--\n\n"
"Sizes and offsets in the memory of an interpreter like this one, and what a\n"
"write to a field of an object means; for the copy-on-write profiler.");

static PyObject *
core_layout(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored))
{
    return ph_layout_table();
}

PyDoc_STRVAR(record_faults_doc,
"_record_faults($module, cpu, kernel, /)\n--\n\n"
"A file descriptor whose mapping is a ring of the page faults, on one\n"
"processor, of this thread and all that it starts; if kernel, those of system\n"
"calls as well.  Raises OSError.");

static PyObject *
core_record_faults(PyObject *Py_UNUSED(module), PyObject *args)
{
    int cpu, kernel, fd, err;
    if (!PyArg_ParseTuple(args, "ip:_record_faults", &cpu, &kernel)) {
        return NULL;
    }
    err = ph_os_record_faults(cpu, kernel, &fd);
    return err ? ph_raise_os(err, "record page faults") : PyLong_FromLong(fd);
}

PyDoc_STRVAR(take_faults_doc,
"_take_faults($module, ring, /)\n--\n\n"
"Take the records out of a ring (its mapping): (bytes of ph_first_write, how\n"
"many were lost).");

static PyObject *
core_take_faults(PyObject *Py_UNUSED(module), PyObject *ring)
{
    Py_buffer buffer;
    if (PyObject_GetBuffer(ring, &buffer, PyBUF_WRITABLE) < 0) {
        return NULL;
    }
    size_t most = (size_t)buffer.len / 48;      /* about as many as fit into it */
    PyObject *bytes = PyBytes_FromStringAndSize(
        NULL, (Py_ssize_t)(most * sizeof(ph_first_write)));
    uint64_t lost = 0;
    if (bytes != NULL) {
        size_t n = ph_os_take_faults(buffer.buf, (size_t)buffer.len,
                                     (ph_first_write *)PyBytes_AS_STRING(bytes),
                                     most, &lost);
        (void)_PyBytes_Resize(&bytes, (Py_ssize_t)(n * sizeof(ph_first_write)));
    }
    PyBuffer_Release(&buffer);
    return bytes ? Py_BuildValue("NK", bytes, (unsigned long long)lost) : NULL;
}

PyDoc_STRVAR(trace_begin_doc,
"_trace_begin($module, fd, /)\n--\n\n"
"Let children record themselves in this file; see trace.c.  Raises OSError.");

static PyObject *
core_trace_begin(PyObject *Py_UNUSED(module), PyObject *number)
{
    int fd = (int)PyLong_AsLong(number);
    if (fd == -1 && PyErr_Occurred()) {
        return NULL;
    }
    int err = ph_trace_begin(fd);
    return err ? ph_raise_os(err, "begin the trace") : Py_NewRef(Py_None);
}

static PyMethodDef cow_functions[] = {
    {"_object_map", core_object_map, METH_O, object_map_doc},
    {"_layout", core_layout, METH_NOARGS, layout_doc},
    {"_record_faults", core_record_faults, METH_VARARGS, record_faults_doc},
    {"_take_faults", core_take_faults, METH_O, take_faults_doc},
    {"_trace_begin", core_trace_begin, METH_O, trace_begin_doc},
    {NULL, NULL, 0, NULL},
};

int
ph_cow_add(PyObject *module)
{
    return PyModule_AddFunctions(module, cow_functions);
}
