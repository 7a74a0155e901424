"""The cost of sending a value to another process or interpreter: channels and their alternatives.

The receiving end is a forked process, or an interpreter in a thread of this process. It does the
job that a request names (receive N values, or send each one back). All ways to it are timed in
turns, by the wall clock, since both ends work at the same time.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import interpreters, ways
from benchmarks.data import DATA_SETS
from benchmarks.memory import Forked, footprint
from benchmarks.processes import frozen_of
from benchmarks.timing import Samples, collector_set, medians, ratio
from benchmarks.ways import WAYS, Way

SMALL = (7, "job", 2.5, True)
PROCESSES = ("permaheap", "Queue", "SimpleQueue", "Pipe", "faster-fifo")
LATENCY = ("permaheap", "never spinning", "Pipe", "SimpleQueue", "faster-fifo")
WAYS_OF_PROCESSES = ("permaheap", "never spinning", "Queue", "SimpleQueue", "Pipe", "faster-fifo")
INTERPRETERS = ("permaheap", "interpreters")

# --- the other end --------------------------------------------------------------------------------


def receive(there: Way, back: Way, count: int) -> int:
    """Receive values; return the time of the last one, in nanoseconds of the monotonic clock."""
    for _ in range(count):
        there.receive()
    return time.perf_counter_ns()


def echo(there: Way, back: Way, count: int) -> int:
    """Send each value back."""
    for _ in range(count):
        back.send(there.receive())
    return time.perf_counter_ns()


def echo_view(there: Way, back: Way, count: int) -> int:
    """Send each view back."""
    for _ in range(count):
        back.send(look(there.receive()))
    return time.perf_counter_ns()


def move_back(there: Way, back: Way, count: int) -> int:
    """Move each buffer back."""
    import permaheap

    for _ in range(count):
        back.send(permaheap.move(look(there.receive())))
    return time.perf_counter_ns()


def open_named(there: Way, back: Way, count: int) -> int:
    """Map the shared memory of each name, and send the name back."""
    for _ in range(count):
        back.send(opened(there.receive()))
    return time.perf_counter_ns()


def opened(name: str) -> str:
    """Map shared memory, read a byte of it, and unmap it; return its name."""
    memory = ways.named_memory(name)
    look(memory.buf)
    memory.close()
    return name


def look(buffer: Any) -> Any:
    """Return a buffer after reading its first byte."""
    with memoryview(buffer) as view:
        assert view[0] == 0
    return buffer


JOBS = {job.__name__: job for job in (receive, echo, echo_view, move_back, open_named)}

Ways = Mapping[str, tuple[Way, Way]]


def serve(ends: Ways, ask: Callable[[], Any], answer: Callable[[Any], object]) -> None:
    """Do jobs until there are no more: answer "ready", do the job, answer its result."""
    gc.disable()
    while request := ask():
        job, name, count = request
        answer("ready")
        answer(JOBS[job](*ends[name], count))


class Link:
    """One end of some ways there and back; another process or interpreter serves the other end."""

    ends: Ways

    def ask(self, request: Any) -> None:
        raise NotImplementedError

    def answer(self) -> Any:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def begin(self, job: Callable[..., int], name: str, count: int) -> None:
        """Let the other end begin a job."""
        self.ask((job.__name__, name, count))
        self.answer()


class ProcessLink(Link):
    """A link to a forked process."""

    def __init__(self, ends: Ways) -> None:
        def run(pipe: Connection) -> None:
            serve(ends, pipe.recv, pipe.send)

        self.ends = ends
        self.process = Forked(run)

    def ask(self, request: Any) -> None:
        self.process.pipe.send(request)

    def answer(self) -> Any:
        return self.process.pipe.recv()

    def close(self) -> None:
        self.process.close()


class InterpreterLink(Link):
    """A link to an interpreter with its own GIL, in a thread."""

    def __init__(self, ends: Ways) -> None:
        self.ends = ends
        requests, self._requests = os.pipe()
        self._answers, answers = os.pipe()
        self._reader = os.fdopen(self._answers)
        tickets = {name: (there.ticket, back.ticket) for name, (there, back) in ends.items()}
        self._thread = interpreters.start(
            "from benchmarks import channels\n"
            f"channels.serve_by_pipe({tickets!r}, {requests}, {answers})"
        )

    def ask(self, request: Any) -> None:
        os.write(self._requests, (json.dumps(request) + "\n").encode())

    def answer(self) -> Any:
        return json.loads(self._reader.readline())

    def close(self) -> None:
        self.ask(None)
        self._thread.join()


def serve_by_pipe(tickets: Mapping[str, Sequence[Any]], requests: int, answers: int) -> None:
    """Serve in a new interpreter."""
    ends = {
        name: (WAYS[name].opened(there), WAYS[name].opened(back))
        for name, (there, back) in tickets.items()
    }
    with os.fdopen(requests) as lines:
        serve(
            ends,
            lambda: json.loads(lines.readline()),
            lambda value: os.write(answers, (json.dumps(value) + "\n").encode()),
        )


def both_ways(names: Sequence[str]) -> Ways:
    """Return a way there and a way back for each of these names that exists here."""
    return {name: (WAYS[name](), WAYS[name]()) for name in ways.here(*names)}


# --- timing ---------------------------------------------------------------------------------------

Timed = Callable[[str], float]


def in_turns(names: Sequence[str], rounds: int, timed: Timed) -> Samples:
    """Return seconds by name, one number for each round; the first round is not counted."""
    samples: Samples = {name: [] for name in names}
    with collector_set(False):
        for turn in range(rounds + 1):
            for offset in range(len(names)):
                name = names[(turn + offset) % len(names)]
                seconds = timed(name)
                if turn:
                    samples[name].append(seconds)
    return samples


def one_way(link: Link, values: Sequence[Any], times: int, name: str) -> float:
    """Return seconds for each value, from the first send until the last one was received."""
    link.begin(receive, name, times * len(values))
    send = link.ends[name][0].send
    start = time.perf_counter_ns()
    for _ in range(times):
        for value in values:
            send(value)
    return float(link.answer() - start) / 1e9 / times / len(values)


def there_and_back(
    link: Link,
    name: str,
    count: int,
    job: Callable[..., int],
    send: Callable[[], object],
    received: Callable[[], object],
) -> float:
    """Return the seconds of one way: half of the time there and back."""
    link.begin(job, name, count)
    start = time.perf_counter_ns()
    for _ in range(count):
        send()
        received()
    elapsed = time.perf_counter_ns() - start
    link.answer()
    return elapsed / 2e9 / count


def faster(samples: Samples) -> dict[str, Any]:
    """Return the ratios of all ways to a channel of permaheap, and median seconds."""
    return {
        "ratio": {name: ratio(samples, name, "permaheap") for name in samples},
        "seconds": medians(samples),
    }


def absent(names: Sequence[str]) -> dict[str, str]:
    """Return the reasons why some ways were not measured, by name."""
    return {name: why for name in names if (why := ways.unavailable(name)) is not None}


# --- measurements for the goals -------------------------------------------------------------------


def measure_small(messages: int, rounds: int) -> dict[str, Any]:
    """Time a small tuple, one way, between processes and then between interpreters."""
    result: dict[str, Any] = {}
    for where, kind, names in (
        ("processes", ProcessLink, PROCESSES),
        ("interpreters", InterpreterLink, INTERPRETERS),
    ):
        link: Link = kind(both_ways(names))
        samples = in_turns(
            list(link.ends), rounds, lambda name, link=link: one_way(link, [SMALL], messages, name)
        )
        link.close()
        result[where] = faster(samples) | {"absent": absent(names)}
    return result


def measure_latency(messages: int, rounds: int) -> dict[str, Any]:
    """Time a small tuple there and back between processes; half of that is the result.

    First the system chooses their cores, often the same one for both, since they take turns. Then
    each has a core of its own, if there are two.
    """
    look_for_cores()
    link = ProcessLink(both_ways(LATENCY))

    def timed(name: str) -> float:
        there, back = link.ends[name]
        return there_and_back(link, name, messages, echo, lambda: there.send(SMALL), back.receive)

    result = {"anywhere": latency(in_turns(list(link.ends), rounds, timed))}
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) > 1:
        os.sched_setaffinity(0, cores[:1])
        os.sched_setaffinity(link.process.pid, cores[1:2])
        result["two cores"] = latency(in_turns(list(link.ends), rounds, timed))
    link.close()
    return result


def look_for_cores() -> None:
    """Let permaheap decide once whether spinning makes sense, before this process is pinned."""
    import permaheap

    with suppress(permaheap.Empty):
        permaheap.Channel().recv(0.001)


def latency(samples: Samples) -> dict[str, Any]:
    """Return the ratios of all ways to a channel, and of a channel that never spins to a pipe."""
    return faster(samples) | {"never spinning": ratio(samples, "never spinning", "Pipe")}


def measure_copied(messages: int, rounds: int) -> dict[str, Any]:
    """Time 1 MB of records, whole and in 100 pieces, through ways that copy them."""
    records = DATA_SETS["records"].build(10_000)["records"]
    each = len(pickle.dumps(records)) / len(records)
    records = records[: int(1e6 / each)]
    step = len(records) // 100
    pieces = [records[start : start + step] for start in range(0, 100 * step, step)]
    result: dict[str, Any] = {"pickled": len(pickle.dumps(records))}
    for where, kind, names in (
        ("processes", ProcessLink, ("permaheap", "Pipe", "SimpleQueue")),
        ("interpreters", InterpreterLink, INTERPRETERS),
    ):
        link: Link = kind(both_ways(names))
        for what, values in (("whole", [records]), ("pieces", pieces)):
            times = max(1, messages // 2000)
            samples = in_turns(
                list(link.ends),
                rounds,
                lambda name, link=link, values=values, times=times: one_way(
                    link, values, times, name
                ),
            )
            result[f"{where} {what}"] = faster(samples)
        link.close()
    return result


def measure_frozen(sizes: Sequence[int], messages: int, rounds: int) -> dict[str, Any]:
    """Time frozen objects by their size, beside a small tuple."""
    values: dict[str, Any] = {"small": SMALL}
    for size in sizes:
        values[str(size)] = frozen_of(size)
    link = ProcessLink(both_ways(("permaheap",)))
    samples = in_turns(
        list(values), rounds, lambda name: one_way(link, [values[name]], messages, "permaheap")
    )
    link.close()
    return {"seconds": medians(samples)}


# --- a table for four interpreters ----------------------------------------------------------------

TAKER = """
import os
from benchmarks import ways
way = ways.WAYS[{name!r}].opened({ticket!r})
while (table := way.receive()) is not None:
    assert "records" in table
    os.write({answers}, b"x")
"""


class Taker:
    """An interpreter that waits for tables, and keeps each until it gets the next."""

    def __init__(self, name: str) -> None:
        self.way = WAYS[name]()
        self.answers, answers = os.pipe()
        self.thread = interpreters.start(
            TAKER.format(name=name, ticket=self.way.ticket, answers=answers)
        )

    def close(self) -> None:
        self.way.send(None)
        self.thread.join()


def measure_table(name: str, records: int, rounds: int, count: int = 4) -> dict[str, Any]:
    """Time handing a table to some interpreters, and measure the memory that it costs each.

    permaheap's table is frozen before; the other ways cannot send a frozen one.

    Returns:
        ``seconds`` (median) and those of the ``first`` time; ``private``, the bytes that the table
        costs each interpreter; ``size``, the bytes of the frozen table.
    """
    if why := ways.unavailable(name):
        return {"unavailable": why}
    table: Any = DATA_SETS["records"].build(records)
    size = 0
    if name == "permaheap":
        import permaheap

        table = permaheap.freeze(table)
        size = permaheap.stats().used
    gc.collect()
    takers = [Taker(name) for _ in range(count)]
    hand(takers, {"records": ()})  # now each of them runs, and has loaded its modules
    before = footprint().private_dirty
    seconds = [hand(takers, table)]
    private = footprint().private_dirty - before
    seconds += [hand(takers, table) for _ in range(rounds - 1)]
    for taker in takers:
        taker.close()
    return {
        "seconds": statistics.median(seconds),
        "first": seconds[0],
        "private": max(0, private) / count,
        "size": size,
    }


def hand(takers: Sequence[Taker], table: Any) -> float:
    """Return the seconds until all of them have the table."""
    start = time.perf_counter()
    for taker in takers:
        taker.way.send(table)
    for taker in takers:
        os.read(taker.answers, 1)
    return time.perf_counter() - start


# --- buffers --------------------------------------------------------------------------------------


def measure_moved(sizes: Sequence[int], messages: int, rounds: int) -> dict[str, Any]:
    """Time a buffer from send to receive, by its size and the way.

    The buffer goes there and back, and each receiver reads its first byte.
    """
    result: dict[str, Any] = {str(size): {} for size in sizes}
    for where, kind, works in (
        ("processes", ProcessLink, {"permaheap": move, "Pipe": by_name}),
        ("interpreters", InterpreterLink, {"permaheap": move, "interpreters": by_view}),
    ):
        link: Link = kind(both_ways(tuple(works)))
        for size in sizes:
            with ExitStack() as stack:
                timed = {name: works[name](link, name, size, messages, stack) for name in link.ends}
                samples = in_turns(list(timed), rounds, lambda name, timed=timed: timed[name]())
                result[str(size)][where] = faster(samples)
        link.close()
    return result


def move(link: Link, name: str, size: int, count: int, stack: ExitStack) -> Callable[[], float]:
    """Return work that moves a buffer."""
    import permaheap

    there, back = link.ends[name]
    held = [permaheap.Buffer(size)]
    return partial(
        there_and_back, link, name, count, move_back,
        lambda: there.send(permaheap.move(held.pop())),
        lambda: held.append(look(back.receive())),
    )  # fmt: skip


def by_name(link: Link, name: str, size: int, count: int, stack: ExitStack) -> Callable[[], float]:
    """Return work that sends the name of shared memory; either end maps it each time."""
    there, back = link.ends[name]
    memory = ways.new_memory(size)
    stack.callback(memory.unlink)
    stack.callback(memory.close)
    memory.buf[:] = bytes(size)  # allocates all of its pages
    return partial(
        there_and_back, link, name, count, open_named,
        lambda: there.send(memory.name),
        lambda: opened(back.receive()),
    )  # fmt: skip


def by_view(link: Link, name: str, size: int, count: int, stack: ExitStack) -> Callable[[], float]:
    """Return work that sends a view of a bytearray to the other interpreter and back.

    A receiver that waits looks at such a queue 100 times a second, so a few rounds are enough.
    """
    there, back = link.ends[name]
    view = memoryview(bytearray(size))
    return partial(
        there_and_back, link, name, max(1, count // 50), echo_view,
        lambda: there.send(view),
        lambda: look(back.receive()),
    )  # fmt: skip


# --- ends that wait -------------------------------------------------------------------------------


def measure_idle(seconds: float) -> dict[str, Any]:
    """Measure the processor time of a receiver and a sender that wait for nothing."""
    import permaheap

    empty, full = permaheap.Channel(), permaheap.Channel()
    with suppress(permaheap.Full):
        while True:
            full.try_send(bytes(1000))
    receiver = Forked(lambda pipe: wait(pipe, permaheap.Empty, lambda: empty.recv(seconds)))
    sender = Forked(
        lambda pipe: wait(pipe, permaheap.Full, lambda: full.send(bytes(1000), timeout=seconds))
    )
    for process in (receiver, sender):
        process.pipe.send(None)
    result = {"receiver": receiver.pipe.recv(), "sender": sender.pipe.recv()}
    for process in (receiver, sender):
        process.close()
    return result


def wait(pipe: Connection, error: type[Exception], work: Callable[[], object]) -> None:
    """Answer one request with the share of a processor that the work took until it timed out."""
    pipe.recv()
    wall, busy = time.perf_counter(), time.process_time()
    try:
        work()
    except error:
        pipe.send((time.process_time() - busy) / (time.perf_counter() - wall))
    else:
        raise AssertionError("the other end was expected not to answer, but it did")
