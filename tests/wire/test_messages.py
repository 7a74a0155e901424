"""Values as bytes in a channel: the values that arrive, and the errors of damaged bytes.

`pack` and `unpack` are the two passes. The judge compares the graph that was sent with the graph
that arrived: exact types, every bit of the values, order, and which objects are one. The shorter
tests of damage run each message with every bit flipped, and cut off everywhere.
"""

import collections
import copy
import gc
import math
import re
import struct
import sys
import tracemalloc
import types
from datetime import UTC, date, datetime, time, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

import permaheap
from interpreters import Interpreter
from permaheap import HandleError, MessageError, freeze, release, share

pack, unpack = permaheap._core._testing.pack, permaheap._core._testing.unpack
fault = permaheap._core._testing.fault

NUMBERS = (type(None), bool, int, float, complex, type(...))
PROXY = types.MappingProxyType
FROZENDICT = getattr(__import__("builtins"), "frozendict", None)
MAPPINGS = (dict, collections.OrderedDict, collections.Counter, collections.defaultdict, PROXY)
FROZEN = freeze({"frozen": ["here", {1, 2}], "n": 10**30, "text": "some text"})


def bits(value):
    match value:
        case float():
            return struct.pack("=d", value)
        case complex():
            return struct.pack("=dd", value.real, value.imag)
        case datetime() | time():
            return repr(value.replace(tzinfo=None))
        case timezone():
            return value.__getinitargs__(), value is UTC
    return value


class Judge:
    """Compares two graphs; `there` and `back` say which object stands for which."""

    def __init__(self):
        self.there, self.back = {}, {}

    def same(self, a, b):
        todo = [(a, b)]
        while todo:
            a, b = todo.pop()
            assert type(a) is type(b)
            if not self.is_known(a, b):
                todo += self.parts(a, b)

    def is_known(self, a, b):
        if isinstance(a, NUMBERS) or a == () or (isinstance(a, (str, bytes)) and len(a) < 2):
            return False
        known = id(a) in self.there
        assert self.there.setdefault(id(a), id(b)) == id(b)
        if not isinstance(a, str):  # equal keys may become one
            assert self.back.setdefault(id(b), id(a)) == id(a)
        return known

    def parts(self, a, b):
        if isinstance(a, (list, tuple)):
            assert len(a) == len(b)
            return zip(a, b, strict=True)
        if isinstance(a, (set, frozenset)):
            assert len(a) == len(b)
            arrived = {item: item for item in b}
            return [(item, arrived[item]) for item in a]
        if type(a) is FROZENDICT or isinstance(a, MAPPINGS):
            return self.parts_of_mappings(a, b)
        if isinstance(a, slice):
            return [(a.start, b.start), (a.stop, b.stop), (a.step, b.step)]
        if isinstance(a, (datetime, time)) and a.tzinfo is not None:
            assert bits(a) == bits(b)
            return [(a.tzinfo, b.tzinfo)]
        assert bits(a) == bits(b)
        return []

    def parts_of_mappings(self, a, b):
        assert len(a) == len(b)
        yield from zip(a.keys(), b.keys(), strict=True)
        yield from zip(a.values(), b.values(), strict=True)
        if isinstance(a, collections.defaultdict):
            assert a.default_factory is b.default_factory


def arrive(value):
    """Send a value; it must stay what it was, and so must be what arrives."""
    twin = value if "mappingproxy" in repr(value) else copy.deepcopy(value)
    arrived = unpack(pack(value))
    Judge().same(value, arrived)
    Judge().same(twin, arrived)
    return arrived


ZONES = [UTC, timezone(timedelta(hours=5)), timezone(timedelta(minutes=-90), "zone"),
         timezone(timedelta(0), "zero")]  # fmt: skip

ATOMS = [
    None, True, False, ..., 0, 1, -1, 63, 64, -64, -65, 2**30, 2**31, -(2**31), 2**60, 2**62,
    2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**30, -(10**30), 1 << 1000, -(1 << 1000),
    0.0, -0.0, 1.5, math.inf, -math.inf, math.nan, 5e-324, 1j, complex(-0.0, math.nan),
    struct.unpack("=d", struct.pack("=Q", 0x7FF8_0000_DEAD_BEEF))[0],
    "", "a", "\xe9", "abc", "a\0b", "caf\xe9", "\u20ac", "\u20ac uro", "\U0001f600", "x\U0010ffff",
    "\ud800", "\udfff\ud800", "a" * 127, "a" * 128, "a" * 20000, b"", b"a", b"\0\xff", b"b" * 300,
    bytearray(), bytearray(b"array"), range(0), range(5), range(2, 2**70, 7), range(9, -9, -1),
]  # fmt: skip
DATES = [
    date.min, date.max, date(2026, 2, 28), time.min, time.max, time(1, 2, 3, 4, fold=1),
    datetime.min, datetime.max, datetime(2026, 1, 2, 3, 4, 5, 6, fold=1),
    timedelta.min, timedelta.max, timedelta(-1, 5, 7), *ZONES,
    *[time(1, 2, tzinfo=zone) for zone in ZONES],
    *[datetime(2026, 1, 2, 3, tzinfo=zone, fold=1) for zone in ZONES],
]  # fmt: skip
CONTAINERS = [
    (), (1,), (1, (2, (3,))), [], [1, [2, [3]]], {}, {1: 2}, {"a": {"b": {}}}, set(), {1, None},
    frozenset(), frozenset({1, (2, frozenset({3}))}), slice(None), slice(1, [2], "x"),
    collections.OrderedDict(b=1, a=[2]), collections.OrderedDict(), collections.Counter("hello"),
    collections.Counter(), collections.defaultdict(None, {1: [2]}), collections.defaultdict(int),
    PROXY({"a": [1]}), PROXY({}), {(1, 2): 3, b"k": 4, 1.5: 5, None: 6, date(2026, 1, 1): 7},
    {i: str(i) for i in range(1000)}, {f"key {i}": [i] for i in range(100)},
    [{"id": i, "name": f"name {i}", "tags": ["x", i]} for i in range(20)],
    *([FROZENDICT({"a": [1], 2: FROZENDICT()})] if FROZENDICT else []),
]  # fmt: skip


def name_of(value):
    return f"{type(value).__name__} {value!r:.30}".encode("unicode_escape").decode()


@pytest.mark.parametrize("value", [*ATOMS, *DATES, *CONTAINERS], ids=name_of)
def test_every_kind(value):
    arrive(value)
    arrive([value, {"key": value}, (value,)])
    if not isinstance(value, NUMBERS):
        first, second = unpack(pack([value, value]))
        assert first is second


FACTORIES = [None, int, float, complex, bool, str, bytes, bytearray, tuple, list, dict, set,
             frozenset, object]  # fmt: skip


@pytest.mark.parametrize("factory", FACTORIES, ids=str)
def test_defaultdict(factory):
    arrived = arrive(collections.defaultdict(factory, a=1))
    if factory is not None:
        assert type(arrived["new"]) is factory


@pytest.mark.parametrize("odd", ["", "\xe9"], ids=["ascii", "latin-1"])
def test_text_of_every_length(odd):
    for length in range(130):
        for place in range(length + 1) if odd else [length]:
            text = "0123456789" * 13
            text = text[:place] + odd + text[place + len(odd) : length]
            there = unpack(pack([text]))[0]
            assert (there, hash(there), sys.getsizeof(there)) == (
                text,
                hash(text),
                sys.getsizeof(text),
            )
            assert there.isascii() == text.isascii()
            assert there.encode() == text.encode()


def test_containers_are_tracked_as_they_were():
    values = [{"a": 1}, {"a": [1]}, {"a": (1, 2)}, {"a": "text", "b": {}}, [1], (1,), ([],), {}]
    for there, here in zip(unpack(pack(values + copy.deepcopy(values))), values * 2, strict=True):
        assert gc.is_tracked(there) or not gc.is_tracked(here), here


def test_records_of_many_keys():
    for n in (5, 6, 12, 30):
        names = [f"key {i}" for i in range(n)]
        # A list of keys, or pairs at once: the dict is made for this many.
        arrive([dict.fromkeys(names, i) for i in range(3)])
        arrive([{**dict(zip(names, range(n), strict=True)), "more": [i]} for i in range(3)])
    arrive([{"a": i, "b": 1, "c": 2, "d": 3, "e": 4, "f": 5, "g": []} for i in range(3)])


def test_order_of_an_ordered_dict_that_was_moved():
    ordered = collections.OrderedDict(a=1, b=2, c=3)
    ordered.move_to_end("a")
    ordered.move_to_end("c", last=False)
    assert list(arrive(ordered).items()) == [("c", 3), ("b", 2), ("a", 1)]


def test_sharing_is_kept():
    shared, text, data = [1], "some text", {"k": (1, 2)}
    first = arrive([shared, {"a": shared, "b": text}, (text, data), PROXY(data), data])
    assert first[0] is first[1]["a"]
    assert first[1]["b"] is first[2][0]
    assert first[2][1] is first[4]
    first[4]["new"] = 1
    assert first[3]["new"] == 1


def test_cycles():
    through_list = []
    through_list.append(through_list)
    assert (arrived := unpack(pack(through_list)))[0] is arrived
    through_dict = {"self": []}
    through_dict["self"].append(through_dict)
    assert (arrived := unpack(pack(through_dict)))["self"][0] is arrived
    through_tuple = ([], 5)
    through_tuple[0].append(through_tuple)
    arrived = unpack(pack(through_tuple))
    assert type(arrived) is tuple
    assert arrived[0][0] is arrived
    assert arrived[1] == 5
    for empty in (collections.OrderedDict(), collections.defaultdict(list), collections.Counter()):
        empty["self"] = [empty]
        arrived = unpack(pack(empty))
        assert type(arrived) is type(empty)
        assert arrived["self"][0] is arrived
    records = [{"id": i, "all": None} for i in range(5)]
    for record in records:
        record["all"] = records
    arrived = unpack(pack(records))
    assert all(record["all"] is arrived for record in arrived)


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_left_as_it_was(enabled):
    value = [[i] for i in range(50_000)]
    message = permaheap._core._testing.pack(value)
    (gc.enable if enabled else gc.disable)()
    try:
        assert permaheap._core._testing.unpack(message) == value
        with pytest.raises(MessageError):
            permaheap._core._testing.unpack(message[:-1])
        assert gc.isenabled() == enabled
    finally:
        gc.enable()


def test_the_collector_sees_what_arrives():
    records = [{"id": i, "list": [i], "text": "x"} for i in range(5)]
    assert all(gc.is_tracked(record) for record in unpack(pack(records)))
    assert gc.is_tracked(unpack(pack(({}, [1])))[1])


def test_ballast_is_bounded():
    """Some blocks stay allocated, so that arenas do; not more of them with each message."""
    short, long = pack([[i, str(i) * 3] for i in range(500)]), pack([[i] for i in range(100_000)])
    unpack(long)
    before = sys.getallocatedblocks()
    for message in (short, long, short) * 30:
        unpack(message)
    assert sys.getallocatedblocks() - before < 200


def test_ballast_keeps_arenas(run):
    """One large value after the other is made in the same memory."""
    code = """
import gc, sys
from permaheap import _core
gc.disable()
records = [{"number": i, "name": f"name {i}", "tags": [f"tag {i}", "x"]} for i in range(10_000)]
message = _core._testing.pack(records)
del records
for _ in range(3):
    _core._testing.unpack(message)
sys._debugmallocstats()
for _ in range(20):
    _core._testing.unpack(message)
sys._debugmallocstats()
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    totals = re.findall(r"# arenas allocated total += +([\d,]+)", done.stderr)
    if not totals:
        pytest.skip("objects are not from CPython's own allocator")
    before, after = (int(total.replace(",", "")) for total in totals)
    assert after - before < 10  # otherwise several each time


def test_one_writer_for_many_messages():
    shared = ["shared"]
    value = [shared, shared, {"a": 1}, {"a": 2}, {"a": 3}]
    for before in ([value], [value, value], [[value, object()]], [[str(i) for i in range(500)]]):
        assert pack(*before, value) == pack(value)
    large = [f"text {i}" for i in range(100_000)]
    assert pack([*large, *large], value) == pack(value)


def nested(depth, wrap):
    value = ()
    for _ in range(depth):
        value = wrap(value)
    return value


DEPTH = 100_000
WRAPPERS = {
    "list": lambda value: [value],
    "tuple": lambda value: (value,),
    "dict": lambda value: {"a": value},
    "counter": lambda value: collections.Counter(a=value),
}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_deep_nesting(wrap):
    value = unpack(pack(nested(DEPTH, wrap)))
    for _ in range(DEPTH):
        assert len(value) == 1
        value = value["a"] if isinstance(value, dict) else value[0]
    assert value == ()


class Meta(type):
    """A metaclass."""


class MyList(list):
    """A subclass of what is ours."""


class MyInt(int):
    """Another."""


def with_attribute(value):
    value.attribute = 1
    return value


def slice_in_itself():
    inside = []
    outside = slice(inside, None, None)
    inside.append(outside)
    return outside


def proxy_of_itself():
    inside = {}
    inside["self"] = outside = (PROXY(inside),)
    return outside[0]


NOT_OURS = {
    "object": object(), "a type": int, "a function": len, "subclass": MyList([1]),
    "int": MyInt(1), "class": Meta, "memoryview": memoryview(b"x"), "bool-like": MyInt(0),
    "factory": collections.defaultdict(lambda: 1), "own class": collections.defaultdict(MyList),
    "counter": with_attribute(collections.Counter("a")),
    "ordered": with_attribute(collections.OrderedDict(a=1)),
    "keys": collections.OrderedDict({(1,): 2}), "deque": collections.deque([1]),
    "slice": slice_in_itself(), "proxy": proxy_of_itself(),
    "proxy of another": PROXY(collections.OrderedDict(a=1)),
    "deep slice": nested(1000, slice), "deep defaultdict":
        nested(1000, lambda value: collections.defaultdict(None, {1: value})),
    "deep key": {nested(1000, lambda value: (value,)): 1},
    "deep item": {nested(1000, lambda value: (value,))},
}  # fmt: skip


@pytest.mark.parametrize("value", NOT_OURS.values(), ids=NOT_OURS)
def test_what_is_not_ours(value):
    for inside in (value, [value], {"a": (1, [value])}, [[1]] * 100 + [value]):
        with pytest.raises(TypeError, match="pickle"):
            pack(inside)


def test_keys_that_were_met_before():
    deep = nested(1000, lambda value: (value,))
    with pytest.raises(TypeError, match="pickle"):
        pack([deep, {deep: 1}])
    with pytest.raises(TypeError, match="pickle"):
        pack([deep, {(deep, 1): 1}])
    key = (1, ("a", 2))
    arrived = arrive([key, {key: key}, {key}])
    assert arrived[0] is next(iter(arrived[1]))


def test_keys_are_kept_for_later_messages():
    value = {"".join(["some", " key"]): 1, "k" * 33: 2, "caf\xe9": 3, "\u20ac uro": 4}
    first, second = (list(unpack(pack(value))) for _ in range(2))
    assert first == second == list(value)
    assert [a is b for a, b in zip(first, second, strict=True)] == [True, False, True, False]


# --- Permanent objects ---------------------------------------------------------------------------


def test_permanent_objects_are_the_same():
    parts = [FROZEN, FROZEN["frozen"], FROZEN["n"], FROZEN["text"], FROZEN["frozen"][1]]
    assert all(a is b for a, b in zip(unpack(pack(parts)), parts, strict=True))
    assert unpack(pack(FROZEN)) is FROZEN
    arrived = unpack(pack({FROZEN["text"]: (FROZEN, FROZEN)}))
    assert next(iter(arrived)) is FROZEN["text"]
    assert arrived["some text"][1] is FROZEN
    assert len(pack([FROZEN] * 100)) < 500


def test_permanent_zone():
    zone = freeze(timezone(timedelta(hours=1), "permanent"))
    assert unpack(pack(datetime(2026, 1, 1, tzinfo=zone))).tzinfo is zone


def test_permanent_objects_of_a_released_block():
    frozen = freeze([["released", 1.25]])
    message = pack([frozen])
    handle = share(frozen)
    release(frozen)
    del frozen
    with pytest.raises(HandleError, match="released"):
        unpack(message)
    permaheap.forget(handle)


def test_permanent_objects_in_a_child(in_child):
    message = pack([FROZEN, FROZEN["text"]])
    assert in_child(lambda: unpack(message)[0] is FROZEN)


# --- Random graphs -------------------------------------------------------------------------------

zones = st.one_of(st.none(), st.sampled_from(ZONES))
hashable_atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(st.characters(codec=None), max_size=20),
    st.binary(max_size=20),
    st.dates(),
    st.times(),
    st.datetimes(),
    st.timedeltas(),
    st.sampled_from(ZONES),
    st.builds(lambda moment, zone: moment.replace(tzinfo=zone), st.datetimes(), zones),
)
keys = st.recursive(
    hashable_atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple), st.frozensets(inner, max_size=3)
    ),
    max_leaves=5,
)
atoms = st.one_of(hashable_atoms, st.floats(), st.complex_numbers(), st.binary().map(bytearray),
                  st.sampled_from([..., range(3), range(-5, 2**65, 3), FROZEN]))  # fmt: skip


def containers(inner):
    dicts = st.dictionaries(keys, inner, max_size=5)
    words = st.dictionaries(st.sampled_from(["a", "b", "\xe9", "long key"]), inner, max_size=4)
    return st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.sets(keys, max_size=5),
        st.frozensets(keys, max_size=5),
        dicts,
        words,
        words.map(collections.OrderedDict),
        dicts.map(lambda content: collections.defaultdict(list, content)),
        st.builds(slice, inner, inner, inner),
        words.map(PROXY),
        words.map(FROZENDICT) if FROZENDICT else words,
    )


values = st.recursive(atoms, containers, max_leaves=25)


@st.composite
def graphs(draw):
    """Draw values of which some are in several places, and perhaps in themselves."""
    pool = draw(st.lists(values, min_size=1, max_size=4))
    graph = draw(st.lists(st.sampled_from(pool), max_size=6))
    holder = draw(st.sampled_from([list, tuple, dict]))
    if holder is dict:
        graph = {i: item for i, item in enumerate(graph)}
    elif holder is tuple:
        graph = tuple(graph)
    lists = [item for item in pool if type(item) is list]
    if lists and draw(st.booleans()):
        draw(st.sampled_from(lists)).append(graph)
    return graph


@given(graphs())
def test_random_graphs(graph):
    Judge().same(graph, unpack(pack(graph)))


@given(values)
def test_packing_does_not_change_what_is_sent(value):
    before, message = repr(value), pack(value)
    assert (repr(value), pack(value)) == (before, message)


# --- Damage --------------------------------------------------------------------------------------


def corpus():
    shared = [1, "text"]
    cycle = ([],)
    cycle[0].append(cycle)
    return [
        pack((1, "abc", 2.5, None)), pack({"id": 1, "name": "Ada", "tags": {1, (2, "x")}}),
        pack([shared, shared, {"a": shared}]), pack(cycle), pack([10**30, -1, 2**62, 1j, -0.0]),
        pack(["\u20ac\u20ac", "\U0001f600x", "\xe9\xe9", b"bytes", bytearray(b"array")]),
        pack([FROZEN, FROZEN["text"], FROZEN]), pack([frozenset({1, (2,)}), slice(1, (2,), 3)]),
        pack([PROXY({"a": 1}), collections.Counter("ab"), collections.OrderedDict(a=1)]),
        pack([collections.defaultdict(int, a=1), range(1, 9, 2), True, False, ...]),
        pack([{"a": 1, "b": 2.5}, {"a": 2, "b": 3.5}, {"a": 3, "b": {"a": 4, "b": 5}}]),
        pack(DATES[:6]), pack(DATES[6:12]), pack(DATES[12:]), pack(nested(60, lambda x: [x])),
    ]  # fmt: skip


CORPUS = corpus()


def survive(message):
    """Damaged bytes are an error, or by chance a value, which then must be whole."""
    try:
        value = unpack(message)
    except (MessageError, HandleError):
        return None
    repr(value)
    gc.get_referents(value)
    return value


@pytest.mark.parametrize("message", CORPUS, ids=range(len(CORPUS)))
def test_flipped_bits(message):
    for i in range(len(message)):
        for bit in range(8):
            damaged = bytearray(message)
            damaged[i] ^= 1 << bit
            survive(damaged)
    gc.collect()


@pytest.mark.parametrize("message", CORPUS, ids=range(len(CORPUS)))
def test_cut_off(message):
    for i in range(len(message)):
        with pytest.raises(MessageError):
            unpack(message[:i])
    with pytest.raises(MessageError, match="follows"):
        unpack(message + b"\0")


@given(st.binary(max_size=100))
def test_random_bytes(message):
    survive(message)


tags = st.one_of(st.integers(0, 40), st.integers(128, 168), st.integers(0, 3))


@given(st.lists(tags, max_size=60))
def test_random_tags(message):
    survive(bytes(message))


@given(st.sampled_from(CORPUS), st.sampled_from(CORPUS), st.data())
def test_spliced(first, second, data):
    i = data.draw(st.integers(0, len(first)))
    j = data.draw(st.integers(0, len(second)))
    survive(first[:i] + second[j:])


def tag_of(value):
    return pack(value)[0] & 0x7F


def varint(number):
    encoded = bytearray()
    while number >= 128:
        encoded.append(number & 127 | 128)
        number >>= 7
    return bytes([*encoded, number])


TUPLE, LIST, DICT, SET = (tag_of(x) for x in ((), [], {}, set()))
FROZENSET, SLICE, NONE = (tag_of(x) for x in (frozenset(), slice(None), None))
DEFAULTDICT, TEXT_1 = tag_of(collections.defaultdict(None)), tag_of("abc")
TEXT_2, TEXT_4, NUMBER = tag_of("\u20ac"), tag_of("\U0001f600"), tag_of(1)
DELTA, TIME, DATETIME, DATE = (tag_of(x) for x in (timedelta(1), time(1), datetime.min, date.min))
RANGE, ZONE = tag_of(range(3)), tag_of(timezone(timedelta(hours=1)))
REFERENCE = pack([FROZEN, FROZEN])[-2]
SHAPE, RECORD, TEXT_A = DICT - 2, DICT - 1, pack("a")
REMEMBER = 128


def ints(*numbers):
    return struct.pack(f"={len(numbers)}i", *numbers)


FORGED = {
    "empty": b"",
    "unknown": b"\x7f",
    "a large count": bytes([LIST]) + varint(2**40),
    "a count that overflows": bytes([DICT]) + varint(2**63),
    "a length that overflows": bytes([TEXT_4]) + varint(2**62),
    "a number without end": bytes([NUMBER]) + b"\xff" * 30,
    "counts in counts": bytes([LIST, 250, 1]) * 90,
    "reference to nothing": bytes([REFERENCE, 0]),
    "reference far away": bytes([LIST | REMEMBER, 1, REFERENCE]) + varint(2**40),
    "a tuple in itself": bytes([TUPLE | REMEMBER, 1, REFERENCE, 0]),
    "a tuple in a tuple in itself": bytes([TUPLE | REMEMBER, 1, TUPLE, 1, REFERENCE, 0]),
    "a frozenset in itself": bytes([FROZENSET | REMEMBER, 1, REFERENCE, 0]),
    "a slice in itself": bytes([SLICE | REMEMBER, REFERENCE, 0, NONE, NONE]),
    "a list as a key": bytes([DICT, 1, LIST, 0, NONE]),
    "a tuple of a list as a key": bytes([DICT, 1, TUPLE, 1, LIST, 0, NONE]),
    "a list in a set": bytes([SET, 1, LIST, 0]),
    "an open tuple as a key": bytes(
        [TUPLE | REMEMBER, 2, DICT, 1, REFERENCE, 0, NONE, NONE]),
    "what leads to an open tuple as a key": bytes(
        [TUPLE | REMEMBER, 2, LIST, 2, TUPLE | REMEMBER, 1, REFERENCE, 0,
         DICT, 1, REFERENCE, 1, NONE, NONE]),
    "an open set as its own item": bytes([SET | REMEMBER, 1, REFERENCE, 0]),
    "an open dict as its own key": bytes([DICT | REMEMBER, 1, REFERENCE, 0, NONE]),
    "a key twice": bytes([DICT, 2, NONE, NONE, NONE, NONE]),
    "an item twice": bytes([SET, 2, NONE, NONE]),
    "deep keys": bytes([SET, 1]) + bytes([TUPLE, 1]) * 100_000 + bytes([TUPLE, 0]),
    "deep slices": bytes([SLICE]) * 100_000 + bytes([NONE]) * 200_001,
    "deep defaultdicts": bytes([DEFAULTDICT, 0, 1, NONE]) * 100_000 + bytes([NONE]),
    "a deep tuple as a key": (bytes([LIST, 2, TUPLE | REMEMBER, 1])
        + bytes([TUPLE, 1]) * 100_000 + bytes([NONE, SET, 1, REFERENCE, 0])),
    "an unknown factory": bytes([DEFAULTDICT, 99, 0]),
    "half a character": bytes([TEXT_2, 2, 1, 1, 1]),
    "a character that there is not": bytes([TEXT_4, 1]) + struct.pack("=I", 0x110000),
    "a negative character": bytes([TEXT_4, 1]) + struct.pack("=I", 0xFFFFFFFF),
    "a range by zero": bytes([RANGE, NUMBER, 2, NUMBER, 4, NUMBER, 0]),
    "a range of None": bytes([RANGE, NONE, NUMBER, 4, NUMBER, 2]),
    "a range of a list": bytes([RANGE, LIST, 0, NUMBER, 4, NUMBER, 2]),
    "day 30 of February": bytes([DATE]) + ints(2026, 2, 30),
    "year 0": bytes([DATE]) + ints(0, 1, 1),
    "hour 25": bytes([TIME]) + ints(25, 0, 0, 0, 0),
    "fold 2": bytes([TIME]) + ints(1, 0, 0, 0, 2),
    "second 60": bytes([DATETIME]) + ints(2026, 1, 1, 0, 0, 60, 0, 0),
    "too many days": bytes([DELTA]) + ints(2**31 - 1, 0, 0),
    "a zone of a week": bytes([ZONE]) + ints(7, 0, 0) + bytes([NONE]),
    "a zone with a bad name": bytes([ZONE]) + ints(0, 60, 0) + bytes([NUMBER, 2]),
    "a tzinfo that is none": bytes([TIME + 1]) + ints(1, 0, 0, 0, 0) + bytes([NUMBER, 2]),
    "a proxy of a list": bytes([tag_of(PROXY({})), LIST, 0]),
    "a permanent object at 0": bytes([tag_of(FROZEN)]) + bytes(24),
    "an object of no wire type": bytes([tag_of(FROZEN) + 1, 99]),
    "a record of no shape": bytes([RECORD, 0]),
    "a record of its own shape": bytes([SHAPE, 1, *TEXT_A, RECORD, 1]),
    "a shape without keys": bytes([SHAPE, 0]),
    "a shape of too many keys": bytes([SHAPE, 31]) + bytes([*TEXT_A] * 31 + [NONE] * 31),
    "a shape of numbers": bytes([SHAPE, 1, NUMBER, 2, NONE]),
    "a shape of lists": bytes([SHAPE, 1, LIST, 0, NONE]),
    "a key twice in a shape": bytes([SHAPE, 2, *TEXT_A, *TEXT_A, NONE, NONE]),
    "a record without values": bytes([LIST, 3, SHAPE, 1, *TEXT_A, NONE, RECORD, 0, RECORD, 0]),
    "two values": bytes([NONE, NONE]),
}  # fmt: skip


@pytest.mark.parametrize("message", FORGED.values(), ids=FORGED)
def test_forged(message):
    with pytest.raises((MessageError, HandleError), match=r"message|handle"):
        unpack(message)


@pytest.mark.parametrize("tag", [LIST, TUPLE, DICT])
def test_counts_do_not_take_memory(tag):
    head = bytes([tag]) + varint(10_000) + bytes([NONE] * (tag == DICT))
    tracemalloc.start()
    with pytest.raises(MessageError):
        unpack(head * 10_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * len(head * 10_000)


@pytest.mark.parametrize(
    ("tag", "form", "text"),
    [(TEXT_2, "H", "abc"), (TEXT_2, "H", "caf\xe9"), (TEXT_4, "I", "abc"), (TEXT_4, "I", "\u20ac"),
     (TEXT_2, "H", "a"), (TEXT_4, "I", "")],
)  # fmt: skip
def test_wide_text_becomes_what_it_should_be(tag, form, text):
    encoded = struct.pack(f"={len(text)}{form}", *map(ord, text))
    arrived = unpack(bytes([tag, len(text)]) + encoded)
    assert arrived == text
    assert sys.getsizeof(arrived) == sys.getsizeof(unpack(pack(text)))
    assert {text: 1}[arrived] == 1


LARGEST, LEAST = 2**31 - 1, -(2**31)


@pytest.mark.parametrize("kind", ["timedelta", "timezone"])
@pytest.mark.parametrize(
    "fields",
    [(-5, -5, -5), (LARGEST, LARGEST, LARGEST), (LARGEST - 24855, LARGEST, 0),
     (0, LARGEST, LARGEST), (LEAST, LEAST, LEAST), (0, LEAST, LEAST), (0, 86400, 0),
     (0, 0, 1_000_000), (0, -1, 0),
     (0, 0, -1), (1_000_000_000, 0, 0), (-1_000_000_000, 0, 0)],
)  # fmt: skip
def test_deltas_out_of_range(kind, fields):
    message = bytes([DELTA if kind == "timedelta" else ZONE]) + ints(*fields)
    with pytest.raises(MessageError, match="a timedelta has a number out of range"):
        unpack(message + bytes([NONE] * (kind == "timezone")))


@pytest.mark.parametrize("delta", [timedelta.max, timedelta.min, timedelta(0, 86399, 999_999)])
def test_deltas_at_their_limits(delta):
    assert unpack(pack(delta)) == delta
    assert unpack(bytes([DELTA]) + ints(delta.days, delta.seconds, delta.microseconds)) == delta


@pytest.mark.parametrize("number", [LARGEST, LEAST, -1])
@pytest.mark.parametrize(("tag", "fields"), [(DATE, 3), (TIME, 5), (DATETIME, 8)])
def test_dates_out_of_range(tag, fields, number):
    for place in range(fields):
        numbers = [1] * fields
        numbers[place] = number
        with pytest.raises(MessageError):
            unpack(bytes([tag]) + ints(*numbers))


# --- Memory --------------------------------------------------------------------------------------


def everything():
    return [*ATOMS, *DATES, *CONTAINERS, FROZEN, FROZEN, CONTAINERS, nested(50, lambda x: [x])]


def test_allocations_fail():
    """Each allocation of the core fails in turn; all that was made before it is given back."""
    value = everything()
    message = pack(value)
    for function, argument in ((pack, value), (unpack, message)):
        for persistent in (False, True):
            n = 1
            while True:
                fault(n, persistent=persistent)
                try:
                    function(argument)
                except MemoryError:
                    pass
                fired = fault()
                fault(0)
                if not fired:
                    break
                n += 1
            assert n > 1
    assert pack(value) == message


def test_references_do_not_leak():
    shared, text = ["shared"], "text " + str(1)
    value = [shared, (shared, text), {text: shared}, PROXY({text: shared})]
    key = next(iter(unpack(pack({"a key that is kept": 1}))))
    value.append({key: {key: [key]}})
    before = sys.getrefcount(shared), sys.getrefcount(text), sys.getrefcount(key)
    for _ in range(20):
        message = pack(value)
        for i in range(len(message)):
            survive(message[:i])
        unpack(message)
        with pytest.raises(TypeError):
            pack([value, object()])
        del message
    assert (sys.getrefcount(shared), sys.getrefcount(text), sys.getrefcount(key)) == before


@pytest.mark.skipif(not hasattr(sys, "gettotalrefcount"), reason="only debug builds count")
def test_references_do_not_leak_in_total():
    value = everything()

    def once():
        survive(pack(value))
        for message in CORPUS:
            for i in range(0, len(message), 3):
                survive(message[:i] + b"\xff" + message[i + 1 :])
        gc.collect()
        return sys.gettotalrefcount()

    once(), once()
    assert once() - once() in range(-20, 21)


# --- Interpreters --------------------------------------------------------------------------------


def test_interpreters():
    message = pack([[1, "text", {"k": (2.5, None)}], FROZEN, collections.Counter("ab"), b"x"])
    code = """
import permaheap
value = permaheap._core._testing.unpack(message)
back = permaheap._core._testing.pack(value)
result = [type(value[2]).__name__, value[1]["text"], list(back)]
"""
    with Interpreter() as interpreter:
        name, text, back = interpreter.ask(code, message=message)
    assert (name, text) == ("Counter", "some text")
    Judge().same(unpack(message), unpack(bytes(back)))


def test_dates_in_interpreters():
    code = """
import permaheap
try:
    result = repr(permaheap._core._testing.unpack(message))
except ImportError as error:
    result = str(error)
"""
    with Interpreter() as interpreter:
        answer = interpreter.ask(code, message=pack(datetime(2026, 1, 2, tzinfo=UTC)))
    if sys.version_info >= (3, 13):
        assert answer == "datetime.datetime(2026, 1, 2, 0, 0, tzinfo=datetime.timezone.utc)"
    else:
        assert "datetime" in answer
