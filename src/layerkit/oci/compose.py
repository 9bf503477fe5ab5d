"""Putting the checkpoint's layers where the runtime image has a placeholder. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..errors import IntegrityError
from ..names import ROLE
from .descriptor import MEDIA, as_oci
from .image import Config, Image, Layer
from .manifest import Manifest, dump

__all__ = ["CREATED", "compose", "layers_image"]

CREATED = "org.opencontainers.image.created"  # image-spec, annotations.md


def compose(
    runtime: Image,
    position: int | None,
    layers: Sequence[Layer],
    *,
    environment: Mapping[str, str] | None = None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    roles: Sequence[str] = (),
) -> Image:
    """A new image: *runtime* with the layer at *position* replaced by *layers*.

    Descriptor, diff_id and history entry of the placeholder are replaced together, so that the three
    lists stay parallel (image-spec, ``config.md``: non-empty history entries, diff_ids and layers are in
    the same order). When the runtime image was put where it is (an annotation) is no part of the new one: that is
    the same whenever it is made. Docker media types become their OCI equivalents: a manifest must not mix families.

    Args:
        runtime: the image that BuildKit built; it is not changed.
        position: index of the placeholder among the layers, from 0; None where there is none, and *layers* is
            not used.
        layers: what takes its place, bottom first; none leaves the layer out.
        environment: added to (or replacing in) ``config.Env``.
        labels: added to ``config.Labels``.
        annotations: added to the manifest's.
        roles: for each layer of the new image, the value of its annotation ``dev.layerkit.role``.

    Raises:
        IntegrityError: there is no layer at *position*, or *roles* does not fit the layers.
        RefusedError: the image would have over 127 layers or a manifest over 4 MiB.
    """
    if position is not None and not 0 <= position < len(runtime.manifest.layers):
        raise IntegrityError(f"the runtime image has no layer {position}")
    config = _config(runtime.config, position, layers, environment or {}, labels or {})
    descriptors = [replace(d, media_type=as_oci(d.media_type)) for d in runtime.manifest.layers]
    if position is not None:
        descriptors[position : position + 1] = [layer.descriptor for layer in layers]
    if roles:
        if len(roles) != len(descriptors):
            raise IntegrityError(f"{len(roles)} roles for {len(descriptors)} layers")
        descriptors = [
            replace(d, annotations={**d.annotations, ROLE: role}) for d, role in zip(descriptors, roles, strict=True)
        ]
    kept = {name: value for name, value in runtime.manifest.annotations.items() if name != CREATED}
    manifest = Manifest.create(config.descriptor, descriptors, {**kept, **(annotations or {})})
    return Image(manifest, config)


def _config(
    config: Config,
    position: int | None,
    layers: Sequence[Layer],
    environment: Mapping[str, str],
    labels: Mapping[str, str],
) -> Config:
    document = copy.deepcopy(dict(config.document))
    history = document.get("history")
    if position is not None:
        document["rootfs"]["diff_ids"][position : position + 1] = [str(layer.diff_id) for layer in layers]
    if position is not None and history:
        made = [index for index, item in enumerate(history) if not item.get("empty_layer")]
        at = made[position]
        old = history[at]
        history[at : at + 1] = [
            {**({"created": old["created"]} if "created" in old else {}), "created_by": layer.created_by,
             "comment": "layerkit"}
            for layer in layers
        ]  # fmt: skip
    settings = document["config"] = document.get("config") or {}  # null in images with no settings
    if environment:
        kept = [item for item in settings.get("Env") or () if item.partition("=")[0] not in environment]
        settings["Env"] = kept + [f"{name}={value}" for name, value in sorted(environment.items())]
    if labels:
        settings["Labels"] = dict(sorted({**(settings.get("Labels") or {}), **labels}.items()))
    return Config.parse(dump(document), MEDIA.CONFIG)


def layers_image(
    layers: Sequence[Layer],
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Image:
    """A small image that holds only *layers*.

    Its platform is ``linux/amd64`` by name, which says nothing of its content: files of weights are the
    same everywhere, and image volumes and ``COPY --from`` do not run it.
    """
    document = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Labels": dict(sorted((labels or {}).items()))} if labels else {},
        "rootfs": {"type": "layers", "diff_ids": [str(layer.diff_id) for layer in layers]},
        "history": [{"created_by": layer.created_by, "comment": "layerkit"} for layer in layers],
    }
    config = Config.parse(dump(document))
    return Image(Manifest.create(config.descriptor, [layer.descriptor for layer in layers], annotations), config)
