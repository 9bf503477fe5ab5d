"""The FakeRegistry as its users see it: what it holds, how it behaves, what went on."""

from __future__ import annotations

import re
import shutil
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..oci import Digest, Image, Index, Manifest
from .http import Action, Fault, Request, Server
from .protocol import Protocol, Repository, Session

__all__ = ["PROFILES", "FakeRegistry", "Profile"]


@dataclass(frozen=True, slots=True)
class Profile:
    """How a registry differs from the plain reading of the specification.

    Attributes:
        patch: whether PATCH is known at all; else 405, and blobs are sent by one PUT.
        patch_status: the status of a PATCH that worked.
        patch_limit: most bytes in one PATCH or PUT of a blob; more is answered with 416, no Range. 0 is no limit.
        stale_range: the Range of a session stays where its first PATCH ended.
        body_limit: most bytes in any body; more is answered by a proxy's 413 in HTML. 0 is no limit.
        chunk_min: value of ``OCI-Chunk-Min-Length``, or 0.
        content_range: whether it is "checked", "ignored", or "required" with each PATCH.
        after_break: what a PATCH that breaks off leaves: its bytes are "kept", the session "lost".
        status_known: whether GET of a session says where it stands; else 404.
        lying_head: dropped blobs are still there for HEAD, mount and manifests; a GET of them gives nothing.
        immutable_tags: whether a tag that exists can be pushed again.
        mounts: whether blobs can be mounted.
        ranges: whether a GET of a blob heeds Range.
        deletes: what of a manifest can be deleted: a "tag" or a digest, a "digest" alone, or "nothing".
    """

    patch: bool = True
    patch_status: int = 202
    patch_limit: int = 0
    stale_range: bool = False
    body_limit: int = 0
    chunk_min: int = 0
    content_range: Literal["checked", "ignored", "required"] = "checked"
    after_break: Literal["kept", "lost"] = "kept"
    status_known: bool = True
    lying_head: bool = False
    immutable_tags: bool = False
    mounts: bool = True
    ranges: bool = True
    deletes: Literal["tag", "digest", "nothing"] = "tag"


PROFILES: Mapping[str, Profile] = {
    "strict": Profile(),
    # Its session tokens hold the offset: after a break inside a PATCH they match nothing any more.
    "distribution-2.8": Profile(content_range="ignored", after_break="lost", deletes="digest"),
    "acr-noresume": Profile(after_break="lost", status_known=False),
    "ghcr-4mib": Profile(patch_limit=4 * 1024 * 1024),
    # https://github.com/aws/containers-roadmap/issues/2831
    "ecr-201": Profile(patch_status=201, mounts=False, stale_range=True),
    "gar-monolithic": Profile(patch=False),
    "lying-head": Profile(lying_head=True),
    "immutable-tags": Profile(immutable_tags=True),
    "no-deleting": Profile(deletes="nothing"),
}


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
        self._repositories: dict[str, Repository] = {}
        self._sessions: dict[str, Session] = {}
        self._dropped: dict[str, int] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="fake-registry-"))
        self._stopping = threading.Event()
        self._server = Server((address, 0), self, Protocol)
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
            home = self._repositories.setdefault(repository, Repository())
            home.manifests[str(manifest.digest)] = (manifest.raw, manifest.media_type)
            if tag:
                home.tags[tag] = str(manifest.digest)
        return manifest.digest

    def put_blob(self, repository: str, content: bytes) -> Digest:
        """Put a blob there."""
        digest = Digest.of(content)
        with self._lock:
            self._file(str(digest)).write_bytes(content)
            self._repositories.setdefault(repository, Repository()).blobs.add(str(digest))
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
