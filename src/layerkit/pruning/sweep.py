"""Stale images deleted: their tags, or their manifests, never a blob.

A registry goes on while it is cleaned. So a deletion relies on a look that is a few seconds old, and on one at the tag
right before. In the end there is one more look: what an image began to use meanwhile is put back, which its blobs
allow, for they are there until the registry collects its garbage.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from ..errors import RefusedError
from ..oci import Digest
from ..registry import Repository
from .judge import Policy, Stored, judge
from .survey import Found, Survey

__all__ = ["FRESH", "Outcome", "sweep"]

FRESH = 5.0  # seconds that a look is good for; where looking takes long, twice as long as it took


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a stale image. ``done``: "deleted", "kept" after all, "gone" before we came, or put "back"."""

    stored: Stored
    done: Literal["deleted", "kept", "gone", "back"]
    reason: str = ""


def sweep(
    survey: Survey,
    found: Found,
    policy: Policy,
    now: datetime,
    *,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Outcome]:
    """Delete what is stale, an outcome each as it is done; then one more for each that had to be put back.

    A tag is deleted alone where the registry can do that (distribution-spec, "Deleting tags"). Where it cannot,
    its manifest is deleted, which takes every tag of it away: only if nothing that stays names it.

    Args:
        found: the look that was shown, taken just now.

    Raises:
        RefusedError: the registry does not allow deleting.
        LayerkitError: as the registry's answers have it; what was told before is done.
    """
    run = _Sweep(survey, found, policy, now, clock)
    stale = [verdict.stored for verdict in judge(found.stored, found.live, policy, now) if verdict.stale]
    deleted: list[Stored] = []
    for stored in stale:
        outcome = run.delete(stored)
        if outcome.done == "deleted":
            deleted.append(stored)
        yield outcome
    if deleted:
        yield from run.put_back(deleted)


class _Sweep:
    def __init__(self, survey: Survey, found: Found, policy: Policy, now: datetime, clock: Callable[[], float]) -> None:
        self._survey = survey
        self._policy = policy
        self._now = now
        self._clock = clock
        self._by_digest: set[str] = set()  # repositories where no tag can be deleted alone
        self._emptied: set[tuple[str, Digest]] = set()  # manifests that are deleted
        self._good_for = FRESH
        self._take(found)

    def _look(self) -> Found:
        begun = self._clock()
        found = self._survey.look()
        self._good_for = max(FRESH, 2 * (self._clock() - begun))
        self._take(found)
        return found

    def _take(self, found: Found) -> None:
        verdicts = judge(found.stored, found.live, self._policy, self._now)
        self._looked = self._clock()
        self._kept = {verdict.stored.name: verdict for verdict in verdicts if not verdict.stale}
        self._needed = {
            (kept.stored.repository, digest): kept.stored.tag
            for kept in self._kept.values()
            for digest in kept.stored.manifests
        }
        self._live = {digest for image in found.live for digest in image.manifests}
        self._holders = Counter((image.repository, digest) for image in found.stored for digest in image.manifests)

    def delete(self, stored: Stored) -> Outcome:
        if self._clock() - self._looked > self._good_for:
            self._look()
        if (outcome := self._no_longer(stored)) is not None:
            return outcome
        repository = self._survey.repositories[stored.repository]
        if stored.repository not in self._by_digest:
            if repository.delete_tag(stored.tag) and repository.resolve(stored.tag) is None:
                return Outcome(stored, "deleted")
            self._by_digest.add(stored.repository)
        return self._delete_manifest(stored, repository)

    def _no_longer(self, stored: Stored) -> Outcome | None:
        """None where it is stale as it was; else what is to be told instead of deleting it."""
        descriptor = self._survey.repositories[stored.repository].resolve(stored.tag)
        if descriptor is None:
            if (stored.repository, stored.digest) in self._emptied:
                self._delete_below(stored, self._survey.repositories[stored.repository])
                return Outcome(stored, "deleted", "with its manifest")
            return Outcome(stored, "gone", "somebody else deleted it")
        if descriptor.digest != stored.digest:
            return Outcome(stored, "kept", "it was pushed again meanwhile")
        if (kept := self._kept.get(stored.name)) is not None:
            return Outcome(stored, "kept", f"by now {kept.reason}")
        return None

    def _delete_manifest(self, stored: Stored, repository: Repository) -> Outcome:
        # What a live tag names, or has in its index, is no stale image: judge has seen to that.
        if other := self._needed.get((stored.repository, stored.digest)):
            return Outcome(stored, "kept", f"the registry deletes no tag alone, and {other} needs its manifest")
        repository.delete_manifest(stored.digest)
        if repository.resolve(stored.tag) is not None:
            raise RefusedError(
                f"prune: {stored.name} is still there after it was deleted",
                hint="some registries take a while; some do not allow it, and have clean-up rules of their own",
            )
        self._emptied.add((stored.repository, stored.digest))
        self._delete_below(stored, repository)
        return Outcome(stored, "deleted")

    def _delete_below(self, stored: Stored, repository: Repository) -> None:
        """Of an index that is deleted, what is below it: without a tag it would keep its layers all the same.

        For garbage is what no manifest names; the other way, ``garbage-collect --delete-untagged``, takes indexes
        that are tagged apart in distribution 2.8 (distribution/distribution#3178).
        """
        for digest in stored.manifests:
            self._holders[stored.repository, digest] -= 1
            if digest not in self._live and not self._holders[stored.repository, digest] and digest != stored.digest:
                repository.delete_manifest(digest)

    def put_back(self, deleted: Sequence[Stored]) -> Iterator[Outcome]:
        found = self._look()
        there = {stored.name for stored in found.stored}
        for verdict in judge(deleted, found.live, Policy(days=0, undated=True), self._now):
            manifests = self._survey.manifests(verdict.stored)
            if verdict.stale or verdict.stored.name in there or not manifests:
                continue
            repository = self._survey.repositories[verdict.stored.repository]
            for manifest in reversed(manifests[1:]):
                repository.put_manifest(manifest)
            repository.put_manifest(manifests[0], verdict.stored.tag)
            yield Outcome(verdict.stored, "back", f"by now {verdict.reason}")
