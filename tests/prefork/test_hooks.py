"""The hooks, in the real programs: how much of the parent's data their workers copy."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from servers import PYTHON, SUPPORT, ask, program, started

pytestmark = [
    pytest.mark.slow,  # and the same in both modes of the heap
    pytest.mark.no_sanitizer("programs around the core"),
]


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
        # Next to nothing of the data is copied. But pages that the parent copies become private to
        # this worker when another one ends, and count as copied, too.
        assert answer["copied"] < 0.3 * answer["data"], answer
        seen.add(answer["pid"])
    assert seen
    return seen


def assert_copied(answer):
    """Assert what happens without a hook, or these tests would show nothing."""
    assert answer["loaded_by"] != answer["pid"], answer
    assert answer["copied"] > 0.6 * answer["data"], answer


def test_the_recipes_have_these_very_lines():
    text = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text()
    for line in (" ".join(CONFIG), IMPORT, HOOK_POST_APP, " ".join(INCLUDE), " ".join(UVICORN)):
        assert line in text
    assert f'set_forkserver_preload(["tables", "{HOOKED}"])' in text


# ---- gunicorn ------------------------------------------------------------------------------------

CONFIG = ["--config", "python:permaheap.hooks.gunicorn"]
UVICORN = ["--worker-class", "uvicorn_worker.UvicornWorker"]
BOOTED = r"Booting worker with pid: (\d+)"


def gunicorn(directory, *arguments, prefix=(PYTHON, "-m", "gunicorn"), app="prefork_app"):
    return started(
        [*prefix, "--bind", "127.0.0.1:0", "--workers", "2"] + [*arguments, app],
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
        exiting = [rf"Worker exiting \(pid: {pid}\)" for pid in replaced]
        lines = server.wait_for_all(BOOTED, BOOTED, *exiting)
        reloaded = {int(line[1]) for line in lines[:2]}
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
        port, _ = ready(server)
        answer = next(ask(port))
        assert answer["loaded_by"] == answer["pid"]
    assert server.text.count("permaheap: preload_app is off") == 1


@needs("gunicorn", "uvicorn", "uvicorn_worker")
def test_gunicorn_with_the_workers_of_uvicorn(tmp_path):
    with gunicorn(tmp_path, *CONFIG, *UVICORN, app="prefork_app:asgi") as server:
        port, workers = ready(server)
        assert assert_shared(ask(port), server.process.pid) <= workers


# ---- uWSGI ---------------------------------------------------------------------------------------

needs_uwsgi = pytest.mark.skipif(
    program("uwsgi") is None, reason="needs uwsgi, which is built from source for each Python"
)
IMPORT = "import = permaheap.hooks.uwsgi"
HOOK_POST_APP = "hook-post-app = call:PyRun_SimpleString import permaheap.hooks.uwsgi"
MODULE = "module = prefork_app:application"
FILE = f"wsgi-file = {SUPPORT / 'prefork_app.py'}"


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
folders = ("data_folder_in", "data_folder_out", "control_folder")
app.conf.broker_transport_options = {
    "polling_interval": 0.02,
    **dict.fromkeys(folders, os.environ["QUEUE"]),
}
app.conf.broker_connection_retry_on_startup = True


@app.task
def report():
    return prefork_app.report()
"""
ASK = """
import json, sys, tasks
print(json.dumps([tasks.report.delay().get(timeout=100, interval=0.02) for _ in range(4)]))
"""
ROOT_IS_FINE = {"C_FORCE_ROOT": "1"}


def celery(directory, *arguments, tasks=TASKS, end=signal.SIGKILL):
    """Start a worker, which takes its time when it is asked to end."""
    queue = directory / "queue"
    queue.mkdir()
    (directory / "tasks.py").write_text(tasks)
    return started(
        [PYTHON, "-m", "celery", "-A", "tasks", "worker", "--concurrency", "2"]
        + ["--without-gossip", "--without-mingle", "--loglevel", "info", *arguments],
        directory,
        end,
        QUEUE=str(queue),
    )


def ask_celery(server, directory):
    server.wait_for("ready")
    with started([PYTHON, "-c", ASK], directory, QUEUE=str(directory / "queue")) as client:
        assert client.finish() == 0, client.text + server.text
    return json.loads(client.text.splitlines()[-1])


INCLUDE = ["--include", "permaheap.hooks.celery"]


@needs("celery")
def test_celery(tmp_path):
    with celery(tmp_path, tasks="import permaheap.hooks.celery\n" + TASKS) as server:
        assert_shared(ask_celery(server, tmp_path), server.process.pid)


@needs("celery")
def test_celery_on_the_command_line_and_its_end(tmp_path):
    with celery(tmp_path, *INCLUDE, end=signal.SIGTERM) as server:
        assert_shared(ask_celery(server, tmp_path), server.process.pid)
    assert "Warm shutdown" in server.text
    assert "Traceback" not in server.text
    assert server.process.returncode == 0


@needs("celery")
def test_celery_whose_children_end_after_each_task(tmp_path):
    with celery(tmp_path, *INCLUDE, "--max-tasks-per-child", "1") as server:
        answers = ask_celery(server, tmp_path)
        assert len(assert_shared(answers, server.process.pid)) == 4


@needs("celery")
def test_celery_without_the_hook(tmp_path):
    with celery(tmp_path) as server:
        assert_copied(ask_celery(server, tmp_path)[0])


@needs("celery")
@pytest.mark.parametrize("pool", ["solo", "threads"])
def test_celery_with_a_pool_that_does_not_fork(tmp_path, pool):
    with celery(tmp_path, *INCLUDE, "--pool", pool) as server:
        server.wait_for("ready")
    assert "does not fork" in server.text


# ---- Any fork ------------------------------------------------------------------------------------

HOOKED = "permaheap.hooks.multiprocessing"
SCRIPT = """
import concurrent.futures
import json
import multiprocessing
import sys
import prefork_app

if __name__ == "__main__":
    context = multiprocessing.get_context("fork")
    if sys.argv[1] == "pool":
        with context.Pool(2) as pool:
            answers = [pool.apply(prefork_app.report) for _ in range(4)]
    else:
        with concurrent.futures.ProcessPoolExecutor(2, mp_context=context) as pool:
            answers = [pool.submit(prefork_app.report).result() for _ in range(4)]
    print(json.dumps(answers))
    sys.exit(7)
"""


def outcome(directory, command, **environment):
    """Run a command to its end; return the answers in its last line, its status and its output."""
    with started(command, directory, **environment) as server:
        status = server.finish()
        lines = server.text.splitlines()
    answers = json.loads(lines[-1]) if lines and lines[-1].startswith("[{") else None
    return answers, status, server


@pytest.fixture
def script(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    return tmp_path / "script.py"


@pytest.mark.parametrize(
    ("hook", "way"),
    [
        ("install", "pool"),
        ("module", "executor"),
        ("environment", "pool"),
        ("run", "executor"),
        ("none", "pool"),
    ],
)
def test_processes_of_the_standard_library(tmp_path, script, hook, way):
    prefix, environment = [PYTHON], {}
    if hook == "install":
        script.write_text("import permaheap.hooks\npermaheap.hooks.install()\n" + SCRIPT)
    elif hook == "module":
        script.write_text("import permaheap.hooks.multiprocessing\n" + SCRIPT)
    elif hook == "environment":
        script.write_text("import permaheap\n" + SCRIPT)
        environment = {"PERMAHEAP_PREFORK": "1"}
    elif hook == "run":
        prefix = [PYTHON, "-m", "permaheap", "run", "--", PYTHON]
    answers, status, server = outcome(tmp_path, [*prefix, script, way], **environment)
    assert status == 7, server.text
    if hook == "none":
        assert_copied(answers[0])
    else:
        assert_shared(answers, server.process.pid)


def test_fork_server(tmp_path, script):
    script.write_text(
        """
import json
import multiprocessing

if __name__ == "__main__":
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prefork_app", "permaheap.hooks.multiprocessing"])
    with context.Pool(2) as pool:
        import prefork_app
        print(json.dumps([pool.apply(prefork_app.report) for _ in range(4)]))
"""
    )
    answers, status, server = outcome(tmp_path, [PYTHON, script])
    assert status == 0, server.text
    assert_shared(answers)


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_are_not_forked(tmp_path, script, method):
    script.write_text(
        f"""
import multiprocessing
import permaheap.hooks

if __name__ == "__main__":
    permaheap.hooks.install()
    for _ in range(2):
        process = multiprocessing.get_context({method!r}).Process(target=print)
        process.start()
        process.join()
"""
    )
    _, status, server = outcome(tmp_path, [PYTHON, script])
    assert status == 0, server.text
    said = f'multiprocessing starts a process by the start method "{method}"'
    assert server.text.count(said) == 1


PASSES = """
import os
import permaheap.hooks
from permaheap.hooks import _fork

passes = 0

def counted():
    global passes
    passes += 1

_fork.prefork = counted

def fork(inside=lambda: True):
    pid = os.fork()
    if pid == 0:
        os._exit(0 if inside() else 1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
"""


def test_a_pass_only_where_the_process_has_grown(run):
    done = run(
        PASSES
        + """
import subprocess

assert fork()
assert passes == 0
for _ in range(3):
    permaheap.hooks.install()
subprocess.run(["true"], check=True)
assert passes == 0
for _ in range(5):
    assert fork()
assert passes == 1
garbage = [object() for _ in range(300_000)]
assert fork()
assert fork()
assert passes == 2
del garbage
assert fork()
assert passes == 2

def forks_again():
    more = [object() for _ in range(500_000)]
    return fork(lambda: passes == 3)

assert fork(forks_again)
assert passes == 2
"""
    )
    assert done.returncode == 0, done.stderr


def test_an_error_in_a_pass_does_not_keep_the_program_from_forking(run):
    done = run(
        PASSES
        + """
def fails():
    raise MemoryError("no memory for the walk")

_fork.prefork = fails
permaheap.hooks.install()
assert fork()
_fork.prefork = counted
assert fork()
assert passes == 1
"""
    )
    assert done.returncode == 0, done.stderr
    assert "no memory for the walk" in done.stderr


def test_a_fork_during_a_pass_of_another_thread(run):
    done = run(
        PASSES
        + """
import threading

began, go_on = threading.Event(), threading.Event()

def slow():
    counted()
    began.set()
    go_on.wait()

_fork.prefork = slow
permaheap.hooks.install()
thread = threading.Thread(target=fork)
thread.start()
began.wait()

def forks_again():
    _fork.prefork = counted
    return fork(lambda: passes == 2)

assert fork(forks_again)
assert passes == 1
go_on.set()
thread.join()
"""
    )
    assert done.returncode == 0, done.stderr


INSIDE = """
import gc, os, sys, threading, warnings, weakref
import permaheap.hooks
permaheap.hooks.install()  # first, so that its handler runs last
lock, ran, pid = threading.Lock(), [], os.getpid()
os.register_at_fork(before=lock.acquire, after_in_parent=lock.release, after_in_child=lock.release)

def note(name, *rest):
    if os.getpid() == pid:
        ran.append((name, lock.locked()))

class Garbage:
    def __init__(self): self.itself = self
    def __del__(self): note("finalizer")

class Observed: pass

def make_garbage():
    Garbage()
    observed = Observed()
    observed.itself = observed
    return weakref.ref(observed, lambda ref: note("weak reference"))

gc.collect()
gc.disable()  # else a collection of plain CPython may begin within os.fork, too
reference = make_garbage()
gc.callbacks.append(lambda phase, info: note("collector"))
warnings.showwarning = lambda *rest: note("warning") if "threads are" in str(rest[0]) else None
waiting = threading.Event()
thread = threading.Thread(target=waiting.wait)
thread.start()
for _ in range(2):
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    more = [[[]] for _ in range(500_000)]
waiting.set()
print([name for name, inside in ran if inside], gc.isenabled(), len(gc.callbacks))
gc.unfreeze()
gc.collect()
print(sorted({name for name, _ in ran}))
"""


def test_no_code_of_the_program_runs_inside_a_fork(run):
    """A finalizer that wanted the lock of another handler would wait for ever."""
    done = run(INSIDE)
    assert done.stdout.splitlines()[0] == "[] False 1", done.stderr
    assert "finalizer" in done.stdout


def test_hooks_cost_nothing_where_nobody_asks(run):
    done = run(
        "import permaheap, sys; "
        "assert not any(name.startswith('permaheap.hooks') for name in sys.modules); "
        "import permaheap.hooks; "
        "foreign = {'gunicorn', 'celery', 'billiard', 'uwsgi', 'multiprocessing', 'threading'}; "
        "assert not foreign & set(sys.modules), foreign & set(sys.modules)",
        PERMAHEAP_PREFORK="0",
    )
    assert done.returncode == 0, done.stderr


# ---- permaheap run -------------------------------------------------------------------------------

RUN = [PYTHON, "-m", "permaheap", "run"]


@needs("gunicorn")
@pytest.mark.parametrize("words", [["gunicorn"], [PYTHON, "-m", "gunicorn"]], ids=["script", "-m"])
def test_run_gunicorn(tmp_path, words):
    with gunicorn(tmp_path, "--preload", prefix=[*RUN, "--", *words]) as server:
        port, workers = ready(server)
        assert assert_shared(ask(port), server.process.pid) <= workers
    assert "Shutting down: Master" in server.text


@needs("granian")
@pytest.mark.parametrize("hook", [True, False], ids=["hook", "none"])
def test_run_granian(tmp_path, hook):
    """It forks where multiprocessing does, but loads the application in the workers only."""
    path = str(tmp_path / "s")
    if len(path) > 90:
        pytest.skip("the temporary directory has too long a name for a Unix socket")
    arguments = ["--interface", "wsgi", "--workers", "2", "--uds", path, "prefork_app:application"]
    options = ["--fork", "--preload", "prefork_app"] if hook else []
    with started([*RUN, *options, "--", "granian", *arguments], tmp_path) as server:
        for _ in "12":
            server.wait_for("Started worker-")
        answers = list(ask(path))
        if hook:
            assert_shared(answers, server.process.pid)
        else:
            assert all(answer["loaded_by"] == answer["pid"] for answer in answers)


@needs("uvicorn")
def test_run_uvicorn_warns(tmp_path):
    arguments = ["--workers", "2", "--port", "0", "prefork_app:asgi"]
    with started([*RUN, "--", "uvicorn", *arguments], tmp_path) as server:
        for _ in "12":
            server.wait_for("Application startup complete")
    assert "one that forks: gunicorn runs uvicorn's workers" in server.text


@needs_uwsgi
def test_run_uwsgi_is_refused(tmp_path):
    _, status, server = outcome(tmp_path, [*RUN, "--", "uwsgi", "--ini", "x.ini"])
    assert status == 2
    assert "not a Python program" in server.text
    assert IMPORT in server.text


LOOK = """
import json, os, sys
main = sys.modules["__main__"]
print(json.dumps({
    "name": __name__,
    "file": main.__dict__.get("__file__"),
    "package": __package__ or None,
    "spec": getattr(__spec__, "name", None),
    "argv": sys.argv,
    "path": sys.path[0],
    "same": main.__dict__ is globals(),
    "names": sorted(set(globals()) - {"__cached__", "__annotations__"}),
    "builtins": type(__builtins__).__name__,
    "flags": str(sys.flags),
}))
sys.stdout.flush()
os.kill(os.getpid(), 15) if "die" in sys.argv else sys.exit(5)
"""


@pytest.mark.parametrize("options", [[], ["-P"]], ids=["", "-P"])
@pytest.mark.parametrize(
    "words",
    [
        ["look.py", "a", "-b", "--", "c"],
        ["./look.py"],
        ["folder"],
        ["-m", "look", "x"],
        ["-m", "package", "--preload", "y"],
        ["-m", "package.inner"],
        ["-c", LOOK, "z", "die"],
    ],
    ids=lambda words: " ".join(words[:2]).replace(LOOK, "code"),
)
def test_run_is_like_python(tmp_path, words, options):
    for place in ("look.py", "folder/__main__.py", "package/__main__.py", "package/inner.py"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_text(LOOK)
    (tmp_path / "package" / "__init__.py").touch()
    environment = {"PYTHONPATH": str(tmp_path)} if "-P" in options else {}

    def observed(*command):
        done = subprocess.run(
            [PYTHON, *options, *command],
            cwd=tmp_path,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=100,
            check=False,
        )
        assert done.stdout, done.stderr
        return json.loads(done.stdout), done.returncode

    plain = observed(*words)
    assert observed(*RUN[1:], "--", PYTHON, *words) == plain
    if words[0].endswith(".py"):
        assert observed(*RUN[1:], *words) == plain


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        ([], 2, "no program"),
        (["no-such-program"], 2, "no program 'no-such-program' on the PATH"),
        (["python9.9"], 2, "no program 'python9.9'"),
        (["./python3", "x.py"], 2, "./python3 -m permaheap run -- ./python3 x.py"),
        (["/bin/sh"], 2, "not a Python program"),
        (["./shell"], 2, "not a Python program"),
        (["./elsewhere"], 2, "/usr/bin/python3 -m permaheap run -- ./elsewhere"),
        (["./broken.py"], 2, "cannot be run"),
        ([PYTHON, "missing.py"], 2, "no file 'missing.py'"),
        ([PYTHON, "-u", "broken.py"], 2, "python -u -m permaheap run"),
        ([PYTHON], 2, "needs a script"),
        ([PYTHON, "-m", "no_such_module"], 2, "no module named no_such_module"),
        ([PYTHON, "-m", "no_such.module"], 2, "no module named no_such.module"),
        ([PYTHON, "-m", "email"], 2, "email"),
        ([PYTHON, "-m", "sys"], 2, "no Python code"),
        (["raises.py"], 1, "ZeroDivisionError"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_run_says_what_is_wrong(tmp_path, words, status, message):
    files = {
        "shell": "#!/bin/sh\necho no\n",
        "elsewhere": "#!/usr/bin/python3\nprint('no')\n",
        "broken.py": "def\n",
        "python3": "another interpreter",
        "raises.py": "1 / 0\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    _, got, server = outcome(tmp_path, [*RUN, "--", *words])
    assert got == status, server.text
    assert message in server.text


def test_run_a_script_whose_interpreter_has_a_long_name(tmp_path):
    text = f"#!/bin/sh\n'''exec' \"{PYTHON}\" \"$0\" \"$@\"\n' '''\nprint([__name__])\n"
    (tmp_path / "tool").write_text(text)
    (tmp_path / "tool").chmod(0o755)
    _, status, server = outcome(tmp_path, [*RUN, "--", "./tool"])
    assert (status, server.text) == (0, "['__main__']\n")
