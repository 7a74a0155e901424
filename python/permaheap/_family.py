"""Multiprocessing contexts whose children belong to the family."""

TYPE_CHECKING = False  # the import of typing would be slow
if TYPE_CHECKING:
    from multiprocessing.context import ForkContext

_OUTSIDERS = """\
children of the {method!r} start method do not belong to this process's family: they are not \
forked from it, so they cannot resolve its handles. Use family_context() (fork), or freeze in the \
fork server itself: put the freeze at the top level of a module of your own, call \
multiprocessing.get_context("forkserver").set_forkserver_preload(["that_module"]) before the \
first child starts, and import the module in the children: they then share one heap with each \
other and the fork server, but not with this process\
"""


def family_context(method: str | None = None) -> "ForkContext":
    """Return a multiprocessing context whose children belong to this process's family.

        >>> context = permaheap.family_context()
        >>> with context.Pool(4) as pool:
        ...     pool.map(work, [permaheap.share(item) for item in data])
        >>> ProcessPoolExecutor(4, mp_context=permaheap.family_context())

    Args:
        method: None or "fork". Since Python 3.14 `multiprocessing` starts children through a
            fork server by default, and those are outsiders; so are spawned ones.

    Returns:
        The context of the "fork" start method. Its usual caution applies: fork before starting
        threads.

    Raises:
        ValueError: for another start method, with the recipe for a fork server whose children
            share a heap.
    """
    if method not in (None, "fork"):
        raise ValueError(_OUTSIDERS.format(method=method))
    import multiprocessing  # here: it is slow to import, and most programs do not ask for it

    return multiprocessing.get_context("fork")
