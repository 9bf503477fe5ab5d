"""What stands in a repository for weights that are not there: Git LFS pointers and DVC's ``.dvc`` files."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import CheckpointError, printable

__all__ = ["LFS_LIMIT", "LFS_MARKS", "Pointer", "dvc_folder", "parse_lfs", "read_dvc"]

# The first line of a pointer, and those of before its version 1 (git-lfs, docs/spec.md; lfs/pointer.go knows the same).
LFS_MARKS = (
    b"version https://git-lfs.github.com/spec/",
    b"version http://git-media.io/v/2",
    b"version https://hawser.github.com/spec/v1",
)
LFS_LIMIT = 1024  # bytes that a pointer has at most
_DVC_LIMIT = 1024 * 1024  # bytes; a .dvc file has some hundred
_SHA256 = re.compile(r"sha256:([0-9a-f]{64})")
_MD5 = re.compile(r"[0-9a-f]{32}(?:\.dir)?")
_ITEM = re.compile(r"( *)- (.*)")
_FIELD = re.compile(r"( *)([A-Za-z_][A-Za-z0-9_]*):(?: +(.*))?")


@dataclass(frozen=True, slots=True)
class Pointer:
    """What stands for a file (or for all of a folder) that is not here.

    Attributes:
        path: of the file, below the target; of the ``.dvc`` file for DVC.
        kind: who is to fetch it.
        hash: ``sha256:HEX`` of a Git LFS pointer, ``md5:HEX`` (``md5:HEX.dir`` of a folder) of DVC.
        size: bytes of what it stands for; None where it does not say.
    """

    path: str
    kind: str
    hash: str
    size: int | None = None

    @property
    def called(self) -> str:
        return f"{'a Git LFS pointer' if self.kind == 'lfs' else 'a DVC file'} ({self.hash})"

    @property
    def hint(self) -> str:
        """How the weights themselves are had."""
        return "git lfs pull" if self.kind == "lfs" else f"dvc pull {printable(self.path)}"


def parse_lfs(path: str, raw: bytes) -> Pointer | None:
    """The pointer for *path* that *raw* is; None where it is broken (git-lfs, docs/spec.md, "The Pointer")."""
    lines = raw.decode(errors="replace").split("\n")
    fields = dict(line.rstrip("\r").partition(" ")[::2] for line in lines if line.strip())
    oid, size = _SHA256.fullmatch(fields.get("oid", "")), fields.get("size", "")
    if oid is None or not re.fullmatch(r"[0-9]{1,18}", size):
        return None
    return Pointer(path, "lfs", f"sha256:{oid[1]}", int(size))


def read_dvc(place: Path) -> Pointer | None:
    """What the ``.dvc`` file beside *place* says of it; None where there is none (dvc.org, ".dvc Files").

    Raises:
        CheckpointError: it is there, and says nothing of *place* that can be understood.
    """
    file = place.with_name(place.name + ".dvc")
    try:
        with file.open("rb") as stream:
            raw = stream.read(_DVC_LIMIT + 1)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise CheckpointError(f"checkpoint: {printable(str(file))}: {error.strerror}") from None
    text = raw.decode(errors="replace") if len(raw) <= _DVC_LIMIT else ""
    top = {key: value for indent, key, value in _fields(text.splitlines()) if not indent}
    for out in _outs(text.splitlines()):
        where = Path(file.parent, _scalar(top.get("wdir", "")), out.get("path", ""))
        if os.path.normpath(where) != os.path.normpath(place):
            continue
        md5, size = out.get("md5", ""), out.get("size", "")
        if _MD5.fullmatch(md5):
            return Pointer(file.name, "dvc", f"md5:{md5}", int(size) if re.fullmatch(r"[0-9]{1,18}", size) else None)
    raise CheckpointError(
        f"checkpoint: {printable(str(file))}: no md5 of {printable(place.name)} can be read from it",
        hint="dvc pull fetches the weights themselves",
    )


def dvc_folder(digests: Mapping[str, str]) -> str:
    """What DVC calls a folder: path -> md5 of each file in it, to ``HEX.dir`` (dvc-data, ``hashfile/tree.py``)."""
    rows = [{"md5": digests[path], "relpath": path} for path in sorted(digests)]
    text = json.dumps(rows, sort_keys=True)
    return f"{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}.dir"


def _fields(lines: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """(indentation, key, value) of the lines that are ``key: value``."""
    for line in lines:
        if match := _FIELD.fullmatch(line.rstrip()):
            yield len(match[1]), match[2], match[3] or ""


def _outs(lines: Sequence[str]) -> list[dict[str, str]]:
    """The entries of the list ``outs``, as DVC writes YAML: each of scalars; what is below them is passed over."""
    found: list[dict[str, str]] = []
    inside, dash = False, -1
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        item = _ITEM.fullmatch(line.rstrip())
        if not line.startswith((" ", "-")):
            inside, dash = line.split("#")[0].rstrip() == "outs:", -1
            continue
        if not inside:
            continue
        if item is not None and dash in (-1, len(item[1])):
            dash = len(item[1])
            found.append({})
            line = " " * (dash + 2) + item[2]
        for indent, key, value in _fields([line]):
            if found and indent == dash + 2:
                found[-1][key] = _scalar(value)
    return found


def _scalar(text: str) -> str:
    """A YAML scalar on one line: plain, or in quotes."""
    text = text.strip()
    if text.startswith("'"):
        match = re.match(r"'((?:[^']|'')*)'", text)
        return match[1].replace("''", "'") if match else ""
    if text.startswith('"'):
        match = re.match(r'"(?:[^"\\]|\\.)*"', text)
        try:
            return str(json.loads(match[0])) if match else ""
        except ValueError:
            return ""
    return text.split(" #")[0].rstrip()
