"""``layerkit lint``: what an expert would say of a Dockerfile."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .._version import __version__
from ..errors import ConfigurationError, printable
from .app import json_errors
from .completion import rules

if TYPE_CHECKING:
    from ..lint import Finding, Fixed

__all__ = ["lint"]


@click.command()
@click.argument("dockerfiles", nargs=-1, metavar="[DOCKERFILE]...")
@click.option("--context", metavar="DIR", help="Build context (default: the folder of the Dockerfile; . for -).")
@click.option("--image", default="", metavar="NAME", help="Name to be pushed to: its registry's limits count.")
@click.option("--target", default="", metavar="STAGE", help="Stage that is built (default: the last one).")
@click.option(
    "--ignore",
    "ignored",
    multiple=True,
    metavar="RULE[,RULE]",
    help="Rules to leave out; repeatable.",
    shell_complete=rules,
)
@click.option("--fix", "rewrite", is_flag=True, help="Write the better Dockerfile; no copy of the old one is kept.")
@click.option("--diff", "show", is_flag=True, help="Show what --fix would write, write nothing.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "sarif", "github"]),
    default="text",
    show_default=True,
    help="github: annotations of a workflow.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one object, as --format json.")
@click.option("--rules", "list_rules", is_flag=True, help="List the rules, and lint nothing.")
def lint(
    dockerfiles: tuple[str, ...],
    context: str | None,
    image: str,
    target: str,
    ignored: tuple[str, ...],
    rewrite: bool,
    show: bool,
    form: str,
    as_json: bool,
    list_rules: bool,
) -> None:
    """Say what costs bytes, time or secrets in a Dockerfile of a PyTorch service, and how it is written better.

    DOCKERFILE is a file, a folder that has one, or - for standard input; default: the one in this folder.
    Exits with 0 when nothing above info is found, 1 otherwise, 2 when a file is not there.

    A line "# layerkit: ignore=RULE[,RULE]" in front of an instruction leaves it alone.

    --fix rewrites only what provably builds the same files (caches of package managers apart), and says what it
    leaves and why. The file is replaced as a whole; look at --diff first.
    """
    from ..lint import RULES, Severity, fix, gather, worst
    from ..lint import lint as examine

    if list_rules:
        for rule in RULES:
            print(f"{rule.name:31}{rule.severity.value:9}{rule.summary}")
        return
    if as_json and form not in ("text", "json"):
        raise click.UsageError("--json and --format exclude each other")
    names = {name.strip() for text in ignored for name in text.split(",") if name.strip()}
    unknown = names - {rule.name for rule in RULES}
    if unknown:
        raise click.UsageError(f"--ignore: no rule {min(unknown)!r} (layerkit lint --rules lists them)")
    if rewrite and show:
        raise click.UsageError("--fix and --diff exclude each other")
    if show and (as_json or form != "text"):
        raise click.UsageError("--diff prints a diff, and no other format")
    form = "json" if as_json else form
    findings: list[Finding] = []
    diffs = []
    with json_errors(form == "json"):
        for given in dockerfiles or (".",):
            if given == "-" and rewrite:
                raise click.UsageError("--fix writes a file: with - use --diff")
            path, name, text = _read(given)
            folder = Path(context) if context is not None else path.parent if path is not None else Path()
            facts = gather(path, folder, image=image)
            if rewrite or show:
                fixed = fix(text, facts, file=name, target=target, ignore=names)
                findings += fixed.left
                diffs.append(_rewritten(path, name, text, fixed, write=rewrite))
            else:
                findings += examine(text, facts, file=name, target=target, ignore=names)
        if show:
            _write("".join(diffs))
        else:
            _report(findings, form)
        if worst(tuple(findings)) in (Severity.ERROR, Severity.WARNING):
            raise click.exceptions.Exit(1)


def _read(given: str) -> tuple[Path | None, str, str]:
    """The Dockerfile that is meant (None: standard input), what it is called, its text."""
    from ..lint import find, read_text

    if given == "-":
        return None, "-", sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    path = find(Path(given))
    return path, os.path.normpath(path).replace(os.sep, "/"), read_text(path)


def _rewritten(path: Path | None, name: str, text: str, fixed: Fixed, *, write: bool) -> str:
    """What was, or would be, rewritten is said, and what is left and why; the diff."""
    from ..lint import diff, read_text, write_text

    if write and path is not None and fixed.text != text:
        if read_text(path) != text:
            raise ConfigurationError(f"{name}: changed while it was read; nothing was written")
        write_text(path, fixed.text)
    verb = "rewrote" if write else "would rewrite"
    said = [f"{verb} {item.file}: {item.rule}: {item.message}" for item in fixed.done]
    said += [f"left {item.file}:{item.line}: {item.rule}: {item.unsafe}" for item in fixed.left if item.unsafe]
    for line in said:
        print(printable(line), file=sys.stderr)
    if any(done.rule == "checkpoint-in-copy" for done in fixed.done):
        print("note: COPY --exclude needs Dockerfile syntax 1.19 (Docker 28.5, BuildKit 0.25)", file=sys.stderr)
    return "" if write else diff(text, fixed.text, name)


def _report(findings: Sequence[Finding], form: str) -> None:
    from ..lint import as_github, as_json, as_sarif, as_text, summary
    from ..settings import Actions

    if form == "text":
        _write(as_text(findings))
        print(summary(findings), file=sys.stderr)
        if Actions.from_environment():
            print(as_github(findings), end="", file=sys.stderr)
    elif form == "sarif":
        _write(as_sarif(findings, __version__))
    else:
        _write(as_json(findings) if form == "json" else as_github(findings))


def _write(text: str) -> None:
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode("utf-8"))
