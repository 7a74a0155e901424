"""Costs and savings of whole processes and interpreters: collecting, forking, sharing."""

from __future__ import annotations

import gc
import os
import statistics
import struct
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import peers
from benchmarks.data import DATA_SETS
from benchmarks.interpreters import Interpreter
from benchmarks.memory import Forked
from benchmarks.timing import Samples, Work, medians, per_call, ratio, seconds, spread

# --- the collector, and fork ----------------------------------------------------------------------

STORES = ("empty", "plain", "gc.freeze", "permaheap")


def station(name: str, records: int, job: Callable[[peers.Peer, str], Any]) -> Forked:
    """Fork a process that holds the data in one way and does a job for each request.

    Args:
        name: one of STORES; "empty" is plain with ten records.
        records: the number of records of the others.
        job: is called for each request with the store and a key; its result is the answer.
    """

    def serve(pipe: Connection) -> None:
        chosen = DATA_SETS["records"]
        count = 10 if name == "empty" else records
        peer = peers.by_name("plain" if name == "empty" else name)
        data = chosen.build(count)
        peer.put(data, chosen)
        del data
        gc.collect()
        peer.before_fork()
        peer.attach()
        key = chosen.keys(count, 1)[0]
        while True:
            pipe.recv()
            pipe.send(job(peer, key))

    return Forked(serve)


def ask_in_turns(job: Callable[[peers.Peer, str], float], records: int, rounds: int) -> Samples:
    """Let one station for each store do a job that returns seconds, in turns."""
    stations = {name: station(name, records, job) for name in STORES}
    try:
        samples = in_order(stations, rounds + 1)
    finally:
        for each in stations.values():
            each.close()
    return {name: values[1:] for name, values in samples.items()}  # without the warm-up


def in_order(stations: Mapping[str, Forked], rounds: int) -> Samples:
    """Return the answers of the stations, asked one at a time, round by round."""
    samples: Samples = {name: [] for name in stations}
    for _ in range(rounds):
        for name, each in stations.items():
            samples[name].append(each.ask())
    return samples


def measure_gc(records: int, rounds: int) -> dict[str, Any]:
    """Time ``gc.collect()`` in processes that hold the data in different ways."""

    def collect(peer: peers.Peer, key: str) -> float:
        gc.collect()
        return statistics.median(seconds(gc.collect) for _ in range(3))

    return against(ask_in_turns(collect, records, rounds), "empty")


def measure_fork(records: int, rounds: int) -> dict[str, Any]:
    """Time ``fork()`` in the parent until its child has looked up one record."""

    def fork_and_look_up(peer: peers.Peer, key: str) -> float:
        reader, writer = os.pipe()
        start = time.perf_counter_ns()
        pid = os.fork()
        if pid == 0:
            peer.lookups((key,))
            os.write(writer, struct.pack("q", time.perf_counter_ns()))
            os._exit(0)
        (end,) = struct.unpack("q", os.read(reader, 8))
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
        return float(end - start) / 1e9

    return against(ask_in_turns(fork_and_look_up, records, rounds), "plain")


def against(samples: Samples, base: str) -> dict[str, Any]:
    """Return the ratios of all stores to one of them, and median seconds."""
    return {
        "ratio": {name: ratio(samples, name, base) for name in samples},
        "seconds": medians(samples),
    }


# --- handles --------------------------------------------------------------------------------------


def measure_handles(sizes: list[int]) -> dict[str, Any]:
    """Time ``Handle.get()`` for objects of several sizes, also the first one in a sibling.

    Args:
        sizes: the bytes of content of each object, made of chunks of at most 1 MB.

    Returns:
        By size: seconds for ``get``, for ``share``, for ``Handle.from_bytes(...).get()``, and for
        the ``first_get`` in a process forked before the object was frozen; the loop included.
    """
    import permaheap

    handles, first = {}, {}
    for size in sizes:
        sibling = Forked(time_first_get)
        handle = permaheap.share(frozen_of(size))
        first[size] = sibling.ask(bytes(handle))
        sibling.close()
        handles[size] = handle
    result = {}
    calls: dict[str, list[Work]] = {
        "get": [handle.get for handle in handles.values()],
        "share": [partial(permaheap.share, handle.get()) for handle in handles.values()],
        "from_bytes": [partial(get_by_name, bytes(handle)) for handle in handles.values()],
    }
    each = {name: dict(zip(sizes, per_call(works), strict=True)) for name, works in calls.items()}
    for size in sizes:
        numbers = {name: by_size[size] for name, by_size in each.items()}
        result[str(size)] = numbers | {"first_get": first[size]}
    return result


def frozen_of(size: int) -> Any:
    """Return a frozen object of about ``size`` bytes: strings below 1 MB, else chunks of 1 MB."""
    import permaheap

    if size >= 1 << 20:
        return permaheap.freeze_each(chunks(size))
    return permaheap.freeze([f"{number:015}" for number in range(max(1, size // 64))])


def get_by_name(name: bytes) -> Any:
    """Return the object of a handle given as bytes."""
    import permaheap

    return permaheap.Handle.from_bytes(name).get()


def chunks(size: int) -> Any:
    """Return distinct bytes objects of 1 MB, of ``size`` bytes together."""
    chunk = 1 << 20
    return (number.to_bytes(8, "little") * (chunk // 8) for number in range(size // chunk))


def time_first_get(pipe: Connection) -> None:
    """Answer each handle that comes as bytes with the seconds to turn it into an object."""
    import permaheap

    while True:
        name = pipe.recv()
        start = time.perf_counter()
        found = permaheap.Handle.from_bytes(name).get()
        pipe.send(time.perf_counter() - start)
        del found


# --- two at once ----------------------------------------------------------------------------------

SCANNER = """
import os, struct, time
import permaheap
from benchmarks.data import scan_records
data = permaheap.Handle.from_bytes({handle!r}).get()
scan_records(data)
while os.read({requests}, 1) == b"g":
    start = time.perf_counter_ns()
    for _ in range({scans}):
        scan_records(data)
    os.write({answers}, struct.pack("qq", start, time.perf_counter_ns()))
"""


class Scanner:
    """An interpreter or a forked process that scans the frozen data when it is told to."""

    def __init__(self, handle: bytes, scans: int) -> None:
        read_requests, self.requests = os.pipe()
        self.answers, write_answers = os.pipe()
        self.script = SCANNER.format(
            handle=handle, scans=scans, requests=read_requests, answers=write_answers
        )

    def begin(self) -> None:
        """Tell it to scan."""
        os.write(self.requests, b"g")

    def finish(self) -> tuple[int, int]:
        """Return the start and the end of its scans, in nanoseconds of the monotonic clock."""
        start, end = struct.unpack("qq", os.read(self.answers, 16))
        return start, end

    def stop(self) -> None:
        """Tell it to end."""
        os.write(self.requests, b"q")


class InterpreterScanner(Scanner):
    """A scanner in an interpreter with its own GIL, run by a thread of this process."""

    def __init__(self, handle: bytes, scans: int) -> None:
        super().__init__(handle, scans)
        self.interpreter = Interpreter()
        self.thread = threading.Thread(target=self.interpreter.run, args=(self.script,))
        self.thread.start()

    def stop(self) -> None:
        super().stop()
        self.thread.join()
        self.interpreter.close()


class ProcessScanner(Scanner):
    """A scanner in a forked process; two of them show the best result of two cores."""

    def __init__(self, handle: bytes, scans: int) -> None:
        super().__init__(handle, scans)
        self.process = Forked(lambda pipe: exec(self.script, {}))

    def stop(self) -> None:
        super().stop()
        self.process.close()


def measure_interpreters(records: int, scans: int, rounds: int) -> dict[str, Any]:
    """Measure the throughput of two scanners / one, for interpreters and processes."""
    import permaheap

    frozen = permaheap.freeze(DATA_SETS["records"].build(records))
    gc.collect()
    handle = bytes(permaheap.share(frozen))
    # Processes first: with other interpreters a fork is refused, and it would lose the threads.
    result = {"processes": throughput(ProcessScanner, handle, scans, rounds)}
    result["interpreters"] = throughput(InterpreterScanner, handle, scans, rounds)
    return result


def throughput(kind: type[Scanner], handle: bytes, scans: int, rounds: int) -> dict[str, Any]:
    """Return the spread over rounds of the throughput of two scanners / one."""
    pair = [kind(handle, scans), kind(handle, scans)]
    wall([pair[0]])
    wall([pair[1]])
    ratios = []
    for turn in range(rounds):
        alone = wall([pair[turn % 2]])
        ratios.append(2 * alone / wall(pair))
    for each in pair:
        each.stop()
    return spread(ratios)


def wall(scanners: list[Scanner]) -> float:
    """Return the seconds from the first start to the last end of scanners that run together."""
    for each in scanners:
        each.begin()
    times = [each.finish() for each in scanners]
    return (max(end for _, end in times) - min(start for start, _ in times)) / 1e9
