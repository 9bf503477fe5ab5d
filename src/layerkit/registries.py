"""Registries as a run's surroundings have them, for whatever asks one: building, inspecting, pruning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .events import Listener, Note
from .settings import Settings

if TYPE_CHECKING:
    from .registry import Client
    from .registry.ways import Ways

__all__ = ["connect"]


def connect(
    settings: Settings,
    listener: Listener,
    *,
    retries: int = 5,
    unanswered: int | None = None,
    layer_limit: int | None = None,
    ways: Ways | None = None,
) -> Client:
    """A client with the logins, proxies and authorities of *settings*.

    Args:
        listener: hears why something is tried again, which may take half a minute.
        retries, unanswered, layer_limit, ways: as ``Client`` has them.
    """
    from .registry import Client, Credentials

    return Client(
        credentials=Credentials(settings.docker_config, settings.environment),
        proxies=settings.proxies,
        ca_bundle=settings.ca_bundle,
        retries=retries,
        unanswered=unanswered,
        layer_limit=layer_limit,
        ways=ways,
        told=lambda text: listener(Note(text)),
    )
