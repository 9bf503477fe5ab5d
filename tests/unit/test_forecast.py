from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from layerkit.fingerprint import Inputs
from layerkit.forecast import Rates, agree, estimate, learn, outcomes
from layerkit.oci import MEDIA, Digest
from layerkit.planner import Plan, Present, plan
from layerkit.results import LayerResult, Result
from layerkit.state import State
from unit.support import inputs, project, write_project

MIB = 1024 * 1024
SIZE = 64 * MIB
RATES = Rates(upload=32.0 * MIB, builder={"code": 4.0, "dependencies": 60.0}, rest=1.0)


@pytest.fixture
def made(tmp_path: Path) -> Plan:
    """The plan of a first build of 64 MiB of weights."""
    root = write_project(tmp_path)
    with (root / "model.pth.tar").open("wb") as stream:
        stream.truncate(SIZE)
    with State() as state:
        return decide(inputs(project(root), state))


def decide(found: Inputs) -> Plan:
    return plan(found, Present(), destination="registry x", tags=["v1"])


def result(seconds: dict[str, float], actions: dict[str, str], *, ran: bool = True, read: int = SIZE) -> Result:
    """What a build says that gave one layer of 1000 bytes for each role of *actions*."""
    layers = tuple(
        LayerResult(role, Digest.of(role.encode()), Digest.of(role.encode()), MEDIA.LAYER, 1000, action)
        for role, action in actions.items()
    )
    rebuilt = tuple(role for role, action in actions.items() if action != "reused")
    taken = {"plan": 0.0, "build": 0.0, "checkpoint": 0.0, "compose": 0.0, "total": 0.0} | seconds
    return Result(
        "x@y", Digest.of(b"image"), ("v1",), "compose", layers, rebuilt, ran, 0, read, 0, 0, 0, taken
    )  # fmt: skip


FIRST = {"base": "mounted", "dependencies": "built", "checkpoint": "packed", "code": "built"}


def test_first_build_is_not_estimated(made: Plan) -> None:
    """Where nothing was measured, nothing is estimated."""
    assert estimate(made, Rates()) is None


def test_both_halves_go_at_once(made: Plan) -> None:
    """The builder and the checkpoint overlap: the longer one counts, and what is beside both."""
    found = estimate(made, RATES)
    assert found is not None
    assert (found.builder, found.checkpoint, found.total, found.unknown) == (60.0, 2.0, 61.0, ())


def test_what_was_not_measured_is_said(made: Plan) -> None:
    """A part that no earlier build tells is named, and is not in the total."""
    found = estimate(made, Rates(rest=1.0))
    assert found is not None and found.unknown == ("builder", "checkpoint") and found.total == 1.0


def test_code_alone_is_estimated_by_dependencies(made: Plan) -> None:
    """Where nothing nearer was measured, the code is estimated by a build of dependencies: it takes no longer."""
    code = dataclasses.replace(made, layers=tuple(row for row in made.layers if row.role in ("checkpoint", "code")))
    near = estimate(code, RATES)
    far = estimate(code, Rates(upload=1.0, builder={"dependencies": 60.0}, rest=0.0))
    assert near is not None and near.builder == 4.0
    assert far is not None and far.builder == 60.0
    deep = estimate(made, Rates(upload=1.0, builder={"code": 4.0}, rest=0.0))
    assert deep is not None and deep.unknown == ("builder",)


def test_learned(made: Plan) -> None:
    """A build teaches the rate of the upload, the builder's seconds for its lowest role, and the rest."""
    seconds = {"build": 30.0, "checkpoint": 4.0, "total": 32.0}
    learnt = learn(Rates(), made, result(seconds, FIRST))
    assert learnt == Rates(upload=16.0 * MIB, builder={"dependencies": 30.0}, rest=2.0)
    assert Rates.from_json(learnt.to_json()) == learnt
    there = learn(learnt, made, result(seconds, {**FIRST, "checkpoint": "reused"}))
    assert (there.upload, there.read) == (16.0 * MIB, 16.0 * MIB)


@pytest.mark.parametrize(
    "text",
    [None, 3, [], {}, {"builder": 1}, {"builder": {"code": "x"}, "upload": 1}]
    + [{"builder": {}, "upload": None, "read": None, "rest": rest} for rest in (float("nan"), -1, 10**400, "x")],
)
def test_damaged_memory_is_nothing(text: object) -> None:
    """A record that is not ours, or measures that cannot be, count as nothing known."""
    with State() as state:
        state.put("rates", "here", text)
        assert state.get("rates", "here", Rates.from_json) is None


def test_as_planned(made: Plan) -> None:
    """A build that did what was planned agrees, role for role, with the bytes that were new."""
    done = result({}, FIRST)
    found = {outcome.role: outcome for outcome in outcomes(made, done)}
    assert agree(made, done) and all(outcome.agrees for outcome in found.values())
    assert (found["checkpoint"].planned, found["checkpoint"].happened) == ("packed", "packed")
    assert (found["checkpoint"].bytes_new, found["base"].bytes_new) == (1000, 0)


def test_less_than_predicted_agrees(made: Plan) -> None:
    """A prediction says the most that can happen: a layer that turned out to be there is in it."""
    assert agree(made, result({}, dict.fromkeys(FIRST, "reused")))


def test_more_than_planned_does_not_agree(made: Plan) -> None:
    """A role that was to be reused and was built, or BuildKit running unasked, is no agreement."""
    sure = dataclasses.replace(
        made,
        layers=tuple(dataclasses.replace(row, action="reused", known=True) for row in made.layers),
    )
    done = result({}, {**dict.fromkeys(FIRST, "reused"), "code": "built"})
    assert [outcome.role for outcome in outcomes(sure, done) if not outcome.agrees] == ["code"]
    assert not agree(sure, done)
    assert not agree(made, result({}, FIRST, ran=False))


def test_more_bytes_than_planned_does_not_agree(made: Plan) -> None:
    """The planned bytes are the most: one byte over them is no agreement."""
    rows = tuple(
        dataclasses.replace(row, bytes_to_upload=999) if row.role == "checkpoint" else row for row in made.layers
    )
    tight = dataclasses.replace(made, layers=rows)
    assert [outcome.role for outcome in outcomes(tight, result({}, FIRST)) if not outcome.agrees] == ["checkpoint"]
