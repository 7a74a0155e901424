"""Real servers: started in a session of their own, asked over loopback, ended for certain."""

import contextlib
import http.client
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import permaheap

SUPPORT = Path(__file__).parent
SCRIPTS = Path(sysconfig.get_path("scripts"))


class Server:
    """A running program; its output is read when a test waits for something in it."""

    def __init__(self, process):
        self.process = process
        self.log = []

    def wait_for(self, pattern):
        """Read the output up to a line that the pattern is found in; return the match."""
        for line in self.process.stdout:
            self.log.append(line)
            if match := re.search(pattern, line):
                return match
        raise AssertionError(f"it ended before {pattern!r}:\n{self.text}")

    def wait_for_all(self, *patterns):
        """Read the output until each pattern had a line of its own, in any order.

        Return the matches in the order of the patterns.
        """
        found = dict.fromkeys(range(len(patterns)))
        while None in found.values():
            line = self.wait_for(".*")[0]
            for index, pattern in enumerate(patterns):
                if found[index] is None and (match := re.search(pattern, line)):
                    found[index] = match
                    break
        return list(found.values())

    @property
    def text(self):
        return "".join(self.log)

    def finish(self):
        """Wait for the end, and read the rest of the output; return the exit status."""
        self.log.append(self.process.communicate(timeout=120)[0] or "")
        return self.process.returncode


@contextlib.contextmanager
def started(command, directory, end=signal.SIGTERM, **environment):
    """Start a command, and end it with the block, by a signal; nothing of its session is left."""
    path = [str(SUPPORT), str(Path(permaheap.__file__).parent.parent), os.environ.get("PYTHONPATH")]
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=directory,
        env={
            **os.environ,
            "HOME": str(directory),
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "PYTHONUNBUFFERED": "1",
            **environment,
        },
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        text=True,
    )
    server = Server(process)
    try:
        yield server
        if process.poll() is None:
            (_kill_session(process.pid) if end == signal.SIGKILL else process.send_signal(end))
            server.finish()
    except BaseException as error:
        _kill_session(process.pid)
        server.finish()
        error.add_note("Output of the server:\n" + server.text)
        raise
    finally:
        process.wait()
        ended = [_ends(pid) for pid in session_members(process.pid)]
        _kill_session(process.pid)
        process.stdout.close()
    assert all(ended), f"processes were left behind:\n{server.text}"


def _kill_session(leader):
    for pid in session_members(leader):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _ends(pid):
    """Wait for the end of a process, which others have told to end; return whether it came."""
    try:
        file = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([file], [], [], 60)[0])
    finally:
        os.close(file)


def session_members(leader):
    """Return the processes of a session that have not ended."""
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            state, _, _, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state not in "ZX":
                members.append(int(stat.parent.name))
    return members


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, which a server may have bound before it listens there."""

    def connect(self):
        deadline = time.monotonic() + 60
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        while (refused := self.sock.connect_ex(self.host)) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not refused, os.strerror(refused)


def ask(address, times=4):
    """Send some requests, each by a new connection to a port or a Unix socket; yield answers."""
    for _ in range(times):
        if isinstance(address, int):
            connection = http.client.HTTPConnection("127.0.0.1", address, timeout=120)
        else:
            connection = _UnixConnection(address)
        connection.request("GET", "/")
        response = connection.getresponse()
        body = response.read()
        connection.close()
        assert response.status == 200, body
        yield json.loads(body)


def program(name):
    """Return the path of an installed program, or None."""
    path = SCRIPTS / name
    return str(path) if path.exists() else None


PYTHON = sys.executable
