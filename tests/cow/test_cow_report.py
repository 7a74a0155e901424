"""The reports of the copy-on-write profiler: JSON, text, and the page in a real browser."""

import io
import json
import math
import random
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib import resources
from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

import browser as browsers
from cow_profiles import HEAP_CAUSES, PAGE_SIZE, TYPES, family
from permaheap.cow import _html, _summary, _text
from permaheap.cow._html import render
from permaheap.cow._json import from_json, to_json
from permaheap.cow._model import Cause, Page, Profile, Sample, Worker
from permaheap.cow._text import renderable, table

pytestmark = pytest.mark.no_sanitizer("programs around the core")

HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked = 1'>",
    "&lt;b&gt; \"quoted\" 'names'",
    "\u202eright to left\u202c \u2067and isolated",
    "\u05e9\u05dc\u05d5\u05dd",
    "half a pair \ud83d",
    "\x1b[31mred\x1b[0m \x00 \x7f",
    "two\nlines\r\n\u2028",
    "[bold]markup[/bold] [/]",
    "x" * 5000,
    "PROFILE_DATA /*style.css*/ ${name}",
]

HEAP = 0x7F00_0000_0000


def at(index: int) -> int:
    """The address of one of the heap's pages."""
    return HEAP + index * PAGE_SIZE


def small() -> Profile:
    """Two workers, a heap of 64 pages, and a page outside of it."""
    return Profile(
        mode="trace",
        parent=100,
        python="3.14.8",
        page_size=PAGE_SIZE,
        workers=(
            Worker(
                101,
                "worker one",
                (Sample(0.0, 4096, 10_000_000, 7), Sample(1.5, 3 << 20, 20 << 20, 6 << 20)),
                (
                    Page(at(3), Cause.GC_HEADER, "list", "_gc_prev", ("str", "tuple")),
                    Page(at(1), Cause.REFERENCE_COUNT, "dict", "ob_refcnt", ("list",)),
                    Page(at(2), Cause.REFERENCE_COUNT, "str", None, (), certain=False),
                    Page(at(40), Cause.UNKNOWN, certain=False),
                    Page(0x5500_0000_0000, Cause.MALLOC, "[heap]"),
                ),
            ),
            Worker(
                102,
                "worker two",
                (Sample(1.0, 1 << 20, 10 << 20, 8 << 20),),
                (Page(at(1), Cause.MUTATION, "dict", "ma_values"),),
            ),
        ),
        heap=((at(0), at(32)), (at(32), at(64))),
        notes=("no frame numbers: they need CAP_SYS_ADMIN",),
    )


def hostile() -> Profile:
    """Names that mean something to HTML, to a terminal, or to the templates."""
    pages = tuple(
        Page(at(index), Cause.MUTATION, name, name, (name,)) for index, name in enumerate(HOSTILE)
    )
    workers = tuple(Worker(200 + index, name, (), pages) for index, name in enumerate(HOSTILE))
    return Profile(HOSTILE[1], 1, HOSTILE[0], PAGE_SIZE, workers, notes=tuple(HOSTILE))


EMPTY = Profile("diff", 1, "3.13.0", PAGE_SIZE, ())
ONE_PAGE = replace(
    EMPTY, workers=(Worker(2, "", (Sample(0, 1, 1, 1),), (Page(at(0), Cause.STACK),)),)
)
NO_PAGE = replace(EMPTY, workers=(Worker(2, "idle", (), ()),), heap=((at(0), at(9)),))


# The figures


def test_the_figures_of_a_family() -> None:
    summary = _summary.summarize(small())
    assert (summary.private_dirty, summary.private_dirty_most) == (2 << 20, 3 << 20)
    assert (summary.pss, summary.shared) == (30 << 20, 7 << 20)
    assert (summary.copied, summary.heap_copied, summary.heap_named) == (6, 5, 4)
    assert summary.causes[0] == _summary.CauseTotal(
        Cause.REFERENCE_COUNT, 2, 1, (("dict", 1), ("str", 1))
    )
    assert [total.pages for total in summary.causes] == [2, 1, 1, 1, 1]


def test_the_parent_belongs_to_the_family_but_not_to_a_worker() -> None:
    profile = replace(small(), parent_samples=(Sample(0, 0, 1, 0), Sample(1, 0, 5 << 20, 0)))
    assert _summary.summarize(profile).pss == 35 << 20
    assert _summary.summarize(profile, profile.workers[:1]).pss == 20 << 20


def test_without_a_known_heap_every_page_counts() -> None:
    summary = _summary.summarize(replace(small(), heap=()))
    assert (summary.heap_copied, summary.heap_named) == (6, 5)


def test_the_heap_ends_before_its_end() -> None:
    pages = tuple(Page(at(index), Cause.STACK) for index in (0, 1, 2, 3, 4, 5))
    profile = replace(EMPTY, workers=(Worker(7, "", (), pages),), heap=((at(1), at(3)),))
    assert _summary.summarize(profile).heap_copied == 2


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40))))
def test_merged_ranges_cover_the_same_addresses(ranges) -> None:
    result = _summary.merged(ranges)
    covered = {address for start, end in ranges for address in range(start, end)}
    assert [address for span in result for address in range(*span)] == sorted(covered)
    assert all(one[1] < other[0] for one, other in pairwise(result))


@given(st.text(st.characters()))
def test_what_is_printable_is_shown_and_the_rest_is_named(name: str) -> None:
    shown = _summary.printable(name)
    assert shown.isprintable()
    assert shown.encode("utf-8").decode("utf-8") == shown
    assert len(shown) <= _summary.LONGEST_NAME
    if name.isprintable() and len(name) <= _summary.LONGEST_NAME:
        assert shown == name


# JSON

TEXT = st.text(st.characters()).map(  # halves of surrogate pairs alone, but not side by side
    lambda text: text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")
)
SIZES = st.integers(0, 2**63)
PAGES = st.builds(
    Page,
    address=SIZES,
    cause=st.sampled_from(Cause),
    object=st.none() | TEXT,
    detail=st.none() | TEXT,
    neighbours=st.lists(TEXT, max_size=3).map(tuple),
    certain=st.booleans(),
)
SAMPLES = st.builds(Sample, st.floats(0, 1e9) | st.integers(0, 9), SIZES, SIZES, SIZES)
WORKERS = st.builds(
    Worker,
    pid=SIZES,
    command=TEXT,
    samples=st.lists(SAMPLES, max_size=3).map(tuple),
    pages=st.lists(PAGES, max_size=4).map(tuple),
)
PROFILES = st.builds(
    Profile,
    mode=TEXT,
    parent=SIZES,
    python=TEXT,
    page_size=st.sampled_from([4096, 16384, 65536]),
    workers=st.lists(WORKERS, max_size=3).map(tuple),
    heap=st.lists(st.tuples(SIZES, SIZES), max_size=3).map(tuple),
    notes=st.lists(TEXT, max_size=2).map(tuple),
    parent_samples=st.lists(SAMPLES, max_size=2).map(tuple),
)


@given(PROFILES)
def test_json_round_trip_is_exact(profile: Profile) -> None:
    text = to_json(profile)
    assert text.isascii()
    assert from_json(text) == profile
    assert to_json(from_json(text)) == text


@given(PROFILES)
def test_every_profile_can_be_reported(profile: Profile) -> None:
    assert "PROFILE_DATA" not in render(profile)
    assert table(profile).encode("utf-8")


def test_the_schema_is_the_documented_one() -> None:
    worker = small().workers[1]
    assert json.loads(to_json(replace(small(), workers=(worker,)))) == {
        "format": "permaheap-cow",
        "version": 1,
        "mode": "trace",
        "parent": 100,
        "python": "3.14.8",
        "page_size": 4096,
        "heap": [[at(0), at(32)], [at(32), at(64)]],
        "notes": ["no frame numbers: they need CAP_SYS_ADMIN"],
        "parent_samples": [],
        "workers": [
            {
                "pid": 102,
                "command": "worker two",
                "samples": [
                    {"seconds": 1.0, "private_dirty": 1 << 20, "pss": 10 << 20, "shared": 8 << 20}
                ],
                "pages": [
                    {
                        "address": at(1),
                        "cause": "object changed",
                        "object": "dict",
                        "detail": "ma_values",
                        "neighbours": [],
                        "certain": True,
                    }
                ],
            }
        ],
    }


def test_readers_ignore_what_they_do_not_know() -> None:
    document = json.loads(to_json(small()))
    document["colour"] = document["workers"][0]["pages"][0]["colour"] = "red"
    assert from_json(json.dumps(document)) == small()


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], "memray", 'not a profile of permaheap cow: its "format"'),
        (["version"], 2, "version 2 of the schema, and this permaheap reads version 1"),
        (["version"], True, "version of the profile is bool, not int"),
        (["workers"], {}, "workers of the profile is dict, not list"),
        (["workers", 1], 3, r"workers\[1\] of the profile is int, not dict"),
        (["workers", 0, "pid"], "1", r"pid of workers\[0\] of the profile is str, not int"),
        (["workers", 0, "samples", 1, "seconds"], None, r"seconds of samples\[1\] of workers\[0\]"),
        (["workers", 0, "pages", 2, "cause"], "gremlins", r"'gremlins', which this permaheap does"),
        (["workers", 0, "pages", 2, "neighbours"], [1], r"neighbours\[0\] of pages\[2\]"),
        (["workers", 0, "pages", 2, "certain"], 1, "is int, not bool"),
        (["heap", 0], [1], "has 1 addresses, not 2"),
        (["heap", 0], [1, "2"], r"heap\[0\]\[1\] of the profile is str, not int"),
    ],
)
def test_what_is_wrong_with_a_profile_is_named(path, value, message) -> None:
    document = part = json.loads(to_json(small()))
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    with pytest.raises(ValueError, match=message):
        from_json(json.dumps(document))


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ValueError, match='the profile has no "mode"'):
        from_json('{"format": "permaheap-cow", "version": 1}')
    with pytest.raises(ValueError, match="Expecting value"):
        from_json("<html>")


def test_json_has_no_name_for_infinity() -> None:
    worker = Worker(1, "", (Sample(float("inf"), 0, 0, 0),), ())
    for reporter in (to_json, render):
        with pytest.raises(ValueError, match="not JSON compliant"):
            reporter(replace(EMPTY, workers=(worker,)))


# Text


def test_the_table() -> None:
    assert table(small()) == (
        """2 workers of process 100, Python 3.14.8, trace mode

  private dirty per worker    2.0 MiB (at most 3.0 MiB)
  PSS of the workers          30.0 MiB
  copied pages                6 (24.0 KiB)
  causes named                80.0 % of the Python heap's copied pages

  cause               pages    bytes   share    seen  objects
  reference count         2  8.0 KiB  33.3 %  50.0 %  dict 1, str 1
  collector's header      1  4.0 KiB  16.7 %   100 %  list 1
  unknown                 1  4.0 KiB  16.7 %     0 %
  C library's malloc      1  4.0 KiB  16.7 %   100 %  [heap] 1
  object changed          1  4.0 KiB  16.7 %   100 %  dict 1

  worker  private dirty       PSS   shared  copied  most of it       command
     101        3.0 MiB  20.0 MiB  6.0 MiB       5  reference count  worker one
     102        1.0 MiB  10.0 MiB  8.0 MiB       1  object changed   worker two

note: no frame numbers: they need CAP_SYS_ADMIN
"""
    )


def test_the_table_of_nothing() -> None:
    assert "0 workers of process 1" in table(EMPTY)
    assert "causes named                -" in table(EMPTY)
    assert "1 worker of process 1" in table(NO_PAGE)
    assert re.search(r"^ +2 +- +- +- +0  -  +idle$", table(NO_PAGE), re.MULTILINE)


def test_the_table_writes_nothing_that_a_terminal_obeys() -> None:
    for line in table(hostile()).splitlines():
        assert line.isprintable()


def rendered(profile: Profile, width: int) -> str:
    console = pytest.importorskip("rich.console").Console(
        file=io.StringIO(), width=width, force_terminal=False
    )
    console.print(renderable(profile))
    return console.file.getvalue()


def test_rich_shows_what_the_table_shows() -> None:
    assert sorted(rendered(small(), 120).split()) == sorted(table(small()).split())


def test_rich_takes_no_name_for_markup_and_fits_the_terminal() -> None:
    shown = rendered(hostile(), 100)
    assert "[bold]markup[/bold] [/]" in shown
    assert "\x1b" not in shown
    assert max(map(len, rendered(family(samples=2), 80).splitlines())) <= 80


def test_rich_is_imported_only_when_it_is_used(run) -> None:
    done = run(
        "import sys\n"
        "from test_cow_report import small, table\n"
        "table(small())\n"
        "from cow_profiles import render\n"
        "render(small())\n"
        "assert 'rich' not in sys.modules"
    )
    assert done.returncode == 0, done.stderr


# The page, as a text


class Parsed(HTMLParser):
    """A page, as HTML's own parser finds it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data) -> None:
        self.texts.append(data)


def test_the_page_refers_to_nothing_outside() -> None:
    html = re.sub(r'(id="data">)[^<]+', r"\1", render(family(samples=3)))
    page = Parsed(html)
    links = {"src", "href", "srcset", "action", "data", "poster", "background", "ping", "manifest"}
    targets = [value for _, have in page.tags for name, value in have.items() if name in links]
    assert targets == ["data:,"]  # no icon
    assert not {tag for tag, _ in page.tags} & {"iframe", "object", "embed", "base", "img"}
    code = html.replace("http://www.w3.org/2000/svg", "")  # the name of a namespace
    assert not re.search(
        r"https?:|//[a-z]|url\(|@import|@font-face|fetch\(|XMLHttp|WebSocket", code
    )
    policy = next(have["content"] for tag, have in page.tags if "http-equiv" in have)
    assert policy.startswith("default-src 'none';")


def test_every_part_is_put_in() -> None:
    html = render(small())
    assert not re.search(r"PROFILE_DATA|/\*\w+\.(css|js)\*/", html)
    assert html.count("<script") == html.count("</script>") == 2


def test_names_do_not_change_the_page() -> None:
    assert Parsed(render(hostile())).tags == Parsed(render(small())).tags
    assert all(name not in render(hostile()) for name in HOSTILE)


def test_the_page_of_a_family_is_small() -> None:
    assert len(render(family())) < 150_000


@pytest.fixture(scope="module")
def large() -> str:
    """The page of 8 workers with 60,000 copied pages each, about which all is by chance."""
    rng = random.Random(8)
    near = [tuple(rng.sample(TYPES, rng.randrange(6))) for _ in range(60_000)]
    kinds = [
        (cause, name, detail, certain)
        for _, cause, names, details in HEAP_CAUSES
        for name in names
        for detail in details
        for certain in (True, False)
    ]
    workers = []
    for pid in range(8):
        pages = [
            Page(at(index), cause, name, detail, near[index], certain)
            for index, (cause, name, detail, certain) in enumerate(rng.choices(kinds, k=60_000))
        ]
        workers.append(Worker(pid, "", (), tuple(pages)))
    return render(replace(EMPTY, workers=tuple(workers), heap=((at(0), at(100_000)),)))


@pytest.mark.slow
def test_the_page_of_a_large_family_stays_below_a_few_megabytes(large: str) -> None:
    assert len(large) < 3_000_000


def test_of_many_samples_some_are_drawn() -> None:
    samples = tuple(Sample(float(second), second, 0, 0) for second in range(10_007))
    drawn = _html._samples(samples)
    assert 1000 <= len(drawn) <= 1010
    assert (drawn[0][0], drawn[-1][0]) == (0, 10_006)


# Colours


def linear(colour: str) -> list[float]:
    """Red, green and blue, from sRGB to linear light."""
    parts = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


# Machado, Oliveira and Fernandes (2009): full protanopia, deuteranopia, tritanopia.
VISIONS = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
TO_CONES = [
    [0.4122214708, 0.5363325363, 0.0514459929],
    [0.2119034982, 0.6806995451, 0.1073969566],
    [0.0883024619, 0.2817188376, 0.6299787005],
]
TO_LAB = [
    [0.2104542553, 0.7936177850, -0.0040720468],
    [1.9779984951, -2.4285922050, 0.4505937099],
    [0.0259040371, 0.7827717662, -0.8086757660],
]


def times(matrix, vector) -> list[float]:
    return [sum(one * other for one, other in zip(row, vector, strict=True)) for row in matrix]


def oklab(colour: str, vision) -> list[float]:
    """The colour as it is seen, where distances are differences."""
    seen = [min(1.0, max(0.0, part)) for part in times(vision, linear(colour))]
    return times(TO_LAB, [part ** (1 / 3) for part in times(TO_CONES, seen)])


def palettes() -> dict[str, dict[str, str]]:
    """The colours of style.css by their names, in light and in dark."""
    style = (resources.files("permaheap.cow") / "report" / "style.css").read_text("utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    return {
        "light": dict(re.findall(r"--(\w+): (#\w{6})", light)),
        "dark": dict(re.findall(r"--(\w+): (#\w{6})", dark)),
    }


@pytest.mark.parametrize("vision", VISIONS.values(), ids=VISIONS)
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colour_blind_people_tell_the_causes_apart(scheme, vision) -> None:
    palette = palettes()[scheme]
    script = (resources.files("permaheap.cow") / "report" / "report.js").read_text("utf-8")
    shapes = json.loads(re.search(r"SHAPES = (\[.*?\]);", script)[1])
    assert len(shapes) == len(Cause)
    looks = [("solid", palette["shared"])]
    looks += [(shape, palette[f"c{index}"]) for index, shape in enumerate(shapes)]
    for (shape, one), (other_shape, other) in combinations(looks, 2):
        if shape == other_shape:
            distance = math.dist(oklab(one, vision), oklab(other, vision))
            assert distance > 0.12, (one, other)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(scheme) -> None:
    palette = palettes()[scheme]

    def luminance(name: str) -> float:
        return times([[0.2126, 0.7152, 0.0722]], linear(palette[name]))[0] + 0.05

    for text in ("ink", "soft", "accent"):
        for ground in ("page", "card", "notice"):
            levels = sorted([luminance(text), luminance(ground)])
            assert levels[1] / levels[0] > 4.5, (text, ground)


# The page, in Chromium


@pytest.fixture(scope="module")
def chromium():
    """A browser for all tests of this file."""
    if browsers.CHROMIUM is None:
        pytest.skip("there is no Chromium here (apt-get install chromium)")
    browser = browsers.Browser()
    yield browser
    browser.close()


@pytest.fixture
def show(chromium, tmp_path):
    """A function that opens a profile's page and expects that it is drawn without a complaint."""

    def opened(profile, **look):
        chromium.look(**look)
        html = profile if isinstance(profile, str) else render(profile)
        assert chromium.open(html, tmp_path / "report.html"), chromium.text("#failure")
        assert chromium.complaints() == []
        return chromium

    return opened


FRAMES = "new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => done())))"


def place_of(browser, address: int) -> tuple[float, float]:
    """The middle of a page's square in the window, after scrolling there."""
    browser.run("document.getElementById('map').scrollIntoView({block: 'center'})")
    found = browser.run(
        f"""(() => {{
            const page = {address // PAGE_SIZE};
            const holds = cell => map.pages[cell] === page;
            const row = map.rows.find(({{slots}}) => slots && slots.some(holds));
            document.getElementById('map').scrollTop = row.y - 40;
            const box = document.getElementById('map-space').getBoundingClientRect();
            const column = row.slots.findIndex(holds);
            return [box.left + (column + 0.5) * map.side, box.top + row.y + map.side / 2];
        }})()"""
    )
    browser.run(FRAMES)  # the effects of scrolling come before those of the mouse
    return tuple(found)


def colour_at(browser, address: int) -> str:
    """The colour in the middle of a page's square."""
    x, y = place_of(browser, address)
    parts = browser.run(
        f"""(() => {{
            const canvas = document.getElementById('map-canvas');
            const box = canvas.getBoundingClientRect();
            const [x, y] = [{x} - box.left, {y} - box.top].map(Math.floor);
            const [red, green, blue] = canvas.getContext('2d').getImageData(x, y, 1, 1).data;
            return [red, green, blue];
        }})()"""
    )
    return "#" + bytes(parts).hex()


def totals(browser) -> dict[str, list[str]]:
    """The headline: each tile's value and what is below it, by title."""
    tiles = browser.run(
        "[...document.querySelectorAll('#totals > div')].map(tile => tile.innerText.split('\\n'))"
    )
    return {title: [line for line in rest if line] for title, *rest in tiles}


def test_the_totals(show) -> None:
    assert totals(show(small())) == {
        "Private dirty per worker": ["2.0 MiB", "mean; at most 3.0 MiB"],
        "PSS of the workers": ["30.0 MiB", "shared per worker: 7.0 MiB"],
        "Copied pages": ["6", "24.0 KiB, all workers"],
        "Causes named": ["80.0 %", "of the heap's copied pages"],
    }


def test_the_page_asks_for_nothing(show, tmp_path) -> None:
    assert show(family(samples=3)).requests() == [(tmp_path / "report.html").as_uri()]


def test_the_causes_are_ranked(show) -> None:
    browser = show(small())
    first = browser.text("#causes > li")
    for part in ("reference count", "8.0 KiB", "33.3 %", "2 pages", "50 % seen", "dict 1", "str 1"):
        assert part in first
    names = browser.run(
        "[...document.querySelectorAll('#causes .name')].map(name => name.innerText)"
    )
    assert names == [str(total.cause) for total in _summary.summarize(small()).causes]
    assert "other" not in browser.text("#causes")
    widths = browser.run(
        "[...document.querySelectorAll('#causes .bar')].map(bar =>"
        " [...bar.children].map(part => [part.className, part.style.width]))"
    )
    assert widths[0] == [["certain", "50%"], ["inferred", "50%"]]
    assert widths[2] == [["inferred", "50%"]]


def test_of_many_objects_some_are_named(show) -> None:
    pages = tuple(Page(at(index), Cause.MUTATION, f"type{index}") for index in range(9))
    browser = show(replace(EMPTY, workers=(Worker(7, "", (), pages),)))
    assert "type5 1" in browser.text("#causes") and "3 others" in browser.text("#causes")


def test_the_legend_shows_each_look_of_a_page(show) -> None:
    profile = family(samples=2)
    browser = show(profile, scale=2)
    looks = browser.run(
        """[...document.querySelectorAll('#legend canvas')].map(canvas => {
            const pen = canvas.getContext('2d');
            const [middle, corner] = [13, 1].map(at => [...pen.getImageData(at, at, 1, 1).data]);
            return [canvas.parentNode.innerText, middle, corner];
        })"""
    )
    palette = palettes()["light"]
    looks = {
        text: (bytes(middle[:3]).hex(), middle[3], corner[3]) for text, middle, corner in looks
    }
    assert set(looks) == {str(page.cause) for w in profile.workers for page in w.pages} | {
        "not copied"
    }
    assert looks["not copied"] == (palette["shared"][1:], 255, 255)
    assert looks["reference count"] == (palette["c0"][1:], 255, 255)
    assert looks["stack"][1:] == (0, 255)  # a ring


def test_outside_of_the_heap_a_space_marks_a_jump(show) -> None:
    pages = tuple(Page(at(index), Cause.STACK) for index in (0, 1, 5, 6, 900))
    browser = show(replace(EMPTY, workers=(Worker(7, "", (), pages),)))
    assert browser.run("[...map.rows.at(-1).slots]") == [0, 1, -2, 2, 3, -2, 4]


def test_what_nobody_copied_is_elided(show) -> None:
    pages = tuple(Page(at(index), Cause.STACK) for index in (0, 5000))
    heap = ((at(0), at(10_000)), (at(20_000), at(30_000)))
    browser = show(replace(EMPTY, workers=(Worker(7, "", (), pages),), heap=heap))
    columns = browser.run("map.columns")
    first, more = browser.run("map.rows.filter(row => row.elided).map(row => row.elided)")
    row = 5000 // columns * columns
    assert f"{row - columns:,} pages not copied" in first
    assert f"{10_000 - row - columns:,} pages not copied" in more
    assert browser.run("map.rows.filter(row => row.slots).length") == 2
    assert browser.text("#map-elided") == (
        "Not shown: 1 address range of the heap without a copied page."
    )


def test_hovering_names_what_is_on_a_page(show) -> None:
    browser = show(small())
    browser.mouse(*place_of(browser, at(3)))
    tip = browser.text("#tip")
    for part in (hex(at(3)), "collector's header", "seen", "list", "_gc_prev", "str, tuple"):
        assert part in tip
    assert "Copied by\n1 of 2 workers: 101" in tip
    browser.mouse(*place_of(browser, 0x5500_0000_0000))
    assert "[heap]" in browser.text("#tip")
    browser.mouse(5, 5)
    assert browser.run("document.getElementById('tip').hidden")


def test_hovering_tells_workers_apart(show) -> None:
    browser = show(small())
    browser.mouse(*place_of(browser, at(1)))
    tip = browser.text("#tip")
    assert "reference count" in tip and "object changed" in tip
    assert "1 of 2 workers: 101" in tip and "1 of 2 workers: 102" in tip


def test_hovering_puts_together_workers_that_agree(show) -> None:
    copies = [
        Page(at(0), Cause.MUTATION, "list", "used", ("str", "cell")),
        Page(at(0), Cause.MUTATION, "dict", "used", ("str", "type"), certain=False),
    ]
    workers = tuple(Worker(pid, "", (), (copy,)) for pid, copy in enumerate(copies, start=7))
    browser = show(replace(EMPTY, workers=workers))
    browser.mouse(*place_of(browser, at(0)))
    assert browser.text("#tip").split("\n") == [
        *(hex(at(0)), "object changed · seen in 1, inferred in 1"),
        *("Object", "list, dict", "Detail", "used", "Also here", "str, cell, type"),
        *("Copied by", "2 of 2 workers: 7, 8"),
    ]


def test_of_many_neighbours_some_are_named(show) -> None:
    page = Page(at(0), Cause.UNKNOWN, neighbours=tuple(f"type{index}" for index in range(300)))
    browser = show(replace(EMPTY, workers=(Worker(7, "", (), (page,)),)))
    browser.mouse(*place_of(browser, at(0)))
    assert "type22, type23 and 276 others" in browser.text("#tip")


def test_the_tip_stays_within_the_window_and_goes_with_its_square(show) -> None:
    browser = show(family(samples=2), width=700, height=500)
    pages = sorted({page.address for page in family().workers[0].pages})
    for address in pages[:: len(pages) // 12]:
        browser.mouse(*place_of(browser, address))
        assert hex(address) in browser.text("#tip")
        left, top, right, bottom = browser.run(
            "(({left, top, right, bottom}) => [left, top, right, bottom])"
            "(document.getElementById('tip').getBoundingClientRect())"
        )
        assert 0 <= left < right <= 700 and 0 <= top < bottom <= 500
    below = "document.getElementById('tip').getBoundingClientRect().top"
    browser.mouse(1, 1)  # or it would point at another square after scrolling
    browser.run("map.first()")
    before = browser.run(below)
    browser.run(f"window.scrollBy(0, 60); {FRAMES}")
    assert before - browser.run(below) == 60
    browser.run(f"document.getElementById('map').scrollTop = 1e6; {FRAMES}")
    browser.run(f"document.getElementById('map').scrollTop = 0; {FRAMES}")
    assert browser.run("document.getElementById('tip').hidden")


def test_a_finger_sees_what_a_mouse_sees(show) -> None:
    browser = show(small(), width=400, touch=True)
    browser.tap(*place_of(browser, at(3)))
    assert hex(at(3)) in browser.text("#tip")


def test_the_keyboard_gets_everywhere(show) -> None:
    browser = show(small())
    browser.run(
        "document.querySelector('#legend li:last-of-type').previousSibling.firstChild.focus()"
    )
    browser.press("Tab")
    assert browser.run("document.activeElement.id") == "map"
    assert hex(at(0)) in browser.text("#tip") and "not copied" in browser.text("#tip")
    browser.press("ArrowRight")
    assert hex(at(1)) in browser.text("#tip")
    browser.press("End")
    assert hex(0x5500_0000_0000) in browser.text("#tip")
    browser.press("ArrowLeft")
    assert hex(at(63)) in browser.text("#tip")
    browser.press("Home")
    browser.press("ArrowDown")
    browser.press("ArrowUp")
    assert hex(at(0)) in browser.text("#tip")
    browser.press("Escape")
    assert browser.run("document.getElementById('tip').hidden")
    assert browser.run("document.activeElement.id") == "map"


def test_the_keyboard_visits_every_square_once(show) -> None:
    profile = family(heap_pages=1500, samples=2)
    browser = show(profile)
    visited = browser.run(
        """(() => {
            const seen = [];
            map.first();
            for (let before = null; before !== map.cursor; ) {
                before = map.cursor;
                seen.push(map.rows[before.row].slots[before.column]);
                map.move(0, 1);
            }
            return seen.filter(cell => cell >= 0);
        })()"""
    )
    pages = {page.address for worker in profile.workers for page in worker.pages}
    assert len(visited) == len(set(visited)) == len(pages)


def test_a_worker_can_be_chosen(show) -> None:
    browser = show(small())
    browser.run("document.getElementById('worker').focus()")
    for _ in range(2):
        browser.press("ArrowDown")
    assert browser.run("state.worker") == 1
    assert totals(browser)["Copied pages"] == ["1", "4.0 KiB"]
    assert totals(browser)["Private dirty"] == ["1.0 MiB"]
    assert "reference count" not in browser.text("#causes")
    assert browser.run("[...map.pages]") == [at(1) // PAGE_SIZE]
    browser.run("document.querySelectorAll('#workers button')[0].click()")
    assert totals(browser)["Copied pages"] == ["5", "20.0 KiB"]
    assert browser.text("tr.chosen th") == "101"


@pytest.mark.parametrize("dark", [False, True])
def test_pages_have_the_colours_of_their_causes(show, dark) -> None:
    browser = show(small(), dark=dark)
    palette = palettes()["dark" if dark else "light"]
    assert colour_at(browser, at(3)) == palette["c1"]
    assert colour_at(browser, at(2)) == palette["c0"]
    browser.look(dark=not dark)  # while it is open
    browser.run(FRAMES)
    assert colour_at(browser, at(3)) == palettes()["light" if dark else "dark"]["c1"]


def test_of_several_workers_causes_the_most_frequent_colours_the_page(show) -> None:
    causes = [Cause.MUTATION, Cause.GC_HEADER, Cause.GC_HEADER]
    workers = tuple(
        Worker(index, "", (), (Page(at(0), cause),)) for index, cause in enumerate(causes)
    )
    browser = show(replace(EMPTY, workers=workers))
    assert colour_at(browser, at(0)) == palettes()["light"]["c1"]


def test_a_cause_can_be_picked_out(show) -> None:
    browser = show(small())
    pressed = "[...document.querySelectorAll('#legend button')].map(button => button.ariaPressed)"
    browser.run("document.querySelectorAll('#legend button')[0].click()")
    assert browser.run(pressed) == ["true", "false", "false", "false", "false"]
    assert colour_at(browser, at(2)) == palettes()["light"]["c0"]
    assert colour_at(browser, at(3)) != palettes()["light"]["c1"]
    browser.run("document.querySelectorAll('#legend button')[0].click()")
    assert colour_at(browser, at(3)) == palettes()["light"]["c1"]


def test_the_time_line(show) -> None:
    browser = show(small())
    assert browser.run("document.querySelectorAll('#timeline svg').length") == 3
    assert browser.run("document.querySelectorAll('#timeline polyline').length") == 3
    assert browser.run("document.querySelectorAll('#timeline circle').length") == 3
    assert "Private dirty\n1.0 MiB – 3.0 MiB" in browser.text("#timeline figure")
    browser.run("document.querySelector('#timeline svg').focus()")
    for _ in range(39):
        browser.press("ArrowLeft")
    assert "4.0 KiB at 0.0 s" in browser.text("#timeline figure")


@pytest.mark.parametrize("width", [320, 400, 1200])
@pytest.mark.parametrize("profile", [family(samples=3), hostile()], ids=["family", "hostile"])
def test_nothing_is_wider_than_the_window(show, profile, width) -> None:
    browser = show(profile, width=width, touch=width < 500)
    assert browser.run("document.documentElement.scrollWidth") <= width


def test_hostile_names_are_shown_as_they_are(show) -> None:
    browser = show(hostile())
    assert browser.run("window.hacked") is None
    assert browser.run("document.querySelectorAll('img, script').length") == 2
    names = browser.run(
        "[...document.querySelectorAll('#notes bdi')].map(item => item.textContent)"
    )
    assert names == [_summary.printable(name) for name in HOSTILE]
    browser.mouse(*place_of(browser, at(0)))
    assert HOSTILE[0] in browser.text("#tip")
    browser.mouse(*place_of(browser, at(6)))
    assert r"\x1b[31mred" in browser.text("#tip")


@pytest.mark.parametrize("profile", [EMPTY, ONE_PAGE, NO_PAGE], ids=["empty", "page", "idle"])
def test_little_is_a_report_too(show, profile) -> None:
    browser = show(profile)
    copied = sum(len(worker.pages) for worker in profile.workers)
    assert totals(browser)["Copied pages"][0] == str(copied)
    assert ("No page was copied." in browser.text("#causes")) == (copied == 0)
    assert ("No worker was seen." in browser.text("#workers")) == (profile is EMPTY)
    assert browser.run("document.getElementById('map-section').hidden") == (copied == 0)


def test_figures_are_written_as_in_the_table(show) -> None:
    browser = show(EMPTY)
    sizes = [0, 1, 1023, 1024, 1536, 2**20 - 1, 2**20, 5 * 2**30, 2**45]
    assert browser.run(f"{sizes}.map(size)") == [_summary.size(size) for size in sizes]
    shares = [0, 0.0001, 0.005, 0.0312, 0.5, 0.998, 0.9999, 1]
    assert browser.run(f"{shares}.map(percent)") == [_text.percent(share) for share in shares]


def test_damaged_data_are_reported(chromium, tmp_path) -> None:
    html = render(small())
    start = html.index('id="data">') + 20
    damaged = html[:start] + "AAAA" + html[start + 4 :]
    assert chromium.open(damaged, tmp_path / "report.html") is False
    assert "The report cannot be drawn" in chromium.text("#failure")


@pytest.mark.slow
def test_a_large_family_can_be_looked_at(show, large: str) -> None:
    browser = show(large, width=400, touch=True)
    assert totals(browser)["Copied pages"][0] == "480,000"
    browser.tap(*place_of(browser, at(59_990)))
    assert hex(at(59_990)) in browser.text("#tip")
    assert browser.run("document.getElementById('map-canvas').height") < 2000
