"""Killed anywhere, and run again (FAULTS 32): the tag is the old or the new image, and the second run ends it.

Nothing in layerkit knows of these tests: the registry, or a proxy before it, kills the process from outside when a
certain request arrives. Only the checkpoint changes, so no builder takes part.
"""

from __future__ import annotations

import copy
import hashlib
import shutil
import signal
import sqlite3
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from layerkit.oci import Reference
from layerkit.registry import Client
from layerkit.testing import FakeRegistry
from registry.pushing import NAME, Killer, Line, Pushing, whole_image
from registry.support import MIB
from registry.test_real_registry import PROGRAM, Real

SIZE = 3 * MIB
needs_registry = pytest.mark.skipif(PROGRAM is None, reason="docker-registry is not installed")


@dataclass
class Stage:
    """A registry that holds the old image, and a clean run's digest of the new one."""

    registry: FakeRegistry
    pushing: Pushing
    old: str = ""
    new: str = ""
    steps: list[tuple[str, str]] = field(default_factory=list)
    before: Any = None

    @classmethod
    def of(cls, folder: Path, registry: FakeRegistry) -> Stage:
        stage = cls(registry, Pushing(folder, registry.host))
        stage.pushing.seed(registry)
        stage.pushing.weights(SIZE, seed=0)
        stage.old = stage.pushing.prepare()
        stage.before = copy.deepcopy(registry._repositories)
        registry.requests.clear()
        stage.pushing.weights(SIZE, seed=1)
        stage.new = stage.pushing.built()["digest"]
        stage.steps = [(request.method, request.path) for request in registry.requests]
        return stage

    def reset(self) -> None:
        self.registry.heal()
        self.registry._repositories = copy.deepcopy(self.before)
        self.registry.forget_sessions()
        self.registry.requests.clear()
        shutil.rmtree(self.pushing.state, ignore_errors=True)

    def tag(self) -> str:
        """What the tag names, after every byte of it was read."""
        with Client() as client:
            return str(whole_image(client.repository(Reference.parse(f"{self.registry.host}/{NAME}")), "v1"))

    def crash(self, *, skip: int, drop: bool, **fault: Any) -> tuple[bool, int]:
        """Kill a run at its request number *skip*, run again: (whether it was killed, bytes sent more than once)."""
        self.reset()
        killer = Killer()
        if drop:
            fault["action"] = "reset"
        self.registry.fail(skip=skip, call=killer, **fault)
        process = self.pushing.start("--json")
        killer.aim(process)
        done = self.pushing.finish(process)
        killed = killer.killed.is_set()
        assert done.status == (-signal.SIGKILL if killed else 0), done.err
        self.registry.heal()
        assert self.tag() in (self.old, self.new)
        again = self.pushing.built()
        assert again["digest"] == self.new == self.tag()
        assert self.registry.errors == []
        return killed, self.registry.received_bytes("PATCH") - SIZE_OF_LAYER


SIZE_OF_LAYER = SIZE + 2560  # folders, header and end of the tar


@pytest.fixture
def stages(tmp_path: Path) -> Iterator[list[Stage]]:
    """Two registries, so that two cores have something to do."""
    with ExitStack() as stack:
        yield [Stage.of(tmp_path / str(number), stack.enter_context(FakeRegistry("strict"))) for number in range(2)]


def test_crash_matrix(stages: list[Stage]) -> None:
    """FAULTS 32: SIGKILL as each request arrives, done or not done by the registry: the next run ends it."""
    steps = stages[0].steps
    cases = [(number, drop) for number, (method, _) in enumerate(steps) for drop in (False, True)
             if not drop or method not in ("GET", "HEAD")]  # fmt: skip
    left, lock, report, failures = list(reversed(cases)), threading.Lock(), [], []

    def work(stage: Stage) -> None:
        while not failures:
            with lock:
                if not left:
                    return
                number, drop = left.pop()
            try:
                report.append((*steps[number], drop, *stage.crash(skip=number, drop=drop)))
            except BaseException as error:  # noqa: BLE001 - raised below
                failures.append((number, drop, steps[number], error))

    workers = [threading.Thread(target=work, args=(stage,)) for stage in stages]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for number, drop, step, error in failures:
        raise AssertionError(f"killed at request {number} {step}, dropped: {drop}") from error
    print(f"{len(report)} crashes, {sum(again for *_, again in report)} bytes of {SIZE_OF_LAYER} each sent again")
    assert len(report) == len(cases)
    assert all(killed for *_, killed, _ in report)
    # Nothing but what was on its way into a PATCH that the registry dropped is sent twice.
    assert all(again <= SIZE_OF_LAYER for *_, again in report)


# ------------------------------------------------------------------------------------------------ going on


def large_weights(pushing: Pushing, size: int = 300 * MIB) -> None:
    """As many bytes as make a layer go in chunks of 128 MiB, different every mebibyte."""
    rest = bytes(MIB - 32)
    with open(pushing.project / "weights" / "model.pt", "wb") as stream:
        for number in range(size // MIB):
            stream.write(hashlib.sha256(number.to_bytes(8, "big")).digest() + rest)


def sessions(pushing: Pushing) -> list[str]:
    """What the state folder knows of uploads that are under way."""
    connection = sqlite3.connect(pushing.state / "state.sqlite")
    try:
        return [row[0] for row in connection.execute("SELECT value FROM records WHERE kind = 'upload'")]
    finally:
        connection.close()


def kill_at(pushing: Pushing, line: Line, when: Any) -> None:
    """Start a build and kill it when *when(total, data)* is true of what goes up; that piece is not passed on."""
    killer = Killer()

    def watch(total: int, data: bytes) -> bool:
        if killer.killed.is_set() or not when(total, data):
            return killer.killed.is_set()
        killer()
        return True

    line.watch = watch
    process = pushing.start("--json")
    killer.aim(process)
    assert pushing.finish(process).status == -signal.SIGKILL
    line.watch = lambda total, data: False


def clean_digest(pushing: Pushing) -> str:
    """The digest that the same project has where nothing was ever interrupted: pushed under another tag, anew."""
    shutil.rmtree(pushing.state)
    return str(pushing.built(tag="clean")["digest"])


def test_a_killed_upload_goes_on(tmp_path: Path) -> None:
    """FAULTS 1, 32: a registry that keeps what arrived gets only the rest from the run after a SIGKILL."""
    size = 32 * MIB
    with FakeRegistry("strict") as registry, Line(registry.host) as line:
        pushing = Pushing(tmp_path, line.host)
        pushing.seed(registry)
        pushing.weights(size)
        kill_at(pushing, line, lambda total, data: total > 20 * MIB)
        assert len(sessions(pushing)) == 1
        assert stat.S_IMODE((pushing.state / "state.sqlite").stat().st_mode) == 0o600
        first = registry.received_bytes("PATCH")
        done = pushing.built()
        again = registry.received_bytes("PATCH") - first
        print(f"{first} bytes arrived before the kill, {again} after it, of {size}")
        assert first + again == done["layers"][1]["size"]
        assert first > 19 * MIB
        assert sessions(pushing) == []
        assert clean_digest(pushing) == done["digest"]


def test_a_file_that_changed_is_not_gone_on_with(tmp_path: Path) -> None:
    """FAULTS 40: after a kill the checkpoint is saved again, same name and size: all is sent, in a new session."""
    with FakeRegistry("strict") as registry, Line(registry.host) as line:
        pushing = Pushing(tmp_path, line.host)
        pushing.seed(registry)
        pushing.weights(8 * MIB, seed=1)
        kill_at(pushing, line, lambda total, data: total > 4 * MIB)
        first = registry.received_bytes("PATCH")
        pushing.weights(8 * MIB, seed=2)
        done = pushing.built()
        assert registry.received_bytes("PATCH") - first == done["layers"][1]["size"]
        assert clean_digest(pushing) == done["digest"]


@pytest.mark.parametrize("how", ["forgotten", "refused", "shorter"])
def test_a_session_that_is_worth_nothing(tmp_path: Path, how: str) -> None:
    """FAULTS 2: where the registry has forgotten or mixed up the session of an earlier run, the layer starts at 0."""
    with FakeRegistry("strict") as registry, Line(registry.host) as line:
        pushing = Pushing(tmp_path, line.host)
        pushing.seed(registry)
        pushing.weights(8 * MIB)
        kill_at(pushing, line, lambda total, data: total > 4 * MIB)
        if how == "forgotten":
            registry.forget_sessions()
        elif how == "refused":
            registry.fail(method="GET", path="uploads/", status=403, body='{"errors":[{"code":"DENIED"}]}')
        else:  # other bytes than ours, which only the digest can tell
            for session in registry._sessions.values():
                session.hash.update(b"x")
        done = pushing.built()
        assert done["digest"] == clean_digest(pushing)
        assert sessions(pushing) == []


@needs_registry
def test_distribution_goes_on_at_a_chunks_boundary(tmp_path: Path) -> None:
    """FAULTS 2: with distribution 2.8 a run that is killed between two PATCHes is gone on with from there."""
    real = Real(tmp_path / "registry")
    try:
        with Line(real.host) as line:
            pushing = Pushing(tmp_path, line.host)
            pushing.seed_real(real.host)
            large_weights(pushing)
            patches: list[bytes] = []

            def second(total: int, data: bytes) -> bool:
                patches.extend([data[:6]] if data.startswith(b"PATCH ") else [])
                return len(patches) == 2

            line.take()
            kill_at(pushing, line, second)
            first = line.take()
            done = pushing.built()
            again = line.take()
            print(f"{first / MIB:.1f} MiB before the kill, {again / MIB:.1f} MiB after it, of 300 MiB")
            assert again < 173 * MIB
            assert clean_digest(pushing) == done["digest"]
    finally:
        real.kill()


@needs_registry
def test_distribution_behind_a_proxy_that_buffers(tmp_path: Path) -> None:
    """FAULTS 2: behind a proxy that passes on whole requests (nginx's default) a kill anywhere costs one chunk."""
    real = Real(tmp_path / "registry")
    try:
        with Line(real.host, whole=True) as line:
            pushing = Pushing(tmp_path, line.host)
            pushing.seed_real(real.host)
            large_weights(pushing)
            line.take()
            kill_at(pushing, line, lambda total, data: total > 200 * MIB)
            first = line.take()
            done = pushing.built()
            again = line.take()
            print(f"{first / MIB:.1f} MiB before the kill, {again / MIB:.1f} MiB after it, of 300 MiB")
            assert again < 173 * MIB
            assert clean_digest(pushing) == done["digest"]
    finally:
        real.kill()


@needs_registry
def test_distribution_killed_inside_of_a_patch(tmp_path: Path) -> None:
    """FAULTS 2: distribution 2.8 forgets a session whose PATCH broke off: the next run sends all, and is right."""
    real = Real(tmp_path / "registry")
    try:
        with Line(real.host) as line:
            pushing = Pushing(tmp_path, line.host)
            pushing.seed_real(real.host)
            pushing.weights(32 * MIB)
            kill_at(pushing, line, lambda total, data: total > 20 * MIB)
            line.take()
            done = pushing.built()
            assert 32 * MIB < line.take() < 33 * MIB
            assert clean_digest(pushing) == done["digest"]
    finally:
        real.kill()


# ------------------------------------------------------------------------------------------------ two at once


@pytest.mark.parametrize("first_dies", [False, True], ids=["both-live", "the-first-dies"])
def test_two_builds_send_a_layer_once(tmp_path: Path, first_dies: bool) -> None:
    """FAULTS 33, 32: of two builds on a machine one sends the layer, the other waits, unless the first one dies."""
    size = 24 * MIB
    with FakeRegistry("strict") as registry, Line(registry.host, rate=6 * MIB) as line:
        pushing = Pushing(tmp_path, line.host)
        pushing.seed(registry)
        pushing.weights(size)
        begun = threading.Event()
        line.watch = lambda total, data: begun.set() if total > 2 * MIB else None
        first = pushing.start("--json", tag="one")
        assert begun.wait(30)
        second = pushing.start("--json", tag="two")
        if first_dies:
            said = second.stderr.readline() if second.stderr else ""
            while "another build" not in said and said:
                said = second.stderr.readline() if second.stderr else ""
            first.kill()
        one, two = pushing.finish(first), pushing.finish(second)
        assert one.status == (-signal.SIGKILL if first_dies else 0), one.err
        assert two.status == 0, two.err
        print(f"{line.up} bytes went up for a layer of {size}")
        assert line.up < size + 2 * MIB
        assert two.document["bytes"]["reused"] > size or first_dies
        if not first_dies:
            assert "another build on this machine sends it" in two.err
            assert one.document["digest"] == two.document["digest"]
        assert list((pushing.state / "locks").iterdir()) == []
