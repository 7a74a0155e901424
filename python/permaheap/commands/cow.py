"""Show which pages of memory each forked worker has copied, and why.

PID is that of a parent whose workers are running. With COMMAND instead (put -- in front of it) the
command is started, its workers are found as they appear, and it is watched until it ends; Ctrl-C
is passed on to it, after a last look. Nothing in the processes is changed by looking.
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

# Of all the time at most this share goes into comparing memory.
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
        help="watch for so long; by default look once at PID, and watch COMMAND until it ends",
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
        raise OSError("--mode trace is for a COMMAND: it has to begin before workers are forked")
    with contextlib.closing(Recorder(pid)) as recorder, _signals() as wait:
        seconds = options.seconds or 0
        for came in _watch(recorder, options, seconds, wait, recorder.is_alive):
            if came:
                break
        if options.seconds:
            recorder.sample()  # how it ended, however long the interval
        recorder.look()
        _report(recorder.known(), options)
    return 0


def _watch_command(command: list[str], options: argparse.Namespace) -> int:
    environment = dict(os.environ, PERMAHEAP_COW="1")  # prefork() leaves a map of the objects
    if options.mode == "trace":
        environment["PERMAHEAP_TRACE"] = "1"
    with _signals() as wait:
        # In a group of its own, so that Ctrl-C comes here first: there is time for a last look.
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
    """Give a function that waits so many seconds, or until signals come; it returns their numbers.

    The end of a child ends the waiting, too.
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
    """Sample until the time is over; yield what signals came meanwhile, after each sample.

    Memory is compared as often as that does not cost too much.
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
    """Give a function that shows a profile, in place of the one before, on a terminal."""
    if options.json == "-" or not sys.stderr.isatty():
        yield lambda profile: None
        return
    try:
        from rich.console import Console
        from rich.live import Live

        from permaheap.cow._text import renderable
    except ImportError:  # plain text has no way of taking back what it showed
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
