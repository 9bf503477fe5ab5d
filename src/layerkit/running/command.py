"""``docker run`` for a service."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from .service import Bind, ImageMount, Service

__all__ = ["docker_run", "mount", "shell"]


def docker_run(service: Service, *options: str) -> tuple[str, ...]:
    """The arguments of docker, ``run`` first, with *options* (``--rm``) before the others."""
    words = ["run", *options]
    for port, address in sorted(service.ports.items()):
        words += ["-p", f"{address}:{port}"]
    for name, value in sorted(service.environment.items()):
        words += ["-e", f"{name}={value}"]
    for place in service.mounts:
        words += ["--mount", mount(place)]
    if service.gpus:
        words += ["--gpus", service.gpus]
    return (*words, service.image, *service.arguments)


def mount(place: Bind | ImageMount) -> str:
    """The value of ``--mount``: comma-separated, quoted as CSV (RFC 4180), for it is read as that."""
    if isinstance(place, Bind):
        fields = ["type=bind", f"source={place.source}", f"target={place.target}", "readonly"]
    else:
        fields = [
            "type=image",
            f"source={place.reference}",
            f"target={place.folder}",
            f"image-subpath={place.folder.lstrip('/')}",
        ]
    return ",".join(_field(text) for text in fields)


def _field(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if any(character in text for character in ',"\n') else text


def shell(words: Sequence[str]) -> str:
    """*words* as a command for a POSIX shell: an option a line, fit to be copied."""
    lines: list[list[str]] = [[]]
    for word in words:
        if word.startswith("-") and lines[-1]:
            lines.append([])
        lines[-1].append(shlex.quote(word))
    return " \\\n    ".join(" ".join(line) for line in lines)
