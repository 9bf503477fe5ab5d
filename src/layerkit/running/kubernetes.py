"""Kubernetes manifests for a service: a Deployment, and a Service where it has ports.

Weights of this machine become a PersistentVolumeClaim, which somebody fills; those of an image become an image volume
(Kubernetes documentation, "Use an Image Volume With a Pod"), from the very blobs that were pushed.
"""

from __future__ import annotations

import posixpath
from typing import Any

from .service import Bind, ImageMount, Service
from .yaml import dump

__all__ = ["manifests"]


def manifests(service: Service) -> str:
    """The manifests as one YAML stream, for ``kubectl apply -f -``."""
    documents = [_deployment(service)] + ([_service(service)] if service.ports else [])
    return "---\n".join([_comment(service), *(dump(document) for document in documents)]).removeprefix("---\n")


def _comment(service: Service) -> str:
    binds = [place for place in service.mounts if isinstance(place, Bind)]
    if not binds:
        return ""
    names = ", ".join(posixpath.basename(str(place.source)) for place in binds)
    printable = "".join(c if c.isprintable() else "?" for c in names)
    return (
        f"# The weights ({printable}) are expected in the PersistentVolumeClaim {service.name}-weights,\n"
        "# under their own names. placement = \"artifact\" needs none: the cluster mounts them from the registry.\n"
    )


def _labels(service: Service) -> dict[str, str]:
    return {"app.kubernetes.io/name": service.name}


def _deployment(service: Service) -> dict[str, Any]:
    volumes, mounts = _weights(service)
    container: dict[str, Any] = {"name": service.name, "image": service.image}
    if service.arguments:
        # docker run replaces the image's CMD and keeps its ENTRYPOINT: args, not command.
        container["args"] = [_literal(word) for word in service.arguments]
    if service.environment:
        container["env"] = [
            {"name": name, "value": _literal(value)} for name, value in sorted(service.environment.items())
        ]
    if service.ports:
        container["ports"] = [{"containerPort": port} for port in sorted(service.ports)]
        container["readinessProbe"] = {"tcpSocket": {"port": min(service.ports)}, "periodSeconds": 5}
    if service.gpus:
        container["resources"] = {"limits": {"nvidia.com/gpu": service.gpu_count}}
    if mounts:
        container["volumeMounts"] = mounts
    container["securityContext"] = {"allowPrivilegeEscalation": False}
    pod: dict[str, Any] = {"containers": [container]}
    if volumes:
        pod["volumes"] = volumes
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": service.name, "labels": _labels(service)},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": _labels(service)},
            "template": {"metadata": {"labels": _labels(service)}, "spec": pod},
        },
    }


def _literal(text: str) -> str:
    """*text* for a container's args and env, where ``$(NAME)`` would be replaced (API reference, "Container")."""
    return text.replace("$(", "$$(")


def _weights(service: Service) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    volumes: list[dict[str, Any]] = []
    mounts: list[dict[str, Any]] = []
    for number, place in enumerate(service.mounts):
        if isinstance(place, ImageMount):
            name = f"weights-{number}"
            volumes.append({"name": name, "image": {"reference": place.reference, "pullPolicy": "IfNotPresent"}})
            mounts.append(
                {"name": name, "mountPath": place.folder, "subPath": place.folder.lstrip("/"), "readOnly": True}
            )
            continue
        if not any(volume["name"] == "weights" for volume in volumes):
            claim = {"claimName": f"{service.name}-weights", "readOnly": True}
            volumes.append({"name": "weights", "persistentVolumeClaim": claim})
        base = posixpath.basename(str(place.source))
        mounts.append({"name": "weights", "mountPath": place.target, "subPath": base, "readOnly": True})
    return volumes, mounts


def _service(service: Service) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": service.name, "labels": _labels(service)},
        "spec": {
            "selector": _labels(service),
            "ports": [{"name": f"port-{port}", "port": port, "targetPort": port} for port in sorted(service.ports)],
        },
    }
