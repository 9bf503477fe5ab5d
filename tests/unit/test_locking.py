"""What is locked of a build, and what contradicts a lock, without a registry."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest

from layerkit.errors import ConfigurationError, IntegrityError
from layerkit.events import silent
from layerkit.fingerprint import Base, Inputs
from layerkit.lock import Lock, LockedBase
from layerkit.locking import check_lock, lock_of, with_sources
from layerkit.oci import Digest
from layerkit.state import State
from unit.support import PLATFORM, inputs, layer, project, write_project
from unit.test_planner import known

LAYERS = (layer("weights"),)
ARM = "linux/arm64"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_project(tmp_path)


def lock(found: Inputs, before: Lock | None = None, repository: str = "r.example/x", **options: Any) -> Lock:
    return lock_of(found, found.checkpoint, LAYERS, repository, before, **options)


def based(found: Inputs, **base: Any) -> Inputs:
    """*found* on another kind of base."""
    name = next(iter(found.bases))
    return dataclasses.replace(found, bases={name: Base(**base)})


# ------------------------------------------------------------------------------------------------------- what is locked


def test_base_of_the_local_docker(root: Path) -> None:
    """A base whose digest means nothing elsewhere is not locked, and what a push has locked of it stays."""
    found = known(root)
    pushed = lock(based(found, digest=Digest.of(b"base"), manifests={PLATFORM: Digest.of(b"amd64")}))
    for base in ({"digest": Digest.of(b"local"), "pinned": False}, {"digest": None}):
        assert lock(based(found, **base)).bases == ()
        assert lock(based(found, **base), pushed).bases == pushed.bases


def test_platforms_of_a_base(root: Path) -> None:
    """Platforms that were built before stay in the lock as long as the base is the same one."""
    found, digest = known(root), Digest.of(b"base")
    first = lock(based(found, digest=digest, manifests={PLATFORM: Digest.of(b"amd64")}))
    second = based(found, digest=digest, manifests={ARM: Digest.of(b"arm64")})
    assert set(lock(second, first).bases[0].platforms) == {PLATFORM, ARM}
    moved = based(found, digest=Digest.of(b"newer"), manifests={ARM: Digest.of(b"arm64")})
    assert set(lock(moved, first).bases[0].platforms) == {ARM}


def test_weights_that_are_not_locked(root: Path) -> None:
    """What is mounted as a volume, and what nobody has hashed yet, is not in the lock."""
    assert lock(known(root, placement="volume")).checkpoint is None
    with State() as state:
        assert lock(inputs(project(root), state)).checkpoint is None


def test_build_to_no_registry(root: Path) -> None:
    """A build into Docker keeps where a push has put the same weights, and forgets where others are."""
    found = known(root)
    pushed = lock(found)
    here = lock_of(found, found.checkpoint, (layer("here"),), "", pushed).checkpoint
    assert here is not None and (here.repository, here.layers) == ("r.example/x", LAYERS)
    (root / "model.pth.tar").write_bytes(b"others!")
    other = known(root, b"others!")
    new = lock_of(other, other.checkpoint, (layer("here"),), "", pushed).checkpoint
    assert new is not None and (new.repository, new.layers) == ("", (layer("here"),))
    moved = lock(found, pushed, "r.example/elsewhere").checkpoint
    assert moved is not None and moved.repository == "r.example/elsewhere"


# -------------------------------------------------------------------------------------------------------------- sources


def test_git_lfs(root: Path) -> None:
    """In a repository that uses Git LFS the files are hashed as it calls them, each once; elsewhere nothing is read."""
    (root / ".git").mkdir()
    (root.parent / ".gitattributes").write_text("*.tar filter=lfs diff=lfs merge=lfs -text\n")
    with State() as state:
        checkpoint = inputs(project(root), state).checkpoint
        assert checkpoint is not None
        try:
            beyond = with_sources(checkpoint, "model.pth.tar", root, state, silent)
        finally:
            (root.parent / ".gitattributes").unlink()
        assert beyond == (checkpoint, ""), "what is above the repository is not its own"
        (root / ".gitattributes").write_text("*.tar filter=lfs diff=lfs merge=lfs -text\n")
        hashed, dvc = with_sources(checkpoint, "model.pth.tar", root, state, silent)
        assert (hashed.digests, dvc) == ({"model.pth.tar": Digest.of(b"weights")}, "")
        (file,) = checkpoint.files
        assert state.file_digest(file.source, file.identity) == Digest.of(b"weights")


@pytest.mark.parametrize("size", [7, None, 8])
def test_dvc(root: Path, size: int | None) -> None:
    """A .dvc file is believed where it is of these bytes; of another size, they are not even read."""
    md5 = hashlib.md5(b"weights").hexdigest()
    said = f"  size: {size}\n" if size is not None else ""
    (root / "model.pth.tar.dvc").write_text(f"outs:\n- md5: {md5}\n{said}  path: model.pth.tar\n")
    found, notes = known(root).checkpoint, []
    assert found is not None
    with State() as state:
        for _ in range(2):
            name = with_sources(found, "model.pth.tar", root, state, notes.append)[1]
            assert name == ("" if size == 8 else f"md5:{md5}")
    assert len(notes) == (0 if size == 8 else 1), "it is hashed once"


def test_dvc_file_that_cannot_be_understood(root: Path) -> None:
    """A .dvc file that says nothing of the weights is no reason to fail: they are here."""
    (root / "model.pth.tar.dvc").write_text("outs: what\n")
    found = known(root).checkpoint
    assert found is not None
    with State() as state:
        assert with_sources(found, "model.pth.tar", root, state, silent) == (found, "")


# ----------------------------------------------------------------------------------------------------- what contradicts


def test_check(root: Path) -> None:
    """A lock agrees with what it was made of; weights that were never hashed here are held to its sizes."""
    found = known(root)
    assert check_lock(None, found) == "none"
    assert check_lock(lock(found), found) == "agrees"
    with State() as state:
        assert check_lock(lock(found), inputs(project(root), state)) == "sizes"


def test_check_other_weights(root: Path) -> None:
    """Other bytes are an IntegrityError, by digest where it is known and else by size, with the file's name."""
    before = lock(known(root))
    (root / "model.pth.tar").write_bytes(b"others!")
    with pytest.raises(IntegrityError, match=r"layerkit\.lock: weights: sha256:.* → sha256:"):
        check_lock(before, known(root, b"others!"))
    (root / "model.pth.tar").write_bytes(b"longer than before")
    with State() as state, pytest.raises(IntegrityError, match=r"size of model\.pth\.tar: 7 → 18$"):
        check_lock(before, inputs(project(root), state))


def test_check_other_settings(root: Path) -> None:
    """What the project says otherwise is a ConfigurationError that names it: no bytes need be others."""
    before = lock(known(root))
    with pytest.raises(ConfigurationError, match=r'checkpoint\.chmod: "0644" → "0600"$'):
        check_lock(before, known(root, chmod="0600"))
    found = known(root)
    renamed = dataclasses.replace(found, bases={"other:1": next(iter(found.bases.values()))})
    with pytest.raises(ConfigurationError, match=r"base: python:3\.11-slim → other:1$"):
        check_lock(before, renamed)
    assert check_lock(Lock((), before.checkpoint), renamed) == "agrees", "a base of the local Docker has no entry"


def test_check_a_checkpoint_that_came_or_went(root: Path) -> None:
    """A checkpoint that only the lock has, or only the project, contradicts; one that is a volume is none of it."""
    found = known(root)
    with_one, without = lock(found), Lock(lock(found).bases)
    gone = dataclasses.replace(found, checkpoint=None, project=dataclasses.replace(found.project, checkpoint=None))
    volume = known(root, placement="volume")
    for these in (gone, volume):
        assert check_lock(without, these) == "agrees"
        with pytest.raises(ConfigurationError, match=r"checkpoint: model\.pth\.tar → nothing$"):
            check_lock(with_one, these)
    with pytest.raises(ConfigurationError, match=r"checkpoint: nothing → model\.pth\.tar$"):
        check_lock(without, found)


def test_check_of_a_base_that_was_named(root: Path) -> None:
    """The digest of a base is not asked for: a lock agrees with its name."""
    found = known(root)
    other = Lock((LockedBase(next(iter(found.bases)), Digest.of(b"older")),), lock(found).checkpoint)
    assert check_lock(other, found) == "agrees"


def test_key_of_other_layers(root: Path) -> None:
    """The same weights in layers of another key are said to be others, not to agree."""
    found = known(root)
    before = lock(found)
    assert before.checkpoint is not None
    other = dataclasses.replace(before, checkpoint=dataclasses.replace(before.checkpoint, key="k" * 40))
    with pytest.raises(IntegrityError, match="checkpoint key: kkkk"):
        check_lock(other, found)
