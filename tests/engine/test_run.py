"""``layerkit run`` on a real Docker: the container really runs, with its weights."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

import pytest

from engine.conftest import MIB, Engine, Workspace, make_workspace, write_weights

SHOW = """
import hashlib, os
path = os.environ["LAYERKIT_CHECKPOINT"]
print(path, hashlib.sha256(open(path, "rb").read()).hexdigest())
print(os.environ.get("LAYERKIT_CHECKPOINT_DIGEST"))
for change in (lambda: open(path, "ab"), lambda: os.remove(path)):
    try:
        change()
    except OSError as error:
        print(error.strerror)
"""
READ_ONLY = ("Read-only file system", "Device or resource busy")
# Tells when it is there, and how it was asked to end.
WAIT = """
import os, sys, time
print("there", flush=True)
try:
    time.sleep(100)
except KeyboardInterrupt:
    print("asked", flush=True)
    sys.exit(42)
"""


@pytest.fixture
def small(workspace: Workspace) -> Workspace:
    return smaller(workspace)


@pytest.fixture(scope="module")
def built(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A project whose image v1, weights and all, is in the local Docker."""
    folder = tmp_path_factory.mktemp("run")
    repository = f"{engine.registry}/test/{uuid.uuid4().hex[:12]}"
    made = smaller(make_workspace(engine, folder / "project", folder / "state", repository))
    made.run("build", "-t", "v1")
    return made


def smaller(workspace: Workspace) -> Workspace:
    """A project that needs no wheels, so that its image is built at once."""
    text = (workspace.root / "layerkit.toml").read_text()
    head, _, tail = text.partition("[dependencies]")
    (workspace.root / "layerkit.toml").write_text(head + "[code]" + tail.partition("[code]")[2])
    write_weights(workspace.root / "model.pth.tar", seed=1, size=MIB)
    return workspace


def placed(workspace: Workspace, placement: str) -> str:
    """The project gets that placement, and its weights' sha256 is told."""
    path = workspace.root / "layerkit.toml"
    path.write_text(path.read_text() + f'placement = "{placement}"\n')
    return hashlib.sha256((workspace.root / "model.pth.tar").read_bytes()).hexdigest()


def containers(workspace: Workspace) -> str:
    """Ids of the containers of this project's images, running or not."""
    listed = workspace.engine.docker("ps", "-a", "--format", "{{.ID}} {{.Image}}")
    return "\n".join(line.split()[0] for line in listed.splitlines() if workspace.repository in line)


def test_volume(small: Workspace) -> None:
    """The image has no weights; ``run`` mounts those of this machine, read-only, where the program looks for them."""
    digest = placed(small, "volume")
    small.run("build", "-t", "v1")
    done = small.run("run", "-t", "v1", "--", "python3", "-c", SHOW)
    first, none, *refused = done.stdout.splitlines()
    assert first == f"/app/model/model.pth.tar {digest}"
    assert none == "None"
    assert refused[0] == READ_ONLY[0] and refused[1] in READ_ONLY
    assert containers(small) == ""
    # New weights need no build: they are what is mounted.
    write_weights(small.root / "model.pth.tar", seed=2, size=MIB)
    digest = hashlib.sha256((small.root / "model.pth.tar").read_bytes()).hexdigest()
    assert digest in small.run("run", "-t", "v1", "--", "python3", "-c", SHOW).stdout


def test_artifact(small: Workspace) -> None:
    """The checkpoint image is mounted, read-only, from the blobs that were pushed: not a byte more was sent."""
    digest = placed(small, "artifact")
    result = small.build()
    done = small.run("run", "-t", "v1", "--", "python3", "-c", SHOW)
    first, named, *refused = done.stdout.splitlines()
    assert first == f"/app/model/model.pth.tar {digest}"
    assert named == f"sha256:{digest}"
    assert set(refused) <= set(READ_ONLY) and refused[0] == READ_ONLY[0]
    # The same weights in a layer: the registry has that very blob already.
    layer = small.build("--set", "checkpoint.placement=layer", tag="v2")
    (in_layer,) = [row["digest"] for row in layer["layers"] if row["role"] == "checkpoint"]
    assert layer["bytes"]["checkpoint_read"] == 0
    reference = small.run("run", "-t", "v1", "--print", "docker").stdout
    tag = reference.partition("source=")[2].partition(",")[0].rpartition(":")[2]
    assert [str(d.digest) for d in small.image(tag).manifest.layers] == [in_layer]
    assert in_layer not in [row["digest"] for row in result["layers"]]


def test_artifact_with_the_classic_store(small: Workspace, node: Callable[[str], str]) -> None:
    """A node that only pulls, with Docker's classic image store, mounts the checkpoint image as well."""
    digest = placed(small, "artifact")
    small.build()
    done = small.run("run", "-t", "v1", "--", "python3", "-c", SHOW, DOCKER_HOST=node("classic"))
    assert done.stdout.startswith(f"/app/model/model.pth.tar {digest}\nsha256:{digest}\n{READ_ONLY[0]}\n")


@pytest.mark.parametrize("store", ["containerd", "classic"])
def test_artifact_of_the_local_docker(small: Workspace, node: Callable[[str], str], store: str) -> None:
    """Without --push the local Docker has the image to be mounted; put inside, the same weights are inside."""
    digest = placed(small, "artifact")
    host = node(store)
    small.run("build", "-t", "v1", DOCKER_HOST=host)
    done = small.run("run", "-t", "v1", "--", "python3", "-c", SHOW, DOCKER_HOST=host)
    assert done.stdout.startswith(f"/app/model/model.pth.tar {digest}\nsha256:{digest}\n{READ_ONLY[0]}\n")
    inside = ("--set", "checkpoint.placement=layer")
    small.run("build", "-t", "v1", *inside, DOCKER_HOST=host)
    done = small.run("run", "-t", "v1", *inside, "--", "python3", "-c", SHOW, DOCKER_HOST=host)
    assert done.stdout.startswith(f"/app/model/model.pth.tar {digest}\n")


def test_layer_and_exit_status(built: Workspace) -> None:
    """An image with its weights is just run: arguments, output, input and exit status are the container's."""
    code = "import os,sys; print(os.environ['A'], sys.argv[1:]); print('err', file=sys.stderr); sys.exit(23)"
    done = built.run("run", "-t", "v1", "-e", "A=b c", "--", "python3", "-c", code, "-x", "$HOME", check=False)
    assert (done.returncode, done.stdout) == (23, "b c ['-x', '$HOME']\n")
    assert done.stderr == "err\n"
    assert containers(built) == ""
    done = subprocess.run(
        [sys.executable, "-m", "layerkit", "run", "-i", "-t", "v1", "--", "python3", "-"],
        cwd=built.root,
        input="print(6 * 7)",
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "42\n"


@contextmanager
def started(workspace: Workspace, *command: str) -> Iterator[subprocess.Popen[str]]:
    """``layerkit run`` as a shell starts it, once its program has said that it is there."""
    with subprocess.Popen(
        [sys.executable, "-m", "layerkit", "run", "-t", "v1", "--", *command],
        cwd=workspace.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "there\n"
            yield process
        finally:
            process.kill()


def test_signals(built: Workspace) -> None:
    """Ctrl-C is the container's, and its last words are seen; a second one, and SIGTERM, end it whatever it does."""
    with started(built, "python3", "-c", WAIT) as process:
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (42, "asked\n"), err
    deaf = 'trap "" INT; echo there; while :; do sleep 0.1; done'
    with started(built, "sh", "-c", deaf) as process:
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert process.returncode == 137, err
    with started(built, "sh", "-c", 'trap "exit 3" TERM; echo there; while :; do sleep 0.1; done') as process:
        process.terminate()
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (143, "")
    assert containers(built) == ""


def test_detached_with_ports(built: Workspace) -> None:
    """In the background it prints the container's id; its port is where it says, and one that is taken is an error."""
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        port = probe.getsockname()[1]
    serve = ("--", "python3", "-m", "http.server", "8000")
    done = built.run("run", "-t", "v1", "-d", "-p", f"127.0.0.1:{port}:8000", *serve)
    container = done.stdout.strip()
    try:
        assert done.stderr == f"port 8000 is at 127.0.0.1:{port}\n"
        deadline = time.monotonic() + 20
        while True:
            try:
                with closing(socket.create_connection(("127.0.0.1", port), 1)) as line:
                    line.sendall(b"GET / HTTP/1.0\r\n\r\n")
                    if line.recv(4) == b"HTTP":
                        break
            except OSError:
                pass
            assert time.monotonic() < deadline
            time.sleep(0.1)
        again = built.run("run", "-t", "v1", "-p", f"127.0.0.1:{port}:8000", *serve, check=False)
        assert again.returncode == 11
        assert "hint: take another port" in again.stderr
        assert containers(built) == container[:12], "what could not start is gone"
    finally:
        built.engine.docker("rm", "-f", container)


def test_refusals(built: Workspace) -> None:
    """No such image, and GPUs that are not there, are told with what to do; nothing is left behind."""
    done = built.run("run", "-t", "v9", check=False)
    assert done.returncode == 11 and done.stderr.endswith("hint: layerkit build -t v9\n")
    done = built.run("run", "-t", "v1", "--gpus", "all", check=False)
    if json.loads(built.engine.docker("info", "-f", "{{json .Runtimes}}")).get("nvidia") is None:
        assert done.returncode == 11 and "hint: no GPU that Docker can give" in done.stderr
    assert containers(built) == ""
