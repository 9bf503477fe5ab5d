"""Serve the network over HTTP, with the standard library alone.

    POST /predict  {"digits": [[64 numbers, 0 to 16], …]}  ->  {"labels": [7, …], "probabilities": [[10 numbers], …]}
    GET  /healthz  ->  {"status": "ok", "checkpoint": PATH, "checkpoint_digest": "sha256:…", "epoch": 12, …}

layerkit sets LAYERKIT_CHECKPOINT and LAYERKIT_CHECKPOINT_DIGEST in the image's environment.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socketserver
import sys
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from model import DigitNet

PIXELS = 64  # numbers of a digit
MAX_DIGITS = 1000  # in one request
MAX_BYTES = 4 * 1024 * 1024  # of a request's body
MAX_REQUESTS = 16  # at once; each has a thread
GRACE = 0.5  # seconds that requests have to finish after SIGTERM


class RequestError(Exception):
    """A request that gets *status* and one sentence about what is wrong with it."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


def read_digits(body: bytes) -> list[list[float]]:
    """The digits of a /predict request, each 64 numbers from 0 to 16.

    Raises:
        RequestError: the body is something else; the message says where.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise RequestError(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {error}") from None
    digits = document.get("digits") if isinstance(document, dict) else None
    if not isinstance(digits, list) or not digits:
        raise RequestError(HTTPStatus.BAD_REQUEST, 'expected {"digits": [[64 numbers, 0 to 16], …]}')
    if len(digits) > MAX_DIGITS:
        raise RequestError(HTTPStatus.BAD_REQUEST, f"{len(digits)} digits; at most {MAX_DIGITS} in one request")
    for index, digit in enumerate(digits):
        if not isinstance(digit, list) or len(digit) != PIXELS:
            found = f"{len(digit)} values" if isinstance(digit, list) else "no list"
            raise RequestError(HTTPStatus.BAD_REQUEST, f"digits[{index}]: {found}, expected {PIXELS} numbers")
        for position, pixel in enumerate(digit):
            if type(pixel) not in (int, float) or not 0 <= pixel <= 16:
                raise RequestError(HTTPStatus.BAD_REQUEST, f"digits[{index}][{position}] is no number from 0 to 16")
    return digits


class Server(ThreadingHTTPServer):
    """A network, what is known of it, and at most MAX_REQUESTS threads that answer for it."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], network: DigitNet, about: dict[str, Any]) -> None:
        self.network = network
        self.about = about
        self._free = threading.BoundedSemaphore(MAX_REQUESTS)
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Without HTTPServer's look-up of the host's name, which can wait long for a DNS server that is not there."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread when there is one free; until then, connections wait in the listening socket's queue."""
        self._free.acquire()
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def drain(self, seconds: float) -> None:
        """Wait until every request is answered, but no longer than *seconds*."""
        deadline = time.monotonic() + seconds
        for _ in range(MAX_REQUESTS):
            self._free.acquire(timeout=max(deadline - time.monotonic(), 0.0))


class Handler(BaseHTTPRequestHandler):
    """One connection, one request."""

    server: Server
    timeout = 5  # seconds for a client to send or take something; a silent one would hold its thread
    server_version = "digits"

    def do_GET(self) -> None:
        if self.path == "/healthz":
            self.answer(HTTPStatus.OK, {"status": "ok", **self.server.about})
        elif self.path == "/predict":
            self.answer(HTTPStatus.METHOD_NOT_ALLOWED, {"error": "POST /predict"})
        else:
            self.answer(HTTPStatus.NOT_FOUND, {"error": "there are POST /predict and GET /healthz"})

    def do_POST(self) -> None:
        if self.path != "/predict":
            return self.answer(HTTPStatus.NOT_FOUND, {"error": "there are POST /predict and GET /healthz"})
        try:
            labels, probabilities = self.server.network.predict(read_digits(self.body()))
            self.answer(HTTPStatus.OK, {"labels": labels, "probabilities": probabilities})
        except RequestError as error:
            self.answer(error.status, {"error": str(error)})

    def body(self) -> bytes:
        """The request's body.

        Raises:
            RequestError: no length is given, it is too long, or the client sends less than it promised.
        """
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 20):
            raise RequestError(HTTPStatus.LENGTH_REQUIRED, "the request has no Content-Length")
        if int(length) > MAX_BYTES:
            raise RequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body has over {MAX_BYTES} bytes")
        try:
            body = self.rfile.read(int(length))
        except OSError as error:
            raise RequestError(HTTPStatus.REQUEST_TIMEOUT, f"the body did not come: {error}") from None
        if len(body) < int(length):
            raise RequestError(HTTPStatus.BAD_REQUEST, f"the body ended after {len(body)} of {length} bytes")
        return body

    def answer(self, status: HTTPStatus, document: dict[str, Any]) -> None:
        content = json.dumps(document).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except (ConnectionError, TimeoutError):
            self.log_message("the client went away")


def stop(*_: object) -> None:
    """Leave, wherever the main thread is: importing, loading, waiting for a connection."""
    raise SystemExit(0)


def main() -> None:
    # First of all: the kernel gives process 1 of a container no default action for signals, and torch takes seconds.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    parser = argparse.ArgumentParser(description="Serve the digit network.")
    parser.add_argument("--host", default="0.0.0.0")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free one (default 8000)")
    options = parser.parse_args()

    checkpoint = os.environ.get("LAYERKIT_CHECKPOINT", "./model/checkpoint.pth.tar")
    from model import load

    try:
        network, about = load(checkpoint)
        about |= {"checkpoint": checkpoint, "checkpoint_digest": os.environ.get("LAYERKIT_CHECKPOINT_DIGEST")}
        server = Server((options.host, options.port), network, about)
    except (OSError, ValueError) as error:
        raise SystemExit(f"serve: {error}") from None
    print(f"serving {checkpoint} on http://{options.host}:{server.server_port}", file=sys.stderr, flush=True)
    try:
        server.serve_forever()
    finally:
        server.socket.close()
        server.drain(GRACE)


if __name__ == "__main__":
    main()
