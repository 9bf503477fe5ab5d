"""What a verification found. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ..oci import Digest

__all__ = ["BytesRead", "Mismatch", "Verification", "VerifiedImage", "Way"]

# By what it was decided: the image's own digest, its layers' digests, its files' bytes, its tensors, or what it says.
Way = Literal["image", "layers", "files", "tensors", "labels"]


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that is not as approved.

    Attributes:
        kind: tensor, file, layer, label, weights (their hash), digest (of the checkpoint), hidden.
        name: of the tensor, file, layer or label.
        approved, found: what it should be, and is; "" for not there.
    """

    kind: str
    name: str
    approved: str = ""
    found: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "approved": self.approved or None,
            "found": self.found or None,
        }


@dataclass(frozen=True, slots=True)
class BytesRead:
    """Bytes of layers that were read, as they are stored.

    Attributes:
        checkpoint: of layers that hold the weights.
        above: of layers over them, which could hide their files.
        looks: of ranges of layers, to find out which hold weights.
    """

    checkpoint: int = 0
    above: int = 0
    looks: int = 0

    @property
    def total(self) -> int:
        return self.checkpoint + self.above + self.looks

    def __add__(self, other: BytesRead) -> BytesRead:
        return BytesRead(self.checkpoint + other.checkpoint, self.above + other.above, self.looks + other.looks)

    def to_json(self) -> dict[str, int]:
        return {"checkpoint": self.checkpoint, "above": self.above, "looks": self.looks, "total": self.total}


@dataclass(frozen=True)
class VerifiedImage:
    """The image of one platform.

    Attributes:
        platform: as in linux/amd64.
        digest: of its manifest; None where its store keeps none.
        way: by what it was decided.
        layers: digests of the layers that hold the weights, and how many of them were read.
        layers_read: of these.
        weights: the weights hash of what is in it, where that was computed or is proven by a digest.
        checkpoint: digest of its files, where that was computed.
        tensors: compared or hashed.
        mismatches: none where it holds.
        read: bytes.
        notes: what the reader should know.
    """

    platform: str
    digest: Digest | None
    way: Way
    layers: tuple[Digest, ...] = ()
    layers_read: int = 0
    weights: Digest | None = None
    checkpoint: Digest | None = None
    tensors: int = 0
    mismatches: tuple[Mismatch, ...] = ()
    read: BytesRead = field(default_factory=BytesRead)
    notes: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return not self.mismatches

    def to_json(self) -> dict[str, Any]:
        return {
            "platform": self.platform,
            "digest": str(self.digest) if self.digest else None,
            "holds": self.holds,
            "way": self.way,
            "layers": [str(digest) for digest in self.layers],
            "layers_read": self.layers_read,
            "weights": str(self.weights) if self.weights else None,
            "checkpoint": str(self.checkpoint) if self.checkpoint else None,
            "tensors": self.tensors,
            "mismatches": [item.to_json() for item in self.mismatches],
            "bytes_read": self.read.to_json(),
            "notes": list(self.notes),
        }


@dataclass(frozen=True)
class Verification:
    """Whether an image's weights are the approved ones.

    Attributes:
        reference: the image in full; ``source``: registry, docker or oci.
        index: digest of the index that names its platforms, or None.
        against: checkpoint (a file), weights (their hash), digest, or labels (what the image says of itself).
        approved: the path or the digest; "" for labels.
        images: of each platform.
        local: bytes that were read of the file on this machine.
    """

    reference: str
    source: str
    index: Digest | None
    against: str
    approved: str
    images: tuple[VerifiedImage, ...]
    local: int = 0

    @property
    def holds(self) -> bool:
        """The weights of every platform are the approved ones."""
        return all(image.holds for image in self.images)

    @property
    def read(self) -> BytesRead:
        return sum((image.read for image in self.images), BytesRead())

    def to_json(self) -> dict[str, Any]:
        """The object that ``layerkit verify --json`` prints."""
        return {
            "schema_version": 1,
            "reference": self.reference,
            "source": self.source,
            "index": str(self.index) if self.index else None,
            "holds": self.holds,
            "against": self.against,
            "approved": self.approved or None,
            "images": [image.to_json() for image in self.images],
            "bytes_read": self.read.to_json(),
            "local_bytes_read": self.local,
        }
