"""The tables of layerkit.toml as frozen values: one class a table, the same names in Python.

Each raises ConfigurationError where it is made of what the table cannot hold.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.dataclasses import dataclass

from .errors import ConfigurationError, Problem
from .fields import (
    Absolute,
    Attests,
    Base,
    Insides,
    Line,
    Lines,
    Mode,
    Name,
    Owner,
    Platforms,
    Ports,
    Size,
    Variables,
    complaints,
    items,
    size_in_bytes,
)
from .oci import Reference

__all__ = ["Builder", "Cache", "Checkpoint", "Code", "Dependencies", "Image", "Project", "Secret"]

_CONFIG = ConfigDict(extra="forbid")
_IDENTIFIER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


T = TypeVar("T")


def _in_our_tree(table: type[T]) -> type[T]:
    """*table*, whose making raises ConfigurationError. Who reads a file has pydantic make them, and not this."""
    made: Any = table.__init__
    names = tuple(table.__dataclass_fields__)  # type: ignore[attr-defined]

    def place(where: tuple[str | int, ...]) -> str:
        # An argument that was given by its place has a number.
        first = tuple(names[part] if isinstance(part, int) and part < len(names) else part for part in where[:1])
        return ".".join(map(str, (table.__name__, *first, *where[1:])))

    @functools.wraps(made)
    def init(self: T, *arguments: Any, **named: Any) -> None:
        try:
            made(self, *arguments, **named)
        except ValidationError as error:
            problems = [Problem(message, where=place(where)) for where, message in complaints(error)]
        else:
            return
        raise ConfigurationError("; ".join(map(str, problems)), problems=problems)

    table.__init__ = init  # type: ignore[assignment,method-assign]
    return table


@_in_our_tree
@dataclass(frozen=True, config=_CONFIG)
class Secret:
    """Where a build secret comes from: a ``file``, or an ``env`` variable of the machine that builds.

    The value is mounted for the steps that need it, and is in no layer, history entry, label or provenance.
    """

    file: Annotated[str, Field(description="Path of a file on this machine; ~ is the home folder.")] = ""
    env: Annotated[str, Field(description="Name of an environment variable on this machine.")] = ""

    @model_validator(mode="after")
    def _one_source(self) -> Secret:
        if bool(self.file) == bool(self.env):
            raise ValueError("a secret has either file = … or env = …")
        return self


def _secrets(value: Mapping[str, Secret]) -> Mapping[str, Secret]:
    for name in value:
        if not _IDENTIFIER.fullmatch(name):
            raise ValueError(f"{name!r} is no secret id: letters, digits, '_', '.', '-'")
    return value


Secrets = Annotated[Mapping[str, Secret], AfterValidator(_secrets)]


@_in_our_tree
@dataclass(frozen=True, config=_CONFIG)
class Image:
    """``[image]``: the image's name, what it starts from, and how it is run."""

    name: Annotated[Name, Field(description="Repository, without a tag: ghcr.io/acme/resnet.")]
    base: Annotated[Base, Field(description="Image to start from. Not with 'dockerfile'.")] = "python:3.11-slim"
    dockerfile: Annotated[
        str, Field(description="Your own Dockerfile, with one 'COPY --link --from=checkpoint . DIR/' line.")
    ] = ""
    target: Annotated[str, Field(description="Stage of 'dockerfile' to build; the last where left out.")] = ""
    platforms: Annotated[Platforms, Field(description="As in linux/amd64; this machine's where left out.")] = ()
    command: Annotated[Lines, Field(description='Exec form: ["python", "serve.py"].')] = ()
    entrypoint: Annotated[Lines, Field(description="Exec form.")] = ()
    workdir: Annotated[Absolute, Field(description="Working folder of the command.")] = "/app"
    user: Annotated[str, Field(description="User (name or uid[:gid]) that the command runs as.")] = ""
    env: Annotated[Variables, Field(description="Environment of the command.")] = Field(default_factory=dict)
    labels: Annotated[Mapping[str, str], Field(description="Image labels.")] = Field(default_factory=dict)
    expose: Annotated[Ports, Field(description="TCP ports that the command listens on.")] = ()


@_in_our_tree
@dataclass(frozen=True, config=_CONFIG)
class Dependencies:
    """``[dependencies]``: Python and system packages, the heavy ones in a layer of their own."""

    requirements: Annotated[
        str,
        Field(
            description="requirements.txt (hashes allowed), pyproject.toml or uv.lock, these two also with extras:"
            " pyproject.toml[serve]. '' for none."
        ),
    ] = ""
    separate: Annotated[
        Lines, Field(description='Packages (globs allowed) for a layer of their own: ["torch", "nvidia-*"].')
    ] = ()
    installer: Annotated[Literal["pip", "uv"], Field(description="What installs the packages.")] = "pip"
    wheels: Annotated[
        str,
        Field(
            description="Folder of wheels: packages come from there alone, with no network; uv too, where it installs."
        ),
    ] = ""
    apt: Annotated[Lines, Field(description="Debian packages of the image.")] = ()
    build_apt: Annotated[
        Lines, Field(description="Debian packages needed only to build wheels; they stay out of the image.")
    ] = ()
    secrets: Annotated[
        Secrets,
        Field(
            description="For install steps: 'pip.conf', 'netrc' and 'ca' (a CA bundle) are put where installers"
            " look for them; any other id becomes the environment variable of that name."
        ),
    ] = Field(default_factory=dict)


@_in_our_tree
@dataclass(frozen=True, config=_CONFIG)
class Code:
    """``[code]``: which files of the project are the code, and where they go. ``.dockerignore`` is honoured."""

    include: Annotated[Insides, Field(description="Files, folders or globs, relative to the project folder.")] = ()
    exclude: Annotated[Lines, Field(description="Patterns to leave out, as in .dockerignore.")] = ()
    target: Annotated[Absolute, Field(description="Folder in the image.")] = "/app"


@_in_our_tree
@dataclass(frozen=True, config=_CONFIG)
class Checkpoint:
    """``[checkpoint]``: the weights, and where they go."""

    path: Annotated[
        Line,
        Field(
            description="File, folder or glob, relative to the project folder;"
            " hf://ORG/NAME[/FILE-OR-FOLDER][@REVISION] of the Hugging Face hub;"
            " or oci://REPO:TAG (or @DIGEST), an image whose checkpoint is taken as it is.",
        ),
    ]
    target: Annotated[
        Absolute | None,
        Field(description="Folder in the image (default /app/model/). With your own Dockerfile its COPY line says it."),
    ] = None
    chown: Annotated[
        Owner | None,
        Field(description="Owner as uid[:gid] or root (default root:root)."),
    ] = None
    chmod: Annotated[
        Mode | None,
        Field(description="Octal mode of files (default 0644); folders get the x of every r."),
    ] = None
    placement: Annotated[
        Literal["layer", "volume", "artifact"],
        Field(
            description="layer: in the image, in layers of its own. volume: mounted at run time, not in the image."
            " artifact: pushed as an image of its own, mounted at run time."
        ),
    ] = "layer"
    compression: Annotated[
        Literal["none", "zstd", "auto"],
        Field(
            description="Of the layers in a registry. none: as they are. zstd: needs layerkit[zstd]. auto: zstd where a"
            " sample of the weights shrinks by a tenth and more (bf16 does, fp16 and fp32 do not)."
        ),
    ] = "none"
    layer_limit: Annotated[
        Annotated[int, Field(gt=0)] | None,
        Field(description="Most bytes of a layer that the registry takes; what its host documents, where left out."),
    ] = None
    format: Annotated[
        Literal["keep", "safetensors"],
        Field(
            description="keep: the files as they are. safetensors: the weights alone, as safetensors, made while"
            " they are packed."
        ),
    ] = "keep"
    hash: Annotated[
        Literal["file", "weights"] | None,
        Field(
            description="What makes a checkpoint another one: the bytes of its files, or its tensors (the weights"
            " hash). Where left out: weights with format = 'safetensors', file with 'keep'."
        ),
    ] = None
    key: Annotated[
        Line | None, Field(description="Dotted name of the state dict in the file; the obvious one where left out.")
    ] = None
    strip_prefix: Annotated[
        Line | None, Field(description="Taken off the tensors' names: 'module.' (format = 'safetensors').")
    ] = None
    dtype: Annotated[
        Literal["float16", "bfloat16"] | None,
        Field(description="Floating-point tensors become this (format = 'safetensors')."),
    ] = None
    drop: Annotated[Lines, Field(description="Tensors to leave out, by globs (format = 'safetensors').")] = ()
    shard_size: Annotated[
        Size | None,
        Field(
            description="Most bytes of a shard, as '1GiB': several files with an index, a layer each, so that a"
            " changed tensor moves only its shard (format = 'safetensors')."
        ),
    ] = None
    max_layers: Annotated[
        int, Field(ge=1, le=100, description="Most layers that the checkpoint may have; an image has at most 127.")
    ] = 32

    # Of each key by itself, so that the message has its line. What is declared above it is known in info.data.

    @field_validator("path")
    @classmethod
    def _an_image(cls, value: str) -> str:
        if value.startswith("oci://"):
            try:
                Reference.parse(value.removeprefix("oci://"))
            except ConfigurationError as error:
                raise ValueError(error.message) from None
        return value

    @field_validator("placement", "compression", "format", "hash", "key", "max_layers")
    @classmethod
    def _as_they_are(cls, value: Any, info: ValidationInfo) -> Any:
        usual = value in (None, "none", "keep", "layer", 32) or value == "artifact"
        if not usual and str(info.data.get("path", "")).startswith("oci://"):
            raise ValueError(
                f"{value!r} has no effect with checkpoint.path = 'oci://…': its layers are taken as they are"
            )
        return value

    @field_validator("format")
    @classmethod
    def _packed(cls, value: str, info: ValidationInfo) -> str:
        if value != "keep" and info.data.get("placement") == "volume":
            raise ValueError(f"{value!r} has no effect with placement = 'volume': nothing is packed")
        return value

    @field_validator("hash")
    @classmethod
    def _hashed(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value == "weights" and info.data.get("placement") == "volume":
            raise ValueError("'weights' has no effect with placement = 'volume': nothing is packed")
        return value

    @field_validator("key")
    @classmethod
    def _used(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value and info.data.get("format") == "keep" and info.data.get("hash") != "weights":
            raise ValueError("has no effect on a file that is kept: set format = 'safetensors', or hash = 'weights'")
        return value

    @field_validator("strip_prefix", "dtype", "drop", "shard_size")
    @classmethod
    def _converted(cls, value: Any, info: ValidationInfo) -> Any:
        if value and info.data.get("format") == "keep":
            raise ValueError("has no effect on a file that is kept: set format = 'safetensors'")
        return value

    @field_validator("max_layers")
    @classmethod
    def _enough(cls, value: int, info: ValidationInfo) -> int:
        if value < 2 and info.data.get("shard_size"):
            raise ValueError("must be 2 at least with shard-size: one for the index, one for the shards")
        return value

    @property
    def hashes(self) -> Literal["file", "weights"]:
        """``hash``, or what it is where left out."""
        return self.hash or ("weights" if self.format == "safetensors" else "file")

    @property
    def shard_bytes(self) -> int:
        """``shard_size`` in bytes; 0 where there is none."""
        return size_in_bytes(self.shard_size) if self.shard_size else 0


@_in_our_tree
@dataclass(frozen=True, config=_CONFIG)
class Cache:
    """``[cache]``: where BuildKit's cache, the runtime images and the checkpoint images are kept."""

    to: Annotated[
        Annotated[Sequence[Line], AfterValidator(items)] | None,
        Field(description="buildx cache-to entries; REPO:buildcache where left out, [] for none."),
    ] = None
    from_: Annotated[
        Annotated[Sequence[Line], AfterValidator(items)] | None,
        Field(description="buildx cache-from entries; REPO:buildcache where left out, [] for none."),
    ] = None
    repository: Annotated[str, Field(description="Another repository for cache, runtime and checkpoint images.")] = ""


@_in_our_tree
@dataclass(frozen=True, config=_CONFIG)
class Builder:
    """``[builder]``: which builder, and what it is given."""

    name: Annotated[str, Field(description="buildx builder; docker's own choice where left out.")] = ""
    args: Annotated[Variables, Field(description="Build arguments. Never secrets.")] = Field(default_factory=dict)
    secrets: Annotated[Secrets, Field(description="Secrets for RUN --mount=type=secret of your own Dockerfile.")] = (
        Field(default_factory=dict)
    )
    ssh: Annotated[Lines, Field(description="SSH agents or keys, as in buildx --ssh.")] = ()
    network: Annotated[Literal["", "default", "none", "host"], Field(description="Network of RUN steps.")] = ""
    attest: Annotated[Attests, Field(description="Attestations, as in buildx --attest; none by default.")] = ()


@_in_our_tree
@dataclass(frozen=True, config=_CONFIG)
class Project:
    """A whole build. ``root`` is the folder that relative paths start from, ``file`` what was read; in no digest."""

    image: Image
    dependencies: Dependencies = Field(default_factory=Dependencies)
    code: Code = Field(default_factory=Code)
    checkpoint: Checkpoint | None = None
    cache: Cache = Field(default_factory=Cache)
    builder: Builder = Field(default_factory=Builder)
    root: Path = Path()
    file: Path | None = field(default=None, compare=False, repr=False)

    @property
    def lock(self) -> Path | None:
        """Where its lock is: layerkit.lock beside layerkit.toml or pyproject.toml, serve.lock beside serve.toml.

        None for a project that was not read from a file.
        """
        if self.file is None:
            return None
        return self.file.with_name("layerkit.lock" if self.file.name == "pyproject.toml" else f"{self.file.stem}.lock")

    @property
    def lock_name(self) -> str:
        """What messages call the lock."""
        return self.lock.name if self.lock is not None else "layerkit.lock"

    @model_validator(mode="after")
    def _consistent(self) -> Project:
        if self.image.dockerfile:
            if self.dependencies != Dependencies():
                raise ValueError("[dependencies] has no effect with image.dockerfile: your Dockerfile installs them")
            if self.code != Code():
                raise ValueError("[code] has no effect with image.dockerfile: your Dockerfile copies it")
            plain = Image(self.image.name)
            for name in ("base", "command", "entrypoint", "workdir", "user", "env", "labels", "expose"):
                if getattr(self.image, name) != getattr(plain, name):
                    raise ValueError(f"image.{name} has no effect with image.dockerfile: your Dockerfile says it")
        elif self.image.target:
            raise ValueError("image.target needs image.dockerfile")
        elif self.image.base == "scratch" and self.dependencies != Dependencies():
            raise ValueError("[dependencies] cannot be installed into image.base = 'scratch': nothing is in it")
        return self
