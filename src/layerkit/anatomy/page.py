"""The page of an image, or of two: one file, no network, no script.

There is none that could run: the page's own policy (Content-Security-Policy) forbids everything but its style, so
that even a mistake in escaping what an image says could not do anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files

from .._version import __version__
from ..units import size
from . import charts
from .charts import amount, text
from .costs import change
from .difference import Difference
from .found import SOURCES
from .inspection import Inspection
from .layers import Amount, InspectedLayer, stored, unpacked

__all__ = ["difference_page", "inspection_page"]

_SCENARIOS = (("code", "New code"), ("checkpoint", "New weights"), ("dependencies", "New dependencies"))


def inspection_page(found: Inspection) -> str:
    """One self-contained page: what the image weighs, what a change moves, its checkpoint, layers and build."""
    body = [
        _header("layerkit inspect", text(found.reference), [found], _facts(found)),
        "<main>",
        _section("weight", "What it weighs", charts.roles(found.layers), _weight_words(found)),
        _section("layers-map", "Its layers", charts.layer_map(found.layers, "layer-")),
        _section("moves", "What a change moves", _moves(found), _move_words(found)),
        _checkpoint(found),
        _section("layers", "Layer by layer", _layer_table(found.layers, "layer-")),
        _timeline([("", found)]),
        _notes(found.notes),
        "</main>",
    ]
    return _page(f"{found.reference} · layerkit inspect", body)


def difference_page(found: Difference) -> str:
    """One self-contained page: both images side by side, and what a node moves from one to the other."""
    before, after = found.before, found.after
    title = f'{text(before.reference)} <span class="to">→</span> {text(after.reference)}'
    body = [
        _header("layerkit diff", title, [before, after], _difference_facts(found)),
        "<main>",
        _section("side", "Side by side", _side_by_side(found), _difference_words(found)),
        _section("roles", "What changed", _role_table(found)),
        _section("config", "Configuration", _settings(found)),
        _section("before", "Layers before", _layer_table(before.layers, "a-")),
        _section("after", "Layers after", _layer_table(after.layers, "b-", _states(found))),
        _timeline([("Before", before), ("After", after)]),
        _notes(dict.fromkeys((*before.notes, *after.notes))),
        "</main>",
    ]
    return _page(f"{before.reference} → {after.reference} · layerkit diff", body)


# ------------------------------------------------------------------------------------------------- frame


def _page(title: str, body: Sequence[str]) -> str:
    style = files(__package__).joinpath("page.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f'<title>{text(title)}</title>\n<link rel="icon" href="data:,">\n<style>\n{style}</style>\n</head>\n<body>\n'
        + "\n".join(part for part in body if part)
        + f"\n<footer>Made by layerkit {__version__}. Sizes are in binary units; this page asks nothing of any network."
        "</footer>\n</body>\n</html>\n"
    )


def _header(kicker: str, title: str, images: Sequence[Inspection], facts: Mapping[str, tuple[str, str]]) -> str:
    digests = "".join(f'<p class="digest"><code>{image.digest}</code></p>' for image in images if image.digest)
    rows = "".join(
        f"<div><dt>{name}</dt><dd>{value}{f'<small>{more}</small>' if more else ''}</dd></div>"
        for name, (value, more) in facts.items()
    )
    return f'<header><p class="kicker">{kicker}</p><h1>{title}</h1>{digests}<dl class="facts">{rows}</dl></header>'


def _section(name: str, title: str, content: str, words: str = "") -> str:
    intro = f"<p>{words}</p>" if words else ""
    return f'<section aria-labelledby="h-{name}"><h2 id="h-{name}">{title}</h2>{intro}{content}</section>'


def _cell(label: str, value: str, kind: str = "number") -> str:
    return f'<td class="{kind}" data-label="{label}">{value}</td>'


def _table(head: Sequence[tuple[str, str]], rows: Sequence[str], kind: str = "", caption: str = "") -> str:
    columns = "".join(f'<th scope="col" class="{style}">{name}</th>' for name, style in head)
    above = f"<caption>{caption}</caption>" if caption else ""
    return f'<table class="{kind}">{above}<thead><tr>{columns}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


# ------------------------------------------------------------------------------------------------- an image


def _facts(found: Inspection) -> dict[str, tuple[str, str]]:
    others = len(found.platforms) - 1
    more = f"and {others} other{'s'[: others != 1]}" if others > 0 else ""
    return {
        "Stored": (amount(found.size), "what a pull downloads"),
        "Unpacked": (amount(found.unpacked), "what a node keeps"),
        "Layers": (str(len(found.layers)), ""),
        "Platform": (text(found.platform, 60), more),
        "Read from": (SOURCES[found.source], "built by layerkit" if found.built_by_layerkit else ""),
    }


def _weight_words(found: Inspection) -> str:
    if any(layer.guessed for layer in found.layers):
        return "layerkit did not mark these layers: their roles are guessed from the image’s history."
    return ""


def _moves(found: Inspection) -> str:
    better = found.placed_well()
    compare = not found.is_placed_well and any(layer.role == "checkpoint" for layer in found.layers)
    whole = found.unpacked.bytes or 1
    head = [("", ""), ("downloads", "number"), ("unpacks", "number")]
    head += [("downloads, placed well", "number"), ("unpacks, placed well", "number")] if compare else []
    rows = []
    for role, words in _SCENARIOS:
        now, well = found.change(role), change(better, role)
        if now is None or well is None:
            continue
        cells = [_measure("downloads", now.download, whole, role), _measure("unpacks", now.unpack, whole, role)]
        if compare:
            cells.append(_measure("placed well, downloads", well.download, whole, role))
            cells.append(_measure("placed well, unpacks", well.unpack, whole, role, now.unpack))
        label = f'<i class="swatch {role}" aria-hidden="true"></i>{words}'
        rows.append(f'<tr><th scope="row">{label}</th>{"".join(cells)}</tr>')
    if not rows:
        return '<p class="soft">No layer of this image has a role that changes.</p>'
    return _table(head, rows, "flow")


def _measure(label: str, value: Amount, whole: int, role: str, before: Amount | None = None) -> str:
    less = before is not None and value.bytes < before.bytes
    shown = f'<span class="better">{amount(value)}</span>' if less else amount(value)
    return _cell(label, shown + charts.bar(value.bytes / whole, role))


def _move_words(found: Inspection) -> str:
    words = (
        "What a node that runs this image does for the next one. A layer stands on those below it: from the lowest one"
        " that changes, everything is unpacked again."
    )
    if not any(layer.role == "checkpoint" for layer in found.layers):
        return words
    if found.is_placed_well:
        return words + " The checkpoint is placed well: above the dependencies and below the code."
    saved = sum(layer.size or 0 for layer in found.layers if layer.again)
    light = f" It would be {size(saved)} lighter, since nothing would be in it twice." if saved else ""
    return words + " Placed well means the checkpoint between dependencies and code, in layers of its own." + light


def _checkpoint(found: Inspection) -> str:
    facts = found.checkpoint
    if facts is None:
        return ""
    parts = [f'<p class="digest"><code>{text(facts.digest, 200)}</code></p>'] if facts.digest else []
    tensors = {item.file: item for item in facts.tensors}
    rows = []
    for file in facts.files[:200]:
        item = tensors.get(file.path)
        count = f"{item.count:,}".replace(",", "\u202f") if item else "–"
        parameters = f"{item.parameters:,}".replace(",", "\u202f") if item else "–"
        kinds = ", ".join(f"{text(name)} {size(value)}" for name, value in item.dtypes.items()) if item else "–"
        rows.append(
            f'<tr><th scope="row"><span class="mono">{text(file.path, 300)}</span></th>{_cell("size", size(file.size))}'
            f"{_cell('tensors', count)}{_cell('parameters', parameters)}{_cell('types', kinds, '')}</tr>"
        )
    if rows:
        head = [("file", ""), ("size", "number"), ("tensors", "number"), ("parameters", "number"), ("types", "")]
        parts.append(_table(head, rows))
    if len(facts.files) > 200:
        parts.append(f'<p class="note">and {len(facts.files) - 200} more files</p>')
    if facts.location:
        parts.append(f'<p class="note">At <code>{text(facts.location, 300)}</code> in the image.</p>')
    if facts.missing:
        parts.append(f'<p class="note">Tensors: {text(facts.missing, 500)}.</p>')
    return _section("checkpoint", "The checkpoint", "".join(parts))


def _layer_table(layers: Sequence[InspectedLayer], prefix: str, states: Mapping[int, str] | None = None) -> str:
    words = {"new": "downloaded", "again": "unpacked again", "there": "there"}
    rows = []
    for layer in reversed(layers):
        name = layer.digest or layer.diff_id
        also = "" if layer.digest else " (of its content)"
        guess = f'<span class="guess">guessed: {text(layer.why)}</span>' if layer.guessed else ""
        again = "" if not layer.again else '<span class="guess">holds what is below already</span>'
        state = _cell("for a node", words[states[layer.index]], "") if states is not None else ""
        rows.append(
            f'<tr id="{prefix}{layer.index}"><th scope="row"><span class="role">'
            f'<i class="swatch {layer.role}" aria-hidden="true"></i>{layer.role}</span>{guess}{again}</th>'
            f"{_cell('stored', amount(stored(layer)))}"
            f'{_cell("unpacked", amount(unpacked(layer)))}{state}<td><span class="mono">'
            f'{text(layer.created_by, 400) or "not said"}</span><code class="digest">{name}{also}</code></td></tr>'
        )
    head = [("role", ""), ("stored", "number"), ("unpacked", "number")]
    head += [("for a node", "")] if states is not None else []
    return _table([*head, ("made by", "")], rows, caption="Top first.")


def _timeline(images: Sequence[tuple[str, Inspection]]) -> str:
    parts = []
    for title, image in images:
        made = charts.timeline(image.timeline) if image.timeline else ""
        if made:
            parts.append((f"<h3>{title}</h3>" if title else "") + made)
    if not parts:
        words = (
            "This machine remembers no build of it. <code>layerkit build --metadata-file FILE</code> writes a record."
        )
        return _section("timeline", "Its build", f'<p class="soft">{words}</p>')
    return _section("timeline", "Its build", "".join(parts))


def _notes(notes: Iterable[str]) -> str:
    return "".join(f'<p class="note">{text(note)}</p>' for note in notes)


# ------------------------------------------------------------------------------------------------- two images


def _difference_facts(found: Difference) -> dict[str, tuple[str, str]]:
    move = found.move
    count = len(move.downloaded)
    facts = {
        "A node downloads": (amount(move.download), f"{count} of {len(found.after.layers)} layers"),
        "and unpacks": (amount(move.unpack), f"{len(move.unpacked)} layers"),
        "Changed": (", ".join(found.changed) or "nothing", ""),
        "Platform": (text(found.after.platform, 60), ""),
        "Read from": (", ".join(dict.fromkeys(SOURCES[side.source] for side in (found.before, found.after))), ""),
    }
    if move.download_without_blobs.bytes > move.download.bytes:
        facts["Without blobs"] = (amount(move.download_without_blobs), "if the node keeps none")
    return facts


def _difference_words(found: Difference) -> str:
    if found.same:
        return "No layer and no setting differs."
    return "What a node that has the first image does for the second. Both bars are on one scale, bottom layer first."


def _states(found: Difference) -> dict[int, str]:
    new, above = set(found.move.downloaded), set(found.move.unpacked)
    return {x.index: "new" if x.index in new else "again" if x.index in above else "there" for x in found.after.layers}


def _side_by_side(found: Difference) -> str:
    before, after = found.before.layers, found.after.layers
    gone = {index for role in found.roles for index in role.removed}
    old = {layer.index: "gone" if layer.index in gone else "there" for layer in before}
    states = _states(found)
    scale = max(sum(layer.weight for layer in side) for side in (before, after))
    key = (
        '<ul class="key"><li><i></i>before: not in the other; after: downloaded and unpacked</li>'
        '<li><i class="again"></i>there, unpacked again</li><li><i class="there"></i>there</li></ul>'
    )
    stacks = charts.stack("Before", before, scale, old) + charts.stack("After", after, scale, states)
    maps = [
        f"<div><h3>{name}</h3>{charts.layer_map(layers, prefix, marks, wide=charts.PAIRED)}</div>"
        for name, layers, prefix, marks in (("Before", before, "a-", old), ("After", after, "b-", states))
    ]
    return f'<div class="stacks">{stacks}</div>{key}<div class="pair">{"".join(maps)}</div>'


def _role_table(found: Difference) -> str:
    rows = []
    for role in found.roles:
        what = "changed" if role.changed else "the same, unpacked again" if role.moved else "the same"
        what = "the same, stored in another form" if role.refetched else what
        rows.append(
            f'<tr><th scope="row"><i class="swatch {role.role}" aria-hidden="true"></i>{role.role}</th>'
            f"{_cell('before', amount(role.before))}{_cell('after', amount(role.after))}{_cell('', what, '')}</tr>"
        )
    return _table([("role", ""), ("before", "number"), ("after", "number"), ("", "")], rows)


def _settings(found: Difference) -> str:
    if not found.settings:
        return '<p class="soft">No setting differs.</p>'
    rows = []
    for item in found.settings:
        old = f"<del>{text(item.before, 1000)}</del>" if item.before is not None else ""
        new = f"<ins>{text(item.after, 1000)}</ins>" if item.after is not None else ""
        rows.append(f'<tr><th scope="row">{text(item.name, 200)}</th><td class="mono">{old}{new}</td></tr>')
    return _table([("setting", ""), ("from, to", "")], rows)
