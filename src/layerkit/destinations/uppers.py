"""Layers above the checkpoint that Docker's classic store must be given again, kept in the state folder."""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from ..oci import Digest
from ..state import State

__all__ = ["Uppers"]

_LIFE = 30 * 24 * 3600  # seconds since such a layer was last needed


class Uppers:
    """By digest; for the length of one run where *state* has no folder."""

    def __init__(self, state: State) -> None:
        self._folder = state.folder / "layers" if state.folder else None
        self._found: dict[Digest, bytes] = {}

    def keep(self, digest: Digest, raw: bytes) -> None:
        """The layer *digest* is *raw*."""
        self._found[digest] = raw
        if self._folder is not None:
            with suppress(OSError):
                self._folder.mkdir(parents=True, exist_ok=True)
                self._forget()
                # Other runs write there too. What stays of one that was killed grows old like the rest.
                handle, temporary = tempfile.mkstemp(dir=self._folder)
                with os.fdopen(handle, "wb") as stream:
                    stream.write(raw)
                Path(temporary).replace(self._folder / digest.hex)

    def get(self, digest: Digest) -> bytes | None:
        """What was kept as *digest*; None where it is gone, or damaged."""
        if digest not in self._found and self._folder is not None:
            path = self._folder / digest.hex
            with suppress(OSError):
                raw = path.read_bytes()
                if Digest.of(raw) == digest:
                    self._found[digest] = raw
                    os.utime(path)
        return self._found.get(digest)

    def _forget(self) -> None:
        """Those of images that nobody has built for long: BuildKit gives them again."""
        assert self._folder is not None
        for path in self._folder.iterdir():
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _LIFE:
                    path.unlink()
