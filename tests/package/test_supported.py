"""The interpreters that are refused, at build and at import, and the sentence that says so."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from permaheap import _supported

ROOT = Path(__file__).resolve().parents[2]
GOOD: dict[str, Any] = {
    "implementation": "cpython",
    "version": (3, 14),
    "free_threaded": False,
    "bits": 64,
    "system": "linux",
    "machine": "x86_64",
    "page": 4096,
}


def test_running_interpreter_is_supported() -> None:
    assert _supported.Interpreter().refusal() is None
    _supported.check()


@pytest.mark.parametrize("minor", [12, 13, 14, 15])
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_supported_ones_are_not_refused(minor: int, machine: str) -> None:
    facts = GOOD | {"version": (3, minor), "machine": machine}
    assert _supported.Interpreter(**facts).refusal() is None


@pytest.mark.parametrize(
    ("fact", "value", "named"),
    [
        ("implementation", "pypy", "pypy"),
        ("version", (3, 11), "CPython 3.11"),
        ("version", (3, 16), "CPython 3.16"),
        ("version", (4, 0), "CPython 4.0"),
        ("free_threaded", True, "a free-threaded build"),
        ("bits", 32, "a 32-bit build"),
        ("system", "darwin", "darwin"),
        ("machine", "riscv64", "riscv64"),
        ("page", 16384, "a kernel with pages of 16 KiB"),
        ("page", 65536, "a kernel with pages of 64 KiB"),
    ],
)
def test_anything_else_is_refused_by_name(fact: str, value: object, named: str) -> None:
    refused = _supported.Interpreter(**GOOD | {fact: value}).refusal()
    assert refused is not None
    assert refused.endswith(named)
    assert _supported.message(refused).endswith(f"; this is {refused}.")


def test_the_sentence_says_all_of_it() -> None:
    for part in (
        "3.12 to 3.15",
        "3.14.0 to 3.14.4 are untested",
        "GIL",
        "64-bit",
        "Linux",
        "4 KiB",
    ):
        assert part in _supported.SENTENCE


def test_import_is_refused_before_the_core_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check comes first: on a foreign interpreter the core may not even load."""
    program = (
        "import sys, types\n"
        "sys.implementation = types.SimpleNamespace(name='elsewhere', cache_tag=None)\n"
        "try:\n"
        "    import permaheap\n"
        "except ImportError as error:\n"
        "    print(error)\n"
        "print('permaheap._core' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [_supported.message("elsewhere"), "False"]


def test_import_is_refused_with_large_pages() -> None:
    """Kernels of aarch64 can have pages of 16 or 64 KiB."""
    program = (
        "import os\n"
        "os.sysconf = lambda name: 65536\n"
        "try:\n"
        "    import permaheap\n"
        "except ImportError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [_supported.message("a kernel with pages of 64 KiB")]


def test_missing_headers_are_named(tmp_path: Path) -> None:
    problem = _supported.missing_headers(str(tmp_path))
    assert problem is not None
    assert str(tmp_path) in problem
    assert _supported.SENTENCE in problem
    assert _supported.missing_headers(sysconfig.get_path("include")) is None


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "meson.build").exists(), reason="needs the sources")
def test_build_is_refused_with_the_sentence(tmp_path: Path) -> None:
    """``meson.build`` asks the same file, and its answer ends the configuration."""
    meson = shutil.which("meson", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if meson is None:
        pytest.skip("needs meson")
    sources = tmp_path / "sources"
    shutil.copytree(
        ROOT,
        sources,
        ignore=lambda folder, names: (
            [name for name in names if name not in ("src", "python", "include", "meson.build")]
            if Path(folder) == ROOT
            else [name for name in names if name == "__pycache__"]
        ),
    )
    supported = sources / "python" / "permaheap" / "_supported.py"
    supported.write_text(supported.read_text().replace("LAST = (3, 15)", "LAST = (3, 2)"))
    native = tmp_path / "native.ini"
    native.write_text(f"[binaries]\npython = '{sys.executable}'\n")
    done = subprocess.run(
        [meson, "setup", f"--native-file={native}", str(tmp_path / "build"), str(sources)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    version = "{}.{}".format(*sys.version_info[:2])
    assert _supported.message(f"CPython {version}") in done.stdout + done.stderr
