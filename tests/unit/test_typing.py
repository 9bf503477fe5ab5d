from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_public_api_is_typed() -> None:
    """The sentence of the README type-checks strictly, lists and all, and mistakes in it are found."""
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "tests/typing/api.py", "tests/typing/mistakes.py"],
        cwd=ROOT, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no issues found in 2 source files" in done.stdout


def test_marked_as_typed() -> None:
    """The package says that it has types (PEP 561)."""
    assert (ROOT / "src/layerkit/py.typed").is_file()
