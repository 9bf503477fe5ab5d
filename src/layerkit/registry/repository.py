"""A repository of a registry: what is there, read with proof, and written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Collection, Generator, Iterator, Mapping
from pathlib import Path

from ..errors import AuthenticationError, IntegrityError, LayerkitError, RefusedError
from ..oci import MAX_MANIFEST_SIZE, MEDIA, Descriptor, Digest, Index, Manifest, Reference, parse_manifest
from . import urls
from .answers import Answer, Fault, MissingBlobsError, error_for
from .auth import Scopes, scope
from .content import Content, Journal
from .credentials import Credentials
from .transport import Limits, Transport
from .upload import Upload
from .ways import Memory, Way, Ways, layer_limit

__all__ = ["Client", "Repository"]

_ACCEPT = ", ".join((*MEDIA.INDEXES, *MEDIA.MANIFESTS))
_MAX_PAGES = 10_000
_SMALL = 64 * 1024  # bytes up to which a blob is proven by reading it whole
_CHUNK = 1024 * 1024
_MISSING = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"})


class Client:
    """Access to registries: connections, logins, and what was learned of each host. One for each run; thread-safe.

    Args:
        credentials: where logins come from; none is anonymous.
        insecure: hosts (``name[:port]``) without TLS. Loopback hosts are anyway.
        proxies: scheme -> URL, and ``no`` for the hosts to leave out.
        ca_bundle: file or folder of trusted authorities instead of the machine's.
        retries: further attempts after a passing failure.
        limits: of time, in seconds.
        certificates: Docker's ``certs.d``.
        token_hosts: hosts besides a registry's own domain that may see its login.
        sleep: how to wait, for tests.
        layer_limit: most bytes of one layer, instead of what a host documents.
        ways: keeps how each host wants its blobs, for later runs.
    """

    def __init__(
        self,
        *,
        credentials: Credentials | None = None,
        insecure: Collection[str] = (),
        proxies: Mapping[str, str] | None = None,
        ca_bundle: str | None = None,
        retries: int = 5,
        limits: Limits | None = None,
        certificates: Path | str = "/etc/docker/certs.d",
        token_hosts: Collection[str] = (),
        sleep: Callable[[float], object] | None = None,
        layer_limit: int | None = None,
        ways: Ways | None = None,
    ) -> None:
        self.memory = Memory(ways)
        self.layer_limit = layer_limit
        self.transport = Transport(
            credentials or Credentials(),
            insecure=insecure,
            proxies=proxies,
            ca_bundle=ca_bundle,
            certificates=certificates,
            retries=retries,
            limits=limits,
            sleep=sleep,
            token_hosts=token_hosts,
        )

    def repository(self, reference: Reference) -> Repository:
        """The repository that *reference* is in; its tag and digest do not matter."""
        return Repository(self, reference)

    def close(self) -> None:
        """Cut all connections. What other threads are doing with them ends with a TransientError."""
        self.transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Repository:
    """``host/repository``. Every method may raise AuthenticationError, RefusedError and TransientError."""

    def __init__(self, client: Client, reference: Reference) -> None:
        self.host = reference.host
        self.repository = reference.repository
        self.name = reference.name
        self._memory = client.memory
        self._layer_limit = client.layer_limit
        self._transport = client.transport
        self._root = self._transport.root(self.host)
        self._pull = scope(self.repository, "pull")
        self._push = scope(self.repository, "pull", "push")

    @property
    def layer_limit(self) -> int | None:
        """Most bytes of one layer: what the client was told, else what the host documents; None where unknown."""
        return self._layer_limit or layer_limit(self.host)

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

    def put_manifest(self, manifest: Manifest | Index, reference: str | None = None) -> Digest:
        """Push *manifest* under the tag *reference*, or by its digest alone.

        Returns:
            its digest, which the registry has confirmed where it names one.

        Raises:
            MissingBlobsError: the registry lacks blobs or manifests that it names.
            RefusedError: over 4 MiB; or the tag is immutable and is another image's.
            IntegrityError: the registry stored something else.
        """
        digest = manifest.digest
        what = f"push the manifest {digest.short} to {self._full(reference or digest)}"
        if len(manifest.raw) > MAX_MANIFEST_SIZE:
            raise RefusedError(f"{what}: it is {len(manifest.raw)} bytes, registries take {MAX_MANIFEST_SIZE}")
        url = self._manifest_url(reference or digest)
        answer = self._request(
            "PUT", url, what, self._push, {"Content-Type": manifest.media_type}, manifest.raw, patience=True
        )
        if answer.ok:
            if answer.digest is not None and answer.digest.algorithm == "sha256" and answer.digest != digest:
                raise IntegrityError(f"{what}: the registry stored it as {answer.digest.short}")
            return digest
        if answer.codes & _MISSING and answer.status in (400, 404, 422):
            missing = tuple(found for found in answer.named_digests if found != digest)
            raise MissingBlobsError(error_for(answer, what).message, digests=missing)
        if reference is not None and answer.status in (400, 403, 405, 409, 412, 422):
            self._check_immutable(answer, reference, digest, what)
            if answer.status != 403 and (found := self.resolve(reference)) is not None and found.digest == digest:
                return digest
        raise error_for(answer, what)

    def _check_immutable(self, answer: Answer, tag: str, digest: Digest, what: str) -> None:
        # ECR "…because the tag is immutable", Harbor "configured as immutable", Artifact Registry "tag immutability".
        said = f"{answer.text} {' '.join(answer.codes)}"
        if not re.search(r"immutab|already exist|cannot be overwritten", said, re.IGNORECASE) and answer.status != 409:
            return
        found = self.resolve(tag)
        if found is not None and found.digest != digest:
            raise RefusedError(
                f"{what}: HTTP {answer.status}: the tag is immutable, and names {found.digest.short}",
                hint="push under another tag",
            )

    def delete_manifest(self, digest: Digest) -> None:
        """Delete the manifest *digest* and its tags; it is no error where there is none."""
        what = f"delete the manifest {digest.short} of {self.name}"
        answer = self._delete(digest, what)
        if not answer.ok and answer.status != 404:
            raise error_for(answer, what, hint=_no_deleting(answer))

    def delete_tag(self, tag: str) -> bool:
        """Delete *tag* alone, not what it names (distribution-spec, "Deleting tags"); no error where there is none.

        Returns:
            False where the registry cannot do that: it answers 400 or 405, as distribution before 3.0 does (also where
            it allows no deleting at all).
        """
        what = f"delete the tag {self._full(tag)}"
        answer = self._delete(tag, what)
        if answer.status in (400, 405):
            return False
        if not answer.ok and answer.status != 404:
            raise error_for(answer, what, hint=_no_deleting(answer))
        return True

    def _delete(self, reference: str | Digest, what: str) -> Answer:
        scopes = self._push | scope(self.repository, "delete")
        return self._request("DELETE", self._manifest_url(reference), what, scopes)

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

    # ---------------------------------------------------------------------------------------------------- reading blobs

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
        headers = {"Range": f"bytes={start}-"} if start else {}
        url = urls.blob(self._root, self.repository, descriptor.digest)
        with self._transport.stream("GET", url, host=self.host, what=what, scopes=self._pull, headers=headers) as (
            response,
            final,
        ):
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
        if not self.exists(descriptor.digest, descriptor.size):
            return False
        if descriptor.size <= _SMALL:
            found = self._bytes_at(descriptor, 0, descriptor.size)
            return found is not None and _hash(found, descriptor.digest.algorithm) == descriptor.digest
        return all(self._bytes_at(descriptor, at, at + 1) is not None for at in (0, descriptor.size - 1))

    def _bytes_at(self, descriptor: Descriptor, start: int, end: int) -> bytes | None:
        """The blob's bytes from *start* to *end*, or None where the registry has them not."""
        if descriptor.size == 0:
            return b""
        what = f"read bytes {start}-{end - 1} of {self._of(descriptor.digest)}"
        url = urls.blob(self._root, self.repository, descriptor.digest)
        headers = {"Range": f"bytes={start}-{end - 1}"}
        breaks = 0

        def attempt() -> bytes | None:
            nonlocal breaks
            with self._transport.stream("GET", url, host=self.host, what=what, scopes=self._pull, headers=headers) as (
                response,
                final,
            ):
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
        url = urls.blob(self._root, self.repository, descriptor.digest)
        headers = {"Range": f"bytes={start}-{end - 1}"}

        def attempt() -> bytes | None:
            with self._transport.stream("GET", url, host=self.host, what=what, scopes=self._pull, headers=headers) as (
                response,
                final,
            ):
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

    # ---------------------------------------------------------------------------------------------------- writing blobs

    def mount(self, digest: Digest, source_repository: str) -> bool:
        """Take the blob over from another repository of the same registry; False where it must be uploaded."""
        source = source_repository.removeprefix(f"{self.host}/")
        what = f"mount {digest.short} from {source} into {self.name}"
        url = urls.mount(self._root, self.repository, digest, source)
        try:
            answer = self._request("POST", url, what, self._push | scope(source, "pull"))
        except AuthenticationError:
            return False  # the login covers one of the two repositories only: an upload will tell
        if answer.status == 201:
            return True
        if answer.status == 202 and (location := answer.headers.get("location")):
            # Not mounted, and an upload session was opened instead.
            with contextlib.suppress(LayerkitError):
                session = urls.follow(answer.url, location, insecure=self._transport.insecure)
                self._send("DELETE", session, what, self._push)
        return False

    def upload(
        self,
        content: Content,
        *,
        progress: Callable[[int], None] = lambda sent: None,
        chunk: int | None = None,
        journal: Journal | None = None,
    ) -> int:
        """Send *content* as a blob, while its digest may still be unknown.

        Args:
            progress: called with the number of the blob's bytes sent so far; it falls back when some are sent again.
            chunk: bytes in one PATCH, instead of what suits the host and the size.
            journal: where the upload of an earlier run stands, and where this one's is kept. What a run that ended
                has sent is then not sent again, as far as the registry still holds it.

        Returns:
            bytes that were sent, repeated ones included.

        Raises:
            UploadDropped: ``content.cancelled()`` was True.
            IntegrityError: the registry got other bytes, twice.
            LayerkitError: what ``content.digest()`` or ``content.open()`` raised.
        """
        return Upload(
            self._transport,
            self._memory,
            content,
            host=self.host,
            name=self.name,
            uploads_url=urls.uploads(self._root, self.repository),
            scopes=self._push,
            exists=self._exists,
            progress=progress,
            way=Way("chunked", chunk) if chunk else None,
            journal=journal,
            limit=self.layer_limit,
        ).run()

    def put_blob(self, data: bytes, *, anew: bool = False) -> Digest:
        """Send the small blob *data*, unless it is there by HEAD; with *anew* always. Its digest."""
        digest = Digest.of(data)
        if anew or not self.exists(digest, len(data)):
            Upload(
                self._transport,
                Memory(),  # what goes for config files says nothing of layers
                _Bytes(data, digest),
                host=self.host,
                name=self.name,
                uploads_url=urls.uploads(self._root, self.repository),
                scopes=self._push,
                exists=self._exists,
                progress=lambda sent: None,
                way=Way("monolithic"),
            ).run()
        return digest

    # ---------------------------------------------------------------------------------------------------- small things

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


class _Bytes:
    """Bytes as Content."""

    def __init__(self, data: bytes, digest: Digest) -> None:
        self.size = len(data)
        self._data = data
        self._digest = digest

    def open(self, offset: int = 0) -> Iterator[memoryview]:
        yield memoryview(self._data)[offset:]

    def digest(self) -> Digest:
        return self._digest

    def cancelled(self) -> bool:
        return False


def _hash(content: bytes, algorithm: str) -> Digest:
    return Digest(algorithm, hashlib.new(algorithm, content).hexdigest())


def _total(content_range: str) -> int | None:
    """The whole's size out of ``Content-Range: bytes 0-0/TOTAL``."""
    match = re.fullmatch(r"bytes\s+[0-9]+-[0-9]+/([0-9]{1,18})", content_range.strip())
    return int(match[1]) if match else None


def _no_deleting(answer: Answer) -> str:
    if answer.status in (400, 405):
        return (
            "the registry does not allow deleting: allow it there (docker-registry:"
            " REGISTRY_STORAGE_DELETE_ENABLED=true), or use clean-up rules of its own"
        )
    return "these credentials do not cover it: ask for the right to delete" if answer.status == 403 else ""


def _tags_of(answer: Answer, what: str) -> list[str]:
    try:
        found = json.loads(answer.body).get("tags") or []
        if not isinstance(found, list):
            raise TypeError
    except (ValueError, RecursionError, TypeError, AttributeError):
        raise IntegrityError(f"{what}: the answer is no list of tags") from None
    return [tag for tag in found if isinstance(tag, str) and re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", tag)]
