"""What is streamed into ``docker load``: a tar whose layers come straight from the checkpoint's files.

Layers go first, under names of our own, while they are still being hashed: either image store finds what a layer is
by itself (containerd ``core/images/archive/importer.go`` digests each blob; moby ``image/tarexport/load.go`` holds each
layer against its diff_id), and what names them by digest comes last.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Sequence

from ..checkpoint import Blueprint
from ..daemon import Load
from ..errors import Stopped
from ..events import Listener, Transfer
from ..oci import MEDIA, Image, dump
from ..processes import Loading

__all__ = ["Archive", "oci_files"]

_BLOCK = 512


class Archive:
    """One ``docker load`` under way.

    Attributes:
        small: bytes of everything in it but the checkpoint's layers.
    """

    def __init__(self, loading: Load | Loading) -> None:
        self.small = 0
        self._loading = loading

    def layer(
        self, path: str, blueprint: Blueprint, transfer: str, listener: Listener, stopped: Callable[[], bool]
    ) -> None:
        """The layer that *blueprint* is, as the file *path*. *transfer* and its size tell the listener which one.

        Raises:
            CheckpointError: a file is not what it was, or cannot be read.
            Stopped: *stopped* said so.
            LocalResourceError: docker ended.
        """
        label = blueprint.label
        self._loading.write(_header(path, blueprint.size))
        done = 0
        for chunk in blueprint.open():
            if stopped():
                raise Stopped
            self._loading.write(chunk)
            done += len(chunk)
            listener(Transfer(transfer, label, done, blueprint.size))
        self._loading.write(bytes(-blueprint.size % _BLOCK))
        listener(Transfer(transfer, label, blueprint.size, blueprint.size, "finished"))

    def file(self, path: str, raw: bytes) -> None:
        """A small file."""
        self._loading.write(_header(path, len(raw)) + raw + bytes(-len(raw) % _BLOCK))
        self.small += len(raw)

    def finish(self) -> None:
        """The end of the tar; docker has taken it all when this returns.

        Raises:
            LocalResourceError: docker refused it, or has no room.
        """
        self._loading.write(bytes(2 * _BLOCK))
        self._loading.finish()

    def abort(self) -> None:
        """End docker; nothing was tagged."""
        self._loading.abort()


def oci_files(image: Image, name: str, tags: Sequence[str]) -> tuple[tuple[str, bytes], ...]:
    """(path, content) of what an OCI archive of *image* holds beside its layers; *name* is its repository, whole."""
    descriptor = image.manifest.descriptor(image.platform).to_json()
    # containerd takes the name from the first annotation, fully qualified.
    manifests = [
        {
            **descriptor,
            "annotations": {
                "io.containerd.image.name": f"{name}:{tag}",
                "org.opencontainers.image.ref.name": tag,
            },
        }
        for tag in tags
    ]
    return (
        (f"blobs/sha256/{image.manifest.digest.hex}", image.manifest.raw),
        (f"blobs/sha256/{image.config.digest.hex}", image.config.raw),
        ("oci-layout", b'{"imageLayoutVersion":"1.0.0"}'),
        ("index.json", dump({"schemaVersion": 2, "mediaType": MEDIA.INDEX, "manifests": manifests})),
    )


def _header(path: str, size: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.size, info.mode = size, 0o644
    return info.tobuf(format=tarfile.PAX_FORMAT)
