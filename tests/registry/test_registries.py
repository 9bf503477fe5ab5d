"""Access to registries by the commands that ask one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from layerkit.cli import main
from layerkit.testing import FakeRegistry
from registry.pushing import NAME, Pushing

Serve = Callable[..., FakeRegistry]


@pytest.mark.parametrize(
    "command",
    ["inspect IMAGE", "inspect IMAGE --json", "diff IMAGE IMAGE", "verify IMAGE", "prune REPO", "doctor REPO", "bake"],
)
def test_trying_again_is_told(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """A command whose registry does not answer says so on standard error when it tries again, and not at its end."""
    registry = serve()
    pushing = Pushing(tmp_path, registry.host)
    pushing.seed(registry)
    registry.push(NAME, "v1", *pushing.base())
    for name, value in (pushing.environ | {"PATH": "/nonexistent"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(pushing.project)
    repository = f"{registry.host}/{NAME}"
    registry.fail(status=503, path="/v2/team/")  # doctor asks for /v2/ one time only
    with pytest.raises(SystemExit):
        main(command.replace("IMAGE", f"registry:{repository}:v1").replace("REPO", repository).split())
    said = [line for line in capsys.readouterr().err.splitlines() if line.endswith("HTTP 503; trying again")]
    assert len(said) == 1 and said[0].startswith("note: ") and registry.host in said[0]
