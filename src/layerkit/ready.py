"""What has to be there before BuildKit runs: said at once, and not after the weights were sent."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from .connections import Connections
from .errors import ConfigurationError, LocalResourceError, Problem
from .project import Project, Secret

__all__ = ["check_builder", "check_secrets"]


def check_secrets(project: Project, environment: Mapping[str, str]) -> None:
    """Whether each secret of *project* is there; its value is not read.

    Args:
        environment: of the docker command.

    Raises:
        ConfigurationError: with all that are not.
    """
    problems = [Problem(text) for text in _missing(project, environment)]
    if problems:
        raise ConfigurationError(
            str(problems[0]) if len(problems) == 1 else f"{len(problems)} secrets are not there",
            problems=problems,
            hint="a secret comes from the machine that builds: put it there",
        )


def _missing(project: Project, environment: Mapping[str, str]) -> Iterator[str]:
    for table, secrets in (("dependencies", project.dependencies.secrets), ("builder", project.builder.secrets)):
        for name, secret in secrets.items():
            if said := _problem(secret, project.root, environment):
                yield f"{table}.secrets.{name}: {said}"


def _problem(secret: Secret, root: Path, environment: Mapping[str, str]) -> str:
    if secret.env:
        return "" if secret.env in environment else f"the variable {secret.env} is not set"
    file = root / Path(secret.file).expanduser()
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
