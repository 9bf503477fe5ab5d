"""Where an image is read for looking at it: a registry, a local Docker, an OCI layout.

Only manifests and configurations are read whole; of layers no more than ranges.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import ConfigurationError, IntegrityError, LocalResourceError
from ..names import is_own_tag
from ..oci import MEDIA, Descriptor, Digest, Image, Index, Manifest, Platform, Reference, parse_manifest
from .found import Found, LocalImage, Stream
from .roles import Step

if TYPE_CHECKING:
    from ..engine import Engine
    from ..registry import Repository
    from ..state import State

__all__ = ["from_docker", "from_layout", "from_registry", "local_layers"]

_REF_NAME = "org.opencontainers.image.ref.name"
_MOST = 8 * 1024 * 1024  # bytes of a manifest or a configuration
_CHUNK = 1024 * 1024  # bytes read at a time
_DEPTH = 3  # indexes in indexes that are followed


# ---------------------------------------------------------------------------------------------------- choosing


def _choose(
    name: str,
    top: Manifest | Index,
    manifest: Callable[[Descriptor], Manifest | Index | None],
    wanted: str,
    default: str,
    depth: int = 0,
) -> tuple[Manifest, Digest | None, tuple[str, ...]]:
    """The manifest for the platform *wanted*, else for *default* (the first where that is ""), else the only one; the
    index; all platforms."""
    if isinstance(top, Manifest):
        return top, None, ()
    images = top.images or tuple(
        m for m in top.manifests if m.platform is None and m.media_type in (*MEDIA.MANIFESTS, *MEDIA.INDEXES)
    )
    platforms = tuple(str(m.platform) for m in images if m.platform)
    offered = f"it has {', '.join(platforms) or 'no images'}"
    descriptor = None
    if wanted or (platforms and default):
        descriptor = top.find(_platform(wanted or default))
    if wanted and descriptor is None and platforms:
        raise ConfigurationError(f"{name}: no image for {wanted}: {offered}", hint="choose one with --platform")
    if descriptor is None and (len(images) == 1 or (images and not default and not wanted)):
        descriptor = images[0]
    if descriptor is None:
        raise ConfigurationError(f"{name}: no image for {default}: {offered}", hint="choose one with --platform")
    found = manifest(descriptor)
    if found is None:
        raise IntegrityError(f"{name}: the index names {descriptor.digest}, and it is not there")
    if isinstance(found, Index):
        if depth == _DEPTH:
            raise IntegrityError(f"{name}: an index in an index, {_DEPTH} times over")
        inner, _, more = _choose(name, found, manifest, wanted, default, depth + 1)
        return inner, top.digest, more or platforms
    return found, top.digest, platforms


def _platform(text: str) -> Platform:
    try:
        return Platform.parse(text)
    except ValueError as error:
        raise ConfigurationError(f"--platform: {error}") from None


def _image(name: str, manifest: Manifest, blob: Callable[[Descriptor], bytes], wanted: str) -> Image:
    kind = manifest.artifact_type or manifest.config.media_type
    if manifest.config.media_type not in (MEDIA.CONFIG, MEDIA.DOCKER_CONFIG):
        raise ConfigurationError(
            f"{name}: is no image but an artifact of type {kind[:200]}", hint="name an image that can be run"
        )
    try:
        image = Image.of(manifest, blob(manifest.config))
    except IntegrityError as error:
        raise IntegrityError(f"{name}: {error.message}", hint="the image was not pushed whole, or is damaged") from None
    if wanted and (asked := _platform(wanted)) != image.platform:
        same = (asked.os, asked.architecture) == (image.platform.os, image.platform.architecture)
        if not same or asked.variant:
            raise ConfigurationError(f"{name}: is for {image.platform}, not for {asked}")
    return image


# ---------------------------------------------------------------------------------------------------- registry


def from_registry(repository: Repository, reference: Reference, *, platform: str, default: str) -> Found:
    """The image that *reference* names in its registry.

    Raises:
        ConfigurationError: there is none, or none for *platform*.
        LayerkitError: as the registry's answers have it.
    """
    reference = reference.or_latest()
    top = repository.manifest(reference.digest or reference.tag)
    if top is None:
        raise ConfigurationError(f"{reference}: not found in its registry", hint="check the name and the tag")
    name = str(reference)
    manifest, index, platforms = _choose(name, top, lambda d: repository.manifest(d.digest), platform, default)
    image = _image(name, manifest, lambda d: repository.blob(d, _MOST), platform)
    return Found(
        name, "registry", image, repository.blob_range, index, platforms, digests=_names(manifest.digest, index),
        stream=repository.open_blob, manifest=repository.manifest,
    )  # fmt: skip


def _names(*digests: Digest | None) -> tuple[str, ...]:
    return tuple(str(digest) for digest in digests if digest is not None)


# ---------------------------------------------------------------------------------------------------- OCI layout


def from_layout(folder: Path, tag: str, *, platform: str, default: str) -> Found:
    """The image *tag* of the OCI layout in *folder*; without a tag, the only one that is there.

    Raises:
        ConfigurationError: *folder* is no layout, or has no such image.
        IntegrityError: a blob is missing or is not what its name says.
    """
    name = f"oci:{folder}" + (f":{tag}" if tag else "")
    try:
        raw = _small(folder / "index.json")
    except OSError as error:
        raise ConfigurationError(
            f"{name}: no OCI layout: index.json: {error.strerror}", hint="oci:DIR[:TAG] names a folder with index.json"
        ) from None
    try:
        index = Index.parse(raw)
    except IntegrityError as error:
        raise IntegrityError(f"{name}: index.json: {error.message}") from None
    chosen = _entry(name, index, tag)

    def blob(descriptor: Descriptor) -> bytes:
        try:
            found = _small(_path(folder, descriptor))
        except OSError as error:
            raise IntegrityError(f"{name}: blob {descriptor.digest}: {error.strerror}") from None
        if Digest.of(found) != descriptor.digest:
            raise IntegrityError(f"{name}: blob {descriptor.digest} is not what its name says")
        return found

    def read(descriptor: Descriptor, start: int, end: int) -> bytes | None:
        try:
            with _path(folder, descriptor).open("rb") as stream:
                stream.seek(start)
                return stream.read(end - start)
        except OSError:
            return None

    @contextlib.contextmanager
    def stream(descriptor: Descriptor) -> Iterator[Iterator[bytes]]:
        try:
            opened = _path(folder, descriptor).open("rb")
        except OSError as error:
            raise IntegrityError(f"{name}: blob {descriptor.digest}: {error.strerror}") from None
        with opened:
            yield _verified(f"{name}: blob {descriptor.digest}", descriptor, opened)

    def named(which: str | Digest) -> Manifest | Index | None:
        tagged = (entry.digest for entry in index.manifests if entry.annotations.get(_REF_NAME) == which)
        digest = which if isinstance(which, Digest) else next(tagged, None)
        try:
            raw = _small(folder / "blobs" / digest.algorithm / digest.hex) if digest is not None else b""
        except OSError:
            return None
        return parse_manifest(raw) if raw and Digest.of(raw) == digest else None

    def manifest_of(descriptor: Descriptor) -> Manifest | Index:
        try:
            return parse_manifest(blob(descriptor), descriptor.media_type)
        except IntegrityError as error:
            where = "" if error.message.startswith(name) else f"{name}: {descriptor.digest}: "
            raise IntegrityError(where + error.message) from None

    manifest, digest, platforms = _choose(name, manifest_of(chosen), manifest_of, platform, default)
    image = _image(name, manifest, blob, platform)
    return Found(
        name, "oci", image, read, digest, platforms, digests=_names(manifest.digest, digest), stream=stream,
        manifest=named,
    )  # fmt: skip


def _verified(what: str, descriptor: Descriptor, stream: IO[bytes]) -> Iterator[bytes]:
    """As ``Repository.open_blob``: the last chunk comes after the digest was compared."""
    state, size, last = hashlib.new(descriptor.digest.algorithm), 0, b""
    try:
        while chunk := stream.read(_CHUNK):
            state.update(chunk)
            size += len(chunk)
            if last:
                yield last
            last = chunk
    except OSError as error:
        raise LocalResourceError(f"{what}: cannot be read: {error.strerror}") from None
    if size != descriptor.size or state.hexdigest() != descriptor.digest.hex:
        raise IntegrityError(f"{what} is not what its name says", hint="the layout is damaged: copy it again")
    if last:
        yield last


def _entry(name: str, index: Index, tag: str) -> Descriptor:
    tags = {entry.annotations.get(_REF_NAME, ""): entry for entry in index.manifests}
    listed = ", ".join(sorted(t for t in tags if t and not is_own_tag(t))) or "no tags"
    if tag:
        if tag not in tags:
            raise ConfigurationError(f"{name}: not in the layout, which has {listed[:500]}")
        return tags[tag]
    images = [entry for entry in index.manifests if not is_own_tag(entry.annotations.get(_REF_NAME, ""))]
    different = {entry.digest: entry for entry in images}
    if len(different) != 1:
        raise ConfigurationError(f"{name}: the layout has {listed[:500]}", hint="choose one: oci:DIR:TAG")
    return next(iter(different.values()))


def _small(path: Path) -> bytes:
    with path.open("rb") as stream:
        raw = stream.read(_MOST + 1)
    if len(raw) > _MOST:
        raise OSError(errno.EFBIG, f"over {_MOST} bytes")
    return raw


def _path(folder: Path, descriptor: Descriptor) -> Path:
    return folder / "blobs" / descriptor.digest.algorithm / descriptor.digest.hex


# ---------------------------------------------------------------------------------------------------- local Docker


def from_docker(engine: Engine, state: State, reference: str, *, platform: str, default: str) -> Found | None:
    """The image *reference* of the local Docker, or None where it has none.

    Its manifest comes from what layerkit remembers of its own builds, else from the content store of the builder; where
    neither has it (the classic image store keeps none), from what Docker says of the image.

    Raises:
        LocalResourceError: no docker, or no daemon.
    """
    local = engine.image(reference)
    if local is None:
        return None
    name, identity = f"docker:{reference}", str(local.get("Id", ""))
    image = _remembered(state, identity) or _from_store(engine, identity, platform, default)
    note = "a local Docker gives its layers only whole: files and tensors are not looked at"
    found = _described(engine, local, reference)
    if platform and _platform(platform) != found.platform:
        raise ConfigurationError(f"{name}: is for {found.platform}, not for {platform}")
    if image is not None:
        counted = {index: size for index, size in enumerate(found.sizes) if size is not None}
        digests = (str(image.manifest.digest), identity)
        return Found(
            name, "docker", image, None, notes=(note,), digests=digests, counted=counted,
            stream=_saved(engine, name, reference),
        )  # fmt: skip
    notes = (
        "this Docker keeps no compressed layers: sizes are those of the files, as docker history counts them",
        note,
    )
    return Found(name, "docker", found, None, notes=notes, digests=(identity,))


def _saved(engine: Engine, name: str, reference: str) -> Stream:
    """Layers out of ``docker save``, which gives all of them each time."""

    @contextlib.contextmanager
    def stream(descriptor: Descriptor) -> Iterator[Iterator[bytes]]:
        what = f"{name}: layer {descriptor.digest}"
        with engine.save(reference) as saved, tarfile.open(fileobj=saved, mode="r|") as tar:
            for member in tar:
                content = tar.extractfile(member) if member.name == f"blobs/sha256/{descriptor.digest.hex}" else None
                if content is not None:
                    yield _verified(what, descriptor, content)
                    return
        raise IntegrityError(f"{what} is not in what docker save gives", hint="name the image in its registry")

    return stream


def _remembered(state: State, identity: str) -> Image | None:
    for kind in ("docker-image", "docker-runtime"):
        if (image := state.get(kind, identity, Image.from_json)) is not None:
            return image
    return None


def _from_store(engine: Engine, identity: str, platform: str, default: str) -> Image | None:
    """Manifest and configuration by way of any record of a build; None where the store does not give them."""
    with contextlib.suppress(LocalResourceError, IntegrityError):
        if engine.abilities.store != "containerd":
            return None
        build = engine.last_build()

        def blob(digest: Digest) -> bytes:
            raw = engine.attachment(build, str(digest)) if build else None
            if raw is None or Digest.of(raw) != digest:
                raise IntegrityError(f"docker: {digest} is not to be had")
            return raw

        top = parse_manifest(blob(Digest.parse(identity)))
        manifest, _, _ = _choose(identity, top, lambda d: parse_manifest(blob(d.digest)), platform, default)
        return _image(identity, manifest, lambda d: blob(d.digest), platform)
    return None


def _described(engine: Engine, local: Mapping[str, Any], reference: str) -> LocalImage:
    diff_ids = tuple(Digest.parse(str(item)) for item in (local.get("RootFS") or {}).get("Layers") or ())
    rows: list[tuple[str, int | None, str]] = []
    done = engine.ask("history", "--no-trunc", "--human=false", "--format", "{{json .}}", reference)
    for line in reversed(done.stdout.decode(errors="replace").splitlines()):
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            size = str(row.get("Size", ""))
            rows.append(
                (str(row.get("CreatedBy", "")), int(size) if size.isdigit() else None, str(row.get("Comment", "")))
            )
    made = local_layers([(text, size) for text, size, _ in rows], len(diff_ids))
    steps = tuple(Step(text, at not in made if made else False, comment) for at, (text, _, comment) in enumerate(rows))
    return LocalImage(
        diff_ids,
        tuple(rows[at][1] for at in made) if made else (None,) * len(diff_ids),
        steps if made else (),
        tuple(steps[at] for at in made) if made else (Step(""),) * len(diff_ids),
        local.get("Config") or {},
        Platform.from_json({k.lower(): v for k, v in local.items() if k in ("Os", "Architecture", "Variant") and v}),
        str(local.get("Created") or ""),
    )


def local_layers(history: Sequence[tuple[str, int | None]], layers: int) -> tuple[int, ...]:
    """Which entries of ``docker history`` (instruction, bytes), bottom first, made the image's layers.

    Docker does not say it. Entries with bytes did; of those without, the ones whose instruction makes layers. Where
    that does not give the number of *layers*, () says that it cannot be told.
    """
    from .roles import steps_of

    certain = [at for at, (_, size) in enumerate(history) if size]
    makers = [at for at, (text, _) in enumerate(history) if steps_of(text)[0] in ("RUN", "COPY", "ADD", "WORKDIR")]
    for candidates in (certain, sorted({*certain, *makers}), [*range(len(history))]):
        if len(candidates) == layers:
            return tuple(candidates)
    without = [at for at in sorted({*certain, *makers}) if at in certain or steps_of(history[at][0])[0] != "WORKDIR"]
    return tuple(without) if len(without) == layers else ()
