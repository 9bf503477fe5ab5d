from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerkit.errors import ConfigurationError
from layerkit.oci import Digest, Reference

D = "sha256:" + "0" * 64
PARTS = st.from_regex(r"[a-z0-9]{1,8}(?:(?:\.|_|__|-{1,3})[a-z0-9]{1,8}){0,2}", fullmatch=True)
HOSTS = st.sampled_from(
    ["ghcr.io", "localhost", "localhost:5000", "127.0.0.1:5000", "[::1]:5000", "a.b-c.example:65535"]
)
TAGS = st.one_of(st.just(""), st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,20}", fullmatch=True))


@given(HOSTS, st.lists(PARTS, min_size=1, max_size=3), TAGS, st.booleans())
def test_round_trip(host: str, path: list[str], tag: str, digest: bool) -> None:
    """A reference that was parsed gives its text back, and that text is the same reference."""
    text = f"{host}/{'/'.join(path)}" + (f":{tag}" if tag else "") + (f"@{D}" if digest else "")
    found = Reference.parse(text)
    assert str(found) == text
    assert Reference.parse(str(found)) == found
    assert (found.host, found.repository, found.tag) == (host, "/".join(path), tag)


@given(st.text(string.printable, max_size=60))
def test_anything(text: str) -> None:
    """Any text is a reference or a ConfigurationError, and a reference survives its own text (FAULTS 57)."""
    try:
        found = Reference.parse(text)
    except ConfigurationError as error:
        assert "\x1b" not in str(error) and "\n" not in str(error)
    else:
        assert Reference.parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("python", "docker.io/library/python", id="official"),
        pytest.param("python:3.11-slim", "docker.io/library/python:3.11-slim", id="official-tag"),
        pytest.param("acme/resnet", "docker.io/acme/resnet", id="hub-user"),
        pytest.param("index.docker.io/acme/resnet", "docker.io/acme/resnet", id="old-hub-name"),
        pytest.param("registry-1.docker.io/python", "docker.io/library/python", id="hub-api-name"),
        pytest.param("localhost/x", "localhost/x", id="localhost"),
        pytest.param("myhost:5000/x", "myhost:5000/x", id="port-makes-a-host"),
        pytest.param("GHCR/x", "GHCR/x", id="upper-case-makes-a-host"),
        pytest.param("localhost:5000", "docker.io/library/localhost:5000", id="no-slash-is-a-tag"),
        pytest.param(f"python@{D}", f"docker.io/library/python@{D}", id="digest"),
        pytest.param(f"python:3@{D}", f"docker.io/library/python:3@{D}", id="tag-and-digest"),
    ],
)
def test_normalised(text: str, expected: str) -> None:
    """Names are completed as Docker completes them."""
    assert str(Reference.parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("", "bad repository", id="nothing"),
        pytest.param("Acme", "lower case", id="upper-case"),
        pytest.param("ghcr.io/Acme/resnet", "lower case", id="upper-case-path"),
        pytest.param("ghcr.io/acme/", "bad repository", id="empty-part"),
        pytest.param("ghcr.io//acme", "bad repository", id="double-slash"),
        pytest.param("ghcr.io/../etc", "bad repository", id="climbs"),
        pytest.param("ghcr.io/a..b", "bad repository", id="two-dots"),
        pytest.param("ghcr.io/a_-b", "bad repository", id="mixed-separators"),
        pytest.param("acme:", "bad tag", id="empty-tag"),
        pytest.param("acme:v 1", "bad tag", id="blank-in-tag"),
        pytest.param("acme:.v1", "bad tag", id="tag-begins-with-dot"),
        pytest.param("acme:" + "a" * 129, "bad tag", id="tag-129"),
        pytest.param("acme@sha256:12", "bad digest", id="short-digest"),
        pytest.param("acme@", "bad digest", id="empty-digest"),
        pytest.param("ghcr.io:port/acme", "bad host", id="port-no-number"),
        pytest.param("ghcr.io:99999/acme", "bad host", id="port-too-high"),
        pytest.param("[::1]:99999/acme", "bad host", id="port-too-high-v6"),
        pytest.param("-x.io/acme", "bad host", id="host-begins-with-hyphen"),
        pytest.param("user:pass@ghcr.io/acme", "there is a login in it", id="credentials"),
        pytest.param("https://ghcr.io/acme", "bad host", id="address"),
        pytest.param("ghcr.io/" + "a" * 256, "bad repository", id="256"),
        pytest.param("acme\n", "bad repository", id="line-break"),
        pytest.param("acme:v1\n", "bad tag", id="line-break-in-tag"),
    ],
)
def test_refused(text: str, said: str) -> None:
    """What no registry takes is refused here, with the part that is wrong (FAULTS 57)."""
    with pytest.raises(ConfigurationError, match=said) as caught:
        Reference.parse(text)
    assert caught.value.exit_status == 2


@pytest.mark.parametrize("login", ["user:s3cret", "user:s@3cret"])
def test_a_login_is_not_repeated(login: str) -> None:
    """No part of a login is in the message, and the hint says where to log in instead."""
    with pytest.raises(ConfigurationError) as caught:
        Reference.parse(f"{login}@ghcr.io/acme")
    assert "3cret" not in str(caught.value)
    assert caught.value.hint == "take it out, and use docker login ghcr.io"


def test_changes_return_new_references() -> None:
    """A tag or a digest makes another reference, and the first one is as it was."""
    first = Reference.parse("ghcr.io/acme/resnet:v1")
    digest = Digest.parse(D)
    assert str(first.with_tag("v2")) == "ghcr.io/acme/resnet:v2"
    assert str(first.with_digest(digest)) == f"ghcr.io/acme/resnet@{D}"
    assert first.with_digest(digest).with_tag("v3").digest is None
    assert str(first) == "ghcr.io/acme/resnet:v1"
    with pytest.raises(ConfigurationError, match="not a tag"):
        first.with_tag("a/b")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("python", "python"), ("acme/resnet", "acme/resnet"), ("ghcr.io/a/b:v1", "ghcr.io/a/b")],
)
def test_familiar(text: str, expected: str) -> None:
    """Docker Hub's host and library/ are left out for people."""
    assert Reference.parse(text).familiar == expected


def test_latest_is_only_said_when_asked() -> None:
    """``latest`` is added by or_latest alone, and only where there is neither tag nor digest."""
    assert Reference.parse("python").tag == ""
    assert Reference.parse("python").or_latest().tag == "latest"
    assert Reference.parse("python:3").or_latest().tag == "3"
    assert Reference.parse(f"python@{D}").or_latest().tag == ""
