"""What a build did, as values and as the object that ``layerkit build --json`` prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .destinations import Sent
from .names import ROLES
from .oci import Digest, Image
from .planner import Plan
from .timeline import Span

__all__ = ["LayerResult", "Result", "bytes_of", "layer_results", "roles_rebuilt"]


@dataclass(frozen=True, slots=True)
class LayerResult:
    """One layer of the finished image. ``size`` in bytes, as it is stored."""

    role: str
    digest: Digest
    diff_id: Digest
    media_type: str
    size: int
    action: str
    platform: str = ""

    def to_json(self) -> dict[str, Any]:
        found = {
            "role": self.role,
            "digest": str(self.digest),
            "diff_id": str(self.diff_id),
            "media_type": self.media_type,
            "size": self.size,
            "action": self.action,
        }
        return found | ({"platform": self.platform} if self.platform else {})


@dataclass(frozen=True, slots=True)
class Result:
    """What a build did.

    Attributes:
        reference: ``REPO@digest``.
        way: compose, or buildkit; ``why`` says why where it is buildkit.
        rebuilt: roles of which a layer is new.
        builder_ran: BuildKit was called.
        bytes_sent: to the builder.
        layers: none where BuildKit built the whole image and its manifest is not told (the local Docker, where the
            builder keeps no record of the build, or the store is the classic one); ``reused`` is 0 then.
        checkpoint_read, uploaded, reused: bytes; ``dropped`` were on their way when their layer turned out to be there.
            What BuildKit sends to a registry is taken to be its layers that were not known to be there.
        fetched: bytes of the checkpoint's layers that were streamed from a registry, where the weights are not here.
        seconds: of each phase.
        plan: what was to be done; ``layerkit.outcomes`` holds the two against each other.
        timeline: when phases, BuildKit's steps and transfers ran.
    """

    reference: str
    digest: Digest
    tags: tuple[str, ...]
    way: Literal["compose", "buildkit"]
    layers: tuple[LayerResult, ...]
    rebuilt: tuple[str, ...]
    builder_ran: bool
    bytes_sent: int
    checkpoint_read: int
    uploaded: int
    reused: int
    dropped: int
    seconds: Mapping[str, float]
    why: str = ""
    plan: Plan | None = field(default=None, repr=False, compare=False)
    timeline: tuple[Span, ...] = ()
    fetched: int = 0

    def to_json(self) -> dict[str, Any]:
        """The object that ``layerkit build --json`` prints."""
        return {
            "schema_version": 1,
            "reference": self.reference,
            "digest": str(self.digest),
            "tags": list(self.tags),
            "way": self.way,
            "why": self.why,
            "layers": [layer.to_json() for layer in self.layers],
            "rebuilt": list(self.rebuilt),
            "builder": {"ran": self.builder_ran, "bytes_sent": self.bytes_sent},
            "bytes": {
                "checkpoint_read": self.checkpoint_read,
                "uploaded": self.uploaded,
                "reused": self.reused,
                "dropped": self.dropped,
                "fetched": self.fetched,
            },
            "seconds": {name: round(value, 3) for name, value in self.seconds.items()},
            "timeline": [span.to_json() for span in self.timeline],
        }


def layer_results(
    images: Mapping[str, Image],
    roles: Mapping[str, Sequence[str]],
    before: frozenset[Digest],
    sent: Sent | None,
    *,
    built: bool,
    mounts_base: bool,
) -> tuple[LayerResult, ...]:
    """What happened to each layer of each platform's image.

    Args:
        images, roles: by platform.
        before: digests of the layers that were at the destination.
        sent: what became of the checkpoint's layers; None where they were not sent.
        built: BuildKit ran.
        mounts_base: the base's layers were in the same registry, or Docker, already.
    """

    def action(role: str, digest: Digest) -> str:
        if role == "checkpoint" and sent is not None:
            if digest in sent.mounted:
                return "mounted"
            return "packed" if digest in sent.new else "reused"
        if not built or digest in before:
            return "reused"
        return "mounted" if role == "base" and mounts_base else "built"

    several = len(images) > 1
    return tuple(
        LayerResult(
            role,
            descriptor.digest,
            diff_id,
            descriptor.media_type,
            descriptor.size,
            action(role, descriptor.digest),
            platform if several else "",
        )
        for platform, image in images.items()
        for descriptor, diff_id, role in zip(image.manifest.layers, image.config.diff_ids, roles[platform], strict=True)
    )


def bytes_of(layers: tuple[LayerResult, ...], action: str) -> int:
    """Bytes of the layers with *action*, each layer counted once however many platforms have it."""
    return sum({layer.digest: layer.size for layer in layers if layer.action == action}.values())


def roles_rebuilt(layers: tuple[LayerResult, ...]) -> tuple[str, ...]:
    """Roles of which a layer is new at the destination."""
    new = {layer.role for layer in layers if layer.action != "reused"}
    return tuple(role for role in ROLES if role in new)
