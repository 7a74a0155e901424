"""The Django site in every mode: ``python run.py``."""

import os
import random
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from examples.common import load, processes, report  # noqa: E402 - found by the line above
from examples.common.sample import Sample, Setting, Started  # noqa: E402

BOOKS = 5_000
TOKEN = re.compile(rb'(name="csrfmiddlewaretoken" value=")\w+')


@cache
def database(variables: frozenset[tuple[str, str]]) -> tuple[str, object]:
    """Return the name of a database with books, and an object that deletes it at the end."""
    directory = tempfile.TemporaryDirectory(prefix="permaheap-django-")
    name = f"{directory.name}/db.sqlite3"
    for command in (["migrate", "--verbosity=0"], ["fill", f"--books={BOOKS}"]):
        done = subprocess.run(
            [sys.executable, "manage.py", *command],
            cwd=HERE,
            env={**os.environ, **dict(variables), "DATABASE": name},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise processes.SampleError(f"manage.py {command[0]}: {done.stdout}{done.stderr}")
    return name, directory


@contextmanager
def start(setting: Setting) -> Iterator[Started]:
    """Run gunicorn; each client talks to its own worker."""
    data: Mapping[str, str] = {k: v for k, v in setting.environment.items() if k == "SUBJECTS"}
    name, _ = database(frozenset(data.items()))
    with processes.gunicorn(
        HERE,
        "wsgi",
        setting.workers,
        launcher=setting.launcher,
        environment={**setting.environment, "DATABASE": name},
        descriptors=setting.descriptors,
    ) as (program, ports):
        yield Started(program, [load.http_client(port, without_token) for port in ports])


def without_token(body: bytes) -> bytes:
    """Remove the token against forgery from a form: it differs in each response."""
    return TOKEN.sub(rb"\1", body)


def requests(client: int, count: int) -> Sequence[str]:
    """Return pages of the site, in the proportions of a catalogue that people browse."""
    chance = random.Random(client)
    makers = {
        lambda: f"/book/{chance.randint(1, BOOKS)}/": 35,
        lambda: f"/subjects/{chance.randint(0, 9)}.{chance.randint(0, 19)}/": 10,
        lambda: (
            f"/subjects/{chance.randint(0, 9)}.{chance.randint(0, 19)}.{chance.randint(0, 19)}/"
        ): 20,
        lambda: f"/?page={chance.randint(1, BOOKS // 50)}": 10,
        lambda: f"/author/{chance.randint(1, BOOKS // 10)}/": 20,
        lambda: "/admin/login/": 4,
        lambda: f"/subjects/?q={chance.choice(['Maps', 'Lima', 'Law'])}": 1,
    }
    return [make() for make in chance.choices(list(makers), list(makers.values()), k=count)]


SAMPLE = Sample(
    name="django_site",
    title="Django site",
    start=start,
    hello="/",
    requests=requests,
    total=10_000,
    small={"SUBJECTS": "4000"},
    packages=["django", "gunicorn"],
)

if __name__ == "__main__":
    sys.exit(report.main(SAMPLE))
