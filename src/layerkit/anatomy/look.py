"""Finds an image wherever it is, and takes it apart."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, LayerkitError, LocalResourceError
from ..oci import Descriptor, Image, Reference
from ..settings import Settings
from .difference import Difference, compare
from .dissect import dissect
from .found import Found, LocalImage
from .inspection import Inspection
from .peek import Peek, Read, gzip_size, peek
from .sources import from_docker, from_layout, from_registry

if TYPE_CHECKING:
    from ..registry import Client
    from ..state import State

__all__ = ["diff", "inspect", "read_timeline"]

_MOST_PEEKED = 16  # layers that are looked into
_LARGE = 8 * 1024 * 1024  # bytes from which a layer of no known role is looked into
_JOBS = 6
_TIMELINE = 16 * 1024 * 1024  # bytes of a timeline's file


def inspect(
    reference: str,
    *,
    platform: str = "",
    base: str = "",
    timeline: Path | str | None = None,
    settings: Settings | None = None,
) -> Inspection:
    """Take an image apart: its layers by role, its checkpoint, what a change of each role costs a node.

    Nothing is downloaded but manifests, configurations and a few ranges of layers.

    Args:
        reference: ``docker:REF`` in the local Docker, ``registry:REF`` in its registry, ``oci:DIR[:TAG]`` in an OCI
            layout; without a prefix, in the local Docker if it is there, else in its registry, as ``docker run`` does.
        platform: as in linux/amd64; by default this machine's, or the only one.
        base: the image that it was built FROM: whose layers are known to be the base's then.
        timeline: file that ``build --metadata-file`` wrote; by default what this machine remembers of its build.
        settings: surroundings; the process's environment by default.

    Raises:
        ConfigurationError: there is no such image, or not for *platform*.
        LayerkitError: of the kind that fits, as ``errors`` draws them.
    """
    with _Surroundings.of(settings) as around:
        return _inspect(around, reference, platform, base, timeline)


def diff(
    before: str, after: str, *, platform: str = "", base: str = "", settings: Settings | None = None
) -> Difference:
    """How the image *after* differs from *before*, and what a node that has *before* moves for it.

    Args, Raises: as ``inspect``, for both.
    """
    with _Surroundings.of(settings) as around:
        return compare(*(_inspect(around, reference, platform, base, None) for reference in (before, after)))


@dataclass
class _Surroundings:
    """What is asked, and connected when it is first asked."""

    settings: Settings
    state: State
    _client: Client | None = None

    @classmethod
    @contextlib.contextmanager
    def of(cls, settings: Settings | None) -> Iterator[_Surroundings]:
        from ..state import State

        settings = settings or Settings.from_environment()
        with State(settings.state_folder) as state:
            around = cls(settings, state)
            try:
                yield around
            finally:
                if around._client is not None:
                    around._client.close()

    @property
    def client(self) -> Client:
        if self._client is None:
            from ..registry import Client, Credentials

            self._client = Client(
                credentials=Credentials(self.settings.docker_config, self.settings.environment),
                proxies=self.settings.proxies,
                ca_bundle=self.settings.ca_bundle,
                retries=3,  # somebody waits in front of it
            )
        return self._client

    def find(self, reference: str, platform: str) -> Found:
        kind, colon, rest = reference.partition(":")
        default = self.settings.platform
        if colon and kind == "oci":
            folder, tag = _folder_and_tag(rest)
            return from_layout(folder, tag, platform=platform, default=default)
        if colon and kind == "registry":
            return self._in_registry(rest.removeprefix("//"), platform)
        if colon and kind == "docker" and rest.startswith("//"):  # as skopeo and podman spell a registry
            return self._in_registry(rest[2:], platform)
        if colon and kind == "docker" and not rest.isdigit():
            found = self._in_docker(rest, platform)
            if found is None:
                raise ConfigurationError(f"{reference}: the local Docker has no such image", hint="docker image ls")
            return found
        try:
            Reference.parse(reference)
        except ConfigurationError as error:
            if reference and Path(reference).is_dir():
                raise ConfigurationError(error.message, hint=f"for an OCI layout: oci:{reference}") from None
            raise
        with contextlib.suppress(LocalResourceError):
            found = self._in_docker(reference, platform)
            if found is not None:
                return found
        return self._in_registry(reference, platform)

    def _in_registry(self, text: str, platform: str) -> Found:
        reference = Reference.parse(text)
        repository = self.client.repository(reference)
        return from_registry(repository, reference, platform=platform, default=self.settings.platform)

    def _in_docker(self, text: str, platform: str) -> Found | None:
        from ..engine import Engine

        Reference.parse(text)  # what is no reference must not reach docker as an option
        engine = Engine(builder=self.settings.builder, environment=self.settings.environment)
        return from_docker(engine, self.state, text, platform=platform, default=self.settings.platform)


def _folder_and_tag(text: str) -> tuple[Path, str]:
    if not text:
        raise ConfigurationError("oci: names no folder", hint="oci:DIR[:TAG]")
    folder, colon, tag = text.rpartition(":")
    if not colon or not folder or "/" in tag or Path(text).is_dir():
        return Path(text), ""
    return Path(folder), tag


def _inspect(
    around: _Surroundings, reference: str, platform: str, base: str, timeline: Path | str | None
) -> Inspection:
    found = around.find(reference, platform)
    below = _base_layers(around, found, base, platform) if base else None
    sizes: dict[int, int] = {}
    peeks: dict[int, Peek] = {}
    if isinstance(found.image, Image) and found.read is not None:
        sizes = _gzip_sizes(found.image.manifest.layers, found.read)
        first = dissect(found, sizes, {}, base=below)
        wanted = [layer for layer in first.layers if layer.role == "checkpoint"]
        # Weights may hide in a COPY . .: what is large, and neither base nor run, is looked into.
        wanted += [x for x in first.layers if x.role in ("code", "unknown") and x.weight >= _LARGE]
        for layer in wanted[:_MOST_PEEKED]:
            peeks[layer.index] = _look_into(found.image.manifest.layers[layer.index], found)
    record = read_timeline(Path(timeline)) if timeline is not None else None
    for digest in found.digests:
        record = record or around.state.get("build-timeline", digest)
    return dissect(found, sizes, peeks, base=below, timeline=record if isinstance(record, Mapping) else None)


def _gzip_sizes(layers: Sequence[Descriptor], read: Read) -> dict[int, int]:
    """layer -> bytes of its tar. A round trip each, so they go side by side."""
    zipped = [index for index, layer in enumerate(layers) if layer.media_type.endswith("gzip")]
    with ThreadPoolExecutor(_JOBS) as pool:
        found = pool.map(lambda index: gzip_size(layers[index], read), zipped)
        return {index: size for index, size in zip(zipped, found, strict=True) if size is not None}


def _look_into(descriptor: Descriptor, found: Found) -> Peek:
    assert found.read is not None
    try:
        return peek(descriptor, found.read)
    except LayerkitError as error:  # the rest of the image is worth showing
        return Peek(why=error.message)


def _base_layers(around: _Surroundings, found: Found, base: str, platform: str) -> int:
    """How many of the image's lowest layers are those of the image *base*."""
    other = around.find(base, platform or str(found.image.platform))
    mine, theirs = (
        side.image.diff_ids if isinstance(side.image, LocalImage) else side.image.config.diff_ids
        for side in (found, other)
    )
    if mine[: len(theirs)] != theirs:
        raise ConfigurationError(
            f"--base {base}: {found.name} does not stand on its {len(theirs)} layers",
            hint="name the base by the digest that it was built from",
        )
    return len(theirs)


def read_timeline(path: Path) -> Mapping[str, Any]:
    """The object that ``build --json`` printed, from a file.

    Raises:
        ConfigurationError: it cannot be read, or is something else.
    """
    try:
        with path.open("rb") as stream:
            document = json.loads(stream.read(_TIMELINE))
    except OSError as error:
        raise ConfigurationError(f"--timeline: {path}: {error.strerror}") from None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("seconds"), dict):
        raise ConfigurationError(
            f"--timeline: {path} is no object of a build", hint="layerkit build --metadata-file FILE writes one"
        )
    return document
