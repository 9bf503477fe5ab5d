"""``docker run`` for a service."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from .service import Bind, ImageMount, Service

__all__ = ["docker_run", "options"]


def options(service: Service) -> tuple[tuple[str, ...], ...]:
    """What ``docker create`` and ``run`` take, an option with its value each; the image and its arguments last."""
    words: list[tuple[str, ...]] = []
    words += [("-p", f"{address}:{port}") for port, address in sorted(service.ports.items())]
    for name, value in sorted(service.environment.items()):
        words.append(("-e", name if value is None else f"{name}={value}"))
    words += [("--mount", _mount(place)) for place in service.mounts]
    if service.gpus:
        # Read as CSV, as is --mount.
        words.append(("--gpus", _field(service.gpus)))
    return (*words, (service.image, *service.arguments))


def docker_run(service: Service) -> str:
    """The command for a POSIX shell, an option a line, fit to be copied."""
    lines: Sequence[Sequence[str]] = [("docker", "run", "--rm"), *options(service)]
    return " \\\n    ".join(shlex.join(line) for line in lines) + "\n"


def _mount(place: Bind | ImageMount) -> str:
    """The value of ``--mount``."""
    if isinstance(place, Bind):
        fields = ["type=bind", f"source={place.source}", f"target={place.target}", "readonly"]
    else:
        inside = place.folder.strip("/")
        fields = ["type=image", f"source={place.reference}", f"target={place.folder}", f"image-subpath={inside}"]
    return ",".join(_field(text) for text in fields)


def _field(text: str) -> str:
    """*text* as a field of CSV (RFC 4180), which docker reads these values as."""
    return '"' + text.replace('"', '""') + '"' if any(character in text for character in ',"\n') else text
