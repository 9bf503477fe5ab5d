"""What to build: ``layerkit.toml`` (or ``[tool.layerkit]`` in pyproject.toml) as frozen values.

One class a table, the same names in Python (``build-apt`` is ``build_apt``). A Project holds what was written
and nothing that was found out: no digest, no file content, no environment.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli
from pydantic import TypeAdapter, ValidationError

from .errors import ConfigurationError, Problem, printable
from .fields import complaints
from .positions import line_of, positions
from .tables import Builder, Cache, Checkpoint, Code, Dependencies, Image, Project, Secret

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
    "parse_toml",
    "schema",
]

MAX_FILE_SIZE = 1024 * 1024  # bytes; a build description is some kilobytes, and a parser's work grows with it
FILE_NAMES = ("layerkit.toml", "pyproject.toml")


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
        document,
        root=Path(root) if root is not None else file.parent,
        file=file,
        text=text,
        prefix=prefix,
        overridden=[tuple(_dotted(assignment.partition("=")[0])) for assignment in overrides],
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


def parse_toml(text: str, name: str) -> dict[str, Any]:
    """The document that *text*, of the file *name*, is.

    Raises:
        ConfigurationError: it is no TOML; with its line.
    """
    return _parse(Path(name), text)


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


def _validate(
    document: Mapping[str, Any],
    *,
    root: Path,
    file: Path,
    text: str,
    prefix: tuple[str, ...],
    overridden: Sequence[tuple[str, ...]],
) -> Project:
    problems: list[tuple[tuple[str, ...], str, str]] = []
    values: dict[str, Any] = {"root": root, "file": file}
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
    lines = positions(text)

    def problem(where: tuple[str, ...], message: str, hint: str) -> Problem:
        name = printable(".".join(where))
        if _from_override(where, overridden, in_file=prefix + where in lines):
            return Problem(printable(message), where=f"--set {name}", hint=hint)
        return Problem(printable(message), where=name, file=str(file), line=line_of(lines, prefix + where), hint=hint)

    found = sorted((problem(*one) for one in problems), key=lambda problem: problem.line)
    count = "1 problem" if len(found) == 1 else f"{len(found)} problems"
    subject = file if any(problem.file for problem in found) else "--set"
    raise ConfigurationError(f"{subject}: {count}", problems=found, hint="layerkit schema prints what is allowed")


def _from_override(where: tuple[str, ...], overridden: Sequence[tuple[str, ...]], *, in_file: bool) -> bool:
    """Whether an override, not the file, said what is at *where*: that value, or a table that only it has."""
    return any(where[: len(key)] == key or (not in_file and key[: len(where)] == where) for key in overridden)


def _problems(error: ValidationError) -> Iterator[tuple[tuple[str, ...], str, str]]:
    for where, message in complaints(error):
        # The second part is a field of ours; what is below it are the file's own names.
        yield tuple(_spelling(str(part)) if at == 1 else str(part) for at, part in enumerate(where)), message, ""


def _near(word: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else "known: " + ", ".join(known)


def schema() -> dict[str, Any]:
    """The JSON schema of layerkit.toml (draft 2020-12), for editors and ``layerkit schema``."""
    document = TypeAdapter(Project).json_schema(mode="validation")
    for table in document["$defs"].values():
        table["properties"] = {_spelling(name): value for name, value in table["properties"].items()}
        table["additionalProperties"] = False
    del document["properties"]["root"], document["properties"]["file"], document["description"]
    secret = document["$defs"]["Secret"]
    secret["oneOf"] = [{"required": [name]} for name in secret["properties"]]
    found: dict[str, Any] = _without_null(document)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **found,
        "title": "layerkit.toml",
        "description": "What layerkit builds: base, dependencies, checkpoint and code.",
        "additionalProperties": False,
    }


def _without_null(node: Any) -> Any:
    """*node* as TOML has it, which knows no null; descriptions without the marks of docstrings."""
    if isinstance(node, list):
        return [_without_null(item) for item in node]
    if not isinstance(node, dict):
        return node.replace("``", "") if isinstance(node, str) else node
    made = {key: _without_null(value) for key, value in node.items() if not (key == "default" and value is None)}
    branches = [branch for branch in made.get("anyOf", ()) if branch != {"type": "null"}]
    if len(branches) == 1:
        del made["anyOf"]
        made = {**branches[0], **made}
    return made
