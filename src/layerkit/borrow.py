"""Weights that a registry has: found there, and their layers ready to be mounted or streamed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from .checkpoint import Ownership, checkpoint_key
from .checkpoint.elsewhere import OCI, Elsewhere, RemoteBlueprint, remote
from .connections import Connections
from .errors import CheckpointError, IntegrityError, LayerkitError, printable
from .events import Listener, Note
from .fingerprint import Inputs
from .names import (
    CHECKPOINT_DIGEST,
    CHECKPOINT_KEY,
    LOCATION,
    LOCATION_VARIABLE,
    ROLE,
    SAMPLES,
    WEIGHTS,
    checkpoint_tag,
)
from .oci import Descriptor, Digest, Image, Index, Layer, Manifest, Reference
from .planner import Present

if TYPE_CHECKING:
    from .registry import Client, Repository

__all__ = ["find_layers", "image_at", "locate"]

Count = Callable[[int], None]


def image_at(client: Client, path: str, ownership: Ownership, locked: str = "") -> Elsewhere:
    """The weights of the image that *path* (``oci://REPO:tag`` or ``oci://REPO@digest``) names.

    Their key is of their layers' digests: what the image says of itself is passed on, and nothing is found by it.

    Args:
        locked: ``REPO@digest`` that is taken instead of what the tag means now; "" for none.

    Raises:
        ConfigurationError: *path* is no reference.
        CheckpointError: there is no such image, it has no checkpoint of layerkit's, or that goes elsewhere than
            *ownership* says.
    """
    reference = Reference.parse(path.removeprefix(OCI)).or_latest()
    repository = client.repository(reference)
    held = Reference.parse(locked).digest if locked else None
    descriptor = repository.resolve(held or reference.digest or reference.tag)
    if descriptor is None:
        which = f" (locked as {held})" if held else ""
        raise CheckpointError(
            f"checkpoint: {printable(path)}: the registry has no such image{which}",
            hint="layerkit build without --locked takes what the tag means now" if held else "check checkpoint.path",
        )
    image = _image(repository, descriptor.digest)
    layers = _layers_of(image) if image is not None else ()
    content = image.config.labels.get(CHECKPOINT_DIGEST, "") if image is not None else ""
    if image is None or not layers or not content:
        raise CheckpointError(
            f"checkpoint: {printable(path)}: is no image with a checkpoint of layerkit's",
            hint="name an image that layerkit built with the checkpoint in it, or a checkpoint-… tag",
        )
    _same_place(path, layers, ownership)
    weights = image.config.labels.get(WEIGHTS, "")
    digests = [str(layer.descriptor.digest) for layer in layers]
    location = image.config.labels.get(LOCATION) or image.config.environment.get(LOCATION_VARIABLE)
    source = str(reference.with_digest(descriptor.digest))
    return Elsewhere(
        checkpoint_key({}, ownership, ("layers", *digests)),
        Digest.parse(content),
        location or ownership.target.rstrip("/"),
        f"the layers of {source}",
        f"the layers of {source} are needed",
        layers=layers,
        repository=reference.name,
        source=source,
        weights=Digest.parse(weights) if weights else None,
        samples=tuple(image.manifest.annotations.get(SAMPLES, "").split()),
    )


def _image(repository: Repository, digest: Digest) -> Image | None:
    """The image *digest*; of an index, its first one: all platforms have the same checkpoint."""
    found = repository.manifest(digest)
    if isinstance(found, Index):
        found = repository.manifest(found.images[0].digest) if found.images else None
    if not isinstance(found, Manifest):
        return None
    try:
        return Image.of(found, repository.blob(found.config))
    except IntegrityError:
        return None  # an artifact of another kind


def _layers_of(image: Image) -> tuple[Layer, ...]:
    """The checkpoint's among its layers: those with that role, or all where it is a checkpoint image."""
    if CHECKPOINT_KEY not in image.config.labels:
        return ()
    roles = [layer.descriptor.annotations.get(ROLE) for layer in image.layers]
    return tuple(
        layer.bare for layer, role in zip(image.layers, roles, strict=True) if role == "checkpoint" or not any(roles)
    )


def _same_place(path: str, layers: Sequence[Layer], ownership: Ownership) -> None:
    wanted = ownership.plain
    for layer in layers:
        said = Ownership.parse(layer.created_by)
        if said is None:
            raise CheckpointError(
                f"checkpoint: {printable(path)}: layer {layer.descriptor.digest.short} does not say where it goes",
                hint="build that image again with layerkit",
            )
        found = said[0].plain
        if found != wanted:
            raise CheckpointError(
                f"checkpoint: {printable(path)}: its files are in {found.target} as {_owned(found)}, and the project"
                f" wants them in {wanted.target} as {_owned(wanted)}",
                hint=f"a layer cannot be moved: set checkpoint.target = {found.target!r}, chown ="
                f" '{found.uid}:{found.gid}', chmod = '{found.mode:04o}', or build from the files",
            )


def _owned(ownership: Ownership) -> str:
    return f"{ownership.uid}:{ownership.gid} {ownership.mode:04o}"


def locate(inputs: Inputs, present: Present, to: Connections, count: Count, listener: Listener) -> Inputs:
    """*inputs* with the layers of weights that are not here, where the destination does not have them.

    Raises:
        CheckpointError: no registry has them, or it is the files that are needed.
    """
    checkpoint, wanted = inputs.checkpoint, inputs.project.checkpoint
    if checkpoint is None or checkpoint.elsewhere is None or wanted is None or wanted.placement == "volume":
        return inputs
    elsewhere = checkpoint.elsewhere
    if to.request.way == "buildkit" and wanted.placement == "layer":
        raise elsewhere.needs_files("--way buildkit gives BuildKit the files")
    if checkpoint.touched and wanted.placement == "layer":
        raise elsewhere.needs_files(f"{checkpoint.touched}, so that BuildKit is given the files")
    if present.checkpoint is None:
        also = (to.project.cache.repository, to.project.image.name)
        layers = find_layers(to.client, elsewhere, also, to.where, count)
        if to.destination.kind == "docker" and any(b.stored and b.known != b.stored.diff_id for b in layers):
            raise elsewhere.needs_files("the registry has its layers compressed, and docker load takes them plain")
        checkpoint = replace(checkpoint, remote=layers)
    origin = checkpoint.remote[0] if checkpoint.remote else None
    place = f"{origin.host}/{origin.repository}" if origin else to.where
    by = f", {elsewhere.by}" if elsewhere.by else ""
    listener(Note(f"checkpoint  {elsewhere.said}; taken from {place}{by}: {elsewhere.digest}"))
    return replace(inputs, checkpoint=checkpoint)


def find_layers(
    client: Client, elsewhere: Elsewhere, also: Sequence[str], destination: str, count: Count
) -> tuple[RemoteBlueprint, ...]:
    """The layers of *elsewhere* where a registry has them, ready to be mounted or read.

    Args:
        also: repositories that may have them too, as ``checkpoint-<key>``.
        destination: for people; it was asked already.
        count: called with the number of bytes whenever some were read from the registry.

    Raises:
        CheckpointError: none has them.
        IntegrityError: one has others under their key.
        LayerkitError: the registry that had them when they were locked cannot be asked.
    """
    asked = []
    for name in dict.fromkeys([elsewhere.repository, *also]):
        if not name:
            continue
        asked.append(name)
        with contextlib.ExitStack() as trying:
            if name != elsewhere.repository:
                trying.enter_context(contextlib.suppress(LayerkitError))
            repository = client.repository(Reference.parse(name))
            layers = _kept(repository, elsewhere)
            if layers is not None:
                return tuple(
                    remote(layer, repository.host, repository.repository, _reader(repository, count))
                    for layer in layers
                )
    places = " nor ".join([destination, *(name for name in asked if not destination.endswith(name))])
    raise CheckpointError(
        f"checkpoint: {elsewhere.complaint}; neither {places} has its layers"
        if " nor " in places
        else f"checkpoint: {elsewhere.complaint}; {places} does not have its layers",
        hint=elsewhere.hint,
    )


def _kept(repository: Repository, elsewhere: Elsewhere) -> tuple[Layer, ...] | None:
    """What *repository* has of them; None where that is not all."""
    assert elsewhere.key is not None
    layers = elsewhere.layers
    if not elsewhere.source:
        image = _tagged(repository, checkpoint_tag(elsewhere.key))
        found = _layers_of(image) if image is not None else ()
        if found and layers and [layer.diff_id for layer in found] != [layer.diff_id for layer in layers]:
            raise IntegrityError(
                f"registry {repository.name}: checkpoint-{elsewhere.key} has other layers than the lock says"
                f" ({found[0].diff_id} and {layers[0].diff_id})",
                hint="one of the two was changed by hand: build from the files",
            )
        layers = found or layers
    there = layers and all(repository.present(layer.descriptor) for layer in layers)
    return layers if there else None


def _tagged(repository: Repository, tag: str) -> Image | None:
    found = repository.manifest(tag)
    return _image(repository, found.digest) if found is not None else None


def _reader(repository: Repository, count: Count) -> Callable[[Descriptor, int], Iterator[bytes]]:
    def read(descriptor: Descriptor, offset: int) -> Iterator[bytes]:
        skip = offset
        with repository.open_blob(descriptor) as chunks:
            for chunk in chunks:
                count(len(chunk))
                if skip < len(chunk):
                    yield chunk[skip:]
                skip = max(skip - len(chunk), 0)

    return read
