"""Which files the checkpoint is, and whether they can be trusted to be one."""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..errors import CheckpointError, printable
from ..state import Identity
from .pointers import LFS_LIMIT, LFS_MARKS, Pointer, parse_lfs

__all__ = ["File", "Here", "changed", "check_same", "find", "look", "nothing_at"]

# Files that get into a folder of weights by accident, and must not get into an image by accident.
_PRIVATE = (".env", ".env.*", ".netrc", "id_rsa", "id_ed25519", "id_ecdsa", "*.pem", "*.key", "*.p12", ".git", ".ssh",
            ".aws", ".huggingface", "credentials*.json")  # fmt: skip
_JUNK = ("__pycache__", ".DS_Store", ".cache", ".ipynb_checkpoints")


@dataclass(frozen=True, slots=True)
class File:
    """One file of the checkpoint.

    Attributes:
        path: where it goes below the target, POSIX, relative.
        source: where its content is (symlinks resolved).
        identity: what it was when it was found; a reader checks that it still is.
    """

    path: str
    source: Path
    identity: Identity

    @property
    def size(self) -> int:
        """Bytes."""
        return self.identity.size

    @property
    def mark(self) -> str:
        """Another one for another content, as far as can be told without reading it."""
        return str(self.identity)

    @property
    def sections(self) -> tuple[tuple[str, int, int], ...]:
        """(name, start, size) of what is hashed by itself: all of it."""
        return (("", 0, self.size),)

    def read(self, offset: int, take: Callable[[], memoryview]) -> Iterator[memoryview]:
        """The file's bytes from *offset* on, each chunk in a buffer that *take* gave.

        Raises:
            CheckpointError: it is not what it was when it was found, or changed while it was read.
        """
        self.identity.settle()
        try:
            handle = os.open(self.source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            raise CheckpointError(f"checkpoint: {printable(self.path)}: {error.strerror}") from None
        try:
            check_same(self, handle)
            while offset < self.size:
                view = take()
                try:
                    count = os.preadv(handle, [view[: min(len(view), self.size - offset)]], offset)
                except OSError as error:
                    raise CheckpointError(
                        f"checkpoint: {printable(self.path)}: cannot be read: {error.strerror}"
                    ) from None
                if count == 0:
                    raise changed(self)
                yield view[:count]
                offset += count
            check_same(self, handle)
        finally:
            os.close(handle)


def check_same(file: File, handle: int) -> None:
    """Raises CheckpointError where the open *handle* is not the file that was found."""
    now = os.fstat(handle)
    then = file.identity
    # Not ctime: a hard link made or removed meanwhile changes it, and the content is the same.
    if (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns) != (then.device, then.inode, then.size, then.mtime):
        raise changed(file)


def changed(file: File) -> CheckpointError:
    """The error where *file* is not what it was when it was found."""
    return CheckpointError(
        f"checkpoint: {printable(file.path)} changed while it was read; nothing was tagged",
        hint="try again when it is no longer written to; write checkpoints to another name and rename them",
    )


@dataclass(frozen=True, slots=True)
class Here:
    """What is on this machine of a checkpoint: *files*, and *pointers* in the place of others. Nothing, if neither."""

    files: tuple[File, ...] = ()
    pointers: tuple[Pointer, ...] = ()


def find(pattern: str, root: Path) -> tuple[File, ...]:
    """The files that *pattern* (a file, a folder or a glob, relative to *root*) names, sorted by path: ``look``.

    Raises:
        CheckpointError: as ``look``; and where there is nothing, or a Git LFS pointer.
    """
    here = look(pattern, root)
    if here.pointers:
        names = [f"{printable(pointer.path)}: a Git LFS pointer, not the file" for pointer in here.pointers]
        raise CheckpointError("checkpoint: " + "; ".join(names), hint="fetch the content first: git lfs pull")
    if not here.files:
        raise nothing_at(pattern, root)
    return here.files


def nothing_at(pattern: str, root: Path) -> CheckpointError:
    """The error where *pattern* matches nothing below *root*."""
    return CheckpointError(
        f"checkpoint: nothing at {printable(pattern)!r} (in {printable(str(root.absolute()))})",
        hint="name the file, folder or glob of the weights (checkpoint.path)",
    )


def look(pattern: str, root: Path) -> Here:
    """What *pattern* (a file, a folder or a glob, relative to *root*) names, sorted by path; nothing is no error.

    A file goes to the target under its own name; of a folder, what is in it; of a glob, each match that way
    (matched files under their names, matched folders as folders). Symlinks are followed by content when they
    stay inside *root* or the named folder.

    Raises:
        CheckpointError: anything that is no readable regular file, leads out of the folder, is empty, looks private,
            or has a name that an image should not have; an empty folder. All of such files are listed, not the first.
    """
    expanded = str(Path(pattern).expanduser())
    whole = Path(root, expanded)
    if os.path.lexists(whole):
        named, wild = [whole], False
    elif glob.has_magic(expanded):
        matches = [Path(root, match) for match in sorted(glob.glob(expanded, root_dir=root, recursive=True))]
        # What lies in a matched folder comes with the folder, once (as with "weights/**").
        folders = {match for match in matches if match.is_dir()}
        named, wild = [match for match in matches if folders.isdisjoint(match.parents)], True
    else:
        named, wild = [], False
    if not named:
        return Here()
    problems: list[str] = []
    pointers: dict[str, Pointer] = {}
    found: dict[str, File] = {}
    for start in named:
        inside = _trusted(root, start)
        # A private file that only a wildcard matches was not asked for.
        asked = not wild or _is_private(Path(expanded).name)
        for path, place in _walk(start, under="" if not wild else start.name, inside=inside, problems=problems):
            named_itself = place == start
            file = _check(
                path,
                place,
                inside=inside,
                named=named_itself,
                private=named_itself and asked,
                problems=problems,
                pointers=pointers,
            )
            if file is None:
                continue
            if path in found and found[path].source != file.source:
                problems.append(f"{printable(path)}: two files would have this name in the image")
            found[path] = file
    problems += [
        f"{printable(path)}: in the image a file would have the name of its folder"
        for path in found
        if any(str(parent) in found for parent in PurePosixPath(path).parents)
    ]
    if not problems and not found and not pointers:
        problems.append(f"{printable(pattern)}: an empty folder")
    if problems:
        raise CheckpointError(
            "checkpoint: " + "; ".join(dict.fromkeys(problems)), hint=_hint(problems) or "nothing was read or tagged"
        )
    return Here(tuple(found[path] for path in sorted(found)), tuple(pointers[path] for path in sorted(pointers)))


def _hint(problems: list[str]) -> str:
    if any("Git LFS" in problem for problem in problems):
        return "fetch the content first: git lfs pull"
    if any("private" in problem for problem in problems):
        return "move it out of the folder, or name the files of the checkpoint with a glob"
    if any("leads out of" in problem for problem in problems):
        return "set checkpoint.path to the place itself, not to a link to it"
    return ""


def _trusted(root: Path, start: Path) -> tuple[Path, ...]:
    """Folders that content may come from: the project, and what was named in so many words."""
    named = start.parent if start.is_symlink() or not start.is_dir() else start
    trusted = [Path(os.path.realpath(root)), Path(os.path.realpath(named))]
    # A snapshot of the Hugging Face cache is a folder of links into the blobs folder beside it (huggingface_hub,
    # "Understand caching"); naming it names them.
    blobs = trusted[1].parent.parent / "blobs"
    if trusted[1].parent.name == "snapshots" and blobs.is_dir():
        trusted.append(blobs)
    return tuple(trusted)


def _walk(start: Path, *, under: str, inside: tuple[Path, ...], problems: list[str]) -> Iterator[tuple[str, Path]]:
    """(path below the target, place on disk) of everything that is no folder."""
    if not start.is_dir():
        yield start.name, start
        return
    stack: list[tuple[str, Path, tuple[str, ...]]] = [(under, start, (os.path.realpath(start),))]
    while stack:
        prefix, folder, above = stack.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            problems.append(f"{printable(prefix or str(folder))}: {error.strerror}")
            continue
        for entry in entries:
            if entry.name in _JUNK:
                continue
            path = f"{prefix}/{entry.name}" if prefix else entry.name
            if _is_private(entry.name):
                problems.append(f"{printable(path)}: looks private")
            elif os.path.isdir(entry.path):  # noqa: PTH112 - the others raise for a loop, or for no permission
                real = os.path.realpath(entry.path)
                if real in above:
                    problems.append(f"{printable(path)}: a symlink loop")
                elif entry.is_symlink() and not any(Path(real).is_relative_to(folder) for folder in inside):
                    problems.append(f"{printable(path)}: a symlink that leads out of the folder")
                else:
                    stack.append((path, Path(entry.path), (*above, real)))
            else:
                yield path, Path(entry.path)


def _is_private(name: str) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in _PRIVATE)


def _check(
    path: str,
    place: Path,
    *,
    inside: tuple[Path, ...],
    named: bool,
    private: bool,
    problems: list[str],
    pointers: dict[str, Pointer],
) -> File | None:
    """The file, or a pointer or a problem more. *named*: not found in a folder; *private*: it may look so."""
    shown = printable(path)
    if any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 or 0xD800 <= ord(c) <= 0xDFFF for c in path):
        problems.append(f"{path!a}: its name is not printable UTF-8")
        return None
    if _is_private(place.name) and not private:
        problems.append(f"{shown}: looks private")
        return None
    try:
        # Not resolve(strict=True) alone: it would hide which of loop and dangling it was.
        source = Path(os.path.realpath(place, strict=True))
        # O_NONBLOCK: opening a FIFO would wait for a writer for ever.
        handle = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        problems.append(f"{shown}: a symlink to nothing" if place.is_symlink() else f"{shown}: is gone")
        return None
    except OSError as error:
        problems.append(f"{shown}: {error.strerror}")
        return None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            problems.append(f"{shown}: no regular file")
        elif source != place.absolute() and not any(source.is_relative_to(folder) for folder in inside):
            problems.append(f"{shown}: a symlink that leads out of the folder")
        elif status.st_size == 0 and named:
            problems.append(f"{shown}: is empty")
        elif status.st_size <= LFS_LIMIT and (raw := os.pread(handle, LFS_LIMIT, 0)).startswith(LFS_MARKS):
            if (pointer := parse_lfs(path, raw)) is None:
                problems.append(f"{shown}: a Git LFS pointer, not the file, and a broken one")
            else:
                pointers[path] = pointer
        else:
            return File(path, source, Identity.of(status))
    except OSError as error:
        problems.append(f"{shown}: {error.strerror}")
    finally:
        os.close(handle)
    return None
