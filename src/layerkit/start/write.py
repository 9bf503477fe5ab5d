"""Conclusions as the text of a layerkit.toml that says why. Pure."""

from __future__ import annotations

import textwrap

from ..errors import printable
from ..toml import toml
from .conclude import Conclusions

__all__ = ["SCHEMA", "write"]

SCHEMA = ".layerkit/schema.json"  # beside layerkit.toml; in no image, for layerkit leaves that folder out
_WIDTH = 100
_HEADS = {
    "image": "The image, and how it is run.",
    "dependencies": "Above the base, below the checkpoint: built anew when these change.",
    "code": "The last layer.",
    "checkpoint": "The weights: layers of their own, which never pass through the builder.",
}
# What a table has where nothing was concluded, as comments.
_EMPTY = {
    "image.command": 'command = ["python", "serve.py"]',
    "dependencies.requirements": 'requirements = "requirements.txt"  # or pyproject.toml, uv.lock',
    "code.include": 'include = ["serve.py", "src"]',
    "checkpoint.path": 'path = "checkpoint.pth.tar"  # file, folder or glob',
    "checkpoint.target": 'target = "/app/model/"',
}


def write(found: Conclusions) -> str:
    """The layerkit.toml of *found*: each value with its reason, and what may be wanted next as comments."""
    own = bool(found.value("image.dockerfile"))
    lines = [f"#:schema {SCHEMA}", "# What layerkit builds: layerkit plan, layerkit build. Written by layerkit init."]
    for note in found.notes:
        lines += _wrapped(f"Note: {note}")
    for table, head in _HEADS.items():
        if own and table in ("dependencies", "code"):
            continue
        reasons = [reason for reason in found.reasons if reason.key.startswith(f"{table}.")]
        commented = "# " if table == "checkpoint" and not reasons else ""
        lines += ["", f"# {head}", f"{commented}[{table}]"]
        said = {reason.key for reason in reasons}
        for reason in reasons:
            hint = found.hints.get(reason.key, "")
            because = reason.because + (f"; {hint}" if hint else "")
            key = reason.key.partition(".")[2]
            lines += _commented(f"{key} = {toml(reason.value)}", because)
        empty = [text for key, text in _EMPTY.items() if key.startswith(f"{table}.") and key not in said]
        if not own or (table == "checkpoint" and not reasons):
            lines += [f"# {text}" for text in empty if not (own and text.startswith("target"))]
        if table == "checkpoint" and reasons:
            lines += [] if own else ['# chown = "1000:1000"  # root:root where left out']
            lines += ['# placement = "volume"  # the image without weights, mounted at run time']
    return "\n".join(lines) + "\n"


def _commented(text: str, because: str) -> list[str]:
    """The assignment with its reason: behind it where there is room, else above it."""
    if not because:
        return [text]
    line = f"{text}  # {because}"
    return [line] if len(line) <= _WIDTH else [*_wrapped(because), text]


def _wrapped(text: str) -> list[str]:
    plain = " ".join(printable(text).split())
    lines = textwrap.wrap(plain, _WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return [f"# {line}" for line in lines]
