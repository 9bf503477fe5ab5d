"""A Dockerfile made harmless to read, line for line. Pure.

A linter meets text of strangers. What here takes exponential or quadratic time, memory or stack in the reading of
``runtime.instructions`` is replaced by something of the same shape, only for the reading: rewrites are made on the
text as it was written. Ordinary Dockerfiles pass through but for backslashes inside of lines (see ``_line``).
"""

from __future__ import annotations

import re

from ..runtime.instructions import Instruction, instructions

__all__ = ["tame"]

_MAX_LINE = 65_536  # characters of a line that are looked at
_MAX_COMMENT = 400
_MAX_INSTRUCTIONS = 2000  # the first ones are looked at; an image has room for 127 layers
_MAX_VARIABLES = 300  # ARG and ENV instructions; the others are as if not there
_MAX_VALUE = 4096  # characters that variables may grow to by naming each other
_MAX_NAMED = 64  # variables in one FROM or WORKDIR
_TAIL = re.compile(r"\\+[ \t\r]*\Z")
_SETTING = re.compile(r"([A-Za-z_]\w*)")
_NAMED = re.compile(r"\$\{?([A-Za-z_]\w*)")


def tame(text: str) -> tuple[str, tuple[Instruction, ...]]:
    """(the text to read variables and stages from, all instructions); line numbers are those of *text*."""
    lines = [_line(line) for line in text.removeprefix("\ufeff").split("\n")]
    read = _instructions(lines)
    if len(read) > _MAX_INSTRUCTIONS:
        lines = lines[: read[_MAX_INSTRUCTIONS].line - 1]
        read = read[:_MAX_INSTRUCTIONS]
    dropped = _variables(read)
    for index, instruction in enumerate(read):
        crowded = instruction.name in ("FROM", "WORKDIR") and instruction.text.count("$") > _MAX_NAMED
        if index not in dropped and not crowded:
            continue
        first, end = instruction.line - 1, read[index + 1].line - 1 if index + 1 < len(read) else len(lines)
        lines[first:end] = [line.replace("$", "_") if crowded else "" for line in lines[first:end]]
    return "\n".join(lines), read


def _instructions(lines: list[str]) -> tuple[Instruction, ...]:
    try:
        return instructions("\n".join(lines))
    except RecursionError:  # JSON of a thousand brackets
        lines[:] = [line.replace("[", "(") for line in lines]
        return instructions("\n".join(lines))


def _line(line: str) -> str:
    """Long lines cut, keeping the continuation; ``\\`` inside becomes ``/``, for quotes with many take forever."""
    if line.lstrip().startswith("#"):
        return line.strip()[:_MAX_COMMENT] if len(line) > _MAX_COMMENT else line
    if len(line) > _MAX_LINE:
        tail = line[-8:]
        line = line[:_MAX_LINE].rstrip("\\` \t\r") + (" \\" if _TAIL.search(tail) else "")
    if "\\" in line:
        stripped = line.rstrip(" \t\r")
        body = stripped.rstrip("\\")
        line = body.replace("\\", "/") + line[len(body) :]
    return line


def _variables(read: tuple[Instruction, ...]) -> set[int]:
    """Indexes of ARG and ENV instructions that are too many, or whose values would grow without bound."""
    lengths: dict[str, int] = {}
    dropped: set[int] = set()
    seen = 0
    for index, instruction in enumerate(read):
        if instruction.name not in ("ARG", "ENV"):
            continue
        seen += 1
        named = _NAMED.findall(instruction.text)
        length = len(instruction.text) + sum(lengths.get(name, 0) for name in named)
        # The words of one ARG see each other, which doubles with each of them.
        grows = bool(named) and (length > _MAX_VALUE or (instruction.name == "ARG" and len(named) > 8))
        if seen > _MAX_VARIABLES or grows or len(instruction.text) > _MAX_LINE:
            dropped.add(index)
            continue
        for word in instruction.words:
            if found := _SETTING.match(word):
                lengths[found[1]] = max(lengths.get(found[1], 0), length)
    return dropped
