"""``layerkit lint``: what an expert would say of a Dockerfile."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from .._version import __version__
from ..errors import ConfigurationError, printable
from .app import json_errors
from .completion import rules

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
    from ..lint import RULES

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
    with json_errors(form == "json"):
        _run(dockerfiles or (".",), context, image, target, names, rewrite, show, form)


def _run(
    dockerfiles: Iterable[str],
    context: str | None,
    image: str,
    target: str,
    ignored: set[str],
    rewrite: bool,
    show: bool,
    form: str,
) -> None:
    from ..lint import (
        Finding,
        Severity,
        as_github,
        as_json,
        as_sarif,
        as_text,
        diff,
        find,
        fix,
        gather,
        lint,
        read_text,
        summary,
        worst,
        write_text,
    )
    from ..settings import Actions

    findings: list[Finding] = []
    out = []
    for given in dockerfiles:
        if given == "-":
            if rewrite:
                raise click.UsageError("--fix writes a file: with - use --diff")
            path, name = None, "-"
            text = sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
        else:
            path = find(Path(given))
            name = os.path.normpath(path).replace(os.sep, "/")
            text = read_text(path)
        folder = Path(context) if context is not None else path.parent if path is not None else Path()
        facts = gather(path, folder, image=image)
        if not (rewrite or show):
            findings += lint(text, facts, file=name, target=target, ignore=ignored)
            continue
        fixed = fix(text, facts, file=name, target=target, ignore=ignored)
        findings += fixed.left
        if show:
            out.append(diff(text, fixed.text, name))
        elif path is not None and fixed.text != text:
            if read_text(path) != text:
                raise ConfigurationError(f"{name}: changed while it was read; nothing was written")
            write_text(path, fixed.text)
        verb = "would rewrite" if show else "rewrote"
        for finding in fixed.done:
            print(printable(f"{verb} {finding.file}: {finding.rule}: {finding.message}"), file=sys.stderr)
        for finding in fixed.left:
            if finding.unsafe:
                print(
                    printable(f"left {finding.file}:{finding.line}: {finding.rule}: {finding.unsafe}"), file=sys.stderr
                )
        if any(done.rule == "checkpoint-in-copy" for done in fixed.done):
            print("note: COPY --exclude needs Dockerfile syntax 1.19 (Docker 28.5, BuildKit 0.25)", file=sys.stderr)
    if show:
        _write("".join(out))
    elif form == "json":
        _write(as_json(findings))
    elif form == "sarif":
        _write(as_sarif(findings, __version__))
    elif form == "github":
        _write(as_github(findings))
    else:
        _write(as_text(findings))
        print(summary(findings), file=sys.stderr)
        if Actions.from_environment():
            print(as_github(findings), end="", file=sys.stderr)
    level = worst(tuple(findings))
    if level in (Severity.ERROR, Severity.WARNING):
        raise click.exceptions.Exit(1)


def _write(text: str) -> None:
    sys.stdout.write(text.encode("utf-8", "backslashreplace").decode("utf-8"))
