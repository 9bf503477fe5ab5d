"""What is known of the files around a Dockerfile, as a value. Pure: ``gather`` fills it in."""

from __future__ import annotations

import bisect
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import ConfigurationError
from ..runtime.dockerignore import Pattern

__all__ = [
    "CHECKPOINT_SUFFIXES",
    "LARGE_BIN",
    "MIB",
    "Entry",
    "Facts",
    "is_checkpoint_name",
    "is_pickle",
    "is_requirements",
    "limit_of",
    "limits_below",
    "words",
]

MIB = 1024 * 1024
CHECKPOINT_SUFFIXES = (".pth.tar", ".pt", ".pth", ".safetensors", ".ckpt", ".bin", ".gguf", ".onnx", ".mar")
_NO_PICKLE = (".safetensors", ".gguf", ".onnx")
LARGE_BIN = 10 * MIB  # bytes; .bin is also the suffix of small things that are no weights
_REQUIREMENTS = re.compile(
    r"(?:[\w.-]*requirements[\w.-]*\.(?:txt|in)|constraints[\w.-]*\.txt|pyproject\.toml|poetry\.lock|uv\.lock|"
    r"pdm\.lock|Pipfile(?:\.lock)?|setup\.(?:py|cfg)|environment[\w.-]*\.ya?ml|[^/]+\.whl)"
)
# Host -> (bytes of one layer, how it is said): of 2026, as documented (registry/ways.py has where) or reported.
_LIMITS: tuple[tuple[str, int, str], ...] = (
    (r"ghcr\.io", 10_000_000_000, "GHCR takes about 10 GB a layer"),
    (r"\d+\.dkr\.ecr(?:-fips)?\.[a-z0-9-]+\.amazonaws\.com(?:\.cn)?", 52_000 * MIB, "ECR takes 52,000 MiB a layer"),
    (r"public\.ecr\.aws", 10_000 * MIB, "ECR Public takes 10,000 MiB a layer"),
    (r"quay\.io", 20_000_000_000, "Quay takes no single upload over 20 GB"),
    (r"docker\.io", 10_000_000_000, "Docker Hub is reported to fail from about 10 GB a layer"),
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of the build context.

    Attributes:
        path: relative to the context, with ``/``.
        size: bytes; of a Git LFS pointer, those of what it points to; 0 for a link.
        ignored: ``.dockerignore`` keeps it from the builder.
        link: a symbolic link.
        pointer: a Git LFS pointer stands in its place.
    """

    path: str
    size: int
    ignored: bool = False
    link: bool = False
    pointer: bool = False


@dataclass(frozen=True)
class Facts:
    """What rules may know beside the Dockerfile's text.

    Attributes:
        entries: files of the build context.
        ignore: name of the ``.dockerignore`` that counts; "" where there is none.
        requirements: path -> text of requirements files.
        image: the name that the image will be pushed to, or "".
        minimum: bytes from which a file of weights counts.
        known: whether the context could be looked at, and as a whole.
    """

    entries: Sequence[Entry] = ()
    ignore: str = ""
    requirements: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    minimum: int = MIB
    known: bool = True
    _sorted: list[Entry] = field(default_factory=list, init=False, repr=False, compare=False)
    _paths: list[str] = field(default_factory=list, init=False, repr=False, compare=False)
    _selected: dict[str, tuple[tuple[str, Entry], ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        self._sorted.extend(sorted(self.entries, key=lambda entry: entry.path))
        self._paths.extend(entry.path for entry in self._sorted)

    def sent(self) -> int:
        """Bytes that a COPY of everything sends to the builder."""
        return sum(entry.size for entry in self._sorted if not entry.ignored)

    def checkpoint(self, entry: Entry) -> bool:
        """Whether *entry* is weights, and large enough to matter."""
        least = max(self.minimum, LARGE_BIN) if entry.path.lower().endswith(".bin") else self.minimum
        return is_checkpoint_name(entry.path) and (entry.size >= least or entry.pointer)

    def select(self, source: str) -> tuple[tuple[str, Entry], ...]:
        """(path below the target's folder, file) of a COPY source: a path, a folder or a glob. Ignored ones too."""
        path = posixpath.normpath("/" + source.lstrip("/")).lstrip("/")
        known = self._selected.get(path)
        if known is None:
            known = self._selected[path] = tuple(self._select(path)) if len(self._selected) < 500 else ()
        return known

    def _select(self, path: str) -> list[tuple[str, Entry]]:
        if not path:
            return [(entry.path, entry) for entry in self._sorted]
        at = bisect.bisect_left(self._paths, path)
        if at < len(self._paths) and self._paths[at] == path:
            return [(posixpath.basename(path), self._sorted[at])]
        found = [(entry.path[len(path) + 1 :], entry) for entry in self._below(path)]
        if found or not re.search(r"[*?\[]", path):
            return found
        try:
            pattern = Pattern.parse(path)
        except ConfigurationError:
            return []
        depth = path.count("/") + 1
        for entry in self._sorted:
            head = "/".join(entry.path.split("/")[:depth])
            if pattern.match(head):
                found.append((entry.path[len(head) + 1 :] or posixpath.basename(head), entry))
        return found

    def _below(self, folder: str) -> Sequence[Entry]:
        start = bisect.bisect_left(self._paths, folder + "/")
        return self._sorted[start : bisect.bisect_left(self._paths, folder + "0")]  # "0" follows "/"


def is_checkpoint_name(path: str) -> bool:
    """Whether the name says weights."""
    return path.lower().endswith(CHECKPOINT_SUFFIXES)


def is_pickle(path: str) -> bool:
    """Whether loading it may run code that is in it."""
    return is_checkpoint_name(path) and not path.lower().endswith(_NO_PICKLE)


def is_requirements(path: str) -> bool:
    """Whether the name says what is to be installed."""
    return _REQUIREMENTS.fullmatch(posixpath.basename(path)) is not None


def limit_of(image: str) -> tuple[int, str] | None:
    """(bytes of one layer, the sentence) of the registry that *image* names; None where none is known."""
    host, slash, _ = image.partition("/")
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        host = "docker.io" if image else ""
    for pattern, limit, sentence in _LIMITS:
        if re.fullmatch(pattern, host):
            return limit, sentence
    return None


def limits_below(count: int) -> list[str]:
    """The sentences of all registries that would refuse a layer of *count* bytes."""
    return [sentence for _, limit, sentence in _LIMITS if count > limit]


def words(text: str) -> frozenset[str]:
    """The set of the words in *text*."""
    return frozenset(text.split())
