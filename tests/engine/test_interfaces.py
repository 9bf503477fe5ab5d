"""The entrances: the Python API, the Makefile fragment, the generated files, the flags that scripts use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import layerkit

from .conftest import Workspace, write_weights


def _project(workspace: Workspace) -> layerkit.Project:
    return layerkit.Project(
        image=layerkit.Image(workspace.repository, base=workspace.engine.base, command=["python3", "serve.py"]),
        dependencies=layerkit.Dependencies("requirements.txt", separate=["heavy"], wheels="wheels"),
        code=layerkit.Code(["serve.py", "lib"]),
        checkpoint=layerkit.Checkpoint("model.pth.tar", target="/app/model/", chown="1000:1000"),
        root=workspace.root,
    )


def test_python_api_and_file_are_the_same(workspace: Workspace) -> None:
    """A Project written in Python equals the one of layerkit.toml, and builds the same image."""
    project = _project(workspace)
    assert project == layerkit.load(workspace.root / "layerkit.toml")
    result = layerkit.build(project, tags=["api"], push=True, settings=workspace.settings)
    assert workspace.build(tag="api")["digest"] == str(result.digest)
    write_weights(workspace.root / "model.pth.tar", seed=2)
    plan = layerkit.plan(project, tags=["api"], push=True, settings=workspace.settings)
    assert [layer.role for layer in plan.layers if layer.action == "packed"] == ["checkpoint"]
    result = layerkit.build(project, tags=["api"], push=True, settings=workspace.settings)
    assert result.rebuilt == ("checkpoint",)


def test_build_and_upload_run_at_the_same_time(workspace: Workspace) -> None:
    """BuildKit's build and the checkpoint's upload both begin before either ends."""
    events: list[layerkit.Event] = []
    layerkit.build(_project(workspace), tags=["v1"], push=True, settings=workspace.settings, listener=events.append)
    phases = [(e.name, e.state) for e in events if isinstance(e, layerkit.Phase) and e.name in ("build", "checkpoint")]
    assert {name for name, _ in phases[:2]} == {"build", "checkpoint"}
    assert [state for _, state in phases] == ["started", "started", "finished", "finished"]
    done = [e.done for e in events if isinstance(e, layerkit.Transfer)]
    assert done == sorted(done) and done[-1] > 20 * 1024 * 1024


def test_makefile_fragment(workspace: Workspace) -> None:
    """`include $(shell layerkit makefile)` gives push and plan, with TAG and LAYERKIT_FLAGS."""
    (workspace.root / "Makefile").write_text(
        f"LAYERKIT := {sys.executable} -m layerkit\ninclude $(shell $(LAYERKIT) makefile)\n"
    )
    environment = {**os.environ, "LAYERKIT_STATE_DIR": str(workspace.state)}
    for target in ("push", "plan"):
        done = subprocess.run(
            ["make", target, "TAG=mk"], cwd=workspace.root, env=environment, capture_output=True, text=True, timeout=200
        )
        assert done.returncode == 0, done.stderr
    assert "nothing to do: mk" in done.stdout
    assert workspace.image("mk")


def test_metadata_file_and_references(workspace: Workspace) -> None:
    """--metadata-file holds the --json object; without --json the reference by digest is all of standard output."""
    done = workspace.run("build", "--push", "-t", f"{workspace.repository}:a", "--metadata-file", "out.json")
    found = json.loads((workspace.root / "out.json").read_text())
    assert done.stdout == f"{workspace.repository}@{found['digest']}\n"
    assert (
        " ".join(found) == "schema_version reference digest tags way why layers rebuilt builder bytes seconds timeline"
    )
    assert set(found["seconds"]) == {"plan", "build", "checkpoint", "compose", "total"}


def test_dockerfile_builds_without_layerkit(workspace: Workspace, tmp_path: Path) -> None:
    """The printed Dockerfile builds the same files with docker buildx alone."""
    workspace.build()
    workspace.run("dockerfile", "-o", "Dockerfile.plain")
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "model.pth.tar").write_bytes((workspace.root / "model.pth.tar").read_bytes())
    contexts = ("--build-context", f"checkpoint={weights}", "--build-context", f"wheels={workspace.root / 'wheels'}")
    command = ("docker", "buildx", "build", "-q", *contexts, "-f", "Dockerfile.plain", "--push", "-t")
    subprocess.run(
        [*command, f"{workspace.repository}:plain", "."],
        cwd=workspace.root,
        check=True,
        capture_output=True,
        timeout=200,
    )
    code = (
        "import hashlib,os;print(sorted((d,f,hashlib.sha256(open(os.path.join(d,f),'rb').read()).hexdigest())"
        " for d,_,fs in os.walk('/app') for f in fs))"
    )
    assert workspace.python(code, tag="plain") == workspace.python(code, tag="v1")


def test_bake_definition_builds_without_layerkit(workspace: Workspace) -> None:
    """The printed bake definition builds with docker buildx bake alone."""
    done = workspace.run("bake", "-t", "baked")
    definition = json.loads(done.stdout)
    target = definition["target"]["image"]
    (workspace.root / "weights").mkdir()
    (workspace.root / "model.pth.tar").rename(workspace.root / "weights" / "model.pth.tar")
    done = workspace.run("bake", "-t", "baked", "--set", "checkpoint.path=weights")
    assert target["tags"] == [f"{workspace.repository}:baked"]
    environment = {**os.environ, "BUILDX_BAKE_ENTITLEMENTS_FS": "0"}
    command = ("docker", "buildx", "bake", "-f", "-", "--push")
    subprocess.run(command, input=done.stdout, text=True, check=True, capture_output=True, env=environment, timeout=200)
    assert workspace.python("exec(open('/app/serve.py').read())", tag="baked") == "one 1.0 1.0"


def test_cache_that_cannot_be_exported(workspace: Workspace) -> None:
    """FAULTS 34: a cache export that fails leaves the image pushed; where it is asked for strictly it gives 4."""
    entry = "type=registry,ref=127.0.0.1:1/none/cache,mode=max"
    done = workspace.run("build", "--push", "-t", "v1", "--set", f'cache.to=["{entry},ignore-error=true"]')
    assert "sha256:" in done.stdout
    (workspace.root / "serve.py").write_text("print('more')\n")
    done = workspace.run("build", "--push", "-t", "v1", "--set", f'cache.to=["{entry}"]', check=False)
    assert done.returncode == 4, done.stderr
    assert "cache" in done.stderr


def test_missing_cache_import_is_a_cold_build(workspace: Workspace) -> None:
    """FAULTS 35: a cache to import that is not there is a note, and a cold build."""
    done = workspace.run("build", "--push", "-t", "v1", "--progress", "plain")
    assert "no build cache to import yet" in done.stderr
    assert "FAILED" not in done.stderr
