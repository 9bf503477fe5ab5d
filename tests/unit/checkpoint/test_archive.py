from __future__ import annotations

import os
import struct
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from layerkit.checkpoint.archive import LEGACY_MAGIC, Archive, read_archive, read_legacy
from layerkit.errors import CheckpointError

GOOD = {"m/data.pkl": b"\x80\x02N.", "m/byteorder": b"little", "m/data/0": b"12345678", "m/data/1": b""}


def write(path: Path, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in records.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=compression)
    return path


def read(path: Path) -> Archive:
    handle = os.open(path, os.O_RDONLY)
    try:
        return read_archive(handle, path.stat().st_size, path.name)
    finally:
        os.close(handle)


def test_records(tmp_path: Path) -> None:
    """The pickle, and where each storage's bytes are."""
    path = write(tmp_path / "m.pt", GOOD)
    found = read(path)
    assert (found.kind, found.pickle, found.big_endian) == ("torch", GOOD["m/data.pkl"], False)
    assert found.storages is not None
    content = path.read_bytes()
    assert {k: content[at : at + size] for k, (at, size) in found.storages.items()} == {"0": b"12345678", "1": b""}
    assert read(write(path, GOOD | {"m/byteorder": b"big"})).big_endian


@pytest.mark.parametrize(
    ("records", "kind"),
    [
        pytest.param(GOOD | {"m/constants.pkl": b"", "m/code/a.py": b""}, "torchscript", id="torchscript"),
        pytest.param({"a.txt": b"x"}, "zip", id="other"),
        pytest.param({"a/data.pkl": b"x", "b/data.pkl": b"x"}, "zip", id="two-pickles"),
        pytest.param({"data.pkl": b"x"}, "zip", id="no-folder"),
    ],
)
def test_other_archives(tmp_path: Path, records: dict[str, bytes], kind: str) -> None:
    """What torch.save did not write is not taken apart."""
    assert read(write(tmp_path / "m.zip", records)) == Archive(kind)


def cut(count: int) -> Callable[[bytes], bytes]:
    return lambda content: content[:-count]


def local(offset: int, value: bytes) -> Callable[[bytes], bytes]:
    """Changes the local header of the last record."""

    def change(content: bytes) -> bytes:
        at = content.rindex(b"PK\x03\x04") + offset
        return content[:at] + value + content[at + len(value) :]

    return change


@pytest.mark.parametrize(
    ("records", "change", "said"),
    [
        pytest.param(GOOD | {"../../etc/x": b""}, None, "leads out", id="zip-slip"),
        pytest.param(GOOD | {"/etc/x": b""}, None, "leads out", id="absolute"),
        pytest.param(GOOD | {"m\\..\\x": b""}, None, "leads out", id="backslash"),
        pytest.param(GOOD | {"m/../x": b""}, None, "leads out", id="inner"),
        pytest.param(GOOD | {"m/DATA.pkl": b""}, None, "two records of one name", id="case"),
        pytest.param(GOOD | {"other/x": b""}, None, "begins with something else", id="other-folder"),
        pytest.param(GOOD | {"m/byteorder": b"?" * 100}, None, "byte order", id="byteorder"),
        pytest.param(GOOD, cut(10), "damaged or cut-off", id="no-end"),
        pytest.param(GOOD, cut(200), "damaged or cut-off", id="no-directory"),
        pytest.param(GOOD, lambda content: content[:4] + b"\0" * 300, "damaged or cut-off", id="zeros"),
        pytest.param(GOOD, lambda content: b"PK\x03\x04" + content, "begins with something else", id="in-front"),
        pytest.param(GOOD, local(0, b"XXXX"), "no record where", id="no-local-header"),
        pytest.param(GOOD, local(28, b"\xff\xff"), "is cut off", id="local-extra"),
        pytest.param(GOOD, lambda content: content.replace(b"\x80\x02N.", b"\x80\x02M."), "damaged", id="crc"),
    ],
)
def test_hostile(tmp_path: Path, records: dict[str, bytes], change: Callable[[bytes], bytes] | None, said: str) -> None:
    """Archives that lead out, overlap, are cut or are damaged are refused, and nothing is extracted (FAULTS 50)."""
    path = write(tmp_path / "m.pt", records)
    if change is not None:
        path.write_bytes(change(path.read_bytes()))
    with pytest.raises(CheckpointError, match=said):
        read(path)
    assert list(tmp_path.iterdir()) == [path]


def test_compressed(tmp_path: Path) -> None:
    """A compressed record is refused before it is unpacked: torch.save writes none."""
    with pytest.raises(CheckpointError, match="compressed record"):
        read(write(tmp_path / "m.pt", GOOD | {"m/data/2": bytes(10**6)}, zipfile.ZIP_DEFLATED))


def test_encrypted(tmp_path: Path) -> None:
    """An encrypted record is refused."""
    path = write(tmp_path / "m.pt", GOOD)
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="encrypted"):
        read(path)


def test_overlapping(tmp_path: Path) -> None:
    """Records that lie in each other (a quine of a bomb) are refused."""
    path = write(tmp_path / "m.pt", {"m/data.pkl": b"\x80\x02N.", "m/data/0": bytes(1000), "m/data/1": bytes(10)})
    content = bytearray(path.read_bytes())
    last = content.rindex(b"PK\x01\x02")
    content[last + 42 : last + 46] = struct.pack("<I", content.index(b"PK\x03\x04", 40) + 8)
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"overlap|damaged"):
        read(path)


def test_twice(tmp_path: Path) -> None:
    """Two records of one name are refused: two readers could choose differently."""
    path = tmp_path / "m.pt"
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w") as archive:
        warnings.simplefilter("ignore")
        for name in ("m/data.pkl", "m/data/0", "m/data/0"):
            archive.writestr(name, b"x")
    with pytest.raises(CheckpointError, match="two records"):
        read(path)


def test_pickle_out_of_proportion(tmp_path: Path) -> None:
    """A pickle much larger than its storages need is not read: it could take a hundred times its size in memory."""
    with pytest.raises(CheckpointError, match="a pickle of 20000000 bytes for 2 storages"):
        read(write(tmp_path / "m.pt", GOOD | {"m/data.pkl": bytes(20_000_000)}))


def test_bomb_takes_no_memory(tmp_path: Path) -> None:
    """A pickle of 320 MiB in a megabyte is refused with next to no memory."""
    path = tmp_path / "m.pt"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("m/data.pkl", "w", force_zip64=True) as stream,
    ):
        for _ in range(80):
            stream.write(bytes(2**22))
    code = (
        "import os, resource, sys\n"
        "from layerkit.checkpoint.archive import read_archive\nfrom layerkit.errors import CheckpointError\n"
        "resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28))\n"
        "handle = os.open(sys.argv[1], os.O_RDONLY)\n"
        "try: read_archive(handle, os.fstat(handle).st_size, 'm.pt')\n"
        "except CheckpointError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert "compressed record" in done.stdout


def legacy(path: Path, content: bytes) -> object:
    path.write_bytes(content)
    handle = os.open(path, os.O_RDONLY)
    try:
        return read_legacy(handle, path.stat().st_size, path.name)
    finally:
        os.close(handle)


def test_legacy(tmp_path: Path) -> None:
    """The object's pickle, that of the keys, and where the storages start."""
    content = LEGACY_MAGIC + b"\x80\x02M\xe9\x03." + b"\x80\x02}." + b"\x80\x02N." + b"\x80\x02]." + b"storages"
    found = legacy(tmp_path / "m.pt", content)
    assert (found.pickle, found.keys) == (b"\x80\x02N.", b"\x80\x02].")  # type: ignore[attr-defined]
    assert content[found.start :] == b"storages"  # type: ignore[attr-defined]


@pytest.mark.parametrize("content", [LEGACY_MAGIC, LEGACY_MAGIC + b"\x80\x02M\xe9", LEGACY_MAGIC + b"\xff" * 100])
def test_legacy_damaged(tmp_path: Path, content: bytes) -> None:
    """A legacy file that ends in a pickle is refused."""
    with pytest.raises(CheckpointError, match="damaged or cut-off pickle"):
        legacy(tmp_path / "m.pt", content)
