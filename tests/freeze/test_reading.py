"""Reading frozen objects with everything that reads Python objects.

Under PERMAHEAP_SEAL=1 the heap is mapped read-only, so that each of these would end its process
by SIGSEGV if it wrote a single byte. Each runs in a forked child of its own.
"""

import array
import base64
import bisect
import collections
import copy
import datetime
import functools
import gc
import hashlib
import heapq
import io
import itertools
import json
import locale
import marshal
import math
import operator
import os
import pickle
import pprint
import random
import re
import sqlite3
import statistics
import string
import struct
import sys
import textwrap
import threading
import types
import unicodedata
import urllib.parse
import weakref
import zlib
from pathlib import Path

import pytest

import permaheap
from permaheap import freeze
from processes import SEALED
from twin import Mapping

GIVEN = {
    "users": [
        {"id": 1000 + i, "name": f"n\xe4me {i}", "tags": ["x", f"tag{i}"]} for i in range(50)
    ],
    "words": [
        "ascii text", "caf\xe9", "\u65e5\u672c\u8a9e", "\U0001f600 smile", "lone \ud800", "", "a",
    ],
    "numbers": [0, 1, 300, -300, 2**40, 10**100, 0.5, -0.0, float("inf"), float("nan"), 2 + 3j],
    "bytes": [b"", b"x", b"some bytes", bytearray(b"array"), bytes(range(256))],
    "sets": [set(), {1, 2}, {"a", "caf\xe9"}, set(range(1000)), {(1, "a"), frozenset([2])}],
    "dates": [
        datetime.date(2026, 11, 22),
        datetime.time(1, 2, 3, tzinfo=datetime.UTC),
        datetime.datetime(
            2026, 11, 22, 7, 5, tzinfo=datetime.timezone(datetime.timedelta(hours=1))
        ),
        datetime.timedelta(3, 4, 5),
        datetime.timezone(datetime.timedelta(hours=2), "zone"),
    ],
    "others": [None, True, ..., range(1000, 2000, 3), slice(1, 2000, "x"), [], {}],
    "keys": {1: "a", "b": 2, (1, "x" * 30): 3, frozenset([4]): 4, 5.5: 5, None: 6, b"k": 7},
    "table": {f"key {i}": i for i in range(1000)},
    "emptied": {},
}  # fmt: skip

DATA = freeze(GIVEN)
USERS, WORDS, NUMBERS = DATA["users"], DATA["words"], DATA["numbers"]
BYTES, SETS, DATES, KEYS, TABLE = (DATA[k] for k in ("bytes", "sets", "dates", "keys", "table"))
PLAIN_WORDS = tuple(word for word in WORDS if "\ud800" not in word)


def walk(obj):
    """Yield every object of a frozen graph."""
    yield obj
    if isinstance(obj, (tuple, frozenset)):
        for item in obj:
            yield from walk(item)
    elif isinstance(obj, Mapping):
        for key, value in obj.items():
            yield from walk(key)
            yield from walk(value)


def hashable():
    """Return all hashable objects of DATA."""
    found = []
    for obj in walk(DATA):
        try:
            hash(obj)
        except TypeError:
            continue
        found.append(obj)
    return found


READERS = {}


def reader(function):
    """Register a function that reads DATA in every way of one sort."""
    READERS[function.__name__] = function
    return function


@reader
def hashing():
    for _ in range(2):
        assert all(hash(obj) == hash(obj) for obj in hashable())
    assert len({obj: 1 for obj in hashable()}) > 300
    for word in WORDS:
        assert hash(word) == hash("".join(list(word)))
    assert hash(SETS[3]) == hash(frozenset(range(1000)))


@reader
def iterating():
    assert sum(1 for _ in walk(DATA)) > 1000
    assert [*DATA] == [*GIVEN]
    assert [*map(type, DATA.values())].count(tuple) == 7
    assert len([*DATA.items(), *reversed(DATA), *reversed(USERS)]) > 50
    for obj in walk(DATA):
        if hasattr(obj, "__iter__"):
            iterator = iter(obj)
            assert len(list(iterator)) == len(obj)
            assert list(iterator) == []
            assert len(list(itertools.islice(iter(obj), 3))) <= 3


@reader
def looking_up():
    for user in USERS:
        assert user["name"].startswith("n\xe4me")
        assert user.get("absent", 5) == 5
        assert "id" in user
        assert "".join(["i", "d"]) in user
    assert all(TABLE[f"key {i}"] == i for i in range(1000))
    assert all(key in TABLE and TABLE[key] is TABLE.get(key) for key in TABLE)
    assert KEYS[1, "x" * 30] == 3
    assert KEYS[frozenset([4])] == 4
    assert KEYS[1.0] == "a"
    with pytest.raises(KeyError):
        TABLE["absent"]
    for elements in SETS:
        assert all(element in elements for element in elements)
        assert "absent" not in elements
    assert {2} not in SETS[0]
    assert {2} in SETS[4]


@reader
def comparing():
    again = freeze({key: value for key, value in GIVEN.items() if key != "numbers"})
    assert again == {key: value for key, value in DATA.items() if key != "numbers"}
    assert DATA == dict(DATA)
    assert dict(DATA) == DATA
    for obj in walk(DATA):
        assert (obj == obj) is (obj == obj)
        assert (obj != 5) in (True, False)
    assert sorted(WORDS) == sorted(GIVEN["words"])
    assert sorted(USERS, key=lambda user: user["name"], reverse=True)[0]["name"] == "n\xe4me 9"
    assert min(WORDS) == ""
    assert max(BYTES) == b"x"
    assert USERS[0]["tags"] < USERS[1]["tags"]
    assert SETS[1] <= SETS[3]
    assert sum(NUMBERS[:4]) == 1
    assert any(NUMBERS)
    assert not all(NUMBERS)


@reader
def printing():
    for obj in walk(DATA):
        for text in (repr(obj), str(obj), ascii(obj), f"{obj}", f"{obj!r:>5}", "%s" % (obj,)):  # noqa: UP031
            assert isinstance(text, str)
    assert pprint.pformat(DATA)
    assert pprint.saferepr(USERS)
    print(DATA, file=io.StringIO())
    assert "{} {!r}".format(*WORDS[:2]) == "ascii text 'caf\xe9'"
    assert "{users[3][name]}".format_map(DATA) == "n\xe4me 3"
    assert "%(name)s %(id)d" % USERS[0] == "n\xe4me 0 1000"  # noqa: UP031
    assert string.Template("$name!").substitute(USERS[1]) == "n\xe4me 1!"
    assert [f"{number:.3g}" for number in NUMBERS[:5]] == ["0", "1", "300", "-300", "1.1e+12"]


@reader
def slicing():
    for obj in (USERS, WORDS, NUMBERS, BYTES, *WORDS, *BYTES, DATA["others"][3]):
        for part in (slice(None), slice(1, 3), slice(None, None, -1), slice(5, 0, -2)):
            assert len(obj[part]) <= len(obj)
        assert obj[:] == obj or NUMBERS == obj
    assert USERS[0:0] == ()
    assert (USERS + WORDS)[-1] == "a"
    assert (WORDS * 2)[7] == "ascii text"
    first, *rest = WORDS
    assert (first, len(rest)) == ("ascii text", 6)
    assert WORDS.index("a") == 6
    assert NUMBERS.count(1) == 1
    assert list(range(3000))[DATA["others"][4].start :][0] == 1


@reader
def encoding():
    for word in PLAIN_WORDS:
        for codec in ("utf-8", "utf-16", "utf-32", "utf-7", "unicode_escape", "punycode"):
            assert word.encode(codec).decode(codec) == word
        assert len(word.encode("ascii", "replace")) == len(word)
        assert word.encode("latin-1", "xmlcharrefreplace") is not None
        assert base64.b64decode(base64.b64encode(word.encode())) == word.encode()
        assert urllib.parse.unquote(urllib.parse.quote(word)) == word
        assert io.StringIO(word).read() == word
        assert unicodedata.normalize("NFC", word) == word
        assert word.isprintable() in (True, False)
        assert locale.strxfrm(word) is not None
    assert WORDS[4].encode("utf-8", "surrogatepass")
    for _ in range(2):
        with pytest.raises(UnicodeEncodeError):
            WORDS[4].encode()
    for data in BYTES:
        assert data.hex() == binascii_hex(data)
        assert data.decode("latin-1").encode("latin-1") == data


def binascii_hex(data):
    return "".join(f"{byte:02x}" for byte in data)


@reader
def text_methods():
    for word in WORDS:
        for name in ("upper", "lower", "title", "casefold", "swapcase", "capitalize", "strip",
                     "split", "splitlines", "isalpha", "isascii", "isdigit", "isidentifier",
                     "isspace", "istitle", "isupper", "isnumeric", "expandtabs"):  # fmt: skip
            assert getattr(word, name)() == getattr("".join(list(word)), name)()
        assert word.join(PLAIN_WORDS).count(word) >= 1
        assert word.center(30).strip() == word.strip()
        assert word.replace("a", "b") == "".join(list(word)).replace("a", "b")
        assert word.translate({97: "x"}) == word.replace("a", "x")
        assert word.partition(" ")[0] == word.split(" ")[0]
        assert word.startswith(word)
        assert word.endswith(WORDS[5])
        assert word + "!" == f"{word}!"
        assert str(word) is word
        assert textwrap.shorten(word, 5) is not None
    assert ", ".join(WORDS) == ", ".join(GIVEN["words"])
    assert " ".join(WORDS).split() == " ".join(GIVEN["words"]).split()


@reader
def numbers():
    for number in NUMBERS:
        assert number == number or math.isnan(number)
        assert complex(number) is not None
        assert -number is not None
        assert number * 2 + 1 is not None
        assert bool(number) in (True, False)
    assert [int(n) for n in NUMBERS[:6]] == list(NUMBERS[:6])
    assert NUMBERS[5].to_bytes(50, "little")
    assert pow(NUMBERS[5], 3, 1000) == 0
    assert math.gcd(NUMBERS[4], NUMBERS[2]) == 4
    assert struct.pack("<qd", NUMBERS[4], NUMBERS[6])
    assert array.array("q", NUMBERS[:5])[4] == 2**40
    assert statistics.mean(NUMBERS[:4]) == 0.25
    assert divmod(NUMBERS[4], NUMBERS[2]) == divmod(2**40, 300)
    assert NUMBERS[6].hex() == "0x1.0000000000000p-1"
    assert [10, 20][NUMBERS[1]] == 20
    assert int("".join(list("12"))) == 12
    assert range(NUMBERS[2])[-1] == 299
    assert float(freeze("1.5e3")) == 1500.0
    assert int(freeze("12345678901234567890")) == 12345678901234567890


@reader
def set_operations():
    for one, two in itertools.product(SETS, repeat=2):
        assert (one | two) >= one
        assert (one & two) <= one
        assert (one - two).isdisjoint(two)
        assert (one ^ two) == (two ^ one)
        assert one.union(two, [1]) == one | two | {1}
        assert set(one) == one
        assert {*one, *two} == one | two
        assert (one == two) in (True, False)
    assert SETS[3].copy() is SETS[3]
    assert frozenset(SETS[3]) is SETS[3]
    changed = set(SETS[3])
    changed.update(SETS[2])
    changed -= SETS[1]
    assert len(changed) == 1000


@reader
def weak_references():
    references = [weakref.ref(elements) for elements in SETS]
    assert all(ref() is elements for ref, elements in zip(references, SETS, strict=True))
    assert all(weakref.ref(ref()) is ref for ref in references)
    assert weakref.getweakrefcount(SETS[3]) >= 1
    assert weakref.getweakrefs(SETS[3]) == [weakref.ref(SETS[3])]
    assert hash(references[3]) == hash(SETS[3])
    assert references[3] == weakref.ref(SETS[3])
    del references
    gc.collect()
    assert weakref.ref(SETS[3])() is SETS[3]
    with pytest.raises(TypeError):
        weakref.ref(USERS)


@reader
def weak_references_from_threads():
    found = []

    def work():
        found.extend(weakref.ref(elements) for elements in SETS for _ in range(200))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {ref for ref in map(id, found)} == {id(weakref.ref(elements)) for elements in SETS}


@reader
def mapping_conversions():
    assert dict(**USERS[0]) == dict(USERS[0]) == {**USERS[0]} == USERS[0]
    assert (lambda id, name, tags: (id, name))(**USERS[0]) == (1000, "n\xe4me 0")
    assert (lambda **keywords: keywords)(**USERS[0]) == USERS[0]
    assert USERS[0] | {"id": 5} == {**USERS[0], "id": 5}
    assert {"z": 1} | dict(USERS[0]) == {"z": 1, **USERS[0]}
    assert TABLE.copy() == TABLE
    assert len(dict(TABLE)) == 1000
    changed = dict(USERS[0])
    changed["id"] = 6
    changed["more"] = 7
    del changed["name"]
    assert USERS[0] == GIVEN["users"][0] | {"tags": ("x", "tag0")}
    grown = dict(TABLE)
    grown.update((i, i) for i in range(2000))
    assert len(grown) == 3000
    ordered = collections.OrderedDict(USERS[0])
    ordered.move_to_end("id")
    assert collections.ChainMap(USERS[0], USERS[1])["name"] == "n\xe4me 0"
    assert collections.Counter(WORDS)["a"] == 1
    assert collections.defaultdict(int, TABLE)["key 7"] == 7
    assert types.SimpleNamespace(**USERS[0]).id == 1000
    assert dict.fromkeys(WORDS, 0)["a"] == 0
    assert types.MappingProxyType(TABLE)["key 7"] == 7
    copied = {**TABLE}
    for key in list(copied):
        del copied[key]
    assert len(TABLE) == 1000
    match USERS[0]:
        case {"id": number, "name": str(), **rest}:
            assert number == 1000
            assert list(rest) == ["tags"]
        case _:
            pytest.fail("no match")
    match WORDS:
        case ["ascii text", *_, "a"]:
            pass
        case _:
            pytest.fail("no match")


@reader
def views():
    for mapping in (USERS[0], TABLE, KEYS, DATA["emptied"]):
        keys, values, items = mapping.keys(), mapping.values(), mapping.items()
        assert len(keys) == len(values) == len(items) == len(mapping)
        assert [*zip(keys, values, strict=True)] == [*items]
        assert keys == set(mapping)
        assert keys | {"z"} == {*mapping, "z"}
        assert keys & keys == keys
        assert keys.isdisjoint(["absent"])
        assert [*reversed(items)] == [*items][::-1]
        assert repr(keys)
        assert repr(items)


@reader
def conversions():
    assert tuple(USERS) is USERS
    assert next(iter(USERS)) is USERS[0]
    assert [*USERS] == list(USERS)
    assert set(WORDS) == set(GIVEN["words"])
    assert bytes(BYTES[4]) is BYTES[4]
    assert bytearray(BYTES[4]) == BYTES[4]
    assert list(enumerate(WORDS))[6] == (6, "a")
    assert next(zip(*[USERS] * 2, strict=True))[1] is USERS[0]
    assert list(map(len, PLAIN_WORDS)) == [10, 4, 3, 7, 0, 1]
    assert functools.reduce(operator.add, WORDS)
    assert operator.itemgetter("name")(USERS[2]) == "n\xe4me 2"
    assert bisect.bisect(tuple(sorted(WORDS)), "b") == 3
    assert heapq.nsmallest(2, WORDS) == ["", "a"]
    assert random.Random(1).choice(USERS) in USERS
    assert next(itertools.chain(*(user["tags"] for user in USERS))) == "x"
    assert next(itertools.groupby(USERS, key=lambda user: user["tags"][0]))[0] == "x"
    assert functools.lru_cache(lambda text: text + "!")(WORDS[1]) == "caf\xe9!"


@reader
def json_encoding():
    graph = {"users": GIVEN["users"], "table": GIVEN["table"], "words": GIVEN["words"]}
    frozen = {key: DATA[key] for key in graph}
    for options in ({}, {"indent": 2}, {"sort_keys": True}, {"ensure_ascii": False}):
        text = json.dumps(frozen, default=permaheap.json_default, **options)
        assert text == json.dumps(graph, **options)
    assert json.loads(freeze('{"a": ["caf\xe9", 1.5], "b": {"a": null}}')) == {
        "a": ["caf\xe9", 1.5],
        "b": {"a": None},
    }
    assert json.loads(freeze(b'{"a": 1}')) == {"a": 1}


@reader
def orjson_encoding():
    orjson = pytest.importorskip("orjson")
    encoded = orjson.dumps({"users": USERS, "table": TABLE}, default=permaheap.json_default)
    assert encoded == orjson.dumps({"users": GIVEN["users"], "table": GIVEN["table"]})
    words = list(PLAIN_WORDS)
    assert orjson.loads(orjson.dumps(words)) == words
    assert orjson.dumps(DATES[:1]) == b'["2026-11-22"]'
    assert orjson.dumps(NUMBERS[:5]) == b"[0,1,300,-300,1099511627776]"
    assert orjson.loads(freeze('{"key": "caf\xe9"}')) == {"key": "caf\xe9"}
    assert orjson.loads(freeze(b'{"key": 1}')) == {"key": 1}
    for key in TABLE:
        orjson.loads(orjson.dumps({key: key}))


@reader
def sqlite():
    connection = sqlite3.connect(":memory:")
    connection.execute(freeze("create table t(a, b, caf\xe9)"))
    values = [(word, data, number) for word, data, number in zip(PLAIN_WORDS, BYTES, NUMBERS[:5])]  # noqa: B905
    connection.executemany(freeze("insert into t values (?, ?, ?)"), freeze(values))
    assert connection.execute("select * from t").fetchall() == values
    select = freeze("select b from t where a = :word and 'caf\xe9' = 'caf\xe9'")
    for word, data, _ in values:
        assert connection.execute("select b from t where a = ?", (word,)).fetchone() == (data,)
        assert connection.execute(select, {"word": word}).fetchone() == (data,)
    if sys.version_info >= (3, 15):
        assert connection.execute("select ?", freeze(["x"])).fetchone() == ("x",)
    connection.execute("create table d(x)")
    connection.executemany("insert into d values (?)", [(number,) for number in NUMBERS[6:8]])
    connection.create_function(freeze("twice"), 1, lambda x: x * 2)
    assert connection.execute("select twice(?)", (WORDS[1],)).fetchone() == ("caf\xe9" * 2,)
    connection.close()


@reader
def regular_expressions():
    pattern = freeze(r"(?P<word>caf\xe9|smile|\u65e5)(\d*)")
    compiled = re.compile(pattern)
    found = [match["word"] for word in WORDS if (match := compiled.search(word))]
    assert found == ["caf\xe9", "\u65e5", "smile"]
    assert [re.sub(pattern, "-", word) for word in WORDS][1] == "-"
    assert re.findall(freeze(rb"[a-z]+"), BYTES[2]) == [b"some", b"bytes"]
    assert re.split(freeze(r"\s"), WORDS[0]) == ["ascii", "text"]
    assert re.escape(WORDS[3])
    assert re.sub("e", freeze(r"\g<0>\g<0>"), WORDS[0]) == "ascii teext"
    assert compiled.fullmatch(freeze("smile12"))[2] == "12"


@reader
def compressing_and_digesting():
    for data in BYTES:
        assert zlib.decompress(zlib.compress(data)) == data
        assert zlib.crc32(data) == zlib.crc32(bytes(bytearray(data)))
        assert hashlib.sha256(data).digest() == hashlib.sha256(bytes(bytearray(data))).digest()
        assert bytes(memoryview(data)) == data
        assert io.BytesIO(data).read() == data
        assert base64.b85decode(base64.b85encode(data)) == data
        view = memoryview(data)
        assert view.readonly
        with pytest.raises((TypeError, ValueError)):
            view.cast("B")[0] = 1
    assert zlib.decompress(freeze(zlib.compress(b"text" * 100))) == b"text" * 100
    assert struct.unpack("<4s", freeze(b"abcd")) == (b"abcd",)
    assert int.from_bytes(freeze(b"\x01\x02"), "big") == 258


@reader
def copying_and_pickling():
    permaheap.register_reducers()
    assert copy.copy(USERS) is USERS
    assert copy.copy(SETS[3]) is SETS[3]
    assert copy.deepcopy(WORDS) is WORDS
    assert copy.deepcopy(USERS) == USERS
    first = 2 if sys.version_info >= (3, 15) else 0  # that frozendict needs
    for protocol in range(first, pickle.HIGHEST_PROTOCOL + 1):
        parts = USERS, WORDS, BYTES, SETS, DATES, NUMBERS[:9], TABLE, KEYS
        assert pickle.loads(pickle.dumps(parts, protocol)) == parts
        assert pickle.loads(pickle._dumps(USERS, protocol)) == USERS
    assert marshal.loads(marshal.dumps((WORDS, BYTES, NUMBERS[:5], SETS))) == (
        WORDS, BYTES, NUMBERS[:5], SETS,
    )  # fmt: skip
    assert permaheap.thaw(USERS) == GIVEN["users"]
    assert freeze([USERS, [1.5]])[0] is USERS


@reader
def dates():
    for moment in DATES:
        assert repr(moment)
        assert str(moment)
        assert hash(moment) == hash(copy.copy(moment))
        assert moment == copy.copy(moment)
        assert pickle.loads(pickle.dumps(moment)) == moment
    day, time, moment, delta, zone = DATES
    assert day.isoformat() == f"{day:%Y-%m-%d}"
    assert day + delta > day
    assert moment + delta - moment == delta
    assert moment.astimezone(zone).utcoffset() == datetime.timedelta(hours=2)
    assert moment.timestamp() == 1795327500.0
    assert moment.replace(tzinfo=zone).tzinfo is zone
    assert zone.tzname(None) == "zone"
    assert zone.fromutc(moment.replace(tzinfo=zone))
    assert time.utcoffset() == datetime.timedelta(0)
    assert moment.strftime("%H:%M %Z") == "07:05 UTC+01:00"
    assert datetime.datetime.combine(day, time) > datetime.datetime(2000, 1, 1, tzinfo=zone)
    assert delta * 2 // delta == 2
    assert delta.total_seconds() == 259204.000005
    assert sorted([day, datetime.date(2020, 1, 1)])[1] is day


@reader
def collecting():
    gc.collect()
    assert not gc.is_tracked(USERS)
    assert not any(gc.is_tracked(obj) for obj in walk(DATA))
    assert not gc.is_finalized(USERS)
    assert len(gc.get_referents(USERS)) == 50
    assert gc.get_referents(SETS[1]) is not None
    referrers = gc.get_referrers(USERS[0])
    assert USERS not in [r for r in referrers if type(r) is tuple]
    holder = [DATA, *walk(DATA)]
    holder.append(holder)
    del holder
    for generation in (0, 1, 2):
        gc.collect(generation)
    gc.freeze()
    gc.unfreeze()
    known = {id(obj) for obj in gc.get_objects()}
    assert not known & {id(obj) for obj in walk(DATA)}


@reader
def introspecting():
    for obj in walk(DATA):
        assert sys.getsizeof(obj) >= 0
        assert sys.getrefcount(obj) > 2**29 or not permaheap.is_frozen(obj)
        assert id(obj) > 0
        assert isinstance(obj, type(obj))
        assert callable(obj) is False
        assert dir(obj)
        assert obj.__class__ is type(obj)
        assert getattr(obj, "absent", 5) == 5
        assert obj.__reduce_ex__ is not None
    assert iter(USERS).__reduce__()
    assert iter(USERS).__length_hint__() == 50
    assert iter(SETS[3]).__length_hint__() == 1000
    assert iter(TABLE).__length_hint__() == 1000


@reader
def as_arguments():
    """Frozen text and bytes where the interpreter and the system take them."""
    path = freeze(str(Path(__file__)))
    assert os.stat(path).st_size == Path(path).stat().st_size
    assert os.path.exists(os.fsencode(path))
    with open(path, encoding=freeze("utf-8")) as stream:
        assert stream.readline()
    assert eval(freeze("1 + len('caf\xe9')")) == 5
    assert compile(freeze("x = 1\ncaf\xe9 = 2\n"), "<names are interned>", freeze("exec"))
    assert "\xe9".encode(freeze("latin-1")) == b"\xe9"
    assert os.environ.get(freeze("ABSENT")) is None
    assert freeze("%s \xe9") % (1,) == "1 \xe9"
    assert freeze("{} \xe9").format(1) == "1 \xe9"
    assert datetime.datetime.strptime(freeze("2026"), freeze("%Y")).year == 2026
    assert math.sumprod(freeze([1.5, 2.5]), freeze([2, 4])) == 13.0
    assert bytes.fromhex(freeze("ff00")) == b"\xff\x00"
    assert max(*freeze([1000, 2000])) == 2000
    assert str.join(*freeze(["-", ["a", "b"]])) == "a-b"
    with pytest.raises(ValueError):
        raise ValueError(WORDS[1])
    with pytest.raises(KeyError):
        {}[WORDS[2]]


@reader
def in_native_containers():
    """Frozen objects held, moved and dropped by ordinary ones, by the hundred thousand."""
    held = [USERS[i % 50] for i in range(100_000)]
    held.sort(key=operator.itemgetter("id"))
    table = {word: [word] * 100 for word in WORDS}
    table.update({number: number for number in NUMBERS})
    table.update({elements: elements for elements in SETS})
    del held, table
    for _ in range(100_000):
        local = WORDS[1]
    assert local == "caf\xe9"
    assert len({data: data for data in BYTES}) == 5
    queue = collections.deque(USERS, maxlen=10)
    queue.rotate(3)
    assert len(queue) == 10


@pytest.mark.parametrize("name", READERS)
def test_reading(in_child, name):
    in_child(READERS[name])


def read_all():
    """Run every reader twice."""
    for function in [*READERS.values()] * 2:
        try:
            function()
        except pytest.skip.Exception:
            continue


READ_ALL = """
import test_reading
before = test_reading.copied_pages()
test_reading.read_all()
print(before, test_reading.copied_pages())
test_reading.permaheap._core._testing.check()
"""


def test_reading_copies_no_page(run):
    """Also where writing is allowed, reading leaves a process without a page of its own."""
    done = run(READ_ALL)
    assert (done.returncode, done.stdout) == (0, "0 0\n"), done.stderr


def copied_pages():
    """Return the kilobytes around DATA that this process has copied for itself."""
    places = sorted({id(obj) for obj in walk(DATA) if obj is not None})
    copied, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            begin, end = (int(part, 16) for part in line.split()[0].split("-"))
            memfd = "memfd:" in line
            ours = memfd and bisect.bisect(places, begin) != bisect.bisect(places, end)
        elif ours and line.startswith("Anonymous:"):
            copied += int(line.split()[1])
    return copied


def test_attribute_names(in_child):
    """getattr interns the name, which writes its state: its page is copied, no sibling sees it."""
    if SEALED:
        pytest.skip("interning writes to the name")

    def attributes():
        class Thing:
            pass

        thing = Thing()
        for name in freeze(["some_attribute", "other_attribute", "caf\xe9"]):
            setattr(thing, name, 1)
            assert getattr(thing, name) == 1
            assert name in vars(thing)
            assert sys.intern(name) == name
            delattr(thing, name)
        namespace = dict(freeze({"number_of_things": 1000}))
        exec("number_of_things += 1", namespace)
        assert namespace["number_of_things"] == 1001
        assert type("Made", (), dict(freeze({"made_attribute": 5})))().made_attribute == 5
        gc.collect()

    in_child(attributes)
    in_child(attributes)


def test_weak_reference_with_a_callback(in_child):
    """It cannot be shared, so that it hooks into the object: in a private copy of the page."""
    if SEALED:
        pytest.skip("adding a weak reference writes to the object")

    def reference():
        called = []
        elements = SETS[3]
        ref = weakref.ref(elements, called.append)
        assert ref() is elements
        del ref
        gc.collect()
        assert weakref.ref(elements)() is elements
        held = weakref.WeakSet([elements])
        assert elements in held
        del held
        assert called == []

    in_child(reference)
    assert weakref.getweakrefcount(SETS[3]) == 1


READ_AT_THE_END = """
import permaheap, weakref
frozen = permaheap.freeze({"a": [1.5, "text", {2, 3}], "b": {"c": ["d"]}})
refs = [weakref.ref(frozen["a"][2]) for _ in range(3)]
class Last:
    def __del__(self, frozen=frozen, repr=repr, print=print):
        print(len(repr(frozen)), flush=True)
last = Last()
last.cycle = last
print(len(repr(frozen)))
"""


def test_reading_while_the_interpreter_ends(run):
    done = run(READ_AT_THE_END)
    assert (done.returncode, done.stderr) == (0, "")
    one, two = done.stdout.split()
    assert one == two


WRITE = """
import ctypes, os, permaheap
frozen = permaheap.freeze(["text " * 100])
ctypes.memset(id(frozen[0]) + 60, 120, 1)
print("written")
"""


def test_seal_stops_a_stray_write(run):
    """The tests above mean something: a write under the seal is a SIGSEGV, without it not."""
    done = run(WRITE, PERMAHEAP_SEAL="1")
    assert (done.returncode, done.stdout) == (-11, "")
    done = run(WRITE, PERMAHEAP_SEAL="")
    assert (done.returncode, done.stdout) == (0, "written\n")
