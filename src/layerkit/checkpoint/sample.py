"""Samples: a hash of a few places, read in no time.

Two contents with different samples are different. With the same sample they are likely to be the same, which
proves nothing: it says what is worth hashing before it is sent anywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator

from .files import File
from .reader import Reader, swapped
from .weights import Tensor, Weights

__all__ = ["sample_file", "sample_tensors", "sample_weights"]

_PLACES, _PLACE = 16, 4096  # of a file; bytes each
_WINDOW = 16  # elements of a tensor, at its start, in its middle and at its end


def sample_file(file: File) -> str:
    """Of some places of a file.

    Raises:
        CheckpointError: it cannot be read, or is not what it was.
    """
    state = hashlib.sha256(f"{file.size}".encode())
    size = min(_PLACE, file.size)
    buffer = memoryview(bytearray(size))
    with Reader() as reader:
        for number in range(_PLACES if size else 0):
            reader.fill(file, buffer, (file.size - size) * number // (_PLACES - 1))
            state.update(buffer)
    return state.hexdigest()


def sample_weights(weights: Weights) -> str:
    """Of what each tensor is, and of some of its elements."""
    head = "\n".join(f"{t.name!r} {t.info.dtype} {t.info.shape}" for t in weights.tensors)
    return sample_tensors(head.encode(), ((tensor, tensor.info.dtype) for tensor in weights.tensors))


def sample_tensors(head: bytes, tensors: Iterable[tuple[Tensor, str]]) -> str:
    """Of *head*, and of some canonical elements of each tensor in the dtype that it is to have.

    Raises:
        CheckpointError: a file cannot be read, or is not what it was.
    """
    state = hashlib.sha256(head)
    with Reader() as reader:
        for tensor, dtype in tensors:
            for window in _windows(reader, tensor):
                if dtype != tensor.info.dtype:
                    from .tensors import cast

                    window = cast(window, tensor.info.dtype, dtype, memoryview(bytearray(len(window) * 2)))
                state.update(window)
    return state.hexdigest()


def _windows(reader: Reader, tensor: Tensor) -> Iterator[memoryview]:
    """The canonical bytes of the first, middle and last elements; all of a small tensor."""
    count, nbytes = tensor.info.elements, tensor.info.nbytes
    if not nbytes:
        return
    # Multiples of 16 elements: whole bytes of any dtype.
    starts = sorted({0, count // 2 // _WINDOW * _WINDOW, max(0, count - _WINDOW) // _WINDOW * _WINDOW})
    for start in starts:
        end = count if start == starts[-1] else min(count, start + _WINDOW)
        yield _elements(reader, tensor, start * nbytes // count, end * nbytes // count)


def _elements(reader: Reader, tensor: Tensor, start: int, end: int) -> memoryview:
    """The tensor's canonical bytes from *start* to *end*."""
    extent, view = tensor.extent, tensor.extent.view
    found = memoryview(bytearray(end - start))
    if view is None:
        reader.fill(extent.file, found, extent.offset + start)
    else:
        for at in range(start, end, view.itemsize):
            index, place = at // view.itemsize, 0
            for size, stride in zip(reversed(view.shape), reversed(view.strides), strict=True):
                index, inner = divmod(index, size)
                place += inner * stride
            reader.fill(
                extent.file, found[at - start : at - start + view.itemsize], extent.offset + place * view.itemsize
            )
    return swapped(found, extent.swap)
