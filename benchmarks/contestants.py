"""Who runs in the benchmark, and how each does the same job."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

MIB = 1024 * 1024
ROOT = Path(__file__).resolve().parent.parent

Times = dict[str, dict[str, list[float]]]

TOML = """\
[image]
name = "{name}"
base = "{base}"
command = ["python3", "serve.py"]
[code]
include = ["serve.py"]
[checkpoint]
path = "weights/model.pth.tar"
"""
# What an expert writes today: linked copies, the weights under the code.
EXPERT = """\
FROM {base}
WORKDIR /app
COPY --link --chown=0:0 weights/ /app/model/
COPY --link serve.py /app/
CMD ["python3", "serve.py"]
"""
UPSIDE_DOWN = """\
FROM {base}
WORKDIR /app
COPY --link serve.py /app/
COPY --link --chown=0:0 --from=checkpoint . /app/model/
CMD ["python3", "serve.py"]
"""


def random_file(path: Path, size: int) -> None:
    """Random bytes: weights of trained models compress no better to speak of (fp16: 8 %)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        for start in range(0, size, 16 * MIB):
            stream.write(os.urandom(min(16 * MIB, size - start)))


class Bench:
    """A project folder, the registry, and the times that were taken."""

    def __init__(self, folder: Path, size: int, name: str = "bench", toml: str = TOML) -> None:
        self.folder = folder
        self.size = size
        self.registry = os.environ["LAYERKIT_TEST_REGISTRY"]
        self.base = os.environ["LAYERKIT_TEST_BASE"]
        self.name = f"{self.registry}/bench/{name}"
        self.reference = f"{self.name}:v1"
        self.weights = folder / "weights" / "model.pth.tar"
        self.times: Times = {}
        self.notes: dict[str, Any] = {}
        self.last: dict[str, Any] = {}
        self._state = folder.parent / f"state-{name}"
        folder.mkdir()
        self.weights.parent.mkdir()
        (folder / "layerkit.toml").write_text(toml.format(name=self.name, base=self.base))
        (folder / "Dockerfile.expert").write_text(EXPERT.format(base=self.base))
        self.edit_code(-1)

    def sibling(self, name: str, toml: str = TOML) -> Bench:
        """Another project, beside this one."""
        return Bench(self.folder.parent / name, self.size, name, toml)

    def upside_down(self) -> Bench:
        """The same project with the checkpoint above the code, by a Dockerfile of its own."""
        folder = self.folder.parent / "above"
        if not folder.exists():
            toml = '[image]\nname = "{name}"\ndockerfile = "Dockerfile"\n[checkpoint]\npath = "weights/model.pth.tar"\n'
            self._above = self.sibling("above", toml)
            (folder / "Dockerfile").write_text(UPSIDE_DOWN.format(base=self.base))
        return self._above

    # ------------------------------------------------------------------------------------------------------- running

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """Run a command in the project; its output. What fails, fails the benchmark."""
        environment = {**os.environ, "LAYERKIT_STATE_DIR": str(self._state)}
        done = subprocess.run(command, cwd=cwd or self.folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"bench: {' '.join(command)} failed:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
        return done.stdout

    def measure(self, case: str, name: str, work: Callable[[], object]) -> None:
        begun = time.monotonic()
        work()
        seconds = time.monotonic() - begun
        self.times.setdefault(case, {}).setdefault(name, []).append(seconds)
        print(f"   {case:<28} {name:<24} {seconds:8.2f} s", file=sys.stderr, flush=True)

    def note(self, name: str, value: Any) -> None:
        self.notes[name] = value

    def settle(self) -> None:
        """Let the disk finish what earlier runs left to it."""
        os.sync()
        time.sleep(1)

    def clean(self) -> None:
        """Give all disk room back: builder, images, registry."""
        self.run("docker", "buildx", "prune", "-af", cwd=ROOT)
        for image in set(self.run("docker", "image", "ls", "-aq", "--no-trunc", cwd=ROOT).split()):
            subprocess.run(["docker", "image", "rm", "-f", image], capture_output=True, check=False)
        self.run(str(ROOT / "tools" / "engine"), "reset-registry", cwd=ROOT)

    def new_weights(self) -> None:
        random_file(self.weights, self.size)

    def refresh(self) -> None:
        """Other weights for the next contestant: BuildKit knows by content what another build has sent it."""
        with self.weights.open("r+b") as stream:
            stream.write(os.urandom(4096))

    def edit_code(self, number: int) -> None:
        (self.folder / "serve.py").write_text(f"print({number}, {time.time_ns()})\n")

    def prime(self, *, local: bool = False) -> None:
        """Build and push everything once with weights of 1 MiB, so that only the weights are new afterwards."""
        random_file(self.weights, MIB)
        for run in (self.layerkit_load, self.buildx_load) if local else (self.layerkit_push, self.buildx_push,
                                                                         self.buildx_push_uncompressed):  # fmt: skip
            run()

    # ---------------------------------------------------------------------------------------------------- contestants

    def _layerkit(self, *where: str) -> None:
        command = (sys.executable, "-m", "layerkit", "build", "--json", "-t", "v1", "--progress", "quiet", *where)
        self.last = json.loads(self.run(*command))

    def layerkit_push(self) -> None:
        self._layerkit("--push")

    def layerkit_load(self) -> None:
        self._layerkit("--load")

    def _buildx(self, *where: str) -> None:
        self.run("docker", "buildx", "build", "-f", "Dockerfile.expert", "--provenance=false", *where, ".")

    def buildx_push(self) -> None:
        cache = f"type=registry,ref={self.name}-expert:buildcache"
        self._buildx("--cache-from", cache, "--cache-to", f"{cache},mode=max", "--push", "-t", f"{self.name}-expert:v1")

    def buildx_push_uncompressed(self) -> None:
        cache = f"type=registry,ref={self.name}-plain:buildcache"
        self._buildx(
            "--cache-from", cache, "--cache-to", f"{cache},mode=max,compression=uncompressed", "--output",
            f"type=image,name={self.name}-plain:v1,push=true,compression=uncompressed,unpack=false",
        )  # fmt: skip

    def buildx_load(self) -> None:
        self._buildx("--load", "-t", f"{self.name}-expert:local")

    def crane(self) -> None:
        """The tar is ready before the clock starts, which flatters it."""
        self.run("crane", "append", "-b", self.base, "-f", str(self._tar()), "-t", f"{self.name}-crane:v1")

    def oras(self) -> None:
        self.run("oras", "push", "--plain-http", f"{self.name}-oras:v1", "model.pth.tar", cwd=self.weights.parent)

    def curl(self) -> None:
        """The limit: the same bytes sent once, their digest known."""
        digest = self._digest()
        begin = f"http://{self.registry}/v2/bench/curl/blobs/uploads/"
        answer = self.run("curl", "-sf", "-D", "-", "-o", "/dev/null", "-X", "POST", begin)
        location = re.search(r"(?im)^location: *(\S+)", answer)
        assert location is not None
        self.run(
            "curl", "-sf", "-o", "/dev/null", "-X", "PUT", "-H", "Content-Type: application/octet-stream",
            "-T", str(self.weights), f"{location[1]}&digest={digest}",
        )  # fmt: skip

    def _once(self, suffix: str, make: Callable[[Path], None]) -> Path:
        """A file made of the weights, outside of every timed part: ``measure`` is called after it is there."""
        stamp = self.weights.stat()
        path = self.folder.parent / f"{stamp.st_mtime_ns}-{stamp.st_size}{suffix}"
        if not path.exists():
            for old in self.folder.parent.glob(f"*{suffix}"):
                old.unlink()
            make(path)
        return path

    def _tar(self) -> Path:
        def make(path: Path) -> None:
            with tarfile.open(path, "w") as tar:
                tar.add(self.weights, "app/model/model.pth.tar")

        return self._once(".tar", make)

    def _digest(self) -> str:
        def make(path: Path) -> None:
            with self.weights.open("rb") as stream:
                path.write_text("sha256:" + hashlib.file_digest(stream, "sha256").hexdigest())

        return self._once(".digest", make).read_text()

    def prepare(self) -> None:
        """What crane and curl are given for nothing."""
        self._tar()
        self._digest()

    # ---------------------------------------------------------------------------------------------------------- others

    @contextlib.contextmanager
    def node(self) -> Iterator[str]:
        """A second Docker with nothing in it: its address."""
        tool = str(ROOT / "tools" / "engine")
        self.run(tool, "node", "up", "--store", "containerd", cwd=ROOT)
        try:
            found = re.search(
                r"LAYERKIT_TEST_NODE=(\S+)", self.run(tool, "node", "env", "--store", "containerd", cwd=ROOT)
            )
            assert found is not None
            host = found[1]
            for image in set(self.run("docker", "--host", host, "image", "ls", "-aq", "--no-trunc").split()):
                subprocess.run(["docker", "--host", host, "image", "rm", "-f", image], capture_output=True, check=False)
            yield host
        finally:
            self.run(tool, "node", "down", "--store", "containerd", cwd=ROOT)

    def peak_memory(self) -> dict[str, int]:
        """Bytes of memory at the peak of a swap: resident, and the anonymous part of it."""
        peak = {"resident": 0, "anonymous": 0}
        process = subprocess.Popen(
            [sys.executable, "-m", "layerkit", "build", "--push", "-t", "v1", "-q"],
            cwd=self.folder,
            env={**os.environ, "LAYERKIT_STATE_DIR": str(self._state)},
            stdout=subprocess.DEVNULL,
        )

        def watch() -> None:
            while process.poll() is None:
                with contextlib.suppress(OSError):
                    status = Path(f"/proc/{process.pid}/status").read_text()
                    for key, field in (("resident", "VmHWM"), ("anonymous", "RssAnon")):
                        found = re.search(rf"{field}:\s*(\d+)", status)
                        if found:
                            peak[key] = max(peak[key], int(found[1]) * 1024)
                time.sleep(0.02)

        watcher = threading.Thread(target=watch)
        watcher.start()
        if process.wait():
            raise SystemExit("bench: layerkit build failed")
        watcher.join()
        return peak
