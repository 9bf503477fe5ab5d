"""What follows from how a project looks: each value of its layerkit.toml, with the reason for it. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError, printable
from ..lint.facts import LARGE_BIN, is_checkpoint_name
from ..runtime import CHECKPOINT_TARGET, base_images
from ..units import size
from .adopt import Adopted, adopt
from .facts import Look
from .needs import Needs, needs, python_version
from .program import Program, code, program, programs
from .weights import Choice, choose

__all__ = ["Conclusions", "Reason", "conclude"]

DOCKERFILE = "Dockerfile.layerkit"


@dataclass(frozen=True, slots=True)
class Reason:
    """One conclusion: a key of layerkit.toml, its value (text, tuple or mapping), and what it was concluded from."""

    key: str
    value: Any
    because: str

    def to_json(self) -> dict[str, Any]:
        value = list(self.value) if isinstance(self.value, tuple) else self.value
        return {"key": self.key, "value": value, "because": self.because}


@dataclass(frozen=True, slots=True)
class Conclusions:
    """Everything that init says.

    Attributes:
        reasons: in the order of the file.
        notes: what the reader should know or do.
        hints: key -> a comment for what was not concluded.
        files: further files to write: path -> text.
    """

    reasons: tuple[Reason, ...]
    notes: tuple[str, ...] = ()
    hints: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)

    def value(self, key: str) -> Any:
        """The value of *key*; "" where nothing was concluded."""
        return next((reason.value for reason in self.reasons if reason.key == key), "")


class _Draft:
    def __init__(self) -> None:
        self.reasons: list[Reason] = []
        self.notes: list[str] = []
        self.hints: dict[str, str] = {}
        self.files: dict[str, str] = {}

    def say(self, key: str, value: Any, because: str) -> None:
        if value:
            self.reasons.append(Reason(key, value, printable(because, 300).replace("\n", " ")))

    def done(self) -> Conclusions:
        notes = tuple(dict.fromkeys(printable(note, 500).replace("\n", " ") for note in self.notes))
        return Conclusions(tuple(self.reasons), notes, self.hints, self.files)


def conclude(look: Look, *, own: bool = True) -> Conclusions:
    """What to build from *look*.

    Args:
        own: a Dockerfile that is there is used, where it can be.
    """
    draft = _Draft()
    draft.notes += look.unreadable
    if not look.whole:
        draft.notes.append(f"only the first {len(look.files)} files were looked at")
    draft.notes += _parts(look)
    name, because = _name(look)
    draft.say("image.name", name, because)
    if look.remote:
        draft.hints["image.name"] = f"the repository to push to, as ghcr.io/{look.remote}"
    dockerfile = _dockerfile(look)
    serving = programs(look)
    chosen = choose(look, {**serving, **({dockerfile: look.texts[dockerfile]} if dockerfile else {})})
    if dockerfile and own:
        try:
            adopted = adopt(look, dockerfile, chosen)
        except ConfigurationError as error:
            why = error.message.removeprefix("image.dockerfile: ").removeprefix(f"{dockerfile}: ")
            draft.notes.append(f"{dockerfile} is not used: {why}" + (f" ({error.hint})" if error.hint else ""))
        else:
            _own(draft, look, adopted, chosen)
            draft.notes += adopted.notes
            _checkpoint(draft, look, chosen, None)
            return draft.done()
    _generated(draft, look, chosen, dockerfile)
    return draft.done()


def _name(look: Look) -> tuple[str, str]:
    project = look.documents.get("pyproject.toml", {}).get("project")
    given = project.get("name") if isinstance(project, Mapping) else None
    for text, because in ((given, "the project's name in pyproject.toml"), (look.name, "the folder's name")):
        name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:100].strip("-") if isinstance(text, str) else ""
        if name:
            return name, because
    return "model", "the folder's name has no letter that a repository may have"


def _dockerfile(look: Look) -> str:
    found = [
        path
        for path in look.texts
        if re.fullmatch(
            r"((docker|deploy|build)/)?(Dockerfile([.-](prod|serve|serving|inference|api|gpu|cpu))?|Containerfile)",
            path,
        )
    ]
    return min(found, key=lambda path: (path != "Dockerfile", path.count("/"), path), default="")


def _parts(look: Look) -> list[str]:
    """A repository of several projects has nothing in its own folder."""
    marks = ("Dockerfile", "requirements.txt", "pyproject.toml", "Pipfile")
    if any(file.name in marks or file.name.endswith(".py") for file in look.files if not file.folder):
        return []
    found = sorted({f.folder for f in look.files if f.name in marks and f.folder.count("/") <= 1})
    if not found:
        return []
    shown = ", ".join(found[:4]) + (" …" if len(found) > 4 else "")
    return [f"projects are in folders of this one ({shown}): layerkit init -C {found[0]}"]


# ------------------------------------------------------------------------------------------------------ the two ways


def _own(draft: _Draft, look: Look, adopted: Adopted, chosen: Choice | None) -> None:
    if not adopted.changes:
        why = "it has the COPY --link --from=checkpoint line" if chosen else "it is there"
        draft.say("image.dockerfile", adopted.path, why)
        return
    path = posixpath.join(posixpath.dirname(adopted.path), DOCKERFILE)
    draft.files[path] = adopted.text
    beside = f"{adopted.path}.dockerignore"
    if beside in look.texts:
        draft.files[f"{path}.dockerignore"] = look.texts[beside]
    draft.say("image.dockerfile", path, f"{adopted.path} with one line: {'; '.join(adopted.changes)}")
    draft.notes.append(f"{adopted.path} stays as it is; --no-dockerfile has layerkit write the steps itself")


def _generated(draft: _Draft, look: Look, chosen: Choice | None, dockerfile: str) -> None:
    wanted = needs(look)
    started = program(look, wanted.names, chosen.target if chosen else CHECKPOINT_TARGET)
    draft.notes += [*started.notes, *wanted.notes]
    base, because = _base(look, dockerfile)
    draft.say("image.base", base, because)
    command = started.command
    if command and command[0] == "python" and not _has_python(base):
        command = ("python3", *command[1:])
    draft.say("image.command", command, started.why)
    if started.port:
        draft.say("image.expose", (started.port,), started.port_why)
    draft.say("image.env", dict(started.env), "the command needs it")
    _dependencies(draft, wanted, started)
    weights = frozenset(chosen.files) if chosen else frozenset()
    include = code(look, weights)
    draft.say("code.include", include, "modules and folders of code, training and tests left out")
    exclude = _exclude(look, include, weights)
    draft.say("code.exclude", exclude, "other weights and notebooks that lie in these folders")
    _checkpoint(draft, look, chosen, started)


def _base(look: Look, dockerfile: str) -> tuple[str, str]:
    version, because = python_version(look)
    if dockerfile:
        try:
            first = base_images(look.texts[dockerfile])[:1]
        except ConfigurationError:
            first = ()
        if first and not re.search(r"devel|build", first[0]):
            return first[0], f"{dockerfile} starts from it"
    return f"python:{version}-slim", because or "the usual one: nothing says which Python"


def _has_python(base: str) -> bool:
    return re.search(r"(^|/)(python|pytorch|conda|miniconda3?|uv)[:/@]|^python$", base) is not None


def _dependencies(draft: _Draft, wanted: Needs, started: Program) -> None:
    draft.say("dependencies.requirements", wanted.requirements, wanted.why)
    kinds = {
        "cpu": "torch comes as CPU wheels",
        "cuda": "torch comes as CUDA wheels",
        "rocm": "torch comes as ROCm wheels",
        "default": "which torch comes is the index's choice",
    }
    heavy = "the heavy ones, in a layer of their own"
    draft.say("dependencies.separate", wanted.separate, "; ".join([heavy, *filter(None, [kinds.get(wanted.torch)])]))
    if wanted.requirements:
        uv = wanted.installer == "uv"
        draft.say("dependencies.installer", wanted.installer if uv else "", "the project uses uv")
    draft.say("dependencies.wheels", wanted.wheels, "it has a wheel of every requirement")
    apt = tuple(sorted({*wanted.apt, *started.apt}))
    draft.say("dependencies.apt", apt, "what these packages load from the system")
    draft.say("dependencies.build-apt", wanted.build_apt, "a requirement is cloned; it stays out of the image")


def _exclude(look: Look, include: tuple[str, ...], weights: frozenset[str]) -> tuple[str, ...]:
    found = set()
    for file in look.files:
        if file.path in weights or file.ignored or not any(file.path.startswith(f"{entry}/") for entry in include):
            continue
        suffix = re.search(r"(\.pth\.tar|\.[A-Za-z0-9]+)$", file.name)
        if suffix and (file.name.endswith(".ipynb") or (is_checkpoint_name(file.name) and suffix[1] != ".bin")):
            found.add(f"**/*{suffix[1]}")
        elif file.name.endswith(".bin") and file.size >= LARGE_BIN and not any(c in file.path for c in "*?[]\\!#"):
            found.add(file.path)
    return tuple(sorted(found))


def _checkpoint(draft: _Draft, look: Look, chosen: Choice | None, started: Program | None) -> None:
    if chosen is None:
        draft.notes.append("no checkpoint was found: set checkpoint.path when there is one")
        return
    draft.say("checkpoint.path", chosen.path, chosen.why)
    if started is not None:
        draft.say("checkpoint.target", chosen.target, chosen.because)
    if chosen.others:
        shown = ", ".join(chosen.others[:4]) + (f" and {len(chosen.others) - 4} more" if len(chosen.others) > 4 else "")
        draft.hints["checkpoint.path"] = f"there are also {shown}"
    if chosen.pointer:
        draft.notes.append(f"{chosen.path} is a Git LFS pointer ({size(chosen.size)}): git lfs pull")
