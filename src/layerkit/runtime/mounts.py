"""What a Dockerfile's RUN steps mount, and which secrets it cannot be built without. Pure.

Mounts are read as BuildKit's ``frontend/dockerfile/instructions/commands_runmount.go`` reads them.
"""

from __future__ import annotations

import csv
import posixpath
from collections.abc import Mapping

from .stages import Dockerfile

__all__ = ["fields", "required_secrets"]

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
    found: dict[str, str] = {}
    for name, value in (fields(mount) or {}).items():
        # What cannot be known here is not taken for "false".
        expanded, unknown = dockerfile.expand(value, variables) if "$" in value else (value, "")
        found[name] = "" if unknown else expanded
    if found.get("type") != "secret" or found.get("required", "false") not in _TRUE:
        return ""
    place = found.get("target") or found.get("dst") or found.get("destination") or ""
    return found.get("id") or posixpath.basename(place)


def fields(mount: str) -> dict[str, str] | None:
    """Name, in lower case, -> value of what one ``--mount`` says, as written; None where it cannot be read."""
    try:
        rows = list(csv.reader([mount]))
    except csv.Error:
        return None  # BuildKit will say so
    parts = (field.partition("=") for field in (rows[0] if rows else ()))
    return {name.lower(): value for name, _, value in parts}
