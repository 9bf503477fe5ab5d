"""A Compose file for a service (compose-spec, "Services"), as data."""

from __future__ import annotations

from typing import Any

from .service import Bind, ImageMount, Service

__all__ = ["compose_file"]


def compose_file(service: Service) -> dict[str, Any]:
    """The file's content. A mount of an image needs Docker Compose 2.35 and Docker 28."""
    entry: dict[str, Any] = {"image": service.image}
    if service.arguments:
        entry["command"] = [_literal(word) for word in service.arguments]
    if service.environment:
        # A variable without a value is that of the shell that compose runs in.
        entry["environment"] = {
            name: None if value is None else _literal(value) for name, value in sorted(service.environment.items())
        }
    if service.ports:
        entry["ports"] = [f"{address}:{port}" for port, address in sorted(service.ports.items())]
    if service.mounts:
        entry["volumes"] = [_volume(place) for place in service.mounts]
    if service.gpus:
        entry["deploy"] = {"resources": {"reservations": {"devices": [_devices(service)]}}}
    entry["restart"] = "unless-stopped"
    return {"services": {service.name: entry}}


def _literal(text: str) -> str:
    """*text* for Compose, which puts variables in where it sees ``$`` (compose-spec, "Interpolation")."""
    return text.replace("$", "$$")


def _volume(place: Bind | ImageMount) -> dict[str, Any]:
    if isinstance(place, Bind):
        return {
            "type": "bind",
            "source": _literal(str(place.source)),
            "target": _literal(place.target),
            "read_only": True,
            # Docker would else make a folder where the weights are missing.
            "bind": {"create_host_path": False},
        }
    return {
        "type": "image",
        "source": place.reference,
        "target": _literal(place.folder),
        "image": {"subpath": _literal(place.folder.strip("/"))},
    }


def _devices(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = {"driver": "nvidia", "capabilities": ["gpu"]}
    if service.devices:
        return {**found, "device_ids": list(service.devices)}
    return {**found, "count": int(service.gpus) if service.gpus.isdigit() else "all"}
