"""Project -> what to run: the image, and its weights where they are not in it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from .destinations.base import checkpoint_tag
from .errors import CheckpointError, ConfigurationError
from .fingerprint import Base, CheckpointInputs, fingerprint
from .oci import Reference
from .project import Project
from .request import named
from .running import Bind, ImageMount, Service
from .settings import Settings
from .state import State

__all__ = ["Launch", "launch", "published"]

_PORT = re.compile(r"(?:(?P<host>\[[0-9a-fA-F:]+\]|[0-9.]+):)?(?:(?P<outer>\d{1,5}):)?(?P<inner>\d{1,5})(?:/tcp)?")


@dataclass(frozen=True, slots=True)
class Launch:
    """What to run. ``bound`` is the same with the weights of this machine, where the first wants an image mounted."""

    service: Service
    bound: Callable[[], Service] | None = None


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
        outer = match["outer"] or match["inner"]
        found[int(match["inner"])] = f"{match['host']}:{outer}" if match["host"] else outer
    return found


def launch(
    project: Project,
    settings: Settings,
    *,
    tag: str = "",
    ports: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    gpus: str = "",
    name: str = "",
    arguments: Sequence[str] = (),
) -> Launch:
    """What ``layerkit run`` starts or prints. The checkpoint is looked at, not read.

    Raises:
        ConfigurationError: an option or the project file is wrong; the checkpoint's key is not known yet.
        CheckpointError: the weights are not there.
    """
    project, tags = named(project, [tag] if tag else ())
    reference = Reference.parse(project.image.name).with_tag(tags[0])
    variables = dict(environment or {})
    base = Service(
        name or _label(project.image.name),
        f"{reference.familiar}:{tags[0]}",
        tuple(arguments),
        variables,
        published(ports, project.image.expose),
        (),
        gpus,
    )
    placement = project.checkpoint.placement if project.checkpoint else "layer"
    if placement == "layer":
        return Launch(base)
    with State(settings.state_folder) as state:
        found = fingerprint(project, state, platforms=(settings.platform,), resolve=lambda text: Base()).checkpoint
    assert found is not None
    if found.digest is not None:
        variables.setdefault("LAYERKIT_CHECKPOINT_DIGEST", str(found.digest))

    def with_mounts(*mounts: Bind | ImageMount) -> Service:
        return Service(base.name, base.image, base.arguments, variables, base.ports, mounts, gpus)

    def bound() -> Service:
        return with_mounts(*_binds(project, found))

    if placement == "volume":
        return Launch(bound())
    if found.key is None:
        raise ConfigurationError(
            "placement = 'artifact': which checkpoint image it is, is known once the weights were read",
            hint="layerkit build --push",
        )
    kept = Reference.parse(project.cache.repository or project.image.name)
    image = f"{kept.familiar}:{checkpoint_tag(found.key)}"
    return Launch(with_mounts(ImageMount(image, found.ownership.target.rstrip("/"))), bound)


def _binds(project: Project, found: CheckpointInputs) -> tuple[Bind, ...]:
    """The folder as it is, or file for file."""
    assert project.checkpoint is not None
    start = Path(project.root, Path(project.checkpoint.path).expanduser()).absolute()
    target = found.ownership.target
    if start.is_dir():
        return (Bind(start, target.rstrip("/") or "/"),)
    if not found.files:
        raise CheckpointError(f"checkpoint: nothing at {project.checkpoint.path}")
    return tuple(Bind(file.source, str(PurePosixPath(target, file.path))) for file in found.files)


def _label(repository: str) -> str:
    """A DNS label (RFC 1123) of the repository's last part: what containers, services and Deployments are called."""
    label = re.sub(r"[^a-z0-9-]+", "-", repository.rpartition("/")[2].lower()).strip("-")[:40].strip("-")
    return label or "model"
