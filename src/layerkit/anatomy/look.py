"""Finds an image wherever it is, and takes it apart."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError, LayerkitError
from ..events import Listener, silent
from ..oci import Descriptor, Image
from ..settings import Settings
from .difference import Difference, compare
from .dissect import dissect
from .found import Found, LocalImage
from .inspection import Inspection
from .peek import Peek, Read, gzip_size, peek
from .surroundings import Surroundings

__all__ = ["diff", "inspect", "read_timeline", "taken_apart"]

_MOST_PEEKED = 16  # layers that are looked into
_LARGE = 8 * 1024 * 1024  # bytes from which a layer of no known role is looked into
_JOBS = 6
_TIMELINE = 16 * 1024 * 1024  # bytes of a timeline's file


def inspect(
    reference: str,
    *,
    platform: str = "",
    base: str = "",
    timeline: Path | str | None = None,
    settings: Settings | None = None,
    listener: Listener = silent,
) -> Inspection:
    """Take an image apart: its layers by role, its checkpoint, what a change of each role costs a node.

    Nothing is downloaded but manifests, configurations and a few ranges of layers.

    Args:
        reference: ``docker:REF`` in the local Docker, ``registry:REF`` in its registry, ``oci:DIR[:TAG]`` in an OCI
            layout; without a prefix, in the local Docker if it is there, else in its registry, as ``docker run`` does.
        platform: as in linux/amd64; by default this machine's, or the only one.
        base: the image that it was built FROM: whose layers are known to be the base's then.
        timeline: file that ``build --metadata-file`` wrote; by default what this machine remembers of its build.
        settings: surroundings; the process's environment by default.
        listener: hears why a registry is asked again.

    Raises:
        ConfigurationError: there is no such image, or not for *platform*.
        LayerkitError: of the kind that fits, as ``errors`` draws them.
    """
    with Surroundings.of(settings, listener) as around:
        return _inspect(around, reference, platform, base, timeline)


def diff(
    before: str,
    after: str,
    *,
    platform: str = "",
    base: str = "",
    settings: Settings | None = None,
    listener: Listener = silent,
) -> Difference:
    """How the image *after* differs from *before*, and what a node that has *before* moves for it.

    Args, Raises: as ``inspect``, for both.
    """
    with Surroundings.of(settings, listener) as around:
        return compare(*(_inspect(around, reference, platform, base, None) for reference in (before, after)))


def _inspect(around: Surroundings, reference: str, platform: str, base: str, timeline: Path | str | None) -> Inspection:
    found = around.find(reference, platform)
    below = _base_layers(around, found, base, platform) if base else None
    record = read_timeline(Path(timeline)) if timeline is not None else None
    for digest in found.digests:
        record = record or around.state.get("build-timeline", digest, dict)
    return taken_apart(found, base=below, timeline=record)


def taken_apart(found: Found, *, base: int | None = None, timeline: Mapping[str, Any] | None = None) -> Inspection:
    """The image *found*, with a look into the layers that may hold weights.

    Args:
        base: layers of its base image, where that is known.
        timeline: the record of its build.
    """
    sizes: dict[int, int] = {}
    peeks: dict[int, Peek] = {}
    if isinstance(found.image, Image) and found.read is not None:
        sizes = _gzip_sizes(found.image.manifest.layers, found.read)
        first = dissect(found, sizes, {}, base=base)
        wanted = [layer for layer in first.layers if layer.role == "checkpoint"]
        # Weights may hide in a COPY . .: what is large, and neither base nor run, is looked into.
        wanted += [x for x in first.layers if x.role in ("code", "unknown") and x.weight >= _LARGE]
        for layer in wanted[:_MOST_PEEKED]:
            peeks[layer.index] = _look_into(found.image.manifest.layers[layer.index], found)
    return dissect(found, sizes, peeks, base=base, timeline=timeline)


def _gzip_sizes(layers: Sequence[Descriptor], read: Read) -> dict[int, int]:
    """layer -> bytes of its tar. A round trip each, so they go side by side."""
    zipped = [index for index, layer in enumerate(layers) if layer.media_type.endswith("gzip")]
    with ThreadPoolExecutor(_JOBS) as pool:
        found = pool.map(lambda index: gzip_size(layers[index], read), zipped)
        return {index: size for index, size in zip(zipped, found, strict=True) if size is not None}


def _look_into(descriptor: Descriptor, found: Found) -> Peek:
    assert found.read is not None
    try:
        return peek(descriptor, found.read)
    except LayerkitError as error:  # the rest of the image is worth showing
        return Peek(why=error.message)


def _base_layers(around: Surroundings, found: Found, base: str, platform: str) -> int:
    """How many of the image's lowest layers are those of the image *base*."""
    other = around.find(base, platform or str(found.image.platform))
    mine, theirs = (
        side.image.diff_ids if isinstance(side.image, LocalImage) else side.image.config.diff_ids
        for side in (found, other)
    )
    if mine[: len(theirs)] != theirs:
        raise ConfigurationError(
            f"--base {base}: {found.name} does not stand on its {len(theirs)} layers",
            hint="name the base by the digest that it was built from",
        )
    return len(theirs)


def read_timeline(path: Path) -> Mapping[str, Any]:
    """The object that ``build --json`` printed, from a file.

    Raises:
        ConfigurationError: it cannot be read, or is something else.
    """
    try:
        with path.open("rb") as stream:
            document = json.loads(stream.read(_TIMELINE))
    except OSError as error:
        raise ConfigurationError(f"--timeline: {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("seconds"), dict):
        raise ConfigurationError(
            f"--timeline: {path} is no object of a build", hint="layerkit build --metadata-file FILE writes one"
        )
    return document
