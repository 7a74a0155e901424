"""Old extensions that count references on frozen objects, wrongly, a hundred million times."""

import sys
import threading

import pytest

import permaheap
from compile import compile_extension
from interpreters import Interpreter
from permaheap import freeze, is_frozen, thaw
from processes import READ_ONLY, Child, audit, handle_of, resolve

pytestmark = pytest.mark.skipif(READ_ONLY, reason="a stray write is SIGSEGV in this mode")

MANY = 100_000_000
STAYS_IMMORTAL = sys.version_info >= (3, 14)  # the old macro writes leave the object immortal


@pytest.fixture(scope="module")
def stray(tmp_path_factory):
    """Build the old extension; return the folder to import it from."""
    folder = tmp_path_factory.mktemp("stray")
    # These versions warn of nothing; casts of functions to void * are the old API's way.
    compile_extension("stray", folder, "-Wno-pedantic")
    return str(folder)


GIVEN = {
    "rows": [{"id": 10**6 + i, "name": f"name {i}", "at": i / 7} for i in range(200)],
    "sets": [{f"element {i}", (i, 2.5)} for i in range(20)],
    "big": 10**30,
    "bytes": b"some bytes",
    "text": "caf\xe9 \u20ac",
}


def victims(frozen):
    """Return a frozen object of each kind."""
    return [frozen["rows"], frozen["rows"][3], frozen["rows"][3]["name"], frozen["sets"][5],
            frozen["big"], frozen["bytes"], frozen["text"], frozen["rows"][3]["at"]]  # fmt: skip


def miscount(name, objects, total):
    """Count the first object wrongly, total times, and the others less often."""
    import stray

    for i, obj in enumerate(objects):
        getattr(stray, name)(obj, total // 100 if i else total)


def immortal(obj):
    """Does the interpreter's own DECREF leave this object alone? (3.14+)

    After unmatched DECREFs INCREF counts again, up to where it began; nothing counts down.
    """
    return sys._is_immortal(obj)


def work_beside(pipe, stray, name, data, total):
    """A worker with an old extension: return what the checker says there in the end."""
    sys.path.insert(0, stray)
    frozen = resolve(data)
    objects = victims(frozen)
    miscount(name, objects, total)
    assert thaw(frozen) == thaw(freeze(GIVEN))
    assert all(is_frozen(obj) for obj in objects)
    if STAYS_IMMORTAL:
        assert all(immortal(obj) for obj in objects)
    return complaint()


def complaint():
    """Return what the checker says of this process's copies."""
    try:
        permaheap._core._testing.check()
    except AssertionError as error:
        return str(error)
    return ""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["incref", "decref"])
def test_a_hundred_million_in_forked_workers(stray, name):
    frozen = freeze(GIVEN)
    expected = thaw(frozen)
    counts = [sys.getrefcount(obj) for obj in victims(frozen)]
    data = handle_of(frozen)
    with (
        Child(work_beside, stray, name, data, MANY) as one,
        Child(work_beside, stray, name, data, MANY // 10) as two,
    ):
        drifts = one.join(), two.join()
    for drift in drifts:
        assert "reference count that has drifted" in drift
    # Neither the parent nor anybody it forks later sees anything of it.
    assert thaw(frozen) == expected
    assert [sys.getrefcount(obj) for obj in victims(frozen)] == counts
    with Child(lambda pipe: permaheap._core._testing.check() and thaw(resolve(data))) as sibling:
        assert sibling.join() == expected
    audit()


IN_AN_INTERPRETER = """
import sys
sys.path.insert(0, folder)
import permaheap, stray
frozen = permaheap.Handle.from_bytes(data).get()
objects = [frozen["rows"], frozen["rows"][3], frozen["rows"][3]["name"], frozen["sets"][5],
           frozen["big"], frozen["bytes"], frozen["text"], frozen["rows"][3]["at"]]
for i, obj in enumerate(objects):
    getattr(stray, name)(obj, total // 100 if i else total)
assert len(frozen["rows"]) == 200 and frozen["rows"][3]["name"] == "name 3"
assert all(permaheap.is_frozen(obj) for obj in objects)
"""


@pytest.mark.slow
@pytest.mark.parametrize("names", [("incref", "incref"), ("decref", "decref")], ids=lambda n: n[0])
def test_a_hundred_million_in_two_interpreters(stray, names):
    """Both write to the same words of their process's copy, at once."""
    frozen = freeze(GIVEN)
    expected = thaw(frozen)
    data = handle_of(frozen)

    def work(pipe):
        interpreters = [Interpreter(), Interpreter()]
        failures = []

        def run(interpreter, name):
            try:
                interpreter.run(IN_AN_INTERPRETER, folder=stray, data=data, name=name, total=MANY)
            except BaseException as failure:
                failures.append(failure)

        threads = [
            threading.Thread(target=run, args=pair)
            for pair in zip(interpreters, names, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for interpreter in interpreters:
            interpreter.close()
        assert failures == []
        assert thaw(frozen) == expected
        if STAYS_IMMORTAL:
            assert all(immortal(obj) for obj in victims(frozen))
        assert thaw(freeze([frozen["rows"][0], "more"]))[1] == "more"
        return complaint()

    with Child(work) as child:
        assert "reference count that has drifted" in child.join()
    assert thaw(frozen) == expected
    audit()


def test_the_old_extension_does_count(stray):
    """These tests can fail: it changes the count of an ordinary object."""
    import stray as module

    obj = object()
    before = sys.getrefcount(obj)
    module.incref(obj, 1000)
    assert sys.getrefcount(obj) == before + 1000
    module.decref(obj, 1000)
    assert sys.getrefcount(obj) == before
