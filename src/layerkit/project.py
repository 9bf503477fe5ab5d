"""What to build: ``layerkit.toml`` (or ``[tool.layerkit]`` in pyproject.toml) as frozen values.

One class a table, the same names in Python (``build-apt`` is ``build_apt``). A Project holds what was written
and nothing that was found out: no digest, no file content, no environment.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, TypeVar

import tomli
from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass

from .errors import ConfigurationError, Problem, printable
from .oci import Platform, Reference

__all__ = [
    "Builder",
    "Cache",
    "Checkpoint",
    "Code",
    "Dependencies",
    "Image",
    "Project",
    "Secret",
    "load",
    "override",
    "schema",
]

MAX_FILE_SIZE = 1024 * 1024  # bytes; a build description is some kilobytes, and a parser's work grows with it
_MAX_STATEMENT = 300  # lines of one assignment, from which lines are no longer told in error messages
FILE_NAMES = ("layerkit.toml", "pyproject.toml")

_CONFIG = ConfigDict(extra="forbid")
_NUMERIC_OWNER = re.compile(r"(?P<user>\d{1,10}|root)(?::(?P<group>\d{1,10}|root))?")
_MAX_OWNER = 2**32 - 2  # of a uid_t; its -1 means "leave as it is"
_OCTAL = re.compile(r"0?[0-7]{3,4}")
_SECRET_NAME = re.compile(
    r"(?i)(?:^|[_-])(?:token|secret|passwd|password|api_?key|credentials?|private_?key)(?:$|[_-])"
)
_IDENTIFIER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

T = TypeVar("T")


def _items(value: Sequence[T]) -> Sequence[T]:
    return tuple(value)


def _line(value: str) -> str:
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise ValueError("control characters and line breaks are not allowed here")
    if not value:
        raise ValueError("must not be empty")
    return value


def _absolute(value: str) -> str:
    path = PurePosixPath(_line(value))
    if not path.is_absolute() or ".." in path.parts or "$" in value:
        raise ValueError(f"{value!r} must be an absolute path in the image, without '..' or variables")
    return value


def _inside(value: str) -> str:
    path = PurePosixPath(_line(value))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"{value!r} must be a path inside the project folder")
    return value


def _owner(value: str) -> str:
    if not _NUMERIC_OWNER.fullmatch(value):
        raise ValueError(
            f"{value!r} is no owner: write numbers, as in '1000:1000' (a layer that is linked, not copied,"
            " has no /etc/passwd to look a name up in; 'root' is 0)"
        )
    if any(part != "root" and int(part) > _MAX_OWNER for part in value.split(":")):
        raise ValueError(f"{value!r} is no owner: the highest number is {_MAX_OWNER}")
    return value


def _mode(value: str) -> str:
    if not _OCTAL.fullmatch(value):
        raise ValueError(f"{value!r} is no octal mode, as in '0644'")
    return value


def _name(value: str) -> str:
    try:
        reference = Reference.parse(value)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    if reference.tag or reference.digest:
        raise ValueError(f"{value!r} must be a repository without a tag: tags are given to the build (-t v2)")
    return value


def _base(value: str) -> str:
    try:
        Reference.parse(value)
    except ConfigurationError as error:
        raise ValueError(str(error)) from None
    return value


def _platform(value: str) -> str:
    return str(Platform.parse(value))


def _variables(value: Mapping[str, str]) -> Mapping[str, str]:
    for name in value:
        if not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name!r} is no variable name")
        if _SECRET_NAME.search(name):
            raise ValueError(
                f"{name!r} looks like a secret, and would stay in the image's history: give it as"
                f" [builder.secrets] {name} = {{ env = {name!r} }} and RUN --mount=type=secret,id={name}"
            )
    return value


Line = Annotated[str, AfterValidator(_line)]
Absolute = Annotated[str, AfterValidator(_absolute)]
Inside = Annotated[str, AfterValidator(_inside)]
Lines = Annotated[Sequence[Line], AfterValidator(_items)]
Insides = Annotated[Sequence[Inside], AfterValidator(_items)]
Variables = Annotated[Mapping[str, str], AfterValidator(_variables)]
Platforms = Annotated[Sequence[Annotated[str, AfterValidator(_platform)]], AfterValidator(_items)]
Ports = Annotated[Sequence[Annotated[int, Field(ge=1, le=65535)]], AfterValidator(_items)]


@dataclass(frozen=True, config=_CONFIG)
class Secret:
    """Where a build secret comes from: a ``file``, or an ``env`` variable of the machine that builds.

    The value is mounted for the steps that need it, and is in no layer, history entry, label or provenance.
    """

    file: Annotated[str, Field(description="Path of a file on this machine; ~ is the home folder.")] = ""
    env: Annotated[str, Field(description="Name of an environment variable on this machine.")] = ""

    @model_validator(mode="after")
    def _one_source(self) -> Secret:
        if bool(self.file) == bool(self.env):
            raise ValueError("a secret has either file = … or env = …")
        return self


def _secrets(value: Mapping[str, Secret]) -> Mapping[str, Secret]:
    for name in value:
        if not _IDENTIFIER.fullmatch(name):
            raise ValueError(f"{name!r} is no secret id: letters, digits, '_', '.', '-'")
    return value


Secrets = Annotated[Mapping[str, Secret], AfterValidator(_secrets)]


@dataclass(frozen=True, config=_CONFIG)
class Image:
    """``[image]``: the image's name, what it starts from, and how it is run."""

    name: Annotated[str, AfterValidator(_name), Field(description="Repository, without a tag: ghcr.io/acme/resnet.")]
    base: Annotated[str, AfterValidator(_base), Field(description="Image to start from. Not with 'dockerfile'.")] = (
        "python:3.11-slim"
    )
    dockerfile: Annotated[
        str, Field(description="Your own Dockerfile, with one 'COPY --link --from=checkpoint . DIR/' line.")
    ] = ""
    target: Annotated[str, Field(description="Stage of 'dockerfile' to build; the last where left out.")] = ""
    platforms: Annotated[Platforms, Field(description="As in linux/amd64; this machine's where left out.")] = ()
    command: Annotated[Lines, Field(description='Exec form: ["python", "serve.py"].')] = ()
    entrypoint: Annotated[Lines, Field(description="Exec form.")] = ()
    workdir: Annotated[Absolute, Field(description="Working folder of the command.")] = "/app"
    user: Annotated[str, Field(description="User (name or uid[:gid]) that the command runs as.")] = ""
    env: Annotated[Variables, Field(description="Environment of the command.")] = Field(default_factory=dict)
    labels: Annotated[Mapping[str, str], Field(description="Image labels.")] = Field(default_factory=dict)
    expose: Annotated[Ports, Field(description="TCP ports that the command listens on.")] = ()


@dataclass(frozen=True, config=_CONFIG)
class Dependencies:
    """``[dependencies]``: Python and system packages, the heavy ones in a layer of their own."""

    requirements: Annotated[str, Field(description="requirements.txt, hashes allowed; '' for none.")] = ""
    separate: Annotated[
        Lines, Field(description='Packages (globs allowed) for a layer of their own: ["torch", "nvidia-*"].')
    ] = ()
    installer: Annotated[Literal["pip", "uv"], Field(description="What installs the packages.")] = "pip"
    wheels: Annotated[str, Field(description="Folder of wheels: packages come from there alone, with no network.")] = ""
    apt: Annotated[Lines, Field(description="Debian packages of the image.")] = ()
    build_apt: Annotated[
        Lines, Field(description="Debian packages needed only to build wheels; they stay out of the image.")
    ] = ()
    secrets: Annotated[
        Secrets,
        Field(
            description="For install steps: 'pip.conf', 'netrc' and 'ca' (a CA bundle) are put where installers"
            " look for them; any other id becomes the environment variable of that name."
        ),
    ] = Field(default_factory=dict)


@dataclass(frozen=True, config=_CONFIG)
class Code:
    """``[code]``: which files of the project are the code, and where they go. ``.dockerignore`` is honoured."""

    include: Annotated[Insides, Field(description="Files, folders or globs, relative to the project folder.")] = ()
    exclude: Annotated[Lines, Field(description="Patterns to leave out, as in .dockerignore.")] = ()
    target: Annotated[Absolute, Field(description="Folder in the image.")] = "/app"


@dataclass(frozen=True, config=_CONFIG)
class Checkpoint:
    """``[checkpoint]``: the weights, and where they go."""

    path: Annotated[Line, Field(description="File, folder or glob, relative to the project folder.")]
    target: Annotated[
        Absolute | None,
        Field(description="Folder in the image (default /app/model/). With your own Dockerfile its COPY line says it."),
    ] = None
    chown: Annotated[
        Annotated[str, AfterValidator(_owner)] | None,
        Field(description="Owner as uid[:gid] or root (default root:root)."),
    ] = None
    chmod: Annotated[
        Annotated[str, AfterValidator(_mode)] | None,
        Field(description="Octal mode of files (default 0644); folders get the x of every r."),
    ] = None
    placement: Annotated[
        Literal["layer", "volume", "artifact"],
        Field(
            description="layer: in the image, in layers of its own. volume: mounted at run time, not in the image."
            " artifact: pushed as an image of its own, mounted at run time."
        ),
    ] = "layer"
    compression: Annotated[
        Literal["none", "zstd", "auto"],
        Field(
            description="Of the layers in a registry. none: as they are. zstd: needs layerkit[zstd]. auto: zstd where a"
            " sample of the weights shrinks by a tenth and more (bf16 does, fp16 and fp32 do not)."
        ),
    ] = "none"


@dataclass(frozen=True, config=_CONFIG)
class Cache:
    """``[cache]``: where BuildKit's cache, the runtime images and the checkpoint images are kept."""

    to: Annotated[
        Annotated[Sequence[Line], AfterValidator(_items)] | None,
        Field(description="buildx cache-to entries; REPO:buildcache where left out, [] for none."),
    ] = None
    from_: Annotated[
        Annotated[Sequence[Line], AfterValidator(_items)] | None,
        Field(description="buildx cache-from entries; REPO:buildcache where left out, [] for none."),
    ] = None
    repository: Annotated[str, Field(description="Another repository for cache, runtime and checkpoint images.")] = ""


@dataclass(frozen=True, config=_CONFIG)
class Builder:
    """``[builder]``: which builder, and what it is given."""

    name: Annotated[str, Field(description="buildx builder; docker's own choice where left out.")] = ""
    args: Annotated[Variables, Field(description="Build arguments. Never secrets.")] = Field(default_factory=dict)
    secrets: Annotated[Secrets, Field(description="Secrets for RUN --mount=type=secret of your own Dockerfile.")] = (
        Field(default_factory=dict)
    )
    ssh: Annotated[Lines, Field(description="SSH agents or keys, as in buildx --ssh.")] = ()
    network: Annotated[Literal["", "default", "none", "host"], Field(description="Network of RUN steps.")] = ""
    attest: Annotated[Lines, Field(description="Attestations, as in buildx --attest; none by default.")] = ()


@dataclass(frozen=True, config=_CONFIG)
class Project:
    """A whole build. ``root`` is the folder that relative paths start from; it is in no digest."""

    image: Image
    dependencies: Dependencies = Field(default_factory=Dependencies)
    code: Code = Field(default_factory=Code)
    checkpoint: Checkpoint | None = None
    cache: Cache = Field(default_factory=Cache)
    builder: Builder = Field(default_factory=Builder)
    root: Path = Path()

    @model_validator(mode="after")
    def _consistent(self) -> Project:
        if self.image.dockerfile:
            if self.dependencies != Dependencies():
                raise ValueError("[dependencies] has no effect with image.dockerfile: your Dockerfile installs them")
            if self.code != Code():
                raise ValueError("[code] has no effect with image.dockerfile: your Dockerfile copies it")
            plain = Image(self.image.name)
            for name in ("base", "command", "entrypoint", "workdir", "user", "env", "labels", "expose"):
                if getattr(self.image, name) != getattr(plain, name):
                    raise ValueError(f"image.{name} has no effect with image.dockerfile: your Dockerfile says it")
        elif self.image.target:
            raise ValueError("image.target needs image.dockerfile")
        return self


# ---------------------------------------------------------------------------------------------------------- reading

_TABLES: dict[str, type] = {
    "image": Image,
    "dependencies": Dependencies,
    "code": Code,
    "checkpoint": Checkpoint,
    "cache": Cache,
    "builder": Builder,
}
_SPELLED = {"from_": "from"}


def _spelling(field: str) -> str:
    """The TOML spelling of a field of ours."""
    return _SPELLED.get(field, field.replace("_", "-"))


def _fields(table: str) -> dict[str, str]:
    """TOML spelling -> field name, for a table."""
    return {_spelling(name): name for name in _TABLES[table].__dataclass_fields__}  # type: ignore[attr-defined]


def load(path: str | Path | None = None, *, root: str | Path | None = None, overrides: Sequence[str] = ()) -> Project:
    """The Project that a file describes.

    Args:
        path: layerkit.toml or pyproject.toml; found in *root* where left out.
        root: the project folder; the file's own where left out.
        overrides: ``key=value`` assignments that win over the file, as ``image.base=python:3.12-slim``; the
            value is TOML, or taken as a string where it is none.

    Raises:
        ConfigurationError: no file, not TOML, or not a valid project: all problems at once, each with its line.
    """
    file = _find(Path(root) if root is not None else Path(), Path(path) if path is not None else None)
    text = _read(file)
    document = _table(file, _parse(file, text))
    for assignment in overrides:
        document = override(document, assignment)
    prefix = ("tool", "layerkit") if file.name == "pyproject.toml" else ()
    return _validate(
        document, root=Path(root) if root is not None else file.parent, file=file, text=text, prefix=prefix
    )


def _find(root: Path, path: Path | None) -> Path:
    if path is not None:
        file = root / path if (root / path).is_file() else path
        if not file.is_file():
            raise ConfigurationError(f"no file {str(path)!r}", hint="write one with: layerkit init")
        return file
    for name in FILE_NAMES:
        file = root / name
        if file.is_file() and (name == "layerkit.toml" or "layerkit" in _tools(_parse(file, _read(file)))):
            return file
    raise ConfigurationError(
        f"no layerkit.toml (and no [tool.layerkit] in a pyproject.toml) in {str(root.absolute())!r}",
        hint="write one with: layerkit init",
    )


def _read(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            raw = stream.read(MAX_FILE_SIZE + 1)
        if len(raw) > MAX_FILE_SIZE:
            raise ConfigurationError(f"{file}: over {MAX_FILE_SIZE} bytes; that is no build description")
        return raw.decode()
    except OSError as error:
        raise ConfigurationError(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file}: not UTF-8 at byte {error.start}") from None


def _parse(file: Path, text: str) -> dict[str, Any]:
    try:
        return tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        problem = Problem(error.msg, file=str(file), line=error.lineno, column=error.colno)
        raise ConfigurationError(str(problem), problems=[problem]) from None
    except RecursionError:
        raise ConfigurationError(f"{file}: nested too deeply") from None


def _table(file: Path, document: dict[str, Any]) -> dict[str, Any]:
    if file.name != "pyproject.toml":
        return document
    found = _tools(document).get("layerkit", {})
    return found if isinstance(found, dict) else {}


def _tools(document: dict[str, Any]) -> dict[str, Any]:
    found = document.get("tool", {})
    return found if isinstance(found, dict) else {}


def override(document: Mapping[str, Any], assignment: str) -> dict[str, Any]:
    """*document* with one ``table.key=value`` assignment made; *document* itself is not changed.

    Raises:
        ConfigurationError: the assignment has no '=' or no dotted key.
    """
    key, equals, value = assignment.partition("=")
    parts = _dotted(key)
    if not equals or len(parts) < 2:
        raise ConfigurationError(f"{assignment!r} is no assignment", hint="--set image.base=python:3.12-slim")
    try:
        parsed = tomli.loads(f"value = {value.strip()}")["value"]
    except (tomli.TOMLDecodeError, RecursionError):
        parsed = value
    if parts[-2] in ("env", "labels", "args") and not isinstance(parsed, str):
        parsed = value  # these hold text: --set image.env.PORT=8000 means "8000"
    result = dict(document)
    inner = result
    for part in parts[:-1]:
        below = inner.get(part)
        inner[part] = dict(below) if isinstance(below, dict) else {}
        inner = inner[part]
    inner[parts[-1]] = parsed
    return result


def _dotted(key: str) -> list[str]:
    """The parts of a TOML key: ``image.labels."org.example.a"`` has three. None where it is no key."""
    try:
        found: Any = tomli.loads(f"{key.strip()} = 0")
    except (tomli.TOMLDecodeError, RecursionError):
        return []
    parts: list[str] = []
    while isinstance(found, dict) and len(found) == 1:
        parts += found
        (found,) = found.values()
    return parts


def _validate(document: Mapping[str, Any], *, root: Path, file: Path, text: str, prefix: tuple[str, ...]) -> Project:
    problems: list[tuple[tuple[str, ...], str, str]] = []
    values: dict[str, Any] = {"root": root}
    for table, content in document.items():
        if table not in _TABLES:
            problems.append(((table,), "unknown table", _near(table, _TABLES)))
        elif not isinstance(content, dict):
            problems.append(((table,), f"must be a table: [{table}]", ""))
        else:
            fields = _fields(table)
            unknown = [key for key in content if key not in fields]
            problems += [((table, key), "unknown key", _near(key, fields)) for key in unknown]
            values[table] = {fields[key]: item for key, item in content.items() if key in fields}
    try:
        project = TypeAdapter(Project).validate_python(values)
    except ValidationError as error:
        known = {where for where, _, _ in problems}
        problems += [problem for problem in _problems(error) if problem[0] not in known]
    else:
        if not problems:
            return project
    positions = _positions(text)
    found = sorted(
        (
            Problem(
                printable(message),
                where=printable(".".join(where)),
                file=str(file),
                line=_line_of(positions, prefix + where),
                hint=hint,
            )
            for where, message, hint in problems
        ),
        key=lambda problem: problem.line,
    )
    count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
    raise ConfigurationError(f"{file}: {count}", problems=found, hint="layerkit schema prints what is allowed")


def _problems(error: ValidationError) -> Iterator[tuple[tuple[str, ...], str, str]]:
    for item in error.errors(include_url=False):
        # Positions of union branches and of dataclass arguments are pydantic's, not the file's.
        where = tuple(_spelling(str(part)) for part in item["loc"] if not re.search(r"[\[\(]", str(part)))
        kind, message = item["type"], item["msg"].removeprefix("Value error, ")
        if kind in ("missing", "missing_argument"):
            message = "is required"
        elif kind in ("unexpected_keyword_argument", "extra_forbidden"):
            message = "unknown key"
        yield where, message[:1].lower() + message[1:], ""


def _near(word: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(known)


def _positions(text: str) -> dict[tuple[str, ...], int]:
    """Key -> the line, from 1, where it is first there.

    tomli keeps no positions: each statement (a header, or an assignment of one or more lines) is read by itself.
    """
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()

    def note(value: Any, path: tuple[str, ...], line: int) -> tuple[str, ...]:
        last = path
        for key, inner in value.items() if isinstance(value, dict) else ():
            found.setdefault((*path, key), line)
            last = note(inner, (*path, key), line)
        return last

    statement, first = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        try:
            parsed = tomli.loads(statement)
        except (tomli.TOMLDecodeError, RecursionError):
            if number - first > _MAX_STATEMENT:
                break
            continue
        if statement.lstrip().startswith("["):
            table = note(parsed, (), first)
        else:
            note(parsed, table, first)
        statement, first = "", number + 1
    return found


def _line_of(positions: Mapping[tuple[str, ...], int], where: tuple[str, ...]) -> int:
    """The line of the key *where*, or of the nearest table around it; 0 where none is in the file."""
    return next((positions[where[:n]] for n in range(len(where), 0, -1) if where[:n] in positions), 0)


def schema() -> dict[str, Any]:
    """The JSON schema of layerkit.toml (draft 2020-12), for editors and ``layerkit schema``."""
    document = TypeAdapter(Project).json_schema(mode="validation")
    for table in document["$defs"].values():
        table["properties"] = {_spelling(name): value for name, value in table["properties"].items()}
        table["additionalProperties"] = False
    del document["properties"]["root"]
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **document,
        "title": "layerkit.toml",
        "additionalProperties": False,
    }
