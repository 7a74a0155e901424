"""Channels between threads, interpreters and processes: their values, and the order."""

import contextlib
import gc
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import permaheap
from interpreters import Interpreter
from permaheap import Buffer, Channel, Closed, Empty, Full, freeze, move, select, share
from processes import Child, ChildFailed
from test_release import TABLE

SMALL = 16384  # bytes: the least capacity


class Point:
    """Travels by pickle only."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def __eq__(self, other):
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)


class Carrier:
    """Pickles its bytes out of band."""

    def __init__(self, data):
        self.data = data

    def __reduce_ex__(self, protocol):
        return Carrier, (pickle.PickleBuffer(self.data),)


def spans():
    """Return how many bytes the family's live spans take, and how many there are."""
    gc.collect()
    permaheap.reclaim()
    stats = permaheap.stats()
    return stats.span_bytes, stats.spans


def filled(obj=b"x" * 1000, **options):
    """Return a channel without room for one more of these objects."""
    channel = Channel(SMALL, **options)
    while True:
        try:
            channel.try_send(obj)
        except Full:
            return channel


def drain(channel):
    items = []
    while True:
        try:
            items.append(channel.try_recv())
        except Empty:
            return items


@contextlib.contextmanager
def crowd(function, n):
    """Give n children that run the function, and kill those that are left at the end."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(Child(function)) for _ in range(n)]


def wait_until_asleep(pid):
    """Wait until the main thread of a process sleeps: it has then begun to wait."""
    stat = Path(f"/proc/{pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "S":
        os.sched_yield()


# --- One channel ---------------------------------------------------------------------------


def test_what_it_is():
    channel = Channel()
    assert channel.capacity == 256 * 1024
    assert channel.name is None
    assert len(channel) == 0 and channel
    assert not channel.closed
    channel.send(1)
    assert len(channel) == 1
    assert "1 waiting" in repr(channel)
    assert channel.recv() == 1
    assert channel.stats() == {
        "sent": 1, "received": 1, "bytes": channel.stats()["bytes"], "pickled": 0, "large": 0,
    }  # fmt: skip
    channel.close()
    assert channel.closed
    assert "closed" in repr(channel)


@pytest.mark.parametrize("capacity", [1, SMALL, SMALL + 1, 10**6])
def test_capacity_is_rounded_up(capacity):
    assert capacity <= Channel(capacity).capacity < max(2 * SMALL, 2 * capacity)


@pytest.mark.parametrize("capacity", [0, -1, 2**62, 2**80])
def test_impossible_capacity(capacity):
    with pytest.raises(ValueError, match="capacity must be"):
        Channel(capacity)


def test_wrong_arguments():
    with pytest.raises(TypeError, match=r"capacity must be an int.* not str"):
        Channel("large")
    with pytest.raises(TypeError, match="spin must be a number of seconds or None, not str"):
        Channel(spin="never")
    with pytest.raises(TypeError):
        Channel(SMALL, "name")
    with pytest.raises(TypeError, match="name must be str"):
        Channel(name=b"jobs")
    with pytest.raises(ValueError, match="name must have"):
        Channel(name="")
    with pytest.raises(ValueError, match="name must have"):
        Channel(name="x" * 256)
    with pytest.raises(ValueError, match="spin must not be negative"):
        Channel(spin=-1)
    channel = Channel()
    with pytest.raises(TypeError, match="send"):
        channel.send()
    with pytest.raises(TypeError, match="send"):
        channel.send(1, 2)
    with pytest.raises(TypeError, match="unexpected argument 'wait'"):
        channel.send(1, wait=2)
    with pytest.raises(TypeError, match="recv"):
        channel.recv(1, 2)
    with pytest.raises(TypeError, match="unexpected argument"):
        channel.recv(1, timeout=2)
    for timeout in (-1, float("nan"), -0.5):
        with pytest.raises(ValueError, match="timeout must not be negative"):
            channel.recv(timeout)
        with pytest.raises(ValueError, match="timeout must not be negative"):
            channel.send(1, timeout=timeout)
    with pytest.raises(TypeError, match="timeout must be a number of seconds or None, not str"):
        channel.recv("soon")
    assert len(channel) == 0


FULL = """
import pickle, sys
import permaheap
if sys.argv[1] == "unpickle":
    import os
    receiving, sending = os.pipe()
    if os.fork() == 0:  # this child makes no Channel itself
        channel = pickle.loads(os.read(receiving, 1000))
    else:
        channel = permaheap.Channel()
        os.write(sending, pickle.dumps(channel))
        os._exit(os.waitstatus_to_exitcode(os.wait()[1]))
else:
    assert "queue" not in sys.modules
    channel = permaheap.Channel()
base = sys.modules.get("queue")
sys.modules["queue"] = type(sys)("queue")  # as a signal handler in the middle of its import sees it
try:
    while True:
        channel.try_send(bytes(4000))
except permaheap.Full:
    print(issubclass(permaheap.Full, base.Full))
"""


@pytest.mark.parametrize("way", ["make", "unpickle"])
def test_full_is_whole_before_the_first_channel(run, way):
    """A signal handler must not depend on an import that it may have interrupted."""
    done = run(FULL, way)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_exceptions_are_those_of_queues():
    assert issubclass(Full, queue.Full)
    assert issubclass(Empty, queue.Empty)
    for timeout in (0, 0.001):
        with pytest.raises(Empty, match="the channel is empty"):
            Channel().recv(timeout)
        with pytest.raises(Full, match="the channel is full"):
            filled().send(b"x" * 1000, timeout=timeout)
    with pytest.raises(Empty):
        Channel().try_recv()


def test_full_channel_keeps_what_it_has():
    channel = filled(b"x" * 1000)
    n = len(channel)
    with pytest.raises(Full):
        channel.try_send(b"y" * 1000)
    assert drain(channel) == [b"x" * 1000] * n
    channel.send("again")
    assert channel.recv() == "again"


def test_close():
    channel = Channel()
    channel.send(1)
    channel.send(2)
    channel.close()
    channel.close()
    for attempt in (channel.send, channel.try_send):
        with pytest.raises(Closed):
            attempt(3)
    assert list(channel) == [1, 2]
    for attempt in (channel.recv, channel.try_recv):
        with pytest.raises(Closed):
            attempt()
    assert list(channel) == []


def test_with_closes():
    with Channel() as channel:
        channel.send(1)
    assert channel.closed
    assert channel.recv() == 1


def test_equality():
    a, b = Channel(), Channel()
    again = pickle.loads(pickle.dumps(a))
    assert again == a and again is not a
    assert hash(again) == hash(a)
    assert a != b
    assert a != 1
    assert len({a, b, again}) == 2


def test_weak_references():
    channel = Channel()
    there = weakref.ref(channel)
    assert there() is channel
    del channel
    gc.collect()
    assert there() is None


def test_is_final():
    with pytest.raises(TypeError):
        type("Special", (Channel,), {})


# --- What travels -----------------------------------------------------------------------------


def test_permanent_objects_by_reference():
    channel = Channel(SMALL)
    data = freeze({"rows": [[i, str(i)] for i in range(5000)]})
    channel.send(data)
    channel.send(data["rows"][7])
    sent = channel.stats()
    assert channel.recv() is data
    assert channel.recv() is data["rows"][7]
    assert sent["bytes"] == 48
    assert sent["pickled"] == sent["large"] == 0


def test_permanent_dates():
    if sys.version_info < (3, 13):
        pytest.skip("datetime is not permanent here")
    import datetime

    channel = Channel(SMALL)
    data = freeze([datetime.datetime(2026, 1, 2), datetime.timedelta(1)])
    channel.send(data)
    assert channel.recv() is data


def test_released_object():
    channel = Channel(SMALL)
    data = freeze(["released on its way"])
    channel.send(data)
    channel.send("next")
    handle = share(data)
    permaheap.release(handle)
    with pytest.raises(permaheap.HandleError, match="released"):
        channel.recv()
    assert channel.recv() == "next"
    del data
    permaheap.forget(handle)


VALUES = [
    None, True, 0, -5, 10**40, 1.5, 2j, "", "text", "caf\xe9", "\U0001f600", b"", b"bytes",
    bytearray(b"array"), (), (1, (2, [3])), [], [1, [2]], {}, {"a": {"b": [1]}}, set(), {1, 2},
    frozenset({3}), range(1, 9, 2), slice(1, None), ...,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_ordinary_values(value):
    channel = Channel()
    channel.send(value)
    got = channel.recv()
    assert got == value
    assert type(got) is type(value)
    assert channel.stats()["pickled"] == 0


def test_sharing_is_kept():
    channel = Channel()
    row = ["x"]
    channel.send({"a": row, "b": row})
    got = channel.recv()
    assert got["a"] is got["b"] and got["a"] is not row


@pytest.mark.parametrize("size", [SMALL // 2 - 64, SMALL, 10 * SMALL, 5_000_000])
def test_larger_than_the_channel(size):
    channel = Channel(SMALL)
    before = spans()
    for value in (b"v" * size, [str(i) * 10 for i in range(size // 10)], Point("p" * size, 1)):
        channel.send(value)
        assert channel.recv() == value
    stats = channel.stats()
    assert stats["large"] == (3 if size >= SMALL else stats["large"])
    assert stats["bytes"] >= 2 * size
    assert spans() == before


def test_memory_of_large_messages_is_bounded():
    """By the capacity, and one more message."""
    channel, value = Channel(8 * SMALL), b"l" * (5 * SMALL)
    channel.send(value)
    channel.send(value)
    for n in range(10):
        with pytest.raises(Full):
            channel.try_send(value)
        channel.send(n)  # has no memory of its own
        assert channel.recv() == value
        channel.send(value)
        if n % 2:  # the channel is empty every other time
            drain(channel)
            channel.send(value)
            channel.send(value)
        else:
            assert channel.recv() == value
            assert channel.recv() == n
            channel.send(value)
    huge = Channel(SMALL)
    huge.send(b"h" * 10_000_000)
    with pytest.raises(Full):
        huge.try_send(b"h" * SMALL)
    assert len(huge.recv()) == 10_000_000


def test_senders_of_large_messages_wait_for_each_other():
    channel = Channel(SMALL)

    def child(_, letter):
        for _ in range(50):
            channel.send(letter * 100_000)

    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(Child(child, letter)) for letter in (b"a", b"b", b"c")]
        got = [channel.recv() for _ in range(150)]
        for worker in workers:
            worker.join()
    assert sorted(got) == [letter * 100_000 for letter in (b"a", b"b", b"c") for _ in range(50)]
    assert len(channel) == 0


def test_a_killed_sender_does_not_block_large_messages():
    """The bytes that it had counted do not keep others from sending."""
    large = b"l" * 100_000

    def child(_, channel, n):
        permaheap._core._testing.death(n)
        channel.send(large)
        channel.recv()

    for n in range(1, 1000):
        channel = Channel(SMALL)
        with Child(child, channel, n) as worker, contextlib.suppress(ChildFailed):
            worker.join()
            break  # it was not killed any more
        for _ in range(3):
            drain(channel)
            channel.try_send(1)
            channel.try_send(large)
            assert channel.recv() == 1
            assert channel.recv() == large
    assert n > 50


def test_dropped_channel_gives_back_what_waits():
    before = spans()
    channel = Channel(SMALL)
    channel.send(b"v" * 1_000_000)
    channel.send([Buffer(50_000).toreadonly(), Channel(SMALL)])
    assert spans()[1] == before[1] + 4
    del channel
    assert spans() == before


def test_anything_else_is_pickled():
    channel = Channel()
    for value in (Point(1, 2), [Point(3, [4])], {"f": len}):
        channel.send(value)
        assert channel.recv() == value
    assert channel.stats()["pickled"] == 3


def test_without_pickle():
    channel = Channel(pickle=False)
    with pytest.raises(TypeError, match=r"and a test_channels\.Point travels in no other way"):
        channel.send(Point(1, 2))
    with pytest.raises(TypeError, match=r"in this list there is a test_channels\.Point, which"):
        channel.send([1, {"a": (Point(1, 2),)}])
    channel.send([1, 2])
    assert drain(channel) == [[1, 2]]
    again = pickle.loads(pickle.dumps(channel))
    with pytest.raises(TypeError, match="does not pickle"):
        again.send(Point(1, 2))


def test_what_pickle_refuses():
    channel = Channel()
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        channel.send(lambda: None)
    with pytest.raises(TypeError):
        channel.send([threading.Lock()])
    assert len(channel) == 0
    assert channel.stats()["sent"] == 0


def test_what_pickle_leaves_out():
    """Permanent objects and Buffers go by reference in objects of users' types as well."""
    channel, table, shared = Channel(), freeze({"a": [1, 2], "b": "text"}), Buffer.of(b"shared")
    buffer, view, inner = Buffer.of(b"moved"), shared.toreadonly(), Channel(SMALL)
    inner.send("hello")
    point = Point([table, table["a"], move(buffer)], {"view": view, "inner": inner, "again": view})
    channel.send((point, {"inner": inner}, point, share(table)))
    assert buffer.released
    del inner, point, view
    shared.release()
    there, other, again, handle = channel.recv()
    assert again is there
    assert there.x[0] is table and there.x[1] is table["a"]
    assert bytes(there.x[2]) == b"moved" and not there.x[2].readonly
    assert bytes(there.y["view"]) == b"shared" and there.y["again"] is there.y["view"]
    assert there.y["inner"] is other["inner"] and other["inner"].recv() == "hello"
    assert handle.get() is table
    assert channel.stats()["pickled"] == 1


@pytest.mark.parametrize("size", [10, 1000, 100_000])
def test_what_pickle_leaves_out_of_large_messages(size):
    channel, table = Channel(SMALL), freeze([b"f" * 100])
    before = spans()
    value = [Carrier(bytearray(b"x" * size)), Point(b"y" * size, table)]
    value.append(Buffer.of(b"z" * size).toreadonly())
    channel.send([*value, *value])
    del value[2]
    got = channel.recv()
    assert [*map(id, got[:3])] == [*map(id, got[3:])]
    assert bytes(got[0].data) == b"x" * size
    assert got[1].x == b"y" * size and got[1].y is table
    assert bytes(got[2]) == b"z" * size
    del got
    assert spans() == before


def test_what_pickle_leaves_out_stays_when_pickling_fails():
    channel, moved = Channel(), move(Buffer.of(b"moved"))
    before = spans()
    with pytest.raises(TypeError) as raised:
        channel.send((moved, Channel(SMALL), Point(threading.Lock(), 2)))
    assert "pickled this tuple" in raised.value.__notes__[-1]  # pickle has its own
    assert not moved.released
    del raised
    assert spans() == before
    channel.send((moved, Point(1, 2)))
    assert moved.released


def test_what_pickle_leaves_out_between_processes():
    channel, table = Channel(), freeze(["permanent", 1.5])

    def child(_):
        channel.send(Point(table, move(Buffer.of(b"data"))))

    with Child(child) as worker:
        point = channel.recv()
        worker.join()
    assert point.x is table
    assert bytes(point.y) == b"data"


def test_a_stream_that_was_replaced(run):
    code = """
import io
from permaheap import Channel


class Odd(io.BytesIO):
    def getvalue(self):
        return 5

io.BytesIO = Odd
try:
    Channel().send(object())
except TypeError as error:
    print(error)
"""
    done = run(code)
    assert done.stdout == "pickling gave int, not bytes\n", done.stderr


class Unwilling:
    def __reduce__(self):
        return _raise, ()


def _raise():
    raise LookupError("not here")


def test_what_unpickling_raises():
    channel = Channel()
    channel.send(Unwilling())
    channel.send("next")
    with pytest.raises(LookupError, match="not here") as raised:
        channel.recv()
    assert "unpickled a message" in raised.value.__notes__[-1]
    assert channel.recv() == "next"


@pytest.mark.parametrize("size", [0, 1, 100, 20_000, 1_000_000])
@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_out_of_band_buffers(size, kind):
    channel = Channel(SMALL)
    data = kind(i % 251 for i in range(size))
    channel.send([Carrier(data), Carrier(data), "between"])
    first, second, between = channel.recv()
    for carrier in (first, second):
        view = memoryview(carrier.data)
        assert view == data
        assert view.readonly == (kind is bytes)
    assert between == "between"
    if kind is bytearray and size > 0:
        memoryview(first.data)[0] = 77
        assert memoryview(second.data)[0] == data[0]


def test_arrays():
    numpy = pytest.importorskip("numpy")
    channel = Channel(SMALL)
    before = spans()
    for array in (
        numpy.arange(10),
        numpy.arange(300_000).reshape(300, 1000),
        numpy.asfortranarray(numpy.arange(300_000).reshape(300, 1000)),
        numpy.arange(300_000)[::3],
    ):
        channel.send({"array": array})
        got = channel.recv()["array"]
        assert (got == array).all()
        got[0] = 5
        del got
    assert spans() == before


def test_moved_buffers():
    channel = Channel(SMALL)
    before = spans()
    buffer = Buffer(1_000_000)
    buffer[0] = 7
    moved = move(buffer)
    channel.send({"data": moved, "more": 1})
    assert moved.released and buffer.released
    assert channel.stats()["bytes"] < 200
    got = channel.recv()["data"]
    assert got[0] == 7 and len(got) == 1_000_000
    del got, buffer, moved
    assert spans() == before


def test_a_full_channel_leaves_a_moved_buffer_with_its_sender():
    channel = filled(1)
    moved = move(Buffer.of(b"precious"))
    with pytest.raises(Full):
        channel.try_send([moved] * 1)
    with pytest.raises(Full):
        channel.send(moved, timeout=0.001)
    drain(channel)
    channel.send(moved)
    assert bytes(channel.recv()) == b"precious"


def test_read_only_buffers_are_shared():
    channel = Channel(SMALL)
    buffer = Buffer.of(b"for all").toreadonly()
    channel.send(buffer)
    channel.send([buffer])
    assert bytes(channel.recv()) == bytes(channel.recv()[0]) == bytes(buffer) == b"for all"


def test_channels_and_handles():
    channel, other = Channel(SMALL), Channel(SMALL, pickle=False)
    handle = share(freeze(["named"]))
    channel.send({"reply": other, "about": handle})
    same = hash(other)
    del other
    got = channel.recv()
    assert hash(got["reply"]) == same
    assert got["about"] == handle
    assert channel.stats()["pickled"] == 0
    with pytest.raises(TypeError):
        got["reply"].send(Point(1, 2))


def test_too_many_buffers():
    channel = Channel()
    with pytest.raises(ValueError, match="one message cannot hold 600 buffers"):
        channel.send([Channel(SMALL) for _ in range(600)])
    assert len(channel) == 0


# --- Names and pickles -------------------------------------------------------------------------


def test_names():
    first = Channel(name="jobs")
    assert first.name == "jobs"
    assert Channel(name="jobs") == first
    assert Channel(256 * 1024, name="jobs") == first
    assert Channel(name="jobs2") != first
    assert Channel(name="Jobs") != first
    with pytest.raises(ValueError, match="the channel 'jobs' has a capacity of 262144 bytes"):
        Channel(SMALL, name="jobs")
    first.send("kept")
    again = Channel(name="jobs")
    del first
    assert again.recv() == "kept"


def test_a_name_is_free_when_nobody_holds_it():
    first = Channel(name="caf\xe9")
    first.close()
    del first
    again = Channel(SMALL, name="caf\xe9")
    assert not again.closed
    assert again.capacity == SMALL


def test_names_between_processes():
    def child(pipe):
        channel = Channel(name="between")
        pipe.send("made")
        channel.send(pipe.recv())

    with Child(child) as worker:
        assert worker.recv() == "made"
        channel = Channel(name="between")
        worker.send("hello")
        assert channel.recv() == "hello"
        worker.join()


def test_the_name_of_the_dead_is_free():
    def child(pipe):
        keep = Channel(SMALL, name="of the dead")  # noqa: F841
        pipe.send("made")
        pipe.recv()

    with Child(child) as worker:
        assert worker.recv() == "made"
        assert Channel(name="of the dead").capacity == SMALL
        worker.kill()
    assert Channel(2 * SMALL, name="of the dead").capacity == 2 * SMALL


def test_one_channel_for_a_name_that_many_make_at_once():
    """Each round all look for a new name at once, and take their time to make a channel."""
    rounds, n, large = 5, 4, 2**24
    starter = memoryview(Buffer(8)).cast("q")

    def child(pipe):
        channels = []
        for i in range(rounds):
            while starter[0] <= i:
                os.sched_yield()
            channels.append(Channel(large, name=f"at once {i}"))
            channels[-1].send(os.getpid())
            pipe.send("sent")
        pipe.recv()

    with crowd(child, n) as workers:
        for i in range(rounds):
            starter[0] = i + 1
            for worker in workers:
                assert worker.recv() == "sent"
            channel = Channel(name=f"at once {i}")
            assert sorted(drain(channel)) == sorted(worker.pid for worker in workers)
        for worker in workers:
            worker.send("end")
            worker.join()


def test_names_for_a_process_without_a_slot(run):
    """It is refused a channel that it has not inherited, whether that is there or not."""
    code = """
from permaheap import Channel
channel = Channel(name="there")
for i in range(1, PROCESSES):
    put(i, os.getpid() << 40 | 2**40 - 1, processes()[0][0], 0, 0, 0)

def child(pipe):
    for name in ("there", "elsewhere"):
        try:
            Channel(name=name)
        except Exception as error:
            pipe.send(str(error))
    channel.send("inherited")

with Child(child) as process:
    for _ in range(2):
        assert process.poll(30)
        assert "no place in the table" in process.recv()
    process.join()
assert channel.recv() == "inherited"
"""
    done = run(TABLE + code)
    assert done.returncode == 0, done.stderr


def test_stale_pickle():
    channel = Channel(SMALL)
    data = pickle.dumps(channel)
    del channel
    with pytest.raises(permaheap.HandleError, match="this channel is gone"):
        pickle.loads(data)
    others = [Channel(SMALL) for _ in range(10)]
    with pytest.raises(permaheap.HandleError, match="this channel is gone"):
        pickle.loads(data)
    del others


def test_forged_pickles():
    channel = Channel(SMALL)
    _, (data,) = channel.__reduce__()
    assert Channel._from_bytes(data) == channel
    for place in range(len(data)):
        for bit in range(8):
            forged = bytearray(data)
            forged[place] ^= 1 << bit
            with pytest.raises(permaheap.HandleError):
                Channel._from_bytes(bytes(forged))
    for wrong in (b"", data[:-1], data + b"x", 5):
        with pytest.raises(ValueError):
            Channel._from_bytes(wrong)


OUTSIDER = """
import pickle, sys, permaheap
try:
    pickle.loads(bytes.fromhex(sys.argv[1]))
except permaheap.HandleError as error:
    print(error)
"""


def test_pickle_in_an_outsider():
    data = pickle.dumps(Channel(SMALL)).hex()
    done = subprocess.run(
        [sys.executable, "-c", OUTSIDER, data], capture_output=True, text=True, check=True
    )
    assert "this channel comes from another family" in done.stdout
    assert done.stdout.endswith("permaheap.family_context() starts children that are inside\n")


# --- Between threads -----------------------------------------------------------------------------


def test_between_threads():
    channel = Channel(SMALL)
    got = []

    def receive():
        got.extend(channel)

    def send(number):
        for i in range(500):
            channel.send((number, i))

    receivers = [threading.Thread(target=receive) for _ in range(3)]
    senders = [threading.Thread(target=send, args=(i,)) for i in range(3)]
    for thread in receivers + senders:
        thread.start()
    for thread in senders:
        thread.join()
    channel.close()
    for thread in receivers:
        thread.join()
    assert sorted(got) == [(number, i) for number in range(3) for i in range(500)]


def test_close_wakes_waiting_threads():
    empty, full = Channel(SMALL), filled()
    outcomes = []

    def attempt(function, *args):
        try:
            function(*args)
        except Closed:
            outcomes.append("closed")

    threads = [threading.Thread(target=attempt, args=(empty.recv,)) for _ in range(2)]
    threads += [threading.Thread(target=attempt, args=(full.send, b"x" * 1000)) for _ in range(2)]
    for thread in threads:
        thread.start()
    empty.close()
    full.close()
    for thread in threads:
        thread.join()
    assert outcomes == ["closed"] * 4
    assert len(drain_closed(full)) > 0


def drain_closed(channel):
    return list(channel)


def test_moving_buffer_is_pinned_while_its_sender_waits():
    channel = filled(b"x" * 100)
    moved = move(Buffer.of(b"precious"))
    thread = threading.Thread(target=channel.send, args=([moved, b"y" * 100],))
    thread.start()
    for _ in range(50):
        try:
            channel.try_send(moved)
        except (Full, ValueError, BufferError):
            pass
    items = []
    while not any(isinstance(item, list) for item in items):
        items.append(channel.recv())
    thread.join()
    items += drain(channel)
    buffers = [item[0] for item in items if isinstance(item, list)]
    buffers += [item for item in items if isinstance(item, Buffer)]
    assert [bytes(buffer) for buffer in buffers] == [b"precious"]


def test_a_channel_in_a_message_that_waits_is_held():
    """The list is packed: the sender can then change it, and drop the channel in it."""
    channel = filled(b"x" * 100)
    mark = Buffer.of(b"mark").toreadonly()
    value = [mark, Channel(SMALL), b"y" * 100]
    references = sys.getrefcount(mark)
    thread = threading.Thread(target=channel.send, args=(value,))
    thread.start()
    while sys.getrefcount(mark) == references:  # until it is pinned
        os.sched_yield()
    value.clear()
    items = []
    while not any(isinstance(item, list) for item in items):
        items.append(channel.recv(timeout=60))
    thread.join()
    inner = items[-1][1]
    inner.send("through it")
    assert inner.recv() == "through it"


# --- Between interpreters -------------------------------------------------------------------------

ECHO = """
import pickle, permaheap
inward, outward = pickle.loads(pair)
with outward:
    for item in inward:
        outward.send(permaheap.move(item) if type(item) is permaheap.Buffer else item)
"""


def test_between_interpreters():
    there, back = Channel(SMALL), Channel(SMALL)
    data = freeze({"frozen": ["here"]})
    items = [(i, "x" * (i % 100)) for i in range(1000)] + [data, b"l" * 100_000]
    with Interpreter() as interpreter:
        thread = threading.Thread(
            target=interpreter.run, args=(ECHO,), kwargs={"pair": pickle.dumps((there, back))}
        )
        thread.start()

        def send():
            for item in items:
                there.send(item)
            there.send(move(Buffer.of(b"moved")))
            there.close()

        sender = threading.Thread(target=send)
        sender.start()
        got = list(back)
        sender.join()
        thread.join()
    moved = got.pop()
    assert got == items
    assert got[-2] is data
    assert bytes(moved) == b"moved"


def test_interpreter_that_ends_with_messages_on_their_way():
    before = spans()
    channel = Channel(SMALL)
    with Interpreter() as interpreter:
        interpreter.run(
            "import pickle, permaheap\n"
            "channel = pickle.loads(data)\n"
            "channel.send(b'l' * 100_000)\n"
            "channel.send([permaheap.move(permaheap.Buffer.of(b'moved'))])\n"
            "other = permaheap.Channel(16384)\n"
            "channel.send(other)\n"
            "other.send([other.capacity, 'in a channel of the ended'])\n"
            "keep = permaheap.Channel(16384)\n",
            data=pickle.dumps(channel),
        )
    assert channel.recv() == b"l" * 100_000
    assert bytes(channel.recv()[0]) == b"moved"
    assert channel.recv().recv() == [SMALL, "in a channel of the ended"]
    del channel
    assert spans() == before


@pytest.mark.skipif(sys.version_info < (3, 14), reason="queues came in 3.14")
def test_through_a_queue_of_interpreters():
    from concurrent import interpreters

    through = interpreters.create_queue()
    channel = Channel(SMALL)
    through.put(channel)
    assert through.get() == channel


# --- Between processes --------------------------------------------------------------------------


def test_between_processes():
    there, back = Channel(SMALL), Channel(SMALL)

    def child(pipe):
        for item in there:
            back.send(item)
        back.close()

    items = [(i, {"x": "y" * (i % 500)}) for i in range(2000)] + [b"l" * 100_000]
    with Child(child) as worker:

        def send():
            for item in items:
                there.send(item)
            there.close()

        thread = threading.Thread(target=send)
        thread.start()
        assert list(back) == items
        thread.join()
        worker.join()


def test_many_senders_many_receivers():
    channel, results = Channel(SMALL), Channel()

    def sender(pipe):
        number = pipe.recv()
        for i in range(1000):
            channel.send((number, i))

    def receiver(pipe):
        got = list(channel)
        results.send(got)

    with crowd(receiver, 3) as receivers, crowd(sender, 3) as senders:
        for number, worker in enumerate(senders):
            worker.send(number)
        for worker in senders:
            worker.join()
        channel.close()
        all_got = [results.recv() for _ in receivers]
        for worker in receivers:
            worker.join()
    arrived = sorted(item for got in all_got for item in got)
    assert arrived == [(n, i) for n in range(3) for i in range(1000)]
    for got in all_got:  # the messages of one sender arrive in its order
        for number in range(3):
            numbers = [i for n, i in got if n == number]
            assert numbers == sorted(numbers)
    stats = channel.stats()
    assert stats["sent"] == stats["received"] == 3000


def test_what_a_child_froze_arrives_as_the_same_object():
    channel = Channel(SMALL)

    def child(pipe):
        data = freeze({"from": ["a child"]})
        channel.send(data)
        return id(data)

    with Child(child) as worker:
        got = channel.recv()
        assert worker.join() == id(got)
    assert got["from"] == ("a child",)


def test_buffers_between_processes():
    channel = Channel(SMALL)
    before = spans()

    def child(pipe):
        buffer = Buffer(3_000_000)
        memoryview(buffer)[-3:] = b"end"
        channel.send(move(buffer))
        channel.send(Buffer.of(b"for all").toreadonly())

    with Child(child) as worker:
        buffer, shared = channel.recv(), channel.recv()
        worker.join()
    assert bytes(buffer[-3:]) == b"end"
    buffer[0] = 5
    assert bytes(shared) == b"for all"
    del buffer, shared
    assert spans() == before


def test_channels_travel_between_processes():
    requests = Channel(SMALL)

    def server(pipe):
        for number, reply in requests:
            reply.send(number * number)

    with Child(server) as worker:
        for number in range(20):
            reply = Channel(SMALL)
            requests.send((number, reply))
            assert reply.recv() == number * number
        requests.close()
        worker.join()


def _square(numbers, results):
    for number in numbers:
        results.send(number * number)


def _received(channel):
    return channel.recv()


def test_multiprocessing():
    context = permaheap.family_context()
    numbers, results = Channel(SMALL), Channel(SMALL)
    process = context.Process(target=_square, args=(numbers, results))
    process.start()
    for i in range(10):
        numbers.send(i)
    numbers.close()
    assert [results.recv() for _ in range(10)] == [i * i for i in range(10)]
    process.join()
    assert process.exitcode == 0


def test_multiprocessing_pool_and_queue():
    context = permaheap.family_context()
    channel = Channel(SMALL)
    channel.send("through a pool")
    with context.Pool(1) as pool:
        assert pool.apply(_received, (channel,)) == "through a pool"
    through = context.Queue()
    through.put(channel)
    assert through.get() == channel
    through.close()
    through.join_thread()


def test_fork_while_another_thread_waits():
    channel, back = Channel(SMALL), Channel(SMALL)
    thread = threading.Thread(target=lambda: back.send(channel.recv()))
    thread.start()

    def child(pipe):
        channel.send("from the child")
        back2 = Channel(SMALL)
        back2.send(1)
        return back2.recv()

    with Child(child) as worker:
        assert back.recv() == "from the child"
        assert worker.join() == 1
    thread.join()


def test_fork_while_another_thread_sends():
    channel = Channel(SMALL)
    stop = threading.Event()

    def chat():
        i = 0
        while not stop.is_set():
            channel.send(i)
            i += 1
        channel.close()

    thread = threading.Thread(target=chat)
    reader = threading.Thread(target=lambda: deque(channel, maxlen=0))
    thread.start()
    reader.start()
    for _ in range(20):

        def child(pipe):
            try:
                channel.recv(timeout=1)
            except Empty:
                pass
            mine = Channel(SMALL)
            mine.send("mine")
            return mine.recv()

        with Child(child) as worker:
            assert worker.join() == "mine"
    stop.set()
    thread.join()
    reader.join()


# --- Waiting --------------------------------------------------------------------------------------


class Alarm(Exception):
    pass


@pytest.mark.parametrize("what", ["recv", "send", "select", "for"])
def test_signals_interrupt_waiting(what):
    channel = Channel(SMALL)
    full = filled()

    def interrupted(*_):
        raise Alarm

    def child(pipe):
        signal.signal(signal.SIGUSR1, interrupted)
        pipe.send("ready")
        try:
            if what == "recv":
                channel.recv()
            elif what == "send":
                full.send(b"x" * 1000)
            elif what == "select":
                select([channel])
            else:
                next(channel)
        except Alarm:
            return "interrupted"

    with Child(child) as worker:
        assert worker.recv() == "ready"
        wait_until_asleep(worker.pid)
        os.kill(worker.pid, signal.SIGUSR1)
        assert worker.join() == "interrupted"
    channel.send("still usable")
    assert channel.recv() == "still usable"


def interrupted(channel, how):
    """Wait for a channel until a signal comes in a way that does not end a sleep."""

    def alarm(*_):
        raise Alarm

    def of_another_thread():
        wait_until_asleep(os.getpid())
        signal.raise_signal(signal.SIGALRM)

    signal.signal(signal.SIGALRM, alarm)
    if how == "another thread":
        threading.Thread(target=of_another_thread).start()
    else:  # before it sleeps
        signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        channel.recv() if not len(channel) else channel.send(b"x" * 1000)
    except Alarm:
        return "interrupted"


@pytest.mark.parametrize("how", ["another thread", "spinning"])
@pytest.mark.parametrize("what", ["recv", "send"])
def test_signals_that_do_not_end_a_sleep_interrupt_waiting(what, how):
    spin = 0.3 if how == "spinning" else 0
    channel = filled(spin=spin) if what == "send" else Channel(SMALL, spin=spin)
    with Child(lambda pipe: interrupted(channel, how)) as worker:
        assert worker.poll(30)
        assert worker.join() == "interrupted"


def test_signals_that_raise_nothing_do_not_end_waiting():
    channel = Channel(SMALL)

    def child(pipe):
        seen = []
        signal.signal(signal.SIGUSR1, lambda *_: seen.append(1))
        pipe.send("ready")
        return channel.recv(), bool(seen)

    with Child(child) as worker:
        assert worker.recv() == "ready"
        wait_until_asleep(worker.pid)
        os.kill(worker.pid, signal.SIGUSR1)
        channel.send("at last")
        assert worker.join() == ("at last", True)


@pytest.mark.parametrize("spin", [None, 0, 0.001])
def test_spinning(spin):
    there, back = Channel(SMALL, spin=spin), Channel(SMALL, spin=spin)

    def child(pipe):
        for item in there:
            back.send(item)

    with Child(child) as worker:
        for i in range(200):
            there.send(i)
            assert back.recv() == i
        there.close()
        worker.join()


def test_a_timeout_ends_spinning():
    channel, full = Channel(SMALL, spin=1), filled(spin=1)
    start = time.monotonic()
    with pytest.raises(Empty):
        channel.recv(timeout=0.001)
    with pytest.raises(Full):
        full.send(b"x" * 1000, timeout=0.001)
    assert time.monotonic() - start < 2


def test_waiting_costs_no_processor_time():
    channel = Channel(SMALL)

    def child(pipe):
        times = os.times()
        channel.recv()
        after = os.times()
        return after.user + after.system - times.user - times.system

    with Child(child) as worker:
        wait_until_asleep(worker.pid)
        worker.poll(2)
        channel.send("now")
        assert worker.join() <= 0.1


# --- Several at once ------------------------------------------------------------------------------


def test_select():
    a, b, c = Channel(SMALL), Channel(SMALL), Channel(SMALL)
    assert select([a, b, c], timeout=0) == []
    assert select([a, b, c], timeout=0.001) == []
    b.send(1)
    assert select([a, b, c]) == [b]
    a.send(2)
    assert select((a, b, c), timeout=5) == [a, b]
    c.close()
    assert select(iter([c, b, a])) == [c, b, a]
    assert drain(a) == [2]


def test_select_wrong():
    with pytest.raises(TypeError, match="a Channel is needed, not int"):
        select([Channel(SMALL), 5])
    with pytest.raises(TypeError):
        select(5)
    channel = Channel(SMALL)
    channel.send("not to be lost")
    with pytest.raises(TypeError, match="an iterable of Channels is needed"):
        select(channel)
    assert drain(channel) == ["not to be lost"]
    with pytest.raises(ValueError, match="nothing to wait for"):
        select([])
    with pytest.raises(ValueError, match="timeout"):
        select([Channel(SMALL)], timeout=-1)


def test_select_is_woken():
    channels = [Channel(SMALL) for _ in range(5)]

    def child(pipe):
        got = []
        waiting = set(channels)
        while waiting:
            for channel in select(waiting):
                try:
                    got.append(channel.recv())
                    pipe.send("got")
                except Closed:
                    waiting.remove(channel)
        return got

    with Child(child) as worker:
        for i in range(20):
            wait_until_asleep(worker.pid)
            channels[i % 5].send(i)
            assert worker.recv() == "got"
        for channel in channels:
            channel.close()
        assert worker.join() == list(range(20))


def test_several_threads_select():
    channels = [Channel(SMALL) for _ in range(4)]
    got = []

    def receive(channel):
        for _ in range(50):
            assert select([channel]) == [channel]
            got.append(channel.try_recv())

    threads = [threading.Thread(target=receive, args=(channel,)) for channel in channels]
    for thread in threads:
        thread.start()
    for i in range(50):
        for channel in channels:
            channel.send(i)
    for thread in threads:
        thread.join()
    assert sorted(got) == sorted(list(range(50)) * 4)


# --- Damage ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [
    freeze({"permanent": ["object"]}), {"ordinary": [1, "x", 2.5, (None, True)]}, Point(1, 2),
    b"l" * 20_000, Carrier(bytearray(b"abc")),
], ids=["object", "value", "pickle", "large", "buffers"])  # fmt: skip
def test_bit_flips_are_errors(value):
    """Any bit of a message may flip: recv gives an error or a value, and the channel works on."""
    places = find_message(value)

    def child(pipe, channel, place, bit):
        view = channel._ring()
        view[place] ^= 1 << bit
        try:
            channel.recv(timeout=0)
        except Exception as error:
            return type(error).__name__
        return "value"

    outcomes = set()
    for place in places[:: max(1, len(places) // 12)]:
        channel = Channel(SMALL)
        channel.send(value)
        with Child(child, channel, place, place % 8) as worker:
            outcomes.add(worker.join())
    assert outcomes


def test_damaged_spin_is_no_spin():
    """A spin time that would keep a processor busy for years reaches no channel."""
    channel = Channel(SMALL)
    channel.send(Channel(SMALL, spin=0.123456789))
    view = channel._ring()
    place = bytes(view).index((123456789 << 1 | 1).to_bytes(8, sys.byteorder))
    view[place : place + 8] = (2**62 | 1).to_bytes(8, sys.byteorder)
    with pytest.raises(permaheap.MessageError):
        channel.recv()


def test_damaged_name_is_no_name():
    channel = Channel(SMALL, name="damaged")
    view = channel._ring()
    place = bytes(view).index(b"damaged")
    view[place - 1] ^= 0x40  # its size: 1 GiB
    assert channel.name is None
    assert "name=None" in repr(channel)


def test_damaged_message_gives_back_what_it_holds():
    before = spans()
    channel = Channel(SMALL)
    channel.send(["damaged here", Channel(SMALL), Buffer.of(b"held").toreadonly()])
    view = channel._ring()
    view[bytes(view).index(b"damaged here") - 1] ^= 0x80
    with pytest.raises(permaheap.MessageError):
        channel.recv()
    channel.send("next")
    assert channel.recv() == "next"
    del channel, view
    assert spans() == before


def find_message(value):
    """Return where in a ring the bytes of a message are."""
    channel = Channel(SMALL)
    before = bytes(channel._ring())
    channel.send(value)
    after = bytes(channel._ring())
    return [i for i in range(len(after)) if before[i] != after[i]]


# --- Failing calls --------------------------------------------------------------------------------


FROZEN = freeze(["frozen", "once"])


def everything(channel):
    got = []
    for value in (
        {"a": [1, "x" * 50], "b": (2.5, None)},
        b"l" * 100_000,
        FROZEN,
        [Carrier(bytearray(b"abc" * 10_000)), Point(FROZEN, Channel(SMALL))],
        [move(Buffer.of(b"moved")), Channel(SMALL)],
    ):
        channel.send(value)
        got.append(channel.recv())
    return got


@pytest.mark.parametrize("persistent", [False, True])
def test_faults(persistent):
    fault = permaheap._core._testing.fault
    everything(Channel(SMALL))
    gc.collect()
    before = spans()
    failures = 0
    n = 0
    while True:
        n += 1
        channel = None
        fault(n, persistent)
        try:
            channel = Channel(SMALL)
            everything(channel)
        except (MemoryError, OSError):
            failures += 1
        finally:
            fired = fault()
            fault(0)
        if channel is not None:
            drain(channel)
            assert everything(channel)[0] == {"a": [1, "x" * 50], "b": (2.5, None)}
        del channel
        gc.collect()
        assert spans() == before
        if not fired:
            break
    assert failures > 3


@pytest.mark.skipif(not hasattr(sys, "gettotalrefcount"), reason="needs a debug build")
def test_no_reference_leaks():
    def rounds(n):
        for _ in range(n):
            channel = Channel(SMALL)
            everything(channel)
            again = pickle.loads(pickle.dumps(channel))
            with pytest.raises(Empty):
                again.recv(0)
            with pytest.raises(TypeError):
                Channel(SMALL, pickle=False).send(Point(1, 2))
            select([channel], 0)
        gc.collect()

    rounds(300)  # caches of the interpreter fill for some time, and sometimes later
    leaked = []
    for _ in range(4):
        before = sys.gettotalrefcount()
        rounds(200)
        leaked.append(sys.gettotalrefcount() - before)
    assert min(leaked) < 200  # a leak is at least one for each round


# --- Against a slow twin --------------------------------------------------------------------------


class Twin(RuleBasedStateMachine):
    """A channel does what a deque does."""

    def __init__(self):
        super().__init__()
        self.channel = Channel(SMALL)
        self.twin = deque()
        self.closed = False

    @rule(value=st.one_of(
        st.integers(), st.text(), st.binary(max_size=20000), st.lists(st.integers()),
        st.builds(Point, st.integers(), st.text()),
        st.dictionaries(st.text(), st.lists(st.floats(allow_nan=False))),
    ))  # fmt: skip
    def send(self, value):
        try:
            self.channel.try_send(value)
        except Closed:
            assert self.closed
        except Full:
            assert len(self.twin) > 0
        else:
            assert not self.closed
            self.twin.append(value)

    @rule()
    def recv(self):
        try:
            value = self.channel.try_recv()
        except Closed:
            assert self.closed and not self.twin
        except Empty:
            assert not self.closed and not self.twin
        else:
            assert value == self.twin.popleft()

    @rule()
    def fill(self):
        while not self.closed:
            try:
                self.channel.send(b"f" * 3000, timeout=0)
            except Full:
                break
            self.twin.append(b"f" * 3000)

    @precondition(lambda self: len(self.twin) > 3)
    @rule()
    def close(self):
        self.channel.close()
        self.closed = True

    @rule()
    def again(self):
        self.channel = pickle.loads(pickle.dumps(self.channel))

    @invariant()
    def agree(self):
        assert len(self.channel) == len(self.twin)
        assert self.channel.closed == self.closed
        ready = select([self.channel], timeout=0)
        assert bool(ready) == (bool(self.twin) or self.closed)


TestTwin = Twin.TestCase
