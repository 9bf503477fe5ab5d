"""``layerkit init``: a layerkit.toml for the project that is there."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ConfigurationError, LayerkitError, printable
from .app import folder_option, json_errors
from .text import wrapped

if TYPE_CHECKING:
    from ..start import Conclusions

__all__ = ["init"]

FILE = "layerkit.toml"


@click.command()
@folder_option("Project folder (default: this one).")
@click.option("--force", is_flag=True, help="Write over files that are there.")
@click.option("--print", "--dry-run", "only_print", is_flag=True, help="Print layerkit.toml, write nothing.")
@click.option(
    "--no-dockerfile", is_flag=True, help="Leave a Dockerfile that is there alone: layerkit writes the steps."
)
@click.option("--json", "as_json", is_flag=True, help="Print one object: each value and what it was concluded from.")
def init(folder: Path, force: bool, only_print: bool, no_dockerfile: bool, as_json: bool) -> None:
    """Look at the project, and write a commented layerkit.toml.

    What was concluded, and from what, is on standard error. A Dockerfile is not changed: where it lacks the line for
    the checkpoint, Dockerfile.layerkit has it.
    """
    from ..project import schema
    from ..start import conclude, look, write
    from ..start.write import SCHEMA

    with json_errors(as_json):
        seen = look(folder)
        found = conclude(seen, own=not no_dockerfile)
        text = write(found)
        written: list[str] = []
        if not only_print:
            tools = seen.documents.get("pyproject.toml", {}).get("tool")
            if isinstance(tools, dict) and "layerkit" in tools and not force:
                raise ConfigurationError(
                    f"{folder / 'pyproject.toml'}: [tool.layerkit] is there already",
                    hint=f"--force writes {FILE}, which is taken instead of it",
                )
            made = {**found.files, SCHEMA: json.dumps(schema(), indent=2) + "\n", FILE: text}
            written = _write(folder, made, force=force, ours=SCHEMA)
            found = replace(found, notes=(*found.notes, *_checked(folder)))
        if as_json:
            document = {
                "schema_version": 1,
                "file": str(folder / FILE),
                "written": [str(folder / path) for path in written],
                "conclusions": [reason.to_json() for reason in found.reasons],
                "notes": list(found.notes),
                "text": text,
            }
            print(json.dumps(document, indent=2))
            return
        _explain(found)
        for path, other in found.files.items() if only_print else ():
            print(f"{path} would be:\n{printable(other, 100_000)}", file=sys.stderr)
        print(text, end="") if only_print else print(folder / FILE)


def _checked(folder: Path) -> list[str]:
    """What ``layerkit check`` says against what was written, if anything."""
    from ..fingerprint import Base, fingerprint
    from ..project import load
    from ..settings import Settings
    from ..state import State

    try:
        with State(None) as state:
            platform = Settings.from_environment().platform
            fingerprint(load(root=folder), state, platforms=(platform,), resolve=lambda reference: Base())
    except LayerkitError as error:
        return [printable(f"layerkit check: {error.message}" + (f" ({error.hint})" if error.hint else ""))]
    return []


def _explain(found: Conclusions) -> None:
    from ..toml import toml

    for reason in found.reasons:
        print(f"  {reason.key} = {printable(toml(reason.value), 200)}", file=sys.stderr)
        for line in wrapped(reason.because, 6, sys.stderr):
            print(f"      {line}", file=sys.stderr)
    for note in found.notes:
        first, *more = wrapped(note, 6, sys.stderr)
        print(f"note: {first}", *(f"      {line}" for line in more), sep="\n", file=sys.stderr)


def _write(folder: Path, files: Mapping[str, str], *, force: bool, ours: str) -> list[str]:
    """Write *files* below *folder*; none where one that is not *ours* is there and *force* is not given.

    Raises:
        ConfigurationError: one is there, or cannot be written.
    """
    for path in files:
        target = folder / path
        if path != ours and not force and (target.exists() or target.is_symlink()):
            raise ConfigurationError(f"{target} is there already", hint="--force writes over it")
    for path, text in files.items():
        target = folder / path
        try:
            target.parent.mkdir(exist_ok=True)
            target.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")
        except OSError as error:
            raise ConfigurationError(f"{target}: cannot be written: {error.strerror}") from None
    return list(files)
