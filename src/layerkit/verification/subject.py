"""An image of one platform, and which of its layers hold the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath

from ..anatomy.dissect import dissect
from ..anatomy.found import Found
from ..anatomy.look import taken_apart
from ..checkpoint import Ownership
from ..checkpoint.recipe import Recipe
from ..errors import ConfigurationError
from ..names import (
    CHECKPOINT_DIGEST,
    CHECKPOINT_KEY,
    DIGEST_VARIABLE,
    LOCATION_VARIABLE,
    PLACEMENT,
    RECIPE,
    WEIGHTS,
)
from ..oci import Descriptor, Digest, Image
from .result import Mismatch

__all__ = ["Subject"]

_LABELS = (CHECKPOINT_KEY, CHECKPOINT_DIGEST, WEIGHTS)


@dataclass(frozen=True)
class Subject:
    """What is verified.

    Attributes:
        found: the image; ``image`` is its manifest and configuration.
        own: indexes of the layers that hold the weights, bottom first.
        ours: layerkit marked these layers; else they were guessed.
        looks: bytes that were read to find them.
    """

    found: Found
    image: Image
    own: tuple[int, ...]
    ours: bool
    looks: int = 0

    @classmethod
    def of(cls, found: Found) -> Subject:
        """Raises ConfigurationError where the image has no weights in it, or its store gives no manifest."""
        image = found.image
        if not isinstance(image, Image):
            raise ConfigurationError(
                f"{found.name}: this Docker keeps no manifest of it, and so no digests of its layers",
                hint="verify it in its registry: registry:REF",
            )
        layers = dissect(found, {}, {}).layers
        marked = tuple(x.index for x in layers if x.role == "checkpoint" and not x.guessed)
        if marked:
            return cls(found, image, marked, True)
        placement = _facts(image).get(PLACEMENT, "")
        if placement in ("volume", "artifact"):
            raise ConfigurationError(
                f"{found.name}: holds no weights: they are mounted when it runs (placement {placement})",
                hint="verify what is mounted: the image checkpoint-<key> of the same repository",
            )
        looks = 0

        def read(descriptor: Descriptor, start: int, end: int) -> bytes | None:
            nonlocal looks
            assert found.read is not None
            got = found.read(descriptor, start, end)
            looks += len(got or b"")
            return got

        seen = taken_apart(replace(found, read=read) if found.read is not None else found).layers
        own = tuple(x.index for x in seen if x.role == "checkpoint") or tuple(
            x.index for x in seen if x.role in ("code", "unknown")
        )
        if not seen:
            raise ConfigurationError(f"{found.name}: has no layers")
        return cls(found, image, own or tuple(x.index for x in seen), False, looks)

    @property
    def whole(self) -> Subject:
        """The same, with weights in any of its layers."""
        return replace(self, own=tuple(range(len(self.image.manifest.layers))))

    @property
    def layers(self) -> tuple[Digest, ...]:
        """Digests of the layers that hold the weights."""
        return tuple(self.image.manifest.layers[index].digest for index in self.own)

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        return tuple(self.image.config.diff_ids[index] for index in self.own)

    @property
    def above(self) -> tuple[int, ...]:
        """Indexes of the layers over the lowest one that holds weights, which could hide its files."""
        return tuple(i for i in range(min(self.own) + 1, len(self.image.manifest.layers)) if i not in self.own)

    @cached_property
    def facts(self) -> Mapping[str, str]:
        """What the image says of itself: its labels, and annotations where it has no such label."""
        return _facts(self.image)

    @cached_property
    def ownership(self) -> Ownership | None:
        """Where the checkpoint went and whose it is, as the history says it."""
        said = Ownership.parse(self.image.created_by[self.own[0]]) if self.ours else None
        return said[0] if said else None

    @property
    def recipe(self) -> Recipe | None:
        """How its layers were made; None where layerkit did not make them, or by a recipe of another version."""
        if not self.ours or CHECKPOINT_KEY not in self.facts:
            return None
        try:
            return Recipe.of_record(json.loads(self.facts.get(RECIPE, "{}")))
        except (ValueError, TypeError, ConfigurationError):
            return None

    @property
    def name(self) -> str:
        """Of the checkpoint's one file; "" where it is a folder."""
        location = PurePosixPath(self.image.config.environment.get(LOCATION_VARIABLE, ""))
        target = PurePosixPath(self.ownership.target) if self.ownership is not None else None
        return location.name if location.parent == target and location.is_absolute() else ""

    def contradictions(self) -> list[Mismatch]:
        """What the image says of itself that does not agree with what it says elsewhere."""
        labels, annotations = self.image.config.labels, self.image.manifest.annotations
        found = [
            Mismatch("label", name, annotations[name], labels[name])
            for name in _LABELS
            if name in labels and name in annotations and labels[name] != annotations[name]
        ]
        said = self.image.config.environment.get(DIGEST_VARIABLE)
        label = labels.get(CHECKPOINT_DIGEST)
        if said is not None and label is not None and said != label:
            found.append(Mismatch("label", DIGEST_VARIABLE, label, said))
        return found


def _facts(image: Image) -> Mapping[str, str]:
    return {**image.manifest.annotations, **{str(k): str(v) for k, v in image.config.labels.items()}}
