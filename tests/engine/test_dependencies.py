"""Dependencies as people have them: hashes, uv, wheel folders, apt, secrets."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
import uuid
from pathlib import Path

import pytest

from layerkit.oci import Reference
from layerkit.registry import Client, Credentials

from .conftest import Workspace


def _wheel_hash(workspace: Workspace, name: str, version: str) -> str:
    path = workspace.root / "wheels" / f"{name}-{version}-py3-none-any.whl"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_hashes(workspace: Workspace) -> None:
    """Requirements with hashes are installed with their hashes checked; a wrong one fails the build with 4."""
    lines = [f"{name}==1.0 --hash=sha256:{_wheel_hash(workspace, name, '1.0')}\n" for name in ("heavy", "light")]
    (workspace.root / "requirements.txt").write_text("".join(lines))
    workspace.build()
    assert workspace.python("exec(open('/app/serve.py').read())") == "one 1.0 1.0"
    (workspace.root / "requirements.txt").write_text("".join(lines).replace("sha256:", "sha256:0000", 1).replace(
        _wheel_hash(workspace, "heavy", "1.0"), _wheel_hash(workspace, "heavy", "1.0")[4:], 1))  # fmt: skip
    done = workspace.run("build", "--push", "-t", "v1", check=False)
    assert done.returncode == 4 and "hash" in done.stderr.lower()


def _files(workspace: Workspace, skip: int) -> set[str]:
    """Every path in every layer of the image but the first *skip*."""
    client = Client(credentials=Credentials(Path(), {}))
    names: set[str] = set()
    try:
        repository = client.repository(Reference.parse(workspace.repository))
        for layer in workspace.image().manifest.layers[skip:]:
            with repository.open_blob(layer) as chunks:
                raw = b"".join(bytes(chunk) for chunk in chunks)
            raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
            with tarfile.open(fileobj=io.BytesIO(raw)) as tar:
                names |= set(tar.getnames())
    finally:
        client.close()
    return names


@pytest.mark.parametrize("installer", ["pip", "uv"])
def test_no_installer_leftovers(workspace: Workspace, installer: str, ca_secret: tuple[str, ...]) -> None:
    """Neither pip's nor uv's cache, nor uv itself, nor the wheels are in the image."""
    if installer == "uv":
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--dest", str(workspace.root / "wheels")]
        subprocess.run([*command, "uv"], check=True, capture_output=True)
    workspace.build("--set", f"dependencies.installer={installer}")
    assert workspace.python("exec(open('/app/serve.py').read())") == "one 1.0 1.0"
    added = _files(workspace, skip=len(workspace.digests("base")))
    assert not [name for name in added if name.endswith((".whl", "bin/uv")) or "/.cache/" in name]


@pytest.fixture
def ca_secret() -> tuple[str, ...]:
    """The machine's CA bundle as a secret of the install steps: networks with a proxy of their own need it."""
    import ssl

    bundle = ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
    return ("--set", f'dependencies.secrets={{ ca = {{ file = "{bundle}" }} }}')


def _packages(folder: Path, *names: str) -> None:
    """A Debian archive of packages that hold one program each, ``/usr/bin/<name>``: installing needs no network."""
    index = []
    for name in names:
        tree = folder / name
        (tree / "DEBIAN").mkdir(parents=True)
        (tree / "usr" / "bin").mkdir(parents=True)
        (tree / "usr" / "bin" / name).write_text("#!/bin/sh\n")
        (tree / "usr" / "bin" / name).chmod(0o755)
        control = f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: t <t@t.invalid>\nDescription: a test\n"
        (tree / "DEBIAN" / "control").write_text(control)
        made = folder / f"{name}.deb"
        subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, made], check=True, capture_output=True)
        shutil.rmtree(tree)
        content = made.read_bytes()
        sha256 = hashlib.sha256(content).hexdigest()
        index.append(f"{control}Filename: ./{name}.deb\nSize: {len(content)}\nSHA256: {sha256}\n")
    (folder / "Packages").write_text("\n".join(index))


_BACKEND = """\
import os, shutil, zipfile

def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    assert shutil.which("build-time"), "no build-time"
    name = "native-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w") as wheel:
        wheel.writestr("native.py", "made = True\\n")
        wheel.writestr("native-1.0.dist-info/METADATA", "Metadata-Version: 2.1\\nName: native\\nVersion: 1.0\\n")
        wheel.writestr("native-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any\\n")
        wheel.writestr("native-1.0.dist-info/RECORD", "")
    return name
"""


def _source_distribution(folder: Path) -> None:
    """native-1.0.tar.gz with a back end of its own, which makes a wheel only where the program ``build-time`` is."""
    files = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: native\nVersion: 1.0\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n',
        "backend.py": _BACKEND,
    }
    with tarfile.open(folder / "native-1.0.tar.gz", "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(f"native-1.0/{name}")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))


def test_apt_and_build_apt(workspace: Workspace, tmp_path: Path) -> None:
    """apt packages are in the image; with a build-apt package a wheel was made from source, and it is not in it."""
    base = f"{workspace.repository}-debian:v1"
    _packages(tmp_path / "apt", "run-time", "build-time")
    (tmp_path / "Dockerfile").write_text(
        f"FROM {workspace.engine.base}\nCOPY apt /srv/apt\n"
        "RUN rm -rf /etc/apt/sources.list*; echo 'deb [trusted=yes] file:/srv/apt ./' > /etc/apt/sources.list\n"
    )
    workspace.engine.docker("buildx", "build", "-q", "--provenance=false", "--push", "-t", base, str(tmp_path))
    _source_distribution(workspace.root / "wheels")
    with (workspace.root / "requirements.txt").open("a") as requirements:
        requirements.write("native==1.0\n")
    packages = ("--set", 'dependencies.apt=["run-time"]', "--set", 'dependencies.build-apt=["build-time"]')
    workspace.build("--set", f"image.base={base}", *packages)
    code = "import native,shutil;print(native.made, bool(shutil.which('run-time')), bool(shutil.which('build-time')))"
    assert workspace.python(code) == "True True False"
    assert workspace.python("exec(open('/app/serve.py').read())") == "one 1.0 1.0"


def test_base_of_another_user(workspace: Workspace, tmp_path: Path) -> None:
    """On a base whose user is not root, packages are installed by root, and the image runs as the base's user."""
    base = f"{workspace.repository}-base:v1"
    (tmp_path / "Dockerfile").write_text(f"FROM {workspace.engine.base}\nUSER 1234:0\n")
    workspace.engine.docker("buildx", "build", "-q", "--provenance=false", "--push", "-t", base, str(tmp_path))
    workspace.build("--set", f"image.base={base}")
    code = "import os;print(os.getuid());exec(open('/app/serve.py').read())"
    assert workspace.python(code).split("\n") == ["1234", "one 1.0 1.0"]
    printed = workspace.run("dockerfile", "--set", f"image.base={base}").stdout
    assert "\nUSER root\n" in printed and "\nUSER 1234:0\n" in printed


def test_secrets_are_nowhere(workspace: Workspace, tmp_path: Path) -> None:
    """A private index in pip.conf is used by the install step, and is in no layer, history, label or provenance."""
    canary = f"canary-{uuid.uuid4().hex}"
    conf = tmp_path / "pip.conf"
    conf.write_text(f"[global]\nindex-url = http://user:{canary}@127.0.0.1:9/simple\n")
    settings = (
        "--set",
        f'dependencies.secrets={{ "pip.conf" = {{ file = "{conf}" }}, INDEX_TOKEN = {{ env = "CANARY" }} }}',
        "--set",
        'builder.attest=["type=provenance,mode=max"]',
    )
    done = workspace.run("build", "--push", "-t", "v1", "--progress", "plain", *settings, CANARY=canary + "-env")
    assert canary not in done.stdout + done.stderr
    # The builder's own record of the build, its log, and Docker's history of the image.
    record = workspace.engine.docker("buildx", "history", "inspect", "--format", "json")
    log = workspace.engine.docker("buildx", "history", "logs", "--progress", "plain")
    workspace.engine.docker("pull", "-q", f"{workspace.repository}:v1")
    history = workspace.engine.docker("history", "--no-trunc", f"{workspace.repository}:v1")
    assert canary not in record + log + history and "pip install" in history
    client = Client(credentials=Credentials(Path(), {}))
    try:
        repository = client.repository(Reference.parse(workspace.repository))
        seen = 0
        for tag in repository.tags():
            top = repository.manifest(tag)
            assert top is not None
            manifests = [top, *(repository.manifest(d.digest) for d in getattr(top, "manifests", ()))]
            for manifest in manifests:
                assert manifest is not None and canary.encode() not in manifest.raw
                if not hasattr(manifest, "layers"):
                    continue
                for descriptor in (manifest.config, *manifest.layers):
                    with repository.open_blob(descriptor) as chunks:
                        raw = b"".join(bytes(chunk) for chunk in chunks)
                    raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
                    assert canary.encode() not in raw
                    seen += 1
        assert seen > 5
    finally:
        client.close()
    for path in workspace.state.rglob("*"):
        assert not path.is_file() or canary.encode() not in path.read_bytes()


def test_dockerignore_is_honoured(workspace: Workspace) -> None:
    """What .dockerignore leaves out is not sent and not in the image, and changes nothing when it changes."""
    (workspace.root / ".dockerignore").write_text("lib/secret.txt\n")
    (workspace.root / "lib" / "secret.txt").write_text("one")
    workspace.build()
    (workspace.root / "lib" / "secret.txt").write_text("two")
    assert workspace.build()["rebuilt"] == []
    assert workspace.python("import os;print(sorted(os.listdir('/app/lib')))") == "['__init__.py']"
