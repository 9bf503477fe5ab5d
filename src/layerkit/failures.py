"""Why docker or BuildKit failed, by their words. Pure."""

from __future__ import annotations

import re

from .daemon import Endpoint, refused
from .errors import AuthenticationError, BuildError, LayerkitError, LocalResourceError, TransientError, printable
from .runtime.progress import Progress, brief

__all__ = [
    "another_docker",
    "build_failure",
    "docker_failure",
    "login_hint",
    "named_meanwhile",
    "stream_failure",
    "unreachable",
]

# Where docker and BuildKit name a registry: in a reference, or in the address that was asked.
_REFERENCE = re.compile(r"\b(?:metadata for|push|denied for|resolve reference) \"?(?P<host>[^/\s\"]+)/")
_ADDRESS = re.compile(r"https?://(?P<host>[^/\s\"?@]+)/")
_CREDENTIALS = ("401 unauthorized", "authorization failed", "access denied", "authentication required", "403 forbidden",
                "insufficient_scope", "no basic auth credentials")  # fmt: skip
_NETWORK = ("connection refused", "connection reset", "i/o timeout", "no such host", "tls handshake timeout",
            "unexpected eof", "503 service unavailable", "502 bad gateway", "429 too many")  # fmt: skip
# BuildKit says the whole command once more in front of its status.
_COMMAND = re.compile(r'^process ".*" did not complete successfully: ', re.DOTALL)
# Where buildx keeps its builders; root's, where it was once run with sudo.
_CLIENT_FOLDER = re.compile(r"/(\.docker|buildx)(/[^:]*)?: permission denied")
_NO_ROOM = "no space left on device"

# What the docker command says where it reaches no daemon, of versions 28 and 29; in lower case.
_NOT_REACHED = ("cannot connect to the docker daemon", "failed to connect to the docker api", "error during connect",
                "unable to resolve docker endpoint", "trying to connect to the docker",
                "sent an http request to an https server", "docker endpoint for")  # fmt: skip
_CERTIFICATES = ("certificate", "x509", "tls: ", "https server", "https client", ".pem:")
# Before the reason: the request that was made (by SSH to docker.example.com), and what we say with the address.
_BEFORE = re.compile(
    r"^(?:error during connect: |Failed to initialize: |unable to resolve docker endpoint: |[A-Z][a-z]+ \"[^\"]*\": "
    r"|Error response from daemon: |Cannot connect to the Docker daemon at \S+ Is the docker daemon running\?$"
    r"|failed to connect to the docker API at \S+?[:;] (?:check if the path is correct and if the daemon is running: )?"
    r")"
)
_ANOTHER_CONTEXT = re.compile(r"to switch to context \"(?P<name>[^\"]+)\"")


def docker_failure(said: str, endpoint: Endpoint) -> LocalResourceError:
    """Why a docker command failed that asked the daemon at *endpoint*, by its words."""
    if any(word in said.lower() for word in _NOT_REACHED):
        return unreachable(said, endpoint)
    return LocalResourceError(f"docker at {endpoint}: {printable(said.strip(), 500)}", hint="is it well? docker info")


def unreachable(said: str, endpoint: Endpoint) -> LocalResourceError:
    """Why no daemon answers at *endpoint*, by the docker command's words; with the next step for such a failure."""
    why = _reason(said, endpoint)
    words = why.lower()
    if "context not found" in words:
        why, hint = "there is none of that name", "docker context ls; then DOCKER_CONTEXT, or docker context use"
    elif _by_ssh(endpoint):
        hint = f"this has to work without a question: ssh {printable(endpoint.host, 200)} docker version"
    elif any(word in words for word in _CERTIFICATES):
        hint = (
            "DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH with the ca.pem, cert.pem and key.pem for this daemon;"
            " or a docker context with them"
        )
    elif "permission denied" in words:
        why, hint = (
            "permission denied",
            "join the group that its socket belongs to, or set DOCKER_HOST to a Docker of your own",
        )
    else:
        hint = "start Docker, or set DOCKER_HOST or the docker context to one that runs"
    return LocalResourceError(
        f"docker: no daemon answers at {endpoint}" + (f": {printable(why, 500)}" if why else ""), hint=hint
    )


def stream_failure(what: str, endpoint: Endpoint, said: str) -> LocalResourceError:
    """Why ``docker load`` or ``docker save``, as *what* says, failed with the daemon at *endpoint*, by its words."""
    if any(word in said.lower() for word in _NOT_REACHED):
        return LocalResourceError(
            f"docker {what}: the connection to {endpoint} was lost: {printable(_reason(said, endpoint), 500)}",
            hint="is it well? docker info; then do this again",
        )
    return refused(said, what)


def _by_ssh(endpoint: Endpoint) -> bool:
    return endpoint.host.startswith("ssh://")


def _reason(said: str, endpoint: Endpoint) -> str:
    """The docker command's words without those around them."""
    lines = said.strip().splitlines() or [""]
    # Those of ssh come last, after the command that docker makes of the address.
    why = lines[-1].rpartition("stderr=")[2] if _by_ssh(endpoint) else lines[0]
    while (shorter := _BEFORE.sub("", why)) != why:
        why = shorter
    return why


def another_docker(builder: str) -> LocalResourceError:
    """*builder* is the Docker of a docker context that is not the chosen one: buildx refuses to build there."""
    return LocalResourceError(
        f"docker buildx: the builder {builder!r} is the Docker of another docker context",
        hint="leave out --builder and BUILDX_BUILDER, or choose that Docker: DOCKER_CONTEXT, and no DOCKER_HOST",
    )


def login_hint(said: str) -> str:
    """How to log in at the registry that docker's or BuildKit's words are about."""
    found = _REFERENCE.search(said) or _ADDRESS.search(said)
    if found is None:
        return "docker login HOST"
    host = found["host"]
    elsewhere = ("." in host or ":" in host or host == "localhost") and not f".{host}".endswith(".docker.io")
    return f"docker login {host}" if elsewhere else "docker login"


def named_meanwhile(progress: Progress) -> bool:
    """containerd's image store looks for a name, then makes it: of two builds at the same moment one fails there."""
    step, _, message = progress.failure()
    return step == "exporting to image" and message.endswith("already exists")


def build_failure(progress: Progress, status: int) -> LayerkitError:
    """What a build that ended with *status* failed of: the builder, a registry, the network, or one of its steps."""
    step, log, message = progress.failure()
    everything = " ".join([message, *progress.plain]).lower()
    about = f" in step {brief(step)!r}" if step else ""
    moved = not step or "exporting" in step or "load metadata" in step or "importing" in step
    if not step and (found := _ANOTHER_CONTEXT.search(message)):
        return another_docker(found["name"])
    lost = "cannot connect to the docker daemon" in everything or "no builder" in everything
    if lost or (not step and any(word in everything for word in _NOT_REACHED)):
        return LocalResourceError(f"docker buildx: {message}", hint="start Docker, or choose another builder")
    if not step and _CLIENT_FOLDER.search(everything):
        return LocalResourceError(
            f"docker buildx: {message}",
            hint="docker's folder (DOCKER_CONFIG, else ~/.docker) must be yours: chown -R it",
        )
    if step.startswith("exporting cache"):
        return BuildError(
            f"the build cache could not be exported: {message}", step=step, hint="without --strict-cache it is optional"
        )
    if moved and any(word in everything for word in _CREDENTIALS):
        return AuthenticationError(
            f"the builder was refused by the registry{about}: {message}", hint=login_hint(f"{step} {message}")
        )
    if moved and any(word in everything for word in _NETWORK):
        return TransientError(f"the builder lost the network{about}: {message}")
    if not step and "code = unavailable" in message.lower():
        hint = "is it well? docker buildx ls; then build again"
        return BuildError(f"docker buildx: the connection to the builder was lost: {message}", hint=hint)
    if step.startswith("exporting") and _NO_ROOM in everything and "unexpected status" not in everything:
        return LocalResourceError(f"no room{about}: {message}", hint="free some, or `docker buildx prune` does")
    if not step and not message:
        return BuildError(f"docker buildx ended with status {status} and no word")
    return BuildError(f"the build failed{about}: {_COMMAND.sub('', message)}", step=step, log=log)
