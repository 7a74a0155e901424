"""The cost of `import permaheap`: processor time, private memory and modules.

Measured in a new process, and in a new interpreter of a process that has imported permaheap. An
interpreter shares no module with the others, so each pays for the import again. Beside the import
stand the start of an empty process or interpreter, and the import of all modules, as before most of
them were left to their first use.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.interpreters import Interpreter
from benchmarks.memory import footprint
from benchmarks.timing import spread

PLACES = ("process", "interpreter")
WAYS = {
    "permaheap": "import permaheap",
    # The modules of the standard library bring others: inspect, ast, dis, re, enum, functools, ...
    "earlier": """\
import contextlib, copyreg, dataclasses, typing, warnings
import permaheap
from permaheap import _defaults, _family, _immortalize, _prefork, _reducers, _stats
for record in _stats.Stats, _immortalize.Immortalized, _prefork.Prefork:
    dataclasses.make_dataclass(record.__name__, record.__annotations__, frozen=True)
""",
}

# Runs where nothing has been imported, so it imports almost nothing itself. Its first look at the
# memory pays for looking.
PROBE = """\
import os, sys, time

def private():
    with open("/proc/self/smaps_rollup", encoding="ascii") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Private_Dirty"))

private()
began, held, loaded = time.process_time(), private(), len(sys.modules)
{statements}
seconds = time.process_time() - began
sample = began, held, loaded, seconds, private() - held, len(sys.modules) - loaded
os.write(1, " ".join(map(str, sample)).encode())
"""
FIELDS = ("began", "held", "loaded", "seconds", "private", "modules")  # seconds, kB

Sample = Mapping[str, float]


def measure_import(rounds: int) -> dict[str, Any]:
    """Measure both imports in both places, in turns; see `summary` for the result."""
    samples: dict[tuple[str, str], list[Sample]] = {}
    for turn in range(rounds + 1):
        for place in PLACES:
            for way in sorted(WAYS, reverse=bool(turn % 2)):
                samples.setdefault((place, way), []).append(sampled(place, way))
    # The first ones write the byte code of modules, or read files that nothing had read.
    return {place: summary({way: samples[place, way][1:] for way in WAYS}) for place in PLACES}


def sampled(place: str, way: str) -> Sample:
    """Return one sample of one import, from a process of its own.

    Its times are in seconds, its memory in kB. `began`, `held` and `loaded` are the time, the
    memory and the modules of the empty process or interpreter.
    """
    command = ["-c", probe(way)] if place == "process" else ["-m", __name__, way]
    done = subprocess.run([sys.executable, *command], stdout=subprocess.PIPE, check=True)
    start, numbers = [0.0, 0.0], done.stdout.split()
    if place == "interpreter":  # the time and memory of its process before it
        start, numbers = [float(number) for number in numbers[:2]], numbers[2:]
    sample = dict(zip(FIELDS, map(float, numbers), strict=True))
    return {**sample, "began": sample["began"] - start[0], "held": sample["held"] - start[1]}


def probe(way: str) -> str:
    """Return the script that measures an import."""
    return PROBE.format(statements=WAYS[way])


def summary(samples: Mapping[str, Sequence[Sample]]) -> dict[str, Any]:
    """Return medians, and the spread of the ratios of both imports.

    Returns:
        By way of import ("permaheap", "earlier", "empty"): ``seconds``, ``private`` (bytes),
        ``modules``. By "ratio": the spreads of ``seconds`` and ``private``, permaheap / earlier.
    """

    def median(way: str, name: str) -> float:
        return statistics.median(sample[name] for sample in samples[way])

    def ratios(name: str) -> dict[str, Any]:
        pairs = zip(samples["permaheap"], samples["earlier"], strict=True)
        return spread([now[name] / earlier[name] for now, earlier in pairs])

    result: dict[str, Any] = {
        way: {
            "seconds": median(way, "seconds"),
            "private": median(way, "private") * 1024,
            "modules": median(way, "modules"),
        }
        for way in samples
    }
    result["empty"] = {
        "seconds": median("permaheap", "began"),
        "private": median("permaheap", "held") * 1024,
        "modules": median("permaheap", "loaded"),
    }
    result["ratio"] = {"seconds": ratios("seconds"), "private": ratios("private")}
    return result


def in_an_interpreter(way: str) -> None:
    """Print this process's time and memory, then the sample of an import in an interpreter."""
    import permaheap  # noqa: F401 - what it costs the process is no part of the sample

    footprint()
    held = footprint().private_dirty // 1024
    print(time.process_time(), held, flush=True)
    interpreter = Interpreter()
    interpreter.run(probe(way))
    interpreter.close()


if __name__ == "__main__":
    in_an_interpreter(sys.argv[1])
