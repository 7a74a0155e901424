"""Functions in interpreters of their own: the few lines that all these examples share.

CPython 3.14 has ``concurrent.interpreters`` and ``InterpreterPoolExecutor``; 3.12 and 3.13 have
only a low-level module with a private name. This module works on all of them.
"""

import importlib
import pickle
import sys
import threading

NAME = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
LOW_LEVEL = importlib.import_module(NAME)

SCRIPT = """
import pickle, sys
sys.path[:] = {path!r}
function, arguments = pickle.loads({call!r})
function(*arguments)
"""


class Interpreter(threading.Thread):
    """A function that runs at once in an interpreter with its own GIL, parallel to all others.

    A module must have the function under its name. The arguments are pickled; a Channel is pickled
    by its name, as in a message.
    """

    def __init__(self, function, *arguments):
        super().__init__(name=function.__name__)
        # A channel without an owner is gone: keep it until the interpreter has opened it.
        self.arguments = arguments
        call = pickle.dumps((function, arguments))
        self.script = SCRIPT.format(path=sys.path, call=call)
        self.failure = None
        self.start()

    def run(self):
        number = LOW_LEVEL.create()
        try:
            self.failure = execute(number, self.script)
        finally:
            LOW_LEVEL.destroy(number)

    def join(self, timeout=None):
        """Wait until the function has returned; RuntimeError if it raised an exception."""
        super().join(timeout)
        if self.failure is not None:
            raise RuntimeError(self.failure)


def execute(number, script):
    """Run a script in an interpreter; return its exception as text, or None."""
    if sys.version_info >= (3, 13):
        failure = LOW_LEVEL.exec(number, script)
        return failure and failure.formatted
    try:
        LOW_LEVEL.run_string(number, script)
    except LOW_LEVEL.RunFailedError as error:
        return str(error)
    return None
