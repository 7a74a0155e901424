"""A slow and obvious twin of freeze and thaw, and a judge that compares the two.

`expected_frozen` and `expected_thaw` say in plain Python what the core must build, out of ordinary
objects. `assert_same_graph` then compares what the core built with what the twin built: values,
exact types, order, hashes, and which objects are one and which are two.
"""

import collections
import datetime
import struct
import sys
from types import EllipsisType, MappingProxyType, NoneType

from permaheap import is_frozen

HAS_FROZENDICT = sys.version_info >= (3, 15)
Mapping = frozendict if HAS_FROZENDICT else MappingProxyType  # noqa: F821 - a builtin of 3.15

ATOMS = (NoneType, bool, int, float, complex, str, bytes, EllipsisType)
MAPPINGS = (
    dict,
    collections.OrderedDict,
    collections.Counter,
    collections.defaultdict,
    MappingProxyType,
    Mapping,
)
DATES = (
    datetime.date,
    datetime.time,
    datetime.datetime,
    datetime.timedelta,
    datetime.timezone,
)


class TwinError(Exception):
    """The twin refuses: freeze must raise FreezeError, at this path."""

    def __init__(self, path, reason):
        super().__init__(f"{reason} at {path}")
        self.path = path


def expected_frozen(obj, default=None):
    """Return what freeze(obj, default=default) must be equal to, or raise TwinError."""
    return _Freezer(default).freeze(obj, "data")


def expected_thaw(frozen):
    """Return what thaw(frozen) must be equal to: its leaves are the very objects of frozen."""
    return _thaw(frozen, {})


def fingerprint(atom):
    """Return what tells atoms apart that are stored apart: the type and every bit of the value."""
    match atom:
        case float():
            bits = struct.pack("<d", atom)
        case complex():
            bits = struct.pack("<dd", atom.real, atom.imag)
        case _:
            bits = atom
    return type(atom), bits


def path_item(key):
    """Return how a path writes the value of a key: ["name"] or [3]."""
    return f'["{key}"]' if type(key) is str else f"[{key!r}]"


def path_field(key):
    """Return how a path writes a value of a mapping that an object was converted into."""
    return f".{key}" if type(key) is str and key.isidentifier() else path_item(key)


class _Freezer:
    """One freeze: the objects that it has seen, and those that it is in the middle of."""

    def __init__(self, default):
        self.default = default
        self.memo = {}  # id of a given object -> (the object, kept alive; its frozen form)
        self.busy = set()  # ids of the objects that are being frozen: meeting one is a cycle
        self.atoms = {}  # fingerprint -> the one atom stored

    def freeze(self, obj, path, converted=False):
        if is_frozen(obj):
            return obj
        if type(obj) in ATOMS:
            return self.atoms.setdefault(fingerprint(obj), obj)
        if type(obj) is bytearray:
            return self.atoms.setdefault((bytes, bytes(obj)), bytes(obj))
        if id(obj) in self.busy:
            raise TwinError(path, "cycle")
        if id(obj) not in self.memo:
            self.busy.add(id(obj))
            self.memo[id(obj)] = obj, self.container(obj, path, converted)
            self.busy.remove(id(obj))
        return self.memo[id(obj)][1]

    def container(self, obj, path, converted):
        kind = type(obj)
        if kind in (list, tuple):
            return tuple([self.freeze(item, f"{path}[{i}]") for i, item in enumerate(obj)])
        if kind in (set, frozenset):
            return self.set(obj, path)
        if kind in MAPPINGS:
            return self.mapping(obj, path, path_field if converted else path_item)
        if kind is slice:
            names = ("start", "stop", "step")
            return slice(*[self.freeze(getattr(obj, n), f"{path}.{n}") for n in names])
        if kind is range:
            return obj
        if kind in DATES:
            return self.date(obj, path)
        return self.other(obj, path)

    def set(self, obj, path):
        frozen = set()
        for element in obj:
            place = f"{path}.element({element!r})"
            self.add(frozen, self.freeze(element, place), place)
        return frozenset(frozen)

    def mapping(self, obj, path, path_value):
        keys = set()
        frozen = {}
        for key, value in obj.items():
            place = f"{path}.key({key!r})"
            frozen_key = self.freeze(key, place)
            self.add(keys, frozen_key, place)
            frozen[frozen_key] = self.freeze(value, path + path_value(key))
        return Mapping(frozen)

    def add(self, seen, key, path):
        try:
            known = key in seen
        except TypeError:
            raise TwinError(path, "unhashable") from None
        if known:
            raise TwinError(path, "equal to an earlier one")
        seen.add(key)

    def date(self, obj, path):
        if type(getattr(obj, "tzinfo", None)) not in (NoneType, datetime.timezone):
            raise TwinError(f"{path}.tzinfo", "unsupported")
        return obj

    def other(self, obj, path):
        if hasattr(type(obj), "__freeze__"):
            return self.freeze(obj.__freeze__(), path, converted=True)
        if self.default is not None:
            return self.freeze(self.default(obj), path, converted=True)
        raise TwinError(path, f"unsupported {type(obj).__name__}")


def _thaw(obj, memo):
    if obj == () and type(obj) is tuple:
        return []  # the one empty tuple stands for any number of lists
    if type(obj) not in (tuple, frozenset, Mapping):
        return obj
    if id(obj) not in memo:
        if type(obj) is tuple:
            memo[id(obj)] = [_thaw(item, memo) for item in obj]
        elif type(obj) is frozenset:
            memo[id(obj)] = set(obj)
        else:
            memo[id(obj)] = {key: _thaw(value, memo) for key, value in obj.items()}
    return memo[id(obj)]


def canonical(obj):
    """Return a hashable stand-in for a frozen key or element: equal only when all bits are."""
    match obj:
        case tuple():
            return tuple, tuple([canonical(item) for item in obj])
        case frozenset():
            return frozenset, frozenset([canonical(item) for item in obj])
        case slice():
            return slice, canonical((obj.start, obj.stop, obj.step))
        case _ if type(obj) is Mapping:
            return Mapping, tuple([(canonical(k), canonical(v)) for k, v in obj.items()])
        case _ if type(obj) in ATOMS:
            return fingerprint(obj)
        case _:
            return type(obj), printed(obj)


def printed(obj, printer=repr):
    """Return repr(obj), or what else prints it, the same for timezone.utc and its equals.

    The one object that is printed as `timezone.utc` is static from 3.13 on only: before, its
    frozen form is an equal timezone, and printed as such.
    """
    return printer(obj).replace("datetime.timezone.utc", "datetime.timezone(datetime.timedelta(0))")


def has_nan(obj):
    """Tell whether a NaN is anywhere in a graph: then == and hash go by identity."""
    match obj:
        case float() | complex():
            return obj != obj
        case tuple() | list() | set() | frozenset():
            return any(has_nan(item) for item in obj)
        case slice():
            return has_nan((obj.start, obj.stop, obj.step))
        case dict() | MappingProxyType():
            return any(has_nan(item) for item in obj.items())
        case _ if type(obj) is Mapping:
            return any(has_nan(item) for item in obj.items())
        case _:
            return False


def assert_same_graph(actual, expected, *, frozen=True):
    """Fail unless actual is built exactly as the twin's expected is.

    With frozen, every object of actual must also be permanent, and equal atoms be one object.
    """
    _Judge(frozen).compare(actual, expected, "data")
    if not has_nan(expected):
        assert actual == expected
        assert expected == actual
        assert not actual != expected


class _Judge:
    """Walks two graphs in step and keeps the one-to-one relation between their containers."""

    def __init__(self, frozen):
        self.frozen = frozen
        self.forward = {}  # id of a container of expected -> that of actual
        self.backward = {}  # and back
        self.atoms = {}  # fingerprint -> id of the atom in actual
        self.kept = []  # what the ids belong to

    def compare(self, actual, expected, path):
        if actual is expected:
            return
        assert type(actual) is type(expected), path
        assert not self.frozen or is_frozen(actual), f"{path} is not frozen: {actual!r}"
        if type(actual) in ATOMS:
            self.compare_atoms(actual, expected, path)
        elif actual != () and not self.met(actual, expected, path):
            self.compare_containers(actual, expected, path)
        elif actual == ():
            assert expected == (), path

    def compare_atoms(self, actual, expected, path):
        assert fingerprint(actual) == fingerprint(expected), path
        assert actual != actual or hash(actual) == hash(expected), path
        if self.frozen:
            self.kept.append(actual)
            stored = self.atoms.setdefault(fingerprint(actual), id(actual))
            assert stored == id(actual), f"{path}: {actual!r} is stored twice"

    def met(self, actual, expected, path):
        """Tell whether the pair was compared before; fail when only one of the two was."""
        before = self.forward.get(id(expected)), self.backward.get(id(actual))
        if before == (None, None):
            self.forward[id(expected)] = id(actual)
            self.backward[id(actual)] = id(expected)
            self.kept.append((actual, expected))
            return False
        if type(actual) in (range, *DATES):
            return True  # values without parts: whether equal ones are merged is left open
        assert before[0] is not None, f"{path}: two objects became one"
        assert before[1] is not None, f"{path}: one object became two"
        assert before == (id(actual), id(expected)), f"{path}: mixed up"
        return True

    def compare_containers(self, actual, expected, path):
        if isinstance(actual, (tuple, list)):
            assert len(actual) == len(expected), path
            for i, pair in enumerate(zip(actual, expected, strict=True)):
                self.compare(*pair, f"{path}[{i}]")
        elif isinstance(actual, (set, frozenset)):
            self.compare_sets(actual, expected, path)
        elif isinstance(actual, (dict, Mapping)):
            self.compare_mappings(actual, expected, path)
        elif isinstance(actual, slice):
            for name in ("start", "stop", "step"):
                self.compare(getattr(actual, name), getattr(expected, name), f"{path}.{name}")
        else:
            assert canonical(actual) == canonical(expected), path
            assert actual == expected, path
            assert hash(actual) == hash(expected), path

    def compare_sets(self, actual, expected, path):
        assert len(actual) == len(expected), path
        pairs = {canonical(element): element for element in expected}
        assert len(pairs) == len(expected), f"{path}: the twin's own elements clash"
        for element in actual:
            assert canonical(element) in pairs, f"{path} has {element!r}"
            self.compare(element, pairs[canonical(element)], f"{path}.element({element!r})")
            self.compare_lookup(actual, element, path)

    def compare_mappings(self, actual, expected, path):
        assert len(actual) == len(expected), path
        pairs = zip(actual.items(), expected.items(), strict=True)
        for (key, value), (expected_key, expected_value) in pairs:
            self.compare(key, expected_key, f"{path}.key({key!r})")
            self.compare(value, expected_value, f"{path}[{key!r}]")
            self.compare_lookup(actual, key, path)
            assert actual[key] is value, path
            if not has_nan(expected_key):
                assert actual[expected_key] is value, path

    def compare_lookup(self, container, key, path):
        assert key in container, f"{path}: {key!r} is there, but not found"
        if not has_nan(key):
            assert hash(key) == hash(_copy(key)), f"{path}: the hash of {key!r}"


def _copy(key):
    """Return an equal key that is not permanent, so that it brings no cached hash."""
    match key:
        case tuple():
            return tuple([_copy(item) for item in key])
        case frozenset():
            return frozenset([_copy(item) for item in key])
        case str():
            return "".join(list(key))
        case bytes():
            return bytes(bytearray(key))
        case _:
            return key
