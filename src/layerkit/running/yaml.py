"""YAML as Compose and kubectl read it: blocks, with every string as JSON has it (YAML 1.2, section 1.3: JSON is YAML)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["dump"]

# Words that no YAML, 1.1 or 1.2, takes for anything but a string.
_PLAIN = re.compile(r"[A-Za-z_/][A-Za-z0-9_./-]*")
_OTHERWISE = re.compile(r"(?i)y|n|yes|no|on|off|true|false|null|~|\.nan|[-+]?\.inf")


def dump(document: Any) -> str:
    """*document*, of mappings, sequences, strings, numbers and booleans, as YAML that ends with a line feed."""
    return "\n".join(_block(document, "")) + "\n"


def _block(value: Any, indent: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, Mapping | list | tuple) and item:
                yield f"{indent}{_scalar(str(key))}:"
                yield from _block(item, indent + "  ")
            else:
                yield f"{indent}{_scalar(str(key))}: {_scalar(item)}"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for item in value:
            lines = list(_block(item, ""))
            yield f"{indent}- {lines[0]}"
            yield from (f"{indent}  {line}" for line in lines[1:])
    else:
        yield indent + _scalar(value)


def _scalar(value: Any) -> str:
    if isinstance(value, str) and _PLAIN.fullmatch(value) and not _OTHERWISE.fullmatch(value):
        return value
    # Beyond ASCII as JSON escapes: outside the basic plane those are pairs, which YAML does not know.
    return json.dumps(value, ensure_ascii=isinstance(value, str) and all(ord(c) < 0x10000 for c in value))
