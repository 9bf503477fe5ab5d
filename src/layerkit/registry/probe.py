"""What a registry lets us do, tried step by step: for ``layerkit doctor``. Leaves nothing behind."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from ..errors import LayerkitError, RefusedError
from ..oci import Manifest
from . import urls
from .answers import Answer, error_for, parse_range
from .repository import Repository
from .ways import layer_limit

__all__ = ["Probe"]

_PIECES = (b"layerkit ", b"doctor")


class Probe:
    """Questions to one repository. Each raises the LayerkitError that a build would end with."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._transport = repository._transport
        self._session = ""

    def reach(self) -> timedelta | None:
        """Connect, TLS included, without a login: how far our clock is ahead of the registry's, where it says its own.

        Raises:
            RefusedError: what answers is no registry.
        """
        what = f"reach {self._repository.host}"
        answer = self._transport.plain("GET", f"{self._repository._root}/v2/", what)
        if answer.status not in (200, 401, 403):
            raise RefusedError(f"{what}: HTTP {answer.status} where a registry says 200 or 401", hint="is it one?")
        try:
            return datetime.now(UTC) - parsedate_to_datetime(answer.headers.get("date", "")).astimezone(UTC)
        except (TypeError, ValueError, OverflowError):
            return None

    def pull(self) -> tuple[str, ...]:
        """Log in for reading, and read the tags."""
        return self._repository.tags()

    def begin(self) -> None:
        """Log in for pushing, and open an upload."""
        what = f"open an upload in {self._repository.name}"
        answer = self._send("POST", urls.uploads(self._repository._root, self._repository.repository), what)
        location = answer.headers.get("location")
        if not answer.ok or not location:
            raise error_for(answer, what)
        self._follow(answer)

    def chunks(self) -> tuple[bool, bool]:
        """(a blob may come in several PATCHes, a session says where it stands), in the upload that ``begin`` opened."""
        sent = 0
        for piece in _PIECES:
            headers = {"Content-Type": "application/octet-stream", "Content-Range": f"{sent}-{sent + len(piece) - 1}"}
            answer = self._send("PATCH", self._session, "send a chunk", headers, piece)
            if not answer.ok:
                return False, False
            self._follow(answer)
            sent += len(piece)
        answer = self._send("GET", self._session, "ask where the upload stands")
        return True, answer.ok and parse_range(answer.headers.get("range")) == sent

    def end(self) -> None:
        """Close the upload."""
        if self._session:
            with contextlib.suppress(LayerkitError):
                self._send("DELETE", self._session, "close the upload")
            self._session = ""

    def mounts(self, tags: tuple[str, ...]) -> bool | None:
        """Whether a blob can be mounted; None where there is no image to try it with."""
        for tag in tags[:5]:
            manifest = self._repository.manifest(tag)
            if isinstance(manifest, Manifest):
                return self._repository.mount(manifest.config.digest, self._repository.repository)
        return None

    @property
    def layer_limit(self) -> int | None:
        """Bytes of the largest layer that it takes, where that is documented."""
        return layer_limit(self._repository.host)

    def _follow(self, answer: Answer) -> None:
        if location := answer.headers.get("location"):
            self._session = urls.follow(answer.url, location, insecure=self._transport.insecure)

    def _send(
        self, method: str, url: str, what: str, headers: dict[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        return self._repository._request(method, url, what, self._repository._push, headers, body)
