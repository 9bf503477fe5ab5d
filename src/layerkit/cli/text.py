"""Numbers and sentences as people read them."""

from __future__ import annotations

import shutil
import textwrap
from typing import TextIO

from ..units import duration, many, size

__all__ = ["duration", "many", "size", "wrapped"]


def wrapped(text: str, indent: int, stream: TextIO) -> list[str]:
    """*text* in lines as wide as the terminal less *indent*; where *stream* is none in one, for those who search it."""
    if not stream.isatty():
        return [text]
    width = max(shutil.get_terminal_size().columns - indent, 40)
    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
