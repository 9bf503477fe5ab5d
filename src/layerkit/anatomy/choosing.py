"""Which image of an index is meant, held to be what was asked for; and blobs held to their digests as they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import IO

from ..errors import ConfigurationError, IntegrityError, LocalResourceError
from ..oci import MEDIA, Descriptor, Digest, Image, Index, Manifest, Platform

__all__ = ["choose", "image_of", "platform_of", "spelled", "verified"]

_CHUNK = 1024 * 1024  # bytes read at a time
_DEPTH = 3  # indexes in indexes that are followed


def choose(
    name: str,
    top: Manifest | Index,
    manifest: Callable[[Descriptor], Manifest | Index | None],
    wanted: str,
    default: str,
    depth: int = 0,
) -> tuple[Manifest, Digest | None, tuple[str, ...]]:
    """The manifest that is meant by *top*; the index that it was chosen from, or None; all platforms of that.

    Args:
        name: what messages call the image.
        manifest: reads another one; None where it is not there.
        wanted: the platform, or "": then *default*'s, the first where that is "" too, and in any case the only one.

    Raises:
        ConfigurationError: there is none for the platform.
        IntegrityError: it is named and not there, or indexes are in indexes.
    """
    if isinstance(top, Manifest):
        return top, None, ()
    images = top.images or tuple(
        m for m in top.manifests if m.platform is None and m.media_type in (*MEDIA.MANIFESTS, *MEDIA.INDEXES)
    )
    platforms = tuple(str(m.platform) for m in images if m.platform)
    offered = f"it has {', '.join(platforms) or 'no images'}"
    descriptor = None
    if wanted or (platforms and default):
        descriptor = top.find(platform_of(wanted or default))
    if wanted and descriptor is None and platforms:
        raise ConfigurationError(f"{name}: no image for {wanted}: {offered}", hint="choose one with --platform")
    if descriptor is None and (len(images) == 1 or (images and not default and not wanted)):
        descriptor = images[0]
    if descriptor is None:
        raise ConfigurationError(f"{name}: no image for {default}: {offered}", hint="choose one with --platform")
    found = manifest(descriptor)
    if found is None:
        raise IntegrityError(f"{name}: the index names {descriptor.digest}, and it is not there")
    if isinstance(found, Index):
        if depth == _DEPTH:
            raise IntegrityError(f"{name}: an index in an index, {_DEPTH} times over")
        inner, _, more = choose(name, found, manifest, wanted, default, depth + 1)
        return inner, top.digest, more or platforms
    return found, top.digest, platforms


def spelled(*digests: Digest | None) -> tuple[str, ...]:
    """Those that there are, as text."""
    return tuple(str(digest) for digest in digests if digest is not None)


def platform_of(text: str) -> Platform:
    """What ``--platform`` names; raises ConfigurationError where that is none."""
    try:
        return Platform.parse(text)
    except ValueError as error:
        raise ConfigurationError(f"--platform: {error}") from None


def image_of(name: str, manifest: Manifest, blob: Callable[[Descriptor], bytes], wanted: str) -> Image:
    """The image of *manifest*, its configuration read by *blob*.

    Raises:
        ConfigurationError: it is an artifact of another kind, or not for the platform *wanted*.
        IntegrityError: its configuration is missing or does not fit.
    """
    kind = manifest.artifact_type or manifest.config.media_type
    if manifest.config.media_type not in (MEDIA.CONFIG, MEDIA.DOCKER_CONFIG):
        raise ConfigurationError(
            f"{name}: is no image but an artifact of type {kind[:200]}", hint="name an image that can be run"
        )
    try:
        image = Image.of(manifest, blob(manifest.config))
    except IntegrityError as error:
        raise IntegrityError(f"{name}: {error.message}", hint="the image was not pushed whole, or is damaged") from None
    if wanted and (asked := platform_of(wanted)) != image.platform:
        same = (asked.os, asked.architecture) == (image.platform.os, image.platform.architecture)
        if not same or asked.variant:
            raise ConfigurationError(f"{name}: is for {image.platform}, not for {asked}")
    return image


def verified(what: str, descriptor: Descriptor, stream: IO[bytes], hint: str) -> Iterator[bytes]:
    """*stream* as ``Repository.open_blob`` gives a blob: the last chunk comes after the digest was compared.

    Args:
        hint: the next step where it holds other bytes.

    Raises:
        IntegrityError: *stream* holds other bytes.
        LocalResourceError: it cannot be read.
    """
    state, size, last = hashlib.new(descriptor.digest.algorithm), 0, b""
    try:
        while chunk := stream.read(_CHUNK):
            state.update(chunk)
            size += len(chunk)
            if last:
                yield last
            last = chunk
    except OSError as error:
        raise LocalResourceError(f"{what}: cannot be read: {error.strerror}") from None
    if size != descriptor.size or state.hexdigest() != descriptor.digest.hex:
        raise IntegrityError(f"{what} is not what its name says", hint=hint)
    if last:
        yield last
