"""Look at a project: the only module here that reads."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigurationError, printable
from ..lint.facts import is_checkpoint_name, is_requirements, words
from ..lint.gather import pointed_size
from ..project import parse_toml
from ..runtime import DEFAULT_EXCLUDES, Matcher
from .facts import File, Look

__all__ = ["look"]

_MAX_FILES = 50_000
_MAX_TEXT = 1024 * 1024  # bytes; a lock file may have more
_MAX_LOCK = 16 * 1024 * 1024
_MAX_TEXTS = 500
# Folders that are of tools, and not of the project.
_PASSED = words(
    "node_modules venv env virtualenv site-packages __pycache__ dist build htmlcov wandb mlruns __pypackages__"
)
_TELLING = re.compile(
    r"(.*\.py|Procfile|runtime\.txt|\.python-version|Pipfile|config\.properties|environment[\w.-]*\.ya?ml|"
    r"(.*[.-])?Dockerfile([.-].*)?|Containerfile)",
    re.IGNORECASE,
)
_REMOTE = re.compile(r"url\s*=\s*\S*?github\.com[:/]([A-Za-z0-9-]+/[A-Za-z0-9._-]+?)(?:\.git)?\s*$", re.MULTILINE)


def look(folder: Path) -> Look:
    """What is in *folder*: names and sizes of all files, content of those that tell something.

    Raises:
        ConfigurationError: *folder* cannot be read, or its ``.dockerignore`` is none.
    """
    root = folder.resolve()
    ignored = _ignored(root)
    files: list[File] = []
    texts: dict[str, str] = {}
    documents: dict[str, dict[str, object]] = {}
    unreadable: list[str] = []
    whole = True
    for path, entry in _walk(root, unreadable):
        if len(files) >= _MAX_FILES:
            whole = False
            break
        if entry.is_symlink() and (away := _away(root, Path(entry.path))) is not None:
            if is_checkpoint_name(path) or away.is_dir():
                unreadable.append(f"{printable(path)} leads out of the project, to {printable(str(away))}: not used")
            continue
        file = _file(path, entry, ignored)
        if file is None:
            continue
        files.append(file)
        limit = _MAX_LOCK if file.name == "uv.lock" else _MAX_TEXT
        telling = (is_requirements(file.name) and not file.name.endswith((".lock", ".whl"))) or file.name == "uv.lock"
        if (telling or _TELLING.fullmatch(file.name)) and file.size <= limit and len(texts) < _MAX_TEXTS:
            text = _text(Path(entry.path))
            if text is None:
                unreadable.append(f"{printable(path)} cannot be read")
            elif file.name in ("pyproject.toml", "uv.lock", "Pipfile"):
                try:
                    documents[path] = parse_toml(text, path)
                except ConfigurationError as error:
                    unreadable.append(printable(error.message))
            else:
                texts[path] = text
    unreadable += _above(root, files)
    return Look(
        root.name,
        tuple(sorted(files, key=lambda file: file.path)),
        texts,
        documents,
        tuple(unreadable),
        _remote(root),
        whole,
    )


def _ignored(root: Path) -> Matcher:
    place = root / ".dockerignore"
    text = (_text(place) or "") if place.is_file() else ""
    try:
        return Matcher([*text.split("\n"), *DEFAULT_EXCLUDES])
    except ConfigurationError as error:
        raise ConfigurationError(f"{place}: {error}", hint=error.hint) from None


def _walk(root: Path, unreadable: list[str]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    folders = [("", str(root))]
    while folders:
        prefix, place = folders.pop(0)  # the shallow ones first: they tell most where not all is looked at
        try:
            with os.scandir(place) as items:
                listed = sorted(items, key=lambda item: item.name)
        except OSError as error:
            if not prefix:
                raise ConfigurationError(f"{place}: cannot be read: {error.strerror}") from None
            unreadable.append(f"{printable(prefix)} cannot be read: {error.strerror}")
            continue
        for item in listed:
            path = prefix + item.name
            try:
                path.encode()
            except UnicodeEncodeError:
                unreadable.append(f"{printable(path)} is left alone: its name is not UTF-8")
                continue
            if item.is_dir(follow_symlinks=False):
                hidden = item.name.startswith(".") or item.name.endswith(".egg-info")
                if not hidden and item.name not in _PASSED and not Path(item.path, "pyvenv.cfg").exists():
                    folders.append((path + "/", item.path))
            else:
                yield path, item


def _away(root: Path, link: Path) -> Path | None:
    """Where *link* leads, if that is out of *root*: no image is built from there."""
    try:
        place = link.resolve()
    except (OSError, RuntimeError):  # a loop
        return None
    return None if place.is_relative_to(root) else place


def _above(root: Path, files: list[File]) -> list[str]:
    """Requirements that are not in this folder of a repository, but in one above it."""
    names = ("uv.lock", "requirements.txt", "pyproject.toml", "poetry.lock")
    if any(file.path in names for file in files) or (root / ".git").exists():
        return []
    repository = next((folder for folder in root.parents if (folder / ".git").exists()), None)
    for folder in root.parents if repository is not None else ():
        if found := next((name for name in names if (folder / name).is_file()), None):
            return [f"{found} is in {printable(folder.name)}/ above, which the builder is not given: copy it here"]
        if folder == repository:
            break
    return []


def _file(path: str, entry: os.DirEntry[str], ignored: Matcher) -> File | None:
    try:
        found = entry.stat()  # links are followed: weights are often linked
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):
        return None
    pointed = pointed_size(entry.path, found.st_size)
    size = found.st_size if pointed is None else pointed
    return File(path, size, ignored.excludes(path), pointer=pointed is not None)


def _text(path: Path) -> str | None:
    try:
        with path.open("rb") as stream:
            raw = stream.read(_MAX_LOCK + 1)
    except OSError:
        return None
    return raw.decode("utf-8-sig", "replace") if len(raw) <= _MAX_LOCK else None


def _remote(root: Path) -> str:
    for folder in (root, *root.parents):
        config = folder / ".git" / "config"
        if config.is_file():
            found = _REMOTE.search(_text(config) or "")
            return found[1].lower() if found else ""
    return ""
