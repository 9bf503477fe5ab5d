from __future__ import annotations

import dataclasses
import errno
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

import layerkit.staging as staging_module
from layerkit.errors import ConfigurationError, LocalResourceError
from layerkit.fingerprint import Inputs, hash_file
from layerkit.project import Dependencies
from layerkit.runtime.dockerignore import read
from layerkit.staging import Links, link_checkpoint, stage, workplace
from layerkit.state import Identity, State
from unit.support import inputs, project, write_project

WHEEL = "torch-2.13.0-py3-none-any.whl"


def with_wheels(root: Path, state: State) -> Inputs:
    write_project(root)
    (root / "wheels").mkdir()
    (root / "wheels" / WHEEL).write_bytes(b"old wheel")
    made = dataclasses.replace(project(root), dependencies=Dependencies("requirements.txt", wheels="wheels"))
    return inputs(made, state)


def known(path: Path, state: State) -> bool:
    return state.file_digest(path, Identity.of(path.stat())) is not None


# ---------------------------------------------------------------------------------------------------------- the context


def test_no_dockerignore_is_applied_twice(tmp_path: Path) -> None:
    """Beside the staged Dockerfile lies an ignore file of no pattern: BuildKit takes it, and no .dockerignore."""
    root = write_project(tmp_path / "project")
    (root / "src/.dockerignore").write_text("*\n")
    with State() as state, Links(state) as links:
        context = stage(inputs(project(root), state), tmp_path / "context", links)
    beside = (tmp_path / "Dockerfile.dockerignore").read_text()
    assert beside and read(beside) == ()
    assert (context / "src/.dockerignore").read_text() == "*\n"


def test_wheels_are_those_of_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """BuildKit gets the wheels that the key was made of, not read again; what happens in their folder later is lost."""
    root = tmp_path / "project"
    with State() as state:
        made = with_wheels(root, state)
        monkeypatch.setattr(
            staging_module, "hash_file", lambda path: pytest.fail(path) if path.name == WHEEL else hash_file(path)
        )
        with Links(state) as links:
            stage(made, tmp_path / "context", links)
            (root / "wheels" / "new").write_bytes(b"new wheel")
            (root / "wheels" / "new").replace(root / "wheels" / WHEEL)
            assert (tmp_path / "wheels" / WHEEL).read_bytes() == b"old wheel"


@pytest.mark.parametrize("how", ["replaced", "written", "gone"])
@pytest.mark.parametrize("copied", [False, True])
def test_wheels_that_changed(tmp_path: Path, how: str, copied: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel that is another one than the key was made of ends the build, before BuildKit has it."""
    wheel = tmp_path / "project/wheels" / WHEEL
    with State() as state:
        made = with_wheels(tmp_path / "project", state)
        if how == "written":
            wheel.write_bytes(b"new wheel")
        else:
            wheel.unlink()
        if how == "replaced":
            wheel.write_bytes(b"new wheel")
        if copied:
            monkeypatch.setattr(os, "link", refuse)
        with Links(state) as links, pytest.raises(ConfigurationError, match=f"{WHEEL}: changed while the build began"):
            stage(made, tmp_path / "context", links)


def refuse(*_: Any, **__: Any) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the folder for temporary files is full, or there is none, that is said, with the way out."""

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    root = write_project(tmp_path / "project")
    with State() as state:
        made = inputs(project(root), state)
        with monkeypatch.context() as patch, Links(state) as links:
            patch.setattr(shutil, "copyfileobj", full)
            with pytest.raises(LocalResourceError, match=r"build context: .*No space left") as caught:
                stage(made, tmp_path / "context", links)
            assert "TMPDIR" in caught.value.hint
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
        with pytest.raises(LocalResourceError, match="No such file"), workplace(state):
            pass


# ---------------------------------------------------------------------------------------------------------------- links


def test_linked_files_stay_known(tmp_path: Path) -> None:
    """A file that was known before it was linked is known after it, and is not read again by the next build."""
    root = write_project(tmp_path / "project")
    weights = root / "model.pth.tar"
    with State() as state:
        state.remember_file(weights, Identity.of(weights.stat()), hash_file(weights))
        with workplace(state) as (folder, links):
            assert link_checkpoint(inputs(project(root), state), folder / "checkpoint", links) == weights.stat().st_size
            assert (folder / "checkpoint/model.pth.tar").samefile(weights)
            assert not known(weights, state)
        assert weights.stat().st_nlink == 1 and not folder.exists()
        assert known(weights, state)


def test_linked_files_that_change_are_not_known(tmp_path: Path) -> None:
    """A file that was written to while it was linked is read by the next build."""
    file = tmp_path / "file"
    file.write_bytes(b"one")
    with State() as state:
        state.remember_file(file, Identity.of(file.stat()), hash_file(file))
        with workplace(state) as (folder, links):
            links.add(file, folder / "link")
            file.write_bytes(b"two")
        assert not known(file, state)


def test_links_are_followed(tmp_path: Path) -> None:
    """Of a symbolic link BuildKit gets the file: the link would point to nothing there."""
    (tmp_path / "file").write_bytes(b"one")
    (tmp_path / "link").symlink_to("file")
    with State() as state, Links(state) as links:
        links.add(tmp_path / "link", tmp_path / "place")
        assert not (tmp_path / "place").is_symlink() and (tmp_path / "place").read_bytes() == b"one"


@pytest.mark.parametrize(("mode", "linked"), [(0o600, False), (0o644, True), (0o664, True)])
def test_weights_are_as_readable_as_composed_ones(tmp_path: Path, mode: int, linked: bool) -> None:
    """Weights that only their owner may read here are given to BuildKit as composing has them: readable by all."""
    root = write_project(tmp_path / "project")
    weights = root / "model.pth.tar"
    weights.chmod(mode)
    with State() as state, workplace(state) as (folder, links):
        link_checkpoint(inputs(project(root), state), folder, links)
        given = folder / "model.pth.tar"
        assert given.stat().st_mode & 0o444 == 0o444 and given.samefile(weights) is linked
    assert weights.stat().st_mode & 0o777 == mode
