/* attach.h -- attaching a thread to another interpreter of this process. */

#ifndef PH_INTERP_ATTACH_H
#define PH_INTERP_ATTACH_H

#include "layout/version.h"

/* An interpreter to which threads of others can attach; valid while it is kept. */
typedef struct ph_interp_record ph_interp_record;

/* The lock of all records, and of the loans in loans.c.  No thread waits or runs Python
   code while it holds this lock. */
void ph_interps_lock(void);
void ph_interps_unlock(void);

/* Return the record of the running interpreter, made at the first call; kept.  NULL
   after ph_fail().  Needs ph_heap_init(). */
ph_interp_record *ph_interp_here(void);
/* Prepare the running interpreter for threads of others; it is the record's.  -1: there
   is no memory. */
int ph_interp_prepare(ph_interp_record *record);
/* Close the running interpreter, which is the record's: no other thread attaches any
   more.  Wait until those that are attached have detached.  Closing the main interpreter
   closes all, and waits for all attached threads of the process. */
void ph_interp_close(ph_interp_record *record);

/* With the lock held: */
void ph_interp_keep(ph_interp_record *record);
void ph_interp_drop(ph_interp_record *record);
bool ph_interp_is_open(const ph_interp_record *record);
/* Guard the interpreter: until ph_interp_attach(), which must follow, and the detaching
   after it, it does not end.  False: it is closed. */
bool ph_interp_guard(ph_interp_record *record);

/* With or without the lock: is it the running interpreter?  Its id. */
bool ph_interp_is_here(const ph_interp_record *record);
int64_t ph_interp_id(const ph_interp_record *record);

/* One stay of this thread in another interpreter.  On the C stack. */
typedef struct ph_attachment {
    struct ph_attachment *outer;    /* the attachment in which this one was begun */
    ph_interp_record *record;
    PyThreadState *from;            /* suspended: where the thread came from */
    PyObject *exception;            /* that was set in the thread state we are using */
    uint32_t depth;                 /* 1 for the outermost */
    bool made;                      /* its thread state was made for it */
} ph_attachment;

/* Return how many attachments this thread is in, one within the other. */
uint32_t ph_attachment_depth(void);
/* Attach this thread to an interpreter that it has guarded; without the lock.  Any
   exception that is set here stays here.  -1: there is no memory, and the guard is
   dropped. */
int ph_interp_attach(ph_attachment *attachment, ph_interp_record *record);
/* Go back, and drop the guard.  No exception may be set. */
void ph_interp_detach(ph_attachment *attachment);
/* Clear the exception that is set, and copy its text, which may go to another
   interpreter. */
void ph_take_error_text(char *text, size_t size);

#endif
