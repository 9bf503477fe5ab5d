"""The local Docker, by either of its image stores: only what it lacks is streamed into ``docker load``.

The containerd store keeps manifests and compressed blobs; it takes an OCI archive that holds only the new ones.
The classic store keeps unpacked layers by chain ID; it takes a docker-archive in which the layers that it has
are named and left out. Each refuses the other's partial form.
"""

from __future__ import annotations

import json
import os
import tarfile
import tempfile
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..assemble import PREFIX, Assembled, PackedCheckpoint, Runtime, checkpoint_image
from ..checkpoint import Blueprint, Packer
from ..engine import BakeResult, Engine
from ..errors import IntegrityError, LayerkitError, LocalResourceError
from ..events import Listener, silent
from ..oci import MEDIA, Config, Descriptor, Digest, Image, Layer, Manifest, Reference, parse_manifest
from ..planner import Present
from ..runtime.placeholder import MAX_SIZE, may_be_placeholder, placeholder_place
from ..state import State
from .archive import Archive, oci_files
from .base import Output, Published, Sent, Stopped, checkpoint_tag, disturbance, runtime_tag
from .sending import HASH_FIRST, sample

__all__ = ["DockerDestination"]

_KEEP_IN_MEMORY = 64 * 1024 * 1024  # bytes of a layer of the classic store that is read back from docker save
_UPPER_LIFE = 30 * 24 * 3600  # seconds since such a layer was last needed
_CHECKPOINT = "docker-checkpoint"  # kind of record
_HOLDERS = 4  # images that are remembered to have one checkpoint: each is asked for


class DockerDestination:
    """``name`` is the image's repository; what was loaded before is remembered in *state* and checked with Docker.

    ``mounted``: where the checkpoint is an image of its own that is mounted at run time, that image's repository.
    """

    kind = "docker"

    def __init__(self, engine: Engine, reference: Reference, state: State, mounted: Reference | None = None) -> None:
        self.engine = engine
        self.reference = reference
        self.state = state
        self.mounted = mounted
        self.name = reference.name
        # diff_ids that lie under the checkpoint's layers; None while nobody knows.
        self._under: tuple[Digest, ...] | None = None if mounted is None else ()
        self._holders: dict[str, Image | None] = {}  # images with checkpoints that were asked for
        self._uppers: dict[Digest, bytes] = {}
        self._archive: Archive | None = None
        self._streamed: dict[Digest, str] = {}  # digest -> path, of what is in that archive

    def describe(self) -> str:
        return f"docker {self.reference.familiar}"

    def _local(self, tag: str) -> str:
        return f"{self.reference.familiar}:{tag}"

    @cached_property
    def _classic(self) -> bool:
        store = self.engine.store
        if not store:
            raise LocalResourceError(
                "docker: the builder is there, but no local Docker to load the image into",
                hint="add --push, or --output oci:DIR",
            )
        return store == "classic"

    # ------------------------------------------------------------------------------------------------- what is there

    def look(self, runtime_keys: Mapping[str, str], checkpoint_key: str | None, tags: Sequence[str]) -> Present:
        runtimes: dict[str, Runtime] = {}
        for platform, key in runtime_keys.items():
            runtime = self._remembered(key)
            if runtime is not None:
                runtimes[platform] = runtime
                self._stand_on(runtime)
        named: dict[str, Digest | None] = {}
        previous: dict[str, Image] = {}
        blobs: set[Digest] = set()
        for tag in tags:
            image = self.engine.image(self._local(tag))
            named[tag] = Digest.parse(str(image["Id"])) if image else None
            known = self._image("docker-image", str(image["Id"])) if image else None
            if known is not None and image is not None and not previous:
                previous[str(known.platform)] = known
                proven = not self._stacked and _is_whole(image)
                blobs = {layer.digest for layer in known.manifest.layers if proven or not _of_checkpoint(layer)}
        for runtime in runtimes.values():
            blobs |= {layer.digest for layer in runtime.image.manifest.layers}
        layers = self.checkpoint(checkpoint_key) if checkpoint_key else None
        # Layers in the store, digest and diff_id, also under names that are gone.
        blobs |= {layer.descriptor.digest for layer in layers or ()}
        if self._classic:
            named = {tag: self._named_digest(digest) for tag, digest in named.items()}
        return Present(runtimes, layers, named, previous, frozenset(blobs), stacked=self._stacked)

    @property
    def _stacked(self) -> bool:
        """Whether the checkpoint's layers are there depends on what lies under them."""
        return self._classic and self.mounted is None

    def _stand_on(self, runtime: Runtime) -> None:
        if self.mounted is None and runtime.placeholder is not None:
            self._under = runtime.image.config.diff_ids[: runtime.placeholder]

    def _named_digest(self, image_id: Digest | None) -> Digest | None:
        """The classic store's image ID is the configuration's digest; a plan speaks of manifests."""
        known = self._image("docker-image", str(image_id)) if image_id else None
        return known.manifest.digest if known else image_id

    def _remembered(self, key: str) -> Runtime | None:
        """The runtime image under *key*, if Docker has it still and we know its manifest."""
        local = self.engine.image(self._local(runtime_tag(key)))
        if local is None:
            return None
        identity = str(local["Id"])
        image = self._image("docker-runtime", identity)
        record = self.state.get("docker-place", identity)
        if image is None or record is None:
            return None
        if not record:
            return Runtime(image, None)
        if len(record) < 5:  # of an earlier layerkit, which did not look at what lies above the placeholder
            return None
        index, folder, uid, gid, disturbed = record
        if self._classic and any(self._upper(digest) is None for digest in image.config.diff_ids[index + 1 :]):
            return None  # they could not be given again
        return Runtime(image, index, (folder, uid, gid), disturbed=disturbed)

    def _image(self, kind: str, identity: str) -> Image | None:
        record = self.state.get(kind, identity)
        if not record:
            return None
        with suppress(LayerkitError):
            config = Config.parse(record["config"].encode(), record["config_type"])
            return Image(Manifest.parse(record["manifest"].encode()), config)
        return None

    def _remember(self, kind: str, identity: str, image: Image) -> None:
        record = {
            "manifest": image.manifest.raw.decode(),
            "config": image.config.raw.decode(),
            "config_type": image.config.media_type,
        }
        self.state.put(kind, identity, record)

    def checkpoint(self, key: str) -> tuple[Layer, ...] | None:
        """The layers under *key*, while Docker has an image with them, tagged or not, on what lies under them now.

        Where they are to be mounted, that is the image of that name.
        """
        if self.mounted is not None:
            local = self._whole(f"{self.mounted.familiar}:{checkpoint_tag(key)}")
            image = self._image("docker-image", str(local["Id"])) if local is not None else None
            return _layers(image, range(len(image.manifest.layers))) if image is not None else None
        record = self.state.get(_CHECKPOINT, f"{key} {self._store_name}")
        if not record:
            return None
        digests = tuple(Digest.parse(row[0]) for row in record["layers"])
        stored = self._stored(digests)
        if self._classic and self._under is None:
            there = set(digests) <= {name[-1] for name in stored}
        else:
            under = self._under or ()
            there = {self._called(under, digests[:number]) for number in range(1, len(digests) + 1)} <= stored
        if not there:
            return None
        rows = zip(digests, record["layers"], strict=True)
        return tuple(Layer(Descriptor(MEDIA.LAYER, d, size), d, made) for d, (_, size, made) in rows)

    def _whole(self, reference: str) -> dict[str, Any] | None:
        """The local image, if all of it is here; the containerd store takes one that lacks a layer without a word."""
        found = self.engine.image(reference)
        return found if found is not None and _is_whole(found) else None

    def _called(self, under: Sequence[Digest], digests: Sequence[Digest]) -> tuple[Digest, ...]:
        """What the store finds the last of the checkpoint's layers *digests* by, with *under* under them."""
        return (*under, *digests) if self._classic else (digests[-1],)

    def _names(self, image: Image) -> tuple[tuple[Digest, ...], ...]:
        """What the store finds each layer of *image* by: its blob's digest, or its diff_id and all those under it."""
        if self._classic:
            diff_ids = image.config.diff_ids
            return tuple(diff_ids[: number + 1] for number in range(len(diff_ids)))
        return tuple((layer.digest,) for layer in image.manifest.layers)

    def _stored(self, digests: Collection[Digest]) -> frozenset[tuple[Digest, ...]]:
        """Names of layers in Docker: of the images that brought checkpoints with one of *digests* here.

        They count, tagged or not, while Docker has all of them. Each is asked for once.
        """
        wanted = set(map(str, digests))
        found: set[tuple[Digest, ...]] = set()
        for record in self._records():
            if wanted & {row[0] for row in record["layers"]}:
                for identity in record["holders"]:
                    if identity not in self._holders:
                        image = self._image("docker-image", identity)
                        self._holders[identity] = image if image and self._whole(identity) else None
                    if (holder := self._holders[identity]) is not None:
                        found.update(self._names(holder))
        return frozenset(found)

    def _records(self) -> list[dict[str, Any]]:
        found = self.state.all(_CHECKPOINT).items()
        return [record for where, record in found if record and where.endswith(f" {self._store_name}")]

    def _hold(self, key: str, layers: Sequence[Layer], identity: Digest) -> None:
        """Remember that the image *identity*, which is here, has the *layers* of the checkpoint *key*."""
        where = f"{key} {self._store_name}"
        before = (self.state.get(_CHECKPOINT, where) or {}).get("holders", [])
        holders = [*(holder for holder in before if holder != str(identity)), str(identity)]
        rows = [[str(layer.diff_id), layer.descriptor.size, layer.created_by] for layer in layers]
        self.state.put(_CHECKPOINT, where, {"holders": holders[-_HOLDERS:], "layers": rows})
        self._holders.clear()

    @property
    def _store_name(self) -> str:
        return "classic" if self._classic else "containerd"

    # ------------------------------------------------------------------------------------------------- BuildKit's part

    def output(self, key: str) -> Output:
        return Output((self._local(runtime_tag(key)),), ("type=docker",))

    def finished(self, tags: Sequence[str]) -> Output:
        return Output(tuple(self._local(tag) for tag in tags), ("type=docker",))

    def delivered(self, tags: Sequence[str]) -> Mapping[str, Image]:
        return {}  # docker save would tell it, with every byte of the checkpoint

    def built(self, platform: str, key: str, result: BakeResult, target: str) -> Runtime:
        name = self._local(runtime_tag(key))
        local = self.engine.image(name)
        if local is None:
            raise IntegrityError(f"docker: BuildKit built {name}, and it is not in the local store")
        identity = Digest.parse(str(local["Id"]))
        if self._classic:
            runtime = self._from_classic(name)
        else:
            build = str(result.metadata.get(target, {}).get("buildx.build.ref", ""))
            runtime = self._from_containerd(name, identity, build)
        self._remember("docker-runtime", str(identity), runtime.image)
        place = [runtime.placeholder, *runtime.place, runtime.disturbed] if runtime.place else []
        self.state.put("docker-place", str(identity), place)
        self._stand_on(runtime)
        return runtime

    def _from_containerd(self, name: str, identity: Digest, build: str) -> Runtime:
        """Manifest and configuration from the builder's content store, or else out of ``docker save``."""
        saved: dict[Digest, bytes] = {}

        def blob(digest: Digest) -> bytes:
            raw = saved.get(digest) or (self.engine.attachment(build, str(digest)) if build else None)
            if raw is None or Digest.of(raw) != digest:
                saved.update(self._saved_blobs(name))
                raw = saved.get(digest)
            if raw is None or Digest.of(raw) != digest:
                raise IntegrityError(f"docker: {name} names {digest}, and the store does not give it")
            return raw

        def layer_blob(layer: Descriptor) -> bytes | None:
            with suppress(IntegrityError):
                return blob(layer.digest)
            return None

        manifest = parse_manifest(blob(identity))
        if not isinstance(manifest, Manifest):
            child = next((m for m in manifest.manifests if m.platform and m.platform.os != "unknown"), None)
            if child is None:
                raise IntegrityError(f"docker: {name} is an index of nothing")
            manifest = Manifest.parse(blob(child.digest))
        image = Image(manifest, Config.parse(blob(manifest.config.digest), manifest.config.media_type))
        for index, descriptor in enumerate(manifest.layers):
            if may_be_placeholder(descriptor) and (place := placeholder_place(blob(descriptor.digest))):
                above = disturbance(image, index, place[0], layer_blob, self.state)
                return Runtime(image, index, place, disturbed=above)
        return Runtime(image, None)

    def _saved_blobs(self, name: str) -> dict[Digest, bytes]:
        found: dict[Digest, bytes] = {}
        for path, size, read in self._saved(name):
            if path.startswith("blobs/sha256/") and size <= 4 * 1024 * 1024:
                raw = read()
                found[Digest.of(raw)] = raw
        return found

    def _saved(self, name: str) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
        """(path, size, read) of each file of ``docker save``; the stream is not kept."""
        with self.engine.save(name) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                if member.isfile():
                    content = tar.extractfile(member)
                    assert content is not None
                    yield member.name, member.size, content.read

    def _from_classic(self, name: str) -> Runtime:
        """The image as the classic store has it: its layers are uncompressed tars, their own diff_ids.

        The layers above the placeholder are kept (in the state folder, where there is one): their chain ID
        changes with the checkpoint's, so that the store has to be given them again.
        """
        sizes: dict[str, int] = {}
        small: dict[str, bytes] = {}
        for path, size, read in self._saved(name):
            sizes[path] = size
            if size <= _KEEP_IN_MEMORY:
                small[path] = read()
        description = json.loads(small["manifest.json"])[0]
        config = Config.parse(small[description["Config"]])
        paths: list[str] = description["Layers"]
        descriptors = [
            Descriptor(MEDIA.LAYER, diff_id, sizes[path]) for diff_id, path in zip(config.diff_ids, paths, strict=True)
        ]
        image = Image(Manifest.create(config.descriptor, descriptors), config)
        found = None
        for index, path in enumerate(paths):
            if sizes[path] <= MAX_SIZE and (place := placeholder_place(small[path])):
                found = (index, place)
        if found is None:
            return Runtime(image, None)
        for diff_id, path in list(zip(config.diff_ids, paths, strict=True))[found[0] + 1 :]:
            if path not in small:
                raise LocalResourceError(
                    f"docker: a layer above the checkpoint has {sizes[path]} bytes; the classic image store cannot"
                    " be given it again",
                    hint="switch Docker to the containerd image store",
                )
            self._keep_upper(diff_id, small[path])
        by_digest = {diff_id: small.get(path) for diff_id, path in zip(config.diff_ids, paths, strict=True)}
        above = disturbance(image, found[0], found[1][0], lambda layer: by_digest[layer.digest], self.state)
        return Runtime(image, found[0], found[1], disturbed=above)

    def _upper_path(self, digest: Digest) -> Path | None:
        return self.state.folder / "layers" / digest.hex if self.state.folder else None

    def _keep_upper(self, digest: Digest, raw: bytes) -> None:
        self._uppers[digest] = raw
        path = self._upper_path(digest)
        if path is not None:
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                self._forget_uppers(path.parent)
                # Other runs write there too. What stays of one that was killed grows old like the rest.
                handle, temporary = tempfile.mkstemp(dir=path.parent)
                with os.fdopen(handle, "wb") as stream:
                    stream.write(raw)
                Path(temporary).replace(path)

    def _forget_uppers(self, folder: Path) -> None:
        """Those of images that nobody has built for long: BuildKit gives them again."""
        for path in folder.iterdir():
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _UPPER_LIFE:
                    path.unlink()

    def _upper(self, digest: Digest) -> bytes | None:
        if digest not in self._uppers and (path := self._upper_path(digest)) is not None:
            with suppress(OSError):
                raw = path.read_bytes()
                if Digest.of(raw) == digest:
                    self._uppers[digest] = raw
                    os.utime(path)
        return self._uppers.get(digest)

    # ------------------------------------------------------------------------------------------------- the checkpoint

    def send(self, packer: Packer, listener: Listener, stopped: Callable[[], bool]) -> Sent:
        """Stream the layers into ``docker load`` while they are hashed; ``publish`` gives it the rest.

        A layer that may be there already is hashed first.
        """
        # What the layers come to lie on is not known while BuildKit builds it: then none counts as there.
        under = self._under
        unknown = self._classic and under is None
        held = {row[0] for record in self._records() for row in record["layers"]}
        layers: list[Layer] = []
        uploaded = reused = 0
        new: set[Digest] = set()
        for index, blueprint in enumerate(packer.blueprints):
            if stopped():
                raise Stopped
            taste = sample(blueprint)
            if blueprint.size < HASH_FIRST or self.state.get("sample", taste) or str(packer.known(index)) in held:
                digest = packer.digest(index)
            else:
                path = self._stream(packer, index, taste, listener, stopped)
                digest = packer.digest(index)
                self._streamed[digest] = path
            self.state.put("sample", taste, str(digest))
            layers.append(blueprint.layer(digest))
            name = self._called(under or (), [layer.diff_id for layer in layers])
            if not unknown and name in self._stored([digest]):
                reused += blueprint.size
            else:
                uploaded += blueprint.size
                new.add(digest)
        return Sent(tuple(layers), uploaded, reused, 0, frozenset(new))

    def _stream(self, packer: Packer, index: int, taste: str, listener: Listener, stopped: Callable[[], bool]) -> str:
        """Into the archive under way, whose path for the layer is given back."""
        blueprint = packer.blueprints[index]
        if self._archive is None:
            self._archive = Archive(self.engine.load())
        # containerd goes on with what it got under this name before; should the files differ, the digest will not fit.
        path = f"layerkit-{Digest.of(f'{taste} {blueprint.mark}'.encode()).hex}/layer.tar"
        try:
            content = packer.content(index)
            assert isinstance(content, Blueprint)  # nothing is compressed for Docker
            self._archive.layer(path, content, f"checkpoint-{index}", listener, lambda: stopped() or packer.failed)
        except Stopped:
            if packer.failed:
                packer.digest(index)  # says why
            raise
        return path

    def close(self) -> None:
        """End a ``docker load`` that nobody will finish."""
        archive, self._archive = self._archive, None
        self._streamed = {}
        if archive is not None:
            archive.abort()

    def keep_checkpoint(self, packed: PackedCheckpoint, packer: Packer | None) -> int:
        """Load the image that is to be mounted. A layer's bytes are kept by the image that it is part of."""
        if self.mounted is None:
            return 0
        image = checkpoint_image(packed)
        loaded = self._deliver(image, self.mounted, [checkpoint_tag(packed.key)], packer, silent)
        self._hold(packed.key, packed.layers, self._identity(image))
        return loaded

    # ------------------------------------------------------------------------------------------------- the image

    def identity(self, assembled: Assembled) -> Digest:
        return self._identity(next(iter(assembled.images.values())))

    def _identity(self, image: Image) -> Digest:
        return image.config.digest if self._classic else image.manifest.digest

    def publish(
        self, assembled: Assembled, tags: Sequence[str], present: Present, packer: Packer | None, listener: Listener
    ) -> Published:
        image = next(iter(assembled.images.values()))
        loaded = self._deliver(image, self.reference, tags, packer, listener)
        inside = [index for index, layer in enumerate(image.manifest.layers) if _of_checkpoint(layer)]
        if inside and (key := image.config.labels.get(PREFIX + "checkpoint")):
            self._hold(key, _layers(image, inside), self._identity(image))
        return Published(self._identity(image), loaded)

    def _deliver(
        self, image: Image, reference: Reference, tags: Sequence[str], packer: Packer | None, listener: Listener
    ) -> int:
        """Have *image* in Docker under *tags* of *reference*, and prove it; bytes beside the checkpoint's layers."""
        identity = str(self._identity(image))
        loaded = 0
        if self._whole(identity) is not None and self._image("docker-image", identity) is not None:
            self.close()
            for tag in tags:
                self.engine.tag(identity, reference.familiar, tag)
        else:
            try:
                loaded = self._load(image, reference, tags, self._stored(image.config.diff_ids), packer, listener)
            except LocalResourceError:
                self.close()
                if packer is None:
                    raise
                # The store lacks a layer that we took to be there: give it all that we have.
                loaded = self._load(image, reference, tags, frozenset(), packer, listener)
            self._remember("docker-image", identity, image)
        for tag in tags:
            name = f"{reference.familiar}:{tag}"
            now = self.engine.image(name)
            if now is None or str(now["Id"]) != identity:
                raise IntegrityError(f"docker: {name} is {now['Id'] if now else 'not there'}, not {identity}")
        return loaded

    def _load(
        self,
        image: Image,
        reference: Reference,
        tags: Sequence[str],
        stored: frozenset[tuple[Digest, ...]],
        packer: Packer | None,
        listener: Listener,
    ) -> int:
        """Finish the archive under way, or load one from its beginning; bytes beside the checkpoint's layers."""
        archive, self._archive = self._archive or Archive(self.engine.load()), None
        paths, self._streamed = self._streamed, {}
        numbers = {packer.digest(index): index for index in range(len(packer.blueprints))} if packer else {}
        place = "{}/layer.tar" if self._classic else "blobs/sha256/{}"
        try:
            for digest, name in zip(image.config.diff_ids, self._names(image), strict=True):
                if packer is not None and digest in numbers and digest not in paths and name not in stored:
                    paths[digest] = place.format(digest.hex)
                    index = numbers[digest]
                    blueprint = packer.blueprints[index]
                    archive.layer(paths[digest], blueprint, f"checkpoint-{index}", listener, lambda: False)
            if self._classic:
                self._finish_classic(archive, image, [f"{reference.familiar}:{tag}" for tag in tags], paths)
            else:
                for path, raw in oci_files(image, reference.name, tags):
                    archive.file(path, raw)
            archive.finish()
        finally:
            archive.abort()
        return archive.small

    def _finish_classic(
        self, archive: Archive, image: Image, names: Sequence[str], given: Mapping[Digest, str]
    ) -> None:
        """Below the first new layer everything is there by chain ID; from it on all must be given."""
        paths = [given.get(digest, f"{digest.hex}/layer.tar") for digest in image.config.diff_ids]
        for digest, path in zip(image.config.diff_ids, paths, strict=True):
            if digest not in given and (upper := self._upper(digest)) is not None:
                archive.file(path, upper)
        config = f"{image.config.digest.hex}.json"
        archive.file(config, image.config.raw)
        archive.file("manifest.json", json.dumps([{"Config": config, "RepoTags": names, "Layers": paths}]).encode())


def _is_whole(image: Mapping[str, Any]) -> bool:
    parts = image.get("Manifests") or ()
    return not any(part.get("Kind") == "image" and part.get("Available") is False for part in parts)


def _of_checkpoint(layer: Descriptor) -> bool:
    return layer.annotations.get(PREFIX + "role") == "checkpoint"


def _layers(image: Image, indices: Iterable[int]) -> tuple[Layer, ...]:
    layers, diff_ids, made = image.manifest.layers, image.config.diff_ids, image.created_by
    return tuple(Layer(replace(layers[i], annotations={}), diff_ids[i], made[i]) for i in indices)
