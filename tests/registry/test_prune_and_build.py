"""What builds and prunes do to each other: after one, and while the other runs."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from layerkit.destinations.registry import RegistryDestination
from layerkit.oci import CREATED, Config, Digest, Manifest, Reference
from layerkit.pruning import GUARD, Outcome, Policy, Survey, sweep
from layerkit.registry import Client, Repository
from layerkit.state import State
from layerkit.testing import FakeRegistry
from registry.pushing import NAME, Pushing, whole_image
from registry.support import MIB
from registry.test_real_registry import PROGRAM, Real

Serve = Callable[..., FakeRegistry]


def prune(host: str, *, later: timedelta = GUARD, policy: Policy = Policy(days=0)) -> list[Outcome]:  # noqa: B008
    """``layerkit prune --yes``, as it is after *later*."""
    with Client() as client:
        survey = Survey([client.repository(Reference.parse(f"{host}/{NAME}"))])
        now = datetime.now(UTC) + later + timedelta(seconds=1)
        return list(sweep(survey, survey.look(), policy, now))


def checkpoints(registry: FakeRegistry) -> dict[str, Digest]:
    tags = registry._repositories[NAME].tags
    return {tag: Digest.parse(digest) for tag, digest in tags.items() if tag.startswith("checkpoint-")}


def place(pushing: Pushing, placement: str) -> None:
    path = pushing.project / "layerkit.toml"
    path.write_text(path.read_text() + f'placement = "{placement}"\n')


@pytest.fixture
def pushed(serve: Serve, tmp_path: Path) -> Callable[..., tuple[FakeRegistry, Pushing]]:
    """A registry with a runtime image, and a project that can be pushed there."""

    def make(profile: str = "strict", placement: str = "") -> tuple[FakeRegistry, Pushing]:
        registry = serve(profile)
        pushing = Pushing(tmp_path, registry.host)
        if placement:
            place(pushing, placement)
        pushing.seed(registry)
        pushing.weights()
        return registry, pushing

    return make


Pushed = Callable[..., tuple[FakeRegistry, Pushing]]


def test_images_say_when_they_were_put_there(pushed: Pushed) -> None:
    """A checkpoint image is dated by the push, in an annotation: its configuration is the same whenever it is made."""
    registry, pushing = pushed()
    pushing.prepare()
    (tag,) = checkpoints(registry)
    with Client() as client:
        repository = client.repository(Reference.parse(f"{registry.host}/{NAME}"))
        manifest = repository.manifest(tag)
        assert isinstance(manifest, Manifest)
        age = datetime.now(UTC) - datetime.fromisoformat(manifest.annotations[CREATED])
        assert timedelta(0) <= age < timedelta(minutes=5)
        assert "created" not in Config.parse(repository.blob(manifest.config)).document


def test_runtime_images_are_dated_too() -> None:
    """BuildKit is asked to date the runtime image it pushes: the dates in it are of cached layers."""
    with Client() as client, State() as state:
        home = client.repository(Reference.parse("127.0.0.1:9/team/model"))
        destination = RegistryDestination(home, home, state)
        (output,) = destination.output("k").outputs
        (finished,) = destination.finished(["v1"]).outputs
    assert f"annotation.{CREATED}=" in output
    assert CREATED not in finished


@pytest.mark.parametrize("profile", ["strict", "distribution-2.8", "lying-head"])
def test_build_after_prune(pushed: Pushed, profile: str) -> None:
    """What was pruned, and collected then, is made again by the machine that remembers it: the same image."""
    registry, pushing = pushed(profile)
    first = pushing.prepare()
    (old,) = checkpoints(registry)
    old_layers = {layer.digest for layer in _manifest(registry, first).layers}
    pushing.weights(seed=1)
    second = pushing.prepare()
    assert {(o.stored.tag, o.done) for o in prune(registry.host)} == {(old, "deleted")}
    for digest in old_layers - {layer.digest for layer in _manifest(registry, second).layers}:
        registry.drop_blob(digest)
    pushing.weights(seed=0)
    again = pushing.prepare(tag="v2")
    assert (again, old in checkpoints(registry)) == (first, True)
    with Client() as client:
        repository = client.repository(Reference.parse(f"{registry.host}/{NAME}"))
        assert str(whole_image(repository, "v2")) == first
        assert str(whole_image(repository, "v1")) == second


def _manifest(registry: FakeRegistry, digest: str) -> Manifest:
    return Manifest.parse(registry._repositories[NAME].manifests[digest][0])


def test_nothing_but_the_image(pushed: Pushed) -> None:
    """Where someone deletes runtime and checkpoint images that are used, the image stays whole and a build mends it."""
    registry, pushing = pushed()
    digest = pushing.prepare()
    with Client() as client:
        repository = client.repository(Reference.parse(f"{registry.host}/{NAME}"))
        for tag in checkpoints(registry):
            repository.delete_tag(tag)
        assert str(whole_image(repository, "v1")) == digest
        assert pushing.prepare() == digest
        assert len(checkpoints(registry)) == 1


def test_young_ones_are_left_to_the_build_that_made_them(pushed: Pushed) -> None:
    """A prune right after a push that has not named its image yet deletes nothing of it, whatever the policy."""
    registry, pushing = pushed(placement="artifact")
    pushing.prepare(tag="v0")
    pushing.weights(seed=1)
    seen: list[tuple[int, list[Outcome]]] = []
    registry.fail(
        method="PUT",
        path="/manifests/v1",
        call=lambda request: seen.append((len(checkpoints(registry)), prune(registry.host, later=timedelta(0)))),
    )
    pushing.prepare()
    assert seen == [(2, [])]


@pytest.mark.parametrize("profile", ["strict", "distribution-2.8"])
def test_a_prune_just_before_the_tag(pushed: Pushed, profile: str) -> None:
    """An old checkpoint image that a build found and is about to name is there when the build is done."""
    registry, pushing = pushed(profile, "artifact")
    pushing.prepare(tag="v1")
    ((tag, digest),) = checkpoints(registry).items()
    (pushing.project / "weights" / "model.pt").rename(pushing.project / "kept")
    pushing.weights(seed=1, name="other.pt")
    pushing.prepare(tag="v1")
    (pushing.project / "weights" / "other.pt").unlink()
    (pushing.project / "kept").rename(pushing.project / "weights" / "model.pt")
    seen: list[tuple[str, str]] = []
    registry.fail(
        method="PUT",
        path="/manifests/v2",
        call=lambda request: seen.extend((o.stored.tag, o.done) for o in prune(registry.host)),
    )
    pushing.prepare(tag="v2")
    assert seen == [(tag, "deleted")]
    assert checkpoints(registry)[tag] == digest
    assert [o.done for o in prune(registry.host)] == []


def test_immutable_tags(pushed: Pushed) -> None:
    """Where tags are immutable, a checkpoint image that another build put there meanwhile will do."""
    registry, pushing = pushed("immutable-tags", "artifact")
    pushing.prepare()
    ((tag, digest),) = checkpoints(registry).items()
    home = registry._repositories[NAME]
    # The other build is done between our look (there is no checkpoint image) and our push of it.
    del home.tags[tag], home.tags["v1"]
    raw, media_type = home.manifests[str(digest)]
    other = raw.replace(b'"org.opencontainers.image.created":"2', b'"org.opencontainers.image.created":"1')
    assert other != raw

    def put(request: object) -> None:
        with registry._lock:
            home.manifests[str(Digest.of(other))] = (other, media_type)
            home.tags[tag] = str(Digest.of(other))

    registry.fail(method="PUT", path=f"/manifests/{tag}", call=put)
    pushing.prepare()
    assert checkpoints(registry) == {tag: Digest.of(other)}


# ----------------------------------------------------------------------------------------------- the real registry


class Collecting(Real):
    """distribution's registry, whose garbage can be collected."""

    def collect(self, *options: str) -> None:
        """As its documents say: while it does not run."""
        self.kill()
        assert PROGRAM is not None
        command = [PROGRAM, "garbage-collect", *options, str(self.folder / "config.yml")]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        self.start()

    @property
    def size(self) -> int:
        return sum(path.stat().st_size for path in (self.folder / "data").rglob("data"))


@pytest.fixture
def real(tmp_path: Path) -> Iterator[Collecting]:
    registry = Collecting(tmp_path / "registry")
    yield registry
    registry.kill()


@pytest.mark.engine
@pytest.mark.skipif(PROGRAM is None, reason="docker-registry is not installed")
@pytest.mark.parametrize("placement", ["layer", "artifact"])
def test_the_whole_story(real: Collecting, tmp_path: Path, placement: str) -> None:
    """Build, new weights, build, prune, collect: the old weights' bytes are gone, the image is whole, and the old
    weights can be built again."""
    pushing = Pushing(tmp_path, real.host)
    if placement == "artifact":
        place(pushing, placement)
    pushing.seed_real(real.host)
    pushing.weights(8 * MIB)
    first = pushing.prepare()
    pushing.weights(8 * MIB, seed=1)
    second = pushing.prepare()
    assert real.size > 16 * MIB
    (outcome,) = prune(real.host)
    assert (outcome.stored.kind, outcome.done) == ("checkpoint", "deleted")
    # The image that v1 named before has no tag, and its layers for as long as it is there: with the weights in them.
    real.collect(*(["--delete-untagged"] if placement == "layer" else []))
    assert 8 * MIB < real.size < 9 * MIB
    with Client() as client:
        home = client.repository(Reference.parse(f"{real.host}/{NAME}"))
        assert str(whole_image(home, "v1")) == second
        assert whole_checkpoint(home) == 8 * MIB
        pushing.weights(8 * MIB)
        assert pushing.prepare(tag="v2") == first
        assert str(whole_image(home, "v2")) == first
        assert prune(real.host) == []


def whole_checkpoint(home: Repository) -> int:
    """Bytes of the files in the one checkpoint image, after all of it was read."""
    (tag,) = (tag for tag in home.tags() if tag.startswith("checkpoint-"))
    whole_image(home, tag)
    manifest = home.manifest(tag)
    assert isinstance(manifest, Manifest)
    return sum(layer.size for layer in manifest.layers) // MIB * MIB


@pytest.mark.engine
@pytest.mark.skipif(PROGRAM is None, reason="docker-registry is not installed")
def test_tags_alone(real: Collecting, tmp_path: Path) -> None:
    """distribution 2.8 deletes manifests, not tags: delete_tag says so, and leaves what it was asked to delete."""
    pushing = Pushing(tmp_path, real.host)
    pushing.seed_real(real.host)
    with Client() as client:
        home = client.repository(Reference.parse(f"{real.host}/{NAME}"))
        (tag,) = home.tags()
        assert not home.delete_tag(tag)
        found = home.resolve(tag)
        assert found is not None
        home.delete_manifest(found.digest)
        assert home.resolve(tag) is None
