"""The speed of freezing and reading, always compared with other work timed in the same run.

The cyclic collector is off during the timing, unless a measurement says otherwise.
"""

from __future__ import annotations

import copy
import gc
import importlib.util
import json
import marshal
import pickle
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks import data as data_module
from benchmarks import peers
from benchmarks.data import DATA_SETS, Data, DataSet
from benchmarks.memory import mappings
from benchmarks.timing import (
    Samples,
    Work,
    collector_set,
    in_turns,
    medians,
    ratio,
    seconds,
)

# --- freezing -------------------------------------------------------------------------------------


def measure_freeze(data_set: str, records: int, rounds: int) -> dict[str, Any]:
    """Time ``freeze`` and ``thaw`` of a data set beside other ways to copy or decode it.

    Returns:
        ``seconds`` by name; ``ratio`` of freeze to each of them; ``collector_on``, the ratio to
        dumps + loads with the cyclic collector on, as in a service that starts.
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
    """Return the usual encoders and decoders, each over bytes made beforehand.

    JSON has no shared objects: it gets the records, and builds the index from decoded records.
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
    """Time many freezes of a dict of five keys, beside ``pickle.dumps`` of the same dicts.

    Returns:
        ``freeze`` and ``dumps`` in seconds for each call, ``bytes`` of heap for each freeze, and
        the number of the process's mappings after the first batch and at the end.
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
        times["freeze"].append(seconds(partial(repeat, freeze, part)) / len(part))
        times["dumps"].append(seconds(partial(repeat, dumps, part)) / len(part))
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


def unspecialised() -> dict[str, DataSet]:
    """Return the data sets with readers of their own: the data module, loaded again.

    The interpreter specialises the code of a function for the types that it reads. If the same
    function read native and frozen data, it would be specialised for neither.
    """
    spec = importlib.util.spec_from_file_location("benchmarks.data_again", data_module.__file__)
    assert spec
    assert spec.loader
    again = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = again  # dataclasses looks its module up
    spec.loader.exec_module(again)
    sets: dict[str, DataSet] = again.DATA_SETS
    return sets


# --- reading --------------------------------------------------------------------------------------


def measure_reads(data_set: str, records: int, lookups: int, rounds: int) -> dict[str, Any]:
    """Time look-ups and a scan of frozen data beside the same code over native data.

    The frozen copy is made from the native data, and both stay. So both lie in memory in the order
    of their creation.
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


# A few records many times: they stay in the processor's caches, so only the work is measured.
COUNT, REPEAT = 100, 50

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
    """Time single operations on small frozen containers beside native ones.

    Returns:
        By operation: the ``ratio``, and the nanoseconds for each dict on ``native`` and ``frozen``
        data, with the loop.
    """
    import permaheap

    permaheap.register_reducers()
    native = DATA_SETS["records"].build(COUNT)
    result = {}
    for name, statements in OPERATIONS.items():
        works = {
            "native": operation(statements, native["records"]),
            "frozen": operation(statements, permaheap.freeze(native)["records"]),
        }
        samples = in_turns(works, rounds)
        each = {kind: value / COUNT / REPEAT * 1e9 for kind, value in medians(samples).items()}
        result[name] = {"ratio": ratio(samples, "frozen", "native"), **each}
    return result


def operation(statements: str, records: Any) -> Work:
    """Return work that runs statements over records, compiled for these records alone."""
    import permaheap

    names: dict[str, Any] = {
        "dumps": lambda data: json.dumps(data, default=permaheap.json_default),
        "pickle": lambda data: pickle.dumps(data, pickle.HIGHEST_PROTOCOL),
    }
    body = "\n  ".join(statements.splitlines())
    exec(f"def work(dicts, first, tags):\n for _ in range({REPEAT}):\n  {body}", names)
    return lambda: names["work"](records, records[0], records[0]["tags"])


def measure_peer(peer: str, records: int, lookups: int, puts: int, rounds: int) -> dict[str, Any]:
    """Time putting the records into a peer's store, opening it, and reading it.

    Returns:
        ``put`` / (pickle.dumps + pickle.loads) of the same data; ``attach_seconds``, which each
        worker needs before it can read; ``lookup`` and ``scan`` / native data.
    """
    chosen, native = DATA_SETS["records"], unspecialised()["records"]
    data = chosen.build(records)
    keys = chosen.keys(records, lookups)
    stored: list[peers.Peer] = []
    clock = time.perf_counter if peers.PEERS[peer].has_server else time.process_time

    def put(store: peers.Peer, prepared: Data) -> None:
        store.put(prepared, chosen)
        store.before_fork()

    samples: Samples = {"put": [], "pickle": []}
    for _ in range(puts):
        if stored:
            stored.pop().close()
        stored.append(peers.by_name(peer))
        prepared = stored[0].prepare(data)
        with collector_set(False):
            samples["put"].append(seconds(partial(put, stored[0], prepared), clock))
            samples["pickle"].append(seconds(lambda: dumps_loads(data), clock))
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
    """Return a copy by way of a pickle."""
    return pickle.loads(pickle.dumps(data, pickle.HIGHEST_PROTOCOL))
