"""What bad input gets: its exit status, one clear message, and no tag moved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import MIB, Workspace, write_weights


def _tag(workspace: Workspace) -> str:
    return str(workspace.image("v1").manifest.digest)


def test_failing_step(workspace: Workspace) -> None:
    """A build step that fails gives 4, with the step and its last lines; the old tag stays."""
    workspace.build()
    before = _tag(workspace)
    (workspace.root / "requirements.txt").write_text("heavy==1.0\nlight==9.9\n")
    done = workspace.run("build", "--push", "-t", "v1", check=False)
    assert done.returncode == 4
    assert "RUN" in done.stderr and "light==9.9" in done.stderr
    assert "Traceback" not in done.stderr
    assert _tag(workspace) == before


@pytest.mark.parametrize("kind", ["missing", "lfs", "fifo", "symlink-out", "dangling", "empty"])
def test_checkpoint_that_cannot_be_used(workspace: Workspace, kind: str) -> None:
    """A checkpoint that is missing, a Git LFS pointer, a FIFO, a link out of the folder, or empty gives 3, no tag."""
    workspace.build()
    before = _tag(workspace)
    path = workspace.root / "model.pth.tar"
    path.unlink()
    (workspace.root / "layerkit.lock").unlink()  # with it missing weights are no error
    if kind == "lfs":
        path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "symlink-out":
        path.symlink_to("/etc/hostname")
    elif kind == "dangling":
        path.symlink_to("nothing")
    elif kind == "empty":
        path.write_bytes(b"")
    done = workspace.run("build", "--push", "-t", "v1", check=False)
    assert done.returncode == 3, done.stderr
    assert "model.pth.tar" in done.stderr and "Traceback" not in done.stderr
    assert _tag(workspace) == before


def test_checkpoint_changes_while_it_is_read(workspace: Workspace) -> None:
    """A checkpoint that is written to while it is read gives 3, and no tag."""
    workspace.build()
    before = _tag(workspace)
    path = workspace.root / "model.pth.tar"
    write_weights(path, seed=2, size=300 * MIB)
    stop = threading.Event()

    def scribble() -> None:
        with path.open("r+b") as stream:
            while not stop.is_set():
                stream.seek(299 * MIB)
                stream.write(os.urandom(16))
                stream.flush()
                time.sleep(0.005)

    writer = threading.Thread(target=scribble)
    writer.start()
    try:
        done = workspace.run("build", "--push", "-t", "v1", check=False)
    finally:
        stop.set()
        writer.join()
    assert done.returncode == 3, done.stderr
    assert "changed while it was read" in done.stderr
    assert _tag(workspace) == before


def test_no_docker(workspace: Workspace, tmp_path: Path) -> None:
    """Without docker, or without a daemon, the status is 11 and the message says what to do."""
    empty = tmp_path / "bin"
    empty.mkdir()
    done = workspace.run("build", "--push", check=False, PATH=str(empty))
    assert done.returncode == 11 and "install Docker" in done.stderr, done.stderr
    done = workspace.run("build", check=False, DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert done.returncode == 11 and "DOCKER_HOST" in done.stderr, done.stderr


def test_registry_unreachable(workspace: Workspace) -> None:
    """A registry that does not answer gives 7."""
    done = workspace.run("build", "--push", "--set", "image.name=127.0.0.1:1/none/none", check=False)
    assert done.returncode == 7, done.stderr
    assert "127.0.0.1:1" in done.stderr and "Traceback" not in done.stderr


def test_weights_swap_needs_no_docker(workspace: Workspace, tmp_path: Path) -> None:
    """New weights are pushed on a machine without any docker: the registry is the state."""
    workspace.build()
    write_weights(workspace.root / "model.pth.tar", seed=2)
    empty = tmp_path / "bin"
    empty.mkdir()
    done = workspace.run("build", "--push", "-t", "v1", PATH=str(empty))
    assert "rebuilt: checkpoint" in done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "term"])
def test_interrupted(workspace: Workspace, number: signal.Signals, status: int) -> None:
    """Ctrl-C and SIGTERM end a running build within 2 seconds, with no docker process and no tag left."""
    (workspace.root / "Dockerfile").write_text(
        f"FROM {workspace.engine.base}\nRUN sleep 60\nCOPY --link --chown=0:0 --from=checkpoint . /app/model/\n"
    )
    (workspace.root / "layerkit.toml").write_text(
        f'[image]\nname = "{workspace.repository}"\ndockerfile = "Dockerfile"\n[checkpoint]\npath = "model.pth.tar"\n'
    )
    process = subprocess.Popen(
        [sys.executable, "-m", "layerkit", "build", "--push", "-t", "v1", "--progress", "plain"],
        cwd=workspace.root,
        env={**os.environ, "LAYERKIT_STATE_DIR": str(workspace.state)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "RUN sleep 60" in line:
            break
    time.sleep(0.5)
    begun = time.monotonic()
    process.send_signal(number)
    _, rest = process.communicate(timeout=30)
    assert process.returncode == status
    assert time.monotonic() - begun < 3
    assert "no tag was moved" in rest
    children = subprocess.run(["pgrep", "-f", f"bake.*{workspace.root}"], capture_output=True, text=True, check=False)
    assert children.stdout == ""


def test_secret_in_build_arguments(workspace: Workspace) -> None:
    """A build argument that looks like a secret is refused with 2, with the form to use, before anything runs."""
    done = workspace.run("build", "--set", "builder.args.API_TOKEN=abc", check=False)
    assert done.returncode == 2
    assert "builder.secrets" in done.stderr


def test_missing_secret(workspace: Workspace) -> None:
    """A secret that is not there gives 2 before anything is sent; where nothing is to be built it is not missed."""
    with (workspace.root / "layerkit.toml").open("a") as file:
        file.write('\n[dependencies.secrets]\nINDEX_TOKEN = { env = "CI_TOK" }\n')
    for command in (("build", "--push", "-t", "v1"), ("check",)):
        done = workspace.run(*command, check=False)
        assert done.returncode == 2, done.stderr
        assert "dependencies.secrets.INDEX_TOKEN: the variable CI_TOK is not set" in done.stderr
    with pytest.raises(AssertionError):  # no tag
        workspace.image("v1")
    workspace.run("build", "--push", "-t", "v1", CI_TOK="x")
    workspace.run("build", "--push", "-t", "v2")


def test_optional_secrets(workspace: Workspace) -> None:
    """Secrets that no mount of one's own Dockerfile requires may be missing; where one says required it is 2."""
    (workspace.root / "layerkit.toml").write_text(
        f'[image]\nname = "{workspace.repository}"\ndockerfile = "Dockerfile"\n[checkpoint]\npath = "model.pth.tar"\n'
        '[builder.secrets]\nE = { env = "NOT_SET" }\nF = { file = "missing.txt" }\n'
    )
    text = (
        f"FROM {workspace.engine.base}\nRUN --mount=type=secret,id=E --mount=type=secret,id=F{{}} "
        "test -f /run/secrets/E && test ! -s /run/secrets/E && test ! -e /run/secrets/F\n"
        "COPY --link --from=checkpoint . /app/model/\n"
    )
    (workspace.root / "Dockerfile").write_text(text.format(",required=true"))
    done = workspace.run("build", "--push", "-t", "v1", check=False)
    assert done.returncode == 2
    assert "builder.secrets.F: no file" in done.stderr and "builder.secrets.E" not in done.stderr
    (workspace.root / "Dockerfile").write_text(text.format(""))
    done = workspace.run("build", "--push", "-t", "v1")
    assert "builder.secrets.E: the variable NOT_SET is not set" in done.stderr
    assert "builder.secrets.F: no file" in done.stderr
    workspace.image("v1")


def test_what_the_classic_store_cannot(workspace: Workspace, node: Callable[[str], str]) -> None:
    """A layout, or attestations, of a builder that cannot make them: 11 and the remedy, before the weights are read."""
    host = node("classic")
    with (workspace.root / "layerkit.toml").open("a") as file:
        file.write('\n[builder]\nattest = ["type=sbom"]\n')
    for where, said in (("--output=oci:out", "cannot write OCI layouts"), ("--push", "cannot attach provenance")):
        done = workspace.run("build", where, check=False, DOCKER_HOST=host)
        assert done.returncode == 11, done.stderr
        assert said in done.stderr and "containerd image store" in done.stderr
    assert not (workspace.root / "out").exists()
