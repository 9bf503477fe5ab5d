"""A checkpoint with its headers read: kept or converted, whole or in shards, and the layers that this gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import CheckpointError, printable
from ..oci import Digest
from .blueprint import OWN_LAYER, Blueprint, Content, Ownership, arrange
from .convert import Conversion, convert_weights, converted_name
from .files import File
from .opening import open_weights
from .recipe import Recipe
from .safetensors import INDEX_NAME
from .sample import sample_file
from .shards import index_of, shards
from .virtual import Piece, VirtualFile
from .weights import Tensor, TensorInfo, Weights

__all__ = ["Opened", "open_checkpoint", "sample_layer"]


@dataclass(frozen=True)
class Opened:
    """A checkpoint with its headers read: what its layers will be, and no tensor read yet.

    Attributes:
        weights: as they are in the source.
        tensors: what each will be in the image, sorted by name.
        contents: the files in the image.
        made: paths of those among them that hold weights; what is in them is said by the weights hash.
        fixed: path -> sha256 of what is made here and is no weights (the index).
        blueprints: the layers.
    """

    weights: Weights
    tensors: tuple[TensorInfo, ...]
    contents: tuple[Content, ...]
    made: tuple[str, ...]
    fixed: Mapping[str, Digest]
    blueprints: tuple[Blueprint, ...]


def open_checkpoint(pattern: str, root: Path, files: Sequence[File], ownership: Ownership, recipe: Recipe) -> Opened:
    """Read the headers of the checkpoint that *pattern* names (*files*: what ``find`` found there).

    Raises:
        CheckpointError: it cannot be read as weights, or two files would have one name.
        LocalResourceError: a pickled checkpoint or a change of dtype, and no torch.
    """
    place = _place(pattern, root, files)
    weights = open_weights(place, recipe.options.key)
    sources = {file.source for file in weights.files}
    missing = sources - {file.source for file in files}
    if missing:
        raise CheckpointError(
            f"checkpoint: {printable(pattern)!r} is an index of files that it does not name",
            hint="set checkpoint.path to the folder",
        )
    if recipe.format == "keep":
        kept = tuple(file.path for file in files if file.source in sources)
        tensors = tuple(tensor.info for tensor in weights.tensors)
        return Opened(weights, tensors, tuple(files), kept, {}, arrange(files, ownership, limit=recipe.max_layers))
    others = [file for file in files if file.source not in sources]
    conversion = _convert(weights, recipe, others, "" if place.is_dir() else files[0].path)
    made = tuple(file.path for file in conversion.files)
    contents: list[Content] = [*others, *conversion.files]
    fixed = {}
    if recipe.shard_size or weights.format == "sharded":
        text = _index(conversion)
        contents.append(VirtualFile(INDEX_NAME, len(text), (Piece(0, len(text), text),)))
        fixed[INDEX_NAME] = Digest.of(text)
    _no_clash(contents)
    blueprints = arrange(contents, ownership, limit=recipe.max_layers, apart=frozenset(made))
    return Opened(weights, conversion.tensors, tuple(contents), made, fixed, blueprints)


def _no_clash(contents: Sequence[Content]) -> None:
    paths = Counter(content.path for content in contents)
    for content in contents:
        if paths[content.path] > 1 or any(str(parent) in paths for parent in PurePosixPath(content.path).parents):
            raise CheckpointError(
                f"checkpoint: {printable(content.path)} would be in the way of what is made of the weights",
                hint="move it out of the folder, or name the file of the weights",
            )


def _place(pattern: str, root: Path, files: Sequence[File]) -> Path:
    whole = Path(root, Path(pattern).expanduser())
    if whole.exists():
        return whole
    if len(files) > 1:
        raise CheckpointError(
            f"checkpoint: {printable(pattern)!r} matches {len(files)} files; weights are read from one checkpoint",
            hint="set checkpoint.path to the file, or to the folder of its shards",
        )
    return files[0].source


def _convert(weights: Weights, recipe: Recipe, others: Sequence[File], name: str) -> Conversion:
    def assign(chosen: Mapping[str, Tensor], made: Sequence[TensorInfo]) -> Mapping[str, Sequence[str]]:
        if recipe.shard_size:
            # The index and the small files are one layer, each large file is another.
            room = recipe.max_layers - 1 - sum(file.size >= OWN_LAYER for file in others)
            return shards(made, size=recipe.shard_size, limit=max(1, room))
        groups: dict[str, list[str]] = {}
        for info in made:
            source = chosen[info.name].extent.file.path
            groups.setdefault(converted_name(PurePosixPath(source).name), []).append(info.name)
        return groups

    if recipe.shard_size or weights.format == "sharded":
        return convert_weights(weights, recipe.options, split=assign)
    return convert_weights(weights, recipe.options, name=converted_name(PurePosixPath(name).name))


def _index(conversion: Conversion) -> bytes:
    files = {file.path: [name for name, _, _ in file.sections] for file in conversion.files}
    return index_of(files, {info.name: info.nbytes for info in conversion.tensors})


def sample_layer(blueprint: Blueprint) -> str:
    """A hash of the layer's headers and of a few places of its files: see ``sample``.

    Raises:
        CheckpointError: a file cannot be read, or is not what it was.
    """
    said = [f"{piece.start} {Digest.of(piece.data)}" for piece in blueprint.pieces if piece.data]
    for content in blueprint.files:
        if isinstance(content, VirtualFile):
            said.append(content.sample())
        elif isinstance(content, File):
            said.append(sample_file(content))
    return Digest.of("\n".join(said).encode()).hex[:32]
