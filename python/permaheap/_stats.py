"""The statistics of the permanent heap, as a record."""

from collections.abc import Mapping

from permaheap import _core
from permaheap._record import Record


class Stats(Record):
    """The permanent heap at one moment. Sizes are in bytes.

    All fields but `mapping` describe the whole family: every process of it sees the same numbers.
    """

    reserved: int
    """Address space reserved for the heap; costs no memory."""
    used: int
    """Bytes of the frozen blocks, with headers and padding, without released blocks."""
    blocks: int
    """Number of blocks: one for each freeze that stored something, without released blocks."""
    mapping: str
    """How this process maps the heap: "private" (a stray write copies the page for this process),
    "sealed: " (PERMAHEAP_SEAL=1: a stray write is a SIGSEGV) or "read-only: ", and the reason."""
    family: str
    """The family's identity, in hexadecimal. Handles carry it."""
    objects: Mapping[str, int]
    """Number of objects frozen so far, by kind ("str", "tuple", ...), with released ones."""
    bytes: Mapping[str, int]
    """Bytes of these objects, by kind."""
    saved: int
    """Bytes saved because equal atoms and key tables are stored once."""
    released: int
    """Bytes of blocks released so far."""
    released_blocks: int
    """Number of blocks released so far."""
    waiting: int
    """Number of released blocks that wait, because some process may still see them."""
    returned: int
    """Bytes of the other released blocks whose memory was returned: their whole pages."""
    reused: int
    """Bytes of released blocks whose addresses are in use again."""
    unlisted: int
    """Processes that found no room in the family's table. If not 0, no memory is returned."""
    spans: int
    """Spans in use: buffers, channels, and large messages that are queued."""
    span_bytes: int
    """Bytes of these spans."""
    span_kept: int
    """Bytes of memory of earlier spans, kept for the next spans."""


def stats() -> Stats:
    """Return the statistics of the permanent heap at this moment.

        >>> permaheap.stats().used
        1048576

    Returns:
        A `Stats`, with sizes in bytes.

    Raises:
        MemoryError: the heap does not exist yet, and there is no memory to make it.
        OSError: it does not exist yet, and the system refused to make it.

    O(1): it reads counters and does not walk the heap. While released blocks wait, it also looks
    at each process of the family, and returns the memory of blocks that no process can see.
    """
    return Stats(**_core.stats())
