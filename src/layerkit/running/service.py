"""What is to run: an image, and where its weights come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Bind", "ImageMount", "Service"]


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or folder of this machine, read-only at *target*, an absolute path in the container."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class ImageMount:
    """An image that holds only weights, mounted read-only. ``folder`` is the same absolute path in both.

    Docker 28 with the containerd image store (docs.docker.com, "Image mounts"); Kubernetes 1.31 with the feature
    ImageVolume, on by default since 1.35, its subPath since 1.33 (KEP-4639).
    """

    reference: str
    folder: str


@dataclass(frozen=True, slots=True)
class Service:
    """One container.

    Attributes:
        name: of the container, service or Deployment: a DNS label.
        image: reference.
        arguments: instead of the image's command; none keeps it.
        environment: variables beside the image's own.
        ports: container port -> address on this machine, as in ``127.0.0.1:8080``.
        mounts: where the weights come from; none where they are in the image.
        gpus: as ``docker run --gpus`` takes it: "", "all", a number, or ``device=0,1``.
    """

    name: str
    image: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    ports: Mapping[int, str] = field(default_factory=dict)
    mounts: tuple[Bind | ImageMount, ...] = ()
    gpus: str = ""

    @property
    def gpu_count(self) -> int:
        """How many GPUs that is; 1 for all of them, as a cluster gives no other."""
        if self.gpus.isdigit():
            return int(self.gpus)
        _, _, devices = self.gpus.partition("device=")
        return len(devices.split(",")) if devices else int(bool(self.gpus))
