"""Plans and results as text. Digests are never cut by a terminal's width."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from ..errors import printable
from ..planner import LayerPlan, Plan
from ..results import Result
from .text import duration, size

__all__ = ["print_plan", "print_result"]


def _rows(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def print_result(result: Result) -> None:
    """What was done, on standard error: a row a layer, then the sums."""
    rows = [("layer", "action", "size", "digest")]
    rows += [
        (
            layer.role + (f" {layer.platform}" if layer.platform else ""),
            layer.action,
            size(layer.size),
            str(layer.digest),
        )
        for layer in result.layers
    ]
    lines = _rows(rows) if result.layers else []
    builder = f"BuildKit ran, {size(result.bytes_sent)} sent to it" if result.builder_ran else "BuildKit did not run"
    lines.append("")
    lines.append(f"rebuilt: {', '.join(result.rebuilt) or 'nothing'} · {builder}")
    if result.way == "compose":
        lines.append(
            f"checkpoint read {size(result.checkpoint_read)} · uploaded {size(result.uploaded)}"
            f" · reused {size(result.reused)} · {duration(result.seconds['total'])}"
        )
    else:
        lines.append(f"built by BuildKit as a whole ({result.why}) · {duration(result.seconds['total'])}")
    print("\n".join(lines), file=sys.stderr)


def print_plan(plan: Plan) -> None:
    """What would be done, on standard output."""
    print(f"{plan.destination}  tags: {', '.join(plan.tags)}")
    rows = [("layer", "action", "to builder", "to upload", "why")]
    rows += [
        (
            layer.role,
            layer.action,
            size(layer.bytes_to_builder),
            size(layer.bytes_to_upload),
            printable(layer.reason),
        )
        for layer in plan.layers
    ]
    print("\n".join(_rows(rows)))
    for layer in plan.layers:
        _print_parts(layer)
    if not plan.changes:
        print(f"nothing to do: {', '.join(plan.tags)} is {plan.digest}")
        return
    print("BuildKit runs" if plan.platforms_to_build else "BuildKit does not run", end="")
    print(f"; tags move: {', '.join(plan.tags_to_move)}" if plan.tags_to_move else "")
    if plan.digest is not None:
        print(f"the image will be {plan.digest}")


_CHANGED = {True: "changed", False: "unchanged", None: "not hashed yet"}


def _print_parts(layer: LayerPlan) -> None:
    """The layers of a checkpoint one by one: those that change, and how many do not."""
    same = [part for part in layer.parts if part.changed is False]
    others = [part for part in layer.parts if part.changed is not False]
    if not layer.parts:
        return
    rows = [(f"  {_CHANGED[part.changed]}", size(part.size), printable(part.name)) for part in others]
    if same:
        rows.append(("  unchanged", size(sum(part.size for part in same)), f"{len(same)} of {len(layer.parts)} layers"))
    print(f"{layer.role}, layer by layer:")
    print("\n".join(_rows(rows)))
