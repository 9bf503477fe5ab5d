"""The approved checkpoint as it lies on this machine: what its layers would be, its files, its tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from ..checkpoint import File, Ownership, arrange, find
from ..checkpoint.blueprint import Blueprint
from ..checkpoint.hashing import combine, hash_weights
from ..checkpoint.opened import open_checkpoint
from ..checkpoint.opening import Contents, look
from ..checkpoint.pack import Packer
from ..checkpoint.parts import hash_content
from ..checkpoint.recipe import Recipe
from ..checkpoint.virtual import VirtualFile
from ..checkpoint.weights import TensorInfo
from ..errors import CheckpointError, LayerkitError
from ..oci import Digest
from .scan import Known, Tensors

__all__ = ["Approved", "LocalLayer"]


@dataclass(frozen=True)
class LocalLayer:
    """A layer that the approved checkpoint would have: its tar's digest, and path in the image -> what is in it.

    ``sources``: path in the image -> path of the file that goes there as it is.
    """

    diff_id: Digest
    files: Mapping[str, Known]
    sources: Mapping[str, str]


@dataclass(frozen=True)
class Approved:
    """The checkpoint at *path*.

    Raises, when it is first needed:
        CheckpointError: it is missing, or cannot be read as what it is.
        LocalResourceError: it needs torch, which is not installed.
    """

    path: Path
    on_read: Callable[[int], None]

    @cached_property
    def files(self) -> tuple[File, ...]:
        return find(str(self.path.expanduser().absolute()), Path())

    @cached_property
    def digests(self) -> Mapping[str, Digest]:
        """Path -> sha256 of each file; read where packing it did not give them."""
        return {file.path: self._hashed.get(file.path) or hash_content(file, self.on_read) for file in self.files}

    @cached_property
    def _hashed(self) -> dict[str, Digest]:
        return {}

    def holds_weights(self, key: str = "") -> bool:
        """Whether ``tensors`` gives some, by headers alone.

        Raises:
            CheckpointError: damaged, or a pickle that asks for unsafe globals.
        """
        return self._contents(key).weights is not None

    @cached_property
    def _looked(self) -> dict[str, Contents]:
        return {}

    def _contents(self, key: str) -> Contents:
        if key not in self._looked:
            found = look(self.path.expanduser(), key)
            if found.unsafe:
                raise CheckpointError(
                    f"checkpoint: {found.reason}", hint="layerkit checkpoint inspect lists what it asks for"
                )
            self._looked[key] = found
        return self._looked[key]

    @cached_property
    def _by_key(self) -> dict[str, Mapping[str, Tensors] | None]:
        return {}

    def _by_file(self, key: str) -> Mapping[str, Tensors] | None:
        if key not in self._by_key:
            weights = self._contents(key).weights
            found: dict[str, dict[str, tuple[TensorInfo, Digest]]] = {}
            if weights is not None:
                digests = hash_weights(weights, on_read=self.on_read).tensors
                for tensor in weights.tensors:
                    found.setdefault(tensor.extent.file.path, {})[tensor.name] = (tensor.info, digests[tensor.name])
            self._by_key[key] = found if weights is not None else None
        return self._by_key[key]

    def tensors(self, key: str = "") -> Tensors | None:
        """name -> what it is and its sha256; None where the files are plain bytes.

        Raises:
            CheckpointError: damaged, or a pickle that asks for unsafe globals.
        """
        by_file = self._by_file(key)
        if by_file is None:
            return None
        return {name: found for tensors in by_file.values() for name, found in tensors.items()}

    def completed(self, layer: LocalLayer, key: str) -> Mapping[str, Known]:
        """The files of *layer*, with the tensors of those that are kept as they are."""
        by_file = self._by_file(key) or {}
        return {
            path: replace(known, format="safetensors", tensors=by_file[layer.sources[path]])
            if layer.sources.get(path) in by_file
            else known
            for path, known in layer.files.items()
        }

    def layers(self, recipe: Recipe, ownership: Ownership, name: str) -> tuple[LocalLayer, ...]:
        """What packing it would give. The files are read once.

        Args:
            name: that its one file has in the image; "" where it has several.

        Raises:
            CheckpointError, LocalResourceError: as ``open_checkpoint``.
        """
        files = self.files
        if name and len(files) == 1:
            files = (replace(files[0], path=name),)
        infos: dict[str, TensorInfo] = {}
        fixed: Mapping[str, Digest] = {}
        blueprints: tuple[Blueprint, ...]
        if recipe.format == "keep":
            blueprints = arrange(files, ownership, limit=recipe.max_layers)
        else:
            place = str(self.path.expanduser().absolute())
            opened = open_checkpoint(place, Path(), files, ownership, recipe)
            infos, fixed = {info.name: info for info in opened.tensors}, opened.fixed
            blueprints = opened.blueprints
        packer = Packer(blueprints, self.on_read).start()
        try:
            hashed = packer.hashed()
        finally:
            packer.stop()
        made = []
        for blueprint, found in zip(blueprints, hashed, strict=True):
            known: dict[str, Known] = {}
            sources: dict[str, str] = {}
            for content in blueprint.files:
                sections = found.sections[content.path]
                place = str(PurePosixPath(ownership.target, content.path))
                weights = isinstance(content, VirtualFile) and bool(content.sections)
                tensors = {n: (infos[n], digest) for n, digest in sections.items()} if weights else None
                form = "safetensors" if weights else ""
                digest = sections.get("") or fixed.get(content.path)
                known[place] = Known(content.size, digest, form, tensors)
                if isinstance(content, File):
                    sources[place] = self.files[0].path if len(files) == 1 else content.path
                    if digest is not None:
                        self._hashed[sources[place]] = digest
            made.append(LocalLayer(found.digest, known, sources))
        return tuple(made)


def weights_hash(tensors: Tensors) -> Digest:
    """The weights hash of *tensors*."""
    return combine(list(tensors.values()))


def try_layers(
    approved: Approved, recipe: Recipe, ownership: Ownership, name: str
) -> tuple[tuple[LocalLayer, ...], str]:
    """As ``layers``; none, and why, where it cannot be packed so: another file may hold the same weights."""
    _ = approved.files  # that it is there is not in question
    try:
        return approved.layers(recipe, ownership, name), ""
    except LayerkitError as error:
        return (), error.message
