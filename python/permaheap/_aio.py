"""Channels in event loops: `await` until a message comes, or room.

Each loop of a process has one datagram socket, its *bell*: whoever sends to a channel, or takes
something out of it, rings the bells of those who wait there, in whatever process they are. A bell
says no more than "look there again", so that it does not matter when it rings in vain; and since
one that cannot ring must not matter either (the channel's table of bells is full, or the other
process lives in another network namespace), those who wait look by themselves five times a second.

Nothing is taken out of a channel, or sent, on behalf of somebody who waits: a task that was told
to look tries by itself, and one that is cancelled leaves its place to the next, and gives back what
it has packed.
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
from typing import Any

from permaheap._core import Channel, Closed, Empty, _bell_name, _send_packed

_LOOK_AGAIN = 0.2  # seconds
_KEY = 8  # bytes that a bell gets: which queue to look at
_MANY = 5  # bells at once: one more may have found no room

_Queue = tuple[Channel, bool]  # who waits for room in a channel (True), or for a message


class _Place:
    """The place of a task among those that wait."""

    def __init__(self) -> None:
        self.future: asyncio.Future[None] | None = None

    async def told(self, loop: asyncio.AbstractEventLoop) -> None:
        self.future = loop.create_future()
        try:
            await self.future
        finally:
            self.future = None

    def tell(self) -> None:
        if self.future is None or self.future.done() or self.future.get_loop().is_closed():
            return  # somebody who leaves a closed loop may be collected before the others
        self.future.set_result(None)


def _key_of(queue: _Queue) -> bytes:
    channel, room = queue
    return channel._key(room)


class _Bell:
    """The socket of an event loop in this process, and who waits for it to ring.

    The loop has it, as what it calls for the socket, until it is closed; so that a loop that is
    closed while tasks wait can be collected with them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.pid = os.getpid()
        self.waiting: dict[_Queue, deque[_Place]] = {}
        self.queues: dict[bytes, _Queue] = {}  # those, by their keys
        self.looks = False
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        weakref.finalize(self, self.socket.close)  # at the end at the latest
        self.number = self._bind()
        loop.add_reader(self.socket.fileno(), self._rung)

    def _bind(self) -> int:
        for number in itertools.count(1):
            try:
                self.socket.bind(_bell_name(number))
                return number
            except OSError as error:  # another loop, or a process of our number elsewhere
                if error.errno != errno.EADDRINUSE:
                    raise
        raise AssertionError

    @contextmanager
    def place(self, queue: _Queue) -> Iterator[_Place]:
        """A place at the end of a queue; the next one is told to look when it is left."""
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
        channel._unwatch(room, self.number)  # not twice
        channel._watch(room, self.number)

    def _unwatch(self, queue: _Queue) -> None:
        channel, room = queue
        if self.pid == os.getpid():  # a forked child may collect the tasks of its parent
            channel._unwatch(room, self.number)

    def _tell(self, queue: _Queue) -> None:
        """Tell as many as may find something."""
        channel, room = queue
        places = self.waiting[queue]
        most = len(places) if channel.closed else 1 if room else len(channel)
        for place in itertools.islice(places, most):
            place.tell()

    def _look(self, queues: Iterable[_Queue]) -> None:
        for queue in queues:
            self._watch(queue)
            self._tell(queue)

    def _rung(self) -> None:
        keys = []
        try:
            while key := self.socket.recv(_KEY):
                keys.append(key)
        except OSError:  # BlockingIOError; or it is closed, in a thread that outlives the program
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


_bells: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[_Bell]] = (
    weakref.WeakKeyDictionary()
)


def _bell_there(loop: asyncio.AbstractEventLoop) -> _Bell | None:
    ref = _bells.get(loop)
    return ref() if ref is not None else None


def _bell_of(loop: asyncio.AbstractEventLoop) -> _Bell:
    bell = _bell_there(loop)
    if bell is None or bell.pid != os.getpid():
        bell = _Bell(loop)
        _bells[loop] = weakref.ref(bell)
    return bell


async def send(channel: Channel, obj: Any) -> None:
    """`Channel.asend`.

    What waits is the message, packed once, and not the object.
    """
    packed = channel._send_or_pack(obj)
    if packed is None:
        return
    del obj
    try:
        if _send_packed(packed):
            return
        loop = asyncio.get_running_loop()
        with _bell_of(loop).place((channel, True)) as place:
            while not _send_packed(packed):
                await place.told(loop)
    finally:
        del packed  # a traceback may keep this frame, and is not to keep Buffers pinned


async def recv(channel: Channel) -> Any:
    """`Channel.arecv`."""
    try:
        return channel.try_recv()
    except Empty:
        pass
    loop = asyncio.get_running_loop()
    with _bell_of(loop).place((channel, False)) as place:
        while True:
            try:
                return channel.try_recv()
            except Empty:
                await place.told(loop)


async def next_of(channel: Channel) -> Any:
    """`async for`."""
    try:
        return await recv(channel)
    except Closed:
        raise StopAsyncIteration from None
