"""Naming permanent objects by 40 bytes."""

import copy
import os
import pickle
import random

import pytest

import permaheap
from permaheap import Handle, HandleError, freeze, share
from twin import Mapping

FROZEN = freeze(
    {"list": [1.5, "some text", {"deep": [10**20]}], "set": {1, 2}, "bytes": b"some bytes",
     "other": [slice(1, 5000), range(10**6), 3 + 4j]}
)  # fmt: skip


def parts():
    """Return a permanent object of each kind."""
    inner = FROZEN["list"]
    return [FROZEN, inner, *inner, inner[2]["deep"], inner[2]["deep"][0], FROZEN["set"],
            FROZEN["bytes"], FROZEN["other"], *FROZEN["other"]]  # fmt: skip


@pytest.mark.parametrize("obj", parts(), ids=lambda obj: type(obj).__name__)
def test_any_permanent_object_has_a_handle(obj):
    handle = share(obj)
    assert type(handle) is Handle
    assert handle.get() is obj
    assert len(bytes(handle)) == 40
    assert Handle.from_bytes(bytes(handle)).get() is obj


def test_handles_of_one_object_are_equal():
    one, two, other = share(FROZEN), share(FROZEN), share(FROZEN["list"])
    assert one == two == Handle.from_bytes(bytes(one))
    assert hash(one) == hash(two)
    assert bytes(one) == bytes(two)
    assert one != other
    assert bytes(one) != bytes(other)
    assert one != bytes(one)
    assert (one == 5) is False
    assert len({one, two, other}) == 2
    with pytest.raises(TypeError):
        one < two  # noqa: B015 - the comparison itself must fail


def test_repr():
    text = repr(share(FROZEN))
    assert "Handle" in text
    assert text == repr(share(FROZEN))
    assert text != repr(share(FROZEN["list"]))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dumps", [pickle.dumps, pickle._dumps], ids=["C", "Python"])
def test_pickle(protocol, dumps):
    handle = share(FROZEN["list"])
    pickled = dumps([handle, handle], protocol)
    assert len(pickled) < 250
    for loaded in pickle.loads(pickled):
        assert loaded == handle
        assert loaded.get() is FROZEN["list"]


def test_copy():
    handle = share(FROZEN)
    assert copy.copy(handle) == handle
    assert copy.deepcopy([handle])[0].get() is FROZEN


def test_handle_is_a_value():
    handle = share(FROZEN)
    with pytest.raises(AttributeError):
        handle.attribute = 1
    with pytest.raises(TypeError):
        type("Sub", (Handle,), {})
    with pytest.raises(TypeError):
        Handle()


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_from_bytes_takes_bytes(kind):
    data = bytes(share(FROZEN))
    if kind is bytes:
        assert Handle.from_bytes(kind(data)).get() is FROZEN
        return
    try:
        handle = Handle.from_bytes(kind(data))
    except TypeError:
        return
    assert handle.get() is FROZEN


@pytest.mark.parametrize("size", [0, 1, 39, 41, 80, 1000])
def test_wrong_length(size):
    with pytest.raises((HandleError, ValueError), match="40"):
        Handle.from_bytes((bytes(share(FROZEN)) * 30)[:size])


@pytest.mark.parametrize("obj", [None, "text", 5, [1]], ids=repr)
def test_from_what_is_not_bytes(obj):
    with pytest.raises(TypeError):
        Handle.from_bytes(obj)


def resolve(data):
    """Make a handle of bytes and resolve it."""
    return Handle.from_bytes(bytes(data)).get()


def test_every_flipped_bit_is_noticed():
    data = bytes(share(FROZEN["list"]))
    for bit in range(320):
        forged = bytearray(data)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(HandleError):
            resolve(forged)
    assert resolve(data) is FROZEN["list"]


def test_random_bytes_are_refused():
    rng = random.Random(1)
    for _ in range(20_000):
        with pytest.raises(HandleError):
            resolve(rng.randbytes(40))
    for forged in (bytes(40), b"\xff" * 40):
        with pytest.raises(HandleError):
            resolve(forged)


def test_spliced_handles_are_refused():
    """Pieces of valid handles, put together."""
    handles = [bytes(share(obj)) for obj in (FROZEN, FROZEN["list"], freeze([10**20]))]
    for one in handles:
        for two in handles:
            for at in range(0, 41, 4):
                spliced = one[:at] + two[at:]
                if spliced in handles:
                    resolve(spliced)
                    continue
                with pytest.raises(HandleError):
                    resolve(spliced)


def test_in_children(in_child):
    data = bytes(share(FROZEN["list"]))
    address = id(FROZEN["list"])
    assert in_child(lambda: id(resolve(data))) == address
    pickled = pickle.dumps(Handle.from_bytes(data))
    assert in_child(lambda: id(pickle.loads(pickled).get())) == address


def test_from_a_child(in_child):
    """Parent and siblings resolve an object that a child froze."""

    def work():
        frozen = freeze({"child": [os.getpid(), "caf\xe9", {"deep": {1.5}}]})
        return os.getpid(), id(frozen["child"]), bytes(share(frozen["child"]))

    results = [in_child(work) for _ in range(5)]
    for pid, address, data in results:
        for obj in (resolve(data), Handle.from_bytes(data).get()):
            assert id(obj) == address
            assert obj == (pid, "caf\xe9", Mapping({"deep": frozenset([1.5])}))

    def read():
        return [resolve(data)[0] for _, _, data in results]

    assert in_child(read) == [pid for pid, _, _ in results]
    permaheap._core._testing.check()


def test_many_from_a_child(in_child):
    def work():
        return [bytes(share(freeze([i, str(i) * 100]))) for i in range(1000)]

    assert [resolve(data)[0] for data in in_child(work)] == list(range(1000))


def test_grandchildren(in_child):
    def grandchild():
        return bytes(share(freeze({"grand": ["child"]})))

    data = in_child(lambda: in_child(grandchild))
    assert resolve(data) == Mapping({"grand": ("child",)})


def test_child_points_into_what_a_sibling_froze(in_child):
    """Resolving maps everything that was published: blocks point into each other."""
    first = in_child(lambda: bytes(share(freeze(["x" * 5000, 10**20]))))
    second = in_child(lambda: bytes(share(freeze({"first": resolve(first), "more": ["y" * 5000]}))))
    assert resolve(second)["first"] == ("x" * 5000, 10**20)
    assert resolve(second)["first"] is resolve(first)


FOREIGN = """
import sys, permaheap
permaheap.freeze(["something"])
for data in sys.argv[1:]:
    try:
        permaheap.Handle.from_bytes(bytes.fromhex(data)).get()
    except permaheap.HandleError as error:
        print(error)
"""


def test_from_another_family(run):
    done = run(FOREIGN, bytes(share(FROZEN)).hex(), bytes(share(FROZEN["list"])).hex())
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "family" in line
        assert "fork" in line  # the error tells what to do


def test_in_a_process_that_froze_nothing(run):
    done = run(FOREIGN.replace("permaheap.freeze", "len"), bytes(share(FROZEN)).hex())
    assert done.returncode == 0, done.stderr
    assert "family" in done.stdout


def test_pickled_handle_from_another_family(run):
    """It unpickles anywhere, and only get() complains: it can be carried by outsiders."""
    code = (
        "import sys, pickle, permaheap\n"
        "handle = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "print(bytes(handle).hex())\n"
        "try: handle.get()\n"
        "except permaheap.HandleError as error: print('family' in str(error))"
    )
    handle = share(FROZEN)
    done = run(code, pickle.dumps(handle).hex())
    assert done.stdout.split() == [bytes(handle).hex(), "True"], done.stderr


def test_handles_leave_the_heap_alone(unchanged):
    with unchanged():
        for obj in parts():
            for _ in range(100):
                resolve(bytes(share(obj)))


@pytest.mark.parametrize("name", ["get", "from_bytes"])
def test_wrong_number_of_arguments(name):
    with pytest.raises(TypeError):
        getattr(share(FROZEN), name)(b"", 1)
