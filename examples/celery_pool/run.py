"""The Celery pool in every mode: ``python run.py``.

If redis-server is installed (Debian's package has that name), the broker is a Redis of its own at
a free socket. Otherwise it is Celery's broker in the file system, whose latencies are those of
polling.
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

CURRENCIES = ["AUD", "CHF", "DKK", "JPY", "NOK", "USD"]  # some of the currencies of tasks.py
YEARS = 15  # from 2000 on, as in tasks.py
OPTIONS = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING"]
CLIENTS = 2  # for each worker, so that there is always a task in the queue
START_TIMEOUT = 60  # seconds
POLLING_INTERVAL = 0.01  # seconds, for the broker and backend in the file system


@contextmanager
def redis(folder: Path) -> Iterator[dict[str, str]]:
    """Run a Redis that stores nothing on disk; yield the variables that tell Celery of it.

    It listens at a socket in the folder, so it needs no port. It reports that it is ready in the
    same way as to systemd.
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
            raise server.failed(f"redis-server was not ready after {START_TIMEOUT} s") from None
        address = f"redis+socket://{folder}/redis"
        yield {"CELERY_BROKER_URL": address, "CELERY_RESULT_BACKEND": address}


@contextmanager
def files(folder: Path) -> Iterator[dict[str, str]]:
    """Make the folders of Celery's broker in the file system; yield the variables for Celery."""
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
    """Run a broker and a Celery worker. Celery decides which of its processes does a task."""
    with ExitStack() as stack:
        # A worker that was killed may still write its last message.
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
    """Return a client with its own connections: it sends a task and waits for its result."""
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
                pass  # the backend in the file system was writing the result at this moment

    return call


def outbox(options: dict[str, Any]) -> Callable[[], None]:
    """Give a client its own folder for messages; return a function that delivers them.

    The broker in the file system also reads messages that are only half written. A message that is
    moved into the folder of the worker is whole.
    """
    folder = tempfile.mkdtemp(dir=options["data_folder_out"])
    options["data_folder_out"] = folder

    def deliver() -> None:
        for message in Path(folder).iterdir():
            message.rename(Path(options["data_folder_in"], message.name))

    return deliver


def requests(client: int, count: int) -> Sequence[str]:
    """Return tasks as JSON: most read a few records, some read all records of a year."""
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
