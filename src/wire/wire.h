/* wire.h -- ordinary values as bytes: one pass out, one pass in.

   Each object arrives as the same type: a list as a list.  What was one object
   stays one (shared lists, cycles through lists, dicts and sets); permanent
   objects travel by reference, to be the same object there.  As with pickle,
   numbers are equal there and no more; equal keys may become one str.  Nothing that arrives is trusted: damaged
   bytes are an error, never a crash.

   format.h draws the bytes; encode.c and decode.c are the
   two passes. */

#ifndef PH_WIRE_H
#define PH_WIRE_H

#include "core/span/spans.h"
#include "state/interpreter.h"

struct ph_travels;
struct ph_write_slot;
struct ph_write_shape;
struct ph_write_frame;

/* A value on its way out.  Zeroed at first; may write one message after another,
   in the same memory; ph_writer_clear() gives that back. */
typedef struct {
    char *bytes;
    size_t used, size;
    ph_span_id *spans;              /* that the message is to hold; borrowed holds */
    uint32_t n_spans, spans_size;
    PyObject *moved;                /* list of the Buffers that are moved, or NULL */
    const PyTypeObject *refused;    /* after PH_NOT_OURS the type of which that is so;
                                       or NULL; borrowed, so use it at once */
    /* Of encode.c: the memo, the shapes of dicts, and the way from the root to
       where it is. */
    struct ph_write_slot *slots;
    size_t slots_mask, slots_used;
    uint32_t epoch;                 /* of this message: older slots are free */
    struct ph_write_shape *shapes;
    uint32_t n_shapes;              /* defined in this message */
    struct ph_write_frame *frames;
    size_t frames_used, frames_size;
} ph_writer;

/* A value on its way in. */
typedef struct {
    const struct ph_travels *travels;   /* set by ph_message_read() */
    const char *at, *end;
    const ph_span_id *spans;        /* that the message held, now this process */
    uint32_t n_spans;
    uint32_t next_span;             /* not asked for yet: holds from here on are
                                       still to be dropped, by the owner of the
                                       reader, also after an error */
} ph_reader;

typedef struct ph_travels ph_travels;

/* A type whose objects travel by name: Buffer (moved or shared), Channel, Handle, Loan and
   Borrowed.  The file of each type enters it in the interpreter's table, in the same order
   in all interpreters of the family. */
typedef struct {
    PyTypeObject *type;             /* exact; borrowed */
    /* Append what names obj, with the ph_write_* functions.  -1 with an exception.
       Runs no Python code. */
    int (*write)(ph_writer *writer, PyObject *obj);
    /* Make the object.  NULL with an exception.  Runs no Python code. */
    PyObject *(*read)(const ph_travels *travels, ph_reader *reader);
} ph_traveller;

#define PH_TRAVELLERS 8

/* Kept from message to message by decode.c, which explains why.  All owned, or NULL. */
#define PH_KEYS_KEPT 256u
#define PH_BALLAST 64u
typedef struct {
    PyObject *keys[PH_KEYS_KEPT];   /* short str, at a place that their bytes tell */
    void *ballast[PH_BALLAST];      /* blocks of memory */
    uint32_t ballast_turn;          /* blocks allocated so far */
} ph_wire_kept;

/* The wire's part of an interpreter's state. */
struct ph_travels {
    ph_interpreter *interp;
    ph_wire_kept *kept;
    ph_traveller traveller[PH_TRAVELLERS];
    uint32_t n;
};

/* Enter a type in the table. */
void ph_travels_add(ph_travels *travels, ph_traveller traveller);
void ph_wire_kept_clear(ph_wire_kept *kept);

/* Append.  -1 with MemoryError. */
int ph_write_word(ph_writer *writer, uint64_t word);
int ph_write_bytes(ph_writer *writer, const void *bytes, size_t size);
int ph_write_span(ph_writer *writer, ph_span_id id);
/* 0, or -1 with a MessageError: there is no such word left. */
int ph_read_word(ph_reader *reader, uint64_t *word);
/* *p_bytes points into the message. */
int ph_read_bytes(ph_reader *reader, const void **p_bytes, size_t size);
/* The hold becomes the caller's. */
int ph_read_span(ph_reader *reader, ph_span_id *id);
/* Raise MessageError.  -1. */
int ph_message_damaged(const ph_travels *travels, const char *what);

/* Write one message, from the start of writer->bytes.  PH_WRITTEN; PH_NOT_OURS:
   something in it is of another type, and nothing is set (then pickle it); -1 with an
   exception.  In the last two cases there are no bytes, spans or moved Buffers.
   O(objects). */
enum { PH_WRITTEN = 0, PH_NOT_OURS = 1 };
int ph_message_write(const ph_travels *travels, PyObject *obj, ph_writer *writer);
/* Does it travel by what names it, and not by its content: a permanent object, or one of
   a traveller's type? */
bool ph_travels_by_name(const ph_travels *travels, PyObject *obj);
/* Read one message, which ends at reader->end.  NULL with MessageError (damaged),
   HandleError (a permanent object is not there any more), ImportError (no datetime in
   this interpreter), MemoryError, or what a traveller raises.  O(bytes). */
PyObject *ph_message_read(const ph_travels *travels, ph_reader *reader);
/* Let go of what the message holds; of the memory as well. */
void ph_writer_reset(ph_writer *writer);
void ph_writer_clear(ph_writer *writer);

#endif
