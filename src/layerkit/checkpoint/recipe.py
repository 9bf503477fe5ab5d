"""What is to become of the checkpoint's files on their way into the image, as values: nothing is opened here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import ConfigurationError
from .blueprint import FORMAT_VERSION, MAX_CHECKPOINT_LAYERS, Compression
from .shards import SHARDS_VERSION

__all__ = ["DTYPES", "Options", "Recipe"]

DTYPES = {"": "", "float16": "F16", "bfloat16": "BF16"}  # as PyTorch calls them -> as safetensors does


@dataclass(frozen=True, slots=True)
class Options:
    """What becomes of a checkpoint.

    Attributes:
        key: dotted name of the state dict; the obvious one where left out.
        strip_prefix: taken off the names that begin with it (``module.`` of DataParallel).
        dtype: float16 or bfloat16, for floating-point tensors (F64, F32, F16, BF16); "" leaves them as they are.
        drop: globs; tensors whose names (after strip_prefix) match are left out.
    """

    key: str = ""
    strip_prefix: str = ""
    dtype: str = ""
    drop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ConfigurationError(
                f"{self.dtype!r} is no dtype to convert to", hint="float16 or bfloat16; left out, nothing is changed"
            )


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is to become of a checkpoint.

    Attributes:
        format: keep its files, or make safetensors of its weights.
        hash: what its key is of: the bytes of its files, or its tensors.
        options: which tensors, under which names, as which dtype.
        shard_size: most bytes of a shard; 0 for no shards but those that it has.
        max_layers: that it may have.
        compression: of its layers in a registry.
    """

    format: Literal["keep", "safetensors"] = "keep"
    hash: Literal["file", "weights"] = "file"
    options: Options = field(default_factory=Options)
    shard_size: int = 0
    max_layers: int = MAX_CHECKPOINT_LAYERS
    compression: Compression = "none"

    @property
    def plain(self) -> bool:
        """Nothing is to be known of the weights: files are files."""
        return self.format == "keep" and self.hash == "file"

    @property
    def limits(self) -> tuple[str, ...]:
        """What a key says of the number of layers: nothing where it is the usual one."""
        return () if self.max_layers == MAX_CHECKPOINT_LAYERS else (f"at most {self.max_layers} layers",)

    @property
    def compressed(self) -> tuple[str, ...]:
        """What a key says of compression; what "auto" decides follows from the content.

        Not which zstd: whatever it makes of a layer unpacks to the same tar, and what is kept under the key is taken.
        """
        return () if self.compression == "none" else (f"compression {self.compression}",)

    @property
    def record(self) -> dict[str, Any]:
        """What of it decides the layers' tars and is not the default, as ``[checkpoint]`` calls it."""
        options = self.options
        said = {
            "format": self.format if self.format != "keep" else "",
            "key": options.key,
            "strip-prefix": options.strip_prefix,
            "dtype": options.dtype,
            "drop": list(options.drop),
            "shard-size": self.shard_size,
            "max-layers": self.max_layers if self.max_layers != MAX_CHECKPOINT_LAYERS else 0,
        }
        return {name: value for name, value in said.items() if value}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Recipe:
        """The recipe that ``record`` was made of; compression and hash, which decide no tar, are the default.

        Raises:
            ValueError, TypeError: it is no such record.
        """
        unknown = set(record) - {"format", "key", "strip-prefix", "dtype", "drop", "shard-size", "max-layers"}
        form = record.get("format", "keep")
        if unknown or form not in ("keep", "safetensors"):
            raise ValueError(f"not a recipe: {sorted(unknown) or form}")
        key, prefix, dtype = (record.get(name, "") for name in ("key", "strip-prefix", "dtype"))
        numbers = [record.get("shard-size", 0), record.get("max-layers", MAX_CHECKPOINT_LAYERS)]
        drop = record.get("drop", [])
        if not all(isinstance(text, str) for text in (key, prefix, dtype, *drop)) or not all(
            type(n) is int for n in numbers
        ):
            raise TypeError("not a recipe")
        return cls(
            format="safetensors" if form == "safetensors" else "keep",
            options=Options(key, prefix, dtype, tuple(drop)),
            shard_size=numbers[0],
            max_layers=max(1, numbers[1]),
        )

    @property
    def text(self) -> str:
        """All of it, for the key of something that is made by it."""
        options = self.options
        said = f"{self.format} {options.key!r} {options.strip_prefix!r} {options.dtype} {sorted(options.drop)!r}"
        return f"{said} shards {SHARDS_VERSION} {self.shard_size} {self.max_layers}"

    @property
    def settings(self) -> dict[str, str | int | tuple[str, ...]]:
        """All that makes its layers what they are, as ``[checkpoint]`` calls it, without what is the default."""
        options = self.options
        said: dict[str, str | int | tuple[str, ...]] = {
            "layout": FORMAT_VERSION,
            "format": self.format,
            "hash": self.hash,
            "compression": "" if self.compression == "none" else self.compression,
            "key": options.key,
            "strip-prefix": options.strip_prefix,
            "dtype": options.dtype,
            "drop": tuple(options.drop),
            "shard-size": self.shard_size,
            "shards": SHARDS_VERSION if self.shard_size else 0,
            "max-layers": self.max_layers if self.max_layers != MAX_CHECKPOINT_LAYERS else 0,
        }
        return {name: value for name, value in said.items() if value}
