"""The memory of a process family, and the private memory of each worker.

A measurement forks workers, and lets each of them read, collect garbage and report. Then it reads
``/proc/PID/smaps_rollup`` of all of them, while all are alive and idle. Parent and workers
synchronise by pipes, never by waiting for a time.
"""

from __future__ import annotations

import gc
import io
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, ClassVar

from benchmarks import data as data_module
from benchmarks import peers


@dataclass(frozen=True)
class Footprint:
    """The memory of one process, in bytes, as the kernel counts it.

    Attributes:
        private_dirty: pages that this process has written and no other process shares.
        pss: all its pages, each divided by the number of processes that map it.
        rss: all its pages, counted in full.
    """

    private_dirty: int
    pss: int
    rss: int


def footprint(pid: int | str = "self") -> Footprint:
    """Read a process's footprint from ``smaps_rollup``; walking its page table costs some ms."""
    kilobytes = {}
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
        for line in rollup.readlines()[1:]:
            name, value = line.split()[:2]
            kilobytes[name] = int(value) * 1024
    return Footprint(kilobytes["Private_Dirty:"], kilobytes["Pss:"], kilobytes["Rss:"])


def heap_dirty(pid: int | str = "self") -> int:
    """Return the bytes of the permanent heap that the process has copied by writing to them."""
    inside, total = False, 0
    with open(f"/proc/{pid}/smaps", encoding="utf-8") as mappings_of:
        for line in mappings_of:
            first = line.split(maxsplit=1)[0]
            if not first.endswith(":"):
                inside = "memfd:permaheap" in line
            elif inside and first == "Private_Dirty:":
                total += int(line.split()[1]) * 1024
    return total


def mappings(pid: int | str = "self") -> int:
    """Return the number of the process's mappings."""
    with open(f"/proc/{pid}/maps", "rb") as maps:
        return sum(1 for _ in maps)


class Forked:
    """A forked child that answers requests over a pipe until it is closed.

    Args:
        serve: is called in the child with its end of the pipe; the child ends when it returns.
    """

    # A child inherits the parent's ends of the pipes of earlier children. It must close them:
    # otherwise those children would not see that the parent closes its end.
    open_pipes: ClassVar[list[Connection]] = []

    def __init__(self, serve: Callable[[Connection], object]) -> None:
        self.pipe, theirs = Pipe()
        self.open_pipes.append(self.pipe)
        self.pid = os.fork()
        if self.pid == 0:
            for pipe in self.open_pipes:
                pipe.close()
            run_child(serve, theirs)
        theirs.close()

    def ask(self, request: object = None) -> Any:
        """Send a request and return the answer; EOFError if the child has died."""
        self.pipe.send(request)
        return self.pipe.recv()

    def close(self) -> None:
        """Close the pipe, which ends the child, and reap it."""
        self.open_pipes.remove(self.pipe)
        self.pipe.close()
        os.waitpid(self.pid, 0)


def run_child(serve: Callable[[Connection], object], pipe: Connection) -> None:
    """Serve in the child, and end without the parent's clean-up."""
    status = 0
    try:
        serve(pipe)
    except EOFError:  # the parent closed its end, which ends the child as usual
        pass
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    finally:
        sys.stderr.flush()
        os._exit(status)


@dataclass(frozen=True)
class Family:
    """The footprint of a parent and its workers after the workers have read everything.

    Attributes:
        parent: the parent's footprint.
        workers: the footprint of each worker.
        helpers: the PSS of processes that the store itself started, in bytes.
        ready_seconds: for each worker, from the start of reading to the end of scan and look-ups.
        used: bytes of the permanent heap; 0 for other stores.
        heap_dirty: the most bytes of the permanent heap that a worker copied by writing to them.
    """

    parent: Footprint
    workers: list[Footprint]
    helpers: int
    ready_seconds: list[float]
    used: int
    heap_dirty: int

    @property
    def pss(self) -> int:
        """PSS of all processes together, in bytes."""
        return self.parent.pss + self.helpers + sum(worker.pss for worker in self.workers)


def family(peer: peers.Peer, data_set: str, records: int, lookups: int, workers: int) -> Family:
    """Put the data into a peer's store, fork workers that read it, and measure all of them.

    Args:
        peer: an unused peer; it is closed afterwards.
        data_set: the name of the data set.
        records: the number of its records.
        lookups: the number of random look-ups of each worker, after its scan.
        workers: the number of workers that run at once.
    """
    chosen = data_module.DATA_SETS[data_set]
    # One bytes object, so that the keys add nothing to the memory that a worker writes.
    packed = "\n".join(chosen.keys(records, lookups)).encode()
    data = chosen.build(records)
    peer.put(data, chosen)
    del data
    gc.collect()
    peer.before_fork()

    def serve(pipe: Connection) -> None:
        pipe.recv()
        start = time.perf_counter()
        peer.attach()
        peer.scan()
        peer.lookups(line.decode()[:-1] for line in io.BytesIO(packed + b"\n"))
        seconds = time.perf_counter() - start
        gc.collect()
        pipe.send(seconds)
        pipe.recv()

    forked = [Forked(serve) for _ in range(workers)]
    try:
        for worker in forked:
            worker.pipe.send("read")
        seconds = [worker.pipe.recv() for worker in forked]
        return Family(
            footprint(),
            [footprint(worker.pid) for worker in forked],
            sum(footprint(pid).pss for pid in peer.helpers()),
            seconds,
            peer.used(),
            max(heap_dirty(worker.pid) for worker in forked),
        )
    finally:
        for worker in forked:
            worker.close()
        peer.close()


def measure_family(
    peer: str, data_set: str, records: int, lookups: int, workers: int
) -> dict[str, Any]:
    """Return ``family()`` for a peer given by name, as plain values for JSON."""
    found = family(peers.by_name(peer), data_set, records, lookups, workers)
    return {**asdict(found), "pss": found.pss}


def measure_block(data_set: str, records: int) -> dict[str, Any]:
    """Measure the bytes of the data as ordinary objects and as one frozen block.

    The size of ordinary objects is the growth of the resident size of a new process. The size of
    the block is the permanent heap's own count.
    """
    import permaheap

    gc.collect()
    before = footprint().rss
    data = data_module.DATA_SETS[data_set].build(records)
    gc.collect()
    resident = footprint().rss - before
    used = permaheap.stats().used
    frozen = permaheap.freeze(data)
    stats = permaheap.stats()
    assert permaheap.is_frozen(frozen)
    return {
        "resident": resident,
        "records": len(frozen["records"]),
        "block": stats.used - used,
        "objects": dict(stats.objects),
        "bytes": dict(stats.bytes),
        "saved": stats.saved,
    }


def measure_interpreter(peer: str, records: int, lookups: int) -> dict[str, Any]:
    """Measure the memory that a second interpreter of a process needs to read the data.

    Returns:
        ``own``: the growth of the process's private dirty memory, in bytes, while the interpreter
        attaches and reads. The interpreter and its imports are there before.
    """
    chosen = data_module.DATA_SETS["records"]
    store = peers.by_name(peer)
    assert isinstance(store, peers.InterpreterPeer)
    data = chosen.build(records)
    store.put(data, chosen)
    del data
    gc.collect()
    store.before_fork()
    keys = chosen.keys(records, lookups)
    store.start(keys)
    before = footprint().private_dirty
    store.attach()
    store.scan()
    store.lookups(keys)
    store.collect()
    own = footprint().private_dirty - before
    store.close()
    return {"own": own}
