"""Runs every measurement in a new process, so that none leaves its heap or caches to another.

``plan()`` lists the measurements; ``run()`` runs one of them. Its process is
``python -m benchmarks.runner NAME``: it reads its arguments from standard input and writes the
result to standard output, both as JSON.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from benchmarks import channels, data, imports, memory, peers, prefork, processes, speed

MEASUREMENTS: dict[str, Callable[..., dict[str, Any]]] = {
    "family": memory.measure_family,
    "block": memory.measure_block,
    "interpreter": memory.measure_interpreter,
    "freeze": speed.measure_freeze,
    "small": speed.measure_small,
    "reads": speed.measure_reads,
    "operations": speed.measure_operations,
    "peer": speed.measure_peer,
    "gc": processes.measure_gc,
    "fork": processes.measure_fork,
    "handles": processes.measure_handles,
    "interpreters": processes.measure_interpreters,
    "prefork": prefork.measure_prefork,
    "causes": prefork.measure_causes,
    "import": imports.measure_import,
    "small messages": channels.measure_small,
    "latency": channels.measure_latency,
    "copied": channels.measure_copied,
    "frozen": channels.measure_frozen,
    "table": channels.measure_table,
    "moved": channels.measure_moved,
    "idle": channels.measure_idle,
}

GROUPS = (
    "memory", "block", "freeze", "small", "reads", "operations", "gc", "fork", "handles",
    "interpreters", "prefork", "import", "channels", "peers", "sets",
)  # fmt: skip

# Peers whose workers are forked, in the order of the report.
FORKED = ("plain", "gc.freeze", "permaheap", "in place", "numpy", "manager", "lmdb",
          "pyarrow", "shared_memory", "orjson")  # fmt: skip
INTERPRETERS = ("interpreters", "permaheap-interpreter")
MAIN = ("plain", "gc.freeze", "permaheap")
MEASURED = (*MAIN, "in place")  # by the groups before "peers"

TIMEOUT = 240.0  # seconds; on an idle machine no measurement takes a quarter of it


@dataclass(frozen=True)
class Options:
    """The amount to measure.

    Attributes:
        records: the number of records of the main data set.
        lookups: the number of random look-ups of each reading.
        workers: the number of forked workers of each family.
        rounds: the rounds of the quick measurements; the slow ones take a part of them.
        largest: the bytes of the largest object that a handle names.
        small: the number of small freezes.
        puts: the number of times that the data is put into each peer's store.
        messages: the number of messages through a channel in each round.
        only: the groups to run.
    """

    records: int = 200_000
    lookups: int = 20_000
    workers: int = 4
    rounds: int = 15
    largest: int = 1 << 30
    small: int = 100_000
    puts: int = 3
    messages: int = 20_000
    only: tuple[str, ...] = GROUPS


def quick() -> Options:
    """Return options for a tenth of the data and fewer rounds."""
    return Options(
        records=20_000, lookups=5_000, rounds=5, largest=1 << 26, small=10_000, puts=1,
        messages=2_000,
    )  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One measurement: the key of its result, the function's name and its arguments."""

    key: str
    group: str
    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    peer: str | None = None


def plan(options: Options) -> list[Job]:
    """Return all jobs that the options ask for, in the order of running."""
    jobs = [
        *main_jobs(options), *channel_jobs(options), *peer_jobs(options), *set_jobs(options),
    ]  # fmt: skip
    return [job for job in jobs if job.group in options.only]


def main_jobs(options: Options) -> Iterator[Job]:
    """Yield the measurements of permaheap itself, for which the goals are stated."""
    records, lookups, rounds = options.records, options.lookups, options.rounds
    few = max(3, rounds // 3)
    main = {"data_set": "records", "records": records}
    for peer in MAIN:
        yield from family_jobs(peer, "memory", options)
    yield Job("block", "block", "block", main)
    yield Job("freeze", "freeze", "freeze", main | {"rounds": few})
    yield Job("small", "small", "small", {"count": options.small})
    yield Job("reads", "reads", "reads", main | {"lookups": lookups, "rounds": 2 * rounds})
    yield Job("operations", "operations", "operations", {"rounds": 2 * rounds})
    yield Job("gc", "gc", "gc", {"records": records, "rounds": rounds})
    yield Job("fork", "fork", "fork", {"records": records, "rounds": 4 * rounds})
    yield Job("handles", "handles", "handles", {"sizes": sizes(options.largest)})
    yield Job(
        "interpreters",
        "interpreters",
        "interpreters",
        {"records": records, "scans": 1, "rounds": 2 * few},
    )
    yield from family_jobs("in place", "prefork", options)
    yield Job("prefork", "prefork", "prefork", {"records": records})
    yield Job("causes", "prefork", "causes", {"records": records // 10})
    yield Job("import", "import", "import", {"rounds": rounds})


def channel_jobs(options: Options) -> Iterator[Job]:
    """Yield the measurements of channels and of their alternatives."""
    many = {"messages": options.messages, "rounds": options.rounds}
    few = {"messages": options.messages // 20, "rounds": options.rounds}
    yield Job("channel small", "channels", "small messages", many)
    yield Job("channel latency", "channels", "latency", few)
    yield Job("channel copied", "channels", "copied", many)
    yield Job("channel frozen", "channels", "frozen", many | {"sizes": [1 << 10, options.largest]})
    yield Job("channel moved", "channels", "moved", few | {"sizes": [1 << 14, 100 << 20]})
    for way in channels.INTERPRETERS:
        rounds = options.rounds if way == "permaheap" else 1
        # 200 MB when frozen.
        table = {"name": way, "records": options.records * 8 // 5, "rounds": rounds}
        yield Job(f"channel table {way}", "channels", "table", table)
    yield Job("channel idle", "channels", "idle", {"seconds": 4.0})


def peer_jobs(options: Options) -> Iterator[Job]:
    """Yield the measurements of permaheap's alternatives."""
    records, lookups = options.records, options.lookups
    speeds = {"records": records, "lookups": lookups, "rounds": 7, "puts": options.puts}
    for peer in FORKED:
        if peer not in MEASURED:
            yield from family_jobs(peer, "peers", options)
        if peer != "plain":
            yield Job(f"peer {peer}", "peers", "peer", {"peer": peer, **speeds}, peer)
    for peer in INTERPRETERS:
        sizes = {"peer": peer, "records": records, "lookups": lookups}
        yield Job(f"interpreter {peer}", "peers", "interpreter", sizes, peer)
        yield Job(f"peer {peer}", "peers", "peer", {"peer": peer, **speeds}, peer)


def set_jobs(options: Options) -> Iterator[Job]:
    """Yield size, freezing, reading and worker memory of the other data sets."""
    for name in ("unicode", "packages"):
        main = {"data_set": name, "records": options.records}
        yield Job(f"{name} block", "sets", "block", main)
        yield Job(f"{name} freeze", "sets", "freeze", main | {"rounds": 3})
        reads = main | {"lookups": options.lookups, "rounds": options.rounds}
        yield Job(f"{name} reads", "sets", "reads", reads)
        for peer in ("plain", "permaheap"):
            yield family_job(f"{name} family {peer}", "sets", peer, name, options)


def family_jobs(peer: str, group: str, options: Options) -> Iterator[Job]:
    """Yield the memory of a family with a peer, without data and with it."""
    yield family_job(f"base {peer}", group, peer, "records", replace(options, records=10))
    yield family_job(f"family {peer}", group, peer, "records", options)


def family_job(key: str, group: str, peer: str, data_set: str, options: Options) -> Job:
    """Return the memory of one family."""
    arguments = {
        "peer": peer,
        "data_set": data_set,
        "records": options.records,
        "lookups": options.lookups,
        "workers": options.workers,
    }
    return Job(key, group, "family", arguments, peer)


def sizes(largest: int) -> list[int]:
    """Return object sizes for the handles: 1 kB, 1 MB, 100 MB, and the largest."""
    return [size for size in (1 << 10, 1 << 20, 100 << 20) if size < largest] + [largest]


def run(job: Job) -> dict[str, Any]:
    """Run one measurement in a fresh process.

    Returns:
        Its result. ``{"unavailable": why}`` if the peer cannot run here. ``{"error": text}`` if the
        measurement failed, with the end of its standard error.
    """
    reason = peers.unavailable(job.peer) if job.peer else missing_permaheap()
    reason = reason or data.unavailable(job.arguments.get("data_set", ""))
    if reason:
        return {"unavailable": reason}
    command = [sys.executable, "-m", "benchmarks.runner", job.name]
    try:
        done = subprocess.run(
            command, input=json.dumps(job.arguments), capture_output=True, text=True,
            timeout=TIMEOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return {"error": f"no result after {TIMEOUT:.0f} s"}
    if done.returncode:
        return {"error": f"exit status {done.returncode}: {done.stderr.strip()[-600:]}"}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def missing_permaheap() -> str | None:
    """Return the reason why permaheap itself cannot be measured, or None."""
    return None if importlib.util.find_spec("permaheap") else "permaheap is not installed"


def main() -> None:
    """Run the measurement named on the command line, arguments and result as JSON."""
    arguments = json.load(sys.stdin)
    json.dump(MEASUREMENTS[sys.argv[1]](**arguments), sys.stdout)


if __name__ == "__main__":
    main()
