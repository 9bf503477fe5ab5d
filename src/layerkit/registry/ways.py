"""How blobs are sent to a registry: three ways, sizes to try, and what was learned of each host.

stream       one PATCH with everything, sent while the digest is still being computed: the fastest
chunked      PATCHes of a limited size, each with its Content-Range
monolithic   one PUT with everything, once the digest is known
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import Literal

__all__ = ["Memory", "Way", "layer_limit", "smaller"]

MIB = 1024 * 1024
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


class Memory:
    """The way that each host was found to need. Thread-safe; one for each client."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ways: dict[str, Way] = {}

    def way(self, host: str) -> Way:
        with self._lock:
            return self._ways.get(host, Way())

    def learn(self, host: str, tried: Way, better: Way) -> None:
        """*tried* was refused: *better* from now on, unless another thread has learned something meanwhile."""
        with self._lock:
            if self._ways.get(host, Way()) == tried:
                self._ways[host] = better
