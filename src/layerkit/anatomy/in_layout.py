"""An image of an OCI layout, found to be looked at (image-spec, ``image-layout.md``)."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigurationError, IntegrityError
from ..names import is_own_tag
from ..oci import Descriptor, Digest, Index, Manifest, parse_manifest
from .choosing import choose, image_of, spelled, verified
from .found import Found

__all__ = ["from_layout"]

_REF_NAME = "org.opencontainers.image.ref.name"
_MOST = 8 * 1024 * 1024  # bytes of a manifest or a configuration


def from_layout(folder: Path, tag: str, *, platform: str, default: str) -> Found:
    """The image *tag* of the OCI layout in *folder*; without a tag, the only one that is there.

    Raises:
        ConfigurationError: *folder* is no layout, or has no such image.
        IntegrityError: a blob is missing or is not what its name says.
    """
    name = f"oci:{folder}" + (f":{tag}" if tag else "")
    layout = _Layout(name, folder)
    top = layout.manifest(_entry(name, layout.index, tag))
    manifest, index, platforms = choose(name, top, layout.manifest, platform, default)
    image = image_of(name, manifest, layout.blob, platform)
    return Found(
        name, "oci", image, layout.read, index, platforms, digests=spelled(manifest.digest, index),
        stream=layout.stream, manifest=layout.named,
    )  # fmt: skip


class _Layout:
    """The folder, and what is read of it. *name* is what messages call it."""

    def __init__(self, name: str, folder: Path) -> None:
        self._name, self._folder = name, folder
        try:
            raw = _small(folder / "index.json")
        except OSError as error:
            raise ConfigurationError(
                f"{name}: no OCI layout: index.json: {error.strerror}",
                hint="oci:DIR[:TAG] names a folder with index.json",
            ) from None
        try:
            self.index = Index.parse(raw)
        except IntegrityError as error:
            raise IntegrityError(f"{name}: index.json: {error.message}") from None

    def _path(self, digest: Digest) -> Path:
        return self._folder / "blobs" / digest.algorithm / digest.hex

    def blob(self, descriptor: Descriptor) -> bytes:
        """A small one, whole."""
        try:
            found = _small(self._path(descriptor.digest))
        except OSError as error:
            raise self._missing(descriptor, error) from None
        if Digest.of(found) != descriptor.digest:
            raise IntegrityError(f"{self._name}: blob {descriptor.digest} is not what its name says")
        return found

    def _missing(self, descriptor: Descriptor, error: OSError) -> IntegrityError:
        return IntegrityError(f"{self._name}: blob {descriptor.digest}: {error.strerror}")

    def read(self, descriptor: Descriptor, start: int, end: int) -> bytes | None:
        """A range of one."""
        try:
            with self._path(descriptor.digest).open("rb") as stream:
                stream.seek(start)
                return stream.read(end - start)
        except OSError:
            return None

    @contextlib.contextmanager
    def stream(self, descriptor: Descriptor) -> Iterator[Iterator[bytes]]:
        """One as a whole, verified while it is read."""
        try:
            opened = self._path(descriptor.digest).open("rb")
        except OSError as error:
            raise self._missing(descriptor, error) from None
        with opened:
            what = f"{self._name}: blob {descriptor.digest}"
            yield verified(what, descriptor, opened, "the layout is damaged: copy it again")

    def named(self, which: str | Digest) -> Manifest | Index | None:
        """The manifest of a tag or digest; None where it is not there."""
        tagged = (entry.digest for entry in self.index.manifests if entry.annotations.get(_REF_NAME) == which)
        digest = which if isinstance(which, Digest) else next(tagged, None)
        try:
            raw = _small(self._path(digest)) if digest is not None else b""
        except OSError:
            return None
        return parse_manifest(raw) if raw and Digest.of(raw) == digest else None

    def manifest(self, descriptor: Descriptor) -> Manifest | Index:
        """The manifest or index that *descriptor* names, which must be there."""
        try:
            return parse_manifest(self.blob(descriptor), descriptor.media_type)
        except IntegrityError as error:
            where = "" if error.message.startswith(self._name) else f"{self._name}: {descriptor.digest}: "
            raise IntegrityError(where + error.message) from None


def _entry(name: str, index: Index, tag: str) -> Descriptor:
    tags = {entry.annotations.get(_REF_NAME, ""): entry for entry in index.manifests}
    listed = ", ".join(sorted(t for t in tags if t and not is_own_tag(t))) or "no tags"
    if tag:
        if tag not in tags:
            raise ConfigurationError(f"{name}: not in the layout, which has {listed[:500]}")
        return tags[tag]
    images = [entry for entry in index.manifests if not is_own_tag(entry.annotations.get(_REF_NAME, ""))]
    different = {entry.digest: entry for entry in images}
    if len(different) != 1:
        raise ConfigurationError(f"{name}: the layout has {listed[:500]}", hint="choose one: oci:DIR:TAG")
    return next(iter(different.values()))


def _small(path: Path) -> bytes:
    with path.open("rb") as stream:
        raw = stream.read(_MOST + 1)
    if len(raw) > _MOST:
        raise OSError(errno.EFBIG, f"over {_MOST} bytes")
    return raw
