"""Docker and buildx: what their failures mean, on a docker command whose words are scripted here."""

from __future__ import annotations

import io
import json
import os
import shlex
import tarfile
from pathlib import Path
from typing import Any

import pytest

from layerkit.engine import Engine
from layerkit.errors import BuildError, LayerkitError, LocalResourceError, Stopped
from layerkit.events import Event, Note
from layerkit.failures import login_hint

EXISTS = 'image "docker.io/acme/x:runtime-0a": already exists'


def lines(*vertexes: dict[str, Any]) -> str:
    return "\n".join(json.dumps({"vertexes": [vertex]}) for vertex in vertexes)


def failed(step: str, error: str) -> str:
    """BuildKit's lines of a build whose *step* fails."""
    return lines(
        {"digest": "a", "name": "[1/1] RUN make", "started": "x", "completed": "x", "cached": True},
        {"digest": "e", "name": step, "started": "x", "error": error},
    )


class Docker(Engine):
    """A docker command that says one of *runs* at each bake; all of them fail but those that are ""."""

    def __init__(self, folder: Path, *runs: str) -> None:
        super().__init__(environment={"PATH": "/usr/bin:/bin"})
        self.count = folder / "count"
        cases = "\n".join(
            f"{number}) printf '%s\\n' {shlex.quote(run)} >&2; exit {int(bool(run))};;"
            for number, run in enumerate(runs, 1)
        )
        script = folder / "docker"
        script.write_text(f"echo x >> {self.count}\ncase $(wc -l < {self.count}) in\n{cases}\nesac\n")
        self.__dict__["command"] = ("/bin/sh", str(script))

    @property
    def bakes(self) -> int:
        return len(self.count.read_text().split())


def test_a_name_that_another_build_took_meanwhile(tmp_path: Path) -> None:
    """Of two builds that give the same name at the same moment both succeed: the export is done again, and said."""
    docker = Docker(tmp_path, failed("exporting to image", EXISTS), "")
    seen: list[Event] = []
    result = docker.bake({}, listener=seen.append)
    assert docker.bakes == 2
    assert result.cached == {"[1/1] RUN make"}
    assert any(isinstance(event, Note) and "once more" in event.message for event in seen)


def test_it_is_done_again_once(tmp_path: Path) -> None:
    """A name that is taken again and again is a failure, with BuildKit's words."""
    docker = Docker(tmp_path, *[failed("exporting to image", EXISTS)] * 3)
    with pytest.raises(BuildError, match="already exists"):
        docker.bake({})
    assert docker.bakes == 2


def test_a_build_that_is_not_wanted_any_more(tmp_path: Path) -> None:
    """It is ended as soon as that is said, and no failure of its own is made of it."""
    script = tmp_path / "docker"
    script.write_text(f"echo $$ > {tmp_path}/pid; exec sleep 300\n")
    docker = Engine(environment={"PATH": "/usr/bin:/bin"})
    docker.__dict__["command"] = ("/bin/sh", str(script))
    with pytest.raises(Stopped):
        docker.bake({}, stopped=(tmp_path / "pid").exists)
    assert not Path("/proc", (tmp_path / "pid").read_text().strip()).exists()


@pytest.mark.parametrize(
    ("step", "error"),
    [
        ("[1/1] RUN mkdir x", "mkdir: cannot create directory: already exists"),
        ("exporting to image", "failed to push: 500 Internal Server Error"),
        ("exporting to image", "unauthorized: authentication required"),
    ],
)
def test_other_failures_are_not_tried_again(tmp_path: Path, step: str, error: str) -> None:
    """A step that fails would fail again."""
    docker = Docker(tmp_path, failed(step, error), "")
    with pytest.raises(LayerkitError):
        docker.bake({})
    assert docker.bakes == 1


@pytest.mark.parametrize("given", [0, 512, 700, 10240], ids=["nothing", "a header", "half a file", "all but the end"])
def test_save_fails(tmp_path: Path, given: int) -> None:
    """A docker save that ends in the middle is 11 with docker's own words, wherever it ended."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo("layer.tar")
        info.size = 10240 - 512
        tar.addfile(info, io.BytesIO(bytes(info.size)))
    (tmp_path / "image.tar").write_bytes(stream.getvalue()[:given])
    command = tmp_path / "docker"
    command.write_text(f"#!/bin/sh\ncat {tmp_path}/image.tar\necho 'no space left on device' >&2\nexit 1\n")
    command.chmod(0o755)
    engine = Engine(environment=dict(os.environ))
    engine.__dict__["command"] = (str(command),)
    with (
        pytest.raises(LocalResourceError, match="docker save: no space left") as caught,
        engine.save("x") as saved,
        tarfile.open(fileobj=saved, mode="r|") as tar,
    ):
        for member in tar:
            content = tar.extractfile(member)
            assert content is not None and content.read()
    assert caught.value.exit_status == 11 and "docker system df" in caught.value.hint


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("[internal] load metadata for ghcr.io/acme/x:1 failed to authorize", "docker login ghcr.io"),
        ("[internal] load metadata for docker.io/library/x:1 pull access denied", "docker login"),
        (
            "exporting to image failed to push registry.gitlab.com/a/b:1: failed to fetch oauth token:"
            " unexpected status from GET request to https://gitlab.com/jwt/auth?scope=x: 403 Forbidden",
            "docker login registry.gitlab.com",
        ),
        ("unexpected status from HEAD request to http://127.0.0.1:5000/v2/a/b: 401", "docker login 127.0.0.1:5000"),
        ("https://auth.docker.io/token: 401", "docker login"),
        ("pull access denied for acme/x, repository does not exist", "docker login"),
        ("no basic auth credentials", "docker login HOST"),
    ],
)
def test_where_to_log_in(said: str, hint: str) -> None:
    """The next step names the registry wherever docker's words do; of Docker Hub docker login needs no name."""
    assert login_hint(said) == hint


INFO = {"ServerVersion": "28", "ClientInfo": {"Plugins": [{"Name": "buildx"}]}, "DockerRootDir": "/"}


def answering(folder: Path, builder: str, inspect: str, info: dict[str, Any], **environment: str) -> Engine:
    """A docker command of *builder* that says *info*, and *inspect* of the builder."""
    script = folder / "docker"
    cases = f"info) cat {folder}/info;; buildx) printf '%s\\n' {shlex.quote(inspect)};;"
    script.write_text(f"case $1 in\n{cases}\nesac\n")
    (folder / "info").write_text(json.dumps(info))
    engine = Engine(builder=builder, environment={"PATH": "/usr/bin:/bin", **environment})
    engine.__dict__["command"] = ("/bin/sh", str(script))
    return engine


@pytest.mark.parametrize(
    ("builder", "environment", "refused"),
    [
        pytest.param("prod", {"DOCKER_HOST": "unix:///run/d.sock"}, True, id="DOCKER_HOST, another"),
        pytest.param("prod", {"DOCKER_CONTEXT": "test"}, True, id="a context, another"),
        pytest.param("default", {"DOCKER_CONTEXT": "test"}, True, id="a context, the default"),
        pytest.param("test", {"DOCKER_CONTEXT": "test"}, False, id="a context, its own"),
        pytest.param(
            "default", {"DOCKER_HOST": "tcp://h:1", "DOCKER_CONTEXT": "test"}, False, id="DOCKER_HOST, default"
        ),
        pytest.param("", {"DOCKER_CONTEXT": "test"}, False, id="not asked for"),
    ],
)
def test_the_docker_of_another_context(
    tmp_path: Path, builder: str, environment: dict[str, str], refused: bool
) -> None:
    """A builder that is the Docker of another docker context is refused as buildx does, before anything is planned."""
    engine = answering(tmp_path, builder, f"Name: {builder}\nDriver: docker", INFO, **environment)
    if refused:
        with pytest.raises(LocalResourceError, match="another docker context") as caught:
            _ = engine.abilities
        assert repr(builder) in caught.value.message and "DOCKER_CONTEXT" in caught.value.hint
    else:
        assert engine.abilities.driver == "docker"


def test_a_builder_of_its_own_is_of_no_context(tmp_path: Path) -> None:
    """A builder in a container, or elsewhere, serves whatever Docker was chosen."""
    engine = answering(tmp_path, "mine", "Name: mine\nDriver: docker-container", INFO, DOCKER_HOST="tcp://h:1")
    assert engine.abilities.driver == "docker-container"


@pytest.mark.parametrize(("host", "here"), [("unix:///run/d.sock", True), ("tcp://h:1", False), ("ssh://h", False)])
def test_where_images_are_kept(tmp_path: Path, host: str, here: bool) -> None:
    """The folder of a daemon elsewhere is not taken for the one of that name here."""
    engine = answering(tmp_path, "", "Driver: docker", INFO, DOCKER_HOST=host)
    assert engine.data_folder == (Path("/") if here else None)


def test_a_docker_that_is_gone_in_the_middle(tmp_path: Path) -> None:
    """Over SSH docker's words are of docker.example.com: a load and a save that lose their Docker name it as we do."""
    script = tmp_path / "docker"
    script.write_text(
        "echo 'error during connect: Post \"http://docker.example.com/x\": write |1: file closed' >&2; exit 1"
    )
    engine = Engine(environment={"PATH": "/usr/bin:/bin", "DOCKER_HOST": "ssh://me@h"})
    engine.__dict__["command"] = ("/bin/sh", str(script))
    with pytest.raises(LocalResourceError, match=r"docker load: the connection to ssh://me@h was lost: write \|1"):
        engine.load().finish()
    with (
        pytest.raises(LocalResourceError, match=r"docker save: the connection to ssh://me@h was lost: write \|1"),
        engine.save("x") as saved,
    ):
        saved.read()


def test_a_step_is_named_once(tmp_path: Path) -> None:
    """A RUN step that fails is named by its command and status: without its mounts, and once."""
    command = "PIP_NO_INPUT=1     pip install torch"
    step = f"[deps 1/2] RUN --network=none     --mount=type=cache,target=/root/.cache/pip     {command}"
    said = f'process "/bin/sh -c {command}" did not complete successfully: exit code: 1'
    with pytest.raises(BuildError) as caught:
        Docker(tmp_path, failed(step, said)).bake({})
    assert str(caught.value) == (
        "the build failed in step '[deps 1/2] RUN PIP_NO_INPUT=1 pip install torch': exit code: 1"
    )


@pytest.mark.parametrize(
    ("step", "said", "status"),
    [
        ("exporting to oci image format", "rpc error: write /x/ingest/0/ref: no space left on device", 11),
        ("exporting to image", "failed to push r/x: unexpected status 500: no space left on device", 4),
        ("[1/1] RUN make", "no space left on device", 4),
    ],
)
def test_no_room(tmp_path: Path, step: str, said: str, status: int) -> None:
    """A full disk under a layout or the builder is 11; that of a registry is not, nor what a step says."""
    with pytest.raises(LayerkitError) as caught:
        Docker(tmp_path, failed(step, said)).bake({})
    assert caught.value.exit_status == status


def test_a_folder_of_others(tmp_path: Path) -> None:
    """A folder of buildx that is root's, as one sudo leaves it, is 11, with what to do."""
    with pytest.raises(LocalResourceError) as caught:
        Docker(tmp_path, "ERROR: stat /home/me/.docker/buildx/instances: permission denied").bake({})
    assert "chown" in caught.value.hint
