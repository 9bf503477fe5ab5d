"""The tables: what everything took, and what it was to reach."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from harness import MIB, Measured
from projects import (
    Buildx,
    BuildxLoad,
    BuildxLoadElsewhere,
    BuildxUncompressed,
    Crane,
    Curl,
    DockerLoad,
    Layerkit,
    LayerkitLoad,
)

Runs = dict[str, list[Measured]]


@dataclass(frozen=True)
class Goal:
    """One row of the second table. ``met`` is None where there is no target."""

    what: str
    target: str
    got: str
    met: bool | None


def seconds_table(runs: Runs) -> str:
    """Median, least and most of everything measured."""
    rows: list[Sequence[str]] = [("phase", "what", "median s", "least", "most", "own cpu s", "runs")]
    for phase, found in runs.items():
        for name in dict.fromkeys(run.contestant for run in found):
            ours = [run for run in found if run.contestant == name]
            times = [run.seconds for run in ours]
            cpu = statistics.median(run.user + run.system for run in ours)
            numbers = [f"{value:.2f}" for value in (statistics.median(times), min(times), max(times), cpu)]
            rows.append((phase, name, *numbers, str(len(ours))))
    return _table(rows, right=range(2, 7))


def goals_table(goals: Sequence[Goal]) -> str:
    head = ("goal", "target", "got", "met")
    words = {True: "yes", False: "NO", None: ""}
    return _table([head, *((goal.what, goal.target, goal.got, words[goal.met]) for goal in goals)], right=())


def goals(runs: Runs) -> list[Goal]:
    """What was measured against what it must reach (issue 2, "What it must reach")."""
    found: list[Goal] = []
    swap, load = runs.get("swap", []), runs.get("load", [])

    def faster(what: str, ours: str, theirs: str, least: float, group: list[Measured]) -> None:
        ratios = paired(group, theirs, ours)
        if ratios:
            value = statistics.median(ratios)
            target = f"{least:g} times faster" if least > 1 else "faster"
            found.append(Goal(what, target, _ratios(ratios), value >= least if least > 1 else value > 1))

    faster(f"swap against {Buildx.name}", Layerkit.name, Buildx.name, 7, swap)
    faster("swap against the same, uncompressed", Layerkit.name, BuildxUncompressed.name, 5, swap)
    faster("swap against crane append", Layerkit.name, Crane.name, 1, swap)
    if limit := paired(swap, Layerkit.name, Curl.name):
        found.append(Goal("swap over curl", "at most 1.15", _ratios(limit), statistics.median(limit) <= 1.15))
    if limit := paired(swap, Buildx.name, Curl.name):
        found.append(Goal("docker buildx build --push over curl", "", _ratios(limit), None))
    for name in dict.fromkeys(run.contestant for run in runs.get("back", [])):
        sent = [run.facts["bytes"] for run in runs["back"] if run.contestant == name]
        most = max(item["uploaded"] for item in sent)
        dropped = max(item["dropped"] for item in sent)
        got = f"{most} bytes kept, {dropped / MIB:.0f} MiB dropped on their way"
        found.append(Goal(name, "no layer uploaded", got, most < 64 * 1024))
    if ratios := paired(runs.get("code", []), "code changed, SIZE", "code changed, 1 MiB"):
        met = statistics.median(ratios) <= 1.1
        found.append(Goal("code change, emptied builder, over one of 1 MiB", "at most 1.1", _ratios(ratios), met))
        large = [run.facts for run in runs["code"] if run.contestant == "code changed, SIZE"]
        read = max(facts["bytes"]["checkpoint_read"] for facts in large)
        to_builder = max(facts["builder"]["bytes_sent"] for facts in large)
        found.append(Goal("the same: checkpoint bytes read", "0", str(read), read == 0))
        found.append(Goal("the same: bytes to the builder", "under 1 MiB", str(to_builder), to_builder < MIB))
    if nothing := runs.get("nothing"):
        value = _median(nothing)
        ran = any(run.facts["builder"]["ran"] for run in nothing)
        got = f"{value:.2f} s, BuildKit {'called' if ran else 'not called'}"
        found.append(Goal("nothing changed", "under 0.7 s, no BuildKit", got, value < 0.7 and not ran))
    for option in ("--version", "--help"):
        if times := [run for run in runs.get("start", []) if run.contestant.endswith(option)]:
            value = _median(times)
            found.append(Goal(f"layerkit {option}", "under 0.15 s", f"{value:.3f} s", value < 0.15))
    for what, group in (("SIZE", swap), ("SIZE/8", runs.get("memory", []))):
        if ours := [run for run in group if run.peak_rss]:
            peak, anon = max(run.peak_rss for run in ours), max(run.peak_anon for run in ours)
            got = f"{peak / MIB:.0f} MiB (anonymous: {anon / MIB:.0f})"
            found.append(Goal(f"peak memory of a swap of {what}", "under 150 MiB", got, peak < 150 * MIB))
    for kind in (BuildxLoadElsewhere, BuildxLoad):
        faster(f"--load swap against {kind.name}", LayerkitLoad.name, kind.name, 2.5, load)
    classic = runs.get("classic", [])
    faster("the same, classic image store", LayerkitLoad.name, BuildxLoad.name, 2.5, classic)
    for store, group in (("containerd", load), ("classic", classic)):
        if limit := paired(group, LayerkitLoad.name, DockerLoad.name):
            found.append(Goal(f"--load swap over docker load of a ready archive, {store}", "", _ratios(limit), None))
    names = [f"docker pull, checkpoint {place} the code" for place in ("above", "under")]
    if ratios := paired(runs.get("pull", []), names[0], names[1]):
        found.append(Goal("pull of new code: checkpoint above over under", "", _ratios(ratios), None))
    if trained := [run for run in runs.get("head", []) if run.contestant == "head, shards"]:
        ratio = max(run.facts["bytes"]["uploaded"] / run.facts["changed"] for run in trained)
        read = max(run.facts["bytes"]["checkpoint_read"] for run in trained)
        found.append(
            Goal("a trained head: bytes uploaded over bytes changed", "at most 1.1", f"{ratio:.4f}", ratio <= 1.1)
        )
        found.append(Goal("the same: bytes of weights read", "", f"{read / MIB:.0f} MiB", None))
    if ratios := paired(runs.get("head", []), "head, one file kept", "head, shards"):
        found.append(Goal("the same: one file kept over shards", "", _ratios(ratios), None))
    if ratios := paired(runs.get("shards", []), "docker pull, 1 layers", "docker pull, 8 layers"):
        found.append(Goal("pull of new weights: one layer over eight", "", _ratios(ratios), None))
    return found


def paired(group: list[Measured], numerator: str, denominator: str) -> list[float]:
    """Round by round, the seconds of one contestant over those of another."""
    times = {(run.contestant, run.round): run.seconds for run in group}
    rounds = sorted({run.round for run in group})
    pairs = [(times.get((numerator, number)), times.get((denominator, number))) for number in rounds]
    return [upper / lower for upper, lower in pairs if upper is not None and lower]


def _median(group: list[Measured]) -> float:
    return float(statistics.median(run.seconds for run in group))


def _ratios(values: list[float]) -> str:
    middle = f"{statistics.median(values):.2f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.2f} to {max(values):.2f})"


def _table(rows: Sequence[Sequence[str]], right: Sequence[int]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]

    def align(column: int, cell: str) -> str:
        return cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])

    lines = ["  ".join(align(column, cell) for column, cell in enumerate(row)).rstrip() for row in rows]
    return "\n".join([lines[0], "  ".join("-" * width for width in widths), *lines[1:]])
