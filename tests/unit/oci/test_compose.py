from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerkit.errors import IntegrityError, RefusedError
from layerkit.oci import CREATED, MEDIA, Config, Image, Layer, Manifest, compose, dump, layers_image
from unit.support import image, layer

NAMES = ["base", "dependencies", "placeholder", "code"]
RUNTIME = image([layer(name) for name in NAMES])


@given(st.integers(0, 3), st.integers(0, 4), st.booleans(), st.booleans())
def test_lists_stay_parallel(position: int, count: int, history: bool, docker: bool) -> None:
    """Wherever the placeholder is and however many layers take its place: layers, diff_ids, history stay in step."""
    runtime = image([layer(name) for name in NAMES], history=history, docker=docker)
    weights = [layer(f"weights {n}", media_type=MEDIA.LAYER) for n in range(count)]
    made = compose(runtime, position, weights)
    expected = [layer(name) for name in NAMES]
    expected[position : position + 1] = weights
    assert [d.digest for d in made.manifest.layers] == [item.descriptor.digest for item in expected]
    assert list(made.config.diff_ids) == [item.diff_id for item in expected]
    assert made.created_by == tuple(item.created_by if history else "" for item in expected)


def test_old_image_does_not_move() -> None:
    """Composing returns a new image: bytes, digest and configuration of the old one are what they were."""
    before = (RUNTIME.manifest.raw, RUNTIME.config.raw, RUNTIME.manifest.digest, RUNTIME.manifest.layers)
    document = copy.deepcopy(RUNTIME.config.document)
    made = compose(
        RUNTIME, 2, [layer("weights")], environment={"A": "b"}, labels={"c": "d"}, annotations={"e": "f"},
        roles=["base", "dependencies", "checkpoint", "code"],
    )  # fmt: skip
    assert (RUNTIME.manifest.raw, RUNTIME.config.raw, RUNTIME.manifest.digest, RUNTIME.manifest.layers) == before
    assert RUNTIME.config.document == document
    assert made.manifest.digest != RUNTIME.manifest.digest and made.config.digest != RUNTIME.config.digest


def test_deterministic() -> None:
    """Composing the same twice gives the same digest; so does composing in two steps."""
    one = compose(RUNTIME, 2, [layer("weights")], labels={"b": "2", "a": "1"})
    assert one == compose(RUNTIME, 2, [layer("weights")], labels={"a": "1", "b": "2"})
    roles = ["base", "dependencies", "checkpoint", "code"]
    at_once = compose(RUNTIME, 2, [layer("weights")], labels={"b": "2", "a": "1"}, roles=roles)
    assert compose(one, None, (), roles=roles) == at_once


def test_swap_changes_nothing_else() -> None:
    """Other weights: the other layers, their diff_ids and the history around stay the same."""
    one = compose(RUNTIME, 2, [layer("weights 1")])
    two = compose(RUNTIME, 2, [layer("weights 2")])
    differing = [a != b for a, b in zip(one.manifest.layers, two.manifest.layers, strict=True)]
    assert differing == [False, False, True, False]


def test_history_of_the_checkpoint() -> None:
    """The checkpoint's entry has the placeholder's time and the instruction that it stands for; ENV lines stay."""
    made = compose(RUNTIME, 2, [layer("COPY weights")])
    assert made.config.history[3] == {
        "created": "2026-01-01T00:00:00Z",
        "created_by": "COPY weights",
        "comment": "layerkit",
    }
    assert made.config.history[1]["empty_layer"] is True


def test_environment_and_labels() -> None:
    """Variables and labels are added or replaced by name; what else is there stays, in order."""
    made = compose(RUNTIME, None, (), environment={"LANG": "de", "Z": "1=2", "B": ""}, labels={"ours": "x"})
    assert made.config.settings["Env"] == ["PATH=/bin", "B=", "LANG=de", "Z=1=2"]
    assert made.config.environment == {"PATH": "/bin", "B": "", "LANG": "de", "Z": "1=2"}
    assert made.config.labels == {"theirs": "kept", "ours": "x"}


@pytest.mark.parametrize("settings", [{}, {"Env": None, "Labels": None}, None], ids=["empty", "nulls", "null"])
def test_image_without_settings(settings: dict[str, None] | None) -> None:
    """An image whose config is empty or null gets environment and labels like any other."""
    made = image([layer("a")])
    config = Config.parse(dump({**made.config.document, "config": settings}))
    bare = Image(Manifest.create(config.descriptor, made.manifest.layers), config)
    found = compose(bare, None, (), environment={"A": "b"}, labels={"c": "d"})
    assert found.config.environment == {"A": "b"} and found.config.labels == {"c": "d"}


def test_docker_types_become_oci() -> None:
    """A manifest never mixes Docker's media types with OCI's (FAULTS 25)."""
    runtime = image([layer("a", media_type=MEDIA.DOCKER_LAYER_GZIP), layer("b")], docker=True)
    made = compose(runtime, 1, [layer("weights", media_type=MEDIA.LAYER)])
    assert made.manifest.media_type == MEDIA.MANIFEST and made.manifest.config.media_type == MEDIA.CONFIG
    assert [d.media_type for d in made.manifest.layers] == [MEDIA.LAYER_GZIP, MEDIA.LAYER]


def test_roles_are_annotations() -> None:
    """The role of each layer is an annotation of its descriptor, beside those that it had."""
    roles = ["base", "dependencies", "checkpoint", "code"]
    made = compose(RUNTIME, 2, [layer("w")], roles=roles)
    assert [d.annotations["dev.layerkit.role"] for d in made.manifest.layers] == roles
    with pytest.raises(IntegrityError, match="2 roles for 4 layers"):
        compose(RUNTIME, 2, [layer("w")], roles=["base", "code"])


@pytest.mark.parametrize("position", [-1, 4, 100])
def test_no_such_layer(position: int) -> None:
    """A position that the image does not have is refused."""
    with pytest.raises(IntegrityError, match=f"no layer {position}"):
        compose(RUNTIME, position, [layer("w")])


def test_too_many_layers() -> None:
    """An image that could not be run is not composed (FAULTS 29)."""
    with pytest.raises(RefusedError, match="128 layers"):
        compose(RUNTIME, 2, [layer(str(n)) for n in range(125)])


def test_layers_image() -> None:
    """The image of the checkpoint alone is consistent, holds the layers in order, and is the same each time."""
    layers = [Layer(layer(n).descriptor, layer(n).diff_id, n) for n in ("a", "b")]
    made = layers_image(layers, labels={"b": "2", "a": "1"}, annotations={"x": "y"})
    assert made == layers_image(layers, labels={"a": "1", "b": "2"}, annotations={"x": "y"})
    assert made.created_by == ("a", "b") and made.manifest.annotations == {"x": "y"}
    assert [d.digest for d in made.manifest.layers] == [item.descriptor.digest for item in layers]


def test_when_the_runtime_image_was_put_there() -> None:
    """The date of the push is no part of the new image; other annotations are."""
    dated = image([layer(name) for name in NAMES], annotations={CREATED: "2026-11-23T00:00:00Z", "theirs": "kept"})
    made = compose(dated, None, ())
    assert made.manifest.annotations == {"theirs": "kept"}
    assert dated.manifest.annotations[CREATED]
