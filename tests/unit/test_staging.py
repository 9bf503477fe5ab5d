from __future__ import annotations

from pathlib import Path

from layerkit.runtime.dockerignore import read
from layerkit.staging import stage
from layerkit.state import State
from unit.support import inputs, project, write_project


def test_no_dockerignore_is_applied_twice(tmp_path: Path) -> None:
    """Beside the staged Dockerfile lies an ignore file of no pattern: BuildKit takes it, and no .dockerignore."""
    root = write_project(tmp_path / "project")
    (root / "src/.dockerignore").write_text("*\n")
    with State() as state:
        context = stage(inputs(project(root), state), tmp_path / "context")
    beside = (tmp_path / "Dockerfile.dockerignore").read_text()
    assert beside and read(beside) == ()
    assert (context / "src/.dockerignore").read_text() == "*\n"
