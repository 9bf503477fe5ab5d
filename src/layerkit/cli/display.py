"""Progress on standard error: a live display on a terminal, plain lines elsewhere.

Events come from several threads; one lock keeps lines whole.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TextIO

from ..errors import printable
from ..events import Event, Note, Phase, Step, StepLog, Transfer
from .text import duration, size

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

__all__ = ["Display", "display"]

_EVERY = 5.0  # seconds between two plain lines of one transfer
_INTERNAL = "[internal]"


class Display(Protocol):
    """A listener that may have to be set up and taken down."""

    def __call__(self, event: Event) -> None: ...
    def __enter__(self) -> Display: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def display(kind: str, *, terminal: bool, console: Console | None = None) -> Display:
    """The display for ``--progress`` *kind*: auto, tty, plain, rawjson or quiet."""
    if kind == "quiet":
        return _Quiet()
    if kind == "rawjson":
        return _Json(sys.stderr)
    if kind == "tty" or (kind == "auto" and terminal):
        return _Live(console)
    return _Plain(sys.stderr)


class _Quiet:
    """Warnings only."""

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note) and event.level == "warning":
            print(f"warning: {printable(event.message)}", file=sys.stderr, flush=True)

    def __enter__(self) -> _Quiet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class _Json(_Quiet):
    """One JSON object an event."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        with self._lock:
            print(json.dumps({"event": type(event).__name__.lower(), **asdict(event)}), file=self._stream, flush=True)


class _Plain(_Quiet):
    """A line for what begins, ends or goes wrong; a line every 5 seconds for what takes long."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._last: dict[str, float] = {}
        self._begun: dict[str, tuple[float, int]] = {}

    def _say(self, what: str, text: str) -> None:
        print(f"{what:<11} {text}", file=self._stream, flush=True)

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case Phase(name, "finished", seconds):
                    self._say(name, f"done in {duration(seconds)}")
                case Phase(name, "failed", seconds):
                    self._say(name, f"failed after {duration(seconds)}")
                case Step(_, name, "cached", _) if _INTERNAL not in name:
                    self._say("build", f"CACHED {name}")
                case Step(_, name, "running", _) if _INTERNAL not in name:
                    self._say("build", name)
                case Step(_, name, "failed", _):
                    self._say("build", f"FAILED {name}")
                case StepLog(_, line):
                    self._say("build", f"  {line}")
                case Note(message, level):
                    self._say("warning" if level == "warning" else "note", printable(message))
                case Transfer():
                    self._transfer(event)

    def _transfer(self, event: Transfer) -> None:
        now = time.monotonic()
        begun, at = self._begun.setdefault(event.id, (now, event.done))
        if event.note:
            self._say("checkpoint", f"{event.label}: {event.note}")
        if event.state == "finished":
            self._say("checkpoint", f"{event.label}: {size(event.total)} sent in {duration(now - begun)}")
        elif event.state == "dropped":
            self._say("checkpoint", f"{event.label}: its layer is there already ({size(event.total)})")
        elif now - self._last.setdefault(event.id, now) >= _EVERY:
            self._last[event.id] = now
            rate = (event.done - at) / max(now - begun, 0.001)
            left = (event.total - event.done) / rate if rate > 0 else 0
            share = f"{100 * event.done / max(event.total, 1):.0f} %"
            self._say(
                "checkpoint",
                f"{event.label}: {size(event.done)} of {size(event.total)} ({share}), {size(rate)}/s,"
                f" {duration(left)} left",
            )


class _Live(_Quiet):
    """Rows that move: one for each running build step, one with bytes, rate and time left for each upload."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}

    def _make(self) -> Progress:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        class Columns(TextColumn):
            def render(self, task):  # type: ignore[no-untyped-def]
                from rich.text import Text

                if not task.fields.get("bytes"):
                    return Text("")
                left = task.time_remaining
                rate = f"{size(task.speed)}/s" if task.speed else ""
                more = f"{duration(left)} left" if left else ""
                return Text(f"{size(task.completed)} of {size(task.total)}  {rate}  {more}", style="cyan")

        console = self._console or Console(stderr=True)
        return Progress(
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            Columns(""),
            TimeElapsedColumn(),
            console=console,
            transient=False,
        )

    def __enter__(self) -> _Live:
        self._progress = self._make()
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            for task in self._progress.tasks:
                if not task.finished and error is None:
                    self._progress.update(task.id, total=1, completed=1)
            self._progress.stop()

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case Phase("plan" | "compose" as name, state, _):
                    self._row(f"phase-{name}", name, done=state != "started")
                case Step(id, name, state, _) if _INTERNAL not in name:
                    shown = name if len(name) <= 70 else name[:69] + "…"
                    mark = {"cached": "CACHED ", "failed": "FAILED "}.get(state, "")
                    self._row(id, f"build  {mark}{shown}", done=state != "running")
                case Transfer():
                    self._transfer(event)
                case Note(message, level):
                    self._progress.console.print(
                        f"{'warning' if level == 'warning' else 'note'}: {printable(message)}",
                        markup=False,
                        highlight=False,
                    )

    def _row(self, key: str, description: str, *, done: bool) -> None:
        if key not in self._tasks:
            self._tasks[key] = self._progress.add_task(description, total=None)
        self._progress.update(
            self._tasks[key], description=description, total=1 if done else None, completed=1 if done else 0
        )

    def _transfer(self, event: Transfer) -> None:
        label = f"checkpoint  {event.label}"
        if event.state == "dropped":
            label += "  (there already)"
        if event.note:
            label += f"  ({event.note})"
        if event.id not in self._tasks:
            self._tasks[event.id] = self._progress.add_task(label, total=event.total, bytes=True)
        self._progress.update(self._tasks[event.id], description=label, total=event.total, completed=event.done)
