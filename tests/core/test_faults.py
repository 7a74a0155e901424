"""Each system call and allocation of the core fails in turn; nothing may be lost or left behind.

A scenario runs with the first call failing, then with the second, and so on until none does; once
with one failure, once with all later calls failing as well. The core's own switch injects faults
into the system calls and its memory, `_testcapi.set_nomemory` into the memory of Python.
"""

import contextlib
import sys
from collections import Counter, OrderedDict
from datetime import UTC, date, datetime, time, timedelta, timezone

import pytest

import permaheap
from permaheap import freeze, freeze_each, freeze_pairs, is_frozen, share, stats, thaw
from processes import Child, audit, handle_of, resolve

fault = permaheap._core._testing.fault

try:
    import _testcapi
except ImportError:  # a minimal installation
    _testcapi = None

FIRST = freeze({"something": ["frozen", 1.5]})


class Convertible:
    """Freezes into a dict."""

    def __freeze__(self):
        return {"converted": [1.5, "text", OrderedDict(a=1)]}


def dates():
    if sys.version_info < (3, 13):
        return []
    zone = timezone(timedelta(hours=5), "zone")
    return [datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2, 3, tzinfo=zone), time(1, 2),
            date(2026, 5, 6), timedelta(1, 2, 3), zone]  # fmt: skip


def everything(serial):
    """Return a graph with all kinds of object, no two of which are one by caching."""
    shared = [f"shared {serial}"]
    return {
        "atoms": [10**30 + serial, serial + 0.5, serial * 1j + 1, f"text {serial}", "caf\xe9",
                  b"bytes", bytearray(b"array"), None, True, ..., "\ud800", 5, ""],
        "records": [{"id": i, "name": f"name {i}", "shape": [i]} for i in range(5)],
        "containers": [(1, 2.5), {1, "a", (2, 3)}, frozenset(range(20)), {(1, "k"): [1]}],
        "mappings": [OrderedDict(b=1, a=2), Counter("hello"), {i: str(i) for i in range(40)}],
        "others": [range(10**6, 10**7), slice(1, [10**9], "x"), *dates()],
        "shared": [shared, shared, FIRST],
        "converted": [Convertible(), object()],
    }  # fmt: skip


def default(obj):
    return ["by default", 2.5]


def itself(obj):
    return obj


def freeze_everything():
    return freeze(everything(1), default=default)


def freeze_large():
    """Spill from extent to extent, and into fresh memory."""
    return freeze([bytes(700_000), [str(i) for i in range(2000)], bytes(2_500_000)])


def freeze_items():
    return freeze_each((everything(i) for i in range(3)), default=default)


def freeze_items_as_pairs():
    pairs = [(f"key {i}", everything(i)) for i in range(3)]
    return freeze_pairs([*pairs, pairs[0]], default=default)


def freeze_nested():
    """Freeze in the middle of freezing."""

    def freeze_inner(obj):
        return freeze(everything(2), default=default)

    return freeze([1.5, object(), "after"], default=freeze_inner)


def freeze_keys():
    """Keys that must be hashed and compared at their final addresses."""
    return freeze({frozenset([i, (i, "x")]): {(i, 2.5), "y"} for i in range(10)})


def freeze_refused():
    """A freeze that ends with an error anyway."""
    with pytest.raises(permaheap.FreezeError, match="object"):
        freeze([everything(1), object()], default=lambda obj: obj)


THAWED = freeze(everything(3), default=default)


def thaw_everything():
    return thaw(THAWED)


def share_and_get():
    frozen = THAWED["others"]
    handle = share(frozen)
    assert permaheap.Handle.from_bytes(bytes(handle)).get() is frozen
    assert is_frozen(frozen)
    return len(frozen)


def plain(result):
    """Return ordinary objects to compare."""
    return thaw(result) if is_frozen(result) else result


SCENARIOS = [freeze_everything, freeze_large, freeze_items, freeze_items_as_pairs, freeze_nested,
             freeze_keys, freeze_refused, thaw_everything, share_and_get]  # fmt: skip


@contextlib.contextmanager
def failing(n, persistent):
    """Let the n-th call of the core fail, and if persistent all later ones, within the block."""
    fault(n, persistent)
    try:
        yield
    finally:
        failing.fired = fault()
        fault(0)


def attempts(scenario, persistent, most=3000):
    """Run the scenario with the first, second, ... call failing, until none does.

    Yield for each what it raised, or None.
    """
    for n in range(1, most):
        error = None
        try:
            with failing(n, persistent):
                scenario()
        except (MemoryError, OSError) as caught:
            error = caught
        if not failing.fired:
            assert error is None
            return
        yield error
    raise AssertionError("calls without end")


def assert_clear(error):
    """Say what could not be done: at least a few words, and those of permaheap or of Python."""
    assert str(error) == "" or len(str(error).split()) > 2
    if isinstance(error, OSError):
        assert "permaheap" in str(error)


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_core_call_fails(scenario, persistent):
    expected = plain(scenario())
    failures = 0
    used, blocks = stats().used, stats().blocks
    for error in attempts(scenario, persistent):
        if error is not None:
            failures += 1
            assert_clear(error)
            # Blocks of a finished inner freeze stay, and nothing else does.
            if scenario is not freeze_nested:
                assert (stats().used, stats().blocks) == (used, blocks)
        permaheap._core._testing.check()
        assert thaw(freeze(["next", {"x": 2.5}])) == ["next", {"x": 2.5}]
        used, blocks = stats().used, stats().blocks
    assert plain(scenario()) == expected
    if scenario is not share_and_get:
        assert failures > 0
    audit()


def in_a_child_with_fault(pipe, n, persistent):
    """Return the handle of what was frozen, or the error; and whether the fault fired."""
    outcome = None
    used = stats().used
    try:
        with failing(n, persistent):
            outcome = handle_of(freeze([n, everything(4), bytes(600_000)], default=default))
    except (MemoryError, OSError) as error:
        outcome = f"{type(error).__name__}: {error}"
        assert stats().used == used
    permaheap._core._testing.check()
    again = freeze(["again", n, bytes(100_000)])
    assert again[:2] == ("again", n)
    return outcome, failing.fired, handle_of(again)


@pytest.mark.parametrize("persistent", [False, True], ids=["once", "from then on"])
def test_core_call_fails_in_a_child(persistent):
    """A new process reserves a window to write through, claims or inherits an extent, maps it."""
    errors = set()
    for n in range(1, 500):
        with Child(in_a_child_with_fault, n, persistent) as child:
            outcome, fired, again = child.join()
        assert resolve(again)[1] == n
        if isinstance(outcome, bytes):
            assert resolve(outcome)[0] == n
        else:
            errors.add(outcome)
        if not fired:
            break
    assert not fired
    assert len(errors) > 2, errors
    audit()


def resolve_with_fault(pipe, n):
    """Map what a sibling has frozen, with a fault, and without."""
    data = pipe.recv()
    try:
        with failing(n, False):
            size = len(resolve(data))
    except (MemoryError, OSError) as error:
        size = str(error)
    assert len(resolve(data)) == 3
    permaheap._core._testing.check()
    return size, failing.fired, data


def test_resolving_fails():
    messages = []
    for n in range(1, 20):
        with Child(resolve_with_fault, n) as reader:
            with Child(lambda pipe: handle_of(freeze([bytes(20_000_000), 1.5, "x"]))) as builder:
                reader.send(builder.join())
            outcome, fired, data = reader.join()
        resolve(data)  # so that the next child has only one extent to map
        if not fired:
            assert outcome == 3
            break
        messages.append(outcome)
    assert not fired
    assert any("map an extent" in str(message) for message in messages)


# --- The beginning ------------------------------------------------------------------------------

# Importing permaheap makes the heap, or else the first freeze does: here the latter, by a limit on
# addresses that is lifted once permaheap has been imported.
BEGINNING = """
import os, resource, sys
limits = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (100 << 20, limits[1]))
import permaheap
resource.setrlimit(resource.RLIMIT_AS, limits)

def make(n):
    permaheap._core._testing.fault(n, sys.argv[1] == "True")
    try:
        permaheap.freeze(["first", {"x": 1.5}])
    except (MemoryError, OSError) as error:
        print(error, flush=True)
    fired = permaheap._core._testing.fault()
    permaheap._core._testing.fault(0)
    frozen = permaheap.freeze(["first", {"x": 1.5}])
    assert permaheap.share(frozen).get() is frozen
    assert permaheap._core._testing.check() == permaheap.stats().blocks
    os._exit(fired)

n, fired = 0, 1
while fired:                # each in a process without a heap
    n += 1
    pid = os.fork()
    if pid == 0:
        try:
            make(n)
        finally:
            os._exit(2)
    fired = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert fired in (0, 1)
"""


@pytest.mark.no_sanitizer("its limit on memory leaves the sanitizers none")
@pytest.mark.parametrize("persistent", [False, True])
def test_making_the_heap_fails(run, persistent):
    done = run(BEGINNING, persistent)
    assert done.returncode == 0, done.stderr
    expected = ["memfd_create", "map the heap's header", "set up the heap"]
    if persistent:
        expected += ["reserve addresses"]  # one failure only makes the heap smaller
    for what in expected:
        assert what in done.stdout


# --- Python's memory ------------------------------------------------------------------------------


def without_memory(scenario, start):
    """Run the scenario, Python's start-th allocation from now on failing; return the exception."""
    _testcapi.set_nomemory(start, start + 1)
    try:
        scenario()
    except BaseException as error:
        _testcapi.remove_mem_hooks()
        return error
    finally:
        _testcapi.remove_mem_hooks()
    return None


GIVEN = everything(5)
PAIRS = [("a", everything(6)), ("b", GIVEN), ("a", 1)]
# Each is one call of ours: all that it built must be gone if it fails.
CALLS = {
    "freeze": lambda: freeze(GIVEN, default=default),
    "freeze_each": lambda: freeze_each(GIVEN.values(), default=default),
    "freeze_pairs": lambda: freeze_pairs(PAIRS, default=default),
    "freeze keys": lambda: freeze({frozenset([i, (i, "x")]): {(i, 2.5)} for i in range(10)}),
    "thaw": lambda: thaw(THAWED),
}
# Up to 3.13 a plain raise without memory is a SystemError, or in debug builds an abort.
if sys.version_info >= (3, 14):
    CALLS["refused"] = lambda: freeze([GIVEN, object()], default=itself)


@pytest.mark.slow
@pytest.mark.skipif(_testcapi is None, reason="this interpreter comes without _testcapi")
@pytest.mark.parametrize("call", CALLS)
def test_python_allocation_fails(call):
    """In a child: an interpreter short of memory may itself go wrong, but it must not crash."""

    scenario = CALLS[call]

    def work(pipe):
        failures = quiet = 0
        for start in range(1, 5000):
            used, blocks = stats().used, stats().blocks
            error = without_memory(scenario, start)
            if error is None or type(error) is permaheap.FreezeError:
                quiet += 1
                if quiet > 50:
                    break
                continue
            quiet = 0
            failures += 1
            assert type(error) is MemoryError, repr(error)
            assert (stats().used, stats().blocks) == (used, blocks)
            if failures % 20 == 0:
                permaheap._core._testing.check()
        permaheap._core._testing.check()
        return failures

    with Child(work) as child:
        assert child.join() > 0
