"""Dependencies as people have them: hashes, uv, wheel folders, apt, secrets."""

from __future__ import annotations

import gzip
import hashlib
import io
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


def test_apt_and_build_apt(workspace: Workspace, ca_secret: tuple[str, ...]) -> None:
    """apt packages are in the image; build-apt packages built a wheel from source, and are not."""
    source = workspace.root / "native.py"
    source.unlink(missing_ok=True)
    workspace.build("--set", 'dependencies.apt=["hostname"]', "--set", 'dependencies.build-apt=["make"]', *ca_secret)
    code = "import shutil;print(bool(shutil.which('hostname')), bool(shutil.which('make')))"
    assert workspace.python(code) == "True False"
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
