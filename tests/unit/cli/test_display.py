from __future__ import annotations

import io
import json
import threading
from types import SimpleNamespace

import pytest

from layerkit.cli import display as display_module
from layerkit.cli.display import display
from layerkit.events import Event, Note, Phase, Step, StepLog, Transfer

MIB = 1024 * 1024
RUN = "[dependencies 2/3] RUN pip install torch"
EVENTS: list[Event] = [
    Phase("plan", "started"),
    Phase("plan", "finished", 0.25),
    Phase("build", "started"),
    Step("0", "[internal] load build definition from Dockerfile", "running"),
    Step("1", RUN, "running"),
    StepLog("1", "Collecting torch"),
    Step("1", RUN, "done", 3.0),
    Step("2", "[base 1/1] FROM python", "cached"),
    Step("3", "[image 1/2] RUN false", "failed"),
    Transfer("checkpoint-0", "model.pt", 1 * MIB, 4 * MIB),
    Transfer("checkpoint-0", "model.pt", 0, 4 * MIB, "running", "connection reset: again from 0"),
    Transfer("checkpoint-0", "model.pt", 4 * MIB, 4 * MIB, "finished"),
    Transfer("checkpoint-1", "other.pt", 4 * MIB, 4 * MIB, "dropped"),
    Note("the cache was not exported", "warning"),
    Note("no build cache yet"),
    Phase("build", "failed", 75.0),
]


def shown(kind: str, events: list[Event], capsys: pytest.CaptureFixture[str], *, terminal: bool = False) -> list[str]:
    with display(kind, terminal=terminal) as listener:
        for event in events:
            listener(event)
    out, err = capsys.readouterr()
    assert out == "", "progress is on standard error alone"
    return err.splitlines()


def test_plain(capsys: pytest.CaptureFixture[str]) -> None:
    """Plain lines say what begins, ends or goes wrong, and leave BuildKit's inner steps out."""
    lines = shown("plain", EVENTS, capsys)
    assert [line for line in lines if not line.startswith("checkpoint  model.pt: 4.0 MiB sent in ")] == [
        "plan        done in 0.25 s",
        f"build       {RUN}",
        "build         Collecting torch",
        "build       CACHED [base 1/1] FROM python",
        "build       FAILED [image 1/2] RUN false",
        "checkpoint  model.pt: connection reset: again from 0",
        "checkpoint  other.pt: its layer is there already (4.0 MiB)",
        "warning     the cache was not exported",
        "note        no build cache yet",
        "build       failed after 1 min 15 s",
    ]
    assert len(lines) == 11


def test_plain_transfer(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A long transfer is a line every 5 seconds: bytes, share, rate and time left."""
    clock = iter([0.0, 1.0, 6.0, 7.0, 20.0])
    monkeypatch.setattr(display_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    steps = [0, 10, 60, 70, 100]
    lines = shown("plain", [Transfer("c", "model.pt", n * MIB, 100 * MIB) for n in steps], capsys)
    assert len(lines) == 2
    assert lines[0] == "checkpoint  model.pt: 60.0 MiB of 100.0 MiB (60 %), 10.0 MiB/s, 4.00 s left"
    assert "(100 %)" in lines[1] and "0.00 s left" in lines[1]


def test_plain_transfer_of_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty and stalled transfers divide by nothing."""
    clock = iter([0.0, 6.0, 12.0])
    monkeypatch.setattr(display_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    lines = shown("plain", [Transfer("c", "x", 0, 0)] * 3, capsys)
    assert len(lines) == 2


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet(capsys: pytest.CaptureFixture[str], terminal: bool) -> None:
    """Quiet shows warnings and nothing else."""
    assert shown("quiet", EVENTS, capsys, terminal=terminal) == ["warning: the cache was not exported"]


def test_rawjson(capsys: pytest.CaptureFixture[str]) -> None:
    """rawjson is one object an event, with all its fields."""
    found = [json.loads(line) for line in shown("rawjson", EVENTS, capsys)]
    assert len(found) == len(EVENTS)
    assert found[0] == {"event": "phase", "name": "plan", "state": "started", "seconds": 0.0}
    assert {item["event"] for item in found} == {"phase", "step", "steplog", "transfer", "note"}


@pytest.mark.parametrize(("kind", "terminal"), [("auto", False), ("plain", True), ("plain", False)])
def test_auto(capsys: pytest.CaptureFixture[str], kind: str, terminal: bool) -> None:
    """Where there is no terminal, auto is plain; plain is plain anywhere."""
    assert shown(kind, [Phase("plan", "finished", 1.0)], capsys, terminal=terminal) == ["plan        done in 1.00 s"]


def test_live() -> None:
    """On a terminal every step and transfer has its row, with markup of others as text, and nothing is left running."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    with display("auto", terminal=True, console=console) as listener:
        for event in EVENTS:
            listener(event)
        listener(Step("4", "RUN echo [/bold]", "done"))
    text = stream.getvalue()
    for part in (RUN, "CACHED", "FAILED", "model.pt", "there already", "warning: the cache was not", "[/bold]"):
        assert part in text
    for thread in threading.enumerate():
        if "Refresh" in type(thread).__name__:
            thread.join(5)
            assert not thread.is_alive()


def test_live_marks() -> None:
    """A tick stands at what was done alone: not at what failed, was cancelled, or had not come to its end."""
    wanted = {
        "done": "✓",
        "cached": "✓",
        "failed": "✗",
        "canceled": "–",
        "running": "–",
        "half.pt": "–",
        "whole.pt": "✓",
    }
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    with pytest.raises(KeyError), display("auto", terminal=True, console=console) as listener:
        for number, state in enumerate(("done", "cached", "failed", "canceled", "running")):
            listener(Step(str(number), f"RUN {state}", state))  # type: ignore[arg-type]
        listener(Transfer("c", "half.pt", 1, 2))
        listener(Transfer("d", "whole.pt", 2, 2, "finished"))
        raise KeyError
    rows = [line.split() for line in stream.getvalue().replace("\x1b[?25l", "").rpartition("\x1b[2K")[2].splitlines()]
    assert {word: row[0] for row in rows for word in row if word in wanted} == wanted


def rows(width: int, *events: Event) -> list[str]:
    """The live display's rows after *events*, on a terminal of *width* columns."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=width, color_system=None)
    with display("tty", terminal=True, console=console) as listener:
        for event in events:
            listener(event)
    last = stream.getvalue().replace("\x1b[?25l", "").rpartition("\x1b[2K")[2]
    return [line for line in last.splitlines() if "0:00:" in line]


@pytest.mark.parametrize("name", ["model.pt", "model-00001-of-00030.safetensors"])
def test_live_in_80_columns(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a narrow terminal the bar and the end of a long name give way: mark, time, bytes, rate and time left stay."""
    monkeypatch.setattr("rich.progress.Task.speed", 512.5 * MIB)
    (row,) = rows(80, Transfer("c", name, 0, 1000 * MIB), Transfer("c", name, 500 * MIB, 1000 * MIB))
    assert row.startswith("✓ 0:00:00 ") and name[:17] in row
    assert row.rstrip().endswith("500.0 MiB of 1000.0 MiB  512.5 MiB/s  1 s left")


def test_live_reading() -> None:
    """A checkpoint that is hashed before it is sent has a row meanwhile; the transfer takes its place."""
    reading = Phase("checkpoint", "started")
    assert [row.split(" ", 2)[2].rstrip() for row in rows(100, reading)] == ["checkpoint  reading"]
    done = rows(100, reading, Phase("checkpoint", "finished", 3.0))
    assert [row.split(" ", 2)[2].rstrip() for row in done] == ["checkpoint  read"]
    sent = Transfer("c", "m.pt", 4, 4, "finished")
    for events in ((reading, sent, Phase("checkpoint", "finished")), (reading, Phase("checkpoint", "finished"), sent)):
        (row,) = rows(100, *events)
        assert "m.pt" in row


def test_live_in_few_lines() -> None:
    """With more steps than lines those that are over go up: what is being done, and the transfer, stay in sight."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, height=8, color_system=None)
    with display("tty", terminal=True, console=console) as listener:
        listener(Transfer("c", "m.pt", 1, 10))
        for number in range(30):
            listener(Step(str(number), f"RUN {number}.", "running"))
            listener(Step(str(number), f"RUN {number}.", "done"))
        listener(Step("last", "RUN last", "running"))
        listener._live.refresh()  # type: ignore[attr-defined]
        frame = stream.getvalue().rpartition("\x1b[2K")[2].splitlines()
    assert len(frame) < 8 and "RUN last" in frame[-2] and "m.pt" in frame[-1]
    assert all(stream.getvalue().count(f"RUN {number}.") for number in range(30))


def test_live_note_stays() -> None:
    """Why an upload starts again is a line of its own: the row is the next event's."""
    from rich.console import Console

    note, stream = "the registry lost it: starting again", io.StringIO()
    console = Console(file=stream, force_terminal=True, width=80, color_system=None)
    with display("tty", terminal=True, console=console) as listener:
        listener(Transfer("c", "m.pt", 0, 10, note=note))
        listener(Transfer("c", "m.pt", 5, 10))
    assert stream.getvalue().count(f"note: m.pt: {note}") == 1


def test_dumb_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that cannot move its cursor gets plain lines as things happen."""
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    assert shown("auto", [Phase("plan", "finished", 1.0)], capsys, terminal=True) == ["plan        done in 1.00 s"]


def test_brief_steps(capsys: pytest.CaptureFixture[str]) -> None:
    """A RUN step is shown by its command, not by the mounts in front of it."""
    step = Step("1", "[deps 1/2] RUN --network=none     --mount=type=cache,target=/c     pip install  torch", "running")
    assert shown("plain", [step], capsys) == ["build       [deps 1/2] RUN pip install torch"]
    (row,) = rows(100, step)
    assert row.split(" ", 2)[2].rstrip() == "build  [deps 1/2] RUN pip install torch"


@pytest.mark.parametrize("kind", ["plain", "quiet", "tty"])
def test_escapes_of_others(capsys: pytest.CaptureFixture[str], kind: str) -> None:
    """Text of registries and file names reaches the terminal escaped (FAULTS 56)."""
    from rich.console import Console

    stream = io.StringIO()
    console = Console(file=stream, force_terminal=False, width=100) if kind == "tty" else None
    with display(kind, terminal=False, console=console) as listener:
        listener(Note("\x1b]0;owned\x07", "warning"))
        listener(Transfer("c", "a\u202eb.pt", 1, 1, "finished"))
    text = stream.getvalue() + capsys.readouterr().err
    assert r"\x1b]0;owned\x07" in text
    assert "\x1b]0" not in text and "\x07" not in text and "\u202e" not in text


def test_lines_stay_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """Events of several threads do not mix within a line."""
    with display("plain", terminal=False) as listener:
        threads = [
            threading.Thread(target=lambda n=n: [listener(StepLog("1", f"{n}" * 40)) for _ in range(50)])
            for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 200 and {len(set(line.split()[1])) for line in lines} == {1}
