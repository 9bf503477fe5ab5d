"""Pages that can be run: the files they tell to write, the commands they tell to type, the output they promise.

A file is a fenced block after a line that is nothing but its name in bold. A command is a line after ``$`` in a block
of ``console``; the lines below it are its output, in which ``…`` stands for anything within a line, and for any number
of lines where it is alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

_BLOCK = re.compile(r"(?:^\*\*(?P<file>[\w./-]+)\*\*\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class File:
    """A file to write."""

    name: str
    text: str


@dataclass(frozen=True)
class Command:
    """A command to run, and the lines that it promises."""

    line: str
    output: tuple[str, ...]


def steps(page: Path) -> Iterator[File | Command]:
    """What *page* tells a reader to do, in its order."""
    for block in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        if block["file"]:
            yield File(block["file"], block["text"])
        elif block["kind"] == "console":
            for part in re.split(r"^\$ ", block["text"], flags=re.M)[1:]:
                line, *output = part.rstrip("\n").split("\n")
                yield Command(line, tuple(output))


def substitute(text: str, other: Mapping[str, str]) -> str:
    """*text* with each key of *other* replaced by its value."""
    for old, new in other.items():
        text = text.replace(old, new)
    return text


def agrees(promised: tuple[str, ...], output: str) -> bool:
    """Whether *output* is what a page promised."""
    pattern = ""
    for line in promised:
        pattern += r"(?:.*\n)*?" if line == "…" else ".*".join(map(re.escape, line.split("…"))) + r"\s*\n"
    return re.fullmatch(pattern, output if output.endswith("\n") or not output else output + "\n") is not None
