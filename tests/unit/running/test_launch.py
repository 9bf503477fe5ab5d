"""Which container a project is, by its placement."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from layerkit.errors import CheckpointError, ConfigurationError
from layerkit.launch import launch, published
from layerkit.oci import Digest
from layerkit.project import Checkpoint, Image, Project
from layerkit.running import Bind, ImageMount, Service
from layerkit.state import Identity, State

NAME = "ghcr.io/acme/ResNet_50".lower()


def project(root: Path, placement: str = "volume", **checkpoint: Any) -> Project:
    (root / "model.pt").write_bytes(b"weights")
    settings = {"path": "model.pt", "placement": placement, **checkpoint}
    return Project(Image(NAME, expose=[8000]), checkpoint=Checkpoint(**settings), root=root)


def launched(given: Project, state: State | None = None, **options: Any) -> Service:
    with state or State(None) as state:
        return launch(given, state, **options)


def test_layer(tmp_path: Path) -> None:
    """With the weights in the image there is nothing to mount, and the checkpoint need not be here."""
    given = project(tmp_path, "layer")
    (tmp_path / "model.pt").unlink()
    found = launched(given, tag="v2")
    assert found == Service("resnet-50", f"{NAME}:v2", ports={8000: "127.0.0.1:8000"})


def test_volume(tmp_path: Path) -> None:
    """A file is mounted where the layer would have put it, by its absolute path here."""
    found = launched(project(tmp_path, target="/srv/weights"))
    assert found.image == f"{NAME}:latest"
    assert found.mounts == (Bind(tmp_path / "model.pt", "/srv/weights/model.pt", "/srv/weights"),)
    assert "LAYERKIT_CHECKPOINT_DIGEST" not in found.environment, "the file can change under a container"


def test_volume_of_a_folder(tmp_path: Path) -> None:
    """A folder is mounted whole."""
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "a.pt").write_bytes(b"a")
    found = launched(project(tmp_path, path="weights"))
    assert found.mounts == (Bind(tmp_path / "weights", "/app/model", "/app/model"),)


def test_volume_of_a_glob(tmp_path: Path) -> None:
    """Of a glob each file is mounted, and nothing else that lies beside them."""
    for name in ("a.pt", "b.pt", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    found = launched(project(tmp_path, path="[ab].pt"))
    assert found.mounts == tuple(Bind(tmp_path / name, f"/app/model/{name}", "/app/model") for name in ("a.pt", "b.pt"))


def test_own_dockerfile_says_where(tmp_path: Path) -> None:
    """With a Dockerfile of the user's own, its COPY line is where the weights are mounted."""
    (tmp_path / "model.pt").write_bytes(b"weights")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY --link --from=checkpoint . /opt/w/\n")
    given = Project(
        Image(NAME, dockerfile="Dockerfile"), checkpoint=Checkpoint("model.pt", placement="volume"), root=tmp_path
    )
    assert launched(given).mounts == (Bind(tmp_path / "model.pt", "/opt/w/model.pt", "/opt/w"),)


def test_missing_weights(tmp_path: Path) -> None:
    """Weights that are not there are said before docker is asked for anything."""
    given = project(tmp_path)
    (tmp_path / "model.pt").unlink()
    with pytest.raises(CheckpointError, match=r"model\.pt"):
        launched(given)


def test_artifact(tmp_path: Path) -> None:
    """The image of the weights' key is mounted, from the cache's repository where there is one."""
    given = project(tmp_path, "artifact")
    with State(tmp_path / "state") as state:
        file = tmp_path / "model.pt"
        digest = Digest.of(b"weights")
        state.remember_file(file, Identity.of(file.stat()), digest)
        found = launched(given, state, tag="v3")
    (mount,) = found.mounts
    assert isinstance(mount, ImageMount)
    assert mount.reference.startswith(f"{NAME}:checkpoint-") and mount.folder == "/app/model"
    assert found.environment == {"LAYERKIT_CHECKPOINT_DIGEST": str(digest)}


def test_artifact_that_was_never_read(tmp_path: Path) -> None:
    """Of weights that nobody hashed the image is not known: the build that makes it is named."""
    with pytest.raises(ConfigurationError, match="artifact") as caught:
        launched(project(tmp_path, "artifact"))
    assert caught.value.hint == "layerkit build"


def test_root_cannot_be_mounted(tmp_path: Path) -> None:
    """Nothing is mounted over the whole image."""
    with pytest.raises(ConfigurationError, match="mounted at /"):
        launched(project(tmp_path, target="/"))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], {80: "127.0.0.1:80", 81: "127.0.0.1:81"}),
        (["8080:80"], {80: "8080"}),
        (["8000"], {8000: "8000"}),
        (["0.0.0.0:8080:80", "9/tcp"], {80: "0.0.0.0:8080", 9: "9"}),
        (["127.0.0.1:80"], {80: "127.0.0.1:80"}),
        (["[::1]:8080:80"], {80: "[::1]:8080"}),
    ],
)
def test_ports(given: list[str], expected: dict[int, str]) -> None:
    """Ports are docker's, but those that nobody asked for are for this machine alone."""
    assert published(given, (80, 81)) == expected


@pytest.mark.parametrize("given", ["", "x", "0", "70000", "1:2:3", "80/udp", "8080:80 -v /:/host", "-1"])
def test_wrong_ports(given: str) -> None:
    """What is no port is refused here, and not given to docker."""
    with pytest.raises(ConfigurationError, match="no port"):
        published([given], ())


def test_the_same_port_twice() -> None:
    """One container port is published once."""
    with pytest.raises(ConfigurationError, match="already"):
        published(["1:80", "2:80"], ())


@pytest.mark.parametrize("gpus", ["none", "0", "device=", "all,capabilities=x", "-1"])
def test_wrong_gpus(tmp_path: Path, gpus: str) -> None:
    """What are no GPUs is refused here."""
    with pytest.raises(ConfigurationError, match="no GPUs"):
        launched(project(tmp_path), gpus=gpus)
