"""Which file or folder of a project is the checkpoint, and where its program looks for it. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..lint.facts import LARGE_BIN, is_checkpoint_name, words
from ..runtime import CHECKPOINT_TARGET
from ..units import size as in_words
from .facts import File, Look

__all__ = ["Choice", "choose"]

_BIN_NAMES = re.compile(r"(?:pytorch_|adapter_)?(?:model|weights|checkpoint|ckpt)\b.*\.bin")
# What a training run leaves beside its weights.
_TRAINING = re.compile(r"(?:optimi[sz]er|scheduler|scaler|rng_state|training_args|trainer_state|random_states)", re.I)
_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}(?P<suffix>\.(?:safetensors|bin))")
_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_ASIDE = words("test tests testing fixtures testdata data dataset datasets examples example docs archive old")
_NUMBER = re.compile(r"(?:epoch|step|checkpoint|iter|ckpt|e|ep)[-_=]?(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What could be the checkpoint: a file, a folder, or (``a-*.safetensors``) shards in the project folder."""

    path: str
    size: int
    files: tuple[File, ...]
    kind: str  # file | folder | shards

    @property
    def name(self) -> str:
        return posixpath.basename(self.path)


@dataclass(frozen=True, slots=True)
class Choice:
    """The checkpoint.

    Attributes:
        path, size: of it, in bytes.
        why: one clause.
        target: folder in the image; because: why that one.
        others: paths of what could have been it.
        pointer: it is a Git LFS pointer.
    """

    path: str
    size: int
    why: str
    target: str
    because: str
    others: tuple[str, ...]
    pointer: bool
    files: tuple[str, ...]


def choose(look: Look, programs: Mapping[str, str]) -> Choice | None:
    """The checkpoint of a project; None where there is nothing that could be it.

    Args:
        programs: path -> text of the programs that serve, and of Dockerfiles: what they name comes first.
    """
    candidates = _candidates(look)
    if not candidates:
        return None
    ranked = sorted(candidates, key=lambda c: ([-value for value, _ in _marks(c, programs)], c.path))
    first = ranked[0]
    why = f"{first.kind} of {in_words(first.size)}" if first.kind != "file" else in_words(first.size)
    why += f", {_difference(first, ranked[1], programs)}" if len(ranked) > 1 else ", the only weights here"
    target, because = _target(first, programs)
    others = tuple(candidate.path for candidate in ranked[1:])
    return Choice(
        first.path,
        first.size,
        why,
        target,
        because,
        others,
        any(file.pointer for file in first.files),
        tuple(file.path for file in first.files),
    )


def _candidates(look: Look) -> list[Candidate]:
    files = [file for file in look.files if _is_weights(file)]
    found: list[Candidate] = []
    taken: set[str] = set()
    for folder in sorted({file.folder for file in files}):
        inside = [file for file in files if file.folder == folder]
        beside = {file.name for file in look.files if file.folder == folder}
        shards = [file for file in inside if _SHARD.fullmatch(file.name)]
        together = bool(beside & set(_INDEXES)) or len(shards) > 1 or "config.json" in beside
        if not together:
            continue
        code = any(name.endswith((".py", ".ipynb")) for name in beside)
        whole = tuple(look.below(folder)) if folder else ()
        if whole and not code and not any(c in folder for c in "*?[") and all(_writable(f.path) for f in whole):
            found.append(Candidate(folder, sum(file.size for file in whole), whole, "folder"))
            taken |= {file.path for file in inside}
        elif len(shards) > 1:
            match = _SHARD.fullmatch(shards[0].name)
            assert match is not None
            pattern = posixpath.join(folder, f"{match['stem']}-*-of-*{match['suffix']}")
            found.append(Candidate(pattern, sum(file.size for file in shards), tuple(shards), "shards"))
            taken |= {file.path for file in shards}
    return found + [Candidate(file.path, file.size, (file,), "file") for file in files if file.path not in taken]


def _is_weights(file: File) -> bool:
    if not is_checkpoint_name(file.name) or not file.size or _TRAINING.match(file.name) or not _writable(file.path):
        return False
    lower = file.name.lower()
    return not lower.endswith(".bin") or file.size >= LARGE_BIN or bool(_BIN_NAMES.fullmatch(lower))


def _writable(path: str) -> bool:
    """Whether a project file may name it."""
    return all(character.isprintable() for character in path)


def _marks(candidate: Candidate, programs: Mapping[str, str]) -> list[tuple[int, str]]:
    """What speaks for a candidate, the weightiest first: a number, and what is said of the one with the higher."""
    name, where = candidate.name.lower(), ""
    named = 0
    for path, text in programs.items():
        strength = 2 if candidate.path in text else 1 if len(name) > 3 and candidate.name in text else 0
        if strength > named:
            named, where = strength, path
    parts = set(re.split(r"[^a-z]+", name))
    hint = 3 if "best" in parts else 2 if parts & {"final", "latest", "last", "production", "prod", "inference"} else 1
    number = max((int(text) for text in _NUMBER.findall(candidate.path)), default=-1)
    hint = 0 if hint == 1 and number >= 0 else hint
    aside = bool(set(candidate.path.lower().split("/")[:-1]) & _ASIDE)
    safe = any(file.name.endswith(".safetensors") for file in candidate.files)
    said = next((word for word in ("best", "final", "latest", "last", "prod", "inference") if word in parts), "")
    return [
        (named, f"for {where} names it"),
        (-aside, "not among tests, data or examples"),
        (hint, f"for its name says {said!r}" if said else "for its name has no epoch or step"),
        (number, f"the highest number ({number})"),
        (candidate.kind == "folder", "a whole model's folder"),
        (safe, "safetensors, which is no pickle"),
        (candidate.size, "the largest"),
    ]


def _difference(first: Candidate, second: Candidate, programs: Mapping[str, str]) -> str:
    pairs = zip(_marks(first, programs), _marks(second, programs), strict=True)
    return next((one[1] for one, other in pairs if one[0] != other[0]), "the first by name")


def _target(chosen: Candidate, programs: Mapping[str, str]) -> tuple[str, str]:
    """The folder in the image in which the program finds it by the path that it has written down."""
    for place, text in programs.items():
        if not place.endswith(".py"):
            continue
        for literal in _literals(text, chosen.name):
            folder = literal if chosen.kind == "folder" else posixpath.dirname(literal)
            if literal.startswith("/"):
                return folder.rstrip("/") + "/" or "/", f"{place} reads {literal}"
            if literal.removeprefix("./") == chosen.path and not posixpath.dirname(place):
                return posixpath.normpath(f"/app/{folder}") + "/", f"{place} reads {literal}"
    return CHECKPOINT_TARGET, "$LAYERKIT_CHECKPOINT tells the program"


def _literals(text: str, name: str) -> Iterable[str]:
    """Strings of *text* that end with *name* and are a path by themselves: nothing is joined to them."""
    pattern = rf"(?P<before>[^\n]*?)(?P<quote>[\"'])(?P<path>[^\"'\n{{}}]*{re.escape(name)})/?(?P=quote)"
    for found in re.finditer(pattern, text):
        joined = re.search(r"(/\s*|join\([^)]*)$", found["before"])
        if not joined and posixpath.basename(found["path"]) == name:
            yield found["path"]
