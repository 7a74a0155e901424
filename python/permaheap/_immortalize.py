"""Ordinary objects made immortal in place, so that forked workers share their pages.

No object moves and no type changes: this is for applications whose data cannot be frozen, or is
made by other code. Objects that must be able to die stay mortal. At the end of the process, an
object that only immortal ones hold is finalized, as it would have been without permaheap.
"""

import atexit
import contextlib
import gc
import io
import sys
import warnings
from collections.abc import Iterator, Mapping
from types import AsyncGeneratorType, CoroutineType, GeneratorType

from permaheap import _core
from permaheap._record import Record

TYPE_CHECKING = False  # the import of typing would be slow
if TYPE_CHECKING:
    from typing import Any


class Immortalized(Record):
    """The result of one call of `immortalize`."""

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
    """Make objects immortal in place: reading them then writes nothing to their memory.

        >>> import permaheap
        >>> table = {"Ada": [1815, 1852]}
        >>> permaheap.immortalize(table).objects["list"]
        1
        >>> table["Ada"].append(36)  # they are as mutable as before

    Call it in the parent, after everything has been loaded and before workers are forked. An
    immortal object is never freed, so drop all objects that the parent does not need before the
    call. Without roots it collects garbage first. The collector then ignores the immortal objects,
    and `gc.freeze` keeps it away from the mortal ones. (`gc.unfreeze` would undo that.)

    Args:
        roots: every object that they reach becomes immortal. Without roots: every object that the
            collector tracks, and every object that those reach.
        strict: leave objects mortal that must be able to die: objects with a finalizer (files,
            sockets, generators, `__del__`), locks, frames, objects with a weak reference that has a
            callback, and objects whose end gives back what is another object's or the system's:
            memoryviews, cursors of databases, Buffers, C objects with close() or release().
            With roots, also objects that only these hold. Finalizers that only immortal objects
            delay run at the end of the process, also in children that end by `sys.exit`.

    Returns:
        An `Immortalized`: the number of objects and their bytes, by type, and the number of
        objects that were left mortal, by type and reason.

    Raises:
        MemoryError: there is no memory for the walk. Objects that are immortal by then stay so.

    Warns:
        RuntimeWarning: other threads are running. They may be changing objects that become
            immortal here, and may hold objects that should have been freed.

    O(number of objects). The idea is from the discussion of PEP 683, and Instagram's `gc.freeze`.
    """
    warn_of_threads("immortalize")
    if not roots:
        gc.collect()
    return immortalize_in_place(roots, strict=strict, warm=True)


def immortalize_in_place(roots: "tuple[Any, ...]", *, strict: bool, warm: bool) -> Immortalized:
    """Immortalize without collecting garbage; if warm, prepare code for its first run."""
    found = list(roots) or gc.get_objects()  # first, so that no object of this call is among them
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
            f"{function}() while {threads} threads are running: the objects that they are using "
            "become immortal, too; call it before threads are started",
            RuntimeWarning,
            stacklevel=3,
        )


def _running_threads() -> int:
    # Not imported here: threading treats the thread that imports it first as the main thread, and
    # at its end an interpreter of 3.12 would wait for that thread.
    threading = sys.modules.get("threading")
    return threading.active_count() if threading else 1


@contextlib.contextmanager
def collector_off() -> Iterator[None]:
    """Keep the collector from running while its lists are walked or changed."""
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
    """Let this process and its children end without writing to immortal objects.

    At the end of a process, CPython clears its modules and makes interned strings mortal again. A
    worker would then copy the pages that it has shared all its life. After this call CPython clears
    only modules that are not immortal. Nothing else changes: callbacks of atexit, threads,
    finalizers, flushing, messages and exit status stay as they were.

    Call it in the parent, before or after `prefork`, or in a worker at any time.

    O(1), and O(number of modules) at the end of the process.
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
    """A list that is freed after the last callback of atexit, while all modules are still whole.

    It replaces sys.path_hooks, which the interpreter drops among the first things then. The
    finalizers cannot run in a callback of atexit: callbacks that were registered before it run
    later, and may use the objects.
    """

    def __del__(self) -> None:
        _run_delayed_finalizers(self)
        if _leave_in_place:
            _hide_immortal_objects()


def _run_delayed_finalizers(caller: object) -> None:
    """Run the finalizers that immortal holders would delay for ever, except the caller's.

    Only objects that immortal objects and other such objects hold are finalized, as in plain
    teardown, and an outer object before those that it reaches. Files come last, since all others
    may still write to them.
    """
    spared = _standard_streams() | {id(caller)}
    with collector_off():
        gc.unfreeze()
        waiting = [each for each in _core._with_finalizer() if id(each) not in spared]
        owed = _core._owed_finalizers(waiting) if waiting else []
        gc.freeze()
    del waiting
    owed.sort(key=lambda each: issubclass(type(each), io.IOBase))
    for each in owed:
        if not _is_running(each):
            _core._finalize(each)


def _hide_immortal_objects() -> None:
    """Hide immortal objects from the interpreter, which clears its modules next."""
    for name, module in list(sys.modules.items()):
        if name not in _NEEDED and sys.getrefcount(module) > _IMMORTAL:
            del sys.modules[name]
    _core._hide_interned()


_IMMORTAL = 1 << 30  # no mortal object has this many references
# The interpreter clears these last, and in another way.
_NEEDED = {"sys", "builtins"}


_RUNNING = {
    GeneratorType: "gi_running",
    CoroutineType: "cr_running",
    AsyncGeneratorType: "ag_running",
}


def _is_running(obj: "Any") -> bool:
    name = _RUNNING.get(type(obj))  # the attributes of other types may run arbitrary code
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
    except Exception:  # the stream was detached, or is of a class of the program
        return None
