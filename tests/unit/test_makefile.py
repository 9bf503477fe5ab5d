"""layerkit.mk, in a Makefile of somebody else."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import layerkit

MK = Path(layerkit.__file__).with_name("layerkit.mk")
ROOT = Path(__file__).parents[2]


def make(folder: Path, text: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (folder / "Makefile").write_text(text)
    return subprocess.run(["make", "-C", folder, "-s", *arguments], capture_output=True, text=True, check=False)


def test_a_folder_with_spaces(tmp_path: Path) -> None:
    """The folder of the project may have spaces in its name."""
    done = make(tmp_path, f"include {MK}\n", "plan", "LAYERKIT=printf '%s|'", "LAYERKIT_DIR=my model")
    assert done.stdout == "plan|-C|my model|--tag|latest|--push|", done.stderr


def test_layerkit_is_missing(tmp_path: Path) -> None:
    """The documented line for a layerkit that may be missing fails with what to do; the short one has nothing to do."""
    page = (ROOT / "docs" / "how-to" / "makefile.md").read_text()
    lines = [line.replace("(shell layerkit", "(shell no-layerkit") for line in re.findall("^include .*", page, re.M)]
    short, guarded = (make(tmp_path, f"{line}\n\npush: Makefile\n", "push") for line in lines)
    assert short.returncode == 0
    assert guarded.returncode == 2 and "pip install layerkit" in guarded.stderr
