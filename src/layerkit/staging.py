"""What BuildKit is given: the build context as files, its named contexts, the bake target."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from .errors import ConfigurationError
from .fingerprint import Inputs, hash_file
from .oci import Reference
from .runtime import bake, materialise

__all__ = ["link_checkpoint", "pins", "placeholder", "stage"]


def placeholder(folder: Path) -> Path:
    """The context that stands for the checkpoint: one marker file of fixed content and time."""
    folder.mkdir()
    marker = folder / bake.PLACEHOLDER_NAME
    marker.write_bytes(bake.PLACEHOLDER)
    os.utime(marker, (0, 0))
    return folder


def stage(inputs: Inputs, folder: Path) -> Path:
    """The build context as files, and the Dockerfile beside it."""
    folder.mkdir()
    materialise(inputs.files, folder)
    epoch = inputs.source_date_epoch or 0
    for file in inputs.files:
        if file.link:
            continue
        place, digest = folder / file.path, inputs.digests[file.path]
        if hash_file(place) != digest:
            raise ConfigurationError(f"{file.path}: changed while the build began", hint="run the build again")
        # BuildKit takes a file of the same path, size and time for the one that it was sent before, also by
        # another project (fsutil compares nothing else). So the time follows the content, below one day.
        os.utime(place, ns=(0, epoch * 10**9 + int(digest.hex[:15], 16) % (86400 * 10**9)))
    (folder.parent / "Dockerfile").write_text(inputs.dockerfile, encoding="utf-8")
    return folder


def pins(inputs: Inputs) -> Mapping[str, str]:
    """Named contexts that hold every base image to the digest that its key was made of."""
    pins = {}
    for text, base in inputs.bases.items():
        reference = Reference.parse(text)
        if base.pinned and base.digest is not None and base.digest.algorithm == "sha256" and not reference.digest:
            pins[text] = f"docker-image://{reference.name}:{reference.or_latest().tag}@{base.digest}"
    return pins


def link_checkpoint(inputs: Inputs, folder: Path) -> None:
    """The checkpoint's files alone in a folder, for BuildKit to read: linked where that is possible, else copied."""
    assert inputs.checkpoint is not None
    for file in inputs.checkpoint.files:
        place = folder / file.path
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(file.source, place)
        except OSError:
            shutil.copyfile(file.source, place)
