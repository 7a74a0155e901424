"""Settings of the whole machine: no test may run while another one has changed them.

Tests run in several processes at a time, and in several chroots, which share one kernel. So the
lock is one of the kernel's files: each test holds it shared, a test marked ``alone`` exclusively.
"""

import contextlib
import fcntl
import os
from pathlib import Path

OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
RATIO = Path("/proc/sys/vm/overcommit_ratio")
TURNSTILE = RATIO  # whoever waits for the lock holds this: sharers do not overtake


_held = []  # open files whose locks this process holds


def _let_go():
    """A child that outlives the tests that forked it must not keep everybody waiting."""
    while _held:
        _held.pop().close()


os.register_at_fork(after_in_child=_let_go)


@contextlib.contextmanager
def locked(path, how):
    """Hold the lock of a file; a child that is forked meanwhile does not."""
    with path.open() as stream:
        fcntl.flock(stream, how)
        _held.append(stream)
        try:
            yield
        finally:
            if not stream.closed:
                _held.remove(stream)
                fcntl.flock(stream, fcntl.LOCK_UN)


@contextlib.contextmanager
def settings(*, alone=False):
    """Keep the machine's settings as they are, or keep everybody else away from them."""
    with contextlib.ExitStack() as stack:
        with locked(TURNSTILE, fcntl.LOCK_EX):
            stack.enter_context(locked(OVERCOMMIT, fcntl.LOCK_EX if alone else fcntl.LOCK_SH))
        yield
