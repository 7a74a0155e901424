"""Start a program that forks workers, read the memory of all its processes, and end all of them.

Each program has its own session: Ctrl-C reaches only the measuring program, which then ends the
others. Signals that come while a program is being started or stopped wait until that is done, so no
process is ever left behind.
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
    """Return the memory of a process now; the kernel walks its page tables for that."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    kilobytes = {key: int(value.split()[0]) for key, value in (line.split(":") for line in lines)}
    return Memory(kilobytes["Private_Dirty"] * 1024, kilobytes["Pss"] * 1024)


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process so far, in user and system mode."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children(pid: int) -> list[int]:
    """Return the processes that any thread of a process has forked, in order of their pids."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return sorted(int(child) for task in tasks for child in task.read_text().split())


# ---- Signals -------------------------------------------------------------------------------------


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay signals until the end of the with statement."""
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
    """Let the first signal raise KeyboardInterrupt, and ignore all signals after it."""

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
        """The process id of the program: the parent of the workers."""
        return self.process.pid

    def wait_for_end(self) -> None:
        """Return when the program has ended, also if another call reaps it."""
        descriptor = os.pidfd_open(self.process.pid)
        try:
            select.select([descriptor], [], [])
        finally:
            os.close(descriptor)

    def failed(self, why: str) -> SampleError:
        """Return an error with a reason and the program's log."""
        self.log.seek(0)
        return SampleError(f"{why}\n{self.log.read().decode(errors='replace')}".rstrip())

    def stop(self) -> None:
        """Ask the program to end, and wait for it; then kill the rest of its session."""
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
        directory: its working directory.
        environment: variables that it has besides those of this process.
        descriptors: open files that it inherits, under the same numbers.
        stop_signal: the signal that makes it stop at once.
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
    """Return the command that runs a module in a mode; the module and its arguments follow."""
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
    """Run gunicorn on free ports of the loopback interface, one for each worker.

    gunicorn inherits listening sockets. So no other program can take a port in between, and early
    requests wait until gunicorn is ready. (A hook in gunicorn.conf.py assigns the ports to the
    workers.) SIGINT makes gunicorn stop at once; SIGTERM makes it wait for clients such as this
    process.

    Args:
        directory: the directory of the application and its gunicorn.conf.py.
        application: the application's name for gunicorn.
        workers: the number of workers that it forks.
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
            listener.close()  # if gunicorn dies now, connections are refused instead of waiting
        yield program, ports
