"""A repository of a registry: what is there, read with proof, and written."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator

from ..errors import AuthenticationError, IntegrityError, LayerkitError, RefusedError
from ..oci import MAX_MANIFEST_SIZE, Digest, Index, Manifest, Reference
from . import urls
from .answers import Answer, MissingBlobsError, error_for
from .auth import scope
from .content import Content, Journal
from .reading import Reading
from .transport import Transport
from .upload import Upload
from .ways import Memory, Way, layer_limit

__all__ = ["Repository"]

_MISSING = frozenset({"MANIFEST_BLOB_UNKNOWN", "BLOB_UNKNOWN", "MANIFEST_UNKNOWN"})


class Repository(Reading):
    """``host/repository``. Every method may raise AuthenticationError, RefusedError and TransientError."""

    def __init__(self, transport: Transport, reference: Reference, memory: Memory, most: int | None = None) -> None:
        super().__init__(transport, reference)
        self._memory = memory
        self._layer_limit = most
        self._push = scope(self.repository, "pull", "push")

    @property
    def layer_limit(self) -> int | None:
        """Most bytes of one layer: what the client was told, else what the host documents; None where unknown."""
        return self._layer_limit or layer_limit(self.host)

    # ---------------------------------------------------------------------------------------------------- manifests

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
            exists=self._stored,
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
                exists=self._stored,
                progress=lambda sent: None,
                way=Way("monolithic"),
            ).run()
        return digest


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


def _no_deleting(answer: Answer) -> str:
    if answer.status in (400, 405):
        return (
            "the registry does not allow deleting: allow it there (docker-registry:"
            " REGISTRY_STORAGE_DELETE_ENABLED=true), or use clean-up rules of its own"
        )
    return "these credentials do not cover it: ask for the right to delete" if answer.status == 403 else ""
