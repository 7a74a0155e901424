"""The data sets, and the two ways of reading them that every measurement uses.

A data set is a dict ``{"records": [record, ...], "index": {key: record, ...}}``: a list of small
dicts, and an index whose values are the *same* dicts, as in a server that answers look-ups.
``keys()`` makes look-up keys as in a request: equal to the index's keys, but other objects, so that
identity alone decides no look-up.

The readers return checksums that do not depend on the order of reading. They are exact (the scores
are small multiples of 1/1024), so every store can be checked against plain data.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Data = dict[str, Any]

SEED = 20_240_229
NEARER = ("North", "South", "Old", "New", "Upper", "Lower", "Great", "Little")
PLACE = ("field", "bridge", "haven", "ford", "wick", "moor", "dale", "gate", "mouth", "stead")
FIRST = ("Ada", "Brian", "Chidi", "Dana", "Emeka", "Farah", "Goran", "Hana", "Ivo", "Jun", "Zoë")
LAST = ("Abe", "Brandt", "Castro", "Diallo", "Eze", "Fischer", "García", "Haddad", "Ito", "Kaya")


@dataclass(frozen=True)
class DataSet:
    """One data set: functions to build it, to make keys for it, and to read it.

    Attributes:
        name: the word that names it in options and reports.
        title: its description, in a few words.
        build: returns ``{"records": ..., "index": ...}`` with at most the given number of records.
        keys: gets the number of records and of keys, and returns that many look-up keys.
        lookups: reads one record for each key, and returns a checksum.
        scan: reads every record once, and returns a checksum.
    """

    name: str
    title: str
    build: Callable[[int], Data]
    keys: Callable[[int, int], list[str]]
    lookups: Callable[[Any, Iterable[str]], float]
    scan: Callable[[Any], float]


# --- JSON-like records: the data set that the goals are stated for --------------------------------


def email(number: int) -> str:
    """Return the key of record ``number``: a new string for each call."""
    return f"user{number * 7919 % 1_000_003:07}.{number}@mail{number % 17}.example"


def record(number: int, draw: Callable[[], float]) -> Data:
    """Return one record as a JSON parser or a database driver makes it.

    The dict keys are interned. Every value is an object of its own, even if it equals another.
    """
    return {
        "id": number,
        "name": f"{pick(FIRST, draw)} {pick(LAST, draw)} {number}",
        "email": email(number),
        "tags": [f"tag-{int(draw() * 1000):03}" for _ in range(3)],
        "score": int(draw() * 2**30) / 1024,
        "address": {
            "city": f"{pick(NEARER, draw)}{pick(PLACE, draw)}",
            "zip": f"{int(draw() * 100_000):05}",
        },
        "active": draw() < 0.5,
    }


def pick(words: tuple[str, ...], draw: Callable[[], float]) -> str:
    """Return one of the words; several times faster than ``random.choice``."""
    return words[int(draw() * len(words))]


def build_records(count: int) -> Data:
    """Return ``count`` records and their index by e-mail address; always the same ones."""
    draw = random.Random(SEED).random
    records = [record(number, draw) for number in range(count)]
    return {"records": records, "index": {each["email"]: each for each in records}}


def record_keys(records: int, count: int) -> list[str]:
    """Return ``count`` keys of random records, with repetitions, out of ``records``."""
    rng = random.Random(SEED + 1)
    return [email(rng.randrange(records)) for _ in range(count)]


def lookup_records(data: Any, keys: Iterable[str]) -> float:
    """Read a number, a nested string and a list item of the record of each key."""
    index = data["index"]
    total = 0.0
    for key in keys:
        found = index[key]
        total += found["score"] + len(found["address"]["city"]) + len(found["tags"][1])
    return total


def scan_records(data: Any) -> float:
    """Read every value of every record."""
    return sum_records(data["records"])


def sum_records(records: Iterable[Any]) -> float:
    """Return the checksum of a scan over an iterable of records, in any order."""
    total = 0.0
    for each in records:
        total += each["score"] + each["id"] + len(each["name"]) + len(each["email"])
        address = each["address"]
        total += len(address["city"]) + len(address["zip"])
        for tag in each["tags"]:
            total += len(tag)
        if each["active"]:
            total += 1
    return total


# --- other data: flat dicts of text ---------------------------------------------------------------


def build_unicode(count: int) -> Data:
    """Return at most ``count`` characters of this interpreter's ``unicodedata``."""
    records = [character(chr(code)) for code in assigned_codes(count)]
    return {"records": records, "index": {each["char"]: each for each in records}}


def assigned_codes(count: int) -> Iterator[int]:
    """Yield the first ``count`` assigned code points that have a name."""
    for code in range(0x110000):
        if count <= 0:
            return
        if unicodedata.name(chr(code), None):
            count -= 1
            yield code


def character(char: str) -> Data:
    """Return a record of ``unicodedata``'s facts about one character."""
    return {
        "char": char,
        "code": ord(char),
        "name": unicodedata.name(char),
        "category": unicodedata.category(char),
        "bidi": unicodedata.bidirectional(char),
        "decomposition": unicodedata.decomposition(char) or None,
        "numeric": unicodedata.numeric(char, None),
        "upper": char.upper(),
        "lower": char.lower(),
    }


def unicode_keys(records: int, count: int) -> list[str]:
    """Return ``count`` random characters out of the first ``records``."""
    codes = list(assigned_codes(records))
    rng = random.Random(SEED + 2)
    return [chr(rng.choice(codes)) for _ in range(count)]


def build_packages(count: int) -> Data:
    """Return Debian's Packages index as apt keeps it, or dpkg's status file."""
    source = packages_file()
    if source is None:
        raise FileNotFoundError("there is no index of Debian packages on this machine")
    records = []
    for paragraph in packages_text(source).split("\n\n"):
        fields = dict(package_fields(paragraph))
        if fields.get("Package"):
            records.append(fields)
        if len(records) >= count:
            break
    return {"records": records, "index": {each["Package"]: each for each in records}}


def packages_file() -> Path | None:
    """Return the largest Packages index on this machine, or None."""
    found = list(Path("/var/lib/apt/lists").glob("*_Packages*"))
    status = Path("/var/lib/dpkg/status")
    if not found and status.exists():
        found = [status]
    return max(found, key=lambda path: path.stat().st_size, default=None)


def packages_text(source: Path) -> str:
    """Return the text of an index that apt may have compressed, read with apt's own tool."""
    helper = Path("/usr/lib/apt/apt-helper")
    if source.suffix and helper.exists():
        # Imported here, since it imports threading: 3.12 hangs at the end of an interpreter that
        # imported threading in another thread than the one that ends it.
        import subprocess

        shown = subprocess.run([helper, "cat-file", source], capture_output=True, check=True)
        return shown.stdout.decode("utf-8", "replace")
    return source.read_text("utf-8", "replace")


def package_fields(paragraph: str) -> Iterator[tuple[str, Any]]:
    """Yield the fields of one paragraph; relations to other packages become lists."""
    for line in paragraph.replace("\n ", " ").splitlines():
        name, colon, value = line.partition(": ")
        if colon:
            relation = name in ("Depends", "Recommends", "Suggests", "Tag")
            yield name, value.split(", ") if relation else value


def package_keys(records: int, count: int) -> list[str]:
    """Return ``count`` names of random packages, none of them an object of the index."""
    names = list(build_packages(records)["index"])
    rng = random.Random(SEED + 3)
    return [rng.choice(names).encode().decode() for _ in range(count)]


def lookup_flat(data: Any, keys: Iterable[str]) -> float:
    """Read every field of the record of each key."""
    index = data["index"]
    return sum_flat(index[key] for key in keys)


def scan_flat(data: Any) -> float:
    """Read every field of every record."""
    return sum_flat(data["records"])


def sum_flat(records: Iterable[Any]) -> float:
    """Return the checksum of a scan over flat records."""
    total = 0.0
    for each in records:
        for name in each:
            total += len(name) + (each[name] is None)
    return total


DATA_SETS = {
    each.name: each
    for each in (
        DataSet(
            "records", "JSON-like records", build_records, record_keys, lookup_records, scan_records
        ),
        DataSet(
            "unicode",
            "Unicode character database",
            build_unicode,
            unicode_keys,
            lookup_flat,
            scan_flat,
        ),
        DataSet(
            "packages",
            "Debian Packages index",
            build_packages,
            package_keys,
            lookup_flat,
            scan_flat,
        ),
    )
}


def unavailable(name: str) -> str | None:
    """Return the reason why a data set cannot be built here, as a sentence, or None."""
    if name == "packages" and packages_file() is None:
        return "there is no index of Debian packages on this machine"
    return None
