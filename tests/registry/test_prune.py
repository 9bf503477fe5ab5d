"""layerkit prune against registries that delete tags, or manifests alone, or nothing at all."""

from __future__ import annotations

import base64
import json
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerkit.cli import main
from layerkit.errors import ConfigurationError, IntegrityError, RefusedError, TransientError
from layerkit.oci import MEDIA, Config, Descriptor, Digest, Image, Index, Manifest, Platform, Reference, dump
from layerkit.pruning import Found, Outcome, Policy, Survey, judge, sweep
from layerkit.registry import Client
from layerkit.testing import FakeRegistry, Request
from layerkit.units import size
from registry.support import Connect, pattern

NOW = datetime.now(UTC)
NAME = "team/model"
A, B, C = ("a" * 40, "b" * 40, "c" * 40)
Serve = Callable[..., FakeRegistry]


def date(days: float) -> str:
    return (NOW - timedelta(days=days)).isoformat()


def made(
    *layers: bytes, days: float | None = 30.0, labels: dict[str, str] | None = None, media_type: str = MEDIA.LAYER
) -> Image:
    """An image of *layers* that is *days* old."""
    document: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": {f"dev.layerkit.{name}": value for name, value in (labels or {}).items()}},
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer)) for layer in layers]},
    }
    config = Config.parse(dump(document | ({"created": date(days)} if days is not None else {})))
    descriptors = [Descriptor(media_type, Digest.of(layer), len(layer)) for layer in layers]
    return Image(Manifest.create(config.descriptor, descriptors), config)


@dataclass
class House:
    """A registry with what layerkit leaves there, and a look at it."""

    registry: FakeRegistry
    connect: Connect
    pushed: dict[tuple[str, str], Digest] = field(default_factory=dict)

    def put(self, tag: str, image: Image | Index | Manifest, *blobs: bytes, name: str = NAME) -> Digest:
        self.pushed[name, tag] = self.registry.push(name, tag, image, blobs)
        return self.pushed[name, tag]

    def store(self, tag: str, days: float | None = 30.0, *, name: str = NAME, seed: int = 0) -> Digest:
        """A runtime or checkpoint image."""
        layer = pattern(1000, seed or zlib.crc32(tag.encode()))
        return self.put(tag, made(layer, days=days), layer, name=name)

    def image(self, tag: str, *, name: str = NAME, days: float = 1.0, **labels: str) -> Digest:
        """An image that says of itself what *labels* say."""
        layer = pattern(500, len(tag))
        return self.put(tag, made(layer, days=days, labels=labels), layer, name=name)

    def survey(self, *names: str, unrelated: tuple[str, ...] = ()) -> Survey:
        repositories = [self.connect(self.registry, name) for name in names or (NAME,)]
        return Survey(repositories, unrelated=unrelated)

    def prune(self, *names: str, policy: Policy = Policy(), **options: Any) -> dict[str, str]:  # noqa: B008
        """What became of the stale ones: tag -> what was done; "back" after "deleted"."""
        survey = self.survey(*names, **options)
        return {outcome.stored.tag: outcome.done for outcome in sweep(survey, survey.look(), policy, NOW)}

    def tags(self, name: str = NAME) -> set[str]:
        return {tag for place, tag in self.pushed if place == name and self.registry.tag(name, tag)}


@pytest.fixture
def house(serve: Serve, connect: Connect) -> Callable[..., House]:
    return lambda profile="strict", **options: House(serve(profile, **options), connect)


def reasons(found: Found, policy: Policy = Policy()) -> dict[str, str]:  # noqa: B008
    return {v.stored.tag: v.reason for v in judge(found.stored, found.live, policy, NOW)}


# -------------------------------------------------------------------------------------------------- what is deleted


@pytest.mark.parametrize("profile", ["strict", "distribution-2.8"])
def test_stale_tags_go(house: Callable[..., House], profile: str) -> None:
    """What nothing uses is deleted, by its tag or by its manifest; images, what they use, and the cache stay."""
    here = house(profile)
    for key in (A, B):
        here.store(f"runtime-{key}")
        here.store(f"checkpoint-{key}")
    here.image("v1", runtime=A, checkpoint=A, placement="layer")
    here.image("buildcache")
    assert here.prune() == {f"runtime-{B}": "deleted", f"checkpoint-{B}": "deleted"}
    assert here.tags() == {f"runtime-{A}", f"checkpoint-{A}", "v1", "buildcache"}
    assert here.registry.asked("DELETE", "/blobs/") == []
    assert here.prune() == {}, "a second one has nothing to do"


def test_shared_manifest(house: Callable[..., House]) -> None:
    """Where only manifests can be deleted, one that a tag that stays names too is kept, and that is said."""
    here = house("distribution-2.8")
    here.image("v1", runtime=A)
    here.store(f"runtime-{A}", seed=1)
    here.store(f"runtime-{B}", seed=1)
    survey = here.survey()
    (outcome,) = sweep(survey, survey.look(), Policy(), NOW)
    assert outcome.done == "kept"
    assert outcome.reason == f"the registry deletes no tag alone, and runtime-{A} needs its manifest"
    assert here.tags() == {"v1", f"runtime-{A}", f"runtime-{B}"}


def test_stale_tags_of_one_manifest(house: Callable[..., House]) -> None:
    """Where only manifests can be deleted, all stale tags of one go at once, and each is told of as deleted."""
    here = house("distribution-2.8")
    here.image("v1")
    for key in (A, B, C):
        here.store(f"runtime-{key}", seed=1)
    assert here.prune(unrelated=("v1",)) == dict.fromkeys((f"runtime-{key}" for key in (A, B, C)), "deleted")
    assert here.tags() == {"v1"}


def test_shared_manifest_by_tag(house: Callable[..., House]) -> None:
    """Where tags can be deleted alone, the other tags of the manifest stay, and so does it."""
    here = house()
    here.image("v1", runtime=A)
    here.store(f"runtime-{A}", seed=1)
    digest = here.store(f"runtime-{B}", seed=1)
    assert here.prune() == {f"runtime-{B}": "deleted"}
    assert here.registry.tag(NAME, f"runtime-{A}") == digest


def test_same_image_under_another_tag(house: Callable[..., House]) -> None:
    """A checkpoint image that was given a tag of its own is kept under both."""
    here = house("distribution-2.8")
    digest = here.store(f"checkpoint-{A}", seed=3)
    here.image("v1", runtime=B)
    layer = pattern(1000, 3)
    assert here.put("weights-approved", made(layer), layer) == digest
    assert reasons(here.survey().look())[f"checkpoint-{A}"] == "the same as weights-approved"
    assert here.prune(unrelated=("weights-*",)) == {}


@pytest.mark.parametrize("form", ["platforms", "attestation", "nested"])
def test_indexes(house: Callable[..., House], form: str) -> None:
    """Of an image of several platforms each child counts; attestations use nothing, and hide nothing."""
    here = house()
    children = []
    for number, key in enumerate((A, B)):
        layer = pattern(100, number)
        child = made(layer, labels={"runtime": key, "checkpoint": C})
        here.registry.push(NAME, "", child, [layer])
        children.append(child.manifest.descriptor(Platform("linux", ("amd64", "arm64")[number])))
    if form == "attestation":
        statement = made(b"{}", media_type=MEDIA.IN_TOTO)
        here.registry.push(NAME, "", statement, [b"{}"])
        children.append(statement.manifest.descriptor(Platform("unknown", "unknown")))
    index = Index.create(children)
    if form == "nested":
        here.registry.push(NAME, "", index)
        index = Index.create([index.descriptor()])
    here.put("v1", index)
    used = {f"runtime-{A}", f"runtime-{B}", f"checkpoint-{C}"}
    for tag in (*used, f"checkpoint-{A}"):
        here.store(tag)
    assert here.prune() == {f"checkpoint-{A}": "deleted"}
    assert here.tags() == used | {"v1"}


def index_of(here: House, *layers: bytes) -> Index:
    """An index whose children, one for each of *layers*, are there without a tag."""
    children = []
    for layer in layers:
        child = made(layer)
        here.registry.push(NAME, "", child, [layer])
        children.append(child.manifest.descriptor(Platform("linux", "amd64")))
    return Index.create(children)


@pytest.mark.parametrize("profile", ["strict", "distribution-2.8"])
def test_below_an_index(house: Callable[..., House], profile: str) -> None:
    """Where manifests are deleted, those below a stale index go too, but for those that something else has."""
    here = house(profile)
    digests = {name: made(name).manifest.digest for name in (b"alone", b"kept", b"live", b"both")}
    here.put(f"runtime-{A}", index_of(here, b"alone", b"kept", b"live", b"both"))
    here.put(f"runtime-{B}", index_of(here, b"both"))
    here.put(f"runtime-{C}", index_of(here, b"kept"))
    here.put("v1", Index.create([*index_of(here, b"live").manifests], {"dev.layerkit.runtime": C}))
    assert here.prune(unrelated=("v1",)) == {f"runtime-{A}": "deleted", f"runtime-{B}": "deleted"}
    left = {name for name, digest in digests.items() if str(digest) in here.registry._repositories[NAME].manifests}
    assert left == (set(digests) if profile == "strict" else {b"kept", b"live"})


def test_index_put_back(house: Callable[..., House]) -> None:
    """An index that is put back is whole."""
    here = house("distribution-2.8")
    here.image("v1", runtime=B)
    digest = here.put(f"runtime-{A}", index_of(here, b"one", b"two"))
    here.registry.fail(method="DELETE", skip=3, call=lambda request: here.image("v2", runtime=A) and None)
    survey = here.survey()
    assert [done for _, done in steps(sweep(survey, survey.look(), Policy(), NOW))] == ["deleted", "back"]
    home = here.connect(here.registry, NAME)
    found = home.manifest(f"runtime-{A}")
    assert isinstance(found, Index) and found.digest == digest
    assert all(home.resolve(child.digest) for child in found.manifests)


def test_runtime_image_with_attestations(house: Callable[..., House]) -> None:
    """A runtime image that is an index is dated by what it holds, and deleted as one."""
    here = house()
    layer = pattern(100)
    child = made(layer, days=30)
    here.registry.push(NAME, "", child, [layer])
    here.put(f"runtime-{A}", Index.create([child.manifest.descriptor(Platform("linux", "amd64"))]))
    here.image("v1", runtime=B)
    assert here.prune() == {f"runtime-{A}": "deleted"}


def test_dates(house: Callable[..., House]) -> None:
    """When it was put there (an annotation) goes before when it was built; dates of reproducible builds say nothing."""
    here = house()
    here.image("v1", runtime=A)
    layer = pattern(10)
    built = made(layer, days=300)
    put = Manifest.create(
        built.manifest.config,
        built.manifest.layers,
        {"org.opencontainers.image.created": date(2).replace("+00:00", "Z")},
    )
    here.put(f"runtime-{B}", put, layer, built.config.raw)
    here.store(f"runtime-{C}", days=(NOW - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(days=1))
    found = {image.tag: image.created for image in here.survey().look().stored}
    assert found == {f"runtime-{B}": NOW - timedelta(days=2), f"runtime-{C}": None}


def test_pages_of_tags(house: Callable[..., House]) -> None:
    """Tags come in pages; an image on the last one is seen as well as one on the first."""
    here = house()
    for number in range(1500):
        here.registry.push(NAME, f"a{number}", made(labels={"runtime": A}))
    here.store(f"runtime-{A}")
    here.store(f"checkpoint-{B}")
    here.image("zz", runtime=A, checkpoint=B)
    found = here.survey().look()
    assert len(here.registry.asked("GET", "/tags/list")) == 2
    assert len(found.live) == 1501
    assert reasons(found)[f"checkpoint-{B}"] == "used by zz"
    # What is known by its digest is read once, however many tags it has.
    assert len(here.registry.asked("GET", "/manifests/")) == 4


def test_separate_cache(house: Callable[..., House]) -> None:
    """Images of several repositories keep what they use in the one that caches for them; all of it is looked at."""
    here = house()
    here.image("v1", name="team/one", runtime=A)
    here.image("v1", name="team/two", runtime=B)
    for key in (A, B, C):
        here.store(f"runtime-{key}", name="team/cache")
    here.store(f"runtime-{C}", name="team/two")
    policy = Policy(days=0)
    assert here.prune("team/one", "team/two", "team/cache", policy=policy) == {f"runtime-{C}": "deleted"}
    assert here.tags("team/cache") == {f"runtime-{A}", f"runtime-{B}"}
    assert here.tags("team/two") == {"v1"}


# ---------------------------------------------------------------------------------------------- what is not known


def test_image_that_cannot_be_read(house: Callable[..., House]) -> None:
    """While there is an image whose parts are gone, everything is kept: nobody knows what it uses."""
    here = house()
    here.store(f"runtime-{A}")
    layer = pattern(10)
    lost = made(layer, labels={"runtime": A})
    here.put("v1", lost, layer)
    here.registry.drop_blob(lost.config.digest)
    found = here.survey().look()
    (user,) = found.live
    assert user.unreadable and user.may_use == {"runtime", "checkpoint"}
    assert reasons(found)[f"runtime-{A}"] == "v1 cannot be read, and may use it"
    assert here.prune() == {}
    assert here.prune(unrelated=("v?",)) == {f"runtime-{A}": "deleted"}


def test_damaged_manifest(house: Callable[..., House]) -> None:
    """A manifest whose bytes are others than its digest says is one that cannot be read."""
    here = house()
    here.store(f"runtime-{A}")
    digest = here.image("v1", runtime=A)
    with here.registry._lock:
        here.registry._repositories[NAME].manifests[str(digest)] = (b"{", MEDIA.MANIFEST)
    assert [user.unreadable for user in here.survey().look().live] == [True]
    assert here.prune() == {}


def test_form_that_is_not_known(house: Callable[..., House]) -> None:
    """What is no manifest that we know (schema 1, say) cannot be read either, though it has no digest for us."""
    here = house()
    here.store(f"runtime-{A}")
    here.image("v1", runtime=B)
    here.image("v0")
    here.registry.fail(
        path="/manifests/v0",
        status=200,
        body=b'{"schemaVersion": 1}',
        headers={"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"},
        times=-1,
    )
    assert [(u.tag, u.digest) for u in here.survey().look().live if u.unreadable] == [("v0", None)]
    assert here.prune() == {}


def test_endless_list(house: Callable[..., House]) -> None:
    """Half a list of tags is not believed: a registry that never ends it is an error."""
    here = house()
    here.store(f"runtime-{A}")
    link = f'</v2/{NAME}/tags/list?n=1000>; rel="next"'
    here.registry.fail(path="/tags/list", status=200, body=b'{"tags": ["v2"]}', headers={"Link": link}, times=-1)
    with pytest.raises(IntegrityError, match="has no end"):
        here.survey().look()


def test_other_tags_are_nobodys(house: Callable[..., House]) -> None:
    """The build cache, readable or not, and tags that only look like ours are never touched."""
    here = house("distribution-2.8")
    here.image("v1", runtime=A)
    here.store(f"runtime-{B}")
    names = ("runtime-v1", "checkpoint-best", f"checkpoint-{A[:12]}", "latest", "buildcache")
    for name in names:
        here.store(name)
    with here.registry._lock:
        home = here.registry._repositories[NAME]
        home.manifests[home.tags["buildcache"]] = (b"[]", MEDIA.INDEX)
    assert here.prune(unrelated=names[:-1]) == {f"runtime-{B}": "deleted"}
    assert here.tags() == {"v1", *names}


def test_index_with_a_child_that_is_gone(house: Callable[..., House]) -> None:
    """An index of which a child is not there cannot be read as a whole."""
    here = house()
    here.store(f"runtime-{A}")
    here.put("v1", Index.create([made(b"x").manifest.descriptor(Platform("linux", "amd64"))]))
    assert [user.unreadable for user in here.survey().look().live] == [True]
    assert here.prune() == {}


def test_broken_image_of_ours(house: Callable[..., House]) -> None:
    """A runtime image that cannot be read has no date, and stands in nobody's way."""
    here = house()
    here.image("v1", runtime=A)
    here.store(f"runtime-{A}")
    here.put(f"runtime-{B}", Index.create([made(b"x").manifest.descriptor(Platform("linux", "amd64"))]))
    assert here.prune() == {}
    assert here.prune(policy=Policy(undated=True)) == {f"runtime-{B}": "deleted"}


def test_images_that_say_nothing(house: Callable[..., House]) -> None:
    """An image of others may mount a checkpoint image, one of an early layerkit too; charts and signatures do not."""
    here = house()
    for tag in (f"runtime-{A}", f"checkpoint-{A}"):
        here.store(tag)
    here.image("v1", runtime=B, placement="layer", checkpoint=B)
    chart = made(b"chart")
    config = Descriptor("application/vnd.cncf.helm.config.v1+json", chart.config.digest, len(chart.config.raw))
    here.put("chart", Manifest.create(config, chart.manifest.layers), b"chart", chart.config.raw)
    here.put("sha256-1.sig", made(b"{}", media_type="application/vnd.dev.cosign.simplesigning.v1+json"), b"{}")
    assert not any(user.may_use for user in here.survey().look().live)
    here.image("theirs")
    assert reasons(here.survey().look()) == {
        f"runtime-{A}": "nothing uses it",
        f"checkpoint-{A}": "theirs is not of layerkit, and may mount a checkpoint image",
    }
    here.image("early", placement="artifact", runtime=B)
    found = here.survey(unrelated=("theirs",)).look()
    assert reasons(found)[f"checkpoint-{A}"] == "early mounts a checkpoint image, and does not say which"
    here.image("early", placement="artifact", runtime=B, checkpoint=A)
    assert reasons(here.survey(unrelated=("theirs",)).look())[f"checkpoint-{A}"] == "used by early"


def test_one_platform_that_does_not_say(house: Callable[..., House]) -> None:
    """Of an image of two platforms, one that says which checkpoint it mounts does not speak for the other."""
    here = house()
    here.store(f"checkpoint-{B}")
    children = []
    for number, labels in enumerate(({"placement": "artifact", "checkpoint": A}, {"placement": "artifact"})):
        child = made(bytes([number]), labels=labels)
        here.registry.push(NAME, "", child, [bytes([number])])
        children.append(child.manifest.descriptor(Platform("linux", ("amd64", "arm64")[number])))
    here.put("v1", Index.create(children))
    assert here.prune() == {}


def test_no_image_at_all(house: Callable[..., House]) -> None:
    """A repository with nothing but runtime and checkpoint images is refused: images are elsewhere, most likely."""
    here = house()
    here.store(f"runtime-{A}")
    here.image("buildcache")
    with pytest.raises(ConfigurationError, match="nothing says what is in use"):
        here.survey().look()


def test_a_registry_that_fails_while_it_is_read(house: Callable[..., House]) -> None:
    """What does not come for now is an error, not an image that cannot be read."""
    here = house()
    here.store(f"runtime-{A}")
    here.image("v1", runtime=A)
    here.registry.fail(method="GET", path="/manifests/", status=503, times=-1)
    with pytest.raises(TransientError):
        here.survey().look()


# --------------------------------------------------------------------------------------------- while others work


def steps(run: Iterator[Outcome]) -> list[tuple[str, str]]:
    return [(outcome.stored.tag, outcome.done) for outcome in run]


def test_pushed_again_meanwhile(house: Callable[..., House]) -> None:
    """A tag that names something else by now, or that somebody deleted, is left as it is."""
    here = house()
    here.image("v1")
    for key in (A, B, C):
        here.store(f"runtime-{key}")
    survey = here.survey()
    run = sweep(survey, survey.look(), Policy(), NOW)
    again = here.store(f"runtime-{A}", days=0, seed=99)
    with here.registry._lock:
        del here.registry._repositories[NAME].tags[f"runtime-{B}"]
    done = {outcome.stored.tag: (outcome.done, outcome.reason) for outcome in run}
    assert done[f"runtime-{A}"] == ("kept", "it was pushed again meanwhile")
    assert done[f"runtime-{B}"] == ("gone", "somebody else deleted it")
    assert done[f"runtime-{C}"] == ("deleted", "")
    assert here.registry.tag(NAME, f"runtime-{A}") == again


def test_used_meanwhile(house: Callable[..., House]) -> None:
    """A look that is no longer fresh is taken again before the next deletion."""
    here = house()
    here.image("v1", runtime=C)
    here.store(f"checkpoint-{A}")
    here.store(f"checkpoint-{B}")
    survey = here.survey()
    clock = iter(range(0, 10_000, 100))
    run = sweep(survey, survey.look(), Policy(), NOW, clock=lambda: float(next(clock)))
    here.image("v2", checkpoint=B, placement="artifact")
    assert steps(run) == [(f"checkpoint-{A}", "deleted"), (f"checkpoint-{B}", "kept")]


@pytest.mark.parametrize("profile", ["strict", "distribution-2.8"])
def test_used_right_after_it_was_deleted(house: Callable[..., House], profile: str) -> None:
    """An image that is tagged between the last look and the deletion gets back what it uses, under the same digest."""
    here = house(profile)
    here.image("v1", runtime=C)
    digest = here.store(f"checkpoint-{A}")
    here.store(f"checkpoint-{B}")
    here.registry.fail(
        method="DELETE", call=lambda request: here.image("v2", checkpoint=A, placement="artifact") and None
    )
    survey = here.survey()
    run = list(sweep(survey, survey.look(), Policy(), NOW))
    assert steps(iter(run)) == [
        (f"checkpoint-{A}", "deleted"), (f"checkpoint-{B}", "deleted"), (f"checkpoint-{A}", "back"),
    ]  # fmt: skip
    assert run[-1].reason == "by now used by v2"
    assert here.registry.tag(NAME, f"checkpoint-{A}") == digest
    assert here.registry.tag(NAME, f"checkpoint-{B}") is None


def test_many_tags_are_not_read_before_each_deletion(house: Callable[..., House]) -> None:
    """Looking again costs at most half of the time: not a look for each deletion, however long a look takes."""
    here = house()
    here.image("v1", runtime=A)
    for number in range(20):
        here.store(f"runtime-{number:040x}")
    survey = here.survey()
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0  # a look takes one of these seconds, and so does a deletion
        return now[0]

    assert {done for _, done in steps(sweep(survey, survey.look(), Policy(), NOW, clock=clock))} == {"deleted"}
    assert len(here.registry.asked("GET", "/tags/list")) <= 1 + 20 // 5 + 1


# ------------------------------------------------------------------------------------------- registries that refuse


def test_no_deleting(house: Callable[..., House]) -> None:
    """A registry that deletes nothing says so, with what to do: refused, 6."""
    here = house("no-deleting")
    here.image("v1")
    here.store(f"runtime-{A}")
    with pytest.raises(RefusedError, match="HTTP 405") as caught:
        here.prune()
    assert "REGISTRY_STORAGE_DELETE_ENABLED" in caught.value.hint
    assert caught.value.exit_status == 6


@pytest.mark.parametrize("auth", ["bearer", "basic"])
@pytest.mark.parametrize("may", [True, False])
def test_the_right_to_delete(serve: Serve, run: Callable[..., Done], tmp_path: Path, auth: str, may: bool) -> None:
    """Deleting is a right of its own: it is asked for, and where it is missing that is said; 5."""
    registry = serve(users={"ada": "pw"}, auth=auth, allow=lambda user, repository, action: may or action != "delete")
    secret = base64.b64encode(b"ada:pw").decode()
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"auths": {registry.host: {"auth": secret}}}))
    here = House(registry, Connect())
    here.image("v1", runtime=B)
    here.store(f"runtime-{A}")
    assert run(f"{registry.host}/{NAME}").status == 0
    done = run(f"{registry.host}/{NAME}", "--yes")
    assert done.status == (0 if may else 5)
    assert ("hint: " in done.err) is not may
    assert here.tags() == ({"v1"} if may else {"v1", f"runtime-{A}"})


def test_deleting_that_does_nothing(house: Callable[..., House]) -> None:
    """A registry that says yes and deletes nothing is found out."""
    here = house()
    here.image("v1")
    here.store(f"runtime-{A}")
    here.registry.fail(method="DELETE", status=202, times=-1)
    with pytest.raises(RefusedError, match="is still there after it was deleted"):
        here.prune()


# ------------------------------------------------------------------------------------------------ any registry


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_registry(data: st.DataObject) -> None:
    """Whatever is there and however it deletes: each image stays whole, with all that it says it uses."""
    keys = st.sampled_from([A, B, C])
    with FakeRegistry(data.draw(st.sampled_from(["strict", "distribution-2.8"]))) as registry, Client() as client:
        here = House(registry, Connect())
        kinds = st.sampled_from(["runtime", "checkpoint"])
        for kind, key in data.draw(st.sets(st.tuples(kinds, keys), min_size=1)):
            here.store(f"{kind}-{key}", data.draw(st.sampled_from([0.0, 3.0, 30.0])), seed=data.draw(st.integers(1, 3)))
        uses = {}
        for number in range(data.draw(st.integers(1, 3))):
            uses[f"v{number}"] = {"runtime": data.draw(keys), "checkpoint": data.draw(keys)}
            here.image(f"v{number}", **uses[f"v{number}"])
        before = here.tags()
        home = client.repository(Reference.parse(f"{registry.host}/{NAME}"))
        survey = Survey([home])
        policy = Policy(data.draw(st.integers(0, 2)), data.draw(st.sampled_from([0.0, 7.0])), data.draw(st.booleans()))
        list(sweep(survey, survey.look(), policy, NOW))
        used = {f"{kind}-{key}" for labels in uses.values() for kind, key in labels.items()}
        assert here.tags() >= before & (used | set(uses))
        for tag in here.tags():
            manifest = home.manifest(tag)
            assert isinstance(manifest, Manifest) and manifest.digest == here.pushed[NAME, tag]
            for blob in (manifest.config, *manifest.layers):
                assert home.present(blob)
        assert registry.errors == []


# ---------------------------------------------------------------------------------------------- the command line


@dataclass
class Done:
    status: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Done]:
    """``layerkit prune`` in an empty folder, in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.setenv("LAYERKIT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)

    def start(*arguments: str) -> Done:
        with pytest.raises(SystemExit) as caught:
            main(["prune", *arguments])
        return Done(int(str(caught.value.code)), *capsys.readouterr())

    return start


@pytest.fixture
def lived(house: Callable[..., House]) -> Callable[..., House]:
    """A registry after two builds: one runtime image, two checkpoints, one of which nothing uses any more."""

    def make(profile: str = "strict") -> House:
        here = house(profile)
        here.store(f"runtime-{A}")
        here.store(f"checkpoint-{A}")
        here.store(f"checkpoint-{B}")
        here.image("v1", runtime=A, checkpoint=A, placement="layer")
        return here

    return make


def test_listed_then_deleted(lived: Callable[..., House], run: Callable[..., Done]) -> None:
    """Without --yes it says what is stale and why the rest is not; with it, what it did. No line is over 80 wide."""
    here = lived()
    repository = f"{here.registry.host}/{NAME}"
    listed = run(repository)
    assert listed.status == 0
    day = (NOW - timedelta(days=30)).date().isoformat()
    assert listed.out.splitlines() == [
        f"in {repository}:",
        f"keep    runtime-{A}    {day}",
        "        used by v1",
        f"keep    checkpoint-{A} {day}",
        "        used by v1",
        f"stale   checkpoint-{B} {day}",
    ]
    free = size(run(repository, "--json").document["bytes_at_most"])
    assert listed.err.splitlines() == [
        "1 stale of 3 runtime and checkpoint images, 1 other tag read",
        f"the registry can free {free} at most, when it collects its garbage",
        "nothing was deleted: --yes deletes what is stale",
    ]
    assert max(map(len, (listed.out + listed.err).splitlines())) <= 80
    assert run(repository, "--dry-run").out == listed.out
    assert here.registry.asked("DELETE") == []
    done = run(repository, "--yes")
    assert done.status == 0
    assert done.out.splitlines()[-1] == f"deleted checkpoint-{B} {day}"
    assert done.err.splitlines()[0] == "1 deleted of 3 runtime and checkpoint images, 1 other tag read"
    assert here.tags() == {"v1", f"runtime-{A}", f"checkpoint-{A}"}


def test_json(lived: Callable[..., House], run: Callable[..., Done]) -> None:
    """--json has every image with its whole digest, its reason, and what became of it."""
    here = lived()
    repository = f"{here.registry.host}/{NAME}"
    before = run(repository, "--json").document
    assert (before["schema_version"], before["dry_run"], before["deleted"]) == (1, True, [])
    assert before["repositories"] == [repository]
    assert before["policy"] == {"keep": 0, "older_than_days": 7.0, "undated": False}
    rows = {row["tag"]: row for row in before["images"]}
    assert {tag: row["stale"] for tag, row in rows.items()} == {
        f"runtime-{A}": False, f"checkpoint-{A}": False, f"checkpoint-{B}": True,
    }  # fmt: skip
    assert rows[f"checkpoint-{B}"]["digest"] == str(here.pushed[NAME, f"checkpoint-{B}"])
    assert before["bytes_at_most"] == rows[f"checkpoint-{B}"]["bytes"]
    assert before["live"][0]["uses"] == [f"checkpoint-{A}", f"runtime-{A}"]
    done = run(repository, "--json", "--yes").document
    assert done["deleted"] == [f"{repository}:checkpoint-{B}"]
    assert {row["tag"]: row["outcome"] for row in done["images"]}[f"checkpoint-{B}"] == "deleted"


def test_of_the_project(lived: Callable[..., House], run: Callable[..., Done], tmp_path: Path) -> None:
    """In a project folder it is the project's repository; with a cache for several, --yes wants all of them named."""
    here = lived()
    name = f"{here.registry.host}/{NAME}"
    project = f'[image]\nname = "{name}"\nbase = "python:3.11-slim"\n[code]\ninclude = ["serve.py"]\n'
    (tmp_path / "layerkit.toml").write_text(project)
    assert f"stale   checkpoint-{B}" in run().out
    here.store(f"runtime-{C}", name="team/cache")
    (tmp_path / "layerkit.toml").write_text(f'{project}[cache]\nrepository = "{here.registry.host}/team/cache"\n')
    listed = run()
    assert listed.status == 0
    assert f"in {here.registry.host}/team/cache:\nstale   runtime-{C}" in listed.out
    refused = run("--yes")
    assert refused.status == 2
    assert f"layerkit prune --yes {here.registry.host}/team/cache {name} …" in refused.err
    assert here.registry.asked("DELETE") == []
    assert run("--yes", name, f"{here.registry.host}/team/cache").status == 0
    assert here.tags("team/cache") == set()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        pytest.param(["{host}/team/model:v1"], 2, "that is one image", id="a tag"),
        pytest.param(["{host}/team/other"], 2, "there are no tags", id="wrong name"),
        pytest.param(["{host}/team/model", "{host}/team/other"], 2, "there are no tags", id="one wrong name"),
        pytest.param(["{host}/team/UPPER"], 2, "a repository is lower case", id="no name"),
        pytest.param(["{host}/team/model", "--yes", "--dry-run"], 2, "exclude each other", id="both"),
        pytest.param(["{host}/team/model", "--older-than", "nan"], 2, "older-than", id="not a number"),
        pytest.param(["{host}/team/model", "--older-than", "-1"], 2, "older-than", id="negative"),
        pytest.param(["{host}/team/model", "--keep", "-1"], 2, "--keep", id="keep negative"),
        pytest.param([], 2, "layerkit.toml", id="no project"),
    ],
)
def test_usage(
    lived: Callable[..., House], run: Callable[..., Done], arguments: list[str], status: int, said: str
) -> None:
    """What is asked wrongly is said before anything is deleted."""
    here = lived()
    done = run(*(argument.format(host=here.registry.host) for argument in arguments))
    assert (done.status, "Traceback" in done.err) == (status, False)
    assert said in done.err
    assert here.registry.asked("DELETE") == []


@pytest.mark.parametrize("as_json", [False, True])
def test_refused(lived: Callable[..., House], run: Callable[..., Done], as_json: bool) -> None:
    """A registry that deletes nothing: 6, with the next step; --json has it beside all that was found."""
    here = lived("no-deleting")
    done = run(f"{here.registry.host}/{NAME}", "--yes", *(["--json"] if as_json else []))
    assert done.status == 6
    assert "hint: the registry does not allow deleting" in done.err
    if as_json:
        assert done.document["error"]["exit_status"] == 6
        assert len(done.document["images"]) == 3
    else:
        assert "0 deleted of 3 runtime and checkpoint images" in done.err


def test_unreadable(lived: Callable[..., House], run: Callable[..., Done]) -> None:
    """An image that cannot be read: all is kept, with a warning; --yes fails with 8 and what to do."""
    here = lived()
    lost = made(b"lost")
    here.put("v0", lost, b"lost")
    here.registry.drop_blob(lost.config.digest)
    repository = f"{here.registry.host}/{NAME}"
    listed = run(repository)
    assert listed.status == 0
    assert f"warning: {repository}:v0 cannot be read, and may use it, so all runtime and checkpoint" in listed.err
    assert f"images are kept (read blob {lost.config.digest.short} of {repository}: HTTP 404" in listed.err
    assert "stale " not in listed.out
    done = run(repository, "--yes")
    assert done.status == 8
    assert "--unrelated" in done.err
    assert here.registry.asked("DELETE") == []
    assert run(repository, "--yes", "--unrelated", "v0").status == 0
    assert f"checkpoint-{B}" not in here.tags()


def test_not_of_layerkit(lived: Callable[..., House], run: Callable[..., Done]) -> None:
    """Images of others keep the checkpoints, and that is said; of many the first are named."""
    here = lived()
    for number in range(8):
        here.image(f"theirs-{number}")
    repository = f"{here.registry.host}/{NAME}"
    done = run(repository, "--yes")
    assert done.status == 0
    assert "0 deleted" in done.err
    assert f"warning: {repository}:theirs-0 is not of layerkit, and may mount a checkpoint image, so all" in done.err
    assert "… and 3 more like these" in done.err
    assert "1 deleted" in run(repository, "--yes", "--unrelated", "theirs-*").err


def test_what_a_registry_says_is_escaped(lived: Callable[..., House], run: Callable[..., Done]) -> None:
    """Control characters in a registry's answer do not reach the terminal."""
    here = lived()
    body = json.dumps({"errors": [{"code": "DENIED", "message": "no\x1b[31m way"}]})
    here.registry.fail(method="DELETE", status=403, body=body, times=-1)
    done = run(f"{here.registry.host}/{NAME}", "--yes")
    assert done.status == 5
    assert "\x1b" not in done.out + done.err
    assert "ask for the right to delete" in done.err


def test_stopped_halfway(
    lived: Callable[..., House], run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between two deletions: what was done is told, and that nothing else was; 130."""
    here = lived()
    here.store(f"runtime-{B}")
    main_thread = threading.main_thread()

    def interrupt(request: Request) -> None:
        import signal

        if len(here.registry.asked("DELETE")) > 1 and main_thread.ident:
            signal.pthread_kill(main_thread.ident, signal.SIGINT)

    here.registry.fail(method="DELETE", call=interrupt, times=-1)
    done = run(f"{here.registry.host}/{NAME}", "--yes")
    assert done.status == 130
    assert "stopped: 1 tag deleted, nothing else was touched" in done.err
