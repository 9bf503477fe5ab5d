"""Reading a project folder: its files, links and empty folders, but for those that are left out."""

from __future__ import annotations

import os
import posixpath
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigurationError
from .dockerignore import Matcher, Pattern

__all__ = ["FOLDER", "ContextFile", "Walk", "context_file", "regular"]

_EXECUTABLE, _PLAIN, FOLDER = 0o755, 0o644, 0o755


@dataclass(frozen=True, order=True, slots=True)
class ContextFile:
    """One file, link or empty folder of the build context.

    Attributes:
        path: relative to the context, with ``/``.
        source: where its content is.
        size: bytes; 0 for what is no file.
        mode: 0o755 where its owner may execute it, else 0o644: what the umask of a checkout left does not count;
            0o40755 for a folder.
        link: where a symbolic link points, as it is written into the context; "" for what is none.
    """

    path: str
    source: Path
    size: int
    mode: int
    link: str = ""

    @property
    def is_folder(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        return not self.link and not self.is_folder


def regular(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(
            f"{path}: is no file, folder or link but a {_kind(status.st_mode)}",
            hint="remove it, or name it in .dockerignore",
        )


def _kind(mode: int) -> str:
    names = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFBLK: "device", stat.S_IFCHR: "device"}
    return names.get(stat.S_IFMT(mode), "folder" if stat.S_ISDIR(mode) else "special file")


def context_file(path: str, source: Path, status: os.stat_result | None = None) -> ContextFile:
    """A file, links followed."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{path!a}: its name is not UTF-8", hint="rename it") from None
    try:
        status = status or source.stat()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    regular(status, path)
    return ContextFile(path, source, status.st_size, _EXECUTABLE if status.st_mode & stat.S_IXUSR else _PLAIN)


def _empty(path: str, source: Path) -> ContextFile:
    return ContextFile(path, source, 0, stat.S_IFDIR | FOLDER)


class Walk:
    """Reads folders, and leaves out what the matchers exclude and what *without* names."""

    def __init__(self, root: Path, matchers: Sequence[Matcher], without: set[str], *, own: bool) -> None:
        self.root = root
        self.matchers = [matcher for matcher in matchers if matcher.patterns]
        self.without = frozenset(without)
        self.own = own  # with one's own Dockerfile links are sent as they are, as buildx does
        self._top = root.resolve()

    def out(self, path: str) -> bool:
        return self._checkpoint(path) or any(matcher.excludes(path) for matcher in self.matchers)

    def _checkpoint(self, path: str) -> bool:
        if not self.without:
            return False
        while path:
            if path in self.without:
                return True
            path = path.rpartition("/")[0]
        return False

    def closed(self, folder: str) -> bool:
        """Nothing below *folder* can be let in."""
        return folder in self.without or any(matcher.prunes(folder) for matcher in self.matchers)

    def of(self, path: str) -> Iterator[ContextFile]:
        """The files of one path that is included: itself, or all below it. A link is followed there, as COPY does."""
        if path == ".":
            yield from self.below("")
        elif (self.root / path).is_dir():
            if not self.closed(path):
                empty = self.own and self._may_be_empty(path)
                for file in self.below(path):
                    empty = False
                    yield file
                if empty:
                    yield _empty(path, self.root / path)
        elif not self.out(path):
            yield context_file(path, self.root / path)

    def below(self, folder: str) -> Iterator[ContextFile]:
        return (file for _, file in self._walk(folder, lambda path, entry: None) if file is not None)

    def matching(self, pattern: Pattern) -> Iterator[str]:
        """Paths of files and folders that *pattern* matches, not excluded; nothing below a folder that matches."""
        start = pattern.literal if (self.root / pattern.literal).is_dir() else ""

        def stop(path: str, entry: os.DirEntry[str]) -> str | None:
            return path if pattern.match(path) and not self.out(path) else None

        return (path for path, _ in self._walk(start, stop, files=False) if path is not None)

    def _walk(
        self,
        folder: str,
        stop: Callable[[str, os.DirEntry[str]], str | None],
        *,
        files: bool = True,
    ) -> Iterator[tuple[str | None, ContextFile | None]]:
        """(what *stop* found, None) or (None, a file) below *folder*, in the order of names."""
        try:
            with os.scandir(self.root / folder) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            raise ConfigurationError(f"{folder or '.'}: cannot be read: {error.strerror}") from None
        for entry in found:
            path = f"{folder}/{entry.name}" if folder else entry.name
            match = stop(path, entry)
            if match is not None:
                yield match, None
            elif entry.is_dir(follow_symlinks=False):
                if self.closed(path):
                    continue
                empty = self.own and self._may_be_empty(path)
                for found_below in self._walk(path, stop, files=files):
                    empty = False
                    yield found_below
                if empty:
                    yield None, _empty(path, Path(entry.path))
            elif files and not self.out(path):
                yield None, self._entry(path, entry)

    def _may_be_empty(self, folder: str) -> bool:
        """*folder* is sent also with nothing in it; not where it holds what is left out, which may come and go."""
        return not self.out(folder) and not any(path.startswith(folder + "/") for path in self.without)

    def _entry(self, path: str, entry: os.DirEntry[str]) -> ContextFile:
        source = Path(entry.path)
        if not entry.is_symlink():
            try:
                return context_file(path, source, entry.stat(follow_symlinks=False))
            except OSError as error:
                raise ConfigurationError(f"{path}: {error.strerror}") from None
        link = str(source.readlink())
        if not self.own:
            inside = source.resolve()
            if not inside.is_relative_to(self._top):
                raise ConfigurationError(
                    f"code.include: {path!r} is a link that leads out of the project folder, to {link!r}",
                    hint="copy the file into the project, or leave the link out with code.exclude",
                )
            if posixpath.isabs(link):  # would point to nothing in the image
                link = os.path.relpath(inside, source.parent.resolve())
        try:
            (path + link).encode()
        except UnicodeEncodeError:
            raise ConfigurationError(f"{path!a}: its name or target is not UTF-8", hint="rename it") from None
        return ContextFile(path, source, 0, 0o777, link)
