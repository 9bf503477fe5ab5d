from __future__ import annotations

import json
import struct
from typing import Any

import pytest

from layerkit.checkpoint.safetensors import BITS, MAX_HEADER, header_size, layout, parse_header, parse_index, size_of
from layerkit.errors import CheckpointError

TWO = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "U8", "shape": [3], "data_offsets": [8, 11]},
}


def parse(document: Any, size: int = 11) -> Any:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    return parse_header(text, data_size=size, where="m.safetensors")


def test_header() -> None:
    """Tensors come in the order of their bytes; metadata and trailing spaces are the format's."""
    text = json.dumps({"b": TWO["b"], "__metadata__": {"format": "pt"}, "a": TWO["a"]}).encode() + b"   "
    assert [(e.name, e.dtype, e.shape, e.begin, e.end) for e in parse(text)] == [
        ("a", "F32", (2,), 0, 8),
        ("b", "U8", (3,), 8, 11),
    ]


def change(**changes: Any) -> dict[str, Any]:
    return {**TWO, "a": {**TWO["a"], **changes}}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        pytest.param(b"", "no JSON object", id="empty"),
        pytest.param(b"[]", "no JSON object", id="list"),
        pytest.param(b" {}", "no JSON object", id="space-first"),
        pytest.param(b'{"a": ', "no JSON", id="cut"),
        pytest.param(b'{"a": "\xff"}', "no JSON", id="not-utf8"),
        pytest.param(b'{"a":' + b"[" * 100_000, "no JSON", id="deep"),
        pytest.param(b'{"a": ' + b"9" * 10_000 + b"}", "no JSON", id="long-number"),
        pytest.param(b'{"a": {}, "a": {}}', "there twice", id="twice"),
        pytest.param({"a": []}, "not described", id="no-object"),
        pytest.param(change(more=1), "not described", id="more"),
        pytest.param(change(dtype="F128"), "unknown dtype 'F128'", id="dtype"),
        pytest.param(change(dtype=["F32"]), "unknown dtype", id="dtype-list"),
        pytest.param(change(shape=[-2]), "no valid shape", id="negative"),
        pytest.param(change(shape=[2.0]), "no valid shape", id="float"),
        pytest.param(change(shape=[True, 2]), "no valid shape", id="bool"),
        pytest.param(change(shape=[2**63]), "no valid shape", id="huge"),
        pytest.param(change(data_offsets=[0]), "no valid shape", id="one-offset"),
        pytest.param(change(data_offsets=[8, 0]), "which F32 of shape [2] does not give", id="backwards"),
        pytest.param(change(shape=[3]), "which F32 of shape [3] does not give", id="size"),
        pytest.param(change(dtype="F4", shape=[1], data_offsets=[0, 0]), "does not give", id="half-byte"),
        pytest.param({**TWO, "b": {**TWO["b"], "data_offsets": [7, 10]}}, "overlaps", id="overlap"),
        pytest.param({**TWO, "b": {**TWO["b"], "data_offsets": [9, 12]}}, "leaves a gap", id="gap"),
        pytest.param({"b": {**TWO["b"], "data_offsets": [1, 4]}}, "leaves a gap", id="gap-first"),
        pytest.param({"a": TWO["a"]}, "belong to no tensor", id="more-data"),
        pytest.param({**TWO, "__metadata__": {"a": 1}}, "metadata", id="metadata"),
        pytest.param({"\ud800": TWO["a"]}, "not Unicode", id="surrogate"),
        pytest.param({"\x1b[2J": 1}, r"\x1b[2J", id="escape"),
    ],
)
def test_hostile_header(document: Any, said: str) -> None:
    """A header that breaks a rule of the format is refused, and named without control characters (FAULTS 56)."""
    with pytest.raises(CheckpointError) as caught:
        parse(document)
    assert said in caught.value.message.replace("\\\\", "\\") and "\x1b" not in caught.value.message


@pytest.mark.parametrize(
    ("start", "size", "said"),
    [
        pytest.param(b"1234", 4, "no header", id="short"),
        pytest.param(struct.pack("<Q", 100), 50, "should have 100 bytes", id="longer-than-file"),
        pytest.param(struct.pack("<Q", MAX_HEADER + 1), 2**40, "the format allows", id="over-the-limit"),
        pytest.param(b"\xff" * 8, 2**40, "the format allows", id="hostile"),
    ],
)
def test_hostile_length(start: bytes, size: int, said: str) -> None:
    """A header length is checked before anything of that length is read."""
    with pytest.raises(CheckpointError, match=said):
        header_size(start, file_size=size, where="m.safetensors")


def test_layout_is_canonical() -> None:
    """The head depends on the tensors alone, ends at a multiple of 8, and reads back to what went in."""
    tensors = [("é", "F32", (2,)), ("b", "BOOL", (3,)), ("a", "F32", ()), ("z", "I64", (0, 4)), ("f", "F4", (3, 2))]
    head, entries = layout(tensors)
    assert layout(reversed(tensors)) == (head, entries)
    assert [entry.name for entry in entries] == ["z", "a", "é", "f", "b"] and len(head) % 8 == 0
    assert parse(head[8:], entries[-1].end) == entries and int.from_bytes(head[:8], "little") == len(head) - 8
    assert all(entry.begin % (BITS[entry.dtype] // 8 or 1) == 0 for entry in entries)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        pytest.param(("a", "C128", (2,)), "cannot hold C128", id="dtype"),
        pytest.param(("a", "F4", (3,)), "cannot hold F4", id="half-bytes"),
        pytest.param(("__metadata__", "F32", ()), "reserves", id="reserved"),
    ],
)
def test_layout_refuses(tensor: Any, said: str) -> None:
    """What the format cannot hold is refused before anything is written."""
    with pytest.raises(CheckpointError, match=said):
        layout([tensor])


def test_size_of() -> None:
    """Bits count together: three F6 in four elements are whole bytes."""
    assert [size_of("F6_E2M3", (4,)), size_of("F6_E2M3", (3,)), size_of("F32", ()), size_of("x", ())] == [3, -1, 4, -1]


@pytest.mark.parametrize(
    ("document", "said"),
    [
        pytest.param(b"{}", "no weight_map", id="none"),
        pytest.param(b"[1]", "no JSON", id="list"),
        pytest.param(b'{"weight_map": {}}', "no weight_map", id="empty"),
        pytest.param(b'{"weight_map": {"a": "../x"}}', "no file beside it", id="up"),
        pytest.param(b'{"weight_map": {"a": "/etc/passwd"}}', "no file beside it", id="absolute"),
        pytest.param(b'{"weight_map": {"a": ".."}}', "no file beside it", id="parent"),
        pytest.param(b'{"weight_map": {"a": 3}}', "no file beside it", id="number"),
        pytest.param(b'{"weight_map": {"a": "x", "a": "y"}}', "there twice", id="twice"),
    ],
)
def test_hostile_index(document: bytes, said: str) -> None:
    """An index names files beside it, each tensor once."""
    with pytest.raises(CheckpointError, match=said):
        parse_index(document, "model.safetensors.index.json")


def test_index() -> None:
    """Files in order, each with its tensors."""
    text = b'{"metadata": {}, "weight_map": {"a": "2", "b": "1", "c": "2"}}'
    assert parse_index(text, "i") == {"1": frozenset("b"), "2": frozenset("ac")}
