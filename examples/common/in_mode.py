"""Run a program in one of the compared modes: ``in_mode.py MODE MODULE [ARGUMENT...]``.

The applications are written as a user would write them: they freeze their data and call prefork()
before a fork. This launcher removes the functions that the mode does not have. Then it runs a
module (gunicorn, celery) as ``python -m`` would. So the same files run in every mode.

    plain      neither; ordinary objects, loaded before the fork
    gc.freeze  the advice of gc.freeze's documentation, which is Instagram's: no collection in the
               parent, gc.freeze() right before the fork, gc.enable() in children
    prefork    permaheap.prefork() right before the fork; the data are ordinary objects
    frozen     permaheap.prefork(), and the data in the permanent heap
    data       the data in the permanent heap, and nothing before the fork (for the Unicode demo)

In all modes SIGRTMIN makes a process run a full collection, and report its end by a line with its
pid in the file descriptor COLLECTED_FD. In a service that runs for days such collections happen by
themselves; a measurement cannot wait for them.
"""

import gc
import os
import runpy
import signal
import sys
from typing import Any

import permaheap
import permaheap._prefork

MODES = ("plain", "gc.freeze", "prefork", "frozen", "data")


def nothing(*_: Any, **__: Any) -> None:
    """Do nothing, in place of prefork()."""


def as_it_is(data: Any, *_: Any, **__: Any) -> Any:
    """Return the data, in place of freeze()."""
    return data


def replace(name: str, function: Any, *modules: Any) -> None:
    """Put a function in place of one of permaheap's, in each module that has it."""
    for module in (permaheap, *modules):
        setattr(module, name, function)


def prepare(mode: str) -> None:
    """Remove the functions that a mode does not have."""
    if mode not in MODES:
        raise SystemExit(f"there is no mode {mode!r}; there are {', '.join(MODES)}")
    if mode not in ("frozen", "data"):
        replace("freeze", as_it_is)
    if mode in ("plain", "data"):
        replace("prefork", nothing, permaheap._prefork)
    if mode == "gc.freeze":
        gc.disable()
        os.register_at_fork(after_in_child=gc.enable)
        replace("prefork", lambda *_, **__: gc.freeze(), permaheap._prefork)


def collect(_number: int, _frame: object) -> None:
    """Run a full collection and report its end."""
    gc.collect()
    os.write(int(os.environ["COLLECTED_FD"]), b"%d\n" % os.getpid())


if __name__ == "__main__":
    prepare(sys.argv[1])
    signal.signal(signal.SIGRTMIN, collect)
    sys.argv[:] = sys.argv[2:]
    sys.path[0] = ""  # as for python -m: the current directory, not that of this file
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
