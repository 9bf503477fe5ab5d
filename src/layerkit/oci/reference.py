"""Image references, normalised as Docker does it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from ..errors import ConfigurationError
from .digest import Digest

__all__ = ["Reference"]

# distribution/reference, regexp.go; distribution-spec, "Pulling manifests".
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_LABEL = r"(?:[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9-]*[A-Za-z0-9])"
_HOST = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[0-9A-Fa-f:]+\])(?::[0-9]{{1,5}})?")
_DOCKER_HUB = "docker.io"


@dataclass(frozen=True, order=True, slots=True)
class Reference:
    """``host/repository[:tag][@digest]``.

    ``python`` means ``docker.io/library/python``, as with every Docker tool; nothing is added where
    neither tag nor digest is given (``latest`` is for the caller to say: ``or_latest``).
    """

    host: str
    repository: str
    tag: str = ""
    digest: Digest | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """The reference that *text* spells.

        Raises:
            ConfigurationError: not a reference; the message says which part is wrong.
        """
        shown = text[:300]
        rest, at, digest_text = text.partition("@")
        digest = None
        if at:
            try:
                digest = Digest.parse(digest_text)
            except Exception:  # noqa: BLE001 - any defect of the digest is the same defect of the reference
                if "/" in digest_text:  # user:password@host/…, which is not repeated
                    place = ascii(digest_text.rpartition("@")[2][:300])[1:-1]
                    raise ConfigurationError(
                        f"'…@{place}' is not an image reference: there is a login in it",
                        hint=f"take it out, and use docker login {place.partition('/')[0]}",
                    ) from None
                raise ConfigurationError(f"{shown!a} is not an image reference: bad digest after '@'") from None
        first, slash, remainder = rest.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost" or first != first.lower()):
            host, path = first, remainder
        else:
            host, path = _DOCKER_HUB, rest
        tag = ""
        head, colon, last = path.rpartition(":")
        if colon and "/" not in last:
            path, tag = head, last
            if not _TAG.fullmatch(tag):
                raise ConfigurationError(
                    f"{shown!a} is not an image reference: bad tag {tag[:140]!a}",
                    hint="a tag has letters, digits, '_', '.', '-', at most 128",
                )
        if host in ("index.docker.io", "registry-1.docker.io"):
            host = _DOCKER_HUB
        if host == _DOCKER_HUB and "/" not in path:
            path = f"library/{path}"
        port = host.rpartition("]")[2].rpartition(":")[2]
        if not _HOST.fullmatch(host) or (port.isdigit() and ":" in host and int(port) > 65535):
            raise ConfigurationError(f"{shown!a} is not an image reference: bad host {host[:100]!a}")
        if not _PATH.fullmatch(path) or len(path) > 255:
            lower = "; a repository is lower case" if path != path.lower() else ""
            raise ConfigurationError(f"{shown!a} is not an image reference: bad repository {path[:260]!a}{lower}")
        return cls(host, path, tag, digest)

    @property
    def name(self) -> str:
        """``host/repository``, without tag and digest."""
        return f"{self.host}/{self.repository}"

    @property
    def familiar(self) -> str:
        """The name as Docker shows it: Docker Hub's host and ``library/`` left out."""
        if self.host != _DOCKER_HUB:
            return self.name
        return self.repository.removeprefix("library/")

    def with_tag(self, tag: str) -> Reference:
        """This repository under *tag*; raises ConfigurationError for a tag that no registry takes."""
        if not _TAG.fullmatch(tag):
            raise ConfigurationError(
                f"{tag[:140]!a} is not a tag", hint="a tag has letters, digits, '_', '.', '-', at most 128"
            )
        return replace(self, tag=tag, digest=None)

    def with_digest(self, digest: Digest) -> Reference:
        return replace(self, tag="", digest=digest)

    def or_latest(self) -> Reference:
        """Itself, with tag ``latest`` where it has neither tag nor digest."""
        return self if self.tag or self.digest else replace(self, tag="latest")

    def __str__(self) -> str:
        return self.name + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")
