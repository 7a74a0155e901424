"""Graphs of all kinds of ordinary objects, made by a plan, so that any number of twins can be made.

A plan is a list of nodes, (kind, number, earlier nodes); steps are (node, action, number, node).
The portrait of an object says all that can be seen of it but where it lies.
"""

import array
import collections
import contextlib
import copy
import ctypes
import dataclasses
import datetime
import decimal
import enum
import fractions
import functools
import itertools
import operator
import pickle
import re
import struct
import types
import uuid
import weakref

# --- Classes --------------------------------------------------------------------------------------


class Inline:
    """Its attributes are in the object itself until a program asks for its __dict__."""

    def __init__(self, number, parts):
        self.number = number
        self.parts = parts

    def method(self, extra=0):
        return self.number, len(self.parts), extra

    @property
    def doubled(self):
        return 2 * self.number

    @functools.cached_property
    def cached(self):
        return [self.number]


class Slotted:
    """With slots, one of them empty."""

    __slots__ = ("__weakref__", "empty", "number", "parts")

    def __init__(self, number, parts):
        self.number = number
        self.parts = parts


class Mixed(Slotted):
    """With slots and a __dict__."""


class Text(str):
    """A str with attributes."""


class Number(int):
    """An int with attributes."""


class Entries(dict):
    """A dict with attributes."""


class Noted:
    """Its end is written down."""

    def __init__(self, number, end):
        self.number = number
        self.end = end

    def __del__(self):
        self.end(self.number)


class Color(enum.Enum):
    """Members are there once."""

    RED = 1
    GREEN = "green"


class Flags(enum.Flag):
    """Members are made when first asked for."""

    A = 1
    B = 2
    C = 4


@dataclasses.dataclass
class Record:
    """A plain one."""

    number: int
    parts: list
    extra: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class FrozenRecord:
    """A hashable one with slots."""

    number: int
    name: str


Point = collections.namedtuple("Point", "x y")


class Pair(ctypes.Structure):
    """A C struct."""

    _fields_ = (("first", ctypes.c_int), ("second", ctypes.c_double))


class Trouble(Exception):
    """An exception with a traceback."""


# --- Making ---------------------------------------------------------------------------------------

ATOMS = [
    lambda n: n,
    lambda n: n % 300 - 20,
    lambda n: 10**20 + n,
    lambda n: n / 7,
    lambda n: complex(n, -n),
    lambda n: f"text {n}",
    lambda n: f"té\u20acxt {n}",
    lambda n: "".join(["__", "iter" if n % 2 else "len", "__"]),
    lambda n: f"bytes {n}".encode(),
    lambda n: None,
    lambda n: (n, str(n)),
    lambda n: frozenset([n, str(n)]),
    lambda n: range(n, n + 5),
    lambda n: decimal.Decimal(n) / 8,
    lambda n: fractions.Fraction(n, 9),
    lambda n: datetime.datetime(
        2000 + n % 30, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(hours=n % 12), f"zone {n}")
    ),
    lambda n: datetime.timedelta(n),
    lambda n: uuid.UUID(int=n),
    lambda n: Point(n, str(n)),
    lambda n: FrozenRecord(n, str(n)),
    lambda n: [Color.RED, Color.GREEN][n % 2],
    lambda n: Flags(n % 8),
]


def atom(number):
    """Return a hashable value, mostly a new object."""
    return ATOMS[number % len(ATOMS)](number)


def _items(number, parts):
    return {atom(number + 31 * i): part for i, part in enumerate(parts)}


def _materialized(number, parts):
    obj = Inline(number, parts)
    obj.__dict__["more"] = atom(number)
    return obj


def _mixed(number, parts):
    obj = Mixed(number, parts)
    obj.more = atom(number)
    return obj


def _with_attribute(cls, value, parts):
    obj = cls(value)
    obj.parts = parts
    return obj


def _closure(number, parts):
    value = atom(number)

    def outer(first, *, keyword=value):
        nonlocal number
        number += 1
        inner = lambda: (number, parts, "a constant", 2.5, (1, "x"))  # noqa: E731
        return first, keyword, inner()

    return outer


def _compiled(number, parts):
    source = f"""
def compiled(x, default="default {number}"):
    def inner(y): return x, y, {number}.25, "constant {number}", ({number}, b"b{number}")
    return [inner(i) for i in range(3)]
"""
    namespace = {"parts": parts}
    exec(compile(source, f"<compiled {number}>", "exec"), namespace)
    return namespace["compiled"]


def _generator(number, parts):
    def generate(parts):
        received = []
        try:
            for i, part in enumerate(parts):
                received.append((yield i, number, part))
            yield from (each for each in received)
        finally:
            received.append(number)

    generator = generate(parts)
    if number % 2:
        next(generator, None)
    return generator


def _class(number, parts):
    def __init__(self):
        self.parts = parts

    namespace = {
        "__init__": __init__,
        "constant": atom(number),
        "number": property(lambda self: number),
        "of_class": classmethod(lambda cls: cls.constant),
        "static": staticmethod(lambda: number),
    }
    return type(f"Class{number}", (Inline,) if number % 2 else (), namespace)


def _deeper(number, parts, depth):
    local = [number, len(parts)]
    if depth == 0:
        raise Trouble(atom(number), *parts)
    try:
        _deeper(number, parts, depth - 1)
    except Trouble as error:
        if depth == 2:
            raise ValueError(local) from error
        raise


def _exception(number, parts):
    try:
        _deeper(number, parts, number % 4)
    except (Trouble, ValueError) as error:
        error.add_note(f"note {number}")
        return error


def _cached(number, parts):
    @functools.lru_cache(maxsize=4)
    def cached(x):
        return [x, number, len(parts)]

    cached(1)
    return cached


def _weak_values(number, parts):
    values = weakref.WeakValueDictionary()
    for i, part in enumerate(parts):
        with contextlib.suppress(TypeError):
            values[number + i] = part
    return values


def _weak_reference(number, parts):
    for part in parts:
        with contextlib.suppress(TypeError):
            return weakref.ref(part)
    return weakref.ref(Inline)


def _iterator(number, parts):
    iterator = iter([*parts, number, number])
    next(iterator)
    return iterator


KINDS = {
    "list": lambda n, parts: [atom(n), *parts],
    "tuple": lambda n, parts: (atom(n), *parts),
    "dict": _items,
    "dict of str": lambda n, parts: {f"key {i}": part for i, part in enumerate([n, *parts])},
    "set": lambda n, parts: {atom(n + i) for i in range(n % 12)},
    "OrderedDict": lambda n, parts: collections.OrderedDict(_items(n, parts)),
    "defaultdict": lambda n, parts: collections.defaultdict(list, _items(n, parts)),
    "Counter": lambda n, parts: collections.Counter(str(n) * 3),
    "ChainMap": lambda n, parts: collections.ChainMap(_items(n, parts), {"other": n}),
    "deque": lambda n, parts: collections.deque([atom(n), *parts] * (n % 30), 100),
    "mappingproxy": lambda n, parts: types.MappingProxyType(_items(n, parts)),
    "namespace": lambda n, parts: types.SimpleNamespace(number=n, parts=parts),
    "array": lambda n, parts: array.array("d", [n] * (n % 20)),
    "bytearray": lambda n, parts: bytearray(str(n).encode() * 3),
    "memoryview": lambda n, parts: memoryview(bytearray(str(n).encode() * 4)),
    "struct": lambda n, parts: Pair(n, n / 2),
    "c array": lambda n, parts: (ctypes.c_int * 4)(n, 1, 2, 3),
    "packer": lambda n, parts: struct.Struct(f"<{n % 9 + 1}i"),
    "pattern": lambda n, parts: re.compile(rf"(?P<name>x{n})+|(\d)"),
    "match": lambda n, parts: re.match(r"(?P<name>\w+) (\d+)", f"text {n}"),
    "Inline": Inline,
    "materialized": _materialized,
    "Slotted": Slotted,
    "Mixed": _mixed,
    "Text": lambda n, parts: _with_attribute(Text, f"text {n}", parts),
    "Number": lambda n, parts: _with_attribute(Number, n, parts),
    "Entries": lambda n, parts: _with_attribute(Entries, {"n": n}, parts),
    "Record": Record,
    "enum": lambda n, parts: [Color(1), Flags(n % 8)],
    "partial": lambda n, parts: functools.partial(operator.add, (n, *parts)),
    "closure": _closure,
    "compiled": _compiled,
    "bound method": lambda n, parts: Inline(n, parts).method,
    "class": _class,
    "instance of a class": lambda n, parts: _class(n, parts)(),
    "property": lambda n, parts: property(_closure(n, parts)),
    "exception": _exception,
    "cached": _cached,
    "generator": _generator,
    "iterator": _iterator,
    "iterators": lambda n, parts: zip(itertools.count(n), map(id, []), itertools.chain(parts)),
    "weak reference": _weak_reference,
    "weak values": _weak_values,
    "alias": lambda n, parts: [dict[str, list[int]], int | None],
}


def make(plan, end):
    """Return the objects of a plan, in one list; those that are `Noted` call end(number)."""
    pool = []
    for kind, number, earlier in plan:
        parts = [pool[i % len(pool)] for i in earlier if pool]
        if number % 3 == 0:
            parts.append(Noted(number, end))
        pool.append(KINDS[kind](number, parts))
    return pool


# Not interned.
SLOTS = ["".join(["__", name, "__"]) for name in ("iter", "next")]

# --- Acting ---------------------------------------------------------------------------------------


def _list(obj, action, value, other):
    match action % 9:
        case 0:
            obj.append(other)
        case 1:
            obj[len(obj) // 2 :] = [value] * (value % 40 if type(value) is int else 3)
        case 2:
            return obj.pop()
        case 3:
            obj.reverse()
        case 4:
            del obj[:1]
        case 5:
            obj.extend(obj[:50])
        case 6:
            obj.sort(key=lambda each: type(each).__name__)
        case 7:
            return obj * 2, obj[::2], value in obj
        case 8:
            obj.clear()
    return None


def _dict(obj, action, value, other):
    match action % 9:
        case 0:
            obj[value] = other
        case 1:
            return obj.popitem()
        case 2:
            obj.update({f"new {i}": value for i in range(20)})
        case 3:
            return list(obj), list(obj.values()), len(obj)
        case 4:
            return dict(obj), obj.get(value)
        case 5:
            return obj.setdefault(value, other)
        case 6:
            for key in list(obj)[::2]:
                del obj[key]
        case 7:
            return obj | {"other": other}
        case 8:
            obj.clear()
    return None


def _set(obj, action, value, other):
    match action % 6:
        case 0:
            obj.add(value)
        case 1:
            obj |= set(range(30))
        case 2:
            obj.discard(value)
        case 3:
            return obj ^ {value, 1, 2}
        case 4:
            obj.clear()
        case 5:
            return len(obj), value in obj, frozenset(obj)
    return None


def _deque(obj, action, value, other):
    match action % 5:
        case 0:
            obj.append(other)
        case 1:
            obj.appendleft(value)
        case 2:
            return obj.pop()
        case 3:
            obj.rotate(3)
        case 4:
            obj.clear()
    return None


def _buffer(obj, action, value, other):
    match action % 4:
        case 0:
            obj.extend(obj)
        case 1:
            obj[0] = 1
        case 2:
            return obj.pop()
        case 3:
            return bytes(obj), obj[::-1]
    return None


def _instance(obj, action, value, other):
    names = ["number", "parts", "new", "newer", "empty", "__dict__", "__class__", "items", "items"]
    name = names[action % 9]
    if name == "items":  # its dict takes leave of the keys of its class
        obj.__dict__[value] = other
        obj.__dict__.update({f"{value} {i}": i for i in range(40)})
    elif name == "__dict__":
        obj.__dict__ = {"number": value, "parts": [other]}
    elif name == "__class__":
        obj.__class__ = type(obj)
    elif action % 2:
        setattr(obj, name, other)
    elif action % 3:
        delattr(obj, name)
    elif hasattr(obj, "method"):
        return obj.method(), obj.doubled, obj.cached
    return getattr(obj, name, None)


def _type(obj, action, value, other):
    match action % 5:
        case 0:
            obj.constant = other
        case 1:
            obj.__call__ = lambda self: value
            return obj()()
        case 2:
            return obj(), obj().number, obj.static(), obj.of_class()
        case 3:
            return type("Sub", (obj,), {"__slots__": ()})
        case 4:
            for name in SLOTS:
                setattr(obj, name, lambda self: self)
            made = obj()
            return iter(made) is next(made) is made
    return None


def _function(obj, action, value, other):
    match action % 4:
        case 0:
            obj.attribute = other
        case 1:
            obj.__defaults__ = (value,)
            return obj.__defaults__
        case 2:
            return [obj(i) for i in range(40)][-1]  # until it is specialized
        case 3:
            obj.__code__ = obj.__code__.replace(co_name="renamed")
    return None


def _generator_step(obj, action, value, other):
    match action % 4:
        case 0 | 1:
            return next(obj)
        case 2:
            return obj.send(value)
        case 3:
            return obj.close()


def _exception_step(obj, action, value, other):
    match action % 3:
        case 0:
            obj.args = (value, other)
        case 1:
            obj.__context__ = Trouble(value)
        case 2:
            try:
                raise obj
            finally:
                obj.attribute = other


def _other(obj, action, value, other):
    match action % 4:
        case 0:
            return bool(obj), isinstance(obj, collections.abc.Hashable)
        case 1:
            return list(obj)
        case 2:
            return obj(value)
        case 3:
            return obj == copy.copy(obj)


STEPS = {
    list: _list,
    dict: _dict,
    Entries: _dict,
    collections.OrderedDict: _dict,
    collections.defaultdict: _dict,
    collections.ChainMap: _dict,
    set: _set,
    collections.deque: _deque,
    bytearray: _buffer,
    array.array: _buffer,
    Inline: _instance,
    Slotted: _instance,
    Mixed: _instance,
    Record: _instance,
    Text: _instance,
    Number: _instance,
    types.SimpleNamespace: _instance,
    type: _type,
    types.FunctionType: _function,
    types.GeneratorType: _generator_step,
    Trouble: _exception_step,
    ValueError: _exception_step,
}


def act(pool, step):
    """Do something to one object of the pool; return what can be seen of the result."""
    target, action, number, other = step
    obj, other = pool[target % len(pool)], pool[other % len(pool)]
    try:
        match action % 8:
            case 0:
                result = copy.copy(obj)
            case 1:
                result = pickle.loads(pickle.dumps(obj))
            case 2:
                result = copy.deepcopy(obj)
            case _:
                step = STEPS.get(type(obj), _other)
                result = step(obj, action // 8, atom(number), other)
    except Exception as error:
        return portrait(error)
    return portrait(result)


# --- Looking --------------------------------------------------------------------------------------

_PLAIN = (
    *(int, float, complex, str, bytes, bool, type(None), bytearray, range, decimal.Decimal),
    *(fractions.Fraction, datetime.datetime, datetime.timedelta, uuid.UUID),
    *(array.array, re.Pattern, re.Match, types.GenericAlias, types.UnionType),
)


def _scrubbed(text):
    return re.sub(r"0x[0-9a-f]+", "0x", text)


def _code(code):
    consts = [_code(each) if isinstance(each, types.CodeType) else each for each in code.co_consts]
    return code.co_name, code.co_names, code.co_varnames, code.co_filename, consts


def _traceback(error):
    lines, at = [], error.__traceback__
    while at is not None:
        if at.tb_frame.f_code.co_filename == __file__:
            lines.append((at.tb_frame.f_code.co_name, at.tb_lineno))
        at = at.tb_next
    return lines[:20]


def _pairs(obj):
    for key, value in obj.items():
        yield "key", key
        yield "value", value


def _of_function(obj):
    yield _scrubbed(repr(_code(obj.__code__))), obj.__defaults__
    yield "keyword defaults", obj.__kwdefaults__
    for cell in obj.__closure__ or ():
        with contextlib.suppress(ValueError):
            yield "cell", cell.cell_contents


def _of_exception(obj):
    yield repr(_traceback(obj)), obj.args
    yield "cause", obj.__cause__
    yield "context", obj.__context__


def _of_class(obj):
    if obj.__module__ == __name__ and obj.__name__.startswith("Class"):
        for key, value in vars(obj).items():
            if key[:2] != "__":
                yield key, value


def _of_generator(obj):
    yield from dict(obj.gi_frame.f_locals).items() if obj.gi_frame else ()


def _attributes(obj):
    slots = [name for cls in type(obj).__mro__ for name in cls.__dict__.get("__slots__", ())]
    for name in slots:
        if name[0] != "_" and hasattr(obj, name):
            yield name, getattr(obj, name)
    if not isinstance(obj, type):
        yield from getattr(obj, "__dict__", {}).items()


# The contents of an object, as pairs of a text and a part.
CONTENTS = [
    (Noted, lambda obj: [("number", obj.number)]),
    (weakref.WeakValueDictionary, _pairs),
    ((tuple, list, collections.deque), lambda obj: [("item", each) for each in obj]),
    ((set, frozenset), lambda obj: [(repr(sorted(map(repr, obj))), None)]),
    (collections.abc.Mapping, lambda obj: [*_pairs(obj), *_attributes(obj)]),
    ((memoryview, ctypes.Structure, ctypes.Array), lambda obj: [(repr(bytes(obj)), None)]),
    (types.FunctionType, lambda obj: [*_of_function(obj), *_attributes(obj)]),
    (types.MethodType, lambda obj: [("function", obj.__func__), ("self", obj.__self__)]),
    (functools.partial, lambda obj: [("f", obj.func), ("a", obj.args), ("k", obj.keywords)]),
    (types.GeneratorType, _of_generator),
    (property, lambda obj: [("fget", obj.fget)]),
    (BaseException, lambda obj: [*_of_exception(obj), *_attributes(obj)]),
    (weakref.ref, lambda obj: [("to", obj())]),
    (type, lambda obj: [(obj.__name__, None), *_of_class(obj)]),
    (object, _attributes),
]


def _parts(obj):
    return next(parts for kinds, parts in CONTENTS if isinstance(obj, kinds))(obj)


def portrait(root):
    """Return a line for each object that is reached, the first for the root; equal for twins."""
    numbers, todo = {}, []

    def name(obj):
        if type(obj) in _PLAIN or isinstance(obj, enum.Enum):
            return _scrubbed(repr(obj))
        if id(obj) not in numbers:
            numbers[id(obj)] = len(todo)
            todo.append(obj)
        return f"#{numbers[id(obj)]}"

    lines = [name(root)]
    for obj in todo:  # it grows
        parts = ", ".join(f"{text}: {name(part)}" for text, part in _parts(obj))
        value = str.__str__(obj) if isinstance(obj, str) else ""
        value = int.__repr__(obj) if isinstance(obj, int) else value
        lines.append(f"{type(obj).__name__} {value} {parts}")
    return lines
