/* registry.c -- how a Channel is made, found by its name, and passed on.

   To open a name: look it up; if it is absent, make a channel, then look again and list
   it in one step under the journal's lock.  If another process got there first, use its
   channel.  The name is free again when the span is.

   A pickle of a Channel has the id of its span, the family's id and a tag.  It does not
   hold the channel: unpickling is an error once the channel is gone.  In a message a
   Channel is one of the spans that the message holds.

   Invariants:

   1. At most one live span has a given name and `listed` set.  Both are read, and
      `listed` is set, with the journal's lock held.
   2. A channel's name never changes once it is listed.
   3. Nothing that arrives is trusted: a pickle has its tag, a span its kind, and the
      settings their limits. */

#include "channel/registry.h"

#include <string.h>

#include "core/family/family.h"
#include "core/family/handle.h"
#include "core/span/journal.h"

/* --- Making ------------------------------------------------------------------- */

static ph_channel_shared *
locate_shared(void *span, uint64_t size)
{
    return (ph_channel_shared *)((char *)span + size - sizeof(ph_channel_shared));
}

/* The caller holds the span. */
static ph_channel_shared *
get_shared(ph_span_id id)
{
    return locate_shared(ph_span_address(id), ph_span_size(id));
}

PyObject *
ph_channel_wrap(ph_channels *channels, ph_span_id id, bool may_pickle, uint64_t spin)
{
    ChannelObject *self = ph_channel_of(channels->type->tp_alloc(channels->type, 0));
    if (self == NULL) {
        ph_span_drop(id);
        return NULL;
    }
    assert(spin <= PH_CHANNEL_SPIN_MOST && ph_span_address(id) != NULL);
    self->channels = channels;
    self->id = id;
    self->ring = ph_span_address(id);
    self->shared = get_shared(id);
    self->may_pickle = may_pickle;
    self->spin = spin;
    return (PyObject *)self;
}

static ph_status
make_channel(const ph_channel_options *options, ph_span_id *id)
{
    uint64_t size = ph_ring_span_size(options->capacity);
    size = (size + 127) / 128 * 128 + sizeof(ph_channel_shared);
    ph_status status = ph_span_new(PH_SPAN_CHANNEL, size, true, id);
    if (status != PH_OK) {
        return status;
    }
    ph_channel_shared *shared = get_shared(*id);    /* zeroed, like all of the span */
    status = ph_ring_init(ph_span_address(*id), options->capacity);
    if (status != PH_OK) {
        ph_span_drop(*id);
        return status;
    }
    if (options->name != NULL) {
        assert(options->name_size > 0 && options->name_size <= PH_CHANNEL_NAME_MOST);
        shared->name_size = (uint32_t)options->name_size;
        memcpy(shared->name, options->name, options->name_size);
    }
    return PH_OK;
}

/* Look a name up, with the journal's lock held. */
static bool
find_listed(const ph_channel_options *options, ph_span_id *id)
{
    void *span;
    uint64_t size;
    uint32_t index = 0;
    while ((span = ph_spans_next(PH_SPAN_CHANNEL, &index, id, &size)) != NULL) {
        const ph_channel_shared *shared = locate_shared(span, size);
        if (atomic_load(&shared->listed) && shared->name_size == options->name_size
            && memcmp(shared->name, options->name, options->name_size) == 0) {
            return true;
        }
    }
    return false;
}

/* Hold the channel of that name.  If there is none, list `fresh` under it. */
static ph_status
hold_listed(const ph_channel_options *options, const ph_span_id *fresh, bool *p_found,
            ph_span_id *id)
{
    for (;;) {
        ph_status status = ph_journal_begin();
        if (status != PH_OK) {
            return status;
        }
        *p_found = find_listed(options, id);
        if (!*p_found && fresh != NULL) {
            atomic_store(&get_shared(*fresh)->listed, 1);
        }
        ph_journal_commit();
        status = *p_found ? ph_span_hold(*id, PH_SPAN_CHANNEL) : PH_OK;
        if (status != PH_BAD_HANDLE) {
            return status;
        }
    }       /* its last holder dropped it between the two steps: look again */
}

ph_status
ph_channel_find_or_make(const ph_channel_options *options, ph_span_id *id)
{
    if (options->name == NULL) {
        return make_channel(options, id);
    }
    bool found;
    ph_span_id fresh;
    ph_spans_sweep();               /* dead processes hold no names */
    ph_status status = hold_listed(options, NULL, &found, id);
    if (status != PH_OK || found) {
        return status;
    }
    status = make_channel(options, &fresh);
    if (status != PH_OK) {
        return status;
    }
    status = hold_listed(options, &fresh, &found, id);
    if (status != PH_OK || found) {
        ph_span_drop(fresh);
        return status;
    }
    *id = fresh;
    return PH_OK;
}

/* --- Passing a Channel on ----------------------------------------------------- */

/* A Channel as bytes, in a pickle. */
typedef struct {
    uint8_t family[16];
    ph_span_id id;
    uint64_t settings;                  /* of the object: spin << 1 | may_pickle */
    uint64_t tag;                       /* of the above */
} pickled_channel;

#define CHANNEL_TAG 0x6c656e6e616863ull         /* no other tag begins with this word */

static uint64_t
encode_settings(const ChannelObject *self)
{
    return self->spin << 1 | self->may_pickle;
}

static uint64_t
compute_channel_tag(const pickled_channel *pickled)
{
    uint64_t words[3] = {
        CHANNEL_TAG, (uint64_t)pickled->id.generation << 32 | pickled->id.index,
        pickled->settings,
    };
    return ph_tag(words, 3);
}

PyObject *
ph_channel_reduce(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    pickled_channel pickled = {
        .id = ph_channel_of(self)->id, .settings = encode_settings(ph_channel_of(self)),
    };
    memcpy(pickled.family, ph_heap.header->family, sizeof(pickled.family));
    pickled.tag = compute_channel_tag(&pickled);
    PyObject *from_bytes = PyObject_GetAttrString((PyObject *)Py_TYPE(self),
                                                  "_from_bytes");
    if (from_bytes == NULL) {
        return NULL;
    }
    return Py_BuildValue("N(N)", from_bytes,
                         PyBytes_FromStringAndSize((const char *)&pickled,
                                                   sizeof(pickled)));
}

static ph_status
hold_pickled(const pickled_channel *pickled)
{
    ph_status status = ph_heap_ready();
    if (status != PH_OK) {
        return status;
    }
    if (memcmp(pickled->family, ph_heap.header->family, sizeof(pickled->family)) != 0) {
        return ph_foreign("channel");
    }
    if (pickled->tag != compute_channel_tag(pickled)) {
        return ph_fail(PH_BAD_HANDLE, "permaheap: this pickle of a channel is damaged or "
                                      "forged; pickle the Channel again");
    }
    status = ph_span_hold(pickled->id, PH_SPAN_CHANNEL);
    if (status == PH_BAD_HANDLE) {
        return ph_fail(PH_BAD_HANDLE, "permaheap: this channel is gone, since no process "
                                      "held it any more, and a pickle does not hold it; "
                                      "keep the Channel until the other side has "
                                      "unpickled it");
    }
    return status;
}

PyObject *
ph_channel_from_bytes(PyObject *type, PyObject *data)
{
    ph_channels *channels = ph_channels_of((PyTypeObject *)type);
    pickled_channel pickled;
    if (!PyBytes_Check(data) || PyBytes_GET_SIZE(data) != sizeof(pickled)) {
        PyErr_SetString(PyExc_ValueError, "these are not the bytes of a pickled Channel, "
                        "which only __reduce__() makes");
        return NULL;
    }
    memcpy(&pickled, PyBytes_AS_STRING(data), sizeof(pickled));
    if (hold_pickled(&pickled) != PH_OK) {
        ph_raise(channels->parcels.exceptions);
        return NULL;
    }
    return ph_channel_wrap(channels, pickled.id, pickled.settings & 1,
                           pickled.settings >> 1);
}

int
ph_channel_write(ph_writer *writer, PyObject *obj)
{
    if (ph_write_word(writer, encode_settings(ph_channel_of(obj))) < 0) {
        return -1;
    }
    return ph_write_span(writer, ph_channel_of(obj)->id);
}

PyObject *
ph_channel_read(const ph_wire_state *wire, ph_reader *reader)
{
    uint64_t settings;
    ph_span_id id;
    if (ph_read_word(reader, &settings) < 0 || ph_read_span(reader, &id) < 0) {
        return NULL;
    }
    ph_channels *channels = wire->interp->channels;
    if (settings >> 1 > PH_CHANNEL_SPIN_MOST
        || ph_span_hold(id, PH_SPAN_CHANNEL) != PH_OK) {
        ph_span_drop(id);
        (void)ph_message_damaged(wire, "a channel in it is none");
        return NULL;
    }
    ph_span_drop(id);
    return ph_channel_wrap(channels, id, settings & 1, settings >> 1);
}
