"""A pool of interpreters that map a function over a table that exists once.

The table is frozen. Each task carries the table's handle, 40 bytes, and the part to read. The
interpreters read the same objects, each with its own GIL. CPython 3.14 has a pool for this in
``concurrent.futures``; on 3.12 and 3.13 two channels and a few lines are enough.
"""

import contextlib
import importlib
import sys
import time

import permaheap
from examples.channels.interpreters import Interpreter

SIZE = 3


def load(count):
    """Return invented measurements: always the same ones."""
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


# ---- A small pool, for 3.12 and 3.13 -------------------------------------------------------------


def work(tasks, results):
    """Run an interpreter of the pool."""
    for number, module, function, arguments in tasks:
        call = getattr(importlib.import_module(module), function)
        results.send((number, call(*arguments)))


class Pool:
    """Interpreters that take tasks from one channel and put results into another."""

    def __init__(self, size):
        # Functions are sent by name, so nothing needs a pickle.
        self.tasks, self.results = (permaheap.Channel(pickle=False) for _ in range(2))
        self.interpreters = [Interpreter(work, self.tasks, self.results) for _ in range(size)]

    def map(self, function, *columns):
        """Return the results in the order of the arguments; there must not be too many."""
        count = 0
        for count, arguments in enumerate(zip(*columns, strict=True), 1):
            self.tasks.send((count, function.__module__, function.__name__, arguments))
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

    # The interpreters search for modules in the same places as this one.
    return InterpreterPoolExecutor(
        SIZE, initializer=exec, initargs=(f"import sys; sys.path[:] = {sys.path!r}",)
    )


# ---- Both ----------------------------------------------------------------------------------------


def by_pool(count, parts=12):
    """Return the highest temperature of each place, calculated by the pool."""
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
    from examples.channels import interpreter_pool as this  # interpreters import it by this name

    with contextlib.suppress(KeyboardInterrupt):
        this.main(*map(int, sys.argv[1:]))
