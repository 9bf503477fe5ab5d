from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from layerkit.checkpoint import Blueprint, File, Ownership, Packer, arrange, checkpoint_key, content_digest, find
from layerkit.checkpoint.blueprint import FORMAT_VERSION
from layerkit.checkpoint.pack import Hashed
from layerkit.errors import CheckpointError
from layerkit.oci import MEDIA, Digest
from layerkit.state import Identity
from unit.support import file_digests

MIB = 1024 * 1024
GIB = 1024 * MIB
OWNER = Ownership("/app/model/", 1000, 1001, 0o640)


def write(root: Path, files: dict[str, bytes]) -> tuple[File, ...]:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return find(".", root)


def whole(blueprint: Blueprint, offset: int = 0) -> bytes:
    return b"".join(bytes(chunk) for chunk in blueprint.open(offset))


def digests(blueprints: Sequence[Blueprint]) -> list[Digest]:
    packer = Packer(blueprints).start()
    try:
        return [packer.digest(index) for index in range(len(blueprints))]
    finally:
        packer.stop()


def fake(path: str, size: int) -> File:
    return File(path, Path("/nowhere", path), Identity(1, 1, size, 1, 1))


# ------------------------------------------------------------------------------------------------------------- the tar


NAMES = st.lists(
    st.lists(st.from_regex(r"[a-zéß][a-z0-9 ._-]{0,60}", fullmatch=True), min_size=1, max_size=3).map("/".join),
    min_size=1, max_size=5, unique=True,
).filter(lambda names: not any(b.startswith(a + "/") for a in names for b in names))  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(NAMES, st.data())
def test_read_by_tarfile(tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject) -> None:
    """Any tar reader finds every file with the asked content, owner and mode, and each of its folders before it."""
    root = tmp_path_factory.mktemp("w")
    content = {name: b"." + data.draw(st.binary(max_size=1500)) for name in names}
    files = write(root, content)
    (blueprint,) = arrange(files, OWNER)
    raw = whole(blueprint)
    assert len(raw) == blueprint.size and len(raw) % 512 == 0
    seen: set[str] = set()
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        for member in tar:
            assert member.name not in seen and member.mtime == 0 and (member.uname, member.gname) == ("", "")
            assert str(PurePosixPath(member.name).parent) in seen | {"."}
            seen.add(member.name)
            if member.isfile():
                assert (member.uid, member.gid, member.mode) == (1000, 1001, 0o640)
                stream = tar.extractfile(member)
                assert stream is not None and stream.read() == content[member.name.removeprefix("app/model/")]
            else:
                ours = member.name.startswith("app/model")
                assert member.isdir()
                assert (member.uid, member.gid, member.mode) == ((1000, 1001, 0o750) if ours else (0, 0, 0o755))
    assert {f"app/model/{name}" for name in names} <= seen


@pytest.mark.parametrize(
    ("mode", "folder"),
    [(0o644, 0o755), (0o600, 0o700), (0o640, 0o750), (0o444, 0o555), (0o755, 0o755), (0o000, 0o000)],
)
def test_folder_mode(mode: int, folder: int) -> None:
    """A folder may be entered by whoever may read the files."""
    assert Ownership("/x", mode=mode).folder_mode == folder


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("n" * 196 + ".bin", id="200-bytes"),
        pytest.param("/".join(["d" * 80] * 4) + "/model.bin", id="path-of-330-bytes"),
        pytest.param("模型" * 40 + ".bin", id="utf-8"),
        pytest.param("ünïcödé.bin", id="short-utf-8"),
    ],
)
def test_names_that_plain_headers_cannot_hold(tmp_path: Path, name: str) -> None:
    """Long names and names in UTF-8 come out whole, by Python's reader and by GNU tar's."""
    (blueprint,) = arrange(write(tmp_path / "w", {name: b"content"}), OWNER)
    raw = whole(blueprint)
    with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
        assert tar.getnames()[-1] == f"app/model/{name}"
    (tmp_path / "x").mkdir()
    subprocess.run(["tar", "-x", "-C", str(tmp_path / "x")], input=raw, check=True, timeout=30)
    assert (tmp_path / "x/app/model" / name).read_bytes() == b"content"


def test_large_owner(tmp_path: Path) -> None:
    """Owners over 2097151, which a plain header cannot hold, are kept (OpenShift gives such numbers)."""
    (blueprint,) = arrange(write(tmp_path, {"a": b"1"}), Ownership("/m", 1000650000, 4294967294))
    with tarfile.open(fileobj=io.BytesIO(whole(blueprint))) as tar:
        member = tar.getmember("m/a")
    assert (member.uid, member.gid) == (1000650000, 4294967294)


@pytest.mark.parametrize("target", ["/", "/m", "/m/", "/a/b/c/", "/a//b"])
def test_target(tmp_path: Path, target: str) -> None:
    """A target with or without slashes at its end is the same folder; the root itself is no entry."""
    (blueprint,) = arrange(write(tmp_path, {"x/f": b"1"}), Ownership(target))
    with tarfile.open(fileobj=io.BytesIO(whole(blueprint))) as tar:
        names = tar.getnames()
    folder = "/".join(part for part in target.split("/") if part)
    assert names[-1] == f"{folder}/x/f".lstrip("/")
    assert "" not in names and "." not in names and not any(name.startswith("/") for name in names)


def test_empty_file(tmp_path: Path) -> None:
    """An empty file is in the tar, and has its digest."""
    files = write(tmp_path, {"a": b"", "b": b"2"})
    (blueprint,) = arrange(files, OWNER)
    with tarfile.open(fileobj=io.BytesIO(whole(blueprint))) as tar:
        assert tar.getmember("app/model/a").size == 0
    packer = Packer([blueprint]).start()
    assert file_digests(packer) == {"a": Digest.of(b""), "b": Digest.of(b"2")}
    packer.stop()


def test_over_8_gib(tmp_path: Path) -> None:
    """A file of 8 GiB and more has a header that says so, and can be opened near its end (FAULTS 46)."""
    path = tmp_path / "model.pt"
    size = 9 * GIB + 5
    with path.open("wb") as stream:
        stream.seek(size - 3)
        stream.write(b"end")
    (blueprint,) = arrange(find("model.pt", tmp_path), OWNER)
    head = b""
    for chunk in blueprint.open():
        head += bytes(chunk)
        if len(head) > 8192:
            break
    with tarfile.open(fileobj=io.BytesIO(head), mode="r|") as tar:
        members = [next(iter_) for iter_ in [iter(tar)] for _ in range(3)]
    assert (members[-1].name, members[-1].size) == ("app/model/model.pt", size)
    data_start = blueprint.size - 1024 - (size + 507)
    assert data_start % 512 == 0
    assert whole(blueprint, data_start + size - 3) == b"end" + bytes(507) + bytes(1024)
    assert blueprint.layer(Digest.of(b"")).descriptor.size == blueprint.size > 9 * GIB


# ------------------------------------------------------------------------------------------------------- deterministic


def test_same_digest_whatever_surrounds_it(tmp_path: Path) -> None:
    """Order of creation, umask, times, modes, owners and folder do not count: same content, same digest (FAULTS 46)."""
    content = {f"{name}/{n}.bin": f"{name}{n}".encode() * 100 for name in ("a", "b c", "ü") for n in range(5)}
    found = []
    for number, (umask, when) in enumerate([(0o022, 0), (0o077, 2_000_000_000)]):
        old = os.umask(umask)
        try:
            items = list(content.items())
            random.Random(number).shuffle(items)
            root = tmp_path / f"folder {number}"
            files = write(root, dict(items))
        finally:
            os.umask(old)
        for file in files:
            os.utime(file.source, (when, when))
            if number:
                file.source.chmod(0o755)
        found.append(digests(arrange(find(".", root), OWNER)))
    assert found[0] == found[1]


def test_known_digest(tmp_path: Path) -> None:
    """The bytes of format version 1 are what they are: should this fail, FORMAT_VERSION must be raised."""
    assert FORMAT_VERSION == 1
    (digest,) = digests(arrange(write(tmp_path, {"a.bin": b"weights", "sub/ü.bin": b"more"}), OWNER))
    assert str(digest) == "sha256:450d1aa1ce0d6c8b3ce10097da7da4469a5eb0ed2235e97d15ae2687c30bef04"


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Ownership("/other/", 1000, 1001, 0o640), id="target"),
        pytest.param(Ownership("/app/model/", 1, 1001, 0o640), id="uid"),
        pytest.param(Ownership("/app/model/", 1000, 1, 0o640), id="gid"),
        pytest.param(Ownership("/app/model/", 1000, 1001, 0o644), id="mode"),
    ],
)
def test_what_counts(tmp_path: Path, other: Ownership) -> None:
    """Target, owner and mode are in the layer, and in the key."""
    files = write(tmp_path, {"a": b"1"})
    assert digests(arrange(files, OWNER)) != digests(arrange(files, other))
    content = {"a": Digest.of(b"1")}
    assert checkpoint_key(content, OWNER) != checkpoint_key(content, other)


def test_key() -> None:
    """The key is of content, names and place; the order of the files and a slash at the target's end are not in it."""
    one, two = Digest.of(b"1"), Digest.of(b"2")
    key = checkpoint_key({"a": one, "b": two}, OWNER)
    assert key == checkpoint_key({"b": two, "a": one}, Ownership("/app/model", 1000, 1001, 0o640))
    assert len({key, checkpoint_key({"a": two, "b": one}, OWNER), checkpoint_key({"a": one, "c": two}, OWNER)}) == 3
    assert len(key) == 40 and set(key) <= set("0123456789abcdef")


def test_content_digest(tmp_path: Path) -> None:
    """One file is called by its sha256, several by the sha256 of what sha256sum prints of them, sorted."""
    assert content_digest({"a": Digest.of(b"1")}) == Digest.of(b"1")
    write(tmp_path, {"b": b"2", "a": b"1", "sub/c": b"3"})
    listing = subprocess.run(
        ["sha256sum", "a", "b", "sub/c"], cwd=tmp_path, capture_output=True, check=True, timeout=30
    ).stdout
    found = content_digest({"sub/c": Digest.of(b"3"), "b": Digest.of(b"2"), "a": Digest.of(b"1")})
    assert found == Digest.of(listing)


# -------------------------------------------------------------------------------------------------------------- layers


def test_each_large_file_has_its_layer() -> None:
    """Files of 16 MiB and more have a layer each, smaller ones share the first."""
    files = [fake("a", 16 * MIB), fake("b", 1), fake("c", 20 * MIB), fake("d", 16 * MIB - 1)]
    assert [[f.path for f in b.files] for b in arrange(files, OWNER)] == [["b", "d"], ["a"], ["c"]]


@given(st.integers(1, 120), st.integers(0, 3), st.integers(0, 119))
def test_a_changed_file_moves_its_layer_alone(count: int, small: int, changed: int) -> None:
    """However many files: at most 32 layers, every file in one of them, and a change moves one layer."""
    files = [fake(f"model-{n:05}.bin", 16 * MIB + n) for n in range(count)] + [fake(f"s{n}", n) for n in range(small)]
    changed %= len(files)
    other = list(files)
    other[changed] = File(files[changed].path, files[changed].source, Identity(1, 2, files[changed].size, 9, 9))
    one, two = arrange(files, OWNER), arrange(other, OWNER)
    assert len(one) <= 32
    assert sorted(f.path for b in one for f in b.files) == sorted(f.path for f in files)
    assert sum(a != b for a, b in zip(one, two, strict=True)) == 1


@given(st.integers(0, 60), st.integers(0, 3), st.integers(1, 100), st.booleans())
def test_limit(count: int, small: int, limit: int, apart: bool) -> None:
    """Never more layers than allowed, each file in one; what is to be apart is, where there is room for it."""
    files = [fake(f"s{n}", n) for n in range(small)] + [fake(f"model-{n}.safetensors", 10 + n) for n in range(count)]
    paths = frozenset(f.path for f in files[small:]) if apart else frozenset()
    made = arrange(files, OWNER, limit=limit, apart=paths)
    assert len(made) <= limit
    assert sorted(f.path for b in made for f in b.files) == sorted(f.path for f in files)
    if apart and count + bool(small) <= limit and limit > 1:
        assert len(made) == count + bool(small)
        assert not small or not count or [f.path for f in made[-1].files] == [f"s{n}" for n in range(small)]


def test_shards_of_others() -> None:
    """The files of a checkpoint that is in shards have a layer each, however small."""
    files = [fake(f"pytorch_model-{n:05}-of-00003.bin", 5) for n in (1, 2, 3)] + [fake("config.json", 5)]
    assert [[f.path for f in b.files] for b in arrange(files, OWNER)] == [
        ["config.json"],
        *([f.path] for f in files[:3]),
    ]


def test_what_is_known_is_not_read(tmp_path: Path) -> None:
    """A layer that was hashed before is not read again; the others are."""
    files = write(tmp_path, {"a-1-of-2.bin": b"1" * 700, "a-2-of-2.bin": b"2" * 700})
    one, two = arrange(files, OWNER)
    counted: list[int] = []
    packer = Packer([one, two], counted.append, {0: Hashed(Digest.of(b"known"))}).start()
    assert packer.known(0) == Digest.of(b"known")
    assert [layer.digest for layer in packer.hashed()] == [Digest.of(b"known"), Digest.of(whole(two))]
    assert sum(counted) == 700 and file_digests(packer) == {"a-2-of-2.bin": Digest.of(b"2" * 700)}
    packer.stop()
    assert one.mark != two.mark and arrange(files, OWNER)[0].mark == one.mark


def test_instruction() -> None:
    """The history says what instruction the layer stands for; many files are counted."""
    (few,) = arrange([fake("a", 1), fake("b", 1)], OWNER)
    assert few.created_by == "COPY --link --chown=1000:1001 --chmod=0640 --from=checkpoint a b /app/model/"
    (many,) = arrange([fake(str(n), 1) for n in range(9)], OWNER)
    assert "--from=checkpoint 9 files /app/model/" in many.created_by


@pytest.mark.parametrize("target", ["/app/model", "/app/model/", "/app//./model"])
def test_instruction_of_one_folder(target: str) -> None:
    """However the target is written, what has one key has one history, and so one image."""
    assert checkpoint_key({}, Ownership(target)) == checkpoint_key({}, Ownership("/app/model/"))
    assert Ownership(target).instruction("x") == Ownership("/app/model/").instruction("x")
    assert Ownership("/").instruction("x").endswith(" x /")


def test_layer(tmp_path: Path) -> None:
    """The layer is uncompressed, so that its digest and diff_id are one, and its size is known beforehand."""
    (blueprint,) = arrange(write(tmp_path, {"a": b"1" * 700}), OWNER)
    (digest,) = digests([blueprint])
    layer = blueprint.layer(digest)
    assert layer.descriptor.media_type == MEDIA.LAYER and layer.diff_id == layer.descriptor.digest == digest
    assert layer.descriptor.size == len(whole(blueprint)) and digest == Digest.of(whole(blueprint))


# ------------------------------------------------------------------------------------------------------ opened anywhere


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> tuple[Blueprint, bytes]:
    root = tmp_path_factory.mktemp("sample")
    generator = random.Random(1)
    content = {"a.bin": 3 * MIB + 7, "b.bin": 0, "c/d.bin": 512, "c/e" + "x" * 150: 1}
    files = write(root, {name: generator.randbytes(size) for name, size in content.items()})
    (blueprint,) = arrange(files, OWNER)
    return blueprint, whole(blueprint)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_open_at_any_offset(sample: tuple[Blueprint, bytes], data: st.DataObject) -> None:
    """A layer opened at an offset gives what the whole has from there on: an upload can resume anywhere."""
    blueprint, raw = sample
    near = [piece.start + delta for piece in blueprint.pieces for delta in (-1, 0, 1)]
    offset = data.draw(st.integers(0, len(raw)) | st.sampled_from([n for n in near if 0 <= n <= len(raw)]))
    assert whole(blueprint, offset) == raw[offset:]


def test_open_behind_the_end(sample: tuple[Blueprint, bytes]) -> None:
    """At the end, and behind it, there is nothing."""
    blueprint, raw = sample
    assert whole(blueprint, len(raw)) == whole(blueprint, len(raw) + 1) == b""


def test_chunks_are_bounded(sample: tuple[Blueprint, bytes]) -> None:
    """No chunk is over 1 MiB, and none is empty."""
    blueprint, _ = sample
    assert all(0 < len(chunk) <= MIB for chunk in blueprint.open())


def test_opened_twice_at_once(sample: tuple[Blueprint, bytes]) -> None:
    """Two readers of one layer do not disturb each other."""
    blueprint, raw = sample
    one, two = b"", b""
    for first, second in zip(blueprint.open(), blueprint.open(), strict=True):
        one, two = one + bytes(first), two + bytes(second)
    assert one == two == raw


# ------------------------------------------------------------------------------------------- changed while it is read


def append(path: Path) -> None:
    with path.open("ab") as stream:
        stream.write(b"more")


def cut(path: Path) -> None:
    os.truncate(path, 2 * MIB)


def overwrite(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.write(b"other")
    os.utime(path, ns=(1, 1))  # also where the file system's clock is too coarse to tell


def replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes())
    other.replace(path)


CHANGES = [
    pytest.param(append, id="grows"),
    pytest.param(cut, id="shrinks"),
    pytest.param(overwrite, id="same-size"),
    pytest.param(replace, id="replaced"),
]


@pytest.mark.parametrize("change", CHANGES)
def test_changed_before_it_is_read(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """A file that is not what it was when it was found is refused before a byte of it is given (FAULTS 40, 41)."""
    (blueprint,) = arrange(write(tmp_path, {"model.pt": bytes(4 * MIB)}), OWNER)
    change(tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt changed while it was read; nothing was tagged"):
        whole(blueprint)


@pytest.mark.parametrize("change", [pytest.param(*c.values, id=c.id) for c in CHANGES if c.id != "replaced"])
def test_changed_while_it_is_read(tmp_path: Path, change: Callable[[Path], None]) -> None:
    """A file that grows, shrinks or is written to while it is read is refused, same size or not (FAULTS 40, 41)."""
    (blueprint,) = arrange(write(tmp_path, {"model.pt": bytes(4 * MIB)}), OWNER)
    stream = blueprint.open()
    with pytest.raises(CheckpointError, match="changed while it was read") as caught:
        for number, _ in enumerate(stream):
            if number == 3:  # three headers, and the first MiB of the file
                change(tmp_path / "model.pt")
    assert caught.value.exit_status == 3 and "rename" in caught.value.hint


def test_replaced_while_it_is_read(tmp_path: Path) -> None:
    """A file that is replaced by a new one while it is read is read to its end, as it was when it was found."""
    (blueprint,) = arrange(write(tmp_path, {"model.pt": b"a" * 4 * MIB}), OWNER)
    read = b""
    for number, chunk in enumerate(blueprint.open()):
        read += bytes(chunk)
        if number == 3:
            (tmp_path / "new").write_bytes(b"b" * 4 * MIB)
            (tmp_path / "new").replace(tmp_path / "model.pt")
    assert read.count(b"a") >= 4 * MIB


def test_hard_link_made_meanwhile(tmp_path: Path) -> None:
    """A hard link to the file changes its ctime and not its content: no reason to refuse it (FAULTS 43)."""
    (blueprint,) = arrange(write(tmp_path, {"model.pt": b"x"}), OWNER)
    os.link(tmp_path / "model.pt", tmp_path.parent / f"{tmp_path.name}-link")
    assert len(whole(blueprint)) == blueprint.size


def test_gone(tmp_path: Path) -> None:
    """A file that is removed is a CheckpointError for who sends, and for who waits for the digest."""
    blueprints = arrange(write(tmp_path, {"model.pt": b"x"}), OWNER)
    (tmp_path / "model.pt").unlink()
    with pytest.raises(CheckpointError, match=r"model\.pt: No such file"):
        whole(blueprints[0])
    with pytest.raises(CheckpointError, match=r"model\.pt: No such file"):
        digests(blueprints)


def test_becomes_a_fifo(tmp_path: Path) -> None:
    """A file that is replaced by a FIFO does not hang the reader (FAULTS 44)."""
    (blueprint,) = arrange(write(tmp_path, {"model.pt": b"x"}), OWNER)
    (tmp_path / "model.pt").unlink()
    os.mkfifo(tmp_path / "model.pt")
    with pytest.raises(CheckpointError):
        whole(blueprint)


def test_read_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that fails in the middle is a CheckpointError, with the file's name."""
    (blueprint,) = arrange(write(tmp_path, {"model.pt": b"x"}), OWNER)

    def fails(*args: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "preadv", fails)
    with pytest.raises(CheckpointError, match=r"model\.pt: cannot be read: Input/output error"):
        whole(blueprint)


def test_files_are_closed(tmp_path: Path) -> None:
    """No file stays open, also where a reader stops in the middle or fails."""
    (blueprint,) = arrange(write(tmp_path, {"model.pt": bytes(3 * MIB)}), OWNER)
    before = sum(1 for _ in Path("/proc/self/fd").iterdir())
    stream = blueprint.open()
    for _ in range(5):
        next(stream)
    stream.close()  # type: ignore[attr-defined]
    cut(tmp_path / "model.pt")
    with pytest.raises(CheckpointError):
        whole(blueprint)
    assert sum(1 for _ in Path("/proc/self/fd").iterdir()) == before
