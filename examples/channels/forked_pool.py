"""A forked pool whose results are large, and are not copied on their way to the parent.

``multiprocessing.Pool`` pickles a result in the worker, writes it into a pipe, and builds it anew
in the parent. Here each worker adds up what some meters have counted, and returns all sums

- as numbers of 64 bits in a Buffer, which is *moved*: the parent gets the memory that the worker
  has filled, and the worker has it no longer. It is given back when the parent drops it;
- as ints in a tuple, which is *frozen*: the parent gets the objects that the worker has written.
  They stay until they are released.
"""

import multiprocessing
import sys
import time
from array import array
from itertools import accumulate, batched

import permaheap

FORK = multiprocessing.get_context("fork")
WORKERS = 2
STEP = 10_000


def sums(meter, count):
    """Return an iterator of the sums of what a meter has counted, which is invented."""
    return accumulate(number * meter % 1009 for number in range(count))


def moved(meter, count):
    """Return the sums in a Buffer that is on its way to its next owner."""
    buffer = permaheap.Buffer(8 * count)
    with memoryview(buffer) as raw, raw.cast("Q") as numbers:
        for number, part in enumerate(batched(sums(meter, count), STEP)):
            numbers[number * STEP : number * STEP + len(part)] = array("Q", part)
    return permaheap.move(buffer)


def frozen(meter, count):
    """Return the sums in a tuple that everybody can read."""
    return permaheap.freeze(list(sums(meter, count)))


KINDS = {"moved": moved, "frozen": frozen}


def work(tasks, results):
    """Be a worker."""
    for kind, meter, count in tasks:
        try:
            result = KINDS[kind](meter, count)
        except Exception as error:
            result = error  # goes as a pickle, and is raised in the parent
        results.send((kind, meter, result, time.perf_counter()))


def next_result(results, processes):
    """Return what comes next, unless all workers have ended: one was killed over its task."""
    while True:
        alive = any(process.is_alive() for process in processes)
        try:
            return results.recv(timeout=1 if alive else 0)
        except permaheap.Empty:
            if not alive:
                raise RuntimeError("a worker was killed") from None


def by_pool(given):
    """Yield kind, meter and sums of each task, and for how long they were on their way."""
    tasks, results = permaheap.Channel(), permaheap.Channel()
    for task in given:
        tasks.send(task)
    tasks.close()
    processes = [FORK.Process(target=work, args=(tasks, results)) for _ in range(WORKERS)]
    for process in processes:
        process.start()
    for _ in given:
        kind, meter, result, sent = next_result(results, processes)
        if isinstance(result, Exception):
            raise result
        yield kind, meter, result, time.perf_counter() - sent
    for process in processes:
        process.join()


def one_after_the_other(given):
    """Return the sums of all tasks by kind and meter, worked out in this process."""
    return {(kind, meter): list(sums(meter, count)) for kind, meter, count in given}


def main(count=12_500_000):
    """Show how large the results are, and how long they take."""
    given = [("moved", 7, count), ("moved", 8, count), ("frozen", 9, max(1, count // 5))]
    for kind, meter, result, seconds in by_pool(given):
        if kind == "moved":
            size = memoryview(result).nbytes
            last = memoryview(result).cast("Q")[-1]
        else:
            size = sys.getsizeof(result) + len(result) * 32  # bytes for an int of 4 bytes
            last = result[-1]
        print(
            f"meter {meter}: {size / 1e6:.0f} MB {kind}, here {seconds * 1e6:.0f} us after they "
            f"were sent; the last sum is {last:,}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
