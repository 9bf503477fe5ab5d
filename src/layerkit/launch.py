"""Project -> what to run: the image, and its weights where they are not in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from .checkpoint_inputs import CheckpointInputs, Sources, checkpoint_inputs
from .errors import ConfigurationError
from .names import DIGEST_VARIABLE, checkpoint_tag
from .oci import Reference
from .project import Project
from .request import named
from .running import Bind, ImageMount, Service
from .state import State

__all__ = ["launch", "published"]

_HOST = r"\[[0-9a-fA-F:]+\]|\d{1,3}(?:\.\d{1,3}){3}"
_PORT = re.compile(rf"(?:(?P<host>{_HOST}):)?(?:(?P<outer>\d{{1,5}}):)?(?P<inner>\d{{1,5}})(?:/tcp)?")
_GPUS = re.compile(r"|all|[1-9]\d{0,2}|device=[A-Za-z0-9-]+(?:,[A-Za-z0-9-]+)*")


def published(ports: Sequence[str], expose: Sequence[int]) -> dict[int, str]:
    """Container port -> address on this machine, of ``[HOST:][PORT:]CONTAINER_PORT`` entries.

    Without entries, each exposed port under its own number, on the loopback alone: what is for others is said.

    Raises:
        ConfigurationError: an entry is none.
    """
    if not ports:
        return {port: f"127.0.0.1:{port}" for port in expose}
    found: dict[int, str] = {}
    for text in ports:
        match = _PORT.fullmatch(text)
        numbers = [int(match[name]) for name in ("outer", "inner") if match[name]] if match else []
        if match is None or not all(0 < number < 65536 for number in numbers):
            raise ConfigurationError(f"-p {text}: no port", hint="-p [HOST:][PORT:]CONTAINER_PORT, as in -p 8080:8000")
        if int(match["inner"]) in found:
            raise ConfigurationError(f"-p {text}: the container's port {match['inner']} is published already")
        outer = match["outer"] or match["inner"]
        found[int(match["inner"])] = f"{match['host']}:{outer}" if match["host"] else outer
    return found


def launch(
    project: Project,
    state: State,
    *,
    sources: Sources | None = None,
    tag: str = "",
    ports: Sequence[str] = (),
    environment: Mapping[str, str | None] | None = None,
    gpus: str = "",
    name: str = "",
    arguments: Sequence[str] = (),
) -> Service:
    """What ``layerkit run`` starts or prints. The checkpoint is looked at, not read.

    Args:
        sources: where a checkpoint is asked for that is not on this machine. ``hf://…`` is downloaded to be mounted.

    Raises:
        ConfigurationError: an option or the project file is wrong; the checkpoint's key is not known yet.
        CheckpointError: the weights are not there.
    """
    project, tags = named(project, [tag] if tag else ())
    reference = Reference.parse(project.image.name)
    if not _GPUS.fullmatch(gpus):
        raise ConfigurationError(f"--gpus {gpus}: no GPUs", hint="--gpus all, --gpus 2, or --gpus device=0,1")
    service = Service(
        _label(name or project.image.name.rpartition("/")[2]),
        f"{reference.familiar}:{tags[0]}",
        tuple(arguments),
        dict(environment or {}),
        published(ports, project.image.expose),
        gpus=gpus,
    )
    if project.checkpoint is None or project.checkpoint.placement == "layer":
        return service
    found = checkpoint_inputs(project, state, sources)
    assert found is not None
    folder = "/" + found.ownership.target.strip("/")
    if folder == "/":
        raise ConfigurationError("checkpoint.target: nothing can be mounted at /", hint='target = "/app/model/"')
    if project.checkpoint.placement == "volume":
        if found.elsewhere is not None:
            raise found.elsewhere.needs_files("a container mounts the files themselves")
        return replace(service, mounts=_binds(project, found.fetched(), folder))
    return replace(
        service,
        mounts=(ImageMount(_checkpoint_image(project, found), folder),),
        environment={DIGEST_VARIABLE: str(found.digest), **service.environment},
    )


def _checkpoint_image(project: Project, found: CheckpointInputs) -> str:
    if found.key is None:
        raise ConfigurationError(
            'placement = "artifact": which checkpoint image it is, is known once the weights were read on this machine',
            hint="layerkit build",
        )
    kept = Reference.parse(project.cache.repository or project.image.name)
    return f"{kept.familiar}:{checkpoint_tag(found.key)}"


def _binds(project: Project, found: CheckpointInputs, folder: str) -> tuple[Bind, ...]:
    """The folder as it is, or file for file."""
    assert project.checkpoint is not None
    start = Path(project.root, Path(project.checkpoint.path).expanduser()).absolute()
    if start.is_dir():
        return (Bind(start, folder, folder),)
    return tuple(Bind(file.source.absolute(), str(PurePosixPath(folder, file.path)), folder) for file in found.files)


def _label(text: str) -> str:
    """A DNS label (RFC 1123): what services and Deployments may be called."""
    label = re.sub(r"[^a-z0-9-]+", "-", text.lower()).strip("-")[:40].strip("-")
    return label or "model"
