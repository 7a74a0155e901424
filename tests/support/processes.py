"""Forked children that tests talk to, and what only the heap's header and file tell."""

import ctypes
import os
import pickle
import re
import signal
import traceback
from dataclasses import dataclass
from multiprocessing import Pipe
from pathlib import Path

import permaheap

# A stray write ends the process, instead of copying a page for it.
READ_ONLY = not permaheap.stats().mapping.startswith("private")
SEALED = permaheap.stats().mapping.startswith("sealed")


class ChildFailed(Exception):
    """A child raised an exception, or died."""


class Child:
    """A forked child that runs function(pipe, *arguments), at once and beside its parent.

    Both ends of the pipe have send and recv. What the function returns is the result of join().
    Used in a with statement, a child that is still there at its end is killed.
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


TYPES = {
    "uint8_t": ctypes.c_uint8,
    "int32_t": ctypes.c_int32,
    "uint32_t": ctypes.c_uint32,
    "uint64_t": ctypes.c_uint64,
}


def _struct_of(name):
    """Return the struct of heap.h of that name, as a ctypes structure."""
    text = (Path(__file__).parents[2] / "src" / "core" / "heap" / "heap.h").read_text()
    text = re.sub(r"/\*.*?\*/", "", text, flags=re.DOTALL)
    kinds = len(re.search(r"enum \{([^}]*)\} ph_kind;", text)[1].split(",")) - 1
    body = re.search(rf"typedef struct \{{([^}}]*)\}} {name};", text)[1]
    body = body.partition("ph_extent extent[")[0]  # what follows are tables
    fields = []
    for kind, field, size in re.findall(r"(\w+) (\w+)(?:\[(\w+)\])?;", body):
        if kind in TYPES:
            count = kinds if size == "PH_KINDS" else int(size or 1)
            fields.append((field, TYPES[kind] if count == 1 else TYPES[kind] * count))
    return type(name, (ctypes.Structure,), {"_fields_": fields})


Header = _struct_of("ph_header")  # without the extents, which follow it
Extent = _struct_of("ph_extent")


def _header():
    return Header.from_buffer_copy(os.pread(heap_file(), ctypes.sizeof(Header), 0))


def extents():
    """Return the extents claimed so far by the family: offset, size, filled (bytes), owner."""
    header = _header()
    size = ctypes.sizeof(Extent)
    table = os.pread(heap_file(), size * header.extents, ctypes.sizeof(Header))
    return [Extent.from_buffer_copy(table, size * i) for i in range(header.extents)]


def claimed():
    """Return how many bytes of addresses the family has claimed."""
    return _header().claimed


def memory():
    """Return how many bytes of memory the heap's file takes."""
    return os.fstat(heap_file()).st_blocks * 512


def audit():
    """Audit the heap, and compare it with its counters; nobody may be freezing meanwhile.

    A process that was killed right after it committed or released a block had no time to count it.
    """
    blocks = permaheap._core._check()
    stats = permaheap.stats()
    assert abs(blocks - stats.blocks) <= Child.killed
    assert sum(extent.filled for extent in extents()) == stats.used + stats.released - stats.reused
