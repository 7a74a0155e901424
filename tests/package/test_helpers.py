"""The Python helpers: defaults, json, pickle and copy, multiprocessing contexts."""

import array
import collections
import concurrent.futures
import copy
import copyreg
import dataclasses
import datetime
import decimal
import enum
import ipaddress
import json
import multiprocessing
import os
import pathlib
import pickle
import sqlite3
import subprocess
import sys
import types
import typing
import uuid
from types import MappingProxyType

import pytest

import permaheap
from permaheap import as_dict, builtin_default, family_context, freeze, json_default
from twin import HAS_FROZENDICT, Mapping, assert_same_graph


class Color(enum.Enum):
    RED = 1
    BLUE = ["b", 2]  # noqa: RUF012 - a mutable value on purpose


class Level(enum.IntEnum):
    LOW = 1


class Name(enum.StrEnum):
    ADA = "ada"


class Rights(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


class Point(typing.NamedTuple):
    x: int
    y: list


@dataclasses.dataclass
class Address:
    city: str
    zip: str = "0000"
    count: typing.ClassVar[int] = 0


@dataclasses.dataclass(slots=True, frozen=True)
class Person:
    name: str
    address: Address
    tags: list = dataclasses.field(default_factory=list)


@pytest.mark.parametrize(
    ("given", "converted"),
    [
        (Color.RED, 1),
        (Color.BLUE, ["b", 2]),
        (Level.LOW, 1),
        (Name.ADA, "ada"),
        (Rights.READ | Rights.WRITE, 3),
        (Point(1, [2]), (1, [2])),
        (Address("Riga"), {"city": "Riga", "zip": "0000"}),
        (decimal.Decimal("9.90"), "9.90"),
        (decimal.Decimal("NaN"), "NaN"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (pathlib.PurePosixPath("/a/b"), "/a/b"),
        (pathlib.Path("a"), "a"),
        (pathlib.PureWindowsPath("c:/a"), "c:\\a"),
    ],
    ids=repr,
)
def test_builtin_default(given, converted):
    result = builtin_default(given)
    assert type(result) is type(converted)
    assert result == converted
    frozen = freeze([given], default=builtin_default)
    assert frozen == freeze([converted])


class Model:
    """Has the method of a pydantic model."""

    def model_dump(self):
        return {"name": "Ada", "path": pathlib.PurePosixPath("/a")}


class Attrs:
    """Has what attrs adds to a class."""

    __attrs_attrs__ = (types.SimpleNamespace(name="b"), types.SimpleNamespace(name="a"))
    a, b, c = 1, [2], 3


def subclass(base, *args):
    return type("Mine", (base,), {"__str__": lambda self: "odd", "__repr__": lambda self: "odd"})(
        *args
    )


def moved():
    ordered = subclass(collections.OrderedDict, {"a": 1, "b": 2})
    ordered.move_to_end("a")
    return ordered


def sqlite_row(query):
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    row = connection.execute(query).fetchone()
    connection.close()
    return row


@pytest.mark.parametrize(
    ("given", "converted"),
    [
        (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
        (ipaddress.ip_address("::1"), "::1"),
        (ipaddress.ip_network("10.0.0.0/8"), "10.0.0.0/8"),
        (ipaddress.ip_interface("10.0.0.1/8"), "10.0.0.1/8"),
        (collections.deque([1, [2]]), [1, [2]]),
        (array.array("d", [1.5, 2.5]), [1.5, 2.5]),
        (memoryview(b"bytes")[::-1], b"setyb"),
        (memoryview(array.array("i", [1, -2])), [1, -2]),
        (memoryview(b"abcd").cast("B", (2, 2)), [[97, 98], [99, 100]]),
        (Model(), {"name": "Ada", "path": pathlib.PurePosixPath("/a")}),
        (Attrs(), {"b": [2], "a": 1}),
        (sqlite_row("select 1 a, 'x' b"), {"a": 1, "b": "x"}),
        (subclass(str, "text"), "text"),
        (subclass(bytes, b"bytes"), b"bytes"),
        (subclass(bytearray, b"bytes"), b"bytes"),
        (subclass(int, 5), 5),
        (subclass(float, 1.5), 1.5),
        (subclass(complex, 1j), 1j),
        (subclass(list, [1]), [1]),
        (subclass(tuple, (1,)), (1,)),
        (subclass(set, {1}), {1}),
        (subclass(frozenset, {1}), {1}),
        (subclass(dict, {"a": [1]}), {"a": [1]}),
        (subclass(collections.Counter, "aab"), {"a": 2, "b": 1}),
        (moved(), {"b": 2, "a": 1}),
        (collections.UserDict(a=1), {"a": 1}),
        (collections.ChainMap({"a": 1}, {"a": 2, "b": 3}), {"a": 1, "b": 3}),
        (subclass(datetime.date, 2026, 11, 30), datetime.date(2026, 11, 30)),
    ],
)
def test_builtin_default_knows_more(given, converted):
    result = builtin_default(given)
    assert type(result) is type(converted)
    assert result == converted
    if isinstance(converted, dict):
        assert list(result) == list(converted)
    expected = freeze([converted], default=builtin_default)
    assert freeze([given], default=builtin_default) == expected


def test_builtin_default_keeps_no_column_from_another():
    with pytest.raises(permaheap.FreezeError, match="two columns"):
        freeze([sqlite_row("select 1 a, 2 a")], default=builtin_default)


def test_builtin_default_asks_classes_not_instances():
    odd = types.SimpleNamespace(model_dump=dict, __attrs_attrs__=(), __dataclass_fields__={})
    for obj in (odd, Model, Attrs):
        with pytest.raises(permaheap.FreezeError):
            builtin_default(obj)


def test_builtin_default_goes_one_level_and_freeze_the_rest():
    person = Person("Ada", Address("London"), [Color.BLUE, Point(1, [uuid.UUID(int=1)])])
    frozen = freeze({"p": person, "again": person}, default=builtin_default)
    assert frozen["p"] is frozen["again"]
    assert frozen["p"] == freeze(
        {
            "name": "Ada",
            "address": {"city": "London", "zip": "0000"},
            "tags": [["b", 2], (1, ["00000000-0000-0000-0000-000000000001"])],
        }
    )
    assert list(frozen["p"]) == ["name", "address", "tags"]


def test_builtin_default_names_the_field_in_the_path():
    with pytest.raises(TypeError) as caught:
        freeze([Person("Ada", Address(object()))], default=builtin_default)
    assert "data[0].address.city" in str(getattr(caught.value, "__notes__", ""))


@pytest.mark.parametrize(
    "obj", [object(), Color, Point, Person, {1}.__iter__, range, types, 1j], ids=repr
)
def test_builtin_default_refuses(obj):
    with pytest.raises(TypeError, match=type(obj).__name__):
        builtin_default(obj)


def test_builtin_default_as_key():
    frozen = freeze({Color.RED: 1, uuid.UUID(int=2): 2, Point(1, ()): 3}, default=builtin_default)
    assert list(frozen) == [1, str(uuid.UUID(int=2)), (1, ())]


def test_builtin_default_on_numpy_scalars():
    numpy = pytest.importorskip("numpy")
    scalars = {
        numpy.int64(5): 5,
        numpy.uint8(200): 200,
        numpy.float64(1.5): 1.5,
        numpy.float32(0.5): 0.5,
        numpy.bool_(True): True,
        numpy.complex128(2j): 2j,
        numpy.str_("text"): "text",
        numpy.bytes_(b"bytes"): b"bytes",
    }
    for scalar, converted in scalars.items():
        result = builtin_default(scalar)
        assert type(result) is type(converted)
        assert freeze([scalar], default=builtin_default) == (converted,)
    moment = builtin_default(numpy.datetime64("2026-11-22"))
    assert (moment.year, moment.day) == (2026, 22)
    for refused in (numpy.array([1]), numpy.longdouble(1), numpy.dtype("int8")):
        with pytest.raises(TypeError):
            builtin_default(refused)


def test_builtin_default_on_numpy_dates():
    """The value is kept exactly, or refused: item() of some is a bare int."""
    numpy = pytest.importorskip("numpy")
    moment = numpy.datetime64("2026-11-30T12:00:00.000001", "us")
    expected = datetime.datetime(2026, 11, 30, 12, 0, 0, 1)
    for unit in ("us", "ns"):
        assert builtin_default(moment.astype(f"M8[{unit}]")) == expected
    assert builtin_default(numpy.timedelta64(5000, "ns")) == datetime.timedelta(microseconds=5)
    assert builtin_default(numpy.timedelta64(5, "s")) == datetime.timedelta(seconds=5)
    assert builtin_default(numpy.datetime64("NaT", "ns")) is None
    assert builtin_default(numpy.timedelta64("NaT", "ns")) is None
    for refused in (
        moment.astype("M8[ns]") + numpy.timedelta64(1, "ns"),
        numpy.timedelta64(5, "ns"),
        numpy.timedelta64(5, "Y"),
        numpy.datetime64("20000-01-01", "D"),
    ):
        with pytest.raises(permaheap.FreezeError, match="no object of datetime has the value"):
            freeze([refused], default=builtin_default)


@pytest.mark.parametrize("size", [0, 1, 29, 30, 31, 1000])
@pytest.mark.parametrize("kind", [str, int])
def test_as_dict(size, kind):
    frozen = freeze({kind(i): [i, {"deep": i}] for i in range(size)})
    plain = as_dict(frozen)
    assert type(plain) is dict
    assert list(plain.items()) == list(frozen.items())
    assert all(plain[key] is frozen[key] for key in frozen)
    plain["new"] = 1
    assert "new" not in frozen
    assert as_dict(frozen) == frozen


def test_as_dict_of_other_mappings():
    given = {"b": [1], "a": 2}
    for mapping in (
        given,
        MappingProxyType(given),
        collections.OrderedDict(given),
        MappingProxyType(collections.OrderedDict(given)),
        MappingProxyType(collections.UserDict(given)),
        collections.UserDict(given),
    ):
        plain = as_dict(mapping)
        assert (type(plain), list(plain.items())) == (dict, list(given.items()))
        assert plain is not mapping
        assert plain["b"] is given["b"]
    for wrong in ([("a", 1)], None, {1}, (), "ab", dict):
        with pytest.raises(TypeError):
            as_dict(wrong)


def test_as_dict_is_what_sqlite_takes():
    row = freeze({"a": 1, "b": "x"})
    with sqlite3.connect(":memory:") as db:
        assert db.execute("select :a, :b", as_dict(row)).fetchone() == (1, "x")
    db.close()


def test_builtin_default_imports_nothing():
    code = (
        "import sys, permaheap\n"
        "try: permaheap.builtin_default(object())\n"
        "except TypeError: pass\n"
        "print(*sorted({'numpy', 'decimal', 'uuid', 'dataclasses_x', 'multiprocessing'}"
        " & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("obj", "converted"),
    [
        (MappingProxyType({"a": [1]}), {"a": [1]}),
        (MappingProxyType({}), {}),
        (Mapping({"a": 1}), {"a": 1}),
        (frozenset([1]), [1]),
        (frozenset(), []),
        ({1}, [1]),
        (range(3), [0, 1, 2]),
    ],
    ids=repr,
)
def test_json_default(obj, converted):
    result = json_default(obj)
    assert type(result) is type(converted)
    assert result == converted
    assert json.loads(json.dumps(freeze([obj]), default=json_default)) == [converted]


def test_json_default_of_a_proxy_over_something_else():
    class Odd(dict):
        def copy(self):
            return [("a", 1)]

    assert json_default(MappingProxyType(Odd(a=2))) == {"a": 1}


@pytest.mark.parametrize("obj", [b"x", 1j, ..., object(), slice(1)], ids=repr)
def test_json_default_refuses(obj):
    with pytest.raises(TypeError, match=type(obj).__name__):
        json_default(obj)
    with pytest.raises(TypeError):
        json.dumps([obj], default=json_default)


GRAPH = {
    "a": [1, 2.5, None, True, {"b": "caf\xe9 \U0001f600"}],
    "c": {},
    "d": [],
    "e": {"f": {"g": {}}},
}


def test_json_text_is_the_same():
    frozen = freeze(GRAPH)
    for options in ({}, {"indent": 2}, {"sort_keys": True}, {"separators": (",", ":")}):
        assert json.dumps(frozen, default=json_default, **options) == json.dumps(GRAPH, **options)


def test_orjson_text_is_the_same():
    orjson = pytest.importorskip("orjson")
    assert orjson.dumps(freeze(GRAPH), default=json_default) == orjson.dumps(GRAPH)


@pytest.mark.skipif(HAS_FROZENDICT, reason="json takes frozendict")
def test_json_refuses_a_proxy_without_help():
    with pytest.raises(TypeError, match="mappingproxy"):
        json.dumps(freeze({"a": 1}))


@pytest.fixture
def reducers():
    """Register the reducers for one test only."""
    before = dict(copyreg.dispatch_table)
    permaheap.register_reducers()
    yield
    copyreg.dispatch_table.clear()
    copyreg.dispatch_table.update(before)


@pytest.fixture
def no_reducers():
    """Take the reducers away for one test."""
    reducer = copyreg.dispatch_table.pop(MappingProxyType, None)
    yield
    if reducer is not None:
        copyreg.dispatch_table[MappingProxyType] = reducer


@pytest.mark.skipif(HAS_FROZENDICT, reason="pickle and copy take frozendict")
@pytest.mark.usefixtures("no_reducers")
def test_nothing_is_registered_by_importing():
    code = (
        "import copyreg, types, permaheap\nprint(types.MappingProxyType in copyreg.dispatch_table)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    with pytest.raises(TypeError):
        pickle.dumps(freeze({"a": 1}))
    with pytest.raises(TypeError):
        copy.deepcopy(freeze({"a": 1}))


def test_register_reducers_twice(reducers):
    table = dict(copyreg.dispatch_table)
    permaheap.register_reducers()
    assert dict(copyreg.dispatch_table) == table
    assert (MappingProxyType in table) is not HAS_FROZENDICT


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dumps", [pickle.dumps, pickle._dumps], ids=["C", "Python"])
@pytest.mark.parametrize("loads", [pickle.loads, pickle._loads], ids=["C", "Python"])
def test_pickle(reducers, protocol, dumps, loads):
    if HAS_FROZENDICT and protocol < 2:
        pytest.skip("a frozendict needs protocol 2 or later")
    shared = {"s": [1]}
    frozen = freeze({"a": GRAPH, "one": shared, "two": shared, "other": {"s": [1]}})
    loaded = loads(dumps(frozen, protocol))
    assert_same_graph(loaded, frozen, frozen=False)
    assert loaded["one"] is loaded["two"]
    assert loaded["one"] is not loaded["other"]
    assert type(loaded) is Mapping
    assert not permaheap.is_frozen(loaded)


def test_pickle_in_a_fresh_process(reducers):
    """Unpickling needs no registration."""
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer)['a']['b'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps(freeze({"a": {"b": 5}})),
        capture_output=True,
        check=True,
    )
    assert done.stdout == b"5\n"


def test_pickle_of_an_ordinary_proxy(reducers):
    proxy = MappingProxyType({"a": MappingProxyType({"b": 1})})
    if not HAS_FROZENDICT:
        assert pickle.loads(pickle.dumps(proxy)) == proxy


def test_unpickled_is_read_only(reducers):
    loaded = pickle.loads(pickle.dumps(freeze({"a": 1})))
    with pytest.raises(TypeError):
        loaded["a"] = 2


def test_copy(reducers):
    frozen = freeze({"a": [1, {"b": 2}], "c": {"d": 3}})
    shallow = copy.copy(frozen)
    assert type(shallow) is Mapping
    assert shallow == frozen
    assert shallow["a"] is frozen["a"]
    deep = copy.deepcopy(frozen)
    assert type(deep) is Mapping
    assert deep == frozen
    assert repr(deep) == repr(frozen)


def test_deepcopy_keeps_sharing(reducers):
    shared = {"s": 1}
    deep = copy.deepcopy(freeze([shared, shared, {"s": 1}]))
    assert deep[0] is deep[1]
    assert deep[0] is not deep[2]


def _sum(handle):
    return sum(handle.get()["numbers"])


def _address(handle):
    return id(handle.get())


def test_family_context():
    context = family_context()
    assert context.get_start_method() == "fork"
    assert family_context("fork") is context
    frozen = freeze({"numbers": list(range(1000, 2000))})
    with context.Pool(2) as pool:
        handles = [permaheap.share(frozen)] * 4
        assert pool.map(_sum, handles) == [sum(range(1000, 2000))] * 4
        assert pool.map(_address, handles) == [id(frozen)] * 4


def test_family_context_for_futures():
    frozen = freeze({"numbers": [1000, 2000]})
    with concurrent.futures.ProcessPoolExecutor(2, mp_context=family_context()) as pool:
        assert pool.submit(_sum, permaheap.share(frozen)).result() == 3000


def test_queue_of_handles():
    context = family_context()
    queue = context.Queue()
    process = context.Process(target=_freeze_and_send, args=(queue,))
    process.start()
    handle = queue.get()
    process.join()
    assert handle.get() == freeze({"from": ["child", 10**20]})


def _freeze_and_send(queue):
    queue.put(permaheap.share(freeze({"from": ["child", 10**20]})))


@pytest.mark.parametrize("method", ["forkserver", "spawn", "nonsense"])
def test_family_context_of_outsiders(method):
    with pytest.raises(ValueError, match="set_forkserver_preload") as caught:
        family_context(method)
    assert repr(method) in str(caught.value)


PRELOADED = """
import permaheap
DATA = permaheap.freeze({"made by": "the fork server", "list": [1.5, 10**20]})
"""

FORKSERVER = """
import multiprocessing, os, permaheap

def work(connection, received):
    import preloaded_data
    if received is None:
        connection.send_bytes(bytes(permaheap.share(preloaded_data.DATA)))
    else:
        connection.send(permaheap.Handle.from_bytes(received).get() is preloaded_data.DATA)

def ask(context, received=None):
    here, there = context.Pipe()
    process = context.Process(target=work, args=(there, received))
    process.start()
    there.close()
    answer = here.recv_bytes() if received is None else here.recv()
    process.join()
    return answer

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["preloaded_data"])
    handle = ask(context)
    print(ask(context, handle))
    try:
        permaheap.Handle.from_bytes(handle).get()
    except permaheap.HandleError as error:
        print("outside:", "family" in str(error))
"""


def test_forkserver_recipe(tmp_path):
    """Children of a fork server that froze the data share it with each other."""
    (tmp_path / "preloaded_data.py").write_text(PRELOADED)
    (tmp_path / "main.py").write_text(FORKSERVER)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "main.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.split("\n")[:2]) == (0, ["True", "outside: True"]), (
        done.stderr
    )


def test_public_names():
    assert set(permaheap.__all__) <= set(dir(permaheap))
    assert permaheap.__version__.count(".") == 2
    for name in permaheap.__all__:
        if not name.startswith("__"):
            assert getattr(permaheap, name).__doc__, name


def test_default_start_method_is_left_alone():
    method = multiprocessing.get_start_method()
    family_context()
    assert multiprocessing.get_start_method() == method
