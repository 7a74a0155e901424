"""Measure a sample application in every mode: the same program, the same load, other memory.

A measurement has three moments. *start*: every client has one answer. *load*: all requests are
answered. *collected*: each worker has then run one full collection (see in_mode.py).
"""

import os
import platform
import signal
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

from examples.common import load, processes
from examples.common.processes import Memory, Program, SampleError, children, cpu_seconds, memory

MODES = ("plain", "gc.freeze", "prefork", "frozen")
MOMENTS = ("start", "load", "collected")


@dataclass(frozen=True)
class Setting:
    """The setting in which a sample is started."""

    launcher: Sequence[str]
    """The command that runs a module, whose name and arguments follow, in one of the modes."""
    descriptors: Sequence[int]
    """Open files that the program inherits."""
    workers: int
    environment: Mapping[str, str]
    """Variables that make its data small; empty for the full data."""


@dataclass(frozen=True)
class Started:
    """A sample that is running."""

    program: Program
    clients: Sequence[load.Client]


@dataclass(frozen=True)
class Sample:
    """A sample application, and how to run and load it."""

    name: str
    """The name of its directory."""
    title: str
    start: Callable[[Setting], AbstractContextManager[Started]]
    hello: str
    """The request that each client sends before anything is measured."""
    requests: Callable[[int, int], Sequence[str]]
    """Return the requests of a client, given the client's number and the number of requests."""
    total: int
    """The number of requests of all clients together."""
    small: Mapping[str, str]
    """Variables that make its data small enough for a test."""
    packages: Sequence[str]
    """Distributions whose versions are part of a result."""
    unit: str = "requests"


@dataclass(frozen=True)
class Outcome:
    """The measurements of a sample in one mode."""

    parent: Mapping[str, Memory]
    """The memory of the parent, by moment."""
    workers: Mapping[str, Sequence[Memory]]
    """The memory of each worker, by moment."""
    load: load.Load
    cpu_seconds: float
    """Processor time of all processes for the load. A busy machine hardly changes it."""
    causes: Mapping[str, int] = field(default_factory=dict)
    """The profiler's ranking: pages that the workers have copied, by cause; empty without it."""

    def dirty(self, moment: str) -> float:
        """Return the mean private dirty bytes of a worker."""
        return statistics.mean(each.private_dirty for each in self.workers[moment])

    def pss(self, moment: str) -> int:
        """Return the PSS of all processes in bytes: the memory that the family uses."""
        return self.parent[moment].pss + sum(each.pss for each in self.workers[moment])


class Collector:
    """Lets workers run a full collection, and waits for them."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def __enter__(self) -> "Collector":
        return self

    def __exit__(self, *_: object) -> None:
        for end in (self.reader, self.writer):
            os.close(end)

    def collect(self, pids: Sequence[int]) -> None:
        """Let these processes run a full collection, and wait for them."""
        waiting = set(pids)
        for pid in pids:
            os.kill(pid, signal.SIGRTMIN)
        while waiting:
            waiting -= set(map(int, os.read(self.reader, 4096).split()))


def measure(
    sample: Sample,
    mode: str,
    *,
    workers: int,
    total: int,
    small: bool = False,
    show: Callable[[str], None] = lambda step: None,
) -> Outcome:
    """Run a sample in one mode, load it, and return the outcome.

    Args:
        sample: the sample to measure.
        mode: one of the modes of in_mode.py.
        workers: the number of workers.
        total: the number of requests of all clients together; each client sends at least one.
        small: whether the sample uses little data.
        show: gets the description of each step.
    """
    with ExitStack() as stack:
        collector = stack.enter_context(Collector())
        environment = {"COLLECTED_FD": str(collector.writer), **(sample.small if small else {})}
        setting = Setting(processes.launcher(mode), [collector.writer], workers, environment)
        started = stack.enter_context(sample.start(setting))
        program = started.program
        show(f"started as process {program.pid}")
        try:
            return observe(sample, started, collector, workers, total, show)
        except SampleError:
            raise
        except Exception as error:  # any exception of a client's library
            raise program.failed(f"{sample.title}, {mode}: {error!r}") from error


def observe(
    sample: Sample,
    started: Started,
    collector: Collector,
    workers: int,
    total: int,
    show: Callable[[str], None],
) -> Outcome:
    """Load a running sample, and read its memory at each moment."""
    program, clients = started.program, started.clients
    load.run(clients, [[sample.hello]] * len(clients), program.wait_for_end)
    pids = children(program.pid)
    if len(pids) != workers:
        raise program.failed(f"{len(pids)} workers instead of {workers}")
    seen: dict[str, list[Memory]] = {}

    def look(moment: str) -> None:
        if children(program.pid) != pids:
            raise program.failed("a worker has died")
        seen[moment] = [memory(pid) for pid in (program.pid, *pids)]

    look("start")
    show("ready, sending requests")
    each = max(1, total // len(clients))
    requests = [sample.requests(number, each) for number in range(len(clients))]
    family = [program.pid, *pids]
    spent = -sum(map(cpu_seconds, family))
    result = load.run(clients, requests, program.wait_for_end)
    spent += sum(map(cpu_seconds, family))
    look("load")
    collector.collect(pids)
    look("collected")
    return Outcome(
        {moment: found[0] for moment, found in seen.items()},
        {moment: found[1:] for moment, found in seen.items()},
        result,
        spent,
        causes(program.pid),
    )


def causes(pid: int) -> dict[str, int]:
    """Return the profiler's ranking for a family: pages copied by its workers, by cause."""
    try:
        from permaheap.cow import snapshot
    except ImportError:  # the profiler is not there yet
        return {}
    total: dict[str, int] = {}
    for worker in snapshot(pid).workers:
        for cause, pages in worker.by_cause().items():
            total[str(cause)] = total.get(str(cause), 0) + pages
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def difference(outcomes: Mapping[str, Outcome]) -> str | None:
    """Return a description of the first response that differs between modes, or None."""
    first, *others = outcomes
    for mode in others:
        for a, b in zip(outcomes[first].load, outcomes[mode].load, strict=True):
            if (a.request, a.digest) != (b.request, b.digest):
                return f"{a.request}: not the same in the modes {first} and {mode}"
    return None


def python() -> str:
    """Return the version of the interpreter that runs the samples, such as "3.14.8"."""
    return platform.python_version()
