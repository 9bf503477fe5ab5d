"""A registry as the destination: what it lost is brought again, tags move together, and half an image is no success."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from layerkit.checkpoint import Ownership, Packer, arrange, find
from layerkit.destinations.registry import RegistryDestination
from layerkit.engine import BakeResult
from layerkit.errors import CheckpointError, ConflictError, IntegrityError, RefusedError
from layerkit.events import Event, Phase, silent
from layerkit.oci import MEDIA, Descriptor, Digest, Index, Manifest, Platform, Reference, dump
from layerkit.pipeline import build
from layerkit.project import load
from layerkit.registry import Client, MissingBlobsError
from layerkit.results import Result
from layerkit.settings import Settings
from layerkit.state import State
from layerkit.testing import FakeRegistry, Request
from registry.pushing import NAME, Played, Pushing, image, tar_of, whole_image
from registry.support import MIB, Connect

Serve = Callable[..., FakeRegistry]
Seeded = Callable[..., tuple[FakeRegistry, Pushing]]
OTHER = image([(tar_of({"x": b"1"}), "ADD x")])
NEWER = image([(tar_of({"x": b"2"}), "ADD x")])


@pytest.fixture
def seeded(tmp_path: Path, serve: Serve) -> Seeded:
    """A project with weights, of which base and runtime image are there."""

    def make(profile: str = "strict", more: str = "") -> tuple[FakeRegistry, Pushing]:
        registry = serve(profile)
        pushing = Pushing(tmp_path, registry.host)
        configure(pushing, more)
        pushing.seed(registry)
        pushing.weights()
        return registry, pushing

    return make


def configure(pushing: Pushing, more: str) -> None:
    with (pushing.project / "layerkit.toml").open("a") as file:
        file.write(more)


def push(pushing: Pushing, *tags: str, listener: Callable[[Event], None] = lambda event: None) -> Result:
    settings = Settings.from_environment(pushing.environ)
    return build(load(None, root=pushing.project), tags=tags or ["v1"], push=True, settings=settings, listener=listener)


def whole(registry: FakeRegistry, name: str = NAME, tag: str = "v1") -> Digest:
    with Client(retries=1) as client:
        return whole_image(client.repository(Reference.parse(f"{registry.host}/{name}")), tag)


def digests(result: Result, role: str) -> list[Digest]:
    return [layer.digest for layer in result.layers if layer.role == role]


@pytest.mark.parametrize("value", ['"sha256:1"', "3", "true", "[1]", '{"kind": [], "time": "x"}', "null", "{"])
def test_damaged_state(seeded: Seeded, value: str) -> None:
    """Whatever the records of the state folder became, they are found out again, for the same image (FAULTS 52)."""
    registry, pushing = seeded()
    first = push(pushing)
    with contextlib.closing(sqlite3.connect(pushing.state / "state.sqlite")) as database, database:
        assert database.execute("UPDATE records SET value = ?", (value,)).rowcount > 5
    again = push(pushing, "v2")
    assert again.digest == first.digest == whole(registry, tag="v2") and again.rebuilt == ()


# ---------------------------------------------------------------------------------------------- what the registry lost


def test_layer_that_buildkit_skipped(seeded: Seeded, serve: Serve) -> None:
    """A base's layer that BuildKit did not send, for HEAD says it is there, and that is gone: copied from the base."""
    registry, pushing = seeded("lying-head")
    (lost,) = digests(push(pushing), "base")
    elsewhere = serve()
    base, blobs = pushing.base()
    elsewhere.push("team/base", "1", base, blobs)
    file = pushing.project / "layerkit.toml"
    file.write_text(file.read_text().replace(f"{registry.host}/team/base", f"{elsewhere.host}/team/base"))
    registry.drop_blob(lost)
    result = Played(pushing).run()
    assert result.builder_ran and whole(registry) == result.digest


def test_layer_that_nobody_has(seeded: Seeded) -> None:
    """A layer of the runtime image that BuildKit did not send and nobody has: said with the next step, no tag (8)."""
    registry, pushing = seeded("lying-head")
    (lost,) = digests(push(pushing), "code")
    registry.drop_blob(lost)
    with pytest.raises(IntegrityError, match=f"says that it has layer {lost.short}.*its bytes are gone") as caught:
        Played(pushing, ["v2"]).run()
    assert "--no-cache" in caught.value.hint and registry.tag(NAME, "v2") is None


def test_layer_lost_of_a_whole_image(seeded: Seeded) -> None:
    """A layer that BuildKit did not send with the whole image, and that is gone: status 8, and no success."""
    registry, pushing = seeded("lying-head")
    for blob in OTHER[1]:
        registry.put_blob(NAME, blob)
    registry.drop_blob(OTHER[0].manifest.layers[0].digest)
    played = Played(pushing, way="buildkit")
    played.whole = OTHER
    with pytest.raises(IntegrityError, match="its bytes are gone"):
        played.run()


def test_layer_lost_beside_the_cache(seeded: Seeded) -> None:
    """cache.repository: a layer that only the image's own repository lost is brought there by the next build."""
    registry, pushing = seeded()
    configure(pushing, f'[cache]\nrepository = "{registry.host}/team/cache"\n')
    runtime, blobs = pushing.runtime()
    registry.push("team/cache", f"runtime-{pushing.runtime_key()}", runtime, blobs)
    first = push(pushing)
    assert push(pushing).uploaded == 0
    (lost,) = digests(first, "checkpoint")
    registry._repositories[NAME].blobs.discard(str(lost))
    again = push(pushing)
    assert again.digest == first.digest == whole(registry) and not again.builder_ran
    assert again.uploaded < 16 * 1024  # mounted


@pytest.mark.parametrize("damage", ["empty", "gone", "other bytes"])
@pytest.mark.parametrize("which", ["checkpoint-", "v1"])
def test_damaged_manifest(seeded: Seeded, which: str, damage: str) -> None:
    """A manifest that cannot be read counts as lost: the next build puts it there again, and is no error."""
    registry, pushing = seeded()
    first = push(pushing)
    home = registry._repositories[NAME]
    (name,) = [tag for tag in home.tags if tag.startswith(which)]
    digest = home.tags[name]
    raw, kind = home.manifests.pop(digest)
    if damage != "gone":
        home.manifests[digest] = (b"" if damage == "empty" else raw[:-1] + b" ", kind)
    assert push(pushing).digest == first.digest
    mended = Manifest.parse(home.manifests[home.tags[name]][0])
    assert mended.layers == Manifest.parse(raw).layers and whole(registry) == first.digest


def test_fault_24_layer_that_goes_before_the_manifest(seeded: Seeded) -> None:
    """FAULTS 24: a layer or configuration of ours that goes right before a manifest names it is sent once more."""
    registry, pushing = seeded()

    def lose(request: Request) -> None:
        for digest in {str(item) for item in mine()}:
            registry._repositories[NAME].blobs.discard(digest)

    def mine() -> Sequence[Digest]:
        home = registry._repositories[NAME]
        return [Digest.parse(digest) for digest in home.blobs if digest not in before]

    before = set(registry._repositories[NAME].blobs)
    for tag in ("checkpoint-", "v1"):
        registry.fail(method="PUT", path=f"manifests/{tag}", call=lose)
    result = push(pushing)
    assert result.digest == whole(registry) and registry.open_sessions == 0


def test_fault_24_registry_that_does_not_say_what_is_missing(seeded: Seeded) -> None:
    """FAULTS 24: where it is not said which blob is missing, all that is ours is sent once more."""
    registry, pushing = seeded()
    unknown = '{"errors":[{"code":"MANIFEST_BLOB_UNKNOWN","message":"blob unknown"}]}'
    registry.fail(method="PUT", path="manifests/v1", status=404, body=unknown)
    result = push(pushing)
    (size,) = (layer.size for layer in result.layers if layer.role == "checkpoint")
    assert result.digest == whole(registry) and registry.received_bytes("PATCH") >= 2 * size


def test_fresh_runner_leaves_nothing(seeded: Seeded) -> None:
    """A machine that knows nothing of the weights finds all of them there, and puts no manifest a second time."""
    registry, pushing = seeded()
    first = push(pushing)
    before = dict(registry._repositories[NAME].manifests)
    registry.requests.clear()
    pushing.state = pushing.root / "another machine"
    second = push(pushing)
    assert (second.digest, second.uploaded) == (first.digest, 0)
    assert {layer.action for layer in second.layers} == {"reused"} and second.checkpoint_read == 3 * MIB
    assert registry._repositories[NAME].manifests == before and registry.asked("PUT") == []


def test_what_buildkit_is_asked_for(registry: FakeRegistry, connect: Connect) -> None:
    """BuildKit pushes OCI images under their names: a runtime image dated, for layerkit prune; http where it must."""
    home = connect(registry)
    with State() as state:
        made = RegistryDestination(home, home, state, insecure=True)
        runtime, image = made.output("k" * 40), made.finished(["v1", "v2"])
        https = RegistryDestination(home, home, state).finished(["v1"])
    assert runtime.names == (f"{registry.host}/{NAME}:runtime-{'k' * 40}",)
    assert image.names == (f"{registry.host}/{NAME}:v1", f"{registry.host}/{NAME}:v2")
    pushed = "type=image,push=true,store=false,oci-mediatypes=true"
    assert https.outputs == (pushed,) and image.outputs == (f"{pushed},registry.insecure=true",)
    (text,) = runtime.outputs
    assert text.startswith(f"{pushed},annotation.org.opencontainers.image.created=20")


def test_fault_24_layer_of_buildkit_that_goes(seeded: Seeded) -> None:
    """FAULTS 24: one that only BuildKit has cannot be sent again: refused as missing, and no tag."""
    registry, pushing = seeded()
    (code,) = (layer for layer in pushing.runtime()[0].manifest.layers[2:])
    registry.fail(
        method="PUT", path="manifests/v1", call=lambda _: registry._repositories[NAME].blobs.discard(str(code.digest))
    )
    with pytest.raises(MissingBlobsError):
        push(pushing)
    assert registry.tag(NAME, "v1") is None


def test_builder_that_pushes_elsewhere(seeded: Seeded) -> None:
    """A builder that reaches another registry by the same name is no success: said with what to look at (8)."""
    registry, pushing = seeded()
    (pushing.project / "serve.py").write_text("print('new')\n")

    class Elsewhere(Played):
        def bake(self, targets: Sequence[Any], stopped: Callable[[], bool]) -> BakeResult:
            return BakeResult({}, 0, frozenset())

    with pytest.raises(IntegrityError, match=r"BuildKit pushed runtime-.*, and it is not there") as caught:
        Elsewhere(pushing).run()
    assert "reach the same registry" in caught.value.hint and registry.tag(NAME, "v1") is None


@pytest.mark.parametrize("form", ["image", "index"])
def test_layers_of_the_build_cache(seeded: Seeded, form: str) -> None:
    """What BuildKit takes from its cache in the repository is reused, and not counted as sent by it."""
    registry, pushing = seeded()
    (pushing.project / "serve.py").write_text("print('new')\n")
    runtime, blobs = pushing.runtime()
    layers = runtime.manifest.layers
    cached = Index.create(layers) if form == "index" else runtime.manifest
    registry.push(NAME, "buildcache", cached, blobs)
    result = Played(pushing).run()
    assert result.builder_ran
    assert {layer.role: layer.action for layer in result.layers} == {
        "base": "reused", "checkpoint": "packed", "code": "reused",
    }  # fmt: skip
    (packed,) = (layer.size for layer in result.layers if layer.role == "checkpoint")
    assert result.reused == layers[0].size + layers[2].size and result.uploaded < packed + 16 * 1024


# ----------------------------------------------------------------------------------------------------- attestations


def attested(pushing: Pushing, size: int) -> tuple[Index, list[Manifest], list[bytes]]:
    """The runtime image with an SBOM of *size* bytes as BuildKit attaches it: index, its manifests, blobs."""
    runtime, blobs = pushing.runtime()
    subject = [{"name": "x", "digest": {"sha256": runtime.manifest.digest.hex}}]
    statement = dump({"subject": subject, "predicate": {"files": "x" * size}})
    digest = Digest.of(statement)
    config = dump({"os": "unknown", "rootfs": {"type": "layers", "diff_ids": [str(digest)]}})
    manifest = Manifest.create(
        Descriptor(MEDIA.CONFIG, Digest.of(config), len(config)), [Descriptor(MEDIA.IN_TOTO, digest, len(statement))]
    )
    said = {
        "vnd.docker.reference.type": "attestation-manifest",
        "vnd.docker.reference.digest": str(runtime.manifest.digest),
    }
    index = Index.create(
        [
            runtime.manifest.descriptor(runtime.platform),
            manifest.descriptor(Platform("unknown", "unknown"), said),
        ]
    )
    return index, [runtime.manifest, manifest], [*blobs, statement, config]


@pytest.mark.parametrize("profile", ["strict", "ghcr-4mib"])
def test_large_sbom(seeded: Seeded, profile: str) -> None:
    """An SBOM of over 8 MiB follows the image, as a small one does; by chunks where the registry takes no more."""
    registry, pushing = seeded(profile)
    index, manifests, blobs = attested(pushing, 9 * MIB)
    for manifest in manifests:
        registry.push(NAME, "", manifest, blobs)
    registry.push(NAME, f"runtime-{pushing.runtime_key()}", index)
    result = push(pushing)
    with Client() as client:
        made = client.repository(Reference.parse(f"{registry.host}/{NAME}")).manifest("v1")
    assert isinstance(made, Index) and made.digest == result.digest and len(made.manifests) == 2
    assert push(pushing).uploaded == 0


def test_sbom_that_is_too_large(seeded: Seeded, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is too large to be rewritten: BuildKit builds the whole image, and it is said why."""
    registry, pushing = seeded()
    monkeypatch.setattr("layerkit.destinations.registered._MOST_STATED", 2 * MIB)
    index, manifests, blobs = attested(pushing, 3 * MIB)
    for manifest in manifests:
        registry.push(NAME, "", manifest, blobs)
    registry.push(NAME, f"runtime-{pushing.runtime_key()}", index)

    class Attesting(Played):
        def bake(self, targets: Sequence[Any], stopped: Callable[[], bool]) -> BakeResult:
            result = super().bake(targets, stopped)
            if targets[0].name != "image":
                registry.push(NAME, f"runtime-{pushing.runtime_key()}", index)
            return result

    played = Attesting(pushing)
    played.whole = OTHER[0], [*OTHER[1]]
    result = played.run()
    assert played.baked == ["runtime-0", "image"] and f"over {2 * MIB}" in result.why


# ------------------------------------------------------------------------------------------------------------- tags


def tags_of(registry: FakeRegistry, *tags: str) -> Sequence[Digest | None]:
    return [registry.tag(NAME, tag) for tag in tags]


def test_tag_moved_among_several(seeded: Seeded) -> None:
    """One of several tags was moved by somebody else while the build ran: none is moved (9)."""
    registry, pushing = seeded()
    for tag in ("a", "b"):
        registry.push(NAME, tag, *OTHER)

    def listen(event: Event) -> None:
        if isinstance(event, Phase) and event.name == "compose" and event.state == "started":
            registry.push(NAME, "b", *NEWER)

    with pytest.raises(ConflictError, match="tag 'b' moved"):
        push(pushing, "a", "b", listener=listen)
    assert tags_of(registry, "a", "b") == [OTHER[0].manifest.digest, NEWER[0].manifest.digest]


@pytest.mark.parametrize("way", ["compose", "buildkit"])
def test_tag_moved_after_ours(seeded: Seeded, way: str) -> None:
    """A push that comes right after ours, or after BuildKit's, is told, and no success claimed for its image (9)."""
    registry, pushing = seeded()

    def another(request: Request) -> None:
        if registry.tag(NAME, "b") not in (None, NEWER[0].manifest.digest):
            registry.push(NAME, "b", *NEWER)

    registry.fail(method="HEAD", path="manifests/b", times=-1, call=another)
    played = Played(pushing, ["a", "b"], way=way)
    played.whole = OTHER
    with pytest.raises(ConflictError, match="tag 'b' names ") as caught:
        played.run()
    ours, theirs = tags_of(registry, "a", "b")
    assert ours and theirs == NEWER[0].manifest.digest
    assert ours.short in str(caught.value) and theirs.short in str(caught.value)


def test_tag_that_buildkit_did_not_push(seeded: Seeded) -> None:
    """A builder whose push went elsewhere, by the same name, is no success (8)."""
    registry, pushing = seeded()
    played = Played(pushing, way="buildkit")
    played.whole = OTHER
    registry.fail(method="HEAD", path="manifests/v1", status=404, times=-1)
    with pytest.raises(IntegrityError, match="tag 'v1' names nothing after") as caught:
        played.run()
    assert "reach the same registry" in caught.value.hint


def test_tag_refused_among_several(seeded: Seeded) -> None:
    """Where a tag is refused after others were moved, it is said which (6)."""
    registry, pushing = seeded("immutable-tags")
    registry.push(NAME, "b", *OTHER)
    with pytest.raises(RefusedError, match=r"immutable.*; before that a moved to ") as caught:
        push(pushing, "a", "b")
    made = registry.tag(NAME, "a")
    assert made is not None and made.short in str(caught.value)
    assert tags_of(registry, "b") == [OTHER[0].manifest.digest]


# ---------------------------------------------------------------------------------------------------------- the layers


def test_refused_layer_ends_the_hashing(
    tmp_path: Path, registry: FakeRegistry, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A layer that is refused is said at once: the others do not wait for what is hashed before them."""
    monkeypatch.setattr("layerkit.destinations.sending.HASH_FIRST", 36 * MIB)  # "a" is sent at once, "b" hashed first
    for name, size in (("a", 40 * MIB), ("b", 33 * MIB)):
        with (tmp_path / name).open("wb") as file:
            file.truncate(size)
    registry.fail(method="POST", path="blobs/uploads", status=400, times=-1)
    read = 0

    def slowly(count: int) -> None:
        nonlocal read
        read += count
        time.sleep(0.02)

    home = connect(registry)
    packer = Packer(arrange(find(".", tmp_path), Ownership("/m")), slowly).start()
    assert len(packer.blueprints) == 2
    with State() as state, pytest.raises(RefusedError, match="HTTP 400"):
        RegistryDestination(home, home, state).send(packer, silent, lambda: False)
    assert read < 40 * MIB


def test_fault_7_file_that_changed_unseen(tmp_path: Path, registry: FakeRegistry, connect: Connect) -> None:
    """FAULTS 7, 40: a file whose bytes changed after they were hashed, but not its time (as through a mapping that is
    written to), is an error of the checkpoint, with 3, and not of what lies between us and the registry."""
    file = tmp_path / "a"
    file.write_bytes(bytes(3 * MIB))
    packer = Packer(arrange(find(".", tmp_path), Ownership("/m"))).start()
    packer.digest(0)
    before = file.stat()
    with file.open("r+b") as stream:
        stream.write(b"other")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    home = connect(registry)
    with State() as state, pytest.raises(CheckpointError, match="a changed while it was read") as caught:
        RegistryDestination(home, home, state).send(packer, silent, lambda: False)
    packer.stop()
    assert caught.value.exit_status == 3
    assert registry.open_sessions == 0
