from __future__ import annotations

import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

import layerkit.state as state_module
from layerkit.oci import Digest
from layerkit.state import Identity, State
from unit.support import slow_clock

D = Digest.of(b"1")


def identity(path: Path) -> Identity:
    return Identity.of(path.stat())


def settled(path: Path, content: str) -> Identity:
    """Write a file, and wait until a later change must show in its times."""
    path.write_text(content)
    identity(path).settle()
    return identity(path)


def test_remembered(tmp_path: Path) -> None:
    """A file's digest is known again in another run as long as it has the same identity."""
    file = tmp_path / "model.pt"
    before = settled(file, "weights")
    with State(tmp_path / "state") as state:
        assert state.file_digest(file, before) is None
        state.remember_file(file, before, D)
    with State(tmp_path / "state") as state:
        assert state.file_digest(file, identity(file)) == D


@pytest.mark.parametrize("how", ["same-size", "other-size", "replaced", "touched", "mtime-put-back"])
def test_forgotten(tmp_path: Path, how: str) -> None:
    """Whatever way a file changes, its digest is not known any more: also where size and mtime are as before."""
    file = tmp_path / "model.pt"
    before = settled(file, "weights")
    with State() as state:
        state.remember_file(file, before, D)
        if how == "same-size":
            file.write_text("WEIGHTS")
        elif how == "other-size":
            file.write_text("more weights")
        elif how == "replaced":
            (tmp_path / "new").write_text("WEIGHTS")
            (tmp_path / "new").replace(file)
        elif how == "touched":
            os.utime(file, ns=(1, 1))
        else:
            file.write_text("WEIGHTS")
            os.utime(file, ns=(before.mtime, before.mtime))
        assert state.file_digest(file, identity(file)) is None


def test_racy_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is written again right after its digest was kept is not taken for the old one ("racy git")."""
    slow_clock(monkeypatch)
    file = tmp_path / "model.pt"
    with State() as state:
        for number in range(10):
            file.write_text(f"weights {number}")
            before = identity(file)
            state.remember_file(file, before, D)
            file.write_text(f"WEIGHTS {number}")
            assert state.file_digest(file, identity(file)) is None


def test_settle_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for the clock takes at most 20 ms, and nothing for an old file or one from the future.

    On a file system that counts in whole seconds it takes two of them at most.
    """
    slept: list[float] = []
    monkeypatch.setattr(state_module, "time", SimpleNamespace(time=lambda: 1000.0, sleep=slept.append))
    for ctime in (900.0, 1100.0, 999.995):
        Identity(1, 1, 1, 1, int(ctime * 1e9)).settle()
    assert slept == [pytest.approx(0.015, abs=1e-4)]
    Identity(1, 1, 1, 1, 999 * 1_000_000_000).settle()
    assert slept[1:] == [pytest.approx(1.0, abs=1e-4)]


def test_name_that_is_not_utf_8(tmp_path: Path) -> None:
    """A project in a folder whose name is not UTF-8 has a stat cache like any other."""
    file = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    before = settled(file, "x")
    with State() as state:
        assert state.file_digest(file, before) is None
        state.remember_file(file, before, D)
        assert state.file_digest(file, before) == D


def test_records(tmp_path: Path) -> None:
    """Values are kept by kind and key, the last one wins, and all of a kind come sorted by key."""
    with State(tmp_path) as state:
        state.put("runtime", "b", {"x": [1, None]})
        state.put("runtime", "a", 1)
        state.put("runtime", "a", 2)
        state.put("other", "c", "ü")
        assert state.get("runtime", "b", dict) == {"x": [1, None]} and state.get("runtime", "none", dict) is None
    with State(tmp_path) as state:
        assert state.all("runtime", lambda value: value) == {"a": 2, "b": {"x": [1, None]}}
        assert list(state.all("runtime", lambda value: value)) == ["a", "b"]


def test_damaged_file(tmp_path: Path) -> None:
    """A damaged file is put aside and begun again, and nobody is told: it is a cache (FAULTS 52)."""
    (tmp_path / "state.sqlite").write_bytes(b"no database at all " * 500)
    with State(tmp_path) as state:
        state.put("a", "b", 1)
    with State(tmp_path) as state:
        assert state.get("a", "b", int) == 1
    assert (tmp_path / "state.damaged").exists()


def test_damage_inside(tmp_path: Path) -> None:
    """Damage that shows only when a row is asked for ends no run, and is not there for the next one (FAULTS 52)."""
    with State(tmp_path) as state:
        for number in range(500):
            state.put("a", str(number), "x" * 200)
    path = tmp_path / "state.sqlite"
    raw = path.read_bytes()
    path.write_bytes(raw[:4096] + b"\xa5" * (len(raw) - 4096))
    with State(tmp_path) as state:
        assert state.get("a", "1", int) is None
        state.put("a", "b", 1)
        assert state.get("a", "b", int) == 1
    with State(tmp_path) as state:
        assert state.get("a", "b", int) == 1
    assert (tmp_path / "state.damaged").exists()


def test_damaged_file_that_cannot_be_put_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even that is possible, the run works without memory (FAULTS 52)."""
    (tmp_path / "state.sqlite").write_bytes(b"no database at all " * 500)

    def denied(self: Path, target: Path) -> Path:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "replace", denied)
    with State(tmp_path) as state:
        state.put("a", "b", 1)
        assert state.get("a", "b", int) == 1


def test_damaged_rows(tmp_path: Path) -> None:
    """A row that makes no sense is as good as none (FAULTS 52)."""
    file = tmp_path / "model.pt"
    before = settled(file, "x")
    with State(tmp_path) as state:
        state.remember_file(file, before, D)
        state.put("a", "b", 1)
        for digest in ("'sha256:1'", "NULL", "x'00ff'"):
            state._connection.execute(f"UPDATE files SET digest = {digest}")
            assert state.file_digest(file, before) is None
        state._connection.execute("UPDATE records SET value = '{'")
        assert state.get("a", "b", int) is None and state.all("a", int) == {}


@pytest.mark.parametrize("value", ['"sha256:1"', "3", "null", "[" * 100_000, "{", b"\xff", None])
def test_damaged_record(value: object) -> None:
    """A record that its reader cannot take is forgotten, whatever it is instead, and not met again."""
    with State() as state:
        for key in ("damaged", "good"):
            state.put("kind", key, str(D))
        state._connection.execute("UPDATE records SET value = ? WHERE key = 'damaged'", (value,))
        assert state.get("kind", "damaged", Digest.parse) is None
        state._connection.execute("INSERT OR IGNORE INTO records VALUES ('kind', 'damaged', ?)", (value,))
        assert state.all("kind", Digest.parse) == {"good": D}
        assert state._connection.execute("SELECT count(*) FROM records").fetchone() == (1,)


@pytest.mark.parametrize("kind", ["file", "folder-in-the-way"])
def test_no_place_for_it(tmp_path: Path, kind: str) -> None:
    """Where no file can be made, the run works without memory (FAULTS 52)."""
    if kind == "file":
        (tmp_path / "x").touch()
        folder = tmp_path / "x" / "layerkit"
    else:
        folder = tmp_path
        (folder / "state.sqlite").mkdir()
    with State(folder) as state:
        state.put("a", "b", 1)
        assert state.get("a", "b", int) == 1


def test_after_close(tmp_path: Path) -> None:
    """A thread that outlives the run does not fail on the closed cache."""
    state = State(tmp_path)
    state.close()
    state.close()
    state.put("a", "b", 1)
    assert state.get("a", "b", int) is None and state.all("a", int) == {}


def test_many_at_once(tmp_path: Path) -> None:
    """Threads and several builds at once may use it; nothing that was kept is lost."""
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            with State(tmp_path) as own:
                for n in range(10):
                    own.put("k", f"{number}-{n}", n)
                    shared.put("shared", f"{number}-{n}", n)
        except BaseException as error:  # noqa: BLE001 - shown below
            failures.append(error)

    with State(tmp_path) as shared:
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []
        assert len(shared.all("k", int)) == len(shared.all("shared", int)) == 40


def test_stopped_while_waiting(tmp_path: Path) -> None:
    """Who is stopped while it waits for a lock leaves it to the one that has it: no third one gets in."""

    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    with State(tmp_path) as state, state.alone("layer", stop):
        for _ in range(2):
            with pytest.raises(Stopped), state.alone("layer", stop):
                pytest.fail("two have it")
    assert list((tmp_path / "locks").iterdir()) == []


def test_memory_is_nobody_elses() -> None:
    """Without a folder nothing is kept beyond the run, and no other one sees it."""
    with State() as one, State() as other:
        one.put("a", "b", 1)
        assert other.get("a", "b", int) is None and one.get("a", "b", int) == 1
    with State() as later:
        assert later.get("a", "b", int) is None


def test_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the file system knows no locks nobody is waited for."""

    def refuse(handle: int, operation: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(state_module.fcntl, "flock", refuse)
    with State(tmp_path) as state, state.alone("layer", lambda: pytest.fail("it waits")) as waited:
        assert not waited
