"""Which files a program in the image sees: layers lie over each other, and an upper one hides what is below. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from .scan import Known, Node

__all__ = ["Hidden", "View", "view"]

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"  # image-spec, layer.md, "Whiteouts"


@dataclass(frozen=True, slots=True)
class Hidden:
    """A file of the checkpoint that is not seen, because layer *index* has something else in its place."""

    path: str
    index: int


@dataclass(frozen=True)
class View:
    """path -> what is known of each file of the checkpoint that is seen; and those that are not."""

    files: Mapping[str, Known]
    hidden: tuple[Hidden, ...]


def view(layers: Sequence[tuple[int, bool, Sequence[Node]]]) -> View:
    """What is seen of (index, whether it is the checkpoint's, its entries), bottom first."""
    seen: dict[str, Known] = {}
    hidden: dict[str, Hidden] = {}
    for index, own, nodes in layers:
        before = set(seen)
        for path in before & _removed(before, nodes):
            del seen[path]
            if not own:
                hidden[path] = Hidden(path, index)
        if own:
            added = _files(nodes, seen)
            seen |= added
            for path in added:
                hidden.pop(path, None)
    return View(seen, tuple(hidden[path] for path in sorted(hidden)))


def _removed(paths: Iterable[str], nodes: Sequence[Node]) -> set[str]:
    """Those of *paths* that a layer of *nodes* has something else for."""
    exact, below, opaque = set(), set(), set()
    for node in nodes:
        place = PurePosixPath(node.path)
        if place.name == _OPAQUE:
            opaque.add(str(place.parent))
        elif place.name.startswith(_WHITEOUT):
            below.add(str(place.with_name(place.name.removeprefix(_WHITEOUT) or "?")))
        elif node.kind == "folder":
            exact.add(node.path)
        else:
            below.add(node.path)
    found = set()
    for path in paths:
        parents = {str(parent) for parent in PurePosixPath(path).parents}
        if path in exact or path in below or parents & (below | opaque):
            found.add(path)
    return found


def _files(nodes: Sequence[Node], below: Mapping[str, Known]) -> dict[str, Known]:
    found: dict[str, Known] = {}
    for node in nodes:
        name = PurePosixPath(node.path).name
        if node.kind == "file" and node.known is not None and not name.startswith(_WHITEOUT):
            found[node.path] = node.known
        elif node.kind == "hardlink" and (linked := found.get(node.target) or below.get(node.target)):
            found[node.path] = linked
        else:
            found.pop(node.path, None)
    return found
