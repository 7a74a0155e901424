/* format.h -- the bytes of a message.

   A message is one value.  A value is a tag and what belongs to it:

       None, True, False, Ellipsis     tag
       int                             tag, zigzag varint
       large int                       tag, varint n, n bytes of two's complement
       float, complex                  tag, 8 or 16 bytes
       str                             tag, varint n, n characters of 1, 2 or 4 bytes
       bytes, bytearray                tag, varint n, n bytes
       tuple, list, set, frozenset     tag, varint n, n values
       dict and its kin                tag, varint n, n times a key and a value
       shape                           tag, varint n, n keys (all str), n values: a dict
       record                          tag, varint number of its shape, its values: a dict
       defaultdict                     tag, number of the factory, then like dict
       slice, range                    tag, 3 values
       mappingproxy                    tag, the value that it shows
       date, time, datetime            tag, fields; perhaps the tzinfo, a value
       timedelta                       tag, fields
       timezone                        tag, the offset's fields, a value: str or None
       back reference                  tag, varint index
       permanent object                tag, offset of block, offset, tag (8 bytes each)
       object of a wire type           tag, number of its type, whatever that writes

   Numbers are in the byte order of the machine.  A varint has 7 bits in each byte, the
   least first; the top bit says that more follow.

   An object that may be met again has PH_REMEMBER in its tag.  Such objects are numbered in
   the order of their tags, and a back reference names one by its number.  Shapes are
   numbered likewise.  A list, dict or set may be referred to from inside of it.  So may a
   tuple, if there is a list, dict or set in between. */

#ifndef PH_WIRE_FORMAT_H
#define PH_WIRE_FORMAT_H

#include "wire/wire.h"

enum {
    PH_TAG_NONE, PH_TAG_TRUE, PH_TAG_FALSE, PH_TAG_ELLIPSIS,
    PH_TAG_INT, PH_TAG_LARGE_INT, PH_TAG_FLOAT, PH_TAG_COMPLEX,
    PH_TAG_STR_1, PH_TAG_STR_2, PH_TAG_STR_4, PH_TAG_BYTES, PH_TAG_BYTEARRAY,
    PH_TAG_TUPLE, PH_TAG_LIST, PH_TAG_SET, PH_TAG_FROZENSET, PH_TAG_SLICE,
    PH_TAG_SHAPE, PH_TAG_RECORD, PH_TAG_DICT, PH_TAG_ORDERED_DICT, PH_TAG_COUNTER,
    PH_TAG_DEFAULTDICT, PH_TAG_FROZENDICT, PH_TAG_PROXY,
    PH_TAG_RANGE, PH_TAG_DATE, PH_TAG_TIME, PH_TAG_AWARE_TIME, PH_TAG_DATETIME,
    PH_TAG_AWARE_DATETIME, PH_TAG_DELTA, PH_TAG_TIMEZONE,
    PH_TAG_REFERENCE, PH_TAG_PERMANENT, PH_TAG_WIRE_TYPE,
    PH_TAGS,
    PH_REMEMBER = 0x80,             /* added to a tag */
};

#define PH_VARINT_MOST 10           /* bytes */

/* CPython hashes a tuple in a tuple by recursion.  Before 3.14 it also frees a slice in a
   slice, or a defaultdict in a defaultdict, by recursion.  Both passes count how deep that
   goes, and refuse what is deeper than this. */
#define PH_HASHED_DEPTH_MOST 200u
#define PH_FREED_DEPTH_MOST 50u
#define PH_NEVER_HASHED 255u        /* depth of a container with an open tuple in it */

/* The factory of a defaultdict by its number: None or a type, borrowed.  NULL: there is no
   such number. */
PyObject *ph_message_factory(uint8_t number);

/* Is it a tag, perhaps with PH_REMEMBER? */
static inline bool
ph_is_tag(int tag)
{
    return tag >= 0 && (tag & ~PH_REMEMBER) < PH_TAGS;
}

/* Does a container of this tag consist of keys, each with its value? */
static inline bool
ph_tag_is_mapping(uint8_t tag)
{
    return tag >= PH_TAG_DICT && tag <= PH_TAG_FROZENDICT;
}

/* May it hold itself, since it exists before its content? */
static inline bool
ph_tag_is_mutable(uint8_t tag)
{
    return tag == PH_TAG_LIST || tag == PH_TAG_SET
           || (tag >= PH_TAG_SHAPE && tag <= PH_TAG_DEFAULTDICT);
}

/* Does CPython free it by recursion? */
static inline bool
ph_tag_is_recursive(uint8_t tag)
{
    return tag == PH_TAG_SLICE || tag == PH_TAG_PROXY || tag == PH_TAG_DEFAULTDICT;
}

/* Does hashing a container of this tag hash its items?  A mutable one raises at once. */
static inline bool
ph_tag_hashes_items(uint8_t tag)
{
    return !ph_tag_is_mutable(tag);
}

/* The depth of a container, given the greatest depth of its items.  It is 0 for a mutable
   container, since hashing that raises at once. */
static inline uint8_t
ph_depth_over(uint8_t tag, uint8_t items)
{
    if (ph_tag_is_mutable(tag) && !ph_tag_is_recursive(tag)) {
        return 0;
    }
    return items == PH_NEVER_HASHED ? items : (uint8_t)(items + 1);
}

#endif
