"""What a node downloads and unpacks when an image changes. Pure.

A layer is unpacked on top of those below it, and known by its chain ID, which covers all of them (image-spec,
``config.md``, "Layer ChainID"): from the lowest layer that differs, everything is unpacked again. A blob is downloaded
by its digest, so one that a node has is not downloaded again, whatever is below it - where the node keeps blobs.
containerd does; Docker's classic image store does not, nor containerd with ``discard_unpacked_layers``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..names import ROLES
from .layers import UNKNOWN, Amount, InspectedLayer, stored, total, unpacked

__all__ = ["Move", "between", "change", "placed_well"]


@dataclass(frozen=True, slots=True)
class Move:
    """What a node that has one image does to have the next.

    Attributes:
        download: bytes of layers that it has not.
        unpack: bytes of tars that it unpacks.
        download_without_blobs: bytes that a node downloads which keeps no blobs: all that it unpacks.
        downloaded, unpacked: indexes of the layers.
    """

    download: Amount
    unpack: Amount
    download_without_blobs: Amount
    downloaded: tuple[int, ...]
    unpacked: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "download": self.download.bytes,
            "download_exact": self.download.exact,
            "unpack": self.unpack.bytes,
            "unpack_exact": self.unpack.exact,
            "download_without_blobs": self.download_without_blobs.bytes,
            "layers_downloaded": list(self.downloaded),
            "layers_unpacked": list(self.unpacked),
        }


def _move(layers: Sequence[InspectedLayer], first: int, new: Sequence[InspectedLayer]) -> Move:
    above = layers[first:]
    return Move(
        total(map(stored, new)),
        total(map(unpacked, above)),
        total(map(stored, above)),
        tuple(layer.index for layer in new),
        tuple(layer.index for layer in above),
    )


def change(layers: Sequence[InspectedLayer], role: str) -> Move | None:
    """What a node that has this image does for the next one, in which every layer of *role* is another of equal size.

    A ``RUN`` above the change is run again by any builder, and its layer has another digest then; layers that were
    copied there keep theirs (exactly so with ``COPY --link``, and when layerkit composes).

    Returns:
        None where the image has no layer of that role.
    """
    changed = {position for position, layer in enumerate(layers) if layer.role == role}
    if not changed:
        return None
    first = min(changed)
    rerun = {at for at in range(first, len(layers)) if layers[at].role != "base" and _is_run(layers[at])}
    return _move(layers, first, [layers[at] for at in sorted(changed | rerun)])


def _is_run(layer: InspectedLayer) -> bool:
    words = layer.created_by.split(None, 1)
    return bool(words) and words[0].upper() == "RUN"


def between(old: Sequence[InspectedLayer], new: Sequence[InspectedLayer]) -> Move:
    """What a node that has the image of the layers *old* does for the one of *new*."""
    first = 0
    for mine, theirs in zip(old, new, strict=False):
        if mine.diff_id != theirs.diff_id:
            break
        first += 1
    blobs = {layer.digest for layer in old if layer.digest}
    # Of a layer whose blob's digest is not known, the content's is the next best.
    contents = {layer.diff_id for layer in old if layer.digest is None}
    loose = {layer.diff_id for layer in old}
    seen: set[object] = set()
    wanted: list[InspectedLayer] = []
    for layer in new[first:]:
        name = layer.digest or layer.diff_id
        there = layer.digest in blobs or layer.diff_id in contents if layer.digest else layer.diff_id in loose
        if not there and name not in seen:
            wanted.append(layer)
        seen.add(name)
    return _move(new, first, wanted)


def placed_well(layers: Sequence[InspectedLayer]) -> tuple[InspectedLayer, ...]:
    """The same layers as layerkit would place them: base, dependencies, checkpoint, code; nothing twice.

    Large and slow to change below, small and quick to change above. Indexes are the new places.
    """
    order = {role: number for number, role in enumerate((*ROLES, UNKNOWN))}
    kept = [layer for layer in layers if not layer.again]
    kept.sort(key=lambda layer: order[layer.role])  # stable: within a role nothing moves
    return tuple(replace(layer, index=index) for index, layer in enumerate(kept))
