"""``layerkit prune``: what in the registry nothing uses any more, listed, then deleted."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConfigurationError, IntegrityError, LayerkitError, printable
from .app import Terminated, error_document, json_errors, load_project, project_options
from .text import size, wrapped

if TYPE_CHECKING:
    from ..pruning import Found, Live, Outcome, Policy, Stored, Survey, Verdict

__all__ = ["prune"]

_WARNED = 5  # images that are spoken of by name


def _number(context: click.Context, option: click.Parameter, value: float) -> float:
    if value != value:  # click's ranges take NaN
        raise click.BadParameter("that is no number")
    return value


@click.command()
@click.argument("names", nargs=-1, metavar="[REPO]...")
@project_options
@click.option(
    "--older-than",
    "days",
    type=click.FloatRange(min=0, max=36500),
    callback=_number,
    default=7.0,
    show_default=True,
    metavar="DAYS",
    help="Keep what is younger. What is younger than an hour is kept in any case.",
)
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    metavar="N",
    help="Of each kind and repository, keep the N newest that nothing uses.",
)
@click.option("--undated", is_flag=True, help="Also those that do not say when they were made, as the oldest.")
@click.option(
    "--unrelated",
    multiple=True,
    metavar="TAG",
    help="A tag, or a pattern like nightly-*, whose images mount no checkpoint image. Repeatable.",
)
@click.option("--dry-run", is_flag=True, help="Only list (the default).")
@click.option("--yes", is_flag=True, help="Delete what is stale.")
@click.option("--json", "as_json", is_flag=True, help="Print one object, with whole digests.")
def prune(
    names: tuple[str, ...],
    folder: Path,
    file: Path | None,
    overrides: tuple[str, ...],
    days: float,
    keep: int,
    undated: bool,
    unrelated: tuple[str, ...],
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """List, and with --yes delete, the runtime-KEY and checkpoint-KEY images that no tagged image uses.

    REPO... are the repositories of all images that may use them, and those where they are kept; without any, those
    of the project: image.name and cache.repository.

    Images that are tagged otherwise are never touched, nor is the build cache. What was deleted is made again by the
    next build that needs it. Only tags, or manifests, are deleted: the registry frees their blobs when it collects
    its garbage, and none that a tagged image needs.
    """
    from ..pruning import Policy, freed, judge, named, of_project, opened
    from ..settings import Settings
    from .display import notes

    if yes and dry_run:
        raise click.UsageError("--yes and --dry-run exclude each other")
    policy, now = Policy(keep, days, undated), datetime.now(UTC)
    with json_errors(as_json):
        places = named(names) if names else of_project(load_project(folder, file, overrides), deleting=yes)
    with opened(places, Settings.from_environment(), unrelated=unrelated, listener=notes) as survey:
        with json_errors(as_json):
            found = survey.look()
            if names and found.empty:
                raise ConfigurationError(
                    f"prune: {', '.join(found.empty)}: there are no tags",
                    hint="is the name right? leave it out if it is",
                )
        verdicts = judge(found.stored, found.live, policy, now)
        bytes_ = freed(verdicts, found.live)
        rows = _Rows(as_json)
        for verdict in verdicts:
            if not (yes and verdict.stale):  # told of as it is deleted
                rows.tell(verdict.stored, "stale" if verdict.stale else "keep", "" if verdict.stale else verdict.reason)
        _warn(found)
        outcomes: list[Outcome] = []
        failed: LayerkitError | None = None
        if yes:
            failed = _delete(survey, found, policy, now, outcomes, rows)
            gone = {outcome.stored.name for outcome in outcomes if outcome.done == "deleted"}
            gone -= {outcome.stored.name for outcome in outcomes if outcome.done == "back"}
            bytes_ = freed([replace(verdict, stale=verdict.stored.name in gone) for verdict in verdicts], found.live)
        if as_json:
            document = _document(list(survey.repositories), found, verdicts, outcomes, policy, bytes_, yes)
            print(json.dumps(document | (error_document(failed) if failed else {}), indent=2))
        else:
            _sum_up(found, verdicts, outcomes, bytes_, yes)
        if failed is not None:
            raise failed


def _delete(
    survey: Survey, found: Found, policy: Policy, now: datetime, outcomes: list[Outcome], rows: _Rows
) -> LayerkitError | None:
    """Delete what is stale, each outcome told and added to *outcomes*; what went wrong."""
    from ..pruning import sweep

    if any(image.unreadable for image in found.live):
        return IntegrityError(
            "prune: nothing was deleted: there are tags that cannot be read, and nobody knows what they use",
            hint="push them again, delete them, or, where they use nothing of this, name them with --unrelated",
        )
    try:
        for outcome in sweep(survey, found, policy, now):
            outcomes.append(outcome)
            rows.tell(outcome.stored, outcome.done, outcome.reason)
    except LayerkitError as error:
        return error
    except (KeyboardInterrupt, Terminated) as stop:
        count = sum(outcome.done == "deleted" for outcome in outcomes)
        print(f"stopped: {_many(count, 'tag')} deleted, nothing else was touched", file=sys.stderr)
        raise click.exceptions.Exit(143 if isinstance(stop, Terminated) else 130) from None
    return None


class _Rows:
    """A row an image, under its repository's name."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._place = ""

    def tell(self, stored: Stored, what: str, reason: str) -> None:
        if self._quiet:
            return
        if stored.repository != self._place:
            self._place = stored.repository
            print(f"in {printable(self._place)}:")
        print(f"{what:<8}{stored.tag:<52}{stored.created.date().isoformat() if stored.created else '-'}", flush=True)
        if reason:
            lines = wrapped(printable(reason, 400), 8, sys.stdout)
            print("\n".join(" " * 8 + line for line in lines), flush=True)


def _warn(found: Found) -> None:
    unclear = [image for image in found.live if image.may_use]
    for image in unclear[:_WARNED]:
        kinds = "checkpoint images" if image.may_use == {"checkpoint"} else "runtime and checkpoint images"
        detail = f" ({image.detail})" if image.detail else ""
        text = f"warning: {image.name} {image.why}, so all {kinds} are kept{detail}"
        print("\n".join(wrapped(printable(text, 600), 0, sys.stderr)), file=sys.stderr)
    if len(unclear) > _WARNED:
        print(f"warning: … and {len(unclear) - _WARNED} more like these (--json has all)", file=sys.stderr)
    if unclear:
        print("hint: where they use none of them, say so: --unrelated TAG", file=sys.stderr)


def _sum_up(found: Found, verdicts: Sequence[Verdict], outcomes: Sequence[Outcome], bytes_: int, yes: bool) -> None:
    stale = sum(verdict.stale for verdict in verdicts)
    deleted = sum(outcome.done == "deleted" for outcome in outcomes) - sum(o.done == "back" for o in outcomes)
    many = f"{len(verdicts)} runtime and checkpoint images, {_many(len(found.live), 'other tag')} read"
    if yes:
        print(f"{deleted} deleted of {many}", file=sys.stderr)
    else:
        print(f"{stale} stale of {many}", file=sys.stderr)
    if deleted or (stale and not yes):
        print(f"the registry can free {size(bytes_)} at most, when it collects its garbage", file=sys.stderr)
    if stale and not yes:
        print("nothing was deleted: --yes deletes what is stale", file=sys.stderr)


def _many(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _document(
    repositories: Sequence[str],
    found: Found,
    verdicts: Sequence[Verdict],
    outcomes: Sequence[Outcome],
    policy: Policy,
    bytes_: int,
    yes: bool,
) -> dict[str, Any]:
    done = {outcome.stored.name: outcome for outcome in outcomes}

    def row(verdict: Verdict) -> dict[str, Any]:
        stored, outcome = verdict.stored, done.get(verdict.stored.name)
        return {
            "repository": stored.repository,
            "tag": stored.tag,
            "kind": stored.kind,
            "digest": str(stored.digest),
            "created": stored.created.isoformat() if stored.created else None,
            "bytes": sum(stored.blobs.values()),
            "stale": verdict.stale,
            "reason": outcome.reason if outcome and outcome.reason else verdict.reason,
            "outcome": outcome.done if outcome else None,
        }

    def user(image: Live) -> dict[str, Any]:
        return {
            "name": image.name,
            "digest": str(image.digest) if image.digest else None,
            "uses": sorted(image.uses),
            "may_use": sorted(image.may_use),
            "why": ": ".join(filter(None, (image.why, image.detail))),
        }

    return {
        "schema_version": 1,
        "repositories": list(repositories),
        "policy": {"keep": policy.keep, "older_than_days": policy.days, "undated": policy.undated},
        "dry_run": not yes,
        "live": [user(image) for image in found.live],
        "images": [row(verdict) for verdict in verdicts],
        "deleted": [name for name, outcome in done.items() if outcome.done == "deleted"],
        "bytes_at_most": bytes_,
    }
