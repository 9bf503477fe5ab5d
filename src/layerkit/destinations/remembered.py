"""What runs on this machine have found out about registries, for a while."""

from __future__ import annotations

import time
from typing import Any

from ..registry import Way
from ..state import State

__all__ = ["RememberedWays"]

_KIND = "way"
# A proxy's limit may be raised, a registry replaced: after this the best way is looked for again.
_LIFE = 7 * 24 * 3600  # seconds


def _way(value: Any) -> Way:
    kind, chunk, age = value["kind"], value["chunk"], time.time() - value["time"]
    good = kind in ("stream", "chunked", "monolithic") and isinstance(chunk, int)
    if not good or (kind == "chunked") != (chunk > 0) or not 0 <= age < _LIFE:
        raise ValueError("no way, or one of long ago")
    return Way(kind, chunk)


class RememberedWays:
    """The way of uploading that each registry host needs, in the state folder."""

    def __init__(self, state: State) -> None:
        self._state = state

    def load(self, host: str) -> Way | None:
        return self._state.get(_KIND, host, _way)

    def save(self, host: str, way: Way | None) -> None:
        if way is None:
            self._state.drop(_KIND, host)
        else:
            self._state.put(_KIND, host, {"kind": way.kind, "chunk": way.chunk, "time": time.time()})
