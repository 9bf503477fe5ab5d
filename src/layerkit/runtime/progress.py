"""BuildKit's ``--progress=rawjson`` lines as values: steps, logs, bytes sent. Pure."""

from __future__ import annotations

import base64
import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..errors import printable
from ..events import Event, Note, Step, StepLog

__all__ = ["Progress", "brief"]

_LOG_LINES = 30  # kept of each step, for the error message
_PLAIN_LINES = 50
_BRIEF = 300  # characters of a step's name that are shown
_RUN_FLAGS = re.compile(r"(?<=\bRUN)(\s+--(mount|network|security|device)=\S+)+")


def brief(name: str) -> str:
    """A step's name as people look for it: the command, without its mounts and the line breaks of the Dockerfile."""
    short = re.sub(r"\s+", " ", _RUN_FLAGS.sub("", name))
    return short if len(short) <= _BRIEF else short[: _BRIEF - 1] + "…"


@dataclass(slots=True)
class Progress:
    """What the lines read so far have told. Lines that are no JSON are kept too: older buildx mixes them in."""

    steps: dict[str, Step] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    _logs: dict[str, deque[str]] = field(default_factory=dict)
    _plain: deque[str] = field(default_factory=lambda: deque(maxlen=_PLAIN_LINES))
    _sent: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def bytes_sent(self) -> int:
        """Bytes of contexts, Dockerfile and ignore files that went to the builder."""
        return sum(self._sent.values())

    @property
    def plain(self) -> tuple[str, ...]:
        return tuple(self._plain)

    def log(self, step: str) -> tuple[str, ...]:
        """The last lines that *step* (an id) printed."""
        return tuple(self._logs.get(step, ()))

    @property
    def cached(self) -> frozenset[str]:
        """Names of the steps that were taken from a cache."""
        return frozenset(step.name for step in self.steps.values() if step.state == "cached")

    def feed(self, raw: bytes) -> Iterator[Event]:
        """Take one line in; the events that it amounts to."""
        try:
            document = json.loads(raw) if raw[:1] == b"{" else None
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            line = printable(raw.decode(errors="backslashreplace").strip())
            if line:
                self._plain.append(line)
            return
        for vertex in _objects(document, "vertexes"):
            yield from self._vertex(vertex)
        for status in _objects(document, "statuses"):
            self._status(status)
        for log in _objects(document, "logs"):
            yield from self._log(log)
        for warning in _objects(document, "warnings"):
            text = printable(_text(warning.get("short")))
            if text and text not in self.warnings:
                self.warnings.append(text)
                yield Note(text, "warning")

    def _vertex(self, vertex: Mapping[str, Any]) -> Iterator[Event]:
        key, name = str(vertex.get("digest", "")), printable(str(vertex.get("name", "")))
        error = str(vertex.get("error") or "")
        if error and name.startswith("importing cache manifest"):
            # Not there before the first build; BuildKit goes on without it.
            if key not in self.steps or self.steps[key].state != "canceled":
                self.steps[key] = Step(key, name, "canceled")
                yield self.steps[key]
                yield Note(f"no build cache to import yet ({name.rpartition(' ')[2]})")
            return
        if error and "context canceled" in error:
            state = "canceled"
        elif error:
            state = "failed"
            self.errors[key] = printable(error)
        elif vertex.get("cached"):
            state = "cached"
        elif vertex.get("completed"):
            state = "done"
        elif vertex.get("started"):
            state = "running"
        else:
            return
        old = self.steps.get(key)
        # A step that was CACHED is reported once more as done; an internal step may run several times.
        if old is not None and (old.state == state or (old.state == "cached" and state == "done")):
            return
        step = Step(key, name, state, _seconds(vertex))  # type: ignore[arg-type]
        self.steps[key] = step
        yield step

    def _status(self, status: Mapping[str, Any]) -> None:
        name = str(status.get("id", ""))
        if name.startswith("transferring "):
            key = (str(status.get("vertex", "")), name)
            current = status.get("current")
            self._sent[key] = max(self._sent.get(key, 0), current if isinstance(current, int) else 0)

    def _log(self, log: Mapping[str, Any]) -> Iterator[Event]:
        key = str(log.get("vertex", ""))
        for line in _text(log.get("data")).splitlines():
            shown = printable(line)
            self._logs.setdefault(key, deque(maxlen=_LOG_LINES)).append(shown)
            yield StepLog(key, shown)

    def failure(self) -> tuple[str, tuple[str, ...], str]:
        """(name of the step that failed, its last lines, what BuildKit says of it); "" where no step is to blame."""
        for key, message in self.errors.items():
            step = self.steps.get(key)
            return (step.name if step else "", self.log(key), message)
        said = [line for line in self._plain if "ERROR" in line or "error" in line.lower()]
        return ("", tuple(self._plain)[-5:], said[-1] if said else (self._plain[-1] if self._plain else ""))


def _objects(document: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = document.get(key)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _text(data: object) -> str:
    """Bytes travel as base64; what is not UTF-8 in them is escaped, not lost."""
    try:
        return base64.b64decode(str(data or "")).decode(errors="backslashreplace")
    except ValueError:
        return ""


def _seconds(vertex: Mapping[str, Any]) -> float:
    try:
        begun, ended = (datetime.fromisoformat(str(vertex[key])) for key in ("started", "completed"))
    except (KeyError, ValueError):
        return 0.0
    return max((ended - begun).total_seconds(), 0.0)
