"""Values as TOML: in layerkit.lock, and in the layerkit.toml that ``init`` writes. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["toml"]


def toml(value: Any) -> str:
    """*value* (text, a whole number, a list, a mapping) on one line.

    A JSON string is a basic string of TOML, but for DEL, which TOML wants escaped (toml.io, "String").
    """
    if isinstance(value, int):
        return str(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(str(k))} = {toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml, value))}]"
    text = str(value).encode(errors="backslashreplace").decode()
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else toml(name)
