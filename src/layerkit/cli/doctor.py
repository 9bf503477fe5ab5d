"""``layerkit doctor``: what could stand in a build's way."""

from __future__ import annotations

import json

import click

from ..errors import printable

__all__ = ["doctor"]

_MARKS = {"pass": ("ok  ", "green"), "warn": ("warn", "yellow"), "fail": ("FAIL", "red")}


@click.command()
@click.argument("repository", metavar="[REPO]", default="")
@click.option("--json", "as_json", is_flag=True, help="Print one object.")
def doctor(repository: str, as_json: bool) -> None:
    """Try what a build needs: docker, the builder, room, and what the registry of REPO lets us do.

    REPO is HOST/NAME; nothing is left behind there. Exits with the status of the first failure, else 0.
    """
    from ..doctor import examine, worst
    from ..settings import Settings

    findings = []
    for finding in examine(Settings.from_environment(), repository):
        findings.append(finding)
        if not as_json:
            mark, colour = _MARKS[finding.level]
            click.echo(f"{click.style(mark, fg=colour)}  {finding.name:<11} {printable(finding.said, 300)}")
            if finding.fix:
                click.echo(f"{'':18}→ {printable(finding.fix, 300)}")
    if as_json:
        document = {"schema_version": 1, "findings": [finding.to_json() for finding in findings]}
        click.echo(json.dumps(document, indent=2))
    if status := worst(findings):
        raise click.exceptions.Exit(status)
