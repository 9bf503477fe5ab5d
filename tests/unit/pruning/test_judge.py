"""Which runtime and checkpoint images are stale."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerkit.oci import Digest
from layerkit.pruning import Live, Policy, Stored, freed, judge
from layerkit.pruning.judge import kind_of

NOW = datetime(2026, 11, 23, tzinfo=UTC)
EVERYTHING = Policy(0, 0, undated=True)


def key(number: int) -> str:
    return f"{number:040x}"


def digest(number: int) -> Digest:
    return Digest.of(str(number).encode())


def stored(kind: str, number: int, age: float | None = None, blobs: dict[Digest, int] | None = None) -> Stored:
    created = NOW - timedelta(days=age) if age is not None else None
    found = digest(number)
    return Stored(f"{kind}-{key(number)}", found, created, frozenset({found}), blobs or {})


def live(name: str, uses: set[str], *, unclear: bool = False, blobs: dict[Digest, int] | None = None) -> Live:
    return Live(
        f"registry.example/team/model:{name}", digest(hash(name)), frozenset(uses), unclear, frozenset(), blobs or {}
    )


def verdicts(images: list[Stored], users: list[Live], policy: Policy = EVERYTHING) -> dict[str, tuple[bool, str]]:
    return {verdict.stored.tag: (verdict.stale, verdict.reason) for verdict in judge(images, users, policy, NOW)}


@pytest.mark.parametrize(
    ("tag", "kind"),
    [
        (f"runtime-{key(10)}", "runtime"),
        (f"checkpoint-{key(10)}", "checkpoint"),
        (f"runtime-{key(10)}0", ""),
        ("runtime-v1", ""),
        ("checkpoint-2026", ""),
        (f"RUNTIME-{key(10)}", ""),
        (f"runtime-{key(10)[:-1]}G", ""),
        ("buildcache", ""),
        ("latest", ""),
        ("", ""),
    ],
)
def test_whose_tags(tag: str, kind: str) -> None:
    """Tags that somebody else may have made are nobody's to prune, however alike."""
    assert kind_of(tag) == kind


def test_used() -> None:
    """What a tagged image was made of stays, and its reason names the image."""
    images = [stored("runtime", 1, 900), stored("runtime", 2, 900), stored("checkpoint", 3), stored("checkpoint", 4)]
    found = verdicts(images, [live("v1", {images[0].tag, images[2].tag})])
    assert found[images[0].tag] == (False, "used by v1") and found[images[2].tag] == (False, "used by v1")
    assert found[images[1].tag] == found[images[3].tag] == (True, "nothing uses it")


def test_many_users() -> None:
    """A reason stays a line, however many images use a runtime."""
    image = stored("runtime", 1)
    found = verdicts([image], [live(f"v{number}", {image.tag}) for number in range(9)])
    assert found[image.tag] == (False, "used by v0, v1, v2 and 6 more")


def test_unclear() -> None:
    """An image that mounts a checkpoint and does not say which keeps all of them, and no runtime."""
    images = [stored("runtime", 1, 900), stored("checkpoint", 3)]
    found = verdicts(images, [live("v1", set(), unclear=True)])
    assert found[images[0].tag][0] is True
    assert found[images[1].tag] == (False, "registry.example/team/model:v1 mounts a checkpoint and does not say which")


def test_policies() -> None:
    """Younger ones, the newest ones and those without a date stay as the policy says."""
    images = [stored("runtime", number, age) for number, age in enumerate((0.5, 3.0, 8.0, 30.0))]
    images.append(stored("checkpoint", 9))

    def stale(policy: Policy) -> list[int]:
        return [
            index for index, image in enumerate(images) if verdicts(images, [live("v1", set())], policy)[image.tag][0]
        ]

    assert stale(Policy()) == [2, 3]
    assert stale(Policy(days=1)) == [1, 2, 3]
    assert stale(Policy(keep=3, days=0)) == [3]
    assert stale(Policy(keep=1, days=5)) == [2, 3]
    assert stale(Policy(days=0)) == [0, 1, 2, 3]
    assert stale(Policy(days=7, undated=True)) == [2, 3, 4]


def test_freed() -> None:
    """Bytes count once, and only where nothing that stays has the blob."""
    shared, own, base = digest(100), digest(101), digest(102)
    images = [
        stored("runtime", 1, 900, {shared: 10, own: 5, base: 1000}),
        stored("runtime", 2, 900, {shared: 10}),
        stored("runtime", 3, 0.1, {digest(103): 7}),
    ]
    users = [live("v1", set(), blobs={base: 1000})]
    assert freed(judge(images, users, Policy(), NOW), users) == 15


TAGS = st.sets(st.integers(0, 9), max_size=6)


@given(
    runtimes=st.dictionaries(st.integers(0, 9), st.none() | st.floats(0, 1000), max_size=8),
    checkpoints=st.dictionaries(st.integers(0, 9), st.none() | st.floats(0, 1000), max_size=8),
    users=st.lists(st.tuples(TAGS, TAGS, st.booleans()), max_size=4),
    keep=st.integers(0, 4),
    days=st.floats(0, 400),
    undated=st.booleans(),
)
def test_nothing_in_use_is_stale(
    runtimes: dict[int, float | None],
    checkpoints: dict[int, float | None],
    users: list[tuple[set[int], set[int], bool]],
    keep: int,
    days: float,
    undated: bool,
) -> None:
    """Whatever there is and whatever the policy: what an image uses, may use, or a policy keeps, is never stale."""
    images = [stored("runtime", number, age) for number, age in runtimes.items()]
    images += [stored("checkpoint", number, age) for number, age in checkpoints.items()]
    tagged = [
        live(f"v{index}", {f"runtime-{key(n)}" for n in of} | {f"checkpoint-{key(n)}" for n in over}, unclear=unclear)
        for index, (of, over, unclear) in enumerate(users)
    ]
    found = judge(images, tagged, Policy(keep, days, undated), NOW)
    assert sorted(verdict.stored.tag for verdict in found) == sorted(image.tag for image in images)
    used = frozenset().union(*(image.uses for image in tagged))
    for verdict in found:
        if verdict.stale:
            assert verdict.stored.tag not in used
            assert not (verdict.stored.kind == "checkpoint" and any(image.any_checkpoint for image in tagged))
            created = verdict.stored.created
            assert (undated and created is None) or (created is not None and NOW - created >= timedelta(days=days))
    for kind in ("runtime", "checkpoint"):
        free = [v for v in found if v.stored.kind == kind and v.stored.tag not in used and v.stored.created is not None]
        assert sum(not verdict.stale for verdict in free) >= min(keep, len(free))
