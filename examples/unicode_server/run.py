"""The Unicode server in every mode: ``python run.py``. demo.py shows the cost of the data alone."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
if str(ROOT) not in sys.path:
    sys.path.append(str(ROOT))

from examples.common import load, processes, report  # noqa: E402 - found by the line above
from examples.common.sample import Sample, Setting, Started  # noqa: E402
from examples.unicode_server.demo import MALLOC, SEARCHES  # noqa: E402
from examples.unicode_server.demo import requests as mixed  # noqa: E402


@contextmanager
def start(setting: Setting) -> Iterator[Started]:
    """Run gunicorn; each client talks to its own worker."""
    with processes.gunicorn(
        HERE,
        "app",
        setting.workers,
        launcher=setting.launcher,
        environment={**MALLOC, **setting.environment},
        descriptors=setting.descriptors,
    ) as (program, ports):
        yield Started(program, [load.http_client(port) for port in ports])


def requests(client: int, count: int) -> Sequence[str]:
    """Return every search once, among look-ups of random code points."""
    return mixed(client, max(0, count - len(SEARCHES) - 2), sys.maxunicode)


SAMPLE = Sample(
    name="unicode_server",
    title="Unicode server",
    start=start,
    hello="/stats",
    requests=requests,
    total=2_000,
    small={"UNICODE_LAST": "4FFF"},
    packages=["gunicorn"],
)

if __name__ == "__main__":
    sys.exit(report.main(SAMPLE))
