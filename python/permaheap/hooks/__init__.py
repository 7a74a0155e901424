"""Hooks for programs that fork their workers: each calls `permaheap.prefork` before a fork.

A module for each program, none of which is imported before it is asked for:

    permaheap.hooks.gunicorn          a configuration file of gunicorn's, or a part of one
    permaheap.hooks.uwsgi             for uWSGI's hook-post-app
    permaheap.hooks.celery            for Celery's --include, or an import beside the tasks
    permaheap.hooks.multiprocessing   for any fork of the process that imports it

`install` is what the last of them calls; the environment variable PERMAHEAP_PREFORK and the
command `permaheap run` call it, too.
"""

from permaheap.hooks._fork import install

__all__ = ["install"]
