"""Chunks read in one thread and used in another."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from layerkit.verification.ahead import ahead


def test_order() -> None:
    """Every chunk comes, in its order."""
    with ahead(bytes([n]) for n in range(100)) as chunks:
        assert b"".join(chunks) == bytes(range(100))


def test_errors_come_where_the_chunk_would() -> None:
    """What reading raises is raised by who takes the chunks, after those that came before."""

    def broken() -> Iterator[bytes]:
        yield b"a"
        raise OSError("gone")

    taken = []
    with ahead(broken()) as chunks, pytest.raises(OSError, match="gone"):
        taken.extend(chunks)
    assert taken == [b"a"]


def test_nobody_wants_the_rest() -> None:
    """Who leaves early leaves no thread behind, and not much more was read than was taken."""
    read = 0

    def endless() -> Iterator[bytes]:
        nonlocal read
        while True:
            read += 1
            yield b"x"

    with ahead(endless()) as chunks:
        assert next(chunks) == b"x"
    assert read < 10
    assert not [thread for thread in threading.enumerate() if thread.name == "layerkit-verify-read"]
