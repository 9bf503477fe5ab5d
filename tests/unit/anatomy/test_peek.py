from __future__ import annotations

import gzip
import io
import os
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerkit.anatomy.peek import File, gzip_size, peek
from layerkit.errors import RefusedError
from layerkit.oci import MEDIA, Descriptor, Digest

from .support import MIB, safetensors, tar_of


class Blob:
    """A blob that is read by ranges, with every range kept."""

    def __init__(self, raw: bytes, media_type: str = MEDIA.LAYER) -> None:
        self.raw = raw
        self.descriptor = Descriptor(media_type, Digest.of(raw), len(raw))
        self.ranges: list[tuple[int, int]] = []

    def read(self, descriptor: Descriptor, start: int, end: int) -> bytes | None:
        assert descriptor == self.descriptor and 0 <= start < end <= len(self.raw)
        self.ranges.append((start, end))
        return self.raw[start:end]

    @property
    def bytes_read(self) -> int:
        return sum(end - start for start, end in self.ranges)


def test_walks_from_header_to_header() -> None:
    """Of an uncompressed layer the headers are read, and not the files."""
    weights = safetensors(a=("F16", (1000, 3000)))
    blob = Blob(tar_of({"m/a.safetensors": weights, "m/big.bin": bytes(20 * MIB), "m/z.txt": b"z"}))
    found = peek(blob.descriptor, blob.read)
    assert found.files == (
        File("/m/a.safetensors", len(weights)), File("/m/big.bin", 20 * MIB), File("/m/z.txt", 1),
    )  # fmt: skip
    assert found.whole and found.why == "" and found.tensors[0].parameters == 3_000_000
    assert blob.bytes_read <= 5 * 16 * 1024


def test_long_names() -> None:
    """Names of any length and alphabet, as both tar formats write them."""
    for style in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w", format=style) as tar:
            for name in ("d/" * 120 + "weights.pt", "modèle/ü.pt"):
                info = tarfile.TarInfo(name)
                info.size = 700
                tar.addfile(info, io.BytesIO(bytes(700)))
        blob = Blob(stream.getvalue())
        found = peek(blob.descriptor, blob.read)
        assert [file.path for file in found.files] == ["/" + "d/" * 120 + "weights.pt", "/modèle/ü.pt"]


def test_beginning_of_gzip() -> None:
    """Of a gzip layer the beginning is unpacked: the first file's tensors are known, what is behind is not."""
    weights = safetensors(a=("F16", (4, 4)))
    noise = os.urandom(12 * MIB)
    tar = tar_of({"a.safetensors": weights, "noise": noise, "b.safetensors": weights})
    blob = Blob(gzip.compress(tar, 1), MEDIA.LAYER_GZIP)
    found = peek(blob.descriptor, blob.read)
    assert [file.path for file in found.files] == ["/a.safetensors", "/noise"]
    assert found.tensors[0].count == 1 and not found.whole and "only its beginning" in found.why
    assert blob.bytes_read <= 9 * MIB


def test_damaged_header() -> None:
    """A safetensors file that breaks the format's rules is told, and the others are read."""
    weights = safetensors(a=("F16", (4, 4)))
    blob = Blob(tar_of({"bad.safetensors": b"\xff" * 100, "good.safetensors": weights}))
    found = peek(blob.descriptor, blob.read)
    assert [item.file for item in found.tensors] == ["/good.safetensors"] and "bad.safetensors" in found.why


@pytest.mark.parametrize("media_type", [MEDIA.LAYER_ZSTD, "application/vnd.example.odd"])
def test_other_forms(media_type: str) -> None:
    """What is not read in parts is not read at all."""
    blob = Blob(b"1234", media_type)
    assert "not read in parts" in peek(blob.descriptor, blob.read).why and blob.ranges == []


def test_bomb() -> None:
    """A gzip of zeros, and a header that claims gigabytes, cost bounded memory and end in a word."""
    blob = Blob(gzip.compress(bytes(200 * MIB), 9), MEDIA.LAYER_GZIP)
    assert peek(blob.descriptor, blob.read).files == ()
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 6 << 30
    huge = Blob(info.tobuf(tarfile.USTAR_FORMAT) + bytes(4096))
    assert "too long" in peek(huge.descriptor, huge.read).why


@settings(deadline=None)
@given(st.binary(max_size=3000), st.sampled_from([MEDIA.LAYER, MEDIA.LAYER_GZIP]))
def test_any_bytes(raw: bytes, media_type: str) -> None:
    """Whatever a blob holds, looking into it gives an answer."""
    blob = Blob(raw, media_type)
    assert peek(blob.descriptor, blob.read).tensors == ()


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(0, 255))
def test_any_damage(at: int, value: int) -> None:
    """The same for a tar with one byte changed."""
    raw = bytearray(tar_of({"a.safetensors": safetensors(a=("F16", (4, 4)))}))
    raw[at] = value
    blob = Blob(bytes(raw))
    peek(blob.descriptor, blob.read)


@settings(deadline=None, max_examples=30)
@given(st.binary(max_size=5000))
def test_gzip_size(content: bytes) -> None:
    """The trailer of a gzip layer says the bytes of its tar."""
    tar = tar_of({"f": content})
    blob = Blob(gzip.compress(tar), MEDIA.LAYER_GZIP)
    assert gzip_size(blob.descriptor, blob.read) == len(tar) and blob.bytes_read == 4


def trailer(size: int, blob_size: int, **annotations: str) -> int | None:
    """What is concluded from a blob of *blob_size* bytes whose trailer says *size*."""
    descriptor = Descriptor(MEDIA.LAYER_GZIP, Digest.of(b"x"), blob_size, annotations)
    return gzip_size(descriptor, lambda d, start, end: (size % 2**32).to_bytes(4, "little"))


def test_gzip_size_over_4_gib() -> None:
    """The trailer counts to 4 GiB and begins again: a layer smaller than its gzip was larger by that."""
    gib = 2**30
    assert trailer(5 * gib, 3 * gib) == 5 * gib
    assert trailer(9 * gib, 8 * gib) == 9 * gib
    assert trailer(5 * gib, 10 * 1024) == gib  # nothing tells: a tar of 1 GiB of zeros is the nearest


def test_gzip_size_that_is_none() -> None:
    """Members of their own (eStargz), sizes that no tar has, and registries that give no ranges: not known."""
    assert trailer(5000, 10_000) is None
    assert trailer(512, 10_000_000) is None
    assert trailer(5 * 512, 100, **{"containerd.io/snapshot/stargz/toc.digest": "x"}) is None
    descriptor = Descriptor(MEDIA.LAYER_GZIP, Digest.of(b"x"), 100)
    assert gzip_size(descriptor, lambda d, start, end: None) is None

    def refuse(d: Descriptor, start: int, end: int) -> bytes | None:
        raise RefusedError("no")

    assert gzip_size(descriptor, refuse) is None
