"""Requests and answers over HTTP/1.1: authentication, redirects, TLS, proxies, time limits, and the one retry layer.

``send`` is one attempt: it returns an answer, or raises Fault for what may pass. ``retry`` repeats attempts; nothing
else in the package does.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import urllib3
from urllib3 import exceptions as faults

from .._version import __version__
from ..errors import AuthenticationError, LayerkitError, RefusedError, TransientError
from . import urls
from .answers import MAX_ERROR_BODY, TRANSIENT, Answer, Fault, error_for, hide
from .auth import Authorizer, Scopes, parse_challenges
from .breaks import below_http
from .connection import Connections, Limits
from .credentials import Credentials
from .pacing import Pace
from .pools import Pools

__all__ = ["Body", "Streamed", "Transport"]

T = TypeVar("T")
Chunk = bytes | bytearray | memoryview
Streamed: TypeAlias = tuple[urllib3.BaseHTTPResponse, str]  # an answer with its body not read yet, the URL that gave it

MAX_REDIRECTS = 10
MAX_ANSWER = 8 * 1024 * 1024  # bytes of a whole answer; blobs are read as a stream
_SHORTEST_SECRET = 4  # characters: shorter ones are found in every text
_TOO_MANY = frozenset({429, 503})  # the second is nginx's default for its limits
_REDIRECTS = frozenset({301, 302, 303, 307, 308})


@dataclass(frozen=True, slots=True)
class Body:
    """What a request carries: *length* bytes, and how to read them, again if need be."""

    open: Callable[[], Iterable[Chunk]]
    length: int


class Transport:
    """All connections of one run. Thread-safe.

    Args:
        credentials: where logins come from.
        insecure: hosts (``name[:port]``) that are spoken to without TLS, besides loopback ones.
        proxies: scheme -> URL, and ``no`` for the hosts to leave out.
        ca_bundle: file or folder of trusted authorities instead of the machine's.
        certificates: Docker's folder of more authorities and client certificates by host.
        retries: further attempts after the first, without progress in between.
        unanswered: the same where there is no answer at all; ``None`` is *retries*.
        limits: of time.
        sleep: waits that many seconds; for tests.
        clock: seconds that only grow; for tests.
        token_hosts: hosts that may see a login besides the registry's own domain.
        told: hears why something is tried again, each reason once; from any thread.
    """

    def __init__(
        self,
        credentials: Credentials,
        *,
        insecure: Collection[str] = (),
        proxies: Mapping[str, str] | None = None,
        ca_bundle: str | None = None,
        certificates: Path | str = "/etc/docker/certs.d",
        retries: int = 5,
        unanswered: int | None = None,
        limits: Limits | None = None,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
        token_hosts: Collection[str] = (),
        told: Callable[[str], object] = lambda text: None,
    ) -> None:
        self.limits = limits or Limits()
        self.insecure = frozenset(insecure)
        self._certificates = Path(certificates)
        self._retries = retries
        self._unanswered = retries if unanswered is None else unanswered
        self._clock = clock
        self._told = told
        self._reasons = {""}  # that were told
        self._telling = threading.Lock()
        self._connections = Connections(self.limits.idle)
        self._sleep = sleep or self._connections.stopped.wait
        self._pools = Pools(self._connections, proxies or {}, ca_bundle, self._certificates)
        self._pace = Pace(clock)
        self._authorizer = Authorizer(
            credentials, self._fetch, clock=clock, insecure=self.insecure, token_hosts=token_hosts
        )

    # ---------------------------------------------------------------------------------------------------- requests

    def root(self, host: str) -> str:
        """``https://HOST``, or ``http://HOST`` for loopback and insecure hosts.

        A loopback host with a folder of its own in certs.d speaks TLS: whoever put a certificate there said so.
        """
        plain = host in self.insecure or (urls.is_loopback(host) and not (self._certificates / host).is_dir())
        return urls.base(host, plain=plain)

    def proxy_of(self, host: str) -> str:
        """The proxy by which *host* is reached, or ""."""
        return self._pools.proxy(f"{self.root(host)}/")

    def send(
        self,
        method: str,
        url: str,
        *,
        host: str,
        what: str,
        scopes: Scopes,
        headers: Mapping[str, str] | None = None,
        body: Body | bytes | None = None,
        patience: float | None = None,
    ) -> Answer:
        """One attempt, its redirects and a renewed login included. Any final status is an answer, but:

        Raises:
            Fault: no answer, or a status that may pass (408, 429, 500, 502, 503, 504, 522).
            AuthenticationError: 401 also with new credentials, or a certificate that nobody we trust has signed.
        """
        with self.stream(
            method, url, host=host, what=what, scopes=scopes, headers=headers, body=body, patience=patience
        ) as (response, final):
            return self.whole(response, final, method, what)

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        url: str,
        *,
        host: str,
        what: str,
        scopes: Scopes,
        headers: Mapping[str, str] | None = None,
        body: Body | bytes | None = None,
        patience: float | None = None,
    ) -> Iterator[Streamed]:
        """As ``send``, with the answer's body not read yet."""
        turn = self._pace.turn(host)
        if turn.wait > 0:
            self._pause(turn.wait)
        ours = urls.origin(url) == urls.origin(self.root(host))
        sent = {"Accept-Encoding": "identity", "User-Agent": f"layerkit/{__version__}", **(headers or {})}
        authorization = self._authorizer.header(host, scopes) if ours else None
        exhausted = not ours
        while True:
            if authorization is not None:
                sent["Authorization"] = authorization
            response, final = self._exchange(method, url, sent, body, what, patience)
            try:
                if response.status == 401 and not exhausted and urls.origin(final) == urls.origin(url):
                    challenges = parse_challenges(response.headers.get("WWW-Authenticate"))
                    refusal = self.whole(response, final, method, what)
                    try:
                        authorization, exhausted = self._authorizer.renew(host, challenges, scopes, authorization)
                    except AuthenticationError as error:
                        said = f": {refusal.text}" if refusal.text and "HTTP 401" in error.message else ""
                        raise AuthenticationError(f"{what}: {error.message}{said}", hint=error.hint) from None
                    continue
                if response.status in TRANSIENT or response.status == 401:
                    answer = self.whole(response, final, method, what)
                    problem = error_for(answer, what, hint=f"docker login {host}" if response.status == 401 else "")
                    if isinstance(problem, Fault) and problem.retry_after is not None:
                        self._pace.hold(host, min(problem.retry_after, self.limits.wait))
                    elif response.status in _TOO_MANY:
                        self._pace.refused(turn)
                    raise problem
                self._pace.served(turn)
                yield response, final
                return
            finally:
                response.close()  # where all was read, the connection is in the pool again by now

    def retry(self, attempt: Callable[[], T], *, advanced: Callable[[], int] = lambda: 0) -> T:
        """What *attempt* returns, tried again for each Fault.

        Args:
            advanced: how far the work is, in bytes that need not be sent again: attempts count from 1 again when it
                has grown, so that long work on a bad line is bounded by its size and not by its faults.

        Raises:
            TransientError: no progress in ``retries`` further attempts.
        """
        try:
            return self._retry(attempt, advanced)
        except LayerkitError as error:
            # Registries echo what they were sent, in places that nobody thinks of: an address, a challenge.
            secrets = self.secrets()
            error.message, error.hint = hide(error.message, secrets), hide(error.hint, secrets)
            error.args = (error.message,)
            raise

    def _retry(self, attempt: Callable[[], T], advanced: Callable[[], int]) -> T:
        mark, fruitless = advanced(), 0
        try:
            return attempt()
        except Fault as error:
            first = [error]
        # Only now: its import takes 60 ms, and most requests never fail.
        import tenacity

        def again() -> T:
            if first:
                raise first.pop()
            return attempt()

        def count(state: tenacity.RetryCallState) -> None:
            nonlocal mark, fruitless
            now = advanced()
            mark, fruitless = (now, 1) if now > mark else (mark, fruitless + 1)

        def stop(state: tenacity.RetryCallState) -> bool:
            error = state.outcome.exception() if state.outcome else None
            answered = isinstance(error, Fault) and error.status
            return fruitless > (self._retries if answered else self._unanswered)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, Fault) and error.retry_after is not None:
                return random.uniform(0.0, 0.25)  # the rest is waited for by all threads together: `Pace`
            return random.uniform(0.5, 1.0) * min(0.5 * 2.0 ** min(fruitless - 1, 10), self.limits.backoff)

        def tell(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            text = hide(error.message, self.secrets()) if isinstance(error, Fault) else ""
            _, _, reason = text.partition(": ")  # of several requests at a time the first is enough
            with self._telling:
                known = reason in self._reasons
                self._reasons.add(reason)
            if not known:
                self._told(f"{text}; trying again")

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Fault),
            after=count,
            stop=stop,
            wait=wait,
            before_sleep=tell,
            sleep=self._pause,
            reraise=True,
        )
        try:
            return retrying(again)
        except Fault as error:
            attempts = int(retrying.statistics.get("attempt_number", 1))
            raise Fault(
                f"{error.message} ({attempts} attempts)",
                status=error.status,
                retry_after=error.retry_after,
                hint=error.hint,
            ) from None

    def close(self) -> None:
        """Cut every connection; a request that is under way ends with a TransientError."""
        self._connections.cut()
        self._pools.clear()

    def secrets(self) -> frozenset[str]:
        """What was shown to registries, token servers and proxies by now, and must be shown to nobody else."""
        return frozenset(
            secret for secret in self._authorizer.secrets() | self._pools.passwords() if len(secret) >= _SHORTEST_SECRET
        )

    @property
    def stopped(self) -> bool:
        """Whether ``close`` was called."""
        return self._connections.stopped.is_set()

    # ---------------------------------------------------------------------------------------------------- one exchange

    def plain(self, method: str, url: str, what: str) -> Answer:
        """One attempt with no login at all; any status is an answer."""
        sent = {"Accept-Encoding": "identity", "User-Agent": f"layerkit/{__version__}"}
        response, final = self._exchange(method, url, sent, None, what, None)
        return self.whole(response, final, method, what)

    def _fetch(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        """For the token server: one attempt, with no authentication of ours but what *headers* hold."""
        what = f"token from {urls.host_of(url)}"
        sent = {"Accept-Encoding": "identity", "User-Agent": f"layerkit/{__version__}", **headers}
        response, final = self._exchange(method, url, sent, body, what, None)
        answer = self.whole(response, final, method, what)
        if answer.status in TRANSIENT:
            raise error_for(answer, what)
        return answer

    def _exchange(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: Body | bytes | None,
        what: str,
        patience: float | None,
    ) -> Streamed:
        """Redirects followed: at most 10, no Authorization on another origin, a body only where it stays the same."""
        first, headers = urls.origin(url), dict(headers)
        for _ in range(MAX_REDIRECTS + 1):
            response = self._once(method, url, headers, body, what, patience)
            location = response.headers.get("Location")
            follows = response.status in (307, 308) or method in ("GET", "HEAD")
            if response.status not in _REDIRECTS or not location or not follows:
                return response, url
            self.whole(response, url, method, what)
            url = urls.follow(url, location, insecure=self.insecure)
            if urls.origin(url) != first:
                headers.pop("Authorization", None)
        raise RefusedError(f"{what}: over {MAX_REDIRECTS} redirects", hint="the registry's external URL may be wrong")

    def _once(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: Body | bytes | None,
        what: str,
        patience: float | None,
    ) -> urllib3.BaseHTTPResponse:
        if self.stopped:
            raise TransientError(f"{what}: stopped")
        options: dict[str, Any] = {"body": body}
        if isinstance(body, Body):
            # Its length is said beforehand: many registries and proxies refuse or buffer what has none.
            headers = {**headers, "Content-Length": str(body.length)}
            options["body"] = body.open()
        patience = patience if patience is not None else self.limits.idle
        try:
            return self._pools.of(url).urlopen(
                method,
                url,
                headers=headers,
                redirect=False,
                retries=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=self.limits.connect, read=patience),
                **options,
            )
        except (faults.HTTPError, OSError) as error:
            raise self._problem(error, what, url) from None
        finally:
            close = getattr(options["body"], "close", None)
            if close is not None:
                close()

    def whole(self, response: urllib3.BaseHTTPResponse, url: str, method: str, what: str) -> Answer:
        """The answer with its body, read to the limit; the connection goes back to the pool where all was read."""
        failed = response.status >= 400
        limit = MAX_ERROR_BODY if failed else MAX_ANSWER
        body = bytearray()
        try:
            while len(body) <= limit:
                piece = response.read(min(64 * 1024, limit + 1 - len(body)))
                if not piece:
                    response.release_conn()
                    break
                body += piece
        except (faults.HTTPError, OSError) as error:
            if not failed:
                raise self._problem(error, what, url) from None
        finally:
            response.close()
        if len(body) > limit and not failed:
            raise RefusedError(f"{what}: the answer is over {limit} bytes")
        headers = {name.lower(): value for name, value in response.headers.items()}
        return Answer(
            response.status, headers, bytes(body[:limit]), url, method, self.secrets() if failed else frozenset()
        )

    def chunks(self, response: urllib3.BaseHTTPResponse, size: int, what: str, url: str) -> Iterator[bytes]:
        """The body of a streamed answer in chunks of at most *size* bytes; a break in it is a Fault."""
        try:
            while chunk := response.read(size):
                yield chunk
            response.release_conn()
        except (faults.HTTPError, OSError) as error:
            raise self._problem(error, what, url) from None

    # ---------------------------------------------------------------------------------------------------- waiting

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            self._sleep(seconds)
        if self.stopped:
            raise TransientError("stopped")

    def _problem(self, error: Exception, what: str, url: str) -> LayerkitError:
        if self.stopped:
            return TransientError(f"{what}: stopped")
        return below_http(error, what, urls.host_of(url), self.limits, self._certificates)
