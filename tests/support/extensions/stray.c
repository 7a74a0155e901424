/* stray.c -- an extension of the kind that predates immortal objects.

   An extension that is built with the limited API of Python 3.2, by the headers
   of a Python up to 3.11, has these macros compiled in.  They are plain additions
   to the first word, in every later interpreter.  Newer headers have others even
   for that API, so the old ones are written out.  And this extension counts
   wrongly on purpose. */

#define Py_LIMITED_API 0x03020000
#include <Python.h>

/* As in Include/object.h of Python 3.2; volatile, so that each count is a read
   and a write. */
#define OLD_REFCNT(op) (*(volatile Py_ssize_t *)(op))
#define OLD_INCREF(op) ((void)(OLD_REFCNT(op) += 1))
#define OLD_DECREF(op) \
    do { \
        if ((OLD_REFCNT(op) -= 1) == 0) { \
            _Py_Dealloc(op); \
        } \
    } while (0)

static PyObject *
count(PyObject *args, int up)
{
    PyObject *obj;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "On", &obj, &n)) {
        return NULL;
    }
    Py_ssize_t i;
    if (up) {
        for (i = 0; i < n; i++) {
            OLD_INCREF(obj);
        }
    }
    else {
        for (i = 0; i < n; i++) {
            OLD_DECREF(obj);
        }
    }
    Py_INCREF(Py_None);
    return Py_None;
}

static PyObject *
incref(PyObject *self, PyObject *args)
{
    (void)self;
    return count(args, 1);
}

static PyObject *
decref(PyObject *self, PyObject *args)
{
    (void)self;
    return count(args, 0);
}

static PyMethodDef methods[] = {
    {"incref", incref, METH_VARARGS, "incref(obj, n): n unmatched Py_INCREF."},
    {"decref", decref, METH_VARARGS, "decref(obj, n): n unmatched Py_DECREF."},
    {NULL, NULL, 0, NULL},
};

static int
no_state(PyObject *module)
{
    (void)module;
    return 0;
}

/* Multi-phase initialisation and the slot for a GIL of one's own are newer than
   the limited API above: their numbers and structs are written out here. */
typedef struct {
    int slot;
    void *value;
} slot;

static slot slots[] = {
    {2, (void *)no_state},          /* Py_mod_exec */
    {3, (void *)2},                 /* Py_mod_multiple_interpreters: each its GIL */
    {0, NULL},
};

static struct {
    PyModuleDef_Base base;
    const char *name, *doc;
    Py_ssize_t size;
    PyMethodDef *methods;
    slot *slots;
    void *traverse, *clear, *free;
} definition = {
    PyModuleDef_HEAD_INIT, "stray", "Counts references wrongly.", 0, methods,
    slots, NULL, NULL, NULL,
};

extern PyObject *PyModuleDef_Init(void *);

PyMODINIT_FUNC
PyInit_stray(void)
{
    return PyModuleDef_Init(&definition);
}
