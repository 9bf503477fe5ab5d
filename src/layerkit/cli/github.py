"""What a run in GitHub Actions tells it: annotations of errors, outputs, the summary of the job.

All commands go to standard error: standard output carries the result.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, LayerkitError, printable
from ..workflow import annotation
from .text import duration, size

if TYPE_CHECKING:
    from ..planner import Plan
    from ..results import Result
    from ..settings import Actions

__all__ = ["annotate", "outputs", "plan_done", "result_done", "summary"]

_MAX_SUMMARY = 1024 * 1024  # bytes of one step's summary that GitHub takes


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def annotate(actions: Actions, error: LayerkitError) -> None:
    """An error as annotations: one for each problem, at its line where a file has it; one where it lists none."""
    problems = error.problems if isinstance(error, ConfigurationError) else ()
    hint = f"\n{error.hint}" if error.hint else ""
    for problem in problems:
        message = ": ".join(part for part in (problem.where, problem.message) if part)
        message += f" ({problem.hint})" if problem.hint else ""
        _say(
            annotation(
                "error",
                printable(message) + printable(hint),
                title="layerkit: configuration",
                file=_below_workspace(actions, problem.file) if problem.file else "",
                line=problem.line,
                column=problem.column,
            )
        )
    if not problems:
        kind = error.kind.removesuffix("Error").lower()
        _say(annotation("error", printable(error.message + hint), title=f"layerkit: {kind}"))


def _below_workspace(actions: Actions, file: str) -> str:
    """Annotations name files from the top of the repository, whatever folder a step works in."""
    path = os.path.abspath(file)  # noqa: PTH100 - links stay as they are written
    if actions.workspace is None:
        return file
    relative = os.path.relpath(path, actions.workspace)
    return file if relative.startswith("..") else relative


# ------------------------------------------------------------------------------------------------ outputs, summary


def outputs(actions: Actions, values: Mapping[str, str]) -> None:
    """Append *values* to the step's outputs; each between marks that nobody can guess, so that none ends early.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    text = ""
    for name, value in values.items():
        mark = f"layerkit-{secrets.token_hex(16)}"
        text += f"{name}<<{mark}\n{value}\n{mark}\n"
    _append(actions.output, text, "GITHUB_OUTPUT")


def summary(actions: Actions, markdown: str) -> None:
    """Append *markdown* to the job's summary.

    Raises:
        ConfigurationError: the file cannot be written.
    """
    raw = markdown.encode("utf-8", "backslashreplace")[: _MAX_SUMMARY // 2]
    _append(actions.summary, raw.decode("utf-8", "ignore"), "GITHUB_STEP_SUMMARY")


def _append(path: Path | None, text: str, name: str) -> None:
    if path is None:
        return
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as stream:
            stream.write(text)
    except OSError as error:
        raise ConfigurationError(f"{name}: {path}: cannot be written: {error.strerror}") from None


def result_done(actions: Actions, result: Result) -> None:
    """Outputs and summary of a build."""
    document = result.to_json()
    outputs(
        actions,
        {
            "reference": result.reference,
            "digest": str(result.digest),
            "tags": "\n".join(result.tags),
            "rebuilt": " ".join(result.rebuilt),
            "way": result.way,
            "builder-ran": _flag(result.builder_ran),
            "bytes-to-builder": str(result.bytes_sent),
            "bytes-uploaded": str(result.uploaded),
            "bytes-reused": str(result.reused),
            "json": json.dumps(document),
        },
    )
    rows = [
        (
            layer.role + (f" {layer.platform}" if layer.platform else ""),
            layer.action,
            size(layer.size),
            str(layer.digest),
        )
        for layer in result.layers
    ]
    ran = f"ran, {size(result.bytes_sent)} sent to it" if result.builder_ran else "did not run"
    lines = [
        f"### layerkit build: {_text(', '.join(result.tags))}",
        "",
        f"{_code(result.reference)}",
        "",
        *_table(("layer", "action", "size", "digest"), rows),
        "",
        f"Rebuilt: **{', '.join(result.rebuilt) or 'nothing'}** · BuildKit {ran} · checkpoint read"
        f" {size(result.checkpoint_read)} · uploaded {size(result.uploaded)} · reused {size(result.reused)}"
        f" · {duration(result.seconds['total'])}",
    ]
    lines += ["", f"Built by BuildKit as a whole: {_text(result.why)}"] if result.way != "compose" else []
    summary(actions, "\n".join(lines) + "\n\n")


def plan_done(actions: Actions, plan: Plan) -> None:
    """Outputs and summary of a plan."""
    outputs(
        actions,
        {
            "changes": _flag(plan.changes),
            "digest": str(plan.digest or ""),
            "tags": "\n".join(plan.tags),
            "json": json.dumps(plan.to_json()),
        },
    )
    rows = [
        (layer.role, layer.action, size(layer.bytes_to_builder), size(layer.bytes_to_upload), layer.reason)
        for layer in plan.layers
    ]
    lines = [
        f"### layerkit plan: {_text(', '.join(plan.tags))}",
        "",
        *_table(("layer", "action", "to builder", "to upload", "why"), rows),
        "",
        "BuildKit runs." if plan.platforms_to_build else "BuildKit does not run.",
    ]
    summary(actions, "\n".join(lines) + "\n\n")


def _flag(value: object) -> str:
    return "true" if value else "false"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    last = head.index("digest") if "digest" in head else -1
    return lines + [
        "| " + " | ".join(_code(cell) if at == last else _text(cell) for at, cell in enumerate(row)) + " |"
        for row in rows
    ]


def _code(text: str) -> str:
    return f"`{printable(text).replace('`', '')}`"


def _text(text: Any) -> str:
    """*text* that no Markdown or HTML is made of, on one line."""
    shown = printable(str(text)).replace("\n", " ")
    shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(f"\\{c}" if c in "\\`*_[]|~#" else c for c in shown)
