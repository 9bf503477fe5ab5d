from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerkit.errors import IntegrityError
from layerkit.oci import MEDIA, Descriptor, Digest, Platform, as_oci

D = Digest.of(b"")
GOOD: dict[str, Any] = {"mediaType": MEDIA.LAYER, "digest": str(D), "size": 3}


@given(
    st.builds(
        Descriptor,
        st.sampled_from([MEDIA.LAYER, MEDIA.CONFIG]),
        st.binary().map(Digest.of),
        st.integers(0, 2**63),
        st.dictionaries(st.text(), st.text()),
        st.none()
        | st.builds(Platform, st.just("linux"), st.sampled_from(["amd64", "arm"]), st.sampled_from(["", "v7"])),
        st.sampled_from(["", "application/x"]),
    )
)
def test_round_trip(descriptor: Descriptor) -> None:
    """A descriptor survives its JSON."""
    assert Descriptor.from_json(descriptor.to_json()) == descriptor


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"mediaType": None}, id="media-type-null"),
        pytest.param({"mediaType": 3}, id="media-type-number"),
        pytest.param({"digest": "sha256:1"}, id="bad-digest"),
        pytest.param({"digest": 3}, id="digest-number"),
        pytest.param({"size": -1}, id="negative-size"),
        pytest.param({"size": "3"}, id="size-text"),
        pytest.param({"size": True}, id="size-bool"),
        pytest.param({"size": 1.5}, id="size-float"),
        pytest.param({"annotations": ["x"]}, id="annotations-list"),
    ],
)
def test_not_a_descriptor(change: dict[str, Any]) -> None:
    """A field of another type is refused."""
    with pytest.raises(IntegrityError):
        Descriptor.from_json({**GOOD, **change})


@pytest.mark.parametrize("field", ["mediaType", "digest", "size"])
def test_missing_field(field: str) -> None:
    """Each required field is required, and the message names it."""
    with pytest.raises(IntegrityError, match=field):
        Descriptor.from_json({name: value for name, value in GOOD.items() if name != field})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("linux/arm64/v8", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/x86_64", "linux/amd64"),
        ("Linux/AMD64", "linux/amd64"),
    ],
)
def test_platform(text: str, expected: str) -> None:
    """Platforms have one spelling, containerd's, whichever of the usual ones was written."""
    assert str(Platform.parse(text)) == expected


@pytest.mark.parametrize("text", ["", "linux", "linux/", "/amd64", "linux//v7", "a/b/c/d"])
def test_not_a_platform(text: str) -> None:
    """Fewer than two parts, more than three, or an empty one is no platform."""
    with pytest.raises(ValueError, match="not a platform"):
        Platform.parse(text)


def test_platform_json() -> None:
    """arm64's v8 is left out of what registries say too, and what says nothing is unknown."""
    assert Platform.from_json({"os": "linux", "architecture": "arm64", "variant": "v8"}) == Platform("linux", "arm64")
    assert Platform.from_json({}) == Platform("unknown", "unknown")
    assert Platform("linux", "arm", "v7").to_json() == {"os": "linux", "architecture": "arm", "variant": "v7"}


def test_as_oci() -> None:
    """Every media type of Docker's has its OCI name; an OCI name and any other is itself."""
    docker = [value for name, value in vars(MEDIA).items() if name.startswith("DOCKER_")]
    assert len({as_oci(value) for value in docker}) == len(docker)
    assert all(as_oci(value).startswith("application/vnd.oci.") for value in docker)
    assert as_oci(MEDIA.LAYER) == MEDIA.LAYER and as_oci("x/y") == "x/y"
