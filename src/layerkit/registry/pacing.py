"""Where a registry says that it is asked too often, all threads of a run go slower together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Pace", "Turn"]

_FIRST = 0.1  # seconds between two requests after the first refusal
_LONGEST = 1.5
_SHRINK = 0.85  # at each answer: a limit is tried again every few requests, and an outage is forgotten in 10 s
_NONE = 0.02


@dataclass(slots=True)
class _Host:
    distance: float = 0.0  # seconds between the starts of two requests
    free: float = 0.0  # when the next may start
    growth: int = 0  # how often the distance grew


@dataclass(frozen=True, slots=True)
class Turn:
    """A request's place: *wait* seconds from when it was taken."""

    host: str
    wait: float
    growth: int


class Pace:
    """When a request to a host may start. Thread-safe.

    A refusal that names no time doubles the distance between requests, an answer shortens it: the other way round, as
    TCP keeps its window (RFC 5681, section 3.1). Exponential waits of each request alone do not get through a limit on
    the requests of a second (nginx: ``limit_req``, without ``burst``): they end at the same time as those of others.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._hosts: dict[str, _Host] = {}

    def turn(self, host: str) -> Turn:
        """Take the next turn at *host*."""
        with self._lock:
            now, state = self._clock(), self._hosts.setdefault(host, _Host())
            start = max(now, state.free)
            state.free = start + state.distance
            return Turn(host, start - now, state.growth)

    def hold(self, host: str, seconds: float) -> None:
        """Nothing is asked of *host* for so many seconds: it said so."""
        with self._lock:
            state = self._hosts.setdefault(host, _Host())
            state.free = max(state.free, self._clock() + seconds)

    def refused(self, turn: Turn) -> None:
        """The request of that *turn* was one too many."""
        with self._lock:
            state = self._hosts[turn.host]
            if turn.growth == state.growth:  # who took its turn earlier says nothing of the distance that holds now
                state.distance = min(max(2 * state.distance, _FIRST), _LONGEST)
                state.growth += 1
            state.free = max(state.free, self._clock() + state.distance)

    def served(self, turn: Turn) -> None:
        """The request of that *turn* got its answer."""
        with self._lock:
            state = self._hosts[turn.host]
            shorter = state.distance * _SHRINK
            state.distance = shorter if shorter > _NONE else 0.0
