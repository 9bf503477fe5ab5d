"""Stale images deleted: manifests by their tags, never a blob.

A registry goes on while it is cleaned. So nothing is deleted by what was seen long ago: the look that a deletion
relies on is at most FRESH seconds old, and the tag itself is read again right before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ..errors import LayerkitError
from ..oci import Digest
from .judge import Policy, Verdict, judge
from .survey import Found, Survey

__all__ = ["FRESH", "Outcome", "sweep"]

FRESH = 5.0  # seconds


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a stale image's tag."""

    tag: str
    done: Literal["deleted", "kept", "gone"]
    reason: str = ""


def sweep(
    survey: Survey,
    found: Found,
    policy: Policy,
    now: datetime,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome]:
    """Delete what is stale, an outcome each as it is done.

    A tag is deleted alone where the registry can do that (distribution-spec, "Deleting tags"). Where it cannot,
    its manifest is deleted, which takes every tag of it away: only if nothing that stays names it.

    Args:
        found: the look that was shown, taken just now.

    Raises:
        RefusedError: the registry does not allow deleting.
        LayerkitError: as the registry's answers have it; what was told before is done.
    """
    looked = clock()
    by_tag = True
    emptied: set[Digest] = set()
    for first in [verdict for verdict in judge(found.stored, found.live, policy, now) if verdict.stale]:
        tag = first.stored.tag
        if clock() - looked > FRESH:
            found, looked = survey.look(), clock()
        outcome = _still_stale(survey, found, policy, now, first)
        if outcome is None and by_tag:
            by_tag = _delete_tag(survey, tag)
            outcome = Outcome(tag, "deleted") if by_tag else None
        if outcome is None:
            found, looked = survey.look(), clock()
            outcome = _still_stale(survey, found, policy, now, first) or _delete_manifest(
                survey, found, policy, now, first
            )
            if outcome.done == "deleted":
                emptied.add(first.stored.digest)
        if outcome.done == "gone" and first.stored.digest in emptied:
            outcome = Outcome(tag, "deleted", "with its manifest")
        yield outcome


def _still_stale(survey: Survey, found: Found, policy: Policy, now: datetime, first: Verdict) -> Outcome | None:
    """None where it is as it was; else what is to be told instead of deleting it."""
    stored = first.stored
    descriptor = survey.cache.resolve(stored.tag)
    if descriptor is None:
        return Outcome(stored.tag, "gone", "somebody else deleted it")
    if descriptor.digest != stored.digest:
        return Outcome(stored.tag, "kept", "it was pushed again meanwhile")
    for verdict in judge(found.stored, found.live, policy, now):
        if verdict.stored.tag == stored.tag and not verdict.stale:
            return Outcome(stored.tag, "kept", f"{verdict.reason}, by now")
    return None


def _delete_tag(survey: Survey, tag: str) -> bool:
    return survey.cache.delete_tag(tag) and survey.cache.resolve(tag) is None


def _delete_manifest(survey: Survey, found: Found, policy: Policy, now: datetime, first: Verdict) -> Outcome:
    stored = first.stored
    for image in found.live:
        if stored.digest in image.manifests:
            return Outcome(
                stored.tag, "kept", f"the registry deletes no tag alone, and {image.name} needs its manifest"
            )
    for verdict in judge(found.stored, found.live, policy, now):
        other = verdict.stored
        if not verdict.stale and stored.digest in other.manifests:
            return Outcome(stored.tag, "kept", f"the registry deletes no tag alone, and {other.tag} needs its manifest")
    survey.cache.delete_manifest(stored.digest)
    if survey.cache.resolve(stored.tag) is not None:
        raise LayerkitError(f"prune: {survey.cache.name} says that {stored.tag} was deleted, and it is still there")
    return Outcome(stored.tag, "deleted")
