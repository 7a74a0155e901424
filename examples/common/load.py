"""A bounded load: clients that send their requests one at a time, all clients at once.

Only a digest of each response is kept: they are compared between modes, and there are many.
"""

import hashlib
import http.client
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import NamedTuple

TIMEOUT = 120  # seconds for one response; the first one waits for the program to start

Client = Callable[[str], bytes]
"""Sends a request, and returns the relevant parts of its response. Used by one thread only."""


class Answer(NamedTuple):
    """The answer to one request."""

    request: str
    digest: bytes
    seconds: float


@dataclass
class Load:
    """The answers to all requests."""

    seconds: float
    """Time from the first request to the last response."""
    answers: list[list[Answer]] = field(repr=False)
    """The answers by client, in the order of the requests."""

    def __iter__(self) -> Iterator[Answer]:
        return (answer for client in self.answers for answer in client)

    def latency(self, share: float) -> float:
        """Return the seconds within which this share of the requests were answered."""
        times = sorted(answer.seconds for answer in self)
        return times[max(0, math.ceil(share * len(times)) - 1)]

    @property
    def rate(self) -> float:
        """Responses per second."""
        return sum(map(len, self.answers)) / self.seconds


def run(
    clients: Sequence[Client],
    requests: Sequence[Sequence[str]],
    wait_for_end: Callable[[], None],
) -> Load:
    """Let each client send its requests, all clients at once, and return the answers.

    Args:
        clients: the clients that send the requests.
        requests: the requests of each client.
        wait_for_end: returns when the program has ended; clients might otherwise wait for ever.

    Raises:
        EOFError: the program has ended before the load.
        Exception: the exception of the first client that failed, which ends the load.
    """
    answers: list[list[Answer]] = [[] for _ in clients]
    done: SimpleQueue[BaseException | None] = SimpleQueue()
    stop = threading.Event()

    def work(client: Client, mine: Sequence[str], into: list[Answer]) -> None:
        try:
            for request in mine:
                if stop.is_set():
                    break
                into.append(timed(client, request))
            done.put(None)
        except BaseException as error:
            done.put(error)

    def watch() -> None:
        wait_for_end()
        done.put(EOFError("the program has ended"))

    start = time.perf_counter()
    work_of = zip(clients, requests, answers, strict=True)
    threads = [threading.Thread(target=work, args=each, daemon=True) for each in work_of]
    try:
        for thread in [*threads, threading.Thread(target=watch, daemon=True)]:
            thread.start()
        for _ in threads:
            if error := done.get():
                raise error
    finally:
        stop.set()
    return Load(time.perf_counter() - start, answers)


def timed(client: Client, request: str) -> Answer:
    """Send one request."""
    start = time.perf_counter()
    response = client(request)
    seconds = time.perf_counter() - start
    return Answer(request, hashlib.sha256(response).digest(), seconds)


def http_client(port: int, normalize: Callable[[bytes], bytes] = bytes) -> Client:
    """Return a client that GETs paths at a port of the loopback interface.

    Args:
        port: the port of the server.
        normalize: removes the parts of a body that differ in each response, such as tokens.
    """

    def get(path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
        with closing(connection):
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        if response.status >= 500:
            raise OSError(f"GET {path}: {response.status} {response.reason}")
        return b"%d\n" % response.status + normalize(body)

    return get
