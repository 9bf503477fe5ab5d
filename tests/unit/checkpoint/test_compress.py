from __future__ import annotations

import hashlib
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from layerkit.checkpoint import Blueprint, Ownership, Packer, arrange, checkpoint_key, find
from layerkit.checkpoint.blueprint import Compression
from layerkit.checkpoint.compress import FRAME, Compressed, Compressor, shrinks
from layerkit.checkpoint.recipe import Recipe
from layerkit.errors import CheckpointError, ConfigurationError
from layerkit.oci import MEDIA, Digest
from unit.support import file_digests

MIB = 1024 * 1024
OWNER = Ownership("/app/model/")


def weights(size: int, seed: int = 1) -> bytes:
    """Bytes that shrink to some three quarters, as bf16 does: each second byte is one of few."""
    numbers = random.Random(seed)
    mantissa, exponent = numbers.randbytes(size // 2), bytes(numbers.choices(b"\x3b\x3c\x3d\xbb\xbc\xbd", k=size // 2))
    return bytes(byte for pair in zip(mantissa, exponent, strict=True) for byte in pair)


def blueprint(root: Path, content: bytes, compression: Compression) -> Blueprint:
    (root / "model.pt").write_bytes(content)
    (found,) = arrange(find("model.pt", root), OWNER)
    return replace(found, compression=compression)


def packed(found: Blueprint) -> Packer:
    packer = Packer([found]).start()
    packer.digest(0)
    packer.stop()
    return packer


def read(content: Blueprint | Compressed, offset: int = 0) -> bytes:
    return b"".join(bytes(chunk) for chunk in content.open(offset))


def test_compressed_layer(tmp_path: Path) -> None:
    """Its digest and size are those of the compressed bytes, its diff_id that of the tar, which zstd gives back."""
    found = blueprint(tmp_path, weights(9 * MIB), "zstd")
    packer = packed(found)
    layer, content = packer.layer(0), packer.content(0)
    raw, tar = read(content), read(found)
    assert layer.descriptor.media_type == MEDIA.LAYER_ZSTD
    assert (layer.descriptor.digest, layer.descriptor.size) == (Digest.of(raw), len(raw))
    assert layer.diff_id == Digest.of(tar)
    assert zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True).read() == tar
    assert len(raw) < 0.9 * len(tar)
    assert file_digests(packer) == {"model.pt": Digest("sha256", hashlib.sha256(weights(9 * MIB)).hexdigest())}


@pytest.fixture(scope="module")
def layer(tmp_path_factory: pytest.TempPathFactory) -> tuple[Compressed, bytes]:
    found = blueprint(tmp_path_factory.mktemp("weights"), weights(9 * MIB), "zstd")
    content = packed(found).content(0)
    assert isinstance(content, Compressed)
    return content, read(content)


@given(st.data())
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_offset(layer: tuple[Compressed, bytes], data: st.DataObject) -> None:
    """Opened at any offset, also at and beside the ends of frames, the layer goes on with the very same bytes."""
    content, raw = layer
    edges = [0, *(sum(content.sizes[:n]) for n in range(1, len(content.sizes) + 1))]
    near = st.sampled_from(edges).flatmap(lambda edge: st.integers(max(edge - 1, 0), min(edge + 1, len(raw))))
    offset = data.draw(near | st.integers(0, len(raw)))
    assert read(content, offset) == raw[offset:]


def test_frames_do_not_depend_on_the_chunks() -> None:
    """However the stream arrives, in small pieces or large ones, the frames are the same."""
    data = weights(FRAME + FRAME // 2)
    with Compressor() as one, Compressor() as other:
        whole = list(one.frames([data]))
        pieces = list(other.frames(data[i : i + 777_777] for i in range(0, len(data), 777_777)))
    assert whole == pieces and len(whole) == 2


@pytest.mark.parametrize(("content", "expected"), [("bf16", True), ("noise", False)])
def test_auto(tmp_path: Path, content: str, expected: bool) -> None:
    """auto compresses what a sample shows to shrink by a tenth, and sends the rest as it is."""
    data = weights(2 * MIB) if content == "bf16" else random.Random(1).randbytes(2 * MIB)
    found = blueprint(tmp_path, data, "auto")
    assert shrinks(found) is expected
    packer = packed(found)
    assert packer.compresses(0) is expected
    kind = packer.layer(0).descriptor.media_type
    assert kind == (MEDIA.LAYER_ZSTD if expected else MEDIA.LAYER)


def test_none_is_what_it_was(tmp_path: Path) -> None:
    """Without compression nothing is changed: digest and diff_id are the tar's."""
    found = blueprint(tmp_path, weights(1 * MIB), "none")
    made = packed(found).layer(0)
    assert made.descriptor.digest == made.diff_id == Digest.of(read(found))


def test_key() -> None:
    """Compression is part of the checkpoint's key, but for none: keys of before stay."""
    files = {"model.pt": Digest.of(b"x")}
    kinds: tuple[Compression, ...] = ("none", "zstd", "auto")
    keys = {checkpoint_key(files, OWNER, Recipe(compression=kind).compressed) for kind in kinds}
    assert len(keys) == 3 and checkpoint_key(files, OWNER) in keys


def test_file_that_changes(tmp_path: Path) -> None:
    """A file that is another one when it is compressed for sending is an error, not another layer."""
    found = blueprint(tmp_path, weights(1 * MIB), "zstd")
    content = packed(found).content(0)
    (tmp_path / "model.pt").write_bytes(weights(1 * MIB, seed=2))
    with pytest.raises(CheckpointError, match="changed while it was read"):
        read(content)


def test_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where zstandard is missing, the error says what to install."""
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ConfigurationError) as caught:
        Compressor()
    assert caught.value.hint == "pip install 'layerkit[zstd]'"
