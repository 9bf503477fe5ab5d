"""Weights as values: which tensors, and where in which files the bytes of each are.

A tensor's *canonical bytes* are its elements in row-major order (C-contiguous), little-endian, one after another:
what safetensors stores.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from .files import File

__all__ = ["Extent", "Extra", "Tensor", "TensorInfo", "View", "Weights"]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """What a tensor is, without its values.

    Attributes:
        name: as in the state dict.
        dtype: as safetensors calls it: F32, BF16, I64, BOOL, … (and C128 and others it does not know).
        shape: in elements.
        nbytes: bytes of its elements.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class View:
    """How a tensor that is not C-contiguous lies in its storage: shape and strides in items of ``itemsize`` bytes."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    itemsize: int


@dataclass(frozen=True, slots=True)
class Extent:
    """Where a tensor's elements are.

    Attributes:
        file: the file.
        offset: of the first element, in bytes from the start of the file.
        size: bytes from the first element to the end of the last one in the file.
        view: None where the bytes there are the canonical ones.
        swap: bytes of a word to be reversed (written on a big-endian machine); 0 for none.
    """

    file: File
    offset: int
    size: int
    view: View | None = None
    swap: int = 0


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor: what it is, and where."""

    info: TensorInfo
    extent: Extent

    @property
    def name(self) -> str:
        return self.info.name


@dataclass(frozen=True, slots=True)
class Extra:
    """Something in the file that is not weights: an optimizer, an epoch, the state of a random generator.

    Attributes:
        name: dotted path in the object.
        kind: what it is, in words.
        nbytes: bytes of tensor storage and strings that are in the file for it alone.
    """

    name: str
    kind: str
    nbytes: int


@dataclass(frozen=True)
class Weights:
    """The tensors of a checkpoint, sorted by the UTF-8 bytes of their names.

    Attributes:
        files: what they are read from.
        format: torch (ZIP), legacy, safetensors, or sharded.
        key: the part of the object that they were taken from; "" for the whole.
        extras: what else is in the file.
    """

    tensors: tuple[Tensor, ...]
    files: tuple[File, ...]
    format: str
    key: str = ""
    extras: tuple[Extra, ...] = ()

    @property
    def nbytes(self) -> int:
        """Canonical bytes of all tensors."""
        return sum(tensor.info.nbytes for tensor in self.tensors)

    @property
    def parameters(self) -> int:
        """Elements of all tensors, buffers included."""
        return sum(tensor.info.elements for tensor in self.tensors)

    @property
    def shared(self) -> tuple[tuple[str, ...], ...]:
        """Groups of tensors that have bytes of a file in common."""
        groups = (tuple(sorted(tensor.name for tensor in group)) for group in self._overlapping())
        return tuple(sorted(group for group in groups if len(group) > 1))

    @property
    def stored(self) -> int:
        """Bytes of the files that the tensors lie in: less than ``nbytes`` where they share or repeat some."""
        return sum(
            max(tensor.extent.offset + tensor.extent.size for tensor in group) - group[0].extent.offset
            for group in self._overlapping()
        )

    def _overlapping(self) -> list[list[Tensor]]:
        by_file: dict[Path, list[Tensor]] = defaultdict(list)
        for tensor in self.tensors:
            if tensor.extent.size:
                by_file[tensor.extent.file.source].append(tensor)
        groups: list[list[Tensor]] = []
        for tensors in by_file.values():
            end = 0
            for tensor in sorted(tensors, key=lambda t: (t.extent.offset, -t.extent.size, t.name.encode())):
                if tensor.extent.offset >= end:
                    groups.append([])
                groups[-1].append(tensor)
                end = max(end, tensor.extent.offset + tensor.extent.size)
        return groups
