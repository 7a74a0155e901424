"""The work of every hook before a fork, and the hook for any fork of a process.

A parent forks many times: perhaps itself first, to become a daemon, then its workers, and later
their replacements. No rule tells which of these forks is *the* fork of the workers. A call of
`prefork` at each of them would be safe but not free: every object that is alive in the parent at
that moment would never be freed. So `prefork` is called before the first fork, and again when the
process has grown by a sixteenth since the last call. That bounds the memory that is kept for ever
by a multiple of the memory that the process needs, and the time by a multiple of one pass. It also
works for a daemon that loads its data after its first fork.

Children inherit the count. A worker that forks, for example for a pool of its own, makes a pass if
it has grown.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from permaheap._prefork import inside_fork, prefork

_PART = 16  # a process that has grown by a sixteenth makes another pass
_FEW = 10_000  # so few new blocks are not worth a pass: a megabyte at most

_blocks = -1  # of Python's allocator after the last pass; negative before the first
_busy = False  # in a pass; the fork of another thread must not begin a second one
_installed = False


def before_fork() -> None:
    """Call `prefork` if it was not called yet, or if the process has grown since then.

    Raises:
        MemoryError: there is no memory for the pass. The next fork tries again.

    The cost of `prefork` if it is called, else O(number of the allocator's pools): about 0.15 ms
    for 100 MB of objects.
    """
    global _blocks, _busy
    if _busy or not _has_grown():
        return
    _busy = True
    try:
        prefork()
        _blocks = sys.getallocatedblocks()
    finally:
        _busy = False


def _before_this_fork() -> None:
    """Do the same inside a fork, where no code of the program may run."""
    if not _busy and _has_grown():
        with inside_fork():
            before_fork()


def _has_grown() -> bool:
    return _blocks < 0 or sys.getallocatedblocks() > _blocks + _blocks // _PART + _FEW


def install() -> None:
    """Have `prefork` called before this process forks, by os.fork or any code that uses it.

        >>> import permaheap.hooks
        >>> permaheap.hooks.install()

    `multiprocessing` and `concurrent.futures` use os.fork with the fork start method. So does every
    server written in Python whose parent loads the application and forks. subprocess does not use
    it, and costs nothing here. A second call does nothing. The hook stays for the life of the
    process, and in its children.

    Only the first fork makes a full pass. A later fork makes another one if the process has grown
    by a sixteenth since then; otherwise it costs O(number of the allocator's pools), about 0.15 ms
    for 100 MB of objects. If a pass raises an error, Python reports it as "ignored", and the fork
    continues.

    The pass is a part of the fork, and other handlers hold their locks then. So it runs no code of
    the program: it does not collect garbage first, as `prefork` does. Finalizers of garbage run
    later, at the end of the process at the latest.

    Warns:
        RuntimeWarning: later, when multiprocessing starts a process by a method other than fork.

    O(1). The interface is that of `os.register_at_fork`.
    """
    global _installed
    if not _installed:
        _installed = True
        os.register_at_fork(before=_before_this_fork, after_in_child=_no_longer_busy)
        sys.meta_path.insert(0, _OtherWays())


def _no_longer_busy() -> None:
    """End the pass, in a child: the thread that was in it does not exist here."""
    global _busy
    _busy = False


# --- Processes that are not forked ----------------------------------------------------------------

_SPAWNED = """\
multiprocessing starts a process by the start method "spawn": that process is not forked from this \
one and shares no memory with it. Use the start method "fork" \
(multiprocessing.set_start_method("fork")). In place of a server that always spawns, use one that \
forks: gunicorn runs uvicorn's workers\
"""
_FROM_A_SERVER = """\
multiprocessing starts a process by the start method "forkserver": that process is forked from the \
fork server and shares no memory with this one. Use the start method "fork" \
(multiprocessing.set_start_method("fork")), or let the fork server load the data and the hook: \
multiprocessing.set_forkserver_preload(["your_data", "permaheap.hooks.multiprocessing"])\
"""
# Modules that multiprocessing imports right before it starts its first process by such a method.
_MODULES = {
    "multiprocessing.popen_spawn_posix": _SPAWNED,
    "multiprocessing.popen_forkserver": _FROM_A_SERVER,
}


class _OtherWays:
    """On sys.meta_path: finds no module, but warns once when multiprocessing does not fork."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find nothing."""
        if name in _MODULES:
            warnings.warn("permaheap: " + _MODULES[name], RuntimeWarning, stacklevel=2)
        return None
