"""Layers unpacked and walked through in one pass, whatever they are compressed with and whatever is wrong with them."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import tracemalloc
from collections.abc import Iterator

import pytest
import zstandard

from layerkit.errors import ConfigurationError, IntegrityError
from layerkit.oci import MEDIA
from layerkit.verification.entries import entries, unpacked
from unit.anatomy.support import tar_of

MIB = 1024 * 1024


def pieces(raw: bytes, size: int = 1000) -> Iterator[bytes]:
    return (raw[at : at + size] for at in range(0, len(raw), size))


def walked(tar: bytes, size: int = 1000) -> list[tuple[str, str, bytes]]:
    return [(e.path, e.kind, b"".join(map(bytes, e.content))) for e in entries(pieces(tar, size))]


FILES = {"app/a": b"a" * 5000, "app/empty": b"", "app/whole-block": b"b" * 1024, "./deep/" + "n" * 200: b"c"}


@pytest.mark.parametrize("size", [1, 511, 512, 100_000])
def test_every_file(size: int) -> None:
    """Every file comes with its path in the image and its bytes, however the tar is cut; long names too."""
    expected = [(os.path.normpath("/" + name), "file", content) for name, content in FILES.items()]
    assert walked(tar_of(FILES), size) == expected


def test_unread_content_is_passed_over() -> None:
    """Who does not want a file's bytes need not take them, and the stream is read to its end."""
    tar, taken = tar_of(FILES), 0

    def counted() -> Iterator[bytes]:
        nonlocal taken
        for piece in pieces(tar):
            taken += len(piece)
            yield piece

    assert [entry.path for entry in entries(counted())] == [os.path.normpath("/" + name) for name in FILES]
    assert taken == len(tar)


def test_kinds() -> None:
    """Folders, hard links with their targets, and what is neither."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, kind, link in (
            ("d", tarfile.DIRTYPE, ""),
            ("h", tarfile.LNKTYPE, "d/f"),
            ("s", tarfile.SYMTYPE, "d"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            tar.addfile(info)
    found = [(e.path, e.kind, e.target) for e in entries(pieces(stream.getvalue()))]
    assert found == [("/d", "folder", ""), ("/h", "hardlink", "/d/f"), ("/s", "other", "")]


@pytest.mark.parametrize(
    "media_type, blob",
    [
        pytest.param(MEDIA.LAYER, tar_of(FILES), id="tar"),
        pytest.param(MEDIA.LAYER_GZIP, gzip.compress(tar_of(FILES)), id="gzip"),
        pytest.param(
            MEDIA.DOCKER_LAYER_GZIP,
            gzip.compress(tar_of(FILES)[:1000]) + gzip.compress(tar_of(FILES)[1000:]) + bytes(20),
            id="gzip members",
        ),
        pytest.param(
            MEDIA.LAYER_ZSTD,
            b"".join(zstandard.compress(part) for part in pieces(tar_of(FILES))),
            id="zstd frames",
        ),
    ],
)
def test_compressed(media_type: str, blob: bytes) -> None:
    """Every compression of layers gives the same tar, however the blob is cut."""
    for size in (1, 7, 100_000):
        assert b"".join(unpacked(pieces(blob, size), media_type)) == tar_of(FILES)


@pytest.mark.parametrize(
    "media_type, blob",
    [
        pytest.param(MEDIA.LAYER_GZIP, b"no gzip at all", id="no gzip"),
        pytest.param(MEDIA.LAYER_GZIP, gzip.compress(os.urandom(5000))[:-100], id="gzip cut"),
        pytest.param(MEDIA.LAYER_ZSTD, b"no zstd at all", id="no zstd"),
    ],
)
def test_not_as_said(media_type: str, blob: bytes) -> None:
    """What is not compressed as its media type says is damaged."""
    with pytest.raises(IntegrityError):
        list(unpacked(pieces(blob), media_type))


def test_unknown_media_type() -> None:
    """A media type that is no layer's is refused."""
    with pytest.raises(ConfigurationError, match="cannot be read"):
        unpacked(iter(()), "application/vnd.example")


def test_bombs_take_no_memory() -> None:
    """64 MiB of zeros in a few KiB: a few MiB at a time, whatever it unpacks to."""
    zeros = tar_of({"zeros": bytes(64 * MIB)})
    for media_type, blob in (
        (MEDIA.LAYER_GZIP, gzip.compress(zeros, 1)),
        (MEDIA.LAYER_ZSTD, zstandard.compress(zeros)),
    ):
        tracemalloc.start()
        size = sum(len(chunk) for entry in entries(unpacked(iter([blob]), media_type)) for chunk in entry.content)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert size == 64 * MIB and peak < 12 * MIB


@pytest.mark.parametrize(
    "tar",
    [
        pytest.param(b"no tar" * 500, id="no tar"),
        pytest.param(tar_of({"a": b"x" * 5000})[:2000], id="cut in a file"),
        pytest.param(tar_of({"../../etc/passwd": b"x"}), id="leads out"),
        pytest.param(tar_of({"n" * 120 + "é.": b"x"}).replace(b"nn\xc3\xa9.", b"nn\xc3\xa9\0"), id="NUL in a pax name"),
    ],
)
def test_no_tar(tar: bytes) -> None:
    """What is no tar, is cut off, leads out of the image, or names what no file can be called is damaged."""
    with pytest.raises(IntegrityError):
        walked(tar)


def test_hostile_header() -> None:
    """A header that asks for gigabytes is refused, and not read into memory."""
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, 8 * 1024**3
    with pytest.raises(IntegrityError, match="asks for"):
        walked(info.tobuf(tarfile.GNU_FORMAT) + bytes(10_000))


def test_nothing_in_it() -> None:
    """BuildKit's empty layer has no entries."""
    assert walked(bytes(1024)) == []
