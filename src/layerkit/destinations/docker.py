"""The local Docker, by either of its image stores: only what it lacks is streamed into ``docker load``.

The containerd store keeps manifests and compressed blobs; it takes an OCI archive that holds only the new ones.
The classic store keeps unpacked layers by chain ID; it takes a docker-archive in which the layers that it has
are named and left out. Each refuses the other's partial form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from ..assemble import Assembled, PackedCheckpoint, Runtime, checkpoint_image
from ..checkpoint import Blueprint, Packer
from ..engine import BakeResult, Engine
from ..errors import IntegrityError, LocalResourceError, Stopped
from ..events import Listener, silent
from ..names import CHECKPOINT_KEY, ROLE
from ..oci import MEDIA, Descriptor, Digest, Image, Layer, Reference
from ..planner import Present
from ..state import State, as_text
from .archive import Archive, oci_files
from .base import Output, Published, Sent, checkpoint_tag, runtime_tag
from .holdings import Holdings, Name, is_whole
from .saved import from_classic, from_containerd, from_record
from .sending import HASH_FIRST, sample
from .uppers import Uppers

__all__ = ["DockerDestination"]

_PLACE = "docker-place"  # kind of record


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
        self._uppers = Uppers(state)
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

    @cached_property
    def _has(self) -> Holdings:
        return Holdings(self.engine, self.state, self._classic)

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
            known = self._has.image(str(image["Id"])) if image else None
            if known is not None and image is not None and not previous:
                previous[str(known.platform)] = known
                proven = not self._stacked and is_whole(image)
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
        known = self._has.image(str(image_id)) if image_id else None
        return known.manifest.digest if known else image_id

    def _remembered(self, key: str) -> Runtime | None:
        """The runtime image under *key*, if Docker has it still and we know its manifest."""
        local = self.engine.image(self._local(runtime_tag(key)))
        if local is None:
            return None
        identity = str(local["Id"])
        image = self._has.runtime(identity)
        record = self.state.get(_PLACE, identity, _placed)
        if image is None or record is None:
            return None
        if not record:
            return Runtime(image, None)
        index, folder, uid, gid, disturbed = record
        if not 0 <= index < len(image.config.diff_ids):
            return None
        if self._classic and any(self._uppers.get(digest) is None for digest in image.config.diff_ids[index + 1 :]):
            return None  # they could not be given again
        return Runtime(image, index, (folder, uid, gid), disturbed=disturbed)

    def checkpoint(self, key: str) -> tuple[Layer, ...] | None:
        """The layers under *key*, while Docker has an image with them, tagged or not, on what lies under them now.

        Where they are to be mounted, that is the image of that name.
        """
        if self.mounted is not None:
            local = self._has.whole(f"{self.mounted.familiar}:{checkpoint_tag(key)}")
            image = self._has.image(str(local["Id"])) if local is not None else None
            return _layers(image, range(len(image.manifest.layers))) if image is not None else None
        rows = self._has.checkpoint(key)
        if not rows:
            return None
        digests = tuple(digest for digest, _, _ in rows)
        stored = self._has.stored(digests)
        if self._classic and self._under is None:
            there = set(digests) <= {name[-1] for name in stored}
        else:
            under = self._under or ()
            there = {self._has.called(under, digests[:number]) for number in range(1, len(digests) + 1)} <= stored
        return tuple(Layer(Descriptor(MEDIA.LAYER, d, size), d, made) for d, size, made in rows) if there else None

    # ------------------------------------------------------------------------------------------------- BuildKit's part

    def output(self, key: str) -> Output:
        return Output((self._local(runtime_tag(key)),), ("type=docker",))

    def finished(self, tags: Sequence[str]) -> Output:
        return Output(tuple(self._local(tag) for tag in tags), ("type=docker",))

    def delivered(self, tags: Sequence[str], result: BakeResult, target: str) -> Mapping[str, Image]:
        """By the build's record; the classic store keeps no manifests."""
        name, identity = self._local(tags[0]), result.digest(target)
        local = None if self._classic else self.engine.image(name)
        if local is None or str(local["Id"]) != str(identity):
            return {}  # nor is anything told of what somebody else named so meanwhile
        image = from_record(self.engine, name, identity, result.record(target))
        if image is None:
            return {}
        self._has.remember(str(identity), image)
        return {str(image.platform): image}

    def built(self, platform: str, key: str, result: BakeResult, target: str) -> Runtime:
        name = self._local(runtime_tag(key))
        local = self.engine.image(name)
        if local is None:
            raise IntegrityError(f"docker: BuildKit built {name}, and it is not in the local store")
        identity = Digest.parse(str(local["Id"]))
        if self._classic:
            runtime = from_classic(self.engine, self.state, name, self._uppers.keep)
        else:
            runtime = from_containerd(self.engine, self.state, name, identity, result.record(target))
        self._has.remember(str(identity), runtime.image, runtime=True)
        place = [runtime.placeholder, *runtime.place, runtime.disturbed] if runtime.place else []
        self.state.put(_PLACE, str(identity), place)
        self._stand_on(runtime)
        return runtime

    # ------------------------------------------------------------------------------------------------- the checkpoint

    def send(self, packer: Packer, listener: Listener, stopped: Callable[[], bool]) -> Sent:
        """Stream the layers into ``docker load`` while they are hashed; ``publish`` gives it the rest.

        A layer that may be there already is hashed first.
        """
        # What the layers come to lie on is not known while BuildKit builds it: then none counts as there.
        under = self._under
        unknown = self._classic and under is None
        ever = self._has.ever
        layers: list[Layer] = []
        uploaded = reused = 0
        new: set[Digest] = set()
        for index, blueprint in enumerate(packer.blueprints):
            if stopped():
                raise Stopped
            taste = sample(blueprint)
            seen = self.state.get("sample", taste, Digest.parse) is not None or packer.known(index) in ever
            if seen or blueprint.size < HASH_FIRST:
                digest = packer.digest(index)
            else:
                path = self._stream(packer, index, taste, listener, stopped)
                digest = packer.digest(index)
                self._streamed[digest] = path
            self.state.put("sample", taste, str(digest))
            layers.append(blueprint.layer(digest))
            name = self._has.called(under or (), [layer.diff_id for layer in layers])
            if not unknown and name in self._has.stored([digest]):
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
        self._has.hold(packed.key, packed.layers, self._identity(image))
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
        if inside and (key := image.config.labels.get(CHECKPOINT_KEY)):
            self._has.hold(key, _layers(image, inside), self._identity(image))
        return Published(self._identity(image), loaded)

    def _deliver(
        self, image: Image, reference: Reference, tags: Sequence[str], packer: Packer | None, listener: Listener
    ) -> int:
        """Have *image* in Docker under *tags* of *reference*, and prove it; bytes beside the checkpoint's layers."""
        identity = str(self._identity(image))
        loaded = 0
        if self._has.whole(identity) is not None and self._has.image(identity) is not None:
            self.close()
            for tag in tags:
                self.engine.tag(identity, reference.familiar, tag)
        else:
            try:
                loaded = self._load(image, reference, tags, self._has.stored(image.config.diff_ids), packer, listener)
            except LocalResourceError:
                self.close()
                if packer is None:
                    raise
                # The store lacks a layer that we took to be there: give it all that we have.
                loaded = self._load(image, reference, tags, frozenset(), packer, listener)
            self._has.remember(identity, image)
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
        stored: frozenset[Name],
        packer: Packer | None,
        listener: Listener,
    ) -> int:
        """Finish the archive under way, or load one from its beginning; bytes beside the checkpoint's layers."""
        archive, self._archive = self._archive or Archive(self.engine.load()), None
        paths, self._streamed = self._streamed, {}
        numbers = {packer.digest(index): index for index in range(len(packer.blueprints))} if packer else {}
        place = "{}/layer.tar" if self._classic else "blobs/sha256/{}"
        try:
            for digest, name in zip(image.config.diff_ids, self._has.names(image), strict=True):
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
            if digest not in given and (upper := self._uppers.get(digest)) is not None:
                archive.file(path, upper)
        config = f"{image.config.digest.hex}.json"
        archive.file(config, image.config.raw)
        archive.file("manifest.json", json.dumps([{"Config": config, "RepoTags": names, "Layers": paths}]).encode())


def _placed(value: Any) -> tuple[int, str, int, int, str] | tuple[()]:
    """Where the placeholder is, whose it is, what disturbs it; nothing where there is none.

    An earlier layerkit, which did not look at what lies above the placeholder, wrote fewer.
    """
    if value == []:
        return ()
    index, folder, uid, gid, disturbed = value
    return int(index), as_text(folder), int(uid), int(gid), as_text(disturbed)


def _of_checkpoint(layer: Descriptor) -> bool:
    return layer.annotations.get(ROLE) == "checkpoint"


def _layers(image: Image, indices: Iterable[int]) -> tuple[Layer, ...]:
    layers, diff_ids, made = image.manifest.layers, image.config.diff_ids, image.created_by
    return tuple(Layer(replace(layers[i], annotations={}), diff_ids[i], made[i]) for i in indices)
