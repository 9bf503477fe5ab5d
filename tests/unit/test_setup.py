"""tools/setup, with a Python and an engine that only note what they were asked for."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

SETUP = Path(__file__).parents[2] / "tools" / "setup"
# Makes .venv/bin/python, itself again, which notes what pip is to do and fails, or waits for Ctrl-C, where told to.
PYTHON = r"""#!/bin/bash
echo "$*" >>"$NOTES"
case "$*" in
    "-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    *"${FAIL_AT:-nothing}"*) exit 1 ;;
    *"${WAIT_AT:-nothing}"*) trap 'exit 1' INT; touch "$NOTES.waits"; while :; do sleep 0.05; done ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "tools").mkdir()
    shutil.copy(SETUP, tmp_path / "tools" / "setup")
    for path, text in ((tmp_path / "python", PYTHON), (tmp_path / "tools" / "engine", "#!/bin/sh\n")):
        path.write_text(text)
        path.chmod(0o755)
    (tmp_path / "pyproject.toml").touch()
    return tmp_path


def start(project: Path, *arguments: str, **surroundings: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHON": str(project / "python"), "NOTES": str(project / "notes"), **surroundings}
    return subprocess.Popen(
        [project / "tools" / "setup", *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        # As a terminal leaves it, whatever runs these tests.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def installs(project: Path) -> list[str]:
    return [line for line in (project / "notes").read_text().splitlines() if " install " in line]


def test_a_failure_is_not_passed_over(project: Path) -> None:
    """Where one package cannot be installed the others are not tried, and the next run does not take it for done."""
    setup = start(project, FAIL_AT="torch==")
    _, said = setup.communicate(timeout=30)
    assert setup.returncode == 1 and "not complete" in said
    assert "torch==" in installs(project)[-1]
    assert not (project / ".venv" / ".ready").exists()
    setup = start(project)
    setup.communicate(timeout=30)
    assert setup.returncode == 0 and (project / ".venv" / ".ready").exists()


def test_interrupted(project: Path) -> None:
    """Ctrl-C ends it, though pip answers with an ordinary status; engine and all, and nothing more is installed."""
    (project / "tools" / "engine").write_text("#!/bin/sh\nexec sleep 60\n")
    setup = start(project, "--engine", WAIT_AT="torch==")
    until = time.monotonic() + 30
    while not (project / "notes.waits").exists() and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(setup.pid, signal.SIGINT)
    setup.communicate(timeout=30)  # the engine has our standard error: this waits for it too
    assert setup.returncode == 130
    assert "torch==" in installs(project)[-1]
    assert not (project / ".venv" / ".ready").exists()


def test_half_made_environment(project: Path) -> None:
    """A virtual environment without pip, which a Ctrl-C leaves behind, is completed."""
    (project / ".venv" / "bin").mkdir(parents=True)
    (project / ".venv" / "bin" / "python").write_text("#!/bin/sh\nexit 1\n")
    (project / ".venv" / "bin" / "python").chmod(0o755)
    setup = start(project)
    setup.communicate(timeout=30)
    assert setup.returncode == 0
    assert any(line.startswith("-m venv") for line in (project / "notes").read_text().splitlines())
