"""What BuildKit has just built into the local Docker: read back, with the placeholder of a runtime image found."""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
from collections.abc import Callable, Iterator
from contextlib import suppress

from ..assemble import Runtime
from ..engine import Engine
from ..errors import IntegrityError, LayerkitError, LocalResourceError
from ..oci import MEDIA, Config, Descriptor, Digest, Image, Manifest, parse_manifest
from ..runtime.placeholder import MAX_SIZE, may_be_placeholder, placeholder_place
from ..state import State
from .base import NEAR, disturbance

__all__ = ["from_classic", "from_containerd", "from_record"]

_KEEP_IN_MEMORY = 64 * 1024 * 1024  # bytes of a layer of the classic store that is read back from docker save


def from_containerd(engine: Engine, state: State, name: str, identity: Digest, build: str) -> Runtime:
    """Manifest and configuration from the builder's content store, or else out of ``docker save``.

    Args:
        name: of the local image; its manifest or index is *identity*.
        build: the builder's record of it, or "".

    Raises:
        IntegrityError: the image names what the store does not give.
        LocalResourceError: docker does not answer.
    """
    saved: dict[Digest, bytes] = {}

    def blob(digest: Digest) -> bytes:
        raw = saved.get(digest) or (engine.attachment(build, str(digest)) if build else None)
        if raw is None or Digest.of(raw) != digest:
            saved.update(_blobs(engine, name))
            raw = saved.get(digest)
        if raw is None or Digest.of(raw) != digest:
            raise IntegrityError(f"docker: {name} names {digest}, and the store does not give it")
        return raw

    def layer_blob(layer: Descriptor) -> io.BytesIO | None:
        with suppress(IntegrityError):
            return io.BytesIO(blob(layer.digest)) if layer.size <= NEAR else None
        return None

    image = _image(name, identity, blob)
    for index, descriptor in enumerate(image.manifest.layers):
        if may_be_placeholder(descriptor) and (place := placeholder_place(blob(descriptor.digest))):
            above = disturbance(image, index, place[0], layer_blob, state)
            return Runtime(image, index, place, disturbed=above)
    return Runtime(image, None)


def from_record(engine: Engine, name: str, identity: Digest, build: str) -> Image | None:
    """Manifest and configuration of a whole image, or None where the builder has no record of it.

    ``docker save`` would tell them too, with every byte of the checkpoint.

    Args:
        name, identity, build: as ``from_containerd`` has them.
    """

    def blob(digest: Digest) -> bytes:
        raw = engine.attachment(build, str(digest))
        if raw is None or Digest.of(raw) != digest:
            raise IntegrityError(f"docker: {name} names {digest}, and the builder does not give it")
        return raw

    with suppress(LayerkitError):
        return _image(name, identity, blob) if build else None
    return None


def _image(name: str, identity: Digest, blob: Callable[[Digest], bytes]) -> Image:
    manifest = parse_manifest(blob(identity))
    if not isinstance(manifest, Manifest):
        if not manifest.images:
            raise IntegrityError(f"docker: {name} is an index of nothing")
        manifest = Manifest.parse(blob(manifest.images[0].digest))
    return Image.of(manifest, blob(manifest.config.digest))


def from_classic(engine: Engine, state: State, name: str, keep: Callable[[Digest, bytes], None]) -> Runtime:
    """The image as the classic store has it: its layers are uncompressed tars, their own diff_ids.

    Args:
        keep: takes each layer above the placeholder: its chain ID changes with the checkpoint's, so that the store
            has to be given it again.

    Raises:
        LocalResourceError: docker does not answer, or a layer is too large to be kept.
    """
    sizes: dict[str, int] = {}
    small: dict[str, bytes] = {}
    links: dict[str, str] = {}
    for path, size, read in _files(engine, name, links):
        sizes[path] = size
        if size <= _KEEP_IN_MEMORY:
            small[path] = read()
    # A layer that is there twice is saved once (moby ``image/tarexport/save.go``, saveLayer).
    for path, of in links.items():
        if of in sizes:
            sizes[path] = sizes[of]
        if of in small:
            small[path] = small[of]
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
            break  # a layer above it that changed its file holds that file too
    if found is None:
        return Runtime(image, None)
    for diff_id, path in list(zip(config.diff_ids, paths, strict=True))[found[0] + 1 :]:
        if path not in small:
            raise LocalResourceError(
                f"docker: a layer above the checkpoint has {sizes[path]} bytes; the classic image store cannot"
                " be given it again",
                hint="switch Docker to the containerd image store",
            )
        keep(diff_id, small[path])
    by_digest = {diff_id: small[path] for diff_id, path in zip(config.diff_ids, paths, strict=True) if path in small}

    def layer_blob(layer: Descriptor) -> io.BytesIO | None:
        return io.BytesIO(by_digest[layer.digest]) if layer.digest in by_digest else None

    above = disturbance(image, found[0], found[1][0], layer_blob, state)
    return Runtime(image, found[0], found[1], disturbed=above)


def _blobs(engine: Engine, name: str) -> dict[Digest, bytes]:
    found: dict[Digest, bytes] = {}
    for path, size, read in _files(engine, name):
        if (
            path.startswith("blobs/sha256/") and size <= NEAR
        ):  # manifests, configurations, and layers that are looked into
            raw = read()
            found[Digest.of(raw)] = raw
    return found


def _files(
    engine: Engine, name: str, links: dict[str, str] | None = None
) -> Iterator[tuple[str, int, Callable[[], bytes]]]:
    """(path, size, read) of each file of ``docker save``, whose stream is not kept. *links* gets link -> file."""
    with engine.save(name) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        for member in tar:
            if member.isfile():
                content = tar.extractfile(member)
                assert content is not None
                yield member.name, member.size, content.read
            elif member.issym() and links is not None:
                links[member.name] = posixpath.normpath(posixpath.join(posixpath.dirname(member.name), member.linkname))
