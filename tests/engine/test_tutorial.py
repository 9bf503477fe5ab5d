"""The tutorial and the pages that go on in its folder, block by block, as a reader types them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from documents import Command, File, agrees, steps, substitute

from .conftest import ROOT, Engine

DOCS = ROOT / "docs"


@dataclass(frozen=True)
class Reader:
    """Somebody who does what a page says, in a folder.

    Attributes:
        folder: where files are written and commands are run.
        other: what stands in the page -> what is there instead.
    """

    folder: Path
    other: Mapping[str, str]
    environment: Mapping[str, str]

    def read(self, page: Path) -> int:
        """Do what *page* says, hold each output against what it promises; how many commands there were."""
        done = 0
        for step in steps(page):
            match step:
                case File(file, text):
                    (self.folder / file).write_text(substitute(text, self.other))
                case Command(line, output):
                    printed = self.run(substitute(line, self.other))
                    promised = tuple(substitute(text, self.other) for text in output)
                    assert agrees(promised, printed), f"{page.name}: {line}\n{printed}"
                    done += 1
        return done

    def run(self, line: str) -> str:
        """What *line* prints, on both streams."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=200,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}"
        return done.stdout


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def programs(folder: Path) -> Path:
    """A folder for PATH with `layerkit` and `python`, wherever they are installed here."""
    folder.mkdir()
    for name, command in (("layerkit", f"{sys.executable} -m layerkit"), ("python", sys.executable)):
        (folder / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def reader(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A new user, who has read the tutorial and done all of it."""
    place = tmp_path_factory.mktemp("reader")
    folder = place / "first"
    folder.mkdir()
    name = f"tutorial-{uuid.uuid4().hex[:8]}"
    other = {
        "python:3.11-slim": engine.base,
        "127.0.0.1:8000": f"127.0.0.1:{free_port()}",
        "localhost:5000": f"{engine.registry}/docs/{name}",
        "first": name,
    }
    environment = {
        **os.environ,
        "PATH": f"{programs(place / 'bin')}{os.pathsep}{os.environ['PATH']}",
        "LAYERKIT_STATE_DIR": str(place / "state"),
    }
    try:
        made = Reader(folder, other, environment)
        assert made.read(DOCS / "tutorial.md") > 20
        yield made
    finally:
        engine.docker("rm", "-f", name, check=False)


def test_tutorial(reader: Reader) -> None:
    """Every file and command of the tutorial does what the page says, with its output line by line."""
    assert (reader.folder / "layerkit.toml").is_file()


@pytest.mark.parametrize("page", ["own-dockerfile", "multiple-models", "air-gapped"])
def test_how_to(reader: Reader, page: str) -> None:
    """The commands of the pages that go on in the tutorial's folder do what the pages say."""
    assert reader.read(DOCS / "how-to" / f"{page}.md") >= 2
