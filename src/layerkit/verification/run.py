"""Says whether an image's weights are the approved ones, for each of its platforms."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ..anatomy.found import Found
from ..anatomy.surroundings import Surroundings
from ..errors import ConfigurationError, IntegrityError
from ..events import Listener, silent
from ..oci import Digest, Reference
from ..settings import Settings
from .job import Job
from .local import Approved
from .reading import Layers, Progress, Scans
from .result import Verification
from .subject import Subject

__all__ = ["verify"]


def verify(
    reference: str,
    *,
    checkpoint: Path | str | None = None,
    weights: str = "",
    digest: str = "",
    platform: str = "",
    above: bool = True,
    settings: Settings | None = None,
    listener: Listener = silent,
) -> Verification:
    """Say whether an image's weights are the approved ones: those of *checkpoint*, *weights* or *digest*.

    With none of them, whether the image is what it says of itself: its layers' bytes give their digests and diff_ids,
    and what is in them the digests that its labels name.

    Args:
        reference: as ``inspect`` takes it: ``docker:REF``, ``registry:REF``, ``oci:DIR[:TAG]``, or without prefix.
        checkpoint: the approved file or folder. Its layers are computed as the image's own were made; where they are
            the same, nothing of the image's is read. Else its files or tensors are compared with those in the image.
        weights: the approved weights hash (``layerkit checkpoint digest``).
        digest: of the image, of its one checkpoint layer, of a ``checkpoint-<key>`` image, or of the checkpoint as
            ``LAYERKIT_CHECKPOINT_DIGEST`` is: a file's sha256, the digest of several, or a weights hash.
        platform: only this one of an index; by default all.
        above: look into the layers over the checkpoint's too, for files that hide the checkpoint's.
        settings: surroundings; the process's environment by default.

    Raises:
        ConfigurationError: no such image, no weights in it, or no such digest.
        CheckpointError: *checkpoint* is missing or damaged.
        LayerkitError: of the kind that fits, as ``errors`` draws them. What is not as approved is no error.
    """
    approved = _approved(checkpoint, weights, digest)
    wanted = {name: _digest(name, text) for name, text in (("weights", weights), ("digest", digest)) if text}
    settings = settings or Settings.from_environment()
    progress = Progress(listener)
    local = Approved(Path(checkpoint), progress.of_files) if checkpoint is not None else None
    if local is not None:
        _ = local.files  # a typing error is to be told before anything is read
    cache: Scans = {}
    images = []
    with Surroundings.of(replace(settings, platform=""), listener) as around:
        founds = _platforms(around, reference, platform)
        for found in founds:
            subject = Subject.of(found)
            recipe = subject.recipe
            key = recipe.options.key if recipe is not None and recipe.format == "keep" else ""
            with Layers(subject, cache, progress, key) as layers:
                images.append(Job(subject, layers, above, key).run(local, wanted))
    first = founds[0]
    return Verification(first.name, first.source, first.index, approved[0], approved[1], tuple(images), progress.local)


def _approved(checkpoint: Path | str | None, weights: str, digest: str) -> tuple[str, str]:
    given = [("checkpoint", str(checkpoint or "")), ("weights", weights), ("digest", digest)]
    given = [(name, text) for name, text in given if text]
    if len(given) > 1:
        raise ConfigurationError(f"--{given[0][0]} and --{given[1][0]} exclude each other")
    return given[0] if given else ("labels", "")


def _digest(name: str, text: str) -> Digest:
    try:
        return Digest.parse(text if ":" in text else f"sha256:{text}")
    except IntegrityError:
        raise ConfigurationError(
            f"--{name}: {text[:200]!r} is no digest", hint="sha256: and 64 hex digits, as layerkit checkpoint digest"
        ) from None


def _platforms(around: Surroundings, reference: str, platform: str) -> list[Found]:
    """The images that *reference* names: of all platforms, or of *platform*."""
    first = around.find(reference, platform)
    if platform or first.index is None:
        return [first]
    pinned = reference
    if first.source == "registry":  # a tag may move meanwhile
        pinned = f"registry:{Reference.parse(first.name).with_digest(first.index)}"
    others = [around.find(pinned, name) for name in dict.fromkeys(first.platforms) if name != str(first.image.platform)]
    return [first, *others]
