"""What was found out about an image, and what follows from it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..names import ROLES
from ..oci import Digest
from .costs import Move, change, placed_well
from .layers import Amount, InspectedLayer, by_role, repeated, stored, total, unpacked
from .peek import File, Tensors

__all__ = ["CheckpointFacts", "Inspection"]


@dataclass(frozen=True, slots=True)
class CheckpointFacts:
    """What an image tells of its checkpoint.

    Attributes:
        digest: of its files, as a server says which weights it serves; "" where the image does not name it.
        placement: layer, volume or artifact; "" where nothing says it.
        location: its path in the image, or "".
        files: that its layers hold, as far as they could be looked into.
        tensors: of its safetensors files.
        missing: why files or tensors are not all known, or "".
    """

    digest: str = ""
    placement: str = ""
    location: str = ""
    files: tuple[File, ...] = ()
    tensors: tuple[Tensors, ...] = ()
    missing: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "digest": self.digest or None,
            "placement": self.placement or None,
            "location": self.location or None,
            "files": [{"path": file.path, "size": file.size} for file in self.files],
            "tensors": [item.to_json() for item in self.tensors],
            "missing": self.missing or None,
        }


@dataclass(frozen=True, slots=True)
class Inspection:
    """An image of one platform, taken apart.

    Attributes:
        reference: what was asked for, in full.
        source: registry, docker or oci: where it was read.
        digest: of its manifest; None where only Docker's classic image store was asked.
        index: digest of the index that it was chosen from, or None.
        platform: as in linux/amd64; ``platforms``: all that the index has.
        created: as the configuration says it, or "".
        layers: from the bottom.
        documents: bytes of manifest and configuration, which every pull of a new image reads too.
        checkpoint: None where the image has none that is known.
        settings: name -> value of what the configuration sets: ``Cmd``, ``Env.PATH``, ``Labels.x``.
        built_by_layerkit: it carries layerkit's labels.
        timeline: the record of its build (``build --json``), or None.
        notes: what the reader should know about these numbers.
    """

    reference: str
    source: str
    digest: Digest | None
    index: Digest | None
    platform: str
    platforms: tuple[str, ...]
    created: str
    layers: tuple[InspectedLayer, ...]
    documents: int
    checkpoint: CheckpointFacts | None
    settings: Mapping[str, str] = field(hash=False, repr=False)
    built_by_layerkit: bool = False
    timeline: Mapping[str, Any] | None = field(default=None, hash=False, repr=False)
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> Amount:
        """Bytes of all layers as they are stored, each blob once."""
        return total(stored(layer) for layer in _once(self.layers))

    @property
    def unpacked(self) -> Amount:
        """Bytes of all layers' tars."""
        return total(unpacked(layer) for layer in self.layers)

    @property
    def roles(self) -> Mapping[str, tuple[InspectedLayer, ...]]:
        """role -> its layers, in the order base, dependencies, checkpoint, code, unknown."""
        return by_role(self.layers)

    def change(self, role: str) -> Move | None:
        """What a node that has this image does when *role* changes; None where no layer has it."""
        return change(self.layers, role)

    def placed_well(self) -> tuple[InspectedLayer, ...]:
        """The layers with the checkpoint between dependencies and code, and nothing twice."""
        return placed_well(self.layers)

    @property
    def is_placed_well(self) -> bool:
        """The order is what ``placed_well`` would give, and no bytes are there twice."""
        names = [(layer.diff_id, layer.role) for layer in self.layers]
        return names == [(layer.diff_id, layer.role) for layer in self.placed_well()]

    def to_json(self) -> dict[str, Any]:
        """The object that ``layerkit inspect --json`` prints."""
        better = self.placed_well()
        return {
            "schema_version": 1,
            "reference": self.reference,
            "source": self.source,
            "digest": str(self.digest) if self.digest else None,
            "index": str(self.index) if self.index else None,
            "platform": self.platform,
            "platforms": list(self.platforms),
            "created": self.created or None,
            "built_by_layerkit": self.built_by_layerkit,
            "size": self.size.bytes,
            "size_exact": self.size.exact,
            "unpacked": self.unpacked.bytes,
            "unpacked_exact": self.unpacked.exact,
            "documents": self.documents,
            "roles": {
                role: {
                    "layers": len(layers),
                    "size": total(map(stored, _once(layers))).bytes,
                    "unpacked": total(map(unpacked, layers)).bytes,
                    "guessed": any(layer.guessed for layer in layers),
                }
                for role, layers in self.roles.items()
            },
            "layers": [layer.to_json() for layer in self.layers],
            "checkpoint": self.checkpoint.to_json() if self.checkpoint else None,
            "changes": _moves(self.layers),
            "placed_well": {
                "already": self.is_placed_well,
                "order": [layer.role for layer in better],
                "size": total(map(stored, better)).bytes,
                "repeated": repeated(self.layers).bytes,
                "changes": _moves(better),
            },
            "timeline": dict(self.timeline) if self.timeline else None,
            "notes": list(self.notes),
        }


def _once(layers: Sequence[InspectedLayer]) -> list[InspectedLayer]:
    return list({layer.digest or layer.index: layer for layer in layers}.values())


def _moves(layers: Sequence[InspectedLayer]) -> dict[str, Any]:
    found = {role: change(layers, role) for role in ROLES}
    return {role: move.to_json() for role, move in found.items() if move is not None}
