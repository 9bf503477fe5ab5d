from __future__ import annotations

import gzip
import io
import tarfile

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from layerkit.oci import MEDIA, Descriptor, Digest
from layerkit.runtime.bake import PLACEHOLDER
from layerkit.runtime.placeholder import MAX_SIZE, disturbs, may_be_placeholder, placeholder_place
from unit.support import placeholder_tar


def bomb() -> bytes:
    """A blob of some hundred KiB that would be 1 GiB."""
    return zstandard.ZstdCompressor().compress(bytes(1024 * 1024)) * 8 + gzip.compress(b"")


@pytest.mark.parametrize(
    "pack",
    [
        pytest.param(bytes, id="tar"),
        pytest.param(gzip.compress, id="gzip"),
        pytest.param(zstandard.ZstdCompressor().compress, id="zstd"),
        pytest.param(zstandard.ZstdCompressor(write_content_size=False).compress, id="zstd-without-size"),
    ],
)
def test_found(pack: type[bytes]) -> None:
    """The placeholder is known by its content, however it is compressed, with its folder and owner."""
    assert placeholder_place(pack(placeholder_tar(uid=1000, gid=1001))) == ("/app/model", 1000, 1001)


def test_root_folder() -> None:
    """A checkpoint may go to a folder right under the root."""
    assert placeholder_place(placeholder_tar("app")) == ("/app", 0, 0)


def renamed() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo("app/marker")
        info.size = len(PLACEHOLDER)
        tar.addfile(info, io.BytesIO(PLACEHOLDER))
    return stream.getvalue()


def linked() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        info = tarfile.TarInfo("app/.layerkit-placeholder")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(info)
    return stream.getvalue()


@pytest.mark.parametrize(
    "blob",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"no tar", id="text"),
        pytest.param(bytes(1024), id="empty-tar"),
        pytest.param(placeholder_tar(content=b"something else"), id="other-content"),
        pytest.param(placeholder_tar(content=PLACEHOLDER + b"more"), id="more-content"),
        pytest.param(renamed(), id="other-name"),
        pytest.param(linked(), id="link"),
        pytest.param(gzip.compress(placeholder_tar())[:60], id="half-gzip"),
        pytest.param(b"\x1f\x8b" + b"x" * 50, id="broken-gzip"),
        pytest.param(b"\x28\xb5\x2f\xfd" + b"x" * 50, id="broken-zstd"),
        pytest.param(gzip.compress(bytes(10 * 1024 * 1024)), id="gzip-bomb"),
        pytest.param(bomb(), id="zstd-bomb"),
    ],
)
def test_not_found(blob: bytes) -> None:
    """What is no placeholder is none, damaged blobs and bombs too (FAULTS 50)."""
    assert placeholder_place(blob) is None


@given(st.binary(max_size=600) | st.binary(max_size=200).map(gzip.compress))
def test_anything(blob: bytes) -> None:
    """Any bytes are looked at without failing."""
    assert placeholder_place(blob) is None


def test_by_size() -> None:
    """Only small layers are looked into."""
    assert may_be_placeholder(Descriptor(MEDIA.LAYER, Digest.of(b""), MAX_SIZE))
    assert not may_be_placeholder(Descriptor(MEDIA.LAYER, Digest.of(b""), MAX_SIZE + 1))


def above(*names: str, mode: str = "w") -> bytes:
    """A layer with empty files of these names."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize(
    ("name", "disturbed"),
    [
        ("app/model/.layerkit-placeholder", True),  # chown -R
        ("app/m2/.layerkit-placeholder", True),  # mv, cp
        ("app/.wh.model", True),  # rm -r
        (".wh.app", True),
        ("app/model/.wh..layerkit-placeholder", True),
        ("app/model/.wh..wh..opq", True),
        ("app/.wh..wh..opq", True),
        ("app/model/.wh.other", False),
        ("app/.wh.models", False),
        ("app/logs/.wh..wh..opq", False),
        ("app/model/new.json", False),
    ],
)
def test_what_became_of_it(name: str, disturbed: bool, mode: str) -> None:
    """A layer that holds the placeholder's file, or hides it or a folder that it is in, did something to it."""
    assert disturbs(io.BytesIO(above("app/serve.py", name, mode=mode)), "/app/model") is disturbed


def test_what_cannot_be_read() -> None:
    """What is no layer disturbs nothing."""
    whole = zstandard.ZstdCompressor(write_checksum=True).compress(above("app/serve.py"))
    damaged = whole[:-1] + bytes([whole[-1] ^ 1])
    for raw in (b"", b"\x1f\x8bno", b"x" * 5000, b"\x28\xb5\x2f\xfd" + b"x" * 50, damaged):
        assert not disturbs(io.BytesIO(raw), "/m")
