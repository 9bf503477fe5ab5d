"""A project's own Dockerfile with the one line that takes the checkpoint from layerkit. Pure.

Nothing else of it is changed: ``layerkit lint --fix`` is for that. With layerkit the checkpoint is in no build context,
so that a COPY that names it loses that word, and one of a whole folder needs no change.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..errors import ConfigurationError
from ..lint.facts import MIB, Entry, Facts, is_checkpoint_name
from ..lint.reading import Copy, Document, Step, read
from ..runtime import base_images, find_checkpoint_copy
from ..runtime.dockerignore import Pattern
from ..units import size
from .facts import Look
from .weights import Choice

__all__ = ["Adopted", "adopt"]


@dataclass(frozen=True, slots=True)
class Adopted:
    """A Dockerfile that layerkit can build.

    Attributes:
        path: of the one that was there.
        text: it, with the line; the same text where it had it.
        changes: what was changed, a sentence each.
        target: folder of the checkpoint in the image, "" where there is none.
        notes: what the reader should know.
    """

    path: str
    text: str
    changes: tuple[str, ...]
    target: str = ""
    notes: tuple[str, ...] = ()


def adopt(look: Look, path: str, checkpoint: Choice | None) -> Adopted:
    """The Dockerfile *path* of the project with the COPY line.

    Raises:
        ConfigurationError: it cannot be done by a line; the message says why.
    """
    text = look.texts[path]
    if "\ufffd" in text:
        raise ConfigurationError(f"{path}: not UTF-8")
    base_images(text)  # what layerkit could not resolve it cannot build
    if checkpoint is None:
        return Adopted(path, text, ())
    if re.search(r"--from=[\"']?checkpoint\b", text):
        copy = find_checkpoint_copy(text)
        return Adopted(path, text, (), copy.target)
    weights = frozenset(checkpoint.files)
    entries = [Entry(f.path, f.size, f.ignored and f.path not in weights) for f in look.files]
    document = read(text, Facts(entries, minimum=0), file=path)
    if document.problem is not None:
        raise ConfigurationError(f"{path}: {document.problem[1]}")
    made = _rewritten(document, checkpoint, weights)
    found = find_checkpoint_copy(made.text)
    base_images(made.text)
    return Adopted(path, made.text, made.changes, found.target, made.notes)


def _rewritten(document: Document, checkpoint: Choice, weights: frozenset[str]) -> Adopted:
    copies = [copy for copy in document.copies if _of(copy, weights)]
    elsewhere = [copy for copy in document.elsewhere if _of(copy, weights)]
    lines: list[str | None] = list(document.lines)
    end = "\r" if document.lines[0].endswith("\r") else ""
    stage = document.stages[-1]
    own = [step for step in document.chain if step.stage == stage.index]
    carriers: list[Step] = []
    if copies:
        # Where it is copied twice, the line that names it says where it is read.
        chosen = next((copy for copy in reversed(copies) if copy.role == "checkpoint"), copies[-1])
        target, owner = _target(chosen, checkpoint, weights), _owner(chosen)
    elif elsewhere:
        target, carrier = _carried(document, elsewhere[-1], _target(elsewhere[-1], checkpoint, weights))
        owner, carriers = "0:0", [carrier]
    else:
        target, owner = _default(document, checkpoint), "0:0"
    changes: list[str] = []
    for copy in (*copies, *elsewhere):
        step, left = copy.step, _without(copy, weights)
        if left is None:
            lines[step.first - 1 : step.last] = [None] * (step.last - step.first + 1)
            changes.append(f"line {step.first} ({step.raw[0].strip()}) is left out")
        elif left != step.raw:
            lines[step.first - 1] = left[0]
            changes.append(f"line {step.first} no longer copies it")
    place = _place(document, [*(copy.step for copy in copies), *carriers], own)
    line = f"COPY --link --chown={owner} --from=checkpoint . {target}"
    lines[place - 1 : place - 1] = [
        f"# The weights, in layers of their own, which layerkit puts there.{end}",
        line + end,
    ]
    changes.insert(0, f"{line} before line {place}")
    text = "\n".join(item for item in lines if item is not None)
    notes = tuple(_notes(document, weights, target, checkpoint))
    return Adopted(document.file, text, tuple(changes), target, notes)


def _notes(document: Document, weights: frozenset[str], target: str, checkpoint: Choice) -> Iterator[str]:
    """What the Dockerfile does with weights that is not so any more, or goes on to cost."""
    for step in document.steps():
        if step.name != "RUN":
            continue
        for command in step.script.replace("\n", ";").replace("&&", ";").split(";"):
            owns = re.match(r"\s*(?:chown|chmod)\b", command) is not None
            below = any(target.startswith(word.rstrip("/") + "/") for word in command.split() if word.startswith("/"))
            if (owns and below) or posixpath.basename(checkpoint.path) in command:
                yield (
                    f"{document.file}: line {step.first} ({command.strip()[:60]}) does not reach the weights, which the"
                    " builder is not given: owner and mode are said in the COPY line"
                )
                break
    for copy in (*document.copies, *document.elsewhere):
        where = f"{document.file}: line {copy.step.first}"
        places = [place for place, entry in copy.files if entry.path in weights]
        elsewhere = [place for place in places if not place.startswith(target)]
        if elsewhere and copy in document.copies:
            yield f"{where} put the weights to {elsewhere[0]} too: now in {target} only"
        owner = copy.step.instruction.flag("chown") or "0"
        if places and not elsewhere and not re.fullmatch(r"(\d+|root)(:(\d+|root))?", owner):
            who = f"{owner!r} is a name, which a linked layer cannot look up"
            yield f"{where}: {who}: the weights are root's, for all to read; or write --chown=UID:GID"
        others = [entry for _, entry in copy.files if entry.path not in weights and is_checkpoint_name(entry.path)]
        large = [entry for entry in others if entry.size >= MIB]
        if large:
            shown = f"{large[0].path} ({size(large[0].size)})" + (f" and {len(large) - 1} more" if large[1:] else "")
            yield f"{where} copies {shown} through the builder: .dockerignore keeps it out"
        if copy.named:
            yield f"{where} copies {copy.named[0]}, which is not here"


def _carried(document: Document, copy: Copy, target: str) -> tuple[str, Step]:
    """Where a COPY --from of the built stage puts what *copy* put into *target* of another stage, and that step."""
    stage = document.stages[copy.step.stage]
    for step in document.chain:
        if step.name != "COPY" or (step.instruction.flag("from") or "").lower() not in (stage.name, str(stage.index)):
            continue
        *sources, last = step.instruction.words
        for source in sources:
            top = "/" + (step.expand(source) or "").strip("/")
            to = step.absolute(last)
            if to is not None and target.startswith(top.rstrip("/") + "/"):
                return posixpath.normpath(posixpath.join(to, posixpath.relpath(target, top))).rstrip("/") + "/", step
    raise ConfigurationError(
        f"line {copy.step.first} copies the checkpoint into another stage",
        hint="write COPY --link --from=checkpoint . DIR/ into the last stage",
    )


def _of(copy: Copy, weights: frozenset[str]) -> bool:
    return any(entry.path in weights for _, entry in copy.files)


def _target(copy: Copy, checkpoint: Choice, weights: frozenset[str]) -> str:
    """Where the checkpoint's files are put by *copy*: all must go below one folder under their own names."""
    where = f"{copy.step.first}"
    if copy.step.instruction.flag("parents") is not None:
        raise ConfigurationError(f"line {where}: --parents says where the checkpoint goes", hint="copy it by itself")
    if copy.target is None:
        raise ConfigurationError(f"line {where}: where it copies to is not known", hint="write the path absolute")
    base = checkpoint.path if checkpoint.path not in weights and "*" not in checkpoint.path else ""
    found = set()
    for place, entry in copy.files:
        if entry.path not in weights:
            continue
        below = posixpath.relpath(entry.path, base) if base else posixpath.basename(entry.path)
        if not place.endswith("/" + below):
            raise ConfigurationError(
                f"line {where}: it renames the checkpoint to {place}",
                hint=f"rename the file, or read it as {below}",
            )
        found.add(place[: -len(below)])
    if len(found) != 1:
        raise ConfigurationError(f"line {where}: it puts the checkpoint into several folders")
    return found.pop()


def _owner(copy: Copy) -> str:
    """Numbers of its --chown; root's where it names somebody: the files can be read by all."""
    written = copy.step.expand(copy.step.instruction.flag("chown") or "0:0") or "0:0"
    user, _, group = written.partition(":")
    parts = ["0" if part == "root" else part for part in (user, group or user)]
    return ":".join(parts) if all(part.isdigit() for part in parts) else "0:0"


def _default(document: Document, checkpoint: Choice) -> str:
    """A Dockerfile that knows nothing of weights: where the program finds them below its working folder."""
    places = [s.absolute(" ".join(s.instruction.words)) for s in document.chain if s.name == "WORKDIR"]
    workdir = places[-1] if places else None
    folder = checkpoint.path if checkpoint.path not in checkpoint.files else posixpath.dirname(checkpoint.path)
    if workdir is None or not re.fullmatch(r"[A-Za-z0-9@%+=:,._/-]*", folder):
        return checkpoint.target
    return posixpath.normpath(posixpath.join(workdir, folder)).rstrip("/") + "/"


def _place(document: Document, copies: Sequence[Step], steps: Sequence[Step]) -> int:
    """The line to put it before: under the code, above what installs, in the last stage.

    Args:
        copies: the steps that copied the weights until now; steps: those of the last stage.
    """
    own = {step.first for step in steps}
    installs = [step.last for step in steps if step.name == "RUN" and step.installs]
    after = max(installs, default=0)
    at = [step.first for step in copies if step.first in own]
    code = [c.step.first for c in document.copies if c.step.first in own and c.role in ("code", "mixed")]
    above = [line for line in (*at, *code) if line > after]
    if above:
        return min(above)
    if at:
        return min(at)
    ends = [s.first for s in steps if s.name in ("COPY", "ADD", "CMD", "ENTRYPOINT") and s.first > after]
    if ends:
        return min(ends)
    return steps[-1].last + 1 if steps else document.stages[-1].start.last + 1


def _without(copy: Copy, weights: frozenset[str]) -> tuple[str, ...] | None:
    """Its lines without the sources that have nothing but weights; None where none is left."""
    empty = []
    for source in copy.sources:
        path = posixpath.normpath("/" + source.lstrip("/")).lstrip("/")
        inside = [
            entry
            for _, entry in copy.files
            if not path or entry.path == path or entry.path.startswith(path + "/") or _matches(path, entry.path)
        ]
        if inside and all(entry.path in weights for entry in inside):
            empty.append(source)
    if not empty:
        return copy.step.raw
    if len(empty) == len(copy.sources):
        return None
    if not copy.step.plain:
        raise ConfigurationError(
            f"line {copy.step.first}: it copies the checkpoint among other things",
            hint="give the checkpoint a COPY of its own",
        )
    line = copy.step.raw[0]
    for source in empty:
        line = re.sub(rf"(?<=\s){re.escape(source)}\s+", "", line, count=1)
    return (line,)


def _matches(pattern: str, path: str) -> bool:
    try:
        return any(c in pattern for c in "*?[") and Pattern.parse(pattern).match(path)
    except ConfigurationError:
        return False
