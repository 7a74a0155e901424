"""Communicating sequential processes: a pipeline of three interpreters.

    main --lines--> parsed --requests--> failed --requests--> summed up --rows--> main

Each stage is a plain generator that knows nothing of channels: it takes values from any iterable, a
channel or a list, and yields values for the next stage. Each runs in an interpreter with its own
GIL, so all work at the same time. A slow stage holds up the stages before it: their channels are
full. When the first channel is closed, each stage ends in turn and closes the next channel.
"""

import sys
from collections import Counter

import permaheap
from examples.channels.interpreters import Interpreter


def log(count):
    """Return lines like those of a server's log: always the same ones."""
    pages, codes = ("/", "/about", "/users/7", "/search"), (200, 200, 404, 200, 500, 304, 200)
    for number in range(count):
        page, code = pages[number % 4], codes[number % 7]
        yield f"10.0.{number % 9}.{number % 251} GET {page} {code} {number * 7919 % 5000}"


def parsed(lines):
    """Split each line into its fields."""
    for line in lines:
        host, _, page, code, size = line.split()
        yield {"host": host, "page": page, "code": int(code), "size": int(size)}


def failed(requests):
    """Keep the requests that failed."""
    for request in requests:
        if request["code"] >= 400:
            yield request


def summed_up(requests):
    """Count by code and page; yield when there are no more requests."""
    counts = Counter((request["code"], request["page"]) for request in requests)
    yield from sorted(counts.items())


STAGES = (parsed, failed, summed_up)


def connect(stage, incoming, outgoing):
    """Run a stage between two channels."""
    for value in stage(incoming):
        outgoing.send(value)
    outgoing.close()


def pipeline(count):
    """Return the rows that three interpreters have calculated."""
    channels = [permaheap.Channel() for _ in range(len(STAGES) + 1)]
    interpreters = [
        Interpreter(connect, stage, *channels[number : number + 2])
        for number, stage in enumerate(STAGES)
    ]
    for line in log(count):
        channels[0].send(line)
    channels[0].close()
    rows = list(channels[-1])  # few rows, and only at the end: no stage waits for room
    for interpreter in interpreters:
        interpreter.join()
    return rows


def one_after_the_other(count):
    """Return the same rows, without interpreters."""
    return list(summed_up(failed(parsed(log(count)))))


def main(count=50_000):
    """Show the rows."""
    print(f"{count:,} lines through three interpreters:")
    for (code, page), number in pipeline(count):
        print(f"{number:8,} x {code} {page}")


if __name__ == "__main__":
    from examples.channels import pipeline as this  # interpreters import it by this name

    this.main(*map(int, sys.argv[1:]))
