"""What a registry answers, and which of layerkit's errors that is.

Text of a registry is not ours: it is cut, its control characters are escaped, and what could be a secret (queries
of signed URLs, credentials that a proxy echoes) is left out.
"""

from __future__ import annotations

import email.utils
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from ..errors import AuthenticationError, LayerkitError, RefusedError, TransientError, printable
from ..oci import Digest

__all__ = [
    "MAX_ERROR_BODY",
    "Answer",
    "Fault",
    "MissingBlobsError",
    "Problem",
    "error_for",
    "hide",
    "parse_range",
    "retry_after",
    "safe_text",
]

MAX_ERROR_BODY = 64 * 1024  # bytes

# 522 is Cloudflare's "connection timed out". 501 and 505 say that the request itself is not known: never again.
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504, 522})


class Fault(TransientError):
    """One attempt failed in a way that another may not; what is raised in the end when none succeeds.

    Attributes:
        status: the HTTP status, or 0 where there was no answer.
    """

    def __init__(self, message: str, *, status: int = 0, retry_after: float | None = None, hint: str = "") -> None:
        super().__init__(message, hint=hint, retry_after=retry_after)
        self.status = status


class MissingBlobsError(RefusedError):
    """A manifest was refused because the registry lacks what it names.

    Attributes:
        digests: what is missing, where the registry says it; else empty.
    """

    def __init__(self, message: str, *, digests: tuple[Digest, ...] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint or "upload the blobs again, then the manifest")
        self.digests = digests


@dataclass(frozen=True, slots=True)
class Problem:
    """One of the errors in a registry's answer (spec, "Error Codes")."""

    code: str
    message: str
    detail: Any = field(default=None, hash=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer: status, headers (names in lower case), body, and the URL that gave it after redirects.

    ``hidden`` are our secrets, which an answer may echo and ``text`` does not show.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    url: str = field(repr=False)
    method: str = "GET"
    hidden: frozenset[str] = field(default=frozenset(), repr=False)

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300

    @property
    def digest(self) -> Digest | None:
        """``Docker-Content-Digest``, where it is a digest."""
        try:
            return Digest.parse(self.headers.get("docker-content-digest", "").strip())
        except LayerkitError:
            return None

    @property
    def length(self) -> int | None:
        """``Content-Length``, where it is a number."""
        text = self.headers.get("content-length", "").strip()
        return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None

    @property
    def media_type(self) -> str:
        """``Content-Type`` without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def problems(self) -> tuple[Problem, ...]:
        """The errors of a JSON body ``{"errors": [{"code", "message", "detail"}]}``; none where it is anything else."""
        if self.ok:
            return ()
        try:
            document = json.loads(self.body[:MAX_ERROR_BODY])
            items = document["errors"]
            found = [item for item in items if isinstance(item, dict)]
        except (ValueError, RecursionError, TypeError, KeyError, LookupError):
            return ()
        return tuple(
            Problem(str(item.get("code") or ""), str(item.get("message") or ""), item.get("detail"))
            for item in found[:20]
        )

    @property
    def codes(self) -> frozenset[str]:
        return frozenset(problem.code.upper() for problem in self.problems)

    @property
    def text(self) -> str:
        """What the answer says, as one short line fit for a terminal."""
        problems = self.problems
        if problems:
            parts = []
            for problem in problems[:3]:
                detail = problem.detail if isinstance(problem.detail, str) else ""
                if isinstance(problem.detail, dict):
                    detail = str(problem.detail.get("message") or problem.detail.get("reason") or "")
                said = ": ".join(part for part in (problem.message, detail) if part)
                parts.append(f"{problem.code} {said}".strip())
            return safe_text("; ".join(parts), hidden=self.hidden)
        body = self.body[:MAX_ERROR_BODY].decode("utf-8", "replace")
        title = re.search(r"<title[^>]*>(.*?)</title", body, re.IGNORECASE | re.DOTALL)
        if title:
            return safe_text(title[1], hidden=self.hidden)
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return "" if body.lstrip().startswith("<") else safe_text(body, hidden=self.hidden)
        if isinstance(document, dict):
            values = [document.get(key) for key in ("message", "error_description", "details", "error")]
            said = next((value for value in values if isinstance(value, str) and value), "")
            return safe_text(said, hidden=self.hidden)
        return ""

    @property
    def named_digests(self) -> tuple[Digest, ...]:
        """Digests that the errors speak of, in their order."""
        said = " ".join(f"{problem.message} {json.dumps(problem.detail)}" for problem in self.problems)
        return tuple(Digest.parse(text) for text in dict.fromkeys(re.findall(r"sha256:[0-9a-f]{64}\b", said)))


def hide(text: str, hidden: Collection[str]) -> str:
    """*text* without the secrets *hidden*, however they are written in it; the longest first."""
    spellings = {form for secret in hidden for form in (secret, quote(secret, safe=""), json.dumps(secret)[1:-1])}
    for form in sorted(spellings, key=len, reverse=True):
        text = text.replace(form, "…")
    return text


def safe_text(text: str, limit: int = 300, *, hidden: Collection[str] = ()) -> str:
    """*text* as one line for people: no control characters, no queries, no credentials, nothing of *hidden*."""
    text = hide(" ".join(text[:MAX_ERROR_BODY].split()), hidden)
    text = re.sub(r"(https?://[^\s?\"'<>]*)\?[^\s\"'<>]*", r"\1?…", text)
    text = re.sub(r"(https?://)[^\s/@\"'<>]*@", r"\1…@", text)
    text = re.sub(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{8,}", r"\1 …", text)
    text = re.sub(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9._-]+", "…", text)
    return printable(text, limit)


def parse_range(text: str | None) -> int | None:
    """How many bytes a session's ``Range: 0-N`` says have arrived: N + 1. None where it says nothing usable.

    ``0-0`` is ambiguous, as registries answer it for an empty session too (spec, "Pushing a blob in chunks", has no
    form for nothing): the caller must know better.
    """
    match = re.fullmatch(r"(?:bytes=)?0-([0-9]{1,18})", (text or "").strip())
    return int(match[1]) + 1 if match else None


def retry_after(text: str | None, now: datetime | None = None) -> float | None:
    """Seconds that a ``Retry-After`` header asks to wait: a number or a date (RFC 9110, section 10.2.3)."""
    text = (text or "").strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{0,9})?", text):
        return float(text)
    try:
        when = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max((when - (now or datetime.now(UTC))).total_seconds(), 0.0)


def error_for(answer: Answer, what: str, *, hint: str = "") -> LayerkitError:
    """The error that *answer* is. *what* names operation, host/repository and short digest.

    Returns:
        AuthenticationError for 401, 403 and 407, Fault for what may pass, RefusedError for everything else.
    """
    said = f": {answer.text}" if answer.text else ""
    message = f"{what}: HTTP {answer.status}{said}"
    status = answer.status
    if status in (401, 407):
        return AuthenticationError(message, hint=hint or "log in: docker login HOST")
    if status == 403:
        return AuthenticationError(message, hint=hint or "these credentials do not cover it: ask for push rights")
    if status in TRANSIENT:
        return Fault(message, status=status, retry_after=retry_after(answer.headers.get("retry-after")), hint=hint)
    if status == 413:
        return RefusedError(
            message,
            hint=hint
            or "a proxy or the registry limits the size of a request: raise its limit (nginx: client_max_body_size)",
        )
    if status == 404 and "NAME_UNKNOWN" in answer.codes:
        return RefusedError(message, hint=hint or "create the repository first, or check its name")
    return RefusedError(message, hint=hint or "layerkit doctor HOST/NAME says what the registry can")
