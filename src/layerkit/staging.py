"""What BuildKit is given: the build context as files, its named contexts, the bake target."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from .checkpoint import Content, File
from .errors import ConfigurationError, LocalResourceError, printable
from .fingerprint import Inputs, hash_file
from .oci import Digest, Reference
from .runtime import bake, materialise
from .state import Identity, State

__all__ = ["Links", "link_checkpoint", "pins", "placeholder", "stage", "workplace"]


class Links:
    """Files of this machine in folders for BuildKit: hard links where that is possible, else copies.

    Making a hard link changes the file's ctime, and removing it does again: the stat cache would not know the file
    any more, and the next build would read it. So what was known of it is kept again in the end.
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._made: list[tuple[Path, Path, Identity, Digest]] = []

    def add(self, source: Path, place: Path) -> Digest | None:
        """Have the file *source*, links followed, at *place*; its sha256 where that is known without reading it.

        Raises:
            OSError: it cannot be read, or *place* cannot be written.
        """
        before = Identity.of(source.stat())
        try:
            os.link(os.path.realpath(source), place)
        except OSError:  # another file system, or somebody else's file
            shutil.copyfile(source, place)
            return None
        after, known = Identity.of(place.stat()), self._state.file_digest(source, before)
        if known is None or replace(after, ctime=before.ctime) != before:
            return None
        self._made.append((source, place, after, known))
        return known

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *exc: object) -> None:
        same = []
        for source, place, identity, digest in self._made:
            with contextlib.suppress(OSError):
                if Identity.of(place.stat()) == identity:
                    same.append((source, identity, digest))
                place.unlink()
        for source, identity, digest in same:
            with contextlib.suppress(OSError):
                now = Identity.of(source.stat())
                if replace(now, ctime=identity.ctime) == identity:
                    self._state.remember_file(source, now, digest)


@contextlib.contextmanager
def workplace(state: State) -> Iterator[tuple[Path, Links]]:
    """A folder for what BuildKit is given, and what links files into it; nothing of either is left afterwards.

    Raises:
        LocalResourceError: there is no place for it.
    """
    with contextlib.ExitStack() as stack:
        with _room("a folder", 0):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="layerkit-"))
        yield Path(folder), stack.enter_context(Links(state))


@contextlib.contextmanager
def _room(what: str, size: int) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LocalResourceError(
            f"{what}: cannot be written for BuildKit: {error.strerror}",
            hint=f"it takes {size} bytes in the folder for temporary files (TMPDIR)",
        ) from None


def placeholder(folder: Path) -> Path:
    """The context that stands for the checkpoint: one marker file of fixed content and time.

    Raises:
        LocalResourceError: no room for it.
    """
    with _room("the placeholder", len(bake.PLACEHOLDER)):
        folder.mkdir()
        marker = folder / bake.PLACEHOLDER_NAME
        marker.write_bytes(bake.PLACEHOLDER)
        os.utime(marker, (0, 0))
    return folder


def stage(inputs: Inputs, folder: Path, links: Links) -> Path:
    """The build context as files; the Dockerfile and the wheels beside it. All are what the keys were made of.

    Raises:
        ConfigurationError: a file changed meanwhile.
        LocalResourceError: no room for them.
    """
    with _room("the build context", sum(file.size for file in inputs.files) + inputs.wheels_size):
        folder.mkdir()
        materialise(inputs.files, folder)
        epoch = inputs.source_date_epoch or 0
        for file in inputs.files:
            if not file.is_file:
                continue
            place, digest = folder / file.path, inputs.digests[file.path]
            if hash_file(place) != digest:
                raise _changed(file.path)
            # BuildKit takes a file of the same path, size and time for the one that it was sent before, also by
            # another project (fsutil compares nothing else). So the time follows the content, below one day.
            os.utime(place, ns=(0, epoch * 10**9 + int(digest.hex[:15], 16) % (86400 * 10**9)))
        (folder.parent / "Dockerfile").write_text(inputs.dockerfile, encoding="utf-8")
        # What lies there was chosen already. BuildKit prefers this file to a .dockerignore among them, which is there
        # for a COPY of it alone. A comment, for an empty file could be taken for none.
        (folder.parent / "Dockerfile.dockerignore").write_text("# nothing is left out\n", encoding="utf-8")
        if inputs.wheels:
            _stage_wheels(inputs, folder.parent / bake.WHEELS_CONTEXT, links)
    return folder


def _stage_wheels(inputs: Inputs, folder: Path, links: Links) -> None:
    folder.mkdir()
    source = (inputs.project.root / inputs.project.dependencies.wheels).absolute()
    for name, digest in inputs.wheels.items():
        try:
            known = links.add(source / name, folder / name)
        except FileNotFoundError:
            raise _changed(name) from None
        if (known or hash_file(folder / name)) != digest:
            raise _changed(name)


def _changed(name: str) -> ConfigurationError:
    return ConfigurationError(f"{printable(name)}: changed while the build began", hint="run the build again")


def pins(inputs: Inputs) -> Mapping[str, str]:
    """Named contexts that hold every base image to the digest that its key was made of."""
    pins = {}
    for text, base in inputs.bases.items():
        reference = Reference.parse(text)
        if base.pinned and base.digest is not None and base.digest.algorithm == "sha256" and not reference.digest:
            pins[text] = f"docker-image://{reference.name}:{reference.or_latest().tag}@{base.digest}"
    return pins


def link_checkpoint(inputs: Inputs, folder: Path, links: Links) -> int:
    """The checkpoint's files as they are in the image alone in a folder, for BuildKit to read; their bytes.

    Linked where that is possible, else copied; what is made of the weights is written there.

    Raises:
        CheckpointError: a file cannot be read, or changed meanwhile.
        LocalResourceError: no room for them.
    """
    assert inputs.checkpoint is not None
    contents, mode = inputs.checkpoint.contents, inputs.checkpoint.ownership.mode
    for content in contents:
        place = folder / content.path
        with _room(printable(content.path), content.size):
            place.parent.mkdir(parents=True, exist_ok=True)
            if not isinstance(content, File):
                _write(content, place)
                place.chmod(mode)
            # COPY keeps the mode that it finds, and who may read the file in a composed image may here too.
            elif mode & 0o444 & ~content.source.stat().st_mode:
                shutil.copyfile(content.source, place)
                place.chmod(mode)
            else:
                links.add(content.source, place)
    return sum(content.size for content in contents)


def _write(content: Content, place: Path) -> None:
    buffer = memoryview(bytearray(1024 * 1024))
    with place.open("xb") as stream:
        for chunk in content.read(0, lambda: buffer):
            stream.write(chunk)
