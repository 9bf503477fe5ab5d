"""A checkpoint whose weights are understood: its layers, its weights hash, and how much of that is known already.

A layer is known when it was hashed, and with it the tensors in it. What was found out is kept in the state folder
under the identities of the files, so that nothing is read, and torch not imported, as long as they are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..oci import Digest
from ..state import State
from .blueprint import FORMAT_VERSION, Blueprint, Ownership
from .files import File
from .hashing import combine, hash_weights
from .opened import Opened, open_checkpoint, sample_layer
from .pack import Hashed, Packer
from .parts import Part, hash_content
from .recipe import Recipe
from .sample import sample_weights

__all__ = ["Made", "make"]

_RECORD = "weights"  # kind of record: what is known of a checkpoint under its files' identities
_SAMPLE = "weights-sample"  # kind of record: samples of what was hashed on this machine


@dataclass(frozen=True)
class Made:
    """What a checkpoint becomes.

    Attributes:
        files: those that it is made of.
        parts: its layers.
        paths: of the files that hold weights, in the image.
        others: path -> sha256 of every other file in the image; None where it is not known yet.
        samples: another image with one of these has, most likely, the same weights (``format = "keep"``) or
            the same layer.
        weights: the weights hash of what is in the image, once it is known.
        read: bytes that were read to find that out.
    """

    pattern: str
    root: Path
    files: tuple[File, ...]
    ownership: Ownership
    recipe: Recipe
    parts: tuple[Part, ...]
    paths: tuple[str, ...]
    others: Mapping[str, Digest | None]
    samples: tuple[str, ...]
    weights: Digest | None = None
    read: int = 0
    _opened: Opened | None = field(default=None, repr=False, compare=False)

    @property
    def known(self) -> bool:
        """The weights, and every other file, are known by their hash."""
        return self.weights is not None and None not in self.others.values()

    @property
    def locations(self) -> tuple[str, ...]:
        """Paths of all files in the image, below the target."""
        return tuple(sorted((*self.paths, *self.others)))

    @property
    def key_lines(self) -> tuple[str, ...]:
        """What makes its layers others, where its tensors decide; the index among the others says which is where."""
        return (
            f"format {self.recipe.format}",
            f"weights {self.weights}",
            *(f"holds weights {path}" for path in sorted(self.paths)),
            *self.recipe.limits,
        )

    @cached_property
    def opened(self) -> Opened:
        """With its headers read."""
        return self._opened or open_checkpoint(self.pattern, self.root, self.files, self.ownership, self.recipe)

    @property
    def blueprints(self) -> tuple[Blueprint, ...]:
        return self.opened.blueprints

    def hashed(self) -> dict[int, Hashed]:
        """Index -> what is known of that layer."""
        return {index: part.hashed for index, part in enumerate(self.parts) if part.hashed is not None}

    def recognised(self, seen: Collection[str], state: State, on_read: Callable[[int], None]) -> Made:
        """With everything hashed that has a sample in *seen*, or one that was hashed on this machine.

        What has another sample is another content, and need not be hashed to know it: it is hashed while it is
        sent, so that every byte is read once.

        Raises:
            CheckpointError: a file cannot be read, or changed meanwhile.
        """

        def known(sample: str) -> bool:
            return sample in seen or state.get(_SAMPLE, sample, Digest.parse) is not None

        if self.recipe.format == "keep":
            return self.finished((), state, on_read) if known(self.samples[0]) else self
        worth = [i for i, part in enumerate(self.parts) if part.hashed is None and known(part.sample)]
        if not worth:
            return self
        packer = Packer([self.blueprints[index] for index in worth], on_read).start()
        try:
            found = dict(zip(worth, packer.hashed(), strict=True))
        finally:
            packer.stop()
        parts = tuple(replace(part, hashed=found.get(index, part.hashed)) for index, part in enumerate(self.parts))
        more = replace(self, parts=parts)
        return more.finished((), state, on_read) if all(part.hashed for part in parts) else more

    def finished(self, hashed: Sequence[Hashed], state: State, on_read: Callable[[int], None]) -> Made:
        """With all of it known, and kept in *state*.

        Args:
            hashed: what hashing its layers gave, where it was done; where it is kept as it is, its tensors are
                read here.
        """
        parts = tuple(
            replace(part, hashed=part.hashed or (hashed[index] if hashed else None))
            for index, part in enumerate(self.parts)
        )
        sections = {
            path: named for part in parts if part.hashed is not None for path, named in part.hashed.sections.items()
        }
        weights = self.weights
        if weights is None and self.recipe.format == "keep":
            weights = hash_weights(self.opened.weights, on_read=on_read).digest
        elif weights is None:
            tensors = {name: digest for path in self.paths for name, digest in sections[path].items()}
            weights = combine([(info, tensors[info.name]) for info in self.opened.tensors])
        others = {path: digest or self._other(path, sections, on_read) for path, digest in self.others.items()}
        for file in self.files:
            if "" in sections.get(file.path, {}):
                state.remember_file(file.source, file.identity, sections[file.path][""])
        made = replace(self, parts=parts, weights=weights, others=others)
        made._remember(state)
        return made

    def _other(self, path: str, sections: Mapping[str, Mapping[str, Digest]], on_read: Callable[[int], None]) -> Digest:
        if "" in sections.get(path, {}):
            return sections[path][""]
        (file,) = (file for file in self.files if file.path == path)
        return hash_content(file, on_read)

    def _remember(self, state: State) -> None:
        record = {
            "weights": str(self.weights),
            "parts": [[p.name, p.size, p.sample, str(p.hashed.digest) if p.hashed else ""] for p in self.parts],
            "paths": list(self.paths),
            "others": {path: str(digest) for path, digest in self.others.items()},
            "samples": list(self.samples),
        }
        state.put(_RECORD, _identity(self.files, self.ownership, self.recipe), record)
        for sample in self.samples:
            state.put(_SAMPLE, sample, str(self.weights))


def make(pattern: str, root: Path, files: tuple[File, ...], ownership: Ownership, recipe: Recipe, state: State) -> Made:
    """What the checkpoint becomes: by what *state* knows of it, or else by its headers and samples.

    Raises:
        CheckpointError, LocalResourceError: as ``open_checkpoint``.
    """
    known = state.get(_RECORD, _identity(files, ownership, recipe), _known)
    if known is not None:
        return Made(pattern, root, files, ownership, recipe, **known)
    opened = open_checkpoint(pattern, root, files, ownership, recipe)
    kept = recipe.format == "keep"
    parts = tuple(
        Part(blueprint.label, blueprint.size, "" if kept else sample_layer(blueprint))
        for blueprint in opened.blueprints
    )
    samples = (sample_weights(opened.weights)[:32],) if kept else tuple(part.sample for part in parts)
    others: dict[str, Digest | None] = {
        file.path: state.file_digest(file.source, file.identity)
        for file in files
        if file.path in {content.path for content in opened.contents} - set(opened.made)
    }
    others |= opened.fixed
    return Made(pattern, root, files, ownership, recipe, parts, opened.made, others, samples, _opened=opened)


def _identity(files: Sequence[File], ownership: Ownership, recipe: Recipe) -> str:
    said = [f"{FORMAT_VERSION} {ownership} {recipe.text} {recipe.hash}"]
    said += [f"{file.path!r} {str(file.source)!r} {file.identity}" for file in files]
    return Digest.of("\n".join(said).encode(errors="backslashreplace")).hex


def _known(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "weights": Digest.parse(record["weights"]),
        "parts": tuple(
            Part(str(name), int(size), str(sample), Hashed(Digest.parse(digest)) if digest else None)
            for name, size, sample, digest in record["parts"]
        ),
        "paths": tuple(map(str, record["paths"])),
        "others": {str(path): Digest.parse(digest) for path, digest in record["others"].items()},
        "samples": tuple(map(str, record["samples"])),
    }
