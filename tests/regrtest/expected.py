"""Which tests are expected to fail after immortalize, and why: reads expected.toml."""

import fnmatch
import tomllib
from pathlib import Path

CLASSES = tomllib.loads(Path(__file__).with_name("expected.toml").read_text())


def class_of(test):
    """Return the name of the class of failures that a test belongs to; None if it has none."""
    for name, each in CLASSES.items():
        if any(fnmatch.fnmatchcase(test, f"*{pattern}") for pattern in each["tests"]):
            return name
    return None
