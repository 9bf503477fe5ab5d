"""The local Docker, by either of its image stores: only what it lacks is streamed into ``docker load``.

The containerd store keeps manifests and compressed blobs; it takes an OCI archive that holds only the new ones.
The classic store keeps unpacked layers by chain ID; it takes a docker-archive in which the layers that it has
are named and left out. Each refuses the other's partial form.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from ..assemble import Assembled, PackedCheckpoint, Runtime
from ..checkpoint import Blueprint, Packer
from ..engine import BakeResult, Engine
from ..errors import IntegrityError, LayerkitError, LocalResourceError
from ..events import Listener
from ..oci import MEDIA, Config, Descriptor, Digest, Image, Layer, Manifest, Reference, parse_manifest
from ..planner import Present
from ..runtime.placeholder import MAX_SIZE, may_be_placeholder, placeholder_place
from ..state import State
from .archive import Archive, oci_files
from .base import Output, Published, Sent, Stopped, runtime_tag
from .sending import HASH_FIRST, sample

__all__ = ["DockerDestination"]

_KEEP_IN_MEMORY = 64 * 1024 * 1024  # bytes of a layer of the classic store that is read back from docker save


class DockerDestination:
    """``name`` is the image's repository; what was loaded before is remembered in *state* and checked with Docker."""

    kind = "docker"

    def __init__(self, engine: Engine, reference: Reference, state: State) -> None:
        self.engine = engine
        self.reference = reference
        self.state = state
        self.name = reference.name
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
        named: dict[str, Digest | None] = {}
        previous: dict[str, Image] = {}
        for tag in tags:
            image = self.engine.image(self._local(tag))
            named[tag] = Digest.parse(str(image["Id"])) if image else None
            known = self._image("docker-image", str(image["Id"])) if image else None
            if known is not None and not previous:
                previous[str(known.platform)] = known
        blobs = {layer.digest for image in previous.values() for layer in image.manifest.layers}
        for runtime in runtimes.values():
            blobs |= {layer.digest for layer in runtime.image.manifest.layers}
        layers = self.checkpoint(checkpoint_key) if checkpoint_key else None
        # Layers in the store, digest and diff_id, also under names that are gone.
        blobs |= {layer.descriptor.digest for layer in layers or ()}
        if self._classic:
            named = {tag: self._named_digest(digest) for tag, digest in named.items()}
        return Present(runtimes, layers, named, previous, frozenset(blobs))

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
        index, folder, uid, gid = record if record else (None, "", 0, 0)
        return Runtime(image, index, (folder, uid, gid) if index is not None else None)

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
        """The layers that an image of ours brought here, while Docker still has that image, tagged or not."""
        record = self.state.get("docker-checkpoint", f"{key} {self._store_name}")
        if not record or not any(self.engine.image(holder) for holder in record["holders"]):
            return None
        return tuple(
            Layer(Descriptor(MEDIA.LAYER, Digest.parse(d), size), Digest.parse(d), made)
            for d, size, made in record["layers"]
        )

    @property
    def _store_name(self) -> str:
        return "classic" if self._classic else "containerd"

    # ------------------------------------------------------------------------------------------------- BuildKit's part

    def output(self, key: str) -> Output:
        return Output((self._local(runtime_tag(key)),), ("type=docker",))

    def finished(self, tags: Sequence[str]) -> Output:
        return Output(tuple(self._local(tag) for tag in tags), ("type=docker",))

    def delivered(self, tags: Sequence[str]) -> None:
        pass

    def built(self, platform: str, key: str, result: BakeResult, target: str) -> Runtime:
        name = self._local(runtime_tag(key))
        local = self.engine.image(name)
        if local is None:
            raise IntegrityError(f"docker: BuildKit built {name}, and it is not in the local store")
        identity = Digest.parse(str(local["Id"]))
        if self._classic:
            image, place, index = self._from_classic(name)
        else:
            build = str(result.metadata.get(target, {}).get("buildx.build.ref", ""))
            image, place, index = self._from_containerd(name, identity, build)
        self._remember("docker-runtime", str(identity), image)
        self.state.put("docker-place", str(identity), [index, *place] if place else [])
        return Runtime(image, index, place)

    def _from_containerd(
        self, name: str, identity: Digest, build: str
    ) -> tuple[Image, tuple[str, int, int] | None, int | None]:
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

        manifest = parse_manifest(blob(identity))
        if not isinstance(manifest, Manifest):
            child = next((m for m in manifest.manifests if m.platform and m.platform.os != "unknown"), None)
            if child is None:
                raise IntegrityError(f"docker: {name} is an index of nothing")
            manifest = Manifest.parse(blob(child.digest))
        image = Image(manifest, Config.parse(blob(manifest.config.digest), manifest.config.media_type))
        for index, descriptor in enumerate(manifest.layers):
            if may_be_placeholder(descriptor) and (place := placeholder_place(blob(descriptor.digest))):
                return image, place, index
        return image, None, None

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

    def _from_classic(self, name: str) -> tuple[Image, tuple[str, int, int] | None, int | None]:
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
            return image, None, None
        for diff_id, path in list(zip(config.diff_ids, paths, strict=True))[found[0] + 1 :]:
            if path not in small:
                raise LocalResourceError(
                    f"docker: a layer above the checkpoint has {sizes[path]} bytes; the classic image store cannot"
                    " be given it again",
                    hint="switch Docker to the containerd image store",
                )
            self._keep_upper(diff_id, small[path])
        return image, found[1], found[0]

    def _upper_path(self, digest: Digest) -> Path | None:
        return self.state.folder / "layers" / digest.hex if self.state.folder else None

    def _keep_upper(self, digest: Digest, raw: bytes) -> None:
        self._uppers[digest] = raw
        path = self._upper_path(digest)
        if path is not None and not path.exists():
            with suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True)
                temporary = path.with_suffix(".new")
                temporary.write_bytes(raw)
                temporary.replace(path)

    def _upper(self, digest: Digest) -> bytes | None:
        if digest not in self._uppers and (path := self._upper_path(digest)) is not None:
            with suppress(OSError):
                raw = path.read_bytes()
                if Digest.of(raw) == digest:
                    self._uppers[digest] = raw
        return self._uppers.get(digest)

    # ------------------------------------------------------------------------------------------------- the checkpoint

    def send(self, packer: Packer, listener: Listener, stopped: Callable[[], bool]) -> Sent:
        """Stream the layers into ``docker load`` while they are hashed; ``publish`` gives it the rest.

        A layer that may be there already is hashed first.
        """
        held: set[str] = set()
        for record in self.state.all("docker-checkpoint").values():
            if any(self.engine.image(holder) for holder in record["holders"][-1:]):
                held |= {str(layer[0]) for layer in record["layers"]}
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
            if str(digest) in held:
                reused += blueprint.size
            else:
                uploaded += blueprint.size
                new.add(digest)
            layers.append(blueprint.layer(digest))
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
        self._pending = (packed.key, packed.layers)
        return 0

    _pending: tuple[str, tuple[Layer, ...]] | None = None

    # ------------------------------------------------------------------------------------------------- the image

    def identity(self, assembled: Assembled) -> Digest:
        image = next(iter(assembled.images.values()))
        return image.config.digest if self._classic else image.manifest.digest

    def publish(
        self, assembled: Assembled, tags: Sequence[str], present: Present, packer: Packer | None, listener: Listener
    ) -> Published:
        image = next(iter(assembled.images.values()))
        identity = str(self.identity(assembled))
        loaded = 0
        if self.engine.image(identity) is not None and self._image("docker-image", identity) is not None:
            self.close()
            for tag in tags:
                self.engine.tag(identity, self.reference.familiar, tag)
        else:
            try:
                loaded = self._load(image, tags, present.blobs, packer, listener)
            except LocalResourceError:
                self.close()
                if packer is None:
                    raise
                # The store lacks a layer that we took to be there: give it all that we have.
                loaded = self._load(image, tags, frozenset(), packer, listener)
            self._remember("docker-image", identity, image)
        for tag in tags:
            now = self.engine.image(self._local(tag))
            if now is None or str(now["Id"]) != identity:
                raise IntegrityError(
                    f"docker: {self._local(tag)} is {now['Id'] if now else 'not there'}, not {identity}"
                )
        if self._pending is not None:
            key, layers = self._pending
            where = f"{key} {self._store_name}"
            holders = (self.state.get("docker-checkpoint", where) or {}).get("holders", [])
            rows = [[str(layer.diff_id), layer.descriptor.size, layer.created_by] for layer in layers]
            self.state.put("docker-checkpoint", where, {"holders": [*holders[-9:], identity], "layers": rows})
        return Published(Digest.parse(identity), loaded)

    def _load(
        self, image: Image, tags: Sequence[str], held: frozenset[Digest], packer: Packer | None, listener: Listener
    ) -> int:
        """Finish the archive under way, or load one from its beginning; bytes beside the checkpoint's layers."""
        archive, self._archive = self._archive or Archive(self.engine.load()), None
        streamed, self._streamed = self._streamed, {}
        numbers = {packer.digest(index): index for index in range(len(packer.blueprints))} if packer else {}

        def layer(digest: Digest, path: str) -> None:
            assert packer is not None
            index = numbers[digest]
            archive.layer(path, packer.blueprints[index], f"checkpoint-{index}", listener, lambda: False)

        try:
            if self._classic:
                self._finish_classic(archive, image, tags, streamed, numbers, layer)
            else:
                for digest in numbers:
                    if digest not in held and digest not in streamed:
                        layer(digest, f"blobs/sha256/{digest.hex}")
                for path, raw in oci_files(image, self.name, tags):
                    archive.file(path, raw)
            archive.finish()
        finally:
            archive.abort()
        return archive.small

    def _finish_classic(
        self,
        archive: Archive,
        image: Image,
        tags: Sequence[str],
        streamed: Mapping[Digest, str],
        numbers: Mapping[Digest, int],
        layer: Callable[[Digest, str], None],
    ) -> None:
        """Below the first new layer everything is there by chain ID; from it on all must be given."""
        paths = [streamed.get(digest, f"{digest.hex}/layer.tar") for digest in image.config.diff_ids]
        for digest, path in zip(image.config.diff_ids, paths, strict=True):
            if digest in streamed:
                continue
            if digest in numbers:
                layer(digest, path)
            elif (upper := self._upper(digest)) is not None:
                archive.file(path, upper)
        config = f"{image.config.digest.hex}.json"
        names = [self._local(tag) for tag in tags]
        archive.file(config, image.config.raw)
        archive.file("manifest.json", json.dumps([{"Config": config, "RepoTags": names, "Layers": paths}]).encode())
