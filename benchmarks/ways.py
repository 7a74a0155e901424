"""Ways for values from one process or interpreter to another, side by side.

A *way* goes in one direction. Between processes, both ends are made before the fork, and the
receiver inherits its end. Between interpreters, the receiver opens the way by its *ticket*, a value
that has a literal. permaheap's ways can also move buffers and send frozen objects: that depends
only on the value that is sent.
"""

from __future__ import annotations

import importlib.util
import multiprocessing
import pickle
import sys
from collections.abc import Callable, Mapping
from multiprocessing.shared_memory import SharedMemory
from typing import Any, ClassVar


class Way:
    """One direction from senders to receivers.

    Attributes:
        name: the word that names it in results.
        title: its name in reports.
        module: the module that it needs.
        send: sends a value; it may return before the value was received.
        receive: waits for the next value.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    module: ClassVar[str]

    send: Callable[[Any], object]
    receive: Callable[[], Any]

    @property
    def ticket(self) -> Any:
        """The value by which the receiver opens the way, in another interpreter."""
        raise NotImplementedError

    @classmethod
    def opened(cls, ticket: Any) -> Way:
        """Return the way that has this ticket."""
        raise NotImplementedError


class ChannelWay(Way):
    """A channel of permaheap."""

    name = "permaheap"
    title = "permaheap.Channel"
    module = "permaheap"

    def __init__(self, channel: Any = None) -> None:
        import permaheap

        self.channel = permaheap.Channel() if channel is None else channel
        self.send = self.channel.send
        self.receive = self.channel.recv

    @property
    def ticket(self) -> bytes:
        return pickle.dumps(self.channel)

    @classmethod
    def opened(cls, ticket: bytes) -> Way:
        return cls(pickle.loads(ticket))


class NeverSpinningWay(ChannelWay):
    """A channel whose ends sleep at once when they must wait."""

    name = "never spinning"
    title = "permaheap.Channel, never spinning"

    def __init__(self) -> None:
        import permaheap

        super().__init__(permaheap.Channel(spin=0))


class QueueWay(Way):
    """A queue of multiprocessing, whose sender has a thread that pickles and writes."""

    name = "Queue"
    title = "multiprocessing.Queue"
    module = "multiprocessing"

    def __init__(self) -> None:
        queue: Any = multiprocessing.get_context("fork").Queue()
        self.send, self.receive = queue.put, queue.get


class SimpleQueueWay(Way):
    """A pipe with a lock at each end."""

    name = "SimpleQueue"
    title = "multiprocessing.SimpleQueue"
    module = "multiprocessing"

    def __init__(self) -> None:
        queue: Any = multiprocessing.get_context("fork").SimpleQueue()
        self.send, self.receive = queue.put, queue.get


class PipeWay(Way):
    """Pickles through a pipe, for one sender and one receiver: no lock at all."""

    name = "Pipe"
    title = "pickle + multiprocessing.Pipe"
    module = "multiprocessing"

    def __init__(self) -> None:
        reader, writer = multiprocessing.Pipe(duplex=False)
        self.send, self.receive = writer.send, reader.recv


class FasterFifoWay(Way):
    """Pickles through a ring in shared memory, in C++."""

    name = "faster-fifo"
    title = "faster-fifo"
    module = "faster_fifo"

    def __init__(self) -> None:
        import faster_fifo

        queue = faster_fifo.Queue(1 << 22)
        self.send = queue.put
        # Its default time limit is ten seconds, and no value means for ever.
        self.receive = lambda: queue.get(timeout=100.0)


class InterpretersWay(Way):
    """A queue between interpreters, of the standard library."""

    name = "interpreters"
    title = "concurrent.interpreters queue"
    module = "concurrent.interpreters"

    def __init__(self, number: int | None = None) -> None:
        from concurrent import interpreters  # type: ignore[attr-defined]

        self.queue = interpreters.create_queue() if number is None else interpreters.Queue(number)
        self.send, self.receive = self.queue.put, self.queue.get

    @property
    def ticket(self) -> int:
        return int(self.queue.id)

    @classmethod
    def opened(cls, ticket: int) -> Way:
        return cls(ticket)


WAYS: Mapping[str, type[Way]] = {
    each.name: each
    for each in (
        ChannelWay,
        NeverSpinningWay,
        QueueWay,
        SimpleQueueWay,
        PipeWay,
        FasterFifoWay,
        InterpretersWay,
    )
}


def here(*names: str) -> list[str]:
    """Return those of the ways that this interpreter has."""
    return [name for name in names if unavailable(name) is None]


def unavailable(name: str) -> str | None:
    """Return the reason why a way cannot be measured here, as a sentence, or None."""
    module = WAYS[name].module
    if importlib.util.find_spec(module) is not None:
        return None
    if name == "interpreters":
        return "needs CPython 3.14"
    return f"{module} is not installed"


# --- memory that is handed over by name -----------------------------------------------------------


def new_memory(nbytes: int) -> SharedMemory:
    """Make shared memory that only its maker will unlink."""
    return SharedMemory(create=True, size=nbytes, **untracked())


def named_memory(name: str) -> SharedMemory:
    """Return the shared memory of that name, mapped here."""
    return SharedMemory(name, **untracked())


def untracked() -> dict[str, bool]:
    """Return arguments that leave out the resource tracker's process, from 3.13 on."""
    return {"track": False} if sys.version_info >= (3, 13) else {}
