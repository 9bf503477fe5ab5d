"""What every measurement shares: timed processes, fresh weights, the engine, and facts about the machine."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import platform
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ENGINE_TOOL = ROOT / "tools" / "engine"
MIB = 1024 * 1024
_QUIET = 0.2  # share of all cores that others may use when a measurement begins
_SAMPLE = 0.01  # seconds between two looks at a process's memory


class BenchError(Exception):
    """Something that ends the benchmark; its text is for people."""


@dataclass
class Measured:
    """One timed run.

    Attributes:
        seconds: wall time; user and system of the process itself, without daemons.
        peak_rss, peak_anon: bytes, of the process itself: VmHWM, and the most of RssAnon (0 where not sampled).
        busy_before: share of all cores that others used just before.
        facts: what the contestant says of itself.
    """

    contestant: str
    round: int
    seconds: float
    user: float = 0.0
    system: float = 0.0
    peak_rss: int = 0
    peak_anon: int = 0
    busy_before: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)


def size_of(text: str) -> int:
    """Bytes: ``2GiB``, ``256MiB``; a bare number is bytes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(?:([KMG])i?B?)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size, as in 2GiB")
    size = int(float(match[1]) * 1024 ** " KMG".index((match[2] or " ").upper()))
    if size < MIB:
        raise argparse.ArgumentTypeError(f"{text!r} is under 1 MiB")
    return size


def say(text: str) -> None:
    """One line of progress, on stderr."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


# ------------------------------------------------------------------------------------------------------- processes


@dataclass(frozen=True)
class Done:
    """A process that ended well: its output, wall and processor seconds, and peak memory in bytes."""

    output: str
    seconds: float
    user: float
    system: float
    peak_rss: int = 0
    peak_anon: int = 0


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
    memory: bool = False,
    timeout: float = 3600.0,
) -> Done:
    """Run a command in a process group of its own, which is gone afterwards whatever happens.

    Args:
        memory: sample the process's own memory while it runs.
        timeout: seconds after which it is ended.

    Raises:
        BenchError: it failed; with its last lines.
    """
    words = [str(word) for word in command]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        begun = time.perf_counter()
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        timer = threading.Timer(timeout, _end_group, (process.pid,))
        timer.daemon = True
        timer.start()
        watch = _Watch(process.pid) if memory else None
        try:
            _, status, usage = os.wait4(process.pid, 0)
            seconds = time.perf_counter() - begun
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            timer.cancel()
            if process.returncode is None:
                _end_group(process.pid)
                with contextlib.suppress(ChildProcessError):
                    process.wait()
            if watch is not None:
                watch.stop()
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    if process.returncode != 0:
        tail = "\n".join("    " + line for line in (texts[1] + texts[0]).strip().splitlines()[-15:])
        raise BenchError(f"`{' '.join(words)[:300]}` ended with {process.returncode} after {seconds:.1f} s:\n{tail}")
    peaks = (watch.rss, watch.anon) if watch else (0, 0)
    return Done(texts[0], seconds, usage.ru_utime, usage.ru_stime, *peaks)


def _end_group(pid: int) -> None:
    for number, patience in ((signal.SIGTERM, 5.0), (signal.SIGKILL, 0.0)):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(pid, number)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            # Not reaped yet by whoever waits for it: a zombie has no files any more.
            if not Path(f"/proc/{pid}/exe").exists():
                break
            time.sleep(0.05)


class _Watch:
    """Samples a process's memory until it ends. VmHWM is the kernel's own peak, RssAnon has none: sampled."""

    def __init__(self, pid: int) -> None:
        self.rss = self.anon = 0
        self._path = Path(f"/proc/{pid}/status")
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(_SAMPLE):
            try:
                lines = self._path.read_text().splitlines()
            except OSError:
                return
            values = {name: rest.split() for name, _, rest in (line.partition(":") for line in lines)}
            if "VmHWM" in values:
                self.rss = max(self.rss, int(values["VmHWM"][0]) * 1024)
                self.anon = max(self.anon, int(values["RssAnon"][0]) * 1024)

    def stop(self) -> None:
        self._over.set()
        self._thread.join()


# -------------------------------------------------------------------------------------------------------- quietness


def busy(seconds: float = 0.4) -> float:
    """The share of all cores that is used now, from 0 to 1 (proc(5), /proc/stat)."""

    def now() -> tuple[int, int]:
        fields = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    before, idle_before = now()
    time.sleep(seconds)
    after, idle_after = now()
    return 1.0 - (idle_after - idle_before) / max(after - before, 1)


def settle(patience: float) -> float:
    """Flush what is still to be written, and wait at most *patience* seconds for others to be quiet; how busy it is."""
    os.sync()
    deadline = time.monotonic() + patience
    while True:
        found = busy()
        if found < _QUIET or time.monotonic() > deadline:
            return round(found, 3)


# ----------------------------------------------------------------------------------------------------------- memory


class Holes:
    """A file of holes, whose pages take up the memory that nothing uses.

    A machine that has been up for a while has no unused memory: what a file needs is taken from older files' pages. A
    fresh virtual machine has it all unused, and where its host takes unused memory back (virtio's free page reporting)
    each page costs a fault in the host when it is used again: seen at 4.5 s a GiB, where the disk wrote one in 0.5 s,
    so that little else would be measured. No hole is read twice, so that these pages are the first that the kernel
    drops.
    """

    STEP = 128 * MIB  # bytes

    def __init__(self, folder: Path) -> None:
        self._path = folder / "holes"
        self._read = 0  # bytes
        with self._path.open("wb") as stream:
            stream.truncate(1 << 40)

    def fill(self) -> None:
        """Read on until that takes no more unused memory: the kernel keeps some in reserve, how much is its own affair,
        and to read further would push out the weights just written."""
        page = bytearray(4 * MIB)
        before, now = unused() + self.STEP, unused()
        with self._path.open("rb", buffering=0) as stream:
            stream.seek(self._read)
            while before - now > self.STEP // 2:
                for _ in range(self.STEP // len(page)):
                    self._read += stream.readinto(page)
                before, now = now, unused()


def unused() -> int:
    """Bytes of memory that hold nothing (proc(5), MemFree)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemFree:"))


# ---------------------------------------------------------------------------------------------------------- weights


def write_weights(path: Path, size: int, content: str = "fp16") -> None:
    """*size* bytes of fresh weights under a new inode, flushed to the disk.

    Args:
        content: "fp16": normally distributed half-precision numbers, as trained weights are, which gzip shrinks to
            0.92; "random": bytes that no compressor shrinks, and that gzip gives up on early.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    with temporary.open("wb") as stream:
        for piece in {"fp16": _numbers, "random": _noise}[content](size):
            stream.write(piece)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _numbers(size: int) -> Iterator[bytes | memoryview]:
    import torch

    while size > 0:
        page = torch.empty(8 * MIB, dtype=torch.float16).normal_(0, 0.02)
        yield memoryview(page.numpy()).cast("B")[:size]
        size -= page.nbytes


def _noise(size: int) -> Iterator[bytes | memoryview]:
    """96 random pages of 1 MiB, combined in pairs: several times faster than as many bytes from the kernel."""
    pages = [int.from_bytes(os.urandom(MIB), "little") for _ in range(min(96, size // MIB + 2))]
    pairs = list(itertools.combinations(pages, 2))
    random.shuffle(pairs)
    for one, other in itertools.cycle(pairs):
        yield (one ^ other).to_bytes(MIB, "little")[:size]
        size -= MIB
        if size <= 0:
            return


# ----------------------------------------------------------------------------------------------------------- engine


class Engine:
    """The Docker and the registry of the environment, and how they are emptied."""

    def __init__(self) -> None:
        try:
            self.registry, self.base = os.environ["LAYERKIT_TEST_REGISTRY"], os.environ["LAYERKIT_TEST_BASE"]
        except KeyError:
            raise BenchError('no engine: run `make bench`, or tools/engine up and eval "$(tools/engine env)"') from None
        status = run([ENGINE_TOOL, "status"]).output
        rows = dict(line.split(None, 1) for line in status.splitlines() if len(line.split(None, 1)) == 2)
        self.private = rows.get("docker", "").startswith("private")
        self.registry_version = rows.get("registry", "?").split()[-1]
        self.image_store = "containerd" if "containerd" in status.partition("image store")[2][:80] else "classic"

    def docker(self, *arguments: str, host: str = "") -> str:
        """Run docker and give its output."""
        return run(["docker", *(("--host", host) if host else ()), *arguments], timeout=900).output.strip()

    def empty_registry(self) -> None:
        run([ENGINE_TOOL, "reset-registry"], timeout=300)

    def empty_builder(self) -> None:
        """Nothing of ours in the builder's cache and in the image store. Of a Docker that is the person's own, the
        images of others stay."""
        self.drop_images()
        self.docker("buildx", "prune", "-af")

    def drop_images(self, host: str = "") -> None:
        ours = self.docker("images", "--format", "{{.Repository}}:{{.Tag}}", host=host).split()
        ours = [name for name in ours if name.startswith(f"{self.registry}/bench") and "<none>" not in name]
        if ours:
            self.docker("rmi", "-f", *ours, host=host)
        if self.private:
            self.docker("image", "prune", "-af", host=host)

    def empty(self) -> None:
        self.empty_registry()
        self.empty_builder()

    @contextlib.contextmanager
    def node(self, store: str = "containerd") -> Iterator[str]:
        """A second Docker, without a network for containers: its address. It is ended, unless it ran before."""
        command = [str(ENGINE_TOOL), "node", "env", "--store", store]
        ran = subprocess.run(command, capture_output=True, check=False).returncode == 0
        run([ENGINE_TOOL, "node", "up", "--store", store], timeout=180)
        try:
            yield run(command).output.strip().rpartition("=")[2].strip("'\"")
        finally:
            if not ran:
                run([ENGINE_TOOL, "node", "down", "--store", store], timeout=180)

    @contextlib.contextmanager
    def classic(self) -> Iterator[None]:
        """In the block, a Docker with the classic image store is the one of the environment."""
        before = os.environ.get("DOCKER_HOST")
        with self.node("classic") as host:
            os.environ["DOCKER_HOST"] = host
            try:
                yield
            finally:
                self.drop_images()
                self.docker("buildx", "prune", "-af")
                if before is None:
                    del os.environ["DOCKER_HOST"]
                else:
                    os.environ["DOCKER_HOST"] = before

    @contextlib.contextmanager
    def builder(self) -> Iterator[str]:
        """A builder that is not the Docker it loads into, as docker-container and kubernetes builders are: the name of
        one of the remote driver, in front of the same BuildKit."""
        name = f"bench-{os.getpid()}"
        with tempfile.TemporaryDirectory(prefix="lk-") as folder:  # short: a socket's path has at most 107 bytes
            socket = Path(folder, "b.sock")
            listen = ["socat", f"UNIX-LISTEN:{socket},fork", "EXEC:docker buildx dial-stdio"]
            process = subprocess.Popen(listen, stderr=subprocess.DEVNULL, start_new_session=True)
            try:
                while not socket.exists():
                    if process.poll() is not None:
                        raise BenchError("socat ended")
                    time.sleep(0.02)
                self.docker("buildx", "create", "--name", name, "--driver", "remote", f"unix://{socket}")
                try:
                    yield name
                finally:
                    self.docker("buildx", "rm", name)
            finally:
                _end_group(process.pid)
                process.wait()


# ------------------------------------------------------------------------------------------------------------ facts


def machine() -> dict[str, Any]:
    """Cores, memory (bytes), kernel, processor."""
    information = Path("/proc/cpuinfo").read_text()
    model = next((line.partition(":")[2].strip() for line in information.splitlines() if "model name" in line), "?")
    return {
        "cores": os.cpu_count(),
        "memory": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "processor": model,
        "architecture": platform.machine(),
    }


def versions(engine: Engine) -> dict[str, str]:
    """Of all that takes part; "" for what is not installed."""

    def first(*command: str) -> str:
        if shutil.which(command[0]) is None:
            return ""
        try:
            lines = run(command, timeout=60).output.strip().splitlines()
        except BenchError:
            return "?"
        return lines[0].strip() if lines else "?"

    def package(name: str) -> str:
        # Distribution packages of crane do not know their own version.
        return first("dpkg-query", "-W", "-f", "${Version}", name) if shutil.which(name) else ""

    git = ("git", "-C", str(ROOT))
    changed = first(*git, "status", "--porcelain", "src") not in ("", "?")
    return {
        "layerkit": first(*layerkit(), "--version").rpartition(" ")[2],
        "layerkit commit": first(*git, "rev-parse", "--short=12", "HEAD") + (" and changes" if changed else ""),
        "docker": first("docker", "version", "--format", "{{.Server.Version}}"),
        "image store": engine.image_store,
        "buildx": " ".join(first("docker", "buildx", "version").split()[1:2]),
        "registry": engine.registry_version,
        "crane": package("crane"),
        "oras": first("oras", "version").removeprefix("Version:").strip(),
        "curl": " ".join(first("curl", "--version").split()[1:2]),
        "python": platform.python_version(),
    }


def layerkit() -> tuple[str, ...]:
    """The command as it is installed beside this Python."""
    script = Path(sys.executable).with_name("layerkit")
    return (str(script),) if script.exists() else (sys.executable, "-m", "layerkit")
