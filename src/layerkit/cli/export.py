"""What a project is to other tools: a Dockerfile, a bake definition, a schema, a Makefile."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from ..errors import ConfigurationError
from .app import load_project, project_options

__all__ = ["bake", "dockerfile", "makefile", "schema"]


@click.command()
@project_options
@click.option(
    "-o",
    "--write",
    "target",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write it there, and FILE.dockerignore beside it.",
)
def dockerfile(folder: Path, file: Path | None, overrides: tuple[str, ...], target: Path | None) -> None:
    """Print the Dockerfile that BuildKit is given.

    The same image without layerkit: layerkit dockerfile -o Dockerfile, then
    docker buildx build --build-context checkpoint=DIR [--build-context wheels=DIR] .
    """
    from ..bases import remembered_user
    from ..checkpoint_inputs import own_dockerfile
    from ..runtime import find_includes, generate, ignore_file, read_requirements
    from ..settings import Settings
    from ..state import State

    project = load_project(folder, file, overrides)
    if project.image.dockerfile:
        text = ignore = own_dockerfile(project)
    else:
        requirements = read_requirements(project)
        rules = project.root / ".dockerignore"
        with State(Settings.from_environment().state_folder) as state:
            user = remembered_user(state, project.image.base)
        text = generate(project, requirements, includes=find_includes(project), base_user=user)
        ignore = ignore_file(project, requirements, dockerignore=rules.read_text() if rules.is_file() else "")
    if target is None:
        sys.stdout.write(text)
    elif project.image.dockerfile:
        raise click.UsageError("--write is for a generated Dockerfile, not for image.dockerfile")
    else:
        try:
            target.write_text(text, encoding="utf-8")
            target.with_name(target.name + ".dockerignore").write_text(ignore, encoding="utf-8")
        except OSError as error:
            raise ConfigurationError(f"--write: {error.filename}: {error.strerror}") from None
        print(target)


@click.command()
@project_options
@click.option("-t", "--tag", "tags", multiple=True, metavar="TAG", help="As with build.")
def bake(folder: Path, file: Path | None, overrides: tuple[str, ...], tags: tuple[str, ...]) -> None:
    """Print the bake definition of the whole image, for: docker buildx bake -f -"""
    from ..pipeline import bake_definition
    from .display import notes

    project = load_project(folder, file, overrides)
    definition = bake_definition(project, tags=tags, listener=notes)
    context = definition["target"]["image"].get("contexts", {}).get("checkpoint")
    if context and project.checkpoint and not (project.root / project.checkpoint.path).is_dir():
        print(f"note: the checkpoint's context is {context}: bake copies all that is in that folder", file=sys.stderr)
    print(json.dumps(definition, indent=2))


@click.command()
@click.option("-o", "--write", "target", type=click.Path(path_type=Path), metavar="FILE", help="Write it there.")
def schema(target: Path | None) -> None:
    """Print the JSON schema of layerkit.toml, for editors: #:schema FILE in its first line."""
    from ..project import schema as make

    text = json.dumps(make(), indent=2)
    if target is None:
        print(text)
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--write: {target}: {error.strerror}") from None
    print(target)


@click.command()
def makefile() -> None:
    """Print the path of layerkit.mk, for a Makefile: include $(shell layerkit makefile)."""
    print(Path(__file__).parent.parent / "layerkit.mk")
