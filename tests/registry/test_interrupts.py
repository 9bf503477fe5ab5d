"""Ctrl-C and SIGTERM while a registry says nothing: over within 2 s, in every phase, and said in one line."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from layerkit.testing import FakeRegistry
from registry.pushing import NAME, Line, Pushing
from registry.support import MIB, Connect, Data, pattern

Serve = Callable[..., FakeRegistry]

PHASES: list[Any] = [
    pytest.param({"method": "HEAD", "path": "base/manifests", "action": "stall"}, id="base"),
    pytest.param({"path": "manifests/runtime-", "action": "stall"}, id="look"),
    pytest.param({"method": "HEAD", "path": "blobs/sha256", "action": "stall"}, id="prove"),
    pytest.param({"method": "POST", "path": "uploads", "action": "stall"}, id="begin"),
    pytest.param({"method": "PATCH", "action": "stall", "after_bytes": 1000}, id="upload"),
    pytest.param({"method": "PATCH", "status": 503, "headers": {"Retry-After": "60"}}, id="asked-to-wait"),
    pytest.param({"method": "PUT", "path": "uploads", "action": "stall"}, id="commit"),
    pytest.param({"method": "PUT", "path": "manifests/checkpoint", "action": "stall"}, id="keep"),
    pytest.param({"method": "PUT", "path": "manifests/v1", "action": "stall"}, id="tag"),
    pytest.param({"method": "GET", "path": "^/token", "action": "stall"}, id="token"),
]


@pytest.mark.parametrize("fault", PHASES)
def test_fault_32_ctrl_c(serve: Serve, tmp_path: Path, fault: dict[str, Any]) -> None:
    """FAULTS 32: Ctrl-C while any request gets no answer ends the run within 2 s, with 130 and no tag moved."""
    interrupt(serve, tmp_path, fault, signal.SIGINT, 130, "interrupted: no tag was moved")


@pytest.mark.parametrize("fault", PHASES[4:7])
def test_fault_32_sigterm(serve: Serve, tmp_path: Path, fault: dict[str, Any]) -> None:
    """FAULTS 32: SIGTERM does the same, with 143."""
    interrupt(serve, tmp_path, fault, signal.SIGTERM, 143, "terminated: no tag was moved")


def interrupt(serve: Serve, root: Path, fault: dict[str, Any], number: int, status: int, said: str) -> None:
    registry = serve(users={"ada": "canary-password"}, anonymous_pull=True)
    pushing = Pushing(root, registry.host)
    pushing.login(registry.host, "ada", "canary-password")
    pushing.seed(registry)
    pushing.weights(24 * MIB)
    arrived = threading.Event()
    registry.fail(times=-1, call=lambda request: arrived.set(), **fault)
    process = pushing.start()
    assert arrived.wait(30)
    time.sleep(0.3)  # until it waits for the answer
    assert process.poll() is None
    process.send_signal(number)
    done = pushing.finish(process)
    assert done.status == status, done.err
    assert done.seconds < 2.0
    assert said in done.err
    assert "Traceback" not in done.err
    assert "canary" not in done.err + done.out
    assert registry.tag(NAME, "v1") is None


def test_fault_32_what_arrived_before_ctrl_c_is_used(serve: Serve, tmp_path: Path) -> None:
    """FAULTS 32: an upload that Ctrl-C ended is gone on with, not begun again, and no session is left behind."""
    registry = serve()
    with Line(registry.host, rate=16 * MIB) as line:
        pushing = Pushing(tmp_path, line.host)
        pushing.seed(registry)
        pushing.weights(16 * MIB)
        half = threading.Event()
        line.watch = lambda total, data: half.set() if total > 8 * MIB else None
        process = pushing.start()
        assert half.wait(30)
        process.send_signal(signal.SIGINT)
        assert pushing.finish(process).status == 130
        first = registry.received_bytes("PATCH")
        done = pushing.built()
        assert registry.received_bytes("PATCH") == done["layers"][1]["size"]
        assert first > 7 * MIB
        assert registry.open_sessions == 0


def test_fault_1_silence_is_noticed(registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 1: a registry that takes no more bytes is given up after the idle limit; what it has is not sent again."""
    data = Data(pattern(24 * MIB))
    registry.fail(method="PATCH", action="stall", after_bytes=8 * MIB)
    connect(registry).upload(data)
    assert registry.blob("team/model", data.descriptor.digest) == data.data
    assert len(registry.asked("PATCH")) == 2
