"""The local Docker, by a stand-in that finds layers as the two image stores do."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from layerkit.connections import Connections
from layerkit.destinations.saved import from_classic
from layerkit.engine import BakeResult
from layerkit.errors import LocalResourceError
from layerkit.forecast import agree
from layerkit.oci import MEDIA, Descriptor, Digest, Image, Layer, Manifest
from layerkit.pipeline import build
from layerkit.project import load
from layerkit.results import Result
from layerkit.settings import Settings
from layerkit.state import State
from unit.support import image, placeholder_tar

DOCKERFILE = """\
FROM scratch
COPY --link deps /deps
COPY --link --chown=0:0 --from=checkpoint . /app/model/
COPY --link src /app
"""
MIB = 1024 * 1024


class Docker:
    """In the engine's place: BuildKit, and an image store of either kind.

    ``classic`` finds a layer by all that lies under it, and refuses an image that lacks one. ``containerd`` finds it
    by its digest, and takes an image that lacks one without a word.
    """

    def __init__(self, store: str) -> None:
        self.store = store
        self.records = True  # of what was built
        self.names: dict[str, str] = {}
        self.images: dict[str, Image] = {}
        self.given: list[int] = []  # sizes of the layers that were loaded
        self._content: dict[Any, bytes] = {}  # by what the store finds it by

    def _called(self, made: Image) -> list[Any]:
        if self.store == "classic":
            return [made.config.diff_ids[: number + 1] for number in range(len(made.config.diff_ids))]
        return list(made.config.diff_ids)

    def layers(self, name: str) -> list[bytes]:
        """Of the image *name*, each unpacked by whoever runs it."""
        return [self._content[called] for called in self._called(self.images[self.names[name]])]

    def image(self, reference: str) -> dict[str, Any] | None:
        identity = self.names.get(reference, reference)
        if identity not in self.images:
            return None
        whole = all(called in self._content for called in self._called(self.images[identity]))
        return {"Id": identity, "Manifests": [{"Kind": "image", "Available": whole}]}

    def lose(self, content: bytes) -> None:
        """One layer is gone, and the images that have it are not."""
        self._content = {called: raw for called, raw in self._content.items() if content not in raw}

    def tag(self, source: str, repository: str, tag: str) -> None:
        self.names[f"{repository}:{tag}"] = source

    def prune(self) -> None:
        """``docker system prune``: images without a name go, and content that no image needs."""
        self.images = {identity: self.images[identity] for identity in self.names.values()}
        kept = {called for made in self.images.values() for called in self._called(made)}
        self._content = {called: raw for called, raw in self._content.items() if called in kept}

    def _put(self, made: Image, names: list[str]) -> None:
        identity = str(made.config.digest if self.store == "classic" else made.manifest.digest)
        self.images[identity] = made
        self.names |= dict.fromkeys(names, identity)

    def bake(self, definition: Mapping[str, Any], **options: Any) -> BakeResult:
        for target in definition["target"].values():
            context = Path(target["context"])
            tars = {
                "COPY deps": (context / "deps").read_bytes(),
                "COPY checkpoint": placeholder_tar()[:3072],  # BuildKit pads to two blocks, not to twenty
                "COPY src": (context / "src" / "a").read_bytes(),
            }
            digests = {name: Digest.of(raw) for name, raw in tars.items()}
            made = image(
                [Layer(Descriptor(MEDIA.LAYER, digests[n], len(raw)), digests[n], n) for n, raw in tars.items()]
            )
            self._content |= dict(zip(self._called(made), tars.values(), strict=True))
            self._put(made, target["tags"])
        said = {"buildx.build.ref": "b/b/b", "containerimage.digest": str(made.manifest.digest)}
        return BakeResult(dict.fromkeys(definition["target"], said), 0, frozenset())

    def attachment(self, build: str, digest: str) -> bytes | None:
        if not self.records:
            return None
        found = {str(d): raw for made in self.images.values() for d, raw in (
            (made.manifest.digest, made.manifest.raw), (made.config.digest, made.config.raw)
        )}  # fmt: skip
        found |= {str(d): raw for d, raw in self._content.items() if isinstance(d, Digest)}
        return found.get(digest)

    @contextlib.contextmanager
    def save(self, reference: str) -> Iterator[Any]:
        made = self.images[self.names[reference]]
        files = dict(zip((f"{d.hex}/layer.tar" for d in made.config.diff_ids), self.layers(reference), strict=True))
        described = [{"Config": "config.json", "Layers": list(files)}]
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w") as tar:
            for name, raw in {
                **files, "config.json": made.config.raw, "manifest.json": json.dumps(described).encode()
            }.items():  # fmt: skip
                info = tarfile.TarInfo(name)
                info.size = len(raw)
                tar.addfile(info, io.BytesIO(raw))
        yield io.BytesIO(stream.getvalue())

    def load(self) -> Loading:
        return Loading(self)

    def take(self, files: Mapping[str, bytes]) -> None:
        """What ``docker load`` does with an archive."""
        from layerkit.oci import Config

        blobs = {Digest.of(raw): raw for raw in files.values()}
        if self.store == "classic":
            (described,) = json.loads(files["manifest.json"])
            config = Config.parse(files[described["Config"]])
            layers = [Descriptor(MEDIA.LAYER, diff_id, 1) for diff_id in config.diff_ids]
            made, names = Image(Manifest.create(config.descriptor, layers), config), described["RepoTags"]
            paths = dict(zip(self._called(made), described["Layers"], strict=True))
            for called, path in paths.items():
                if called not in self._content:
                    if path not in files:
                        raise LocalResourceError(f"docker load: open {path}: no such file or directory")
                    assert Digest.of(files[path]) == called[-1]
                    self._content[called] = files[path]
        else:
            entries = json.loads(files["index.json"])["manifests"]
            manifest = Manifest.parse(blobs[Digest.parse(entries[0]["digest"])])
            made = Image(manifest, Config.parse(blobs[manifest.config.digest]))
            names = [item["annotations"]["io.containerd.image.name"].removeprefix("docker.io/") for item in entries]
            self._content |= {d: blobs[d] for d in made.config.diff_ids if d in blobs}
        self.given += [len(blobs[d]) for d in made.config.diff_ids if d in blobs]
        self._put(made, names)


class Loading:
    def __init__(self, docker: Docker) -> None:
        self._docker = docker
        self._stream = io.BytesIO()

    def write(self, data: bytes | memoryview) -> None:
        self._stream.write(data)

    def finish(self) -> None:
        with tarfile.open(fileobj=io.BytesIO(self._stream.getvalue())) as tar:
            members = [(member.name, tar.extractfile(member)) for member in tar]
            self._docker.take({name: content.read() for name, content in members if content is not None})

    def abort(self) -> None:
        pass


class Machine:
    """A project, and a machine whose Docker it is built into."""

    def __init__(self, root: Path, docker: Docker) -> None:
        self.root = root
        self.docker = docker
        self.settings = Settings(state_folder=root / "state", environment={})
        self.project = root / "project"
        (self.project / "src").mkdir(parents=True)
        (self.project / "Dockerfile").write_text(DOCKERFILE)
        self.write(deps="one", code="code", weights=b"weights")

    def write(self, *, deps: str = "", code: str = "", weights: bytes = b"") -> None:
        for name, content in (("deps", deps.encode()), ("src/a", code.encode()), ("model.bin", weights)):
            if content:
                (self.project / name).write_bytes(content)

    def build(self, placement: str = "layer", **options: Any) -> Result:
        (self.project / "layerkit.toml").write_text(
            '[image]\nname = "acme/model"\ndockerfile = "Dockerfile"\n'
            f'[checkpoint]\npath = "model.bin"\nplacement = "{placement}"\n'
        )
        self.docker.given = []
        result = build(load(None, root=self.project), tags=["v1"], settings=self.settings, **options)
        assert result.plan is not None and agree(result.plan, result)
        return result

    def weights(self, name: str = "acme/model:v1") -> bytes:
        """What the image *name* has as its checkpoint."""
        for raw in self.docker.layers(name):
            with contextlib.suppress(tarfile.TarError), tarfile.open(fileobj=io.BytesIO(raw)) as tar:
                content = tar.extractfile("app/model/model.bin")
                assert content is not None
                return content.read()
        return b""


@pytest.fixture(params=["containerd", "classic"])
def machine(tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Machine:
    docker = Docker(request.param)
    monkeypatch.setattr(Connections, "engine", docker)
    return Machine(tmp_path, docker)


def test_every_change(machine: Machine) -> None:
    """Whatever changes, in whatever order, Docker has the whole image; what it has already is not given again."""
    assert machine.build().rebuilt == ("checkpoint", "code")
    assert machine.weights() == b"weights"
    assert machine.build().rebuilt == ()
    machine.write(code="two")
    coded = machine.build()
    assert (coded.rebuilt, coded.checkpoint_read) == (("code",), 0)
    machine.write(weights=b"other weights")
    swapped = machine.build()
    assert (swapped.rebuilt, swapped.builder_ran) == (("checkpoint",), False)
    assert machine.weights() == b"other weights"
    machine.write(weights=b"weights")
    assert machine.build().rebuilt == ()
    assert machine.weights() == b"weights"


def test_change_below_the_checkpoint(machine: Machine) -> None:
    """What lies under the checkpoint changes: the classic store is given the layer again, and the plan says so."""
    machine.build()
    machine.write(deps="two")
    result = machine.build()
    classic = machine.docker.store == "classic"
    assert result.plan is not None
    (planned,) = [row for row in result.plan.layers if row.role == "checkpoint"]
    assert (planned.action, planned.known) == (("packed", False) if classic else ("reused", True))
    assert result.rebuilt == (("checkpoint", "code") if classic else ("code",))
    assert result.checkpoint_read == (len(b"weights") if classic else 0)
    assert machine.weights() == b"weights"
    assert machine.build().rebuilt == ()
    # Back again: the image of before has its layers on what lay under them then.
    machine.write(deps="one")
    assert machine.build().rebuilt == ()


def test_code_is_not_the_checkpoint(machine: Machine) -> None:
    """The plan cannot know what a Dockerfile of the user's puts below; what is there all the same is not read."""
    machine.build()
    machine.write(code="two")
    result = machine.build()
    assert result.plan is not None
    (planned,) = [row for row in result.plan.layers if row.role == "checkpoint"]
    assert ("given again where" in planned.reason) == (machine.docker.store == "classic")
    assert result.rebuilt == ("code",) and len(machine.weights()) not in machine.docker.given


def test_mounted_checkpoint(machine: Machine) -> None:
    """Placement artifact: Docker has the image that ``layerkit run`` mounts, with the weights, and v1 has none."""
    result = machine.build("artifact")
    (name,) = [name for name in machine.docker.names if ":checkpoint-" in name]
    assert machine.weights(name) == b"weights" and machine.weights() == b""
    again = machine.build("artifact")
    assert (again.digest, again.checkpoint_read, machine.docker.given) == (result.digest, 0, [])
    del machine.docker.names[name]
    machine.docker.prune()
    assert machine.build("artifact").checkpoint_read == len(b"weights")
    assert machine.weights(name) == b"weights"


@pytest.mark.parametrize("size", [7, 65 * MIB])
def test_from_mounted_to_inside(machine: Machine, size: int) -> None:
    """An image that has no checkpoint is not taken to hold it: after "artifact" comes "layer", and v1 has the weights.

    Those of 65 MiB are streamed while they are hashed.
    """
    machine.write(weights=bytes(size))
    machine.build("artifact")
    machine.build("layer")
    assert machine.weights() == bytes(size)
    machine.build("artifact")
    assert machine.weights() == b""
    machine.docker.prune()
    machine.build("layer")
    assert machine.weights() == bytes(size)


def test_pruned(machine: Machine) -> None:
    """After ``docker system prune`` nothing counts as there that went with it; what an image still has, does."""
    machine.build()
    machine.write(code="two")
    machine.build()
    machine.docker.prune()
    machine.write(code="three")
    assert machine.build().checkpoint_read == 0
    assert machine.weights() == b"weights"
    machine.docker.names = {}
    machine.docker.prune()
    assert "checkpoint" in machine.build().rebuilt
    assert machine.weights() == b"weights"


def test_image_that_lacks_a_layer(machine: Machine) -> None:
    """An image of the containerd store that lacks the checkpoint's layer is no proof of it, and is made whole."""
    if machine.docker.store == "classic":
        return  # it has no such images
    first = machine.build()
    machine.docker.lose(b"weights")
    again = machine.build()
    assert (again.digest, again.rebuilt) == (first.digest, ("checkpoint",))
    assert machine.weights() == b"weights"


def test_layers_that_are_kept(machine: Machine) -> None:
    """What the classic store must be given again is kept while it is needed. Where it is gone, BuildKit runs."""
    machine.build()
    folder = machine.root / "state" / "layers"
    if machine.docker.store == "containerd":
        assert not folder.exists()
        return
    (kept,) = folder.iterdir()
    for number, hurt in enumerate((kept.unlink, lambda: kept.write_bytes(b"damaged"))):
        hurt()
        machine.write(weights=b"other weights %d" % number)
        result = machine.build()
        assert result.builder_ran and machine.weights() == b"other weights %d" % number
        assert kept.read_bytes() == b"code"
    # Of what was not needed for a month nothing stays, whoever wrote it.
    killed = folder / "tmpkilled"
    for path in (kept, killed):
        path.write_bytes(b"code")
        os.utime(path, (0, 0))
    machine.write(weights=b"more")
    machine.build()
    assert kept.stat().st_mtime > 0
    machine.write(code="other code")
    machine.build()
    assert sorted(path.read_bytes() for path in folder.iterdir()) == [b"code", b"other code"]


@pytest.mark.parametrize("records", [True, False])
def test_whole(machine: Machine, records: bool) -> None:
    """Of a whole image the layers are told by the build's record; no layer is saved or loaded for that."""
    machine.docker.records = records
    made = machine.build(way="buildkit")
    assert machine.docker.given == []
    if machine.docker.store == "classic" or not records:
        assert made.layers == () and made.reused == 0
        return
    image = machine.docker.images[machine.docker.names["acme/model:v1"]]
    assert [layer.digest for layer in made.layers] == [layer.digest for layer in image.manifest.layers]
    machine.write(code="other code")
    again = machine.build(way="buildkit")
    assert [layer.action for layer in again.layers] == ["reused", "reused", "built"]
    assert again.reused == sum(layer.size for layer in again.layers[:2])


def test_whole_that_is_another_by_now(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody else gave the tag to meanwhile is not told as what BuildKit built."""
    machine.build(way="buildkit")
    before, bake = machine.docker.names["acme/model:v1"], machine.docker.bake

    def and_another(*arguments: Any, **options: Any) -> BakeResult:
        result = bake(*arguments, **options)
        machine.docker.names["acme/model:v1"] = before
        return result

    monkeypatch.setattr(machine.docker, "bake", and_another)
    machine.write(code="other code")
    assert machine.build(way="buildkit").layers == ()


def test_classic_store_saves_equal_layers_once() -> None:
    """Two layers of the same bytes, which ``docker save`` gives as a file and a link to it, are both read back."""
    same, placeholder, code = b"same", placeholder_tar()[:3072], b"code"
    tars = [same, placeholder, code, same]
    made = image([Layer(Descriptor(MEDIA.LAYER, Digest.of(raw), len(raw)), Digest.of(raw), "COPY") for raw in tars])
    paths = [f"{number}/layer.tar" for number in range(4)]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        described = json.dumps([{"Config": "config.json", "Layers": paths}]).encode()
        for path, raw in ((paths[3], b""), *zip(paths[:3], tars, strict=False), ("config.json", made.config.raw),
                          ("manifest.json", described)):  # fmt: skip
            info = tarfile.TarInfo(path)
            if path == paths[3]:
                info.type, info.linkname = tarfile.SYMTYPE, "../0/layer.tar"
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))

    class Saved:
        def save(self, name: str) -> Any:
            return contextlib.nullcontext(io.BytesIO(stream.getvalue()))

    kept: dict[Digest, bytes] = {}
    with State() as state:
        runtime = from_classic(Saved(), state, "acme/x:1", kept.__setitem__)  # type: ignore[arg-type]
    assert runtime.placeholder == 1
    assert [layer.size for layer in runtime.image.manifest.layers] == [len(raw) for raw in tars]
    assert kept == {Digest.of(raw): raw for raw in (code, same)}
