"""What a run did, in one value: of what BuildKit, the packing and the destination each say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from .destinations import Published
from .oci import Image
from .packing import Packed
from .planner import Plan
from .results import Result, bytes_of, layer_results, roles_rebuilt
from .session import Session

if TYPE_CHECKING:
    from .engine import BakeResult

__all__ = ["outcome"]


def outcome(
    session: Session,
    plan: Plan,
    images: Mapping[str, Image],
    roles: Mapping[str, Sequence[str]],
    published: Published,
    baked: BakeResult | None,
    packed: Packed | None,
) -> Result:
    """The result of a composed image.

    Args:
        images, roles: by platform.
        baked: what BuildKit said; None where it did not run.
        packed: what was sent of the checkpoint; None where nothing had to be.
    """
    sent, to = packed.sent if packed else None, session.to
    built = baked is not None
    layers = layer_results(images, roles, plan.present.blobs, sent, built=built, mounts_base=to.mounts_base)
    uploaded = published.uploaded + (sent.uploaded if sent else 0)
    if to.destination.kind == "registry":
        uploaded += bytes_of(layers, "built")
    return Result(
        f"{to.destination.name}@{published.digest}",
        published.digest,
        session.tags,
        "compose",
        layers,
        roles_rebuilt(layers),
        built,
        baked.bytes_sent if baked else 0,
        (packed.read if packed else 0) + plan.bytes_read,
        uploaded,
        bytes_of(layers, "reused"),
        sent.dropped if sent else 0,
        session.seconds(),
        plan.why,
        fetched=session.fetched.value,
    )
