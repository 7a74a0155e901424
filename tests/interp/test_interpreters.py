"""Sub-interpreters with their own GIL: the same objects, read and frozen in all of them at once."""

import sys
import threading
from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from interpreters import Failed, Interpreter
from permaheap import freeze, share, thaw
from processes import READ_ONLY, Child, audit, handle_of, resolve

pytestmark = pytest.mark.no_sanitizer("crowds of processes or interpreters are too slow")

IMPORT = """
import permaheap
from permaheap import freeze, share, thaw
def resolve(data):
    return permaheap.Handle.from_bytes(data).get()
def handle_of(frozen):
    return bytes(share(frozen))
"""


@pytest.fixture
def apart():
    """Give a function that runs a function in a child: an abort is the failure of one test only."""

    def run(function, *arguments):
        with Child(lambda pipe: function(*arguments)) as child:
            return child.join()

    return run


def in_threads(function, *arguments):
    """Call the function in as many threads, with each of the arguments; pass exceptions on."""
    errors = []

    def work(argument):
        try:
            function(argument)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=[argument]) for argument in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def records(seed, size=50):
    return {
        "rows": [
            {"id": 10**6 * seed + i, "name": f"name {i}", "tags": ["a", f"tag {i % 7}", i / 7]}
            for i in range(size)
        ],
        "set": {f"seed {seed}", (seed, "x")},
        "text": "caf\xe9 \u20ac",
    }


DESCRIBE = (
    IMPORT
    + """
obj = resolve(data)
result = [id(obj), id(obj["rows"][3]["name"]), obj["rows"][3]["name"], permaheap.is_frozen(obj),
          sorted(map(repr, obj["set"])), len(obj["text"].encode()), hash(obj["rows"][3]["tags"])]
"""
)


def describe_here(data):
    scope = {"data": data}
    exec(DESCRIBE, scope)
    return scope["result"]


def test_handle_names_the_same_object(apart):
    def work():
        data = handle_of(freeze(records(1)))
        expected = describe_here(data)
        with Interpreter() as one, Interpreter() as two:
            assert one.ask(DESCRIBE, data=data) == expected
            assert two.ask(DESCRIBE, data=data) == expected
        assert describe_here(data) == expected
        audit()

    apart(work)


FREEZE = (
    IMPORT
    + """
frozen = freeze({"made in": ["another", seed * 1.5, {"deep": [f"text {seed}"] * 3}],
                 "theirs": resolve(data)})
permaheap._core._testing.check()
result = [handle_of(frozen).hex(), id(frozen)]
"""
)


def test_what_an_interpreter_froze_outlives_it(apart):
    def work():
        frozen = freeze(records(2))
        made = []
        for seed in range(20):
            with Interpreter() as interpreter:
                made.append(interpreter.ask(FREEZE, data=handle_of(frozen), seed=seed))
        for seed, (data, address) in enumerate(made):
            obj = resolve(bytes.fromhex(data))
            assert id(obj) == address
            assert obj["theirs"] is frozen
            assert thaw(obj)["made in"] == ["another", seed * 1.5, {"deep": [f"text {seed}"] * 3}]
        with Interpreter() as interpreter:  # another reads it, too
            last = bytes.fromhex(made[-1][0])
            interpreter.run(IMPORT + "assert resolve(data)['made in'][1] == 28.5", data=last)
        audit()

    apart(work)


ERRORS = (
    IMPORT
    + """
class Foo: pass
try:
    freeze([1, Foo()])
except permaheap.FreezeError as error:
    result = [error.path, str(error)]
try:
    resolve(bytes(40))
except permaheap.HandleError as error:
    result.append(str(error))
"""
)


def test_errors_are_those_of_the_interpreter(apart):
    def work():
        with Interpreter() as interpreter:
            path, text, handle = interpreter.ask(ERRORS)
        assert path == "data[1]"
        assert "Foo" in text
        assert "family" in handle

    apart(work)


BUSY = (
    IMPORT
    + """
expected = repr(resolve(data))
made = []
for turn in range(turns):
    frozen = freeze({"seed": seed, "turn": turn, "rows": [[seed, turn, i / 3, f"row {i}"]
                                                          for i in range(turn % 50)]})
    assert frozen["turn"] == turn and len(frozen["rows"]) == turn % 50
    assert share(frozen).get() is frozen
    assert thaw(frozen)["seed"] == seed
    if turn % 20 == 0:
        assert repr(resolve(data)) == expected
        hash(tuple(row["name"] for row in resolve(data)["rows"]))
    made.append(handle_of(frozen))
result = [handle.hex() for handle in made[::turns // 10]]
"""
)


def test_reading_and_freezing_at_once(apart):
    def work(turns=1000):
        data = handle_of(freeze(records(3)))
        interpreters = [Interpreter() for _ in range(3)]
        made = {}

        def busy(seed):
            made[seed] = interpreters[seed].ask(BUSY, data=data, seed=seed, turns=turns)

        def busy_here(seed):
            scope = {"data": data, "seed": seed, "turns": turns}
            exec(BUSY, scope)
            made[seed] = scope["result"]

        in_threads(lambda seed: (busy if seed < 3 else busy_here)(seed), 0, 1, 2, 3, 4)
        for interpreter in interpreters:
            interpreter.close()
        for seed, handles in made.items():
            for handle in handles:
                assert resolve(bytes.fromhex(handle))["seed"] == seed
        audit()

    apart(work)


def test_interpreters_come_and_go_meanwhile(apart):
    """Interpreters begin and end while others freeze."""

    def work():
        data = handle_of(freeze(records(4)))
        stop = threading.Event()

        def begin_and_end(seed):
            try:
                for turn in range(15):
                    with Interpreter() as interpreter:
                        interpreter.run(BUSY, data=data, seed=seed, turns=20 + turn)
            finally:
                stop.set()

        def freeze_here(seed):
            while not stop.is_set():
                assert len(freeze(records(seed))["rows"]) == 50

        in_threads(lambda seed: (begin_and_end if seed < 2 else freeze_here)(seed), 0, 1, 2)
        audit()

    apart(work)


# Without permaheap. Up to 3.13 at least, os.fork() beside an interpreter that runs code is fatal to
# the child: it clears the other interpreters, and waits for what they hold, or misses it.
FORK = """
import os, select, sys, threading
from interpreters import Interpreter
assert "permaheap" not in sys.modules
interpreter = Interpreter()
code = "import time; end = time.monotonic() + 20\\nwhile time.monotonic() < end: [str(1.5)]"
threading.Thread(target=interpreter.run, args=[code], daemon=True).start()
for _ in range(50):
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    ended = select.poll()
    ended.register(os.pidfd_open(pid), select.POLLIN)
    if not ended.poll(5000):
        os.kill(pid, 9)
    if os.waitpid(pid, 0)[1] != 0:
        print("the child came to a bad end")
        break
sys.stdout.flush()
os._exit(0)
"""


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="about older versions")
def test_cpython_cannot_fork_beside_a_running_interpreter(run):
    """Why there is no test here that forks while interpreters freeze."""
    assert run(FORK).stdout == "the child came to a bad end\n"


# --- Weak references, interned names --------------------------------------------------------------


WEAK = (
    IMPORT
    + """
import gc, weakref
obj = resolve(data)
reference = weakref.ref(obj)
assert reference() is obj
assert weakref.ref(obj) is reference
proxy = weakref.proxy(obj)
assert len(proxy) == len(obj)
called = []
own = weakref.ref(obj, called.append)
assert own() is obj
table = weakref.WeakKeyDictionary({obj: 1})
assert table[obj] == 1
del own, proxy, table
gc.collect()
assert called == []
assert reference() is obj
result = id(reference)
"""
)
PLAIN_WEAK = WEAK.replace("proxy = ", "#").replace("assert len(proxy)", "#").replace(
    "own = ", "#").replace("assert own()", "#").replace("table = ", "#").replace(
    "assert table", "#").replace("del own", "#")  # fmt: skip


def test_weak_references_from_several_interpreters(apart):
    """A plain weakref.ref of a frozenset is always the same object, in every interpreter."""

    def work():
        data = handle_of(freeze({"x", "y", (1, 2.5)}))
        scope = {"data": data}
        exec(PLAIN_WEAK, scope)
        with Interpreter() as one, Interpreter() as two:
            for interpreter in (one, two, one):
                assert interpreter.ask(PLAIN_WEAK, data=data) == scope["result"]
        exec(PLAIN_WEAK, scope)
        with Interpreter() as three:
            assert three.ask(PLAIN_WEAK, data=data) == scope["result"]
        audit()

    apart(work)


WEAK_TO_THE_END = """
from interpreters import Interpreter
from permaheap import freeze, share
import weakref
frozen = freeze({"x", "y"})
reference = weakref.ref(frozen)
code = "import permaheap, weakref; " \\
       "reference = weakref.ref(permaheap.Handle.from_bytes(data).get())"
one, two = Interpreter(), Interpreter()
for interpreter in (one, two):
    interpreter.run(code, data=bytes(share(frozen)))
one.close()
assert reference() is frozen
two.close()
assert reference() is frozen and weakref.ref(frozen) is reference
print("fine")
"""


def test_weak_references_until_the_end(run):
    done = run(WEAK_TO_THE_END)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


@pytest.mark.skipif(READ_ONLY, reason="interning writes the state of a str")
def test_names_interned_in_several_interpreters(run):
    """The same frozen str is an attribute's name everywhere, until each interpreter has ended."""
    code = """
from interpreters import Interpreter
import sys, threading
import permaheap
names = permaheap.freeze([f"attribute number {i}" for i in range(200)])
code = '''
import permaheap, sys
names = permaheap.Handle.from_bytes(data).get()
class Thing: pass
for turn in range(20):
    for name in names:
        setattr(Thing, name, turn)
        assert getattr(Thing(), name) == turn
        assert sys.intern(name) == name
    permaheap.freeze([f"name {turn}", turn * 1.5])
'''
data = bytes(permaheap.share(names))
interpreters = [Interpreter() for _ in range(3)]
threads = [threading.Thread(target=i.run, args=[code], kwargs={"data": data}) for i in interpreters]
for thread in threads: thread.start()
exec(code)
for thread in threads: thread.join()
for interpreter in interpreters: interpreter.close()
exec(code)
assert names == tuple(f"attribute number {i}" for i in range(200))
print("fine")
"""
    done = run(code)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


# --- datetime -------------------------------------------------------------------------------------


def moments():
    zone = timezone(timedelta(hours=5, minutes=30), "zone")
    return [
        datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
        datetime(2026, 1, 2, tzinfo=zone),
        date(2026, 5, 6),
        timedelta(1, 2, 3),
        zone,
        UTC,
    ]


DATES = (
    IMPORT
    + """
import signal
import sys
before = "datetime" in sys.modules
moments = resolve(data)
import datetime
assert type(moments[0]) is datetime.datetime
assert moments[0] == datetime.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=datetime.UTC)
assert moments[1].utcoffset() == datetime.timedelta(hours=5, minutes=30)
assert moments[5] is datetime.UTC
result = [[str(m) for m in moments], [hash(m) for m in moments], str(moments[0] - moments[1])]
"""
)


@pytest.mark.skipif(sys.version_info < (3, 13), reason="there are none in interpreters of 3.12")
def test_datetimes(apart):
    def work():
        data = handle_of(freeze(moments()))
        scope = {"data": data}
        exec(DATES, scope)
        for _ in range(3):
            with Interpreter() as one, Interpreter() as two:
                assert one.ask(DATES, data=data) == scope["result"]
                assert two.ask(DATES, data=data) == scope["result"]
        # Parts of such a block, and static ones: found before anything has imported datetime.
        for obj in (resolve(data)[2], resolve(data)[4], UTC):
            with Interpreter() as interpreter:
                code = IMPORT + "result = [id(resolve(data)), str(resolve(data))]"
                assert interpreter.ask(code, data=handle_of(obj)) == [id(obj), str(obj)]
        with Interpreter() as interpreter:
            code = (
                IMPORT
                + """
import datetime
frozen = freeze([datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), datetime.timedelta(5)])
result = handle_of(frozen).hex()
"""
            )
            made = interpreter.ask(code)
        assert resolve(bytes.fromhex(made)) == (datetime(2026, 1, 2, tzinfo=UTC), timedelta(5))
        audit()

    apart(work)


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="datetime loads there")
def test_datetimes_are_refused_clearly(apart):
    def work():
        frozen = freeze([moments()[0], "text"])
        with Interpreter() as interpreter:
            code = (
                IMPORT
                + """
try:
    resolve(data)
except ImportError as error:
    result = str(error)
"""
            )
            assert "datetime" in interpreter.ask(code, data=handle_of(frozen))
            other = handle_of(freeze([1.5, "text"]))
            interpreter.run(IMPORT + "assert resolve(data) == (1.5, 'text')", data=other)
        assert frozen[0] == moments()[0]

    apart(work)


# --- What comes with 3.14 -------------------------------------------------------------------------


POOL = """
from concurrent.futures import InterpreterPoolExecutor
from interpreters import describe
import permaheap
frozen = permaheap.freeze([{"row": i} for i in range(100)])
if __name__ == "__main__":
    with InterpreterPoolExecutor(3) as pool:
        results = list(pool.map(describe, [permaheap.share(frozen)] * 30))
    for address, size, handle in results:
        assert (address, size) == (id(frozen), 100)
        assert handle.get()["made"] == (id(frozen), "there")
    permaheap._core._testing.check()
    print("fine")
"""

QUEUES = """
from concurrent import interpreters
import threading
import permaheap
questions, answers = interpreters.create_queue(), interpreters.create_queue()
interpreter = interpreters.create()
interpreter.prepare_main(questions=questions, answers=answers)
def serve():
    interpreter.exec('''
import permaheap
while (handle := questions.get()) is not None:
    obj = handle.get()
    answers.put((id(obj), permaheap.share(permaheap.freeze([obj, "answer"]))))
''')
thread = threading.Thread(target=serve)
thread.start()
for turn in range(50):
    frozen = permaheap.freeze({"turn": [turn, turn * 1.5]})
    questions.put(permaheap.share(frozen))
    address, handle = answers.get()
    assert address == id(frozen)
    assert handle.get()[0] is frozen
questions.put(None)
thread.join()
interpreter.close()
permaheap._core._testing.check()
print("fine")
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="new in 3.14")
@pytest.mark.parametrize("code", [POOL, QUEUES], ids=["pool", "queues"])
def test_ways_between_interpreters(run, code):
    done = run(code)
    assert (done.stdout, done.returncode) == ("fine\n", 0), done.stderr


def test_failures_are_noticed(apart):
    """These tests can fail."""
    with pytest.raises(Exception, match="ZeroDivisionError"):
        apart(lambda: Interpreter().run("1 / 0"))
    assert issubclass(Failed, Exception)
    assert share(freeze([1.5])).get() == (1.5,)


@pytest.mark.skipif(sys.version_info[:3] != (3, 12, 1), reason="mended in other versions")
@pytest.mark.parametrize("call", ["dumps(1, 5, buffer_callback=id)", "loads(dumps(1), buffers=[])"])
def test_why_3_12_1_cannot_pickle_for_channels_in_interpreters(run, call):
    """It frees, at its end, a tuple of keywords that belongs to an interpreter that is gone.

    This is without permaheap, and shows why tests leave such messages out on that version.
    """
    code = f"""
import _xxsubinterpreters as api
other = api.create()
api.run_string(other, "from pickle import dumps, loads; {call}")
api.destroy(other)
"""
    # It may free anything: mostly it aborts or crashes, sometimes nothing happens.
    assert any(run(code).returncode < 0 for _ in range(20))
