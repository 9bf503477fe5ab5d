"""What the FakeRegistry answers: the distribution specification 1.1, with the habits of its profile."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from ..errors import LayerkitError
from ..oci import MAX_MANIFEST_SIZE, MEDIA, Digest
from .http import Handler, Reply, error
from .store import Repository, Session, Store

__all__ = ["Protocol"]

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


class Protocol(Handler):
    """One connection's requests, answered."""

    registry: Store

    def answer(self, path: str) -> None:
        self.profile = self.registry.profile
        self._check_rights(path)
        self._route(path)

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
                raise error(403, "DENIED", "requested access to the resource is denied")
            raise error(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate='Basic realm="fake"')
        with registry._lock:
            user, granted, expires = registry._tokens.get(value, ("", frozenset(), 0.0))
        if kind.lower() == "bearer" and time.monotonic() < expires and needed <= granted:
            return
        scopes = " ".join(f"repository:{name}:{what}" for name, what in sorted(needed))
        challenge = f'Bearer realm="{self.server.url}/token",service="fake"'
        challenge += f',scope="{scopes}"' if scopes else ""
        challenge += ',error="insufficient_scope"' if granted else ""
        raise error(401, "UNAUTHORIZED", "authentication required", WWW_Authenticate=challenge)

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
            raise error(401, "UNAUTHORIZED", "incorrect username or password")
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
        raise Reply(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    # ---------------------------------------------------------------------------------------------------- what is asked

    def _route(self, path: str) -> None:
        if path in ("/v2", "/v2/"):
            raise Reply(200, b"{}", {"Content-Type": "application/json"})
        for pattern, kind in _ROUTES:
            match = pattern.fullmatch(path)
            if match:
                self.name = match["name"]
                handler = getattr(self, f"_{kind}_{self.command.lower()}", None)
                if handler is None:
                    raise error(405, "UNSUPPORTED", "the operation is unsupported")
                handler(**{key: value for key, value in match.groupdict().items() if key != "name"})
        raise Reply(404, b"404 page not found\n", {"Content-Type": "text/plain"})

    def _home(self, *, create: bool = False) -> Repository:
        with self.registry._lock:
            if create:
                return self.registry._repositories.setdefault(self.name, Repository())
            home = self.registry._repositories.get(self.name)
        if home is None:
            raise error(404, "NAME_UNKNOWN", "repository name not known to registry", {"name": self.name})
        return home

    def _digest(self, text: str) -> Digest:
        try:
            return Digest.parse(text)
        except LayerkitError:
            raise error(400, "DIGEST_INVALID", "invalid digest") from None

    def _too_large(self) -> None:
        if self.profile.patch_limit and self.left > self.profile.patch_limit:
            raise error(416, "RANGE_INVALID", "the request body is too large")
        if self.profile.body_limit and self.left > self.profile.body_limit:
            page = b"<html><head><title>413 Request Entity Too Large</title></head><body>nginx</body></html>"
            raise Reply(413, page, {"Content-Type": "text/html"})

    # Blobs: "Pulling blobs", "Checking if content exists in the registry", "Deleting Blobs".

    def _blob_head(self, reference: str) -> None:
        self._blob_get(reference)

    def _blob_get(self, reference: str) -> None:
        digest = str(self._digest(reference))
        file = self.registry._file(digest)
        if digest not in self._home().blobs:
            raise error(404, "BLOB_UNKNOWN", "blob unknown to registry", digest)
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
                raise error(416, "RANGE_INVALID", Content_Range=f"bytes */{size}")
            headers["Content-Range"] = f"bytes {start}-{end}/{size}"
            raise Reply(206, headers=headers, file=file, start=start, length=end - start + 1)
        raise Reply(200, headers=headers, file=file, length=size)

    def _blob_delete(self, reference: str) -> None:
        digest = str(self._digest(reference))
        home = self._home()
        if digest not in home.blobs:
            raise error(404, "BLOB_UNKNOWN", "blob unknown to registry", digest)
        home.blobs.discard(digest)
        raise Reply(202)

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
        session = Session(self.name, registry._folder / f"session-{number}")
        session.file.touch()
        if "digest" in self.query:
            self._append(session)
            raise self._committed(session, self.query["digest"])
        with registry._lock:
            registry._sessions[number] = session
        headers = self._where(number, session)
        if self.profile.chunk_min:
            headers["OCI-Chunk-Min-Length"] = str(self.profile.chunk_min)
        raise Reply(202, headers=headers)

    def _where(self, number: str, session: Session) -> dict[str, str]:
        state = urlencode({"_state": f"{number}{session.size:x}"})
        headers = {"Location": f"/v2/{self.name}/blobs/uploads/{number}?{state}", "Docker-Upload-UUID": number}
        # "0-0" for an empty session, as distribution has it.
        size = session.first if self.profile.stale_range else session.size
        headers["Range"] = f"0-{max(size - 1, 0)}"
        return headers

    def _session(self, number: str) -> Session:
        with self.registry._lock:
            session = self.registry._sessions.get(number)
        if session is None or session.lost or session.repository != self.name:
            raise error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        return session

    def _session_get(self, session: str) -> None:
        if not self.profile.status_known:
            raise error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        found = self._session(session)
        with found.lock:
            raise Reply(204, headers=self._where(session, found))

    def _session_delete(self, session: str) -> None:
        found = self._session(session)
        with self.registry._lock:
            self.registry._sessions.pop(session, None)
        found.file.unlink(missing_ok=True)
        raise Reply(204)

    def _session_patch(self, session: str) -> None:
        self._too_large()
        if not self.profile.patch:
            raise error(405, "UNSUPPORTED", "the operation is unsupported")
        found = self._session(session)
        with found.lock:
            self._check_range(session, found)
            self._append(found)
            found.first = found.first or found.size
            raise Reply(self.profile.patch_status, headers=self._where(session, found))

    def _check_range(self, number: str, session: Session) -> None:
        given = self.headers.get("Content-Range")
        if self.profile.content_range == "ignored" or (given is None and self.profile.content_range == "checked"):
            return
        match = re.fullmatch(r"(\d+)-(\d+)", given or "")
        fits = match and int(match[1]) == session.size and int(match[2]) - int(match[1]) + 1 == self.left
        if not fits:
            headers = self._where(number, session) if match else {}
            raise Reply(416, b'{"errors":[{"code":"BLOB_UPLOAD_INVALID"}]}', headers)

    def _append(self, session: Session) -> None:
        try:
            with open(session.file, "ab") as stream:
                for piece in self._body():
                    stream.write(piece)
                    session.hash.update(piece)
                    session.size += len(piece)
        except OSError:  # Gone too
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

    def _committed(self, session: Session, text: str) -> Reply:
        digest = self._digest(text)
        found = session.hash.hexdigest()
        if digest.algorithm != "sha256":
            found = hashlib.new(digest.algorithm, session.file.read_bytes()).hexdigest()
        if found != digest.hex:
            raise error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        with self.registry._lock:
            session.file.replace(self.registry._file(str(digest)))
            self._home(create=True).blobs.add(str(digest))
            self.registry._dropped.pop(str(digest), None)
        return self._created(str(digest))

    def _created(self, digest: str) -> Reply:
        location = f"/v2/{self.name}/blobs/{digest}"
        return Reply(201, headers={"Location": location, "Docker-Content-Digest": digest})

    # Manifests: "Pulling manifests", "Pushing Manifests", "Deleting Manifests".

    def _manifest_head(self, reference: str) -> None:
        self._manifest_get(reference)

    def _manifest_get(self, reference: str) -> None:
        home = self._home()
        with self.registry._lock:
            digest = reference if ":" in reference else home.tags.get(reference, "")
            found = home.manifests.get(digest)
        accept = self.log.headers.get("accept") or "*/*"
        if found is None or not ("*/*" in accept or found[1] in accept):
            raise error(404, "MANIFEST_UNKNOWN", "manifest unknown", {"reference": reference})
        raise Reply(200, found[0], {"Content-Type": found[1], "Docker-Content-Digest": digest})

    def _manifest_put(self, reference: str) -> None:
        self._too_large()
        raw = b"".join(self._body())
        media_type = (self.headers.get("Content-Type") or "").partition(";")[0].strip()
        if len(raw) > MAX_MANIFEST_SIZE:
            raise error(413, "SIZE_INVALID", "manifest too large")
        try:
            document = json.loads(raw)
            if document.get("mediaType", media_type) != media_type:
                raise error(400, "MANIFEST_INVALID", "Content-Type and mediaType differ")
            subject = document.get("subject")
        except (ValueError, AttributeError):
            raise error(400, "MANIFEST_INVALID", "no JSON object") from None
        digest = str(Digest.of(raw))
        if ":" in reference and str(self._digest(reference)) != digest:
            raise error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        if ":" not in reference and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", reference):
            raise error(400, "TAG_INVALID", "manifest tag did not match URI")
        with self.registry._lock:
            home = self._home(create=True)
            self._check_references(home, document, media_type)
            if ":" not in reference:
                if self.profile.immutable_tags and reference in home.tags:
                    raise error(
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
        raise Reply(201, headers=headers)

    def _check_references(self, home: Repository, document: Mapping[str, Any], media_type: str) -> None:
        if media_type in MEDIA.INDEXES:
            missing = [m["digest"] for m in document.get("manifests", ()) if m["digest"] not in home.manifests]
            code = "MANIFEST_UNKNOWN"
        else:
            named = [document.get("config", {}), *document.get("layers", ())]
            missing = [d["digest"] for d in named if d.get("digest") not in home.blobs]
            code = "MANIFEST_BLOB_UNKNOWN"
        if missing:
            errors = [{"code": code, "message": "blob unknown to registry", "detail": {"digest": d}} for d in missing]
            raise Reply(404, json.dumps({"errors": errors}).encode(), {"Content-Type": "application/json"})

    def _manifest_delete(self, reference: str) -> None:
        home = self._home()
        if self.profile.deletes == "nothing":
            raise error(405, "UNSUPPORTED", "The operation is unsupported.")
        if self.profile.deletes == "digest" and ":" not in reference:
            raise error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        with self.registry._lock:
            if ":" not in reference:
                if home.tags.pop(reference, None) is None:
                    raise error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            elif home.manifests.pop(reference, None) is None:
                raise error(404, "MANIFEST_UNKNOWN", "manifest unknown")
            home.tags = {tag: digest for tag, digest in home.tags.items() if digest in home.manifests}
        raise Reply(202)

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
        raise Reply(200, json.dumps({"name": self.name, "tags": tags}).encode(), headers)

    def _referrers_get(self, reference: str) -> None:
        digest = str(self._digest(reference))
        kind = self.query.get("artifactType", "")
        home = self.registry._repositories.get(self.name, Repository())
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
        raise Reply(200, json.dumps(index).encode(), headers)
