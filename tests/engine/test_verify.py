"""verify on real images: what BuildKit built, wherever it lies, and what real layers do to the weights below them."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import layerkit
from layerkit.checkpoint.safetensors import layout

from .conftest import Engine, Workspace, write_weights

DOCKERFILE = """\
FROM {base}
COPY serve.py /app/
COPY model.safetensors /app/model/
"""
COMMAND = 'CMD ["python3", "serve.py"]\n'


def weights(path: Path) -> Path:
    head, entries = layout([("a", "F16", (512, 1024)), ("b", "F32", (256, 1024))])
    path.write_bytes(head + os.urandom(entries[-1].end))
    return path


def test_built_by_hand(engine: Engine, tmp_path: Path) -> None:
    """Weights in an image of plain buildx hold in a registry, an OCI layout and Docker; not once a later layer took
    them away, or put others in their place."""
    folder, oci = tmp_path / "context", tmp_path / "oci"
    folder.mkdir()
    approved = weights(folder / "model.safetensors")
    (folder / "serve.py").write_text("print('hand')\n")
    repository = f"{engine.registry}/test/{uuid.uuid4().hex[:12]}"

    def build(tag: str, text: str, *arguments: str) -> None:
        (folder / "Dockerfile").write_text(text + COMMAND)
        engine.docker("buildx", "build", "-q", "-t", f"{repository}:{tag}", *arguments, str(folder))

    text = DOCKERFILE.format(base=engine.base)
    build("v1", text, "--push")
    build("v1", text, "--output", f"type=oci,tar=false,dest={oci}")
    build("v1", text, "--load")
    for reference in (f"registry:{repository}:v1", f"oci:{oci}", f"docker:{repository}:v1"):
        found = layerkit.verify(reference, checkpoint=approved)
        assert found.holds and found.images[0].way == "files", reference
    build("gone", f"{text}RUN rm /app/model/model.safetensors\n", "--push")
    (gone,) = layerkit.verify(f"registry:{repository}:gone", checkpoint=approved).images
    assert [item.kind for item in gone.mismatches] == ["file", "hidden"]
    kept = approved.rename(tmp_path / "approved.safetensors")
    weights(folder / "model.safetensors")
    build("other", text, "--push")
    (other,) = layerkit.verify(f"registry:{repository}:other", checkpoint=kept).images
    assert [(item.kind, item.name) for item in other.mismatches] == [("tensor", "a"), ("tensor", "b")]


def test_layerkit_built(workspace: Workspace) -> None:
    """An image of layerkit's holds against its file without a byte of the weights; after a swap of the weights it does
    not, and the command says so with its exit status."""
    workspace.build(tag="v1")
    file = str(workspace.root / "model.pth.tar")
    done = workspace.run("verify", f"{workspace.repository}:v1", "--checkpoint", file)
    assert "holds: " in done.stdout and " 0 B of the checkpoint (0 of 1 layer)" in done.stdout
    write_weights(workspace.root / "model.pth.tar", seed=5)
    done = workspace.run("verify", f"{workspace.repository}:v1", "--checkpoint", file, check=False)
    assert done.returncode == 8 and "file /app/model/model.pth.tar" in done.stdout
