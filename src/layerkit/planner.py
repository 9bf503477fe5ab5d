"""Every decision of a build, made in one place before anything is done. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from .assemble import Assembled, Runtime, assemble
from .checkpoint.parts import Part
from .checkpoint_inputs import CheckpointInputs
from .fingerprint import REQUIREMENT, Inputs
from .limits import check_image, check_layers
from .names import CHECKPOINT_DIGEST, INPUTS, ROLES, SAMPLES
from .oci import Digest, Image, Layer
from .units import size as size_text

__all__ = ["Action", "Estimate", "LayerPlan", "PartPlan", "Plan", "Present", "plan"]

Action = Literal["reused", "built", "packed", "mounted"]
Way = Literal["compose", "buildkit"]


@dataclass(frozen=True, slots=True)
class Present:
    """What the destination holds already.

    Attributes:
        runtimes: platform -> the runtime image under its key.
        checkpoint: the layers under the checkpoint's key; None where there are none, or the key is not known yet.
        tags: each asked tag -> digest of what it names now.
        previous: platform -> the image to compare with: what the tag names now, or the last one built here.
        blobs: digests of layers that are known to be there.
        hurt: digests of images that a tag names and of which something is gone: they are put there again.
        layer_limit: most bytes of one layer that it takes, where that is known.
        mounts_base: the base's layers are in the same registry, or Docker, already: nobody has to send them.
        host: of the registry that it is; "" where it is none.
        stacked: a layer is found by all that lies under it too (Docker's classic store): where BuildKit builds that
            anew, the checkpoint's layers may have to be given again.
    """

    runtimes: Mapping[str, Runtime] = field(default_factory=dict)
    checkpoint: tuple[Layer, ...] | None = None
    tags: Mapping[str, Digest | None] = field(default_factory=dict)
    previous: Mapping[str, Image] = field(default_factory=dict)
    blobs: frozenset[Digest] = frozenset()
    hurt: frozenset[Digest] = frozenset()
    layer_limit: int | None = None
    mounts_base: bool = False
    host: str = ""
    stacked: bool = False

    @property
    def before(self) -> Image | None:
        """The image to compare with, of the first platform that has one: all were made of the same."""
        return next(iter(self.previous.values()), None)

    @property
    def samples(self) -> frozenset[str]:
        """Of the checkpoint in the image to compare with: ``checkpoint/sample.py``."""
        return frozenset(self.before.manifest.annotations.get(SAMPLES, "").split() if self.before else ())


@dataclass(frozen=True, slots=True)
class PartPlan:
    """What will happen to one layer of the checkpoint. ``size``: of the layer, in bytes.

    ``changed``: False where the layer is at the destination, None where only hashing it will tell.
    """

    name: str
    size: int
    changed: bool | None

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "bytes": self.size, "changed": self.changed}


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """What will happen to the layers of one role.

    ``bytes_to_builder`` and ``bytes_to_upload`` are at most these; None where only the build will tell. Where the
    plan is not sure (``known`` is False), the action is the most that can happen: the layer may turn out to be there.
    ``parts``: its layers one by one, where it is a checkpoint of several.
    """

    role: str
    action: Action
    reason: str
    bytes_to_builder: int | None = 0
    bytes_to_upload: int | None = 0
    known: bool = True
    parts: tuple[PartPlan, ...] = ()

    def to_json(self) -> dict[str, Any]:
        found = {
            "role": self.role,
            "action": self.action,
            "reason": self.reason,
            "bytes_to_builder": self.bytes_to_builder,
            "bytes_to_upload": self.bytes_to_upload,
            "known": self.known,
        }
        return found | ({"parts": [part.to_json() for part in self.parts]} if self.parts else {})


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds that a plan will take. ``builder`` and ``checkpoint`` go on at the same time; 0.0 where there is none.

    ``unknown`` names what no earlier build tells: ``total`` is without it.
    """

    total: float
    builder: float
    checkpoint: float
    unknown: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "total": round(self.total, 1),
            "builder": round(self.builder, 1),
            "checkpoint": round(self.checkpoint, 1),
            "unknown": list(self.unknown),
        }


@dataclass(frozen=True)
class Plan:
    """What a build will do; ``layerkit build`` does this and nothing else.

    Attributes:
        destination: registry, docker or oci, and where: as in ``registry ghcr.io/acme/resnet``.
        tags: that will name the image.
        way: compose, or buildkit where composing is not possible or not wanted; ``why`` says why.
        platforms_to_build: those for which BuildKit runs.
        pack: the checkpoint is read, hashed and sent.
        layers: one entry a role that the image has.
        assembled: the finished image, when all of it is known already.
        tags_to_move: those that do not name it yet.
        estimate: seconds that it will take, by earlier builds; None on a first build.
    """

    destination: str
    tags: tuple[str, ...]
    way: Way
    why: str
    platforms_to_build: tuple[str, ...]
    pack: bool
    layers: tuple[LayerPlan, ...]
    inputs: Inputs = field(repr=False)
    present: Present = field(repr=False)
    assembled: Assembled | None = field(default=None, repr=False)
    tags_to_move: tuple[str, ...] = ()
    estimate: Estimate | None = None

    @property
    def changes(self) -> bool:
        """Something at the destination will be different afterwards."""
        return bool(self.platforms_to_build or self.pack or self.tags_to_move or self.way == "buildkit")

    @property
    def digest(self) -> Digest | None:
        """Of the finished image, when it is known already."""
        return self.assembled.digest if self.assembled else None

    @property
    def bytes_read(self) -> int:
        """Bytes of the checkpoint that were read to make this plan: of weights that look like those of before."""
        checkpoint = self.inputs.checkpoint
        if checkpoint is None:
            return 0
        return checkpoint.read + (checkpoint.made.read if checkpoint.made is not None else 0)

    def to_json(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "destination": self.destination,
            "tags": list(self.tags),
            "way": self.way,
            "why": self.why,
            "changes": self.changes,
            "digest": str(self.digest) if self.digest else None,
            "platforms": list(self.inputs.platforms),
            "runs_builder_for": list(self.platforms_to_build),
            "layers": [layer.to_json() for layer in self.layers],
            "tags_to_move": list(self.tags_to_move),
            "seconds": self.estimate.to_json() if self.estimate else None,
            "checkpoint_read": self.bytes_read,
        }


def plan(
    inputs: Inputs,
    present: Present,
    *,
    destination: str,
    tags: Sequence[str],
    way: Way = "compose",
    why: str = "",
    no_cache: bool = False,
) -> Plan:
    """Decide what to do.

    Args:
        inputs: what goes in.
        present: what is there.
        destination: for people.
        tags: to give.
        way: "buildkit" where BuildKit must build the whole image, *why* in words.
        no_cache: build the runtime image also where its key is there.

    Raises:
        RefusedError: the destination would refuse what comes of it; nothing was sent.
    """
    if way == "compose" and (reason := _impossible(inputs, present)):
        way, why = "buildkit", f"composing is not possible: {reason}"
    to_build = tuple(p for p in inputs.platforms if no_cache or way == "buildkit" or p not in present.runtimes)
    checkpoint, wanted = inputs.checkpoint, inputs.project.checkpoint
    has_layers = checkpoint is not None and wanted is not None and wanted.placement != "volume"
    inside = inputs.inside
    # What is not in the image is not BuildKit's to copy.
    pack = has_layers and present.checkpoint is None and (way == "compose" or not inside)
    blueprints = checkpoint.blueprints if checkpoint is not None and pack else ()
    if wanted is not None and wanted.compression == "none":
        check_layers(blueprints, present.layer_limit, destination)
    if way == "compose":
        there = present.checkpoint or ()
        check_image(inputs, present.runtimes, to_build, blueprints if inside else (), there if inside else ())
    assembled = None
    if not to_build and not pack and way == "compose":
        assembled = assemble(
            inputs,
            present.runtimes,
            (present.checkpoint or ()) if inside else (),
            checkpoint.digest if checkpoint else None,
            checkpoint.key if checkpoint else None,
        )
    whole = assembled.digest if assembled is not None and assembled.digest not in present.hurt else None
    move = tuple(tag for tag in tags if whole is None or present.tags.get(tag) != whole)
    return Plan(
        destination,
        tuple(tags),
        way,
        why,
        to_build,
        pack,
        _layers(inputs, present, to_build, pack, way, no_cache),
        inputs,
        present,
        assembled,
        move,
    )


def _impossible(inputs: Inputs, present: Present) -> str:
    """Why the runtime image and the checkpoint's layers cannot make up the image; "" where they can."""
    checkpoint = inputs.checkpoint
    if checkpoint is None or not inputs.inside:
        return ""
    disturbed = (present.runtimes[p].disturbed for p in inputs.platforms if p in present.runtimes)
    return checkpoint.touched or next(filter(None, disturbed), "")


def _layers(
    inputs: Inputs, present: Present, to_build: Sequence[str], pack: bool, way: Way, no_cache: bool
) -> tuple[LayerPlan, ...]:
    before = _summary(present.before)
    now = inputs.summary
    changes = {role: _differences(before.get(role, {}), now[role]) for role in now} if before else {}
    below = ""
    if no_cache:
        below = "asked for: --no-cache"
    fresh: Action = "mounted" if present.mounts_base else "built"
    send_base = 0 if present.mounts_base else None
    instructions = changes.get("instructions", "")
    own = bool(inputs.project.image.dockerfile)  # of which nobody knows what it puts under what
    if own and (changed := "; ".join(filter(None, (changes.get("code"), instructions)))):
        instructions = f"built again where it lies on what changed: {changed}"
    elif any(changes.get(role) for role in ("base", "dependencies", "code")):
        instructions = ""  # a changed requirement changes the generated Dockerfile too; the first reason is the better
    planned = []
    for role in ROLES:
        if role == "checkpoint":
            same_below = bool(before) and not (no_cache or own or changes["base"] or changes["dependencies"])
            shaky = present.stacked and bool(to_build) and (not same_below or bool(instructions))
            planned += _checkpoint(inputs, present, pack, way, shaky)
            continue
        if role == "dependencies" and not (now["dependencies"] or own or _makes_folder(inputs)):
            continue
        if role in ("base", "code") and not now[role]:
            continue
        sent = sum(f.size for f in inputs.files if (f.path in inputs.dependency_files) == (role == "dependencies"))
        sent = 0 if role == "base" else sent + (inputs.wheels_size if role == "dependencies" else 0)
        if not to_build:
            reason = f"built before: {changes[role]}" if changes.get(role) else "nothing in it changed"
            planned.append(LayerPlan(role, "reused", reason))
        elif role == "base" and (changes.get(role) or not before):
            reason = changes.get(role) or "no earlier image to take it from"
            planned.append(LayerPlan(role, fresh, reason, 0, send_base, known=False))
        elif changes.get(role) or not before:
            reason = changes.get(role) or "no earlier image to take it from"
            planned.append(LayerPlan(role, "built", reason, sent, None, known=False))
        elif role != "base" and (no_cache or own or role == "dependencies") and (below or instructions):
            planned.append(LayerPlan(role, "built", below or instructions, sent, None, known=False))
        else:
            planned.append(LayerPlan(role, "reused", "nothing in it changed", sent, known=False))
        if role == "base" and changes.get("base") and not no_cache:
            below = f"the base under it changed: {changes['base']}"
    return tuple(planned)


def _makes_folder(inputs: Inputs) -> bool:
    """WORKDIR is a layer too, some 92 bytes: it stands on the base, and is built with what is installed there."""
    return inputs.project.image.workdir.strip("/") != ""


def _checkpoint(inputs: Inputs, present: Present, pack: bool, way: Way, shaky: bool) -> list[LayerPlan]:
    """*shaky*: layers that are there may have to be given again, for what BuildKit builds under them."""
    checkpoint, wanted = inputs.checkpoint, inputs.project.checkpoint
    if checkpoint is None or wanted is None:
        return []
    if wanted.placement == "volume":
        return [LayerPlan("checkpoint", "mounted", "placement = 'volume': mounted at run time, not in the image")]
    if way == "buildkit" and wanted.placement == "layer":
        return [LayerPlan("checkpoint", "built", "BuildKit copies it", checkpoint.size, None, known=False)]
    if checkpoint.elsewhere is not None and pack:
        return [_borrowed(checkpoint, present)]
    if not pack:
        action: Action = "mounted" if wanted.placement == "artifact" else "reused"
        assert checkpoint.key is not None
        reason = f"its layers are there as checkpoint-{checkpoint.key[:12]}"
        if checkpoint.made is not None and checkpoint.made.read and checkpoint.weights is not None:
            reason = f"hashed: the same tensors (weights hash {checkpoint.weights.short}); {reason}"
        if checkpoint.elsewhere is not None:
            by = f", {checkpoint.elsewhere.by}" if checkpoint.elsewhere.by else ""
            reason = f"{checkpoint.elsewhere.said}; {reason}{by}"
        if checkpoint.hub is not None:
            reason = f"{reason}; {checkpoint.hub.name}"
        if shaky:
            reason += "; given again where what lies under them turns out to be new"
            parts = tuple(PartPlan(part.name, part.size, None) for part in checkpoint.parts)
            return [LayerPlan("checkpoint", "packed", reason, 0, _size(parts), False, parts if len(parts) > 1 else ())]
        there = tuple(PartPlan(part.name, part.size, False) for part in checkpoint.parts)
        return [LayerPlan("checkpoint", action, reason, parts=there if len(there) > 1 else ())]
    parts = tuple(PartPlan(part.name, part.size, _changed(part, present)) for part in checkpoint.parts)
    size = _size(parts)
    if checkpoint.recipe.compression == "zstd":
        size += size // 1000  # bytes that do not shrink get frames around them
    reason = _reason(checkpoint, parts, present)
    if checkpoint.hub is not None:
        download = f", {size_text(checkpoint.to_fetch)} to download" if checkpoint.to_fetch else ""
        reason = f"{reason}; {checkpoint.hub.name}{download}"
    # A layer may be there under another key: the same file in another checkpoint.
    return [LayerPlan("checkpoint", "packed", reason, 0, size, False, parts if len(parts) > 1 else ())]


def _size(parts: Sequence[PartPlan]) -> int:
    return sum(part.size for part in parts if part.changed is not False)


def _borrowed(checkpoint: CheckpointInputs, present: Present) -> LayerPlan:
    """Layers that a registry has: taken over by the destination's, or streamed to it."""
    assert checkpoint.elsewhere is not None
    parts = tuple(PartPlan(part.name, part.size, _changed(part, present)) for part in checkpoint.parts)
    size = sum(part.size for part in parts if part.changed)
    home = sorted({f"{layer.host}/{layer.repository}" for layer in checkpoint.remote})
    mounts = {layer.host for layer in checkpoint.remote} == {present.host}
    way = "mounted from {}, or streamed where the registry refuses that" if mounts else "streamed from {}, to no file"
    by = f", {checkpoint.elsewhere.by}" if checkpoint.elsewhere.by else ""
    reason = f"{checkpoint.elsewhere.said}; {way.format(', '.join(home))}{by}"
    action: Action = "mounted" if mounts else "packed"
    return LayerPlan("checkpoint", action, reason, 0, size, False, parts if len(parts) > 1 else ())


def _changed(part: Part, present: Present) -> bool | None:
    """Whether the layer must be sent. A sample proves that it must, a digest that it must not."""
    if part.hashed is not None:
        return part.hashed.digest not in present.blobs
    return True if part.sample and present.samples and part.sample not in present.samples else None


def _reason(checkpoint: CheckpointInputs, parts: Sequence[PartPlan], present: Present) -> str:
    before = present.before.config.labels.get(CHECKPOINT_DIGEST, "") if present.before else ""
    there = sum(part.changed is False for part in parts)
    if there and there < len(parts):
        return f"{len(parts) - there} of {len(parts)} layers changed; the others are there"
    if checkpoint.digest is not None and before and before != str(checkpoint.digest):
        return f"weights changed: {before.removeprefix('sha256:')[:12]} → {checkpoint.digest.short}"
    if checkpoint.known:
        return "its layers are not at the destination"
    if checkpoint.made is not None and present.samples:
        return "weights changed: hashed while they are sent"
    unknown = [file.path for file in checkpoint.files if file.path not in checkpoint.digests]
    names = ", ".join(unknown[:3]) + (f" and {len(unknown) - 3} more" if len(unknown) > 3 else "")
    return f"{names or 'weights'} not hashed yet: sent while hashed, dropped where its layer turns out to be there"


def _summary(image: Image | None) -> dict[str, dict[str, str]]:
    """role -> what went into *image*, by name; nothing where it does not say."""
    text = image.manifest.annotations.get(INPUTS, "") if image else ""
    try:
        found = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {str(role): dict(items) for role, items in found.items() if isinstance(items, dict)}


def _differences(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """One sentence on what is different, "" where nothing is."""
    changed = [name for name in now if before.get(name, now[name]) != now[name]]
    added, removed = [name for name in now if name not in before], [name for name in before if name not in now]
    if any(name.startswith(REQUIREMENT) for name in (*changed, *added, *removed)):
        # What changed in a requirements file is better than that it changed.
        changed = [name for name in changed if name.startswith((REQUIREMENT, "apt ")) or name == "wheels"]
    said = [f"{name} {before[name] or 'any'} → {now[name] or 'any'}" for name in changed]
    said += [f"{name} {now[name] if name.startswith(REQUIREMENT) else ''}".strip() + " added" for name in added]
    said += [f"{name} removed" for name in removed]
    return "; ".join(said[:3]) + (f"; and {len(said) - 3} more" if len(said) > 3 else "")
