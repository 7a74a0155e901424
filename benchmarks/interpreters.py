"""Sub-interpreters with a GIL of their own, by the low-level modules of 3.12 and of 3.13+."""

from __future__ import annotations

import importlib
import sys
import threading
from typing import Any


class Interpreter:
    """An isolated interpreter of this process.

    It shares only file descriptors with its creator, and objects named by permaheap handles. So
    scripts get their input as literals in their text, and answer through pipes.
    """

    def __init__(self) -> None:
        self._module, self._id = create()
        # Otherwise the interpreter would not find packages relative to the current directory.
        self.run(f"import sys; sys.path[:] = {sys.path!r}")

    def run(self, script: str) -> None:
        """Execute a script in the interpreter, in the calling thread.

        Raises:
            RuntimeError: the script raised an exception, which is in the message.
        """
        if sys.version_info >= (3, 13):
            failure = self._module.exec(self._id, script)
            if failure is not None:
                raise RuntimeError(failure.formatted)
        else:
            self._module.run_string(self._id, script)

    def close(self) -> None:
        """End the interpreter; it must not be running."""
        self._module.destroy(self._id)


def start(script: str) -> threading.Thread:
    """Run a script in an interpreter of its own, in a new thread that ends with it.

    One thread creates, uses and ends the interpreter: if an interpreter of 3.12 imports threading
    in one thread and is ended in another, it waits for the first one for ever.
    """

    def run() -> None:
        interpreter = Interpreter()
        try:
            interpreter.run(script)
        finally:
            interpreter.close()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def create() -> tuple[Any, Any]:
    """Return the low-level module of this version, and the id of a new isolated interpreter."""
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    module = importlib.import_module(name)
    return module, module.create()
