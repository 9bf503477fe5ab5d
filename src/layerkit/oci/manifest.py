"""Manifests and indexes: the raw bytes beside what they say, digests always of the raw bytes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import IntegrityError, RefusedError
from .descriptor import MEDIA, Descriptor, Platform
from .digest import Digest

__all__ = ["MAX_LAYERS", "MAX_MANIFEST_SIZE", "Index", "Manifest", "dump", "parse_manifest"]

# distribution-spec, "Pushing Manifests": registries should accept at least 4 MiB, and most accept no more.
MAX_MANIFEST_SIZE = 4 * 1024 * 1024
# overlayfs takes 128 lower directories less one; Docker refuses more layers (moby, layer.maxLayerDepth).
MAX_LAYERS = 127


def dump(document: Mapping[str, Any]) -> bytes:
    """*document* as the JSON that we write: deterministic, compact, UTF-8."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def _load(raw: bytes) -> dict[str, Any]:
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"not a manifest: {error}") from None
    if not isinstance(document, dict):
        raise IntegrityError("not a manifest: no JSON object")
    return document


def _descriptors(document: Mapping[str, Any], key: str) -> tuple[Descriptor, ...]:
    items = document.get(key)
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise IntegrityError(f"not a manifest: {key!r} is missing or no list of descriptors")
    return tuple(Descriptor.from_json(item) for item in items)


def _annotations(document: Mapping[str, Any]) -> dict[str, str]:
    found = document.get("annotations") or {}
    if not isinstance(found, dict):
        raise IntegrityError("not a manifest: annotations are no object")
    return {str(k): str(v) for k, v in found.items()}


def _checked_size(raw: bytes) -> bytes:
    if len(raw) > MAX_MANIFEST_SIZE:
        raise RefusedError(
            f"the manifest would be {len(raw)} bytes; registries take {MAX_MANIFEST_SIZE}",
            hint="use fewer layers or annotations",
        )
    return raw


@dataclass(frozen=True, slots=True)
class Manifest:
    """An image manifest (image-spec, ``manifest.md``)."""

    raw: bytes = field(repr=False)
    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    artifact_type: str = ""

    @classmethod
    def parse(cls, raw: bytes, media_type: str = "") -> Manifest:
        """Raises IntegrityError where *raw* is no image manifest."""
        document = _load(raw)
        config = document.get("config")
        if not isinstance(config, dict):
            raise IntegrityError("not an image manifest: no config descriptor")
        return cls(
            raw,
            str(document.get("mediaType") or media_type or MEDIA.MANIFEST),
            Descriptor.from_json(config),
            _descriptors(document, "layers"),
            _annotations(document),
            str(document.get("artifactType", "")),
        )

    @classmethod
    def create(
        cls,
        config: Descriptor,
        layers: Iterable[Descriptor],
        annotations: Mapping[str, str] | None = None,
        artifact_type: str = "",
    ) -> Manifest:
        """A new OCI manifest. Raises RefusedError over 127 layers or 4 MiB."""
        layers = tuple(layers)
        if len(layers) > MAX_LAYERS:
            raise RefusedError(
                f"the image would have {len(layers)} layers; {MAX_LAYERS} is the most that can be run",
                hint="put the checkpoint into fewer layers",
            )
        document: dict[str, Any] = {"schemaVersion": 2, "mediaType": MEDIA.MANIFEST}
        if artifact_type:
            document["artifactType"] = artifact_type
        document["config"] = config.to_json()
        document["layers"] = [layer.to_json() for layer in layers]
        if annotations:
            document["annotations"] = dict(sorted(annotations.items()))
        raw = _checked_size(dump(document))
        return cls(raw, MEDIA.MANIFEST, config, layers, dict(annotations or {}), artifact_type)

    @property
    def digest(self) -> Digest:
        return Digest.of(self.raw)

    def descriptor(self, platform: Platform | None = None, annotations: Mapping[str, str] | None = None) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.raw), dict(annotations or {}), platform)


@dataclass(frozen=True, slots=True)
class Index:
    """An image index (image-spec, ``image-index.md``): one descriptor a platform, and their attestations."""

    raw: bytes = field(repr=False)
    media_type: str
    manifests: tuple[Descriptor, ...]
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    @classmethod
    def parse(cls, raw: bytes, media_type: str = "") -> Index:
        document = _load(raw)
        return cls(
            raw,
            str(document.get("mediaType") or media_type or MEDIA.INDEX),
            _descriptors(document, "manifests"),
            _annotations(document),
        )

    @classmethod
    def create(cls, manifests: Iterable[Descriptor], annotations: Mapping[str, str] | None = None) -> Index:
        manifests = tuple(manifests)
        document: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": MEDIA.INDEX,
            "manifests": [manifest.to_json() for manifest in manifests],
        }
        if annotations:
            document["annotations"] = dict(sorted(annotations.items()))
        return cls(_checked_size(dump(document)), MEDIA.INDEX, manifests, dict(annotations or {}))

    @property
    def digest(self) -> Digest:
        return Digest.of(self.raw)

    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.raw))

    @property
    def images(self) -> tuple[Descriptor, ...]:
        """Those for a platform. Attestations are of ``unknown/unknown`` (moby/buildkit, attestation-storage.md)."""
        return tuple(m for m in self.manifests if m.platform and m.platform.os != "unknown")

    def find(self, platform: Platform) -> Descriptor | None:
        """The image manifest for *platform*; attestations have platform ``unknown/unknown`` and never match."""
        exact = [m for m in self.manifests if m.platform == platform]
        if exact or platform.variant:
            return exact[0] if exact else None
        loose = (m for m in self.manifests if m.platform and m.platform.os == platform.os
                 and m.platform.architecture == platform.architecture)  # fmt: skip
        return next(loose, None)


def parse_manifest(raw: bytes, media_type: str = "") -> Manifest | Index:
    """A manifest or an index, whichever *raw* is.

    The content decides, not only the type that was claimed for it: a document read as something
    else than what it was signed as is CVE-2021-41190.

    Raises:
        IntegrityError: neither, or both at once.
    """
    document = _load(raw)
    claimed = str(document.get("mediaType") or media_type)
    has_manifests, has_layers = "manifests" in document, "layers" in document
    if has_manifests and has_layers:
        raise IntegrityError("a manifest has both 'manifests' and 'layers'")
    if has_manifests and claimed not in MEDIA.MANIFESTS:
        return Index.parse(raw, media_type)
    if has_layers and claimed not in MEDIA.INDEXES:
        return Manifest.parse(raw, media_type)
    raise IntegrityError(f"neither an image manifest nor an index (media type {claimed[:100]!a})")
