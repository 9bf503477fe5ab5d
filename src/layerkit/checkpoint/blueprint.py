"""The layers of a checkpoint before a byte is read: which file is in which, and how each tar is made up.

A layer is a list of pieces (tar headers, stretches of files, padding), so its size is known before a byte is
read, and it can be opened at any offset again. Same content, target, owner and mode give the same digest
whatever machine, clock, umask or folder order (as jib's ReproducibleLayerBuilder: sorted names, explicit
parents, fixed times, numeric owners).
"""

from __future__ import annotations

import bisect
import hashlib
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import PurePosixPath
from typing import Literal, Protocol, TypeAlias

from ..oci import MEDIA, Descriptor, Digest, Layer

__all__ = [
    "CHUNK",
    "FORMAT_VERSION",
    "MAX_CHECKPOINT_LAYERS",
    "OWN_LAYER",
    "Blueprint",
    "Compression",
    "Content",
    "Ownership",
    "arrange",
    "checkpoint_key",
    "content_digest",
]

FORMAT_VERSION = 1  # of the tar's layout: raised when the same files would give other bytes
CHUNK = 1024 * 1024  # bytes a read; larger ones fall out of the processor's cache between read and hash
OWN_LAYER = 16 * 1024 * 1024  # bytes from which a file is worth a layer of its own
MAX_CHECKPOINT_LAYERS = 32  # an image has 127 at most, and the base and code need theirs
_BLOCK = 512
_INSTRUCTION = re.compile(
    r"COPY --link --chown=([0-9]{1,10}):([0-9]{1,10}) --chmod=([0-7]{3,4}) --from=checkpoint (.+) (/\S*)"
)
Compression: TypeAlias = Literal["none", "zstd", "auto"]
# What save_pretrained and convert scripts call the files of a checkpoint that is in shards.
_SHARD = re.compile(r"-\d+-of-\d+\.(?:safetensors|bin|pt|pth)$")


class Content(Protocol):
    """What goes into a layer as a file: one on disk, or one that is made while it is read."""

    @property
    def path(self) -> str:
        """Where it goes below the target, POSIX, relative."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def mark(self) -> str:
        """Another one for another content, as far as can be told without reading it."""

    @property
    def sections(self) -> tuple[tuple[str, int, int], ...]:
        """(name, start, size) of what is hashed by itself, in their order; no chunk is of two of them."""

    def read(self, offset: int, take: Callable[[], memoryview]) -> Iterator[memoryview]:
        """The bytes from *offset* on, each chunk in a buffer that *take* gave, which is asked once a chunk."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """Where the files go in the image, whose they are, and how they may be used.

    Attributes:
        target: absolute folder in the image.
        uid, gid: numeric owner.
        mode: of files; folders get the x of every r.
    """

    target: str
    uid: int = 0
    gid: int = 0
    mode: int = 0o644

    @property
    def folder_mode(self) -> int:
        return self.mode | (self.mode & 0o444) >> 2

    def instruction(self, source: str) -> str:
        """The Dockerfile instruction that this stands for, for the image's history."""
        owner, mode = f"{self.uid}:{self.gid}", f"{self.mode:04o}"
        # The same text for the same key: "/app/model" and "/app/model/" are one folder.
        folder = f"{PurePosixPath(self.target)}".rstrip("/") + "/"
        return f"COPY --link --chown={owner} --chmod={mode} --from=checkpoint {source} {folder}"

    @classmethod
    def parse(cls, instruction: str) -> tuple[Ownership, str] | None:
        """What ``instruction`` wrote into an image's history, and its *source*; None where it is another text."""
        found = _INSTRUCTION.fullmatch(instruction)
        return (cls(found[5], int(found[1]), int(found[2]), int(found[3], 8)), found[4]) if found else None

    @property
    def plain(self) -> Ownership:
        """The same without a / at the end of its target, so that what is the same is equal."""
        return replace(self, target=self.target.rstrip("/") or "/")


@dataclass(frozen=True, slots=True)
class _Piece:
    """A run of the tar's bytes: *data*, or the first *size* bytes of *file*."""

    start: int
    size: int
    data: bytes = b""
    file: Content | None = None


@dataclass(frozen=True)
class Blueprint:
    """One layer, ready to be read: what its tar consists of. ``size`` in bytes, before compression."""

    files: tuple[Content, ...]
    created_by: str
    pieces: tuple[_Piece, ...]
    size: int
    compression: Compression = "none"

    def open(self, offset: int = 0) -> Iterator[memoryview]:
        """The tar's bytes from *offset* on, in chunks of at most 1 MiB.

        A chunk is valid until the next one is asked for: the buffer is used again.

        Raises:
            CheckpointError: a file is not what it was when it was found, or changed while it was read.
        """
        buffer = bytearray(CHUNK)
        view = memoryview(buffer)
        first = bisect.bisect_right(self.pieces, offset, key=lambda piece: piece.start) - 1
        for piece in self.pieces[max(first, 0) :]:
            skip = max(offset - piece.start, 0)
            if skip >= piece.size and piece.size:
                continue
            if piece.file is None:
                yield memoryview(piece.data)[skip:]
            else:
                yield from piece.file.read(skip, lambda: view)

    @property
    def label(self) -> str:
        """What it is called in a line of progress."""
        return self.files[0].path if len(self.files) == 1 else f"{len(self.files)} files"

    @property
    def known(self) -> Digest | None:
        """The digest of what is sent, where nothing has to be read for that."""
        return None

    @cached_property
    def mark(self) -> str:
        """The same one is the same layer: of the tar's headers, and the marks of the files."""
        whole = hashlib.sha256(f"{FORMAT_VERSION} {self.size}".encode())
        for piece in self.pieces:
            whole.update(piece.data or f"{piece.start} {piece.size} {piece.file and piece.file.mark}".encode())
        return whole.hexdigest()

    def content_mark(self, digests: Mapping[str, Digest]) -> str | None:
        """The same one is the same tar: of its headers, and of *digests*, the sha256 of each file by its path.

        None where one of these is not known.
        """
        whole = hashlib.sha256(f"{FORMAT_VERSION} {self.size}".encode())
        for piece in self.pieces:
            if piece.file is None:
                whole.update(piece.data)
            elif piece.file.path in digests:
                whole.update(f"{piece.start} {piece.size} {digests[piece.file.path]}".encode())
            else:
                return None
        return whole.hexdigest()

    def layer(self, digest: Digest) -> Layer:
        """The layer that this becomes once its digest is known: uncompressed, digest and diff_id are the same."""
        return Layer(Descriptor(MEDIA.LAYER, digest, self.size), digest, self.created_by)


def arrange(
    files: Sequence[Content],
    ownership: Ownership,
    *,
    limit: int = MAX_CHECKPOINT_LAYERS,
    apart: frozenset[str] = frozenset(),
) -> tuple[Blueprint, ...]:
    """The layers for *files*: each large file or shard in one of its own, the small ones together in another.

    Which file goes where depends on its name and size class alone, so that a changed file moves only its own
    layer. Where that would be over *limit* layers, the large ones share them by a hash of their names.

    Args:
        limit: most layers.
        apart: paths of files that get a layer of their own whatever their size. The small files are above them
            then, and not below: a layer that changes makes every node unpack all those above it once more.
    """

    def is_large(file: Content) -> bool:
        return file.size >= OWN_LAYER or file.path in apart or _SHARD.search(file.path) is not None

    small = [file for file in files if not is_large(file)]
    large = [file for file in files if is_large(file)]
    groups: list[Sequence[Content]]
    if limit == 1:
        return (_blueprint(files, ownership),)
    if len(large) < limit or len(large) + bool(small) <= limit:
        groups = [[file] for file in large]
    else:
        bins: dict[int, list[Content]] = {}
        for file in large:
            bins.setdefault(int(Digest.of(file.path.encode()).hex, 16) % (limit - 1), []).append(file)
        groups = [bins[index] for index in sorted(bins)]
    if small:
        groups.insert(len(groups) if apart else 0, small)
    return tuple(_blueprint(group, ownership) for group in groups)


def _blueprint(files: Sequence[Content], ownership: Ownership) -> Blueprint:
    pieces: list[_Piece] = []
    position = 0

    def add(size: int, *, data: bytes = b"", file: Content | None = None) -> None:
        nonlocal position
        if size:
            pieces.append(_Piece(position, size, data, file))
            position += size

    paths = {str(PurePosixPath(ownership.target, file.path)): file for file in files}
    target = PurePosixPath(ownership.target)
    # The target's parents are root's, as BuildKit makes them for COPY --link; the target and below are the owner's.
    folders = {str(parent) for path in paths for parent in PurePosixPath(path).parents if str(parent) != "/"}
    for folder in sorted(folders):
        ours = PurePosixPath(folder).is_relative_to(target)
        header = _header(folder, tarfile.DIRTYPE, 0, ownership if ours else Ownership("/"))
        add(len(header), data=header)
    for path in sorted(paths):
        file = paths[path]
        header = _header(path, tarfile.REGTYPE, file.size, ownership)
        add(len(header), data=header)
        add(file.size, file=file)
        padding = -file.size % _BLOCK
        add(padding, data=bytes(padding))
    add(2 * _BLOCK, data=bytes(2 * _BLOCK))
    names = " ".join(file.path for file in files) if len(files) <= 3 else f"{len(files)} files"
    return Blueprint(tuple(files), ownership.instruction(names), tuple(pieces), position)


def _header(path: str, kind: bytes, size: int, ownership: Ownership) -> bytes:
    info = tarfile.TarInfo(path.lstrip("/"))
    info.type = kind
    info.size = size
    info.mode = ownership.folder_mode if kind == tarfile.DIRTYPE else ownership.mode
    info.uid, info.gid = ownership.uid, ownership.gid
    info.mtime = 0
    # PAX: names over 100 bytes, UTF-8, and sizes of 8 GiB and more (POSIX.1-2001, pax Extended Header).
    return info.tobuf(format=tarfile.PAX_FORMAT, encoding="utf-8", errors="strict")


def content_digest(files: Mapping[str, Digest]) -> Digest:
    """What a checkpoint is called: of one file its sha256, of several the sha256 of their sorted list.

    The list is what ``sha256sum`` prints in the folder, sorted by path: ``HEX  PATH`` and a line feed each.
    """
    if len(files) == 1:
        return next(iter(files.values()))
    return Digest.of("".join(f"{files[path].hex}  {path}\n" for path in sorted(files)).encode())


def checkpoint_key(files: Mapping[str, Digest], ownership: Ownership, also: Sequence[str] = ()) -> str:
    """The key of the checkpoint's layers: of content, names, target, owner, mode and format; of nothing else.

    Args:
        also: lines on what else makes them others.
    """
    text = "\n".join(
        [
            f"layerkit checkpoint {FORMAT_VERSION}",
            f"{PurePosixPath(ownership.target)} {ownership.uid}:{ownership.gid} {ownership.mode:04o}",
            *(f"{files[path]} {path}" for path in sorted(files)),
            *also,
        ]
    )
    return Digest.of(text.encode()).hex[:40]
