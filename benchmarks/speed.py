"""How fast freezing and reading are, always as a ratio to something timed in the same run.

Machines are noisy, and benchmark machines noisier: what is compared is timed in turns, many times,
and each turn gives one ratio. Reported are the median of the ratios and their quartiles. Work done
by one process is timed by the processor time that the process took, kernel included, so that other
programs' turns do not count; what waits for another process is timed by the wall clock. The cyclic
collector is off while something is timed, unless a measurement says otherwise.
"""

from __future__ import annotations

import copy
import gc
import importlib.util
import json
import marshal
import os
import pickle
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from benchmarks import data as data_module
from benchmarks import peers
from benchmarks.data import DATA_SETS, Data, DataSet
from benchmarks.interpreters import Interpreter
from benchmarks.memory import Forked, mappings

Work = Callable[[], object]
Clock = Callable[[], float]
Samples = dict[str, list[float]]


# --- timing ---------------------------------------------------------------------------------------


def seconds(work: Work, clock: Clock = time.process_time) -> float:
    """Seconds that one call takes by the clock; dropping its result is not counted."""
    start = clock()
    result = work()
    elapsed = clock() - start
    del result
    return elapsed


def in_turns(
    works: Mapping[str, Work],
    rounds: int,
    *,
    budget: float = 60.0,
    collector: bool = False,
    clock: Clock = time.process_time,
) -> Samples:
    """Time several pieces of work in turns, each round starting with another one.

    Args:
        works: what to time, by name.
        rounds: how often, at most.
        budget: seconds after which no further round begins, but three are always run.
        collector: whether the cyclic collector is on while timing.
        clock: what to time by.

    Returns:
        Seconds per call, for each name one number per round.
    """
    names = list(works)
    samples: Samples = {name: [] for name in names}
    deadline = time.perf_counter() + budget
    for turn in range(rounds):
        if turn >= 3 and time.perf_counter() > deadline:
            break
        for offset in range(len(names)):
            name = names[(turn + offset) % len(names)]
            samples[name].append(undisturbed(works[name], collector=collector, clock=clock))
    return samples


def undisturbed(
    work: Work, *, collector: bool = False, clock: Clock = time.process_time
) -> float:
    """``seconds()`` right after a collection, with the cyclic collector off unless asked for."""
    gc.collect()
    if not collector:
        gc.disable()
    try:
        return seconds(work, clock)
    finally:
        gc.enable()


def spread(values: list[float]) -> dict[str, Any]:
    """Median, quartiles, smallest value and number of values."""
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return {
        "median": statistics.median(values),
        "low": low,
        "high": high,
        "min": min(values),
        "rounds": len(values),
    }


def ratio(samples: Samples, name: str, *bases: str) -> dict[str, Any]:
    """The spread of one work's time against the sum of others' in the same round."""
    sums = [sum(times) for times in zip(*(samples[base] for base in bases), strict=True)]
    return spread([time / base for time, base in zip(samples[name], sums, strict=True)])


def medians(samples: Samples) -> dict[str, float]:
    """The median seconds of each work."""
    return {name: statistics.median(values) for name, values in samples.items()}


def unspecialised() -> dict[str, DataSet]:
    """The data sets with readers of their own: the data module, loaded once more.

    The interpreter adapts the code of a function to the types that it meets. Native and frozen
    data read by the same function would spoil that for each other.
    """
    spec = importlib.util.spec_from_file_location("benchmarks.data_again", data_module.__file__)
    assert spec and spec.loader
    again = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = again  # dataclasses looks its module up
    spec.loader.exec_module(again)
    return again.DATA_SETS


# --- freezing -------------------------------------------------------------------------------------


def measure_freeze(data_set: str, records: int, rounds: int) -> dict[str, Any]:
    """``freeze`` and ``thaw`` of a data set against other ways to copy or to decode all of it.

    Returns:
        ``seconds`` by name, ``ratio`` of freeze to each of them, ``collector_on`` the ratio to
        dumps+loads with the cyclic collector on, as a service that starts has it.
    """
    import permaheap

    data = DATA_SETS[data_set].build(records)
    frozen = permaheap.freeze(data)
    works: dict[str, Work] = {"freeze": lambda: permaheap.freeze(data)}
    works |= codecs(data)
    samples = in_turns(works, rounds)
    samples |= in_turns({"thaw": lambda: permaheap.thaw(frozen)}, rounds)
    slow = {"freeze": works["freeze"], "copy.deepcopy": lambda: copy.deepcopy(data)}
    copied = in_turns(slow, min(rounds, 2))
    pickled = {name: works[name] for name in ("freeze", "pickle.dumps", "pickle.loads")}
    live = in_turns(pickled, rounds, collector=True)
    against = {name: ratio(samples, "freeze", name) for name in works if name != "freeze"}
    against["pickle.dumps + pickle.loads"] = ratio(
        samples, "freeze", "pickle.dumps", "pickle.loads"
    )
    against["copy.deepcopy"] = ratio(copied, "freeze", "copy.deepcopy")
    return {
        "seconds": medians(samples) | {"copy.deepcopy": medians(copied)["copy.deepcopy"]},
        "ratio": against,
        "collector_on": ratio(live, "freeze", "pickle.dumps", "pickle.loads"),
    }


def codecs(data: Data) -> dict[str, Work]:
    """The usual encoders and decoders, each over bytes made beforehand.

    JSON has no shared objects: it gets the records, and builds the index from what it decoded.
    """
    pickled = pickle.dumps(data, pickle.HIGHEST_PROTOCOL)
    marshalled = marshal.dumps(data)
    text = json.dumps(data["records"]).encode()
    key = next(name for name, value in data["records"][0].items() if value in data["index"])

    def decode(loads: Callable[[bytes], Any]) -> Data:
        decoded = loads(text)
        return {"records": decoded, "index": {each[key]: each for each in decoded}}

    works: dict[str, Work] = {
        "pickle.dumps": lambda: pickle.dumps(data, pickle.HIGHEST_PROTOCOL),
        "pickle.loads": lambda: pickle.loads(pickled),
        "marshal.dumps": lambda: marshal.dumps(data),
        "marshal.loads": lambda: marshal.loads(marshalled),
        "json decode": lambda: decode(json.loads),
    }
    if importlib.util.find_spec("orjson"):
        import orjson

        works["orjson decode"] = lambda: decode(orjson.loads)
    return works


def measure_small(count: int) -> dict[str, Any]:
    """Many freezes of a dict of five keys, against ``pickle.dumps`` of the same dicts.

    Returns:
        ``freeze`` and ``dumps`` in seconds each, ``bytes`` of heap per freeze, and the number of
        the process's mappings after the first batch and at the end.
    """
    import permaheap

    freeze, dumps = permaheap.freeze, pickle.dumps
    batch = max(100, count // 100)
    rows = [
        {"id": number, "name": f"user {number}", "on": True, "score": number / 7, "city": "Oldford"}
        for number in range(count)
    ]

    def repeat(function: Callable[[Any], object], part: list[Data]) -> None:
        for row in part:
            function(row)

    repeat(freeze, rows[:batch])
    used, mapped = permaheap.stats().used, mappings()
    times: Samples = {"freeze": [], "dumps": []}
    gc.disable()
    for start in range(0, count, batch):
        part = rows[start : start + batch]
        times["freeze"].append(seconds(lambda part=part: repeat(freeze, part)) / len(part))
        times["dumps"].append(seconds(lambda part=part: repeat(dumps, part)) / len(part))
    gc.enable()
    return {
        "freeze": statistics.mean(times["freeze"]),
        "freeze_median": statistics.median(times["freeze"]),
        "dumps": statistics.mean(times["dumps"]),
        "dumps_median": statistics.median(times["dumps"]),
        "bytes": (permaheap.stats().used - used) / count,
        "mappings_before": mapped,
        "mappings_after": mappings(),
    }


# --- reading --------------------------------------------------------------------------------------


def measure_reads(data_set: str, records: int, lookups: int, rounds: int) -> dict[str, Any]:
    """Random look-ups and a full scan of frozen data against the same code over native data.

    The frozen copy is made of the native data and both stay, so that both are read from memory
    that is laid out in the order of creation.
    """
    import permaheap

    chosen, native = DATA_SETS[data_set], unspecialised()[data_set]
    data = chosen.build(records)
    frozen = permaheap.freeze(data)
    keys = chosen.keys(records, lookups)
    assert chosen.scan(frozen) == native.scan(data)
    assert chosen.lookups(frozen, keys) == native.lookups(data, keys)
    samples = in_turns(
        {
            "native look-up": lambda: native.lookups(data, keys),
            "frozen look-up": lambda: chosen.lookups(frozen, keys),
            "native scan": lambda: native.scan(data),
            "frozen scan": lambda: chosen.scan(frozen),
        },
        rounds,
    )
    return {
        "lookup": ratio(samples, "frozen look-up", "native look-up"),
        "scan": ratio(samples, "frozen scan", "native scan"),
        "lookup_seconds": medians(samples)["frozen look-up"] / len(keys),
        "scan_seconds": medians(samples)["frozen scan"],
    }


OPERATIONS = {
    "mapping[key]": "for d in dicts: d['score']",
    "mapping.get(key)": "for d in dicts: d.get('score')",
    "key in mapping": "for d in dicts: 'score' in d",
    "len(mapping)": "for d in dicts: len(d)",
    "for key in mapping": "for d in dicts:\n for key in d: pass",
    "for key, value in mapping.items()": "for d in dicts:\n for key, value in d.items(): pass",
    "{**mapping}": "for d in dicts: {**d}",
    "mapping == mapping": "for d in dicts: d == first",
    "sequence[index]": "for d in dicts: tags[1]",
    "for item in sequence": "for d in dicts:\n for tag in tags: pass",
    "item in sequence": "for d in dicts: 'tag' in tags",
    "json.dumps": "dumps(dicts)",
    "pickle.dumps": "pickle(dicts)",
}


def measure_operations(rounds: int) -> dict[str, Any]:
    """Single operations on small frozen mappings and sequences against native ones.

    Returns:
        By operation: the ``ratio``, and the nanoseconds per dict on ``native`` and ``frozen``
        data, the loop included.
    """
    import permaheap

    permaheap.register_reducers()
    native = DATA_SETS["records"].build(2000)
    assert native is not None
    result = {}
    for name, statements in OPERATIONS.items():
        works = {
            "native": operation(statements, native["records"]),
            "frozen": operation(statements, permaheap.freeze(native)["records"]),
        }
        samples = in_turns(works, rounds)
        each = {kind: value / 2000 * 1e9 for kind, value in medians(samples).items()}
        result[name] = {"ratio": ratio(samples, "frozen", "native"), **each}
    return result


def operation(statements: str, records: Any) -> Work:
    """Work that runs statements over records, in a function compiled for these records alone."""
    import permaheap

    names: dict[str, Any] = {
        "dumps": lambda data: json.dumps(data, default=permaheap.json_default),
        "pickle": lambda data: pickle.dumps(data, pickle.HIGHEST_PROTOCOL),
    }
    body = "\n    ".join(statements.splitlines())
    exec(f"def work(dicts, first, tags):\n    {body}", names)
    return lambda: names["work"](records, records[0], records[0]["tags"])


def measure_peer(
    peer: str, records: int, lookups: int, puts: int, rounds: int
) -> dict[str, Any]:
    """Putting the records into a peer's store, opening it, and reading it.

    Returns:
        ``put`` against pickle.dumps + pickle.loads of the same data, ``attach_seconds`` that each
        worker needs before it can read, ``lookup`` and ``scan`` against native data.
    """
    chosen, native = DATA_SETS["records"], unspecialised()["records"]
    data = chosen.build(records)
    assert data is not None
    keys = chosen.keys(records, lookups)
    stored: list[peers.Peer] = []
    clock = time.perf_counter if peers.PEERS[peer].has_server else time.process_time

    def put() -> None:
        store = peers.by_name(peer)
        store.put(data, chosen)
        store.before_fork()
        stored.append(store)

    samples: Samples = {"put": [], "pickle": []}
    for _ in range(puts):
        if stored:
            stored.pop().close()
        samples["put"].append(undisturbed(put, clock=clock))
        samples["pickle"].append(undisturbed(lambda: dumps_loads(data), clock=clock))
    store = stored[0]
    if isinstance(store, peers.InterpreterPeer):
        store.start(keys)
    attach = seconds(store.attach, clock)
    assert store.scan() == native.scan(data)
    assert store.lookups(keys) == native.lookups(data, keys)
    reads = in_turns(
        {
            "native look-up": lambda: native.lookups(data, keys),
            "look-up": lambda: store.lookups(keys),
            "native scan": lambda: native.scan(data),
            "scan": store.scan,
        },
        rounds,
        budget=8.0,
        clock=clock,
    )
    store.close()
    return {
        "put": ratio(samples, "put", "pickle"),
        "put_seconds": medians(samples)["put"],
        "attach_seconds": attach,
        "lookup": ratio(reads, "look-up", "native look-up"),
        "lookup_seconds": medians(reads)["look-up"] / len(keys),
        "scan": ratio(reads, "scan", "native scan"),
        "scan_seconds": medians(reads)["scan"],
    }


def dumps_loads(data: Data) -> Any:
    """A copy by way of a pickle."""
    return pickle.loads(pickle.dumps(data, pickle.HIGHEST_PROTOCOL))


# --- the collector, and fork ----------------------------------------------------------------------

STORES = ("empty", "plain", "gc.freeze", "permaheap")


def station(name: str, records: int, lookups: int, job: Callable[[peers.Peer, str], Any]) -> Forked:
    """A process that holds the data in one way, drops the original, and does a job when asked.

    Args:
        name: one of STORES; "empty" is plain with a handful of records.
        records: how many records the others have.
        lookups: unused keys are not made; the first of them is handed to the job.
        job: what to do at each request; its result is the answer.
    """

    def serve(pipe: Connection) -> None:
        chosen = DATA_SETS["records"]
        count = 10 if name == "empty" else records
        peer = peers.by_name("plain" if name == "empty" else name)
        data = chosen.build(count)
        peer.put(data, chosen)
        del data
        gc.collect()
        peer.before_fork()
        peer.attach()
        key = chosen.keys(count, lookups)[-1]
        while True:
            pipe.recv()
            pipe.send(job(peer, key))

    return Forked(serve)


def ask_in_turns(job: Callable[[peers.Peer, str], float], records: int, rounds: int) -> Samples:
    """Let one station per store do a job that returns seconds, in turns."""
    stations = {name: station(name, records, 1, job) for name in STORES}
    try:
        samples = in_order(stations, rounds + 1)
    finally:
        for each in stations.values():
            each.close()
    return {name: values[1:] for name, values in samples.items()}  # without the warm-up


def in_order(stations: Mapping[str, Forked], rounds: int) -> Samples:
    """The answers of the stations, asked one at a time, round by round."""
    samples: Samples = {name: [] for name in stations}
    for _ in range(rounds):
        for name, each in stations.items():
            samples[name].append(each.ask())
    return samples


def measure_gc(records: int, rounds: int) -> dict[str, Any]:
    """``gc.collect()`` in processes that hold the data in different ways."""

    def collect(peer: peers.Peer, key: str) -> float:
        gc.collect()
        return statistics.median(seconds(gc.collect) for _ in range(5))

    return against_empty(ask_in_turns(collect, records, rounds), "empty")


def measure_fork(records: int, rounds: int) -> dict[str, Any]:
    """From ``fork()`` in the parent until its child has looked up one record."""

    def fork_and_look_up(peer: peers.Peer, key: str) -> float:
        reader, writer = os.pipe()
        start = time.perf_counter_ns()
        pid = os.fork()
        if pid == 0:
            peer.lookups((key,))
            os.write(writer, struct.pack("q", time.perf_counter_ns()))
            os._exit(0)
        (end,) = struct.unpack("q", os.read(reader, 8))
        os.waitpid(pid, 0)
        os.close(reader)
        os.close(writer)
        return (end - start) / 1e9

    return against_empty(ask_in_turns(fork_and_look_up, records, rounds), "plain")


def against_empty(samples: Samples, base: str) -> dict[str, Any]:
    """Ratios of all stores to one of them, and median seconds."""
    return {
        "ratio": {name: ratio(samples, name, base) for name in samples},
        "seconds": medians(samples),
    }


# --- handles --------------------------------------------------------------------------------------


def measure_handles(sizes: list[int]) -> dict[str, Any]:
    """``Handle.get()`` for objects of several sizes, and the first one in a waiting sibling.

    Args:
        sizes: bytes of content per object, made of chunks of at most 1 MB.

    Returns:
        By size: seconds for ``get``, for ``share``, for ``Handle.from_bytes(...).get()``, and for
        the ``first_get`` in a process forked before the object was frozen; the loop included.
    """
    import permaheap

    result = {}
    for size in sizes:
        sibling = Forked(time_first_get)
        frozen = permaheap.freeze_each(chunks(size)) if size >= 1 << 20 else small(size)
        handle = permaheap.share(frozen)
        name = bytes(handle)
        assert handle.get() is frozen
        result[str(size)] = {
            "get": per_call(handle.get),
            "share": per_call(lambda frozen=frozen: permaheap.share(frozen)),
            "from_bytes": per_call(lambda name=name: permaheap.Handle.from_bytes(name).get()),
            "first_get": sibling.ask(name),
        }
        sibling.close()
    return result


def small(size: int) -> Any:
    """A frozen object of about ``size`` bytes of content in many small objects."""
    import permaheap

    return permaheap.freeze([f"{number:015}" for number in range(max(1, size // 64))])


def chunks(size: int) -> Any:
    """Bytes objects of 1 MB, all different, of ``size`` bytes together."""
    chunk = 1 << 20
    return (number.to_bytes(8, "little") * (chunk // 8) for number in range(size // chunk))


def per_call(work: Work, calls: int = 20_000, rounds: int = 15) -> float:
    """Median over rounds of the seconds per call of something quick."""

    def repeat() -> None:
        for _ in range(calls):
            work()

    repeat()
    return statistics.median(seconds(repeat) for _ in range(rounds)) / calls


def time_first_get(pipe: Connection) -> None:
    """Answer each handle that comes as bytes with the seconds to turn it into an object."""
    import permaheap

    while True:
        name = pipe.recv()
        start = time.perf_counter()
        found = permaheap.Handle.from_bytes(name).get()
        pipe.send(time.perf_counter() - start)
        del found


# --- two at once ----------------------------------------------------------------------------------

SCANNER = """
import os, struct, time
import permaheap
from benchmarks.data import scan_records
data = permaheap.Handle.from_bytes({handle!r}).get()
scan_records(data)
while os.read({requests}, 1) == b"g":
    start = time.perf_counter_ns()
    for _ in range({scans}):
        scan_records(data)
    os.write({answers}, struct.pack("qq", start, time.perf_counter_ns()))
"""


class Scanner:
    """Something that scans the frozen data when told to: an interpreter or a forked process."""

    def __init__(self, handle: bytes, scans: int) -> None:
        read_requests, self.requests = os.pipe()
        self.answers, write_answers = os.pipe()
        self.script = SCANNER.format(
            handle=handle, scans=scans, requests=read_requests, answers=write_answers
        )

    def begin(self) -> None:
        """Tell it to scan."""
        os.write(self.requests, b"g")

    def finish(self) -> tuple[int, int]:
        """When its scans began and ended, in nanoseconds of the system's monotonic clock."""
        start, end = struct.unpack("qq", os.read(self.answers, 16))
        return start, end

    def stop(self) -> None:
        """Tell it to end."""
        os.write(self.requests, b"q")


class InterpreterScanner(Scanner):
    """A scanner in an interpreter with its own GIL, run by a thread of this process."""

    def __init__(self, handle: bytes, scans: int) -> None:
        super().__init__(handle, scans)
        self.interpreter = Interpreter()
        self.thread = threading.Thread(target=self.interpreter.run, args=(self.script,))
        self.thread.start()

    def stop(self) -> None:
        super().stop()
        self.thread.join()
        self.interpreter.close()


class ProcessScanner(Scanner):
    """A scanner in a forked process: what two cores give at best."""

    def __init__(self, handle: bytes, scans: int) -> None:
        super().__init__(handle, scans)
        self.process = Forked(lambda pipe: exec(self.script, {}))

    def stop(self) -> None:
        super().stop()
        self.process.close()


def measure_interpreters(records: int, scans: int, rounds: int) -> dict[str, Any]:
    """Throughput of two scanners at once against one, for interpreters and for processes."""
    import permaheap

    frozen = permaheap.freeze(DATA_SETS["records"].build(records))
    gc.collect()
    handle = bytes(permaheap.share(frozen))
    # Processes first: forking is refused once other interpreters run, and threads do not survive.
    result = {"processes": throughput(ProcessScanner, handle, scans, rounds)}
    result["interpreters"] = throughput(InterpreterScanner, handle, scans, rounds)
    return result


def throughput(kind: type[Scanner], handle: bytes, scans: int, rounds: int) -> dict[str, Any]:
    """The spread over rounds of the throughput of two scanners against that of one."""
    pair = [kind(handle, scans), kind(handle, scans)]
    wall([pair[0]])
    wall([pair[1]])
    ratios = []
    for turn in range(rounds):
        alone = wall([pair[turn % 2]])
        ratios.append(2 * alone / wall(pair))
    for each in pair:
        each.stop()
    return spread(ratios)


def wall(scanners: list[Scanner]) -> float:
    """Seconds from the first start to the last end of scanners told to go together."""
    for each in scanners:
        each.begin()
    times = [each.finish() for each in scanners]
    return (max(end for _, end in times) - min(start for start, _ in times)) / 1e9
