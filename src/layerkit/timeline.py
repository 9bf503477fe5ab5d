"""When each part of a build ran, noted while its events pass by."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from .events import Event, Listener, Phase, Step, Transfer
from .state import State

__all__ = ["Recorder", "Span", "remember"]

_KEPT = 100  # builds that are remembered
_MOST = 500  # spans: a build of many platforms and shards stays readable, and its record small


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of a build.

    Attributes:
        kind: phase (of layerkit), step (of BuildKit), transfer (of a checkpoint's layer).
        begin: seconds after the build began.
        seconds: how long.
        state: finished, failed, cached, dropped, done, canceled; running where the end was not told.
    """

    kind: Literal["phase", "step", "transfer"]
    name: str
    begin: float
    seconds: float
    state: str

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "name": self.name,
            "begin": round(self.begin, 3),
            "seconds": round(self.seconds, 3),
            "state": self.state,
        }


class Recorder:
    """A listener in front of another one. Safe from any thread."""

    def __init__(self, listener: Listener, clock: Callable[[], float] = time.monotonic) -> None:
        self._listener = listener
        self._clock = clock
        self._begun = clock()
        self._lock = threading.Lock()
        self._spans: dict[tuple[str, str], Span] = {}

    def __call__(self, event: Event) -> None:
        if isinstance(event, Phase):
            self._note("phase", event.name, event.name, event.state, event.seconds, over=event.state != "started")
        elif isinstance(event, Step):
            self._note("step", event.id, event.name, event.state, event.seconds, over=event.state != "running")
        elif isinstance(event, Transfer):
            self._note("transfer", event.id, event.label, event.state, 0.0, over=event.state != "running")
        self._listener(event)

    def _note(
        self,
        kind: Literal["phase", "step", "transfer"],
        key: str,
        name: str,
        state: str,
        seconds: float,
        *,
        over: bool,
    ) -> None:
        now = self._clock() - self._begun
        with self._lock:
            span = self._spans.get((kind, key))
            if span is None:
                if len(self._spans) >= _MOST:
                    return
                # An event that only tells of an end says how long it took; it began that much earlier.
                begin = max(now - seconds, 0.0) if over else now
                span = Span(kind, name, begin, 0.0, "running")
            if over:
                span = replace(span, seconds=seconds or now - span.begin, state=state)
            self._spans[kind, key] = span

    def spans(self) -> tuple[Span, ...]:
        """What was noted until now, in the order in which it began; phases before what is in them."""
        order = {"phase": 0, "step": 1, "transfer": 2}
        with self._lock:
            return tuple(sorted(self._spans.values(), key=lambda span: (round(span.begin, 3), order[span.kind])))


def _ended(document: Any) -> float:
    return float(document["ended"])


def remember(state: State, digest: str, document: Mapping[str, Any]) -> None:
    """Keep a build's object (``Result.to_json``) under its image's digest: ``layerkit inspect`` shows how it was built.

    A build that found everything done does not take the place of the one that did it.
    """
    if not document["rebuilt"] and state.get("build-timeline", digest, dict) is not None:
        return
    facts = {name: value for name, value in document.items() if name != "layers"}
    state.put("build-timeline", digest, {**facts, "ended": time.time()})
    kept = state.all("build-timeline", _ended)
    for old in sorted(kept, key=lambda name: kept[name])[:-_KEPT]:
        state.drop("build-timeline", old)
