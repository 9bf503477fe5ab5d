from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

import layerkit
from layerkit.anatomy.choosing import verified
from layerkit.anatomy.difference import settings_of
from layerkit.anatomy.in_docker import local_layers
from layerkit.errors import ConfigurationError, IntegrityError
from layerkit.oci import MEDIA, Descriptor, Digest, Index
from layerkit.settings import Settings

from .support import Part, docker_like, made, safetensors, write_layout

HERE = Settings(environment={})
WEIGHTS = safetensors(a=("F16", (64, 64)))


def test_layout(tmp_path: Path) -> None:
    """An OCI layout: by tag, or the only one; in a folder whose name has a colon too."""
    image = docker_like(WEIGHTS)
    folder = write_layout(tmp_path / "out:x", {"v1": image})
    for reference in (f"oci:{folder}", f"oci:{folder}:v1"):
        found = layerkit.inspect(reference, settings=HERE)
        assert found.digest == image.image.manifest.digest and found.source == "oci"
        assert found.checkpoint is not None and found.checkpoint.tensors[0].parameters == 64 * 64
        assert found.platform == "linux/amd64"


def test_layout_of_several(tmp_path: Path) -> None:
    """With several images one must be chosen; layerkit's own tags are not among those offered."""
    images = {"a": docker_like(WEIGHTS), "b": made([Part("COPY b", {"b": b"b"})])}
    folder = write_layout(tmp_path, {**images, "runtime-00": images["a"], "checkpoint-11": images["b"]})
    with pytest.raises(ConfigurationError, match="has a, b"):
        layerkit.inspect(f"oci:{folder}", settings=HERE)
    with pytest.raises(ConfigurationError, match="not in the layout"):
        layerkit.inspect(f"oci:{folder}:c", settings=HERE)
    index = Index.create([image.image.manifest.descriptor(image.image.platform) for image in images.values()])
    nested = write_layout(tmp_path / "n", {"v1": index}, also=list(images.values()))
    assert layerkit.inspect(f"oci:{nested}", settings=HERE).index == index.digest


def test_indexes_in_indexes(tmp_path: Path) -> None:
    """An index in an index is followed, and a tower of them is refused."""
    image = made([Part("COPY b", {"b": b"b"})])
    tower: list[Index] = [Index.create([image.image.manifest.descriptor(image.image.platform)])]
    for _ in range(6):
        tower.append(Index.create([tower[-1].descriptor()]))
    folder = write_layout(tmp_path, {f"v{n}": index for n, index in enumerate(tower)}, also=[image])
    assert layerkit.inspect(f"oci:{folder}:v2", settings=HERE).digest == image.image.manifest.digest
    with pytest.raises(IntegrityError, match="an index in an index"):
        layerkit.inspect(f"oci:{folder}:v6", settings=HERE)


def test_too_large(tmp_path: Path) -> None:
    """A manifest of gigabytes is not read into memory."""
    with (tmp_path / "index.json").open("wb") as stream:
        stream.truncate(1 << 34)
    with pytest.raises(ConfigurationError, match="over 8388608 bytes"):
        layerkit.inspect(f"oci:{tmp_path}", settings=HERE)


def test_other_bytes() -> None:
    """A blob of other bytes is told before its last chunk is given, with the next step of whoever has it."""
    descriptor = Descriptor(MEDIA.LAYER, Digest.of(b"right"), 5)
    with pytest.raises(IntegrityError, match="x is not what its name says") as caught:
        list(verified("x", descriptor, io.BytesIO(b"wrong"), "pull it again"))
    assert caught.value.hint == "pull it again"
    assert list(verified("x", descriptor, io.BytesIO(b"right"), "")) == [b"right"]


def test_damaged_layout(tmp_path: Path) -> None:
    """No layout, no JSON, a blob that is another: each said as what it is."""
    with pytest.raises(ConfigurationError, match="no OCI layout"):
        layerkit.inspect(f"oci:{tmp_path}", settings=HERE)
    image = docker_like(WEIGHTS)
    folder = write_layout(tmp_path, {"v1": image})
    config = folder / "blobs" / "sha256" / image.image.config.digest.hex
    config.write_bytes(config.read_bytes() + b" ")
    with pytest.raises(IntegrityError, match="not what its name says"):
        layerkit.inspect(f"oci:{folder}", settings=HERE)
    config.unlink()
    with pytest.raises(IntegrityError, match="No such file"):
        layerkit.inspect(f"oci:{folder}", settings=HERE)
    (folder / "index.json").write_text("[")
    with pytest.raises(IntegrityError, match=r"index\.json"):
        layerkit.inspect(f"oci:{folder}", settings=HERE)


def test_missing_layer_of_a_layout(tmp_path: Path) -> None:
    """Layers that are not there are still told of, from the manifest."""
    image = docker_like(WEIGHTS)
    folder = write_layout(tmp_path, {"v1": image})
    for layer in image.image.manifest.layers:
        (folder / "blobs" / "sha256" / layer.digest.hex).unlink()
    found = layerkit.inspect(f"oci:{folder}", settings=HERE)
    assert found.size.bytes == sum(len(blob) for blob in image.blobs) and not found.unpacked.exact
    assert found.checkpoint is not None and "cannot be read" in found.checkpoint.missing


def test_repeated_layer(tmp_path: Path) -> None:
    """The same file copied twice is there once when placed well, and downloaded once."""
    weights = {"m/model.pt": bytes(range(256)) * 4000}
    image = made([Part("ADD rootfs / ", {"sh": b"s"}), Part("COPY model.pt /m/", weights),
                  Part("COPY app /app", {"a": b"a"}), Part("COPY model.pt /m/", weights)])  # fmt: skip
    found = layerkit.inspect(f"oci:{write_layout(tmp_path, {'v': image})}", settings=HERE)
    assert [layer.again for layer in found.layers] == ["", "", "", str(found.layers[1].diff_id)]
    assert found.size.bytes == sum(len(blob) for blob in image.blobs[:3])
    assert found.unpacked.bytes == sum(len(tar) for tar in image.tars)
    assert found.to_json()["placed_well"]["repeated"] == len(image.blobs[1])


def test_diff_of_settings(tmp_path: Path) -> None:
    """Environment, command and labels: each with its old and its new value."""
    old = {"Env": ["A=1", "B=2"], "Cmd": ["python", "a b.py"], "Labels": {"x": "1"}, "ExposedPorts": {"80/tcp": {}}}
    new = {"Env": ["A=1", "B=3", "C="], "Cmd": ["python"], "User": "app"}
    parts = [Part("COPY a /", {"a": b"a"})]
    folder = write_layout(tmp_path, {"old": made(parts, config=old), "new": made(parts, config=new)})
    found = layerkit.diff(f"oci:{folder}:old", f"oci:{folder}:new", settings=HERE)
    assert [(c.name, c.before, c.after) for c in found.settings] == [
        ("Cmd", "python 'a b.py'", "python"), ("Env.B", "2", "3"), ("Env.C", None, ""),
        ("ExposedPorts", "80/tcp", None), ("Labels.x", "1", None), ("User", None, "app"),
    ]  # fmt: skip
    assert not found.same and found.changed == () and found.documents > 0
    document = json.loads(json.dumps(found.to_json()))
    assert document["config"][1] == {"name": "Env.B", "before": "2", "after": "3"}
    assert document["download"] == 0


def test_diff_of_compression(tmp_path: Path) -> None:
    """The same content stored otherwise: nothing changed, nothing unpacked, since a chain ID is of contents."""
    files = {"a": b"a" * 5000}
    images = {name: made([Part("COPY a /", files, zipped)]) for name, zipped in (("zip", True), ("tar", False))}
    folder = write_layout(tmp_path, images)
    found = layerkit.diff(f"oci:{folder}:zip", f"oci:{folder}:tar", settings=HERE)
    assert found.changed == () and found.move.unpack.bytes == 0 and found.move.download.bytes == 0
    assert found.same and found.before.digest != found.after.digest


def test_odd_settings() -> None:
    """Whatever a configuration holds becomes text."""
    assert settings_of({"Env": "x", "Labels": [1], "Healthcheck": {"Test": ["CMD"]}, "Tty": True, "User": ""}) == {
        "Env": "x", "Labels": "1", "Healthcheck": "Test=['CMD']", "Tty": "True",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("history", "layers", "expected"),
    [
        pytest.param([("ADD a", 5), ("ENV x", 0), ("COPY b", 3)], 2, (0, 2), id="by size"),
        pytest.param([("ADD a", 5), ("CMD x", 0), ("WORKDIR /w", 0), ("COPY b", 3)], 3, (0, 2, 3), id="empty workdir"),
        pytest.param([("ADD a", 5), ("RUN true", 0), ("WORKDIR /", 0)], 2, (0, 1), id="workdir that is there"),
        pytest.param([("a", 0), ("b", 0)], 2, (0, 1), id="all"),
        pytest.param([("ADD a", 5), ("COPY b", None)], 2, (0, 1), id="unknown size"),
        pytest.param([("ADD a", 5)], 3, (), id="cannot be told"),
        pytest.param([], 1, (), id="no history"),
    ],
)
def test_local_layers(history: list[tuple[str, int | None]], layers: int, expected: tuple[int, ...]) -> None:
    """Which steps made layers follows from sizes and instructions; where it does not, nothing is made up."""
    assert local_layers(history, layers) == expected


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"seconds": 1}', "{" * 5000])
def test_no_timeline(tmp_path: Path, content: str) -> None:
    """A file that is no object of a build is refused as an argument."""
    file = tmp_path / "t.json"
    file.write_text(content)
    folder = write_layout(tmp_path / "o", {"v": docker_like(WEIGHTS)})
    with pytest.raises(ConfigurationError, match="--timeline"):
        layerkit.inspect(f"oci:{folder}", timeline=file, settings=HERE)


def test_no_history(tmp_path: Path) -> None:
    """An image without history: unknown roles, sizes all the same."""
    image = made([Part("", {"a": b"a"}), Part("", {"b": b"b"})], history=False)
    found = layerkit.inspect(f"oci:{write_layout(tmp_path, {'v': image})}", settings=HERE)
    assert [layer.role for layer in found.layers] == ["unknown", "unknown"] and found.checkpoint is None
    assert found.change("code") is None and found.size.exact


def test_zstd(tmp_path: Path) -> None:
    """Layers in a form that is not read in parts: their unpacked size is "at least"."""
    image = made([Part("COPY m.pt /", {"m.pt": b"m" * 900}, media_type=MEDIA.LAYER_ZSTD)])
    found = layerkit.inspect(f"oci:{write_layout(tmp_path, {'v': image})}", settings=HERE)
    assert found.layers[0].unpacked is None and not found.unpacked.exact
    assert found.checkpoint is not None and "not read in parts" in found.checkpoint.missing
    assert isinstance(found.layers[0].digest, Digest)
