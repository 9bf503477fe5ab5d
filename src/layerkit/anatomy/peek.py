"""What is in a layer, from a few ranges of it: names of files, and the tensors of safetensors files.

An uncompressed layer is a tar in which one can go from header to header. Of a gzip layer only the beginning can be read
without the rest. The bytes are not verified (a digest covers a whole blob), so they are for showing alone.
"""

from __future__ import annotations

import math
import tarfile
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ..checkpoint.safetensors import header_size, parse_header
from ..errors import CheckpointError, LayerkitError
from ..oci import MEDIA, Descriptor, as_oci

__all__ = ["File", "Peek", "Read", "Tensors", "gzip_size", "peek"]

# bytes from start to end of a blob, or None where ranges cannot be had
Read = Callable[[Descriptor, int, int], "bytes | None"]

_WINDOW = 16 * 1024  # bytes of one look at tar headers
_MOST_READS = 128
_MOST_BYTES = 64 * 1024 * 1024  # bytes of all looks at one layer: headers of safetensors files have megabytes
_PREFIX = 1024 * 1024  # bytes of a gzip layer read at a time, and 8 of these at most
_MOST_FILES = 1000
_PLAUSIBLE = 20  # times that a layer's gzip is smaller than its tar, at most, where 32 bits do not say it


@dataclass(frozen=True, slots=True)
class File:
    """A file in a layer: its path in the image, and its bytes."""

    path: str
    size: int


@dataclass(frozen=True, slots=True)
class Tensors:
    """The tensors of one safetensors file.

    Attributes:
        file: its path in the image.
        count: tensors; parameters: their elements; size: their bytes.
        dtypes: dtype -> bytes.
    """

    file: str
    count: int
    parameters: int
    size: int
    dtypes: Mapping[str, int] = field(hash=False)

    def to_json(self) -> dict[str, Any]:
        return {
            "file": self.file,
            "tensors": self.count,
            "parameters": self.parameters,
            "bytes": self.size,
            "dtypes": dict(self.dtypes),
        }


@dataclass(frozen=True, slots=True)
class Peek:
    """What a look into a layer gave. ``whole``: these are all files of it; else ``why`` not."""

    files: tuple[File, ...] = ()
    tensors: tuple[Tensors, ...] = ()
    whole: bool = False
    why: str = ""


class _Enough(Exception):
    """No more of the layer is to be had."""


class _Ranges:
    """The bytes of an uncompressed layer, by ranges; what ``tarfile`` needs of a file."""

    def __init__(self, descriptor: Descriptor, read: Read) -> None:
        self._descriptor, self._read = descriptor, read
        self._at, self._start, self._window = 0, 0, b""
        self._reads, self._bytes = 0, 0

    def fetch(self, start: int, end: int) -> bytes:
        end = min(end, self._descriptor.size)
        if start >= end:
            return b""
        self._reads += 1
        self._bytes += end - start
        if self._reads > _MOST_READS or self._bytes > _MOST_BYTES:
            raise _Enough("it has too many files to look at each")
        found = self._read(self._descriptor, start, end)
        if found is None:
            raise _Enough("parts of it cannot be read alone here")
        return found

    def tell(self) -> int:
        return self._at

    def seek(self, position: int, whence: int = 0) -> int:
        self._at = position if whence == 0 else self._at + position if whence == 1 else self._descriptor.size + position
        return self._at

    def read(self, count: int = -1) -> bytes:
        if count < 0 or count > _MOST_BYTES:
            raise _Enough("its headers are too long")
        start, end = self._at, self._at + count
        if start < self._start or end > self._start + len(self._window):
            self._start, self._window = start, self.fetch(start, start + max(count, _WINDOW))
        found = self._window[start - self._start : end - self._start]
        self._at += len(found)
        return found


class _Prefix(_Ranges):
    """The beginning of a gzip layer, unpacked."""

    def __init__(self, descriptor: Descriptor, read: Read) -> None:
        super().__init__(descriptor, read)
        self._plain = bytearray()
        self._unpacker = zlib.decompressobj(31)
        self._position = 0

    def fetch(self, start: int, end: int) -> bytes:
        while len(self._plain) < end and not self._unpacker.eof:
            if self._position >= 8 * _PREFIX or len(self._plain) >= _MOST_BYTES:
                if len(self._plain) > start:
                    break
                raise _Enough("it is compressed: only its beginning can be read without the rest")
            stop = min(self._position + (_PREFIX if self._position else _PREFIX // 4), self._descriptor.size)
            if self._position >= stop:
                break
            raw = super().fetch(self._position, stop)
            self._position += len(raw)
            try:
                self._plain += self._unpacker.decompress(raw, _MOST_BYTES)
            except zlib.error:
                raise _Enough("it is no gzip, as it is said to be") from None
        return bytes(self._plain[start:end])


def peek(descriptor: Descriptor, read: Read) -> Peek:
    """Look into a layer. Reads some KiB for each file of an uncompressed one, some MiB of a gzip one; never all.

    Raises:
        LayerkitError: as *read* does.
    """
    media_type = as_oci(descriptor.media_type)
    source: _Ranges
    if media_type == MEDIA.LAYER:
        source = _Ranges(descriptor, read)
    elif media_type == MEDIA.LAYER_GZIP:
        source = _Prefix(descriptor, read)
    else:
        return Peek(why=f"it is stored as {descriptor.media_type.rpartition('.')[2]}, which is not read in parts")
    files: list[File] = []
    tensors: list[Tensors] = []
    problems: list[str] = []
    whole, why = False, ""
    try:
        with tarfile.open(fileobj=cast(Any, source), mode="r:") as tar:
            while (member := tar.next()) is not None:
                cast(Any, tar).members.clear()  # it keeps all that it has seen
                if not member.isreg():
                    continue
                if len(files) >= _MOST_FILES:
                    raise _Enough("it has too many files to look at each")
                files.append(File(f"/{member.name.lstrip('./')}", member.size))
                if member.name.endswith(".safetensors"):
                    try:
                        tensors.append(_tensors(source, files[-1], member.offset_data))
                    except CheckpointError as error:
                        problems.append(error.message)
            whole = True
    except _Enough as error:
        why = str(error)
    except (tarfile.TarError, ValueError, OverflowError, OSError, EOFError) as error:
        why = f"it is no tar that can be read ({type(error).__name__})"
    return Peek(tuple(files), tuple(tensors), whole, "; ".join([*problems, why] if why else problems))


def _tensors(source: _Ranges, file: File, offset: int) -> Tensors:
    start = source.fetch(offset, offset + min(_WINDOW, file.size))
    length = header_size(start[:8], file_size=file.size, where=file.path)
    if length > _MOST_BYTES // 2:
        raise CheckpointError(f"{file.path}: its header has {length} bytes")
    header = start[8 : 8 + length]
    if len(header) < length:
        header += source.fetch(offset + 8 + len(header), offset + 8 + length)
    if len(header) < length:
        raise _Enough("it is compressed: only its beginning can be read without the rest")
    entries = parse_header(header, data_size=file.size - 8 - length, where=file.path)
    dtypes: Counter[str] = Counter()
    parameters = 0
    for entry in entries:
        dtypes[entry.dtype] += entry.end - entry.begin
        parameters += math.prod(entry.shape)
    return Tensors(file.path, len(entries), parameters, sum(dtypes.values()), dict(sorted(dtypes.items())))


def gzip_size(descriptor: Descriptor, read: Read) -> int | None:
    """Bytes of the tar in a gzip layer, from the last four bytes of the blob; None where they do not say it.

    They hold the size modulo 2^32 of the last member (RFC 1952, ISIZE). A tar's size is a multiple of 512, which that
    of a last member among several (eStargz) is not, by all likelihood; over 4 GiB the smallest size is taken that
    leaves the layer smaller than its tar, and where that would be 20 times smaller, none.
    """
    if descriptor.size < 20 or any("stargz" in name for name in descriptor.annotations):
        return None
    try:
        raw = read(descriptor, descriptor.size - 4, descriptor.size)
    except LayerkitError:
        return None
    if raw is None or len(raw) != 4:
        return None
    size = int.from_bytes(raw, "little")
    if size % 512:
        return None
    least = descriptor.size - descriptor.size // 1000 - 64  # what gzip adds to bytes that it cannot press
    grown = size < least
    while size < least:
        size += 1 << 32
    return None if grown and size > _PLAUSIBLE * descriptor.size else size
