from __future__ import annotations

from typing import Any

import pytest

from layerkit.errors import IntegrityError
from layerkit.oci import Config, Descriptor, Image, Manifest, Platform, dump
from unit.support import image, layer

ROOTFS = {"type": "layers", "diff_ids": []}


@pytest.mark.parametrize(
    "document",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"[]", id="list"),
        pytest.param(dump({}), id="no-rootfs"),
        pytest.param(dump({"rootfs": []}), id="rootfs-list"),
        pytest.param(dump({"rootfs": {"diff_ids": {"a": 1}}}), id="diff-ids-object"),
        pytest.param(dump({"rootfs": {"diff_ids": ["x"]}}), id="diff-id-no-digest"),
        pytest.param(dump({"rootfs": ROOTFS, "history": 5}), id="history-number"),
        pytest.param(dump({"rootfs": ROOTFS, "history": ["x"]}), id="history-of-text"),
        pytest.param(dump({"rootfs": ROOTFS, "config": ["x"]}), id="config-list"),
        pytest.param(dump({"rootfs": ROOTFS, "config": {"Labels": ["x"]}}), id="labels-list"),
        pytest.param(dump({"rootfs": ROOTFS, "config": {"Env": "A=b"}}), id="env-text"),
        pytest.param(dump({"rootfs": ROOTFS, "config": {"Env": [1]}}), id="env-of-numbers"),
    ],
)
def test_not_a_configuration(document: bytes) -> None:
    """What a registry calls a configuration and is none is refused where it comes in, not where it is used."""
    with pytest.raises(IntegrityError):
        Config.parse(document)


def test_configuration() -> None:
    """Environment, labels, platform and history are read; what is null is empty."""
    found = image([layer("a"), layer("b")]).config
    assert found.environment == {"PATH": "/bin", "LANG": "C"}
    assert found.labels == {"theirs": "kept"}
    assert found.platform == Platform("linux", "amd64")
    empty = Config.parse(dump({"rootfs": {"diff_ids": None}, "config": None, "history": None}))
    assert (empty.environment, empty.labels, empty.history, empty.diff_ids) == ({}, {}, (), ())


def test_instructions_of_layers() -> None:
    """Every layer has the instruction that made it; entries without a layer are passed over."""
    assert image([layer("a"), layer("b"), layer("c")]).created_by == ("a", "b", "c")
    assert image([layer("a"), layer("b")], history=False).created_by == ("", "")


def test_other_configuration() -> None:
    """A configuration that the manifest does not name is refused."""
    one, other = image([layer("a")]), image([layer("b")])
    with pytest.raises(IntegrityError, match="names"):
        Image(one.manifest, other.config)
    named = one.manifest.config
    lied = Manifest.create(Descriptor(named.media_type, named.digest, named.size + 1), one.manifest.layers)
    with pytest.raises(IntegrityError):
        Image(lied, one.config)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param({"rootfs": {"diff_ids": [str(layer("a").diff_id)] * 2}}, "2 diff_ids", id="diff-ids"),
        pytest.param({"history": [{"created_by": "a"}] * 3}, "the history 3", id="history"),
        pytest.param({"history": [{"empty_layer": True}]}, "the history 0", id="history-empty"),
    ],
)
def test_counts_differ(change: dict[str, Any], said: str) -> None:
    """Layers, diff_ids and non-empty history entries must be as many; registries do not look (FAULTS 25)."""
    made = image([layer("a")])
    config = Config.parse(dump({**made.config.document, **change}))
    with pytest.raises(IntegrityError, match=said):
        Image(Manifest.create(config.descriptor, made.manifest.layers), config)
