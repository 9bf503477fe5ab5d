"""The weights hash: one digest for the same weights, whatever file, format or machine they come from.

docs/weights-hash.md has it to the byte, with test vectors. It is over each tensor's name, dtype, shape and
canonical bytes, in the order of the names, and over nothing else.
"""

from __future__ import annotations

import hashlib
import heapq
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ..errors import CheckpointError
from ..oci import Digest
from .reader import CHUNK, Reader
from .weights import Extent, Tensor, TensorInfo, Weights

__all__ = ["DOMAIN", "WeightsDigest", "combine", "hash_weights"]

DOMAIN = b"layerkit weights 1\n"


@dataclass(frozen=True)
class WeightsDigest:
    """The digest of weights, and that of each tensor's canonical bytes by its name."""

    digest: Digest
    tensors: Mapping[str, Digest]


def combine(tensors: Sequence[tuple[TensorInfo, Digest]]) -> Digest:
    """The weights hash, from what each tensor is and the sha256 of its canonical bytes. In any order."""
    state = hashlib.sha256(DOMAIN)
    state.update(struct.pack("<Q", len(tensors)))
    for info, digest in sorted(tensors, key=lambda item: item[0].name.encode()):
        for text in (info.name.encode(), info.dtype.encode()):
            state.update(struct.pack("<Q", len(text)) + text)
        state.update(struct.pack(f"<Q{len(info.shape)}Q", len(info.shape), *info.shape))
        state.update(bytes.fromhex(digest.hex))
    return Digest("sha256", state.hexdigest())


def hash_weights(weights: Weights, *, threads: int = 2, on_read: Callable[[int], None] | None = None) -> WeightsDigest:
    """Hash every tensor, *threads* at a time; memory is some megabytes a thread whatever the weights' size.

    Args:
        on_read: called with the number of canonical bytes just hashed, from any of the threads.

    Raises:
        CheckpointError: a file cannot be read, or changed meanwhile.
    """
    # Tensors of the same bytes (tied weights) are hashed once.
    places: dict[Extent, list[Tensor]] = {}
    for tensor in weights.tensors:
        places.setdefault(tensor.extent, []).append(tensor)
    found: dict[Extent, Digest] = {}
    failures: list[BaseException] = []

    def work(share: Sequence[Extent]) -> None:
        buffer = memoryview(bytearray(CHUNK))
        try:
            for extent in share:
                state = hashlib.sha256()
                for chunk in reader.read(places[extent][0], lambda: buffer):
                    if failures:
                        return
                    state.update(chunk)
                    if on_read is not None:
                        on_read(len(chunk))
                found[extent] = Digest("sha256", state.hexdigest())
        except BaseException as error:  # noqa: BLE001 - it belongs to who waits for the digest
            failures.append(error)

    with Reader() as reader:
        shares = _shares(places, threads)
        workers = [threading.Thread(target=work, args=(share,), name="layerkit-weights") for share in shares[1:]]
        for worker in workers:
            worker.start()
        try:
            work(shares[0])
        finally:  # nobody may read from a file that is closed
            for worker in workers:
                worker.join()
        if failures:
            raise failures[0]
    digests = {tensor.name: found[extent] for extent, tensors in places.items() for tensor in tensors}
    if len(digests) != len(weights.tensors):
        raise CheckpointError("checkpoint: two tensors of one name")
    whole = combine([(tensor.info, digests[tensor.name]) for tensor in weights.tensors])
    return WeightsDigest(whole, {tensor.name: digests[tensor.name] for tensor in weights.tensors})


def _shares(places: Mapping[Extent, Sequence[Tensor]], threads: int) -> list[list[Extent]]:
    """As equal as can be: the largest first, each to whoever has the least; each share in the order of the file."""
    sizes = {extent: tensors[0].info.nbytes for extent, tensors in places.items()}
    loads = [(0, index) for index in range(max(1, threads))]
    shares: list[list[Extent]] = [[] for _ in loads]
    for extent in sorted(sizes, key=lambda extent: (-sizes[extent], extent.offset)):
        load, index = heapq.heappop(loads)
        shares[index].append(extent)
        heapq.heappush(loads, (load + sizes[extent], index))
    return [sorted(share, key=lambda extent: (extent.file.path, extent.offset)) for share in shares]
