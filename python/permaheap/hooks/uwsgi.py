"""The hook for uWSGI: a line of its configuration imports this module once the application is there.

    hook-post-app = call:PyRun_SimpleString import permaheap.hooks.uwsgi

uWSGI's parent is a C program that calls fork(), not Python's os.fork(), so Python does not know of
its forks. But it loads the application before them, unless lazy-apps is set, and runs hook-post-app
right after that. PyRun_SimpleString is a function of CPython's, which "call" finds by its name. The
parent runs no Python code later, so replacements of workers find it as prepared as the first ones.

With py-call-uwsgi-fork-hooks uWSGI does tell Python of its forks, and has let go of the GIL by the
time of hook-post-app, which then must not be used. There it is

    import = permaheap.hooks.uwsgi
"""

import warnings

import uwsgi  # type: ignore[import-not-found, unused-ignore] # what uWSGI gives the programs in it

from permaheap.hooks._fork import before_fork, install

if uwsgi.worker_id() > 0:
    warnings.warn(
        "permaheap: this uWSGI loads the application in each worker, after the fork, so there is "
        "nothing to share; leave out lazy-apps (and lazy)",
        RuntimeWarning,
        stacklevel=2,
    )
elif "py-call-uwsgi-fork-hooks" in uwsgi.opt:
    install()
else:
    before_fork()
