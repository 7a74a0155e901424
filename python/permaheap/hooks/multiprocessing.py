"""The hook for any fork of the process that imports this module: it calls `install`.

For places that take the name of a module, and no call. The main one is the fork server of
multiprocessing, whose children then share the memory that it has loaded:

    multiprocessing.set_forkserver_preload(["tables", "permaheap.hooks.multiprocessing"])
"""

from permaheap.hooks._fork import install

install()
