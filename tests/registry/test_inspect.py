"""Images taken apart over real HTTP: what is said of them, and how little is read for it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import layerkit
from layerkit.errors import AuthenticationError, ConfigurationError
from layerkit.oci import MEDIA, Descriptor, Index, Manifest, Platform
from layerkit.settings import Settings
from layerkit.testing import FakeRegistry
from unit.anatomy.support import MIB, Made, Part, docker_like, made, safetensors

WEIGHTS = safetensors(a=("F16", (1024, 1024)), b=("F32", (512, 512)))


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    with FakeRegistry() as made:
        yield made


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Surroundings without docker and without anybody's logins."""
    return Settings(docker_config=tmp_path, environment={"PATH": str(tmp_path), "HOME": str(tmp_path)})


def push(registry: FakeRegistry, image: Made, tag: str = "v1") -> str:
    registry.push("team/model", tag, image.image, image.blobs)
    return f"registry:{registry.host}/team/model:{tag}"


def downloaded(registry: FakeRegistry, image: Made) -> int:
    """Bytes of layers that were asked for; whole ones are an error."""
    count = 0
    for layer, blob in zip(image.image.manifest.layers, image.blobs, strict=True):
        for request in registry.asked("GET", layer.digest.hex):
            match = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
            assert match, "a layer was asked for as a whole"
            count += min(int(match[2]) + 1, len(blob)) - int(match[1])
    return count


def kit(weights: bytes = WEIGHTS, code: bytes = b"x") -> Made:
    """An image as layerkit composes it."""
    return made(
        [
            Part("ADD rootfs / # buildkit", {"bin/sh": b"s" * 5000}, role="base"),
            Part("RUN pip", {"lib/torch.so": b"t" * 60_000}, role="dependencies"),
            Part("COPY checkpoint", {"app/model/m.safetensors": weights}, False, "checkpoint", "layerkit"),
            Part("COPY --link src /app # buildkit", {"app/serve.py": code}, role="code"),
        ],
        config={
            "Env": ["LAYERKIT_CHECKPOINT=/app/model/m.safetensors"],
            "Labels": {"dev.layerkit.checkpoint.digest": "sha256:" + "ab" * 32, "dev.layerkit.placement": "layer"},
        },
    )


def test_marked(registry: FakeRegistry, settings: Settings) -> None:
    """An image of layerkit's: roles as marked, the tensors out of the layer's header, and 16 KiB of it read."""
    image = kit()
    found = layerkit.inspect(push(registry, image), settings=settings)
    assert [(x.role, x.guessed) for x in found.layers] == [
        ("base", False), ("dependencies", False), ("checkpoint", False), ("code", False),
    ]  # fmt: skip
    assert [x.digest for x in found.layers] == [x.digest for x in image.image.manifest.layers]
    assert [x.unpacked for x in found.layers] == [len(tar) for tar in image.tars]
    assert [x.unpacked_from for x in found.layers] == ["gzip", "gzip", "stored", "gzip"]
    assert found.source == "registry" and found.built_by_layerkit and found.is_placed_well
    assert found.digest == image.image.manifest.digest
    facts = found.checkpoint
    assert facts is not None and facts.digest == "sha256:" + "ab" * 32 and facts.missing == ""
    assert [(f.path, f.size) for f in facts.files] == [("/app/model/m.safetensors", len(WEIGHTS))]
    (tensors,) = facts.tensors
    assert (tensors.count, tensors.parameters) == (2, 1024 * 1024 + 512 * 512)
    assert tensors.dtypes == {"F16": 2 * MIB, "F32": MIB}
    # Three times the last 4 bytes of a gzip layer; the first 16 KiB of the tar, 16 KiB for the header of the file, and
    # the tar's last 10 KiB at most.
    assert downloaded(registry, image) <= 3 * 4 + 3 * 16 * 1024
    code = found.change("code")
    assert code is not None and code.download.bytes == len(image.blobs[3]) and code.unpack.bytes == len(image.tars[3])
    assert json.loads(json.dumps(found.to_json()))["schema_version"] == 1


def test_by_hand(registry: FakeRegistry, settings: Settings) -> None:
    """An image that nobody marked: guessed roles, tensors out of the beginning of a gzip layer, and what it costs."""
    image = docker_like(WEIGHTS)
    found = layerkit.inspect(push(registry, image), settings=settings)
    assert [(x.role, x.guessed) for x in found.layers] == [
        ("base", True), ("dependencies", True), ("code", True), ("checkpoint", True),
    ]  # fmt: skip
    assert [x.unpacked for x in found.layers] == [len(tar) for tar in image.tars]
    assert found.checkpoint is not None and found.checkpoint.tensors[0].count == 2
    assert not found.is_placed_well and not found.built_by_layerkit
    move = found.change("code")
    assert move is not None
    assert move.download.bytes == len(image.blobs[2])
    assert move.unpack.bytes == len(image.tars[2]) + len(image.tars[3])
    document = found.to_json()["placed_well"]
    assert document["order"] == ["base", "dependencies", "checkpoint", "code"]
    assert document["changes"]["code"]["unpack"] == len(image.tars[2])


def test_weights_in_copy_all(registry: FakeRegistry, settings: Settings) -> None:
    """Weights that a COPY . . took along are found by looking into the layer."""
    content = safetensors(w=("F32", (2048, 1200)))
    image = made(
        [
            Part("/bin/sh -c #(nop) ADD file:1 in / ", {"bin/sh": b"s"}),
            Part("COPY . . # buildkit", {"app/README": b"r", "app/big.safetensors": content}, zipped=False),
        ]
    )
    found = layerkit.inspect(push(registry, image), settings=settings)
    assert found.layers[1].role == "checkpoint" and found.layers[1].why == "holds /app/big.safetensors"
    assert found.checkpoint is not None and found.checkpoint.tensors[0].parameters == 2048 * 1200
    assert downloaded(registry, image) < 100 * 1024 < len(image.blobs[1])


def test_large_layer_by_few_bytes(registry: FakeRegistry, settings: Settings) -> None:
    """Shards in one layer: each header is read, and of 40 MiB not one in a hundred bytes."""
    shard = safetensors(w=("BF16", (1024, 5120)))
    files = {f"model/model-{n}-of-4.safetensors": shard for n in range(4)}
    image = made([Part("COPY m", files, False, "checkpoint")])
    found = layerkit.inspect(push(registry, image), settings=settings)
    assert found.checkpoint is not None
    assert [item.parameters for item in found.checkpoint.tensors] == [1024 * 5120] * 4
    assert downloaded(registry, image) * 100 < len(image.blobs[0])


def test_no_ranges(settings: Settings) -> None:
    """A registry that gives no ranges: no layer is read whole for it, and what is missing is said."""
    from dataclasses import replace

    from layerkit.testing import PROFILES

    with FakeRegistry(replace(PROFILES["strict"], ranges=False)) as registry:
        found = layerkit.inspect(push(registry, kit()), settings=settings)
    assert found.layers[0].unpacked is None
    assert found.unpacked.exact is False
    assert found.checkpoint is not None and found.checkpoint.digest


def test_index(registry: FakeRegistry, settings: Settings) -> None:
    """Of an index the image for the asked platform, else this machine's, else the only one."""
    images = {name: made([Part("COPY a", {"a": name.encode()})], architecture=name) for name in ("amd64", "arm64")}
    attestation = Descriptor(
        MEDIA.MANIFEST, images["amd64"].image.manifest.digest, 5, {}, Platform("unknown", "unknown")
    )
    rows = [image.image.manifest.descriptor(image.image.platform) for image in images.values()]
    for image in images.values():
        push(registry, image, "")
    both, one = Index.create([*rows, attestation]), Index.create([rows[1], attestation])
    registry.push("team/model", "both", both)
    registry.push("team/model", "one", one)
    name = f"registry:{registry.host}/team/model"
    found = layerkit.inspect(f"{name}:both", settings=settings)
    assert found.platform == "linux/amd64" and found.platforms == ("linux/amd64", "linux/arm64")
    assert found.index == both.digest
    other = layerkit.inspect(f"{name}:both", platform="linux/arm64", settings=settings)
    assert other.digest == images["arm64"].image.manifest.digest
    by_digest = layerkit.inspect(f"{name}@{both.digest}", platform="linux/arm64", settings=settings)
    assert by_digest.digest == other.digest
    assert layerkit.inspect(f"{name}:one", settings=settings).platform == "linux/arm64"
    with pytest.raises(ConfigurationError, match=r"no image for linux/s390x: it has linux/amd64, linux/arm64"):
        layerkit.inspect(f"{name}:both", platform="linux/s390x", settings=settings)
    with pytest.raises(ConfigurationError, match="is for linux/amd64, not for linux/arm64"):
        layerkit.inspect(f"{name}@{images['amd64'].image.manifest.digest}", platform="linux/arm64", settings=settings)
    with pytest.raises(ConfigurationError, match="--platform"):
        layerkit.inspect(f"{name}:both", platform="nonsense", settings=settings)


def test_bare_reference_without_docker(registry: FakeRegistry, settings: Settings) -> None:
    """Where there is no docker, a bare reference is asked of its registry, and the answer says so."""
    name = push(registry, kit()).removeprefix("registry:")
    found = layerkit.inspect(name, settings=settings)
    assert found.source == "registry" and found.reference == name
    assert layerkit.inspect(f"docker://{name}", settings=settings).source == "registry"


def test_missing(registry: FakeRegistry, settings: Settings) -> None:
    """What is not there is said, with the exit status of a wrong argument."""
    with pytest.raises(ConfigurationError, match="not found in its registry"):
        layerkit.inspect(f"registry:{registry.host}/team/none:v9", settings=settings)


def test_artifact(registry: FakeRegistry, settings: Settings) -> None:
    """An artifact is no image, and named as what it is."""
    blob = registry.put_blob("team/model", b"{}")
    manifest = Manifest.create(Descriptor("application/vnd.cncf.model.config.v1+json", blob, 2), [])
    registry.push("team/model", "art", manifest)
    with pytest.raises(ConfigurationError, match=r"an artifact of type application/vnd\.cncf\.model"):
        layerkit.inspect(f"registry:{registry.host}/team/model:art", settings=settings)


def test_login_needed(settings: Settings) -> None:
    """A registry that does not know us: 5, as everywhere."""
    with FakeRegistry(users={"a": "b"}) as registry, pytest.raises(AuthenticationError):
        layerkit.inspect(push(registry, kit()), settings=settings)


def test_looking_may_fail(registry: FakeRegistry, settings: Settings) -> None:
    """Where a layer cannot be looked into, the rest is told, and why."""
    image = kit()
    name = push(registry, image)
    registry.fail(method="GET", path=image.image.manifest.layers[2].digest.hex, status=451, times=-1)
    found = layerkit.inspect(name, settings=settings)
    assert found.checkpoint is not None and not found.checkpoint.tensors
    assert "451" in found.checkpoint.missing


def test_diff(registry: FakeRegistry, settings: Settings) -> None:
    """Two builds that differ in code: that layer and the new documents, nothing else."""
    before, after = kit(), kit(code=b"y" * 5000)
    found = layerkit.diff(push(registry, before, "a"), push(registry, after, "b"), settings=settings)
    assert found.changed == ("code",) and not found.same and found.settings == ()
    assert found.move.download.bytes == len(after.blobs[3]) and found.move.unpack.bytes == len(after.tars[3])
    assert found.documents == len(after.image.manifest.raw) + len(after.image.config.raw)
    same = layerkit.diff(push(registry, before, "a"), push(registry, before, "c"), settings=settings)
    assert same.same and same.changed == () and same.move.unpack.bytes == 0 and same.documents == 0


def test_diff_of_weights(registry: FakeRegistry, settings: Settings) -> None:
    """New weights: their layer is downloaded, the code above is only unpacked; the setting that names them differs."""
    other = safetensors(a=("F16", (1024, 1024)), b=("F32", (512, 500)))
    before, after = kit(), kit(other)
    found = layerkit.diff(push(registry, before, "a"), push(registry, after, "b"), settings=settings)
    assert found.changed == ("checkpoint",)
    assert found.move.download.bytes == len(after.blobs[2])
    assert found.move.unpack.bytes == len(after.tars[2]) + len(after.tars[3])
    assert [(role.role, role.changed, role.moved) for role in found.roles] == [
        ("base", False, False), ("dependencies", False, False), ("checkpoint", True, False), ("code", False, True),
    ]  # fmt: skip


def test_base(registry: FakeRegistry, settings: Settings) -> None:
    """The image that it was built from tells its layers for certain; another one is refused."""
    image = docker_like(WEIGHTS)
    base = made([Part("/bin/sh -c #(nop) ADD file:abc in / ", {"bin/sh": b"s" * 5000})])
    found = layerkit.inspect(push(registry, image), base=push(registry, base, "base"), settings=settings)
    assert (found.layers[0].role, found.layers[0].guessed) == ("base", False)
    with pytest.raises(ConfigurationError, match="does not stand on"):
        layerkit.inspect(push(registry, image), base=push(registry, kit(), "other"), settings=settings)
