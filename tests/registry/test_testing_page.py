"""The page about layerkit.testing: its example runs, and its table names every profile."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from documents import Command, File, agrees, steps
from layerkit.testing import PROFILES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "testing.md"


def test_the_example_runs(tmp_path: Path) -> None:
    """The file of the page, run as the page says, prints what the page promises."""
    commands = 0
    for step in steps(PAGE):
        if isinstance(step, File):
            (tmp_path / step.name).write_text(step.text)
        elif isinstance(step, Command):
            arguments = [sys.executable, *step.line.split()[1:]]
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
            done = subprocess.run(
                arguments, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False
            )
            assert agrees(step.output, done.stdout), done.stdout + done.stderr
            commands += 1
    assert commands == 1


def test_every_profile_is_told() -> None:
    """The table has each profile once."""
    told = re.findall(r"^\| `([\w.-]+)` \|", PAGE.read_text(), re.M)
    assert sorted(told) == sorted(PROFILES)
