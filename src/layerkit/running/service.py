"""What is to run: an image, and where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Bind", "ImageMount", "Service"]


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or folder of this machine, read-only at *target*, an absolute path at or below *folder*."""

    source: Path
    target: str
    folder: str


@dataclass(frozen=True, slots=True)
class ImageMount:
    """An image that holds only weights, mounted read-only. ``folder`` is the same absolute path in both.

    Docker 28 and newer, with either image store (tests/engine/test_run.py); Kubernetes with the feature ImageVolume, on
    by default since 1.35, its subPath since 1.33 (KEP-4639).
    """

    reference: str
    folder: str


@dataclass(frozen=True, slots=True)
class Service:
    """One container.

    Attributes:
        name: of the service or Deployment: a DNS label.
        image: reference.
        arguments: instead of the image's command; none keeps it.
        environment: variables beside the image's own; None is "as it is where the container is started", so that a
            secret's value is in no printed form and no process list.
        ports: container port -> address on this machine, as in ``127.0.0.1:8080``.
        mounts: where the weights come from; none where they are in the image.
        gpus: as ``docker run --gpus`` takes it: "", "all", a number, or ``device=0,1``.
    """

    name: str
    image: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str | None] = field(default_factory=dict)
    ports: Mapping[int, str] = field(default_factory=dict)
    mounts: tuple[Bind | ImageMount, ...] = ()
    gpus: str = ""

    @property
    def devices(self) -> tuple[str, ...]:
        """The GPUs that are asked for by name; none where they are counted."""
        _, _, names = self.gpus.partition("device=")
        return tuple(names.split(",")) if names else ()

    @property
    def gpu_count(self) -> int:
        """How many GPUs that is; 1 for all of them, since a cluster knows no "all"."""
        return int(self.gpus) if self.gpus.isdigit() else len(self.devices) or int(bool(self.gpus))
