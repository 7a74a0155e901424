"""A forked pool whose results are large, and are not copied on their way to the parent.

``multiprocessing.Pool`` pickles a result in the worker, writes it into a pipe, and builds it again
in the parent. Here each worker adds up the counts of some meters, and returns all running sums

- as numbers of 64 bits in a Buffer, which is *moved*: the parent gets the memory that the worker
  has filled, and the worker loses it. The memory is returned when the parent drops the Buffer;
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
    """Return an iterator of the running sums of a meter's counts, which are invented."""
    return accumulate(number * meter % 1009 for number in range(count))


def moved(meter, count):
    """Return the sums in a Buffer that moves to the next owner."""
    buffer = permaheap.Buffer(8 * count)
    with memoryview(buffer) as raw, raw.cast("Q") as numbers:
        for number, part in enumerate(batched(sums(meter, count), STEP)):
            numbers[number * STEP : number * STEP + len(part)] = array("Q", part)
    return permaheap.move(buffer)


def frozen(meter, count):
    """Return the sums in a tuple that every process can read."""
    return permaheap.freeze(list(sums(meter, count)))


KINDS = {"moved": moved, "frozen": frozen}


def work(tasks, results):
    """Run a worker."""
    for kind, meter, count in tasks:
        try:
            result = KINDS[kind](meter, count)
        except Exception as error:
            result = error  # is sent as a pickle, and raised in the parent
        results.send((kind, meter, result, time.perf_counter()))


def next_result(results, processes):
    """Return the next result; RuntimeError if all workers have ended before it."""
    while True:
        alive = any(process.is_alive() for process in processes)
        try:
            return results.recv(timeout=1 if alive else 0)
        except permaheap.Empty:
            if not alive:
                raise RuntimeError("a worker was killed, so its result will not come") from None


def by_pool(given):
    """Yield kind, meter and sums of each task, and the seconds that they were on their way."""
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
    """Return the sums of all tasks by kind and meter, calculated in this process."""
    return {(kind, meter): list(sums(meter, count)) for kind, meter, count in given}


def main(count=12_500_000):
    """Show the sizes of the results, and the times that they take."""
    given = [("moved", 7, count), ("moved", 8, count), ("frozen", 9, max(1, count // 5))]
    for kind, meter, result, seconds in by_pool(given):
        if kind == "moved":
            size = memoryview(result).nbytes
            last = memoryview(result).cast("Q")[-1]
        else:
            size = sys.getsizeof(result) + len(result) * 32  # bytes for an int of 4 bytes
            last = result[-1]
        print(
            f"meter {meter}: {size / 1e6:.0f} MB {kind}, received {seconds * 1e6:.0f} us after "
            f"they were sent; the last sum is {last:,}"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
