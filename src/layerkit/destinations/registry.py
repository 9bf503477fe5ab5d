"""A registry: everything is content-addressed in the image's own repository, or in a separate cache repository."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from ..assemble import PREFIX, Assembled, PackedCheckpoint, Runtime, checkpoint_image
from ..checkpoint import Blueprint, Packer
from ..checkpoint.elsewhere import RemoteBlueprint
from ..errors import ConflictError, IntegrityError, LayerkitError, RefusedError
from ..events import Listener
from ..oci import CREATED, MEDIA, Config, Descriptor, Digest, Image, Index, Layer, Manifest, Platform
from ..planner import Present
from ..registry import Content, MissingBlobsError, Repository
from ..runtime.placeholder import may_be_placeholder, placeholder_place
from ..state import State
from .base import Output, Published, Sent, checkpoint_tag, disturbance, runtime_tag
from .sending import LAYER_JOBS, Again, Beside, Sending

if TYPE_CHECKING:
    from ..engine import BakeResult

__all__ = ["LAYER_JOBS", "RegistryDestination"]


CACHE_TAG = "buildcache"
# What garbage collection leaves behind: a manifest whose configuration is not there any more, or has no bytes.
_HURT = (IntegrityError, MissingBlobsError)
# Bytes of one statement of an attestation, which is rewritten in memory. An SBOM of PyTorch and CUDA has some 10 MB.
_MOST_STATED = 128 * 1024 * 1024
_SMALL = 1024 * 1024  # bytes that are sent by one request


class RegistryDestination:
    """``repository`` takes the image; ``cache`` keeps runtime and checkpoint images (the same, by default).

    ``origins``: repositories of the bases, that their layers may be copied from.
    """

    kind = "registry"

    def __init__(
        self,
        repository: Repository,
        cache: Repository,
        state: State,
        *,
        insecure: bool = False,
        layer_jobs: int = LAYER_JOBS,
        origins: Callable[[], Sequence[Repository]] = tuple,
    ) -> None:
        self.repository = repository
        self.cache = cache
        self.state = state
        self.name = repository.name
        self._insecure = insecure
        self._layer_jobs = max(layer_jobs, 1)
        self._origins = origins
        self._checkpoints: dict[str, Manifest] = {}  # by key: found there, or put there

    def describe(self) -> str:
        return f"registry {self.name}"

    # ------------------------------------------------------------------------------------------------- what is there

    def look(self, runtime_keys: Mapping[str, str], checkpoint_key: str | None, tags: Sequence[str]) -> Present:
        # Each of these is a handful of round trips that do not depend on each other.
        runtimes = {p: Beside(partial(self._whole_runtime, key, p)) for p, key in runtime_keys.items()}
        checkpoint = Beside(lambda: self.checkpoint(checkpoint_key) if checkpoint_key else None)
        named = {tag: Beside(partial(self._named, tag)) for tag in tags}
        cached = Beside(self._cached_blobs)
        resolved = {tag: answer.result() for tag, answer in named.items()}
        previous: dict[str, Image] = {}
        hurt: set[Digest] = set()
        for digest in dict.fromkeys(descriptor.digest for descriptor in resolved.values() if descriptor is not None):
            images, whole = self._images(digest)
            previous = previous or images
            hurt |= set() if whole else {digest}
        found = {p: runtime for p, answer in runtimes.items() if (runtime := answer.result()) is not None}
        layers = checkpoint.result()
        blobs = set(cached.result())
        if not previous:
            last = self.state.get("registry-last", self.name)
            previous = self._images(Digest.parse(last))[0] if last else {}
        for image in (*previous.values(), *(runtime.image for runtime in found.values())):
            blobs |= {layer.digest for layer in image.manifest.layers}
        blobs |= {layer.descriptor.digest for layer in layers or ()}
        return Present(
            found,
            layers,
            {tag: descriptor.digest if descriptor else None for tag, descriptor in resolved.items()},
            previous,
            frozenset(blobs),
            frozenset(hurt),
            min(filter(None, (self.repository.layer_limit, self.cache.layer_limit)), default=None),
        )

    def _named(self, tag: str) -> Descriptor | None:
        """What *tag* names; None also where that cannot be read any more: it is put there again."""
        with contextlib.suppress(*_HURT):
            return self.repository.resolve(tag)
        return None

    def _cached_blobs(self) -> frozenset[Digest]:
        """Layers that BuildKit's cache holds in this repository: what it imports from there it need not send."""
        with contextlib.suppress(IntegrityError):
            cached = self.cache.manifest(CACHE_TAG)
            if isinstance(cached, Manifest):
                return frozenset(layer.digest for layer in cached.layers)
            if isinstance(cached, Index):  # the older form of the cache: an index whose "manifests" are the blobs
                return frozenset(blob.digest for blob in cached.manifests)
        return frozenset()

    def _images(self, digest: Digest) -> tuple[dict[str, Image], bool]:
        """platform -> image of what *digest* names, and whether all of it was there.

        The layers count where they are no layers of ``cache``, which are proven under their keys.
        """
        images: dict[str, Image] = {}
        whole = False
        with contextlib.suppress(*_HURT):
            found = self.repository.manifest(digest)
            manifests: Sequence[Manifest | Index | None] = (found,)
            if isinstance(found, Index):
                manifests = [
                    self.repository.manifest(d.digest)
                    for d in found.manifests
                    if d.platform and d.platform.os != "unknown"
                ]
            for manifest in manifests:
                if isinstance(manifest, Manifest):
                    image = Image(
                        manifest, Config.parse(self.repository.blob(manifest.config), manifest.config.media_type)
                    )
                    images[str(image.platform)] = image
            whole = None not in manifests and (
                self.repository.name == self.cache.name
                or not any(self._lost(self.repository, image.manifest.layers) for image in images.values())
            )
        return images, whole

    def _whole_runtime(self, key: str, platform: str) -> Runtime | None:
        """The runtime image under *key* if all of its layers are really there (FAULTS 23).

        What is too large to be read is as good as not there: what comes of that, who builds it anew is told.
        """
        with contextlib.suppress(*_HURT, _TooLargeError):
            runtime = self._runtime(key, platform)
            if runtime is not None and not self._lost(self.cache, runtime.image.manifest.layers):
                return runtime
        return None

    def _runtime(self, key: str, platform: str) -> Runtime | None:
        found = self.cache.manifest(runtime_tag(key))
        attestations: list[tuple[Manifest, Mapping[Digest, bytes]]] = []
        manifest = found
        if isinstance(found, Index):
            child = found.find(Platform.parse(platform))
            manifest = self.cache.manifest(child.digest) if child else None
            for other in found.manifests:
                if child and other.annotations.get("vnd.docker.reference.digest") == str(child.digest):
                    attestation = self.cache.manifest(other.digest)
                    if isinstance(attestation, Manifest):
                        parts = (attestation.config, *attestation.layers)
                        _check_sizes(parts, self.cache.name)
                        attestations.append((attestation, {d.digest: self.cache.blob(d, _MOST_STATED) for d in parts}))
        if not isinstance(manifest, Manifest):
            return None
        image = Image(manifest, Config.parse(self.cache.blob(manifest.config), manifest.config.media_type))
        for index, descriptor in enumerate(manifest.layers):
            if may_be_placeholder(descriptor) and (place := self._place(descriptor)):
                disturbed = disturbance(image, index, place[0], self.cache.blob, self.state)
                return Runtime(image, index, place, tuple(attestations), disturbed)
        return Runtime(image, None, None, tuple(attestations))

    def _place(self, descriptor: Descriptor) -> tuple[str, int, int] | None:
        known = self.state.get("placeholder", str(descriptor.digest))
        if known is None:
            known = placeholder_place(self.cache.blob(descriptor)) or False
            self.state.put("placeholder", str(descriptor.digest), known)
        return (str(known[0]), int(known[1]), int(known[2])) if known else None

    def _lost(self, repository: Repository, layers: Sequence[Descriptor]) -> tuple[Descriptor, ...]:
        """Those of *layers* that are not really there (FAULTS 23)."""
        left, lock = list(reversed(layers)), threading.Lock()
        lost: set[Digest] = set()

        def prove() -> None:
            while True:
                with lock:
                    if not left:
                        return
                    layer = left.pop()
                if not repository.present(layer):
                    lost.add(layer.digest)

        for worker in [Beside(prove) for _ in layers[:4]]:
            worker.result()
        return tuple(layer for layer in layers if layer.digest in lost)

    def checkpoint(self, key: str) -> tuple[Layer, ...] | None:
        with contextlib.suppress(*_HURT):
            manifest = self.cache.manifest(checkpoint_tag(key))
            if not isinstance(manifest, Manifest) or self._lost(self.cache, manifest.layers):
                return None
            image = Image(manifest, Config.parse(self.cache.blob(manifest.config)))
            self._checkpoints[key] = manifest
            rows = zip(manifest.layers, image.config.diff_ids, image.created_by, strict=True)
            return tuple(Layer(descriptor, diff_id, made) for descriptor, diff_id, made in rows)
        return None

    # ------------------------------------------------------------------------------------------------- BuildKit's part

    def output(self, key: str) -> Output:
        return self._pushed([f"{self.cache.name}:{runtime_tag(key)}"], f"annotation.{CREATED}={_now()}")

    def finished(self, tags: Sequence[str]) -> Output:
        return self._pushed([f"{self.name}:{tag}" for tag in tags])

    def _pushed(self, names: Sequence[str], *more: str) -> Output:
        attributes = ["type=image", "push=true", "oci-mediatypes=true", *more]
        attributes += ["registry.insecure=true"] if self._insecure else []
        return Output(tuple(names), (",".join(attributes),))

    def delivered(self, tags: Sequence[str]) -> Mapping[str, Image]:
        named = self._named(tags[0])
        images = self._images(named.digest)[0] if named is not None else {}
        for image in images.values():
            for layer in self._lost(self.repository, image.manifest.layers):
                self._heal(self.repository, layer)
        return images

    def built(self, platform: str, key: str, result: BakeResult, target: str) -> Runtime:
        runtime = self._runtime(key, platform)
        if runtime is None:
            raise IntegrityError(
                f"registry {self.cache.name}: BuildKit pushed {runtime_tag(key)}, and it is not there",
                hint="does the builder reach the same registry under this name?",
            )
        for layer in self._lost(self.cache, runtime.image.manifest.layers):
            self._heal(self.cache, layer)
        return runtime

    def _heal(self, repository: Repository, layer: Descriptor) -> None:
        """A layer that BuildKit did not send, for HEAD said that it is there: a base's is copied from the base."""
        for origin in self._origins():
            there = False
            with contextlib.suppress(LayerkitError):  # it need not be a registry's, nor ours to read
                there = origin.present(layer)
            if there:
                repository.upload(_Copied(origin, layer))
                if repository.present(layer):
                    return
        raise IntegrityError(
            f"registry {repository.name}: says that it has layer {layer.digest.short}, so that BuildKit did not send"
            " it, and does not give it: its bytes are gone",
            hint="have the registry forget what it lost (restart it, clear its cache); or build with --no-cache,"
            " which makes new layers of what RUN does",
        )

    # ------------------------------------------------------------------------------------------------- the checkpoint

    def send(self, packer: Packer, listener: Listener, stopped: Callable[[], bool]) -> Sent:
        mounted = frozenset(index for index, layer in enumerate(packer.blueprints) if self._mount(layer))
        return Sending(self.cache, self.state, packer, listener, self._layer_jobs, mounted).run(stopped)

    def _mount(self, layer: Blueprint) -> bool:
        """Take over a layer that another repository of this registry has, unless it is here."""
        if not isinstance(layer, RemoteBlueprint) or layer.known is None or layer.host != self.cache.host:
            return False
        if layer.repository == self.cache.repository or self.cache.exists(layer.known, layer.size):
            return False
        # A mount is believed no more than a HEAD: the bytes may be gone (FAULTS 23).
        stored = Descriptor(MEDIA.LAYER, layer.known, layer.size)
        return self.cache.mount(layer.known, layer.repository) and self.cache.present(stored)

    def keep_checkpoint(self, packed: PackedCheckpoint, packer: Packer | None) -> int:
        image = checkpoint_image(packed, _now())
        sent = self._put_config(self.cache, image)
        if self._has_checkpoint(image, packed.key):
            return sent
        try:
            self._put_manifest(self.cache, image.manifest, checkpoint_tag(packed.key), _contents([image], packer))
            self._checkpoints[packed.key] = image.manifest
        except RefusedError:
            # Where tags are immutable another build may have been first.
            if not self._has_checkpoint(image, packed.key):
                raise
        return sent + len(image.manifest.raw)

    def _has_checkpoint(self, image: Image, key: str) -> bool:
        """Whether *image* is there, the same but for its date. Put there again it would leave a manifest without a tag,
        which keeps the layers where a registry's garbage collection is not told otherwise."""
        ours = image.manifest
        with contextlib.suppress(IntegrityError):  # what is damaged is put there anew
            there = self.cache.manifest(checkpoint_tag(key))
            if isinstance(there, Manifest) and (there.config, there.layers) == (ours.config, ours.layers):
                self._checkpoints[key] = there
                return True
        return False

    # ------------------------------------------------------------------------------------------------- the image

    def identity(self, assembled: Assembled) -> Digest:
        return assembled.digest

    def publish(
        self, assembled: Assembled, tags: Sequence[str], present: Present, packer: Packer | None, listener: Listener
    ) -> Published:
        uploaded = 0
        contents = _contents(assembled.images.values(), packer)
        for image in assembled.images.values():
            uploaded += self._bring(image.manifest.layers)
            uploaded += self._put_config(self.repository, image)
        for manifest, blobs in assembled.attestations:
            for digest in (manifest.config.digest, *(layer.digest for layer in manifest.layers)):
                uploaded += self._put_blob(self.repository, digest, blobs[digest])
        if isinstance(assembled.root, Index):
            for manifest in assembled.manifests:
                self._put_manifest(self.repository, manifest, None, contents)
                uploaded += len(manifest.raw)
        uploaded += self._move(assembled, tags, present, contents)
        for tag in tags:
            now = self.repository.resolve(tag)
            if now is None or now.digest != assembled.digest:
                raise IntegrityError(
                    f"registry {self.name}: tag {tag!r} names {now.digest.short if now else 'nothing'}"
                    f" after {assembled.digest.short} was put there",
                    hint="somebody else may push the same tag; build again",
                )
        self._restore_checkpoint(assembled, contents)
        self.state.put("registry-last", self.name, str(assembled.digest))
        return Published(assembled.digest, uploaded)

    def close(self) -> None:
        pass

    def _move(
        self, assembled: Assembled, tags: Sequence[str], present: Present, contents: Mapping[Digest, Content]
    ) -> int:
        """Have *tags* name the image: none of them where another push has moved one. Bytes uploaded."""
        ours, moving = assembled.digest, []
        for tag in tags:
            now, before = self._named(tag), present.tags.get(tag)
            if now is not None and now.digest not in (before, ours):
                raise ConflictError(
                    f"registry {self.name}: tag {tag!r} moved from {before.short if before else 'nothing'} to"
                    f" {now.digest.short} while this build ran; it was left there. Ours is {ours.short}",
                    hint="build again if yours is the newer one",
                )
            if now is None or now.digest != ours or ours in present.hurt:
                moving.append(tag)
        for number, tag in enumerate(moving):
            try:
                self._put_manifest(self.repository, assembled.root, tag, contents)
            except LayerkitError as error:
                if number:
                    error.message += f"; before that {', '.join(moving[:number])} moved to {ours.short}"
                raise
        return len(assembled.root.raw) * len(moving)

    def _restore_checkpoint(self, assembled: Assembled, contents: Mapping[Digest, Content]) -> None:
        """The checkpoint image that is to be mounted: a ``layerkit prune`` may have deleted it meanwhile.

        Before our tag was there it looked unused; a later one sees the tag (pruning/sweep.py looks again in the end).
        """
        for image in assembled.images.values():
            manifest = self._checkpoints.get(key := image.config.labels.get(PREFIX + "checkpoint", ""))
            mounted = image.config.labels.get(PREFIX + "placement") == "artifact"
            if mounted and manifest is not None and not self._kept(key):
                self._put_manifest(self.cache, manifest, checkpoint_tag(key), contents)

    def _kept(self, key: str) -> bool:
        with contextlib.suppress(*_HURT):
            return self.cache.resolve(checkpoint_tag(key)) is not None
        return False

    def _bring(self, layers: Sequence[Descriptor]) -> int:
        """Layers of the cache repository into the image's own: mounted, or copied where nothing can be mounted.

        Returns:
            bytes that were copied.
        """
        if self.repository.name == self.cache.name:
            return 0
        copied, near = 0, self.repository.host == self.cache.host
        for layer in layers:
            if self.repository.present(layer):
                continue
            if near and self.repository.mount(layer.digest, self.cache.repository) and self.repository.present(layer):
                continue
            self.repository.upload(_Copied(self.cache, layer))
            copied += layer.size
        return copied

    def _put_manifest(
        self, repository: Repository, manifest: Manifest | Index, tag: str | None, contents: Mapping[Digest, Content]
    ) -> None:
        """Push *manifest*; blobs of ours that the registry lacks after all are sent once more (FAULTS 24)."""
        try:
            repository.put_manifest(manifest, tag)
        except MissingBlobsError as error:
            missing = error.digests or tuple(contents)
            if not missing or any(digest not in contents for digest in missing):
                raise
            for digest in missing:
                repository.upload(contents[digest])
            repository.put_manifest(manifest, tag)

    def _put_config(self, repository: Repository, image: Image) -> int:
        return self._put_blob(repository, image.config.digest, image.config.raw)

    def _put_blob(self, repository: Repository, digest: Digest, raw: bytes) -> int:
        if repository.present(Descriptor(MEDIA.CONFIG, digest, len(raw))):  # HEAD alone may lie (FAULTS 23)
            return 0
        if len(raw) > _SMALL:
            repository.upload(Again.of(raw))
        else:
            repository.put_blob(raw, anew=True)
        return len(raw)


class _TooLargeError(RefusedError):
    """An attestation that cannot be made to follow its image."""


def _check_sizes(parts: Iterable[Descriptor], name: str) -> None:
    for part in parts:
        if part.size > _MOST_STATED:
            raise _TooLargeError(
                f"registry {name}: the runtime image has an attestation of {part.size} bytes, over {_MOST_STATED}",
                hint="leave it out of builder.attest",
            )


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _contents(images: Iterable[Image], packer: Packer | None) -> dict[Digest, Content]:
    """What this run can send again: the checkpoint's layers that it has read, and the configurations."""
    contents: dict[Digest, Content] = {}
    for image in images:
        contents[image.config.digest] = Again.of(image.config.raw)
    for index in range(len(packer.blueprints) if packer else 0):
        if packer and (digest := packer.known(index)) is not None:
            layer = packer.content(index)
            contents[digest] = Again(digest, layer.size, layer.open)
    return contents


class _Copied:
    """A blob of another repository, as content to upload."""

    def __init__(self, source: Repository, descriptor: Descriptor) -> None:
        self.size = descriptor.size
        self._source = source
        self._descriptor = descriptor

    def open(self, offset: int = 0) -> Iterator[bytes]:
        skip = offset
        with self._source.open_blob(self._descriptor) as chunks:
            for chunk in chunks:
                if skip < len(chunk):
                    yield chunk[skip:]
                skip = max(skip - len(chunk), 0)

    def digest(self) -> Digest:
        return self._descriptor.digest

    def cancelled(self) -> bool:
        return False
