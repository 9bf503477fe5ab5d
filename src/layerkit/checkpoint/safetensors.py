"""The safetensors format: its header read, checked and written, without torch and without the safetensors package.

A file is 8 bytes of header length (little-endian), a JSON header, and the tensors' bytes without gaps. The rules
are the format's own (huggingface/safetensors, README.md "Format"; ``Metadata::validate`` in its tensor.rs), and a
file that breaks one is refused before anything of it is used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, printable

__all__ = [
    "BITS",
    "INDEX_NAME",
    "MAX_HEADER",
    "Entry",
    "header_size",
    "layout",
    "parse_header",
    "parse_index",
    "size_of",
]

MAX_HEADER = 100_000_000  # bytes; the reference implementation's own limit
INDEX_NAME = "model.safetensors.index.json"
# Bits an element, in the order in which the reference implementation declares them: its writer puts tensors of
# later ones first, so that each starts at a multiple of its own size.
BITS: Mapping[str, int] = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
_RANK = {dtype: rank for rank, dtype in enumerate(BITS)}


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in a file: ``begin`` and ``end`` in bytes from the end of the header."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def size_of(dtype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor. -1 where *dtype* is no dtype of the format, or the bits do not fill whole bytes."""
    bits = BITS.get(dtype, 0) * math.prod(shape)
    return -1 if dtype not in BITS or bits % 8 else bits // 8


def header_size(start: bytes, *, file_size: int, where: str) -> int:
    """The length of the JSON header in bytes, from the first 8 bytes of the file.

    Raises:
        CheckpointError: over the format's limit, or more than the file has.
    """
    if len(start) < 8:
        raise _bad(where, "is cut off: no header")
    length = int.from_bytes(start[:8], "little")
    if length > MAX_HEADER:
        raise _bad(where, f"its header would be {length} bytes; the format allows {MAX_HEADER}")
    if length > file_size - 8:
        raise _bad(where, f"is cut off: its header should have {length} bytes")
    return length


def parse_header(header: bytes, *, data_size: int, where: str) -> tuple[Entry, ...]:
    """The tensors that *header* (the JSON) describes, in the order of their bytes.

    Args:
        data_size: bytes of the file after the header.
        where: what to call the file in messages.

    Raises:
        CheckpointError: no JSON of the right form; a name twice; an unknown dtype; a size that dtype and shape
            do not give; bytes that overlap, have a gap, or are not all there.
    """
    document = _json(header, where)
    metadata = document.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _bad(where, "its metadata is no map of strings")
    entries = sorted((_entry(*item, where) for item in document.items()), key=lambda e: (e.begin, e.end, e.name))
    position = 0
    for entry in entries:
        if entry.begin != position:
            what = "overlaps" if entry.begin < position else "leaves a gap after"
            raise _bad(where, f"tensor {_name(entry.name)} {what} the one before it")
        position = entry.end
    if position != data_size:
        what = "is cut off" if position > data_size else "has bytes that belong to no tensor"
        raise _bad(where, f"{what}: {data_size} bytes of tensors, and its header describes {position}")
    return tuple(entries)


def _entry(name: str, value: Any, where: str) -> Entry:
    shown = f"tensor {_name(name)}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise _bad(where, f"{shown} is not described by dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise _bad(where, f"{shown} has the unknown dtype {_name(str(dtype))}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise _bad(where, f"{shown} has no valid shape and offsets")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise _bad(where, f"the name {_name(name)} is not Unicode") from None
    begin, end = offsets
    if end - begin != size_of(dtype, shape):
        raise _bad(where, f"{shown} has {end - begin} bytes, which {dtype} of shape {list(shape)[:8]} does not give")
    return Entry(name, dtype, tuple(shape), begin, end)


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < 2**63 for item in value)


def _json(text: bytes, where: str) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        # Two readers that choose differently would see different weights.
        if len(found) != len(pairs):
            raise _bad(where, "a name is there twice in its header")
        return found

    if not text.startswith(b"{"):
        raise _bad(where, "its header is no JSON object")
    try:
        document = json.loads(text.decode(), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        raise _bad(where, f"its header is no JSON ({type(error).__name__})") from None
    assert isinstance(document, dict)  # it begins with {
    return document


def layout(tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> tuple[bytes, tuple[Entry, ...]]:
    """The head (length and header) of a file of *tensors* (name, dtype, shape), and where each one goes.

    To the byte what ``safetensors.torch.save_file(…, metadata={"format": "pt"})`` writes: by dtype in the
    reversed order of ``BITS``, then by the UTF-8 bytes of the name; compact JSON, UTF-8, filled up with spaces to
    a multiple of 8. So the result depends on the tensors alone, not on the order they come in.

    Raises:
        CheckpointError: a dtype that the format does not have, a reserved name, or a header over its limit.
    """
    entries: list[Entry] = []
    position = 0
    for name, dtype, shape in sorted(tensors, key=lambda item: (-_RANK.get(item[1], 0), item[0].encode())):
        size = size_of(dtype, shape)
        if size < 0:
            raise CheckpointError(
                f"checkpoint: tensor {_name(name)}: safetensors cannot hold {dtype} of shape {list(shape)[:8]}",
                hint='leave it out (drop), or keep the file as it is (format = "keep")',
            )
        if name == "__metadata__":
            raise CheckpointError("checkpoint: a tensor is called '__metadata__', which safetensors reserves")
        entries.append(Entry(name, dtype, shape, position, position + size))
        position += size
    document: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    document |= {e.name: {"dtype": e.dtype, "shape": e.shape, "data_offsets": [e.begin, e.end]} for e in entries}
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise CheckpointError(f"checkpoint: {len(entries)} tensors need a header over safetensors' limit")
    return len(text).to_bytes(8, "little") + text, tuple(entries)


def parse_index(text: bytes, where: str) -> dict[str, frozenset[str]]:
    """File -> names of its tensors, from an index (``model.safetensors.index.json`` of transformers).

    Raises:
        CheckpointError: not an index, or it names a file that is not beside it.
    """
    weight_map = _json(text.lstrip(), where).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise _bad(where, "has no weight_map: not an index of shards")
    found: dict[str, set[str]] = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or not file or file in (".", "..") or "/" in file or "\\" in file or "\0" in file:
            raise _bad(where, f"names {_name(str(file))} for tensor {_name(name)}: no file beside it")
        found.setdefault(file, set()).add(name)
    return {file: frozenset(found[file]) for file in sorted(found)}


def _name(name: str) -> str:
    return repr(printable(name, 200))


def _bad(where: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint: {printable(where)}: {what}", hint="it is damaged or was not written whole: get it again"
    )
