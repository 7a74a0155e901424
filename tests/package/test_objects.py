"""References between the built objects, also where no include shows them: slots, pointers, externs.

The order is that of the meson.build files: a folder, and within it a file, uses only what stands
before it.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import source_order

BUILD = Path(sys.prefix) / "build"  # of tools/make-venv
COMMANDS = BUILD / "compile_commands.json"


def objects():
    """Return each object file of the last build with its source, a path below src/."""
    for command in json.loads(COMMANDS.read_text()):
        source = (BUILD / command["file"]).resolve()
        if source.is_relative_to(source_order.SRC):
            yield BUILD / command["output"], source.relative_to(source_order.SRC).as_posix()


def symbols(path):
    """Return the global names that an object defines, and those that it wants."""
    listing = subprocess.run(
        ["nm", "--extern-only", "--format=posix", path], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(r"^(\S+) (\w)\b", listing, flags=re.MULTILINE)
    return {n for n, kind in found if kind != "U"}, {n for n, kind in found if kind == "U"}


def upward(tables, place):
    """Return (user, name, definer) for each name that is defined by what stands after its user."""
    definer = {name: source for source, (defined, _) in tables.items() for name in defined}
    return sorted(
        (source, name, definer[name])
        for source, (_, wanted) in tables.items()
        for name in wanted & definer.keys()
        if place(definer[name]) > place(source)
    )


@pytest.fixture(scope="module")
def tables():
    if not COMMANDS.exists():
        pytest.skip("this interpreter's environment was not made by tools/make-venv")
    return {source: symbols(path) for path, source in objects()}


def test_every_source_has_an_object(tables):
    assert sorted(tables) == source_order.files(".c")


def test_no_object_refers_upward(tables):
    assert upward(tables, source_order.place) == []


def test_a_reference_upward_is_seen(tables):
    """The same objects in the opposite order: all their references point the wrong way."""
    reverse = upward(tables, lambda source: -source_order.place(source))
    assert len(reverse) > 300
