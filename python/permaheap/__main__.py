"""The command line: `permaheap COMMAND`, or `python -m permaheap COMMAND`."""

import argparse
import sys
from collections.abc import Sequence

from permaheap import __version__, commands


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status, which is 2 if the arguments cannot be used."""
    parser = argparse.ArgumentParser(prog="permaheap", description=__doc__)
    parser.add_argument("--version", action="version", version=f"permaheap {__version__}")
    choices = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, command in commands.load().items():
        summary = (command.__doc__ or "").partition("\n")[0]
        chosen = choices.add_parser(name, help=summary, description=command.__doc__)
        command.prepare_parser(chosen)
        chosen.set_defaults(run=command.run)
    options = parser.parse_args(arguments)
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
