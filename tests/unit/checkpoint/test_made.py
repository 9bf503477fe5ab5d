"""What a checkpoint becomes: its layers, its samples, and what is known of it."""

from __future__ import annotations

import io
import tarfile
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerkit.checkpoint import Ownership, Packer, find
from layerkit.checkpoint.blueprint import Blueprint
from layerkit.checkpoint.convert import convert
from layerkit.checkpoint.hashing import hash_weights
from layerkit.checkpoint.made import Made, make
from layerkit.checkpoint.opening import open_weights
from layerkit.checkpoint.recipe import Options, Recipe
from layerkit.checkpoint.sample import sample_weights
from layerkit.errors import CheckpointError
from layerkit.state import State

torch: Any = pytest.importorskip("torch")

from layerkit.checkpoint.loading import load_weights  # noqa: E402

from .states import own, same, save_sharded, states  # noqa: E402

EXAMPLES = settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
OWNER = Ownership("/app/model/")
WHOLE = Recipe("safetensors", "weights")
SHARDS = Recipe("safetensors", "weights", shard_size=64)


def made(path: Path, recipe: Recipe, state: State) -> Made:
    return make(path.name, path.parent, find(path.name, path.parent), OWNER, recipe, state)


def pack(found: Made, state: State) -> Made:
    """Hash all of its layers."""
    packer = Packer(found.blueprints).start()
    return found.finished(packer.hashed(), state, lambda count: None)


def unpack(blueprints: Sequence[Blueprint], folder: Path) -> Path:
    for blueprint in blueprints:
        with tarfile.open(fileobj=io.BytesIO(b"".join(map(bytes, blueprint.open())))) as tar:
            tar.extractall(folder, filter="data")
    return folder / "app" / "model"


def save(state: Any, path: Path) -> Path:
    path.unlink(missing_ok=True)
    torch.save(state, path)
    return path


@EXAMPLES
@given(state=states(), recipe=st.sampled_from([WHOLE, SHARDS, replace(SHARDS, max_layers=2)]))
def test_round_trip(state: OrderedDict[str, Any], recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is packed is what was saved, bit for bit, whole or in shards; its weights hash is that of the source."""
    folder = tmp_path_factory.mktemp("made")
    path = save(state, folder / "a.pt")
    with State() as kept:
        found = pack(made(path, recipe, kept), kept)
        assert len(found.parts) <= recipe.max_layers
        assert [part.size for part in found.parts] == [blueprint.size for blueprint in found.blueprints]
        out = unpack(found.blueprints, folder / "out")
        assert sorted(item.name for item in out.iterdir()) == list(found.locations)
        loaded = load_weights(out)
    assert same(loaded, state)
    assert found.weights == hash_weights(open_weights(path)).digest == hash_weights(open_weights(out)).digest


@EXAMPLES
@given(state=states(), recipe=st.sampled_from([WHOLE, SHARDS]))
def test_formats(state: OrderedDict[str, Any], recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The same tensors in any format and layout become the same layers, with the same samples."""
    folder = tmp_path_factory.mktemp("made")
    torch.save(dict(reversed(own(state).items())), folder / "b.pt", _use_new_zipfile_serialization=False)
    sources = [save(state, folder / "a.pt"), folder / "b.pt"]
    names, found = [], []
    with State() as kept:
        for path in sources:
            moved = path.replace(folder / "model.pt")
            done = pack(made(moved, recipe, kept), kept)
            names.append(done.samples)
            found.append([part.hashed.digest for part in done.parts if part.hashed])
            moved.rename(path)
    assert names[0] == names[1] and found[0] == found[1] and len(found[0]) == len(names[0])


@EXAMPLES
@given(state=states(), data=st.data())
def test_other_values(
    state: OrderedDict[str, Any], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """New values of one tensor change the layer that it is in, and its sample, and no other."""
    folder = tmp_path_factory.mktemp("made")
    before = own(state)
    full = [name for name, tensor in before.items() if tensor.numel()]
    if not full:
        return
    name = data.draw(st.sampled_from(full))
    after = own(before)
    raw = after[name].view(-1)[:1].view(torch.uint8)
    raw[0] = raw[0] ^ 1
    with State() as kept:
        one = pack(made(save(before, folder / "a.pt"), SHARDS, kept), kept)
        other = pack(made(save(after, folder / "a.pt"), SHARDS, kept), kept)
    changed = [
        a.name for a, b in zip(one.parts, other.parts, strict=True) if a.hashed and b.hashed and a.hashed != b.hashed
    ]
    assert len(changed) == 1 and one.weights != other.weights
    assert [a.name for a, b in zip(one.parts, other.parts, strict=True) if a.sample != b.sample] == changed


@EXAMPLES
@given(state=states())
def test_samples_of_any_layout(state: OrderedDict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    """A sample is of the elements, not of how they lie in the file."""
    folder = tmp_path_factory.mktemp("made")
    one = sample_weights(open_weights(save(state, folder / "a.pt")))
    assert sample_weights(open_weights(save(own(state), folder / "b.pt"))) == one


def test_samples_reach(tmp_path: Path) -> None:
    """Of a large tensor the first, the middle and the last elements are in it, as they will be; others are not."""
    tensor = torch.zeros(10_000)
    for at, seen in ((0, True), (5000, True), (9999, True), (3000, False)):
        other = tensor.clone()
        other[at] = 1.0
        for options in (Options(), Options(dtype="float16")):
            samples = []
            for value in (tensor, other):
                (file,) = convert(save({"a": value}, tmp_path / "a.pt"), options).files
                samples.append(file.sample())
            assert (samples[0] != samples[1]) is seen
    near = torch.ones(10_000)
    near[0] += 1e-5  # rounded to float16 it is 1 again
    half = Options(dtype="float16")
    one, other = (
        convert(save({"a": value}, tmp_path / f"{name}.pt"), half).files[0].sample()
        for name, value in (("one", torch.ones(10_000)), ("near", near))
    )
    assert one == other


def test_remembered(tmp_path: Path) -> None:
    """What was hashed is known by the file's identity: it is not opened again, and a written-to file is."""
    path = save({"a": torch.ones(8), "head.weight": torch.ones(4)}, tmp_path / "a.pt")
    with State() as state:
        first = pack(made(path, SHARDS, state), state)
        again = made(path, SHARDS, state)
        assert again.known and again.weights == first.weights and again.samples == first.samples
        assert again.hashed().keys() == set(range(len(first.parts))) and "opened" not in again.__dict__
        assert [part.hashed.digest for part in again.parts if part.hashed] == [
            part.hashed.digest for part in first.parts if part.hashed
        ]
        assert not made(path, replace(SHARDS, options=Options(dtype="float16")), state).known
        save({"a": torch.zeros(8), "head.weight": torch.ones(4)}, path)
        assert not made(path, SHARDS, state).known


def test_a_record_that_is_damaged(tmp_path: Path) -> None:
    """What cannot be read of the state folder is found out again."""
    path = save({"a": torch.ones(8)}, tmp_path / "a.pt")
    with State() as state:
        pack(made(path, WHOLE, state), state)
        (key,) = state.all("weights", dict)
        for value in ({"weights": "x"}, [1], {"weights": 3}, {}, "text"):
            state.put("weights", key, value)
            found = made(path, WHOLE, state)
            assert not found.known and len(found.parts) == 1


def test_recognised(tmp_path: Path) -> None:
    """What has the sample of something that was seen is hashed, and nothing else is read."""
    state = {"a.0.w": torch.ones(100_000), "head.weight": torch.ones(50_000)}
    recipe = replace(SHARDS, shard_size=10**6)
    with State() as old:
        first = pack(made(save(state, tmp_path / "a.pt"), recipe, old), old)
    state["head.weight"] = state["head.weight"] * 2
    with State() as new:
        found = made(save(state, tmp_path / "a.pt"), recipe, new)
        assert found.recognised((), new, lambda count: None) is found
        read: list[int] = []
        some = found.recognised(first.samples, new, read.append)
        known = {found.parts[index].name.split("-")[1] for index in some.hashed() if "-" in found.parts[index].name}
        assert known == {"a.0"} and not some.known and sum(read) < 410_000
        done = pack(some, new)
        assert done.known and done.weights == hash_weights(open_weights(tmp_path / "a.pt")).digest


def test_folder(tmp_path: Path) -> None:
    """In shards already: they keep their names and their tensors; what is beside them stays as it is."""
    folder = save_sharded({f"t{n}": torch.full((4,), n) for n in range(6)}, tmp_path / "m", shards=3)
    (folder / "config.json").write_text("{}")
    with State() as state:
        found = pack(made(folder, WHOLE, state), state)
        out = unpack(found.blueprints, tmp_path / "out")
    assert {path.name for path in out.iterdir()} == {path.name for path in folder.iterdir()}
    shards = [path.name for path in folder.glob("*.safetensors")]
    assert all((out / name).read_bytes() == (folder / name).read_bytes() for name in shards)
    assert [part.name for part in found.parts] == [*sorted(shards), "2 files"]
    assert found.others.keys() == {"config.json", "model.safetensors.index.json"}


@pytest.mark.parametrize("recipe", [WHOLE, SHARDS, Recipe("keep", "weights")], ids=["whole", "shards", "keep"])
def test_index_alone(tmp_path: Path, recipe: Recipe) -> None:
    """An index that is named without its shards is said, with what to name."""
    folder = save_sharded({"a": torch.ones(4), "b": torch.ones(4)}, tmp_path / "m")
    with State() as state, pytest.raises(CheckpointError, match="does not name") as caught:
        made(folder / "model.safetensors.index.json", recipe, state)
    assert "the folder" in caught.value.hint


def test_name_taken(tmp_path: Path) -> None:
    """What is beside the weights and has the name of what is made of them is said, not written over."""
    folder = tmp_path / "m"
    folder.mkdir()
    save({"a": torch.ones(4)}, folder / "a.pt")
    with State() as state:
        (folder / "model.safetensors").mkdir()
        (folder / "model.safetensors" / "x").write_text("x")
        assert made(folder, SHARDS, state).parts
        with pytest.raises(CheckpointError, match="would be in the way"):
            made(folder, WHOLE, state)


def test_many_files(tmp_path: Path) -> None:
    """Never more layers than allowed, whatever is beside the weights."""
    folder = tmp_path / "m"
    folder.mkdir()
    save({f"layers.{n}.w": torch.full((64,), n) for n in range(50)}, folder / "pytorch_model.bin")
    for number in range(4):
        with (folder / f"big{number}.bin").open("wb") as stream:
            stream.truncate(17 * 1024 * 1024)
    with State() as state:
        for limit in (2, 3, 6, 12):
            found = made(folder, replace(SHARDS, max_layers=limit), state)
            assert len(found.parts) <= limit
