"""``layerkit build --push`` as a user runs it, to a registry that holds its runtime image: no builder is needed."""

from __future__ import annotations

import gzip
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from layerkit.engine import Abilities, BakeResult
from layerkit.events import Listener, silent
from layerkit.oci import MEDIA, Config, Descriptor, Digest, Image, Manifest, Reference, dump
from layerkit.pipeline import build, execute
from layerkit.project import load
from layerkit.registry import Client, Repository
from layerkit.request import Request
from layerkit.results import Result
from layerkit.runtime.bake import PLACEHOLDER, PLACEHOLDER_NAME
from layerkit.session import Session
from layerkit.settings import Settings
from layerkit.testing import FakeRegistry
from registry.support import MIB, pattern

NAME = "team/model"
TOML = """\
[image]
name = "{name}"
base = "{host}/team/base:1"
command = ["python3", "serve.py"]
platforms = ["linux/amd64"]

[code]
include = ["serve.py"]

[checkpoint]
path = "weights"
target = "/app/model/"
"""


def tar_of(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def image(tars: Sequence[tuple[bytes, str]]) -> tuple[Image, list[bytes]]:
    """An image of gzip layers as BuildKit makes it, from (tar, instruction); and its blobs."""
    blobs = [gzip.compress(tar, mtime=0) for tar, _ in tars]
    config = Config.parse(
        dump(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {"Env": ["PATH=/usr/bin:/bin"], "Cmd": ["python3", "serve.py"]},
                "history": [{"created": "2026-01-01T00:00:00Z", "created_by": made} for _, made in tars],
                "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(tar)) for tar, _ in tars]},
            }
        )
    )
    layers = [Descriptor(MEDIA.LAYER_GZIP, Digest.of(blob), len(blob)) for blob in blobs]
    return Image(Manifest.create(config.descriptor, layers), config), [*blobs, config.raw]


@dataclass
class Done:
    """How a run of the command line ended."""

    status: int
    out: str
    err: str
    seconds: float

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.out)
        return found


@dataclass
class Pushing:
    """A project, the machine that it is built on, and the registry that it is pushed to (by way of *host*)."""

    root: Path
    host: str
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.state = self.root / "state"
        self.project = self.root / "project"
        (self.project / "weights").mkdir(parents=True, exist_ok=True)
        (self.root / "docker").mkdir(exist_ok=True)
        (self.project / "serve.py").write_text("print('served')\n")
        (self.project / "layerkit.toml").write_text(TOML.format(name=f"{self.host}/{NAME}", host=self.host))

    @property
    def environ(self) -> dict[str, str]:
        """No docker, no proxy, no state but our own."""
        return {
            "PATH": "/nonexistent",
            "HOME": str(self.root),
            "LAYERKIT_STATE_DIR": str(self.state),
            "DOCKER_CONFIG": str(self.root / "docker"),
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            **self.environment,
        }

    def weights(self, size: int = 3 * MIB, seed: int = 0, name: str = "model.pt") -> Path:
        """Write a file of the checkpoint anew, to another name first, as trainers should."""
        path = self.project / "weights" / name
        temporary = path.with_suffix(".new")
        temporary.write_bytes(pattern(size, seed))
        temporary.replace(path)
        return path

    def login(self, host: str, user: str, password: str) -> None:
        import base64

        secret = base64.b64encode(f"{user}:{password}".encode()).decode()
        (self.root / "docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": secret}}}))

    def base(self) -> tuple[Image, list[bytes]]:
        return image([(tar_of({"usr/bin/python3": b"python"}), "ADD rootfs")])

    def runtime(self) -> tuple[Image, list[bytes]]:
        return image(
            [
                (tar_of({"usr/bin/python3": b"python"}), "ADD rootfs"),
                (tar_of({f"app/model/{PLACEHOLDER_NAME}": PLACEHOLDER}), "COPY --link --from=checkpoint . /app/model/"),
                (tar_of({"app/serve.py": b"print('served')\n"}), "COPY --link serve.py /app"),
            ]
        )

    def seed(self, registry: FakeRegistry) -> None:
        """What an earlier build by BuildKit has left in a FakeRegistry: base and runtime image."""
        base, blobs = self.base()
        registry.push("team/base", "1", base, blobs)
        runtime, blobs = self.runtime()
        registry.push(NAME, f"runtime-{self.runtime_key()}", runtime, blobs)

    def seed_real(self, host: str) -> None:
        """The same in a real registry."""
        with Client() as client:
            for name, (made, blobs) in (("team/base", self.base()), (NAME, self.runtime())):
                repository = client.repository(Reference.parse(f"{host}/{name}"))
                for blob in blobs:
                    repository.put_blob(blob)
                tag = "1" if name == "team/base" else f"runtime-{self.runtime_key()}"
                repository.put_manifest(made.manifest, tag)

    def runtime_key(self) -> str:
        """The key that this project's runtime image has; its base must be there."""
        settings = Settings.from_environment({**self.environ, "LAYERKIT_STATE_DIR": str(self.root / "other-state")})
        checkpoint = self.project / "weights" / "seed"
        checkpoint.write_bytes(b"x")  # any will do: it is no part of the key
        try:
            with Session(load(None, root=self.project), Request(push=True), settings) as session:
                return session.inputs().runtime_key("linux/amd64")
        finally:
            checkpoint.unlink()

    def prepare(self, *, tag: str = "v1") -> str:
        """Push what there is by the Python API, in this process, which is quicker: its digest."""
        project = load(None, root=self.project)
        return str(build(project, tags=[tag], push=True, settings=Settings.from_environment(self.environ)).digest)

    def start(self, *arguments: str, tag: str = "v1") -> subprocess.Popen[str]:
        """The build, as a process of its own in a group of its own."""
        command = [sys.executable, "-m", "layerkit", "build", "--push", "-t", tag, "--progress=plain", *arguments]
        return subprocess.Popen(
            command,
            cwd=self.project,
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str], timeout: float = 120) -> Done:
        started = time.monotonic()
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            raise AssertionError(f"still running after {timeout} s\n{out}\n{err}") from None
        return Done(process.returncode, out, err, time.monotonic() - started)

    def build(self, *arguments: str, tag: str = "v1", timeout: float = 120) -> Done:
        return self.finish(self.start("--json", *arguments, tag=tag), timeout)

    def built(self, *arguments: str, tag: str = "v1") -> dict[str, Any]:
        """A build that succeeds: its object."""
        done = self.build(*arguments, tag=tag)
        assert done.status == 0, f"{done.status}\n{done.out}\n{done.err}"
        return done.document


class Played(Session):
    """A build at which BuildKit is played: it pushes what it would make, each blob unless HEAD says that it is there.

    ``baked``: names of the targets, in their order. ``whole``: what it makes where it builds the whole image.
    """

    def __init__(
        self, pushing: Pushing, tags: Sequence[str] = ("v1",), listener: Listener = silent, **options: Any
    ) -> None:
        settings = Settings.from_environment(pushing.environ)
        request = Request(tags, **{"push": True, **options})
        super().__init__(load(None, root=pushing.project), request, settings, listener)
        self.pushing = pushing
        self.baked: list[str] = []
        self.whole: tuple[Image, list[bytes]] | None = None
        vars(self.to)["engine"] = SimpleNamespace(abilities=Abilities("docker-container", ""))

    def bake(self, targets: Sequence[Any], stopped: Callable[[], bool]) -> BakeResult:
        metadata = {}
        for target in targets:
            self.baked.append(target.name)
            made, blobs = self.whole if target.name == "image" and self.whole else self.pushing.runtime()
            with Client() as client:
                for name in target.tags:
                    reference = Reference.parse(name)
                    repository = client.repository(reference)
                    for blob in blobs:
                        repository.put_blob(blob)
                    repository.put_manifest(made.manifest, reference.tag)
            metadata[target.name] = {"containerimage.digest": str(made.manifest.digest)}
        return BakeResult(metadata, 0, frozenset())

    def run(self) -> Result:
        """Plan and build, once."""
        with self:
            return execute(self, self.plan())


class Killer:
    """Kills one process when told to; what it is told before there is a process waits for it."""

    def __init__(self, number: int = signal.SIGKILL) -> None:
        self.number = number
        self.killed = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._known = threading.Event()

    def aim(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._known.set()

    def __call__(self, *_: object) -> None:
        if self.killed.is_set():
            return
        assert self._known.wait(30) and self._process is not None
        self.killed.set()
        self._process.send_signal(self.number)
        if self.number == signal.SIGKILL:
            while self._process.poll() is None:
                time.sleep(0.002)


class Line:
    """A TCP proxy to a registry: counts what goes up, slows it down, and shows each piece to ``watch`` before it is
    passed on: (count so far, piece); where that returns True, the piece is kept and the connection ends.

    With ``whole`` it passes a request on once all of it has arrived, as nginx does by default
    (proxy_request_buffering on).
    """

    def __init__(self, target: str, *, rate: float = 0.0, whole: bool = False) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._rate = rate
        self._whole = whole
        self._server = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._server.getsockname()[1]}"
        self.up = 0
        self.watch: Callable[[int, bytes], bool | None] = lambda total, data: False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def take(self) -> int:
        """Bytes that went up since the last call."""
        with self._lock:
            count, self.up = self.up, 0
        return count

    def close(self) -> None:
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                inner, _ = self._server.accept()
                outer = socket.create_connection(self._target)
                up = self._requests if self._whole else self._upward
                threading.Thread(target=self._run, args=(up, inner, outer), daemon=True).start()
                threading.Thread(target=self._run, args=(self._down, outer, inner), daemon=True).start()

    def _run(self, pump: Any, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            pump(source, sink)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        source.close()

    def _count(self, data: bytes) -> None:
        with self._lock:
            self.up += len(data)
            total = self.up
        if self.watch(total, data):
            raise ConnectionAbortedError
        if self._rate:
            time.sleep(len(data) / self._rate)

    def _upward(self, source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(1 << 16):
            self._count(data)
            sink.sendall(data)

    def _requests(self, source: socket.socket, sink: socket.socket) -> None:
        stream = source.makefile("rb")
        while True:
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                line = stream.readline()
                if not line:
                    return
                head += line
            length = next(
                (int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0
            )
            body = bytearray()
            while len(body) < length:
                data = stream.read1(min(1 << 16, length - len(body)))
                if not data:
                    return  # half a request is nobody's
                body += data
                self._count(data)
            sink.sendall(head)
            sink.sendall(body)

    def _down(self, source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(1 << 16):
            sink.sendall(data)


def whole_image(repository: Repository, tag: str) -> Digest:
    """The digest that *tag* names, after every blob of it was read and verified."""
    manifest = repository.manifest(tag)
    assert isinstance(manifest, Manifest)
    for descriptor in (manifest.config, *manifest.layers):
        with repository.open_blob(descriptor) as chunks:
            for _ in chunks:
                pass
    return manifest.digest
