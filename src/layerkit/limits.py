"""What a registry would refuse in the end is refused before the first byte is sent. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence

from .assemble import Runtime, assemble
from .checkpoint.blueprint import Blueprint
from .errors import IntegrityError, RefusedError, printable
from .fingerprint import Inputs
from .oci import MAX_LAYERS, Digest, Layer

__all__ = ["check_image", "check_layers"]

_STAND_IN = Digest.of(b"")  # as long as every other digest


def check_layers(blueprints: Sequence[Blueprint], limit: int | None, destination: str) -> None:
    """No layer is larger than *limit* bytes.

    Raises:
        RefusedError: one is; the message names it, and both sizes.
    """
    for blueprint in blueprints:
        if limit is not None and blueprint.size > limit:
            raise RefusedError(
                f"{destination}: takes layers of at most {limit} bytes; that of {_named(blueprint)} would have"
                f" {blueprint.size}",
                hint="save the checkpoint as several files (shards): each large file is a layer of its own;"
                " or give another checkpoint.layer-limit",
            )


def check_image(
    inputs: Inputs,
    runtimes: Mapping[str, Runtime],
    to_build: Sequence[str],
    blueprints: Sequence[Blueprint],
    checkpoint: Sequence[Layer],
) -> None:
    """The image will have 127 layers at most, and no manifest over 4 MiB, as far as that can be known by now.

    A digest that is not known yet is as long as any other: where the runtime image is there, the manifest is made
    with stand-ins and is as long as it will be. Else its layers are at least those of the base.

    Args:
        runtimes: platform -> the runtime image that is there.
        to_build: platforms whose runtime image BuildKit will make.
        blueprints: the checkpoint's layers where they are packed; *checkpoint* where they are there.

    Raises:
        RefusedError: it will not.
    """
    layers = tuple(blueprint.layer(_STAND_IN) for blueprint in blueprints) or tuple(checkpoint)
    base = next(iter(inputs.bases.values()), None)
    for platform in to_build:
        least = (base.layers.get(platform, 0) if base else 0) + len(layers)
        if least > MAX_LAYERS:
            raise RefusedError(
                f"the image for {platform} would have {least} layers or more; {MAX_LAYERS} is the most that can be run",
                hint="start from a base with fewer layers",
            )
    if to_build or any(runtime.placeholder is None for runtime in runtimes.values()):
        return
    # A runtime image that is no good is said where it is used, with the way out.
    with contextlib.suppress(IntegrityError):
        assemble(inputs, runtimes, layers, _STAND_IN if layers else None, "0" * 40)


def _named(blueprint: Blueprint) -> str:
    return printable(blueprint.label, 100)
