"""The hook for Celery's prefork pool, its default: the import of this module is enough.

On the command line, or beside the tasks:

    celery -A tasks worker --include permaheap.hooks.celery
    import permaheap.hooks.celery

It does nothing in a process that is no worker, such as a client of the queue. In the parent of
workers it waits for Celery's signal worker_init. That signal comes when all tasks are imported,
right before the pool is made. Celery's billiard forks the first children and their replacements by
os.fork. (The signal worker_before_create_process comes at each of these forks, but only from the
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
            "does not fork, so there is no memory to share; use --pool=prefork",
            RuntimeWarning,
            stacklevel=2,
        )
    else:
        install()


def _pool_and_method(worker: Any) -> tuple[str, str]:
    """Return the name of the worker's pool, and of the method that starts its processes."""
    pool = worker.pool_cls
    name = pool if isinstance(pool, str) else f"{pool.__module__}:{pool.__qualname__}"
    return name, getattr(worker, "pool_start_method", "fork")  # older versions always fork
