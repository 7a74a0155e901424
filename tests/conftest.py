"""Shared by all tests: heap audits, children by fork, and the settings of hypothesis."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import permaheap
import processes

TESTS = Path(__file__).parent

settings.register_profile(
    "normal",
    max_examples=150,
    deadline=None,  # the machines are shared and noisy
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.register_profile("quick", settings.get_profile("normal"), max_examples=40)
settings.register_profile("thorough", settings.get_profile("normal"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "normal"))


def pytest_addoption(parser):
    parser.addoption(
        "--alone", action="store_true", help="run the tests that are marked alone, and no others"
    )


def pytest_configure(config):
    # The threads it means are pytest's own watchdog; the children here end by os._exit.
    config.addinivalue_line(
        "filterwarnings", "ignore:This process .* is multi-threaded:DeprecationWarning"
    )
    # nohup and a shell's & start a program with Ctrl-C ignored, which tests send.
    signal.signal(signal.SIGINT, signal.default_int_handler)


AUDITING = ["test_faults.py", "test_interpreters.py", "test_stray_writes.py", "test_processes.py"]


def pytest_collection_modifyitems(config, items):
    """Put what audits the heap again and again first: the heap only grows."""
    items.sort(
        key=lambda item: (
            AUDITING.index(item.path.name) if item.path.name in AUDITING else len(AUDITING)
        )
    )
    _choose_alone(config, items)


def _choose_alone(config, items):
    """Run the tests that change the machine only when asked for, and then no others."""
    alone = [item for item in items if item.get_closest_marker("alone")]
    if config.getoption("alone"):
        config.hook.pytest_deselected(items=[item for item in items if item not in alone])
        items[:] = alone
        return
    for item in alone:
        item.add_marker(pytest.mark.skip(reason="changes the whole machine: `make alone` runs it"))


@pytest.fixture(scope="module", autouse=True)
def _audit():
    """Audit the heap after each file of tests."""
    yield
    permaheap._core._testing.check()


def audit():
    """Audit the heap if that is quick; each file of tests ends with a full audit anyway."""
    if permaheap.stats().used < 8 * 2**20:
        permaheap._core._testing.check()


@contextlib.contextmanager
def _unchanged():
    used, blocks = permaheap.stats().used, permaheap.stats().blocks
    yield
    assert (permaheap.stats().used, permaheap.stats().blocks) == (used, blocks)
    audit()


@pytest.fixture
def unchanged():
    """Give a context manager: the heap must not grow within it, and audit clean after it."""
    return _unchanged


@contextlib.contextmanager
def _refused(path=None, *, match=None, error=permaheap.FreezeError):
    with _unchanged(), pytest.raises(error, match=match) as caught:
        yield caught
    if path is not None:
        assert caught.value.path == path
        assert path in str(caught.value)


@pytest.fixture
def refused():
    """Give a context manager: freeze must fail within it, at the path, and leave no trace."""
    return _refused


@pytest.fixture
def in_child():
    """Give processes.in_child: it returns the result of a function, run in a forked child."""
    return processes.in_child


def _import_path(folder):
    """Return a PYTHONPATH with the helpers, this file, and the tests of a folder."""
    paths = [TESTS / "support", TESTS, folder]
    return os.pathsep.join([*map(str, paths), *filter(None, [os.environ.get("PYTHONPATH")])])


@pytest.fixture
def run(request):
    """Give a function that runs code in a new interpreter process and returns what it did."""
    path = _import_path(request.path.parent)

    def run(code, *arguments, **environment):
        return subprocess.run(
            [sys.executable, "-X", "faulthandler", "-c", code, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": path, **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run
