"""A profile as text: a plain table, and the same table for a terminal with rich.

Both lay out the same rows. Only `renderable` imports rich: the plain table needs only Python.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from permaheap.cow._model import Profile
from permaheap.cow._summary import CauseTotal, Summary, printable, size, summarize

if TYPE_CHECKING:
    from rich.console import RenderableType

OBJECTS_SHOWN = 4

CAUSE_COLUMNS = ("cause", "pages", "bytes", "share", "seen", "objects")
WORKER_COLUMNS = ("worker", "private dirty", "PSS", "shared", "copied", "most of it", "command")
LEFT = {"cause", "objects", "most of it", "command"}


def table(profile: Profile) -> str:
    """Return the profile as a plain text table, which ends with a newline. O(pages)."""
    summary = summarize(profile)
    parts = [
        title(profile),
        "\n".join(f"  {name:<28}{value}" for name, value in _totals(profile, summary)),
        _columns(CAUSE_COLUMNS, _cause_rows(profile, summary)),
        _columns(WORKER_COLUMNS, _worker_rows(profile)),
        "\n".join(f"note: {printable(note)}" for note in profile.notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def renderable(profile: Profile) -> "RenderableType":
    """Return the profile for a rich console, for example for a live view.

    Raises:
        ImportError: rich is not installed. The extra `permaheap[cow]` installs it.

    O(pages).
    """
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    def grid(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
        result = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for column in columns:
            wide = column in ("objects", "command")
            result.add_column(
                column,
                justify="left" if column in LEFT else "right",
                overflow="ellipsis" if wide else "fold",
                no_wrap=True,
                ratio=1 if wide else None,
            )
        for row in rows:
            result.add_row(*(Text(cell) for cell in row))  # as Text: names hold no markup
        return result

    summary = summarize(profile)
    totals = Table.grid(padding=(0, 2, 0, 0))
    for name, value in _totals(profile, summary):
        totals.add_row(Text(name), Text(value, style="bold"))
    parts: list[RenderableType] = [Text(title(profile), style="bold"), totals]
    for columns, rows in (
        (CAUSE_COLUMNS, _cause_rows(profile, summary)),
        (WORKER_COLUMNS, _worker_rows(profile)),
    ):
        if rows:
            parts += [Text(""), grid(columns, rows)]
    notes = [Text(f"note: {printable(note)}", style="yellow") for note in profile.notes]
    return Group(*parts, *notes)


def title(profile: Profile) -> str:
    """Return one line about the profiled family."""
    number = len(profile.workers)
    return (
        f"{number} worker{'' if number == 1 else 's'} of process {profile.parent}, "
        f"Python {printable(profile.python)}, {printable(profile.mode)} mode"
    )


def _totals(profile: Profile, summary: Summary) -> list[tuple[str, str]]:
    most = f"at most {size(summary.private_dirty_most)}"
    whose = "family" if profile.parent_samples else "workers"
    return [
        ("private dirty per worker", f"{size(summary.private_dirty)} ({most})"),
        (f"PSS of the {whose}", size(summary.pss)),
        ("copied pages", f"{summary.copied:,} ({size(summary.copied * profile.page_size)})"),
        ("causes named", f"{percent(summary.named_share)} of the Python heap's copied pages"),
    ]


def percent(share: float | None) -> str:
    """Return a share as a percentage; only the exact values 0 and 1 give 0 % and 100 %."""
    if share is None:
        return "-"
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return f"{share * 100:.{0 if share in (0, 1) else 1}f} %"


def _cause_rows(profile: Profile, summary: Summary) -> list[tuple[str, ...]]:
    return [
        (
            str(total.cause),
            f"{total.pages:,}",
            size(total.pages * profile.page_size),
            percent(total.pages / summary.copied),
            percent(total.certain / total.pages),
            _objects(total),
        )
        for total in summary.causes
    ]


def _objects(total: CauseTotal) -> str:
    named = [(name, count) for name, count in total.objects if name is not None]
    shown = [f"{printable(name)} {count:,}" for name, count in named[:OBJECTS_SHOWN]]
    others = len(named) - len(shown)
    return ", ".join(shown + [f"{others} other{'' if others == 1 else 's'}"] * bool(others))


def _worker_rows(profile: Profile) -> list[tuple[str, ...]]:
    rows = []
    for worker in profile.workers:
        summary = summarize(profile, [worker])
        most = str(summary.causes[0].cause) if summary.causes else "-"
        sizes = (summary.private_dirty, summary.pss, summary.shared)
        known = bool(worker.samples)
        rows.append(
            (
                str(worker.pid),
                *(size(value) if known else "-" for value in sizes),
                f"{summary.copied:,}",
                most,
                printable(worker.command),
            )
        )
    return rows


def _columns(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out rows below a heading; the last column, free text, is not padded."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    lines = []
    for row in (names, *rows):
        cells = [
            cell.ljust(width) if name in LEFT else cell.rjust(width)
            for name, cell, width in zip(names, row, widths, strict=True)
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
