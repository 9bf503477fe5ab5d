"""The FakeRegistry's HTTP: connections, bodies as they come, and what the script does to them."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import ssl
import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from .script import Fault, Request, Script

__all__ = ["CHUNK", "Gone", "Handler", "Reply", "Server", "error"]

CHUNK = 1024 * 1024  # bytes
_TLS_HANDSHAKE = b"\x16"  # type of a TLS connection's first record (RFC 8446, 5.1)


class Reply(Exception):
    """The answer to the request that is being served."""

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        file: Path | None = None,
        start: int = 0,
        length: int | None = None,
    ) -> None:
        super().__init__(status)
        self.status = status
        self.body = body
        self.headers = dict(headers or {})
        self.file = file
        self.start = start
        self.length = len(body) if length is None else length


def error(status: int, code: str, message: str = "", detail: Any = None, **headers: str) -> Reply:
    """An error as the specification spells it ("Error Codes")."""
    document = {"errors": [{"code": code, "message": message or code.lower().replace("_", " "), "detail": detail}]}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, json.dumps(document).encode(), {"Content-Type": "application/json", **named})


class Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], registry: Script, handler: type[Handler]) -> None:
        self.registry = registry
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # Without looking up our own name, which HTTPServer does.
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self.registry._tls is not None:
            # The handshake is done by the connection's own thread.
            connection = self.registry._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._guard:
            self._open.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
        # That clients go away is what this registry is for.
        if error is not None and not isinstance(error, OSError):
            self.registry.errors.append(error)

    @property
    def host(self) -> str:
        """``ADDRESS:PORT``."""
        address, port = self.server_address[:2]
        return f"{address!s}:{port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.registry._tls else 'http'}://{self.host}"

    def cut(self) -> None:
        with self._guard:
            connections, self._open = list(self._open), set()
        for connection in connections:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


class Gone(OSError):
    """The connection is over, by script."""


class Stalled(Gone):
    """It is silent from now on."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    default_request_version = "HTTP/1.1"  # answers to what is no request have a status line too
    disable_nagle_algorithm = True
    timeout = 30
    server: Server
    registry: Script
    rfile: io.BufferedReader

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.settimeout(self.timeout)
            self.request.do_handshake()
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            # docker and BuildKit try TLS first, also with a loopback address, and go on without where the answer to
            # their hello is HTTP. A hello need not have an end of line to be read up to.
            if self.rfile.peek(1)[:1] == _TLS_HANDSHAKE:
                self.close_connection = True
                self.wfile.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
                self._linger()
            else:
                super().handle_one_request()
        except (Gone, TimeoutError):
            self.close_connection = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    # ---------------------------------------------------------------------------------------------------- one request

    def _serve(self) -> None:
        self.registry = self.server.registry
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        # Lines of one name are one list (RFC 9110, section 5.3): Docker sends a line for each type that it accepts.
        headers = {name.lower(): ", ".join(self.headers.get_all(name, ())) for name in self.headers}
        self.log = Request(self.command, parts.path, self.query, headers)
        self.left = int(headers.get("content-length") or 0)
        self.chunked_left: int | None = 0 if "chunked" in headers.get("transfer-encoding", "").lower() else None
        with self.registry._lock:
            self.registry.requests.append(self.log)
        self.fault = fault = self.registry._next_fault(self.log)
        if fault is not None and fault.call is not None:
            fault.call(self.log)
        try:
            try:
                if fault is not None and fault.action == "status" and not fault.after_bytes:
                    raise Reply(fault.status, fault.body, fault.headers)
                if fault is not None and fault.action in ("reset", "stall") and not fault.after_bytes:
                    self._break(fault)
                self.answer(parts.path)
            except Reply as reply:
                self._reply(reply)
        except Gone as gone:
            self.close_connection = True
            if isinstance(gone, Stalled):  # out here, where no lock is held
                self.registry._stopping.wait(self.timeout)

    def _body(self) -> Iterator[bytes]:
        """The request's body as it comes; what the script says happens in the middle of it."""
        fault = self.fault
        limit = fault.after_bytes if fault is not None and fault.action in ("status", "reset", "stall") else None
        while True:
            if limit is not None and self.log.received >= limit:
                assert fault is not None
                if fault.action == "status":
                    raise Reply(fault.status, fault.body, fault.headers)
                self._break(fault)
            size = CHUNK if limit is None else min(CHUNK, limit - self.log.received)
            piece = self._piece(size)
            if not piece:
                return
            self.log.received += len(piece)
            yield piece

    def _piece(self, size: int) -> bytes:
        if self.chunked_left is not None:
            if self.chunked_left == 0:
                self.chunked_left = int(self.rfile.readline(1024).partition(b";")[0] or b"0", 16)
                if self.chunked_left == 0:
                    self.rfile.readline(1024)
                    self.chunked_left = None
                    return b""
            piece = self.rfile.read(min(size, self.chunked_left))
            self.chunked_left -= len(piece)
            if self.chunked_left == 0:
                self.rfile.readline(1024)
        elif self.left:
            piece = self.rfile.read1(min(size, self.left))
            self.left -= len(piece)
        else:
            return b""
        if not piece:
            raise Gone("the client went away")
        return bytes(piece)

    def _break(self, fault: Fault) -> None:
        if fault.action == "stall":
            raise Stalled("stalled")
        self._reset()
        raise Gone(fault.action)

    def _reset(self) -> None:
        """RST instead of FIN."""
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The socket goes when its last file object does.
        self.rfile.close()
        self.connection.close()

    def _reply(self, reply: Reply) -> None:
        fault = self.fault
        if fault is not None and fault.action == "lost":
            for _ in self._body():
                pass
            self._reset()
            raise Gone("lost")
        if self.chunked_left is None and 0 < self.left <= 256 * 1024:
            while self._piece(CHUNK):
                pass
        unread = self.left or self.chunked_left is not None
        self.log.status = reply.status
        self.send_response_only(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if reply.status != 204 and "Content-Length" not in reply.headers:
            self.send_header("Content-Length", str(reply.length))
        if unread:
            # As Go's net/http does it: who still sends a large body is not listened to.
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        cut = fault.after_bytes if fault is not None and fault.action == "cut" else None
        if self.command != "HEAD" and reply.status != 204:
            sent = 0
            for piece in self._content(reply):
                part = piece if cut is None else piece[: cut - sent]
                self.wfile.write(part)
                sent += len(part)
                if cut is not None and sent >= cut:
                    break
        if cut is not None:
            self.close_connection = True
        if unread:
            self._linger()

    def _content(self, reply: Reply) -> Iterator[bytes]:
        if reply.file is None:
            yield reply.body
            return
        left = reply.length
        if not reply.file.exists():
            self.close_connection = True
            return
        with open(reply.file, "rb") as stream:
            stream.seek(reply.start)
            while left and (piece := stream.read(min(CHUNK, left))):
                yield piece
                left -= len(piece)

    def _linger(self) -> None:
        """Take what still comes for a moment: a reset would take the answer away before it is read."""
        with contextlib.suppress(OSError):
            self.wfile.flush()
            if not isinstance(self.connection, ssl.SSLSocket):
                self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(0.2)
            until = time.monotonic() + 2
            while time.monotonic() < until and self.connection.recv(CHUNK):
                pass

    def answer(self, path: str) -> None:
        """Do what is asked, and raise the Reply."""
        raise NotImplementedError
