"""An image as it was found, before anything is concluded from it. Values only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from ..oci import Descriptor, Digest, Image, Index, Manifest, Platform
from .peek import Read
from .roles import Step

__all__ = ["SOURCES", "Found", "LocalImage", "Stream"]

# Where an image was found, as people call it.
SOURCES = {"registry": "its registry", "docker": "the local Docker", "oci": "an OCI layout"}

# A whole blob in chunks of at most 1 MiB, verified while it is read.
Stream = Callable[[Descriptor], AbstractContextManager[Iterator[bytes]]]


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image of a local Docker of which no manifest is to be had: what ``docker image inspect`` and ``history`` say.

    ``sizes``: bytes of each layer's files as Docker counts them, or None where it cannot be told.
    """

    diff_ids: tuple[Digest, ...]
    sizes: tuple[int | None, ...]
    steps: tuple[Step, ...]
    made_by: tuple[Step, ...]
    settings: Mapping[str, Any]
    platform: Platform
    created: str


@dataclass(frozen=True, slots=True)
class Found:
    """An image of one platform, and how to look into its layers.

    Attributes:
        name: what it is called, in full; ``source``: registry, docker or oci.
        read: ranges of its layers' blobs; None where they cannot be had.
        index, platforms: of the index that it was chosen from.
        notes: what the reader should know.
        digests: under which a build of it may have been recorded.
        counted: layer -> bytes of its files as Docker counts them.
        stream: its layers' blobs as a whole; None where they cannot be had.
        manifest: another manifest beside it, by tag or digest; None where it is not there.
    """

    name: str
    source: str
    image: Image | LocalImage
    read: Read | None
    index: Digest | None = None
    platforms: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())
    digests: tuple[str, ...] = ()
    counted: Mapping[int, int] = field(default_factory=dict)
    stream: Stream | None = None
    manifest: Callable[[str | Digest], Manifest | Index | None] | None = None
