"""Senders and receivers of channels that are killed at any instant: nothing is lost or held."""

import contextlib
import os
import random
import signal
import struct
import sys
import threading
import time

import pytest

import permaheap
from permaheap import Buffer, Channel, Closed, Empty, Full, freeze, move
from processes import Child
from test_channels import SMALL, spans

pytestmark = pytest.mark.no_sanitizer("crowds of processes or interpreters are too slow")

# A round takes 0.04 s, several times that on a debug build.
DEFAULT_ROUNDS = "100" if hasattr(sys, "gettotalrefcount") else "300"
ROUNDS = int(os.environ.get("PERMAHEAP_KILL_ROUNDS", DEFAULT_ROUNDS))
N = 4  # senders, and receivers

FROZEN = freeze({"a": ["frozen", "object"]})

# An entry of a log. None lies across two pages: a killed process has written all of it, or nothing.
ENTRY = struct.Struct("=qq")


def value_of(name):
    """Return a message that names its sender and its number; the kinds take turns."""
    kind = name[1] % 6
    if kind == 0:
        return name, Buffer.of(b"b" * 100).toreadonly()
    if kind == 1:
        return name, b"l" * 10_000  # too large for the ring
    if kind == 2:
        return name, FROZEN
    if kind == 3:
        return name, move(Buffer.of(b"m" * 5000))
    return name, "x" * (name[1] % 50)


def name_in(value):
    """Return which message this is, if it is whole."""
    name, more = value
    kind = name[1] % 6
    if kind in (0, 3):
        assert bytes(more) == (b"b" * 100 if kind == 0 else b"m" * 5000)
    elif kind == 1:
        assert more == b"l" * 10_000
    elif kind == 2:
        assert more is FROZEN
    else:
        assert more == "x" * (name[1] % 50)
    return name


def sender(pipe, channel, number, books):
    """Send, and write down in shared memory how far it came: before sending, and after."""
    i = 0
    while True:
        books[2 * number] = i + 1
        channel.send(value_of((number, i)))
        books[2 * number + 1] = i + 1
        i += 1


def receiver(pipe, channel, log):
    """Receive, and write into a file what it got."""
    while True:
        try:
            sent_by, i = name_in(channel.recv())
        except Closed:
            return
        os.write(log, ENTRY.pack(sent_by, i))


def read_log(log):
    with os.fdopen(log, "rb") as stream:
        stream.seek(0)
        return list(ENTRY.iter_unpack(stream.read()))


def shared_words(n):
    """Return n integers in memory that children share with us."""
    buffer = Buffer(8 * n)
    return memoryview(buffer).cast("q")


def one_round(seed):
    chance = random.Random(seed)
    channel = Channel(SMALL)
    books = shared_words(2 * N)
    logs = [os.memfd_create("log") for _ in range(N)]
    with contextlib.ExitStack() as stack:
        senders = [stack.enter_context(Child(sender, channel, i, books)) for i in range(N)]
        receivers = [stack.enter_context(Child(receiver, channel, log)) for log in logs]
        doomed = senders[: chance.randint(1, N)] + receivers[: chance.randint(0, N - 1)]
        chance.shuffle(doomed)
        while channel.stats()["received"] < chance.randint(1, 60):
            os.sched_yield()
        for child in doomed:
            for _ in range(chance.randint(0, 2000)):
                pass
            child.kill()
        for child in set(senders) - set(doomed):
            child.kill()
        channel.close()
        for child in set(receivers) - set(doomed):
            child.join()
    killed = len(set(receivers) & set(doomed))
    rest = [name_in(value) for value in channel]
    check(books, [read_log(log) for log in logs], rest, killed)


def check(books, logs, rest, killed):
    """Compare what arrived with what was sent.

    Each killed receiver may have taken one message that it did not write down any more; each
    killed sender may have sent one more than it had written down.
    """
    got = sum(logs, rest)
    assert len(set(got)) == len(got)
    missing = 0
    for number in range(N):
        begun, sent = books[2 * number], books[2 * number + 1]
        numbers = {i for n, i in got if n == number}
        assert max(numbers, default=-1) < begun
        missing += sum(1 for i in range(sent) if i not in numbers)
        for log in [*logs, rest]:
            in_order = [i for n, i in log if n == number]
            assert in_order == sorted(in_order)
    assert missing <= killed


def test_killed_at_random():
    rounds_of_kills(10)


@pytest.mark.slow
def test_killed_at_random_many_times():
    rounds_of_kills(ROUNDS)


def rounds_of_kills(n):
    before = spans()
    seed = random.randrange(2**32)
    for i in range(n):
        try:
            one_round(f"{seed} {i}")
        except BaseException:
            print(f"seed {seed}, round {i}")
            raise
    assert spans() == before


def waits(pipe, what, channel):
    pipe.send("ready")
    if what == "recv":
        channel.recv()
    elif what == "select":
        permaheap.select([channel])
    else:
        while True:
            channel.send(b"x" * 1000)


@pytest.mark.parametrize("what", ["recv", "select", "send"])
def test_killed_while_it_waits(what):
    channel = Channel(SMALL)
    for _ in range(5):
        with Child(waits, what, channel) as child:
            assert child.recv() == "ready"
            child.kill()
    while True:
        try:
            channel.try_recv()
        except Empty:
            break
    channel.send("still usable")
    assert channel.recv() == "still usable"


def test_stopped_process_keeps_nobody_waiting_for_ever():
    """A process that is stopped, perhaps while it sends, makes others wait, but not hang."""
    channel = Channel(SMALL)
    with Child(waits, "send", channel) as child:
        assert child.recv() == "ready"
        channel.recv()
        os.kill(child.pid, signal.SIGSTOP)
        for _ in range(3):
            try:
                channel.send("more", timeout=0.01)
            except Full:
                pass
        child.kill()
    while channel.recv() != "again":
        try:
            channel.send("again", timeout=0)
        except Full:
            pass


# --- Watchers -------------------------------------------------------------------------------------

PLACES = 64  # for watchers, in each end of a ring


def wait_in_loops(channel):
    for number in range(PLACES):
        assert channel._watch(False, number)
    assert not any(channel._watch(False, PLACES) for _ in range(PLACES))  # they are alive


def wait_in_select(channel):
    for _ in range(PLACES):
        threading.Thread(target=permaheap.select, args=([channel],), daemon=True).start()
    while channel._watch(False, 1):
        channel._unwatch(False, 1)
        time.sleep(0.01)


@pytest.mark.parametrize("wait", [wait_in_loops, wait_in_select])
def test_places_of_killed_watchers_are_used_again(wait):
    """Else all others would have to look again and again, for as long as the channel is quiet."""
    channel = Channel()

    def watch_and_wait(pipe):
        wait(channel)
        pipe.send("full")
        pipe.recv()

    with Child(watch_and_wait) as child:
        assert child.recv() == "full"
        child.kill()
    numbers = range(1000, 1000 + PLACES)
    assert all(any(channel._watch(False, n) for _ in range(PLACES)) for n in numbers)
