"""A Compose file for a service (compose-spec, "Services")."""

from __future__ import annotations

from typing import Any

from .service import Bind, ImageMount, Service
from .yaml import dump

__all__ = ["compose_file"]


def compose_file(service: Service) -> str:
    """The file, as text. A mount of an image needs Docker Compose 2.35 and Docker 28."""
    entry: dict[str, Any] = {"image": service.image}
    if service.arguments:
        entry["command"] = [_literal(word) for word in service.arguments]
    if service.environment:
        entry["environment"] = {name: _literal(value) for name, value in sorted(service.environment.items())}
    if service.ports:
        entry["ports"] = [f"{address}:{port}" for port, address in sorted(service.ports.items())]
    if service.mounts:
        entry["volumes"] = [_volume(place) for place in service.mounts]
    if service.gpus:
        entry["deploy"] = {"resources": {"reservations": {"devices": [_devices(service)]}}}
    entry["restart"] = "unless-stopped"
    return dump({"services": {service.name: entry}})


def _literal(text: str) -> str:
    """*text* for Compose, which puts variables in where it sees ``$`` (compose-spec, "Interpolation")."""
    return text.replace("$", "$$")


def _volume(place: Bind | ImageMount) -> dict[str, Any]:
    if isinstance(place, Bind):
        # Without create_host_path Docker would make a folder where the weights are missing.
        source = _literal(str(place.source))
        return {
            "type": "bind",
            "source": source,
            "target": _literal(place.target),
            "read_only": True,
            "bind": {"create_host_path": False},
        }
    return {
        "type": "image",
        "source": place.reference,
        "target": _literal(place.folder),
        "image": {"subpath": _literal(place.folder.lstrip("/"))},
    }


def _devices(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = {"driver": "nvidia", "capabilities": ["gpu"]}
    _, _, devices = service.gpus.partition("device=")
    if devices:
        return {**found, "device_ids": devices.split(",")}
    return {**found, "count": int(service.gpus) if service.gpus.isdigit() else "all"}
