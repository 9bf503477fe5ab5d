"""Weights that layerkit understands, through a real builder, registry and containers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import layerkit

from .conftest import CountingProxy, Workspace

torch: Any = pytest.importorskip("torch")

OPTIONS = """
[checkpoint]
path = "model.pth.tar"
target = "/app/model/"
format = "safetensors"
key = "state_dict"
strip-prefix = "module."
"""


def digits(seed: int = 0) -> dict[str, Any]:
    """The network of examples/digits, wider, as DataParallel names its tensors."""
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 512), torch.nn.ReLU()]
    network = torch.nn.ModuleDict({"features": torch.nn.Sequential(*layers), "head": torch.nn.Linear(512, 1000)})
    return {f"module.{name}": tensor for name, tensor in network.state_dict().items()}


def save(workspace: Workspace, state: dict[str, Any], epoch: int = 1, *, options: str = "") -> None:
    """What a trainer leaves: weights and all that training needs; and the project that makes an image of it."""
    torch.save(
        {"state_dict": state, "epoch": epoch, "optimizer": {"m": torch.zeros(300_000)}}, workspace.root / "new.pt"
    )
    (workspace.root / "new.pt").replace(workspace.root / "model.pth.tar")
    file = workspace.root / "layerkit.toml"
    file.write_text(file.read_text().partition("\n[checkpoint]")[0] + OPTIONS + options)


def unpacked(workspace: Workspace, folder: Path, tag: str = "v1") -> Path:
    """/app/model of the image, as a container has it."""
    folder.mkdir()
    docker, reference = workspace.engine.docker, f"{workspace.repository}:{tag}"
    docker("pull", "-q", reference)
    container = docker("create", "--network", "none", reference)
    docker("cp", f"{container}:/app/model/.", str(folder))
    docker("rm", container)
    return folder


def weights(state: dict[str, Any]) -> dict[str, Any]:
    return {name.removeprefix("module."): tensor for name, tensor in state.items()}


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return set(a) == set(b) and all(torch.equal(a[name], b[name]) for name in a)


def test_one_file(workspace: Workspace, tmp_path: Path) -> None:
    """The image holds the weights alone; it says where, and which; the same weights saved anew move nothing."""
    state = digits()
    save(workspace, state)
    built = workspace.build()
    folder = unpacked(workspace, tmp_path / "out")
    assert [path.name for path in folder.iterdir()] == ["model.safetensors"]
    assert equal(layerkit.load_weights(folder / "model.safetensors"), weights(state))
    code = "import os; print(os.environ['LAYERKIT_CHECKPOINT'], os.environ['LAYERKIT_CHECKPOINT_DIGEST'])"
    digest = workspace.run("checkpoint", "digest", str(folder / "model.safetensors")).stdout.split()[0]
    assert workspace.python(code).split() == ["/app/model/model.safetensors", digest]
    save(workspace, dict(reversed(state.items())), epoch=2)
    workspace.fresh_machine()
    again = workspace.build()
    assert again["digest"] == built["digest"] and again["bytes"]["uploaded"] == 0 and not again["builder"]["ran"]


def test_shards(workspace: Workspace, proxy: CountingProxy, tmp_path: Path) -> None:
    """In shards: a trained head moves at most a tenth more than its bytes; what comes out is what went in."""
    state = digits()
    workspace.repository = workspace.repository.replace(workspace.engine.registry, proxy.host)
    file = workspace.root / "layerkit.toml"
    file.write_text(file.read_text().replace(workspace.engine.registry, proxy.host, 1))
    save(workspace, state, options='shard-size = "1MiB"\n')
    workspace.build()
    count = len(workspace.digests("checkpoint"))
    assert count > 3 and workspace.python("import os; print(os.environ['LAYERKIT_CHECKPOINT'])") == "/app/model"
    head = state["module.head.weight"]
    save(workspace, state | {"module.head.weight": head + 1}, options='shard-size = "1MiB"\n')
    planned = workspace.plan()
    (layer,) = (layer for layer in planned["layers"] if layer["role"] == "checkpoint")
    assert [part["changed"] for part in layer["parts"]].count(True) == 1 and len(layer["parts"]) == count
    proxy.take()
    built = workspace.build()
    moved = proxy.take()
    assert built["rebuilt"] == ["checkpoint"] and not built["builder"]["ran"]
    assert head.nbytes < built["bytes"]["uploaded"] <= 1.1 * head.nbytes and head.nbytes < moved <= 1.1 * head.nbytes
    folder = unpacked(workspace, tmp_path / "out")
    found = layerkit.load_weights(folder)
    assert equal(found, weights(state | {"module.head.weight": head + 1}))
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert {path.name for path in folder.iterdir()} == {"model.safetensors.index.json", *index["weight_map"].values()}


def test_local_and_whole(workspace: Workspace, tmp_path: Path) -> None:
    """The local Docker, an OCI layout, and BuildKit with the real context: the same files everywhere."""
    state = digits()
    save(workspace, state, options='shard-size = "1MiB"\ndtype = "bfloat16"\n')
    files = (
        "import hashlib, pathlib; print({p.name: hashlib.sha256(p.read_bytes()).hexdigest()"
        " for p in sorted(pathlib.Path('/app/model').iterdir())})"
    )
    workspace.build(push=False)
    host = workspace.engine.docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}")
    composed = workspace.python(files, host=host)
    layers = workspace.digests("checkpoint")
    whole = workspace.build("--way", "buildkit", push=False, tag="whole")
    assert whole["way"] == "buildkit" and workspace.python(files, tag="whole", host=host) == composed
    layout = workspace.build("--output", f"oci:{tmp_path / 'layout'}", push=False)
    assert [layer["digest"] for layer in layout["layers"] if layer["role"] == "checkpoint"] == layers
    assert layout["bytes"]["checkpoint_read"] == 0
