"""What a parent does just before it forks its workers, so that they share what it has loaded."""

from permaheap._immortalize import immortalize


def prefork() -> None:
    """Make what this process has loaded safe from copy-on-write in the workers it will fork.

    Idempotent, and cheap when called again: only what is new since the last call is looked at.

    Raises:
        MemoryError: when there is no memory for the walk.

    O(number of objects) the first time.
    """
    immortalize()
