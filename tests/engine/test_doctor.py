"""layerkit doctor on a machine with a real docker: well, without its daemon, with a builder that is not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from .conftest import Engine


def doctor(folder: Path, *arguments: str, **environment: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Its status, and its findings by name."""
    done = subprocess.run(
        [sys.executable, "-m", "layerkit", "doctor", "--json", *arguments],
        cwd=folder,
        env={**os.environ, "LAYERKIT_STATE_DIR": str(folder / "state"), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    document = json.loads(done.stdout)
    assert document["exit_status"] == done.returncode
    return done.returncode, {finding["name"]: finding for finding in document["findings"]}


def test_well(engine: Engine, tmp_path: Path) -> None:
    """All passes, and each ability of the builder has its line."""
    status, found = doctor(tmp_path, f"{engine.registry}/start/doctor")
    assert status == 0 and {finding["level"] for finding in found.values()} == {"pass"}
    assert {"docker", "buildx", "builder", "platforms", "image store", "cache", "layouts", "attest"} <= set(found)
    assert {"disk", "state", "stat cache", "logins", "images", "connection", "clock", "pull", "push"} <= set(found)
    assert "driver docker, running" in found["builder"]["message"]
    assert "linux/amd64" in found["platforms"]["message"] or "linux/arm64" in found["platforms"]["message"]


def test_platform_that_nothing_builds(engine: Engine, tmp_path: Path) -> None:
    """A platform of the project for which no machine builds is a warning with the remedy."""
    (tmp_path / "layerkit.toml").write_text('[image]\nname = "x"\nplatforms = ["linux/s390x"]\n')
    status, found = doctor(tmp_path)
    assert status == 0 and found["platforms"]["level"] == "warn"
    assert "linux/s390x" in found["platforms"]["message"] and "binfmt" in found["platforms"]["fix"]


def test_no_daemon(engine: Engine, tmp_path: Path) -> None:
    """A daemon that does not answer is a failure with 11, in doctor and in a build, with what to do."""
    away = {"DOCKER_HOST": f"unix://{tmp_path}/away.sock"}
    status, found = doctor(tmp_path, **away)
    assert status == 11 and found["daemon"]["level"] == "fail" and "DOCKER_HOST" in found["daemon"]["fix"]
    (tmp_path / "layerkit.toml").write_text(f'[image]\nname = "x"\nbase = "{engine.base}"\n')
    command = [sys.executable, "-m", "layerkit", "build"]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, **away}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 11 and "hint: start Docker" in done.stderr, done.stderr


def test_no_such_builder(engine: Engine, tmp_path: Path) -> None:
    """A builder that is not there is a failure with 11."""
    status, found = doctor(tmp_path, "--builder", "start-none")
    assert status == 11 and "docker buildx ls" in found["builder"]["fix"]
