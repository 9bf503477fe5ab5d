"""The tensors of a safetensors file whose bytes pass by once, and are kept nowhere."""

from __future__ import annotations

import hashlib

from ..errors import CheckpointError, printable
from ..oci import Digest
from .safetensors import Entry, header_size, parse_header
from .weights import TensorInfo

__all__ = ["PassingTensors"]


class PassingTensors:
    """Hashes each tensor of a file that is given piece by piece. Memory: its header, which has 100 MB at most.

    The format has its tensors one after the other without gaps, so that no byte is needed twice.

    Args:
        size: bytes of the file.
        where: what to call it in messages.
    """

    def __init__(self, size: int, where: str) -> None:
        self._size, self._where = size, where
        self._head = bytearray()
        self._length = -1  # of the header, once it is known
        self._entries: list[Entry] | None = None  # those not begun, the next one last
        self._found: list[tuple[TensorInfo, Digest]] = []
        self._left = 0  # bytes of the tensor that passes by
        self._state = hashlib.sha256()

    def update(self, chunk: bytes | memoryview) -> None:
        """Take the file's next bytes.

        Raises:
            CheckpointError: its header is none, or does not fit the file.
        """
        view = memoryview(chunk)
        if self._entries is None:
            view = self._header(view)
        while view:
            if not self._left:
                self._begin()
            part, view = view[: self._left], view[self._left :]
            self._state.update(part)
            self._left -= len(part)
            if not self._left:
                self._end()

    def finish(self) -> tuple[tuple[TensorInfo, Digest], ...]:
        """What each tensor is, and the sha256 of its bytes.

        Raises:
            CheckpointError: the file ended too soon.
        """
        if self._entries is None:
            header_size(bytes(self._head[:8]), file_size=len(self._head), where=self._where)
        if self._entries is None or self._left:
            raise CheckpointError(f"checkpoint: {printable(self._where)}: is cut off")
        self._state = hashlib.sha256()
        while self._entries:  # without bytes: nothing came to begin them
            self._end()
        return tuple(self._found)

    def _header(self, view: memoryview) -> memoryview:
        for _ in range(2):
            wanted = 8 if self._length < 0 else 8 + self._length
            missing = max(wanted - len(self._head), 0)
            self._head += view[:missing]
            view = view[missing:]
            if len(self._head) < wanted:
                return view
            if self._length < 0:
                self._length = header_size(bytes(self._head), file_size=self._size, where=self._where)
        data = self._size - 8 - self._length
        self._entries = list(reversed(parse_header(bytes(self._head[8:]), data_size=data, where=self._where)))
        self._head.clear()
        return view

    def _begin(self) -> None:
        """The next tensor that has bytes; those without before it are done at once."""
        while self._entries:
            self._state = hashlib.sha256()
            self._left = self._entries[-1].end - self._entries[-1].begin
            if self._left:
                return
            self._end()
        raise CheckpointError(f"checkpoint: {printable(self._where)}: is longer than its {self._size} bytes")

    def _end(self) -> None:
        assert self._entries
        entry = self._entries.pop()
        info = TensorInfo(entry.name, entry.dtype, entry.shape, entry.end - entry.begin)
        self._found.append((info, Digest("sha256", self._state.hexdigest())))
