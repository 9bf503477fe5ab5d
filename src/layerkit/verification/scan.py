"""A layer read once: the sha256 of each of its files, and the tensors of those that hold weights."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from ..checkpoint.archive import LEGACY_MAGIC, ZIP_MAGIC
from ..checkpoint.hashing import hash_weights
from ..checkpoint.opening import look
from ..checkpoint.passing import PassingTensors
from ..checkpoint.safetensors import MAX_HEADER
from ..checkpoint.weights import TensorInfo
from ..errors import CheckpointError, IntegrityError, LayerkitError, LocalResourceError
from ..oci import Descriptor, Digest
from .ahead import ahead
from .entries import Entry, entries, unpacked

__all__ = ["Known", "Node", "Scan", "Tensors", "scan_layer"]

# name -> what the tensor is, and the sha256 of its canonical bytes
Tensors = Mapping[str, tuple[TensorInfo, Digest]]
_HEAD = len(LEGACY_MAGIC)  # bytes by which a format is told
_ZIPS = (".whl", ".egg", ".jar", ".npz", ".zip")


@dataclass(frozen=True)
class Known:
    """What is known of a file in an image.

    Attributes:
        size: bytes, or -1.
        digest: sha256 of its bytes; None where only its tensors are known.
        format: safetensors, torch; "" for any other.
        tensors: of its weights; None where they were not asked for, or cannot be had.
        problem: why they cannot.
    """

    size: int
    digest: Digest | None
    format: str = ""
    tensors: Tensors | None = None
    problem: LayerkitError | None = None


@dataclass(frozen=True)
class Node:
    """An entry of a layer: its path, file, folder, hardlink or other; what is known of it, where it is a file."""

    path: str
    kind: str
    known: Known | None = None
    target: str = ""


@dataclass(frozen=True)
class Scan:
    """All entries of one layer. ``read``: bytes of its blob."""

    nodes: tuple[Node, ...]
    read: int


def scan_layer(
    descriptor: Descriptor,
    diff_id: Digest,
    stream: AbstractContextManager[Iterator[bytes]],
    *,
    digests: bool = True,
    tensors: bool = True,
    key: str = "",
    on_read: Callable[[int], None] = lambda count: None,
) -> Scan:
    """Read the layer that *stream* gives, verified, to its end.

    Safetensors are hashed while they pass by. What torch.save wrote has its directory at its end, so it is copied to
    a temporary file first (TMPDIR), which is gone when this returns.

    Args:
        digests: hash the files.
        tensors: hash the tensors of those that hold weights. With neither only names are of interest.
        key: of the state dict in a pickled checkpoint.
        on_read: called with the number of the blob's bytes just read.

    Raises:
        IntegrityError: the blob is not what its digest says, its tar not what the image's diff_id says, or no tar.
        LocalResourceError: no room for the temporary file.
    """
    count, whole = 0, hashlib.new(diff_id.algorithm)

    def counted(chunks: Iterator[bytes]) -> Iterator[bytes]:
        nonlocal count
        try:
            for chunk in chunks:
                count += len(chunk)
                on_read(len(chunk))
                yield chunk
        except IntegrityError:  # the last chunk is held back until all is known to be right: all of it came
            on_read(max(descriptor.size - count, 0))
            raise

    def hashed(chunks: Iterator[bytes]) -> Iterator[bytes]:
        for chunk in chunks:
            whole.update(chunk)
            yield chunk

    nodes: list[Node] = []
    with stream as chunks, ahead(counted(chunks)) as coming:
        tar = unpacked(coming, descriptor.media_type)
        # Of an uncompressed layer the digest, which is verified by who gives it, is the diff_id.
        plain = descriptor.media_type.endswith("tar")
        for entry in entries(tar if plain else hashed(tar)):
            wanted = entry.kind == "file" and (digests or tensors)
            known = _known(entry, digests, tensors, key) if wanted else None
            nodes.append(Node(entry.path, entry.kind, known, entry.target))
    found = descriptor.digest if plain else Digest(diff_id.algorithm, whole.hexdigest())
    if found != diff_id:
        raise IntegrityError(
            f"layer {descriptor.digest.short} unpacks to {found}, and the image's configuration says {diff_id}"
        )
    return Scan(tuple(nodes), count)


def _known(entry: Entry, digests: bool, tensors: bool, key: str) -> Known:
    content = entry.content
    head = b""
    while len(head) < _HEAD and (more := next(content, b"")):
        head += more
    form = _format(entry.path, entry.size, head)
    state = hashlib.sha256()
    passing = PassingTensors(entry.size, entry.path) if tensors and form == "safetensors" else None
    problem: LayerkitError | None = None
    found: Tensors | None = None
    with _Spool(entry, key) if tensors and form == "torch" else _Nowhere() as spool:
        for chunk in _all(head, content):
            if digests:
                state.update(chunk)
            spool.write(chunk)
            if passing is not None and problem is None:
                try:
                    passing.update(chunk)
                except CheckpointError as error:
                    problem = error
        try:
            if passing is not None and problem is None:
                found = {info.name: (info, digest) for info, digest in passing.finish()}
            elif form == "torch" and tensors:
                found = spool.tensors()
                form = form if found is not None else ""
        except (CheckpointError, LocalResourceError) as error:
            problem = error
    return Known(entry.size, Digest("sha256", state.hexdigest()) if digests else None, form, found, problem)


def _all(head: bytes, content: Iterator[bytes]) -> Iterator[bytes]:
    if head:
        yield head
    yield from content


def _format(path: str, size: int, head: bytes) -> str:
    """As ``checkpoint.opening`` tells them, from the first bytes; other ZIP archives by their names."""
    if head.startswith(LEGACY_MAGIC) or (head.startswith(ZIP_MAGIC) and not path.endswith(_ZIPS)):
        return "torch"
    length = int.from_bytes(head[:8], "little")
    if path.endswith(".safetensors") or (length <= min(MAX_HEADER, size - 8) and head[8:9] == b"{"):
        return "safetensors"
    return ""


class _Nowhere:
    """Keeps nothing."""

    def __enter__(self) -> _Nowhere:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def write(self, chunk: bytes) -> None:
        pass

    def tensors(self) -> Tensors | None:
        return None


class _Spool(_Nowhere):
    """A file of a layer, as a file of this machine."""

    def __init__(self, entry: Entry, key: str) -> None:
        self._entry, self._key = entry, key
        self._stream: IO[bytes] | None = None

    def __enter__(self) -> _Spool:
        try:
            self._folder = tempfile.TemporaryDirectory(prefix="layerkit-verify-")
            free = shutil.disk_usage(self._folder.name).free
            # Beside nothing else: a folder is read as a whole.
            self._file = Path(self._folder.name, PurePosixPath(self._entry.path).name)
            self._stream = self._file.open("wb")
        except OSError as error:
            raise _no_place(error) from None
        if free < self._entry.size:
            self.__exit__()
            raise LocalResourceError(
                f"{self._entry.path} of the image takes {self._entry.size} bytes in the folder for temporary files,"
                f" which has {free}",
                hint="set TMPDIR to a folder with room; safetensors are verified without a copy",
            )
        return self

    def __exit__(self, *exc: object) -> None:
        if self._stream is not None:
            self._stream.close()
        self._folder.cleanup()

    def write(self, chunk: bytes) -> None:
        assert self._stream is not None
        try:
            self._stream.write(chunk)
        except OSError as error:
            raise _no_place(error) from None

    def tensors(self) -> Tensors | None:
        assert self._stream is not None
        try:
            self._stream.flush()
        except OSError as error:
            raise _no_place(error) from None
        contents = look(self._file, self._key)
        if contents.unsafe:
            raise CheckpointError(f"checkpoint: {contents.reason}")
        if contents.weights is None:  # TorchScript, or no weights at all
            return None
        weights = contents.weights
        digests = hash_weights(weights).tensors
        return {tensor.name: (tensor.info, digests[tensor.name]) for tensor in weights.tensors}


def _no_place(error: OSError) -> LocalResourceError:
    return LocalResourceError(
        f"a pickled checkpoint of the image cannot be copied to a temporary file: {error.strerror}",
        hint="set TMPDIR to a folder with room; safetensors are verified without a copy",
    )
