"""The hook for gunicorn: a whole configuration file, or a part of another one.

On the command line:

    gunicorn --config python:permaheap.hooks.gunicorn app:app

In a configuration file without a pre_fork:

    from permaheap.hooks.gunicorn import *

In a configuration file with a pre_fork, inside of it:

    permaheap.hooks.gunicorn.pre_fork(server, worker)

gunicorn calls pre_fork in its master, right before it forks a worker: for the first workers, for
replacements, for those added by SIGTTIN, and for the new workers after SIGHUP. With preload_app
those serve the application that the master loaded at its start. After SIGUSR2 another master reads
the configuration and loads the application again.
"""

from typing import Any

from permaheap.hooks._fork import before_fork

__all__ = ["pre_fork", "preload_app"]

preload_app = True  # gunicorn's setting: the master imports the application before it forks

_NOT_LOADED = (
    "permaheap: preload_app is off, so each worker loads its own application and there is no "
    "memory to share; set preload_app = True (--preload)"
)
_warned = False


def pre_fork(server: Any, worker: Any) -> None:
    """Prepare the master for the fork of a worker.

    It logs every error; the worker starts in any case.

    Args:
        server: gunicorn's Arbiter.
        worker: the Worker that will be forked.

    The cost is that of `before_fork`. The interface is gunicorn's server hook pre_fork.
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
        server.log.exception("permaheap: prefork() failed, so workers share less memory")
