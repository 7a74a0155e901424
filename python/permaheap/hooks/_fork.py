"""What every hook does before a fork, and the hook for any fork of a process.

A parent forks again and again: its workers one after another, later their replacements, earlier
perhaps itself, to become a daemon. Which of them is *the* fork cannot be told, and `prefork` at
each of them would be safe but not free: what happens to be alive in the parent at that moment would
never be freed. So it is called before the first fork, and again when the process has grown by a
good part since then. That bounds what is kept for ever by a multiple of what the process needs, and
the time by a multiple of one pass; a daemon that loads its data after its first fork is covered all
the same.

Children inherit the count, so a worker that forks, say for a pool of its own, is treated alike: a
pass, if it has grown.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

from permaheap._prefork import prefork

_PART = 16  # grown by a sixteenth is grown by a good part
_FEW = 10_000  # blocks that are not worth a pass: a megabyte at most

_blocks = -1  # of Python's allocator after the last pass; negative before the first
_busy = False  # in a pass, which another thread's fork is not to begin again
_installed = False


def before_fork() -> None:
    """Call `prefork` if it was not called yet, or if the process has grown since.

    Raises:
        MemoryError: when there is no memory for the pass; the next fork tries again.

    O(number of the allocator's pools) when there is nothing to do: about 0.15 ms for 100 MB.
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


def _has_grown() -> bool:
    return _blocks < 0 or sys.getallocatedblocks() > _blocks + _blocks // _PART + _FEW


def install() -> None:
    """Have `prefork` called before this process forks, by os.fork or whatever builds on it.

        >>> import permaheap.hooks
        >>> permaheap.hooks.install()

    That is `multiprocessing` and `concurrent.futures` with the fork start method, and every server
    written in Python whose parent loads the application and forks. subprocess does not fork in this
    sense, and costs nothing. Idempotent; it stays for the life of the process, and in its children.

    Only the first fork makes a full pass. A later one makes another when the process has grown by
    a sixteenth since then; before all others it costs O(number of the allocator's pools), about
    0.15 ms for 100 MB of objects. An error in a pass is reported as "ignored", and the fork goes
    on.

    Warns:
        RuntimeWarning: later, when multiprocessing starts a process in another way than by fork.
    """
    global _installed
    if not _installed:
        _installed = True
        os.register_at_fork(before=before_fork, after_in_child=_no_longer_busy)
        sys.meta_path.insert(0, _OtherWays())


def _no_longer_busy() -> None:
    """In a child: the thread that was in a pass is not here."""
    global _busy
    _busy = False


# --- Processes that are not forked ----------------------------------------------------------------

_SPAWNED = """\
a process is started by the start method "spawn" of multiprocessing: it is not forked from this \
one and shares nothing with it, so permaheap can do nothing for it. Use the start method "fork" \
(multiprocessing.set_start_method("fork")), or, in place of a server that always spawns, one that \
forks: gunicorn runs uvicorn's workers\
"""
_FROM_A_SERVER = """\
a process is started by the start method "forkserver" of multiprocessing: it is forked from \
another process than this one and shares nothing with it. Use the start method "fork" \
(multiprocessing.set_start_method("fork")), or let the fork server load the data and the hook: \
multiprocessing.set_forkserver_preload(["your_data", "permaheap.hooks.multiprocessing"])\
"""
# Modules that multiprocessing imports when it is about to start its first process in such a way.
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
