"""What of the build context a Dockerfile takes. Pure.

BuildKit asks for no more than that (``frontend/dockerfile/dockerfile2llb/convert.go``, ``ctxPaths``), so that another
checkpoint, a log or a data set beside the Dockerfile is no reason to build anything.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping

from .instructions import Instruction
from .mounts import fields
from .stages import Dockerfile

__all__ = ["taken"]

_SYNTAX = re.compile(r"^\s*(?:#|//)\s*syntax\s*=\s*(\S+)", re.IGNORECASE | re.MULTILINE)
_DOCKERS_OWN = re.compile(r"(?:docker\.io/)?docker/dockerfile(?:-upstream)?(?:[:@].*)?")
# An escape or a quote is read in several ways; the value of a variable may be the base image's.
_NOT_PLAIN = re.compile(r"[$\\`\"']")


def taken(text: str, *, target_stage: str = "", args: Mapping[str, str] | None = None) -> tuple[str, ...] | None:
    """The paths that COPY, ADD and bind mounts of the stages that are built take from the build context, sorted.

    They are relative to it, a folder stands for all below it, and parts may be patterns, as in ``conf/*.yaml``.
    None where that may be any: all is copied, a path has a variable in it, there is ONBUILD, or another frontend than
    Docker's reads the Dockerfile. What a base image's own ONBUILD takes is not in the text.

    Args:
        target_stage: name or number; the last stage where "".
        args: build arguments.

    Raises:
        ConfigurationError: no such stage.
    """
    others = [name for name in _SYNTAX.findall(text) if not _DOCKERS_OWN.fullmatch(name)]
    if others or "BUILDKIT_SYNTAX" in (args or {}):
        return None
    dockerfile = Dockerfile(text, args or {})
    found: set[str] = set()
    for stage in dockerfile.needed(dockerfile.target(target_stage)):
        for instruction in stage.body:
            if instruction.name == "ONBUILD":
                return None
            for source in _sources(instruction):
                if _NOT_PLAIN.search(source):
                    return None
                found.add(posixpath.normpath("/" + source.lstrip("/")).lstrip("/"))
    return None if "" in found else tuple(sorted(found))


def _sources(instruction: Instruction) -> Iterator[str]:
    """The paths of the build context, as written; what cannot be read has a ``$`` in it."""
    if instruction.name in ("COPY", "ADD"):
        origin = instruction.flag("from") or ""
        if not origin or "$" in origin:
            words = instruction.words[:-1] if not origin else ("$",)
            yield from (word for word in words if not word.startswith(("http://", "https://", "<<")))
    elif instruction.name == "RUN":
        for name, value in instruction.flags:
            if name == "mount":
                yield from _of_mount(value)


def _of_mount(mount: str) -> Iterator[str]:
    found = fields(mount)
    if found is None:
        yield "$"
    elif not found.get("from") and found.get("type", "bind").lower() not in ("cache", "tmpfs", "secret", "ssh"):
        yield from {found.get("source", ""), found.get("src", "")} - {""} or {"/"}
