"""Functions that run in interpreters of their own: the few lines that all these examples share.

CPython 3.14 has ``concurrent.interpreters`` and ``InterpreterPoolExecutor``; 3.12 and 3.13 have a
low-level module only, under a private name. What follows works on all of them.
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
    """A function in an interpreter with a GIL of its own, at once and beside all others.

    The function must be one that a module has under its name. Its arguments are pickled: a Channel
    by what names it, as in a message.
    """

    def __init__(self, function, *arguments):
        super().__init__(name=function.__name__)
        # A channel is gone when nobody has it: keep it until the interpreter has.
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
        """Wait until the function has returned; RuntimeError if it raised instead."""
        super().join(timeout)
        if self.failure is not None:
            raise RuntimeError(self.failure)


def execute(number, script):
    """Run a script in an interpreter; what it raised as text, or None."""
    if sys.version_info >= (3, 13):
        failure = LOW_LEVEL.exec(number, script)
        return failure and failure.formatted
    try:
        LOW_LEVEL.run_string(number, script)
    except LOW_LEVEL.RunFailedError as error:
        return str(error)
    return None
