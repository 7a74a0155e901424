"""Ordinary objects made immortal where they are, so that forked workers share their pages.

Nothing moves and no type changes: for applications whose data cannot be frozen, or is not theirs.
What must be able to die stays mortal; what only immortal objects hold at the end of the process is
finalized then, as it would have been without permaheap.
"""

import atexit
import contextlib
import gc
import io
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from types import AsyncGeneratorType, CoroutineType, GeneratorType

from permaheap import _core
from permaheap._record import Record

TYPE_CHECKING = False  # the import of typing would be slow
if TYPE_CHECKING:
    from typing import Any


class Immortalized(Record):
    """What one call of `immortalize` did."""

    objects: Mapping[str, int]
    """Number of objects that became immortal, by the name of their type."""
    bytes: Mapping[str, int]
    """Bytes of these objects, their own tables included, by the name of their type."""
    left: Mapping[tuple[str, str], int]
    """Number of objects that were left mortal, by the name of their type and the reason."""

    def __str__(self) -> str:
        """Give the totals in one line."""
        return (
            f"{sum(self.objects.values()):,} objects of {len(self.objects)} types immortal "
            f"({sum(self.bytes.values()):,} bytes), {sum(self.left.values()):,} left mortal"
        )


def immortalize(*roots: "Any", strict: bool = True) -> Immortalized:
    """Make objects immortal where they are: reading them then writes nothing.

        >>> import permaheap
        >>> table = {"Ada": [1815, 1852]}
        >>> permaheap.immortalize(table).objects["list"]
        1
        >>> table["Ada"].append(36)  # they are as mutable as before

    Call it in the parent, after everything has been loaded and before workers are forked. What
    becomes immortal is never freed: what the parent still wants to get rid of should be gone by
    then. Without roots it collects garbage first. The collector has nothing to do with immortal
    objects any more; from the mortal ones, `gc.freeze` keeps it away. (`gc.unfreeze` would undo
    that.)

    Args:
        roots: all that they reach becomes immortal. Without any: everything alive that the
            collector tracks, and what that reaches.
        strict: leave mortal what must be able to die: objects with a finalizer (files, sockets,
            generators, `__del__`), locks, frames, and objects with a weak reference that has a
            callback.
            With roots, also what only such objects hold. At the end of the process the finalizers
            run that only immortal objects still put off, in children that end by `sys.exit` too.

    Returns:
        How many objects and bytes of which types, and what was left mortal and why.

    Raises:
        MemoryError: when there is no memory for the walk. What was made immortal by then stays so.

    Warns:
        RuntimeWarning: when other threads are running. They may be in the middle of changing what
            becomes immortal here, and hold what should have been freed.

    O(number of objects). The idea is from the discussion of PEP 683, and Instagram's `gc.freeze`.
    """
    warn_of_threads("immortalize")
    if not roots:
        gc.collect()
    return immortalize_in_place(roots, strict=strict, warm=True)


def immortalize_in_place(roots: "tuple[Any, ...]", *, strict: bool, warm: bool) -> Immortalized:
    """Do what `immortalize` does, without collecting; if warm, prepare code for its first run."""
    found = list(roots) or gc.get_objects()  # before there is anything of ours among them
    with collector_off():
        done = Immortalized(*_core._immortalize(found, strict, warm))
        gc.freeze()
    _finalize_at_exit()
    return done


def warn_of_threads(function: str) -> None:
    """Warn the caller of a function of this package that other threads are running."""
    threads = _running_threads()
    if threads > 1:
        warnings.warn(
            f"{function}() while {threads} threads are running: what they are working with "
            "becomes immortal, too; call it before threads are started",
            RuntimeWarning,
            stacklevel=3,
        )


def _running_threads() -> int:
    # Not imported here: a module that is first imported by a thread that is not the first one
    # takes it for the main thread, and an interpreter of 3.12 then waits for it at its end.
    threading = sys.modules.get("threading")
    return threading.active_count() if threading else 1


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Keep the collector from running while its lists are walked, or rearranged."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


# --- At exit --------------------------------------------------------------------------------------

_registered = False
_leave_in_place = False


def exit_quickly() -> None:
    """Let this process and its children end without writing to what is immortal.

    At the end of a process, CPython takes its modules apart and makes interned strings mortal
    again: a worker then copies the pages that it has shared for all its life. After this call it
    does so only with modules that are not immortal. Nothing else changes: callbacks of atexit,
    threads, finalizers, flushing, messages and exit status are what they were.

    Call it in the parent, before or after `prefork`, or in a worker at any time.

    O(1), and O(number of modules) at the end.
    """
    global _leave_in_place
    _leave_in_place = True
    _finalize_at_exit()


def _finalize_at_exit() -> None:
    global _registered
    if not _registered:
        _registered = True
        atexit.register(_wait_for_the_last_callback)


def _wait_for_the_last_callback() -> None:
    sys.path_hooks = _Last(sys.path_hooks)


class _Last(list["Any"]):
    """Whose end comes after the last callback of atexit, with all modules still whole.

    sys.path_hooks is among the first things that the interpreter lets go of then. Callbacks that
    were registered before ours may still use what we are going to finalize.
    """

    def __del__(self) -> None:
        _finalize_what_waits(self)
        if _leave_in_place:
            _hide_what_is_immortal()


def _finalize_what_waits(caller: object) -> None:
    """Run the finalizers that immortal holders would put off for ever, but the caller's.

    Plain finalization drops the last reference to the outer of two objects first, and that closes
    the inner one: so what no other waiting object refers to comes first, and the rest (cycles) in
    the order of age, as the collector takes them. Files come after all else, which may still write
    to them.
    """
    with collector_off():
        gc.unfreeze()
        found = _core._with_finalizer()
        gc.freeze()
    spared = _standard_streams() | {id(caller)}
    waiting = [each for each in found if id(each) not in spared]
    del found
    inner = {id(each) for holder in waiting for each in _held_by(holder)}
    waiting.sort(key=lambda each: (id(each) in inner, issubclass(type(each), io.IOBase)))
    for each in waiting:
        if not _is_running(each):
            _core._finalize(each)


def _hide_what_is_immortal() -> None:
    """Keep what is immortal out of reach of the interpreter, which takes itself apart next."""
    for name, module in list(sys.modules.items()):
        if name not in _NEEDED and sys.getrefcount(module) > _IMMORTAL:
            del sys.modules[name]
    _core._hide_interned()


_IMMORTAL = 1 << 30  # no mortal object has so many references
# The interpreter itself takes these apart last, and in a way of its own.
_NEEDED = {"sys", "builtins"}


def _held_by(holder: "Any") -> "Iterable[Any]":
    """Yield what an object refers to, also by its __dict__."""
    for each in gc.get_referents(holder):
        if type(each) is dict:
            yield from each.values()
        else:
            yield each


_RUNNING = {
    GeneratorType: "gi_running",
    CoroutineType: "cr_running",
    AsyncGeneratorType: "ag_running",
}


def _is_running(obj: "Any") -> bool:
    name = _RUNNING.get(type(obj))  # other objects' attributes may be code of anybody's
    return name is not None and getattr(obj, name)


def _standard_streams() -> set[int]:
    """Return the ids of the standard streams and their layers: the interpreter closes them."""
    streams = [sys.stdin, sys.stdout, sys.stderr, sys.__stdin__, sys.__stdout__, sys.__stderr__]
    layers: set[int] = set()
    for stream in streams:
        layer: Any = stream
        while layer is not None and id(layer) not in layers:
            layers.add(id(layer))
            layer = _layer_below(layer)
    return layers


def _layer_below(stream: "Any") -> "Any":
    try:
        return getattr(stream, "buffer", None) or getattr(stream, "raw", None)
    except Exception:  # it was detached, or is somebody's own
        return None
