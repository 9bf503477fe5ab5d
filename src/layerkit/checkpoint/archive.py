"""What ``torch.save`` writes, taken apart without torch: where the pickles are, and where each storage's bytes.

Two formats. Since PyTorch 1.6 a ZIP archive of stored (never compressed) records: ``NAME/data.pkl``,
``NAME/data/KEY`` for each storage, ``NAME/byteorder`` (PyTorch, notes/serialization, "Serialized file format for
torch.save"). Before, the legacy one: five pickles (magic number, protocol version, system, the object, the list
of storage keys), then each storage as 8 bytes of element count and its elements, little-endian
(``torch.serialization._legacy_save``).

Nothing is extracted, and nothing is unpickled here. Everything is checked against the file before it is used.
"""

from __future__ import annotations

import os
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from io import SEEK_CUR, SEEK_END, SEEK_SET, BytesIO, RawIOBase
from pathlib import PurePosixPath

from ..errors import CheckpointError, printable

__all__ = ["LEGACY_MAGIC", "ZIP_MAGIC", "Archive", "Legacy", "Scan", "read_archive", "read_legacy"]

ZIP_MAGIC = b"PK\x03\x04"
# Protocol 2 and the long 0x1950a86a20f9469cfc6c, pickled: torch.serialization.MAGIC_NUMBER.
LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."
MAX_DIRECTORY = 64 * 1024 * 1024  # bytes of the central directory: some half a million records
_MIN_PICKLE = 16 * 1024 * 1024  # bytes that any pickle may have
_PICKLE_PER_RECORD = 4096  # bytes more for each storage: an honest one needs some 250
_MAX_LEGACY_PICKLE = 64 * 1024 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Archive:
    """A ZIP archive. ``kind``: torch, torchscript, or zip for any other.

    Attributes:
        pickle: the bytes of data.pkl (of torch archives).
        storages: key -> (offset in the file, bytes).
        big_endian: the machine that wrote it was.
    """

    kind: str
    pickle: bytes = b""
    storages: Mapping[str, tuple[int, int]] | None = None
    big_endian: bool = False


@dataclass(frozen=True, slots=True)
class Legacy:
    """The legacy format: the object's pickle, the pickle of the storage keys, and where the storages start."""

    pickle: bytes
    keys: bytes
    start: int


class Scan(RawIOBase):
    """A file read by ``pread`` (so that others may read it too), which refuses to read much at once."""

    def __init__(self, handle: int, size: int, *, limit: int, where: str) -> None:
        super().__init__()
        self._handle, self._size, self._limit, self._where, self._position = handle, size, limit, where, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = SEEK_SET) -> int:
        position = {SEEK_SET: 0, SEEK_CUR: self._position, SEEK_END: self._size}[whence] + offset
        if position < 0:
            raise OSError("before the start")
        self._position = position
        return position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        wanted = max(self._size - self._position, 0)
        if size is not None and size >= 0:
            wanted = min(size, wanted)
        if wanted > self._limit:
            raise _bad(self._where, f"asks for {wanted} bytes of memory for what describes the tensors")
        data = os.pread(self._handle, wanted, self._position)
        self._position += len(data)
        return data


def read_archive(handle: int, size: int, where: str) -> Archive:
    """The archive open as *handle*, of *size* bytes.

    Raises:
        CheckpointError: damaged, or made to harm: names that lead out, compressed or encrypted records, records
            that overlap or are not in the file, a pickle out of proportion.
    """
    scan = Scan(handle, size, limit=MAX_DIRECTORY, where=where)
    try:
        with zipfile.ZipFile(scan) as opened:
            return _archive(opened, handle, size, where)
    # A hostile directory makes zipfile raise any of these.
    except (zipfile.BadZipFile, zipfile.LargeZipFile, OSError, EOFError, struct.error, ValueError, OverflowError,
            NotImplementedError, RuntimeError, IndexError) as error:  # fmt: skip
        raise _bad(where, f"a damaged or cut-off archive ({printable(str(error), 200)})") from None


def _archive(opened: zipfile.ZipFile, handle: int, size: int, where: str) -> Archive:
    records = opened.infolist()
    names = {record.filename for record in records}
    # PyTorch's own reader ignores case. What two readers would understand differently is refused.
    if len({name.lower() for name in names}) != len(records):
        raise _bad(where, "an archive with two records of one name")
    for record in records:
        path = PurePosixPath(record.filename)
        # zipfile cuts names at NUL, and PyTorch does not.
        if path.is_absolute() or ".." in path.parts or "\\" in record.orig_filename or "\0" in record.orig_filename:
            raise _bad(where, f"a record that leads out of the archive: {printable(record.filename, 200)!r}")
    roots = [name.removesuffix("/data.pkl") for name in names if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        return Archive("zip")
    root = roots[0]
    if f"{root}/constants.pkl" in names:  # torch.serialization._is_torchscript_zip
        return Archive("torchscript")
    if not all(name.startswith(f"{root}/") for name in names) or min(r.header_offset for r in records) != 0:
        raise _bad(where, "an archive that begins with something else")
    _stored(records, size, where)
    prefix = f"{root}/data/"
    storages = {
        record.filename.removeprefix(prefix): (_offset(record, handle, size, where), record.file_size)
        for record in records
        if record.filename.startswith(prefix)
    }
    pickle = opened.getinfo(f"{root}/data.pkl")
    if pickle.file_size > _MIN_PICKLE + _PICKLE_PER_RECORD * len(storages):
        raise _bad(where, f"a pickle of {pickle.file_size} bytes for {len(storages)} storages")
    order = f"{root}/byteorder"
    if order in names and opened.getinfo(order).file_size > 16:
        raise _bad(where, "an unknown byte order")
    return Archive("torch", opened.read(pickle), storages, order in names and opened.read(order) == b"big")


def _stored(records: list[zipfile.ZipInfo], size: int, where: str) -> None:
    """Nothing is compressed, so nothing can unpack to more than the file has."""
    position = 0
    for record in sorted(records, key=lambda record: record.header_offset):
        if record.flag_bits & 0x1:
            raise _bad(where, f"an encrypted record: {printable(record.filename, 200)!r}")
        if record.compress_type != zipfile.ZIP_STORED or record.compress_size != record.file_size:
            raise _bad(where, f"a compressed record ({printable(record.filename, 200)!r}); torch.save writes none")
        if record.header_offset < position:
            raise _bad(where, "records that overlap")
        position = record.header_offset + 30 + record.file_size
    if position > size:
        raise _bad(where, "is cut off")


def _offset(record: zipfile.ZipInfo, handle: int, size: int, where: str) -> int:
    """Where the record's content starts, by its local header (APPNOTE.TXT 4.3.7)."""
    local = os.pread(handle, 30, record.header_offset)
    if len(local) < 30 or not local.startswith(ZIP_MAGIC):
        raise _bad(where, f"no record where {printable(record.filename, 200)!r} should be")
    name, extra = struct.unpack("<HH", local[26:30])
    offset: int = record.header_offset + 30 + name + extra
    if offset + record.file_size > size:
        raise _bad(where, "is cut off")
    return offset


def read_legacy(handle: int, size: int, where: str) -> Legacy:
    """The legacy file open as *handle*, of *size* bytes.

    Raises:
        CheckpointError: damaged, or with a pickle out of proportion.
    """
    found: list[bytes] = []
    position = 0
    for _ in range(5):
        found.append(_pickle(handle, size, position, where))
        position += len(found[-1])
    return Legacy(found[3], found[4], position)


def _pickle(handle: int, size: int, position: int, where: str) -> bytes:
    """The one pickle that starts at *position*. Its length is known only from its end."""
    length = _MAX_LEGACY_PICKLE // 64
    while True:
        data = os.pread(handle, length, position)
        stream = BytesIO(data)
        try:
            with warnings.catch_warnings():
                # Of escapes that no pickler writes, which Python would speak of to whoever reads the file.
                warnings.simplefilter("ignore", DeprecationWarning)
                for _ in pickletools.genops(stream):
                    pass
            return data[: stream.tell()]
        except (ValueError, EOFError, UnicodeDecodeError, struct.error, IndexError, OverflowError) as error:
            if position + length >= size or length >= _MAX_LEGACY_PICKLE:
                raise _bad(where, f"a damaged or cut-off pickle ({type(error).__name__})") from None
            length *= 8


def _bad(where: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint: {printable(where)}: {what}", hint="nothing of it was extracted or run: get the file again"
    )
