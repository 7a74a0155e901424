"""The examples of README.md and docs/, run as a reader would run them.

Each ```python block is a whole program and gets a process of its own: one with prompts is checked
by doctest, any other must end with exit status 0. The words behind "python" in the fence say more:

    file=NAME        a file, which lies in the directory where the other blocks of its section run
    needs=NAME,...   modules, or a version such as 3.14 (that or later), without which it is skipped
"""

import contextlib
import http.client
import importlib.util
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import permaheap
import plain_english
import servers

pytestmark = pytest.mark.no_sanitizer("programs around the core")

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OTHERS = [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("examples/*/README.md")]
GENERATED = {"benchmarks.md"}  # written by `make bench`, so that it need not be there yet
FENCE = re.compile(r"^```python(?P<words>[^\n]*)\n(?P<code>.*?)^```$", re.M | re.S)
HEADING = re.compile(r"^#{1,6} +(.+)$", re.M)
# Sections for servers, whose files no block runs: test_gunicorn and test_tutorial below run the
# first and the last, and test_reload.py the second.
SERVED = {
    "recipes.md: gunicorn",
    "recipes.md: Reloading data (gunicorn)",
    "recipes.md: Celery",
    "tutorial.md: The service",
}
LINK = re.compile(r"\]\(([^)\s]+)\)")


@dataclass
class Block:
    """One fenced block of Python."""

    place: str
    section: str
    code: str
    file: str | None = None
    needs: list[str] = field(default_factory=list)

    def missing(self):
        """Return what this block needs and what is not here."""
        return [name for name in self.needs if not _is_here(name)]

    def program(self, directory):
        """Write the block to a directory; return the arguments for Python that run it."""
        if ">>> " in self.code:
            (directory / "prompts.txt").write_text(self.code)
            return ["-m", "doctest", "-o", "ELLIPSIS", "prompts.txt"]
        (directory / "main.py").write_text(self.code)
        return ["main.py"]


def _is_here(name):
    if re.fullmatch(r"\d+\.\d+", name):
        return sys.version_info >= tuple(map(int, name.split(".")))
    return importlib.util.find_spec(name) is not None


def _without_code(text):
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def _parse(page):
    text = page.read_text()
    for match in FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        section = HEADING.findall(_without_code(text[: match.start()]))[-1]
        words = dict(word.split("=", 1) for word in match["words"].split())
        yield Block(
            place=f"{page.relative_to(ROOT)}:{line}",
            section=f"{page.name}: {section}",
            code=match["code"],
            file=words.pop("file", None),
            needs=words.pop("needs", "").split(",") if "needs" in words else [],
        )
        assert not words, f"unknown words behind the fence: {words}"


BLOCKS = [block for page in PAGES for block in _parse(page)]
FILES = [block for block in BLOCKS if block.file]
PROGRAMS = [block for block in BLOCKS if not block.file]


def _write_files(section, directory):
    for block in FILES:
        if block.section == section:
            (directory / block.file).write_text(block.code)


def _environment():
    return {**os.environ, "PYTHONPATH": str(Path(permaheap.__file__).parent.parent)}


@pytest.mark.parametrize("block", PROGRAMS, ids=lambda block: block.place)
def test_program(block, tmp_path):
    if missing := block.missing():
        pytest.skip("needs " + ", ".join(missing))
    _write_files(block.section, tmp_path)
    done = subprocess.run(
        [sys.executable, *block.program(tmp_path)],
        cwd=tmp_path,
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("block", FILES, ids=lambda block: block.place)
def test_file(block):
    compile(block.code, block.file, "exec")
    used = {program.section for program in PROGRAMS} | SERVED
    assert block.section in used, "no block of its section runs it"


def test_there_are_examples():
    assert len(PROGRAMS) > 20
    assert {"README.md", "freeze.md", "recipes.md"} <= {page.name for page in PAGES}


# ---- The recipe for gunicorn, with a real one ----------------------------------------------------


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket, so that no port must be free."""

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(self.host)


@contextlib.contextmanager
def _gunicorn(directory):
    path = str(directory / "s")
    command = [sys.executable, "-m", "gunicorn", "app", "--bind", f"unix:{path}"]
    server = subprocess.Popen(
        command,
        cwd=directory,
        env={**_environment(), "HOME": str(directory)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        log = []
        for line in server.stderr:  # ends when it ends: no need for a time limit of our own
            log.append(line)
            if "Listening at" in line:
                yield path
                break
        else:
            pytest.fail("gunicorn did not start:\n" + "".join(log))
    finally:
        server.terminate()
        server.communicate(timeout=60)


@pytest.mark.skipif(not _is_here("gunicorn"), reason="needs gunicorn")
def test_gunicorn(tmp_path):
    if len(os.fsencode(tmp_path)) > 90:  # a Unix socket's path has 108 bytes at most
        pytest.skip("the temporary directory has too long a name")
    _write_files("recipes.md: gunicorn", tmp_path)
    with _gunicorn(tmp_path) as path:
        connection = UnixConnection(path)
        connection.request("GET", "/7")
        response = connection.getresponse()
        assert (response.status, response.read()) == (200, b'{"square": 49}')
        connection.close()


# ---- The tutorial, with the commands of the page -------------------------------------------------


SNOWMEN = "☃ SNOWMAN\n⛄ SNOWMAN WITHOUT SNOW\n⛇ BLACK SNOWMAN\n"


def _changed(code, page):
    """Return a program after the change that the page shows: hunks of lines with " ", - or +."""
    for hunk in re.search(r"^```diff\n@@\n(.*?)^```$", page, re.M | re.S)[1].split("@@\n"):
        lines = [line or " " for line in hunk.splitlines()]
        old, new = ("\n".join(x[1:] for x in lines if x[0] in kept) for kept in (" -", " +"))
        assert code.count(old) == 1, old
        code = code.replace(old, new)
    return code


def _memory(directory, command):
    """Run a command of the page, ask the service; return a worker's memory, all PSS, the answer."""
    words = command.split()
    words[2:2] = ["--json", "profile.json"]  # after "permaheap cow"
    with servers.started(
        [*words, "--bind", "127.0.0.1:0"],
        directory,
        end=signal.SIGINT,
        PATH=f"{servers.SCRIPTS}:{os.environ['PATH']}",
    ) as server:
        address = server.wait_for(r"Listening at: http://(\S+)")[1]
        client = (directory / "ask.py").read_text().replace("127.0.0.1:8000", address)
        answer = subprocess.run(
            [sys.executable, "-c", client], capture_output=True, text=True, timeout=120, check=True
        ).stdout
    profile = json.loads((directory / "profile.json").read_text())
    samples = [worker["samples"][-1] for worker in profile["workers"]]
    family = profile["parent_samples"][-1]["pss"] + sum(sample["pss"] for sample in samples)
    return max(sample["private_dirty"] for sample in samples), family, answer


@pytest.mark.slow
@pytest.mark.skipif(not _is_here("gunicorn"), reason="needs gunicorn")
def test_tutorial(tmp_path):
    page = (ROOT / "docs" / "tutorial.md").read_text()
    _write_files("tutorial.md: The service", tmp_path)
    plain, hook = re.findall(r"^\$ (permaheap cow -- gunicorn .*)$", page, re.M)
    before, in_place = _memory(tmp_path, plain), _memory(tmp_path, hook)
    app = tmp_path / "app.py"
    app.write_text(_changed(app.read_text(), page))
    frozen = _memory(tmp_path, hook)
    assert max(in_place[0], frozen[0]) < before[0] / 4
    assert before[1] > in_place[1] > frozen[1]
    assert before[2] == in_place[2] == frozen[2] == SNOWMEN
    assert SNOWMEN in page


# ---- Completeness --------------------------------------------------------------------------------


def test_reference_is_complete():
    pages = (ROOT / "docs" / "api").glob("*.md")
    documented = {
        name for page in pages for name in HEADING.findall(_without_code(page.read_text()))
    }
    public = set(permaheap.__all__) - {"__version__"}
    assert public <= documented, sorted(public - documented)
    methods = {f"Handle.{name}" for name in vars(permaheap.Handle) if not name.startswith("_")}
    assert methods <= documented, sorted(methods - documented)


def _anchors(page):
    """Return the anchors that GitHub gives the headings of a page."""
    anchors = set()
    for heading in HEADING.findall(_without_code(page.read_text())):
        plain = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        again = (f"{plain}-{n}" for n in itertools.count(1))
        anchors.add(plain if plain not in anchors else next(a for a in again if a not in anchors))
    return anchors


def _place(page):
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=_place)
def test_links(page):
    for link in LINK.findall(page.read_text()):
        if link.startswith(("https://", "http://")):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if target.name in GENERATED:
            continue
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in _anchors(target), f"{page.name}: {link}"


# ---- Names of files and of functions -------------------------------------------------------------

TOP = [path.name for at in (ROOT, SRC) for path in at.glob("[!.]*") if path.is_dir()]
PATH = re.compile(rf"(?<![\w./-])(?:{'|'.join(map(re.escape, TOP))})/[\w./-]*\w")
IN_FOLDER = re.compile(r"(\w+\.c)(?: and (\w+\.c))?, in (\w+)/")
NAME = re.compile(r"\b(?:ph|PH)_\w+")


def _named_paths(text):
    yield from PATH.findall(LINK.sub("", text))
    for *names, folder in IN_FOLDER.findall(text):
        yield from (f"{folder}/{name}" for name in names if name)


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=_place)
def test_named_files_exist(page):
    """A path is below the checkout, or, as in `layout/hash.c`, below src/."""
    missing = {
        name
        for name in _named_paths(page.read_text())
        if Path(name).name not in GENERATED
        and not any((at / name).exists() for at in (ROOT, SRC, page.parent))
    }
    assert missing == set()


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=_place)
def test_named_functions_exist(page):
    """`ph_put_*()` stands for all functions of that beginning."""
    sources = "\n".join(path.read_text() for path in SRC.rglob("*.[ch]"))
    named = set(NAME.findall(page.read_text()))
    assert {name for name in named if not re.search(rf"\b{name}", sources)} == set()


# ---- Plain English -------------------------------------------------------------------------------


def _prose(page):
    """Yield paragraphs and cells of tables, with code, links and emphasis taken out."""
    text = re.sub(r"`[^`]*`", "CODE", _without_code(page.read_text()))
    text = re.sub(r"<!--.*?-->|!?\[([^\]]*)\]\([^)]*\)", r"\1", text, flags=re.S).replace("*", "")
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:[-|#]|\d+\. ))", text):
        yield from paragraph.split(" | ")


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=_place)
def test_plain_english(page):
    if page.name in GENERATED:
        return
    found = [fault for text in _prose(page) for fault in plain_english.faults(text)]
    assert not found, "\n".join(found)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_commands_exist():
    command = re.compile(r"(?:`|^)make ([a-z-]+)", re.M)
    named = {name for page in [*PAGES, *OTHERS] for name in command.findall(page.read_text())}
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.M))
    assert named <= targets, named - targets
