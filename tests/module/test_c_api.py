"""permaheap for other extensions: one that is built against the installed header."""

import importlib
import sys
from pathlib import Path

import pytest

import permaheap
from compile import compile_extension
from interpreters import Interpreter
from permaheap import FreezeError, Handle, freeze, share
from processes import Child, audit

INSTALLED = Path(permaheap.__file__).parent / "include"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("consumer")
    compile_extension("consumer", made, "-Wextra", "-Wno-missing-field-initializers",
                      includes=[INSTALLED])  # fmt: skip
    return str(made)


@pytest.fixture
def consumer(folder):
    return importlib.import_module("consumer")


def test_header_is_installed():
    assert (INSTALLED / "permaheap.h").is_file()


def test_version(consumer):
    assert consumer.version() == 1


def test_freeze(consumer):
    frozen = consumer.freeze({"a": [1.5, {"x"}]})
    assert frozen["a"] == (1.5, frozenset("x"))
    assert permaheap.is_frozen(frozen)
    audit()


def test_freeze_with_default(consumer):
    assert consumer.freeze([object()], lambda obj: ["by default"]) == (("by default",),)


def test_freeze_that_fails(consumer):
    used = permaheap.stats().used
    with pytest.raises(FreezeError, match="object") as caught:
        consumer.freeze({"a": [1.5, object()]})
    assert caught.value.path == 'data["a"][1]'
    with pytest.raises(ZeroDivisionError):
        consumer.freeze([object()], lambda obj: 1 / 0)
    assert permaheap.stats().used == used


def test_is_frozen(consumer):
    frozen = freeze([10**20, [2.5]])
    assert [consumer.is_frozen(obj) for obj in (frozen, frozen[0], frozen[1], None)] == [1] * 4
    assert [consumer.is_frozen(obj) for obj in ([1], 10**21, object(), consumer)] == [0] * 4


def test_share_and_resolve(consumer):
    frozen = freeze({"a": [1.5]})
    handle = consumer.share(frozen)
    assert type(handle) is Handle
    assert handle == share(frozen)
    assert consumer.resolve(handle) is frozen
    assert handle.get() is frozen
    with pytest.raises(TypeError, match="not a permanent object"):
        consumer.share([1.5])


def test_resolve_what_is_no_handle(consumer):
    forged = bytearray(bytes(share(freeze([1.5]))))
    forged[30] ^= 1
    with pytest.raises(permaheap.HandleError):
        consumer.resolve(Handle.from_bytes(bytes(forged)))
    for obj in (bytes(forged), None, 5, object()):
        with pytest.raises(TypeError, match="Handle"):
            consumer.resolve(obj)


def test_references_are_counted(consumer):
    """An object that is not frozen is neither kept nor lost."""
    given = ["text", object()]
    handle = share(freeze([1.5]))
    before = sys.getrefcount(given[1]), sys.getrefcount(handle), sys.getrefcount(given)
    for _ in range(1000):
        consumer.freeze(given, lambda obj: [1])
        consumer.is_frozen(given)
        consumer.resolve(handle)
    assert (sys.getrefcount(given[1]), sys.getrefcount(handle), sys.getrefcount(given)) == before


def test_in_a_child(consumer):
    with Child(lambda pipe: consumer.share(consumer.freeze(["child", 2.5]))) as child:
        assert consumer.resolve(child.join()) == ("child", 2.5)


def test_in_an_interpreter(folder):
    """The types of its exceptions and handles are those of the calling interpreter."""
    code = """
import sys
sys.path.insert(0, folder)
import consumer, permaheap
frozen = consumer.freeze(["interpreter", 2.5])
handle = consumer.share(frozen)
assert type(handle) is permaheap.Handle and consumer.resolve(handle) is frozen
try:
    consumer.freeze([object()])
except permaheap.FreezeError as error:
    assert error.path == "data[0]"
result = bytes(handle).hex()
"""
    with Interpreter() as interpreter:
        data = interpreter.ask(code, folder=folder)
    assert Handle.from_bytes(bytes.fromhex(data)).get() == ("interpreter", 2.5)


def test_import_without_permaheap(run, folder):
    """Without permaheap, such an extension fails to import, with an ordinary error."""
    code = "import sys; sys.modules['permaheap._core'] = None; sys.path.insert(0, sys.argv[1])\n"
    done = run(code + "try: import consumer\nexcept ImportError as e: print('refused')", folder)
    assert done.stdout == "refused\n", done.stderr
