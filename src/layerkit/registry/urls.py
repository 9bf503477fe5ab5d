"""Where things are in a registry. Pure functions, each with its format and the section that defines it.

"spec" is the OCI distribution specification 1.1, https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import quote, urlencode, urljoin, urlsplit, urlunsplit

from ..errors import RefusedError, printable
from ..oci import Digest

__all__ = [
    "append",
    "base",
    "blob",
    "follow",
    "host_of",
    "is_loopback",
    "manifest",
    "mount",
    "next_page",
    "origin",
    "tags",
    "uploads",
]

# Docker Hub's name is not its address: moby, registry/config.go, "IndexHostname" and "DefaultV2Registry".
_ADDRESSES = {"docker.io": "registry-1.docker.io"}
# No user information, no other script: RFC 3986, section 3.2.2, as far as registries use it.
_NETLOC = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def is_loopback(host: str) -> bool:
    """Whether *host* (``name[:port]``) is this machine: 127.0.0.0/8, ``::1`` or ``localhost``."""
    name = _name(host)
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def base(host: str, *, plain: bool) -> str:
    """``https://HOST``, or ``http://HOST`` where the connection is *plain*; Docker Hub's address for its name."""
    return f"{'http' if plain else 'https'}://{_ADDRESSES.get(host, host)}"


def manifest(root: str, repository: str, reference: str | Digest) -> str:
    """``ROOT/v2/REPOSITORY/manifests/TAG|DIGEST`` (spec, "Pulling manifests", "Pushing Manifests")."""
    return f"{root}/v2/{repository}/manifests/{reference}"


def blob(root: str, repository: str, digest: Digest) -> str:
    """``ROOT/v2/REPOSITORY/blobs/DIGEST`` (spec, "Pulling blobs")."""
    return f"{root}/v2/{repository}/blobs/{digest}"


def uploads(root: str, repository: str) -> str:
    """``ROOT/v2/REPOSITORY/blobs/uploads/`` (spec, "POST then PUT"); the slash at the end belongs to it."""
    return f"{root}/v2/{repository}/blobs/uploads/"


def mount(root: str, repository: str, digest: Digest, source: str) -> str:
    """``ROOT/v2/REPOSITORY/blobs/uploads/?mount=DIGEST&from=SOURCE`` (spec, "Mounting a blob from another repository").

    ``from`` is always there: Quay fails without it.
    """
    return f"{uploads(root, repository)}?{urlencode({'mount': str(digest), 'from': source}, safe=':/')}"


def tags(root: str, repository: str, count: int) -> str:
    """``ROOT/v2/REPOSITORY/tags/list?n=COUNT`` (spec, "Listing Tags")."""
    return f"{root}/v2/{repository}/tags/list?n={count}"


def append(url: str, **parameters: str) -> str:
    """*url* with *parameters* after what its query already holds.

    The query of an upload session is the registry's own and goes back as it came (spec, "POST then PUT": the
    location "may contain critical query parameters").
    """
    return f"{url}{'&' if urlsplit(url).query else '?'}{urlencode(parameters, safe=':')}"


def next_page(url: str, link: str | None) -> str | None:
    """The URL in *link*, a header ``Link: <URL>; rel="next"`` (RFC 8288), or None."""
    target: str
    for target, parameters in re.findall(r"<([^<>]*)>([^,<]*)", link or ""):
        if re.search(r'rel\s*=\s*"?next\b', parameters, re.IGNORECASE):
            return urljoin(url, target)
    return None


def origin(url: str) -> tuple[str, str, int]:
    """(scheme, host, port) of *url*: what decides who may see an Authorization header (RFC 6454, section 4)."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").rstrip("."), parts.port or (443 if parts.scheme == "https" else 80)


def host_of(url: str) -> str:
    """``name[:port]`` of *url*, without user information."""
    return urlsplit(url).netloc.rpartition("@")[2]


def follow(url: str, location: str, *, insecure: Collection[str] = ()) -> str:
    """The URL that a Location header of the answer from *url* points to, where it is safe to go.

    - It may be relative (RFC 9110, section 10.2.2).
    - ``http://`` for the host that was asked by https is a proxy that ends TLS and does not say so to the registry
      behind it: the same origin is meant, and nothing is ever sent plain.
    - A plain address on another host, and an address inside our own network that a registry outside of it names,
      are refused: the first shows the content to the network, the second lets a registry reach what only we can.

    Raises:
        RefusedError: no safe URL.
    """
    try:
        target = urljoin(url, location.strip())
        parts, asked = urlsplit(target), urlsplit(url)
        name, port = parts.hostname or "", parts.port
        asked_name = asked.hostname or ""
    except ValueError:
        raise RefusedError(
            f"registry {host_of(url)}: sends us to an address that is none: {_shown(location)}"
        ) from None
    if parts.scheme not in ("http", "https") or not _NETLOC.fullmatch(parts.netloc):
        raise RefusedError(f"registry {host_of(url)}: sends us to {_shown(location)}")
    if parts.scheme == "http" and asked.scheme == "https":
        if name == asked_name:
            return urlunsplit(("https", asked.netloc, _quoted(parts.path), _quoted(parts.query), ""))
        if host_of(target) not in insecure:
            raise RefusedError(
                f"registry {host_of(url)}: sends us to {parts.netloc} without TLS",
                hint="nothing was sent there; the registry's external URL must be https",
            )
    if name != asked_name and _is_private(name) and not _may_reach(asked_name, name):
        raise RefusedError(
            f"registry {host_of(url)}: sends us to the private address {printable(name)}:{port or ''}".rstrip(":"),
            hint="nothing was sent there",
        )
    return urlunsplit((parts.scheme, parts.netloc, _quoted(parts.path), _quoted(parts.query), ""))


def _quoted(text: str) -> str:
    """A path or query with what may not stand in a request line (spaces, controls, non-ASCII) percent-encoded."""
    return quote(text, safe="/%:@!$&'()*+,;=~-._?", errors="replace")


def _name(host: str) -> str:
    """The name or address of ``name[:port]``, lower case, without the brackets of IPv6."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _is_private(name: str) -> bool:
    address = _address(name)
    return name == "localhost" or name.endswith(".localhost") or (address is not None and not address.is_global)


def _may_reach(asked: str, name: str) -> bool:
    """A registry on this machine may name this machine; one in the private network the private network."""
    here, there = _address(asked), _address(name)
    if is_loopback(asked):
        return there is None or not there.is_link_local
    if here is None or here.is_global or there is None:
        return False
    return not (there.is_loopback or there.is_link_local)


def _shown(location: str) -> str:
    """*location* without its query, which may hold a signature."""
    return printable(location.partition("?")[0], 200)
