"""A checkpoint on its way to the destination: read once, hashed while it is sent, in a thread beside the build."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from .assemble import PackedCheckpoint
from .checkpoint import Packer
from .checkpoint.pack import Hashed
from .checkpoint_inputs import CheckpointInputs
from .destinations import Destination, Sent
from .errors import LayerkitError, Stopped
from .events import Listener
from .memory import for_files
from .oci import Digest, Layer
from .state import State

__all__ = ["Count", "Packed", "Task", "pack"]

# What does not fit into half of the memory that files may take is hashed and sent side by side, at most so many bytes
# apart. Measured with 2 GiB in a control group of 300 MiB: 2.1 to 2.4 GiB are read from the disk, 3.1 to 3.9 where each
# goes at its own pace, and 3.0 where they are a tenth of that memory apart: the kernel does not drop the oldest first.
_SIDE_BY_SIDE = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Packed:
    """What was sent.

    Attributes:
        packer: can read a layer again, where a registry has lost it.
        sent: its layers, and what they cost.
        key, content: of the checkpoint, known by now.
        read: bytes of files.
        checkpoint: all of it known.
    """

    packer: Packer
    sent: Sent
    key: str
    content: Digest
    read: int
    checkpoint: CheckpointInputs


def pack(
    checkpoint: CheckpointInputs,
    there: Collection[Digest],
    destination: Destination,
    state: State,
    listener: Listener,
    stopped: Callable[[], bool],
) -> Packed:
    """Send the layers of *checkpoint* that are not there, and record them under its key.

    Args:
        there: layers that the destination has: those of unchanged files are not read.

    Raises:
        Stopped: *stopped* said so.
        LayerkitError: its files, the hub or the destination fail.
    """
    checkpoint = checkpoint.fetched()
    count = Count()
    known = {index: hashed for index, hashed in checkpoint.hashed.items() if hashed.digest in there}
    known |= checkpoint.made.hashed() if checkpoint.made is not None else {}
    known |= {index: Hashed(layer.known) for index, layer in enumerate(checkpoint.remote) if layer.known}
    # Docker unpacks what it is given at once: nothing is gained there.
    compression = "none" if destination.kind == "docker" else checkpoint.recipe.compression
    blueprints = [replace(blueprint, compression=compression) for blueprint in checkpoint.blueprints]
    fits = sum(blueprint.size for blueprint in blueprints) <= for_files() // 2
    packer = Packer(blueprints, count.add, known, None if fits else _SIDE_BY_SIDE, stopped).start()
    try:
        sent = destination.send(packer, listener, stopped)
        if checkpoint.elsewhere is None:
            checkpoint = checkpoint.packed(packer.hashed(), state, count.add)
    finally:
        packer.stop()
    key, content = checkpoint.key, checkpoint.digest
    assert key is not None and content is not None
    if compression != "none" and (first := destination.checkpoint(key)) is not None:
        # Compressed by another version of zstd they may be other bytes, of the same tars: the first ones stay.
        sent = _instead(sent, first)
    made = PackedCheckpoint(sent.layers, key, content, checkpoint.ownership, checkpoint.weights, checkpoint.location)
    kept = destination.keep_checkpoint(made, packer)
    return Packed(packer, replace(sent, uploaded=sent.uploaded + kept), key, content, count.value, checkpoint)


def _instead(sent: Sent, kept: tuple[Layer, ...]) -> Sent:
    """The layers that were *kept* under the checkpoint's key, in place of those *sent*."""
    there = {layer.descriptor.digest: layer.descriptor.size for layer in kept}
    new = sent.new & there.keys()
    reused = sum(size for digest, size in there.items() if digest not in new)
    return replace(sent, layers=kept, reused=reused, new=new)


class Count:
    """Bytes, added up by one thread and read by another."""

    def __init__(self) -> None:
        self.value = 0

    def add(self, count: int) -> None:
        self.value += count


class Task:
    """One piece of work in a thread that does not keep the process alive."""

    def __init__(self, work: Callable[[], Packed]) -> None:
        self._work = work
        self._value: Packed | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="layerkit-checkpoint", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            self._value = self._work()
        except BaseException as error:  # noqa: BLE001 - raised again where the result is asked for
            self._error = error

    @property
    def failed(self) -> bool:
        return self._error is not None

    def result(self) -> Packed:
        """What it became, once it has ended; what it raised is raised here."""
        # In short waits: a join without limit does not let Ctrl-C through on every platform.
        while self._thread.is_alive():
            self._thread.join(0.1)
        if self._error is not None:
            raise self._error
        assert self._value is not None
        return self._value

    def join(self) -> None:
        """Wait for its end, a second at most: nobody waits for a registry that says nothing."""
        self._thread.join(1.0)
        if self._error is not None and not isinstance(self._error, Stopped | LayerkitError):
            raise self._error
