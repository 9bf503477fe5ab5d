"""The order of a build's steps, with BuildKit played: what is done where composing is refused, and by whom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from layerkit.checkpoint import compress
from layerkit.errors import ConflictError, RefusedError, TransientError
from layerkit.events import Event, Note
from layerkit.lock import read
from layerkit.registry import Client
from layerkit.testing import FakeRegistry
from registry.pushing import NAME, Played, Pushing, image, tar_of
from registry.support import MIB, pattern

Serve = Callable[..., FakeRegistry]
OTHER = image([(tar_of({"x": b"1"}), "ADD x")])
WHOLE = image([(tar_of({"usr/bin/python3": b"python"}), "ADD rootfs"), (tar_of({"w": b"1"}), "COPY . /app/model/")])


def project(root: Path, registry: FakeRegistry, weights: bool = True) -> Pushing:
    pushing = Pushing(root, registry.host)
    pushing.seed(registry)
    if weights:
        pushing.weights()
    return pushing


def change(pushing: Pushing) -> None:
    """New code: BuildKit has to run."""
    (pushing.project / "serve.py").write_text("print('new')\n")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"method": "GET", "path": "manifests/runtime-"}, "this is safe to run again"),
        ({"method": "PATCH"}, "this is safe to run again: what arrived is used"),
    ],
    ids=["looking", "sending"],
)
def test_hint_of_what_may_pass(tmp_path: Path, serve: Serve, fault: dict[str, str], said: str) -> None:
    """That what arrived is used is said where something was sent, and not of a registry that was only asked."""
    registry = serve()
    pushing = project(tmp_path, registry)
    registry.fail(status=503, times=-1, **fault)
    played = Played(pushing)
    client = Client(sleep=lambda seconds: None, retries=1)
    vars(played.to).update(client=client, base_client=client)
    with pytest.raises(TransientError) as caught:
        played.run()
    assert caught.value.hint == said


def test_immutable_tag(tmp_path: Path, serve: Serve) -> None:
    """A tag that is immutable is refused (6) also where BuildKit had to run: it gets no checkpoint to try it with."""
    registry = serve("immutable-tags")
    pushing = project(tmp_path, registry)
    pushing.prepare(tag="v1")
    before = registry.tag(NAME, "v1")
    change(pushing)
    played = Played(pushing)
    with pytest.raises(RefusedError, match="the tag is immutable"):
        played.run()
    assert played.baked == ["runtime-0"] and registry.tag(NAME, "v1") == before


def test_refused_without_weights(tmp_path: Path, serve: Serve) -> None:
    """Weights by reference: where composing is refused BuildKit is not asked, for it would get no weights."""
    registry = serve()
    project(tmp_path / "a", registry).prepare(tag="weights")
    pushing = project(tmp_path / "b", registry, weights=False)
    file = pushing.project / "layerkit.toml"
    text = file.read_text().replace('path = "weights"', f'path = "oci://{registry.host}/{NAME}:weights"')
    file.write_text(text.replace(f'"{registry.host}/{NAME}"', f'"{registry.host}/team/other"'))
    for path in ("manifests/checkpoint-", "manifests/v1"):
        refusal = registry.fail(method="PUT", path=f"team/other/{path}", status=400, times=-1)
        played = Played(pushing)
        with pytest.raises(RefusedError, match="HTTP 400"):
            played.run()
        assert "image" not in played.baked and refusal.hits
        registry.heal()


def refused(pushing: Pushing, registry: FakeRegistry, listener: Callable[[Event], None]) -> Played:
    """A build whose code changed, to a registry that does not take the checkpoint image."""
    change(pushing)
    registry.fail(method="PUT", path="manifests/checkpoint-", status=400, times=-1)
    played = Played(pushing, listener=listener)
    played.whole = WHOLE
    return played


def test_refused_checkpoint(tmp_path: Path, serve: Serve) -> None:
    """A registry that does not take the checkpoint image gets the whole one from BuildKit, and it is said why."""
    registry = serve()
    pushing = project(tmp_path, registry)
    notes: list[str] = []
    played = refused(pushing, registry, lambda event: notes.append(event.message) if isinstance(event, Note) else None)
    result = played.run()
    assert played.baked == ["runtime-0", "image"] and result.way == "buildkit"
    assert any(note.startswith("composing was not possible") for note in notes)
    assert registry.tag(NAME, "v1") == WHOLE[0].manifest.digest == result.digest


def test_tag_moved_before_buildkit_pushes(tmp_path: Path, serve: Serve) -> None:
    """BuildKit is not asked to push over a tag that somebody else moved while composing was tried (9)."""
    registry = serve()
    pushing = project(tmp_path, registry)

    def listen(event: Event) -> None:
        if isinstance(event, Note) and event.message.startswith("composing was not possible"):
            registry.push(NAME, "v1", *OTHER)

    played = refused(pushing, registry, listen)
    with pytest.raises(ConflictError, match="tag 'v1' moved from nothing to"):
        played.run()
    assert played.baked == ["runtime-0"] and registry.tag(NAME, "v1") == OTHER[0].manifest.digest


# ---------------------------------------------------------------------------------------------------- what it remembers


def test_what_a_build_leaves_behind(tmp_path: Path, serve: Serve) -> None:
    """A result has its plan and when its parts ran; a later plan is told what it took; the lock says what went in."""
    registry = serve()
    pushing = project(tmp_path, registry)
    lock = pushing.project / "layerkit.lock"
    change(pushing)
    first = Played(pushing).run()
    assert first.plan is not None and first.plan.estimate is None and first.plan.pack
    assert {span.name for span in first.timeline} >= {"plan", "build", "checkpoint", "compose"}
    assert set(first.seconds) == {"plan", "build", "checkpoint", "compose", "total"}
    assert all(0 < seconds <= first.seconds["total"] for seconds in first.seconds.values())
    locked = read(lock)
    assert locked is not None and locked.checkpoint is not None
    assert locked.checkpoint.repository == f"{registry.host}/{NAME}"
    with Played(pushing) as session:
        assert session.plan().estimate is not None
    pushing.weights(seed=1)
    played = Played(pushing, way="buildkit")
    played.whole = WHOLE
    assert played.run().why == "asked for" and read(lock) == locked, "which layers the image has nobody knows"


def test_source_date_epoch(tmp_path: Path, serve: Serve) -> None:
    """SOURCE_DATE_EPOCH is an input: with another one the runtime image is another."""
    pushing = project(tmp_path, serve())
    keys = []
    for epoch in ("", "0", "1"):
        pushing.environment = {"SOURCE_DATE_EPOCH": epoch} if epoch else {}
        with Played(pushing) as session:
            keys.append(session.inputs().runtime_key("linux/amd64"))
    assert len(set(keys)) == 3


# ------------------------------------------------------------------------------------------------------- what it counts


def test_counts_of_whole(tmp_path: Path, serve: Serve) -> None:
    """Of an image that BuildKit built whole, layers, roles and bytes are read back from the registry."""
    registry = serve()
    pushing = project(tmp_path, registry)
    elsewhere = serve()
    base, blobs = pushing.base()
    elsewhere.push("team/base", "1", base, blobs)
    file = pushing.project / "layerkit.toml"
    file.write_text(file.read_text().replace(f"{registry.host}/team/base", f"{elsewhere.host}/team/base"))
    for tag, reused in (("v1", 0), ("v1", 2)):
        played = Played(pushing, [tag], way="buildkit")
        played.whole = WHOLE
        result = played.run()
        assert [layer.role for layer in result.layers] == ["base", "checkpoint"]
        assert [layer.action for layer in result.layers] == ["built"] * (2 - reused) + ["reused"] * reused
        sizes = sum(layer.size for layer in WHOLE[0].manifest.layers)
        assert (result.uploaded, result.reused) == ((0, sizes) if reused else (sizes, 0))
        assert result.checkpoint_read == 3 * MIB


def test_counts_of_copies(tmp_path: Path, serve: Serve) -> None:
    """cache.repository in another registry: what is copied into the image's own counts as uploaded."""
    registry, cache = serve(), serve()
    pushing = project(tmp_path, registry)
    with (pushing.project / "layerkit.toml").open("a") as file:
        file.write(f'[cache]\nrepository = "{cache.host}/team/cache"\n')
    begun = len(registry.requests), len(cache.requests)
    result = Played(pushing).run()
    assert result.builder_ran
    received = [
        sum(request.received for request in one.requests[number:] if request.method != "GET")
        for one, number in zip((registry, cache), begun, strict=True)
    ]
    # Of the runtime image BuildKit pushes manifest, configuration and placeholder too, which the image has not.
    manifest = pushing.runtime()[0].manifest
    unused = len(manifest.raw) + manifest.config.size + manifest.layers[1].size
    assert result.uploaded == sum(received) - unused


@pytest.mark.parametrize("near", [True, False])
def test_base_of_own_dockerfile(tmp_path: Path, serve: Serve, near: bool) -> None:
    """Whether the base is in the same registry is asked of the Dockerfile, not of image.base's default."""
    registry = serve()
    pushing = project(tmp_path, registry)
    elsewhere = serve()
    base, blobs = pushing.base()
    elsewhere.push("team/base", "1", base, blobs)
    start = (registry if near else elsewhere).host
    (pushing.project / "Dockerfile").write_text(
        f"FROM {start}/team/base:1\nCOPY --link --from=checkpoint . /app/model/\nCOPY --link serve.py /app/\n"
    )
    (pushing.project / "layerkit.toml").write_text(
        f'[image]\nname = "{registry.host}/{NAME}"\nplatforms = ["linux/amd64"]\ndockerfile = "Dockerfile"\n'
        '[checkpoint]\npath = "weights"\n'
    )
    result = Played(pushing).run()
    action = next(layer.action for layer in result.layers if layer.role == "base")
    assert action == ("mounted" if near else "built")


def test_artifact_beside_buildkit(tmp_path: Path, serve: Serve) -> None:
    """placement = "artifact" with --way buildkit: the image is BuildKit's, the checkpoint is packed beside it."""
    registry = serve()
    pushing = project(tmp_path, registry)
    with (pushing.project / "layerkit.toml").open("a") as file:
        file.write('placement = "artifact"\n')
    played = Played(pushing, way="buildkit")
    result = played.run()
    assert played.baked == ["image"] and result.checkpoint_read == 3 * MIB and result.uploaded > 3 * MIB
    (kept,) = [tag for tag in registry._repositories[NAME].tags if tag.startswith("checkpoint-")]
    assert kept and "checkpoint" not in {layer.role for layer in result.layers}


# -------------------------------------------------------------------------------------------------------- compression


@pytest.mark.parametrize("profile", ["strict", "immutable-tags"])
def test_another_zstd(tmp_path: Path, serve: Serve, profile: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose zstd makes other bytes of the same tar takes the layers that are kept: the same image."""
    registry = serve(profile)
    pushing = project(tmp_path, registry)
    with (pushing.project / "layerkit.toml").open("a") as file:
        file.write('compression = "zstd"\n')
    (pushing.project / "weights" / "model.pt").write_bytes(bytes(range(256)) * 4096 + pattern(MIB))
    first = Played(pushing, ["v1"]).run()
    pushing.state = tmp_path / "another machine"
    monkeypatch.setattr(compress, "LEVEL", 3)
    second = Played(pushing, ["v2"]).run()
    assert second.digest == first.digest and second.rebuilt == ()
    assert second.dropped == 0 and second.uploaded > MIB  # what its own zstd made was sent, in vain
    assert second.reused == sum(layer.size for layer in second.layers)
