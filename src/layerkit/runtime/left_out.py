"""What of a project folder never goes to the builder: ignored files, the checkpoint, files of secrets."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import ConfigurationError
from ..project import Project
from .dockerignore import Matcher

__all__ = ["in_project", "own_ignore", "private", "read_ignore", "secret_files"]


def read_ignore(path: Path) -> Matcher:
    """What the ignore file *path* excludes; nothing where it is not there.

    Raises:
        ConfigurationError: it cannot be read, or understood.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape") if path.is_file() else ""
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        return Matcher.of(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}", hint=error.hint) from None


def own_ignore(project: Project) -> Matcher:
    """The one beside the Dockerfile comes first (Docker, "Build context": "Filename and location")."""
    beside = project.root / f"{project.image.dockerfile}.dockerignore"
    return read_ignore(beside if beside.is_file() else project.root / ".dockerignore")


def private(project: Project) -> set[str]:
    """Paths, relative to the project folder, of the checkpoint's own files and folders; of what says which they are; of
    the files of secrets, which a COPY of everything would publish."""
    root = project.root.absolute()
    lock = [project.lock.absolute()] if project.lock is not None else []
    lock += secret_files(project)
    path = project.checkpoint.path if project.checkpoint is not None else ""
    if not path or "://" in path:
        return in_project(project, lock)
    path = str(Path(path).expanduser())
    found = [root / path, root / f"{path}.dvc"]
    if glob.has_magic(path) and not os.path.lexists(found[0]):
        found = [root / match for match in glob.glob(path, root_dir=root, recursive=True)]  # as checkpoint.files does
    return in_project(project, [*found, *lock])


def in_project(project: Project, places: Iterable[Path]) -> set[str]:
    """Paths, relative to the project folder, of those of *places* that are in it."""
    root, result = project.root.absolute(), set()
    for place in places:
        for spelled in (Path(os.path.normpath(place.absolute())), place.resolve()):
            for top in (root, root.resolve()):
                if spelled.is_relative_to(top) and spelled != top:
                    result.add(spelled.relative_to(top).as_posix())
    return result


def secret_files(project: Project) -> list[Path]:
    """The files that ``[builder.secrets]`` and ``[dependencies.secrets]`` name."""
    secrets = (*project.builder.secrets.values(), *project.dependencies.secrets.values())
    return [project.root.absolute() / Path(secret.file).expanduser() for secret in secrets if secret.file]
