"""Hooks for programs that fork their workers: each calls `permaheap.prefork` before a fork.

There is a module for each program; it is imported only if the program names it:

    permaheap.hooks.gunicorn          a configuration file of gunicorn, or a part of one
    permaheap.hooks.uwsgi             for uWSGI's options import and hook-post-app
    permaheap.hooks.celery            for Celery's --include, or an import beside the tasks
    permaheap.hooks.multiprocessing   for any fork of the process that imports it

The last of them calls `install`. So do the environment variable PERMAHEAP_PREFORK and the command
`permaheap run`.
"""

from permaheap.hooks._fork import install

__all__ = ["install"]
