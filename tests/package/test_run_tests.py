"""How the tests are run: with Ctrl-C ignored, and by tools/run-tests, which repeats failures."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_sanitizer("programs around the core")

ROOT = Path(__file__).resolve().parents[2]

INTERRUPTED = [
    "tests/prefork/test_prefork.py::test_the_end_is_what_it_was[is interrupted]",
    "tests/freeze/test_errors.py::test_ctrl_c_from_a_thread",
]


def test_interrupts_arrive_where_they_were_ignored() -> None:
    """As nohup and a shell's & start a program; without care these tests hang and fail."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *INTERRUPTED],
        cwd=ROOT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 passed" in done.stdout


# Fails the first time that it runs in a folder, as a test whose outcome depends on chance.
ONCE = """
from pathlib import Path

def test_once():
    mark = Path(__file__).with_name("ran")
    first = not mark.exists()
    mark.touch()
    assert not first

def test_fine():
    pass
"""


class Checkout:
    """A checkout with tools/run-tests and tests of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repeated = folder / "repeated"
        (folder / "tools").mkdir()
        shutil.copy(ROOT / "tools" / "run-tests", folder / "tools")

    def add(self, name: str, text: str) -> None:
        path = self.folder / "tests" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def run(self, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if k not in ("TEST_FILES", "LEAVE_OUT")}
        return subprocess.run(
            [sys.executable, "tools/run-tests"],
            cwd=self.folder,
            env=kept | {"REPEATED": str(self.repeated)} | {"RERUN": ""} | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_what_fails_once_is_listed(checkout: Checkout) -> None:
    checkout.add("first/test_unsteady.py", ONCE)
    checkout.add("second/test_steady.py", "def test_steady(): pass\n")
    done = checkout.run(RERUN="1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "=== repeated:\nFAILED tests/first/test_unsteady.py::test_once" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("=== 3 passed in ")
    [line] = checkout.repeated.read_text().splitlines()
    assert line.startswith("FAILED tests/first/test_unsteady.py::test_once")


def test_what_fails_twice_is_a_failure(checkout: Checkout) -> None:
    checkout.add("first/test_unsteady.py", ONCE)
    checkout.add("second/test_wrong.py", "def test_wrong(): assert False\n")
    done = checkout.run(RERUN="1")
    assert done.returncode == 1
    assert "=== what failed:\nFAILED tests/second/test_wrong.py::test_wrong" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("=== 2 passed, 1 failed in ")
    assert len(checkout.repeated.read_text().splitlines()) == 1


def test_nothing_is_repeated_unasked(checkout: Checkout) -> None:
    checkout.add("first/test_unsteady.py", ONCE)
    done = checkout.run()
    assert done.returncode == 1
    assert not checkout.repeated.exists()


@pytest.mark.parametrize(
    ("wanted", "passed"), [("first", 2), ("test_b", 1), ("second test_a", 2), ("", 3)]
)
def test_folders_and_files_are_chosen(checkout: Checkout, wanted: str, passed: int) -> None:
    for name in ("first/test_a.py", "first/test_b.py", "second/test_c.py"):
        checkout.add(name, "def test(): pass\n")
    done = checkout.run(TEST_FILES=wanted)
    assert f"=== {passed} passed in" in done.stdout


def test_a_wrong_name_is_an_error(checkout: Checkout) -> None:
    checkout.add("first/test_a.py", "def test(): pass\n")
    done = checkout.run(TEST_FILES="first frist")
    assert done.returncode == 1
    assert "'frist'" in done.stderr
