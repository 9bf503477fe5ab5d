"""An image that was built, at run time: as a docker command, as a Compose file, as Kubernetes manifests. Pure."""

from .command import docker_run, options
from .compose import compose_file
from .kubernetes import manifests, needs
from .service import Bind, ImageMount, Service

__all__ = ["Bind", "ImageMount", "Service", "compose_file", "docker_run", "manifests", "needs", "options"]
