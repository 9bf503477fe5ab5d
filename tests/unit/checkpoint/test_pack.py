from __future__ import annotations

import hashlib
import os
import random
import sys
import threading
import time
from pathlib import Path

import pytest

from layerkit.checkpoint import Ownership, Packer, arrange, find
from layerkit.errors import CheckpointError
from layerkit.oci import Digest
from unit.support import file_digests

MIB = 1024 * 1024
OWNER = Ownership("/app/model/", 1000, 1001, 0o640)


def write(root: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)


def test_packer(tmp_path: Path) -> None:
    """One pass gives each layer's digest and each file's own, and counts the bytes of the files alone."""
    content = {"big.bin": random.Random(2).randbytes(17 * MIB), "a": b"1", "sub/b": b"22"}
    write(tmp_path, content)
    blueprints = arrange(find(".", tmp_path), OWNER)
    counted: list[int] = []
    packer = Packer(blueprints, counted.append).start()
    found = file_digests(packer)
    packer.stop()
    assert found == {name: Digest("sha256", hashlib.sha256(data).hexdigest()) for name, data in content.items()}
    assert [packer.known(n) for n in range(2)] == [
        Digest.of(b"".join(map(bytes, blueprint.open()))) for blueprint in blueprints
    ]
    assert sum(counted) == sum(len(data) for data in content.values()) and not packer.failed


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a nice value is the process's")
def test_packer_gives_way(tmp_path: Path) -> None:
    """Hashing is behind the rest of the process, which stays where it was."""
    write(tmp_path, {"big.bin": bytes(2 * MIB)})
    before, found = os.getpriority(os.PRIO_PROCESS, 0), []
    packer = Packer(
        arrange(find(".", tmp_path), OWNER),
        lambda count: found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id())),
    ).start()
    file_digests(packer)
    packer.stop()
    assert set(found) == {min(before + 10, 19)} and os.getpriority(os.PRIO_PROCESS, 0) == before


def test_packer_hands_its_failure_on(tmp_path: Path) -> None:
    """Whoever waits for a digest gets the error; the digests before it stay known."""
    write(tmp_path, {"a": b"1", "big.bin": bytes(17 * MIB)})
    files = find(".", tmp_path)
    with (tmp_path / "big.bin").open("ab") as stream:
        stream.write(b"x")
    packer = Packer(arrange(files, OWNER)).start()
    assert packer.digest(0)
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"big\.bin changed"):
            packer.digest(1)
    with pytest.raises(CheckpointError):
        file_digests(packer)
    assert packer.failed and packer.known(0) is not None and packer.known(1) is None
    packer.stop()


@pytest.mark.timeout(20)
def test_packer_stops(tmp_path: Path) -> None:
    """A packer that is stopped ends soon, and who waits is told instead of waiting for ever."""
    path = tmp_path / "model.pt"
    with path.open("wb") as stream:
        stream.truncate(64 * 1024 * MIB)
    reading = threading.Event()
    packer = Packer(arrange(find("model.pt", tmp_path), OWNER), lambda count: reading.set()).start()
    reading.wait(10)
    begun = time.monotonic()
    packer.stop()
    assert time.monotonic() - begun < 2
    with pytest.raises(CheckpointError, match="stopped"):
        packer.digest(0)
    assert not any(thread.name.startswith("layerkit-hash") for thread in threading.enumerate())


@pytest.mark.timeout(60)
@pytest.mark.parametrize("slower", ["hash", "line"])
def test_hash_and_line_stay_together(slower: str, tmp_path: Path) -> None:
    """With a limit, what is hashed of a layer and what is sent of it are never further apart but for two chunks."""
    limit = 4 * MIB
    write(tmp_path, {"one.bin": random.Random(1).randbytes(24 * MIB)})
    hashed, apart = [0], []

    def on_read(count: int) -> None:
        hashed[0] += count
        if slower == "hash":
            time.sleep(0.002)

    packer = Packer(arrange(find(".", tmp_path), OWNER), on_read, apart=limit).start()
    sent, whole = 0, hashlib.sha256()
    for chunk in packer.content(0).open():
        whole.update(chunk)
        sent += len(chunk)
        apart.append(abs(hashed[0] - sent))
        if slower == "line":
            time.sleep(0.002)
    assert packer.digest(0) == Digest("sha256", whole.hexdigest())
    packer.stop()
    assert max(apart) <= limit + 2 * MIB, "further apart than they may be"


@pytest.mark.timeout(60)
def test_nobody_waits_for_a_line_that_does_not_move(tmp_path: Path) -> None:
    """Hashing stops where nothing is sent, and goes on to its end as soon as a digest is asked for."""
    write(tmp_path, {"one.bin": bytes(24 * MIB), "two.bin": bytes(24 * MIB)})
    hashed, reached = [0], threading.Event()

    def on_read(count: int) -> None:
        hashed[0] += count
        if hashed[0] >= 4 * MIB:
            reached.set()

    packer = Packer(arrange(find(".", tmp_path), OWNER), on_read, apart=4 * MIB).start()
    assert reached.wait(30)
    packer._thread.join(0.2)
    assert hashed[0] <= 6 * MIB
    assert packer.digest(0) != packer.digest(1) and hashed[0] == 48 * MIB
    packer.stop()


@pytest.mark.timeout(60)
def test_line_that_is_far_ahead_does_not_wait(tmp_path: Path) -> None:
    """Who goes on with an upload far ahead of the hash sends on: its registry would end a connection that is silent."""
    write(tmp_path, {"one.bin": bytes(24 * MIB)})
    begun, sent = threading.Event(), threading.Event()

    def on_read(count: int) -> None:
        begun.set()
        assert sent.wait(10), "the line waits for the hash"

    packer = Packer(arrange(find(".", tmp_path), OWNER), on_read, apart=2 * MIB).start()
    assert begun.wait(10)
    for _ in packer.content(0).open(16 * MIB):
        pass
    sent.set()
    packer.digest(0)
    packer.stop()


@pytest.mark.timeout(60)
def test_line_is_let_go_where_hashing_failed(tmp_path: Path) -> None:
    """Who sends is not kept waiting for a hash that has failed."""
    write(tmp_path, {"one.bin": bytes(24 * MIB)})
    packer = Packer(arrange(find(".", tmp_path), OWNER), apart=2 * MIB)
    with pytest.raises(CheckpointError, match="changed"):
        pieces = packer.content(0).open()
        next(pieces)  # it is open by now: the one that changed is another reader's
        os.utime(tmp_path / "one.bin", ns=(1, 1))
        packer.start()
        for _ in pieces:
            pass
    packer.stop()
