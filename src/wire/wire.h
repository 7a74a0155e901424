/* wire.h -- ordinary values as bytes: one pass out, one pass in.

   Each object arrives with the same type: a list as a list.  An object that was shared is
   shared at the receiver, and lists, dicts and sets may hold themselves.  Permanent objects
   are sent by reference, and the receiver gets the same object.  As with pickle, a number
   arrives as an equal one and no more; equal keys may become one str.

   The receiver trusts nothing that arrives: damaged bytes are an error, never a crash.

   format.h draws the bytes; encode.c and decode.c are the two passes; pickle.c carries
   objects of other types. */

#ifndef PH_WIRE_H
#define PH_WIRE_H

#include "core/span/spans.h"
#include "state/interpreter.h"

struct ph_wire_state;
struct ph_write_slot;
struct ph_write_shape;
struct ph_write_frame;

/* A value on its way out.  Zeroed initially.  It may write one message after another in
   the same memory; ph_writer_clear() gives that back. */
typedef struct {
    char *bytes;
    size_t used, size;
    ph_span_id *spans;              /* that the message will hold; borrowed holds */
    uint32_t n_spans, spans_size;
    PyObject *moved;                /* list of the Buffers that are moved, or NULL */
    PyTypeObject *refused;          /* after PH_NOT_OURS: the type that cannot be written,
                                       or NULL; borrowed, so use it at once */
    /* Of encode.c: the memo, the shapes of dicts, and the open containers. */
    struct ph_write_slot *slots;
    size_t slots_mask, slots_used;
    uint32_t epoch;                 /* of this message: older slots are free */
    struct ph_write_shape *shapes;
    uint32_t n_shapes;              /* defined in this message */
    struct ph_write_frame *frames;
    size_t frames_used, frames_size;
} ph_writer;

/* A value on its way in.  The hold on each span from next_span on belongs to the owner of
   the reader, also after an error: the owner drops it. */
typedef struct {
    const struct ph_wire_state *wire;   /* set by ph_message_read() */
    const char *at, *end;
    const ph_span_id *spans;        /* held by the message before, now by this process */
    uint32_t n_spans;
    uint32_t next_span;             /* the first that no object has taken */
} ph_reader;

typedef struct ph_wire_state ph_wire_state;

/* A type whose objects are sent by name: Buffer (moved or shared), Channel, Handle, Loan
   and Borrowed.  The file of each type enters it in the interpreter's table, in the same
   order in all interpreters of the family. */
typedef struct {
    PyTypeObject *type;             /* exact; borrowed */
    /* Append what names obj, with the ph_write_* functions.  -1 with an exception.
       Runs no Python code. */
    int (*write)(ph_writer *writer, PyObject *obj);
    /* Make the object.  NULL with an exception.  Runs no Python code. */
    PyObject *(*read)(const ph_wire_state *wire, ph_reader *reader);
    /* Can read() return an object of a user's type, whose hash is the user's code? */
    bool unwraps;
} ph_wire_type;

#define PH_WIRE_TYPES 8

/* Kept from message to message by decode.c, which explains why.  All owned, or NULL. */
#define PH_KEYS_KEPT 256u
#define PH_BALLAST 64u
typedef struct {
    PyObject *keys[PH_KEYS_KEPT];   /* short str, at a place that their bytes tell */
    void *ballast[PH_BALLAST];      /* blocks of memory */
    uint32_t ballast_turn;          /* blocks allocated so far */
} ph_wire_kept;

/* The wire's part of an interpreter's state. */
struct ph_wire_state {
    ph_interpreter *interp;
    ph_wire_kept *kept;
    ph_wire_type types[PH_WIRE_TYPES];
    uint32_t n;
};

/* Enter a type in the table. */
void ph_wire_add_type(ph_wire_state *wire, ph_wire_type wire_type);
void ph_wire_kept_clear(ph_wire_kept *kept);

/* Append.  -1 with MemoryError. */
int ph_write_word(ph_writer *writer, uint64_t word);
int ph_write_bytes(ph_writer *writer, const void *bytes, size_t size);
int ph_write_span(ph_writer *writer, ph_span_id id);
/* Read the next word.  0, or -1 with MessageError if there is none. */
int ph_read_word(ph_reader *reader, uint64_t *word);
/* Likewise for bytes; *p_bytes points into the message. */
int ph_read_bytes(ph_reader *reader, const void **p_bytes, size_t size);
/* Take the next span.  Its hold becomes the caller's. */
int ph_read_span(ph_reader *reader, ph_span_id *id);
/* Raise MessageError.  Returns -1. */
int ph_message_damaged(const ph_wire_state *wire, const char *what);

/* Write one message, from the start of writer->bytes.  PH_WRITTEN; or PH_NOT_OURS without
   an exception, if something in it is of another type (then pickle it); or -1 with an
   exception.  In the last two cases there are no bytes, spans or moved Buffers.
   O(objects). */
enum { PH_WRITTEN = 0, PH_NOT_OURS = 1 };
int ph_message_write(const ph_wire_state *wire, PyObject *obj, ph_writer *writer);
/* Is an object sent by name and not by its content: is it permanent, or of a type in
   the table? */
bool ph_wire_type_named(const ph_wire_state *wire, PyObject *obj);
/* Read one message, which ends at reader->end.  NULL with MessageError (damaged),
   HandleError (a permanent object is no longer there), ImportError (no datetime or Counter
   in this interpreter), MemoryError, or an error of a type in the table.  O(bytes). */
PyObject *ph_message_read(const ph_wire_state *wire, ph_reader *reader);
/* Drop the message's references; with ph_writer_clear() the memory as well. */
void ph_writer_reset(ph_writer *writer);
void ph_writer_clear(ph_writer *writer);

#endif
