"""Write the results of tests/regrtest into docs/immortalize-regrtest.md, between its two marks.

    python tests/regrtest/report.py RESULTS.json...

If several files of one build have the same module, the last one counts.
"""

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

from expected import CLASSES, class_of

PAGE = Path(__file__).parents[2] / "docs/immortalize-regrtest.md"
BEGIN, END = "<!-- results: written by tests/regrtest/report.py -->", "<!-- end of the results -->"

HEAD = """\
| CPython | modules | tests | skipped | also fail plain | failed once | fail only then | explained |
|---|---|---|---|---|---|---|---|"""


def row(build, modules):
    """Return the line of one build in the table of all."""
    failed = [test for each in modules for test, *_ in each["immortal"]]
    counts = [
        len(modules),
        sum(each["tests"] for each in modules),
        sum(each["skipped"] for each in modules),
        sum(len(each["plain"]) for each in modules),
        sum(len(each["unsteady"]) for each in modules),
        len(failed),
        sum(class_of(test) is not None for test in failed),
    ]
    return f"| {build} | {' | '.join(f'{count:,}' for count in counts)} |"


def name_of(module, test):
    """Return a test's name without what all have in common."""
    return test.removeprefix("test.") if test.startswith("test.") else f"{module}: {test}"


def failures(builds):
    """Return the explained failures: class -> test -> the builds where it fails, and all others."""
    found, others = defaultdict(lambda: defaultdict(list)), defaultdict(list)
    for build, modules in builds.items():
        for each in modules:
            for test, *_ in each["immortal"]:
                name = name_of(each["module"], test)
                known = class_of(test)
                (found[known] if known else others)[name].append(build)
    return found, others


def listed(tests):
    return [f"- `{test}`: {', '.join(builds)}" for test, builds in sorted(tests.items())]


def text(builds):
    """Return what stands between the marks."""
    lines = [HEAD, *(row(*each) for each in builds.items()), ""]
    short = Counter(
        each["module"] for modules in builds.values() for each in modules if each["out_of_time"]
    )
    if short:
        names = ", ".join(f"`{name}` ({n})" for name, n in sorted(short.items()))
        lines += [f"Cut short by the time limit, with the number of builds: {names}.", ""]
    found, others = failures(builds)
    for name, each in CLASSES.items():
        lines += [f"### {name}", "", each["why"].strip(), "", *listed(found[name]), ""]
    if others:
        lines += ["### Not explained", "", *listed(others), ""]
    return "\n".join(lines)


def main(*paths):
    builds = {}
    for path in paths:
        found = json.loads(Path(path).read_text())
        modules = builds.setdefault(found["build"], {})
        modules |= {each["module"]: each for each in found["modules"]}
    builds = {build: [*modules.values()] for build, modules in sorted(builds.items())}
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n\n{text(builds)}\n{END}{after}")


if __name__ == "__main__":
    main(*sys.argv[1:])
