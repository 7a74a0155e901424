/* permaheap.h -- permaheap for other C extensions.

   Call permaheap_import() once in each interpreter (in the module's exec
   function); then use the functions of the struct it returns, with the GIL
   held.  The struct is static: it may be kept for as long as the process
   lives.

       static const permaheap_api *ph;
       ...
       ph = permaheap_import();
       if (ph == NULL) {
           return -1;
       }
       PyObject *frozen = ph->freeze(table, NULL);

   Directory of this file: permaheap.__path__[0] + "/include". */

#ifndef PERMAHEAP_H
#define PERMAHEAP_H

#include <Python.h>

#ifdef __cplusplus
extern "C" {
#endif

#define PERMAHEAP_CAPSULE "permaheap._core._C_API"
#define PERMAHEAP_API_VERSION 1

typedef struct {
    /* PERMAHEAP_API_VERSION of the permaheap that is installed.  Later ones
       only add members at the end. */
    int version;
    /* permaheap.freeze(obj, default=default_); default_ may be NULL.  A new
       reference, or NULL with an exception.  O(objects). */
    PyObject *(*freeze)(PyObject *obj, PyObject *default_);
    /* permaheap.is_frozen(obj): 1 or 0, never an exception.  O(1). */
    int (*is_frozen)(PyObject *obj);
    /* permaheap.share(obj): a new Handle, or NULL with an exception.  O(1). */
    PyObject *(*share)(PyObject *obj);
    /* handle.get(): a new reference, or NULL with an exception.  O(1). */
    PyObject *(*resolve)(PyObject *handle);
} permaheap_api;

/* The API, or NULL with an ImportError. */
static inline const permaheap_api *
permaheap_import(void)
{
    const permaheap_api *api =
        (const permaheap_api *)PyCapsule_Import(PERMAHEAP_CAPSULE, 0);
    if (api != NULL && api->version < PERMAHEAP_API_VERSION) {
        PyErr_SetString(PyExc_ImportError,
                        "the permaheap that is installed is too old");
        return NULL;
    }
    return api;
}

#ifdef __cplusplus
}
#endif

#endif
