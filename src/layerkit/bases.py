"""Base images: which digest a reference means now, and how many layers it has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from .engine import Engine
from .errors import ConfigurationError, LayerkitError, LocalResourceError
from .events import Listener, Note
from .fingerprint import Base
from .oci import Digest, Index, Manifest, Platform, Reference
from .state import State

if TYPE_CHECKING:
    from .registry import Client

__all__ = ["Bases"]


class Bases:
    """Looks base images up in their registries, else in the local Docker.

    Args:
        client, engine: made when they are first needed.
        platforms: of which the layers are counted.
    """

    def __init__(
        self,
        client: Callable[[], Client],
        engine: Callable[[], Engine],
        state: State,
        platforms: Sequence[str],
        listener: Listener,
    ) -> None:
        self._client = client
        self._engine = engine
        self._state = state
        self._platforms = platforms
        self._listener = listener

    def resolve(self, text: str) -> Base:
        """Digest and layers of a base image: from its registry, else from the local Docker."""
        reference = Reference.parse(text).or_latest()
        try:
            found = self._in_registry(reference)
        except ConfigurationError:
            raise
        except LayerkitError as error:
            local = self._in_docker(text)
            if local is None:
                self._listener(Note(f"base {text}: {error}; its digest is not pinned", "warning"))
            return local or Base()
        if found is None:
            found = self._in_docker(text)
        if found is None:
            raise ConfigurationError(
                f"base image {text}: not found in its registry or the local Docker", hint="check image.base"
            )
        return found

    def _in_registry(self, reference: Reference) -> Base | None:
        repository = self._client().repository(reference)
        descriptor = repository.resolve(reference.digest or reference.tag)
        if descriptor is None:
            return None
        key = f"{descriptor.digest} {' '.join(self._platforms)}"
        counts = self._state.get("base-layers", key)
        if counts is None:
            counts = {}
            top = repository.manifest(descriptor.digest)
            for platform in self._platforms:
                manifest = top
                if isinstance(top, Index):
                    child = top.find(Platform.parse(platform))
                    if child is None:
                        raise ConfigurationError(f"base image {reference}: has no {platform}")
                    manifest = repository.manifest(child.digest)
                if isinstance(manifest, Manifest):
                    counts[platform] = len(manifest.layers)
            self._state.put("base-layers", key, counts)
        return Base(descriptor.digest, counts)

    def _in_docker(self, text: str) -> Base | None:
        with contextlib.suppress(LocalResourceError):
            image = self._engine().image(text)
            if image is not None:
                layers = len((image.get("RootFS") or {}).get("Layers") or ())
                return Base(Digest.parse(str(image["Id"])), dict.fromkeys(self._platforms, layers), pinned=False)
        return None
