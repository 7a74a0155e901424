/* view.h -- the question whether the bytes of a buffer mean something elsewhere.

   The bytes of an array of objects are addresses of objects.  In a copy, another
   interpreter or another process they mean nothing, and following them is an error.

   A format is that of the struct module, with what numpy adds: "T{<d:price:O:name:}" is a
   record, and the names of its fields lie between colons. */

#ifndef PH_STATE_VIEW_H
#define PH_STATE_VIEW_H

#include "layout/version.h"

/* Does a buffer of this format (NULL: bytes) hold objects or other pointers? */
static inline bool
ph_format_has_pointers(const char *format)
{
    bool in_name = false;
    for (; format != NULL && *format != '\0'; format++) {
        if (*format == ':') {
            in_name = !in_name;
        }
        else if (!in_name && (*format == 'O' || *format == 'P' || *format == '&')) {
            return true;
        }
    }
    return false;
}

#endif
