"""The examples in examples/channels: their results are those of a program that does without."""

import os
from pathlib import Path

import pytest

pytestmark = pytest.mark.no_sanitizer("programs around the core")

ROOT = Path(__file__).parents[2]

# By example: a program that compares its results with those of its plain twin.
CHECKS = {
    "pipeline": """
        assert example.pipeline(700) == example.one_after_the_other(700)
        assert example.pipeline(0) == []
    """,
    "actor": """
        expected = example.one_after_the_other(60)
        assert expected == ({"apples": 60, "pears": 30}, {"apples": 0, "pears": 0})
        assert example.sold_by_mail(60) == expected
        assert example.sold_by_call(60) == expected
    """,
    "interpreter_pool": """
        assert example.by_pool(1000) == example.one_after_the_other(1000)
        assert example.by_pool(5) == example.one_after_the_other(5)
    """,
    "forked_pool": """
        tasks = [("moved", 3, 500), ("frozen", 4, 700), ("moved", 5, 20_001), ("frozen", 6, 1)]
        found = {
            (kind, meter): result if kind == "frozen" else memoryview(result).cast("Q")
            for kind, meter, result, _ in example.by_pool(tasks)
        }
        expected = example.one_after_the_other(tasks)
        assert {key: list(values) for key, values in found.items()} == expected
        import permaheap
        assert permaheap.is_frozen(found["frozen", 4])

        def fails(what, error):
            try:
                list(example.by_pool([("moved", 3, 500), ("frozen", *what)]))
            except error:
                return True

        assert fails(("no number", 7), TypeError)
        example.KINDS["frozen"] = lambda meter, count: __import__("os").kill(os.getpid(), 9)
        import os
        assert fails((3, 7), RuntimeError)  # the worker with that task was killed
    """,
    "broadcast": """
        found = list(example.by_broadcast(3, 50, 2))
        assert [set(each.values()) for each in found] == [
            {text} for text in example.one_after_the_other(3, 50)
        ]
        assert all(len(each) == 2 for each in found)
        import permaheap
        assert permaheap.reclaim() == 0
    """,
}

# Small sizes, as the programs take them.
SIZES = {
    "pipeline": ["100"],
    "actor": ["10"],
    "interpreter_pool": ["100"],
    "forked_pool": ["1000"],
    "broadcast": ["2", "10", "2"],
}


@pytest.mark.parametrize("name", CHECKS)
def test_same_as_without(name, run):
    check = CHECKS[name].replace("\n        ", "\n")
    done = run(f"from examples.channels import {name} as example\n{check}", PYTHONPATH=_path())
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SIZES)
def test_program(name, run):
    """Run it as its reader does."""
    code = "import runpy, sys\nrunpy.run_module(sys.argv.pop(1), run_name='__main__')"
    done = run(code, f"examples.channels.{name}", *SIZES[name], PYTHONPATH=_path())
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout
    assert not done.stderr


def test_all_are_here():
    programs = {path.stem for path in (ROOT / "examples" / "channels").glob("*.py")}
    assert programs == {*CHECKS, "interpreters"}
    assert CHECKS.keys() == SIZES.keys()
    page = (ROOT / "examples" / "channels" / "README.md").read_text()
    assert all(f"[{name}.py]({name}.py)" in page for name in programs)


def _path():
    return os.pathsep.join([str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(":"))])
