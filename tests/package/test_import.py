"""`import permaheap` loads only the modules that reading needs, in each interpreter."""

import os
import pickle
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import permaheap
from permaheap import _core

SITE = str(Path(permaheap.__file__).parent.parent)
SUPPORT = str(Path(__file__).parents[1] / "support")

# All that may be loaded; each module more costs every process and every interpreter.
NEEDED = {
    *("permaheap", "permaheap._core", "permaheap._supported"),
    *("os", "os.path", "posixpath", "genericpath", "stat", "_stat", "abc", "_abc", "errno"),
    *("_collections_abc", "_collections", "datetime", "_datetime", "_queue", "atexit"),
}
HEAVY = {"ast", "dataclasses", "enum", "functools", "inspect", "re", "threading", "typing"}

LOADED = f"""
import sys
before = set(sys.modules)
sys.path.insert(0, {SITE!r})
import permaheap
"""
SUBINTERPRETER = f"""
import sys
sys.path[:0] = [{SITE!r}, {{support!r}}]
import interpreters
with interpreters.Interpreter() as interpreter:
    print(*interpreter.ask({{code!r}}))
"""


def plain(code):
    """Run code in an interpreter that has imported nothing; return the names that it prints."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PERMAHEAP_")
    }
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-I", "-c", code],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


def in_main(code):
    return plain(f"{code}\nprint(*result)")


def in_subinterpreter(code):
    return plain(SUBINTERPRETER.format(code=code, support=SUPPORT))


@pytest.fixture(params=[in_main, in_subinterpreter])
def interpreter(request):
    """Give a function that runs code in an interpreter and returns the names in its result."""
    return request.param


def test_import_loads_only_what_it_needs(interpreter):
    loaded = interpreter(f"{LOADED}result = sorted(set(sys.modules) - before)")
    assert "permaheap._core" in loaded
    assert loaded <= NEEDED


def test_reading_loads_no_more(interpreter):
    code = """
data = permaheap.freeze({"a": [1, 2.5, {"x"}]})
handle = permaheap.share(data)
assert permaheap.thaw(permaheap.Handle.from_bytes(bytes(handle)).get()) == {"a": [1, 2.5, {"x"}]}
result = sorted(set(sys.modules) - before)
"""
    assert interpreter(LOADED + code) <= NEEDED


def test_reading_mappings_loads_no_more(interpreter):
    code = """
import _collections
class Other(dict):
    pass
ordered = _collections.OrderedDict(b=1, a=2)
assert list(permaheap.freeze(ordered)) == ["b", "a"]
assert permaheap.freeze(_collections.defaultdict(list, a=[1])) == {"a": (1,)}
try:
    permaheap.freeze(Other())
except permaheap.FreezeError:
    pass
result = sorted(set(sys.modules) - before)
"""
    # The error names a remedy, and so looks at builtin_default.
    remedy = {"__future__", "_types", "permaheap._defaults", "types"}
    assert interpreter(LOADED + code) <= NEEDED | remedy


def test_a_counter_is_known_once_there_can_be_one(interpreter):
    code = """
import collections
class Other(collections.Counter):
    pass
pack = permaheap._core._testing.pack
unpack = permaheap._core._testing.unpack
for turn in range(2):
    counter = collections.Counter("aab")
    assert permaheap.freeze([counter]) == ({"a": 2, "b": 1},)
    assert permaheap.thaw(permaheap.freeze(counter)) == {"a": 2, "b": 1}
    assert type(unpack(pack(counter))) is collections.Counter
    assert permaheap.freeze(collections.OrderedDict(b=1, a=counter))["a"] == {"a": 2, "b": 1}
    assert permaheap.freeze(collections.defaultdict(int, a=1)) == {"a": 1}
    try:
        permaheap.freeze(Other())
    except permaheap.FreezeError:
        continue
    raise AssertionError
result = ["whole"]
"""
    assert interpreter(LOADED + code) == {"whole"}


def test_a_counter_is_known_whatever_is_among_the_modules(interpreter):
    code = """
import collections
class Name(str):
    __eq__ = None
    __hash__ = str.__hash__
sys.modules[Name("collections.")] = sys
assert permaheap.freeze(collections.Counter("aab")) == {"a": 2, "b": 1}
result = ["whole"]
"""
    assert interpreter(LOADED + code) == {"whole"}


def test_something_else_in_the_place_of_a_counter(interpreter):
    code = """
import collections
true, collections.Counter = collections.Counter, "no class"
for refused in permaheap.freeze, permaheap._core._testing.pack:
    try:
        refused(true("aab"))
    except TypeError:
        continue
    raise AssertionError
collections.Counter = true
assert permaheap.freeze(true("aab")) == {"a": 2, "b": 1}
result = ["whole"]
"""
    assert interpreter(LOADED + code) == {"whole"}


def test_a_counter_that_arrives_is_one(interpreter):
    message = _core._testing.pack(Counter("aab"))
    code = f"""
assert "collections" not in sys.modules
counter = permaheap._core._testing.unpack({message!r})
import collections
assert type(counter) is collections.Counter and counter == {{"a": 2, "b": 1}}
result = ["whole"]
"""
    assert interpreter(LOADED + code) == {"whole"}


@pytest.mark.parametrize(
    "code",
    [
        "str(permaheap.stats())",
        "permaheap.json_default(permaheap.freeze({'a': 1}))",
        "permaheap.builtin_default(type('Pair', (tuple,), {'_fields': ('a', 'b')})((1, 2)))",
        "permaheap.as_dict(permaheap.freeze({'a': 1}))",
        "permaheap.register_reducers()",
    ],
)
def test_workers_load_nothing_heavy(interpreter, code):
    loaded = interpreter(f"{LOADED}{code}\nresult = sorted(set(sys.modules) - before)")
    assert not loaded & HEAVY


def test_prefork_loads_nothing_of_dataclasses():
    loaded = in_main(f"{LOADED}str(permaheap.prefork())\nresult = sorted(sys.modules)")
    assert "permaheap._prefork" in loaded
    assert not loaded & {"ast", "dataclasses", "inspect", "typing"}


def test_dir_names_all_before_they_are_loaded(interpreter):
    assert set(permaheap.__all__) <= interpreter(f"{LOADED}result = dir(permaheap)")


def test_import_of_all_names(interpreter):
    code = "from permaheap import *\nresult = sorted(set(permaheap.__all__) - set(globals()))"
    assert interpreter(LOADED + code) == set()


def test_lazy_names():
    assert set(permaheap._LAZY) < set(permaheap.__all__)
    for name, module in permaheap._LAZY.items():
        found = getattr(permaheap, name)
        assert found is getattr(sys.modules[f"permaheap.{module}"], name)
        assert found.__module__ in (f"permaheap.{module}", "permaheap")  # Full has its public name
        assert pickle.loads(pickle.dumps(found)) is found


def test_unknown_name():
    with pytest.raises(AttributeError, match=r"^module 'permaheap' has no attribute 'unknown'"):
        _ = permaheap.unknown
