"""A user's own Dockerfile: its instructions, the base images it needs, and the line that places the checkpoint. Pure.

The reading follows BuildKit's ``frontend/dockerfile/parser`` (directives, continuations, comments, heredocs) and
``shell/lex.go`` (variables). What layerkit has no use for is not understood, and passes through.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..errors import ConfigurationError

__all__ = ["CheckpointCopy", "Instruction", "base_images", "find_checkpoint_copy", "instructions"]

CHECKPOINT = "checkpoint"
RIGHT_LINE = "COPY --link --chown=0:0 --from=checkpoint . /app/model/"

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(\S.*)")
_HEREDOC = re.compile(r"\d*<<(?P<chomp>-?)(?P<quote>['\"]?)(?P<name>[^<'\"\s]+)(?P=quote)")
_FLAG = re.compile(r"--(?P<name>[a-z][a-z-]*)(?:=(?P<value>.*))?")
_OCTAL = re.compile(r"0?[0-7]{3,4}")
_PLATFORM_ARGUMENTS = frozenset(
    f"{side}{part}" for side in ("TARGET", "BUILD") for part in ("PLATFORM", "OS", "ARCH", "VARIANT")
)


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    Attributes:
        name: upper case: ``COPY``.
        flags: the ``--name=value`` words in front; the value of a bare ``--link`` is "".
        words: the rest, split at white space, or the items of a JSON list; quotes are kept.
        line: where it starts, from 1.
        text: as written, continuations joined with one space.
    """

    name: str
    flags: tuple[tuple[str, str], ...]
    words: tuple[str, ...]
    line: int
    text: str

    def flag(self, name: str) -> str | None:
        """The value of the last flag of that name; None where it is not there."""
        return dict(self.flags).get(name)


@dataclass(frozen=True, slots=True)
class CheckpointCopy:
    """The line that says where the checkpoint goes.

    Attributes:
        line: its number, from 1; text: as written.
        target: absolute folder in the image, with a ``/`` at its end.
        uid, gid: numeric owner.
        chmod: octal digits as written, or None.
    """

    line: int
    text: str
    target: str
    uid: int
    gid: int
    chmod: str | None = None


# ----------------------------------------------------------------------------------------------------------- reading


def instructions(text: str) -> tuple[Instruction, ...]:
    """The instructions of a Dockerfile's text, in their order."""
    return tuple(_read(text)[0])


def _read(text: str) -> tuple[list[Instruction], str]:
    lines = text.removeprefix("\ufeff").split("\n")
    escape = _escape(lines)
    ends = re.compile(rf"(?:(?<!{re.escape(escape)})|^){re.escape(escape)}[ \t]*$")
    result: list[Instruction] = []
    at = 0
    while at < len(lines):
        start, line = at, lines[at].strip("\r").lstrip()
        at += 1
        if not line.strip() or line.startswith("#"):
            continue
        parts = [ends.sub("", line)]
        more = ends.search(line) is not None
        while more and at < len(lines):
            line = lines[at].rstrip("\r")
            at += 1
            if not line.strip() or line.lstrip().startswith("#"):
                continue
            parts.append(ends.sub("", line))
            more = ends.search(line) is not None
        instruction = _instruction("".join(parts), " ".join(part.strip() for part in parts).strip(), start + 1)
        result.append(instruction)
        at = _skip_heredocs(instruction, "".join(parts), lines, at, escape)
    return result, escape


def _escape(lines: Iterable[str]) -> str:
    """The escape character: directives stand before everything else, each at most once."""
    for line in lines:
        found = _DIRECTIVE.fullmatch(line.strip())
        if not found:
            break
        if found[1].lower() == "escape" and found[2] in ("\\", "`"):
            return found[2]
    return "\\"


def _instruction(joined: str, text: str, line: int) -> Instruction:
    name, rest = [*joined.strip().split(maxsplit=1), "", ""][:2]
    flags: list[tuple[str, str]] = []
    while found := _FLAG.fullmatch(_first(rest)):
        flags.append((found["name"], _unquote(found["value"] or "")))
        rest = rest[len(_first(rest)) :].lstrip()
    words: tuple[str, ...] = ()
    if rest.startswith("["):
        try:
            parsed = json.loads(rest)
        except (ValueError, RecursionError):
            parsed = None
        if isinstance(parsed, list) and all(isinstance(item, str) for item in parsed):
            words = tuple(parsed)
    return Instruction(name.upper(), tuple(flags), words or tuple(rest.split()), line, text)


def _first(text: str) -> str:
    """The first word, quotes and escapes kept together as BuildKit does for flags."""
    found = re.match(r"(?:\\.|\"(?:\\.|[^\"\\])*\"|'[^']*'|\S)*", text)
    return found[0] if found else ""


def _unquote(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'" else text


def _skip_heredocs(instruction: Instruction, joined: str, lines: list[str], at: int, escape: str) -> int:
    """The index behind the heredocs that the instruction opens (only RUN, COPY and ADD have them, also in ONBUILD)."""
    name = instruction.words[0].upper() if instruction.name == "ONBUILD" and instruction.words else instruction.name
    if name not in ("RUN", "COPY", "ADD"):
        return at
    for word in _shell_words(joined):
        found = _HEREDOC.fullmatch(word)
        if found is None:
            continue
        while at < len(lines):
            line = lines[at].rstrip("\r")
            at += 1
            if (line.lstrip("\t") if found["chomp"] else line) == found["name"]:
                break
    return at


def _shell_words(text: str) -> Iterator[str]:
    """Words with their quotes; what is inside quotes opens no heredoc."""
    return (found[0] for found in re.finditer(r"(?:\\.|\"(?:\\.|[^\"\\])*\"|'[^']*'|[^\s\"'\\])+", text))


# ------------------------------------------------------------------------------------------------------------ stages


@dataclass(slots=True)
class _Stage:
    """A stage: what it starts from, and the variables and folder as they are where a line of it stands."""

    index: int
    name: str
    base: str  # expanded; as written where it cannot be
    unknown: str  # the variable that could not be expanded
    start: Instruction
    body: list[Instruction] = field(default_factory=list)


class _Dockerfile:
    def __init__(self, text: str, args: Mapping[str, str]) -> None:
        self.args = args
        self.stages: list[_Stage] = []
        self.globals: dict[str, str] = {}
        read, self.escape = _read(text)
        for instruction in read:
            if instruction.name == "FROM":
                self.stages.append(self._stage(instruction))
            elif self.stages:
                self.stages[-1].body.append(instruction)
            elif instruction.name == "ARG":
                self._arg(instruction, self.globals, {})
        if not self.stages:
            raise ConfigurationError("image.dockerfile: no FROM line in it")

    def _stage(self, instruction: Instruction) -> _Stage:
        words = instruction.words
        if not words:
            raise ConfigurationError(f"image.dockerfile: line {instruction.line}: FROM names no image")
        name = words[2].lower() if len(words) == 3 and words[1].lower() == "as" else ""
        base, unknown = self.expand(words[0], {**self._automatic(), **self.globals})
        return _Stage(len(self.stages), name, base, unknown, instruction)

    def _automatic(self) -> dict[str, str]:
        return {name: self.args[name] for name in _PLATFORM_ARGUMENTS if name in self.args}

    def _arg(self, instruction: Instruction, variables: dict[str, str], outer: Mapping[str, str]) -> None:
        for word in _pairs(instruction):
            name, equals, value = word.partition("=")
            if name in self.args:
                variables[name] = self.args[name]
            elif equals:
                expanded, unknown = self.expand(value, variables)
                if not unknown:
                    variables[name] = expanded
            elif name in outer:
                variables[name] = outer[name]

    def target(self, name: str) -> _Stage:
        if not name:
            return self.stages[-1]
        found = self.find(name)
        if found is None:
            known = ", ".join(stage.name or str(stage.index) for stage in self.stages)
            raise ConfigurationError(f"image.target: no stage {name!r} in the Dockerfile", hint=f"it has: {known}")
        return found

    def find(self, name: str, before: int | None = None) -> _Stage | None:
        """The stage of that name or number, among those before *before*."""
        for stage in reversed(self.stages[:before]):
            if stage.name and stage.name == name.lower():
                return stage
        if name.isdigit() and int(name) < len(self.stages[:before]):
            return self.stages[int(name)]
        return None

    def chain(self, stage: _Stage) -> list[_Stage]:
        """The stages that *stage* is made on top of, the lowest first, itself last."""
        result = [stage]
        while (below := self.find(result[-1].base, result[-1].index)) is not None and not result[-1].base.isdigit():
            result.append(below)
        return result[::-1]

    def walk(self, chain: Iterable[_Stage]) -> Iterator[tuple[Instruction, dict[str, str], str | None]]:
        """(instruction, variables there, WORKDIR there or None where the base image decides) along *chain*."""
        environment: dict[str, str] = {}
        workdir: str | None = None
        for stage in chain:
            arguments: dict[str, str] = {}  # ARG is for its own stage, ENV for those on top of it too
            if stage.base == "scratch":
                workdir = "/"
            for instruction in stage.body:
                variables = {**arguments, **environment}
                yield instruction, variables, workdir
                if instruction.name == "ARG":
                    self._arg(instruction, arguments, {**self._automatic(), **self.globals})
                elif instruction.name == "ENV":
                    environment |= self._env(instruction, variables)
                elif instruction.name == "WORKDIR":
                    folder, unknown = self.expand(" ".join(instruction.words), variables)
                    if unknown:
                        workdir = None
                    elif folder.startswith("/"):
                        workdir = posixpath.normpath(folder)
                    elif workdir is not None:
                        workdir = posixpath.normpath(posixpath.join(workdir, folder))

    def _env(self, instruction: Instruction, variables: Mapping[str, str]) -> dict[str, str]:
        words = instruction.words
        pairs = list(_pairs(instruction))
        if words and "=" not in words[0]:  # the old form: ENV NAME all the rest
            pairs = [words[0] + "=" + " ".join(words[1:])]
        result = {}
        for pair in pairs:
            name, _, value = pair.partition("=")
            expanded, unknown = self.expand(value, variables)
            if not unknown:
                result[name] = expanded
        return result

    def expand(self, word: str, variables: Mapping[str, str]) -> tuple[str, str]:
        """(*word* with quotes removed and variables replaced, the first variable that has no value or "")."""
        unknown = ""
        result = []
        at, quote = 0, ""
        while at < len(word):
            character = word[at]
            at += 1
            if quote == "'" and character != "'":
                result.append(character)
            elif character in "\"'" and quote in ("", character):
                quote = "" if quote else character
            elif character == self.escape and at < len(word):
                if quote == '"' and word[at] not in ('"', "$", self.escape):
                    result.append(character)
                result.append(word[at])
                at += 1
            elif character == "$":
                found = _VARIABLE.match(word, at)
                if found is None:
                    result.append(character)
                    continue
                at = found.end()
                value = self._value(found, variables)
                if value is None:
                    unknown = unknown or found["plain"] or found["name"]
                else:
                    result.append(value)
            else:
                result.append(character)
        return "".join(result), unknown

    def _value(self, found: re.Match[str], variables: Mapping[str, str]) -> str | None:
        value = variables.get(found["plain"] or found["name"])
        operator = found["operator"] or ""
        if operator in (":-", "-"):
            missing = value is None or (operator == ":-" and not value)
            if not missing:
                return value
            text, unknown = self.expand(found["word"], variables)
            return None if unknown else text
        if operator in (":+", "+"):
            present = value is not None and (operator == "+" or value != "")
            if not present:
                return ""
            text, unknown = self.expand(found["word"], variables)
            return None if unknown else text
        if operator in (":?", "?", ""):
            return value
        return None  # ${name#pattern} and the like


_VARIABLE = re.compile(
    r"(?P<plain>[A-Za-z_][A-Za-z0-9_]*)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?:(?P<operator>:?[-+?]|[#%/]+)(?P<word>(?:[^{}]|\{[^{}]*\})*))?\}"
)


def _pairs(instruction: Instruction) -> Iterator[str]:
    """``NAME=value`` words, quoted spaces kept together."""
    rest = " ".join(instruction.words)
    return (found[0] for found in re.finditer(r"(?:\\.|\"(?:\\.|[^\"\\])*\"|'[^']*'|\S)+", rest))


# --------------------------------------------------------------------------------------------------------- questions


def base_images(text: str, *, target_stage: str = "", args: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The images from elsewhere that building *target_stage* needs: the one it is made on top of first.

    Stages, ``scratch`` and the named context ``checkpoint`` are none. Only stages that are needed count.

    Args:
        target_stage: name or number; the last stage where "".
        args: build arguments; TARGETARCH and its like may be among them.

    Raises:
        ConfigurationError: no such stage, or a name with a variable that has no value.
    """
    dockerfile = _Dockerfile(text, args or {})
    target = dockerfile.target(target_stage)
    found: dict[str, None] = {}
    seen: set[int] = set()

    def reference(name: str, stage: _Stage, line: int) -> None:
        below = dockerfile.find(name, stage.index)
        if below is not None:
            visit(below)
        elif name and name.lower() not in ("scratch", CHECKPOINT) and not name.isdigit():
            found.setdefault(name)

    def visit(stage: _Stage) -> None:
        if stage.index in seen:
            return
        seen.add(stage.index)
        if stage.unknown or not stage.base:
            raise _without_value(stage.start, stage.unknown)
        if not stage.base.isdigit():
            reference(stage.base, stage, stage.start.line)
        for instruction in stage.body:
            for name in _sources(instruction):
                expanded, unknown = dockerfile.expand(name, {**dockerfile._automatic(), **dockerfile.globals})
                if unknown:
                    raise _without_value(instruction, unknown)
                reference(expanded, stage, instruction.line)

    visit(target)
    return tuple(found)


def _without_value(instruction: Instruction, variable: str) -> ConfigurationError:
    why = "which depends on the platform" if variable in _PLATFORM_ARGUMENTS else "which has no value"
    hint = f"give ARG {variable} a default before the first FROM, or a value under [builder.args]"
    return ConfigurationError(
        f"image.dockerfile: line {instruction.line}: {instruction.text!r} has ${variable}, {why}", hint=hint
    )


def _sources(instruction: Instruction) -> Iterator[str]:
    """What an instruction takes from other stages or images."""
    if instruction.name == "COPY" and (name := instruction.flag("from")):
        yield name
    if instruction.name == "RUN":
        for flag, value in instruction.flags:
            if flag == "mount":
                yield from (part[5:] for part in value.split(",") if part.startswith("from="))


def find_checkpoint_copy(text: str, *, target_stage: str = "", args: Mapping[str, str] | None = None) -> CheckpointCopy:
    """The one ``COPY --link --from=checkpoint . DIR/`` line of *target_stage*, or of a stage that it is made on top of.

    Raises:
        ConfigurationError: there is none, more than one, or one that cannot become layers of its own; the message
            shows the line and the hint the right one.
    """
    dockerfile = _Dockerfile(text, args or {})
    chain = dockerfile.chain(dockerfile.target(target_stage))
    found: list[tuple[Instruction, dict[str, str], str | None]] = []
    for instruction, variables, workdir in dockerfile.walk(chain):
        if CHECKPOINT in (name.lower() for name in _sources(instruction)):
            if instruction.name == "RUN":
                raise _wrong(instruction, "a RUN step cannot read the checkpoint: its bytes never reach the builder")
            found.append((instruction, dict(variables), workdir))
    others = [
        instruction
        for stage in dockerfile.stages
        if stage not in chain
        for instruction in stage.body
        if CHECKPOINT in (name.lower() for name in _sources(instruction))
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
    return _checked(dockerfile, *found[0])


def _where_to_add(stage: _Stage) -> str:
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
    dockerfile: _Dockerfile, instruction: Instruction, variables: Mapping[str, str], workdir: str | None
) -> CheckpointCopy:
    unsupported = sorted({name for name, _ in instruction.flags} - {"link", "from", "chown", "chmod"})
    if unsupported:
        raise _wrong(instruction, f"--{unsupported[0]} has no meaning for the checkpoint")
    if len(instruction.words) != 2 or instruction.words[0] not in (".", "/", "./", "/."):
        raise _wrong(instruction, "the whole checkpoint is copied: one source, which is '.'")

    def value(word: str) -> str:
        expanded, unknown = dockerfile.expand(word, variables)
        if unknown:
            raise _wrong(
                instruction, f"the value of ${unknown} is not known here (no ARG default, ENV or [builder.args])"
            )
        return expanded

    target = value(instruction.words[1])
    if not target.startswith("/"):
        if workdir is None:
            raise _wrong(instruction, f"{target!r} is relative, and WORKDIR is the base image's: write it absolute")
        target = posixpath.join(workdir, target)
    target = posixpath.normpath("/" + target.lstrip("/")).rstrip("/") + "/"
    uid, gid = _owner(instruction, value(instruction.flag("chown") or "0:0"), target)
    mode = value(instruction.flag("chmod") or "") or None
    right = f"COPY --link --chown={uid}:{gid}{f' --chmod={mode}' if mode else ''} --from=checkpoint . {target}"
    if mode is not None and not _OCTAL.fullmatch(mode):
        raise _wrong(instruction, f"--chmod={mode} is no octal mode", right.replace(f"={mode}", "=0644"))
    if instruction.flag("link") not in ("", "true"):
        raise _wrong(instruction, "without --link its layer depends on all the layers under it", right)
    return CheckpointCopy(instruction.line, instruction.text, target, uid, gid, mode)


def _owner(instruction: Instruction, owner: str, target: str) -> tuple[int, int]:
    """Numbers of ``user[:group]``; a group that is left out is the user's number (seen with BuildKit 0.25)."""
    user, _, group = owner.partition(":")
    numbers = []
    for name in (user, group or user):
        if name != "root" and not re.fullmatch(r"\d{1,10}", name):
            right = f"COPY --link --chown=1000:1000 --from=checkpoint . {target}"
            raise _wrong(
                instruction, f"{name!r} is a name, and a linked layer has no /etc/passwd: write numbers", right
            )
        numbers.append(0 if name == "root" else int(name))
    return numbers[0], numbers[1]
