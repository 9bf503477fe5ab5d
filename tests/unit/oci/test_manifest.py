from __future__ import annotations

import json
from typing import Any

import pytest

from layerkit.errors import IntegrityError, RefusedError
from layerkit.oci import (
    MAX_LAYERS,
    MAX_MANIFEST_SIZE,
    MEDIA,
    Descriptor,
    Digest,
    Index,
    Manifest,
    Platform,
    dump,
    parse_manifest,
)

CONFIG = Descriptor(MEDIA.CONFIG, Digest.of(b"{}"), 2)
LAYER = Descriptor(MEDIA.LAYER, Digest.of(b"layer"), 5)
DOCUMENT: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": MEDIA.MANIFEST,
    "config": CONFIG.to_json(),
    "layers": [LAYER.to_json()],
}


def test_raw_bytes_are_kept() -> None:
    """The digest is of the bytes that were read, spaces and all, not of what we would have written."""
    raw = json.dumps(DOCUMENT, indent=3).encode()
    manifest = Manifest.parse(raw)
    assert manifest.raw == raw and manifest.digest == Digest.of(raw) != Digest.of(dump(DOCUMENT))
    assert manifest.descriptor().size == len(raw)


def test_created_is_parsed() -> None:
    """What is created says the same when it is read, and the same input gives the same bytes."""
    made = Manifest.create(CONFIG, [LAYER], {"b": "ä", "a": "1"}, "application/x")
    assert Manifest.parse(made.raw) == made == Manifest.create(CONFIG, [LAYER], {"a": "1", "b": "ä"}, "application/x")
    index = Index.create([made.descriptor(Platform("linux", "amd64"))], {"a": "1"})
    assert Index.parse(index.raw) == index
    assert index.descriptor() == Descriptor(MEDIA.INDEX, Digest.of(index.raw), len(index.raw))


def test_dump() -> None:
    """Our JSON is compact UTF-8 in the order that was given."""
    assert dump({"b": [1, 2], "a": "ä"}) == '{"b":[1,2],"a":"ä"}'.encode()


def test_too_many_layers() -> None:
    """127 layers can be run, 128 are refused before anything is sent (FAULTS 29)."""
    assert len(Manifest.create(CONFIG, [LAYER] * MAX_LAYERS).layers) == 127
    with pytest.raises(RefusedError, match="128 layers"):
        Manifest.create(CONFIG, [LAYER] * (MAX_LAYERS + 1))


def test_too_large() -> None:
    """A manifest or index over 4 MiB is refused before it is sent (FAULTS 29)."""
    with pytest.raises(RefusedError, match=str(MAX_MANIFEST_SIZE)):
        Manifest.create(CONFIG, [], {"a": "x" * MAX_MANIFEST_SIZE})
    with pytest.raises(RefusedError):
        Index.create([], {"a": "x" * MAX_MANIFEST_SIZE})


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"<html>", id="html"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"\xff", id="not-utf-8"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"{}", id="empty-object"),
        pytest.param(dump({**DOCUMENT, "layers": {}}), id="layers-no-list"),
        pytest.param(dump({**DOCUMENT, "layers": [3]}), id="layer-no-object"),
        pytest.param(dump({**DOCUMENT, "config": None}), id="no-config"),
        pytest.param(dump({**DOCUMENT, "annotations": [1]}), id="annotations-list"),
        pytest.param(dump({**DOCUMENT, "manifests": []}), id="both"),
        pytest.param(dump({**DOCUMENT, "mediaType": MEDIA.INDEX}), id="index-by-name-only"),
        pytest.param(dump({"mediaType": MEDIA.MANIFEST, "manifests": []}), id="manifest-by-name-only"),
    ],
)
def test_not_a_manifest(raw: bytes) -> None:
    """What is neither manifest nor index, or both at once, is refused (CVE-2021-41190)."""
    with pytest.raises(IntegrityError):
        parse_manifest(raw)


def test_content_decides() -> None:
    """Manifest or index: the content decides, and its own media type goes before what the server said."""
    bare = {key: value for key, value in DOCUMENT.items() if key != "mediaType"}
    assert isinstance(parse_manifest(dump(bare)), Manifest)
    assert parse_manifest(dump(bare), MEDIA.DOCKER_MANIFEST).media_type == MEDIA.DOCKER_MANIFEST
    assert parse_manifest(dump(DOCUMENT), MEDIA.DOCKER_MANIFEST).media_type == MEDIA.MANIFEST
    assert isinstance(parse_manifest(dump({"manifests": []})), Index)
    with pytest.raises(IntegrityError):
        parse_manifest(dump(bare), MEDIA.INDEX)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("linux/amd64", "linux/amd64"),
        ("linux/arm64", "linux/arm64"),
        ("linux/arm", "linux/arm/v6"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("linux/arm/v5", None),
        ("linux/riscv64", None),
        ("windows/amd64", None),
    ],
)
def test_find(wanted: str, expected: str | None) -> None:
    """A platform finds its manifest; a variant that is asked for must be there; attestations never match."""
    names = ["unknown/unknown", "linux/amd64", "linux/arm/v6", "linux/arm/v7", "linux/arm64"]
    children = [Descriptor(MEDIA.MANIFEST, Digest.of(name.encode()), 1, {}, Platform.parse(name)) for name in names]
    found = Index.create(children).find(Platform.parse(wanted))
    assert (str(found.platform) if found else None) == expected
