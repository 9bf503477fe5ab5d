"""How blobs are sent to a registry: three ways, sizes to try, and what was learned of each host.

stream       one PATCH with everything, sent while the digest is still being computed
chunked      PATCHes of a limited size, each with its Content-Range
monolithic   one PUT with everything, once the digest is known
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Literal, Protocol

__all__ = ["CHUNK", "LARGE", "Memory", "Way", "Ways", "default_way", "layer_limit", "smaller"]

MIB = 1024 * 1024
# From this size on a blob goes in large chunks: where a registry, or a proxy that buffers requests before it, keeps
# whole PATCHes only, a break costs one chunk and not everything. Measured with docker-registry 2.8 on loopback, 1 GiB,
# three rounds: 8.0 s as one stream, 7.6 in chunks of 64 MiB, 7.1 in chunks of 128 MiB.
LARGE, CHUNK = 256 * MIB, 128 * MIB
# These take one PATCH only, or their Range is not to be believed after the second
# (https://cloud.google.com/artifact-registry/docs/docker/pushing-and-pulling, "does not support chunked uploads";
# https://github.com/aws/containers-roadmap/issues/2831).
_STREAM_ONLY = re.compile(
    r"([a-z0-9-]+\.)*gcr\.io|[a-z0-9-]+-docker\.pkg\.dev|public\.ecr\.aws"
    r"|[0-9]{12}\.dkr[.-]ecr(-fips)?\.[a-z0-9-]+\.(amazonaws\.com(\.cn)?|on\.aws)"
)
# After a 413. The last is what nginx allows where nobody configured anything (client_max_body_size).
_CHUNKS = (64 * MIB, 16 * MIB, 4 * MIB, 1 * MIB)
# After a 416 that is no matter of the place: ghcr.io answers it to bodies over 4 MiB, of PUT as well
# (https://github.com/ocx-sh/ocx/pull/237).
_CHUNKS_416 = (4 * MIB, 1 * MIB)
# The largest layer that a registry takes, in bytes: refused before the first one is sent.
_LIMITS = (
    # https://docs.github.com/packages/working-with-a-github-packages-registry/working-with-the-container-registry
    (re.compile(r"ghcr\.io|containers\.[a-z0-9-]+\.ghe\.com"), 10 * 1000**3),
    # https://docs.aws.amazon.com/AmazonECR/latest/userguide/service-quotas.html, "Maximum layer size"
    (re.compile(r"[0-9]{12}\.dkr[.-]ecr(-fips)?\.[a-z0-9-]+\.(amazonaws\.com(\.cn)?|on\.aws)"), 52_000 * MIB),
    # https://docs.aws.amazon.com/AmazonECR/latest/public/public-service-quotas.html
    (re.compile(r"public\.ecr\.aws"), 10_000 * MIB),
)


def layer_limit(host: str) -> int | None:
    """The most bytes that *host* takes in one layer, where that is documented."""
    return next((limit for hosts, limit in _LIMITS if hosts.fullmatch(host)), None)


def smaller(status: int, size: int) -> int:
    """Bytes to try in one PATCH after *size* of them were refused with *status*; 0 where there is nothing to try."""
    sizes = {413: _CHUNKS, 416: _CHUNKS_416}.get(status, ())
    return next((chunk for chunk in sizes if chunk < size), 0)


@dataclass(frozen=True, slots=True)
class Way:
    """How blobs are sent to a host. *chunk* is the most bytes in one PATCH, where the way is chunked."""

    kind: Literal["stream", "chunked", "monolithic"] = "stream"
    chunk: int = 0


def default_way(host: str, size: int) -> Way:
    """How a blob of *size* bytes is sent to a host of which nothing was learned yet."""
    return Way("chunked", CHUNK) if size >= LARGE and not _STREAM_ONLY.fullmatch(host) else Way()


class Ways(Protocol):
    """Keeps what was learned of hosts beyond the end of the process."""

    def load(self, host: str) -> Way | None:
        """The way that *host* was found to need, where that is not long ago."""

    def save(self, host: str, way: Way | None) -> None:
        """*host* needs that way; None: nothing is known of it any more."""


class Memory:
    """The way that each host was found to need. Thread-safe; one for each client.

    What was learned is believed at once in this process. Later runs are told of it once a blob has arrived by it: a
    passing fault, or a file that no way could send, teaches them nothing.
    """

    def __init__(self, ways: Ways | None = None) -> None:
        self._lock = threading.Lock()
        self._ways: dict[str, Way] = {}
        self._kept = ways
        self._loaded: dict[str, Way | None] = {}  # what an earlier run has found

    def way(self, host: str, size: int = 0) -> Way:
        """How to send *size* bytes to *host*."""
        with self._lock:
            if host not in self._loaded:
                self._loaded[host] = self._kept.load(host) if self._kept is not None else None
            return self._ways.get(host) or self._loaded[host] or default_way(host, size)

    def learn(self, host: str, tried: Way, better: Way) -> None:
        """*tried* was refused: *better* from now on, unless another thread has learned something meanwhile."""
        with self._lock:
            if self._ways.get(host) in (None, tried):
                self._ways[host] = better

    def confirm(self, host: str) -> None:
        """A blob has arrived: the way by which it did is kept, where it was learned."""
        with self._lock:
            way = self._ways.get(host)
            if way is not None and way != self._loaded.get(host) and self._kept is not None:
                self._kept.save(host, way)
                self._loaded[host] = way

    def doubt(self, host: str) -> bool:
        """*host* refuses a blob. Whether an earlier run's way may be why: it is forgotten then."""
        with self._lock:
            if self._loaded.get(host) is None:
                return False
            self._loaded[host] = None
            self._ways.pop(host, None)
            if self._kept is not None:
                self._kept.save(host, None)
            return True
