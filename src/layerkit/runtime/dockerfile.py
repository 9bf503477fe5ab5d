"""The Dockerfile of a project: base, dependencies, checkpoint and code as stages of their own. Pure.

It is an ordinary Dockerfile, which builds without layerkit too:

    docker buildx build --build-context checkpoint=weights/ [--build-context wheels=wheelhouse/] .

No ``# syntax=`` line, which would have to be pulled, and no heredoc, which linters and parsers trip over.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath

from ..errors import ConfigurationError
from ..project import Project
from .requirements import Requirements
from .steps import Steps
from .words import SAFE_WORD, as_pattern, double, expanded, has_wildcard, json_form, no_break, word

__all__ = ["CHECKPOINT_TARGET", "DEFAULT_EXCLUDES", "generate", "ignore_file"]

CHECKPOINT_TARGET = "/app/model/"
# Left out of the code of a generated Dockerfile, wherever it lies: never part of a program, often large or secret.
DEFAULT_EXCLUDES = ("**/.git", "**/__pycache__", "**/*.pyc", "**/.layerkit", "**/.venv")

_MAX_COPIES = 100  # COPY instructions of the code stage; overlayfs takes some 120 layers


def generate(
    project: Project,
    requirements: Requirements | None = None,
    *,
    includes: Mapping[str, Sequence[str]] | None = None,
    base_user: str = "",
) -> str:
    """The Dockerfile of *project*.

    Args:
        requirements: what ``dependencies.requirements`` says; None where there is none.
        includes: entry of ``code.include`` -> the paths that it matches, a folder with a ``/`` at its end
            (``context.find_includes``). An entry that is not in it is taken for a path, or for a pattern of COPY.
        base_user: the USER of the base image; packages are installed by root whoever it is.

    Raises:
        ConfigurationError: a value that no Dockerfile can express (a line break in a variable), or credentials
            that would end up in the image's history.
    """
    if project.image.dockerfile:
        raise ConfigurationError("image.dockerfile is set: there is no Dockerfile to generate")
    steps = Steps(project, requirements, "" if base_user.partition(":")[0] in ("root", "0") else base_user)
    stages = [
        "# hadolint global ignore=DL3008,DL3013\n# Debian's and pip's own packages follow the base image: pin that.",
        *steps.stages(),
        *_checkpoint_stage(project),
        *_code_stage(project, includes or {}),
        _image_stage(project),
    ]
    return "\n\n".join(stages) + "\n"


def ignore_file(project: Project, requirements: Requirements | None = None, *, dockerignore: str = "") -> str:
    """The ``<Dockerfile>.dockerignore`` with which plain buildx sends no more than layerkit does.

    Args:
        requirements: as for ``generate``: its files are let in whatever else is said.
        dockerignore: the text of the project's own ``.dockerignore``.
    """
    lines = [*dockerignore.removeprefix("\ufeff").splitlines(), *project.code.exclude, *DEFAULT_EXCLUDES]
    path = project.checkpoint.path if project.checkpoint is not None else ""
    if path and not posixpath.isabs(path) and "://" not in path:
        lines.append(path)
    if project.dependencies.wheels:
        lines.append(project.dependencies.wheels)
    lines += [
        secret.file for secret in project.dependencies.secrets.values() if secret.file and secret.file[0] not in "/~"
    ]
    lines += [f"!{path}" for path in (requirements.files if requirements is not None else ())]
    return "\n".join(lines) + "\n"


def _checkpoint_stage(project: Project) -> Iterable[str]:
    if project.checkpoint is not None and project.checkpoint.placement == "layer":
        yield (
            "# The weights: replaced by --build-context checkpoint=DIR, so that they change without the rest.\n"
            "FROM scratch AS checkpoint"
        )


def _code_stage(project: Project, includes: Mapping[str, Sequence[str]]) -> Iterable[str]:
    if not project.code.include:
        return
    lines = [line for entry in project.code.include for line in _copies(entry, includes.get(entry), project)]
    lines = list(dict.fromkeys(lines))
    if len(lines) > _MAX_COPIES:
        raise ConfigurationError(
            f"code.include: {len(lines)} COPY instructions would be needed, and {_MAX_COPIES} is the limit",
            hint="include the folder, and leave out what is not code with code.exclude",
        )
    yield (
        "# The code, gathered here so that it is one layer however many lines there are.\nFROM scratch AS code\n"
        + "\n".join(lines)
    )


def _copies(entry: str, matches: Sequence[str] | None, project: Project) -> Iterable[str]:
    target = PurePosixPath(project.code.target)
    if matches is None:
        path = posixpath.normpath(entry)
        if not has_wildcard(path):
            yield _copy([path], str(target / path) + ("/" if path == "." else ""))
            return
        folder, _, last = path.rpartition("/")
        if has_wildcard(folder) or "**" in last:
            raise ConfigurationError(
                f"code.include: COPY knows no {entry!r}", hint="only the last part of a path may have wildcards"
            )
        yield _copy([path], str(target / folder) + "/", literal=False)
        return
    files: dict[str, list[str]] = {}
    for match in matches:
        path = posixpath.normpath(match)
        if match.endswith("/") or path == "." or len(matches) == 1:
            yield _copy([path], str(target / path) + ("/" if path == "." else ""))
        else:
            files.setdefault(posixpath.dirname(path), []).append(path)
    for folder, paths in files.items():
        yield _copy(paths, str(target / folder).rstrip("/") + "/")


def _copy(sources: Sequence[str], target: str, *, literal: bool = True) -> str:
    patterns = [as_pattern(path) if literal else path for path in sources]
    if all(re.fullmatch(r"[A-Za-z0-9@%+=:,./_*?-]+", word) for word in (*patterns, target)):
        return " ".join(["COPY", *patterns, target])
    return "COPY " + json_form(expanded(no_break(word, "code.include")) for word in (*patterns, target))


def _image_stage(project: Project) -> str:
    image = project.image
    # Nothing of this is a layer, and the linked layers below depend on none of it.
    lines = ["# The image. Linked layers: each stays as it is when one under it changes.", "FROM dependencies AS image"]
    lines += _pairs("ENV", image.env)
    lines += _pairs("LABEL", image.labels)
    if image.expose:
        lines.append("EXPOSE " + " ".join(str(port) for port in sorted(set(image.expose))))
    if image.user:
        if re.search(r"[\s\x00-\x1f\x7f]", image.user):
            raise ConfigurationError(f"image.user: {image.user!r} is no user", hint="a name, or uid[:gid]")
        lines.append(f"USER {word(image.user)}")
    if image.entrypoint:
        lines.append(f"ENTRYPOINT {json_form(image.entrypoint)}")
    if image.command:
        lines.append(f"CMD {json_form(image.command)}")
    checkpoint = project.checkpoint
    if checkpoint is not None and checkpoint.placement == "layer":
        mode = f" --chmod={checkpoint.chmod}" if checkpoint.chmod else ""
        target = (checkpoint.target or CHECKPOINT_TARGET).rstrip("/") + "/"
        lines.append(_copy_from(f"--chown={_owner(checkpoint.chown)}{mode} --from=checkpoint", ".", target))
    if project.code.include:
        folder = project.code.target.rstrip("/") + "/"
        lines.append(_copy_from("--from=code", folder, folder))
    return "\n".join(lines)


def _copy_from(flags: str, source: str, target: str) -> str:
    if SAFE_WORD.fullmatch(target):
        return f"COPY --link {flags} {source} {target}"
    return f"COPY --link {flags} " + json_form([expanded(as_pattern(source)), expanded(target)])


def _owner(text: str | None) -> str:
    """uid:gid of ``uid[:gid]`` or ``root``; a group that is left out is the user's number, as COPY has it."""
    user, _, group = (text or "0:0").replace("root", "0").partition(":")
    return f"{user}:{group or user}"


def _pairs(instruction: str, values: Mapping[str, str]) -> Iterable[str]:
    if values:
        pairs = [
            f"{double(name, f'image.{name}')}={double(value, name, always=True)}"
            for name, value in sorted(values.items())
        ]
        yield f"{instruction} " + " \\\n    ".join(pairs)
