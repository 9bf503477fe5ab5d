"""The network, and how a checkpoint of it is loaded. Shared by train.py and serve.py."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

SIDE = 8  # pixels; a digit is SIDE * SIDE numbers
DARKEST = 16.0  # pixels are 0 (white) to 16, as in sklearn.datasets.load_digits


class DigitNet(nn.Module):
    """Two convolutions and two linear layers, some 139,000 parameters: (batch, 64) pixels -> (batch, 10) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Dropout(0.25), nn.Linear(32 * 4 * 4, 256), nn.ReLU(), nn.Linear(256, 10)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (batch, 10) of *pixels* (batch, 64), each 0 to 16."""
        images = pixels.reshape(-1, 1, SIDE, SIDE) / DARKEST
        logits: Tensor = self.classifier(self.features(images))
        return logits

    @torch.inference_mode()
    def predict(self, digits: Sequence[Sequence[float]]) -> tuple[list[int], list[list[float]]]:
        """Labels (n,) and probabilities (n, 10) of *digits* (n, 64), each number 0 to 16."""
        probabilities = self(torch.tensor(digits, dtype=torch.float32)).softmax(dim=1)
        return probabilities.argmax(dim=1).tolist(), probabilities.tolist()


def load(path: str | Path) -> tuple[DigitNet, dict[str, Any]]:
    """The network of the checkpoint at *path*, ready to predict, and the checkpoint's ``epoch`` and ``accuracy``.

    Nothing in the file is executed (``weights_only``). Its pages are mapped, not read: the optimizer's half
    of the file is never touched, and processes that serve the same file share the memory.

    Raises:
        OSError: the file is not there or cannot be read.
        ValueError: it is no checkpoint of this network.
    """
    with open(path, "rb"):  # torch reports a missing file in several ways
        pass
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        with torch.device("meta"):
            network = DigitNet()
        network.load_state_dict(checkpoint["state_dict"], assign=True)
        about = {"epoch": int(checkpoint["epoch"]), "accuracy": float(checkpoint["accuracy"])}
    except Exception as error:  # what torch raises for a wrong file has nothing else in common
        reason = (str(error).splitlines() or [""])[0]
        raise ValueError(f"{path} is no checkpoint of this network: {type(error).__name__}: {reason}") from error
    return network.requires_grad_(False).eval(), about
