"""A real BuildKit and a real registry (tools/engine up), and small projects to build with them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

import layerkit
from layerkit.oci import Config, Image, Index, Manifest, Reference
from layerkit.registry import Client, Credentials

ROOT = Path(__file__).parents[2]
_PROTOCOL = 64 * 1024  # bytes
MIB = 1024 * 1024


def pytest_itemcollected(item: pytest.Item) -> None:
    """Everything in this folder needs the engine."""
    item.add_marker(pytest.mark.engine)


@dataclass(frozen=True)
class Engine:
    """Where the real parts are."""

    registry: str
    base: str

    def docker(self, *arguments: str, host: str = "", check: bool = True) -> str:
        """Run docker and give its output."""
        command = ["docker", *(("--host", host) if host else ()), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
        assert done.returncode == 0 or not check, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()


@pytest.fixture(scope="session")
def engine() -> Engine:
    """The engine of the environment. A missing one is a failure, never a skip."""
    registry, base = os.environ.get("LAYERKIT_TEST_REGISTRY"), os.environ.get("LAYERKIT_TEST_BASE")
    if not registry or not base:
        pytest.fail('no engine: run `make test`, or tools/engine up and eval "$(tools/engine env)"')
    return Engine(registry, base)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the further Dockers' TLS, in folders as DOCKER_CERT_PATH has them: "good"; "other", all of an authority that
    they do not know; "mixed", the client's alone of that one."""
    folder = tmp_path_factory.mktemp("certificates")
    good, other = trustme.CA(), trustme.CA()
    for name, authority, clients in (("good", good, good), ("other", other, other), ("mixed", good, other)):
        place = folder / name
        place.mkdir()
        authority.cert_pem.write_to_path(str(place / "ca.pem"))
        for kind, of in (("", clients), ("server-", authority)):
            issued = of.issue_cert("127.0.0.1")
            issued.private_key_pem.write_to_path(str(place / f"{kind}key.pem"))
            issued.cert_chain_pems[0].write_to_path(str(place / f"{kind}cert.pem"))
    return folder


Exports = dict[str, str]


@pytest.fixture(scope="session")
def started(certificates: Path) -> Iterator[Callable[[str], Exports]]:
    """A further Docker by its image store (containerd or classic): what tools/engine says of it. Ended with the
    session."""
    tool = str(ROOT / "tools" / "engine")
    known: dict[str, Exports] = {}

    def start(store: str) -> Exports:
        if store not in known:
            words = ("--store", store)
            up = [tool, "node", "up", *words, "--tls", str(certificates / "good")]
            subprocess.run(up, check=True, timeout=120)
            done = subprocess.run([tool, "node", "env", *words], check=True, capture_output=True, text=True, timeout=60)
            lines = (line.removeprefix("export ") for line in done.stdout.splitlines())
            known[store] = dict(line.split("=", 1) for line in lines)
        return known[store]

    yield start
    for store in known:
        subprocess.run([tool, "node", "down", "--store", store], check=True, timeout=120)


@pytest.fixture(scope="session")
def node(started: Callable[[str], Exports]) -> Callable[[str], str]:
    """A further Docker by its image store (containerd or classic): its address."""
    names = {"containerd": "LAYERKIT_TEST_NODE", "classic": "LAYERKIT_TEST_CLASSIC"}
    return lambda store: started(store)[names[store]]


@pytest.fixture(scope="session")
def secure_node(started: Callable[[str], Exports]) -> str:
    """The address over TLS of the further Docker with the containerd store."""
    return started("containerd")["LAYERKIT_TEST_NODE_TLS"]


def write_wheel(folder: Path, name: str, version: str) -> None:
    """A pure-Python wheel of one module, whose VERSION says which it is."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(zipfile.ZipInfo(path), text)


def write_weights(path: Path, seed: int, size: int = 20 * MIB) -> None:
    """Weights that stand for real ones: bytes without pattern, the same for the same seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    block = hashlib.sha256(str(seed).encode()).digest()
    numbers = range(size // 4096 + 1)
    chunks = [hashlib.sha256(block + number.to_bytes(8, "big")).digest() * 128 for number in numbers]
    temporary = path.with_suffix(".new")
    temporary.write_bytes(b"".join(chunks)[:size])
    temporary.replace(path)


@dataclass
class Workspace:
    """A project in a folder, and what a user does with it."""

    root: Path
    engine: Engine
    repository: str
    state: Path
    last: dict[str, Any] = field(default_factory=dict)

    @property
    def settings(self) -> layerkit.Settings:
        return layerkit.Settings.from_environment({**os.environ, "LAYERKIT_STATE_DIR": str(self.state)})

    def fresh_machine(self) -> None:
        """Forget everything that this machine knows."""
        shutil.rmtree(self.state, ignore_errors=True)

    def run(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """The command line, as a user runs it."""
        done = subprocess.run(
            [sys.executable, "-m", "layerkit", *arguments],
            cwd=self.root,
            env={**os.environ, "LAYERKIT_STATE_DIR": str(self.state), **environment},
            capture_output=True,
            text=True,
            check=False,
            timeout=280,
        )
        assert done.returncode == 0 or not check, f"{arguments}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def build(self, *arguments: str, tag: str = "v1", push: bool = True) -> dict[str, Any]:
        """``layerkit build --json``: its object. What happened must be what the plan had said."""
        where = ("--push",) if push else ()
        self.last = json.loads(self.run("build", "--json", "--explain", "-t", tag, *where, *arguments).stdout)
        self.agree()
        return self.last

    def agree(self) -> None:
        """The last build did what its plan said: roles, bytes, way, whether BuildKit ran (issue 5, point 1)."""
        plan, done = self.last["plan"], self.last
        assert [row for row in done["outcomes"] if not row["agrees"]] == []
        if plan["way"] == done["way"]:
            assert bool(plan["runs_builder_for"]) == done["builder"]["ran"]
        if plan["digest"] is not None:
            assert plan["digest"] == done["digest"]
        # Beside the files, BuildKit is sent the Dockerfile and what its protocol needs.
        planned = sum(row["bytes_to_builder"] or 0 for row in plan["layers"]) if done["builder"]["ran"] else 0
        assert done["builder"]["bytes_sent"] <= planned + (_PROTOCOL if done["builder"]["ran"] else 0)

    def plan(self, *arguments: str, tag: str = "v1", push: bool = True) -> dict[str, Any]:
        where = ("--push",) if push else ()
        document: dict[str, Any] = json.loads(self.run("plan", "--json", "-t", tag, *where, *arguments).stdout)
        return document

    def actions(self) -> dict[str, set[str]]:
        """role -> actions of its layers, of the last build."""
        found: dict[str, set[str]] = {}
        for layer in self.last["layers"]:
            found.setdefault(layer["role"], set()).add(layer["action"])
        return found

    def digests(self, role: str) -> list[str]:
        return [layer["digest"] for layer in self.last["layers"] if layer["role"] == role]

    def image(self, tag: str = "v1") -> Image:
        """What the registry has under *tag*."""
        client = Client(credentials=Credentials(Path(), {}))
        try:
            repository = client.repository(Reference.parse(self.repository))
            manifest = repository.manifest(tag)
            if isinstance(manifest, Index):
                manifest = repository.manifest(manifest.manifests[0].digest)
            assert isinstance(manifest, Manifest)
            return Image(manifest, Config.parse(repository.blob(manifest.config)))
        finally:
            client.close()

    def python(self, code: str, *, tag: str = "v1", host: str = "") -> str:
        """Run Python code in a container of the image."""
        network = ("--network", "none")
        reference = f"{self.repository}:{tag}"
        if not host:
            self.engine.docker("pull", "-q", reference)
        return self.engine.docker("run", "--rm", *network, reference, "python3", "-c", code, host=host)


TOML = """\
[image]
name = "{name}"
base = "{base}"
command = ["python3", "serve.py"]

[dependencies]
requirements = "requirements.txt"
separate = ["heavy"]
wheels = "wheels"

[code]
include = ["serve.py", "lib"]

[checkpoint]
path = "model.pth.tar"
target = "/app/model/"
chown = "1000:1000"
"""


@pytest.fixture
def workspace(engine: Engine, tmp_path: Path) -> Workspace:
    """A small project of every part: two dependencies (one heavy), code, a checkpoint of 20 MiB."""
    return make_workspace(
        engine, tmp_path / "project", tmp_path / "state", f"{engine.registry}/test/{uuid.uuid4().hex[:12]}"
    )


def make_workspace(engine: Engine, root: Path, state: Path, repository: str) -> Workspace:
    root.mkdir()
    (root / "layerkit.toml").write_text(TOML.format(name=repository, base=engine.base))
    (root / "requirements.txt").write_text("heavy==1.0\nlight==1.0\n")
    for name in ("heavy", "light"):
        for version in ("1.0", "2.0"):
            write_wheel(root / "wheels", name, version)
    (root / "serve.py").write_text("import heavy, light, lib\nprint(lib.NAME, heavy.VERSION, light.VERSION)\n")
    (root / "lib").mkdir()
    (root / "lib" / "__init__.py").write_text("NAME = 'one'\n")
    write_weights(root / "model.pth.tar", seed=1)
    return Workspace(root, engine, repository, state)


class CountingProxy:
    """A TCP proxy in front of the registry: counts what goes in, so that "uploaded" is not our own word for it.

    *target* is HOST:PORT, or the path of a socket; *front* the path of a socket to be, instead of a port.
    """

    def __init__(self, target: str, front: Path | None = None) -> None:
        self._target = target
        if front is None:
            self._server = socket.create_server(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{self._server.getsockname()[1]}"
        else:
            self._server = socket.socket(socket.AF_UNIX)
            self._server.bind(str(front))
            self._server.listen()
            self.host = str(front)
        self.received = 0
        self._lock = threading.Lock()
        self._closed = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                inner, _ = self._server.accept()
                outer = self._dial()
            except OSError:
                return
            threading.Thread(target=self._pump, args=(inner, outer, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(outer, inner, False), daemon=True).start()

    def _dial(self) -> socket.socket:
        if self._target.startswith("/"):
            outer = socket.socket(socket.AF_UNIX)
            outer.connect(self._target)
            return outer
        host, _, port = self._target.rpartition(":")
        return socket.create_connection((host, int(port)))

    def _pump(self, source: socket.socket, sink: socket.socket, count: bool) -> None:
        try:
            while data := source.recv(1 << 18):
                if count and (answer := self.refuse(data)):
                    source.sendall(answer)
                    continue
                if count:
                    with self._lock:
                        self.received += len(data)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            source.close()

    refuse: Callable[[bytes], bytes] = staticmethod(lambda data: b"")  # an answer in the registry's place, or none

    def take(self) -> int:
        """Bytes since the last call."""
        time.sleep(0.05)
        with self._lock:
            count, self.received = self.received, 0
        return count

    def close(self) -> None:
        self._closed = True
        self._server.close()


@pytest.fixture
def proxy(engine: Engine) -> Iterator[CountingProxy]:
    """The registry by way of a proxy that counts."""
    made = CountingProxy(engine.registry)
    yield made
    made.close()


@pytest.fixture
def docker_by() -> Iterator[Callable[[str], CountingProxy]]:
    """The Docker of the environment by way of a proxy that counts: over a "socket", which layerkit speaks to itself, or
    over "TCP", where it has the docker command do so. Its host is a DOCKER_HOST."""
    made: list[CountingProxy] = []
    with tempfile.TemporaryDirectory() as folder:  # a socket's path is short

        def make(kind: str) -> CountingProxy:
            front = Path(folder, "docker.sock") if kind == "socket" else None
            proxy = CountingProxy(os.environ["DOCKER_HOST"].removeprefix("unix://"), front)
            proxy.host = f"unix://{front}" if front else f"tcp://{proxy.host}"
            made.append(proxy)
            return proxy

        yield make
        for proxy in made:
            proxy.close()
