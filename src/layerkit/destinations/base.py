"""What every destination can do, so that the pipeline need not know which one it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from ..assemble import Assembled, PackedCheckpoint, Runtime
from ..checkpoint import Packer
from ..events import Listener
from ..names import checkpoint_tag, runtime_tag
from ..oci import Descriptor, Digest, Image, Layer
from ..planner import Present
from ..runtime.placeholder import disturbs
from ..state import State

if TYPE_CHECKING:
    from ..engine import BakeResult

__all__ = ["NEAR", "Destination", "Output", "Published", "Sent", "checkpoint_tag", "disturbance", "runtime_tag"]

NEAR = 8 * 1024 * 1024  # bytes of a layer that is fetched only to look into it


@dataclass(frozen=True, slots=True)
class Output:
    """How BuildKit hands over a runtime image: names, and buildx's output entries."""

    names: tuple[str, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Sent:
    """The checkpoint's layers at the destination, and the bytes that it took.

    Attributes:
        uploaded: bytes of layers that are there now and were not before.
        reused: bytes of layers that were there.
        dropped: bytes that were on their way when the layer turned out to be there.
        new: digests of the layers that were not there.
        mounted: digests of those that the registry took over from another of its repositories.
    """

    layers: tuple[Layer, ...]
    uploaded: int = 0
    reused: int = 0
    dropped: int = 0
    new: frozenset[Digest] = frozenset()
    mounted: frozenset[Digest] = frozenset()


@dataclass(frozen=True, slots=True)
class Published:
    """The image is there, under its tags. ``uploaded`` in bytes: configurations and manifests, and layers for
    a destination that takes them only now."""

    digest: Digest
    uploaded: int


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value


def disturbance(
    image: Image, placeholder: int, folder: str, blob: Callable[[Descriptor], BinaryIO | None], state: State
) -> str:
    """Which layer above the placeholder in *folder* of a runtime image did something to it; "" for none.

    Only a RUN can. What was seen is remembered in *state*.

    Args:
        blob: a layer's content, which can seek; None where it costs too much to be had (``NEAR``), or cannot be.
    """
    for descriptor, made in list(zip(image.manifest.layers, image.created_by, strict=True))[placeholder + 1 :]:
        if not made.startswith("RUN"):
            continue
        key = f"{descriptor.digest} {folder}"
        found = state.get("disturbs", key, _yes_or_no)
        if found is None:
            content = blob(descriptor)
            if content is None:
                continue
            with content:
                found = disturbs(content, folder)
            state.put("disturbs", key, found)
        if found:
            return f"{made.removesuffix(' # buildkit')[:100]!r} works on the weights"
    return ""


class Destination(Protocol):
    """A place where images live: a registry, the local Docker, an OCI layout.

    All methods raise LayerkitErrors only, but for ``send``, which raises Stopped when it was stopped.
    """

    kind: str
    name: str

    def describe(self) -> str:
        """For people, as in ``registry ghcr.io/acme/resnet``."""

    def look(self, runtime_keys: Mapping[str, str], checkpoint_key: str | None, tags: Sequence[str]) -> Present:
        """What is there: platform -> runtime key is looked up, the checkpoint's layers, the tags."""

    def output(self, key: str) -> Output:
        """What to ask of BuildKit for the runtime image under *key*."""

    def finished(self, tags: Sequence[str]) -> Output:
        """What to ask of BuildKit where it builds the whole image."""

    def delivered(self, tags: Sequence[str], result: BakeResult, target: str) -> Mapping[str, Image]:
        """BuildKit has handed over the whole image under *tags*: platform -> image, where that can be told."""

    def built(self, platform: str, key: str, result: BakeResult, target: str) -> Runtime:
        """The runtime image that BuildKit just handed over."""

    def checkpoint(self, key: str) -> tuple[Layer, ...] | None:
        """The layers kept under a checkpoint's key, if they are really there."""

    def send(self, packer: Packer, listener: Listener, stopped: Callable[[], bool]) -> Sent:
        """Bring the checkpoint's layers there while they are hashed."""

    def keep_checkpoint(self, packed: PackedCheckpoint, packer: Packer | None) -> int:
        """Record the layers under the checkpoint's key; the bytes uploaded for it. *packer* can read them again."""

    def identity(self, assembled: Assembled) -> Digest:
        """What the image is called there: its manifest's digest, but for Docker's classic store."""

    def publish(
        self, assembled: Assembled, tags: Sequence[str], present: Present, packer: Packer | None, listener: Listener
    ) -> Published:
        """Put the finished image there, tags last, and prove that they name it."""

    def close(self) -> None:
        """End what is under way; nothing was tagged by it."""
