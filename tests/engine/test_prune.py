"""``layerkit prune`` on a real registry, between real builds."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime, timedelta

from engine.conftest import MIB, Workspace, write_weights
from layerkit.oci import Reference
from layerkit.pruning import GUARD, Policy, Survey, sweep
from layerkit.pruning.judge import kind_of
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


def stored(workspace: Workspace) -> set[str]:
    """Tags of runtime and checkpoint images."""
    with Client() as client:
        return {tag for tag in client.repository(Reference.parse(workspace.repository)).tags() if kind_of(tag)}


# The image is an index of itself and an attestation; the other one mounts the same weights.
ATTESTED = ("--set", 'builder.attest=["type=provenance,mode=min"]')
MOUNTED = (*ATTESTED, "--set", "checkpoint.placement=artifact")


def test_the_whole_story(workspace: Workspace) -> None:
    """Build, new weights, new code, build, prune: what is live runs and is built again, and so is what was pruned."""
    weights, code = workspace.root / "model.pth.tar", workspace.root / "serve.py"
    write_weights(weights, 1, MIB)
    first = workspace.build(*ATTESTED)
    before = stored(workspace)
    write_weights(weights, 2, MIB)
    code.write_text(code.read_text() + "print('two')\n")
    second = workspace.build(*ATTESTED)
    workspace.build(*MOUNTED, tag="mounted")

    young = json.loads(workspace.run("prune", "--older-than", "0", "--yes", "--json").stdout)
    assert [row["stale"] for row in young["images"]] == [False] * 5, "they are younger than an hour"
    assert set(prune_later(workspace)) == before
    assert len(before) == 2 and not before & stored(workspace)

    # What is live runs; nothing of it is built again, also by a machine that knows nothing.
    for tag, options in (("v1", ATTESTED), ("mounted", MOUNTED)):
        ran = workspace.run("run", *options, "-t", tag, "--", "python3", "-c", SHOW)
        assert ran.stdout.split() == [_sha256(workspace)]
    workspace.fresh_machine()
    again = workspace.build(*ATTESTED)
    assert (again["digest"], again["rebuilt"], again["builder"]["ran"]) == (second["digest"], [], False)

    # What was pruned comes back: the same weights in the same layer, under the same tags.
    write_weights(weights, 1, MIB)
    code.write_text(code.read_text().replace("print('two')\n", ""))
    assert workspace.build(*ATTESTED, tag="v2")["builder"]["ran"]
    assert stored(workspace) >= before
    assert workspace.digests("checkpoint") == [row["digest"] for row in first["layers"] if row["role"] == "checkpoint"]
    assert workspace.python(SHOW, tag="v2") == _sha256(workspace)
    assert prune_later(workspace) == []


def _sha256(workspace: Workspace) -> str:
    return hashlib.sha256((workspace.root / "model.pth.tar").read_bytes()).hexdigest()
