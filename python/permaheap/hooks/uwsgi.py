"""The hook for uWSGI: a line of its configuration that imports this module.

    import = permaheap.hooks.uwsgi

uWSGI's parent is a C program that calls fork(), not Python's os.fork(), so Python does not see its
forks. But the parent loads the application before it forks, unless lazy-apps is set, and it runs
the imports of its option "import" right before that. So this module imports the application itself,
by the option "module" (or "wsgi"), and calls prefork(); uWSGI then finds the application loaded.
The parent runs no Python code later, so replacements of workers share as much as the first workers.

For applications that are not named by "module" (wsgi-file, mount, paste):

    hook-post-app = call:PyRun_SimpleString import permaheap.hooks.uwsgi

uWSGI runs this line when it has loaded them: "call" finds a function of CPython by its name. It
holds the GIL then. With lazy-apps or py-call-uwsgi-fork-hooks it does not, and the line would
crash.
"""

import ctypes
import gc
import importlib
import warnings

import uwsgi  # type: ignore[import-not-found, import-untyped, unused-ignore]

from permaheap.hooks._fork import before_fork

_LAZY = "leave out lazy-apps (and lazy), which load the application after the fork"
_UNKNOWN = (
    "the option module does not name the application, so import runs before it is loaded; replace "
    "import by: hook-post-app = call:PyRun_SimpleString import permaheap.hooks.uwsgi"
)


def _prepare() -> None:
    if uwsgi.worker_id() > 0:
        _warn(_LAZY)
    elif _has_application() or _import_applications():
        _hide_argument_tuples()
        before_fork()
    else:
        _warn(_UNKNOWN)


def _warn(advice: str) -> None:
    message = f"permaheap: the workers of this uWSGI share nothing; {advice}"
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def _has_application() -> bool:
    return any(worker["apps"] for worker in uwsgi.workers())


def _import_applications() -> bool:
    """Import the modules of the option "module"; return whether there were any."""
    values = uwsgi.opt.get("module") or uwsgi.opt.get("wsgi") or []
    names = values if isinstance(values, list) else [values]
    for name in names:
        importlib.import_module(name.decode().partition(":")[0])
    return bool(names)


def _hide_argument_tuples() -> None:
    """Keep the tuples mortal that uWSGI 2.0 changes: the arguments of the application.

    uWSGI makes one such tuple for each thread, (None, start_response), and puts each request into
    it by PyTuple_SetItem, which accepts only a tuple with one reference. No object refers to the
    tuple, so prefork() could find it only among the objects that the collector tracks. The tuple
    is in no cycle that could ever be freed, so it need not be tracked.
    """
    untrack = ctypes.pythonapi.PyObject_GC_UnTrack
    for each in gc.get_objects():
        if type(each) is tuple and len(each) == 2 and each[1] is uwsgi.start_response:
            untrack(ctypes.py_object(each))


_prepare()
