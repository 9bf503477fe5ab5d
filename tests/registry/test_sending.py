"""A checkpoint's layers to a registry: once a machine, gone on with, dropped where they turn out to be there."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from layerkit.checkpoint import Ownership, Packer, arrange, find
from layerkit.destinations.base import Sent
from layerkit.destinations.registry import RegistryDestination
from layerkit.errors import RefusedError, Stopped
from layerkit.events import Event, Listener, Note, Transfer, silent
from layerkit.registry import Repository
from layerkit.state import State
from layerkit.testing import FakeRegistry
from registry.support import MIB, Connect, pattern

SIZE = 6 * MIB
Packs = Callable[[], Packer]


@pytest.fixture
def pack(tmp_path: Path) -> Iterator[Packs]:
    """Makes packers of one file of 6 MiB."""
    made: list[Packer] = []
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "model.pt").write_bytes(pattern(SIZE))

    def start() -> Packer:
        made.append(Packer(arrange(find("weights", tmp_path), Ownership("/m"))).start())
        return made[-1]

    yield start
    for packer in made:
        packer.stop()


def send(
    home: Repository,
    state: State,
    packer: Packer,
    listener: Listener = silent,
    stopped: Callable[[], bool] | None = None,
) -> Sent:
    return RegistryDestination(home, home, state).send(packer, listener, stopped or (lambda: False))


def test_two_builds_send_a_layer_once(tmp_path: Path, registry: FakeRegistry, connect: Connect, pack: Packs) -> None:
    """Of two builds of the same weights on one machine one sends them; the other says that it waits, and finds them."""
    sending, waiting = threading.Event(), threading.Event()
    registry.fail(method="PATCH", call=lambda request: (sending.set(), waiting.wait(30)))  # type: ignore[arg-type,return-value]
    found: list[Sent] = []
    looks = [0]

    def look() -> bool:
        looks[0] += 1
        if looks[0] > 3:  # it has waited for a while
            waiting.set()
        return False

    def first() -> None:
        with State(tmp_path / "state") as state:
            found.append(send(connect(registry), state, pack()))

    def listen(event: Event) -> None:
        if isinstance(event, Note):
            notes.append(event.message)

    notes: list[str] = []
    thread = threading.Thread(target=first)
    thread.start()
    assert sending.wait(30)
    with State(tmp_path / "state") as state:
        second = send(connect(registry), state, pack(), listen, look)
    thread.join()
    size = found[0].layers[0].descriptor.size
    assert len(notes) == 1 and "another build on this machine sends it" in notes[0]
    assert [(sent.uploaded, sent.reused) for sent in (found[0], second)] == [(size, 0), (0, size)]
    assert registry.received_bytes("PATCH") == size and second.layers == found[0].layers


def test_who_waits_can_be_stopped(tmp_path: Path, registry: FakeRegistry, connect: Connect, pack: Packs) -> None:
    """A build that waits for another one's upload ends when it is stopped, and does not send."""
    sending, done = threading.Event(), threading.Event()
    registry.fail(method="PATCH", call=lambda request: (sending.set(), done.wait(30)))  # type: ignore[arg-type,return-value]

    def first() -> None:
        with State(tmp_path / "state") as state:
            send(connect(registry), state, pack())

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert sending.wait(30)
        stop = threading.Event()
        with State(tmp_path / "state") as state, pytest.raises(Stopped):
            send(connect(registry), state, pack(), lambda event: stop.set(), stop.is_set)
        assert len(registry.asked("POST", "uploads")) == 1
    finally:
        done.set()
        thread.join()


def test_layer_that_turns_out_to_be_there(
    tmp_path: Path, registry: FakeRegistry, connect: Connect, pack: Packs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that is sent while it is hashed is dropped once its digest is known and there; it counts as reused."""
    packer = pack()
    registry.put_blob("team/model", b"".join(map(bytes, packer.blueprints[0].open())))
    layer = packer.layer(0)
    monkeypatch.setattr("layerkit.destinations.sending.HASH_FIRST", 0)
    unknown = [True]
    known = packer.known
    monkeypatch.setattr(packer, "known", lambda index: None if unknown[0] else known(index))
    events: list[Transfer] = []

    def listen(event: Event) -> None:
        if isinstance(event, Transfer):
            events.append(event)
            unknown[0] = event.done < MIB

    with State(tmp_path / "state") as state:
        sent = send(connect(registry), state, packer, listen)
    size = layer.descriptor.size
    assert (sent.layers, sent.uploaded, sent.reused, sent.new) == ((layer,), 0, size, frozenset())
    assert 0 < sent.dropped < size and events[-1].state == "dropped"
    assert registry.open_sessions == 0 and registry.asked("PUT") == []


@pytest.mark.parametrize("first", [64 * MIB, 0], ids=["small", "large"])
def test_weights_that_were_sent_before(
    tmp_path: Path,
    registry: FakeRegistry,
    connect: Connect,
    pack: Packs,
    monkeypatch: pytest.MonkeyPatch,
    first: int,
) -> None:
    """What is there is not sent again: a small layer is hashed first, and so is a large one that was seen before."""
    monkeypatch.setattr("layerkit.destinations.sending.HASH_FIRST", first)
    events: list[Transfer] = []
    with State(tmp_path / "state") as state:
        one = send(connect(registry), state, pack(), lambda event: events.append(event))  # type: ignore[arg-type]
        size = one.layers[0].descriptor.size
        assert (events[-1].done, events[-1].state) == (size, "finished")
        registry.requests.clear()
        events.clear()
        two = send(connect(registry), state, pack(), lambda event: events.append(event))  # type: ignore[arg-type]
    assert registry.asked("POST") == [] and [event.state for event in events] == ["dropped"]
    assert (two.layers, two.uploaded, two.reused, two.dropped, two.new) == (one.layers, 0, size, 0, frozenset())
    assert one.new == {one.layers[0].descriptor.digest}


def test_what_must_be_sent_again_is_said(tmp_path: Path, registry: FakeRegistry, connect: Connect, pack: Packs) -> None:
    """Where an upload falls back the listener is told why its number does, once."""
    registry.fail(method="PATCH", action="reset", after_bytes=3 * MIB)
    registry.fail(method="GET", path="uploads", status=404)
    events: list[Transfer] = []
    with State(tmp_path / "state") as state:
        send(connect(registry), state, pack(), lambda event: events.append(event))  # type: ignore[arg-type]
    falls = [now for before, now in itertools.pairwise(events) if now.done < before.done]
    assert [event.note for event in falls] == ["starting again"]
    assert [event for event in events if event.note] == falls


def test_next_run_goes_on(tmp_path: Path, registry: FakeRegistry, connect: Connect, pack: Packs) -> None:
    """What a run that was stopped has sent is not sent again by the next one, unless that was a week ago."""
    for age in (0, 7):
        registry.requests.clear()
        done = [0]

        def listen(event: Event, done: list[int] = done) -> None:
            done[0] = event.done if isinstance(event, Transfer) else done[0]

        with State(tmp_path / f"state {age}") as state:
            with pytest.raises(Stopped):
                send(connect(registry), state, pack(), listen, lambda done=done: done[0] >= 4 * MIB)  # type: ignore[misc]
            (key,) = state.all("upload", dict)
            record = state.get("upload", key, dict)
            assert record is not None
            state.put("upload", key, record | {"time": record["time"] - age * 24 * 3600})
            state.put("upload", "of another layer, long ago", {**record, "time": 0})
            state.put("upload", "nonsense", 1)
            begun = len(registry.requests)
            sent = send(connect(registry), state, pack())
            assert state.all("upload", dict) == {}
        again = sum(request.received for request in registry.requests[begun:])
        size = sent.layers[0].descriptor.size
        assert again < 3 * MIB if age == 0 else again >= size
        registry.drop_blob(sent.layers[0].descriptor.digest)


def test_first_failure_is_told(tmp_path: Path, registry: FakeRegistry, connect: Connect) -> None:
    """Of several layers the one that failed is told, and not that it has stopped the others."""
    for number in range(6):
        with (tmp_path / f"{number}.bin").open("wb") as file:
            file.write(pattern(17 * MIB if number else 16 * MIB, number))
    packer = Packer(arrange(find("*.bin", tmp_path), Ownership("/m"))).start()
    assert len(packer.blueprints) > 1
    registry.fail(method="POST", path="uploads", status=400, skip=2, times=-1)
    with State() as state, pytest.raises(RefusedError, match="HTTP 400"):
        send(connect(registry), state, packer)
    packer.stop()
