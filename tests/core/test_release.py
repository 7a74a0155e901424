"""Releasing blocks: when a block's memory comes back, and that nothing comes back too early."""

import ctypes
import gc
import itertools
import os
import random
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

import permaheap
from interpreters import Interpreter
from permaheap import HandleError, forget, freeze, is_frozen, reclaim, release, share, stats, thaw
from processes import (
    READ_ONLY,
    Child,
    audit,
    claimed,
    extents,
    handle_of,
    memory,
    name_of,
    resolve,
)

KIB = 1 << 10
SIZE = 1_000_000


def table(version, size=SIZE):
    """Return something to freeze, of about `size` bytes in a few large objects."""
    return {"version": version, "rows": [[version, i] for i in range(100)], "blob": bytes(size)}


def returned(work):
    """Return by how many bytes the heap's file shrinks."""
    gc.collect()
    before = memory()
    work()
    return before - memory()


def end(data):
    """Release a block and forget it; the caller holds nothing of it."""
    release(name_of(data))
    forget(name_of(data))


def refused(data):
    """Assert that a handle leads nowhere because of a release."""
    with pytest.raises(HandleError, match="released"):
        resolve(data)
    return True


# --- In one process ------------------------------------------------------------------------------


def test_memory_comes_back():
    frozen = freeze(table(1))
    data = handle_of(frozen)
    before = stats()
    release(frozen)
    assert stats().waiting == 1
    assert frozen["rows"][99] == (1, 99)  # a process that has it may go on reading it
    del frozen
    assert returned(lambda: forget(name_of(data))) >= SIZE - 8 * KIB
    after = stats()
    assert after.waiting == before.waiting == 0
    assert after.released - before.released == before.used - after.used >= SIZE
    assert SIZE - 8 * KIB <= after.returned - before.returned <= SIZE + 8 * KIB
    assert (after.blocks, after.released_blocks) == (before.blocks - 1, before.released_blocks + 1)
    refused(data)
    audit()


def test_block_of_many_segments():
    """It spills from extent to extent; each segment gives its pages back."""
    data = handle_of(freeze([bytes(700_000 + i) for i in range(100)]))
    assert returned(lambda: end(data)) >= 69_000_000
    audit()


def test_neighbours_stay():
    """Blocks of all sizes side by side; every second one goes."""
    rng = random.Random(5)
    sizes = [rng.choice([1, 50, 3000, 5000, 20_000, 70_000]) for _ in range(200)]
    blocks = [freeze([i, bytes([i]) * size, {"text": "caf\xe9" * (i + 1)}])
              for i, size in enumerate(sizes)]  # fmt: skip
    handles = [handle_of(block) for block in blocks]
    for i in range(0, 200, 2):
        blocks[i] = None
        end(handles[i])
    for i in range(1, 200, 2):
        assert blocks[i] == (i, bytes([i]) * sizes[i], blocks[i][2])
        assert blocks[i][2]["text"] == "caf\xe9" * (i + 1)
        assert resolve(handles[i]) is blocks[i]
        assert refused(handles[i - 1])
    audit()


def test_get_and_share_are_refused_at_once():
    frozen = freeze(table(1))
    whole, part = share(frozen), share(frozen["rows"])
    release(whole)
    for handle in (whole, part, permaheap.Handle.from_bytes(bytes(whole))):
        with pytest.raises(HandleError, match="released"):
            handle.get()
    for obj in (frozen, frozen["rows"]):
        with pytest.raises(HandleError, match="released"):
            share(obj)
    assert is_frozen(frozen["rows"])
    assert thaw(frozen["rows"])[7] == [1, 7]
    del frozen, obj
    forget(whole)


def test_freeze_refuses_what_was_released(refused):
    frozen = freeze(table(1))
    handle = share(frozen)
    release(frozen)
    with refused('data["a"][1]', match="released"):
        freeze({"a": [1.5, frozen["rows"]]})
    with refused("data", match="released"):
        freeze(frozen["rows"])
    with refused("data[2]", match="released"):
        permaheap.freeze_each([1, 2, frozen["rows"]])
    assert freeze({"a": thaw(frozen["rows"])})["a"][7] == (1, 7)
    del frozen
    gc.collect()  # clears the frames of the exceptions
    forget(handle)


def test_key_of_a_released_block_is_refused(refused):
    text = freeze(["a key that is long enough"])
    freeze({text[0]: 1, "other": 2})
    other = freeze(["another key, long enough"])
    data = handle_of(other)
    release(other)
    with refused(match="released"):
        freeze({other[0]: 1, "other": 2})
    del other
    gc.collect()
    forget(name_of(data))


def test_again_is_nothing():
    frozen = freeze(table(1))
    handle = share(frozen)
    release(handle)
    before = stats()
    release(handle)
    release(frozen)
    assert stats() == before
    del frozen
    forget(handle)
    before = stats()
    release(handle)
    forget(handle)
    assert stats() == before
    assert reclaim() == 0


def test_what_cannot_be_released(unchanged):
    frozen = freeze(table(1))
    with unchanged():
        for part in (frozen["rows"], share(frozen["rows"])):
            with pytest.raises(RuntimeError, match="part of a block"):
                release(part)
        for static in (None, (), 5, share(None)):
            with pytest.raises(RuntimeError, match="interpreter"):
                release(static)
        for part, match in ((frozen["rows"], "part of a block"), (None, "interpreter")):
            with pytest.raises(RuntimeError, match=match):
                forget(share(part))
        for other in ([], "some text " * 3, bytes(share(frozen))):
            for function in (release, forget):
                with pytest.raises(TypeError, match="Handle"):
                    function(other)
        for other in (frozen, None):  # a caller that gives the object itself holds it
            with pytest.raises(TypeError, match="Handle"):
                forget(other)
        for function in (release, forget):
            with pytest.raises(TypeError):
                function()
        with pytest.raises(RuntimeError, match="not released"):
            forget(share(frozen))
    assert share(frozen).get() is frozen


def test_forged_handles_release_nothing(unchanged):
    frozen = freeze(table(1, 100))
    data = handle_of(frozen)
    with unchanged():
        for bit in range(320):
            forged = bytearray(data)
            forged[bit // 8] ^= 1 << bit % 8
            for function in (release, forget):
                with pytest.raises(HandleError):
                    function(permaheap.Handle.from_bytes(bytes(forged)))
    assert resolve(data) is frozen


# --- Blocks that refer to blocks -----------------------------------------------------------------


def test_block_in_use_stays():
    users = freeze(table(1))
    index = freeze({"first": users["rows"][0], "all": users["rows"]})
    third = freeze([users["blob"], index])
    with pytest.raises(RuntimeError, match=r"2 other\(s\) refer to"):
        release(users)
    with pytest.raises(RuntimeError, match=r"1 other\(s\) refer to") as caught:
        release(index)
    assert repr(share(third)).split()[3] in str(caught.value)  # its offset
    assert share(users).get() is users
    handles = [share(block) for block in (third, index, users)]
    for handle in handles:
        release(handle)
    del users, index, third, handle
    for handle in handles[:2]:
        forget(handle)
    assert returned(lambda: forget(handles[2])) >= SIZE - 8 * KIB
    audit()


def test_use_counts_once_for_each_block():
    users = freeze(table(1))
    index = freeze([[row, row] for row in users["rows"]])
    handles = [share(index), share(users)]
    del index, users
    for handle in handles:
        release(handle)
    for handle in handles:
        forget(handle)


def test_block_may_refer_to_many():
    parts = [freeze([float(i), "x" * 40]) for i in range(3000)]
    whole = permaheap.freeze_each([part, part[1]] for part in parts)
    audit()
    for part in parts[::500]:
        with pytest.raises(RuntimeError, match="refer to"):
            release(part)
    names = [handle_of(block) for block in (whole, *parts)]
    del whole, part, parts
    for data in names:
        end(data)
    audit()


def test_failed_freeze_pins_nothing(refused):
    users = freeze(table(1))
    with refused():
        freeze([users, object()])
    data = handle_of(users)
    release(users)
    del users
    gc.collect()
    forget(name_of(data))


def test_nested_freeze_is_used():
    inner = []

    def default(obj):
        inner.append(freeze([1.5, bytes(10_000)]))
        return inner[-1]

    outer = freeze([object(), {object(): 1}], default=default)
    for block in inner:
        with pytest.raises(RuntimeError, match="refer to"):
            release(block)
    audit()
    names = [handle_of(block) for block in (outer, *inner)]
    inner.clear()
    del outer, block
    gc.collect()
    for data in names:
        end(data)
    audit()


def test_released_by_what_freeze_calls():
    """The block goes while another one that refers to it is being built."""
    users = [freeze(table(1))]
    data = handle_of(users[0])

    def default(obj):
        release(users[0])
        return 1.5

    with pytest.raises(RuntimeError, match="released"):
        freeze([users[0], object()], default=default)
    users.clear()
    gc.collect()
    forget(name_of(data))
    audit()


# --- Which processes may see it ------------------------------------------------------------------


def hold(pipe, data):
    """Hold a block, and let go of it when told to; then stay."""
    frozen = resolve(data)
    pipe.send(frozen["rows"][7][1])
    while (what := pipe.recv()) is not None:
        if what == "read":
            pipe.send((frozen["version"], len(frozen["rows"]), frozen["rows"][99][1],
                       frozen["blob"].count(0)))  # fmt: skip
        elif what == "forget":
            del frozen
            forget(permaheap.Handle.from_bytes(data))
            pipe.send("forgotten")
        elif what == "get":
            pipe.send(refused(data))


def holders(data, n):
    children = [Child(hold, data) for _ in range(n)]
    assert [child.recv() for child in children] == [7] * n
    return children


def leave(child, how):
    if how == "forget":
        child.send("forget")
        assert child.recv() == "forgotten"
    elif how == "kill":
        child.kill()
    else:
        child.send(None)
        child.join()


@pytest.mark.parametrize("ways", [("forget", "forget"), ("exit", "kill"), ("kill", "forget")])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_it_is_there_until_the_last_one_leaves(order, ways):
    """Parent (0) and two children let go of it in any order."""
    frozen = freeze(table(5))
    data = handle_of(frozen)
    children = holders(data, 2)
    release(frozen)
    there = memory()
    del frozen
    for turn, who in enumerate(order):
        for other in (child for i, child in enumerate(children, 1) if i in order[turn:]):
            other.send("read")
            assert other.recv() == (5, 100, 99, SIZE)
        assert memory() == there
        assert reclaim() == 1
        if who == 0:
            forget(name_of(data))
        else:
            leave(children[who - 1], ways[who - 1])
    assert reclaim() == 0
    assert there - memory() >= SIZE - 8 * KIB
    for child in children:
        if child.pid is not None:
            leave(child, "exit")
    audit()


def test_anybody_may_release_and_give_back():
    """The parent froze; one child releases, another is the last to forget."""
    frozen = freeze(table(1))
    data = handle_of(frozen)

    def release_it(pipe):
        release(permaheap.Handle.from_bytes(data))
        refused(data)
        release(permaheap.Handle.from_bytes(data))

    [child] = holders(data, 1)
    with Child(release_it) as other:
        other.join()
    child.send("get")
    assert child.recv() is True
    del frozen
    forget(name_of(data))
    assert returned(lambda: leave(child, "forget")) >= SIZE - 8 * KIB
    leave(child, "exit")
    audit()


def resident(pid):
    """Return how much of the heap is resident in a process, in bytes."""
    total, ours = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):
            ours = "memfd:permaheap" in line
        elif ours and first == "Rss:":
            total += int(rest[0]) * KIB
    return total


def test_siblings_have_it_no_longer_resident():
    frozen = freeze(table(1))
    data = handle_of(frozen)
    children = holders(data, 2)
    for child in children:
        child.send("read")
        child.recv()
        assert resident(child.pid) >= SIZE
    release(frozen)
    before = [resident(child.pid) for child in children]
    del frozen
    forget(name_of(data))
    for child in children:
        leave(child, "forget")
    for child, size in zip(children, before, strict=True):
        assert size - resident(child.pid) >= SIZE * 0.8  # reading maps a few neighbours
        leave(child, "exit")


@pytest.mark.skipif(READ_ONLY, reason="a stray write is SIGSEGV in this mode")
def test_copies_of_its_pages_go_as_well():
    """An extension that wrote to its pages has copies, which no hole in the file takes away."""
    frozen = freeze(table(1))
    at = id(frozen["blob"]) + 100
    for page in range(0, SIZE - 8192, 4096):
        ctypes.memset(at + page, 0, 1)
    private = lambda: int(  # noqa: E731
        next(line for line in Path("/proc/self/smaps_rollup").read_text().splitlines()
             if line.startswith("Anonymous")).split()[1]) * KIB  # fmt: skip
    before = private()
    data = handle_of(frozen)
    del frozen
    end(data)
    assert before - private() >= SIZE * 0.8


def test_child_forked_before_forget_still_sees_it():
    held = [freeze(table(3))]
    data = handle_of(held[0])
    release(held[0])

    def read(pipe):
        pipe.recv()
        return held[0]["rows"][42][1], held[0]["blob"].count(0)

    with Child(read) as child:
        held.clear()
        forget(name_of(data))
        assert reclaim() == 1
        child.send("now")
        assert child.join() == (42, SIZE)
    assert reclaim() == 0
    audit()


def test_child_forked_after_forget_has_forgotten():
    data = handle_of(freeze(table(3)))
    [holder] = holders(data, 1)
    end(data)

    def stay(pipe):
        with Child(stay_too) as grandchild:
            pipe.send(grandchild.recv())
            pipe.recv()
            grandchild.send("end")
            grandchild.join()

    def stay_too(pipe):
        pipe.send("there")
        pipe.recv()

    with Child(stay) as child:
        assert child.recv() == "there"
        assert reclaim() == 1
        leave(holder, "exit")
        assert reclaim() == 0
        child.send("end")
        child.join()


def test_orphan_speaks_for_itself():
    """Its parent has ended by the time it is asked."""
    held = [freeze(table(4))]
    data = handle_of(held[0])
    release(held[0])

    def middle(pipe):
        reader, writer = os.pipe()
        if os.fork() == 0:
            os.close(writer)
            os.read(reader, 1)
            pipe.send((held[0]["rows"][9][1], held[0]["blob"].count(0)))
            os._exit(0)
        os.close(reader)
        pipe.send(os.dup(writer))
        pipe.recv()
        os._exit(0)

    with Child(middle) as child:
        number = child.recv()
        theirs = os.open(f"/proc/{child.pid}/fd/{number}", os.O_WRONLY)
        child.send("end")
        assert child.reap() == 0
        held.clear()
        forget(name_of(data))
        assert reclaim() == 1
        os.write(theirs, b"x")
        os.close(theirs)
        assert child.recv() == (9, SIZE)
        with pytest.raises(EOFError):
            child.pipe.recv()  # it is ending: its memory goes before its files
    assert reclaim() == 0


@pytest.mark.skipif(
    "PERMAHEAP_ASAN" in os.environ,
    reason="the program, too, has the sanitizer's terabytes, so it counts as one of the family",
)
def test_program_started_by_a_child_sees_nothing():
    """After exec the pid and the time of start are the same, the heap is not there."""
    data = handle_of(freeze(table(1)))
    process = subprocess.Popen(
        ["cat"], stdin=subprocess.PIPE, preexec_fn=lambda: None, stdout=subprocess.DEVNULL
    )
    end(data)
    assert process.poll() is None
    assert reclaim() == 0
    process.communicate()


def test_zombie_sees_nothing():
    data = handle_of(freeze(table(1)))
    release(name_of(data))
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    forget(name_of(data))
    assert reclaim() == 0
    os.waitpid(pid, 0)


# --- Addresses -----------------------------------------------------------------------------------


def test_addresses_do_not_run_out():
    """Table after table, each with a successor before it goes."""
    old = handle_of(freeze(table(0, 5_000_000)))
    for version in range(1, 150):
        new = handle_of(freeze(table(version, 5_000_000)))
        end(old)
        old = new
        if version == 30:
            before = claimed(), len(extents()), memory(), stats().reused
    assert claimed() <= before[0] + (32 << 20)
    assert len(extents()) <= before[1] + 3
    assert memory() < before[2] + 2_000_000
    assert stats().reused > before[3] + 80 * 5_000_000
    assert resolve(old)["rows"][99] == (149, 99)
    end(old)
    audit()


def read_each(pipe):
    """Resolve, check, scribble where it can be done, drop, forget."""
    while (message := pipe.recv()) is not None:
        data, version = message
        frozen = resolve(data)
        assert thaw(frozen) == table(version, 3_000_000)
        if not READ_ONLY:  # copy a few pages: the first, the last, and some between
            blob = id(frozen["blob"])
            for at in (id(frozen), id(frozen["rows"]), blob + 10**6 + version, blob + 3_000_000):
                ctypes.memmove(at, ctypes.string_at(at, 1), 1)
        del frozen
        pipe.send("read")
        pipe.recv()
        forget(name_of(data))
        pipe.send("forgotten")


def test_reused_addresses_show_the_new_objects():
    """Also in processes that have old pages of their own, and in those forked in between."""
    reused = stats().reused
    children = []
    for version in range(30):
        if version % 10 == 0:
            children.append(Child(read_each))
        data = handle_of(freeze(table(version, 3_000_000)))
        for child in children:
            child.send((data, version))
            assert child.recv() == "read"
        end(data)
        for child in children:
            child.send("now")
            assert child.recv() == "forgotten"
        assert reclaim() == 0
    assert stats().reused > reused + 10 * 3_000_000
    for child in children:
        child.send(None)
        child.join()
    audit()


def test_segment_that_outlives_its_home():
    """Extents are reused one by one: a part of a block that is gone may stay where it was."""
    rng = random.Random(3)
    small, large = [], []
    for turn in range(50):
        small.append(handle_of(freeze([turn, bytes(rng.randrange(2_000_000))])))
        large.append(handle_of(freeze([bytes(rng.randrange(1, 700_000)) for _ in range(25)])))
        end(large.pop(rng.randrange(len(large))))
        if rng.random() < 0.9:
            end(small.pop(rng.randrange(len(small))))
        if turn % 20 == 0:
            audit()
    for data in small + large:
        assert type(resolve(data)) is tuple
        end(data)
    audit()


# --- Several interpreters ------------------------------------------------------------------------


def test_interpreters_of_a_process_are_one():
    data = handle_of(freeze(table(1)))
    code = """
import permaheap
handle = permaheap.Handle.from_bytes(data)
"""
    with Interpreter() as one, Interpreter() as two:
        for interpreter in (one, two):
            assert interpreter.ask(code + "result = handle.get()['version']", data=data) == 1
        one.run(code + "permaheap.release(handle)", data=data)
        refusal = """
try:
    handle.get()
    result = "there"
except permaheap.HandleError as error:
    result = str(error)
"""
        assert "released" in two.ask(code + refusal, data=data)
        refused(data)
        assert returned(lambda: two.run(code + "permaheap.forget(handle)", data=data)) > SIZE - 8192
    audit()


# --- Death and failure ---------------------------------------------------------------------------

FOREVER = freeze({"rows": [[i, str(i) * 20] for i in range(2000)], "bytes": bytes(range(256))})
EXPECTED = thaw(FOREVER)


def churn_until_killed(pipe, seed):
    rng = random.Random(seed)
    names = []
    pipe.send("begin")
    while True:
        if len(names) < 4 or rng.random() < 0.5:
            names.append(make(rng, resolve(rng.choice(names)) if names else FOREVER))
            continue
        data = rng.choice(names)
        try:
            release(name_of(data))
        except RuntimeError:
            continue  # another one refers to it
        names.remove(data)
        forget(name_of(data))


def make(rng, other):
    rows = [other["rows"]] if rng.random() < 0.3 else [FOREVER["rows"][rng.randrange(2000)]]
    return handle_of(freeze({"rows": rows, "blob": bytes(rng.randrange(200_000))}))


def test_killed_at_any_time():
    """All that they have released comes back: their parent has not looked at any of it."""
    rng = random.Random(11)
    for seed in range(40):
        children = [Child(churn_until_killed, seed * 2 + i) for i in range(2)]
        for child in children:
            child.recv()
        threading.Event().wait(rng.random() * 0.02)  # any moment will do: that is the point
        for child in children:
            child.kill()
    assert reclaim() == 0
    assert thaw(FOREVER) == EXPECTED
    permaheap._core._testing.check()
    data = handle_of(freeze(table(1)))
    assert returned(lambda: end(data)) >= SIZE - 8 * KIB


def test_process_that_has_not_looked_cannot_see_it():
    """A process that was there before, and a child that froze something else before."""

    def wait(pipe):
        freeze(["mine", 2.5])
        pipe.send("there")
        return refused(pipe.recv())

    with Child(wait) as child:
        child.recv()
        data = handle_of(freeze(table(1)))
        assert returned(lambda: end(data)) >= SIZE - 8 * KIB
        child.send(data)
        assert child.join() is True
    audit()


@pytest.mark.parametrize("persistent", [False, True])
def test_each_failure_in_turn(persistent):
    """A call that failed can be repeated, and then all memory comes back."""
    for n in itertools.count(1):
        blocks = [handle_of(freeze(table(1))), handle_of(freeze(table(2)))]
        blocks.insert(1, handle_of(freeze([resolve(blocks[1])["rows"]])))
        there = stats()
        before = memory()
        permaheap._core._testing.fault(n, persistent=persistent)
        try:
            for block in blocks:
                release(name_of(block))
            for block in blocks:
                forget(name_of(block))
        except (MemoryError, OSError):
            pass
        fired = permaheap._core._testing.fault()
        permaheap._core._testing.fault(0)
        for block in blocks:
            end(block)
        assert reclaim() == 0
        assert stats().blocks == there.blocks - 3
        assert before - memory() >= 2 * SIZE - 16 * KIB
        permaheap._core._testing.check()
        if not fired:
            break
    assert n > 1


def fork_once(pipe, frozen):
    pipe.send(frozen["rows"][1][1])
    data = handle_of(freeze(table(9, 10_000)))
    end(data)
    return data


def test_fork_while_another_thread_releases():
    stop = threading.Event()
    failures = []

    def churn():
        try:
            while not stop.is_set():
                end(handle_of(freeze(table(1, 100_000))))
        except BaseException as error:
            failures.append(error)
            raise

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        for _ in range(50):
            with Child(fork_once, FOREVER) as child:
                assert child.recv() == "1" * 20
                data = child.join()
                try:
                    forget(name_of(data))
                except HandleError as error:
                    if "no longer there" not in str(error):  # its addresses are reused
                        raise
    finally:
        stop.set()
        thread.join()
    assert not failures
    assert reclaim() == 0
    audit()


# --- The table of processes ----------------------------------------------------------------------

TABLE = """
import ctypes, os, struct, sys
import permaheap
from permaheap import freeze, forget, reclaim, release, stats
from processes import STRUCTS, Child, handle_of, heap_file, memory, name_of

start, PROCESS, PROCESSES = STRUCTS["ph_header"]["process"]

def processes():
    table = os.pread(heap_file(), PROCESS * PROCESSES, start)
    return [struct.unpack_from("5Q", table, PROCESS * i) for i in range(PROCESSES)]

def put(index, *words):
    os.pwrite(heap_file(), struct.pack(f"{len(words)}Q", *words), start + PROCESS * index)

def gone(work=lambda: None):
    data = handle_of(freeze([1.5, bytes(1_000_000)]))
    before = memory()
    release(name_of(data))
    forget(name_of(data))
    work()
    reclaim()
    return before - memory() > 900_000

me = processes()[0]
assert me[0] == me[1] and me[0] >> 40 == os.getpid() and me[2] == 0
before_us = os.getpid() << 40  # with our pid, but listed before we were started
long_after = before_us | 2**40 - 1
assert gone()
"""


def in_table(run, code):
    done = run(TABLE + code)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


def test_pid_that_is_used_again(run):
    """A process with that pid lives, but it started after the entry was written: a reused pid."""
    code = """
put(7, before_us + 5, before_us + 5, 0, 0, 2**40)
assert gone()
assert processes()[7][0] == 0
"""
    in_table(run, code)


def test_process_that_cannot_be_told(run):
    """If nothing contradicts it, a process with that pid counts as the entry's process."""
    code = """
put(7, long_after, long_after, 0, 0, 2**40)
assert not gone()
"""
    in_table(run, code)


def test_slot_that_is_being_taken(run):
    in_table(run, "put(7, me[0], 0, 0, 0, 0)\nassert not gone()")


def test_more_processes_than_slots(run):
    """From the first one that finds no slot nothing is given back any more; all else works."""
    code = """
for i in range(1, PROCESSES):
    put(i, long_after, me[0], 0, 0, 0)
with Child(lambda pipe: gone() or stats().unlisted) as child:
    assert child.join() == 1
assert not gone()
for i in range(1, PROCESSES):
    put(i, 0, 0, 0, 0, 0)
assert not gone()
assert stats().waiting == 3
"""
    in_table(run, code)


def test_dead_slots_are_taken_over(run):
    code = """
for i in range(1, PROCESSES):
    put(i, before_us + i, before_us + i, 0, 0, 2**40)
with Child(lambda pipe: gone()) as child:
    child.join()
assert gone()
assert stats().unlisted == 0
"""
    in_table(run, code)


def test_dead_parent_speaks_for_its_pending_fork(run):
    """Its slot is neither freed nor taken over while there is a process that may be the child."""
    code = """
with Child(lambda pipe: pipe.send(None) or pipe.recv()) as child:
    child.recv()
    slot = next(i for i in range(PROCESSES) if processes()[i][0] >> 40 == child.pid)
    word = processes()[slot][0]
    put(slot, word, 0)  # as if it had not joined yet
    put(7, before_us + 5, before_us + 5, 1, 0, 0)
    assert not gone()
    assert processes()[7][0] == before_us + 5
    put(slot, word, word)
    reclaim()
    assert processes()[7][0] == 0
    assert stats().waiting == 0
"""
    in_table(run, code)


def test_child_that_never_came(run):
    """Its fork failed: the parent, which knows its children, expires the pending fork."""
    code = """
with Child(lambda pipe: pipe.send("there") or pipe.recv()) as child:
    assert child.recv() == "there"
    put(0, *me[:2], 3)
    assert gone()
    assert processes()[0][2] == 1 << 32
    child.send("end")
    child.join()
assert gone()
"""
    in_table(run, code)


def test_fork_that_fails(run):
    """The same, with a filter on system calls that refuses to make processes."""
    code = """
import errno
x86 = os.uname().machine == "x86_64"
calls = [56, 57, 58, 435] if x86 else [220, 435]
lines = [struct.pack("HBBI", 0x20, 0, 0, 0)]
lines += [struct.pack("HBBI", 0x15, len(calls) - i, 0, n) for i, n in enumerate(calls)]
lines += [struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)]
lines += [struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | errno.EAGAIN)]
filter = ctypes.create_string_buffer(b"".join(lines))
program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(lines), ctypes.addressof(filter)))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, program, 0, 0) == 0, os.strerror(ctypes.get_errno())
data = handle_of(freeze([1.5, bytes(1_000_000)]))
try:
    os.fork()
except OSError as error:
    assert error.errno == errno.EAGAIN
else:
    raise AssertionError("it has forked")
assert processes()[0][2] == 1
assert gone()
assert processes()[0][2] == 1 << 32
"""
    in_table(run, code)


def test_processes_of_another_namespace(run):
    """Their pids mean something else: they are unlisted."""
    code = """
try:
    os.unshare(os.CLONE_NEWPID)
except OSError:
    sys.exit()
with Child(lambda pipe: os.getpid()) as child:
    assert child.join() == 1
assert stats().unlisted == 1
assert not gone()
"""
    in_table(run, code)


def test_table_of_released_blocks_gets_full(run):
    code = """
def hold(pipe):
    pipe.send("there")
    pipe.recv()
handles = [name_of(handle_of(freeze([i, 2.5]))) for i in range(1030)]
with Child(hold) as child:
    child.recv()
    for i, handle in enumerate(handles):
        try:
            release(handle)
        except RuntimeError as error:
            assert "forget() or end first" in str(error)
            break
    assert i == 1024
    assert handles[i].get() == (i, 2.5)     # it has not been released
    for handle in handles[:i]:
        forget(handle)
    assert stats().waiting == 1024
    child.send("end")
    child.join()
for handle in handles[i:]:
    release(handle)
    forget(handle)
assert stats().waiting == 0
assert permaheap._core._testing.check() == 0
"""
    done = run(TABLE.replace("\nassert gone()\n", "\n") + code)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr


# --- Debug mode ----------------------------------------------------------------------------------

TOUCH = """
import faulthandler, signal, sys
import permaheap
from processes import handle_of, name_of
if sys.argv[1] == "handler":
    faulthandler.enable()
frozen = permaheap.freeze({"text": "x" * 50, "blob": bytes(100_000), "more": ["y" * 9000]})
neighbour = permaheap.freeze(["neighbour", 1.5])
blob = frozen["blob"]
data = handle_of(frozen)
permaheap.release(frozen)
assert blob.count(0) == 100_000
del frozen
print(int.from_bytes(data[24:32], "little"), flush=True)
permaheap.forget(name_of(data))
assert neighbour == ("neighbour", 1.5)
assert permaheap._core._testing.check() == 1
print("forgotten", flush=True)
blob.count(0)
print("still here")
"""


@pytest.mark.parametrize("seal", ["0", "1"])
@pytest.mark.parametrize("first", ["handler", "none"])
def test_debug_mode_names_the_block(run, first, seal):
    done = run(TOUCH, first, PERMAHEAP_DEBUG="1", PERMAHEAP_SEAL=seal)
    root, forgotten = done.stdout.split()
    assert forgotten == "forgotten"
    assert done.returncode == -signal.SIGSEGV
    line = next(line for line in done.stderr.splitlines() if line.startswith("permaheap:"))
    assert f"root at offset {root}, which was released" in line
    assert "Segmentation fault" in done.stderr  # faulthandler's turn comes after, or before, ours


def test_other_faults_are_left_to_others(run):
    code = "import permaheap, ctypes\npermaheap.freeze([1.5])\nctypes.string_at(8)"
    done = run(code, PERMAHEAP_DEBUG="1")
    assert done.returncode == -signal.SIGSEGV
    assert "permaheap:" not in done.stderr
    assert "Segmentation fault" in done.stderr


def test_without_debug_mode_reading_is_zeros(run):
    done = run(TOUCH.replace("blob.count(0)\nprint", "print"), "none")
    assert done.stdout.split()[1:] == ["forgotten", "still", "here"], done.stderr


def reclaim_all_the_time(pipe):
    pipe.send("begin")
    while not pipe.poll():
        reclaim()


def read_and_leave(held):
    """Fork a child that reads what it has inherited; return it and the pipe with its verdict."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        good = held[0]["blob"].count(1) == 20_000 and held[0]["rows"][-1] == "the end"
        os.write(writer, b"good" if good else b"bad")
        os._exit(0)
    os.close(writer)
    return pid, reader


def test_newborn_children_see_what_their_parent_has_forgotten_since():
    """A block is not given back while a child that has no slot yet can see it."""
    with Child(reclaim_all_the_time) as other:
        other.recv()
        for _ in range(200):
            held = [freeze({"blob": b"\1" * 20_000, "rows": ["x" * 9000, "the end"]})]
            data = handle_of(held[0])
            release(held[0])
            pid, reader = read_and_leave(held)
            held.clear()
            forget(name_of(data))
            reclaim()
            assert os.read(reader, 10) == b"good"
            os.close(reader)
            os.waitpid(pid, 0)
        other.send("end")
        other.join()
    assert reclaim() == 0
    audit()


# --- A model -------------------------------------------------------------------------------------


class Families(RuleBasedStateMachine):
    """Freeze, release, forget, fork, kill, at random, beside a slow model of what each may see."""

    blocks = Bundle("blocks")

    def __init__(self):
        super().__init__()
        assert reclaim() == 0
        self.children = {}  # name: Child
        self.handles = {}  # block: handle; blocks are numbered in their order
        self.uses = {}  # block: blocks
        self.live = set()
        self.waiting = {}  # released block: names of processes that have not forgotten it
        self.looked = {"parent": 0}  # name: the newest block that it can know
        self.forked = self.gone = 0
        self.start = stats()

    @rule(
        target=blocks,
        others=st.lists(blocks, max_size=3),
        size=st.sampled_from([9, 30_000, 3_000_000]),
        who=st.integers(0, 3),
    )
    def freeze(self, others, size, who):
        others = [other for other in others if other in self.live]
        block = len(self.handles) + 1
        request = block, [self.handles[other] for other in others], size
        self.handles[block] = self.do(who, "freeze", request)
        self.looked[self.name(who)] = block
        self.uses[block] = set(others)
        self.live.add(block)
        return block

    @rule(block=blocks, who=st.integers(0, 3))
    def release(self, block, who):
        in_use = any(block in self.uses[user] for user in self.live)
        answer = self.do(who, "release", self.handles[block])
        if block in self.live:
            assert answer == ("RuntimeError" if in_use else None)
            if not in_use:
                self.live.remove(block)
                self.waiting[block] = set(self.looked)
        else:
            assert answer is None  # again: nothing happens

    @rule(block=blocks, who=st.integers(0, 3))
    def forget(self, block, who):
        answer = self.do(who, "forget", self.handles[block])
        assert answer == ("RuntimeError" if block in self.live else None)
        if block in self.waiting:
            self.waiting[block].discard(self.name(who))

    @rule()
    def fork(self):
        if len(self.children) == 3:
            return
        self.forked += 1
        name = f"child {self.forked}"
        self.children[name] = Child(serve)
        assert self.children[name].recv() == "ready"
        self.looked[name] = self.looked["parent"]
        for remember in self.waiting.values():
            if "parent" in remember:
                remember.add(name)

    @rule(who=st.integers(1, 3))
    def kill(self, who):
        name = self.name(who)
        if name != "parent":
            self.children.pop(name).kill()
            del self.looked[name]
            for remember in self.waiting.values():
                remember.discard(name)

    @rule(block=blocks, who=st.integers(0, 3))
    def get(self, block, who):
        answer = self.do(who, "get", self.handles[block])
        assert answer == (block if block in self.live else "HandleError")

    def name(self, who):
        names = list(self.looked)
        return names[who % len(names)]

    def do(self, who, *request):
        name = self.name(who)
        self.looked[name] = len(self.handles)
        if name == "parent":
            return answer(*request)
        self.children[name].send(request)
        return self.children[name].recv()

    @invariant()
    def it_is_as_the_model_says(self):
        for block, remember in list(self.waiting.items()):
            if not any(self.looked[name] >= block for name in remember):
                del self.waiting[block]
                self.gone += 1
        now = stats()
        assert now.waiting == len(self.waiting)
        assert now.blocks - self.start.blocks == len(self.live)
        assert now.released_blocks - self.start.released_blocks == self.gone + len(self.waiting)

    def teardown(self):
        permaheap._core._testing.check()
        for child in self.children.values():
            child.kill()
        for block in sorted(self.live, reverse=True):  # users are later than what they use
            end(self.handles[block])
        for block in self.waiting:
            forget(name_of(self.handles[block]))
        assert reclaim() == 0


def answer(name, request):
    """Do what a rule wants, in any process."""
    try:
        if name == "freeze":
            number, others, size = request
            others = [resolve(other) for other in others]
            return handle_of(freeze({"n": number, "others": others, "blob": bytes(size)}))
        if name == "get":
            return resolve(request)["n"]
        return {"release": release, "forget": forget}[name](name_of(request))
    except (RuntimeError, HandleError) as error:
        return type(error).__name__


def serve(pipe):
    pipe.send("ready")
    while True:
        pipe.send(answer(*pipe.recv()))


TestFamilies = Families.TestCase
TestFamilies.settings = settings(max_examples=20, stateful_step_count=30, deadline=None)
