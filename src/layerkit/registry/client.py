"""Access to registries, for one run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from ..oci import Reference
from .connection import Limits
from .credentials import Credentials
from .repository import Repository
from .transport import Transport
from .ways import Memory, Ways

__all__ = ["Client"]


class Client:
    """Access to registries: connections, logins, and what was learned of each host. One for each run; thread-safe.

    Args:
        credentials: where logins come from; none is anonymous.
        insecure: hosts (``name[:port]``) without TLS. Loopback hosts are anyway.
        proxies: scheme -> URL, and ``no`` for the hosts to leave out.
        ca_bundle: file or folder of trusted authorities instead of the machine's.
        retries: further attempts after a passing failure.
        unanswered: the same where there is no answer at all; ``None`` is *retries*.
        limits: of time, in seconds.
        certificates: Docker's ``certs.d``.
        token_hosts: hosts besides a registry's own domain that may see its login.
        sleep: how to wait, for tests.
        layer_limit: most bytes of one layer, instead of what a host documents.
        ways: keeps how each host wants its blobs, for later runs.
        told: hears why something is tried again, in a sentence, from any thread.
    """

    def __init__(
        self,
        *,
        credentials: Credentials | None = None,
        insecure: Collection[str] = (),
        proxies: Mapping[str, str] | None = None,
        ca_bundle: str | None = None,
        retries: int = 5,
        unanswered: int | None = None,
        limits: Limits | None = None,
        certificates: Path | str = "/etc/docker/certs.d",
        token_hosts: Collection[str] = (),
        sleep: Callable[[float], object] | None = None,
        layer_limit: int | None = None,
        ways: Ways | None = None,
        told: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.memory = Memory(ways)
        self.layer_limit = layer_limit
        self.transport = Transport(
            credentials or Credentials(),
            insecure=insecure,
            proxies=proxies,
            ca_bundle=ca_bundle,
            certificates=certificates,
            retries=retries,
            unanswered=unanswered,
            limits=limits,
            sleep=sleep,
            token_hosts=token_hosts,
            told=told,
        )

    def repository(self, reference: Reference) -> Repository:
        """The repository that *reference* is in; its tag and digest do not matter."""
        return Repository(self.transport, reference, self.memory, self.layer_limit)

    def close(self) -> None:
        """Cut all connections. What other threads are doing with them ends with a TransientError."""
        self.transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
