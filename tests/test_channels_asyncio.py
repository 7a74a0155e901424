"""Channels in event loops: `await` without a thread, in parents and children, and cancelled."""

import asyncio
import gc
import os
import socket
import threading
import weakref

import pytest

import permaheap
from permaheap import Channel, Closed, _aio
from processes import Child
from test_channels import SMALL, crowd, drain, filled

TIMEOUT = 60  # seconds after which a test has failed


def run(coroutine):
    """Run a coroutine in a new event loop."""

    async def limited():
        async with asyncio.timeout(TIMEOUT):
            return await coroutine

    return asyncio.run(limited())


async def until_waiting(n, channel, room=False):
    """Wait until so many tasks of this loop wait for a channel."""
    while True:
        bell = _aio._bell_there(asyncio.get_running_loop())
        if bell is not None and len(bell.waiting.get((channel, room), ())) == n:
            return
        await asyncio.sleep(0)


async def patient(channel):
    """Receive by hand, or else say what came instead."""
    try:
        return await channel.arecv()
    except Exception as error:
        return type(error)


@pytest.fixture
def deaf(monkeypatch):
    """Let nobody look again by himself: only bells wake."""
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
    """A process that was forked while its parent had a bell gets one of its own."""
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


# --- When bells do not ring ------------------------------------------------------------------


def test_those_who_wait_look_by_themselves(monkeypatch):
    channel = Channel(SMALL)
    monkeypatch.setattr(_aio, "_bell_name", lambda number: b"\0somewhere else/%d" % os.getpid())

    async def main():
        task = asyncio.create_task(channel.arecv())
        await until_waiting(1, channel)
        await asyncio.to_thread(channel.send, "unheard")
        return await task

    assert run(main()) == "unheard"


def test_more_loops_than_a_channel_has_bells():
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
        there.bind(permaheap._core._bell_name(number))
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
    """Whoever is cancelled, told or not, takes no message with him."""

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
    """Neither places nor bells of those who have gone."""
    channel = Channel(SMALL)

    async def main():
        task = asyncio.create_task(channel.arecv())
        await until_waiting(1, channel)
        task.cancel()
        await asyncio.wait([task])
        bell = _aio._bell_there(asyncio.get_running_loop())
        assert bell.waiting == {}
        return bell.number

    number = run(main())
    for watched in (False, True):
        assert channel._watch(watched, number)  # the table has room
        channel._unwatch(watched, number)


def bells():
    """How many sockets of this process have a bell's name."""
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
    before = bells()
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
    assert bells() == before + 1
    empty.send("for nobody")
    loop.close()
    del loop, tasks
    gc.collect()
    assert gone() is None
    assert bells() == before
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
