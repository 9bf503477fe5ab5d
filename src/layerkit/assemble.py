"""The finished image out of its two halves: roles, labels, annotations, index. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from .checkpoint import Ownership
from .errors import IntegrityError
from .fingerprint import Inputs
from .names import (
    CHECKPOINT_DIGEST,
    CHECKPOINT_KEY,
    DIGEST_VARIABLE,
    INPUTS,
    LOCATION,
    LOCATION_VARIABLE,
    PLACEMENT,
    RECIPE,
    RUNTIME_KEY,
    SAMPLES,
    TARGET,
    WEIGHTS,
)
from .oci import (
    CREATED,
    MEDIA,
    Descriptor,
    Digest,
    Image,
    Index,
    Layer,
    Manifest,
    Platform,
    compose,
    dump,
    layers_image,
)

__all__ = [
    "Assembled",
    "PackedCheckpoint",
    "Runtime",
    "assemble",
    "checkpoint_image",
    "roles_of",
    "roles_of_whole",
]

# moby/buildkit, docs/attestations/attestation-storage.md
_REFERENCE_TYPE = "vnd.docker.reference.type"
_REFERENCE_DIGEST = "vnd.docker.reference.digest"


@dataclass(frozen=True, slots=True)
class Runtime:
    """What BuildKit built for one platform.

    Attributes:
        image: base, dependencies and code, and a placeholder where the checkpoint goes.
        placeholder: the placeholder's index among the layers, or None.
        place: (folder, uid, gid) that the placeholder's layer really has, or None.
        attestations: manifest and statements (blobs by digest) of each attestation of the image.
        disturbed: which layer above the placeholder moved, deleted or changed it, in a sentence: what was done to it
            would have to be done to the checkpoint; "" for none.
    """

    image: Image
    placeholder: int | None
    place: tuple[str, int, int] | None = None
    attestations: tuple[tuple[Manifest, Mapping[Digest, bytes]], ...] = ()
    disturbed: str = ""


@dataclass(frozen=True, slots=True)
class Assembled:
    """All that must be at the destination for the tag to mean the new image.

    Attributes:
        root: what the tag names: a manifest, or an index where there are several platforms or attestations.
        images: platform -> image.
        attestations: manifests, with their blobs, that belong to the images.
        roles: platform -> role of each layer, bottom first.
    """

    root: Manifest | Index
    images: Mapping[str, Image]
    attestations: tuple[tuple[Manifest, Mapping[Digest, bytes]], ...]
    roles: Mapping[str, tuple[str, ...]]

    @property
    def digest(self) -> Digest:
        return self.root.digest

    @property
    def manifests(self) -> tuple[Manifest, ...]:
        """Every manifest below the root, children of an index and attestations."""
        return (*(image.manifest for image in self.images.values()), *(m for m, _ in self.attestations))


def roles_of(image: Image, base_layers: int, checkpoint: range) -> tuple[str, ...]:
    """base, dependencies, checkpoint or code, for each layer.

    What lies below *base_layers* is the base's. Of the others, those that COPY or ADD made are code, those that
    ran something are dependencies: BuildKit keeps the instruction in the history.
    """

    def role(index: int, created_by: str) -> str:
        if index in checkpoint:
            return "checkpoint"
        if index < base_layers:
            return "base"
        words = created_by.split()
        return "code" if words and words[0].upper() in ("COPY", "ADD") else "dependencies"

    return tuple(role(index, text) for index, text in enumerate(image.created_by))


def roles_of_whole(image: Image, inputs: Inputs) -> tuple[str, ...]:
    """The roles in an image that BuildKit built whole: its checkpoint is the layer that was copied to where it goes.

    History does not say which stage a COPY was from (moby/buildkit, dispatchCopy), but its destination.
    """
    base = next(iter(inputs.bases.values()), None)
    at = range(0)
    if inputs.checkpoint is not None and inputs.inside:
        target = PurePosixPath(inputs.checkpoint.ownership.target)
        for index, text in enumerate(image.created_by):
            words = text.removesuffix("# buildkit").split()
            # A relative destination is told as it was written.
            if len(words) > 2 and words[0] == "COPY" and _ends(target, words[-1]):
                at = range(index, index + 1)
    return roles_of(image, base.layers.get(str(image.platform), 0) if base else 0, at)


def _ends(target: PurePosixPath, destination: str) -> bool:
    named = PurePosixPath(destination)
    return target == named or (not named.is_absolute() and target.parts[-len(named.parts) :] == named.parts)


def assemble(
    inputs: Inputs,
    runtimes: Mapping[str, Runtime],
    layers: Sequence[Layer],
    content: Digest | None,
    key: str | None,
) -> Assembled:
    """Put *layers* in the placeholder's place, for every platform.

    Args:
        inputs: what was asked for.
        runtimes: platform -> what BuildKit built.
        layers: of the checkpoint; none where the image has none.
        content: what the checkpoint is called (its files' digest).
        key: of the checkpoint's layers.

    Raises:
        IntegrityError: a runtime image has its placeholder elsewhere than the checkpoint goes.
        RefusedError: over 127 layers, or a manifest over 4 MiB.
    """
    base = next(iter(inputs.bases.values()), None)
    images: dict[str, Image] = {}
    roles: dict[str, tuple[str, ...]] = {}
    attestations: list[tuple[Manifest, Mapping[Digest, bytes]]] = []
    descriptors: list[Descriptor] = []
    extra: list[Descriptor] = []
    for platform in inputs.platforms:
        runtime = runtimes[platform]
        at = runtime.placeholder
        if layers and inputs.checkpoint is not None:
            _check_place(runtime, inputs.checkpoint.ownership)
        image = compose(
            runtime.image,
            at,
            layers,
            environment=_environment(inputs, content),
            labels=_labels(inputs, platform, content, key),
            annotations={
                INPUTS: dump(inputs.summary).decode(),
                **_labels(inputs, platform, content, key),
                **_samples(inputs, bool(layers)),
                **_recipe(inputs, bool(layers)),
            },
        )
        marks = range(at, at + len(layers)) if at is not None else range(0)
        roles[platform] = roles_of(image, base.layers.get(platform, 0) if base else 0, marks)
        images[platform] = image = compose(image, None, (), roles=roles[platform])
        descriptors.append(image.manifest.descriptor(image.platform))
        for manifest, blobs in runtime.attestations:
            moved, statements = _follow(manifest, blobs, runtime.image.manifest.digest, image.manifest.digest)
            attestations.append((moved, statements))
            extra.append(
                moved.descriptor(
                    Platform("unknown", "unknown"),
                    {_REFERENCE_TYPE: "attestation-manifest", _REFERENCE_DIGEST: str(image.manifest.digest)},
                )
            )
    single = len(images) == 1 and not extra
    root = next(iter(images.values())).manifest if single else Index.create([*descriptors, *extra])
    return Assembled(root, images, tuple(attestations), roles)


def _check_place(runtime: Runtime, ownership: Ownership) -> None:
    if runtime.place is None:
        raise IntegrityError("the runtime image has no placeholder layer", hint="layerkit build --no-cache")
    folder, uid, gid = runtime.place
    if (folder.rstrip("/"), uid, gid) != (ownership.target.rstrip("/"), ownership.uid, ownership.gid):
        raise IntegrityError(
            f"BuildKit put the checkpoint to {folder} as {uid}:{gid}, expected {ownership.target} as"
            f" {ownership.uid}:{ownership.gid}",
            hint="write the COPY --from=checkpoint line without variables",
        )


def _environment(inputs: Inputs, content: Digest | None) -> dict[str, str]:
    if inputs.checkpoint is None:
        return {}
    found = {LOCATION_VARIABLE: inputs.checkpoint.location}
    # Of a mounted checkpoint the image cannot know which it will be.
    if content is not None and inputs.inside:
        found[DIGEST_VARIABLE] = str(content)
    return found


def _labels(inputs: Inputs, platform: str, content: Digest | None, key: str | None) -> dict[str, str]:
    labels = {RUNTIME_KEY: inputs.runtime_key(platform)}
    if inputs.checkpoint is not None and inputs.project.checkpoint is not None:
        labels[PLACEMENT] = inputs.project.checkpoint.placement
        if inputs.project.checkpoint.placement == "artifact" and key is not None:
            # Which image is to be mounted: who cleans the registry up has to know.
            labels[CHECKPOINT_KEY] = key
        if inputs.inside and content is not None and key is not None:
            labels[CHECKPOINT_KEY] = key
            labels[CHECKPOINT_DIGEST] = str(content)
            if inputs.checkpoint.made is not None:
                labels[WEIGHTS] = str(content)
            elif inputs.checkpoint.weights is not None:
                labels[WEIGHTS] = str(inputs.checkpoint.weights)
    return labels


def _samples(inputs: Inputs, inside: bool) -> dict[str, str]:
    samples = inputs.checkpoint.samples if inputs.checkpoint is not None and inside else ()
    return {SAMPLES: " ".join(sample for sample in samples if sample)} if samples else {}


def _recipe(inputs: Inputs, inside: bool) -> dict[str, str]:
    record = inputs.checkpoint.recipe.record if inputs.checkpoint is not None and inside else {}
    return {RECIPE: dump(record).decode()} if record else {}


def _follow(
    manifest: Manifest, blobs: Mapping[Digest, bytes], old: Digest, new: Digest
) -> tuple[Manifest, dict[Digest, bytes]]:
    """An attestation of the image *old*, made to be of *new*: the in-toto subjects follow the digest.

    The statement's predicate (how it was built) stays byte for byte the same value; its subject is what it is
    said of (in-toto Attestation Framework, Statement v0.1 and v1).
    """
    moved: dict[Digest, bytes] = {}
    layers: list[Descriptor] = []
    for layer in manifest.layers:
        raw = blobs[layer.digest]
        if layer.media_type == MEDIA.IN_TOTO:
            statement = json.loads(raw)
            for subject in statement.get("subject") or ():
                if subject.get("digest", {}).get("sha256") == old.hex:
                    subject["digest"]["sha256"] = new.hex
            raw = dump(statement)
        digest = Digest.of(raw)
        moved[digest] = raw
        layers.append(Descriptor(layer.media_type, digest, len(raw), layer.annotations))
    config = json.loads(blobs[manifest.config.digest])
    if isinstance(config.get("rootfs"), dict) and config["rootfs"].get("diff_ids"):
        config["rootfs"]["diff_ids"] = [str(layer.digest) for layer in layers]
    raw_config = dump(config)
    described = Descriptor(manifest.config.media_type, Digest.of(raw_config), len(raw_config))
    moved[described.digest] = raw_config
    document = json.loads(manifest.raw)
    document["config"] = described.to_json()
    document["layers"] = [layer.to_json() for layer in layers]
    if isinstance(document.get("subject"), dict) and document["subject"].get("digest") == str(old):
        # The subject's size is the composed manifest's, which is not known here; BuildKit writes no subject.
        document.pop("subject")
    return Manifest.parse(dump(document), manifest.media_type), moved


@dataclass(frozen=True, slots=True)
class PackedCheckpoint:
    """What a checkpoint became.

    Attributes:
        layers: in their order.
        key: that they are found by; ``content`` is what the checkpoint is called.
        ownership: where its files go, and whose they are.
        weights: the weights hash, where it is known.
        location: where a program finds it in the image.
    """

    layers: tuple[Layer, ...]
    key: str
    content: Digest
    ownership: Ownership
    weights: Digest | None = None
    location: str = ""


def checkpoint_image(packed: PackedCheckpoint, created: str = "") -> Image:
    """The image of the checkpoint alone, as ``checkpoint-<key>`` names it.

    Args:
        created: when it was put there (RFC 3339): ``layerkit prune`` tells the old from the new by it. It is an
            annotation of the manifest, so that all else is the same whenever it is made.
    """
    facts = {
        CHECKPOINT_KEY: packed.key,
        CHECKPOINT_DIGEST: str(packed.content),
        TARGET: packed.ownership.target,
        **({LOCATION: packed.location} if packed.location else {}),
        **({WEIGHTS: str(packed.weights)} if packed.weights is not None else {}),
    }
    return layers_image(packed.layers, labels=facts, annotations=facts | ({CREATED: created} if created else {}))
