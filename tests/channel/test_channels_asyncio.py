"""Channels in event loops: `await` without a thread, in parents and children, and cancelled."""

import asyncio
import gc
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref

import pytest

import permaheap
from permaheap import Buffer, Channel, Closed, _aio, move
from processes import Child
from test_channels import SMALL, Carrier, Point, crowd, drain, filled, spans

TIMEOUT = 60  # seconds after which a test has failed


def run(coroutine):
    """Run a coroutine in a new event loop."""

    async def limited():
        async with asyncio.timeout(TIMEOUT):
            return await coroutine

    return asyncio.run(limited())


async def until_waiting(n, channel, room=False):
    """Wait until n tasks of this loop wait for a channel."""
    while True:
        notifier = _aio._find_notifier(asyncio.get_running_loop())
        if notifier is not None and len(notifier.waiting.get((channel, room), ())) == n:
            return
        await asyncio.sleep(0)


async def patient(channel):
    """Receive by hand, or else say what came instead."""
    try:
        return await channel.arecv()
    except Exception as error:
        return type(error)


async def look_in_vain(n):
    """Let the waiting tasks look again, n times."""
    for _ in range(n):
        notifier = _aio._find_notifier(asyncio.get_running_loop())
        notifier._look(notifier.waiting)
        for _ in range(3):
            await asyncio.sleep(0)


class Counts:
    """Counts how often it is pickled."""

    def __init__(self):
        self.pickled = 0

    def __reduce__(self):
        self.pickled += 1
        return Counts, ()


@pytest.fixture
def deaf(monkeypatch):
    """Let no task look again by itself: only notifiers wake it."""
    monkeypatch.setattr(_aio, "_LOOK_AGAIN", 10 * TIMEOUT)


def test_without_waiting():
    async def main():
        channel = Channel(SMALL)
        await channel.asend({"a": 1})
        assert await channel.arecv() == {"a": 1}
        channel.close()
        with pytest.raises(Closed):
            await channel.arecv()
        with pytest.raises(Closed):
            await channel.asend(1)
        return [item async for item in channel]

    assert run(main()) == []


def test_producer_and_consumers(deaf):
    async def main():
        channel = Channel(SMALL)

        async def consume():
            return [item async for item in channel]

        async def produce():
            for i in range(3000):
                await channel.asend((i, "x" * 50))
            channel.close()

        *parts, _ = await asyncio.gather(consume(), consume(), consume(), produce())
        return parts

    parts = run(main())
    got = sorted(item for part in parts for item in part)
    assert got == [(i, "x" * 50) for i in range(3000)]
    assert all(part == sorted(part) for part in parts)


def test_several_loops_in_threads(deaf):
    channel = Channel(SMALL)
    results = []

    async def consume():
        return [item async for item in channel]

    async def produce(number):
        for i in range(300):
            await channel.asend((number, i))

    receivers = [threading.Thread(target=lambda: results.extend(run(consume()))) for _ in range(2)]
    senders = [threading.Thread(target=lambda n=n: run(produce(n))) for n in range(2)]
    for thread in receivers + senders:
        thread.start()
    for thread in senders:
        thread.join()
    channel.close()
    for thread in receivers:
        thread.join()
    assert sorted(results) == [(number, i) for number in range(2) for i in range(300)]


# --- Between processes -------------------------------------------------------------------


def sender_child(pipe, channel, n):
    for i in range(n):
        pipe.recv()
        channel.send(i)
    channel.close()


def test_parent_awaits_what_a_child_sends(deaf):
    channel = Channel(SMALL)

    async def main(worker):
        got = []
        for _ in range(20):
            task = asyncio.create_task(channel.arecv())
            await until_waiting(1, channel)
            worker.send("one more")
            got.append(await task)
        return got, [item async for item in channel]

    with Child(sender_child, channel, 20) as worker:
        assert run(main(worker)) == (list(range(20)), [])
        worker.join()


def async_child(pipe, channel, back):
    async def main():
        async for item in channel:
            await back.asend(item)
        back.close()

    run(main())


def test_child_awaits_what_a_parent_sends(deaf):
    channel, back = Channel(SMALL), Channel(SMALL)
    with Child(async_child, channel, back) as worker:
        for i in range(50):
            channel.send(i)
            assert back.recv() == i
        channel.close()
        assert list(back) == []
        worker.join()


def test_channel_made_after_the_fork(deaf):
    """The child makes the channel; the parent learns of it through another one."""
    first = Channel(SMALL)

    def child(pipe):
        async def main():
            channel = Channel(SMALL)
            await first.asend(channel)
            task = asyncio.create_task(channel.arecv())
            await until_waiting(1, channel)
            pipe.send("waiting")
            return await task

        return run(main())

    with Child(child) as worker:
        channel = first.recv()
        assert worker.recv() == "waiting"
        channel.send("to a channel of the child")
        assert worker.join() == "to a channel of the child"


def test_both_sides_await(deaf):
    there, back = Channel(SMALL), Channel(SMALL)

    async def main():
        for i in range(100):
            await there.asend(i)
            assert await back.arecv() == i
        there.close()
        return [item async for item in back]

    with Child(async_child, there, back) as worker:
        assert run(main()) == []
        worker.join()


def test_many_processes_await_one_channel(deaf):
    channel, back = Channel(SMALL), Channel()

    def child(pipe):
        async def main():
            async for item in channel:
                await back.asend((os.getpid(), item))

        run(main())

    with crowd(child, 4) as workers:
        for i in range(400):
            channel.send(i)
        channel.close()
        for worker in workers:
            worker.join()
    assert sorted(item for _, item in drain(back)) == list(range(400))


def feed(channel):
    """Send without end, until killed."""
    while True:
        channel.send("tick")


def drink(channel):
    """Receive without end, until killed."""
    while True:
        channel.recv()


async def receive_all(channel):
    async for _ in channel:
        pass


async def receive_each(channel):
    while True:
        await channel.arecv()


async def send_each(channel):
    while True:
        await channel.asend("tick")


@pytest.mark.parametrize(
    ("peer", "work"), [(feed, receive_all), (feed, receive_each), (drink, send_each)]
)
def test_the_loop_gets_its_turn_beside_a_busy_peer(peer, work):
    """Timers, signal handlers, other tasks and cancellation work while there is no wait."""
    channel = Channel()
    child = os.fork()
    if child == 0:
        try:
            peer(channel)
        finally:
            os._exit(1)

    async def beat(beats):
        while True:
            await asyncio.sleep(0.005)
            beats.append(1)

    async def main():
        loop, seen, beats = asyncio.get_running_loop(), [], []
        loop.call_later(0.05, seen.append, "timer")
        loop.add_signal_handler(signal.SIGUSR1, seen.append, "signal")
        loop.call_later(0.02, os.kill, os.getpid(), signal.SIGUSR1)
        heart = asyncio.create_task(beat(beats))
        stuck = threading.Timer(20, channel.close)
        stuck.start()
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5):
                    await work(channel)
        finally:
            stuck.cancel()
            heart.cancel()
        return seen, len(beats)

    try:
        seen, beats = run(main())
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert sorted(seen) == ["signal", "timer"]
    assert beats > 5


def test_messages_are_packed_when_asend_begins():
    """Also when the loop gets its turn first; and none is lost or sent when a task is cancelled."""

    async def main():
        channel, order = Channel(), []

        async def send(number):
            item = [number]
            sending = channel.asend(item)
            task = asyncio.ensure_future(sending)
            await asyncio.sleep(0)
            item.append("late")
            await task
            order.append(number)

        for number in range(50):
            _aio._due = 0.0
            await send(number)
        assert [await channel.arecv() for _ in range(50)] == [[n] for n in range(50)]
        _aio._due = 0.0
        for coroutine in (channel.asend("never"), channel.arecv()):
            channel.send("kept")
            _aio._due = 0.0
            task = asyncio.ensure_future(coroutine)
            await asyncio.sleep(0)
            assert task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert drain(channel) == ["kept"]

    run(main())


def test_room_is_awaited(deaf):
    channel = filled(b"x" * 1000)
    n = len(channel)

    def child(pipe):
        pipe.recv()
        return [channel.recv() for _ in range(n + 3)]

    async def main(worker):
        tasks = [asyncio.create_task(channel.asend(i)) for i in range(3)]
        await until_waiting(3, channel, room=True)
        worker.send("go")
        await asyncio.gather(*tasks)

    with Child(child) as worker:
        run(main(worker))
        assert worker.join()[n:] == [0, 1, 2]


def test_loop_used_again_in_a_child(deaf):
    """A process that was forked while its parent had a notifier gets one of its own."""
    channel, back = Channel(SMALL), Channel(SMALL)

    async def main():
        task = asyncio.create_task(channel.arecv())
        await until_waiting(1, channel)
        worker = Child(async_child, back, Channel(SMALL, name="back of the child"))
        channel.send("for the parent")
        assert await task == "for the parent"
        return worker

    with run(main()) as worker:
        back.send("for the child")
        named = Channel(name="back of the child")
        assert named.recv() == "for the child"
        back.close()
        worker.join()


# --- What waits is the message -------------------------------------------------------------


def test_what_waits_is_packed_once(deaf):
    async def main():
        channel = filled()
        objects = [Counts() for _ in range(3)]
        tasks = [asyncio.create_task(channel.asend([obj, b"x" * 1000])) for obj in objects]
        await until_waiting(3, channel, room=True)
        assert [obj.pickled for obj in objects] == [1, 1, 1]
        await look_in_vain(10)
        assert not any(task.done() for task in tasks)
        assert channel.stats()["pickled"] == 0
        drain(channel)
        await asyncio.gather(*tasks)
        assert [obj.pickled for obj in objects] == [1, 1, 1]
        assert channel.stats()["pickled"] == 3
        at_once = Counts()
        await channel.asend(at_once)
        assert at_once.pickled == 1

    run(main())


def test_what_waits_is_as_it_was(deaf):
    """The object and its parts may change later. The message may lie in the ring or in a span."""
    before = spans()

    async def main():
        channel = filled(b"x" * 10)
        inner, data = Channel(SMALL), bytearray(b"d" * 50_000)
        inner.send("in the channel")
        shared = Buffer.of(b"read-only").toreadonly()
        small, large = [1, {"a": 2}, inner, shared, "x" * 1000], [inner, shared, data]
        pickled, out_of_band = Point([1], 2), Carrier(data)
        ends = weakref.ref(pickled)
        values = [small, large, pickled, out_of_band]
        tasks = [asyncio.create_task(channel.asend(value)) for value in values]
        await until_waiting(4, channel, room=True)
        with pytest.raises(BufferError, match="being sent"):
            shared.release()
        small[1]["a"] = "changed"
        pickled.x.append("changed")
        data[:] = b"changed"
        for value in small, large, values:
            value.clear()
        del inner, shared, pickled, out_of_band, value
        gc.collect()
        assert ends() is None
        await look_in_vain(3)
        items = []
        while len(items) < 4:
            items += [item for item in drain(channel) if item != b"x" * 10]
            await asyncio.sleep(0)
        await asyncio.gather(*tasks)
        assert items[0][:2] == [1, {"a": 2}]
        assert items[0][4] == "x" * 1000
        assert [bytes(items[0][3]), bytes(items[1][1])] == [b"read-only"] * 2
        assert items[0][2] == items[1][0]
        assert items[0][2].recv() == "in the channel"
        assert items[1][2] == items[3].data == b"d" * 50_000
        assert items[2] == Point([1], 2)
        assert channel.stats()["large"] == 2

    run(main())
    assert spans() == before


@pytest.mark.parametrize("how", ["cancel", "timeout", "close", "forget"])
def test_what_was_not_sent_is_given_back(deaf, how):
    """So is a moved Buffer, at once, although the test keeps the exception."""

    async def main():
        channel = filled(b"x" * 10)
        before = spans()
        moved = move(Buffer.of(b"precious"))
        value = [moved, b"l" * 100_000]
        if how == "timeout":
            with pytest.raises(TimeoutError) as kept:
                async with asyncio.timeout(0.001):
                    await channel.asend(value)
        elif how == "forget":
            coroutine = channel.asend(value)
            coroutine.send(None)
            with pytest.raises(BufferError, match="being sent"):
                memoryview(moved)
            kept = None
            del coroutine
        else:
            tasks = [asyncio.create_task(channel.asend(each)) for each in (value, ["x" * 1000])]
            await until_waiting(2, channel, room=True)
            with pytest.raises(BufferError, match="being sent"):
                memoryview(moved)
            with pytest.raises(BufferError, match="being sent"):
                await channel.asend(moved)
            if how == "close":
                channel.close()
            else:
                for task in tasks:
                    task.cancel()
            kept = await asyncio.gather(*tasks, return_exceptions=True)
            wanted = Closed if how == "close" else asyncio.CancelledError
            assert [type(error) for error in kept] == [wanted, wanted]
        assert bytes(moved) == b"precious"
        assert spans()[1] == before[1] + 1
        moved.release()
        assert spans() == before
        return kept

    run(main())


def test_a_moved_buffer_is_gone_when_it_is_sent(deaf):
    async def main():
        channel = filled(b"x" * 10)
        moved = move(Buffer.of(b"precious"))
        task = asyncio.create_task(channel.asend([moved, b"x" * 1000]))
        await until_waiting(1, channel, room=True)
        await look_in_vain(2)
        assert not moved.released
        items = drain(channel)
        await task
        assert moved.released
        items = drain(channel)
        assert bytes(items[0][0]) == b"precious"

    run(main())


def test_what_is_packed_is_sent_once():
    channel = filled()
    packed = channel._send_or_pack(b"y" * 1000)
    assert not permaheap._core._send_packed(packed)
    drain(channel)
    assert permaheap._core._send_packed(packed)
    with pytest.raises(ValueError, match="incorrect name"):
        permaheap._core._send_packed(packed)
    assert drain(channel) == [b"y" * 1000]
    assert channel._send_or_pack(1) is None
    packed = filled()._send_or_pack(b"y" * 1000)  # it keeps its channel
    gc.collect()
    assert not permaheap._core._send_packed(packed)


@pytest.mark.parametrize("first", ["parent", "child"])
def test_fork_while_messages_wait(deaf, first):
    """Both have the messages then, and each gives back its own."""
    before = spans()

    def child(pipe, coroutines, moved):
        if first == "parent":
            pipe.recv()
        for coroutine in coroutines:
            coroutine.close()
        assert bytes(moved) == b"precious"
        moved.release()
        gc.collect()

    async def main():
        channel, inner = filled(b"x" * 10), Channel(SMALL)
        moved = move(Buffer.of(b"precious"))
        values = [[moved, inner, b"x" * 1000], [b"l" * 100_000, inner]]
        tasks = [asyncio.create_task(channel.asend(value)) for value in values]
        await until_waiting(2, channel, room=True)
        values.clear()
        with Child(child, [task.get_coro() for task in tasks], moved) as worker:
            if first == "child":
                worker.join()
            items = []
            while len(items) < 2:
                items += [item for item in drain(channel) if item != b"x" * 10]
                await asyncio.sleep(0)
            await asyncio.gather(*tasks)
            if first == "parent":
                worker.send("go on")
                worker.join()
        assert moved.released
        assert bytes(items[0][0]) == b"precious"
        assert items[1][0] == b"l" * 100_000
        assert items[0][1] == items[1][1] == inner
        del inner
        items[0][1].send("there")
        assert items[1][1].recv() == "there"

    run(main())
    assert spans() == before


def test_parent_and_child_both_send_what_waits(deaf):
    """As with all that a child inherits, the message is there twice."""
    before = spans()

    def child(pipe, channel, coroutine):
        (notifier,) = (
            notifier for ref in _aio._notifiers.values() if (notifier := ref()) and notifier.waiting
        )
        notifier.waiting[channel, True][0].tell()
        drain(channel)
        with pytest.raises(StopIteration):
            coroutine.send(None)

    async def main():
        channel, inner = filled(b"x" * 10), Channel(SMALL)
        task = asyncio.create_task(channel.asend([inner, b"l" * 100_000]))
        await until_waiting(1, channel, room=True)
        del inner
        with Child(child, channel, task.get_coro()) as worker:
            worker.join()
        items = drain(channel)  # large messages wait for each other
        await task
        items += drain(channel)
        assert len(items) == 2
        items[0][0].send("there")
        assert items[1][0].recv() == "there"
        assert items[0][1] == items[1][1] == b"l" * 100_000

    run(main())
    assert spans() == before


def test_without_memory_for_what_waits():
    channel, inner = filled(b"x" * 10), Channel(SMALL)
    moved = move(Buffer.of(b"precious"))
    before = spans()
    for value in [moved, inner, b"x" * 1000], [moved, inner, b"l" * 100_000], Point(1, "x" * 1000):
        for n in range(1, 100):
            permaheap._core._testing.fault(n)
            try:
                packed = channel._send_or_pack(value)
            except (MemoryError, OSError):
                packed = None
            fired = permaheap._core._testing.fault()
            permaheap._core._testing.fault(0)
            del packed
            assert bytes(moved) == b"precious"
            assert spans() == before
            if not fired:
                break
        assert 2 < n < 99


@pytest.mark.skipif(not hasattr(sys, "gettotalrefcount"), reason="needs a debug build")
def test_no_references_to_what_waits_are_left():
    async def rounds(n):
        for _ in range(n):
            channel = filled()
            inner = Channel(SMALL)
            values = [[inner, move(Buffer.of(b"x"))], b"l" * 20_000, Point(1, "x" * 1000)]
            tasks = [asyncio.create_task(channel.asend([value, 1])) for value in values * 2]
            await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks[::2], return_exceptions=True)
            drain(channel)
            await asyncio.gather(*tasks[1::2], return_exceptions=True)
        gc.collect()

    async def main():
        await rounds(100)
        leaked = []
        for _ in range(4):
            before = sys.gettotalrefcount()
            await rounds(50)
            leaked.append(sys.gettotalrefcount() - before)
        return leaked

    assert min(run(main())) < 50


# --- When notifiers are silent ---------------------------------------------------------------


def test_waiting_tasks_look_by_themselves(monkeypatch):
    channel = Channel(SMALL)
    monkeypatch.setattr(_aio, "_notify_name", lambda number: b"\0somewhere else/%d" % os.getpid())

    async def main():
        task = asyncio.create_task(channel.arecv())
        await until_waiting(1, channel)
        await asyncio.to_thread(channel.send, "unheard")
        return await task

    assert run(main()) == "unheard"


def test_a_notifier_says_where_to_look(deaf, monkeypatch):
    looked = []
    tell = _aio._Notifier._tell

    def telling(notifier, queue):
        looked.append(queue)
        tell(notifier, queue)

    async def main():
        channels = [Channel(SMALL) for _ in range(20)]
        tasks = [asyncio.create_task(channel.arecv()) for channel in channels]
        full = filled()
        sender = asyncio.create_task(full.asend(b"x" * 1000))
        for channel in channels:
            await until_waiting(1, channel)
        await until_waiting(1, full, room=True)
        monkeypatch.setattr(_aio._Notifier, "_tell", telling)
        channels[7].send("here")
        assert await tasks[7] == "here"
        assert set(looked) == {(channels[7], False)}
        looked.clear()
        full.recv()
        await sender
        assert set(looked) == {(full, True)}
        for channel in channels:
            channel.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(main())


def test_more_notifications_at_once_than_arrive(deaf):
    """The kernel keeps a limited number of datagrams for a socket, and drops the others."""

    async def main():
        channels = [Channel(SMALL) for _ in range(300)]
        tasks = [asyncio.create_task(channel.arecv()) for channel in channels]
        for channel in channels:
            await until_waiting(1, channel)
        for i, channel in enumerate(channels):
            channel.send(i)
        assert await asyncio.gather(*tasks) == [*range(300)]

    run(main())


def test_more_loops_than_a_channel_can_notify():
    channel = Channel(SMALL)
    for number in range(1000, 2000):
        if not channel._watch(False, number):
            break
    else:
        raise AssertionError("the table never fills")

    async def main():
        task = asyncio.create_task(channel.arecv())
        await until_waiting(1, channel)
        await asyncio.to_thread(channel.send, "found")
        return await task

    assert run(main()) == "found"


def test_numbers_that_are_taken():
    """Another process may have our number, in another PID namespace."""
    taken = [socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(3)]
    for number, there in enumerate(taken, start=1):
        there.bind(permaheap._core._notify_name(number))
    channel = Channel(SMALL)

    async def main():
        task = asyncio.create_task(channel.arecv())
        await until_waiting(1, channel)
        channel.send("heard")
        return await task

    try:
        assert run(main()) == "heard"
    finally:
        for there in taken:
            there.close()


# --- Cancelled -----------------------------------------------------------------------------------


def test_cancelled_receivers_lose_nothing(deaf):
    """A cancelled task, woken or not, takes no message with it."""

    async def main():
        channel = Channel(SMALL)
        got = []
        for i in range(300):
            tasks = [asyncio.create_task(channel.arecv()) for _ in range(3)]
            await until_waiting(3, channel)
            channel.send(i)
            for _ in range(i % 4):
                await asyncio.sleep(0)
            tasks[i % 3].cancel()
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            while not any(not task.cancelled() for task in done):
                more, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                done |= more
            got += [task.result() for task in done if not task.cancelled()]
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
        assert drain(channel) == []
        return got

    assert run(main()) == list(range(300))


def test_cancelled_senders_send_nothing(deaf):
    async def main():
        channel = filled(b"x" * 1000)
        n = len(channel)
        task = asyncio.create_task(channel.asend("cancelled"))
        other = asyncio.create_task(channel.asend("sent"))
        await until_waiting(2, channel, room=True)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        items = [await channel.arecv() for _ in range(n + 1)]
        await other
        assert drain(channel) == []
        return items[n:]

    assert run(main()) == ["sent"]


def test_timeouts():
    async def main():
        channel = Channel(SMALL)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await channel.arecv()
        full = filled()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await full.asend(b"x" * 1000)
        await channel.asend(1)
        assert await channel.arecv() == 1

    run(main())


def test_close_wakes_tasks(deaf):
    async def main():
        empty, full = Channel(SMALL), filled()
        tasks = [asyncio.create_task(patient(empty)) for _ in range(3)]
        tasks += [asyncio.create_task(full.asend(b"x" * 1000)) for _ in range(2)]
        await until_waiting(3, empty)
        await until_waiting(2, full, room=True)
        empty.close()
        full.close()
        return await asyncio.gather(*tasks, return_exceptions=True)

    results = run(main())
    assert results[:3] == [Closed] * 3
    assert [type(result) for result in results[3:]] == [Closed] * 2


def test_nothing_stays_behind(deaf):
    """A task that is gone leaves neither its place nor its notifier."""
    channel = Channel(SMALL)

    async def main():
        task = asyncio.create_task(channel.arecv())
        await until_waiting(1, channel)
        task.cancel()
        await asyncio.wait([task])
        notifier = _aio._find_notifier(asyncio.get_running_loop())
        assert notifier.waiting == {}
        return notifier.number

    number = run(main())
    for watched in (False, True):
        assert channel._watch(watched, number)  # the table has room
        channel._unwatch(watched, number)


def count_notifiers():
    """Count the sockets of this process with a name of a notifier."""
    name = f"/{os.getpid()}."
    with open("/proc/self/net/unix") as lines:
        return sum("@permaheap/" in line and name in line for line in lines)


def loops():
    yield asyncio.new_event_loop
    try:
        import uvloop
    except ImportError:
        return
    yield uvloop.new_event_loop


@pytest.mark.parametrize("new_loop", list(loops()), ids=lambda new: new.__module__)
def test_a_loop_closed_with_tasks_that_wait(deaf, caplog, monkeypatch, new_loop):
    """All of it is collected: the loop, the tasks, the socket; and no error shows."""
    errors = []
    monkeypatch.setattr("sys.unraisablehook", errors.append)
    before = count_notifiers()
    empty, full = Channel(SMALL), filled()
    loop = new_loop()
    gone = weakref.ref(loop)

    async def wait():
        tasks = [asyncio.create_task(empty.arecv()) for _ in range(2)]
        tasks += [asyncio.create_task(full.asend(b"x" * 1000)) for _ in range(2)]
        await until_waiting(2, empty)
        await until_waiting(2, full, room=True)
        return tasks

    tasks = loop.run_until_complete(wait())
    assert count_notifiers() == before + 1
    empty.send("for nobody")
    loop.close()
    del loop, tasks
    gc.collect()
    assert gone() is None
    assert count_notifiers() == before
    assert errors == []
    assert {record.getMessage().split("\n")[0] for record in caplog.records} == {
        "Task was destroyed but it is pending!"
    }
    assert drain(empty) == ["for nobody"]


def test_a_child_that_collects_its_parents_tasks_hears(deaf):
    channel = Channel(SMALL)
    loops = [asyncio.new_event_loop()]
    loops[0].set_exception_handler(lambda *_: None)  # that they are destroyed is meant

    async def wait():
        task = asyncio.create_task(channel.arecv())
        await until_waiting(1, channel)
        return task

    tasks = [loops[0].run_until_complete(wait())]

    def child(pipe):
        async def main():
            task = asyncio.create_task(channel.arecv())
            await until_waiting(1, channel)
            gone = weakref.ref(loops[0])
            loops[0].close()
            loops.clear()
            tasks.clear()
            gc.collect()
            assert gone() is None
            pipe.send("waiting")
            return await task

        return run(main())

    with Child(child) as worker:
        assert worker.recv() == "waiting"
        channel.send("heard")
        assert worker.join() == "heard"
    tasks[0].cancel()
    loops[0].run_until_complete(asyncio.wait(tasks))
    loops[0].close()


def test_other_errors_come_through():
    async def main():
        channel = Channel(SMALL, pickle=False)
        with pytest.raises(TypeError, match="does not pickle"):
            await channel.asend(object())
        data = permaheap.freeze(["released"])
        await channel.asend(data)
        await channel.asend("next")
        permaheap.release(data)
        with pytest.raises(permaheap.HandleError):
            await channel.arecv()
        assert await channel.arecv() == "next"

    run(main())


LOOP_THAT_STAYS = """
import asyncio, permaheap
loop = asyncio.new_event_loop()
channel = permaheap.Channel()
async def main():
    loop.call_soon(channel.send, "x")
    return await channel.arecv()
assert loop.run_until_complete(main()) == "x"
loop.close()
"""


def test_loop_that_lives_as_long_as_the_program_leaves_nothing_open():
    command = [sys.executable, "-X", "dev", "-c", LOOP_THAT_STAYS]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_uvloop(deaf):
    uvloop = pytest.importorskip("uvloop")
    channel, back = Channel(SMALL), Channel(SMALL)

    async def main():
        for i in range(20):
            await channel.asend(i)
            assert await back.arecv() == i
        channel.close()

    with Child(async_child, channel, back) as worker:
        uvloop.run(main())
        worker.join()
