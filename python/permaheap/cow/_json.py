"""A profile as JSON, and back: the round trip is exact.

The text is one object:

    {
      "format": "permaheap-cow",
      "version": 1,
      "mode": "trace",                      "diff" or "trace"
      "parent": 1200,                       process id
      "python": "3.14.8",
      "page_size": 4096,                    bytes
      "heap": [[start, end], ...],          address ranges of the Python heap
      "notes": ["..."],
      "parent_samples": [SAMPLE, ...],
      "workers": [
        {"pid": 1201, "command": "gunicorn: worker", "samples": [SAMPLE, ...], "pages": [PAGE, ...]}
      ]
    }
    SAMPLE: {"seconds": 1.5, "private_dirty": 1, "pss": 1, "shared": 1}       sizes in bytes
    PAGE: {"address": 139637976727552, "cause": "reference count", "object": "dict",
           "detail": "ob_refcnt", "neighbours": ["list"], "certain": true}

The fields are those of _model.py's records, in their order. Every field is always present; "object"
and "detail" may be null. "version" is the version of this schema: it grows when a field or a cause
is renamed, removed, or changes its meaning. Readers must ignore unknown fields.

Only one thing changes in a round trip, as everywhere in JSON: two halves of a surrogate pair that
are side by side in a name are read back as the character that they stand for.
"""

import json
from dataclasses import asdict, fields
from typing import Any

from permaheap.cow._model import Cause, Page, Profile, Sample, Worker

FORMAT = "permaheap-cow"
VERSION = 1


def to_json(profile: Profile) -> str:
    """Return the profile as JSON; `from_json` reads it.

    Raises:
        ValueError: a time is infinite or not a number.

    O(pages).
    """
    document = {"format": FORMAT, "version": VERSION} | _record(profile)
    document["workers"] = [
        _record(worker)
        | {"samples": [asdict(sample) for sample in worker.samples]}
        | {"pages": [_record(page) for page in worker.pages]}
        for worker in profile.workers
    ]
    document["parent_samples"] = [asdict(sample) for sample in profile.parent_samples]
    return json.dumps(document, allow_nan=False, separators=(",", ":"))


def from_json(text: str) -> Profile:
    """Return the profile that `to_json` wrote.

    Raises:
        ValueError: the text is not JSON, not a profile, or a profile of another version of the
            schema. The message says where.

    O(pages).
    """
    document = _Node(json.loads(text), "the profile")
    if document.get("format", str, None) != FORMAT:
        raise ValueError(f'not a profile of permaheap cow: its "format" is not "{FORMAT}"')
    version = document.get("version", int)
    if version != VERSION:
        raise ValueError(
            f"this profile has version {version} of the schema, and this permaheap reads "
            f"version {VERSION}; read it with the permaheap that wrote it"
        )
    return Profile(
        mode=document.get("mode", str),
        parent=document.get("parent", int),
        python=document.get("python", str),
        page_size=document.get("page_size", int),
        workers=tuple(_worker(node) for node in document.field("workers").items()),
        heap=tuple(_range(node) for node in document.field("heap", []).items()),
        notes=tuple(node.check(str) for node in document.field("notes", []).items()),
        parent_samples=tuple(
            _sample(node) for node in document.field("parent_samples", []).items()
        ),
    )


def _record(record: Any) -> dict[str, Any]:
    """Return a record's fields without copying them: asdict() would walk every page."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


_REQUIRED = object()


class _Node:
    """A part of the document, and its name for error messages."""

    __slots__ = ("name", "parent", "value")

    def __init__(self, value: Any, name: str | int, parent: "_Node | None" = None) -> None:
        self.value = value
        self.name = name
        self.parent = parent

    @property
    def where(self) -> str:
        """The path to it, as "pid of workers[0] of the profile"."""
        if self.parent is None:
            return str(self.name)
        if isinstance(self.name, int):
            array, _, rest = self.parent.where.partition(" of ")
            return f"{array}[{self.name}] of {rest}"
        return f"{self.name} of {self.parent.where}"

    def check(self, *kinds: type) -> Any:
        """Return the value, which must be of one of the types; a bool is not an int here."""
        if type(self.value) not in kinds:
            names = " or ".join(kind.__name__ for kind in kinds)
            raise ValueError(f"{self.where} is {type(self.value).__name__}, not {names}")
        return self.value

    def field(self, name: str, default: Any = _REQUIRED) -> "_Node":
        """Return a field; it may be missing if there is a default."""
        value = self.check(dict).get(name, default)
        if value is _REQUIRED:
            raise ValueError(f'{self.where} has no "{name}"')
        return _Node(value, name, self)

    def get(self, name: str, kind: type, default: Any = _REQUIRED) -> Any:
        """Return the value of a field, which must be of the type or be the default."""
        node = self.field(name, default)
        return node.value if node.value is default else node.check(kind)

    def items(self) -> "list[_Node]":
        """Return the items of an array."""
        return [_Node(item, index, self) for index, item in enumerate(self.check(list))]


def _worker(node: _Node) -> Worker:
    return Worker(
        pid=node.get("pid", int),
        command=node.get("command", str),
        samples=tuple(_sample(sample) for sample in node.field("samples").items()),
        pages=tuple(_page(page) for page in node.field("pages").items()),
    )


def _sample(node: _Node) -> Sample:
    return Sample(
        seconds=node.field("seconds").check(float, int),
        private_dirty=node.get("private_dirty", int),
        pss=node.get("pss", int),
        shared=node.get("shared", int),
    )


def _page(node: _Node) -> Page:
    name = node.get("cause", str)
    if name not in _CAUSES:
        raise ValueError(f"cause of {node.where} is {name!r}, which this permaheap does not know")
    return Page(
        address=node.get("address", int),
        cause=_CAUSES[name],
        object=node.get("object", str, None),
        detail=node.get("detail", str, None),
        neighbours=tuple(name.check(str) for name in node.field("neighbours", []).items()),
        certain=node.get("certain", bool, True),
    )


_CAUSES = {cause.value: cause for cause in Cause}


def _range(node: _Node) -> tuple[int, int]:
    bounds = node.check(list)
    if len(bounds) != 2:
        raise ValueError(f"{node.where} has {len(bounds)} addresses, not 2")
    start, end = (bound.check(int) for bound in node.items())
    return start, end
