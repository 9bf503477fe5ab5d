"""Any bytes at all give a value or a LayerkitError: never another exception, an endless loop, or memory without bound.

Challenges, Location, Range, Retry-After, error bodies: tests/registry (test_auth, test_urls, test_answers).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from layerkit import lock
from layerkit.checkpoint.archive import read_archive, read_legacy
from layerkit.checkpoint.safetensors import parse_header, parse_index
from layerkit.errors import AuthenticationError, ConfigurationError, LayerkitError
from layerkit.oci import MEDIA, Config, Digest, Image, Index, Manifest, Reference, parse_manifest
from layerkit.project import load
from layerkit.registry import Credentials
from layerkit.runtime.dockerignore import Matcher
from layerkit.runtime.placeholder import placeholder_place
from layerkit.verification.entries import entries, unpacked

MIB = 1024 * 1024
FUZZ = settings(deadline=None, suppress_health_check=list(HealthCheck))

leaves = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    | st.sampled_from(["sha256:" + "a" * 64, MEDIA.MANIFEST, MEDIA.INDEX, MEDIA.LAYER, -1, 2**63, 2**80, "linux", ""])
)  # fmt: skip
names = st.text(max_size=8) | st.sampled_from([
    "schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size", "annotations", "platform",
    "os", "architecture", "variant", "subject", "artifactType", "rootfs", "type", "diff_ids", "history",
    "created_by", "empty_layer", "User", "Env", "Labels", "urls", "data",
])  # fmt: skip
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=6))
descriptor = st.fixed_dictionaries(
    {"mediaType": leaves, "digest": leaves, "size": leaves}, optional={"annotations": values, "platform": values}
)
documents = st.binary() | (
    values
    | st.fixed_dictionaries(
        {
            "schemaVersion": st.just(2),
            "mediaType": leaves,
            "config": descriptor,
            "layers": st.lists(descriptor | values),
        }
    )
    | st.fixed_dictionaries(
        {"schemaVersion": st.just(2), "mediaType": leaves, "manifests": st.lists(descriptor | values)}
    )
    | st.fixed_dictionaries(
        {"architecture": leaves, "os": leaves, "config": values, "history": values, "rootfs": values}
    )
).map(lambda value: json.dumps(value).encode())


def survives(call: Callable[[], Any], kind: type[LayerkitError] = LayerkitError) -> Any:
    """What *call* returns; None where it raised a *kind* that is fit for a terminal."""
    try:
        return call()
    except kind as error:
        assert error.message
        assert "\x1b" not in error.message
    return None


def damage(content: bytes, changes: list[tuple[float, int]], end: float) -> bytes:
    """*content* with bytes changed here and there, cut after the part *end* of it."""
    raw = bytearray(content)
    for where, value in changes:
        raw[int(where * (len(raw) - 1))] = value
    return bytes(raw[: int(len(raw) * end) + 1])


places = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8)
ends = st.just(1.0) | st.floats(0, 1)


@contextlib.contextmanager
def frugal(limit: int) -> Iterator[None]:
    """At most *limit* bytes at a time are taken from Python's memory."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------------ what registries say


@FUZZ
@given(documents, st.sampled_from(["", MEDIA.MANIFEST, MEDIA.INDEX, MEDIA.DOCKER_MANIFEST, "text/html"]))
def test_manifests(raw: bytes, media_type: str) -> None:
    """A manifest or index that is read keeps its bytes, and all that is asked of it is there."""
    found = survives(lambda: parse_manifest(raw, media_type))
    if found is not None:
        assert found.raw == raw and found.digest == Digest.of(raw)
        descriptors = found.manifests if isinstance(found, Index) else (found.config, *found.layers)
        assert all(one.size >= 0 for one in descriptors)


@FUZZ
@given(documents)
def test_configs(raw: bytes) -> None:
    """Of a configuration each property is there or said to be wrong."""
    config = survives(lambda: Config.parse(raw))
    if config is not None:
        properties = ["diff_ids", "history", "user", "platform", "settings", "labels", "environment"]
        for name in properties:
            survives(lambda name=name: getattr(config, name))  # type: ignore[misc]
        survives(lambda: Image(Manifest.create(config.descriptor, []), config))


@FUZZ
@given(st.text() | st.text("abc./:@-_0\x1b \n", max_size=300))
def test_references_and_digests(text: str) -> None:
    """FAULTS 57: any text is a reference or a ConfigurationError; what is one means the same when it is written out."""
    for kind, error in ((Reference, ConfigurationError), (Digest, LayerkitError)):
        found = survives(lambda kind=kind: kind.parse(text), error)  # type: ignore[misc]
        assert found is None or kind.parse(str(found)) == found


# ------------------------------------------------------------------------------------------------ files of people


@FUZZ
@given(raw=documents | st.text().map(str.encode))
def test_docker_config(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """FAULTS 55: any bytes of a config.json."""
    folder = tmp_path_factory.getbasetemp() / "docker-config"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(raw)
    survives(lambda: Credentials(folder, {"PATH": "/nonexistent"}).login("r"), AuthenticationError)


@FUZZ
@given(st.text() | st.text("ab/*!?[]-^\\#.\n\r ", max_size=80), st.text("ab/.-", max_size=30))
def test_dockerignore(text: str, path: str) -> None:
    """Any .dockerignore decides for any path, or is a ConfigurationError."""
    matcher = survives(lambda: Matcher.of(text), ConfigurationError)
    if matcher is not None:
        assert matcher.excludes(path) in (True, False)
        assert matcher.prunes(path) in (True, False)


def test_dockerignore_takes_no_exponential_time() -> None:
    """Patterns that make a backtracking matcher hang are answered at once (ends by pytest's time limit if not)."""
    for pattern in ("*a" * 40 + "b", "**/" * 40 + "b", "[a-z]*" * 40 + "0", "**a**a**a**a**a**a**a**a**a**a*b"):
        assert not Matcher.of(pattern).excludes("a" * 300 + "/" + "a" * 300)


keys = st.sampled_from([
    "image", "name", "base", "dockerfile", "platforms", "command", "env", "labels", "checkpoint", "path",
    "target", "chown", "chmod", "placement", "compression", "layer_limit", "code", "include", "exclude",
    "dependencies", "requirements", "separate", "cache", "to", "from", "repository", "builder", "args",
])  # fmt: skip
scalars = st.one_of(
    st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20), st.lists(st.text(max_size=8))
)


def toml_of(tables: dict[str, dict[str, Any]]) -> str:
    lines = []
    for table, rows in tables.items():
        lines += [f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in rows.items())]
    return "\n".join(lines)


tomls = (
    st.binary()
    | st.text().map(str.encode)
    | st.dictionaries(keys, st.dictionaries(keys, scalars, max_size=6), max_size=5).map(toml_of).map(str.encode)
    | st.integers(1, 3000).map(lambda depth: b"a = " + b"[" * depth)
    | st.integers(1, 3000).map(lambda depth: b"a = " + b"{b=" * depth)
    | st.integers(1, 3000).map(lambda depth: b"[" + b".".join([b"a"] * depth) + b"]")
)


@FUZZ
@given(raw=tomls)
def test_layerkit_toml(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """FAULTS 53: any bytes of a layerkit.toml are a project or a ConfigurationError."""
    file = tmp_path_factory.getbasetemp() / "layerkit.toml"
    file.write_bytes(raw)
    survives(lambda: load(file), ConfigurationError)


lock_keys = st.sampled_from([
    "version", "base", "name", "digest", "checkpoint", "path", "source", "content", "file", "layer", "size",
    "media_type", "diff_id", "created_by", "sha256", "weights", "target", "chown", "chmod", "mode", "files",
    "layers", "settings",
])  # fmt: skip


@FUZZ
@given(
    st.text()
    | st.dictionaries(lock_keys, scalars, max_size=6).map(lambda rows: toml_of({"checkpoint": rows}))
    | st.lists(st.dictionaries(lock_keys, scalars, max_size=6), max_size=4).map(
        lambda rows: "version = 1\n" + "\n".join(toml_of({"[base]": row}) for row in rows)
    )
    | st.integers(1, 3000).map(lambda depth: "a = " + "[" * depth)
)
def test_layerkit_lock(text: str) -> None:
    """Any text of a layerkit.lock is a lock or a ConfigurationError; a lock survives its own text."""
    found = survives(lambda: lock.parse(text, "layerkit.lock"), ConfigurationError)
    if found is not None:
        assert lock.parse(lock.render(found), "layerkit.lock") == found


# ------------------------------------------------------------------------------------------------ archives


def checkpoint_zip() -> bytes:
    """The outside of what torch.save writes: a stored ZIP of one folder."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("archive/byteorder", b"little")
        archive.writestr("archive/data/0", bytes(64))
        archive.writestr("archive/version", b"3\n")
    return stream.getvalue()


ZIP = checkpoint_zip()


def through(reader: Callable[[int, int, str], Any], raw: bytes, folder: Path) -> None:
    file = folder / "fuzzed.pt"
    file.write_bytes(raw)
    handle = os.open(file, os.O_RDONLY)
    try:
        with frugal(16 * MIB):
            survives(lambda: reader(handle, len(raw), "fuzzed.pt"))
    finally:
        os.close(handle)


@FUZZ
@given(raw=st.binary(max_size=2000) | st.builds(damage, st.just(ZIP), places, ends))
@example(raw=b"P\\\x00\n")  # an escape that Python warns of
def test_zip_checkpoints(raw: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    """FAULTS 50: any damage to the ZIP of a checkpoint is a CheckpointError, in little memory."""
    through(read_archive, raw, tmp_path_factory.getbasetemp())
    through(read_legacy, raw, tmp_path_factory.getbasetemp())


@FUZZ
@given(st.binary() | documents, st.integers(0, 2**63))
def test_safetensors(raw: bytes, size: int) -> None:
    """Any header of a safetensors file, and any index of shards."""
    survives(lambda: parse_header(raw, data_size=size, where="f"))
    survives(lambda: parse_index(raw, "f"))


def checkpoint_tar() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, size in (("app/", 0), ("app/" + "n" * 150, 700), ("app/é", 10)):
            info = tarfile.TarInfo(name)
            info.size = size
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.pax_headers = {"LAYERKIT.x": "y"}
            tar.addfile(info, io.BytesIO(bytes(size)))
        link = tarfile.TarInfo("app/link")
        link.type, link.linkname = tarfile.SYMTYPE, "../.."
        tar.addfile(link)
    return stream.getvalue()


TAR = checkpoint_tar()


@FUZZ
@given(
    st.binary(max_size=3000) | st.builds(damage, st.just(TAR), places, ends),
    st.sampled_from([MEDIA.LAYER, MEDIA.LAYER_GZIP, MEDIA.LAYER_ZSTD]),
    st.integers(1, 2000),
)
def test_tar_layers(raw: bytes, media_type: str, piece: int) -> None:
    """Any damage to a layer: its entries, or a LayerkitError, whatever pieces it comes in; in little memory."""

    def read() -> None:
        pieces = (raw[start : start + piece] for start in range(0, len(raw), piece))
        for entry in entries(unpacked(pieces, media_type)):
            assert "\0" not in entry.path
            for _ in entry.content:
                pass

    with frugal(16 * MIB):
        survives(read)
    survives(lambda: placeholder_place(raw))
