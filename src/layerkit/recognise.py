"""Weights that were saved anew: hashed before anything is decided, where they look like those that are there."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from .events import Listener, Note
from .fingerprint import Inputs
from .oci import Layer
from .planner import Present
from .state import State

__all__ = ["recognise"]

_PAUSE = 10.0  # seconds between two lines on how far it is


def recognise(
    inputs: Inputs,
    present: Present,
    state: State,
    look: Callable[[str], tuple[Layer, ...] | None],
    listener: Listener,
) -> tuple[Inputs, Present]:
    """*inputs* and *present* with more known of the checkpoint, where its samples are those of layers that exist.

    Args:
        look: a checkpoint's key -> its layers, if they are at the destination.

    Raises:
        CheckpointError: a file cannot be read, or changed meanwhile.
    """
    checkpoint = inputs.checkpoint
    if checkpoint is None or checkpoint.made is None or checkpoint.known:
        return inputs, present
    count, told = 0, time.monotonic()

    def add(more: int) -> None:
        nonlocal count, told
        if not count:
            listener(Note("the weights look like those of an earlier build: hashing what looks the same"))
        count += more
        if time.monotonic() - told > _PAUSE:
            told = time.monotonic()
            listener(Note(f"hashing what looks the same: {count / 2**30:.1f} GiB"))

    made = checkpoint.made.recognised(present.samples, state, add)
    if made is checkpoint.made:
        return inputs, present
    checkpoint = replace(checkpoint, made=replace(made, read=count))
    inputs = replace(inputs, checkpoint=checkpoint)
    layers = look(checkpoint.key) if checkpoint.key is not None else None
    if layers is None:
        return inputs, present
    there = present.blobs | {layer.descriptor.digest for layer in layers}
    return inputs, replace(present, checkpoint=layers, blobs=there)
