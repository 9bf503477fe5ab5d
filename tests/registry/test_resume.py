"""Going on with the upload of an earlier run, the way of large blobs, and locks that die with their owner."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from layerkit.errors import LayerkitError, TransientError
from layerkit.registry import Standing, UploadDropped
from layerkit.registry.ways import CHUNK, LARGE, Memory, Way, default_way
from layerkit.state import State
from layerkit.testing import FakeRegistry
from registry.support import MIB, Connect, Data, pattern

Serve = Callable[..., FakeRegistry]
BLOB = pattern(6 * MIB)


class Kept:
    """A journal in memory."""

    def __init__(self, standing: Standing | None = None) -> None:
        self.standing = standing
        self.history: list[int] = []

    def load(self) -> Standing | None:
        return self.standing

    def save(self, standing: Standing) -> None:
        self.standing = standing
        self.history.append(standing.held)

    def clear(self) -> None:
        self.standing = None


def broken_off(registry: FakeRegistry, connect: Connect, *, after: int, chunk: int | None = None) -> Kept:
    """What a run leaves that never got further than *after* bytes."""
    kept = Kept()
    skip = after // chunk if chunk else 0
    registry.fail(method="PATCH", action="reset", after_bytes=after - skip * (chunk or 0), skip=skip)
    for method in ("GET", "POST", "PATCH"):
        registry.fail(method=method, status=503, times=-1, skip=0 if method == "GET" else 10)
    with pytest.raises(TransientError):
        connect(registry, retries=0).upload(Data(BLOB), journal=kept, chunk=chunk)
    registry.heal()
    registry.requests.clear()
    return kept


@pytest.mark.parametrize("chunk", [None, MIB], ids=["stream", "chunked"])
def test_the_next_run_goes_on(registry: FakeRegistry, connect: Connect, chunk: int | None) -> None:
    """Another client with the same journal sends the rest, in the same session, and the journal is empty then."""
    kept = broken_off(registry, connect, after=4 * MIB + 5, chunk=chunk)
    data = Data(BLOB)
    connect(registry).upload(data, journal=kept, chunk=chunk)
    assert registry.blob("team/model", data.descriptor.digest) == BLOB
    assert registry.received_bytes("PATCH") == 2 * MIB - 5
    assert registry.asked("POST") == []
    assert kept.standing is None


@pytest.mark.parametrize("profile", ["distribution-2.8", "acr-noresume"])
def test_where_nothing_is_kept_it_begins_again(serve: Serve, connect: Connect, profile: str) -> None:
    """A registry that lost the session gets everything in a new one (FAULTS 2)."""
    registry = serve(profile)
    kept = broken_off(registry, connect, after=4 * MIB)
    data = Data(BLOB)
    connect(registry).upload(data, journal=kept)
    assert registry.blob("team/model", data.descriptor.digest) == BLOB
    assert registry.received_bytes("PATCH") == len(BLOB)


@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest", "http://registry.example/v2/x", "file:///etc/passwd", "", "http://[", "/v2/x/y"],
)
def test_a_journal_is_not_trusted(registry: FakeRegistry, connect: Connect, url: str) -> None:
    """A kept address goes through the same rules as a registry's Location; one that leads nowhere costs nothing."""
    data = Data(BLOB)
    connect(registry, retries=2).upload(data, journal=Kept(Standing(url, 5)))
    assert registry.blob("team/model", data.descriptor.digest) == BLOB


@pytest.mark.parametrize("held", [-1, 6 * MIB + 1])
def test_an_impossible_offset(registry: FakeRegistry, connect: Connect, held: int) -> None:
    """An offset outside of the blob is not gone on with."""
    kept = broken_off(registry, connect, after=MIB)
    assert kept.standing is not None
    kept.standing = Standing(kept.standing.url, held)
    data = Data(BLOB)
    connect(registry).upload(data, journal=kept)
    assert registry.blob("team/model", data.descriptor.digest) == BLOB


def test_more_than_there_is(registry: FakeRegistry, connect: Connect) -> None:
    """A session of an earlier run that has more bytes than the blob is closed, and all is sent in a new one."""
    kept, data = broken_off(registry, connect, after=MIB), Data(BLOB)
    registry.fail(method="GET", path="uploads", status=204, headers={"Range": f"0-{len(BLOB)}"})
    connect(registry).upload(data, journal=kept)
    assert registry.blob("team/model", data.descriptor.digest) == BLOB
    assert registry.open_sessions == 0


def test_an_address_that_is_for_nobody_any_more(registry: FakeRegistry, connect: Connect, serve: Serve) -> None:
    """A kept address of a storage that wants a login now (a signature that expired) costs a new session, no more."""
    storage, data = serve(), Data(BLOB)
    storage.fail(status=401, headers={"WWW-Authenticate": 'Basic realm="x"'}, times=-1)
    kept = Kept(Standing(f"http://{storage.host}/v2/team/model/blobs/uploads/x?signature=1", MIB))
    connect(registry).upload(data, journal=kept)
    assert registry.blob("team/model", data.descriptor.digest) == BLOB
    assert len(storage.requests) == 1


def test_bytes_of_another_run_that_were_wrong(registry: FakeRegistry, connect: Connect) -> None:
    """What an earlier run sent was hurt: all is sent anew, and once more if that is hurt too."""
    kept = broken_off(registry, connect, after=4 * MIB)
    for session in registry._sessions.values():
        session.hash.update(b"x")
    registry.fail(method="PUT", status=400, body='{"errors":[{"code":"DIGEST_INVALID"}]}', skip=1)
    data = Data(BLOB)
    connect(registry).upload(data, journal=kept)
    assert registry.blob("team/model", data.descriptor.digest) == BLOB
    assert registry.received_bytes("PATCH") == 2 * MIB + 2 * len(BLOB)


def test_killed_after_the_last_byte(registry: FakeRegistry, connect: Connect) -> None:
    """A run that ended between the last byte and the answer to its commit left nothing to send."""
    kept = Kept()
    registry.fail(method="PUT", action="lost")
    registry.fail(method="HEAD", status=503, times=-1)
    with pytest.raises(TransientError):
        connect(registry, retries=0).upload(Data(BLOB), journal=kept)
    registry.heal()
    registry.requests.clear()
    connect(registry).upload(Data(BLOB), journal=kept)
    assert [r.method for r in registry.requests] == ["HEAD", "GET", "GET"]
    assert kept.standing is None


def test_a_dropped_upload_leaves_no_record(registry: FakeRegistry, connect: Connect) -> None:
    """An upload that turned out to be needless closes its session and is forgotten."""
    kept, data = Kept(), Data(BLOB)
    data.stop_after = MIB
    with pytest.raises(UploadDropped):
        connect(registry).upload(data, journal=kept)
    assert kept.standing is None
    assert registry.open_sessions == 0


def test_the_address_is_not_shown() -> None:
    """The session's address is in no representation: who has it may go on with the upload."""
    assert "canary" not in repr(Standing("https://registry.example/v2/x?_state=canary", 5))


@pytest.mark.parametrize(
    ("host", "size", "way"),
    [
        ("registry.example", LARGE - 1, Way()),
        ("registry.example", LARGE, Way("chunked", CHUNK)),
        ("europe-docker.pkg.dev", LARGE, Way()),
        ("eu.gcr.io", LARGE, Way()),
        ("123456789012.dkr.ecr.eu-west-1.amazonaws.com", LARGE, Way()),
    ],
)
def test_large_blobs_go_in_chunks(host: str, size: int, way: Way) -> None:
    """From 256 MiB on chunks of 128 MiB, but where a registry is known to take one PATCH only."""
    assert default_way(host, size) == Memory().way(host, size) == way


def test_what_was_learned_wins() -> None:
    """A refused chunk teaches the host's way once and for all sizes; a later answer to the old way changes nothing."""
    memory = Memory()
    memory.learn("r", Way("chunked", CHUNK), Way())
    assert memory.way("r", LARGE) == Way()
    memory.learn("r", Way("chunked", CHUNK), Way("monolithic"))
    assert memory.way("r", LARGE) == Way()
    memory.learn("r", Way(), Way("monolithic"))
    assert memory.way("r", 1) == Way("monolithic")


@pytest.mark.parametrize("status", [400, 405, 409])
@pytest.mark.parametrize("skip", [0, 1])
def test_nobody_but_us_wants_chunks(
    registry: FakeRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch, status: int, skip: int
) -> None:
    """Where the large chunks that nobody asked for are refused, the first or the second, one stream is sent."""
    monkeypatch.setattr("layerkit.registry.ways.LARGE", 4 * MIB)
    monkeypatch.setattr("layerkit.registry.ways.CHUNK", 2 * MIB)
    registry.fail(method="PATCH", status=status, skip=skip, body='{"errors":[{"code":"UNSUPPORTED"}]}')
    data = Data(BLOB)
    connect(registry).upload(data)
    assert registry.blob("team/model", data.descriptor.digest) == BLOB
    assert registry.asked("PATCH")[-1].received == len(BLOB)
    assert registry.open_sessions == 0


def test_chunks_of_which_only_a_part_is_acknowledged(
    registry: FakeRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FAULTS 4: where the large chunks that nobody asked for are not acknowledged as sent, one stream is sent."""
    monkeypatch.setattr("layerkit.registry.ways.LARGE", 4 * MIB)
    monkeypatch.setattr("layerkit.registry.ways.CHUNK", 2 * MIB)
    registry.fail(method="PATCH", status=202, after_bytes=2 * MIB, headers={"Range": "0-99"})
    data = Data(BLOB)
    connect(registry).upload(data)
    assert registry.blob("team/model", data.descriptor.digest) == BLOB
    assert [request.received for request in registry.asked("PATCH")] == [2 * MIB, len(BLOB)]
    assert registry.open_sessions == 0


def test_chunks_that_are_denied(registry: FakeRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refusal that says DENIED is about who may, not about the way: no other one is tried."""
    monkeypatch.setattr("layerkit.registry.ways.LARGE", 4 * MIB)
    registry.fail(method="PATCH", status=405, body='{"errors":[{"code":"DENIED","message":"read-only"}]}', times=-1)
    with pytest.raises(LayerkitError, match="read-only"):
        connect(registry).upload(Data(BLOB))
    assert len(registry.asked("PATCH")) == 1 and registry.open_sessions == 0


# ------------------------------------------------------------------------------------------------ state


def test_the_state_is_its_owners(tmp_path: Path) -> None:
    """The file is made with mode 0600 under any umask, and one that others could read is closed to them."""
    before = os.umask(0)
    try:
        with State(tmp_path / "a") as state:
            state.put("a", "b", 1)
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "a").iterdir()}
        assert set(modes.values()) == {0o600}, modes
        (tmp_path / "a" / "state.sqlite").chmod(0o644)
        State(tmp_path / "a").close()
        assert stat.S_IMODE((tmp_path / "a" / "state.sqlite").stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_drop(tmp_path: Path) -> None:
    """A record that was dropped is gone; dropping what is not there is nothing."""
    with State(tmp_path) as state:
        state.put("a", "b", 1)
        state.drop("a", "b")
        state.drop("a", "b")
        assert state.get("a", "b", int) is None


def test_one_at_a_time(tmp_path: Path) -> None:
    """Of many threads with stores of their own one has the lock at a time, and no lock file is left."""
    inside, most, waited = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, waited
        pause = threading.Event()
        with State(tmp_path) as own:
            for _ in range(10):
                with own.alone("x", lambda: pause.wait(0.001)) as had_to_wait:
                    inside += 1
                    most = max(most, inside)
                    waited += had_to_wait
                    pause.wait(0.001)
                    inside -= 1

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (most, inside) == (1, 0)
    assert waited
    assert list((tmp_path / "locks").iterdir()) == []


def test_a_dead_owner_is_not_waited_for(tmp_path: Path) -> None:
    """A process that was killed with a lock has it no more; the next one gets it, though its file is still there."""
    code = f"""
import time
from pathlib import Path
from layerkit.state import State
with State(Path({str(tmp_path)!r})).alone("x", lambda: None):
    print("held", flush=True)
    time.sleep(60)
"""
    owner = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"

    def busy() -> None:
        owner.send_signal(signal.SIGKILL)
        owner.wait()

    with State(tmp_path) as state, state.alone("x", busy) as waited:
        assert waited
    owner.stdout.close()


def test_without_a_folder_nobody_waits() -> None:
    """Where nothing can be locked the work is done all the same."""
    with State() as state, state.alone("x", lambda: None) as waited, state.alone("x", lambda: None) as again:
        assert not waited
        assert not again
