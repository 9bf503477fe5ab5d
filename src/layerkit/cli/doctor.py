"""``layerkit doctor``: what could stand in a build's way."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ConfigurationError, printable
from .app import folder_option
from .text import wrapped

if TYPE_CHECKING:
    from ..doctor import Finding

__all__ = ["doctor"]

_MARKS = {"pass": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


_INDENT = 18


def _lines(text: str) -> list[str]:
    return wrapped(printable(text, 400).replace("\n", " "), _INDENT, sys.stdout) if text else []


@click.command()
@click.argument("repository", metavar="[REPO]", default="")
@folder_option("Project folder, whose image.name is REPO where none is given (default: this one).")
@click.option("--builder", default="", metavar="NAME", help="buildx builder.")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def doctor(repository: str, folder: Path, builder: str, as_json: bool) -> None:
    """Try what a build needs: docker, the builder, room, and what the registry of REPO lets us do.

    REPO is HOST/NAME; nothing is left behind there. Each line is ok, warn or FAIL, with what to do. Exits with the
    status of the first failure, else 0.
    """
    from ..doctor import worst

    findings = []
    for finding in _examined(repository, folder, builder):
        findings.append(finding)
        if not as_json:
            mark, colour = _MARKS[finding.level]
            first, *more = _lines(finding.said)
            click.echo(f"{click.style(mark, fg=colour)}  {finding.name:<11} {first}")
            for line in [*more, *_lines(f"→ {finding.fix}" if finding.fix else "")]:
                click.echo(" " * _INDENT + line)
    if as_json:
        status = worst(findings)
        document = {
            "schema_version": 1,
            "exit_status": status,
            "findings": [finding.to_json() for finding in findings],
        }
        click.echo(json.dumps(document, indent=2))
    if status := worst(findings):
        raise click.exceptions.Exit(status)


def _examined(repository: str, folder: Path, builder: str) -> Iterator[Finding]:
    from dataclasses import replace

    from ..doctor import examine
    from ..settings import Settings
    from .display import notes

    settings = Settings.from_environment()
    platforms: tuple[str, ...] = ()
    about = None
    if not repository:
        repository, platforms, wanted, about = _of_project(folder)
        builder = builder or wanted
    if builder:
        settings = replace(settings, builder=builder)
    yield from examine(settings, repository, platforms, notes)
    if about is not None:
        yield about


def _described(folder: Path) -> bool:
    """Whether a project file is there, as it is or not."""
    pyproject = folder / "pyproject.toml"
    if (folder / "layerkit.toml").is_file() or not pyproject.is_file():
        return (folder / "layerkit.toml").is_file()
    with pyproject.open("rb") as stream:
        return b"tool.layerkit" in stream.read(1024 * 1024)


def _of_project(folder: Path) -> tuple[str, tuple[str, ...], str, Finding | None]:
    """(repository, platforms, builder) of the project in *folder*, and what is to be said of it."""
    from ..doctor import Finding
    from ..oci import Reference
    from ..project import load

    untried = "give one: layerkit doctor HOST/NAME"
    if not _described(folder):
        return "", (), "", Finding("registry", "pass", f"not tried, for no project is here; {untried}")
    try:
        project = load(root=folder)
    except ConfigurationError as error:
        said = f"not tried: {error.message}"
        return "", (), "", Finding("registry", "warn", said, "layerkit check says what is wrong")
    name, platforms = project.image.name, tuple(project.image.platforms)
    if Reference.parse(name).host == "docker.io" and not name.startswith("docker.io/"):
        said = f"not tried, for image.name {name!r} names none; {untried}"
        return "", platforms, project.builder.name, Finding("registry", "pass", said)
    return name, platforms, project.builder.name, None
