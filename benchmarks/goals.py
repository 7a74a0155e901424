"""The goals of permaheap, and the calculation of each number from the measurements."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, dict[str, Any]]


@dataclass(frozen=True)
class Goal:
    """One goal.

    Attributes:
        what: the measured quantity, and the quantity that it is compared with.
        must: returns the value that must be reached on a Python version (major, minor).
        aim: returns the value aimed at.
        value: returns the measured value from the results; KeyError if it was not measured.
        form: the format of a printed value.
        more: whether a larger value is better.
    """

    what: str
    must: Callable[[tuple[int, int]], float]
    aim: Callable[[tuple[int, int]], float]
    value: Callable[[Results], float]
    form: str = "{:.2f}x"
    more: bool = False

    def reaches(self, value: float, limit: float) -> bool:
        """Tell whether a value is as good as a limit."""
        return value >= limit if self.more else value <= limit

    def verdict(self, value: float, version: tuple[int, int]) -> str:
        """Return the level that a value reaches: "aim", "must" or "missed"."""
        if self.reaches(value, self.aim(version)):
            return "aim"
        return "must" if self.reaches(value, self.must(version)) else "missed"


def always(value: float) -> Callable[[tuple[int, int]], float]:
    """Return a limit that is the same on all versions."""
    return lambda version: value


def before_315(value: float, later: float) -> Callable[[tuple[int, int]], float]:
    """Return a limit that is lower on 3.15, whose frozen mappings are a built-in type."""
    return lambda version: value if version < (3, 15) else later


def own_memory(results: Results, peer: str, prefix: str = "") -> float:
    """Return the private dirty bytes that the data costs a worker.

    That is the difference to a worker whose family holds ten records in the same way. Since that
    difference is only known to some 100 kB, the result is at least the bytes of the permanent heap
    that the worker has copied.
    """
    family = results[f"{prefix}family {peer}"]
    return max(own(family) - own(results[f"base {peer}"]), float(family["heap_dirty"]))


def own(family: Mapping[str, Any]) -> float:
    """Return the mean private dirty bytes of the workers of a family."""
    return float(statistics.mean(worker["private_dirty"] for worker in family["workers"]))


def pss(results: Results, peer: str) -> float:
    """Return the PSS of parent and workers together, in bytes."""
    return float(results[f"family {peer}"]["pss"])


def times_faster(key: str, part: str, peer: str) -> Callable[[Results], float]:
    """Return a function for the ratio of another way's time to that of permaheap's channel."""
    return lambda r: float(r[key][part]["ratio"][peer]["median"])


def moved(results: Results, where: str = "processes", size: Callable[..., Any] = max) -> float:
    """Return the seconds from send to receive of the largest buffer (or the smallest, by `min`)."""
    by_size = {int(key): each for key, each in results["channel moved"].items() if key.isdigit()}
    return float(by_size[size(by_size)][where]["seconds"]["permaheap"])


def sent_frozen(results: Results) -> float:
    """Return the time of the largest frozen structure through a channel / a small tuple."""
    seconds = results["channel frozen"]["seconds"]
    return float(seconds[max(filter(str.isdigit, seconds), key=int)] / seconds["small"])


def imported(results: Results, what: str) -> float:
    """Return the import's cost / the former cost: the larger ratio of process and interpreter."""
    return max(float(place["ratio"][what]["median"]) for place in results["import"].values())


def largest(results: Results) -> str:
    """Return the key of the largest object that handles were measured with."""
    return max(results["handles"], key=int)


def smallest(results: Results) -> str:
    """Return the key of the smallest object that handles were measured with."""
    return min(results["handles"], key=int)


GOALS = (
    Goal(
        "a worker's private dirty memory for the data (scan, gc.collect, look-ups) / plain fork",
        always(0.02),
        always(0.001),
        lambda r: own_memory(r, "permaheap") / own_memory(r, "plain"),
        "{:.4f}x",
    ),
    Goal(
        "PSS of parent and workers / plain fork",
        always(0.30),
        always(0.22),
        lambda r: pss(r, "permaheap") / pss(r, "plain"),
    ),
    Goal(
        "bytes of the block / resident size of the original",
        always(0.65),
        always(0.50),
        lambda r: r["block"]["block"] / r["block"]["resident"],
    ),
    Goal(
        "freeze / (pickle.dumps + pickle.loads)",
        always(0.5),
        always(0.25),
        lambda r: r["freeze"]["ratio"]["pickle.dumps + pickle.loads"]["median"],
    ),
    Goal(
        "random look-ups / native list and dict",
        before_315(1.35, 1.05),
        before_315(1.15, 1.0),
        lambda r: r["reads"]["lookup"]["median"],
    ),
    Goal(
        "full scan / native list and dict",
        before_315(1.35, 1.05),
        before_315(1.15, 1.0),
        lambda r: r["reads"]["scan"]["median"],
    ),
    Goal(
        "gc.collect() with the data frozen / in an empty process",
        always(1.2),
        always(1.0),
        lambda r: r["gc"]["ratio"]["permaheap"]["median"],
    ),
    Goal(
        "fork() to first look-up in the child / plain fork",
        always(0.35),
        always(0.15),
        lambda r: r["fork"]["ratio"]["permaheap"]["median"],
    ),
    Goal(
        "handle.get() of the largest object, in nanoseconds",
        always(2000),
        always(200),
        lambda r: r["handles"][largest(r)]["get"] * 1e9,
        "{:.0f} ns",
    ),
    Goal(
        "handle.get() of the largest object / of one of 1 kB",
        always(1.25),
        always(1.1),
        lambda r: r["handles"][largest(r)]["get"] / r["handles"][smallest(r)]["get"],
    ),
    Goal(
        "throughput of two interpreters scanning at once / one",
        always(1.8),
        always(1.95),
        lambda r: r["interpreters"]["interpreters"]["median"],
        more=True,
    ),
    Goal(
        "freeze of a five-key dict less pickle.dumps of it, in microseconds",
        always(2.0),
        always(1.0),
        lambda r: (r["small"]["freeze_median"] - r["small"]["dumps_median"]) * 1e6,
        "{:.2f} us",
    ),
    Goal(
        "bytes of heap per freeze of a five-key dict",
        always(1000),
        always(500),
        lambda r: r["small"]["bytes"],
        "{:.0f}",
    ),
    Goal(
        "mappings that all these freezes add to the process",
        always(0),
        always(0),
        lambda r: r["small"]["mappings_after"] - r["small"]["mappings_before"],
        "{:.0f}",
    ),
    Goal(
        "immortalized in place: a worker's private dirty memory for the data / plain fork",
        always(0.02),
        always(0.001),
        lambda r: own_memory(r, "in place") / own_memory(r, "plain"),
        "{:.4f}x",
    ),
    Goal(
        "prefork(), seconds for each 2 million objects",
        always(0.5),
        always(0.15),
        lambda r: r["prefork"]["first"] * 2e6 / r["prefork"]["objects"],
        "{:.2f} s",
    ),
    Goal(
        "causes named by the profiler, of the copied heap: trace mode",
        always(0.9),
        always(0.99),
        lambda r: r["causes"]["trace"]["named"],
        "{:.3f}",
        more=True,
    ),
    Goal(
        "causes named by the profiler, of the copied heap: diff mode",
        always(0.6),
        always(0.8),
        lambda r: r["causes"]["diff"]["named"],
        "{:.3f}",
        more=True,
    ),
    Goal(
        "import permaheap / import of all that it formerly loaded, processor time",
        always(1 / 3),
        always(0.2),
        lambda r: imported(r, "seconds"),
    ),
    Goal(
        "import permaheap / import of all that it formerly loaded, private memory",
        always(1 / 3),
        always(0.2),
        lambda r: imported(r, "private"),
    ),
    Goal(
        "small tuple one way between processes, multiprocessing.Queue / channel",
        always(10),
        always(30),
        times_faster("channel small", "processes", "Queue"),
        more=True,
    ),
    Goal(
        "small tuple one way between processes, faster-fifo / channel",
        always(1.5),
        always(5),
        times_faster("channel small", "processes", "faster-fifo"),
        more=True,
    ),
    Goal(
        "small tuple one way between interpreters, concurrent.interpreters queue / channel",
        always(5),
        always(20),
        times_faster("channel small", "interpreters", "interpreters"),
        more=True,
    ),
    Goal(
        "there and back between processes, spinning on two cores / multiprocessing.Pipe",
        always(0.5),
        always(0.1),
        lambda r: 1 / r["channel latency"]["two cores"]["ratio"]["Pipe"]["median"],
    ),
    Goal(
        "there and back between processes, never spinning / multiprocessing.Pipe",
        always(1.0),
        always(0.5),
        lambda r: r["channel latency"]["anywhere"]["never spinning"]["median"],
    ),
    Goal(
        "a frozen table of 200 MB for four interpreters, the first time, in milliseconds",
        always(5),
        always(1),
        lambda r: r["channel table permaheap"]["first"] * 1e3,
        "{:.3f} ms",
    ),
    Goal(
        "private memory that the table costs each of them, in MB",
        always(2),
        always(2),
        lambda r: r["channel table permaheap"]["private"] / 1e6,
        "{:.2f} MB",
    ),
    Goal(
        "1 MB of records copied, pickle + multiprocessing.Pipe / channel",
        always(2),
        always(3),
        times_faster("channel copied", "processes whole", "Pipe"),
        more=True,
    ),
    Goal(
        "the same as 100 values of 10 kB, pickle + multiprocessing.Pipe / channel",
        always(2),
        always(3),
        times_faster("channel copied", "processes pieces", "Pipe"),
        more=True,
    ),
    Goal(
        "1 MB of records copied, concurrent.interpreters queue / channel",
        always(5),
        always(10),
        times_faster("channel copied", "interpreters whole", "interpreters"),
        more=True,
    ),
    Goal(
        "the same as 100 values of 10 kB, concurrent.interpreters queue / channel",
        always(5),
        always(10),
        times_faster("channel copied", "interpreters pieces", "interpreters"),
        more=True,
    ),
    Goal(
        "a buffer of 100 MB moved to another process, in microseconds",
        always(20),
        always(5),
        lambda r: moved(r) * 1e6,
        "{:.1f} us",
    ),
    Goal(
        "a buffer of 100 MB moved to another process / one of 16 kB",
        always(1.25),
        always(1.1),
        lambda r: moved(r) / moved(r, size=min),
    ),
    Goal(
        "a frozen structure of 1 GB sent / a small tuple sent",
        always(1.25),
        always(1.0),
        sent_frozen,
    ),
    Goal(
        "processor time of a receiver or sender that waits, in per cent",
        always(0.1),
        always(0.1),
        lambda r: 100 * max(r["channel idle"]["receiver"], r["channel idle"]["sender"]),
        "{:.2f} %",
    ),
)
