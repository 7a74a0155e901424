"""The hook for gunicorn: a whole configuration file, or a part of one's own.

On the command line:

    gunicorn --config python:permaheap.hooks.gunicorn app:app

In a configuration file that has no pre_fork of its own:

    from permaheap.hooks.gunicorn import *

In the pre_fork that one has:

    permaheap.hooks.gunicorn.pre_fork(server, worker)

gunicorn calls pre_fork in its master, just before it forks a worker: the first ones, replacements,
those of SIGTTIN, and the new ones after SIGHUP, which with preload_app serve what the master has
loaded at its start. After SIGUSR2 another master reads the configuration, and loads for itself.
"""

from typing import Any

from permaheap.hooks._fork import before_fork

__all__ = ["pre_fork", "preload_app"]

preload_app = True  # the setting of gunicorn's: the master imports the application before it forks

_NOT_LOADED = (
    "permaheap: preload_app is off, so each worker loads the application for itself and there is "
    "nothing to share; set preload_app = True (--preload)"
)
_warned = False


def pre_fork(server: Any, worker: Any) -> None:
    """Prepare the master for the fork of a worker.

    Whatever goes wrong is logged; the worker is started all the same.

    Args:
        server: gunicorn's Arbiter.
        worker: the Worker that will be forked.
    """
    global _warned
    if not server.cfg.preload_app:
        if not _warned:
            server.log.warning(_NOT_LOADED)
        _warned = True
        return
    try:
        before_fork()
    except Exception:
        server.log.exception("permaheap: prefork() failed; workers share less than they could")
