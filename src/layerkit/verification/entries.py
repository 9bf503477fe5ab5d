"""What a layer's tar holds, in one pass over its bytes: memory is some megabytes, whatever the layer's size."""

from __future__ import annotations

import posixpath
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from ..checkpoint.compress import needs_zstandard
from ..errors import ConfigurationError, IntegrityError, LayerkitError
from ..oci import MEDIA, as_oci

__all__ = ["Entry", "entries", "unpacked"]

_CHUNK = 1024 * 1024
_MOST_HEADER = 64 * 1024 * 1024  # bytes that one header may ask for: long names and PAX records


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a layer.

    Attributes:
        path: absolute, in the image.
        kind: file, folder, hardlink, or other (symbolic links, devices).
        size: bytes of a file.
        target: absolute path that a hard link names.
        content: a file's bytes; whoever wants them takes them before the next entry.
    """

    path: str
    kind: Literal["file", "folder", "hardlink", "other"]
    size: int = 0
    target: str = ""
    content: Iterator[bytes] = field(default_factory=lambda: iter(()))


def unpacked(chunks: Iterator[bytes], media_type: str) -> Iterator[bytes]:
    """A layer's tar, from its blob's *chunks*, in pieces of at most 1 MiB.

    Raises:
        IntegrityError: it is not compressed as its media type says.
        ConfigurationError: zstd, and no zstandard; or a media type that is no layer's.
    """
    kind = as_oci(media_type)
    if kind == MEDIA.LAYER:
        return chunks
    if kind == MEDIA.LAYER_GZIP:
        return _gzip(chunks)
    if kind == MEDIA.LAYER_ZSTD:
        return _zstd(chunks)
    raise ConfigurationError(f"a layer of type {media_type[:200]} cannot be read")


def _gzip(chunks: Iterator[bytes]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(31)
    begun = False
    for chunk in chunks:
        while chunk:
            if unpacker.eof:  # the next member (RFC 1952, section 2.2)
                if not chunk.strip(b"\0"):
                    break
                unpacker, begun = zlib.decompressobj(31), False
            try:
                made = unpacker.decompress(chunk, _CHUNK)
            except zlib.error as error:
                raise IntegrityError(f"it is no gzip, as it is said to be ({error})") from None
            begun = True
            chunk = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
            if made:
                yield made
    while begun and not unpacker.eof:  # what it holds back when all of its input is taken
        made = unpacker.decompress(b"", _CHUNK)
        if not made:
            raise IntegrityError("its gzip is cut off")
        yield made


class _Source:
    """Chunks, as something to read from."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest = chunks, b""

    def read(self, count: int = -1) -> bytes:
        self._rest = self._rest or next(self._chunks, b"")
        found, self._rest = (self._rest, b"") if count < 0 else (self._rest[:count], self._rest[count:])
        return found


def _zstd(chunks: Iterator[bytes]) -> Iterator[bytes]:
    zstandard = needs_zstandard("a layer compressed with zstd")
    reader = zstandard.ZstdDecompressor().stream_reader(cast(Any, _Source(chunks)), read_across_frames=True)
    try:
        while made := reader.read(_CHUNK):
            yield made
    except zstandard.ZstdError as error:
        raise IntegrityError(f"it is no zstd, as it is said to be ({error})") from None


class _Forward:
    """A stream that is read once, as what ``tarfile`` needs of a file: seeking goes forwards only."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks, self._rest, self._at = chunks, memoryview(b""), 0

    def tell(self) -> int:
        return self._at

    def seek(self, position: int, whence: int = 0) -> int:
        assert whence == 0
        if position < self._at:
            raise tarfile.ReadError("it goes backwards")
        for _ in self.chunks(position - self._at):
            pass
        return self._at

    def read(self, count: int) -> bytes:
        if count > _MOST_HEADER:
            raise tarfile.ReadError(f"a header asks for {count} bytes")
        return b"".join(self.chunks(count))

    def chunks(self, count: int) -> Iterator[memoryview]:
        """The next *count* bytes, or as many as there are."""
        while count > 0:
            if not self._rest:
                self._rest = memoryview(next(self._chunks, b""))
                if not self._rest:
                    return
            part, self._rest = self._rest[:count], self._rest[count:]
            self._at += len(part)
            count -= len(part)
            yield part

    def drain(self) -> None:
        self._rest = memoryview(b"")
        for _ in self._chunks:
            pass


def entries(tar: Iterator[bytes]) -> Iterator[Entry]:
    """The entries of *tar*, which is read to its end, so that whoever hashes it has all of it.

    Raises:
        IntegrityError: it is no tar, is cut off, or has an entry that leads out of the image or has no name of a file.
    """
    forward = _Forward(tar)
    try:
        with tarfile.open(fileobj=cast(Any, forward), mode="r:") as opened:
            while (member := opened.next()) is not None:
                cast(Any, opened).members.clear()  # it keeps all that it has seen
                yield _entry(member, forward)
        forward.drain()
    except LayerkitError:
        raise
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise IntegrityError(f"it is no tar that can be read ({error})") from None


def _entry(member: tarfile.TarInfo, forward: _Forward) -> Entry:
    path = _path(member.name)
    if member.isreg() and not member.issparse():
        return Entry(path, "file", member.size, content=cast("Iterator[bytes]", _content(member, forward)))
    if member.isdir():
        return Entry(path, "folder")
    if member.islnk():
        return Entry(path, "hardlink", target=_path(member.linkname))
    return Entry(path, "other")


def _content(member: tarfile.TarInfo, forward: _Forward) -> Iterator[memoryview]:
    left = member.size
    for part in forward.chunks(left):
        left -= len(part)
        yield part
    if left:
        raise IntegrityError("it is cut off")


def _path(name: str) -> str:
    path = posixpath.normpath("/" + name)
    if ".." in name.split("/"):
        raise IntegrityError(f"an entry leads out of it: {name[:200]!r}")
    if "\0" in name:  # a pax header can say so; no file can be called that
        raise IntegrityError(f"an entry has a name that no file can have: {name[:200]!r}")
    return "/" + path.lstrip("/")
