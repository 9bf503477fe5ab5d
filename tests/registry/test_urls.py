"""Addresses: what is asked for, and where an answer may send us."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerkit.errors import RefusedError
from layerkit.oci import Digest
from layerkit.registry import urls

DIGEST = Digest.of(b"")
HTTPS = "https://r.example.com/v2/a/blobs/uploads/"


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        pytest.param(urls.base("docker.io", plain=False), "https://registry-1.docker.io", id="docker-hub"),
        pytest.param(urls.base("[::1]:5000", plain=True), "http://[::1]:5000", id="ipv6"),
        pytest.param(urls.manifest("https://r", "a/b", "v1"), "https://r/v2/a/b/manifests/v1", id="manifest"),
        pytest.param(urls.blob("https://r", "a", DIGEST), f"https://r/v2/a/blobs/{DIGEST}", id="blob"),
        pytest.param(urls.uploads("https://r", "a"), "https://r/v2/a/blobs/uploads/", id="uploads"),
        pytest.param(
            urls.mount("https://r", "a", DIGEST, "b/c"),
            f"https://r/v2/a/blobs/uploads/?mount={DIGEST}&from=b/c",
            id="mount",
        ),
        pytest.param(urls.tags("https://r", "a", 7), "https://r/v2/a/tags/list?n=7", id="tags"),
        pytest.param(urls.append("https://r/x", digest="a:b"), "https://r/x?digest=a:b", id="append-first"),
        pytest.param(urls.append("https://r/x?_s=1%3D", digest="a:b"), "https://r/x?_s=1%3D&digest=a:b", id="append"),
    ],
)
def test_urls_are_spelled_as_the_specification_spells_them(built: str, expected: str) -> None:
    """Each function gives the URL of its docstring."""
    assert built == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        pytest.param(host, expected, id=host)
        for host, expected in {
            "localhost": True, "localhost:5000": True, "127.0.0.1": True, "127.9.9.9:80": True, "[::1]:5000": True,
            "LOCALHOST:1": True, "localhost.example.com": False, "127.0.0.1.example.com": False, "10.0.0.1": False,
            "0.0.0.0": False, "registry": False, "[::": False, "": False,
        }.items()
    ],
)  # fmt: skip
def test_loopback_hosts(host: str, expected: bool) -> None:
    """Only this machine counts as loopback, however it is written."""
    assert urls.is_loopback(host) is expected


@pytest.mark.parametrize(
    ("asked", "location", "expected"),
    [
        pytest.param(HTTPS, "/v2/a/x?s=2", "https://r.example.com/v2/a/x?s=2", id="relative"),
        pytest.param(HTTPS, "1?s=2", "https://r.example.com/v2/a/blobs/uploads/1?s=2", id="relative-to-the-folder"),
        pytest.param(HTTPS, "https://s3.example.net/b?sig=1", "https://s3.example.net/b?sig=1", id="other-host"),
        pytest.param(HTTPS, "http://r.example.com/x", "https://r.example.com/x", id="18-upgraded"),
        pytest.param(
            "https://r.example.com:8443/x", "http://r.example.com/y", "https://r.example.com:8443/y", id="18-port-kept"
        ),
        pytest.param(
            "https://r.example.com/x", "http://r.example.com:5000/y", "https://r.example.com/y", id="18-backend-port"
        ),
        pytest.param("http://127.0.0.1:1/x", "http://127.0.0.1:2/y", "http://127.0.0.1:2/y", id="loopback-to-loopback"),
        pytest.param("https://10.0.0.1/x", "https://10.0.0.2/y", "https://10.0.0.2/y", id="private-to-private"),
        pytest.param(HTTPS, "/a b\u00e9", "https://r.example.com/a%20b%C3%A9", id="quoted"),
    ],
)
def test_fault_18_where_an_answer_sends_us(asked: str, location: str, expected: str) -> None:
    """FAULTS 17, 18: relative, other-host and downgraded locations become the address that is safe to use."""
    assert urls.follow(asked, location) == expected


@pytest.mark.parametrize(
    ("asked", "location"),
    [
        pytest.param(HTTPS, "http://s3.example.net/b", id="plain-on-another-host"),
        pytest.param(HTTPS, "https://127.0.0.1/x", id="loopback"),
        pytest.param(HTTPS, "https://localhost:8080/x", id="localhost"),
        pytest.param(HTTPS, "https://10.1.2.3/x", id="private"),
        pytest.param(HTTPS, "https://[fd00::1]/x", id="private-ipv6"),
        pytest.param(HTTPS, "https://[::ffff:10.0.0.1]/x", id="mapped-private"),
        pytest.param(HTTPS, "https://169.254.169.254/latest", id="metadata"),
        pytest.param("https://10.0.0.1/x", "https://169.254.169.254/y", id="metadata-from-private"),
        pytest.param("https://10.0.0.1/x", "https://127.0.0.1/y", id="loopback-from-private"),
        pytest.param("http://127.0.0.1:5000/x", "http://169.254.169.254/y", id="metadata-from-loopback"),
        pytest.param(HTTPS, "file:///etc/passwd", id="file"),
        pytest.param(HTTPS, "https://user:pass@r.example.com/x", id="user"),
        pytest.param(HTTPS, "https://[::/x", id="no-address"),
        pytest.param(HTTPS, "https://r.example.com:99999/x", id="no-port"),
        pytest.param(HTTPS, "https://\u0440.example.com/x", id="other-script"),
    ],
)
def test_fault_17_where_we_do_not_go(asked: str, location: str) -> None:
    """FAULTS 17, 18: plain, private and malformed locations are refused."""
    with pytest.raises(RefusedError, match=r"sends us to"):
        urls.follow(asked, location)


def test_an_insecure_host_may_be_named() -> None:
    """A host that the user called insecure may be sent to without TLS."""
    assert urls.follow(HTTPS, "http://s3.example.net/b", insecure={"s3.example.net"}) == "http://s3.example.net/b"


def test_the_refusal_shows_no_signature() -> None:
    """The query of a refused location is not in the message."""
    with pytest.raises(RefusedError) as caught:
        urls.follow(HTTPS, "ftp://s3.example.net/b?X-Amz-Signature=canary")
    assert "canary" not in str(caught.value)


@given(st.text() | st.from_regex(r"https?://[^\s]{1,20}(:[0-9]*)?/[^\s]*"))
def test_any_location_is_followed_safely_or_refused(location: str) -> None:
    """Fuzzed: a Location is an http(s) URL without user information and never a downgrade, or RefusedError."""
    with contextlib.suppress(RefusedError):
        found = urls.follow(HTTPS, location)
        assert found.startswith("https://")
        assert "@" not in urls.origin(found)[1]
        assert found.isascii()
        assert not any(character.isspace() for character in found)


@pytest.mark.parametrize(
    ("link", "expected"),
    [
        pytest.param('</v2/a/tags/list?n=1&last=x>; rel="next"', "https://r/v2/a/tags/list?n=1&last=x", id="relative"),
        pytest.param('<https://r/p>; rel="prev", <https://r/n>; rel="next"', "https://r/n", id="second"),
        pytest.param("<https://r/n>; rel=next", "https://r/n", id="unquoted"),
        pytest.param('<https://r/n>; rel="last"', None, id="other"),
        pytest.param("nonsense", None, id="nonsense"),
        pytest.param(None, None, id="none"),
    ],
)
def test_the_next_page(link: str | None, expected: str | None) -> None:
    """Link headers (RFC 8288) name the next page, or none."""
    assert urls.next_page("https://r/v2/a/tags/list?n=1", link) == expected
