"""A forward proxy of our own: CONNECT to any name is led to one place (RFC 9110, section 9.3.6)."""

from __future__ import annotations

import base64
import re
import socket
import threading
from contextlib import suppress


class Tunnel:
    """Where HTTPS_PROXY points: every host asked for is *target* (``address:port``).

    With *login* (``user:password``) it answers 407 to those who do not show it.
    """

    def __init__(self, target: str, *, login: str = "") -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._login = base64.b64encode(login.encode()).decode()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.asked: list[str] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                piece = client.recv(65536)
                if not piece:
                    return
                head += piece
            self.asked.append(head.split(b"\r\n", 1)[0].decode("latin-1"))
            shown = re.search(rb"(?i)\r\nproxy-authorization: basic ([^\r]+)", head)
            if self._login and (shown is None or shown[1].decode() != self._login):
                # With what it was shown in the answer: a proxy's page is not ours either.
                client.sendall(
                    b"HTTP/1.1 407 Who " + (shown[1] if shown else b"are you") + b"\r\nContent-Length: 0\r\n\r\n"
                )
                return
            with socket.create_connection(self._target) as server:
                client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=_copy, args=(server, client), daemon=True)
                back.start()
                _copy(client, server)
                back.join()


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 18):
            sink.sendall(data)
    for end in (source, sink):
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
