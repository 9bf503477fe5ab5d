"""The checkpoint's layers to a registry: several at a time, each once a machine, gone on with where it stopped."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..checkpoint import Blueprint, Packer
from ..checkpoint.compress import Compressed
from ..errors import CheckpointError, IntegrityError, Stopped, printable
from ..events import Listener, Note, Transfer
from ..oci import MEDIA, Descriptor, Digest, Layer
from ..registry import Repository, Standing, UploadDropped
from ..state import State, as_text
from .base import Sent

__all__ = ["HASH_FIRST", "LAYER_JOBS", "Again", "Beside", "Sending", "sample"]

T = TypeVar("T")

LAYER_JOBS = 4  # uploads at a time: docs/reliability.md, "How many at a time"
# A layer below this is hashed before it is sent: that takes under 0.1 s, and saves an upload for nothing.
HASH_FIRST = 64 * 1024 * 1024  # bytes
_SAMPLES, _SAMPLE_SIZE = 16, 4096
_UPLOAD = "upload"  # kind of record
_SESSION_LIFE = 6 * 24 * 3600  # seconds; distribution purges uploads after a week
_LOCK_PAUSE = 0.1  # seconds between two looks at a lock


class Sending:
    """One run's layers on their way into *repository*.

    ``jobs``: how many at a time. ``mounted``: indices of those that the registry has taken over already.
    """

    def __init__(
        self,
        repository: Repository,
        state: State,
        packer: Packer,
        listener: Listener,
        jobs: int,
        mounted: frozenset[int] = frozenset(),
    ) -> None:
        self._repository = repository
        self._state = state
        self._packer = packer
        self._listener = listener
        self._jobs = jobs
        self._mounted = mounted

    def run(self, stopped: Callable[[], bool]) -> Sent:
        """Send what is not there yet, while it is hashed.

        Raises:
            Stopped: *stopped* said so; what arrived is kept for the next run.
            LayerkitError: what the first failing layer raised.
        """
        self._forget_old_sessions()
        found: dict[int, _Outcome] = {}
        left, lock = list(reversed(range(len(self._packer.blueprints)))), threading.Lock()
        failed: list[BaseException] = []

        def work() -> None:
            try:
                while True:
                    with lock:
                        if not left:
                            return
                        index = left.pop()
                    found[index] = self._send_layer(index, lambda: stopped() or bool(failed))
            except BaseException as error:
                failed.append(error)
                self._packer.stop()  # others may wait for their layer's digest, and for all that is hashed before it
                raise

        # One after the other in the order in which they are hashed; the hash is ahead of the line, if not of the disk.
        workers = [Beside(work) for _ in self._packer.blueprints[: self._jobs]]
        for worker in workers:
            worker.wait()
        # What failed first has stopped the others.
        for error in sorted(failed, key=lambda error: isinstance(error, Stopped)):
            raise error
        outcomes = [found[index] for index in sorted(found)]
        return Sent(
            tuple(outcome.layer for outcome in outcomes),
            sum(outcome.layer.descriptor.size for outcome in outcomes if not outcome.there),
            sum(outcome.layer.descriptor.size for outcome in outcomes if outcome.there),
            sum(outcome.dropped for outcome in outcomes),
            frozenset(outcome.layer.descriptor.digest for outcome in outcomes if not outcome.there),
            frozenset(found[index].layer.descriptor.digest for index in self._mounted),
        )

    def _send_layer(self, index: int, stopped: Callable[[], bool]) -> _Outcome:
        blueprint = self._packer.blueprints[index]
        if index in self._mounted:
            return _Outcome(self._packer.layer(index), there=True, dropped=0)
        label = blueprint.label
        if self._packer.known(index) is not None:
            layer = self._packer.layer(index)
            if self._repository.present(layer.descriptor):
                size = layer.descriptor.size
                self._listener(Transfer(f"checkpoint-{index}", label, size, size, "dropped"))
                return _Outcome(layer, there=True, dropped=0)
        taste = sample(blueprint)
        told = False

        def wait() -> None:
            nonlocal told
            if stopped():
                raise Stopped
            if not told:
                self._listener(Note(f"{label}: another build on this machine sends it; waiting for that"))
                told = True
            time.sleep(_LOCK_PAUSE)

        dropped = 0
        with self._state.alone(f"{self._repository.name} {taste}", wait) as waited:
            seen = self._state.get("sample", taste, Digest.parse) is not None
            if waited or seen or blueprint.size < HASH_FIRST:
                self._packer.digest(index)
            content = self._packer.content(index)
            transfer = _Upload(self._repository, self._packer, index, content, label, self._listener, stopped)
            there = transfer.cancelled()
            try:
                if not there:
                    journal = _Journal(self._state, self._repository.name, blueprint, content.size)
                    self._repository.upload(transfer, progress=transfer.progress, journal=journal)
                    self._packer.read_to_send(index)
            except UploadDropped:
                there = True
                dropped = transfer.done
            except IntegrityError:
                self._check_unchanged(index, content)
                raise
            layer = self._packer.layer(index)
            self._state.put("sample", taste, str(layer.descriptor.digest))
        self._listener(Transfer(transfer.id, label, content.size, content.size, "dropped" if there else "finished"))
        return _Outcome(layer, there, dropped)

    def _check_unchanged(self, index: int, content: Blueprint | Compressed) -> None:
        """The registry got other bytes than were hashed: hurt on their way, or of files that changed (FAULTS 7).

        A file that is written to through a mapping keeps its time for a while, so that only its bytes can tell.

        Raises:
            CheckpointError: they are not what they were.
        """
        if self._packer.blueprints[index].known is not None:
            return  # of another registry, which holds them to their digest itself
        state = hashlib.sha256()
        for chunk in content.open():
            state.update(chunk)
        if state.hexdigest() != self._packer.digest(index).hex:
            label = printable(self._packer.blueprints[index].label)
            raise CheckpointError(
                f"checkpoint: {label} changed while it was read; nothing was tagged",
                hint="build again when it is no longer written to",
            ) from None

    def _forget_old_sessions(self) -> None:
        self._state.all(_UPLOAD, _standing)


class Beside(Generic[T]):
    """Work in a thread that does not keep the process alive: Ctrl-C need not wait for a silent registry."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._done: list[T] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="layerkit-registry", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._done.append(self._work())
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            self._error = error

    def wait(self) -> BaseException | None:
        """What it raised, once it has ended."""
        self._thread.join()
        return self._error

    def result(self) -> T:
        if (error := self.wait()) is not None:
            raise error
        return self._done[0]


@dataclass(frozen=True, slots=True)
class Again:
    """Content whose digest is known, to be sent whatever the registry says that it has."""

    known: Digest
    size: int
    read: Callable[[int], Iterator[memoryview | bytes]]

    @classmethod
    def of(cls, data: bytes) -> Again:
        return cls(Digest.of(data), len(data), lambda offset: iter([data[offset:]]))

    def open(self, offset: int = 0) -> Iterator[memoryview | bytes]:
        return self.read(offset)

    def digest(self) -> Digest:
        return self.known

    def cancelled(self) -> bool:
        return False


class _Upload:
    """A layer as the registry client wants it: size, bytes from any offset, and a digest that comes later."""

    def __init__(
        self,
        repository: Repository,
        packer: Packer,
        index: int,
        content: Blueprint | Compressed,
        label: str,
        listener: Listener,
        stopped: Callable[[], bool],
    ) -> None:
        self.size = content.size
        self._content = content
        self.id = f"checkpoint-{index}"
        self.done = 0
        self._repository = repository
        self._packer = packer
        self._index = index
        self._label = label
        self._listener = listener
        self._stopped = stopped
        self._asked: bool | None = None

    def open(self, offset: int = 0) -> Iterator[memoryview | bytes]:
        return self._content.open(offset)

    def digest(self) -> Digest:
        return self._packer.digest(self._index)

    def cancelled(self) -> bool:
        """The layer turned out to be there, or cannot be hashed; asked between chunks.

        Raises:
            Stopped: the run was stopped. The upload is left as it stands, for the next one.
        """
        if self._stopped():
            raise Stopped
        if self._packer.failed:
            return True
        if self._asked is None and (digest := self._packer.known(self._index)) is not None:
            self._asked = self._repository.present(Descriptor(MEDIA.LAYER, digest, self.size))
        return bool(self._asked)

    def progress(self, done: int) -> None:
        note = "starting again" if done < self.done else ""
        self.done = done
        self._listener(Transfer(self.id, self._label, done, self.size, note=note))


class _Journal:
    """Where the upload of one layer stands, in the state folder.

    A layer is known again by the identities of its files (device, inode, size, times), the rest of its tar and
    the repository that it goes to: a file that was written to since gets another key, and is never gone on with.
    """

    def __init__(self, state: State, repository: str, blueprint: Blueprint, size: int) -> None:
        self._state = state
        self._key = hashlib.sha256(f"{repository} {blueprint.mark} {size}".encode()).hexdigest()

    def load(self) -> Standing | None:
        return self._state.get(_UPLOAD, self._key, _standing)

    def save(self, standing: Standing) -> None:
        value = {"url": standing.url, "held": standing.held, "least_chunk": standing.least_chunk, "time": time.time()}
        self._state.put(_UPLOAD, self._key, value)

    def clear(self) -> None:
        self._state.drop(_UPLOAD, self._key)


def _standing(value: Any) -> Standing:
    if not 0 <= time.time() - value["time"] < _SESSION_LIFE:
        raise ValueError("the registry has forgotten it")
    return Standing(as_text(value["url"]), int(value["held"]), int(value["least_chunk"]))


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of one layer. ``there``: it was there; ``dropped``: bytes sent before that was known."""

    layer: Layer
    there: bool
    dropped: int


def sample(blueprint: Blueprint) -> str:
    """A hash of a few places of the layer: the same for the same layer, and read in no time.

    It proves nothing, and decides only whether to hash before sending: weights swapped back to earlier ones
    should not be sent and dropped, new weights should not wait.
    """
    if blueprint.known is not None:
        return blueprint.known.hex
    state = hashlib.sha256(f"{blueprint.size} {blueprint.created_by}".encode())
    for number in range(_SAMPLES):
        for chunk in blueprint.open(max(0, (blueprint.size - _SAMPLE_SIZE) * number // (_SAMPLES - 1))):
            state.update(chunk[:_SAMPLE_SIZE])
            break
    return state.hexdigest()
