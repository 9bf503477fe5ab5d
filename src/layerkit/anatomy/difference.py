"""Two images side by side: which roles changed, what a node moves from one to the other, what settings differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..names import ROLES
from .costs import Move, between
from .inspection import Inspection
from .layers import UNKNOWN, Amount, InspectedLayer, stored, total

__all__ = ["Change", "Difference", "RoleChange", "compare", "settings_of"]


@dataclass(frozen=True, slots=True)
class Change:
    """One setting of the configuration, as ``Env.PATH`` or ``Cmd``; None where an image does not have it."""

    name: str
    before: str | None
    after: str | None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "before": self.before, "after": self.after}


@dataclass(frozen=True, slots=True)
class RoleChange:
    """The layers of one role in both images; ``removed`` and ``added`` are places in the first and in the second.

    ``moved``: the content is the same, and is unpacked again since it stands on other layers. ``refetched``: it is
    downloaded again too, being stored in another form.
    """

    role: str
    before: Amount
    after: Amount
    removed: tuple[int, ...]
    added: tuple[int, ...]
    moved: bool
    refetched: bool

    @property
    def changed(self) -> bool:
        return bool(self.removed or self.added)

    def to_json(self) -> dict[str, Any]:
        return {
            "role": self.role,
            "changed": self.changed,
            "moved": self.moved,
            "refetched": self.refetched,
            "size_before": self.before.bytes,
            "size_after": self.after.bytes,
            "layers_removed": list(self.removed),
            "layers_added": list(self.added),
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """From the image ``before`` to the image ``after``.

    Attributes:
        roles: of either image, in the order base, dependencies, checkpoint, code, unknown.
        move: what a node that has ``before`` does for ``after``.
        documents: bytes of manifest and configuration that it reads for that; 0 where the image is the same.
        settings: what differs in the configuration.
    """

    before: Inspection
    after: Inspection
    roles: tuple[RoleChange, ...]
    move: Move
    documents: int
    settings: tuple[Change, ...]

    @property
    def changed(self) -> tuple[str, ...]:
        """The roles that changed."""
        return tuple(role.role for role in self.roles if role.changed)

    @property
    def same(self) -> bool:
        """No layer and no setting differs. (Times, and labels of build tools in the manifest, may.)"""
        return not self.settings and [x.diff_id for x in self.before.layers] == [x.diff_id for x in self.after.layers]

    def to_json(self) -> dict[str, Any]:
        """The object that ``layerkit diff --json`` prints."""
        sides = {"before": self.before, "after": self.after}
        return {
            "schema_version": 1,
            **{
                name: {
                    "reference": side.reference,
                    "source": side.source,
                    "digest": str(side.digest) if side.digest else None,
                    "platform": side.platform,
                    "size": side.size.bytes,
                    "unpacked": side.unpacked.bytes,
                    "layers": [layer.to_json() for layer in side.layers],
                }
                for name, side in sides.items()
            },
            "same": self.same,
            "changed": list(self.changed),
            "roles": [role.to_json() for role in self.roles],
            **self.move.to_json(),
            "documents": self.documents,
            "config": [change.to_json() for change in self.settings],
        }


def compare(before: Inspection, after: Inspection) -> Difference:
    """What differs from *before* to *after*."""
    old, new = {x.diff_id for x in before.layers}, {x.diff_id for x in after.layers}
    move = between(before.layers, after.layers)
    roles = []
    for role in (*ROLES, UNKNOWN):
        mine, theirs = before.roles.get(role, ()), after.roles.get(role, ())
        if not mine and not theirs:
            continue
        removed, added = _other(mine, new), _other(theirs, old)
        moved = not removed and not added and any(layer.index in move.unpacked for layer in theirs)
        again = not removed and not added and any(layer.index in move.downloaded for layer in theirs)
        roles.append(
            RoleChange(role, total(map(stored, mine)), total(map(stored, theirs)), removed, added, moved, again)
        )
    same = before.digest is not None and before.digest == after.digest
    names = dict.fromkeys([*before.settings, *after.settings])
    settings = (Change(name, before.settings.get(name), after.settings.get(name)) for name in names)
    return Difference(
        before,
        after,
        tuple(roles),
        move,
        0 if same else after.documents,
        tuple(sorted((c for c in settings if c.before != c.after), key=lambda c: c.name)),
    )


def _other(layers: tuple[InspectedLayer, ...], contents: set[Any]) -> tuple[int, ...]:
    return tuple(layer.index for layer in layers if layer.diff_id not in contents)


def settings_of(settings: Mapping[str, Any]) -> dict[str, str]:
    """The ``config`` object of an image's configuration, flat: name -> value as text.

    Lists of words are written with spaces, ``Env`` and ``Labels`` one name each; what is empty is left out.
    """
    found: dict[str, str] = {}
    for name, value in settings.items():
        if not value:
            continue
        if name == "Env" and isinstance(value, list):
            found |= {f"Env.{str(item).partition('=')[0]}": str(item).partition("=")[2] for item in value}
        elif name == "Labels" and isinstance(value, Mapping):
            found |= {f"Labels.{key}": str(item) for key, item in value.items()}
        elif isinstance(value, Mapping):
            found[name] = " ".join(f"{k}={v}" if v else str(k) for k, v in sorted(value.items()))
        elif isinstance(value, list):
            found[name] = " ".join(_word(str(item)) for item in value)
        else:
            found[name] = str(value)
    return found


def _word(text: str) -> str:
    return repr(text) if not text or any(c.isspace() for c in text) else text
