"""BuildKit builds the whole image, of the same Dockerfile with the real checkpoint: where composing is not possible."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from .assemble import roles_of_whole
from .destinations import Published
from .errors import ConflictError
from .halves import sending
from .names import ROLES
from .oci import Image
from .outcome import outcome
from .planner import Plan
from .results import Result
from .session import Session
from .staging import link_checkpoint, stage, workplace
from .targets import target

if TYPE_CHECKING:
    from .engine import BakeResult

__all__ = ["build_whole"]

_TARGET = "image"  # of the bake definition


def build_whole(session: Session, plan: Plan) -> Result:
    """Have BuildKit build the image and deliver it itself.

    Raises:
        ConflictError: somebody moved a tag since the plan was made, or just after BuildKit did; it was left there.
        LayerkitError: as the step that failed has it.
    """
    with sending(session, plan) as (sent, failed):
        baked, images, read = _bake(session, plan, failed)
        packed = sent()
    roles = {platform: roles_of_whole(image, plan.inputs) for platform, image in images.items()}
    result = outcome(session, plan, images, roles, Published(baked.digest(_TARGET), 0), baked, packed)
    planned = {layer.role for layer in plan.layers if layer.action != "reused"}
    rebuilt = result.rebuilt if images else tuple(role for role in ROLES if role in planned)
    return replace(result, way="buildkit", rebuilt=rebuilt, checkpoint_read=result.checkpoint_read + read)


def _bake(session: Session, plan: Plan, stopped: Callable[[], bool]) -> tuple[BakeResult, Mapping[str, Image], int]:
    """What BuildKit says, the image as the destination tells it, and bytes of the checkpoint that it was given."""
    inputs, destination = plan.inputs, session.to.destination
    with session.phase("build"), workplace(session.state) as (folder, links):
        weights = folder / "checkpoint"
        placed = plan.inputs.inside
        if placed and inputs.checkpoint is not None:
            if inputs.checkpoint.elsewhere is not None:
                raise inputs.checkpoint.elsewhere.needs_files(plan.why)
            inputs = replace(inputs, checkpoint=inputs.checkpoint.fetched())
        read = link_checkpoint(inputs, weights, links) if placed and inputs.checkpoint is not None else 0
        context = stage(inputs, folder / "context", links)
        platform = ",".join(inputs.platforms)
        output = destination.finished(session.tags)
        folder_of_it = str(weights) if placed else ""
        image = target(session.to, inputs, _TARGET, platform, context, folder_of_it, output, session.listener)
        _unmoved(session, plan)
        result = session.bake([image], stopped)
        return result, destination.delivered(session.tags, result, _TARGET), read


def _unmoved(session: Session, plan: Plan) -> None:
    """Nobody has moved a tag since the plan was made (FAULTS 26): BuildKit, which will, does not look.

    Raises:
        ConflictError: somebody has.
    """
    now = session.to.destination.look({}, None, session.tags).tags
    for tag, before in plan.present.tags.items():
        found = now.get(tag)
        if found is not None and found != before:
            raise ConflictError(
                f"{session.to.where}: tag {tag!r} moved from {before.short if before else 'nothing'} to"
                f" {found.short} while this build ran; it was left there",
                hint="build again if yours is the newer one",
            )
