"""Words of a Dockerfile and of sh, written so that BuildKit and the shell read back exactly what was meant. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from ..errors import ConfigurationError

__all__ = [
    "SAFE_WORD",
    "as_pattern",
    "double",
    "env",
    "expanded",
    "has_wildcard",
    "json_form",
    "no_break",
    "quote",
    "with_env",
    "word",
]

SAFE_WORD = re.compile(r"[A-Za-z0-9@%+=:,./_-]+")


def has_wildcard(path: str) -> bool:
    """Whether an entry of ``code.include`` is a glob."""
    return any(character in path for character in "*?[")


def as_pattern(path: str) -> str:
    """*path* as a pattern that matches it alone. BuildKit takes ``\\[`` for no wildcard, and then as it stands."""
    if not has_wildcard(path):
        return path
    return re.sub(r"[*?\[]", r"[\g<0>]", path.replace("\\", "\\\\"))


def expanded(text: str) -> str:
    """*text* as BuildKit's word expansion takes it, where no quotes are around it."""
    return re.sub(r"""([\\$"'])""", r"\\\1", text)


def double(text: str, where: str, *, always: bool = False) -> str:
    """*text* in double quotes, so that BuildKit's word expansion gives back exactly it (``shell/lex.go``)."""
    no_break(text, where)
    if not always and SAFE_WORD.fullmatch(text) and "=" not in text:
        return text
    return '"' + re.sub(r'(["\\$])', r"\\\1", text) + '"'


def word(text: str) -> str:
    """*text* as one word of an instruction, quoted where it has to be."""
    return text if SAFE_WORD.fullmatch(text) else double(text, "image")


def no_break(text: str, where: str) -> str:
    """*text*; raises ConfigurationError, which begins with *where*, for a line break or NUL in it."""
    if "\n" in text or "\0" in text:
        raise ConfigurationError(
            f"{where}: a Dockerfile cannot express a line break there",
            hint="put the text in a file of the code, or write it encoded (base64)",
        )
    return text


def json_form(words: Iterable[str]) -> str:
    """*words* as an instruction's exec form."""
    return json.dumps(list(words), ensure_ascii=False)


def quote(text: str) -> str:
    """*text* as one word of sh; double quotes only where single ones would need a detour."""
    if SAFE_WORD.fullmatch(text):
        return text
    if "'" not in text:
        return f"'{text}'"
    if not re.search(r'["$`\\!]', text):
        return f'"{text}"'
    return "'" + text.replace("'", "'\"'\"'") + "'"


def env(variables: Mapping[str, str]) -> str:
    """``NAME=value`` and a space each, for in front of a command of sh. Values are written as they are."""
    return "".join(f"{name}={value} " for name, value in variables.items())


def with_env(variables: Mapping[str, str], command: str) -> str:
    """*command* with *variables*, on a line of their own."""
    return f"{env(variables)}\\\n    {command}" if variables else command
