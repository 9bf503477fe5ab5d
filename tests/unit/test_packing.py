from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from layerkit.destinations.layout import LayoutDestination
from layerkit.errors import Stopped
from layerkit.events import silent
from layerkit.packing import Count, pack
from layerkit.state import State
from unit.support import inputs, project, write_project

MIB = 1024 * 1024


def test_stopped_while_a_digest_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is stopped while its sender waits for a digest reads no further, and leaves no thread that hashes."""
    root = write_project(tmp_path / "project", weights=bytes(40 * MIB))
    read = 0

    def slowly(self: Count, count: int) -> None:
        nonlocal read
        read += count
        time.sleep(0.02)

    def send(packer: object, *_: object) -> None:
        packer.digest(0)  # type: ignore[attr-defined]

    monkeypatch.setattr(Count, "add", slowly)
    with State() as state:
        checkpoint = inputs(project(root), state).checkpoint
        assert checkpoint is not None
        layout = LayoutDestination(tmp_path / "out", state)
        monkeypatch.setattr(layout, "send", send)
        with pytest.raises(Stopped):
            pack(checkpoint, (), layout, state, silent, lambda: read > 0)
    assert 0 < read < 20 * MIB
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("layerkit-hash")]
