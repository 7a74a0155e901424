"""Run one module of CPython's own tests in this process, and tell how each test went.

    python one_module.py plain|immortal MODULE OUTCOMES SECONDS PER_TEST [TEST...]

OUTCOMES is a file that gets a line of JSON when a test begins, and another when it has ended. A
test that ends the process has only the first line. After SECONDS no further test is begun; a test
that takes longer than PER_TEST seconds ends the process. TESTs are left out.

The module is imported before everything is made immortal, as a parent loads its application before
it forks: so its classes, functions and constants are immortal, too.
"""

import faulthandler
import gc
import json
import signal
import sys
import time
import traceback
import unittest
from pathlib import Path

OUTCOMES = ["passed", "skipped", "failed"]  # the worst last


class Told(unittest.TestResult):
    """Writes down how each test went."""

    def __init__(self, stream, seconds, per_test):
        super().__init__()
        self.stream = stream
        self.end = time.monotonic() + seconds
        self.per_test = per_test
        self.outcome, self.why = "passed", ""

    def tell(self, name, outcome, why=""):
        record = {"test": name, "outcome": outcome, "why": why}
        print(json.dumps(record), file=self.stream, flush=True)

    def note(self, test, outcome, why=""):
        if not isinstance(test, unittest.TestCase):  # a fixture of a class or module
            self.tell(test.id(), outcome, why)
        elif OUTCOMES.index(outcome) >= OUTCOMES.index(self.outcome):
            self.outcome, self.why = outcome, why

    def startTest(self, test):
        super().startTest(test)
        self.outcome, self.why = "passed", ""
        self.tell(test.id(), "began")
        faulthandler.dump_traceback_later(self.per_test, exit=True)

    def stopTest(self, test):
        super().stopTest(test)
        faulthandler.cancel_dump_traceback_later()
        self.tell(test.id(), self.outcome, self.why)
        if time.monotonic() > self.end:
            self.tell("", "out of time")
            self.stop()

    def addSkip(self, test, reason):
        self.note(test, "skipped", reason)

    def addFailure(self, test, err):
        self.note(test, "failed", _text(err))

    def addError(self, test, err):
        self.note(test, "failed", _text(err))

    def addSubTest(self, test, subtest, err):
        if err is not None:
            self.note(test, "failed", _text(err))

    def addExpectedFailure(self, test, err):
        pass

    def addUnexpectedSuccess(self, test):
        self.note(test, "failed", "it should have failed")


def _text(err):
    return "".join(traceback.format_exception(*err))[-3000:]


def load(module):
    return unittest.defaultTestLoader.loadTestsFromName(f"test.{module}")


def tests_of(suite):
    if isinstance(suite, unittest.TestSuite):
        for each in suite:
            yield from tests_of(each)
    else:
        yield suite


def main(mode, module, outcomes, seconds, per_test, *left_out):
    sys.path.remove(str(Path(__file__).parent))
    sys.argv = [f"test_{mode}"]  # not what some tests would take for their arguments
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had it ignored
    from test import support

    support.use_resources = {}  # nothing that takes long, or the network
    with open(outcomes, "a") as stream:
        told = Told(stream, float(seconds), float(per_test))
        try:
            load(module)  # imports all it needs; the cases themselves should be mortal
        except unittest.SkipTest as skip:
            told.tell(module, "skipped", str(skip))
            return
        if mode == "immortal":
            import permaheap

            permaheap.immortalize()
        gc.collect()
        chosen = [each for each in tests_of(load(module)) if each.id() not in left_out]
        unittest.TestSuite(chosen).run(told)
        told.tell("", "done")


if __name__ == "__main__":
    main(*sys.argv[1:])
