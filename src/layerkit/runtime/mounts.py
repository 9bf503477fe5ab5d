"""Which secrets a Dockerfile cannot be built without. Pure.

Mounts are read as BuildKit's ``frontend/dockerfile/instructions/commands_runmount.go`` reads them.
"""

from __future__ import annotations

import csv
import posixpath
from collections.abc import Mapping

from .stages import Dockerfile

__all__ = ["required_secrets"]

_TRUE = ("", "1", "t", "T", "TRUE", "true", "True")  # a bare ``required`` is one


def required_secrets(text: str, *, target_stage: str = "", args: Mapping[str, str] | None = None) -> frozenset[str]:
    """Ids of secrets that a RUN of the stages that are built mounts with ``required``.

    Without one of these BuildKit ends the build; it does without the others, whose mounts are left out.

    Args:
        target_stage: name or number; the last stage where "".
        args: build arguments.

    Raises:
        ConfigurationError: no such stage.
    """
    dockerfile = Dockerfile(text, args or {})
    found: set[str] = set()
    for stage in dockerfile.needed(dockerfile.target(target_stage)):
        for instruction, variables, _ in dockerfile.walk(dockerfile.chain(stage)):
            if instruction.name == "RUN":
                mounts = [value for name, value in instruction.flags if name == "mount"]
                found |= {_required(mount, variables, dockerfile) for mount in mounts}
    return frozenset(found - {""})


def _required(mount: str, variables: Mapping[str, str], dockerfile: Dockerfile) -> str:
    """The id of a secret that must be there; "" for another mount."""
    try:
        rows = list(csv.reader([mount]))
    except csv.Error:
        return ""  # BuildKit will say so
    fields: dict[str, str] = {}
    for field in rows[0] if rows else ():
        name, _, value = field.partition("=")
        # What cannot be known here is not taken for "false".
        expanded, unknown = dockerfile.expand(value, variables) if "$" in value else (value, "")
        fields[name.lower()] = "" if unknown else expanded
    if fields.get("type") != "secret" or fields.get("required", "false") not in _TRUE:
        return ""
    place = fields.get("target") or fields.get("dst") or fields.get("destination") or ""
    return fields.get("id") or posixpath.basename(place)
