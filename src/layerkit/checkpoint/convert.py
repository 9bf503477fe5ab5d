"""Inference weights: a safetensors file made of a checkpoint, as a value that is never written anywhere.

Its size is known before any tensor is read, and it opens at any offset, so that a layer can be packed from it
without a temporary file. The same weights and options give the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from ..errors import CheckpointError, ConfigurationError, LocalResourceError, printable
from .opening import open_weights
from .reader import CHUNK
from .recipe import DTYPES, Options
from .safetensors import layout, size_of
from .virtual import Lost, Piece, VirtualFile
from .weights import Tensor, TensorInfo, Weights

__all__ = ["Conversion", "Lost", "VirtualFile", "convert", "convert_weights", "converted_name", "write"]

_FLOATING = ("F64", "F32", "F16", "BF16")  # what a change of dtype changes
_SUFFIXES = (".tar", ".pth", ".pt", ".bin", ".ckpt", ".safetensors")


@dataclass(frozen=True)
class Conversion:
    """What a checkpoint becomes.

    Attributes:
        weights: what it is made from.
        files: what is made.
        tensors: what is in them, by name, sorted.
        renamed: names that lost the prefix, in number.
        dropped: names that were left out.
        unused: globs of ``drop`` that no name matched.
    """

    weights: Weights
    files: tuple[VirtualFile, ...]
    tensors: tuple[TensorInfo, ...]
    renamed: int
    dropped: tuple[str, ...]
    unused: tuple[str, ...]

    @property
    def size(self) -> int:
        """Bytes of the files made."""
        return sum(file.size for file in self.files)

    @property
    def source_size(self) -> int:
        """Bytes of the files it is made from."""
        return sum(file.size for file in self.weights.files)

    @property
    def cast(self) -> tuple[str, ...]:
        """Names of the tensors whose dtype changes."""
        pieces = (piece for file in self.files for piece in file.pieces)
        return tuple(sorted(p.name for p in pieces if p.tensor is not None and p.dtype != p.tensor.info.dtype))


def convert(path: str | Path, options: Options | None = None, *, name: str = "") -> Conversion:
    """The safetensors file that the checkpoint at *path* becomes. No tensor is read yet.

    Args:
        name: of the file; where left out, that of the checkpoint with ``.safetensors`` for its own ending
            (``model.safetensors`` for a folder or shards).

    Raises:
        CheckpointError: the checkpoint cannot be read, or no tensor is left, or two have one name.
        LocalResourceError: a pickled checkpoint or a change of dtype, and no torch.
    """
    options = options or Options()
    weights = open_weights(path, options.key)
    if not name:
        name = converted_name("" if weights.format == "sharded" or Path(path).is_dir() else Path(path).name)
    return convert_weights(weights, options, name=name)


def converted_name(name: str) -> str:
    """The name of what the file *name* becomes; ``model.safetensors`` where it has none."""
    while name.endswith(_SUFFIXES):
        name = name[: name.rindex(".")]
    return f"{name or 'model'}.safetensors"


def convert_weights(
    weights: Weights,
    options: Options,
    *,
    name: str = "model.safetensors",
    split: Callable[[Mapping[str, Tensor], Sequence[TensorInfo]], Mapping[str, Sequence[str]]] | None = None,
) -> Conversion:
    """As ``convert``, of weights that are open already (``options.key`` has no part in it).

    Args:
        split: given name -> tensor of the source, and what is made of each, says file -> names of its tensors;
            where left out, all of them go to the file *name*.
    """
    chosen: dict[str, Tensor] = {}
    dropped: list[str] = []
    renamed = 0
    used: set[str] = set()
    for tensor in weights.tensors:
        short = tensor.name.removeprefix(options.strip_prefix)
        renamed += short != tensor.name
        matching = {pattern for pattern in options.drop if fnmatchcase(short, pattern)}
        used |= matching
        if matching:
            dropped.append(short)
        elif short in chosen:
            raise CheckpointError(
                f"checkpoint: two tensors are called {printable(short, 200)!r} without {options.strip_prefix!r}"
            )
        else:
            chosen[short] = tensor
    if not chosen:
        raise CheckpointError("checkpoint: no tensor is left", hint="drop matches all of them")
    target = DTYPES[options.dtype]
    dtypes = {
        key: target if target and tensor.info.dtype in _FLOATING else tensor.info.dtype
        for key, tensor in chosen.items()
    }
    infos = [
        TensorInfo(key, dtypes[key], tensor.info.shape, size_of(dtypes[key], tensor.info.shape))
        for key, tensor in sorted(chosen.items(), key=lambda item: item[0].encode())
    ]
    groups = split(chosen, infos) if split is not None else {name: list(chosen)}
    files = tuple(_file(path, [(key, chosen[key], dtypes[key]) for key in names]) for path, names in groups.items())
    unused = tuple(pattern for pattern in options.drop if pattern not in used)
    return Conversion(weights, files, tuple(infos), renamed, tuple(dropped), unused)


def _file(path: str, tensors: Sequence[tuple[str, Tensor, str]]) -> VirtualFile:
    """The file *path* of (name, source, dtype)s."""
    head, entries = layout((name, dtype, tensor.info.shape) for name, tensor, dtype in tensors)
    sources = {name: tensor for name, tensor, _ in tensors}
    pieces = [Piece(0, len(head), head)]
    pieces += [
        Piece(len(head) + e.begin, e.end - e.begin, tensor=sources[e.name], name=e.name, dtype=e.dtype) for e in entries
    ]
    return VirtualFile(path, pieces[-1].start + pieces[-1].size, tuple(pieces))


def write(
    conversion: Conversion,
    target: Path,
    *,
    force: bool = False,
    on_write: Callable[[int], None] | None = None,
) -> dict[str, Lost]:
    """Write the one file of *conversion* to *target*, whole or not at all.

    It is written beside *target* under another name and then renamed.

    Args:
        force: write over a file that is there; never over one that is converted.
        on_write: called with the number of bytes just written.

    Returns:
        name -> what was lost, for each tensor whose dtype changed.

    Raises:
        ConfigurationError: *target* is there already, or is what is converted, or is no place for a file.
        LocalResourceError: no room, or no permission.
        CheckpointError: the checkpoint changed meanwhile.
    """
    (file,) = conversion.files
    _may_write(conversion, target, force)
    lost: dict[str, Lost] = {}

    def note(name: str, more: Lost) -> None:
        old = lost.get(name, Lost(0.0, 0.0, 0))
        lost[name] = Lost(
            max(old.absolute, more.absolute), max(old.relative, more.relative), old.overflowed + more.overflowed
        )

    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    buffer = memoryview(bytearray(CHUNK))
    try:
        try:
            with temporary.open("xb", buffering=0) as stream:
                for chunk in file.read(0, lambda: buffer, on_cast=note):
                    _write_all(stream.fileno(), chunk)
                    if on_write is not None:
                        on_write(len(chunk))
                os.fsync(stream.fileno())
            _may_write(conversion, target, force)  # it took a while
            if force:
                temporary.replace(target)
            else:
                _put(temporary, target)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()
    except OSError as error:
        hint = f"it takes {file.size} bytes" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise LocalResourceError(f"{target}: cannot be written: {error.strerror}", hint=hint) from None
    return lost


def _write_all(handle: int, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[os.write(handle, chunk) :]


def _put(temporary: Path, target: Path) -> None:
    """Rename, but never over a file that came meanwhile."""
    try:
        target.hardlink_to(temporary)
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # a file system without hard links
        temporary.rename(target)


def _exists(target: Path) -> ConfigurationError:
    return ConfigurationError(f"{target} is there already", hint="--force writes over it")


def _may_write(conversion: Conversion, target: Path, force: bool) -> None:
    if target.is_dir() or not target.parent.is_dir():
        what = "is a folder" if target.is_dir() else "has no folder to be in"
        raise ConfigurationError(f"{target} {what}", hint="name the file to be written")
    if not target.exists():
        if target.is_symlink() and not force:
            raise _exists(target)
        return
    if any(file.source.exists() and target.samefile(file.source) for file in conversion.weights.files):
        raise ConfigurationError(f"{target} is what is converted: it is not written over", hint="name another file")
    if not force:
        raise _exists(target)
