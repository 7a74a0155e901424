"""Turns measurements into Markdown tables and plots; the terminal shows the same tables.

A *run* is the result of ``python -m benchmarks`` with one interpreter: a dict of JSON values with
``machine``, ``python``, ``options`` and ``results``. A report shows one run or several.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import goals, peers
from benchmarks.channels import INTERPRETERS as INTERPRETER_WAYS
from benchmarks.channels import WAYS_OF_PROCESSES
from benchmarks.imports import PLACES
from benchmarks.plots import Bars, bar_chart
from benchmarks.runner import FORKED, INTERPRETERS, Options
from benchmarks.ways import WAYS

Run = Mapping[str, Any]
Value = Callable[[goals.Results], float]

MB = 1e6
NOT_RUN = "-"


# --- pieces ---------------------------------------------------------------------------------------


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns: the first one text, the others numbers."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def row(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    return "\n".join([row(lines[0]), row(rule), *map(row, lines[1:])])


def cell(run: Run, value: Value, form: str) -> str:
    """Return a printed value, or a dash if it was not measured."""
    try:
        return form.format(value(run["results"]))
    except (KeyError, ZeroDivisionError):
        return NOT_RUN


def at(*path: str, scale: float = 1.0) -> Value:
    """Return a function for the value at a path of keys in the results, times a factor."""

    def value(results: goals.Results) -> float:
        found: Any = results
        for key in path:
            found = found[key]
        return float(found) * scale

    return value


def by_run(
    first: str,
    runs: Sequence[Run],
    rows: Mapping[str, Value],
    form: str,
) -> str:
    """Return a table with one column for each run; rows that no run measured are left out."""
    lines = [[name, *(cell(run, value, form) for run in runs)] for name, value in rows.items()]
    shown = [line for line in lines if any(text != NOT_RUN for text in line[1:])]
    return table([first, *map(label, runs)], shown)


def label(run: Run) -> str:
    """Return the column heading of a run."""
    python = run["python"]
    return f"{python['version']}{' debug' if python['debug'] else ''}"


def minor(run: Run) -> tuple[int, int]:
    """Return the major and minor version of a run's interpreter."""
    major, second = run["python"]["version"].split(".")[:2]
    return int(major), int(second)


def section(title: str, *parts: str) -> str:
    """Return a titled part of the report."""
    return "\n\n".join([f"## {title}", *(part for part in parts if part)])


# --- goals ----------------------------------------------------------------------------------------

MARKS = {"aim": " (aim)", "must": "", "missed": " MISSED"}


def smaller(runs: Sequence[Run]) -> str:
    """Return a warning if a run had less data than the goals are stated for."""
    if all(run["options"]["records"] >= Options.records for run in runs):
        return ""
    return (
        f"The goals are stated for {Options.records:,} records. With fewer records, the fixed cost "
        "of every process weighs more, and caches hide the cost of memory."
    )


def goals_table(runs: Sequence[Run]) -> str:
    """Return all goals with their limits, and the value that each run reached."""
    rows = []
    for goal in goals.GOALS:
        cells = [goal_cell(goal, run) for run in runs]
        rows.append([goal.what, limit(goal, goal.must), limit(goal, goal.aim), *cells])
    return table(["what", "must reach", "aim", *map(label, runs)], rows)


def limit(goal: goals.Goal, of: Callable[[tuple[int, int]], float]) -> str:
    """Return a limit as text, with both values if 3.15 has its own."""
    sign = ">=" if goal.more else "<="
    early, late = goal.form.format(of((3, 14))), goal.form.format(of((3, 15)))
    return f"{sign} {early}" if early == late else f"{sign} {early}, 3.15: {late}"


def goal_cell(goal: goals.Goal, run: Run) -> str:
    """Return a run's value for a goal, and its verdict."""
    try:
        value = goal.value(run["results"])
    except (KeyError, ZeroDivisionError):
        return NOT_RUN
    return goal.form.format(value) + MARKS[goal.verdict(value, minor(run))]


def goals_summary(run: Run) -> str:
    """Return one paragraph about a run: the goals that it reached and missed."""
    verdicts: dict[str, list[str]] = {"aim": [], "must": [], "missed": [], NOT_RUN: []}
    for goal in goals.GOALS:
        try:
            value = goal.value(run["results"])
        except (KeyError, ZeroDivisionError):
            verdicts[NOT_RUN].append(goal.what)
            continue
        verdict = goal.verdict(value, minor(run))
        limits = goal.form.format(goal.must(minor(run)))
        verdicts[verdict].append(f"{goal.what}: {goal.form.format(value)}, must reach {limits}")
    reached = len(verdicts["aim"]) + len(verdicts["must"])
    aimed = f"{len(verdicts['aim'])} of them as aimed at"
    lines = [f"**{label(run)}**: {reached} of {len(goals.GOALS)} reached, {aimed}."]
    lines += [f"- missed: {what}" for what in verdicts["missed"]]
    lines += [f"- not measured: {what}" for what in verdicts[NOT_RUN]]
    control = number(run, at("interpreters", "processes", "median"))
    if control is not None and control < 1.8:
        lines.append(
            f"- two forked processes, which share no interpreter, reached {control:.2f}x of one: "
            "the machine did not have two free cores for two interpreters"
        )
    return "\n".join(lines)


# --- side by side ---------------------------------------------------------------------------------


def peers_table(run: Run) -> str:
    """Return permaheap beside its alternatives, in forked workers."""
    header = ["workers read by way of", "own memory, MB", "/ plain", "PSS of all, MB",
              "put / pickle", "attach, s", "ready, s", "look-up", "scan"]  # fmt: skip
    rows = []
    for name in FORKED:
        reason = why_not(run, f"family {name}", f"peer {name}")
        cells = [reason or NOT_RUN] + [NOT_RUN] * 7 if reason else peer_cells(run, name)
        rows.append([peers.PEERS[name].title, *cells])
    return table(header, rows)


def peer_cells(run: Run, name: str) -> list[str]:
    """Return the numbers of one peer."""
    speed = f"peer {name}"
    plain = name == "plain"
    return [
        cell(run, lambda r: goals.own_memory(r, name) / MB, "{:.2f}"),
        cell(run, lambda r: goals.own_memory(r, name) / goals.own_memory(r, "plain"), "{:.4f}"),
        cell(run, lambda r: goals.pss(r, name) / MB, "{:.0f}"),
        "0" if plain else cell(run, at(speed, "put", "median"), "{:.2f}"),
        "0" if plain else cell(run, at(speed, "attach_seconds"), "{:.2f}"),
        cell(run, lambda r: statistics.median(r[f"family {name}"]["ready_seconds"]), "{:.2f}"),
        "1" if plain else cell(run, at(speed, "lookup", "median"), "{:.2f}"),
        "1" if plain else cell(run, at(speed, "scan", "median"), "{:.2f}"),
    ]


def interpreters_table(run: Run) -> str:
    """Return the cost of giving the data to a second interpreter of a process."""
    rows = []
    for name in INTERPRETERS:
        reason = why_not(run, f"interpreter {name}", f"peer {name}")
        rows.append([peers.PEERS[name].title, *(
            [reason] + [NOT_RUN] * 4 if reason else interpreter_cells(run, name)
        )])  # fmt: skip
    header = ["data given to a second interpreter", "own memory, MB", "put / pickle", "attach, s",
              "look-up", "scan"]  # fmt: skip
    return table(header, rows)


def interpreter_cells(run: Run, name: str) -> list[str]:
    """Return the numbers of one way to give data to an interpreter."""
    speed = f"peer {name}"
    return [
        cell(run, at(f"interpreter {name}", "own", scale=1 / MB), "{:.2f}"),
        cell(run, at(speed, "put", "median"), "{:.2f}"),
        cell(run, at(speed, "attach_seconds"), "{:.4f}"),
        cell(run, at(speed, "lookup", "median"), "{:.2f}"),
        cell(run, at(speed, "scan", "median"), "{:.2f}"),
    ]


def why_not(run: Run, *keys: str) -> str | None:
    """Return the reason why a measurement has no numbers; None if it has, or was not run."""
    for key in keys:
        result = run["results"].get(key, {})
        if "unavailable" in result:
            return str(result["unavailable"])
        if "error" in result:
            return "failed"
    return None


def failures(run: Run) -> dict[str, str]:
    """Return the measurements that failed, with their error messages."""
    return {key: each["error"] for key, each in run["results"].items() if "error" in each}


def channels_table(run: Run, where: str, names: Sequence[str]) -> str:
    """Return channels beside their alternatives, between processes or interpreters."""
    latency = where == "processes"
    header = [f"between {where}", "small, us", "/ channel"]
    header += ["latency, us", "on two cores, us"] * latency
    header += ["1 MB, ms", "/ channel", "100 x 10 kB, ms", "/ channel"]
    header += [f"{human(largest_moved(run))} handed over, us"]
    rows = []
    for name in names:
        absent = run["results"].get("channel small", {}).get(where, {}).get("absent", {})
        cells = channel_cells(run, where, name)
        if not latency:
            del cells[2:4]
        if name in absent:
            cells[0] = absent[name]
        if any(text != NOT_RUN for text in cells):
            rows.append([WAYS[name].title, *cells])
    return table(header, rows) if rows else ""


def channel_cells(run: Run, where: str, name: str) -> list[str]:
    """Return the numbers of one way."""
    copied, moved = "channel copied", ("channel moved", str(largest_moved(run)), where)

    def beside(*path: str) -> str:
        return cell(run, at(*path, "ratio", name, "median"), "{:.2f}")

    return [
        cell(run, at("channel small", where, "seconds", name, scale=1e6), "{:.2f}"),
        beside("channel small", where),
        cell(run, at("channel latency", "anywhere", "seconds", name, scale=1e6), "{:.1f}"),
        cell(run, at("channel latency", "two cores", "seconds", name, scale=1e6), "{:.1f}"),
        cell(run, at(copied, f"{where} whole", "seconds", name, scale=1e3), "{:.2f}"),
        beside(copied, f"{where} whole"),
        cell(run, at(copied, f"{where} pieces", "seconds", name, scale=1e5), "{:.2f}"),
        beside(copied, f"{where} pieces"),
        cell(run, at(*moved, "seconds", name, scale=1e6), "{:.1f}"),
    ]


def largest_moved(run: Run) -> int:
    """Return the bytes of the largest buffer that was handed over; 0 if none was."""
    sizes = run["results"].get("channel moved", {})
    return max((int(size) for size in sizes if size.isdigit()), default=0)


def handed_table(runs: Sequence[Run]) -> str:
    """Return the cost of handing over large objects, and of waiting."""
    rows: dict[str, Value] = {}
    for way in ("permaheap", "interpreters"):
        key, title = f"channel table {way}", WAYS[way].title
        rows[f"table for four interpreters, {title}, again, ms"] = at(key, "seconds", scale=1e3)
        rows[f"the first time, {title}, ms"] = at(key, "first", scale=1e3)
        rows[f"private memory of each, {title}, MB"] = at(key, "private", scale=1 / MB)
    rows["size of that table when frozen, MB"] = at("channel table permaheap", "size", scale=1 / MB)
    sizes = {size for run in runs for size in run["results"].get("channel frozen", {})
             .get("seconds", {}) if size.isdigit()}  # fmt: skip
    for size in ("small", *sorted(sizes, key=int)):
        title = "a small tuple" if size == "small" else f"{human(int(size))}, frozen"
        rows[f"{title}, sent, us"] = at("channel frozen", "seconds", size, scale=1e6)
    moved = {size for run in runs for size in run["results"].get("channel moved", {})
             if size.isdigit()}  # fmt: skip
    for size in sorted(moved, key=int):
        path = ("channel moved", size, "processes", "seconds")
        rows[f"{human(int(size))}, buffer moved, us"] = at(*path, "permaheap", scale=1e6)
        rows[f"{human(int(size))}, shared_memory by name, us"] = at(*path, "Pipe", scale=1e6)
    for who in ("receiver", "sender"):
        rows[f"processor, {who} that waits, %"] = at("channel idle", who, scale=100)
    return by_run("", runs, rows, "{:.3f}")


CHANNELS = """\
*small* is a tuple of an int, a str, a float and a bool, sent one way, thousands in a row. *latency*
is half of its time there and back: first on the cores that the system chooses, then with each
process on a core of its own. *1 MB* are records as above whose pickle has 1 MB, in one message and
in 100. *Handed over* is memory that the receiver reads in place: a Buffer that is moved;
`shared_memory` that either end opens by a name sent through a pipe; a memoryview in a queue. The
ends of a channel *never spinning* sleep at once when they wait. All ways take turns in one run."""


# --- details --------------------------------------------------------------------------------------


def freeze_table(runs: Sequence[Run]) -> str:
    """Return freeze beside other ways to copy, encode or decode the same data."""
    names = ("pickle.dumps", "pickle.loads", "pickle.dumps + pickle.loads", "copy.deepcopy",
             "marshal.dumps", "marshal.loads", "json decode", "orjson decode")  # fmt: skip
    rows: dict[str, Value] = {
        f"freeze / {name}": at("freeze", "ratio", name, "median") for name in names
    }
    rows["freeze / (dumps + loads), collector on"] = at("freeze", "collector_on", "median")
    rows["freeze, in seconds"] = at("freeze", "seconds", "freeze")
    rows["thaw, in seconds"] = at("freeze", "seconds", "thaw")
    return by_run("", runs, rows, "{:.2f}")


def operations_table(runs: Sequence[Run]) -> str:
    """Return single operations on frozen data beside native data."""
    names = {name: None for run in runs for name in run["results"].get("operations", {})}
    rows: dict[str, Value] = {
        f"`{name}`": at("operations", name, "ratio", "median")
        for name in names
        if name not in ("error", "unavailable")
    }
    return by_run("frozen / native", runs, rows, "{:.2f}")


def process_table(runs: Sequence[Run]) -> str:
    """Return the times of collecting and forking with the data held in different ways."""
    rows: dict[str, Value] = {}
    titles = {"empty": "no data", "plain": "ordinary heap", "gc.freeze": "gc.freeze",
              "permaheap": "permaheap"}  # fmt: skip
    for key, what in (("gc", "gc.collect()"), ("fork", "fork() to first look-up")):
        for name, title in titles.items():
            rows[f"{what}, {title}"] = at(key, "seconds", name, scale=1e3)
    return by_run("milliseconds", runs, rows, "{:.3f}")


def handles_table(runs: Sequence[Run]) -> str:
    """Return the times of handles by the size of the object, in nanoseconds."""
    sizes = sorted({size for run in runs for size in run["results"].get("handles", {})
                    if size.isdigit()}, key=int)  # fmt: skip
    rows: dict[str, Value] = {}
    calls = {"get": "handle.get()", "from_bytes": "Handle.from_bytes(b).get()",
             "share": "share(frozen)", "first_get": "the first one in a sibling"}  # fmt: skip
    for call, title in calls.items():
        for size in sizes:
            rows[f"{title}, {human(int(size))}"] = at("handles", size, call, scale=1e9)
    return by_run("nanoseconds", runs, rows, "{:.0f}")


def sets_table(runs: Sequence[Run]) -> str:
    """Return the main goals on the other data sets."""
    rows: dict[str, Value] = {}
    for name, title in (("unicode", "Unicode"), ("packages", "Debian packages")):
        pickled = at(f"{name} freeze", "ratio", "pickle.dumps + pickle.loads", "median")
        rows |= {
            f"{title}: records": at(f"{name} block", "records"),
            f"{title}: block / resident": block_ratio(name),
            f"{title}: worker's own memory / plain": own_ratio(name),
            f"{title}: freeze / (dumps + loads)": pickled,
            f"{title}: look-up / native": at(f"{name} reads", "lookup", "median"),
            f"{title}: scan / native": at(f"{name} reads", "scan", "median"),
        }
    return by_run("data set", runs, rows, "{:.4g}")


def block_ratio(data_set: str) -> Value:
    """Return a function for the bytes of the block / the resident size of the original."""
    key = f"{data_set} block"
    return lambda r: r[key]["block"] / r[key]["resident"]


def own_ratio(data_set: str) -> Value:
    """Return a function for a worker's own memory with permaheap / with plain fork."""
    prefix = f"{data_set} "
    return lambda r: goals.own_memory(r, "permaheap", prefix) / goals.own_memory(r, "plain", prefix)


IMPORT = """\
`import permaheap` in a new process, and in a new interpreter of a process that has imported it.
*now* loads the modules that a reader needs. *formerly* is the import of all modules, as before most
of them were left to their first use. *empty* is the start of the process or interpreter itself."""


def import_table(runs: Sequence[Run]) -> str:
    """Return the cost of the import, beside its former cost and that of an empty interpreter."""
    ways = {"permaheap": "now", "earlier": "formerly", "empty": "empty"}
    rows: dict[str, Value] = {}
    for place in PLACES:
        for what, unit, scale in (("seconds", "ms", 1e3), ("private", "kB", 1e-3)):
            title = f"{place}, {'processor time' if what == 'seconds' else 'private memory'}"
            for way, when in ways.items():
                rows[f"{title}, {when}, {unit}"] = at("import", place, way, what, scale=scale)
            rows[f"{title}, now / formerly"] = at("import", place, "ratio", what, "median")
            rows[f"{title}, now / empty"] = import_ratio(place, what)
        for way, when in ways.items():
            rows[f"{place}, modules, {when}"] = at("import", place, way, "modules")
    return by_run("import permaheap", runs, rows, "{:.4g}")


def import_ratio(place: str, what: str) -> Value:
    """Return a function for the cost of the import / that of an empty interpreter."""
    return lambda r: r["import"][place]["permaheap"][what] / r["import"][place]["empty"][what]


def numbers_table(runs: Sequence[Run]) -> str:
    """Return the absolute numbers behind the ratios."""
    rows: dict[str, Value] = {
        "original, resident, MB": at("block", "resident", scale=1 / MB),
        "block, MB": at("block", "block", scale=1 / MB),
        "saved by storing equal atoms once, MB": at("block", "saved", scale=1 / MB),
        "worker's private dirty, no data, MB": lambda r: goals.own(r["base plain"]) / MB,
        "worker's private dirty, plain fork, MB": lambda r: goals.own(r["family plain"]) / MB,
        "worker's private dirty, permaheap, MB": lambda r: goals.own(r["family permaheap"]) / MB,
        "PSS of parent and workers, plain fork, MB": lambda r: goals.pss(r, "plain") / MB,
        "PSS of parent and workers, permaheap, MB": lambda r: goals.pss(r, "permaheap") / MB,
        "look-up in frozen data, ns": at("reads", "lookup_seconds", scale=1e9),
        "scan of frozen data, ms": at("reads", "scan_seconds", scale=1e3),
        "freeze of a five-key dict, us": at("small", "freeze_median", scale=1e6),
        "pickle.dumps of it, us": at("small", "dumps_median", scale=1e6),
        "two processes scanning at once / one": at("interpreters", "processes", "median"),
        "prefork(), objects made immortal, millions": at("prefork", "objects", scale=1e-6),
        "prefork(), ms": at("prefork", "first", scale=1e3),
        "prefork() with nothing new, ms": at("prefork", "again", scale=1e3),
        "causes seen, not inferred: trace mode": at("causes", "trace", "seen"),
        "causes seen, not inferred: diff mode": at("causes", "diff", "seen"),
    }
    return by_run("", runs, rows, "{:.2f}")


def human(size: int) -> str:
    """Return a number of bytes as kB, MB or GB (powers of 1024)."""
    for unit in ("B", "kB", "MB"):
        if size < 1024:
            return f"{size} {unit}"
        size //= 1024
    return f"{size} GB"


# --- the whole ------------------------------------------------------------------------------------

INTRODUCTION = """\
# Benchmarks

Written by `python -m benchmarks --write`, or `--merge` for several interpreters; do not edit by
hand. Every measurement runs in a process of its own.

Notes on the numbers, and on the stores that they favour:

- The data set is {records:,} JSON-like records and an index over them, made by
  `benchmarks/data.py`. Strings and numbers repeat as a parser would make them: equal, but not the
  same object. permaheap stores equal ones once, which is a part of its savings.
- *Own memory* is the private dirty memory of a forked worker after a full scan, {lookups:,} random
  look-ups and gc.collect(), minus that of a worker that read ten records in the same way. {workers}
  workers run at once. *PSS* adds up the parent, the workers and any server process.
- Times are medians of ratios taken in turns within one run, with the cyclic collector off.
  *put* is compared with pickle.dumps + pickle.loads of the same data. *attach* is the time that
  each worker needs before it can read. *ready* is the wall-clock time from a worker's start to the
  end of its scan and look-ups, all workers at once. *look-up* and *scan* are compared with the same
  code over native objects.
- The look-ups read three values of a record that a key names. Stores of encoded records decode the
  whole record for that, except Arrow, which reads only the columns asked for.
- permaheap's objects are read-only and stay until they are released or the family ends. The other
  stores can be changed, which no number here shows."""

REPRODUCE = """\
```
pip install .[bench]
python -m benchmarks --json here.json          # one interpreter, some minutes; --quick for less
python -m benchmarks --merge *.json            # writes docs/benchmarks.md and docs/plots
```

The numbers depend on the machine, so no number makes the command fail. Other programs that run at
the same time disturb fork, interpreters and *ready* most: see the load average above."""


def markdown(runs: Sequence[Run], plots: str | None = "plots") -> str:
    """Return the report on some runs.

    Args:
        runs: the runs to show, oldest Python version first.
        plots: folder of the plots, relative to the report; None leaves them out.
    """
    parts = [
        INTRODUCTION.format(**runs[0]["options"]),
        section("Where it ran", *map(environment, runs)),
        section(
            "Goals",
            smaller(runs),
            goals_table(runs),
            picture(plots, "goals"),
            *map(goals_summary, runs),
        ),
        section(
            "Alternatives",
            picture(plots, "worker-memory"),
            picture(plots, "reads"),
            *(f"{label(run)}:\n\n{peers_table(run)}\n\n{interpreters_table(run)}" for run in runs),
        ),
        section("Freezing", freeze_table(runs)),
        section("Reading, operation by operation", operations_table(runs)),
        section("Collector and fork", process_table(runs)),
        section("Handles", handles_table(runs)),
        section("Import", IMPORT, import_table(runs)),
        section(
            "Channels",
            CHANNELS,
            *(
                f"{label(run)}:\n\n{channels_table(run, 'processes', WAYS_OF_PROCESSES)}\n\n"
                f"{channels_table(run, 'interpreters', INTERPRETER_WAYS)}"
                for run in runs
                if any(key.startswith("channel ") for key in run["results"])
            ),
            handed_table(runs),
        ),
        section("Other data", sets_table(runs)),
        section("Numbers behind the ratios", numbers_table(runs)),
        section("Reproducing", REPRODUCE),
    ]
    broken = "\n\n".join(
        f"- {label(run)}, {key}:\n\n```\n{text}\n```"
        for run in runs
        for key, text in failures(run).items()
    )
    if broken:
        parts.insert(3, section("Measurements that failed", broken))
    return "\n\n".join(parts) + "\n"


def picture(folder: str | None, name: str) -> str:
    """Return a reference to a plot."""
    return f"![{name}]({folder}/{name}.svg)" if folder else ""


def environment(run: Run) -> str:
    """Return the machine, interpreter and packages of a run, in a few lines."""
    machine, python = run["machine"], run["python"]
    packages = ", ".join(f"{name} {version}" for name, version in run["packages"].items())
    busy = max(machine["load_before"], machine["load_after"])
    warning = " Other programs were running." if busy > machine["cores"] * 0.75 else ""
    return (
        f"**CPython {label(run)}** ({python['compiler']}; {python['build']}): "
        f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB, "
        f"{machine['system']}; load average {machine['load_before']:.1f} before, "
        f"{machine['load_after']:.1f} after.{warning} {packages}. "
        f"{run['options']['records']:,} records, {run['seconds']:.0f} s."
    )


def draw(runs: Sequence[Run]) -> dict[str, str]:
    """Return the plots by name: peers from the run that has most of them, goals from all runs."""
    run = max(runs, key=lambda each: (count_peers(each), minor(each)))
    return {
        "worker-memory": draw_memory(run),
        "reads": draw_reads(run),
        "goals": draw_goals(runs),
    }


def count_peers(run: Run) -> int:
    """Return the number of peers that a run has numbers for."""
    return sum("workers" in run["results"].get(f"family {name}", {}) for name in FORKED)


def number(run: Run, value: Value) -> float | None:
    """Return a measured value, or None."""
    try:
        return value(run["results"])
    except (KeyError, ZeroDivisionError):
        return None


def draw_memory(run: Run) -> str:
    """Draw each worker's own memory, by peer."""
    groups = [
        Bars(
            peers.PEERS[name].title,
            [number(run, own_megabytes(name))],
            name == "permaheap",
        )
        for name in FORKED
    ]
    note = f"private dirty MB that the data costs each forked worker, CPython {label(run)}"
    return bar_chart("Private memory of each worker", note, groups, form="{:.2f}")


def own_megabytes(peer: str) -> Value:
    """Return a function for the megabytes that the data costs each forked worker."""
    return lambda r: goals.own_memory(r, peer) / MB


def draw_reads(run: Run) -> str:
    """Draw look-ups and scans against native objects, by peer."""
    groups = [
        Bars(
            peers.PEERS[name].title,
            [number(run, at(f"peer {name}", what, "median")) for what in ("lookup", "scan")],
            name == "permaheap",
        )
        for name in FORKED
        if name != "plain"
    ]
    note = f"time against native dict and list (line), logarithmic, CPython {label(run)}"
    return bar_chart("Reading", note, groups, ("look-up", "scan"), logarithmic=True, mark=1.0)


def draw_goals(runs: Sequence[Run]) -> str:
    """Draw the used part of each goal's limit, by run; left of the line it is reached."""
    groups = []
    for goal in goals.GOALS:
        used = [used_up(goal, run) for run in runs[:4]]
        if goal.must((3, 12)) and any(value is not None for value in used):
            groups.append(Bars(SHORT.get(goal.what, goal.what)[:34], used))
    note = "part of the limit that is used up; left of the line the goal is reached"
    return bar_chart("Goals", note, groups, [label(run) for run in runs[:4]], mark=1.0)


SHORT = {
    goal.what: short
    for goal, short in zip(
        goals.GOALS,
        ("worker's private dirty memory", "PSS of the family", "bytes of the block", "freeze",
         "random look-ups", "full scan", "gc.collect()", "fork to first look-up",
         "handle.get()", "handle.get(), largest / 1 kB", "two interpreters at once",
         "small freeze, time", "small freeze, bytes", "small freezes, mappings",
         "in place: private dirty memory", "prefork()", "causes named, trace",
         "causes named, diff", "import, time", "import, memory", "small message, Queue",
         "small message, faster-fifo", "small message, interpreters", "latency, spinning",
         "latency, never spinning",
         "table for four interpreters", "memory that it costs each", "1 MB copied, Pipe",
         "100 x 10 kB copied, Pipe", "1 MB copied, interpreters",
         "100 x 10 kB copied, interpreters", "100 MB moved", "100 MB moved / 16 kB",
         "1 GB frozen / small tuple", "processor while waiting"),
        strict=True,
    )
}  # fmt: skip


def used_up(goal: goals.Goal, run: Run) -> float | None:
    """Return the measured value / the limit, or the inverse if more is better."""
    value = number(run, goal.value)
    must = goal.must(minor(run))
    if value is None or not must:
        return None
    return must / value if goal.more else max(0.0, value) / must


def write(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Write ``benchmarks.md`` and ``plots/*.svg`` below a folder; return their paths."""
    (folder / "plots").mkdir(parents=True, exist_ok=True)
    texts = {folder / "benchmarks.md": markdown(runs)}
    texts |= {folder / "plots" / f"{name}.svg": text for name, text in draw(runs).items()}
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return list(texts)
