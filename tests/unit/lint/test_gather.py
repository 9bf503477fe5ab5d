"""What is looked at around a Dockerfile, and how one is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from layerkit.errors import ConfigurationError
from layerkit.lint import find, gather, read_text, write_text


def test_files(tmp_path: Path) -> None:
    """Sizes are those of the files, links have none, and .dockerignore decides what is sent."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "model.pt").write_bytes(b"x" * 5000)
    (tmp_path / "link.pt").symlink_to("a/model.pt")
    (tmp_path / "requirements.txt").write_text("torch\n")
    (tmp_path / "old.ckpt").write_bytes(b"y")
    (tmp_path / ".dockerignore").write_text("# no\n*.ckpt\n.venv\n")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "x").write_text("x")
    facts = gather(tmp_path / "Dockerfile", tmp_path)
    found = {entry.path: (entry.size, entry.ignored, entry.link) for entry in facts.entries}
    assert found["a/model.pt"] == (5000, False, False)
    assert found["link.pt"] == (0, False, True)
    assert found["old.ckpt"] == (1, True, False)
    assert ".venv/x" not in found
    assert (facts.ignore, facts.requirements, facts.known) == (".dockerignore", {"requirements.txt": "torch\n"}, True)


def test_ignore_file_beside_the_dockerfile(tmp_path: Path) -> None:
    """<Dockerfile>.dockerignore comes before .dockerignore."""
    (tmp_path / ".dockerignore").write_text("*")
    (tmp_path / "cpu.Dockerfile.dockerignore").write_text("b")
    (tmp_path / "a").write_text("")
    facts = gather(tmp_path / "cpu.Dockerfile", tmp_path)
    assert facts.ignore == "cpu.Dockerfile.dockerignore"
    assert not next(entry for entry in facts.entries if entry.path == "a").ignored


def test_pointer(tmp_path: Path) -> None:
    """A Git LFS pointer has the size of what it stands for."""
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 3221225472\n"
    (tmp_path / "m.safetensors").write_text(text)
    (entry,) = gather(None, tmp_path).entries
    assert entry.pointer and entry.size == 3221225472


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    """A context that is not there, or a .dockerignore that is none, is an error of usage."""
    with pytest.raises(ConfigurationError, match="no such folder"):
        gather(None, tmp_path / "no")
    (tmp_path / ".dockerignore").write_text("[a\n")
    with pytest.raises(ConfigurationError, match=r"\.dockerignore"):
        gather(None, tmp_path)


def test_find(tmp_path: Path) -> None:
    """A folder stands for the Dockerfile in it."""
    with pytest.raises(ConfigurationError, match="no Dockerfile in that folder"):
        find(tmp_path)
    with pytest.raises(ConfigurationError, match="no such file"):
        find(tmp_path / "Dockerfile")
    (tmp_path / "Dockerfile").write_text("FROM a\n")
    assert find(tmp_path) == find(tmp_path / "Dockerfile") == tmp_path / "Dockerfile"


def test_written_as_a_whole(tmp_path: Path) -> None:
    """A file is replaced at once: bytes that are no UTF-8, the mode and a link to it stay, and nothing is left over."""
    real = tmp_path / "real"
    real.write_bytes(b"FROM a\n# \xe9\r\n")
    real.chmod(0o640)
    link = tmp_path / "Dockerfile"
    link.symlink_to("real")
    write_text(link, read_text(link) + "CMD x\n")
    assert real.read_bytes() == b"FROM a\n# \xe9\r\nCMD x\n"
    assert real.stat().st_mode & 0o777 == 0o640 and link.is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Dockerfile", "real"]


def test_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the disk fails, the old file is there as it was."""
    path = tmp_path / "Dockerfile"
    path.write_text("FROM a\n")

    def fail(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigurationError, match="No space left"):
        write_text(path, "FROM b\n")
    assert [p.read_text() for p in tmp_path.iterdir()] == ["FROM a\n"]


def test_too_large(tmp_path: Path) -> None:
    """What is over 16 MiB is no Dockerfile."""
    with (tmp_path / "Dockerfile").open("wb") as stream:
        stream.truncate(17 << 20)
    with pytest.raises(ConfigurationError, match="over 16 MiB"):
        read_text(tmp_path / "Dockerfile")
