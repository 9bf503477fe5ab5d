"""Which tensor goes to which shard: by names and sizes alone. Pure.

A changed tensor should move its shard and no other, and so should one that is added or resized. Filling shards one
after the other would not do: one more tensor moves all that come after it. Here the tensors stand in the order of
their names, and a range of them that is too large is cut in two at the gap whose name has the highest hash, and the
halves again, until all are small enough (a treap: Aragon and Seidel, "Randomized Search Trees", 1989). The gaps do
not depend on sizes, so a tensor that grows or shrinks can only cut its own shard in two, or join it with the one that
it was cut from. On average a shard is a little over half as large as it may be.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .weights import TensorInfo

__all__ = ["SHARDS_VERSION", "index_of", "shards"]

SHARDS_VERSION = 1  # raised when the same tensors would be assigned otherwise
_EMBEDDINGS = frozenset({"wte", "wpe"})
_HEADS = frozenset({"head", "heads", "classifier", "cls", "fc", "score", "logits", "output", "qa_outputs"})


@dataclass(frozen=True, slots=True)
class _Unit:
    """Tensors that stay together as long as they are not too large: a block, a module, or one tensor."""

    name: str
    tensors: tuple[TensorInfo, ...]

    @property
    def size(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def priority(self) -> bytes:
        """Of the gap before it: where the highest is, a range is cut."""
        return hashlib.sha256(f"layerkit shards {SHARDS_VERSION}\n{self.name}".encode()).digest()


def shards(tensors: Iterable[TensorInfo], *, size: int, limit: int) -> dict[str, tuple[str, ...]]:
    """File -> names of its tensors, those first that change least: embeddings, blocks, others, heads.

    Blocks (up to the first number in a name: ``model.layers.7``) are not cut while they are small enough, modules
    (all but the last part) not while they are; embeddings, heads, and what is in no numbered block are apart from
    the blocks.

    Args:
        size: most bytes of tensors in a file; a larger tensor has one of its own.
        limit: most files. Where there would be more, *size* is doubled until there are not, so that the new
            files are old ones joined; at the end embeddings, heads and blocks are joined too.
    """
    streams: dict[str, list[TensorInfo]] = {"embeddings": [], "blocks": [], "others": [], "heads": []}
    for tensor in sorted(tensors, key=lambda tensor: _order(tensor.name)):
        streams[_kind(tensor.name)].append(tensor)
    found = [stream for stream in streams.values() if stream]
    while len(found) > limit:
        found[-2:] = [found[-2] + found[-1]]
    most = max(size, 1)
    while True:
        made = [part for stream in found for part in _cut(_units(stream, 0), most, 0)]
        if len(made) <= limit:
            groups = (tuple(tensor.name for unit in part for tensor in unit.tensors) for part in made)
            return {_file(names[0]): names for names in groups}
        most *= 2


def _cut(units: Sequence[_Unit], most: int, level: int) -> list[Sequence[_Unit]]:
    ends = list(accumulate((unit.size for unit in units), initial=0))
    priorities = [unit.priority for unit in units]
    made: list[Sequence[_Unit]] = []
    left = [(0, len(units))]
    while left:
        begin, end = left.pop()
        if ends[end] - ends[begin] <= most:
            made.append(units[begin:end])
        elif end - begin > 1:
            at = max(range(begin + 1, end), key=priorities.__getitem__)
            left += [(at, end), (begin, at)]
        elif level < 2:
            made += _cut(_units(units[begin].tensors, level + 1), most, level + 1)
        else:
            made.append(units[begin:end])
    return made


def _units(tensors: Sequence[TensorInfo], level: int) -> list[_Unit]:
    """*tensors* by block (level 0), by module (1), or each by itself (2), in their order."""
    groups: dict[str, list[TensorInfo]] = {}
    for tensor in tensors:
        parts = tensor.name.split(".")
        number = _first_number(parts)
        block = ".".join(parts[: number + 1]) if number < len(parts) - 1 else _module(parts)
        groups.setdefault((block, _module(parts), tensor.name)[level], []).append(tensor)
    return [_Unit(name, tuple(group)) for name, group in groups.items()]


def _module(parts: Sequence[str]) -> str:
    return ".".join(parts[:-1]) or parts[-1]


def _first_number(parts: Sequence[str]) -> int:
    return next((index for index, part in enumerate(parts) if _is_number(part)), len(parts))


def _is_number(part: str) -> bool:
    return part.isascii() and part.isdecimal()


def _kind(name: str) -> str:
    parts = name.split(".")
    number = _first_number(parts)
    above = parts[:number] if number < len(parts) - 1 else _module(parts).split(".")
    if any(part in _HEADS or part.endswith("_head") for part in above):
        return "heads"
    if any("embed" in part or part in _EMBEDDINGS for part in above):
        return "embeddings"
    return "blocks" if number < len(parts) else "others"


def _order(name: str) -> list[tuple[int, int, bytes]]:
    """Numbers as numbers: layers.2 before layers.10. Of names that differ only in zeros, the bytes decide."""
    parts = [(0, len(p.lstrip("0")), p.lstrip("0").encode()) if _is_number(p) else (1, 0, p.encode())
             for p in name.split(".")]  # fmt: skip
    return [*parts, (2, 0, name.encode())]


def _file(first: str) -> str:
    """The name of the shard whose first tensor is *first*: the same tensors have the same, however many others."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", _module(first.split("."))).strip(".")[:60]
    return f"model-{plain}-{hashlib.sha256(first.encode()).hexdigest()[:12]}.safetensors"


def index_of(files: Mapping[str, Sequence[str]], sizes: Mapping[str, int]) -> bytes:
    """``model.safetensors.index.json``, as transformers reads it (``save_pretrained``, "Sharded checkpoints").

    Args:
        files: file -> names of its tensors.
        sizes: name -> bytes.
    """
    where = {name: file for file, names in files.items() for name in names}
    document = {"metadata": {"total_size": sum(sizes[name] for name in where)}, "weight_map": where}
    return json.dumps(document, indent=2, sort_keys=True).encode() + b"\n"
