"""A Dockerfile's instructions. Pure.

The reading follows BuildKit's ``frontend/dockerfile/parser``: directives, continuations, comments, heredocs. What
layerkit has no use for is not understood, and passes through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

__all__ = ["Instruction", "instructions", "read"]

_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(\S.*)")
_HEREDOC = re.compile(r"\d*<<(?P<chomp>-?)(?P<quote>['\"]?)(?P<name>[^<'\"\s]+)(?P=quote)")
_FLAG = re.compile(r"--(?P<name>[a-z][a-z-]*)(?:=(?P<value>.*))?")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction.

    Attributes:
        name: upper case: ``COPY``.
        flags: the ``--name=value`` words in front; the value of a bare ``--link`` is "".
        words: the rest, split at white space, or the items of a JSON list; quotes are kept.
        line: where it starts, from 1.
        text: as written, continuations joined with one space.
        heredoc: the lines of its heredocs, as written.
    """

    name: str
    flags: tuple[tuple[str, str], ...]
    words: tuple[str, ...]
    line: int
    text: str
    heredoc: str = ""

    def flag(self, name: str) -> str | None:
        """The value of the last flag of that name; None where it is not there."""
        return dict(self.flags).get(name)


def instructions(text: str) -> tuple[Instruction, ...]:
    """The instructions of a Dockerfile's text, in their order."""
    return tuple(read(text)[0])


def read(text: str) -> tuple[list[Instruction], str]:
    """The same, and the escape character that *text* sets."""
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
        end = _skip_heredocs(instruction, "".join(parts), lines, at)
        result.append(replace(instruction, heredoc="\n".join(lines[at:end])))
        at = end
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


def _skip_heredocs(instruction: Instruction, joined: str, lines: list[str], at: int) -> int:
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
