from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerkit.oci import Digest
from layerkit.pruning.judge import GUARD, KINDS, Live, Policy, Stored, freed, judge, kind_of

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
CACHE, OTHER = "ghcr.io/acme/resnet", "ghcr.io/acme/cache"
TAGS = [f"{kind}-{digit * 40}" for kind in KINDS for digit in "abcdef"]


def digest(text: object) -> Digest:
    return Digest.of(str(text).encode())


def stored(
    tag: str = TAGS[0], *, days: float | None = 30.0, repository: str = CACHE, name: str = "", size: int = 100
) -> Stored:
    """An image that is *days* old, with a blob of its own and one that all have."""
    made = None if days is None else NOW - timedelta(days=days)
    own = digest(name or f"{repository} {tag}")
    return Stored(repository, tag, own, made, frozenset({own}), {own: size, digest("base"): 5})


def live(tag: str = "v1", **facts: object) -> Live:
    return Live(f"{CACHE}:{tag}", digest(tag), **{"uses": frozenset(), **facts})  # type: ignore[arg-type]


def stale(images: list[Stored], users: list[Live], policy: Policy = Policy()) -> list[str]:  # noqa: B008
    return [verdict.stored.tag for verdict in judge(images, users, policy, NOW) if verdict.stale]


@pytest.mark.parametrize(
    ("tag", "kind"),
    [
        pytest.param("runtime-" + "0" * 40, "runtime", id="runtime"),
        pytest.param("checkpoint-" + "f" * 40, "checkpoint", id="checkpoint"),
        pytest.param("runtime-" + "0" * 39, "", id="too short"),
        pytest.param("runtime-" + "0" * 41, "", id="too long"),
        pytest.param("runtime-" + "G" * 40, "", id="no hex digits"),
        pytest.param("Runtime-" + "0" * 40, "", id="other case"),
        pytest.param("my-runtime-" + "0" * 40, "", id="something before"),
        pytest.param("runtime-v2", "", id="somebody's own"),
        pytest.param("buildcache", "", id="build cache"),
        pytest.param("latest", "", id="image"),
    ],
)
def test_kind(tag: str, kind: str) -> None:
    """Only tags that layerkit makes of a key are its own to judge."""
    assert kind_of(tag) == kind


def test_what_is_used_is_kept() -> None:
    """What an image was made of stays, and its verdict says by whom; what nothing uses is stale."""
    used, unused = stored(TAGS[0]), stored(TAGS[1])
    users = [live(f"v{number}", uses=frozenset({used.tag})) for number in range(5)]
    verdicts = {verdict.stored.tag: verdict for verdict in judge([used, unused], users, Policy(), NOW)}
    assert (verdicts[used.tag].stale, verdicts[used.tag].reason) == (False, "used by v0, v1, v2 and 2 more")
    assert (verdicts[unused.tag].stale, verdicts[unused.tag].reason) == (True, "nothing uses it")


def test_same_manifest() -> None:
    """An image that has another tag too, or is part of an index that has one, is kept."""
    image = stored()
    assert stale([image], [live("weights-prod", manifests=image.manifests)]) == []


def test_unclear_user() -> None:
    """An image that may use any checkpoint keeps all of them, and no runtime image."""
    images = [stored(tag) for tag in TAGS]
    unclear = live("old", may_use=frozenset({"checkpoint"}), why="does not say which")
    assert stale(images, [unclear]) == [tag for tag in TAGS if tag.startswith("runtime")]
    reasons = {verdict.reason for verdict in judge(images, [unclear], Policy(), NOW) if not verdict.stale}
    assert reasons == {"old does not say which"}


@pytest.mark.parametrize(
    ("days", "policy", "expected"),
    [
        pytest.param(6.9, Policy(), False, id="younger"),
        pytest.param(7.1, Policy(), True, id="older"),
        pytest.param(0.1, Policy(days=0), True, id="any age"),
        pytest.param(0.04, Policy(days=0), False, id="under an hour, whatever the policy"),
        pytest.param(-1.0, Policy(days=0), False, id="a clock that is ahead"),
        pytest.param(None, Policy(), False, id="no date"),
        pytest.param(None, Policy(undated=True), True, id="no date, asked for"),
        pytest.param(30.0, Policy(keep=1), False, id="one is to stay"),
        pytest.param(None, Policy(keep=1, undated=True), False, id="one is to stay, though it has no date"),
    ],
)
def test_policy(days: float | None, policy: Policy, expected: bool) -> None:
    """Age and number decide over what nothing uses."""
    assert bool(stale([stored(days=days)], [live()], policy)) is expected


def test_the_newest_are_kept() -> None:
    """--keep counts what nothing uses in a kind and repository, the newest first, those without a date last."""
    ages = dict(zip(TAGS[:4], (40.0, 20.0, None, 30.0), strict=True))
    images = [stored(tag, days=days, repository=place) for place in (CACHE, OTHER) for tag, days in ages.items()]
    images.append(stored(TAGS[6], days=90.0))
    used = live(uses=frozenset({TAGS[1]}))
    assert stale(images, [used], Policy(keep=1, undated=True)) == [TAGS[0], TAGS[2]] * 2
    assert stale(images, [used], Policy(keep=2, undated=True)) == [TAGS[2]] * 2
    assert stale(images, [used], Policy(keep=3, undated=True)) == []


def test_freed() -> None:
    """What the registry can free are blobs that only stale images have, each once."""
    images = [stored(TAGS[0]), stored(TAGS[1], size=30), stored(TAGS[2], days=1)]
    user = live(blobs={images[1].digest: 30})
    verdicts = judge(images, [user], Policy(), NOW)
    assert [verdict.stale for verdict in verdicts] == [False, True, True]
    assert freed(verdicts, [user]) == 100


# ------------------------------------------------------------------------------------------------------- anything


@st.composite
def populations(draw: st.DrawFn) -> tuple[list[Stored], list[Live], Policy]:
    """Images of two repositories, some of which share a manifest; users of some of them; a policy."""
    names = draw(st.lists(st.tuples(st.sampled_from([CACHE, OTHER]), st.sampled_from(TAGS)), unique=True))
    ages = st.none() | st.floats(-1, 60)
    images = [stored(tag, days=draw(ages), repository=place, name=str(draw(st.integers(0, 9)))) for place, tag in names]
    digests = st.sampled_from([image.digest for image in images] or [digest("none")])
    users = [
        live(
            f"v{number}",
            uses=frozenset(draw(st.sets(st.sampled_from(TAGS), max_size=4))),
            may_use=frozenset(draw(st.sampled_from([(), (), (), ("checkpoint",), KINDS]))),
            manifests=frozenset(draw(st.sets(digests, max_size=2))),
            blobs=dict.fromkeys(draw(st.sets(digests, max_size=2)), 100),
        )
        for number in range(draw(st.integers(0, 4)))
    ]
    policy = Policy(draw(st.integers(0, 3)), draw(st.sampled_from([0.0, 0.5, 7.0, 50.0])), draw(st.booleans()))
    return images, users, policy


@given(populations())
def test_nothing_that_is_used_is_stale(population: tuple[list[Stored], list[Live], Policy]) -> None:
    """Whatever there is and whatever the policy: what an image uses, may use or names is kept; so is what is young."""
    images, users, policy = population
    verdicts = judge(images, users, policy, NOW)
    assert sorted(v.stored.name for v in verdicts) == sorted(image.name for image in images)
    for verdict in verdicts:
        image = verdict.stored
        assert verdict.reason
        if verdict.stale:
            assert not any(image.tag in user.uses for user in users)
            assert not any(image.kind in user.may_use for user in users)
            assert not any(image.digest in user.manifests for user in users)
            assert policy.undated or image.created is not None
            if image.created is not None:
                assert NOW - image.created >= max(GUARD, timedelta(days=policy.days))


@given(populations())
def test_enough_is_kept(population: tuple[list[Stored], list[Live], Policy]) -> None:
    """Of each kind and repository at least as many stay as are to be kept."""
    images, users, policy = population
    verdicts = judge(images, users, policy, NOW)
    for place in (CACHE, OTHER):
        for kind in KINDS:
            ours = [v for v in verdicts if (v.stored.repository, v.stored.kind) == (place, kind)]
            assert sum(not v.stale for v in ours) >= min(policy.keep, len(ours))


@given(populations())
def test_freed_is_nobodys(population: tuple[list[Stored], list[Live], Policy]) -> None:
    """What is counted as free are the blobs that nothing that stays names, each once."""
    images, users, policy = population
    verdicts = judge(images, users, policy, NOW)
    gone = {d: size for v in verdicts if v.stale for d, size in v.stored.blobs.items()}
    needed = {d for v in verdicts if not v.stale for d in v.stored.blobs} | {d for user in users for d in user.blobs}
    assert freed(verdicts, users) == sum(size for d, size in gone.items() if d not in needed)
