"""Kubernetes manifests for a service, as data: a Deployment, and a Service where it has ports.

Weights of this machine become a PersistentVolumeClaim, which somebody fills; those of an image become an image volume
(Kubernetes documentation, "Use an Image Volume With a Pod"), from the very blobs that were pushed.
"""

from __future__ import annotations

from typing import Any

from .service import Bind, ImageMount, Service

__all__ = ["manifests", "needs"]


def manifests(service: Service) -> tuple[dict[str, Any], ...]:
    """The manifests, for ``kubectl apply -f -``."""
    return (_deployment(service), *((_service(service),) if service.ports else ()))


def needs(service: Service) -> tuple[str, ...]:
    """What the cluster has to have beside them, a line each."""
    found = []
    if any(isinstance(place, Bind) for place in service.mounts):
        found.append(f"The checkpoint's files are expected in the PersistentVolumeClaim {service.name}-weights,")
        found.append('under their own names. placement = "artifact" needs none: the cluster mounts them by itself.')
    if any(isinstance(place, ImageMount) for place in service.mounts):
        found.append("Image volumes: Kubernetes 1.35, or 1.33 and newer with the feature gate ImageVolume.")
    if None in service.environment.values():
        found.append(f"Variables without a value here come from the Secret {service.name}-env.")
    return tuple(found)


def _labels(service: Service) -> dict[str, str]:
    return {"app.kubernetes.io/name": service.name}


def _deployment(service: Service) -> dict[str, Any]:
    volumes, mounts = _weights(service)
    container: dict[str, Any] = {"name": service.name, "image": service.image}
    if service.arguments:
        # docker run replaces the image's CMD and keeps its ENTRYPOINT: args, not command.
        container["args"] = [_literal(word) for word in service.arguments]
    if service.environment:
        container["env"] = [_variable(service, name, value) for name, value in sorted(service.environment.items())]
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


def _variable(service: Service, name: str, value: str | None) -> dict[str, Any]:
    if value is None:
        return {"name": name, "valueFrom": {"secretKeyRef": {"name": f"{service.name}-env", "key": name}}}
    return {"name": name, "value": _literal(value)}


def _literal(text: str) -> str:
    """*text* for a container's args and env, where ``$(NAME)`` would be replaced (API reference, "Container")."""
    return text.replace("$(", "$$(")


def _weights(service: Service) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Volumes, and where they are mounted."""
    for place in service.mounts:
        mount = {"name": "weights", "mountPath": place.folder, "readOnly": True}
        if isinstance(place, ImageMount):
            image = {"reference": place.reference, "pullPolicy": "IfNotPresent"}
            inside = place.folder.strip("/")
            return [{"name": "weights", "image": image}], [{**mount, "subPath": inside}]
        # One volume for all files: they lie in it as in their folder.
        claim = {"claimName": f"{service.name}-weights", "readOnly": True}
        return [{"name": "weights", "persistentVolumeClaim": claim}], [mount]
    return [], []


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
