"""Look at the Dockerfile and the files around it: the only module here that reads."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigurationError
from ..runtime.dockerignore import Matcher
from .facts import MIB, Entry, Facts, is_checkpoint_name, is_requirements

__all__ = ["find", "gather", "pointed_size", "read_text", "write_text"]

_MAX_TEXT = 16 * MIB
_MAX_ENTRIES = 200_000
_MAX_REQUIREMENTS = 50
_POINTER = re.compile(rb"version https://git-lfs\.github\.com/spec/\S+\n(?:\S+ \S+\n)*?size (\d{1,18})\n")
_POINTER_LIMIT = 1024


def find(path: Path) -> Path:
    """The Dockerfile that *path* names: itself, or the one in that folder.

    Raises:
        ConfigurationError: there is none.
    """
    found = path / "Dockerfile" if path.is_dir() else path
    if not found.is_file():
        why = "no Dockerfile in that folder" if path.is_dir() else "not a file" if path.exists() else "no such file"
        raise ConfigurationError(f"{path}: {why}", hint="name the Dockerfile: layerkit lint PATH")
    return found


def read_text(path: Path) -> str:
    """The text of *path*, of any encoding: what is no UTF-8 comes back as it was with ``write_text``.

    Raises:
        ConfigurationError: it cannot be read, or is over 16 MiB.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_TEXT + 1)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > _MAX_TEXT:
        raise ConfigurationError(f"{path}: over {_MAX_TEXT // MIB} MiB: this is no Dockerfile")
    return raw.decode("utf-8", "surrogateescape")


def write_text(path: Path, text: str) -> None:
    """Put *text* into *path*, all of it or nothing; mode and a link to it stay.

    Raises:
        ConfigurationError: it cannot be written.
    """
    place = Path(os.path.realpath(path))
    temporary = place.with_name(f".{place.name}.{os.getpid()}.layerkit")
    try:
        mode = stat.S_IMODE(place.stat().st_mode)
        with temporary.open("xb") as stream:
            stream.write(text.encode("utf-8", "surrogateescape"))
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(mode)
        temporary.replace(place)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from None


def gather(dockerfile: Path | None, context: Path, *, image: str = "") -> Facts:
    """What is known of the build context *context* of *dockerfile*.

    Args:
        dockerfile: None for one that is in no file.
        image: the name that the image will be pushed to.

    Raises:
        ConfigurationError: no such folder, or a ``.dockerignore`` that is none.
    """
    if not context.is_dir():
        raise ConfigurationError(f"{context}: no such folder", hint="--context names the folder that is built")
    name, matcher = _ignore(dockerfile, context)
    entries: list[Entry] = []
    requirements: dict[str, str] = {}
    known = True
    for path, item in _walk(context, matcher):
        if len(entries) >= _MAX_ENTRIES:
            known = False
            break
        entry = _entry(path, item, matcher.excludes(path))
        if entry is None:
            known = False
            continue
        entries.append(entry)
        if is_requirements(path) and path.endswith((".txt", ".in")) and len(requirements) < _MAX_REQUIREMENTS:
            text = _small(item.path)
            if text is not None and not entry.link:
                requirements[path] = text
    return Facts(tuple(entries), name, requirements, image, known=known)


def _ignore(dockerfile: Path | None, context: Path) -> tuple[str, Matcher]:
    """The one beside the Dockerfile comes first (Docker, "Build context": "Filename and location")."""
    places = [dockerfile.with_name(dockerfile.name + ".dockerignore")] if dockerfile is not None else []
    for place in [*places, context / ".dockerignore"]:
        if place.is_file():
            try:
                return place.name, Matcher.of(read_text(place))
            except ConfigurationError as error:
                raise ConfigurationError(f"{place}: {error}", hint=error.hint) from None
    return "", Matcher(())


def _walk(context: Path, matcher: Matcher) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Files and links below *context*; folders that are kept out as a whole are passed by, weights folders are not."""
    folders = [("", str(context))]
    while folders:
        prefix, place = folders.pop()
        try:
            with os.scandir(place) as items:
                listed = sorted(items, key=lambda item: item.name)
        except OSError:
            continue
        for item in listed:
            path = prefix + item.name
            if item.is_dir(follow_symlinks=False):
                if not (matcher.prunes(path) and item.name.startswith((".", "_", "node_modules", "venv"))):
                    folders.append((path + "/", item.path))
            else:
                yield path, item


def _entry(path: str, item: os.DirEntry[str], ignored: bool) -> Entry | None:
    try:
        found = item.stat(follow_symlinks=False)
    except OSError:
        return None
    if stat.S_ISLNK(found.st_mode):
        return Entry(path, 0, ignored, link=True)
    if not stat.S_ISREG(found.st_mode):
        return Entry(path, 0, ignored)
    pointed = pointed_size(item.path, found.st_size)
    return Entry(path, found.st_size if pointed is None else pointed, ignored, pointer=pointed is not None)


def pointed_size(place: str, size: int) -> int | None:
    """Bytes that the Git LFS pointer at *place*, itself of *size* bytes, stands for; None where it is no pointer."""
    if not (is_checkpoint_name(place) and 0 < size <= _POINTER_LIMIT):
        return None
    try:
        with open(place, "rb") as stream:
            found = _POINTER.match(stream.read(_POINTER_LIMIT))
    except OSError:
        return None
    return int(found[1]) if found else None


def _small(path: str) -> str | None:
    try:
        with open(path, "rb") as stream:
            raw = stream.read(MIB + 1)
    except OSError:
        return None
    return raw.decode("utf-8", "replace") if len(raw) <= MIB else None
