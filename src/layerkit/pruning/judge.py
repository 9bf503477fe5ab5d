"""Which runtime and checkpoint images are stale. Pure.

What is not known is kept: an image that may use any checkpoint keeps all of them, and one without a date is not old.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from ..oci import Digest

__all__ = ["KINDS", "Live", "Policy", "Stored", "Verdict", "freed", "judge", "kind_of"]

KINDS = ("runtime", "checkpoint")
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
        tag: as in ``runtime-<key>``.
        digest: of the manifest or index that it names.
        created: when it was built; None where it does not say so.
        manifests: of it and everything below it.
        blobs: digest -> size in bytes.
    """

    tag: str
    digest: Digest
    created: datetime | None
    manifests: frozenset[Digest]
    blobs: Mapping[Digest, int]

    @property
    def kind(self) -> str:
        return kind_of(self.tag)


@dataclass(frozen=True, slots=True)
class Live:
    """What any other tag names.

    Attributes:
        name: ``host/repository:tag``.
        uses: tags of runtime and checkpoint images that it was made of, or mounts.
        any_checkpoint: it mounts one, and does not say which.
        manifests, blobs: as with Stored.
    """

    name: str
    digest: Digest
    uses: frozenset[str]
    any_checkpoint: bool
    manifests: frozenset[Digest]
    blobs: Mapping[Digest, int]


@dataclass(frozen=True, slots=True)
class Policy:
    """What is stale of what nothing uses.

    Attributes:
        keep: that many of each kind stay, the newest.
        days: younger ones stay: a build that runs now may be about to use them, and a rollback is quick with them.
        undated: those without a date are stale too. Checkpoint images have none: they are the same whenever built.
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
    """A verdict for each of *stored*: runtime images before checkpoint images, the newest first."""
    users: dict[str, list[str]] = {}
    for one in live:
        for tag in one.uses:
            users.setdefault(tag, []).append(one.name.rpartition(":")[2])
    unclear = [one.name for one in live if one.any_checkpoint]
    verdicts: list[Verdict] = []
    for kind in KINDS:
        ours = [image for image in stored if image.kind == kind]
        dated = sorted((i for i in ours if i.created), key=lambda i: (i.created or now, i.tag), reverse=True)
        unused = 0
        for image in (*dated, *sorted((i for i in ours if not i.created), key=lambda i: i.tag)):
            reason = ""
            if image.tag in users:
                reason = f"used by {_some(users[image.tag])}"
            elif kind == "checkpoint" and unclear:
                reason = f"{unclear[0]} mounts a checkpoint and does not say which"
            elif image.created is None:
                reason = "" if policy.undated else "has no date (--undated)"
            else:
                unused += 1
                if unused <= policy.keep:
                    reason = f"one of the {policy.keep} newest"
                elif now - image.created < timedelta(days=policy.days):
                    reason = f"younger than {policy.days:g} days"
            verdicts.append(Verdict(image, not reason, reason or "nothing uses it"))
    return tuple(verdicts)


def _some(names: Sequence[str]) -> str:
    first = sorted(names)[:3]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def freed(verdicts: Sequence[Verdict], live: Sequence[Live]) -> int:
    """Bytes of blobs that of all tagged images only stale ones name: free once the registry collects its garbage."""
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
