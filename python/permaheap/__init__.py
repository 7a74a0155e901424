"""permaheap: a permanent heap for CPython.

Permanent objects are built once and never change; reference counting never frees them. Every
forked worker, every sub-interpreter and every process of the family reads them at native speed.
Reading neither copies nor pickles them, and writes nothing to their memory.

    >>> import permaheap
    >>> data = permaheap.freeze({"users": [{"name": "Ada", "tags": ["x", "y"]}]})
    >>> data["users"][0]["name"]
    'Ada'
    >>> type(data["users"])
    <class 'tuple'>
    >>> permaheap.thaw(data)
    {'users': [{'name': 'Ada', 'tags': ['x', 'y']}]}

`freeze` copies a graph of objects into the heap, once, before the program forks or starts
interpreters. `thaw` copies it out again into ordinary mutable objects. Frozen objects have plain
built-in types (tuple for list, frozenset for set, a read-only mapping for dict), so any code that
reads Python objects can read them. `share` names a frozen object by 40 bytes, which can pass
through any queue, pipe or file. `Handle.get` returns the same object in any process of the family.

The *family* is the process that made the heap and all processes forked from it since. Frozen
objects stay until the last process of the family ends, or until `release` is called for them. The
memory of a released block returns when each process has ended or called `forget`.

A `Channel` carries values between threads, interpreters and processes of the family. Permanent
objects and the memory of a `Buffer` pass without a copy; other values are copied once. `lend` gives
the other interpreters of a process access to a live object, which stays in its own interpreter;
`call` runs its methods there.

Frozen mappings are `types.MappingProxyType` on Python 3.12 to 3.14. json, pickle and copy refuse
that type: see `json_default` and `register_reducers`. From 3.15 they are `frozendict`.

Environment variables, read at the import:

- PERMAHEAP_SEAL=1: every process maps the heap read-only, so a stray write by an extension ends
  the process (SIGSEGV) where it happens. Otherwise such a write copies one page for the process
  that wrote, and no other process sees it.
- PERMAHEAP_PREFORK=1: the import also calls `permaheap.hooks.install`.
- PERMAHEAP_DEBUG=1: a process that touches a block that it has forgotten prints one line that
  names the block, and ends (SIGSEGV).
- PERMAHEAP_TRACE=1: the processes that this one forks are traced: see docs/profiler.md.
"""

from os import environ as _environ

from permaheap import _supported

_supported.check()

from permaheap._core import (  # noqa: E402 - the check must come before the core is loaded
    Borrowed,
    Buffer,
    Channel,
    Closed,
    Empty,
    FreezeError,
    Handle,
    HandleError,
    Loan,
    LoanError,
    MessageError,
    call,
    forget,
    freeze,
    freeze_each,
    freeze_pairs,
    is_frozen,
    lend,
    move,
    reclaim,
    release,
    select,
    share,
    thaw,
)

TYPE_CHECKING = False  # type checkers know this name; the import of typing would be slow
if TYPE_CHECKING:
    from permaheap._core import Full
    from permaheap._defaults import as_dict, builtin_default, json_default
    from permaheap._family import family_context
    from permaheap._immortalize import Immortalized, exit_quickly, immortalize
    from permaheap._prefork import Prefork, prefork
    from permaheap._reducers import register_reducers
    from permaheap._stats import Stats, stats
del TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "Borrowed",
    "Buffer",
    "Channel",
    "Closed",
    "Empty",
    "FreezeError",
    "Full",
    "Handle",
    "HandleError",
    "Immortalized",
    "Loan",
    "LoanError",
    "MessageError",
    "Prefork",
    "Stats",
    "__version__",
    "as_dict",
    "builtin_default",
    "call",
    "exit_quickly",
    "family_context",
    "forget",
    "freeze",
    "freeze_each",
    "freeze_pairs",
    "immortalize",
    "is_frozen",
    "json_default",
    "lend",
    "move",
    "prefork",
    "reclaim",
    "register_reducers",
    "release",
    "select",
    "share",
    "stats",
    "thaw",
]

# The module of each name that is loaded at its first use (PEP 562): reading needs none of them, and
# each interpreter would import them again.
_LAZY = {
    "Full": "_core",  # its base is in a module that imports threading
    "Immortalized": "_immortalize",
    "Prefork": "_prefork",
    "Stats": "_stats",
    "as_dict": "_defaults",
    "builtin_default": "_defaults",
    "exit_quickly": "_immortalize",
    "family_context": "_family",
    "immortalize": "_immortalize",
    "json_default": "_defaults",
    "prefork": "_prefork",
    "register_reducers": "_reducers",
    "stats": "_stats",
}


def __getattr__(name: str) -> object:
    """Return a name of `_LAZY`; load its module, and keep the value for the next use."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Return all public names, loaded or not."""
    return sorted({*globals(), *__all__})


if _environ.get("PERMAHEAP_TRACE", "") not in ("", "0"):
    from permaheap.cow._trace import start_or_warn as _start_or_warn

    _start_or_warn()

if _environ.get("PERMAHEAP_PREFORK", "") not in ("", "0"):
    from permaheap.hooks import install as _install

    _install()
