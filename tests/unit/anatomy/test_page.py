from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerkit.anatomy import Inspection, charts, difference_page, inspection_page
from layerkit.anatomy.difference import compare

from .support import portrait

HOSTILE = (
    "</script><script>alert(1)</script>", "\"><img src=x onerror=alert(1)>", "' onfocus='alert(1)", "</style><b>",
    "<!--", "]]>", "&lt;script&gt;", "\x00\x1b[31m\u202e", "javascript:alert(1)", "${1}{{2}}", "\ud800",
    "<svg onload=x>",
)  # fmt: skip


class Shape(HTMLParser):
    """The tags of a page with the names of their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, tuple[str, ...]]] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, tuple(name for name, _ in attrs)))
        self.links += [str(value) for name, value in attrs if name in ("href", "src", "action", "data", "poster")]
        self.ids += [str(value) for name, value in attrs if name == "id"]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def pages(said: str = "") -> list[str]:
    one, two = portrait(said=said), portrait(said=said, seed="2")
    return [inspection_page(one), difference_page(compare(one, two))]


@pytest.mark.parametrize("said", HOSTILE)
def test_escaped(said: str) -> None:
    """What an image says changes no tag and no attribute of the page, wherever it says it."""
    harmless, hostile = pages("x"), pages(said)
    for one, other in zip(harmless, hostile, strict=True):
        assert Shape(one).tags == Shape(other).tags
        other.encode()
        assert not set(re.findall(r"[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069]", other))


@settings(max_examples=40, deadline=None)
@given(st.text(min_size=1).filter(lambda said: said.strip()))
def test_any_text(said: str) -> None:
    """The same for any text."""
    assert [Shape(page).tags for page in pages("x")] == [Shape(page).tags for page in pages(said)]


def test_self_contained() -> None:
    """No script, nothing from elsewhere, every link leads to a row that is there, and no id twice."""
    for page in [*pages(), inspection_page(portrait(by_hand=True))]:
        shape = Shape(page)
        assert "script" not in {tag for tag, _ in shape.tags}
        assert not [name for _, names in shape.tags for name in names if name.startswith("on")]
        assert all(link == "data:," or link[1:] in shape.ids for link in shape.links)
        assert len(shape.ids) == len(set(shape.ids))
        assert "@import" not in page and "url(" not in page
        assert "default-src 'none'" in page


def test_says_what_is_found() -> None:
    """The page of an image has its digests whole, its sizes, its tensors and its build."""
    found = portrait()
    words = " ".join(Shape(inspection_page(found)).words)
    for layer in found.layers:
        assert str(layer.digest) in words
    assert str(found.digest) in words and "sha256:" + "3f" * 32 in words
    assert "2.8 GiB" in words and "4.3 GiB" in words and "524\u202f288\u202f000" in words
    assert "13 s from start to end" in words and "placed well" in words


def test_moves_of_a_page_by_hand() -> None:
    """Where the checkpoint is placed badly, the page shows both ways, and what would be lighter."""
    page = inspection_page(portrait(by_hand=True))
    assert "downloads, placed well" in page and "1.8 GiB lighter" in page
    assert "remembers no build" in page


def test_timeline_of_older_records() -> None:
    """A record with durations alone is laid out by the flow of a build: plan; build and checkpoint; compose."""
    record = {"seconds": {"plan": 1.0, "build": 4.0, "checkpoint": 2.0, "compose": 1.0, "total": 6.0}}
    spans = [(name, begin, took) for _, name, begin, took, _ in charts._spans(record)]
    assert spans == [("plan", 0.0, 1.0), ("build", 1.0, 4.0), ("checkpoint", 1.0, 2.0), ("compose", 5.0, 1.0)]


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"timeline": None, "seconds": None},
        {"timeline": [1, "x", {}], "seconds": []},
        {"timeline": [{"begin": "x", "seconds": -1, "name": [], "kind": {}}]},
        {"seconds": {"plan": float("nan"), "build": "1", "compose": 1e99}},
    ],
)
def test_odd_records(record: dict[str, object]) -> None:
    """A record is a file of somebody's: whatever is in it, a page comes out."""
    found = portrait()
    odd = Inspection(**{**{name: getattr(found, name) for name in found.__slots__}, "timeline": record})
    assert "Its build" in inspection_page(odd)


def test_timeline_in_groups() -> None:
    """Steps stand under the build, transfers under the checkpoint, and what is too short to be seen is folded."""
    rows = [
        ("transfer", "m.pt", 0.6, 3.0), ("phase", "checkpoint", 0.5, 4.0), ("step", "RUN pip", 1.0, 8.0),
        ("phase", "build", 0.5, 9.5), ("phase", "plan", 0.0, 0.05), ("step", "COPY", 9.0, 0.01),
    ]  # fmt: skip
    record = {"timeline": [dict(zip(("kind", "name", "begin", "seconds"), row, strict=True)) for row in rows]}
    made = charts.timeline(record)
    shown, _, folded = made.partition("<details>")
    assert re.findall(r'class="step">([^<]*)<', shown) == ["plan", "build", "RUN pip", "checkpoint", "m.pt"]
    assert re.findall(r'class="step">([^<]*)<', folded) == ["COPY"] and "1 more, each under 0.15 s" in folded
    assert "left:10.000%;width:80.000%" in shown
