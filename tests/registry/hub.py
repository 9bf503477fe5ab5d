"""A hub of models on this machine: what huggingface_hub asks of the real one, over real HTTP.

``GET /api/models/REPO/revision/REV?blobs=true`` says the commit and the files; ``HEAD`` and ``GET
/REPO/resolve/REV/FILE`` give small files, and send who asks for large ones on to another host, as the real one does.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["FakeHub"]

LARGE = 4096  # bytes from which a file is in Git LFS


def blob_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass
class Repository:
    """Its commits, newest last, and who may read it."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    token: str = ""
    gated: bool = False


@dataclass
class Asked:
    """One request."""

    method: str
    path: str
    authorization: str
    range: str


class FakeHub:
    """Use as a context manager; ``url`` is for HF_ENDPOINT."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Asked] = []
        self.sent = 0  # bytes of files
        self.status = 0  # of every answer, instead of what it would be
        self.cut = 0  # bytes after which the next large file breaks off
        self.damaged = False  # large files come with another byte
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, format: str, *args: Any) -> None:
                pass

            def do_GET(self) -> None:
                hub._answer(self)

            do_HEAD = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeHub:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def commit(self, name: str, files: Mapping[str, bytes], *, branch: str = "main") -> str:
        """A new commit of *files* on *branch*: its id."""
        repository = self.repositories.setdefault(name, Repository())
        text = json.dumps({path: blob_id(content) for path, content in files.items()}) + str(len(repository.commits))
        commit = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        repository.commits[commit] = dict(files)
        repository.refs[branch] = commit
        return commit

    def asked(self, method: str, path: str) -> list[Asked]:
        return [request for request in self.requests if request.method == method and path in request.path]

    # ------------------------------------------------------------------------------------------------ answering

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        path = unquote(urlsplit(handler.path).path)
        headers = handler.headers
        self.requests.append(
            Asked(handler.command, handler.path, headers.get("Authorization", ""), headers.get("Range", ""))
        )
        if self.status:
            self._reply(handler, self.status, b"{}")
        elif match := re.fullmatch(r"/cdn/(\w+)", path):
            self._large(handler, match[1])
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self._listing(handler, match[1], match[2] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(handler, match[1], match[2], match[3])
        else:
            self._reply(handler, 404, b"")

    def _at(
        self, handler: BaseHTTPRequestHandler, name: str, revision: str
    ) -> tuple[str, dict[str, bytes]] | tuple[None, None]:
        repository = self.repositories.get(name)
        token = handler.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token.startswith("hf_wrong"):
            message = "Invalid credentials in Authorization header"
            self._reply(handler, 401, b"{}", {"X-Error-Message": message})
        elif repository is None or (repository.token and token != repository.token and not repository.gated):
            # The real hub does not tell whether there is one to who may not read it.
            self._reply(handler, 401, b'{"error":"Repository not found"}', {"X-Error-Code": "RepoNotFound"})
        elif repository.gated and token != repository.token:
            self._reply(handler, 403, b"{}", {"X-Error-Code": "GatedRepo"})
        else:
            commit = repository.refs.get(revision, revision)
            if commit in repository.commits:
                return commit, repository.commits[commit]
            self._reply(handler, 404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        return None, None

    def _listing(self, handler: BaseHTTPRequestHandler, name: str, revision: str) -> None:
        commit, files = self._at(handler, name, revision)
        if commit is None or files is None:
            return
        siblings = []
        for path, content in files.items():
            entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": blob_id(content)}
            if len(content) >= LARGE:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(entry)
        document = {"id": name, "modelId": name, "sha": commit, "private": False, "tags": [], "siblings": siblings}
        self._reply(handler, 200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _file(self, handler: BaseHTTPRequestHandler, name: str, revision: str, path: str) -> None:
        commit, files = self._at(handler, name, revision)
        if commit is None or files is None:
            return
        content = files.get(path)
        if content is None:
            self._reply(handler, 404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        known = {"X-Repo-Commit": commit, "ETag": f'"{blob_id(content)}"'}
        if len(content) < LARGE:
            self.sent += len(content) if handler.command == "GET" else 0
            self._reply(handler, 200, content, known)
            return
        sha256 = hashlib.sha256(content).hexdigest()
        known |= {"X-Linked-Etag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
        # Another host by name: who follows must not take the token there.
        known["Location"] = f"http://localhost:{self._server.server_port}/cdn/{sha256}"
        self._reply(handler, 302, b"", known)

    def _large(self, handler: BaseHTTPRequestHandler, sha256: str) -> None:
        contents = [c for r in self.repositories.values() for files in r.commits.values() for c in files.values()]
        content = next(c for c in contents if hashlib.sha256(c).hexdigest() == sha256)
        if self.damaged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        part = content[int(start[1]) :] if start else content
        extra = {"Content-Range": f"bytes {int(start[1])}-{len(content) - 1}/{len(content)}"} if start else {}
        cut, self.cut = self.cut, 0
        if handler.command == "GET":
            self.sent += min(cut, len(part)) if cut else len(part)
        self._reply(handler, 206 if start else 200, part, extra, cut)

    @staticmethod
    def _reply(
        handler: BaseHTTPRequestHandler,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        cut: int = 0,
    ) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            handler.send_header(name, value)
        handler.end_headers()
        if handler.command == "GET":
            handler.wfile.write(body[:cut] if cut else body)
        if cut:
            handler.close_connection = True
