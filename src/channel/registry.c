/* registry.c -- how a Channel is made, found and handed on.

   A channel is listed under its name once its flag `listed` is set, which is done and
   looked at with the journal's lock held.  Whoever wants a name looks for it; if there
   is none, makes a channel, looks again and lists its own, in one go; who finds another
   one by then takes that.  The name is free when the span is.

   A pickle of a Channel is its span's id with the family's name and a tag.  It does
   not hold the channel, and is an error when that is gone.  In a message a Channel is
   one of the spans that the message holds. */

#include "channel/channel_object.h"

#include <string.h>

#include "core/family/family.h"
#include "core/family/handle.h"
#include "core/span/journal.h"

/* --- Making -------------------------------------------------------------------------- */

static ph_channel_shared *
shared_in(void *span, uint64_t size)
{
    return (ph_channel_shared *)((char *)span + size - sizeof(ph_channel_shared));
}

/* Of a span that we hold. */
static ph_channel_shared *
shared_of(ph_span_id id)
{
    return shared_in(ph_span_address(id), ph_span_size(id));
}

PyObject *
ph_channel_wrap(ph_channels *channels, ph_span_id id, bool may_pickle, uint64_t spin)
{
    ChannelObject *self = ph_channel_of(channels->type->tp_alloc(channels->type, 0));
    if (self == NULL) {
        ph_span_drop(id);
        return NULL;
    }
    self->channels = channels;
    self->id = id;
    self->ring = ph_span_address(id);
    self->shared = shared_of(id);
    self->may_pickle = may_pickle;
    self->spin = spin;
    return (PyObject *)self;
}

static ph_status
make(const ph_channel_wish *wish, ph_span_id *id)
{
    uint64_t size = ph_ring_span_size(wish->capacity);
    size = (size + 127) / 128 * 128 + sizeof(ph_channel_shared);
    ph_status status = ph_span_new(PH_SPAN_CHANNEL, size, true, id);
    if (status != PH_OK) {
        return status;
    }
    ph_channel_shared *shared = shared_of(*id);     /* zeroed, as all of the span */
    status = ph_ring_init(ph_span_address(*id), wish->capacity);
    if (status != PH_OK) {
        ph_span_drop(*id);
        return status;
    }
    if (wish->name != NULL) {
        shared->name_size = (uint32_t)wish->name_size;
        memcpy(shared->name, wish->name, wish->name_size);
    }
    return PH_OK;
}

/* With the journal's lock held. */
static bool
find_listed(const ph_channel_wish *wish, ph_span_id *id)
{
    void *span;
    uint64_t size;
    uint32_t index = 0;
    while ((span = ph_spans_next(PH_SPAN_CHANNEL, &index, id, &size)) != NULL) {
        const ph_channel_shared *shared = shared_in(span, size);
        if (atomic_load(&shared->listed) && shared->name_size == wish->name_size
            && memcmp(shared->name, wish->name, wish->name_size) == 0) {
            return true;
        }
    }
    return false;
}

/* The channel of that name, held.  If there is none, `fresh` gets the name. */
static ph_status
hold_listed(const ph_channel_wish *wish, const ph_span_id *fresh, bool *p_found,
            ph_span_id *id)
{
    for (;;) {
        ph_status status = ph_journal_begin();
        if (status != PH_OK) {
            return status;
        }
        *p_found = find_listed(wish, id);
        if (!*p_found && fresh != NULL) {
            atomic_store(&shared_of(*fresh)->listed, 1);
        }
        ph_journal_commit();
        status = *p_found ? ph_span_hold(*id, PH_SPAN_CHANNEL) : PH_OK;
        if (status != PH_BAD_HANDLE) {
            return status;
        }
    }                               /* dropped by the last one meanwhile: look again */
}

ph_status
ph_channel_find_or_make(const ph_channel_wish *wish, ph_span_id *id)
{
    if (wish->name == NULL) {
        return make(wish, id);
    }
    bool found;
    ph_span_id fresh;
    ph_spans_sweep();               /* the dead hold no names */
    ph_status status = hold_listed(wish, NULL, &found, id);
    if (status != PH_OK || found) {
        return status;
    }
    status = make(wish, &fresh);
    if (status != PH_OK) {
        return status;
    }
    status = hold_listed(wish, &fresh, &found, id);
    if (status != PH_OK || found) {
        ph_span_drop(fresh);
        return status;
    }
    *id = fresh;
    return PH_OK;
}

/* --- Travelling ---------------------------------------------------------------------- */

/* A Channel as bytes, in a pickle: it does not hold the channel. */
typedef struct {
    uint8_t family[16];
    ph_span_id id;
    uint64_t options;
    uint64_t tag;                       /* of the above */
} ph_channel_name;

#define TAG_OF_CHANNEL 0x6c656e6e616863ull      /* tells it from other tags */

static uint64_t
options_of(const ChannelObject *self)
{
    return self->spin << 1 | self->may_pickle;
}

static uint64_t
tag_of(const ph_channel_name *name)
{
    uint64_t words[3] = {
        TAG_OF_CHANNEL, (uint64_t)name->id.generation << 32 | name->id.index,
        name->options,
    };
    return ph_tag(words, 3);
}

PyObject *
ph_channel_reduce(PyObject *self, PyObject *Py_UNUSED(ignored))
{
    ph_channel_name name = {
        .id = ph_channel_of(self)->id, .options = options_of(ph_channel_of(self)),
    };
    memcpy(name.family, ph_heap.header->family, sizeof(name.family));
    name.tag = tag_of(&name);
    PyObject *from_bytes = PyObject_GetAttrString((PyObject *)Py_TYPE(self),
                                                  "_from_bytes");
    if (from_bytes == NULL) {
        return NULL;
    }
    return Py_BuildValue("N(N)", from_bytes,
                         PyBytes_FromStringAndSize((const char *)&name, sizeof(name)));
}

static ph_status
resolve_name(const ph_channel_name *name)
{
    ph_status status = ph_heap_ready();
    if (status != PH_OK) {
        return status;
    }
    if (memcmp(name->family, ph_heap.header->family, sizeof(name->family)) != 0) {
        return ph_foreign("channel");
    }
    if (name->tag != tag_of(name)) {
        return ph_fail(PH_BAD_HANDLE, "permaheap: this pickle of a channel is damaged or "
                                      "forged");
    }
    status = ph_span_hold(name->id, PH_SPAN_CHANNEL);
    if (status == PH_BAD_HANDLE) {
        return ph_fail(PH_BAD_HANDLE, "permaheap: this channel is gone, since nobody held "
                                      "it any more. A pickle does not: keep the Channel "
                                      "until the other side has unpickled it");
    }
    return status;
}

PyObject *
ph_channel_from_bytes(PyObject *type, PyObject *data)
{
    ph_channels *channels = ph_channels_of((PyTypeObject *)type);
    ph_channel_name name;
    if (!PyBytes_Check(data) || PyBytes_GET_SIZE(data) != sizeof(name)) {
        PyErr_SetString(PyExc_ValueError, "a channel's name has another form");
        return NULL;
    }
    memcpy(&name, PyBytes_AS_STRING(data), sizeof(name));
    if (resolve_name(&name) != PH_OK) {
        ph_raise(channels->parcels.exceptions);
        return NULL;
    }
    return ph_channel_wrap(channels, name.id, name.options & 1, name.options >> 1);
}

int
ph_channel_write(ph_writer *writer, PyObject *obj)
{
    if (ph_write_word(writer, options_of(ph_channel_of(obj))) < 0) {
        return -1;
    }
    return ph_write_span(writer, ph_channel_of(obj)->id);
}

PyObject *
ph_channel_read(const ph_travels *travels, ph_reader *reader)
{
    uint64_t options;
    ph_span_id id;
    if (ph_read_word(reader, &options) < 0 || ph_read_span(reader, &id) < 0) {
        return NULL;
    }
    ph_channels *channels = travels->interp->channels;
    if (options >> 1 > PH_CHANNEL_SPIN_MOST || ph_span_hold(id, PH_SPAN_CHANNEL) != PH_OK) {
        ph_span_drop(id);
        (void)ph_message_damaged(travels, "a channel in it is none");
        return NULL;
    }
    ph_span_drop(id);
    return ph_channel_wrap(channels, id, options & 1, options >> 1);
}
