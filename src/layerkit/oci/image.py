"""An image as an immutable value: its manifest, and its configuration."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import IntegrityError
from .descriptor import MEDIA, Descriptor, Platform
from .digest import Digest
from .manifest import Manifest

__all__ = ["Config", "Image", "Layer"]


@dataclass(frozen=True, slots=True)
class Config:
    """An image configuration (image-spec, ``config.md``), its raw bytes beside it."""

    raw: bytes = field(repr=False)
    document: Mapping[str, Any] = field(repr=False, hash=False, compare=False)
    media_type: str = MEDIA.CONFIG

    @classmethod
    def parse(cls, raw: bytes, media_type: str = MEDIA.CONFIG) -> Config:
        """Raises IntegrityError where *raw* is no image configuration."""
        try:
            document = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise IntegrityError(f"not an image configuration: {error}") from None
        if not isinstance(document, dict) or not isinstance(document.get("rootfs"), dict):
            raise IntegrityError("not an image configuration: no rootfs")
        settings, history = document.get("config") or {}, document.get("history") or []
        if not isinstance(history, list) or not all(isinstance(item, dict) for item in history):
            raise IntegrityError("not an image configuration: history is no list of objects")
        if not isinstance(settings, dict) or not isinstance(settings.get("Labels") or {}, dict):
            raise IntegrityError("not an image configuration: config or its Labels are no object")
        variables = settings.get("Env") or []
        if not isinstance(variables, list) or not all(isinstance(item, str) for item in variables):
            raise IntegrityError("not an image configuration: Env is no list of strings")
        config = cls(raw, document, media_type)
        _ = config.diff_ids
        return config

    @property
    def digest(self) -> Digest:
        return Digest.of(self.raw)

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(self.media_type, self.digest, len(self.raw))

    @property
    def diff_ids(self) -> tuple[Digest, ...]:
        found = self.document["rootfs"].get("diff_ids") or []
        if not isinstance(found, list):
            raise IntegrityError("not an image configuration: diff_ids is no list")
        return tuple(Digest.parse(str(item)) for item in found)

    @property
    def history(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(self.document.get("history") or ())

    @property
    def user(self) -> str:
        """Who runs the image: a name or uid, with or without group; "" for root."""
        found = self.settings.get("User")
        return found if isinstance(found, str) else ""

    @property
    def platform(self) -> Platform:
        return Platform.from_json(self.document)

    @property
    def settings(self) -> Mapping[str, Any]:
        """The execution parameters: Env, Cmd, Labels, …"""
        return self.document.get("config") or {}

    @property
    def labels(self) -> Mapping[str, str]:
        return self.settings.get("Labels") or {}

    @property
    def environment(self) -> Mapping[str, str]:
        return dict(item.partition("=")[::2] for item in self.settings.get("Env") or ())


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that stands ready: the blob's descriptor, the digest of its uncompressed tar, and how it was made."""

    descriptor: Descriptor
    diff_id: Digest
    created_by: str = ""

    @property
    def bare(self) -> Layer:
        """The same without what an image says of it: annotations, and its role among them."""
        stored = self.descriptor
        return Layer(Descriptor(stored.media_type, stored.digest, stored.size), self.diff_id, self.created_by)


@dataclass(frozen=True, slots=True)
class Image:
    """A manifest and the configuration that it names, consistent with each other.

    Raises:
        IntegrityError: the configuration is not the one that the manifest names, or layers, diff_ids
            and non-empty history entries differ in number (registries accept such images, nodes fail on them).
    """

    manifest: Manifest
    config: Config

    @classmethod
    def of(cls, manifest: Manifest, config: bytes) -> Image:
        """The image of *manifest*, with the configuration that was read for it."""
        return cls(manifest, Config.parse(config, manifest.config.media_type))

    @classmethod
    def from_json(cls, document: Any) -> Image:
        """What ``to_json`` made; raises IntegrityError for anything else."""
        try:
            manifest = Manifest.parse(document["manifest"].encode())
            return cls(manifest, Config.parse(document["config"].encode(), document["config_type"]))
        except (KeyError, TypeError, AttributeError):
            raise IntegrityError("not an image: no manifest and configuration") from None

    def to_json(self) -> dict[str, str]:
        """Both documents as they are, to be kept."""
        return {
            "manifest": self.manifest.raw.decode(),
            "config": self.config.raw.decode(),
            "config_type": self.config.media_type,
        }

    def __post_init__(self) -> None:
        named = self.manifest.config
        if named.digest != self.config.digest or named.size != len(self.config.raw):
            raise IntegrityError(f"the configuration is {self.config.digest}, the manifest names {named.digest}")
        layers, diff_ids = len(self.manifest.layers), len(self.config.diff_ids)
        if layers != diff_ids:
            raise IntegrityError(f"the manifest has {layers} layers, the configuration {diff_ids} diff_ids")
        history = self.config.history
        made = sum(1 for item in history if not item.get("empty_layer"))
        if history and made != layers:
            raise IntegrityError(f"the manifest has {layers} layers, the history {made}")

    @property
    def platform(self) -> Platform:
        return self.config.platform

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Its layers, bottom first."""
        return tuple(map(Layer, self.manifest.layers, self.config.diff_ids, self.created_by))

    @property
    def created_by(self) -> tuple[str, ...]:
        """For each layer, the instruction that made it; "" where the image has no history."""
        history = self.config.history
        if not history:
            return ("",) * len(self.manifest.layers)
        return tuple(str(item.get("created_by", "")) for item in history if not item.get("empty_layer"))
