"""Settings that gunicorn reads when it is started in this directory."""

import permaheap

bind = "127.0.0.1:8000"
workers = 4
loglevel = "warning"

# Import the application, and so build and freeze its data, before the workers are forked.
preload_app = True

# Otherwise recent versions create a directory for their control socket in the user's home.
control_socket_disable = True


def pre_fork(server, worker):
    """Let the workers share the rest of the master's memory: code, modules, gunicorn itself."""
    permaheap.prefork()


def post_fork(server, worker):
    """If there are several addresses, let each worker answer at one of them.

    That is how the demo sends the same requests to every worker. If there is one address, all
    workers answer there, as usual.
    """
    listeners = server.LISTENERS
    worker.sockets = [listeners[worker.age % len(listeners)]]
