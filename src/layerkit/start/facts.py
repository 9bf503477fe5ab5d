"""What ``layerkit init`` knows of a project, as a value. Pure: ``look`` fills it in."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

__all__ = ["File", "Look"]


@dataclass(frozen=True, slots=True)
class File:
    """One file of the project.

    Attributes:
        path: relative to the project folder, with ``/``.
        size: bytes; of a Git LFS pointer, those of what it points to.
        ignored: ``.dockerignore`` leaves it out.
        pointer: a Git LFS pointer stands in its place.
    """

    path: str
    size: int
    ignored: bool = False
    pointer: bool = False

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)

    @property
    def folder(self) -> str:
        """The folder that it is in, "" for the project folder."""
        return posixpath.dirname(self.path)


@dataclass(frozen=True)
class Look:
    """A project as it lies there.

    Attributes:
        name: of its folder.
        files: sorted by path; those of environments, caches and version control left out.
        texts: path -> content of the files that say something: programs, requirements, Dockerfiles.
        documents: path -> parsed TOML.
        unreadable: what is there and could not be read, each as a sentence.
        remote: ``owner/name`` of the repository that it was cloned from, or "".
        whole: everything was looked at.
    """

    name: str
    files: tuple[File, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)
    documents: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    unreadable: tuple[str, ...] = ()
    remote: str = ""
    whole: bool = True

    def below(self, folder: str) -> Iterator[File]:
        """The files in *folder* and below; all of them for ""."""
        return (file for file in self.files if not folder or file.path.startswith(folder + "/"))

    def folders(self) -> list[str]:
        """All folders that hold files, the project folder ("") among them."""
        return sorted({file.folder for file in self.files})
