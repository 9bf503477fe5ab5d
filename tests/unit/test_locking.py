"""What is locked of a build, and what contradicts a lock, without a registry."""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

import pytest

from layerkit.checkpoint.elsewhere import Elsewhere
from layerkit.errors import ConfigurationError, IntegrityError
from layerkit.events import silent
from layerkit.fingerprint import Base, Inputs
from layerkit.lock import Lock, LockedBase, read
from layerkit.locking import check_lock, hashed, held, lock_of, with_sources, write_lock
from layerkit.oci import Digest
from layerkit.project import Checkpoint
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


def test_what_was_known_of_the_files_stays(root: Path) -> None:
    """The names that Git LFS and DVC have for the files stay where the weights are layers of a registry."""
    found = known(root)
    assert found.checkpoint is not None and found.checkpoint.key is not None
    pushed = lock(found, dvc="md5:" + "0" * 32)
    assert pushed.checkpoint is not None
    files = tuple(dataclasses.replace(file, digest=None) for file in pushed.checkpoint.files)
    there = Elsewhere(found.checkpoint.key, found.checkpoint.digest, found.checkpoint.location, "", "", files=files)
    absent = dataclasses.replace(found.checkpoint, files=(), digests={}, elsewhere=there)
    again = lock_of(found, absent, LAYERS, "r.example/x", pushed).checkpoint
    assert again == pushed.checkpoint
    here = lock(found, pushed).checkpoint
    assert here is not None and here.dvc == "", "the weights are here, and DVC calls them nothing any more"


def test_target_that_is_the_root(root: Path) -> None:
    """Weights that go to / are locked as that."""
    found = lock(known(root, target="/")).checkpoint
    assert found is not None and found.place["target"] == "/"


def test_write(root: Path) -> None:
    """The lock is written where something is new, and it is said what; where it cannot be, that is a warning."""
    found, notes = known(root), []
    path = root / "layerkit.lock"
    found = dataclasses.replace(found, project=dataclasses.replace(found.project, file=root / "layerkit.toml"))

    def built(these: Inputs) -> list[str]:
        notes.clear()
        with State() as state:
            write_lock(these, these.checkpoint, LAYERS, "r.example/x", read(path), state, notes.append)
        return [f"{note.level} {note.message}" for note in notes]

    assert built(found) == ["info layerkit.lock: written"]
    assert read(path) == lock(found) and built(found) == []
    named = dataclasses.replace(found, bases={"other:1": next(iter(found.bases.values()))})
    assert built(named) == ["info layerkit.lock: base: python:3.11-slim → other:1"]
    path.unlink()
    path.symlink_to(root / "no" / "folder")
    assert [note.partition(" is not written")[0] for note in built(found)] == [
        "warning the image is built, and layerkit.lock"
    ]


def test_held(root: Path) -> None:
    """What is held to a lock is read as far as it is not known, counted, and known from then on."""
    found = known(root)
    with State() as state:
        unknown = inputs(project(root), state)
        now = held(unknown, lock(found), state)
        assert now.checkpoint is not None and found.checkpoint is not None
        assert (now.checkpoint.key, now.checkpoint.read) == (found.checkpoint.key, len(b"weights"))
        again = held(inputs(project(root), state), lock(found), state).checkpoint
        assert again is not None and again.read == 0
        with pytest.raises(ConfigurationError, match=r"there is no layerkit\.lock"):
            held(unknown, None, state)
    (root / "model.pth.tar").write_bytes(b"others!")
    with State() as state, pytest.raises(IntegrityError, match="would change: weights: sha256:"):
        held(inputs(project(root), state), lock(found), state)


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


def test_check_other_files(root: Path) -> None:
    """Of weights that were never hashed here, files that came or went are named."""
    (root / "w").mkdir()
    for name in ("a.bin", "b.bin"):
        (root / "w" / name).write_bytes(b"1234567")
    made = dataclasses.replace(project(root), checkpoint=Checkpoint("w"))
    with State() as state:
        before = lock(held_by_nothing(inputs(made, state), state))
    (root / "w" / "b.bin").rename(root / "w" / "c.bin")
    with State() as state, pytest.raises(IntegrityError) as caught:
        check_lock(before, inputs(made, state))
    assert caught.value.message == "layerkit.lock: size of b.bin: 7 → nothing; size of c.bin: nothing → 7"


def held_by_nothing(found: Inputs, state: State) -> Inputs:
    """*found*, with its checkpoint hashed."""
    assert found.checkpoint is not None
    return dataclasses.replace(found, checkpoint=hashed(found.checkpoint, state))


def test_check_of_weights_that_are_elsewhere(root: Path) -> None:
    """Weights of an image agree as far as can be known where nobody was asked for it; pointers say which they are."""
    found = known(root)
    checkpoint = found.checkpoint
    assert checkpoint is not None
    (file,) = lock(found).checkpoint.files  # type: ignore[union-attr]
    for source, files, said in (("r.example/x@sha256:0", (), "sizes"), ("", (file,), "agrees")):
        there = Elsewhere(checkpoint.key, checkpoint.digest, "/app/model", "", "", source=source, files=files)
        absent = dataclasses.replace(checkpoint, files=(), digests={}, elsewhere=there)
        these = dataclasses.replace(found, checkpoint=absent)
        assert check_lock(lock(these), these) == said
        moved = dataclasses.replace(absent, ownership=dataclasses.replace(absent.ownership, target="/srv"))
        with pytest.raises(ConfigurationError, match=r"checkpoint\.target"):
            check_lock(lock(these), dataclasses.replace(these, checkpoint=moved))


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
