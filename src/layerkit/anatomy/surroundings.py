"""Where images are looked for: the local Docker, registries, OCI layouts; connected when first asked."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigurationError, LocalResourceError
from ..events import Listener, silent
from ..oci import Reference
from ..registries import connect
from ..settings import Settings
from .found import Found
from .in_docker import from_docker
from .in_layout import from_layout
from .in_registry import from_registry

if TYPE_CHECKING:
    from ..registry import Client
    from ..state import State

__all__ = ["Surroundings"]


@dataclass
class Surroundings:
    """What is asked, and connected when it is first asked."""

    settings: Settings
    state: State
    listener: Listener = silent
    _client: Client | None = None

    @classmethod
    @contextlib.contextmanager
    def of(cls, settings: Settings | None, listener: Listener = silent) -> Iterator[Surroundings]:
        from ..state import State

        settings = settings or Settings.from_environment()
        with State(settings.state_folder) as state:
            around = cls(settings, state, listener)
            try:
                yield around
            finally:
                if around._client is not None:
                    around._client.close()

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = connect(self.settings, self.listener, retries=3)  # somebody waits in front of it
        return self._client

    def find(self, reference: str, platform: str) -> Found:
        """The image *reference*, as ``inspect`` has it.

        Args:
            platform: of an index's images; where left out, ``settings.platform``, and where that is "", the first.

        Raises:
            ConfigurationError: there is none, or not for *platform*.
        """
        kind, colon, rest = reference.partition(":")
        default = self.settings.platform
        if colon and kind == "oci":
            folder, tag = _folder_and_tag(rest)
            return from_layout(folder, tag, platform=platform, default=default)
        if colon and kind == "registry":
            return self._in_registry(rest.removeprefix("//"), platform)
        if colon and kind == "docker" and rest.startswith("//"):  # as skopeo and podman spell a registry
            return self._in_registry(rest[2:], platform)
        if colon and kind == "docker" and not rest.isdigit():
            found = self._in_docker(rest, platform)
            if found is None:
                raise ConfigurationError(f"{reference}: the local Docker has no such image", hint="docker image ls")
            return found
        try:
            Reference.parse(reference)
        except ConfigurationError as error:
            if reference and Path(reference).is_dir():
                raise ConfigurationError(error.message, hint=f"for an OCI layout: oci:{reference}") from None
            raise
        with contextlib.suppress(LocalResourceError):
            found = self._in_docker(reference, platform)
            if found is not None:
                return found
        return self._in_registry(reference, platform)

    def _in_registry(self, text: str, platform: str) -> Found:
        reference = Reference.parse(text)
        repository = self.client.repository(reference)
        return from_registry(repository, reference, platform=platform, default=self.settings.platform)

    def _in_docker(self, text: str, platform: str) -> Found | None:
        from ..engine import Engine

        Reference.parse(text)  # what is no reference must not reach docker as an option
        engine = Engine(builder=self.settings.builder, environment=self.settings.environment)
        return from_docker(engine, self.state, text, platform=platform, default=self.settings.platform)


def _folder_and_tag(text: str) -> tuple[Path, str]:
    if not text:
        raise ConfigurationError("oci: names no folder", hint="oci:DIR[:TAG]")
    folder, colon, tag = text.rpartition(":")
    if not colon or not folder or "/" in tag or Path(text).is_dir():
        return Path(text), ""
    return Path(folder), tag
