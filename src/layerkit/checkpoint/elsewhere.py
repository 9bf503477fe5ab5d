"""Weights that are not on this machine: what is known of them, and their layers as a registry gives them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property

from ..errors import CheckpointError
from ..oci import Descriptor, Digest, Layer
from .blueprint import Blueprint, Ownership

__all__ = ["OCI", "Elsewhere", "KnownFile", "RemoteBlueprint", "remote"]

OCI = "oci://"  # of a checkpoint.path that names an image


@dataclass(frozen=True, slots=True)
class KnownFile:
    """A file of a checkpoint: where it goes below the target, its bytes, and its sha256 where that is known."""

    path: str
    size: int
    digest: Digest | None = None


@dataclass(frozen=True)
class Elsewhere:
    """Weights that are not here.

    Attributes:
        key: of their layers; None where nobody was asked yet.
        digest: what they are called.
        location: where a program finds them in the image.
        said: what is here instead; ``by``: who says which weights they are, as in "as layerkit.lock says".
        complaint, hint: what is wrong where no registry has them, and what to do.
        layers: as far as they are known.
        repository: that had them when they were locked, or whose image ``checkpoint.path`` names; "" for none.
        source: ``REPO@digest`` of that image; "" where the path names files.
        files: that they are made of, where that is known.
        weights: the weights hash, where it is known.
        samples: ``Made.samples``.
    """

    key: str | None
    digest: Digest | None
    location: str
    said: str
    complaint: str
    hint: str = ""
    by: str = ""
    layers: tuple[Layer, ...] = ()
    repository: str = ""
    source: str = ""
    files: tuple[KnownFile, ...] = ()
    weights: Digest | None = None
    samples: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of its files, or of its layers where the files are not known."""
        return sum(file.size for file in self.files) or sum(layer.descriptor.size for layer in self.layers)

    def needs_files(self, why: str) -> CheckpointError:
        """The error where layers in a registry are of no use."""
        return CheckpointError(f"checkpoint: {self.complaint}; {why}", hint=self.hint or "name files")


@dataclass(frozen=True)
class RemoteBlueprint(Blueprint):
    """A layer that a registry has.

    Attributes:
        stored: as it is there.
        host, repository: where; another repository of that host may take it over without its bytes.
        read: (descriptor, offset) -> its bytes from there on, verified.
    """

    stored: Layer | None = None
    host: str = ""
    repository: str = ""
    read: Callable[[Descriptor, int], Iterator[bytes]] | None = field(default=None, repr=False, compare=False)

    def _layer(self) -> Layer:
        assert self.stored is not None
        return self.stored

    def open(self, offset: int = 0) -> Iterator[memoryview]:
        """The layer's bytes from *offset* on, as it is stored.

        Raises:
            LayerkitError: the registry does not give them, or gives others.
        """
        assert self.read is not None
        return (memoryview(chunk) for chunk in self.read(self._layer().descriptor, offset))

    @property
    def label(self) -> str:
        known = Ownership.parse(self.created_by)
        return known[1] if known else self._layer().descriptor.digest.short

    @property
    def known(self) -> Digest | None:
        return self._layer().descriptor.digest

    @cached_property
    def mark(self) -> str:
        return self._layer().descriptor.digest.hex

    def layer(self, digest: Digest) -> Layer:
        return self._layer()


def remote(
    layer: Layer, host: str, repository: str, read: Callable[[Descriptor, int], Iterator[bytes]]
) -> RemoteBlueprint:
    """*layer* of ``host/repository``, ready to be mounted or read."""
    return RemoteBlueprint((), layer.created_by, (), layer.descriptor.size, "none", layer, host, repository, read)
