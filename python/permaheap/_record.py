"""Records: frozen dataclasses that do without the import of dataclasses.

`dataclasses` imports inspect, ast, dis and re, which are several times as large as permaheap. A
subclass of `Record` behaves as if `dataclass(frozen=True)` had made it; its fields have no
defaults. Type checkers know this by `dataclass_transform` (PEP 681). The functions of `dataclasses`
and `inspect` find the attributes that they need: `dataclass` itself makes them when they ask.
"""

from __future__ import annotations

TYPE_CHECKING = False  # the import of typing would be slow
if TYPE_CHECKING:
    from dataclasses import Field
    from typing import Any, ClassVar, Self, dataclass_transform
else:

    def dataclass_transform(**_):
        """Do nothing, without the import of typing."""
        return lambda cls: cls


class _FromDataclass:
    """A class attribute of a dataclass, such as __dataclass_fields__, made when it is used."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, record: object, cls: type[Record]) -> Any:
        from dataclasses import make_dataclass
        from inspect import signature

        twin = make_dataclass(cls.__name__, cls._types.items(), frozen=True)
        return signature(twin) if self.name == "__signature__" else getattr(twin, self.name)


@dataclass_transform(frozen_default=True)
class Record:
    """The base of all records.

    A subclass annotates its fields. Its constructor takes their values, by position or by name.
    Records of one class are equal if their fields are. All of it costs O(number of fields).
    """

    _types: ClassVar[dict[str, Any]] = {}  # of the fields, by name
    __match_args__: ClassVar[tuple[str, ...]] = ()
    if TYPE_CHECKING:
        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    else:
        __dataclass_fields__ = _FromDataclass()
        __dataclass_params__ = _FromDataclass()
        __signature__ = _FromDataclass()

    def __init_subclass__(cls) -> None:
        cls._types = cls._types | cls.__annotations__
        cls.__match_args__ = tuple(cls._types)  # type: ignore[misc]

    def __init__(self, *values: Any, **named: Any) -> None:
        names = self.__match_args__
        given = dict(zip(names, values, strict=False)) | named
        if given.keys() != set(names) or len(values) + len(named) != len(names):
            raise TypeError(
                f"{type(self).__qualname__}() takes each of its fields once: {', '.join(names)}; "
                f"{len(values)} were given by position and {', '.join(named) or 'none'} by name"
            )
        vars(self).update((name, given[name]) for name in names)

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__qualname__}({fields})"

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash(tuple(vars(self).values()))

    def __setattr__(self, name: str, value: object) -> None:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot assign to field {name!r}")

    def __delattr__(self, name: str) -> None:
        from dataclasses import FrozenInstanceError

        raise FrozenInstanceError(f"cannot delete field {name!r}")

    def __replace__(self, **changes: Any) -> Self:
        return type(self)(**(vars(self) | changes))
