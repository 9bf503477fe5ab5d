"""Random state dicts, in every layout that PyTorch saves, and the files of them."""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st

from layerkit.checkpoint.select import TRAINING

DTYPES = [
    "bool", "uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float16", "bfloat16", "float32",
    "float64", "complex64", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz",
]  # fmt: skip
DTYPES = [name for name in DTYPES if hasattr(torch, name)]
LAYOUTS = ["plain", "transposed", "stepped", "expanded", "offset", "shared", "reordered"]
WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Hypothesis tries words of our own source too, and what trainers call their state is no tensor's name.
NAMES = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda n: n not in TRAINING)


@st.composite
def tensors(draw: st.DrawFn, before: list[Any]) -> Any:
    """A tensor of random bits in a random layout; it may share its storage with one of *before*."""
    dtype = getattr(torch, draw(st.sampled_from(DTYPES)))
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    layout = draw(st.sampled_from(LAYOUTS))
    if layout == "shared" and before:
        other = before[draw(st.integers(0, len(before) - 1))]
        return other[1:] if other.dim() and other.shape[0] else other.t() if other.dim() == 2 else other
    big = [size * 2 + 1 for size in shape]
    count = 1
    for size in big:
        count *= size
    data = bytearray(draw(st.binary(min_size=64, max_size=64)) * (count * dtype.itemsize // 64 + 1))
    base = torch.frombuffer(data, dtype=WORDS[dtype.itemsize])[:count].clone().view(big)
    if dtype == torch.bool:
        base = base & 1
    cut = tuple(slice(1, 1 + size) for size in shape)
    made = {
        "transposed": lambda: base.permute(tuple(reversed(range(len(big)))))[tuple(reversed(cut))],
        "stepped": lambda: base[tuple(slice(0, 2 * size, 2) for size in shape)],
        "expanded": lambda: base[cut][..., :1].expand(shape) if shape and shape[-1] else base[cut],
        "offset": lambda: base[cut],
        "reordered": lambda: base[cut].movedim(0, -1) if shape else base,
    }.get(layout, lambda: base[cut].clone(memory_format=torch.contiguous_format))()
    return made.view(dtype)


@st.composite
def states(draw: st.DrawFn) -> OrderedDict[str, Any]:
    """A state dict of up to six tensors."""
    names = draw(st.lists(NAMES, min_size=1, max_size=6, unique=True))
    made: OrderedDict[str, Any] = OrderedDict()
    for name in names:
        made[name] = draw(tensors(list(made.values())))
    return made


def own(state: dict[str, Any]) -> dict[str, Any]:
    """The same tensors, contiguous and each with its own storage: what safetensors takes."""
    return {name: tensor.detach().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()}


def bits(tensor: Any) -> Any:
    """What two tensors must have in common to be the same, NaNs too."""
    own = tensor.detach().clone(memory_format=torch.contiguous_format)
    return own.dtype, tuple(own.shape), own.view(WORDS[own.dtype.itemsize]).tolist()


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return set(a) == set(b) and all(bits(a[name]) == bits(b[name]) for name in a)


def save_sharded(state: dict[str, Any], folder: Path, shards: int = 2) -> Path:
    """A folder of shards with their index, as transformers writes it."""
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    weight_map = {}
    for number in range(shards):
        part = {name: state[name] for name in sorted(state)[number::shards]}
        if part:
            file = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
            save_file(part, folder / file, metadata={"format": "pt"})
            weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder
