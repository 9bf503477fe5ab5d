"""Why docker or BuildKit failed, by their words. Pure."""

from __future__ import annotations

import re

from .errors import AuthenticationError, BuildError, LayerkitError, LocalResourceError, TransientError
from .runtime.progress import Progress

__all__ = ["build_failure", "login_hint", "named_meanwhile"]

# Where docker and BuildKit name a registry: in a reference, or in the address that was asked.
_REFERENCE = re.compile(r"\b(?:metadata for|push|denied for|resolve reference) \"?(?P<host>[^/\s\"]+)/")
_ADDRESS = re.compile(r"https?://(?P<host>[^/\s\"?@]+)/")
_CREDENTIALS = ("401 unauthorized", "authorization failed", "access denied", "authentication required", "403 forbidden",
                "insufficient_scope", "no basic auth credentials")  # fmt: skip
_NETWORK = ("connection refused", "connection reset", "i/o timeout", "no such host", "tls handshake timeout",
            "unexpected eof", "503 service unavailable", "502 bad gateway", "429 too many")  # fmt: skip


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
    about = f" in step {step!r}" if step else ""
    moved = not step or "exporting" in step or "load metadata" in step or "importing" in step
    if "cannot connect to the docker daemon" in everything or "no builder" in everything:
        return LocalResourceError(f"docker buildx: {message}", hint="start Docker, or choose another builder")
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
    if not step and not message:
        return BuildError(f"docker buildx ended with status {status} and no word")
    return BuildError(f"the build failed{about}: {message}", step=step, log=log)
