"""From the record of a first write to a `Page`: the object, the field, and the function."""

from functools import cached_property
from pathlib import Path

from permaheap.cow import _blame
from permaheap.cow._blame import Locate
from permaheap.cow._model import Cause, Page
from permaheap.cow._proc import PAGE
from permaheap.cow._symbols import symbols_of
from permaheap.cow._trace_file import Child, Maps, Write

_HEAP = "[heap]"


class Judge:
    """Names the causes of one child's first writes."""

    def __init__(self, child: Child, locate: Locate | None) -> None:
        """Judge by the child's memory when it was forked; `locate` finds its objects, if given."""
        self._child = child
        self._locate = locate or (lambda address: None)
        self._functions: dict[int, tuple[str, str | None]] = {}

    @cached_property
    def _maps_now(self) -> Maps:
        """The child's mappings now, with files that it has loaded since; empty if it has ended."""
        try:
            return Maps(Path(f"/proc/{self._child.pid}/maps").read_text())
        except OSError:
            return Maps("")

    def page(self, write: Write) -> Page:
        """Return the `Page` of a first write."""
        code, function = self._function(write.instruction)
        place = self._locate(write.address)
        name: str | None = None
        field: str | None = None
        certain = True
        if self._child.maps.in_stack(write.address):
            cause = Cause.STACK
        elif place is not None:
            cause, field = _blame.by_place(place, function)
            name = place[0]
        else:
            name = self._mapping(write.address)
            cause, certain = _elsewhere(name, code, function)
        return Page(
            write.address // PAGE * PAGE,
            cause,
            name,
            _detail(field, function or code, write),
            certain=certain,
        )

    def _mapping(self, address: int) -> str | None:
        """Return the name of the mapping of an address, or None for anonymous memory."""
        mapping = self._child.maps.find(address)
        return _base(mapping.name) if mapping is not None and mapping.name else None

    def _function(self, instruction: int) -> tuple[str, str | None]:
        """Return the names of the file and of the function that contain an instruction."""
        if instruction not in self._functions:
            self._functions[instruction] = self._look_up(instruction)
        return self._functions[instruction]

    def _look_up(self, instruction: int) -> tuple[str, str | None]:
        found = self._child.maps.find(instruction) or self._maps_now.find(instruction)
        if found is None or not found.name.startswith("/"):
            return (found.name if found else "") or "unknown code", None
        offset = instruction - found.start + found.offset
        return _base(found.name), symbols_of(found.name).at(offset)


def _elsewhere(mapping: str | None, code: str, function: str | None) -> tuple[Cause, bool]:
    """Return the cause of a write where no object is known, and whether it is certain."""
    if mapping not in (None, _HEAP):
        return Cause.OTHER_MAPPING, True
    cause = _blame.by_function(function)
    if cause is not None:
        return cause, True
    if code.startswith(("libc.", "libc-")):
        return Cause.MALLOC, mapping == _HEAP  # elsewhere it may copy data for any function
    if code.startswith(("python", "libpython")):  # stripped, or the table lacks the function
        return (Cause.MALLOC if mapping == _HEAP else Cause.NEW_OBJECT), False
    return Cause.UNKNOWN, False


def _detail(field: str | None, function: str, write: Write) -> str:
    how = f"in a system call of {function}" if write.by_kernel else f"by {function}"
    return f"{field} {how}" if field else how


def _base(path: str) -> str:
    return path.rpartition("/")[2]
