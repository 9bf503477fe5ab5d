"""``layerkit prune`` on the real registry: what is deleted is gone, what is tagged runs, and builds go on."""

from __future__ import annotations

import json

from engine.conftest import MIB, Workspace, write_weights
from layerkit.oci import Reference
from layerkit.registry import Client

ALL = ("--older-than", "0", "--undated")


def test_after_new_weights(workspace: Workspace) -> None:
    """Old weights whose image is gone are pruned; the image in use runs, is built on, and the old is built anew."""
    model = workspace.root / "model.pth.tar"
    keys = []
    for seed, tag in ((1, "v1"), (2, "v2")):
        write_weights(model, seed=seed, size=MIB)
        workspace.build(tag=tag)
        keys.append(workspace.image(tag).config.labels["dev.layerkit.checkpoint"])
    with Client() as client:
        repository = client.repository(Reference.parse(workspace.repository))
        digest = repository.resolve("v1")
        assert digest is not None
        repository.delete_manifest(digest.digest)
        assert set(repository.tags()) >= {f"checkpoint-{keys[0]}", f"checkpoint-{keys[1]}", "v2", "buildcache"}
        assert "v1" not in repository.tags()
        before = set(repository.tags())
        listed = json.loads(workspace.run("prune", "--json", *ALL).stdout)
        assert [image["tag"] for image in listed["images"] if image["stale"]] == [f"checkpoint-{keys[0]}"]
        assert MIB < listed["bytes_in_stale_alone"] < MIB + 4096 and set(repository.tags()) == before
        done = workspace.run("prune", "--yes", *ALL)
        assert f"deleted checkpoint-{keys[0]}" in done.stdout.splitlines()
        assert set(repository.tags()) == before - {f"checkpoint-{keys[0]}"}
    assert workspace.python("import os; print(os.path.getsize(os.environ['LAYERKIT_CHECKPOINT']))", tag="v2") == str(
        MIB
    )
    workspace.fresh_machine()
    assert workspace.build(tag="v3")["rebuilt"] == [] and workspace.last["builder"]["ran"] is False
    write_weights(model, seed=1, size=MIB)
    assert workspace.build(tag="v4")["builder"]["ran"] is False
    assert workspace.image("v4").config.labels["dev.layerkit.checkpoint"] == keys[0]
