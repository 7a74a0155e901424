"""Running a module of CPython's tests with everything immortal, and what fails there plain as well.

Each run is a process of its own, in a folder of its own. A test that ends its process (a crash, a
hang) is noted, and the rest of the module is run without it.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

ONE_MODULE = Path(__file__).with_name("one_module.py")
THE_END = "the end of the process"  # stands beside the tests in what a run found


@dataclass
class Run:
    """The outcomes of one module's tests, each with its reason."""

    outcomes: dict[str, tuple[str, str]] = field(default_factory=dict)
    out_of_time: bool = False

    def failed(self):
        bad = ("failed", "crashed", "hung")
        return {test: each for test, each in self.outcomes.items() if each[0] in bad}


@dataclass
class Compared:
    """The findings of one module. A failure is a test, its outcome and the reason."""

    module: str
    tests: int
    skipped: int
    out_of_time: bool
    seconds: float
    plain: list[tuple[str, str, str]]  # fail without permaheap, too
    immortal: list[tuple[str, str, str]]  # fail only then
    unsteady: list[tuple[str, str, str]]  # failed only then, but not when run once more


def _start(mode, module, folder, seconds, per_test, left_out):
    """Run the module once; return its exit status and what it printed."""
    command = [sys.executable, ONE_MODULE, mode, module, folder / "outcomes"]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            [*command, str(seconds), str(per_test), *sorted(left_out)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | {"TMPDIR": str(folder), "REGRTEST_MODE": mode},
            start_new_session=True,  # so that what it leaves behind can be ended with it
        )
    try:
        status = process.wait(seconds + per_test + 30)
    except subprocess.TimeoutExpired:
        status = -signal.SIGKILL
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()
    return status, (folder / "output").read_text(errors="replace")[-6000:]


def _read(run, folder):
    """Add what was told; return the test that has begun and not ended, and whether all is done."""
    begun, done = None, False
    outcomes = folder / "outcomes"
    for line in outcomes.read_text().splitlines() if outcomes.exists() else []:
        record = json.loads(line)
        test, outcome = record["test"], record["outcome"]
        if outcome in ("done", "out of time"):
            done = done or outcome == "done"
            run.out_of_time |= outcome == "out of time"
        elif outcome == "began":
            begun = test
        else:
            begun = None
            run.outcomes[test] = outcome, record["why"]
    return begun, done or (begun is None and len(run.outcomes) == 1)


def run_module(mode, module, seconds, per_test):
    run = Run()
    left_out = set()
    while len(left_out) < 20:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            folder = Path(folder)
            status, output = _start(mode, module, folder, seconds, per_test, left_out)
            begun, done = _read(run, folder)
        if begun is None:
            if status != 0 or not done:
                run.outcomes[THE_END] = "failed", f"exit status {status}\n{output}"
            break
        outcome = "hung" if "Timeout (" in output or status == -signal.SIGKILL else "crashed"
        run.outcomes[begun] = outcome, f"exit status {status}\n{output}"
        left_out.add(begun)
    return run


def compare(module, seconds, per_test):
    """Run a module with everything immortal; run what fails plain as well, and once more."""
    start = time.monotonic()
    immortal = run_module("immortal", module, seconds, per_test)
    failed, plain, again = immortal.failed(), {}, {}
    if failed:
        plain = run_module("plain", module, 5 * seconds, per_test).failed()  # to the end, if it can
    if failed.keys() - plain.keys():
        again = run_module("immortal", module, seconds, per_test).failed()
    found = Compared(
        module=module,
        tests=len(immortal.outcomes),
        skipped=sum(outcome == "skipped" for outcome, _ in immortal.outcomes.values()),
        out_of_time=immortal.out_of_time,
        seconds=round(time.monotonic() - start, 1),
        plain=[],
        immortal=[],
        unsteady=[],
    )
    for test, (outcome, why) in failed.items():
        unsteady = outcome == "failed" and test not in again  # a crash is one crash too many
        kind = found.plain if test in plain else found.unsteady if unsteady else found.immortal
        kind.append((test, outcome, why))
    return found
