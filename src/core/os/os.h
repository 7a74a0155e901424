/* os.h -- all that most of the core needs of the kernel and of the C library.

   No other folder makes system calls or allocates raw memory.  This header includes the
   headers below; sync.h, datagram.h and page_faults.h are included where they are used.

     units.h          pages, KiB, MiB, GiB
     fault.h          failures and deaths that a test asks for
     limits.h         memory left, resource limits, environment, random bytes
     process_lock.h   the process lock, hooks around fork()
     memory.h         mappings, the heap's file, raw memory
     process.h        pids, process words, SIGSEGV
     glibc_heap.h     free memory inside the heap of the C library

   Conventions for all functions of this folder, unless they say otherwise:

   1. They return 0, or an errno value (> 0) if they fail.  They never touch Python.
   2. Addresses, offsets and sizes of mappings are multiples of PH_PAGE.
   3. They may be called with the process lock held, and without the GIL.
   4. A parameter p_x points to a result, and is not NULL.  After a failure the result has
      no meaning.
   5. Functions marked [fault] can be made to fail: see fault.h.

   Asserts check these and each function's own preconditions, in all but release builds. */

#ifndef PH_OS_H
#define PH_OS_H

#include "core/os/fault.h"
#include "core/os/glibc_heap.h"
#include "core/os/limits.h"
#include "core/os/memory.h"
#include "core/os/process.h"
#include "core/os/process_lock.h"
#include "core/os/units.h"

#endif
