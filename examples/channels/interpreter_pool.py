"""A pool of interpreters that map a function over a table that exists once.

The table is frozen. Each task carries its handle, 40 bytes, and which part of it to look at; the
interpreters read the very same objects, each under a GIL of its own. CPython 3.14 has a pool for
this in ``concurrent.futures``; for 3.12 and 3.13 two channels and a few lines make one.
"""

import contextlib
import sys
import time

import permaheap
from examples.channels.interpreters import Interpreter

SIZE = 3


def load(count):
    """Return invented measurements, the same ones on every call."""
    return [
        {"place": f"station {number % 40}", "celsius": (number * 7919 % 600 - 200) / 10}
        for number in range(count)
    ]


def warmest(table, start, stop):
    """Return the highest temperature of each place in a part of a table."""
    found = {}
    for row in table[start:stop]:
        place = row["place"]
        found[place] = max(row["celsius"], found.get(place, -273.15))
    return found


def task(handle, start, stop):
    """Do a part of the work, in an interpreter of the pool."""
    return warmest(handle.get(), start, stop)


# ---- A pool of one's own, for 3.12 and 3.13 ------------------------------------------------------


def work(tasks, results):
    """Be an interpreter of the pool."""
    for number, function, arguments in tasks:
        results.send((number, function(*arguments)))


class Pool:
    """Interpreters that take tasks from one channel and put results into another."""

    def __init__(self, size):
        self.tasks, self.results = permaheap.Channel(), permaheap.Channel()
        self.interpreters = [Interpreter(work, self.tasks, self.results) for _ in range(size)]

    def map(self, function, *columns):
        """Return the results in the order of the arguments, of which there are not too many."""
        count = 0
        for count, arguments in enumerate(zip(*columns, strict=True), 1):
            self.tasks.send((count, function, arguments))
        return [result for _, result in sorted(self.results.recv() for _ in range(count))]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.tasks.close()
        for interpreter in self.interpreters:
            interpreter.join()


def make_pool():
    """Return the pool of this version of CPython."""
    if sys.version_info < (3, 14):
        return Pool(SIZE)
    from concurrent.futures import InterpreterPoolExecutor

    # The interpreters look for modules where this one does.
    return InterpreterPoolExecutor(
        SIZE, initializer=exec, initargs=(f"import sys; sys.path[:] = {sys.path!r}",)
    )


# ---- Both ----------------------------------------------------------------------------------------


def by_pool(count, parts=12):
    """Return the highest temperature of each place, found out by the pool."""
    table = permaheap.freeze(load(count))
    bounds = [count * part // parts for part in range(parts + 1)]
    with make_pool() as pool:
        found = pool.map(task, [permaheap.share(table)] * parts, bounds[:-1], bounds[1:])
        return together(found)


def together(found):
    """Return the highest temperatures of several parts."""
    highest = {}
    for part in found:
        for place, celsius in part.items():
            highest[place] = max(celsius, highest.get(place, -273.15))
    return highest


def one_after_the_other(count):
    """Return the same, without interpreters."""
    return warmest(load(count), 0, count)


def main(count=300_000):
    """Show the warmest places."""
    start = time.perf_counter()
    highest = by_pool(count)
    seconds = time.perf_counter() - start
    print(f"{count:,} rows, {SIZE} interpreters, {seconds:.2f} s with loading; the warmest:")
    for place in sorted(highest, key=highest.__getitem__, reverse=True)[:3]:
        print(f"{highest[place]:8.1f} {place}")


if __name__ == "__main__":
    from examples.channels import interpreter_pool as this  # where interpreters find the functions

    with contextlib.suppress(KeyboardInterrupt):
        this.main(*map(int, sys.argv[1:]))
