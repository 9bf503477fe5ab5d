"""The layers of an image that somebody looks at, as values. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..names import ROLES
from ..oci import Digest

__all__ = ["UNKNOWN", "Amount", "InspectedLayer", "by_role", "repeated", "stored", "total", "unpacked"]

UNKNOWN = "unknown"  # the role of a layer that has none of ours


@dataclass(frozen=True, slots=True)
class Amount:
    """A number of bytes. Where not *exact* it is at least this: the size of some layer could not be had."""

    bytes: int
    exact: bool = True

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.bytes + other.bytes, self.exact and other.exact)


@dataclass(frozen=True, slots=True)
class InspectedLayer:
    """One layer, from the bottom of the image.

    Attributes:
        index: its place, 0 at the bottom.
        role: base, dependencies, checkpoint, code; or unknown.
        guessed: the role was concluded from the history and not read from a mark of layerkit's.
        why: what the role is known from, in a few words.
        diff_id: digest of the uncompressed tar.
        digest: of the layer as it is stored; None where only Docker's classic image store was asked.
        size: bytes as stored (and downloaded); None as for *digest*.
        unpacked: bytes of the uncompressed tar; None where nothing says it.
        unpacked_from: "stored" (it is not compressed), "gzip" (its trailer), "docker" (as Docker counts its files).
        created_by: the instruction that made it; "" where the image does not say.
        again: a digest of a layer below that this one repeats, or "copy" where it is one by ``chown`` or ``chmod``.
    """

    index: int
    role: str
    guessed: bool
    why: str
    diff_id: Digest
    digest: Digest | None = None
    size: int | None = None
    unpacked: int | None = None
    unpacked_from: str = ""
    media_type: str = ""
    created_by: str = ""
    again: str = ""

    @property
    def weight(self) -> int:
        """Bytes to draw and to compare by: as stored, else unpacked."""
        return self.size if self.size is not None else self.unpacked or 0

    def to_json(self) -> dict[str, Any]:
        return {
            "index": self.index,
            "role": self.role,
            "guessed": self.guessed,
            "why": self.why,
            "digest": str(self.digest) if self.digest else None,
            "diff_id": str(self.diff_id),
            "media_type": self.media_type or None,
            "size": self.size,
            "unpacked": self.unpacked,
            "unpacked_from": self.unpacked_from or None,
            "created_by": self.created_by,
            "again": self.again or None,
        }


def stored(layer: InspectedLayer) -> Amount:
    """Bytes that downloading *layer* takes."""
    return Amount(layer.size) if layer.size is not None else Amount(0, exact=False)


def unpacked(layer: InspectedLayer) -> Amount:
    """Bytes that unpacking *layer* writes; at least its stored ones, since compression does not grow layers."""
    return Amount(layer.unpacked) if layer.unpacked is not None else Amount(layer.size or 0, exact=False)


def total(amounts: Iterable[Amount]) -> Amount:
    """Their sum; exact if all are."""
    found = Amount(0)
    for amount in amounts:
        found += amount
    return found


def by_role(layers: Sequence[InspectedLayer]) -> dict[str, tuple[InspectedLayer, ...]]:
    """role -> its layers, in the order of ROLES; roles with none left out."""
    found = {role: tuple(layer for layer in layers if layer.role == role) for role in (*ROLES, UNKNOWN)}
    return {role: members for role, members in found.items() if members}


def repeated(layers: Sequence[InspectedLayer]) -> Amount:
    """Stored bytes that are in the image a second time."""
    return total(stored(layer) for layer in layers if layer.again)
