"""An image, or the difference of two, as text: 80 columns or as many as the terminal has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import click

from ..anatomy import Amount, Difference, InspectedLayer, Inspection, Move, change
from ..anatomy.found import SOURCES
from ..anatomy.layers import by_role, stored, total, unpacked
from ..anatomy.roles import brief
from ..errors import printable
from .text import size

__all__ = ["Look", "difference_lines", "inspection_lines"]

_COLOURS = {"base": "bright_black", "dependencies": "blue", "checkpoint": "yellow", "code": "green", "unknown": "white"}
_EIGHTHS = " ▏▎▍▌▋▊▉█"


@dataclass(frozen=True, slots=True)
class Look:
    """How to write: the width in columns, whether in colour, whether in more than ASCII, and whole digests or not."""

    width: int = 80
    colour: bool = False
    unicode: bool = True
    digests: bool = False

    def paint(self, text: str, role: str) -> str:
        return click.style(text, fg=_COLOURS[role]) if self.colour else text

    def dim(self, text: str) -> str:
        return click.style(text, dim=True) if self.colour else text

    def strong(self, text: str) -> str:
        return click.style(text, bold=True) if self.colour else text

    def plain(self, text: str) -> str:
        return (
            text if self.unicode else text.replace("…", "...").replace("·", "-").replace("≥", ">=").replace("→", "->")
        )

    def fit(self, text: str, width: int) -> str:
        """*text* from outside in one line of at most *width* columns; what is cut shows that it is."""
        line = " ".join(printable(text).split())
        if len(line) > width:
            end = "…" if self.unicode else "..."
            line = line[: max(width - len(end), 0)] + end
        return line

    def bar(self, share: float, width: int) -> str:
        """A bar of *share* (0 to 1) of *width* columns, to an eighth of one; what is there at all is seen."""
        if not self.unicode:
            return "#" * max(round(share * width), share > 0)
        eighths = max(round(share * width * 8), share > 0)
        return "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")


def amount(value: Amount) -> str:
    """Bytes; with a sign in front where they are the least that it can be."""
    if value.exact:
        return size(value.bytes)
    return f"≥ {size(value.bytes)}" if value.bytes else "?"


def inspection_lines(found: Inspection, look: Look) -> list[str]:
    """The portrait of an image."""
    lines = [look.strong(printable(found.reference)), *_facts(found, look), ""]
    lines += _roles(found, look)
    lines += ["", *_layers(found.layers, look)]
    if found.checkpoint is not None:
        lines += ["", *_checkpoint(found, look)]
    if any(found.change(role) for role, _ in _SCENARIOS):
        lines += ["", *_changes(found, look)]
    lines += _notes(found.notes, look)
    return [look.plain(line).rstrip() for line in lines]


def _notes(notes: Sequence[str], look: Look) -> list[str]:
    lines = [look.dim(line) for note in notes for line in _wrapped(f"note: {printable(note)}", look)]
    return ["", *lines] if lines else []


def _facts(found: Inspection, look: Look) -> list[str]:
    lines = [f"  {found.digest}"] if found.digest else []
    if found.index and found.index != found.digest:
        lines.append(f"  out of the index of {', '.join(printable(p, 40) for p in found.platforms) or 'one image'}")
        lines.append(f"  {found.index}")
    count = len(found.layers)
    facts = [printable(found.platform, 60), f"{count} layer{'s'[: count != 1]}", f"from {SOURCES[found.source]}"]
    facts.append("built by layerkit" if found.built_by_layerkit else "not built by layerkit")
    return [*lines, *_wrapped("  " + " · ".join(facts), look)]


def _roles(found: Inspection, look: Look) -> list[str]:
    known = found.size.bytes > 0 or any(layer.size is not None for layer in found.layers)
    whole = found.size.bytes if known else found.unpacked.bytes
    rows = [(f"{'role':<14}{'stored':>11}{'unpacked':>12}{'share':>9}", "")]
    room = max(look.width - 50, 10)
    for role, layers in found.roles.items():
        seen = {layer.digest or layer.index: layer for layer in layers}.values()
        kept, full = total(map(stored, seen)), total(map(unpacked, layers))
        share = (kept.bytes if known else full.bytes) / whole if whole else 0.0
        mark = "?" if any(layer.guessed for layer in layers) else ""
        text = f"{role + mark:<14}{amount(kept):>11}{amount(full):>12}{_percent(share):>9}  "
        rows.append((text, look.paint(look.bar(share, room), role)))
    rows.append((f"{'image':<14}{amount(found.size):>11}{amount(found.unpacked):>12}{'100 %':>9}", ""))
    lines = [look.dim(rows[0][0]), *(text + bar for text, bar in rows[1:])]
    if any(layer.guessed for layer in found.layers):
        lines.append(look.dim("? guessed from the image's history"))
    return lines


def _percent(share: float) -> str:
    if 0 < share < 0.001:
        return "< 0.1 %"
    return f"{share * 100:.1f} %"


def _layers(layers: Sequence[InspectedLayer], look: Look) -> list[str]:
    head = f"{'#':>3}  {'role':<14}{'stored':>10}{'unpacked':>11}  {'digest':<14}made by"
    lines = [look.dim(head + "  (top first)")]
    room = max(look.width - 56, 12)
    for layer in reversed(layers):
        role = layer.role + "?" * layer.guessed
        digest = f"{layer.digest.short}…" if layer.digest else "-"
        sizes = f"{amount(stored(layer)):>10}{amount(unpacked(layer)):>11}"
        made = look.fit(brief(layer.created_by) or "(not said)", room)
        lines.append(f"{layer.index:>3}  {look.paint(f'{role:<14}', layer.role)}{sizes}  {digest:<14}{made}")
        if look.digests:
            name = f"{layer.digest}" if layer.digest else f"{layer.diff_id}"
            lines.append(f"     {name}" + ("" if layer.digest else "  (diff_id)"))
        if layer.again:
            what = "what a layer below holds already" if layer.again != "copy" else "a copy of the checkpoint below"
            lines.append(look.dim(f"     {what}"))
    return lines


def _checkpoint(found: Inspection, look: Look) -> list[str]:
    facts = found.checkpoint
    assert facts is not None
    lines = [look.strong("checkpoint")]
    if facts.digest:
        lines.append(f"  {printable(facts.digest, 200)}")
    if facts.location or facts.placement:
        where = [part for part in (facts.location, facts.placement and f"placement {facts.placement}") if part]
        lines.append("  " + look.fit(" · ".join(where), look.width - 2))
    tensors = {item.file: item for item in facts.tensors}
    for file in facts.files[:12]:
        lines.append(f"  {size(file.size):>10}  {look.fit(file.path, look.width - 14)}")
        if (item := tensors.get(file.path)) is not None:
            parts = " ".join(f"{dtype} {size(count)}" for dtype, count in item.dtypes.items())
            lines.append(
                f"{'':14}{item.count} tensor{'s'[: item.count != 1]}, {_count(item.parameters)} parameters: {parts}"
            )
    if len(facts.files) > 12:
        rest = facts.files[12:]
        lines.append(f"  {size(sum(file.size for file in rest)):>10}  in {len(rest)} more files (--json lists them)")
    if facts.missing:
        lines += [look.dim(line) for line in _wrapped(f"  tensors: {printable(facts.missing)}", look)]
    return lines


def _count(number: int) -> str:
    for unit, word in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if number >= unit:
            return f"{number / unit:.1f} {word}"
    return str(number)


_SCENARIOS = (("code", "new code"), ("checkpoint", "new weights"), ("dependencies", "new dependencies"))


def _changes(found: Inspection, look: Look) -> list[str]:
    better = found.placed_well()
    lines = [look.strong("what a node that has this image moves for the next one")]
    compare = not found.is_placed_well and any(layer.role == "checkpoint" for layer in found.layers)
    head = f"  {'':<16}{'download':>12}{'unpack':>12}"
    lines.append(look.dim(head + (f"{'placed well:':>13}{'download':>9}{'unpack':>12}" if compare else "")))
    for role, words in _SCENARIOS:
        now = found.change(role)
        if now is None:
            continue
        row = f"  {words:<16}{amount(now.download):>12}{amount(now.unpack):>12}"
        well = change(better, role) if compare else None
        if well is not None:
            row += f"{amount(well.download):>22}{amount(well.unpack):>12}"
        lines.append(row)
    code = found.change("code")
    if code is not None and code.download_without_blobs.bytes > code.download.bytes:
        most = amount(code.download_without_blobs)
        text = f"a node that keeps no blobs (Docker's classic image store) downloads {most} for new code"
        lines += [look.dim(line) for line in _wrapped("  " + text, look)]
    if any(layer.role == "checkpoint" for layer in found.layers):
        lines += [f"  {line}" for line in _placement(found, better, look)]
    return lines


def _placement(found: Inspection, better: Sequence[InspectedLayer], look: Look) -> list[str]:
    if found.is_placed_well:
        return ["the checkpoint is placed well: above dependencies, below code"]
    saved = found.size.bytes - total(map(stored, better)).bytes
    text = f"placed well: {' < '.join(by_role(better))}"
    if saved > 0:
        text += f"; {size(saved)} lighter, since nothing is in it twice"
    elif found.size.bytes:
        text += "; it weighs the same"
    return _wrapped(text, look, indent="  ")


def _wrapped(text: str, look: Look, indent: str = "") -> list[str]:
    from textwrap import wrap

    start = text[: len(text) - len(text.lstrip())]
    return wrap(text, look.width - 2, subsequent_indent=start + indent + "  ", break_on_hyphens=False) or [""]


# ------------------------------------------------------------------------------------------------- differences


def difference_lines(found: Difference, look: Look) -> list[str]:
    """The difference of two images."""
    before, after = found.before, found.after
    lines = []
    for sign, side in (("-", before), ("+", after)):
        lines.append(look.strong(f"{sign} {printable(side.reference)}"))
        if side.digest:
            lines.append(f"  {side.digest}")
        lines.append(f"  from {SOURCES[side.source]}")
    if found.same:
        return [look.plain(line) for line in [*lines, "", "no layer and no setting differs"]]
    lines += ["", look.dim(f"{'role':<14}{'before':>12}{'after':>12}  ")]
    for role in found.roles:
        what = "changed" if role.changed else "the same, unpacked again" if role.moved else "the same"
        what = "the same, fetched again in another form" if role.refetched else what
        kept = f"{amount(role.before):>12}{amount(role.after):>12}  {what}"
        lines.append(look.paint(f"{role.role:<14}", role.role) + kept)
    lines += ["", look.strong("layers"), *_side_by_side(found, look)]
    lines += ["", *_move(found.move, found.documents, look)]
    if found.settings:
        lines += ["", look.strong("configuration")]
        for item in found.settings:
            lines.append(f"  {look.fit(item.name, look.width - 2)}")
            for sign, value in (("-", item.before), ("+", item.after)):
                if value is not None:
                    lines.append(f"    {sign} {look.fit(value, look.width - 6)}")
    lines += _notes(tuple(dict.fromkeys((*before.notes, *after.notes))), look)
    return [look.plain(line).rstrip() for line in lines]


def _side_by_side(found: Difference, look: Look) -> list[str]:
    room = max(look.width - 44, 12)
    gone = {index for role in found.roles for index in role.removed}
    lines = []

    def row(sign: str, layer: InspectedLayer, note: str) -> None:
        digest = f"{layer.digest.short}…" if layer.digest else f"{layer.diff_id.short}…"
        tail = look.fit(note or brief(layer.created_by), room)
        weight = size(layer.weight)
        lines.append(f"{sign} {look.paint(f'{layer.role:<13}', layer.role)}{weight:>10}  {digest:<14}{tail}")
        if look.digests:
            lines.append(f"    {layer.digest or layer.diff_id}")

    for layer in reversed(found.after.layers):
        if layer.index in found.move.downloaded:
            row("+", layer, "")
        elif layer.index in found.move.unpacked:
            row("=", layer, "there, unpacked again")
        else:
            row(" ", layer, "there")
    for layer in reversed(found.before.layers):
        if layer.index in gone:
            row("-", layer, "")
    return lines


def _move(move: Move, documents: int, look: Look) -> list[str]:
    more = f" and {size(documents)} of manifest and configuration" if documents else ""
    lines = [
        look.strong("a node that has the first one"),
        f"  downloads {amount(move.download)} in {_layers_of(move.downloaded)}{more}",
        f"  unpacks   {amount(move.unpack)} in {_layers_of(move.unpacked)}",
    ]
    if move.download_without_blobs.bytes != move.download.bytes:
        lines.append(
            look.dim(f"  downloads {amount(move.download_without_blobs)} if it keeps no blobs (classic store)")
        )
    return lines


def _layers_of(indexes: Sequence[int]) -> str:
    return f"{len(indexes)} layer{'s'[: len(indexes) != 1]}"
