/* init.h -- setting up layout/ when the module is imported. */

#ifndef PH_INIT_H
#define PH_INIT_H

#include "layout/version.h"

/* Look up what is static in this process.  Once per interpreter; -1 with an exception
   if the interpreter is not the one that this module was built for. */
int ph_layout_init(void);
/* Forge an object of each kind, and compare it with a real one.  -1 with an exception. */
int ph_layout_selftest(void);

#endif
