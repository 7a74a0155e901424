"""Channels in event loops: `await` until a message comes, or until there is room.

Each event loop of a process has one datagram socket, its *notifier*. A process that sends to a
channel, or receives from it, sends a datagram to the notifiers of the loops that wait there, in any
process. A datagram only means "look at this queue again", so a needless one does no harm. Some
datagrams cannot be sent: the channel's table of notifiers may be full, or the other process may be
in another network namespace. So the loops also look at their queues five times a second.

No message is received or sent on behalf of a waiting task. A task that was told to look tries by
itself. A task that is cancelled leaves its place to the next one, and releases its packed message.

A task that never has to wait gives way by itself: once a millisecond the loop gets its turn, before
the next message is sent or taken. So timers, signal handlers and cancellation work beside a peer
that is as quick as this process, and a cancelled task has lost no message.
"""

import asyncio
import errno
import itertools
import os
import socket
import weakref
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any

from permaheap._core import Channel, Closed, Empty, _notify_name, _send_packed

_LOOK_AGAIN = 0.2  # seconds
_KEY = 8  # bytes of a datagram: the key of the queue to look at
_MANY = 5  # datagrams at once: one more may have found no room in the socket

_TURN = 0.001  # seconds that tasks may keep a loop busy without a wait

_Queue = tuple[Channel, bool]  # the tasks that wait for room in a channel (True), or for a message


class _Place:
    """The place of a task in a queue."""

    def __init__(self) -> None:
        self.future: asyncio.Future[None] | None = None

    async def told(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait until `tell` is called."""
        self.future = loop.create_future()
        try:
            await self.future
        finally:
            self.future = None
            _had_turn()

    def tell(self) -> None:
        """Tell the task to look, if it waits."""
        if self.future is None or self.future.done() or self.future.get_loop().is_closed():
            return  # a task of a closed loop may be collected, and tell the others
        self.future.set_result(None)


def _key_of(queue: _Queue) -> bytes:
    channel, room = queue
    return channel._key(room)


class _Notifier:
    """The socket of an event loop in this process, and the tasks that wait for its datagrams.

    Only the loop refers to it, as the callback for the socket, until the loop is closed. So a loop
    that is closed while tasks wait can be collected together with them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.pid = os.getpid()
        self.waiting: dict[_Queue, deque[_Place]] = {}
        self.queues: dict[bytes, _Queue] = {}  # the same queues, by their keys
        self.looks = False  # whether `_look_again` is scheduled
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        weakref.finalize(self, self.socket.close)  # at the end of the process at the latest
        self.number = self._bind()
        loop.add_reader(self.socket.fileno(), self._notified)

    def _bind(self) -> int:
        for number in itertools.count(1):
            try:
                self.socket.bind(_notify_name(number))
                return number
            except OSError as error:  # another loop has it, or a process with this pid elsewhere
                if error.errno != errno.EADDRINUSE:
                    raise
        raise AssertionError

    @contextmanager
    def place(self, queue: _Queue) -> Iterator[_Place]:
        """Give a place at the end of a queue. When it is left, the next one is told to look."""
        place = _Place()
        if queue not in self.waiting:
            self.waiting[queue] = deque()
            self.queues[_key_of(queue)] = queue
            self._watch(queue)
        self.waiting[queue].append(place)
        self._look_later()
        try:
            yield place
        finally:
            self.waiting[queue].remove(place)
            if self.waiting[queue]:
                self._tell(queue)
            else:
                del self.waiting[queue]
                del self.queues[_key_of(queue)]
                self._unwatch(queue)

    def _watch(self, queue: _Queue) -> None:
        channel, room = queue
        channel._unwatch(room, self.number)  # so that it is not in the table twice
        channel._watch(room, self.number)

    def _unwatch(self, queue: _Queue) -> None:
        channel, room = queue
        if self.pid == os.getpid():  # a forked child may collect its copies of the parent's tasks
            channel._unwatch(room, self.number)

    def _tell(self, queue: _Queue) -> None:
        """Tell as many tasks of a queue as may succeed now."""
        channel, room = queue
        places = self.waiting[queue]
        most = len(places) if channel.closed else 1 if room else len(channel)
        for place in itertools.islice(places, most):
            place.tell()

    def _look(self, queues: Iterable[_Queue]) -> None:
        for queue in queues:
            self._watch(queue)
            self._tell(queue)

    def _notified(self) -> None:
        """Read all datagrams, and look at the queues that they name."""
        keys = []
        try:
            while key := self.socket.recv(_KEY):
                keys.append(key)
        except OSError:  # BlockingIOError; or closed, in a thread that runs after the program's end
            pass
        if len(keys) >= _MANY:
            self._look(self.waiting)
        else:
            self._look(queue for key in keys if (queue := self.queues.get(key)) is not None)

    def _look_later(self) -> None:
        if self.waiting and not self.looks:
            self.looks = True
            asyncio.get_running_loop().call_later(_LOOK_AGAIN, self._look_again)

    def _look_again(self) -> None:
        self.looks = False
        self._look(self.waiting)
        self._look_later()


_notifiers: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_Notifier]] = (
    weakref.WeakKeyDictionary()
)


def _find_notifier(loop: asyncio.AbstractEventLoop) -> _Notifier | None:
    ref = _notifiers.get(loop)
    return ref() if ref is not None else None


def _notifier_of(loop: asyncio.AbstractEventLoop) -> _Notifier:
    notifier = _find_notifier(loop)
    if notifier is None or notifier.pid != os.getpid():
        notifier = _Notifier(loop)
        _notifiers[loop] = weakref.ref(notifier)
    return notifier


# By `monotonic`: when a loop must get its turn. One number for the loops of all threads will do: a
# thread that keeps the GIL long enough to matter finds itself that it is due.
_due = 0.0


def _had_turn() -> None:
    global _due
    _due = monotonic() + _TURN


async def _give_way() -> None:
    await asyncio.sleep(0)
    _had_turn()


async def send(channel: Channel, obj: Any) -> None:
    """Send as `Channel.asend`.

    The object is packed once. While the task waits, it holds the packed message, not the object.
    """
    due = monotonic() >= _due
    packed = channel._pack(obj) if due else channel._send_or_pack(obj)
    if packed is None:
        return
    del obj
    try:
        if due:
            await _give_way()
        if _send_packed(packed):
            return
        loop = asyncio.get_running_loop()
        with _notifier_of(loop).place((channel, True)) as place:
            while not _send_packed(packed):
                await place.told(loop)
    finally:
        del packed  # a traceback may keep this frame, and must not keep Buffers pinned


async def recv(channel: Channel) -> Any:
    """Receive as `Channel.arecv`."""
    if monotonic() >= _due:
        await _give_way()
    try:
        return channel.try_recv()
    except Empty:
        pass
    loop = asyncio.get_running_loop()
    with _notifier_of(loop).place((channel, False)) as place:
        while True:
            try:
                return channel.try_recv()
            except Empty:
                await place.told(loop)


async def next_of(channel: Channel) -> Any:
    """Receive as `async for`: a closed channel ends the iteration."""
    try:
        return await recv(channel)
    except Closed:
        raise StopAsyncIteration from None
