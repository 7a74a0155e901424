"""The measurements of the samples: as plain values, in the terminal and in the documentation."""

import argparse
import json
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import ASCII, SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from examples.common import sample as samples
from examples.common.processes import SampleError, leave_on_signals
from examples.common.sample import Outcome, Sample

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "samples.json"
PAGE = ROOT / "docs" / "copy-on-write.md"

LEAST_SHOWN = 0.05  # MB; a cause that costs a worker less in every mode is not shown

Result = dict[str, Any]
COLUMNS = {  # names in the JSON file, and headings
    "start": "start\nMB",
    "load": "load\nMB",
    "collected": "collected\nMB",
    "pss": "PSS\nMB",
    "p50": "p50\nms",
    "p99": "p99\nms",
    "rate": "per\nsecond",
    "cpu": "CPU\nms",
}
CAPTION = (
    "start, load, collected: mean private dirty memory of a worker after the first answer, after"
    " all answers, and after a full collection; PSS: of parent and workers at the end; CPU:"
    " processor time of all of them for one answer."
)


# ---- Plain values --------------------------------------------------------------------------------


def result(sample: Sample, outcomes: Mapping[str, Outcome]) -> Result:
    """Return all facts worth keeping of a sample's outcomes."""
    return {
        "title": sample.title,
        "unit": sample.unit,
        "versions": {name: version(name) for name in sample.packages},
        "workers": len(next(iter(outcomes.values())).workers["start"]),
        "total": sum(1 for _ in next(iter(outcomes.values())).load),
        "modes": {mode: numbers(outcome) for mode, outcome in outcomes.items()},
        "causes": {mode: cost(outcome) for mode, outcome in outcomes.items()},
    }


def numbers(outcome: Outcome) -> dict[str, float]:
    """Return a row of the table."""
    row = {moment: outcome.dirty(moment) / 1e6 for moment in samples.MOMENTS}
    row["pss"] = outcome.pss("collected") / 1e6
    row["p50"] = outcome.load.latency(0.50) * 1e3
    row["p99"] = outcome.load.latency(0.99) * 1e3
    row["rate"] = outcome.load.rate
    row["cpu"] = outcome.cpu_seconds / sum(1 for _ in outcome.load) * 1e3
    return {name: round(value, 3) for name, value in row.items()}


def cost(outcome: Outcome) -> dict[str, float]:
    """Return the mean megabytes that each cause costs a worker, the largest first."""
    unit = resource.getpagesize() / 1e6 / len(outcome.workers["start"])
    return {cause: round(pages * unit, 3) for cause, pages in outcome.causes.items()}


def ranking(found: Result) -> dict[str, list[float]]:
    """Return the megabytes that each cause costs a worker in each mode, the largest first.

    Causes that would be shown as 0.0 are left out.
    """
    modes = found["causes"].values()
    rows = {cause: [mode.get(cause, 0.0) for mode in modes] for each in modes for cause in each}
    seen = {cause: sizes for cause, sizes in rows.items() if max(sizes) >= LEAST_SHOWN}
    return dict(sorted(seen.items(), key=lambda row: -sum(row[1])))


def ratios(found: Result, mode: str) -> dict[str, float]:
    """Return a mode's row divided by that of plain."""
    plain, row = found["modes"]["plain"], found["modes"][mode]
    return {name: row[name] / (plain[name] or 1) for name in COLUMNS}


# ---- The terminal --------------------------------------------------------------------------------


def table(found: Result, terminal: bool) -> Table:
    """Return a sample's table: a row for each mode, and its ratio to plain."""
    style = {"box": SIMPLE_HEAD, "padding": 0} if terminal else {"box": ASCII}
    title = f"{found['title']}: {found['workers']} workers, {found['total']:,} {found['unit']}"
    out = Table("", title=title, caption=CAPTION, caption_justify="left", **style)
    for heading in COLUMNS.values():
        out.add_column(heading, justify="right", no_wrap=True, min_width=6)
    for mode, row in found["modes"].items():
        out.add_row(mode, *(f"{row[name]:,.1f}" for name in COLUMNS))
        if mode != "plain" and "plain" in found["modes"]:
            against = ratios(found, mode)
            out.add_row("  / plain", *(f"{against[name]:.2f}x" for name in COLUMNS), style="green")
    return out


def causes_table(found: Result, terminal: bool) -> Table:
    """Return the profiler's ranking for the terminal."""
    style = {"box": SIMPLE_HEAD, "padding": 0} if terminal else {"box": ASCII}
    out = Table("copied because of, MB a worker", **style)
    for mode in found["causes"]:
        out.add_column(mode, justify="right", no_wrap=True)
    for cause, sizes in ranking(found).items():
        out.add_row(cause, *(f"{size:,.1f}" for size in sizes))
    return out


# ---- The documentation ---------------------------------------------------------------------------


def markdown(kept: Mapping[str, Mapping[str, Result]]) -> str:
    """Return the tables of docs/copy-on-write.md: for each sample, each version of Python."""
    names = dict.fromkeys(name for results in kept.values() for name in results)
    parts = []
    for name in names:
        by_python = {python: found[name] for python, found in kept.items() if name in found}
        parts += [
            f"### {next(iter(by_python.values()))['title']}",
            *map(section, by_python.items()),
        ]
    return "\n\n".join(parts)


def section(item: tuple[str, Result]) -> str:
    """Return the measurements of a sample with one version of Python."""
    python, found = item
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    count = f"{found['total']:,} {found['unit']}"
    lines = [
        f"CPython {python}, {versions}: {found['workers']} workers, {count}.",
        "",
        "| mode | start | load | collected | / plain | PSS | p50 | p99 | per second | CPU |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for mode, row in found["modes"].items():
        against = ratios(found, mode)["load"]
        sizes = " | ".join(f"{row[name]:.1f}" for name in ("start", "load", "collected"))
        rest = " | ".join(f"{row[name]:,.1f}" for name in ("pss", "p50", "p99", "rate", "cpu"))
        lines.append(f"| {mode} | {sizes} | {against:.2f}x | {rest} |")
    if ranked := ranking(found):
        lines += ["", f"| copied because of, MB a worker | {' | '.join(found['causes'])} |"]
        lines += ["|---|" + "--:|" * len(found["causes"])]
        for cause, sizes in ranked.items():
            lines.append(f"| {cause} | {' | '.join(f'{size:.1f}' for size in sizes)} |")
    return "\n".join(lines)


def update_page(page: Path, kept: Mapping[str, Mapping[str, Result]]) -> None:
    """Put the tables between the page's marks."""
    marks = re.compile(r"(<!-- measured: begin -->\n).*(<!-- measured: end -->)", re.S)
    text = page.read_text()
    page.write_text(marks.sub(lambda m: f"{m[1]}\n{markdown(kept)}\n\n{m[2]}", text))


# ---- The command ---------------------------------------------------------------------------------


def parse(arguments: Sequence[str] | None, chosen: Sequence[Sample]) -> argparse.Namespace:
    """Return the command line's options."""
    names = ", ".join(sample.title for sample in chosen)
    parser = argparse.ArgumentParser(description=f"Measure {names} in every mode.")
    parser.add_argument("--workers", type=int, default=4, metavar="N")
    parser.add_argument("--total", type=int, metavar="N", help="requests of all clients together")
    parser.add_argument("--small", action="store_true", help="with little data, as the tests do")
    parser.add_argument("--mode", action="append", choices=samples.MODES, help="only this mode")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers to FILE")
    parser.add_argument(
        "--docs", action="store_true", help="keep the numbers and write docs/copy-on-write.md"
    )
    options = parser.parse_args(arguments)
    if options.docs and (options.mode or options.small):
        parser.error("--docs needs all modes and all data: leave out --mode and --small")
    return options


def measure_all(
    sample: Sample, options: argparse.Namespace, console: Console
) -> tuple[Result, bool]:
    """Measure and print one sample; return the result, and whether it is good."""
    outcomes = {}
    for mode in options.mode or samples.MODES:

        def show(step: str, mode: str = mode) -> None:
            console.print(f"{sample.title}, {mode}: {step}")

        outcomes[mode] = samples.measure(
            sample,
            mode,
            workers=options.workers,
            total=options.total or sample.total,
            small=options.small,
            show=show,
        )
    found = result(sample, outcomes)
    console.print(table(found, console.is_terminal))
    if ranking(found):
        console.print(causes_table(found, console.is_terminal))
    good, text = verdict(found, samples.difference(outcomes))
    console.print(text + "\n", style="green" if good else "red", markup=False)
    return found, good


def verdict(found: Result, different: str | None) -> tuple[bool, str]:
    """Return whether permaheap keeps its promise, and a sentence that says so."""
    if different:
        return False, f"Responses differ: {different}"
    loads = {mode: row["load"] for mode, row in found["modes"].items()}
    text = f"All {found['total']:,} responses are identical in all modes."
    worse = [
        mode for mode in ("prefork", "frozen") if loads.get(mode, 0) >= loads.get("plain", 1e9)
    ]
    if worse:
        return False, f"{text} {' and '.join(worse)} saved nothing."
    return True, text


def main(*chosen: Sample, arguments: Sequence[str] | None = None) -> int:
    """Measure samples and print their tables.

    Returns:
        0: success; 1: responses differ or nothing was saved; 2: a program failed;
        130: interrupted.
    """
    options = parse(arguments, chosen)
    console = Console(width=None if sys.stdout.isatty() else 100, highlight=False)
    leave_on_signals()
    results, good = {}, True
    try:
        for sample in chosen:
            results[sample.name], well = measure_all(sample, options, console)
            good &= well
    except KeyboardInterrupt:
        console.print("interrupted; everything is stopped")
        return 130
    except (SampleError, OSError) as error:
        console.print(f"failed: {error}", markup=False, soft_wrap=True)
        return 2
    keep(results, options)
    return 0 if good else 1


def keep(results: Mapping[str, Result], options: argparse.Namespace) -> None:
    """Write the numbers to the files that the options name."""
    if options.json:
        options.json.write_text(json.dumps({samples.python(): results}, indent=2) + "\n")
    if options.docs:
        kept = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        kept[samples.python()] = kept.get(samples.python(), {}) | results
        kept = dict(
            sorted(kept.items(), key=lambda item: [int(n) for n in re.findall(r"\d+", item[0])])
        )
        RESULTS.write_text(json.dumps(kept, indent=2) + "\n")
        update_page(PAGE, kept)
