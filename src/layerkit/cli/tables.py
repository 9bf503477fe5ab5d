"""Plans and results as text. Digests are never cut by a terminal's width."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from typing import TextIO

from ..errors import printable
from ..forecast import agree, outcomes
from ..planner import Estimate, LayerPlan, Plan
from ..results import Result
from .text import duration, size

__all__ = ["print_outcomes", "print_plan", "print_result"]


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


_MARKS = {"reused": " ", "mounted": " ", "built": "~", "packed": "~"}


def print_plan(plan: Plan, stream: TextIO | None = None) -> None:
    """What would be done and why, on standard output or *stream*: two lines a role, then what it comes to."""
    lines = [f"{plan.destination}  tags: {', '.join(plan.tags)}"]
    for layer in plan.layers:
        lines += _planned(layer)
    lines += _sums(plan)
    print("\n".join(lines), file=stream or sys.stdout)


def _planned(layer: LayerPlan) -> list[str]:
    work = []
    if layer.bytes_to_builder:
        work.append(f"{size(layer.bytes_to_builder)} to the builder")
    if layer.bytes_to_upload:
        work.append(f"{size(layer.bytes_to_upload)} to upload")
    elif layer.bytes_to_upload is None:
        work.append("upload known once it is built")
    at_most = "at most " if work and not layer.known and layer.bytes_to_upload is not None else ""
    first = f"{_MARKS[layer.action]} {layer.role:<13} {layer.action:<8} {at_most}{', '.join(work)}".rstrip()
    return [first, *_wrapped(layer.reason, " " * 16)]


def _wrapped(text: str, indent: str) -> list[str]:
    """*text* in lines of at most 80 columns; a word that is longer, as a digest is, stays whole."""
    return textwrap.wrap(
        printable(text),
        80,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _sums(plan: Plan) -> list[str]:
    if not plan.changes:
        return [f"nothing to do: {', '.join(plan.tags)} is {plan.digest}"]
    sent = sum(layer.bytes_to_builder or 0 for layer in plan.layers if plan.platforms_to_build)
    upload = sum(layer.bytes_to_upload or 0 for layer in plan.layers)
    known = all(layer.bytes_to_upload is not None for layer in plan.layers)
    line = f"BuildKit runs, at most {size(sent)} to it" if plan.platforms_to_build else "BuildKit does not run"
    line += f"; at most {size(upload)} to upload{'' if known else ' + what it builds'}"
    lines = [line]
    if plan.tags_to_move:
        lines.append(f"tags that move: {', '.join(plan.tags_to_move)}")
    lines.append(_estimated(plan))
    if plan.digest is not None:
        lines.append(f"the image will be {plan.digest}")
    return lines


def _estimated(plan: Plan) -> str:
    found = plan.estimate
    if found is None:
        return "no earlier build here tells how long it takes"
    parts = [f"{name} {duration(seconds, whole=True)}" for name, seconds in _parts(found) if seconds]
    unknown = f", without {' and '.join(found.unknown)}: not measured yet" if found.unknown else ""
    return f"about {duration(max(found.total, 1), whole=True)}{_bracketed(parts)}{unknown}"


def _bracketed(parts: Sequence[str]) -> str:
    return f" ({', '.join(parts)})" if parts else ""


def _parts(found: Estimate) -> tuple[tuple[str, float], ...]:
    return ("BuildKit", found.builder), ("checkpoint", found.checkpoint)


def print_outcomes(plan: Plan, result: Result) -> None:
    """What was planned beside what happened, on standard error."""
    rows = [("", "layer", "planned", "happened", "planned upload", "new bytes")]
    found = outcomes(plan, result)
    for outcome in found:
        most = "" if outcome.known else "≤ "
        rows.append(
            (
                "ok" if outcome.agrees else "!!",
                outcome.role,
                outcome.planned,
                outcome.happened,
                f"{most}{size(outcome.bytes_planned)}" if outcome.bytes_planned is not None else "?",
                size(outcome.bytes_new),
            )
        )
    lines = ["", *_rows(rows)]
    if plan.way != result.way:
        lines.append(f"planned to {plan.way}, and was built by {result.way}: {printable(result.why)}")
    if bool(plan.platforms_to_build) != result.builder_ran:
        lines.append(f"BuildKit {'ran' if result.builder_ran else 'did not run'}, other than planned")
    total = duration(result.seconds["total"])
    expected = f", about {duration(max(plan.estimate.total, 1), whole=True)} expected" if plan.estimate else ""
    verdict = "as planned" if agree(plan, result) else "not as planned: see the lines with !!"
    lines.append(f"{verdict} · {total}{expected}")
    print("\n".join(lines), file=sys.stderr)
