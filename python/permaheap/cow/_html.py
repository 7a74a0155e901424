"""A profile as one self-contained HTML page: it needs no network and no other file.

The folder report/ holds the page, its style sheet and its scripts; `render` joins them with the
profile's data. The data are base64 of zlib-compressed JSON, which a script of the page unpacks.
Hundreds of thousands of pages of memory take a few hundred KB. Base64 contains nothing that HTML
could treat as a tag, even if the profiled application has types with such names.

The JSON holds each string, each kind of page (cause, certain, object, detail) and each set of
neighbours once. A worker's pages are three columns of numbers, in the order of their addresses:
`step` (the distance in pages from the previous page; from 0 for the first), `kind` and `near`
(indexes). `views` are the figures of _summary.py: of the family, then of each worker.
"""

import base64
import json
import zlib
from collections.abc import Hashable, Sequence
from importlib import resources
from typing import Any

from permaheap.cow._model import Cause, Page, Profile, Sample, Worker
from permaheap.cow._summary import Summary, merged, printable, summarize

OBJECTS_SHOWN = 6
SAMPLES_SHOWN = 1000
NEIGHBOURS_SHOWN = 24


def render(profile: Profile) -> str:
    """Return the HTML page as text, to be written to a file as UTF-8.

    If a process has more than a thousand samples, about a thousand are drawn. Names longer than
    160 characters are cut. The profile as JSON (`to_json`) is complete.

    Raises:
        ValueError: a time is infinite or not a number.

    O(pages x log pages).
    """
    folder = resources.files("permaheap.cow") / "report"
    page = (folder / "page.html").read_text("utf-8")
    for name in ("style.css", "report.js", "timeline.js", "map.js"):
        page = page.replace(f"/*{name}*/", (folder / name).read_text("utf-8"))
    return page.replace("PROFILE_DATA", _packed(_data(profile)))


def _packed(data: dict[str, Any]) -> str:
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode("ascii"), 9)).decode("ascii")


class _Indexed[Item: Hashable]:
    """Distinct items in the order of their first use, each found by its index."""

    def __init__(self) -> None:
        self.indexes: dict[Item, int] = {}

    def __getitem__(self, item: Item) -> int:
        return self.indexes.setdefault(item, len(self.indexes))


def _data(profile: Profile) -> dict[str, Any]:
    strings: _Indexed[str] = _Indexed()
    kinds: _Indexed[tuple[Cause, bool, str | None, str | None]] = _Indexed()
    neighbours: _Indexed[tuple[str, ...]] = _Indexed()
    causes = list(Cause)

    def string(text: str | None) -> int:
        return -1 if text is None else strings[printable(text)]

    workers = [
        {
            "pid": worker.pid,
            "command": printable(worker.command),
            "samples": _samples(worker.samples),
            "pages": _columns(worker, profile.page_size, kinds, neighbours),
        }
        for worker in profile.workers
    ]
    summaries = [summarize(profile), *(summarize(profile, [worker]) for worker in profile.workers)]
    return {
        "mode": printable(profile.mode),
        "parent": profile.parent,
        "python": printable(profile.python),
        "page_size": profile.page_size,
        "notes": [printable(note) for note in profile.notes],
        "causes": [str(cause) for cause in causes],
        "heap": [
            [start // profile.page_size, -(-end // profile.page_size)]
            for start, end in merged(profile.heap)
        ],
        "parent_samples": _samples(profile.parent_samples),
        "workers": workers,
        "views": [_view(summary, causes) for summary in summaries],
        "kinds": [
            [causes.index(cause), int(certain), string(name), string(detail)]
            for cause, certain, name, detail in kinds.indexes
        ],
        "neighbours": [
            [*(string(name) for name in names[:NEIGHBOURS_SHOWN]), len(names)]
            for names in neighbours.indexes
        ],
        "strings": list(strings.indexes),
    }


def _columns(
    worker: Worker,
    page_size: int,
    kinds: _Indexed[tuple[Cause, bool, str | None, str | None]],
    neighbours: _Indexed[tuple[str, ...]],
) -> dict[str, list[int]]:
    columns: dict[str, list[int]] = {"step": [], "kind": [], "near": []}
    before = 0
    page: Page
    for page in sorted(worker.pages, key=lambda page: page.address):
        number = page.address // page_size
        columns["step"].append(number - before)
        columns["kind"].append(kinds[page.cause, page.certain, page.object, page.detail])
        columns["near"].append(neighbours[page.neighbours])
        before = number
    return columns


def _samples(samples: Sequence[Sample]) -> list[list[float]]:
    """Return the samples to draw: every n-th one, and the last."""
    stride = max(1, len(samples) // SAMPLES_SHOWN)
    drawn = [*samples[:-1:stride], *samples[-1:]]
    return [[round(item.seconds, 3), item.private_dirty, item.pss, item.shared] for item in drawn]


def _view(summary: Summary, causes: list[Cause]) -> dict[str, Any]:
    return {
        "private_dirty": summary.private_dirty,
        "private_dirty_most": summary.private_dirty_most,
        "pss": summary.pss,
        "shared": summary.shared,
        "copied": summary.copied,
        "named": summary.named_share,
        "causes": [
            {
                "cause": causes.index(total.cause),
                "pages": total.pages,
                "certain": total.certain,
                "objects": [
                    [None if name is None else printable(name), count]
                    for name, count in total.objects[:OBJECTS_SHOWN]
                ],
                "others": len(total.objects[OBJECTS_SHOWN:]),
            }
            for total in summary.causes
        ],
    }
