"""Images, projects and inputs for the tests, made of nothing but values."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from layerkit.assemble import Runtime
from layerkit.checkpoint import Packer
from layerkit.fingerprint import Base, Inputs, fingerprint
from layerkit.oci import MEDIA, Config, Descriptor, Digest, Image, Layer, Manifest, dump
from layerkit.project import Checkpoint, Code, Dependencies, Project
from layerkit.project import Image as ImageTable
from layerkit.runtime.bake import PLACEHOLDER, PLACEHOLDER_NAME
from layerkit.state import Identity, State

PLATFORM = "linux/amd64"


def placeholder_tar(folder: str = "app/model", uid: int = 0, gid: int = 0, content: bytes = PLACEHOLDER) -> bytes:
    """The tar that BuildKit makes of COPY --link --from=checkpoint."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for parent in ("app", folder):
            info = tarfile.TarInfo(parent)
            info.type, info.mode, info.uid, info.gid = tarfile.DIRTYPE, 0o755, uid, gid
            tar.addfile(info)
        info = tarfile.TarInfo(f"{folder}/{PLACEHOLDER_NAME}")
        info.size, info.uid, info.gid = len(content), uid, gid
        tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def layer(name: str, *, media_type: str = MEDIA.LAYER_GZIP, size: int = 100_000) -> Layer:
    """A layer that is called *name* and exists nowhere."""
    return Layer(Descriptor(media_type, Digest.of(name.encode()), size), Digest.of(b"tar " + name.encode()), name)


def image(
    layers: Sequence[Layer],
    *,
    config: dict[str, Any] | None = None,
    docker: bool = False,
    history: bool = True,
    annotations: dict[str, str] | None = None,
) -> Image:
    """An image of *layers*, with an empty history entry (ENV) after the first."""
    document: dict[str, Any] = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin", "LANG=C"], "Labels": {"theirs": "kept"}} if config is None else config,
        "rootfs": {"type": "layers", "diff_ids": [str(item.diff_id) for item in layers]},
    }
    if history:
        made = [{"created": "2026-01-01T00:00:00Z", "created_by": item.created_by} for item in layers]
        made.insert(1, {"created_by": "ENV LANG=C", "empty_layer": True})  # type: ignore[dict-item]
        document["history"] = made
    raw = dump(document)
    described = Config.parse(raw, MEDIA.DOCKER_CONFIG if docker else MEDIA.CONFIG)
    if not docker:
        return Image(
            Manifest.create(described.descriptor, [item.descriptor for item in layers], annotations), described
        )
    text = dump(
        {
            "schemaVersion": 2,
            "mediaType": MEDIA.DOCKER_MANIFEST,
            "config": described.descriptor.to_json(),
            "layers": [item.descriptor.to_json() for item in layers],
        }
    )
    return Image(Manifest.parse(text), described)


PLACE = gzip.compress(placeholder_tar(), mtime=0)


def runtime(*, place: tuple[str, int, int] = ("/app/model", 0, 0), code: str = "COPY --link src /app") -> Runtime:
    """What BuildKit built: two layers of the base, one of dependencies, the placeholder, the code."""
    marker = Layer(
        Descriptor(MEDIA.LAYER_GZIP, Digest.of(PLACE), len(PLACE)),
        Digest.of(placeholder_tar()),
        "COPY --from=checkpoint",
    )
    made = image([layer("base 1"), layer("base 2"), layer("RUN pip install"), marker, layer(code)])
    return Runtime(made, 3, place)


def file_digests(packer: Packer) -> dict[str, Digest]:
    """Path below the target -> sha256 of each file, once all are hashed."""
    return {path: sections[""] for layer in packer.hashed() for path, sections in layer.sections.items()}


def slow_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times of files in steps of 10 ms, as kernels of 100 Hz keep them (Linux before 6.13)."""

    def coarse(status: os.stat_result) -> Identity:
        step = 10_000_000
        times = (status.st_mtime_ns // step * step, status.st_ctime_ns // step * step)
        return Identity(status.st_dev, status.st_ino, status.st_size, *times)

    monkeypatch.setattr(Identity, "of", coarse)


def write_project(root: Path, *, weights: bytes = b"weights", extra: str = "") -> Path:
    """A small project on disk: requirements, code, one checkpoint file, layerkit.toml."""
    (root / "src").mkdir(parents=True, exist_ok=True)
    (root / "src" / "serve.py").write_text("print('served')\n")
    (root / "requirements.txt").write_text("torch==2.13.0\nnumpy\n")
    (root / "model.pth.tar").write_bytes(weights)
    (root / "layerkit.toml").write_text(
        '[image]\nname = "registry.example/acme/resnet"\ncommand = ["python", "serve.py"]\n'
        '[dependencies]\nrequirements = "requirements.txt"\nseparate = ["torch"]\n'
        '[code]\ninclude = ["src"]\n[checkpoint]\npath = "model.pth.tar"\n' + extra
    )
    return root


def project(root: Path, **checkpoint: Any) -> Project:
    """The project of ``write_project`` by the Python API."""
    return Project(
        image=ImageTable("registry.example/acme/resnet", command=["python", "serve.py"]),
        dependencies=Dependencies("requirements.txt", separate=["torch"]),
        code=Code(["src"]),
        checkpoint=Checkpoint("model.pth.tar", **checkpoint),
        root=root,
    )


def inputs(
    project: Project,
    state: State,
    *,
    platforms: tuple[str, ...] = (PLATFORM,),
    base: str = "base",
    epoch: int | None = None,
) -> Inputs:
    """Inputs of *project* on a base image of two layers that is called *base*."""
    return fingerprint(
        project,
        state,
        platforms=platforms,
        resolve=lambda reference: Base(Digest.of(base.encode()), dict.fromkeys(platforms, 2)),
        source_date_epoch=epoch,
    )
