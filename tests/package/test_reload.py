"""The recipe for reloading data, with a real gunicorn under load."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from test_docs import UnixConnection, _environment, _write_files

pytestmark = pytest.mark.no_sanitizer("programs around the core")

pytest.importorskip("gunicorn")

MIB = 1 << 20
ROWS = 20_000


def write_data(directory, version):
    """Replace the data: about 8 MiB once they are frozen."""
    data = {str(i): {"version": version, "text": f"{version}: {i} " * 20} for i in range(ROWS)}
    fresh = directory / "fresh.json"
    fresh.write_text(json.dumps(data))
    fresh.rename(directory / "data.json")


class Server:
    """A gunicorn with the recipe's files, and what its log says."""

    def __init__(self, directory):
        self.path = str(directory / "s")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "app", "--bind", f"unix:{self.path}", "--workers=2"],
            cwd=directory,
            env={**_environment(), "HOME": str(directory)},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.log = []
        for _ in range(2):
            self.wait("Booting worker")

    def wait(self, words):
        """Read the log up to a line with these words."""
        for line in self.process.stderr:
            self.log.append(line)
            if words in line:
                return
        pytest.fail("gunicorn has ended:\n" + "".join(self.log))

    def reload(self):
        """Reload, and wait until both old workers have left."""
        self.process.send_signal(signal.SIGHUP)
        for _ in range(2):
            self.wait("released blocks wait")
        assert " 0 released" in self.log[-1]

    def processes(self):
        """Return the pids of the master and of its workers."""
        master = self.process.pid
        children = Path(f"/proc/{master}/task/{master}/children")
        return [master, *map(int, children.read_text().split())]

    def resident(self):
        """Return the bytes that all of them take, each page counted once."""
        rollups = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in self.processes()]
        return sum(int(re.search(r"^Pss: +(\d+)", rollup, re.M)[1]) for rollup in rollups) << 10

    def heap(self):
        """Return the bytes of memory that the heap's file takes."""
        for link in Path(f"/proc/{self.process.pid}/fd").iterdir():
            if os.readlink(link).startswith("/memfd:permaheap"):
                return link.stat().st_blocks * 512
        raise AssertionError("gunicorn has no heap")

    def end(self):
        self.process.terminate()
        self.process.communicate(timeout=60)


class Load:
    """Clients that ask without a pause, each request by a connection of its own."""

    def __init__(self, path):
        self.path, self.stop = path, threading.Event()
        self.versions, self.failures = set(), []
        self.served = 0
        self.threads = [threading.Thread(target=self.ask, args=(i,)) for i in range(2)]
        for thread in self.threads:
            thread.start()

    def ask(self, number):
        while not self.stop.is_set():
            number = (number + 7919) % ROWS
            try:
                self.ask_once(number)
            except (OSError, http.client.HTTPException, AssertionError) as error:
                self.failures.append(repr(error))

    def ask_once(self, number):
        with contextlib.closing(UnixConnection(self.path)) as connection:
            connection.request("GET", f"/{number}")
            response = connection.getresponse()
            assert response.status == 200
            row = json.loads(response.read())
        assert row["text"] == f"{row['version']}: {number} " * 20
        self.versions.add(row["version"])
        self.served += 1

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()


@pytest.mark.slow
def test_twenty_reloads_under_load(tmp_path):
    """The memory stays what one table takes, and no request fails."""
    if len(os.fsencode(tmp_path)) > 90:  # a Unix socket's path has 108 bytes at most
        pytest.skip("the temporary directory has too long a name")
    _write_files("recipes.md: Reloading data (gunicorn)", tmp_path)
    write_data(tmp_path, 0)
    server = Server(tmp_path)
    heaps, sizes = [server.heap()], []
    load = Load(server.path)
    try:
        for version in range(1, 21):
            write_data(tmp_path, version)
            server.reload()
            heaps.append(server.heap())
            sizes.append(server.resident())
    finally:
        load.end()
        server.end()
    assert load.failures == []
    assert load.versions == set(range(21))
    assert max(heaps) < heaps[0] + 2 * MIB, heaps
    assert max(sizes[2:]) < sizes[2] + heaps[0], sizes


@pytest.mark.slow
def test_data_that_cannot_be_loaded(tmp_path):
    """The old data stay, and the next reload brings the new ones."""
    if len(os.fsencode(tmp_path)) > 90:
        pytest.skip("the temporary directory has too long a name")
    _write_files("recipes.md: Reloading data (gunicorn)", tmp_path)
    write_data(tmp_path, 0)
    server = Server(tmp_path)
    load = Load(server.path)
    try:
        (tmp_path / "data.json").write_text("no JSON")
        server.reload()
        assert any("cannot load the data" in line for line in server.log)
        write_data(tmp_path, 1)
        server.reload()
    finally:
        load.end()
        server.end()
    assert load.failures == []
    assert load.versions == {0, 1}
