"""How a registry wants its blobs is found out once, and remembered for a week by every run on the machine."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from layerkit.destinations.remembered import RememberedWays
from layerkit.errors import RefusedError
from layerkit.registry import Way
from layerkit.state import State
from layerkit.testing import FakeRegistry, Profile
from registry.pushing import Pushing
from registry.support import MIB, Connect, Data, pattern

Serve = Callable[..., FakeRegistry]
SIZE = 3 * MIB


def prepared(root: Path, registry: FakeRegistry) -> Pushing:
    pushing = Pushing(root, registry.host)
    pushing.seed(registry)
    return pushing


def age(pushing: Pushing, seconds: float) -> None:
    """Let what is known of ways be older."""
    with sqlite3.connect(pushing.state / "state.sqlite") as connection:
        for key, text in connection.execute("SELECT key, value FROM records WHERE kind = 'way'").fetchall():
            value = json.dumps({**json.loads(text), "time": time.time() - seconds})
            connection.execute("UPDATE records SET value = ? WHERE kind = 'way' AND key = ?", (value, key))
    connection.close()


@pytest.mark.parametrize(
    ("profile", "refused", "way"),
    [
        pytest.param(Profile(body_limit=2 * MIB), 1, Way("chunked", MIB), id="proxy-limit"),
        pytest.param(Profile(patch=False), 1, Way("monolithic"), id="no-patch"),
    ],
)
def test_fault_8_9_the_next_run_knows(serve: Serve, tmp_path: Path, profile: Profile, refused: int, way: Way) -> None:
    """FAULTS 8, 9: one run is refused and finds the way; the next is not; after a week it is looked for again."""
    registry = serve(profile)
    pushing = prepared(tmp_path, registry)
    for number, (older, refusals) in enumerate([(0, refused), (0, 0), (8 * 24 * 3600, refused), (0, 0)]):
        if older:
            age(pushing, older)
        pushing.weights(SIZE, seed=number)
        registry.requests.clear()
        pushing.prepare()
        answers = [r.status for r in registry.asked(path="uploads") if r.status >= 400]
        assert len(answers) == refusals, answers
    with State(pushing.state) as state:
        assert RememberedWays(state).load(registry.host) == way


def test_a_way_that_is_no_good_any_more_is_forgotten(serve: Serve, tmp_path: Path) -> None:
    """A registry that refuses the remembered way is asked as if for the first time, in the same run."""
    registry = serve(Profile(patch=False))
    pushing = prepared(tmp_path, registry)
    pushing.weights(SIZE, seed=0)
    pushing.prepare()
    # Another registry under the same name: it takes chunks, and no PUT with a body.
    registry.profile = Profile()
    put = registry.fail(method="PUT", path="uploads/", action="status", after_bytes=1, status=405, times=1)
    pushing.weights(SIZE, seed=1)
    pushing.prepare()
    assert put.hits == 1
    with State(pushing.state) as state:
        assert RememberedWays(state).load(registry.host) is None
    registry.requests.clear()
    pushing.weights(SIZE, seed=2)
    pushing.prepare()
    assert [r.status for r in registry.asked("PATCH")] == [202]


def test_what_fails_teaches_nothing(serve: Serve, connect: Connect) -> None:
    """Only the way by which a blob arrived is kept: a registry that refuses everything leaves no memory."""
    registry = serve()
    with State() as state:
        ways = RememberedWays(state)
        registry.fail(method="PATCH", status=405, times=-1)
        registry.fail(method="PUT", status=405, times=-1)
        with pytest.raises(RefusedError):
            connect(registry, ways=ways).upload(Data(pattern(MIB)))
        assert ways.load(registry.host) is None
        registry.heal()
        registry.fail(method="PATCH", status=405, times=-1)
        connect(registry, ways=ways).upload(Data(pattern(MIB)))
        assert ways.load(registry.host) == Way("monolithic")


@pytest.mark.parametrize(
    "value",
    [None, 1, [], {}, {"kind": "chunked", "chunk": 0, "time": 0}, {"kind": "other", "chunk": 1},
     {"kind": [], "chunk": 1, "time": 1},
     {"kind": "chunked", "chunk": 0, "time": "now"}, {"kind": "chunked", "chunk": 1 << 20, "time": -1},
     {"kind": "chunked", "chunk": "1", "time": 1}, {"kind": "stream", "chunk": 7, "time": 1}],
    ids=str,
)  # fmt: skip
def test_damaged_memories(value: object) -> None:
    """What makes no sense is as good as nothing."""
    with State() as state:
        state.put("way", "registry.test", value)
        assert RememberedWays(state).load("registry.test") is None
