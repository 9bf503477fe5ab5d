"""``layerkit prune`` over real HTTP: what is deleted, and above all what is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from layerkit.oci import MEDIA, Digest, Index, Manifest, Platform, Reference
from layerkit.project import load
from layerkit.pruning import Policy, judge, survey_of, sweep
from layerkit.registry import Client
from layerkit.settings import Settings
from layerkit.testing import FakeRegistry
from registry.pushing import NAME, TOML, Done, Pushing, whole_image
from registry.support import MIB

Serve = Callable[..., FakeRegistry]
ALL = ("--older-than", "0", "--undated")
EVERYTHING = Policy(0, 0, undated=True)
NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Pruner(Pushing):
    """A project that was pushed as v1 and, with other weights, as v2; then v1 was deleted."""

    registry: FakeRegistry

    def prepared(self, registry: FakeRegistry) -> Pruner:
        self.registry = registry
        self.seed(registry)
        self.weights(seed=1)
        self.prepare(tag="v1")
        self.old = self.checkpoints()
        self.weights(seed=2)
        self.prepare(tag="v2")
        self.new = self.checkpoints() - self.old
        self.delete("v1")
        return self

    def delete(self, tag: str) -> None:
        """As somebody does with curl, whatever the registry allows."""
        with self.registry._lock:
            del self.registry._repositories[NAME].tags[tag]

    def tags(self) -> set[str]:
        with self.registry._lock:
            return set(self.registry._repositories[NAME].tags)

    def checkpoints(self) -> set[str]:
        return {tag for tag in self.tags() if tag.startswith("checkpoint-")}

    def prune(self, *arguments: str, **environment: str) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "layerkit", "prune", *arguments],
            cwd=self.project, env={**self.environ, **environment},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr, 0)

    def survey(self, *others: str) -> Any:
        return survey_of(load(None, root=self.project), others, Settings.from_environment(self.environ))

    def whole(self, tag: str) -> Digest:
        with Client() as client:
            return whole_image(client.repository(Reference.parse(f"{self.host}/{NAME}")), tag)

    def deletions(self) -> list[str]:
        return [request.path.rpartition("/")[2] for request in self.registry.asked("DELETE")]


@pytest.fixture
def pruner(serve: Serve, tmp_path: Path) -> Iterator[Callable[..., Pruner]]:
    def make(profile: str = "strict") -> Pruner:
        registry = serve(profile)
        return Pruner(tmp_path, registry.host).prepared(registry)

    yield make


def test_listed_first(pruner: Callable[..., Pruner]) -> None:
    """Without --yes nothing is deleted; the list says of each image why it stays or not, and what would be freed."""
    project = pruner()
    before = project.tags()
    for arguments in (ALL, (*ALL, "--dry-run")):
        done = project.prune(*arguments)
        assert done.status == 0 and project.tags() == before and project.deletions() == []
        (stale,) = [line for line in done.out.splitlines() if line.startswith("stale")]
        assert stale == f"stale   {next(iter(project.old))}  nothing uses it"
        assert f"keep    {next(iter(project.new))}  used by v2" in done.out.splitlines()
        assert "1 of 3 runtime and checkpoint images are stale; 1 other tags were read" in done.err
        assert "3.0 MiB are in them alone" in done.err and "--yes deletes" in done.err


def test_checkpoints_have_no_date(pruner: Callable[..., Pruner]) -> None:
    """A checkpoint image is the same whenever it was made, so that no age says that it is stale: --undated does."""
    done = pruner().prune("--older-than", "0")
    assert done.status == 0 and "has no date (--undated)" in done.out and "stale " not in done.out


def test_what_is_used_stays(pruner: Callable[..., Pruner]) -> None:
    """Pruned, the live image is whole, builds go on, and what was pruned is built again from the files."""
    project = pruner()
    digest = project.registry.tag(NAME, "v2")
    done = project.prune(*ALL, "--yes")
    assert done.status == 0 and f"deleted {next(iter(project.old))}" in done.out.splitlines()
    assert project.deletions() == sorted(project.old) and project.checkpoints() == project.new
    assert project.whole("v2") == digest
    assert project.built(tag="v3")["bytes"]["checkpoint_read"] == 0, "what stayed is used"
    project.weights(seed=1)
    again = project.built(tag="v4")
    assert project.checkpoints() == project.old | project.new
    assert project.whole("v4").hex == again["digest"].partition(":")[2]


def test_garbage_collected_then(pruner: Callable[..., Pruner]) -> None:
    """After the registry has freed what prune said, everything that is tagged is whole, and old weights build again."""
    project = pruner()
    collect(project.registry)  # v1 itself, whose tag is gone
    document = json.loads(project.prune(*ALL, "--yes", "--json").out)
    assert document["deleted"] == sorted(project.old) and document["dry_run"] is False
    assert 3 * MIB < collect(project.registry) == document["bytes_in_stale_alone"]
    assert project.whole("v2") == project.registry.tag(NAME, "v2")
    project.weights(seed=1)
    project.built(tag="v1")
    project.whole("v1")


def collect(registry: FakeRegistry) -> int:
    """Take away every blob and manifest that no tag leads to, as distribution's garbage-collect -m: bytes of blobs."""
    with registry._lock:
        home = registry._repositories[NAME]
        wanted, todo = set(), list(home.tags.values())
        while todo:
            digest = todo.pop()
            wanted.add(digest)
            if digest in home.manifests:
                document = json.loads(home.manifests[digest][0])
                parts = [document.get("config"), *document.get("layers", ()), *document.get("manifests", ())]
                todo += [part["digest"] for part in parts if part and part["digest"] not in wanted]
        home.manifests = {digest: found for digest, found in home.manifests.items() if digest in wanted}
        lost = [digest for digest in home.blobs if digest not in wanted]
        size = sum(registry._file(digest).stat().st_size for digest in lost)
        home.blobs -= set(lost)
    return size


def test_no_deleting_by_tag(pruner: Callable[..., Pruner]) -> None:
    """Where no tag can be deleted alone (distribution 2.8) the manifest is, unless something that stays names it."""
    project = pruner("distribution-2.8")
    (old,) = project.old
    with project.registry._lock:
        tags = project.registry._repositories[NAME].tags
        tags["approved"] = tags[old]
    done = project.prune(*ALL, "--yes")
    assert done.status == 0 and project.old <= project.tags()
    assert "used by approved" in done.out or "approved needs its manifest" in done.out
    project.delete("approved")
    done = project.prune(*ALL, "--yes")
    assert done.status == 0 and f"deleted {old}" in done.out and project.checkpoints() == project.new
    assert project.deletions()[-1].startswith("sha256:")
    assert project.whole("v2") == project.registry.tag(NAME, "v2")


def test_no_deleting_at_all(pruner: Callable[..., Pruner]) -> None:
    """A registry that deletes nothing is refused with the next step, and everything stays."""
    project = pruner("no-deleting")
    before = project.tags()
    done = project.prune(*ALL, "--yes")
    assert done.status == 6 and "does not allow deleting" in done.err and "Traceback" not in done.err
    assert project.tags() == before


def test_no_right_to_delete(pruner: Callable[..., Pruner]) -> None:
    """Credentials that may push and not delete are told apart from a registry that cannot."""
    project = pruner()
    project.registry.fail(method="DELETE", status=403)
    done = project.prune(*ALL, "--yes")
    assert done.status in (5, 6) and "delete" in done.err and project.old <= project.tags()


@pytest.mark.parametrize("what", ["manifest", "configuration", "child"])
def test_unreadable(pruner: Callable[..., Pruner], what: str) -> None:
    """An image that cannot be read may use anything: nothing is deleted, exit 8, and its tag is named."""
    project = pruner()
    with project.registry._lock:
        home = project.registry._repositories[NAME]
        raw, media_type = home.manifests[home.tags["v2"]]
    manifest = Manifest.parse(raw, media_type)
    if what == "configuration":
        project.registry.drop_blob(manifest.config.digest)
    elif what == "manifest":
        project.registry.push(NAME, "odd", Index.create([manifest.descriptor(Platform("linux", "amd64"))]))
        with project.registry._lock:
            home.manifests[home.tags["odd"]] = (b"{", MEDIA.INDEX)
    else:
        child = Manifest.create(manifest.config, manifest.layers[:1])
        project.registry.push(NAME, "odd", Index.create([child.descriptor(Platform("linux", "arm64"))]))
    before = project.tags()
    done = project.prune(*ALL, "--yes")
    assert done.status == 8 and ("'v2'" if what == "configuration" else "'odd'") in done.err, done.err
    assert "nothing was deleted" in done.err and project.tags() == before and project.deletions() == []


def test_any_platform(pruner: Callable[..., Pruner]) -> None:
    """What a platform of an image uses is in use."""
    project = pruner()
    with project.registry._lock:
        home = project.registry._repositories[NAME]
        raw, media_type = home.manifests[home.tags["v2"]]
    child = Manifest.parse(raw, media_type).descriptor(Platform("linux", "amd64"))
    project.registry.push(NAME, "multi", Index.create([child]))
    project.delete("v2")
    done = project.prune(*ALL, "--yes")
    assert done.status == 0 and project.checkpoints() == project.new and "used by multi" in done.out


def test_mounted_checkpoints(pruner: Callable[..., Pruner]) -> None:
    """With placement "artifact" the image says which checkpoint image it mounts, so that it stays."""
    project = pruner()
    file = project.project / "layerkit.toml"
    file.write_text(file.read_text() + 'placement = "artifact"\n')
    project.seed(project.registry)
    project.weights(seed=3)
    project.prepare(tag="served")
    project.delete("v2")
    mounted = project.checkpoints() - project.old - project.new
    done = project.prune(*ALL, "--yes")
    assert done.status == 0 and project.checkpoints() == mounted and len(mounted) == 1


def test_an_older_mount(pruner: Callable[..., Pruner]) -> None:
    """An image that mounts a checkpoint without saying which keeps them all."""
    project = pruner()
    with project.survey() as survey:
        found = survey.look()
        (image,) = found.live
        unclear = type(image)(image.name, image.digest, frozenset(), True, image.manifests, image.blobs)
        verdicts = judge(found.stored, [unclear], EVERYTHING, NOW)
    assert {v.stored.tag for v in verdicts if not v.stale} == project.checkpoints()


def test_other_tags_are_nobodys(pruner: Callable[..., Pruner]) -> None:
    """The build cache, readable or not, tags that look like ours, and signatures are never touched."""
    project = pruner()
    with project.registry._lock:
        tags = project.registry._repositories[NAME].tags
        (old,) = project.old
        names = ("runtime-v1", "checkpoint-best", "sha256-0.sig", "latest")
        for name in names:
            tags[name] = tags["v2"]
    project.registry.push(NAME, "buildcache", Index.create([]))
    with project.registry._lock:
        home = project.registry._repositories[NAME]
        home.manifests[home.tags["buildcache"]] = (b"[]", MEDIA.INDEX)
    done = project.prune(*ALL, "--yes")
    assert done.status == 0, done.err
    assert {*names, "buildcache", "v2"} <= project.tags() and old not in project.tags()


def test_a_wrong_name(pruner: Callable[..., Pruner]) -> None:
    """Where no image is tagged at all, nothing says what is in use: nothing is deleted, exit 2."""
    project = pruner()
    project.delete("v2")
    before = project.tags()
    done = project.prune(*ALL, "--yes")
    assert done.status == 2 and "no image is tagged" in done.err and project.tags() == before


def test_a_cache_of_its_own(serve: Serve, tmp_path: Path) -> None:
    """A cache may serve several repositories: --yes wants them named, and an image of each keeps what it uses."""
    registry = serve("strict")
    project = Pruner(tmp_path, registry.host)
    project.registry = registry
    file = project.project / "layerkit.toml"
    file.write_text(TOML.format(name=f"{registry.host}/team/app", host=registry.host)
                    + f'[cache]\nrepository = "{registry.host}/{NAME}"\n')  # fmt: skip
    project.seed(registry)
    project.weights(seed=1)
    project.prepare(tag="v1")
    used = project.checkpoints()
    file.write_text(file.read_text().replace("team/app", "team/other"))
    project.weights(seed=2)
    project.prepare(tag="v1")
    assert project.prune(*ALL, "--yes").status == 2
    done = project.prune(*ALL, "--yes", "--live", f"{registry.host}/team/app")
    assert done.status == 0 and len(project.checkpoints()) == 2 and used <= project.checkpoints()
    project.weights(seed=3)
    project.prepare(tag="v1")
    done = project.prune(*ALL, "--yes", "--live", f"{registry.host}/team/app")
    assert len(project.checkpoints()) == 2 and used <= project.checkpoints()
    assert "other repositories may use this cache: name them, --live REPO" in project.prune(*ALL).err


def test_meanwhile(pruner: Callable[..., Pruner]) -> None:
    """What somebody pushes, uses or deletes between the look and the deletion is told, and not deleted."""
    project = pruner()
    (old,), (new,) = project.old, project.new
    with project.survey() as survey:
        found = survey.look()
        assert [v.stored.tag for v in judge(found.stored, found.live, EVERYTHING, NOW) if v.stale] == [old]
        with project.registry._lock:
            tags = project.registry._repositories[NAME].tags
            kept, tags[old] = tags[old], tags[new]
        assert [(o.tag, o.done) for o in sweep(survey, found, EVERYTHING, NOW)] == [(old, "kept")]
        tags[old] = kept
        project.weights(seed=1)
        project.prepare(tag="v5")
        clock = iter(range(0, 1000, 100))
        (outcome,) = sweep(survey, found, EVERYTHING, NOW, clock=lambda: next(clock))
        assert (outcome.done, outcome.reason) == ("kept", "used by v5, by now")
        project.delete("v5")
        del tags[old]
        assert [(o.tag, o.done) for o in sweep(survey, found, EVERYTHING, NOW)] == [(old, "gone")]
    assert project.deletions() == []


def test_an_endless_list(serve: Serve, tmp_path: Path) -> None:
    """Half a list of tags is not believed: a registry that never ends it is an error."""
    registry = serve("strict")
    project = Pruner(tmp_path, registry.host).prepared(registry)
    link = f'</v2/{NAME}/tags/list?n=1000>; rel="next"'
    registry.fail(
        method="GET", path="/tags/list", status=200, body=b'{"tags": ["v2"]}', headers={"Link": link}, times=-1
    )
    done = project.prune(*ALL, "--yes")
    assert done.status == 8 and "has no end" in done.err and project.deletions() == []


def test_usage(pruner: Callable[..., Pruner]) -> None:
    """Options that contradict, and numbers that are none, are usage errors; with --json a failure is an object."""
    project = pruner()
    assert project.prune("--yes", "--dry-run").status == 2
    assert project.prune("--keep", "-1").status == 2 and project.prune("--older-than", "x").status == 2
    project.delete("v2")
    done = project.prune("--json")
    assert done.status == 2 and json.loads(done.out)["error"]["exit_status"] == 2
