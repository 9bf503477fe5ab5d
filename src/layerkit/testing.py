"""A registry for tests: real HTTP, in this process, with the habits of real registries and faults by script.

    with FakeRegistry("distribution-2.8", users={"ada": "secret"}) as registry:
        registry.fail(method="PATCH", after_bytes=1_000_000, action="reset")
        push_with_the_tool_under_test(f"{registry.host}/team/model:v1")
        assert registry.tag("team/model", "v1") is not None
        assert registry.received_bytes(method="PATCH") < 3_000_000

It does what the OCI distribution specification 1.1 says of pull, push, content discovery and content management.
Blobs are kept in a temporary folder, not in memory. It needs nothing but the standard library.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import re
import secrets
import shutil
import socket
import ssl
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import parse_qs, urlencode, urlsplit

from .oci import MEDIA, Digest, Image, Index, Manifest

__all__ = ["PROFILES", "FakeRegistry", "Fault", "Profile", "Request"]

Action: TypeAlias = Literal["status", "reset", "stall", "cut", "lost"]
_CHUNK = 1024 * 1024
_MAX_MANIFEST = 4 * 1024 * 1024
_NAME = r"[a-z0-9]+(?:[._-]+[a-z0-9]+)*(?:/[a-z0-9]+(?:[._-]+[a-z0-9]+)*)*"
_ROUTES = [
    (re.compile(rf"/v2/(?P<name>{_NAME})/{rest}"), kind)
    for rest, kind in (
        (r"blobs/uploads/?", "uploads"),
        (r"blobs/uploads/(?P<session>[A-Za-z0-9_-]+)", "session"),
        (r"blobs/(?P<reference>[^/]+)", "blob"),
        (r"manifests/(?P<reference>[^/]+)", "manifest"),
        (r"tags/list", "tags"),
        (r"referrers/(?P<reference>[^/]+)", "referrers"),
    )
]


@dataclass(frozen=True, slots=True)
class Profile:
    """How a registry differs from the plain reading of the specification.

    Attributes:
        patch: whether PATCH is known at all; else 405, and blobs are sent by one PUT.
        patch_status: the status of a PATCH that worked.
        patch_limit: most bytes in one PATCH; more is answered with 416 and no Range. 0 is no limit.
        body_limit: most bytes in any body; more is answered by a proxy's 413 in HTML. 0 is no limit.
        chunk_min: value of ``OCI-Chunk-Min-Length``, or 0.
        content_range: whether it is "checked", "ignored", or "required" with each PATCH.
        after_break: what a PATCH that breaks off leaves: its bytes are "kept", the session "lost".
        status_known: whether GET of a session says where it stands; else 404.
        lying_head: dropped blobs are still there for HEAD, mount and manifests; a GET of them gives nothing.
        immutable_tags: whether a tag that exists can be pushed again.
        mounts: whether blobs can be mounted.
        ranges: whether a GET of a blob heeds Range.
    """

    patch: bool = True
    patch_status: int = 202
    patch_limit: int = 0
    body_limit: int = 0
    chunk_min: int = 0
    content_range: Literal["checked", "ignored", "required"] = "checked"
    after_break: Literal["kept", "lost"] = "kept"
    status_known: bool = True
    lying_head: bool = False
    immutable_tags: bool = False
    mounts: bool = True
    ranges: bool = True


PROFILES: Mapping[str, Profile] = {
    "strict": Profile(),
    # Its session tokens hold the offset: after a break inside a PATCH they match nothing any more.
    "distribution-2.8": Profile(content_range="ignored", after_break="lost"),
    "acr-noresume": Profile(after_break="lost", status_known=False),
    "ghcr-4mib": Profile(patch_limit=4 * 1024 * 1024),
    "ecr-201": Profile(patch_status=201, mounts=False, immutable_tags=False),
    "gar-monolithic": Profile(patch=False),
    "lying-head": Profile(lying_head=True),
    "immutable-tags": Profile(immutable_tags=True),
}


@dataclass(slots=True)
class Request:
    """One request that arrived. ``received`` counts the bytes of its body that were read; ``status`` is 0 for none."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str] = field(repr=False)
    received: int = 0
    status: int = 0


@dataclass(slots=True)
class Fault:
    """One line of the script: see ``FakeRegistry.fail``. ``hits`` counts how often it happened."""

    method: str
    path: re.Pattern[str]
    action: Action | None
    after_bytes: int
    status: int
    headers: Mapping[str, str]
    body: bytes
    times: int
    skip: int
    call: Callable[[Request], None] | None
    hits: int = 0


@dataclass(slots=True)
class _Session:
    repository: str
    file: Path
    hash: Any = field(default_factory=hashlib.sha256)
    size: int = 0
    lost: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class _Repository:
    blobs: set[str] = field(default_factory=set)
    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class _Reply(Exception):
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


def _error(status: int, code: str, message: str = "", detail: Any = None, **headers: str) -> _Reply:
    """An error as the specification spells it ("Error Codes")."""
    document = {"errors": [{"code": code, "message": message or code.lower().replace("_", " "), "detail": detail}]}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return _Reply(status, json.dumps(document).encode(), {"Content-Type": "application/json", **named})


class FakeRegistry:
    """A registry on a loopback port, from ``start`` (or ``with``) to ``close``.

    Args:
        profile: a name out of PROFILES, or a Profile.
        users: user name -> password; None lets everybody do everything.
        auth: how users show who they are: "bearer" tokens from its own token server, or "basic".
        token_life: seconds that a token is good for.
        anonymous_pull: whether reading needs no user.
        allow: (user, repository, action) -> whether a user may; all may, by default. Anonymous is "".
        refresh_tokens: identity token -> user name, for ``grant_type=refresh_token``.
        tls: serve HTTPS with this context.
        address: loopback address to listen on.
    """

    def __init__(
        self,
        profile: str | Profile = "strict",
        *,
        users: Mapping[str, str] | None = None,
        auth: Literal["bearer", "basic"] = "bearer",
        token_life: float = 300.0,
        anonymous_pull: bool = False,
        allow: Callable[[str, str, str], bool] | None = None,
        refresh_tokens: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.profile = PROFILES[profile] if isinstance(profile, str) else profile
        self.requests: list[Request] = []
        self.errors: list[BaseException] = []
        self._users = users
        self._auth = auth
        self._token_life = token_life
        self._anonymous_pull = anonymous_pull
        self._allow = allow or (lambda user, repository, action: True)
        self._refresh_tokens = dict(refresh_tokens or {})
        self._tokens: dict[str, tuple[str, frozenset[tuple[str, str]], float]] = {}
        self._tls = tls
        self._lock = threading.RLock()
        self._faults: list[Fault] = []
        self._repositories: dict[str, _Repository] = {}
        self._sessions: dict[str, _Session] = {}
        self._dropped: dict[str, int] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="fake-registry-"))
        self._stopping = threading.Event()
        self._server = _Server((address, 0), self)
        self._thread: threading.Thread | None = None

    # ---------------------------------------------------------------------------------------------------- life

    @property
    def host(self) -> str:
        """``ADDRESS:PORT``, what stands before the first slash of a reference."""
        address, port = self._server.server_address[:2]
        return f"{address!s}:{port}"

    @property
    def url(self) -> str:
        """Its address with the scheme."""
        return f"{'https' if self._tls else 'http'}://{self.host}"

    def start(self) -> FakeRegistry:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop, cut every connection, and forget everything."""
        self._stopping.set()
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.cut()
        self._server.server_close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> FakeRegistry:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()

    # ---------------------------------------------------------------------------------------------------- the script

    def fail(
        self,
        *,
        method: str = "",
        path: str = "",
        action: Action | None = None,
        after_bytes: int = 0,
        status: int = 0,
        headers: Mapping[str, str] | None = None,
        body: str | bytes = b"",
        times: int = 1,
        skip: int = 0,
        call: Callable[[Request], None] | None = None,
    ) -> Fault:
        """Let something go wrong with the next requests that fit.

        Args:
            method: of the request; "" fits all.
            path: a regular expression found somewhere in the request's path.
            action: "status" answers with *status*, *headers* and *body*, once *after_bytes* of the request's body are
                read and kept (0: at once, while the other side still sends); "reset" resets the connection after
                *after_bytes* of the request's body; "stall" reads no more after them, and answers never;
                "cut" does what is asked and ends the connection after *after_bytes* of the answer's body;
                "lost" does what is asked and resets the connection instead of answering.
                Where it is left out: "status" if there is a status, else only *call*.
            times: how often; -1 is always.
            skip: how many requests that fit pass before.
            call: is called with the request before anything is done.
        """
        fault = Fault(
            method,
            re.compile(path),
            action or ("status" if status else None),
            after_bytes,
            status or 500,
            dict(headers or {}),
            body.encode() if isinstance(body, str) else body,
            times,
            skip,
            call,
        )
        with self._lock:
            self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Forget the script."""
        with self._lock:
            self._faults.clear()

    def expire_tokens(self) -> None:
        """From now on no token that was given out is good any more."""
        with self._lock:
            self._tokens.clear()

    def forget_sessions(self) -> None:
        """Every upload that is under way is unknown from now on."""
        with self._lock:
            self._sessions.clear()

    # ---------------------------------------------------------------------------------------------------- what happened

    def asked(self, method: str = "", path: str = "") -> list[Request]:
        """The requests with that *method* whose path holds the regular expression *path*, in their order."""
        with self._lock:
            return [r for r in self.requests if method in ("", r.method) and re.search(path, r.path)]

    def received_bytes(self, method: str = "", path: str = "") -> int:
        """Bytes of bodies that arrived with such requests."""
        return sum(request.received for request in self.asked(method, path))

    @property
    def open_sessions(self) -> int:
        """Uploads that were begun, and neither committed nor cancelled."""
        with self._lock:
            return len(self._sessions)

    # ---------------------------------------------------------------------------------------------------- what is there

    def push(self, repository: str, tag: str, image: Image | Manifest | Index, blobs: Iterable[bytes] = ()) -> Digest:
        """Put an image there under *tag* ("" for none), with its configuration and *blobs*; nothing is checked."""
        content = list(blobs)
        manifest = image.manifest if isinstance(image, Image) else image
        if isinstance(image, Image):
            content.append(image.config.raw)
        for blob in content:
            self.put_blob(repository, blob)
        with self._lock:
            home = self._repositories.setdefault(repository, _Repository())
            home.manifests[str(manifest.digest)] = (manifest.raw, manifest.media_type)
            if tag:
                home.tags[tag] = str(manifest.digest)
        return manifest.digest

    def put_blob(self, repository: str, content: bytes) -> Digest:
        """Put a blob there."""
        digest = Digest.of(content)
        with self._lock:
            self._file(str(digest)).write_bytes(content)
            self._repositories.setdefault(repository, _Repository()).blobs.add(str(digest))
            self._dropped.pop(str(digest), None)
        return digest

    def drop_blob(self, digest: Digest) -> None:
        """Take the bytes of a blob away, as garbage collection does. With the profile lying-head it is still found."""
        with self._lock:
            file = self._file(str(digest))
            if file.exists():
                self._dropped[str(digest)] = file.stat().st_size
                file.unlink()
            if not self.profile.lying_head:
                for home in self._repositories.values():
                    home.blobs.discard(str(digest))

    def blob(self, repository: str, digest: Digest) -> bytes | None:
        """The content of a blob that is really there, else None."""
        with self._lock:
            home = self._repositories.get(repository)
            if home is None or str(digest) not in home.blobs or not self._file(str(digest)).exists():
                return None
            return self._file(str(digest)).read_bytes()

    def tag(self, repository: str, tag: str) -> Digest | None:
        """What a tag names, or None."""
        with self._lock:
            home = self._repositories.get(repository)
            return Digest.parse(home.tags[tag]) if home and tag in home.tags else None

    def _file(self, digest: str) -> Path:
        return self._folder / digest.replace(":", "-")

    def _next_fault(self, request: Request) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.method not in ("", request.method) or not fault.path.search(request.path) or not fault.times:
                    continue
                if fault.skip:
                    fault.skip -= 1
                    continue
                fault.times -= 1 if fault.times > 0 else 0
                fault.hits += 1
                return fault
        return None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], registry: FakeRegistry) -> None:
        self.registry = registry
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(address, _Handler)

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
        import sys

        error = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
        # That clients go away is what this registry is for.
        if error is not None and not isinstance(error, OSError):
            self.registry.errors.append(error)

    def cut(self) -> None:
        with self._guard:
            connections, self._open = list(self._open), set()
        for connection in connections:
            with contextlib.suppress(OSError):
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


class _Gone(OSError):
    """The connection is over, by script."""


class _Stalled(_Gone):
    """It is silent from now on."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 30
    server: _Server

    def setup(self) -> None:
        if isinstance(self.request, ssl.SSLSocket):
            self.request.settimeout(self.timeout)
            self.request.do_handshake()
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def handle_one_request(self) -> None:
        try:
            super().handle_one_request()
        except _Gone:
            self.close_connection = True

    def __getattr__(self, name: str) -> Any:
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    # ---------------------------------------------------------------------------------------------------- one request

    def _serve(self) -> None:
        self.registry = self.server.registry
        self.profile = self.registry.profile
        parts = urlsplit(self.path)
        self.query = {name: values[-1] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        headers = {name.lower(): value for name, value in self.headers.items()}
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
                    raise _Reply(fault.status, fault.body, fault.headers)
                if fault is not None and fault.action in ("reset", "stall") and not fault.after_bytes:
                    self._break(fault)
                self._check_rights(parts.path)
                self._route(parts.path)
            except _Reply as reply:
                self._reply(reply)
        except _Gone as gone:
            self.close_connection = True
            if isinstance(gone, _Stalled):  # out here, where no lock is held
                self.registry._stopping.wait(self.timeout)

    def _body(self) -> Iterator[bytes]:
        """The request's body as it comes; what the script says happens in the middle of it."""
        fault = self.fault
        limit = fault.after_bytes if fault is not None and fault.action in ("status", "reset", "stall") else None
        while True:
            if limit is not None and self.log.received >= limit:
                assert fault is not None
                if fault.action == "status":
                    raise _Reply(fault.status, fault.body, fault.headers)
                self._break(fault)
            size = _CHUNK if limit is None else min(_CHUNK, limit - self.log.received)
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
            raise _Gone("the client went away")
        return bytes(piece)

    def _break(self, fault: Fault) -> None:
        if fault.action == "stall":
            raise _Stalled("stalled")
        self._reset()
        raise _Gone(fault.action)

    def _reset(self) -> None:
        """RST instead of FIN."""
        with contextlib.suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        # The socket goes when its last file object does.
        self.rfile.close()
        self.connection.close()

    def _reply(self, reply: _Reply) -> None:
        fault = self.fault
        if fault is not None and fault.action == "lost":
            for _ in self._body():
                pass
            self._reset()
            raise _Gone("lost")
        if self.chunked_left is None and 0 < self.left <= 256 * 1024:
            while self._piece(_CHUNK):
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

    def _content(self, reply: _Reply) -> Iterator[bytes]:
        if reply.file is None:
            yield reply.body
            return
        left = reply.length
        if not reply.file.exists():
            self.close_connection = True
            return
        with open(reply.file, "rb") as stream:
            stream.seek(reply.start)
            while left and (piece := stream.read(min(_CHUNK, left))):
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
            while time.monotonic() < until and self.connection.recv(_CHUNK):
                pass

    # ---------------------------------------------------------------------------------------------------- who may

    def _check_rights(self, path: str) -> None:
        registry = self.registry
        if path == "/token":
            self._give_token()
        if registry._users is None:
            return
        match = re.match(rf"/v2/({_NAME})/(?:blobs|manifests|tags|referrers)\b", path)
        action = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}.get(self.command, "push")
        if "/blobs/uploads/" in path:
            action = "push"
        needed = {(match[1], action)} if match else set()
        if match and "from" in self.query:
            needed.add((self.query["from"], "pull"))
        header = self.headers.get("Authorization") or ""
        kind, _, value = header.partition(" ")
        if registry._auth == "basic":
            user = self._basic(value) if kind.lower() == "basic" else ""
            known = user is not None and (user or (registry._anonymous_pull and action == "pull"))
            if known and all(registry._allow(user or "", *item) for item in needed):
                return
            if user:
                raise _error(403, "DENIED", "requested access to the resource is denied")
            raise _error(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate='Basic realm="fake"')
        with registry._lock:
            user, granted, expires = registry._tokens.get(value, ("", frozenset(), 0.0))
        if kind.lower() == "bearer" and time.monotonic() < expires and needed <= granted:
            return
        scopes = " ".join(f"repository:{name}:{what}" for name, what in sorted(needed))
        challenge = f'Bearer realm="{registry.url}/token",service="fake"'
        challenge += f',scope="{scopes}"' if scopes else ""
        challenge += ',error="insufficient_scope"' if granted else ""
        raise _error(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)

    def _basic(self, value: str) -> str | None:
        try:
            user, _, password = base64.b64decode(value).decode().partition(":")
        except ValueError:
            return None
        return user if (self.registry._users or {}).get(user) == password else None

    def _give_token(self) -> None:
        registry = self.registry
        kind, _, value = (self.headers.get("Authorization") or "").partition(" ")
        user: str | None = ""
        scopes = parse_qs(urlsplit(self.path).query).get("scope", [])
        if self.command == "POST":
            form = parse_qs(b"".join(self._body()).decode())
            user = registry._refresh_tokens.get(form.get("refresh_token", [""])[0])
            scopes = form.get("scope", [])
        elif kind:
            user = self._basic(value) if kind.lower() == "basic" else None
        if user is None:
            raise _error(401, "UNAUTHORIZED", "incorrect username or password")
        granted = set()
        for item in " ".join(scopes).split():
            name, _, actions = item.removeprefix("repository:").rpartition(":")
            for action in actions.split(","):
                if (user or (registry._anonymous_pull and action == "pull")) and registry._allow(user, name, action):
                    granted.add((name, action))
        token = secrets.token_urlsafe(24)
        with registry._lock:
            registry._tokens[token] = (user, frozenset(granted), time.monotonic() + registry._token_life)
        document = {"token": token, "expires_in": registry._token_life}
        raise _Reply(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    # ---------------------------------------------------------------------------------------------------- what is asked

    def _route(self, path: str) -> None:
        if path in ("/v2", "/v2/"):
            raise _Reply(200, b"{}", {"Content-Type": "application/json"})
        for pattern, kind in _ROUTES:
            match = pattern.fullmatch(path)
            if match:
                self.name = match["name"]
                handler = getattr(self, f"_{kind}_{self.command.lower()}", None)
                if handler is None:
                    raise _error(405, "UNSUPPORTED", "the operation is unsupported")
                handler(**{key: value for key, value in match.groupdict().items() if key != "name"})
        raise _Reply(404, b"404 page not found\n", {"Content-Type": "text/plain"})

    def _home(self, *, create: bool = False) -> _Repository:
        with self.registry._lock:
            if create:
                return self.registry._repositories.setdefault(self.name, _Repository())
            home = self.registry._repositories.get(self.name)
        if home is None:
            raise _error(404, "NAME_UNKNOWN", "repository name not known to registry", {"name": self.name})
        return home

    def _digest(self, text: str) -> Digest:
        try:
            return Digest.parse(text)
        except Exception:  # noqa: BLE001 - whatever is wrong with it
            raise _error(400, "DIGEST_INVALID", "invalid digest") from None

    def _too_large(self) -> None:
        if self.profile.body_limit and self.left > self.profile.body_limit:
            page = b"<html><head><title>413 Request Entity Too Large</title></head><body>nginx</body></html>"
            raise _Reply(413, page, {"Content-Type": "text/html"})

    # Blobs: "Pulling blobs", "Checking if content exists in the registry", "Deleting Blobs".

    def _blob_head(self, reference: str) -> None:
        self._blob_get(reference)

    def _blob_get(self, reference: str) -> None:
        digest = str(self._digest(reference))
        file = self.registry._file(digest)
        if digest not in self._home().blobs:
            raise _error(404, "BLOB_UNKNOWN", "blob unknown to registry", digest)
        headers = {
            "Docker-Content-Digest": digest,
            "Content-Type": "application/octet-stream",
            "Accept-Ranges": "bytes",
        }
        # What distribution 2.8 was seen to do: all headers as if it were there, no byte, and the connection closed.
        size = file.stat().st_size if file.exists() else self.registry._dropped.get(digest, 0)
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or "")
        if match and self.profile.ranges and self.command == "GET" and (match[1] or match[2]):
            start = int(match[1]) if match[1] else max(size - int(match[2]), 0)
            end = min(int(match[2]), size - 1) if match[1] and match[2] else size - 1
            if start >= size or end < start:
                raise _error(416, "RANGE_INVALID", Content_Range=f"bytes */{size}")
            headers["Content-Range"] = f"bytes {start}-{end}/{size}"
            raise _Reply(206, headers=headers, file=file, start=start, length=end - start + 1)
        raise _Reply(200, headers=headers, file=file, length=size)

    def _blob_delete(self, reference: str) -> None:
        digest = str(self._digest(reference))
        home = self._home()
        if digest not in home.blobs:
            raise _error(404, "BLOB_UNKNOWN", "blob unknown to registry", digest)
        home.blobs.discard(digest)
        raise _Reply(202)

    # Uploads: "Pushing blobs".

    def _uploads_post(self) -> None:
        self._too_large()
        registry = self.registry
        if "mount" in self.query and self.profile.mounts:
            digest = str(self._digest(self.query["mount"]))
            with registry._lock:
                source = registry._repositories.get(self.query.get("from", ""))
                if source is not None and digest in source.blobs:
                    self._home(create=True).blobs.add(digest)
                    raise self._created(digest)
        number = secrets.token_hex(8)
        session = _Session(self.name, registry._folder / f"session-{number}")
        session.file.touch()
        if "digest" in self.query:
            self._append(session)
            raise self._committed(session, self.query["digest"])
        with registry._lock:
            registry._sessions[number] = session
        headers = self._where(number, session)
        if self.profile.chunk_min:
            headers["OCI-Chunk-Min-Length"] = str(self.profile.chunk_min)
        raise _Reply(202, headers=headers)

    def _where(self, number: str, session: _Session) -> dict[str, str]:
        state = urlencode({"_state": f"{number}{session.size:x}"})
        headers = {"Location": f"/v2/{self.name}/blobs/uploads/{number}?{state}", "Docker-Upload-UUID": number}
        # "0-0" for an empty session, as distribution has it.
        headers["Range"] = f"0-{max(session.size - 1, 0)}"
        return headers

    def _session(self, number: str) -> _Session:
        with self.registry._lock:
            session = self.registry._sessions.get(number)
        if session is None or session.lost or session.repository != self.name:
            raise _error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        return session

    def _session_get(self, session: str) -> None:
        if not self.profile.status_known:
            raise _error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        found = self._session(session)
        with found.lock:
            raise _Reply(204, headers=self._where(session, found))

    def _session_delete(self, session: str) -> None:
        found = self._session(session)
        with self.registry._lock:
            self.registry._sessions.pop(session, None)
        found.file.unlink(missing_ok=True)
        raise _Reply(204)

    def _session_patch(self, session: str) -> None:
        self._too_large()
        if not self.profile.patch:
            raise _error(405, "UNSUPPORTED", "the operation is unsupported")
        if self.profile.patch_limit and self.left > self.profile.patch_limit:
            raise _error(416, "RANGE_INVALID", "chunk too large")
        found = self._session(session)
        with found.lock:
            self._check_range(session, found)
            self._append(found)
            raise _Reply(self.profile.patch_status, headers=self._where(session, found))

    def _check_range(self, number: str, session: _Session) -> None:
        given = self.headers.get("Content-Range")
        if self.profile.content_range == "ignored" or (given is None and self.profile.content_range == "checked"):
            return
        match = re.fullmatch(r"(\d+)-(\d+)", given or "")
        fits = match and int(match[1]) == session.size and int(match[2]) - int(match[1]) + 1 == self.left
        if not fits:
            headers = self._where(number, session) if match else {}
            raise _Reply(416, b'{"errors":[{"code":"BLOB_UPLOAD_INVALID"}]}', headers)

    def _append(self, session: _Session) -> None:
        try:
            with open(session.file, "ab") as stream:
                for piece in self._body():
                    stream.write(piece)
                    session.hash.update(piece)
                    session.size += len(piece)
        except OSError:  # _Gone too
            session.lost = session.lost or self.profile.after_break == "lost"
            raise

    def _session_put(self, session: str) -> None:
        self._too_large()
        found = self._session(session)
        with found.lock:
            self._check_range(session, found) if self.headers.get("Content-Range") else None
            self._append(found)
            reply = self._committed(found, self.query.get("digest", ""))
        with self.registry._lock:
            self.registry._sessions.pop(session, None)
        raise reply

    def _committed(self, session: _Session, text: str) -> _Reply:
        digest = self._digest(text)
        found = session.hash.hexdigest()
        if digest.algorithm != "sha256":
            found = hashlib.new(digest.algorithm, session.file.read_bytes()).hexdigest()
        if found != digest.hex:
            raise _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        with self.registry._lock:
            session.file.replace(self.registry._file(str(digest)))
            self._home(create=True).blobs.add(str(digest))
            self.registry._dropped.pop(str(digest), None)
        return self._created(str(digest))

    def _created(self, digest: str) -> _Reply:
        location = f"/v2/{self.name}/blobs/{digest}"
        return _Reply(201, headers={"Location": location, "Docker-Content-Digest": digest})

    # Manifests: "Pulling manifests", "Pushing Manifests", "Deleting Manifests".

    def _manifest_head(self, reference: str) -> None:
        self._manifest_get(reference)

    def _manifest_get(self, reference: str) -> None:
        home = self._home()
        with self.registry._lock:
            digest = reference if ":" in reference else home.tags.get(reference, "")
            found = home.manifests.get(digest)
        accept = self.headers.get("Accept") or "*/*"
        if found is None or not ("*/*" in accept or found[1] in accept):
            raise _error(404, "MANIFEST_UNKNOWN", "manifest unknown", {"reference": reference})
        raise _Reply(200, found[0], {"Content-Type": found[1], "Docker-Content-Digest": digest})

    def _manifest_put(self, reference: str) -> None:
        self._too_large()
        raw = b"".join(self._body())
        media_type = (self.headers.get("Content-Type") or "").partition(";")[0].strip()
        if len(raw) > _MAX_MANIFEST:
            raise _error(413, "SIZE_INVALID", "manifest too large")
        try:
            document = json.loads(raw)
            if document.get("mediaType", media_type) != media_type:
                raise _error(400, "MANIFEST_INVALID", "Content-Type and mediaType differ")
            subject = document.get("subject")
        except (ValueError, AttributeError):
            raise _error(400, "MANIFEST_INVALID", "no JSON object") from None
        digest = str(Digest.of(raw))
        if ":" in reference and str(self._digest(reference)) != digest:
            raise _error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        if ":" not in reference and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", reference):
            raise _error(400, "TAG_INVALID", "manifest tag did not match URI")
        with self.registry._lock:
            home = self._home(create=True)
            self._check_references(home, document, media_type)
            if ":" not in reference:
                if self.profile.immutable_tags and reference in home.tags:
                    raise _error(
                        400,
                        "TAG_INVALID",
                        f"The image tag '{reference}' already exists in the '{self.name}' repository and cannot be"
                        " overwritten because the tag is immutable.",
                    )
                home.tags[reference] = digest
            home.manifests[digest] = (raw, media_type)
        headers = {"Location": f"/v2/{self.name}/manifests/{digest}", "Docker-Content-Digest": digest}
        if isinstance(subject, dict):
            headers["OCI-Subject"] = str(subject.get("digest"))
        raise _Reply(201, headers=headers)

    def _check_references(self, home: _Repository, document: Mapping[str, Any], media_type: str) -> None:
        if media_type in MEDIA.INDEXES:
            missing = [m["digest"] for m in document.get("manifests", ()) if m["digest"] not in home.manifests]
            code = "MANIFEST_UNKNOWN"
        else:
            named = [document.get("config", {}), *document.get("layers", ())]
            missing = [d["digest"] for d in named if d.get("digest") not in home.blobs]
            code = "MANIFEST_BLOB_UNKNOWN"
        if missing:
            errors = [{"code": code, "message": "blob unknown to registry", "detail": {"digest": d}} for d in missing]
            raise _Reply(404, json.dumps({"errors": errors}).encode(), {"Content-Type": "application/json"})

    def _manifest_delete(self, reference: str) -> None:
        home = self._home()
        with self.registry._lock:
            if ":" not in reference:
                if home.tags.pop(reference, None) is None:
                    raise _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            elif home.manifests.pop(reference, None) is None:
                raise _error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            home.tags = {tag: digest for tag, digest in home.tags.items() if digest in home.manifests}
        raise _Reply(202)

    # "Listing Tags", "Listing Referrers".

    def _tags_get(self) -> None:
        home = self._home()
        with self.registry._lock:
            tags = sorted(home.tags, key=lambda tag: (tag.lower(), tag))
        last = self.query.get("last", "")
        if last:
            tags = [tag for tag in tags if (tag.lower(), tag) > (last.lower(), last)]
        headers = {"Content-Type": "application/json"}
        count = int(self.query["n"]) if self.query.get("n", "").isdecimal() else len(tags)
        if len(tags) > count:
            tags = tags[:count]
            if tags:
                query = urlencode({"n": count, "last": tags[-1]})
                headers["Link"] = f'</v2/{self.name}/tags/list?{query}>; rel="next"'
        raise _Reply(200, json.dumps({"name": self.name, "tags": tags}).encode(), headers)

    def _referrers_get(self, reference: str) -> None:
        digest = str(self._digest(reference))
        kind = self.query.get("artifactType", "")
        home = self.registry._repositories.get(self.name, _Repository())
        found = []
        for name, (raw, media_type) in home.manifests.items():
            document = json.loads(raw)
            if (document.get("subject") or {}).get("digest") != digest:
                continue
            type_ = document.get("artifactType") or document.get("config", {}).get("mediaType", "")
            item = {"mediaType": media_type, "digest": name, "size": len(raw), "artifactType": type_}
            item |= {"annotations": document["annotations"]} if "annotations" in document else {}
            found += [item] if kind in ("", type_) else []
        index = {"schemaVersion": 2, "mediaType": MEDIA.INDEX, "manifests": found}
        headers = {"Content-Type": MEDIA.INDEX} | ({"OCI-Filters-Applied": "artifactType"} if kind else {})
        raise _Reply(200, json.dumps(index).encode(), headers)
