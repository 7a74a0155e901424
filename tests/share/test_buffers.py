"""Buffers: memory that the family shares, with one owner or many readers."""

import array
import collections.abc
import copy
import ctypes
import gc
import hashlib
import io
import itertools
import os
import pickle
import random
import socket
import struct
import sys
import threading
import weakref
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

import permaheap
from interpreters import Interpreter
from permaheap import Buffer, Channel, Closed, Empty, Full, Handle, HandleError, move, share
from processes import Child, memory, name_of

fault = permaheap._core._testing.fault

try:
    import _testcapi
except ImportError:  # a minimal installation
    _testcapi = None

KIB, MIB = 1 << 10, 1 << 20
SIZES = [0, 1, 7, 4095, 4096, 4097, 100_000, 300_000, MIB, 10 * MIB + 1]


def filled(text):
    """Return a Buffer that holds these bytes."""
    buf = Buffer(len(text))
    buf[:] = text
    return buf


# --- What it is -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
def test_so_many_zeros(size):
    buf = Buffer(size)
    assert len(buf) == buf.nbytes == size
    assert bytes(buf) == bytes(size)
    assert (buf.readonly, buf.released) == (False, False)
    view = memoryview(buf)
    assert (view.nbytes, view.format, view.itemsize, view.ndim) == (size, "B", 1, 1)
    assert (view.readonly, view.contiguous, view.obj is buf) == (False, True, True)


@pytest.mark.parametrize("size", SIZES)
def test_memory_that_was_used_is_zero_again(size):
    for _ in range(4):
        buf = Buffer(size)
        assert not any(memoryview(buf)[:: max(1, size // 1000)])
        ctypes.memset((ctypes.c_char * size).from_buffer(buf), 255, size)
        assert bytes(buf[:10]) == b"\xff" * min(10, size)
        del buf
        gc.collect()


def test_indices_and_slices_are_those_of_a_memoryview():
    buf = filled(b"some bytes")
    assert (buf[0], buf[-1], bytes(buf[5:]), bytes(buf[::-2])) == (115, 115, b"bytes", b"stbeo")
    buf[0] = 83
    buf[5:7] = b"BY"
    assert bytes(buf) == b"Some BYtes"
    assert list(memoryview(buf))[:4] == [83, 111, 109, 101]
    for wrong in (10, -11):
        with pytest.raises(IndexError):
            buf[wrong]
    with pytest.raises(ValueError):
        buf[0:3] = b"four"
    with pytest.raises(TypeError):
        del buf[0]
    with pytest.raises(TypeError):
        buf["x"]
    assert b"BY" in bytes(buf)


def test_repr():
    buf = Buffer(12)
    assert repr(buf) == "<permaheap.Buffer of 12 bytes, writable>"
    moved = move(buf)
    assert repr(moved) == "<permaheap.Buffer of 12 bytes, writable, on the move>"
    assert repr(buf) == "<permaheap.Buffer, released>"
    assert repr(moved.toreadonly()) == "<permaheap.Buffer of 12 bytes, read-only>"


@pytest.mark.parametrize("wrong", [b"bytes", "text", 1.5, None, [1], Buffer(1)])
def test_a_size_is_an_int(wrong):
    with pytest.raises(TypeError, match=r"nbytes must be an int.*Buffer\.of"):
        Buffer(wrong)


def test_what_is_no_size():
    for arguments in [(), (1, 2)]:
        with pytest.raises(TypeError):
            Buffer(*arguments)
    with pytest.raises(ValueError, match="negative: -1"):
        Buffer(-1)
    for size in (2**63, -(2**70)):
        with pytest.raises(OverflowError):
            Buffer(size)
    assert len(Buffer(nbytes=3)) == 3


@pytest.mark.parametrize("size", [2**62, 2**63 - 1, 2**63 - 4096, 2**50])
def test_more_than_there_is(size):
    with pytest.raises(MemoryError, match="permaheap"):
        Buffer(size)
    assert bytes(Buffer(3)) == b"\0\0\0"


def test_type():
    with pytest.raises(TypeError):
        type("Sub", (Buffer,), {})
    with pytest.raises(TypeError):
        Buffer.of = None
    assert weakref.ref(buf := Buffer(1))() is buf
    assert isinstance(hash(buf), int) and buf == buf and buf != Buffer(1)
    assert not gc.is_tracked(buf)
    assert isinstance(buf, collections.abc.Buffer)


def test_weak_references_die_with_it():
    buf, dead = Buffer(100), []
    reference = weakref.ref(buf, dead.append)
    view = memoryview(buf)
    del buf
    assert reference() is view.obj
    del view
    assert reference() is None and dead == [reference]


# --- Copies of what is there ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"bytes",
        bytearray(b"array"),
        array.array("d", [1.5, 2.5]),
        memoryview(b"abcdefgh")[::2],
        memoryview(b"abcdefgh")[::-1],
        memoryview(bytes(range(24))).cast("B", (2, 3, 4)),
        memoryview(bytes(range(24))).cast("B", (4, 6))[::2],
        filled(b"buffer"),
        random.Random(1).randbytes(3 * MIB),
        memoryview(random.Random(2).randbytes(3 * MIB))[::3],
    ],
    ids=lambda data: type(data).__name__,
)
def test_of(data):
    buf = Buffer.of(data)
    assert bytes(buf) == memoryview(data).tobytes()
    assert not buf.readonly
    if len(buf):
        buf[0] = buf[0] ^ 1
        assert bytes(buf) != memoryview(data).tobytes()


@pytest.mark.parametrize("wrong", ["text", 5, None, [1]])
def test_of_what_has_no_bytes(wrong):
    with pytest.raises(TypeError, match="bytes-like"):
        Buffer.of(wrong)


@pytest.mark.parametrize("dtype", ["O", [("price", "f8"), ("name", "O")]])
def test_of_an_array_of_objects(dtype):
    numpy = pytest.importorskip("numpy")
    with pytest.raises(TypeError, match=r"items of this numpy\.ndarray are Python objects"):
        Buffer.of(numpy.zeros(2, dtype))


def test_of_an_array_of_records():
    numpy = pytest.importorskip("numpy")
    array = numpy.array([(1.5, 2)], [("Open", "f8"), ("P", "i4")])
    assert bytes(Buffer.of(array)) == array.tobytes()


def test_of_a_released_buffer():
    buf = Buffer(3)
    buf.release()
    with pytest.raises(ValueError, match="released"):
        Buffer.of(buf)


# --- Modules that work on it without a copy -------------------------------------------------------


def test_struct():
    buf = Buffer(16)
    struct.pack_into("<qd", buf, 0, 7, 2.5)
    assert struct.unpack_from("<qd", buf) == (7, 2.5)


def test_files(tmp_path):
    data = random.Random(3).randbytes(200_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    buf = Buffer(len(data) + 5)
    with path.open("rb") as stream:
        assert stream.readinto(buf) == len(data)
    assert bytes(buf) == data + bytes(5)
    with path.open("r+b", buffering=0) as stream:
        assert stream.readinto(memoryview(buf)[5:]) == len(data)
        assert os.preadv(stream.fileno(), [buf], 10) == len(data) - 10
        assert stream.write(buf) == len(buf)
    assert path.stat().st_size == len(data) + len(buf)
    assert io.BytesIO(data).readinto(buf) == len(data)


def test_sockets():
    one, two = socket.socketpair()
    with one, two:
        buf = filled(b"through a socket")
        one.sendall(buf)
        there = Buffer(20)
        assert two.recv_into(there) == len(buf)
        assert bytes(there) == bytes(buf) + bytes(4)


def test_compressors_and_hashes():
    buf = filled(b"again and " * 50_000)
    assert zlib.decompress(zlib.compress(buf)) == bytes(buf)
    assert hashlib.sha256(buf).digest() == hashlib.sha256(bytes(buf)).digest()
    assert b"".join([buf, b"!"]) == bytes(buf) + b"!"


def test_ctypes_and_casts():
    buf = Buffer(24)
    numbers = (ctypes.c_int64 * 3).from_buffer(buf)
    numbers[1] = -2
    assert list(memoryview(buf).cast("q")) == [0, -2, 0]
    assert array.array("q", bytes(buf))[1] == -2
    assert memoryview(buf).cast("B", (2, 12)).shape == (2, 12)


def test_numpy():
    numpy = pytest.importorskip("numpy")
    buf = Buffer(8000)
    table = numpy.frombuffer(buf, dtype="<f8")
    table[:] = numpy.arange(1000)
    assert struct.unpack_from("<d", buf, 8 * 999) == (999.0,)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buf))
    assert table.__array_interface__["data"] == (address, False)
    with pytest.raises(BufferError, match="exported view"):
        buf.release()
    del table
    gc.collect()
    readable = numpy.frombuffer(buf.toreadonly(), dtype="<f8")
    assert readable.sum() == 999 * 500
    with pytest.raises(ValueError):
        readable[0] = 1.0


# --- Read-only for good ---------------------------------------------------------------------------


def test_toreadonly():
    buf = filled(b"for many")
    other = buf.toreadonly()
    assert other is not buf and other.readonly and buf.readonly
    buf.release()
    assert bytes(other) == b"for many"
    third = other.toreadonly()
    view = memoryview(other)
    assert view.readonly
    assert other.toreadonly().readonly  # readers are no hindrance
    assert bytes(third) == b"for many"


def test_nobody_writes_what_is_read_only():
    buf = filled(b"for good").toreadonly()
    with pytest.raises(TypeError):
        buf[0] = 1
    with pytest.raises(TypeError):
        memoryview(buf)[:2] = b"xx"
    with pytest.raises((TypeError, BufferError)):
        struct.pack_into("B", buf, 0, 1)
    with pytest.raises(TypeError):
        ctypes.c_char.from_buffer(buf)
    with pytest.raises(TypeError):
        io.BytesIO(b"xx").readinto(buf)
    with pytest.raises(BufferError):
        buf.__buffer__(1)  # PyBUF_WRITABLE
    assert bytes(buf) == b"for good"


def test_toreadonly_waits_for_views():
    buf = Buffer(10)
    views = [memoryview(buf)]
    with pytest.raises(BufferError, match="1 exported view;"):
        buf.toreadonly()
    views.append(views[0][2:])
    views.append(memoryview(buf))
    with pytest.raises(BufferError, match="2 exported views;"):
        buf.toreadonly()
    assert not buf.readonly
    views[0][0] = 1
    views.clear()
    assert buf.toreadonly().readonly


# --- Moving ---------------------------------------------------------------------------------------


def test_move():
    buf = filled(b"on its way")
    moved = move(buf)
    assert buf.released and not moved.released
    assert bytes(moved) == b"on its way"
    moved[:2] = b"ON"  # until it is sent, it is mine
    again = move(moved)
    assert moved.released and bytes(again) == b"ON its way"
    readable = move(again.toreadonly())
    assert readable.readonly and "on the move" in repr(readable)


def test_move_is_refused():
    buf = Buffer(10)
    with memoryview(buf):
        with pytest.raises(BufferError, match="move: this Buffer has 1 exported view"):
            move(buf)
    assert not move(buf).released
    with pytest.raises(ValueError, match="released Buffer"):
        move(buf)
    for wrong in (b"bytes", None, memoryview(b""), Buffer):
        with pytest.raises(TypeError, match="move: a Buffer is needed, not"):
            move(wrong)


# --- Releasing ------------------------------------------------------------------------------------

FORBIDDEN = {
    "len": len,
    "nbytes": lambda buf: buf.nbytes,
    "readonly": lambda buf: buf.readonly,
    "memoryview": memoryview,
    "bytes": bytes,
    "of": Buffer.of,
    "get": lambda buf: buf[0],
    "slice": lambda buf: buf[:],
    "set": lambda buf: buf.__setitem__(0, 1),
    "del": lambda buf: buf.__delitem__(0),
    "toreadonly": lambda buf: buf.toreadonly(),
    "move": move,
    "share": share,
    "enter": lambda buf: buf.__enter__(),
}


@pytest.mark.parametrize("how", FORBIDDEN.values(), ids=FORBIDDEN)
@pytest.mark.parametrize("end", [Buffer.release, move], ids=["release", "move"])
def test_what_is_released_is_of_no_use(how, end):
    buf = filled(b"gone")
    end(buf)
    with pytest.raises(ValueError, match="operation forbidden on released Buffer object"):
        how(buf)
    assert buf.released
    assert "released" in repr(buf)
    buf.release()  # once more does nothing


def test_with():
    with Buffer(10) as buf:
        assert not buf.released
    assert buf.released
    with pytest.raises(KeyError), Buffer(10) as buf:
        raise KeyError
    assert buf.released


def test_release_waits_for_views():
    buf = Buffer(10)
    view = memoryview(buf)
    for end in (buf.release, lambda: buf.__exit__(None, None, None)):
        with pytest.raises(BufferError, match="release: this Buffer has 1 exported view"):
            end()
    view[3] = 3
    view.release()
    buf.release()
    assert buf.released


def test_a_view_outlives_the_object():
    view = memoryview(filled(b"still here"))[6:]
    gc.collect()
    assert bytes(view) == b"here"


# --- No pickles -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [pickle.dumps, copy.copy, copy.deepcopy, lambda buf: pickle.dumps([buf], protocol=2)],
    ids=["pickle", "copy", "deepcopy", "protocol 2"],
)
def test_a_buffer_is_not_pickled(how):
    with pytest.raises(TypeError, match=r"share\(.*move\(.*Buffer\.of\("):
        how(Buffer(10))


def test_a_buffer_is_not_frozen():
    with pytest.raises(permaheap.FreezeError, match="Buffer"):
        permaheap.freeze([Buffer(10)])
    frozen = permaheap.freeze([Buffer.of(b"frozen")], default=bytes)
    assert frozen == (b"frozen",)


# --- Handles --------------------------------------------------------------------------------------


def test_share():
    buf = filled(b"shared").toreadonly()
    handle = share(buf)
    assert type(handle) is Handle and len(bytes(handle)) == 40
    assert handle == share(buf) == share(buf.toreadonly())
    assert handle != share(filled(b"other").toreadonly())
    assert pickle.loads(pickle.dumps(handle)) == handle
    there = handle.get()
    assert there.readonly and bytes(there) == b"shared" and len(there) == 6
    assert there is not handle.get()
    assert "of Buffer" in repr(handle)


def test_a_handle_keeps_nothing_alive():
    buf = filled(b"short").toreadonly()
    handle = share(buf)
    there = handle.get()
    del buf
    gc.collect()
    assert bytes(handle.get()) == b"short"
    there.release()
    with pytest.raises(HandleError, match="this Buffer is gone"):
        handle.get()
    others = [filled(b"other").toreadonly() for _ in range(10)]  # maybe in the same place
    with pytest.raises(HandleError, match="this Buffer is gone"):
        handle.get()
    assert [bytes(other) for other in others] == [b"other"] * 10


def test_only_what_is_read_only_is_shared():
    buf = Buffer(10)
    with pytest.raises(TypeError, match=r"writable; share buf\.toreadonly\(\)"):
        share(buf)
    assert share(buf.toreadonly()).get().readonly
    with pytest.raises(TypeError):
        share(memoryview(buf))


def test_forged_handles():
    buf = filled(b"whole").toreadonly()
    data = bytes(share(buf))
    for bit in range(8 * len(data)):
        forged = bytearray(data)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(HandleError):
            Handle.from_bytes(forged).get()
    rng = random.Random(4)
    for kept in (16, 24, 32):  # the family; and what says that it is a Buffer; and which
        for _ in range(300):
            with pytest.raises(HandleError):
                Handle.from_bytes(data[:kept] + rng.randbytes(40 - kept)).get()
    assert bytes(Handle.from_bytes(data).get()) == b"whole"


def test_blocks_are_released_otherwise():
    handle = share(Buffer(10).toreadonly())
    for refused in (permaheap.release, permaheap.forget):
        with pytest.raises(RuntimeError, match="names a Buffer"):
            refused(handle)
    with pytest.raises(TypeError, match="Handle or a permanent object"):
        permaheap.release(Buffer(10))


def test_a_handle_of_another_family(run):
    code = "import sys, permaheap; permaheap.Handle.from_bytes(bytes.fromhex(sys.argv[1])).get()"
    buf = Buffer(10).toreadonly()
    done = run(code, bytes(share(buf)).hex())
    assert "HandleError" in done.stderr and "another family" in done.stderr


# --- Processes ------------------------------------------------------------------------------------


def test_a_child_shares_what_it_inherits(in_child):
    buf = filled(b"parent")

    def change():
        seen = bytes(buf)
        buf[:] = b"child!"
        return seen

    assert in_child(change) == b"parent"
    assert bytes(buf) == b"child!"


def _echo(pipe, buf, view):
    del buf
    pipe.send("ready")
    while (what := pipe.recv()) is not None:
        view[:] = what
        pipe.send(bytes(view))


def test_a_childs_view_outlives_the_parents_object():
    buf = filled(bytes(100_000))
    view = memoryview(buf)
    child = Child(_echo, buf, view)
    with child:
        assert child.recv() == "ready"
        view.release()
        buf.release()
        others = [filled(b"\xff" * 100_000) for _ in range(5)]
        for n in (1, 2):
            child.send(bytes([n]) * 100_000)
            assert child.recv() == bytes([n]) * 100_000
        assert {bytes(other) for other in others} == {b"\xff" * 100_000}
        child.send(None)
        child.join()


def _give(pipe, text):
    buf = filled(text).toreadonly()
    pipe.send(bytes(share(buf)))
    pipe.recv()
    buf.release()
    pipe.send("released")
    pipe.recv()


def test_a_childs_buffer_in_its_parent():
    with Child(_give, b"from below" * 50_000) as child:
        handle = name_of(child.recv())
        there = handle.get()
        assert bytes(there) == b"from below" * 50_000
        child.send("release")
        assert child.recv() == "released"
        assert bytes(there) == b"from below" * 50_000
        there.release()
        with pytest.raises(HandleError, match="gone"):
            handle.get()
        child.send("end")
        child.join()
    with pytest.raises(HandleError, match="gone"):
        handle.get()


def _hold(pipe, buf):
    pipe.send("ready")
    pipe.recv()
    buf.release()
    pipe.send("released")
    pipe.recv()


@pytest.mark.parametrize("how", ["release", "end", "kill"])
def test_read_only_once_no_child_can_write(how):
    buf = filled(b"of two")
    with Child(_hold, buf) as child:
        assert child.recv() == "ready"
        with pytest.raises(BufferError, match="another process could write"):
            buf.toreadonly()
        buf[0] = 79
        if how == "kill":
            child.kill()
        else:
            child.send("release")
            assert child.recv() == "released"
            if how == "end":
                child.send("end")
                child.join()
        assert bytes(buf.toreadonly()) == b"Of two"


def test_read_only_at_once_after_a_fork():
    """Also when the child has not come to say yet that it has the Buffer."""
    for _ in range(20):
        buf = Buffer(10)
        with Child(_hold, buf) as child:
            with pytest.raises(BufferError, match="another process could write"):
                buf.toreadonly()
            child.kill()
        assert buf.toreadonly().readonly


def test_killed_holders_hold_nothing():
    permaheap.reclaim()
    before = memory()
    for _ in range(3):
        with Child(_fill_and_tell, 20 * MIB) as child:
            handle = name_of(child.recv())
            child.kill()
        permaheap.reclaim()
        with pytest.raises(HandleError, match="gone"):
            handle.get()
    assert memory() - before < 2 * 20 * MIB


def _fill_and_tell(pipe, size):
    buf = Buffer.of(b"x" * size).toreadonly()
    pipe.send(bytes(share(buf)))
    pipe.recv()


@pytest.mark.parametrize("n", [200, pytest.param(10_000, marks=pytest.mark.slow)])
def test_memory_comes_back(n):
    gc.collect()
    before = memory()
    for i in range(n):
        buf = Buffer(10 * MIB)
        buf[i % len(buf)] = 1
        if i % 3 == 0:
            buf = buf.toreadonly()
        assert memory() - before < 4 * 10 * MIB


def test_many_small_ones():
    before = memory()
    for _ in range(50):
        few = [filled(b"%d" % i) for i in range(100)]
        assert [bytes(buf) for buf in few] == [b"%d" % i for i in range(100)]
    assert memory() - before < 2 * MIB


# --- Interpreters and threads ---------------------------------------------------------------------

OPEN = """
import permaheap
buf = permaheap.Handle.from_bytes(data).get()
result = [bytes(buf[:6]).decode(), buf.readonly, len(buf)]
"""


def test_interpreters_share():
    buf = filled(b"shared" * 1000).toreadonly()
    data = bytes(share(buf))
    with Interpreter() as one, Interpreter() as two:
        for interpreter in (one, two):
            assert interpreter.ask(OPEN, data=data) == ["shared", True, 6000]
        buf.release()
        one.run("buf.release()")
        assert two.ask("result = bytes(buf[-6:]).decode()") == "shared"
        assert bytes(Handle.from_bytes(data).get()[:6]) == b"shared"
    with pytest.raises(HandleError, match="gone"):  # an interpreter that ends lets go
        Handle.from_bytes(data).get()


MAKE = """
import permaheap
buf = permaheap.Buffer.of(b"from there").toreadonly()
view = memoryview(buf)
result = bytes(permaheap.share(buf)).hex()
"""


def test_an_interpreters_buffer_elsewhere():
    with Interpreter() as interpreter:
        handle = Handle.from_bytes(bytes.fromhex(interpreter.ask(MAKE)))
        there = handle.get()
    gc.collect()
    assert bytes(there) == b"from there"
    there.release()
    with pytest.raises(HandleError, match="gone"):
        handle.get()


def test_threads():
    errors = []

    def work(serial):
        try:
            for i in range(100):
                text = bytes([serial]) * (1 + 3000 * (i % 7))
                buf = Buffer.of(text)
                assert bytes(share(buf.toreadonly()).get()) == text
                assert bytes(move(buf)) == text
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[serial]) for serial in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


# --- In messages ----------------------------------------------------------------------------------


def test_a_moved_buffer_is_sent():
    ch, buf = Channel(), filled(b"sent")
    moved = move(buf)
    ch.send(moved)
    assert moved.released
    there = ch.recv()
    assert bytes(there) == b"sent" and not there.readonly
    assert "on the move" not in repr(there)
    there[0] = 83
    assert bytes(there.toreadonly()) == b"Sent"  # nothing else has it


def test_inside_of_containers():
    ch = Channel()
    moved, shared = move(filled(b"moved")), filled(b"shared").toreadonly()
    ch.send({"list": [moved, shared], "again": moved, "size": 5})
    assert moved.released and not shared.released
    there = ch.recv()
    assert there["again"] is there["list"][0]
    assert [bytes(buf) for buf in there["list"]] == [b"moved", b"shared"]
    assert [buf.readonly for buf in there["list"]] == [False, True]


def test_a_writable_buffer_is_not_sent():
    ch, buf = Channel(), filled(b"mine")
    for what in (buf, [buf]):
        with pytest.raises(TypeError, match=r"send move\(buf\), or buf\.toreadonly\(\)"):
            ch.send(what)
    buf[0] = 77
    assert bytes(buf) == b"Mine" and len(ch) == 0
    buf.release()
    with pytest.raises(ValueError, match="released Buffer"):
        ch.send(buf)


def test_what_was_not_sent_is_still_mine():
    ch = Channel(capacity=4096)
    moved = move(filled(b"still mine"))
    with pytest.raises(TypeError):
        ch.send([moved, Buffer(1)])
    assert bytes(moved) == b"still mine"
    with memoryview(moved), pytest.raises(BufferError, match="send: this Buffer has 1 exported"):
        ch.send(moved)
    with pytest.raises(Full):
        while True:
            ch.try_send(b"x" * 500)
    for timeout in (0, 0.01):
        with pytest.raises(Full):
            ch.send([moved, b"x" * 500], timeout=timeout)
        assert bytes(moved) == b"still mine"
    ch.recv()
    ch.recv()
    ch.send([moved, b"x" * 500])
    assert moved.released
    ch.close()
    other = move(Buffer(1))
    with pytest.raises(Closed):
        ch.send(other)
    assert not other.released


def test_nobody_touches_it_while_it_is_sent():
    moved, shared = move(filled(b"moved")), filled(b"shared").toreadonly()
    with Channel(4096) as ch:  # at the latest it is closed then, and the sender ends
        with pytest.raises(Full):
            while True:
                ch.try_send(b"x" * 500)
        sender = threading.Thread(target=ch.send, args=([moved, shared, b"x" * 500],), daemon=True)
        sender.start()
        with pytest.raises(BufferError, match="being sent by another thread"):
            for _ in range(1_000_000):  # until the sender has come so far
                bytes(moved)
        for refused in (moved.release, moved.toreadonly, shared.release, lambda: move(shared)):
            with pytest.raises(BufferError, match="being sent by another thread"):
                refused()
        with pytest.raises(BufferError, match="being sent by another thread"):
            ch.send(moved)
        assert bytes(shared) == b"shared"
        while type(message := ch.recv(timeout=60)) is not list:
            pass
        sender.join()
        assert moved.released and not shared.released
        assert [bytes(buf) for buf in message[:2]] == [b"moved", b"shared"]
        shared.release()


def _receive(pipe, ch):
    buf = ch.recv()
    buf[:5] = b"child"
    ch.send(move(buf))


def test_a_buffer_travels_between_processes():
    ch = Channel()
    with Child(_receive, ch) as child:
        ch.send(move(filled(b"there and back")))
        child.join()
        buf = ch.recv()
    assert bytes(buf) == b"child and back"
    assert not buf.toreadonly().released


def test_messages_that_nobody_takes_hold_nothing():
    before = memory()
    for _ in range(10):
        ch = Channel()
        for _ in range(3):
            ch.send(move(Buffer(5 * MIB)))
        ch.close()
        del ch
        gc.collect()
        assert memory() - before < 40 * MIB


def _flip_and_receive(pipe, places):
    buf = filled(b"shared").toreadonly()
    for place, bit in itertools.product(places, range(8)):
        ch = Channel(4096)
        ch.send([move(filled(b"moved")), buf])
        ch._ring()[place] ^= 1 << bit
        try:
            message = ch.try_recv()
            assert all(bytes(item) for item in message if type(item) is Buffer)
        except (ValueError, Empty, Closed, pickle.PickleError, MemoryError, TypeError):
            continue


def test_flipped_bits_in_a_message():
    ch = Channel(4096)
    before = bytes(ch._ring())
    ch.send([move(filled(b"moved")), filled(b"shared").toreadonly()])
    places = [i for i, byte in enumerate(bytes(ch._ring())) if byte != before[i]]
    assert len(places) > 10
    with Child(_flip_and_receive, places) as child:
        child.join()  # errors, or values: no crash


def test_moved_in_a_circle():
    ch, before = Channel(), memory()
    for i in range(200):
        buf = Buffer(10 * MIB)
        buf[i] = 1
        ch.send(move(buf))
        assert ch.recv()[i] == 1
        assert memory() - before < 40 * MIB


# --- Failures -------------------------------------------------------------------------------------


def make_large():
    return Buffer(3 * MIB)


def make_copy():
    return Buffer.of(b"copy" * MIB)


def make_readonly():
    buf = Buffer(10)
    try:
        return buf.toreadonly()
    except MemoryError:
        assert not buf.readonly
        raise


def make_shared():
    buf = filled(b"x").toreadonly()
    return share(buf).get()


def make_moved():
    buf = filled(b"x")
    try:
        return move(buf)
    except MemoryError:
        assert not buf.released and bytes(buf) == b"x"
        raise


def make_sent():
    ch, moved, shared = Channel(4096), move(filled(b"x")), filled(b"y").toreadonly()
    try:
        ch.send([moved, shared])
    except (MemoryError, OSError):
        assert bytes(moved) == b"x" and bytes(shared) == b"y"
        moved.release()
        shared.release()
        raise
    assert moved.released
    return ch.recv()


SCENARIOS = [make_sent, make_large, make_copy, make_readonly, make_shared, make_moved]


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("persistent", [False, True])
def test_system_calls_fail(scenario, persistent):
    for n in itertools.count(1):
        before = memory()
        fault(n, persistent)
        try:
            scenario()
        except (MemoryError, OSError):
            assert fault(), "an error without a fault"
        fired = fault()
        fault(0)
        if not fired:
            break
        gc.collect()
        assert memory() - before <= 8 * MIB
    scenario()


@pytest.mark.skipif(_testcapi is None, reason="needs _testcapi")
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_pythons_memory_fails(scenario):
    for n in range(1, 60):
        _testcapi.set_nomemory(n, n + 1)
        try:
            scenario()
        except MemoryError:
            pass
        finally:
            _testcapi.remove_mem_hooks()
    scenario()


def test_references():
    numbers = []
    for _ in range(5):
        for scenario in SCENARIOS:
            scenario()
        for wrong in (lambda: Buffer(-1), lambda: move(None), lambda: share(Buffer(1)),
                      lambda: pickle.dumps(Buffer(1)), lambda: Buffer.of("")):  # fmt: skip
            with pytest.raises((TypeError, ValueError)):
                wrong()
        gc.collect()
        numbers.append(
            (sys.getrefcount(Buffer), getattr(sys, "gettotalrefcount", lambda: 0)() // 100)
        )
    assert numbers[-1][0] == numbers[1][0]
    assert numbers[-1][1] - numbers[1][1] <= 1


# --- Against a bytearray --------------------------------------------------------------------------

SLICES = st.slices(64)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("set"), st.integers(-64, 63), st.integers(0, 255)),
        st.tuples(st.just("fill"), SLICES, st.integers(0, 255)),
        st.tuples(st.just("copy"), SLICES, SLICES),
        st.tuples(st.just("pack"), st.integers(0, 56), st.integers(0, 2**64 - 1)),
        st.tuples(st.just("move"), st.none(), st.none()),
        st.tuples(st.just("read"), SLICES, st.none()),
    ),
    max_size=30,
)


def step(buf, what, where, value):
    """Do one thing to a Buffer or a bytearray; return what it gave, and what is there then."""
    view = memoryview(buf)
    given = None
    if what == "set":
        view[where] = value
    elif what == "fill":
        view[where] = bytes([value]) * len(view[where])
    elif what == "copy":
        n = min(len(view[where]), len(view[value]))
        view[where][:n] = bytes(view[value][:n])
    elif what == "pack":
        struct.pack_into("<Q", view, where, value)
    elif what == "read":
        given = bytes(view[where])
    view.release()
    return given, bytes(buf)


@given(STEPS)
def test_as_a_bytearray_does(steps):
    buf, twin = Buffer(64), bytearray(64)
    for what, where, value in steps:
        if what == "move":
            buf = move(buf)
        assert step(buf, what, where, value) == step(twin, what, where, value)
    assert bytes(share(buf.toreadonly()).get()) == bytes(twin)
