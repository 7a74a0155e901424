"""Show which pages of memory each forked worker has copied, and why.

PID is the process id of a parent whose workers are running. Given a COMMAND instead (after --),
permaheap starts it, finds its workers as they appear, and watches them until the command ends.
Ctrl-C is passed on to the command, after a last look. The profiler changes nothing in the
processes.
"""

import argparse
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from permaheap.cow._snapshot import Recorder

if TYPE_CHECKING:
    from permaheap.cow import Profile

# The largest share of the time that is spent on comparing memory.
_LOOKING = 0.2
_PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.usage = "permaheap cow [options] PID\n       permaheap cow [options] -- COMMAND ..."
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("target", nargs="+", metavar="PID | COMMAND", help=argparse.SUPPRESS)
    parser.add_argument(
        "--mode",
        choices=("diff", "trace"),
        default="diff",
        help="diff (default): compare memory with the parent's; trace, for COMMAND only: record "
        "the first write to each page",
    )
    parser.add_argument(
        "--seconds",
        type=_positive,
        help="how long to watch; by default look once at PID, and watch COMMAND until it ends",
    )
    parser.add_argument(
        "--interval", type=_positive, default=1.0, help="seconds between samples, by default 1"
    )
    parser.add_argument("--json", metavar="FILE", help="write the profile as JSON; -: to stdout")
    parser.add_argument("--html", metavar="FILE", help="write a report for the browser")


def _positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def run(options: argparse.Namespace) -> int:
    """Watch and report; return the command's exit status, or 1 if there is no such process."""
    try:
        if len(options.target) == 1 and options.target[0].isdecimal():
            return _watch_family(int(options.target[0]), options)
        return _watch_command(options.target, options)
    except (OSError, ImportError) as error:
        print(f"permaheap cow: {error}", file=sys.stderr)
        return 1


def _watch_family(pid: int, options: argparse.Namespace) -> int:
    if options.mode == "trace":
        raise OSError(
            "--mode trace needs a COMMAND, not a PID: the trace must begin before workers are "
            "forked; use: permaheap cow --mode trace -- COMMAND"
        )
    with contextlib.closing(Recorder(pid)) as recorder, _signals() as wait:
        seconds = options.seconds or 0
        for came in _watch(recorder, options, seconds, wait, recorder.is_alive):
            if came:
                break
        if options.seconds:
            recorder.sample()  # the end, also in the middle of an interval
        recorder.look()
        _report(recorder.known(), options)
    return 0


def _watch_command(command: list[str], options: argparse.Namespace) -> int:
    environment = dict(os.environ, PERMAHEAP_COW="1")  # prefork() leaves a map of the objects
    if options.mode == "trace":
        environment["PERMAHEAP_TRACE"] = "1"
    with _signals() as wait:
        # In a process group of its own: Ctrl-C then comes here first, and allows a last look.
        child = subprocess.Popen(command, env=environment, process_group=0)
        with contextlib.closing(Recorder(child.pid, mode=options.mode)) as recorder:
            seconds = options.seconds or float("inf")
            for came in _watch(recorder, options, seconds, wait, lambda: child.poll() is None):
                if came:
                    recorder.sample()
                    recorder.look()
                for number in came:
                    child.send_signal(number)
            if child.poll() is None:
                recorder.look()
                child.terminate()
            status = child.wait()
            _report(recorder.known(), options)
    return status if status >= 0 else 128 - status  # as a shell says that a signal ended it


_Wait = Callable[[float], list[int]]


@contextlib.contextmanager
def _signals() -> Iterator[_Wait]:
    """Give a function that waits some seconds or until signals come, and returns their numbers.

    The end of a child also ends the wait.
    """
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            came.append(number)

    def wait(seconds: float) -> list[int]:
        if not came:
            select.select([reader], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            os.read(reader, 512)
        noted, came[:] = list(came), []
        return noted

    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    earlier_writer = signal.set_wakeup_fd(writer)
    before = {number: signal.signal(number, note) for number in (*_PASSED_ON, signal.SIGCHLD)}
    try:
        yield wait
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(earlier_writer)
        os.close(reader)
        os.close(writer)


def _watch(
    recorder: Recorder,
    options: argparse.Namespace,
    seconds: float,
    wait: _Wait,
    goes_on: Callable[[], bool],
) -> Iterator[list[int]]:
    """Sample until the time is over; after each sample, yield the signals that have come.

    It compares memory as often as the share `_LOOKING` of the time allows.
    """
    began = next_look = time.monotonic()
    with _screen(options) as show:
        while goes_on():
            recorder.sample()
            now = time.monotonic()
            if now >= next_look and seconds:
                recorder.look()
                cost = time.monotonic() - now
                next_look = now + max(options.interval, cost / _LOOKING)
                show(recorder.known())
            left = began + seconds - time.monotonic()
            if left <= 0:
                return
            yield wait(min(options.interval, left))


@contextlib.contextmanager
def _screen(options: argparse.Namespace) -> "Iterator[Callable[[Profile], None]]":
    """Give a function that shows a profile on a terminal, in place of the previous one."""
    if options.json == "-" or not sys.stderr.isatty():
        yield lambda profile: None
        return
    try:
        from rich.console import Console
        from rich.live import Live

        from permaheap.cow._text import renderable
    except ImportError:  # plain text cannot replace earlier output
        yield lambda profile: None
        return
    with Live(console=Console(stderr=True), transient=True, auto_refresh=False) as live:
        yield lambda profile: live.update(renderable(profile), refresh=True)


def _report(profile: "Profile", options: argparse.Namespace) -> None:
    if options.json:
        from permaheap.cow._json import to_json

        _write(options.json, to_json(profile) + "\n")
    if options.html:
        from permaheap.cow._html import render

        _write(options.html, render(profile))
    if options.json != "-":
        _print(profile)


def _write(file: str, text: str) -> None:
    if file == "-":
        sys.stdout.write(text)
    else:
        Path(file).write_text(text, encoding="utf-8")


def _print(profile: "Profile") -> None:
    from permaheap.cow._text import renderable, table

    if sys.stdout.isatty():
        with contextlib.suppress(ImportError):
            from rich.console import Console

            Console().print(renderable(profile))
            return
    sys.stdout.write(table(profile))
