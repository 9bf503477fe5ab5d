"""The local Docker daemon by its own socket: what the docker command would only pass on.

Docker Engine API, https://docs.docker.com/reference/api/engine/. Each docker command costs some 40 ms to start, and
``docker load`` copies every byte twice more on its way (measured: 2 GiB of weights in 0.85 of the time, with 0.63 of
the processor time on our side). A daemon that is reached by other means (TCP, TLS, SSH, a named pipe) is left to the
command.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .errors import LocalResourceError, printable

__all__ = ["Daemon", "Endpoint", "Load", "endpoint_of", "refused"]

_DEFAULT = "unix:///var/run/docker.sock"
_DEFAULT_TLS = "tcp://localhost:2376"
_QUICK = 60.0  # seconds for a call that only asks
_LAST_WORDS = 2.0  # seconds to hear why the daemon ended a request
_MAX_CONFIG = 4 * 1024 * 1024  # bytes
_AHEAD = 1024 * 1024  # bytes that may be sent while the daemon writes; the kernel gives what it allows


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The Docker that the docker command speaks to.

    Attributes:
        host: its address, as in DOCKER_HOST; "" where that cannot be told.
        context: the docker context that names it; "" where that is none.
    """

    host: str
    context: str = ""

    @property
    def socket(self) -> Path | None:
        """The socket of this machine that it answers on; None where it is reached by other means."""
        scheme, _, path = self.host.partition("://")
        return Path(path) if scheme == "unix" and path else None

    def __str__(self) -> str:
        context = f"docker context {self.context!r}" if self.context else ""
        shown = f"{self.host} ({context})" if self.host and context else self.host or context
        return printable(shown or "an address that is not known", 300)


def endpoint_of(environment: Mapping[str, str]) -> Endpoint:
    """What the docker command would speak to in *environment*.

    The order is Docker's (docker/cli, ``resolveContextName``): DOCKER_HOST, DOCKER_CONTEXT, the current context of
    config.json, the default. That is another where TLS is asked for without an address (``opts.ParseHost``).
    """
    if host := environment.get("DOCKER_HOST", ""):
        return Endpoint(host)
    config = Path(environment.get("DOCKER_CONFIG") or Path(environment.get("HOME") or Path.home(), ".docker"))
    name = environment.get("DOCKER_CONTEXT") or _text(_read(config / "config.json"), "currentContext") or "default"
    if name == "default":
        secured = environment.get("DOCKER_TLS") or environment.get("DOCKER_TLS_VERIFY")
        return Endpoint(_DEFAULT_TLS if secured else _DEFAULT)
    folder = config / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    return Endpoint(_text(_read(folder / "meta.json"), "Endpoints", "docker", "Host"), name)


def _read(path: Path) -> Any:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if path.stat().st_size <= _MAX_CONFIG:
            return json.loads(path.read_bytes())
    return None


def _text(document: Any, *names: str) -> str:
    for name in names:
        document = document.get(name) if isinstance(document, Mapping) else None
    return document if isinstance(document, str) else ""


def refused(said: str, what: str = "load") -> LocalResourceError:
    """Why ``docker load``, or *what*, failed, by its last words."""
    hint = "free some room: docker system df" if "no space" in said else ""
    return LocalResourceError(f"docker {what}: {printable(said.strip(), 1000)}", hint=hint)


class Daemon:
    """What answers on the socket *path*."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    @classmethod
    def at(cls, path: Path | None) -> Daemon | None:
        """The daemon at *path*, where one answers there. Why not is for the docker command to say."""
        daemon = cls(path) if path is not None else None
        with contextlib.suppress(OSError, http.client.HTTPException, LocalResourceError):
            if daemon is not None and daemon._ask("GET", "/_ping")[0] == 200:
                return daemon
        return None

    def image(self, reference: str) -> dict[str, Any] | None:
        """What ``docker image inspect`` prints of a local image; None where there is none.

        With ``Manifests``, whether all of each is here, from the containerd store of Docker 28 and newer.

        Raises:
            LocalResourceError: the daemon does not answer, or not with that.
        """
        status, body = self._tried("GET", f"/images/{quote(reference, safe='/:@')}/json?manifests=1")
        if status == 404:
            return None
        found = _document(body)
        if status != 200 or not isinstance(found, dict):
            raise LocalResourceError(f"docker image inspect: {_message(body) or f'HTTP {status}'}")
        return found

    def tag(self, source: str, repository: str, tag: str) -> None:
        """Give a local image another name.

        Raises:
            LocalResourceError: there is no such image, or the daemon does not answer.
        """
        query = f"repo={quote(repository, safe='')}&tag={quote(tag, safe='')}"
        status, body = self._tried("POST", f"/images/{quote(source, safe='/:@')}/tag?{query}")
        if status != 201:
            raise LocalResourceError(f"docker image tag: {_message(body) or f'HTTP {status}'}")

    def info(self) -> dict[str, Any]:
        """What ``docker info`` says of the daemon.

        Raises:
            LocalResourceError: it does not answer.
        """
        status, body = self._tried("GET", "/info")
        found = _document(body)
        if status != 200 or not isinstance(found, dict):
            raise LocalResourceError(f"docker info: {_message(body) or f'HTTP {status}'}")
        return found

    def load(self) -> Load:
        """``docker load``, waiting for an archive.

        Raises:
            LocalResourceError: the daemon does not answer.
        """
        try:
            return Load(self._connect(None))
        except OSError as error:
            raise LocalResourceError(f"docker load: {error.strerror}") from None

    def _tried(self, method: str, path: str) -> tuple[int, bytes]:
        try:
            return self._ask(method, path)
        except TimeoutError:
            raise LocalResourceError(
                f"docker: no answer within {_QUICK:.0f} s", hint="is the daemon well? docker info"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            said = getattr(error, "strerror", None) or type(error).__name__
            raise LocalResourceError(f"docker: the daemon ended the connection: {said}") from None

    def _ask(self, method: str, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("docker")
        connection.sock = self._connect(_QUICK)
        with contextlib.closing(connection):
            connection.request(method, path)
            response = connection.getresponse()
            return response.status, response.read()

    def _connect(self, timeout: float | None) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout)
            connection.connect(self._path)
        except BaseException:
            connection.close()
            raise
        return connection


class Load:
    """One ``docker load``, fed piece by piece. It has ended after ``finish`` or ``abort``."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _AHEAD)
        self._send(
            b"POST /images/load?quiet=1 HTTP/1.1\r\nHost: docker\r\n"
            b"Content-Type: application/x-tar\r\nTransfer-Encoding: chunked\r\n\r\n"
        )

    def write(self, data: bytes | memoryview) -> None:
        """Give it more.

        Raises:
            LocalResourceError: the daemon has refused it, or it was aborted.
        """
        if data:  # an empty chunk would be the end
            self._send(b"%x\r\n" % len(data), data, b"\r\n")

    def finish(self) -> None:
        """Nothing more comes; wait until the daemon has taken it.

        Raises:
            LocalResourceError: it refused it, or has no room.
        """
        self._send(b"0\r\n\r\n")
        said = self._said(None)
        self.abort()
        if said:
            raise refused(said)

    def abort(self) -> None:
        """End it, also from another thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _send(self, *pieces: bytes | memoryview) -> None:
        try:
            for piece in pieces:
                self._socket.sendall(piece)
        except OSError as error:
            # Ended early: it says why, unless it is gone.
            said = self._said(_LAST_WORDS) or f"the daemon ended the connection: {error.strerror}"
            self.abort()
            raise refused(said) from None

    def _said(self, timeout: float | None) -> str:
        """What the daemon has against the archive; "" where it took it."""
        try:
            self._socket.settimeout(timeout)
            response = http.client.HTTPResponse(self._socket, method="POST")
            with contextlib.closing(response):
                response.begin()
                body = response.read()
        except (OSError, http.client.HTTPException, ValueError) as error:
            return f"no answer from the daemon: {getattr(error, 'strerror', None) or type(error).__name__}"
        if response.status != 200:
            return _message(body) or f"HTTP {response.status}"
        # One object a line; what failed once the answer had begun is among them.
        return next((said for line in body.splitlines() if (said := _text(_document(line), "error"))), "")


def _document(body: bytes) -> Any:
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(body)
    return None


def _message(body: bytes) -> str:
    return printable(_text(_document(body), "message"), 300)
