"""The canonical bytes of tensors, read from their files.

They are read piece by piece, never as a whole, by ``pread``: a file that is cut while it is read gives an error,
where a mapping would end the process (SIGBUS).
"""

from __future__ import annotations

import array
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

from ..errors import CheckpointError, printable
from .files import File, changed, check_same
from .weights import Tensor

__all__ = ["CHUNK", "Reader", "swapped"]

CHUNK = 1024 * 1024  # bytes a read; larger ones fall out of the processor's cache between read and use


class Reader:
    """Reads tensors, from any number of threads; a context manager that closes its files.

    Raises, on opening, reading and at the end:
        CheckpointError: a file cannot be read, or is not what it was when it was found.
    """

    def __init__(self) -> None:
        self._handles: dict[Path, tuple[File, int]] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                for file, handle in self._handles.values():
                    check_same(file, handle)
        finally:
            for _, handle in self._handles.values():
                os.close(handle)
            self._handles.clear()

    def handle(self, file: File) -> int:
        """The file, open: checked to be the one that was found."""
        with self._lock:
            if file.source not in self._handles:
                file.identity.settle()
                try:
                    handle = os.open(file.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
                except OSError as error:
                    raise CheckpointError(f"checkpoint: {printable(file.path)}: {error.strerror}") from None
                self._handles[file.source] = (file, handle)
                check_same(file, handle)
            return self._handles[file.source][1]

    def fill(self, file: File, view: memoryview, offset: int) -> None:
        """Fill *view* with the file's bytes from *offset* on."""
        handle = self.handle(file)
        done = 0
        while done < len(view):
            try:
                count = os.preadv(handle, [view[done:]], offset + done)
            except OSError as error:
                raise CheckpointError(f"checkpoint: {printable(file.path)}: cannot be read: {error.strerror}") from None
            if count == 0:
                raise changed(file)
            done += count

    def read(self, tensor: Tensor, take: Callable[[], memoryview], start: int = 0) -> Iterator[memoryview]:
        """The tensor's canonical bytes from byte *start* on, each chunk in a buffer that *take* gave.

        *start* and the buffers' lengths are multiples of 16 bytes, or of the dtype's size.
        """
        extent = tensor.extent
        if extent.view is None:
            position, end = extent.offset + start, extent.offset + tensor.info.nbytes
            while position < end:
                view = take()
                view = view[: min(len(view), end - position)]
                self.fill(extent.file, view, position)
                position += len(view)
                yield swapped(view, extent.swap)
            return
        from .tensors import gather

        for block in gather(lambda view, offset: self.fill(extent.file, view, offset), extent, start):
            position = 0
            while position < len(block):
                view = take()
                view = view[: min(len(view), len(block) - position)]
                view[:] = block[position : position + len(view)]
                position += len(view)
                yield swapped(view, extent.swap)


_WORDS = {array.array(code).itemsize: code for code in "QLIH"}


def swapped(view: memoryview, word: int) -> memoryview:
    """*view* with the bytes of each word of *word* bytes reversed; as it is where that is 0."""
    if word:
        words = array.array(_WORDS[word])
        words.frombytes(view)
        words.byteswap()
        view[:] = words.tobytes()
    return view
