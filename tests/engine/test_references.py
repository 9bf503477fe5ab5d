"""Weights that are not on the machine, on a real BuildKit, registry and Docker: the image has them all the same."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

from engine.conftest import MIB, Workspace, write_weights

SHOW = 'import hashlib, os; print(hashlib.sha256(open(os.environ["LAYERKIT_CHECKPOINT"], "rb").read()).hexdigest())'


def test_a_clone_without_the_weights(workspace: Workspace, tmp_path: Path) -> None:
    """A machine with the code and the lock but no weights builds new code; another project takes the layers over."""
    write_weights(workspace.root / "model.pth.tar", seed=5, size=2 * MIB)
    sha256 = hashlib.sha256((workspace.root / "model.pth.tar").read_bytes()).hexdigest()
    workspace.build()
    layers = workspace.digests("checkpoint")

    clone = replace(workspace, root=tmp_path / "clone", state=tmp_path / "another-machine")
    shutil.copytree(workspace.root, clone.root, ignore=shutil.ignore_patterns("model.pth.tar"))
    (clone.root / "lib" / "__init__.py").write_text("NAME = 'two'\n")
    done = clone.build("--locked", tag="v2")
    assert clone.actions()["checkpoint"] == {"reused"} and done["rebuilt"] == ["code"]
    assert done["bytes"]["checkpoint_read"] == done["bytes"]["fetched"] == 0
    assert done["bytes"]["uploaded"] < 64 * 1024 and clone.digests("checkpoint") == layers
    assert clone.python(SHOW, tag="v2") == sha256

    file = clone.root / "layerkit.toml"
    other = replace(clone, repository=f"{workspace.engine.registry}/test/{uuid.uuid4().hex[:12]}")
    text = file.read_text().replace(f'"{workspace.repository}"', f'"{other.repository}"')
    file.write_text(text.replace('"model.pth.tar"', f'"oci://{workspace.repository}:v1"'))
    done = other.build()
    assert other.actions()["checkpoint"] == {"mounted"} and other.digests("checkpoint") == layers
    assert done["bytes"]["checkpoint_read"] == done["bytes"]["fetched"] == 0
    assert other.python(SHOW) == sha256
