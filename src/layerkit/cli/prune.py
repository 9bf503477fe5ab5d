"""``layerkit prune``: what in the registry nothing uses any more, listed, then deleted."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigurationError, printable
from .app import json_errors, load_project, project_options
from .text import size

if TYPE_CHECKING:
    from ..pruning import Found, Outcome, Policy, Survey, Verdict

__all__ = ["prune"]


@click.command()
@project_options
@click.option(
    "--older-than",
    "days",
    type=click.FloatRange(min=0),
    default=7.0,
    show_default=True,
    metavar="DAYS",
    help="Keep what is younger.",
)
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Of each kind, keep the N newest that nothing uses.",
)
@click.option("--undated", is_flag=True, help="Also those that do not say when they were made: all checkpoint images.")
@click.option(
    "--live",
    "others",
    multiple=True,
    metavar="REPO",
    help="A repository whose images use the cache; with cache.repository, --yes wants all of them. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Only list (the default).")
@click.option("--yes", is_flag=True, help="Delete what is listed.")
@click.option("--json", "as_json", is_flag=True, help="Print one object, with whole digests.")
def prune(
    folder: Path,
    file: Path | None,
    overrides: tuple[str, ...],
    days: float,
    keep: int,
    undated: bool,
    others: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """List, and with --yes delete, the runtime-KEY and checkpoint-KEY images that no tagged image uses.

    Images that are tagged otherwise are never touched, nor is the build cache; a later build of something old takes
    longer. Manifests are deleted; the registry frees their blobs when it collects its garbage.
    """
    from ..pruning import Policy, freed, judge, survey_of, sweep
    from ..settings import Settings

    if yes and dry_run:
        raise click.UsageError("--yes and --dry-run exclude each other")
    with json_errors(as_json):
        project = load_project(folder, file, overrides)
        if yes and project.cache.repository and not others:
            raise ConfigurationError(
                f"prune: {project.cache.repository} may serve images of other repositories, which are not known here",
                hint=f"name all of them: --live {project.image.name} --live …",
            )
        settings = Settings.from_environment()
        policy = Policy(keep, days, undated)
        now = datetime.now(UTC)
        with survey_of(project, others, settings) as survey:
            found = survey.look()
            verdicts = judge(found.stored, found.live, policy, now)
            if not as_json:
                if project.cache.repository and not others:
                    print("other repositories may use this cache: name them, --live REPO", file=sys.stderr)
                _show(survey, found, verdicts, freed(verdicts, found.live), yes)
            outcomes: list[Outcome] = []
            if yes:
                for outcome in sweep(survey, found, policy, now):
                    outcomes.append(outcome)
                    if not as_json:
                        print(" ".join(filter(None, (f"{outcome.done:<7}", outcome.tag, outcome.reason))))
            if as_json:
                document = _document(survey, found, verdicts, outcomes, policy, freed(verdicts, found.live), yes)
                print(json.dumps(document, indent=2))


def _show(survey: Survey, found: Found, verdicts: Sequence[Verdict], bytes_: int, yes: bool) -> None:
    stale = [verdict for verdict in verdicts if verdict.stale]
    for verdict in verdicts:
        print(f"{'stale' if verdict.stale else 'keep':<7} {verdict.stored.tag}  {_about(verdict)}")
    many = f"{len(stale)} of {len(verdicts)} runtime and checkpoint images"
    print(f"{printable(survey.cache.name)}: {many} are stale; {len(found.live)} other tags were read", file=sys.stderr)
    if stale:
        print(f"{size(bytes_)} are in them alone: free once the registry collects its garbage", file=sys.stderr)
        if not yes:
            print("nothing was deleted: --yes deletes", file=sys.stderr)


def _about(verdict: Verdict) -> str:
    created = verdict.stored.created
    return ", ".join(filter(None, (created.date().isoformat() if created else "", printable(verdict.reason, 200))))


def _document(
    survey: Survey,
    found: Found,
    verdicts: Sequence[Verdict],
    outcomes: Sequence[Outcome],
    policy: Policy,
    bytes_: int,
    yes: bool,
) -> dict[str, Any]:
    done = {outcome.tag: outcome for outcome in outcomes}

    def row(verdict: Verdict) -> dict[str, Any]:
        stored, outcome = verdict.stored, done.get(verdict.stored.tag)
        return {
            "tag": stored.tag,
            "kind": stored.kind,
            "digest": str(stored.digest),
            "created": stored.created.isoformat() if stored.created else None,
            "bytes": sum(stored.blobs.values()),
            "stale": verdict.stale,
            "reason": outcome.reason if outcome and outcome.reason else verdict.reason,
            "outcome": outcome.done if outcome else None,
        }

    return {
        "schema_version": 1,
        "repository": survey.cache.name,
        "policy": {"keep": policy.keep, "older_than_days": policy.days, "undated": policy.undated},
        "dry_run": not yes,
        "live": [{"name": image.name, "digest": str(image.digest), "uses": sorted(image.uses)} for image in found.live],
        "images": [row(verdict) for verdict in verdicts],
        "deleted": [outcome.tag for outcome in outcomes if outcome.done == "deleted"],
        "bytes_in_stale_alone": bytes_,
    }
