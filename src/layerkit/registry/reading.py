"""What is in a repository of a registry: manifests, tags and blobs, read with proof."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Generator, Iterator

from ..errors import IntegrityError, RefusedError
from ..oci import MAX_MANIFEST_SIZE, MEDIA, Descriptor, Digest, Index, Manifest, Reference, parse_manifest
from . import urls
from .answers import Answer, Fault, MissingBlobsError, error_for
from .auth import Scopes, scope
from .transport import Streamed, Transport

__all__ = ["Reading"]

_ACCEPT = ", ".join((*MEDIA.INDEXES, *MEDIA.MANIFESTS))
_MAX_PAGES = 10_000
_SMALL = 64 * 1024  # bytes up to which a blob is proven by reading it whole
_CHUNK = 1024 * 1024


class Reading:
    """The half of ``host/repository`` that changes nothing there."""

    def __init__(self, transport: Transport, reference: Reference) -> None:
        self.host = reference.host
        self.repository = reference.repository
        self.name = reference.name
        self._transport = transport
        self._root = transport.root(self.host)
        self._pull = scope(self.repository, "pull")

    # ---------------------------------------------------------------------------------------------------- manifests

    def resolve(self, reference: str | Digest) -> Descriptor | None:
        """The descriptor of what *reference* (a tag or a digest) names, or None where it names nothing."""
        url, what = self._manifest_url(reference), f"resolve {self._full(reference)}"
        # Without Accept, registries answer for another form of the image, or 404 (spec, "Pulling manifests").
        answer = self._request("HEAD", url, what, self._pull, {"Accept": _ACCEPT})
        if answer.status == 404:
            return None
        digest = reference if isinstance(reference, Digest) else answer.digest
        known = answer.media_type in (*MEDIA.INDEXES, *MEDIA.MANIFESTS)
        if answer.ok and known and digest is not None and answer.length:
            return Descriptor(answer.media_type, digest, answer.length)
        # A HEAD has no body that could say why not; and some registries leave the digest out.
        found = self.manifest(reference)
        if found is None:
            return None
        return Descriptor(found.media_type, found.digest, len(found.raw))

    def manifest(self, reference: str | Digest) -> Manifest | Index | None:
        """The manifest or index that *reference* names, verified; None where there is none.

        Raises:
            IntegrityError: it is not what its digest says, or no manifest.
        """
        what = f"read the manifest {self._full(reference)}"
        answer = self._request("GET", self._manifest_url(reference), what, self._pull, {"Accept": _ACCEPT})
        if answer.status == 404:
            return None
        if not answer.ok:
            raise error_for(answer, what)
        if len(answer.body) > MAX_MANIFEST_SIZE:
            raise RefusedError(f"{what}: it is over {MAX_MANIFEST_SIZE} bytes")
        expected = reference if isinstance(reference, Digest) else answer.digest
        if expected is not None and _hash(answer.body, expected.algorithm) != expected:
            raise IntegrityError(
                f"{what}: the content is not {expected.short}", hint="the registry's storage is damaged"
            )
        try:
            return parse_manifest(answer.body, answer.media_type)
        except IntegrityError as error:
            raise IntegrityError(f"{what}: {error.message}") from None

    def tags(self) -> tuple[str, ...]:
        """All tags, in the registry's order; none where the repository does not exist.

        Raises:
            IntegrityError: the list has no end. Who deletes what no tag uses must not believe half of one.
        """
        what = f"list the tags of {self.name}"
        url: str | None = urls.tags(self._root, self.repository, 1000)
        found: dict[str, None] = {}
        seen: set[str] = set()
        while url is not None:
            if url in seen or len(seen) == _MAX_PAGES:
                raise IntegrityError(f"{what}: the registry's list has no end, after {len(seen)} pages")
            seen.add(url)
            answer = self._request("GET", url, what, self._pull)
            if answer.status == 404 and len(seen) == 1:
                break
            if not answer.ok:
                raise error_for(answer, what)
            found |= dict.fromkeys(_tags_of(answer, what))
            link = urls.next_page(answer.url, answer.headers.get("link"))
            url = urls.follow(answer.url, link, insecure=self._transport.insecure) if link else None
        return tuple(found)

    # ---------------------------------------------------------------------------------------------------- blobs

    def blob(self, descriptor: Descriptor, limit: int = 8 * 1024 * 1024) -> bytes:
        """The content of *descriptor*, verified.

        Raises:
            MissingBlobsError: it is not there.
            RefusedError: it is over *limit* bytes.
            IntegrityError: its size or digest is another.
        """
        if descriptor.size > limit:
            raise RefusedError(f"read {self._of(descriptor.digest)}: it is {descriptor.size} bytes, over {limit}")
        with self.open_blob(descriptor) as chunks:
            return b"".join(chunks)

    @contextlib.contextmanager
    def open_blob(self, descriptor: Descriptor) -> Iterator[Iterator[bytes]]:
        """The content of *descriptor* in chunks of at most 1 MiB, verified while it is read.

        Only who reads to the end knows that it was right: the last chunk comes after the digest was compared.
        A broken connection is taken up where it broke.
        """
        chunks = self._verified(descriptor)
        try:
            yield chunks
        finally:
            chunks.close()

    def _verified(self, descriptor: Descriptor) -> Generator[bytes, None, None]:
        what = f"read {self._of(descriptor.digest)}"
        state = hashlib.new(descriptor.digest.algorithm)
        ready: list[bytes] = []
        position = 0
        for chunk in self._resumed(descriptor, what):
            position += len(chunk)
            if position > descriptor.size:
                raise IntegrityError(f"{what}: it is longer than its {descriptor.size} bytes")
            state.update(chunk)
            if ready:
                yield ready.pop()
            ready.append(chunk)
        if position != descriptor.size or state.hexdigest() != descriptor.digest.hex:
            raise IntegrityError(
                f"{what}: {position} bytes came that are not it", hint="the registry's storage is damaged"
            )
        yield from ready

    def _resumed(self, descriptor: Descriptor, what: str) -> Iterator[bytes]:
        """The bytes as they come, through as many connections as it takes."""
        position = 0
        stream: Iterator[bytes] | None = None
        empty: list[Fault] = []

        def reached() -> int:
            return position

        def advance() -> bytes | None:
            nonlocal stream
            try:
                stream = stream or self._from(descriptor, position, what, empty)
                return next(stream, None)
            except BaseException:
                stream = None
                raise

        while True:
            chunk = self._transport.retry(advance, advanced=reached)
            if chunk is None:
                return
            yield chunk
            position += len(chunk)

    def _from(self, descriptor: Descriptor, start: int, what: str, empty: list[Fault]) -> Iterator[bytes]:
        with self._get(descriptor, what, start) as (response, final):
            if response.status not in (200, 206):
                error = error_for(self._transport.whole(response, final, "GET", what), what)
                if response.status == 404 and isinstance(error, RefusedError):
                    raise MissingBlobsError(error.message, digests=(descriptor.digest,), hint=error.hint)
                raise error
            skip = start if response.status == 200 else 0
            came = start > 0
            try:
                for chunk in self._transport.chunks(response, _CHUNK, what, final):
                    came = True
                    if skip < len(chunk):
                        yield chunk[skip:]
                    skip = max(skip - len(chunk), 0)
            except Fault as error:
                # As in _bytes_at: promised twice, and not a byte of it, is not the network.
                empty += [] if came else [error]
                if len(empty) > 1:
                    hint = "the registry has lost its bytes; build again, or push the image again"
                    raise IntegrityError(f"{what}: the registry promises it and sends nothing", hint=hint) from None
                raise

    def exists(self, digest: Digest, size: int | None = None) -> bool:
        """Whether the registry says that it has the blob (with that *size* in bytes, where one is given)."""
        return self._transport.retry(lambda: self._exists(digest, size))

    def _exists(self, digest: Digest, size: int | None = None) -> bool:
        what = f"look for {self._of(digest)}"
        url = urls.blob(self._root, self.repository, digest)
        answer = self._send("HEAD", url, what, self._pull)
        if answer.status == 403:
            # A HEAD has no body that could say why; and storage that a registry redirects to may sign GETs only.
            answer = self._send("GET", url, what, self._pull, {"Range": "bytes=0-0"})
            if answer.status == 416:  # an empty blob has no first byte
                return size in (0, None)
            total = _total(answer.headers.get("content-range", "")) if answer.ok else None
            if answer.ok:
                return size is None or total is None or total == size
        if answer.status == 404:
            return False
        if not answer.ok:
            raise error_for(answer, what)
        return size is None or answer.length is None or answer.length == size

    def present(self, descriptor: Descriptor) -> bool:
        """Whether the blob is really there: a HEAD alone is believed of nobody.

        Registries answer HEAD out of a cache after garbage collection took the bytes (distribution 2.8). So its first
        and its last byte are read; a small blob is read whole, and its digest compared.
        """
        return self.exists(descriptor.digest, descriptor.size) and self._readable(descriptor)

    def _stored(self, digest: Digest, size: int) -> bool:
        """As ``present``, for an upload: its own attempts are those of the HEAD."""
        return self._exists(digest, size) and self._readable(Descriptor(MEDIA.LAYER, digest, size))

    def _readable(self, descriptor: Descriptor) -> bool:
        if descriptor.size <= _SMALL:
            found = self._bytes_at(descriptor, 0, descriptor.size)
            return found is not None and _hash(found, descriptor.digest.algorithm) == descriptor.digest
        return all(self._bytes_at(descriptor, at, at + 1) is not None for at in (0, descriptor.size - 1))

    def _bytes_at(self, descriptor: Descriptor, start: int, end: int) -> bytes | None:
        """The blob's bytes from *start* to *end*, or None where the registry has them not."""
        if descriptor.size == 0:
            return b""
        what = f"read bytes {start}-{end - 1} of {self._of(descriptor.digest)}"
        breaks = 0

        def attempt() -> bytes | None:
            nonlocal breaks
            with self._get(descriptor, what, start, end) as (response, final):
                if response.status in (401, 403):
                    raise error_for(self._transport.whole(response, final, "GET", what), what)
                if response.status not in (200, 206):
                    return None
                total = _total(response.headers.get("Content-Range", "")) if response.status == 206 else None
                length = response.headers.get("Content-Length", "")
                if total not in (None, descriptor.size):
                    return None
                if response.status == 200 and length not in ("", str(descriptor.size)):
                    return None
                try:
                    found = b""
                    # Where ranges are not heeded, all of it would come: what begins is taken for what goes on.
                    for chunk in self._transport.chunks(response, end - start, what, final):
                        found += chunk
                        if len(found) > end - start or response.status == 200:
                            break
                except Fault:
                    # Bytes that are gone look like a broken connection: promised, and the connection closed
                    # (distribution 2.8). Twice in a row is not the network.
                    breaks += 1
                    if breaks > 1:
                        return None
                    raise
                return found if len(found) == end - start else None

        return self._transport.retry(attempt)

    def blob_range(self, descriptor: Descriptor, start: int, end: int) -> bytes | None:
        """The bytes from *start* to *end* of a blob, or None where the registry gives no ranges, or has it not.

        Nothing proves them (a digest covers the whole): they are for looking, not for building upon.
        """
        end = min(end, descriptor.size)
        if start >= end:
            return b""
        what = f"read bytes {start}-{end - 1} of {self._of(descriptor.digest)}"

        def attempt() -> bytes | None:
            with self._get(descriptor, what, start, end) as (response, final):
                if response.status in (404, 416) or (response.status == 200 and start):
                    return None
                if response.status not in (200, 206):
                    raise error_for(self._transport.whole(response, final, "GET", what), what)
                found = bytearray()
                for chunk in self._transport.chunks(response, min(end - start, _CHUNK), what, final):
                    found += chunk
                    if len(found) >= end - start:
                        break
                return bytes(found[: end - start])

        return self._transport.retry(attempt)

    # ---------------------------------------------------------------------------------------------------- small things

    def _get(
        self, descriptor: Descriptor, what: str, start: int = 0, end: int | None = None
    ) -> contextlib.AbstractContextManager[Streamed]:
        """The blob's answer, to be read from *start* to *end*; registries may give all of it (200) instead (206)."""
        headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end is not None else {}
        url = urls.blob(self._root, self.repository, descriptor.digest)
        return self._transport.stream("GET", url, host=self.host, what=what, scopes=self._pull, headers=headers)

    def _manifest_url(self, reference: str | Digest) -> str:
        return urls.manifest(self._root, self.repository, reference)

    def _full(self, reference: str | Digest) -> str:
        if isinstance(reference, Digest):
            return f"{self.name}@{reference.short}"
        return f"{self.name}:{reference}"

    def _of(self, digest: Digest) -> str:
        return f"blob {digest.short} of {self.name}"

    def _request(
        self,
        method: str,
        url: str,
        what: str,
        scopes: Scopes,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        *,
        patience: bool = False,
    ) -> Answer:
        return self._transport.retry(lambda: self._send(method, url, what, scopes, headers, body, patience=patience))

    def _send(
        self,
        method: str,
        url: str,
        what: str,
        scopes: Scopes,
        headers: dict[str, str] | None = None,
        body: bytes | None = None,
        *,
        patience: bool = False,
    ) -> Answer:
        return self._transport.send(
            method,
            url,
            host=self.host,
            what=what,
            scopes=scopes,
            headers=headers,
            body=body,
            patience=self._transport.limits.commit if patience else None,
        )


def _hash(content: bytes, algorithm: str) -> Digest:
    return Digest(algorithm, hashlib.new(algorithm, content).hexdigest())


def _total(content_range: str) -> int | None:
    """The whole's size out of ``Content-Range: bytes 0-0/TOTAL``."""
    match = re.fullmatch(r"bytes\s+[0-9]+-[0-9]+/([0-9]{1,18})", content_range.strip())
    return int(match[1]) if match else None


def _tags_of(answer: Answer, what: str) -> list[str]:
    try:
        found = json.loads(answer.body).get("tags") or []
        if not isinstance(found, list):
            raise TypeError
    except (ValueError, RecursionError, TypeError, AttributeError):
        raise IntegrityError(f"{what}: the answer is no list of tags") from None
    return [tag for tag in found if isinstance(tag, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", tag)]
