"""A registry: everything is content-addressed in the image's own repository, or in a separate cache repository."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from ..assemble import Assembled, PackedCheckpoint, Runtime, checkpoint_image
from ..checkpoint import Blueprint, Packer
from ..checkpoint.elsewhere import RemoteBlueprint
from ..errors import ConflictError, IntegrityError, LayerkitError, RefusedError
from ..events import Listener
from ..names import CHECKPOINT_KEY, PLACEMENT, checkpoint_tag, runtime_tag
from ..oci import CREATED, MEDIA, Descriptor, Digest, Image, Index, Layer, Manifest
from ..planner import Present
from ..registry import Content, MissingBlobsError, Repository
from ..state import State
from .base import Output, Published, Sent
from .registered import HURT, LAST, Registered, lost
from .sending import LAYER_JOBS, Again, Sending

if TYPE_CHECKING:
    from ..engine import BakeResult

__all__ = ["LAYER_JOBS", "RegistryDestination"]


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
        self._registered = Registered(repository, cache, state)

    def describe(self) -> str:
        return f"registry {self.name}"

    # ------------------------------------------------------------------------------------------------- what is there

    def look(self, runtime_keys: Mapping[str, str], checkpoint_key: str | None, tags: Sequence[str]) -> Present:
        return self._registered.look(runtime_keys, checkpoint_key, tags)

    def checkpoint(self, key: str) -> tuple[Layer, ...] | None:
        return self._registered.checkpoint(key)

    # ------------------------------------------------------------------------------------------------- BuildKit's part

    def output(self, key: str) -> Output:
        return self._pushed([f"{self.cache.name}:{runtime_tag(key)}"], f"annotation.{CREATED}={_now()}")

    def finished(self, tags: Sequence[str]) -> Output:
        return self._pushed([f"{self.name}:{tag}" for tag in tags])

    def _pushed(self, names: Sequence[str], *more: str) -> Output:
        # Not into the local Docker as well, where it would take the name of what was built for that, and be unpacked.
        attributes = ["type=image", "push=true", "store=false", "oci-mediatypes=true", *more]
        attributes += ["registry.insecure=true"] if self._insecure else []
        return Output(tuple(names), (",".join(attributes),))

    def delivered(self, tags: Sequence[str], result: BakeResult, target: str) -> Mapping[str, Image]:
        digest = result.digest(target)
        self._prove(tags, digest)
        images = self._registered.images(digest)[0]
        for image in images.values():
            for layer in lost(self.repository, image.manifest.layers):
                self._heal(self.repository, layer)
        return images

    def built(self, platform: str, key: str, result: BakeResult, target: str) -> Runtime:
        runtime = self._registered.runtime(key, platform)
        if runtime is None:
            raise IntegrityError(
                f"registry {self.cache.name}: BuildKit pushed {runtime_tag(key)}, and it is not there",
                hint="does the builder reach the same registry under this name?",
            )
        for layer in lost(self.cache, runtime.image.manifest.layers):
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
            self._registered.checkpoints[packed.key] = image.manifest
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
                self._registered.checkpoints[key] = there
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
        self._prove(tags, assembled.digest)
        self._restore_checkpoint(assembled, contents)
        self.state.put(LAST, self.name, str(assembled.digest))
        return Published(assembled.digest, uploaded)

    def _prove(self, tags: Sequence[str], ours: Digest) -> None:
        """Have *tags* read back, once *ours* was put there: a result never tells a tag that names something else.

        Raises:
            ConflictError: somebody else's push came after it (FAULTS 26).
            IntegrityError: it is not there.
        """
        for tag in tags:
            now = self.repository.resolve(tag)
            if now is None:
                raise IntegrityError(
                    f"registry {self.name}: tag {tag!r} names nothing after {ours.short} was put there",
                    hint="does the builder reach the same registry under this name? Was it deleted? Build again",
                )
            if now.digest != ours:
                raise ConflictError(
                    f"registry {self.name}: tag {tag!r} names {now.digest.short}, which somebody else pushed just"
                    f" after our {ours.short}; it was left there",
                    hint="build again if yours is the newer one",
                )

    def close(self) -> None:
        pass

    def _move(
        self, assembled: Assembled, tags: Sequence[str], present: Present, contents: Mapping[Digest, Content]
    ) -> int:
        """Have *tags* name the image: none of them where another push has moved one. Bytes uploaded."""
        ours, moving = assembled.digest, []
        for tag in tags:
            now, before = self._registered.named(tag), present.tags.get(tag)
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
            manifest = self._registered.checkpoints.get(key := image.config.labels.get(CHECKPOINT_KEY, ""))
            mounted = image.config.labels.get(PLACEMENT) == "artifact"
            if mounted and manifest is not None and not self._kept(key):
                self._put_manifest(self.cache, manifest, checkpoint_tag(key), contents)

    def _kept(self, key: str) -> bool:
        with contextlib.suppress(*HURT):
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
