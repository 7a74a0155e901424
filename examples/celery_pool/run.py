"""The Celery pool in every mode: ``python run.py``.

The broker is a Redis of its own on a free port if redis-server is installed (Debian's package of
that name), else Celery's broker in the file system, whose latencies are those of polling.
"""

import json
import random
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from celery import Celery
from kombu.exceptions import DecodeError

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from examples.common import load, processes, report  # noqa: E402 - found by the line above
from examples.common.sample import Sample, Setting, Started  # noqa: E402

CURRENCIES = ["AUD", "CHF", "DKK", "JPY", "NOK", "USD"]  # some of tasks.py's
YEARS = 15  # from 2000, likewise
OPTIONS = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING"]
CLIENTS = 2  # for each worker, so that there is always a task waiting
START_TIMEOUT = 60  # seconds
POLLING_INTERVAL = 0.01  # seconds; of the broker and backend in the file system


@contextmanager
def redis(folder: Path) -> Iterator[dict[str, str]]:
    """Run a Redis that keeps nothing on disk; yield the variables that name it to Celery.

    It listens at a socket in the folder, so that no port must be free. It tells that it is ready
    the way that it would tell systemd.
    """
    with ExitStack() as stack:
        ready = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        ready.bind(str(folder / "ready"))
        ready.settimeout(START_TIMEOUT)
        options = ["--port", "0", "--unixsocket", str(folder / "redis"), "--save", ""]
        server = stack.enter_context(
            processes.running(
                ["redis-server", *options, "--supervised", "systemd"],
                folder,
                environment={"NOTIFY_SOCKET": str(folder / "ready")},
            )
        )
        try:
            while b"READY=1" not in ready.recv(4096):
                pass
        except TimeoutError:
            raise server.failed("redis-server did not start") from None
        address = f"redis+socket://{folder}/redis"
        yield {"CELERY_BROKER_URL": address, "CELERY_RESULT_BACKEND": address}


@contextmanager
def files(folder: Path) -> Iterator[dict[str, str]]:
    """Make the folders of Celery's broker in the file system; yield the variables that name it."""
    for name in ("messages", "outbox", "control", "results"):
        (folder / name).mkdir()
    options = {
        "data_folder_in": f"{folder}/messages",
        "data_folder_out": f"{folder}/outbox",  # see outbox()
        "control_folder": f"{folder}/control",
        "polling_interval": POLLING_INTERVAL,
    }
    yield {
        "CELERY_BROKER_URL": "filesystem://",
        "CELERY_RESULT_BACKEND": f"file://{folder}/results",
        "BROKER_OPTIONS": json.dumps(options),
    }


@contextmanager
def start(setting: Setting) -> Iterator[Started]:
    """Run a broker and a Celery worker; which of its processes does a task is up to Celery."""
    with ExitStack() as stack:
        # A worker that was killed may be just about to write its last message.
        temporary = tempfile.TemporaryDirectory("-permaheap-celery", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        broker = redis if shutil.which("redis-server") else files
        variables = stack.enter_context(broker(folder))
        size = f"--concurrency={setting.workers}"
        program = stack.enter_context(
            processes.running(
                [*setting.launcher, "celery", "-A", "tasks", "worker", *OPTIONS, size],
                HERE,
                environment={**setting.environment, **variables},
                descriptors=setting.descriptors,
                stop_signal=signal.SIGTERM,
            )
        )
        clients = [client(variables) for _ in range(CLIENTS * setting.workers)]
        yield Started(program, clients)


def client(variables: Mapping[str, str]) -> load.Client:
    """Return a client with connections of its own: it sends a task and waits for its result."""
    options = json.loads(variables.get("BROKER_OPTIONS", "{}"))
    deliver = outbox(options) if options else None
    app = Celery(set_as_current=False)
    app.conf.update(
        broker_url=variables["CELERY_BROKER_URL"],
        result_backend=variables["CELERY_RESULT_BACKEND"],
        broker_transport_options=options,
    )

    def call(request: str) -> bytes:
        name, *arguments = json.loads(request)
        result = app.send_task(f"tasks.{name}", arguments)
        if deliver:
            deliver()
        while True:
            try:
                found = result.get(timeout=load.TIMEOUT, interval=POLLING_INTERVAL)
                return json.dumps(found).encode()
            except DecodeError:
                pass  # the backend in the file system was writing it at this moment

    return call


def outbox(options: dict[str, Any]) -> Callable[[], None]:
    """Give a client a folder of its own for what it sends; return what delivers it from there.

    The broker in the file system also reads a message that is only half written. A message that has
    been moved to the folder which the worker reads is whole.
    """
    folder = tempfile.mkdtemp(dir=options["data_folder_out"])
    options["data_folder_out"] = folder

    def deliver() -> None:
        for message in Path(folder).iterdir():
            message.rename(Path(options["data_folder_in"], message.name))

    return deliver


def requests(client: int, count: int) -> Sequence[str]:
    """Return tasks as JSON: most look at a few records, some at all those of a year."""
    chance = random.Random(client)

    def request() -> list[Any]:
        currency, year = chance.choice(CURRENCIES), 2000 + chance.randrange(YEARS)
        day = f"{year}-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}"
        convert = ["convert", chance.randint(1, 1000), currency, day]
        return chance.choices([convert, ["year", currency, year]], [9, 1])[0]

    return [json.dumps(request()) for _ in range(count)]


SAMPLE = Sample(
    name="celery_pool",
    title="Celery pool",
    start=start,
    hello=json.dumps(["convert", 1, "NOK", "2000-01-01"]),
    requests=requests,
    total=2_000,
    small={"YEARS": "2"},
    packages=["celery"],
    unit="tasks",
)

if __name__ == "__main__":
    sys.exit(report.main(SAMPLE))
