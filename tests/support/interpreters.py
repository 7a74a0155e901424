"""Sub-interpreters under one name on all versions, for tests."""

import json
import os
import sys

if sys.version_info >= (3, 14):
    from concurrent import interpreters as _api
elif sys.version_info >= (3, 13):
    import _interpreters as _api
else:
    import _xxsubinterpreters as _api


class Failed(Exception):
    """Code in a sub-interpreter raised an exception."""


class Interpreter:
    """An interpreter with a GIL of its own."""

    def __init__(self):
        self.interpreter = _api.create()

    def run(self, code, **values):
        """Run code in which each value, of a type with a literal, has a name."""
        lines = [f"{name} = {value!r}\n" for name, value in values.items()]
        script = "".join(lines) + code
        if sys.version_info >= (3, 14):
            try:
                self.interpreter.exec(script)
            except _api.ExecutionFailed as failure:
                raise Failed(str(failure)) from None
        elif sys.version_info >= (3, 13):
            failure = _api.exec(self.interpreter, script)
            if failure is not None:
                raise Failed(failure.formatted)
        else:
            try:
                _api.run_string(self.interpreter, script)
            except _api.RunFailedError as failure:
                raise Failed(str(failure)) from None

    def ask(self, code, **values):
        """Run code and return what it leaves in result, as JSON brings it here."""
        reader, writer = os.pipe()
        with os.fdopen(reader) as stream:
            try:
                self.run(f"{code}\n{TELL}", writer=writer, **values)
            finally:
                os.close(writer)
            return json.load(stream)

    def close(self):
        """End the interpreter."""
        if sys.version_info >= (3, 14):
            self.interpreter.close()
        else:
            _api.destroy(self.interpreter)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


# The answers are shorter than a pipe's buffer.
TELL = """
import json, os
os.write(writer, json.dumps(result).encode())
"""


def describe(handle):
    """Resolve a handle in the interpreter that this is called in; say what it names."""
    import permaheap

    obj = handle.get()
    return id(obj), len(obj), permaheap.share(permaheap.freeze({"made": [id(obj), "there"]}))
