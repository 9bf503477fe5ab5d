"""A checkpoint's layers hashed, each byte read once: tars that are never written anywhere."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from ..errors import CheckpointError, Stopped
from ..oci import Digest, Layer
from .blueprint import CHUNK, Blueprint

if TYPE_CHECKING:
    from .compress import Compressed, Compressor

__all__ = ["Hashed", "Packer"]

_NICE = 10  # steps of setpriority(2) behind the rest of the process


@dataclass(frozen=True, slots=True)
class Hashed:
    """What hashing a layer gave.

    Attributes:
        digest: the tar's: the layer's diff_id, and its digest where it is not compressed.
        sections: path of a file -> name of a section of it (a tensor; "" for the whole) -> sha256.
    """

    digest: Digest
    sections: Mapping[str, Mapping[str, Digest]] = field(default_factory=dict)


class Packer:
    """Hashes the layers in a thread of its own, ahead of whoever sends them.

    Two digests are made of every byte in one pass: the layer's, and the file's own (what ``sha256sum`` prints),
    each on its own core. Who sends (``content``) reads the same bytes again, from memory: the two wait for each other
    where what one has read would be dropped from there before the other comes to it.

    Args:
        blueprints: the layers, in the order in which they are hashed.
        on_read: called with the number of checkpoint bytes just read, for progress.
        known: index -> what is known of that layer: it is not read.
        apart: most bytes of a layer between what is hashed and what is sent, unless somebody waits for a digest;
            None for as many as there are.
        stopped: asked before each chunk; where it says so, hashing ends, and who waits for a digest gets Stopped.
    """

    def __init__(
        self,
        blueprints: Sequence[Blueprint],
        on_read: Callable[[int], None] | None = None,
        known: Mapping[int, Hashed] | None = None,
        apart: int | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.blueprints = tuple(blueprints)
        self._given = frozenset(known or ())
        self._apart = apart
        self._at = (0, 0)  # the layer that is hashed, and how many bytes of it are
        self._line: dict[int, int] = {}  # index -> bytes that were sent
        self._waiting = 0  # for a digest
        self._on_read = on_read or (lambda count: None)
        self._condition = threading.Condition()
        self._hashed: dict[int, Hashed] = dict(known or {})
        self._sent: dict[int, Blueprint | Compressed] = {}
        self._compresses: dict[int, bool] = {}
        for index in self._hashed:
            if self.blueprints[index].compression == "none":
                self._sent[index] = self.blueprints[index]
        self._failure: BaseException | None = None
        self._stop = False
        self._stopped = stopped
        self._thread = threading.Thread(target=self._run, name="layerkit-hash", daemon=True)

    def start(self) -> Packer:
        self._thread.start()
        return self

    def stop(self) -> None:
        """End the thread, with the chunk that it reads; who still waits for a digest gets a CheckpointError."""
        with self._condition:
            self._stop = True
            self._condition.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def compresses(self, index: int) -> bool:
        """Whether layer *index* is sent compressed; with "auto", a few places of it are read to decide.

        Raises:
            CheckpointError: a file changed, or cannot be read.
        """
        blueprint = self.blueprints[index]
        if blueprint.compression == "auto" and index not in self._compresses:
            from .compress import shrinks

            self._compresses[index] = shrinks(blueprint)
        return blueprint.compression == "zstd" or self._compresses.get(index, False)

    def content(self, index: int) -> Blueprint | Compressed:
        """Layer *index* as it is sent: size, and bytes from any offset. What is compressed is waited for.

        Raises:
            CheckpointError: a file changed, or cannot be read.
        """
        if not self.compresses(index):
            blueprint = self.blueprints[index]
            if self._apart is None or index in self._hashed:
                return blueprint
            return _InStep(
                blueprint.files,
                blueprint.created_by,
                blueprint.pieces,
                blueprint.size,
                sent=partial(self._sent_to, index),
            )
        self.digest(index)
        return self._sent[index]

    def read_to_send(self, index: int) -> None:
        """Layer *index* was sent: its files were read for that alone, where nothing had to be hashed."""
        if index in self._given and type(self.blueprints[index]) is Blueprint:
            self._on_read(sum(file.size for file in self.blueprints[index].files))

    def layer(self, index: int) -> Layer:
        """Layer *index*; waits until its digest is known."""
        digest, content = self.digest(index), self._sent[index]
        return content.layer(digest) if isinstance(content, Blueprint) else content.layer()

    def digest(self, index: int) -> Digest:
        """The digest of layer *index* as it is sent; waits until it is known.

        Raises:
            CheckpointError: a file changed, or cannot be read.
        """
        with self._condition:
            self._waiting += 1
            self._condition.notify_all()
            self._condition.wait_for(lambda: index in self._sent or self._failure is not None)
            self._waiting -= 1
            if index in self._sent:
                return self._digest(index)
            assert self._failure is not None
            raise self._failure

    def known(self, index: int) -> Digest | None:
        """The digest of layer *index* if it is known by now."""
        with self._condition:
            return self._digest(index) if index in self._sent else None

    def _digest(self, index: int) -> Digest:
        content = self._sent[index]
        return self._hashed[index].digest if isinstance(content, Blueprint) else content.digest

    @property
    def failed(self) -> bool:
        with self._condition:
            return self._failure is not None

    def hashed(self) -> tuple[Hashed, ...]:
        """What each layer's hashing gave; waits until all are hashed."""
        for index in range(len(self.blueprints)):
            self.digest(index)
        return tuple(self._hashed[index] for index in range(len(self.blueprints)))

    def _run(self) -> None:
        _give_way()
        try:
            with _Beside() as beside:
                for index, blueprint in enumerate(self.blueprints):
                    hashed, content = self._hashed.get(index), self._sent.get(index)
                    if hashed is None or self.compresses(index):
                        hashed, content = self._hash(index, blueprint, beside)
                    with self._condition:
                        self._hashed[index] = hashed
                        self._sent[index] = content or blueprint
                        self._condition.notify_all()
        except BaseException as error:  # noqa: BLE001 - whatever it is, it belongs to who waits for the digest
            with self._condition:
                self._failure = error
                self._condition.notify_all()

    def _hashed_to(self, index: int, count: int) -> None:
        """Of layer *index*, *count* bytes are hashed: wait where whoever sends it is too far behind."""
        if (limit := self._apart) is not None:
            with self._condition:
                self._at = (index, count)
                self._condition.notify_all()
                self._condition.wait_for(
                    lambda: self._stop or self._waiting or count - self._line.get(index, 0) <= limit
                )

    def _sent_to(self, index: int, count: int) -> None:
        """Of layer *index*, *count* bytes are sent: wait where the hash is in it, and too far behind."""
        limit = self._apart or 0
        with self._condition:
            self._line[index] = count
            self._condition.notify_all()
            # Of several that are sent at a time, those whose turn has not come are not waited for. Who was ahead before
            # the hash came there, or goes on with an earlier run's upload, goes on: a registry that waited for the
            # hash to catch up would end the connection.
            self._condition.wait_for(
                lambda: (
                    self._stop
                    or self._failure
                    or index in self._sent
                    or index != self._at[0]
                    or not limit < count - self._at[1] <= limit + CHUNK
                )
            )

    def _hash(self, index: int, blueprint: Blueprint, beside: _Beside) -> tuple[Hashed, Blueprint | Compressed]:
        if not self.compresses(index):
            return self._read_all(index, blueprint, beside, None), blueprint
        from .compress import Compressor

        with Compressor() as compressor:
            hashed = self._read_all(index, blueprint, beside, compressor)
            return hashed, compressor.compressed(blueprint, hashed.digest)

    def _read_all(self, index: int, blueprint: Blueprint, beside: _Beside, compressor: Compressor | None) -> Hashed:
        whole = hashlib.sha256()
        own = {file.path: {name: hashlib.sha256() for name, _, _ in file.sections} for file in blueprint.files}
        for piece in blueprint.pieces:
            if piece.file is None:
                whole.update(piece.data)
                if compressor is not None:
                    compressor.count(piece.data)
                continue
            states = own[piece.file.path]
            left = [section for section in reversed(piece.file.sections) if section[2]]
            position = 0
            for chunk in piece.file.read(0, beside.take):
                self._hashed_to(index, piece.start + position)
                if self._stopped():
                    raise Stopped
                if self._stop:
                    raise CheckpointError("checkpoint: stopped before it was read to its end")
                while left and position >= left[-1][1] + left[-1][2]:
                    left.pop()
                whole.update(chunk)
                if compressor is not None:
                    compressor.count(chunk)
                inside = left and position >= left[-1][1]
                beside.update(states[left[-1][0]] if inside else None, chunk)
                position += len(chunk)
                self._on_read(len(chunk))
        beside.finish()
        sections = {
            path: {name: Digest("sha256", state.hexdigest()) for name, state in states.items()}
            for path, states in own.items()
        }
        return Hashed(Digest("sha256", whole.hexdigest()), sections)


@dataclass(frozen=True)
class _InStep(Blueprint):
    """A layer whose reader tells how far it is."""

    sent: Callable[[int], None] = lambda count: None

    def open(self, offset: int = 0) -> Iterator[memoryview]:
        for chunk in super().open(offset):
            yield chunk
            offset += len(chunk)
            self.sent(offset)


class _Beside:
    """A second thread that hashes what the first has read, from a few buffers that go round.

    hashlib leaves the interpreter to others while it works, so the two hashes run on two cores; a queue costs a
    fraction of a future a chunk (measured: 1.2 GB/s of both hashes, 0.6 GB/s with an executor).
    """

    _BUFFERS = 4

    def __init__(self) -> None:
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._work: SimpleQueue[tuple[Any, memoryview, memoryview] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="layerkit-hash-file", daemon=True)

    def __enter__(self) -> _Beside:
        for _ in range(self._BUFFERS):
            self._free.put(memoryview(bytearray(CHUNK)))
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._work.put(None)
        self._thread.join()

    def take(self) -> memoryview:
        """A buffer that nobody reads from."""
        self._taken = self._free.get()
        return self._taken

    def update(self, state: Any, chunk: memoryview) -> None:
        """Have *chunk*, in the buffer taken last, hashed into *state* (if any); its buffer comes back after that."""
        self._work.put((state, chunk, self._taken))

    def finish(self) -> None:
        """Wait until all is hashed."""
        buffers = [self._free.get() for _ in range(self._BUFFERS)]
        for buffer in buffers:
            self._free.put(buffer)

    def _run(self) -> None:
        _give_way()
        while (item := self._work.get()) is not None:
            state, chunk, buffer = item
            if state is not None:
                state.update(chunk)
            self._free.put(buffer)


def _give_way() -> None:
    """Let others have the processor first: who waits for the bytes that are being sent is waited for last.

    Measured on two cores that the registry is on as well: a swap takes 0.92 times as long. Linux's nice value is a
    thread's (setpriority(2), "C library/kernel differences"); elsewhere it is the process's, and stays.
    """
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            thread = threading.get_native_id()
            os.setpriority(os.PRIO_PROCESS, thread, min(os.getpriority(os.PRIO_PROCESS, thread) + _NICE, 19))
