"""Docker's own credentials: config.json and the credential helpers that it names.

The order is Docker's: ``credHelpers`` of the host, ``credsStore``, ``auths`` (docker/cli, cli/config/configfile).
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import AuthenticationError, printable

__all__ = ["Credentials", "Login"]

# moby, registry/config.go, IndexServer: the key under which `docker login` keeps Docker Hub.
_HUB_KEY = "https://index.docker.io/v1/"
_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io")
# The name becomes part of a program's name: nothing that could be a path or an option.
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MAX_CONFIG = 4 * 1024 * 1024  # bytes
_NOT_FOUND = "credentials not found in native keychain"  # docker-credential-helpers, credentials/error.go


@dataclass(frozen=True, slots=True)
class Login:
    """What a registry may know us by. Its secrets are not in its repr.

    Attributes:
        username, password: for basic authentication and for token endpoints.
        identity_token: an OAuth2 refresh token, used instead of the password.
        registry_token: a bearer token that is sent as it is.
    """

    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


class Credentials:
    """Logins by registry host, looked up once each.

    Args:
        folder: where config.json is (``$DOCKER_CONFIG`` or ``~/.docker``); None for no file.
        environment: for credential helpers, and the PATH on which they are found.
        helper_time_limit: seconds a helper may take.
    """

    def __init__(
        self,
        folder: Path | str | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        helper_time_limit: float = 30.0,
    ) -> None:
        self._file = Path(folder) / "config.json" if folder is not None else None
        self._environment = dict(environment or {})
        self._time_limit = helper_time_limit
        self._lock = threading.Lock()
        self._found: dict[str, Login | None] = {}
        self._document: dict[str, Any] | None = None

    @classmethod
    def of(cls, logins: Mapping[str, Login]) -> Credentials:
        """Fixed *logins* by host, with no file and no helper."""
        credentials = cls()
        credentials._found.update(logins)
        return credentials

    def login(self, host: str) -> Login | None:
        """The login for *host* (``name[:port]``), or None to be anonymous.

        Raises:
            AuthenticationError: config.json cannot be used, or a helper is missing, hangs or answers nonsense.
        """
        with self._lock:
            if host not in self._found:
                self._found[host] = self._look_up(host)
            return self._found[host]

    def secrets(self) -> frozenset[str]:
        """The secrets of every login that was looked up by now, as they are and as they are sent."""
        with self._lock:
            logins = [login for login in self._found.values() if login is not None]
        found = {secret for login in logins for secret in (login.password, login.identity_token, login.registry_token)}
        return frozenset(found | {login.basic.partition(" ")[2] for login in logins if login.password}) - {""}

    def _look_up(self, host: str) -> Login | None:
        document = self._read()
        keys = (_HUB_KEY, *_HUB_NAMES) if host in _HUB_NAMES else (host,)
        helpers = document.get("credHelpers")
        named = [helpers[key] for key in keys if helpers.get(key)] if isinstance(helpers, dict) else []
        helper = named[0] if named else document.get("credsStore")
        if helper:
            found = self._ask(str(helper), _HUB_KEY if host in _HUB_NAMES else host)
            if found is not None:
                return found
        auths = document.get("auths")
        if not isinstance(auths, dict):
            return None
        exact = [auths[key] for key in keys if key in auths]
        # Entries of old versions are whole URLs: docker/cli, registry.ConvertToHostname.
        loose = [entry for key, entry in auths.items() if _hostname(key) in keys]
        return self._entry(host, (exact or loose)[0]) if exact or loose else None

    def _read(self) -> dict[str, Any]:
        if self._document is not None:
            return self._document
        document: Any = {}
        if self._file is not None:
            try:
                with open(self._file, "rb") as stream:
                    raw = stream.read(_MAX_CONFIG + 1)
            except (FileNotFoundError, NotADirectoryError):
                raw = b"{}"
            except OSError as error:
                raise AuthenticationError(f"{self._shown}: {error.strerror}") from None
            try:
                document = json.loads(raw) if len(raw) <= _MAX_CONFIG else None
            except (ValueError, RecursionError):
                document = None
            if not isinstance(document, dict):
                raise AuthenticationError(
                    f"{self._shown}: no valid Docker configuration", hint="repair it, or log in again: docker login"
                )
        self._document = document
        return self._document

    @property
    def _shown(self) -> str:
        return printable(str(self._file))

    def _entry(self, host: str, entry: Any) -> Login | None:
        if not isinstance(entry, dict):
            raise AuthenticationError(f"{self._shown}: the entry for {host} is no object")
        username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
        if entry.get("auth"):
            try:
                text = base64.b64decode(str(entry["auth"]), validate=True).decode()
            except (binascii.Error, ValueError):
                text = ""
            username, colon, password = text.partition(":")
            if not colon:
                raise AuthenticationError(
                    f"{self._shown}: the entry for {host} cannot be decoded", hint=f"log in again: docker login {host}"
                )
            password = password.rstrip("\0")  # docker/cli, decodeAuth
        login = Login(username, password, str(entry.get("identitytoken") or ""), str(entry.get("registrytoken") or ""))
        return login if login != Login() else None

    def _ask(self, name: str, key: str) -> Login | None:
        """What ``docker-credential-NAME get`` answers (docker-credential-helpers, README, "Development")."""
        if not _HELPER_NAME.fullmatch(name):
            raise AuthenticationError(f"{self._shown}: {name[:100]!a} is no name of a credential helper")
        program = f"docker-credential-{name}"
        path = shutil.which(program, path=self._environment.get("PATH", os.defpath))
        if path is None:
            raise AuthenticationError(
                f"credential helper {program} is not on the PATH", hint=f"install it, or take it out of {self._shown}"
            )
        output, status = self._run(path, program, key)
        if status != 0:
            said = output[:4096].decode("utf-8", "replace").strip()
            if said == _NOT_FOUND or "credentials not found" in said:
                return None
            # Never what it printed: that may be a secret.
            raise AuthenticationError(
                f"credential helper {program} failed with status {status}", hint=f"try: echo {key} | {program} get"
            )
        try:
            document = json.loads(output)
            username, secret = document["Username"], document["Secret"]
            if not isinstance(username, str) or not isinstance(secret, str):
                raise TypeError
        except (ValueError, RecursionError, TypeError, LookupError):
            raise AuthenticationError(
                f"credential helper {program} answered something else than credentials",
                hint=f"try: echo {key} | {program} get",
            ) from None
        # docker/cli, credentials/native_store.go: this user name marks an identity token.
        return Login("", "", secret) if username == "<token>" else Login(username, secret)

    def _run(self, path: str, program: str, key: str) -> tuple[bytes, int]:
        try:
            process = subprocess.Popen(
                [path, "get"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._environment,
                start_new_session=True,
            )
        except OSError as error:
            raise AuthenticationError(f"credential helper {program} cannot be run: {error.strerror}") from None
        with process:
            try:
                output, _ = process.communicate(key.encode(), timeout=self._time_limit)
            except subprocess.TimeoutExpired:
                # Its whole group: a child of it may hold the pipe.
                os.killpg(process.pid, signal.SIGKILL)
                raise AuthenticationError(
                    f"credential helper {program} did not answer in {self._time_limit:g} s",
                    hint="it may wait for a key ring to be unlocked",
                ) from None
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                raise
        return output[:_MAX_CONFIG], process.returncode


def _hostname(key: str) -> str:
    return key.removeprefix("http://").removeprefix("https://").partition("/")[0]
