"""An OCI image layout: a folder of blobs and an index (image-spec, ``image-layout.md``)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

from ..assemble import Assembled, PackedCheckpoint, Runtime, checkpoint_image
from ..checkpoint import Packer
from ..errors import CheckpointError, IntegrityError, LocalResourceError, Stopped, printable
from ..events import Listener, Transfer
from ..oci import Config, Descriptor, Digest, Image, Index, Layer, Manifest, Platform, dump, parse_manifest
from ..planner import Present
from ..runtime.bake import entry
from ..runtime.placeholder import may_be_placeholder, placeholder_place
from ..state import Identity, State
from .base import Output, Published, Sent, checkpoint_tag, disturbance, runtime_tag

if TYPE_CHECKING:
    from ..engine import BakeResult

__all__ = ["LayoutDestination"]

Data = bytes | memoryview

_REF_NAME = "org.opencontainers.image.ref.name"
_TEMPORARY = ".layerkit-"
_MOST_SEARCHED = 1024 * 1024 * 1024  # bytes of a layer that is looked into for what became of the placeholder


def _tag_of(entry: Mapping[str, Any]) -> str | None:
    """What an index's *entry* is tagged."""
    tag: str | None = (entry.get("annotations") or {}).get(_REF_NAME)
    return tag


def _whole_name(tag: str) -> str:
    """buildx wants an image's whole name; its host is nobody's."""
    return f"layerkit.local/image:{tag}"


def _temporary(folder: Path) -> tuple[int, str]:
    """A new file, locked as long as it is open: who finds it without a lock may delete it."""
    while True:
        handle, name = tempfile.mkstemp(prefix=_TEMPORARY, dir=folder)
        with contextlib.suppress(OSError):  # a file system without locks: nothing is found without one there
            fcntl.flock(handle, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):  # deleted before it was locked
            if os.path.samestat(os.fstat(handle), Path(name).stat()):
                return handle, name
        os.close(handle)


class LayoutDestination:
    """``folder`` is made when it is first written to. Other images that it holds stay."""

    kind = "oci"

    def __init__(self, folder: Path, state: State) -> None:
        self.folder = folder.absolute()
        self.state = state
        self.name = f"oci:{folder}"

    def describe(self) -> str:
        return self.name

    # ------------------------------------------------------------------------------------------------- what is there

    def _path(self, digest: Digest) -> Path:
        return self.folder / "blobs" / digest.algorithm / digest.hex

    def _blob(self, descriptor: Descriptor) -> bytes | None:
        try:
            raw = self._path(descriptor.digest).read_bytes()
        except OSError:
            return None
        return raw if Digest.of(raw) == descriptor.digest else None

    def _holds(self, descriptor: Descriptor) -> bool:
        """Whether the blob is there and is what it is called; read where the stat cache does not know it."""
        path, algorithm = self._path(descriptor.digest), descriptor.digest.algorithm

        def read(path: Path) -> Digest:
            with path.open("rb") as stream:
                return Digest(algorithm, hashlib.file_digest(stream, algorithm).hexdigest())

        try:
            same_size = path.stat().st_size == descriptor.size
            return same_size and self.state.digest_of(path, read) == descriptor.digest
        except OSError:
            return False

    def _open(self, descriptor: Descriptor) -> BinaryIO | None:
        """A blob that is held, to be looked into: 7 s for the largest as gzip, once; compressing it took minutes."""
        if descriptor.size > _MOST_SEARCHED:
            return None
        try:
            return self._path(descriptor.digest).open("rb")
        except OSError:
            return None

    def _damaged(self, descriptor: Descriptor) -> list[Path]:
        """The blobs of what *descriptor* names that are there, and are not what they are called."""
        path = self._path(descriptor.digest)
        if path.exists() and not self._holds(descriptor):
            return [path]
        found = self._manifest(descriptor)
        if isinstance(found, Index):
            return [path for child in found.manifests for path in self._damaged(child)]
        parts = (found.config, *found.layers) if found is not None else ()
        return [path for part in parts if (path := self._path(part.digest)).exists() and not self._holds(part)]

    def _index(self) -> dict[str, Any]:
        try:
            document = json.loads((self.folder / "index.json").read_bytes())
        except FileNotFoundError:
            return {"schemaVersion": 2, "manifests": []}
        except (OSError, ValueError) as error:
            raise LocalResourceError(f"{self.name}: index.json cannot be read: {error}") from None
        if not isinstance(document, dict):
            document = {}
        entries = document.get("manifests")
        if not isinstance(entries, list) or not all(isinstance(item, dict) for item in entries):
            raise LocalResourceError(f"{self.name}: index.json is no image index", hint="name an empty folder")
        return document

    def _named(self, tag: str) -> Descriptor | None:
        for item in self._index()["manifests"]:
            if _tag_of(item) == tag:
                return Descriptor.from_json(item)
        return None

    def _manifest(self, descriptor: Descriptor | None) -> Manifest | Index | None:
        raw = self._blob(descriptor) if descriptor else None
        with contextlib.suppress(IntegrityError):
            return parse_manifest(raw) if raw is not None else None
        return None

    def _image(self, manifest: Manifest | Index | None) -> Image | None:
        """The image of *manifest*; None where it is of something else, as an artifact is."""
        if isinstance(manifest, Manifest) and (raw := self._blob(manifest.config)) is not None:
            with contextlib.suppress(IntegrityError):
                return Image(manifest, Config.parse(raw, manifest.config.media_type))
        return None

    def _images(self, descriptor: Descriptor | None) -> dict[str, Image]:
        """platform -> image of what *descriptor* names, as far as it is there."""
        manifest = self._manifest(descriptor)
        children = [manifest]
        if isinstance(manifest, Index):
            real = [child for child in manifest.manifests if not child.platform or child.platform.os != "unknown"]
            children = [self._manifest(child) for child in real]
        images = (self._image(child) for child in children)
        return {str(image.platform): image for image in images if image is not None}

    def look(self, runtime_keys: Mapping[str, str], checkpoint_key: str | None, tags: Sequence[str]) -> Present:
        runtimes = {p: found for p, key in runtime_keys.items() if (found := self._runtime(key, p)) is not None}
        named = {tag: self._named(tag) for tag in tags}
        previous: dict[str, Image] = {}
        for descriptor in named.values():
            previous = self._images(descriptor) | previous
        layers = self.checkpoint(checkpoint_key) if checkpoint_key else None
        images = [*previous.values(), *(runtime.image for runtime in runtimes.values())]
        blobs = {d.digest for image in images for d in image.manifest.layers if self._holds(d)}
        blobs |= {layer.descriptor.digest for layer in layers or ()}
        digests = {tag: descriptor.digest if descriptor else None for tag, descriptor in named.items()}
        return Present(runtimes, layers, digests, previous, frozenset(blobs))

    def _runtime(self, key: str, platform: str) -> Runtime | None:
        manifest = self._manifest(self._named(runtime_tag(key)))
        if isinstance(manifest, Index):
            manifest = self._manifest(manifest.find(Platform.parse(platform)))
        image = self._image(manifest)
        if image is None or not all(self._holds(layer) for layer in image.manifest.layers):
            return None
        for index, descriptor in enumerate(image.manifest.layers):
            if may_be_placeholder(descriptor) and (place := placeholder_place(self._blob(descriptor) or b"")):
                return Runtime(
                    image, index, place, disturbed=disturbance(image, index, place[0], self._open, self.state)
                )
        return Runtime(image, None)

    def checkpoint(self, key: str) -> tuple[Layer, ...] | None:
        image = self._image(self._manifest(self._named(checkpoint_tag(key))))
        if image is None or not all(self._holds(layer) for layer in image.manifest.layers):
            return None
        rows = zip(image.manifest.layers, image.config.diff_ids, image.created_by, strict=True)
        return tuple(Layer(descriptor, diff_id, made) for descriptor, diff_id, made in rows)

    # ------------------------------------------------------------------------------------------------- BuildKit's part

    def output(self, key: str) -> Output:
        return self._written(runtime_tag(key))

    def finished(self, tags: Sequence[str]) -> Output:
        return self._written(*tags)

    def _written(self, *tags: str) -> Output:
        return Output(tuple(map(_whole_name, tags)), (entry("type=oci", "tar=false", f"dest={self.folder}"),))

    def delivered(self, tags: Sequence[str], result: BakeResult, target: str) -> Mapping[str, Image]:
        for tag in tags:
            self._take(tag)
        return self._images(self._named(tags[0]))

    def built(self, platform: str, key: str, result: BakeResult, target: str) -> Runtime:
        self._take(runtime_tag(key))
        runtime = self._runtime(key, platform)
        if runtime is None:
            raise IntegrityError(f"{self.name}: BuildKit wrote {runtime_tag(key)}, and it is not there")
        return runtime

    def _take(self, tag: str) -> None:
        """What buildx wrote gets the tag, but where a blob of it is damaged.

        BuildKit leaves a blob that is there as it is, whatever is in it: it has to go before it is written anew.

        Raises:
            IntegrityError: one is; what is damaged is gone then, and so is the tag.
        """
        self._rename(tag)
        named = self._named(tag)
        damaged = self._damaged(named) if named is not None else []
        if not damaged:
            return
        with self._locked() as document, self._writable():
            document["manifests"] = [m for m in document["manifests"] if _tag_of(m) != tag]
            for path in damaged:
                path.unlink(missing_ok=True)
        raise IntegrityError(
            f"{self.name}: blobs/{damaged[0].parent.name}/{damaged[0].name[:12]} was damaged there, and is deleted now",
            hint="build again: BuildKit writes only what is not there",
        )

    def _rename(self, tag: str) -> None:
        """The entry that buildx wrote under a whole name gets the tag alone, as other tools look for it.

        What had the tag before loses it.
        """
        image_name = _whole_name(tag)
        with self._locked() as document:
            named, others = [], []
            for item in document["manifests"]:
                notes = item.get("annotations") or {}
                if image_name in (notes.get("io.containerd.image.name"), notes.get(_REF_NAME)):
                    named.append({**item, "annotations": {_REF_NAME: tag}})
                elif notes.get(_REF_NAME) != tag:
                    others.append(item)
            if named:
                document["manifests"] = [*others, named[-1]]

    # ------------------------------------------------------------------------------------------------- the checkpoint

    def send(self, packer: Packer, listener: Listener, stopped: Callable[[], bool]) -> Sent:
        layers: list[Layer] = []
        uploaded = reused = dropped = 0
        new: set[Digest] = set()
        self._sweep()
        for index, blueprint in enumerate(packer.blueprints):
            label = blueprint.label

            def there(index: int = index) -> bool:
                digest = packer.known(index)
                return digest is not None and self._holds(packer.layer(index).descriptor)

            content = packer.content(index)
            done, written = 0, hashlib.sha256()
            with self._writing() as (write, keep):
                for chunk in content.open():
                    if stopped():
                        raise Stopped
                    if there():
                        break
                    write(chunk)
                    written.update(chunk)
                    done += len(chunk)
                    listener(Transfer(f"checkpoint-{index}", label, done, content.size))
                digest = packer.digest(index)
                if there():
                    reused += content.size
                    dropped += done
                    listener(Transfer(f"checkpoint-{index}", label, content.size, content.size, "dropped"))
                else:
                    if written.hexdigest() != digest.hex:
                        raise CheckpointError(
                            f"checkpoint: {printable(label)} changed while it was read; nothing was tagged",
                            hint="build again when it is no longer written to",
                        )
                    # It is not read back: these very bytes were hashed on their way to the file.
                    self.state.remember_file(self._path(digest), keep(digest), digest)
                    uploaded += content.size
                    new.add(digest)
                    listener(Transfer(f"checkpoint-{index}", label, content.size, content.size, "finished"))
            layers.append(packer.layer(index))
        return Sent(tuple(layers), uploaded, reused, dropped, frozenset(new))

    @contextlib.contextmanager
    def _writing(self) -> Iterator[tuple[Callable[[Data], None], Callable[[Digest], Identity]]]:
        """A blob under a temporary name; *keep* gives it its own. Gone when the block is left without that."""
        folder = self.folder / "blobs" / "sha256"
        with self._writable():
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = _temporary(folder)
        try:
            with self._writable(), os.fdopen(handle, "wb", buffering=0) as stream:

                def write(data: Data) -> None:
                    left = memoryview(data)
                    while left:  # a disk that is nearly full takes a part
                        left = left[stream.write(left) :]

                def keep(digest: Digest) -> Identity:
                    os.fchmod(stream.fileno(), 0o644)
                    Path(name).replace(self._path(digest))
                    return Identity.of(os.fstat(stream.fileno()))

                yield write, keep
        finally:
            with contextlib.suppress(OSError):
                Path(name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _writable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "is the disk full? df -h" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
            raise LocalResourceError(f"{self.name}: cannot be written: {error.strerror}", hint=hint) from None

    def _sweep(self) -> None:
        """Delete what runs that were killed have left half written."""
        for path in (self.folder / "blobs" / "sha256").glob(f"{_TEMPORARY}*"):
            with contextlib.suppress(OSError), path.open("r+b") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()

    def _put(self, raw: bytes) -> int:
        digest = Digest.of(raw)
        with contextlib.suppress(OSError):
            if self._path(digest).read_bytes() == raw:  # what is damaged is written anew
                return 0
        with self._writing() as (write, keep):
            write(raw)
            keep(digest)
        return len(raw)

    def keep_checkpoint(self, packed: PackedCheckpoint, packer: Packer | None) -> int:
        image = checkpoint_image(packed)
        written = self._put(image.config.raw) + self._put(image.manifest.raw)
        self._tag(image.manifest.descriptor(), [checkpoint_tag(packed.key)])
        return written

    # ------------------------------------------------------------------------------------------------- the image

    def identity(self, assembled: Assembled) -> Digest:
        return assembled.digest

    def publish(
        self, assembled: Assembled, tags: Sequence[str], present: Present, packer: Packer | None, listener: Listener
    ) -> Published:
        written = 0
        self._sweep()
        for image in assembled.images.values():
            written += self._put(image.config.raw) + self._put(image.manifest.raw)
        if isinstance(assembled.root, Index):
            written += self._put(assembled.root.raw)
            root = assembled.root.descriptor()
        else:
            root = assembled.root.descriptor(next(iter(assembled.images.values())).platform)
        self._tag(root, tags)
        for tag in tags:
            named = self._named(tag)
            if named is None or named.digest != assembled.digest:
                raise IntegrityError(f"{self.name}: {tag!r} is not what was written; is somebody else writing there?")
        return Published(assembled.digest, written)

    def close(self) -> None:
        pass

    def _tag(self, descriptor: Descriptor, tags: Sequence[str]) -> None:
        with self._locked() as document:
            kept = [m for m in document["manifests"] if _tag_of(m) not in tags]
            new = [replace(descriptor, annotations={_REF_NAME: tag}).to_json() for tag in tags]
            document["manifests"] = [*kept, *new]

    def _lock(self) -> TextIO:
        with self._writable():
            self.folder.mkdir(parents=True, exist_ok=True)
            return (self.folder / "index.json.lock").open("w")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[dict[str, Any]]:
        """The index, to be changed; written whole, under a lock that buildx's own writer takes too."""
        with self._lock() as lock, self._writable():
            fcntl.flock(lock, fcntl.LOCK_EX)
            document = self._index()
            yield document
            for name, raw in (("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'), ("index.json", dump(document))):
                temporary = self.folder / f".{name}.new"
                temporary.write_bytes(raw)
                temporary.replace(self.folder / name)
