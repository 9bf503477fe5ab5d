"""Images with real layers, made in memory."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from layerkit.anatomy import Amount, CheckpointFacts, File, InspectedLayer, Inspection, Tensors
from layerkit.checkpoint.safetensors import layout
from layerkit.oci import MEDIA, Config, Descriptor, Digest, Image, Index, Manifest, dump

MIB = 1024 * 1024


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """A layer's tar of *files* (path -> content)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def safetensors(**tensors: tuple[str, tuple[int, ...]]) -> bytes:
    """A file of zeros with these tensors: name -> (dtype, shape)."""
    head, entries = layout((name, dtype, shape) for name, (dtype, shape) in tensors.items())
    return head + bytes(entries[-1].end)


@dataclass
class Part:
    """A layer to be: the history's line, its files, how it is stored, and layerkit's mark."""

    created_by: str
    files: Mapping[str, bytes] = field(default_factory=dict)
    zipped: bool = True
    role: str = ""
    comment: str = "buildkit.dockerfile.v0"
    media_type: str = ""


@dataclass
class Made:
    """An image, and its layers' blobs."""

    image: Image
    blobs: list[bytes]
    tars: list[bytes]


def made(
    parts: Sequence[Part | str],
    *,
    config: Mapping[str, Any] | None = None,
    annotations: Mapping[str, str] | None = None,
    history: bool = True,
    architecture: str = "amd64",
) -> Made:
    """The image of *parts*; a string is an entry of the history that makes no layer."""
    tars, blobs, descriptors, entries = [], [], [], []
    for part in parts:
        if isinstance(part, str):
            entries.append({"created_by": part, "empty_layer": True, "comment": "buildkit.dockerfile.v0"})
            continue
        tar = tar_of(part.files)
        blob = gzip.compress(tar, 6, mtime=0) if part.zipped else tar
        media_type = part.media_type or (MEDIA.LAYER_GZIP if part.zipped else MEDIA.LAYER)
        marks = {"dev.layerkit.role": part.role} if part.role else {}
        tars.append(tar)
        blobs.append(blob)
        descriptors.append(Descriptor(media_type, Digest.of(blob), len(blob), marks))
        entries.append({"created_by": part.created_by, "comment": part.comment})
    document = {
        "architecture": architecture,
        "os": "linux",
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar in tars]},
        **({"history": entries} if history else {}),
    }
    parsed = Config.parse(dump(document))
    return Made(Image(Manifest.create(parsed.descriptor, descriptors, annotations), parsed), blobs, tars)


def write_layout(folder: Path, images: Mapping[str, Made | Index], *, also: Sequence[Made] = ()) -> Path:
    """An OCI layout: tag -> image (or index of those in *also*)."""
    entries = []

    def put(raw: bytes) -> None:
        place = folder / "blobs" / "sha256" / Digest.of(raw).hex
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(raw)

    for item in [*images.values(), *also]:
        if isinstance(item, Index):
            put(item.raw)
            continue
        for raw in (*item.blobs, item.image.config.raw, item.image.manifest.raw):
            put(raw)
    for tag, item in images.items():
        root = item if isinstance(item, Index) else item.image.manifest
        entries.append({**root.descriptor().to_json(), "annotations": {"org.opencontainers.image.ref.name": tag}})
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return folder


def bare(*rows: tuple[str, int] | tuple[str, int, str], names: str = "") -> tuple[InspectedLayer, ...]:
    """Layers for the arithmetic: (role, bytes, created_by); stored at half of their unpacked bytes.

    *names*: a letter for each layer, which its content comes from; by default all differ.
    """
    found = []
    for index, (role, size, *rest) in enumerate(rows):
        name = names[index] if names else f"{role} {index} {size}"
        found.append(
            InspectedLayer(
                index, role, False, "", Digest.of(f"tar {name}".encode()), Digest.of(name.encode()), size, 2 * size,
                "stored", MEDIA.LAYER, rest[0] if rest else "COPY",
            )
        )  # fmt: skip
    return tuple(found)


def exactly(count: int) -> Amount:
    return Amount(count)


def docker_like(weights: bytes) -> Made:
    """What people build by hand today: the checkpoint on top, and the folder copied again by chown."""
    return made(
        [
            Part("/bin/sh -c #(nop) ADD file:abc in / ", {"bin/sh": b"s" * 5000}),
            'CMD ["python3"]',
            "WORKDIR /app",
            Part("RUN /bin/sh -c pip install torch # buildkit", {"lib/torch.so": b"t" * 60_000}),
            Part("COPY src /app # buildkit", {"app/serve.py": b"print()\n"}),
            Part("COPY model.safetensors /app/model/ # buildkit", {"app/model/model.safetensors": weights}),
            'CMD ["python3" "serve.py"]',
        ],
        config={"Env": ["PATH=/bin"], "Cmd": ["python3", "serve.py"]},
    )


def portrait(
    name: str = "ghcr.io/acme/resnet:v2", *, by_hand: bool = False, said: str = "", seed: str = ""
) -> Inspection:
    """An image of realistic sizes, layerkit's or one by hand; *said* stands in all that an image may say."""
    gib, mib, kib = 1024 * MIB, MIB, 1024
    rows = [
        ("base", 29 * mib, 78 * mib, "# debian.sh --arch 'amd64' out/ 'bookworm' '@1729814400'"),
        ("base", 12 * mib, 38 * mib, "RUN set -eux; apt-get update; apt-get install -y --no-install-recommends tzdata"),
        ("dependencies", 782 * mib, 2 * gib, "RUN --mount=type=cache,target=/root/.cache/pip pip install torch==2.4.0"),
        ("dependencies", 96 * mib, 310 * mib, "RUN --mount=type=cache pip install fastapi uvicorn pillow"),
        ("checkpoint", 1900 * mib, 1900 * mib, f"COPY --link --chown=0:0 --from=checkpoint . /app/model/{seed}"),
        ("code", 42 * kib, 160 * kib, "COPY --link src /app"),
        ("code", 512, 2 * kib, "COPY --link serve.py /app"),
    ]
    if by_hand:
        rows = [*rows[:4], rows[5], rows[4], ("checkpoint", 1850 * mib, 1900 * mib, "RUN chown -R app:app /app")]
    layers = tuple(
        InspectedLayer(
            index, role, by_hand, "RUN" if by_hand else "marked by layerkit", Digest.of(f"tar {made}".encode()),
            Digest.of(made.encode()), size, full, "gzip", MEDIA.LAYER_GZIP, said or made,
            "copy" if "chown -R" in made else "",
        )
        for index, (role, size, full, made) in enumerate(rows)
    )  # fmt: skip
    path = said or "/app/model/model-00001-of-00002.safetensors"
    tensors = (Tensors(path, 291, 524_288_000, 1000 * mib, {said or "BF16": 1000 * mib}),)
    facts = CheckpointFacts("sha256:" + "3f" * 32, "layer", said or "/app/model/", (File(path, 1000 * mib),), tensors)
    record = {
        "timeline": [
            {"kind": "phase", "name": "plan", "begin": 0.0, "seconds": 0.4, "state": "finished"},
            {"kind": "phase", "name": "build", "begin": 0.4, "seconds": 12.0, "state": "finished"},
            {"kind": "step", "name": said or "[dependencies 2/3] RUN pip", "begin": 1, "seconds": 9.2, "state": "done"},
            {"kind": "phase", "name": "checkpoint", "begin": 0.4, "seconds": 7.9, "state": said or "finished"},
            {"kind": "phase", "name": "compose", "begin": 12.4, "seconds": 0.6, "state": "finished"},
        ]
    }
    return Inspection(
        said or name, "registry", Digest.of(f"{name}{seed}".encode()), None, "linux/amd64",
        ("linux/amd64", "linux/arm64"), "", layers, 4312, facts,
        {"Cmd": said or f"python serve.py {seed}", said or "Env.A": seed or "1"}, not by_hand,
        None if by_hand else record, (said,) if said else (),
    )  # fmt: skip
