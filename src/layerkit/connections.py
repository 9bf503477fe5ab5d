"""What one run is connected to: registries, the engine, its destination. Made when first needed, closed together."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from .checkpoint_inputs import own_dockerfile
from .destinations import Destination
from .errors import ConfigurationError
from .events import Listener, silent
from .oci import Platform, Reference
from .project import Project
from .registries import connect
from .request import Request
from .runtime import base_images
from .settings import Settings
from .state import State

if TYPE_CHECKING:
    from .engine import Engine
    from .registry import Client, Repository

__all__ = ["Connections"]


class Connections:
    """Of one run. ``close`` ends them, and ``cut`` what is under way, from whatever thread."""

    def __init__(self, project: Project, request: Request, settings: Settings, listener: Listener = silent) -> None:
        self.project = project
        self.request = request
        self.settings = settings
        self.listener = listener
        self.state = State(settings.state_folder)

    def close(self) -> None:
        if "destination" in self.__dict__:
            self.destination.close()
        self.cut()
        self.state.close()

    def cut(self) -> None:
        """End what is under way with any registry."""
        for name in {"client", "base_client"} & self.__dict__.keys():
            getattr(self, name).close()

    @cached_property
    def client(self) -> Client:
        return self._connect()

    @cached_property
    def base_client(self) -> Client:
        """For base images: where no registry answers, the local Docker is asked, soon."""
        return self._connect(unanswered=2)

    def _connect(self, unanswered: int | None = None) -> Client:
        from .destinations.remembered import RememberedWays

        return connect(
            self.settings,
            self.listener,
            unanswered=unanswered,
            layer_limit=self.project.checkpoint.layer_limit if self.project.checkpoint else None,
            ways=RememberedWays(self.state),
        )

    @cached_property
    def engine(self) -> Engine:
        from .engine import Engine

        name = self.request.builder or self.settings.builder or self.project.builder.name
        return Engine(builder=name, environment=self.settings.environment)

    @cached_property
    def platforms(self) -> tuple[str, ...]:
        wanted = tuple(self.request.platforms) or tuple(self.project.image.platforms) or (self.settings.platform,)
        try:
            return tuple(dict.fromkeys(str(Platform.parse(text)) for text in wanted))
        except ValueError as error:
            raise ConfigurationError(f"--platform: {error}") from None

    @cached_property
    def destination(self) -> Destination:
        name = Reference.parse(self.project.image.name)
        if self.request.push:
            from .destinations.registry import LAYER_JOBS, RegistryDestination

            repository = self.client.repository(name)
            cache = self.project.cache.repository
            other = self.client.repository(Reference.parse(cache)) if cache else repository
            jobs = self.request.layer_jobs or LAYER_JOBS
            return RegistryDestination(repository, other, self.state, layer_jobs=jobs, origins=self._origins)
        if self.request.output:
            from .destinations.layout import LayoutDestination

            kind, _, folder = self.request.output.partition(":")
            if kind != "oci" or not folder:
                raise ConfigurationError(f"--output: {self.request.output!r} is not known", hint="--output oci:DIR")
            return LayoutDestination(Path(folder), self.state)
        from .destinations.docker import DockerDestination

        if len(self.platforms) > 1:
            raise ConfigurationError(
                f"the local Docker takes one platform, not {len(self.platforms)}", hint="add --push or --output oci:DIR"
            )
        checkpoint = self.project.checkpoint
        apart = checkpoint is not None and checkpoint.placement == "artifact"
        kept = Reference.parse(self.project.cache.repository or self.project.image.name)
        return DockerDestination(self.engine, name, self.state, mounted=kept if apart else None)

    @cached_property
    def _bases(self) -> tuple[Reference, ...]:
        """The images that this one is built from: what it starts from first."""
        image = self.project.image
        if not image.dockerfile:
            return (Reference.parse(image.base),)
        text = own_dockerfile(self.project)
        found = base_images(text, target_stage=image.target, args=self.project.builder.args)
        return tuple(Reference.parse(name) for name in found)

    def _origins(self) -> tuple[Repository, ...]:
        return tuple(self.base_client.repository(base) for base in self._bases)

    @property
    def written(self) -> tuple[Path, ...]:
        """Folders that a run writes into, which may be in the project: the state's, and an OCI layout's."""
        output = self.request.output.partition(":")[2]
        folders = (self.settings.state_folder, Path(output) if output else None)
        return tuple(folder for folder in folders if folder is not None)

    @property
    def where(self) -> str:
        """The destination, as people call it."""
        return self.destination.describe()

    @property
    def host(self) -> str:
        """Of the registry that the checkpoint's layers go to; "" where they go to none."""
        home = self.project.cache.repository or self.project.image.name
        return Reference.parse(home).host if self.destination.kind == "registry" else ""

    @cached_property
    def mounts_base(self) -> bool:
        """The base is in the same registry, or in the local Docker already: its layers are not sent."""
        if self.destination.kind == "docker":
            return True
        home = Reference.parse(self.project.cache.repository or self.project.image.name)
        return self.destination.kind == "registry" and home.host in [base.host for base in self._bases[:1]]
