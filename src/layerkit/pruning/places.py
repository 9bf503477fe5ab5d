"""Which repositories a prune is about: those that are named, or those of a project."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..errors import ConfigurationError
from ..events import Listener, silent
from ..oci import Reference
from ..project import Project
from ..registries import connect
from ..settings import Settings
from .survey import Survey

__all__ = ["named", "of_project", "opened"]


def named(names: Sequence[str]) -> tuple[Reference, ...]:
    """The repositories called *names*.

    Raises:
        ConfigurationError: one is no repository's name, or an image's.
    """
    references = tuple(Reference.parse(name) for name in names)
    for reference in references:
        if reference.tag or reference.digest:
            raise ConfigurationError(
                f"prune: {reference}: that is one image", hint=f"name the repository: layerkit prune {reference.name}"
            )
    return references


def of_project(project: Project, *, deleting: bool) -> tuple[Reference, ...]:
    """Where *project* has its images, and what they are made of.

    Raises:
        ConfigurationError: *deleting* in a cache that others may use: who that is, nobody knows here.
    """
    home = Reference.parse(project.image.name)
    if not project.cache.repository:
        return (home,)
    cache = Reference.parse(project.cache.repository)
    if deleting and cache.name != home.name:
        raise ConfigurationError(
            f"prune: {cache.name} may keep images for other repositories too, which are not known here",
            hint=f"name all that use it: layerkit prune --yes {cache.name} {home.name} …",
        )
    return home, cache


@contextmanager
def opened(
    references: Sequence[Reference],
    settings: Settings,
    *,
    unrelated: Sequence[str] = (),
    listener: Listener = silent,
) -> Iterator[Survey]:
    """A survey of the repositories *references*, for as long as it takes."""
    with connect(settings, listener) as client:
        yield Survey(list(map(client.repository, references)), unrelated=unrelated, listener=listener)
