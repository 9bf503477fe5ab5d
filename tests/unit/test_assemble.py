from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from layerkit.assemble import (
    RECIPE,
    SAMPLES,
    PackedCheckpoint,
    Runtime,
    assemble,
    checkpoint_image,
    roles_of,
    roles_of_whole,
)
from layerkit.assemble import WEIGHTS as WEIGHTS_HASH
from layerkit.checkpoint import Ownership
from layerkit.checkpoint.elsewhere import Elsewhere
from layerkit.checkpoint.recipe import Recipe
from layerkit.errors import IntegrityError
from layerkit.fingerprint import Base, Inputs
from layerkit.oci import MEDIA, Config, Descriptor, Digest, Image, Index, Manifest, Platform, dump
from layerkit.state import State
from unit.support import PLATFORM, image, inputs, layer, project, runtime, write_project

WEIGHTS = (layer("weights 1"), layer("weights 2"))
CONTENT = Digest.of(b"weights")
KEY = "k" * 40


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_project(tmp_path)


def wanted(root: Path, *, platforms: tuple[str, ...] = (PLATFORM,), **checkpoint: Any) -> Inputs:
    with State() as state:
        return inputs(project(root, **checkpoint), state, platforms=platforms)


def test_layers_and_roles(root: Path) -> None:
    """The checkpoint's layers stand where the placeholder was, and every layer says its role."""
    made = assemble(wanted(root), {PLATFORM: runtime()}, WEIGHTS, CONTENT, KEY)
    roles = ("base", "base", "dependencies", "checkpoint", "checkpoint", "code")
    assert made.roles == {PLATFORM: roles}
    found = made.images[PLATFORM].manifest.layers
    assert tuple(d.annotations["dev.layerkit.role"] for d in found) == roles
    assert found[3].digest == WEIGHTS[0].descriptor.digest
    assert isinstance(made.root, Manifest) and made.digest == made.images[PLATFORM].manifest.digest


def test_what_a_server_can_read(root: Path) -> None:
    """The environment says where the checkpoint is and which one; labels and annotations say it too."""
    found = wanted(root)
    made = assemble(found, {PLATFORM: runtime()}, WEIGHTS, CONTENT, KEY).images[PLATFORM]
    assert made.config.environment["LAYERKIT_CHECKPOINT"] == "/app/model/model.pth.tar"
    assert made.config.environment["LAYERKIT_CHECKPOINT_DIGEST"] == str(CONTENT)
    assert made.config.environment["PATH"] == "/bin"
    expected = {
        "dev.layerkit.runtime": found.runtime_key(PLATFORM),
        "dev.layerkit.placement": "layer",
        "dev.layerkit.checkpoint": KEY,
        "dev.layerkit.checkpoint.digest": str(CONTENT),
    }
    assert made.config.labels == {"theirs": "kept", **expected}
    assert made.manifest.annotations.items() >= expected.items()
    assert json.loads(made.manifest.annotations["dev.layerkit.inputs"]) == found.summary


@pytest.mark.parametrize("placement", ["volume", "artifact"])
def test_mounted_checkpoint(root: Path, placement: str) -> None:
    """An image whose checkpoint is mounted says where; which, only as the image that was made to be mounted."""
    found = wanted(root, placement=placement)
    made = assemble(found, {PLATFORM: runtime()}, (), CONTENT, KEY).images[PLATFORM]
    assert made.config.environment["LAYERKIT_CHECKPOINT"] == "/app/model/model.pth.tar"
    assert "LAYERKIT_CHECKPOINT_DIGEST" not in made.config.environment
    assert made.config.labels.get("dev.layerkit.checkpoint") == (KEY if placement == "artifact" else None)
    assert "dev.layerkit.checkpoint.digest" not in made.config.labels
    assert [d.annotations["dev.layerkit.role"] for d in made.manifest.layers].count("checkpoint") == 0
    assert len(made.manifest.layers) == 4, "the placeholder is left out"


def test_deterministic(root: Path) -> None:
    """The same halves give the same digest, and the runtime image is as it was."""
    given = runtime()
    before = given.image.manifest.raw
    one = assemble(wanted(root), {PLATFORM: given}, WEIGHTS, CONTENT, KEY)
    assert one.digest == assemble(wanted(root), {PLATFORM: runtime()}, WEIGHTS, CONTENT, KEY).digest
    assert given.image.manifest.raw == before


def test_several_platforms(root: Path) -> None:
    """Several platforms make an index whose children share the checkpoint's layers."""
    platforms = (PLATFORM, "linux/arm64")
    arm = image(
        [layer("arm base"), layer("arm base 2"), layer("p"), layer("COPY c")],
        config={},
    )
    document = {**arm.config.document, "architecture": "arm64"}
    config = Config.parse(dump(document))
    arm = Image(Manifest.create(config.descriptor, arm.manifest.layers), config)
    other = Runtime(arm, 2, ("/app/model", 0, 0))
    made = assemble(
        wanted(root, platforms=platforms), {PLATFORM: runtime(), "linux/arm64": other}, WEIGHTS, CONTENT, KEY
    )
    assert isinstance(made.root, Index)
    assert [str(child.platform) for child in made.root.manifests] == list(platforms)
    assert [child.digest for child in made.root.manifests] == [m.digest for m in made.manifests]
    digests = {layer.descriptor.digest for layer in WEIGHTS}
    assert all(digests <= {d.digest for d in found.manifest.layers} for found in made.images.values())


@pytest.mark.parametrize(
    "place",
    [("/elsewhere", 0, 0), ("/app/model", 1, 0), ("/app/model", 0, 1)],
    ids=["folder", "user", "group"],
)
def test_placeholder_elsewhere(root: Path, place: tuple[str, int, int]) -> None:
    """A placeholder that BuildKit put elsewhere than the checkpoint would go is an error, never a wrong image."""
    with pytest.raises(IntegrityError, match=r"BuildKit put the checkpoint to .* expected /app/model/ as 0:0"):
        assemble(wanted(root), {PLATFORM: runtime(place=place)}, WEIGHTS, CONTENT, KEY)


def test_no_placeholder(root: Path) -> None:
    """A runtime image without a placeholder cannot take a checkpoint."""
    bare = dataclasses.replace(runtime(), placeholder=None, place=None)
    with pytest.raises(IntegrityError, match="no placeholder"):
        assemble(wanted(root), {PLATFORM: bare}, WEIGHTS, CONTENT, KEY)


@pytest.mark.parametrize(
    ("instruction", "role"),
    [
        ("COPY --link src /app # buildkit", "code"),
        ("ADD x /", "code"),
        ("copy x /", "code"),
        ("RUN /bin/sh -c pip install COPY", "dependencies"),
        ("RUN |1 A=b /bin/sh", "dependencies"),
        ("WORKDIR /app", "dependencies"),
        ("", "dependencies"),
    ],
)
def test_roles(instruction: str, role: str) -> None:
    """Above the base, what COPY and ADD made is code; what ran is dependencies."""
    made = image([layer("COPY base"), layer("RUN base"), layer(instruction), layer("weights")])
    assert roles_of(made, 2, range(3, 4)) == ("base", "base", role, "checkpoint")


@pytest.mark.parametrize(
    ("instruction", "role"),
    [
        ("COPY --chown=0:0 --chmod=0644 . /app/model/ # buildkit", "checkpoint"),
        ("COPY model.pt /app/model # buildkit", "checkpoint"),
        ("COPY . model/ # buildkit", "checkpoint"),
        ("COPY . other/ # buildkit", "code"),
        ("COPY src /app # buildkit", "code"),
        ("RUN /bin/sh -c cp -r x /app/model # buildkit", "dependencies"),
    ],
)
def test_roles_of_whole(root: Path, instruction: str, role: str) -> None:
    """In an image that BuildKit built whole, what was copied to where the checkpoint goes is the checkpoint."""
    made = image([layer("COPY base"), layer("RUN base"), layer(instruction)])
    assert roles_of_whole(made, wanted(root)) == ("base", "base", role)
    mounted = roles_of_whole(made, wanted(root, placement="artifact"))
    assert mounted[2] == ("code" if role == "checkpoint" else role)


def test_roles_on_no_base(root: Path) -> None:
    """An image that starts from nothing has no layer of a base, composed or built whole."""
    found = dataclasses.replace(wanted(root), bases={})
    given = runtime()
    assert "base" not in assemble(found, {PLATFORM: given}, WEIGHTS, CONTENT, KEY).roles[PLATFORM]
    assert "base" not in roles_of_whole(given.image, found)
    elsewhere = dataclasses.replace(wanted(root), bases={"b": Base(CONTENT, {"linux/riscv64": 2})})
    assert "base" not in roles_of_whole(given.image, elsewhere), "whose layers on this platform nobody knows"


def test_how_the_weights_were_made(root: Path) -> None:
    """The annotations say how the layers were made where not as the files are, which layerkit verify goes by."""
    found = wanted(root)
    plain = assemble(found, {PLATFORM: runtime()}, WEIGHTS, CONTENT, KEY).images[PLATFORM]
    assert RECIPE not in plain.manifest.annotations and SAMPLES not in plain.manifest.annotations
    assert found.checkpoint is not None
    recipe = Recipe(format="safetensors", shard_size=1000)
    checkpoint = dataclasses.replace(found.checkpoint, recipe=recipe)
    made = assemble(dataclasses.replace(found, checkpoint=checkpoint), {PLATFORM: runtime()}, WEIGHTS, CONTENT, KEY)
    annotations = made.images[PLATFORM].manifest.annotations
    assert Recipe.of_record(json.loads(annotations[RECIPE])) == recipe


def test_weights_hash_of_weights_that_are_elsewhere(root: Path) -> None:
    """The weights hash of layers that a registry has goes on with them to the next image."""
    found, weights = wanted(root), Digest.of(b"tensors")
    assert found.checkpoint is not None
    elsewhere = Elsewhere(KEY, CONTENT, "/app/model/model.pth.tar", "", "", weights=weights, samples=("a", "b"))
    checkpoint = dataclasses.replace(found.checkpoint, elsewhere=elsewhere)
    made = assemble(dataclasses.replace(found, checkpoint=checkpoint), {PLATFORM: runtime()}, WEIGHTS, CONTENT, KEY)
    image = made.images[PLATFORM]
    assert image.config.labels[WEIGHTS_HASH] == str(weights)
    assert image.manifest.annotations[SAMPLES].split() == ["a", "b"]


# -------------------------------------------------------------------------------------------------------- attestations


def attestation(of: Digest, *, subject: bool = False) -> tuple[Manifest, dict[Digest, bytes]]:
    """An attestation manifest as BuildKit writes it: one in-toto statement on the image *of*."""
    statement = dump(
        {
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": "https://slsa.dev/provenance/v0.2",
            "subject": [{"name": "pkg:docker/x", "digest": {"sha256": of.hex}}, {"digest": {"sha256": "0" * 64}}],
            "predicate": {"buildType": "x", "materials": [{"uri": "y", "digest": {"sha256": of.hex}}]},
        }
    )
    blob = Descriptor(MEDIA.IN_TOTO, Digest.of(statement), len(statement), {"in-toto.io/predicate-type": "p"})
    config = dump({"architecture": "unknown", "rootfs": {"type": "layers", "diff_ids": [str(blob.digest)]}})
    described = Descriptor(MEDIA.CONFIG, Digest.of(config), len(config))
    document = json.loads(Manifest.create(described, [blob]).raw)
    if subject:
        document["subject"] = {"mediaType": MEDIA.MANIFEST, "digest": str(of), "size": 1}
    return Manifest.parse(dump(document)), {blob.digest: statement, described.digest: config}


@pytest.mark.parametrize("subject", [False, True], ids=["buildkit", "with-subject"])
def test_attestations_follow(root: Path, subject: bool) -> None:
    """Provenance and SBOM are said of the composed image; how it was built stays what it was (FAULTS 28)."""
    given = runtime()
    old = given.image.manifest.digest
    given = dataclasses.replace(given, attestations=(attestation(old, subject=subject),))
    made = assemble(wanted(root), {PLATFORM: given}, WEIGHTS, CONTENT, KEY)
    new = made.images[PLATFORM].manifest.digest
    assert isinstance(made.root, Index)
    child, attached = made.root.manifests
    assert child.digest == new and attached.platform == Platform("unknown", "unknown")
    assert attached.annotations == {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": str(new),
    }
    ((manifest, blobs),) = made.attestations
    assert attached.digest == manifest.digest and str(old) not in manifest.raw.decode()
    assert all(Digest.of(raw) == digest for digest, raw in blobs.items())
    statement = json.loads(blobs[manifest.layers[0].digest])
    assert [s["digest"]["sha256"] for s in statement["subject"]] == [new.hex, "0" * 64]
    assert statement["predicate"]["materials"][0]["digest"]["sha256"] == old.hex
    assert manifest.layers[0].annotations == {"in-toto.io/predicate-type": "p"}
    config = json.loads(blobs[manifest.config.digest])
    assert config["rootfs"]["diff_ids"] == [str(manifest.layers[0].digest)]
    assert manifest.layers[0].size == len(blobs[manifest.layers[0].digest])


def test_checkpoint_image() -> None:
    """The image of the checkpoint alone says what it is: key, content and target, as labels and annotations."""
    made = checkpoint_image(PackedCheckpoint(WEIGHTS, KEY, CONTENT, Ownership("/app/model/")))
    named = checkpoint_image(PackedCheckpoint(WEIGHTS, KEY, CONTENT, Ownership("/app/model/"), CONTENT))
    assert "dev.layerkit.checkpoint.weights" not in made.config.labels
    assert named.config.labels["dev.layerkit.checkpoint.weights"] == str(CONTENT)
    facts = {
        "dev.layerkit.checkpoint": KEY,
        "dev.layerkit.checkpoint.digest": str(CONTENT),
        "dev.layerkit.checkpoint.target": "/app/model/",
    }
    assert made.config.labels == made.manifest.annotations == facts
    assert len(made.manifest.raw) < 4096
    dated = checkpoint_image(
        PackedCheckpoint(WEIGHTS, KEY, CONTENT, Ownership("/app/model/")), created="2026-11-23T00:00:00Z"
    )
    assert dated.manifest.annotations == {**facts, "org.opencontainers.image.created": "2026-11-23T00:00:00Z"}
    assert dated.config == made.config, "all else is the same whenever it is made"
