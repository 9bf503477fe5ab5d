"""What is uploaded: bytes that can be read again from anywhere, and whose digest comes last."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from ..errors import IntegrityError, LocalResourceError
from ..oci import Digest

__all__ = ["Content", "Journal", "Reader", "Standing", "UploadDropped"]


class UploadDropped(Exception):
    """The upload was given up because ``Content.cancelled`` said so; its session is closed. ``sent``: bytes."""

    def __init__(self, sent: int) -> None:
        super().__init__(f"dropped after {sent} bytes")
        self.sent = sent


class Content(Protocol):
    """What is uploaded: its size beforehand, its bytes from any offset as often as needed, its digest in the end."""

    @property
    def size(self) -> int:
        """Bytes, exactly."""

    def open(self, offset: int = 0) -> Iterator[memoryview | bytes]:
        """The bytes from *offset* on. A chunk is used up before the next one is asked for."""

    def digest(self) -> Digest:
        """Waits until all is hashed. A LayerkitError (the file changed) closes the session and is raised."""

    def cancelled(self) -> bool:
        """Asked between chunks; True drops the upload."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an upload stands, for a later run to go on with.

    Attributes:
        url: of the session, with the registry's own state in its query. Who has it may go on with this upload,
            so it is kept like a password.
        held: bytes that the registry has acknowledged.
        least_chunk: what the session said of ``OCI-Chunk-Min-Length``, or 0.
    """

    url: str = field(repr=False)
    held: int = 0
    least_chunk: int = 0


class Journal(Protocol):
    """Keeps where one content's upload stands, beyond the end of the process."""

    def load(self) -> Standing | None:
        """What was saved last, where it may still be good and the content is still the same."""

    def save(self, standing: Standing) -> None:
        """Called after everything that the registry acknowledged."""

    def clear(self) -> None:
        """The session is committed, closed or lost."""


class Reader:
    """Stretches of a content, one after the other out of one pass where they follow each other."""

    def __init__(self, content: Content, name: str) -> None:
        self._content = content
        self._name = name
        self._pieces: Iterator[memoryview | bytes] | None = None
        self._rest = memoryview(b"")
        self._at = -1

    def read(self, start: int, end: int) -> Generator[memoryview, None, None]:
        """The bytes from *start* to *end*, exactly."""
        if self._pieces is None or self._at != start:
            self.close()
            self._pieces, self._at = self._content.open(start), start
        try:
            while self._at < end:
                piece = self._rest or self._next()
                room = end - self._at
                part, self._rest = piece[:room], piece[room:]
                yield part
                self._at += len(part)
        except BaseException:
            self.close()
            raise

    def _next(self) -> memoryview:
        assert self._pieces is not None
        try:
            for piece in self._pieces:
                if piece:
                    return memoryview(piece).cast("B")
        except OSError as error:
            # Not a fault of the connection, which it would be taken for further up.
            raise LocalResourceError(f"upload to {self._name}: the content cannot be read: {error.strerror}") from None
        raise IntegrityError(f"upload to {self._name}: the content ends after {self._at} of {self._content.size} bytes")

    def close(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()
        self._pieces, self._rest, self._at = None, memoryview(b""), -1
