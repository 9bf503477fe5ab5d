"""What the FakeRegistry holds, and the habits that it has."""

from __future__ import annotations

import hashlib
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..oci import Digest, Image, Index, Manifest
from .script import Script

__all__ = ["PROFILES", "Profile", "Repository", "Session", "Store"]


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


@dataclass(slots=True)
class Session:
    repository: str
    file: Path
    hash: Any = field(default_factory=hashlib.sha256)
    size: int = 0
    first: int = 0
    lost: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(slots=True)
class Repository:
    blobs: set[str] = field(default_factory=set)
    manifests: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)


class Store(Script):
    """Repositories, uploads under way and tokens; the arguments are those of ``FakeRegistry``."""

    def __init__(
        self,
        profile: str | Profile,
        users: Mapping[str, str] | None,
        auth: Literal["bearer", "basic"],
        token_life: float,
        anonymous_pull: bool,
        allow: Callable[[str, str, str], bool] | None,
        refresh_tokens: Mapping[str, str] | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(tls)
        self.profile = PROFILES[profile] if isinstance(profile, str) else profile
        self._users = users
        self._auth = auth
        self._token_life = token_life
        self._anonymous_pull = anonymous_pull
        self._allow = allow or (lambda user, repository, action: True)
        self._refresh_tokens = dict(refresh_tokens or {})
        self._tokens: dict[str, tuple[str, frozenset[tuple[str, str]], float]] = {}
        self._repositories: dict[str, Repository] = {}
        self._sessions: dict[str, Session] = {}
        self._dropped: dict[str, int] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="fake-registry-"))

    def expire_tokens(self) -> None:
        """From now on no token that was given out is good any more."""
        with self._lock:
            self._tokens.clear()

    def forget_sessions(self) -> None:
        """Every upload that is under way is unknown from now on."""
        with self._lock:
            self._sessions.clear()

    @property
    def open_sessions(self) -> int:
        """Uploads that were begun, and neither committed nor cancelled."""
        with self._lock:
            return len(self._sessions)

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
