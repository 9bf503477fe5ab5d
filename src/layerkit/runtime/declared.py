"""Requirements that are no requirements file: the dependencies of a pyproject.toml, the pins of a uv.lock. Pure.

A pyproject.toml gives ``project.dependencies`` (PyPA, "pyproject.toml specification") or ``tool.poetry.dependencies``;
with extras, ``pyproject.toml[serve]``, those of ``project.optional-dependencies`` too. A uv.lock gives what
``uv export`` gives: every package that the project needs, its version, marker and hashes of its files. The project
itself is not installed: its modules are the code.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError
from .requirements import Entry, Requirements, entry_of, normalise

__all__ = ["from_pyproject", "from_uv_lock", "is_declared", "split_extras"]

_SPELLED = re.compile(r"(?P<path>[^\[\]]*)(?:\[(?P<extras>[A-Za-z0-9._, -]*)\])?")
_NAMES = ("pyproject.toml", "uv.lock")
_MAX_ALTERNATIVES = 32  # markers under which one package is needed
# Wheels of other systems and interpreters: images are Linux, and run CPython.
_ELSEWHERE = re.compile(r"-(?:win|macosx|ios|android|pyodide|emscripten)[a-z0-9_.]*\.whl$|-(?:pp|graalpy)\d+-")
_MACHINE = re.compile(r"_(i686|armv[67]l|ppc64|ppc64le|s390x|riscv64|loongarch64|mips64)\.whl$")
_MACHINES = {"386": "i686", "arm": "armv7l", "loong64": "loongarch64"}  # where a wheel names it otherwise


def is_declared(name: str) -> bool:
    """Whether ``dependencies.requirements`` names a pyproject.toml or a uv.lock, with extras or without."""
    return posixpath.basename(split_extras(name)[0]) in _NAMES


def split_extras(name: str) -> tuple[str, tuple[str, ...]]:
    """``app/pyproject.toml[serve,gpu]`` as path and normalised extras."""
    found = _SPELLED.fullmatch(name)
    if found is None or posixpath.basename(found["path"]) not in _NAMES:
        return name, ()
    return found["path"], tuple(normalise(part.strip()) for part in (found["extras"] or "").split(",") if part.strip())


def _table(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _made(path: str, lines: Iterable[str], options: Iterable[str]) -> Requirements:
    entries: list[Entry] = [entry_of(path, 0, re.sub(r"\s+", " ", line).strip(), False) for line in lines]
    hashed = any("--hash=" in entry.text for entry in entries)
    return Requirements((), tuple(entries), tuple(dict.fromkeys(options)), hashed)


# --------------------------------------------------------------------------------------------------- pyproject.toml


def from_pyproject(path: str, document: Mapping[str, Any], extras: Sequence[str] = ()) -> Requirements:
    """What the pyproject.toml *document* says that its project needs.

    Args:
        path: of the file, relative to the project folder.
        extras: normalised names.

    Raises:
        ConfigurationError: it says nothing, leaves it to a build backend (``dynamic``), or names what is on this
            machine only.
    """
    project = _table(document.get("project"))
    poetry = _table(_table(_table(document.get("tool")).get("poetry")).get("dependencies"))
    if "dependencies" in _list(project.get("dynamic")):
        raise ConfigurationError(
            f"{path}: its dependencies are dynamic: only the build backend knows them",
            hint="name the requirements file that it reads, or write one: uv pip compile pyproject.toml",
        )
    if isinstance(project.get("dependencies"), list) or extras:
        return _pep621(path, document, project, extras)
    if poetry:
        lines = [line for name, value in poetry.items() for line in _poetry(path, name, value)]
        return _made(path, lines, ())
    if project:
        return _made(path, (), ())
    raise ConfigurationError(
        f"{path}: neither [project] dependencies nor [tool.poetry.dependencies] is in it",
        hint="name a requirements file, or leave dependencies.requirements out",
    )


def _pep621(path: str, document: Mapping[str, Any], project: Mapping[str, Any], extras: Sequence[str]) -> Requirements:
    optional = {normalise(name): items for name, items in _table(project.get("optional-dependencies")).items()}
    own = normalise(str(project.get("name", "")))
    sources = {normalise(name): source for name, source in _table(_uv(document).get("sources")).items()}
    wanted, done = list(extras), set[str]()
    lines = [str(item) for item in _list(project.get("dependencies"))]
    while wanted:
        extra = wanted.pop(0)
        if extra in done:
            continue
        done.add(extra)
        if extra not in optional:
            known = ", ".join(sorted(optional)) or "none"
            raise ConfigurationError(f"{path}: no extra {extra!r} in it", hint=f"it has: {known}")
        for item in _list(optional[extra]):
            # An extra that names others of the same project: "all" = ["mine[serve,gpu]"].
            found = re.fullmatch(r"\s*([A-Za-z0-9._-]+)\s*\[([^\]]*)\]\s*", str(item))
            if found and normalise(found[1]) == own:
                wanted += [normalise(part.strip()) for part in found[2].split(",") if part.strip()]
            else:
                lines.append(str(item))
    return _made(path, [_with_source(path, line, sources) for line in lines], _indexes(document).values())


def _uv(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return _table(_table(document.get("tool")).get("uv"))


def _indexes(document: Mapping[str, Any]) -> dict[str, str]:
    """Address -> pip's option, of the indexes that a pyproject.toml declares (uv documentation, "Package indexes")."""
    found = [_table(index) for index in _list(_uv(document).get("index"))]
    return {
        str(index["url"]): f"{'--index-url' if index.get('default') is True else '--extra-index-url'} {index['url']}"
        for index in found
        if "url" in index
    }


def _with_source(path: str, line: str, sources: Mapping[str, Any]) -> str:
    """*line* with where uv takes the package from, as pip is told it; an index is an option, and stays apart."""
    name = re.match(r"\s*([A-Za-z0-9][A-Za-z0-9._-]*)\s*(\[[^\]]*\])?", line)
    found = sources.get(normalise(name[1])) if name else None
    source = _table(found)  # a list of them, each with a marker, names indexes
    if name is None or not source:
        return line
    marker = f" ; {line.partition(';')[2].strip()}" if ";" in line else ""
    head = f"{name[1]}{name[2] or ''} @ "
    if "git" in source:
        revision = source.get("rev") or source.get("tag") or source.get("branch")
        folder = f"#subdirectory={source['subdirectory']}" if "subdirectory" in source else ""
        return f"{head}git+{source['git']}{f'@{revision}' if revision else ''}{folder}{marker}"
    if "url" in source:
        return f"{head}{source['url']}{marker}"
    if "path" in source or "workspace" in source:
        raise _on_this_machine(path, name[1])
    return line


def _on_this_machine(path: str, name: str) -> ConfigurationError:
    return ConfigurationError(
        f"{path}: {name!r} is on this machine, not in the builder",
        hint="list it under [code] include, or build its wheel into the folder of dependencies.wheels",
    )


def _poetry(path: str, name: str, value: Any) -> Iterator[str]:
    """Lines of one of Poetry's dependencies (Poetry documentation, "Dependency specification")."""
    if name == "python":
        return
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str):
            yield name + _constraint(path, name, item)
            continue
        table = _table(item)
        if table.get("optional") is True:
            continue
        extras = f"[{','.join(str(extra) for extra in _list(table.get('extras')))}]" if table.get("extras") else ""
        markers = [str(table["markers"])] if "markers" in table else []
        if "python" in table:
            bounds = _constraint(path, name, str(table["python"])).split(",")
            markers += [
                f"python_version {m[1]} '{m[2]}'" for b in bounds if (m := re.match(r"([<>=!~]+)\s*(.+)", b.strip()))
            ]
        marker = f" ; {' and '.join(markers)}" if markers else ""
        if "path" in table:
            raise _on_this_machine(path, name)
        if "git" in table:
            revision = table.get("rev") or table.get("tag") or table.get("branch")
            yield f"{name}{extras} @ git+{table['git']}{f'@{revision}' if revision else ''}{marker}"
        elif "url" in table:
            yield f"{name}{extras} @ {table['url']}{marker}"
        else:
            yield f"{name}{extras}{_constraint(path, name, str(table.get('version', '*')))}{marker}"


def _constraint(path: str, name: str, text: str) -> str:
    """Poetry's ``^1.2``, ``~1.2``, ``1.2`` and ``1.*`` as PEP 440 has them."""
    parts = []
    for part in (piece.strip() for piece in text.split(",")):
        if part in ("", "*"):
            continue
        if "||" in part or " " in part.lstrip("<>=!~^ "):
            raise ConfigurationError(
                f"{path}: {name} = {text!r} cannot be said in a requirement", hint="export it: poetry export"
            )
        caret = re.fullmatch(r"([~^])\s*v?(\d+(?:\.\d+)*)(\S*)", part)
        if caret and not part.startswith("~="):
            parts += [f">={caret[2]}{caret[3]}", f"<{_above(caret[1], caret[2])}"]
        elif re.match(r"[<>=!~]", part):
            parts.append(re.sub(r"^=(?!=)", "==", part).replace(" ", ""))
        else:
            parts.append(f"=={part}")
    return ",".join(parts)


def _above(kind: str, version: str) -> str:
    """The first version that ``^version`` or ``~version`` leaves out."""
    numbers = [int(part) for part in version.split(".")]
    at = next((i for i, number in enumerate(numbers) if number), len(numbers) - 1) if kind == "^" else 0
    if kind == "~":
        at = 1 if len(numbers) > 1 else 0
    return ".".join(str(number) for number in [*numbers[:at], numbers[at] + 1])


# ---------------------------------------------------------------------------------------------------------- uv.lock


@dataclass(frozen=True, slots=True)
class _Edge:
    package: int
    extras: frozenset[str]
    marker: str


def from_uv_lock(
    path: str,
    document: Mapping[str, Any],
    extras: Sequence[str] = (),
    *,
    described: Mapping[str, Any] | None = None,
    architectures: Sequence[str] = (),
) -> Requirements:
    """Every package that the project of the uv.lock *document* needs at run time, with version, marker and hashes.

    Args:
        extras: of the project, normalised.
        described: the pyproject.toml beside it: which project it is, and which indexes it declares. An index that is
            not declared is the machine's own affair, and is not repeated.
        architectures: of the image, as platforms name them; amd64 and arm64 are always among them. Hashes of wheels
            for others are left out, for a step has room for so many only.

    Raises:
        ConfigurationError: it is no lock of such a project, or needs what is on this machine only.
    """
    described = described or {}
    packages = [_table(item) for item in _list(document.get("package"))]
    if not packages:
        raise ConfigurationError(f"{path}: no [[package]] is in it", hint="write it anew: uv lock")
    root = _root(path, packages, str(_table(described.get("project")).get("name", "")))
    unknown = set(extras) - {normalise(name) for name in _table(packages[root].get("optional-dependencies"))}
    if unknown:
        raise ConfigurationError(f"{path}: no extra {min(unknown)!r} in it", hint="leave it out, or: uv lock")
    markers = _markers(path, packages, root, frozenset(extras))
    needed = [index for index in markers if not _is_member(path, packages[index])]
    needed.sort(key=lambda index: (str(packages[index].get("name")), str(packages[index].get("version"))))
    # Installers check all hashes or none, and a clone of a repository has none.
    machines = frozenset(_MACHINES.get(name, name) for name in architectures)
    hashes = {index: _hashes(packages[index], machines) for index in needed}
    checked = all(hashes.values())
    lines = [
        _locked(packages[index], _disjunction(markers[index]), hashes[index] if checked else ()) for index in needed
    ]
    declared = _indexes(described)
    used = {str(_table(packages[index].get("source")).get("registry")) for index in needed}
    return _made(path, lines, (option for address, option in declared.items() if address in used))


def _root(path: str, packages: Sequence[Mapping[str, Any]], project: str) -> int:
    own = [
        index
        for index, package in enumerate(packages)
        if {"virtual", "editable"} & set(_table(package.get("source")))
        and (not project or normalise(str(package.get("name"))) == normalise(project))
    ]
    at_root = [i for i in own if "." in _table(packages[i].get("source")).values()]
    found = own if len(own) == 1 else at_root
    if len(found) != 1:
        raise ConfigurationError(
            f"{path}: it is not clear which of its packages is the project",
            hint="export it: uv export --frozen --no-dev --no-emit-workspace -o requirements.txt",
        )
    return found[0]


def _is_member(path: str, package: Mapping[str, Any]) -> bool:
    """Whether it is a project of this workspace: its modules are code. What else is local is refused."""
    source = _table(package.get("source"))
    if "virtual" in source or "editable" in source:
        return True
    if "path" in source or "directory" in source:
        raise _on_this_machine(path, str(package.get("name")))
    return False


def _markers(
    path: str, packages: Sequence[Mapping[str, Any]], root: int, extras: frozenset[str]
) -> dict[int, frozenset[frozenset[str]]]:
    """Package -> the alternatives, each a conjunction of markers, under which it is needed; ``{{}}`` for always.

    A package is needed where one of its dependents is and the marker between them holds.
    """
    by_name: dict[str, list[int]] = {}
    for index, package in enumerate(packages):
        by_name.setdefault(normalise(str(package.get("name"))), []).append(index)
    always = frozenset({frozenset[str]()})
    found: dict[tuple[int, str], frozenset[frozenset[str]]] = {(root, extra): always for extra in ("", *extras)}
    waiting = list(found)
    while waiting:
        index, extra = waiting.pop()
        here = found[index, extra]
        for edge in _edges(path, packages, by_name, index, extra):
            step = frozenset({edge.marker} if edge.marker else ())
            for node in ((edge.package, name) for name in ("", *edge.extras)):
                before = found.get(node, frozenset())
                after = _minimal(before | {alternative | step for alternative in here})
                if len(after) > _MAX_ALTERNATIVES:
                    after = always  # more is installed than needed, which is harmless
                if after != before:
                    found[node] = after
                    waiting.append(node)
    result: dict[int, frozenset[frozenset[str]]] = {}
    for (index, _), alternatives in found.items():
        result[index] = _minimal(result.get(index, frozenset()) | alternatives)
    return result


def _minimal(alternatives: frozenset[frozenset[str]]) -> frozenset[frozenset[str]]:
    return frozenset(a for a in alternatives if not any(other < a for other in alternatives))


def _edges(
    path: str, packages: Sequence[Mapping[str, Any]], by_name: Mapping[str, list[int]], index: int, extra: str
) -> Iterator[_Edge]:
    package = packages[index]
    optional = {normalise(k): v for k, v in _table(package.get("optional-dependencies")).items()}
    for item in _list(optional.get(extra)) if extra else _list(package.get("dependencies")):
        needed = _table(item)
        name = normalise(str(needed.get("name")))
        candidates = by_name.get(name, [])
        for key in ("version", "source"):  # said where the lock has several of that name
            if key in needed:
                candidates = [i for i in candidates if packages[i].get(key) == needed[key]]
        if not candidates:
            raise ConfigurationError(f"{path}: it has no package {name!r}, which another needs", hint="uv lock")
        for candidate in candidates:
            forks = (
                [str(m) for m in _list(packages[candidate].get("resolution-markers"))] if len(candidates) > 1 else []
            )
            marker = str(needed.get("marker", "")) or " or ".join(f"({m})" for m in forks)
            wanted = frozenset(normalise(str(e)) for e in _list(needed.get("extra")))
            yield _Edge(candidate, wanted, marker)


def _disjunction(alternatives: frozenset[frozenset[str]]) -> str:
    if not alternatives or frozenset() in alternatives:
        return ""
    whole = [
        " and ".join(f"({m})" if len(alternative) > 1 else m for m in sorted(alternative))
        for alternative in alternatives
    ]
    return whole[0] if len(whole) == 1 else " or ".join(f"({text})" for text in sorted(whole))


def _hashes(package: Mapping[str, Any], machines: frozenset[str]) -> tuple[str, ...]:
    """Of the files that may be installed in the image."""
    found = set()
    for wheel in map(_table, _list(package.get("wheels"))):
        name = str(wheel.get("url") or wheel.get("path") or wheel.get("filename") or "")
        machine = _MACHINE.search(name)
        if "hash" in wheel and not _ELSEWHERE.search(name) and (machine is None or machine[1] in machines):
            found.add(str(wheel["hash"]))
    sdist = _table(package.get("sdist"))
    return tuple(sorted(found | ({str(sdist["hash"])} if "hash" in sdist else set())))


def _locked(package: Mapping[str, Any], marker: str, hashes: Sequence[str]) -> str:
    name, source = str(package.get("name")), _table(package.get("source"))
    if "git" in source:
        url, _, commit = str(source["git"]).partition("#")
        folder = re.search(r"[?&]subdirectory=([^&#]+)", url)
        url = url.partition("?")[0] + (f"@{commit}" if commit else "")
        text = f"{name} @ git+{url}{f'#subdirectory={folder[1]}' if folder else ''}"
    elif "url" in source:
        text = f"{name} @ {source['url']}"
    else:
        text = f"{name}=={package.get('version')}"
    text += f" ; {marker}" if marker else ""
    return text + "".join(f" --hash={value}" for value in hashes)
