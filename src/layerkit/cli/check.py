"""``layerkit check``: the project, without building."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ..errors import printable
from .app import json_errors, load_project, project_options

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
        away = inputs.checkpoint.elsewhere if inputs.checkpoint else None
        files = away.files if away else inputs.checkpoint.files if inputs.checkpoint else ()
        if as_json:
            document = {
                "schema_version": 1,
                "image": project.image.name,
                "context_files": len(inputs.files),
                "context_bytes": sum(f.size for f in inputs.files),
                "checkpoint_files": len(files),
                "checkpoint_bytes": sum(f.size for f in files),
                "checkpoint_here": away is None,
                "lock": agrees,
            }
            print(json.dumps(document, indent=2))
        else:
            from .text import many, size

            print(f"image        {project.image.name}")
            context = size(sum(f.size for f in inputs.files))
            print(f"to builder   {many(len(inputs.files), 'file')}, {context}")
            if inputs.checkpoint is not None and (files or away is None):
                total = size(sum(f.size for f in files))
                print(f"checkpoint   {many(len(files), 'file')}, {total} → {inputs.checkpoint.location}")
            if inputs.checkpoint is not None and away is not None:
                by = f"{away.by}, " if away.by else ""
                print(f"             {away.said}: {by}{away.digest}" if away.digest else f"             {away.said}")
            if inputs.checkpoint is not None and inputs.checkpoint.touched:
                print(f"way          buildkit: {printable(inputs.checkpoint.touched)}")
            if project.lock is not None:
                print(f"lock         {printable(project.lock_name)}: {_LOCK[agrees]}")
            print("ok")
