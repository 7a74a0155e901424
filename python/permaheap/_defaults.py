"""Ready-made `default` functions: for `permaheap.freeze`, and for json on frozen objects.

Both follow the convention of `json.dumps`. They get an object that the caller does not take, and
return one that it takes, or raise TypeError. They convert one level; the caller converts the items.
"""

from __future__ import annotations

import sys
from types import MappingProxyType

from permaheap._core import FreezeError

TYPE_CHECKING = False  # the import of typing would be slow
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any


def builtin_default(obj: Any) -> Any:
    """Convert a common standard-library or numpy value into one that `permaheap.freeze` takes.

        >>> permaheap.freeze({"price": Decimal("9.90")}, default=permaheap.builtin_default)

    Args:
        obj: an object that has no frozen form of its own.

    Returns:
        ====================================  =======================================
        an Enum member                        its value
        a namedtuple                          a tuple
        a dataclass, attrs instance           a dict of its fields, in their order
        an object with model_dump (pydantic)  what that returns
        decimal.Decimal, uuid.UUID            its str
        pathlib.PurePath (and Path)           its str
        all of ipaddress                      its str
        a mapping, also a subclass of dict    a dict of its items
        sqlite3.Row                           a dict by column names, which must differ
        sqlalchemy.Row                        a tuple
        a deque, an array.array               a list
        a memoryview                          bytes; a list if its items are no bytes
        a subclass of str, bytes, int,        the same value of that class (bytes for
        float, complex, list, tuple, set      bytearray, set for frozenset)
        a numpy scalar                        its `.item()`, if that is the same value
        a datetime or time with any tzinfo    the same moment, in a `datetime.timezone` of the
                                              same offset that has the name of the zone
        a subclass of datetime, time or       the same value of that class
        timedelta (pandas.Timestamp)
        ====================================  =======================================

    Raises:
        FreezeError: obj is of any other type, or its value would be another one (nanoseconds, a
            time of a zone whose offset depends on the date). `freeze` adds the path.

    It imports none of these modules: an object of a module that is not loaded cannot exist.
    O(1), or O(number of fields or items). The convention is that of
    `json.dumps(default=...)`.
    """
    if _is_instance(obj, "enum", "Enum"):
        return obj.value
    if isinstance(obj, tuple) and isinstance(getattr(type(obj), "_fields", None), tuple):
        return tuple(obj)
    if hasattr(type(obj), "__dataclass_fields__"):
        return _dataclass_fields(obj)
    if hasattr(type(obj), "__attrs_attrs__"):
        return {field.name: getattr(obj, field.name) for field in type(obj).__attrs_attrs__}
    if callable(getattr(type(obj), "model_dump", None)):
        return obj.model_dump()
    for module, name, convert in _CONVERTERS:
        if _is_instance(obj, module, name):
            return convert(obj)
    for base, convert in _BASES:
        if isinstance(obj, base) and type(obj) is not base:
            return convert(obj)
    raise FreezeError(f"builtin_default does not know objects of type {_name(type(obj))}")


def json_default(obj: Any) -> Any:
    """Convert a frozen container that json or orjson does not take into one that they take.

        >>> json.dumps(frozen, default=permaheap.json_default)
        >>> orjson.dumps(frozen, default=permaheap.json_default)

    Args:
        obj: an object that the encoder refused.

    Returns:
        A dict for a mapping (`types.MappingProxyType`, or `frozendict` on 3.15+), a list for a
        frozenset, set or range. The order of a set is arbitrary, as in an iteration.

    Raises:
        TypeError: obj is of any other type (bytes, complex, dates for json, ...).

    O(number of items): one short-lived copy of the container; its items are not copied. The
    convention is that of `json.dumps(default=...)`.
    """
    if isinstance(obj, MappingProxyType):
        copy: Any = obj.copy()  # copies the table of a dict: several times faster than dict(obj)
        return copy if isinstance(copy, dict) else dict(copy)
    if isinstance(obj, (frozenset, set, range)):
        return list(obj)
    if _is_instance(obj, "builtins", "frozendict"):
        return dict(obj)
    raise TypeError(f"Object of type {_name(type(obj))} is not JSON serializable")


def as_dict[K, V](mapping: Mapping[K, V]) -> dict[K, V]:
    """Return a plain dict with the items of a frozen mapping, for code that wants a dict.

        >>> pandas.DataFrame(permaheap.as_dict(frozen))

    Args:
        mapping: a frozen mapping, or any other one.

    Returns:
        A new dict in the same order. Its keys and values are those of the mapping, not copies: a
        mapping inside it stays frozen.

    Raises:
        TypeError: it is no mapping.

    O(number of keys). `thaw` copies the whole graph, in O(objects).
    """
    if isinstance(mapping, MappingProxyType):
        copy: Any = mapping.copy()  # as in json_default
        return copy if type(copy) is dict else dict(copy)
    if not hasattr(type(mapping), "keys"):
        raise TypeError(f"as_dict: a mapping is needed, not {_name(type(mapping))}")
    return dict(mapping)


def _is_instance(obj: Any, module: str, name: str) -> bool:
    """Tell whether obj is an instance of module.name, without importing the module."""
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(obj, cls)


def _dataclass_fields(obj: Any) -> dict[str, Any]:
    """Return the fields of a dataclass instance by name. Unlike asdict(), it does not recurse."""
    import dataclasses  # loaded already, unless obj is a record of this package

    return {field.name: getattr(obj, field.name) for field in dataclasses.fields(obj)}


def _timezone(moment: Any) -> Any:
    """Return the timezone for a datetime or time: its offset, and the name of its zone."""
    import datetime

    zone = moment.tzinfo
    if zone is None or type(zone) is datetime.timezone:
        return zone
    offset = moment.utcoffset()
    if offset is None:
        raise FreezeError(
            f"the offset of {zone} is not known without a date; give the {_name(type(moment))} "
            f"another tzinfo, or none"
        )
    for attribute in ("key", "zone"):  # of zoneinfo, of pytz
        name = getattr(zone, attribute, None)
        if isinstance(name, str):
            break
    else:
        name = moment.tzname()
    if name == "UTC" and not offset:
        return datetime.UTC
    return datetime.timezone(offset, str(name)) if name is not None else datetime.timezone(offset)


def _refuse_nanoseconds(obj: Any) -> None:
    """Refuse a pandas.Timestamp or Timedelta that the classes of datetime cannot hold."""
    if getattr(obj, "nanosecond", 0) or getattr(obj, "nanoseconds", 0):
        raise FreezeError(f"a {_name(type(obj))} with nanoseconds would lose them; round it")


def _datetime(obj: Any) -> Any:
    import datetime

    if obj != obj:  # pandas.NaT, which is an instance of datetime
        raise FreezeError("NaT is no datetime; replace it by None")
    _refuse_nanoseconds(obj)
    date = (obj.year, obj.month, obj.day)
    clock = (obj.hour, obj.minute, obj.second, obj.microsecond)
    return datetime.datetime(*date, *clock, _timezone(obj), fold=obj.fold)


def _time(obj: Any) -> Any:
    import datetime

    clock = (obj.hour, obj.minute, obj.second, obj.microsecond)
    return datetime.time(*clock, _timezone(obj), fold=obj.fold)


def _timedelta(obj: Any) -> Any:
    import datetime

    _refuse_nanoseconds(obj)
    return datetime.timedelta(obj.days, obj.seconds, obj.microseconds)


def _numpy_scalar(obj: Any) -> Any:
    """Return the Python object of the same value. numpy makes a bare int of some dates."""
    item = obj.item()
    if type(item) is type(obj):  # a longdouble returns itself: no Python type equals it
        raise FreezeError(f"no Python type has the values of {_name(type(obj))}")
    numpy = sys.modules["numpy"]
    if isinstance(item, int) and isinstance(obj, (numpy.datetime64, numpy.timedelta64)):
        if numpy.datetime_data(obj.dtype)[0] in ("ns", "ps", "fs", "as"):
            same = obj.astype("M8[us]" if isinstance(obj, numpy.datetime64) else "m8[us]")
            item = same.item() if same == obj else item
        if isinstance(item, int):
            raise FreezeError(f"no object of datetime has the value of {obj!r}; round it")
    return item


def _date(obj: Any) -> Any:
    import datetime

    return datetime.date(obj.year, obj.month, obj.day)


def _items(obj: Any) -> Any:
    return dict(obj.items())


def _row(obj: Any) -> Any:
    """Return the columns of a sqlite3.Row by name. Two of one name would become one."""
    names = obj.keys()
    if len(set(names)) < len(names):
        raise FreezeError(f"two columns of this sqlite3.Row have one name, of {names}; use AS")
    return dict(zip(names, obj, strict=True))


def _memory(obj: Any) -> Any:
    return obj.tobytes() if obj.format in ("B", "b", "c") and obj.ndim == 1 else obj.tolist()


# By module and name of the class. numpy comes before the bases: some of its scalars are floats.
_CONVERTERS: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("decimal", "Decimal", str),
    ("uuid", "UUID", str),
    ("pathlib", "PurePath", str),
    ("ipaddress", "_IPAddressBase", str),  # of addresses, networks and interfaces
    ("datetime", "datetime", _datetime),
    ("datetime", "date", _date),
    ("datetime", "time", _time),
    ("datetime", "timedelta", _timedelta),
    ("numpy", "generic", _numpy_scalar),
    ("collections", "deque", list),
    ("array", "array", lambda obj: obj.tolist()),
    ("builtins", "memoryview", _memory),
    ("sqlite3", "Row", _row),
    ("sqlalchemy.engine", "Row", tuple),
    ("collections.abc", "Mapping", _items),
)

_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (complex, complex.__complex__),
    (bytes, bytes.__bytes__),
    (bytearray, bytes),
    (list, list),
    (tuple, tuple),
    (set, set),
    (frozenset, set),
)


def _name(cls: type) -> str:
    """Name a type with its module, unless it is built in."""
    return (
        cls.__qualname__ if cls.__module__ == "builtins" else f"{cls.__module__}.{cls.__qualname__}"
    )
