"""Bar charts as SVG text, small enough to read in a diff; they need no library.

The colours work on a light and on a dark page: the text follows the page's colour scheme.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

LABELS = 210  # width of the column of labels, in pixels
BARS = 430  # width of the longest bar
VALUES = 110  # room for a value to the right of a bar
BAR = 15  # height of a bar
GAP = 9  # space between two groups of bars
COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2")
OURS = "#e45756"

STYLE = """<style>
text { font: 12px system-ui, sans-serif; fill: #24292f; }
.title { font-size: 14px; font-weight: 600; }
.note { fill: #57606a; }
line { stroke: #8c959f; stroke-dasharray: 3 3; }
@media (prefers-color-scheme: dark) { text { fill: #e6edf3; } .note { fill: #9198a1; } }
</style>"""


@dataclass(frozen=True)
class Bars:
    """A group of bars with one label.

    Attributes:
        label: the measured quantity.
        values: one bar for each; None leaves a gap.
        ours: whether to set the group off from the others.
    """

    label: str
    values: Sequence[float | None]
    ours: bool = False


def bar_chart(
    title: str,
    note: str,
    groups: Sequence[Bars],
    series: Sequence[str] = ("",),
    *,
    logarithmic: bool = False,
    form: str = "{:.2f}",
    mark: float | None = None,
) -> str:
    """Return a chart of horizontal bars.

    Args:
        title: the heading.
        note: a line below it that explains the numbers.
        groups: the groups of bars, from top to bottom.
        series: the names of the bars of each group; one empty name draws no legend.
        logarithmic: whether bar lengths show orders of magnitude.
        form: the format of a value beside its bar.
        mark: a value at which to draw a vertical line.

    Returns:
        The text of an SVG file.
    """
    numbers = [value for group in groups for value in group.values if value is not None]
    scale = Scale.over([*numbers, *([] if mark is None else [mark])], logarithmic)
    top = 70 if len(series) > 1 else 52
    pitch = BAR * len(series) + GAP
    height = top + pitch * len(groups) + 6
    width = LABELS + BARS + VALUES
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(title)}">',
        STYLE,
        f'<text class="title" x="8" y="20">{escape(title)}</text>',
        f'<text class="note" x="8" y="38">{escape(note)}</text>',
        *legend(series),
    ]
    for number, group in enumerate(groups):
        lines += draw_group(group, top + number * pitch, scale, form)
    if mark is not None:
        place = LABELS + scale.length(mark)
        lines.append(f'<line x1="{place:.1f}" x2="{place:.1f}" y1="{top - 4}" y2="{height - 4}"/>')
    return "\n".join([*lines, "</svg>", ""])


@dataclass(frozen=True)
class Scale:
    """Maps values to lengths in pixels."""

    low: float
    high: float
    logarithmic: bool

    @classmethod
    def over(cls, values: Sequence[float], logarithmic: bool) -> Scale:
        """Return the scale that gives the largest value the longest bar."""
        positive = [value for value in values if value > 0] or [1.0]
        # A logarithmic bar begins below the smallest value, so that this value has a bar, too.
        return cls(min(positive) / 2, max(positive), logarithmic)

    def length(self, value: float) -> float:
        """Return the length of a bar; at least one pixel, so that no bar seems to be missing."""
        if self.logarithmic:
            part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = value / self.high
        return max(1.0, BARS * part)


def legend(series: Sequence[str]) -> list[str]:
    """Return one coloured square and name for each series."""
    if len(series) < 2:
        return []
    lines = []
    for index, name in enumerate(series):
        left = LABELS + index * 130
        lines.append(f'<rect x="{left}" y="48" width="11" height="11" fill="{COLOURS[index]}"/>')
        lines.append(f'<text x="{left + 16}" y="58">{escape(name)}</text>')
    return lines


def draw_group(group: Bars, top: float, scale: Scale, form: str) -> list[str]:
    """Return the label, bars and values of one group."""
    middle = top + BAR * len(group.values) / 2 + 4
    weight = ' font-weight="600"' if group.ours else ""
    label = escape(group.label)
    lines = [f'<text x="{LABELS - 8}" y="{middle:.0f}" text-anchor="end"{weight}>{label}</text>']
    for number, value in enumerate(group.values):
        y = top + number * BAR
        if value is None:
            lines.append(f'<text class="note" x="{LABELS + 4}" y="{y + 12:.0f}">not run</text>')
            continue
        only = len(group.values) == 1
        colour = OURS if group.ours and only else COLOURS[number]
        length = scale.length(value)
        lines.append(
            f'<rect x="{LABELS}" y="{y:.0f}" width="{length:.1f}" height="{BAR - 2}" '
            f'fill="{colour}"/>'
        )
        shown = escape(form.format(value))
        lines.append(f'<text x="{LABELS + length + 5:.1f}" y="{y + 11:.0f}">{shown}</text>')
    return lines
