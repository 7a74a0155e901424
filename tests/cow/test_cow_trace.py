"""The trace of first writes: what it names, and that the traced program does not notice.

Each program runs in a process of its own, for a trace lasts as long as its process.
"""

import ctypes
import json
import os
import re
import select
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest

from permaheap.cow._symbols import symbols_of
from permaheap.cow._trace_file import Maps

pytestmark = pytest.mark.no_sanitizer("it is about pymalloc, which is off there")

PAGE = 4096

BEGIN = """
import bisect, gc, json, mmap, os, sys
import permaheap
from permaheap import cow

def do(work):
    "Run work in a child; return its pid."
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(9)
    assert os.waitpid(pid, 0)[1] == 0
    return pid

def locate_in(objects):
    "Know these objects, and no others."
    by_id = {id(obj): obj for obj in objects}
    ids = sorted(by_id)
    def locate(address):
        for i in (bisect.bisect_right(ids, address) - 1, bisect.bisect_right(ids, address)):
            if 0 <= i < len(ids):
                obj = by_id[ids[i]]
                front = 16 if gc.is_tracked(obj) else 0
                size = type(obj).__basicsize__
                if ids[i] - front <= address < ids[i] + size:
                    return type(obj).__name__, address - ids[i], size
        return None
    return locate

def tell(pages):
    "Print the pages, in the order of their first writes."
    print(json.dumps([[p.address, p.cause.name, p.object, p.detail, p.certain] for p in pages]))

def page_of(address):
    return address // 4096 * 4096
"""


@pytest.fixture(scope="module", autouse=True)
def _allowed():
    """Skip where the kernel or a container does not let us record page faults at all."""
    code = "from permaheap import _core; _core._record_faults(0, False)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "PermissionError" in done.stderr:
        pytest.skip("this user may not record page faults: kernel.perf_event_paranoid")


@pytest.fixture
def traced(run):
    """Give a function that runs a program and returns what it has told, by page."""

    def trace(program):
        done = run(BEGIN + program)
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        pages = {address: found for address, *found in json.loads(lines[-1])}
        return pages, [json.loads(line) for line in lines[:-1]]

    return trace


# --- What it names --------------------------------------------------------------------------------


def test_reference_count(traced):
    pages, [(page,)] = traced("""
floats = [i + 0.5 for i in range(20_000)]
wanted = floats[10_000]
trace = cow.trace()
pid = do(lambda: floats[10_000])
print(json.dumps([page_of(id(wanted))]))
tell(trace.pages(pid, locate_in([wanted])))
""")
    cause, name, detail, certain = pages[page]
    assert (cause, name, certain) == ("REFERENCE_COUNT", "float", True)
    assert detail.startswith("ob_refcnt by ")
    assert "unknown" not in detail


def test_collector(traced):
    pages, [lists] = traced("""
lists = [[i] for i in range(5000)]
trace = cow.trace()
pid = do(gc.collect)
print(json.dumps(sorted({page_of(id(each)) for each in lists})))
tell(trace.pages(pid, locate_in(lists)))
""")
    causes = [pages[page] for page in lists if page in pages]
    assert len(causes) > 0.9 * len(lists)
    known = [found for found in causes if found[1] is not None]  # on others an object of others
    assert len(known) > 0.5 * len(causes)
    assert all(found[:2] == ["GC_HEADER", "list"] for found in known), known


def test_mutation(traced):
    pages, [(page,)] = traced("""
lists = [[i] for i in range(20_000)]
permaheap.immortalize(lists)                # or counting references comes first
wanted = lists[10_000]
trace = cow.trace()
pid = do(lambda: lists[10_000].append(1))
print(json.dumps([page_of(id(wanted))]))
tell(trace.pages(pid, locate_in([wanted])))
""")
    cause, name, detail, _ = pages[page]
    assert (cause, name) == ("MUTATION", "list")
    assert detail.split()[0] in ("ob_item", "allocated", "ob_size")


def test_hash(traced):
    pages, [(page,)] = traced("""
import datetime
days = [datetime.date.fromordinal(i) for i in range(1, 20_001)]
permaheap.immortalize(days)
wanted = days[10_000]
trace = cow.trace()
pid = do(lambda: hash(days[10_000]))
print(json.dumps([page_of(id(wanted))]))
tell(trace.pages(pid, lambda a: locate_in([wanted])(a) and
                 ("datetime.date", *locate_in([wanted])(a)[1:])))
""")
    assert pages[page][0] == "HASH_CACHE"
    assert pages[page][2].startswith("hashcode by ")


def test_inline_cache(traced):
    pages, [(start, end)] = traced("""
space = {}
exec("def f(a, b):\\n" + "    a = a + b\\n" * 5000, space)
f = space["f"]
permaheap.immortalize(f)
trace = cow.trace()
def work():
    for _ in range(100):
        f(1.5, 2.5)
pid = do(work)
code = f.__code__
start = id(code) + 1024
print(json.dumps([page_of(start) + 4096, page_of(id(code) + sys.getsizeof(code))]))
tell(trace.pages(pid, lambda a: ("code", a - id(code), sys.getsizeof(code))
                 if id(code) <= a < id(code) + sys.getsizeof(code) else None))
""")
    inside = [found for page, found in pages.items() if start <= page < end]
    assert len(inside) > 5
    for cause, name, detail, _ in inside:
        assert (cause, name) == ("INLINE_CACHE", "code")
        assert detail.startswith("co_code_adaptive by ")


def test_new_objects(traced):
    pages, _ = traced("""
gaps = [i + 0.5 for i in range(100_000)]
del gaps[::2]
trace = cow.trace()
pid = do(lambda: [i + 0.5 for i in range(20_000)])
print([])
tell(trace.pages(pid, lambda a: ("free block", 0, 24)))
""")
    assert sum(found[0] == "NEW_OBJECT" for found in pages.values()) > 50


@pytest.mark.parametrize("living", [True, False])
def test_each_page_once_and_none_missing(traced, living):
    """Two threads write to the same pages; the trace has exactly those."""
    pages, [(start, size, fresh, fresh_size)] = traced(f"""
import threading
memory = mmap.mmap(-1, 2000 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
unused = mmap.mmap(-1, 500 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory.write(bytes(len(memory)))
import ctypes
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
trace = cow.trace()
def work():
    new = mmap.mmap(-1, 500 * 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    new.write(bytes(len(new)))              # that is nobody's copy
    unused.write(bytes(len(unused)))        # nor is that
    def write():
        for i in range(0, 2000, 2):
            memory[4096 * i + 17] = 1
    threads = [threading.Thread(target=write) for _ in range(2)]
    [each.start() for each in threads]
    [each.join() for each in threads]
    for i in range(0, 2000, 2):
        memory[4096 * i + 17] = 2
    if {living}:
        os.write(writer, b"x")
        os.read(again, 1)
reader, writer = os.pipe()
again, on = os.pipe()
pid = os.fork()
if pid == 0:
    work()
    os._exit(0)
if {living}:
    os.read(reader, 1)
    found = trace.pages(pid)
    os.write(on, b"x")
os.waitpid(pid, 0)
found = found if {living} else trace.pages(pid)
assert {{w.address % 4096 for w in trace.writes(pid) if start <= w.address < start + len(memory)}} == {{17}}
addresses = [page.address for page in found]
assert len(addresses) == len(set(addresses))
assert trace.workers == (pid,)
fresh = ctypes.addressof(ctypes.c_char.from_buffer(unused))
print(json.dumps([start, len(memory), fresh, len(unused)]))
tell(found)
""")  # noqa: E501
    assert not [page for page in pages if fresh <= page < fresh + fresh_size]
    inside = {page for page in pages if start <= page < start + size}
    assert inside == {start + 2 * i * PAGE for i in range(1000)}


def test_system_call(traced):
    pages, [(page, sees)] = traced("""
buffer = bytearray(1 << 20)
start = id(buffer)
import ctypes
start = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
file = open("/dev/zero", "rb", buffering=0)
trace = cow.trace()
def work():
    assert file.readinto(memoryview(buffer)[500_000:500_100]) == 100
pid = do(work)
print(json.dumps([page_of(start + 500_000), not any("system calls" in n for n in trace.notes)]))
tell(trace.pages(pid))
""")
    assert (page in pages) == sees
    if sees:
        assert pages[page][2].startswith("in a system call of ")


def test_grandchildren_and_others(traced):
    """Children of children are traced, what they exec is not; find_trace finds all of them."""
    pages, [(page,)] = traced("""
floats = [i + 0.5 for i in range(20_000)]
trace = cow.trace()
reader, writer = os.pipe()
def work():
    assert cow.trace().workers == cow.find_trace(os.getppid()).workers == (os.getpid(),)
    pid = do(lambda: floats[10_000])
    os.write(writer, str(pid).encode())
    os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", "x = [i for i in range(10**5)]"])
pid = do(work)
grandchild = int(os.read(reader, 20))
assert trace.workers[:2] == (pid, grandchild)
assert trace.parent == os.getpid()
page = page_of(id(floats[10_000]))
assert page not in {p.address for p in trace.pages(pid)}
exec_ed = trace.workers[2]
assert len(trace.pages(exec_ed)) < 200, len(trace.pages(exec_ed))
for wrong in (1, os.getpid()):
    try:
        trace.pages(wrong)
    except cow.TraceError as error:
        assert str(wrong) in str(error) and "not traced" in str(error)
    else:
        raise AssertionError("there is no such child")
print(json.dumps([page]))
tell(trace.pages(grandchild))
""")
    assert page in pages


def test_stack_of_a_thread_that_forks(traced):
    pages, _ = traced("""
import threading
trace = None
def fork():
    global trace
    trace = cow.trace()                     # in the thread that forks
    found.append(do(lambda: None))
found = []
thread = threading.Thread(target=fork)
thread.start()
thread.join()
print([])
tell(trace.pages(found[0]))
""")
    assert any(cause == "STACK" for cause, *_ in pages.values())


def test_symbols():
    maps = Maps(Path("/proc/self/maps").read_text())
    address = ctypes.cast(ctypes.CDLL(None).strtoul, ctypes.c_void_p).value
    mapping = maps.find(address)
    symbols = symbols_of(mapping.name)
    names = {symbols.at(address + i - mapping.start + mapping.offset) for i in (0, 3)}
    assert len(names) == 1
    assert "strtou" in names.pop()
    assert symbols.at(0) is None
    # Between two functions there is none.
    end = next(end for (_, end, _), (start, *_) in pairwise(symbols._functions) if end < start)
    offset = next(end - shift for a, b, shift in symbols._segments if a <= end - shift < b)
    assert symbols.at(offset - 1) is not None
    assert symbols.at(offset) is None
    assert symbols_of(__file__).at(100) is None
    assert symbols_of("/nowhere").at(100) is None


# --- A traced program does what it does untraced --------------------------------------------------

PROGRAMS = {
    "files": """
import pathlib, tempfile, shutil
with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, "file")
    kept = open(path, "w+b", buffering=300)
    kept.write(b"x" * 1000)
    kept.seek(0)
    small, large = bytearray(200), bytearray(100_000)
    def work():
        path.write_text("text" * 1000)
        print(len(path.read_bytes()), [len(path.open("rb").read(n)) for n in (1, 100, 500, 3000)])
        kept.seek(0)
        print(kept.read(50), kept.readinto(small), small[:4], kept.readinto(large))
        with open(path, "rb", buffering=0) as raw:
            print(raw.readinto(large), raw.readinto(small), os.stat(path).st_size)
        print([len(os.read(os.open(path, os.O_RDONLY), n)) for n in range(50, 2000, 150)])
        print(os.getcwd(), shutil.copy(path, str(path) + "2")[-5:], os.listdir(folder))
    child(work)
""",
    "sockets": """
import select, socket
a, b = socket.socketpair()
buffer = bytearray(300)
poll, epoll = select.poll(), select.epoll()
poll.register(b, select.POLLIN)
epoll.register(b.fileno(), select.EPOLLIN)
def work():
    for n in (1, 60, 200, 511, 600, 5000):
        a.sendall(b"y" * n)
        ready = poll.poll(), epoll.poll(), select.select([b], [], [])[0] == [b]
        print(ready[0][0][1], ready[1][0][1], ready[2], len(b.recv(n // 2)), b.recv_into(buffer))
        while poll.poll(0):
            b.recv(300)
    a.sendmsg([b"q" * 10, b"r" * 90])
    print(b.recvmsg_into([memoryview(buffer)[:20], memoryview(buffer)[100:]])[0], buffer[100:104])
    server = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(server.getsockname())
    other, address = server.accept()
    print(address == client.getsockname(), client.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE))
child(work)
""",
    "subprocess": """
import subprocess
def work():
    print(subprocess.run(["/bin/echo", "one"], capture_output=True).stdout)
    print(subprocess.run("cat", input=b"z" * 200_000, capture_output=True).stdout == b"z" * 200_000)
    print(subprocess.run(["/bin/sh", "-c", "exit 3"], preexec_fn=os.getpid).returncode)
    print(subprocess.run(["/bin/cat"], stdin=subprocess.DEVNULL, process_group=0).returncode)
child(work)
work()
""",
    "threads": """
import queue, threading, time
def work():
    todo, done = queue.Queue(), queue.SimpleQueue()
    def serve():
        while (item := todo.get()) is not None:
            done.put(sum(range(item)))
    threads = [threading.Thread(target=serve) for _ in range(8)]
    [t.start() for t in threads]
    [todo.put(i) for i in range(200)]
    [todo.put(None) for t in threads]
    [t.join() for t in threads]
    print(sorted(done.get() for _ in range(200))[-3:])
child(work)
thread = threading.Thread(target=lambda: child(work))
thread.start()
thread.join()
""",
    "sqlite3": """
import sqlite3, tempfile
with tempfile.TemporaryDirectory() as folder:
    def work():
        db = sqlite3.connect(folder + "/db")
        db.execute("create table t (id integer primary key, text)")
        with db:
            db.executemany("insert into t (text) values (?)", ((str(i) * 20,) for i in range(3000)))
        print(db.execute("select count(*), sum(length(text)), max(text) from t").fetchone())
        print(sqlite3.connect(folder + "/db").execute("pragma integrity_check").fetchall())
    child(work)
    print(len(open(folder + "/db", "rb").read()) > 100_000)
""",
    "asyncio": """
import asyncio
async def main():
    async def serve(reader, writer):
        writer.write((await reader.readexactly(70_000))[::-1])
        await writer.drain()
        writer.close()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"a" + b"b" * 69_999)
    print((await reader.read())[-3:])
    process = await asyncio.create_subprocess_exec("/bin/echo", "hi", stdout=-1)
    print(await process.communicate(), await asyncio.to_thread(sum, range(10)))
    writer.close()
    server.close()
child(lambda: asyncio.run(main()))
""",
    "multiprocessing": """
import concurrent.futures, multiprocessing
fork = multiprocessing.get_context("fork")
def square(x): return x * x
with fork.Pool(3) as pool:
    print(pool.map(square, range(100))[-1])
with concurrent.futures.ProcessPoolExecutor(2, mp_context=fork) as executor:
    print(list(executor.map(square, range(10))))
value = fork.Array("i", 1000)
def fill():
    value[:] = range(1000)
process = fork.Process(target=fill)
process.start()
process.join()
print(sum(value), process.exitcode, multiprocessing.active_children())
""",
    "signals": """
import signal
def work():
    caught = []
    signal.signal(signal.SIGUSR1, lambda *a: caught.append(a[0]))
    signal.signal(signal.SIGALRM, lambda *a: caught.append(a[0]))
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    os.kill(os.getpid(), signal.SIGUSR1)
    while len(caught) < 2:
        signal.pause() if signal.SIGALRM not in caught else None
    print(sorted(caught), signal.getsignal(signal.SIGSEGV), signal.sigpending())
child(work)
""",
    "children and descriptors": """
pids = {os.fork() for _ in range(3)}
if 0 in pids:
    os._exit(0)
seen = set()
while True:
    try:
        seen.add(os.wait()[0])
    except ChildProcessError:
        break
print(seen == pids, [os.dup(1) for _ in range(3)] == list(range(os.dup(1) - 3, os.dup(1) - 1 + 0)))
""",
    "exec": """
def work():
    os.execv(sys.executable, [sys.executable, "-c", "print(sum(range(10**5)))"])
child(work)
""",
    "closing everything": """
def work():
    os.closerange(3, 1000)
    print(open("/dev/null").fileno(), len(os.urandom(100)))
child(work)
os.closerange(3, 1000)
files = [open("/dev/null", "rb") for _ in range(300)]
child(work)
print(files[-1].fileno())
""",
    "interpreters": """
import json
def work():
    try:
        import _interpreters
        args = ()
    except ImportError:
        import _xxsubinterpreters as _interpreters
    one = _interpreters.create()
    print(_interpreters.run_string(one, "import json; x = json.dumps([1] * 1000)"))
    _interpreters.destroy(one)
child(work)
""",
}

ORDINARY = """
import os, sys
import permaheap

def child(work):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            sys.stdout.flush()
            os._exit(0)
        except BaseException as error:
            print(repr(error), flush=True)
        finally:
            os._exit(9)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
"""


@pytest.mark.parametrize("program", PROGRAMS)
def test_same_results(run, program):
    quiet = {"PYTHONWARNINGS": "ignore::ResourceWarning"}  # which debug builds show by default
    plain, traced = (
        run(ORDINARY + PROGRAMS[program], PERMAHEAP_TRACE=flag, **quiet) for flag in "01"
    )
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout
    assert "Error" not in plain.stdout
    assert traced.stdout == plain.stdout
    assert re.sub(r"pid=\d+", "", traced.stderr) == re.sub(r"pid=\d+", "", plain.stderr)
    assert traced.returncode == 0


def test_crash_is_a_crash(run):
    done = run(
        ORDINARY
        + """
import ctypes, faulthandler
faulthandler.enable()
child(lambda: ctypes.string_at(0))
ctypes.string_at(0)
""",
        PERMAHEAP_TRACE="1",
    )
    assert done.stdout.split() == [str(-signal.SIGSEGV)]
    assert done.returncode == -signal.SIGSEGV
    assert done.stderr.count("Fatal Python error: Segmentation fault") == 2
    assert done.stderr.count("in string_at") == 2


# --- When it cannot be ----------------------------------------------------------------------------


@pytest.mark.parametrize("persistent", [False, True])
def test_beginning_fails(run, persistent):
    """Each system call in turn: no trace, a clear word, and the program goes on; then it begins."""
    done = run(
        BEGIN
        + f"""
n, fired = 0, True
while fired:
    n += 1
    permaheap._core._testing.fault(n, {persistent})
    try:
        trace = cow.trace()
        outcome = "began"
    except cow.TraceError as error:
        outcome = str(error)
    fired = permaheap._core._testing.fault()
    permaheap._core._testing.fault(0)
    print(outcome)
    do(lambda: None)
pid = do(lambda: None)
assert trace.workers[-1] == pid
assert len(trace.pages(pid)) > 5
assert len(os.listdir("/proc/self/fd")) < 10
"""
    )
    assert done.returncode == 0, done.stderr
    *failures, last = done.stdout.splitlines()
    assert last == "began"
    assert len(failures) >= 2
    for failure in failures:
        assert failure.startswith("this process is not traced: permaheap: cannot ")


def test_child_cannot_say_where_it_begins(run):
    done = run(
        BEGIN
        + """
trace = cow.trace()
untraced = []
for n in range(1, 10):
    permaheap._core._testing.fault(n)
    pid = do(lambda: None)
    permaheap._core._testing.fault(0)
    if not trace.pages(pid):
        untraced.append(pid)
assert len(untraced) == 2                   # its map, and which pages are there
[note] = [note for note in trace.notes if "untraced" in note]
assert note.startswith("2 children could not read")
assert note.endswith(f"untraced: {untraced[0]}, {untraced[1]}")
assert len(trace.pages(do(lambda: None))) > 5
"""
    )
    assert done.returncode == 0, done.stderr


def test_more_children_than_slots(run):
    done = run(
        BEGIN
        + """
trace = cow.trace()
trace._file.descriptor
os.pwrite(trace._file.descriptor, (511).to_bytes(4, "little"), 20)
first, second = do(lambda: None), do(lambda: None)
assert trace.workers == (first,)
assert len(trace.pages(first)) > 5
assert any("only the first 512 of 513 children" in note for note in trace.notes)
"""
    )
    assert done.returncode == 0, done.stderr


def test_program_that_closes_all_files(run):
    """A file that gets the number of the trace's is not mistaken for it; a new trace can begin."""
    done = run(
        BEGIN
        + """
import tempfile
before = cow.trace()
number = before._file.descriptor
os.closerange(3, 1000)
file = tempfile.TemporaryFile()
os.dup2(file.fileno(), number)
pid = do(lambda: None)
for use in (lambda: before.pages(pid), before.close, lambda: before.workers):
    try:
        use()
    except cow.TraceError as error:
        assert "closed the trace's file" in str(error)
    else:
        raise AssertionError("not noticed")
assert cow.trace() is not before
assert os.fstat(number).st_size == 0
assert len(cow.trace().pages(do(lambda: None))) > 5
"""
    )
    assert done.returncode == 0, done.stderr


def test_environment_variable_warns(run):
    """With too little room for its file there is a warning, and all else as usual."""
    done = run(
        """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
import permaheap
print("on it goes")
""",
        PERMAHEAP_TRACE="1",
    )
    assert (done.returncode, done.stdout) == (0, "on it goes\n")
    assert "RuntimeWarning: this process is not traced: " in done.stderr


def test_recorder_ends_with_the_family(run):
    """And not before: a child goes on alone."""
    done = run(
        BEGIN
        + """
import signal
floats = [i + 0.5 for i in range(20_000)]
wanted = floats[10_000]
address = id(wanted)
trace = cow.trace()
recorder = trace._file.get("recorder")
reader, writer = os.pipe()
if os.fork() == 0:
    os.close(writer)
    os.read(reader, 1)                      # until the parent has gone
    for _ in range(3):                      # rounds, in one of which it is missed
        trace.pages(os.getpid())
    floats[10_000]
    pages = {page.address for page in trace.pages(os.getpid())}
    print(page_of(address) in pages, recorder, flush=True)
    os._exit(0)
"""
    )
    assert done.returncode == 0, done.stderr
    found, recorder = done.stdout.split()
    assert found == "True"
    descriptor = None
    try:
        descriptor = os.pidfd_open(int(recorder))
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(10_000), "the recorder outlives the family"
    os.close(descriptor)


def test_no_recorder_no_answer(run):
    """The records from before the kill can be read."""
    done = run(
        BEGIN
        + """
import signal
trace = cow.trace()
pid = do(lambda: None)
before = trace.pages(pid)
recorder = trace._file.get("recorder")
assert os.getsid(recorder) != os.getsid(0)  # Ctrl-C is not for it
watch = os.pidfd_open(recorder)
os.kill(recorder, signal.SIGKILL)
import select
poll = select.poll()
poll.register(watch, select.POLLIN)
poll.poll()
assert trace.pages(pid) == before
do(lambda: None)
"""
    )
    assert done.returncode == 0, done.stderr
