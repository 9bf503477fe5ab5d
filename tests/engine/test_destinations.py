"""Where an image can go, and that others can read what was put there."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import MIB, CountingProxy, Engine, Workspace, write_weights

SHOW = "import os,hashlib;p=os.environ['LAYERKIT_CHECKPOINT'];print(hashlib.sha256(open(p,'rb').read()).hexdigest())"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("store", ["builder", "containerd", "classic", "over TCP"])
def test_load(
    workspace: Workspace, node: Callable[[str], str], docker_by: Callable[[str], CountingProxy], store: str
) -> None:
    """Into the local Docker, with either image store: new weights run no BuildKit, and only their layer is sent.

    Those that were never seen are large enough here to be streamed while they are hashed. A Docker that has no socket
    here is spoken to by the docker command.
    """
    host = os.environ.get("DOCKER_HOST", "") if store in ("builder", "over TCP") else node(store)
    environment = {"DOCKER_HOST": docker_by("TCP").host if store == "over TCP" else host} if host else {}

    def build() -> dict[str, object]:
        found: dict[str, object] = json.loads(workspace.run("build", "--json", "-t", "v1", **environment).stdout)
        return found

    first = build()
    assert first["way"] == "compose"
    weights = workspace.root / "model.pth.tar"
    assert workspace.python(SHOW, host=host) == _sha256(weights)
    again = build()
    assert again["digest"] == first["digest"] and again["rebuilt"] == []
    write_weights(weights, seed=2, size=80 * MIB)
    swapped = build()
    assert swapped["rebuilt"] == ["checkpoint"]
    assert swapped["builder"] == {"ran": False, "bytes_sent": 0}
    assert swapped["bytes"]["checkpoint_read"] == 80 * MIB  # type: ignore[index]
    assert workspace.python(SHOW, host=host) == _sha256(weights)
    (workspace.root / "serve.py").write_text("print('new code')\n")
    coded = build()
    assert coded["rebuilt"] == ["code"]
    assert coded["bytes"]["checkpoint_read"] == 0  # type: ignore[index]
    assert workspace.python("exec(open('/app/serve.py').read())", host=host) == "new code"
    write_weights(weights, seed=1)
    back = build()
    assert back["rebuilt"] == []
    assert workspace.python(SHOW, host=host) == _sha256(weights)
    (workspace.root / "requirements.txt").write_text("heavy==1.0\nlight==2.0\n")
    depended = build()
    below = ["dependencies", "checkpoint"] if store == "classic" else ["dependencies"]
    assert [role for role in depended["rebuilt"] if role != "code"] == below  # type: ignore[attr-defined]
    assert workspace.python(f"import light;print(light.VERSION);{SHOW}", host=host) == f"2.0\n{_sha256(weights)}"


def test_load_several_tags(workspace: Workspace) -> None:
    """Several tags of one build all name the image in the local Docker."""
    result = json.loads(workspace.run("build", "--json", "-t", "a", "-t", "b").stdout)
    for tag in ("a", "b"):
        assert workspace.engine.docker("image", "inspect", "-f", "{{.Id}}", f"{workspace.repository}:{tag}")
    assert result["tags"] == ["a", "b"]


@pytest.mark.parametrize("way", ["compose", "buildkit"])
def test_push_leaves_the_local_docker_alone(workspace: Workspace, way: str) -> None:
    """A push between two local builds leaves nothing there and takes no name: the second has nothing to do."""
    workspace.build(push=False)

    def local() -> set[str]:
        found = workspace.engine.docker("images", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}").splitlines()
        return {line for line in found if line.startswith(workspace.repository)}

    before = local()
    assert workspace.build("--way", way)["builder"]["ran"]
    assert local() == before and len(before) == 2
    again = workspace.build(push=False)
    assert again["rebuilt"] == [] and not again["builder"]["ran"]


def test_oci_layout(workspace: Workspace, tmp_path: Path) -> None:
    """An OCI layout has the same digest as the registry, and umoci unpacks the very checkpoint, owner and mode."""
    pushed = workspace.build()
    result = json.loads(workspace.run("build", "--json", "-t", "v1", "--output", "oci:out").stdout)
    assert result["digest"] == pushed["digest"] or result["layers"] != pushed["layers"]
    layout = workspace.root / "out"
    inspected = json.loads(
        subprocess.run(["skopeo", "inspect", f"oci:{layout}:v1"], check=True, capture_output=True).stdout
    )
    assert inspected["Digest"] == result["digest"]
    bundle = tmp_path / "bundle"
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:v1", str(bundle)], check=True, capture_output=True)
    unpacked = bundle / "rootfs" / "app" / "model" / "model.pth.tar"
    assert _sha256(unpacked) == _sha256(workspace.root / "model.pth.tar")
    status = unpacked.stat()
    assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1000, 1000, 0o644)
    write_weights(workspace.root / "model.pth.tar", seed=2)
    swapped = json.loads(workspace.run("build", "--json", "-t", "v1", "--output", "oci:out").stdout)
    assert swapped["rebuilt"] == ["checkpoint"] and swapped["builder"]["ran"] is False
    assert 20 * MIB < swapped["bytes"]["uploaded"] < 20 * MIB + 64 * 1024


def test_pushed_image_is_read_by_others(workspace: Workspace, node: Callable[[str], str]) -> None:
    """skopeo inspects what was pushed, and a second Docker pulls and runs it, with both image stores."""
    result = workspace.build()
    reference = f"{workspace.repository}:v1"
    inspected = json.loads(
        subprocess.run(
            ["skopeo", "inspect", "--tls-verify=false", f"docker://{reference}"], check=True, capture_output=True
        ).stdout
    )
    assert inspected["Digest"] == result["digest"]
    assert inspected["Layers"] == [layer["digest"] for layer in result["layers"]]
    code = "import os;s=os.stat('/app/model/model.pth.tar');print(s.st_uid,s.st_gid,oct(s.st_mode))"
    for store in ("containerd", "classic"):
        host = node(store)
        workspace.engine.docker("pull", "-q", reference, host=host)
        assert workspace.python(SHOW, host=host) == _sha256(workspace.root / "model.pth.tar")
        assert workspace.python(code, host=host) == "1000 1000 0o100644"


def test_checkpoint_image_alone(workspace: Workspace) -> None:
    """The checkpoint-<key> tag is an image that holds the checkpoint's layers and nothing else."""
    workspace.build()
    key = workspace.image().config.labels["dev.layerkit.checkpoint"]
    alone = workspace.image(f"checkpoint-{key}")
    assert [str(layer.digest) for layer in alone.manifest.layers] == workspace.digests("checkpoint")


def test_buildkit_way(workspace: Workspace) -> None:
    """Asked to, BuildKit builds the whole image from the same Dockerfile, and the result says so and why."""
    result = workspace.build("--way", "buildkit", tag="whole")
    assert result["way"] == "buildkit" and result["why"]
    assert workspace.python(
        SHOW.replace("os.environ['LAYERKIT_CHECKPOINT']", "'/app/model/model.pth.tar'"), tag="whole"
    )


def test_buildkit_way_into_docker(workspace: Workspace) -> None:
    """Of a whole image in the local Docker the layers are told as of any, and what was there is known the next time."""
    whole = workspace.build("--way", "buildkit", push=False, tag="whole")
    roles = [layer["role"] for layer in whole["layers"]]
    assert sorted(set(roles)) == sorted(set(workspace.actions())) and roles.count("checkpoint") == 1
    local = json.loads(workspace.engine.docker("image", "inspect", f"{workspace.repository}:whole"))[0]
    assert [layer["diff_id"] for layer in whole["layers"]] == local["RootFS"]["Layers"]
    assert whole["digest"] == local["Id"]
    assert set(whole["rebuilt"]) > {"checkpoint", "code"} and whole["bytes"]["reused"] == 0
    again = workspace.build("--way", "buildkit", push=False, tag="whole")
    assert again["layers"] == [{**layer, "action": "reused"} for layer in whole["layers"]]
    assert again["rebuilt"] == [] and again["bytes"]["reused"] == sum(layer["size"] for layer in whole["layers"])


def test_not_composable_falls_back(workspace: Workspace, proxy: CountingProxy) -> None:
    """Where a registry takes uploads of the builder alone, BuildKit builds the whole image, and the result says why."""
    body = b'{"errors":[{"code":"UNSUPPORTED","message":"only the builder may upload"}]}'
    head = b"HTTP/1.1 405 Method Not Allowed\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"

    def refuse(data: bytes) -> bytes:
        ours = data.startswith(b"POST ") and b"layerkit" in data.split(b"\r\n\r\n")[0].lower().split(b"user-agent:")[-1]
        return head % len(body) + body if ours else b""

    proxy.refuse = refuse  # type: ignore[method-assign]
    name = f"{proxy.host}/test/{uuid.uuid4().hex[:12]}"
    done = workspace.run("build", "--json", "--push", "-t", "v1", "--set", f"image.name={name}", check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["way"] == "buildkit"
    assert "only the builder may upload" in result["why"]
    workspace.repository = name
    code = "import os;print(os.path.getsize('/app/model/model.pth.tar'))"
    assert workspace.python(code) == str(20 * MIB)


def test_separate_cache_repository(workspace: Workspace) -> None:
    """With a cache repository the image's own holds the image alone, its layers mounted from there."""
    cache = f"{workspace.repository}-cache"
    arguments = ("--set", f"cache.repository={cache}")
    workspace.build(*arguments)
    assert workspace.python(SHOW) == _sha256(workspace.root / "model.pth.tar")
    tags = json.loads(
        subprocess.run(
            ["skopeo", "list-tags", "--tls-verify=false", f"docker://{workspace.repository}"],
            check=True,
            capture_output=True,
        ).stdout
    )["Tags"]
    assert tags == ["v1"]
    write_weights(workspace.root / "model.pth.tar", seed=4)
    result = workspace.build(*arguments)
    assert result["rebuilt"] == ["checkpoint"] and result["builder"]["ran"] is False


def test_attestations_follow_the_composed_image(workspace: Workspace) -> None:
    """Provenance that was asked for is of the composed image: its subject is the image's own digest."""
    from layerkit.oci import Index, Manifest, Reference
    from layerkit.registry import Client, Credentials

    workspace.build("--set", 'builder.attest=["type=provenance,mode=max"]')
    client = Client(credentials=Credentials(Path(), {}))
    try:
        repository = client.repository(Reference.parse(workspace.repository))
        index = repository.manifest("v1")
        assert isinstance(index, Index) and len(index.manifests) == 2
        image, attestation = index.manifests
        assert attestation.annotations["vnd.docker.reference.digest"] == str(image.digest)
        manifest = repository.manifest(attestation.digest)
        assert isinstance(manifest, Manifest)
        for layer in manifest.layers:
            statement = json.loads(repository.blob(layer))
            assert statement["subject"]
            assert all(subject["digest"]["sha256"] == image.digest.hex for subject in statement["subject"])
    finally:
        client.close()
    write_weights(workspace.root / "model.pth.tar", seed=4)
    result = workspace.build("--set", 'builder.attest=["type=provenance,mode=max"]')
    assert result["rebuilt"] == ["checkpoint"] and result["builder"]["ran"] is False


@pytest.fixture(scope="module")
def remote_builder(engine: Engine) -> Iterator[str]:
    """A builder of the remote driver, in front of the same engine: nothing that it builds is in the local Docker."""
    name = f"remote-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory(prefix="lk-") as folder:  # short: a socket's path has at most 107 bytes
        command = ["socat", f"UNIX-LISTEN:{folder}/b.sock,fork", "EXEC:docker buildx dial-stdio"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            while not Path(folder, "b.sock").exists():
                time.sleep(0.02)
            engine.docker("buildx", "create", "--name", name, "--driver", "remote", f"unix://{folder}/b.sock")
            yield name
            engine.docker("buildx", "rm", name)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(10)


@pytest.mark.parametrize("where", ["--push", "--load", "--output=oci:out"])
def test_remote_builder(workspace: Workspace, remote_builder: str, where: str) -> None:
    """A builder that is not the local Docker serves every destination; new weights do not need it."""
    arguments = ("build", "--json", "-t", "v1", where, "--builder", remote_builder)
    first = json.loads(workspace.run(*arguments).stdout)
    assert first["way"] == "compose" and first["builder"]["ran"]
    write_weights(workspace.root / "model.pth.tar", seed=2)
    swapped = json.loads(workspace.run(*arguments).stdout)
    assert swapped["rebuilt"] == ["checkpoint"] and swapped["builder"] == {"ran": False, "bytes_sent": 0}
    if where == "--load":
        host = os.environ.get("DOCKER_HOST", "")
        assert workspace.python(SHOW, host=host) == _sha256(workspace.root / "model.pth.tar")


def test_second_platform_shares_the_checkpoint(workspace: Workspace) -> None:
    """A platform more runs BuildKit for that platform alone, and its image has the very same checkpoint layer."""
    (workspace.root / "Dockerfile").write_text(
        "FROM scratch\nCOPY --link --chown=0:0 --from=checkpoint . /model/\nCOPY --link serve.py /app/\n"
    )
    (workspace.root / ".dockerignore").write_text("wheels\n")
    (workspace.root / "layerkit.toml").write_text(
        f'[image]\nname = "{workspace.repository}"\ndockerfile = "Dockerfile"\n[checkpoint]\npath = "model.pth.tar"\n'
    )
    workspace.build("--platform", "linux/amd64")
    layers = workspace.digests("checkpoint")
    result = workspace.build("--platform", "linux/amd64,linux/arm64")
    assert result["bytes"]["checkpoint_read"] == 0
    assert {layer["digest"] for layer in result["layers"] if layer["role"] == "checkpoint"} == set(layers)
    raw = subprocess.run(
        ["skopeo", "inspect", "--raw", "--tls-verify=false", f"docker://{workspace.repository}:v1"],
        check=True,
        capture_output=True,
    ).stdout
    platforms = [item["platform"]["architecture"] for item in json.loads(raw)["manifests"]]
    assert platforms == ["amd64", "arm64"]
    write_weights(workspace.root / "model.pth.tar", seed=3)
    swapped = workspace.build("--platform", "linux/amd64,linux/arm64")
    assert swapped["rebuilt"] == ["checkpoint"] and swapped["builder"]["ran"] is False
    assert 20 * MIB < swapped["bytes"]["uploaded"] < 20 * MIB + 64 * 1024


def test_compressed_checkpoint(workspace: Workspace, node: Callable[[str], str]) -> None:
    """With zstd fewer bytes are uploaded, a second Docker runs the same file, and nothing is sent again."""
    weights = workspace.root / "model.pth.tar"
    pattern = bytes(range(256)) * (MIB // 256)
    with weights.open("wb") as stream:
        for number in range(20):
            stream.write(number.to_bytes(16, "big") + pattern[16:])
    compression = ("--set", "checkpoint.compression=auto")
    result = workspace.build(*compression)
    (layer,) = [layer for layer in result["layers"] if layer["role"] == "checkpoint"]
    assert layer["media_type"].endswith("+zstd") and layer["digest"] != layer["diff_id"]
    assert layer["size"] < MIB and result["bytes"]["checkpoint_read"] == 20 * MIB
    for store in ("containerd", "classic"):
        host = node(store)
        workspace.engine.docker("pull", "-q", f"{workspace.repository}:v1", host=host)
        assert workspace.python(SHOW, host=host) == _sha256(weights)
    again = workspace.build(*compression)
    assert again["rebuilt"] == [] and again["bytes"]["checkpoint_read"] == 0
    local = json.loads(workspace.run("build", "--json", "-t", "v1", *compression).stdout)
    assert workspace.python(SHOW, host=os.environ.get("DOCKER_HOST", "")) == _sha256(weights)
    assert [x["media_type"] for x in local["layers"] if x["role"] == "checkpoint"] == [
        "application/vnd.oci.image.layer.v1.tar"
    ]
    layout = json.loads(workspace.run("build", "--json", "--output", "oci:out", *compression).stdout)
    assert layer["digest"] in [x["digest"] for x in layout["layers"]]


@pytest.mark.parametrize("by", ["socket", "TCP"])
def test_ctrl_c_while_docker_takes_the_weights(
    workspace: Workspace, docker_by: Callable[[str], CountingProxy], by: str
) -> None:
    """Ctrl-C in the middle of docker load ends both within 2 s, names nothing, and the next build is whole."""
    weights = workspace.root / "model.pth.tar"
    workspace.run("build", "-t", "v1")
    before = workspace.engine.docker("image", "inspect", "-f", "{{.Id}}", f"{workspace.repository}:v1")
    with weights.open("wb") as stream:
        stream.truncate(3 * 1024 * MIB)
    docker = docker_by(by)
    environment = {**os.environ, "LAYERKIT_STATE_DIR": str(workspace.state), "DOCKER_HOST": docker.host}
    command = [sys.executable, "-m", "layerkit", "build", "-t", "v1"]
    with subprocess.Popen(
        command,
        cwd=workspace.root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        deadline = time.monotonic() + 60
        while docker.received < 64 * MIB and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() is None and docker.received >= 64 * MIB
        loading = _children(process.pid, b"load")
        assert bool(loading) == (by == "TCP")
        process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        _, err = process.communicate(timeout=30)
        seconds = time.monotonic() - begun
    assert process.returncode == 130 and "interrupted: no tag was moved" in err, err
    assert seconds < 2.0
    assert not [pid for pid in loading if Path(f"/proc/{pid}/exe").exists()]
    assert workspace.engine.docker("image", "inspect", "-f", "{{.Id}}", f"{workspace.repository}:v1") == before
    write_weights(weights, seed=4, size=70 * MIB)
    workspace.run("build", "-t", "v1")
    assert workspace.python(SHOW, host=os.environ.get("DOCKER_HOST", "")) == _sha256(weights)


def _children(parent: int, word: bytes) -> list[int]:
    """Processes below *parent* with *word* among their arguments (proc(5))."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (path / "cmdline").read_bytes().split(b"\0")
            above = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError, ValueError):
            continue
        if above == parent and word in arguments:
            found.append(int(path.name))
    return found
