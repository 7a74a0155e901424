"""The hook for uWSGI: a line of its configuration that imports this module.

    import = permaheap.hooks.uwsgi

uWSGI's parent is a C program that calls fork(), not Python's os.fork(), so Python does not know of
its forks. But it loads the application before them, unless lazy-apps is set, and what it is told to
import it imports right before that. So this module imports the application itself, by the option
"module" (or "wsgi"), where uWSGI then finds it loaded; and calls prefork(). The parent runs no
Python code later, so replacements of workers find it as prepared as the first ones did.

For applications that are not named by "module" (wsgi-file, mount, paste):

    hook-post-app = call:PyRun_SimpleString import permaheap.hooks.uwsgi

That is run when they are loaded: "call" finds a function of CPython's by its name. The GIL is held
then, but not with lazy-apps or py-call-uwsgi-fork-hooks, where this line would crash.
"""

import ctypes
import gc
import importlib
import warnings

import uwsgi  # type: ignore[import-not-found, import-untyped, unused-ignore]

from permaheap.hooks._fork import before_fork

_LAZY = "leave out lazy-apps (and lazy): the application is loaded after the fork"
_UNKNOWN = (
    "in the place of import, which comes before the application unless that is named by module, "
    "put: hook-post-app = call:PyRun_SimpleString import permaheap.hooks.uwsgi"
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
    """Keep mortal what uWSGI 2.0 changes though it is a tuple: the arguments of the application.

    It makes one for each thread, (None, start_response), and puts each request into it by
    PyTuple_SetItem, which takes a tuple with one reference only. No object refers to it, so
    whatever walks the objects finds it among those that the collector tracks, or not at all. It
    can be in no cycle that would ever be freed.
    """
    untrack = ctypes.pythonapi.PyObject_GC_UnTrack
    for each in gc.get_objects():
        if type(each) is tuple and len(each) == 2 and each[1] is uwsgi.start_response:
            untrack(ctypes.py_object(each))


_prepare()
