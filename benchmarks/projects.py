"""The project that everybody builds, and the ways of building and sending it that are held against each other."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from harness import BenchError, Done, Engine, layerkit, run, write_weights

WEIGHTS = "model.pth.tar"

_TOML = """\
[image]
name = "{name}"
base = "{base}"
command = ["python3", "serve.py"]

[dependencies]
requirements = "requirements.txt"
wheels = "wheels"

[code]
include = ["serve.py"]

[checkpoint]
path = "{weights}"
"""
_OWN_TOML = """\
[image]
name = "{name}"
dockerfile = "{dockerfile}"

[checkpoint]
path = "{weights}"
"""
# What somebody writes who knows BuildKit well: links, a bound wheel folder, the checkpoint last but one.
_DOCKERFILE = """\
FROM {base} AS dependencies
WORKDIR /app
RUN --network=none --mount=type=bind,source=wheels,target=/tmp/wheels \\
    --mount=type=bind,source=requirements.txt,target=/tmp/requirements.txt \\
    PIP_BREAK_SYSTEM_PACKAGES=1 pip install --no-cache-dir --no-index --find-links=/tmp/wheels -r /tmp/requirements.txt
FROM dependencies
{copies}
CMD ["python3", "serve.py"]
"""
_WEIGHTS = f"COPY --link {WEIGHTS} /app/model/"
_NAMED_WEIGHTS = "COPY --link --chown=0:0 --from=checkpoint . /app/model/"
_CODE = "COPY --link serve.py /app/"


def _wheel(folder: Path, name: str) -> None:
    """A wheel of one module."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-1.0.dist-info"
    files = {
        f"{name}.py": "VERSION = '1.0'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: bench\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in files) + f"{info}/RECORD,,\n"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        for path, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(zipfile.ZipInfo(path), text)


@dataclass
class Project:
    """A folder with code, a dependency and weights; ``size`` of the weights in bytes, ``content`` of what kind."""

    folder: Path
    engine: Engine
    repository: str
    size: int
    content: str = "fp16"
    state: Path = field(init=False)
    _edits: int = 0

    def __post_init__(self) -> None:
        self.state = self.folder.with_name(self.folder.name + "-state")
        _wheel(self.folder / "wheels", "dependency")
        names = {"name": self.repository, "base": self.engine.base, "weights": WEIGHTS}
        self._write("layerkit.toml", _TOML.format(**names))
        self._write("requirements.txt", "dependency==1.0\n")
        self._write("Dockerfile", _DOCKERFILE.format(base=self.engine.base, copies=f"{_WEIGHTS}\n{_CODE}"))
        self._write(".dockerignore", "*.toml\nDockerfile*\n")
        orders = {"under": (_NAMED_WEIGHTS, _CODE), "above": (_CODE, _NAMED_WEIGHTS)}
        for place, lines in orders.items():
            text = _DOCKERFILE.format(base=self.engine.base, copies="\n".join(lines))
            stage = "FROM scratch AS checkpoint\n"
            self._write(f"Dockerfile.{place}", stage + text)
            self._write(f"{place}.toml", _OWN_TOML.format(**names, dockerfile=f"Dockerfile.{place}"))
        self.edit_code()

    def _write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    def new_weights(self, size: int = 0) -> None:
        """Fresh weights of *size* bytes, of the project's own where none is given."""
        write_weights(self.weights, size or self.size, self.content)

    def edit_code(self) -> None:
        self._edits += 1
        self._write("serve.py", f"import dependency\nprint(dependency.VERSION, {self._edits}, {time.time()})\n")

    def forget(self) -> None:
        """As on a machine that has never seen the project."""
        shutil.rmtree(self.state, ignore_errors=True)

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        """In the block, as on another machine, which has never seen the project."""
        here, self.state = self.state, self.state.with_name(self.state.name + "-elsewhere")
        try:
            yield
        finally:
            self.forget()
            self.state = here

    def forget_all_but_digests(self) -> None:
        """Of what layerkit remembers, only the digests of files stay (the stat cache)."""
        with contextlib.closing(sqlite3.connect(self.state / "state.sqlite")) as connection:
            connection.execute("DELETE FROM records")
            connection.commit()

    def layerkit(self, *arguments: str, memory: bool = False) -> tuple[Done, dict[str, Any]]:
        """``layerkit build --json``: how it ran, and its object."""
        command = (*layerkit(), "build", "--json", *arguments)
        done = run(command, cwd=self.folder, environment={"LAYERKIT_STATE_DIR": str(self.state)}, memory=memory)
        document: dict[str, Any] = json.loads(done.output)
        return done, document


def said(document: dict[str, Any]) -> dict[str, Any]:
    """Of ``layerkit build --json``, what a benchmark keeps."""
    return {name: document[name] for name in ("way", "rebuilt", "builder", "bytes", "seconds")}


class Contestant:
    """One way to get new weights to the registry. What ``prepare`` does is not timed."""

    name: ClassVar[str]

    def __init__(self, project: Project) -> None:
        self.project = project

    @classmethod
    def installed(cls) -> bool:
        return True

    def warm(self) -> None:
        """Bring everything but the new weights there."""

    def prepare(self) -> None:
        """After the new weights are written, before the clock starts."""

    def swap(self) -> tuple[Done, dict[str, Any]]:
        """The timed part: (how it ran, what it says of itself)."""
        raise NotImplementedError

    def clean(self) -> None:
        """After the clock has stopped."""

    def _name(self, part: str) -> str:
        return f"{self.project.repository}-{part}"


class Layerkit(Contestant):
    """``layerkit build --push``, the whole command."""

    name = "layerkit build --push"
    where: ClassVar[tuple[str, ...]] = ("--push",)

    def warm(self) -> None:
        self.project.layerkit(*self.where, "-t", "swap")

    def swap(self) -> tuple[Done, dict[str, Any]]:
        done, document = self.project.layerkit(*self.where, "-t", "swap", memory=True)
        if document["way"] != "compose" or document["rebuilt"] != ["checkpoint"] or document["builder"]["ran"]:
            raise BenchError(f"not a swap of weights: {said(document)}")
        return done, said(document)


class LayerkitLoad(Layerkit):
    """``layerkit build --load``: into the local Docker."""

    name = "layerkit build --load"
    where = ("--load",)


class LayerkitLoadOwn(LayerkitLoad):
    """The same with a Dockerfile of one's own, of which no step needs a network."""

    where = ("--load", "-f", "under.toml")


class Buildx(Contestant):
    """``docker buildx build --push`` as it comes, with a registry cache."""

    name = "docker buildx build --push"
    output: ClassVar[str] = "type=image,push=true"
    cache: ClassVar[str] = ",mode=max,image-manifest=true,oci-mediatypes=true,ignore-error=true"
    part: ClassVar[str] = "buildx"

    def warm(self) -> None:
        self._build()

    def swap(self) -> tuple[Done, dict[str, Any]]:
        return self._build(), {}

    def _build(self) -> Done:
        name = self._name(self.part)
        cache = f"type=registry,ref={name}:buildcache"
        command = ["docker", "buildx", "build", "--progress=plain", "-t", f"{name}:swap", "--output", self.output]
        command += ["--cache-from", cache, "--cache-to", cache + self.cache, "."]
        # Attestations are something that layerkit does not make either.
        return run(command, cwd=self.project.folder, environment={"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"})


class BuildxUncompressed(Buildx):
    """The same without compression, and without unpacking what only goes to the registry."""

    name = "docker buildx build --push, uncompressed"
    output = "type=image,push=true,compression=uncompressed,oci-mediatypes=true,unpack=false"
    cache = Buildx.cache + ",compression=uncompressed"
    part = "buildx-uncompressed"


class BuildxLoad(Buildx):
    """``docker buildx build --load`` by the BuildKit inside Docker, which has the image where it is wanted: ``--load``
    is what it does anyway."""

    name = "docker buildx build --load, Docker's own BuildKit"
    part = "load"

    def _build(self) -> Done:
        return self._load()

    def _load(self, *options: str) -> Done:
        tag = f"{self._name(self.part)}:swap"
        command = ["docker", "buildx", "build", "--progress=plain", "--load", *options, "-t", tag, "."]
        return run(command, cwd=self.project.folder, environment={"BUILDX_NO_DEFAULT_ATTESTATIONS": "1"})


class BuildxLoadElsewhere(BuildxLoad):
    """The same by a builder beside Docker, as continuous integration has it: an archive is sent to ``docker load``."""

    name = "docker buildx build --load, a builder beside Docker"
    part = "load-elsewhere"

    @classmethod
    def installed(cls) -> bool:
        return shutil.which("socat") is not None

    def _build(self) -> Done:
        with self.project.engine.builder() as name:
            return self._load("--builder", name)


class DockerLoad(Contestant):
    """The limit of ``--load``: ``docker load`` of an archive with one layer and nothing else, made before."""

    name = "docker load (the limit)"

    @property
    def _archive(self) -> Path:
        return self.project.folder.with_name("archive.tar")

    def prepare(self) -> None:
        layer = self.project.folder.with_name("layer.tar")
        with tarfile.open(layer, "w") as tar:
            tar.add(self.project.weights, f"app/model/{WEIGHTS}")
        with layer.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        config = {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
        image = {"Config": "config.json", "RepoTags": [f"{self._name('limit')}:swap"], "Layers": ["layer.tar"]}
        with tarfile.open(self._archive, "w") as tar:
            tar.add(layer, "layer.tar")
            for name, value in (("config.json", config), ("manifest.json", [image])):
                raw = json.dumps(value).encode()
                member = tarfile.TarInfo(name)
                member.size = len(raw)
                tar.addfile(member, io.BytesIO(raw))
        layer.unlink()
        with self._archive.open("rb") as stream:
            os.fsync(stream.fileno())

    def swap(self) -> tuple[Done, dict[str, Any]]:
        return run(["docker", "load", "--quiet", "--input", self._archive]), {}

    def clean(self) -> None:
        self._archive.unlink(missing_ok=True)


class Crane(Contestant):
    """``crane append`` of a tar that is ready: making it is not counted, which flatters crane."""

    name = "crane append (tar made before)"

    @classmethod
    def installed(cls) -> bool:
        return shutil.which("crane") is not None

    @property
    def _tar(self) -> Path:
        return self.project.folder.with_name("layer.tar")

    def prepare(self) -> None:
        with tarfile.open(self._tar, "w") as tar:
            tar.add(self.project.weights, f"app/model/{WEIGHTS}")
        with self._tar.open("rb") as stream:
            os.fsync(stream.fileno())

    def swap(self) -> tuple[Done, dict[str, Any]]:
        name = self._name("crane")
        return run(["crane", "append", "-b", self.project.engine.base, "-f", self._tar, "-t", f"{name}:swap"]), {}

    def clean(self) -> None:
        self._tar.unlink(missing_ok=True)


class Oras(Contestant):
    """``oras push`` of the file as an artifact."""

    name = "oras push"

    @classmethod
    def installed(cls) -> bool:
        return shutil.which("oras") is not None

    def swap(self) -> tuple[Done, dict[str, Any]]:
        command = ["oras", "push", "--plain-http", "--no-tty", f"{self._name('oras')}:swap", WEIGHTS]
        return run(command, cwd=self.project.folder), {}


class Curl(Contestant):
    """The limit: the same bytes sent once, one POST and one PUT. The digest is made before."""

    name = "curl (the limit)"
    _digest = ""

    @classmethod
    def installed(cls) -> bool:
        return shutil.which("curl") is not None

    def prepare(self) -> None:
        with self.project.weights.open("rb") as stream:
            self._digest = hashlib.file_digest(stream, "sha256").hexdigest()

    def swap(self) -> tuple[Done, dict[str, Any]]:
        path = self._name("curl").partition("/")[2]
        quiet: Sequence[str] = ("curl", "--fail", "--silent", "--show-error", "--output", os.devnull)
        start = f"http://{self.project.engine.registry}/v2/{path}/blobs/uploads/"
        begun = time.perf_counter()
        opened = run([*quiet, "-X", "POST", "--write-out", "%header{location}", start])
        url = f"{opened.output}{'&' if '?' in opened.output else '?'}digest=sha256:{self._digest}"
        headers = ("-H", "Content-Type: application/octet-stream", "-H", "Expect:")
        sent = run([*quiet, "-X", "PUT", *headers, "-T", self.project.weights, "--write-out", "%{http_code}", url])
        seconds = time.perf_counter() - begun
        if sent.output != "201":
            raise BenchError(f"curl: the registry answered {sent.output}")
        return Done("", seconds, opened.user + sent.user, opened.system + sent.system), {}


SWAP: tuple[type[Contestant], ...] = (Layerkit, Buildx, BuildxUncompressed, Crane, Oras, Curl)
LOAD: tuple[type[Contestant], ...] = (LayerkitLoad, BuildxLoad, BuildxLoadElsewhere, DockerLoad)
CLASSIC: tuple[type[Contestant], ...] = (LayerkitLoadOwn, BuildxLoad, DockerLoad)
