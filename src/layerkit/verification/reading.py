"""Layers read side by side, each once, also where several platforms have it; and how much that was."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import TracebackType
from typing import TypeAlias

from ..anatomy.peek import peek
from ..errors import IntegrityError, LayerkitError, LocalResourceError
from ..events import Listener, Note
from ..oci import Descriptor, Digest
from .result import BytesRead, Mismatch
from .scan import Known, Node, Scan, scan_layer
from .subject import Subject
from .view import View, view

__all__ = ["Layers", "Progress", "Scans"]

# What reading a layer gave, by its digest, and whether files and tensors were hashed.
Scans: TypeAlias = dict[tuple[Digest, bool, bool], Scan]

_THREADS = 2
_PAUSE = 10.0  # seconds between two lines on how far it is


class Progress:
    """Says now and then how far it is. Thread-safe."""

    def __init__(self, listener: Listener) -> None:
        self._listener, self._lock, self._stopped = listener, threading.Lock(), False
        self._told, self.layers, self.local = time.monotonic(), 0, 0

    def stop(self) -> None:
        self._stopped = True

    def of_layers(self, count: int) -> None:
        self._add(count, 0)

    def of_files(self, count: int) -> None:
        self._add(0, count)

    def _add(self, layers: int, local: int) -> None:
        if self._stopped:
            raise LocalResourceError("stopped")
        with self._lock:
            self.layers += layers
            self.local += local
            if time.monotonic() - self._told < _PAUSE:
                return
            self._told = time.monotonic()
            said = f"{self.layers / 2**30:.1f} GiB of the image, {self.local / 2**30:.1f} GiB of files read"
        self._listener(Note(said))


class Layers:
    """Reads the layers of *subject*.

    Args:
        cache: digest -> what reading a layer gave, for other platforms of the image; the bytes count once.
    """

    def __init__(self, subject: Subject, cache: Scans, progress: Progress, key: str) -> None:
        self.subject, self._cache, self._progress, self._key = subject, cache, progress, key
        self.read = BytesRead(looks=subject.looks)
        self.failures: list[Mismatch] = []
        self.read_layers = 0
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="layerkit-verify")

    def __enter__(self) -> Layers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._progress.stop()
        self._pool.shutdown(wait=kind is None, cancel_futures=True)

    def weights(self, indexes: Iterable[int], *, tensors: bool, digests: bool = True) -> dict[int, Sequence[Node]]:
        """Index -> entries of each of the checkpoint's layers; what a damaged one lacks is in ``failures``.

        Args:
            tensors, digests: hash the tensors of files that hold weights; hash files.

        Raises:
            LayerkitError: a layer cannot be had at all.
        """
        wanted = list(indexes)
        found: dict[int, Sequence[Node]] = {}
        for index, scan in zip(wanted, self._scan(wanted, digests, tensors), strict=True):
            self.read += BytesRead(checkpoint=scan.read)
            found[index] = scan.nodes
        self.read_layers += len(wanted)
        return found

    def names(self, indexes: Iterable[int]) -> dict[int, Sequence[Node]]:
        """Index -> names of the files of each layer, by ranges of it where that is enough."""
        found: dict[int, Sequence[Node]] = {}
        whole = []
        for index in indexes:
            nodes = self._look(index)
            if nodes is None:
                whole.append(index)
            else:
                found[index] = nodes
        return found | self.weights(whole, tensors=False)

    def _look(self, index: int) -> Sequence[Node] | None:
        found = self.subject.found
        if found.read is None:
            return None
        looks = 0

        def read(descriptor: Descriptor, start: int, end: int) -> bytes | None:
            nonlocal looks
            got = found.read(descriptor, start, end) if found.read is not None else None
            looks += len(got or b"")
            return got

        try:
            seen = peek(self.subject.image.manifest.layers[index], read)
        except LayerkitError:
            return None
        finally:
            self.read += BytesRead(looks=looks)
        if not seen.whole:
            return None
        return [Node(file.path, "file", Known(file.size, None)) for file in seen.files]

    def above(self) -> dict[int, Sequence[Node]]:
        """Index -> entries of each layer over the checkpoint's."""
        wanted = self.subject.above
        found: dict[int, Sequence[Node]] = {}
        for index, scan in zip(wanted, self._scan(wanted, False, False), strict=True):
            self.read += BytesRead(above=scan.read)
            found[index] = scan.nodes
        return found

    def seen(self, own: dict[int, Sequence[Node]], above: dict[int, Sequence[Node]]) -> View:
        """What is seen of the checkpoint's files *own* under the layers *above*."""
        everything = [(index, True, nodes) for index, nodes in own.items()]
        everything += [(index, False, nodes) for index, nodes in above.items()]
        return view(sorted(everything, key=lambda item: item[0]))

    def _scan(self, indexes: Sequence[int], digests: bool, tensors: bool) -> list[Scan]:
        return list(self._pool.map(lambda index: self._one(index, digests, tensors), indexes))

    def _one(self, index: int, digests: bool, tensors: bool) -> Scan:
        image, stream = self.subject.image, self.subject.found.stream
        descriptor, diff_id = image.manifest.layers[index], image.config.diff_ids[index]
        done = self._cache.get((descriptor.digest, digests, tensors))
        if done is not None:
            return replace(done, read=0)
        assert stream is not None
        counted = 0

        def count(more: int) -> None:
            nonlocal counted
            counted += more
            self._progress.of_layers(more)

        try:
            scan = scan_layer(
                descriptor,
                diff_id,
                stream(descriptor),
                digests=digests,
                tensors=tensors,
                key=self._key,
                on_read=count,
            )
        except IntegrityError as error:
            self.failures.append(Mismatch("layer", str(descriptor.digest), str(diff_id), error.message))
            return Scan((), counted)
        self._cache[descriptor.digest, digests, tensors] = scan
        return scan
