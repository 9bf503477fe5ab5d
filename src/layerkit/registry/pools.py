"""Which way a host is reached: pools of connections, proxies, and whom TLS trusts."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

import urllib3
from urllib3 import exceptions as faults

from ..errors import ConfigurationError, printable
from . import urls
from .connection import Connections

__all__ = ["Pools"]


class Pools:
    """The pools of connections of one client. Thread-safe.

    Args:
        connections: what makes them, and cuts them.
        proxies: scheme -> URL, and ``no`` for the hosts to leave out.
        ca_bundle: file or folder of trusted authorities instead of the machine's.
        certificates: Docker's folder of more authorities and client certificates by host.
    """

    def __init__(
        self, connections: Connections, proxies: Mapping[str, str], ca_bundle: str | None, certificates: Path
    ) -> None:
        self._connections = connections
        self._proxies = dict(proxies)
        self._ca_bundle = ca_bundle
        self._certificates = certificates
        self._lock = threading.Lock()
        self._managers: dict[tuple[tuple[str, str, int], str], urllib3.PoolManager] = {}

    def of(self, url: str) -> urllib3.PoolManager:
        """The pool for *url*: one for each origin and the proxy by which it is reached."""
        place, proxy = urls.origin(url), self.proxy(url)
        with self._lock:
            if (place, proxy) not in self._managers:
                options: dict[str, Any] = {"maxsize": 16, "block": False}
                if place[0] == "https":
                    options["ssl_context"] = self._context(urls.host_of(url))
                self._managers[place, proxy] = self._new_manager(proxy, options)
            return self._managers[place, proxy]

    def _new_manager(self, proxy: str, options: dict[str, Any]) -> urllib3.PoolManager:
        manager: urllib3.PoolManager
        if proxy:
            user = urlsplit(proxy).netloc.rpartition("@")[0]
            headers = urllib3.make_headers(proxy_basic_auth=unquote(user)) if user else None
            try:
                manager = urllib3.ProxyManager(proxy, proxy_headers=headers, **options)
            except (faults.HTTPError, ValueError):
                shown = printable(proxy.rpartition("@")[2], 200)
                raise ConfigurationError(f"proxy {shown}: only http and https proxies are known") from None
        else:
            manager = urllib3.PoolManager(**options)
        manager.pool_classes_by_scheme = dict(self._connections.pools)
        return manager

    def proxy(self, url: str) -> str:
        """The proxy for *url*, or "". This machine is never reached through one."""
        host = urls.host_of(url)
        if not self._proxies or urls.is_loopback(host) or proxy_bypass_environment(host, self._proxies):
            return ""
        found = self._proxies.get(urlsplit(url).scheme) or self._proxies.get("all") or ""
        return found if not found or "://" in found else f"http://{found}"

    def _context(self, host: str) -> ssl.SSLContext:
        """TLS for *host*: the machine's authorities or the bundle, and what /etc/docker/certs.d/HOST adds.

        https://docs.docker.com/engine/security/certificates/: ``*.crt`` are authorities, ``NAME.cert`` with
        ``NAME.key`` a client's certificate.
        """
        source = str(self._ca_bundle or "")
        try:
            if source:
                folder = Path(source).is_dir()
                context = ssl.create_default_context(
                    cafile=None if folder else source, capath=source if folder else None
                )
            else:
                context = ssl.create_default_context()
            folder_of_host = self._certificates / host
            for path in sorted(folder_of_host.glob("*.crt")):
                source = str(path)
                context.load_verify_locations(cafile=source)
            for path in sorted(folder_of_host.glob("*.cert")):
                source = str(path)
                context.load_cert_chain(path, path.with_suffix(".key"))
        except OSError as error:  # ssl.SSLError is one
            raise ConfigurationError(f"{printable(source)}: no certificates can be read: {error.strerror}") from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def passwords(self) -> frozenset[str]:
        """Those of the proxies."""
        logins = (urlsplit(proxy) for proxy in self._proxies.values())
        return frozenset(unquote(parts.password) for parts in logins if parts.password)

    def clear(self) -> None:
        """Give up all pools."""
        with self._lock:
            managers = list(self._managers.values())
            self._managers.clear()
        for manager in managers:
            manager.clear()
