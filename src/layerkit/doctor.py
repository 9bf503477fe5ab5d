"""What could stand in a build's way on this machine and in a registry, tried step by step."""

from __future__ import annotations

import platform as this
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ._version import __version__
from .engine import ANOTHER_STORE, Abilities, Engine
from .errors import LayerkitError, LocalResourceError, TransientError
from .events import Listener, silent
from .oci import Reference
from .registries import connect
from .registry import Credentials, Probe
from .settings import Settings
from .state import State

__all__ = ["Finding", "examine", "worst"]

GIB = 1024**3
_SKEW = 60.0  # seconds; tokens are good for 300 at most registries
_LITTLE, _TOO_LITTLE = 5 * GIB, GIB // 2


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was tried.

    Attributes:
        name: of the step, as in "push".
        level: what came of it.
        said: one line.
        fix: the next step where it is not well, or "".
        exit_status: of the kind of failure; 0 for all but "fail".
    """

    name: str
    level: Literal["pass", "warn", "fail"]
    said: str
    fix: str = ""
    exit_status: int = 0

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "level": self.level, "message": self.said, "fix": self.fix}


def examine(
    settings: Settings, repository: str = "", platforms: Sequence[str] = (), listener: Listener = silent
) -> Iterator[Finding]:
    """Try everything, one finding after the other; with *repository* (``HOST/NAME``) what it lets us do too.

    Args:
        platforms: that are to be built, as ``linux/arm64``.
        listener: hears why the registry is asked again.

    Raises:
        ConfigurationError: *repository* is no name of one.
    """
    reference = Reference.parse(repository) if repository else None
    python = f"Python {this.python_version()} on {this.system()} {this.machine()}"
    yield Finding("layerkit", "pass", f"version {__version__}, {python}; {_extras()}")
    yield from _machine(settings)
    yield _logins(settings)
    yield from _builder(settings, platforms)
    if reference is not None:
        yield from _registry(settings, reference, listener)


def _extras() -> str:
    """Which of the optional packages are here."""
    wanted = {"torch": "torch", "safetensors": "safetensors", "zstandard": "zstd"}
    missing = [extra for module, extra in wanted.items() if find_spec(module) is None]
    return f"without {', '.join(missing)}" if missing else "all extras"


def _logins(settings: Settings) -> Finding:
    """Whether Docker's logins can be read: what is missing there fails in the middle of a build."""
    file = settings.docker_config / "config.json"
    try:
        login = Credentials(settings.docker_config, settings.environment).login("docker.io")
    except LayerkitError as error:
        return Finding("logins", "warn", error.message, error.hint or "docker login")
    known = "logged in to" if login is not None else "anonymous at"
    return Finding("logins", "pass", f"{file if file.is_file() else 'no config.json'}; {known} Docker Hub")


def _failed(name: str, error: LayerkitError) -> Finding:
    return Finding(name, "fail", error.message, error.hint, error.exit_status)


# ------------------------------------------------------------------------------------------------- this machine


def _machine(settings: Settings) -> Iterator[Finding]:
    for name, folder in (("disk", Path(tempfile.gettempdir())), ("state", settings.state_folder)):
        if folder is not None:
            yield _room(name, folder)
    if settings.state_folder is not None:
        with State(settings.state_folder) as state:
            state.put("doctor", "tried", __version__)
        with State(settings.state_folder) as state:
            kept = state.get("doctor", "tried", str) == __version__
            state.drop("doctor", "tried")
        fix = (
            ""
            if kept
            else "every checkpoint is read anew in each build: let LAYERKIT_STATE_DIR name a folder that can be written"
        )
        said = "what was hashed is remembered" if kept else f"nothing can be kept in {settings.state_folder}"
        yield Finding("stat cache", "pass" if kept else "warn", said, fix)


def _room(name: str, folder: Path) -> Finding:
    """Room where *folder* is, or will be."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    said = f"{free / GIB:.1f} GiB free in {place}"
    if free < _TOO_LITTLE:
        return Finding(name, "fail", said, "make room there", LocalResourceError.exit_status)
    fix = "docker system df says what takes it; docker buildx prune frees BuildKit's cache" if free < _LITTLE else ""
    return Finding(name, "warn" if fix else "pass", said, fix)


def _builder(settings: Settings, platforms: Sequence[str]) -> Iterator[Finding]:
    engine = Engine(builder=settings.builder, environment=settings.environment)
    try:
        command = " ".join(engine.command)
        client, server = engine.versions()
        daemon = f", daemon {server} at {engine.endpoint}" if server else ""
        yield Finding("docker", "pass", f"{command} {client}{daemon}")
        abilities = engine.abilities
    except LayerkitError as error:
        which = (part for part in ("daemon", "builder", "buildx") if part in error.message)
        yield _failed(next(which, "docker"), error)
        return
    version = engine.ask("buildx", "version").stdout.decode(errors="replace").split()
    yield Finding("buildx", "pass", " ".join(version[1:2]) or "installed")
    if engine.data_folder is not None:
        yield _room("images", engine.data_folder)
    yield from _nodes(engine, abilities.driver, platforms)
    yield from _abilities(abilities)


def _nodes(engine: Engine, driver: str, platforms: Sequence[str]) -> Iterator[Finding]:
    nodes = engine.nodes()
    if not nodes:
        yield Finding("builder", "warn", f"driver {driver}; it names no machine", "docker buildx ls")
    for node in nodes:
        version = node.version if node.version.strip("v0.+unkow") else ""  # Debian's daemon says v0.0.0+unknown
        parts = [f"{node.name}: driver {driver}", node.status, f"BuildKit {version}" if version else ""]
        said = ", ".join(part for part in parts if part)
        if node.error:
            why, fix = f"{said}: {node.error}", "docker buildx inspect --bootstrap, or another builder: --builder NAME"
            yield Finding("builder", "fail", why, fix, LocalResourceError.exit_status)
        elif node.status not in ("running", ""):
            yield Finding("builder", "pass", f"{said}; a build starts it")
        else:
            yield Finding("builder", "pass", said)
    known = list(dict.fromkeys(platform for node in nodes for platform in node.platforms))
    missing = [platform for platform in platforms if known and platform not in known]
    if missing:
        fix = "docker run --privileged --rm tonistiigi/binfmt --install all, or a builder with such a machine"
        yield Finding("platforms", "warn", f"nothing here builds for {', '.join(missing)}", fix)
    elif known:
        yield Finding("platforms", "pass", ", ".join(known))


def _abilities(abilities: Abilities) -> Iterator[Finding]:
    """What the driver with this image store can do; where it cannot, what follows."""
    stores = {
        "containerd": "containerd: an image is loaded by its new layers alone",
        "classic": "classic: an image is loaded by its new layers alone",
        "": "none: there is no local Docker, so --push or --output oci:DIR",
    }
    yield Finding("image store", "pass", stores[abilities.store])
    for name, able, can, cannot in (
        ("cache", abilities.registry_cache, "can be exported to a registry",
         "cannot be exported to a registry: a fresh machine builds dependencies anew"),
        ("layouts", abilities.oci_output, "OCI layouts can be written (--output oci:DIR)",
         "OCI layouts cannot be written (--output oci:DIR)"),
        ("attest", abilities.attestations, "provenance and SBOM can be attached",
         "provenance and SBOM cannot be attached (builder.attest)"),
    ):  # fmt: skip
        yield Finding(name, "pass", can) if able else Finding(name, "warn", cannot, ANOTHER_STORE)


# ------------------------------------------------------------------------------------------------- the registry


def _registry(settings: Settings, reference: Reference, listener: Listener) -> Iterator[Finding]:
    host = reference.host
    with connect(settings, listener, retries=1) as client:
        probe = Probe(client.repository(reference))
        try:
            yield from _resolve(host, proxied=bool(client.transport.proxy_of(host)))
            skew = probe.reach()
            how = client.transport.root(host).partition(":")[0]
            yield Finding("connection", "pass", f"{host} answers by {how}" + (", TLS is trusted" * (how == "https")))
            yield _clock(skew.total_seconds() if skew is not None else None)
            tags = probe.pull()
            yield Finding("pull", "pass", f"{len(tags)} tags in {reference.name}")
            probe.begin()
            yield Finding("push", "pass", f"uploads to {reference.name} are allowed")
            yield _tried("chunks", lambda: _chunks(probe))
            yield _tried("mount", lambda: _mount(probe, tags))
        except LayerkitError as error:
            kind = error.kind.removesuffix("Error").lower()
            yield _failed({"authentication": "login"}.get(kind, "registry"), error)
            return
        finally:
            probe.end()
        limit = probe.layer_limit
        said = f"layers of at most {limit / GIB:.1f} GiB" if limit else "no limit of a layer's size is documented"
        yield Finding("layer size", "pass", said)


def _tried(name: str, question: Callable[[], Finding]) -> Finding:
    """What is only good to have: that it fails is a warning."""
    try:
        return question()
    except LayerkitError as error:
        return Finding(name, "warn", error.message, error.hint)


def _resolve(host: str, *, proxied: bool) -> Iterator[Finding]:
    if proxied:
        yield Finding("name", "pass", f"{host} is reached through a proxy")
        return
    name, _, port = host.rpartition(":") if ":" in host else (host, "", "443")
    try:
        found = {str(entry[4][0]) for entry in socket.getaddrinfo(name.strip("[]"), int(port), type=socket.SOCK_STREAM)}
    except (OSError, ValueError) as error:
        said = getattr(error, "strerror", None) or str(error)
        raise TransientError(f"{host}: the name cannot be resolved: {said}", hint="check the name and DNS") from None
    yield Finding("name", "pass", f"{host} is {', '.join(sorted(found)[:3])}")


def _clock(skew: float | None) -> Finding:
    if skew is None:
        return Finding("clock", "pass", "the registry does not say its time")
    if abs(skew) > _SKEW:
        ahead = "ahead of" if skew > 0 else "behind"
        return Finding(
            "clock", "warn", f"{abs(skew):.0f} s {ahead} the registry's: tokens may be refused", "set the clock"
        )
    return Finding("clock", "pass", "agrees with the registry's")


def _chunks(probe: Probe) -> Finding:
    several, standing = probe.chunks()
    if several and standing:
        return Finding("chunks", "pass", "uploads that broke off can be gone on with")
    said = "a session does not say where it stands" if several else "a blob must come in one request"
    return Finding(
        "chunks", "warn", f"{said}: an upload that breaks off begins again", "save large checkpoints as shards"
    )


def _mount(probe: Probe, tags: tuple[str, ...]) -> Finding:
    mounts = probe.mounts(tags)
    if mounts is None:
        return Finding("mount", "pass", "not tried: no image to try it with")
    if mounts:
        return Finding("mount", "pass", "layers of other repositories are taken over without sending")
    return Finding("mount", "warn", "layers cannot be mounted: with cache.repository they are copied", "leave it out")


def worst(findings: list[Finding]) -> int:
    """The exit status of what was found: that of the first failure, or 0."""
    return next((finding.exit_status for finding in findings if finding.level == "fail"), 0)
