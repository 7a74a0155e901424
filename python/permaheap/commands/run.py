"""Run a Python program whose forks share the memory that it has loaded; its code stays unchanged.

    permaheap run -- gunicorn --preload app:app
    permaheap run -- python script.py argument
    permaheap run -- python -m package.module argument

The program runs in this process, as if it had been started without permaheap: with the same
process id, arguments, signals and exit status. Before it forks, permaheap.prefork() is called. A
program that executes itself again (gunicorn does on SIGUSR2) continues without permaheap. So does a
program that spawns its workers, with a warning.
"""

import argparse
import importlib
import sys
from pathlib import Path

from permaheap.commands import _program
from permaheap.hooks import install


def prepare_parser(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "--preload",
        metavar="MODULE",
        action="append",
        default=[],
        help="import this module first, with the current directory on the path: for programs whose "
        "parent does not load the application itself (granian); may be given several times",
    )
    parser.add_argument(
        "--fork",
        action="store_true",
        help="make multiprocessing fork unless the program chooses a start method: the default "
        "before 3.14",
    )
    parser.add_argument(
        "program",
        nargs=argparse.REMAINDER,
        metavar="-- PROGRAM ...",
        help="a script, an installed program, or python with a script, -m MODULE or -c CODE",
    )


def run(options: argparse.Namespace) -> int:
    """Run the program; the interpreter handles its exceptions, such as SystemExit."""
    words = options.program[options.program[:1] == ["--"] :]
    try:
        program = _program.find(words)
    except _program.Refused as refused:
        print(f"permaheap run: {refused}", file=sys.stderr)
        return 2
    install()
    if options.fork:
        import multiprocessing

        multiprocessing.set_start_method("fork")
    if options.preload:
        _preload(options.preload)
    program.run()
    return 0


def _preload(modules: list[str]) -> None:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    for module in modules:
        importlib.import_module(module)
    sys.path.remove(here)
