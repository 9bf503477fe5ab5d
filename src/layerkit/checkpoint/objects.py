"""What a pickle held, as plain values: dicts, lists, and these."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Leaf", "Loaded", "Stored"]


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor of a pickle: where it is in its storage.

    Attributes:
        dtype: safetensors' name.
        shape: in elements.
        storage: key of the storage.
        start, size: bytes in the storage, from the first element to the end of the last one.
        items, strides: of the view, in items of ``itemsize`` bytes (F4 has two elements an item).
        problem: why its bytes cannot be had; "" where they can.
    """

    dtype: str
    shape: tuple[int, ...]
    storage: str = ""
    start: int = 0
    size: int = 0
    items: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    itemsize: int = 1
    problem: str = ""

    @property
    def nbytes(self) -> int:
        """Canonical bytes."""
        return math.prod(self.items) * self.itemsize

    @property
    def contiguous(self) -> bool:
        """Row-major, without gaps."""
        step = 1
        for size, stride in zip(reversed(self.items), reversed(self.strides), strict=True):
            if size != 1 and stride != step:
                return self.nbytes == 0
            step *= size
        return True


@dataclass(frozen=True, slots=True)
class Leaf:
    """Anything of a pickle that is neither a tensor nor a container: in words, with its bytes; a short text itself."""

    kind: str
    nbytes: int = 0
    text: str = ""


@dataclass(frozen=True, slots=True)
class Loaded:
    """An object of a pickle as dicts, lists, Stored and Leaf; ``storages``: key -> (bytes, item size)."""

    tree: Any
    storages: Mapping[str, tuple[int, int]]
