"""Random graphs: the results of the core against those of the twin."""

import copy
import json
import math
import pickle
import struct
import sys

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

import graphs
import permaheap
from conftest import audit
from permaheap import FreezeError, freeze, thaw
from twin import (
    Mapping,
    TwinError,
    assert_same_graph,
    expected_frozen,
    expected_thaw,
    has_nan,
    path_item,
    printed,
)

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisWarning")


def freeze_as_twin(graph):
    """Freeze with the core and the twin; return both forms, or None when both refuse."""
    used = permaheap.stats().used
    try:
        expected = expected_frozen(graph, graphs.default)
    except TwinError as error:
        note(f"the twin refuses: {error}")
        with pytest.raises(FreezeError):
            freeze(graph, default=graphs.default)
        assert permaheap.stats().used == used
        return None
    return freeze(graph, default=graphs.default), expected


@given(graphs.graphs())
def test_freeze(graph):
    if pair := freeze_as_twin(graph):
        assert_same_graph(*pair)


@given(graphs.graphs(max_nodes=25))
def test_freeze_of_larger_graphs(graph):
    if pair := freeze_as_twin(graph):
        assert_same_graph(*pair)


@given(graphs.graphs())
def test_thaw(graph):
    if pair := freeze_as_twin(graph):
        frozen, _ = pair
        thawed = thaw(frozen)
        assert_same_graph(thawed, expected_thaw(frozen), frozen=False)
        again = freeze(thawed)
        assert again == frozen
        assert_same_graph(again, expected_frozen(thawed))


@given(graphs.graphs())
def test_heap_stays_sound(graph):
    freeze_as_twin(graph)
    audit()


@given(st.lists(graphs.atoms, max_size=30))
def test_atoms(atoms):
    doubled = [*atoms, *[copy.copy(atom) for atom in atoms], {"again": atoms}]
    assert_same_graph(freeze(doubled), expected_frozen(doubled))


@given(st.dictionaries(graphs.keys, graphs.atoms, max_size=30))
def test_hostile_keys(given_dict):
    if pair := freeze_as_twin(given_dict):
        assert_same_graph(*pair)


@given(st.sets(graphs.keys, max_size=30))
def test_hostile_elements(elements):
    if pair := freeze_as_twin(elements):
        assert_same_graph(*pair)


@given(st.lists(st.tuples(graphs.hashable_atoms, graphs.atoms), max_size=10))
def test_streams(pairs):
    frozen = permaheap.freeze_each(iter(pairs))
    assert_same_graph(frozen, expected_frozen(pairs))
    try:
        expected = expected_frozen(dict(expected_frozen(pairs)))
    except TwinError:
        return
    assert_same_graph(permaheap.freeze_pairs(iter(pairs)), expected)


shapes = st.lists(
    st.one_of(
        st.fixed_dictionaries({"a": graphs.atoms, "b": graphs.atoms}),
        st.fixed_dictionaries({"b": graphs.atoms, "a": graphs.atoms}),
        st.fixed_dictionaries({"a": graphs.atoms}, optional={"b": graphs.atoms, "c": st.none()}),
        st.dictionaries(st.text("abc", max_size=2), graphs.atoms, max_size=5),
        st.dictionaries(st.sampled_from(["a", "b", 1, 1.5]), graphs.atoms),
        st.integers(28, 33).map(lambda n: {f"key{i}": i * 1000 for i in range(n)}),
    ),
    max_size=20,
)


@given(shapes)
def test_mappings_of_like_shapes(mappings):
    frozen = freeze(mappings)
    assert_same_graph(frozen, expected_frozen(mappings))
    assert_same_graph(thaw(frozen), expected_thaw(frozen), frozen=False)


class Foo:
    """Has no frozen form."""


wrappers = st.one_of(
    st.tuples(st.sampled_from(["list", "tuple"]), st.lists(graphs.atoms, max_size=3)),
    st.tuples(st.just("dict"), st.sampled_from(["name", "two words", 5, -1.5, None, True])),
    st.tuples(st.sampled_from(["slice", "object", "element"]), st.none()),
)


def wrap(inner, kind, detail):
    """Put inner into a container; return that and how the path goes on from it."""
    match kind:
        case "list":
            return [*detail, inner, *detail], f"[{len(detail)}]"
        case "tuple":
            return (*detail, inner, *detail), f"[{len(detail)}]"
        case "dict":
            return {"before": 1, detail: inner, "after": 2}, path_item(detail)
        case "slice":
            return slice(None, inner), ".stop"
        case "object":
            return graphs.Freezable({"field": inner}), ".field"
    return {graphs.Keyed(1, [inner])}, ".element(<Keyed>)[0]"


@given(st.lists(wrappers, max_size=8))
def test_paths(steps):
    graph, path = Foo(), ""
    for kind, detail in steps:
        graph, step = wrap(graph, kind, detail)
        path = step + path
    used = permaheap.stats().used
    with pytest.raises(FreezeError, match="Foo") as caught:
        freeze(graph)
    assert caught.value.path == "data" + path
    assert permaheap.stats().used == used


changes = st.lists(
    st.tuples(st.sampled_from(["set", "delete", "move"]), st.integers(0, 12), graphs.atoms),
    max_size=40,
)


@given(changes, st.sampled_from([dict, graphs.collections.OrderedDict]))
def test_mappings_with_a_history(steps, kind):
    """Tables with holes, grown and emptied, in every order."""
    mapping, elements = kind(), set()
    for step, number, value in steps:
        key = f"key {number}"
        if step == "set":
            mapping[key] = value
            elements.add(key)
        elif step == "delete":
            mapping.pop(key, None)
            elements.discard(key)
        elif mapping and kind is not dict:
            mapping.move_to_end(next(iter(mapping)))
    assert_same_graph(freeze(mapping), expected_frozen(mapping))
    assert_same_graph(freeze(elements), expected_frozen(elements))


pickled_leaves = st.none() | st.booleans() | graphs.integers | graphs.floats | graphs.texts
pickled = st.recursive(
    pickled_leaves | st.binary(max_size=5) | graphs.dates,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=3), inner, max_size=4)
        | st.frozensets(graphs.hashable_atoms, max_size=3)
    ),
    max_leaves=10,
)


def spelled(obj):
    """Print an object, its sets in an order of ours: that of a NaN in them goes by address."""
    match obj:
        case tuple():
            parts = [spelled(item) for item in obj]
        case frozenset():
            parts = sorted(spelled(item) for item in obj)
        case _ if type(obj) is Mapping:
            parts = [f"{spelled(key)}: {spelled(value)}" for key, value in obj.items()]
        case _:
            return printed(obj)
    return f"{type(obj).__name__}({', '.join(parts)})"


def same(one, two):
    """Compare printed forms: NaN has no equal, and repr tells types and signs apart."""
    return spelled(one) == spelled(two) if has_nan(one) else one == two


@pytest.mark.parametrize("payload", [0, 1])
def test_a_nan_in_a_set_has_no_order(payload):
    """Sets of a NaN differ in order from one NaN object to the next, and are the same."""
    bits = struct.pack("<Q", 0x7FF8 << 48 | payload)
    sets = [frozenset({1, "a", complex(1, *struct.unpack("<d", bits))}) for _ in range(50)]
    assert all(same(sets[0], each) for each in sets)
    assert not same(sets[0], sets[0] | {2})
    assert not same((sets[0], 1), (sets[0], 1.0))


FIRST_PROTOCOL = 2 if sys.version_info >= (3, 15) else 0  # that frozendict needs


@given(pickled, st.sampled_from(range(FIRST_PROTOCOL, pickle.HIGHEST_PROTOCOL + 1)))
def test_pickle(graph, protocol):
    permaheap.register_reducers()
    frozen = freeze(graph)
    # Protocols below 4 forget the fold of times, in ordinary containers as well.
    expected = freeze(pickle.loads(pickle.dumps(thaw(frozen), protocol)))
    for dumps in (pickle.dumps, pickle._dumps):
        loaded = pickle.loads(dumps(frozen, protocol))
        assert type(loaded) is type(frozen)
        assert same(loaded, expected)


@given(pickled)
def test_copy(graph):
    permaheap.register_reducers()
    frozen = freeze(graph)
    for copier in (copy.copy, copy.deepcopy):
        copied = copier(frozen)
        assert type(copied) is type(frozen)
        assert same(copied, frozen)


json_graphs = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | graphs.texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(graphs.texts, inner, max_size=4),
    max_leaves=15,
)


@given(json_graphs)
def test_json(graph):
    """The text of a frozen object is, to the letter, that of what it was frozen from."""
    frozen = freeze(graph)
    for options in ({}, {"indent": 1}, {"ensure_ascii": False}):
        text = json.dumps(frozen, default=permaheap.json_default, **options)
        assert text == json.dumps(graph, **options)
    for sort_keys in (False, True):
        encoder = json.JSONEncoder(default=permaheap.json_default, sort_keys=sort_keys)
        assert "".join(encoder.iterencode(frozen)) == json.dumps(graph, sort_keys=sort_keys)


@given(graphs.graphs())
def test_printing(graph):
    if pair := freeze_as_twin(graph):
        frozen, expected = pair
        if not _has_sets(expected):
            assert printed(frozen) == printed(expected)
            assert printed(frozen, str) == printed(expected, str)
            assert printed(frozen, ascii) == printed(expected, ascii)
        else:
            assert len(printed(frozen)) == len(printed(expected))


def _has_sets(expected):
    """Tell whether a set may be in it: its elements have no order."""
    return "frozenset({" in repr(expected)


@given(st.lists(graphs.atoms, max_size=12), st.slices(12), st.integers(-3, 3))
def test_sequence_operations(items, part, times):
    frozen, expected = freeze(items), expected_frozen(items)
    assert list(map(printed, frozen[part])) == list(map(printed, expected[part]))
    assert printed(frozen * times) == printed(expected * times)
    assert printed(frozen + frozen[part]) == printed(expected + expected[part])
    assert printed(frozen[::-1]) == printed(expected[::-1])
    assert [*reversed(frozen)] == [*frozen][::-1]
    for item in frozen:
        assert item in frozen
        assert frozen.count(item) >= 1
        assert frozen[frozen.index(item)] is item or item == frozen[frozen.index(item)]
    assert (frozen == tuple(frozen)) is True
    assert (frozen < (*frozen, 1)) is True
    assert bool(frozen) is bool(items)


@given(graphs.texts, graphs.texts, st.slices(8), st.integers(0, 3))
def test_text_operations(one, two, part, times):
    a, b = freeze([one, two])
    assert (a == b, a < b, a + b) == (one == two, one < two, one + two)
    assert (a[part], a * times) == (one[part], one * times) if len(one) <= 8 else True
    assert (b in a, a.find(b), a.count(b)) == (two in one, one.find(two), one.count(two))
    assert (a.upper(), a.lower(), a.title(), a.casefold(), a.swapcase()) == (
        one.upper(), one.lower(), one.title(), one.casefold(), one.swapcase(),
    )  # fmt: skip
    assert a.split() == one.split()
    assert a.replace(b, "-") == one.replace(two, "-")
    assert b.join([a, b, a]) == two.join([one, two, one])
    assert a.encode("utf-8", "surrogatepass") == one.encode("utf-8", "surrogatepass")
    assert a.encode("utf-16", "surrogatepass") == one.encode("utf-16", "surrogatepass")
    assert (a.isidentifier(), a.isascii(), a.isalnum()) == (
        one.isidentifier(), one.isascii(), one.isalnum(),
    )  # fmt: skip
    assert f"{a:>20}{b!r}" == f"{one:>20}{two!r}"
    assert [hash(c) for c in a] == [hash(c) for c in one]
    assert hash(a) == hash("".join(list(one)))


@given(st.binary(max_size=12), st.binary(max_size=4), st.slices(8))
def test_bytes_operations(one, two, part):
    a, b = freeze([bytearray(one), two])
    assert (a == b, a < b, a + b, a * 2) == (one == two, one < two, one + two, one * 2)
    assert (b in a, a.find(b), a.hex()) == (two in one, one.find(two), one.hex())
    assert bytes(memoryview(a)) == one
    assert a[part] == one[part] if len(one) <= 8 else True
    assert list(a) == list(one)
    assert hash(a) == hash(bytes(bytearray(one)))
    assert bytearray(a) == one
    assert a.decode("latin-1") == one.decode("latin-1")


@given(graphs.integers, graphs.integers.filter(bool), graphs.floats)
def test_number_operations(one, two, real):
    a, b, x = freeze([one, two, real])
    assert (a + b, a - b, a * b, a // b, a % b, -a, abs(a), ~a) == (
        one + two, one - two, one * two, one // two, one % two, -one, abs(one), ~one,
    )  # fmt: skip
    assert (a == b, a < b, a & b, a | b, a ^ b) == (
        one == two, one < two, one & two, one | two, one ^ two,
    )  # fmt: skip
    assert (str(a), hash(a), a.bit_length(), a >> 3) == (
        str(one), hash(one), one.bit_length(), one >> 3,
    )  # fmt: skip
    assert struct.pack("<d", x) == struct.pack("<d", real)
    assert repr(x) == repr(real)
    assert math.isnan(x) or (x == real and hash(x) == hash(real) and x + 1 == real + 1)


@given(
    st.dictionaries(graphs.hashable_atoms, graphs.hashable_atoms, max_size=12),
    st.dictionaries(graphs.hashable_atoms, graphs.hashable_atoms, max_size=4),
    graphs.hashable_atoms,
)
def test_mapping_operations(one, two, other):
    try:
        twin = expected_frozen(one)
    except TwinError:
        return
    frozen = freeze(one)
    native = dict(frozen)
    assert len(frozen) == len(one)
    assert bool(frozen) is bool(one)
    assert list(frozen) == list(frozen.keys()) == [*native]
    assert list(frozen.values()) == [*native.values()]
    assert list(frozen.items()) == [*native.items()]
    assert list(reversed(frozen)) == [*frozen][::-1]
    assert (other in frozen) == (other in native)
    assert frozen.get(other, "none") is native.get(other, "none")
    assert all(frozen[key] is native[key] and frozen.get(key) is native[key] for key in frozen)
    assert all(key in frozen.keys() and item in frozen.items() for key, item in
               zip(frozen, frozen.items(), strict=True))  # fmt: skip
    assert type(frozen | two) is type(twin | two)
    assert frozen | two == native | two
    assert two | native == two | dict(frozen)
    assert {**frozen} == native
    assert frozen.keys() & two.keys() == native.keys() & two.keys()
    assert frozen.items() - two.items() == native.items() - two.items()
    assert frozen.copy() == frozen
    assert frozen == native
    assert native == frozen
    assert (frozen != native) is False
    assert (frozen == two) is (native == two)
    changed = dict(frozen)
    changed["new"] = 1
    assert "new" not in frozen or "new" in native
    if not has_nan(twin):
        assert frozen == twin
        assert printed(frozen) == printed(twin) or _has_sets(twin)


@given(st.sets(graphs.hashable_atoms, max_size=12), st.sets(graphs.hashable_atoms, max_size=12))
def test_set_operations(one, two):
    try:
        expected_frozen([one, two])
    except TwinError:
        return
    a, b = freeze([one, two])
    x, y = frozenset(list(a)), frozenset(list(b))
    assert (len(a), bool(a), a == b, a <= b, a < b) == (len(x), bool(x), x == y, x <= y, x < y)
    assert (a & b, a | b, a - b, a ^ b) == (x & y, x | y, x - y, x ^ y)
    assert a.isdisjoint(b) == x.isdisjoint(y)
    assert a == x
    assert hash(a) == hash(x)
    assert set(a) == x
    assert a.copy() is a
    assert frozenset(a) is a
    assert a.union(y) == x.union(b)
    assert {a: 1}[x] == 1
    assert all(element in a for element in x)


@given(graphs.graphs())
def test_handles_of_all_parts(graph):
    if pair := freeze_as_twin(graph):
        stack, seen = [pair[0]], set()
        while stack:
            part = stack.pop()
            if id(part) in seen or not isinstance(part, (tuple, frozenset, Mapping)) or part == ():
                continue
            seen.add(id(part))
            assert permaheap.share(part).get() is part
            stack.extend(part)
            if isinstance(part, Mapping):
                stack.extend(part.values())
