"""Weights that are not on this machine: which they are, by layerkit.lock, Git LFS or DVC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from .checkpoint import File, Ownership, checkpoint_key, content_digest
from .checkpoint.elsewhere import Elsewhere, KnownFile
from .checkpoint.files import Here, nothing_at
from .checkpoint.parts import hash_content
from .checkpoint.pointers import Pointer, read_dvc
from .checkpoint.recipe import Recipe
from .errors import CheckpointError, printable
from .lock import Difference, LockedCheckpoint, settings_differ
from .oci import Digest
from .state import State

__all__ = ["differs", "of_image", "refer"]


def refer(
    pattern: str,
    root: Path,
    here: Here,
    ownership: Ownership,
    recipe: Recipe,
    lock: tuple[str, LockedCheckpoint | None],
    state: State,
) -> Elsewhere:
    """Which weights *pattern* names, of which not all, or none, are *here*.

    Args:
        lock: its name, and what it says.

    Raises:
        CheckpointError: nobody says which, or they are others than those that were locked.
    """
    name, locked = lock
    if here.pointers:
        return _pointed(pattern, here, ownership, recipe, name, locked, state)
    shown = printable(pattern)
    dvc = read_dvc(Path(root, Path(pattern).expanduser()))
    if locked is None:
        if dvc is None:
            raise nothing_at(pattern, root)
        raise CheckpointError(
            f"checkpoint: {shown} is not here, and no {name} says which weights {printable(dvc.path)} stands for",
            hint=dvc.hint,
        )
    hint = dvc.hint if dvc else f"bring {shown} here"
    _same_settings(f"{shown} is not here", locked, pattern, ownership, recipe, name, hint)
    if dvc is not None and dvc.hash != locked.dvc:
        known = f"stands for {locked.dvc}" if locked.dvc else "says nothing of DVC"
        raise CheckpointError(
            f"checkpoint: {shown} is not here, and {printable(dvc.path)} names {dvc.hash} where {name} {known}:"
            " the weights changed and are not here",
            hint=hint,
        )
    return _locked(locked, f"{shown} is not here", name, hint)


def of_image(locked: LockedCheckpoint) -> Elsewhere:
    """The weights of the image that ``checkpoint.path`` named when *locked* was written."""
    elsewhere = _locked(locked, locked.path, "the lock", "")
    return replace(elsewhere, source=locked.source)


def differs(
    locked: LockedCheckpoint, pattern: str, ownership: Ownership, recipe: Recipe | None
) -> tuple[Difference, ...]:
    """What ``[checkpoint]`` says now that it did not say when *locked* was written. *recipe*: None of an image."""
    place = LockedCheckpoint(pattern, "", locked.digest, ownership, {}, "").place
    return tuple(settings_differ(locked, {"path": pattern, **place, **(recipe.settings if recipe else {})}))


def _same_settings(
    what: str, locked: LockedCheckpoint, pattern: str, ownership: Ownership, recipe: Recipe, name: str, hint: str
) -> None:
    found = differs(locked, pattern, ownership, recipe)
    if found:
        raise CheckpointError(
            f"checkpoint: {what}, and {name} is of another layer: {'; '.join(map(str, found))}", hint=hint
        )


def _locked(locked: LockedCheckpoint, what: str, name: str, hint: str) -> Elsewhere:
    return Elsewhere(
        locked.key,
        locked.digest,
        locked.location,
        what,
        f"{what}; {name} says that it is {locked.digest}",
        hint,
        f"as {name} says",
        locked.layers,
        locked.repository,
        files=locked.files,
        weights=locked.weights,
        samples=locked.samples,
    )


def _pointed(
    pattern: str,
    here: Here,
    ownership: Ownership,
    recipe: Recipe,
    name: str,
    locked: LockedCheckpoint | None,
    state: State,
) -> Elsewhere:
    """Git LFS names files by their sha256, and so do we."""
    what = _called(here.pointers)
    hint = here.pointers[0].hint
    files = _files(here, state)
    digests = {file.path: file.digest for file in files if file.digest is not None}
    same = locked is not None and {file.path: file.digest for file in locked.files} == digests
    if locked is not None and same:
        found = differs(locked, pattern, ownership, recipe)
        if not found:
            return _locked(locked, what, name, hint)
        against = f"{name} is of another layer: {'; '.join(map(str, found))}"
    elif locked is not None:
        against = f"{name} has {_other(locked.files, digests)}: the weights changed and are not here"
    else:
        against = f"there is no {name}"
    if not recipe.plain:
        # Of what is made of a file, only who has the file, or the lock, knows the layers.
        raise CheckpointError(f"checkpoint: {what}, and {against}", hint=hint)
    paths = sorted(digests)
    return Elsewhere(
        checkpoint_key(digests, ownership, (*recipe.limits, *recipe.compressed)),
        content_digest(digests),
        str(Path(ownership.target, paths[0]) if len(paths) == 1 else Path(ownership.target)),
        what,
        f"{what}, and {against}",
        hint,
        files=tuple(files),
    )


def _called(pointers: Sequence[Pointer]) -> str:
    first = f"{printable(pointers[0].path)} is {pointers[0].called}"
    return first + (f" and {len(pointers) - 1} more are" if len(pointers) > 1 else "")


def _files(here: Here, state: State) -> list[KnownFile]:
    found = [KnownFile(pointer.path, pointer.size or 0, Digest.parse(pointer.hash)) for pointer in here.pointers]
    found += [KnownFile(file.path, file.size, _digest(file, state)) for file in here.files]
    return sorted(found, key=lambda file: file.path)


def _digest(file: File, state: State) -> Digest:
    known = state.file_digest(file.source, file.identity)
    if known is None:
        known = hash_content(file, lambda count: None)
        state.remember_file(file.source, file.identity, known)
    return known


def _other(files: Sequence[KnownFile], digests: Mapping[str, Digest]) -> str:
    """The first file that the lock has otherwise."""
    before = {file.path: file.digest for file in files}
    for path in sorted(before.keys() | digests.keys()):
        if path not in digests:
            return f"also {printable(path)}"
        if path not in before:
            return f"no {printable(path)}"
        if before[path] != digests[path]:
            return f"{before[path] or 'no digest'} for {printable(path)}"
    return "the same"
