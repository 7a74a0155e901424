"""The result of thaw for each kind of object."""

import collections

import pytest

import permaheap
from permaheap import freeze, is_frozen, thaw
from twin import assert_same_graph, expected_thaw


@pytest.mark.parametrize(
    ("given", "thawed"),
    [
        ([1, [2, []]], [1, [2, []]]),
        ((1, (2,)), [1, [2]]),
        ({1, 2}, {1, 2}),
        (frozenset([(1, 2)]), {(1, 2)}),
        ({"a": {"b": [1]}}, {"a": {"b": [1]}}),
        (collections.OrderedDict(b=1, a=2), {"b": 1, "a": 2}),
        (collections.Counter("aab"), {"a": 2, "b": 1}),
        (bytearray(b"abc"), b"abc"),
        ([], []),
        ({}, {}),
        (set(), set()),
        ("text", "text"),
        ([slice(1, [2])], [slice(1, (2,))]),
        ({(1, (2,)): (1, (2,))}, {(1, (2,)): [1, [2]]}),
        ({frozenset([1]): frozenset([2])}, {frozenset([1]): {2}}),
    ],
    ids=repr,
)
def test_thaw(given, thawed):
    frozen = freeze(given)
    assert_same_graph(thaw(frozen), thawed, frozen=False)
    assert_same_graph(thaw(frozen), expected_thaw(frozen), frozen=False)
    assert freeze(thaw(frozen)) == frozen


def test_thawed_is_fresh_and_mutable():
    frozen = freeze({"list": [1], "set": {2}, "dict": {"a": 3}})
    one, two = thaw(frozen), thaw(frozen)
    one["list"].append(4)
    one["set"].add(5)
    one["dict"]["b"] = 6
    one["new"] = [7]
    assert two == {"list": [1], "set": {2}, "dict": {"a": 3}}
    assert frozen == freeze(two)
    assert not any(is_frozen(part) for part in (one, *one.values()))


def test_thaw_keeps_sharing():
    shared = [1]
    thawed = thaw(freeze([shared, shared, [1], {"deep": shared}]))
    assert thawed[0] is thawed[1] is thawed[3]["deep"]
    assert thawed[0] is not thawed[2]


def test_empty_lists_stay_two():
    """The empty tuple is one object in CPython; the lists that it stood for must not be one."""
    thawed = thaw(freeze([[], []]))
    thawed[0].append(1)
    assert thawed == [[1], []]


def test_keys_and_elements_stay_whole():
    frozen = freeze({(1, ("a",)): [(1, ("a",))], "set": {(2, frozenset([3]))}})
    thawed = thaw(frozen)
    assert next(iter(thawed)) is next(iter(frozen))
    assert next(iter(thawed["set"])) is next(iter(frozen["set"]))
    assert type(thawed[1, ("a",)][0]) is list


def test_atoms_are_the_permanent_ones():
    frozen = freeze([10**20, "some text", 1.5, b"bytes"])
    assert all(a is b for a, b in zip(thaw(frozen), frozen, strict=True))


def test_thaw_a_part():
    frozen = freeze({"a": [1, {"b": [2]}]})
    assert thaw(frozen["a"]) == [1, {"b": [2]}]


def test_thaw_of_many():
    given = {f"key {i}": [i, {"n": {i}}] for i in range(50_000)}
    assert thaw(freeze(given)) == given


def test_dicts_of_one_shape_thaw_apart():
    thawed = thaw(freeze([{"a": i, "b": [i]} for i in range(100)]))
    thawed[0]["a"] = "changed"
    thawed[1]["c"] = "added"
    del thawed[2]["b"]
    assert thawed[3:] == [{"a": i, "b": [i]} for i in range(3, 100)]


@pytest.mark.parametrize("obj", [[], [1], {"a": 1}, {1}, object(), 1.5, bytearray(b"x")], ids=repr)
def test_thaw_of_what_is_not_frozen(obj):
    with pytest.raises(TypeError):
        thaw(obj)


@pytest.mark.parametrize("obj", [None, True, 1, "", chr(97), b"", ...], ids=repr)
def test_thaw_of_static(obj):
    assert thaw(obj) is obj


def test_thaw_of_the_empty_tuple():
    assert thaw(freeze([])) == []
    assert thaw(()) == []


def test_thaw_leaves_the_heap_alone():
    frozen = freeze([{"a": [i]} for i in range(1000)])
    before = permaheap.stats()
    for _ in range(5):
        thaw(frozen)
    assert permaheap.stats() == before


@pytest.mark.parametrize("arguments", [(), (1, 2)])
def test_wrong_number_of_arguments(arguments):
    with pytest.raises(TypeError):
        thaw(*arguments)
