"""What a run takes from its surroundings, read once. The one place that knows names of environment variables."""

from __future__ import annotations

import os
import platform as host
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .oci import Platform

__all__ = ["Actions", "Settings", "host_platform"]

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm/v7"}


def host_platform() -> str:
    """The platform of images for this machine, as ``linux/amd64``: what is built where none is asked for."""
    machine = host.machine().lower()
    return str(Platform.parse(f"linux/{_ARCHITECTURES.get(machine, machine)}"))


@dataclass(frozen=True, slots=True)
class Actions:
    """The GitHub Actions step that this runs in (GitHub, "Variables reference").

    Attributes:
        output, summary: files that the step's outputs and the job's summary are appended to, or None.
        workspace: top of the checked out repository, or None.
    """

    output: Path | None = None
    summary: Path | None = None
    workspace: Path | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Actions | None:
        """The step, by GITHUB_ACTIONS and the variables beside it; None elsewhere."""
        given = os.environ if environment is None else environment
        if given.get("GITHUB_ACTIONS") != "true":
            return None
        names = ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_WORKSPACE")
        return cls(*(Path(given[name]) if given.get(name) else None for name in names))


@dataclass(frozen=True, slots=True)
class Settings:
    """Surroundings of a run.

    Attributes:
        state_folder: where layerkit keeps what it remembers; None for nowhere.
        docker_config: the folder of Docker's config.json.
        builder: buildx builder by name, "" for docker's own choice.
        environment: for child processes (docker and credential helpers).
        proxies: scheme -> proxy, with ``no`` for the hosts to leave out.
        ca_bundle: file of trusted authorities, or None for the machine's.
        source_date_epoch: seconds since 1970 for timestamps, or None.
        platform: what is built where the project asks for none.
    """

    state_folder: Path | None = None
    docker_config: Path = Path()
    builder: str = ""
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ), repr=False)
    proxies: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_bundle: str | None = None
    source_date_epoch: int | None = None
    platform: str = "linux/amd64"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Settings:
        """Settings by the conventions of Docker, the XDG base directories and reproducible-builds.org.

        LAYERKIT_STATE_DIR, else XDG_CACHE_HOME/layerkit, else ~/.cache/layerkit keeps the state; DOCKER_CONFIG,
        BUILDX_BUILDER, SSL_CERT_FILE, SOURCE_DATE_EPOCH and the proxy variables mean what they mean elsewhere.
        """
        given = dict(os.environ if environment is None else environment)
        home = Path(given.get("HOME") or Path.home())
        state = given.get("LAYERKIT_STATE_DIR")
        cache = Path(given.get("XDG_CACHE_HOME") or home / ".cache")
        epoch = given.get("SOURCE_DATE_EPOCH", "")
        return cls(
            state_folder=Path(state) if state else cache / "layerkit",
            docker_config=Path(given.get("DOCKER_CONFIG") or home / ".docker"),
            builder=given.get("BUILDX_BUILDER", ""),
            environment=given,
            proxies=_proxies(given),
            ca_bundle=given.get("SSL_CERT_FILE") or None,
            source_date_epoch=int(epoch) if epoch.isdigit() else None,
            platform=host_platform(),
        )


def _proxies(environment: Mapping[str, str]) -> dict[str, str]:
    """scheme -> proxy of ``<scheme>_proxy`` in either case; the lower case wins, as with curl and Python.

    ``HTTP_PROXY`` of a CGI script is a header of whoever called it (httpoxy, CVE-2016-1000110): not used there.
    """
    found: dict[str, str] = {}
    for name in sorted(environment):  # upper case first
        scheme, _, word = name.rpartition("_")
        if word.lower() == "proxy" and scheme and not (name == "HTTP_PROXY" and "REQUEST_METHOD" in environment):
            found[scheme.lower()] = environment[name]
    return {scheme: proxy for scheme, proxy in found.items() if proxy}
