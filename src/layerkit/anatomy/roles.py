"""Which role each layer has: as layerkit marked it, else as the history lets one guess. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..lint.facts import CHECKPOINT_SUFFIXES
from ..names import ROLES
from .layers import UNKNOWN

__all__ = ["Role", "Row", "Step", "brief", "guess_roles", "steps_of"]

_LARGE = 32 * 1024 * 1024  # bytes from which a copy into a folder of models counts as a checkpoint
_SHELL = re.compile(r"(?:\|\d+ .*?)??(?:/\S*/)?(?:ba|da|z|a)?sh(?: -\S+| pipefail)* -\w*c ", re.DOTALL)
_NOP = re.compile(r"^/bin/sh -c #\(nop\)\s+")
_KEYWORD = re.compile(r"^(RUN|COPY|ADD|CMD|ENTRYPOINT|ENV|ARG|LABEL|WORKDIR|USER|EXPOSE|VOLUME|HEALTHCHECK|SHELL"
                      r"|STOPSIGNAL|ONBUILD|MAINTAINER|FROM)\b", re.IGNORECASE)  # fmt: skip
_SUFFIXES = "|".join(re.escape(suffix) for suffix in sorted(CHECKPOINT_SUFFIXES, key=len, reverse=True))
_WEIGHTS = re.compile(rf"(?:{_SUFFIXES})(?![\w.-])", re.IGNORECASE)
_MODELS = re.compile(r"(?:^|[\s/_-])(?:weights?|checkpoints?|ckpts?|models?)(?:[\s/_-]|$)", re.IGNORECASE)
_FETCHED = re.compile(r"\b(?:huggingface-cli|hf) download\b|snapshot_download|hf_hub_download")
_RECURSIVE = re.compile(r"\bch(?:own|mod|grp)\s+(?:\S+\s+)*?(?:-\w*R|--recursive)")
_INSTALLED = re.compile(
    r"site-packages|dist-packages|/(?:opt|app)?/?\.?venv\b|/root/\.local|/opt/conda|node_modules|wheels?\b|/install\b"
    r"|requirements\S*\.(?:txt|in)|pyproject\.toml|(?:uv|poetry|Pipfile|pdm|conda)\S*\.lock|environment\.ya?ml",
)
_FLAGS = re.compile(r"\bRUN(?: --\S+)+ ")
_ROOT_TAR = re.compile(r"(?:\bin|\s)\s*/\s*$")


@dataclass(frozen=True, slots=True)
class Step:
    """One entry of an image's history. ``empty``: it made no layer."""

    created_by: str
    empty: bool = False
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """What there is to guess from, of one layer: its step, its size in bytes (0: not known), layerkit's own mark."""

    step: Step
    size: int = 0
    mark: str = ""
    files: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Role:
    """A role; whether it was guessed; from what; whether the layer is a copy of one below by chown or chmod."""

    name: str
    guessed: bool
    why: str
    copy: bool = False


def steps_of(created_by: str) -> tuple[str, str]:
    """(keyword, the rest) of an entry of a history, as BuildKit and the classic builder write them."""
    text = created_by.strip().removesuffix("# buildkit").strip()
    text, classic = _NOP.subn("", text)
    text = text.strip()
    match = _KEYWORD.match(text)
    if match:
        keyword, rest = match[1].upper(), text[match.end() :].strip()
    elif text and not classic and _SHELL.match(text):
        keyword, rest = "RUN", text
    else:
        return "", text
    if keyword == "RUN":
        rest = _SHELL.sub("", rest, count=1)
    return keyword, rest.strip()


def brief(text: str) -> str:
    """*text* (an instruction, or the name of a build step) without the flags of RUN: how it ran, and not what."""
    return _FLAGS.sub("RUN ", text)


def guess_roles(history: Sequence[Step], rows: Sequence[Row], *, base: int | None = None) -> tuple[Role, ...]:
    """The role of each layer.

    Args:
        history: all entries, the empty ones too, bottom first; () where the image has none.
        rows: of each layer, bottom first.
        base: layers of the base image, where that is known; they are not guessed then.
    """
    known = base is not None
    below, reason = (base, "a layer of the base image that was named") if base is not None else _base_layers(history)
    roles: list[Role] = []
    for index, row in enumerate(rows):
        if row.mark in ROLES:
            roles.append(Role(row.mark, False, "marked by layerkit"))
        elif row.step.comment == "layerkit":
            roles.append(Role("checkpoint", False, "composed by layerkit"))
        elif index < below:
            roles.append(Role("base", not known, reason))
        else:
            roles.append(_guess(row, [(r, rows[at].size) for at, r in enumerate(roles)]))
    return tuple(roles)


def _base_layers(history: Sequence[Step]) -> tuple[int, str]:
    """Layers below the FROM of the last stage.

    A base image ends with its command: the last CMD or ENTRYPOINT with layers above it is where FROM was. Where there
    is none, the first layer is the base if it fills the root.
    """
    made = [number for number, step in enumerate(history) if not step.empty]
    if not made:
        return 0, ""
    commands = [n for n, s in enumerate(history) if s.empty and steps_of(s.created_by)[0] in ("CMD", "ENTRYPOINT")]
    for number in reversed(commands):
        below = sum(1 for at in made if at < number)
        if 0 < below < len(made):
            return below, f"below {steps_of(history[number].created_by)[0]}, with which a base image ends"
    first = history[made[0]]
    keyword, rest = steps_of(first.created_by)
    if keyword in ("", "RUN") or (keyword == "ADD" and _ROOT_TAR.search(f" {rest}")):
        return 1, "the first layer, which the others stand on"
    return 0, ""


def _guess(row: Row, below: Sequence[tuple[Role, int]]) -> Role:
    keyword, rest = steps_of(row.step.created_by)
    if keyword == "RUN":
        return _guess_run(row, rest, below)
    weights = next((name for name in row.files if _WEIGHTS.search(name)), "")
    if weights:
        return Role("checkpoint", True, f"holds {weights}")
    if keyword in ("COPY", "ADD"):
        if "--from=checkpoint" in rest.split():
            return Role("checkpoint", True, "copied from the stage checkpoint")
        match = _WEIGHTS.search(rest)
        if match and (match[0].lower() != ".bin" or row.size >= _LARGE):
            return Role("checkpoint", True, f"{keyword} of a {match[0].lower()} file")
        if row.size >= _LARGE and _MODELS.search(rest):
            return Role("checkpoint", True, f"{keyword} of a large folder of models")
        if _INSTALLED.search(rest):
            return Role("dependencies", True, f"{keyword} of what dependencies are installed from, or to")
        return Role("code", True, keyword)
    if keyword == "WORKDIR":
        return Role("code", True, keyword)
    if keyword:
        return Role("dependencies", True, keyword)
    return Role(UNKNOWN, True, "the history does not say how it was made")


def _guess_run(row: Row, rest: str, below: Sequence[tuple[Role, int]]) -> Role:
    largest = max((size for role, size in below if role.name == "checkpoint"), default=0)
    if _RECURSIVE.search(rest) and largest and row.size * 2 >= largest:
        return Role("checkpoint", True, "RUN chown or chmod, which copies what it touches", copy=True)
    if _FETCHED.search(rest) or (re.search(r"\b(?:wget|curl|gdown|gsutil|aws s3)\b", rest) and _WEIGHTS.search(rest)):
        return Role("checkpoint", True, "RUN that fetches weights")
    return Role("dependencies", True, "RUN")
