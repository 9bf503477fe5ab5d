"""Connections that send layers: an idle limit on what is sent, and ears open while sending.

urllib3's own connections limit a send by the connect time, and hear a refusal only once the whole body is gone.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import weakref
from dataclasses import dataclass
from typing import Any, ClassVar

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.util import wait_for_read

__all__ = ["Connections", "Limits"]

_SLICE = 1024 * 1024  # bytes a send
# A dead peer is noticed after a minute and a half also where we wait ten minutes for a commit.
_KEEPALIVE = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *((socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in
      (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4)) if hasattr(socket, name)),
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Limits:
    """Time limits, in seconds.

    Attributes:
        connect: for a connection, TLS included.
        idle: without a byte sent or received.
        commit: for the answer to a whole upload: the registry may hash the blob before it answers.
        wait: the longest that one Retry-After is obeyed.
        backoff: the longest pause between two attempts where the registry names none.
    """

    connect: float = 15.0
    idle: float = 60.0
    commit: float = 900.0
    wait: float = 120.0
    backoff: float = 20.0


class Connections:
    """Makes the pools of one client, and can cut every connection at once.

    Args:
        idle: seconds without a byte accepted after which sending has failed.
    """

    def __init__(self, idle: float) -> None:
        self._lock = threading.Lock()
        self._live: weakref.WeakSet[Any] = weakref.WeakSet()
        self.stopped = threading.Event()
        options = [*HTTPConnection.default_socket_options, *_KEEPALIVE]
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # What is in the kernel's buffer is sent for us: a line that swallows it is noticed as well (tcp(7)).
            options.append((socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(idle * 1000)))
        shared = {"home": self, "idle": idle, "default_socket_options": options}

        def pool(kind: type, connection: type) -> Any:
            # urllib3 makes pools and connections itself, of classes: what they share is on these.
            made = type(f"Talking{connection.__name__}", (_Talking, connection), shared)
            return type(f"Whole{kind.__name__}", (_Whole, kind), {"ConnectionCls": made})

        self.pools = {
            "http": pool(HTTPConnectionPool, HTTPConnection),
            "https": pool(HTTPSConnectionPool, HTTPSConnection),
        }

    def add(self, connection: Any) -> None:
        """*connection* is there, to be cut with the others."""
        with self._lock:
            self._live.add(connection)

    def cut(self) -> None:
        """Shut every connection down: whoever waits on one gets an error now."""
        self.stopped.set()
        with self._lock:
            live = list(self._live)
        for connection in live:
            sock = connection.sock
            if sock is not None:
                # The plain socket's method: no TLS goodbye, which could wait.
                with contextlib.suppress(OSError):
                    socket.socket.shutdown(sock, socket.SHUT_RDWR)


class _Talking:
    """What both kinds of connection have more than urllib3's."""

    home: ClassVar[Connections]
    idle: ClassVar[float]
    sock: socket.socket | None
    in_body = False
    answered = False
    incomplete = False

    def connect(self) -> None:
        self.answered = False
        if self.home.stopped.is_set():
            raise ConnectionAbortedError("stopped")
        super().connect()  # type: ignore[misc]
        self.home.add(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        self.in_body, self.incomplete = False, True
        super().request(*args, **kwargs)  # type: ignore[misc]
        self.incomplete = False

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        super().endheaders(*args, **kwargs)  # type: ignore[misc]
        self.in_body = True

    def getresponse(self) -> Any:
        response = super().getresponse()  # type: ignore[misc]
        self.answered = True
        return response

    def send(self, data: Any) -> None:
        if not self.in_body or self.sock is None:
            super().send(data)  # type: ignore[misc]
            return
        self.sock.settimeout(self.idle)
        view = memoryview(data)
        while view:
            # An answer before the end of the body is a refusal: urllib3 takes this error for "read it now".
            # Only where one answer came before: on a new TLS connection session tickets are readable.
            if self.answered and wait_for_read(self.sock, 0):
                raise BrokenPipeError("answered before the end of the body")
            try:
                view = view[self.sock.send(view[:_SLICE]) :]
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError, ConnectionResetError) as error:
                # What was answered before the line went may still be there to be read (RFC 9112, section 9.5).
                raise BrokenPipeError("closed before the end of the body") from error


class _Whole:
    """A pool that keeps no connection with half a body: the other side still waits for the rest of it."""

    def _put_conn(self, conn: Any) -> None:
        if conn is not None and conn.incomplete:
            conn.close()
        super()._put_conn(conn)  # type: ignore[misc]
