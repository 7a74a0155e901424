"""The ring of a channel: at work, as a model, damaged, and with its users killed.

The drivers are C programs beside this file; each says at its beginning what it does.  Variables of
the environment ask for more than usual: PERMAHEAP_RING_ROUNDS (of kills; 10000 take 20 seconds)
and PERMAHEAP_RING_STRIDE (1 kills at each instruction, which takes some minutes).
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from compile import compiler

pytestmark = [
    pytest.mark.native,
    pytest.mark.no_sanitizer("its programs are built with sanitizers of their own"),
]

ROOT = Path(__file__).resolve().parents[2]
DRIVERS = ROOT / "tests" / "core"
WRAPPED = "-Wl,--wrap=ph_os_wait"
FLAGS = ["-std=c11", "-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-g", "-pthread"]
CORE = ROOT / "src" / "core"
ALONE = [CORE / "ring/ring.c"]
ALONE += [CORE / "os" / name for name in ("fault.c", "process_lock.c", "sync.c")]
ALONE.append(DRIVERS / "ring_stand_ins.c")
HEAP = sorted(CORE.rglob("*.c"))
ROUNDS = os.environ.get("PERMAHEAP_RING_ROUNDS", "10000")
STRIDE = os.environ.get("PERMAHEAP_RING_STRIDE", "89")


def build(folder, driver, *flags, sources=()):
    """Compile a driver, with the sources that it is about."""
    program = folder / driver
    command = [*compiler(), *FLAGS, *flags, f"-I{ROOT / 'src'}", *sources]
    subprocess.run([*command, DRIVERS / f"{driver}.c", "-o", program], check=True)
    return program


def run(*command, timeout=120):
    """Run a driver; return what it prints. It must end well."""
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ring")


@pytest.fixture(scope="module")
def stress(folder):
    return build(folder, "ring_stress", "-O2", WRAPPED, sources=ALONE)


@pytest.fixture(scope="module")
def model(folder):
    return build(folder, "ring_model", "-O2")


@pytest.mark.parametrize("kind", ["threads", "processes"])
@pytest.mark.parametrize("crowd", [(1, 1), (3, 1), (1, 3), (3, 3)], ids=str)
@pytest.mark.parametrize("spin", [0, 20_000])
def test_each_message_arrives_once_and_in_order(stress, kind, crowd, spin):
    run(stress, kind, *crowd, 3000, 16384, 8000, spin)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_closed_in_the_middle(stress, kind):
    """Each message that was sent arrives; the other senders get an error."""
    for close in range(0, 300, 30):
        run(stress, kind, 3, 3, 1000, 16384, 2000, 0, close)


def test_small_messages_in_a_large_ring(stress):
    run(stress, "processes", 2, 2, 20_000, 2**20, 40, 0)


def without_random_addresses(program, *arguments):
    """As some versions of the sanitizer need it: they know where things may lie."""
    setarch = shutil.which("setarch")
    return [setarch, "-R", program, *arguments] if setarch else [program, *arguments]


def test_thread_sanitizer(folder):
    empty = folder / "empty.c"
    empty.write_text("int main(void) { return 0; }\n")
    if subprocess.run(
        [*compiler(), "-fsanitize=thread", empty, "-o", folder / "empty"],
        capture_output=True, check=False,
    ).returncode:  # fmt: skip
        pytest.skip("the compiler has no ThreadSanitizer")
    flags = ["-O1", "-fsanitize=thread", WRAPPED]
    sanitized = folder / "sanitized"
    sanitized.mkdir()
    program = build(sanitized, "ring_stress", *flags, sources=ALONE)
    for spin in (0, 20_000):
        run(*without_random_addresses(program, "threads", 3, 3, 1000, 16384, 3000, spin))


def test_thread_sanitizer_sees_a_race(folder):
    """Break the order of head and tail, and it is seen: so the test before means something."""
    broken = folder / "broken"
    broken.mkdir()
    flags = ["-O1", "-fsanitize=thread", WRAPPED, "-DPH_RING_PUBLISH=memory_order_relaxed"]
    try:
        program = build(broken, "ring_stress", *flags, sources=ALONE)
    except subprocess.CalledProcessError:
        pytest.skip("the compiler has no ThreadSanitizer")
    command = without_random_addresses(program, "threads", 1, 1, 1000, 16384, 3000, 0)
    command = [str(word) for word in command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode != 0
    assert "data race" in done.stderr


def test_every_flipped_bit(folder):
    """Also with the sanitizers of addresses and of undefined behaviour, where there are any."""
    strict = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    sources = ALONE[1:]
    run(build(folder, "ring_damage", "-O2", sources=sources))
    try:
        program = build(folder, "ring_damage", *strict, sources=sources)
    except subprocess.CalledProcessError:
        return
    run(*without_random_addresses(program))


def test_large_messages_do_not_starve(folder):
    """They have a claim on the room that small ones leave; in a ring without claims they starve."""
    outcomes = []
    for name, flags in ("claims", []), ("no claims", ["-DPH_RING_LARGE_SHARE=0.5"]):
        (folder / name).mkdir()
        program = build(folder / name, "ring_fair", "-O2", *flags, sources=ALONE)
        outcomes.append([int(number) for number in re.findall(r"\d+", run(program))])
    (received, passed), starved = outcomes
    assert (received < 100, passed) == (True, 0)
    assert starved[0] == 1000 <= starved[1]


def test_what_a_message_costs(folder):
    """That the driver runs; its figures are for people."""
    program = build(folder, "ring_bench", "-O2", sources=ALONE)
    assert len(re.findall(r"\d+ ns", run(program, 2000))) == 6


@pytest.mark.parametrize("scenario", ["plain", "large"])
def test_model(model, scenario):
    assert "all is well" in run(model, scenario)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario",
    ["more", "closed", "kill", "kill-closed", "kill-large", "kills", "spans", "spans-kills"],
)
def test_model_of_more(model, scenario):
    assert "all is well" in run(model, scenario)


@pytest.mark.parametrize(
    ("variant", "scenario", "found"),
    [
        ("flag-after-look", "plain", "sleeps although"),
        ("announce-before-store", "plain", "sleeps although"),
        ("sleep-without-event", "plain", "sleeps although"),
        ("claim-dropped-silently", "large", "sleeps although"),
        ("tail-before-bytes", "plain", "found no message"),
        ("head-before-bytes", "more", "not sent, or not in order, or twice"),
        ("never-sealed", "closed", "published after"),
        ("never-mended", "spans", "number of messages that hold the span is wrong"),
        ("never-robust", "kill", "waits for a lock for ever"),
    ],
)
def test_model_of_what_is_broken(model, variant, scenario, found):
    """Each rule of the protocol is needed: without it there is a way to go wrong."""
    done = subprocess.run([model, scenario, variant], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert found in done.stdout.partition("\n")[0]


def test_kills(folder):
    run(build(folder, "ring_kills", "-O2", sources=ALONE), 100)


@pytest.mark.slow
def test_many_kills(folder):
    program = build(folder, "ring_kills", "-O2", sources=ALONE)
    seed = int.from_bytes(os.urandom(3), "little") + 1
    print("seed", seed)
    said = run(program, ROUNDS, seed, timeout=max(300, int(ROUNDS)))
    assert said.startswith(f"{ROUNDS} rounds")


@pytest.mark.slow
def test_killed_at_an_instruction(folder):
    program = build(folder, "ring_steps", "-O2", "-Wl,-z,now", sources=HEAP)
    first = str(os.urandom(1)[0] % int(STRIDE))
    print("first", first)
    done = subprocess.run([program, STRIDE, first], capture_output=True, text=True, check=False)
    if done.returncode == 77:
        pytest.skip("tracing is not allowed here")
    assert done.returncode == 0, done.stdout + done.stderr
