"""What a running build tells whoever listens. Values only; the command line's display is one listener."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

__all__ = ["Event", "Listener", "Note", "Phase", "Step", "StepLog", "Transfer", "silent"]


@dataclass(frozen=True, slots=True)
class Phase:
    """A phase of the build begins or ends. ``seconds`` is its duration at the end, 0.0 at the start."""

    name: Literal["plan", "build", "checkpoint", "compose"]
    state: Literal["started", "finished", "failed"]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Step:
    """A BuildKit step changed its state; ``name`` is fit for a terminal."""

    id: str
    name: str
    state: Literal["running", "cached", "done", "failed", "canceled"]
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class StepLog:
    """One line that a BuildKit step printed, fit for a terminal."""

    id: str
    line: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bytes on their way. ``done`` may fall back when an upload must start again: ``note`` says why.

    ``state`` is "dropped" where the bytes turned out to be at the destination already.
    """

    id: str
    label: str
    done: int
    total: int
    state: Literal["running", "finished", "dropped", "failed"] = "running"
    note: str = ""


@dataclass(frozen=True, slots=True)
class Note:
    """Something worth a line: what was decided, or a warning."""

    message: str
    level: Literal["info", "warning"] = "info"


Event: TypeAlias = Phase | Step | StepLog | Transfer | Note
Listener: TypeAlias = Callable[[Event], None]


def silent(event: Event) -> None:
    """The listener that ignores everything."""
