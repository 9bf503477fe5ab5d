"""The files that go to the builder: which they are, and a folder that holds them and nothing else.

The checkpoint is never among them.
"""

from __future__ import annotations

import difflib
import fnmatch
import os
import posixpath
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from platform import machine

from ..errors import ConfigurationError
from ..project import Project, parse_toml
from .declared import from_pyproject, from_uv_lock, is_declared, split_extras
from .dockerfile import DEFAULT_EXCLUDES
from .dockerignore import Matcher, Pattern
from .left_out import in_project, own_ignore, private, read_ignore
from .requirements import Requirements, parse
from .walk import FOLDER, ContextFile, Walk, context_file, regular
from .words import has_wildcard

__all__ = ["find_files", "find_includes", "materialise", "read_requirements"]

_MAX_REQUIREMENTS = 16 * 1024 * 1024  # bytes


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
            regular(file.stat(), path)
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
        walk = Walk(project.root, [own_ignore(project)], without, own=True)
        found = walk.below("") if named is None else _below(walk, named)
        files = {file.path: file for file in found}
        return tuple(sorted(files.values(), key=lambda file: file.path))
    files = {}
    for path in _requirements_files(project):
        files[path] = context_file(path, project.root / path)
    walk = _code_walk(project, apart)
    for entry in project.code.include:
        for path in _matches(project, walk, entry):
            for file in walk.of(path):
                files.setdefault(file.path, file)
    _no_file_behind_a_link(files)
    return tuple(sorted(files.values(), key=lambda file: file.path))


def _below(walk: Walk, named: Iterable[str]) -> Iterator[ContextFile]:
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


def _code_walk(project: Project, apart: Iterable[Path]) -> Walk:
    matchers = [Matcher(DEFAULT_EXCLUDES), Matcher(project.code.exclude), read_ignore(project.root / ".dockerignore")]
    without = private(project) | in_project(project, apart)
    if project.dependencies.wheels and not posixpath.isabs(project.dependencies.wheels):
        without.add(posixpath.normpath(project.dependencies.wheels))
    return Walk(project.root, matchers, without, own=False)


def _matches(project: Project, walk: Walk, entry: str) -> tuple[str, ...]:
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
        folder.chmod(FOLDER)
        os.utime(folder, (timestamp, timestamp))
    return written
