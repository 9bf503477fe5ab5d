"""Which runtime and checkpoint images are stale. Pure.

What is not known is kept: an image that may use any checkpoint keeps all of them, and one without a date is not old.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ..oci import Digest

__all__ = ["GUARD", "KINDS", "Live", "Policy", "Stored", "Verdict", "freed", "judge", "kind_of"]

KINDS = ("runtime", "checkpoint")
GUARD = timedelta(hours=1)  # a build that runs now may be about to use it, whatever the policy
_KEY = frozenset("0123456789abcdef")
_KEY_LENGTH = 40  # hex digits: Inputs.runtime_key, checkpoint_key


def kind_of(tag: str) -> str:
    """``runtime`` or ``checkpoint`` for a tag that layerkit makes of a key, "" for every other: those are not ours."""
    kind, _, key = tag.partition("-")
    return kind if kind in KINDS and len(key) == _KEY_LENGTH and set(key) <= _KEY else ""


@dataclass(frozen=True, slots=True)
class Stored:
    """A runtime or checkpoint image.

    Attributes:
        repository: ``host/repository``.
        tag: as in ``runtime-<key>``.
        digest: of the manifest or index that it names.
        created: when it was built, or put there; None where it does not say so.
        manifests: of it and everything below it.
        blobs: digest -> size in bytes.
    """

    repository: str
    tag: str
    digest: Digest
    created: datetime | None
    manifests: frozenset[Digest]
    blobs: Mapping[Digest, int]

    @property
    def kind(self) -> str:
        return kind_of(self.tag)

    @property
    def name(self) -> str:
        return f"{self.repository}:{self.tag}"


@dataclass(frozen=True, slots=True)
class Live:
    """What any other tag names.

    Attributes:
        name: ``host/repository:tag``.
        uses: tags of runtime and checkpoint images that it was made of, or mounts, in whichever repository.
        may_use: kinds of which it may use any image: it does not say which.
        why, detail: it may, in words that go on after its name; and what there is more to say of that.
        unreadable: it could not be read; its digest is None where not even that is known.
        manifests, blobs: as with Stored.
    """

    name: str
    digest: Digest | None
    uses: frozenset[str] = frozenset()
    may_use: frozenset[str] = frozenset()
    why: str = ""
    detail: str = ""
    unreadable: bool = False
    manifests: frozenset[Digest] = frozenset()
    blobs: Mapping[Digest, int] = field(default_factory=dict)

    @property
    def tag(self) -> str:
        return self.name.rpartition(":")[2]


@dataclass(frozen=True, slots=True)
class Policy:
    """What is stale of what nothing uses.

    Attributes:
        keep: that many of each kind stay in each repository, the newest.
        days: younger ones stay: a rollback is quick with them.
        undated: those without a date are stale too; they count as the oldest.
    """

    keep: int = 0
    days: float = 7.0
    undated: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an image is stale, and why."""

    stored: Stored
    stale: bool
    reason: str


def judge(stored: Sequence[Stored], live: Sequence[Live], policy: Policy, now: datetime) -> tuple[Verdict, ...]:
    """A verdict for each of *stored*: by repository, runtime images before checkpoint images, the newest first."""
    users: dict[str, list[str]] = {}
    holders: dict[Digest, list[str]] = {}
    for user in live:
        for tag in user.uses:
            users.setdefault(tag, []).append(user.tag)
        for digest in user.manifests:
            holders.setdefault(digest, []).append(user.tag)
    verdicts: list[Verdict] = []
    for repository in sorted({image.repository for image in stored}):
        for kind in KINDS:
            unclear = next((user for user in live if kind in user.may_use), None)
            spared = 0  # of --keep
            for image in _newest_first(i for i in stored if i.repository == repository and i.kind == kind):
                if found := users.get(image.tag):
                    reason = f"used by {_some(found)}"
                elif found := holders.get(image.digest):
                    reason = f"the same as {_some(found)}"
                elif unclear is not None:
                    reason = f"{unclear.tag} {unclear.why}"
                elif spared < policy.keep:
                    spared += 1
                    reason = f"among the newest that nothing uses (--keep {policy.keep})"
                elif image.created is None:
                    reason = "" if policy.undated else "does not say when it was made (--undated)"
                else:
                    reason = _too_young(now - image.created, policy)
                verdicts.append(Verdict(image, not reason, reason or "nothing uses it"))
    return tuple(verdicts)


def _newest_first(images: Iterable[Stored]) -> list[Stored]:
    """Those without a date last: they are from before there were dates."""
    return sorted(images, key=lambda i: (i.created is None, -i.created.timestamp() if i.created else 0.0, i.tag))


def _too_young(age: timedelta, policy: Policy) -> str:
    if policy.days and age < timedelta(days=policy.days):
        return f"younger than {policy.days:g} day{'s'[: policy.days != 1]}"
    return f"younger than {GUARD.total_seconds() / 60:g} minutes: a build may be at it" if age < GUARD else ""


def _some(names: Sequence[str]) -> str:
    first = sorted(set(names))
    return ", ".join(first[:3]) + (f" and {len(first) - 3} more" if len(first) > 3 else "")


def freed(verdicts: Sequence[Verdict], live: Sequence[Live]) -> int:
    """Bytes of blobs that only stale images name: at most that much goes when the registry collects its garbage."""
    kept: set[Digest] = set()
    for image in live:
        kept |= image.blobs.keys()
    for verdict in verdicts:
        if not verdict.stale:
            kept |= verdict.stored.blobs.keys()
    stale: dict[Digest, int] = {}
    for verdict in verdicts:
        if verdict.stale:
            stale |= verdict.stored.blobs
    return sum(size for digest, size in stale.items() if digest not in kept)
