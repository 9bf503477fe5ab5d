"""``layerkit verify`` over real HTTP: what holds, what does not, and how little is read for it."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import layerkit
from layerkit import Mismatch, Verification
from layerkit.checkpoint.hashing import hash_weights
from layerkit.checkpoint.opening import open_weights
from layerkit.cli.verify import _lines
from layerkit.errors import CheckpointError, ConfigurationError, LocalResourceError
from layerkit.oci import MEDIA, Config, Descriptor, Digest, Image, Index, Manifest, Platform, dump
from layerkit.testing import FakeRegistry
from registry.pushing import NAME
from registry.test_weights import SHARDS, Trainer, model
from unit.anatomy.support import Made, Part, docker_like, made, safetensors, tar_of

torch: Any = pytest.importorskip("torch")
save_file = pytest.importorskip("safetensors.torch").save_file

Serve = Callable[..., FakeRegistry]


class Verifier(Trainer):
    """A project whose images are verified after they were pushed."""

    def verify(self, tag: str = "v1", **options: Any) -> Verification:
        """Also asserts that the bytes it says it read are those that the registry was asked for."""
        self.registry.requests.clear()
        reference = f"registry:{self.host}/{NAME}:{tag}" if "/" not in tag else tag
        found = layerkit.verify(reference, settings=self.settings(), **options)
        assert found.read.total == self.downloaded()
        assert json.loads(json.dumps(found.to_json()))["holds"] is found.holds
        return found

    def downloaded(self) -> int:
        """Bytes of blobs that were asked for, manifests and configurations left out."""
        count = 0
        for request in self.registry.asked("GET", "/blobs/"):
            repository, _, digest = request.path.removeprefix("/v2/").partition("/blobs/")
            blob = self.registry.blob(repository, Digest.parse(digest.partition("?")[0]))
            assert blob is not None
            if blob.startswith(b'{"') and b'"rootfs"' in blob:
                continue
            part = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
            count += min(int(part[2]) + 1, len(blob)) - int(part[1]) if part else len(blob)
        return count

    def push_of(self, state: Any) -> Path:
        path = self.save(state)
        self.push()
        return path

    def sizes(self, role: str, tag: str = "v1") -> list[int]:
        layers = self.image(tag).manifest.layers
        return [x.size for x in layers if x.annotations.get("dev.layerkit.role") == role]

    def layers(self, role: str, tag: str = "v1") -> list[Digest]:
        layers = self.image(tag).manifest.layers
        return [x.digest for x in layers if x.annotations.get("dev.layerkit.role") == role]

    def edit(self, tag: str = "v1", *, labels: dict[str, str] | None = None, layer: bytes = b"", at: int = -1) -> None:
        """Push another image under *tag*: with other labels, or with another layer (uncompressed) at *at*."""
        image = self.image(tag)
        document = json.loads(image.config.raw)
        document["config"]["Labels"].update(labels or {})
        layers = list(image.manifest.layers)
        if layer:
            old = layers[at]
            layers[at] = Descriptor(MEDIA.LAYER, Digest.of(layer), len(layer), old.annotations)
            document["rootfs"]["diff_ids"][at] = str(Digest.of(layer))
            self.registry.put_blob(NAME, layer)
        config = Config.parse(dump(document))
        manifest = Manifest.create(config.descriptor, layers, image.manifest.annotations)
        self.registry.push(NAME, tag, Image(manifest, config), [config.raw])


@pytest.fixture
def kit(tmp_path: Path, serve: Serve) -> Verifier:
    registry = serve()
    made = Verifier(tmp_path, registry.host)
    made.seed(registry)
    made.registry = registry
    return made


def hash_of(path: Path, key: str = "") -> str:
    return str(hash_weights(open_weights(path, key)).digest)


def names(found: Verification) -> list[tuple[str, str]]:
    return [(item.kind, item.name) for image in found.images for item in image.mismatches]


def only(found: Verification) -> Mismatch:
    (image,) = found.images
    (item,) = image.mismatches
    return item


# ------------------------------------------------------------------------------------------------ against a file


@pytest.mark.parametrize(
    "options",
    [
        pytest.param("", id="keep"),
        pytest.param('hash = "weights"', id="by weights"),
        pytest.param('format = "safetensors"\nstrip-prefix = "model."\ndtype = "bfloat16"', id="converted"),
        pytest.param(SHARDS, id="shards"),
        pytest.param('compression = "zstd"', id="zstd"),
    ],
)
def test_same_layers(kit: Verifier, options: str) -> None:
    """The file that was packed: by the digests of its layers, and not a byte of the checkpoint's is read."""
    kit.options(options)
    path = kit.save({"state_dict": model(), "epoch": 3})
    kit.push()
    found = kit.verify(checkpoint=path)
    (image,) = found.images
    assert found.holds and image.way == "layers" and image.layers_read == 0
    assert image.read.checkpoint == 0 and image.read.above == sum(kit.sizes("code"))
    assert found.local >= path.stat().st_size or "safetensors" in options
    assert kit.verify(checkpoint=path, above=False).read.total == 0


def test_renamed(kit: Verifier, tmp_path: Path) -> None:
    """The same file under another name is the same checkpoint, still without a byte."""
    path = kit.save(model())
    kit.options("")
    kit.push()
    other = tmp_path / "approved-by-alice.pt"
    other.write_bytes(path.read_bytes())
    assert kit.verify(checkpoint=other, above=False).read.total == 0


def test_saved_anew(kit: Verifier) -> None:
    """Equal tensors in another file: by tensors, and the checkpoint's layers alone are read."""
    kit.options("")
    kit.save({"state_dict": model(), "epoch": 3})
    kit.push()
    path = kit.save({"epoch": 4, "state_dict": dict(reversed(model().items()))})
    found = kit.verify(checkpoint=path)
    (image,) = found.images
    assert found.holds and image.way == "tensors" and image.tensors == len(model())
    assert image.read.checkpoint == sum(kit.sizes("checkpoint"))
    assert str(image.weights) == hash_of(path)


def test_other_weights(kit: Verifier) -> None:
    """A changed tensor is named, with what it should be and is; a missing one, and one too many."""
    kit.options('format = "safetensors"')
    before = model()
    path = kit.save(before)
    kit.push()
    after = {**model(), "lm_head.weight": before["lm_head.weight"] + 1, "new.bias": torch.zeros(2)}
    del after["model.norm.weight"]
    kit.save(after)
    found = kit.verify(checkpoint=path)
    assert not found.holds and found.images[0].way == "tensors"
    assert names(found) == [("tensor", n) for n in ("lm_head.weight", "model.norm.weight", "new.bias")]
    head, norm, new = found.images[0].mismatches
    assert re.fullmatch(r"F32\[192,96\] sha256:[0-9a-f]{64}", head.approved) and head.approved != head.found
    assert norm.approved == "" and norm.found.startswith("F32[96] ")
    assert new.approved.startswith("F32[2] ") and new.found == ""


def test_only_the_changed_shard_is_read(kit: Verifier) -> None:
    """Of shards, those whose digests are the approved ones are not read."""
    kit.options(SHARDS)
    path = kit.save(model())
    kit.push()
    kit.save({**model(), "lm_head.weight": torch.zeros(2 * 96, 96)})
    found = kit.verify(checkpoint=path, above=False)
    (image,) = found.images
    assert names(found) == [("tensor", "lm_head.weight")]
    assert image.layers_read == 1 < len(image.layers)
    assert image.read.checkpoint < sum(kit.sizes("checkpoint")) / 3
    assert image.tensors == len(model())


def test_converted_file_is_the_original(kit: Verifier, tmp_path: Path) -> None:
    """What was packed as bfloat16 holds against the training checkpoint, and against the converted file itself."""
    kit.options('format = "safetensors"\ndtype = "bfloat16"')
    kit.save({"state_dict": model(), "optimizer": {"m": torch.ones(4)}})
    kit.push()
    again = kit.save({"state_dict": model(), "optimizer": {"m": torch.zeros(4)}})
    assert kit.verify(checkpoint=again).images[0].way == "layers"
    converted = tmp_path / "converted.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in model().items()}, converted, {"made": "elsewhere"})
    found = kit.verify(checkpoint=converted)  # packed as it would be, it gives the same layer
    assert found.holds and found.images[0].way == "layers"


def test_zstd_layer(kit: Verifier) -> None:
    """A compressed layer is read as it is stored, and its tar held against the diff_id."""
    kit.options('format = "safetensors"\ncompression = "zstd"')
    path = kit.save({name: torch.zeros_like(tensor) for name, tensor in model().items()})
    kit.push()
    found = kit.verify(weights=hash_of(path))
    (size,) = kit.sizes("checkpoint")
    assert found.holds and found.read.checkpoint == size < path.stat().st_size / 10
    assert kit.verify().holds


def test_plain_bytes(kit: Verifier) -> None:
    """What is no format of weights is compared by files: a folder with one that differs names it."""
    kit.options("", "weights")
    kit.weights(40_000, 1, "a.onnx")
    kit.weights(50_000, 2, "b.onnx")
    kit.push()
    kit.weights(50_000, 3, "b.onnx")
    folder = kit.project / "weights"
    item = only(kit.verify(checkpoint=folder))
    assert (item.kind, item.name) == ("file", "/app/model/b.onnx")
    assert item.approved == str(Digest.of((folder / "b.onnx").read_bytes()))


# ------------------------------------------------------------------------------------------------ by digests


def test_by_weights_hash(kit: Verifier) -> None:
    """The approved weights hash: what is in the image is hashed; another one is told from the label, unread."""
    kit.options('format = "safetensors"')
    path = kit.save(model())
    kit.push()
    found = kit.verify(weights=hash_of(path))
    assert found.holds and found.read.checkpoint == sum(kit.sizes("checkpoint"))
    other = kit.verify(weights="sha256:" + "ab" * 32)
    assert only(other) == Mismatch("label", "dev.layerkit.checkpoint.weights", "sha256:" + "ab" * 32, hash_of(path))
    assert other.read.total == 0


def test_by_digest(kit: Verifier) -> None:
    """Of the image, its layer, and its checkpoint image: nothing of it is read; of the file: its layer is."""
    kit.options("")
    path = kit.save(model())
    pushed = kit.push()
    image = kit.image()
    key = image.config.labels["dev.layerkit.checkpoint"]
    alone = kit.image(f"checkpoint-{key}").manifest.digest
    (layer,) = kit.layers("checkpoint")
    (size,) = kit.sizes("checkpoint")
    for digest, way, most in ((pushed.digest, "image", 0), (layer, "layers", 64 * 1024), (alone, "layers", 64 * 1024)):
        found = kit.verify(digest=str(digest))
        assert found.holds and found.images[0].way == way and found.read.checkpoint == 0
        assert found.read.looks <= most < size
    content = image.config.environment["LAYERKIT_CHECKPOINT_DIGEST"]
    assert content == str(Digest.of(path.read_bytes()))
    found = kit.verify(digest=content)
    assert found.holds and found.images[0].way == "files" and found.read.checkpoint == size
    other = only(kit.verify(digest="sha256:" + "00" * 32))
    assert (other.kind, other.approved, other.found) == ("digest", "sha256:" + "00" * 32, content)


def test_another_checkpoint_image(kit: Verifier) -> None:
    """The checkpoint image of other weights: its layers differ, told from manifests alone."""
    kit.options("")
    kit.save(model())
    kit.push()
    approved = kit.image(f"checkpoint-{kit.image().config.labels['dev.layerkit.checkpoint']}").manifest.digest
    kit.save(model(seed=1))
    kit.push("v2")
    found = kit.verify("v2", digest=str(approved))
    assert [kind for kind, _ in names(found)] == ["layer"] and found.read.total == 0


# --------------------------------------------------------------------------------------------- what it says of itself


@pytest.mark.parametrize("options", ["", 'hash = "weights"', SHARDS, 'compression = "zstd"'])
def test_as_it_says(kit: Verifier, options: str) -> None:
    """An untouched image is what it says of itself; the text says where it was read from."""
    kit.options(options, "weights")
    kit.save(model())
    (kit.project / "weights" / "config.json").write_text("{}")
    kit.push()
    found = kit.verify()
    assert found.holds and found.images[0].way == "labels"
    assert any(line.split() == ["from", "its", "registry"] for line in _lines(found))
    assert found.read.checkpoint == sum(kit.sizes("checkpoint"))
    assert found.images[0].notes == ()


def test_tampered_label(kit: Verifier) -> None:
    """A label that names other weights is found out twice: by the annotation, and by what is in the layers."""
    kit.options('format = "safetensors"')
    path = kit.save(model())
    kit.push()
    kit.edit(labels={"dev.layerkit.checkpoint.weights": "sha256:" + "11" * 32})
    found = kit.verify()
    assert names(found) == [("label", "dev.layerkit.checkpoint.weights")] * 2
    assert found.images[0].mismatches[1].found == hash_of(path)


def test_tampered_layer(kit: Verifier) -> None:
    """Another layer in the checkpoint's place, consistently described: neither label nor checkpoint-<key> agree."""
    kit.options('format = "safetensors"')
    kit.save(model())
    kit.push()
    at = [x.annotations.get("dev.layerkit.role") for x in kit.image().manifest.layers].index("checkpoint")
    kit.edit(layer=tar_of({"app/model/model.safetensors": safetensors(w=("F32", (4, 4)))}), at=at)
    assert {name for _, name in names(kit.verify())} == {"checkpoint layer 1", "dev.layerkit.checkpoint.weights"}


def test_damaged_storage(kit: Verifier) -> None:
    """Bytes of a layer that are not what its digest says: the layer is named, and nothing is said of its tensors."""
    kit.options('format = "safetensors"')
    path = kit.save(model())
    kit.push()
    (digest,) = kit.layers("checkpoint")
    blob = bytearray(kit.registry.blob(NAME, digest) or b"")
    blob[-5000] ^= 1
    kit.registry._file(str(digest)).write_bytes(blob)
    assert only(kit.verify(weights=hash_of(path))).kind == "layer"


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param("app/model/model.safetensors", id="file"),
        pytest.param("app/model/.wh.model.safetensors", id="whiteout"),
        pytest.param("app/model/.wh..wh..opq", id="opaque"),
        pytest.param("app/.wh.model", id="folder gone"),
    ],
)
def test_hidden(kit: Verifier, entry: str) -> None:
    """A layer of code that hides the approved file: the image does not serve the approved weights."""
    kit.options('format = "safetensors"')
    path = kit.save(model())
    kit.push()
    kit.edit(layer=tar_of({entry: b"x"}))
    found = kit.verify(checkpoint=path)
    assert names(found) == [("hidden", "/app/model/model.safetensors")]
    skipped = kit.verify(checkpoint=path, above=False)
    assert skipped.holds and "may hide" in skipped.images[0].notes[0]


# ------------------------------------------------------------------------------------------------ images of others


def push(kit: Verifier, image: Made) -> str:
    kit.registry.push("team/by-hand", "v1", image.image, image.blobs)
    return f"registry:{kit.host}/team/by-hand:v1"


def test_by_hand(kit: Verifier, tmp_path: Path) -> None:
    """An image that nobody marked, its weights in a gzip layer on top."""
    content = safetensors(a=("F32", (64, 64)), b=("F16", (8,)))
    image = docker_like(content)
    reference = push(kit, image)
    file = tmp_path / "w.safetensors"
    file.write_bytes(content)
    found = kit.verify(reference, checkpoint=file)
    assert found.holds and found.images[0].way == "files"
    assert found.read.checkpoint == len(image.blobs[3]) and found.read.above == 0
    assert kit.verify(reference, weights=hash_of(file)).holds
    assert kit.verify(reference, digest=str(Digest.of(content))).holds
    plain = kit.verify(reference)
    assert plain.holds and "says nothing of its weights" in plain.images[0].notes[0]
    assert str(plain.images[0].weights) == hash_of(file)
    other = tmp_path / "other.safetensors"
    other.write_bytes(safetensors(a=("F32", (64, 64)), b=("F16", (9,))))
    assert names(kit.verify(reference, checkpoint=other)) == [("tensor", "b")]


def test_no_weights(kit: Verifier, tmp_path: Path) -> None:
    """An image without any does not hold, once all of its layers were looked into."""
    image = made([Part("ADD rootfs / # buildkit", {"bin/sh": b"s"}), Part("RUN pip", {"lib/a": b"a"})])
    reference = push(kit, image)
    file = tmp_path / "w.safetensors"
    file.write_bytes(safetensors(a=("F32", (64, 64))))
    item = only(kit.verify(reference, weights=hash_of(file)))
    assert (item.kind, item.found) == ("weights", "none: no file of weights is in it")
    assert only(kit.verify(reference, checkpoint=file)) == Mismatch(
        "file", "w.safetensors", str(Digest.of(file.read_bytes()))
    )


def test_weights_in_the_base(kit: Verifier, tmp_path: Path) -> None:
    """An image on an image with weights: they are found below the layers that look like its own."""
    content = safetensors(a=("F32", (64, 64)))
    image = made(
        [
            Part("ADD rootfs / # buildkit", {"bin/sh": b"s"}),
            Part("COPY m # buildkit", {"m/w.safetensors": content}),
            'CMD ["python3"]',
            Part("COPY serve.py /app # buildkit", {"app/serve.py": b"s"}),
        ]
    )
    file = tmp_path / "w.safetensors"
    file.write_bytes(content)
    found = kit.verify(push(kit, image), checkpoint=file)
    assert found.holds and found.read.checkpoint == sum(map(len, image.blobs))


def test_other_archives(kit: Verifier, tmp_path: Path) -> None:
    """ZIP archives that torch.save did not write are no weights, whatever they are called; those it wrote are."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("setup.py", b"")
    torch.save(model(), tmp_path / "m.pt")
    files = {"m/m.pt": (tmp_path / "m.pt").read_bytes(), "m/more.bin": stream.getvalue(), "m/a.whl": stream.getvalue()}
    image = made([Part("ADD rootfs / # buildkit", {"bin/sh": b"s"}), Part("COPY m # buildkit", files)])
    found = kit.verify(push(kit, image), weights=hash_of(tmp_path / "m.pt"))
    assert found.holds and found.images[0].tensors == len(model())


def test_mounted(kit: Verifier) -> None:
    """An image whose weights are mounted when it runs has none to verify."""
    parts = [Part("ADD rootfs / # buildkit", {"bin/sh": b"s"}), Part("COPY serve.py /app", {"app/serve.py": b"s"})]
    image = made(parts, config={"Labels": {"dev.layerkit.placement": "artifact"}})
    with pytest.raises(ConfigurationError, match="mounted when it runs"):
        kit.verify(push(kit, image))


def test_wrong_file(kit: Verifier, tmp_path: Path) -> None:
    """A checkpoint that is missing or damaged is an error of the checkpoint, and nothing of the image is asked for."""
    kit.options("")
    kit.save(model())
    kit.push()
    kit.registry.requests.clear()
    with pytest.raises(CheckpointError):
        kit.verify(checkpoint=tmp_path / "missing.pt")
    assert kit.registry.requests == []
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError):
        kit.verify(checkpoint=broken)


def test_without_torch(kit: Verifier, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without torch a kept file holds by its layers; its tensors cannot be had, and that is no fault of the image."""
    kit.options('hash = "weights"')
    path = kit.save(model())
    approved = hash_of(path)
    kit.push()
    other = kit.save({"state_dict": model()}, "other.pt")
    monkeypatch.setitem(sys.modules, "torch", None)
    path = kit.project / "weights" / "model.pt"
    assert kit.verify(checkpoint=path).images[0].way == "layers"
    for options in ({"weights": approved}, {"checkpoint": other}):
        with pytest.raises(LocalResourceError, match="PyTorch"):
            kit.verify(**options)


def test_no_room(kit: Verifier, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A pickled checkpoint needs room for a copy, which is gone afterwards; too little, or no folder, is said."""
    kit.options("")
    kit.push_of(model())
    approved = hash_of(kit.project / "weights" / "model.pt")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = sorted(tmp_path.iterdir())
    assert kit.verify(weights=approved).holds and sorted(tmp_path.iterdir()) == before
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(LocalResourceError, match="which has 1000"):
        kit.verify(weights=approved)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    with pytest.raises(LocalResourceError, match="cannot be copied"):
        kit.verify(weights=approved)


# ------------------------------------------------------------------------------------------------ platforms, layouts


def test_platforms(kit: Verifier) -> None:
    """All platforms of an index are verified, a layer that they share is read once, and a wrong one is named."""
    kit.options('format = "safetensors"')
    path = kit.save(model())
    kit.push()
    first, approved = kit.image(), hash_of(path)
    kit.save(model(seed=1))
    kit.push("v2")

    def arm(image: Image) -> Image:
        document = json.loads(image.config.raw) | {"architecture": "arm64"}
        config = Config.parse(dump(document))
        return Image(Manifest.create(config.descriptor, image.manifest.layers, image.manifest.annotations), config)

    def index(tag: str, other: Image) -> None:
        kit.registry.push(NAME, f"{tag}-arm", other, [other.config.raw])
        entries = [
            image.manifest.descriptor(Platform("linux", name)) for image, name in ((first, "amd64"), (other, "arm64"))
        ]
        kit.registry.push(NAME, tag, Index.create(entries))

    index("both", arm(first))
    found = kit.verify("both", weights=approved)
    assert found.holds and [image.platform for image in found.images] == ["linux/amd64", "linux/arm64"]
    assert found.read.checkpoint == sum(kit.sizes("checkpoint")) and found.read.above == sum(kit.sizes("code"))
    index("mixed", arm(kit.image("v2")))
    mixed = kit.verify("mixed", checkpoint=kit.save(model()))
    assert [image.holds for image in mixed.images] == [True, False]
    assert kit.verify("mixed", checkpoint=path, platform="linux/amd64").holds


def test_docker_prefix_of_a_layout(kit: Verifier, tmp_path: Path) -> None:
    """An OCI layout is verified as a registry is; bytes that rotted on the disk are found."""
    from layerkit.settings import Settings
    from unit.anatomy.support import write_layout

    content = safetensors(a=("F32", (64, 64)))
    image = docker_like(content)
    folder = write_layout(tmp_path / "layout", {"v1": image})
    file = tmp_path / "w.safetensors"
    file.write_bytes(content)
    settings = replace(Settings(), docker_config=tmp_path)
    found = layerkit.verify(f"oci:{folder}", checkpoint=file, settings=settings)
    assert found.holds and found.source == "oci" and found.read.checkpoint == len(image.blobs[3])
    blob = folder / "blobs" / "sha256" / Digest.of(image.blobs[3]).hex
    blob.write_bytes(image.blobs[3][:-9] + b"123456789")
    assert not layerkit.verify(f"oci:{folder}", checkpoint=file, settings=settings).holds
