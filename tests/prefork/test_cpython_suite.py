"""CPython's own tests: beside a large frozen heap that is alive, and with everything immortal."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_sanitizer("programs around the core")

SUITES = [
    "test_copy",
    "test_dict",  # of frozendict, too
    "test_json",
    "test_pickle",
    "test_set",
    "test_str" if sys.version_info >= (3, 13) else "test_unicode",
    "test_tuple",
    "test_types",
]

RUN = """
import sys, unittest
unittest.main(module=None, argv=["unittest", "--quiet", *sys.argv[1:]])
"""

# Values that the suites use too, so that one of theirs may meet one of ours where CPython caches.
WITH_HEAP = (
    """
import permaheap
heap = permaheap.freeze([
    {"id": n, "name": f"name {n}", "score": n / 7, "tags": (str(n), b"x" * (n % 9)),
     "set": frozenset((n, "a", "b", None)), "nested": {"a": [1, 2, (n, -n)], "b": {}}}
    for n in range(50_000)
] + [{"a": 1, "b": 2}, frozenset("abc"), (), "", b"", range(10), slice(1, 2), 1j, 2**70])
"""
    + RUN.replace("unittest.main(", "result = unittest.main(exit=False, ")
    + """
assert len(heap) == 50_009 and heap[49_999]["nested"]["a"][2] == (49_999, -49_999)
permaheap._core._testing.check()
sys.exit(not result.result.wasSuccessful())
"""
)


def is_here(suite: str) -> bool:
    return bool(importlib.util.find_spec("test") and importlib.util.find_spec(f"test.{suite}"))


def run(program: str, suite: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, f"test.{suite}"],
        cwd=folder,  # the suites write there
        env=os.environ | {"PERMAHEAP_SEAL": "1"},  # a write to the heap ends the process
        capture_output=True,
        text=True,
        check=False,
        timeout=550,
    )


@pytest.mark.slow
@pytest.mark.skipif("PERMAHEAP_SEAL" in os.environ, reason="sealed in the other mode as well")
@pytest.mark.parametrize("suite", SUITES)
def test_cpython_tests_pass_beside_a_heap(suite: str, tmp_path: Path) -> None:
    if not is_here(suite):
        pytest.skip("this interpreter comes without CPython's tests")
    done = run(WITH_HEAP, suite, tmp_path)
    if done.returncode != 0:
        alone = run(RUN, suite, tmp_path)
        if alone.returncode != 0:
            pytest.skip(f"fails without permaheap too: {alone.stderr[-300:]}")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


# --- With everything immortal ---------------------------------------------------------------------

# A quick selection: `make regrtest` runs ten times as many.
AFTER_IMMORTALIZE = """
test_builtin test_code test_copy test_coroutines test_dataclasses test_descr test_dict
test_finalization test_functools test_gc test_generators test_list test_opcache
test_types test_weakref
""".split()
RUNNER = Path(__file__).parents[1] / "regrtest"


@pytest.mark.slow
@pytest.mark.skipif("PERMAHEAP_SEAL" in os.environ, reason="no frozen heap is involved")
@pytest.mark.skipif(
    not hasattr(sys, "gettotalrefcount"), reason="once is enough, where CPython asserts most"
)
def test_cpython_tests_pass_after_immortalize(tmp_path: Path) -> None:
    """Nothing fails that does not fail without, but for what regrtest/expected.toml explains."""
    if not is_here("test_dict"):
        pytest.skip("this interpreter comes without CPython's tests")
    done = subprocess.run(
        [sys.executable, RUNNER, *AFTER_IMMORTALIZE],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
