"""The promise, line by line, on a real BuildKit and a real registry: actions and bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import MIB, CountingProxy, Engine, Workspace, make_workspace, write_weights

OVERHEAD = 128 * 1024  # bytes of requests and headers beside the content


def test_first_build_has_every_role_in_order(workspace: Workspace) -> None:
    """A first build gives base, dependencies (the heavy ones apart), checkpoint and code, in this order, and runs."""
    result = workspace.build()
    assert result["way"] == "compose"
    roles = [layer["role"] for layer in result["layers"]]
    assert roles == sorted(roles, key=["base", "dependencies", "checkpoint", "code"].index)
    assert roles.count("checkpoint") == 1 and roles.count("code") == 1
    assert result["rebuilt"] == ["base", "dependencies", "checkpoint", "code"] or "base" not in result["rebuilt"]
    made = workspace.image().created_by
    assert sum("heavy" in text for text in made) == 1
    assert workspace.python("exec(open('/app/serve.py').read())") == "one 1.0 1.0"


def test_nothing_changed(workspace: Workspace) -> None:
    """Building again with nothing changed runs no BuildKit, reads no checkpoint and uploads nothing."""
    first = workspace.build()
    again = workspace.build()
    assert again["digest"] == first["digest"]
    assert again["rebuilt"] == []
    assert again["builder"] == {"ran": False, "bytes_sent": 0}
    assert again["bytes"]["checkpoint_read"] == again["bytes"]["uploaded"] == 0
    assert workspace.plan()["changes"] is False
    assert workspace.run("plan", "--push", "-t", "v1", "--exit-code").returncode == 0


def test_tag_renamed(workspace: Workspace) -> None:
    """Another tag for the same content is one manifest, and nothing else."""
    first = workspace.build()
    second = workspace.build(tag="v2")
    assert second["digest"] == first["digest"]
    assert second["builder"]["ran"] is False
    assert second["bytes"]["checkpoint_read"] == 0
    assert second["bytes"]["uploaded"] == len(workspace.image("v2").manifest.raw)


def test_code_only(workspace: Workspace) -> None:
    """A change of code builds the code layer alone: the checkpoint is not read, and hardly anything is sent."""
    workspace.build()
    before = {role: workspace.digests(role) for role in ("base", "dependencies", "checkpoint")}
    (workspace.root / "lib" / "__init__.py").write_text("NAME = 'two'\n")
    result = workspace.build()
    assert result["rebuilt"] == ["code"]
    assert {role: workspace.digests(role) for role in before} == before
    assert result["bytes"]["checkpoint_read"] == 0
    assert result["builder"]["ran"] is True and result["builder"]["bytes_sent"] < 64 * 1024
    assert result["bytes"]["uploaded"] < 64 * 1024
    assert workspace.python("exec(open('/app/serve.py').read())") == "two 1.0 1.0"


def test_one_dependency(workspace: Workspace) -> None:
    """A change of a light requirement leaves the heavy layer, the checkpoint and the code as they are."""
    workspace.build()
    heavy = [d for d, made in zip(
        [str(layer.digest) for layer in workspace.image().manifest.layers], workspace.image().created_by, strict=True
    ) if "heavy" in made]  # fmt: skip
    checkpoint, code = workspace.digests("checkpoint"), workspace.digests("code")
    (workspace.root / "requirements.txt").write_text("heavy==1.0\nlight==2.0\n")
    result = workspace.build()
    assert result["rebuilt"] == ["dependencies"]
    reused = {layer["digest"] for layer in result["layers"] if layer["action"] == "reused"}
    assert set(heavy) <= reused
    assert workspace.digests("checkpoint") == checkpoint and workspace.digests("code") == code
    assert result["bytes"]["checkpoint_read"] == 0
    assert workspace.python("exec(open('/app/serve.py').read())") == "one 1.0 2.0"


def test_weights_changed(workspace: Workspace) -> None:
    """New weights never run BuildKit: they are read once, and the checkpoint layer alone is uploaded."""
    workspace.build()
    before = {role: workspace.digests(role) for role in ("base", "dependencies", "code")}
    write_weights(workspace.root / "model.pth.tar", seed=2)
    result = workspace.build()
    assert result["rebuilt"] == ["checkpoint"]
    assert result["builder"] == {"ran": False, "bytes_sent": 0}
    assert {role: workspace.digests(role) for role in before} == before
    size = (workspace.root / "model.pth.tar").stat().st_size
    assert result["bytes"]["checkpoint_read"] == size
    assert size < result["bytes"]["uploaded"] < size + 64 * 1024
    expected = hashlib.sha256((workspace.root / "model.pth.tar").read_bytes()).hexdigest()
    code = (
        "import hashlib,os;p=os.environ['LAYERKIT_CHECKPOINT'];"
        "print(hashlib.sha256(open(p,'rb').read()).hexdigest(), os.environ['LAYERKIT_CHECKPOINT_DIGEST'])"
    )
    assert workspace.python(code) == f"{expected} sha256:{expected}"


def test_bytes_on_the_wire(workspace: Workspace, proxy: CountingProxy) -> None:
    """What is reported as uploaded is what a proxy before the registry sees arrive, for BuildKit and us together."""
    name = f"{proxy.host}/test/{uuid.uuid4().hex[:12]}"
    arguments = ("--set", f"image.name={name}")
    workspace.build(*arguments)
    proxy.take()
    workspace.build(*arguments)
    assert proxy.take() < 32 * 1024
    (workspace.root / "lib" / "__init__.py").write_text("NAME = 'three'\n")
    result = workspace.build(*arguments)
    assert proxy.take() < result["bytes"]["uploaded"] + OVERHEAD
    write_weights(workspace.root / "model.pth.tar", seed=3)
    result = workspace.build(*arguments)
    seen = proxy.take()
    assert result["bytes"]["uploaded"] <= seen < result["bytes"]["uploaded"] + OVERHEAD


def test_weights_swapped_back(workspace: Workspace, proxy: CountingProxy) -> None:
    """Weights swapped back to earlier ones upload nothing but the manifest: the earlier image is named again."""
    name = f"{proxy.host}/test/{uuid.uuid4().hex[:12]}"
    arguments = ("--set", f"image.name={name}")
    first = workspace.build(*arguments)
    write_weights(workspace.root / "model.pth.tar", seed=2)
    workspace.build(*arguments)
    proxy.take()
    write_weights(workspace.root / "model.pth.tar", seed=1)
    result = workspace.build(*arguments)
    assert result["digest"] == first["digest"]
    assert result["rebuilt"] == [] and result["builder"]["ran"] is False
    assert result["bytes"]["uploaded"] < 32 * 1024
    assert proxy.take() < OVERHEAD


def test_large_weights_swapped_back_on_a_fresh_machine(workspace: Workspace) -> None:
    """Without any memory of earlier builds the upload overlaps hashing, and is dropped when the layer is there."""
    path = workspace.root / "model.pth.tar"
    write_weights(path, seed=1, size=100 * MIB)
    first = workspace.build()
    write_weights(path, seed=2, size=100 * MIB)
    workspace.build()
    write_weights(path, seed=1, size=100 * MIB)
    workspace.fresh_machine()
    result = workspace.build()
    assert result["digest"] == first["digest"]
    assert result["rebuilt"] == []
    assert result["bytes"]["uploaded"] < 32 * 1024


def test_same_weights_with_new_times(workspace: Workspace) -> None:
    """Weights saved again with the same bytes are hashed once more, and change nothing."""
    first = workspace.build()
    path = workspace.root / "model.pth.tar"
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content)
    os.utime(path, (time.time() + 100, time.time() + 100))
    result = workspace.build()
    assert result["digest"] == first["digest"]
    assert result["rebuilt"] == []
    assert result["bytes"]["uploaded"] < 32 * 1024


def test_fresh_machine_is_as_fast_as_a_warm_one(workspace: Workspace) -> None:
    """On a machine that knows nothing the registry says what is there: new code builds code, the rest is found."""
    first = workspace.build()
    workspace.fresh_machine()
    result = workspace.build()
    assert result["digest"] == first["digest"]
    assert result["builder"]["ran"] is False and result["rebuilt"] == []


def test_emptied_builder_takes_dependencies_from_the_registry_cache(workspace: Workspace) -> None:
    """After `docker buildx prune -af` a change of code has the dependency steps CACHED from the registry."""
    workspace.build()
    workspace.engine.docker("buildx", "prune", "-af")
    workspace.fresh_machine()
    (workspace.root / "serve.py").write_text("print('other')\n")
    done = workspace.run("build", "--push", "-t", "v1", "--progress", "plain")
    cached = [line for line in done.stderr.splitlines() if "CACHED" in line]
    assert sum("[dependencies" in line and "RUN" in line for line in cached) == 2, done.stderr
    assert "rebuilt: code" in done.stderr


def test_folder_of_shards_with_one_changed(workspace: Workspace) -> None:
    """Of a folder of shards only the changed shard is read, and only its layer is uploaded."""
    (workspace.root / "model.pth.tar").unlink()
    for number in range(3):
        write_weights(workspace.root / "weights" / f"model-{number}.safetensors", seed=number, size=17 * MIB)
    (workspace.root / "weights" / "config.json").write_text("{}")
    arguments = ("--set", "checkpoint.path=weights")
    workspace.build(*arguments)
    before = workspace.digests("checkpoint")
    assert len(before) == 4
    write_weights(workspace.root / "weights" / "model-1.safetensors", seed=9, size=17 * MIB)
    (layer,) = (layer for layer in workspace.plan(*arguments)["layers"] if layer["role"] == "checkpoint")
    assert [part["changed"] for part in layer["parts"]] == [False, False, None, False]
    result = workspace.build(*arguments)
    assert result["bytes"]["checkpoint_read"] == 17 * MIB
    after = workspace.digests("checkpoint")
    assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
    assert 17 * MIB < result["bytes"]["uploaded"] < 17 * MIB + 64 * 1024
    listing = workspace.python("import os;print(sorted(os.listdir('/app/model')), os.environ['LAYERKIT_CHECKPOINT'])")
    assert listing == (
        "['config.json', 'model-0.safetensors', 'model-1.safetensors', 'model-2.safetensors'] /app/model"
    )


OWN = """\
FROM {base} AS base
RUN echo dependency > /dependency

FROM base
WORKDIR /srv
COPY --link --chown=7:8 --from=checkpoint . /srv/weights/
COPY serve.py .
CMD ["python3", "serve.py"]
"""


def test_own_dockerfile(workspace: Workspace) -> None:
    """With the user's own Dockerfile and its one COPY line, new weights and new code behave the same."""
    (workspace.root / "Dockerfile").write_text(OWN.format(base=workspace.engine.base))
    (workspace.root / "layerkit.toml").write_text(
        f'[image]\nname = "{workspace.repository}"\ndockerfile = "Dockerfile"\n[checkpoint]\npath = "model.pth.tar"\n'
    )
    (workspace.root / ".dockerignore").write_text("wheels\n*.toml\n")
    first = workspace.build()
    assert first["way"] == "compose"
    assert first["builder"]["bytes_sent"] < MIB
    write_weights(workspace.root / "model.pth.tar", seed=5)
    result = workspace.build()
    assert result["rebuilt"] == ["checkpoint"] and result["builder"]["ran"] is False
    (workspace.root / "serve.py").write_text("print('changed')\n")
    result = workspace.build()
    assert result["rebuilt"] == ["code"] and result["bytes"]["checkpoint_read"] == 0
    code = "import os;s=os.stat('/srv/weights/model.pth.tar');print(s.st_uid,s.st_gid,oct(s.st_mode),s.st_size)"
    assert workspace.python(code) == f"7 8 0o100644 {20 * MIB}"


def test_own_dockerfile_sees_what_buildx_shows_it(workspace: Workspace) -> None:
    """With one's own Dockerfile its ignore file counts; .dockerignore is a file, and empty folders are there."""
    (workspace.root / "Dockerfile").write_text(
        f"FROM {workspace.engine.base}\nCOPY --link --from=checkpoint . /weights/\nCOPY .dockerignore lib /app/\n"
    )
    (workspace.root / "layerkit.toml").write_text(
        f'[image]\nname = "{workspace.repository}"\ndockerfile = "Dockerfile"\n[checkpoint]\npath = "model.pth.tar"\n'
    )
    (workspace.root / "Dockerfile.dockerignore").write_text("lib/out.py\n")
    (workspace.root / ".dockerignore").write_text("lib/in.py\n")
    for name in ("in.py", "out.py"):
        (workspace.root / "lib" / name).write_text("")
    (workspace.root / "lib" / "logs").mkdir()
    workspace.build()
    assert workspace.python("import os;print(sorted(os.listdir('/app')))") == str(
        [".dockerignore", "__init__.py", "in.py", "logs"]
    )


TAKING = """\
FROM scratch AS unused
COPY . /all
FROM {base} AS image
COPY --link --chown=0:0 --from=checkpoint . /t/weights/
COPY serve.py lib /t/files/
COPY ["lib/__init__.py", "with space.txt", "/t/list/"]
COPY --chown=3:4 con?/*.yaml *.py /t/pattern/
COPY --chmod=700 logs /t/empty/
COPY deep/./a/../b/ /t/cleaned/
COPY packed.tar /t/archive/
ADD packed.tar /t/unpacked/
COPY <<EOF /t/here
COPY runs /nowhere
EOF
RUN --mount=type=bind,source=conf,target=/c --mount=source=deep,target=/d cp -r /c /d /t/
{more}
"""


@pytest.mark.parametrize(
    ("more", "narrow"), [("", True), ("COPY linked /t/linked/", False), ("ARG D=deep\nCOPY $D /t/variable/", False)]
)
def test_own_dockerfile_gets_what_it_takes(workspace: Workspace, more: str, narrow: bool) -> None:
    """Of the folder only what the Dockerfile takes is sent, and the image has the same files as from plain buildx."""
    root = workspace.root
    for name in ("conf/a.yaml", "conf/b.yaml", "conf/c.txt", "deep/a/x", "deep/b/y", "deep/b/c/z", "with space.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "logs").mkdir()
    (root / "deep" / "b" / "out").symlink_to("../../conf/a.yaml")
    (root / "linked").symlink_to("deep")
    with tarfile.open(root / "packed.tar", "w") as tar:
        tar.add(root / "conf", "conf")
    write_weights(root / "runs" / "epoch-1.pth.tar", seed=8)
    text = TAKING.format(base=workspace.engine.base, more=more)
    (root / "Dockerfile").write_text(text)
    (root / "layerkit.toml").write_text(
        f'[image]\nname = "{workspace.repository}"\ndockerfile = "Dockerfile"\n[checkpoint]\npath = "model.pth.tar"\n'
    )
    first = workspace.build()
    assert first["way"] == "compose"
    assert first["builder"]["bytes_sent"] < MIB  # BuildKit asks for no more, whatever lies there
    files = "cd /t; find . -printf '%p %y %m %U %G %l\\n' | sort; find . -type f | sort | xargs -d '\\n' sha256sum"
    plain, ours = f"{workspace.repository}:plain", f"{workspace.repository}:v1"
    weights = root.parent / "weights"
    weights.mkdir()
    shutil.copyfile(root / "model.pth.tar", weights / "model.pth.tar")
    (weights / "model.pth.tar").chmod(0o644)
    workspace.engine.docker(
        "buildx", "build", "-q", "--load", "--build-context", f"checkpoint={weights}", "-t", plain, str(root)
    )
    workspace.engine.docker("pull", "-q", ours)
    listings = [workspace.engine.docker("run", "--rm", name, "sh", "-c", files) for name in (plain, ours)]
    assert listings[0] == listings[1] and "./list/with space.txt" in listings[0]
    write_weights(root / "runs" / "epoch-2.pth.tar", seed=9)
    second = workspace.build()
    assert second["builder"]["ran"] is not narrow, [row["reason"] for row in second["plan"]["layers"]]


@pytest.mark.parametrize(
    ("where", "step"),
    [("--push", "RUN chown -R 1000:1000 /app"), ("--push", "RUN sh /own.sh"), ("--load", "RUN sh /own.sh")],
)
def test_own_dockerfile_that_works_on_the_weights(workspace: Workspace, where: str, step: str) -> None:
    """A step that works on the weights has the image built by BuildKit: seen in its text, or else in its layer."""
    (workspace.root / "own.sh").write_text("chown -R 1000:1000 /app\n")
    (workspace.root / "Dockerfile").write_text(
        f"FROM scratch AS checkpoint\nFROM {workspace.engine.base}\nCOPY own.sh /\n"
        f"COPY --link --from=checkpoint . /app/model/\n{step}\n"
    )
    (workspace.root / "layerkit.toml").write_text(
        f'[image]\nname = "{workspace.repository}"\ndockerfile = "Dockerfile"\n[checkpoint]\npath = "model.pth.tar"\n'
    )
    (workspace.root / ".dockerignore").write_text("wheels\n")
    reference = f"{workspace.repository}:v1"
    for _ in range(2):  # the second finds the runtime image that cannot be composed with
        done = json.loads(workspace.run("build", "--json", "-t", "v1", where).stdout)
        assert (done["way"], done["builder"]["ran"]) == ("buildkit", True)
        assert "works on the weights" in done["why"]
        if where == "--push":
            workspace.engine.docker("pull", "-q", reference)
        found = workspace.engine.docker(
            "run", "--rm", reference, "sh", "-c", "cd /app/model; stat -c '%n %u %s' * .l*", check=False
        )
        assert found == f"model.pth.tar 1000 {20 * MIB}"


def test_own_dockerfile_that_works_on_the_weights_classic(workspace: Workspace, node: Callable[[str], str]) -> None:
    """With the classic image store too, a layer that holds the placeholder's file again is not taken for its layer."""
    (workspace.root / "own.sh").write_text("chown -R 1000:1000 /app\n")
    (workspace.root / "Dockerfile").write_text(
        f"FROM scratch AS checkpoint\nFROM {workspace.engine.base}\nCOPY own.sh /\n"
        "COPY --link --from=checkpoint . /app/model/\nRUN --network=none sh /own.sh\n"
    )
    (workspace.root / "layerkit.toml").write_text(
        f'[image]\nname = "{workspace.repository}"\ndockerfile = "Dockerfile"\n[checkpoint]\npath = "model.pth.tar"\n'
    )
    for _ in range(2):
        done = json.loads(workspace.run("build", "--json", "-t", "v1", DOCKER_HOST=node("classic")).stdout)
        assert done["way"] == "buildkit" and "works on the weights" in done["why"]


def test_own_dockerfile_without_the_line(workspace: Workspace) -> None:
    """A Dockerfile without the COPY line is an error that shows the line."""
    (workspace.root / "Dockerfile").write_text(f"FROM {workspace.engine.base}\nCOPY . .\n")
    (workspace.root / "layerkit.toml").write_text(
        f'[image]\nname = "{workspace.repository}"\ndockerfile = "Dockerfile"\n[checkpoint]\npath = "model.pth.tar"\n'
    )
    done = workspace.run("build", "--push", check=False)
    assert done.returncode == 2
    assert "COPY --link" in done.stderr and "--from=checkpoint" in done.stderr


def test_two_builds_at_once(workspace: Workspace) -> None:
    """Two builds of one project at once both succeed, with one digest."""
    command = [sys.executable, "-m", "layerkit", "build", "--push", "-t", "v1", "-q"]
    environment = {**os.environ, "LAYERKIT_STATE_DIR": str(workspace.state)}
    running = [
        subprocess.Popen(command, cwd=workspace.root, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=250)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert workspace.build()["rebuilt"] == []
    assert all(output.startswith(f"{workspace.repository}@sha256:") for output in outputs)


def test_same_inputs_from_two_folders(workspace: Workspace, engine: Engine, tmp_path: Path) -> None:
    """The same inputs from two folders, on two machines, give the same digest."""
    first = workspace.build()
    other = make_workspace(engine, tmp_path / "another place", tmp_path / "state2", workspace.repository)
    second = other.build(tag="other")
    assert second["digest"] == first["digest"]
    assert second["rebuilt"] == [] and second["builder"]["ran"] is False


def test_plan_agrees_with_build(workspace: Workspace) -> None:
    """Before each kind of change the plan names the roles that the build then rebuilds."""
    workspace.build()
    (workspace.root / "serve.py").write_text("print('planned')\n")
    plan = workspace.plan()
    planned = [layer["role"] for layer in plan["layers"] if layer["action"] in ("built", "packed")]
    assert planned == ["code"]
    assert "serve.py" in next(layer["reason"] for layer in plan["layers"] if layer["role"] == "code")
    assert workspace.run("plan", "--push", "-t", "v1", "--exit-code", check=False).returncode == 10
    assert workspace.build()["rebuilt"] == planned
    write_weights(workspace.root / "model.pth.tar", seed=8)
    plan = workspace.plan()
    assert plan["runs_builder_for"] == []
    assert [layer["role"] for layer in plan["layers"] if layer["action"] == "packed"] == ["checkpoint"]
    assert workspace.build()["rebuilt"] == ["checkpoint"]


@pytest.mark.parametrize("placement", ["volume", "artifact"])
def test_placements_without_the_checkpoint_in_the_image(workspace: Workspace, placement: str) -> None:
    """With placement volume or artifact the image has no checkpoint layer, and says where it will be mounted."""
    result = workspace.build("--set", f"checkpoint.placement={placement}")
    assert "checkpoint" not in {layer["role"] for layer in result["layers"]}
    code = "import os;print(os.path.exists('/app/model/model.pth.tar'), os.environ['LAYERKIT_CHECKPOINT'])"
    assert workspace.python(code) == "False /app/model/model.pth.tar"
