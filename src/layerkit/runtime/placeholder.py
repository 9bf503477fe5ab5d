"""Finding the placeholder's layer in an image that BuildKit built. Pure."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import BinaryIO

from ..oci import Descriptor
from .bake import PLACEHOLDER, PLACEHOLDER_NAME

__all__ = ["MAX_SIZE", "disturbs", "may_be_placeholder", "placeholder_place"]

MAX_SIZE = 4096  # bytes of the blob; BuildKit's are below 200 as gzip, 3584 as tar
_MAX_TAR = 64 * 1024  # bytes uncompressed


def may_be_placeholder(descriptor: Descriptor) -> bool:
    """By its size; whether it is one only its content says."""
    return descriptor.size <= MAX_SIZE


def placeholder_place(blob: bytes) -> tuple[str, int, int] | None:
    """(folder, uid, gid) that a placeholder layer's marker file was put to; None where *blob* is no such layer."""
    try:
        raw = _uncompressed(blob)
        with tarfile.open(fileobj=io.BytesIO(raw), mode="r:") as tar:
            for member in tar:
                path = PurePosixPath("/", member.name)
                if path.name != PLACEHOLDER_NAME or not member.isfile():
                    continue
                content = tar.extractfile(member)
                if content is not None and content.read(len(PLACEHOLDER) + 1) == PLACEHOLDER:
                    return str(path.parent), member.uid, member.gid
    except (tarfile.TarError, zlib.error, ValueError, EOFError, OSError):
        return None
    return None


def disturbs(blob: BinaryIO, folder: str) -> bool:
    """Whether the layer *blob*, above the placeholder in *folder*, moves, deletes, copies or changes it.

    Its file is in the layer then, or a whiteout of it or of a folder that it is in (image-spec, ``layer.md``). False
    also where *blob* cannot be read.

    Args:
        blob: to be read from where it stands, its beginning; it can seek.
    """
    marker = PurePosixPath(folder, PLACEHOLDER_NAME)
    hidden = {marker, *marker.parents}
    try:
        with _opened(blob) as tar:
            for member in tar:
                path = PurePosixPath("/", member.name)
                if path.name == PLACEHOLDER_NAME:
                    return True
                if path.name == ".wh..wh..opq" and path.parent in hidden:
                    return True
                if path.name.startswith(".wh.") and path.with_name(path.name[4:] or ".") in hidden:
                    return True
    except (tarfile.TarError, zlib.error, ValueError, EOFError, OSError):
        return False
    return False


class _Guarded(io.BufferedIOBase):
    """What tarfile reads from; *failure*, which is no error of Python's own, becomes a ValueError."""

    def __init__(self, read: Callable[[int], bytes], failure: type[Exception]) -> None:
        self._read, self._failure = read, failure

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            return self._read(-1 if size is None else size)
        except self._failure as error:
            raise ValueError(str(error)) from error


def _opened(blob: BinaryIO) -> tarfile.TarFile:
    magic = blob.read(4)
    blob.seek(0)
    if magic == b"\x28\xb5\x2f\xfd":
        try:
            import zstandard
        except ImportError:
            raise ValueError("no zstandard") from None
        reader = zstandard.ZstdDecompressor().stream_reader(blob, read_across_frames=True)
        return tarfile.open(fileobj=_Guarded(reader.read, zstandard.ZstdError), mode="r|")
    return tarfile.open(fileobj=blob, mode="r|gz" if magic[:2] == b"\x1f\x8b" else "r|")


def _uncompressed(blob: bytes) -> bytes:
    if blob[:2] == b"\x1f\x8b":
        return zlib.decompressobj(31).decompress(blob, _MAX_TAR)
    if blob[:4] == b"\x28\xb5\x2f\xfd":
        try:
            import zstandard
        except ImportError:
            return b""
        try:
            # Not decompress(): it believes the size that the blob's own header claims.
            with zstandard.ZstdDecompressor().stream_reader(blob) as reader:
                return bytes(reader.read(_MAX_TAR))
        except zstandard.ZstdError:
            return b""
    return blob[:_MAX_TAR]
