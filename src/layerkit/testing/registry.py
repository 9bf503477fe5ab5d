"""The FakeRegistry as its users see it: a server with a life of its own."""

from __future__ import annotations

import shutil
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import Literal

from .http import Server
from .protocol import Protocol
from .store import PROFILES, Profile, Store

__all__ = ["PROFILES", "FakeRegistry", "Profile"]


class FakeRegistry(Store):
    """A registry on a loopback port, from ``start`` (or ``with``) to ``close``.

    Args:
        profile: a name out of PROFILES, or a Profile.
        users: user name -> password; None lets everybody do everything.
        auth: how users show who they are: "bearer" tokens from its own token server, or "basic".
        token_life: seconds that a token is good for.
        anonymous_pull: whether reading needs no user.
        allow: (user, repository, action) -> whether a user may; all may, by default. Anonymous is "".
        refresh_tokens: identity token -> user name, for ``grant_type=refresh_token``.
        tls: serve HTTPS with this context.
        address: loopback address to listen on.
    """

    def __init__(
        self,
        profile: str | Profile = "strict",
        *,
        users: Mapping[str, str] | None = None,
        auth: Literal["bearer", "basic"] = "bearer",
        token_life: float = 300.0,
        anonymous_pull: bool = False,
        allow: Callable[[str, str, str], bool] | None = None,
        refresh_tokens: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        super().__init__(profile, users, auth, token_life, anonymous_pull, allow, refresh_tokens, tls)
        self._server = Server((address, 0), self, Protocol)
        self._thread: threading.Thread | None = None

    # ---------------------------------------------------------------------------------------------------- life

    @property
    def host(self) -> str:
        """``ADDRESS:PORT``, what stands before the first slash of a reference."""
        return self._server.host

    @property
    def url(self) -> str:
        """Its address with the scheme."""
        return self._server.url

    def start(self) -> FakeRegistry:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop, cut every connection, and forget everything."""
        self._stopping.set()
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.cut()
        self._server.server_close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> FakeRegistry:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()
