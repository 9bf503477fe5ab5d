"""``layerkit.lock``: which base and which weights a project was last built with. To be committed.

TOML, sorted and stable: the same build writes the same bytes. What changes with every commit of code (the image's
own digest) is not in it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checkpoint import Ownership
from .checkpoint.elsewhere import KnownFile
from .errors import ConfigurationError, IntegrityError, LocalResourceError, printable
from .oci import Descriptor, Digest, Layer
from .project import parse_toml
from .toml import toml

__all__ = ["Difference", "Lock", "LockedBase", "LockedCheckpoint", "differences", "parse", "read", "render", "write"]

VERSION = 1  # of the file: raised when an older layerkit would misunderstand it
_LIMIT = 16 * 1024 * 1024  # bytes
_HEADER = """\
# Which base image and which weights the last build used. Written by layerkit build; commit it, do not edit it.
# With it a checkout without the weights can be built.
"""
_REPAIR = "take it from version control again, or delete it: the next layerkit build writes it anew"
Setting = str | int | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LockedBase:
    """What an image reference meant: its digest, and the manifest of each platform that was built."""

    name: str
    digest: Digest
    platforms: Mapping[str, Digest] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LockedCheckpoint:
    """The weights.

    Attributes:
        path: ``checkpoint.path``; ``source`` is what it meant, where it names an image.
        key: of their layers; ``digest`` is what they are called.
        ownership, recipe: where they go and what becomes of them.
        location: where a program finds them in the image.
        weights: the weights hash, where it is known.
        dvc: ``md5:HEX``, what DVC calls them.
        repository: where the layers were pushed to; "" for nowhere yet.
        files, layers: what they are made of, and what was made of them.
    """

    path: str
    key: str
    digest: Digest
    ownership: Ownership
    recipe: Mapping[str, Setting]
    location: str
    source: str = ""
    weights: Digest | None = None
    dvc: str = ""
    repository: str = ""
    samples: tuple[str, ...] = ()
    files: tuple[KnownFile, ...] = ()
    layers: tuple[Layer, ...] = ()

    @property
    def place(self) -> dict[str, Setting]:
        """Where they go and whose they are, as ``[checkpoint]`` calls it."""
        owner = self.ownership.plain
        return {"target": owner.target, "chown": f"{owner.uid}:{owner.gid}", "chmod": f"{owner.mode:04o}"}


@dataclass(frozen=True, slots=True)
class Lock:
    """All of it."""

    bases: tuple[LockedBase, ...] = ()
    checkpoint: LockedCheckpoint | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """What the lock says, and what is so now. ``content``: bytes are others, not what was written in a file."""

    where: str
    locked: str
    now: str
    content: bool = False

    def __str__(self) -> str:
        return f"{self.where}: {self.locked or 'nothing'} → {self.now or 'nothing'}"


# ------------------------------------------------------------------------------------------------------------- the file


def read(path: Path) -> Lock | None:
    """The lock at *path*; None where there is none.

    Raises:
        ConfigurationError: it cannot be read, is no lock, or is of a newer layerkit.
    """
    try:
        with path.open("rb") as stream:
            raw = stream.read(_LIMIT + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        if len(raw) > _LIMIT:
            raise ValueError(f"over {_LIMIT} bytes")
        text = raw.decode()
    except ValueError as error:
        raise ConfigurationError(f"{path}: is no lock: {error}", hint=_REPAIR) from None
    return parse(text, str(path))


def write(path: Path, lock: Lock) -> bool:
    """Put *lock* at *path*, whole or not at all; False where the same is there already.

    Raises:
        ConfigurationError: what is there is of a newer layerkit.
        LocalResourceError: it cannot be written.
    """
    if read(path) == lock:
        return False
    place = Path(os.path.realpath(path))
    temporary = place.with_name(f".{place.name}.{os.getpid()}.new")
    try:
        try:
            with temporary.open("x", encoding="utf-8", newline="\n") as stream:
                stream.write(render(lock))
            temporary.replace(place)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OSError as error:
        raise LocalResourceError(f"{path}: cannot be written: {error.strerror}") from None
    return True


def render(lock: Lock) -> str:
    """*lock* as TOML."""
    lines = [_HEADER, f"version = {VERSION}"]
    for base in sorted(lock.bases, key=lambda base: base.name):
        lines += ["", "[[base]]", *_pairs({"name": base.name, "digest": str(base.digest)})]
        lines += _pairs({f"platforms.{toml(name)}": str(base.platforms[name]) for name in sorted(base.platforms)})
    if (checkpoint := lock.checkpoint) is not None:
        named = {
            "path": checkpoint.path,
            "source": checkpoint.source,
            "key": checkpoint.key,
            "digest": str(checkpoint.digest),
            "weights": str(checkpoint.weights or ""),
            "dvc": checkpoint.dvc,
            "location": checkpoint.location,
            **checkpoint.place,
            "repository": checkpoint.repository,
            "samples": checkpoint.samples,
        }
        lines += ["", "[checkpoint]", *_pairs({name: value for name, value in named.items() if value})]
        lines += ["", "[checkpoint.recipe]", *_pairs(dict(sorted(checkpoint.recipe.items())))]
        for file in sorted(checkpoint.files, key=lambda file: file.path):
            lines += ["", "[[checkpoint.file]]", *_pairs({"path": file.path, "size": file.size})]
            lines += _pairs({"digest": str(file.digest)}) if file.digest is not None else []
        for layer in checkpoint.layers:
            stored = layer.descriptor
            row = {"media-type": stored.media_type, "digest": str(stored.digest), "size": stored.size}
            row |= {"diff-id": str(layer.diff_id), "created-by": layer.created_by}
            lines += ["", "[[checkpoint.layer]]", *_pairs(row)]
    return "\n".join(lines) + "\n"


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {toml(value)}" for name, value in values.items()]


def parse(text: str, name: str) -> Lock:
    """The lock that *text*, of the file *name*, is.

    Raises:
        ConfigurationError: it is none, or of a newer layerkit.
    """
    try:
        document = parse_toml(text, name)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: is no lock: {error.message}", hint=_REPAIR) from None
    version = document.get("version")
    if type(version) is int and version > VERSION:
        raise ConfigurationError(
            f"{name}: is of version {version}, written by a newer layerkit; this one reads {VERSION}",
            hint="pip install --upgrade layerkit",
        )
    try:
        if version != VERSION:
            raise ValueError("no version")
        bases = tuple(_base(row) for row in document.get("base", ()))
        row = document.get("checkpoint")
        return Lock(bases, _checkpoint(row) if row is not None else None)
    except (KeyError, TypeError, ValueError, AttributeError, IntegrityError) as error:
        said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ConfigurationError(f"{name}: is no lock: {printable(said, 200)}", hint=_REPAIR) from None


def _base(row: Mapping[str, Any]) -> LockedBase:
    platforms = {str(name): Digest.parse(_text(digest)) for name, digest in row.get("platforms", {}).items()}
    return LockedBase(_text(row["name"]), Digest.parse(_text(row["digest"])), platforms)


def _checkpoint(row: Mapping[str, Any]) -> LockedCheckpoint:
    uid, _, gid = _text(row["chown"]).partition(":")
    weights = _text(row.get("weights", ""))
    recipe: dict[str, Setting] = {
        name: tuple(map(_text, value)) if isinstance(value, list) else value if type(value) is int else _text(value)
        for name, value in row["recipe"].items()
    }
    return LockedCheckpoint(
        _text(row["path"]),
        _text(row["key"]),
        Digest.parse(_text(row["digest"])),
        Ownership(_text(row["target"]), int(uid), int(gid), int(_text(row["chmod"]), 8)),
        recipe,
        _text(row["location"]),
        _text(row.get("source", "")),
        Digest.parse(weights) if weights else None,
        _text(row.get("dvc", "")),
        _text(row.get("repository", "")),
        tuple(map(_text, row.get("samples", ()))),
        tuple(_file(item) for item in row.get("file", ())),
        tuple(_layer(item) for item in row.get("layer", ())),
    )


def _file(row: Mapping[str, Any]) -> KnownFile:
    digest = _text(row.get("digest", ""))
    return KnownFile(_text(row["path"]), _number(row["size"]), Digest.parse(digest) if digest else None)


def _layer(row: Mapping[str, Any]) -> Layer:
    digest = Digest.parse(_text(row["digest"]))
    stored = Descriptor(_text(row["media-type"]), digest, _number(row["size"]))
    return Layer(stored, Digest.parse(_text(row["diff-id"])), _text(row["created-by"]))


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{printable(repr(value), 60)} is no string")
    return value


def _number(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{printable(repr(value), 60)} is no size")
    return value


# ----------------------------------------------------------------------------------------------------- what contradicts


def differences(locked: Lock, now: Lock) -> tuple[Difference, ...]:
    """What a build would change in the lock, but for where its layers are kept.

    A base of *now* whose digest nobody knows is not among its bases; of the locked ones, those that are not named any
    more are.
    """
    return (*_bases(locked.bases, now.bases), *_weights(locked.checkpoint, now.checkpoint))


def _bases(locked: Sequence[LockedBase], now: Sequence[LockedBase]) -> Iterator[Difference]:
    before, after = ({base.name: str(base.digest) for base in bases} for bases in (locked, now))
    gone, new = [name for name in before if name not in after], [name for name in after if name not in before]
    for name in sorted(before.keys() & after.keys()):
        if before[name] != after[name]:
            yield Difference(f"base {name}", before[name], after[name], True)
    if len(gone) == len(new) == 1:
        yield Difference("base", gone[0], new[0])
        return
    for name in gone:
        yield Difference("base", name, "")
    for name in new:
        yield Difference("base", "", name)


def _weights(locked: LockedCheckpoint | None, now: LockedCheckpoint | None) -> Iterator[Difference]:
    if locked is None or now is None:
        if locked is not now:
            yield Difference("checkpoint", locked.path if locked else "", now.path if now else "")
        return
    settings = tuple(settings_differ(locked, {"path": now.path, **now.place, **now.recipe}))
    yield from settings
    if locked.source != now.source:
        yield Difference("checkpoint image", locked.source, now.source, True)
    elif locked.digest != now.digest:
        yield Difference("weights", str(locked.digest), str(now.digest), True)
    elif locked.key != now.key and not settings:  # which the key covers
        yield Difference("checkpoint key", locked.key, now.key, True)


def settings_differ(locked: LockedCheckpoint, now: Mapping[str, Setting]) -> Iterator[Difference]:
    """What ``[checkpoint]`` said when it was locked, and says *now*: name -> value."""
    before = {"path": locked.path, **locked.place, **locked.recipe}
    for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
            yield Difference(f"checkpoint.{name}", _shown(before.get(name)), _shown(now.get(name)))


def _shown(value: Setting | None) -> str:
    return "" if value is None else toml(value)
