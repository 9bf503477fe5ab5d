"""For all tests: how long Hypothesis looks, and what two workers may do side by side."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

ENGINE = Path(__file__).parent / "engine"

# Shortly in the ordinary run; for long, with other seeds, where ``make soak`` says so.
settings.register_profile(
    "soak", max_examples=500, deadline=None, print_blob=True, derandomize=False, suppress_health_check=list(HealthCheck)
)
if "LAYERKIT_SOAK" in os.environ:
    settings.load_profile("soak")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest begins first."""
    items.sort(key=lambda item: ENGINE not in item.path.parents)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """For ``--dist loadscope``: one worker has the engine to itself, the others take all else, a file at a time.

    (``--dist loadgroup`` is for this, but pytest-xdist 3.8 names its groups in a field that pytest 9.2 has not.)
    """
    if config.getvalue("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "engine" if nodeid.startswith("tests/engine/") else nodeid.split("::")[0]

    return ByFile(config, log)
