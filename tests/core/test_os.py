"""The files of src/core/os: what they demand of their callers is checked, but in release builds."""

import re
import subprocess
from pathlib import Path

import pytest

from compile import compiler

ROOT = Path(__file__).resolve().parents[2]
OS = ROOT / "src" / "core" / "os"
DRIVER = Path(__file__).parent / "os_asserts.c"
FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-g", "-pthread"]
FLAGS += ["-fno-strict-aliasing", f"-I{ROOT / 'src'}"]


@pytest.mark.parametrize("optimize", ["-O0", "-O2"])
def test_broken_preconditions_abort(optimize, tmp_path):
    program = tmp_path / "os_asserts"
    sources = sorted(OS.glob("*.c"))
    subprocess.run([*compiler(), *FLAGS, optimize, *sources, DRIVER, "-o", program], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    broken = int(re.search(r"(\d+) preconditions", done.stdout)[1])
    assert done.stderr.count("Assertion") == broken > 20


def test_release_builds_check_nothing(tmp_path):
    """No assert is left, and nothing that only asserts use."""
    for source in sorted(OS.glob("*.c")):
        target = tmp_path / f"{source.stem}.o"
        command = [*compiler(), *FLAGS, "-O2", "-DNDEBUG", "-c", source, "-o", target]
        subprocess.run(command, check=True)
        symbols = subprocess.run(["nm", target], capture_output=True, text=True, check=True).stdout
        assert "__assert_fail" not in symbols
        assert "ph_os_is_locked" not in symbols
