"""Train the network on scikit-learn's digits, and write checkpoint.pth.tar and heldout.json.

    python train.py --seed 1 --epochs 8 --output checkpoint.pth.tar

The held-out digits are the same for every seed, and are written out as JSON, so that a server can be judged
from outside of its container without scikit-learn (evaluate.py). The same seed on the same machine gives the
same checkpoint, byte for byte.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

# isort: split
from model import DigitNet

BATCH = 32


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels (1437, 64) and labels (1437,) to train with, pixels (360, 64) and labels (360,) held out."""
    pixels, labels = load_digits(return_X_y=True)
    seen, held, seen_labels, held_labels = train_test_split(
        torch.tensor(pixels, dtype=torch.float32), torch.tensor(labels), test_size=0.2, stratify=labels, random_state=0
    )
    return seen, seen_labels, held, held_labels


@torch.inference_mode()
def accuracy(network: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    """The share of *pixels* that *network* labels right, 0 to 1."""
    network.eval()
    return (network(pixels).argmax(dim=1) == labels).float().mean().item()


def train_epoch(network: nn.Module, optimizer: Optimizer, rate: LRScheduler, pixels: Tensor, labels: Tensor) -> None:
    """One pass over *pixels*, in random order."""
    network.train()
    for batch in torch.randperm(len(pixels)).split(BATCH):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(pixels[batch]), labels[batch]).backward()
        optimizer.step()
        rate.step()


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Have *write* fill a file beside *path*, which then takes its name: nobody sees half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train a small CNN on scikit-learn's digits.")
    parser.add_argument("--seed", type=int, default=0, help="of weights, batches and dropout (default 0)")
    parser.add_argument("--epochs", type=int, default=8, help="passes over the digits (default 8)")
    parser.add_argument("--output", type=Path, default=Path("checkpoint.pth.tar"), help="the checkpoint to write")
    parser.add_argument("--heldout", type=Path, help="held-out digits to write (default: heldout.json beside it)")
    options = parser.parse_args()
    if options.epochs < 1:
        parser.error("--epochs must be at least 1")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    heldout = options.heldout or options.output.with_name("heldout.json")

    begun = time.monotonic()
    torch.set_num_threads(1)  # batches are too small to share, and sums come out the same on any number of cores
    torch.manual_seed(options.seed)
    pixels, labels, held_pixels, held_labels = digits()
    network = DigitNet()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    steps = options.epochs * -(-len(pixels) // BATCH)
    rate = OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    reached = 0.0
    for epoch in range(1, options.epochs + 1):
        train_epoch(network, optimizer, rate, pixels, labels)
        reached = accuracy(network, held_pixels, held_labels)
        print(f"epoch {epoch:2}/{options.epochs}  held-out accuracy {reached:.4f}", flush=True)

    checkpoint = {
        "epoch": options.epochs,
        "state_dict": network.state_dict(),
        "optimizer": optimizer.state_dict(),
        "accuracy": reached,
    }
    # To a stream: given a path, torch.save writes the file's name into the archive.
    write_atomically(options.output, lambda stream: torch.save(checkpoint, stream))
    document = json.dumps({"digits": held_pixels.int().tolist(), "labels": held_labels.tolist()})
    write_atomically(heldout, lambda stream: stream.write(document.encode()))
    print(f"{options.output}: {options.output.stat().st_size:,} bytes, {time.monotonic() - begun:.1f} s")


if __name__ == "__main__":
    main()
