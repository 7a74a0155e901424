"""hypothesis strategies: random graphs of everything that freeze takes."""

import collections
import datetime
import struct
from types import MappingProxyType

from hypothesis import strategies as st

import permaheap
from twin import Mapping


class Keyed:
    """A hostile key: all of them have one hash, and equality goes by an unrelated tag."""

    def __init__(self, tag, frozen):
        self.tag = tag
        self.frozen = frozen

    def __hash__(self):
        return 7

    def __eq__(self, other):
        return isinstance(other, Keyed) and self.tag == other.tag

    def __freeze__(self):
        return self.frozen

    def __repr__(self):
        return f"Keyed({self.tag!r}, {self.frozen!r})"


class Freezable:
    """Freezes into its payload by __freeze__."""

    def __init__(self, payload):
        self.payload = payload

    def __freeze__(self):
        return self.payload

    def __repr__(self):
        return f"Freezable({self.payload!r})"


class Plain:
    """Freezes into its payload by `default` only."""

    def __init__(self, payload):
        self.payload = payload

    def __repr__(self):
        return f"Plain({self.payload!r})"


def default(obj):
    """Convert Plain, as the callback of freeze."""
    if isinstance(obj, Plain):
        return obj.payload
    raise TypeError(f"unexpected {obj!r}")


def _float(bits):
    return struct.unpack("<d", bits)[0]


# Any 64 bits: every NaN payload and sign, denormals, infinities. A new object each time.
float_bits = st.binary(min_size=8, max_size=8).map(_float)
floats = st.one_of(st.floats().map(lambda x: _float(struct.pack("<d", x))), float_bits)
integers = st.one_of(
    st.integers(-7, 260),  # around the ends of the interpreter's table of small ints
    st.integers(),
    st.builds(
        lambda power, offset, sign: sign * ((1 << power) + offset),
        st.sampled_from([15, 30, 31, 60, 62, 63, 64, 90, 1000, 5000]),
        st.integers(-2, 2),
        st.sampled_from([1, -1]),
    ),
)
characters = st.characters(exclude_categories=())  # with lone surrogates
texts = st.one_of(
    st.text(st.characters(max_codepoint=127), max_size=12),
    st.text(st.characters(max_codepoint=255), max_size=6),
    st.text(characters, max_size=6),
    st.sampled_from(["", "\0", "a\0b", "\ud800", "\udfff", "é", "\xff", "\u0100", "\U0010ffff"]),
).map(lambda text: "".join(list(text)))
look_alikes = st.sampled_from(
    [0, 1, -1, 0.0, -0.0, 1.0, 0j, -0j, 1 + 0j, False, True, "", "0", "1", b"", b"0", b"1"]
).map(lambda x: _float(struct.pack("<d", x)) if type(x) is float else x)

timezones = st.one_of(
    st.just(datetime.UTC),
    st.builds(
        datetime.timezone,
        st.timedeltas(datetime.timedelta(hours=-23), datetime.timedelta(hours=23)),
    ),
    st.builds(
        datetime.timezone,
        st.timedeltas(datetime.timedelta(hours=-23), datetime.timedelta(hours=23)),
        st.text(max_size=4),
    ),
)
maybe_timezones = st.none() | timezones


@st.composite
def times(draw):
    """Draw a time with a fold, with or without a time zone."""
    return draw(st.times()).replace(tzinfo=draw(maybe_timezones), fold=draw(st.integers(0, 1)))


@st.composite
def datetimes(draw):
    """Draw a datetime with a fold, with or without a time zone."""
    return draw(st.datetimes()).replace(tzinfo=draw(maybe_timezones), fold=draw(st.integers(0, 1)))


dates = st.one_of(st.dates(), times(), datetimes(), st.timedeltas(), timezones)
ranges = st.builds(range, integers, integers, integers.filter(bool))
hashable_atoms = st.one_of(
    st.none(),
    st.booleans(),
    st.just(...),
    integers,
    floats,
    st.builds(complex, floats, floats),
    texts,
    st.binary(max_size=12).map(lambda data: bytes(bytearray(data))),
    look_alikes,
    ranges,
    dates,
)
atoms = hashable_atoms | st.binary(max_size=12).map(bytearray)

# Keys of a frozen mapping: hashable, and no part is a mapping.
keys = st.recursive(
    hashable_atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(tuple),
        st.frozensets(inner, max_size=3),
        st.builds(slice, inner, inner, inner),
        st.builds(Keyed, st.integers(0, 3), inner),
    ),
    max_leaves=6,
)

CONTAINERS = (
    "list", "tuple", "set", "frozenset", "dict", "OrderedDict", "Counter", "defaultdict",
    "mappingproxy", "slice", "Freezable", "Plain", "frozen",
)  # fmt: skip


def _mapping(kind, items):
    if kind == "defaultdict":
        return collections.defaultdict(list, items)
    if kind == "mappingproxy":
        return MappingProxyType(items)
    return {"dict": dict, "OrderedDict": _reordered, "Counter": collections.Counter}[kind](items)


def _reordered(items):
    """Make an OrderedDict with another order than that of the dict inside it."""
    ordered = collections.OrderedDict(items)
    if ordered:
        ordered.move_to_end(next(iter(ordered)))
    return ordered


@st.composite
def graphs(draw, max_nodes=8):
    """Draw a graph without cycles: each node's parts are atoms or earlier nodes, so shared."""
    pool = []

    def parts(limit=4):
        one = atoms | st.sampled_from(pool) if pool else atoms
        return draw(st.lists(one, max_size=limit))

    for _ in range(draw(st.integers(1, max_nodes))):
        kind = draw(st.sampled_from(CONTAINERS))
        match kind:
            case "list" | "tuple":
                node = {"list": list, "tuple": tuple}[kind](parts())
            case "set" | "frozenset":
                node = {"set": set, "frozenset": frozenset}[kind](draw(st.sets(keys, max_size=5)))
            case "slice":
                node = slice(*(parts(3) + [None] * 3)[:3])
            case "Freezable" | "Plain":
                node = {"Freezable": Freezable, "Plain": Plain}[kind](parts(1) or {"a": [1]})
            case "frozen":
                node = permaheap.freeze({"already": [draw(texts), draw(floats)]})
            case _:
                values = parts()
                names = draw(st.lists(keys, min_size=len(values), max_size=len(values)))
                node = _mapping(kind, dict(zip(names, values, strict=True)))
        pool.append(node)
    return draw(st.sampled_from([pool[-1], pool, tuple(pool), {"root": pool}]))


def frozen_mapping(**items):
    """Return a frozen mapping of the running version, made without permaheap."""
    return Mapping(items)
