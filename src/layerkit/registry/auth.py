"""How a registry is shown who we are: challenges, scopes and tokens.

Distribution's token authentication: https://distribution.github.io/distribution/spec/auth/token/ and ``oauth/``.
"""

from __future__ import annotations

import ipaddress
import json
import re
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import urlencode, urlsplit

from ..errors import AuthenticationError
from . import urls
from .answers import Answer, error_for, safe_text
from .credentials import Credentials, Login

__all__ = ["Authorizer", "Challenge", "Scopes", "parse_challenges", "scope"]

# {("repository:library/python", "pull"), …}
Scopes: TypeAlias = frozenset[tuple[str, str]]
# (method, url, headers, body) -> the whole answer
Fetch: TypeAlias = Callable[[str, str, Mapping[str, str], bytes | None], Answer]

_DEFAULT_LIFE = 60.0  # seconds; token authentication specification, "expires_in"
_MAX_TOKEN = 64 * 1024
# Token servers on another domain than the registry that names them.
_TOKEN_HOSTS = {
    "docker.io": ("auth.docker.io",),
    "registry.gitlab.com": ("gitlab.com",),
    "registry.connect.redhat.com": ("sso.redhat.com",),
}
_PUBLIC_SUFFIX = re.compile(
    r"[a-z]+|(?:ac|co|com|edu|gov|ne|net|or|org)\.[a-z]{2}|(?:github|gitlab)\.io|amazonaws\.com"
)


def scope(repository: str, *actions: str) -> Scopes:
    """The scope of *actions* (pull, push, delete) in *repository*."""
    return frozenset((f"repository:{repository}", action) for action in actions)


@dataclass(frozen=True, slots=True)
class Challenge:
    """One challenge of a ``WWW-Authenticate`` header; scheme and parameter names in lower case."""

    scheme: str
    parameters: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def scopes(self) -> Scopes:
        """What its ``scope`` parameter asks for: ``repository:NAME:pull,push`` separated by spaces."""
        found = set()
        for item in self.parameters.get("scope", "").split()[:20]:
            resource, colon, actions = item.rpartition(":")
            if colon and resource:
                found |= {(resource, action) for action in actions.split(",") if action}
        return frozenset(found)


_PARAMETER = re.compile(r"""\s*,?\s*([A-Za-z0-9!#$%&'*+.^_`|~-]{1,64})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]*))""")
_SCHEME = re.compile(r"\s*,?\s*([A-Za-z][A-Za-z0-9-]{0,31})(?=\s|,|$)")


def parse_challenges(header: str | None) -> tuple[Challenge, ...]:
    """The challenges of a ``WWW-Authenticate`` header (RFC 9110, section 11.6.1); what is no challenge is left out."""
    text = (header or "")[:16384]
    found: list[Challenge] = []
    position = 0
    while match := _SCHEME.match(text, position):
        position = match.end()
        parameters: dict[str, str] = {}
        while pair := _PARAMETER.match(text, position):
            quoted, plain = pair[2], pair[3]
            parameters[pair[1].lower()] = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain
            position = pair.end()
        found.append(Challenge(match[1].lower(), parameters))
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Token:
    header: str = field(repr=False)
    expires: float = 0.0


class Authorizer:
    """Gives the Authorization header for a request, and a new one when a registry refuses it. Thread-safe.

    Tokens are kept per (realm, service, scope) until shortly before they expire.

    Args:
        credentials: where logins come from.
        fetch: sends one request to a token server, follows redirects, does not repeat.
        clock: seconds that only grow.
        insecure: hosts that may be spoken to without TLS.
        token_hosts: hosts besides the registry's own domain that may see a login.
    """

    def __init__(
        self,
        credentials: Credentials,
        fetch: Fetch,
        *,
        clock: Callable[[], float],
        insecure: Collection[str] = (),
        token_hosts: Collection[str] = (),
    ) -> None:
        self._credentials = credentials
        self._fetch = fetch
        self._clock = clock
        self._insecure = frozenset(insecure)
        self._token_hosts = frozenset(token_hosts)
        # One lock for all: tokens are few, and threads that need the same one must not fetch it each.
        self._lock = threading.Lock()
        self._challenges: dict[str, Challenge] = {}
        self._tokens: dict[tuple[str, str, str, Scopes], _Token] = {}
        self._issued: frozenset[str] = frozenset()

    def secrets(self) -> frozenset[str]:
        """Every password and token that was used by now, as it is and as it is sent."""
        return self._credentials.secrets() | self._issued  # without the lock: it may be held while a token is fetched

    def header(self, host: str, wanted: Scopes) -> str | None:
        """The header for a request to *host*, as far as it is known by now that it wants one."""
        with self._lock:
            challenge = self._challenges.get(host)
            return self._answer(host, challenge, wanted) if challenge is not None else None

    def renew(
        self, host: str, challenges: tuple[Challenge, ...], wanted: Scopes, refused: str | None
    ) -> tuple[str, bool]:
        """The header to try after *host* answered 401 to *refused*, and whether it is new.

        One that is not new is another thread's, or for more than is wanted: it may be as stale as the refused one.

        Raises:
            AuthenticationError: there is nothing (else) to try.
        """
        with self._lock:
            usable = [c for c in challenges if c.scheme == "bearer" and c.parameters.get("realm")]
            usable += [c for c in challenges if c.scheme == "basic"]
            if not usable:
                raise AuthenticationError(
                    f"registry {host}: HTTP 401, and it asks for no authentication that we know",
                    hint="is this the address of a registry?",
                )
            challenge = usable[0]
            self._challenges[host] = challenge
            for key in [key for key, token in self._tokens.items() if token.header == refused]:
                del self._tokens[key]
            known = {token.header for token in self._tokens.values()}
            # What it asks for besides is asked for too: registries name actions that the specification does not.
            header = self._answer(host, challenge, wanted | challenge.scopes)
            if header == refused:
                raise AuthenticationError(
                    f"registry {host}: HTTP 401: the credentials are not accepted",
                    hint=f"log in again: docker login {host}",
                )
            return header, header not in known

    def _answer(self, host: str, challenge: Challenge, wanted: Scopes) -> str:
        login = self._credentials.login(host)
        if challenge.scheme == "basic":
            if login is None or not login.username:
                raise AuthenticationError(
                    f"registry {host}: HTTP 401: it wants a login, and there is none", hint=f"docker login {host}"
                )
            return login.basic
        if login is not None and login.registry_token:
            return f"Bearer {login.registry_token}"
        realm, service = challenge.parameters["realm"], challenge.parameters.get("service", "")
        now = self._clock()
        for (of_host, of_realm, of_service, scopes), token in self._tokens.items():
            if (of_host, of_realm, of_service) == (host, realm, service) and wanted <= scopes and now < token.expires:
                return token.header
        token = self._request(host, realm, service, wanted, login)
        self._tokens[host, realm, service, wanted] = token
        return token.header

    def _request(self, host: str, realm: str, service: str, wanted: Scopes, login: Login | None) -> _Token:
        self._check_realm(host, realm, login)
        what = f"token for {host} from {urls.host_of(realm)}"
        scopes = _spelled(wanted)
        if login is not None and login.identity_token:
            form = {"grant_type": "refresh_token", "refresh_token": login.identity_token, "client_id": "layerkit"}
            form |= {"service": service, "scope": " ".join(scopes)}
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self._fetch("POST", realm, headers, urlencode(form).encode())
        else:
            query = [("service", service)] if service else []
            query += [("scope", text) for text in scopes]
            headers = {}
            if login is not None and login.username:
                query.append(("account", login.username))
                headers = {"Authorization": login.basic}
            joint = "&" if urlsplit(realm).query else "?"
            answer = self._fetch("GET", realm + (joint + urlencode(query) if query else ""), headers, None)
        if not answer.ok:
            error = error_for(answer, what, hint=f"docker login {host}" if answer.status in (400, 401, 403) else "")
            if answer.status in (400, 401, 403):
                raise AuthenticationError(error.message, hint=error.hint)
            raise error
        return self._parse(what, answer)

    def _parse(self, what: str, answer: Answer) -> _Token:
        try:
            document = json.loads(answer.body)
            text = document.get("token") or document.get("access_token")
            life = float(document.get("expires_in") or _DEFAULT_LIFE)
        except (ValueError, RecursionError, TypeError, AttributeError):
            text, life = None, 0.0
        if not isinstance(text, str) or len(text) > _MAX_TOKEN or not re.fullmatch(r"[!-~]+", text):
            raise AuthenticationError(f"{what}: the answer holds no token")
        # Registries look at a token when a request arrives, however long it then takes.
        life = min(max(life, 1.0), 24 * 3600.0)
        self._issued |= {text}
        return _Token(f"Bearer {text}", self._clock() + life - min(10.0, life / 4))

    def _check_realm(self, host: str, realm: str, login: Login | None) -> None:
        """A token server gets our password: it must be safe to tell it."""
        try:
            parts = urlsplit(realm)
            name = parts.hostname or ""
        except ValueError:
            name = ""
        shown = f"registry {host} names the token server {safe_text(realm.partition('?')[0], 200)}"
        if not name or parts.scheme not in ("http", "https") or parts.username is not None:
            raise AuthenticationError(f"{shown}, which is no address")
        plain_is_fine = urls.is_loopback(parts.netloc) or parts.netloc in self._insecure
        if parts.scheme == "http" and not plain_is_fine:
            raise AuthenticationError(f"{shown}, without TLS", hint="nothing was sent there")
        if urls.is_loopback(parts.netloc) and not urls.is_loopback(host):
            raise AuthenticationError(f"{shown}, which is this machine", hint="nothing was sent there")
        if login is not None and not self._may_know(host, name):
            raise AuthenticationError(
                f"{shown}, on another domain: the login was not sent there",
                hint="allow that host for tokens if it belongs to the registry",
            )

    def _may_know(self, host: str, name: str) -> bool:
        registry = urlsplit(f"//{host}").hostname or ""
        if name == registry or name in self._token_hosts or name in _TOKEN_HOSTS.get(host, ()):
            return True
        if urls.is_loopback(registry):
            return urls.is_loopback(name)
        if _is_address(registry) or _is_address(name):
            return False
        parent = registry.partition(".")[2]
        domains = [registry] if not parent or _PUBLIC_SUFFIX.fullmatch(parent) else [registry, parent]
        return any(name == domain or name.endswith("." + domain) for domain in domains)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _spelled(wanted: Scopes) -> list[str]:
    """One ``repository:NAME:pull,push`` for each resource; actions in alphabetical order, as Docker sends them."""
    by_resource: dict[str, list[str]] = {}
    for resource, action in sorted(wanted):
        by_resource.setdefault(resource, []).append(action)
    return [f"{resource}:{','.join(actions)}" for resource, actions in by_resource.items()]
