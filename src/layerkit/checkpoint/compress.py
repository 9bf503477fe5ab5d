"""Layers of checkpoints compressed with zstd, with no temporary copy: made once to be hashed, once more to be sent.

The tar is cut into stretches of 4 MiB, each a frame of its own (RFC 8878, section 3: frames follow each other and are
independent). Their compressed sizes are kept, so that the layer can be opened at any offset again: from the frame that
the offset is in, which is the same bytes each time. A higher level does not shrink weights further (measured: bf16 to
0.78, fp16 and fp32 to 0.92, level 1 and level 3 alike), and takes twice the time.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
from array import array
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError
from ..oci import MEDIA, Descriptor, Digest, Layer
from .blueprint import Blueprint

__all__ = ["Compressed", "Compressor", "needs_zstandard", "shrinks"]

FRAME = 4 * 1024 * 1024  # bytes of tar in a frame
LEVEL = 1
THREADS = 2
WORTH = 0.9  # a layer that does not shrink to this is sent as it is: each node has to unpack it
_SAMPLES = 16


def needs_zstandard(what: str = "checkpoint.compression: zstd") -> Any:
    """The package zstandard. *what* needs it, in the message.

    Raises:
        ConfigurationError: it is not installed.
    """
    try:
        import zstandard
    except ImportError:
        raise ConfigurationError(f"{what} needs the package zstandard", hint="pip install 'layerkit[zstd]'") from None
    return zstandard


def _frame(data: bytes) -> bytes:
    return bytes(needs_zstandard().ZstdCompressor(level=LEVEL, write_checksum=False).compress(data))


def shrinks(blueprint: Blueprint) -> bool:
    """Whether compressing the layer is worth it, by some places of it; the same for the same bytes.

    16 stretches of 256 KiB are read and compressed, less than 5 ms of work a stretch.
    """
    before = after = 0
    size = min(256 * 1024, blueprint.size)
    for number in range(_SAMPLES):
        offset = (blueprint.size - size) * number // (_SAMPLES - 1)
        sample = b"".join(bytes(chunk) for chunk in _first(blueprint.open(offset), size))
        before += len(sample)
        after += len(_frame(sample))
    return after < WORTH * before


def _first(chunks: Iterator[memoryview], size: int) -> Iterator[memoryview]:
    for chunk in chunks:
        yield chunk[:size]
        size -= len(chunk)
        if size <= 0:
            return


class Compressor:
    """Compresses a stream frame by frame, in two threads, in order. Use it as a context manager.

    Memory: at most a handful of frames, whatever the stream's length.
    """

    def __init__(self) -> None:
        needs_zstandard()
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="layerkit-zstd")
        self._waiting: deque[Future[bytes]] = deque()
        self._buffer = bytearray()
        self._whole = hashlib.sha256()
        self._sizes = array("L")

    def __enter__(self) -> Compressor:
        return self

    def __exit__(self, *exc: object) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def add(self, data: bytes | memoryview) -> Iterator[bytes]:
        """Take *data*, which may be used again afterwards; the frames that are done by now."""
        self._buffer += data
        while len(self._buffer) >= FRAME:
            yield from self._submit(bytes(self._buffer[:FRAME]))
            del self._buffer[:FRAME]

    def finish(self) -> Iterator[bytes]:
        """The frames that are left."""
        if self._buffer:
            yield from self._submit(bytes(self._buffer))
            self._buffer.clear()
        while self._waiting:
            yield self._waiting.popleft().result()

    def count(self, data: bytes | memoryview) -> None:
        """Take *data* for the digest and the sizes alone; the compressed bytes are thrown away."""
        self._counted(self.add(data))

    def compressed(self, source: Blueprint, diff_id: Digest) -> Compressed:
        """The layer, all of whose bytes were counted."""
        self._counted(self.finish())
        return Compressed(source, Digest("sha256", self._whole.hexdigest()), diff_id, self._sizes)

    def _counted(self, frames: Iterable[bytes]) -> None:
        for frame in frames:
            self._whole.update(frame)
            self._sizes.append(len(frame))

    def _submit(self, data: bytes) -> Iterator[bytes]:
        self._waiting.append(self._pool.submit(_frame, data))
        while len(self._waiting) > 2 * THREADS:
            yield self._waiting.popleft().result()

    def frames(self, chunks: Iterable[bytes | memoryview]) -> Iterator[bytes]:
        """All frames of *chunks*."""
        for chunk in chunks:
            yield from self.add(chunk)
        yield from self.finish()


@dataclass(frozen=True)
class Compressed:
    """A layer as it is sent: the same as its blueprint to who sends it, but compressed.

    Attributes:
        source: the tar.
        digest, diff_id: of the compressed and of the plain bytes.
        sizes: bytes of each frame, in order.
    """

    source: Blueprint
    digest: Digest
    diff_id: Digest
    sizes: array[int] = field(repr=False)

    @property
    def size(self) -> int:
        """Bytes of the compressed layer."""
        return sum(self.sizes)

    def open(self, offset: int = 0) -> Iterator[bytes]:
        """The compressed bytes from *offset* on.

        Raises:
            CheckpointError: a file is not what it was, or changed while it was read.
        """
        ends = list(itertools.accumulate(self.sizes))
        first = bisect.bisect_right(ends, offset)
        if first == len(ends):
            return
        skip = offset - (ends[first - 1] if first else 0)
        with Compressor() as compressor:
            for frame in compressor.frames(self.source.open(first * FRAME)):
                yield frame[skip:]
                skip = 0

    def layer(self) -> Layer:
        descriptor = Descriptor(MEDIA.LAYER_ZSTD, self.digest, self.size)
        return Layer(descriptor, self.diff_id, self.source.created_by)
