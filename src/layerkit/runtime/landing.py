"""Where the files of the project land in the image, and whether one lands on the weights. Pure.

Code lies above the checkpoint's layers: a file of the same path would replace the weights, and no digest would say so.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePosixPath

from ..errors import ConfigurationError
from .checkpoint_copy import CheckpointCopy
from .stages import Dockerfile
from .words import has_wildcard

__all__ = ["check_code", "check_copies"]

# By its name a file of torch.save is none, whatever it ends with: ADD looks at the content.
_SAVED = (".pth.tar", ".pt.tar", ".ckpt.tar")
_ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


def _is_archive(path: str) -> bool:
    return path.endswith(_ARCHIVES) and not path.endswith(_SAVED)


def check_code(files: Iterable[str], code: str, target: str, weights: Iterable[str]) -> None:
    """For a Dockerfile that layerkit writes.

    Args:
        files: of the code, relative to the project folder; code: the folder in the image that they go to.
        target: the checkpoint's folder in the image; weights: its files, relative to that.

    Raises:
        ConfigurationError: a file of the code goes where a file or a folder of the checkpoint is.
    """
    taken = _taken(target, weights)
    for path in files:
        place = posixpath.join(code, path)
        if place in taken:
            raise ConfigurationError(
                f"code.include: {path!r} goes to {place}, where {taken[place]} is",
                hint="leave it out with code.exclude, or set another checkpoint.target",
            )


def check_copies(
    text: str,
    copy: CheckpointCopy,
    files: Iterable[str],
    weights: Iterable[str],
    *,
    target_stage: str = "",
    args: Mapping[str, str] | None = None,
) -> None:
    """For a user's own Dockerfile, where a COPY or ADD below that of the checkpoint is sure to put a file on it.

    Args:
        files: of the build context, relative to it; weights: of the checkpoint, relative to its folder.

    Raises:
        ConfigurationError: as ``check_code``, with the line.
    """
    dockerfile, known = Dockerfile(text, args or {}), frozenset(files)
    taken = _taken(copy.target, weights)
    folders = frozenset(_folders(copy.target))
    after = False
    for instruction, variables, workdir in dockerfile.walk(dockerfile.chain(dockerfile.target(target_stage))):
        plain = {name for name, _ in instruction.flags} <= {"link", "chown", "chmod"} and not instruction.heredoc
        if after and plain and instruction.name in ("COPY", "ADD") and len(instruction.words) > 1:
            expanded = [dockerfile.expand(word, variables) for word in instruction.words]
            if not any(unknown for _, unknown in expanded):
                words = [word for word, _ in expanded]
                if instruction.name == "ADD":  # what is an archive by its content is unpacked: not sure to land
                    words = [word for word in words[:-1] if not _is_archive(word)] + words[-1:]
                # A linked one is made on top of nothing; any other finds the folders that are there.
                found = frozenset() if instruction.flag("link") in ("", "true") else folders
                for path, place in _landing(words, workdir, known, taken, found):
                    raise ConfigurationError(
                        f"image.dockerfile: line {instruction.line}: {instruction.text[:80]!r} puts {path!r} to"
                        f" {place}, where {taken[place]} is",
                        hint="name the file in .dockerignore, or delete it",
                    )
        after = after or instruction.line == copy.line


def _taken(target: str, weights: Iterable[str]) -> dict[str, str]:
    """Absolute path -> what of the checkpoint has it."""
    folder = PurePosixPath(target)
    taken = dict.fromkeys(_folders(target), "the folder of the checkpoint")
    return taken | {str(folder / path): f"the checkpoint's {path!r}" for path in weights}


def _folders(target: str) -> tuple[str, ...]:
    folder = PurePosixPath(target)
    return tuple(str(place) for place in (folder, *folder.parents) if len(place.parts) > 1)


def _landing(
    words: list[str], workdir: str | None, files: frozenset[str], taken: Iterable[str], folders: frozenset[str]
) -> Iterator[tuple[str, str]]:
    """(file, its place in the image) of the files that such a COPY puts to a place of *taken*.

    Args:
        folders: that are there already: a file goes into them, also without a ``/`` (fsutil, ``prepareTargetDir``).
    """
    *sources, to = words
    if not to.startswith("/"):
        if workdir is None:
            return
        to = posixpath.join(workdir, to) + ("/" if to in (".", "./") else "")
    folder = posixpath.normpath("/" + to.lstrip("/"))
    for source in sources:
        path = posixpath.normpath("/" + source).lstrip("/")
        if has_wildcard(source) or "://" in source:
            continue
        for place in taken:
            if path in files:
                into = to.endswith("/") or folder in folders
                put = posixpath.join(folder, posixpath.basename(path)) if into else folder
                if put == place:
                    yield path, place
            elif place.startswith(folder.rstrip("/") + "/"):
                inside = posixpath.join(path, place[len(folder.rstrip("/")) + 1 :])
                if inside in files:
                    yield inside, place
