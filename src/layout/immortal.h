/* immortal.h -- making ordinary objects immortal where they are. */

#ifndef PH_IMMORTAL_H
#define PH_IMMORTAL_H

#include "layout/version.h"

/* All containers of one interpreter that are immortal: a ring through the words that they
   have for the collector.  It starts and ends here, at an address that never changes. */
typedef struct ph_immortal_ring {
    uintptr_t next, prev;
} ph_immortal_ring;

/* --- One object (immortal.c) -------------------------------------------------- */

/* Make an ordinary object immortal for good, fill the hash of a str or bytes, and move
   the object from the collector's lists to a ring. */
void ph_immortalize_object(PyObject *obj, ph_immortal_ring *ring);
/* Call visit(part, arg) for each object that this one refers to, its type included, as
   tp_traverse does; also where there is no tp_traverse. */
int ph_visit_referents(PyObject *obj, visitproc visit, void *arg);
/* Return why an object should be able to die, in words that follow its name; or NULL. */
const char *ph_why_mortal(PyObject *obj);
/* Return why all objects of a type should be able to die, or NULL.
   O(attributes of the type): ask once for each type. */
const char *ph_why_type_mortal(PyTypeObject *type);
/* Return why an object cannot be made immortal at all, in such words; or NULL. */
const char *ph_why_not_immortal(PyObject *obj);

/* --- Code (warm_code.c) ------------------------------------------------------- */

/* Write into code what its first run would write and what does not depend on the
   arguments.  Its constants must be immortal already. */
void ph_warm_code(PyCodeObject *code);

/* --- The collector (gc.c) ----------------------------------------------------- */

/* Call visit(obj, arg) for each object that the collector tracks and has not set aside
   (gc.freeze), without counting references.  visit must not run Python code or track
   anything.  Returns the first result that is not 0; -1 with MemoryError. */
int ph_visit_tracked(visitproc visit, void *arg);

/* Make an empty ring.  It is never freed, for the objects in it stay.  NULL with MemoryError. */
ph_immortal_ring *ph_immortal_ring_new(void);
/* Call visit(obj, arg) for each object in a ring, as above. */
int ph_visit_immortals(const ph_immortal_ring *ring, visitproc visit, void *arg);

/* --- Interned strings (interned.c) -------------------------------------------- */

/* Hide the immortal interned strings from the end of the process, which would make
   each of them mortal again.  -1 with MemoryError. */
int ph_hide_interned(void);

#endif
