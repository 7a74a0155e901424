"""The runs of the suite in tools/plan.txt: all that CI must cover, and nothing twice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

from permaheap import _supported

ROOT = Path(__file__).resolve().parents[2]
TESTS_OF = {"all": {"native", "fast", "slow"}, "own": {"fast", "slow"}, "fast": {"fast"}}
WITHOUT_DEBUG_BUILD = {"3.12"}  # Debian has none
VERSIONS = [f"3.{minor}" for minor in range(_supported.FIRST[1], _supported.LAST[1] + 1)]


class Run(NamedTuple):
    """One line of the plan."""

    step: str
    build: str
    mode: str
    tests: str

    @property
    def version(self) -> str:
        found = re.search(r"3\.\d+", self.build)
        assert found is not None
        return found[0]

    @property
    def kind(self) -> str:
        """Return how permaheap or its interpreter is built."""
        return {"dbg": "debug", "asan": "sanitized"}.get(self.build.rpartition("-")[2], "release")


def parse(text: str) -> list[Run]:
    return [Run(*line.split()) for line in text.splitlines() if line and not line.startswith("#")]


PLAN = parse((ROOT / "tools" / "plan.txt").read_text())
PLAIN = [run for run in PLAN if run.kind != "sanitized"]


def test_words_are_known() -> None:
    for run in PLAN:
        assert run.step in ("check", "matrix")
        assert re.fullmatch(r"(local-)?3\.\d+(-dbg)?(-asan)?", run.build)
        assert run.mode in ("private", "sealed")
        assert run.tests in TESTS_OF


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_runs_in_both_modes(version: str) -> None:
    assert {run.mode for run in PLAIN if run.version == version} == {"private", "sealed"}


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_runs_as_release_and_debug_build(version: str) -> None:
    wanted = {"release"} if version in WITHOUT_DEBUG_BUILD else {"release", "debug"}
    assert {run.kind for run in PLAIN if run.version == version} == wanted


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_runs_the_slow_tests_once(version: str) -> None:
    slow = [run for run in PLAIN if run.version == version and "slow" in TESTS_OF[run.tests]]
    assert len({run.build for run in slow}) == len(slow) == 1


def test_each_kind_of_build_runs_in_both_modes() -> None:
    pairs = {(run.kind, run.mode) for run in PLAIN}
    assert pairs == {
        (kind, mode) for kind in ("release", "debug") for mode in ("private", "sealed")
    }


def test_slow_tests_run_where_the_heap_is_not_sealed() -> None:
    """Some of them seal it themselves, and are skipped where it is."""
    assert {run.mode for run in PLAN if "slow" in TESTS_OF[run.tests]} == {"private"}


def test_native_tests_run_here_and_with_the_newest_compiler() -> None:
    native = [run.build for run in PLAN if "native" in TESTS_OF[run.tests]]
    assert native == ["local-3.13", f"{VERSIONS[-1]}-dbg"]


def test_one_build_has_the_sanitizers() -> None:
    [run] = [run for run in PLAN if run.kind == "sanitized"]
    assert run.version == VERSIONS[-1]


def test_nothing_runs_twice() -> None:
    pairs = [(run.build, run.mode) for run in PLAN]
    assert len(set(pairs)) == len(pairs)
    steps = {(run.build, run.step) for run in PLAN}
    assert len({build for build, _ in steps}) == len(steps)


def test_steps_run_the_plan_and_nothing_else() -> None:
    """`make check` takes the default of tools/test-build; .ci/run has no other steps with tests."""
    check = " ".join(f"{run.mode}:{run.tests}" for run in PLAN if run.step == "check")
    assert f"runs=${{RUNS:-{check}}}" in (ROOT / "tools" / "test-build").read_text()
    steps = re.findall(r"^step .*(?<!:)\bmake ([a-z-]+)", (ROOT / ".ci" / "run").read_text(), re.M)
    assert steps == ["check", "alone", "matrix"]


def test_the_clock_changes_nothing() -> None:
    """A slow machine must run the same tests as a fast one; only a hang has an end."""
    for name in (".ci/run", "tools/matrix", "tools/test-build"):
        text = (ROOT / name).read_text()
        assert re.findall(r"(?:if|while|&&).*\bSECONDS\b", text) == []
