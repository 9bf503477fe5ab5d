"""What GitHub Actions reads out of a step's output (GitHub, "Workflow commands for GitHub Actions"). Pure.

Text that is not ours is kept from being read as a command.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["Level", "annotation", "harmless"]

Level = Literal["error", "warning", "notice"]


def _data(text: str) -> str:
    """*text* as a command's message (GitHub's toolkit, ``escapeData``), lone surrogates escaped."""
    shown = text.encode(errors="backslashreplace").decode()
    return shown.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def annotation(
    level: Level, message: str, *, title: str = "layerkit", file: str = "", line: int = 0, column: int = 0
) -> str:
    """One workflow command that makes an annotation."""
    places = {"file": file, "line": str(line or ""), "col": str(column or ""), "title": title}
    words = ",".join(f"{name}={_property(value)}" for name, value in places.items() if value)
    return f"::{level} {words}::{_data(message)}"


def harmless(line: str) -> str:
    """A line with text of others: a command (``::``) may start it, one of the older kind (``##[``) be anywhere."""
    shown = line.replace("##[", "## [")
    return shown.replace("::", ": :", 1) if shown.lstrip().startswith("::") else shown
