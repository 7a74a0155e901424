"""Profiles such as the profiler would make of a pre-fork server; the same at each run.

    python tests/support/cow_profiles.py report.html

writes the report of one, to look at.
"""

import random
import sys
from pathlib import Path

from permaheap.cow._html import render
from permaheap.cow._model import Cause, Page, Profile, Sample, Worker

PAGE_SIZE = 4096
ARENA = 256  # pages
TYPES = [
    *("dict", "str", "list", "tuple", "function", "type", "bytes", "int", "float", "set"),
    *("django.db.models.fields.CharField", "cell", "getset_descriptor", "weakref"),
    *("sqlalchemy.orm.attributes.InstrumentedAttribute", "method", "module", "property"),
]

# How often, what is written to, which field; of the heap's pages.
HEAP_CAUSES = [
    (34, Cause.REFERENCE_COUNT, TYPES[:12], ["ob_refcnt"]),
    (14, Cause.GC_HEADER, ["dict", "list", "tuple", "type", "function"], ["_gc_prev", "_gc_next"]),
    (9, Cause.MUTATION, ["dict", "list", "set"], ["ma_values[3]", "ob_item[17]", "used"]),
    (17, Cause.NEW_OBJECT, ["str", "dict", "tuple", "frame"], ["pymalloc, size class 48"]),
    (6, Cause.FREE_LIST, ["float", "list", "tuple"], ["nextoffset of the pool"]),
    (12, Cause.INLINE_CACHE, ["code"], ["get_response", "URLResolver.resolve", "Model.__init__"]),
    (1, Cause.INTERNING, ["str"], ["state.interned"]),
    (2, Cause.HASH_CACHE, ["str"], ["hash"]),
    (3, Cause.LEFT_BEHIND, [None], [None]),
    (6, Cause.UNKNOWN, [None], [None]),
]

GAPS = [0] * 30 + [40, 700]  # pages


def family(*, workers=4, heap_pages=30 * 2**20 // PAGE_SIZE, samples=40) -> Profile:
    """Return a profile of a gunicorn master and its workers."""
    rng = random.Random(4)
    heap = _heap(rng, heap_pages)
    return Profile(
        mode="trace",
        parent=1200,
        python="3.14.8",
        page_size=PAGE_SIZE,
        workers=tuple(_worker(random.Random(n), n, heap, samples) for n in range(workers)),
        heap=tuple(heap),
        notes=("frame numbers need CAP_SYS_ADMIN: without it, pages are told apart by content",),
        parent_samples=tuple(
            Sample(second * 0.5, (1 << 20) + second * 20_000, (9 << 20) - second * 4096, 6 << 20)
            for second in range(samples)
        ),
    )


def _heap(rng, pages):
    """Arenas of 1 MiB, most of them side by side."""
    ranges = []
    start = 0x7F3A_2C00_0000
    while pages > 0:
        number = min(pages, ARENA * rng.choice([1, 2, 3, 8, 12]))
        ranges.append((start, start + number * PAGE_SIZE))
        start += (number + ARENA * rng.randrange(2, 40)) * PAGE_SIZE
        pages -= number
    return ranges


def _worker(rng, number, heap, samples):
    pages = [page for span in heap for page in _span_pages(rng, *span)]
    pages += _other_pages(rng)
    dirty = len(pages) * PAGE_SIZE + number * 700_000
    shared = sum(end - start for start, end in heap) + (40 << 20)
    return Worker(
        pid=1201 + number,
        command="gunicorn: worker [shop.wsgi:application]",
        samples=tuple(
            Sample(
                seconds=(moment + number * 0.1) * 0.5,
                private_dirty=(
                    now := int(dirty * (1 - 0.75 * (0.86 + 0.03 * (number % 4)) ** moment))
                ),
                pss=now + (shared - now) // 5,
                shared=shared - now,
            )
            for moment in range(samples)
        ),
        pages=tuple(pages),
    )


def _span_pages(rng, start, end):
    """Copied pages come in runs, with a cause that repeats."""
    place = random.Random(start)  # the same runs in each worker, more or less
    page = start
    while page < end:
        weights = [weight for weight, *_ in HEAP_CAUSES]
        _, cause, names, details = place.choices(HEAP_CAUSES, weights)[0]
        length = place.choice([1, 1, 2, 4, 7, 16])
        copied = place.random() < 0.55
        others = tuple(place.sample(TYPES, place.randrange(1, 6)))
        for address in range(page, min(end, page + length * PAGE_SIZE), PAGE_SIZE):
            if copied and rng.random() < 0.9:
                certain = cause is not Cause.UNKNOWN and rng.random() < 0.8
                named = rng.choice(names), rng.choice(details)
                yield Page(address, cause, *named, others if names[0] else (), certain)
        page += length * PAGE_SIZE
        page += place.choice(GAPS) * PAGE_SIZE if not copied else 0


def _other_pages(rng):
    for cause, name, start, count in [
        (Cause.MALLOC, "[heap]", 0x55D0_1122_3000, 160),
        (Cause.OTHER_MAPPING, "libpython3.14.so.1.0 .data", 0x7F3A_8E40_0000, 70),
        (Cause.OTHER_MAPPING, "_ssl.cpython-314-x86_64-linux-gnu.so .data", 0x7F3A_8F00_0000, 4),
        (Cause.STACK, "[stack]", 0x7FFD_4410_0000, 18),
    ]:
        for index in range(count):
            if rng.random() < 0.8:
                yield Page(start + index * PAGE_SIZE, cause, name)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(render(family()), "utf-8")
