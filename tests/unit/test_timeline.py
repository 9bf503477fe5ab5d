from __future__ import annotations

from layerkit.events import Event, Note, Phase, Step, Transfer
from layerkit.timeline import Recorder, Span


class Clock:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_spans() -> None:
    """Phases, steps and transfers are noted from their first event to their last, and every event is passed on."""
    clock, heard = Clock(), list[Event]()
    recorder = Recorder(heard.append, clock)
    events: list[tuple[float, Event]] = [
        (100.0, Phase("plan", "started")),
        (101.0, Phase("plan", "finished", 1.0)),
        (101.0, Phase("build", "started")),
        (102.0, Step("a", "RUN pip", "running")),
        (102.5, Transfer("checkpoint-0", "m.pt", 1, 10)),
        (104.0, Step("a", "RUN pip", "done", 2.0)),
        (104.0, Step("b", "FROM base", "cached")),
        (105.5, Transfer("checkpoint-0", "m.pt", 10, 10, "dropped")),
        (106.0, Note("something")),
        (106.0, Phase("build", "failed", 5.0)),
    ]
    for now, event in events:
        clock.now = now
        recorder(event)
    assert heard == [event for _, event in events]
    assert recorder.spans() == (
        Span("phase", "plan", 0.0, 1.0, "finished"),
        Span("phase", "build", 1.0, 5.0, "failed"),
        Span("step", "RUN pip", 2.0, 2.0, "done"),
        Span("transfer", "m.pt", 2.5, 3.0, "dropped"),
        Span("step", "FROM base", 4.0, 0.0, "cached"),
    )


def test_end_alone() -> None:
    """A step that is only told of when it is done began as long before as it took."""
    clock = Clock()
    recorder = Recorder(lambda event: None, clock)
    clock.now = 110.0
    recorder(Step("a", "COPY", "done", 3.0))
    assert recorder.spans() == (Span("step", "COPY", 7.0, 3.0, "done"),)


def test_what_runs_still() -> None:
    """What has no end yet is there, and said to run; its JSON has seconds to the thousandth."""
    clock = Clock()
    recorder = Recorder(lambda event: None, clock)
    clock.now = 100.12345
    recorder(Phase("plan", "started"))
    assert [span.to_json() for span in recorder.spans()] == [
        {"kind": "phase", "name": "plan", "begin": 0.123, "seconds": 0.0, "state": "running"}
    ]


def test_bounded() -> None:
    """However many steps there are, a record stays small."""
    recorder = Recorder(lambda event: None, Clock())
    for number in range(2000):
        recorder(Step(str(number), "RUN", "done"))
    assert len(recorder.spans()) == 500
