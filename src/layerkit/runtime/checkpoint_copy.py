"""The line of a user's own Dockerfile that says where the checkpoint goes. Pure."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..errors import ConfigurationError
from .instructions import Instruction
from .stages import CHECKPOINT, Dockerfile, Stage, sources
from .touched import touched
from .words import SAFE_WORD, expanded, json_form

__all__ = ["CheckpointCopy", "find_checkpoint_copy"]

RIGHT_LINE = "COPY --link --chown=0:0 --from=checkpoint . /app/model/"

_OCTAL = re.compile(r"0?[0-7]{3,4}")


@dataclass(frozen=True, slots=True)
class CheckpointCopy:
    """The line that says where the checkpoint goes.

    Attributes:
        line: its number, from 1; text: as written.
        target: absolute folder in the image, with a ``/`` at its end.
        uid, gid: numeric owner.
        chmod: octal digits as written, or None.
        touched: why the image cannot be composed: what below that line works on the weights; "" where nothing does.
    """

    line: int
    text: str
    target: str
    uid: int
    gid: int
    chmod: str | None = None
    touched: str = ""


def find_checkpoint_copy(text: str, *, target_stage: str = "", args: Mapping[str, str] | None = None) -> CheckpointCopy:
    """The one ``COPY --link --from=checkpoint . DIR/`` line of *target_stage*, or of a stage that it is made on top of.

    Raises:
        ConfigurationError: there is none, more than one, or one that cannot become layers of its own; the message
            shows the line and the hint the right one.
    """
    dockerfile = Dockerfile(text, args or {})
    chain = dockerfile.chain(dockerfile.target(target_stage))
    found: list[tuple[Instruction, dict[str, str], str | None]] = []
    for instruction, variables, workdir in dockerfile.walk(chain):
        if CHECKPOINT in (name.lower() for name in sources(instruction)):
            if instruction.name == "RUN":
                raise _wrong(instruction, "a RUN step cannot read the checkpoint: its bytes never reach the builder")
            found.append((instruction, dict(variables), workdir))
    others = [
        instruction
        for stage in dockerfile.stages
        if stage not in chain
        for instruction in stage.body
        if CHECKPOINT in (name.lower() for name in sources(instruction))
    ]
    last = chain[-1]
    if not found:
        if others:
            raise _wrong(others[0], f"it is not in the stage that is built ({last.name or last.index})")
        raise ConfigurationError(
            "image.dockerfile: no line of it says where the checkpoint goes", hint=_where_to_add(last)
        )
    if len(found) > 1:
        lines = ", ".join(str(instruction.line) for instruction, _, _ in found)
        raise ConfigurationError(
            f"image.dockerfile: lines {lines}: the checkpoint is copied {len(found)} times",
            hint=f"leave one: {RIGHT_LINE}",
        )
    copy = _checked(dockerfile, *found[0])
    return replace(copy, touched=touched(dockerfile, chain[-1], found[0][0], copy.target))


def _where_to_add(stage: Stage) -> str:
    copies = [i for i in stage.body if i.name in ("COPY", "ADD") and not i.flag("from")]
    if copies:
        return f"add before line {copies[-1].line} ({copies[-1].text[:80]}):  {RIGHT_LINE}"
    after = stage.body[-1] if stage.body else stage.start
    ends = [i for i in stage.body if i.name in ("CMD", "ENTRYPOINT")]
    if ends:
        return f"add before line {ends[0].line} ({ends[0].text[:80]}):  {RIGHT_LINE}"
    return f"add after line {after.line} ({after.text[:80]}):  {RIGHT_LINE}"


def _wrong(instruction: Instruction, why: str, right: str = RIGHT_LINE) -> ConfigurationError:
    return ConfigurationError(
        f"image.dockerfile: line {instruction.line}: {instruction.text!r}: {why}", hint=f"write: {right}"
    )


def _checked(
    dockerfile: Dockerfile, instruction: Instruction, variables: Mapping[str, str], workdir: str | None
) -> CheckpointCopy:
    unsupported = sorted({name for name, _ in instruction.flags} - {"link", "from", "chown", "chmod"})
    if unsupported:
        raise _wrong(instruction, f"--{unsupported[0]} has no meaning for the checkpoint")
    if len(instruction.words) != 2 or instruction.words[0] not in (".", "/", "./", "/."):
        raise _wrong(instruction, "the whole checkpoint is copied: one source, which is '.'")

    def value(word: str) -> str:
        known, unknown = dockerfile.expand(word, variables)
        if unknown:
            raise _wrong(
                instruction, f"the value of ${unknown} is not known here (no ARG default, ENV or [builder.args])"
            )
        return known

    target = value(instruction.words[1])
    if not target.startswith("/"):
        if workdir is None:
            raise _wrong(instruction, f"{target!r} is relative, and WORKDIR is the base image's: write it absolute")
        target = posixpath.join(workdir, target)
    target = posixpath.normpath("/" + target.lstrip("/")).rstrip("/") + "/"
    place = _place(target)
    uid, gid = _owner(instruction, value(instruction.flag("chown") or "0:0"), place)
    mode = value(instruction.flag("chmod") or "") or None
    right = f"COPY --link --chown={uid}:{gid}{f' --chmod={mode}' if mode else ''} --from=checkpoint {place}"
    if mode is not None and not _OCTAL.fullmatch(mode):
        raise _wrong(instruction, f"--chmod={mode} is no octal mode", right.replace(f"={mode}", "=0644"))
    if instruction.flag("link") not in ("", "true"):
        raise _wrong(instruction, "without --link its layer depends on all the layers under it", right)
    return CheckpointCopy(instruction.line, instruction.text, target, uid, gid, mode)


def _place(target: str) -> str:
    """The words of a COPY line that say where to, as BuildKit reads them back."""
    return f". {target}" if SAFE_WORD.fullmatch(target) else json_form([".", expanded(target)])


def _owner(instruction: Instruction, owner: str, place: str) -> tuple[int, int]:
    """Numbers of ``user[:group]``; a group that is left out is the user's number (seen with BuildKit 0.25)."""
    user, _, group = owner.partition(":")
    numbers = []
    for name in (user, group or user):
        if name != "root" and not re.fullmatch(r"\d{1,10}", name):
            right = f"COPY --link --chown=1000:1000 --from=checkpoint {place}"
            raise _wrong(
                instruction, f"{name!r} is a name, and a linked layer has no /etc/passwd: write numbers", right
            )
        numbers.append(0 if name == "root" else int(name))
    return numbers[0], numbers[1]
