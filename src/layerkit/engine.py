"""Docker and buildx, as we use them.

python-on-whales finds the client. Builds, saves and short calls run through the command that it resolved, in a
process group of their own: their output is streamed and bounded, and Ctrl-C or a time limit ends all of it
(python-on-whales has no time limit, and collects output in one growing string). What the command would only pass on
to a daemon of this machine goes to its socket (``daemon``).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .daemon import Daemon, Endpoint, Load, endpoint_of
from .errors import BuildError, LocalResourceError, Stopped, printable
from .events import Listener, Note, silent
from .failures import (
    another_docker,
    build_failure,
    docker_failure,
    named_meanwhile,
    stream_failure,
    unreachable,
)
from .oci import Digest
from .processes import Loading, Watch, group
from .runtime.progress import Progress

if TYPE_CHECKING:
    import python_on_whales

__all__ = ["ANOTHER_STORE", "Abilities", "BakeResult", "Engine", "Node"]

ANOTHER_STORE = "switch Docker to the containerd image store, or: docker buildx create --use"
_QUICK = 60.0  # seconds for a call that only asks
_MOST_ATTACHED = 8 * 1024 * 1024  # bytes of a manifest or configuration


@dataclass(frozen=True, slots=True)
class Abilities:
    """What the builder and the local image store can do.

    Attributes:
        driver: buildx driver: docker, docker-container, kubernetes, remote or cloud.
        store: the local Docker's image store: containerd, classic, or "" where there is no local Docker.
    """

    driver: str
    store: str

    @property
    def registry_cache(self) -> bool:
        """Can export its cache to a registry (docker driver: only with the containerd store)."""
        return self.driver != "docker" or self.store == "containerd"

    @property
    def oci_output(self) -> bool:
        """Can write an OCI layout."""
        return self.registry_cache

    @property
    def attestations(self) -> bool:
        """Can attach provenance and SBOM."""
        return self.registry_cache


@dataclass(frozen=True, slots=True)
class Node:
    """One machine of a builder.

    Attributes:
        status: running, inactive, …; version: of its BuildKit, "" where it does not say.
        platforms: that it builds for; error: why it cannot be reached, or "".
    """

    name: str
    status: str = ""
    version: str = ""
    platforms: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class BakeResult:
    """What a bake told.

    Attributes:
        metadata: target -> buildx's metadata (``containerimage.digest``, ``buildx.build.ref``, …).
        bytes_sent: to the builder.
        cached: names of the steps taken from a cache.
    """

    metadata: Mapping[str, Mapping[str, Any]]
    bytes_sent: int
    cached: frozenset[str]
    warnings: tuple[str, ...] = ()

    def digest(self, target: str) -> Digest:
        """What *target*'s image is called: the digest of its manifest, or of its index.

        Raises:
            IntegrityError: the builder did not say.
        """
        return Digest.parse(str(self.metadata.get(target, {}).get("containerimage.digest", "")))

    def record(self, target: str) -> str:
        """The name of the builder's record of what it made of *target*, for ``attachment``; "" where it has none."""
        return str(self.metadata.get(target, {}).get("buildx.build.ref", ""))


class Engine:
    """The docker command of this machine, and the builder behind it.

    Args:
        builder: buildx builder by name, "" for docker's own choice.
        environment: of the docker processes.
        timeout: seconds that one build may take.
    """

    def __init__(self, *, environment: Mapping[str, str], builder: str = "", timeout: float = 4 * 3600) -> None:
        self.builder = builder
        self.timeout = timeout
        self._environment = {**environment, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"}

    @cached_property
    def _client(self) -> python_on_whales.DockerClient:
        # 0.4 s of imports: only when docker is really needed.
        from python_on_whales import ClientNotFoundError, DockerClient

        client = DockerClient()
        try:
            _ = client.client_config.docker_cmd
        except ClientNotFoundError:
            raise LocalResourceError(
                "docker: there is no docker command on this machine", hint="install Docker with the buildx plugin"
            ) from None
        return client

    @cached_property
    def command(self) -> tuple[str, ...]:
        """The docker command as python-on-whales resolved it.

        Raises:
            LocalResourceError: there is no docker on this machine.
        """
        return tuple(str(part) for part in self._client.client_config.docker_cmd)

    # ------------------------------------------------------------------------------------------------- questions

    def ask(self, *arguments: str, timeout: float = _QUICK) -> subprocess.CompletedProcess[bytes]:
        """Run a short docker command; a non-zero exit is the caller's to read."""
        try:
            return subprocess.run(
                [*self.command, *arguments],
                capture_output=True,
                timeout=timeout,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                check=False,
            )
        except subprocess.TimeoutExpired:
            where = "" if arguments[0] == "buildx" else f" from {self.endpoint}"  # a builder may be elsewhere
            raise LocalResourceError(
                f"docker {arguments[0]}: no answer{where} within {timeout:.0f} s",
                hint="is the daemon well? docker info",
            ) from None
        except OSError as error:
            raise LocalResourceError(f"docker: cannot be run: {error.strerror}") from None

    @cached_property
    def _daemon(self) -> Daemon | None:
        return Daemon.at(self.endpoint.socket)

    @cached_property
    def endpoint(self) -> Endpoint:
        """The Docker that we speak to."""
        return endpoint_of(self._environment)

    @cached_property
    def _info(self) -> subprocess.CompletedProcess[bytes]:
        return self.ask("info", "--format", "{{json .}}")

    @cached_property
    def store(self) -> str:
        """The local Docker's image store: containerd, classic, or "" where there is no local Docker.

        Raises:
            LocalResourceError: no docker, or no daemon, each with what to do.
        """
        return _store(self._daemon.info()) if self._daemon is not None else self.abilities.store

    @cached_property
    def data_folder(self) -> Path | None:
        """Where the daemon keeps its images, if that is on this machine."""
        if self.endpoint.socket is None:  # another machine may have a folder of that name
            return None
        try:
            folder = json.loads(self._info.stdout or b"{}").get("DockerRootDir")
        except (ValueError, AttributeError):
            return None
        return Path(folder) if isinstance(folder, str) and folder and Path(folder).is_dir() else None

    def versions(self) -> tuple[str, str]:
        """Of docker's client and of its daemon; "" where it does not say."""
        found = self.ask("version", "--format", "{{json .}}").stdout
        try:
            document = json.loads(found or b"{}")
        except ValueError:
            return "", ""
        sides = [document.get(side) or {} for side in ("Client", "Server")]
        client, server = (printable(str(side.get("Version") or ""), 100) for side in sides)
        return client, server

    def nodes(self) -> tuple[Node, ...]:
        """The machines of the builder, as ``docker buildx inspect`` shows them; none are started for it."""
        done = self.ask("buildx", "inspect", *((self.builder,) if self.builder else ()))
        blocks: list[dict[str, str]] = []
        for line in done.stdout.decode(errors="replace").splitlines():
            name, colon, value = line.partition(":")
            if name == "Nodes":
                blocks.append({})
            elif name == "Name" and blocks:
                blocks.append({"Name": value.strip()})
            elif blocks and colon and not name.startswith(" "):
                blocks[-1].setdefault(name, printable(value.strip(), 300))
        return tuple(
            Node(
                block["Name"],
                block.get("Status", ""),
                block.get("BuildKit version", ""),
                tuple(part.strip(" *") for part in block.get("Platforms", "").split(",") if part.strip()),
                block.get("Error", ""),
            )
            for block in blocks
            if "Name" in block
        )

    @cached_property
    def abilities(self) -> Abilities:
        """What is there to work with.

        Raises:
            LocalResourceError: no docker, no buildx, no such builder, or no daemon; each with what to do.
        """
        done = self._info
        text = done.stderr.decode(errors="replace")
        info: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            info = json.loads(done.stdout or b"{}")
        plugins = [plugin.get("Name") for plugin in (info.get("ClientInfo") or {}).get("Plugins") or ()]
        if plugins.count("buildx") == 0 and self.ask("buildx", "version").returncode != 0:
            raise LocalResourceError(
                "docker buildx: the plugin is not installed", hint="install docker-buildx (docker-buildx-plugin)"
            )
        served = done.returncode == 0 and bool(info.get("ServerVersion"))
        driver = self._driver()
        if not served and driver == "docker":
            raise unreachable(text.strip() or "; ".join(info.get("ServerErrors") or ()), self.endpoint)
        if driver == "docker" and self.builder and self.builder != (self.endpoint.context or "default"):
            raise another_docker(self.builder)
        return Abilities(driver, _store(info) if served else "")

    def _driver(self) -> str:
        done = self.ask("buildx", "inspect", *((self.builder,) if self.builder else ()))
        for line in done.stdout.decode(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name == "Driver":
                return value.strip() or "docker"  # nothing stands there where the daemon does not answer
        said = printable(done.stderr.decode(errors="replace").strip(), 300)
        if "unable to resolve docker endpoint" in said:
            raise unreachable(said, self.endpoint)
        if self.builder:
            raise LocalResourceError(f"docker buildx: no builder {self.builder!r}: {said}", hint="docker buildx ls")
        return "docker"

    def image(self, reference: str) -> dict[str, Any] | None:
        """``docker image inspect`` of a local image, or None."""
        if self._daemon is not None:
            return self._daemon.image(reference)
        done = self.ask("image", "inspect", reference)
        if done.returncode != 0:
            if b"o such image" in done.stderr:
                return None
            raise self._lost(done.stderr)
        found = json.loads(done.stdout)
        return found[0] if found else None

    def tag(self, source: str, repository: str, tag: str) -> None:
        """Give a local image another name."""
        if self._daemon is not None:
            self._daemon.tag(source, repository, tag)
            return
        done = self.ask("image", "tag", source, f"{repository}:{tag}")
        if done.returncode != 0:
            raise self._lost(done.stderr)

    def _lost(self, stderr: bytes) -> LocalResourceError:
        return docker_failure(stderr.decode(errors="replace"), self.endpoint)

    def attachment(self, build: str, digest: str) -> bytes | None:
        """The blob *digest* from the builder's content store, by way of the record of *build*; None where it has none.

        ``docker buildx history inspect attachment`` reads any blob that the builder still holds: manifest and
        configuration of an image just built come in half a second, where ``docker save`` sends all of its layers.
        """
        with contextlib.suppress(LocalResourceError):
            builder = ("--builder", self.builder) if self.builder else ()
            done = self.ask("buildx", *builder, "history", "inspect", "attachment", build.rpartition("/")[2], digest)
            if done.returncode == 0 and len(done.stdout) <= _MOST_ATTACHED:
                return done.stdout
        return None

    def last_build(self) -> str:
        """The name of the builder's newest record of a build, for ``attachment``; "" where it has none."""
        builder = ("--builder", self.builder) if self.builder else ()
        done = self.ask("buildx", *builder, "history", "ls", "--no-trunc", "--format", "{{.Ref}}")
        lines = done.stdout.decode(errors="replace").split()
        return lines[0] if done.returncode == 0 and lines else ""

    # ---------------------------------------------------------------------------------------------------- streams

    def beside(
        self, *arguments: str, own_group: bool = True, has_input: bool = False, results: bool = True
    ) -> subprocess.Popen[bytes]:
        """A docker command whose output goes where ours goes, for the caller to wait for.

        Args:
            own_group: away from our terminal, so that Ctrl-C comes to us alone.
            has_input: our standard input is its own.
            results: its standard output is a result; else it goes to standard error.

        Raises:
            LocalResourceError: docker cannot be run.
        """
        try:
            return subprocess.Popen(
                [*self.command, *arguments],
                env=self._environment,
                stdin=None if has_input else subprocess.DEVNULL,
                stdout=None if results else 2,
                start_new_session=own_group,
            )
        except OSError as error:
            raise LocalResourceError(f"docker: cannot be run: {error.strerror}") from None

    def bake(
        self,
        definition: Mapping[str, Any],
        *,
        listener: Listener = silent,
        cwd: Path | None = None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> BakeResult:
        """Build all of a bake definition.

        Args:
            stopped: asked some times a second; the build is ended when it says so.

        Raises:
            Stopped: *stopped* said so.
            BuildError: a step failed (with its name and last lines), or the time limit passed.
            AuthenticationError, TransientError: the builder could not pull or push.
            LocalResourceError: no docker.
        """
        done = [Progress()]
        with tempfile.TemporaryDirectory(prefix="layerkit-bake-") as folder:
            file, metadata = Path(folder, "bake.json"), Path(folder, "metadata.json")
            file.write_text(json.dumps(definition))
            arguments = [*self.command, "buildx", "bake", "-f", str(file), "--progress=rawjson"]
            arguments += ["--metadata-file", str(metadata)]
            if self.builder:
                arguments += ["--builder", self.builder]
            environment = {**self._environment, "BUILDX_BAKE_ENTITLEMENTS_FS": "0", "BUILDX_METADATA_WARNINGS": "0"}

            def read(line: bytes) -> None:
                for event in done[-1].feed(line):
                    listener(event)

            status = self._stream(arguments, environment, read, cwd, stopped)
            if status != 0 and named_meanwhile(done[-1]):
                listener(Note("another build gave an image the same name just now: exporting it once more"))
                done.append(Progress())
                status = self._stream(arguments, environment, read, cwd, stopped)
            if status != 0:
                raise build_failure(done[-1], status)
            document = json.loads(metadata.read_text()) if metadata.exists() else {}
        found = {name: value for name, value in document.items() if isinstance(value, dict)}
        # What is exported once more was built the first time.
        sent = sum(progress.bytes_sent for progress in done)
        return BakeResult(found, sent, done[0].cached, tuple(done[-1].warnings))

    def _stream(
        self,
        arguments: list[str],
        environment: Mapping[str, str],
        read: Callable[[bytes], None],
        cwd: Path | None,
        stopped: Callable[[], bool],
    ) -> int:
        with group(arguments, environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=cwd) as process:
            watch = Watch(process, self.timeout, stopped)
            try:
                assert process.stderr is not None
                for line in process.stderr:
                    read(line)
                status = process.wait()
            finally:
                why = watch.over()
        if why == "stopped":
            raise Stopped
        if why == "expired":
            raise BuildError(
                f"docker buildx: not done within {self.timeout:.0f} s; it was stopped",
                hint="does the builder answer? docker buildx ls; docker info",
            )
        return status

    def load(self) -> Load | Loading:
        """``docker load``, waiting for an archive.

        Raises:
            LocalResourceError: docker cannot be run, or its daemon does not answer.
        """
        if self._daemon is not None:
            return self._daemon.load()
        return Loading([*self.command, "load"], self._environment, partial(stream_failure, "load", self.endpoint))

    @contextlib.contextmanager
    def save(self, reference: str) -> Iterator[Any]:
        """``docker save`` of a local image as a readable binary stream (a tar).

        Its ``read`` raises LocalResourceError where docker ends before the tar does.
        """
        with group(
            [*self.command, "save", reference],
            self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        ) as process:
            yield _Saved(process, partial(stream_failure, "save", self.endpoint))


class _Saved:
    """The output of ``docker save``: its end is one only if docker says so."""

    def __init__(self, process: subprocess.Popen[bytes], failure: Callable[[str], LocalResourceError]) -> None:
        self._process = process
        self._failure = failure
        self._words: list[bytes] = []
        self._reader = threading.Thread(target=lambda: self._words.extend(process.stderr or ()), daemon=True)
        self._reader.start()

    def read(self, size: int = -1) -> bytes:
        assert self._process.stdout is not None
        data = self._process.stdout.read(size)
        if not data and (status := self._process.wait()) != 0:
            self._reader.join()
            said = b"".join(self._words).decode(errors="replace").strip()
            raise self._failure(said or f"exit status {status}")
        return data


def _store(info: Mapping[str, Any]) -> str:
    """By what ``docker info`` says of a daemon."""
    containerd = any("io.containerd.snapshotter" in str(row) for row in info.get("DriverStatus") or ())
    return "containerd" if containerd else "classic"
