"""What the local Docker has: the images that we have put there, and that it still has.

A layer is there while an image with it is. The containerd store finds it by its blob's digest; the classic one by its
chain, which is the layer's diff_id and all of those under it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ..engine import Engine
from ..oci import Digest, Image, Layer
from ..state import State, as_text

__all__ = ["Holdings", "Name", "is_whole"]

_IMAGE, _RUNTIME = "docker-image", "docker-runtime"  # kinds of records
_CHECKPOINT = "docker-checkpoint"
_HOLDERS = 4  # images that are remembered to have one checkpoint: each is asked for

Name: TypeAlias = tuple[Digest, ...]  # what a store finds a layer by


def is_whole(image: Mapping[str, Any]) -> bool:
    """By ``docker image inspect``: the containerd store takes an image that lacks a layer without a word."""
    parts = image.get("Manifests") or ()
    return not any(part.get("Kind") == "image" and part.get("Available") is False for part in parts)


@dataclass(frozen=True, slots=True)
class _Held:
    """A checkpoint that was brought here: IDs of images that have it; diff_id, bytes and history of each layer."""

    holders: tuple[str, ...]
    layers: tuple[tuple[Digest, int, str], ...]


def _held(record: Any) -> _Held:
    layers = tuple((Digest.parse(digest), int(size), as_text(made)) for digest, size, made in record["layers"])
    return _Held(tuple(map(as_text, record["holders"])), layers)


class Holdings:
    """Of the Docker behind *engine*, by what *state* remembers. ``classic``: by which image store."""

    def __init__(self, engine: Engine, state: State, classic: bool) -> None:
        self._engine = engine
        self._state = state
        self._classic = classic
        self._store = "classic" if classic else "containerd"
        self._holders: dict[str, Image | None] = {}  # images with checkpoints that were asked for

    def image(self, identity: str) -> Image | None:
        """A finished image by its ID, where we have put it there; whether Docker still has it is not asked."""
        return self._remembered(_IMAGE, identity)

    def runtime(self, identity: str) -> Image | None:
        """The same of a runtime image."""
        return self._remembered(_RUNTIME, identity)

    def _remembered(self, kind: str, identity: str) -> Image | None:
        return self._state.get(kind, identity, Image.from_json)

    def remember(self, identity: str, image: Image, *, runtime: bool = False) -> None:
        """*image* is in Docker under the ID *identity*."""
        self._state.put(_RUNTIME if runtime else _IMAGE, identity, image.to_json())

    def whole(self, reference: str) -> dict[str, Any] | None:
        """The local image as Docker tells it, if all of it is here."""
        found = self._engine.image(reference)
        return found if found is not None and is_whole(found) else None

    def called(self, under: Sequence[Digest], digests: Sequence[Digest]) -> Name:
        """What the store finds the last of the layers *digests* by, with the layers *under* under them."""
        return (*under, *digests) if self._classic else (digests[-1],)

    def names(self, image: Image) -> tuple[Name, ...]:
        """What the store finds each layer of *image* by."""
        if self._classic:
            diff_ids = image.config.diff_ids
            return tuple(diff_ids[: number + 1] for number in range(len(diff_ids)))
        return tuple((layer.digest,) for layer in image.manifest.layers)

    def stored(self, digests: Collection[Digest]) -> frozenset[Name]:
        """Names of layers in Docker: of the images that brought checkpoints with one of *digests* here.

        They count, tagged or not, while Docker has all of them. Each is asked for once.
        """
        wanted = set(digests)
        found: set[Name] = set()
        for record in self._records():
            if wanted & {digest for digest, _, _ in record.layers}:
                for identity in record.holders:
                    if identity not in self._holders:
                        image = self.image(identity)
                        self._holders[identity] = image if image and self.whole(identity) else None
                    if (holder := self._holders[identity]) is not None:
                        found.update(self.names(holder))
        return frozenset(found)

    def _records(self) -> list[_Held]:
        found = self._state.all(_CHECKPOINT, _held).items()
        return [record for where, record in found if where.endswith(f" {self._store}")]

    def hold(self, key: str, layers: Sequence[Layer], identity: Digest) -> None:
        """The image *identity*, which is here, has the *layers* of the checkpoint *key*."""
        where = f"{key} {self._store}"
        before = self._state.get(_CHECKPOINT, where, _held)
        holders = [*(holder for holder in (before.holders if before else ()) if holder != str(identity)), str(identity)]
        rows = [[str(layer.diff_id), layer.descriptor.size, layer.created_by] for layer in layers]
        self._state.put(_CHECKPOINT, where, {"holders": holders[-_HOLDERS:], "layers": rows})
        self._holders.clear()

    def checkpoint(self, key: str) -> tuple[tuple[Digest, int, str], ...]:
        """(diff_id, bytes, history) of each layer of the checkpoint *key*, where it was brought here; else none."""
        record = self._state.get(_CHECKPOINT, f"{key} {self._store}", _held)
        return record.layers if record else ()

    @property
    def ever(self) -> frozenset[Digest]:
        """Layers of checkpoints that were brought here at any time; they may be gone."""
        return frozenset(digest for record in self._records() for digest, _, _ in record.layers)
