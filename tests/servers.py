"""Real server programs: started in a session of their own, asked over loopback, ended for certain."""

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import permaheap

TESTS = Path(__file__).parent
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

    @property
    def text(self):
        return "".join(self.log)

    def end(self, number=signal.SIGTERM):
        """Ask it to end and read the rest of its output."""
        self.process.send_signal(number)
        self.finish()

    def finish(self):
        """Wait for the end, and read the rest of the output; return the exit status."""
        self.log.append(self.process.communicate(timeout=120)[0] or "")
        return self.process.returncode


@contextlib.contextmanager
def started(command, directory, **environment):
    """Start a command; at the end of the block nothing of its session is left."""
    path = [str(TESTS), str(Path(permaheap.__file__).parent.parent), os.environ.get("PYTHONPATH")]
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
            server.end()
    except BaseException as error:
        _kill_session(process.pid)
        server.finish()
        error.add_note("Output of the server:\n" + server.text)
        raise
    finally:
        left = _kill_session(process.pid)
        process.wait()
        process.stdout.close()
    assert not left, f"processes were left behind:\n{server.text}"


def _kill_session(leader):
    """Kill what is left of a session; return whether there was anything."""
    groups = _groups_of_session(leader)
    for group in groups:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
    return bool(groups)


def _groups_of_session(leader):
    groups = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            _, _, group, session = stat.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader:
                groups.add(int(group))
    return groups


class _UnixConnection(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(120)
        self.sock.connect(self.host)


def ask(address, times=4):
    """Send so many requests, each by a new connection to a port or a Unix socket; yield answers."""
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
