"""prefork() against plain fork: workers copy less, and nothing else differs."""

import gc
import itertools
import json
import re
import sys
from pathlib import Path

import pytest

import permaheap
from permaheap import _core

pytestmark = pytest.mark.no_sanitizer("it is about pymalloc, which is off there")

# A program that loads data with holes in it, forks, and lets a worker look at everything and work
# for a while. It prints how many kB the worker has copied or allocated in that time.
FAMILY = """
import dataclasses, decimal, gc, json, os, re, sys
import permaheap

data = [{"id": i, "name": f"user {i}", "tags": [f"tag {i}", f"mark {i}"]} for i in range(20000)]
for record in data[::3]:
    record["tags"] = None  # holes in the pools
blobs = [bytes(600 + i % 2000) for i in range(2000)]
del blobs[::2]  # and in the C library's heap

def work():
    for record in data[:500]:
        json.loads(json.dumps(record))
    kept = [[i, str(i)] for i in range(2000)], [bytes(700) for _ in range(300)]
    re.sub(r"(\\d+)", r"<\\1>", "1 22 333 " * 50)
    return sum(len(record["name"]) for record in data), decimal.Decimal(1) / 7

def private():
    with open("/proc/self/smaps_rollup") as lines:
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))

def in_worker(function):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, json.dumps(function()).encode())
        os._exit(0)
    os.wait()
    return json.loads(os.read(reader, 4096))

def cost():
    before = private()
    work()
    return private() - before

work()
private()
"""


@pytest.fixture
def family(run):
    """Give a function that runs code after FAMILY and returns the JSON that it prints last."""

    def family(code, **environment):
        done = run(FAMILY + code, **environment)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return family


def cost_after(family, call, **environment):
    return family(f"{call}\nprint(in_worker(cost))", **environment)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="the kernel has none")
def test_a_worker_copies_little(family):
    plain = cost_after(family, "gc.collect(); gc.freeze()")
    prefork = cost_after(family, "permaheap.prefork()")
    assert prefork < plain / 2


@pytest.mark.parametrize("step", ["immortalize", "pools", "malloc"])
def test_a_step_matters(family, step):
    """Each of these steps saves the worker pages that no other step saves."""
    assert cost_after(family, f"permaheap.prefork({step}=False)") > cost_after(
        family, "permaheap.prefork()"
    )


HAS_RESUME_CHECK = sys.version_info >= (3, 13)


@pytest.mark.skipif(not HAS_RESUME_CHECK, reason="the first run writes nothing that can be ahead")
def test_code_that_has_not_run(run):
    """The bytecode step leaves nothing to write for code that depends on no types."""
    program = """
import sys, permaheap, ctypes
def first():
    return 1.5
permaheap.prefork(bytecode=sys.argv[1] == "yes")
size = first.__code__.__sizeof__()
before = ctypes.string_at(id(first.__code__), size)
first()
print(before == ctypes.string_at(id(first.__code__), size))
"""
    assert [run(program, word).stdout for word in ("no", "yes")] == ["False\n", "True\n"]


def test_report(run):
    done = run("""
import permaheap
report = permaheap.prefork()
assert report.immortalized.objects["function"] > 100, report
assert report.blocks > 100 and report.block_bytes > 0 and report.skipped is None, report
assert list(report.seconds) == ["collect", "immortalize", "free_lists", "fill"]
print(report)
off = dict.fromkeys(["collect", "immortalize", "pools", "free_lists", "bytecode", "malloc"], False)
nothing = permaheap.prefork(**off)
assert nothing.immortalized is None and list(nothing.seconds) == ["fill"], nothing
""")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"[\d,]+ objects of \d+ types immortal \([\d,]+ bytes\), \d+ left mortal; [\d,]+ bytes of "
        r"pools and [\d,]+ of malloc filled; [\d.]+ s\n",
        done.stdout,
    )


MAPS = """
import os, permaheap, sys
def maps():
    links = []
    for name in os.listdir("/proc/self/fd"):
        try:
            links.append(os.stat(f"/proc/self/fd/{name}").st_ino)
        except FileNotFoundError:
            continue  # the directory itself
        if not os.readlink(f"/proc/self/fd/{name}").startswith("/memfd:permaheap-objects "):
            links.pop()
    return links
asked = {"asked": {"object_map": True}, "refused": {"object_map": False}}.get(sys.argv[1], {})
permaheap.prefork(**asked)
first = maps()
permaheap.prefork(**asked)
assert maps() == first  # nothing new that is worth a map
data = [[i] for i in range(20_000)]
permaheap.prefork(**asked)
assert len(maps()) == len(first) and (maps() != first or not first)
print(len(first))
"""


@pytest.mark.parametrize(
    ("how", "profiled"), [("", ""), ("", "1"), ("asked", ""), ("refused", "1")]
)
def test_map_for_the_profiler(run, how, profiled):
    done = run(MAPS, how, PERMAHEAP_COW=profiled)
    expected = {"": bool(profiled), "asked": True, "refused": False}[how]
    assert (done.returncode, done.stdout) == (0, f"{expected:d}\n"), done.stderr


@pytest.mark.parametrize("allocator", ["malloc", "malloc_debug"])
def test_another_allocator(run, allocator):
    done = run("import permaheap; print(permaheap.prefork().skipped)", PYTHONMALLOC=allocator)
    assert done.stdout == "objects come from another allocator than pymalloc\n", done.stderr


@pytest.mark.parametrize("allocator", ["pymalloc", "pymalloc_debug"])
def test_with_debug_hooks(family, allocator):
    """Memory that was taken and given back passes the checks of the debug hooks."""
    cycles = """
for _ in range(3):
    permaheap.prefork()
    more = [[str(i)] for i in range(20000)]
    del more[::2]
    in_worker(cost)
print(json.dumps(permaheap.prefork().skipped))
"""
    assert family(cycles, PYTHONMALLOC=allocator) is None


def test_traced(run):
    program = (
        "import permaheap, tracemalloc; tracemalloc.start(); print(permaheap.prefork().skipped)"
    )
    assert run(program).stdout == "objects come from another allocator than pymalloc\n"


def test_twice_does_only_what_is_new(family):
    first, second, third = family("""
def objects():
    return sum(permaheap.prefork().immortalized.objects.values())
first, second = objects(), objects()
more = [[i] for i in range(1000)]
print(json.dumps([first, second, objects()]))
""")
    assert first > 20000
    assert second < 200
    assert 1000 <= third < 3000


# Each round leaves some mortal objects (without `immortalize`, for the test) spread over the memory
# that it used, and lets go of those of the round before.
ROUNDS = """
def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1])

steps = dict(collect=False, immortalize=False, free_lists=False)
sizes = []
for n in range(30):
    new = [[i] for i in range(50000)]
    kept = new[::500]
    del new
    blocks = [bytes(700 + i % 900) for i in range(3000)]
    kept_blocks = blocks[::100]
    del blocks
    permaheap.prefork(**steps)
    in_worker(cost)
    sizes.append(resident())
print(json.dumps(sizes))
"""


def test_calls_leave_nothing_of_their_own(run):
    """A parent may fork, and call it, for months."""
    done = run("""
import permaheap
for _ in range(20):
    report = permaheap.prefork()
    number = sum(report.immortalized.objects.values())
    del report
    print(number)
    del number
""")
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()[2:]) == {"0"}


def test_rounds_are_bounded(family):
    """Holes are filled in every round, and the memory that they keep does not grow without end."""
    sizes = family(ROUNDS)
    assert max(sizes[15:]) < 1.25 * max(sizes[:15]), sizes


def test_filled_holes_are_freed(family):
    """Without giving back, each round would take what the round before took."""
    totals = family("""
steps = dict(collect=False, immortalize=False, free_lists=False, malloc=False)
totals = []
for n in range(12):
    new = [[i] for i in range(50000)]
    kept = new[::500]
    del new
    totals.append(permaheap.prefork(**steps).block_bytes)
print(json.dumps(totals))
""")
    assert any(later < earlier for earlier, later in itertools.pairwise(totals)), totals


def test_allocator_stays_sound(run):
    """sys._debugmallocstats looks at every pool, and asserts in debug builds."""
    done = run("""
import sys, permaheap
for n in range(8):
    new = [[i] for i in range(30000)]
    kept = new[::n + 2]
    permaheap.prefork(immortalize=n % 2)
    sys._debugmallocstats()
    del new, kept
    sys._debugmallocstats()
""")
    assert done.returncode == 0, done.stderr[-2000:]


WORK = """
import asyncio, concurrent.futures, dataclasses, decimal, http.client, http.server, json, os, re
import sys, threading, permaheap

@dataclasses.dataclass(order=True)
class Point:
    x: int
    y: float = 0.5

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"path": self.path}).encode())
    def log_message(self, *_):
        pass

def request():
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        connection = http.client.HTTPConnection(*server.server_address, timeout=60)
        connection.request("GET", "/some/path")
        answer = connection.getresponse().read().decode()
        thread.join()
        return answer

async def gather():
    async def one(i):
        await asyncio.sleep(0)
        return i * i
    return await asyncio.gather(*map(one, range(20)))

def generator(n):
    try:
        for i in range(n):
            yield i
    finally:
        print("end of the generator")

def work():
    print(json.dumps(json.loads('{"a": [1, 2.5, null, "x"]}'), sort_keys=True))
    print(re.sub(r"(?P<word>\\\\w+)", lambda m: m["word"][::-1], "some words here"))
    print(sorted([Point(3), Point(1, 2.0)]), dataclasses.asdict(Point(4)))
    print(decimal.Decimal(2).sqrt(), decimal.Decimal("1.10") * 3)
    print(asyncio.run(gather()), request())
    print(sum(generator(5)), next(generator(5)), f"{1234567.891:,.2f}", b"abc".hex(), 2**100)
    print([*map(str.upper, "abc")], {**{"a": 1}, "b": 2}, (lambda *a, **k: (a, k))(1, b=2))
    try:
        print(1 // 0)
    except ZeroDivisionError as error:
        print(error)

if sys.argv[1] == "prefork":
    permaheap.prefork()
"""


@pytest.mark.parametrize(
    "start",
    [
        "if os.fork() == 0:\n    work()\n    sys.exit(0)\nos.wait()",
        (
            "import multiprocessing\np = multiprocessing.get_context('fork').Process(target=work)\n"
            "p.start()\np.join()\nprint(p.exitcode)"
        ),
        "work()",
    ],
    ids=["os.fork", "multiprocessing", "parent"],
)
def test_a_worker_does_what_it_did(run, start):
    plain, prefork = (run(WORK + start, mode) for mode in ("plain", "prefork"))
    assert plain.returncode == prefork.returncode == 0, prefork.stderr
    assert prefork.stdout == plain.stdout
    assert plain.stdout.count("\n") >= 9


def test_results_of_adapted_code(run):
    """Code with every kind of constant gives the same before, between and after."""
    done = run("""
import permaheap
def function(n):
    total = 0
    while n:
        n -= 1
        total += {1.5: 2, (1, 2): 3}[1.5] + len(b"bytes") + (10**20 - 99999999999999999998)
        total += (1, 2, (3, "text"))[0] + (lambda: 7)()
    return total
names = [f"x{i}" for i in range(400)]
source = "def long():\\n    return [" + ", ".join(f"{i}.25" for i in range(400)) + "]"
exec(source)
expected = function(3), long()
for _ in range(30):
    assert (function(3), long()) == expected
permaheap.prefork()
for _ in range(30):
    assert (function(3), long()) == expected
import sys
print(max(sys.getrefcount(each) for each in function.__code__.co_consts) > 1 << 30)
""")
    assert done.stdout == "True\n", done.stderr


@pytest.mark.skipif(sys.version_info[:2] != (3, 14), reason="only 3.14 has such instructions")
def test_constants_are_not_counted(run):
    """3.14 counts references to a constant that was mortal when its code ran first."""
    done = run("""
import ctypes, permaheap
def function():
    return 1234.5
for _ in range(100):
    function()
word = ctypes.c_uint32.from_address(id(function.__code__.co_consts[0] if
    isinstance(function.__code__.co_consts[0], float) else function.__code__.co_consts[1]))
permaheap.prefork()
before, kept = word.value, [function() for _ in range(10)]
print(word.value - before)
""")
    assert done.stdout == "0\n", done.stderr


def test_in_an_interpreter():
    import interpreters

    with interpreters.Interpreter() as interpreter:
        answer = interpreter.ask("""
import permaheap
report = permaheap.prefork()
again = permaheap.prefork()
result = [report.skipped, report.blocks > 0, [str(i) for i in range(3)]]
""")
    assert answer == [None, True, ["0", "1", "2"]]


def test_with_threads(run):
    done = run("""
import threading, warnings, permaheap
event = threading.Event()
thread = threading.Thread(target=event.wait)
thread.start()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    permaheap.prefork()
event.set()
thread.join()
print(caught[0].filename, caught[0].message)
""")
    assert done.stdout.startswith("<string> prefork() while 2 threads are running"), done.stderr


def test_memory_runs_out(in_child):
    def fail():
        _core._testing.fault(1, persistent=True)
        with pytest.raises(MemoryError):
            permaheap.prefork()
        _core._testing.fault(0)
        return permaheap.prefork().skipped

    assert in_child(fail) is None


def test_wrong_arguments():
    for call in (
        lambda: permaheap.prefork(1),
        lambda: _core._fill_holes(1),
        lambda: _core._fill_holes(),
    ):
        with pytest.raises(TypeError):
            call()


# --- The end of a worker --------------------------------------------------------------------------

PROGRAMS = {
    "returns": "print('done')",
    "exits": "sys.exit(3)",
    "exits with a message": "sys.exit('a message')",
    "exits with None": "sys.exit(None)",
    "raises": "raise ValueError('wrong')",
    "is interrupted": "os.kill(os.getpid(), signal.SIGINT); signal.pause()",
    "has an open file": "f = open(path, 'w'); f.write('text ' * 5); sys.exit(4)",
    "has an old file": "old.write('more text'); print('and more')",
    "has callbacks": "atexit.register(print, 'last'); atexit.register(print, 'first')",
    "has a callback that raises": "atexit.register(lambda: 1 // 0)",
    "has a thread": "threading.Thread(target=after_main).start()",
    "has a daemon": "threading.Thread(target=time.sleep, args=[60], daemon=True).start()",
    "has a generator": "g = suspended(); next(g); h = suspended(); next(h); print('waiting')",
    "has an object with __del__": "x = Loud('new'); module.attribute = Loud('in a module')",
    "has a cycle with __del__": "x = Loud('a'); x.self = x; del x",
    "has a finalizer": "weakref.finalize(data, print, 'finalized')",
    "has output without newline": "sys.stdout.write('no newline'); sys.stderr.write('neither')",
    "has a closed stdout": "sys.stdout.close()",
    "cannot flush": "os.dup2(os.open('/dev/full', os.O_WRONLY), 1); print('lost')",
    "interns": "names = [sys.intern(f'name {i}') for i in range(100)]; setattr(module, 'n1', 1)",
    "has C output": "ctypes.CDLL(None).puts(b'from C')",
    "imports": "import wave, colorsys; wave.x = Loud('in a new module')",
}

ENDING = """
import atexit, ctypes, os, signal, sys, threading, time, weakref
import string as module

path, mode = sys.argv[1:3]

class Loud:
    def __init__(self, name):
        self.name = name
    def __del__(self):
        print("end of", self.name)

def suspended():
    try:
        yield
    finally:
        print("finally")

def after_main():
    threading.main_thread().join()
    print("thread")

class Data:
    pass

data = Data()
old = open(path + ".old", "w")
old.write("old text")
old.flush()
if mode != "plain":
    import permaheap
    permaheap.prefork()
if mode == "quick":
    permaheap.exit_quickly()
sys.stdout.flush()
pid = os.fork()
if pid:
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(1, f"status {status}".encode())
    os._exit(0)
"""


@pytest.fixture
def ending(run, tmp_path):
    """Give a function that runs a program in a worker, and returns all that is left of it."""

    def ending(program, mode):
        folder = tmp_path / mode
        folder.mkdir()
        # Debug builds warn of unclosed files, and name the line of code that they are closed in.
        quiet = {"PYTHONWARNINGS": "ignore::ResourceWarning"}
        done = run(ENDING + program, folder / "file", mode, **quiet)
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        messages = re.sub("0x[0-9a-f]+", "0x", done.stderr)
        return sorted(done.stdout.splitlines()), messages, files

    return ending


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_end_is_what_it_was(ending, name):
    plain, prefork, quick = (ending(PROGRAMS[name], mode) for mode in ("plain", "prefork", "quick"))
    assert prefork == plain
    assert quick == plain
    assert any("status " in line for line in plain[0])


def test_the_end_copies_little(family):
    """At the end of a worker, page faults of the kind that copies: exit_quickly saves most."""
    ends = """
def faults(how):
    pid = os.fork()
    if pid == 0:
        work()
        how(0)
    usage = os.wait4(pid, 0)[2]
    return usage.ru_minflt

permaheap.prefork()
QUICK
least = faults(os._exit)
print(json.dumps(faults(sys.exit) - least))
"""
    slow = family(ends.replace("QUICK", ""))
    quick = family(ends.replace("QUICK", "permaheap.exit_quickly()"))
    # 3.12 leaves interned strings alone, which are most of it.
    assert quick < slow * (0.75 if sys.version_info >= (3, 13) else 0.9)


def test_waiting_objects_are_found_without_counting(in_child):
    """At exit all objects are looked at: their reference counts stay what they are."""

    def look():
        import ctypes

        class Slow:
            pass

        objects = [Slow() for _ in range(1000)]
        gc.disable()
        seen = []
        words = [ctypes.c_ssize_t.from_address(id(each)) for each in objects]
        before = [word.value for word in words]
        found = _core._with_finalizer()
        seen = [word.value for word in words]
        return before == seen, len(found) < 1000

    assert in_child(look) == (True, True)
