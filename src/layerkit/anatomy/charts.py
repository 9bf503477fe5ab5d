"""Pieces of the page: maps of layers, bars, timelines, as HTML with nothing but CSS. Pure.

Everything that comes from an image passes through ``text``: escaped for HTML, control characters made visible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from ..errors import printable
from ..units import duration, size
from .layers import Amount, InspectedLayer, by_role
from .roles import brief
from .treemap import squarify

__all__ = ["PAIRED", "amount", "bar", "layer_map", "percent", "roles", "stack", "text", "timeline"]

WIDE, TALL = (1072.0, 420.0), (1000.0, 1200.0)
PAIRED = (520.0, 340.0)
_STATES = {
    "gone": "not in the other image",
    "new": "downloaded and unpacked",
    "again": "there, unpacked again",
    "there": "there",
}


def text(value: str, limit: int = 2000) -> str:
    """*value* from outside as HTML text or attribute value."""
    return escape(" ".join(printable(value, limit).split()))


def amount(value: Amount) -> str:
    """Bytes for people; "at least" where they are that."""
    if value.exact:
        return size(value.bytes)
    return f"≥ {size(value.bytes)}" if value.bytes else "not known"


def percent(share: float) -> str:
    """12.3 %, and what is there at all is not 0."""
    return "< 0.1 %" if 0 < share < 0.001 else f"{share * 100:.1f} %"


def bar(share: float, role: str = "") -> str:
    """A bar of *share* (0 to 1) of its place; it says nothing to who cannot see it, the number beside it does."""
    width = min(max(share, 0.0), 1.0) * 100
    return f'<span class="bar {role}" aria-hidden="true"><i style="width:{width:.3f}%"></i></span>'


def roles(layers: Sequence[InspectedLayer]) -> str:
    """A line a role: its bar, bytes as stored, share."""
    rows, whole = [], sum(layer.weight for layer in layers) or 1
    for role, members in by_role(layers).items():
        weight = sum(layer.weight for layer in members)
        guessed = any(layer.guessed for layer in members)
        mark = ' <span class="soft">guessed</span>' if guessed and role != "unknown" else ""
        rows.append(
            f'<li><span><i class="swatch {role}" aria-hidden="true"></i>{role}{mark}</span>{bar(weight / whole, role)}'
            f'<span class="number">{size(weight)}</span><span class="number soft">{percent(weight / whole)}</span></li>'
        )
    return f'<ul class="roles">{"".join(rows)}</ul>'


def layer_map(
    layers: Sequence[InspectedLayer],
    prefix: str,
    states: Mapping[int, str] | None = None,
    *,
    wide: tuple[float, float] = WIDE,
) -> str:
    """Treemaps of *layers*, by bytes as stored and, where all are known and differ, as unpacked; wide, and for phones.

    Args:
        prefix: of the ids of the rows that the tiles lead to.
        states: layer -> new, again, there or gone, where the map is of a difference.
    """
    kinds = {"stored": [layer.weight for layer in layers]}
    full = [layer.unpacked for layer in layers]
    if all(value is not None for value in full) and full != kinds["stored"]:
        kinds["unpacked"] = [value or 0 for value in full]
    parts = []
    if len(kinds) > 1:
        for kind in kinds:
            checked = " checked" if kind == "stored" else ""
            parts.append(
                f'<input class="switch by-{kind}" type="radio" name="{prefix}by" id="{prefix}by-{kind}"{checked}>'
            )
        labels = {"stored": "as stored", "unpacked": "unpacked"}
        parts.append(
            '<div class="switches">'
            + "".join(f'<label class="for-{k}" for="{prefix}by-{k}">{labels[k]}</label>' for k in kinds)
            + "</div>"
        )
    for kind, weights in kinds.items():
        for shape, (width, height) in (("wide", wide), ("tall", TALL)):
            tiles = _tiles(layers, weights, width, height, prefix, states)
            parts.append(f'<div class="map {shape} {kind}" role="group" aria-label="Layers {kind}">{tiles}</div>')
    return f'<div class="maps">{"".join(parts)}</div>'


def _tiles(
    layers: Sequence[InspectedLayer],
    weights: Sequence[int],
    width: float,
    height: float,
    prefix: str,
    states: Mapping[int, str] | None,
) -> str:
    whole, tiles = sum(weights) or 1, []
    for layer, weight, place in zip(layers, weights, squarify(weights, width, height), strict=True):
        if not place.area:
            continue
        state = (states or {}).get(layer.index, "")
        said = f"{layer.role} layer {layer.index}: {size(weight)}, {percent(weight / whole)}"
        said += f", {_STATES[state]}" if state else ""
        where = (
            f"left:{place.x / width * 100:.6f}%;top:{place.y / height * 100:.6f}%;"
            f"width:{place.width / width * 100:.6f}%;height:{place.height / height * 100:.6f}%"
        )
        hint = f"{said}. {layer.created_by}" if layer.created_by else said
        tiles.append(
            f'<a class="tile {layer.role} {state}" href="#{prefix}{layer.index}" data-bytes="{weight}" style="{where}"'
            f' title="{text(hint, 600)}" aria-label="{text(said)}"><span class="name">{layer.role}</span>'
            f'<span class="bytes">{size(weight)} · {percent(weight / whole)}</span>'
            f'<span class="made">{text(brief(layer.created_by), 200)}</span></a>'
        )
    return "".join(tiles)


def stack(name: str, layers: Sequence[InspectedLayer], scale: int, states: Mapping[int, str]) -> str:
    """One bar of all layers, bottom first, on the *scale* (bytes) of its neighbour."""
    pieces = "".join(
        f'<i class="{layer.role} {states.get(layer.index, "there")}"'
        f' style="width:{layer.weight / (scale or 1) * 100:.4f}%"></i>'
        for layer in layers
    )
    weight = sum(layer.weight for layer in layers)
    return (
        f'<div class="stack"><span>{name}</span><span class="row" aria-hidden="true">{pieces}</span>'
        f'<span class="number">{size(weight)}</span></div>'
    )


def timeline(record: Mapping[str, Any]) -> str:
    """When each part of a build ran, from the object that ``build --json`` prints; "" where it says nothing.

    BuildKit's steps stand under its phase, transfers under the checkpoint's; steps too short to be seen are folded.
    """
    spans = _grouped(list(_spans(record)))
    if not spans:
        return ""
    end = max(span[2] + span[3] for span in spans) or 1.0
    long = [span for span in spans if span[0] == "phase" or span[3] >= end * _SHORT]
    short = [span for span in spans if span not in long]
    caption = f"<caption>{duration(end)} from start to end</caption>"
    head = (
        '<thead><tr><th scope="col">what</th><th scope="col" class="number">took</th><th scope="col">when</th></tr>'
        "</thead>"
    )

    def table(rows: Sequence[_Row], above: str) -> str:
        return f'<table class="times">{above}{head}<tbody>{"".join(_row(row, end) for row in rows)}</tbody></table>'

    if not short:
        return table(long, caption)
    steps = f"{len(short)} more, each under {duration(max(end * _SHORT, 0.01))}"
    return f"{table(long, caption)}<details><summary>{steps}</summary>{table(short, '')}</details>"


_Row = tuple[str, str, float, float, str]  # kind, name, begin, seconds, state
_SHORT = 0.015  # of the whole: what would be drawn as a dot


def _row(span: _Row, end: float) -> str:
    kind, name, begin, seconds, state = span
    role = {"build": "dependencies", "checkpoint": "checkpoint", "transfer": "checkpoint", "step": "dependencies"}.get(
        name if kind == "phase" else kind, "base"
    )
    left, width = begin / end * 100, seconds / end * 100
    said = (
        "" if state in ("", "done", "finished") else ", end not told" if state == "running" else f", {text(state, 40)}"
    )
    inner = "" if kind == "phase" else "inner"
    return (
        f'<tr class="{inner}"><th scope="row" title="{text(name, 600)}"><span class="step">{text(brief(name), 300)}'
        "</span></th>"
        f'<td class="number">{duration(seconds)}<span class="hidden">, from {duration(begin)}</span>{said}</td>'
        f'<td><div class="track" aria-hidden="true"><i class="{role} {inner} {"cached" if state == "cached" else ""}"'
        f' style="left:{left:.3f}%;width:{width:.3f}%"></i></div></td></tr>'
    )


def _grouped(spans: Sequence[_Row]) -> list[_Row]:
    """Phases by their begin, each followed by what ran in it."""
    home = {"step": "build", "transfer": "checkpoint"}
    phases = sorted((span for span in spans if span[0] == "phase"), key=lambda span: (span[2], span[1]))
    inside = sorted((span for span in spans if span[0] != "phase"), key=lambda span: span[2])
    found: list[_Row] = []
    for phase in phases:
        found += [phase, *(span for span in inside if home.get(span[0]) == phase[1])]
    names = {phase[1] for phase in phases}
    return [*found, *(span for span in inside if home.get(span[0]) not in names)]


def _spans(record: Mapping[str, Any]) -> Iterable[_Row]:
    """(kind, name, begin, seconds, state): as recorded, else from the phases' durations by the flow of a build."""
    found = record.get("timeline")
    for item in found if isinstance(found, list) else ():
        if isinstance(item, dict):
            begin, seconds = _number(item.get("begin")), _number(item.get("seconds"))
            yield str(item.get("kind", "")), str(item.get("name", "")), begin, seconds, str(item.get("state", ""))
    if found:
        return
    phases = record.get("seconds")
    took: dict[str, float] = {n: _number(v) for n, v in phases.items()} if isinstance(phases, dict) else {}
    both = took.get("plan", 0.0) + max(took.get("build", 0.0), took.get("checkpoint", 0.0))
    begins = {"plan": 0.0, "build": took.get("plan", 0.0), "checkpoint": took.get("plan", 0.0), "compose": both}
    for name, begin in begins.items():
        if took.get(name):
            yield "phase", name, begin, took[name], "finished"


def _number(value: Any) -> float:
    good = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9
    return float(value) if good else 0.0
