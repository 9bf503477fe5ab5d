"""Fixtures of the registry tests: registries and clients that are closed in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from layerkit.testing import FakeRegistry
from registry.support import Connect


@pytest.fixture
def serve() -> Iterator[Callable[..., FakeRegistry]]:
    """Starts registries; what went wrong inside of one fails the test."""
    started: list[FakeRegistry] = []
    with ExitStack() as stack:

        def start(*args: object, **options: object) -> FakeRegistry:
            started.append(stack.enter_context(FakeRegistry(*args, **options)))  # type: ignore[arg-type]
            return started[-1]

        yield start
    assert [error for registry in started for error in registry.errors] == []


@pytest.fixture
def registry(serve: Callable[..., FakeRegistry]) -> FakeRegistry:
    return serve("strict")


@pytest.fixture
def connect() -> Iterator[Connect]:
    connect = Connect()
    yield connect
    for client in connect.clients:
        client.close()
