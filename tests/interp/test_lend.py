"""Lending: proxies, their buffers, and calls, between interpreters that live, end and fork."""

import array
import builtins
import gc
import mmap
import os
import pickle
import struct
import sys
import sysconfig
import threading
import types
import weakref

import pytest

import permaheap
from interpreters import Failed, Interpreter
from permaheap import Borrowed, Loan, LoanError, call, lend

pytestmark = pytest.mark.no_sanitizer("crowds of processes or interpreters are too slow")

pack, unpack = permaheap._core._testing.pack, permaheap._core._testing.unpack

DEBUG = bool(sysconfig.get_config_var("Py_DEBUG"))

# Opens what main has lent, in another interpreter.
OPEN = """
import pickle
import permaheap
from permaheap import LoanError, call
proxy = pickle.loads(name).open(writable=True)
"""

# Lends an actor of another interpreter to main.
ACTOR = """
import builtins
import contextvars
import os
import threading
import permaheap
from permaheap import call

depth = contextvars.ContextVar("depth", default=0)

class Actor:
    def __init__(self):
        self.items = []

    def add(self, *items):
        self.items.extend(items)
        return len(self.items)

    def get(self):
        return self.items

    def describe(self, *args, **kwargs):
        return args, kwargs

    def take(self, item, /, *, into="items"):
        getattr(self, into).append(item)
        return into

    def fail(self):
        raise LookupError("no such thing", 7)

    def fail_in_a_class_of_ours(self):
        class Odd(Exception):
            pass
        raise Odd("odd", object())

    def fail_with(self, name):
        raise getattr(builtins, name)

    def function(self):
        return lambda: None

    def back(self, other, method, *args, **kwargs):
        return call(other, method, *args, **kwargs)

    def bounce(self, other, n):
        return n if n == 0 else call(other, "bounce", self_loan, n - 1)

    def is_mine(self, other):
        return other is self

    def where(self):
        return thread_names(), depth.get()

    def lend_items(self):
        return permaheap.lend(self.items)

    def wait(self, entered, released):
        os.write(entered, b"x")
        return os.read(released, 1)

def thread_names():
    return threading.get_ident()

actor = Actor()
self_loan = permaheap.lend(actor)
result = bytes(self_loan).hex()
"""


LEND_DATA = """
loan = permaheap.lend(data)
result = bytes(loan).hex()
"""


class Local(list):
    """A list that can be referred to weakly, so that its end shows."""


def name_of(loan):
    return pickle.dumps(loan)


def actor_of(interpreter):
    return Loan.from_bytes(bytes.fromhex(interpreter.ask(ACTOR)))


@pytest.fixture
def other():
    with Interpreter() as interpreter:
        # 3.12 waits without end for the thread that imported this, if it was another one.
        interpreter.run("import threading")
        yield interpreter


class Both:
    """An object of main that calls others."""

    def add(self, *items):
        return len(items)

    def bounce(self, other, n):
        return n if n == 0 else call(other, "bounce", self.loan, n - 1)

    def fall(self, other):
        return call(other, "back", self.loan, "fall", other)

    def who(self):
        return threading.get_ident()


# --- Loan and proxy ---------------------------------------------------------------------------


def test_owner_opens_the_object_itself():
    obj = object()
    loan = lend(obj)
    assert loan.alive
    assert loan.open() is obj
    assert loan.open(writable=True) is obj


def test_a_loan_is_a_value():
    first, second = lend([1]), lend([1])
    assert first != second
    copy = pickle.loads(pickle.dumps(first))
    assert copy == first
    assert hash(copy) == hash(first)
    assert len({first, copy, second}) == 2
    assert Loan.from_bytes(bytes(first)) == first
    assert "list" in repr(first)


def test_a_proxy_forwards_nothing(other):
    loan = lend([1, 2, 3])
    shown = other.ask(
        OPEN
        + "result = [repr(proxy), type(proxy).__name__, proxy.alive, hasattr(proxy, 'append')]",
        name=name_of(loan),
    )
    assert shown == ["<permaheap.Borrowed of list of interpreter 0>", "Borrowed", True, False]


def test_lenders_end_loans():
    loan = lend([1])
    copy = pickle.loads(pickle.dumps(loan))
    loan.close()
    loan.close()
    assert not copy.alive
    for closed in loan, copy, pickle.loads(pickle.dumps(loan)):
        with pytest.raises(LoanError, match=r"closed|over"):
            closed.open()
    with pytest.raises(LoanError):
        call(loan, "append", 1)


def test_a_closed_proxy(other):
    loan = lend(bytearray(10))
    other.run(
        OPEN
        + """
view = memoryview(proxy)
try:
    proxy.close()
except BufferError as error:
    assert "in use, by 1 memoryviews" in str(error)
else:
    raise AssertionError
view.release()
proxy.close()
proxy.close()
assert not proxy.alive
assert repr(proxy) == "<permaheap.Borrowed, closed>"
for use in (memoryview, pickle.dumps, lambda proxy: proxy.loan, lambda proxy: call(proxy, "pop")):
    try:
        use(proxy)
    except LoanError as error:
        assert "closed" in str(error)
    else:
        raise AssertionError(use)
""",
        name=name_of(loan),
    )


# --- Holders of a loan ------------------------------------------------------------------------


def test_one_reference_however_many_hold(other):
    obj = Local()
    before = sys.getrefcount(obj)
    loan = lend(obj)
    assert sys.getrefcount(obj) == before + 1
    other.run(OPEN + "more = [pickle.loads(name).open() for _ in range(10)]", name=name_of(loan))
    assert sys.getrefcount(obj) == before + 1
    del loan
    assert sys.getrefcount(obj) == before + 1
    other.run("del proxy, more[1:]")
    assert sys.getrefcount(obj) == before + 1
    other.run("more.clear()")
    assert sys.getrefcount(obj) == before


def test_a_loan_elsewhere_holds_until_it_is_closed(other):
    obj = Local()
    before = sys.getrefcount(obj)
    loan = lend(obj)
    other.run("import pickle\nloan = pickle.loads(name)", name=name_of(loan))
    loan.close()
    assert sys.getrefcount(obj) == before
    other.run("assert not loan.alive")


def test_the_last_reference_is_dropped_in_the_owner(other):
    class Ends:
        def __del__(self):
            ended.append((threading.get_ident(), permaheap.lend(self).open() is self))

    ended = []
    loan = lend(Ends())
    other.run(OPEN, name=name_of(loan))
    del loan
    gc.collect()
    assert ended == []
    thread = threading.Thread(target=other.run, args=("del proxy",))
    thread.start()
    thread.join()
    assert ended == [(ended[0][0], True)]
    assert ended[0][0] != threading.get_ident()


def test_ends_while_an_exception_is_set(other):
    loan = lend(Local())
    gone = weakref.ref(loan.open())
    other.run(
        OPEN
        + """
def fail(proxy):
    raise ValueError("it stays")

try:
    fail(pickle.loads(name).open())
except ValueError as error:
    assert str(error) == "it stays"
    del error
del proxy
""",
        name=name_of(loan),
    )
    assert gone() is not None
    del loan
    assert gone() is None


THREAD_LOCAL = """
import threading
import permaheap

local = threading.local()

class Calls:
    def __init__(self, loan):
        self.loan = loan

    def __del__(self):
        permaheap.call(self.loan, "append", "from a thread that ends")

class Keeps:
    def keep(self, loan, proxy):
        local.calls = Calls(loan)
        local.proxy = proxy

loan = permaheap.lend(Keeps())
result = bytes(loan).hex()
"""


def test_ends_with_the_thread_that_holds_it(other):
    """In a thread state that is being cleared: one made for an attachment, and a borrower's own."""
    log, obj = [], Local()
    before = sys.getrefcount(obj)
    keeps = Loan.from_bytes(bytes.fromhex(other.ask(THREAD_LOCAL)))
    log_loan, loan = lend(log), lend(obj)
    call(keeps, "keep", log_loan, loan)
    assert log == ["from a thread that ends"]
    other.run(
        """
import pickle
def work():
    local.calls = Calls(pickle.loads(log_name))
    local.proxy = pickle.loads(name).open()
    pickle.loads(name).close()  # so that the proxy is the last one
thread = threading.Thread(target=work)
thread.start()
thread.join()
""",
        name=name_of(loan),
        log_name=name_of(log_loan),
    )
    assert log == ["from a thread that ends"] * 2
    assert sys.getrefcount(obj) == before


# --- Handing back -------------------------------------------------------------------------------


def test_what_comes_back_is_the_object(other):
    obj = Local()
    loan = lend(obj)
    named = other.ask(OPEN + "result = bytes(proxy.loan).hex()", name=name_of(loan))
    assert Loan.from_bytes(bytes.fromhex(named)).open() is obj
    pickled = other.ask(OPEN + "result = pickle.dumps(proxy).hex()", name=name_of(loan))
    assert pickle.loads(bytes.fromhex(pickled)) is obj
    loan.close()
    pickled = other.ask("result = pickle.dumps(proxy).hex()")
    assert pickle.loads(bytes.fromhex(pickled)) is obj


def test_a_proxy_as_argument(other):
    class Owner:
        def has(self, *args):
            return [each is self or each is item for each in args]

    item, owner = Local(), Owner()
    loan, lent = lend(owner), lend(item)
    found = other.ask(
        OPEN
        + "item = pickle.loads(item).open()\n"
        + "result = call(proxy, 'has', proxy, item, item.loan, 1)",
        name=name_of(loan),
        item=name_of(lent),
    )
    assert found == [True, True, False, False]
    assert lent.alive


# --- Buffers ------------------------------------------------------------------------------------


def exporters():
    yield bytearray(b"0123456789" * 100)
    yield array.array("d", range(100))
    yield mmap.mmap(-1, 8192)
    yield memoryview(bytearray(24)).cast("i", shape=[2, 3])
    yield bytearray(3)  # small: in the interpreter's own memory
    try:
        import numpy
    except ImportError:
        return
    yield numpy.arange(12, dtype="f4").reshape(3, 4)[:, ::2]


@pytest.mark.parametrize("obj", list(exporters()), ids=lambda obj: type(obj).__name__)
def test_views_have_the_owners_bytes(other, obj):
    with memoryview(obj) as own:
        expected = [
            own.format,
            list(own.shape),
            list(own.strides),
            own.itemsize,
            own.tobytes().hex(),
        ]
    loan = lend(obj)
    shown = other.ask(
        OPEN
        + """
with memoryview(pickle.loads(name).open()) as view:
    assert view.readonly
    result = [view.format, list(view.shape), list(view.strides), view.itemsize]
    result.append(view.tobytes().hex())
""",
        name=name_of(loan),
    )
    assert shown == expected


def test_a_view_is_no_copy(other):
    data = bytearray(100)
    loan = lend(data)
    other.run(OPEN + "view = memoryview(proxy)\nview[0] = 7", name=name_of(loan))
    assert data[0] == 7
    data[1] = 8
    other.run("assert view[1] == 8")
    with pytest.raises(BufferError):
        data.append(1)
    other.run("view.release()")
    data.append(1)


def test_views_are_read_only_unless_asked_for(other):
    loan = lend(bytearray(10))
    other.run(
        OPEN
        + """
import array
with memoryview(pickle.loads(name).open()) as view:
    assert view.readonly
with memoryview(proxy) as view:
    assert not view.readonly
with open("/dev/zero", "rb", buffering=0) as zeros:
    assert zeros.readinto(proxy) == 10
    try:
        zeros.readinto(pickle.loads(name).open())
    except (BufferError, TypeError):
        pass
    else:
        raise AssertionError
""",
        name=name_of(loan),
    )


def test_constant_bytes_stay_constant(other):
    loan = lend(b"constant" * 10)
    other.run(OPEN + "assert memoryview(proxy).readonly", name=name_of(loan))


def test_no_buffer(other):
    loan = lend([1])
    with pytest.raises(Failed, match="no buffer of this list of interpreter 0: TypeError"):
        other.run(OPEN + "memoryview(proxy)", name=name_of(loan))


# --- call ------------------------------------------------------------------------------------


def test_an_array_of_objects_lends_no_buffer(other):
    numpy = pytest.importorskip("numpy")
    array = numpy.array(["here", None], dtype=object)
    loan = lend(array)
    other.run(OPEN, name=name_of(loan))
    with pytest.raises(Failed, match="its items are Python objects"):
        other.run("memoryview(proxy)")


def test_an_actor(other):
    actor = actor_of(other)
    assert call(actor, "add", 1, "two") == 2
    proxy = actor.open()
    assert call(proxy, "add", [3.0, {"four": (4,)}]) == 3
    assert call(proxy, "get") == [1, "two", [3.0, {"four": (4,)}]]
    assert other.ask("result = actor.items") == [1, "two", [3.0, {"four": [4]}]]


def test_keyword_arguments(other):
    actor = actor_of(other)
    assert call(actor, "describe", 1, a=2, b=[3.0]) == ((1,), {"a": 2, "b": [3.0]})
    assert call(actor.open(), "describe", a=1) == ((), {"a": 1})
    assert call(actor, "describe", 1, **{}) == ((1,), {})
    # Names are the method's, also those that call() has for its own.
    named = {"target": 1, "method": 2, "module": 3, "größe": 4, "no name": 5}
    assert call(actor, "describe", **named) == ((), named)
    assert call(actor, "take", "item") == "items"
    assert call(actor, "take", "other item", into="items") == "items"
    assert other.ask("result = actor.items") == ["item", "other item"]
    # Through two interpreters, and at home.
    assert call(actor, "back", actor, "describe", 1, a=actor) == ((1,), {"a": actor})
    assert call(lend({"c": 1}), "copy") == {"c": 1}
    home = lend(["a", "ccc", "bb"])
    call(home, "sort", key=len, reverse=True)
    assert home.open() == ["ccc", "bb", "a"]


def test_what_travels_by_keyword(other):
    actor = actor_of(other)
    frozen, buffer = permaheap.freeze({"a": [1, 2]}), permaheap.Buffer.of(b"moved")
    item = permaheap.move(buffer)
    assert call(actor, "describe", frozen=frozen)[1]["frozen"] is frozen
    assert call(actor, "is_mine", other=actor.open())
    assert call(actor, "describe", pickled=LookupError)[1]["pickled"] is LookupError
    shared = [1]
    (first,), kwargs = call(actor, "describe", shared, same=shared)
    assert kwargs["same"] is first
    returned = call(actor, "describe", buffer=permaheap.Buffer.of(b"read-only").toreadonly())
    assert bytes(returned[1]["buffer"]) == b"read-only"
    with pytest.raises(TypeError, match="nothing"):
        call(actor, "take", item, nothing=1)
    with pytest.raises(ValueError, match="released"):
        memoryview(item)  # it had arrived


def test_wrong_keywords(other):
    actor = actor_of(other)
    with pytest.raises(TypeError, match="unexpected keyword argument 'n'") as caught:
        call(actor, "add", 1, n=2)
    assert "by add() of Actor" in caught.value.__notes__[0]
    with pytest.raises(TypeError, match="positional-only"):
        call(actor, "take", item=1)
    with pytest.raises(TypeError, match="no keyword arguments"):
        call(lend([]), "append", object=1)
    with pytest.raises(TypeError, match="call: needed are"):
        call(actor, method="get")
    with pytest.raises(TypeError, match="call: needed are"):
        call(target=actor, method="get")
    assert call(actor, "get") == []


def test_keyword_arguments_that_cannot_travel(other):
    actor = actor_of(other)
    buffer = permaheap.move(permaheap.Buffer.of(b"mine"))
    for wrong in (lambda: None, sys.stdout, permaheap.Buffer(1)):
        with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
            call(actor, "take", buffer, into=wrong)
    assert bytes(buffer) == b"mine"
    assert call(actor, "get") == []


def test_permanent_objects_come_and_go_by_reference(other):
    actor = actor_of(other)
    frozen = permaheap.freeze({"a": [1, 2]})
    call(actor, "add", frozen)
    assert call(actor, "get")[0] is frozen


def test_buffers_are_moved(other):
    actor = actor_of(other)
    buffer = permaheap.Buffer.of(b"moved")
    call(actor, "add", permaheap.move(buffer))
    with pytest.raises(ValueError, match="released"):
        memoryview(buffer)
    assert other.ask("result = bytes(actor.items[0]).decode()") == "moved"
    other.run("actor.items = permaheap.move(actor.items[0])")
    assert bytes(call(actor, "get")) == b"moved"


def test_what_pickle_leaves_out(other):
    """Permanent objects and Buffers go by reference in objects that only pickle can carry."""
    actor, frozen = actor_of(other), permaheap.freeze(["here"])
    moved, channel = permaheap.move(permaheap.Buffer.of(b"moved")), permaheap.Channel()
    value = types.SimpleNamespace(frozen=frozen, moved=moved, channel=channel, actor=actor)
    call(actor, "add", value)
    assert moved.released
    other.run("item = actor.items[0]; item.channel.send(bytes(item.moved))")
    other.run("item.channel.send(item.actor.open() is actor)")
    other.run("item.moved = permaheap.move(item.moved)")
    assert [channel.recv(), channel.recv()] == [b"moved", True]
    (back,) = call(actor, "get")
    assert back.frozen is frozen and bytes(back.moved) == b"moved" and back.channel == channel


def test_loans_travel_through_channels(other):
    channel = permaheap.Channel()
    obj = Local()
    loan = lend(obj)
    other.run(
        OPEN + "channel = pickle.loads(channel)\nchannel.send([proxy, proxy.loan])",
        name=name_of(loan),
        channel=pickle.dumps(channel),
    )
    proxy, name = channel.recv()
    assert proxy is obj
    assert name == loan


class Item:
    """Hashed and compared by code of ours, which may fail."""

    def __init__(self, number):
        self.number = number

    def __hash__(self):
        half = [o for o in gc.get_objects() if type(o) is list and len(o) == HALF]
        assert not [o for o in half if len(gc.get_referents(o)) < HALF]
        if self.number == 3:
            raise ValueError("our own error")
        return self.number

    def __eq__(self, other):
        return self.number == other.number


HALF = 12345  # the length of a list in which a message was read half


@pytest.fixture
def send(other):
    """Give a function that sends an expression of four proxies from another interpreter."""
    loans = [lend(obj) for obj in (Item(1), Item(1), Item(3), [7])]
    opened = "a, b, c, d = [loan.open() for loan in pickle.loads(loans)]"
    other.run(f"import pickle, permaheap\n{opened}", loans=pickle.dumps(loans))

    def send(expression, **options):
        channel = permaheap.Channel(**options)
        other.run(f"pickle.loads(channel).send({expression})", channel=pickle.dumps(channel))
        return channel

    return send


@pytest.mark.parametrize(
    ("expression", "length"),
    [("[{a: 1}] + [0] * (12345 - 1)", HALF), ("{a: 1, b: 2}", 1), ("{a, b}", 1),
     ("frozenset({a})", 1), ("{(0, (a, 1)): 1}", 1), ("{frozenset({a}): 1}", 1),
     ("[k := (a, 1), {k: 1}, k]", 3), ("__import__('collections').Counter([a])", 1)],
)  # fmt: skip
def test_a_proxy_as_key_is_hashed_outside_of_the_message(send, expression, length):
    channel = send(expression)
    assert len(channel.recv()) == length
    assert channel.stats()["pickled"] == 1


@pytest.mark.parametrize("expression", ["{c: 1}", "{c}", "{(c,): 1}", "[{1: {c}}]"])
def test_errors_of_a_lent_key_pass_as_they_are(send, expression):
    with pytest.raises(ValueError) as caught:
        send(expression).recv()
    assert type(caught.value) is ValueError
    assert str(caught.value) == "our own error"


@pytest.mark.parametrize("expression", ["{d: 1}", "{d}", "{(d,): 1}"])
def test_a_lent_key_that_is_not_hashable(send, expression):
    with pytest.raises(TypeError, match="unhashable type: 'list'"):
        send(expression).recv()


@pytest.mark.parametrize(
    "expression",
    ["[c, d]", "{1: c, 2: (d,)}", "slice(c, d)", "{'x': [c], 'y': {2: c}}", "(c, (d, (c, d)))",
     "__import__('collections').defaultdict(int, {1: c})", "{(): [(c, d)]}"],
)  # fmt: skip
def test_a_proxy_that_is_no_key_needs_no_pickle(send, expression):
    send(expression, pickle=False).recv()


def test_forged_key_that_was_lent():
    """The reader holds to it by itself."""
    loan = lend(Item(3))
    tag, number = pack([loan])[2:4]  # of the type Loan; Borrowed is the next
    message = bytes([tag & 0x7F, number + 1]) + struct.pack("=Q", 0) + bytes(loan)
    assert type(unpack(message)) is Item
    for form in (bytes([pack({1})[0], 1]), bytes([pack({(): 1})[0], 1])):
        for inner in (message, bytes([pack((1,))[0], 1]) + message):
            with pytest.raises(permaheap.MessageError, match="a key is an object that was lent"):
                unpack(form + inner + pack(None) * (form[0] == pack({(): 1})[0]))


def test_a_call_at_home_copies_as_well():
    obj = [[1]]
    result = call(lend(obj), "copy")
    assert result == obj
    assert result[0] is not obj[0]


def test_calls_with_objects_of_three(other):
    with Interpreter() as third:
        actor, item = actor_of(other), actor_of(third)
        assert call(actor, "is_mine", actor.open())
        assert not call(actor, "is_mine", item.open())
        assert call(actor, "back", item, "add", 5) == 1
        assert call(actor, "back", item.open(), "get") == [5]


def test_exceptions_come_back(other):
    actor = actor_of(other)
    with pytest.raises(LookupError, match="no such thing") as caught:
        call(actor, "fail")
    assert caught.value.args == ("no such thing", 7)
    assert "by fail() of Actor" in caught.value.__notes__[0]
    assert "in fail" in caught.value.__notes__[0]
    for name in "KeyboardInterrupt", "SystemExit", "MemoryError", "StopIteration":
        with pytest.raises(getattr(builtins, name)):
            call(actor, "fail_with", name)


def test_exceptions_that_cannot_come_back(other):
    actor = actor_of(other)
    with pytest.raises(LoanError, match=r"fail_in_a_class_of_ours\(\) of Actor: .*Odd: .*odd"):
        call(actor, "fail_in_a_class_of_ours")
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        call(actor, "function")
    with pytest.raises(AttributeError, match="nothing") as caught:
        call(actor, "nothing")
    assert "of Actor" in caught.value.__notes__[0]


ODD_ERRORS = """
import permaheap

class Text(str):
    pass

class Odd(Exception):
    def __str__(self):
        return Text("text of a class of ours")

class Fails:
    def text(self):
        raise Odd

    def notes(self, notes):
        error = ValueError("noted")
        error.__notes__ = notes
        raise error

loan = permaheap.lend(Fails())
result = bytes(loan).hex()
"""


def test_odd_exceptions_arrive(other):
    fails = Loan.from_bytes(bytes.fromhex(other.ask(ODD_ERRORS)))
    with pytest.raises(LoanError, match="Odd: text of a class of ours"):
        call(fails, "text")
    for notes in 5, ("no list",), None:
        with pytest.raises(ValueError) as caught:  # match= would look at the notes
            call(fails, "notes", notes)
        assert str(caught.value) == "noted"


def test_arguments_that_cannot_travel(other):
    actor = actor_of(other)
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        call(actor, "add", lambda: None)
    with pytest.raises((pickle.PicklingError, AttributeError, TypeError)):
        call(actor, "add", sys.stdout)
    assert call(actor, "get") == []


def test_call_checks_its_arguments():
    for args in (), (lend([]),), (lend([]), 1), ([], "append"):
        with pytest.raises(TypeError, match="call: "):
            call(*args)


def test_a_loan_in_a_result_has_arrived(other):
    actor = actor_of(other)
    loan = call(actor, "lend_items")
    assert loan.alive
    call(loan, "append", "here")
    assert call(actor, "get") == ["here"]


def test_what_an_attached_thread_sees(other):
    actor = actor_of(other)
    other.run("depth.set(3)")
    thread, depth = call(actor, "where")
    assert thread == threading.get_ident()
    assert depth == 0


def test_there_and_back(other):
    actor = actor_of(other)
    here = Both()
    here.loan = lend(here)
    local = threading.local()
    local.value = 5

    class Looks:
        def look(self):
            return local.value

    looks = lend(Looks())
    assert call(actor, "back", looks, "look") == 5  # the same thread state
    assert call(actor, "bounce", here.loan, 20) == 0
    assert call(actor, "back", here.loan, "who") == threading.get_ident()


def test_recursion_ends(run):
    """In a process of its own: how deep it goes is up to the stack."""
    done = run("""
from test_lend import *
with Interpreter() as other:
    here = Both()
    here.loan = lend(here)
    actor = actor_of(other)
    try:
        call(actor, "back", here.loan, "fall", actor)
    except RecursionError:
        print("RecursionError")
    assert call(actor, "add", 1) == 1
    here.loan.close()
    del here
""")
    assert (done.returncode, done.stdout) == (0, "RecursionError\n"), done.stderr


RING = """
from permaheap import lend
class Link:
    def follow(self, loan):
        self.next = loan
    def go(self, n):
        return n if n == 0 else permaheap.call(self.next, "go", n - 1)
loan = permaheap.lend(Link())
result = bytes(loan).hex()
"""


def test_recursion_through_many_interpreters_ends(run):
    """Each counts only its own part of it; the stack is one."""
    done = run(f"""
from test_lend import *
others = [Interpreter() for _ in range(12)]
ring = [Loan.from_bytes(bytes.fromhex(each.ask("import permaheap" + {RING!r}))) for each in others]
for link, following in zip(ring, ring[1:] + ring[:1]):
    call(link, "follow", following)
assert call(ring[0], "go", 100) == 0
try:
    call(ring[0], "go", 100_000)
except RecursionError:
    print("RecursionError")
assert call(ring[0], "go", 100) == 0
for each in others:
    each.close()
""")
    assert (done.returncode, done.stdout) == (0, "RecursionError\n"), done.stderr


# --- Busy and idle owners ----------------------------------------------------------------------


def test_an_idle_owner(other):
    """The main thread waits in a system call during the call."""
    reader, writer = os.pipe()
    data = bytearray(b"idle")
    loan = lend(data)
    code = OPEN + "import os\ncall(proxy, 'extend', b' owner')\ndel proxy\nos.write(writer, b'x')"
    thread = threading.Thread(
        target=other.run, args=(code,), kwargs={"name": name_of(loan), "writer": writer}
    )
    thread.start()
    assert os.read(reader, 1) == b"x"
    assert data == b"idle owner"
    thread.join()
    os.close(reader)
    os.close(writer)


def test_a_busy_owner(other):
    """Main never waits."""
    done = []
    loan = lend(done)
    thread = threading.Thread(
        target=other.run, args=(OPEN + "call(proxy, 'append', 1)",), kwargs={"name": name_of(loan)}
    )
    thread.start()
    while not done:
        pass
    thread.join()
    assert done == [1]


def test_both_directions_at_once(other):
    """Several threads call from main into the other, and from there into main."""
    actor = actor_of(other)
    here = Both()
    here.loan = lend(here)
    results = []

    def from_here():
        results.extend(call(actor, "bounce", here.loan, 6) for _ in range(30))

    there = f"""
import threading
here = permaheap.Loan.from_bytes(bytes.fromhex({bytes(here.loan).hex()!r}))
def from_there():
    for _ in range(30):
        assert call(here, "bounce", self_loan, 7) == 0
threads = [threading.Thread(target=from_there) for _ in range(3)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""
    threads = [threading.Thread(target=from_here) for _ in range(3)]
    threads.append(threading.Thread(target=other.run, args=(there,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [0] * 90


# --- Interpreters that end ---------------------------------------------------------------------


def test_the_owner_ends_first():
    owner = Interpreter()
    loan = actor_of(owner)
    proxy = loan.open()
    assert (loan.alive, proxy.alive) == (True, True)
    owner.close()
    assert (loan.alive, proxy.alive) == (False, False)
    with pytest.raises(LoanError, match="has ended"):
        loan.open()
    with pytest.raises(LoanError, match="has ended"):
        call(proxy, "get")
    with pytest.raises(LoanError, match="has ended"):
        memoryview(proxy)
    with pytest.raises(LoanError, match="has ended"):
        proxy.loan.open()
    assert "Actor" in repr(proxy)
    del proxy, loan


@pytest.mark.parametrize("size", [16, 100_000])
def test_views_outlive_the_owner(size):
    owner = Interpreter()
    code = f"import permaheap\ndata = bytearray(b'x' * {size})\n{LEND_DATA}"
    proxy = Loan.from_bytes(bytes.fromhex(owner.ask(code))).open(writable=True)
    view = memoryview(proxy)
    owner.close()
    assert bytes(view) == b"x" * size
    view[0] = 1
    with Interpreter() as another:
        another.run(f"more = [bytearray({size}) for _ in range(100)]")
    assert view[0] == 1
    assert view[1:] == b"x" * (size - 1)
    view.release()
    assert not proxy.alive


def test_the_owner_drops_what_it_lent_when_it_ends():
    reader, writer = os.pipe()
    owner = Interpreter()
    code = """
import os, permaheap
class Ends:
    def __del__(self):
        write(pipe, b"x")
write = os.write
loan = permaheap.lend(Ends())
result = bytes(loan).hex()
"""
    loan = Loan.from_bytes(bytes.fromhex(owner.ask(f"pipe = {writer}\n{code}")))
    proxy = loan.open()
    owner.close()
    os.close(writer)
    assert os.read(reader, 10) == b"x"
    os.close(reader)
    assert not proxy.alive


def test_the_borrower_ends_first():
    data, plain = bytearray(10), Local()
    before = sys.getrefcount(data), sys.getrefcount(plain)
    loans = [lend(data), lend(plain)]
    names = [name_of(loan) for loan in loans]
    with Interpreter() as borrower:
        borrower.run(
            """
import pickle, permaheap
proxies = [pickle.loads(name).open() for name in names]
views = [memoryview(proxies[0]) for _ in range(3)]
cycle = [proxies[1]]
cycle.append(cycle)
kept = [pickle.loads(names[1]), proxies[1].loan]
""",
            names=names,
        )
        del loans
        with pytest.raises(BufferError):
            data.append(1)
    data.append(1)
    assert (sys.getrefcount(data), sys.getrefcount(plain)) == before


def test_an_owner_waits_for_attached_threads():
    entered, released, ending = os.pipe(), os.pipe(), os.pipe()
    owner = Interpreter()
    actor = actor_of(owner)
    owner.run(f"import atexit, os\natexit.register(os.write, {ending[1]}, b'x')")
    results = []

    def release():
        os.read(ending[0], 1)  # it does not come back from its atexit functions before
        os.write(released[1], b"y")

    thread = threading.Thread(
        target=lambda: results.append(call(actor, "wait", entered[1], released[0]))
    )
    releaser = threading.Thread(target=release)
    thread.start()
    os.read(entered[0], 1)
    releaser.start()
    owner.close()
    assert not actor.alive
    thread.join()
    releaser.join()
    assert results == [b"y"]
    for fd in (*entered, *released, *ending):
        os.close(fd)


def test_lending_at_the_end_is_refused():
    """After us, atexit calls the functions that were registered before the import."""
    reader, writer = os.pipe()
    owner = Interpreter()
    owner.run(
        """
import atexit, os
def late():
    try:
        permaheap.lend([])
    except permaheap.LoanError as error:
        os.write(writer, str(error).encode())
atexit.register(late)
import permaheap
""",
        writer=writer,
    )
    owner.close()
    os.close(writer)
    with os.fdopen(reader) as stream:
        assert "ending" in stream.read()


LEGACY = """
import sys
if sys.version_info >= (3, 13):
    import _interpreters as api
    legacy = api.create("legacy")
    run = api.exec
else:
    import _xxsubinterpreters as api
    legacy = api.create(isolated=False)
    run = api.run_string
"""


def test_interpreters_that_share_the_gil(run):
    done = run(
        LEGACY
        + """
import pickle, threading
import permaheap
data = bytearray(b"data")
before = sys.getrefcount(data)
loan = permaheap.lend(data)
class Here:
    def back(self):
        return threading.get_ident()
here = permaheap.lend(Here())
code = f'''
import pickle, permaheap
proxy = pickle.loads({pickle.dumps(loan)!r}).open(writable=True)
view = memoryview(proxy)
view[0] = 68
assert permaheap.call(pickle.loads({pickle.dumps(here)!r}), "back")
class There:
    def go(self, other):
        return permaheap.call(other, "back")
there = permaheap.lend(There())
open("/dev/fd/%d" % writer, "wb").write(bytes(there))
'''
import os
reader, writer = os.pipe()
assert not run(legacy, f"writer = {writer}\\n" + code)
there = permaheap.Loan.from_bytes(os.read(reader, 100))
assert data == b"Data"
assert permaheap.call(there, "go", here) == threading.get_ident()
del loan
api.destroy(legacy)
assert not there.alive
assert sys.getrefcount(data) == before, sys.getrefcount(data)
print("done")
"""
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


AT_EXIT = """
from test_lend import *
first, second = Interpreter(), Interpreter()
actor, another = actor_of(first), actor_of(second)
proxies = [actor.open(), another.open()]
data = bytearray(1000)
first.run(OPEN + "view = memoryview(proxy)", name=name_of(lent := lend(data)))
second.run(OPEN, name=name_of(actor))
first.run(OPEN, name=name_of(another))
"""


def test_the_process_ends_with_all_open(run):
    done = run(AT_EXIT + "print('end')")
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr


def test_owners_and_the_process_end_while_threads_call(run):
    done = run(
        AT_EXIT
        + """
import atexit
atexit.register(first.close)
atexit.register(second.close)

def work(actor):
    while True:
        try:
            call(actor, "add", 1)
        except LoanError:
            return
for target in actor, another, actor, lend(Both()):
    threading.Thread(target=work, args=[target], daemon=True).start()
while call(actor, "add") < 100 or call(another, "add") < 100:
    pass
print("end")
"""
    )
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr


def test_signals_are_handled_while_the_process_waits_for_attached_threads(run):
    """The handler is what lets the thread detach."""
    done = run("""
import atexit, signal
from interpreters import Interpreter
owner = Interpreter()
atexit.register(owner.close)  # after permaheap's: 3.12 aborts when one is left
from test_lend import *
entered, released = os.pipe(), os.pipe()
actor = actor_of(owner)
results = []

def work():
    results.append(call(actor, "wait", entered[1], released[0]))

def interrupt():
    while actor.alive:  # until main has begun to wait
        pass
    while not results:
        os.kill(os.getpid(), signal.SIGUSR1)

def handle(*_):
    os.write(released[1], b"x")
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    results.append("handled")

signal.signal(signal.SIGUSR1, handle)
threading.Thread(target=work, daemon=True).start()
os.read(entered[0], 1)
threading.Thread(target=interrupt, daemon=True).start()
print("end", flush=True)
""")
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr


def test_an_owner_ends_after_the_loans_of_main(run):
    """By an exit function that was registered before permaheap's."""
    done = run("""
import atexit
from interpreters import Interpreter
owner = Interpreter()
atexit.register(owner.close)
from test_lend import *
actor = actor_of(owner)
assert call(actor, "add", 1) == 1
print("end")
""")
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr


@pytest.mark.skipif(sys.version_info < (3, 13), reason="datetime can only be in one of them")
def test_the_process_ends_with_owners_that_main_knows_nothing_of(run):
    """It has not imported permaheap; CPython ends the others, with a new thread state."""
    done = run(f"""
from interpreters import Interpreter
first, second = Interpreter(), Interpreter()
names = [each.ask("import permaheap\\ndata = []" + {LEND_DATA!r}) for each in (first, second)]
for each, name in (first, names[1]), (second, names[0]):
    each.run("proxy = permaheap.Loan.from_bytes(bytes.fromhex(name)).open()", name=name)
    each.run("permaheap.call(proxy, 'append', 1)")
print("end")
""")
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr


# An interpreter takes 0.1 s, and CPython keeps 3 MB of each: 1,000 of them only when asked for.
ROUNDS = int(os.environ.get("PERMAHEAP_LOAN_ROUNDS", "15" if DEBUG else "40"))


@pytest.mark.slow
def test_many_interpreters(run):
    """One after another, each with loans open in both directions, and views."""
    done = run(
        f"""
from test_lend import *
data, obj = bytearray(100), Local()
before = sys.getrefcount(data), sys.getrefcount(obj)
data_loan, loan = lend(data), lend(obj)
kept = []
for i in range({ROUNDS}):
    other = Interpreter()
    actor = actor_of(other)
    kept.append(actor.open())
    other.run(OPEN + "view = memoryview(proxy)", name=name_of(data_loan))
    other.run("more = [pickle.loads(name).open() for _ in range(5)]", name=name_of(loan))
    assert call(actor, "add", i) == 1
    other.close()
    assert not kept[-1].alive
data.append(1)
del data_loan, loan
assert (sys.getrefcount(data), sys.getrefcount(obj)) == before
print(len(kept))
"""
    )
    assert (done.returncode, done.stdout) == (0, f"{ROUNDS}\n"), done.stderr


# --- Other processes, forged names ----------------------------------------------------------------


def test_a_forked_child_has_no_loans(run):
    """In a process without sub-interpreters: beside them, CPython's children crash (see below)."""
    done = run("""
from test_lend import *
from processes import in_child

obj = Local()
loan = lend(obj)
name = pickle.dumps(loan)

def child():
    for each in loan, pickle.loads(name):
        assert not each.alive
        with pytest.raises(LoanError, match="another process"):
            each.open()
        with pytest.raises(LoanError, match="another process"):
            call(each, "append", 1)
    own = lend(obj)
    assert call(own, "__len__") == 0
    return bytes(own)

theirs = in_child(child)
assert loan.open() is obj
with pytest.raises(LoanError, match="another process"):
    Loan.from_bytes(theirs).open()
print("done")
""")
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


FORK_BESIDE_AN_INTERPRETER = """
import os
from interpreters import Interpreter
other = Interpreter()
other.run("import json, threading")
if (pid := os.fork()) == 0:
    os._exit(0)
print(os.waitpid(pid, 0)[1] != 0)
other.close()
"""


@pytest.mark.skipif(sys.version_info < (3, 13), reason="the child does not die, but hangs")
def test_why_no_child_is_forked_here_beside_an_interpreter(run):
    """A child dies in os.fork(), as CPython deletes the other interpreters, without permaheap.

    When this fails, on a version that is new: a forked child can be tested to have no owners.
    """
    done = run(FORK_BESIDE_AN_INTERPRETER)
    assert done.stdout == "True\n", done.stderr


def test_another_family(run):
    name = bytes(lend([]))
    done = run(f"""
import permaheap
loan = permaheap.Loan.from_bytes({name!r})
print(loan.alive, loan)
try:
    loan.open()
except permaheap.LoanError as error:
    print("another family" in str(error))
""")
    assert done.stdout.endswith("by interpreter 0>\nTrue\n"), done.stderr


def test_forged_names():
    name = bytearray(bytes(loan := lend([])))
    for i in range(len(name)):
        for bit in 1, 128:
            name[i] ^= bit
            forged = Loan.from_bytes(name)
            assert not forged.alive
            with pytest.raises(LoanError, match=r"damaged|another family"):
                forged.open()
            with pytest.raises(LoanError, match=r"damaged|another family"):
                Borrowed._from_bytes(bytes(name), False)
            name[i] ^= bit
    assert Loan.from_bytes(name) == loan
    for wrong in b"", name[:-1], name + b"x":
        with pytest.raises(ValueError, match="48 bytes"):
            Loan.from_bytes(wrong)


def test_types_cannot_be_made():
    for kind in Loan, Borrowed:
        with pytest.raises(TypeError, match="cannot create"):
            kind()


# --- Without memory ------------------------------------------------------------------------------


def each_failure(action):
    """Run action with the n-th allocation of the core failing, for each n until none fails."""
    for n in range(1, 100):
        permaheap._core._testing.fault(n)
        try:
            action()
        except MemoryError:
            pass
        fired = permaheap._core._testing.fault()
        permaheap._core._testing.fault(0)
        if not fired:
            return n
    raise AssertionError


def test_without_memory(other):
    actor = actor_of(other)
    obj = Local()
    before = sys.getrefcount(obj)

    def lends():
        assert lend(obj).open() is obj

    assert each_failure(lends) > 1
    assert sys.getrefcount(obj) == before
    assert each_failure(lambda: call(actor, "get")) > 1
    assert each_failure(lambda: call(actor, "lend_items")) > 1
    assert each_failure(lambda: call(actor, "describe", 1, a=[2])) > 1
    assert call(actor, "add", 1) == 1


def test_no_view_without_memory(other):
    code = f"import permaheap\ndata = bytearray(10)\n{LEND_DATA}"
    proxy = Loan.from_bytes(bytes.fromhex(other.ask(code))).open()

    def views():
        memoryview(proxy).release()

    assert each_failure(views) > 1
    other.run("data.append(1)")
