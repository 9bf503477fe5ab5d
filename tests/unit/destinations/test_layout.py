from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from layerkit.assemble import Assembled, PackedCheckpoint, Runtime, assemble
from layerkit.checkpoint import Packer, arrange
from layerkit.destinations import Sent, checkpoint_tag, runtime_tag
from layerkit.destinations.layout import LayoutDestination
from layerkit.engine import BakeResult
from layerkit.errors import CheckpointError, IntegrityError, LocalResourceError, Stopped
from layerkit.events import Event, Transfer, silent
from layerkit.fingerprint import Inputs
from layerkit.oci import MEDIA, Descriptor, Digest, Image, Layer, Manifest
from layerkit.planner import Present
from layerkit.state import State
from unit.support import PLATFORM, file_digests, image, inputs, placeholder_tar, project, write_project

NAME = "org.opencontainers.image.ref.name"
MIB = 1024 * 1024
BAKED = BakeResult({}, 0, frozenset())


@pytest.fixture
def state() -> Iterator[State]:
    with State() as made:
        yield made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_project(tmp_path / "project", weights=os.urandom(2 * MIB + 3))


@pytest.fixture
def layout(tmp_path: Path, state: State) -> LayoutDestination:
    return LayoutDestination(tmp_path / "out", state)


def blob(folder: Path, raw: bytes) -> Digest:
    digest = Digest.of(raw)
    place = folder / "blobs" / "sha256" / digest.hex
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(raw)
    return digest


def buildkit(layout: LayoutDestination, key: str) -> Image:
    """Write a runtime image as BuildKit's ``type=oci,tar=false`` does it, and say under which name."""
    made = []
    for name, tar in (("base", b"base"), ("RUN pip", b"packages"), ("COPY", placeholder_tar()), ("COPY code", b"code")):
        raw = gzip.compress(tar, mtime=0)
        digest = blob(layout.folder, raw)
        made.append(Layer(Descriptor(MEDIA.LAYER_GZIP, digest, len(raw)), Digest.of(tar), name))
    found = image(made)
    blob(layout.folder, found.config.raw)
    blob(layout.folder, found.manifest.raw)
    name = layout.output(key).names[0]
    entry = found.manifest.descriptor(annotations={"io.containerd.image.name": name, NAME: name}).to_json()
    index = layout.folder / "index.json"
    document = json.loads(index.read_text()) if index.exists() else {"schemaVersion": 2, "manifests": []}
    document["manifests"].append(entry)
    index.write_text(json.dumps(document))
    return found


def send(layout: LayoutDestination, found: Inputs, events: list[Event] | None = None) -> tuple[Sent, Packer]:
    assert found.checkpoint is not None
    packer = Packer(arrange(found.checkpoint.files, found.checkpoint.ownership)).start()
    try:
        return layout.send(packer, events.append if events is not None else silent, lambda: False), packer
    finally:
        packer.stop()


def build(layout: LayoutDestination, root: Path, state: State, tags: list[str]) -> tuple[Inputs, Assembled]:
    """What the pipeline does, without BuildKit."""
    found = inputs(project(root), state)
    assert found.checkpoint is not None
    key = found.runtime_key(PLATFORM)
    runtime = layout.look({PLATFORM: key}, None, tags).runtimes.get(PLATFORM)
    if runtime is None:
        buildkit(layout, key)
        runtime = layout.built(PLATFORM, key, BAKED, "runtime-0")
    sent, packer = send(layout, found)
    digests = file_digests(packer)
    for file in found.checkpoint.files:
        state.remember_file(file.source, file.identity, digests[file.path])
    found = inputs(project(root), state)
    assert found.checkpoint is not None and found.checkpoint.key and found.checkpoint.digest
    checkpoint = found.checkpoint
    layout.keep_checkpoint(
        PackedCheckpoint(sent.layers, checkpoint.key, checkpoint.digest, checkpoint.ownership), packer
    )
    made = assemble(found, {PLATFORM: runtime}, sent.layers, checkpoint.digest, checkpoint.key)
    layout.publish(made, tags, Present(), packer, silent)
    return found, made


def entries(folder: Path) -> dict[str, dict[str, Any]]:
    document = json.loads((folder / "index.json").read_text())
    return {item["annotations"][NAME]: item for item in document["manifests"]}


def stored(layout: LayoutDestination) -> list[str]:
    return sorted(path.name for path in (layout.folder / "blobs" / "sha256").iterdir())


def whole(folder: Path) -> None:
    """Every blob has the digest that it is called by, and everything that is referred to is there."""
    for place in (folder / "blobs" / "sha256").iterdir():
        assert hashlib.sha256(place.read_bytes()).hexdigest() == place.name
        assert place.stat().st_mode & 0o777 == 0o644
    for item in entries(folder).values():
        manifest = Manifest.parse((folder / "blobs/sha256" / item["digest"].removeprefix("sha256:")).read_bytes())
        for part in (manifest.config, *manifest.layers):
            assert (folder / "blobs/sha256" / part.digest.hex).stat().st_size == part.size


def test_build(layout: LayoutDestination, root: Path, state: State) -> None:
    """The folder is a valid layout: marker, index with the tags, blobs that are what they are called."""
    _, made = build(layout, root, state, ["v1", "latest"])
    whole(layout.folder)
    assert json.loads((layout.folder / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    found = entries(layout.folder)
    assert found["v1"]["digest"] == found["latest"]["digest"] == str(made.digest)
    assert found["v1"]["platform"] == {"os": "linux", "architecture": "amd64"}
    assert len(found) == 4 and {name.split("-")[0] for name in found} == {"v1", "latest", "runtime", "checkpoint"}


def test_checkpoint_layer(layout: LayoutDestination, root: Path, state: State) -> None:
    """The checkpoint's layer in the folder unpacks to the very file."""
    _, made = build(layout, root, state, ["v1"])
    (layer,) = [d for d in made.images[PLATFORM].manifest.layers if d.annotations["dev.layerkit.role"] == "checkpoint"]
    with tarfile.open(layout.folder / "blobs/sha256" / layer.digest.hex) as tar:
        stream = tar.extractfile("app/model/model.pth.tar")
        assert stream is not None and stream.read() == (root / "model.pth.tar").read_bytes()


def test_looking_finds_it_again(layout: LayoutDestination, root: Path, state: State) -> None:
    """What was put there is found under its keys and tags, with its placeholder, and counts as present."""
    found, made = build(layout, root, state, ["v1"])
    assert found.checkpoint is not None
    present = layout.look({PLATFORM: found.runtime_key(PLATFORM)}, found.checkpoint.key, ["v1", "none"])
    runtime = present.runtimes[PLATFORM]
    assert (runtime.placeholder, runtime.place) == (2, ("/app/model", 0, 0))
    assert present.tags == {"v1": made.digest, "none": None}
    assert present.previous[PLATFORM].manifest.digest == made.digest
    assert present.checkpoint is not None
    assert {layer.descriptor.digest for layer in present.checkpoint} <= present.blobs
    assert {d.digest for d in made.images[PLATFORM].manifest.layers} <= present.blobs
    assert layout.look({PLATFORM: "0" * 40}, "0" * 40, []).runtimes == {}


def test_looking_at_nothing(layout: LayoutDestination) -> None:
    """A folder that is not there is empty, and is not made by looking."""
    assert layout.look({PLATFORM: "k"}, "c", ["v1"]) == Present(tags={"v1": None})
    assert not layout.folder.exists()


def test_again(layout: LayoutDestination, root: Path, state: State) -> None:
    """A second build of the same writes no byte, and the folder is as it was."""
    build(layout, root, state, ["v1"])
    before = {path: path.stat().st_mtime_ns for path in (layout.folder / "blobs/sha256").iterdir()}
    found, made = build(layout, root, state, ["v1"])
    assert {path: path.stat().st_mtime_ns for path in (layout.folder / "blobs/sha256").iterdir()} == before
    events: list[Event] = []
    sent, packer = send(layout, found, events)
    assert (sent.uploaded, sent.new) == (0, frozenset()) and sent.reused == packer.blueprints[0].size
    assert isinstance(events[-1], Transfer) and events[-1].state == "dropped"
    assert layout.publish(made, ["v1"], Present(), packer, silent).uploaded == 0


def test_swap(layout: LayoutDestination, root: Path, state: State) -> None:
    """New weights: the other layers are the same blobs, the tag moves, the old image is complete still."""
    _, one = build(layout, root, state, ["v1"])
    (root / "model.pth.tar").write_bytes(b"new weights")
    _, two = build(layout, root, state, ["v1"])
    whole(layout.folder)
    assert entries(layout.folder)["v1"]["digest"] == str(two.digest) != str(one.digest)
    old, new = (made.images[PLATFORM].manifest.layers for made in (one, two))
    assert [a.digest == b.digest for a, b in zip(old, new, strict=True)] == [True, True, False, True]
    assert (layout.folder / "blobs/sha256" / one.digest.hex).exists()


def test_other_images_stay(layout: LayoutDestination, root: Path, state: State) -> None:
    """Entries of others in the folder are kept as they are, whatever fields they have."""
    layout.folder.mkdir()
    other = {
        "mediaType": MEDIA.MANIFEST,
        "digest": str(Digest.of(b"x")),
        "size": 1,
        "annotations": {NAME: "theirs"},
        "data": "eA==",
    }
    (layout.folder / "index.json").write_text(
        json.dumps({"schemaVersion": 2, "manifests": [other], "annotations": {"a": "b"}})
    )
    build(layout, root, state, ["v1"])
    document = json.loads((layout.folder / "index.json").read_text())
    assert other in document["manifests"] and document["annotations"] == {"a": "b"}


def test_built_anew(layout: LayoutDestination) -> None:
    """What BuildKit builds again under a key (--no-cache), or under a tag, takes the place of what was there."""
    for content in (b"one", b"two"):
        raw = placeholder_tar() + content
        made = image([Layer(Descriptor(MEDIA.LAYER, blob(layout.folder, raw), len(raw)), Digest.of(raw), "COPY")])
        for part in (made.config.raw, made.manifest.raw):
            blob(layout.folder, part)
        index = layout.folder / "index.json"
        document = json.loads(index.read_text()) if index.exists() else {"schemaVersion": 2, "manifests": []}
        for tag in (runtime_tag("k"), "v1"):
            name = f"layerkit.local/image:{tag}"
            notes = {"io.containerd.image.name": name, NAME: tag}
            document["manifests"].append(made.manifest.descriptor(annotations=notes).to_json())
        index.write_text(json.dumps(document))
        layout.delivered(["v1"], BAKED, "image")
        assert layout.built(PLATFORM, "k", BAKED, "runtime-0").image == made
        assert layout.look({}, None, ["v1"]).tags["v1"] == made.manifest.digest
        assert len(json.loads(index.read_text())["manifests"]) == 2


@pytest.mark.parametrize("what", ["artifact", "blob"])
def test_tag_of_something_else(layout: LayoutDestination, root: Path, state: State, what: str) -> None:
    """A tag that names an artifact, or no manifest at all, is none of ours: it is moved as any other."""
    empty = Descriptor(MEDIA.EMPTY, blob(layout.folder, b"{}"), 2)
    chart = Descriptor("text/plain", blob(layout.folder, b"chart"), 5)
    theirs = Manifest.create(empty, [chart], artifact_type="application/vnd.example")
    layout._tag(theirs.descriptor() if what == "artifact" else chart, ["v1"])
    blob(layout.folder, theirs.raw)
    assert layout.look({}, None, ["v1"]).previous == {}
    _, made = build(layout, root, state, ["v1"])
    assert entries(layout.folder)["v1"]["digest"] == str(made.digest)


def test_output(layout: LayoutDestination) -> None:
    """BuildKit is asked to write into the folder itself, without a tar in between."""
    asked = layout.output("k")
    assert asked.outputs == (f"type=oci,tar=false,dest={layout.folder}",)
    assert asked.names == (f"layerkit.local/image:{runtime_tag('k')}",)
    assert layout.describe() == f"oci:{layout.folder}"


def test_output_into_a_folder_with_a_comma(tmp_path: Path, state: State) -> None:
    """buildx reads an output as CSV: a folder with a comma, or a quote, in its name is quoted."""
    folder = tmp_path / 'a,"b"'
    (line,) = LayoutDestination(folder, state).output("k").outputs
    assert next(csv.reader([line])) == ["type=oci", "tar=false", f"dest={folder}"]


def test_buildkit_wrote_nothing(layout: LayoutDestination) -> None:
    """A runtime image that is not there after the build is an integrity error."""
    with pytest.raises(IntegrityError, match="not there"):
        layout.built(PLATFORM, "k", BAKED, "runtime-0")


# ---------------------------------------------------------------------------------------------------------- what fails


@pytest.mark.parametrize("what", ["truncated", "missing", "changed-config"])
def test_damaged_folder(layout: LayoutDestination, root: Path, state: State, what: str) -> None:
    """A blob that is missing, cut, or not what it is called is as good as none: it is built and packed again."""
    found, made = build(layout, root, state, ["v1"])
    assert found.checkpoint is not None
    manifest = made.images[PLATFORM].manifest
    path = layout.folder / "blobs/sha256"
    if what == "changed-config":
        for digest in (manifest.config.digest, Manifest.parse((path / made.digest.hex).read_bytes()).config.digest):
            (path / digest.hex).write_bytes((path / digest.hex).read_bytes().replace(b"linux", b"LINUX"))
        assert layout.look({}, None, ["v1"]).previous == {}
        return
    for layer in manifest.layers:
        if what == "missing":
            (path / layer.digest.hex).unlink()
        else:
            os.truncate(path / layer.digest.hex, 10)
    present = layout.look({PLATFORM: found.runtime_key(PLATFORM)}, found.checkpoint.key, ["v1"])
    assert present.runtimes == {} and present.checkpoint is None and present.blobs == frozenset()


def test_large_layer_that_works_on_the_weights(layout: LayoutDestination) -> None:
    """A RUN whose layer is large is looked into too, for it lies here: what it did to the weights is seen."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as made:
        large = tarfile.TarInfo("opt/large")
        large.size = 9 * MIB
        made.addfile(large, io.BytesIO(os.urandom(large.size)))
        made.addfile(tarfile.TarInfo("app/model/.layerkit-placeholder"))
    layers = []
    for name, raw in (("COPY", placeholder_tar()), ("RUN chown -R 1000 /app # buildkit", tar.getvalue())):
        packed = gzip.compress(raw, 1, mtime=0)
        descriptor = Descriptor(MEDIA.LAYER_GZIP, blob(layout.folder, packed), len(packed))
        layers.append(Layer(descriptor, Digest.of(raw), name))
    made_of = image(layers)
    for part in (made_of.config.raw, made_of.manifest.raw):
        blob(layout.folder, part)
    layout._tag(made_of.manifest.descriptor(), [runtime_tag("k")])
    found = layout.built(PLATFORM, "k", BAKED, "runtime-0")
    assert found.disturbed == "'RUN chown -R 1000 /app' works on the weights"


def bytes_read() -> int:
    """By this process so far (proc(5), "rchar")."""
    return int(Path("/proc/self/io").read_text().split()[1])


def flip(path: Path) -> None:
    """Change the first byte of a file, and neither its size nor its time of change."""
    status = path.stat()
    with path.open("r+b") as stream:
        first = stream.read(1)
        stream.seek(0)
        stream.write(bytes([first[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def layer_of(made: Assembled, role: str) -> Descriptor:
    (found,) = [d for d in made.images[PLATFORM].manifest.layers if d.annotations["dev.layerkit.role"] == role]
    return found


def test_checkpoint_of_other_bytes(layout: LayoutDestination, root: Path, state: State) -> None:
    """A checkpoint layer of the right size and other bytes is not taken for there: it is written anew."""
    found, made = build(layout, root, state, ["v1"])
    assert found.checkpoint is not None and found.checkpoint.key is not None
    layer = layer_of(made, "checkpoint")
    flip(layout.folder / "blobs/sha256" / layer.digest.hex)
    present = layout.look({}, found.checkpoint.key, ["v1"])
    assert present.checkpoint is None and layer.digest not in present.blobs
    sent, _ = send(layout, found)
    assert sent.new == {layer.digest} and sent.reused == 0
    whole(layout.folder)


def test_layer_of_buildkit_of_other_bytes(layout: LayoutDestination, root: Path, state: State) -> None:
    """BuildKit leaves a damaged blob as it is: it is deleted and said, no tag names it, and the next build mends it."""
    found, _ = build(layout, root, state, ["v1"])
    key = found.runtime_key(PLATFORM)
    packages = Digest.of(gzip.compress(b"packages", mtime=0))
    path = layout.folder / "blobs/sha256" / packages.hex
    raw = path.read_bytes()
    flip(path)
    assert layout.look({PLATFORM: key}, None, []).runtimes == {}
    damaged = path.read_bytes()
    buildkit(layout, key)
    path.write_bytes(damaged)
    with pytest.raises(IntegrityError, match=f"{packages.short} was damaged there, and is deleted now"):
        layout.built(PLATFORM, key, BAKED, "runtime-0")
    assert not path.exists() and runtime_tag(key) not in entries(layout.folder)
    buildkit(layout, key)
    assert layout.built(PLATFORM, key, BAKED, "runtime-0").placeholder == 2 and path.read_bytes() == raw


def test_bytes_read_to_look(layout: LayoutDestination, root: Path, state: State) -> None:
    """What this machine wrote or read is not read again; a layer from elsewhere is, once, and where it was touched."""
    found, made = build(layout, root, state, ["v1"])
    assert found.checkpoint is not None
    keys, layer = ({PLATFORM: found.runtime_key(PLATFORM)}, found.checkpoint.key), layer_of(made, "checkpoint")

    def look(by: State) -> int:
        before = bytes_read()
        assert layer.digest in LayoutDestination(layout.folder, by).look(*keys, ["v1"]).blobs
        return bytes_read() - before

    assert look(state) < MIB
    with State() as other:
        assert layer.size <= look(other) < layer.size + MIB
        assert look(other) < MIB
        os.utime(layout.folder / "blobs/sha256" / layer.digest.hex)
        assert layer.size <= look(other) < layer.size + MIB


@pytest.mark.parametrize("damage", [b"", b"{}"])
def test_damaged_document_is_written_anew(layout: LayoutDestination, root: Path, state: State, damage: bytes) -> None:
    """A manifest or configuration that is cut or changed is mended by the next build, and not taken for there."""
    _, made = build(layout, root, state, ["v1"])
    documents = [made.digest, made.images[PLATFORM].config.digest]
    for digest in documents:
        (layout.folder / "blobs/sha256" / digest.hex).write_bytes(damage)
    _, again = build(layout, root, state, ["v1"])
    assert again.digest == made.digest
    for digest in documents:
        assert Digest.of((layout.folder / "blobs/sha256" / digest.hex).read_bytes()) == digest


@pytest.mark.parametrize(
    "text", ["", "no json", "[]", "{}", '{"manifests": {}}', '{"manifests": [3]}', "null"],
)  # fmt: skip
def test_no_layout(layout: LayoutDestination, text: str) -> None:
    """A folder whose index.json is none is refused, and left alone."""
    layout.folder.mkdir()
    (layout.folder / "index.json").write_text(text)
    with pytest.raises(LocalResourceError, match=r"index\.json"):
        layout.look({}, None, ["v1"])
    assert (layout.folder / "index.json").read_text() == text


def test_file_in_the_way(tmp_path: Path, root: Path, state: State) -> None:
    """A file where the folder should be is a local problem with 11, not a traceback."""
    (tmp_path / "out").write_text("x")
    layout = LayoutDestination(tmp_path / "out", state)
    with pytest.raises(LocalResourceError) as caught:
        send(layout, inputs(project(root), state))
    assert caught.value.exit_status == 11
    with pytest.raises(LocalResourceError):
        layout._tag(Descriptor(MEDIA.MANIFEST, Digest.of(b""), 0), ["v1"])


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
def test_index_that_cannot_be_written(layout: LayoutDestination, root: Path, state: State, name: str) -> None:
    """An index that cannot be written is 11, and the old one stays."""
    _, made = build(layout, root, state, ["v1"])
    (layout.folder / f".{name}.new").mkdir()
    with pytest.raises(LocalResourceError, match="cannot be written: Is a directory"):
        layout._tag(Descriptor(MEDIA.MANIFEST, Digest.of(b""), 0), ["v1"])
    assert entries(layout.folder)["v1"]["digest"] == str(made.digest)


def test_disk_full(layout: LayoutDestination, root: Path, state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is 11 with a hint; no half blob and no tag is left (FAULTS 52)."""
    _, made = build(layout, root, state, ["v1"])
    before = stored(layout)
    (root / "model.pth.tar").write_bytes(os.urandom(MIB))
    real = os.fdopen

    class Full:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def write(self, chunk: bytes) -> int:
            raise OSError(28, "No space left on device")

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *exc: object) -> None:
            self.stream.close()

    monkeypatch.setattr(os, "fdopen", lambda *args, **options: Full(real(*args, **options)))
    with pytest.raises(LocalResourceError, match="No space left") as caught:
        send(layout, inputs(project(root), state))
    assert "df" in caught.value.hint
    assert stored(layout) == before
    assert entries(layout.folder)["v1"]["digest"] == str(made.digest)


def test_disk_that_takes_a_part(
    layout: LayoutDestination, root: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that was short, as on a disk that was full for a moment, is gone on with (write(2))."""
    real = os.fdopen

    class Short:
        def __init__(self, stream: Any) -> None:
            self.stream = stream
            self.fileno = stream.fileno

        def write(self, chunk: memoryview) -> int:
            count: int = self.stream.write(chunk[: max(1, len(chunk) // 2)])
            return count

        def __enter__(self) -> Short:
            return self

        def __exit__(self, *exc: object) -> None:
            self.stream.close()

    monkeypatch.setattr(os, "fdopen", lambda *args, **options: Short(real(*args, **options)))
    build(layout, root, state, ["v1"])
    whole(layout.folder)


def test_left_by_a_killed_run(layout: LayoutDestination, root: Path, state: State) -> None:
    """What a killed run has left half written goes with the next one; what another run still writes stays."""
    build(layout, root, state, ["v1"])
    before = stored(layout)
    with layout._writing() as (write, _):
        write(b"under way")
        (under_way,) = set(stored(layout)) - set(before)
        (layout.folder / "blobs/sha256/.layerkit-killed").write_bytes(b"half a layer")
        (root / "model.pth.tar").write_bytes(b"other weights")
        build(layout, root, state, ["v2"])
        temporary = {name for name in stored(layout) if name.startswith(".layerkit-")}
        assert temporary == {under_way}
    whole(layout.folder)


def test_stopped(layout: LayoutDestination, root: Path, state: State) -> None:
    """A run that is stopped leaves no half blob."""
    found = inputs(project(root), state).checkpoint
    assert found is not None
    packer = Packer(arrange(found.files, found.ownership)).start()
    with pytest.raises(Stopped):
        layout.send(packer, silent, lambda: True)
    packer.stop()
    assert stored(layout) == []


def test_changes_while_it_is_read(layout: LayoutDestination, root: Path, state: State) -> None:
    """A checkpoint that changes while it is copied is 3, and nothing of it is left (FAULTS 40)."""
    found = inputs(project(root), state)
    with (root / "model.pth.tar").open("ab") as stream:
        stream.write(b"x")
    with pytest.raises(CheckpointError, match="changed while it was read"):
        send(layout, found)
    assert stored(layout) == []


def test_what_was_written_is_what_was_hashed(
    layout: LayoutDestination, root: Path, state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bytes that differ between hashing and copying, with no trace in the file's times, are seen (FAULTS 40)."""
    found = inputs(project(root), state)
    monkeypatch.setattr(Packer, "digest", lambda self, index: Digest.of(b"what another read gave"))
    monkeypatch.setattr(Packer, "known", lambda self, index: None)
    with pytest.raises(CheckpointError, match=r"model\.pth\.tar changed while it was read"):
        send(layout, found)
    assert stored(layout) == []


def test_several_images_of_one_folder(layout: LayoutDestination, state: State) -> None:
    """An image without a placeholder is found as one."""
    layout.folder.mkdir()
    raw = gzip.compress(b"tar")
    digest = blob(layout.folder, raw)
    made = image([Layer(Descriptor(MEDIA.LAYER_GZIP, digest, len(raw)), Digest.of(b"tar"), "COPY x")])
    blob(layout.folder, made.config.raw)
    blob(layout.folder, made.manifest.raw)
    layout._tag(made.manifest.descriptor(), [runtime_tag("k"), checkpoint_tag("c")])
    assert layout.look({PLATFORM: "k"}, "c", []).runtimes[PLATFORM] == Runtime(made, None)
    assert layout.checkpoint("c") is not None and layout.checkpoint("d") is None
