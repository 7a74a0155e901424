"""Records, beside frozen dataclasses with the same fields."""

import copy
import dataclasses
import inspect
import pickle
import sys

import pytest

import permaheap
from permaheap._record import Record

RECORDS = (permaheap.Stats, permaheap.Immortalized, permaheap.Prefork)


@pytest.fixture(params=RECORDS, ids=lambda record: record.__name__)
def record(request):
    return request.param


@pytest.fixture
def twin(record):
    """A frozen dataclass with the fields and the name of a record."""
    return dataclasses.make_dataclass(
        record.__name__, [*record.__annotations__.items()], frozen=True
    )


def values(record, more=0):
    return {name: number + more for number, name in enumerate(record.__annotations__)}


def test_construction(record, twin):
    expected = twin(**values(record))
    assert vars(record(**values(record))) == vars(expected)
    assert vars(record(*values(record).values())) == vars(expected)
    first, *others = values(record)
    mixed = record(0, **{name: values(record)[name] for name in reversed(others)})
    assert vars(mixed) == vars(expected)
    assert list(vars(mixed)) == [first, *others]


def test_wrong_arguments(record, twin):
    given = values(record)
    first = next(iter(given))
    for cls in (record, twin):
        for positional, named in [
            ([], {}),
            ([], {**given, "other": 1}),
            ([], {name: value for name, value in given.items() if name != first}),
            ([0], given),
            ([*given.values(), 1], {}),
        ]:
            with pytest.raises(TypeError):
                cls(*positional, **named)


def test_repr_equality_and_hash(record, twin):
    one, same, other = (
        record(**values(record)),
        record(**values(record)),
        record(**values(record, 1)),
    )
    assert repr(one) == repr(twin(**values(record)))
    assert one == same
    assert one != other
    assert one != twin(**values(record))
    assert hash(one) == hash(same) == hash(twin(**values(record)))
    with pytest.raises(TypeError, match="unhashable"):
        hash(record(**{name: {} for name in values(record)}))


def test_frozen(record, twin):
    for cls in (record, twin):
        made = cls(**values(record))
        name = next(iter(values(record)))
        with pytest.raises(
            dataclasses.FrozenInstanceError, match=f"^cannot assign to field '{name}'$"
        ):
            setattr(made, name, 1)
        with pytest.raises(
            dataclasses.FrozenInstanceError, match=f"^cannot delete field '{name}'$"
        ):
            delattr(made, name)


def test_functions_of_dataclasses(record, twin):
    made = record(**values(record))
    assert dataclasses.is_dataclass(record)
    assert dataclasses.is_dataclass(made)
    assert dataclasses.asdict(made) == values(record)
    assert dataclasses.astuple(made) == tuple(values(record).values())
    assert [(field.name, field.type) for field in dataclasses.fields(record)] == [
        (field.name, field.type) for field in dataclasses.fields(twin)
    ]
    name = next(iter(values(record)))
    assert dataclasses.replace(made, **{name: 9}) == record(**{**values(record), name: 9})
    if sys.version_info >= (3, 13):
        assert copy.replace(made, **{name: 9}) == record(**{**values(record), name: 9})


def test_signature_and_patterns(record, twin):
    assert inspect.signature(record) == inspect.signature(twin)
    assert record.__match_args__ == twin.__match_args__


def test_copies(record):
    made = record(**values(record))
    assert pickle.loads(pickle.dumps(made)) == made
    assert copy.copy(made) == made
    assert copy.deepcopy(made) == made


def test_subclasses():
    class Point(Record):
        x: int
        y: int

    class Space(Point):
        z: int

    class Same(Space):
        pass

    assert repr(Space(1, 2, z=3)).endswith("Space(x=1, y=2, z=3)")
    assert [field.name for field in dataclasses.fields(Same)] == ["x", "y", "z"]
    assert Same(1, 2, 3) != Space(1, 2, 3)
