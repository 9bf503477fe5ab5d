"""The bake definition: one JSON value that says all that buildx is asked to do. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..project import Secret

__all__ = ["CHECKPOINT_CONTEXT", "PLACEHOLDER", "PLACEHOLDER_NAME", "WHEELS_CONTEXT", "Target", "definition", "entry"]

CHECKPOINT_CONTEXT = "checkpoint"
WHEELS_CONTEXT = "wheels"
PLACEHOLDER_NAME = ".layerkit-placeholder"
# Of fixed content, so that every runtime image has the same placeholder layer but for target and owner.
PLACEHOLDER = b"The checkpoint's layers stand here in the finished image.\n"


@dataclass(frozen=True, slots=True)
class Target:
    """One image to build.

    Attributes:
        name: of the target in the definition.
        dockerfile: path of the Dockerfile, or its text where *inline*.
        platform: as in linux/amd64; several with commas between.
        contexts: named contexts: name -> folder or ``docker-image://…``.
        secrets: id -> where it comes from.
        outputs, cache_to, cache_from, attest: buildx's own entries (``type=…,…``).
    """

    name: str
    context: Path
    dockerfile: str
    platform: str = ""
    inline: bool = False
    stage: str = ""
    contexts: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)
    args: Mapping[str, str] = field(default_factory=dict)
    ssh: Sequence[str] = ()
    network: str = ""
    tags: Sequence[str] = ()
    outputs: Sequence[str] = ()
    cache_to: Sequence[str] = ()
    cache_from: Sequence[str] = ()
    attest: Sequence[str] = ()
    no_cache: bool = False
    pull: bool = False


def definition(targets: Sequence[Target], root: Path) -> dict[str, Any]:
    """The bake file (docker/buildx, ``docs/bake-reference.md``) for *targets*; secret files are relative to *root*."""
    return {
        "group": {"default": {"targets": [target.name for target in targets]}},
        "target": {target.name: _target(target, root) for target in targets},
    }


def _target(target: Target, root: Path) -> dict[str, Any]:
    document: dict[str, Any] = {
        "context": str(target.context),
        "dockerfile-inline" if target.inline else "dockerfile": target.dockerfile,
    }
    values: dict[str, Any] = {
        "target": target.stage,
        "platforms": target.platform.split(",") if target.platform else [],
        "contexts": dict(target.contexts),
        "args": dict(target.args),
        "secret": [_secret(name, secret, root) for name, secret in sorted(target.secrets.items())],
        "ssh": list(target.ssh),
        "network": target.network,
        "tags": list(target.tags),
        "output": list(target.outputs),
        "cache-to": list(target.cache_to),
        "cache-from": list(target.cache_from),
        # Provenance is on by default in buildx, and makes an index out of every image.
        "attest": list(target.attest) or ["type=provenance,disabled=true"],
        "no-cache": target.no_cache,
        "pull": target.pull,
    }
    made = document | {name: value for name, value in values.items() if value}
    return {name: _as_it_stands(value) for name, value in made.items()}


def _as_it_stands(value: Any) -> Any:
    """*value* without what bake would evaluate: it reads ``${`` and ``%{`` in every string, paths too."""
    if isinstance(value, str):
        return _literal(value)
    if isinstance(value, dict):
        return {name: _as_it_stands(item) for name, item in value.items()}
    return [_as_it_stands(item) for item in value] if isinstance(value, list) else value


def _literal(text: str) -> str:
    return text.replace("${", "$${").replace("%{", "%%{")


def _secret(name: str, secret: Secret, root: Path) -> str:
    if secret.env:
        return entry("type=env", f"id={name}", f"env={secret.env}")
    return entry("type=file", f"id={name}", f"src={root / Path(secret.file).expanduser()}")


def entry(*fields: str) -> str:
    """*fields* as one entry of buildx, which reads it as CSV (RFC 4180)."""
    return ",".join('"' + f.replace('"', '""') + '"' if "," in f or '"' in f else f for f in fields)
