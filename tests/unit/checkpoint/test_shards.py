"""Which tensor goes to which shard."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerkit.checkpoint.shards import index_of, shards
from layerkit.checkpoint.weights import TensorInfo

EXAMPLES = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
PART = st.sampled_from(
    ["layers", "model", "attn", "q_proj", "mlp", "head", "embed", "norm", "0", "1", "7", "12", "weight"]
)
NAME = st.lists(PART, min_size=1, max_size=5).map(".".join)
SIZES = st.dictionaries(NAME, st.integers(0, 3000), min_size=1, max_size=60)
MODEL = st.builds(
    lambda blocks, sizes: {f"model.layers.{n}.{part}": size for n in range(blocks) for part, size in sizes.items()},
    st.integers(1, 40),
    st.dictionaries(st.sampled_from(["q.weight", "k.weight", "up.weight", "up.bias"]), st.integers(1, 400), min_size=1),
)


def info(name: str, size: int) -> TensorInfo:
    return TensorInfo(name, "U8", (size,), size)


def assign(sizes: Mapping[str, int], size: int = 1000, limit: int = 10_000) -> dict[str, tuple[str, ...]]:
    return shards([info(name, nbytes) for name, nbytes in sizes.items()], size=size, limit=limit)


def total(names: Sequence[str], sizes: Mapping[str, int]) -> int:
    return sum(sizes[name] for name in names)


@EXAMPLES
@given(sizes=SIZES | MODEL, most=st.integers(1, 5000), limit=st.integers(1, 40))
def test_each_tensor_once(sizes: dict[str, int], most: int, limit: int) -> None:
    """Every tensor is in one shard; there are no more than allowed; order says nothing."""
    made = assign(sizes, most, limit)
    assert sorted(name for names in made.values() for name in names) == sorted(sizes)
    assert len(made) <= limit and all(made.values())
    assert assign(dict(reversed(sizes.items())), most, limit) == made
    assert all(re.fullmatch(r"model-[A-Za-z0-9_.-]+-[0-9a-f]{12}\.safetensors", file) for file in made)


@EXAMPLES
@given(sizes=SIZES | MODEL, most=st.integers(1, 5000))
def test_sizes(sizes: dict[str, int], most: int) -> None:
    """A shard over the size holds one tensor; a module is cut only where it is over the size itself."""
    made = assign(sizes, most)
    for names in made.values():
        assert total(names, sizes) <= most or len([name for name in names if sizes[name]]) == 1
    where = {name: file for file, names in made.items() for name in names}
    modules: dict[str, list[str]] = {}
    for name in sizes:
        if "." in name:
            modules.setdefault(name.rpartition(".")[0], []).append(name)
    for names in modules.values():
        kinds = {name.rpartition(".")[2].isdecimal() for name in names}
        assert total(names, sizes) > most or len({where[name] for name in names}) == 1 or True in kinds


@EXAMPLES
@given(sizes=MODEL, most=st.integers(500, 5000), data=st.data())
def test_resized(sizes: dict[str, int], most: int, data: st.DataObject) -> None:
    """A tensor that grows or shrinks moves its own shard, and those that this one is cut from or joined with."""
    name = data.draw(st.sampled_from(sorted(sizes)))
    after = sizes | {name: data.draw(st.integers(0, most))}
    old, new = assign(sizes, most), assign(after, most)
    gone, come = set(old.values()) - set(new.values()), set(new.values()) - set(old.values())
    moved = {tensor for names in gone for tensor in names}
    assert moved == {tensor for names in come for tensor in names}
    assert not moved or name in moved
    # What is joined fits into one, with the tensor at its smaller size; so it was no more before.
    assert total(sorted(moved - {name}), sizes) <= most
    kept = {file: names for file, names in old.items() if names not in gone}
    assert all(new[file] == names for file, names in kept.items())


@EXAMPLES
@given(sizes=MODEL, most=st.integers(500, 5000), size=st.integers(0, 500), where=st.integers(0, 40))
def test_added(sizes: dict[str, int], most: int, size: int, where: int) -> None:
    """A tensor more moves shards near it and no others: at most two sizes on each side, however many there are."""
    name = f"model.layers.{where}.new.weight"
    after = sizes | {name: size}
    old, new = assign(sizes, most), assign(after, most)
    moved = [names for names in old.values() if names not in new.values()]
    blocks = [total([n for n in sizes if n.startswith(f"model.layers.{b}.")], sizes) for b in range(41)]
    assert sum(total(names, sizes) for names in moved) <= 4 * most + max(blocks) + size
    kept = [file for file, names in old.items() if names not in moved]
    assert all(new[file] == old[file] for file in kept)


@EXAMPLES
@given(sizes=MODEL, most=st.integers(10, 1000), limit=st.integers(1, 30))
def test_limit(sizes: dict[str, int], most: int, limit: int) -> None:
    """Where there would be too many, the shards are those of before joined: none of them is cut."""
    fine, coarse = assign(sizes, most), assign(sizes, most, limit)
    where = {name: file for file, names in coarse.items() for name in names}
    assert all(len({where[name] for name in names}) == 1 for names in fine.values())


def test_apart() -> None:
    """Embeddings, heads and what is in no block are apart from the blocks, and blocks are whole."""
    sizes = {
        "model.embed_tokens.weight": 10, "model.layers.0.attn.weight": 10, "model.layers.0.mlp.weight": 10,
        "model.layers.1.attn.weight": 10, "model.layers.1.mlp.weight": 10, "model.norm.weight": 1, "lm_head.weight": 10,
    }  # fmt: skip
    groups = set(assign(sizes).values())
    assert groups == {
        ("model.embed_tokens.weight",),
        tuple(name for name in sizes if "layers" in name),
        ("model.norm.weight",),
        ("lm_head.weight",),
    }
    cut = assign(sizes, 20)
    assert ("model.layers.1.attn.weight", "model.layers.1.mlp.weight") in cut.values()


@pytest.mark.parametrize(
    ("backbone", "head"),
    [
        ("layer4.1.conv2.weight", "fc.weight"),
        ("features.28.weight", "classifier.6.weight"),
        ("blocks.11.mlp.fc2.weight", "head.weight"),
        ("bert.encoder.layer.11.output.dense.weight", "classifier.weight"),
        ("transformer.h.0.ln_1.weight", "score.weight"),
        ("backbone.body.0.weight", "mask_head.0.weight"),
        ("wte.weight", "qa_outputs.weight"),
        ("conv1.weight", "output.weight"),
    ],
)
def test_heads(backbone: str, head: str) -> None:
    """The heads of usual models are apart from their backbones."""
    assert len(assign({backbone: 10, head: 10})) == 2


def test_order() -> None:
    """Blocks stand in the order of their numbers, not of their digits."""
    sizes = {f"layers.{n}.weight": 10 for n in range(30)}
    order = [name for names in assign(sizes, 55).values() for name in names]
    assert order == [f"layers.{n}.weight" for n in range(30)]


def test_files_for_ever() -> None:
    """The same tensors go to the same files in every version: else each image of shards would be sent again."""
    sizes = {f"layers.{n}.{part}.weight": 100 + n for n in range(8) for part in ("attn", "mlp")} | {"head.weight": 9}
    made = assign(sizes, 700)
    assert {file: (names[0], len(names)) for file, names in made.items()} == {
        "model-layers.0.attn-aa7527421543.safetensors": ("layers.0.attn.weight", 6),
        "model-layers.3.attn-302e66b00c44.safetensors": ("layers.3.attn.weight", 6),
        "model-layers.6.attn-6262ff9cafcf.safetensors": ("layers.6.attn.weight", 4),
        "model-head-37986800f64d.safetensors": ("head.weight", 1),
    }


def test_index() -> None:
    """The index has the form that transformers writes: sorted, with the sum of the bytes."""
    made = index_of({"b.safetensors": ("x", "a"), "a.safetensors": ("m",)}, {"x": 1, "a": 2, "m": 4})
    assert json.loads(made) == {
        "metadata": {"total_size": 7},
        "weight_map": {"a": "b.safetensors", "m": "a.safetensors", "x": "b.safetensors"},
    }
    assert made.endswith(b"}\n") and made.index(b'"a"') < made.index(b'"m"')
