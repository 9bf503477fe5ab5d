"""Completion in a real zsh: the machine's, or Debian's packages unpacked apart."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.cli.shells import LINES, ZSH, Shell, surroundings


@pytest.fixture(scope="module")
def zsh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    folder = tmp_path_factory.mktemp("zsh")
    command, more, setup = [shutil.which("zsh") or ""], {}, ""
    if not command[0]:
        root = unpacked(folder / "packages")
        (modules,) = root.glob("usr/lib/*/zsh/*")
        functions = [str(path) for path in (root / "usr/share/zsh/functions").rglob("*") if path.is_dir()]
        command, setup = [str(root / "bin" / "zsh")], f"module_path=({modules})\nfpath=({' '.join(functions)})\n"
    environment = surroundings(folder, **more)
    setup += ZSH + 'eval "$(layerkit completion zsh)"'
    shell = Shell([*command, "-f", "-i"], environment, folder / "home", setup)
    yield shell
    shell.close()


def unpacked(folder: Path) -> Path:
    """zsh and its functions, fetched as apt is set up and installed nowhere."""
    folder.mkdir()
    get = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", "zsh", "zsh-common"]
    subprocess.run(get, cwd=folder, check=True, timeout=120, env={**os.environ, "LC_ALL": "C"})
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder / "root")], check=True, timeout=60)
    return folder / "root"


@pytest.mark.parametrize(("typed", "line"), LINES)
def test_zsh(zsh: Shell, typed: str, line: str) -> None:
    """The tab key completes the same as in bash."""
    assert zsh.complete(typed) == line
