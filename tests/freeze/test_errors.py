"""Every refusal: the error, the place that it names, and a heap that is as it was before."""

import collections
import datetime
import gc
import signal
import sys
import threading
import zoneinfo
from pathlib import Path
from types import MappingProxyType

import pytest

import permaheap
from permaheap import FreezeError, freeze, freeze_each, freeze_pairs, thaw

DEPTH = 1_000_000


class Foo:
    """Has no frozen form."""

    def __repr__(self):
        return "<Foo>"


def nested(levels):
    """Return a list in a list in a list ..."""
    inner = []
    for _ in range(levels):
        inner = [inner]
    return inner


def test_kinds_of_errors():
    assert issubclass(FreezeError, TypeError)
    assert issubclass(permaheap.HandleError, ValueError)


@pytest.mark.parametrize(
    ("given", "path"),
    [
        (Foo(), "data"),
        ([1, 2, 3, Foo()], "data[3]"),
        ((1, Foo()), "data[1]"),
        ({"users": [1, 2, 3, {"profile": Foo()}]}, 'data["users"][3]["profile"]'),
        ({1: Foo()}, "data[1]"),
        ({(1, "a"): Foo()}, "data[<tuple>]"),
        ({None: {b"k": Foo()}}, "data[None][b'k']"),
        ({1.5: Foo()}, "data[1.5]"),
        ({Foo(): 1}, "data.key(<Foo>)"),
        ({(1, Foo()): 1}, "data.key(<tuple>)[1]"),
        ([{Foo()}], "data[0].element(<Foo>)"),
        ({frozenset([Foo()])}, "data.element(<frozenset>).element(<Foo>)"),
        (frozenset([(1, Foo())]), "data.element(<tuple>)[1]"),
        (slice(Foo(), 1, 2), "data.start"),
        (slice(1, Foo(), 2), "data.stop"),
        ([slice(1, 2, [Foo()])], "data[0].step[0]"),
        (collections.OrderedDict(a=1, b=Foo()), 'data["b"]'),
        (collections.Counter(a=1, b=Foo()), 'data["b"]'),
        (collections.defaultdict(list, a=[Foo()]), 'data["a"][0]'),
        (MappingProxyType({"a": Foo()}), 'data["a"]'),
        (datetime.time(1, tzinfo=zoneinfo.ZoneInfo("UTC")), "data.tzinfo"),
        (
            {"at": datetime.datetime(2026, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC"))},
            'data["at"].tzinfo',
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_path_of_an_unsupported_object(refused, given, path):
    with refused(path):
        freeze(given)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("name", '["name"]'),
        ("two words", '["two words"]'),
        ('with "quotes"', """['with "quotes"']"""),
        ("it's", """["it's"]"""),
        ("back\\slash", r"['back\\slash']"),
        ("new\nline", r"['new\nline']"),
        ("", '[""]'),
        ("caf\xe9", "['caf\xe9']"),
        (-1, "[-1]"),
        (True, "[True]"),
    ],
)
def test_path_of_keys(refused, key, text):
    with refused("data" + text):
        freeze({key: Foo()})


@pytest.mark.parametrize("key", ["\ud800", "x" * 100_000, 1 << 40_000, (1 << 40_000,)], ids=type)
def test_path_of_awkward_keys(refused, key):
    """A key that has no repr, or cannot be encoded, must not hide the error."""
    with refused(match="Foo") as caught:
        freeze({key: Foo()})
    assert caught.value.path.startswith("data[")


def test_path_of_a_key_whose_repr_fails(refused):
    class Bad:
        def __repr__(self):
            raise ZeroDivisionError

        def __freeze__(self):
            return "frozen"

    with refused(match="Foo"):
        freeze({Bad(): Foo()})
    with refused():
        freeze({(Bad(), Foo()): 1})


def test_path_through_converted_objects(refused):
    class User:
        def __init__(self, profile):
            self.profile = profile

        def __freeze__(self):
            return {"profile": self.profile, "not a name": 1}

    with refused('data["users"][3].profile'):
        freeze({"users": [1, 2, 3, User(Foo())]})
    with refused("data.profile.profile[0]"):
        freeze(User(User([Foo()])))


@pytest.mark.parametrize(
    ("result", "path"),
    [
        ({"profile": Foo()}, "data[0].profile"),
        ({"profile": {"inner": Foo()}}, 'data[0].profile["inner"]'),
        ({"not a name": Foo()}, 'data[0]["not a name"]'),
        ({1: Foo()}, "data[0][1]"),
        ([1, Foo()], "data[0][1]"),
    ],
)
def test_path_through_default(refused, result, path):
    def default(obj):
        if isinstance(obj, Foo):
            raise ValueError("no Foo")
        return result

    with refused(error=ValueError) as caught:
        freeze([object()], default=default)
    assert path in caught.value.__notes__[0]


@pytest.mark.parametrize(
    "given",
    [
        object(),
        Foo(),
        Foo,
        len,
        sys,
        iter([]),
        (i for i in ()),
        memoryview(b"x"),
        collections.deque([1]),
        collections.ChainMap({}),
        {}.keys(),
        lambda: 1,
        NotImplemented,
        type("Text", (str,), {})("x"),
        type("Number", (int,), {})(3),
        type("Items", (list,), {})([1]),
        type("Pair", (tuple,), {})((1, 2)),
        type("Table", (dict,), {})(a=1),
        type("Ordered", (collections.OrderedDict,), {})(a=1),
        type("Day", (datetime.date,), {})(2026, 1, 1),
        type("Elements", (frozenset,), {})([1]),
    ],
    ids=lambda given: type(given).__name__,
)
def test_unsupported_type_is_named(refused, given):
    name = type(given).__name__
    with refused('data["k"][0]', match=name):
        freeze({"k": [given]})
    with refused("data", match=name):
        freeze(given)


def test_type_is_named_with_its_module(refused):
    with refused("data", match=r" type some\.module\.OrderedSet: "):
        freeze(type("OrderedSet", (), {"__module__": "some.module"})())
    with refused("data", match=r" type collections\.deque: "):
        freeze(collections.deque())
    with refused("data", match=r" type test_errors\.Foo: "):
        freeze(Foo())
    with refused("data", match=r" type object: "):
        freeze(object())


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        (Path("x"), "; default=permaheap.builtin_default converts it"),
        (Foo(), "default= was not given"),
        (1j.__add__, "default= was not given"),
    ],
    ids=["path", "foo", "method"],
)
def test_error_says_when_builtin_default_would_do(refused, given, hint):
    with refused("data[0][0]") as caught:
        freeze([[given]])
    assert str(caught.value).endswith(hint)


def test_path_in_the_refusal_of_builtin_default(refused):
    with refused('data["a"][1]', match=r'^data\["a"\]\[1\]: builtin_default .* test_errors\.Foo\n'):
        freeze({"a": [1, Foo()]}, default=permaheap.builtin_default)
    with pytest.raises(FreezeError, match="builtin_default does not") as caught:
        permaheap.builtin_default(Foo())
    assert caught.value.path == ""


def make_cycles():
    """Return graphs with a cycle of each sort, and where the cycle closes."""
    in_list = []
    in_list.append(in_list)
    in_dict = {"a": [1]}
    in_dict["a"].append(in_dict)
    in_tuple = ([],)
    in_tuple[0].append(in_tuple)
    ordered = collections.OrderedDict()
    ordered["o"] = ordered
    default = collections.defaultdict(list)
    default["d"].append(default)
    inner = {}
    proxy = MappingProxyType(inner)
    inner["p"] = proxy
    sliced = []
    sliced.append(slice(sliced, None))
    far = []
    far.append([[{"x": ({"y": far},)}]])
    return {
        "list": (in_list, "data[0]"),
        "dict": (in_dict, 'data["a"][1]'),
        "tuple": (in_tuple, "data[0][0]"),
        "OrderedDict": (ordered, 'data["o"]'),
        "defaultdict": (default, 'data["d"][0]'),
        "mappingproxy": (proxy, 'data["p"]'),
        "slice": (sliced, "data[0].start"),
        "far": (far, 'data[0][0][0]["x"][0]["y"]'),
        "inside": ([1, {"k": in_list}], 'data[1]["k"][0]'),
    }


@pytest.mark.parametrize("kind", make_cycles())
def test_cycle(refused, kind):
    given, path = make_cycles()[kind]
    with refused(path, match="(?i)cycle|itself"):
        freeze(given)


def test_cycle_through_freeze_method(refused):
    class Node:
        def __init__(self):
            self.next = self

        def __freeze__(self):
            return {"next": self.next}

    node = Node()
    with refused("data.next"):
        freeze(node)
    node.next = [node]
    with refused("data[0].next[0]"):
        freeze([node])


def test_object_that_freezes_into_itself(refused):
    class Selfish:
        def __freeze__(self):
            return self

    with refused("data[0]", match=r"__freeze__\(\) of type .*Selfish returned the same object"):
        freeze([Selfish()])
    with refused("data[0]", match=r"default= returned the same object, of type test_errors\.Foo"):
        freeze([Foo()], default=lambda obj: obj)
    with refused("data", match=r"default= returned the same object"):
        freeze(Foo(), default=lambda obj: obj)


def test_cycle_through_default(refused):
    foo = Foo()
    with refused():
        freeze(foo, default=lambda obj: {"again": [obj]})


def test_cycle_through_set_element(refused):
    class Element:
        def __freeze__(self):
            return (1, owner)

    owner = {Element()}
    with refused():
        freeze(owner)


def test_cycle_of_a_million(refused):
    bottom = given = []
    for _ in range(DEPTH):
        given = [given]
    bottom.append(given)
    with refused() as caught:
        freeze(given)
    assert caught.value.path.startswith("data[0][0][0]")
    bottom.clear()


@pytest.mark.parametrize(
    "exception",
    [ValueError("mine"), KeyError("k"), SystemExit(3), KeyboardInterrupt(), MemoryError("mine"),
     RecursionError("mine"), StopIteration("mine"), TypeError("mine"), FreezeError("mine")],
    ids=lambda e: type(e).__name__,
)  # fmt: skip
@pytest.mark.parametrize("how", ["default", "method"])
def test_callback_that_raises(refused, exception, how):
    def fail(obj):
        raise exception

    class Failing:
        if how == "method":
            __freeze__ = fail

    with refused(error=type(exception)) as caught:
        freeze({"users": [1, Failing()]}, default=fail)
    assert caught.value is exception
    assert any('data["users"][1]' in note for note in exception.__notes__)


def test_note_is_added_once(refused):
    error = ValueError("mine")

    def fail(obj):
        raise error

    with refused(error=ValueError):
        freeze([[[[Foo()]]]], default=fail)
    assert len(error.__notes__) == 1


def test_nested_freeze_that_fails(refused):
    class Outer:
        def __freeze__(self):
            return freeze({"inner": Foo()})

    with refused(match="Foo") as caught:
        freeze([1, Outer()])
    assert "data[1]" in "".join(caught.value.__notes__)


def test_freeze_attribute_that_is_not_callable(refused):
    class Odd:
        __freeze__ = 5

    with refused(error=TypeError):
        freeze(Odd())


def test_method_of_the_metaclass_is_not_that_of_the_class(refused):
    class Meta(type):
        def __freeze__(cls):
            raise AssertionError

    class Odd(metaclass=Meta):
        pass

    with refused("data"):
        freeze(Odd())


def test_method_is_that_of_the_class():
    """Like all special methods: found on the type, and bound as the type says."""

    class Meta(type):
        def __freeze__(cls):
            return f"class {cls.__name__}"

    class Odd(metaclass=Meta):
        def __freeze__(self):
            return "method"

    class Static:
        __freeze__ = staticmethod(lambda: "static")

    class Whole:
        @classmethod
        def __freeze__(cls):
            return cls.__name__

    class Lazy:
        @property
        def __freeze__(self):
            return lambda: "property"

    class Callable:
        __freeze__ = str  # has no __get__

    odd = Odd()
    odd.__freeze__ = lambda: "instance"
    assert freeze([odd, Odd]) == ("method", "class Odd")
    assert freeze([Static(), Whole(), Lazy(), Callable()]) == ("static", "Whole", "property", "")


def test_method_whose_binding_fails(refused):
    class Odd:
        @property
        def __freeze__(self):
            raise ValueError("not bound")

    with refused(error=ValueError) as caught:
        freeze([Odd()])
    assert caught.value.__notes__ == ["while freezing data[0]"]


def test_method_switched_off(refused):
    class Base:
        def __freeze__(self):
            return 1

    class Odd(Base):
        __freeze__ = None

    with refused("data"):
        freeze(Odd())
    assert freeze(Odd(), default=lambda obj: 2.5) == 2.5


def test_method_with_wrong_signature(refused):
    class Odd:
        def __freeze__(self, more):
            return more

    with refused(error=TypeError):
        freeze([Odd()])


@pytest.mark.parametrize("default", [3, "x", [], object()])
def test_default_that_is_not_callable(refused, default):
    with refused(error=TypeError):
        freeze([Foo()], default=default)


class Key:
    """A key of its own identity that freezes into what it was told."""

    def __init__(self, frozen):
        self.frozen = frozen

    def __freeze__(self):
        return self.frozen

    def __repr__(self):
        return f"<Key {self.frozen!r}>"


@pytest.mark.parametrize("frozen", ["same", 10**10, (1, "a"), [1, [2]], {3}, None])
def test_keys_that_become_equal(refused, frozen):
    with refused(match="(?i)equal") as caught:
        freeze({"first": 1, Key(frozen): 2, Key(frozen): 3})
    assert caught.value.path.startswith("data.key(")
    with refused(match="(?i)equal") as caught:
        freeze([{1.5, Key(frozen), Key(frozen)}])
    assert caught.value.path.startswith("data[0].element(")


def test_keys_that_become_equal_to_ordinary_ones(refused):
    with refused('data.key("a")'):
        freeze({"a": 1, Key("a"): 2})
    with refused():
        freeze({Key("a"): 2, "a": 1})
    with refused():
        freeze({1: 1, Key(1.0): 2})
    with refused():
        freeze({True, Key(1)})
    with refused():
        freeze({(1, 2): 1, Key([1.0, 2.0]): 2})


def test_nan_keys_that_become_one(refused):
    """Equal atoms are stored once, and an object is equal to itself as a key, even a NaN."""
    with refused():
        freeze({float("nan"): 1, float("nan"): 2})
    with refused():
        freeze({float("nan"), float("nan")})


@pytest.mark.parametrize(
    "make", [lambda: {"a": 1}, lambda: ({"a": 1},), lambda: [[{}]], lambda: MappingProxyType({})]
)
@pytest.mark.skipif(sys.version_info >= (3, 15), reason="frozendict is hashable")
def test_keys_that_become_unhashable(refused, make):
    with refused(match="(?i)hash") as caught:
        freeze({"first": 1, Key(make()): 2})
    assert caught.value.path.startswith("data.key(")
    with refused(match="(?i)hash"):
        freeze([{Key(make())}])


@pytest.mark.skipif(sys.version_info < (3, 15), reason="a frozen mapping is not hashable")
def test_mapping_as_key():
    frozen = freeze({Key({"a": 1}): 2})
    assert frozen[next(iter(frozen))] == 2


def test_mapping_proxy_over_a_hostile_mapping(refused):
    class Hostile(collections.UserDict):
        def keys(self):
            raise ZeroDivisionError

        __iter__ = items = __len__ = keys

    with refused(error=(ZeroDivisionError, FreezeError)):
        freeze(MappingProxyType(Hostile(a=1)))


@pytest.mark.parametrize("function", [freeze_each, freeze_pairs])
def test_stream_that_fails(refused, function):
    def items():
        for i in range(10_000):
            yield (i, [i, str(i) * 10])
        raise ZeroDivisionError

    with refused(error=ZeroDivisionError):
        function(items())


def test_path_in_a_stream(refused):
    with refused("data[2][1]"):
        freeze_each(iter([1, 2, [3, Foo()]]))
    with refused('data["b"][0]'):
        freeze_pairs(iter([("a", 1), ("b", [Foo()])]))
    with refused("data.key(<of pair 1>)[1]"):
        freeze_pairs([("a", 1), ((1, Foo()), 1)])


@pytest.mark.parametrize("pairs", [[1], [("a",)], [("a", 1, 2)], [()], ["abc"], [None]], ids=repr)
def test_pairs_that_are_none(refused, pairs):
    with refused(error=(TypeError, ValueError)):
        freeze_pairs([("ok", [1]), *pairs])


def test_failures_after_much_work(refused):
    with refused("data[100000]"):
        freeze([*([i, str(i)] for i in range(100_000)), Foo()])


def test_a_thousand_failures(unchanged):
    reserved = permaheap.stats().reserved
    with unchanged():
        for i in range(1000):
            with pytest.raises(FreezeError):
                freeze([str(j) * 20 for j in range(i % 50)] + [Foo()])
    assert permaheap.stats().reserved == reserved


def test_freeze_works_after_a_failure():
    with pytest.raises(FreezeError):
        freeze([{"a": [1.5]}, Foo()])
    assert freeze([{"a": [1.5]}]) == ({"a": (1.5,)},)


def test_failed_freeze_lets_go_of_everything():
    foo = Foo()
    given = [[foo, 10**30]]
    before = [sys.getrefcount(part) for part in (given, given[0], foo, given[0][1])]
    with pytest.raises(FreezeError):
        freeze(given)
    assert [sys.getrefcount(part) for part in (given, given[0], foo, given[0][1])] == before


def test_a_million_levels():
    frozen = freeze(nested(DEPTH))
    thawed = thaw(frozen)
    levels = 0
    while frozen:
        (frozen,) = frozen
        levels += 1
    assert levels == DEPTH
    while thawed:
        assert type(thawed) is list
        (thawed,) = thawed
        levels -= 1
    assert levels == 0


@pytest.mark.parametrize("kind", ["dict", "tuple", "slice", "converted"])
def test_a_hundred_thousand_levels_of(kind):
    wrap = {
        "dict": lambda inner: {"k": inner},
        "tuple": lambda inner: (inner,),
        "slice": lambda inner: slice(inner, None),
        "converted": lambda inner: Key([inner]),
    }[kind]
    given = []
    for _ in range(100_000):
        given = wrap(given)
    frozen = freeze(given)
    thaw(frozen)
    levels = 0
    while frozen != ():
        frozen = {
            "dict": lambda f: f["k"],
            "tuple": lambda f: f[0],
            "slice": lambda f: f.start,
            "converted": lambda f: f[0],
        }[kind](frozen)
        levels += 1
    assert levels == 100_000
    while given != []:  # take it apart: some kinds free themselves recursively
        given = {
            "dict": lambda g: g["k"],
            "tuple": lambda g: g[0],
            "slice": lambda g: g.start,
            "converted": lambda g: g.frozen[0],
        }[kind](given)


def test_conversions_without_end(refused):
    """Each default in turn returns another object that has no form: that is an error, no hang."""
    with refused("data[0]"):
        freeze([Foo()], default=lambda obj: Foo())


DEEP_KEY = """
import permaheap
key = ()
for _ in range(1_000_000):
    key = (key,)
class Deep:
    def __freeze__(self):
        return {kind}
try:
    permaheap.freeze({{"deep": {graph}}})
except (RecursionError, MemoryError, permaheap.FreezeError):
    pass
permaheap._core._testing.check()
print("alive", flush=True)
import os
os._exit(0)  # freeing the key is the interpreter's own affair
"""


@pytest.mark.parametrize(
    ("graph", "kind"),
    [
        ("{Deep(): 1}", "key"),
        ("{Deep()}", "(1, key)"),
        ("{Deep(): 1, 2: Deep()}", "frozenset([1]), key"),
        ("{Deep(): 1}", "slice(key)"),
    ],
)
def test_deep_key(run, graph, kind):
    """Where CPython's hash() would overflow the C stack, freeze must not."""
    done = run(DEEP_KEY.format(graph=graph, kind=kind))
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr[-500:]


@pytest.fixture
def no_collections():
    """The collector calls a hook of Hypothesis. An exception of a signal handler is lost in it."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.parametrize("seconds", [0.001, 0.01, 0.05])
@pytest.mark.parametrize("function", ["freeze", "freeze_each", "freeze_pairs"])
def test_ctrl_c(refused, no_collections, seconds, function):
    """A signal handler that raises ends a freeze that would take far longer."""
    given = [[i, str(i)] for i in range(10**6, 10**6 + 700_000)]
    calls = {
        "freeze": lambda: freeze(given),
        "freeze_each": lambda: freeze_each(given),
        "freeze_pairs": lambda: freeze_pairs(given),
    }

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with refused(error=KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, seconds)
            calls[function]()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_ctrl_c_from_a_thread(refused):
    """SIGINT itself, sent by another thread from within the freeze."""
    main = threading.get_ident()

    class Interrupting:
        def __freeze__(self):
            sender = threading.Thread(target=signal.pthread_kill, args=(main, signal.SIGINT))
            sender.start()
            sender.join()
            return "unreachable"

    with refused(error=KeyboardInterrupt):
        freeze([1, Interrupting(), [2]])


def test_ctrl_c_stops_a_thaw(no_collections):
    frozen = freeze([[i, str(i)] for i in range(700_000)])

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.005)
            thaw(frozen)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("obj", [[1], object(), "not " + str(object()), 10**40], ids=type)
def test_share_of_what_is_not_frozen(obj):
    with pytest.raises(TypeError):
        permaheap.share(obj)
