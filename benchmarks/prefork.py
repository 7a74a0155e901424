"""Applications as they are: the cost of prefork(), and the causes that the profiler can name.

The profiler is measured as a user runs it: ``permaheap cow`` starts a parent, whose worker reads
all data and collects garbage. When the worker is done, the profiler is told to end.
"""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.data import DATA_SETS

MODES = ("diff", "trace")


def measure_prefork(records: int) -> dict[str, Any]:
    """Time the first call and one that finds nothing new; count the immortal objects."""
    import permaheap

    data = DATA_SETS["records"].build(records)
    start = time.perf_counter()
    first = permaheap.prefork()
    between = time.perf_counter()
    permaheap.prefork()
    end = time.perf_counter()
    assert first.immortalized is not None
    assert len(data["records"]) == records
    objects = sum(first.immortalized.objects.values())
    return {"objects": objects, "first": between - start, "again": end - between}


def measure_causes(records: int) -> dict[str, Any]:
    """Return, by mode of the profiler, the shares of copied pages with a cause, and seen."""
    shares = {}
    for mode in MODES:
        try:
            shares[mode] = profile(mode, records)
        except RuntimeError as error:  # the kernel does not let this user record page faults
            shares[f"{mode} unavailable"] = str(error)
    return shares


def profile(mode: str, records: int) -> dict[str, float]:
    """Profile a family in one mode; RuntimeError with the profiler's message if it cannot."""
    from permaheap.cow._json import from_json
    from permaheap.cow._summary import summarize

    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "profile.json"
        command = [sys.executable, "-m", "permaheap", "cow", "--mode", mode, "--json", str(file)]
        family = [sys.executable, "-m", __name__, str(records)]
        with subprocess.Popen([*command, "--", *family], stdout=subprocess.PIPE) as profiler:
            assert profiler.stdout is not None
            profiler.stdout.readline()  # the worker is done
            profiler.send_signal(signal.SIGTERM)
            profiler.stdout.read()
        found = from_json(file.read_text("utf-8"))
    figures = summarize(found)
    if figures.named_share is None:
        raise RuntimeError("; ".join(found.notes))
    pages = [page for worker in found.workers for page in worker.pages]
    return {
        "copied": figures.heap_copied,
        "named": figures.named_share,
        "seen": sum(page.certain for page in pages) / len(pages),
    }


def be_a_family(records: int) -> None:
    """Load the data, fork a worker that reads it, print when it is done, wait for SIGTERM."""
    import permaheap  # noqa: F401 - begins the trace

    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    chosen = DATA_SETS["records"]
    store = peers.by_name("plain")
    store.put(chosen.build(records), chosen)
    reader, writer = os.pipe()
    worker = os.fork()
    if worker == 0:
        store.attach()
        store.scan()
        gc.collect()
        os.write(writer, b"x")
        signal.pause()
    os.read(reader, 1)
    print("done", flush=True)
    signal.sigwait([signal.SIGTERM])
    os.kill(worker, signal.SIGKILL)
    os.waitpid(worker, 0)


if __name__ == "__main__":
    be_a_family(int(sys.argv[1]))
