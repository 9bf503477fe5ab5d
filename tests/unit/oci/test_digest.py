from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerkit.errors import IntegrityError
from layerkit.oci import Digest

HEX = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(HEX)
def test_round_trip(text: str) -> None:
    """A digest that was parsed gives exactly its text back."""
    assert str(Digest.parse(f"sha256:{text}")) == f"sha256:{text}"


@given(st.binary())
def test_of_content(content: bytes) -> None:
    """The digest of content is what sha256sum prints, whatever kind of buffer it is in."""
    expected = hashlib.sha256(content).hexdigest()
    assert Digest.of(content).hex == Digest.of(memoryview(bytearray(content))).hex == expected


def test_sha512() -> None:
    """The other registered algorithm is accepted, with its own length."""
    assert Digest.parse("sha512:" + "a" * 128).algorithm == "sha512"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("sha256", id="no-colon"),
        pytest.param("sha256:", id="no-hex"),
        pytest.param("sha256:" + "a" * 63, id="short"),
        pytest.param("sha256:" + "a" * 65, id="long"),
        pytest.param("sha256:" + "A" * 64, id="upper-case"),
        pytest.param("sha256:" + "g" * 64, id="not-hex"),
        pytest.param("sha256:" + "a" * 63 + "\n", id="line-break"),
        pytest.param("sha256:" + "١" * 64, id="other-digits"),
        pytest.param("sha512:" + "a" * 64, id="other-length"),
        pytest.param("md5:" + "a" * 32, id="not-registered"),
        pytest.param(":" + "a" * 64, id="no-algorithm"),
        pytest.param("sha256:../../etc/passwd", id="path"),
    ],
)
def test_not_a_digest(text: str) -> None:
    """What is no digest is refused where it comes in, and the message can be printed."""
    with pytest.raises(IntegrityError) as caught:
        Digest.parse(text)
    assert str(caught.value).isprintable()


def test_value() -> None:
    """Digests are values: equal, hashable, ordered, and cannot be changed."""
    one, other = Digest.of(b"1"), Digest.of(b"2")
    assert Digest.of(b"1") == one and len({one, Digest.of(b"1"), other}) == 2
    assert sorted([one, other]) == sorted([other, one])
    with pytest.raises(AttributeError):
        one.hex = other.hex  # type: ignore[misc]


def test_short() -> None:
    """People see 12 hex digits."""
    assert Digest.of(b"").short == "e3b0c44298fc"
