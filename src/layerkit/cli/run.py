"""``layerkit run``: start the image with its weights, or print how somebody else starts it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..errors import ConfigurationError, printable
from .app import load_project, project_options

if TYPE_CHECKING:
    from ..containers import Containers
    from ..running import Service

__all__ = ["run"]


@click.command(context_settings={"ignore_unknown_options": False})
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
@click.option("-e", "--env", "environment", multiple=True, metavar="NAME[=VALUE]", help="Variables; repeatable.")
@click.option("--gpus", default="", metavar="all|N|device=…", help="GPUs, as docker run takes them.")
@click.option("--name", default="", metavar="NAME", help="Of the container, service or Deployment.")
@click.option("-d", "--detach", is_flag=True, help="In the background; prints the container's id.")
@click.option("-i", "--interactive", is_flag=True, help="With this terminal as its own.")
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
    "artifact" from their own image. Ends with the container's exit status.
    """
    from ..launch import launch
    from ..settings import Settings

    if detach and interactive:
        raise click.UsageError("--detach and --interactive exclude each other")
    settings = Settings.from_environment()
    project = load_project(folder, file, overrides)
    found = launch(
        project,
        settings,
        tag=tag,
        ports=ports,
        environment=_variables(environment, settings.environment),
        gpus=gpus,
        name=name,
        arguments=arguments,
    )
    if form is not None:
        click.echo(_printed(found.service, form), nl=False)
        return
    from ..containers import Containers
    from ..engine import Engine

    containers = Containers(Engine(environment=settings.environment))
    service = found.service
    hint = f"layerkit build{f' -t {tag}' if tag else ''}"
    containers.bring(service.image, hint)
    if found.bound is not None:
        if containers.mounts_images():
            for place in service.mounts:
                containers.bring(getattr(place, "reference", ""), "layerkit build --push")
        else:
            print(
                "note: this Docker mounts no images (28 with the containerd image store does);"
                " the weights of this machine are mounted",
                file=sys.stderr,
            )
            service = found.bound()
    status = _started(containers, service, name=name, detach=detach, interactive=interactive, keep=keep)
    if status:
        raise click.exceptions.Exit(status)


def _variables(given: tuple[str, ...], surroundings: object) -> dict[str, str]:
    """NAME=VALUE as it is; NAME alone has the value that it has here, as with docker."""
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name:
            raise ConfigurationError(f"-e {text}: no variable", hint="-e NAME=VALUE")
        if equals:
            found[name] = value
        elif isinstance(surroundings, dict) and name in surroundings:
            found[name] = surroundings[name]
    return found


def _printed(service: Service, form: str) -> str:
    from ..running import compose_file, docker_run, manifests, shell

    if form == "compose":
        return compose_file(service)
    if form == "k8s":
        return manifests(service)
    return shell(("docker", *docker_run(service, "--rm"))) + "\n"


def _started(
    containers: Containers, service: Service, *, name: str, detach: bool, interactive: bool, keep: bool
) -> int:
    from ..running import docker_run

    options = [*(("--name", name) if name else ()), *(("--interactive", "--tty") if interactive else ())]
    if detach and not keep:
        options.append("--rm")
    container = containers.create(docker_run(service, *options)[1:])
    try:
        if interactive:
            return containers.attach(container)
        containers.start(container)
        for port, address in sorted(service.ports.items()):
            print(f"port {port} is at {printable(address)}", file=sys.stderr)
        if detach:
            print(container)
            return 0
        containers.follow(container)
        return containers.status(container)
    except KeyboardInterrupt:
        print("stopping the container", file=sys.stderr)
        containers.stop(container)
        return 130
    except BaseException:
        containers.stop(container)
        raise
    finally:
        if not detach and not keep:
            containers.remove(container)
