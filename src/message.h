/* message.h -- ordinary values as bytes: one pass out, one pass in.

   Of the freezable kinds, and each arrives as the same type: a list as a list.  What
   was one object stays one (shared lists, cycles through lists and dicts); permanent
   objects travel by reference, to be the same object there.  Nothing that arrives is
   trusted: damaged bytes are an error, never a crash. */

#ifndef PH_MESSAGE_H
#define PH_MESSAGE_H

#include "raise.h"
#include "spans.h"

/* A value on its way out. */
typedef struct {
    char *bytes;
    size_t used, size;
    ph_span_id *spans;              /* that the message is to hold; borrowed holds */
    uint32_t n_spans, spans_size;
    PyObject *moved;                /* list of the Buffers that are moved, or NULL */
    /* and what message.c needs besides: the memo, the stack */
} ph_writer;

/* A value on its way in. */
typedef struct {
    const char *at, *end;
    const ph_span_id *spans;        /* that the message held, now this process */
    uint32_t n_spans;
    uint32_t next_span;             /* not asked for yet: holds from here on are
                                       still to be dropped */
} ph_reader;

typedef struct ph_travels ph_travels;

/* A type whose objects travel by what names them: Buffer (moved or shared), Channel,
   Handle, Loan.  Each has a file of its own, which enters it in the interpreter's table. */
typedef struct {
    PyTypeObject *type;             /* exact */
    /* Append what names obj, with the ph_write_* functions.  -1 with an exception. */
    int (*write)(ph_writer *writer, PyObject *obj);
    /* Make the object.  NULL with an exception. */
    PyObject *(*read)(const ph_travels *travels, ph_reader *reader);
    void *context;                  /* for `read`: the type's module state */
} ph_traveller;

#define PH_TRAVELLERS 8

/* Per interpreter. */
struct ph_travels {
    const ph_exceptions *exceptions;
    ph_traveller traveller[PH_TRAVELLERS];
    uint32_t n;
};

int ph_write_word(ph_writer *writer, uint64_t word);
int ph_write_bytes(ph_writer *writer, const void *bytes, size_t size);
int ph_write_span(ph_writer *writer, ph_span_id id);
/* 0, or -1 with a MessageError: there is no such word left. */
int ph_read_word(ph_reader *reader, uint64_t *word);
int ph_read_bytes(ph_reader *reader, const void **bytes, size_t size);
/* The hold becomes the caller's. */
int ph_read_span(ph_reader *reader, ph_span_id *id);

/* PH_WRITTEN; PH_NOT_OURS: something in it is of another type, and nothing is set (then
   pickle it); -1 with an exception. */
enum { PH_WRITTEN = 0, PH_NOT_OURS = 1 };
int ph_message_write(const ph_travels *travels, PyObject *obj, ph_writer *writer);
PyObject *ph_message_read(const ph_travels *travels, ph_reader *reader);
/* Ready for the next value, with the memory it has; and no more. */
void ph_writer_clear(ph_writer *writer);
void ph_writer_free(ph_writer *writer);

#endif
