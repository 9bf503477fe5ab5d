"""What the registry tests share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

from layerkit.errors import LayerkitError
from layerkit.oci import MEDIA, Config, Descriptor, Digest, Image, Manifest, Reference, dump
from layerkit.registry import Client, Limits, Repository
from layerkit.testing import FakeRegistry

MIB = 1024 * 1024
QUICK = Limits(connect=2.0, idle=0.4, commit=2.0, wait=30.0)


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes that differ everywhere, so that a piece in the wrong place changes the digest."""
    return hashlib.shake_256(f"{seed}".encode()).digest(size)


class Data:
    """Bytes as upload content, with everything counted; *digest_error* is raised instead of a digest."""

    def __init__(self, data: bytes, *, piece: int = 64 * 1024, digest_error: LayerkitError | None = None) -> None:
        self.data = data
        self.size = len(data)
        self.opened: list[int] = []
        self.hashed = 0
        self.stop_after: int | None = None
        self.served = 0
        self.on_piece: Callable[[int], None] | None = None
        self._piece = piece
        self._digest_error = digest_error

    def open(self, offset: int = 0) -> Iterator[memoryview]:
        self.opened.append(offset)
        # One buffer for all pieces, as the packer does it: whoever keeps a piece finds other bytes in it.
        buffer = bytearray(self._piece)
        for start in range(offset, len(self.data), self._piece):
            count = min(self._piece, len(self.data) - start)
            buffer[:count] = self.data[start : start + count]
            self.served += count
            if self.on_piece is not None:
                self.on_piece(start)
            yield memoryview(buffer)[:count]

    def digest(self) -> Digest:
        self.hashed += 1
        if self._digest_error is not None:
            raise self._digest_error
        return Digest.of(self.data)

    def cancelled(self) -> bool:
        return self.stop_after is not None and self.served > self.stop_after

    @property
    def descriptor(self) -> Descriptor:
        return Descriptor(MEDIA.LAYER, Digest.of(self.data), self.size)


def image(*layers: bytes, created: str = "") -> Image:
    """An image of *layers*, uncompressed."""
    document: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(layer)) for layer in layers]},
    }
    config = Config.parse(dump(document | ({"created": created} if created else {})))
    descriptors = [Descriptor(MEDIA.LAYER, Digest.of(layer), len(layer)) for layer in layers]
    return Image(Manifest.create(config.descriptor, descriptors), config)


class Connect:
    """Makes clients whose waits are recorded in ``slept`` and not waited for."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self.clients: list[Client] = []

    def client(self, **options: Any) -> Client:
        options = {"limits": QUICK, "sleep": self.slept.append, "certificates": "/nonexistent", **options}
        client = Client(**options)
        self.clients.append(client)
        return client

    def __call__(self, registry: FakeRegistry, repository: str = "team/model", **options: Any) -> Repository:
        return self.client(**options).repository(Reference.parse(f"{registry.host}/{repository}"))
