"""Code that freeze runs (`__freeze__`, `default`, mappings) and that does its worst in there."""

import collections
import gc
import os
import signal
import sys
import threading
import weakref
from types import MappingProxyType

import pytest

import permaheap
from conftest import audit
from permaheap import FreezeError, freeze, freeze_each, freeze_pairs
from twin import Mapping

# Errors that may end a freeze of a graph that changes during it, instead of some right result.
CHANGED = (FreezeError, RuntimeError)


class Call:
    """Freezes into its result after calling its action."""

    def __init__(self, action, result="called"):
        self.action = action
        self.result = result

    def __freeze__(self):
        self.action()
        return self.result


def spoil():
    """Reuse freed memory at once, so that reading it does not go unnoticed."""
    gc.collect(0)
    return [bytearray(b"\xdb" * size) for size in range(16, 600, 8) for _ in range(5)]


def attempt(given, **keywords):
    """Freeze a graph that changes during it: a right result or an error, never a broken heap."""
    before = permaheap.stats().used
    try:
        frozen = freeze(given, **keywords)
    except CHANGED:
        frozen = None
        assert permaheap.stats().used == before
    spoil()
    repr(frozen)
    audit()
    return frozen


@pytest.mark.parametrize("size", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("place", ["first", "middle", "last"])
@pytest.mark.parametrize(
    "change",
    [
        lambda g: (g.clear(), spoil()),
        lambda g: (g.pop(), spoil()),
        lambda g: g.extend([["new"]] * 2000),
        lambda g: (g.reverse(), spoil()),
        lambda g: (g.__setitem__(slice(None), [["other"]]), spoil()),
    ],
    ids=["clear", "pop", "extend", "reverse", "replace"],
)
def test_list_changes(size, place, change):
    given = [[f"item {i}", [i]] for i in range(size)]
    at = {"first": 0, "middle": size // 2, "last": size - 1}[place]
    given[at] = Call(lambda: change(given))
    attempt(given)


def put(mapping, items):
    """Set items one by one: the update of a Counter would add them up."""
    for key, value in items:
        mapping[key] = value


def _dict(size):
    return {f"key {i}": [f"value {i}", [i]] for i in range(size)}


@pytest.mark.parametrize("size", [1, 2, 5, 6, 100, 1000])
@pytest.mark.parametrize("kind", [dict, collections.OrderedDict, collections.Counter])
@pytest.mark.parametrize("role", ["key", "value"])
@pytest.mark.parametrize(
    "change",
    [
        lambda g: (g.clear(), spoil()),
        lambda g: (g.popitem(), spoil()),
        lambda g: put(g, ((f"new {i}", [i]) for i in range(2000))),
        lambda g: (put(g, ((key, ["replaced"]) for key in list(g))), spoil()),
        lambda g: (g.pop("key 0", None), put(g, [("other", 1)]), spoil()),
    ],
    ids=["clear", "popitem", "grow", "replace values", "same size"],
)
def test_mapping_changes(size, kind, role, change):
    given = kind(_dict(size // 2))
    call = Call(lambda: change(given))
    put(given, [(call, ["value"]) if role == "key" else ("call", call)])
    put(given, [(f"after {i}", [f"more {i}"]) for i in range(size - size // 2)])
    attempt(given)
    attempt([given, given])


@pytest.mark.parametrize("size", [1, 3, 6, 1000])
@pytest.mark.parametrize(
    "change",
    [
        lambda g: (g.clear(), spoil()),
        lambda g: (g.pop(), spoil()),
        lambda g: g.update(range(5000)),
    ],
    ids=["clear", "pop", "grow"],
)
def test_set_changes(size, change):
    given = {(f"element {i}", (i,)) for i in range(size)}
    given.add(Call(lambda: change(given)))
    attempt(given)


def test_bytearray_changes():
    data = bytearray(b"x" * 1000)
    frozen = freeze([Call(data.clear), data, Call(lambda: data.extend(b"y" * 5000))])
    assert frozen == ("called", b"", "called")


def test_proxied_dict_changes():
    inner = _dict(100)
    inner["key 50"] = Call(lambda: (inner.clear(), spoil()))
    attempt(MappingProxyType(inner))


def test_instance_dict_changes():
    class Thing:
        pass

    thing = Thing()
    thing.a, thing.call, thing.b = [1], Call(lambda: (vars(thing).clear(), spoil())), [2]
    attempt(vars(thing))
    thing.a, thing.call, thing.b = [1], Call(lambda: (delattr(thing, "a"), spoil())), [2]
    attempt([vars(thing)])


def test_ancestors_change():
    inner = [["a"], None, ["b"]]
    middle = {"inner": inner, "next": ["c"]}
    given = [middle, ["d"]]

    def drop_all():
        given.clear()
        middle.clear()
        inner.clear()
        spoil()

    inner[1] = Call(drop_all)
    attempt(given)


def test_class_changes():
    class Thing:
        def __freeze__(self):
            del Thing.__freeze__
            return ["once"]

    with pytest.raises(FreezeError):
        freeze([Thing(), Thing()])


def test_object_changes_its_class():
    class One:
        def __freeze__(self):
            self.__class__ = Two
            return ["one"]

    class Two:
        def __freeze__(self):
            return ["two"]

    one = One()
    assert freeze([one, one]) == (("one",), ("one",))


def test_last_reference_is_dropped():
    """The callback drops the only reference to the object that is being frozen."""
    given = [["a"], None, ["b"]]
    given[1] = Call(lambda: (given.__setitem__(1, None), spoil()), ["result"])
    assert freeze(given) == (("a",), ("result",), ("b",))


def test_last_reference_to_the_whole_graph_is_dropped():
    holder = [{"deep": [1.5, None, "text"]}]
    holder[0]["deep"][1] = Call(lambda: (holder.clear(), spoil()))
    attempt(holder)
    holder = {"k": {"deep": (10**20, Call(lambda: (holder.clear(), spoil())), ["tail"])}}
    attempt(holder)


def test_result_is_kept_by_nobody_else():
    """Results of callbacks die and their addresses are used again within one freeze."""
    frozen = freeze([Call(spoil, [i, [i]]) for i in range(50)])
    assert frozen == tuple((i, (i,)) for i in range(50))
    frozen = freeze([object() for _ in range(10_000)], default=lambda obj: [str(id(obj))])
    assert len({item[0] for item in frozen}) == 10_000


def test_freeze_within_freeze():
    inner = []

    def again():
        inner.append(freeze({"inner": [1.5, "text"]}))

    frozen = freeze([Call(again), {"a": [1.5, "text"]}, Call(again)])
    assert frozen == ("called", Mapping({"a": (1.5, "text")}), "called")
    assert inner == [Mapping({"inner": (1.5, "text")})] * 2
    assert inner[0] is not inner[1]


def test_result_of_an_inner_freeze_is_kept_by_reference():
    inner = []

    class Frozen:
        def __freeze__(self):
            inner.append(freeze(["inner", 10**20]))
            return inner[-1]

    frozen = freeze([Frozen(), "between", Frozen()])
    assert frozen[0] is inner[0]
    assert frozen[2] is inner[1]


def test_freeze_of_the_same_graph_within_freeze():
    given = [["a"], None]
    copies = []

    def again():
        given[1] = None
        copies.append(freeze(given))

    given[1] = Call(again)
    assert freeze(given) in ((("a",), "called"), (("a",), None))
    assert copies == [(("a",), None)]


def test_deeply_nested_freezes():
    def descend(level):
        return freeze([level, Call(lambda: level and descend(level - 1))])

    assert descend(50) == (50, "called")


def test_inner_freeze_fails_and_outer_goes_on():
    def fail():
        with pytest.raises(FreezeError):
            freeze([1, object()])

    assert freeze([Call(fail), ["after", 10**20]]) == ("called", ("after", 10**20))


def test_outer_freeze_fails_and_inner_stays():
    kept = []
    with pytest.raises(FreezeError):
        freeze([Call(lambda: kept.append(freeze(["kept", 10**20]))), object()])
    assert kept == [("kept", 10**20)]
    handle = permaheap.share(kept[0])
    freeze(["more " * 1000] * 100)
    assert handle.get() is kept[0]
    permaheap._core._testing.check()


@pytest.mark.parametrize("function", [freeze_each, freeze_pairs])
def test_stream_that_freezes(function):
    def items():
        for i in range(100):
            yield freeze((f"key {i}", [i]))

    frozen = function(items())
    assert len(frozen) == 100
    assert permaheap.is_frozen(frozen)


@pytest.mark.parametrize("function", [freeze_each, freeze_pairs])
def test_stream_that_is_re_entered(function):
    def items():
        yield ("a", [1])
        with pytest.raises((ValueError, RuntimeError, FreezeError)):
            function(generator)
        yield ("b", [2])

    generator = items()
    assert len(function(generator)) == 2


def test_thaw_within_freeze():
    frozen = freeze({"a": [1, 2]})
    thawed = []
    freeze([Call(lambda: thawed.append(permaheap.thaw(frozen)))])
    assert thawed == [{"a": [1, 2]}]


def test_hash_and_equality_of_keys_misbehave():
    """It does not matter how keys behave when they are hashed or compared."""

    class Hostile:
        armed = False

        def __init__(self, tag):
            self.tag = tag

        def __hash__(self):
            if Hostile.armed:
                given.clear()
                spoil()
                raise ZeroDivisionError
            return 1

        def __eq__(self, other):
            if Hostile.armed:
                given.clear()
                raise ZeroDivisionError
            return self is other

        def __freeze__(self):
            return ("hostile", self.tag)

    given = {Hostile(i): [i] for i in range(20)}
    elements = set(given)
    Hostile.armed = True
    try:
        frozen = freeze(given)
    except ZeroDivisionError:
        frozen = None
    assert frozen in (None, {("hostile", i): (i,) for i in range(20)})
    try:
        frozen = freeze(elements)
    except ZeroDivisionError:
        frozen = None
    assert frozen in (None, {("hostile", i) for i in range(20)})
    Hostile.armed = False
    permaheap._core._testing.check()


def test_mapping_proxy_over_python_code():
    class Slow(collections.UserDict):
        def __iter__(self):
            spoil()
            return super().__iter__()

        def __getitem__(self, key):
            spoil()
            return [super().__getitem__(key)]

    try:
        frozen = freeze(MappingProxyType(Slow(a=1, b=2)))
    except FreezeError:
        return
    assert frozen == Mapping({"a": (1,), "b": (2,)})


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, GeneratorExit, SystemExit])
def test_raising(refused, error):
    def fail():
        raise error

    with refused(error=error):
        freeze([["some"], {"k": Call(fail)}])


def test_fork_in_a_callback(in_child):
    """Parent and child each finish the freeze that was under way, or fail clearly."""

    def forking():
        pids = []
        given = [["text", 10**20], Call(lambda: pids.append(os.fork())), {"after": [1.5]}]
        try:
            frozen = freeze(given)
            right = frozen == (("text", 10**20), "called", {"after": (1.5,)})
        except (FreezeError, RuntimeError):
            right = pids[0] == 0  # the child may refuse to go on; the parent may not
        more = freeze(["works", [2.5]]) == ("works", (2.5,))
        permaheap._core._testing.check()
        if pids[0] == 0:
            os._exit(0 if right and more else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0
        assert right
        assert more

    in_child(forking)
    in_child(forking)


class Sets(collections.UserDict):
    """Gives away sets that die as soon as they are frozen, and tells when."""

    def __init__(self, died):
        super().__init__()
        self.died = died
        self.references = []

    def items(self):
        elements = {10**6}
        self.references.append(weakref.ref(elements, self.died))
        return [("set", elements)]


@pytest.mark.parametrize("action", ["freeze", "clear", "raise", "fork"])
def test_callback_of_a_dying_object(in_child, action):
    """Code that runs because freeze lets go of the last reference to something."""
    pids = []
    given = [None, ["after", 10**20]]

    def died(reference):
        match action:
            case "freeze":
                freeze(["inner", 1.5])
            case "clear":
                given.clear()
                spoil()
            case "raise":
                raise ZeroDivisionError
            case "fork":
                pids.append(os.fork())

    def work():
        given[0] = MappingProxyType(Sets(died))
        try:
            frozen = freeze(given)
            right = frozen[1] == ("after", 10**20) and frozen[0]["set"] == {10**6}
        except (FreezeError, RuntimeError):
            right = pids == [0]  # the child may refuse to go on; the parent may not
        permaheap._core._testing.check()
        if pids == [0]:
            os._exit(0 if right and freeze([2.5]) == (2.5,) else 1)
        if pids:
            assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0
        assert right

    unraisable, sys.unraisablehook = sys.unraisablehook, lambda _: None
    try:
        in_child(work)
    finally:
        sys.unraisablehook = unraisable


def test_signal_handler_that_forks(in_child):
    """Handlers run in the middle of a long freeze."""

    def work():
        pids = []
        given = [[i, str(i)] for i in range(10**6, 10**6 + 300_000)]
        signal.signal(signal.SIGALRM, lambda *_: pids.append(os.fork()))
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        try:
            right = freeze(given)[-1] == (given[-1][0], given[-1][1])
        except (FreezeError, RuntimeError):
            right = pids == [0]
        while not pids:
            signal.sigtimedwait([], 0.001)  # any call where the handler can run
        if pids == [0]:
            os._exit(0 if right and freeze([2.5]) == (2.5,) else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0
        assert right

    in_child(work)


def test_child_freezes_while_the_parent_is_in_a_freeze(in_child):
    results = []

    def work():
        frozen = freeze({"child": [1.5, "text"]})
        permaheap._core._testing.check()
        return bytes(permaheap.share(frozen))

    frozen = freeze([Call(lambda: results.append(in_child(work))), ["parent", 10**20]])
    assert frozen == ("called", ("parent", 10**20))
    from_child = permaheap.Handle.from_bytes(results[0]).get()
    assert from_child == {"child": (1.5, "text")}
    permaheap._core._testing.check()


def test_child_dies_in_a_callback(unchanged):
    """A forked child that ends within the freeze leaves nothing behind."""

    def fork_and_exit():
        pid = os.fork()
        if pid == 0:
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7

    assert freeze([Call(fork_and_exit), ["after", 10**20]]) == ("called", ("after", 10**20))
    with unchanged():
        pid = os.fork()
        if pid == 0:
            freeze([["x" * 1000], Call(lambda: os.kill(os.getpid(), signal.SIGKILL))])
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


EXIT = """
import os, sys, permaheap
class Exit:
    def __freeze__(self):
        {action}
permaheap.freeze(["before", [10**20], Exit()])
"""


@pytest.mark.parametrize("action", ["sys.exit(5)", "os._exit(5)"])
def test_exit_in_a_callback(run, action):
    assert run(EXIT.format(action=action)).returncode == 5


DAEMON = """
import sys, threading, permaheap
inside = threading.Event()
class Wait:
    def __freeze__(self):
        inside.set()
        threading.Event().wait()
threading.Thread(target=permaheap.freeze, args=([["a"], Wait()],), daemon=True).start()
inside.wait()
permaheap.freeze(["main", [1.5]])
"""


def test_interpreter_ends_while_a_thread_freezes(run):
    done = run(DAEMON)
    assert (done.returncode, done.stderr) == (0, "")


AT_EXIT = """
import atexit, gc, permaheap
frozen = permaheap.freeze({"a": [1.5]})
class Last:
    def __del__(self, freeze=permaheap.freeze, is_frozen=permaheap.is_frozen, print=print):
        print(is_frozen(freeze(["late", [2.5]])), flush=True)
atexit.register(lambda: print(permaheap.freeze([1, [2]]) == (1, (2,)), flush=True))
last = Last()
last.cycle = last
"""


def test_freeze_while_the_interpreter_ends(run):
    done = run(AT_EXIT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["True", "True"]


SUBINTERPRETER = """
import sys
try:
    import _interpreters as interpreters
except ImportError:
    import _xxsubinterpreters as interpreters
code = '''
import permaheap
class Raise:
    def __freeze__(self):
        raise SystemExit(3)
try:
    permaheap.freeze([1, [Raise()]])
except SystemExit:
    pass
kept = permaheap.freeze({"kept": [1.5, "text"]})
'''
import permaheap
class Call:
    def __freeze__(self):
        for _ in range(3):
            interpreter = interpreters.create()
            error = interpreters.run_string(interpreter, code)
            if error is not None:
                raise RuntimeError(error)
            interpreters.destroy(interpreter)
        return "called"
assert permaheap.freeze([["a"], Call(), ["b", 10**20]]) == (("a",), "called", ("b", 10**20))
permaheap._core._testing.check()
print("done")
"""


def test_interpreter_closes_within_a_callback(run):
    done = run(SUBINTERPRETER)
    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr


class Rendezvous:
    """Freezes after letting another thread do its work: no timing is left to chance."""

    def __init__(self):
        self.reached = threading.Event()
        self.done = threading.Event()

    def __freeze__(self):
        self.reached.set()
        assert self.done.wait(60)
        return "met"

    def work(self, action):
        assert self.reached.wait(60)
        action()
        self.done.set()


@pytest.mark.parametrize(
    "change",
    [
        lambda g: (g["list"].clear(), g["set"].clear(), spoil()),
        lambda g: (g.clear(), spoil()),
        lambda g: g.update((f"new {i}", []) for i in range(5000)),
        lambda g: (g["list"].extend([[1]] * 5000), g["inner"].clear(), spoil()),
    ],
    ids=["parts", "root", "grow", "list"],
)
def test_another_thread_changes_the_graph(change):
    meet = Rendezvous()
    given = {
        "list": [["a"], meet, ["b"]],
        "set": {("c", i) for i in range(100)},
        "inner": {"d": ["e"], "f": ["g"]},
    }
    thread = threading.Thread(target=meet.work, args=(lambda: change(given),))
    thread.start()
    attempt(given)
    thread.join()


def test_another_thread_freezes_meanwhile():
    meet = Rendezvous()
    results = []
    thread = threading.Thread(
        target=meet.work, args=(lambda: results.append(freeze(["other", [10**20]])),)
    )
    thread.start()
    assert freeze([["a"], meet, ["b", 1.5]]) == (("a",), "met", ("b", 1.5))
    thread.join()
    assert results == [("other", (10**20,))]
    permaheap._core._testing.check()


def test_another_thread_forks_meanwhile(in_child):
    meet = Rendezvous()
    results = []

    def child():
        frozen = freeze({"child": ["text", 10**20]})
        permaheap._core._testing.check()
        return frozen == {"child": ("text", 10**20)}

    thread = threading.Thread(target=meet.work, args=(lambda: results.append(in_child(child)),))
    thread.start()
    assert freeze([["a"], meet, ["b", 1.5]]) == (("a",), "met", ("b", 1.5))
    thread.join()
    assert results == [True]
    permaheap._core._testing.check()


def test_threads_that_change_the_graph_all_the_time():
    """Switch threads as often as the interpreter can; the freezes themselves are the clock."""
    given = {"list": [[i] for i in range(50)], "dict": _dict(50), "n": Call(lambda: None)}
    stop = threading.Event()

    def change():
        i = 0
        while not stop.is_set():
            i += 1
            given["list"].append([i])
            given["dict"][f"new {i % 70}"] = [str(i)]
            given["dict"].pop(f"new {(i + 7) % 70}", None)
            if i % 40 == 0:
                given["list"].clear()
                given["dict"].clear()

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(300):
            try:
                repr(freeze(given))
            except CHANGED:
                pass
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    permaheap._core._testing.check()
