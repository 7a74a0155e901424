"""Rules of the sources that a compiler does not check."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import permaheap

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
SOURCES = sorted(SRC.rglob("*.[ch]"))
PURE = {  # of C itself: no system call behind these
    *("assert.h", "errno.h", "limits.h", "stdarg.h", "stdatomic.h", "stdbool.h"),
    *("stddef.h", "stdint.h", "stdio.h", "stdlib.h", "string.h"),
}


# The order of the folders and files is written once, in the meson.build of each folder.
def listed_folders(build: Path) -> list[str]:
    """Return the folders that a meson.build goes through, in its order."""
    loop = re.search(r"foreach folder : \[(.*?)\]", build.read_text(), flags=re.DOTALL)
    return re.findall(r"'(\w+)'", loop[1]) if loop else []


def listed_files(build: Path) -> list[str]:
    """Return the files that a meson.build lists, in its order."""
    return re.findall(r"'(\w+\.[ch])'", build.read_text())


FOLDERS = [f"core/{name}" for name in listed_folders(SRC / "core/meson.build")]
FOLDERS += listed_folders(SRC / "meson.build")
LISTED = {name: listed_files(SRC / name / "meson.build") for name in FOLDERS}
UNORDERED = {"layout", "wire", "freeze", "channel", "interp"}  # within themselves


def folder(path: Path) -> str:
    return path.parent.relative_to(SRC).as_posix()


def place(path: Path) -> tuple[int, int]:
    """Return where a file stands: its folder, and its place there; a header's is its .c file's."""
    name = folder(path)
    stems = [Path(listed).stem for listed in LISTED[name]]
    return FOLDERS.index(name), 0 if name in UNORDERED else stems.index(path.stem)


def code(path: Path) -> str:
    """Return the text without its comments, every line still on its number."""
    blank = lambda match: re.sub(r"[^\n]", " ", match[0])  # noqa: E731
    return re.sub(r"/\*.*?\*/|//[^\n]*", blank, path.read_text(), flags=re.DOTALL)


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', code(path), flags=re.MULTILINE)


def lines_with(path: Path, pattern: str) -> list[str]:
    found = enumerate(code(path).splitlines(), start=1)
    return [f"{path.name}:{number}: {line}" for number, line in found if re.search(pattern, line)]


@pytest.fixture(params=SOURCES, ids=lambda path: path.relative_to(SRC).as_posix())
def source(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_there_are_sources() -> None:
    assert len(SOURCES) > 10


def test_opening_comment_explains_the_file(source: Path) -> None:
    opening = source.read_text().partition("*/")[0]
    assert opening.startswith(f"/* {source.name} -- ")


def test_only_layout_knows_python_versions(source: Path) -> None:
    if folder(source) != "layout":
        assert lines_with(source, r"PY_VERSION_HEX|PY_M(AJOR|INOR|ICRO)_VERSION|Py_DEBUG") == []


def test_only_layout_includes_internal_headers(source: Path) -> None:
    if folder(source) != "layout":
        assert [name for name in includes(source) if name.startswith("internal/")] == []
        assert lines_with(source, r"Py_BUILD_CORE") == []


def test_only_os_files_include_system_headers(source: Path) -> None:
    if folder(source) == "core/os":
        return
    own = {path.relative_to(SRC).as_posix() for path in SOURCES}
    own |= {"permaheap.h", "Python.h", "datetime.h"}
    foreign = set(includes(source)) - PURE - own
    assert {name for name in foreign if not name.startswith("internal/")} == set()


def test_a_file_uses_only_what_stands_before_it(source: Path) -> None:
    headers = {name for name in includes(source) if (SRC / name).exists()}
    assert [name for name in sorted(headers) if place(SRC / name) > place(source)] == []


def test_core_has_no_python(source: Path) -> None:
    if folder(source).startswith("core/"):
        assert "Python.h" not in includes(source)
        assert lines_with(source, r"\bPy_?[A-Z]\w+") == []


def test_functions_fit_a_screen(source: Path) -> None:
    """At most 80 lines of body; in this style a body's braces are alone in the first column."""
    long, start = [], None
    for number, line in enumerate(code(source).splitlines(), start=1):
        if line.rstrip() == "{":
            start = number
        elif line.startswith("}") and start is not None:
            if number - start > 80:
                long.append(f"{source.name}:{start}: {number - start} lines")
            start = None
    assert long == []


def test_every_source_is_listed() -> None:
    """Also headers without a .c file, which would have no place otherwise."""
    for name, listed in LISTED.items():
        files = {path.name for path in (SRC / name).glob("*.[ch]")}
        placed = {file for file in files if f"{file[:-2]}.c" not in files}
        expected = {file for file in files if file.endswith(".c")}
        expected |= placed & set(listed) if name in UNORDERED else placed
        assert sorted(listed) == sorted(expected)
    assert {folder(path) for path in SOURCES} <= set(FOLDERS)


def test_every_module_is_installed() -> None:
    installed = Path(permaheap.__file__).parent
    source = ROOT / "python" / "permaheap"
    for path in source.rglob("*.*"):
        if path.parent.name != "__pycache__":
            assert (installed / path.relative_to(source)).read_bytes() == path.read_bytes()
    header = installed / "include" / "permaheap.h"
    assert header.read_bytes() == (ROOT / "include" / "permaheap.h").read_bytes()


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    meson = re.search(r"version: '([^']+)'", (ROOT / "meson.build").read_text())
    assert meson is not None
    assert permaheap.__version__ == project["version"] == meson[1]
    assert f"## [{project['version']}]" in (ROOT / "CHANGELOG.md").read_text()
