"""What BuildKit is given: the build context as files, its named contexts, the bake target."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from .checkpoint import Content, File
from .errors import ConfigurationError, LocalResourceError, printable
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
    # What lies there was chosen already. BuildKit prefers this file to a .dockerignore among them, which is there for
    # a COPY of it alone. A comment, for an empty file could be taken for none.
    (folder.parent / "Dockerfile.dockerignore").write_text("# nothing is left out\n", encoding="utf-8")
    return folder


def pins(inputs: Inputs) -> Mapping[str, str]:
    """Named contexts that hold every base image to the digest that its key was made of."""
    pins = {}
    for text, base in inputs.bases.items():
        reference = Reference.parse(text)
        if base.pinned and base.digest is not None and base.digest.algorithm == "sha256" and not reference.digest:
            pins[text] = f"docker-image://{reference.name}:{reference.or_latest().tag}@{base.digest}"
    return pins


def link_checkpoint(inputs: Inputs, folder: Path) -> int:
    """The checkpoint's files as they are in the image alone in a folder, for BuildKit to read; their bytes.

    Linked where that is possible, else copied; what is made of the weights is written there.

    Raises:
        CheckpointError: a file cannot be read, or changed meanwhile.
        LocalResourceError: no room for them.
    """
    assert inputs.checkpoint is not None
    contents = inputs.checkpoint.contents
    for content in contents:
        place = folder / content.path
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            if not isinstance(content, File):
                _write(content, place)
                continue
            try:
                os.link(content.source, place)
            except OSError:
                shutil.copyfile(content.source, place)
        except OSError as error:
            raise LocalResourceError(
                f"{printable(content.path)}: cannot be written for BuildKit: {error.strerror}",
                hint=f"it takes {content.size} bytes in the folder for temporary files (TMPDIR)",
            ) from None
    return sum(content.size for content in contents)


def _write(content: Content, place: Path) -> None:
    buffer = memoryview(bytearray(1024 * 1024))
    with place.open("xb") as stream:
        for chunk in content.read(0, lambda: buffer):
            stream.write(chunk)
