"""Timing things against each other.

Machines are noisy, and benchmark machines noisier: what is compared is timed in turns, many times,
and each turn gives one ratio. Reported are the median of the ratios and their quartiles. Work done
by one process is timed by the processor time that the process took, kernel included, so that other
programs' turns do not count; what waits for another process is timed by the wall clock.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

Work = Callable[[], object]
Clock = Callable[[], float]
Samples = dict[str, list[float]]


def seconds(work: Work, clock: Clock = time.process_time) -> float:
    """Seconds that one call takes by the clock; dropping its result is not counted."""
    start = clock()
    result = work()
    elapsed = clock() - start
    del result
    return elapsed


def in_turns(
    works: Mapping[str, Work],
    rounds: int,
    *,
    budget: float = 60.0,
    collector: bool = False,
    clock: Clock = time.process_time,
) -> Samples:
    """Time several pieces of work in turns, each round starting with another one.

    Args:
        works: what to time, by name.
        rounds: how often, at most.
        budget: seconds after which no further round begins, but three are always run.
        collector: whether the cyclic collector is on while timing.
        clock: what to time by.

    Returns:
        Seconds per call, for each name one number per round.
    """
    names = list(works)
    samples: Samples = {name: [] for name in names}
    deadline = time.perf_counter() + budget
    with collector_set(collector):
        for turn in range(rounds):
            if turn >= 3 and time.perf_counter() > deadline:
                break
            for offset in range(len(names)):
                name = names[(turn + offset) % len(names)]
                samples[name].append(seconds(works[name], clock))
    return samples


@contextmanager
def collector_set(on: bool) -> Iterator[None]:
    """The cyclic collector on or off for a while, after one collection.

    Nothing is collected between the things that are timed: that would bring ordinary objects, and
    only those, into the processor's caches.
    """
    gc.collect()
    if not on:
        gc.disable()
    try:
        yield
    finally:
        gc.enable()


def spread(values: list[float]) -> dict[str, Any]:
    """Median, quartiles, smallest value and number of values."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {
        "median": statistics.median(values),
        "low": low,
        "high": high,
        "min": min(values),
        "rounds": len(values),
    }


def ratio(samples: Samples, name: str, *bases: str) -> dict[str, Any]:
    """The spread of one work's time against the sum of others' in the same round."""
    sums = [sum(times) for times in zip(*(samples[base] for base in bases), strict=True)]
    return spread([time / base for time, base in zip(samples[name], sums, strict=True)])


def medians(samples: Samples) -> dict[str, float]:
    """The median seconds of each work."""
    return {name: statistics.median(values) for name, values in samples.items()}


def per_call(works: Sequence[Work], calls: int = 10_000, rounds: int = 41) -> list[float]:
    """Median seconds per call of quick pieces of work, timed in turns, the loop included."""

    def repeat(work: Work) -> None:
        for _ in range(calls):
            work()

    loops = {str(number): partial(repeat, work) for number, work in enumerate(works)}
    return [each / calls for each in medians(in_turns(loops, rounds)).values()]
