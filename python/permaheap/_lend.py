"""The part of call() in Python: exceptions as bytes.

Each function runs in one interpreter. Only bytes pass from one interpreter to another.
"""

import builtins
import pickle
import traceback
from contextlib import suppress

PROTOCOL = 5
MOST_NOTES = 8  # an exception may pass through any number of nested calls


def dumps_error(error: BaseException) -> bytes:
    """Return any exception as bytes: its class, text and traceback; its pickle if it has one."""
    kind = type(error)
    try:
        text = "".join([str(error)])  # a plain str: the other side may lack a subclass
    except Exception:
        text = "(its str() fails)"
    try:
        itself = pickle.dumps(error, PROTOCOL)
    except Exception:
        itself = b""
    try:
        lines = "".join(traceback.format_tb(error.__traceback__)).rstrip()
    except Exception:
        lines = "(no traceback)"
    return pickle.dumps((kind.__module__, kind.__qualname__, text, lines, itself), PROTOCOL)


def loads_error(data: bytes, place: str, error_type: type[Exception]) -> BaseException:
    """Return the exception with a note of its place; an error_type if it cannot be rebuilt."""
    module, name, text, lines, itself = pickle.loads(data)
    error = None
    try:
        error = pickle.loads(itself) if itself else None
    except Exception:
        error = None
    if not isinstance(error, BaseException):
        error = _builtin(module, name, text) or error_type(f"{place}: {module}.{name}: {text}")
    with suppress(Exception):  # __notes__ may be anything
        if len(getattr(error, "__notes__", ())) < MOST_NOTES:
            error.add_note(f"{place}:\n{lines}")
    return error


def _builtin(module: str, name: str, text: str) -> BaseException | None:
    kind = getattr(builtins, name, None) if module == "builtins" else None
    try:
        error = kind(text) if kind is not None else None
    except Exception:
        return None  # more arguments are needed
    return error if isinstance(error, BaseException) else None
