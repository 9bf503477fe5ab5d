"""Weights into a program: ``layerkit.load_weights``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .opening import open_weights
from .tensors import mapped

if TYPE_CHECKING:
    from .tensors import TensorDict

__all__ = ["load_weights"]


def load_weights(path: str | Path, *, key: str = "") -> TensorDict:
    """The weights at *path* by name, sorted, on the CPU: ``model.load_state_dict(layerkit.load_weights(path))``.

    The files are mapped: nothing is read before it is used, and processes of one machine share the memory. The
    tensors may be written to; that stays in this process. Only torch is needed, not the safetensors package.

    Args:
        path: a safetensors file, a folder with ``model.safetensors.index.json`` or one file of weights, or what
            ``torch.save`` wrote (read by the rules of ``weights_only``).
        key: dotted name of the state dict in what torch.save wrote; the obvious one where left out.

    Raises:
        CheckpointError: missing, damaged, unsafe, or of no known format.
        LocalResourceError: no torch.
    """
    return mapped(open_weights(path, key).tensors)
