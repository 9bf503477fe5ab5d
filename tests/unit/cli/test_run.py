"""layerkit run: what needs no docker."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from unit.cli.conftest import Run

TOML = """\
[image]
name = "ghcr.io/acme/resnet"
expose = [8000]
[checkpoint]
path = "model.pt"
placement = "volume"
"""


@pytest.fixture(autouse=True)
def project(run: Run) -> None:
    Path("layerkit.toml").write_text(TOML)
    Path("model.pt").write_bytes(b"weights")


@pytest.mark.parametrize("form", ["docker", "compose", "k8s"])
def test_print_needs_no_docker(run: Run, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """A form is printed on a machine without docker, on standard output alone."""
    monkeypatch.setenv("PATH", "/nonexistent")
    done = run("run", "-t", "v2", "--print", form, "--", "python", "-V")
    assert (done.status, done.err) == (0, "")
    assert "ghcr.io/acme/resnet:v2" in done.out
    if form != "docker":
        assert all(isinstance(document, dict) for document in yaml.safe_load_all(done.out))


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        pytest.param(["-p", "99999"], 2, "-p 99999: no port", id="port"),
        pytest.param(["--gpus", "no"], 2, "--gpus no: no GPUs", id="gpus"),
        pytest.param(["-e", "=x"], 2, "-e =x: no variable", id="variable"),
        pytest.param(["-d", "-i"], 2, "exclude each other", id="both"),
        pytest.param(["-t", "runtime-x"], 2, "layerkit's own", id="tag"),
        pytest.param(["-C", "nowhere"], 2, "does not exist", id="folder"),
        pytest.param(["--set", "checkpoint.path=gone.pt"], 3, "gone.pt", id="weights"),
        pytest.param(["--set", "checkpoint.placement=artifact"], 2, "layerkit build", id="never read"),
    ],
)
def test_wrong(run: Run, arguments: list[str], status: int, said: str) -> None:
    """What is wrong is said in a line or two, with the status of its kind."""
    done = run("run", *arguments)
    assert done.status == status
    assert said in done.err
    assert done.out == ""


def test_no_docker(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without docker it says so, and exits with 11."""
    monkeypatch.setenv("PATH", "/nonexistent")
    done = run("run")
    assert done.status == 11
    assert "no docker command" in done.err
