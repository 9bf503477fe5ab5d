"""Progress on standard error: a live display on a terminal, plain lines elsewhere.

Events come from several threads; one lock keeps lines whole.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from ..errors import printable
from ..events import Event, Note, Phase, Step, StepLog, Transfer
from ..runtime.progress import brief
from ..workflow import annotation, harmless
from .text import duration, size

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID

__all__ = ["Display", "display", "notes"]

_EVERY = 5.0  # seconds between two plain lines of one transfer
_ELAPSED = 7  # columns of "0:00:00"
_ROOM = 60  # columns of a transfer beside its name: mark, elapsed, a short bar, bytes, rate and time left
_READING = "phase-checkpoint"
# What became of a step, a phase or a transfer, by its state.
_MARKS = {"finished": "✓", "done": "✓", "cached": "✓", "dropped": "✓", "failed": "✗", "canceled": "–"}
# Steps of BuildKit's own making, which tell nobody anything: what it loads, and the second half of each linked copy.
_INTERNAL = re.compile(r"\[(internal|context [^]]*)\]|\[[^]]*\] LINK |resolving provenance")


def _worth_showing(name: str) -> bool:
    return _INTERNAL.match(name) is None


class Display(Protocol):
    """A listener that may have to be set up and taken down."""

    def __call__(self, event: Event) -> None: ...
    def __enter__(self) -> Display: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def display(kind: str, *, terminal: bool, console: Console | None = None) -> Display:
    """The display for ``--progress`` *kind*: auto, tty, plain, rawjson or quiet; github in a step of GitHub Actions."""
    if kind in ("quiet", "none"):
        return _Quiet()
    if kind == "rawjson":
        return _Json(sys.stderr)
    if kind == "tty" or (kind == "auto" and terminal and not _dumb(console)):
        return _Live(console)
    return _Actions(sys.stderr) if kind == "github" else _Plain(sys.stderr)


def _dumb(console: Console | None) -> bool:
    """A terminal that cannot move its cursor: rows that move would be shown once all is over."""
    from rich.console import Console

    return (console or Console(stderr=True)).is_dumb_terminal


def notes(event: Event) -> None:
    """The listener of what is quick as a rule: what is worth a line goes to standard error, and nothing else."""
    if isinstance(event, Note):
        level = "warning" if event.level == "warning" else "note"
        # One write a line: it is told from several threads.
        print(f"{level}: {printable(event.message)}\n", end="", file=sys.stderr, flush=True)


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
                case Step(_, name, "cached", _) if _worth_showing(name):
                    self._say("build", f"CACHED {brief(name)}")
                case Step(_, name, "running", _) if _worth_showing(name):
                    self._say("build", brief(name))
                case Step(_, name, "failed", _):
                    self._say("build", f"FAILED {brief(name)}")
                case StepLog(_, line):
                    self._say("build", f"  {line}")
                case Note(message, level):
                    self._say("warning" if level == "warning" else "note", printable(message))
                case Transfer():
                    self._transfer(event)

    def _transfer(self, event: Transfer) -> None:
        now, label = time.monotonic(), printable(event.label)
        begun, at = self._begun.setdefault(event.id, (now, event.done))
        if event.note:
            self._say("checkpoint", f"{label}: {printable(event.note)}")
        if event.state == "finished":
            self._say("checkpoint", f"{label}: {size(event.total)} sent in {duration(now - begun)}")
        elif event.state == "dropped":
            self._say("checkpoint", f"{label}: its layer is there already ({size(event.total)})")
        elif now - self._last.setdefault(event.id, now) >= _EVERY:
            self._last[event.id] = now
            rate = (event.done - at) / max(now - begun, 0.001)
            left = (event.total - event.done) / rate if rate > 0 else 0
            share = f"{100 * event.done / max(event.total, 1):.0f} %"
            self._say(
                "checkpoint",
                f"{label}: {size(event.done)} of {size(event.total)} ({share}), {size(rate)}/s, {duration(left)} left",
            )


class _Actions(_Plain):
    """Plain lines in groups that GitHub folds, and warnings as annotations."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._open = ""

    def _say(self, what: str, text: str) -> None:
        if what == "warning":
            self._put(annotation("warning", text))
        else:
            self._put(harmless(f"{what:<11} {text}"))

    def _put(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def __call__(self, event: Event) -> None:
        if isinstance(event, Phase) and event.state == "started":
            # The builder works while the checkpoint is sent: one group for both.
            self._fold("build" if event.name == "checkpoint" else event.name)
        super().__call__(event)

    def _fold(self, name: str) -> None:
        with self._lock:
            if name == self._open:
                return
            if self._open:
                self._put("::endgroup::")
            if name:
                self._put(f"::group::layerkit {name}")
            self._open = name

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fold("")


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


class _Live(_Quiet):
    """Rows that move: one for each step, and below them one with bytes, rate and time left for each transfer."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._tasks: dict[str, tuple[Progress, TaskID]] = {}

    def __enter__(self) -> _Live:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.progress import BarColumn, Progress, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
        from rich.table import Column
        from rich.text import Text

        class Mark(SpinnerColumn):
            """What became of it; until that is known, something that turns."""

            def render(self, task: Task) -> RenderableType:
                return Text(task.fields["mark"]) if task.fields.get("mark") else super().render(task)

        class Bytes(TextColumn):
            def render(self, task: Task) -> Text:
                done = f"{size(task.completed)} of {size(task.total)}"
                if task.finished or not task.speed:
                    return Text(done)
                left = f"  {duration(max(task.time_remaining, 1), whole=True)} left" if task.time_remaining else ""
                return Text(f"{done}  {size(task.speed)}/s{left}")

        console = self._console or Console(stderr=True)
        name = TextColumn("{task.description}", markup=False)
        # In a narrow terminal the bar gives way, not the numbers.
        spinner, elapsed = Mark(), TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=_ELAPSED))
        self._steps = Progress(spinner, elapsed, name, console=console)
        self._transfers = Progress(spinner, elapsed, name, BarColumn(bar_width=20), Bytes(""), console=console)
        self._live = Live(Group(self._steps, self._transfers), console=console, refresh_per_second=10)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            for rows in (self._steps, self._transfers):
                for task in rows.tasks:
                    if not task.fields["mark"]:
                        rows.stop_task(task.id)
                        rows.update(task.id, mark=_MARKS["canceled" if error else "done"])
            self._live.stop()

    def __call__(self, event: Event) -> None:
        with self._lock:
            match event:
                case Phase("plan" | "compose" as name, state, _):
                    self._row(f"phase-{name}", name, state)
                case Phase("checkpoint", "started", _):
                    # Where it is hashed before it is sent, nothing else would move meanwhile.
                    self._row(_READING, "checkpoint  reading", "running")
                case Phase("checkpoint", state, _):
                    if _READING in self._tasks:
                        self._row(_READING, "checkpoint  read", state)
                case Step(id, name, state, _) if _worth_showing(name):
                    mark = {"cached": "CACHED ", "failed": "FAILED "}.get(state, "")
                    self._row(id, _cut(f"build  {mark}{brief(name)}", self._live.console.width - 12), state)
                case Transfer():
                    self._transfer(event)
                case Note(message, level):
                    label = "warning" if level == "warning" else "note"
                    self._live.console.print(f"{label}: {printable(message)}", markup=False, highlight=False)
            self._make_room()

    def _make_room(self) -> None:
        """What is over goes up and out of the rows that move, where there are more of these than lines.

        rich would leave out those at the bottom: what is being done, and the transfers.
        """
        over = len(self._steps.tasks) + len(self._transfers.tasks) - (self._live.console.height - 1)
        for rows in (self._steps, self._transfers):
            for task in rows.tasks:
                if over > 0 and task.fields["mark"]:
                    self._live.console.print(rows.make_tasks_table([task]))
                    rows.remove_task(task.id)
                    self._tasks = {key: id for key, id in self._tasks.items() if id != (rows, task.id)}
                    over -= 1

    def _row(self, key: str, description: str, state: str) -> None:
        mark = _MARKS.get(state, "")
        total, completed = (1, 1) if mark else (None, 0)
        self._put(self._steps, key, description=description, mark=mark, total=total, completed=completed)

    def _transfer(self, event: Transfer) -> None:
        name, room = printable(event.label, 40), self._live.console.width - _ROOM
        label = f"checkpoint  {name}" if len(f"checkpoint  {name}") <= room else _cut(name, max(room, 10))
        if event.state == "dropped":
            label += "  (there already)"
        if event.note:
            # A line of its own, that stays: the next event has the row again.
            note = f"note: {printable(event.label)}: {printable(event.note)}"
            self._live.console.print(note, markup=False, highlight=False)
        if _READING in self._tasks:
            self._steps.remove_task(self._tasks.pop(_READING)[1])
        mark = _MARKS.get(event.state, "")
        self._put(self._transfers, event.id, description=label, mark=mark, total=event.total, completed=event.done)

    def _put(self, rows: Progress, key: str, *, description: str, total: float | None, **fields: Any) -> None:
        """Show the row *key* of *rows* so, as a new one where there is none."""
        if key not in self._tasks:
            self._tasks[key] = rows, rows.add_task(description, total=total)
        rows.update(self._tasks[key][1], description=description, total=total, **fields)
