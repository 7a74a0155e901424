"""The alternatives to permaheap, one small class for each: put data in, look up, scan.

All classes have the same interface, so one measurement serves all of them. Each is written as its
users would write it, and in its favour if there is a choice. Arrow reads only the columns asked
for; numpy and Arrow find keys by a sorted array of hashes that no worker copies.
"""

from __future__ import annotations

import copy
import gc
import importlib.util
import os
import pickle
import sys
import tempfile
from collections.abc import Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.managers import SyncManager
from multiprocessing.shared_memory import SharedMemory
from typing import Any, ClassVar

from benchmarks.data import Data, DataSet, sum_records
from benchmarks.interpreters import Interpreter


class Peer:
    """A way of giving data to workers. The base class keeps ordinary objects and forks.

    Attributes:
        name: the word that names it in options.
        title: its name in reports.
        requires: packages that must be installed.
        any_data: whether it takes every data set, or only the records.
        has_server: whether another process does a part of its work.
    """

    name: ClassVar[str] = "plain"
    title: ClassVar[str] = "plain fork"
    requires: ClassVar[tuple[str, ...]] = ()
    any_data: ClassVar[bool] = True
    has_server: ClassVar[bool] = False

    data: Any = None
    chosen: DataSet

    def prepare(self, data: Data) -> Data:
        """Return the argument of put(), which is timed: by default the data itself."""
        return data

    def put(self, data: Data, chosen: DataSet) -> None:
        """Store the data set, in the parent. The caller drops its own reference afterwards."""
        self.data = data
        self.chosen = chosen

    def before_fork(self) -> None:
        """Do the steps of this way right before its workers are forked."""

    def attach(self) -> None:
        """Open the store in a worker (or in the process that put the data, to time reading)."""

    def lookups(self, keys: Iterable[str]) -> float:
        """Read the record of each key; return the data set's checksum."""
        return self.chosen.lookups(self.data, keys)

    def scan(self) -> float:
        """Read all records; return the data set's checksum."""
        return self.chosen.scan(self.data)

    def helpers(self) -> list[int]:
        """Return the process ids of servers that the store started."""
        return []

    def used(self) -> int:
        """Return the bytes of the permanent heap in use; 0 for other stores."""
        return 0

    def close(self) -> None:
        """Release files, processes and references."""
        self.data = None


class GcFreeze(Peer):
    """``gc.freeze()`` before fork, the collector off in the parent, as Python's manual says."""

    name = "gc.freeze"
    title = "gc.freeze"

    def before_fork(self) -> None:
        gc.disable()
        gc.freeze()

    def attach(self) -> None:
        gc.enable()

    def close(self) -> None:
        gc.unfreeze()
        gc.enable()
        super().close()


class Permaheap(Peer):
    """``permaheap.freeze()``: the workers read the frozen objects of the parent."""

    name = "permaheap"
    title = "permaheap"
    requires = ("permaheap",)

    def put(self, data: Data, chosen: DataSet) -> None:
        import permaheap

        self.data = permaheap.freeze(data)
        self.chosen = chosen

    def used(self) -> int:
        import permaheap

        return permaheap.stats().used


class InPlace(Peer):
    """``permaheap.immortalize()``: the workers read the ordinary objects of the parent."""

    name = "in place"
    title = "permaheap, in place"
    requires = ("permaheap",)

    def prepare(self, data: Data) -> Data:
        return pickle.loads(pickle.dumps(data))  # a copy, since put() makes it immortal for ever

    def put(self, data: Data, chosen: DataSet) -> None:
        import permaheap

        permaheap.immortalize(data)
        super().put(data, chosen)


class HashIndex:
    """Positions by key in two arrays that workers read without writing to them.

    Keys are found by their hash, which is the same in all forked workers. Different keys with
    equal hashes are not distinguished: with 64 bits and some 100,000 keys there are none.
    """

    def __init__(self, hashes: Any, positions: Any) -> None:
        self.hashes = hashes
        self.positions = positions

    @classmethod
    def of(cls, keys: Iterable[str]) -> HashIndex:
        """Return the index of the keys in their order."""
        import numpy

        hashes = numpy.fromiter(map(hash, keys), numpy.int64)
        positions = numpy.argsort(hashes)
        return cls(hashes[positions], positions)

    def find(self, key: str) -> int:
        """Return the position of a key that must be in the index."""
        return int(self.positions[self.hashes.searchsorted(hash(key))])


class NumpyPickles(Peer):
    """A list of pickles in one numpy array, PyTorch's advice against copy-on-read growth."""

    name = "numpy"
    title = "numpy array of pickles"
    requires = ("numpy",)
    any_data = False

    def put(self, data: Data, chosen: DataSet) -> None:
        import numpy

        pickles = [pickle.dumps(record, pickle.HIGHEST_PROTOCOL) for record in data["records"]]
        self.ends = numpy.cumsum([len(each) for each in pickles])
        self.blob = numpy.frombuffer(b"".join(pickles), numpy.uint8)
        self.index = HashIndex.of(record["email"] for record in data["records"])

    def __getitem__(self, position: int) -> Any:
        start = self.ends[position - 1] if position else 0
        return pickle.loads(memoryview(self.blob[start : self.ends[position]]))

    def lookups(self, keys: Iterable[str]) -> float:
        total = 0.0
        for key in keys:
            found = self[self.index.find(key)]
            total += found["score"] + len(found["address"]["city"]) + len(found["tags"][1])
        return total

    def scan(self) -> float:
        return sum_records(self[position] for position in range(len(self.ends)))


class Manager(Peer):
    """A dict in a ``multiprocessing.Manager``: one server process, every read a message."""

    name = "manager"
    title = "multiprocessing.Manager"
    any_data = False
    has_server = True

    def put(self, data: Data, chosen: DataSet) -> None:
        self.manager = SyncManager(ctx=get_context("spawn"))
        self.manager.start()
        self.index = self.manager.dict(data["index"])

    def attach(self) -> None:
        # A forked worker must not reuse its parent's connection; a copy of the proxy opens another.
        self.index = copy.copy(self.index)

    def lookups(self, keys: Iterable[str]) -> float:
        total = 0.0
        for key in keys:
            found = self.index[key]
            total += found["score"] + len(found["address"]["city"]) + len(found["tags"][1])
        return total

    def scan(self) -> float:
        return sum_records(self.index.values())

    def helpers(self) -> list[int]:
        return [self.manager._process.pid]  # type: ignore[attr-defined]

    def close(self) -> None:
        self.manager.shutdown()


class Lmdb(Peer):
    """LMDB in a file, with one msgpack value for each record; every worker opens the file."""

    name = "lmdb"
    title = "LMDB with msgpack"
    requires = ("lmdb", "msgpack")
    any_data = False

    def put(self, data: Data, chosen: DataSet) -> None:
        import lmdb
        import msgpack

        self.folder = tempfile.TemporaryDirectory(prefix="benchmark-lmdb-")
        # A benchmark's file need not survive a crash; LMDB is fastest without syncing.
        with (
            lmdb.open(self.folder.name, map_size=1 << 32, sync=False) as environment,
            environment.begin(write=True) as transaction,
        ):
            for record in data["records"]:
                transaction.put(record["email"].encode(), msgpack.packb(record))

    def attach(self) -> None:
        import lmdb

        self.environment = lmdb.open(self.folder.name, readonly=True, lock=False)

    def lookups(self, keys: Iterable[str]) -> float:
        from msgpack import unpackb

        total = 0.0
        with self.environment.begin(buffers=True) as transaction:
            for key in keys:
                found = unpackb(transaction.get(key.encode()))
                total += found["score"] + len(found["address"]["city"]) + len(found["tags"][1])
        return total

    def scan(self) -> float:
        from msgpack import unpackb

        with self.environment.begin(buffers=True) as transaction:
            values = transaction.cursor().iternext(keys=False, values=True)
            return sum_records(map(unpackb, values))

    def close(self) -> None:
        self.folder.cleanup()


class Arrow(Peer):
    """An Arrow table in a memory-mapped IPC file, with the key index as two more columns."""

    name = "pyarrow"
    title = "pyarrow, memory-mapped"
    requires = ("pyarrow", "numpy")
    any_data = False

    def put(self, data: Data, chosen: DataSet) -> None:
        import pyarrow

        index = HashIndex.of(record["email"] for record in data["records"])
        table = pyarrow.Table.from_pylist(data["records"])
        table = table.append_column("hash", [index.hashes])
        table = table.append_column("position", [index.positions])
        file, self.path = tempfile.mkstemp(prefix="benchmark-arrow-")
        os.close(file)
        table = table.combine_chunks()
        with (
            pyarrow.OSFile(self.path, "wb") as sink,
            pyarrow.ipc.new_file(sink, table.schema) as out,
        ):
            out.write_table(table)

    def attach(self) -> None:
        import pyarrow

        self.table = pyarrow.ipc.open_file(pyarrow.memory_map(self.path)).read_all()
        self.index = HashIndex(self.array("hash").to_numpy(), self.array("position").to_numpy())

    def array(self, column: str) -> Any:
        """Return the only chunk of a column."""
        return self.table.column(column).chunk(0)

    def lookups(self, keys: Iterable[str]) -> float:
        scores, tags = self.array("score"), self.array("tags")
        cities = self.array("address").field("city")
        total = 0.0
        for key in keys:
            position = self.index.find(key)
            city, tag = cities[position].as_py(), tags[position][1].as_py()
            total += scores[position].as_py() + len(city) + len(tag)
        return total

    def scan(self) -> float:
        return sum_records(self.rows())

    def rows(self) -> Iterator[Data]:
        """Yield the rows as dicts, decoded in batches."""
        wanted = self.table.drop_columns(["hash", "position"])
        for batch in wanted.to_batches(max_chunksize=4096):
            yield from batch.to_pylist()

    def close(self) -> None:
        os.unlink(self.path)


class SharedPickle(Peer):
    """One pickle in shared memory, which every worker loads."""

    name = "shared_memory"
    title = "shared_memory + pickle"

    def put(self, data: Data, chosen: DataSet) -> None:
        blob = pickle.dumps(data, pickle.HIGHEST_PROTOCOL)
        self.memory = SharedMemory(create=True, size=len(blob))
        assert self.memory.buf is not None
        self.memory.buf[: len(blob)] = blob
        self.chosen = chosen

    def attach(self) -> None:
        assert self.memory.buf is not None
        self.data = pickle.loads(self.memory.buf)

    def close(self) -> None:
        super().close()
        self.memory.close()
        self.memory.unlink()


class Orjson(Peer):
    """JSON bytes of the parent; every worker decodes them with orjson and builds the index."""

    name = "orjson"
    title = "orjson decode per worker"
    requires = ("orjson",)
    any_data = False

    def put(self, data: Data, chosen: DataSet) -> None:
        import orjson

        self.blob = orjson.dumps(data["records"])
        self.chosen = chosen

    def attach(self) -> None:
        import orjson

        records = orjson.loads(self.blob)
        self.data = {"records": records, "index": {each["email"]: each for each in records}}


class InterpreterPeer(Peer):
    """Data for a second interpreter of the same process, which returns results by a pipe."""

    any_data = False
    setup: ClassVar[str]

    def start(self, keys: list[str]) -> None:
        """Start the interpreter with its imports; it makes the same keys again."""
        self.interpreter = Interpreter()
        self.reader, self.writer = os.pipe()
        self.interpreter.run(
            "import gc, os\n"
            "from benchmarks.data import lookup_records, scan_records\n"
            f"keys = {keys!r}\n"
            f"def answer(number): os.write({self.writer}, repr(number).encode())\n"
            f"{self.setup}"
        )

    def lookups(self, keys: Iterable[str]) -> float:
        self.interpreter.run("answer(lookup_records(data, keys))")
        return float(os.read(self.reader, 100))

    def scan(self) -> float:
        self.interpreter.run("answer(scan_records(data))")
        return float(os.read(self.reader, 100))

    def collect(self) -> None:
        """Collect garbage in the interpreter."""
        self.interpreter.run("gc.collect()")

    def close(self) -> None:
        super().close()
        if hasattr(self, "interpreter"):
            self.interpreter.run("del data; gc.collect()")
            self.interpreter.close()


class InterpreterQueue(InterpreterPeer):
    """A ``concurrent.interpreters`` queue: the data goes through it as a pickle."""

    name = "interpreters"
    title = "concurrent.interpreters queue"
    setup = "from concurrent.interpreters import Queue"

    def put(self, data: Data, chosen: DataSet) -> None:
        from concurrent import interpreters  # type: ignore[attr-defined]

        self.queue = interpreters.create_queue()
        self.queue.put(data)

    def attach(self) -> None:
        self.interpreter.run(f"data = Queue({self.queue.id}).get()")


class InterpreterHandle(InterpreterPeer):
    """A permaheap handle given to the interpreter."""

    name = "permaheap-interpreter"
    title = "permaheap, second interpreter"
    requires = ("permaheap",)
    setup = "import permaheap"

    def put(self, data: Data, chosen: DataSet) -> None:
        import permaheap

        self.handle = bytes(permaheap.share(permaheap.freeze(data)))

    def attach(self) -> None:
        self.interpreter.run(f"data = permaheap.Handle.from_bytes({self.handle!r}).get()")


PEERS: dict[str, type[Peer]] = {
    each.name: each
    for each in (
        Peer,
        GcFreeze,
        Permaheap,
        InPlace,
        NumpyPickles,
        Manager,
        Lmdb,
        Arrow,
        SharedPickle,
        Orjson,
        InterpreterQueue,
        InterpreterHandle,
    )
}


def by_name(name: str) -> Peer:
    """Return a new peer of that name."""
    return PEERS[name]()


def unavailable(name: str) -> str | None:
    """Return the reason why a peer cannot run here, as a sentence, or None."""
    missing = [each for each in PEERS[name].requires if importlib.util.find_spec(each) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    if name == "interpreters" and sys.version_info < (3, 14):
        return "concurrent.interpreters is new in 3.14"
    return None
