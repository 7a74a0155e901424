"""The figures of stats(), against what was frozen."""

import dataclasses

import pytest

import permaheap
from permaheap import freeze, stats
from processes import SEALED


def grown(work):
    """Return the stats before and after some work."""
    before = stats()
    work()
    return before, stats()


def test_record():
    record = stats()
    assert type(record) is permaheap.Stats
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.used = 0
    assert record == stats()
    for name in ("reserved", "used", "blocks", "saved"):
        assert type(getattr(record, name)) is int
        assert getattr(record, name) >= 0
    assert "used=" in repr(record)


def test_family_and_mapping(in_child):
    record = stats()
    assert int(record.family, 16) > 0
    assert record.mapping.startswith(("private", "sealed", "read-only: "))
    assert record.mapping.startswith("sealed") is SEALED
    assert in_child(lambda: stats().family) == record.family


def test_used_grows_by_about_what_is_frozen():
    before, after = grown(lambda: freeze([b"x" * 1_000_000, b"y" * 1_000_000]))
    assert 2_000_000 <= after.used - before.used < 2_300_000
    assert after.blocks == before.blocks + 1
    assert after.used <= after.reserved


def test_blocks_count_freezes():
    before, after = grown(lambda: [freeze([1.5, [i]]) for i in range(100)])
    assert after.blocks == before.blocks + 100


def test_nothing_to_store():
    frozen = freeze([1.5])
    before, after = grown(lambda: [freeze(obj) for obj in (None, True, 5, "a", b"", (), frozen)])
    assert after == before


def test_objects_by_kind():
    given = [
        [{"id": 10**6 + i, "text": f"text {i}"}, {i * 0.3}, b"bytes %d" % i] for i in range(100)
    ]
    before, after = grown(lambda: freeze(given))
    more = {
        kind: count - before.objects.get(kind, 0)
        for kind, count in after.objects.items()
        if count != before.objects.get(kind, 0)
    }
    assert more["tuple"] == 101
    assert more["bytes"] == 100
    assert more["float"] in (99, 100)
    assert more["int"] == 100
    assert more["frozenset"] == 100
    assert sum(more.values()) >= 600
    assert set(after.objects) == set(after.bytes)
    assert all(after.bytes[kind] > before.bytes.get(kind, 0) for kind in more)
    assert sum(after.bytes.values()) <= after.used + after.released  # all that was frozen so far


def test_saved_by_equal_atoms():
    def fresh():
        return ["".join(["some longer text ", "x" * 1000]) for _ in range(100)]

    before, after = grown(lambda: freeze(fresh()))
    assert after.saved - before.saved >= 99 * 1000
    before, after = grown(lambda: freeze([str(i) * 100 for i in range(100)]))
    assert after.saved - before.saved < 1000


def test_saved_by_shapes():
    given = [{"first": i, "second": i, "third": i} for i in range(1000)]
    before, after = grown(lambda: freeze(given))
    assert after.saved > before.saved
    assert (after.used - before.used) / 1000 < 350


def test_failures_leave_no_trace():
    def fail():
        with pytest.raises(permaheap.FreezeError):
            freeze([{"a": [1.5] * 1000}, "x" * 100_000, object()])

    before, after = grown(fail)
    assert after == before


def test_child_sees_what_the_parent_froze_and_the_parent_what_the_child_froze(in_child):
    freeze([1.5])
    before = stats()
    assert in_child(lambda: (stats().used, stats().blocks)) == (before.used, before.blocks)
    in_child(lambda: freeze(["x" * 100_000]) and None)
    assert stats().used >= before.used + 100_000
    assert stats().blocks == before.blocks + 1


def test_wrong_arguments():
    with pytest.raises(TypeError):
        stats(1)
