"""Rules of the sources that a compiler does not check."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import permaheap
from source_order import FOLDERS, SRC, listed_files, place

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(SRC.rglob("*.[ch]"))
PURE = {  # of C itself: no system call behind these
    *("assert.h", "errno.h", "limits.h", "stdarg.h", "stdatomic.h", "stdbool.h"),
    *("stddef.h", "stdint.h", "stdio.h", "stdlib.h", "string.h"),
}


def folder(path: Path) -> str:
    return path.parent.relative_to(SRC).as_posix()


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


# Files of layout/ that a new version of CPython concerns. The first compare versions, and name
# what differs; the others ask for what differs by its name.
VERSION_FILES = {"head.h", "version.h"}
FEATURE_FILES = {
    *("datetime.c", "dict.c", "fields.c", "frozen.h", "hash.c", "immortal.c", "init.c"),
    *("sizes.c", "str.c", "tuple.c", "values.c", "warm_code.c"),
}


def layout_files_with(pattern: str) -> set[str]:
    return {path.name for path in (SRC / "layout").glob("*.[ch]") if lines_with(path, pattern)}


def test_few_files_compare_versions() -> None:
    comparison = r"PY_VERSION_HEX|PY_M(AJOR|INOR|ICRO)_VERSION|Py_DEBUG|\bPH_SINCE\b"
    assert layout_files_with(comparison) == VERSION_FILES


def test_known_files_ask_for_what_differs() -> None:
    version = code(SRC / "layout/version.h")
    features = re.findall(r"#define (PH_\w+) .*\bPH_SINCE\(", version)
    everything = "".join(code(path) for path in SOURCES)
    assert [name for name in features if len(re.findall(rf"\b{name}\b", everything)) < 2] == []
    names = rf"\b({'|'.join(features)})\b"
    assert layout_files_with(names) - {"version.h"} == FEATURE_FILES


def test_contributing_lists_the_version_files() -> None:
    contributing = ROOT / "CONTRIBUTING.md"
    if not contributing.exists():
        pytest.skip("there is no CONTRIBUTING.md yet")
    section = re.search(
        r"^#+ Adding a version[^\n]*\n(.*?)(?=^#+ |\Z)", contributing.read_text(), re.M | re.S
    )
    assert section is not None
    listed = set(re.findall(r"`(?:src/)?layout/(\w+\.[ch])`", section[1]))
    assert listed == VERSION_FILES | FEATURE_FILES


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
    here = place(source.relative_to(SRC).as_posix())
    assert [name for name in sorted(headers) if place(name) > here] == []


def test_core_has_no_python(source: Path) -> None:
    if folder(source).startswith("core/"):
        assert "Python.h" not in includes(source)
        assert lines_with(source, r"\bPy_?[A-Z]\w+") == []


def test_functions_fit_a_screen(source: Path) -> None:
    """At most 60 lines of body; in this style a body's braces are alone in the first column."""
    long, start = [], None
    for number, line in enumerate(code(source).splitlines(), start=1):
        if line.rstrip() == "{":
            start = number
        elif line.startswith("}") and start is not None:
            if number - start > 60:
                long.append(f"{source.name}:{start}: {number - start} lines")
            start = None
    assert long == []


def test_every_source_has_a_place() -> None:
    """A header without a .c file of its name is listed, too."""
    for name in FOLDERS:
        here = {path.name for path in (SRC / name).glob("*.[ch]")}
        listed = listed_files(name)
        assert len(set(listed)) == len(listed)
        headers = {f"{file[:-2]}.h" for file in listed if file.endswith(".c")}
        assert here - headers <= set(listed) <= here
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
