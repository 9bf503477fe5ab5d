"""One blob into a registry, whatever happens on the way.

A blob goes through a session: POST opens it, PATCH sends, ``PUT ?digest=`` commits (distribution-spec, "Pushing
blobs"). What registries do with these differs so much that the way is learned from their refusals: see ``ways``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from ..errors import IntegrityError, LayerkitError, RefusedError, TransientError
from ..oci import Digest
from . import urls
from .answers import Answer, Fault, error_for, parse_range
from .auth import Scopes
from .content import Content, Journal, Reader, Standing, UploadDropped
from .transport import Body, Chunk, Transport
from .ways import Memory, Way, default_way, smaller

__all__ = ["Upload"]


class _Again(Exception):
    """The next attempt may start at once: something was learned."""


class Upload:
    """The state of one upload, through all of its attempts.

    Args:
        name: ``host/repository``, for messages.
        exists: whether the registry really has a blob (digest, size).
        progress: called with the number of the blob's bytes that are sent; falls back when they must be sent again.
        way: instead of what is remembered for the host.
        journal: where it is kept how far the upload is, beyond this process.
        limit: most bytes that the registry takes.
    """

    def __init__(
        self,
        transport: Transport,
        memory: Memory,
        content: Content,
        *,
        host: str,
        name: str,
        uploads_url: str,
        scopes: Scopes,
        exists: Callable[[Digest, int], bool],
        progress: Callable[[int], None],
        way: Way | None = None,
        journal: Journal | None = None,
        limit: int | None = None,
    ) -> None:
        self._transport = transport
        self._memory = memory
        self._content = content
        self._reader = Reader(content, name)
        self._host = host
        self._name = name
        self._uploads_url = uploads_url
        self._scopes = scopes
        self._exists = exists
        self._progress = progress
        self._size = content.size
        self._given = way
        self._session: str | None = None
        self._least_chunk = 0  # OCI-Chunk-Min-Length
        self._held = 0  # bytes that the registry has acknowledged in this session
        self._reached = 0  # bytes of this session that were sent at all
        self._best = 0  # the most bytes that were ever acknowledged
        self._unsure = False  # the last request may have done more than we know
        self._may_be_done = False  # a commit may have arrived
        self._mismatches = 0
        self._refused_chunks = False
        self._odd_ranges = 0
        self._asked_in_vain = 0
        self._digest: Digest | None = None  # once it is known
        self._journal = journal
        self._limit = limit
        self._inherited = False  # the session is an earlier run's
        self.sent = 0

    # ---------------------------------------------------------------------------------------------------- all of it

    def run(self) -> int:
        """Send it, and return the number of bytes that were sent, repeated ones included.

        Raises:
            UploadDropped: the content said so.
            LayerkitError: what went wrong; the session is closed, except where the registry cannot be reached.
        """
        self._check_limit()
        self._inherit()
        try:
            while True:
                try:
                    self._transport.retry(self._attempt, advanced=lambda: self._best)
                except _Again:
                    continue
                except RefusedError:
                    if self._given is not None or not self._memory.doubt(self._host):
                        raise
                    self._cancel()  # an earlier run's way is no good any more: it is found anew
                    continue
                if self._given is None:
                    self._memory.confirm(self._host)
                return self.sent
        except TransientError:
            raise
        except (LayerkitError, UploadDropped):
            self._cancel()
            raise
        finally:
            self._reader.close()

    def _check_limit(self) -> None:
        if self._limit is not None and self._size > self._limit:
            raise RefusedError(
                f"{self._what('upload')}: {self._host} takes layers of at most {self._limit} bytes",
                hint="save the checkpoint as several files (shards): each large file is a layer of its own",
            )

    def _inherit(self) -> None:
        """Take up the session that an earlier run left, if it left one."""
        standing = self._journal.load() if self._journal is not None else None
        if standing is None:
            return
        try:
            # What was kept is no more trusted than what a registry says: the same rules of where to go.
            url = urls.follow(self._uploads_url, standing.url, insecure=self._transport.insecure)
        except RefusedError:
            self._forget()
            return
        if not 0 <= standing.held <= self._size:
            self._forget()
            return
        self._session, self._held, self._least_chunk = url, standing.held, standing.least_chunk
        # It may have sent all, and even the commit may have arrived.
        self._reached, self._inherited, self._unsure = self._size, True, True
        self._may_be_done = standing.held == self._size

    def _record(self) -> None:
        if self._journal is None or self._session is None:
            return
        # A registry that puts our token into its addresses has its uploads begun again: no secret is kept.
        if not any(secret in self._session for secret in self._transport.secrets()):
            self._journal.save(Standing(self._session, self._held, self._least_chunk))

    def _attempt(self) -> None:
        if self._may_be_done and self._exists(self._content.digest(), self._size):
            self._forget()
            return  # the answer to the commit was lost, not the commit
        if self._content.cancelled():
            raise UploadDropped(self.sent)
        way = self._way()
        if way.kind == "monolithic" or self._size == 0:
            self._send_whole(way)
            return
        if self._session is not None and self._unsure:
            self._ask()
        if self._session is None:
            self._begin()
        while self._held < self._size:
            self._patch(self._way())
        self._commit()

    def _way(self) -> Way:
        return self._given or self._memory.way(self._host, self._size)

    def _learn(self, tried: Way, better: Way) -> _Again:
        """Another way from here on; the bytes that the session holds are not lost by it."""
        if self._given is not None:
            self._given = better
        else:
            self._memory.learn(self._host, tried, better)
        return _Again()

    # ---------------------------------------------------------------------------------------------------- the session

    def _begin(self) -> None:
        answer = self._send("POST", self._uploads_url, "start the upload of")
        location = answer.headers.get("location")
        if answer.status not in (200, 201, 202, 204) or not location:
            hint = "does the repository exist?" if answer.status in (404, 405) else ""
            raise error_for(answer, self._what("start the upload of"), hint=hint)
        self._session = urls.follow(answer.url, location, insecure=self._transport.insecure)
        least = answer.headers.get("oci-chunk-min-length", "").strip()
        self._least_chunk = int(least) if least.isdecimal() and len(least) < 12 else 0
        self._held = self._reached = 0
        self._unsure = False
        self._record()

    def _forget(self) -> None:
        """The session is worth nothing any more: the next attempt starts at byte 0."""
        self._session = None
        self._held = self._reached = 0
        self._unsure = self._inherited = False
        if self._journal is not None:
            self._journal.clear()

    def _moved(self, answer: Answer) -> None:
        """Each answer may name a new location, with the session's state in its query."""
        if location := answer.headers.get("location"):
            self._session = urls.follow(answer.url, location, insecure=self._transport.insecure)

    def _ask(self) -> None:
        """Where the session stands (spec, "Pushing a blob in chunks": GET of the location answers 204 with Range)."""
        assert self._session is not None
        try:
            answer = self._send("GET", self._session, "resume the upload of")
        except Fault:
            self._asked_in_vain += 1
            if self._asked_in_vain > 1:
                self._forget()  # it may be this session that hangs
            raise
        except LayerkitError:
            if not self._inherited:
                raise
            self._forget()  # a signed address that has expired, on a host that has gone
            return
        self._asked_in_vain = 0
        if not answer.ok:
            # 404: lost (distribution 2.8, after every break inside a PATCH). Others: registries that cannot resume.
            self._forget()
            return
        stands = parse_range(answer.headers.get("range"))
        if stands is None:
            stands = self._held
        if stands == 1 and self._held != 1:
            # "0-0" is said of an empty session too: only our own count can tell, and it does not.
            stands = self._held if self._held == 0 == self._reached else -1
        if not 0 <= stands <= self._reached:
            if self._inherited:
                self._cancel()
            self._forget()
            return
        self._moved(answer)
        self._hold(stands)
        self._unsure = False

    def _hold(self, count: int) -> None:
        self._held = count
        self._reached = max(self._reached, count)
        self._best = max(self._best, count)
        self._record()

    def _cancel(self) -> None:
        """Close the session (distribution: DELETE of the location), as far as that is possible."""
        if self._session is not None:
            with contextlib.suppress(LayerkitError):
                self._send("DELETE", self._session, "cancel the upload of")
            self._forget()

    # ---------------------------------------------------------------------------------------------------- sending

    def _patch(self, way: Way) -> None:
        assert self._session is not None
        start = self._held
        end = self._size if way.kind == "stream" else min(self._size, start + max(way.chunk, self._least_chunk))
        headers = {"Content-Type": "application/octet-stream"}
        # A whole stream goes without, as Docker sends it: some registries take Content-Range for a request to chunk.
        if way.kind == "chunked" or start:
            headers["Content-Range"] = f"{start}-{end - 1}"
        try:
            # A registry may flush what it got to its storage before it answers.
            answer = self._send(
                "PATCH",
                self._session,
                "upload",
                headers,
                self._body(start, end),
                patience=5 * self._transport.limits.idle,
            )
        except Fault:
            self._unsure = True
            raise
        if answer.ok:
            self._moved(answer)
            stands = parse_range(answer.headers.get("range"))
            if stands is not None and stands != end:
                # Never commit: bytes are missing, or were appended twice (distribution 2.8 ignores Content-Range).
                if way == default_way(self._host, self._size) and way.kind == "chunked":
                    self._cancel()
                    raise self._learn(way, Way())
                self._odd_ranges += 1
                if self._odd_ranges > 1:
                    # Or its Range cannot be believed: Amazon ECR's stays at the first chunk
                    # (https://github.com/aws/containers-roadmap/issues/2831), zot's was too small
                    # (https://github.com/regclient/regclient/issues/961). One PUT needs none.
                    self._cancel()
                    raise self._learn(way, Way("monolithic"))
                self._forget()
                raise Fault(f"{self._what('upload')}: {end} bytes were sent, the registry holds {stands}")
            self._hold(end)
            return
        stands = parse_range(answer.headers.get("range"))
        if answer.status == 416 and stands is not None and stands != start and stands > 1:
            if stands > self._reached:
                self._forget()
                raise Fault(f"{self._what('upload')}: HTTP 416, the registry holds {stands} bytes that we did not send")
            self._moved(answer)
            self._hold(stands)
            raise Fault(f"{self._what('upload')}: HTTP 416, the registry holds {stands} bytes", status=416)
        self._refused(answer, way, end - start, start)

    def _refused(self, answer: Answer, way: Way, size: int, start: int) -> None:
        """The registry does not want this PATCH. Raises what follows from it."""
        what = self._what("upload")
        status = answer.status
        if status == 404:
            self._forget()
            raise Fault(f"{what}: HTTP 404, the upload session is lost", status=404)
        if way == default_way(self._host, self._size) and way.kind == "chunked" and status in (400, 405, 409, 411, 501):
            if "DENIED" in answer.codes:
                raise error_for(answer, what)
            # Nobody but us wants chunks here. One stream is what Docker sends, and what every registry must know.
            self._cancel()
            raise self._learn(way, Way())
        if start and status in (400, 409, 416):
            # It began well: this is about the place, not the way.
            self._forget()
            raise Fault(f"{what}: HTTP {status}: {answer.text}", status=status)
        # What the refused PATCH left behind in the session is not known: a new one for the new way.
        if status == 413:
            chunk = smaller(status, size)
            if not chunk or chunk < self._least_chunk:
                raise error_for(answer, f"{what}, {size} bytes at once")
            self._unsure = True
            raise self._learn(way, Way("chunked", chunk))
        if status in (400, 405, 411, 415, 416, 501) and "DENIED" not in answer.codes:
            self._cancel()
            chunk = smaller(status, size)
            if chunk and chunk >= self._least_chunk:
                raise self._learn(way, Way("chunked", chunk))
            self._refused_chunks = True
            raise self._learn(way, Way("monolithic"))
        raise error_for(answer, what)

    def _commit(self) -> None:
        """``PUT LOCATION?digest=DIGEST`` with no body."""
        assert self._session is not None
        digest = self._digest = self._content.digest()
        if self._content.cancelled():
            raise UploadDropped(self.sent)  # all was sent before it was known to be there
        try:
            answer = self._send(
                "PUT", urls.append(self._session, digest=str(digest)), "commit", patience=self._transport.limits.commit
            )
        except Fault:
            self._unsure = self._may_be_done = True
            raise
        self._finish(answer, digest)

    def _send_whole(self, way: Way) -> None:
        """``PUT LOCATION?digest=DIGEST`` with everything (spec, "POST then PUT")."""
        digest = self._digest = self._content.digest()
        if self._content.cancelled():
            raise UploadDropped(self.sent)
        self._forget()
        self._begin()
        assert self._session is not None
        headers = {"Content-Type": "application/octet-stream"}
        url = urls.append(self._session, digest=str(digest))
        try:
            answer = self._send(
                "PUT", url, "upload", headers, self._body(0, self._size), patience=self._transport.limits.commit
            )
        except Fault:
            self._may_be_done = True
            raise
        chunk = smaller(answer.status, self._size)
        if chunk and not self._refused_chunks:
            self._cancel()
            raise self._learn(way, Way("chunked", chunk))
        self._finish(answer, digest)

    def _finish(self, answer: Answer, digest: Digest) -> None:
        what = self._what("commit")
        if answer.ok:
            self._forget()
            named = answer.digest
            if named is not None and named.algorithm == digest.algorithm and named != digest:
                raise IntegrityError(f"{what}: the registry stored it as {named.short}")
            return
        if answer.status == 404:
            # A commit that was sent twice finds its session gone: the blob is there then.
            if self._may_be_done and self._exists(digest, self._size):
                self._forget()
                return
            self._forget()
            raise Fault(f"{what}: HTTP 404, the upload session is lost", status=404)
        if answer.status in (400, 416, 422):
            self._mismatch(answer)
        raise error_for(answer, what)

    def _mismatch(self, answer: Answer) -> None:
        """The registry got other bytes than we hashed: the file changed (digest() says so), or they were hurt."""
        self._content.digest()
        self._mismatches += not self._inherited  # what another run sent does not count
        self._cancel()
        self._may_be_done = False
        if self._mismatches > 1 and answer.codes and not answer.codes & {"DIGEST_INVALID", "SIZE_INVALID"}:
            raise error_for(answer, self._what("commit"))
        if self._mismatches > 1:
            said = f": {answer.text}" if answer.text else ""
            raise IntegrityError(
                f"{self._what('commit')}: HTTP {answer.status}{said}; the same after all was sent again",
                hint="something between here and the registry changes bytes: a proxy, memory, the registry's storage",
            )
        raise _Again

    # ---------------------------------------------------------------------------------------------------- small things

    def _body(self, start: int, end: int) -> Body:
        return Body(lambda: self._read(start, end), end - start)

    def _read(self, start: int, end: int) -> Iterator[Chunk]:
        position = start
        self._progress(position)
        with contextlib.closing(self._reader.read(start, end)) as pieces:
            for piece in pieces:
                if self._content.cancelled():
                    raise UploadDropped(self.sent)
                if self._transport.stopped:
                    raise TransientError(f"{self._what('upload')}: stopped")
                yield piece
                position += len(piece)
                self.sent += len(piece)
                self._reached = max(self._reached, position)
                self._progress(position)

    def _send(
        self,
        method: str,
        url: str,
        verb: str,
        headers: dict[str, str] | None = None,
        body: Body | None = None,
        *,
        patience: float | None = None,
    ) -> Answer:
        return self._transport.send(
            method,
            url,
            host=self._host,
            what=self._what(verb),
            scopes=self._scopes,
            headers=headers,
            body=body,
            patience=patience,
        )

    def _what(self, verb: str) -> str:
        named = f"blob {self._digest.short}" if self._digest else "a blob"
        return f"{verb} {named} ({self._size} bytes) to {self._name}"
