"""Show the memory that permaheap saves on a real pre-fork server: ``python demo.py``.

The service in app.py is started three times under gunicorn: without data (the cost of the server
itself), with the data as ordinary objects, and with the data frozen by permaheap. Each time every
worker gets the same requests; then its memory is read from /proc. All responses of the second and
the third server must be identical, byte for byte.

Exit codes: 0 success; 1 responses differ or nothing was saved; 2 a server failed;
130 interrupted.
"""

import argparse
import http.client
import json
import math
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from rich.box import ASCII, SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from examples.common import processes  # noqa: E402 - found by the line above
from examples.common.processes import Memory, memory  # noqa: E402

STORES = {"none": "no data", "plain": "plain objects", "permaheap": "permaheap"}

TIMEOUT = 60  # seconds for one response; the first one waits for the server to start
MOST_ALLOWED = 0.5  # the largest share of the plain objects' cost to a worker that counts as saved

# glibc keeps some megabytes that a wide search has used and freed. In all three servers it returns
# them at once, so that the measured memory of a worker is the data that it holds.
MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(128 * 1024)}

# Together these match nearly all characters, so every worker reads nearly all records. Each search
# reads the names and the fields that it filters by.
SEARCHES = [
    "q=snow+man",
    "q=ideograph&category=Lo&bidi=L",
    "q=hangul&category=Lo&width=W",
    "q=letter&category=Lu",
    "q=sign&bidi=ON",
    "q=a&category=So",
    "q=e&bidi=L",
    "q=i&category=Ll",
    "q=o&width=N",
    "q=u&category=Mn",
    "q=no+such+word",
    "q=",
]

Show = Callable[..., None]  # show(step) announces a step, show(advance=n) that n requests are done


# ---- Measurements --------------------------------------------------------------------------------


class Answer(NamedTuple):
    """One response, its time in seconds, and the worker that gave it."""

    request: str
    status: int
    body: bytes
    seconds: float
    pid: int


@dataclass
class Process:
    """The measurements of one process; the master has no answers."""

    before: Memory
    after: Memory
    answers: list[Answer] = field(default_factory=list, repr=False)
    collect_seconds: float = math.nan

    def latency(self, path: str) -> float:
        """Return the median seconds of the requests below a path; NaN if there are none."""
        times = [a.seconds for a in self.answers if a.request.startswith(path)]
        return statistics.median(times) if times else math.nan


@dataclass
class Outcome:
    """The measurements of one server."""

    stats: dict[str, Any]
    start_seconds: float
    master: Process
    workers: list[Process]

    @property
    def dirty(self) -> float:
        """The mean private dirty bytes of a worker after the load."""
        return statistics.mean(worker.after.private_dirty for worker in self.workers)

    @property
    def pss(self) -> int:
        """The PSS of all processes in bytes: the memory that the whole server uses."""
        return sum(process.after.pss for process in (self.master, *self.workers))


# ---- Starting and stopping gunicorn --------------------------------------------------------------


@dataclass
class Server:
    """A running gunicorn, with one port for each worker (see gunicorn.conf.py)."""

    program: processes.Program
    ports: list[int]

    def fetch(self, worker: int, request: str, method: str = "GET") -> Answer:
        """Send one request to the worker with this index and return its answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[worker], timeout=TIMEOUT)
        start = time.perf_counter()
        try:
            with closing(connection):
                connection.request(method, request)
                response = connection.getresponse()
                body = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self.program.failed(f"{method} {request}: {error!r}") from None
        seconds = time.perf_counter() - start
        if response.status >= 500:
            raise self.program.failed(f"{method} {request}: {response.status} {response.reason}")
        return Answer(
            request, response.status, body, seconds, int(response.headers.get("X-Worker", 0))
        )


@contextmanager
def serving(store: str, workers: int, last: int) -> Iterator[Server]:
    """Run gunicorn with one of the stores of app.py, and one port for each worker.

    Only the data differ: nothing else is done for the workers before they are forked.
    """
    environment = {**MALLOC, "UNICODE_STORE": store, "UNICODE_LAST": f"{last:X}"}
    launcher = processes.launcher("data")
    with processes.gunicorn(
        HERE, "app", workers, environment=environment, launcher=launcher
    ) as started:
        yield Server(*started)


# ---- The load ------------------------------------------------------------------------------------


def requests(seed: int, chars: int, last: int) -> list[str]:
    """Return a worker's requests: every search once, among look-ups of random code points."""
    chance = random.Random(seed)
    lookups = [f"/char/{chance.randint(0, last):X}" for _ in range(chars)]
    mixed = ["/stats", "/char/snowman", *(f"/search?{query}" for query in SEARCHES), *lookups]
    chance.shuffle(mixed)
    return mixed


def measure(store: str, loads: list[list[str]], last: int, show: Show) -> Outcome:
    """Start a server, send each of its workers one of the loads, and return the outcome.

    Only one request runs at a time, so the latency is that of the service, not of a queue.
    """
    began = time.perf_counter()
    with serving(store, len(loads), last) as server:
        show(f"gunicorn started as process {server.program.pid}")
        hello = [server.fetch(worker, "/stats") for worker in range(len(loads))]
        start_seconds = time.perf_counter() - began
        pids = [server.program.pid, *(answer.pid for answer in hello)]
        before = [memory(pid) for pid in pids]
        show(f"ready after {start_seconds:.1f} s, sending requests")
        answers: list[list[Answer]] = [[] for _ in loads]
        for turn in zip(*loads, strict=True):
            for worker, request in enumerate(turn):
                answers[worker].append(server.fetch(worker, request))
            show(advance=len(turn))
        collects = [server.fetch(worker, "/collect", "POST") for worker in range(len(loads))]
        after = [memory(pid) for pid in pids]
        if pids[1:] != [answer.pid for answer in collects]:
            raise server.program.failed("a worker has died during the load")
    seconds = [answer.seconds for answer in collects]
    workers = map(Process, before[1:], after[1:], answers, seconds)
    stats = json.loads(hello[0].body)
    return Outcome(stats, start_seconds, Process(before[0], after[0]), list(workers))


# ---- The report ----------------------------------------------------------------------------------

Row = list[float | None]
COLUMNS = {  # names in the JSON file, and headings
    "dirty_before": "dirty MB\nbefore",
    "dirty_after": "dirty MB\nafter",
    "data": "of data\nMB",
    "pss": "PSS\nMB",
    "char": "/char\nms",
    "search": "/search\nms",
    "collect": "collect\nms",
}
CAPTION = (
    "dirty: private dirty memory before and after the load; of data: the difference to a worker"
    " without data; /char, /search: median response times; collect: one full garbage collection."
    " Bold: sums, and means of times."
)


def process_row(process: Process, bare: Outcome | None) -> Row:
    """Return the table's numbers for one process; ``bare`` is the server without data."""
    before, after = process.before.private_dirty, process.after.private_dirty
    data = after - bare.dirty if bare and process.answers else math.nan
    sizes = (before, after, data, process.after.pss)
    times = (process.latency("/char"), process.latency("/search"), process.collect_seconds)
    numbers = [*(size / 1e6 for size in sizes), *(seconds * 1e3 for seconds in times)]
    return [None if math.isnan(number) else number for number in numbers]


def total_row(rows: list[Row]) -> Row:
    """Return the sums of the rows' sizes and the means of their times."""
    total: Row = []
    for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True):
        numbers = [number for number in column if number is not None]
        combine = statistics.mean if name in ("char", "search", "collect") else sum
        total.append(combine(numbers) if numbers else None)
    return total


def all_rows(outcomes: dict[str, Outcome]) -> dict[str, dict[str, Row]]:
    """Return every row of the table, by server and process."""
    rows: dict[str, dict[str, Row]] = {}
    for store, outcome in outcomes.items():
        bare = None if store == "none" else outcomes["none"]
        family = {"master": process_row(outcome.master, bare)}
        for i, worker in enumerate(outcome.workers, 1):
            family[f"worker {i}"] = process_row(worker, bare)
        rows[store] = {"all": total_row(list(family.values())), **family}
    return rows


def table(rows: dict[str, dict[str, Row]], terminal: bool) -> Table:
    """Return all measurements as one table; its last rows are permaheap's savings."""
    style = {"box": SIMPLE_HEAD, "padding": 0} if terminal else {"box": ASCII}
    out = Table("", caption=CAPTION, caption_justify="left", **style)
    for heading in COLUMNS.values():
        out.add_column(heading, justify="right", no_wrap=True, min_width=6)
    for store, family in rows.items():
        for process, row in family.items():
            cells = ["" if number is None else f"{number:,.1f}" for number in row]
            if process == "all":
                out.add_row(STORES[store], *cells, style="bold")
            else:
                out.add_row(f"  {process}", *cells)
        out.add_section()
    plain, frozen = ([n or 0.0 for n in rows[store]["all"]] for store in ("plain", "permaheap"))
    saved = [f"{p - f:,.1f}" for p, f in zip(plain, frozen, strict=True)]
    ratios = [f"{max(f, 0) / p:.2f}x" for p, f in zip(plain, frozen, strict=True)]
    out.add_row("saved", *saved, style="bold green")
    out.add_row("permaheap / plain", *ratios, style="bold green")
    return out


def difference(plain: Outcome, frozen: Outcome) -> str | None:
    """Return a description of the first response that differs, or None."""
    for left, right in zip(plain.workers, frozen.workers, strict=True):
        for a, b in zip(left.answers, right.answers, strict=True):
            if (a.request, a.status, a.body) != (b.request, b.status, b.body):
                return f"{a.request}: plain {a.status} {a.body!r}, permaheap {b.status} {b.body!r}"
    return None


def verdict(outcomes: dict[str, Outcome]) -> tuple[bool, str]:
    """Return whether permaheap kept its promise, and a sentence that says so."""
    bare, plain, frozen = (outcomes[store] for store in STORES)
    different = difference(plain, frozen)
    if different:
        return False, f"Responses differ: {different}"
    plain_cost, frozen_cost = plain.dirty - bare.dirty, frozen.dirty - bare.dirty
    text = (
        f"All {sum(len(worker.answers) for worker in frozen.workers):,} responses are identical."
        f" The data costs a worker {plain_cost / 1e6:.1f} MB of private memory as plain objects,"
        f" {frozen_cost / 1e6:.1f} MB with permaheap; the whole server takes"
        f" {plain.pss / 1e6:.0f} MB and {frozen.pss / 1e6:.0f} MB."
    )
    if frozen_cost > MOST_ALLOWED * plain_cost or frozen.pss >= plain.pss:
        return False, f"{text} That saves too little."
    return True, text


# ---- The program ---------------------------------------------------------------------------------


def measure_all(console: Console, options: argparse.Namespace) -> dict[str, Outcome]:
    """Measure the three servers, one after the other.

    A terminal shows a progress display; a log gets a line for each step.
    """
    loads = [requests(seed, options.chars, options.last) for seed in range(options.workers)]
    columns = (
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    outcomes = {}
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(STORES) * sum(map(len, loads)))
        for store, title in STORES.items():

            def show(step: str = "", advance: int = 0, title: str = title) -> None:
                if step and not console.is_terminal:
                    console.print(f"{title}: {step}")
                progress.update(
                    task, advance=advance, description=f"{title}: {step}" if step else None
                )

            outcomes[store] = measure(store, loads, options.last, show)
    return outcomes


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description="Show permaheap's savings on a pre-fork server.")
    parser.add_argument("--workers", type=int, default=4, metavar="N")
    parser.add_argument("--chars", type=int, default=400, metavar="N", help="look-ups per worker")
    parser.add_argument(
        "--last",
        type=partial(int, base=16),
        default=sys.maxunicode,
        metavar="HEX",
        help="serve only the characters up to this code point",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the demo and return the exit code."""
    options = parse(arguments)
    terminal = sys.stdout.isatty()
    console = Console(width=None if terminal else 120, highlight=False)
    processes.leave_on_signals()
    try:
        outcomes = measure_all(console, options)
    except KeyboardInterrupt:
        console.print("interrupted; the server is stopped")
        return 130
    except (processes.SampleError, OSError) as error:
        console.print(f"failed: {error}", markup=False, soft_wrap=True)
        return 2
    rows = all_rows(outcomes)
    good, text = verdict(outcomes)
    facts = {
        "python": platform.python_version(),
        "gunicorn": version("gunicorn"),
        **outcomes["permaheap"].stats,
    }
    console.print("\n" + ", ".join(f"{name} {value}" for name, value in facts.items()))
    console.print(table(rows, terminal))
    console.print(text, style="green" if good else "red", markup=False, soft_wrap=not terminal)
    if options.json:
        servers = {
            store: {
                process: dict(zip(COLUMNS, row, strict=True)) for process, row in server.items()
            }
            for store, server in rows.items()
        }
        options.json.write_text(json.dumps({**facts, "good": good, "servers": servers}, indent=2))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
