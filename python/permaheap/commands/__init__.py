"""The commands of `python -m permaheap`, a module for each.

A command's module docstring is its help, its name the command's. It has `prepare_parser(parser)`,
which adds the command's arguments, and `run(options)`, which returns an exit status. Commands parse
and report; what they do is done elsewhere in the package.
"""

import argparse
from importlib import import_module
from typing import Protocol

NAMES: tuple[str, ...] = ("cow", "run")


class Command(Protocol):
    """What the module of a command has."""

    __doc__: str | None

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""

    def run(self, options: argparse.Namespace) -> int:
        """Do it; return the exit status."""


def load() -> dict[str, Command]:
    """Return the commands by name."""
    return {name: import_module(f"permaheap.commands.{name}") for name in NAMES}
