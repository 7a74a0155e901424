"""Compile the small extensions of the tests with the interpreter's own C compiler."""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

EXTENSIONS = Path(__file__).parent / "extensions"


def compiler():
    """Return the command of a C compiler, or skip the test."""
    for command in [(sysconfig.get_config_var("CC") or "").split(), ["cc"], ["gcc"]]:
        if command and shutil.which(command[0]):
            return command
    pytest.skip("there is no C compiler")


def compile_extension(name, folder, *flags, includes=()):
    """Build extensions/NAME.c in a folder and put the folder on sys.path."""
    target = Path(folder) / (name + sysconfig.get_config_var("EXT_SUFFIX"))
    paths = [sysconfig.get_path("include"), sysconfig.get_path("platinclude"), *includes]
    subprocess.run(
        [*compiler(), "-shared", "-fPIC", "-O2", "-Wall", "-Werror", *flags]
        + [f"-I{path}" for path in paths]
        + [str(EXTENSIONS / f"{name}.c"), "-o", str(target)],
        check=True,
    )
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
