"""``layerkit check``: the project, without building."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import printable
from .app import json_errors, load_project, project_options
from .text import many, size

if TYPE_CHECKING:
    from ..checkpoint import File
    from ..checkpoint.elsewhere import KnownFile
    from ..checkpoint_inputs import CheckpointInputs
    from ..fingerprint import Inputs

__all__ = ["check"]

_LOCK = {
    "none": "there is none yet, build writes it",
    "agrees": "agrees",
    "sizes": "agrees as far as can be known without reading the weights",
}


@click.command()
@project_options
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def check(folder: Path, file: Path | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Check the project without building: its file, code, checkpoint, secrets, Dockerfile and lock.

    The lock contradicts where it is of another base, of other settings of [checkpoint] (exit 2) or of other weights
    (exit 8). Nothing is read but what says so: no registry is asked, and of weights that were never hashed here only
    the sizes are compared.
    """
    from ..checkpoint.hub import Hub
    from ..checkpoint_inputs import Sources
    from ..fingerprint import Base, fingerprint
    from ..lock import read
    from ..locking import check_lock
    from ..ready import check_secrets
    from ..settings import Settings
    from ..state import State

    with json_errors(as_json):
        project = load_project(folder, file, overrides)
        settings = Settings.from_environment()
        lock = read(project.lock) if project.lock is not None else None
        with State(settings.state_folder) as state:
            inputs = fingerprint(
                project,
                state,
                platforms=tuple(project.image.platforms) or (settings.platform,),
                resolve=lambda reference: Base(),
                sources=Sources(lambda: Hub(settings.environment), lock.checkpoint if lock else None),
            )
        for said in check_secrets(project, inputs.dockerfile, settings.environment):
            print(f"warning: {printable(said)}", file=sys.stderr)
        agrees = check_lock(lock, inputs)
        if as_json:
            print(json.dumps(_document(inputs, agrees), indent=2))
        else:
            print("\n".join([*_lines(inputs, agrees), "ok"]))


def _files(checkpoint: CheckpointInputs | None) -> Sequence[File | KnownFile]:
    """What the checkpoint consists of, as far as it is known here."""
    if checkpoint is None:
        return ()
    return checkpoint.elsewhere.files if checkpoint.elsewhere else checkpoint.files


def _document(inputs: Inputs, agrees: str) -> dict[str, Any]:
    files = _files(inputs.checkpoint)
    return {
        "schema_version": 1,
        "image": inputs.project.image.name,
        "context_files": len(inputs.files),
        "context_bytes": sum(file.size for file in inputs.files),
        "checkpoint_files": len(files),
        "checkpoint_bytes": sum(file.size for file in files),
        "checkpoint_here": inputs.checkpoint is None or inputs.checkpoint.elsewhere is None,
        "lock": agrees,
    }


def _lines(inputs: Inputs, agrees: str) -> Iterator[str]:
    project, checkpoint = inputs.project, inputs.checkpoint
    yield f"image        {project.image.name}"
    yield f"to builder   {many(len(inputs.files), 'file')}, {size(sum(file.size for file in inputs.files))}"
    if checkpoint is not None:
        files, away = _files(checkpoint), checkpoint.elsewhere
        if files or away is None:
            total = size(sum(file.size for file in files))
            yield f"checkpoint   {many(len(files), 'file')}, {total} → {checkpoint.location}"
        if away is not None:
            by = f"{away.by}, " if away.by else ""
            yield f"             {away.said}: {by}{away.digest}" if away.digest else f"             {away.said}"
        if checkpoint.touched:
            yield f"way          buildkit: {printable(checkpoint.touched)}"
    if project.lock is not None:
        yield f"lock         {printable(project.lock_name)}: {_LOCK[agrees]}"
