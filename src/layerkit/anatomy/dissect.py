"""An image as it was found, and what was seen of its layers, made into an Inspection. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..names import CHECKPOINT_DIGEST, LOCATION_VARIABLE, PLACEMENT, PREFIX, ROLE
from ..oci import MEDIA, Digest, Image, as_oci
from .difference import settings_of
from .found import Found, LocalImage
from .inspection import CheckpointFacts, Inspection
from .layers import InspectedLayer
from .peek import Peek
from .roles import Role, Row, Step, guess_roles, steps_of

__all__ = ["dissect"]


def dissect(
    found: Found,
    sizes: Mapping[int, int],
    peeks: Mapping[int, Peek],
    *,
    base: int | None = None,
    timeline: Mapping[str, Any] | None = None,
) -> Inspection:
    """Everything that can be said of an image.

    Args:
        sizes: layer -> bytes of its tar, where something said it.
        peeks: layer -> what a look into it gave.
        base: layers of its base image, where that is known.
        timeline: the record of its build.
    """
    image = found.image
    annotations: Mapping[str, str] = {}
    if isinstance(image, LocalImage):
        bare = _local(image)
        steps, made_by, settings = image.steps, image.made_by, image.settings
        marks, digest, documents = ("",) * len(bare), None, 0
        platform, created = image.platform, image.created
    else:
        bare = _stored(image, sizes, found.counted)
        steps, made_by = _history(image)
        settings, annotations, digest = image.config.settings, image.manifest.annotations, image.manifest.digest
        marks = tuple(layer.annotations.get(ROLE, "") for layer in image.manifest.layers)
        documents = len(image.manifest.raw) + len(image.config.raw)
        platform, created = image.platform, str(image.config.document.get("created") or "")
    rows = [
        Row(step, layer.weight, mark, tuple(file.path for file in peeks[index].files) if index in peeks else ())
        for index, (step, layer, mark) in enumerate(zip(made_by, bare, marks, strict=True))
    ]
    roles = guess_roles(steps, rows, base=base)
    layers = _with_roles(bare, roles)
    labels = settings.get("Labels")
    facts = {**annotations, **(labels if isinstance(labels, Mapping) else {})}
    ours = any(name.startswith(PREFIX) for name in facts)
    return Inspection(
        found.name,
        found.source,
        digest,
        found.index,
        str(platform),
        found.platforms,
        created,
        layers,
        documents,
        _checkpoint(layers, peeks, facts, settings, looked=found.read is not None),
        settings_of(settings),
        ours,
        timeline,
        found.notes,
    )


def _stored(image: Image, sizes: Mapping[int, int], counted: Mapping[int, int]) -> list[InspectedLayer]:
    layers = []
    for index, (descriptor, diff_id, created_by) in enumerate(
        zip(image.manifest.layers, image.config.diff_ids, image.created_by, strict=True)
    ):
        plain = as_oci(descriptor.media_type) == MEDIA.LAYER
        size = descriptor.size if plain else sizes.get(index, counted.get(index))
        origin = "stored" if plain else "gzip" if index in sizes else "docker" if size is not None else ""
        layers.append(
            InspectedLayer(
                index, "", True, "", diff_id, descriptor.digest, descriptor.size, size, origin,
                descriptor.media_type, _line(created_by),
            )
        )  # fmt: skip
    return layers


def _local(image: LocalImage) -> list[InspectedLayer]:
    return [
        InspectedLayer(
            index, "", True, "", diff_id, unpacked=size, unpacked_from="" if size is None else "docker",
            created_by=_line(step.created_by),
        )
        for index, (diff_id, size, step) in enumerate(zip(image.diff_ids, image.sizes, image.made_by, strict=True))
    ]  # fmt: skip


def _line(created_by: str) -> str:
    """The instruction in one line, without what builders put around it."""
    keyword, rest = steps_of(created_by)
    return " ".join(f"{keyword} {rest}".split())


def _history(image: Image) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
    """All entries of the history, and that of each layer."""
    steps = tuple(
        Step(str(item.get("created_by", "")), bool(item.get("empty_layer")), str(item.get("comment", "")))
        for item in image.config.history
    )
    made = tuple(step for step in steps if not step.empty)
    return steps, made or (Step(""),) * len(image.manifest.layers)


def _with_roles(bare: Sequence[InspectedLayer], roles: Sequence[Role]) -> tuple[InspectedLayer, ...]:
    seen: dict[Digest, str] = {}
    layers = []
    for layer, role in zip(bare, roles, strict=True):
        # Empty layers repeat each other, and cost nothing: BuildKit's own is one of 32 bytes.
        again = "copy" if role.copy else seen.get(layer.diff_id, "") if layer.weight > 1024 else ""
        seen.setdefault(layer.diff_id, str(layer.diff_id))
        layers.append(replace(layer, role=role.name, guessed=role.guessed, why=role.why, again=again))
    return tuple(layers)


def _checkpoint(
    layers: Sequence[InspectedLayer],
    peeks: Mapping[int, Peek],
    facts: Mapping[str, str],
    settings: Mapping[str, Any],
    *,
    looked: bool,
) -> CheckpointFacts | None:
    own = [layer for layer in layers if layer.role == "checkpoint"]
    digest = str(facts.get(CHECKPOINT_DIGEST, ""))
    placement = str(facts.get(PLACEMENT, ""))
    if not own and not digest and not placement:
        return None
    variables = settings.get("Env")
    location = next(
        (str(v).partition("=")[2] for v in variables or () if str(v).startswith(f"{LOCATION_VARIABLE}=")), ""
    ) if isinstance(variables, list) else ""  # fmt: skip
    seen = [peeks[layer.index] for layer in own if layer.index in peeks]
    files = tuple(file for found in seen for file in found.files)
    tensors = tuple(item for found in seen for item in found.tensors)
    missing = [found.why for found in seen if found.why]
    if not own:
        missing = ["the image holds no layer of it"]
    elif not looked:
        missing = ["layers of a local Docker are not looked into"]
    elif not seen:
        missing = ["its layers were not looked into"]
    elif not tensors and not missing:
        missing = ["no safetensors file in it; other formats are not read in parts"]
    return CheckpointFacts(digest, placement, location, files, tensors, "; ".join(dict.fromkeys(missing)))
