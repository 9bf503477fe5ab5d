"""From a path to its weights: what kind of file it is is told by its content, not by its name."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..errors import CheckpointError, printable
from .archive import LEGACY_MAGIC, ZIP_MAGIC, Archive, Legacy, read_archive, read_legacy
from .files import File, find
from .objects import Leaf
from .reader import Reader
from .safetensors import INDEX_NAME, MAX_HEADER, header_size, parse_header, parse_index
from .weights import Extent, Extra, Tensor, TensorInfo, View, Weights

__all__ = ["Contents", "identify", "look", "open_weights"]

_INDEXES = (INDEX_NAME, "pytorch_model.bin.index.json")
_NAMES = {
    "torchscript": "a TorchScript archive",
    "zip": "a ZIP archive that torch.save did not write",
    "pickle": "a pickle that torch.save did not write",
    "tar": "a tar archive",
    "folder": "a folder with no weights in it",
    "unknown": "no format of weights that layerkit knows",
}
_READABLE = ("torch", "legacy", "safetensors", "sharded")
# A view may repeat its elements (expand): more than this is no checkpoint but an attack on whoever reads it.
_REPEATS, _FREE = 16, 1024**3


@dataclass(frozen=True)
class Contents:
    """What is at a path.

    Attributes:
        format: torch, legacy, safetensors, sharded; or torchscript, zip, pickle, tar, folder, unknown (plain bytes).
        files: what it consists of.
        weights: None where they cannot be had.
        reason: why not; "" where they can.
        unsafe: globals that a pickle asks for beyond PyTorch's safe list.
    """

    format: str
    files: tuple[File, ...]
    weights: Weights | None
    reason: str = ""
    unsafe: tuple[str, ...] = ()


def open_weights(path: str | Path, key: str = "") -> Weights:
    """The weights at *path*: a file, an index of shards, or a folder with one of them.

    Headers and pickles are read, tensors are not. Pickles are read as ``torch.load(weights_only=True)`` does.

    Args:
        key: dotted name of the state dict in a pickled checkpoint; the obvious one where left out.

    Raises:
        CheckpointError: missing, damaged, unsafe, of no known format, or without *key*.
        LocalResourceError: a pickled checkpoint, and no torch.
    """
    found = _Opening(path, key)
    if found.format not in _READABLE:
        raise CheckpointError(
            f"checkpoint: {printable(str(path))}: {_NAMES[found.format]}",
            hint="weights are read from what torch.save writes, from safetensors, and from shards with their index",
        )
    return found.weights()


def look(path: str | Path, key: str = "") -> Contents:
    """What is at *path*, also where its weights cannot be had because a pickle asks for unsafe globals.

    Raises:
        CheckpointError, LocalResourceError: as ``open_weights``, but not for plain bytes and unsafe globals.
    """
    found = _Opening(path, key)
    if found.format not in _READABLE:
        return Contents(found.format, found.files, None, _NAMES[found.format])
    try:
        weights = found.weights()
    except CheckpointError as error:
        unsafe = found.unsafe()
        if not unsafe:
            raise
        return Contents(found.format, found.files, None, error.message.removeprefix("checkpoint: "), unsafe)
    return Contents(found.format, weights.files, weights)


def identify(file: File) -> str:
    """The format of one file, from its first bytes (a safetensors file also from its name).

    Raises:
        CheckpointError: it cannot be read, or is a damaged archive.
    """
    return _identify(file)[0]


def _identify(file: File) -> tuple[str, Archive | None]:
    """The format, and what was read of a ZIP archive to know it."""
    with Reader() as reader:
        start = os.pread(reader.handle(file), 512, 0)
    if start.startswith(ZIP_MAGIC):
        with Reader() as reader:
            archive = read_archive(reader.handle(file), file.size, file.path)
        return archive.kind, archive
    if start.startswith(LEGACY_MAGIC):
        return "legacy", None
    length = int.from_bytes(start[:8], "little")
    if file.path.endswith(".safetensors") or (length <= min(MAX_HEADER, file.size - 8) and start[8:9] == b"{"):
        return "safetensors", None
    if start[257:262] == b"ustar":
        return "tar", None
    pickled = start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05")
    return "pickle" if pickled else "unknown", None


class _Opening:
    """One path: its format, its files, and its weights once they are asked for."""

    def __init__(self, path: str | Path, key: str) -> None:
        self.key = key
        self.index: Mapping[str, frozenset[str]] = {}
        self.files: tuple[File, ...] = ()
        self.format = ""
        self.archives: dict[File, Archive] = {}
        place = Path(path).expanduser()
        try:
            self._look(place)
        except OSError as error:
            raise CheckpointError(f"checkpoint: {printable(str(path))}: {error.strerror}") from None

    def _look(self, place: Path) -> None:
        if not place.is_dir():
            self._file(place)
            return
        for name in _INDEXES:
            if (place / name).is_file():
                self._file(place / name)
                return
        files = [_named(entry) for entry in sorted(place.iterdir()) if _is_regular(entry)]
        kinds = {file: self._kind(file) for file in files}
        # A folder of the hub may have both: safetensors is what is loaded from it.
        for group in (("safetensors",), ("torch", "legacy")):
            chosen = [file for file in files if kinds[file] in group]
            if len(chosen) > 1:
                names = ", ".join(printable(file.path) for file in chosen[:5])
                raise CheckpointError(
                    f"checkpoint: {printable(str(place))}: {len(chosen)} files of weights and no index: {names}",
                    hint="name the file",
                )
            if chosen:
                self.files, self.format = (chosen[0],), kinds[chosen[0]]
                return
        self.files, self.format = tuple(files), "folder"

    def _kind(self, file: File) -> str:
        kind, archive = _identify(file)
        if archive is not None:
            self.archives[file] = archive
        return kind

    def _file(self, place: Path) -> None:
        file = _named(place)
        if not place.name.endswith(".index.json"):
            self.files, self.format = (file,), self._kind(file)
            return
        self.index = parse_index(_head(file, 0, _bounded(file)), file.path)
        self.files = (file, *(_named(place.parent / name) for name in self.index))
        self.format = "sharded"

    def weights(self) -> Weights:
        if self.format != "sharded":
            return self._one(self.files[0], self.format)
        shards = [self._one(file, self._kind(file)) for file in self.files[1:]]
        for file, shard in zip(self.files[1:], shards, strict=True):
            there, named = {tensor.name for tensor in shard.tensors}, self.index[file.path]
            if there != named:
                which = sorted(there ^ named)[0]
                raise CheckpointError(
                    f"checkpoint: {printable(self.files[0].path)} and {printable(file.path)} do not agree on tensor"
                    f" {printable(which, 200)!r}",
                    hint="they are not of one checkpoint, or one of them was not written whole",
                )
        tensors = [tensor for shard in shards for tensor in shard.tensors]
        return _made(tensors, self.files, "sharded", "", [extra for shard in shards for extra in shard.extras])

    def _one(self, file: File, kind: str) -> Weights:
        if kind == "safetensors":
            return _safetensors(file, self.key)
        if kind not in ("torch", "legacy"):
            raise CheckpointError(f"checkpoint: {printable(file.path)}: {_NAMES[kind]}")
        return _pickled(file, self.archives.get(file), self.key)

    def unsafe(self) -> tuple[str, ...]:
        """Globals beyond the safe list, of all pickles."""
        from .tensors import unsafe_globals

        found: set[str] = set()
        for file in self.files[1:] if self.format == "sharded" else self.files:
            kind = self._kind(file)
            if kind == "torch":
                found.update(unsafe_globals(self.archives[file].pickle))
            elif kind == "legacy":
                with Reader() as reader:
                    found.update(unsafe_globals(read_legacy(reader.handle(file), file.size, file.path).pickle))
        return tuple(sorted(found))


def _is_regular(place: Path) -> bool:
    try:
        return stat.S_ISREG(place.stat().st_mode) and place.stat().st_size > 0
    except OSError:
        return False


def _named(place: Path) -> File:
    """The one file at *place*, under the name by which it was asked for."""
    if place.is_symlink():  # a cache of models is made of links; whoever names the link means what it leads to
        return replace(find(os.path.realpath(place), Path())[0], path=place.name)
    return find(str(place.absolute()), Path())[0]


def _bounded(file: File) -> int:
    if file.size > MAX_HEADER:
        raise CheckpointError(f"checkpoint: {printable(file.path)}: {file.size} bytes are no index of shards")
    return file.size


def _head(file: File, offset: int, length: int) -> bytes:
    with Reader() as reader:
        buffer = bytearray(length)
        reader.fill(file, memoryview(buffer), offset)
        return bytes(buffer)


def _safetensors(file: File, key: str) -> Weights:
    if key:
        raise CheckpointError(
            f"checkpoint: {printable(file.path)}: no {printable(key, 200)!r} in it: safetensors has tensors only",
            hint="leave the key out",
        )
    length = header_size(_head(file, 0, min(8, file.size)), file_size=file.size, where=file.path)
    entries = parse_header(_head(file, 8, length), data_size=file.size - 8 - length, where=file.path)
    tensors = [
        Tensor(
            TensorInfo(entry.name, entry.dtype, entry.shape, entry.end - entry.begin),
            Extent(file, 8 + length + entry.begin, entry.end - entry.begin),
        )
        for entry in entries
    ]
    return _made(tensors, (file,), "safetensors", "", ())


def _pickled(file: File, archive: Archive | None, key: str) -> Weights:
    from .select import select
    from .tensors import unpickle

    if archive is not None:
        loaded, big_endian = unpickle(archive.pickle, file.path), archive.big_endian
        places = dict(archive.storages or {})
    else:
        with Reader() as reader:
            handle = reader.handle(file)
            old = read_legacy(handle, file.size, file.path)
            loaded, big_endian = unpickle(old.pickle, file.path), False
            places = _legacy_places(old, loaded.storages, handle, file)
    for name, (size, _) in loaded.storages.items():
        if size and (name not in places or places[name][1] != size):
            raise CheckpointError(
                f"checkpoint: {printable(file.path)}: storage {printable(name, 60)!r} is not there as a whole",
                hint="it is damaged or was not written whole: get it again",
            )
    selection = select(loaded, key, file.path)
    tensors = []
    for name, stored in selection.tensors.items():
        offset = places[stored.storage][0] + stored.start if stored.size else 0
        view = None if stored.contiguous else View(stored.items, stored.strides, stored.itemsize)
        word = stored.itemsize // 2 if stored.dtype in ("C64", "C128", "C32") else stored.itemsize
        extent = Extent(file, offset, stored.size, view, word if big_endian and word > 1 else 0)
        tensors.append(Tensor(TensorInfo(name, stored.dtype, stored.shape, stored.nbytes), extent))
    return _made(tensors, (file,), "legacy" if archive is None else "torch", selection.key, selection.extras)


def _legacy_places(
    source: Legacy, storages: Mapping[str, tuple[int, int]], handle: int, file: File
) -> dict[str, tuple[int, int]]:
    """Key -> (offset, bytes): each storage is its count of elements in 8 bytes, and the elements."""
    from .tensors import unpickle

    keys = unpickle(source.keys, file.path).tree
    places: dict[str, tuple[int, int]] = {}
    position = source.start
    for key in keys if isinstance(keys, list) else ():
        name = key.text if isinstance(key, Leaf) else ""
        size, item = storages.get(name, (0, 1))
        count = int.from_bytes(os.pread(handle, 8, position), "little")
        if name not in storages or count * item != size or position + 8 + size > file.size:
            raise CheckpointError(
                f"checkpoint: {printable(file.path)}: is cut off or damaged at byte {position}",
                hint="get the file again, or save it again",
            )
        places[name] = (position + 8, size)
        position += 8 + size
    return places


def _made(tensors: Sequence[Tensor], files: tuple[File, ...], kind: str, key: str, extras: Sequence[Extra]) -> Weights:
    names = {tensor.name for tensor in tensors}
    if len(names) != len(tensors):
        raise CheckpointError(f"checkpoint: {printable(files[0].path)}: a tensor is in two shards")
    ordered = tuple(sorted(tensors, key=lambda tensor: tensor.name.encode()))
    made = Weights(ordered, files, kind, key, tuple(extras))
    most = _REPEATS * sum(file.size for file in files) + _FREE
    if made.nbytes > most:
        raise CheckpointError(
            f"checkpoint: {printable(files[0].path)}: its tensors would take {made.nbytes} bytes by repeating elements",
            hint="save them as they are used, without expand()",
        )
    return made
