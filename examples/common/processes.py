"""Start a program that forks workers, read the memory of all its processes, and end all of them.

Each program has a session of its own: Ctrl-C reaches the measuring program alone, which then ends
the others. Signals that come while a program is being started or stopped wait until that is done,
so that no process is ever lost sight of.
"""

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
STOP_TIMEOUT = 10  # seconds for a program to stop when asked to, before it is killed


class SampleError(Exception):
    """A program that did not start, answer or behave as expected."""


# ---- Memory --------------------------------------------------------------------------------------


class Memory(NamedTuple):
    """Memory of one process in bytes, as in /proc/PID/smaps_rollup."""

    private_dirty: int
    pss: int


def memory(pid: int) -> Memory:
    """Return the memory of a process now. It costs the kernel a walk over its page tables."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {key: int(value.split()[0]) for key, value in (line.split(":") for line in lines)}
    return Memory(kilobytes["Private_Dirty"] * 1024, kilobytes["Pss"] * 1024)


def cpu_seconds(pid: int) -> float:
    """Return the time that a process has spent on a processor so far, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the processes that a process has forked, whichever of its threads did, by number."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for task in tasks for child in task.read_text().split())


# ---- Signals -------------------------------------------------------------------------------------


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold signals back: what begins in here is finished before they are acted upon."""
    seen: list[int] = []
    handlers = {s: signal.signal(s, lambda number, _: seen.append(number)) for s in SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if seen:
            signal.raise_signal(seen[0])


def leave_on_signals() -> None:
    """Let the first signal raise KeyboardInterrupt, and none after it disturb the leaving."""

    def interrupt(_number: int, _frame: object) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in SIGNALS:
        signal.signal(number, interrupt)


# ---- Programs ------------------------------------------------------------------------------------


@dataclass
class Program:
    """A running program and its log."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]
    stop_signal: signal.Signals

    @property
    def pid(self) -> int:
        """The process that was started: the parent of the workers."""
        return self.process.pid

    def wait_for_end(self) -> None:
        """Return when the program has ended, whoever reaps it."""
        descriptor = os.pidfd_open(self.process.pid)
        try:
            select.select([descriptor], [], [])
        finally:
            os.close(descriptor)

    def failed(self, why: str) -> SampleError:
        """Return an error that tells what went wrong and what the program logged."""
        self.log.seek(0)
        return SampleError(f"{why}\n{self.log.read().decode(errors='replace')}".rstrip())

    def stop(self) -> None:
        """Ask the program to end and wait for it; kill what of its session is left after that."""
        with uninterrupted():
            self.process.send_signal(self.stop_signal)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_TIMEOUT)
            with suppress(ProcessLookupError):  # all have left in time
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@contextmanager
def running(
    command: Sequence[str],
    directory: Path,
    *,
    environment: Mapping[str, str] | None = None,
    descriptors: Sequence[int] = (),
    stop_signal: signal.Signals = signal.SIGINT,
) -> Iterator[Program]:
    """Run a program in a directory, until the end of the with statement.

    Args:
        command: the program and its arguments.
        directory: where it runs.
        environment: variables that it has besides those of this process.
        descriptors: open files that it inherits, under the same numbers.
        stop_signal: what makes it stop at once.
    """
    with ExitStack() as stack:
        log = stack.enter_context(tempfile.TemporaryFile())
        with uninterrupted():
            process = subprocess.Popen(
                command,
                cwd=directory,
                env={**os.environ, **(environment or {})},
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            program = Program(process, log, stop_signal)
            stack.callback(program.stop)
        yield program


def launcher(mode: str) -> list[str]:
    """Return the command that runs a module, whose name and arguments follow, in a mode."""
    return [sys.executable, str(Path(__file__).with_name("in_mode.py")), mode]


@contextmanager
def gunicorn(
    directory: Path,
    application: str,
    workers: int,
    *,
    launcher: Sequence[str],
    environment: Mapping[str, str] | None = None,
    descriptors: Sequence[int] = (),
) -> Iterator[tuple[Program, list[int]]]:
    """Run gunicorn on free ports of the loopback interface, as many as it has workers.

    gunicorn inherits listening sockets, so that nobody else can take a port meanwhile, and requests
    sent at once wait until it is ready. (Which worker answers at which port is up to a hook in
    gunicorn.conf.py.) To gunicorn SIGINT means to stop at once, SIGTERM to wait for clients, such
    as this one.

    Args:
        directory: the application's, with its gunicorn.conf.py.
        application: as gunicorn names it.
        workers: how many workers it forks.
        launcher: the command that runs a module, see `launcher`.
        environment: variables that it has besides those of this process.
        descriptors: more open files that it inherits.
    """
    with ExitStack() as stack:
        listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(workers)]
        inherited = [listener.fileno() for listener in listeners]
        binds = [f"--bind=fd://{descriptor}" for descriptor in inherited]
        program = stack.enter_context(
            running(
                [*launcher, "gunicorn", *binds, f"--workers={workers}", application],
                directory,
                environment=environment,
                descriptors=[*inherited, *descriptors],
            )
        )
        ports = [listener.getsockname()[1] for listener in listeners]
        for listener in listeners:
            listener.close()  # should gunicorn die now, connections are refused instead of waiting
        yield program, ports
