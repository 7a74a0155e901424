"""A forked pool whose results are large, and are not copied on their way to the parent.

``multiprocessing.Pool`` pickles a result in the worker, writes it into a pipe, and builds it anew
in the parent. Here a worker finds out which numbers of a range are prime, and returns this

- as a byte for each number, in a Buffer, which is *moved*: the parent gets the memory that the
  worker has filled, and the worker has it no longer;
- as the primes themselves, in a tuple, which is *frozen*: the parent gets the objects that the
  worker has written. They stay until they are released.

A Buffer gives its memory back when the last one who has it drops it.
"""

import os
import sys
import time
from itertools import compress
from math import isqrt

import permaheap

WORKERS = 2


def sieve(flags, start):
    """Set a flag for each number from start on: 1 for primes, 0 for others."""
    stop = start + len(flags)
    flags[:] = b"\1" * len(flags)
    for number in range(min(stop, 2) - start):
        flags[number] = 0
    for factor in range(2, isqrt(stop) + 1):
        first = max(factor * factor, -(-start // factor) * factor) - start
        if first < len(flags):
            flags[first::factor] = bytes(len(range(first, len(flags), factor)))


def work(ranges, results):
    """Be a worker."""
    for start, size in ranges:
        buffer = permaheap.Buffer(size)
        with memoryview(buffer) as flags:
            sieve(flags, start)
            primes = permaheap.freeze(list(compress(range(start, start + size), flags)))
        results.send((start, time.perf_counter(), permaheap.move(buffer), primes))


def by_pool(size, count):
    """Yield the start of each range, the flags, the primes, and how long both were on their way."""
    ranges, results = permaheap.Channel(), permaheap.Channel()
    for number in range(count):
        ranges.send((number * size, size))
    ranges.close()
    pids = [fork(work, ranges, results) for _ in range(WORKERS)]
    for _ in range(count):
        start, sent, flags, primes = results.recv()
        yield start, flags, primes, time.perf_counter() - sent
    for pid in pids:
        os.waitpid(pid, 0)


def fork(function, *arguments):
    """Run a function in a forked child; return its pid."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function(*arguments)
            status = 0
        finally:
            os._exit(status)
    return pid


def one_after_the_other(size, count):
    """Return the flags and the primes of all ranges, found out in this process."""
    flags = bytearray(size * count)
    with memoryview(flags) as view:
        sieve(view, 0)
    return bytes(flags), tuple(compress(range(size * count), flags))


def main(size=40_000_000, count=2):
    """Show how large the results are, and how long they take."""
    for start, flags, primes, seconds in by_pool(size, count):
        print(
            f"{len(primes):,} primes from {start:,} on: {memoryview(flags).nbytes / 1e6:.0f} MB "
            f"moved and {sys.getsizeof(primes) / 1e6 + len(primes) * 32 / 1e6:.0f} MB frozen, "
            f"here {seconds * 1e6:.0f} us after they were sent; the last is {primes[-1]:,}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
