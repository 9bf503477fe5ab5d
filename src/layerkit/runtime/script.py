"""The simple commands of a RUN's shell script. Pure, and linear in its length."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

__all__ = ["Command", "commands"]

_TOKEN = re.compile(
    r"(?P<quoted>\"(?:\\.|[^\"\\])*\"|'[^']*')|(?P<escaped>\\.)|(?P<space>[ \t\r]+)"
    r"|(?P<end>&&|\|\||[;|&\n()}]|\{(?=\s|\Z))|(?P<plain>[^\s\"'\\;|&(){}]+|.)",
    re.DOTALL,
)
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Command:
    """One simple command: its words without quotes, assignments in front left out."""

    words: tuple[str, ...]
    assigned: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Base name of the program."""
        return posixpath.basename(self.words[0]) if self.words else ""


def commands(script: str, *, bare: bool = False) -> tuple[Command, ...]:
    """The simple commands of *script*; what is in loops and conditions too, keywords being their first words.

    Args:
        bare: also assignments that stand alone, as commands without words.
    """
    found: list[Command] = []
    words: list[str] = []
    parts: list[str] | None = None

    def end_word() -> None:
        nonlocal parts
        if parts is not None:
            words.append("".join(parts))
        parts = None

    def end_command() -> None:
        end_word()
        at = 0
        while at < len(words) and (
            _ASSIGNMENT.fullmatch(words[at]) or words[at] in ("sudo", "env", "exec", "then", "do", "else", "set", "-e")
        ):
            at += 1
        assigned = tuple(word for word in words[:at] if "=" in word)
        if at < len(words) or (bare and assigned):
            found.append(Command(tuple(words[at:]), assigned))
        words.clear()

    for token in _TOKEN.finditer(script):
        kind = token.lastgroup
        text = token[0]
        if kind == "space":
            end_word()
        elif kind == "end" and not (text in "{}" and parts is not None):  # a brace that is no word of its own
            end_command()
        else:
            parts = [] if parts is None else parts
            parts.append(text[1:-1] if kind == "quoted" else text[1:] if kind == "escaped" else text)
    end_command()
    return tuple(found)
