"""A Dockerfile's stages, with the variables and folders that hold at each line, and the images they start from. Pure.

Variables follow BuildKit's ``frontend/dockerfile/shell/lex.go``.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from ..errors import ConfigurationError
from .instructions import Instruction, read

__all__ = ["CHECKPOINT", "Dockerfile", "Stage", "base_images", "foundation", "sources"]

CHECKPOINT = "checkpoint"  # the named context that stands for the weights
PLATFORM_ARGUMENTS = frozenset(
    f"{side}{part}" for side in ("TARGET", "BUILD") for part in ("PLATFORM", "OS", "ARCH", "VARIANT")
)
MAX_VALUE = 64 * 1024  # characters of a word; lines of ENV a=$a$a double it each


@dataclass(slots=True)
class Stage:
    """A stage: what it starts from, and the variables and folder as they are where a line of it stands."""

    index: int
    name: str
    base: str  # expanded; as written where it cannot be
    unknown: str  # the variable that could not be expanded
    start: Instruction
    body: list[Instruction] = field(default_factory=list)


class Dockerfile:
    """The stages of a Dockerfile, read with the values of build arguments (*args*)."""

    def __init__(self, text: str, args: Mapping[str, str]) -> None:
        self.args = args
        self.stages: list[Stage] = []
        self.globals: dict[str, str] = {}
        found, self.escape = read(text)
        for instruction in found:
            if instruction.name == "FROM":
                self.stages.append(self._stage(instruction))
            elif self.stages:
                self.stages[-1].body.append(instruction)
            elif instruction.name == "ARG":
                self._arg(instruction, self.globals, {})
        if not self.stages:
            raise ConfigurationError("image.dockerfile: no FROM line in it")

    def _stage(self, instruction: Instruction) -> Stage:
        words = instruction.words
        if not words:
            raise ConfigurationError(f"image.dockerfile: line {instruction.line}: FROM names no image")
        name = words[2].lower() if len(words) == 3 and words[1].lower() == "as" else ""
        base, unknown = self.expand(words[0], {**self.automatic(), **self.globals})
        return Stage(len(self.stages), name, base, unknown, instruction)

    def automatic(self) -> dict[str, str]:
        return {name: self.args[name] for name in PLATFORM_ARGUMENTS if name in self.args}

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

    def target(self, name: str) -> Stage:
        """The stage that *name* or number means, the last one for ""; raises ConfigurationError where there is none."""
        if not name:
            return self.stages[-1]
        found = self.find(name)
        if found is None:
            known = ", ".join(stage.name or str(stage.index) for stage in self.stages)
            raise ConfigurationError(f"image.target: no stage {name!r} in the Dockerfile", hint=f"it has: {known}")
        return found

    def find(self, name: str, before: int | None = None) -> Stage | None:
        """The stage of that name or number, among those before *before*."""
        for stage in reversed(self.stages[:before]):
            if stage.name and stage.name == name.lower():
                return stage
        if name.isdigit() and int(name) < len(self.stages[:before]):
            return self.stages[int(name)]
        return None

    def chain(self, stage: Stage) -> list[Stage]:
        """The stages that *stage* is made on top of, the lowest first, itself last."""
        result = [stage]
        while (below := self.find(result[-1].base, result[-1].index)) is not None and not result[-1].base.isdigit():
            result.append(below)
        return result[::-1]

    def needed(self, stage: Stage) -> list[Stage]:
        """*stage* and the stages that building it needs, in the Dockerfile's order."""
        found: dict[int, Stage] = {}
        waiting = [stage]
        while waiting:
            here = waiting.pop()
            if here.index in found:
                continue
            found[here.index] = here
            names = [name for instruction in here.body for name in sources(instruction)]
            waiting += [below for name in (here.base, *names) if (below := self.find(name, here.index)) is not None]
        return [found[index] for index in sorted(found)]

    def walk(self, chain: Iterable[Stage]) -> Iterator[tuple[Instruction, dict[str, str], str | None]]:
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
                    self._arg(instruction, arguments, {**self.automatic(), **self.globals})
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
        """(*word* with quotes removed and variables replaced, the first variable that has no value or "").

        Raises:
            ConfigurationError: it would be over 64 KiB.
        """
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
        made = "".join(result)
        if len(made) > MAX_VALUE:
            raise ConfigurationError(f"image.dockerfile: a value of over {MAX_VALUE} characters")
        return made, unknown

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


def base_images(text: str, *, target_stage: str = "", args: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The images from elsewhere that building *target_stage* needs: the one it is made on top of first.

    Stages, ``scratch`` and the named context ``checkpoint`` are none. Only stages that are needed count.

    Args:
        target_stage: name or number; the last stage where "".
        args: build arguments; TARGETARCH and its like may be among them.

    Raises:
        ConfigurationError: no such stage, or a name with a variable that has no value.
    """
    dockerfile = Dockerfile(text, args or {})
    target = dockerfile.target(target_stage)
    found: dict[str, None] = {}
    seen: set[int] = set()

    def reference(name: str, stage: Stage) -> None:
        below = dockerfile.find(name, stage.index)
        if below is not None:
            visit(below)
        elif name and name.lower() not in ("scratch", CHECKPOINT) and not name.isdigit():
            found.setdefault(name)

    def visit(stage: Stage) -> None:
        if stage.index in seen:
            return
        seen.add(stage.index)
        if stage.unknown or not stage.base:
            raise _without_value(stage.start, stage.unknown)
        if not stage.base.isdigit():
            reference(stage.base, stage)
        for instruction in stage.body:
            for name in sources(instruction):
                expanded, unknown = dockerfile.expand(name, {**dockerfile.automatic(), **dockerfile.globals})
                if unknown:
                    raise _without_value(instruction, unknown)
                reference(expanded, stage)

    visit(target)
    return tuple(found)


def foundation(text: str, *, target_stage: str = "", args: Mapping[str, str] | None = None) -> str:
    """The image from elsewhere that the target stage is made on top of, and whose platform is thereby the image's.

    "" where there is none (``scratch``), or where its FROM asks for a platform itself. Arguments as for
    ``base_images``, which says whether the text can be used.
    """
    dockerfile = Dockerfile(text, args or {})
    lowest = dockerfile.chain(dockerfile.target(target_stage))[0]
    asked = (lowest.start.flag("platform") or "").strip("\"'${}")
    named = not lowest.unknown and lowest.base.lower() not in ("", "scratch", CHECKPOINT) and not lowest.base.isdigit()
    return lowest.base if named and asked in ("", "TARGETPLATFORM") else ""


def _without_value(instruction: Instruction, variable: str) -> ConfigurationError:
    why = "which depends on the platform" if variable in PLATFORM_ARGUMENTS else "which has no value"
    hint = f"give ARG {variable} a default before the first FROM, or a value under [builder.args]"
    return ConfigurationError(
        f"image.dockerfile: line {instruction.line}: {instruction.text!r} has ${variable}, {why}", hint=hint
    )


def sources(instruction: Instruction) -> Iterator[str]:
    """What an instruction takes from other stages or images."""
    if instruction.name == "COPY" and (name := instruction.flag("from")):
        yield name
    if instruction.name == "RUN":
        for flag, value in instruction.flags:
            if flag == "mount":
                yield from (part[5:] for part in value.split(",") if part.startswith("from="))
