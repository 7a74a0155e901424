"""The copy-on-write profiler, on real families: a worker does one known thing, and is found out."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pytest

import permaheap
from permaheap.cow import Cause, Page, snapshot
from permaheap.cow import _map as object_map
from permaheap.cow import _objects as objects
from permaheap.cow import _proc as proc
from permaheap.cow._snapshot import Recorder

pytestmark = [
    pytest.mark.slow,  # many processes, and nothing of the permanent heap
    pytest.mark.no_sanitizer("it is about pymalloc, which is off there"),
]
PAGE = proc.PAGE

# The beginning of each family. The parent prints one line when all workers have done their work,
# and then waits for the end of its input.
PRELUDE = """
import ctypes, gc, json, os, signal, sys
gc.disable()
keep = []

def family(*deeds):
    reader, writer = os.pipe()
    pids = []
    for deed in deeds:
        pid = os.fork()
        if pid == 0:
            try:
                keep.append(deed())
                os.write(writer, b"x")
                while True:
                    signal.pause()
            finally:
                os._exit(1)
        pids.append(pid)
        assert os.read(reader, 1)
    return pids

def show(address):
    print(address, flush=True)
    sys.stdin.read()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
"""


class Family:
    """A parent with workers, in processes of their own."""

    def __init__(self, code, *arguments, **environment):
        self.process = subprocess.Popen(
            [sys.executable, "-c", PRELUDE + code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": _import_path(), **environment},
        )
        line = self.process.stdout.readline()
        assert line, f"the family ended with {self.process.wait()}"
        self.address = int(line)
        self.pid = self.process.pid

    def page(self):
        """Return what a profile says of the page of the address that the family has shown."""
        profile = snapshot(self.pid)
        found = [page for page in profile.workers[0].pages if page.address == self.address & -PAGE]
        assert found, f"the page was not copied: {profile.notes}"
        return found[0]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        assert self.process.wait() == 0
        self.process.stdout.close()


def _import_path():
    return str(Path(permaheap.__file__).parent.parent)


# Thousands of objects of a kind, so that a page in the middle holds nothing else; and what a worker
# does to the one in the middle, `one`: its address is looked at afterwards.
MANY = "many = [{make} for i in range(20_000)]\nat = id(many[10_000])\n"


def _deed(make, deed, before=""):
    return MANY.format(make=make) + f"{before}\npids = family(lambda: {deed})\nshow(at)"


DEEDS = {
    "reference count": (Cause.REFERENCE_COUNT, "object", _deed("object()", "many[10_000]")),
    "reference count of a container": (Cause.REFERENCE_COUNT, "list", _deed("[]", "many[10_000]")),
    "dict changed": (Cause.MUTATION, "dict", _deed("{'a': i}", "many[10_000].update(b=1)")),
    "list changed": (Cause.MUTATION, "list", _deed("[]", "many[10_000].append(1)")),
    "set changed": (Cause.MUTATION, "set", _deed("{i}", "many[10_000].add('x')")),
    "hash of a str": (Cause.HASH_CACHE, "str", _deed("f'x{i}'", "hash(many[10_000]) and None")),
    "hash of bytes": (Cause.HASH_CACHE, "bytes", _deed("b'%d' % i", "hash(many[10_000]) and None")),
    "hash of a frozenset": (
        Cause.HASH_CACHE,
        "frozenset",
        _deed("frozenset([i])", "hash(many[10_000]) and None"),
    ),
    "interning": (
        Cause.INTERNING,
        "str",
        _deed("f'x{i}'", "sys.intern(many[10_000])", "hash(many[10_000])"),
    ),
    "freed": (Cause.FREE_LIST, "object", _deed("object()", "many.__setitem__(10_000, None)")),
    "new object": (
        Cause.NEW_OBJECT,
        "object",
        _deed("object()", "[object() for _ in range(5_000)]", "del many[9_000:11_000]"),
    ),
    "slot of an instance": (
        Cause.MUTATION,
        "Point",
        "class Point:\n    __slots__ = ('x',)\n"
        + _deed("Point()", "setattr(many[10_000], 'x', None)"),
    ),
    "inline cache": (
        Cause.INLINE_CACHE,
        "code",
        (
            "def make():\n    space = {}\n    exec('def f(a): return a + 1', space)\n"
            "    return space['f']\n"
            "many = [make() for i in range(2_000)]\nat = id(many[1_000].__code__)\n"
            "def call():\n    for i in range(100): many[1_000](i)\n"
            "pids = family(call)\nshow(at)"
        ),
    ),
    "collection": (
        Cause.GC_HEADER,
        "list",
        # The collector meets them before a list that holds them, and finds them from its end on: so
        # their order in its own lists does not end as it began.
        _deed("[]", "gc.collect() and None", "many = many[:]"),
    ),
    "malloc": (
        Cause.MALLOC,
        None,
        (
            "malloc = ctypes.CDLL(None).malloc\nmalloc.restype = ctypes.c_void_p\n"
            "many = [malloc(2_000) for i in range(2_000)]\n"
            "[ctypes.memset(each, 0, 2_000) for each in many]\nat = many[1_000]\n"
            "pids = family(lambda: ctypes.memset(at, 1, 2_000) and None)\nshow(at)"
        ),
    ),
    "large block": (
        # Each is mapped by itself, and what is next to it as well.
        Cause.REFERENCE_COUNT,
        "bytes",
        (
            "many = [b'x' * 500_000 for i in range(5)]\nat = id(many[2])\n"
            "pids = family(lambda: many[2])\nshow(at)"
        ),
    ),
    "inside of a large block": (
        Cause.NEW_OBJECT,
        "bytes",
        (
            "many = [b'x' * 500_000 for i in range(5)]\nat = id(many[2]) + 250_000\n"
            "pids = family(lambda: ctypes.memset(at, 1, 8) and None)\nshow(at)"
        ),
    ),
    "large object": (
        Cause.REFERENCE_COUNT,
        "tuple",
        (
            "many = [(i,) * 1_000 for i in range(200)]\nat = id(many[100])\n"
            "pids = family(lambda: many[100])\nshow(at)"
        ),
    ),
    "static data": (
        Cause.OTHER_MAPPING,
        ...,
        (
            "at = ctypes.addressof(ctypes.c_long.in_dll(ctypes.pythonapi, 'Py_OptimizeFlag'))\n"
            "pids = family(lambda: ctypes.memset(at, 0, 1) and None)\nshow(at)"
        ),
    ),
}


@pytest.mark.parametrize("name", DEEDS)
def test_cause(name):
    cause, kind, code = DEEDS[name]
    with Family(code) as family:
        page = family.page()
    assert page.cause is cause, page
    assert page.certain
    if kind is not ...:
        assert page.object == kind, page


def test_unchanged_page_has_candidates():
    with Family(_deed("object()", "many[10_000] and None")) as family:
        page = family.page()
    assert (page.cause, page.object, page.certain) == (Cause.REFERENCE_COUNT, "object", False)


def test_neighbours_are_named():
    code = "class One:\n    __slots__ = ('x',)\nclass Two:\n    __slots__ = ('x',)\n"
    code += "many = [One() if i % 2 else Two() for i in range(20_000)]\nat = id(many[9_001])\n"
    code += "pids = family(lambda: many[9_001])\nshow(at)"
    with Family(code) as family:
        page = family.page()
    assert page.object == "One"
    assert page.neighbours == ("Two",)


def test_stack():
    with Family(_deed("[]", "None")) as family:
        pages = snapshot(family.pid).workers[0].pages
    assert "[stack]" in {page.object for page in pages if page.cause is Cause.STACK}


def test_what_the_parent_copied_is_left_behind():
    code = MANY.format(make="object()")
    code += "pids = family(lambda: None, lambda: None)\nkeep.append(many[10_000])\nshow(at)"
    with Family(code) as family:
        assert family.page().cause is Cause.LEFT_BEHIND


def test_an_earlier_look_tells_which_process_copied():
    """Without another worker that still shares the old page, only history tells."""
    code = MANY.format(make="object()")
    code += "pids = family(lambda: None)\nprint(at, flush=True)\nassert sys.stdin.readline()\n"
    code += "keep.append(many[10_000])\nshow(at)"
    with Family(code) as family:
        recorder = Recorder(family.pid)
        recorder.sample()
        recorder.look()
        family.process.stdin.write(b"go\n")
        family.process.stdin.flush()
        assert family.process.stdout.readline()
        recorder.look()
        (worker,) = recorder.known().workers
        recorder.close()
    found = {page.address: page.cause for page in worker.pages}
    frames_known = not any("frame numbers" in note for note in recorder.known().notes)
    if frames_known:
        assert found[family.address & -PAGE] is Cause.LEFT_BEHIND


def test_untouched_pages_are_not_copied():
    with Family(_deed("object()", "many[0]")) as family:
        pages = {page.address for page in snapshot(family.pid).workers[0].pages}
    assert family.address & -PAGE not in pages


RESERVED = """
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [
    ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long
]
private, fixed, anonymous, noreserve = 2, 16, 32, 0x4000
reserved = libc.mmap(None, 1 << 30, 0, private | anonymous | noreserve, -1, 0)
at = reserved + (1 << 20)
def load():
    with open(sys.executable, "rb") as file:
        libc.mmap(at, 4096, 3, private | fixed, file.fileno(), 0)
    ctypes.memset(at, 1, 1)
pids = family(load)
show(at)
"""


def test_file_that_a_worker_has_mapped_where_its_parent_has_only_reserved():
    """A library, say: nothing of the parent is copied there, and nothing of it may be read."""
    with Family(RESERVED) as family:
        pages = snapshot(family.pid).workers[0].pages
        assert family.address not in {page.address for page in pages}


def test_family_without_workers():
    with Family("pids = []\nshow(0)") as family:
        profile = snapshot(family.pid)
    assert profile.workers == ()
    assert profile.parent == family.pid
    assert profile.python.startswith(".".join(map(str, sys.version_info[:2])))


def test_version_of_the_interpreter():
    with Family("pids = []\nshow(0)") as family:
        python = snapshot(family.pid).python
    known = 3 if sys.version_info >= (3, 13) else 2
    assert python == ".".join(map(str, sys.version_info[:known]))


def test_programs_that_a_worker_has_started_are_no_workers():
    code = "pids = [os.posix_spawn('/bin/sleep', ['sleep', '100'], {})]\nshow(0)"
    with Family(code) as family:
        assert snapshot(family.pid).workers == ()


def test_workers_of_workers_are_found():
    code = "def again():\n    global pids\n    return family(lambda: None)\n"
    code += "pids = family(again)\nshow(0)"
    with Family(code) as family:
        profile = snapshot(family.pid)
        for worker in profile.workers:  # nothing else would end the grandchild
            if worker.pid not in proc.Process(family.pid).children():
                os.kill(worker.pid, signal.SIGKILL)
    assert len(profile.workers) == 2


def test_workers_of_a_program_that_a_shell_has_started(tmp_path):
    file = tmp_path / "family.py"
    file.write_text(PRELUDE + _deed("object()", "many[10_000]"))
    process = subprocess.Popen(
        ["/bin/sh", "-c", f"{sys.executable} {file}; exit $?"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": _import_path()},
    )
    address = int(process.stdout.readline())
    profile = snapshot(process.pid)
    process.communicate()
    (worker,) = profile.workers
    page = next(page for page in worker.pages if page.address == address & -PAGE)
    assert (page.cause, page.object) == (Cause.REFERENCE_COUNT, "object")
    assert profile.notes == ()


def test_nothing_is_changed_by_looking():
    code = MANY.format(make="object()") + "pids = family(lambda: None)\nshow(at)"
    with Family(code) as family:
        (pid,) = (worker.pid for worker in snapshot(family.pid).workers)
        before = [proc.Process(each).rollup()["Private_Dirty"] for each in (family.pid, pid)]
        snapshot(family.pid)
        after = [proc.Process(each).rollup()["Private_Dirty"] for each in (family.pid, pid)]
    assert before == after


HOLES = """
import mmap
file = os.memfd_create("holes")
os.ftruncate(file, 1 << 20)
os.pwrite(file, b"x", 1 << 16)
view = mmap.mmap(file, 1 << 20, mmap.MAP_PRIVATE)
at = ctypes.addressof(ctypes.c_char.from_buffer(view)) + (1 << 16)
keep.append(view[1 << 16])
pids = family(lambda: view.__setitem__(1 << 16, 1))
show(at)
"""


def test_holes_of_files_stay_holes():
    """To read one, even from outside, would fill it."""
    with Family(HOLES) as family:
        file, *_ = [  # mmap has one of its own
            link
            for link in Path(f"/proc/{family.pid}/fd").iterdir()
            if str(link.readlink()).startswith("/memfd:holes ")
        ]
        before = file.stat().st_blocks
        assert family.page().cause is Cause.OTHER_MAPPING
        assert file.stat().st_blocks == before


def test_unknown_mode():
    with pytest.raises(ValueError, match="no mode 'magic'"):
        snapshot(mode="magic")


def test_process_that_is_not_there():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    with pytest.raises(ProcessLookupError, match="has ended"):
        snapshot(process.pid)


# --- The map of objects ---------------------------------------------------------------------------


def test_map_tells_whose_a_table_is():
    code = "big = [None] * 100_000\nfrom permaheap.cow import leave_map\nleave_map()\n"
    code += "at = int.from_bytes(ctypes.string_at(id(big) + 24, 8), 'little') + 400_000\n"
    code += "pids = family(lambda: big.__setitem__(50_000, 1))\nshow(at)"
    with Family(code) as family:
        page = family.page()
    assert (page.cause, page.object, page.detail) == (Cause.MUTATION, "list", "items")


def test_map_of_this_process():
    object_map.leave_map()
    data = proc.Process(os.getpid()).memfd(object_map.NAME)
    found = object_map.ObjectMap(data)
    assert len(found) > 10_000
    for obj in (object_map, Family, _deed, [Family][0].page, DEEDS, DEEDS["freed"][2], sys.path):
        entry = found.find(id(obj))
        if type(obj).__name__ != "method":  # made just now
            assert (entry.start, entry.table) == (id(obj), "")
            assert entry.type == _tp_name(type(obj))
    items = ctypes.c_void_p.from_address(id(sys.path) + 24).value
    assert (found.find(items).type, found.find(items).table) == ("list", "items")


def _tp_name(kind):
    address = ctypes.c_void_p.from_address(id(kind) + objects.LAYOUT["tp_name"]).value
    return ctypes.string_at(address).decode()


def test_map_is_made_again():
    object_map.leave_map()
    first, _ = object_map._left
    object_map.leave_map()
    assert first != object_map._left[0]
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(first)


def test_map_that_somebody_has_closed():
    """Daemons close all files; a file that they open then is not the map's."""
    object_map.leave_map()
    descriptor, _ = object_map._left
    with open(os.devnull) as other:
        os.dup2(other.fileno(), descriptor)
        object_map.leave_map()
        assert os.fstat(descriptor).st_ino == os.fstat(other.fileno()).st_ino
    os.close(descriptor)


def test_map_leaves_the_collector_as_it_was(run):
    done = run(
        "import gc\nfrom permaheap.cow import leave_map\ngc.freeze()\n"
        "before = gc.get_freeze_count()\nleave_map()\nassert gc.isenabled()\n"
        "data = [[] for _ in range(1_000)]\ngc.disable()\nleave_map()\nassert not gc.isenabled()\n"
        "assert gc.get_freeze_count() <= before\n"
    )
    assert done.returncode == 0, done.stderr


def test_map_holds_what_is_frozen(run):
    """By gc.freeze, after which gc.get_objects no longer knows it."""
    done = run(
        "import gc, os\nfrom permaheap.cow import _map, _proc\n"
        "data = [[{'key': (1, 2**70)}]]\ngc.freeze()\n_map.leave_map()\n"
        "found = _map.ObjectMap(_proc.Process(os.getpid()).memfd(_map.NAME))\n"
        "for each in (data, data[0], data[0][0], data[0][0]['key'], data[0][0]['key'][1]):\n"
        "    assert found.find(id(each)).start == id(each), each\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "data", [b"", b"x" * 100, b"POBJMAP1" + bytes(23), b"POBJMAP1" + b"\1" * 24]
)
def test_no_map(data):
    with pytest.raises(ValueError, match="no map of objects"):
        object_map.ObjectMap(data)


def test_map_without_memory():
    descriptors = len(os.listdir("/proc/self/fd"))
    for n in range(1, 10_000):
        permaheap._core._testing.fault(n)
        try:
            os.close(permaheap._core._object_map([[[]], {}, "x"]))
        except (MemoryError, OSError):
            assert permaheap._core._testing.fault()
        else:
            break
        finally:
            permaheap._core._testing.fault(0)
    assert n > 4
    assert len(os.listdir("/proc/self/fd")) == descriptors


# --- The trace mode's seam -----------------------------------------------------------------------


class _TraceError(Exception):
    pass


@pytest.fixture
def tracing(monkeypatch):
    """Give a stand-in for the module of the trace, with which it has nothing else in common."""
    module = types.ModuleType("permaheap.cow._trace")
    module.TraceError = _TraceError
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_trace_that_was_not_started(tracing):
    tracing.find = lambda pid: None
    with Family(_deed("object()", "many[10_000]")) as family:
        profile = snapshot(family.pid, mode="trace")
    assert "is not traced" in "".join(profile.notes)
    assert profile.workers[0].pages == ()


def test_trace_gets_to_know_where_objects_are(tracing):
    asked = []

    class Trace:
        notes = ("a note",)

        def pages(self, pid, locate):
            at = family.address
            asked.extend(locate(address) for address in (at, at + 8, at & -objects.POOL, 0))
            return (Page(at & -PAGE, Cause.GC_HEADER),)

        def close(self):
            asked.append("closed")

    tracing.find = lambda pid: Trace()
    with Family(_deed("object()", "many[10_000]")) as family:
        profile = snapshot(family.pid, mode="trace")
    name, offset, size = asked[0]
    assert (name, offset) == ("object", 0)
    assert size >= 16
    assert asked[1] == (name, 8, size)
    assert asked[2][0] == "head of a pool"
    assert asked[3:] == [None, "closed"]
    assert profile.notes == ("a note",)
    assert profile.workers[0].pages[0].cause is Cause.GC_HEADER


# --- Privileges -----------------------------------------------------------------------------------

NOBODY = 65534
ROOT = os.geteuid() == 0
AS_NOBODY = (
    "os.setresgid(65534, 65534, 65534)\nos.setresuid(65534, 65534, 65534)\n"
    "ctypes.CDLL(None).prctl(4, 1)\n"  # PR_SET_DUMPABLE: changing users has cleared it
)


def _as_nobody(function):
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    return function()


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
def test_same_user_without_privileges(in_child):
    with Family(AS_NOBODY + _deed("object()", "many[10_000]")) as family:
        profile = in_child(lambda: _as_nobody(lambda: snapshot(family.pid)))
    assert "CAP_SYS_ADMIN" in "".join(profile.notes)
    found = {page.address: page for page in profile.workers[0].pages}
    page = found[family.address & -PAGE]
    assert (page.cause, page.object) == (Cause.REFERENCE_COUNT, "object")


@pytest.mark.skipif(not ROOT, reason="only root can become somebody else")
def test_another_user(in_child):
    def look():
        try:
            snapshot(family.pid)
        except ProcessLookupError as error:
            return str(error)
        return "was looked at"

    with Family(_deed("object()", "many[10_000]")) as family:
        assert "may not be looked at" in in_child(lambda: _as_nobody(look))


def test_memory_that_may_not_be_read(monkeypatch):
    monkeypatch.setattr(proc.Process, "can_read_memory", lambda self: False)
    monkeypatch.setattr(proc.Process, "memory", lambda self, address, size: None)
    with Family(_deed("object()", "many[10_000]")) as family:
        profile = snapshot(family.pid)
    assert "may not be read" in "".join(profile.notes)
    causes = {page.cause for page in profile.workers[0].pages}
    assert Cause.REFERENCE_COUNT not in causes
    assert Cause.STACK in causes


def test_another_version(monkeypatch):
    monkeypatch.setitem(objects.LAYOUT, "version", 0x030A0000)
    with Family(_deed("object()", "many[10_000]")) as family:
        profile = snapshot(family.pid)
    assert "run the profiler with the same version" in "".join(profile.notes)
    assert Cause.REFERENCE_COUNT not in {page.cause for page in profile.workers[0].pages}


# --- The command line -----------------------------------------------------------------------------


def _command(*arguments, **options):
    return subprocess.run(
        [sys.executable, "-m", "permaheap", "cow", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": _import_path()},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,
    )


def test_command_with_a_process():
    with Family(_deed("object()", "many[10_000]")) as family:
        done = _command(family.pid)
    assert done.returncode == 0, done.stderr
    assert "reference count" in done.stdout
    assert str(family.pid) in done.stdout


def test_command_writes_json():
    from permaheap.cow._json import from_json, to_json

    with Family(_deed("object()", "many[10_000]")) as family:
        done = _command("--json", "-", family.pid)
    assert done.returncode == 0, done.stderr
    profile = from_json(done.stdout)
    assert profile.parent == family.pid
    assert json.loads(to_json(profile)) == json.loads(done.stdout)
    page = next(p for p in profile.workers[0].pages if p.address == family.address & -PAGE)
    assert (page.cause, page.object) == (Cause.REFERENCE_COUNT, "object")


def test_command_writes_html(tmp_path):
    with Family(_deed("object()", "many[10_000]")) as family:
        done = _command("--html", tmp_path / "report.html", family.pid)
    assert done.returncode == 0, done.stderr
    assert "<html" in (tmp_path / "report.html").read_text()


def test_command_samples_over_time(tmp_path):
    from permaheap.cow._json import from_json

    with Family(_deed("object()", "many[10_000]")) as family:
        file = tmp_path / "profile.json"
        done = _command("--json", file, "--seconds", "0.3", "--interval", "0.05", family.pid)
    assert done.returncode == 0, done.stderr
    samples = from_json(file.read_text()).workers[0].samples
    assert len(samples) > 1
    assert sorted(samples, key=lambda each: each.seconds) == list(samples)


# A parent that waits for a signal, and then ends with 7.
SERVER = (
    PRELUDE
    + MANY.format(make="object()")
    + """
awaited = {signal.SIGINT, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
pids = family(lambda: many[10_000])
print(at, flush=True)
signal.sigwait(awaited)
for pid in pids:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
sys.exit(7)
"""
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_that_is_started(number, tmp_path):
    from permaheap.cow._json import from_json

    file = tmp_path / "profile.json"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "permaheap", "cow", "--interval", "0.05", "--json", file, "--"),
            *(sys.executable, "-c", SERVER),
        ],
        env={**os.environ, "PYTHONPATH": _import_path()},
        stdout=subprocess.PIPE,
        text=True,
    )
    address = int(process.stdout.readline())
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 7, output
    (worker,) = from_json(file.read_text()).workers
    page = next(page for page in worker.pages if page.address == address & -PAGE)
    assert (page.cause, page.object) == (Cause.REFERENCE_COUNT, "object")


def test_command_that_becomes_another_program(tmp_path):
    """The files of the program before are of no use then."""
    from permaheap.cow._json import from_json

    file = tmp_path / "profile.json"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "permaheap", "cow", "--interval", "0.05", "--json", file, "--"),
            *(sys.executable, "-c", "import os, sys; os.execv(sys.executable, sys.argv)"),
            *("-c", SERVER),
        ],
        env={**os.environ, "PYTHONPATH": _import_path()},
        stdout=subprocess.PIPE,
        text=True,
    )
    address = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 7, output
    (worker,) = from_json(file.read_text()).workers
    page = next(page for page in worker.pages if page.address == address & -PAGE)
    assert (page.cause, page.object) == (Cause.REFERENCE_COUNT, "object")


def test_command_that_ends_by_itself():
    assert _command("--", sys.executable, "-c", "raise SystemExit(3)").returncode == 3


def test_command_that_a_signal_ends():
    done = _command("--", sys.executable, "-c", "import os; os.kill(os.getpid(), 9)")
    assert done.returncode == 128 + 9


def test_command_that_is_not_there():
    done = _command("--", "/no/such/program")
    assert done.returncode == 1
    assert "/no/such/program" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_such_process():
    with subprocess.Popen(["true"]) as process:
        process.wait()
    done = _command(process.pid)
    assert done.returncode == 1
    assert "has ended" in done.stderr


@pytest.mark.parametrize("arguments", [[], ["--interval", "0", "1"], ["--mode", "magic", "1"]])
def test_unusable_arguments(arguments):
    assert _command(*arguments).returncode == 2


# --- How much is explained ------------------------------------------------------------------------


def test_most_of_what_a_reader_copies_is_explained():
    code = "data = [{'id': i, 'name': f'name {i}', 'tags': [i, str(i)], 'score': i / 7}\n"
    code += "        for i in range(20_000)]\n"
    code += (
        "def scan():\n    for row in data:\n        for key in row: row[key]\n    gc.collect()\n"
    )
    code += "pids = family(scan)\nshow(0)"
    with Family(code) as family:
        profile = snapshot(family.pid)
    pages = [page for page in profile.workers[0].pages if _in(page.address, profile.heap)]
    named = [page for page in pages if page.cause is not Cause.UNKNOWN]
    assert len(pages) > 500
    assert len(named) >= 0.8 * len(pages)


def _in(address, ranges):
    return any(start <= address < end for start, end in ranges)
