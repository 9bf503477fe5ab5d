"""Weights in real pushes: made into safetensors while they are sent, in shards, and known again by their tensors."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layerkit.checkpoint.convert import convert
from layerkit.checkpoint.hashing import hash_weights
from layerkit.checkpoint.opening import open_weights
from layerkit.checkpoint.recipe import Options
from layerkit.checkpoint.safetensors import INDEX_NAME
from layerkit.errors import CheckpointError
from layerkit.oci import Config, Image, Manifest
from layerkit.pipeline import build, plan
from layerkit.planner import LayerPlan, Plan
from layerkit.project import load
from layerkit.registry import Client
from layerkit.results import Result
from layerkit.settings import Settings
from layerkit.testing import FakeRegistry
from registry.pushing import NAME, Pushing

torch: Any = pytest.importorskip("torch")

from layerkit.checkpoint.loading import load_weights  # noqa: E402

Serve = Callable[..., FakeRegistry]
KIB = 1024


class Trainer(Pushing):
    """A project whose checkpoint torch has saved."""

    registry: FakeRegistry

    def options(self, text: str, path: str = "weights/model.pt") -> None:
        """What [checkpoint] says."""
        file = self.project / "layerkit.toml"
        head = file.read_text().partition("[checkpoint]")[0]
        file.write_text(f'{head}[checkpoint]\npath = "{path}"\ntarget = "/app/model/"\n{text}\n')

    def save(self, state: Any, name: str = "model.pt", **options: Any) -> Path:
        path = self.project / "weights" / name
        path.unlink(missing_ok=True)
        torch.save(state, path, **options)
        return path

    def settings(self) -> Settings:
        return Settings.from_environment(self.environ)

    def fresh(self) -> None:
        """Another machine: nothing is remembered."""
        self.state = self.root / f"state-{self.state.name}"

    def push(self, tag: str = "v1") -> Result:
        return build(load(None, root=self.project), tags=[tag], push=True, settings=self.settings())

    def plan(self, tag: str = "v1") -> Plan:
        return plan(load(None, root=self.project), tags=[tag], push=True, settings=self.settings())

    def layer(self, tag: str = "v1") -> LayerPlan:
        (found,) = (layer for layer in self.plan(tag).layers if layer.role == "checkpoint")
        return found

    def python(self, code: str) -> str:
        """What *code* prints in a process of its own, in the project."""
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=self.project, env=self.environ, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def image(self, tag: str = "v1") -> Image:
        with Client() as client:
            from layerkit.oci import Reference

            repository = client.repository(Reference.parse(f"{self.host}/{NAME}"))
            manifest = repository.manifest(tag)
            assert isinstance(manifest, Manifest)
            return Image(manifest, Config.parse(repository.blob(manifest.config)))

    def unpack(self, folder: Path, tag: str = "v1") -> Path:
        """The checkpoint as the image has it."""
        for descriptor in self.image(tag).manifest.layers:
            if descriptor.annotations.get("dev.layerkit.role") == "checkpoint":
                raw = self.registry.blob(NAME, descriptor.digest)
                assert raw is not None
                with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
                    tar.extractall(folder, filter="data")
        return folder / "app" / "model"


@pytest.fixture
def trainer(tmp_path: Path, serve: Serve) -> Trainer:
    registry = serve()
    made = Trainer(tmp_path, registry.host)
    made.seed(registry)
    made.registry = registry
    return made


def model(*, blocks: int = 6, width: int = 96, seed: int = 0) -> dict[str, Any]:
    """A state dict like that of a language model: an embedding, blocks, a head."""
    torch.manual_seed(seed)
    state = {"model.embed_tokens.weight": torch.randn(4 * width, width)}
    for number in range(blocks):
        state |= {
            f"model.layers.{number}.attn.q_proj.weight": torch.randn(width, width),
            f"model.layers.{number}.attn.q_proj.bias": torch.randn(width),
            f"model.layers.{number}.mlp.up_proj.weight": torch.randn(width, 3 * width),
        }
    return state | {"model.norm.weight": torch.ones(width), "lm_head.weight": torch.randn(2 * width, width)}


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def read(result: Result) -> tuple[tuple[str, ...], int]:
    return result.rebuilt, result.checkpoint_read


SHARDS = 'format = "safetensors"\nshard-size = "150KiB"'


def test_only_weights_ship(trainer: Trainer, tmp_path: Path) -> None:
    """The image has the file that `checkpoint convert` writes, to the byte, and names it by its weights hash."""
    trainer.options(
        'format = "safetensors"\nkey = "net"\nstrip-prefix = "module."\ndtype = "bfloat16"\ndrop = ["*.bias"]'
    )
    state = {f"module.{name}": tensor for name, tensor in model().items()}
    path = trainer.save({"net": state, "optimizer": {"moment": torch.randn(500_000)}, "epoch": 3})
    trainer.push()
    folder = trainer.unpack(tmp_path / "out")
    (file,) = convert(path, Options("net", "module.", "bfloat16", ("*.bias",))).files
    assert [item.name for item in folder.iterdir()] == ["model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == b"".join(map(bytes, file.open()))
    image = trainer.image()
    weights = str(hash_weights(open_weights(folder / "model.safetensors")).digest)
    assert image.config.environment["LAYERKIT_CHECKPOINT"] == "/app/model/model.safetensors"
    assert image.config.environment["LAYERKIT_CHECKPOINT_DIGEST"] == weights
    assert image.config.labels["dev.layerkit.checkpoint.weights"] == weights


def test_saved_anew(trainer: Trainer) -> None:
    """The same tensors in another file: nothing is uploaded, also by a machine that knows nothing; plan says so."""
    trainer.options('format = "safetensors"')
    trainer.save({"state_dict": model(), "epoch": 3})
    first = trainer.push()
    turned = {name: tensor.t().contiguous().t() if tensor.dim() == 2 else tensor for name, tensor in model().items()}
    trainer.save({"epoch": 4, "state_dict": dict(reversed(turned.items()))}, _use_new_zipfile_serialization=False)
    trainer.fresh()
    planned = trainer.plan()
    (layer,) = (layer for layer in planned.layers if layer.role == "checkpoint")
    assert (layer.action, layer.bytes_to_upload, planned.changes) == ("reused", 0, False)
    assert "hashed: the same tensors (weights hash " in layer.reason
    trainer.fresh()
    trainer.registry.requests.clear()
    again = trainer.push()
    assert again.digest == first.digest and again.uploaded == 0
    assert trainer.registry.received_bytes() == 0
    size = sum(tensor.nbytes for tensor in model().values())
    assert size < again.checkpoint_read < size + 10_000  # the head of the file is read as it is made


def test_nothing_is_read_twice(trainer: Trainer) -> None:
    """A file that is as it was is not opened: without torch, and without a byte read."""
    trainer.options(SHARDS)
    trainer.save(model())
    trainer.push()
    command = "import layerkit, sys; r = layerkit.build(layerkit.load(), tags=['v1'], push=True);"
    done = trainer.python(f"{command} print(r.checkpoint_read, r.uploaded, r.rebuilt, 'torch' in sys.modules)")
    assert done == "0 0 () False"


def test_keep_by_weights(trainer: Trainer, tmp_path: Path) -> None:
    """A file that is kept: another epoch makes no other checkpoint; other tensors do, and another tokenizer does."""
    trainer.options('hash = "weights"\nkey = "net"', "weights")
    (trainer.project / "weights" / "tokenizer.json").write_text("{}")
    path = trainer.save({"net": model(), "epoch": 3})
    before = path.read_bytes()
    first = trainer.push()
    trainer.save({"net": model(), "epoch": 4})
    second = trainer.push()
    assert second.digest == first.digest and second.uploaded == 0
    assert (trainer.unpack(tmp_path / "a") / "model.pt").read_bytes() == before
    trainer.save({"net": model(seed=1), "epoch": 4})
    assert trainer.layer().reason == "weights changed: hashed while they are sent"
    third = trainer.push()
    assert third.rebuilt == ("checkpoint",)
    weights = str(hash_weights(open_weights(trainer.project / "weights" / "model.pt", "net")).digest)
    assert trainer.image().config.labels["dev.layerkit.checkpoint.weights"] == weights
    assert trainer.image().config.environment["LAYERKIT_CHECKPOINT"] == "/app/model"
    (trainer.project / "weights" / "tokenizer.json").write_text("[]")
    trainer.fresh()
    assert trainer.push().rebuilt == ("checkpoint",)
    assert (trainer.unpack(tmp_path / "b") / "tokenizer.json").read_text() == "[]"


def test_frozen_backbone(trainer: Trainer, tmp_path: Path) -> None:
    """A trained head moves its shard and nothing else, at most a tenth more than its bytes; plan says which."""
    trainer.options(SHARDS)
    state = model(width=192)
    trainer.save(state)
    first = trainer.push()
    shards = [layer for layer in first.layers if layer.role == "checkpoint"]
    assert len(shards) > 5
    state["lm_head.weight"] = torch.randn_like(state["lm_head.weight"])
    trainer.save({"state_dict": state, "epoch": 2})
    trainer.fresh()
    layer = trainer.layer()
    (changed,) = (part for part in layer.parts if part.changed is not False)
    assert changed.changed and changed.name.startswith("model-lm_head-") and layer.bytes_to_upload == changed.size
    assert layer.reason == f"1 of {len(shards)} layers changed; the others are there"
    rows = {row["role"]: row for row in json.loads(json.dumps(trainer.plan().to_json()))["layers"]}
    assert rows["checkpoint"]["parts"][0].keys() == {"name", "bytes", "changed"}
    trainer.fresh()
    trainer.registry.requests.clear()
    second = trainer.push()
    moved = state["lm_head.weight"].nbytes
    assert moved < trainer.registry.received_bytes() <= 1.1 * moved
    assert moved < second.uploaded <= 1.1 * moved
    total = sum(tensor.nbytes for tensor in state.values())
    assert total < second.checkpoint_read < 1.05 * total  # every byte once
    assert len([layer for layer in second.layers if layer.action == "packed"]) == 1
    folder = trainer.unpack(tmp_path / "out")
    assert equal(load_weights(folder), state)
    assert trainer.image().config.environment["LAYERKIT_CHECKPOINT"] == "/app/model"
    assert second.digest == trainer.push().digest


def test_transformers_layout(trainer: Trainer, tmp_path: Path) -> None:
    """A folder: its other files stay, its weights become shards with the index that names them, a layer each."""
    from safetensors.torch import load_file

    trainer.options(SHARDS + "\nmax-layers = 5", "weights")
    (trainer.project / "weights" / "config.json").write_text('{"a": 1}')
    trainer.save(model(), "pytorch_model.bin")
    result = trainer.push()
    assert 2 < len([layer for layer in result.layers if layer.role == "checkpoint"]) <= 5
    folder = trainer.unpack(tmp_path / "out")
    names = {path.name for path in folder.iterdir()}
    index = json.loads((folder / INDEX_NAME).read_text())
    assert names == {"config.json", INDEX_NAME, *index["weight_map"].values()}
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in model().values())
    found = {name: load_file(folder / file)[name] for name, file in index["weight_map"].items()}
    assert equal(found, model()) and equal(load_weights(folder), model())


@pytest.mark.parametrize("options", ['format = "keep"', 'format = "safetensors"', 'format = "keep"\nhash = "weights"'])
def test_shards_that_are_there(trainer: Trainer, tmp_path: Path, options: str) -> None:
    """A folder that is in shards keeps them, a layer each; only a changed one is sent again."""
    from safetensors.torch import save_file

    trainer.options(options, "weights")
    names = sorted(model())
    files = {f"model-{n + 1:05d}-of-00003.safetensors": names[n::3] for n in range(3)}
    state = model()
    folder = trainer.project / "weights"
    index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
    (folder / INDEX_NAME).write_text(json.dumps(index))
    for file, part in files.items():
        save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
    first = trainer.push()
    assert len([layer for layer in first.layers if layer.role == "checkpoint"]) == 4
    file, part = next(iter(files.items()))
    state |= {name: state[name] + 1 for name in part}
    save_file({name: state[name] for name in part}, folder / file, metadata={"format": "pt"})
    second = trainer.push()
    packed = [layer for layer in second.layers if layer.action == "packed"]
    assert len(packed) == 1 and packed[0].size >= (folder / file).stat().st_size
    out = trainer.unpack(tmp_path / "out")
    assert equal(load_weights(out), state) and {path.name for path in out.iterdir()} == {INDEX_NAME, *files}


def test_hash_of_the_file(trainer: Trainer) -> None:
    """hash = "file" with safetensors: a file that was saved anew has another key, and the same layers."""
    trainer.options('format = "safetensors"\nhash = "file"')
    trainer.save({"state_dict": model(), "epoch": 1})
    first = trainer.push()
    assert trainer.push().uploaded == 0
    trainer.save({"state_dict": model(), "epoch": 2})
    second = trainer.push()
    assert second.digest != first.digest and second.rebuilt == ()
    assert [layer.digest for layer in second.layers] == [layer.digest for layer in first.layers]
    labels = trainer.image().config.labels
    assert labels["dev.layerkit.checkpoint.weights"] == labels["dev.layerkit.checkpoint.digest"]
    trainer.fresh()
    assert trainer.push().digest == second.digest


def test_another_registry(trainer: Trainer, serve: Serve) -> None:
    """What was hashed for one destination is sent to another, and read once for that."""
    trainer.options(SHARDS)
    trainer.save(model())
    first = trainer.push()
    other = serve()
    runtime, blobs = trainer.runtime()
    other.push(NAME, f"runtime-{trainer.image().config.labels['dev.layerkit.runtime']}", runtime, blobs)
    project = load(None, root=trainer.project, overrides=[f'image.name="{other.host}/{NAME}"'])
    second = build(project, tags=["v1"], push=True, settings=trainer.settings())
    assert (second.rebuilt, second.digest) == (("checkpoint",), first.digest)
    size = sum(tensor.nbytes for tensor in model().values())
    assert size < second.checkpoint_read < size + 64 * KIB and size < other.received_bytes()


def test_changed_meanwhile(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that is written to while it is converted ends the build; no tag is moved."""
    trainer.options('format = "safetensors"')
    path = trainer.save(model())
    settings = trainer.settings()

    def listener(event: object) -> None:
        if getattr(event, "name", "") == "checkpoint" and getattr(event, "state", "") == "started":
            with path.open("r+b") as stream:
                stream.truncate(path.stat().st_size + 1)

    with pytest.raises(CheckpointError, match="changed while it was read; nothing was tagged"):
        build(load(None, root=trainer.project), tags=["v1"], push=True, settings=settings, listener=listener)
    assert trainer.registry.tag(NAME, "v1") is None


@pytest.mark.parametrize(
    ("options", "path", "expected"),
    [
        pytest.param('format = "safetensors"\nkey = "ema"', "weights/model.pt", "ema", id="no-such-key"),
        pytest.param('format = "safetensors"', "weights/note.txt", "no format of weights", id="no-weights"),
        pytest.param('format = "safetensors"', "weights/*", "matches 2 files", id="glob"),
        pytest.param('format = "safetensors"\ndrop = ["*"]', "weights/model.pt", "no tensor is left", id="nothing"),
    ],
)
def test_what_cannot_be_read(trainer: Trainer, options: str, path: str, expected: str) -> None:
    """A checkpoint whose weights cannot be had is said before anything is sent: exit status 3."""
    trainer.options(options, path)
    trainer.save({"state_dict": model()})
    (trainer.project / "weights" / "note.txt").write_text("these are not the weights")
    with pytest.raises(CheckpointError, match=expected) as caught:
        trainer.push()
    assert caught.value.exit_status == 3 and trainer.registry.tag(NAME, "v1") is None


def test_resumed(trainer: Trainer, tmp_path: Path) -> None:
    """An upload of a file that is made while it is sent goes on where it was cut."""
    trainer.options('format = "safetensors"\ndtype = "float16"')
    state = {"a": torch.randn(1200, 1024), "b": torch.randn(900, 1024).t()}
    trainer.save(state)
    trainer.registry.fail(method="PATCH", action="reset", after_bytes=2_000_000)
    trainer.push()
    found = load_weights(trainer.unpack(tmp_path / "out"))
    assert equal(found, {name: tensor.half() for name, tensor in state.items()})
    sent = trainer.registry.received_bytes(method="PATCH")
    assert sent < 2 * sum(tensor.nbytes for tensor in state.values()) // 2 + 2_000_000


@pytest.mark.timeout(120)
@pytest.mark.parametrize("compression", ["none", "auto"])
def test_more_weights_than_memory(
    compression: str, tmp_path: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the weights do not fit into memory, the same layers come of them, with the same bytes read and sent."""
    values = (torch.randn(6_000_000), torch.zeros(18_000_000), torch.randn(5_000_000))
    found = []
    for number, fits in enumerate((0, 1 << 62)):
        registry = serve()
        root = tmp_path / str(number)
        root.mkdir()
        trainer = Trainer(root, registry.host)
        trainer.seed(registry)
        trainer.options(f'compression = "{compression}"', "weights")
        for shard, value in enumerate(values, 1):
            trainer.save({"weight": value}, f"model-{shard:05}-of-00003.pt")
        trainer.save({"small": torch.zeros(3)}, "small.pt")
        monkeypatch.setattr("layerkit.packing.for_files", lambda fits=fits: fits)
        document = trainer.push().to_json()
        layers = [layer["digest"] for layer in document["layers"] if layer["role"] == "checkpoint"]
        found.append((layers, document["bytes"]))
    assert len(found[0][0]) == 4 and found[0][1]["checkpoint_read"] > 116_000_000
    assert found[0] == found[1]


def test_one_shard_of_many(trainer: Trainer, serve: Serve, tmp_path: Path) -> None:
    """Of shards kept as they are the changed one alone is read; a registry that has none gets all, each read once."""
    trainer.options("", "weights")
    for shard in range(3):
        (trainer.project / "weights" / f"model-{shard}-of-3.pt").write_bytes(bytes([shard]) * 300_000)
    assert trainer.push().to_json()["bytes"]["checkpoint_read"] == 900_000
    (trainer.project / "weights" / "model-1-of-3.pt").write_bytes(b"x" * 300_000)
    assert [part.changed for part in trainer.layer().parts] == [False, None, False]
    assert "1 of 3 layers changed" in trainer.layer().reason
    document = trainer.push().to_json()
    assert document["bytes"]["checkpoint_read"] == 300_000 and 300_000 < document["bytes"]["uploaded"] < 330_000
    assert trainer.push().to_json()["bytes"]["checkpoint_read"] == 0
    registry = serve()
    (tmp_path / "other").mkdir()
    other = Trainer(tmp_path / "other", registry.host)
    other.seed(registry)
    other.state = trainer.state
    other.options("", str(trainer.project / "weights"))
    document = other.push().to_json()
    assert document["bytes"]["checkpoint_read"] == 900_000 and document["bytes"]["uploaded"] > 900_000
