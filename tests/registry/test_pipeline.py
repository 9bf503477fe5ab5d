"""The order of a build's steps, with BuildKit played: what is done where composing is refused, and by whom."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from layerkit.errors import ConflictError, RefusedError
from layerkit.events import Event, Note
from layerkit.testing import FakeRegistry
from registry.pushing import NAME, Played, Pushing, image, tar_of

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
