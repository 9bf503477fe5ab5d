"""What BuildKit is asked for: the targets of a bake definition, and where their cache lives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from .connections import Connections
from .destinations import Output
from .errors import ConfigurationError
from .events import Listener, Note
from .fingerprint import Inputs
from .names import CACHE_TAG
from .runtime import bake
from .staging import pins

__all__ = ["target", "whole_definition"]


def target(
    to: Connections,
    inputs: Inputs,
    name: str,
    platform: str,
    context: Path,
    checkpoint: str,
    output: Output,
    listener: Listener,
) -> bake.Target:
    """One image.

    Args:
        platform: one, or several with commas.
        context: folder that the files lie in; the Dockerfile and the wheels lie beside it.
        checkpoint: folder of the checkpoint's named context; "" for none.
    """
    project = inputs.project
    contexts = {bake.CHECKPOINT_CONTEXT: checkpoint} if checkpoint else {}
    if inputs.wheels:
        contexts[bake.WHEELS_CONTEXT] = str(context.parent / bake.WHEELS_CONTEXT)
    contexts |= pins(inputs)
    args = dict(project.builder.args)
    if inputs.source_date_epoch is not None:
        args["SOURCE_DATE_EPOCH"] = str(inputs.source_date_epoch)
    cache_to, cache_from = _caches(to, listener)
    return bake.Target(
        name,
        context,
        str(context.parent / "Dockerfile"),
        platform,
        stage=project.image.target,
        contexts=contexts,
        secrets={**project.builder.secrets, **project.dependencies.secrets},
        args=args,
        ssh=project.builder.ssh,
        network=project.builder.network,
        tags=output.names,
        outputs=output.outputs,
        cache_to=cache_to,
        cache_from=cache_from,
        attest=project.builder.attest if to.destination.kind == "registry" else (),
        no_cache=to.request.no_cache,
        pull=to.request.pull,
    )


def _caches(to: Connections, listener: Listener) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """buildx cache-to and cache-from entries. By default the cache lives beside the image, once it is pushed."""
    cache = to.project.cache
    default = f"{cache.repository or to.destination.name}:{CACHE_TAG}"
    pushed = to.destination.kind == "registry"
    export, import_ = cache.to, cache.from_
    if export is None:
        ignore = "" if to.request.strict_cache else ",ignore-error=true"
        entry = f"type=registry,ref={default},mode=max,image-manifest=true,oci-mediatypes=true{ignore}"
        export = (entry,) if pushed and _can_cache(to, listener) else ()
    if import_ is None:
        import_ = (f"type=registry,ref={default}",) if pushed else ()
    return tuple(export), tuple(import_)


def _can_cache(to: Connections, listener: Listener) -> bool:
    if to.engine.abilities.registry_cache:
        return True
    listener(
        Note(
            "this builder cannot export its cache to a registry; switch Docker to the containerd image store,"
            " or create a builder: docker buildx create --use",
            "warning",
        )
    )
    return False


def whole_definition(to: Connections, inputs: Inputs, tags: tuple[str, ...], listener: Listener) -> dict[str, Any]:
    """The bake definition of the whole image: what BuildKit gets where composing is not possible.

    Paths are absolute; the checkpoint's named context is the folder that it is in.

    Raises:
        ConfigurationError, CheckpointError: the image needs more than BuildKit copying files of this machine.
    """
    checkpoint, project, context = inputs.checkpoint, to.project, ""
    if checkpoint is not None and project.checkpoint is not None:
        if checkpoint.elsewhere is not None:
            raise checkpoint.elsewhere.needs_files("bake gives BuildKit the files")
        if checkpoint.recipe.format != "keep":
            raise ConfigurationError(
                "checkpoint.format = 'safetensors': bake gives BuildKit the files as they are",
                hint="layerkit checkpoint convert writes the file; name that one, with format = 'keep'",
            )
        if checkpoint.hub is not None:
            raise ConfigurationError(
                f"checkpoint.path: {checkpoint.hub.name}: bake gives BuildKit files of this machine",
                hint="hf download writes them into a folder (--local-dir); name that one",
            )
        start = Path(project.root, Path(project.checkpoint.path).expanduser()).absolute()
        context = str(start if start.is_dir() else start.parent)
    root = project.root.absolute()
    output = Output(tuple(f"{project.image.name}:{tag}" for tag in tags), ())
    made = target(to, inputs, "image", ",".join(to.platforms), root, context, output, listener)
    contexts = dict(made.contexts)
    if inputs.wheels:
        contexts[bake.WHEELS_CONTEXT] = str((project.root / project.dependencies.wheels).absolute())
    made = replace(
        made,
        contexts=contexts,
        dockerfile=inputs.dockerfile,
        inline=True,
        cache_to=tuple(project.cache.to or ()),
        cache_from=tuple(project.cache.from_ or ()),
    )
    return bake.definition([made], root)
