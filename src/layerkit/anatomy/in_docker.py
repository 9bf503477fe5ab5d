"""An image of the local Docker, found to be looked at: what it says of it, and what layerkit remembers."""

from __future__ import annotations

import contextlib
import json
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, IntegrityError, LocalResourceError
from ..oci import Descriptor, Digest, Image, Platform, parse_manifest
from .choosing import choose, image_of, platform_of, verified
from .found import Found, LocalImage, Stream
from .roles import Step, steps_of

if TYPE_CHECKING:
    from ..engine import Engine
    from ..state import State

__all__ = ["from_docker", "local_layers"]


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
    if platform and platform_of(platform) != found.platform:
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
                    yield verified(what, descriptor, content, "Docker's copy is damaged: pull it, or build it, again")
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
        manifest, _, _ = choose(identity, top, lambda d: parse_manifest(blob(d.digest)), platform, default)
        return image_of(identity, manifest, lambda d: blob(d.digest), platform)
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
    certain = [at for at, (_, size) in enumerate(history) if size]
    makers = [at for at, (text, _) in enumerate(history) if steps_of(text)[0] in ("RUN", "COPY", "ADD", "WORKDIR")]
    for candidates in (certain, sorted({*certain, *makers}), [*range(len(history))]):
        if len(candidates) == layers:
            return tuple(candidates)
    without = [at for at in sorted({*certain, *makers}) if at in certain or steps_of(history[at][0])[0] != "WORKDIR"]
    return tuple(without) if len(without) == layers else ()
