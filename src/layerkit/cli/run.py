"""``layerkit run``: start the image with its weights, or print how somebody else starts it."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ConfigurationError, printable
from .app import Terminated, load_project, project_options

if TYPE_CHECKING:
    from ..checkpoint_inputs import Sources
    from ..containers import Containers
    from ..project import Project
    from ..running import Service
    from ..settings import Settings

__all__ = ["run"]


@click.command()
@project_options
@click.option("-t", "--tag", default="", metavar="TAG", help="v2, or REPO:v2 (default: latest).")
@click.option(
    "-p",
    "--publish",
    "ports",
    multiple=True,
    metavar="[HOST:][PORT:]PORT",
    help="Ports (default: those exposed, on 127.0.0.1).",
)
@click.option(
    "-e",
    "--env",
    "environment",
    multiple=True,
    metavar="NAME[=VALUE]",
    help="Variables; one without a value has that of here, and is printed without it. Repeatable.",
)
@click.option("--gpus", default="", metavar="all|N|device=LIST", help="GPUs, as docker run takes them.")
@click.option("--name", default="", metavar="NAME", help="Of the container, service or Deployment.")
@click.option("-d", "--detach", is_flag=True, help="In the background; prints the container's id.")
@click.option("-i", "--interactive", is_flag=True, help="With this terminal, or standard input, as its own.")
@click.option("--keep", is_flag=True, help="Do not delete the container when it has ended.")
@click.option(
    "--print",
    "form",
    type=click.Choice(["docker", "compose", "k8s"]),
    help="Print the docker command, a Compose file or Kubernetes manifests; nothing is started.",
)
@click.argument("arguments", nargs=-1, metavar="[-- ARGS]", type=click.UNPROCESSED)
def run(
    folder: Path,
    file: Path | None,
    overrides: tuple[str, ...],
    tag: str,
    ports: tuple[str, ...],
    environment: tuple[str, ...],
    gpus: str,
    name: str,
    detach: bool,
    interactive: bool,
    keep: bool,
    form: str | None,
    arguments: tuple[str, ...],
) -> None:
    """Run the image that was built, with its weights.

    Where checkpoint.placement keeps them out of the image they are mounted read-only: "volume" from this machine,
    "artifact" from the checkpoint-KEY image. ARGS take the place of the image's command. Ends with the container's
    exit status; Ctrl-C is the container's, and a second one ends it.
    """
    from ..launch import launch
    from ..settings import Settings
    from ..state import State

    if detach and interactive:
        raise click.UsageError("--detach and --interactive exclude each other")
    settings = Settings.from_environment()
    project = load_project(folder, file, overrides)
    with State(settings.state_folder) as state:
        service = launch(
            project,
            state,
            sources=_sources(project, settings),
            tag=tag,
            ports=ports,
            environment=dict(map(_variable, environment)),
            gpus=gpus,
            name=name,
            arguments=arguments,
        )
    if form is not None:
        click.echo(_printed(service, form), nl=False)
        return
    from ..containers import Containers
    from ..engine import Engine
    from ..running import ImageMount

    containers = Containers(Engine(environment=settings.environment))
    containers.bring(service.image, f"layerkit build{f' -t {tag}' if tag else ''}")
    for place in service.mounts:
        if isinstance(place, ImageMount):
            containers.bring(place.reference, "layerkit build puts it here, with --push into the registry")
    status = _started(containers, service, name=name, detach=detach, interactive=interactive, keep=keep)
    if status:
        raise click.exceptions.Exit(status)


def _variable(text: str) -> tuple[str, str | None]:
    """NAME=VALUE as it is; NAME alone has the value that it has where the container is started, as with docker."""
    name, equals, value = text.partition("=")
    if not name:
        raise ConfigurationError(f"-e {text}: no variable", hint="-e NAME=VALUE")
    return name, value if equals else None


def _sources(project: Project, settings: Settings) -> Sources:
    """No registry is asked: what an image's weights are, the lock says."""
    from ..checkpoint.hub import Hub
    from ..checkpoint_inputs import Sources
    from ..lock import read

    lock = read(project.lock) if project.lock is not None else None
    return Sources(lambda: Hub(settings.environment), lock.checkpoint if lock else None)


def _printed(service: Service, form: str) -> str:
    from ..running import compose_file, docker_run, manifests, needs

    if form == "docker":
        return docker_run(service)
    if form == "compose":
        return _yaml([compose_file(service)])
    return "".join(f"# {line}\n" for line in needs(service)) + _yaml(manifests(service))


def _yaml(documents: Iterable[object]) -> str:
    """As YAML of which every reader makes the same.

    PyYAML leaves what YAML 1.1 takes for text as it is; Go's readers, of Compose and kubectl, take 1e3 for a number
    and y for a truth. So whatever is not plainly a word is quoted.
    """
    import yaml

    class Dumper(yaml.SafeDumper):
        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        plain = re.fullmatch(r"[A-Za-z_/][A-Za-z0-9_./-]+", value)
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=None if plain else '"')

    Dumper.add_representer(str, text)
    return yaml.dump_all(documents, Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1_000_000)


def _started(
    containers: Containers, service: Service, *, name: str, detach: bool, interactive: bool, keep: bool
) -> int:
    from ..running import options

    terminal = interactive and sys.stdin.isatty()
    container = containers.create(
        options(service), name=name, interactive=interactive, tty=terminal, rm=detach and not keep
    )
    ended = True
    try:
        if detach:
            containers.start(container)
            ended = False
            _say_ports(service)
            print(container)
            return 0
        _say_ports(service)
        return containers.attach(container, input_=interactive, terminal=terminal, stopping=_say_stopping)
    except Terminated:
        return 143
    finally:
        if ended and not keep:
            containers.remove(container)


def _say_ports(service: Service) -> None:
    for port, address in sorted(service.ports.items()):
        print(f"port {port} is at {printable(address)}", file=sys.stderr)


def _say_stopping() -> None:
    print("Ctrl-C was passed on; a second one ends the container", file=sys.stderr)
