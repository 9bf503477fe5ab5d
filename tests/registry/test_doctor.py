"""layerkit doctor: each step of a registry tried, and said with what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from layerkit.cli.doctor import doctor
from layerkit.doctor import Finding, examine, worst
from layerkit.settings import Settings
from layerkit.testing import FakeRegistry
from registry.pushing import NAME, Pushing

Serve = Callable[..., FakeRegistry]


def look(root: Path, repository: str, environment: dict[str, str] | None = None) -> dict[str, Finding]:
    given = {"PATH": "/nonexistent", "HOME": str(root), "DOCKER_CONFIG": str(root / "docker"), **(environment or {})}
    return {finding.name: finding for finding in examine(Settings.from_environment(given), repository)}


def test_all_is_well(serve: Serve, tmp_path: Path) -> None:
    """A registry that can everything passes each step, and nothing is left behind there."""
    registry = serve(users={"ada": "canary-password"})
    pushing = Pushing(tmp_path, registry.host)
    pushing.login(registry.host, "ada", "canary-password")
    made, blobs = pushing.base()
    registry.push(NAME, "v1", made, blobs)
    found = look(tmp_path, f"{registry.host}/{NAME}")
    for name in ("name", "connection", "clock", "pull", "push", "chunks", "mount", "layer size", "disk", "stat cache"):
        assert found[name].level == "pass", found[name]
    assert registry.open_sessions == 0
    assert "canary" not in repr(found)


def test_no_login(serve: Serve, tmp_path: Path) -> None:
    """A registry that does not know us fails with 5 and how to log in."""
    registry = serve(users={"ada": "secret"})
    found = look(tmp_path, f"{registry.host}/{NAME}")
    assert found["login"].exit_status == 5
    assert "docker login" in found["login"].fix
    assert "push" not in found


def test_reading_only(serve: Serve, tmp_path: Path) -> None:
    """A login that may read and not push passes the first and fails the second."""
    registry = serve(users={"ada": "pw"}, allow=lambda user, repository, action: action == "pull")
    pushing = Pushing(tmp_path, registry.host)
    pushing.login(registry.host, "ada", "pw")
    registry.push(NAME, "v1", *pushing.base())
    found = look(tmp_path, f"{registry.host}/{NAME}")
    assert found["pull"].level == "pass"
    assert found["login"].exit_status == 5


@pytest.mark.parametrize(
    ("profile", "step"), [("gar-monolithic", "chunks"), ("acr-noresume", "chunks"), ("ecr-201", "mount")]
)
def test_what_a_registry_lacks(serve: Serve, tmp_path: Path, profile: str, step: str) -> None:
    """What a registry cannot do is a warning with what follows from it, and no failure."""
    registry = serve(profile)
    registry.push(NAME, "v1", *Pushing(tmp_path, registry.host).base())
    found = look(tmp_path, f"{registry.host}/{NAME}")
    assert found[step].level == "warn"
    assert found[step].fix
    assert worst([finding for finding in found.values() if finding.name not in ("docker", "daemon", "buildx")]) == 0
    assert registry.open_sessions == 0


def test_no_registry_there(tmp_path: Path) -> None:
    """A port where nobody listens is 7, a name that does not exist is 7."""
    assert look(tmp_path, "127.0.0.1:1/team/model")["registry"].exit_status == 7
    assert look(tmp_path, "none.invalid/team/model")["registry"].exit_status == 7


def test_no_docker(tmp_path: Path, serve: Serve) -> None:
    """Without docker that step fails with 11, and the registry is tried all the same."""
    registry = serve()
    found = look(tmp_path, f"{registry.host}/{NAME}")
    assert found["push"].level == "pass"
    assert found["docker"].exit_status in (0, 11)


def test_the_command(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command prints one line a step, or one object, and exits with the first failure's status."""
    monkeypatch.setenv("LAYERKIT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr("layerkit.doctor._builder", lambda settings, platforms: iter(()))
    registry = serve()
    done = CliRunner().invoke(doctor, [f"{registry.host}/{NAME}"])
    assert done.exit_code == 0, done.output
    assert "ok    push" in done.output
    done = CliRunner().invoke(doctor, ["--json", "127.0.0.1:1/team/model"])
    assert done.exit_code == 7
    findings = json.loads(done.output)["findings"]
    assert {finding["level"] for finding in findings} <= {"pass", "warn", "fail"}
    assert findings[-1]["name"] == "registry"


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in *folder*, on a machine without docker."""
    given = {"PATH": "/nonexistent", "HOME": str(folder), "DOCKER_CONFIG": str(folder / "docker"), **environment}
    command = [sys.executable, "-m", "layerkit", "doctor", *arguments]
    return subprocess.run(command, cwd=folder, env=given, capture_output=True, text=True, check=False, timeout=60)


def test_without_docker(tmp_path: Path) -> None:
    """A machine without docker is told so, with 11 and what to install; the rest is tried all the same."""
    done = run(tmp_path)
    assert done.returncode == 11
    assert "FAIL  docker      docker: there is no docker command on this machine" in done.stdout
    assert "→ install Docker with the buildx plugin" in done.stdout
    assert "registry    not tried, for no project is here" in done.stdout
    document = json.loads(run(tmp_path, "--json").stdout)
    assert (document["schema_version"], document["exit_status"]) == (1, 11)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[image]\nname = "m"\n', "image.name 'm' names none"),
        ('[image]\nnme = "m"\n', "warn  registry    not tried"),
        ('[image]\nname = "127.0.0.1:1/team/m"\n', "127.0.0.1:1 refuses the connection"),
    ],
)
def test_registry_of_the_project(tmp_path: Path, text: str, said: str) -> None:
    """Without REPO it is the project's image.name, where that names a registry."""
    (tmp_path / "layerkit.toml").write_text(text)
    assert said in run(Path("/"), "-C", str(tmp_path), HOME=str(tmp_path)).stdout


@pytest.mark.parametrize(
    ("config", "said"),
    [("{", "no valid Docker configuration"), ('{"credsStore": "gone"}', "gone"), ("{}", "anonymous at Docker Hub")],
)
def test_logins(tmp_path: Path, config: str, said: str) -> None:
    """Logins that cannot be read are a warning with what to do."""
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text(config)
    found = look(tmp_path, "")["logins"]
    assert said in found.said and (found.level == "pass") is (config == "{}") and bool(found.fix) is (config != "{}")


def test_too_little_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Little room is a warning, none a failure with 11, for a folder that is not there yet too."""
    for free, level in ((1024**3, "warn"), (1024, "fail"), (1024**4, "pass")):
        monkeypatch.setattr("shutil.disk_usage", lambda place, free=free: SimpleNamespace(free=free))
        found = look(tmp_path, "")["state"]
        assert (found.level, found.exit_status) == (level, 11 if level == "fail" else 0)
