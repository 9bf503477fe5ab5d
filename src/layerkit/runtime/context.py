"""The files that go to the builder: which they are, and a folder that holds them and nothing else.

The checkpoint is never among them.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import posixpath
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from platform import machine

from ..errors import ConfigurationError
from ..project import Project, parse_toml
from .declared import from_pyproject, from_uv_lock, is_declared, split_extras
from .dockerfile import DEFAULT_EXCLUDES
from .dockerignore import Matcher, Pattern
from .left_out import in_project, own_ignore, private, read_ignore
from .requirements import Requirements, parse
from .words import has_wildcard

__all__ = ["ContextFile", "find_files", "find_includes", "materialise", "read_requirements"]

_MAX_REQUIREMENTS = 16 * 1024 * 1024  # bytes
_EXECUTABLE, _PLAIN, _FOLDER = 0o755, 0o644, 0o755


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


# ------------------------------------------------------------------------------------------------------ requirements


def read_requirements(project: Project) -> Requirements | None:
    """What ``dependencies.requirements`` and the files that it includes say; None where there is none.

    Raises:
        ConfigurationError: a file is missing, unreadable or outside the project folder, or a line is no requirement.
    """
    name = project.dependencies.requirements
    if not name:
        return None

    def read(path: str) -> str:
        file = project.root / path
        _inside(file, path, project.root, "dependencies.requirements")
        try:
            _regular(file.stat(), path)
            with file.open("rb") as stream:
                raw = stream.read(_MAX_REQUIREMENTS + 1)
        except FileNotFoundError:
            raise ConfigurationError(
                f"dependencies.requirements: no file {path!r} in {str(project.root)!r}",
                hint=_near(project.root, path) or "write one, or leave dependencies.requirements out",
            ) from None
        except OSError as error:
            raise ConfigurationError(f"dependencies.requirements: {path}: {error.strerror}") from None
        if len(raw) > _MAX_REQUIREMENTS:
            raise ConfigurationError(f"dependencies.requirements: {path}: over {_MAX_REQUIREMENTS} bytes")
        try:
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ConfigurationError(f"dependencies.requirements: {path}: not UTF-8 at byte {error.start}") from None

    if not is_declared(name):
        return parse(name, read)
    path, extras = split_extras(name)
    document = parse_toml(read(path), path)
    if not path.endswith("uv.lock"):
        return from_pyproject(path, document, extras)
    beside = posixpath.join(posixpath.dirname(path), "pyproject.toml")
    described = parse_toml(read(beside), beside) if (project.root / beside).is_file() else {}
    # As "linux/arm/v7"; and this machine's own, for which is built where none is said.
    architectures = [platform.split("/")[1] for platform in project.image.platforms] + [machine()]
    return from_uv_lock(path, document, extras, described=described, architectures=architectures)


# ------------------------------------------------------------------------------------------------------------- files


def find_files(
    project: Project, apart: Iterable[Path] = (), named: Iterable[str] | None = None
) -> tuple[ContextFile, ...]:
    """Exactly what is sent to the builder, sorted by path.

    For a generated Dockerfile: the requirements files, and ``code.include`` without ``code.exclude``,
    ``.dockerignore``, the wheel folder and ``DEFAULT_EXCLUDES``. For one's own: the project folder without what
    ``<Dockerfile>.dockerignore``, or else ``.dockerignore``, excludes, and with folders in which nothing is, as buildx
    sends them. (In a checkout such a folder is often the rest of an older state, and no two machines have the same:
    where layerkit writes the Dockerfile it is not code.) In both cases without the checkpoint and without files of
    secrets.

    Args:
        apart: files and folders that are left out as well: what layerkit itself writes is no input.
        named: what one's own Dockerfile takes of the folder (``taken``), where that is not all; the rest is not
            looked at. Where a link leads to one of these, or is one, all is sent: BuildKit follows it.

    Raises:
        ConfigurationError: an include matches nothing or leaves the folder, a requirements file is missing, something
            is neither file nor folder nor link, or a pattern is none.
    """
    if project.image.dockerfile:
        without = private(project) | in_project(project, apart)
        walk = _Walk(project.root, [own_ignore(project)], without, own=True)
        found = walk.below("") if named is None else _below(walk, named)
        files = {file.path: file for file in found}
        return tuple(sorted(files.values(), key=lambda file: file.path))
    files = {}
    for path in _requirements_files(project):
        files[path] = _file(path, project.root / path)
    walk = _code_walk(project, apart)
    for entry in project.code.include:
        for path in _matches(project, walk, entry):
            for file in walk.of(path):
                files.setdefault(file.path, file)
    _no_file_behind_a_link(files)
    return tuple(sorted(files.values(), key=lambda file: file.path))


def _below(walk: _Walk, named: Iterable[str]) -> Iterator[ContextFile]:
    """The files that are named, or below a folder that is; what is not there BuildKit will miss.

    All files, where a link leads to what is named, or is that.
    """
    places = [place for path in named for place in _matching(walk.root, "", path.split("/"))]
    linked = any((walk.root / place).is_symlink() for place in places)
    return walk.below("") if linked else (file for place in places for file in walk.of(place))


def _matching(root: Path, folder: str, parts: Sequence[str]) -> Iterator[str]:
    """Paths below *folder* whose parts are like *parts*, as Go's ``filepath.Match`` has it, or a few more.

    A link ends the search, wherever it leads.
    """
    if not parts:
        yield folder
        return
    part, rest = parts[0], parts[1:]
    names: Iterable[str] = [part]
    if has_wildcard(part):
        # A set of characters is written otherwise in Go: any name may match it.
        pattern = "*" if "[" in part else part
        try:
            names = fnmatch.filter((entry.name for entry in (root / folder).iterdir()), pattern)
        except OSError:
            names = []
    for name in names:
        path = f"{folder}/{name}" if folder else name
        if (root / path).is_symlink():
            yield path
        elif (root / path).exists():
            yield from _matching(root, path, rest)


def _no_file_behind_a_link(files: Mapping[str, ContextFile]) -> None:
    """A link is sent as a link: a file that is reached by way of it can lie nowhere."""
    for path, file in files.items():
        for folder in (str(parent) for parent in PurePosixPath(path).parents):
            if folder in files and files[folder].link:
                behind = os.path.relpath(file.source.resolve(), files[folder].source.parent.resolve())
                named = posixpath.normpath(posixpath.join(posixpath.dirname(folder), behind))
                raise ConfigurationError(
                    f"{path!r} lies behind the link {folder!r}, which is included as a link",
                    hint=f"include {named!r} in its place",
                )


def find_includes(project: Project, apart: Iterable[Path] = ()) -> dict[str, tuple[str, ...]]:
    """Entry of ``code.include`` -> the paths that it matches, a folder with a ``/`` at its end: for ``generate``.

    Raises:
        ConfigurationError: as ``find_files``.
    """
    walk = _code_walk(project, apart)
    return {
        entry: tuple(
            path + "/" if (project.root / path).is_dir() and path != "." else path
            for path in _matches(project, walk, entry)
        )
        for entry in project.code.include
    }


def _requirements_files(project: Project) -> tuple[str, ...]:
    requirements = read_requirements(project)
    return requirements.files if requirements is not None else ()


def _code_walk(project: Project, apart: Iterable[Path]) -> _Walk:
    matchers = [Matcher(DEFAULT_EXCLUDES), Matcher(project.code.exclude), read_ignore(project.root / ".dockerignore")]
    without = private(project) | in_project(project, apart)
    if project.dependencies.wheels and not posixpath.isabs(project.dependencies.wheels):
        without.add(posixpath.normpath(project.dependencies.wheels))
    return _Walk(project.root, matchers, without, own=False)


def _matches(project: Project, walk: _Walk, entry: str) -> tuple[str, ...]:
    """The paths that an entry of ``code.include`` stands for; what is below a matched folder is not listed again."""
    path = posixpath.normpath(entry)
    file = project.root / path
    if not has_wildcard(path) or os.path.lexists(file):
        _inside(file, path, project.root, "code.include")
        if not os.path.lexists(file):
            raise ConfigurationError(
                f"code.include: no {entry!r} in {str(project.root)!r}", hint=_near(project.root, path)
            )
        matched: tuple[str, ...] = (path,)
    else:
        matched = tuple(walk.matching(Pattern.parse(path)))
        for match in matched:
            _inside(project.root / match, match, project.root, "code.include")
        if not matched:
            raise ConfigurationError(
                f"code.include: {entry!r} matches nothing in {str(project.root)!r}",
                hint=_near(project.root, path) or "** stands for any number of folders",
            )
    if not any(True for match in matched for _ in walk.of(match)):
        raise ConfigurationError(
            f"code.include: nothing is left of {entry!r}",
            hint="it is empty, or code.exclude, .dockerignore or a default (.git, .venv, *.pyc, files of secrets)"
            " leaves all of it out",
        )
    return matched


def _near(root: Path, path: str) -> str:
    """ "did you mean" with what is beside *path*, or beside the first of its folders that is missing."""
    folder = root
    for part in Path(path).parts:
        try:
            names = sorted(entry.name for entry in folder.iterdir())
        except OSError:
            return ""
        if part in names:
            folder = folder / part
            continue
        near = difflib.get_close_matches(part, names, n=1, cutoff=0.6)
        return f"did you mean {(folder / near[0]).relative_to(root).as_posix()!r}?" if near else ""
    return ""


def _inside(file: Path, path: str, root: Path, where: str) -> None:
    if not file.resolve().is_relative_to(root.resolve()):
        raise ConfigurationError(
            f"{where}: {path!r} leads out of the project folder, to {str(file.resolve())!r}",
            hint="copy it into the project: the builder is given this folder only",
        )


def _regular(status: os.stat_result, path: str) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ConfigurationError(
            f"{path}: is no file, folder or link but a {_kind(status.st_mode)}",
            hint="remove it, or name it in .dockerignore",
        )


def _kind(mode: int) -> str:
    names = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFBLK: "device", stat.S_IFCHR: "device"}
    return names.get(stat.S_IFMT(mode), "folder" if stat.S_ISDIR(mode) else "special file")


def _file(path: str, source: Path, status: os.stat_result | None = None) -> ContextFile:
    """A file, links followed."""
    try:
        path.encode()
    except UnicodeEncodeError:
        raise ConfigurationError(f"{path!a}: its name is not UTF-8", hint="rename it") from None
    try:
        status = status or source.stat()
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    _regular(status, path)
    return ContextFile(path, source, status.st_size, _EXECUTABLE if status.st_mode & stat.S_IXUSR else _PLAIN)


def _empty(path: str, source: Path) -> ContextFile:
    return ContextFile(path, source, 0, stat.S_IFDIR | _FOLDER)


class _Walk:
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
            yield _file(path, self.root / path)

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
                return _file(path, source, entry.stat(follow_symlinks=False))
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


# ------------------------------------------------------------------------------------------------------- the folder


def materialise(files: Iterable[ContextFile], destination: Path, *, timestamp: int = 0) -> int:
    """Write *files* into *destination*, so that the same files give the same layers wherever they came from.

    Modes are those of the files, folders have 0755, and everything has one modification time.

    Args:
        destination: a folder that does not exist, or is empty.
        timestamp: modification time of everything, in seconds since 1970 (``SOURCE_DATE_EPOCH``).

    Returns:
        bytes written.

    Raises:
        ConfigurationError: a file is gone, or has another size than when it was found.
        OSError: *destination* cannot be written.
    """
    destination.mkdir(parents=True, exist_ok=True)
    folders = {destination}
    written = 0
    for file in files:
        target = destination / file.path
        missing = []
        parent = target if file.is_folder else target.parent
        while parent not in folders:
            missing.append(parent)
            folders.add(parent)
            parent = parent.parent
        for folder in reversed(missing):
            folder.mkdir()
        if file.is_folder:
            continue
        if file.link:
            target.symlink_to(file.link)
            os.utime(target, (timestamp, timestamp), follow_symlinks=False)
            continue
        try:
            source = file.source.open("rb")
        except OSError as error:
            raise ConfigurationError(f"{file.path}: {error.strerror}", hint="run the build again") from None
        with source, target.open("xb") as sink:
            shutil.copyfileobj(source, sink, 1024 * 1024)
            size = sink.tell()
            os.fchmod(sink.fileno(), file.mode)
        if size != file.size:
            raise ConfigurationError(
                f"{file.path}: changed while it was read ({file.size} bytes, then {size})", hint="run the build again"
            )
        os.utime(target, (timestamp, timestamp))
        written += size
    for folder in folders:
        folder.chmod(_FOLDER)
        os.utime(folder, (timestamp, timestamp))
    return written
