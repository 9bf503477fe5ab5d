from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerkit.events import Note, Step, StepLog
from layerkit.runtime.progress import Progress, brief

BEGIN, END = "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:02Z"


def feed(progress: Progress, *lines: object) -> list[Any]:
    return [
        event
        for line in lines
        for event in progress.feed(line if isinstance(line, bytes) else json.dumps(line).encode())
    ]


def vertex(digest: str = "d1", name: str = "[image 1/2] RUN x", **fields: object) -> dict[str, Any]:
    return {"vertexes": [{"digest": digest, "name": name, **fields}]}


def log(text: bytes, digest: str = "d1") -> dict[str, Any]:
    return {"logs": [{"vertex": digest, "data": base64.b64encode(text).decode()}]}


def test_step() -> None:
    """A step begins and ends, each said once, with its seconds."""
    progress = Progress()
    events = feed(
        progress,
        vertex(),
        vertex(started=BEGIN),
        vertex(started=BEGIN),
        vertex(started=BEGIN, completed=END),
        vertex(started=BEGIN, completed=END),
    )
    assert events == [Step("d1", "[image 1/2] RUN x", "running"), Step("d1", "[image 1/2] RUN x", "done", 1.5)]


def test_cached_step() -> None:
    """A cached step is CACHED, and not reported as done after that."""
    progress = Progress()
    events = feed(progress, vertex(cached=True, started=BEGIN, completed=END), vertex(started=BEGIN, completed=END))
    assert [event.state for event in events] == ["cached"]
    assert progress.cached == frozenset({"[image 1/2] RUN x"})


def test_failed_step() -> None:
    """A failed step is named, with its last 30 lines and what BuildKit says of it."""
    progress = Progress()
    feed(progress, vertex(started=BEGIN), log(b"".join(b"line %d\n" % n for n in range(40))))
    events = feed(progress, vertex(started=BEGIN, completed=END, error="exit code: 1"))
    assert [event.state for event in events] == ["failed"]
    name, lines, said = progress.failure()
    assert (name, said) == ("[image 1/2] RUN x", "exit code: 1")
    assert lines == tuple(f"line {n}" for n in range(10, 40))


def test_canceled_steps_are_not_to_blame() -> None:
    """Steps that were ended because another failed are not what failed."""
    progress = Progress()
    feed(progress, vertex("d0", "other", error="process: context canceled"), vertex("d1", "real", error="exit code: 2"))
    assert progress.failure()[0] == "real" and progress.steps["d0"].state == "canceled"


def test_missing_cache_is_a_note() -> None:
    """A cache that cannot be imported is a note, once, and fails nothing (FAULTS 35)."""
    progress = Progress()
    line = vertex("d2", "importing cache manifest from r.example/x:buildcache", error="not found")
    step, note = feed(progress, line, line)
    assert isinstance(step, Step) and step.state == "canceled"
    assert note == Note("no build cache to import yet (r.example/x:buildcache)")
    assert progress.failure() == ("", (), "")


def test_logs() -> None:
    """Each line of a log is an event; what is not UTF-8 or controls the terminal is escaped, not lost (FAULTS 38)."""
    progress = Progress()
    events = feed(progress, log(b"one\ntwo \xff\x1b[31m\n"))
    assert events == [StepLog("d1", "one"), StepLog("d1", r"two \xff\x1b[31m")]
    assert progress.log("d1") == ("one", r"two \xff\x1b[31m") and progress.log("none") == ()


def test_bytes_sent() -> None:
    """Bytes to the builder are the most that each transfer said, added up; other statuses do not count."""
    progress = Progress()

    def status(vertex: str, id: str, current: int) -> dict[str, Any]:
        return {"statuses": [{"vertex": vertex, "id": id, "current": current}]}

    feed(
        progress,
        status("a", "transferring context:", 100),
        status("a", "transferring context:", 300),
        status("a", "transferring context:", 200),
        status("b", "transferring context:", 5),
        status("a", "transferring dockerfile:", 7),
        status("a", "sha256:abc", 10_000),
        status("a", "extracting sha256:abc", 10_000),
    )
    assert progress.bytes_sent == 312


def test_warnings() -> None:
    """A warning is a note, once."""
    progress = Progress()
    line = {"warnings": [{"short": base64.b64encode(b"JSONArgsRecommended").decode()}]}
    assert feed(progress, line, line) == [Note("JSONArgsRecommended", "warning")]


def test_plain_lines() -> None:
    """Lines that are no JSON are kept, escaped, and the error among them is what failed (FAULTS 38)."""
    progress = Progress()
    assert feed(progress, b"#1 hello\n", b"\n", b"ERROR: no \xff builder\x1b[0m\n", b"{ half\n", b"last\n") == []
    assert progress.plain == ("#1 hello", r"ERROR: no \xff builder\x1b[0m", "{ half", "last")
    assert progress.failure() == ("", progress.plain, r"ERROR: no \xff builder\x1b[0m")


def test_names_are_fit_for_a_terminal() -> None:
    """Names of steps come from a Dockerfile: escaped, and cut (FAULTS 56)."""
    (event,) = feed(Progress(), vertex(name="\x1b]0;x\x07" + "a" * 3000, started=BEGIN))
    assert event.name.startswith(r"\x1b]0;x\x07") and len(event.name) == 2001


@pytest.mark.parametrize(
    "line",
    [
        b"", b"{}", b"null", b"[1]", b"{" * 50_000, b'{"a":' * 20_000, b'{"vertexes": 3}', b'{"vertexes": [3, null]}',
        b'{"vertexes": [{}]}', b'{"vertexes": [{"digest": null, "started": 3, "completed": "x", "error": 5}]}',
        b'{"logs": [{"data": 3}]}', b'{"logs": [{"vertex": 1, "data": "\xc3\xa4"}]}', b'{"warnings": [{"short": {}}]}',
        b'{"statuses": [{"id": "transferring x", "current": "many"}]}',
        b'{"statuses": [{"id": "transferring x", "current": [1]}]}', b'{"statuses": [{"id": 5}]}',
    ],
)  # fmt: skip
def test_nonsense(line: bytes) -> None:
    """Whatever a builder prints, reading it does not fail."""
    progress = Progress()
    feed(progress, line)
    progress.failure()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    ["digest", "name", "started", "completed", "cached", "error", "id", "current", "vertex", "data"]
)


@given(
    st.dictionaries(
        st.sampled_from(["vertexes", "statuses", "logs", "warnings"]),
        st.lists(st.dictionaries(FIELDS, JSON) | JSON, max_size=3),
    )
)
def test_any_json(document: dict[str, Any]) -> None:
    """The same for any JSON in the right places."""
    progress = Progress()
    feed(progress, document)
    assert progress.bytes_sent >= 0


def test_brief() -> None:
    """The command of a step is shown however many mounts there are in front of it; of a long one, its beginning."""
    mounts = "".join(f"     --mount=type=bind,source=folder/{number},target=/tmp/{number}" for number in range(20))
    progress = Progress()
    vertex = {"digest": "a", "name": f"[1/1] RUN --network=none{mounts}     pip  install x", "started": "x"}
    (step,) = progress.feed(json.dumps({"vertexes": [vertex]}).encode())
    assert isinstance(step, Step) and brief(step.name) == "[1/1] RUN pip install x"
    assert brief("RUN echo --mount=not-a-flag") == "RUN echo --mount=not-a-flag"
    assert brief("RUN " + "x" * 400) == "RUN " + "x" * 295 + "…"
