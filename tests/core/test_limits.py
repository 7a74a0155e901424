"""Resource limits: each is a clear error, and neither a signal nor the end of the process."""

import contextlib
import ctypes
import os
import platform
import resource
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from compile import compiler

pytestmark = pytest.mark.no_sanitizer("the limits leave it no addresses")

MIB = 1 << 20

# Programs here run in processes of their own, most of which have the limit before they begin.
COMMON = """
import ctypes, os, resource, struct, sys

def attempt(function, *arguments):
    try:
        return function(*arguments)
    except (MemoryError, OSError) as error:
        print(type(error).__name__ + ":", error, flush=True)
        return None

def freeze_until_full(make, most=10**6):
    frozen = []
    while len(frozen) < most:
        one = attempt(permaheap.freeze, make(len(frozen)))
        if one is None:
            break
        frozen.append(one)
    return frozen
"""


def start(code, *arguments, limits=(), group=None, settings=None, **environment):
    """Run code with resource limits, in a cgroup, with settings; return what it did."""

    def enter():
        if settings is not None:
            pretend(settings)
        if group is not None:
            (group / "cgroup.procs").write_text(str(os.getpid()))
        for which, limit in limits:
            resource.setrlimit(which, (limit, limit))

    return subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", COMMON + code, *map(str, arguments)],
        preexec_fn=enter,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def lines_of(done):
    """Return the lines that a program printed, once it has ended well."""
    assert done.returncode == 0, (done.returncode, done.stdout[-1000:], done.stderr[-3000:])
    return done.stdout.splitlines()


# --- Address space and file size ------------------------------------------------------------------

USE = """
import permaheap
frozen = attempt(permaheap.freeze, ["small", {"x": 1.5}])
if frozen is not None:
    print("reserved", permaheap.stats().reserved)
    assert permaheap.share(frozen).get() is frozen
    many = freeze_until_full(lambda n: [n * 1.5, bytes(5_000_000)], int(sys.argv[1]))
    assert [one[0] for one in many] == [n * 1.5 for n in range(len(many))]
    assert permaheap._core._testing.check() == permaheap.stats().blocks
    print("froze", len(many))
    pid = os.fork()
    if pid == 0:
        child = attempt(permaheap.freeze, ["child", 2.5])
        assert child is None or child[1] == 2.5
        os._exit(0 if frozen[0] == "small" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert permaheap.is_frozen(None)
"""


@pytest.mark.parametrize("limit", [300, 600, 1000, 4000, 17_000])
def test_small_address_space_makes_a_small_heap(limit):
    reserved, *_ = lines_of(start(USE, 1, limits=[(resource.RLIMIT_AS, limit * MIB)]))
    name, size = reserved.split()
    assert name == "reserved"
    assert 32 * MIB <= int(size) <= limit * MIB // 8


LEAVES = """
def addresses():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[0]) * resource.getpagesize()

before = addresses()
import permaheap
permaheap.freeze(["small", 1.5])
permaheap.Buffer(100)
print(addresses() - before)
"""


@pytest.mark.parametrize("limit", [300, 586, 2000, 9000])
def test_the_program_keeps_most_of_its_address_space(limit):
    [took] = lines_of(start(LEAVES, limits=[(resource.RLIMIT_AS, limit * MIB)]))
    assert int(took) <= limit * MIB // 4 + 24 * MIB  # the modules


def test_small_heap_gets_full():
    done = start(USE, 10**6, limits=[(resource.RLIMIT_AS, 3000 * MIB)])
    reserved, error, froze, *of_the_child = lines_of(done)
    for text in (error, *of_the_child):
        assert text.startswith("MemoryError: permaheap: the heap is full")
    size = int(reserved.split()[1])
    assert size * 0.5 < int(froze.split()[1]) * 5_000_000 < size


GROWING = """
import permaheap
for size in range(4 << 20, 48 << 20, 1 << 18):
    permaheap.Buffer(size).release()
frozen = permaheap.freeze([bytes(10 << 20)])
print(permaheap.stats().reserved)
"""


def test_growing_buffer_does_not_use_the_addresses_up():
    """One at a time, each larger than the one before: less than four times the largest."""
    [reserved] = lines_of(start(GROWING, limits=[(resource.RLIMIT_AS, 3000 * MIB)]))
    assert int(reserved) == 256 * MIB


@pytest.mark.parametrize("limit", [60, 100])
def test_too_small_an_address_space(limit):
    done = start(USE, 1, limits=[(resource.RLIMIT_AS, limit * MIB)])
    [error] = lines_of(done)
    assert error.startswith("MemoryError: permaheap: cannot reserve addresses for the heap")
    assert "ulimit -v" in error


LATER = """
import permaheap
frozen = permaheap.freeze(["small", 1.5])
which, limit = int(sys.argv[1]), int(sys.argv[2])
given = [bytes(1_000_000)] * 3 + [1.5]
expected = tuple(given)
resource.setrlimit(which, (limit, resource.getrlimit(which)[1]))
many = freeze_until_full(lambda n: [given, n], 40)
assert all(one[0] == expected for one in many)
assert permaheap.share(frozen).get() is frozen
pid = os.fork()
if pid == 0:
    child = attempt(permaheap.freeze, ["child", 2.5])
    assert child is None or child[1] == 2.5
    assert permaheap.share(frozen).get() is frozen
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
resource.setrlimit(which, (resource.getrlimit(which)[1],) * 2)
assert permaheap.freeze(given) == expected
assert permaheap._core._testing.check() == permaheap.stats().blocks
print(len(many))
"""


@pytest.mark.parametrize("limit", [0, 1000, 10 * MIB, 100 * MIB])
@pytest.mark.parametrize("which", ["RLIMIT_AS", "RLIMIT_FSIZE"])
def test_limit_comes_after_the_heap(which, limit):
    """Reserved addresses can be used; a child may lack a window to write through."""
    *errors, count = lines_of(start(LATER, getattr(resource, which), limit))
    assert int(count) == 40 or errors
    for error in errors:
        assert error.partition(":")[0] in ("MemoryError", "OSError")


@pytest.mark.parametrize("limit", [70, 500, 5000])
def test_file_size_limit_makes_a_small_heap(limit):
    reserved, *_ = lines_of(start(USE, 3, limits=[(resource.RLIMIT_FSIZE, limit * MIB)]))
    name, size = reserved.split()
    assert name == "reserved"
    assert 64 * MIB <= int(size) <= limit * MIB


@pytest.mark.parametrize("limit", [0, 5 * MIB])
def test_too_small_a_file_size(limit):
    [error] = lines_of(start(USE, 1, limits=[(resource.RLIMIT_FSIZE, limit)]))
    assert error.partition(":")[0] in ("MemoryError", "OSError")
    assert "permaheap: " in error
    assert "ulimit" in error


# --- Refused system calls -------------------------------------------------------------------------

NUMBERS = {  # of system calls
    "x86_64": {"memfd_create": 319, "fallocate": 285, "madvise": 28, "getrandom": 318},
    "aarch64": {"memfd_create": 279, "fallocate": 47, "madvise": 233, "getrandom": 278},
}.get(platform.machine())

# A filter of seccomp(2): the numbered call, if its third argument is not below a bound, fails.
REFUSE = """
def refuse(number, errno, third_argument=0):
    load, jump_equal, jump_greater_equal, result = 0x20, 0x15, 0x35, 0x06
    program = b"".join(struct.pack("=HBBI", *step) for step in [
        (load, 0, 0, 0),                                # the call's number
        (jump_equal, 0, 3, number),
        (load, 0, 0, 16 + 2 * 8),                       # its third argument
        (jump_greater_equal, 0, 1, third_argument),
        (result, 0, 0, 0x00050000 | errno),
        (result, 0, 0, 0x7fff0000),                     # allowed
    ])
    buffer = ctypes.create_string_buffer(program)
    filter = ctypes.create_string_buffer(struct.pack("HxxxxxxP", 6, ctypes.addressof(buffer)))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0              # PR_SET_NO_NEW_PRIVS
    if libc.prctl(22, 2, filter) != 0:                  # PR_SET_SECCOMP
        print("no seccomp")
        sys.exit(0)
refuse(*map(int, sys.argv[2:]))
"""

needs_numbers = pytest.mark.skipif(NUMBERS is None, reason="system calls of another machine")


def with_refused(call, errno, third_argument=0, count=3):
    done = start(REFUSE + USE, count, NUMBERS[call], errno, third_argument)
    if done.stdout == "no seccomp\n":
        pytest.skip("this kernel or container has no seccomp filters")
    return lines_of(done)


@needs_numbers
@pytest.mark.parametrize("errno", [1, 24, 38], ids=["EPERM", "EMFILE", "ENOSYS"])
def test_refused_memfd_create(errno):
    [error] = with_refused("memfd_create", errno)
    assert error.startswith("OSError: permaheap: ")
    assert "memfd_create" in error
    assert os.strerror(errno) in error


@needs_numbers
def test_refused_memory():
    [error] = with_refused("fallocate", 28)
    assert error.startswith("MemoryError: permaheap: cannot ")


@needs_numbers
def test_refused_random_numbers():
    error, *more = with_refused("getrandom", 38)
    if more:
        pytest.skip("this C library makes random numbers without a system call")
    assert error.startswith("OSError: permaheap: cannot set up the heap")


@needs_numbers
def test_kernel_without_populate():
    """Before Linux 5.14 there is no MADV_POPULATE_READ (22): it only saves time."""
    _, froze = with_refused("madvise", 22, 22)
    assert froze == "froze 3"


SIGNALLED = """
import signal
import permaheap
signal.signal(signal.SIGALRM, signal.SIG_DFL)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
signal.alarm(20)
frozen = permaheap.freeze([bytes(30_000_000), 1.5])
buffer = permaheap.Buffer(30_000_000)
buffer[:] = frozen[0]
assert permaheap._core._testing.check() == 1
"""


def test_signals_while_memory_is_allocated(tmp_path):
    """Kernels before Linux 6.10 undo an allocation when a signal comes: a profiler's timer."""
    library = tmp_path / "signalled.so"
    source = Path(__file__).with_name("signalled.c")
    subprocess.run([*compiler(), "-shared", "-fPIC", source, "-o", library, "-ldl"], check=True)
    assert lines_of(start(SIGNALLED, LD_PRELOAD=str(library))) == []


# --- Holes ----------------------------------------------------------------------------------------

MAPPINGS = """
import permaheap
frozen = permaheap.freeze(["small", {"x": 1.5}, bytes(20_000_000)])
buffer, channel = permaheap.Buffer(100), permaheap.Channel()
flags = set()
for line in open("/proc/self/smaps"):
    if "-" in line.split()[0]:
        ours = "/memfd:permaheap" in line
    elif ours and line.startswith("VmFlags:"):
        flags = set(line.split()[1:])
        print("dumped" if "dd" not in flags else "charged" if "ac" in flags else "neither")
"""


def test_core_dumps_read_no_holes():
    """And private mappings are not charged, so that a fork is not refused for them."""
    mappings = lines_of(start(MAPPINGS, PERMAHEAP_SEAL="0"))
    assert len(mappings) > 3
    assert set(mappings) == {"neither"}


LOCKED = """
import permaheap
frozen = permaheap.freeze(["small", {"x": 1.5}])
buffer = permaheap.Buffer(100)
if ctypes.CDLL(None).mlockall(1) != 0:
    print("may not lock")
    sys.exit(0)
for line in open("/proc/self/status"):
    if line.startswith("VmRSS:"):
        print(int(line.split()[1]) * 1024)
more = [permaheap.freeze([n, n * 1.5]) for n in range(1000)]
assert [one[0] for one in more] == list(range(1000))
assert permaheap._core._testing.check() == 1001
"""


def test_mlockall_fills_no_tables():
    large = Group()  # a failure would take all memory of the machine
    try:
        large.limit(1024 * MIB)
        [resident] = lines_of(start(LOCKED, group=large.path, PERMAHEAP_SEAL="1"))
    finally:
        large.close()
    if resident == "may not lock":
        pytest.skip("only root can lock memory")
    assert int(resident) < 300 * MIB


# --- Overcommit -----------------------------------------------------------------------------------

OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
RATIO = Path("/proc/sys/vm/overcommit_ratio")
PRIVATE, BIND = 0x44000, 0x1000  # flags of mount(2), the first one for all mounts below


def pretend(settings):
    """Let this process alone read other settings: mount a file over each, in its own namespace."""
    os.unshare(os.CLONE_NEWNS)
    mount = ctypes.CDLL(None, use_errno=True).mount
    mounts = [(None, "/proc", PRIVATE), *((file, setting, BIND) for setting, file in settings)]
    for source, target, flags in mounts:
        paths = [path and os.fsencode(path) for path in (source, target)]
        if mount(*paths, None, ctypes.c_ulong(flags), None) != 0:
            raise OSError(ctypes.get_errno(), f"mount {target}")


@contextlib.contextmanager
def strict_overcommit():
    """Set vm.overcommit_memory to 2 for a moment, with a limit that disturbs no process."""
    before = OVERCOMMIT.read_text(), RATIO.read_text()
    try:
        RATIO.write_text("100000")
        OVERCOMMIT.write_text("2")
    except OSError:
        pytest.skip("only root can set vm.overcommit_memory, and not in every container")
    try:
        yield
    finally:
        OVERCOMMIT.write_text(before[0])
        RATIO.write_text(before[1])


STRICT = """
import permaheap
def committed():
    for line in open("/proc/self/status"):
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
frozen = permaheap.freeze(["small", 1.5])
print(permaheap.stats().mapping)
before = committed()
large = permaheap.freeze([bytes(1_000_000)] + [bytes([n]) * 10_000_000 for n in range(20)])
print(committed() - before)
pid = os.fork()
if pid == 0:
    os._exit(0 if large[20] == bytes([19]) * 10_000_000 and permaheap.freeze([2.5]) else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert permaheap._core._testing.check() == 2 + 1
"""


def is_not_charged(done):
    """Private writable mappings would be charged in full, in each process."""
    mapping, charged = lines_of(done)
    assert mapping.startswith("read-only: ")
    assert "overcommit" in mapping
    assert int(charged) < 50_000_000


def test_strict_overcommit(tmp_path):
    """The core reads the setting and does the rest itself; the kernel's part has its own test."""
    strict = tmp_path / "overcommit_memory"
    strict.write_text("2\n")
    try:
        done = start(STRICT, settings=[(OVERCOMMIT, strict)], PERMAHEAP_SEAL="0")
    except subprocess.SubprocessError:
        pytest.skip("only root can mount, and not in every container")
    is_not_charged(done)


@pytest.mark.alone
def test_strict_overcommit_of_the_machine():
    with strict_overcommit():
        done = start(STRICT, PERMAHEAP_SEAL="0")
    is_not_charged(done)


# --- Memory cgroups -------------------------------------------------------------------------------


def v2_groups():
    """Return the folder in which groups of version 2 with a memory limit can be made."""
    root = Path("/sys/fs/cgroup")
    try:
        own = Path("/proc/self/cgroup").read_text()
        controllers = (root / "cgroup.controllers").read_text().split()
    except OSError:
        return None
    if "memory" not in controllers or "memory" not in (
        (root / "cgroup.subtree_control").read_text().split()
    ):
        return None
    return root if own else None


class Group:
    """A memory cgroup that lives as long as one test."""

    def __init__(self, parent=None):
        self.v2 = v2_groups()
        root = parent.path if parent else self.v2 or Path("/sys/fs/cgroup/memory")
        self.path = root / f"permaheap-test-{uuid.uuid4().hex}"
        try:
            self.path.mkdir()
        except OSError as error:
            pytest.skip(f"no memory cgroup can be made here: {error}")

    def limit(self, size):
        name = "memory.max" if self.v2 else "memory.limit_in_bytes"
        try:
            (self.path / name).write_text(str(size))
            swap = self.path / ("memory.swap.max" if self.v2 else "memory.memsw.limit_in_bytes")
            if swap.exists():
                swap.write_text("0" if self.v2 else str(size))
        except OSError as error:
            self.close()
            pytest.skip(f"no memory cgroup can be limited here: {error}")

    def killed(self):
        """Return how many processes the kernel has killed for want of memory."""
        name = "memory.events" if self.v2 else "memory.oom_control"
        for line in (self.path / name).read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
        raise AssertionError("the kernel does not say")

    def close(self):
        """Remove the group, and what a failed test has left running in it."""
        deadline = time.monotonic() + 10
        while self.path.exists():
            for pid in (self.path / "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            try:
                self.path.rmdir()
            except OSError:
                if time.monotonic() > deadline:
                    raise


@pytest.fixture
def group():
    """Give a memory cgroup of 150 MB."""
    made = Group()
    made.limit(150 * MIB)
    yield made
    killed = made.killed()
    made.close()
    assert killed == 0


needs_calloc = pytest.mark.skipif(
    hasattr(sys, "gettotalrefcount"),
    reason="debug builds write to what they allocate, which takes the memory that is counted here",
)

FULL = """
import permaheap
size = int(sys.argv[1])
# Made once: memory that the C library has used before would be filled, and copied in the child.
zeros, more_zeros = bytes(size), bytes(max(size, 100_000))
frozen = freeze_until_full(lambda n: [n, zeros])
assert [one[0] for one in frozen] == list(range(len(frozen)))
assert all(one[1] == zeros for one in frozen)
pid = os.fork()
if pid == 0:
    again = attempt(permaheap.freeze, [more_zeros])
    os._exit(0 if again is None else 1)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert permaheap._core._testing.check() == permaheap.stats().blocks == len(frozen)
print(len(frozen) * size)
"""


def assert_full(done):
    *errors, froze = lines_of(done)
    assert len(errors) == 2
    for error in errors:
        assert error.startswith("MemoryError: permaheap: ")
        assert "memory cgroup" in error
    return int(froze)


@pytest.mark.parametrize("size", [10_000, 1_000_000, pytest.param(20_000_000, marks=needs_calloc)])
def test_full_cgroup(group, size):
    """The program fills its container, block by block; neither SIGBUS nor the OOM killer come."""
    assert 60 * MIB < assert_full(start(FULL, size, group=group.path)) < 150 * MIB


def test_full_ancestor(group):
    """The limit that counts may be that of a group above."""
    inner = Group(group)
    try:
        assert 60 * MIB < assert_full(start(FULL, 1_000_000, group=inner.path)) < 150 * MIB
    finally:
        inner.close()


BALLAST = """
import permaheap
frozen = permaheap.freeze([bytes(30_000_000)])
ballast = b"x" * 80_000_000
used = permaheap.stats().used
# Zeros that nobody has written to take no memory until they are frozen.
assert attempt(permaheap.freeze, ["large", bytes(60_000_000)]) is None
assert attempt(permaheap.freeze_each, (bytes(5_000_000 + n) for n in range(20))) is None
assert permaheap.stats().used == used
del ballast
assert len(permaheap.freeze([bytes(60_000_000)])[0]) == 60_000_000
assert permaheap._core._testing.check() == 2
"""


@needs_calloc
def test_memory_that_becomes_free(group):
    errors = lines_of(start(BALLAST, group=group.path))
    assert len(errors) == 2
    assert all("memory cgroup" in error for error in errors)


SPANS = """
import permaheap
new, drop = permaheap._core._testing.span_new, permaheap._core._testing.span_drop
spans = []
while (span := attempt(new, 5_000_000, False, 1)) is not None:
    ctypes.memset(permaheap._core._testing.span_view(span)[0], 1, 5_000_000)
    spans.append(span)
print(len(spans) * 5_000_000)
while spans:
    drop(spans.pop())
assert permaheap.stats().span_kept > 0
assert len(freeze_until_full(lambda n: [n, bytes(5_000_000)])) > 10
assert permaheap.stats().span_kept == 0
permaheap._core._testing.check()
"""


@needs_calloc
def test_spans_fill_a_cgroup(group):
    """Memory kept for the next spans goes to any process that needs it."""
    first, made, second = lines_of(start(SPANS, group=group.path))
    for error in (first, second):
        assert error.startswith("MemoryError: permaheap: ")
        assert "memory cgroup" in error
    assert 60 * MIB < int(made) < 150 * MIB


WITHOUT_DESCRIPTORS = """
import permaheap
resource.setrlimit(resource.RLIMIT_NOFILE, (20, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
files = []
try:
    while True:
        files.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
attempt(permaheap.Buffer, 300 << 20)
for _ in range(20):                     # what was given back can be used again
    permaheap.Buffer(40 << 20).release()
    permaheap.reclaim()
buffers = []
while (buffer := attempt(permaheap.Buffer, 5_000_000)) is not None:
    buffers.append(buffer)
frozen = freeze_until_full(lambda n: [n, bytes(5_000_000)])
print(len(buffers))
"""


def test_without_descriptors(group):
    """The limits can then not be read: the last answer counts."""
    large, one_more, frozen, count = lines_of(start(WITHOUT_DESCRIPTORS, group=group.path))
    for error in (large, one_more, frozen):
        assert error.startswith("MemoryError: permaheap: ")
        assert "memory cgroup" in error
    assert 60 * MIB < int(count) * 5_000_000 < 150 * MIB


CACHE = """
import permaheap
with open(sys.argv[1], "wb") as file:
    for _ in range(100):
        file.write(bytes(1_000_000))
    file.flush()
    os.fsync(file.fileno())
with open(sys.argv[1], "rb") as file:
    while file.read(1_000_000):
        pass
assert len(permaheap.freeze([bytes(60_000_000)])[0]) == 60_000_000
"""


def test_file_cache_counts_as_free(group, tmp_path):
    assert lines_of(start(CACHE, tmp_path / "file", group=group.path)) == []


def test_the_kernel_counts_kills(group):
    """These tests can fail: a program that does not ask first is killed."""
    done = start(
        "import mmap\nmmap.mmap(-1, 300 << 20).write(b'x' * (300 << 20))", group=group.path
    )
    assert done.returncode == -signal.SIGKILL
    assert group.killed() > 0
    group.killed = lambda: 0  # the fixture asks this at the end
