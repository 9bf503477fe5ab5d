"""What has to be there before BuildKit runs: said at once, and not after the weights were sent."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from .connections import Connections
from .errors import ConfigurationError, LocalResourceError, Problem
from .project import Project, Secret
from .runtime import required_secrets

__all__ = ["check_builder", "check_secrets", "there"]


def check_secrets(project: Project, dockerfile: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Whether each secret of *project* is there that its *dockerfile* cannot do without; no value is read.

    A Dockerfile says so by ``required`` of a mount, as the generated one does. BuildKit does without the others.

    Args:
        dockerfile: its text.
        environment: of the docker command.

    Returns:
        a sentence for each secret that is not there and need not be.

    Raises:
        ConfigurationError: with all that are not there, or cannot be read.
    """
    args = project.builder.args
    required = required_secrets(dockerfile, target_stage=project.image.target, args=args)
    problems: list[Problem] = []
    optional: list[str] = []
    for where, name, secret in _secrets(project):
        if said := _missing(secret, project.root, environment):
            if name in required:
                problems.append(Problem(f"{where}: {said}"))
            else:
                instead = "with an empty one, as docker builds" if secret.env else "without it"
                optional.append(f"{where}: {said}; no step requires it, and BuildKit builds {instead}")
        elif said := _unreadable(secret, project.root):
            problems.append(Problem(f"{where}: {said}"))
    if problems:
        raise ConfigurationError(
            str(problems[0]) if len(problems) == 1 else f"{len(problems)} secrets are not there",
            problems=problems,
            hint="a secret comes from the machine that builds: put it there",
        )
    return tuple(optional)


def there(secrets: Mapping[str, Secret], root: Path) -> Mapping[str, Secret]:
    """*secrets* without those whose file is missing, which buildx takes for an error whatever the mounts say.

    Of a variable that is not set buildx itself makes an empty secret, and so do we.
    """
    return {name: secret for name, secret in secrets.items() if secret.env or _file(secret, root).exists()}


def _secrets(project: Project) -> Iterator[tuple[str, str, Secret]]:
    for table, secrets in (("dependencies", project.dependencies.secrets), ("builder", project.builder.secrets)):
        for name, secret in secrets.items():
            yield f"{table}.secrets.{name}", name, secret


def _file(secret: Secret, root: Path) -> Path:
    return root / Path(secret.file).expanduser()


def _missing(secret: Secret, root: Path, environment: Mapping[str, str]) -> str:
    if secret.env:
        return "" if secret.env in environment else f"the variable {secret.env} is not set"
    file = _file(secret, root)
    return "" if file.exists() else f"no file {str(file)!r}"


def _unreadable(secret: Secret, root: Path) -> str:
    if secret.env:
        return ""
    file = _file(secret, root)
    if not file.is_file():
        return f"no file {str(file)!r}"
    return "" if os.access(file, os.R_OK) else f"{str(file)!r} cannot be read"


def check_builder(to: Connections) -> None:
    """Whether the builder can do what is asked of it.

    Raises:
        LocalResourceError: it cannot; or there is none.
    """
    from .engine import ANOTHER_STORE

    lacks = ""
    if to.destination.kind == "oci" and not to.engine.abilities.oci_output:
        lacks = f"--output {to.request.output}: this builder cannot write OCI layouts"
    elif to.destination.kind == "registry" and _attests(to.project) and not to.engine.abilities.attestations:
        lacks = "builder.attest: this builder cannot attach provenance and SBOM"
    if lacks:
        raise LocalResourceError(f"{lacks} with the classic image store", hint=ANOTHER_STORE)


def _attests(project: Project) -> bool:
    return any("disabled=true" not in text for text in project.builder.attest)
