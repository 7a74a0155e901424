"""Settings that gunicorn reads by itself when it is started in this directory."""

import permaheap

wsgi_app = "wsgi"
bind = "127.0.0.1:8000"
workers = 4
loglevel = "warning"

# Import Django, the project and its data before the workers are forked.
preload_app = True

# Recent versions would create a directory for their control socket in the user's home.
control_socket_disable = True


def pre_fork(server, worker):
    """Let the workers share all that the master has loaded. The whole change to the project."""
    permaheap.prefork()


def post_fork(server, worker):
    """Given several addresses, let each worker answer at one of them.

    That is how run.py sends every worker the same requests. Given one address, all workers answer
    there, as usual.
    """
    listeners = server.LISTENERS
    worker.sockets = [listeners[worker.age % len(listeners)]]
