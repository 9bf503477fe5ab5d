"""A safetensors file as a value: read from a checkpoint as it is asked for, and never written anywhere."""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

from .reader import CHUNK, Reader
from .safetensors import size_of
from .sample import sample_tensors
from .weights import Tensor

__all__ = ["Lost", "Piece", "VirtualFile"]


@dataclass(frozen=True, slots=True)
class Lost:
    """What a change of dtype did to one tensor.

    Attributes:
        absolute: the largest error of values that stay finite.
        relative: the largest, against values other than 0.
        overflowed: how many finite values are not finite any more.
    """

    absolute: float
    relative: float
    overflowed: int


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of the file's bytes: the head, or a tensor. ``start`` and ``size`` in bytes of the file."""

    start: int
    size: int
    data: bytes = b""
    tensor: Tensor | None = None
    name: str = ""
    dtype: str = ""


@dataclass(frozen=True)
class VirtualFile:
    """A file that is read from a checkpoint as it is asked for.

    Attributes:
        path: its name.
        size: bytes.
    """

    path: str
    size: int
    pieces: tuple[Piece, ...]

    @cached_property
    def mark(self) -> str:
        """Another one for another content, as far as can be told without reading it."""
        state = hashlib.sha256()
        for piece in self.pieces:
            state.update(piece.data or f"{piece.dtype} {piece.tensor and piece.tensor.extent}".encode())
        return state.hexdigest()

    @property
    def sections(self) -> tuple[tuple[str, int, int], ...]:
        """(name, start, size) of what is hashed by itself: each tensor."""
        return tuple((piece.name, piece.start, piece.size) for piece in self.pieces if piece.tensor is not None)

    def sample(self) -> str:
        """A hash of the head and of a few places of each tensor: another one is another content."""
        tensors = ((piece.tensor, piece.dtype) for piece in self.pieces if piece.tensor is not None)
        return sample_tensors(self.pieces[0].data, tensors)

    def open(self, offset: int = 0) -> Iterator[memoryview]:
        """The file's bytes from *offset* on, in chunks of at most 1 MiB, each valid until the next is asked for.

        Raises:
            CheckpointError: the checkpoint is not what it was when it was opened, or changes meanwhile.
        """
        buffer = memoryview(bytearray(CHUNK))
        return self.read(offset, lambda: buffer)

    def read(
        self,
        offset: int,
        take: Callable[[], memoryview],
        *,
        on_cast: Callable[[str, Lost], None] | None = None,
    ) -> Iterator[memoryview]:
        """As ``open``, with each chunk in a buffer that *take* gave (its length a multiple of 16 bytes).

        Args:
            on_cast: called after each chunk whose dtype changed, with the tensor's name and what was lost.
        """
        first = max(bisect.bisect_right(self.pieces, offset, key=lambda piece: piece.start) - 1, 0)
        with Reader() as reader:
            for piece in self.pieces[first:]:
                skip = max(offset - piece.start, 0)
                if skip >= piece.size:
                    continue
                if piece.tensor is None:
                    yield from _copied(piece.data, skip, take)
                elif piece.dtype != piece.tensor.info.dtype:
                    yield from _cast(reader, piece, skip, take, on_cast)
                else:
                    # Reading starts at whole elements.
                    extra = skip % 16
                    for chunk in reader.read(piece.tensor, take, skip - extra):
                        yield chunk[extra:]
                        extra = 0


def _copied(data: bytes, skip: int, take: Callable[[], memoryview]) -> Iterator[memoryview]:
    while skip < len(data):
        view = take()
        view = view[: min(len(view), len(data) - skip)]
        view[:] = data[skip : skip + len(view)]
        skip += len(view)
        yield view


def _cast(
    reader: Reader,
    piece: Piece,
    skip: int,
    take: Callable[[], memoryview],
    on_cast: Callable[[str, Lost], None] | None,
) -> Iterator[memoryview]:
    from .tensors import cast, cast_error

    assert piece.tensor is not None
    source = piece.tensor.info.dtype
    item = size_of(source, (1,))
    extra = skip % 16  # whole blocks of 8 elements of 2 bytes
    buffer = memoryview(bytearray(CHUNK // 2 * item))
    for chunk in reader.read(piece.tensor, lambda: buffer, (skip - extra) // 2 * item):
        position = 0
        while position < len(chunk):
            view = take()
            part = chunk[position : position + len(view) // 2 * item]
            position += len(part)
            made = cast(part, source, piece.dtype, view)
            if on_cast is not None:
                on_cast(piece.name, Lost(*cast_error(part, source, made, piece.dtype)))
            yield made[extra:]
            extra = 0
