"""In which line of a TOML file a key is, for messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomli

__all__ = ["line_of", "positions"]

_MAX_STATEMENT = 300  # lines of one assignment, from which lines are no longer told in error messages


def positions(text: str) -> dict[tuple[str, ...], int]:
    """Key -> the line, from 1, where it is first there.

    tomli keeps no positions: each statement (a header, or an assignment of one or more lines) is read by itself.
    """
    found: dict[tuple[str, ...], int] = {}
    table: tuple[str, ...] = ()

    def note(value: Any, path: tuple[str, ...], line: int) -> tuple[str, ...]:
        last = path
        for key, inner in value.items() if isinstance(value, dict) else ():
            found.setdefault((*path, key), line)
            last = note(inner, (*path, key), line)
        return last

    statement, first = "", 1
    for number, line in enumerate(text.split("\n"), 1):
        statement += line + "\n"
        try:
            parsed = tomli.loads(statement)
        except (tomli.TOMLDecodeError, RecursionError):
            if number - first > _MAX_STATEMENT:
                break
            continue
        if statement.lstrip().startswith("["):
            table = note(parsed, (), first)
        else:
            note(parsed, table, first)
        statement, first = "", number + 1
    return found


def line_of(found: Mapping[tuple[str, ...], int], where: tuple[str, ...]) -> int:
    """The line of the key *where*, or of the nearest table around it; 0 where none is in the file."""
    return next((found[where[:n]] for n in range(len(where), 0, -1) if where[:n] in found), 0)
