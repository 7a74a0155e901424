"""The commands of `python -m permaheap`: one module for each.

The name of the module is the name of the command, and its docstring is the command's help. It has
`prepare_parser(parser)`, which adds the command's arguments, and `run(options)`, which returns an
exit status. A command parses its arguments and reports; other modules of the package do the work.
"""

import argparse
from importlib import import_module
from typing import Protocol

NAMES: tuple[str, ...] = ("cow", "run")


class Command(Protocol):
    """The interface of a command's module."""

    __doc__: str | None

    def prepare_parser(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""

    def run(self, options: argparse.Namespace) -> int:
        """Run the command; return its exit status."""


def load() -> dict[str, Command]:
    """Return the commands by name."""
    return {name: import_module(f"permaheap.commands.{name}") for name in NAMES}
