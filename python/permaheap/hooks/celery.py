"""The hook for Celery's prefork pool, which is its default: importing this module is all.

On the command line, or beside the tasks:

    celery -A tasks worker --include permaheap.hooks.celery
    import permaheap.hooks.celery

It does nothing in a process that is no worker, such as a client of the queue. In a worker's parent
it waits until all tasks are imported and the pool is about to be made, which Celery announces by
its signal worker_init. The forks are billiard's, by os.fork, of the first children and of their
replacements. (The signal worker_before_create_process would come at each of them, but only from the
pool for brokers with an event loop.)
"""

import warnings
from typing import Any

from celery.signals import (  # type: ignore[import-untyped, import-not-found, unused-ignore]
    worker_init,
)

from permaheap.hooks._fork import install

_FORKS = {"prefork", "processes", "celery.concurrency.prefork:TaskPool"}


@worker_init.connect(dispatch_uid="permaheap")  # type: ignore[untyped-decorator, unused-ignore]
def _install(sender: Any, **_: Any) -> None:
    pool, method = _pool_and_method(sender)
    if pool not in _FORKS or method != "fork":
        warnings.warn(
            f"permaheap: this worker's pool is {pool!r} with the start method {method!r}, which "
            "does not fork, so there is nothing to share; use --pool=prefork",
            RuntimeWarning,
            stacklevel=2,
        )
    else:
        install()


def _pool_and_method(worker: Any) -> tuple[str, str]:
    """Return the names of the worker's pool and of how it starts processes."""
    pool = worker.pool_cls
    name = pool if isinstance(pool, str) else f"{pool.__module__}:{pool.__qualname__}"
    return name, getattr(worker, "pool_start_method", "fork")  # older versions always fork
