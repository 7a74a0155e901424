"""Spans: shared memory that is given back, even if the processes that use it are killed."""

import contextlib
import ctypes
import itertools
import os
import random
import resource
import signal
import threading
import traceback

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

import permaheap
from permaheap import _core, freeze, reclaim
from processes import Child, ChildFailed, memory
from test_release import TABLE

PAGE = 4096
MIB = 2**20
BUFFER, CHANNEL, MESSAGE = 1, 2, 3
MOST = 16384  # spans at a time
RING = 64 * 1024  # bytes of a channel's span
FORGED = 0x7FFF_0000_0000


def new(size, *, zeroed=False, kind=BUFFER):
    return _core._testing.span_new(size, zeroed, kind)


def drop(*spans):
    for span in spans:
        _core._testing.span_drop(span)


def words(span):
    """Return a span's memory as an array of 8-byte words."""
    address, size, _ = _core._testing.span_view(span)
    return (ctypes.c_uint64 * (size // 8)).from_address(address)


def places(array):
    """Return the indices of a word here and there, the first and the last among them."""
    return [*range(0, len(array), max(PAGE // 8, len(array) // 16)), len(array) - 1]


def fill(span, value):
    """Write a value here and there into a span."""
    array = words(span)
    for i in places(array):
        array[i] = value


def holds(span, value):
    """Return whether that value is in all these places."""
    array = words(span)
    return all(array[i] == value for i in places(array))


def figures():
    """Return how many spans are in use and their bytes, after an audit."""
    _core._testing.check()
    stats = permaheap.stats()
    return stats.spans, stats.span_bytes


class Box:
    """Where one message at a time waits: a position that only grows, odd when one is there."""

    def __init__(self):
        self.span = new(PAGE, zeroed=True)

    @property
    def address(self):
        return _core._testing.span_view(self.span)[0]

    @property
    def position(self):
        return words(self.span)[0]

    def publish(self, *spans):
        words(self.span)[1] = len(spans)
        words(self.span)[2 : 2 + len(spans)] = spans
        _core._testing.span_message(False, spans, self.address, self.position + 1)

    def message(self):
        """Return the spans that wait there."""
        n = words(self.span)[1] if self.position % 2 else 0
        return tuple(words(self.span)[2 : 2 + n])

    def take(self):
        spans = self.message()
        _core._testing.span_message(True, spans, self.address, self.position + 1)
        return spans


@pytest.fixture(autouse=True)
def _all_given_back():
    """Assert that a test leaves the figures as it found them."""
    reclaim()
    before = figures()
    yield
    _core._testing.death(0)
    _core._testing.fault(0)
    reclaim()
    assert figures() == before


# --- In one process ------------------------------------------------------------------------------


def test_a_span():
    before = figures()
    span = new(10_000, zeroed=True)
    address, size, ours = _core._testing.span_view(span)
    assert (address % PAGE, size, ours) == (0, 10_000, True)
    assert figures() == (before[0] + 1, before[1] + 3 * PAGE)
    assert holds(span, 0)
    fill(span, 5)
    assert holds(span, 5)
    drop(span)
    assert _core._testing.span_view(span) is None
    assert figures() == before


@pytest.mark.parametrize("size", [0, 1, PAGE - 1, PAGE, PAGE + 1, 3 * MIB, 100 * MIB])
def test_sizes(size):
    before = figures()
    span = new(size)
    assert _core._testing.span_view(span)[1] == size
    assert figures()[1] - before[1] == max(1, -(-size // PAGE)) * PAGE
    if size >= 8:
        fill(span, 7)
        assert holds(span, 7)
    drop(span)


def test_zeroed():
    for _ in range(3):
        span = new(50_000)
        fill(span, 2**64 - 1)
        drop(span)
        span = new(50_000, zeroed=True)
        assert holds(span, 0)
        drop(span)


def test_holds_are_counted():
    span = new(100)
    for _ in range(3):
        _core._testing.span_hold(span, BUFFER)
    drop(span, span, span)
    assert _core._testing.span_view(span) is not None
    drop(span)
    assert _core._testing.span_view(span) is None
    drop(span)  # names nothing: no harm
    with pytest.raises(ValueError, match="any more"):
        _core._testing.span_hold(span, BUFFER)


def test_reused_index_has_another_name():
    names = set()
    for _ in range(1000):
        span = new(100)
        names.add(span)
        drop(span)
    assert len(names) == 1000


def test_another_kind_is_another_span():
    span = new(100)
    with pytest.raises(ValueError, match="names no buffer"):
        _core._testing.span_hold(span, CHANNEL)
    drop(span)


@settings(max_examples=300)
@given(
    generation=st.integers(2**31, 2**32 - 1), index=st.integers(0, 100) | st.integers(0, 2**32 - 1)
)
def test_forged_name(generation, index):
    refused(generation << 32 | index)


def test_name_of_another_generation():
    span = new(100)
    for bit in range(32, 64):
        refused(span ^ 1 << bit)
    drop(span)
    refused(span)


def refused(name):
    """Assert that this names nothing, for every function that takes a name."""
    before = permaheap.stats()
    for kind in (0, BUFFER, CHANNEL, MESSAGE):
        with pytest.raises(ValueError, match="names no buffer"):
            _core._testing.span_hold(name, kind)
    assert _core._testing.span_view(name) is None
    drop(name)
    box = Box()
    for take in (False, True):
        with pytest.raises(ValueError, match="names no buffer"):
            _core._testing.span_message(take, (name,), box.address, 1)
    assert box.position == 0
    drop(box.span)
    assert permaheap.stats().spans == before.spans


def test_too_large():
    for size in (2**41, 2**63, 2**64 - 1):
        with pytest.raises(MemoryError, match=r"reserved|full"):
            new(size)


def test_more_than_there_is_room_for():
    spans = []
    with pytest.raises(MemoryError, match="16384 buffers"):
        while True:
            spans.append(new(1))
    assert permaheap.stats().spans == MOST
    assert len(spans) > MOST - 100
    drop(*spans[::2])
    spans = spans[1::2] + [new(2 * PAGE) for _ in range(100)]
    _core._testing.check()
    drop(*spans)


def test_memory_is_used_again():
    """10,000 x 10 MB need the memory of one, and no page faults."""
    drop(new(10_000_000))
    before = memory()
    span = new(10_000_000)
    ctypes.memset(_core._testing.span_view(span)[0], 1, 10_000_000)
    drop(span)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for i in range(10_000):
        span = new(10_000_000)
        words(span)[i % 1000 * 512] = i
        drop(span)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults < 5000
    assert memory() - before < 20_000_000


def test_kept_memory_is_bounded():
    spans = [new(8 * MIB) for _ in range(40)]
    before = memory()
    drop(*spans)
    stats = permaheap.stats()
    assert 0 < stats.span_kept <= 256 * MIB
    assert before - memory() >= 40 * 8 * MIB - stats.span_kept
    _core._testing.span_sweep(True)
    assert permaheap.stats().span_kept == 0
    assert before - memory() >= 40 * 8 * MIB


def test_a_freeze_is_not_refused_for_what_is_kept():
    """The limits are those of the machine here; test_limits.py has those of cgroups."""
    drop(new(50 * MIB))
    assert permaheap.stats().span_kept >= 50 * MIB
    _core._testing.fault(1)
    freeze_or_not(b"x" * 100_000)
    _core._testing.fault(0)
    _core._testing.check()


def freeze_or_not(obj):
    try:
        return freeze(obj)
    except (MemoryError, OSError):
        return None


def test_pieces_grow_together_again():
    """After all is dropped one span can have the place of many."""
    _core._testing.span_sweep(True)
    spans = [new(random.randrange(1, 200_000)) for _ in range(300)]
    random.shuffle(spans)
    drop(*spans[:150])
    spans = spans[150:] + [new(random.randrange(1, 200_000)) for _ in range(100)]
    random.shuffle(spans)
    drop(*spans)
    claimed = permaheap.stats().reserved
    first = new(60 * MIB)
    drop(first)
    _core._testing.span_sweep(True)
    second = new(60 * MIB)
    assert permaheap.stats().reserved == claimed
    drop(second)


class Model(RuleBasedStateMachine):
    """The allocator beside a dict: what each span holds, and how often we hold it."""

    spans = Bundle("spans")

    def __init__(self):
        super().__init__()
        self.before = figures()
        self.model = {}  # span: [holds, fill value, size]
        self.waiting = []  # boxes with a message
        self.values = itertools.count(1)

    @rule(
        target=spans,
        size=st.integers(0, 20 * PAGE) | st.sampled_from([PAGE, 64 * PAGE, 3 * MIB, 70 * MIB]),
        zeroed=st.booleans(),
        kind=st.sampled_from([BUFFER, MESSAGE]),
    )
    def new(self, size, zeroed, kind):
        span = new(size, zeroed=zeroed, kind=kind)
        if zeroed and size >= 8:
            assert holds(span, 0)
        value = next(self.values)
        if size >= 8:
            fill(span, value)
        self.model[span] = [1, value, size, kind]
        return span

    @rule(span=spans)
    def hold(self, span):
        if span in self.model:
            _core._testing.span_hold(span, self.model[span][3])
            self.model[span][0] += 1

    @rule(span=spans)
    def drop(self, span):
        drop(span)
        if span in self.model:
            self.model[span][0] -= 1
            if self.model[span][0] == 0:
                del self.model[span]

    @rule(span=consumes(spans))
    def drop_for_good(self, span):
        drop(*[span] * self.model.pop(span, [0])[0])

    @rule(spans=st.lists(spans, min_size=1, max_size=4), also_drop=st.booleans())
    def send(self, spans, also_drop):
        if any(span not in self.model for span in spans):
            return
        box = Box()
        box.publish(*spans)
        self.waiting.append((box, [(span, *self.model[span][1:]) for span in spans]))
        if also_drop:
            self.drop(spans[0])

    @rule(at=st.integers(0, 10))
    def receive(self, at):
        if not self.waiting:
            return
        box, sent = self.waiting.pop(at % len(self.waiting))
        assert box.take() == tuple(span for span, *_ in sent)
        for span, *rest in sent:
            self.model.setdefault(span, [0, *rest])[0] += 1
        drop(box.span)

    @rule(give_back=st.booleans())
    def sweep(self, give_back):
        assert _core._testing.span_sweep(give_back) == 0

    @invariant()
    def figures_agree(self):
        live = {span: entry[2] for span, entry in self.model.items()}
        for box, sent in self.waiting:
            live[box.span] = PAGE
            live.update((span, size) for span, _, size, _ in sent)
        pages = sum(max(1, -(-size // PAGE)) for size in live.values())
        assert figures() == (self.before[0] + len(live), self.before[1] + pages * PAGE)

    @invariant()
    def contents_stay(self):
        taken = []
        for span, (_, value, size, _) in self.model.items():
            address, length, _ = _core._testing.span_view(span)
            assert length == size
            assert size < 8 or holds(span, value)
            taken.append((address, address + max(size, 1)))
        taken.sort()
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(taken))

    def teardown(self):
        for box, _ in self.waiting:
            drop(*box.take(), box.span)
        for span, (count, *_) in self.model.items():
            drop(*[span] * count)
        assert figures() == self.before


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=30, stateful_step_count=40)


# --- Messages ------------------------------------------------------------------------------------


def test_message_holds_its_spans():
    box, a, b = Box(), new(100), new(100)
    fill(a, 11)
    box.publish(a, b, a)
    assert not _core._testing.span_view(a)[2]  # the message holds it, too
    drop(a, b)
    assert _core._testing.span_view(a) is None
    spans = permaheap.stats().spans
    assert box.take() == (a, b, a)
    assert holds(a, 11)
    assert permaheap.stats().spans == spans
    drop(a, b)
    assert _core._testing.span_view(a)[2]
    drop(a, box.span)


def test_damaged_message_takes_nothing():
    box, a, b = Box(), new(100), new(100)
    box.publish(a)
    before = permaheap.stats()
    for names in [(a, a), (a, b), (a, 0), (a, FORGED), (a, a + 2**32)]:
        with pytest.raises(ValueError, match="names no buffer"):
            _core._testing.span_message(True, names, box.address, 2)
    assert (box.position, permaheap.stats()) == (1, before)
    drop(a)
    assert box.take() == (a,)
    drop(a, b, box.span)


def test_only_what_is_held_is_published():
    box, a = Box(), new(100)
    with Child(lambda pipe: drop(a, pipe.recv() or 0) or box.publish(a)) as child:
        child.send(None)
        with pytest.raises(ChildFailed, match="names no buffer"):
            child.join()
    drop(a, box.span)


def test_most_spans_of_a_message():
    box = Box()
    spans = [new(10) for _ in range(512)]
    with pytest.raises(MemoryError, match="512"):
        _core._testing.span_message(False, (*spans, spans[0]), box.address, 1)
    _core._testing.span_message(False, tuple(spans), box.address, 1)
    drop(*spans)
    _core._testing.span_message(True, tuple(spans), box.address, 2)
    drop(*spans, box.span)


def channel():
    """Return a channel."""
    return new(RING, kind=CHANNEL)


def test_channel_lets_go_of_its_messages():
    """Also of a channel in a message, and of what waits in that."""
    before = figures()
    outer, inner, a, b = channel(), channel(), new(100), new(100)
    for to, what in [(outer, inner), (outer, a), (inner, a), (inner, b), (inner, b)]:
        _core._testing.span_send(to, what)
    drop(a, b, inner)
    assert figures()[0] == before[0] + 4
    assert _core._testing.span_view(a) is None
    drop(outer)
    assert figures() == before


def test_channel_that_was_never_made():
    """Its maker was killed before there was a ring."""
    drop(channel())


# --- Processes -----------------------------------------------------------------------------------


def test_child_inherits_holds():
    span = new(100_000)
    fill(span, 3)

    def child(pipe):
        pipe.send("here")
        pipe.recv()
        assert holds(span, 3)
        fill(span, 4)
        pipe.send(_core._testing.span_view(span)[2])
        pipe.recv()
        drop(span)
        assert _core._testing.span_view(span) is None
        pipe.send(None)
        pipe.recv()

    with Child(child) as process:
        process.recv()
        _core._testing.span_hold(span, BUFFER)
        drop(span, span)
        spans = permaheap.stats().spans
        process.send(None)
        assert process.recv() is True  # the child's alone now
        with pytest.raises(AssertionError):
            assert _core._testing.span_view(span)
        _core._testing.span_hold(span, BUFFER)
        assert holds(span, 4)
        process.send(None)
        process.recv()
        assert permaheap.stats().spans == spans
        drop(span)
        assert permaheap.stats().spans == spans - 1
        process.send(None)
        process.join()


def test_parent_drops_before_the_child_runs():
    """A parent lets go late while its child is on its way."""
    for _ in range(50):
        span = new(PAGE)
        fill(span, 9)
        with Child(lambda pipe, span: holds(span, 9), span) as child:
            drop(span)
            others = [new(PAGE) for _ in range(3)]
            for other in others:
                fill(other, 1)
            assert child.join()
            drop(*others)
        assert reclaim() == 0


def test_grandchild_inherits_holds():
    span = new(100)
    fill(span, 6)

    def child(pipe):
        with Child(lambda inner: holds(span, 6)) as grandchild:
            drop(span)
            return grandchild.join()

    with Child(child) as process:
        drop(span)
        assert process.join()


def test_new_spans_of_a_child_are_seen_by_all():
    """Also in an extent that only the child has mapped."""
    box = Box()

    def child(pipe):
        span = new(200 * MIB)
        fill(span, 12)
        box.publish(span)

    with Child(child) as process:
        process.join()
    (span,) = box.take()
    assert holds(span, 12)
    drop(span, box.span)


def leave_behind(n, size):
    """Let a process that holds n new spans be killed."""

    def child(pipe):
        pipe.send([new(size) for _ in range(n)])
        pipe.recv()

    with Child(child) as process:
        process.recv()
        process.kill()


def test_killed_holder():
    before = figures()

    def child(pipe):
        spans = [new(10_000) for _ in range(10)]
        drop(spans[0])
        pipe.send(spans)
        pipe.recv()

    with Child(child) as process:
        spans = process.recv()
        _core._testing.span_hold(spans[1], BUFFER)
        process.kill()
    assert figures()[0] == before[0] + 9
    assert reclaim() == 0
    assert figures()[0] == before[0] + 1
    drop(spans[1])


def test_as_many_dead_holders_as_there_can_be(run):
    """The journal has room for all of them, and what lies behind it stays as it was."""
    code = """
import os
from processes import header, heap_file
from permaheap import Buffer, _core, reclaim, stats

buffer = Buffer(100)
for _ in range(1022):           # each has a slot of its own
    if (pid := os.fork()) == 0:
        os._exit(0)
    os.waitpid(pid, 0)
buffer.release()
reclaim()
assert stats().spans == 0
_core._testing.check()
journal, table = header().journal, header().spans
entries = 88 + 2048 * 16
assert not any(os.pread(heap_file(), table - journal - entries, journal + entries))
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_new_spans_sweep_now_and_then():
    before = figures()[0]
    leave_behind(100, PAGE)
    for _ in range(300):
        drop(new(PAGE))
    assert figures()[0] == before


def test_replaced_by_exec():
    """A process that called exec is no longer one of the family."""
    span = new(100)

    def child(pipe):
        new(100)
        os.execv("/bin/sh", ["sh", "-c", "read line"])

    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(reader, 0)
        os.close(writer)
        child(None)
    os.close(reader)
    os.close(writer)
    assert os.waitpid(pid, 0)[0] == pid
    drop(span)


CLOSED = """
import os, sys
from processes import heap_file, memory
from permaheap import Buffer, Channel, _core, stats

size = 257 << 20                # more than is kept for the next one
reader, writer = os.pipe()
before = memory()
if (pid := os.fork()) == 0:
    secret = Buffer(size)
    secret[:6] = secret[-6:] = b"secret"
    channel = Channel(name="old name")
    channel.send(b"secret")
    if sys.argv[1] == "closed":
        os.closerange(3, 1000)          # as a daemon does
    else:
        _core._testing.fault(1, persistent=True)
    secret.release()
    del channel
    os.write(1, b"%d" % stats().spans)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
if sys.argv[1] == "closed":
    assert memory() - before < 2 << 20, memory()
buffer = Buffer(size)
assert not any(bytes(buffer[i : i + 4096]) != bytes(4096) for i in (0, size // 2, size - 4096))
unnamed, named = Channel(), Channel(name="old name")
unnamed.send(1)
assert len(named) == 0
_core._testing.check()
"""


@pytest.mark.parametrize("how", ["closed", "failing"])
def test_memory_that_is_not_given_back_is_not_used_as_zeros(run, how):
    """A process that has closed its descriptors punches through the mapping.

    If the kernel refuses that, too, the memory waits.
    """
    done = run(CLOSED, how)
    assert (done.returncode, done.stdout) == (0, "0"), done.stderr


AT_ONCE = """
import ctypes, os, time
from pathlib import Path
from processes import header
from permaheap import Buffer, _core, stats

held = Buffer(1)
bytes_before = stats().span_bytes
ready, go, made, end = (os.pipe() for _ in range(4))
children = []
for _ in range(40):             # more than a page of the table has descriptors
    if (pid := os.fork()) == 0:
        os.write(ready[1], b"x")
        os.close(go[1])
        os.close(end[1])
        os.read(go[0], 1)
        try:
            buffer = Buffer(4096)
            os.write(made[1], b"x")
        except MemoryError:
            os.write(made[1], b"-")
        os.read(end[0], 1)
        os._exit(0)
    children.append(pid)
for _ in children:
    os.read(ready[0], 1)
lines = Path("/proc/self/maps").read_text().splitlines()
ours = [line.split() for line in lines if "/memfd:permaheap" in line]
[base] = [int(words[0].split("-")[0], 16) for words in ours if int(words[2], 16) == 0]
mutex = ctypes.c_void_p(base + header().journal)
libc = ctypes.PyDLL(None)
libc.pthread_mutex_lock(mutex)
os.close(go[1])
time.sleep(1)                   # now all of them wait for the lock
libc.pthread_mutex_unlock(mutex)
os.close(made[1])
for _ in children:
    assert os.read(made[0], 1) == b"x"
assert stats().span_bytes - bytes_before == len(children) * 4096, stats()
_core._testing.check()
os.close(end[1])
for pid in children:
    assert os.waitpid(pid, 0)[1] == 0
"""


def test_many_make_spans_at_the_same_time(run):
    """Each gets what it asked for: there are descriptors for all, or it waits for them."""
    done = run(AT_ONCE)
    assert done.returncode == 0, done.stderr


def churn(rounds):
    for i in range(rounds):
        span = new(1 + i * 5000 % 100_000)
        drop(span)


def test_fork_while_another_thread_works():
    """No half of a change, and no lock, is inherited; what the thread was making is not held."""
    stop, failures = threading.Event(), []

    def work():
        try:
            while not stop.is_set():
                churn(10)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(60):
            with Child(lambda pipe: churn(20)) as child:
                child.join()
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures


def test_fork_while_another_thread_makes_a_span():
    """A child does not hold what a thread of its parent had not got yet."""
    drop(new(100 * MIB))
    for _ in range(20):
        before, made = permaheap.stats().spans, []
        thread = threading.Thread(target=lambda made=made: made.append(new(100 * MIB, zeroed=True)))
        thread.start()
        while permaheap.stats().spans == before:
            pass
        with Child(lambda pipe: pipe.recv()) as child:
            too_late = bool(made)
            thread.join()
            drop(*made)
            reclaim()
            assert too_late or permaheap.stats().spans == before
            child.send(None)
            child.join()
        reclaim()
        if not too_late:
            break
    else:
        pytest.skip("this machine zeroes 100 MiB before it forks")


# --- Limits and faults ---------------------------------------------------------------------------


def test_process_without_a_slot(run):
    """It is told so; what it inherits stays, also when all others let go of it."""
    code = """
from test_spans import drop, fill, holds, new
span = new(100)
fill(span, 5)
for i in range(1, PROCESSES):
    put(i, long_after, me[0], 0, 0, 0)

def child(pipe):
    try:
        new(100)
    except OSError as error:
        pipe.send(str(error))
    pipe.recv()
    assert holds(span, 5)

with Child(child) as process:
    print(process.recv())
    drop(span)
    other = new(100)
    fill(other, 6)
    process.send(None)
    process.join()
"""
    done = run(TABLE + "me = processes()[0]\nlong_after = os.getpid() << 40 | 2**40 - 1" + code)
    assert "no place in the table" in done.stdout, done.stderr
    assert done.returncode == 0, done.stderr


def one_of_each():
    """Use all that spans can do, and give all back."""
    box, spans = Box(), []
    try:
        spans.append(new(150 * MIB))
        spans.append(new(10_000, zeroed=True))
        spans.append(new(10_000, kind=CHANNEL))
        box.publish(*spans)
        spans += box.take()
    finally:
        drop(*spans, *box.message(), box.span)


@pytest.mark.parametrize("persistent", [False, True])
def test_every_failure(persistent):
    fired = True
    for n in itertools.count(1):
        _core._testing.span_sweep(True)
        before = figures()
        _core._testing.fault(n, persistent=persistent)
        try:
            one_of_each()
        except (MemoryError, OSError):
            pass
        fired = _core._testing.fault()
        _core._testing.fault(0)
        reclaim()
        assert figures() == before
        if not fired:
            break
    assert n > 3


# --- Killed in the middle ------------------------------------------------------------------------


@contextlib.contextmanager
def end_of_process():
    """End the process after the block in any case, and print nothing but a traceback."""
    try:
        yield
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def killed_at(n, work):
    """Run work in a child that is killed at the n-th death point; return whether it was."""

    pid = os.fork()
    if pid == 0:
        with end_of_process():
            _core._testing.death(n)
            work()
            _core._testing.death(0)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code in (0, -signal.SIGKILL)
    Child.killed += code != 0
    return code != 0


def all_deaths(prepare, work, settle):
    """Kill a child at each death point of some work, and see that all is whole after each."""
    for n in itertools.count(1):
        before = figures()
        prepared = prepare()
        killed = killed_at(n, lambda: work(*prepared))
        _core._testing.check()
        settle(killed, *prepared)
        reclaim()
        assert figures() == before
        if not killed:
            break
    return n


def nothing(*_):
    pass


def test_killed_while_making_without_memory():
    """A span that had no memory yet does not count as kept."""

    def prepare():
        _core._testing.span_sweep(True)
        return (memory(),)

    def settle(killed, before):
        reclaim()
        assert memory() - before >= permaheap.stats().span_kept

    assert all_deaths(prepare, lambda _: drop(new(3 * PAGE), new(10 * MIB)), settle) > 50


@pytest.mark.parametrize("kind", [BUFFER, CHANNEL])
def test_killed_while_making_with_kept_memory(kind):
    drop(new(20 * PAGE))
    work = lambda: drop(new(3 * PAGE, zeroed=True, kind=kind))  # noqa: E731
    assert all_deaths(lambda: (), work, nothing) > 20


def test_killed_while_coalescing():
    def work(*spans):
        drop(*spans[::2])
        drop(*spans[1::2])

    def settle(killed, *spans):
        drop(*spans)

    assert all_deaths(lambda: tuple(new(PAGE) for _ in range(4)), work, settle) > 20


def test_killed_while_holding():
    def work(span):
        drop(span)
        _core._testing.span_hold(span, BUFFER)
        _core._testing.span_hold(span, BUFFER)

    assert all_deaths(lambda: (new(PAGE),), work, lambda _, span: drop(span)) > 5


def test_killed_while_publishing():
    """It is all in the message, or nothing is: the position says which."""
    outcomes = set()

    def settle(killed, box, a, b):
        drop(a, b)
        reclaim()
        outcomes.add((killed, box.position))
        assert box.position in (0, 1)
        for span in box.take() if box.position else ():
            assert holds(span, 8)
            drop(span)
        assert _core._testing.span_view(a) is None
        drop(box.span)

    def prepare():
        box, a, b = Box(), new(100), new(100)
        fill(a, 8)
        fill(b, 8)
        return box, a, b

    all_deaths(prepare, lambda box, a, b: box.publish(a, b, a), settle)
    assert outcomes == {(True, 0), (True, 1), (False, 1)}


def test_killed_while_taking():
    outcomes = set()

    def settle(killed, box):
        reclaim()
        outcomes.add((killed, box.position))
        if box.position == 1:
            drop(*box.take())
        drop(box.span)

    def prepare():
        box, a, b = Box(), new(100), new(100)
        box.publish(a, b, a)
        drop(a, b)
        return (box,)

    all_deaths(prepare, lambda box: box.take(), settle)
    assert outcomes == {(True, 1), (True, 2), (False, 2)}


def test_killed_where_others_have_never_been(run):
    """The process that mends reads the memory of a channel that it never had."""
    code = """
import itertools
import permaheap
from permaheap import Buffer, Channel, _core, move
from processes import Child
from test_spans import killed_at

def send(n):
    channel, buffer = Channel(), Buffer(100)
    _core._testing.death(n)
    channel.send(move(buffer))

def survivor(pipe, n):
    killed = killed_at(0, lambda: send(n))
    Buffer(10).release()
    _core._testing.check()
    permaheap.reclaim()
    assert permaheap.stats().spans == 0
    return killed

for n in itertools.count(1):
    with Child(survivor, n) as process:
        if not process.join():
            break
print(n)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5


def test_killed_while_emptying_a_channel():
    """The process that completes it does not drop a message's hold twice."""

    def prepare():
        outer, inner, a, b = channel(), channel(), new(100), new(100)
        for to, what in [(outer, a), (outer, inner), (outer, a), (inner, b), (inner, a)]:
            _core._testing.span_send(to, what)
        box = Box()
        box.publish(a, a)
        drop(inner, b)
        return box, outer, a

    def work(box, outer, a):
        drop(outer)

    def settle(killed, box, outer, a):
        drop(outer)
        reclaim()
        assert not _core._testing.span_view(a)[2]
        drop(*box.take())
        assert _core._testing.span_view(a)[2]  # no message holds it any more, and we do
        drop(a, box.span)

    assert all_deaths(prepare, work, settle) > 5

    def sweeper(*_):
        reclaim()

    def abandoned():
        with Child(lambda pipe: pipe.send(prepare()) or pipe.recv()) as process:
            box, outer, a = process.recv()
            _core._testing.span_hold(a, BUFFER)
            _core._testing.span_hold(box.span, BUFFER)
            process.kill()
        return box, outer, a

    assert all_deaths(abandoned, sweeper, settle) > 50


def test_killed_while_sweeping():
    def prepare():
        leave_behind(3, 5 * PAGE)
        return ()

    assert all_deaths(prepare, lambda: _core._testing.span_sweep(True), nothing) > 10


def test_killed_while_mending():
    """The process that mends after a killed one is killed as well."""
    for n in range(1, 12):
        span = new(PAGE)
        assert killed_at(12, lambda: drop(new(3 * PAGE)))
        killed_at(n, lambda: drop(new(3 * PAGE)))
        drop(span)
        reclaim()
        _core._testing.check()


def test_killed_before_it_has_joined():
    """A child that dies in the middle of inheriting holds."""
    spans = [new(PAGE) for _ in range(5)]
    before = figures()
    for n in itertools.count(1):
        _core._testing.death(n)
        pid = os.fork()
        if pid == 0:
            _core._testing.death(0)
            os._exit(0)
        _core._testing.death(0)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        other = new(PAGE)
        drop(other)
        reclaim()
        assert figures() == before
        if status == 0:
            break
    assert n > 5
    drop(*spans)


def test_killed_with_its_parent():
    """A child that never comes does not keep what its dead parent had."""

    def parent(pipe):
        new(5 * PAGE)
        _core._testing.death(1)
        if (pid := os.fork()) == 0:
            os._exit(0)
        pipe.send(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        pipe.recv()

    before = figures()
    with Child(parent) as process:
        assert process.recv() == -signal.SIGKILL
        process.kill()
    reclaim()
    assert figures() == before


def test_dead_parent_speaks_for_its_child(run):
    """A child that registers late, when its parent is dead, holds what the parent held."""
    code = """
import ctypes, os, select, signal

slowly = False

@ctypes.CFUNCTYPE(None)
def joining():
    if slowly:
        os.kill(os.getpid(), signal.SIGSTOP)

getattr(ctypes.CDLL(None), "__register_atfork")(None, None, joining, None)

from permaheap import reclaim, stats        # its own handler comes after this one
from processes import Child
from test_spans import fill, holds, new

def parent(pipe):
    global slowly
    span = new(100)
    fill(span, 5)
    slowly = True
    if (pid := os.fork()) == 0:
        pipe.send(holds(span, 5))
        pipe.recv()
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    pipe.send(pid)
    pipe.recv()

with Child(parent) as process:
    pid = process.recv()
    end = select.poll()
    end.register(os.pidfd_open(pid))
    process.kill()
    for _ in range(2):
        reclaim()
        if stats().spans != 1:
            os.kill(pid, signal.SIGKILL)
            raise SystemExit("what the child has was given back")
    os.kill(pid, signal.SIGCONT)
    assert process.pipe.recv()
    reclaim()
    assert stats().spans == 1
    process.send("end")
    end.poll()
reclaim()
assert stats().spans == 0
"""
    done = run(code)
    assert done.returncode == 0, done.stderr


def work_for_ever(pipe, box, seed, deaths):
    """Make, fill, drop, send to itself and receive, until killed."""
    rng = random.Random(seed)
    mine = []
    if deaths:
        _core._testing.death(rng.randrange(1, 3000))
    pipe.send(None)
    while True:
        action = rng.randrange(5)
        if action < 2:
            span = new(rng.choice([1, PAGE, 5 * PAGE, 40 * PAGE, 3 * MIB]), zeroed=action == 1)
            mine.append(span)
        elif action == 2 and mine:
            drop(mine.pop(rng.randrange(len(mine))))
        elif action == 3 and mine and not box.message():
            box.publish(*rng.sample(mine, min(3, len(mine))))
        elif box.message():
            mine += box.take()
        while len(mine) > 10:
            drop(mine.pop())


def killed_at_random(rounds, workers=3):
    rng = random.Random(7)
    before = figures()
    boxes = [Box() for _ in range(workers)]

    def start(i):
        child = Child(work_for_ever, boxes[i], rng.random(), rng.random() < 0.5)
        with contextlib.suppress(ChildFailed):
            child.recv()
        return child

    children = [start(i) for i in range(workers)]
    for _ in range(rounds):
        i = rng.randrange(workers)
        for _ in range(rng.randrange(40)):
            drop(new(rng.randrange(1, 50_000)))
        if children[i].pid is not None:
            os.kill(children[i].pid, 9)
            children[i].reap()
            Child.killed += 1
        children[i].pipe.close()
        _core._testing.check()
        drop(*(boxes[i].take() if boxes[i].message() else ()))
        children[i] = start(i)
    for child, box in zip(children, boxes, strict=True):
        if child.pid is not None:
            child.kill()
        child.pipe.close()
        drop(*(box.take() if box.message() else ()), box.span)
    reclaim()
    assert figures() == before


def test_killed_at_random():
    killed_at_random(60)


@pytest.mark.slow
def test_killed_at_random_many_times():
    killed_at_random(500)


def test_sealed(run):
    """Spans are writable to all also where permanent blocks are read-only."""
    code = """
from test_spans import *
assert permaheap.stats().mapping.startswith("sealed")
span = new(100_000)
with Child(lambda pipe: fill(span, 3)) as child:
    child.join()
assert holds(span, 3)
drop(span)
reclaim()
print(figures())
"""
    done = run(code, PERMAHEAP_SEAL="1")
    assert done.stdout == "(0, 0)\n", done.stderr


def test_audit_sees_damage(run):
    """The audit can fail: a figure that is wrong."""
    code = """
from test_spans import *
from processes import header, heap_file
span = new(100)
offset = header().spans
live = 8 * 4
assert int.from_bytes(os.pread(heap_file(), 8, offset + live), "little") == 1
os.pwrite(heap_file(), b"\\2", offset + live)
try:
    permaheap._core._testing.check()
except AssertionError as error:
    print(error)
"""
    done = run(code)
    assert "figures that do not add up" in done.stdout, done.stderr
