"""The layers of a checkpoint by name and size, and what is known of each; the sha256 of one file of it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..oci import Digest
from .blueprint import Blueprint
from .files import File
from .pack import Hashed

__all__ = ["Part", "hash_content", "parts_of"]


@dataclass(frozen=True, slots=True)
class Part:
    """One layer.

    Attributes:
        name: of its file, or how many it has.
        size: of the layer, in bytes.
        sample: another one is another layer; "" where none was taken.
        hashed: once it is.
    """

    name: str
    size: int
    sample: str = ""
    hashed: Hashed | None = None


def parts_of(blueprints: Sequence[Blueprint], known: Mapping[int, Hashed]) -> tuple[Part, ...]:
    """Layers of files that are kept as they are. *known*: index -> what hashing it gave, of those that were hashed."""
    return tuple(
        Part(blueprint.label, blueprint.size, hashed=known.get(index)) for index, blueprint in enumerate(blueprints)
    )


def hash_content(file: File, on_read: Callable[[int], None]) -> Digest:
    """The sha256 of a file, held to be the one that was found.

    Raises:
        CheckpointError: it cannot be read, or is not what it was.
    """
    state = hashlib.sha256()
    buffer = memoryview(bytearray(1024 * 1024))
    for chunk in file.read(0, lambda: buffer):
        state.update(chunk)
        on_read(len(chunk))
    return Digest("sha256", state.hexdigest())
