"""The example server and its demo, with a part of Unicode and few requests."""

import importlib.util
import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from servers import session_members

pytestmark = pytest.mark.no_sanitizer("programs around the core")

pytest.importorskip("gunicorn")
pytest.importorskip("rich")

EXAMPLE = Path(__file__).parents[2] / "examples" / "unicode_server"
SMALL = ["--workers=2", "--chars=20", "--last=4FFF"]


def load_module(name: str, as_name: str) -> ModuleType:
    """Import a file of the example again, under another name."""
    spec = importlib.util.spec_from_file_location(as_name, EXAMPLE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[as_name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    """The demo runner, as a module."""
    return load_module("demo", "demo_run")


@pytest.fixture(scope="module")
def apps() -> dict[str, ModuleType]:
    """The application with ordinary and with frozen data."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNICODE_LAST", "FFFF")
        loaded = {}
        for store in ("plain", "permaheap"):
            patch.setenv("UNICODE_STORE", store)
            loaded[store] = load_module("app", f"demo_app_{store}")
        return loaded


def request(app: ModuleType, target: str, method: str = "GET") -> tuple[str, bytes]:
    """Call the WSGI application and return the status line and the body."""
    path, _, query = target.partition("?")
    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": query}
    statuses = []
    body = b"".join(app.application(environ, lambda status, headers: statuses.append(status)))
    return statuses[0], body


def start_demo(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start demo.py with its output in a pipe."""
    return subprocess.Popen(
        [sys.executable, str(EXAMPLE / "demo.py"), *SMALL, *arguments],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def masters(output: str) -> list[int]:
    """Return the process ids of the gunicorn masters that the demo announced."""
    return [int(pid) for pid in re.findall(r"gunicorn started as process (\d+)", output)]


@pytest.mark.parametrize(
    ("target", "status", "part"),
    [
        ("/char/2603", "200 OK", {"name": "SNOWMAN", "category": "So"}),
        ("/char/41", "200 OK", {"case": {"upper": "A", "lower": "a", "title": "A"}}),
        (
            "/char/BD",
            "200 OK",
            {"numeric": 0.5, "decomposition": ["<fraction>", "0031", "2044", "0032"]},
        ),
        ("/char/D800", "404 Not Found", {"error": "no character 'D800'"}),
        ("/char/snowman", "404 Not Found", {"error": "no character 'snowman'"}),
        ("/search?q=", "200 OK", {"found": 0, "results": []}),
        ("/nothing", "404 Not Found", {"error": "nothing at GET /nothing"}),
    ],
)
def test_responses(apps, target, status, part):
    got_status, body = request(apps["permaheap"], target)
    assert got_status == status
    assert part.items() <= json.loads(body).items()
    assert request(apps["plain"], target) == (got_status, body)


def test_search_finds_parts_of_words_and_filters(apps):
    found = json.loads(request(apps["permaheap"], "/search?q=snow+man")[1])
    assert [record["name"] for record in found["results"]][:1] == ["SNOWMAN"]
    assert found["found"] == len(found["results"]) == 3
    letters = json.loads(request(apps["permaheap"], "/search?q=letter&category=Lu")[1])
    assert letters["found"] > len(letters["results"])
    assert {record["category"] for record in letters["results"]} == {"Lu"}


def test_frozen_data_is_permanent(apps):
    import permaheap

    assert permaheap.is_frozen(apps["permaheap"].DATA)
    assert not permaheap.is_frozen(apps["plain"].DATA)


def test_the_load_reads_nearly_all_records(apps, demo):
    app = apps["plain"]
    seen = set()
    for query in demo.SEARCHES:
        terms = app.parse_qs(query).get("q", [""])[0].upper().split()
        seen |= {record["code"] for record in app.matching(terms, {})}
    assert len(seen) > 0.99 * len(app.CHARACTERS)


def outcome(demo: ModuleType, dirty: int, pss: int, body: bytes = b"{}") -> object:
    """Return an invented measurement of a server with one worker."""
    answers = [
        demo.Answer("/char/41", 200, body, 0.001, 7),
        demo.Answer("/search?q=a", 200, b"", 1, 7),
    ]
    memory = demo.Memory(dirty, pss)
    master = demo.Process(memory, memory)
    return demo.Outcome({}, 1.0, master, [demo.Process(memory, memory, answers, 0.1)])


@pytest.mark.parametrize(
    ("dirty", "pss", "body", "good", "words"),
    [
        (12, 100, b"{}", True, "All 2 responses are identical"),
        (12, 100, b"[]", False, "Responses differ: /char/41"),
        (60, 100, b"{}", False, "saves too little"),
        (12, 900, b"{}", False, "saves too little"),
    ],
)
def test_verdict(demo, dirty, pss, body, good, words):
    outcomes = {
        "none": outcome(demo, 10_000_000, 50),
        "plain": outcome(demo, 100_000_000, 800),
        "permaheap": outcome(demo, dirty * 1_000_000, pss, body),
    }
    assert demo.verdict(outcomes)[0] is good
    assert words in demo.verdict(outcomes)[1]
    rows = demo.all_rows(outcomes)
    assert rows["permaheap"]["worker 1"][2] == dirty - 10
    console = demo.Console(file=io.StringIO(), width=120)
    console.print(demo.table(rows, terminal=False))
    assert "permaheap / plain" in console.file.getvalue()


@pytest.mark.slow
def test_demo_from_start_to_end(tmp_path):
    numbers = tmp_path / "numbers.json"
    process = start_demo(f"--json={numbers}")
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "responses are identical" in output
    assert output.isascii()
    result = json.loads(numbers.read_text())
    costs = {store: rows["worker 1"]["data"] for store, rows in result["servers"].items()}
    assert costs["permaheap"] < costs["plain"] / 2
    assert len(masters(output)) == 3
    assert not any(map(session_members, masters(output)))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["no data: gunicorn started", "no data: ready"])
def test_interrupted_demo_leaves_no_process(number, moment):
    process = start_demo("--chars=100000")
    output = ""
    while moment not in output:
        line = process.stdout.readline()
        assert line, output
        output += line
    process.send_signal(number)
    output += process.communicate()[0]
    assert process.returncode == 130, output
    assert masters(output)
    assert not any(map(session_members, masters(output)))


def test_server_that_fails_is_reported(tmp_path):
    (tmp_path / "permaheap.py").write_text("raise ImportError('not today')\n")
    process = start_demo(PYTHONPATH=str(tmp_path))
    output = process.communicate()[0]
    assert process.returncode == 2, output
    assert "not today" in output
    assert not any(map(session_members, masters(output)))
