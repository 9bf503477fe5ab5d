"""What is printed for docker, Compose and Kubernetes, read by readers that are not ours."""

from __future__ import annotations

import csv
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from syrupy.assertion import SnapshotAssertion

from layerkit.cli.run import _printed
from layerkit.running import Bind, ImageMount, Service, options

CHECKPOINT = "ghcr.io/acme/resnet:checkpoint-" + "a" * 40
FOLDER = "/app/model"
FORMS = ["docker", "compose", "k8s"]
SERVICES = {
    "layer": Service("resnet", "ghcr.io/acme/resnet:v2"),
    "volume": Service(
        "resnet",
        "ghcr.io/acme/resnet:v2",
        ports={8000: "127.0.0.1:8080"},
        mounts=(Bind(Path("/data/resnet/model.pt"), f"{FOLDER}/model.pt", FOLDER),),
    ),
    "artifact": Service(
        "resnet",
        "ghcr.io/acme/resnet:v2",
        ports={8000: "8000"},
        environment={"LAYERKIT_CHECKPOINT_DIGEST": "sha256:" + "b" * 64},
        mounts=(ImageMount(CHECKPOINT, FOLDER),),
        gpus="all",
    ),
    "everything": Service(
        "resnet",
        "ghcr.io/acme/resnet:v2",
        ("python", "serve.py", "--threshold", "1e3", "$HOME", "$(NAME)"),
        {"HF_TOKEN": None, "ON": "y", "COST": "$5", "SIZE": "1e3", "LINES": "a\nb", "EMPTY": "", "QUOTE": "'\""},
        {8000: "127.0.0.1:8080", 9000: "9000"},
        (
            Bind(Path("/data/a, b/one.pt"), f"{FOLDER}/one.pt", FOLDER),
            Bind(Path("/data/a, b/two.pt"), f"{FOLDER}/two.pt", FOLDER),
        ),
        "device=0,GPU-3a",
    ),
}


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("form", FORMS)
def test_printed(form: str, name: str, snapshot: SnapshotAssertion) -> None:
    """Each form of each placement is as it was agreed, letter by letter."""
    assert _printed(SERVICES[name], form) == snapshot


def compose(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(_printed(service, "compose"))["services"]["resnet"]
    return found


def cluster(service: Service) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(_printed(service, "k8s")))


def container(service: Service) -> dict[str, Any]:
    found: dict[str, Any] = cluster(service)[0]["spec"]["template"]["spec"]["containers"][0]
    return found


def by_shell(text: str) -> list[str]:
    """The arguments that docker gets when a shell reads *text*."""
    script = f"docker() {{ printf '%s\\0' \"$@\"; }}\n{text}"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.split("\0")[:-1]


def test_docker_words() -> None:
    """What a shell makes of the printed command is what is given to docker, word for word."""
    service = SERVICES["everything"]
    words = by_shell(_printed(service, "docker"))
    assert words[:2] == ["run", "--rm"]
    assert words[2:] == [word for option in options(service) for word in option]


def test_docker_mounts_are_csv() -> None:
    """A comma in a path, or between GPUs, does not end the value: docker reads both as CSV (RFC 4180)."""
    words = by_shell(_printed(SERVICES["everything"], "docker"))
    values = [words[index + 1] for index, word in enumerate(words) if word in ("--mount", "--gpus")]
    assert list(csv.reader(values)) == [
        ["type=bind", "source=/data/a, b/one.pt", "target=/app/model/one.pt", "readonly"],
        ["type=bind", "source=/data/a, b/two.pt", "target=/app/model/two.pt", "readonly"],
        ["device=0,GPU-3a"],
    ]


def test_compose_mounts_the_checkpoint_read_only() -> None:
    """The bind mount is read-only, and a missing file is an error there, not an empty folder."""
    assert compose(SERVICES["volume"])["volumes"] == [
        {
            "type": "bind",
            "source": "/data/resnet/model.pt",
            "target": "/app/model/model.pt",
            "read_only": True,
            "bind": {"create_host_path": False},
        }
    ]


def test_compose_mounts_the_image() -> None:
    """For placement artifact the checkpoint image is the volume, its folder the subpath."""
    assert compose(SERVICES["artifact"])["volumes"] == [
        {"type": "image", "source": CHECKPOINT, "target": FOLDER, "image": {"subpath": "app/model"}}
    ]


def test_kubernetes_mounts_the_image() -> None:
    """For placement artifact the pod's volume is the checkpoint image, mounted read-only at its folder."""
    pod = cluster(SERVICES["artifact"])[0]["spec"]["template"]["spec"]
    assert pod["volumes"] == [{"name": "weights", "image": {"reference": CHECKPOINT, "pullPolicy": "IfNotPresent"}}]
    assert pod["containers"][0]["volumeMounts"] == [
        {"name": "weights", "mountPath": FOLDER, "readOnly": True, "subPath": "app/model"}
    ]


def test_kubernetes_claims_what_a_cluster_cannot_bind() -> None:
    """A file of this machine becomes a claim, and the manifests say first that somebody has to fill it."""
    text = _printed(SERVICES["volume"], "k8s")
    assert text.startswith("# The checkpoint's files are expected in the PersistentVolumeClaim resnet-weights,\n")
    pod = cluster(SERVICES["volume"])[0]["spec"]["template"]["spec"]
    assert pod["volumes"] == [
        {"name": "weights", "persistentVolumeClaim": {"claimName": "resnet-weights", "readOnly": True}}
    ]
    assert pod["containers"][0]["volumeMounts"] == [{"name": "weights", "mountPath": FOLDER, "readOnly": True}]


def test_a_secret_is_printed_nowhere() -> None:
    """A variable without a value is left to where the container is started, in each form's own way."""
    service = SERVICES["everything"]
    assert ("-e", "HF_TOKEN") in options(service)
    assert compose(service)["environment"]["HF_TOKEN"] is None
    reference = {"name": "resnet-env", "key": "HF_TOKEN"}
    assert {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": reference}} in container(service)["env"]


def test_nothing_is_interpolated() -> None:
    """Compose's ``$`` and Kubernetes' ``$(NAME)`` are escaped: the program gets what was written."""
    service = SERVICES["everything"]
    assert compose(service)["command"][-2:] == ["$$HOME", "$$(NAME)"]
    assert compose(service)["environment"]["COST"] == "$$5"
    assert container(service)["args"][-2:] == ["$HOME", "$$(NAME)"]


@pytest.mark.parametrize(
    ("gpus", "count", "reservation"),
    [
        ("all", 1, {"count": "all"}),
        ("2", 2, {"count": 2}),
        ("device=0,GPU-3a", 2, {"device_ids": ["0", "GPU-3a"]}),
    ],
)
def test_gpus(gpus: str, count: int, reservation: dict[str, Any]) -> None:
    """GPUs are asked for in the form's own words; a cluster knows no "all"."""
    service = Service("resnet", "i:1", gpus=gpus)
    assert container(service)["resources"] == {"limits": {"nvidia.com/gpu": count}}
    devices = compose(service)["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "capabilities": ["gpu"], **reservation}]


@given(st.text(st.characters(exclude_categories=["Cs"])), st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives(word: str, value: str) -> None:
    """Whatever an argument or a variable holds, a YAML reader gets it back as a string."""
    service = Service("resnet", "i:1", (word,), {"NAME": value})
    entry = compose(service)
    assert [text.replace("$$", "$") for text in entry["command"]] == [word]
    assert entry["environment"]["NAME"].replace("$$", "$") == value
    assert container(service)["args"] == [word.replace("$(", "$$(")]
    assert shlex.split(_printed(service, "docker"))[-1] == word
