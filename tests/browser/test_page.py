"""The pages as a person sees them: in a real browser, at the width of a desk and of a phone, in light and in dark."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from layerkit.anatomy import difference_page, inspection_page
from layerkit.anatomy.difference import compare
from unit.anatomy.support import portrait

from .chromium import Chromium

HOSTILE = "</script></style><script>document.title='taken'</script><img src=http://127.0.0.1:9/x onerror=alert(1)>"
PAGES = {
    "inspect": lambda: inspection_page(portrait()),
    "by hand": lambda: inspection_page(portrait(by_hand=True)),
    "diff": lambda: difference_page(compare(portrait(by_hand=True), portrait(seed="2"))),
    "hostile": lambda: difference_page(compare(portrait(said=HOSTILE), portrait(said=HOSTILE + "!", seed="2"))),
}

# Every line of text that can be seen: its words, its rectangle as far as it is not clipped, its colours.
TEXTS = """(() => {
  const found = [];
  const parse = c => { const n = c.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
  const over = (top, under) => top.slice(0, 3).map((v, i) => v * top[3] + under[i] * (1 - top[3]));
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let number = 0;
  for (let node = walker.nextNode(); node; node = walker.nextNode(), number++) {
    if (!node.data.trim()) continue;
    const own = node.parentElement;
    if (!own.checkVisibility() || own.closest('.hidden, .switch')) continue;
    if (innerWidth <= 640 && own.closest('thead')) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    let backs = [];
    for (let e = own; e; e = e.parentElement) backs.push(parse(getComputedStyle(e).backgroundColor));
    let back = [255, 255, 255];
    for (const layer of backs.reverse()) back = over(layer, back);
    const grounds = [back];
    const hatched = own.closest('.again');
    if (hatched) grounds.push(over(parse(getComputedStyle(document.documentElement).getPropertyValue('--veil')
      .replace(' / .', ' 0.').replace('rgb(', 'rgba(')), back));
    for (const r of range.getClientRects()) {
      let box = [r.left, r.top, r.right, r.bottom];
      for (let e = own; e; e = e.parentElement) {
        if (getComputedStyle(e).overflowX === 'visible') continue;
        const c = e.getBoundingClientRect();
        box = [Math.max(box[0], c.left), Math.max(box[1], c.top),
               Math.min(box[2], c.right), Math.min(box[3], c.bottom)];
      }
      if (box[2] - box[0] < 1 || box[3] - box[1] < 1) continue;
      const colour = parse(getComputedStyle(own).color);
      found.push({ text: node.data.trim().slice(0, 60), box, node: number, colour, grounds });
    }
  }
  return found;
})()"""
TILES = """[...document.querySelectorAll('.map')].filter(m => m.checkVisibility()).map(m => ({
  box: m.getBoundingClientRect().toJSON(),
  tiles: [...m.querySelectorAll('.tile')].map(t => ({bytes: +t.dataset.bytes, box: t.getBoundingClientRect().toJSON()}))
}))"""


@pytest.fixture(
    params=[(1280, False), (1280, True), (390, False), (390, True)],
    ids=["desk-light", "desk-dark", "phone-light", "phone-dark"],
)
def opened(request: pytest.FixtureRequest, chromium: Chromium, tmp_path: Path) -> Any:
    """Opens a page of PAGES at this width and in this scheme."""
    width, dark = request.param

    def open_it(name: str) -> Chromium:
        page = tmp_path / "page.html"
        page.write_text(PAGES[name](), encoding="utf-8")
        chromium.open(page, width=width, dark=dark)
        return chromium

    return open_it


def _luminance(colour: list[float]) -> float:
    """WCAG 2.2, "relative luminance"."""
    linear = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", PAGES)
def test_page(opened: Any, name: str) -> None:
    """Nothing is asked of a network or complained of; areas are as bytes; text is legible and overlaps nowhere."""
    browser: Chromium = opened(name)
    asked = [event["request"]["url"] for event in browser.said("Network.requestWillBeSent")]
    assert [url.partition(":")[0] for url in asked if not url.startswith("data:")] == ["file"]
    complaints = browser.said("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert complaints == []
    assert browser.evaluate("document.scripts.length") == 0 and browser.evaluate("document.title") != "taken"
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it scrolls sideways"

    maps = browser.evaluate(TILES)
    assert len(maps) == (2 if name in ("diff", "hostile") else 1)
    for drawn in maps:
        whole = sum(tile["bytes"] for tile in drawn["tiles"])
        room = drawn["box"]["width"] * drawn["box"]["height"]
        assert room > 50_000 and whole > 2**30
        for tile in drawn["tiles"]:
            width, height = tile["box"]["width"], tile["box"]["height"]
            # Chromium lays out in 64ths of a pixel.
            assert abs(width * height - tile["bytes"] / whole * room) <= (width + height) / 32 + 0.01

    texts = browser.evaluate(TEXTS)
    assert len(texts) > 40
    for one in texts:
        for ground in one["grounds"]:
            light, shade = sorted((_luminance(one["colour"]), _luminance(ground)), reverse=True)
            assert (light + 0.05) / (shade + 0.05) >= 4.5, f"hard to read: {one}"
    for number, one in enumerate(texts):
        for other in texts[number + 1 :]:
            if one["node"] == other["node"]:
                continue  # its own lines, and what an ellipsis stands for
            (a, b, c, d), (e, f, g, h) = one["box"], other["box"]
            # Boxes of lines that follow each other may touch; their letters do not.
            assert min(c, g) - max(a, e) <= 1 or min(d, h) - max(b, f) <= 3, f"{one['text']!r} over {other['text']!r}"


def test_keyboard(chromium: Chromium, tmp_path: Path) -> None:
    """By keys alone: from the map to a layer's row, and from stored to unpacked sizes."""
    page = tmp_path / "page.html"
    page.write_text(inspection_page(portrait()))
    chromium.open(page, width=1280)

    def press(key: str, code: int) -> None:
        for kind in ("rawKeyDown", "char", "keyUp") if key == "Enter" else ("rawKeyDown", "keyUp"):
            chromium.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code,
                          **({"text": "\r"} if kind == "char" else {}))  # fmt: skip

    shown = "[...document.querySelectorAll('.map')].filter(m => m.checkVisibility())[0].className"
    press("Tab", 9)
    assert chromium.evaluate("document.activeElement.id") == "layer-by-stored"
    assert "stored" in chromium.evaluate(shown)
    press("ArrowRight", 39)
    assert "unpacked" in chromium.evaluate(shown)
    press("Tab", 9)
    label = chromium.evaluate("document.activeElement.getAttribute('aria-label')")
    target = chromium.evaluate("document.activeElement.getAttribute('href')")
    assert "layer" in label and "%" in label
    press("Enter", 13)
    assert chromium.evaluate("document.querySelector(':target').tagName") == "TR"
    assert chromium.evaluate("'#' + document.querySelector(':target').id") == target


def test_names(chromium: Chromium, tmp_path: Path) -> None:
    """Everything that can be reached has a name for who cannot see it, and headings go down one step at a time."""
    page = tmp_path / "page.html"
    page.write_text(PAGES["diff"]())
    chromium.open(page, width=1280)
    nodes = [node for node in chromium.call("Accessibility.getFullAXTree")["nodes"] if not node.get("ignored")]
    reached = [node for node in nodes if node["role"]["value"] in ("link", "radio", "group")]
    assert len(reached) >= 16
    assert all(node["name"]["value"].strip() for node in reached if node["role"]["value"] != "group")
    levels = chromium.evaluate("[...document.querySelectorAll('h1,h2,h3')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and all(after - before <= 1 for before, after in itertools.pairwise(levels))
