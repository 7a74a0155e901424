"""What the permanent heap holds, as a record."""

from collections.abc import Mapping

from permaheap import _core
from permaheap._record import Record


class Stats(Record):
    """The permanent heap at one moment. Sizes are in bytes.

    All but `mapping` is about the whole family: every process of it sees the same numbers.
    """

    reserved: int
    """Address space set aside; costs no memory."""
    used: int
    """Bytes that frozen blocks take, headers and padding included; released ones left out."""
    blocks: int
    """Number of blocks: one for each freeze that put something there, but for released ones."""
    mapping: str
    """How this process maps the heap: "private" (a stray write copies the page for itself),
    "sealed: " (PERMAHEAP_SEAL=1: a stray write is a SIGSEGV) or "read-only: ", and the reason."""
    family: str
    """The family's identity, in hexadecimal; handles carry it."""
    objects: Mapping[str, int]
    """Number of objects frozen so far by kind ("str", "tuple", ...), released ones included."""
    bytes: Mapping[str, int]
    """Bytes of these objects by kind."""
    saved: int
    """Bytes not used because equal atoms and key tables are stored once."""
    released: int
    """Bytes of blocks released so far."""
    released_blocks: int
    """Number of blocks released so far."""
    waiting: int
    """How many of them wait, because some process may still see them."""
    returned: int
    """Bytes of memory given back of the others: their whole pages."""
    reused: int
    """Bytes of released blocks whose addresses are used again."""
    unlisted: int
    """Processes that found no place in the family's table: if not 0, nothing is given back."""
    spans: int
    """Spans in use: buffers, channels, and large messages that wait."""
    span_bytes: int
    """Bytes that they take."""
    span_kept: int
    """Bytes of memory of earlier spans that are kept for the next ones."""


def stats() -> Stats:
    """Return what the heap holds now.

        >>> permaheap.stats().used
        1048576

    It is cheap: counters are read, the heap is not walked. While released blocks wait it looks
    at each process of the family, too, and gives back what nobody can see any more.
    """
    return Stats(**_core.stats())
