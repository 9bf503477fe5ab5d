"""A real Chromium for the pages; tools/engine installs one where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from .chromium import Chromium, find


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything in this folder needs the browser."""
    for item in items:
        if Path(__file__).parent in Path(item.path).parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """The browser. A missing one is a failure, never a skip."""
    program = find()
    if not program:
        pytest.fail("no Chromium on this machine: tools/engine up installs one, or install chromium")
    with Chromium(program, tmp_path_factory.mktemp("chromium") / "profile") as browser:
        yield browser
