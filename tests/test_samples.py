"""The sample applications and what measures them: little data, few requests, every mode."""

import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

import permaheap.cow
from permaheap.cow._model import Cause, Page, Profile, Worker

pytest.importorskip("rich", reason="needs rich, of the extra samples")

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT))

from examples.common import in_mode, load, processes, report, sample  # noqa: E402

NEEDS = {
    "unicode_server": ["gunicorn"],
    "django_site": ["django", "gunicorn"],
    "celery_pool": ["celery", "redis"],
}
SMALL = ["--small", "--workers=2"]


def start(name, *arguments, **variables):
    """Start run.py of a sample; skip the test where something that it needs is not installed."""
    missing = [each for each in NEEDS[name] if importlib.util.find_spec(each) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}, of the extra samples")
    return subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / name / "run.py"), *SMALL, *arguments],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def marked(mark):
    """Return the processes that have inherited a mark in their environment."""
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark.encode() in environ.read_bytes():
                found.append(environ.parent.name)
        except OSError:
            continue  # ended meanwhile
    return found


@pytest.fixture
def mark():
    """Give a mark for the environment of processes, none of which may be left in the end."""
    text = uuid.uuid4().hex
    yield text
    assert not marked(text)


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_every_mode_answers_alike_and_shares_more(name, mark, tmp_path):
    numbers = tmp_path / "numbers.json"
    process = start(name, "--total=60", f"--json={numbers}", MARK=mark)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    assert "60 responses are identical in all modes" in output
    (results,) = json.loads(numbers.read_text()).values()
    dirty = {mode: row["collected"] for mode, row in results[name]["modes"].items()}
    assert list(dirty) == list(sample.MODES)
    assert dirty["prefork"] < 0.7 * dirty["plain"]
    assert dirty["frozen"] < 0.7 * dirty["plain"]
    assert all(row["rate"] > 0 for row in results[name]["modes"].values())


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_interrupted_sample_leaves_no_process(name, mark):
    process = start(name, "--total=1000000", MARK=mark)
    output = ""
    while "plain: ready" not in output:
        line = process.stdout.readline()
        assert line, output
        output += line
    assert len(marked(mark)) >= 4  # of the sample: its parent and two workers
    process.send_signal(signal.SIGINT)
    output += process.communicate()[0]
    assert process.returncode == 130, output


@pytest.mark.slow
@pytest.mark.parametrize("name", NEEDS)
def test_sample_that_fails_is_reported(name, mark, tmp_path):
    (tmp_path / "permaheap.py").write_text("raise ImportError('not today')\n")
    process = start(name, MARK=mark, PYTHONPATH=str(tmp_path))
    output = process.communicate()[0]
    assert process.returncode == 2, output
    assert "not today" in output


# ---- The modes -----------------------------------------------------------------------------------


MODE = """
import gc, sys
sys.path.insert(0, sys.argv[1])
from examples.common import in_mode
in_mode.prepare(sys.argv[2])
import permaheap
from permaheap._prefork import prefork
assert prefork is permaheap.prefork
data, mine = permaheap.freeze([1, 2, 3]), ["mine"]
count, aside = sys.getrefcount(mine), gc.get_freeze_count()
prefork()
print(type(data) is tuple, sys.getrefcount(mine) != count, gc.get_freeze_count() > aside)
"""


@pytest.mark.parametrize(
    ("mode", "frozen", "immortal"),
    [
        ("plain", False, False),
        ("gc.freeze", False, False),
        ("prefork", False, True),
        ("frozen", True, True),
        ("data", True, False),
    ],
)
def test_mode(run, mode, frozen, immortal):
    done = run(MODE, ROOT, mode)
    assert done.stderr == ""
    put_aside = immortal or mode == "gc.freeze"
    assert done.stdout.split() == [str(frozen), str(immortal), str(put_aside)]


def test_mode_that_does_not_exist():
    with pytest.raises(SystemExit, match=r"no mode 'other'; there are plain, gc.freeze"):
        in_mode.prepare("other")


# ---- The load ------------------------------------------------------------------------------------


@pytest.fixture
def forever():
    """Give a function that waits for something that does not happen before the test is over."""
    before, over = threading.enumerate(), threading.Event()
    yield lambda *_: over.wait()
    over.set()
    for thread in threading.enumerate():
        if thread not in before:
            thread.join()


def test_load_keeps_what_each_client_got(forever):
    clients = [lambda request: request.encode(), lambda request: b"other"]
    found = load.run(clients, [["a", "b"], ["a"]], forever)
    assert [[answer.request for answer in each] for each in found.answers] == [["a", "b"], ["a"]]
    (first, _), (other,) = found.answers
    assert first.digest != other.digest
    assert found.rate == 3 / found.seconds


def test_load_fails_with_its_client(forever):
    def refuse(request):
        raise OSError("refused")

    with pytest.raises(OSError, match="refused"):
        load.run([refuse], [["a"]], forever)


def test_load_fails_when_the_program_has_ended(forever):
    with pytest.raises(EOFError, match="the program has ended"):
        load.run([forever], [["a"]], lambda: None)


def test_latency():
    answers = [[load.Answer("", b"", seconds) for seconds in range(100, 0, -1)]]
    found = load.Load(1.0, answers)
    assert (found.latency(0.5), found.latency(0.99), found.latency(1)) == (50, 99, 100)
    assert load.Load(1.0, [[load.Answer("", b"", 7)]]).latency(0.01) == 7


# ---- The report ----------------------------------------------------------------------------------


def outcome(dirty, digest=b"x", causes=()):
    """Return an invented outcome with two workers."""
    each = {moment: processes.Memory(dirty, 2 * dirty) for moment in sample.MOMENTS}
    workers = {moment: [memory, memory] for moment, memory in each.items()}
    answers = load.Load(0.5, [[load.Answer("/", digest, 0.001)]] * 2)
    return sample.Outcome(each, workers, answers, 0.25, dict(causes))


def result(**outcomes):
    """Return the result of invented outcomes."""
    invented = sample.Sample("s", "Sample", None, "", None, 2, {}, ["rich"])
    return report.result(invented, outcomes)


def test_numbers():
    row = report.numbers(outcome(3_000_000))
    assert row["load"] == 3.0
    assert row["pss"] == 3 * 2 * 3.0
    assert (row["p50"], row["rate"], row["cpu"]) == (1.0, 4.0, 125.0)


def test_difference():
    same = {"plain": outcome(1), "frozen": outcome(2)}
    assert sample.difference(same) is None
    other = sample.difference(same | {"frozen": outcome(2, b"y")})
    assert other == "/: not the same in the modes plain and frozen"
    assert report.verdict(result(**same), other) == (False, f"Responses differ: {other}")


def test_verdict():
    found = result(plain=outcome(10_000_000), prefork=outcome(2_000_000), frozen=outcome(1))
    assert report.verdict(found, None)[0]
    found = result(plain=outcome(10_000_000), prefork=outcome(20_000_000), frozen=outcome(1))
    good, text = report.verdict(found, None)
    assert not good
    assert "prefork saved nothing" in text


def test_tables(tmp_path):
    found = result(
        plain=outcome(10_000_000, causes={"reference count": 4000, "stack": 1, "other": 1}),
        frozen=outcome(1_000_000, causes={"stack": 2000}),
    )
    assert list(report.ranking(found)) == ["reference count", "stack"]
    console = report.Console(file=io.StringIO(), width=120)
    console.print(report.table(found, terminal=False))
    assert "0.10x" in console.file.getvalue()
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nafter\n")
    for _ in range(2):  # what was written is replaced the next time
        report.update_page(page, {"3.13.0": {"s": found}, "3.14.8": {"s": found}})
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert text.count("### Sample") == 1
    assert text.count("| frozen | 1.0 | 1.0 | 1.0 | 0.10x |") == 2
    assert "| reference count | 8.2 | 0.0 |" in text


def test_the_page_is_what_was_kept():
    kept = json.loads(report.RESULTS.read_text())
    assert report.markdown(kept) in report.PAGE.read_text()


def test_the_page_wants_everything(capsys):
    for option in ("--small", "--mode=plain"):
        with pytest.raises(SystemExit):
            report.parse(["--docs", option], [])
        assert "--docs needs all modes and all data" in capsys.readouterr().err


def test_profilers_ranking(monkeypatch):
    def worker(pid, *causes):
        return Worker(pid, "", (), tuple(Page(0, cause) for cause in causes))

    def snapshot(pid):
        workers = (worker(2, Cause.STACK), worker(3, Cause.STACK, Cause.MALLOC, Cause.STACK))
        return Profile("diff", pid, "3.13.0", 4096, workers)

    monkeypatch.setattr(permaheap.cow, "snapshot", snapshot, raising=False)
    assert list(sample.causes(1).items()) == [("stack", 3), ("C library's malloc", 1)]
