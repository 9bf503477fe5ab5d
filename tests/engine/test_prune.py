"""``layerkit prune`` on a real registry, between real builds."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta

import pytest

from engine.conftest import MIB, Workspace, write_weights
from layerkit.oci import Reference
from layerkit.pruning import GUARD, Policy, Survey, sweep
from layerkit.registry import Client

SHOW = "import hashlib, os; print(hashlib.sha256(open(os.environ['LAYERKIT_CHECKPOINT'], 'rb').read()).hexdigest())"


def prune_later(workspace: Workspace) -> list[str]:
    """``layerkit prune --older-than 0 --yes``, as it is when the hour is over: tags that it deleted."""
    with Client() as client:
        survey = Survey([client.repository(Reference.parse(workspace.repository))])
        now = datetime.now(UTC) + GUARD + timedelta(minutes=1)
        outcomes = list(sweep(survey, survey.look(), Policy(days=0), now))
    assert {outcome.done for outcome in outcomes} <= {"deleted"}
    return [outcome.stored.tag for outcome in outcomes]


def listed(workspace: Workspace, *options: str) -> dict[str, bool]:
    """tag -> stale, as the command line has it."""
    rows = json.loads(workspace.run("prune", "--json", *options).stdout)["images"]
    return {row["tag"]: row["stale"] for row in rows}


@pytest.mark.parametrize("form", ["layer", "artifact"])
def test_the_whole_story(workspace: Workspace, form: str) -> None:
    """Build, new weights, new code, build, prune: what is live runs and is built again, and so is what was pruned."""
    options = {
        "layer": ("--set", 'builder.attest=["type=provenance,mode=min"]'),  # an index of image and attestation
        "artifact": ("--set", "checkpoint.placement=artifact"),
    }[form]
    weights, code = workspace.root / "model.pth.tar", workspace.root / "serve.py"
    write_weights(weights, 1, MIB)
    first = workspace.build(*options)
    before = set(listed(workspace))
    write_weights(weights, 2, MIB)
    code.write_text(code.read_text() + "print('two')\n")
    second = workspace.build(*options)
    workspace.fresh_machine()
    unpruned = workspace.build(*options)

    young = workspace.run("prune", "--older-than", "0", "--yes")
    assert "0 deleted of 4 runtime and checkpoint images" in young.stderr, "they are younger than an hour"
    assert set(listed(workspace).values()) == {False}
    assert set(prune_later(workspace)) == before
    assert len(before) == 2 and not before & set(listed(workspace))

    # What is live runs; nothing of it is built or sent again, also by a machine that knows nothing.
    ran = workspace.run("run", *options, "-t", "v1", "--", "python3", "-c", SHOW)
    assert ran.stdout.split() == [_sha256(workspace)]
    workspace.fresh_machine()
    again = workspace.build(*options)
    assert (again["digest"], again["builder"]["ran"]) == (second["digest"], False)
    assert again["bytes"] == unpruned["bytes"]

    # What was pruned comes back, as it was but for when it was built.
    write_weights(weights, 1, MIB)
    code.write_text(code.read_text().replace("print('two')\n", ""))
    back = workspace.build(*options, tag="v2")
    assert back["builder"]["ran"]
    assert set(listed(workspace)) >= before
    assert workspace.digests("checkpoint") == [row["digest"] for row in first["layers"] if row["role"] == "checkpoint"]
    assert workspace.run("run", *options, "-t", "v2", "--", "python3", "-c", SHOW).stdout.split() == [
        _sha256(workspace)
    ]
    assert prune_later(workspace) == []


def _sha256(workspace: Workspace) -> str:
    return hashlib.sha256((workspace.root / "model.pth.tar").read_bytes()).hexdigest()
