"""The family: what parents, children and siblings see of each other's freezes, and how they die."""

import ctypes
import mmap
import os
import random
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import pytest

import permaheap
from permaheap import HandleError, family_context, freeze, share, stats, thaw
from processes import (
    READ_ONLY,
    Child,
    ChildFailed,
    audit,
    claimed,
    extents,
    handle_of,
    heap_file,
    memory,
    resolve,
)

pytestmark = pytest.mark.no_sanitizer("crowds of processes or interpreters are too slow")

DEBUG = hasattr(sys, "gettotalrefcount")
needs_private = pytest.mark.skipif(READ_ONLY, reason="a stray write is SIGSEGV in this mode")


def graph(seed, size=20):
    """Return a graph of several kinds of object, of about 10 * size objects."""
    return {
        "seed": seed,
        "records": [
            {"id": 10**6 * seed + i, "name": f"name {i} of {seed}", "tags": ["a", f"t{i % 7}"]}
            for i in range(size)
        ],
        "set": {f"s{seed}", (seed, 1.5), b"bytes"},
        "big": 10**30 + seed,
        "text": "caf\xe9 \u20ac" * (size % 50 + 1),
    }


# --- Parents, children, siblings -------------------------------------------------------------


def exchange(pipe, seed):
    """Freeze, tell; be told what the others have frozen, and return where it is and what."""
    for turn in range(10):
        pipe.send(handle_of(freeze(graph(100 * seed + turn))))
        for data, address, seed_of in pipe.recv():
            obj = resolve(data)
            assert (id(obj), thaw(obj)) == (address, thaw(freeze(graph(seed_of))))
    permaheap._core._testing.check()
    return True


def test_siblings_exchange_what_they_freeze():
    children = [Child(exchange, seed) for seed in range(4)]
    for turn in range(10):
        handles = [child.recv() for child in children]
        objects = [resolve(data) for data in handles]
        assert [thaw(obj)["seed"] for obj in objects] == [100 * s + turn for s in range(4)]
        news = [(d, id(o), o["seed"]) for d, o in zip(handles, objects, strict=True)]
        for child in children:
            child.send(news)
    assert all(child.join() for child in children)
    audit()


def generations(pipe, depth, above):
    """Freeze something that refers to what the ancestors froze; let descendants do so, too."""
    mine = freeze({"depth": depth, "above": [resolve(data) for data in above]})
    above = [*above, handle_of(mine)]
    if depth == 0:
        return above
    with Child(generations, depth - 1, above) as child:
        return child.join()


def test_ten_generations():
    handles = generations(None, 10, [])
    objects = [resolve(data) for data in handles]
    for i, obj in enumerate(objects):
        assert obj["depth"] == 10 - i
        assert all(one is other for one, other in zip(obj["above"], objects, strict=False))
    audit()


def test_orphans_keep_the_heap():
    """The family goes on when its first process is gone."""
    code = """
import os, sys
from processes import Child, handle_of, resolve, audit
from permaheap import freeze
first = freeze({"first": [1.5]})
def orphan(pipe):
    parent = os.getppid()
    pipe.send("ready")
    while os.getppid() == parent:       # pipe.recv() fails when the parent is gone
        try:
            pipe.recv()
        except EOFError:
            pass
    # The parent's extents are inherited by us, and by our child when we are gone.
    mine = freeze({"mine": [first, 10**30]})
    audit()
    with Child(lambda pipe: handle_of(freeze(["child", mine]))) as child:
        data = child.join()
    assert resolve(data)[1]["mine"][0] is first
    audit()
    os.write(1, b"fine")
child = Child(orphan)
assert child.recv() == "ready"
os._exit(0)
"""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", code],
        cwd=Path(__file__).parents[1] / "support",
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.stdout, done.returncode) == ("fine", 0), done.stderr


def use_once(pipe, data, serial):
    obj = resolve(data)
    assert obj["records"][3]["name"] == "name 3 of 7"
    if serial % 10:
        return None
    return handle_of(freeze([obj, serial, f"child {serial}"]))


def test_a_thousand_forks():
    """Reading and freezing, one after another; bounded in time, addresses and memory."""
    began = time.monotonic()
    frozen = freeze(graph(7))
    data = handle_of(frozen)
    before = claimed(), len(extents()), memory()
    for serial in range(1000):
        with Child(use_once, data, serial) as child:
            from_child = child.join()
        if from_child is not None:
            obj, number, text = resolve(from_child)
            assert obj is frozen
            assert (number, text) == (serial, f"child {serial}")
    assert claimed() - before[0] <= 16 << 20
    assert len(extents()) - before[1] <= 4
    assert memory() - before[2] <= 16 << 20
    assert time.monotonic() - began < 300
    audit()


def stay(pipe, data, serial):
    pipe.send(handle_of(freeze([resolve(data), f"child {serial}"])))
    pipe.recv()


def test_two_hundred_children_alive_at_once():
    frozen = freeze(graph(8))
    children = [Child(stay, handle_of(frozen), serial) for serial in range(200)]
    for serial, child in enumerate(children):
        assert resolve(child.recv()) == (frozen, f"child {serial}")
    audit()
    for child in children:
        child.send("end")
        child.join()
    count = len(extents())
    for serial in range(200):  # one after another they need no new extents
        with Child(use_once, handle_of(freeze(graph(7))), 10 * serial) as child:
            child.join()
    assert len(extents()) <= count + 1


# --- SIGKILL ------------------------------------------------------------------------------------


INSIDE = mmap.mmap(-1, mmap.PAGESIZE)  # shared: which part of its work a victim is in


class Refused:
    """A class whose instances freeze refuses."""


def freeze_until_killed(pipe, seed):
    rng = random.Random(seed)
    choices = [[graph(seed, size), bytes(rng.randrange(3_000_000))] for size in (1, 50, 1000, 5000)]
    choices += [[*given, Refused()] for given in choices]
    pipe.send("begin")
    while True:
        given = rng.choice(choices)
        INSIDE[0] = 1
        try:
            freeze(given)
        except permaheap.FreezeError:
            pass
        INSIDE[0] = 0


def freeze_until_told(pipe, seed):
    rounds = 0
    while not pipe.poll(None if rounds >= 2000 else 0):  # the heap only grows: to some 100 MB
        frozen = freeze(graph(seed, 100))
        assert len(frozen["records"]) == 100
        rounds += 1
    return rounds


def read_until_told(pipe, data):
    expected = thaw(resolve(data))
    rounds = 0
    while not pipe.poll():
        assert thaw(resolve(data)) == expected
        rounds += 1
    return rounds


def kill_some(rng, count):
    """Kill victims at random moments; return how many of those were in the middle of a freeze."""
    inside = 0
    for _ in range(count):
        with Child(freeze_until_killed, rng.randrange(1000)) as victim:
            assert victim.recv() == "begin"
            victim.poll(rng.random() * 0.1)  # a random moment: it never sends anything more
            victim.kill()
            inside += INSIDE[0]
    return inside


def used_addresses():
    """Return the bytes claimed for blocks that have not been committed."""
    return claimed() - stats().used


@pytest.mark.slow
def test_killed_in_the_middle_of_a_freeze():
    rng = random.Random(20)
    frozen = freeze(graph(9, 500))
    free_before = None
    with (
        Child(freeze_until_told, 1) as freezer,
        Child(freeze_until_told, 2) as other,
        Child(read_until_told, handle_of(frozen)) as reader,
    ):
        inside = 0
        for _ in range(10):
            inside += kill_some(rng, 10)
            if free_before is None:
                free_before = used_addresses(), memory() - stats().used
            permaheap._core._testing.check()
            assert freeze([10**40])[0] == 10**40
        for child in (freezer, other, reader):
            child.send("stop")
            assert child.join() > 0
    assert inside >= 30, "too few were killed inside"
    audit()
    # The dead ones' extents have been used again: neither addresses nor memory went with them.
    assert used_addresses() - free_before[0] < 200 << 20
    assert memory() - stats().used - free_before[1] < 100 << 20
    alive = {os.getpid()}
    with Child(lambda pipe: freeze([bytes(100_000)]) and len(extents())) as child:
        assert child.join() <= len(extents())
    assert any(extent.owner in alive for extent in extents())


def test_extents_of_killed_processes_are_used_again():
    def die(pipe):
        freeze([b"committed" * 100])
        freeze([bytes(5_000_000), Hook(lambda: (pipe.send("inside"), pipe.recv()))])

    def before_and_after(count):
        for _ in range(count):
            with Child(die) as child:
                assert child.recv() == "inside"
                child.kill()
        return len(extents()), memory()

    extents_before, memory_before = before_and_after(5)
    extents_after, memory_after = before_and_after(30)
    assert extents_after <= extents_before + 1
    assert memory_after <= memory_before + 2_000_000
    audit()


# --- fork in the middle ---------------------------------------------------------------------------


class Hook:
    """Calls something while it is being frozen."""

    def __init__(self, action, result="hook"):
        self.action = action
        self.result = result

    def __freeze__(self):
        self.action()
        return self.result


def test_fork_while_other_threads_freeze():
    stop = threading.Event()
    counts = [0, 0]

    def work(index):
        while not stop.is_set():
            with pytest.raises(permaheap.FreezeError):  # so that the heap stays small
                freeze([graph(index, 200), Refused()])
            assert freeze(graph(index, 1))["seed"] == index
            counts[index] += 1

    threads = [threading.Thread(target=work, args=[index]) for index in range(2)]
    for thread in threads:
        thread.start()
    frozen = freeze(graph(7))
    try:
        for serial in range(100):
            with Child(use_once, handle_of(frozen), 10 * serial) as child:
                assert resolve(child.join())[1] == 10 * serial
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert min(counts) > 0
    audit()


@pytest.mark.parametrize("how", ["default", "method"])
@pytest.mark.parametrize("before", [1, 2_000_000], ids=["small", "spilled"])
def test_fork_inside_a_freeze(how, before):
    """The child's freeze ends with an error, the parent's with the right result."""
    forked = []

    def forking():
        reader, writer = os.pipe()
        forked.extend((os.fork(), reader, writer))
        return ["from the hook", {"x": 2.5}]

    class Forking:
        if how == "method":

            def __freeze__(self):
                return forking()

    given = [bytes(before), {"a": [10**20]}, Forking(), {"b": [10**21, bytes(before)]}]
    blocks = stats().blocks
    frozen = error = None
    try:
        frozen = freeze(given, default=lambda obj: forking())
    except Exception as caught:
        error = caught
    pid, reader, writer = forked
    if pid == 0:
        _report_of_the_forked(writer, frozen, error, before)
    os.close(writer)
    with os.fdopen(reader) as stream:
        assert stream.read() == "fine"
    os.waitpid(pid, 0)
    assert error is None
    assert thaw(frozen)[1:3] == [{"a": [10**20]}, ["from the hook", {"x": 2.5}]]
    assert thaw(frozen)[3] == {"b": [10**21, bytes(before)]}
    assert stats().blocks == blocks + 2
    audit()


def _report_of_the_forked(writer, frozen, error, size):
    """Say what the child's freeze has come to, and whether the next one works; then end."""
    try:
        assert frozen is None
        assert type(error) is RuntimeError
        assert "fork" in str(error)
        again = freeze(["child", {"y": 3.5}, bytes(size)])
        assert resolve(handle_of(again)) is again
        permaheap._core._testing.check()
        os.write(writer, b"fine")
    except BaseException as failure:
        os.write(writer, repr(failure).encode())
    finally:
        os._exit(0)


# --- Handles --------------------------------------------------------------------------------------


def handles_of_all_kinds():
    objects = [*freeze([1 << 80, 2.5, "text", b"bytes", (1.5,), {"a": 1}, {1, "x"}, range(10**6)])]
    if sys.version_info >= (3, 13):
        objects += freeze([datetime(2026, 1, 2, tzinfo=UTC)])
    return [handle_of(obj) for obj in [*objects, None, 5, "", chr(97), b"", ()]]


def assert_every_flip_is_noticed(pipe, handles):
    for data in handles:
        for bit in range(320):
            forged = bytearray(data)
            forged[bit // 8] ^= 1 << bit % 8
            with pytest.raises(HandleError):
                resolve(bytes(forged))
        resolve(data)
    return True


def test_flipped_bits_in_the_family():
    handles = handles_of_all_kinds()
    assert assert_every_flip_is_noticed(None, handles)
    with Child(assert_every_flip_is_noticed, handles) as child:
        assert child.join()


def test_flipped_bits_in_front_of_unmapped_extents():
    """The process that resolves has mapped nothing yet of what others are building."""

    def build(pipe):
        handles = [handle_of(freeze([bytes(n), "x", (n, 1.5)])[2]) for n in (10, 3_000_000)]
        hook = Hook(lambda: (pipe.send(handles), pipe.recv()))
        freeze([bytes(3_000_000), hook])

    def forge(pipe):
        return assert_every_flip_is_noticed(pipe, pipe.recv())

    with Child(forge) as forger, Child(build) as builder:
        forger.send(builder.recv())
        assert forger.join()
        builder.send("go on")
        builder.join()
    audit()


def test_random_offsets_with_a_valid_family():
    data = handle_of(freeze(graph(1)))
    rng = random.Random(3)
    for _ in range(20_000):
        with pytest.raises(HandleError):
            resolve(data[:16] + rng.randbytes(24))
    top = claimed()
    for offset in [*range(0, 1 << 20, 8), *range(top - 4096, top + 8192, 8)]:
        if offset.to_bytes(8, sys.byteorder) != data[16:24]:
            with pytest.raises(HandleError):
                resolve(data[:16] + offset.to_bytes(8, sys.byteorder) + data[24:])


AFTER_EXEC = """
import sys, permaheap
for arguments in ([], [["something"]]):
    permaheap.freeze(arguments)
    try:
        permaheap.Handle.from_bytes(bytes.fromhex(sys.argv[1])).get()
    except permaheap.HandleError as error:
        print(error, flush=True)
"""


def test_after_exec():
    """A process of the family that calls exec is no longer one of the family."""
    data = handle_of(freeze(graph(3)))
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            resolve(data)
            os.dup2(writer, 1)
            os.execv(sys.executable, [sys.executable, "-c", AFTER_EXEC, data.hex()])
        finally:
            os._exit(1)
    os.close(writer)
    with os.fdopen(reader) as stream:
        lines = stream.read().splitlines()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert len(lines) == 2
    for line in lines:
        assert "another family" in line
        assert "family_context" in line


def test_exec_does_not_inherit_the_file():
    done = subprocess.run(
        [sys.executable, "-c", "import os; os.fstat(int(__import__('sys').argv[1]))"]
        + [str(heap_file())],
        capture_output=True,
        close_fds=False,
        check=False,
    )
    assert b"Bad file descriptor" in done.stderr


# --- multiprocessing ------------------------------------------------------------------------------


def describe(handle):
    """Resolve a handle in the process that calls this."""
    obj = handle.get()
    return os.getpid(), id(obj), len(obj["records"]), share(freeze({"pid": [os.getpid()]}))


def test_process_pool_executor():
    frozen = freeze(graph(4))
    with ProcessPoolExecutor(2, mp_context=family_context()) as pool:
        results = list(pool.map(describe, [share(frozen)] * 20))
    for pid, address, size, handle in results:
        assert pid != os.getpid()
        assert (address, size) == (id(frozen), 20)
        assert handle.get()["pid"] == (pid,)


def test_pool():
    frozen = freeze(graph(5))
    with family_context().Pool(2) as pool:
        for pid, address, _, handle in pool.imap_unordered(describe, [share(frozen)] * 20):
            assert address == id(frozen)
            assert handle.get()["pid"] == (pid,)


def serve(incoming, outgoing):
    while (handle := incoming.get()) is not None:
        outgoing.put(describe(handle))


@pytest.mark.parametrize("kind", ["Queue", "SimpleQueue", "JoinableQueue"])
def test_queues(kind):
    context = family_context()
    incoming, outgoing = getattr(context, kind)(), getattr(context, kind)()
    worker = context.Process(target=serve, args=(incoming, outgoing))
    worker.start()
    for seed in range(10):
        frozen = freeze(graph(seed))
        incoming.put(share(frozen))
        pid, address, _, handle = outgoing.get()
        assert (pid, address) == (worker.pid, id(frozen))
        assert handle.get()["pid"] == (pid,)
    incoming.put(None)
    worker.join()
    assert worker.exitcode == 0


def test_pipe():
    context = family_context()
    ours, theirs = context.Pipe()

    def answer():
        while (handle := theirs.recv()) is not None:
            theirs.send(share(freeze([handle.get(), "answer"])))

    worker = context.Process(target=answer)
    worker.start()
    for seed in range(10):
        frozen = freeze(graph(seed))
        ours.send(share(frozen))
        assert ours.recv().get()[0] is frozen
    ours.send(None)
    worker.join()


def test_manager_holds_handles():
    """A manager's server process is forked, too."""
    with family_context().Manager() as manager:
        shared = manager.dict()
        frozen = freeze(graph(6))
        shared["now"] = share(frozen)
        assert shared["now"].get() is frozen


PRELOADED = """
import permaheap
table = permaheap.freeze({"table": [{"row": i} for i in range(1000)]})
def describe(_):
    return id(table), bytes(permaheap.share(table)), permaheap.stats().family
def look_up(data):
    return permaheap.Handle.from_bytes(data).get()["table"][999]["row"]
def name(_):
    return permaheap.share(table)
"""

RECIPE = """
import multiprocessing
import permaheap
if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded"])
    import preloaded
    with context.Pool(2) as pool:
        described = pool.map(preloaded.describe, range(8), chunksize=1)
        assert len({family for _, _, family in described}) == 1
        assert len({address for address, _, _ in described}) == 1
        assert pool.map(preloaded.look_up, [data for _, data, _ in described]) == [999] * 8
        assert described[0][2] != permaheap.stats().family     # we are outsiders
        handle = pool.apply(preloaded.name, [0])
        try:
            handle.get()
        except permaheap.HandleError as error:
            print(error)
"""

OUTSIDER = """
import multiprocessing, permaheap, sys
def describe(handle):
    try:
        return handle.get()
    except permaheap.HandleError as error:
        return str(error)
if __name__ == "__main__":
    frozen = permaheap.freeze(["frozen", [1.5]])
    with multiprocessing.get_context(sys.argv[1]).Pool(1) as pool:
        print(pool.apply(describe, [permaheap.share(frozen)]))
"""


def run_program(folder, code, *arguments):
    """Run code as a file, as multiprocessing needs it for its spawned children."""
    program = folder / "program.py"
    program.write_text(code)
    path = [str(folder), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    done = subprocess.run(
        [sys.executable, program, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_fork_server_with_preload(tmp_path):
    """The recipe: children of a fork server that froze share its heap, and not their parent's."""
    (tmp_path / "preloaded.py").write_text(PRELOADED)
    assert "another family" in run_program(tmp_path, RECIPE)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_outsiders_are_told_why(tmp_path, method):
    text = run_program(tmp_path, OUTSIDER, method)
    for word in ("another family", "fork server", "spawned", "family_context"):
        assert word in text


def test_fork_context_makes_family_processes(tmp_path):
    assert run_program(tmp_path, OUTSIDER, "fork") == "('frozen', (1.5,))\n"


# --- Stray writes and stale pages -----------------------------------------------------------------


def stray_write(obj):
    """Write to the reference count of a frozen object, as an old extension's Py_INCREF does."""
    word = ctypes.c_uint8.from_address(id(obj) + 4)  # the flags of 3.14 are behind this
    word.value = word.value ^ 1
    word.value = word.value ^ 1
    assert is_copied(id(obj))


def is_copied(address):
    """Has this process a page of its own at this address, instead of the file's?"""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        pagemap.seek(address // mmap.PAGESIZE * 8)
        entry = int.from_bytes(pagemap.read(8), sys.byteorder)
    return entry >> 63 == 1 and entry >> 61 & 1 == 0


def small(serial):
    return {"serial": serial, "text": f"text {serial}", "more": [serial * 1.5, [serial]]}


def freeze_on_demand(pipe):
    while (serial := pipe.recv()) is not None:
        pipe.send(handle_of(freeze(small(serial))))


@needs_private
def test_page_copied_before_a_sibling_freezes_more_there():
    """Invariant 6 of heap.c."""
    with Child(freeze_on_demand) as sibling:
        seen = []
        for serial in range(100):
            sibling.send(serial)
            seen.append(resolve(sibling.recv()))
            assert thaw(seen[-1]) == small(serial)
            stray_write(seen[-1])
        assert [thaw(obj) for obj in seen] == [small(serial) for serial in range(100)]
        permaheap._core._testing.check()
        sibling.send(None)
        sibling.join()


@needs_private
def test_page_copied_before_the_same_process_freezes_more_there():
    seen = []
    for serial in range(100):
        seen.append(freeze(small(serial)))
        assert thaw(seen[-1]) == small(serial)
        stray_write(seen[-1])
    assert [thaw(obj) for obj in seen] == [small(serial) for serial in range(100)]
    permaheap._core._testing.check()


@needs_private
def test_page_copied_in_the_middle_of_a_freeze():
    first = freeze(small(0))
    for serial in range(1, 100):
        given = [small(serial), Hook(lambda: stray_write(first)), {f"key {serial}": [serial * 2.5]}]
        frozen = freeze(given)
        assert thaw(frozen) == [small(serial), "hook", {f"key {serial}": [serial * 2.5]}]
        first = frozen
    permaheap._core._testing.check()


@needs_private
def test_page_copied_and_frozen_keys_compared():
    """Keys that hash and compare by what the same freeze has just written."""
    first = freeze([1.5, "first"])
    for serial in range(100):
        stray_write(first)
        keys = {(serial, f"k{i}"): {(i, "set"), frozenset([i, str(i)])} for i in range(5)}
        first = freeze(keys)
        assert thaw(first) == keys
        assert first[serial, "k3"] == {(3, "set"), frozenset([3, "3"])}


@needs_private
def test_page_copied_before_a_fork():
    """The child inherits the parent's copy, and the parent freezes more on that page."""
    seen = freeze(small(0))
    for serial in range(1, 30):
        stray_write(seen)
        with Child(lambda pipe: thaw(resolve(pipe.recv()))) as child:
            seen = freeze(small(serial))
            child.send(handle_of(seen))
            assert child.join() == small(serial)


@needs_private
def test_page_copied_and_its_extent_inherited():
    """We copy the last page of a process that dies, and freeze on in its extent."""

    def first(pipe):
        pipe.send(handle_of(freeze(small(1))))
        pipe.recv()

    def heir(pipe):
        pipe.send(handle_of(freeze([small(2), bytes(700_000)])))
        pipe.recv()

    with Child(first) as child:
        one = resolve(child.recv())
        stray_write(one)
        child.kill()
    with Child(heir) as child:
        two = resolve(child.recv())
        assert thaw(two)[0] == small(2)
        stray_write(two)
        child.kill()
    assert thaw(one) == small(1)
    assert thaw(freeze([small(3), bytes(700_000)]))[0] == small(3)
    permaheap._core._testing.check()


@needs_private
def test_strings_stay_interned():
    """Interning writes the state of a str into our copy of its page: it must not get lost."""
    with Child(intern_and_freeze) as child:  # the reference counts that it leaves are not ours
        child.join()


def intern_and_freeze(pipe):
    seen = freeze([f"name to intern {i}" for i in range(3)])

    class Thing:
        pass

    with Child(freeze_on_demand) as sibling:
        for serial in range(50):
            for name in seen:
                setattr(Thing, name, serial)
                assert sys.intern(name) is name
                if not DEBUG:  # there such a str passes for interned without being known
                    assert sys.intern("".join(name)) is name
                assert getattr(Thing(), name) == serial
            seen = (*seen, *freeze([f"other name {serial}"]))[-6:]
            sibling.send(serial)
            more = resolve(sibling.recv())
            setattr(Thing, more["text"], 1)
            sibling.send(serial)
            assert resolve(sibling.recv())["text"] == more["text"]
            setattr(Thing, more["text"], 2)
        sibling.send(None)
        sibling.join()


# --- The file -------------------------------------------------------------------------------------


def test_closed_file():
    """A program that closes all descriptors it finds gets a clear error, and can still read."""

    def work(pipe):
        frozen = freeze(graph(1))
        data = handle_of(frozen)
        assert resolve(data) is frozen
        os.close(heap_file())
        assert resolve(data) is frozen
        assert thaw(frozen)["seed"] == 1
        errors = set()
        for size in (10, 100_000, 3_000_000):
            try:
                assert freeze([bytes(size)]) == (bytes(size),)
            except OSError as error:
                errors.add(str(error).partition(": file")[2])
        assert len(errors) == 1, errors
        assert "was closed by this program" in errors.pop()
        pipe.send("closed")
        newer = pipe.recv()
        with pytest.raises(OSError, match="was closed by this program"):
            resolve(newer)
        assert thaw(frozen)["records"][0]["name"] == "name 0 of 1"

    def newer(pipe):
        pipe.send(handle_of(freeze([bytes(3_000_000)])))

    with Child(work) as child:
        assert child.recv() == "closed"
        with Child(newer) as sibling:
            child.send(sibling.recv())
            sibling.join()
        child.join()
    audit()


def test_children_of_a_process_that_closed_the_file():
    def grandchild(pipe, data):
        assert thaw(resolve(data))["seed"] == 1
        with pytest.raises(OSError, match="was closed by this program"):
            freeze(["grandchild", 1.5])

    def work(pipe):
        data = handle_of(freeze(graph(1)))
        resolve(data)
        os.close(heap_file())
        with Child(grandchild, data) as child:
            child.join()

    with Child(work) as child:
        child.join()


def test_number_of_the_file_is_used_for_another(tmp_path):
    """The other file is the program's own: nothing may be allocated, punched or read there."""
    content = os.urandom(4_000_000)
    path = tmp_path / "precious"
    path.write_bytes(content)

    def work(pipe):
        frozen = freeze(graph(1))
        other = os.open(path, os.O_RDWR)
        os.dup2(other, heap_file())
        for size in (10, 60_000, 300_000, 3_000_000):
            for last in (1.5, Refused()):
                try:
                    freeze([bytes(size), last])
                except (OSError, permaheap.FreezeError):
                    pass
        assert thaw(frozen)["seed"] == 1

    size = path.stat()
    with Child(work) as child:
        child.join()
    assert (path.stat().st_size, path.stat().st_blocks) == (size.st_size, size.st_blocks)
    assert path.read_bytes() == content


def test_descriptors_run_out():
    """No more descriptors: limits are read from files, the heap itself needs no new one."""
    import resource

    def work(pipe):
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
        taken = []
        try:
            while True:
                taken.append(os.dup(0))
        except OSError:
            pass
        assert freeze([bytes(5_000_000), 1.5])[1] == 1.5

    with Child(work) as child:
        child.join()


def test_children_that_fail_are_noticed():
    """These tests can fail."""
    with pytest.raises(ChildFailed, match="ZeroDivisionError"), Child(lambda pipe: 1 / 0) as child:
        child.join()
    with (
        pytest.raises(ChildFailed, match="-9"),
        Child(lambda pipe: os.kill(os.getpid(), 9)) as child,
    ):
        child.join()
