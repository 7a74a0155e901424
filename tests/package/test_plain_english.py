"""Comments and docstrings in plain English, as far as a program can check it."""

from __future__ import annotations

from pathlib import Path

import pytest

import plain_english

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "include", "python", "tests", "tools", "benchmarks", "examples")
SUFFIXES = (".c", ".h", ".py", ".pyi")


@pytest.mark.parametrize("folder", FOLDERS)
def test_comments_and_docstrings(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {fault}"
        for path in sorted((ROOT / folder).rglob("*"))
        if path.suffix in SUFFIXES and path != Path(plain_english.__file__)
        for text in plain_english.prose(path)
        for fault in plain_english.faults(text)
    ]
    assert found == [], "\n".join(found)


@pytest.mark.parametrize(
    "sentence",
    [
        "Whoever comes first takes it.",
        "What has been sent before it was killed is there.",
        "Who has none of these two may ask for another one of them.",
        "It is made anew.",
        "one " * 31,
    ],
)
def test_faults_are_found(sentence: str, tmp_path: Path) -> None:
    for name, text in (
        ("a.c", f"/* {sentence} */"),
        ("a.py", f'"""{sentence}"""\n'),
        ("b.py", f"# {sentence}"),
    ):
        path = tmp_path / name
        path.write_text(text)
        assert [plain_english.faults(part) for part in plain_english.prose(path)] != [[]], name


def test_drawings_and_code_are_no_sentences(tmp_path: Path) -> None:
    path = tmp_path / "a.c"
    path.write_text('char *s = "/* Whoever */";\n/* a  -->  b    whoever\n\n   Plain. */')
    assert [text.strip() for text in plain_english.prose(path) if text.strip()] == ["Plain."]
