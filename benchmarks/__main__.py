"""The command line: measure with this interpreter, print, keep as JSON, write the report."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import report, runner

DOCS = Path(__file__).resolve().parent.parent / "docs"
PACKAGES = ("permaheap", "numpy", "lmdb", "msgpack", "pyarrow", "orjson", "faster-fifo")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Returns:
        0, also if goals are missed; 1 if a measurement failed.
    """
    options = parse(arguments)
    if options.merge:
        runs = sorted((load(path) for path in options.merge), key=report.minor)
        for path in report.write(runs, options.docs):
            print(f"wrote {path}")
        return 0
    run = measure(chosen_options(options))
    if options.json:
        options.json.write_text(json.dumps(run, indent=1) + "\n", encoding="utf-8")
    print(report.markdown([run], plots=None))
    if options.write:
        report.write([run], options.docs)
    return 1 if report.failures(run) else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measure permaheap and its alternatives. No measured time makes it fail.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a tenth of the data, fewer rounds: under a minute")
    add("--records", type=int, metavar="N", help="records of the main data set (200,000)")
    add("--rounds", type=int, metavar="N", help="rounds of each comparison (15)")
    add("--only", metavar="GROUP,...", help=f"run only some of: {', '.join(runner.GROUPS)}")
    add("--json", type=Path, metavar="FILE", help="keep the measurements of this interpreter")
    add("--write", action="store_true", help="write docs/benchmarks.md and docs/plots/*.svg")
    add("--merge", type=Path, nargs="+", metavar="FILE", help="write the report from JSON files")
    add("--docs", type=Path, default=DOCS, metavar="DIR", help="where to write the report")
    return parser.parse_args(arguments)


def chosen_options(given: argparse.Namespace) -> runner.Options:
    """Return how much to measure, from the command line."""
    options = runner.quick() if given.quick else runner.Options()
    if given.records:
        options = replace(options, records=given.records)
    if given.rounds:
        options = replace(options, rounds=given.rounds)
    if given.only:
        groups = tuple(given.only.split(","))
        if unknown := set(groups) - set(runner.GROUPS):
            raise SystemExit(
                f"there is no group {', '.join(sorted(unknown))}; use some of: "
                f"{', '.join(runner.GROUPS)}"
            )
        options = replace(options, only=groups)
    return options


def measure(options: runner.Options) -> dict[str, Any]:
    """Run everything that the options ask for, and name each measurement on standard error."""
    before, start = os.getloadavg()[0], time.monotonic()
    results = {}
    jobs = runner.plan(options)
    for number, job in enumerate(jobs, 1):
        print(f"[{number}/{len(jobs)}] {job.key} ...", end="", file=sys.stderr, flush=True)
        began = time.monotonic()
        results[job.key] = runner.run(job)
        note = results[job.key].get("unavailable") or results[job.key].get("error") or ""
        print(f" {time.monotonic() - began:.1f} s {note}", file=sys.stderr)
    return {
        "machine": machine() | {"load_before": before, "load_after": os.getloadavg()[0]},
        "python": python(),
        "packages": packages(),
        "options": asdict(options),
        "seconds": time.monotonic() - start,
        "results": results,
    }


def machine() -> dict[str, Any]:
    """Return facts on which the numbers depend, and none that names the machine."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": f"{processor()} ({platform.machine()})",
        "cores": os.cpu_count(),
        "memory_gb": pages / 2**30,
        "system": f"Linux {platform.release().split('-')[0]}",
    }


def processor() -> str:
    """Return the kernel's model name of the processor, if it gives one."""
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return "unknown processor"


def python() -> dict[str, Any]:
    """Return facts about the interpreter."""
    import sysconfig

    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    optimised = "--enable-optimizations" in arguments
    return {
        "version": platform.python_version(),
        "compiler": platform.python_compiler().strip(),
        "build": "profile-guided" if optimised else "without profile-guided optimisation",
        "debug": hasattr(sys, "gettotalrefcount"),
    }


def packages() -> dict[str, str]:
    """Return the versions of permaheap and of the packages that it is compared with."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def load(path: Path) -> dict[str, Any]:
    """Return a run that ``--json`` kept."""
    run: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return run


if __name__ == "__main__":
    sys.exit(main())
