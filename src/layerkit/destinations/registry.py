"""A registry: everything is content-addressed in the image's own repository, or in a separate cache repository."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

from ..assemble import Assembled, Runtime, checkpoint_image
from ..checkpoint import Blueprint, Ownership, Packer
from ..checkpoint.pack import FORMAT_VERSION
from ..engine import BakeResult
from ..errors import ConflictError, IntegrityError
from ..events import Listener, Note, Transfer
from ..oci import MEDIA, Config, Descriptor, Digest, Image, Index, Layer, Manifest, Platform
from ..planner import Present
from ..registry import Repository, Standing, UploadDropped
from ..runtime.placeholder import may_be_placeholder, placeholder_place
from ..state import State
from .base import Output, Published, Sent, Stopped, checkpoint_tag, runtime_tag

__all__ = ["LAYER_JOBS", "RegistryDestination"]

T = TypeVar("T")

# A layer below this is hashed before it is sent: that takes under 0.1 s, and saves an upload for nothing.
_HASH_FIRST = 64 * 1024 * 1024  # bytes
_SAMPLES, _SAMPLE_SIZE = 16, 4096
_UPLOAD = "upload"  # kind of record
_SESSION_LIFE = 6 * 24 * 3600  # seconds; distribution purges uploads after a week
_LOCK_PAUSE = 0.1  # seconds between two looks at a lock
CACHE_TAG = "buildcache"
LAYER_JOBS = 4  # uploads at a time: docs/reliability.md, "How many at a time"


class RegistryDestination:
    """``repository`` takes the image; ``cache`` keeps runtime and checkpoint images (the same, by default)."""

    kind = "registry"

    def __init__(
        self,
        repository: Repository,
        cache: Repository,
        state: State,
        *,
        insecure: bool = False,
        layer_jobs: int = LAYER_JOBS,
    ) -> None:
        self.repository = repository
        self.cache = cache
        self.state = state
        self.name = repository.name
        self._insecure = insecure
        self._layer_jobs = max(layer_jobs, 1)

    def describe(self) -> str:
        return f"registry {self.name}"

    # ------------------------------------------------------------------------------------------------- what is there

    def look(self, runtime_keys: Mapping[str, str], checkpoint_key: str | None, tags: Sequence[str]) -> Present:
        # Each of these is a handful of round trips that do not depend on each other.
        runtimes = {p: _Beside(partial(self._runtime, key, p, check=True)) for p, key in runtime_keys.items()}
        checkpoint = _Beside(lambda: self.checkpoint(checkpoint_key) if checkpoint_key else None)
        named = {tag: _Beside(partial(self.repository.resolve, tag)) for tag in tags}
        cached = _Beside(self._cached_blobs)
        resolved = {tag: answer.result() for tag, answer in named.items()}
        previous: dict[str, Image] = {}
        for descriptor in resolved.values():
            if descriptor is not None and not previous:
                previous = self._images(descriptor.digest)
        found = {p: runtime for p, answer in runtimes.items() if (runtime := answer.result()) is not None}
        layers = checkpoint.result()
        blobs = set(cached.result())
        if not previous:
            last = self.state.get("registry-last", self.name)
            previous = self._images(Digest.parse(last)) if last else {}
        for image in (*previous.values(), *(runtime.image for runtime in found.values())):
            blobs |= {layer.digest for layer in image.manifest.layers}
        blobs |= {layer.descriptor.digest for layer in layers or ()}
        return Present(
            found,
            layers,
            {tag: descriptor.digest if descriptor else None for tag, descriptor in resolved.items()},
            previous,
            frozenset(blobs),
        )

    def _cached_blobs(self) -> frozenset[Digest]:
        """Layers that BuildKit's cache holds in this repository: what it imports from there it need not send."""
        with contextlib.suppress(IntegrityError):
            cached = self.cache.manifest(CACHE_TAG)
            if isinstance(cached, Manifest):
                return frozenset(layer.digest for layer in cached.layers)
            if isinstance(cached, Index):  # the older form of the cache: an index whose "manifests" are the blobs
                return frozenset(blob.digest for blob in cached.manifests)
        return frozenset()

    def _images(self, digest: Digest) -> dict[str, Image]:
        """platform -> image of what *digest* names; nothing where it cannot be read as images."""
        images: dict[str, Image] = {}
        with contextlib.suppress(IntegrityError):
            found = self.repository.manifest(digest)
            manifests: Iterable[Manifest | Index | None] = (found,)
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
        return images

    def _runtime(self, key: str, platform: str, *, check: bool) -> Runtime | None:
        """The runtime image under *key*; with *check* only if all of its layers are really there (FAULTS 23)."""
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
                        attestations.append((attestation, {d.digest: self.cache.blob(d) for d in parts}))
        if not isinstance(manifest, Manifest):
            return None
        if check and not self._all_present(self.cache, manifest.layers):
            return None
        image = Image(manifest, Config.parse(self.cache.blob(manifest.config), manifest.config.media_type))
        for index, descriptor in enumerate(manifest.layers):
            if may_be_placeholder(descriptor) and (place := self._place(descriptor)):
                return Runtime(image, index, place, tuple(attestations))
        return Runtime(image, None, None, tuple(attestations))

    def _place(self, descriptor: Descriptor) -> tuple[str, int, int] | None:
        known = self.state.get("placeholder", str(descriptor.digest))
        if known is None:
            known = placeholder_place(self.cache.blob(descriptor)) or False
            self.state.put("placeholder", str(descriptor.digest), known)
        return (str(known[0]), int(known[1]), int(known[2])) if known else None

    def _all_present(self, repository: Repository, layers: Sequence[Descriptor]) -> bool:
        left, lock = list(reversed(layers)), threading.Lock()

        def prove() -> bool:
            while True:
                with lock:
                    if not left:
                        return True
                    layer = left.pop()
                if not repository.present(layer):
                    return False

        return all(worker.result() for worker in [_Beside(prove) for _ in layers[:4]])

    def checkpoint(self, key: str) -> tuple[Layer, ...] | None:
        manifest = self.cache.manifest(checkpoint_tag(key))
        if not isinstance(manifest, Manifest) or not self._all_present(self.cache, manifest.layers):
            return None
        image = Image(manifest, Config.parse(self.cache.blob(manifest.config)))
        rows = zip(manifest.layers, image.config.diff_ids, image.created_by, strict=True)
        return tuple(Layer(descriptor, diff_id, made) for descriptor, diff_id, made in rows)

    # ------------------------------------------------------------------------------------------------- BuildKit's part

    def output(self, key: str) -> Output:
        return self._pushed([f"{self.cache.name}:{runtime_tag(key)}"])

    def finished(self, tags: Sequence[str]) -> Output:
        return self._pushed([f"{self.name}:{tag}" for tag in tags])

    def _pushed(self, names: Sequence[str]) -> Output:
        attributes = ["type=image", "push=true", "oci-mediatypes=true"]
        attributes += ["registry.insecure=true"] if self._insecure else []
        return Output(tuple(names), (",".join(attributes),))

    def delivered(self, tags: Sequence[str]) -> None:
        pass

    def built(self, platform: str, key: str, result: BakeResult, target: str) -> Runtime:
        runtime = self._runtime(key, platform, check=False)
        if runtime is None:
            raise IntegrityError(
                f"registry {self.cache.name}: BuildKit pushed {runtime_tag(key)}, and it is not there",
                hint="does the builder reach the same registry under this name?",
            )
        return runtime

    # ------------------------------------------------------------------------------------------------- the checkpoint

    def send(self, packer: Packer, listener: Listener, stopped: Callable[[], bool]) -> Sent:
        self._forget_old_sessions()
        found: dict[int, _Outcome] = {}
        left, lock, failed = list(reversed(range(len(packer.blueprints)))), threading.Lock(), threading.Event()

        def work() -> None:
            try:
                while True:
                    with lock:
                        if not left:
                            return
                        index = left.pop()
                    found[index] = self._send_layer(packer, index, listener, lambda: stopped() or failed.is_set())
            except BaseException:
                failed.set()
                raise

        # One after the other in the order in which they are hashed; the hash is ahead of the line, if not of the disk.
        workers = [_Beside(work) for _ in packer.blueprints[: self._layer_jobs]]
        errors = [error for worker in workers if (error := worker.wait()) is not None]
        # What failed first has stopped the others.
        for error in sorted(errors, key=lambda error: isinstance(error, Stopped)):
            raise error
        outcomes = [found[index] for index in sorted(found)]
        return Sent(
            tuple(outcome.layer for outcome in outcomes),
            sum(outcome.layer.descriptor.size for outcome in outcomes if not outcome.there),
            sum(outcome.layer.descriptor.size for outcome in outcomes if outcome.there),
            sum(outcome.dropped for outcome in outcomes),
            frozenset(outcome.layer.descriptor.digest for outcome in outcomes if not outcome.there),
        )

    def _send_layer(self, packer: Packer, index: int, listener: Listener, stopped: Callable[[], bool]) -> _Outcome:
        blueprint = packer.blueprints[index]
        label = blueprint.files[0].path if len(blueprint.files) == 1 else f"{len(blueprint.files)} files"
        sample = _sample(blueprint)
        transfer = _Upload(self.cache, packer, index, label, listener, stopped)
        told = False

        def wait() -> None:
            nonlocal told
            if stopped():
                raise Stopped
            if not told:
                listener(Note(f"{label}: another build on this machine sends it; waiting for that"))
                told = True
            time.sleep(_LOCK_PAUSE)

        dropped = 0
        with self.state.alone(f"{self.cache.name} {sample}", wait) as waited:
            if waited or blueprint.size < _HASH_FIRST or self.state.get("sample", sample):
                packer.digest(index)
            there = transfer.cancelled()
            try:
                if not there:
                    journal = _Journal(self.state, self.cache.name, blueprint)
                    self.cache.upload(transfer, progress=transfer.progress, journal=journal)
            except UploadDropped:
                there = True
                dropped = transfer.done
            digest = packer.digest(index)
            self.state.put("sample", sample, str(digest))
        listener(Transfer(transfer.id, label, blueprint.size, blueprint.size, "dropped" if there else "finished"))
        return _Outcome(blueprint.layer(digest), there, dropped)

    def _forget_old_sessions(self) -> None:
        for key, value in self.state.all(_UPLOAD).items():
            if not isinstance(value, dict) or not _recent(value.get("time")):
                self.state.drop(_UPLOAD, key)

    def keep_checkpoint(
        self, layers: Sequence[Layer], key: str, content: Digest, ownership: Ownership, packer: Packer | None
    ) -> int:
        image = checkpoint_image(layers, key, content, ownership)
        sent = self._put_config(self.cache, image)
        self.cache.put_manifest(image.manifest, checkpoint_tag(key))
        return sent + len(image.manifest.raw)

    # ------------------------------------------------------------------------------------------------- the image

    def identity(self, assembled: Assembled) -> Digest:
        return assembled.digest

    def publish(
        self, assembled: Assembled, tags: Sequence[str], present: Present, packer: Packer | None, listener: Listener
    ) -> Published:
        uploaded = 0
        for image in assembled.images.values():
            self._bring(image.manifest.layers)
            uploaded += self._put_config(self.repository, image)
        for manifest, blobs in assembled.attestations:
            for digest in (manifest.config.digest, *(layer.digest for layer in manifest.layers)):
                uploaded += self._put_blob(self.repository, digest, blobs[digest])
        if isinstance(assembled.root, Index):
            for manifest in assembled.manifests:
                self.repository.put_manifest(manifest, None)
                uploaded += len(manifest.raw)
        for tag in tags:
            now = self.repository.resolve(tag)
            before, ours = present.tags.get(tag), assembled.digest
            if now is not None and now.digest not in (before, ours):
                raise ConflictError(
                    f"registry {self.name}: tag {tag!r} moved from {before.short if before else 'nothing'} to"
                    f" {now.digest.short} while this build ran; it was left there. Ours is {ours.short}",
                    hint="build again if yours is the newer one",
                )
            if now is None or now.digest != ours:
                self.repository.put_manifest(assembled.root, tag)
                uploaded += len(assembled.root.raw)
        for tag in tags:
            now = self.repository.resolve(tag)
            if now is None or now.digest != assembled.digest:
                raise IntegrityError(
                    f"registry {self.name}: tag {tag!r} names {now.digest.short if now else 'nothing'}"
                    f" after {assembled.digest.short} was put there",
                    hint="somebody else may push the same tag; build again",
                )
        self.state.put("registry-last", self.name, str(assembled.digest))
        return Published(assembled.digest, uploaded)

    def _bring(self, layers: Sequence[Descriptor]) -> None:
        """Layers of the cache repository into the image's own: mounted, or copied where nothing can be mounted."""
        if self.repository.name == self.cache.name:
            return
        for layer in layers:
            if not self.repository.exists(layer.digest) and not self.repository.mount(
                layer.digest, self.cache.name.partition("/")[2]
            ):
                self.repository.upload(_Copied(self.cache, layer))

    def _put_config(self, repository: Repository, image: Image) -> int:
        return self._put_blob(repository, image.config.digest, image.config.raw)

    def _put_blob(self, repository: Repository, digest: Digest, raw: bytes) -> int:
        if repository.exists(digest):
            return 0
        repository.put_blob(raw)
        return len(raw)


class _Upload:
    """A layer as the registry client wants it: size, bytes from any offset, and a digest that comes later."""

    def __init__(
        self,
        repository: Repository,
        packer: Packer,
        index: int,
        label: str,
        listener: Listener,
        stopped: Callable[[], bool],
    ) -> None:
        self.size = packer.blueprints[index].size
        self.id = f"checkpoint-{index}"
        self.done = 0
        self._repository = repository
        self._packer = packer
        self._index = index
        self._label = label
        self._listener = listener
        self._stopped = stopped
        self._asked: bool | None = None

    def open(self, offset: int = 0) -> Iterator[memoryview]:
        return self._packer.blueprints[self._index].open(offset)

    def digest(self) -> Digest:
        return self._packer.digest(self._index)

    def cancelled(self) -> bool:
        """The layer turned out to be there, or cannot be hashed; asked between chunks.

        Raises:
            Stopped: the run was stopped. The upload is left as it stands, for the next one.
        """
        if self._stopped():
            raise Stopped
        if self._packer.failed:
            return True
        if self._asked is None and (digest := self._packer.known(self._index)) is not None:
            self._asked = self._repository.present(Descriptor(MEDIA.LAYER, digest, self.size))
        return bool(self._asked)

    def progress(self, done: int) -> None:
        note = "starting again" if done < self.done else ""
        self.done = done
        self._listener(Transfer(self.id, self._label, done, self.size, note=note))


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


class _Journal:
    """Where the upload of one layer stands, in the state folder.

    A layer is known again by the identities of its files (device, inode, size, times), the rest of its tar and
    the repository that it goes to: a file that was written to since gets another key, and is never gone on with.
    """

    def __init__(self, state: State, repository: str, blueprint: Blueprint) -> None:
        self._state = state
        whole = hashlib.sha256(f"{repository} {FORMAT_VERSION} {blueprint.size}".encode())
        for piece in blueprint.pieces:
            whole.update(piece.data or f"{piece.start} {piece.size} {piece.file and piece.file.identity}".encode())
        self._key = whole.hexdigest()

    def load(self) -> Standing | None:
        value = self._state.get(_UPLOAD, self._key)
        try:
            if _recent(value["time"]):
                return Standing(str(value["url"]), int(value["held"]), int(value["least_chunk"]))
        except (TypeError, KeyError, ValueError):
            pass
        return None

    def save(self, standing: Standing) -> None:
        value = {"url": standing.url, "held": standing.held, "least_chunk": standing.least_chunk, "time": time.time()}
        self._state.put(_UPLOAD, self._key, value)

    def clear(self) -> None:
        self._state.drop(_UPLOAD, self._key)


def _recent(moment: Any) -> bool:
    return isinstance(moment, int | float) and 0 <= time.time() - moment < _SESSION_LIFE


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one layer. ``there``: it was there; ``dropped``: bytes sent before that was known."""

    layer: Layer
    there: bool
    dropped: int


class _Beside(Generic[T]):
    """Work in a thread of its own, which does not keep the process alive: Ctrl-C need not wait for a silent registry."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._done: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="layerkit-registry", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._done.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            self._error = error

    def wait(self) -> BaseException | None:
        """What it raised, once it has ended."""
        self._thread.join()
        return self._error

    def result(self) -> T:
        if (error := self.wait()) is not None:
            raise error
        return self._done[0]


def _sample(blueprint: Blueprint) -> str:
    """A hash of a few places of the layer: the same for the same layer, and read in no time.

    It proves nothing, and decides only whether to hash before sending: weights swapped back to earlier ones
    should not be sent and dropped, new weights should not wait.
    """
    state = hashlib.sha256(f"{blueprint.size} {blueprint.created_by}".encode())
    for number in range(_SAMPLES):
        for chunk in blueprint.open(max(0, (blueprint.size - _SAMPLE_SIZE) * number // (_SAMPLES - 1))):
            state.update(chunk[:_SAMPLE_SIZE])
            break
    return state.hexdigest()
