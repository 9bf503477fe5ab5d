"""What a registry would refuse in the end is refused by the plan."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from layerkit.assemble import Runtime
from layerkit.errors import RefusedError
from layerkit.fingerprint import Base, Inputs
from layerkit.oci import MAX_LAYERS, MAX_MANIFEST_SIZE
from layerkit.planner import Plan, Present, plan
from layerkit.state import State
from unit.support import PLATFORM, image, inputs, layer, project, runtime, write_project
from unit.test_planner import known


@pytest.fixture
def found(tmp_path: Path) -> Inputs:
    with State() as state:
        return inputs(project(write_project(tmp_path)), state)


def decide(found: Inputs, present: Present) -> Plan:
    return plan(found, present, destination="registry ghcr.io/acme/resnet", tags=["v1"])


def tall(layers: int, note: str = "") -> Runtime:
    """A runtime image of that many layers, the placeholder among them."""
    small = runtime()
    assert small.placeholder is not None
    marker = layer("marker")
    manifest = small.image.manifest.layers[small.placeholder]
    marker = dataclasses.replace(marker, descriptor=manifest)
    made = image([*(layer(f"{number}") for number in range(layers - 1)), marker], annotations={"note": note})
    return dataclasses.replace(small, image=made, placeholder=layers - 1)


def test_fault_10_a_layer_over_the_limit(found: Inputs) -> None:
    """FAULTS 10: a checkpoint's layer over what the destination takes is refused by name, with both sizes."""
    size = sum(item.bytes_to_upload or 0 for item in decide(found, Present(layer_limit=10**9)).layers)
    assert size > 0
    assert decide(found, Present(layer_limit=size)).pack
    with pytest.raises(RefusedError) as caught:
        decide(found, Present(layer_limit=size - 1))
    said = f"takes layers of at most {size - 1} bytes; that of model.pth.tar would have {size}"
    assert str(caught.value) == f"registry ghcr.io/acme/resnet: {said}"
    assert "shards" in caught.value.hint


def test_fault_10_layers_that_are_there(tmp_path: Path) -> None:
    """FAULTS 10: what the registry holds already it has taken: no limit is held against it."""
    found = known(write_project(tmp_path))
    assert not decide(found, Present(checkpoint=(layer("weights"),), layer_limit=1)).pack


def test_fault_10_layers_that_are_to_be_compressed(tmp_path: Path) -> None:
    """FAULTS 10: of layers that are compressed nobody knows beforehand how large they will be: none is refused."""
    with State() as state:
        found = inputs(project(write_project(tmp_path), compression="zstd"), state)
    assert decide(found, Present(layer_limit=1)).pack


def test_fault_29_over_127_layers_to_build(found: Inputs) -> None:
    """FAULTS 29: a base that leaves no room for the checkpoint's layer is refused before anything is built."""
    for layers in (MAX_LAYERS - 1, MAX_LAYERS):
        bases = {name: Base(base.digest, {PLATFORM: layers}) for name, base in found.bases.items()}
        these = dataclasses.replace(found, bases=bases)
        if layers < MAX_LAYERS:
            assert decide(these, Present()).pack
        else:
            with pytest.raises(RefusedError, match=f"{MAX_LAYERS + 1} layers or more"):
                decide(these, Present())


def test_fault_29_over_127_layers_built(tmp_path: Path) -> None:
    """FAULTS 29: 127 layers with the checkpoint's are planned, 128 are refused before anything is sent."""
    inside = known(write_project(tmp_path))
    decide(inside, Present({PLATFORM: tall(MAX_LAYERS)}, (layer("a"),)))
    with pytest.raises(RefusedError, match=f"{MAX_LAYERS + 1} layers"):
        decide(inside, Present({PLATFORM: tall(MAX_LAYERS)}, (layer("a"), layer("b"))))


def test_fault_29_a_manifest_over_4_mib(found: Inputs) -> None:
    """FAULTS 29: a manifest that would be over 4 MiB with what composing adds is refused by the plan."""
    room = 10_000  # for layers and labels
    assert decide(found, Present({PLATFORM: tall(5, "x" * (MAX_MANIFEST_SIZE - room))})).pack
    with pytest.raises(RefusedError, match="the manifest would be"):
        decide(found, Present({PLATFORM: tall(5, "x" * (MAX_MANIFEST_SIZE - 1800))}))


def test_a_runtime_image_that_is_no_good_is_not_this_ones_matter(found: Inputs) -> None:
    """A runtime image without a placeholder, or with one elsewhere, is planned with: the build says what is wrong."""
    elsewhere = runtime(place=("/elsewhere", 0, 0))
    for bad in (elsewhere, dataclasses.replace(elsewhere, placeholder=None, place=None)):
        assert decide(found, Present({PLATFORM: bad})).pack
