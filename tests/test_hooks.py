"""The hooks, in the real programs: what their workers copy of the data that the parent loaded."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import permaheap
from servers import PYTHON, ask, program, started

HOOKS = sorted(Path(permaheap.__file__).parent.joinpath("hooks").glob("[a-z]*.py"))


def needs(*modules):
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {', '.join(missing)}")


def assert_shared(answers, parent=None):
    """Workers that were asked first copied little of the data that another process loaded."""
    seen = set()
    for answer in answers:
        assert answer["data"] > 10_000, answer
        assert answer["loaded_by"] != answer["pid"], answer
        assert parent in (None, answer["loaded_by"]), answer
        assert answer["copied"] < 0.3 * answer["data"], answer
        seen.add(answer["pid"])
    assert seen
    return seen


def assert_copied(answer):
    """What happens without a hook: if not, these tests would show nothing."""
    assert answer["loaded_by"] != answer["pid"], answer
    assert answer["copied"] > 0.6 * answer["data"], answer


# ---- gunicorn ------------------------------------------------------------------------------------

CONFIG = ["--config", "python:permaheap.hooks.gunicorn"]
BOOTED = r"Booting worker with pid: (\d+)"


def gunicorn(directory, *arguments, prefix=(PYTHON, "-m", "gunicorn"), app="prefork_app"):
    return started(
        [*prefix, "--bind", "127.0.0.1:0", "--workers", "2"]
        + [*arguments, app],
        directory,
    )


def ready(server, workers=2):
    """Wait for gunicorn; return its port and the process ids of its workers."""
    port = int(server.wait_for(r"Listening at: http://127.0.0.1:(\d+)")[1])
    return port, {int(server.wait_for(BOOTED)[1]) for _ in range(workers)}


@needs("gunicorn")
def test_gunicorn_without_the_hook(tmp_path):
    with gunicorn(tmp_path, "--preload") as server:
        port, _ = ready(server)
        assert_copied(next(ask(port)))


@needs("gunicorn")
def test_gunicorn(tmp_path):
    with gunicorn(tmp_path, *CONFIG) as server:
        port, workers = ready(server)
        assert assert_shared(ask(port), server.process.pid) <= workers
        for worker in workers:  # later ones are no worse off
            os.kill(worker, signal.SIGKILL)
        replaced = {int(server.wait_for(BOOTED)[1]) for _ in workers}
        assert assert_shared(ask(port), server.process.pid) <= replaced
        server.process.send_signal(signal.SIGHUP)
        reloaded = {int(server.wait_for(BOOTED)[1]) for _ in workers}
        for worker in replaced:
            server.wait_for(r"Worker exiting \(pid: \d+\)")
        assert assert_shared(ask(port), server.process.pid) <= reloaded
    assert "Traceback" not in server.text


@needs("gunicorn")
def test_gunicorn_after_sigusr2(tmp_path):
    with gunicorn(tmp_path, *CONFIG) as server:
        port, _ = ready(server)
        server.process.send_signal(signal.SIGUSR2)
        _, workers = ready(server)
        master = int(Path(f"/proc/{min(workers)}/stat").read_text().rpartition(")")[2].split()[1])
        assert master != server.process.pid
        server.process.send_signal(signal.SIGWINCH)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait()
        assert assert_shared(ask(port), master) <= workers
        os.kill(master, signal.SIGTERM)
        server.wait_for("Shutting down: Master")
        server.wait_for("Shutting down: Master")


@needs("gunicorn")
@pytest.mark.parametrize(
    "text",
    [
        "from permaheap.hooks.gunicorn import *\n",
        """
import permaheap.hooks.gunicorn

preload_app = True


def pre_fork(server, worker):
    permaheap.hooks.gunicorn.pre_fork(server, worker)
    server.log.info("my own hook")
""",
    ],
    ids=["whole", "own"],
)
def test_gunicorn_with_a_configuration_of_ones_own(tmp_path, text):
    (tmp_path / "gunicorn.conf.py").write_text(text)
    with gunicorn(tmp_path) as server:
        port, _ = ready(server)
        assert_shared(ask(port), server.process.pid)
    assert server.text.count("my own hook") == 2 * ("my own hook" in text)


@needs("gunicorn")
def test_gunicorn_without_preload(tmp_path):
    (tmp_path / "gunicorn.conf.py").write_text(
        "from permaheap.hooks.gunicorn import *\npreload_app = False\n"
    )
    with gunicorn(tmp_path) as server:
        port, workers = ready(server)
        answer = next(ask(port))
        assert answer["loaded_by"] == answer["pid"]
    assert server.text.count("permaheap: preload_app is off") == 1


@needs("gunicorn", "uvicorn", "uvicorn_worker")
def test_gunicorn_with_the_workers_of_uvicorn(tmp_path):
    kind = ["--worker-class", "uvicorn_worker.UvicornWorker"]
    with gunicorn(tmp_path, *CONFIG, *kind, app="prefork_app:asgi") as server:
        port, workers = ready(server)
        assert assert_shared(ask(port), server.process.pid) <= workers


# ---- uWSGI ---------------------------------------------------------------------------------------

needs_uwsgi = pytest.mark.skipif(
    program("uwsgi") is None, reason="needs uwsgi, which is built from source for each Python"
)
IMPORT = "import = permaheap.hooks.uwsgi"
HOOK_POST_APP = "hook-post-app = call:PyRun_SimpleString import permaheap.hooks.uwsgi"
MODULE = "module = prefork_app:application"
FILE = f"wsgi-file = {Path(__file__).parent / 'prefork_app.py'}"


def uwsgi(directory, *lines):
    text = "\n".join(
        ["[uwsgi]", "master = true", "processes = 2", "http-socket = 127.0.0.1:0", *lines]
    )
    (directory / "uwsgi.ini").write_text(text + "\ndie-on-term = true\n")
    return started([program("uwsgi"), "--venv", sys.prefix, "--ini", "uwsgi.ini"], directory)


def uwsgi_ready(server):
    port = int(server.wait_for(r"bound to TCP address 127.0.0.1:(\d+)")[1])
    return port, {int(server.wait_for(r"spawned uWSGI worker \d \(pid: (\d+)")[1]) for _ in "12"}


@needs_uwsgi
@pytest.mark.parametrize(
    "lines",
    [
        [MODULE, IMPORT],
        [MODULE, IMPORT, "threads = 2"],
        [MODULE, IMPORT, "py-call-uwsgi-fork-hooks = true"],
        [MODULE, HOOK_POST_APP, "threads = 2"],
        [FILE, HOOK_POST_APP],
    ],
    ids=["import", "import-threads", "import-fork-hooks", "hook-threads", "hook-file"],
)
def test_uwsgi(tmp_path, lines):
    with uwsgi(tmp_path, *lines) as server:
        port, workers = uwsgi_ready(server)
        assert assert_shared(ask(port), server.process.pid) <= workers
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        replaced = {
            int(server.wait_for(r"Respawned uWSGI worker \d \(new pid: (\d+)")[1]) for _ in workers
        }
        assert assert_shared(ask(port), server.process.pid) <= replaced
    assert "Traceback" not in server.text


@needs_uwsgi
def test_uwsgi_without_the_hook(tmp_path):
    with uwsgi(tmp_path, MODULE) as server:
        port, _ = uwsgi_ready(server)
        assert_copied(next(ask(port)))


@needs_uwsgi
@pytest.mark.parametrize(
    ("lines", "advice"),
    [
        ([MODULE, IMPORT, "lazy-apps = true"], "leave out lazy-apps"),
        ([FILE, IMPORT], "hook-post-app"),
    ],
    ids=["lazy-apps", "wsgi-file"],
)
def test_uwsgi_where_the_hook_can_do_nothing(tmp_path, lines, advice):
    with uwsgi(tmp_path, *lines) as server:
        port, _ = uwsgi_ready(server)
        assert next(ask(port))["total"] > 0
    assert "permaheap: the workers of this uWSGI share nothing" in server.text
    assert advice in server.text


# ---- Celery --------------------------------------------------------------------------------------

TASKS = """
import os
import celery
import prefork_app

app = celery.Celery("tasks", broker="filesystem://", backend="file://" + os.environ["QUEUE"])
app.conf.broker_transport_options = {
    name: os.environ["QUEUE"] for name in ("data_folder_in", "data_folder_out", "control_folder")
}
app.conf.broker_connection_retry_on_startup = True


@app.task
def report():
    return prefork_app.report()
"""
ASK = """
import json, sys, tasks
print(json.dumps([tasks.report.delay().get(timeout=100) for _ in range(4)]))
"""
ROOT_IS_FINE = {"C_FORCE_ROOT": "1"}


def celery(directory, *arguments, tasks=TASKS):
    queue = directory / "queue"
    queue.mkdir()
    (directory / "tasks.py").write_text(tasks)
    return started(
        [PYTHON, "-m", "celery", "-A", "tasks", "worker", "--concurrency", "2"]
        + ["--without-gossip", "--without-mingle", "--loglevel", "info", *arguments],
        directory,
        QUEUE=str(queue),
    )


def ask_celery(server, directory):
    server.wait_for("ready")
    with started([PYTHON, "-c", ASK], directory, QUEUE=str(directory / "queue")) as client:
        assert client.finish() == 0, client.text + server.text
    return json.loads(client.text.splitlines()[-1])


@needs("celery")
@pytest.mark.parametrize("way", ["--include", "import"])
def test_celery(tmp_path, way):
    tasks, arguments = TASKS, ["--include", "permaheap.hooks.celery"]
    if way == "import":
        tasks, arguments = "import permaheap.hooks.celery\n" + TASKS, []
    with celery(tmp_path, *arguments, tasks=tasks) as server:
        assert_shared(ask_celery(server, tmp_path), server.process.pid)
    assert "Traceback" not in server.text


@needs("celery")
def test_celery_whose_children_end_after_each_task(tmp_path):
    arguments = ["--include", "permaheap.hooks.celery", "--max-tasks-per-child", "1"]
    with celery(tmp_path, *arguments) as server:
        answers = ask_celery(server, tmp_path)
        assert len(assert_shared(answers, server.process.pid)) == 4


@needs("celery")
def test_celery_without_the_hook(tmp_path):
    with celery(tmp_path) as server:
        assert_copied(ask_celery(server, tmp_path)[0])


@needs("celery")
@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_celery_with_a_pool_that_does_not_fork(tmp_path, pool):
    with celery(tmp_path, "--include", "permaheap.hooks.celery", "--pool", pool) as server:
        server.wait_for("ready")
    assert "does not fork" in server.text
