"""The result of freeze for each kind of object, and which objects stay one."""

import collections
import datetime
import gc
import struct
import sys
import zoneinfo
from types import MappingProxyType

import pytest

import permaheap
from permaheap import freeze, freeze_each, freeze_pairs, is_frozen, thaw
from twin import HAS_FROZENDICT, Mapping, assert_same_graph, expected_frozen, printed


def fresh(text):
    """Return an equal str that is a new object."""
    return "".join(list(text))


ATOMS = [
    None, True, False, ..., 0, 1, -5, 256, 257, -6, 2**30, 2**60, 2**63, -(2**64), 1 << 14_000,
    0.0, -0.0, 1.5, float("inf"), float("-inf"), 5e-324, 1.7976931348623157e308,
    0j, -0j, complex(-0.0, 0.0), complex(1.5, -2.5),
    "", "a", "\xe9", "\xff", "\u0100", "\U0001f600", "ascii text", "caf\xe9", "\u65e5\u672c",
    "nul\0inside", "\ud800", "a\udfffb", "x" * 100_000, "\U0001f600" * 5000,
    b"", b"x", b"\xff", b"bytes", b"nul\0inside", bytes(100_000),
    range(0), range(10), range(-3, 10**30, 7), range(10, 0, -1),
    slice(None), slice(1, 2, 3), slice("a", (1, 2), None),
    datetime.date(2026, 11, 22), datetime.date.min, datetime.date.max,
    datetime.time(12, 30, 1, 999999), datetime.time(1, fold=1),
    datetime.time(1, tzinfo=datetime.UTC),
    datetime.datetime(2026, 11, 22, 12, 30, 1, 5), datetime.datetime(2026, 1, 1, fold=1),
    datetime.datetime(2026, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(hours=-3), "here")),
    datetime.timedelta(), datetime.timedelta(-1, 2, 3), datetime.timedelta.max,
    datetime.UTC, datetime.timezone(datetime.timedelta(hours=5, minutes=45)),
]  # fmt: skip


@pytest.mark.parametrize("obj", ATOMS, ids=lambda obj: f"{type(obj).__name__}-{repr(obj)[:20]}")
def test_atom(obj):
    for frozen in (freeze(obj), freeze([obj])[0], freeze({"k": [obj]})["k"][0]):
        assert type(frozen) is type(obj)
        assert frozen == obj
        assert printed(frozen) == printed(obj)
        assert hash(frozen) == hash(obj)
        assert is_frozen(frozen)
        assert freeze(frozen) is frozen
        assert thaw(frozen) is frozen


@pytest.mark.parametrize(
    "bits", [0x7FF8000000000000, 0xFFF8000000000000, 0x7FF8DEADBEEF1234, 0xFFFFFFFFFFFFFFFF]
)
def test_nan_keeps_its_bits(bits):
    nan = struct.unpack("<d", struct.pack("<Q", bits))[0]
    frozen = freeze([nan, complex(nan, 1.0)])
    assert struct.pack("<d", frozen[0]) == struct.pack("<Q", bits)
    assert struct.pack("<d", frozen[1].real) == struct.pack("<Q", bits)
    assert frozen[1].imag == 1.0
    assert hash(frozen[0]) == hash(frozen[0])


@pytest.mark.parametrize(
    ("given", "frozen"),
    [
        (bytearray(b"abc"), b"abc"),
        (bytearray(), b""),
        ([], ()),
        ([1, [2]], (1, (2,))),
        ((1, [2]), (1, (2,))),
        (set(), frozenset()),
        ({1, "a"}, frozenset({1, "a"})),
        (frozenset({frozenset({1}), (2, 3)}), frozenset({frozenset({1}), (2, 3)})),
        ({}, Mapping({})),
        ({"a": 1, 2: [3]}, Mapping({"a": 1, 2: (3,)})),
        (collections.OrderedDict(b=1, a=2), Mapping({"b": 1, "a": 2})),
        (collections.Counter("abca"), Mapping({"a": 2, "b": 1, "c": 1})),
        (collections.defaultdict(list, a=[1]), Mapping({"a": (1,)})),
        (MappingProxyType({"a": [1]}), Mapping({"a": (1,)})),
        (MappingProxyType(collections.OrderedDict(a=1)), Mapping({"a": 1})),
        (Mapping({"a": [1]}), Mapping({"a": (1,)})),
    ],
    ids=repr,
)
def test_container(given, frozen):
    assert_same_graph(freeze(given), frozen)
    assert_same_graph(freeze([given]), (frozen,))


def test_kind_of_mapping():
    frozen = freeze({"a": 1})
    assert type(frozen) is Mapping
    assert isinstance(frozen, dict) is False
    assert HAS_FROZENDICT is (sys.version_info >= (3, 15))


def test_given_objects_are_left_alone():
    given = {"list": [1, [2]], "set": {3}, "bytes": bytearray(b"4")}
    freeze(given)
    given["list"].append(5)
    given["set"].add(6)
    given["bytes"].extend(b"7")
    assert given == {"list": [1, [2], 5], "set": {3, 6}, "bytes": bytearray(b"47")}


def test_later_changes_do_not_reach_the_frozen():
    given = {"a": [1]}
    frozen = freeze(given)
    given["a"].append(2)
    given["b"] = 3
    assert frozen == Mapping({"a": (1,)})


@pytest.mark.parametrize("count", [0, 1, 2, 5, 6, 10, 11, 30, 31, 85, 86, 1000, 70_000])
def test_mapping_sizes_and_order(count):
    given = {f"key {i}": i for i in range(count)}
    frozen = freeze(given)
    assert len(frozen) == count
    assert list(frozen) == list(given)
    assert list(frozen.items()) == list(given.items())
    assert all(frozen[key] == value for key, value in given.items())
    assert "absent" not in frozen
    assert frozen.get("absent") is None
    with pytest.raises(KeyError):
        frozen["absent"]


@pytest.mark.parametrize("count", [0, 1, 4, 5, 8, 9, 20, 1000, 70_000])
@pytest.mark.parametrize("kind", [set, frozenset])
def test_set_sizes(kind, count):
    given = kind(range(1000, 1000 + count))
    frozen = freeze(given)
    assert type(frozen) is frozenset
    assert len(frozen) == count
    assert frozen == given
    assert all(element in frozen for element in given)
    assert -1 not in frozen


def test_dict_with_holes():
    given = {i: str(i) for i in range(1000)}
    for i in range(0, 1000, 3):
        del given[i]
    frozen = freeze(given)
    assert list(frozen.items()) == list(given.items())
    assert 0 not in frozen
    assert all(i in frozen for i in given)


def test_dict_emptied():
    given = {i: i for i in range(100)}
    for i in range(100):
        del given[i]
    frozen = freeze(given)
    assert frozen == Mapping({})
    assert 5 not in frozen
    assert list(frozen) == []


def test_dict_emptied_and_filled():
    given = {"a": 1, "b": 2}
    del given["a"]
    given["a"] = 3
    assert list(freeze(given).items()) == [("b", 2), ("a", 3)]


def test_set_with_holes():
    given = set(range(1000))
    given -= set(range(0, 1000, 2))
    frozen = freeze(given)
    assert frozen == given
    assert 0 not in frozen


class Instance:
    """Its instances share the keys of their dicts."""

    def __init__(self, a, b):
        self.b = b
        self.a = a


def test_instance_dicts_with_shared_keys():
    instances = [Instance(i, [i]) for i in range(10)]
    del instances[3].b
    instances[4].c = 1
    frozen = freeze([vars(instance) for instance in instances])
    assert [dict(f) for f in frozen] == [
        {key: (value if key != "b" else tuple(value)) for key, value in vars(i).items()}
        for i in instances
    ]
    assert [list(f) for f in frozen] == [list(vars(i)) for i in instances]


def test_class_dict_through_a_proxy():
    class Settings:
        debug = True
        levels = [1, 2]  # noqa: RUF012 - a plain value on purpose

    given = MappingProxyType({k: v for k, v in vars(Settings).items() if not k.startswith("_")})
    assert freeze(given) == Mapping({"debug": True, "levels": (1, 2)})


def test_mappings_of_one_shape():
    given = [{"id": 1000 + i, "name": fresh(f"n{i}"), "tags": [i]} for i in range(1000)]
    frozen = freeze(given)
    assert_same_graph(frozen, expected_frozen(given))
    assert all(list(record) == ["id", "name", "tags"] for record in frozen)
    first, *_, last = frozen
    assert first != last
    assert first == dict(first)
    assert "id" in last
    assert "idx" not in last


def test_same_keys_in_another_order():
    frozen = freeze([{"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 1, "b": 2}])
    assert [list(f) for f in frozen] == [["a", "b"], ["b", "a"], ["a", "b"]]
    assert frozen[0] == frozen[1] == frozen[2]


def test_keys_of_mixed_types():
    given = {1: "int", "1": "str", b"1": "bytes", (1,): "tuple", 1.5: "float", None: "none",
             frozenset({1}): "set", ...: "ellipsis", datetime.date(2026, 1, 1): "date",
             range(3): "range", 2j: "complex", slice(1, 2): "slice"}  # fmt: skip
    assert_same_graph(freeze(given), expected_frozen(given))


def test_colliding_ints():
    """Keys whose hashes differ only in the high bits, or are equal."""
    given = {i * 2**40: i for i in range(100)} | {i * (2**61 - 1): -i for i in range(1, 100)}
    frozen = freeze(given)
    assert list(frozen.items()) == list(given.items())
    assert all(frozen[key] == value for key, value in given.items())
    elements = set(given)
    assert freeze(elements) == elements


def test_minus_one_and_minus_two_have_one_hash():
    assert freeze({-1: "a", -2: "b"}) == Mapping({-1: "a", -2: "b"})
    assert freeze({-1, -2, -1.5}) == {-1, -2, -1.5}


def test_ordered_dict_has_its_own_order():
    given = collections.OrderedDict(a=1, b=2, c=3)
    given.move_to_end("a")
    assert list(freeze(given)) == ["b", "c", "a"]
    given.move_to_end("c", last=False)
    assert list(freeze([given])[0]) == ["c", "b", "a"]


def test_time_zone_by_default():
    zone = zoneinfo.ZoneInfo("UTC")
    moment = datetime.datetime(2026, 11, 22, 7, 5, tzinfo=zone)
    frozen = freeze([moment, zone], default=lambda tz: datetime.timezone(datetime.timedelta(0)))
    assert type(frozen[0].tzinfo) is datetime.timezone
    assert is_frozen(frozen[0].tzinfo)
    assert frozen[0] == moment
    assert hash(frozen[0]) == hash(moment)
    assert frozen[1] is frozen[0].tzinfo
    assert freeze([moment], default=str) == (str(moment),)


OSLO = zoneinfo.ZoneInfo("Europe/Oslo")
WINTER = datetime.datetime(2026, 1, 1, 12, tzinfo=OSLO)
SUMMER = datetime.datetime(2026, 7, 1, 12, tzinfo=OSLO)


class Odd(datetime.tzinfo):
    """A zone that knows neither zoneinfo nor pytz."""

    def __init__(self, name):
        self.name = name

    def utcoffset(self, moment):
        return datetime.timedelta(hours=5, minutes=45, seconds=1)

    def dst(self, moment):
        return None

    def tzname(self, moment):
        return self.name


def test_default_is_asked_with_the_datetime():
    seen = []

    def default(obj):
        seen.append(obj)
        return obj.astimezone(datetime.UTC)

    frozen = freeze([WINTER, SUMMER, WINTER], default=default)
    assert seen == [WINTER, SUMMER]
    assert frozen == (WINTER, SUMMER, WINTER)
    assert frozen[0] is frozen[2]
    assert [moment.tzinfo for moment in frozen] == [datetime.UTC] * 3


@pytest.mark.parametrize("moment", [WINTER, datetime.time(1, tzinfo=Odd("odd"))])
def test_default_that_knows_zones_only(moment):
    def default(obj):
        if isinstance(obj, (datetime.datetime, datetime.time)):
            raise TypeError("not known")
        return datetime.timezone(moment.utcoffset(), "mine")

    frozen = freeze(moment, default=default)
    assert frozen == moment
    assert frozen.tzname() == "mine"


def test_no_default_makes_another_moment():
    hour = datetime.timezone(datetime.timedelta(hours=1))

    def zones(obj):
        if isinstance(obj, datetime.datetime):
            raise TypeError("not known")
        return hour

    for default in (lambda obj: hour, zones):
        assert freeze([WINTER], default=default) == (WINTER,)
        with pytest.raises(permaheap.FreezeError, match=r"data\[0\].*another moment") as caught:
            freeze([SUMMER], default=default)
        assert caught.value.path == "data[0]"


def test_errors_of_a_default_that_gets_a_datetime():
    for error in (ValueError("mine"), permaheap.FreezeError("mine")):

        def default(obj, error=error):
            assert isinstance(obj, datetime.datetime)
            raise error

        with pytest.raises(type(error)) as caught:
            freeze([WINTER], default=default)
        assert caught.value is error
        assert error.__notes__ == ["while freezing data[0]"]
    with pytest.raises(permaheap.FreezeError, match="returned the same object"):
        freeze([WINTER], default=lambda obj: obj)
    with pytest.raises(permaheap.FreezeError, match=r"tzinfo: .* with the same offset$"):
        freeze(WINTER)


@pytest.mark.parametrize(
    ("moment", "name"),
    [
        (WINTER, "Europe/Oslo"),
        (SUMMER, "Europe/Oslo"),
        (SUMMER.replace(tzinfo=Odd("odd"), microsecond=7), "odd"),
        (SUMMER.replace(tzinfo=zoneinfo.ZoneInfo("UTC")), "UTC"),
        (SUMMER.replace(tzinfo=Odd(None)), "UTC+05:45:01"),
        (datetime.time(1, 2, 3, 4, Odd("odd"), fold=1), "odd"),
    ],
)
def test_builtin_default_keeps_the_moment_and_names_the_zone(moment, name):
    frozen = freeze({"at": [moment]}, default=permaheap.builtin_default)["at"][0]
    assert type(frozen) is type(moment)
    assert type(frozen.tzinfo) is datetime.timezone
    assert (frozen, hash(frozen)) == (moment, hash(moment))
    assert (frozen.utcoffset(), frozen.fold) == (moment.utcoffset(), moment.fold)
    assert frozen.tzname() == name
    if name == "Europe/Oslo":
        revived = frozen.astimezone(zoneinfo.ZoneInfo(frozen.tzname()))
        assert revived.isoformat() == moment.isoformat()


def test_builtin_default_of_an_hour_that_comes_twice():
    twice = datetime.datetime(2026, 10, 25, 2, 30, tzinfo=OSLO)
    first, second = freeze([twice, twice.replace(fold=1)], default=permaheap.builtin_default)
    assert second - first == datetime.timedelta(hours=1)


def test_builtin_default_of_a_time_without_an_offset():
    with pytest.raises(permaheap.FreezeError, match="offset of Europe/Oslo is not known") as caught:
        freeze([datetime.time(1, tzinfo=OSLO)], default=permaheap.builtin_default)
    assert caught.value.path == "data[0]"


def test_builtin_default_of_subclasses_of_datetime():
    class Stamp(datetime.datetime):
        nanosecond = 0

    class Delta(datetime.timedelta):
        nanoseconds = 0

    class Hour(datetime.time):
        pass

    stamp, delta = Stamp(2026, 7, 1, 12, tzinfo=OSLO), Delta(1, 2, 3)
    frozen = freeze([stamp, delta, Hour(1)], default=permaheap.builtin_default)
    assert frozen == (SUMMER, datetime.timedelta(1, 2, 3), datetime.time(1))
    assert frozen[0].tzname() == "Europe/Oslo"
    Stamp.nanosecond = Delta.nanoseconds = 5
    for lost in (stamp, delta):
        with pytest.raises(permaheap.FreezeError, match="nanoseconds would lose them"):
            freeze(lost, default=permaheap.builtin_default)


def test_time_zone_of_a_subclass():
    class Zone(datetime.tzinfo):
        def utcoffset(self, moment):
            return datetime.timedelta(hours=2)

        def __freeze__(self):
            return datetime.timezone(datetime.timedelta(hours=2), "two")

    for moment in (datetime.time(5, tzinfo=Zone()), datetime.datetime(2026, 1, 1, tzinfo=Zone())):
        frozen = freeze(moment)
        assert frozen == moment
        assert hash(frozen) == hash(moment)
        assert frozen.tzname() == "two"


def test_nan_as_key():
    nan = float("nan")
    frozen = freeze({nan: 1, "b": 2})
    (key, _) = frozen
    assert frozen[key] == 1
    assert key != key
    assert float("nan") not in frozen
    elements = freeze({nan, 1})
    assert all(element in elements for element in elements)
    inside = freeze({(1, nan): "x"})
    assert inside[next(iter(inside))] == "x"


def test_sharing_is_kept():
    shared = [1]
    given = {"a": shared, "b": shared, "c": [1]}
    frozen = freeze(given)
    assert frozen["a"] is frozen["b"]
    assert frozen["a"] is not frozen["c"]
    assert frozen["a"] == frozen["c"]


@pytest.mark.parametrize(
    "make",
    [
        lambda: [1],
        lambda: (1, [2]),
        lambda: {1},
        lambda: frozenset([1]),
        lambda: {"a": 1},
        lambda: {},
        lambda: set(),
        lambda: frozenset([(1, 2)]),
        lambda: collections.OrderedDict(a=1),
        lambda: MappingProxyType({"a": 1}),
        lambda: slice([1], None),
    ],
)
def test_one_stays_one_and_two_stay_two(make):
    one, two = make(), make()
    frozen = freeze([one, two, one, {"deep": [two, one]}])
    assert frozen[0] is frozen[2] is frozen[3]["deep"][1]
    assert frozen[1] is frozen[3]["deep"][0]
    assert frozen[0] is not frozen[1]


def test_shared_through_keys_and_elements():
    key = (1, (2, 3))
    frozen = freeze([{key: 1}, {key}, key, key[1]])
    assert next(iter(frozen[0])) is next(iter(frozen[1])) is frozen[2]
    assert frozen[2][1] is frozen[3]


def test_what_is_shared_only_by_a_dead_temporary():
    """Two conversions return equal new lists, maybe at one address: they stay two."""

    class Lists:
        def __freeze__(self):
            return [1, 2]

    frozen = freeze([Lists() for _ in range(100)])
    assert len({id(item) for item in frozen}) == 100
    assert frozen == ((1, 2),) * 100


def test_equal_atoms_are_stored_once():
    def atoms():
        return [10**6, 1234.5, fresh("some text"), fresh("caf\xe9 \u65e5"), bytes(bytearray(300)),
                b"".join([b"by", b"tes"]), complex(3.5, 2), 10**50]  # fmt: skip

    first, second = freeze([atoms(), {"again": atoms()}])
    assert all(a is b for a, b in zip(first, second["again"], strict=True))
    assert permaheap.stats().saved > 0


def test_look_alikes_are_kept_apart():
    given = [1000, 1000.0, complex(1000), 1, 1.0, True, 1 + 0j, 0, 0.0, -0.0, False, 0j,
             complex(0.0, -0.0), complex(-0.0, 0.0), "ab", b"ab", "", b""]  # fmt: skip
    frozen = freeze(given * 2)
    assert [(type(x), repr(x)) for x in frozen] == [(type(x), repr(x)) for x in given * 2]
    assert len({id(x) for x in frozen}) == len(given)


def test_tuples_of_look_alikes_are_kept_apart():
    given = [(1, "a"), (1.0, "a"), (True, "a"), (0.0,), (-0.0,)]
    assert list(map(repr, freeze(given))) == list(map(repr, given))


def test_nans_are_one_only_bit_for_bit():
    def nan(payload):
        return struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000000 | payload))[0]

    a, b, c = freeze([nan(1), nan(1), nan(2)])
    assert a is b
    assert a is not c
    assert struct.pack("<d", a) != struct.pack("<d", c)


@pytest.mark.parametrize("char", ["a", "x", "\xe9"])
def test_one_character(char):
    """A literal of one character is not everywhere the static one; its frozen form is."""
    assert freeze([char])[0] is chr(ord(char))
    assert is_frozen(freeze(char))


def test_static_singletons_stay_themselves():
    given = [None, True, False, ..., 0, -5, 256, "", chr(97), chr(233), b"", b"x", ()]
    assert all(a is b for a, b in zip(freeze(given), given, strict=True))


@pytest.mark.parametrize(
    "obj", [None, True, ..., 0, 256, -5, "", chr(97), chr(255), b"", b"a", ()], ids=repr
)
def test_is_frozen_of_static(obj):
    assert is_frozen(obj) is True


@pytest.mark.parametrize(
    "obj", [[], {}, set(), [1], 10**20, 1.5, fresh("some text"), object(), Instance], ids=repr
)
def test_is_frozen_of_ordinary(obj):
    assert is_frozen(obj) is False


def test_permanent_parts_are_kept_by_reference():
    inner = freeze({"a": [1.5, "some text", frozenset([10**20])]})
    outer = freeze([inner, {"again": inner}, inner["a"], {inner["a"][2]: inner["a"][1]}])
    assert outer[0] is inner
    assert outer[1]["again"] is inner
    assert outer[2] is inner["a"]
    assert next(iter(outer[3])) is inner["a"][2]
    assert outer[3][next(iter(outer[3]))] is inner["a"][1]


def test_keeping_by_reference_costs_next_to_nothing():
    big = freeze(list(range(1000, 100_000)))
    used = permaheap.stats().used
    freeze({"big": big})
    assert permaheap.stats().used - used < 100_000


def test_frozen_argument_is_returned():
    frozen = freeze({"a": [1]})
    blocks = permaheap.stats().blocks
    assert freeze(frozen) is frozen
    assert freeze(frozen["a"]) is frozen["a"]
    assert permaheap.stats().blocks == blocks


def test_mortal_tuple_of_permanent_objects_is_copied():
    inner = freeze([1.5])
    given = (inner, inner)
    frozen = freeze(given)
    assert frozen is not given
    assert frozen == given
    assert is_frozen(frozen)
    assert not is_frozen(given)


def test_freeze_method():
    class Point:
        def __init__(self, x, y):
            self.x, self.y = x, y

        def __freeze__(self):
            return {"x": self.x, "y": [self.y]}

    point = Point(1, 2)
    frozen = freeze([point, point, Point(1, 2)])
    assert frozen[0] == Mapping({"x": 1, "y": (2,)})
    assert frozen[0] is frozen[1]
    assert frozen[0] is not frozen[2]


def test_freeze_method_is_called_once_for_each_object():
    calls = []

    class Counted:
        def __freeze__(self):
            calls.append(self)
            return 10**10

    counted = Counted()
    assert freeze([counted, {"a": counted}, (counted,)]) == (10**10, {"a": 10**10}, (10**10,))
    assert calls == [counted]


def test_freeze_method_wins_over_default():
    class Both:
        def __freeze__(self):
            return "method"

    assert freeze(Both(), default=lambda obj: "default") == "method"


def test_freeze_method_on_subclass_of_a_built_in():
    class Text(str):
        __slots__ = ()

        def __freeze__(self):
            return str(self) + "!"

    class Items(list):
        def __freeze__(self):
            return list(self)

    class Table(dict):
        def __freeze__(self):
            return dict(self)

    frozen = freeze([Text("a"), Items([1]), Table(a=1)])
    assert frozen == ("a!", (1,), Mapping({"a": 1}))


def test_freeze_method_is_looked_up_on_the_type():
    class Bare:
        pass

    bare = Bare()
    bare.__freeze__ = lambda: 1
    with pytest.raises(permaheap.FreezeError):
        freeze(bare)


def test_freeze_method_of_a_metaclass_is_for_its_classes():
    class Meta(type):
        def __freeze__(cls):
            return ["class", cls.__name__]

    class Made(metaclass=Meta):
        pass

    assert freeze(Made) == ("class", "Made")
    assert freeze(Made(), default=lambda obj: "instance") == "instance"


def test_freeze_method_may_return_another_such_object():
    class Outer:
        def __freeze__(self):
            return Inner()

    class Inner:
        def __freeze__(self):
            return bytearray(b"x")

    assert freeze(Outer()) == b"x"


def test_default_is_called_once_for_each_object():
    calls = []

    def default(obj):
        calls.append(obj)
        return [len(calls)]

    thing = object()
    frozen = freeze([thing, thing, object()], default=default)
    assert frozen == ((1,), (1,), (2,))
    assert frozen[0] is frozen[1]


def test_default_is_not_called_for_what_has_a_form():
    assert freeze([1, {2: {3}}, None], default=pytest.fail) == (1, Mapping({2: {3}}), None)


def test_default_may_return_what_needs_default_again():
    class Outer:
        pass

    class Inner:
        pass

    forms = {Outer: [Inner()], Inner: bytearray(b"x")}
    assert freeze([Outer(), Inner()], default=lambda obj: forms[type(obj)]) == ((b"x",), b"x")


def test_default_none_is_no_default():
    assert freeze([1], default=None) == (1,)


def test_converted_object_as_key_and_element():
    class Key:
        def __freeze__(self):
            return ("key", [1])

    frozen = freeze({Key(): 1})
    assert frozen == Mapping({("key", (1,)): 1})
    assert freeze({Key()}) == {("key", (1,))}
    assert frozen["key", (1,)] == 1


def test_freeze_each():
    generator = (["text", [i]] for i in range(1000))
    frozen = freeze_each(generator)
    assert type(frozen) is tuple
    assert frozen == tuple(("text", (i,)) for i in range(1000))
    assert is_frozen(frozen)
    assert freeze_each([]) == ()
    assert freeze_each("ab") == ("a", "b")


def test_freeze_each_deduplicates_over_all_items():
    frozen = freeze_each([fresh("some text"), 10**10] for _ in range(100))
    assert len({id(item[0]) for item in frozen}) == 1
    assert len({id(item[1]) for item in frozen}) == 1


def test_freeze_each_keeps_items_that_have_died_apart():
    frozen = freeze_each([i] for i in range(10_000))
    assert frozen == tuple((i,) for i in range(10_000))
    assert len({id(item) for item in frozen}) == 10_000


def test_freeze_each_default():
    assert freeze_each(iter([object()]), default=lambda obj: ["x"]) == (("x",),)


def test_freeze_each_is_one_block():
    blocks = permaheap.stats().blocks
    freeze_each([i, str(i) * 100] for i in range(5000))
    assert permaheap.stats().blocks == blocks + 1


def test_freeze_pairs():
    frozen = freeze_pairs((f"key {i}", [i]) for i in range(1000))
    assert type(frozen) is Mapping
    assert list(frozen.items()) == [(f"key {i}", (i,)) for i in range(1000)]
    assert is_frozen(frozen)
    assert freeze_pairs([]) == Mapping({})


def test_freeze_pairs_last_value_wins():
    pairs = [("a", [1]), ("b", 2), ("a", 3), (1, "int"), (True, "bool"), (1.0, "float")]
    frozen = freeze_pairs(pairs)
    assert list(frozen.items()) == list(dict([(k, freeze(v)) for k, v in pairs]).items())
    assert [type(key) for key in frozen] == [str, str, int]


@pytest.mark.parametrize("pair", [("k", "v"), ["k", "v"], "kv", iter(["k", "v"])], ids=repr)
def test_freeze_pairs_takes_any_pair(pair):
    assert freeze_pairs([pair]) == Mapping({"k": "v"})


def test_freeze_pairs_default_and_dead_pairs():
    frozen = freeze_pairs(((object(), i) for i in range(3)), default=lambda obj: "same")
    assert frozen == Mapping({"same": 2})
    frozen = freeze_pairs(((i,), {"v": [i]}) for i in range(10_000))
    assert all(frozen[i,]["v"] == (i,) for i in range(10_000))


@pytest.mark.parametrize("function", [freeze_each, freeze_pairs])
def test_items_of_a_stream_are_let_go(function):
    """Only one item of ordinary objects is alive at a time."""

    class Item:
        alive = most = 0

        def __init__(self):
            Item.alive += 1
            Item.most = max(Item.most, Item.alive)

        def __del__(self):
            Item.alive -= 1

        def __freeze__(self):
            return 10**10

    items = (Item() for _ in range(100))
    function(([item, item] if function is freeze_each else ("k", item)) for item in items)
    gc.collect()
    assert Item.most <= 3
    assert Item.alive <= 1


def test_frozen_is_invisible_to_the_collector():
    frozen = freeze([{"a": [1]} for _ in range(1000)])
    assert not gc.is_tracked(frozen)
    assert not any(gc.is_tracked(item) for item in frozen)
    before = len(gc.get_objects())
    more = freeze([{"a": [1]} for _ in range(1000)])
    assert len(gc.get_objects()) - before < 100
    assert len(more) == 1000


def test_reference_counts_do_not_move():
    frozen = freeze({"a": ["text", 10**10]})
    parts = [frozen, frozen["a"], *frozen["a"]]
    before = [sys.getrefcount(part) for part in parts]
    held = [parts, list(parts), frozen["a"] * 100]
    assert [sys.getrefcount(part) for part in parts] == before
    assert len(held) == 3


def test_given_objects_are_not_kept_alive():
    class Watched:
        deleted = 0

        def __del__(self):
            Watched.deleted += 1

        def __freeze__(self):
            return {"x": [1]}

    freeze([Watched(), {"k": Watched()}])
    gc.collect()
    assert Watched.deleted == 2


def test_references_of_given_objects_are_restored():
    given = [["inner"], 10**30, fresh("some text")]
    before = [sys.getrefcount(part) for part in (given, *given)]
    freeze(given)
    assert [sys.getrefcount(part) for part in (given, *given)] == before


def test_wide_graph():
    given = [[i, str(i), float(i)] for i in range(200_000)]
    frozen = freeze(given)
    assert frozen == tuple(map(tuple, given))


def test_exponentially_shared_graph():
    """A diamond of 500 levels has 2**500 paths and 501 nodes."""
    given = [1]
    for _ in range(500):
        given = [given, given]
    blocks = permaheap.stats().used
    frozen = freeze(given)
    assert permaheap.stats().used - blocks < 500 * 1000 + 100_000
    while frozen != (1,) and len(frozen) == 2:
        assert frozen[0] is frozen[1]
        frozen = frozen[0]


@pytest.mark.parametrize("arguments", [(), (1, 2), (1, None)])
def test_wrong_number_of_arguments(arguments):
    with pytest.raises(TypeError):
        freeze(*arguments)


@pytest.mark.parametrize("keywords", [{"default": 3}, {"deflt": None}])
def test_wrong_keywords(keywords):
    with pytest.raises(TypeError):
        freeze([object()], **keywords)


@pytest.mark.parametrize("function", [freeze_each, freeze_pairs])
def test_stream_of_what_is_not_iterable(function):
    with pytest.raises(TypeError):
        function(5)


def test_slice_as_key():
    given = {slice(1, (2, 3), "x"): 1, slice(None): 2}
    frozen = freeze(given)
    assert_same_graph(frozen, expected_frozen(given))
    assert frozen[slice(None)] == 2
    assert freeze({slice(1), slice(2)}) == {slice(1), slice(2)}


def test_slice_of_a_slice():
    assert freeze([slice(slice(1), 2)]) == (slice(slice(1), 2),)
    frozen = freeze({slice(slice(1), 2): "value"})
    assert frozen[slice(slice(1), 2)] == "value"


@pytest.mark.parametrize(
    "make", [dict, collections.OrderedDict, MappingProxyType, collections.UserDict, freeze]
)
def test_pairs_of_a_mapping_are_its_items(make):
    pairs = {"ab": 1, "cd": [2]}
    assert permaheap.freeze_pairs(make(pairs)) == {"ab": 1, "cd": (2,)}
    assert permaheap.freeze_pairs(pairs.items()) == {"ab": 1, "cd": (2,)}
    assert permaheap.freeze_pairs(["ab", "cd"]) == {"a": "b", "c": "d"}  # as dict() does


def test_pairs_of_a_mapping_without_items():
    class Odd:
        def keys(self):
            return []

    with pytest.raises(AttributeError, match="items"):
        permaheap.freeze_pairs(Odd())


def test_sharing_with_what_a_freeze_method_hands_out_later():
    """As documented: single containers are remembered once code of others may hand them out."""

    class Lazy:
        def __freeze__(self):
            return data["rows"]

    data = {"rows": [["x"]], "view": Lazy()}
    late, early = freeze(data), freeze({"view": Lazy(), "rows": data["rows"]})
    assert late["rows"] == late["view"]
    assert late["rows"] is not late["view"]
    assert early["rows"] is early["view"]
    for default in (str, permaheap.builtin_default):
        frozen = freeze(data, default=default)
        assert frozen["rows"] is frozen["view"]
    kept = data["rows"]
    frozen = freeze(data)
    assert frozen["rows"] is frozen["view"]
    assert frozen["rows"] == freeze(kept)
