"""Safetensors whose bytes pass by: the same digests as of a file that is read, whatever pieces it comes in."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from layerkit.checkpoint.hashing import hash_weights
from layerkit.checkpoint.opening import open_weights
from layerkit.checkpoint.passing import PassingTensors
from layerkit.checkpoint.safetensors import layout
from layerkit.errors import CheckpointError

TENSORS = [("a", "F32", (3, 2)), ("none", "F16", (0, 4)), ("b", "U8", (7,)), ("last", "I8", (0,))]


def content(tensors: list[tuple[str, str, tuple[int, ...]]] = TENSORS) -> bytes:
    head, entries = layout(tensors)
    return head + hashlib.shake_256(b"x").digest(max((e.end for e in entries), default=0))


@given(st.lists(st.integers(1, 300), max_size=40))
def test_any_pieces(cuts: list[int]) -> None:
    """However the file is cut, each tensor is found with the sha256 of its bytes; those without bytes too."""
    whole, passing, at = content(), PassingTensors(len(content()), "w"), 0
    for size in [*cuts, len(whole)]:
        passing.update(whole[at : at + size])
        at += size
    found = {info.name: digest for info, digest in passing.finish()}
    head, entries = layout(TENSORS)
    assert found.keys() == {"a", "none", "b", "last"}
    for entry in entries:
        part = whole[len(head) + entry.begin : len(head) + entry.end]
        assert found[entry.name].hex == hashlib.sha256(part).hexdigest()


def test_as_hash_weights(tmp_path: Path) -> None:
    """What passes by is what `checkpoint digest` sees in the file."""
    path = tmp_path / "w.safetensors"
    path.write_bytes(content())
    passing = PassingTensors(path.stat().st_size, "w")
    passing.update(path.read_bytes())
    weights = open_weights(path)
    assert dict(hash_weights(weights).tensors) == {info.name: digest for info, digest in passing.finish()}
    assert {t.info for t in weights.tensors} == {info for info, _ in passing.finish()}


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x02\0\0", id="no length"),
        pytest.param(content()[:20], id="cut in the header"),
        pytest.param(content()[:-1], id="cut in a tensor"),
    ],
)
def test_cut_off(raw: bytes) -> None:
    """A file that ends too soon is an error of the checkpoint."""
    with pytest.raises(CheckpointError, match="cut off"):
        passing = PassingTensors(len(content()), "w")
        passing.update(raw)
        passing.finish()


def test_hostile_header() -> None:
    """A header that asks for more than the file has is refused from its first 8 bytes; so is what comes too much."""
    with pytest.raises(CheckpointError):
        PassingTensors(1000, "w").update((2**60).to_bytes(8, "little"))
    passing = PassingTensors(len(content()), "w")
    passing.update(content())
    with pytest.raises(CheckpointError, match="longer"):
        passing.update(b"more")


def test_no_tensors() -> None:
    """A file of nothing but a header has no tensors."""
    raw = content([])
    passing = PassingTensors(len(raw), "w")
    passing.update(raw)
    assert passing.finish() == ()
