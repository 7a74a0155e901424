"""A Python program: found as a shell finds it, and run as the interpreter runs it.

No process is started. The program becomes the __main__ of this process, with the same sys.argv and
sys.path as if it had been started directly. A program of another interpreter, or in another
language, is refused.
"""

import builtins
import importlib.util
import io
import os
import re
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any


class Refused(Exception):
    """The program cannot be run here; the message gives the reason and a remedy."""


@dataclass(frozen=True)
class Program:
    """The code to execute as __main__, and its surroundings."""

    code: CodeType
    arguments: list[str]
    """sys.argv."""
    path: str
    """The first entry of sys.path."""
    attributes: dict[str, Any]
    """Attributes of the module __main__, such as __file__."""
    is_path: bool = False
    """Whether path holds the program itself; it is then needed with Python's option -P, too."""

    def run(self) -> None:
        """Execute the program as the __main__ of this process."""
        main = ModuleType("__main__")
        main.__dict__.update({"__builtins__": builtins, **self.attributes})
        sys.modules["__main__"] = main
        sys.argv[:] = self.arguments
        if not sys.flags.safe_path:
            sys.path[0] = self.path
        elif self.is_path:
            sys.path.insert(0, self.path)
        exec(self.code, main.__dict__)


def find(words: Sequence[str]) -> Program:
    """Return the program that a command line names.

    Raises:
        Refused: the command line names no program that this interpreter can run.
    """
    if not words:
        raise Refused(
            "no program is named; write it after --, as in: permaheap run -- python script.py"
        )
    name, *arguments = words
    if re.fullmatch(r"python[\d.]*", Path(name).name):
        return _of_python(name, arguments)
    path = _located(name)
    if not path.endswith(".py") and Path(path).is_file():
        _check_interpreter(path, words)
    return _script(path, arguments)


def _located(name: str) -> str:
    """Return the path of a program: beside this interpreter if it is there, else on the PATH."""
    if os.sep not in name:
        for folders in (sysconfig.get_path("scripts"), str(Path(sys.executable).parent), None):
            if found := shutil.which(name, path=folders):
                return found
    if not Path(name).exists():
        raise Refused(f"there is no program {name!r} on the PATH, nor a file of that name")
    return name


# --- python ... -----------------------------------------------------------------------------------


def _of_python(name: str, arguments: list[str]) -> Program:
    """Return the program that `python ARGUMENTS` runs."""
    interpreter = _located(name)
    if not _is_this_python(interpreter):
        raise Refused(_other_python(interpreter, [name, *arguments]))
    match arguments:
        case ["-m", module, *rest]:
            return _module(module, rest)
        case ["-c", text, *rest]:
            code = compile(text, "<string>", "exec", dont_inherit=True)
            return Program(code, ["-c", *rest], "", {"__spec__": None})
        case [path, *rest] if not path.startswith("-"):
            if not Path(path).exists():
                raise Refused(f"there is no file {path!r}")
            return _script(path, rest)
        case [option, *_]:
            raise Refused(
                f"the interpreter is already running, so its option {option!r} comes too late; "
                f"give it before -m permaheap, as in: python {option} -m permaheap run -- ..."
            )
    raise Refused("python needs a script, -m MODULE or -c CODE here")


def _is_this_python(interpreter: str) -> bool:
    """Tell whether the path of an interpreter is in the environment that runs this process.

    It compares the directories: the interpreters of two environments may be links to one file.
    """
    directory = Path(interpreter).parent
    return directory.exists() and directory.samefile(Path(sys.executable).parent)


def _other_python(interpreter: str, words: Sequence[str]) -> str:
    return (
        f"{words[0]!r} belongs to another Python than this one ({sys.executable}); install "
        f"permaheap there, and run: {interpreter} -m permaheap run -- {shlex.join(words)}"
    )


# --- Scripts --------------------------------------------------------------------------------------


def _check_interpreter(path: str, words: Sequence[str]) -> None:
    """Raise Refused if a file is no script of this Python."""
    with Path(path).open("rb") as file:
        first, second = file.readline(500), file.readline(500)
    if first.startswith(b"PK"):
        return  # a zip file, which may hold a program
    interpreter = _interpreter(first, second)
    if "python" not in Path(interpreter).name:
        advice = ""
        if Path(path).name == "uwsgi":
            advice = "; add this line to its configuration: import = permaheap.hooks.uwsgi"
        raise Refused(f"{path!r} is not a Python program{advice}")
    if not _is_this_python(interpreter):
        raise Refused(_other_python(interpreter, words))


def _interpreter(first: bytes, second: bytes) -> str:
    """Return the interpreter that the first lines of a script name, or ""."""
    if not first.startswith(b"#!"):
        return ""
    words = os.fsdecode(first[2:]).split()
    if second.startswith(b"'''exec'"):  # how pip writes a path that is too long for a first line
        words = shlex.split(os.fsdecode(second).removeprefix("'''exec'"))
    if words[:1] == ["/usr/bin/env"]:
        names = [word for word in words[1:] if not word.startswith("-")]
        return shutil.which(names[0]) or names[0] if names else ""
    return words[0] if words else ""


def _script(path: str, arguments: list[str]) -> Program:
    """Return a file, or a directory or zip file with a __main__.py, as a program."""
    full = os.path.join(os.getcwd(), path)  # noqa: PTH109, PTH118 - Python keeps "./x", too
    if inside := PathFinder.find_spec("__main__", [full]):
        return replace(_from_spec(inside, [path, *arguments], full), is_path=True)
    try:
        with io.open_code(full) as file:
            code = compile(file.read(), full, "exec", dont_inherit=True)
    except (OSError, SyntaxError, ValueError) as error:
        raise Refused(f"{path!r} cannot be run: {error}") from error
    attributes = {
        "__file__": full,
        "__loader__": SourceFileLoader("__main__", full),
        "__spec__": None,
        "__package__": None,
    }
    return Program(code, [path, *arguments], str(Path(full).resolve().parent), attributes)


# --- Modules --------------------------------------------------------------------------------------


def _module(name: str, arguments: list[str]) -> Program:
    """Return the program that `python -m NAME` runs."""
    here = str(Path.cwd())
    if not sys.flags.safe_path:
        sys.path[0] = here
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, ValueError) as error:
        raise Refused(f"no module named {name} can be imported: {error}") from error
    if spec is None:
        raise Refused(f"there is no module named {name}, or it is a package without __main__")
    return _from_spec(spec, [str(spec.origin), *arguments], here)


def _from_spec(spec: ModuleSpec, arguments: list[str], path: str) -> Program:
    get_code = getattr(spec.loader, "get_code", None)  # built-in modules have none
    code = get_code(spec.name) if get_code else None
    if code is None:
        raise Refused(f"{spec.name} has no Python code to run")
    attributes = {
        "__file__": spec.origin,
        "__loader__": spec.loader,
        "__spec__": spec,
        "__package__": spec.parent,
    }
    return Program(code, arguments, path, attributes)
