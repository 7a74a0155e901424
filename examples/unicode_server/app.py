"""The Unicode character database as a JSON service: a template for pre-fork servers.

    GET  /char/1F600                       one character, by code point in hexadecimal
    GET  /search?q=snow+man&category=So    characters by words of their name and by fields
    GET  /stats                            the amount of loaded data
    POST /collect                          one full garbage collection in the worker that answers

The data is built and frozen once, when this module is imported. gunicorn.conf.py sets
``preload_app``, so the parent imports it. The workers are forked from the parent, and read the
frozen objects in place. Start it with ``gunicorn app`` in this directory.

To make your own service, replace ``load`` and the functions under "Requests".
"""

import gc
import heapq
import json
import os
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import reduce
from operator import and_
from typing import Any
from urllib.parse import parse_qs

import permaheap

Record = Mapping[str, Any]
RESULTS_SHOWN = 20
NOT_CHARACTERS = {"Cn", "Co", "Cs"}  # unassigned, private use, surrogates

# ---- Data: ordinary Python, then one call -------------------------------------------------------


def character(code: int) -> dict[str, Any]:
    """Return unicodedata's facts about one code point, as a dict ready for JSON."""
    char = chr(code)
    return {
        "code": code,
        "name": unicodedata.name(char, f"UNNAMED-{code:04X}"),
        "category": unicodedata.category(char),
        "bidi": unicodedata.bidirectional(char),
        "combining": unicodedata.combining(char),
        "width": unicodedata.east_asian_width(char),
        "decomposition": unicodedata.decomposition(char).split(),
        "numeric": unicodedata.numeric(char, None),
        "digit": unicodedata.digit(char, None),
        "case": {"upper": char.upper(), "lower": char.lower(), "title": char.title()},
    }


def load(last: int = sys.maxunicode) -> dict[str, Any]:
    """Return every assigned character up to code point ``last``, and an index of their names.

    "characters" maps code points to records. "words" maps each word that occurs in a name to the
    list of code points that have it, in ascending order.
    """
    characters = {
        code: character(code)
        for code in range(last + 1)
        if unicodedata.category(chr(code)) not in NOT_CHARACTERS
    }
    words = defaultdict(list)
    for code, record in characters.items():
        for word in set(record["name"].replace("-", " ").split()):
            words[word].append(code)
    return {"characters": characters, "words": dict(words)}


# Your own service needs only the first of these. The demo compares it with the other two: the same
# data as ordinary objects, and no data at all, which shows the cost of the server alone.
STORES: dict[str, Callable[[int], Mapping[str, Any]]] = {
    "permaheap": lambda last: permaheap.freeze(load(last)),
    "plain": load,
    "none": lambda last: {"characters": {}, "words": {}},
}

DATA = STORES[os.environ.get("UNICODE_STORE", "permaheap")](
    int(os.environ.get("UNICODE_LAST", f"{sys.maxunicode:X}"), 16)
)
CHARACTERS: Mapping[int, Record] = DATA["characters"]
WORDS: Mapping[str, Iterable[int]] = DATA["words"]

# ---- Requests: they read frozen data like ordinary data ------------------------------------------


class NotFound(LookupError):
    """There is nothing at this address."""


def find(term: str) -> set[int]:
    """Return the code points that have a word containing ``term`` in their name."""
    return {code for word, codes in WORDS.items() if term in word for code in codes}


def matching(terms: list[str], fields: Mapping[str, str]) -> Iterator[Record]:
    """Yield the records whose name matches every term and whose fields have these values."""
    if terms:
        for code in reduce(and_, map(find, terms)):
            record = CHARACTERS[code]
            if all(str(record.get(field)) == value for field, value in fields.items()):
                yield record


def search(query: str) -> dict[str, Any]:
    """Answer a query string such as ``q=snow+man&category=So``; the shortest names come first."""
    fields = {field: values[-1] for field, values in parse_qs(query).items()}
    terms = fields.pop("q", "").upper().split()
    found = list(matching(terms, fields))
    best = heapq.nsmallest(RESULTS_SHOWN, found, key=lambda r: (len(r["name"]), r["code"]))
    return {"found": len(found), "results": best}


def one_character(digits: str) -> Record:
    """Return the record of a code point written in hexadecimal."""
    try:
        return CHARACTERS[int(digits, 16)]
    except (ValueError, KeyError):
        raise NotFound(f"no character {digits!r}") from None


def stats() -> dict[str, Any]:
    """Return the amount of loaded data."""
    return {
        "unicode": unicodedata.unidata_version,
        "characters": len(CHARACTERS),
        "words": len(WORDS),
    }


def collect() -> dict[str, int]:
    """Run a full garbage collection, as happens in a service that runs for days."""
    return {"unreachable": gc.collect()}


def answer(method: str, path: str, query: str) -> Any:
    """Return the content of an address, or raise NotFound."""
    match method, path.split("/")[1:]:
        case "GET", ["char", digits]:
            return one_character(digits)
        case "GET", ["search"]:
            return search(query)
        case "GET", ["stats"]:
            return stats()
        case "POST", ["collect"]:
            return collect()
    raise NotFound(f"nothing at {method} {path}")


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Answer a WSGI request; ``X-Worker`` in the response names the worker's process id."""
    try:
        status = "200 OK"
        content = answer(environ["REQUEST_METHOD"], environ["PATH_INFO"], environ["QUERY_STRING"])
    except NotFound as error:
        status, content = "404 Not Found", {"error": str(error)}
    body = json.dumps(content, default=permaheap.json_default).encode()
    headers = [
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        ("X-Worker", str(os.getpid())),
    ]
    start_response(status, headers)
    return [body]
