"""Forked children that tests talk to, and what only the heap's header and file tell."""

import os
import pickle
import signal
import sys
import traceback
from dataclasses import dataclass
from multiprocessing import Pipe
from types import SimpleNamespace

import permaheap

# A stray write ends the process, instead of copying a page for it.
READ_ONLY = not permaheap.stats().mapping.startswith("private")
SEALED = permaheap.stats().mapping.startswith("sealed")


class ChildFailed(Exception):
    """A child raised an exception, or died."""


class Child:
    """A forked child that runs function(pipe, *arguments), at once and beside its parent.

    Both ends of the pipe have send and recv. join() returns what the function returned.
    At the end of a with statement, a child that is still there is killed.
    """

    killed = 0  # children so far that were killed on purpose

    def __init__(self, function, *arguments):
        self.pipe, theirs = Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self.pipe.close()
                _work(theirs, function, arguments)
            finally:
                os._exit(1)
        theirs.close()
        self.send, self.poll = self.pipe.send, self.pipe.poll

    def recv(self):
        """Return what the child sent; ChildFailed if it has failed or died instead."""
        try:
            message = self.pipe.recv()
        except EOFError:
            raise ChildFailed(f"the child ended: {self.reap()}") from None
        if isinstance(message, _Failed):
            self.reap()
            raise ChildFailed(message.text)
        return message

    def join(self):
        """Return what the function returned."""
        while not isinstance(message := self.recv(), _Returned):
            pass
        self.reap()
        return message.value

    def kill(self):
        """Send SIGKILL and wait for the end."""
        Child.killed += 1
        os.kill(self.pid, signal.SIGKILL)
        assert self.reap() == -signal.SIGKILL

    def reap(self):
        """Wait for the end of the child; return its exit code, or minus the signal's number."""
        pid, self.pid = self.pid, None
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            self.reap()
        self.pipe.close()


def in_child(function):
    """Return the (picklable) result of function(), run in a forked child.

    A crash of the child (SIGSEGV in sealed mode) is the failure of one test, not of the run.
    """
    with Child(lambda pipe: function()) as child:
        return child.join()


@dataclass
class _Returned:
    value: object


@dataclass
class _Failed:
    text: str


def _work(pipe, function, arguments):
    try:
        message = pickle.dumps(_Returned(function(pipe, *arguments)))
    except BaseException:
        message = pickle.dumps(_Failed(traceback.format_exc()))
    try:
        pipe.send_bytes(message)
    except BrokenPipeError:
        os._exit(1)  # the parent has given up
    os._exit(0)


def handle_of(frozen):
    """Return the bytes of a handle of a permanent object."""
    return bytes(permaheap.share(frozen))


def name_of(data):
    """Return the handle that has these bytes."""
    return permaheap.Handle.from_bytes(data)


def resolve(data):
    """Return the object that 40 bytes name."""
    return name_of(data).get()


def heap_file():
    """Return the number of the file descriptor of the heap.

    Tests read it with pread: opening it once more would, when that is closed, end the locks that
    this process holds on its extents.
    """
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # that of the directory itself
        if target.startswith("/memfd:permaheap "):
            return int(name)
    raise AssertionError("this process has no heap")


STRUCTS = permaheap._core._testing.structs()


def read_struct(name, offset=0):
    """Return the numbers that a struct of that name has at an offset of the heap's file."""
    fields = STRUCTS[name]
    end = max(start + size for start, size, _ in fields.values())
    data = os.pread(heap_file(), end, offset)
    return SimpleNamespace(
        **{
            field: int.from_bytes(data[start : start + size], sys.byteorder)
            for field, (start, size, count) in fields.items()
            if count == 1
        }
    )


def header():
    """Return the numbers of the heap's header."""
    return read_struct("ph_header")


def extents():
    """Return the extents claimed so far by the family: offset, size, filled (bytes), owner."""
    start, size, _ = STRUCTS["ph_header"]["extent"]
    return [read_struct("ph_extent", start + size * i) for i in range(header().extents)]


def claimed():
    """Return how many bytes of addresses the family has claimed."""
    return header().claimed


def memory():
    """Return how many bytes of memory the heap's file takes."""
    return os.fstat(heap_file()).st_blocks * 512


def audit():
    """Audit the heap, and compare it with its counters; no process may be freezing at the time.

    A process that was killed right after it committed or released a block had no time to count it.
    """
    blocks = permaheap._core._testing.check()
    stats = permaheap.stats()
    assert abs(blocks - stats.blocks) <= Child.killed
    assert sum(extent.filled for extent in extents()) == stats.used + stats.released - stats.reused
