"""The main job on real input: `make demo` as a user runs it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Engine

ROOT = Path(__file__).parents[2]


@pytest.mark.torch
@pytest.mark.timeout(900)
def test_demo(engine: Engine) -> None:
    """The demo trains, builds, retrains, edits and serves: each build moves what changed, the container serves it."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "demo.py")], capture_output=True, text=True, timeout=880, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    rows = {line.split("  ")[0]: re.split(r"\s{2,}", line) for line in done.stdout.splitlines() if line.count("  ") > 4}
    retrained, edited, again = rows["retrained"], rows["code edited"], rows["nothing changed"]
    assert retrained[1:4] == ["checkpoint", "no", "0 B"]
    assert edited[1:3] == ["code", "yes"] and edited[4] == "0 B"
    assert again[1:6] == ["nothing", "no", "0 B", "0 B", "0 B"]
    served, built = (re.search(rf"{name}\s+(sha256:\w+)", done.stdout) for name in ("container serves", "just built"))
    assert served is not None and built is not None and served[1] == built[1]
