"""What a registry holds of ours: images under tags, runtime images and checkpoints under their keys."""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from ..assemble import Runtime
from ..errors import IntegrityError, RefusedError
from ..names import CACHE_TAG, checkpoint_tag, runtime_tag
from ..oci import Descriptor, Digest, Image, Index, Layer, Manifest, Platform
from ..planner import Present
from ..registry import MissingBlobsError, Repository
from ..runtime.placeholder import may_be_placeholder, placeholder_place
from ..state import State, as_text
from .base import NEAR, disturbance
from .sending import Beside

__all__ = ["HURT", "LAST", "Registered", "lost"]

LAST = "registry-last"  # kind of record: what was pushed last to a repository
# What garbage collection leaves behind: a manifest whose configuration is not there any more, or has no bytes.
HURT = (IntegrityError, MissingBlobsError)
# Bytes of one statement of an attestation, which is rewritten in memory. An SBOM of PyTorch and CUDA has some 10 MB.
_MOST_STATED = 128 * 1024 * 1024


class Registered:
    """Reads ``repository``, which has the images, and ``cache``, which has the runtime and checkpoint images.

    Attributes:
        checkpoints: by key, the checkpoint images that were found there, or put there.
    """

    def __init__(self, repository: Repository, cache: Repository, state: State) -> None:
        self._repository = repository
        self._cache = cache
        self._state = state
        self.checkpoints: dict[str, Manifest] = {}

    def look(self, runtime_keys: Mapping[str, str], checkpoint_key: str | None, tags: Sequence[str]) -> Present:
        """All that a plan asks for; see ``Destination.look``."""
        # Each of these is a handful of round trips that do not depend on each other.
        runtimes = {p: Beside(partial(self.whole_runtime, key, p)) for p, key in runtime_keys.items()}
        checkpoint = Beside(lambda: self.checkpoint(checkpoint_key) if checkpoint_key else None)
        named = {tag: Beside(partial(self.named, tag)) for tag in tags}
        cached = Beside(self._cached_blobs)
        resolved = {tag: answer.result() for tag, answer in named.items()}
        previous: dict[str, Image] = {}
        hurt: set[Digest] = set()
        for digest in dict.fromkeys(descriptor.digest for descriptor in resolved.values() if descriptor is not None):
            images, whole = self.images(digest)
            previous = previous or images
            hurt |= set() if whole else {digest}
        found = {p: runtime for p, answer in runtimes.items() if (runtime := answer.result()) is not None}
        layers = checkpoint.result()
        blobs = set(cached.result())
        if not previous:
            last = self._state.get(LAST, self._repository.name, Digest.parse)
            previous = self.images(last)[0] if last else {}
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
            min(filter(None, (self._repository.layer_limit, self._cache.layer_limit)), default=None),
        )

    def named(self, tag: str) -> Descriptor | None:
        """What *tag* names; None also where that cannot be read any more: it is put there again."""
        with contextlib.suppress(*HURT):
            return self._repository.resolve(tag)
        return None

    def _cached_blobs(self) -> frozenset[Digest]:
        """Layers that BuildKit's cache holds in this repository: what it imports from there it need not send."""
        with contextlib.suppress(IntegrityError):
            cached = self._cache.manifest(CACHE_TAG)
            if isinstance(cached, Manifest):
                return frozenset(layer.digest for layer in cached.layers)
            if isinstance(cached, Index):  # the older form of the cache: an index whose "manifests" are the blobs
                return frozenset(blob.digest for blob in cached.manifests)
        return frozenset()

    def images(self, digest: Digest) -> tuple[dict[str, Image], bool]:
        """platform -> image of what *digest* names, and whether all of it was there.

        The layers count where they are no layers of ``cache``, which are proven under their keys.
        """
        images: dict[str, Image] = {}
        whole = False
        with contextlib.suppress(*HURT):
            found = self._repository.manifest(digest)
            manifests: Sequence[Manifest | Index | None] = (found,)
            if isinstance(found, Index):
                manifests = [self._repository.manifest(d.digest) for d in found.images]
            for manifest in manifests:
                if isinstance(manifest, Manifest):
                    image = Image.of(manifest, self._repository.blob(manifest.config))
                    images[str(image.platform)] = image
            whole = None not in manifests and (
                self._repository.name == self._cache.name
                or not any(lost(self._repository, image.manifest.layers) for image in images.values())
            )
        return images, whole

    def whole_runtime(self, key: str, platform: str) -> Runtime | None:
        """The runtime image under *key* if all of its layers are really there (FAULTS 23).

        What is too large to be read is as good as not there: what comes of that, who builds it anew is told.
        """
        with contextlib.suppress(*HURT, _TooLargeError):
            runtime = self.runtime(key, platform)
            if runtime is not None and not lost(self._cache, runtime.image.manifest.layers):
                return runtime
        return None

    def runtime(self, key: str, platform: str) -> Runtime | None:
        """The runtime image under *key*, whether its layers are there or not; None where there is none.

        Raises:
            RefusedError: an attestation of it is too large to be read.
        """
        found = self._cache.manifest(runtime_tag(key))
        attestations: list[tuple[Manifest, Mapping[Digest, bytes]]] = []
        manifest = found
        if isinstance(found, Index):
            child = found.find(Platform.parse(platform))
            manifest = self._cache.manifest(child.digest) if child else None
            for other in found.manifests:
                if child and other.annotations.get("vnd.docker.reference.digest") == str(child.digest):
                    attestation = self._cache.manifest(other.digest)
                    if isinstance(attestation, Manifest):
                        parts = (attestation.config, *attestation.layers)
                        _check_sizes(parts, self._cache.name)
                        attestations.append((attestation, {d.digest: self._cache.blob(d, _MOST_STATED) for d in parts}))
        if not isinstance(manifest, Manifest):
            return None
        image = Image.of(manifest, self._cache.blob(manifest.config))
        for index, descriptor in enumerate(manifest.layers):
            if may_be_placeholder(descriptor) and (place := self._place(descriptor)):
                disturbed = disturbance(image, index, place[0], self._near, self._state)
                return Runtime(image, index, place, tuple(attestations), disturbed)
        return Runtime(image, None, None, tuple(attestations))

    def _near(self, layer: Descriptor) -> io.BytesIO | None:
        return io.BytesIO(self._cache.blob(layer)) if layer.size <= NEAR else None

    def _place(self, descriptor: Descriptor) -> tuple[str, int, int] | None:
        known = self._state.get("placeholder", str(descriptor.digest), _placed)
        if known is None:
            known = placeholder_place(self._cache.blob(descriptor)) or ()
            self._state.put("placeholder", str(descriptor.digest), known)
        return known or None

    def checkpoint(self, key: str) -> tuple[Layer, ...] | None:
        """The layers of the checkpoint under *key*, if all of them are really there."""
        with contextlib.suppress(*HURT):
            manifest = self._cache.manifest(checkpoint_tag(key))
            if not isinstance(manifest, Manifest) or lost(self._cache, manifest.layers):
                return None
            image = Image.of(manifest, self._cache.blob(manifest.config))
            self.checkpoints[key] = manifest
            return image.layers
        return None


def _placed(value: Any) -> tuple[str, int, int] | tuple[()]:
    """Folder and owner; nothing where the layer is no placeholder."""
    if value == []:
        return ()
    folder, uid, gid = value
    return as_text(folder), int(uid), int(gid)


def lost(repository: Repository, layers: Sequence[Descriptor]) -> tuple[Descriptor, ...]:
    """Those of *layers* that are not really there (FAULTS 23)."""
    left, lock = list(reversed(layers)), threading.Lock()
    gone: set[Digest] = set()

    def prove() -> None:
        while True:
            with lock:
                if not left:
                    return
                layer = left.pop()
            if not repository.present(layer):
                gone.add(layer.digest)

    for worker in [Beside(prove) for _ in layers[:4]]:
        worker.result()
    return tuple(layer for layer in layers if layer.digest in gone)


class _TooLargeError(RefusedError):
    """An attestation that cannot be made to follow its image."""


def _check_sizes(parts: Iterable[Descriptor], name: str) -> None:
    for part in parts:
        if part.size > _MOST_STATED:
            raise _TooLargeError(
                f"registry {name}: the runtime image has an attestation of {part.size} bytes, over {_MOST_STATED}",
                hint="leave it out of builder.attest",
            )
