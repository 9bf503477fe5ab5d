"""Requirements files, as far as layers need them: which packages there are, and what their lines say. Pure.

The format is pip's (pip documentation, "Requirements File Format"); nothing is resolved or evaluated here.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from ..errors import ConfigurationError
from ..fields import NO_SECRET
from ..oci import Digest

__all__ = ["Entry", "Requirements", "credentials", "entry_of", "masked", "normalise", "parse"]

# PEP 508, "Names", and an optional list of extras.
_NAME = re.compile(r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)\s*(?P<extras>\[[^\]]*\])?\s*(?P<rest>.*)")
_COMMENT = re.compile(r"(^|\s+)#.*$")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|file:|git\+")
_CREDENTIALS = re.compile(rf"https?://(?!{NO_SECRET})[^/\s@]+@")
_TOKEN = re.compile(r"(?i)(?<=[?&])[a-z_-]*(?:token|secret|passw(?:or)?d|api_?key|signature|sig)=[^&#\s]+")
_LOGIN = re.compile(rf"(?<=://)(?!{NO_SECRET})[^/?#\s]+@")
_QUERY = re.compile(r"(?<=\?)[^#\s]+")  # in a requirement only a URL has a ?
_OPTION = re.compile(r"(?P<name>--[a-z-]+|-[a-zA-Z])(?:\s*=\s*|\s+|(?=\S)|$)(?P<value>.*)")
_LONG = {
    "-r": "--requirement",
    "-c": "--constraint",
    "-e": "--editable",
    "-i": "--index-url",
    "-f": "--find-links",
    "--pypi-url": "--index-url",
}
_KNOWN = frozenset(
    {
        "--requirement",
        "--constraint",
        "--editable",
        "--index-url",
        "--extra-index-url",
        "--find-links",
        "--no-index",
        "--no-binary",
        "--only-binary",
        "--prefer-binary",
        "--require-hashes",
        "--pre",
        "--trusted-host",
        "--use-feature",
    }
)
MAX_FILES = 100  # included files; more is a mistake


def normalise(name: str) -> str:
    """A project name in its one spelling (PEP 503): ``Foo._bar`` is ``foo-bar``."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True, slots=True)
class Entry:
    """One requirement.

    Attributes:
        name: normalised; "" where a URL does not tell.
        text: the line as written, continuations joined, hashes included, comments left out.
        file: path of the file it is in; line: its first line there, from 1.
        constraint: it is from a ``-c`` file: it installs nothing by itself.
    """

    name: str
    text: str
    file: str
    line: int
    constraint: bool = False

    @property
    def bare(self) -> bool:
        """Nothing but a name: no version, extra, marker, URL or hash."""
        return normalise(self.text) == self.name

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Requirements:
    """A requirements file with all that it includes.

    Attributes:
        files: paths relative to the project folder, the file itself first; none where the entries are from no
            requirements file (``declared``).
        entries: in the order in which pip reads them, constraints among them.
        options: global options as written (``--extra-index-url https://…``), without includes.
        hashed: some entry has a hash, or ``--require-hashes`` is there: pip then checks all.
    """

    files: tuple[str, ...]
    entries: tuple[Entry, ...]
    options: tuple[str, ...]
    hashed: bool

    @property
    def inline(self) -> bool:
        """There is no file that an installer could read: steps have the entries in their own text."""
        return not self.files

    @property
    def installed(self) -> tuple[Entry, ...]:
        """The entries that install something."""
        return tuple(entry for entry in self.entries if not entry.constraint)

    def split(self, separate: Sequence[str]) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
        """(heavy, rest): entries whose name matches one of *separate* (globs, on normalised names), and the others."""
        patterns = [re.sub(r"[-_.]+", "-", pattern).lower() for pattern in separate]
        heavy = [e for e in self.installed if e.name and any(fnmatchcase(e.name, p) for p in patterns)]
        return tuple(heavy), tuple(e for e in self.installed if e not in heavy)

    def constraints(self, names: frozenset[str]) -> tuple[Entry, ...]:
        """The constraints on packages of these names."""
        return tuple(e for e in self.entries if e.constraint and e.name in names)


def parse(path: str, read: Callable[[str], str]) -> Requirements:
    """What the requirements file *path* and the files that it includes ask for.

    Args:
        path: relative to the project folder, with ``/``.
        read: path (relative to the project folder) -> text.

    Raises:
        ConfigurationError: a file includes itself or leaves the project folder, a line is no requirement or names
            something local. What *read* raises passes through.
    """
    parser = _Parser(read)
    parser.file(_normal(path, path, 0), chain=(), constraint=False)
    return Requirements(tuple(parser.files), tuple(parser.entries), tuple(dict.fromkeys(parser.options)), parser.hashed)


def _normal(path: str, file: str, line: int) -> str:
    normal = posixpath.normpath(path)
    if normal.startswith(("/", "../")) or normal in ("..", "."):
        raise ConfigurationError(
            f"{_place(file, line)}: {path!r} is outside the project folder",
            hint="the builder is given the project folder only: move the file into it",
        )
    return normal


def _place(file: str, line: int) -> str:
    return f"{file}:{line}" if line else file


class _Parser:
    def __init__(self, read: Callable[[str], str]) -> None:
        self.read = read
        self.files: list[str] = []
        self.entries: list[Entry] = []
        self.options: list[str] = []
        self.hashed = False
        self.done: set[tuple[str, bool]] = set()

    def file(self, path: str, *, chain: tuple[str, ...], constraint: bool) -> None:
        if path in chain:
            raise ConfigurationError(f"requirements include each other: {' -> '.join((*chain, path))}")
        if (path, constraint) in self.done:
            return
        self.done.add((path, constraint))
        if path not in self.files:
            self.files.append(path)
        if len(self.files) > MAX_FILES:
            raise ConfigurationError(f"{self.files[0]}: includes more than {MAX_FILES} files")
        for number, line in _lines(self.read(path)):
            self.line(path, number, line, (*chain, path), constraint)

    def line(self, file: str, number: int, line: str, chain: tuple[str, ...], constraint: bool) -> None:
        if not line.startswith("-"):
            self.entries.append(entry_of(file, number, line, constraint))
            self.hashed = self.hashed or "--hash=" in line
            return
        found = _OPTION.fullmatch(line)
        name = _LONG.get(found["name"], found["name"]) if found else ""
        value = found["value"].strip().strip("'\"") if found else ""
        if found is None or name not in _KNOWN:
            raise ConfigurationError(f"{_place(file, number)}: pip knows no option {line.split()[0]!r} in a file")
        if name in ("--requirement", "--constraint"):
            if _SCHEME.match(value):
                raise ConfigurationError(
                    f"{_place(file, number)}: {masked(value)!r} is not in the project folder",
                    hint="download it into the project: what it says must be known before the build",
                )
            included = _normal(posixpath.join(posixpath.dirname(file), value), file, number)
            self.file(included, chain=chain, constraint=constraint or name == "--constraint")
        elif name == "--editable":
            raise _local(file, number, line)
        else:
            if name == "--find-links" and (not _SCHEME.match(value) or value.startswith("file:")):
                raise ConfigurationError(
                    f"{_place(file, number)}: the folder {value!r} is not there during the build",
                    hint='name it as dependencies.wheels = "FOLDER" instead',
                )
            self.hashed = self.hashed or name == "--require-hashes"
            self.options.append(f"{name} {value}".strip())


def _lines(text: str) -> list[tuple[int, str]]:
    """(number, line) with continuations joined and comments left out (pip, ``req_file.py``: ``join_lines``)."""
    result: list[tuple[int, str]] = []
    parts: list[str] = []
    first = 0
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        comment = re.match(r"\s*#", line) is not None
        if parts and not comment and line.endswith("\\"):
            parts.append(line[:-1])
            continue
        if not parts and not comment and line.endswith("\\"):
            parts, first = [line[:-1]], number
            continue
        # A comment ends a continuation, as pip has it.
        joined = "".join(parts) + (" " + line if parts and comment else line)
        result.append((first if parts else number, joined))
        parts = []
    if parts:
        result.append((first, "".join(parts)))
    cleaned = ((number, _COMMENT.sub("", line).strip()) for number, line in result)
    return [(number, re.sub(r"\s+", " ", line)) for number, line in cleaned if line]


def entry_of(file: str, number: int, line: str, constraint: bool) -> Entry:
    """The entry that *line* is, comments left out; *number* is 0 where it is no line of a requirements file.

    Raises:
        ConfigurationError: it is no requirement, or names something local.
    """
    if any(ord(c) < 32 or ord(c) == 127 for c in line):
        raise ConfigurationError(f"{_place(file, number)}: a control character in a requirement")
    requirement = line.split(" ;")[0].split(" --")[0].strip()
    if _SCHEME.match(requirement):
        if requirement.startswith("file:"):
            raise _local(file, number, line)
        return Entry(_name_of_url(requirement), line, file, number, constraint)
    found = _NAME.fullmatch(requirement)
    if found is None or requirement.startswith(("/", ".", "~")):
        if re.match(r"[./~]|[A-Za-z]:\\", requirement):
            raise _local(file, number, line)
        raise ConfigurationError(
            f"{_place(file, number)}: {masked(line)!r} is no requirement", hint="as in torch==2.13.0"
        )
    rest = found["rest"]
    if re.fullmatch(r"@\s*(?:file:|\.{0,2}/).*", rest) or re.search(
        r"\.(?:whl|zip|tar\.gz|tgz|tar\.bz2)$", requirement
    ):
        if not _SCHEME.search(rest) or re.match(r"@\s*file:", rest):
            raise _local(file, number, line)
    elif rest.startswith(("/", "\\")):
        raise _local(file, number, line)
    elif rest and not re.match(r"[<>=!~@(;]", rest):
        raise ConfigurationError(
            f"{_place(file, number)}: {masked(line)!r} is no requirement", hint="as in torch==2.13.0"
        )
    return Entry(normalise(found["name"]), line, file, number, constraint)


def _name_of_url(url: str) -> str:
    egg = re.search(r"#(?:.*&)?egg=([A-Za-z0-9._-]+)", url)
    if egg:
        return normalise(egg[1])
    wheel = posixpath.basename(url.split("#")[0].split("?")[0])
    return normalise(wheel.split("-")[0]) if wheel.endswith(".whl") else ""


def _local(file: str, number: int, line: str) -> ConfigurationError:
    return ConfigurationError(
        f"{_place(file, number)}: {masked(line)!r} is on this machine, not in the builder",
        hint="list a package of your own under [code] include, or build its wheel into the folder of"
        " dependencies.wheels and require it by name",
    )


def credentials(text: str) -> bool:
    """Whether *text* has a URL with a user, password or token in it (``${VARIABLE}`` is none, nor is ``git@``)."""
    return any("${" not in found[0] for what in (_CREDENTIALS, _TOKEN) for found in what.finditer(text))


def masked(text: str) -> str:
    """*text* as it may be shown to anybody: ``***`` for logins and queries of its URLs, for a token may be in either.

    A short digest of the whole stands behind it then, so that two that differ there alone are still told apart.
    """
    shown = _QUERY.sub("***", _LOGIN.sub("***@", text))
    return text if shown == text else f"{shown} ({Digest.of(text.encode()).short})"
