"""An image of a registry, found to be looked at: its manifest and configuration, and ranges of its layers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ConfigurationError
from ..oci import Reference
from .choosing import choose, image_of, spelled
from .found import Found

if TYPE_CHECKING:
    from ..registry import Repository

__all__ = ["from_registry"]

_MOST = 8 * 1024 * 1024  # bytes of a configuration


def from_registry(repository: Repository, reference: Reference, *, platform: str, default: str) -> Found:
    """The image that *reference* names in its registry.

    Raises:
        ConfigurationError: there is none, or none for *platform*.
        LayerkitError: as the registry's answers have it.
    """
    reference = reference.or_latest()
    top = repository.manifest(reference.digest or reference.tag)
    if top is None:
        raise ConfigurationError(f"{reference}: not found in its registry", hint="check the name and the tag")
    name = str(reference)
    manifest, index, platforms = choose(name, top, lambda d: repository.manifest(d.digest), platform, default)
    image = image_of(name, manifest, lambda d: repository.blob(d, _MOST), platform)
    return Found(
        name, "registry", image, repository.blob_range, index, platforms, digests=spelled(manifest.digest, index),
        stream=repository.open_blob, manifest=repository.manifest,
    )  # fmt: skip
