"""Descriptors, and the media types they speak of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import IntegrityError
from .digest import Digest

__all__ = ["MEDIA", "Descriptor", "Platform", "as_oci"]


class MEDIA:
    """Media types: image-spec ``media-types.md``, and Docker's "Image Manifest V 2, Schema 2"."""

    INDEX = "application/vnd.oci.image.index.v1+json"
    MANIFEST = "application/vnd.oci.image.manifest.v1+json"
    CONFIG = "application/vnd.oci.image.config.v1+json"
    LAYER = "application/vnd.oci.image.layer.v1.tar"
    LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
    LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
    EMPTY = "application/vnd.oci.empty.v1+json"
    IN_TOTO = "application/vnd.in-toto+json"
    DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
    DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
    DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
    DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
    DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
    DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"

    INDEXES = (INDEX, DOCKER_INDEX)
    MANIFESTS = (MANIFEST, DOCKER_MANIFEST)


_OCI_FOR_DOCKER = {
    MEDIA.DOCKER_INDEX: MEDIA.INDEX,
    MEDIA.DOCKER_MANIFEST: MEDIA.MANIFEST,
    MEDIA.DOCKER_CONFIG: MEDIA.CONFIG,
    MEDIA.DOCKER_LAYER: MEDIA.LAYER,
    MEDIA.DOCKER_LAYER_GZIP: MEDIA.LAYER_GZIP,
    MEDIA.DOCKER_LAYER_ZSTD: MEDIA.LAYER_ZSTD,
}


def as_oci(media_type: str) -> str:
    """The OCI name of a Docker media type; any other is itself.

    The bytes behind both names are the same (image-spec, ``media-types.md``, "Compatibility Matrix"),
    and a manifest must not mix the two families.
    """
    return _OCI_FOR_DOCKER.get(media_type, media_type)


@dataclass(frozen=True, order=True, slots=True)
class Platform:
    """``os/architecture[/variant]``, as ``docker buildx build --platform`` spells it."""

    os: str
    architecture: str
    variant: str = ""

    @classmethod
    def parse(cls, text: str) -> Platform:
        """The platform that *text* names. Raises ValueError where it has fewer than 2 or more than 3 parts."""
        parts = text.split("/")
        if not 2 <= len(parts) <= 3 or not all(parts):
            raise ValueError(f"not a platform: {text!r} (expected os/architecture, as in linux/amd64)")
        # containerd's platforms.Normalize: other names of the two, and arm64's only variant v8 is left out.
        parts = [part.lower() for part in parts]
        parts[1] = {"x86_64": "amd64", "x86-64": "amd64", "aarch64": "arm64"}.get(parts[1], parts[1])
        if parts[1:] == ["arm64", "v8"]:
            parts.pop()
        return cls(*parts)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Platform:
        """A platform out of a descriptor's or an image configuration's fields."""
        variant = str(document.get("variant", ""))
        architecture = str(document.get("architecture", "unknown"))
        if architecture == "arm64" and variant == "v8":
            variant = ""
        return cls(str(document.get("os", "unknown")), architecture, variant)

    def to_json(self) -> dict[str, str]:
        document = {"architecture": self.architecture, "os": self.os}
        return document | ({"variant": self.variant} if self.variant else {})

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True, slots=True)
class Descriptor:
    """What names a blob: media type, digest, size in bytes (image-spec, ``descriptor.md``)."""

    media_type: str
    digest: Digest
    size: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    platform: Platform | None = None
    artifact_type: str = ""

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Descriptor:
        """Raises IntegrityError where a required field is missing or of another type."""
        try:
            media_type, digest, size = document["mediaType"], document["digest"], document["size"]
            annotations = document.get("annotations") or {}
            if not isinstance(media_type, str) or not isinstance(digest, str) or not isinstance(annotations, dict):
                raise TypeError("mediaType, digest or annotations")
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                raise TypeError("size")
            platform = document.get("platform")
            return cls(
                media_type,
                Digest.parse(digest),
                size,
                {str(k): str(v) for k, v in annotations.items()},
                Platform.from_json(platform) if isinstance(platform, dict) else None,
                str(document.get("artifactType", "")),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise IntegrityError(f"not a descriptor: field {error} is missing or wrong") from None

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "mediaType": self.media_type,
            "digest": str(self.digest),
            "size": self.size,
        }
        if self.platform is not None:
            document["platform"] = self.platform.to_json()
        if self.annotations:
            document["annotations"] = dict(sorted(self.annotations.items()))
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        return document
