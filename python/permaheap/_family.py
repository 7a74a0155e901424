"""Multiprocessing contexts whose children belong to the family."""

TYPE_CHECKING = False  # the import of typing would be slow
if TYPE_CHECKING:
    from multiprocessing.context import ForkContext

_OUTSIDERS = """\
children of the {method!r} start method do not belong to this process's family: they are not \
forked from it, so they cannot resolve its handles. Use family_context() (fork), or freeze in the \
fork server itself: put the freeze at the top level of a module of your own, call \
multiprocessing.get_context("forkserver").set_forkserver_preload(["that_module"]) before the \
first child starts, and import the module in the children. They then share one heap with each \
other and with the fork server, but not with this process\
"""


def family_context(method: str | None = None) -> "ForkContext":
    """Return a multiprocessing context whose children belong to this process's family.

        >>> context = permaheap.family_context()
        >>> with context.Pool(4) as pool:
        ...     pool.map(work, [permaheap.share(item) for item in data])
        >>> ProcessPoolExecutor(4, mp_context=permaheap.family_context())

    Args:
        method: None or "fork". Since Python 3.14 `multiprocessing` starts children through a
            fork server by default. These do not belong to the family, nor do spawned children.

    Returns:
        The context of the "fork" start method. As usual with fork: fork before threads start.

    Raises:
        ValueError: method is another start method. The message has the recipe for a fork server
            whose children share a heap.

    O(1), and the import of `multiprocessing` at the first call.
    """
    if method not in (None, "fork"):
        raise ValueError(_OUTSIDERS.format(method=method))
    import multiprocessing  # here, since its import is slow and most programs do not need it

    return multiprocessing.get_context("fork")
